//! Who may be written to, case by case, and for histories made up at random.

use super::*;
use crate::balance::tests::{start, Numbers};

const SECOND: Duration = Duration::from_secs(1);
const AGE: Duration = Duration::from_secs(5);

fn epoch(timeline: u32) -> Epoch {
    Epoch {
        system: 77,
        timeline,
    }
}

fn primary(at: Instant, timeline: u32, lsn: u64) -> Observation {
    Observation {
        at,
        standing: Standing::Primary {
            epoch: epoch(timeline),
            lsn: Lsn(lsn),
        },
    }
}

fn standby(at: Instant, lsn: u64) -> Observation {
    Observation {
        at,
        standing: Standing::Standby {
            system: 77,
            lsn: Lsn(lsn),
            timeline: 1,
            age: None,
        },
    }
}

fn elected(servers: usize) -> Roles {
    Roles::new(vec![Role::Auto; servers], Some(AGE))
}

#[test]
fn a_connection_is_superseded_when_that_is_known_and_not_when_nothing_is() {
    let now = start();
    let mut roles = settled(now);
    let of = |timeline| Some(epoch(timeline));
    assert!(!roles.is_superseded(0, of(1), now));
    assert!(
        roles.is_superseded(0, of(0), now),
        "opened in another reign"
    );
    assert!(roles.is_superseded(1, of(1), now), "a standby");
    let late = now + AGE * 2;
    assert_eq!(roles.writable(late), Writable::Nobody);
    assert!(!roles.is_superseded(0, of(1), late), "no evidence");
    roles.observe(1, primary(late, 2, 200));
    assert!(roles.is_superseded(0, of(1), late), "promoted elsewhere");
    assert!(!roles.is_superseded(1, of(2), late));
    roles.observe(1, standby(late + AGE, 300));
    assert!(roles.is_superseded(1, of(2), late + AGE), "stepped down");
}

/// Three servers, the first of which is the primary on timeline 1, as seen at `now`.
fn settled(now: Instant) -> Roles {
    let mut roles = elected(3);
    assert_eq!(roles.writable(now), Writable::Nobody, "nothing is known");
    let news = roles.observe(0, primary(now, 1, 100));
    assert_eq!(
        news,
        Some(News::Crowned {
            server: 0,
            epoch: epoch(1)
        })
    );
    roles.observe(1, standby(now, 100));
    roles.observe(2, standby(now, 100));
    assert_eq!(roles.writable(now), Writable::Server(0, Some(epoch(1))));
    roles
}

#[test]
fn evidence_ends_with_the_check_interval() {
    let now = start();
    let mut roles = settled(now);
    assert_eq!(
        roles.writable(now + AGE),
        Writable::Server(0, Some(epoch(1)))
    );
    let late = now + AGE + SECOND / 1000;
    assert_eq!(roles.writable(late), Writable::Nobody);
    assert_eq!(roles.epoch_of(0, late), None);
    assert_eq!(
        roles.observe(0, primary(late, 1, 100)),
        None,
        "the same as before is no news"
    );
    assert_eq!(roles.writable(late), Writable::Server(0, Some(epoch(1))));
}

#[test]
fn a_primary_that_is_not_reached_is_not_written_to() {
    let now = start();
    let mut roles = settled(now);
    roles.unreached(0, now);
    assert_eq!(
        roles.writable(now),
        Writable::Server(0, Some(epoch(1))),
        "older than what is known"
    );
    roles.unreached(0, now + SECOND);
    assert_eq!(roles.writable(now + SECOND), Writable::Nobody);
    roles.observe(0, primary(now + SECOND, 1, 100));
    assert_eq!(
        roles.writable(now + SECOND),
        Writable::Nobody,
        "asked in the same moment: no news"
    );
    roles.observe(0, primary(now + SECOND * 2, 1, 100));
    assert_eq!(
        roles.writable(now + SECOND * 2),
        Writable::Server(0, Some(epoch(1)))
    );
}

#[test]
fn before_all_are_heard_one_waits_a_moment() {
    let now = start();
    let mut roles = elected(3);
    roles.observe(0, primary(now, 1, 100));
    roles.unreached(1, now);
    assert_eq!(roles.writable(now), Writable::Nobody);
    assert_eq!(
        roles.writable(now + HEARING),
        Writable::Server(0, Some(epoch(1)))
    );
    // The third one knows better.
    let news = roles.observe(2, primary(now, 2, 90));
    assert_eq!(
        news,
        Some(News::Crowned {
            server: 2,
            epoch: epoch(2)
        })
    );
    assert_eq!(roles.writable(now), Writable::Server(2, Some(epoch(2))));
    assert_eq!(roles.part(0), Part::Apart);
}

#[test]
fn a_switchover_and_back() {
    let now = start();
    let mut roles = settled(now);
    let at = |second: u32| now + SECOND * second;
    assert_eq!(
        roles.observe(0, standby(at(1), 200)),
        Some(News::Stepped { server: 0 })
    );
    assert_eq!(roles.writable(at(1)), Writable::Nobody);
    assert_eq!(roles.observe(0, standby(at(2), 200)), None);
    let news = roles.observe(1, primary(at(2), 2, 201));
    assert_eq!(
        news,
        Some(News::Crowned {
            server: 1,
            epoch: epoch(2)
        })
    );
    assert_eq!(roles.writable(at(2)), Writable::Server(1, Some(epoch(2))));
    assert_eq!(
        (roles.part(0), roles.part(1)),
        (Part::Replica, Part::Primary)
    );
    roles.observe(1, standby(at(3), 300));
    roles.observe(0, primary(at(3), 3, 300));
    assert_eq!(roles.writable(at(3)), Writable::Server(0, Some(epoch(3))));
    assert_ne!(
        epoch(3),
        epoch(1),
        "connections of its first reign are not those of its second"
    );
}

#[test]
fn of_two_primaries_the_newer_timeline_wins_and_it_is_said() {
    let now = start();
    let mut roles = settled(now);
    // The old primary is alive, and cut off from its replicas only.
    roles.observe(1, primary(now + SECOND, 2, 50));
    assert_eq!(
        roles.writable(now + SECOND),
        Writable::Server(1, Some(epoch(2)))
    );
    let again = primary(now + SECOND * 2, 1, 999);
    assert_eq!(roles.observe(0, again), None, "told once, when it began");
    assert_eq!(
        roles.writable(now + SECOND * 2),
        Writable::Server(1, Some(epoch(2)))
    );
    assert_eq!(roles.part(0), Part::Apart);
    // The new one dies. The old one lacks what was written there.
    roles.unreached(1, now + SECOND * 3);
    roles.observe(0, primary(now + SECOND * 3, 1, 1_000));
    assert_eq!(roles.writable(now + SECOND * 3), Writable::Nobody);
    // It went away, and comes back the same.
    roles.unreached(0, now + SECOND * 4);
    roles.observe(0, standby(now + SECOND * 5, 1_000));
    let news = roles.observe(0, primary(now + SECOND * 6, 1, 1_000));
    assert_eq!(news, Some(News::Outdated { server: 0 }));
}

#[test]
fn on_one_timeline_there_is_one_primary_at_a_time() {
    let now = start();
    let mut roles = settled(now);
    let news = roles.observe(1, primary(now + SECOND, 1, 500));
    assert_eq!(
        news,
        Some(News::Rival {
            server: 0,
            other: 1
        })
    );
    assert_eq!(
        roles.writable(now + SECOND),
        Writable::Server(0, Some(epoch(1)))
    );
    // The first one is gone: a disk that moved, or storage that is shared. What it had written has to be there.
    roles.unreached(0, now + SECOND * 2);
    roles.observe(2, primary(now + SECOND * 2, 1, 99));
    assert_eq!(roles.writable(now + SECOND * 2), Writable::Nobody);
    roles.observe(1, primary(now + SECOND * 2, 1, 500));
    assert_eq!(
        roles.writable(now + SECOND * 2),
        Writable::Server(1, Some(epoch(1)))
    );
}

#[test]
fn other_data_takes_over_only_when_ours_is_gone() {
    let now = start();
    let mut roles = settled(now);
    let stranger = |at| Observation {
        at,
        standing: Standing::Primary {
            epoch: Epoch {
                system: 5,
                timeline: 9,
            },
            lsn: Lsn(1),
        },
    };
    let news = roles.observe(1, stranger(now + SECOND));
    assert_eq!(
        news,
        Some(News::Rival {
            server: 0,
            other: 1
        })
    );
    assert!(matches!(
        roles.writable(now + SECOND),
        Writable::Server(0, _)
    ));
    assert_eq!(roles.part(1), Part::Apart);
    let later = now + AGE * 2;
    let news = roles.observe(1, stranger(later));
    assert!(matches!(news, Some(News::Crowned { server: 1, .. })));
    assert!(matches!(roles.writable(later), Writable::Server(1, _)));
}

#[test]
fn configured_roles_are_believed_but_not_against_evidence() {
    let now = start();
    let fixed = [Role::Replica, Role::Primary];
    let unchecked = Roles::new(fixed, None);
    assert_eq!(unchecked.writable(now), Writable::Server(1, None));
    let mut roles = Roles::new(fixed, Some(AGE));
    assert_eq!(roles.writable(now), Writable::Server(1, None));
    roles.observe(1, primary(now, 1, 10));
    let later = now + AGE * 9;
    assert_eq!(
        roles.writable(later),
        Writable::Server(1, Some(epoch(1))),
        "whatever its age"
    );
    assert_eq!(
        roles.epoch_of(1, later),
        Some(epoch(1)),
        "so that new connections serve"
    );
    roles.observe(1, standby(later, 10));
    assert_eq!(roles.writable(later), Writable::Nobody, "it would refuse");
    roles.observe(1, primary(later + SECOND, 1, 10));
    assert!(matches!(
        roles.writable(later + SECOND),
        Writable::Server(1, _)
    ));
    // The replica was promoted; ours is an ex-primary that does not know.
    let news = roles.observe(0, primary(later + SECOND, 2, 10));
    assert_eq!(news, Some(News::Fenced { by: 0 }));
    assert_eq!(roles.writable(later + SECOND), Writable::Nobody);
    assert_eq!(roles.part(1), Part::Apart);
    roles.observe(0, standby(later + SECOND * 2, 10));
    assert!(matches!(
        roles.writable(later + SECOND * 2),
        Writable::Server(1, _)
    ));
    // In the other order: it comes back when the replica was promoted long ago.
    let mut roles = Roles::new(fixed, Some(AGE));
    roles.observe(0, primary(now, 2, 10));
    roles.observe(1, primary(now, 1, 10));
    assert_eq!(roles.writable(now), Writable::Nobody);
    // A logical replica is a primary with data of its own.
    let mut roles = Roles::new(fixed, Some(AGE));
    roles.observe(1, primary(now, 1, 10));
    let standing = Standing::Primary {
        epoch: Epoch {
            system: 1,
            timeline: 8,
        },
        lsn: Lsn(9),
    };
    assert_eq!(roles.observe(0, Observation { at: now, standing }), None);
    assert!(matches!(roles.writable(now), Writable::Server(1, _)));
    let mut replicas = Roles::new([Role::Replica], Some(AGE));
    replicas.observe(0, primary(now, 1, 1));
    assert_eq!(replicas.writable(now), Writable::Never);
}

/// A made-up history: servers are promoted, demoted, cut off; they are asked now and then, and what they say is heard
/// late and in another order on each core.
struct World {
    numbers: Numbers,
    now: Instant,
    /// The timeline of each that is a primary, rightful or not.
    primaries: Vec<Option<u32>>,
    timeline: u32,
    /// Observations on their way to each core.
    mail: Vec<Vec<(usize, Option<Observation>, Instant)>>,
    cores: Vec<Roles>,
}

impl World {
    fn new(seed: u64, servers: usize, cores: usize) -> Self {
        let mut primaries = vec![None; servers];
        primaries[0] = Some(1);
        Self {
            numbers: Numbers(seed),
            now: start(),
            primaries,
            timeline: 1,
            mail: vec![Vec::new(); cores],
            cores: vec![elected(servers); cores],
        }
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.numbers.next().is_multiple_of(one_in)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.numbers.next() % count as u64).unwrap()
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(1 + self.numbers.next() % 400);
        let server = self.below(self.primaries.len());
        if self.chance(12) {
            // Promoted, with the old primary demoted, dead or none the wiser.
            self.timeline += 1;
            let knows = self.chance(2);
            let timeline = self.timeline;
            for (other, primary) in self.primaries.iter_mut().enumerate() {
                if other == server {
                    *primary = Some(timeline);
                } else if knows {
                    *primary = None;
                }
            }
        } else if self.chance(12) {
            self.primaries[server] = None;
        }
        let server = self.below(self.primaries.len());
        let lsn = u64::from(self.timeline) * 100;
        let in_vain = self.chance(6);
        let said = match self.primaries[server] {
            _ if in_vain => None,
            Some(timeline) => Some(primary(self.now, timeline, lsn)),
            None => Some(standby(self.now, lsn)),
        };
        for core in 0..self.cores.len() {
            self.mail[core].push((server, said, self.now));
            while !self.mail[core].is_empty() && !self.chance(3) {
                let next = self.below(self.mail[core].len().min(3));
                let (server, said, at) = self.mail[core].remove(next);
                match said {
                    Some(observation) => drop(self.cores[core].observe(server, observation)),
                    None => self.cores[core].unreached(server, at),
                }
            }
        }
    }
}

#[test]
fn in_one_epoch_no_two_servers_are_written_to_and_never_on_old_evidence() {
    let (mut writable, mut changes) = (0, 0);
    for seed in 0..300 {
        let mut world = World::new(seed, 3, 3);
        let mut owner = std::collections::HashMap::new();
        let mut newest = vec![0; world.cores.len()];
        for _ in 0..300 {
            world.step();
            for (core, roles) in world.cores.iter().enumerate() {
                let Writable::Server(server, under) = roles.writable(world.now) else {
                    continue;
                };
                writable += 1;
                let under = under.expect("evidence has an epoch");
                let first = *owner.entry(under).or_insert(server);
                assert_eq!(
                    first, server,
                    "seed {seed}: {under:?} belongs to two servers"
                );
                let last = roles.last(server).expect("evidence");
                assert!(world.now - last.at <= AGE, "seed {seed}: old evidence");
                assert!(!last.in_recovery(), "seed {seed}");
                assert!(
                    under.timeline >= newest[core],
                    "seed {seed}: back to an older timeline"
                );
                changes += usize::from(under.timeline > newest[core]);
                newest[core] = under.timeline;
                assert_eq!(roles.epoch_of(server, world.now), Some(under));
            }
        }
    }
    assert!(writable > 50_000 && changes > 3_000, "{writable} {changes}");
}

/// When everything has been heard and nothing more happens, all cores write to the rightful primary.
#[test]
fn all_cores_come_to_the_same() {
    for seed in 0..200 {
        let mut world = World::new(seed, 4, 3);
        (0..100).for_each(|_| world.step());
        let rightful = world.below(4);
        world.timeline += 1;
        world.primaries[rightful] = Some(world.timeline);
        for core in 0..3 {
            for (server, said, at) in std::mem::take(&mut world.mail[core]) {
                match said {
                    Some(observation) => drop(world.cores[core].observe(server, observation)),
                    None => world.cores[core].unreached(server, at),
                }
            }
            let at = world.now + SECOND;
            for server in [(core + 1) % 4, (core + 3) % 4, (core + 2) % 4, core] {
                let said = match world.primaries[server] {
                    Some(timeline) => primary(at, timeline, 100_000),
                    None => standby(at, 100_000),
                };
                world.cores[core].observe(server, said);
            }
            let expected = Writable::Server(rightful, Some(epoch(world.timeline)));
            assert_eq!(world.cores[core].writable(at), expected, "seed {seed}");
        }
    }
}
