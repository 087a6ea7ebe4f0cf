//! Everything that one core owns, reached through `Rc` and `Cell`; no borrow is held across an await.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cores::blocking::Blocking;
use cores::gate::Gate;
use cores::journal::Journal;
use cores::names::Names as HostNames;
use cores::places::Places;
use cores::{BoundSocket, Core, Mailbox, PostOffice};

use crate::auth::keys::Origin;
use crate::auth::{Derivation, InstanceSecret, KeyCache, Keys, LookedUp, Random};
use crate::error::Error;
use crate::metrics::{ClientMeter, Counter, Histogram, Tally};
use crate::orders::Of;
use crate::pool::PoolId;
use crate::prepared::Statements;
use crate::protocol::cancel_key::{core_of, CancelKey, ProcessIds, LONG_SECRET_BYTES};
use crate::protocol::startup::Version;
use crate::session::Stay;
use crate::sharding::unique_id::{UniqueIdGenerator, UniqueIds};
pub(crate) use crate::snapshot::Activity;
use crate::snapshot::Analysing;
use crate::sql::settings::SettingsStore;

use super::client::AdminLink;
use super::cluster::Cluster;
use super::deadlocks;
use super::doors::Doors;
use super::iam::Tokens;
use super::link::{Enrolled, Link, Notice};
use super::mail::{Ending, Events, Mail};
use super::pools::{PoolSlot, Postbag};
use super::prober::Probers;
use super::reload::Pools;
use super::setup::Setup;
use super::shares::{Orders, Reports, ShareId};
use super::two_phase::{CommitBoot, Commits};
use super::upkeep::Upkeep;

/// Derived SCRAM keys kept per core: one for each user and server salt.
pub(super) const KEYS_MAX: usize = 4096;
/// Users whom `auth_query` was asked about, remembered per core.
const LOOKED_UP_MAX: usize = 4096;
/// Bytes of prepared statements that the clients of one core may hold.
const STATEMENT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How soon another order to end is heeded while one is carried out.
const ENDING_LOOK: Duration = Duration::from_millis(50);
/// Logins of one core that ask a server about a password at a time; whoever comes on top waits. What is asked costs
/// PostgreSQL a process, which no pool counts.
const ASKING_MAX: usize = 32;
/// Passwords of one core, typed by whoever it may be, that keys are derived from at a time; whoever comes on top waits. Logins
/// to servers need the same helpers.
const TYPING_MAX: usize = 2;
/// KILLs that logins look back at.
const KILLS_MAX: usize = 64;
/// Random bytes fetched at a time.
const RANDOM_BYTES: usize = 1024;

/// One core's state.
pub(crate) struct CoreState {
    pub(crate) core: Core,
    pub(crate) office: PostOffice<Mail>,
    /// To the control thread.
    pub(crate) events: Events,
    /// Helpers that derive keys.
    derivers: Blocking,
    /// Names of hosts.
    pub(crate) names: HostNames,
    /// Passwords for RDS.
    pub(crate) iam: Tokens,
    /// The query log.
    pub(crate) journal: Journal,
    pub(super) setup: RefCell<Rc<Setup>>,
    /// That of `setup`: what sessions compare with theirs.
    pub(super) generation: Cell<u32>,
    pub(super) pools: RefCell<Rc<Pools>>,
    /// Sessions that are logged in, by the process id they were told.
    pub(crate) links: RefCell<HashMap<i32, Rc<Link>>>,
    /// Clients that this core has told their process ids, and that others serve: which one, since which of their moves.
    pub(crate) away: RefCell<HashMap<i32, (usize, u32)>>,
    /// Clients that have come from other cores, so far.
    pub(crate) moved_in: Counter,
    /// What caches have done of databases that are not in the configuration any more.
    pub(super) analysed: Cell<Analysing>,
    /// Where connections come in, and clients go.
    pub(super) doors: Doors,
    /// Clients that are logged in: a shutdown waits for them.
    pub(crate) gate: Gate,
    /// Connections that are not, or not yet.
    pub(crate) doorway: Gate,
    /// How many of those there may be.
    pub(crate) newcomers_max: usize,
    /// Logins that ask a server about a password.
    pub(crate) asking: Places,
    /// Logins whose typed password is held against a verifier.
    typing: Places,
    /// Connections that are one too many, while they hear so.
    pub(crate) turned_away: Gate,
    /// Whom KILL was for lately: who was logging in then has to go, too. The last ones of `KILLS_MAX`.
    pub(super) kills: RefCell<VecDeque<(Instant, Of)>>,
    pub(crate) phase: Cell<Phase>,
    /// How it ends, once that is known.
    ending: Cell<Option<Ending>>,
    pub(crate) postbag: Postbag,
    /// Commits over several shards.
    pub(super) commits: Commits,
    /// Bytes that statements over several shards hold.
    pub(super) merging_bytes: Cell<usize>,
    /// Statements whose groups other cores have parts of: where those report.
    pub(super) divided: RefCell<HashMap<u64, Rc<Reports>>>,
    /// How many there were.
    pub(super) statements_divided: Cell<u64>,
    /// Parts of other cores' statements: what they are told.
    pub(super) shares: RefCell<HashMap<ShareId, Rc<Orders>>>,
    /// Clients of every core, as last heard.
    pub(crate) loads: Vec<Cell<usize>>,
    /// To each core.
    pub(crate) mail_sent: Vec<Cell<u64>>,
    pub(crate) mail_received: Cell<u64>,
    /// How long the core's turns took.
    pub(crate) turns: Rc<Histogram>,
    /// What is counted that belongs to no pool.
    pub(crate) tally: Tally,
    /// Servers that this core checks.
    pub(super) probers: Probers,
    /// The round that asks for clients that wait for each other.
    pub(super) asked: deadlocks::Asked,
    pub(super) upkeep: Upkeep,
    /// Admin sessions by the process id they were told.
    pub(crate) admins: RefCell<HashMap<i32, Rc<AdminLink>>>,
    pub(crate) published_load: Cell<usize>,
    pub(crate) instance_secret: InstanceSecret,
    /// That of the last client: most are of the same application.
    application_name: RefCell<Arc<str>>,
    /// Each prepared text once.
    pub(crate) statements: RefCell<Statements>,
    /// Equal settings once.
    pub(crate) settings: RefCell<SettingsStore>,
    ids: RefCell<ProcessIds>,
    keys: RefCell<KeyCache>,
    /// What servers have said of users.
    pub(super) looked_up: RefCell<LookedUp>,
    random: RefCell<Vec<u8>>,
    /// Once one was asked for.
    unique_ids: RefCell<Option<UniqueIdGenerator>>,
    /// The last number that a client's stay at a server has had.
    pub(super) stays: Cell<Stay>,
    /// State of [`CoreState::chance`].
    chance: Cell<u64>,
}

/// Serving, or on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// No new clients; each session ends with its transaction.
    Draining,
}

/// What cores are started with.
#[derive(Clone)]
pub(crate) struct Boot {
    pub(crate) setup: Setup,
    /// Helpers for what takes a CPU.
    pub(crate) keys: Blocking,
    pub(crate) names: HostNames,
    pub(crate) iam: Tokens,
    pub(crate) journal: Journal,
    pub(crate) instance_secret: InstanceSecret,
    /// Where cores listen: one socket for each, or those that the service manager has opened. Who serves which is said by
    /// [`spread::serves`](crate::spread::serves).
    pub(crate) listen: Arc<[BoundSocket]>,
    pub(crate) events: Events,
    /// As of [`newcomers_max`](super::newcomers_max).
    pub(crate) newcomers_max: usize,
    pub(crate) commits: CommitBoot,
}

impl CoreState {
    /// A value for `pgdog.unique_id()`.
    ///
    /// Errors: F0000 without a `NODE_ID` that fits, 54000 if they are asked for too fast.
    pub(crate) fn unique_id(&self) -> Result<i64, Error> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let now_ms = u64::try_from(now_ms).unwrap_or_default();
        let mut generator = self.unique_ids.borrow_mut();
        if let Some(generator) = &mut *generator {
            return generator.next(now_ms);
        }
        let config = self.config();
        let (routing, node_id) = (&config.routing, config.instance.node_id.as_deref());
        let ids = UniqueIds::new(routing.unique_ids, node_id, routing.unique_id_min, now_ms)?;
        let made = ids.generator(self.core.index(), self.core.count());
        generator.insert(made).next(now_ms)
    }

    pub(crate) fn new(core: Core, office: PostOffice<Mail>, boot: Boot) -> Rc<Self> {
        let (index, count) = (core.index(), core.count());
        let pools = Pools::first(&boot.setup, &core);
        let narrow = |number: usize| u16::try_from(number).expect("fewer than 65,536 CPUs");
        Rc::new(Self {
            core,
            generation: Cell::new(boot.setup.generation),
            setup: RefCell::new(Rc::new(boot.setup)),
            pools: RefCell::new(Rc::new(pools)),
            office,
            events: boot.events,
            derivers: boot.keys,
            names: boot.names,
            iam: boot.iam,
            journal: boot.journal,
            links: RefCell::new(HashMap::new()),
            away: RefCell::default(),
            moved_in: Counter::default(),
            analysed: Cell::default(),
            doors: Doors::new(count, boot.listen.len()),
            gate: Gate::new(),
            doorway: Gate::new(),
            newcomers_max: boot.newcomers_max,
            asking: Places::new(ASKING_MAX),
            typing: Places::new(TYPING_MAX),
            turned_away: Gate::new(),
            kills: RefCell::default(),
            phase: Cell::new(Phase::Serving),
            ending: Cell::new(None),
            unique_ids: RefCell::default(),
            postbag: Postbag::default(),
            commits: Commits::new(&boot.commits),
            merging_bytes: Cell::new(0),
            divided: RefCell::default(),
            statements_divided: Cell::new(0),
            shares: RefCell::default(),
            loads: (0..count).map(|_| Cell::new(0)).collect(),
            mail_sent: (0..count).map(|_| Cell::new(0)).collect(),
            mail_received: Cell::new(0),
            turns: Rc::default(),
            tally: Tally::default(),
            probers: Probers::default(),
            asked: deadlocks::Asked::default(),
            upkeep: Upkeep::default(),
            admins: RefCell::default(),
            published_load: Cell::new(0),
            instance_secret: boot.instance_secret,
            application_name: RefCell::default(),
            statements: RefCell::new(Statements::new(STATEMENT_BYTES_MAX)),
            settings: RefCell::default(),
            ids: RefCell::new(ProcessIds::new(narrow(index), narrow(count))),
            keys: RefCell::new(KeyCache::new(KEYS_MAX)),
            looked_up: RefCell::new(LookedUp::new(LOOKED_UP_MAX)),
            random: RefCell::new(Vec::new()),
            stays: Cell::new(Stay::before(u16::try_from(index).unwrap_or(u16::MAX))),
            chance: Cell::new(index as u64),
        })
    }

    /// How many cores share what is for all clients: those that serve some, and this one.
    pub(super) fn sharers(&self) -> usize {
        self.doors.active().max(self.core.index() + 1)
    }

    /// The configuration in force. A reload puts another in its place: what has to stay the same for longer than a
    /// moment is kept by whom it concerns.
    #[inline]
    pub(crate) fn config(&self) -> Rc<Setup> {
        Rc::clone(&self.setup.borrow())
    }

    /// Another number than before: there is a new configuration.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// The pools of this moment.
    pub(crate) fn pools(&self) -> Rc<Pools> {
        Rc::clone(&self.pools.borrow())
    }

    /// The pool of this number, be it on its way out.
    pub(crate) fn pool(&self, id: PoolId) -> Option<Rc<PoolSlot>> {
        self.pools.borrow().get(id).cloned()
    }

    /// The pools of this user and database.
    pub(crate) fn cluster_of(&self, user: &str, database: &str) -> Option<Rc<Cluster>> {
        self.pools.borrow().of(user, database).cloned()
    }

    /// Lets sessions end as `ending` says.
    pub(crate) fn begin_ending(&self, ending: Ending) {
        self.ending.set(Some(ending));
        if let Ending::Graceful { .. } = ending {
            for link in self.links.borrow().values() {
                link.notify(Notice::Drain);
            }
        }
    }

    /// All clients of some pools are killed; those that are logging in find out.
    pub(super) fn remember_kill(&self, of: &Of) {
        let mut kills = self.kills.borrow_mut();
        if kills.len() >= KILLS_MAX {
            kills.pop_front();
        }
        kills.push_back((self.core.now(), of.clone()));
    }

    /// Was KILL for this client, whose login began then?
    pub(crate) fn was_killed(&self, user: &str, database: &str, began: Instant) -> bool {
        let kills = self.kills.borrow();
        let mut since = kills.iter().filter(|(at, _)| *at >= began);
        since.any(|(_, of)| of.covers(user, database))
    }

    /// Waits until the last session has ended; false when they have to be cut off.
    pub(crate) async fn sessions_ended(&self) -> bool {
        loop {
            let cut_off = match self.ending.get() {
                Some(Ending::Graceful { deadline }) => deadline,
                Some(Ending::WaitForClients) | None => None,
            };
            if cut_off.is_some_and(|at| at <= self.core.now()) {
                return false;
            }
            // Looked at again now and then: another ending may have been ordered.
            let look = self.core.now() + ENDING_LOOK;
            let until = cut_off.map_or(look, |at| at.min(look));
            let drained = self.gate.drained();
            if self.core.timeout_at(Some(until), drained).await.is_some() {
                return true;
            }
        }
    }

    /// Prepared statements per server connection.
    pub(crate) fn prepared_max(&self) -> usize {
        let max = self.config().prepared.statements_max;
        max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX))
    }

    /// Fresh random bytes.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut store = self.random.borrow_mut();
        if store.len() < N {
            store.resize(RANDOM_BYTES.max(N), 0);
            getrandom::fill(&mut store).expect("the kernel has random bytes once it has started");
        }
        let bytes = *store.last_chunk().expect("there are N at least");
        let rest = store.len() - N;
        store.truncate(rest);
        bytes
    }

    /// A number for spreading things, nothing secret: SplitMix64.
    ///
    /// Source: <https://doi.org/10.1145/2714064.2660195>
    pub(crate) fn chance(&self) -> u64 {
        let state = self.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.chance.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Random bytes for one login.
    pub(crate) fn login_random(&self) -> Random {
        self.random()
    }

    /// Connections of this core, logged in or not.
    pub(crate) fn load(&self) -> usize {
        self.gate.running() + self.doorway.running()
    }

    /// Another core has derived keys.
    pub(crate) fn learn_keys(&self, (derivation, keys): (Derivation, Keys)) {
        self.keys.borrow_mut().insert(&derivation, keys);
    }

    /// Sends mail to another core; a full box gives it back.
    pub(crate) fn send(&self, to: usize, mail: Mail) -> Result<(), Mail> {
        self.office.send(to, mail)?;
        self.mailed(to);
        Ok(())
    }

    /// The cores but this one.
    pub(crate) fn others(&self) -> impl Iterator<Item = usize> {
        let here = self.core.index();
        (0..self.office.cores()).filter(move |other| *other != here)
    }

    /// Leaves news for another core, to be read when it wakes for something else; a box that is half full gives it
    /// back.
    pub(crate) fn leave(&self, to: usize, mail: Mail) -> Result<(), Mail> {
        self.office.leave(to, mail)?;
        self.mailed(to);
        Ok(())
    }

    fn mailed(&self, to: usize) {
        if let Some(sent) = self.mail_sent.get(to) {
            sent.set(sent.get() + 1);
        }
    }

    /// The next mail.
    pub(crate) async fn receive(&self, mailbox: &Mailbox<Mail>) -> Mail {
        let mail = mailbox.recv().await;
        self.mail_received.set(self.mail_received.get() + 1);
        mail
    }

    /// A process id that no session of this core has, and its secret.
    pub(crate) fn key(&self, version: Version) -> CancelKey {
        let process_id = loop {
            let id = self.ids.borrow_mut().issue();
            let taken = self.links.borrow().contains_key(&id)
                || self.admins.borrow().contains_key(&id)
                || self.away.borrow().contains_key(&id);
            if !taken {
                break id;
            }
        };
        CancelKey::new(process_id, version, self.random::<LONG_SECRET_BYTES>())
    }

    /// A process id and secret for a new session, and its link.
    pub(crate) fn enroll(self: &Rc<Self>, version: Version, slot: &Rc<PoolSlot>) -> Enrolled {
        let meter = ClientMeter::new(self.core.now());
        self.enlist(Link::new(self.key(version), slot, meter, self.core.now()))
    }

    /// A link for a session of another core that goes on here.
    pub(crate) fn enroll_moved(
        self: &Rc<Self>,
        key: CancelKey,
        slot: &Rc<PoolSlot>,
        meter: ClientMeter,
        moves: u32,
    ) -> Enrolled {
        let process_id = key.process_id();
        self.note_whereabouts(process_id, Some(self.core.index()), moves);
        let link = Link::new(key, slot, meter, self.core.now());
        link.moves.set(moves);
        if let Some(Ending::Graceful { .. }) = self.ending.get() {
            link.notify(Notice::Drain);
        }
        self.enlist(link)
    }

    fn enlist(self: &Rc<Self>, link: Link) -> Enrolled {
        let link = Rc::new(link);
        let process_id = link.key.process_id();
        self.links.borrow_mut().insert(process_id, Rc::clone(&link));
        Enrolled::new(link, self)
    }

    /// The core that has issued this process id; `None` if none has.
    pub(crate) fn home_of(&self, process_id: i32) -> Option<usize> {
        let cores = u16::try_from(self.core.count()).unwrap_or(u16::MAX);
        core_of(process_id, cores).map(usize::from)
    }

    /// Tells the core that has issued this process id where its client is after so many moves; `None`: it is gone.
    pub(super) fn note_whereabouts(&self, process_id: i32, core: Option<usize>, moves: u32) {
        match self.home_of(process_id) {
            Some(home) if home == self.core.index() => {
                self.heard_whereabouts(process_id, core, moves)
            }
            Some(home) if self.phase.get() == Phase::Serving => {
                let mail = Mail::Whereabouts {
                    process_id,
                    core,
                    moves,
                };
                self.postbag.post(home, mail);
            }
            _ => {}
        }
    }

    /// A client that this core has told its process id is there now; `None`: gone. What comes late is no news: of one core it
    /// may come behind that of the next one.
    pub(super) fn heard_whereabouts(&self, process_id: i32, core: Option<usize>, moves: u32) {
        let mut away = self.away.borrow_mut();
        let Some(known) = away
            .get_mut(&process_id)
            .filter(|(_, known)| moves >= *known)
        else {
            return;
        };
        match core.filter(|core| *core != self.core.index()) {
            Some(core) => *known = (core, moves),
            None => drop(away.remove(&process_id)),
        }
    }

    /// An application's name as clients keep it: the one that was asked for last is not copied.
    pub(crate) fn application_name(&self, name: &[u8]) -> Arc<str> {
        let name = String::from_utf8_lossy(name);
        let mut last = self.application_name.borrow_mut();
        if **last != *name {
            *last = Arc::from(name);
        }
        Arc::clone(&last)
    }

    /// Keys from the cache, or derived on a helper thread.
    pub(crate) async fn derive(&self, derivation: Derivation) -> Option<Keys> {
        if let Some(keys) = self.keys.borrow_mut().get(&derivation) {
            return Some(keys);
        }
        let _place = match derivation.origin {
            Origin::Typed => Some(self.typing.take().await),
            Origin::Configured => None,
        };
        let job = derivation.clone();
        let keys = self
            .core
            .foreign(self.derivers.run(move || job.run()))
            .await
            .ok()?;
        self.keys.borrow_mut().insert(&derivation, keys.clone());
        Some(keys)
    }
}
