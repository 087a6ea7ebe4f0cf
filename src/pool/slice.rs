//! Permits of one core: whom the next free one goes to, when to ask other cores, give, keep.
//!
//! # How a permit finds the core that needs it
//!
//! A core whose clients wait and that holds no permit first **seeks**: the mail goes from core to core, and the
//! first one that has an idle connection or a free permit to spare gives it. Nothing is remembered, and nothing
//! more is said:
//!
//! ```text
//!            Seek ──►       Seek ──►       Seek ──►
//!   [0] waits     [1] busy       [2] busy       [3] has an idle connection
//!    ▲                                           │
//!    └────────────────── Gift ───────────────────┘
//! ```
//!
//! If the mail comes back with nothing, all permits are in use, and order matters. The core **asks** the pool's
//! *home*, one core that differs from pool to pool. While it has asks the home lets all cores know since when
//! permits are **wanted**. A connection that comes back then goes to that core's own client if it waits for longer,
//! otherwise it is **released** to the home, which **grants** it to the oldest ask. A core that releases its last
//! permit asks in the same mail, so that a transaction costs two mails at most, however many cores there are:
//!
//! ```text
//!   [2] client done ──Release, Ask──► [home] ──Grant──► [5] waits for longest
//! ```
//!
//! When there are no more asks the next needless release comes straight back, and the home's next tick tells
//! the others.
//!
//! A core that holds permits but too few sends a **nudge** from core to core, now and then: unused permits are
//! given to it, or the first core whose clients would still wait less after giving one promises its next.
//!
//! # Why this ends well
//!
//! - *Nothing is lost*: permits leave a core only inside a mail, and mail is delivered once.
//! - *No starvation*: only clients that came before the oldest ask go before it, and they are finitely many. As
//!   long as connections come back they reach the home, and it grants the oldest ask first.
//! - *No circle*: a core never waits for an answer. It gives what it has at that moment.
//! - *No bouncing*: with permits to spare, a borrower keeps what it got. A grant says how old the next ask is, and
//!   its receiver's client is older. A promise goes from a shorter wait to a longer one with a margin that the way
//!   back would have to overcome again.

use std::time::{Duration, Instant};

use super::{signed, Action, CloseReason, Lease, Pool, Rest, State};

/// Clients on different cores whose arrivals differ by less than this count as equally old, and the client of
/// the core that has the connection goes first. Spares moves when the pool is smaller than the number of cores.
pub const ORDER_SLACK: Duration = Duration::from_micros(500);

/// A core that has permits asks for more once a client waited this long.
const PATIENCE: Duration = Duration::from_millis(2);

/// Least time between two nudges of one core; also how long a promise is good for.
const NUDGE_INTERVAL: Duration = Duration::from_millis(50);

/// A connection used more recently than this is not "unused".
const RECENT: Duration = Duration::from_millis(50);

/// A nudged core promises only if its clients would, after giving, still wait this much less.
const NUDGE_MARGIN: Duration = Duration::from_millis(2);

/// Waiting times are compared as averages over about this long, so that chance moves nothing.
const SMOOTHING: Duration = Duration::from_millis(200);

/// One core's place among those that share the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// This core, `0..cores`.
    pub core: usize,
    /// Cores that share the pool; at least 1.
    pub cores: usize,
    /// Core that gets the first of what cannot be divided. Different from pool to pool, so that small pools do
    /// not crowd one core; the same on all cores.
    pub offset: usize,
}

impl Place {
    /// This core's part of `total`: equal parts, and one more each for as many cores, counted from `offset`, as
    /// the remainder has. Never decreases when `total` grows, so that all slices of a resized pool move the same
    /// way.
    pub fn share(self, total: usize) -> usize {
        let turn = (self.core + self.cores - self.offset % self.cores) % self.cores;
        total / self.cores + usize::from(turn < total % self.cores)
    }

    fn next(self) -> usize {
        (self.core + 1) % self.cores
    }

    /// The core that orders the asks of all.
    fn home(self) -> usize {
        self.offset % self.cores
    }

    pub(super) fn is_home(self) -> bool {
        self.core == self.home()
    }
}

/// What slices of one pool send each other.
///
/// To be delivered exactly once, and in order between any two cores: permits and connections travel in it.
#[derive(Debug)]
pub enum PoolMail<C> {
    /// `asker` holds no permit, and clients wait there. Back at `asker`: nobody had one to spare.
    Seek {
        /// Who seeks.
        asker: usize,
    },
    /// To the home: `asker` holds no permit, and a client there waits since `ask.since`. Replaces an earlier one.
    Ask {
        /// Who asks.
        asker: usize,
        /// What for.
        ask: Ask,
    },
    /// To the home: `asker` needs nothing any more.
    Withdraw {
        /// Who had asked.
        asker: usize,
    },
    /// From the home: a client on a core without permits waits since then; or nobody does.
    Wanted {
        /// The oldest ask.
        since: Option<Instant>,
    },
    /// To the home: a permit for the oldest ask.
    Release {
        /// Where it comes from.
        from: usize,
        /// The permit.
        gift: Gift<C>,
        /// `from` has none left, and clients wait there.
        ask: Option<Ask>,
    },
    /// From the home, in answer to an ask, or to a release that was not needed.
    Grant {
        /// The permit.
        gift: Gift<C>,
        /// The ask that is answered.
        serial: u32,
        /// As in `Wanted`.
        wanted: Option<Instant>,
    },
    /// From any core that has more than it needs, in answer to `Seek` or `Nudge`.
    Donate {
        /// The permit.
        gift: Gift<C>,
    },
    /// `asker` holds too few permits for `want` clients.
    Nudge {
        /// Who asks.
        asker: usize,
        /// How long clients have to wait there, as an average of the last moments.
        wait: Duration,
        /// Permits wished for.
        want: usize,
    },
    /// What a core cannot bear itself after a resize, because permits have moved; goes round until someone can.
    Burden {
        /// Permits to give up.
        debt: usize,
        /// Connections to be kept open, or, if negative, fewer to be kept open.
        duty: isize,
    },
}

/// A permit that changes cores.
#[derive(Debug)]
pub struct Gift<C> {
    /// The idle connection that it is bound to; without one it is a permit to open one.
    pub lease: Option<Lease<C>>,
    /// The duty to keep one connection of `min_pool_size` open comes along.
    pub duty: bool,
}

/// The need of a core without permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Arrival of the client that waits longest.
    pub since: Instant,
    /// Counts the asks of one core, so that it knows which of them a grant has answered.
    pub serial: u32,
}

/// What the home knows of the others.
#[derive(Debug)]
pub(super) struct Home {
    /// By core: its ask.
    asks: Vec<Option<Ask>>,
    /// By core: since when it believes that permits are wanted.
    told: Vec<Option<Instant>>,
}

impl Home {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            asks: vec![None; cores],
            told: vec![None; cores],
        }
    }

    /// The longest waiting core; among equals the first.
    fn oldest(&self) -> Option<(Instant, usize)> {
        let asks = self.asks.iter().enumerate();
        asks.filter_map(|(core, ask)| Some(((*ask)?.since, core)))
            .min()
    }
}

/// What this core has said of its own need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing, or that it needs nothing.
    Nothing,
    /// It seeks; the mail is on its way.
    Seeking,
    /// It asks; on the home itself, the others know.
    Asking(Ask),
}

/// A permit pledged to a core whose clients wait longer than ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    core: usize,
    wait: Duration,
    until: Instant,
}

/// Who is next.
enum Next {
    Local,
    /// A core that asks, or the home.
    Rival(usize),
    Promised(usize),
    Nobody,
}

impl<C> Pool<C> {
    /// Another core's mail.
    pub fn receive(&mut self, mail: PoolMail<C>, now: Instant, out: &mut Vec<Action<C>>) {
        match mail {
            PoolMail::Seek { asker } if asker == self.place.core => {
                self.told = Told::Nothing;
                if let Some(since) = self.need() {
                    self.ask(since, out);
                }
            }
            PoolMail::Seek { asker } => match self.spare() {
                Some(gift) => self.send(asker, PoolMail::Donate { gift }, out),
                None => self.pass_on(PoolMail::Seek { asker }, out),
            },
            PoolMail::Ask { asker, ask } => self.hear(asker, Some(ask)),
            PoolMail::Withdraw { asker } => self.hear(asker, None),
            PoolMail::Wanted { since } => self.want(since),
            PoolMail::Release { from, gift, ask } => {
                if ask.is_some() {
                    self.hear(from, ask);
                }
                if self.rival.is_none() && self.waiters.is_empty() && self.state == State::Open {
                    self.grant(from, gift, out);
                } else {
                    self.accept(gift, now, out);
                }
            }
            PoolMail::Grant {
                gift,
                serial,
                wanted,
            } => {
                self.want(wanted);
                if matches!(self.told, Told::Asking(ask) if ask.serial == serial) {
                    self.told = Told::Nothing;
                }
                self.accept(gift, now, out);
            }
            PoolMail::Donate { gift } => {
                if self.told == Told::Seeking {
                    self.told = Told::Nothing;
                }
                self.accept(gift, now, out);
            }
            PoolMail::Nudge { asker, wait, want } => {
                self.hear_nudge(asker, wait, want, now, out);
            }
            PoolMail::Burden { debt, duty } => {
                self.debt += debt;
                self.duty += duty;
            }
        }
        self.settle(now, out);
    }

    /// Permits that may still be used here: all but those to be given up.
    fn usable(&self) -> usize {
        self.permits().saturating_sub(self.debt)
    }

    /// Does this core owe permits, or the upkeep of connections, for which it has no permits?
    pub(super) fn overburdened(&self) -> bool {
        let permits = self.permits();
        self.debt > permits || self.duty < 0 || self.duty > signed(permits)
    }

    /// When this core asks for a further permit, if it has some, but too few.
    pub(super) fn nudge_due(&self) -> Option<Instant> {
        let oldest = self.waiters.oldest()?.max(self.resumed);
        let short = self.state == State::Open
            && self.place.cores > 1
            && self.free == 0
            && self.usable() > 0
            && self.waiters.len() > self.connecting;
        short.then(|| self.next_nudge.max(oldest + PATIENCE))
    }

    /// Puts a connection to rest; `settle` then finds its next user. It is closed if it may not be used again.
    pub(super) fn rest(&mut self, lease: Lease<C>, now: Instant, out: &mut Vec<Action<C>>) {
        match self.unfit(&lease) {
            None => self.idle.push_back(Rest { lease, since: now }),
            Some(reason) => self.close(lease, reason, out),
        }
    }

    /// Gives what is at hand to the oldest claims, and tells the other cores what this one needs.
    ///
    /// Afterwards, unless the pool is paused: no connection is idle while anybody waits here or is known to wait
    /// elsewhere, and no permit is free beyond what the pace of connecting allows.
    pub(super) fn settle(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.pay_debt(out);
        if self.state == State::Open {
            self.settle_idle(now, out);
            self.settle_free(now, out);
        }
        self.tell(out);
    }

    fn settle_idle(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        while !self.idle.is_empty() {
            match self.next(self.waiters.oldest(), now) {
                Next::Local => {
                    let rest = self.idle.pop_back().expect("not empty");
                    let (ticket, waiter) = self.waiters.pop().expect("a local claim");
                    self.active += 1;
                    out.push(Action::Serve {
                        client: waiter.client,
                        ticket,
                        lease: rest.lease,
                    });
                }
                Next::Nobody => break,
                next @ (Next::Rival(_) | Next::Promised(_)) => {
                    let gift = self.wrap_idle().expect("not empty");
                    self.hand_over(&next, gift, out);
                }
            }
        }
    }

    fn settle_free(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        while self.free > 0 {
            // With more than our clients need, others need not be older than they are.
            let needed = self.waiters.len().saturating_sub(self.connecting);
            let local = self.waiters.oldest().filter(|_| self.free <= needed);
            match self.next(local, now) {
                Next::Local | Next::Nobody => {
                    if !self.wants_connection() || self.connecting >= self.pace.connecting_max(now)
                    {
                        break;
                    }
                    self.free -= 1;
                    self.connecting += 1;
                    out.push(Action::Connect {
                        generation: self.generation,
                    });
                }
                next @ (Next::Rival(_) | Next::Promised(_)) => {
                    let gift = self.wrap_free();
                    self.hand_over(&next, gift, out);
                }
            }
        }
    }

    /// The oldest claim on the next connection or permit; `local` is that of our own clients.
    fn next(&self, local: Option<Instant>, now: Instant) -> Next {
        match (local, self.rival) {
            (None, Some((_, core))) => return Next::Rival(core),
            (Some(local), Some((since, core))) if since + ORDER_SLACK < local => {
                return Next::Rival(core)
            }
            (Some(_), Some(_)) => return Next::Local,
            (_, None) => {}
        }
        match self.promise {
            Some(promise) if now < promise.until && self.lends(promise.wait, local, now) => {
                Next::Promised(promise.core)
            }
            _ if local.is_some() => Next::Local,
            _ => Next::Nobody,
        }
    }

    /// Would our clients, with one permit fewer, still wait less than `wait`, with a margin?
    fn lends(&self, wait: Duration, local: Option<Instant>, now: Instant) -> bool {
        let permits = self.usable();
        if permits < 2 {
            return false;
        }
        let ours = self.waited(local, now).max(self.usual_wait);
        // Time spent waiting is inversely proportional to permits; a quarter more against noise.
        let with_one_less = ours.as_nanos() * permits as u128 / (permits as u128 - 1);
        wait.as_nanos() > with_one_less * 5 / 4 + NUDGE_MARGIN.as_nanos()
    }

    /// An ask at the home: new, changed or withdrawn.
    fn hear(&mut self, asker: usize, ask: Option<Ask>) {
        if let Some(home) = &mut self.home {
            home.asks[asker] = ask;
            self.rival = home.oldest();
        }
    }

    /// The home's word.
    fn want(&mut self, since: Option<Instant>) {
        let home = self.place.home();
        self.rival = since.map(|since| (since, home));
    }

    fn hear_nudge(
        &mut self,
        asker: usize,
        wait: Duration,
        mut want: usize,
        now: Instant,
        out: &mut Vec<Action<C>>,
    ) {
        if self.state == State::Open && self.debt == 0 {
            while want > 0 {
                let Some(gift) = self.unused(now) else {
                    break;
                };
                self.send(asker, PoolMail::Donate { gift }, out);
                want -= 1;
            }
            let local = self.waiters.oldest();
            let promised = self.promise.is_some_and(|promise| now < promise.until);
            if want > 0 && !promised && self.lends(wait, local, now) {
                let until = now + NUDGE_INTERVAL;
                self.promise = Some(Promise {
                    core: asker,
                    wait,
                    until,
                });
                want = 0;
            }
        }
        if want > 0 && self.place.next() != asker {
            self.pass_on(PoolMail::Nudge { asker, wait, want }, out);
        }
    }

    /// A permit that was not needed here in the last moments.
    fn unused(&mut self, now: Instant) -> Option<Gift<C>> {
        let unused = |rest: &Rest<C>| now.saturating_duration_since(rest.since) >= RECENT;
        if self.idle.front().is_some_and(unused) {
            self.wrap_idle()
        } else {
            self.wrap_surplus()
        }
    }

    /// A permit that is not needed here now, with a connection if possible.
    fn spare(&mut self) -> Option<Gift<C>> {
        if self.state != State::Open {
            return None;
        }
        // While one is idle, nobody waits here.
        self.wrap_idle().or_else(|| self.wrap_surplus())
    }

    /// A free permit beyond those that our clients wait for.
    fn wrap_surplus(&mut self) -> Option<Gift<C>> {
        let needed = self.waiters.len().saturating_sub(self.connecting);
        (self.free > needed).then(|| self.wrap_free())
    }

    /// The least recently used connection: the lender keeps those that it works with.
    fn wrap_idle(&mut self) -> Option<Gift<C>> {
        let rest = self.idle.pop_front()?;
        Some(self.wrap(Some(rest.lease)))
    }

    fn wrap_free(&mut self) -> Gift<C> {
        self.free -= 1;
        self.wrap(None)
    }

    /// The duty to keep a connection open goes where the connection goes, so that `min_pool_size` stays a total.
    fn wrap(&mut self, lease: Option<Lease<C>>) -> Gift<C> {
        let duty = self.duty > 0 && signed(self.servers()) < self.duty;
        self.duty -= isize::from(duty);
        self.given += 1;
        Gift { lease, duty }
    }

    fn accept(&mut self, gift: Gift<C>, now: Instant, out: &mut Vec<Action<C>>) {
        self.duty += isize::from(gift.duty);
        match gift.lease {
            Some(lease) => self.rest(lease, now, out),
            None => self.free += 1,
        }
    }

    fn hand_over(&mut self, next: &Next, gift: Gift<C>, out: &mut Vec<Action<C>>) {
        match *next {
            Next::Rival(core) if self.place.is_home() => self.grant(core, gift, out),
            Next::Rival(home) => {
                let ask = self.need().map(|since| self.next_ask(since));
                if let Some(ask) = ask {
                    self.told = Told::Asking(ask);
                }
                let from = self.place.core;
                self.send(home, PoolMail::Release { from, gift, ask }, out);
            }
            Next::Promised(core) => {
                self.promise = None;
                self.send(core, PoolMail::Donate { gift }, out);
            }
            Next::Local | Next::Nobody => unreachable!("stays here"),
        }
    }

    /// The home gives.
    fn grant(&mut self, to: usize, gift: Gift<C>, out: &mut Vec<Action<C>>) {
        let Some(home) = &mut self.home else {
            unreachable!("only the home grants");
        };
        let serial = home.asks[to].take().map_or(0, |ask| ask.serial);
        self.rival = home.oldest();
        let wanted = self.wanted();
        if let Some(home) = &mut self.home {
            home.told[to] = wanted;
        }
        let mail = PoolMail::Grant {
            gift,
            serial,
            wanted,
        };
        self.send(to, mail, out);
    }

    /// Since when permits are wanted, as the home sees it.
    fn wanted(&self) -> Option<Instant> {
        let own = match self.told {
            Told::Asking(ask) => Some(ask.since),
            Told::Nothing | Told::Seeking => None,
        };
        let others = self.rival.map(|(since, _)| since);
        own.into_iter().chain(others).min()
    }

    /// Gives up permits of a pool that shrank; connections count once they are closed.
    fn pay_debt(&mut self, out: &mut Vec<Action<C>>) {
        let paid = self.debt.min(self.free);
        self.debt -= paid;
        self.free -= paid;
        while self.debt > self.closing {
            let Some(rest) = self.idle.pop_front() else {
                break;
            };
            self.close(rest.lease, CloseReason::Shrunk, out);
        }
    }

    /// Arrival of the client that waits longest, if this core has no permit for it.
    fn need(&self) -> Option<Instant> {
        let bare = self.state == State::Open && self.usable() == 0 && self.place.cores > 1;
        self.waiters.oldest().filter(|_| bare)
    }

    /// Tells the other cores if our need is not what they were told.
    fn tell(&mut self, out: &mut Vec<Action<C>>) {
        match (self.need(), self.told) {
            (Some(since), Told::Nothing) if self.rival.is_some() => self.ask(since, out),
            (Some(_), Told::Nothing) => {
                self.told = Told::Seeking;
                let asker = self.place.core;
                self.pass_on(PoolMail::Seek { asker }, out);
            }
            (Some(since), Told::Asking(ask)) if ask.since != since => self.ask(since, out),
            (None, Told::Asking(_)) => {
                self.told = Told::Nothing;
                if !self.place.is_home() {
                    let asker = self.place.core;
                    self.send(self.place.home(), PoolMail::Withdraw { asker }, out);
                }
            }
            (Some(_), Told::Seeking | Told::Asking(_)) | (None, Told::Nothing | Told::Seeking) => {}
        }
        self.raise(out);
    }

    fn next_ask(&mut self, since: Instant) -> Ask {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        Ask { since, serial }
    }

    fn ask(&mut self, since: Instant, out: &mut Vec<Action<C>>) {
        let ask = self.next_ask(since);
        self.told = Told::Asking(ask);
        if !self.place.is_home() {
            let asker = self.place.core;
            self.send(self.place.home(), PoolMail::Ask { asker, ask }, out);
        }
    }

    /// The home lets those know who have not heard that permits are wanted, or not of one so old.
    fn raise(&mut self, out: &mut Vec<Action<C>>) {
        let (Some(wanted), true) = (self.wanted(), self.place.is_home()) else {
            return;
        };
        self.spread(
            Some(wanted),
            |told| told.is_none_or(|told| wanted < told),
            out,
        );
    }

    /// The home's word to all cores that believe what `outdated` says.
    fn spread(
        &mut self,
        since: Option<Instant>,
        outdated: impl Fn(Option<Instant>) -> bool,
        out: &mut Vec<Action<C>>,
    ) {
        let Some(home) = &mut self.home else {
            return;
        };
        let others = home.told.iter_mut().enumerate();
        for (to, told) in others.filter(|(to, _)| *to != self.place.core) {
            if outdated(*told) {
                *told = since;
                let mail = PoolMail::Wanted { since };
                out.push(Action::Mail { to, mail });
            }
        }
    }

    fn send(&self, to: usize, mail: PoolMail<C>, out: &mut Vec<Action<C>>) {
        out.push(Action::Mail { to, mail });
    }

    /// On to the next core.
    fn pass_on(&self, mail: PoolMail<C>, out: &mut Vec<Action<C>>) {
        self.send(self.place.next(), mail, out);
    }

    /// How long `since` is ago, not counting a pause.
    fn waited(&self, since: Option<Instant>, now: Instant) -> Duration {
        since.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(since.max(self.resumed))
        })
    }

    fn sample_wait(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.sampled).min(SMOOTHING);
        self.sampled = now;
        let weight = passed.as_secs_f64() / SMOOTHING.as_secs_f64();
        let wait = self.waited(self.waiters.oldest(), now);
        self.usual_wait = self.usual_wait.mul_f64(1.0 - weight) + wait.mul_f64(weight);
    }

    /// The slow part of lending. Called by `tick`, after `settle`.
    pub(super) fn drift(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.sample_wait(now);
        self.promise.take_if(|promise| now >= promise.until);
        if self.wanted().is_none() {
            self.spread(None, |told| told.is_some(), out);
        }
        if self.overburdened() {
            let debt = self.debt.saturating_sub(self.permits());
            let duty = self.duty - self.duty.clamp(0, signed(self.permits()));
            self.debt -= debt;
            self.duty -= duty;
            self.pass_on(PoolMail::Burden { debt, duty }, out);
        }
        if self.nudge_due().is_some_and(|due| now >= due) {
            self.next_nudge = now + NUDGE_INTERVAL;
            let asker = self.place.core;
            let wait = self.usual_wait;
            let want = self.waiters.len() - self.connecting;
            self.pass_on(PoolMail::Nudge { asker, wait, want }, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_add_up_and_move_the_same_way() {
        for cores in 1..=9 {
            for offset in 0..2 * cores {
                let place = |core| Place {
                    core,
                    cores,
                    offset,
                };
                let mut before = vec![0; cores];
                for total in 0..40 {
                    let shares: Vec<_> = (0..cores).map(|core| place(core).share(total)).collect();
                    assert_eq!(shares.iter().sum::<usize>(), total);
                    let (least, most) = (shares.iter().min(), shares.iter().max());
                    assert!(most.unwrap() - least.unwrap() <= 1);
                    assert!(shares.iter().zip(&before).all(|(now, then)| now >= then));
                    if total == 1 {
                        assert_eq!(shares[offset % cores], 1);
                    }
                    before = shares;
                }
            }
        }
    }

    #[test]
    fn the_oldest_ask_is_next() {
        let start = Instant::now();
        let ask = |millis| {
            let since = start + Duration::from_millis(millis);
            Some(Ask { since, serial: 1 })
        };
        let mut home = Home::new(4);
        assert_eq!(home.oldest(), None);
        home.asks = vec![None, ask(5), ask(2), ask(2)];
        assert_eq!(home.oldest(), Some((start + Duration::from_millis(2), 2)));
    }
}
