//! Where decisions meet sockets: what one core runs.

mod client;
mod cluster;
pub mod commit_log;
mod core_state;
mod deadlocks;
mod doors;
pub(crate) mod iam;
mod link;
mod mail;
mod news;
mod pools;
mod prober;
mod queue;
mod reload;
mod room;
mod server;
mod setup;
mod shares;
mod snapshot;
mod tls;
mod two_phase;
mod upkeep;
mod welcomes;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc::TrySendError;
use std::sync::Arc;
use std::time::Duration;

use cores::gate::Gate;
use cores::{Core, Mailbox, PostOffice};

use crate::metrics::nanoseconds;

use core_state::{CoreState, Phase};
use link::Notice;

pub(crate) use core_state::Boot;
pub(crate) use mail::{
    Act, Ask, Done, Ending, Event, Events, GatherId, Introduced, Mail, Reply, Whom, EVENTS_MAX,
    MAILBOX_CAPACITY,
};
pub(crate) use server::connect::tcp_options;
pub(crate) use setup::Setup;
pub(crate) use tls::{ClientSide, Tls};
pub(crate) use two_phase::CommitBoot;

/// After `shutdown_timeout`, how long sessions may take to end and servers to close, unless
/// `shutdown_termination_timeout` says otherwise.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Connections of one core that may be about to log in, some 8 kB each, and at most their share of half the files that
/// may be open; more hear that there are too many. Those that say nothing leave after `client_login_timeout`.
const NEWCOMERS_MAX: usize = 8192;

/// How many connections of each core may be about to log in, where so many files may be open.
pub(crate) fn newcomers_max(files: u64, cores: usize) -> usize {
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    (files / 2 / cores.max(1)).clamp(1, NEWCOMERS_MAX)
}
/// The others hear of a core's clients when their number has changed by more than one part in this.
const NEWS_TOLERANCE: usize = 16;
/// How long administrators may take to hear that it is over.
const ADMIN_GOODBYE: Duration = Duration::from_millis(200);
/// Serves clients on this core until it is shut down.
pub(crate) async fn run(core: Core, mailbox: Mailbox<Mail>, office: PostOffice<Mail>, boot: Boot) {
    let listen = Arc::clone(&boot.listen);
    let left = boot.commits.left.clone();
    let state = CoreState::new(core.clone(), office, boot);
    let turns = Rc::clone(&state.turns);
    core.watch_turns(move |took| turns.record(nanoseconds(took)));
    core.spawn(pools::carry_mail(Rc::clone(&state)));
    core.spawn(upkeep::tick(Rc::clone(&state)));
    core.spawn(deadlocks::watch(Rc::clone(&state)));
    doors::open(&state, &listen);
    prober::adapt(&state);
    if core.index() == 0 {
        core.spawn(client::derive_ahead(Rc::clone(&state)));
        two_phase::recover(&state, &left);
        core.spawn(two_phase::watch(Rc::clone(&state)));
    }
    let ending = loop {
        match state.receive(&mailbox).await {
            Mail::Client(fd) => start_session(&state, fd),
            Mail::Moving(client) => client::arrive(&state, client),
            Mail::Whereabouts {
                process_id,
                core,
                moves,
            } => state.heard_whereabouts(process_id, core, moves),
            Mail::Load { core, clients } => {
                if let Some(load) = state.loads.get(core) {
                    load.set(clients);
                }
            }
            Mail::Busy { core, permille } => state.doors.heard_busy(core, permille),
            Mail::Active(cores) => state.doors.turn_to(cores),
            Mail::Knock => state.doors.knocked(),
            Mail::Derived(derived) => state.learn_keys(*derived),
            Mail::Pool { pool, mail } => pools::receive(&state, pool, mail),
            Mail::Welcome { pool, reported } => pools::heard(&state, pool, reported),
            Mail::Cancel { process_id, secret } => {
                server::cancel::requested(&state, process_id, &secret)
            }
            Mail::Incident(incident) => news::heard_incident(&state, &incident),
            Mail::Room(room) => room::heard(&state, room),
            Mail::Share { id, order } => shares::receive(&state, id, order),
            Mail::Shared { id, report } => shares::heard(&state, id, report),
            Mail::Checked(checked) => news::heard_check(&state, &checked),
            Mail::Defined(names) => news::heard_definitions(&state, &names),
            Mail::Round(round) => deadlocks::heard(&state, *round),
            Mail::Gather { id, scope } => snapshot::answer(&state, id, scope),
            Mail::Act { act, done } => reload::act(&state, act, &done),
            Mail::Shutdown(ending) => break ending,
            Mail::End => return,
        }
    };
    // Connections are accepted to the end: administrators may come in, others are told to stay away.
    state.phase.set(Phase::Draining);
    state.doors.wake();
    state.gate.close();
    state.begin_ending(ending);
    // Pool mail goes on meanwhile: other cores may be waiting for our connections.
    let context = Rc::clone(&state);
    let all_drained = Gate::new();
    let end = all_drained.clone();
    core.spawn(async move {
        loop {
            match context.receive(&mailbox).await {
                Mail::Client(fd) => start_session(&context, fd),
                Mail::Moving(client) => client::arrive(&context, client),
                Mail::Pool { pool, mail } => pools::receive(&context, pool, mail),
                Mail::Cancel { process_id, secret } => {
                    server::cancel::requested(&context, process_id, &secret)
                }
                Mail::Gather { id, scope } => snapshot::answer(&context, id, scope),
                Mail::Whereabouts {
                    process_id,
                    core,
                    moves,
                } => context.heard_whereabouts(process_id, core, moves),
                Mail::Knock => context.doors.knocked(),
                Mail::Derived(derived) => context.learn_keys(*derived),
                Mail::Load { .. } | Mail::Busy { .. } | Mail::Active(_) | Mail::Welcome { .. } => {}
                Mail::Incident(incident) => news::heard_incident(&context, &incident),
                Mail::Room(room) => room::heard(&context, room),
                Mail::Share { id, order } => shares::receive(&context, id, order),
                Mail::Shared { id, report } => shares::heard(&context, id, report),
                Mail::Checked(checked) => news::heard_check(&context, &checked),
                Mail::Defined(names) => news::heard_definitions(&context, &names),
                Mail::Round(round) => deadlocks::heard(&context, *round),
                Mail::Act { act, done } => reload::act(&context, act, &done),
                Mail::Shutdown(ending) => context.begin_ending(ending),
                Mail::End => end.close(),
            }
        }
    });
    if !state.sessions_ended().await {
        tracing::warn!(
            core = core.index(),
            sessions = state.gate.running(),
            "shutdown_timeout has passed, closing the rest"
        );
        for link in state.links.borrow().values() {
            link.notify(Notice::ShutDown);
        }
        let last = core.now()
            + state
                .config()
                .shutdown
                .termination_timeout
                .unwrap_or(LAST_WAIT);
        let _ = core.timeout_at(Some(last), state.gate.drained()).await;
    }
    // As long as any core has clients these may need our connections, and administrators may come to each.
    let mut drained = Event::CoreDrained(core.index());
    while let Err(TrySendError::Full(event)) = state.events.try_send(drained) {
        drained = event;
        core.sleep(Duration::from_millis(2)).await;
    }
    all_drained.drained().await;
    let pools = state.pools();
    for slot in pools.iter() {
        slot.decide(&state, |pool, now, out| pool.drain(now, out));
    }
    let last = core.now()
        + state
            .config()
            .shutdown
            .termination_timeout
            .unwrap_or(LAST_WAIT);
    while core.now() < last && !pools.iter().all(|slot| slot.is_drained()) {
        core.sleep(Duration::from_millis(2)).await;
    }
    for admin in state.admins.borrow().values() {
        admin.end();
    }
    let last = core.now() + ADMIN_GOODBYE;
    while core.now() < last && !state.admins.borrow().is_empty() {
        core.sleep(Duration::from_millis(2)).await;
    }
    two_phase::end(&state).await;
}

fn start_session(state: &Rc<CoreState>, fd: OwnedFd) {
    if state.doorway.running() >= state.newcomers_max {
        return client::turn_away(state, fd);
    }
    let newcomer = state.doorway.enter();
    let context = Rc::clone(state);
    publish_load(state);
    state.core.spawn(async move {
        // Boxed: a future is copied several times on its way to its task, and this one takes some 8 kB.
        Box::pin(client::admit(&context, fd, newcomer)).await;
        publish_load(&context);
    });
}

/// Tells the other cores how many clients there are here, when that has changed noticeably.
fn publish_load(state: &CoreState) {
    let clients = state.load();
    if clients.abs_diff(state.published_load.get()) <= clients / NEWS_TOLERANCE {
        return;
    }
    state.published_load.set(clients);
    let core = state.core.index();
    for other in (0..state.office.cores()).filter(|other| *other != core) {
        // Nobody is woken for this, and a full box does without: the next change brings news.
        let _ = state.leave(other, Mail::Load { core, clients });
    }
}
