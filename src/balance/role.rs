//! Which server may be written to now: roles are evidence with an age.
//!
//! A server that says "I am not in recovery" was a primary at that moment. It may be written to while that is younger
//! than the check interval, and while nobody on a newer timeline says the same. What a server was crowned with, the
//! **epoch**, is the identity of its data and its timeline, which every promotion counts up; so epochs mean the same
//! on all cores, whatever they heard first. A connection is opened under an epoch and not used for writes in another:
//! its address may lead to another machine by now.
//!
//! ```text
//!            primary, newer timeline         primary, older timeline:  reported, never used again
//!  reign ◄──────────────────────────         primary, same timeline:   takes over if the evidence for the
//!    │                                                                  present one is gone, else reported
//!    └── in recovery, not reached, or too old: nobody may be written to until somebody proves itself
//! ```
//!
//! Servers whose role is configured are believed without evidence, but not against it.

use std::time::{Duration, Instant};

use crate::config::choice::Role;

use super::lag::{Lsn, Replayed};

/// After the first evidence, how long to wait for that of the other servers: one of them may know better.
const HEARING: Duration = Duration::from_secs(1);

/// The reign of one primary: the same number never means two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Identity of the data, `system_identifier`.
    pub system: u64,
    /// Counted up by every promotion.
    pub timeline: u32,
}

/// What a server said when it was asked for its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it was asked.
    pub at: Instant,
    /// What it said.
    pub standing: Standing,
}

/// Primary or standby, and where in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not in recovery.
    Primary {
        /// Its data and timeline.
        epoch: Epoch,
        /// Written up to here.
        lsn: Lsn,
    },
    /// In recovery.
    Standby {
        /// Identity of its data.
        system: u64,
        /// Replayed up to here.
        lsn: Lsn,
        /// It follows this timeline, or a later one that has its beginning in common with it; 0 if it does not say.
        timeline: u32,
        /// Age of the last transaction replayed.
        age: Option<Duration>,
    },
}

impl Observation {
    /// Position in the WAL: written by a primary, replayed by a standby.
    pub fn lsn(&self) -> Lsn {
        match self.standing {
            Standing::Primary { lsn, .. } | Standing::Standby { lsn, .. } => lsn,
        }
    }

    /// `pg_is_in_recovery()`.
    pub fn in_recovery(&self) -> bool {
        match self.standing {
            Standing::Primary { .. } => false,
            Standing::Standby { .. } => true,
        }
    }

    /// For measuring lag, if it is a standby.
    pub fn replayed(&self) -> Option<Replayed> {
        match self.standing {
            Standing::Primary { .. } => None,
            Standing::Standby { lsn, age, .. } => Some(Replayed {
                at: self.at,
                lsn,
                age,
            }),
        }
    }
}

/// What changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// This server is the primary from now on.
    Crowned {
        /// Which.
        server: usize,
        /// With what.
        epoch: Epoch,
    },
    /// The primary is in recovery.
    Stepped {
        /// Which.
        server: usize,
    },
    /// Two servers say that they are the primary. `other` is not used.
    Rival {
        /// Whom we write to.
        server: usize,
        /// Whom not.
        other: usize,
    },
    /// A primary on a timeline that others have left: an old one that has not noticed.
    Outdated {
        /// Which.
        server: usize,
    },
    /// A configured replica was promoted: the configured primary is not written to any more.
    Fenced {
        /// The one promoted.
        by: usize,
    },
}

/// Whom writes go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writable {
    /// This server, over connections of this epoch; `None` asks for none.
    Server(usize, Option<Epoch>),
    /// Nobody at the moment.
    Nobody,
    /// No server can ever be the primary.
    Never,
}

/// What a server is for reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
    /// Not known yet.
    Unknown,
    /// It says that it is the primary, but is not ours: its data may differ.
    Apart,
}

#[derive(Clone, Debug)]
struct Member {
    configured: Role,
    /// The newest observation.
    last: Option<Observation>,
    /// When the newest evidence of any kind was looked for: an older one is no news.
    asked: Option<Instant>,
    /// Is `last` still worth something? Not after a check in vain.
    reached: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reign {
    server: usize,
    epoch: Epoch,
    /// Written at least up to here.
    lsn: Lsn,
    since: Instant,
}

/// Roles of the servers of one shard.
#[derive(Clone, Debug)]
pub struct Roles {
    members: Vec<Member>,
    /// The last primary that proved itself, be it gone.
    reign: Option<Reign>,
    /// Evidence older than this is none. `None`: roles are not checked.
    age_max: Option<Duration>,
    /// A configured replica that was promoted.
    fenced_by: Option<usize>,
}

impl Roles {
    /// With `age_max`, the check interval, or without checks.
    pub fn new(configured: impl IntoIterator<Item = Role>, age_max: Option<Duration>) -> Self {
        let members = configured.into_iter().map(|configured| Member {
            configured,
            last: None,
            asked: None,
            reached: false,
        });
        Self {
            members: members.collect(),
            reign: None,
            age_max,
            fenced_by: None,
        }
    }

    /// Takes over what was known of servers that stay; `places`: where each was.
    pub(super) fn inherit(&mut self, known: &Self, places: &[Option<usize>]) {
        for (member, place) in self.members.iter_mut().zip(places) {
            if let Some(before) = place.and_then(|place| known.members.get(place)) {
                *member = Member {
                    configured: member.configured,
                    ..before.clone()
                };
            }
        }
        // A primary that is not among the servers any more takes its timeline with it.
        self.reign = known.reign.and_then(|reign| {
            let server = places
                .iter()
                .position(|place| *place == Some(reign.server))?;
            Some(Reign { server, ..reign })
        });
        self.fence();
    }

    /// Whom writes go to at `now`.
    pub fn writable(&self, now: Instant) -> Writable {
        if let Some(server) = self.configured_primary() {
            return self.fixed(server);
        }
        if !self
            .members
            .iter()
            .any(|member| member.configured == Role::Auto)
        {
            return Writable::Never;
        }
        match self.reign {
            Some(reign) if self.holds(reign, now) && self.heard(reign, now) => {
                Writable::Server(reign.server, Some(reign.epoch))
            }
            _ => Writable::Nobody,
        }
    }

    /// A configured primary is believed, but not when it says itself that it is in recovery, nor after a replica was
    /// promoted.
    fn fixed(&self, server: usize) -> Writable {
        if self.age_max.is_none() {
            return Writable::Server(server, None);
        }
        let member = self.members.get(server);
        let standby = member
            .and_then(|member| member.last)
            .is_some_and(|last| last.in_recovery());
        if standby || self.fenced_by.is_some() {
            return Writable::Nobody;
        }
        Writable::Server(server, self.reign.map(|reign| reign.epoch))
    }

    /// Is the evidence for this reign good at `now`?
    fn holds(&self, reign: Reign, now: Instant) -> bool {
        let Some(member) = self.members.get(reign.server) else {
            return false;
        };
        let Some((last, age_max)) = member.last.zip(self.age_max) else {
            return false;
        };
        let says_so =
            matches!(last.standing, Standing::Primary { epoch, .. } if epoch == reign.epoch);
        says_so && member.reached && now.saturating_duration_since(last.at) <= age_max
    }

    /// Were all asked who could know better, or given time?
    fn heard(&self, reign: Reign, now: Instant) -> bool {
        let all = self.members.iter().all(|member| member.asked.is_some());
        all || now.saturating_duration_since(reign.since) >= HEARING
    }

    /// Is it known that a connection to `server` opened under `epoch` does not lead to the primary any more? Not when
    /// there is only no evidence.
    pub fn is_superseded(&self, server: usize, epoch: Option<Epoch>, now: Instant) -> bool {
        let last = self.members.get(server).and_then(|member| member.last);
        if self.age_max.is_some() && last.is_some_and(|last| last.in_recovery()) {
            return true;
        }
        match self.writable(now) {
            Writable::Server(primary, of) => primary != server || of.is_some() && of != epoch,
            Writable::Nobody | Writable::Never => false,
        }
    }

    /// The epoch that a connection to `server` is opened under at `now`.
    pub fn epoch_of(&self, server: usize, now: Instant) -> Option<Epoch> {
        let reign = self.reign.filter(|reign| reign.server == server)?;
        let believed = self.configured_primary() == Some(server);
        (believed || self.holds(reign, now)).then_some(reign.epoch)
    }

    /// What `server` is for reads. Old evidence is good enough for that.
    pub fn part(&self, server: usize) -> Part {
        let Some(member) = self.members.get(server) else {
            return Part::Unknown;
        };
        let reigns = self.reign.is_some_and(|reign| reign.server == server);
        match (member.configured, member.last.map(|last| last.standing)) {
            (Role::Primary, Some(Standing::Primary { .. })) if self.fenced_by.is_some() => {
                Part::Apart
            }
            (Role::Primary, _) => Part::Primary,
            (Role::Replica, _) => Part::Replica,
            (Role::Auto, Some(Standing::Standby { .. })) => Part::Replica,
            (Role::Auto, Some(Standing::Primary { .. })) if reigns => Part::Primary,
            (Role::Auto, Some(Standing::Primary { .. })) => Part::Apart,
            (Role::Auto, None) => Part::Unknown,
        }
    }

    /// Was `server`, whose role is not configured, not asked yet?
    pub fn is_undecided(&self, server: usize) -> bool {
        let member = self.members.get(server);
        member.is_some_and(|member| member.configured == Role::Auto && member.asked.is_none())
    }

    /// The newest observation of `server`.
    pub fn last(&self, server: usize) -> Option<Observation> {
        self.members.get(server)?.last
    }

    /// The same, if it is not older than evidence may be and the server was reached since.
    pub fn current(&self, server: usize, now: Instant) -> Option<Observation> {
        let member = self.members.get(server)?;
        let last = member.last?;
        (member.reached && self.is_current(last.at, now)).then_some(last)
    }

    /// Is what was said at `at` evidence at `now`?
    pub fn is_current(&self, at: Instant, now: Instant) -> bool {
        self.age_max
            .is_some_and(|age_max| now.saturating_duration_since(at) <= age_max)
    }

    /// The reign of the primary that proved itself last.
    pub fn epoch(&self) -> Option<Epoch> {
        self.reign.map(|reign| reign.epoch)
    }

    /// The primary that proved itself last.
    pub fn primary(&self) -> Option<usize> {
        self.reign.map(|reign| reign.server)
    }

    /// `server` was asked at `at` in vain: what it said earlier is no evidence for writes any more.
    pub fn unreached(&mut self, server: usize, at: Instant) {
        if let Some(member) = self.members.get_mut(server) {
            if member.asked.is_none_or(|asked| asked < at) {
                member.asked = Some(at);
                member.reached = false;
            }
        }
    }

    /// `server` was asked and answered. What is older than what is known already is ignored.
    pub fn observe(&mut self, server: usize, observation: Observation) -> Option<News> {
        let at = observation.at;
        let member = self.members.get_mut(server)?;
        if member.asked.is_some_and(|asked| at <= asked) {
            return None;
        }
        let before = member.last.replace(observation);
        member.asked = Some(at);
        member.reached = true;
        let said = before.map(|last| last.standing);
        match observation.standing {
            Standing::Standby { .. } => {
                self.fence();
                let reigned = self.reign.is_some_and(|reign| reign.server == server)
                    || self.configured_primary() == Some(server);
                let news = reigned && !matches!(said, Some(Standing::Standby { .. }));
                news.then_some(News::Stepped { server })
            }
            Standing::Primary { epoch, lsn } => {
                let again = matches!(said, Some(Standing::Primary { epoch: before, .. }) if before == epoch);
                self.claim(server, epoch, lsn, at)
                    .filter(|news| !again || matches!(news, News::Crowned { .. }))
            }
        }
    }

    /// `server` says that it is the primary.
    fn claim(&mut self, server: usize, epoch: Epoch, lsn: Lsn, at: Instant) -> Option<News> {
        let fixed = self.configured_primary();
        if fixed.is_some_and(|primary| primary != server) {
            return self.fence().then_some(News::Fenced { by: server });
        }
        let Some(reign) = self.reign else {
            return self.crown(server, epoch, lsn, at);
        };
        if epoch == reign.epoch && server == reign.server {
            if let Some(reign) = &mut self.reign {
                reign.lsn = reign.lsn.max(lsn);
            }
            return None;
        }
        if epoch.system == reign.epoch.system {
            if epoch.timeline > reign.epoch.timeline {
                return self.crown(server, epoch, lsn, at);
            }
            if epoch.timeline < reign.epoch.timeline {
                return Some(News::Outdated { server });
            }
        }
        // The same timeline, as when a disk moves to another machine, or other data.
        let other_data = epoch.system != reign.epoch.system;
        if !self.holds(reign, at) && (other_data || lsn >= reign.lsn) {
            return self.crown(server, epoch, lsn, at);
        }
        Some(News::Rival {
            server: reign.server,
            other: server,
        })
    }

    fn crown(&mut self, server: usize, epoch: Epoch, lsn: Lsn, at: Instant) -> Option<News> {
        self.reign = Some(Reign {
            server,
            epoch,
            lsn,
            since: at,
        });
        self.fence();
        Some(News::Crowned { server, epoch })
    }

    /// Has a configured replica been promoted? One with other data, as of logical replication, may be a primary.
    fn fence(&mut self) -> bool {
        let ours = self.reign.filter(|_| self.configured_primary().is_some());
        self.fenced_by = ours.and_then(|reign| {
            self.members.iter().position(|member| {
                let last = member.last.map(|last| last.standing);
                let replica = member.configured == Role::Replica;
                replica
                    && matches!(last, Some(Standing::Primary { epoch, .. })
                        if epoch.system == reign.epoch.system
                            && epoch.timeline > reign.epoch.timeline)
            })
        });
        self.fenced_by.is_some()
    }

    fn configured_primary(&self) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.configured == Role::Primary)
    }
}

#[cfg(test)]
mod tests;
