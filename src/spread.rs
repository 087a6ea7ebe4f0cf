//! How many cores serve clients, and which of their clients change cores.
//!
//! Two cores that are half idle cost more than one that is busy: each is woken for nearly every message, where a busy one
//! takes several at a time. So the first cores serve all clients while that is little work, and more of them as it grows.
//! A core that serves none is *parked*: it lends its server connections, and leaves its listening socket to the others.
//!
//! Source: on the allocation of cores to a load, Qin et al., "Arachne: Core-Aware Thread Management", OSDI 2018.

use std::cell::Cell;

/// Above this share of its CPU, in permille, a core has too much to do, and others help.
const HIGH_PERMILLE: usize = 750;
/// What cores that help are to come to.
const GOAL_PERMILLE: usize = 600;
/// A core is not needed if the rest do not come to more than this.
const LOW_PERMILLE: usize = 400;
/// For so many looks it must not have been needed.
const CALM_LOOKS: u32 = 10;
/// A core gives clients away when it has more than the mean and one part in this of it, or one client.
const TOLERANCE: usize = 16;

/// How many cores are in use. The first core decides, by looking at all of them once a second.
#[derive(Clone, Debug)]
pub struct Spread {
    cores: usize,
    active: usize,
    calm: u32,
}

/// What a core has had to do since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Clients, with those that are about to log in.
    pub clients: usize,
    /// CPU time taken, in permille of the time that has passed.
    pub busy: usize,
}

impl Spread {
    /// Of so many cores the first one serves clients.
    pub fn new(cores: usize) -> Self {
        Self {
            cores: cores.max(1),
            active: 1,
            calm: 0,
        }
    }

    /// How many cores serve clients: those with the lowest numbers.
    pub fn active(&self) -> usize {
        self.active
    }

    /// There are so many clients, `per_core` of which a core takes before another one does.
    pub fn count(&mut self, clients: usize, per_core: usize) {
        let needed = self.needed_by(clients, per_core);
        if needed > self.active {
            self.active = needed;
            self.calm = 0;
        }
    }

    /// A look at all cores.
    pub fn look(&mut self, loads: &[Load], per_core: usize) {
        let clients = loads.iter().map(|load| load.clients).sum();
        let busy: usize = loads.iter().map(|load| load.busy).sum();
        let busiest = loads.iter().map(|load| load.busy).max().unwrap_or_default();
        self.count(clients, per_core);
        if busy > self.active * HIGH_PERMILLE {
            self.active = busy.div_ceil(GOAL_PERMILLE).clamp(self.active, self.cores);
            self.calm = 0;
            return;
        }
        // Where fewer do as well: by number with some to spare, so that it does not change with each client.
        let by_number = self.needed_by(clients + clients / 4, per_core);
        let needed = by_number.max(busy.div_ceil(LOW_PERMILLE)).max(1);
        if needed >= self.active || busiest > HIGH_PERMILLE {
            self.calm = 0;
            return;
        }
        self.calm += 1;
        if self.calm >= CALM_LOOKS {
            self.active = needed;
            self.calm = 0;
        }
    }

    fn needed_by(&self, clients: usize, per_core: usize) -> usize {
        clients.div_ceil(per_core.max(1)).clamp(1, self.cores)
    }
}

/// Does core number `core` accept the connections of listening socket number `socket`, one of `sockets`, while `active` cores
/// serve clients? A socket that no active core would serve is left to one that does not have it otherwise.
pub fn serves(core: usize, socket: usize, sockets: usize, active: usize) -> bool {
    core < active && (core % sockets == socket || socket % active == core)
}

/// How many clients core number `here` should give away, where its own and other cores have `clients`: all if it is parked, what it
/// has above the mean if that is a good deal.
pub fn surplus(here: usize, clients: &[Cell<usize>], active: usize) -> usize {
    let Some(mine) = clients.get(here).map(Cell::get) else {
        return 0;
    };
    if here >= active {
        return mine;
    }
    let mean = clients.iter().map(Cell::get).sum::<usize>() / active;
    match mine > mean + (mean / TOLERANCE).max(1) {
        true => mine - mean,
        false => 0,
    }
}

/// Where a client of core number `here` should go: to the one with fewer clients of two others chosen at random among the active ones, so
/// that not all cores flood the same one on old news. `None`: nobody has fewer, or there are no others.
pub fn destination(
    here: usize,
    clients: &[Cell<usize>],
    active: usize,
    random: [u8; 4],
) -> Option<usize> {
    let parked = here >= active;
    let others = active.checked_sub(usize::from(!parked))?;
    if others == 0 {
        return None;
    }
    let [a, b, c, d] = random;
    let [a, b] = [[a, b], [c, d]].map(|bytes| {
        let chance = usize::from(u16::from_ne_bytes(bytes)) % others;
        match parked {
            true => chance,
            false => (here + 1 + chance) % active,
        }
    });
    let of = |core: usize| clients.get(core).map_or(usize::MAX, Cell::get);
    let other = if of(a) <= of(b) { a } else { b };
    (parked || of(other) < of(here)).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PER_CORE: usize = 64;

    fn loads(cores: &[(usize, usize)]) -> Vec<Load> {
        let load = |&(clients, busy): &(usize, usize)| Load { clients, busy };
        cores.iter().map(load).collect()
    }

    #[test]
    fn few_clients_with_little_to_do_have_one_core() {
        let mut spread = Spread::new(4);
        spread.count(64, PER_CORE);
        assert_eq!(spread.active(), 1);
        spread.look(&loads(&[(64, 750), (0, 0), (0, 0), (0, 0)]), PER_CORE);
        assert_eq!(spread.active(), 1);
    }

    #[test]
    fn many_clients_have_all_cores_at_once() {
        let mut spread = Spread::new(4);
        spread.count(65, PER_CORE);
        assert_eq!(spread.active(), 2);
        spread.count(1000, PER_CORE);
        assert_eq!(spread.active(), 4);
    }

    /// Each look shows what cores can do at most, until they can do what there is.
    #[test]
    fn work_has_as_many_cores_as_it_needs_within_seconds() {
        let mut spread = Spread::new(32);
        let work = 10_000;
        let mut looks = 0;
        while work / spread.active() > 750 {
            let busy = (work / spread.active()).min(1000);
            let mut cores = vec![(1, busy); spread.active()];
            cores.resize(32, (0, 0));
            spread.look(&loads(&cores), PER_CORE);
            looks += 1;
        }
        assert!(looks <= 6, "{looks} looks");
        assert!((13..=17).contains(&spread.active()), "{}", spread.active());
    }

    #[test]
    fn a_core_is_parked_when_it_was_not_needed_for_a_while() {
        let mut spread = Spread::new(2);
        spread.look(&loads(&[(8, 900), (0, 0)]), PER_CORE);
        assert_eq!(spread.active(), 2);
        let quiet = loads(&[(4, 150), (4, 200)]);
        for _ in 1..CALM_LOOKS {
            spread.look(&quiet, PER_CORE);
            assert_eq!(spread.active(), 2);
        }
        spread.look(&quiet, PER_CORE);
        assert_eq!(spread.active(), 1);
        // A single look at work amid begins the time anew.
        let mut spread = Spread::new(2);
        spread.count(65, PER_CORE);
        for look in 0..100 {
            let busy = if look % 10 == 9 { 300 } else { 100 };
            spread.look(&loads(&[(4, busy), (4, busy)]), PER_CORE);
            assert_eq!(spread.active(), 2, "look {look}");
        }
    }

    /// One core with a client that takes all of it is not given the others' clients as well.
    #[test]
    fn no_core_is_parked_while_another_has_too_much_to_do() {
        let mut spread = Spread::new(4);
        spread.count(256, PER_CORE);
        for _ in 0..100 {
            spread.look(&loads(&[(1, 950), (1, 10), (1, 10), (1, 10)]), PER_CORE);
        }
        assert_eq!(spread.active(), 4);
    }

    #[test]
    fn a_number_of_clients_on_the_edge_does_not_go_back_and_forth() {
        let mut spread = Spread::new(4);
        for look in 0..100 {
            let clients = 64 + look % 2;
            spread.look(&loads(&[(clients, 100), (0, 0)]), PER_CORE);
            assert!(spread.active() == 2 || look == 0);
        }
    }

    proptest! {
        #[test]
        fn each_socket_is_served_and_none_by_a_parked_core(cores in 1_usize..40, sockets in 1_usize..40, active in 1_usize..40) {
            let (sockets, active) = (sockets.min(cores), active.min(cores));
            for socket in 0..sockets {
                let mut serving = (0..cores).filter(|core| serves(*core, socket, sockets, active));
                prop_assert!(serving.clone().all(|core| core < active));
                prop_assert!(serving.next().is_some());
            }
        }

        /// However few are active: who is not gives all away, and to those who are.
        #[test]
        fn clients_go_to_active_cores_with_fewer(
            clients in prop::collection::vec(0_usize..500, 1..40), here: prop::sample::Index, active: prop::sample::Index, random: [u8; 4],
        ) {
            let (here, active) = (here.index(clients.len()), active.index(clients.len()) + 1);
            let known: Vec<_> = clients.iter().copied().map(Cell::new).collect();
            if here >= active {
                prop_assert_eq!(surplus(here, &known, active), clients[here]);
            }
            match destination(here, &known, active, random) {
                Some(other) => {
                    prop_assert!(other < active && other != here);
                    prop_assert!(here >= active || clients[other] < clients[here]);
                }
                None => prop_assert!(here < active),
            }
        }
    }

    /// Clients come to cores as chance has it, with news of the others as old as the tolerance lets it be.
    #[test]
    fn clients_spread_over_cores_however_they_come() {
        for (cores, skew) in [(1, 1), (2, 1), (2, 5), (8, 1), (8, 3), (96, 2)] {
            let mut seed = 7_u64;
            let mut random = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as usize
            };
            let mut clients = vec![0; cores];
            let mut published = vec![0; cores];
            let known = vec![vec![Cell::new(0); cores]; cores];
            for _ in 0..cores * 100 {
                let came_to = random() % cores / skew;
                known[came_to][came_to].set(clients[came_to]);
                let [a, b, ..] = random().to_ne_bytes();
                let other = (surplus(came_to, &known[came_to], cores) > 0)
                    .then(|| destination(came_to, &known[came_to], cores, [a, b, b, a]));
                let core = other.flatten().unwrap_or(came_to);
                known[came_to][core].set(known[came_to][core].get() + 1);
                clients[core] += 1;
                if clients[core] - published[core] > clients[core] / TOLERANCE {
                    published[core] = clients[core];
                    known
                        .iter()
                        .for_each(|known| known[core].set(clients[core]));
                }
            }
            let (most, least) = (clients.iter().max().unwrap(), clients.iter().min().unwrap());
            assert!(
                *most <= 115 && *least >= 85,
                "{cores} cores, skew {skew}: {clients:?}"
            );
        }
    }
}
