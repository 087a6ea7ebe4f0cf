//! Pools by the labels of their metrics: one series for all that have the same, whose counts never go back.
//!
//! A reload makes another pool of one whose login at the server or number of shards has changed. While the former one is on its way
//! out both are there, and when it is gone what it has counted stays with its successor.

use std::collections::HashMap;

use crate::metrics::family::Labels;
use crate::snapshot::PoolSnapshot;

use super::pools::pool_labels;

/// What pools have counted that are there no more, as long as others have their labels.
#[derive(Debug, Default)]
pub struct Past {
    /// As they were when they were last told.
    told: Vec<PoolSnapshot>,
    gone: HashMap<Labels, PoolSnapshot>,
}

impl Past {
    /// These are the pools of this moment, about to be told. Answers what is to be added to them.
    pub fn look(&mut self, pools: Vec<PoolSnapshot>) -> Vec<PoolSnapshot> {
        for before in std::mem::replace(&mut self.told, pools) {
            if self.told.iter().any(|pool| pool.id == before.id) {
                continue;
            }
            let gone = self.gone.entry(pool_labels(&before.config));
            gone.and_modify(|gone| gone.add_counts(&before))
                .or_insert(before);
        }
        let labels: Vec<_> = self
            .told
            .iter()
            .map(|pool| pool_labels(&pool.config))
            .collect();
        self.gone.retain(|gone, _| labels.contains(gone));
        self.gone.values().cloned().collect()
    }
}

/// Those that have the same labels as one, which is the newest of them but for what they have together.
pub(super) fn by_labels(pools: Vec<PoolSnapshot>, past: &[PoolSnapshot]) -> Vec<PoolSnapshot> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut series: Vec<PoolSnapshot> = Vec::with_capacity(pools.len());
    for pool in pools.into_iter().rev() {
        let labels = pool_labels(&pool.config);
        match places.get(&labels).and_then(|at| series.get_mut(*at)) {
            Some(newer) => newer.add(&pool),
            None => {
                places.insert(labels, series.len());
                series.push(pool);
            }
        }
    }
    for gone in past {
        let place = places.get(&pool_labels(&gone.config));
        if let Some(pool) = place.and_then(|at| series.get_mut(*at)) {
            pool.add_counts(gone);
        }
    }
    series.reverse();
    series
}
