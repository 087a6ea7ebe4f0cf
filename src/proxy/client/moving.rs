//! A client goes to another core, between two transactions: with its socket, what it has set and prepared, and its key.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cores::gate::Pass;
use cores::{Detached, Stream};

use crate::error::Error;
use crate::metrics::ClientMeter;
use crate::prepared::{ClientStatements, MovedStatement, MovedStatements};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::cancel_key::CancelKey;
use crate::session::{Recall, Ties};
use crate::snapshot::Names;
use crate::sql::session_settings::SessionSettings;

use super::super::core_state::{Activity, CoreState, Phase};
use super::super::doors::count_there;
use super::super::link::{Face, Notice};
use super::super::mail::Mail;
use super::super::publish_load;
use super::adopt::{removed, Manner};
use super::audit::Audit;
use super::farewell::{goodbye, log_departure, CLOSE_PATIENCE};
use super::unnamed::Unnamed;
use super::written::{Ledgers, MovedLedgers};
use super::{serve, End, Inbound, Session};

/// How long a client waits where it arrives for a configuration that it knows already, and how often that is looked for.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);
const NEWS_LOOK: Duration = Duration::from_millis(1);

/// A client between two cores.
pub(crate) struct Moving {
    stream: Detached,
    /// What it has sent and nobody has taken.
    inbound: Vec<u8>,
    key: CancelKey,
    names: Arc<Names>,
    application_name: Arc<str>,
    meter: ClientMeter,
    /// How often it has moved, this time included.
    moves: u32,
    /// It is silent since then.
    since: Instant,
    generation: u32,
    manner: Manner,
    settings: SessionSettings,
    statements: MovedStatements,
    unbound: Option<MovedStatement>,
    bound: Vec<u8>,
    skipping: bool,
    recall: Recall,
    /// Clients of its pool ask what they have counted.
    recalls: bool,
    written: Option<MovedLedgers>,
}

impl Session {
    /// Ready when it may leave for the core that it is bound for: it has nothing that only this core knows, and its client all that it
    /// was sent. If that cannot be, it stays until it is asked again.
    pub(super) fn poll_leave(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.may_move() {
            self.link.stay();
            return Poll::Pending;
        }
        // One that does not read is not waited for: it is served here meanwhile.
        match self.stream.poll_flush(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Has it nothing that only this core knows? It is asked while it holds no server, in session mode only before its first request.
    fn may_move(&self) -> bool {
        self.state.phase.get() == Phase::Serving
            && self.link.notice().is_none()
            && self.status() == TransactionStatus::Idle
            && self
                .sharded
                .as_ref()
                .is_none_or(|sharded| sharded.is_at_rest())
            && !self.inbound.is_amid()
            && self.settings.is_at_rest()
            && self.statements.are_settled()
            && self.unbound_in == 0
            && self.tracker.is_none()
            && self.known.is_none()
            && self.retry.is_none()
            && !self.timed_out
            && !self.ties.asks()
            && self.ties.reason().is_none()
            && self
                .written
                .as_ref()
                .is_none_or(|written| Rc::strong_count(written) == 1)
    }

    /// Leaves for core number `to`, or stays: it was told something meanwhile, or that core has no room for it. `None`: it is not
    /// served here any more.
    pub(super) async fn depart(self, to: usize, pass: Pass) -> Option<(Self, Pass)> {
        let state = Rc::clone(&self.state);
        match self.sent_to(to).await {
            Some(session) => Some((session, pass)),
            None => {
                drop(pass);
                publish_load(&state);
                None
            }
        }
    }

    async fn sent_to(self, to: usize) -> Option<Self> {
        let Self {
            state,
            stream,
            link,
            slot,
            generation,
            manner,
            inbound,
            settings,
            statements,
            unbound,
            bound,
            skipping,
            recall,
            written,
            ..
        } = self;
        let Ok(detached) = stream.detach().await else {
            log_departure(&state, &slot.names);
            return None;
        };
        let face = link.face.get()?;
        // What was received and not looked at is nobody's yet.
        let (received, moves) = (detached.received.len(), link.moves.get() + 1);
        link.meter
            .passed(u64::try_from(received).unwrap_or_default(), 0);
        let moving = Box::new(Moving {
            inbound: [inbound.bytes(), &detached.received].concat(),
            stream: detached,
            key: link.key.clone(),
            names: Arc::clone(&face.names),
            application_name: face.application_name(),
            meter: link.meter.clone(),
            moves,
            since: link.since.get(),
            generation,
            manner,
            settings,
            statements: statements.moved(),
            unbound: unbound.as_deref().map(MovedStatement::from),
            bound,
            skipping,
            recall,
            recalls: slot.recalls.get(),
            written: written.map(|ledgers| ledgers.moved()),
        });
        let notice = link.notice();
        // It was told something meanwhile, or the core `to` may let nobody in any more.
        let stays = notice.is_some() || state.phase.get() != Phase::Serving;
        link.leave(to, moves);
        let back = match stays {
            false => match state.send(to, Mail::Moving(moving)) {
                Ok(()) => {
                    count_there(&state, to);
                    return None;
                }
                Err(Mail::Moving(back)) => back,
                Err(_) => return None,
            },
            true => moving,
        };
        match unpack(&state, back) {
            Ok(session) => {
                if let Some(notice) = notice {
                    session.link.notify(notice);
                }
                Some(session)
            }
            Err((stream, error)) => {
                goodbye(&state, stream, &error, CLOSE_PATIENCE).await;
                None
            }
        }
    }
}

/// A client has come from another core.
pub(crate) fn arrive(state: &Rc<CoreState>, moving: Box<Moving>) {
    state.moved_in.add(1);
    let generation = moving.generation;
    if !is_newer(generation, state.generation()) {
        return take_in(state, moving);
    }
    // The configuration that it comes from is not in force here yet, but on its way.
    let context = Rc::clone(state);
    state.core.spawn(async move {
        let deadline = context.core.now() + NEWS_PATIENCE;
        while is_newer(generation, context.generation()) && context.core.now() < deadline {
            context.core.sleep(NEWS_LOOK).await;
        }
        take_in(&context, moving);
    });
}

/// Is this the number of a later configuration?
fn is_newer(generation: u32, than: u32) -> bool {
    let ahead = generation.wrapping_sub(than);
    ahead != 0 && ahead < u32::MAX / 2
}

fn take_in(state: &Rc<CoreState>, moving: Box<Moving>) {
    let arrived = unpack(state, moving);
    let context = Rc::clone(state);
    // Where others are waited for, so is who had been let in elsewhere.
    let pass = state.gate.enter().or_else(|| state.gate.enter_late());
    publish_load(state);
    match (arrived, pass) {
        (Ok(session), Some(pass)) => serve(session, pass),
        // The shutdown has begun meanwhile.
        (Ok(session), None) => state.core.spawn(async move {
            let end = End::Fatal(session.farewell(Notice::ShutDown));
            session.end(end).await;
        }),
        (Err((stream, error)), _) => state.core.spawn(async move {
            goodbye(&context, stream, &error, CLOSE_PATIENCE).await;
        }),
    }
}

/// The session as it goes on here. Errors: it has no place in the configuration any more.
fn unpack(state: &Rc<CoreState>, moving: Box<Moving>) -> Result<Session, (Stream, Error)> {
    let moving = *moving;
    let stream = Stream::attach(&state.core, moving.stream);
    let Names { user, database } = &*moving.names;
    let Some(cluster) = state.cluster_of(user, database) else {
        log_departure(state, &moving.names);
        state.note_whereabouts(moving.key.process_id(), None, moving.moves);
        return Err((stream, removed(database)));
    };
    let slot = Rc::clone(cluster.home());
    let face = Face {
        names: Arc::clone(&slot.names),
        peer: stream.peer(),
        application_name: RefCell::new(state.application_name(moving.application_name.as_bytes())),
    };
    let link = state.enroll_moved(moving.key, &slot, moving.meter, moving.moves);
    let _ = link.face.set(face); // it is fresh
    link.enter(Activity::Idle, moving.since);
    state.upkeep.silent_arrived();
    if moving.recalls {
        slot.recalls.set(true);
    }
    let mut kept = state.statements.borrow_mut();
    let statements = ClientStatements::arrived(moving.statements, &mut kept);
    let unbound = moving.unbound.map(|statement| kept.take_in(statement));
    drop(kept);
    Ok(Session {
        state: Rc::clone(state),
        stream,
        link,
        generation: moving.generation,
        cluster,
        slot,
        manner: moving.manner,
        inbound: Inbound::of(moving.inbound),
        settings: moving.settings,
        proven: None,
        statements,
        tracker: None,
        known: None,
        ties: Ties::default(),
        recall: moving.recall,
        redefined: Default::default(),
        unnamed: Unnamed::None,
        unbound,
        bound: moving.bound,
        unbound_in: 0,
        skipping: moving.skipping,
        is_silent: true,
        timed_out: false,
        retry: None,
        audit: Audit::of(state),
        written: moving.written.map(|moved| Rc::new(Ledgers::arrived(moved))),
        sharded: None,
    })
}
