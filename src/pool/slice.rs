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
//!    └────────────────── Donate ─────────────────┘
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
//! # Why this ends well
//!
//! - *Nothing is lost*: permits leave a core only inside a mail, and mail is delivered once.
//! - *No starvation*: only clients that came before the oldest ask go before it, and they are finitely many. As
//!   long as connections come back they reach the home, and it grants the oldest ask first.
//! - *No circle*: a core never waits for an answer. It gives what it has at that moment.
//! - *No bouncing*: with permits to spare, a borrower keeps what it got. A grant says how old the next ask is, and
//!   its receiver's client is older.
//!
//! A core that holds some permits, but too few, is the subject of `drift`.

use std::time::{Duration, Instant};

use super::mail::{Ask, Gift, PoolMail};
use super::{signed, Action, CloseReason, Lease, Pool, Rest, State};

/// Clients on different cores whose arrivals differ by less than this count as equally old, and the client of
/// the core that has the connection goes first. Spares moves while permits are wanted.
pub const ORDER_SLACK: Duration = Duration::from_micros(500);

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

    pub(super) fn next(self) -> usize {
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

    /// Does any core believe that permits are wanted?
    pub(super) fn has_told(&self) -> bool {
        self.told.iter().any(Option::is_some)
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

/// Who is next.
enum Next {
    /// Our own longest waiting client.
    Local,
    /// Another core.
    Away(Away),
    /// Nobody waits.
    Nobody,
}

/// Where a permit goes.
enum Away {
    /// From the home to a core that asks.
    Grant(usize),
    /// To the home.
    Release(usize),
    /// To a core that was promised it.
    Donate(usize),
}

impl<C> Pool<C> {
    /// Another core's mail.
    pub fn receive(&mut self, mail: PoolMail<C>, now: Instant, out: &mut Vec<Action<C>>) {
        match mail {
            PoolMail::Seek { asker } if asker == self.place.core => {
                if self.told == Told::Seeking {
                    self.told = Told::Nothing;
                    if let Some(since) = self.need() {
                        self.ask(since, out);
                    }
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
            PoolMail::Growth { grower, permits } => self.hear_growth(grower, permits, out),
            PoolMail::Burden { debt, duty } => {
                self.debt += debt;
                self.duty += duty;
            }
        }
        self.settle(now, out);
    }

    /// Permits that may still be used here: all but those to be given up.
    pub(super) fn usable(&self) -> usize {
        self.permits().saturating_sub(self.debt)
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
                    self.lend(&rest.lease);
                    out.push(Action::Serve {
                        client: waiter.client,
                        ticket,
                        lease: rest.lease,
                    });
                }
                Next::Nobody => break,
                Next::Away(to) => {
                    let gift = self.wrap_idle().expect("not empty");
                    self.hand_over(&to, gift, out);
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
                Next::Away(to) => {
                    let gift = self.wrap_free();
                    self.hand_over(&to, gift, out);
                }
            }
        }
    }

    /// The oldest claim on the next connection or permit; `local` is that of our own clients.
    fn next(&self, local: Option<Instant>, now: Instant) -> Next {
        let away = |core| match self.home {
            Some(_) => Next::Away(Away::Grant(core)),
            None => Next::Away(Away::Release(core)),
        };
        match (local, self.rival) {
            (None, Some((_, core))) => away(core),
            (Some(local), Some((since, core))) if since + ORDER_SLACK < local => away(core),
            (Some(_), Some(_)) => Next::Local,
            (_, None) => match self.promised(local, now) {
                Some(core) => Next::Away(Away::Donate(core)),
                None if local.is_some() => Next::Local,
                None => Next::Nobody,
            },
        }
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
        self.rival = since.map(|since| (since, self.place.home()));
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
    pub(super) fn wrap_surplus(&mut self) -> Option<Gift<C>> {
        let needed = self.waiters.len().saturating_sub(self.connecting);
        (self.free > needed).then(|| self.wrap_free())
    }

    /// The least recently used connection: the lender keeps those that it works with.
    pub(super) fn wrap_idle(&mut self) -> Option<Gift<C>> {
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

    fn hand_over(&mut self, to: &Away, gift: Gift<C>, out: &mut Vec<Action<C>>) {
        match *to {
            Away::Grant(core) => self.grant(core, gift, out),
            Away::Release(home) => {
                let ask = self.need().map(|since| self.next_ask(since));
                if let Some(ask) = ask {
                    self.told = Told::Asking(ask);
                }
                let from = self.place.core;
                self.send(home, PoolMail::Release { from, gift, ask }, out);
            }
            Away::Donate(core) => {
                self.promise = None;
                self.send(core, PoolMail::Donate { gift }, out);
            }
        }
    }

    /// The home gives.
    fn grant(&mut self, to: usize, gift: Gift<C>, out: &mut Vec<Action<C>>) {
        let home = self.home.as_mut().expect("only the home grants");
        let serial = home.asks[to].take().map_or(0, |ask| ask.serial);
        self.rival = home.oldest();
        let wanted = self.wanted();
        let home = self.home.as_mut().expect("only the home grants");
        home.told[to] = wanted;
        let mail = PoolMail::Grant {
            gift,
            serial,
            wanted,
        };
        self.send(to, mail, out);
    }

    /// Since when permits are wanted, as the home sees it.
    pub(super) fn wanted(&self) -> Option<Instant> {
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
    pub(super) fn spread(
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

    /// Mail for another core.
    pub(super) fn send(&self, to: usize, mail: PoolMail<C>, out: &mut Vec<Action<C>>) {
        out.push(Action::Mail { to, mail });
    }

    /// On to the next core.
    pub(super) fn pass_on(&self, mail: PoolMail<C>, out: &mut Vec<Action<C>>) {
        self.send(self.place.next(), mail, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Checkout, ClientId, Limits, Ticket};

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
        let start = crate::pool::tests::start();
        let ask = |millis| {
            let since = start + Duration::from_millis(millis);
            Some(Ask { since, serial: 1 })
        };
        let mut home = Home::new(4);
        assert_eq!(home.oldest(), None);
        home.asks = vec![None, ask(5), ask(2), ask(2)];
        assert_eq!(home.oldest(), Some((start + Duration::from_millis(2), 2)));
    }

    /// The slices of all cores, and the mail between them.
    struct Cores {
        pools: Vec<Pool<u32>>,
        leases: Vec<Vec<Lease<u32>>>,
        mail: Vec<(usize, PoolMail<u32>)>,
        log: Vec<String>,
        now: Instant,
        out: Vec<Action<u32>>,
    }

    impl Cores {
        /// `pool_size` connections, open and idle at first, home on core 0.
        fn new(cores: usize, pool_size: usize) -> Self {
            let now = crate::pool::tests::start();
            let limits = Limits {
                pool_size,
                min_pool_size: pool_size,
                ..Limits::default()
            };
            let slice = |core| {
                let place = Place {
                    core,
                    cores,
                    offset: 0,
                };
                Pool::new(place, limits.clone(), 1, now)
            };
            let mut new = Self {
                pools: (0..cores).map(slice).collect(),
                leases: (0..cores).map(|_| Vec::new()).collect(),
                mail: Vec::new(),
                log: Vec::new(),
                now,
                out: Vec::new(),
            };
            for core in 0..cores {
                new.pools[core].tick(now, &mut new.out);
                for _ in 0..new.out.drain(..).count() {
                    new.pools[core].connected(0, 0, now, &mut new.out);
                }
            }
            new
        }

        /// A client takes a connection, or waits for one.
        fn checkout(&mut self, core: usize) -> Option<Ticket> {
            self.now += Duration::from_millis(1);
            let answer = self.pools[core].checkout(ClientId(0), self.now, &mut self.out);
            self.carry_out(core);
            match answer {
                Checkout::Ready(lease) => {
                    self.leases[core].push(lease);
                    None
                }
                Checkout::Wait(ticket) => Some(ticket),
                Checkout::Closed => panic!("open"),
            }
        }

        fn checkin(&mut self, core: usize) {
            let lease = self.leases[core].pop().expect("one is checked out");
            self.pools[core].checkin(lease, self.now, &mut self.out);
            self.carry_out(core);
        }

        fn cancel(&mut self, core: usize, ticket: Ticket) {
            self.pools[core].cancel(ticket, self.now, &mut self.out);
            self.carry_out(core);
        }

        fn tick(&mut self, core: usize) {
            self.pools[core].tick(self.now, &mut self.out);
            self.carry_out(core);
        }

        fn carry_out(&mut self, core: usize) {
            for action in self.out.drain(..) {
                match action {
                    Action::Mail { to, mail } => {
                        let name = format!("{mail:?}");
                        let name = name.split(' ').next().expect("a name");
                        self.log.push(format!("{core}>{to} {name}"));
                        self.mail.push((to, mail));
                    }
                    Action::Serve { lease, .. } => {
                        self.log.push(format!("{core} serves"));
                        self.leases[core].push(lease);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        fn deliver_one(&mut self) {
            let (core, mail) = self.mail.remove(0);
            self.pools[core].receive(mail, self.now, &mut self.out);
            self.carry_out(core);
        }

        /// What happens until no mail is on its way, and what has happened since the last call.
        fn run(&mut self) -> Vec<String> {
            while !self.mail.is_empty() {
                self.deliver_one();
            }
            std::mem::take(&mut self.log)
        }
    }

    #[test]
    fn who_seeks_gets_the_first_that_is_spare() {
        let mut cores = Cores::new(4, 2);
        cores.checkout(0);
        cores.checkout(3);
        assert_eq!(
            cores.run(),
            ["3>0 Seek", "0>1 Seek", "1>3 Donate", "3 serves"]
        );
        // It keeps what it got.
        cores.checkin(3);
        cores.checkout(3);
        assert_eq!(cores.run(), [""; 0]);
    }

    #[test]
    fn one_connection_goes_to_the_oldest_for_two_mails() {
        let mut cores = Cores::new(3, 1);
        cores.checkout(0);
        cores.checkout(1);
        let search = ["1>2 Seek", "2>0 Seek", "0>1 Seek", "1>0 Ask"];
        let raised = ["0>1 Wanted", "0>2 Wanted"];
        assert_eq!(cores.run(), [&search[..], &raised[..]].concat());
        // From now on everybody asks directly.
        cores.checkout(2);
        cores.checkout(0);
        assert_eq!(cores.run(), ["2>0 Ask"]);
        cores.checkin(0);
        assert_eq!(cores.run(), ["0>1 Grant", "1 serves"]);
        cores.checkout(1);
        cores.checkin(1);
        assert_eq!(cores.run(), ["1>0 Release", "0>2 Grant", "2 serves"]);
        // Core 0 has waited since before core 1 asked again.
        cores.checkin(2);
        assert_eq!(cores.run(), ["2>0 Release", "0 serves"]);
        cores.checkin(0);
        assert_eq!(cores.run(), ["0>1 Grant", "1 serves"]);
        // Core 1 was told by the grant that nobody else waits.
        cores.checkin(1);
        assert_eq!(cores.run(), [""; 0]);
    }

    #[test]
    fn a_release_that_is_not_needed_comes_back_and_the_others_are_told() {
        let mut cores = Cores::new(3, 2);
        cores.checkout(0);
        cores.checkout(1);
        let ticket = cores.checkout(2).expect("nothing is idle");
        cores.run();
        cores.cancel(2, ticket);
        assert_eq!(cores.run(), ["2>0 Withdraw"]);
        cores.checkin(1);
        assert_eq!(cores.run(), ["1>0 Release", "0>1 Grant"]);
        assert_eq!(cores.pools[1].stats(cores.now).idle, 1);
        cores.tick(0);
        assert_eq!(cores.run(), ["0>2 Wanted"]);
        assert!(cores.pools.iter().all(|pool| pool.rival.is_none()));
    }

    #[test]
    fn an_ask_that_crossed_a_grant_is_withdrawn() {
        let mut cores = Cores::new(2, 1);
        cores.checkout(0);
        let first = cores.checkout(1).expect("nothing is idle");
        cores.checkout(1);
        cores.run();
        // The grant is on its way when the client leaves, and the next one's ask meets it.
        cores.checkin(0);
        cores.cancel(1, first);
        assert_eq!(cores.log, ["0>1 Grant", "1>0 Ask"]);
        let rest = cores.run();
        assert!(rest.contains(&"1>0 Withdraw".to_owned()), "{rest:?}");
        assert_eq!(cores.pools[0].rival, None);
    }
}
