//! One client's session, from its first byte to its last.

mod admin;
mod adopt;
mod audit;
mod checkout;
mod facts;
mod farewell;
mod inbound;
mod login;
mod lookup;
mod moving;
mod obtain;
mod passthrough;
mod prepared;
mod probe;
mod recall;
mod relay;
mod replies;
mod request;
mod restore;
mod role;
mod shapes;
mod sharded;
mod startup;
mod statement_mode;
mod unnamed;
mod unread;
mod visitor;
mod wish;
mod written;

pub(crate) use admin::AdminLink;
pub(crate) use facts::{Learning, Learnt};
pub(crate) use farewell::turn_away;
pub(crate) use login::derive_ahead;
pub(crate) use moving::{arrive, Moving};
pub(crate) use sharded::PlainRows;
pub(crate) use visitor::Visitor;

use std::future::{poll_fn, Future};
use std::mem;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{ready, Poll};
use std::time::Duration;

use cores::gate::Pass;
use cores::{Core, Stream};

use crate::config::choice::{ClientRecovery, PoolerMode};
use crate::error::{Error, Fault};
use crate::prepared::{ClientStatements, Statement};
use crate::protocol::backend::{ready_for_query, TransactionStatus};
use crate::protocol::error_fields::put_error;
use crate::protocol::frame::{Header, HEADER_BYTES};
use crate::protocol::frontend::tag;
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::routing::defined::Redefined;
use crate::session::{Recall, Ties, Tracker, CHECK};
use crate::sql::session_settings::SessionSettings;
use crate::sql::settings::Settings;

use super::cluster::Cluster;
use super::core_state::{Activity, CoreState};
use super::doors::settle_for_good;
use super::link::{Enrolled, Link, Notice};
use super::pools::PoolSlot;
use super::publish_load;
use super::server::{Collector, Lost, RunError, Server};

use admin::AdminSession;
use adopt::Manner;
use audit::Audit;
use farewell::{close, log_departure, CLOSE_PATIENCE};
use inbound::Inbound;
use obtain::Aim;
use relay::{Extent, Relay, Sent};
use restore::Known;
use sharded::Sharded;
use statement_mode::no_transactions;
use unnamed::Unnamed;
use written::Ledgers;

/// An incomplete request up to this size waits for the rest before it takes a server.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Of a larger Bind this much has to be there: its names.
const NAMES_AHEAD_BYTES: usize = request::NAMES_BYTES_MAX + HEADER_BYTES + 1;
/// Bytes of requests that a client may pile up while it waits for a server.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// How long a server may take to stop a statement that we have cancelled.
pub(super) const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// Time for the server's answer to questions of ours between a client's transactions.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A logged-in client.
struct Session {
    state: Rc<CoreState>,
    stream: Stream,
    link: Enrolled,
    /// Of the configuration that `cluster` and `manner` come from.
    generation: u32,
    cluster: Rc<Cluster>,
    /// The pool that its requests go to.
    slot: Rc<PoolSlot>,
    manner: Manner,
    inbound: Inbound,
    /// What this client has set.
    settings: SessionSettings,
    /// Settings that a server has taken before: they may travel ahead of a request.
    proven: Option<Proven>,
    statements: ClientStatements,
    /// Its statements that change settings, while there are any on their way.
    tracker: Option<Box<Tracker>>,
    /// In session mode: its prepared statements that change the session, by name.
    known: Option<Box<Known>>,
    /// What ties it to the server that it has.
    ties: Ties,
    /// Where it may have counted, and whether it may want to know.
    recall: Recall,
    /// What is known of the unnamed statement on the server that it has.
    unnamed: Unnamed,
    /// The unnamed statement, if it was not bound in the batch that parsed it.
    unbound: Option<Rc<Statement>>,
    /// The same, as it came, if it was: it may be bound again in a later batch. Empty if there is none.
    bound: Vec<u8>,
    /// How many ReadyForQuery it takes until that was parsed for certain.
    unbound_in: u32,
    /// After an error of ours in a batch: everything up to Sync is ignored.
    skipping: bool,
    /// It has not had a request here: its link says since when it is silent.
    is_silent: bool,
    /// The running statement was cancelled by `query_timeout`.
    timed_out: bool,
    /// The batch that the server has, if it may be sent again should the plan of its statement be stale.
    retry: Option<Box<[u8]>>,
    /// What of it is watched, if anything is.
    audit: Option<Box<Audit>>,
    /// What it has written and its reads have to see, if that is wanted.
    written: Option<Rc<Ledgers>>,
    /// What the transaction under way has changed of the catalogue, where a server did it by itself.
    redefined: Redefined,
    /// What it has on shards, if there are several.
    sharded: Option<Box<Sharded>>,
}

/// Settings that a server has taken, and what it has reported then.
struct Proven {
    settings: Arc<Settings>,
    reported: Rc<Parameters>,
}

/// Why a session ends.
#[derive(Debug)]
enum End {
    /// The client said goodbye or is gone.
    Left,
    /// We end it, and say why.
    Fatal(Error),
    /// The server's own last words have been passed on; nothing is to be added.
    Silent,
    /// The server is gone, the client has heard of it and goes on.
    Recovered,
}

/// What a client is served with next.
enum Next {
    Request,
    /// Another core, with this number.
    Core(usize),
}

/// A client is not served here any more.
enum Outcome {
    Ended(End),
    /// It goes on at the core with this number.
    Moves(usize),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Fatal(error)
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        End::Left
    }
}

/// Lets one accepted connection log in; `newcomer` counts it until then. Its session is a task of its own: there are as many
/// of these as clients, and a login takes more room than one that idles.
pub(crate) async fn admit(state: &Rc<CoreState>, fd: OwnedFd, newcomer: Option<Pass>) {
    let stream = Stream::adopt(&state.core, fd);
    match login::log_in(state, stream).await {
        None => {}
        Some(LoggedIn::Client(session)) => {
            let pass = state.gate.enter();
            drop(newcomer);
            let Some(pass) = pass else {
                // The shutdown began while it logged in.
                let end = End::Fatal(session.farewell(Notice::ShutDown));
                return session.end(end).await;
            };
            if session.manner.mode == PoolerMode::Session {
                settle_for_good(&session.link, state);
            }
            serve(session, pass);
        }
        Some(LoggedIn::Admin(session)) => {
            drop(newcomer);
            session.run().await;
        }
    }
}

/// Serves a client until it leaves, here or for another core.
fn serve(session: Session, pass: Pass) {
    let core = session.state.core.clone();
    let mut here = (session, pass);
    core.spawn(async move {
        loop {
            let outcome = here.0.run().await;
            let (session, pass) = here;
            // Boxed: a task that waits for its client needs no place for its end.
            match outcome {
                Outcome::Ended(end) => return Box::pin(session.leave(end, pass)).await,
                Outcome::Moves(to) => match Box::pin(session.depart(to, pass)).await {
                    Some(stays) => here = stays,
                    None => return,
                },
            }
        }
    });
}

/// What `serving` comes to, unless the session is killed before, wherever it is: what it holds goes with it.
fn unless_killed<F>(link: Rc<Link>, mut serving: Pin<Box<F>>) -> impl Future<Output = F::Output>
where
    F: Future<Output = Result<(), End>>,
{
    poll_fn(move |cx| {
        if link.notice() == Some(Notice::Killed) {
            return Poll::Ready(Err(End::Fatal(adopt::killed())));
        }
        serving.as_mut().poll(cx)
    })
}

/// Who has come in.
enum LoggedIn {
    Client(Session),
    Admin(AdminSession),
}

impl Session {
    /// Serves it here, until it ends or goes to another core.
    async fn run(&mut self) -> Outcome {
        loop {
            match self.next_request().await {
                Ok(Next::Request) => {}
                Ok(Next::Core(to)) => return Outcome::Moves(to),
                Err(end) => {
                    if self.link.notice() != Some(Notice::Killed) {
                        self.leave_shards();
                    }
                    return Outcome::Ended(end);
                }
            }
            let link = self.link.link();
            // Boxed: most sessions idle most of the time, and need no place for it then.
            if let Err(end) = unless_killed(link, Box::pin(self.serve_request())).await {
                return Outcome::Ended(end);
            }
        }
    }

    /// A request, and all that needs the same server: one transaction, or the whole session.
    async fn serve_request(&mut self) -> Result<(), End> {
        let asks = self.cluster.is_split() || self.cluster.rehearsal.is_some();
        if asks && !self.cluster.is_fresh(self.state.core.now()) {
            Box::pin(self.learn_facts()).await?;
        }
        let (mut held, aim, extent) = if self.defers_transactions() {
            let Some((held, aim)) = self.take_direct() else {
                return Box::pin(self.serve_sharded()).await;
            };
            (held, aim, Extent::Request)
        } else {
            let (aim, extent) = match self.cluster.is_split() {
                false => (Aim::default(), Extent::Transaction),
                true => match self.route()? {
                    Some(aim) => (aim, Extent::OneTransaction),
                    None => return Ok(()),
                },
            };
            match self.checkout(aim).await? {
                Some(held) => (held, aim, extent),
                None => return Ok(()),
            }
        };
        let outcome = loop {
            let relay = Relay::new(self, &mut held, extent).chosen_for(aim);
            if let Err(end) = relay.run().await {
                break Err(end);
            }
            match self.settle(&mut held).await {
                Ok(false) => break Ok(()),
                Ok(true) if extent == Extent::Request => {
                    self.keep_direct(held, aim.shard);
                    return Ok(());
                }
                Ok(true) if self.is_outdated() => {
                    self.note_writes(&mut held, aim.shard, aim.want);
                    if let Err(end) = self.may_stay() {
                        break Err(end);
                    }
                }
                Ok(true) => self.note_writes(&mut held, aim.shard, aim.want),
                Err(end) => break Err(end),
            }
            self.link.enter(Activity::Idle, self.state.core.now());
        };
        match outcome {
            Err(End::Recovered) => {
                drop(held);
                self.let_go();
                Ok(())
            }
            outcome => {
                self.give_back(held);
                outcome
            }
        }
    }

    /// Between two transactions: does the client keep its server?
    async fn settle(&mut self, server: &mut Server) -> Result<bool, End> {
        if self.tracker.is_some() || self.ties.asks() {
            let core = self.state.core.clone();
            Box::pin(in_time(&core, self.ask(server))).await?;
        }
        let inexact = (!self.settings.is_exact()).then_some("setting");
        let reason = self.ties.reason().or(inexact);
        if reason.is_some() != self.link.pinned().is_some() {
            let client = self.link.key.process_id();
            tracing::debug!(client, reason, "client keeps its server, or no longer");
            let now = self.state.core.now();
            self.link.pin(reason.map(|reason| (reason, now)));
        }
        if reason.is_some() && server.counters.are_mixed() && self.pools() {
            let core = self.state.core.clone();
            Box::pin(in_time(&core, self.wipe(server))).await?;
        }
        Ok(reason.is_some() || self.manner.mode == PoolerMode::Session)
    }

    /// Asks the server what it holds, and gives it what RESET has taken.
    async fn ask(&mut self, server: &mut Server) -> Result<(), Lost> {
        self.tracker = None; // nothing is on its way, and no portal outlives a transaction
        self.unnamed = Unnamed::None; // our questions are Queries, which drop it
        if self.ties.asks() && self.manner.mode != PoolerMode::Session {
            match server.run(CHECK).await {
                Ok(answer) => {
                    self.ties.answered(Some(answer.value().unwrap_or_default()));
                    self.pass_asides(&answer)?;
                }
                Err(RunError::Server(_)) => self.ties.answered(None),
                Err(RunError::Lost(lost)) => return Err(lost),
            }
        }
        server.settings = Arc::clone(self.settings.on_server());
        match server.bring_to(self.settings.committed()).await {
            Ok(None) => {}
            Ok(Some(answer)) => {
                self.settings.in_line();
                self.pass_asides(&answer)?;
            }
            // What the client began with is not to be had any more: it hears of it with its next request.
            Err(RunError::Server(_)) => {}
            Err(RunError::Lost(lost)) => return Err(lost),
        }
        Ok(())
    }

    /// What came with the answer to a question of ours and is the client's. Errors: some of it is lost.
    fn pass_asides(&self, answer: &Collector) -> Result<(), Lost> {
        self.stream.send_vec(answer.asides());
        match answer.is_cut() {
            true => Err(Lost::Malformed),
            false => Ok(()),
        }
    }

    /// Waits until the client sends something that needs a server. What needs none is answered here.
    async fn next_request(&mut self) -> Result<Next, End> {
        let mut is_silent = mem::take(&mut self.is_silent);
        loop {
            if self.is_outdated() {
                match self.may_adopt() {
                    true => self.adopt()?,
                    false if self.status() == TransactionStatus::Idle => self.may_stay()?,
                    false => {}
                }
            }
            if !self.inbound.is_empty() && self.needs_server()? {
                return Ok(Next::Request);
            }
            self.count_traffic();
            let statements = self.statements.len();
            self.link
                .statements
                .set(u32::try_from(statements).unwrap_or(u32::MAX));
            let in_transaction = self.status() != TransactionStatus::Idle;
            let activity = match in_transaction {
                true => Activity::IdleInTransaction,
                false => Activity::Idle,
            };
            if !mem::take(&mut is_silent) {
                self.link.enter(activity, self.state.core.now());
            }
            let moves = poll_fn(|cx| {
                self.link.listen(cx);
                match self.link.notice() {
                    None => {}
                    Some(Notice::Superseded | Notice::Hung) => {
                        if in_transaction || self.holds_servers() {
                            return Poll::Ready(Err(self.lost_kept()));
                        }
                        self.link.forget_server();
                    }
                    // The transaction comes to its end first.
                    Some(Notice::Drain | Notice::Removed) if in_transaction => {}
                    Some(notice) => return Poll::Ready(Err(End::Fatal(self.farewell(notice)))),
                }
                if let Some(core) = self.link.bound_for() {
                    if self.poll_leave(cx).is_ready() {
                        return Poll::Ready(Ok(Some(core)));
                    }
                }
                self.hear_kept(cx)?;
                // Who does not read is not read from: each Sync has an answer.
                ready!(self.stream.poll_room(cx))?;
                self.poll_inbound(cx).map_ok(|()| None)
            });
            if let Some(core) = moves.await? {
                return Ok(Next::Core(core));
            }
        }
    }

    /// The bytes that have passed since the last call.
    #[inline]
    fn count_traffic(&self) {
        let (received, sent) = self.stream.take_traffic();
        self.link.meter.passed(received, sent);
    }

    /// Takes what has come from the client.
    fn poll_inbound(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), End>> {
        match self.stream.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(buf))) => {
                self.inbound.push(buf);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(None) | Err(_)) => Poll::Ready(Err(End::Left)),
        }
    }

    /// Does the next message need a server? Answers and removes those in front of it that do not. False: nothing
    /// is left, or only the beginning of a message.
    fn needs_server(&mut self) -> Result<bool, End> {
        while let Some(header) = self.inbound.next()? {
            match header.tag {
                tag::TERMINATE => return Err(End::Left),
                tag::SYNC if !self.skipping && self.has_open_batch() => return Ok(true),
                tag::SYNC => {
                    self.skipping = false;
                    self.inbound.skip(header);
                    self.stream.write(&ready_for_query(self.status()));
                }
                _ if self.skipping => self.inbound.skip(header),
                // The rest of COPY data whose COPY has failed, and a Flush of nothing.
                tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH => {
                    self.inbound.skip(header)
                }
                tag::QUERY
                | tag::PARSE
                | tag::BIND
                | tag::DESCRIBE
                | tag::EXECUTE
                | tag::CLOSE
                | tag::FUNCTION_CALL => {
                    let frame = self.inbound.bytes().get(HEADER_BYTES..header.frame_bytes());
                    if frame.is_some_and(|body| self.begins_in_statement_mode(header.tag, body)) {
                        self.answer(&no_transactions())?;
                        continue;
                    }
                    if self.cluster.is_split() {
                        if matches!(header.tag, tag::QUERY | tag::PARSE) {
                            // What is refused is not waited for.
                            self.check_query_bytes(header, false)?;
                        }
                        return Ok(self.is_batch_whole()? || self.wait_for_more());
                    }
                    // A client that is slow in saying what it wants does not hold a server meanwhile.
                    return Ok(self.is_ready(header) || self.wait_for_more());
                }
                other => {
                    let what = format!("unexpected message '{}'", other.escape_ascii());
                    return Err(End::Fatal(Error::protocol_violation(what)));
                }
            }
        }
        Ok(self.wait_for_more())
    }

    /// Is enough of the message here for it to be passed on once there is a server?
    fn is_ready(&self, header: Header) -> bool {
        let enough = match header.tag {
            tag::QUERY | tag::PARSE if self.manner.mode != PoolerMode::Session => {
                request::READ_BYTES_MAX
            }
            tag::BIND | tag::DESCRIBE | tag::CLOSE => request::NAMES_BYTES_MAX,
            _ => REQUEST_BYTES_MAX,
        };
        let frame_bytes = header.frame_bytes();
        // What is too large to be waited for passes as it comes.
        let wanted = if frame_bytes <= enough {
            frame_bytes
        } else {
            REQUEST_BYTES_MAX.max(NAMES_AHEAD_BYTES).min(frame_bytes)
        };
        self.inbound.len() >= wanted
    }

    /// Keeps an incomplete message without keeping a receive buffer.
    fn wait_for_more(&mut self) -> bool {
        self.inbound.settle();
        false
    }

    /// An error of a pool, if the session may go on after it.
    fn recoverable(&self, error: Error) -> Result<Error, End> {
        if self.state.config().clients.recovery != ClientRecovery::Recover
            || error.severity() == "FATAL"
        {
            return Err(End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            }));
        }
        Ok(error)
    }

    /// Answers the request in front with an error; the rest of its batch is ignored.
    fn answer(&mut self, error: &Error) -> Result<(), End> {
        self.count_error(error);
        if let Some(sharded) = &mut self.sharded {
            sharded.transaction.fail();
        }
        let mut message = Vec::new();
        put_error(&mut message, error);
        if let Some(header) = self.inbound.next()? {
            if matches!(header.tag, tag::QUERY | tag::FUNCTION_CALL) {
                self.inbound.skip(header);
                message.extend_from_slice(&ready_for_query(self.status()));
            } else {
                self.skipping = true;
            }
        }
        self.stream.send_vec(message);
        Ok(())
    }

    /// The server was lost before it answered anything of the only batch.
    fn server_lost(&mut self, error: Error, sent: Sent) -> End {
        if self.state.config().clients.recovery != ClientRecovery::Recover {
            return End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            });
        }
        self.request_failed(&error, sent)
    }

    /// Nothing of the only batch was done, and the server is of no use any more.
    fn request_failed(&mut self, error: &Error, sent: Sent) -> End {
        if sent == Sent::Nothing {
            return self.answer(error).err().unwrap_or(End::Recovered);
        }
        self.count_error(error);
        if self.unbound_in > 0 {
            self.forget_unnamed(); // who knows if it was parsed
        }
        let mut message = Vec::new();
        put_error(&mut message, error);
        if sent == Sent::Ended {
            message.extend_from_slice(&ready_for_query(TransactionStatus::Idle));
            self.statements.ready();
        } else {
            self.statements.abandoned();
            self.skipping = true;
        }
        self.stream.send_vec(message);
        End::Recovered
    }

    /// The client hears of an error of ours.
    fn count_error(&self, error: &Error) {
        self.link.meter.error();
        let database = &self.slot.names.database;
        self.state.tally.error(database, error.code);
    }

    /// Its client is not served any more.
    async fn leave(self, end: End, pass: Pass) {
        let state = Rc::clone(&self.state);
        self.end(end).await;
        drop(pass);
        publish_load(&state);
    }

    /// Says goodbye, and forgets the session.
    async fn end(self, end: End) {
        let left = matches!(end, End::Left);
        if let End::Fatal(error) = end {
            self.count_error(&error);
            let mut message = Vec::new();
            put_error(&mut message, &error);
            self.stream.send_vec(message);
        }
        log_departure(&self.state, &self.slot.names);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        if left && self.stream.poll_flush(&mut cx).is_ready() {
            return; // it has all that it wanted: closing is enough
        }
        let state = Rc::clone(&self.state);
        close(&state, self.stream, CLOSE_PATIENCE).await;
    }
}

/// A question of ours between a client's transactions.
async fn in_time(core: &Core, asked: impl Future<Output = Result<(), Lost>>) -> Result<(), End> {
    let deadline = Some(core.now() + SETTLE_TIMEOUT);
    let answered = core.timeout_at(deadline, asked).await;
    answered.unwrap_or(Err(Lost::Closed(None))).map_err(|lost| {
        End::Fatal(Error {
            survives: crate::error::Survives::Nothing,
            ..lost_error(&lost)
        })
    })
}

/// The error for a server that was lost before it answered anything.
fn lost_error(lost: &Lost) -> Error {
    tracing::warn!("server connection lost: {lost}");
    Error::error(
        Fault::Server,
        SqlState::CONNECTION_FAILURE,
        "server connection lost",
    )
}
