//! What must hold after every event: permits add up, no connection is in two places, nobody waits for what is at hand, and
//! arrival decides.

use std::time::{Duration, Instant};

use pgdog::pool::{Place, PoolStats, ORDER_SLACK};

use super::{Core, Session, World};

impl World {
    pub(super) fn check(&mut self) -> Result<(), String> {
        let stats = self.stats();
        let total = |part: fn(&PoolStats) -> usize| stats.iter().map(part).sum::<usize>();
        let permits = total(|s| s.permits) + self.mailed_permits;
        let debt = total(|s| s.debt) + self.mailed_debt;
        let told: usize = (0..self.cores.len())
            .map(|core| {
                let place = Place {
                    core,
                    cores: self.plan.cores,
                    offset: self.plan.offset,
                };
                place.share(self.cores[core].size)
            })
            .sum();
        let growth = self.mailed_growth;
        if permits + growth != told + debt {
            return Err(format!(
                "{permits} permits, {debt} of them owed, {growth} to come, for {told}"
            ));
        }
        if permits > self.ceiling {
            return Err(format!("{permits} permits, at most {}", self.ceiling));
        }
        // From here on there is nothing that could become a permit again.
        if growth == 0 && self.resizing == 0 {
            self.ceiling = self.size.max(permits);
        }
        if self.open > permits {
            return Err(format!("{} connections with {permits} permits", self.open));
        }
        self.report.open_max = self.report.open_max.max(self.open);
        let held = total(|s| s.connecting + s.idle + s.active + s.closing);
        let mailed = self.mailed_servers;
        if self.open != held + mailed {
            return Err(format!("{} open, {held} held, {mailed} mailed", self.open));
        }
        for (index, (core, stats)) in self.cores.iter_mut().zip(&stats).enumerate() {
            if stats.waiting != core.queue.len() {
                return Err(format!(
                    "core {index}: {} wait: {stats:?}",
                    core.queue.len()
                ));
            }
            if stats.idle > 0 && stats.waiting > 0 {
                return Err(format!("core {index}: idle, and clients wait: {stats:?}"));
            }
            if stats.debt > 0 && stats.free > 0 {
                return Err(format!("core {index}: free, and owed: {stats:?}"));
            }
            if stats.permits > 0 || core.is_halted() {
                core.bare_since = None;
            } else if core.bare_since.is_none() {
                core.bare_since = Some(self.now);
            }
        }
        self.check_at_hand(&stats)
    }

    /// Time after which everybody knows that a core needs a permit.
    fn lap(&self) -> Duration {
        // To seek once round, to ask, and to be made known.
        self.plan.mail_delay * u32::try_from(self.plan.cores + 2).expect("few")
    }

    /// Since when every core knows of a client that waits where there is no permit, and its arrival.
    fn known_need(&self, core: usize) -> Option<(Instant, Instant)> {
        let slice = &self.cores[core];
        let first = *slice.queue.front()?;
        let Session::Waiting { since, .. } = self.clients[first].session else {
            return None;
        };
        // A gift that came and was given on has to be asked for again.
        let gift = slice.gift_sent + self.plan.mail_delay;
        let asked = slice.bare_since?.max(since).max(gift);
        Some((asked + self.lap(), since))
    }

    /// Nothing is at hand on one core while another core's clients are known to wait and to have nothing.
    fn check_at_hand(&self, stats: &[PoolStats]) -> Result<(), String> {
        let at_hand = |(core, stats): (&Core, &PoolStats)| {
            !core.is_halted() && stats.debt == 0 && (stats.idle > 0 || stats.free > stats.waiting)
        };
        if !self.cores.iter().zip(stats).any(at_hand) {
            return Ok(());
        }
        for core in 0..self.cores.len() {
            if let Some((known, _)) = self.known_need(core) {
                if self.now > known {
                    return Err(format!("core {core} waits, others have: {stats:?}"));
                }
            }
        }
        Ok(())
    }

    /// With a single permit, arrival decides between cores, too.
    pub(super) fn check_order(&self, served: usize, since: Instant) -> Result<(), String> {
        if self.plan.limits.pool_size != 1 || self.size != 1 {
            return Ok(());
        }
        for core in (0..self.cores.len()).filter(|core| *core != served) {
            if let Some((known, earlier)) = self.known_need(core) {
                if self.now > known && earlier + ORDER_SLACK < since {
                    let (late, early) = (since - self.start, earlier - self.start);
                    return Err(format!(
                        "core {served} serves one of {late:?}, core {core} has one of {early:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
