//! What is left of two-phase commits is finished on connections of its own, for as long as it takes: of each shard by a task
//! that has one connection at a time, so that a server which hangs holds up nobody else's.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::ConnectFailure;
use crate::protocol::error_fields::Fields;
use crate::protocol::sqlstate::SqlState;
use crate::routing::two_phase::gid::{Owner, TransactionId};
use crate::routing::two_phase::log::{Participant, Record};
use crate::routing::two_phase::{Resolution, Statement};
use crate::snapshot::{CommitSnapshot, Names};
use crate::sql::quote;

use super::super::core_state::CoreState;
use super::super::server::connect::{connect, Purpose};
use super::super::server::{Collector, RunError, Server};
use super::whom::{awaited, logins, Login};

/// Pauses between rounds: the first, and the longest that they grow to while nothing can be done.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest time for one user's on one shard in one round.
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
    at: Participant,
    resolution: Resolution,
    /// When the server was first asked about a transaction that is to be rolled back, in its seconds since 1970.
    since: Option<String>,
    /// What it waits for.
    waits: Waits,
}

/// What stands in the way of a transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing but the server and what it does.
    Server,
    /// The server that has prepared it is not in the configuration.
    Configuration,
    /// Its user: nobody else who is known here may end it.
    User,
}

/// Why not all could be done on a shard.
pub(super) struct Trouble {
    pub(super) waits: Waits,
    pub(super) why: String,
}

/// One part, as it is carried out.
struct Errand {
    id: TransactionId,
    gid: String,
    resolution: Resolution,
    since: Option<String>,
}

impl Part {
    pub(super) fn new(at: Participant, resolution: Resolution) -> Self {
        Self {
            at,
            resolution,
            since: None,
            waits: Waits::Server,
        }
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        let waits = Waits::Server;
        Self { waits, why }
    }
}

impl Unfinished {
    /// What the operator may know of it.
    pub(super) fn snapshot(&self) -> CommitSnapshot {
        let back = |part: &Part| part.resolution == Resolution::Rollback;
        let waits = |waits: Waits| self.parts.iter().any(|part| part.waits == waits);
        let (unknown, user) = (waits(Waits::Configuration), waits(Waits::User));
        CommitSnapshot {
            names: Arc::clone(&self.names),
            name: self.owner.name(self.id),
            state: match (self.parts.iter().any(back), unknown, user) {
                (true, true, _) => "rolling back, server not configured",
                (false, true, _) => "committing, server not configured",
                (true, false, true) => "rolling back, awaiting login of its user",
                (false, false, true) => "committing, awaiting login of its user",
                (true, false, false) => "rolling back",
                (false, false, false) => "committing",
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
            how.sql(&self.owner.gid(self.id, part.at.shard))
        })
    }

    /// What is to be done on this shard.
    fn part(&self, at: &Participant) -> Option<&Part> {
        self.parts.iter().find(|part| part.at == *at)
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
    let at: Vec<_> = unfinished
        .parts
        .iter()
        .map(|part| part.at.clone())
        .collect();
    state.commits.unfinished.borrow_mut().push(unfinished);
    for at in at {
        if state.commits.at_it.borrow_mut().insert(at.clone()) {
            let context = Rc::clone(state);
            state.core.spawn(async move { work(&context, &at).await });
        }
    }
    close(state);
}

/// Forgets what is finished everywhere, once the log has heard of it.
fn close(state: &Rc<CoreState>) {
    if close_all(state) && !state.commits.noting.replace(true) {
        let context = Rc::clone(state);
        state.core.spawn(async move {
            while close_all(&context) {
                context.core.sleep(PAUSE_MIN).await;
            }
            context.commits.noting.set(false);
        });
    }
}

/// Does the log have yet to hear of some?
fn close_all(state: &CoreState) -> bool {
    let mut unfinished = state.commits.unfinished.borrow_mut();
    unfinished.retain(|one| {
        let closed = one.close(state);
        if closed.is_ok() {
            tracing::info!(id = ?one.id, "two-phase commit is done");
        }
        closed.is_err()
    });
    unfinished.iter().any(|one| one.parts.is_empty())
}

/// Finishes what there is on one shard.
async fn work(state: &Rc<CoreState>, at: &Participant) {
    let mut pause = PAUSE_MIN;
    let mut told = HashMap::new();
    loop {
        let before = left(state, at);
        for names in whose(state, at) {
            let deadline = state.core.now() + VISIT_TIMEOUT;
            let visit = Box::pin(visit(state, &names, at));
            let visited = state.core.timeout_at(Some(deadline), visit).await;
            let visited = visited.unwrap_or_else(|| Err("it takes too long".to_owned().into()));
            let waits = match &visited {
                Ok(()) => Waits::Server,
                Err(trouble) => trouble.waits,
            };
            each_part(state, &names, at, |part| part.waits = waits);
            let Names { user, database } = &*names;
            let key = (user.clone(), database.clone());
            let Err(Trouble { why, .. }) = visited else {
                told.remove(&key);
                continue;
            };
            if told.get(&key) != Some(&why) {
                let shard = at.shard;
                tracing::warn!(%user, %database, shard, "two-phase commits cannot be finished yet: {why}");
                told.insert(key, why);
            }
        }
        close(state);
        let left = left(state, at);
        if left == 0 {
            state.commits.at_it.borrow_mut().remove(at);
            return;
        }
        pause = match left < before {
            true => PAUSE_MIN,
            false => (pause * 2).min(PAUSE_MAX),
        };
        state.core.sleep(pause).await;
    }
}

/// Whose transactions are to be finished on a shard, each once.
fn whose(state: &CoreState, at: &Participant) -> Vec<Arc<Names>> {
    let unfinished = state.commits.unfinished.borrow();
    let here = unfinished.iter().filter(|one| one.part(at).is_some());
    let by_name = here.map(|one| {
        let names = &one.names;
        ((&*names.user, &*names.database), names)
    });
    let whose: BTreeMap<_, _> = by_name.collect();
    whose.into_values().map(Arc::clone).collect()
}

/// Does what there is to do of a user's on one shard: as that user, or as another who may. Errors: why not all of it could be done.
async fn visit(state: &Rc<CoreState>, names: &Names, at: &Participant) -> Result<(), Trouble> {
    let mut own = None;
    for login in logins(state, names, at)? {
        match visit_as(state, &login, names, at).await {
            Ok(()) => return Ok(()),
            // Others may be let in, or have more rights.
            Err(Visit::NotAdmitted(why)) if login.is_own => own = Some(why),
            Err(Visit::NotAdmitted(_)) => {}
            Err(Visit::Failed(why)) => return Err(why.into()),
        }
    }
    Err(own.map_or_else(awaited, Trouble::from))
}

/// Why a login has not done all.
enum Visit {
    /// It is not let in, or may not.
    NotAdmitted(String),
    Failed(String),
}

async fn visit_as(
    state: &Rc<CoreState>,
    login: &Login,
    names: &Names,
    at: &Participant,
) -> Result<(), Visit> {
    let connected = connect(state, &login.slot, Purpose::Recovery).await;
    let mut server = connected.map_err(|failure| match failure {
        ConnectFailure::Fatal(_) => Visit::NotAdmitted(failure.reason()),
        _ => Visit::Failed(failure.reason()),
    })?;
    let (mut problem, mut forbidden) = (None, None);
    for errand in errands(state, names, at) {
        let gid = &errand.gid;
        match run(&mut server, login, &errand).await {
            Ok(Progress::Done) => {
                tracing::info!(%gid, how = ?errand.resolution, "prepared transaction is finished");
                change(state, errand.id, |parts| {
                    parts.retain(|part| part.at != *at)
                });
            }
            Ok(Progress::Perhaps { since }) => change(state, errand.id, |parts| {
                let mut parts = parts.iter_mut();
                if let Some(part) = parts.find(|part| part.at == *at) {
                    part.since = Some(since.clone());
                }
            }),
            Err(RunError::Lost(lost)) => return Err(Visit::Failed(lost.to_string())),
            Err(RunError::Server(body)) if is_anothers(&body) => {
                forbidden = Some(format!("{gid}: {}", said(&body)));
            }
            Err(RunError::Server(body)) => problem = Some(format!("{gid}: {}", said(&body))),
        }
    }
    Box::new(server).close(state).await;
    match (problem, forbidden) {
        (Some(problem), _) => Err(Visit::Failed(problem)),
        (None, Some(forbidden)) => Err(Visit::NotAdmitted(forbidden)),
        (None, None) => Ok(()),
    }
}

/// How much is to be done on a shard.
fn left(state: &CoreState, at: &Participant) -> usize {
    let unfinished = state.commits.unfinished.borrow();
    let here = unfinished.iter().filter(|one| one.part(at).is_some());
    here.count()
}

/// What is to be done on a shard for a user.
fn errands(state: &CoreState, names: &Names, at: &Participant) -> Vec<Errand> {
    let unfinished = state.commits.unfinished.borrow();
    let theirs = unfinished.iter().filter(|one| *one.names == *names);
    let errands = theirs.filter_map(|one| {
        let part = one.part(at)?;
        Some(Errand {
            id: one.id,
            gid: one.owner.gid(one.id, at.shard),
            resolution: part.resolution,
            since: part.since.clone(),
        })
    });
    errands.collect()
}

/// Changes a user's parts on a shard.
fn each_part(state: &CoreState, names: &Names, at: &Participant, change: impl Fn(&mut Part)) {
    let mut unfinished = state.commits.unfinished.borrow_mut();
    let ours = unfinished.iter_mut().filter(|one| *one.names == *names);
    let parts = ours.flat_map(|one| &mut one.parts);
    parts.filter(|part| part.at == *at).for_each(change);
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

async fn run(server: &mut Server, login: &Login, errand: &Errand) -> Result<Progress, RunError> {
    let gid = &errand.gid;
    match errand.resolution {
        Resolution::Commit => {
            // All were prepared when it was decided: what is not there, where it was prepared, has been committed.
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
            // Another login may see nothing of the user's sessions but that they are there.
            let whose = match login.is_own {
                true => "usename = session_user AND",
                false => "state IS NULL OR",
            };
            let open = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid() AND ({whose} extract(epoch FROM xact_start) <= {since})"
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
