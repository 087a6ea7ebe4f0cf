//! What went on lately: the control thread looks at all cores at the end of every `stats_period`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::admin::show::Pace;
use crate::catalogue::View;
use crate::metrics::{Distributions, Totals, Windows};
use crate::pool::PoolId;
use crate::snapshot::CoreSnapshot;

/// Shorter periods would cost more than they tell.
const PERIOD_MIN: Duration = Duration::from_millis(100);

/// Numbers of the last whole period.
#[derive(Default)]
pub(super) struct Recent {
    pub(super) pace: Pace,
    pub(super) windows: Windows<PoolId>,
    next: Option<Instant>,
}

impl Recent {
    /// Begins the first period.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: Some(now),
            ..Self::default()
        }
    }

    /// When the period ends; never, if it has no end.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Begins the next period: the cores are being asked.
    pub(super) fn begin(&mut self, now: Instant, period: Duration) {
        self.next = now.checked_add(period.max(PERIOD_MIN));
    }

    /// The cores have answered, with the latencies of their pools.
    pub(super) fn looked(&mut self, cores: &[CoreSnapshot]) {
        self.pace.look(cores);
        let mut pools: BTreeMap<PoolId, (Totals, Distributions)> = BTreeMap::new();
        for slice in cores.iter().flat_map(|core| &core.pools) {
            let (totals, latencies) = pools.entry(slice.id).or_default();
            *totals += &slice.totals;
            if let Some(more) = &slice.latencies {
                *latencies += more;
            }
        }
        if let Some(taken) = cores.iter().map(|core| core.taken).max() {
            let pools = pools.into_iter();
            let pools = pools.map(|(id, (totals, latencies))| (id, totals, latencies));
            self.windows.close(taken, pools);
        }
    }
}

impl Recent {
    /// Puts these numbers beside what the cores have said.
    pub(super) fn show(&self, cores: &[CoreSnapshot], view: &mut View) {
        let ids = cores
            .iter()
            .flat_map(|core| &core.pools)
            .map(|pool| pool.id);
        view.averages = ids
            .filter_map(|id| Some((id, self.windows.last(id)?.averages.clone())))
            .collect();
        let busy = |core| self.pace.share(core).unwrap_or(0.0);
        view.busy = cores.iter().map(busy).collect();
    }
}
