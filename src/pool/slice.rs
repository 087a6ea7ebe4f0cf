//! Permits of one core: whom the next free one goes to, when to ask other cores, give, keep.
//!
//! # How a permit finds the core that needs it
//!
//! Cores form a ring. A core whose clients wait and that holds no permit **asks**: the mail goes round the ring.
//! The first core that has an idle connection or a free permit to spare gives it and stops the mail; every core
//! that has not remembers the ask. A permit that comes free later goes to the oldest claim that its core knows of:
//! its own longest waiting client or a remembered ask. A core that needs nothing more **withdraws**; that mail
//! follows the ask as far as it went. Gifts travel straight to whom they are for.
//!
//! ```text
//!            Ask ──►        Ask ──►        Ask ──►
//!   [0] waits     [1] busy       [2] busy       [3] has an idle connection
//!    ▲             remembers      remembers      │
//!    └──────────────── Server{lease} ────────────┘
//!        Withdraw ──►   Withdraw ──►   Withdraw ──► stops
//! ```
//!
//! A core that holds permits but too few sends a **nudge** round the ring, now and then: unused permits are given
//! to it, or the first core whose clients would still wait less after giving one promises its next.
//!
//! # Why this ends well
//!
//! - *Nothing is lost*: permits leave a core only inside a mail, and mail is delivered once.
//! - *No starvation*: an ask is older than every client that comes after it, on every core that heard of it. As
//!   long as connections come back it becomes the oldest claim there is, and a core gives to the oldest claim.
//! - *No circle*: a core never waits for an answer. It gives what it has at that moment or remembers.
//! - *No bouncing*: a gift goes from a younger claim to an older one, a promise from a shorter wait to a longer
//!   one with a margin that the way back would have to overcome again.

use std::time::{Duration, Instant};

use super::{signed, Action, CloseReason, Lease, Pool, Rest, State};

/// Clients on different cores whose arrivals differ by less than this count as equally old, and the client of
/// the core that has the connection goes first. Spares a move per transaction when the pool is smaller than the
/// number of cores.
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
}

/// What slices of one pool send each other.
///
/// To be delivered exactly once, and in order between any two cores: permits and connections travel in it.
#[derive(Debug)]
pub enum PoolMail<C> {
    /// `asker` holds no permit, and a client there waits since `since`.
    Ask {
        /// Who asks.
        asker: usize,
        /// Arrival of its longest waiting client.
        since: Instant,
    },
    /// `asker` needs nothing any more.
    Withdraw {
        /// Who had asked.
        asker: usize,
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
    /// A permit to open a connection.
    Permit {
        /// The duty to keep one connection of `min_pool_size` open comes along.
        duty: bool,
    },
    /// A permit and the idle connection bound to it.
    Server {
        /// The connection.
        lease: Lease<C>,
        /// As in `Permit`.
        duty: bool,
    },
    /// What a core cannot bear itself after a resize, because permits have moved; goes round until someone can.
    Burden {
        /// Permits to give up.
        debt: usize,
        /// Connections to be kept open, or, if negative, fewer to be kept open.
        duty: isize,
    },
}

impl<C> PoolMail<C> {
    /// The same mail for another kind of connection, as long as it carries none.
    ///
    /// Errors: the lease that it carries, and whether a duty comes along.
    pub fn without_server<D>(self) -> Result<PoolMail<D>, (Lease<C>, bool)> {
        Ok(match self {
            Self::Server { lease, duty } => return Err((lease, duty)),
            Self::Ask { asker, since } => PoolMail::Ask { asker, since },
            Self::Withdraw { asker } => PoolMail::Withdraw { asker },
            Self::Nudge { asker, wait, want } => PoolMail::Nudge { asker, wait, want },
            Self::Permit { duty } => PoolMail::Permit { duty },
            Self::Burden { debt, duty } => PoolMail::Burden { debt, duty },
        })
    }
}

/// What a core knows of another one's ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing, or we stopped its ask by giving: no core after us knows of it.
    Nothing,
    /// It waits. `passed_on`: cores after us have heard of it.
    Asking { since: Instant, passed_on: bool },
    /// We gave, but cores after us have heard of its ask.
    Given,
}

/// Asks of the other cores, by core.
#[derive(Debug)]
pub(super) struct Asks {
    known: Vec<Known>,
    /// How many of them are `Asking`.
    open: usize,
}

impl Asks {
    pub(super) fn new(cores: usize) -> Self {
        Self {
            known: vec![Known::Nothing; cores],
            open: 0,
        }
    }

    /// Cores known to wait.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    fn set(&mut self, core: usize, known: Known) -> Known {
        let before = std::mem::replace(&mut self.known[core], known);
        self.open += usize::from(matches!(known, Known::Asking { .. }));
        self.open -= usize::from(matches!(before, Known::Asking { .. }));
        before
    }

    /// The longest waiting core; among equals the first.
    fn oldest(&self) -> Option<(Instant, usize)> {
        if self.open == 0 {
            return None;
        }
        self.known
            .iter()
            .enumerate()
            .filter_map(|(core, known)| match known {
                Known::Asking { since, .. } => Some((*since, core)),
                Known::Nothing | Known::Given => None,
            })
            .min()
    }

    /// `core` gets what it asked for.
    fn answer(&mut self, core: usize) {
        let after = match self.known[core] {
            Known::Asking {
                passed_on: false, ..
            }
            | Known::Nothing => Known::Nothing,
            Known::Asking {
                passed_on: true, ..
            }
            | Known::Given => Known::Given,
        };
        self.set(core, after);
    }
}

/// What the others have been told of our own need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing, or that we need nothing.
    Nothing,
    /// That we ask, since then.
    Asking(Instant),
    /// That we ask; meanwhile a permit came. To be corrected: at once when nobody waits here any more, otherwise
    /// when we ask again, or at the next tick.
    Outdated,
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
    Core(usize),
    Nobody,
}

impl<C> Pool<C> {
    /// Another core's mail.
    pub fn receive(&mut self, mail: PoolMail<C>, now: Instant, out: &mut Vec<Action<C>>) {
        match mail {
            PoolMail::Ask { asker, since } => self.hear_ask(asker, since, now, out),
            PoolMail::Withdraw { asker } => {
                let before = self.asks.set(asker, Known::Nothing);
                if before != Known::Nothing {
                    self.pass_on(asker, PoolMail::Withdraw { asker }, out);
                }
            }
            PoolMail::Nudge { asker, wait, want } => self.hear_nudge(asker, wait, want, now, out),
            PoolMail::Permit { duty } => {
                self.free += 1;
                self.accept(duty);
                self.settle(now, out);
            }
            PoolMail::Server { lease, duty } => {
                self.accept(duty);
                self.rest(lease, now, out);
                self.settle(now, out);
            }
            PoolMail::Burden { debt, duty } => {
                self.debt += debt;
                self.duty += duty;
                self.settle(now, out);
            }
        }
    }

    /// Permits that may still be used here: all but those to be given up.
    fn usable(&self) -> usize {
        self.permits().saturating_sub(self.debt)
    }

    /// True while this core has something to tell the next one at its next tick.
    pub(super) fn owes(&self) -> bool {
        self.told == Told::Outdated || self.overburdened()
    }

    /// Does this core owe permits, or the upkeep of connections, for which it has no permits?
    fn overburdened(&self) -> bool {
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
        match self.unfit(&lease, now) {
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
                // The least recently used one: the lender keeps those that it works with.
                Next::Core(core) => {
                    let rest = self.idle.pop_front().expect("not empty");
                    self.give_server(core, rest.lease, out);
                }
                Next::Nobody => break,
            }
        }
    }

    fn settle_free(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        while self.free > 0 {
            // With more than our clients need, others need not be older than they are.
            let needed = self.waiters.len().saturating_sub(self.connecting);
            let local = self.waiters.oldest().filter(|_| self.free <= needed);
            match self.next(local, now) {
                Next::Core(core) => self.give_permit(core, out),
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
            }
        }
    }

    /// The oldest claim on the next connection or permit; `local` is that of our own clients.
    fn next(&self, local: Option<Instant>, now: Instant) -> Next {
        match (local, self.asks.oldest()) {
            (None, Some((_, core))) => return Next::Core(core),
            (Some(local), Some((since, core))) if since + ORDER_SLACK < local => {
                return Next::Core(core)
            }
            (Some(_), Some(_)) => return Next::Local,
            (_, None) => {}
        }
        match self.promise {
            Some(promise) if self.lends(promise.wait, local, now) && now < promise.until => {
                Next::Core(promise.core)
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

    fn hear_ask(&mut self, asker: usize, since: Instant, now: Instant, out: &mut Vec<Action<C>>) {
        let passed_on = self.asks.known[asker] != Known::Nothing;
        self.asks.set(asker, Known::Asking { since, passed_on });
        self.settle(now, out);
        if let Known::Asking { since, .. } = self.asks.known[asker] {
            let passed_on = true;
            self.asks.set(asker, Known::Asking { since, passed_on });
            self.pass_on(asker, PoolMail::Ask { asker, since }, out);
        }
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
            while want > 0 && self.give_unused(asker, now, out) {
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
            self.settle(now, out);
        }
        if want > 0 {
            self.pass_on(asker, PoolMail::Nudge { asker, wait, want }, out);
        }
    }

    /// Gives a permit that nobody here needs or needed in the last moments.
    fn give_unused(&mut self, to: usize, now: Instant, out: &mut Vec<Action<C>>) -> bool {
        let unused = |rest: &Rest<C>| now.saturating_duration_since(rest.since) >= RECENT;
        if self.idle.front().is_some_and(unused) {
            let rest = self.idle.pop_front().expect("seen above");
            self.give_server(to, rest.lease, out);
            return true;
        }
        let needed = self.waiters.len().saturating_sub(self.connecting);
        if self.free > needed {
            self.give_permit(to, out);
            return true;
        }
        false
    }

    fn give_server(&mut self, to: usize, lease: Lease<C>, out: &mut Vec<Action<C>>) {
        let mail = PoolMail::Server {
            lease,
            duty: self.hand_over_duty(),
        };
        self.give(to, mail, out);
    }

    fn give_permit(&mut self, to: usize, out: &mut Vec<Action<C>>) {
        self.free -= 1;
        let mail = PoolMail::Permit {
            duty: self.hand_over_duty(),
        };
        self.give(to, mail, out);
    }

    fn give(&mut self, to: usize, mail: PoolMail<C>, out: &mut Vec<Action<C>>) {
        self.asks.answer(to);
        self.promise.take_if(|promise| promise.core == to);
        self.given += 1;
        out.push(Action::Mail { to, mail });
    }

    /// The duty to keep a connection open goes where the connection goes, so that `min_pool_size` stays a total.
    fn hand_over_duty(&mut self) -> bool {
        let moves = self.duty > 0 && signed(self.servers()) < self.duty;
        self.duty -= isize::from(moves);
        moves
    }

    /// A gift came.
    fn accept(&mut self, duty: bool) {
        self.duty += isize::from(duty);
        if let Told::Asking(_) = self.told {
            self.told = Told::Outdated;
        }
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

    /// Tells the other cores if our need is not what they were told.
    fn tell(&mut self, out: &mut Vec<Action<C>>) {
        let need = match self.waiters.oldest() {
            Some(since) if self.state == State::Open && self.usable() == 0 => Some(since),
            _ => None,
        };
        let asker = self.place.core;
        match (need, self.told) {
            (Some(since), told) if told != Told::Asking(since) => {
                self.told = Told::Asking(since);
                self.pass_on(asker, PoolMail::Ask { asker, since }, out);
            }
            (None, Told::Asking(_) | Told::Outdated) if self.waiters.is_empty() => {
                self.withdraw(out);
            }
            (None, Told::Asking(_)) => self.told = Told::Outdated,
            (None, Told::Nothing | Told::Outdated) | (Some(_), _) => {}
        }
    }

    fn withdraw(&mut self, out: &mut Vec<Action<C>>) {
        let asker = self.place.core;
        self.told = Told::Nothing;
        self.pass_on(asker, PoolMail::Withdraw { asker }, out);
    }

    /// On to the next core of the ring, unless the mail has been everywhere.
    fn pass_on(&mut self, origin: usize, mail: PoolMail<C>, out: &mut Vec<Action<C>>) {
        let to = self.place.next();
        if to != origin {
            out.push(Action::Mail { to, mail });
        }
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

    /// The slow part of lending: corrections, nudges, debts. Called by `tick`, after `settle`.
    pub(super) fn drift(&mut self, now: Instant, out: &mut Vec<Action<C>>) {
        self.sample_wait(now);
        self.promise.take_if(|promise| now >= promise.until);
        if self.told == Told::Outdated {
            self.withdraw(out);
        }
        if self.overburdened() {
            let debt = self.debt.saturating_sub(self.permits());
            let duty = self.duty - self.duty.clamp(0, signed(self.permits()));
            self.debt -= debt;
            self.duty -= duty;
            let to = self.place.next();
            let mail = PoolMail::Burden { debt, duty };
            out.push(Action::Mail { to, mail });
        }
        if self.nudge_due().is_some_and(|due| now >= due) {
            self.next_nudge = now + NUDGE_INTERVAL;
            let asker = self.place.core;
            let want = self.waiters.len() - self.connecting;
            let wait = self.usual_wait;
            self.pass_on(asker, PoolMail::Nudge { asker, wait, want }, out);
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
    fn the_oldest_ask_is_next_and_is_forgotten_once_answered() {
        let start = Instant::now();
        let later = start + Duration::from_millis(1);
        let mut asks = Asks::new(4);
        let asking = |since, passed_on| Known::Asking { since, passed_on };
        asks.set(1, asking(later, true));
        asks.set(3, asking(start, false));
        asks.set(2, asking(start, true));
        assert_eq!(asks.oldest(), Some((start, 2)));
        asks.answer(2);
        assert_eq!(
            (asks.known[2], asks.oldest()),
            (Known::Given, Some((start, 3)))
        );
        asks.answer(3);
        assert_eq!(
            (asks.known[3], asks.oldest()),
            (Known::Nothing, Some((later, 1)))
        );
        asks.answer(1);
        asks.answer(0);
        assert_eq!(asks.open(), 0);
        assert_eq!(asks.oldest(), None);
    }
}
