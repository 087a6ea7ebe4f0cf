//! Clients that wait for each other's locks on several servers, which no server sees.
//!
//! A core with a client that has waited for a second, in a transaction on several servers, asks all cores who has which
//! server, and the servers who waits for whom. Where that is a circle the client in it that began to wait last is told
//! 40P01, by its own core. Servers are asked twice: what they say is not of one moment.
//!
//! ```text
//!   [0] client waits ──Round──► [1] ──Round──► [2] ──Round──► [0] ──► servers: pg_blocking_pids ──► who gives up
//! ```

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::routing::deadlock::{exclude, victims};
use crate::routing::two_phase::gid::{any_id, TransactionId};

use super::core_state::{Activity, CoreState};
use super::link::Notice;
use super::mail::Mail;
use super::reload::{Instance, Place};
use super::server::connect::{self, Purpose};
use super::server::Targets;

/// How long a client waits before anybody asks; PostgreSQL's `deadlock_timeout`.
const PATIENCE: Duration = Duration::from_secs(1);
/// While those that are suspected wait for nobody, they are looked at less and less often, down to this.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// For one server's answer, and for the other cores'.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Server processes that are asked for at a time.
const PROCESSES_MAX: usize = 2_000;

/// Who has which servers, on its way round the cores.
#[derive(Debug)]
pub(crate) struct Round {
    core: usize,
    clients: Vec<Client>,
}

/// A client that has servers.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    id: i32,
    /// Since when it waits, if it does.
    waits: Option<Instant>,
    /// It can give up: the transaction is on several servers.
    several: bool,
    /// What it commits in two phases: its locks on servers that have prepared are nobody's.
    commits: Option<TransactionId>,
    servers: Vec<Process>,
}

/// A server's process.
type Process = (Arc<Instance>, i32);

/// Who has what a server's process waits for.
enum Holder {
    Process(i32),
    /// What was prepared by a client that still waits for others.
    Prepared(TransactionId),
}

/// The round of this core that is under way.
pub(crate) type Asked = RefCell<Option<oneshot::Sender<Vec<Client>>>>;

/// Looks for as long as the core runs.
pub(super) async fn watch(state: Rc<CoreState>) {
    let mut pause = PATIENCE;
    loop {
        let next = state.core.now() + pause;
        state.core.sleep_until(next).await;
        // A statement may be long without waiting for anybody.
        pause = match has_suspects(&state) && !Box::pin(look(&state)).await {
            true => (pause * 2).min(PAUSE_MAX),
            false => PATIENCE,
        };
    }
}

fn has_suspects(state: &CoreState) -> bool {
    if state
        .pools()
        .clusters()
        .all(|cluster| cluster.shards() == 1)
    {
        return false;
    }
    let now = state.core.now();
    let commits = state.commits.by_client();
    let links = state.links.borrow();
    let mut links = links.values();
    links.any(|link| {
        let active = link.activity.get() == Activity::Active;
        let long = now.saturating_duration_since(link.since.get()) >= PATIENCE;
        let several = matches!(&*link.targets.borrow(), Targets::Many(_))
            || commits.contains_key(&link.key.process_id());
        active && long && several
    })
}

/// Finds out who is to give up, and tells those that are of this core. False: nobody waits for anybody.
async fn look(state: &Rc<CoreState>) -> bool {
    let Some(clients) = ask_cores(state).await else {
        return true;
    };
    let before = Box::pin(waits(state, &clients)).await;
    if found(&clients, &before).is_empty() {
        return !before.is_empty();
    }
    let after: HashSet<_> = Box::pin(waits(state, &clients)).await.into_iter().collect();
    let both: Vec<_> = before
        .into_iter()
        .filter(|wait| after.contains(wait))
        .collect();
    for id in found(&clients, &both) {
        let links = state.links.borrow();
        let since = clients.iter().find(|client| client.id == id);
        let since = since.and_then(|client| client.waits);
        // Of another core, or it has gone on.
        if let Some(link) = links
            .get(&id)
            .filter(|link| Some(link.since.get()) == since)
        {
            tracing::warn!(
                client = id,
                "clients wait for each other on several servers: this one gives up"
            );
            link.notify(Notice::Deadlock);
        }
    }
    true
}

fn found(clients: &[Client], waits: &[(i32, i32)]) -> Vec<i32> {
    let ranks: HashMap<i32, (Instant, i32)> = clients
        .iter()
        .filter(|client| client.several)
        .filter_map(|client| Some((client.id, (client.waits?, client.id))))
        .collect();
    victims(waits, |client| ranks.get(&client).copied())
}

/// Who has which servers, on all cores. `None`: one of them has too much to do.
async fn ask_cores(state: &Rc<CoreState>) -> Option<Vec<Client>> {
    let (sender, receiver) = oneshot::channel();
    *state.asked.borrow_mut() = Some(sender);
    let core = state.core.index();
    let clients = Vec::new();
    pass_on(state, Round { core, clients });
    let deadline = state.core.now() + ANSWER_MAX;
    let answer = state.core.timeout_at(Some(deadline), receiver).await;
    answer?.ok()
}

/// Another core's round, or our own.
pub(super) fn heard(state: &Rc<CoreState>, round: Round) {
    if round.core != state.core.index() {
        return pass_on(state, round);
    }
    if let Some(sender) = state.asked.borrow_mut().take() {
        let _ = sender.send(round.clients); // it may have waited too long
    }
}

/// Adds what this core has, and sends it to the next one.
fn pass_on(state: &Rc<CoreState>, mut round: Round) {
    round.clients.extend(clients(state));
    let next = (state.core.index() + 1) % state.core.count();
    if next == state.core.index() {
        heard(state, round);
    } else {
        // Lost, it is asked again a moment later.
        let _ = state.send(next, Mail::Round(Box::new(round)));
    }
}

/// The clients of this core that have servers.
fn clients(state: &CoreState) -> Vec<Client> {
    let mut processes = HashMap::new();
    let pools = state.pools();
    for place in pools.all_places() {
        if let Some(slot) = place.slot() {
            slot.registry.each(|server| {
                if let Some(process_id) = server.target.process_id() {
                    let process = (Arc::clone(&place.instance), process_id);
                    processes.insert(Rc::as_ptr(&server.target), process);
                }
            });
        }
    }
    let commits = state.commits.by_client();
    let links = state.links.borrow();
    let clients = links.values().filter_map(|link| {
        let targets = link.targets.borrow();
        let servers = targets.as_slice().iter();
        let servers = servers.filter_map(|target| processes.get(&Rc::as_ptr(target)).cloned());
        let active = link.activity.get() == Activity::Active;
        let id = link.key.process_id();
        let commits = commits.get(&id).copied();
        let client = Client {
            id,
            waits: active.then(|| link.since.get()),
            several: matches!(&*targets, Targets::Many(_)) || commits.is_some(),
            commits,
            servers: servers.collect(),
        };
        (!client.servers.is_empty()).then_some(client)
    });
    clients.collect()
}

/// Who waits for whom, as the servers of these clients say.
async fn waits(state: &Rc<CoreState>, clients: &[Client]) -> Vec<(i32, i32)> {
    let mut holders: HashMap<&Process, i32> = HashMap::new();
    let mut asked: HashMap<&Arc<Instance>, Vec<i32>> = HashMap::new();
    let now = state.core.now();
    for client in clients {
        for process in &client.servers {
            holders.insert(process, client.id);
            // The last of a circle may have waited for less than the first, who is suspected.
            let long = |since| now.saturating_duration_since(since) >= PATIENCE / 2;
            if client.waits.is_some_and(long) {
                asked.entry(&process.0).or_default().push(process.1);
            }
        }
    }
    let commits = clients
        .iter()
        .filter_map(|client| Some((client.commits?, client.id)));
    let commits: HashMap<_, _> = commits.collect();
    let mut waits = Vec::new();
    for (instance, mut processes) in asked {
        processes.truncate(PROCESSES_MAX);
        let deadline = state.core.now() + ANSWER_MAX;
        let answer = Box::pin(blocked(state, instance, &processes));
        let answer = state.core.timeout_at(Some(deadline), answer).await;
        for (waiter, holder) in answer.flatten().unwrap_or_default() {
            let client = |process: i32| holders.get(&(Arc::clone(instance), process)).copied();
            let holder = match holder {
                Holder::Process(process) => client(process),
                Holder::Prepared(id) => commits.get(&id).copied(),
            };
            if let (Some(waiter), Some(holder)) = (client(waiter), holder) {
                waits.push((waiter, holder));
            }
        }
    }
    waits
}

/// Which of these processes of a server waits for whom. On a connection that no pool counts: theirs may all be waiting.
async fn blocked(
    state: &Rc<CoreState>,
    instance: &Instance,
    processes: &[i32],
) -> Option<Vec<(i32, Holder)>> {
    let slot = {
        let pools = state.pools();
        let slot = pools.places(instance).find_map(Place::slot).cloned();
        slot?
    };
    let mut server = connect::connect(state, &slot, Purpose::Check).await.ok()?;
    let list: Vec<String> = processes.iter().map(ToString::to_string).collect();
    let list = list.join(",");
    let text = format!(
        "SELECT p, pg_catalog.unnest(pg_catalog.pg_blocking_pids(p)) FROM pg_catalog.unnest('{{{list}}}'::int4[]) AS p"
    );
    let answer = server.run(&text).await.ok();
    let mut found = Vec::new();
    let mut prepared = false;
    if let Some(answer) = answer {
        answer.each_row(|row| match (number(row, 0), number(row, 1)) {
            (Some(_), Some(0)) => prepared = true,
            (Some(waiter), Some(holder)) => found.push((waiter, Holder::Process(holder))),
            _ => {}
        });
    }
    if prepared {
        let answer = server.run(&prepared_holders(&list)).await.ok();
        if let Some(answer) = answer {
            answer.each_row(|row| {
                let text = |at: usize| row.get(at).copied().flatten().unwrap_or_default();
                let id = std::str::from_utf8(text(1)).ok().and_then(any_id);
                if let (Some(waiter), Some(id)) = (number(row, 0), id) {
                    if exclude(text(2), text(3)) {
                        found.push((waiter, Holder::Prepared(id)));
                    }
                }
            });
        }
    }
    Box::new(server).close(state).await;
    Some(found)
}

fn number(row: &[Option<&[u8]>], at: usize) -> Option<i32> {
    std::str::from_utf8((*row.get(at)?)?).ok()?.parse().ok()
}

/// Asks for which prepared transactions these processes may wait: `pg_blocking_pids` calls them all 0. Answers the process, the
/// GID, and the modes of what is wanted and held.
///
/// What is prepared has its locks under the virtual transaction of its session, and its xid is one of them.
fn prepared_holders(processes: &str) -> String {
    let same = [
        "locktype",
        "database",
        "relation",
        "page",
        "tuple",
        "virtualxid",
        "transactionid",
        "classid",
        "objid",
        "objsubid",
    ];
    let same = same.map(|column| format!("held.{column} IS NOT DISTINCT FROM wanted.{column}"));
    format!(
        "WITH locks AS (SELECT * FROM pg_catalog.pg_locks) \
         SELECT wanted.pid, x.gid, wanted.mode, held.mode FROM locks wanted \
         JOIN locks held ON held.granted AND held.pid IS NULL AND {} \
         JOIN locks own ON own.granted AND own.pid IS NULL AND own.virtualtransaction = held.virtualtransaction \
         AND own.locktype = 'transactionid' AND own.mode = 'ExclusiveLock' \
         JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = own.transactionid \
         WHERE NOT wanted.granted AND wanted.pid = ANY ('{{{processes}}}')",
        same.join(" AND ")
    )
}
