//! Several cores, their pools, clients and a server on one thread, under a virtual clock, from a seed.
//!
//! Everything that happens is an event at a time. After each one, what must always hold is checked (`invariants`); the
//! first thing that does not hold ends the run as an `Err` in words.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use pgdog::error::{Error, Fault as Blame};
use pgdog::pool::{
    Action, Checkout, ClientId, ConnectFailure, Gift, Lease, Place, Pool, PoolMail, PoolStats,
    Ticket, WaitError,
};
use pgdog::protocol::sqlstate::SqlState;

mod invariants;

use super::plan::{Command, Fault, Plan, Report};
use super::random::Random;
use super::talk::{Rest, Talk};

/// Ticks of one core are at most this far apart.
pub(crate) const TICK_MAX: Duration = Duration::from_millis(15);

/// A server connection. Neither `Clone` nor `Copy`: only a fault can be in two places.
#[derive(Debug)]
pub(crate) struct Server(u32, Talk);

type Mail = PoolMail<Server>;

enum Event {
    Arrive(usize),
    GiveUp(usize, u32),
    End(usize, u32),
    Tick(usize),
    Deliver(usize, Mail),
    Dialled(usize, u32),
    Closed(usize),
    Issued(Command),
    Told(usize, Command),
}

/// An event at its time, the earliest one first out of a heap; of the same time, the one that was planned first.
struct Timed {
    then: Instant,
    serial: u64,
    event: Event,
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.then, other.serial).cmp(&(self.then, self.serial))
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

enum Session {
    Away,
    Waiting { ticket: Ticket, since: Instant },
    Busy { lease: Lease<Server> },
}

struct Client {
    core: usize,
    session: Session,
    /// Counts the states, so that events meant for an earlier one are void.
    epoch: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    Pool(usize),
    Client(usize),
    Mail,
    Closing(usize),
}

struct Core {
    pool: Pool<Server>,
    /// Who waits, in order, as we see it.
    queue: VecDeque<usize>,
    paused: bool,
    drained: bool,
    /// The size it was last told, and when it was last told anything.
    size: usize,
    told_last: Instant,
    /// Since when it has held no permit, and when it was last given one.
    bare_since: Option<Instant>,
    gift_sent: Instant,
}

impl Core {
    /// Nobody is served here.
    fn is_halted(&self) -> bool {
        self.paused || self.drained
    }
}

pub(crate) struct World {
    plan: Plan,
    random: Random,
    start: Instant,
    now: Instant,
    events: BinaryHeap<Timed>,
    serial: u64,
    cores: Vec<Core>,
    clients: Vec<Client>,
    /// Time of the last delivery from one core to another.
    links: Vec<Instant>,
    whereabouts: HashMap<u32, Whereabouts>,
    next_server: u32,
    /// Connections that the server sees: being opened, open, being closed.
    open: usize,
    /// Permits, connections and debts in the mail.
    mailed_permits: usize,
    mailed_servers: usize,
    mailed_debt: usize,
    mailed_growth: usize,
    /// As many permits as may exist while resizing goes on.
    ceiling: usize,
    size: usize,
    /// Cores that have not heard of a resize yet, once for each of them.
    resizing: usize,
    fault_armed: bool,
    out: Vec<Action<Server>>,
    report: Report,
}

impl World {
    pub(crate) fn run(plan: Plan) -> Result<Report, String> {
        let mut world = Self::new(plan);
        world.live().map_err(|what| {
            let at = world.now - world.start;
            format!("after {at:?}: {what}")
        })?;
        Ok(world.report)
    }

    fn new(plan: Plan) -> Self {
        let start = epoch();
        let cores = (0..plan.cores)
            .map(|core| {
                let place = Place {
                    core,
                    cores: plan.cores,
                    offset: plan.offset,
                };
                let seed = plan.seed + core as u64;
                Core {
                    pool: Pool::new(place, plan.limits.clone(), seed, start),
                    queue: VecDeque::new(),
                    paused: false,
                    drained: false,
                    size: plan.limits.pool_size,
                    told_last: start,
                    bare_since: None,
                    gift_sent: start,
                }
            })
            .collect();
        let clients = plan
            .clients
            .iter()
            .map(|core| Client {
                core: *core,
                session: Session::Away,
                epoch: 0,
            })
            .collect();
        Self {
            random: Random::new(plan.seed),
            start,
            now: start,
            events: BinaryHeap::new(),
            serial: 0,
            cores,
            clients,
            links: vec![start; plan.cores * plan.cores],
            whereabouts: HashMap::new(),
            next_server: 0,
            open: 0,
            mailed_permits: 0,
            mailed_servers: 0,
            mailed_debt: 0,
            mailed_growth: 0,
            ceiling: plan.limits.pool_size,
            size: plan.limits.pool_size,
            resizing: 0,
            fault_armed: plan.fault.is_some(),
            out: Vec::new(),
            report: Report::default(),
            plan,
        }
    }

    fn live(&mut self) -> Result<(), String> {
        for client in 0..self.clients.len() {
            let first = self.random.up_to(self.plan.think);
            self.after(first, Event::Arrive(client));
        }
        for core in 0..self.cores.len() {
            let first = self.random.up_to(TICK_MAX);
            self.after(first, Event::Tick(core));
        }
        for (at, command) in std::mem::take(&mut self.plan.commands) {
            self.after(at, Event::Issued(command));
        }
        let half = self.start + self.plan.busy / 2;
        let end = self.start + self.plan.busy;
        let mut first_half = None;
        // Whoever still waits when the last client has arrived is served within the longest possible transactions of
        // all clients one after the other, and a pause of the pace of connecting.
        let rest = self.plan.transaction * 100 * u32::try_from(self.clients.len()).expect("few")
            + self.plan.limits.idle_timeout.min(Duration::from_secs(5))
            + Duration::from_secs(3);
        while let Some(Timed { then, event, .. }) = self.events.pop() {
            if then >= half && first_half.is_none() {
                first_half = Some(self.counts());
            }
            if then >= end && self.report.permits.is_empty() {
                let now = (self.counts(), first_half.unwrap_or_default());
                self.report.late = (
                    now.0 .0 - now.1 .0,
                    now.0 .1 - now.1 .1,
                    now.0 .2 - now.1 .2,
                );
                self.report.permits = self.stats().iter().map(|s| s.permits).collect();
            }
            if then > end && self.is_at_rest() {
                return Ok(());
            }
            if then > end + rest {
                return Err(format!("no rest: {:?}", self.stats()));
            }
            self.now = then;
            self.report.events += 1;
            self.happen(event)?;
            self.check()?;
        }
        Err("the ticks have stopped".to_owned())
    }

    fn counts(&self) -> (u64, u64, u64) {
        let report = &self.report;
        (report.mails, report.gifts, report.transactions)
    }

    fn stats(&self) -> Vec<PoolStats> {
        let now = self.now;
        self.cores.iter().map(|c| c.pool.stats(now)).collect()
    }

    /// Nobody wants anything, nothing is on its way, and exactly the minimum is open.
    fn is_at_rest(&self) -> bool {
        let stats = self.stats();
        let total = |part: fn(&PoolStats) -> usize| stats.iter().map(part).sum::<usize>();
        let busy = |s: &PoolStats| s.waiting + s.active + s.connecting + s.closing + s.debt;
        let quiet = total(busy) == 0 && !stats.iter().any(|s| s.wanted);
        quiet
            && self.mailed_permits + self.mailed_debt + self.mailed_growth == 0
            && total(|s| s.permits) == self.size
            && total(|s| s.idle) == self.kept()
    }

    /// Connections kept open when nothing happens. Idle ones never close if there is no `idle_timeout`.
    fn kept(&self) -> usize {
        let limits = self.cores[0].pool.limits();
        let minimum = limits.min_pool_size.min(limits.pool_size);
        if limits.idle_timeout == Duration::MAX {
            self.open.max(minimum)
        } else {
            minimum
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    fn at(&mut self, then: Instant, event: Event) {
        self.serial += 1;
        self.events.push(Timed {
            then,
            serial: self.serial,
            event,
        });
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive(client) => self.arrive(client),
            Event::GiveUp(client, epoch) => self.give_up(client, epoch),
            Event::End(client, epoch) => self.end(client, epoch),
            Event::Tick(core) => {
                let next = self.random.up_to(TICK_MAX / 2) + TICK_MAX / 2;
                self.after(next, Event::Tick(core));
                self.cores[core].pool.tick(self.now, &mut self.out);
                self.carry_out(core)
            }
            Event::Deliver(core, mail) => self.deliver(core, mail),
            Event::Dialled(core, generation) => self.dialled(core, generation),
            Event::Closed(core) => {
                self.open -= 1;
                self.cores[core].pool.closed(self.now, &mut self.out);
                self.carry_out(core)
            }
            Event::Issued(command) => {
                self.issue(&command);
                Ok(())
            }
            Event::Told(core, command) => self.told(core, command),
        }
    }

    fn arrive(&mut self, client: usize) -> Result<(), String> {
        if self.now >= self.start + self.plan.busy {
            return Ok(());
        }
        let core = self.clients[client].core;
        let id = ClientId(client as u64);
        let answer = self.cores[core].pool.checkout(id, self.now, &mut self.out);
        match answer {
            Checkout::Ready(lease) => {
                if !self.cores[core].queue.is_empty() {
                    return Err(format!("client {client} goes before those who wait"));
                }
                self.check_order(core, self.now)?;
                self.begin(client, core, lease)?;
            }
            Checkout::Wait(ticket) => {
                self.clients[client].session = Session::Waiting {
                    ticket,
                    since: self.now,
                };
                self.cores[core].queue.push_back(client);
                if self.random.percent(self.plan.impatient) {
                    let epoch = self.clients[client].epoch;
                    let patience = self.random.around(self.plan.transaction * 3);
                    self.after(patience, Event::GiveUp(client, epoch));
                }
            }
            Checkout::Closed if self.cores[core].drained => self.go_away(client),
            Checkout::Closed => return Err("an open pool says that it is closed".to_owned()),
        }
        self.carry_out(core)
    }

    fn give_up(&mut self, client: usize, epoch: u32) -> Result<(), String> {
        let Client {
            core,
            session: Session::Waiting { ticket, .. },
            epoch: current,
        } = self.clients[client]
        else {
            return Ok(());
        };
        if epoch != current {
            return Ok(());
        }
        if !self.cores[core]
            .pool
            .cancel(ticket, self.now, &mut self.out)
        {
            return Err(format!("waiting client {client} cannot leave"));
        }
        self.cores[core].queue.retain(|waiting| *waiting != client);
        self.go_away(client);
        self.carry_out(core)
    }

    fn go_away(&mut self, client: usize) {
        self.clients[client].session = Session::Away;
        self.clients[client].epoch += 1;
        let think = self.random.around(self.plan.think);
        self.after(think, Event::Arrive(client));
    }

    fn begin(&mut self, client: usize, core: usize, lease: Lease<Server>) -> Result<(), String> {
        self.moves(
            lease.0,
            Whereabouts::Pool(core),
            Whereabouts::Client(client),
        )?;
        let epoch = self.clients[client].epoch + 1;
        self.clients[client].epoch = epoch;
        self.clients[client].session = Session::Busy { lease };
        let mut length = self.random.around(self.plan.transaction);
        if self.random.percent(2) {
            length *= 10;
        }
        self.after(length, Event::End(client, epoch));
        Ok(())
    }

    fn end(&mut self, client: usize, epoch: u32) -> Result<(), String> {
        let Client { core, .. } = self.clients[client];
        if self.clients[client].epoch != epoch {
            return Err(format!("client {client} lost its connection"));
        }
        let session = std::mem::replace(&mut self.clients[client].session, Session::Away);
        let Session::Busy { mut lease } = session else {
            return Err(format!("client {client} ends what it has not begun"));
        };
        let defect = match self.plan.fault {
            Some(Fault::Talk(defect)) => Some(defect),
            _ => None,
        };
        let lost = self.random.percent(self.plan.lost);
        let vanishes = self.random.percent(self.plan.impatient);
        let rest = lease
            .server
            .1
            .converse(&mut self.random, vanishes, lost, defect)?;
        self.report.transactions += 1;
        let id = lease.0;
        if self.fault(Fault::ForgetCheckin) {
            self.moves(id, Whereabouts::Client(client), Whereabouts::Mail)?;
        } else if rest == Rest::Lost {
            self.whereabouts.remove(&id);
            self.open -= 1;
            let (_, lease) = lease.take();
            let pool = &mut self.cores[core].pool;
            pool.discard(&lease, self.now, &mut self.out);
        } else {
            self.moves(id, Whereabouts::Client(client), Whereabouts::Pool(core))?;
            self.cores[core]
                .pool
                .checkin(lease, self.now, &mut self.out);
        }
        self.go_away(client);
        self.carry_out(core)
    }

    fn deliver(&mut self, core: usize, mut mail: Mail) -> Result<(), String> {
        match &mut mail {
            PoolMail::Release { gift, .. }
            | PoolMail::Grant { gift, .. }
            | PoolMail::Donate { gift } => {
                self.mailed_permits -= 1;
                if let Some(lease) = &mut gift.lease {
                    lease.server.1.moves()?;
                    self.moves(lease.0, Whereabouts::Mail, Whereabouts::Pool(core))?;
                }
            }
            PoolMail::Burden { debt, .. } => self.mailed_debt -= *debt,
            PoolMail::Growth { permits, .. } => self.mailed_growth -= *permits,
            PoolMail::Seek { .. }
            | PoolMail::Ask { .. }
            | PoolMail::Withdraw { .. }
            | PoolMail::Wanted { .. }
            | PoolMail::Nudge { .. } => {}
        }
        self.cores[core].pool.receive(mail, self.now, &mut self.out);
        self.carry_out(core)
    }

    fn dialled(&mut self, core: usize, generation: u32) -> Result<(), String> {
        let time = self.now - self.start;
        let busy = time < self.plan.busy;
        let out = self
            .plan
            .outage
            .is_some_and(|(from, to)| time >= from && time < to);
        if out || (busy && self.random.percent(self.plan.failing)) {
            let error = || Error::error(Blame::Server, SqlState::PROTOCOL_VIOLATION, "no entry");
            let failure = match self.random.below(if out { 2 } else { 3 }) {
                0 => ConnectFailure::Retryable,
                1 => ConnectFailure::Unreachable(error()),
                _ => ConnectFailure::Fatal(error()),
            };
            self.open -= 1;
            let pool = &mut self.cores[core].pool;
            pool.connect_failed(failure, self.now, &mut self.out);
        } else {
            self.next_server += 1;
            let id = self.next_server;
            self.whereabouts.insert(id, Whereabouts::Pool(core));
            let pool = &mut self.cores[core].pool;
            pool.connected(
                Server(id, Talk::default()),
                generation,
                self.now,
                &mut self.out,
            );
        }
        self.carry_out(core)
    }

    /// Every core will hear of it, in order.
    fn issue(&mut self, command: &Command) {
        if let Command::Resize(limits) = command {
            // What was to be given up before may still be there, and pays for what is added; unless there are cores
            // that have not heard of it yet.
            let told = self.resizing == 0;
            let growth = limits.pool_size.saturating_sub(self.size);
            self.ceiling = if told {
                self.ceiling.max(limits.pool_size)
            } else {
                self.ceiling + growth
            };
            self.size = limits.pool_size;
            self.resizing += self.cores.len();
        }
        for core in 0..self.cores.len() {
            let earliest = self.now + self.random.up_to(self.plan.mail_delay);
            let then = earliest.max(self.cores[core].told_last);
            self.cores[core].told_last = then;
            self.at(then, Event::Told(core, command.clone()));
        }
    }

    fn told(&mut self, core: usize, command: Command) -> Result<(), String> {
        let (now, out) = (self.now, &mut self.out);
        let slice = &mut self.cores[core];
        match command {
            Command::Resize(limits) => {
                self.resizing -= 1;
                slice.size = limits.pool_size;
                slice.pool.resize(limits, now, out);
            }
            Command::Pause => {
                slice.paused = true;
                slice.pool.pause(now, out);
            }
            Command::Resume => {
                slice.paused = false;
                slice.bare_since = None;
                slice.pool.resume(now, out);
            }
            Command::Drain => {
                slice.drained = true;
                slice.pool.drain(now, out);
            }
            Command::Revive => {
                slice.drained = false;
                slice.bare_since = None;
                slice.pool.revive(now, out);
                if slice.paused {
                    slice.pool.pause(now, out);
                }
            }
            Command::Reconnect => slice.pool.reconnect(now, out),
            Command::KillIdle => {
                if let Some(lease) = slice.pool.take_idle(|_| true) {
                    self.whereabouts.remove(&lease.0);
                    self.open -= 1;
                    slice.pool.discard(&lease.take().1, now, out);
                }
            }
        }
        self.carry_out(core)
    }

    fn carry_out(&mut self, core: usize) -> Result<(), String> {
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::Connect { generation } => {
                    self.open += 1;
                    self.report.connects += 1;
                    let time = self.random.around(self.plan.connect_time);
                    self.after(time, Event::Dialled(core, generation));
                }
                Action::Serve {
                    client,
                    ticket,
                    lease,
                } => self.serve(core, client, ticket, lease)?,
                Action::Fail { client, why, .. } => self.fail(core, client, &why)?,
                Action::Close { server, .. } => {
                    self.moves(
                        server.0,
                        Whereabouts::Pool(core),
                        Whereabouts::Closing(core),
                    )?;
                    self.whereabouts.remove(&server.0);
                    let time = self.random.around(self.plan.close_time);
                    if self.fault(Fault::ReuseBeforeClosed) {
                        self.cores[core].pool.closed(self.now, &mut self.out);
                    } else {
                        self.after(time, Event::Closed(core));
                    }
                }
                Action::Mail { to, mail } => self.send(core, to, mail)?,
            }
        }
        if self.out.is_empty() {
            Ok(())
        } else {
            self.carry_out(core)
        }
    }

    fn serve(
        &mut self,
        core: usize,
        client: ClientId,
        ticket: Ticket,
        lease: Lease<Server>,
    ) -> Result<(), String> {
        let client = usize::try_from(client.0).expect("as it was given");
        if self.cores[core].queue.len() > 1 && self.fault(Fault::WrongOrder) {
            self.cores[core].queue.rotate_left(1);
        }
        let first = self.cores[core].queue.pop_front();
        if first != Some(client) {
            return Err(format!("client {client} is served before {first:?}"));
        }
        let Session::Waiting {
            ticket: waiting,
            since,
        } = self.clients[client].session
        else {
            return Err(format!("client {client} is served and does not wait"));
        };
        if waiting != ticket {
            return Err(format!("client {client} has {waiting:?}, not {ticket:?}"));
        }
        self.report.longest_wait = self.report.longest_wait.max(self.now - since);
        self.check_order(core, since)?;
        self.begin(client, core, lease)
    }

    fn fail(&mut self, core: usize, client: ClientId, why: &WaitError) -> Result<(), String> {
        let client = usize::try_from(client.0).expect("as it was given");
        let first = self.cores[core].queue.pop_front();
        let Session::Waiting { since, .. } = self.clients[client].session else {
            return Err(format!("client {client} fails and does not wait"));
        };
        if first != Some(client) {
            return Err(format!("client {client} fails before {first:?}"));
        }
        let timeout = self.cores[core].pool.limits().checkout_timeout;
        if matches!(why, WaitError::Timeout { .. }) && self.now - since < timeout {
            return Err(format!("client {client} fails too early: {why:?}"));
        }
        self.report.failed += 1;
        self.go_away(client);
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, mail: Mail) -> Result<(), String> {
        if to == from {
            return Err(format!("core {from} writes to itself"));
        }
        self.report.mails += 1;
        let earliest = self.now + self.random.up_to(self.plan.mail_delay);
        let link = &mut self.links[from * self.plan.cores + to];
        *link = earliest.max(*link);
        let then = *link;
        match &mail {
            PoolMail::Release { gift, .. }
            | PoolMail::Grant { gift, .. }
            | PoolMail::Donate { gift } => {
                self.report.gifts += 1;
                self.mailed_permits += 1;
                self.cores[to].gift_sent = self.now;
                let duty = gift.duty;
                if let Some(lease) = &gift.lease {
                    let id = lease.0;
                    self.moves(id, Whereabouts::Pool(from), Whereabouts::Mail)?;
                    if self.fault(Fault::DropServer) {
                        self.mailed_permits -= 1;
                        return Ok(());
                    }
                } else if self.fault(Fault::DuplicatePermit) {
                    self.mailed_permits += 1;
                    let gift = Gift { lease: None, duty };
                    self.at(then, Event::Deliver(to, PoolMail::Donate { gift }));
                } else if self.fault(Fault::DropPermit) {
                    self.mailed_permits -= 1;
                    return Ok(());
                }
            }
            PoolMail::Burden { debt, .. } => self.mailed_debt += debt,
            PoolMail::Growth { permits, .. } => self.mailed_growth += permits,
            PoolMail::Seek { .. } | PoolMail::Ask { .. } => {
                if self.fault(Fault::DropAsk) {
                    return Ok(());
                }
            }
            PoolMail::Withdraw { .. } | PoolMail::Wanted { .. } | PoolMail::Nudge { .. } => {}
        }
        self.at(then, Event::Deliver(to, mail));
        Ok(())
    }

    /// True once, if this defect was asked for.
    fn fault(&mut self, fault: Fault) -> bool {
        let strikes = self.fault_armed && self.plan.fault == Some(fault);
        self.fault_armed &= !strikes;
        strikes
    }

    /// A connection is where it was last seen, and goes elsewhere.
    fn moves(&mut self, id: u32, from: Whereabouts, to: Whereabouts) -> Result<(), String> {
        match self.whereabouts.insert(id, to) {
            Some(before) if before == from => {
                self.mailed_servers += usize::from(to == Whereabouts::Mail);
                self.mailed_servers -= usize::from(from == Whereabouts::Mail);
                Ok(())
            }
            before => Err(format!(
                "connection {id} goes from {from:?} to {to:?} but is {before:?}"
            )),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant will do as the beginning of a virtual clock"
)]
fn epoch() -> Instant {
    Instant::now()
}
