//! This core as plain data, for the control thread.

use std::rc::Rc;

use crate::snapshot::{CoreSnapshot, PoolSnapshot, Scope};

use super::core_state::CoreState;
use super::mail::{Event, GatherId};

/// Answers the control thread.
pub(super) fn answer(state: &Rc<CoreState>, id: GatherId, scope: Scope) {
    let snapshot = Box::new(take(state, scope));
    if state
        .events
        .try_send(Event::Snapshot { id, snapshot })
        .is_err()
    {
        tracing::warn!("the control thread has too much to do: a snapshot is lost");
    }
}

fn take(state: &CoreState, scope: Scope) -> CoreSnapshot {
    let now = state.core.now();
    let stats = state.core.stats();
    let pools = state.pools();
    let pools = pools.iter().map(|slot| PoolSnapshot {
        id: slot.id,
        config: slot.config(),
        stats: slot.stats(now),
        totals: slot.registry.totals(),
        latencies: scope.latencies.then(|| slot.registry.latencies().read()),
    });
    CoreSnapshot {
        core: state.core.index(),
        cpu: state.core.cpu(),
        taken: now,
        clients: state.gate.running(),
        tasks: stats.tasks,
        sockets: stats.sockets,
        panics: stats.panics,
        busy: stats.busy,
        pools: pools.collect(),
    }
}
