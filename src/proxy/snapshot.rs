//! This core as plain data, for the control thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::balance::Part;
use crate::config::choice::Role;
use crate::prepared::Statement;
use crate::snapshot::{
    Analysing, AnalysisSnapshot, ClientSnapshot, CoreSnapshot, Holder, Holding, Known,
    LookupsSnapshot, OverShardsSnapshot, PoolSnapshot, Scope, ServerSnapshot, StatementSnapshot,
};

use crate::sql::lexer::Dialect;
use crate::sql::sample;

use super::cluster::Cluster;
use super::core_state::{Activity, CoreState};
use super::link::{Face, Link};
use super::mail::{Event, GatherId};
use super::pools::PoolSlot;
use super::server::{ServerLink, Target};

/// Clients or statements looked at before others get a turn.
const RUN: usize = 256;

/// Characters of an analysed text that are shown.
const QUERY_CHARS_MAX: usize = 1000;

const _: () = assert!(crate::snapshot::BUFFER_BYTES == cores::BUFFER_BYTES);

/// Answers the control thread.
pub(super) fn answer(state: &Rc<CoreState>, id: GatherId, scope: Scope) {
    let context = Rc::clone(state);
    state.core.spawn(async move {
        let snapshot = Box::new(take(&context, scope).await);
        let answer = Event::Snapshot { id, snapshot };
        if context.events.try_send(answer).is_err() {
            tracing::warn!("the control thread has too much to do: a snapshot is lost");
        }
    });
}

/// Who holds which server.
type Holders = HashMap<*const Target, Rc<Link>>;

async fn take(state: &CoreState, scope: Scope) -> CoreSnapshot {
    let sessions = match scope.clients {
        true => sessions(state).await,
        false => Vec::new(),
    };
    let statements = match scope.statements {
        true => statements(state).await,
        false => Vec::new(),
    };
    let analyses = match scope.analyses {
        true => analyses(state).await,
        false => Vec::new(),
    };
    let now = state.core.now();
    let stats = state.core.stats();
    let holders: Holders = state
        .links
        .borrow()
        .values()
        .flat_map(|link| {
            let targets = link.targets.borrow();
            let held = targets.as_slice().iter();
            let held = held.map(|target| (Rc::as_ptr(target), Rc::clone(link)));
            held.collect::<Vec<_>>()
        })
        .collect();
    let known = state.statements.borrow();
    let pools = state.pools();
    CoreSnapshot {
        core: state.core.index(),
        cpu: state.core.cpu(),
        taken: now,
        clients: state.gate.running(),
        tasks: stats.tasks,
        sockets: stats.sockets,
        panics: stats.panics,
        busy: stats.busy,
        mail_sent: state.mail_sent.iter().map(Cell::get).collect(),
        moved_in: state.moved_in.get(),
        mail_received: state.mail_received.get(),
        admins: state.admins.borrow().len(),
        sessions,
        statements,
        statements_known: known.len(),
        statement_bytes: known.bytes(),
        buffers: stats.buffers,
        buffers_lent: stats.buffers_lent,
        turns: scope.latencies.then(|| state.turns.read()),
        tally: state.tally.totals(),
        analysing: analysing(state),
        analyses,
        commits: match scope.commits {
            true => state.commits.list(),
            false => Vec::new(),
        },
        commits_recovered: state.commits.recovered(),
        over_shards: match scope.latencies {
            true => over_shards(state),
            false => Vec::new(),
        },
        pools: pools
            .iter()
            .map(|slot| pool(state, slot, &holders, scope))
            .collect(),
    }
}

fn pool(state: &CoreState, slot: &PoolSlot, holders: &Holders, scope: Scope) -> PoolSnapshot {
    let mut snapshot = PoolSnapshot {
        id: slot.id,
        config: slot.config(),
        stats: slot.stats(state.core.now()),
        totals: slot.registry.totals(),
        latencies: scope.latencies.then(|| slot.registry.latencies().read()),
        idle_in_transaction: 0,
        pinned: 0,
        used: slot.registry.used(),
        servers: Vec::new(),
        known: known(state, slot),
        gone: slot.is_gone(),
    };
    slot.registry.each(|server| {
        snapshot.used = snapshot.used.max(Some(server.meter.last_used()));
        let client = holders.get(&Rc::as_ptr(&server.target));
        if let Some(client) = client {
            let idles = client.activity.get() == Activity::IdleInTransaction;
            snapshot.idle_in_transaction += usize::from(idles);
            snapshot.pinned += usize::from(client.pinned().is_some());
        }
        if scope.servers {
            snapshot
                .servers
                .push(one_server(server, client.map(Rc::as_ref)));
        }
    });
    snapshot
}

fn known(state: &CoreState, slot: &PoolSlot) -> Known {
    let pools = state.pools();
    let bans = slot.bans();
    let Some(place) = pools.place(slot.id) else {
        return Known {
            healthy: true,
            bans,
            ..Known::default()
        };
    };
    let balance = place.shard().balance().borrow();
    let roles = balance.roles();
    Known {
        role: match roles.part(place.server) {
            Part::Primary => Some(Role::Primary),
            Part::Replica => Some(Role::Replica),
            Part::Unknown | Part::Apart => None,
        },
        ban: balance.ban(place.server, state.core.now()),
        healthy: balance.is_healthy(place.server),
        lag: balance.lag(place.server),
        seen: roles.last(place.server),
        bans,
    }
}

fn one_server(server: &ServerLink, client: Option<&Link>) -> ServerSnapshot {
    let meter = &server.meter;
    ServerSnapshot {
        process_id: server.target.process_id(),
        opened: meter.opened(),
        used: meter.last_used(),
        client: client.map(|client| Holder {
            id: client.key.process_id(),
            activity: client.activity.get(),
            application_name: client
                .face
                .get()
                .map_or_else(Arc::default, Face::application_name),
        }),
        totals: meter.totals(),
        last_sent: meter.last_sent(),
        last_received: meter.last_received(),
        statements: server.statements.get(),
    }
}

async fn sessions(state: &CoreState) -> Vec<ClientSnapshot> {
    let mut sessions: Vec<_> = state
        .admins
        .borrow()
        .values()
        .map(|admin| admin.snapshot())
        .collect();
    let links: Vec<_> = state.links.borrow().values().cloned().collect();
    for run in links.chunks(RUN) {
        sessions.extend(run.iter().filter_map(|link| one_client(link)));
        state.core.yield_now().await;
    }
    sessions
}

/// `None` while it is not logged in.
fn one_client(link: &Link) -> Option<ClientSnapshot> {
    let face = link.face.get()?;
    let targets = link.targets.borrow();
    let server = targets.as_slice().first().map(|target| {
        let slot = link.slot.borrow();
        Holding {
            process_id: target.process_id(),
            pool: slot.config(),
        }
    });
    Some(ClientSnapshot {
        id: link.key.process_id(),
        names: Arc::clone(&face.names),
        peer: face.peer,
        activity: link.activity.get(),
        since: link.since.get(),
        totals: link.meter.totals(),
        application_name: face.application_name(),
        pinned: link.pinned(),
        statements: link.statements.get() as usize,
        server,
    })
}

fn analysing(state: &CoreState) -> Analysing {
    let mut sum = state.analysed.get();
    for cluster in state.pools().clusters() {
        sum += analysing_of(cluster);
    }
    sum
}

fn analysing_of(cluster: &Cluster) -> Analysing {
    let cache = cluster.analyses.borrow();
    let ((hits, misses), routed) = (cache.counts(), cache.routed());
    Analysing {
        hits,
        misses,
        direct: routed.direct,
        cross: routed.cross,
        entries: cache.len(),
        bytes: cache.bytes(),
        parsing: cache.parsing(),
    }
}

/// A cluster goes, and its cache: what that has done still counts.
pub(super) fn keep_counts(state: &CoreState, cluster: &Cluster) {
    let mut sum = state.analysed.get();
    sum += Analysing {
        entries: 0,
        bytes: 0,
        ..analysing_of(cluster)
    };
    state.analysed.set(sum);
}

async fn analyses(state: &CoreState) -> Vec<AnalysisSnapshot> {
    let mut all = Vec::new();
    let pools = state.pools();
    for cluster in pools.clusters() {
        all.extend(
            cluster
                .analyses
                .borrow()
                .list()
                .map(|listed| AnalysisSnapshot {
                    // Passwords in it are hidden.
                    query: sample(listed.query.as_bytes(), Dialect::default(), QUERY_CHARS_MAX),
                    hits: listed.usage.hits.get(),
                    direct: listed.usage.direct.get(),
                    multi: listed.usage.multi.get(),
                }),
        );
        state.core.yield_now().await;
    }
    all
}

fn over_shards(state: &CoreState) -> Vec<OverShardsSnapshot> {
    let pools = state.pools();
    let several = pools.clusters().filter(|cluster| cluster.shards() > 1);
    several
        .map(|cluster| OverShardsSnapshot {
            names: Arc::clone(&cluster.names),
            touched: cluster.over_shards.touched.read(),
            merges: cluster.over_shards.merges.read(),
            lookups: lookups(cluster),
        })
        .collect()
}

fn lookups(cluster: &Cluster) -> Option<LookupsSnapshot> {
    let mut columns = cluster.sharding.columns.iter();
    let lookups = cluster.lookups.borrow();
    let snapshot = || LookupsSnapshot {
        counts: lookups.counts(),
        entries: lookups.len(),
        bytes: lookups.bytes(),
    };
    columns.any(|column| column.lookup.is_some()).then(snapshot)
}

async fn statements(state: &CoreState) -> Vec<StatementSnapshot> {
    let kept: Vec<_> = state.statements.borrow().iter().cloned().collect();
    let mut statements = Vec::with_capacity(kept.len());
    for run in kept.chunks(RUN) {
        statements.extend(run.iter().map(one_statement));
        state.core.yield_now().await;
    }
    statements
}

fn one_statement(statement: &Rc<Statement>) -> StatementSnapshot {
    // The store's own, and that in our list.
    let others = 2;
    StatementSnapshot {
        name: String::from_utf8_lossy(&statement.server_name()).into_owned(),
        text: String::from_utf8_lossy(statement.text()).into(),
        used_by: Rc::strong_count(statement).saturating_sub(others),
        bytes: statement.size(),
    }
}
