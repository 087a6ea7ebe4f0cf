//! What a core does now and then: its slices' deadlines, and clients that have been silent for too long.

use std::rc::Rc;
use std::time::Duration;

use crate::pool::Pool;

use super::core_state::{Activity, CoreState, Notice};

/// Coarse: time-outs are late by this much at most.
const TICK: Duration = Duration::from_millis(50);

/// However pressing it is.
const TICK_MIN: Duration = Duration::from_millis(2);

/// Ticks for as long as the core runs.
pub(super) async fn tick(state: Rc<CoreState>) {
    loop {
        let pools = state.pools();
        for slot in pools.iter() {
            slot.decide(&state, Pool::tick);
        }
        sweep(&state);
        let latest = state.core.now() + TICK;
        let deadlines = pools.iter().filter_map(|slot| slot.next_deadline());
        let next = deadlines
            .min()
            .unwrap_or(latest)
            .clamp(state.core.now() + TICK_MIN, latest);
        state.core.sleep_until(next).await;
    }
}

fn sweep(state: &CoreState) {
    let config = state.config();
    let clients = &config.clients;
    let limits = [
        (Activity::Idle, clients.idle_timeout, Notice::IdleTimeout),
        (
            Activity::IdleInTransaction,
            clients.idle_in_transaction_timeout,
            Notice::IdleInTransactionTimeout,
        ),
        (
            Activity::Active,
            config.servers.query_timeout,
            Notice::QueryTimeout,
        ),
    ];
    if limits.iter().all(|(_, limit, _)| limit.is_none()) {
        return;
    }
    let now = state.core.now();
    for link in state.links.borrow().values() {
        for (activity, limit, notice) in limits {
            let since = now.saturating_duration_since(link.since.get());
            if link.activity.get() == activity
                && limit.is_some_and(|limit| since >= limit)
                && link.notice().is_none()
            {
                link.notify(notice);
            }
        }
    }
}
