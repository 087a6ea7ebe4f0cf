//! Which of several equally good servers comes next.
//!
//! Cores do not ask each other. **Turns** are smooth weighted round robin: each candidate earns its weight, the richest
//! is taken and pays what all have earned; in a whole round each is taken as often as its weight says, spread evenly.
//! What is even on every core is even in the sum; what is left of unfinished rounds is evened out by letting each core
//! begin at another point of the round. **Least active** compares the connections in use on this core: while all cores
//! prefer their own emptiest, the sums of two equally fast servers differ by at most one per core, and a slow server
//! fills up on every core alike. Ties are decided by chance, so that cores with little to do do not all prefer the
//! first. `cores_together` below measures both.

use std::cmp::Reverse;

use crate::config::choice::LoadBalancingStrategy;

/// A round of turns is not walked further than this for a core's beginning.
const PHASE_MAX: usize = 4096;

/// One core's choice among the servers of one shard.
#[derive(Clone, Debug)]
pub struct Turns {
    strategy: LoadBalancingStrategy,
    /// In lowest terms; all 1 where weights do not count.
    weights: Vec<u32>,
    credits: Vec<i64>,
}

impl Turns {
    /// For core `core` of `cores`, with the weight of each server.
    pub fn new(strategy: LoadBalancingStrategy, weights: &[u8], core: usize, cores: usize) -> Self {
        let weighted = strategy == LoadBalancingStrategy::WeightedRoundRobin;
        let common = weights
            .iter()
            .fold(0, |gcd, weight| greatest_common(gcd, u32::from(*weight)));
        let weights = weights.iter().map(|weight| match weighted {
            // A spare server, of weight 0, is a candidate only among its like.
            true => (u32::from(*weight) / common.max(1)).max(1),
            false => 1,
        });
        let weights: Vec<u32> = weights.collect();
        let credits = vec![0; weights.len()];
        let mut turns = Self {
            strategy,
            weights,
            credits,
        };
        let round: usize = turns.weights.iter().map(|weight| *weight as usize).sum();
        for _ in 0..(round.min(PHASE_MAX) * core / cores.max(1)) {
            turns.next(|_| true);
        }
        turns
    }

    /// One of the servers that are `candidate`s; `None` if none is. `active` counts connections in use on this core,
    /// `random` is any number.
    pub fn pick(
        &mut self,
        candidate: impl Fn(usize) -> bool,
        active: impl Fn(usize) -> usize,
        random: u64,
    ) -> Option<usize> {
        match self.strategy {
            LoadBalancingStrategy::Random => {
                let count = self.servers().filter(|server| candidate(*server)).count();
                let nth = below(count, random)?;
                self.servers().filter(|server| candidate(*server)).nth(nth)
            }
            LoadBalancingStrategy::LeastActiveConnections => {
                let candidates = || self.servers().filter(|server| candidate(*server));
                let least = candidates().map(&active).min()?;
                let equal = || candidates().filter(|server| active(*server) == least);
                equal().nth(below(equal().count(), random)?)
            }
            LoadBalancingStrategy::RoundRobin | LoadBalancingStrategy::WeightedRoundRobin => {
                self.next(candidate)
            }
        }
    }

    fn servers(&self) -> std::ops::Range<usize> {
        0..self.weights.len()
    }

    fn next(&mut self, candidate: impl Fn(usize) -> bool) -> Option<usize> {
        let mut earned = 0;
        for (server, (credit, weight)) in self.credits.iter_mut().zip(&self.weights).enumerate() {
            if candidate(server) {
                *credit += i64::from(*weight);
                earned += i64::from(*weight);
            }
        }
        let candidates = self.servers().filter(|server| candidate(*server));
        let taken = candidates.max_by_key(|server| (self.credits[*server], Reverse(*server)))?;
        self.credits[taken] -= earned;
        Some(taken)
    }
}

/// Evenly spread over `0..count`.
fn below(count: usize, random: u64) -> Option<usize> {
    let part = (count as u128 * u128::from(random)) >> 64;
    (count > 0).then(|| usize::try_from(part).expect("below a usize"))
}

fn greatest_common(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        _ => greatest_common(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::tests::Numbers;
    use LoadBalancingStrategy::{LeastActiveConnections, Random, RoundRobin, WeightedRoundRobin};

    fn sequence(strategy: LoadBalancingStrategy, weights: &[u8], count: usize) -> String {
        let mut turns = Turns::new(strategy, weights, 0, 1);
        let mut numbers = Numbers(1);
        let picks = (0..count).map(|_| turns.pick(|_| true, |_| 0, numbers.next()).unwrap());
        picks.map(|server| server.to_string()).collect()
    }

    #[test]
    fn turns_are_even_and_weights_spread() {
        assert_eq!(sequence(RoundRobin, &[255, 255, 255], 7), "0120120");
        assert_eq!(
            sequence(RoundRobin, &[200, 1, 255], 6),
            "012012",
            "weights do not count"
        );
        assert_eq!(sequence(WeightedRoundRobin, &[255, 255], 4), "0101");
        assert_eq!(sequence(WeightedRoundRobin, &[200, 100], 6), "010010");
        assert_eq!(sequence(WeightedRoundRobin, &[5, 1, 1], 7), "0010200");
        assert_eq!(sequence(WeightedRoundRobin, &[0, 0], 4), "0101");
    }

    #[test]
    fn nobody_is_picked_who_is_no_candidate() {
        for strategy in [
            Random,
            RoundRobin,
            LeastActiveConnections,
            WeightedRoundRobin,
        ] {
            let mut turns = Turns::new(strategy, &[1, 255, 3, 7], 1, 3);
            let mut numbers = Numbers(3);
            let mut seen = [0; 4];
            for _ in 0..600 {
                let picked = turns.pick(|server| server % 2 == 1, |_| 0, numbers.next());
                seen[picked.unwrap()] += 1;
            }
            assert!(
                seen[0] == 0 && seen[2] == 0 && seen[1] > 0 && seen[3] > 0,
                "{seen:?}"
            );
            assert_eq!(turns.pick(|_| false, |_| 0, 0), None);
            // Those that were away have missed their turns, and do not get them all at once.
            let back: Vec<_> = (0..8)
                .map(|_| turns.pick(|_| true, |_| 0, numbers.next()))
                .collect();
            if strategy == RoundRobin {
                let zeros = back.iter().filter(|picked| **picked == Some(0)).count();
                assert_eq!(zeros, 2, "{back:?}");
            }
        }
    }

    /// Edge case 69: the order of least connections.
    #[test]
    fn the_least_active_is_the_one_with_fewest() {
        let mut turns = Turns::new(LeastActiveConnections, &[255; 4], 0, 1);
        let active = [4, 2, 9, 3];
        for random in [0, u64::MAX / 2, u64::MAX] {
            assert_eq!(
                turns.pick(|_| true, |server| active[server], random),
                Some(1)
            );
            assert_eq!(
                turns.pick(|server| server != 1, |server| active[server], random),
                Some(3)
            );
        }
        let mut seen = [0; 2];
        let mut numbers = Numbers(9);
        for _ in 0..100 {
            seen[turns
                .pick(|server| server < 2, |_| 7, numbers.next())
                .unwrap()] += 1;
        }
        assert!(seen[0] > 30 && seen[1] > 30, "ties by chance: {seen:?}");
    }

    /// What all cores take together, each knowing only itself: requests of uneven cores, in turns.
    #[test]
    fn cores_together_are_as_even_as_one() {
        for (cores, servers) in [(2, 2), (2, 3), (8, 3), (32, 5), (96, 2)] {
            let mut all: Vec<Turns> = (0..cores)
                .map(|core| Turns::new(RoundRobin, &vec![255; servers], core, cores))
                .collect();
            let mut taken = vec![0_usize; servers];
            let mut numbers = Numbers(5);
            for request in 0..cores * 40 {
                // All get some, one core gets most.
                let core = if request % 3 == 0 {
                    request / 3 % cores
                } else {
                    0
                };
                let server = all[core].pick(|_| true, |_| 0, numbers.next()).unwrap();
                taken[server] += 1;
            }
            let spread = taken.iter().max().unwrap() - taken.iter().min().unwrap();
            assert!(spread <= servers + cores / 2, "{cores} cores: {taken:?}");
        }
        // One request per core: without different beginnings all would go to the first.
        let mut taken = [0; 4];
        for core in 0..32 {
            taken[Turns::new(RoundRobin, &[255; 4], core, 32)
                .next(|_| true)
                .unwrap()] += 1;
        }
        assert_eq!(taken, [8; 4]);
        let mut taken = [0; 3];
        for core in 0..32 {
            let mut turns = Turns::new(WeightedRoundRobin, &[200, 100, 100], core, 32);
            taken[turns.next(|_| true).unwrap()] += 1;
        }
        assert_eq!(taken, [16, 8, 8]);
    }

    /// Connections in use, over all cores, of servers of which the last is `slower`; each core compares its own counts,
    /// or all know those of all. Returns the mean of the most loaded over the least loaded of the equal ones, and the
    /// share of requests that the slow one gets.
    fn simulate(cores: usize, clients: usize, slower: u64, shared: bool) -> (f64, f64) {
        const SERVERS: usize = 3;
        let mut turns: Vec<Turns> = (0..cores)
            .map(|core| Turns::new(LeastActiveConnections, &[255; SERVERS], core, cores))
            .collect();
        let mut numbers = Numbers(11);
        let mut active = vec![[0_usize; SERVERS]; cores];
        let mut total = [0_usize; SERVERS];
        let mut done: std::collections::BinaryHeap<Reverse<(u64, usize, usize)>> = (0..clients)
            .map(|client| Reverse((client as u64, client, usize::MAX)))
            .collect();
        let (mut sum, mut served) = ([0_f64; SERVERS], [0_f64; SERVERS]);
        for _ in 0..40_000 {
            let Reverse((now, client, server)) = done.pop().unwrap();
            let core = client % cores;
            if server < SERVERS {
                active[core][server] -= 1;
                total[server] -= 1;
            }
            let counts = if shared { total } else { active[core] };
            let next = turns[core].pick(|_| true, |server| counts[server], numbers.next());
            let next = next.unwrap();
            active[core][next] += 1;
            total[next] += 1;
            served[next] += 1.0;
            (0..SERVERS).for_each(|server| sum[server] += total[server] as f64);
            let slow = if next == SERVERS - 1 { slower } else { 1 };
            let time = slow * (500 + numbers.next() % 1_000);
            done.push(Reverse((now + time, client, next)));
        }
        let equal = if slower == 1 {
            &sum[..]
        } else {
            &sum[..SERVERS - 1]
        };
        let most = equal.iter().copied().fold(0.0, f64::max);
        let least = equal.iter().copied().fold(f64::MAX, f64::min);
        (
            most / least,
            served[SERVERS - 1] / served.iter().sum::<f64>(),
        )
    }

    /// Own counts are enough: equal servers are loaded alike, a slow one gets little, nearly as with shared counts.
    #[test]
    fn least_active_needs_no_news_from_other_cores() {
        for (cores, clients) in [(1, 16), (2, 32), (8, 64), (8, 256), (32, 256)] {
            let (even, _) = simulate(cores, clients, 1, false);
            assert!(even < 1.05, "{cores} cores, {clients} clients: {even}");
            let (_, own) = simulate(cores, clients, 8, false);
            let (_, shared) = simulate(cores, clients, 8, true);
            println!("{cores} cores, {clients} clients: slow server {own:.3}, shared {shared:.3}");
            assert!(own < 0.08 && own < shared + 0.02, "{own} {shared}");
        }
    }
}
