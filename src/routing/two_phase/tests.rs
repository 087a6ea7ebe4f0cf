//! Commits over simulated servers that refuse, break and come late, a log that fails, and a proxy that dies at any step.

use std::collections::{BTreeMap, BTreeSet};

use super::gid::Owner;
use super::log::{recover, Participant, Pending, Record, SegmentWriter};
use super::*;

const ID: TransactionId = TransactionId {
    process: 1,
    core: 0,
    number: 1,
};

/// Events one after the other, and all that they lead to.
fn run(shards: u32, events: &[Event]) -> (TwoPhase, Vec<Action>) {
    let mut actions = Vec::new();
    let mut commit = TwoPhase::begin(ID, Shards::all(shards), &mut actions);
    for event in events {
        commit.on(*event, &mut actions);
    }
    (commit, actions)
}

#[test]
fn a_commit_without_trouble() {
    use Action::{Answer, Log, Note, Send};
    use Event::{Logged, Succeeded};
    let (commit, actions) = run(
        2,
        &[
            Logged,
            Succeeded(1),
            Succeeded(0),
            Logged,
            Succeeded(0),
            Succeeded(1),
        ],
    );
    let expected = [
        Log(Entry::Begin),
        Send(0, Statement::Prepare),
        Send(1, Statement::Prepare),
        Log(Entry::Commit),
        Send(0, Statement::CommitPrepared),
        Send(1, Statement::CommitPrepared),
        Answer(Outcome::Committed),
        Note(Entry::Done),
    ];
    assert_eq!(actions, expected);
    assert!(commit.is_done());
}

/// The client gets the error of the shard that refused, once the others are rolled back.
#[test]
fn a_shard_that_cannot_prepare() {
    use Action::{Answer, Log, Note, Send};
    use Event::{Failed, Logged, Succeeded};
    let (commit, actions) = run(
        3,
        &[
            Logged,
            Succeeded(0),
            Failed(1),
            Succeeded(2),
            Succeeded(2),
            Succeeded(0),
        ],
    );
    let expected = [
        Log(Entry::Begin),
        Send(0, Statement::Prepare),
        Send(1, Statement::Prepare),
        Send(2, Statement::Prepare),
        Send(0, Statement::RollbackPrepared),
        Send(2, Statement::RollbackPrepared),
        Answer(Outcome::RolledBack(Cause::Refused(1))),
        Note(Entry::Done),
    ];
    assert_eq!(actions, expected);
    assert!(commit.is_done());
}

#[test]
fn a_commit_that_is_finished_in_the_background() {
    use Event::{Failed, Logged, Lost, Recovered, Succeeded};
    let events = [
        Logged,
        Succeeded(0),
        Succeeded(1),
        Succeeded(2),
        Lost(1),
        Logged,
        Failed(0),
        Succeeded(2),
    ];
    let (mut commit, actions) = run(3, &events);
    let background = [
        Action::Recover(1, Resolution::Commit),
        Action::Recover(0, Resolution::Commit),
        Action::Answer(Outcome::Completing),
    ];
    assert!(
        background.iter().all(|action| actions.contains(action)),
        "{actions:?}"
    );
    let mut more = Vec::new();
    commit.on(Recovered(0), &mut more);
    assert!(!commit.is_done() && more.is_empty());
    commit.on(Recovered(1), &mut more);
    assert!(commit.is_done());
    assert_eq!(more, [Action::Note(Entry::Done)]);
}

#[test]
fn a_decision_that_cannot_be_logged_is_not_taken_back() {
    use Event::{LogFailed, Logged, Succeeded};
    let (_, actions) = run(
        2,
        &[
            Logged,
            Succeeded(0),
            Succeeded(1),
            LogFailed,
            LogFailed,
            Logged,
        ],
    );
    let answers = actions
        .iter()
        .filter(|action| matches!(action, Action::Answer(_)));
    assert_eq!(
        answers.collect::<Vec<_>>(),
        [&Action::Answer(Outcome::InDoubt)]
    );
    assert!(actions.contains(&Action::Send(0, Statement::CommitPrepared)));
    let (_, actions) = run(2, &[LogFailed, Succeeded(0), Succeeded(1)]);
    assert!(!actions.contains(&Action::Send(0, Statement::Prepare)));
    assert!(actions.contains(&Action::Answer(Outcome::RolledBack(Cause::Log))));
}

/// The one that is primary now may not have it. What may be decided is left to it.
#[test]
fn a_shard_that_has_another_primary_before_the_decision() {
    use Event::{LogFailed, Logged, Succeeded, Superseded};
    let prepared = [Logged, Succeeded(0), Succeeded(1)];
    let (_, actions) = run(2, &[&prepared[..], &[Superseded(1), Succeeded(0)]].concat());
    let undone = [
        Action::Recover(1, Resolution::Rollback),
        Action::Send(0, Statement::RollbackPrepared),
        Action::Answer(Outcome::RolledBack(Cause::Lost(1))),
    ];
    assert_eq!(actions[4..], undone);
    let (_, actions) = run(2, &[&[Logged, Succeeded(0)], &[Superseded(0)][..]].concat());
    assert_eq!(actions[3..], [Action::Recover(0, Resolution::Rollback)]);
    for late in [LogFailed, Logged] {
        let events = [&prepared[..], &[late, Superseded(1)]].concat();
        let (_, actions) = run(2, &events);
        let back = |action: &Action| matches!(action, Action::Recover(_, Resolution::Rollback));
        assert!(!actions.iter().any(back), "{late:?}");
    }
}

#[test]
fn one_shard_or_none_needs_no_two_phases() {
    for (shards, needed) in [(0, false), (1, false), (2, true), (128, true)] {
        assert_eq!(is_needed(Shards::all(shards)), needed, "{shards}");
    }
}

#[test]
fn statements() {
    assert_eq!(Statement::Prepare.sql("g"), "PREPARE TRANSACTION 'g'");
    assert_eq!(Statement::CommitPrepared.sql("g"), "COMMIT PREPARED 'g'");
    assert_eq!(
        Statement::RollbackPrepared.sql("g"),
        "ROLLBACK PREPARED 'g'"
    );
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// A transaction on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Open,
    Prepared,
    Committed,
    RolledBack,
}

#[derive(Debug)]
struct Server {
    stored: Stored,
    /// Is there a connection that the transaction was on?
    connected: bool,
    /// A statement whose sender is gone, but which the server has still to do.
    late: Option<Statement>,
    /// Prepare is refused, by a deferred constraint.
    refuses: bool,
}

impl Server {
    /// Does a statement. `None`: the name of the prepared transaction does not exist, or it was refused.
    fn apply(&mut self, statement: Statement) -> Option<()> {
        self.stored = match (statement, self.stored) {
            (Statement::Prepare, Stored::Open) if self.refuses => {
                self.stored = Stored::RolledBack;
                return None;
            }
            (Statement::Prepare, Stored::Open) => Stored::Prepared,
            (Statement::CommitPrepared, Stored::Prepared) => Stored::Committed,
            (Statement::RollbackPrepared, Stored::Prepared) => Stored::RolledBack,
            (Statement::Rollback, Stored::Open) => Stored::RolledBack,
            _ => return None,
        };
        Some(())
    }

    /// The connection ends: what is open is rolled back, unless the server is still preparing it.
    fn disconnect(&mut self, late: Option<Statement>) {
        self.connected = false;
        self.late = late;
        if self.stored == Stored::Open && late.is_none() {
            self.stored = Stored::RolledBack;
        }
    }

    fn do_late(&mut self) {
        if let Some(statement) = self.late.take() {
            self.apply(statement);
            self.disconnect(None);
        }
    }

    /// One try at finishing: is it done? "Does not exist" counts for a rollback once nothing can come late.
    fn resolve(&mut self, resolution: Resolution) -> bool {
        let statement = match resolution {
            Resolution::Commit => Statement::CommitPrepared,
            Resolution::Rollback => Statement::RollbackPrepared,
        };
        self.apply(statement).is_some() || self.late.is_none()
    }
}

/// A disk: what is on it for certain, and what was written but not synchronised.
#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    certain: usize,
}

fn numbered(shard: u32) -> Participant {
    Participant {
        shard,
        servers: Vec::new(),
    }
}

struct World {
    random: Random,
    servers: Vec<Server>,
    disk: Disk,
    writer: SegmentWriter,
    commit: TwoPhase,
    queue: Vec<Action>,
    told: Option<Outcome>,
    owner: Owner,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let servers: Vec<_> = (0..2 + random.below(3))
            .map(|_| Server {
                stored: Stored::Open,
                connected: true,
                late: None,
                refuses: random.chance(8),
            })
            .collect();
        let mut disk = Disk::default();
        let writer = SegmentWriter::begin(0, &Default::default(), &mut disk.bytes);
        disk.certain = disk.bytes.len();
        let mut queue = Vec::new();
        let shards = Shards::all(u32::try_from(servers.len()).unwrap());
        Self {
            commit: TwoPhase::begin(ID, shards, &mut queue),
            random,
            servers,
            disk,
            writer,
            queue,
            told: None,
            owner: Owner::new(None, "a-0"),
        }
    }

    fn write(&mut self, entry: Entry) {
        let pending = Pending {
            owner: self.owner.clone(),
            database: "d".to_owned(),
            user: "u".to_owned(),
            participants: self.commit.participants().iter().map(numbered).collect(),
            committed: false,
        };
        let record = match entry {
            Entry::Begin => Record::Begin(ID, pending),
            Entry::Commit => Record::Commit(ID),
            Entry::Done => Record::Done(ID),
        };
        self.writer.write(&record, &mut self.disk.bytes);
    }

    /// Carries out one of the actions that are due. Some answers never come because the proxy dies first.
    fn step(&mut self) {
        if self.random.chance(12) {
            let at = self.random.below(self.servers.len());
            self.servers[at].do_late();
        }
        let at = self.random.below(self.queue.len());
        // The order within the queue is that of the machine, except that shards answer as they like.
        let first_log = self
            .queue
            .iter()
            .position(|action| matches!(action, Action::Log(_)));
        let action = self.queue.remove(first_log.unwrap_or(at));
        let event = match action {
            Action::Log(entry) => {
                let fails = self.random.chance(10);
                if !fails || self.random.chance(2) {
                    self.write(entry);
                }
                if fails {
                    // Whether it is there shows after a crash only. A writer goes on in another segment; here it stays.
                    Some(Event::LogFailed)
                } else {
                    self.disk.certain = self.disk.bytes.len();
                    Some(Event::Logged)
                }
            }
            Action::Note(entry) => {
                self.write(entry);
                None
            }
            Action::Answer(outcome) => {
                assert_eq!(self.told, None, "one answer");
                self.told = Some(outcome);
                None
            }
            Action::Send(shard, statement) => Some(self.send(shard, statement)),
            Action::Recover(shard, resolution) => {
                let server = &mut self.servers[shard as usize];
                if self.random.chance(3) || !server.resolve(resolution) {
                    self.queue.push(action);
                    server.do_late();
                    None
                } else {
                    Some(Event::Recovered(shard))
                }
            }
        };
        if let Some(event) = event {
            self.commit.on(event, &mut self.queue);
        }
        // Now and then an idle connection breaks.
        if self.random.chance(15) {
            let shard = self.random.below(self.servers.len());
            let number = u32::try_from(shard).unwrap();
            let busy = |action: &Action| matches!(action, Action::Send(to, _) if *to == number);
            if self.servers[shard].connected && !self.queue.iter().any(busy) {
                self.servers[shard].disconnect(None);
                self.commit.on(Event::Lost(number), &mut self.queue);
            }
        }
    }

    fn send(&mut self, shard: u32, statement: Statement) -> Event {
        let server = &mut self.servers[shard as usize];
        if !server.connected {
            return Event::Lost(shard);
        }
        match self.random.below(12) {
            // It never got there.
            0 => {
                server.disconnect(None);
                Event::Lost(shard)
            }
            // It is done, but nobody hears of it.
            1 => {
                server.apply(statement);
                server.disconnect(None);
                Event::Lost(shard)
            }
            // It will be done later.
            2 if statement == Statement::Prepare => {
                server.disconnect(Some(statement));
                Event::Lost(shard)
            }
            // It fails for a reason of its own, and nothing changes but that a failed transaction is over.
            3 => {
                if server.stored == Stored::Open {
                    server.stored = Stored::RolledBack;
                }
                Event::Failed(shard)
            }
            _ => match server.apply(statement) {
                Some(()) => Event::Succeeded(shard),
                None => Event::Failed(shard),
            },
        }
    }

    /// The process dies: what was being sent may arrive or not, late or at once; what was not synchronised may be there
    /// up to any byte.
    fn crash(&mut self) {
        for action in std::mem::take(&mut self.queue) {
            if let Action::Send(shard, statement) = action {
                let server = &mut self.servers[shard as usize];
                match self.random.below(3) {
                    0 => {
                        server.apply(statement);
                    }
                    1 if statement == Statement::Prepare && server.connected => {
                        server.disconnect(Some(statement));
                    }
                    _ => {}
                }
            }
        }
        for server in &mut self.servers {
            if server.late.is_none() {
                server.disconnect(None);
            }
        }
        let uncertain = self.disk.bytes.len() - self.disk.certain;
        let kept = self.disk.certain + self.random.below(uncertain + 1);
        self.disk.bytes.truncate(kept);
    }

    /// What the next process does, under another instance id or the same: it finishes what its log names, and whatever
    /// else of its own is prepared, until nothing is.
    fn recover(&mut self) {
        let recovered = recover(&BTreeMap::from([(0, self.disk.bytes.clone())])).unwrap();
        for _ in 0..3 {
            for (shard, server) in self.servers.iter_mut().enumerate() {
                if server.stored == Stored::Prepared {
                    let gid = self.owner.gid(ID, u32::try_from(shard).unwrap());
                    let resolution = recovered.ledger.resolution(&gid, &self.owner, |_| false);
                    server.resolve(resolution.expect("it is of this instance"));
                }
                if self.random.chance(2) {
                    server.do_late();
                }
            }
        }
        // Backends end, and the last look is behind that.
        for (shard, server) in self.servers.iter_mut().enumerate() {
            server.do_late();
            if server.stored == Stored::Prepared {
                let gid = self.owner.gid(ID, u32::try_from(shard).unwrap());
                let resolution = recovered.ledger.resolution(&gid, &self.owner, |_| false);
                assert!(server.resolve(resolution.expect("it is of this instance")));
            }
        }
    }

    fn check(&self, seed: u64) {
        let stored: BTreeSet<_> = self
            .servers
            .iter()
            .map(|server| match server.stored {
                Stored::Committed => "committed",
                Stored::RolledBack => "rolled back",
                Stored::Open | Stored::Prepared => "left over",
            })
            .collect();
        let expected = match self.told {
            Some(Outcome::Committed | Outcome::Completing) => &["committed"][..],
            Some(Outcome::RolledBack(_)) => &["rolled back"],
            Some(Outcome::InDoubt) | None => &["committed", "rolled back"],
        };
        let found: Vec<_> = stored.into_iter().collect();
        assert!(
            found.len() == 1 && expected.contains(&found[0]),
            "seed {seed}: told {:?}, {:?}",
            self.told,
            self.servers
        );
    }
}

/// The process may die before any step; the others show what happens when it does not.
#[test]
fn all_shards_agree_with_what_the_client_was_told() {
    let mut outcomes = BTreeMap::<String, u32>::new();
    for seed in 0..20_000 {
        let mut world = World::new(seed);
        let dies_at = world.random.below(40);
        let mut steps = 0;
        while !world.queue.is_empty() && steps < dies_at {
            world.step();
            steps += 1;
            assert!(steps < 1_000, "seed {seed} does not end");
        }
        let died = !world.queue.is_empty();
        if died {
            world.crash();
            world.recover();
        } else {
            assert!(world.commit.is_done(), "seed {seed}: {:?}", world.commit);
            assert!(world.told.is_some(), "seed {seed}");
        }
        world.check(seed);
        let told = world.told.map(|outcome| match outcome {
            Outcome::RolledBack(_) => "rolled back".to_owned(),
            outcome => format!("{outcome:?}"),
        });
        *outcomes.entry(format!("{told:?} died {died}")).or_default() += 1;
    }
    // Every kind of end was seen.
    for told in [
        "Some(\"Committed\")",
        "Some(\"Completing\")",
        "Some(\"InDoubt\")",
        "Some(\"rolled back\")",
    ] {
        for died in [true, false] {
            let seen = outcomes.get(&format!("{told} died {died}"));
            assert!(
                seen.is_some_and(|seen| *seen > 10),
                "{told} {died}: {outcomes:?}"
            );
        }
    }
    assert!(outcomes.contains_key("None died true"));
}
