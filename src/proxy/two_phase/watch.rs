//! What shards have prepared under names of ours and nobody finishes: looked for at the start and while running, and told.

use std::rc::Rc;
use std::time::Duration;

use crate::config::TwoPhaseCommit;
use crate::routing::two_phase::gid::TransactionId;
use crate::routing::two_phase::orphans::{News, Place, QUERY};

use super::super::client::Visitor;
use super::super::cluster::Cluster;
use super::super::core_state::CoreState;

/// Between two looks; what is there at both is told.
const PAUSE: Duration = Duration::from_secs(10);
/// Longest time for one shard in one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks on and on: on one core, for all.
pub(crate) async fn watch(state: Rc<CoreState>) {
    loop {
        let watched = watched(&state);
        let places: Vec<_> = watched
            .iter()
            .flat_map(|cluster| (0..cluster.shards()).map(|shard| place(cluster, shard)))
            .collect();
        state.commits.orphans.borrow_mut().retain(&places);
        for cluster in watched {
            for shard in 0..cluster.shards() {
                let look = Box::pin(look(&state, &cluster, shard));
                let deadline = state.core.now() + LOOK_TIMEOUT;
                // Who cannot be asked is asked the next time.
                let _ = state.core.timeout_at(Some(deadline), look).await;
            }
        }
        state.core.sleep(PAUSE).await;
    }
}

/// The databases with transactions in two phases, each once.
fn watched(state: &CoreState) -> Vec<Rc<Cluster>> {
    let config = state.config();
    let mut clusters: Vec<Rc<Cluster>> = Vec::new();
    for user in config.users.iter() {
        if user.two_phase_commit == TwoPhaseCommit::Off {
            continue;
        }
        let known = |cluster: &Rc<Cluster>| cluster.names.database == user.database;
        if clusters.iter().any(known) {
            continue;
        }
        let cluster = state.cluster_of(&user.name, &user.database);
        clusters.extend(cluster.filter(|cluster| cluster.shards() > 1));
    }
    clusters
}

fn place(cluster: &Cluster, shard: usize) -> Place {
    (cluster.names.database.clone(), cluster.number_of(shard))
}

async fn look(state: &Rc<CoreState>, cluster: &Rc<Cluster>, shard: usize) {
    let visitor = Visitor::new(state, cluster.writer_of(shard));
    let answer = match visitor.run(QUERY).await {
        Ok(answer) => answer,
        Err(error) => {
            return tracing::debug!(shard, "cannot look for prepared transactions: {error}");
        }
    };
    let mut prepared = Vec::new();
    answer.each_row(|row| {
        let gid = row.first().copied().flatten().unwrap_or_default();
        prepared.push(String::from_utf8_lossy(gid).into_owned());
    });
    let commits = &state.commits;
    let known = |id: TransactionId| {
        id.process == commits.process || commits.unfinished.borrow().iter().any(|one| one.id == id)
    };
    let database = &cluster.names.database;
    let place = place(cluster, shard);
    let News { found, gone } = commits.orphans.borrow_mut().look(&place, &prepared, known);
    for gid in found {
        tracing::warn!(
            %gid, %database, shard,
            "prepared transaction of another pgdog, or of one whose log is lost: it keeps its locks until that pgdog, or \
             the operator, commits it or rolls it back"
        );
    }
    for gid in gone {
        tracing::info!(%gid, %database, shard, "prepared transaction of another pgdog is finished");
    }
}
