//! What is left of two-phase commits is finished on connections of its own, shard by shard, for as long as it takes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::Written;
use crate::pool::ConnectFailure;
use crate::protocol::error_fields::Fields;
use crate::protocol::sqlstate::SqlState;
use crate::routing::two_phase::gid::{Owner, TransactionId};
use crate::routing::two_phase::log::Record;
use crate::routing::two_phase::{Resolution, Statement};
use crate::snapshot::{CommitSnapshot, Names};
use crate::sql::quote;

use super::super::cluster::{Choice, Want};
use super::super::core_state::CoreState;
use super::super::server::connect::{connect, Purpose};
use super::super::server::{Collector, RunError, Server};

/// Pauses between rounds: the first, and the longest that they grow to while nothing can be done.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest time for one shard in one round.
const VISIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A transaction that is not done. There is one at most for each that a client wanted to commit while its shards could
/// not be reached, for each that the log of an earlier process names, and for each Done record that waits for room.
pub(super) struct Unfinished {
    pub(super) id: TransactionId,
    pub(super) owner: Owner,
    pub(super) names: Arc<Names>,
    /// None: only the log has to hear of it.
    pub(super) parts: Vec<Part>,
}

/// What is to be done on one shard.
pub(super) struct Part {
    shard: u32,
    resolution: Resolution,
    /// When the server was first asked about a transaction that is to be rolled back, in its seconds since 1970.
    since: Option<String>,
}

/// One part, as it is carried out.
struct Errand {
    id: TransactionId,
    gid: String,
    resolution: Resolution,
    since: Option<String>,
}

impl Part {
    pub(super) fn new(shard: u32, resolution: Resolution) -> Self {
        Self {
            shard,
            resolution,
            since: None,
        }
    }
}

impl Unfinished {
    /// What the operator may know of it.
    pub(super) fn snapshot(&self) -> CommitSnapshot {
        let back = |part: &Part| part.resolution == Resolution::Rollback;
        CommitSnapshot {
            names: Arc::clone(&self.names),
            name: self.owner.name(self.id),
            state: match self.parts.iter().any(back) {
                true => "rolling back",
                false => "committing",
            },
        }
    }

    /// What is to be finished on servers, and how.
    pub(super) fn gids(&self) -> impl Iterator<Item = String> + '_ {
        let parts = self.parts.iter();
        parts.map(|part| {
            let how = match part.resolution {
                Resolution::Commit => Statement::CommitPrepared,
                Resolution::Rollback => Statement::RollbackPrepared,
            };
            how.sql(&self.owner.gid(self.id, part.shard))
        })
    }

    /// Tells the log, if nothing is left. Errors: it has to be told later.
    fn close(&self, state: &CoreState) -> Result<(), ()> {
        if !self.parts.is_empty() {
            return Err(());
        }
        match &state.commits.log {
            Some(log) => log.note(Record::Done(self.id)).map_err(drop),
            None => Ok(()),
        }
    }
}

/// Sees to it that a transaction comes to its end.
pub(super) fn add(state: &Rc<CoreState>, unfinished: Unfinished) {
    if unfinished.close(state).is_ok() {
        return;
    }
    let commits = &state.commits;
    commits.unfinished.borrow_mut().push(unfinished);
    if !commits.at_it.replace(true) {
        let context = Rc::clone(state);
        state.core.spawn(async move { work(&context).await });
    }
}

async fn work(state: &Rc<CoreState>) {
    let commits = &state.commits;
    let mut pause = PAUSE_MIN;
    loop {
        let parts = || -> usize {
            let unfinished = commits.unfinished.borrow();
            unfinished.iter().map(|one| one.parts.len()).sum()
        };
        let before = parts();
        for (names, shard) in places(state) {
            let deadline = state.core.now() + VISIT_TIMEOUT;
            let visit = Box::pin(visit(state, &names, shard));
            let visited = state.core.timeout_at(Some(deadline), visit).await;
            if let Err(why) = visited.unwrap_or_else(|| Err("it takes too long".to_owned())) {
                let Names { user, database } = &*names;
                tracing::warn!(%user, %database, shard, "two-phase commits cannot be finished yet: {why}");
            }
        }
        commits.unfinished.borrow_mut().retain(|one| {
            let closed = one.close(state);
            if closed.is_ok() {
                tracing::info!(id = ?one.id, "two-phase commit is done");
            }
            closed.is_err()
        });
        if commits.unfinished.borrow().is_empty() {
            commits.at_it.set(false);
            return;
        }
        pause = match parts() < before {
            true => PAUSE_MIN,
            false => (pause * 2).min(PAUSE_MAX),
        };
        state.core.sleep(pause).await;
    }
}

/// The shards that are to be visited, each once.
fn places(state: &CoreState) -> Vec<(Arc<Names>, u32)> {
    let unfinished = state.commits.unfinished.borrow();
    let shards = unfinished.iter().flat_map(|one| {
        let shards = one.parts.iter().map(|part| part.shard);
        shards.map(|shard| (Arc::clone(&one.names), shard))
    });
    let mut places: Vec<_> = shards.collect();
    let key = |(names, shard): &(Arc<Names>, u32)| {
        let Names { user, database } = &**names;
        (user.clone(), database.clone(), *shard)
    };
    places.sort_by_cached_key(key);
    places.dedup();
    places
}

/// Does what there is to do on one shard. Errors: why not all of it could be done.
async fn visit(state: &Rc<CoreState>, names: &Names, shard: u32) -> Result<(), String> {
    let cluster = state.cluster_of(&names.user, &names.database);
    let cluster = cluster.ok_or("user or database is not in the configuration")?;
    let at = usize::try_from(shard).unwrap_or(usize::MAX);
    let now = state.core.now();
    let slot = match cluster.pick(at, (Want::Write, Written::Nothing), &[], now, || {
        state.chance()
    }) {
        Choice::Pool { slot, .. } => slot,
        Choice::Wait | Choice::Refused(_) => return Err("no server to write to".to_owned()),
    };
    let mut server = connect(state, &slot, Purpose::Recovery)
        .await
        .map_err(ConnectFailure::reason)?;
    let mut problem = None;
    for errand in errands(state, names, shard) {
        let gid = &errand.gid;
        match run(&mut server, &errand).await {
            Ok(Progress::Done) => {
                tracing::info!(%gid, how = ?errand.resolution, "prepared transaction is finished");
                change(state, errand.id, |parts| {
                    parts.retain(|part| part.shard != shard);
                });
            }
            Ok(Progress::Perhaps { since }) => change(state, errand.id, |parts| {
                let mut parts = parts.iter_mut();
                if let Some(part) = parts.find(|part| part.shard == shard) {
                    part.since = Some(since.clone());
                }
            }),
            Err(RunError::Lost(lost)) => return Err(lost.to_string()),
            Err(RunError::Server(body)) => problem = Some(format!("{gid}: {}", said(&body))),
        }
    }
    Box::new(server).close(state).await;
    problem.map_or(Ok(()), Err)
}

fn errands(state: &CoreState, names: &Names, shard: u32) -> Vec<Errand> {
    let unfinished = state.commits.unfinished.borrow();
    let ours = unfinished.iter().filter(|one| *one.names == *names);
    let errands = ours.filter_map(|one| {
        let part = one.parts.iter().find(|part| part.shard == shard)?;
        Some(Errand {
            id: one.id,
            gid: one.owner.gid(one.id, shard),
            resolution: part.resolution,
            since: part.since.clone(),
        })
    });
    errands.collect()
}

fn change(state: &CoreState, id: TransactionId, change: impl FnOnce(&mut Vec<Part>)) {
    let mut unfinished = state.commits.unfinished.borrow_mut();
    if let Some(one) = unfinished.iter_mut().find(|one| one.id == id) {
        change(&mut one.parts);
    }
}

enum Progress {
    Done,
    /// It is not prepared, and may still be.
    Perhaps {
        since: String,
    },
}

async fn run(server: &mut Server, errand: &Errand) -> Result<Progress, RunError> {
    let gid = &errand.gid;
    match errand.resolution {
        Resolution::Commit => {
            // All were prepared when it was decided: what is not there has been committed.
            exists(finish(server, Statement::CommitPrepared, gid).await)?;
            Ok(Progress::Done)
        }
        Resolution::Rollback => {
            // Whoever may yet prepare it was in a transaction when we first asked. That is looked at before the attempt:
            // so nobody prepares it in between.
            let since = match &errand.since {
                Some(since) => since.clone(),
                None => {
                    let now = server
                        .run("SELECT extract(epoch FROM clock_timestamp())")
                        .await?;
                    String::from_utf8_lossy(now.value().unwrap_or_default()).into_owned()
                }
            };
            let open = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = session_user \
                 AND pid <> pg_backend_pid() AND extract(epoch FROM xact_start) <= {since}"
            );
            let over = server.run(&open).await?.value() == Some(b"0");
            let existed = exists(finish(server, Statement::RollbackPrepared, gid).await)?;
            match existed || over {
                true => Ok(Progress::Done),
                false => Ok(Progress::Perhaps { since }),
            }
        }
    }
}

async fn finish(
    server: &mut Server,
    statement: Statement,
    gid: &str,
) -> Result<Collector, RunError> {
    match server.run(&statement.sql(gid)).await {
        Err(RunError::Server(body)) if is_anothers(&body) => as_owner(server, statement, gid).await,
        finished => finished,
    }
}

/// Is what was to be finished prepared by a role that the server does not have now? Only its owner finishes it, or a
/// superuser, and its owner is whoever the client was at its COMMIT: SET LOCAL ROLE is over when it is prepared, and SET
/// ROLE is not known to other connections.
pub(super) fn is_anothers(body: &[u8]) -> bool {
    code(body) == Some(SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Finishes it as the role that has prepared it. The server has its own role again then, or is marked to be closed.
pub(super) async fn as_owner(
    server: &mut Server,
    statement: Statement,
    gid: &str,
) -> Result<Collector, RunError> {
    let change = format!(
        "SELECT pg_catalog.current_setting('role'); SELECT pg_catalog.set_config('role', owner, false) \
         FROM pg_catalog.pg_prepared_xacts WHERE gid = '{gid}'"
    );
    let before = server.run(&change).await?;
    let finished = server.run(&statement.sql(gid)).await;
    if let Err(RunError::Lost(_)) = finished {
        return finished;
    }
    let mut back = b"SET ROLE ".to_vec();
    back.extend(quote::value(before.value(), server.dialect).unwrap_or_default());
    match server.run_text(&back).await {
        Ok(_) => finished,
        Err(RunError::Server(_)) => {
            server.exchange.note_farewell();
            finished
        }
        Err(lost) => Err(lost),
    }
}

/// Did a prepared transaction exist that was to be finished? Errors: it does, and is not finished.
fn exists<T>(finished: Result<T, RunError>) -> Result<bool, RunError> {
    match finished {
        Ok(_) => Ok(true),
        Err(RunError::Server(body)) if code(&body) == Some(SqlState::UNDEFINED_OBJECT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn code(body: &[u8]) -> Option<SqlState> {
    Fields::parse(body).ok()?.code()
}

fn said(body: &[u8]) -> String {
    match Fields::parse(body) {
        Ok(fields) => String::from_utf8_lossy(fields.message()).into_owned(),
        Err(_) => "an error that cannot be read".to_owned(),
    }
}
