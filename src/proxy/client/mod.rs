//! One client's session, from its first byte to its last.

mod admin;
mod adopt;
mod audit;
mod inbound;
mod login;
mod prepared;
mod relay;
mod request;
mod startup;

pub(crate) use admin::AdminLink;

use std::future::{poll_fn, Future};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cores::gate::Pass;
use cores::{Buf, Stream};

use crate::config::choice::{ClientRecovery, PoolerMode};
use crate::error::{Error, Fault};
use crate::metrics::{nanoseconds, Answered, Phase, Stat};
use crate::pool::{Checkout, ClientId, Lease, Ticket, WaitError};
use crate::prepared::{ClientStatements, Statement};
use crate::protocol::backend::{ready_for_query, TransactionStatus};
use crate::protocol::error_fields::{field, put_error, Fields};
use crate::protocol::frame::{Header, HEADER_BYTES};
use crate::protocol::frontend::tag;
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::session::{Ties, Tracker, CHECK};
use crate::sql::session_settings::SessionSettings;
use crate::sql::settings::Settings;

use super::core_state::{Activity, CoreState, Enrolled, Notice};
use super::pools::{Conn, Held, PoolSlot};
use super::server::{Collector, Lost, OnError, Recipient, Reset, RunError, Server};

use admin::AdminSession;
use adopt::Manner;
use audit::Audit;
use inbound::Inbound;
use relay::Relay;
use request::Unnamed;

/// An incomplete request up to this size waits for the rest before it takes a server.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Of a larger Bind this much has to be there: its names.
const NAMES_AHEAD_BYTES: usize = request::NAMES_BYTES_MAX + HEADER_BYTES + 1;
/// Bytes of requests that a client may pile up while it waits for a server.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Time for the server's answer to questions of ours between a client's transactions.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A logged-in client.
struct Session {
    state: Rc<CoreState>,
    stream: Stream,
    link: Enrolled,
    /// Of the configuration that `slot` and `manner` come from.
    generation: u64,
    slot: Rc<PoolSlot>,
    manner: Manner,
    inbound: Inbound,
    /// What this client has set.
    settings: SessionSettings,
    statements: ClientStatements,
    /// Its statements that change settings, while there are any on their way.
    tracker: Option<Box<Tracker>>,
    /// What ties it to the server that it has.
    ties: Ties,
    /// What is known of the unnamed statement on the server that it has.
    unnamed: Unnamed,
    /// The unnamed statement, if it was not bound in the batch that parsed it.
    unbound: Option<Rc<Statement>>,
    /// How many ReadyForQuery it takes until that was parsed for certain.
    unbound_in: u32,
    /// After an error of ours in a batch: everything up to Sync is ignored.
    skipping: bool,
    /// The running statement was cancelled by `query_timeout`.
    timed_out: bool,
    /// The batch that the server has, if it may be sent again should the plan of its statement be stale.
    retry: Option<Box<[u8]>>,
    /// What of it is watched, if anything is.
    audit: Option<Box<Audit>>,
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

/// Serves one accepted connection to its end. `newcomer` counts it until it is logged in.
pub(crate) async fn serve(state: Rc<CoreState>, fd: OwnedFd, newcomer: Option<Pass>) {
    let stream = Stream::adopt(&state.core, fd);
    // Boxed: a login is long gone when its session idles.
    match Box::pin(login::log_in(&state, stream)).await {
        None => {}
        Some(LoggedIn::Client(mut session)) => {
            let pass = state.gate.enter();
            drop(newcomer);
            let end = match pass {
                Some(_) => session.run_unless_killed().await,
                // The shutdown began while it logged in.
                None => End::Fatal(session.farewell(Notice::ShutDown)),
            };
            Box::pin(session.end(end)).await;
            drop(pass);
        }
        Some(LoggedIn::Admin(session)) => {
            drop(newcomer);
            Box::pin(session.run()).await;
        }
    }
}

/// Who has come in.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly always a client, and moved once"
)]
enum LoggedIn {
    Client(Session),
    Admin(Box<AdminSession>),
}

impl Session {
    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.serve_request().await {
                return end;
            }
        }
    }

    /// The session, until it ends or is killed, wherever it is: what it holds goes with it.
    async fn run_unless_killed(&mut self) -> End {
        let link = self.link.link();
        let mut run = std::pin::pin!(self.run());
        poll_fn(|cx| {
            if link.notice() == Some(Notice::Killed) {
                return Poll::Ready(End::Fatal(adopt::killed()));
            }
            run.as_mut().poll(cx)
        })
        .await
    }

    /// A request, and all that needs the same server: one transaction, or the whole session.
    async fn serve_request(&mut self) -> Result<(), End> {
        self.next_request().await?;
        let Some(mut held) = self.checkout().await? else {
            return Ok(());
        };
        let outcome = loop {
            if let Err(end) = Relay::new(self, &mut held).run().await {
                break Err(end);
            }
            match self.settle(&mut held).await {
                Ok(false) => break Ok(()),
                Ok(true) if self.is_outdated() => {
                    if let Err(end) = self.may_stay() {
                        break Err(end);
                    }
                }
                Ok(true) => {}
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
            let asked = Box::pin(self.ask_in_time(server)).await;
            asked.map_err(|lost| {
                End::Fatal(Error {
                    survives: crate::error::Survives::Nothing,
                    ..lost_error(&lost)
                })
            })?;
        }
        let inexact = (!self.settings.is_exact()).then_some("setting");
        let reason = self.ties.reason().or(inexact);
        if reason.is_some() != self.link.pinned.get().is_some() {
            let client = self.link.key.process_id();
            tracing::debug!(client, reason, "client keeps its server, or no longer");
            let now = self.state.core.now();
            self.link.pinned.set(reason.map(|reason| (reason, now)));
        }
        Ok(reason.is_some() || self.manner.mode == PoolerMode::Session)
    }

    async fn ask_in_time(&mut self, server: &mut Server) -> Result<(), Lost> {
        let core = self.state.core.clone();
        let deadline = Some(core.now() + SETTLE_TIMEOUT);
        let answered = core.timeout_at(deadline, self.ask(server)).await;
        answered.unwrap_or(Err(Lost::Closed(None)))
    }

    /// Asks the server what it holds, and gives it what RESET has taken.
    async fn ask(&mut self, server: &mut Server) -> Result<(), Lost> {
        self.tracker = None; // nothing is on its way, and no portal outlives a transaction
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
    async fn next_request(&mut self) -> Result<(), End> {
        loop {
            if self.is_outdated() {
                self.adopt()?;
            }
            if !self.inbound.is_empty() && self.needs_server()? {
                return Ok(());
            }
            self.count_traffic();
            self.link.statements.set(self.statements.len());
            self.link.enter(Activity::Idle, self.state.core.now());
            poll_fn(|cx| {
                self.link.listen(cx);
                if let Some(notice) = self.link.notice() {
                    return Poll::Ready(Err(End::Fatal(self.farewell(notice))));
                }
                self.poll_inbound(cx)
            })
            .await?;
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
                tag::SYNC => {
                    self.skipping = false;
                    self.inbound.skip(header);
                    self.stream
                        .send_static(const { &ready_for_query(TransactionStatus::Idle) });
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
                    if self.begins_in_statement_mode(header) {
                        let text = "transactions are not available in statement mode";
                        self.answer(&Error::error(
                            Fault::Client,
                            SqlState::FEATURE_NOT_SUPPORTED,
                            text,
                        ))?;
                        continue;
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

    /// Would this message open a transaction where there are none?
    fn begins_in_statement_mode(&self, header: Header) -> bool {
        if self.manner.mode != PoolerMode::Statement
            || !matches!(header.tag, tag::QUERY | tag::PARSE)
        {
            return false;
        }
        let body = self
            .inbound
            .bytes()
            .get(HEADER_BYTES..header.frame_bytes())
            .unwrap_or_default();
        let text = match header.tag {
            tag::PARSE => {
                crate::protocol::frontend::Parse::parse(body).map_or(body, |parse| parse.query)
            }
            _ => body.strip_suffix(b"\0").unwrap_or(body),
        };
        let effects = crate::sql::session::effects(text, crate::sql::lexer::Dialect::default());
        effects
            .steps()
            .iter()
            .any(|step| step.effect == crate::sql::session::Effect::Begin)
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

    /// A server that has this client's settings; `None` if the request was answered with an error.
    async fn checkout(&mut self) -> Result<Option<Held>, End> {
        let since = self.state.core.now();
        loop {
            if self.slot.is_held() {
                self.wait_for_release().await?;
            }
            let client = ClientId(u64::from(self.link.key.process_id().unsigned_abs()));
            let checkout = self.slot.decide(&self.state, |pool, now, out| {
                pool.checkout(client, now, out)
            });
            let served = match checkout {
                Checkout::Ready(lease) => Ok(lease),
                Checkout::Wait(ticket) => self.wait(ticket).await?,
                Checkout::Closed => Err(WaitError::Closed),
            };
            if matches!(served, Err(WaitError::Closed)) && self.is_outdated() {
                self.adopt()?;
                continue;
            }
            let mut held = match served {
                Ok(lease) => Held::new(&self.state, &self.slot, lease),
                Err(why) => {
                    let error = self.pool_error(why);
                    return self.refuse(error).map(|()| None);
                }
            };
            if held.take_unprompted().is_err() {
                // Closed by the server while idle: that is no error of the pool, the next one will do.
                continue;
            }
            let wanted = self.settings.committed();
            if !Settings::same(&held.settings, wanted) {
                match Box::pin(self.apply_settings(held)).await? {
                    Some(ready) => held = ready,
                    None => return Ok(None),
                }
            }
            *self.link.target.borrow_mut() = Some(Rc::clone(&held.target));
            let now = self.state.core.now();
            let waited = nanoseconds(now.saturating_duration_since(since));
            held.link.meter.assigned(waited);
            self.link.meter.assigned(waited);
            held.link.latencies().record(Phase::CheckoutWait, waited);
            self.link.enter(Activity::Active, now);
            return Ok(Some(held));
        }
    }

    /// Brings the server's settings in line with the client's. None: the request was answered with an error.
    async fn apply_settings(&mut self, mut held: Held) -> Result<Option<Held>, End> {
        let error = match held.bring_to(self.settings.committed()).await {
            Ok(_) => {
                self.settings.in_line();
                return Ok(Some(held));
            }
            Err(RunError::Server(body)) => {
                if held.is_fit() {
                    held.check_in(); // as it was
                }
                let detail = String::from_utf8_lossy(&body).replace('\0', " ");
                let text = "cannot apply this session's parameters";
                Error::error(Fault::Server, SqlState::INVALID_PARAMETER_VALUE, text).detail(detail)
            }
            Err(RunError::Lost(lost)) => lost_error(&lost),
        };
        self.refuse(error).map(|()| None)
    }

    /// MAINTENANCE: waits until transactions may begin, for as long as the client stays.
    #[cold]
    async fn wait_for_release(&mut self) -> Result<(), End> {
        self.link.enter(Activity::Waiting, self.state.core.now());
        self.inbound.settle();
        poll_fn(|cx| {
            self.link.listen(cx);
            if !self.slot.is_held() || self.is_outdated() {
                return Poll::Ready(Ok(()));
            }
            self.poll_waiting(cx).map(Err)
        })
        .await?;
        match self.is_outdated() {
            true => self.adopt(),
            false => Ok(()),
        }
    }

    /// A client that waits for a server: why it has to stop.
    fn poll_waiting(&mut self, cx: &mut std::task::Context<'_>) -> Poll<End> {
        if let Some(notice) = self.link.notice() {
            return Poll::Ready(End::Fatal(self.farewell(notice)));
        }
        while self.inbound.len() < WAITING_BYTES_MAX {
            match self.poll_inbound(cx) {
                Poll::Ready(Ok(())) => self.inbound.settle(),
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Waits in the queue, for as long as the client stays.
    async fn wait(&mut self, ticket: Ticket) -> Result<Result<Lease<Conn>, WaitError>, End> {
        self.link.enter(Activity::Waiting, self.state.core.now());
        // A request that waits does not occupy a receive buffer.
        self.inbound.settle();
        let mut waiting = Waiting {
            session: self,
            ticket: Some(ticket),
        };
        poll_fn(|cx| waiting.poll(cx)).await
    }

    /// What a client hears when the pool has nothing for it.
    fn pool_error(&self, why: WaitError) -> Error {
        match why {
            WaitError::Timeout { .. } => {
                let limit = self
                    .slot
                    .config()
                    .limits
                    .checkout_timeout
                    .unwrap_or_default()
                    .as_millis();
                let message =
                    format!("checkout timeout: no server connection free within {limit} ms");
                Error::error(Fault::Proxy, SqlState::TOO_MANY_CONNECTIONS, message)
            }
            WaitError::Connect(error) => error,
            WaitError::Closed => adopt::removed(&self.slot.names.database),
        }
    }

    /// Answers the request with an error, if the session may go on after it.
    fn refuse(&mut self, error: Error) -> Result<(), End> {
        if self.state.config().clients.recovery != ClientRecovery::Recover
            || error.severity() == "FATAL"
        {
            return Err(End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            }));
        }
        self.answer(&error)
    }

    /// Answers the request in front with an error; the rest of its batch is ignored.
    fn answer(&mut self, error: &Error) -> Result<(), End> {
        self.link.meter.error();
        let mut message = Vec::new();
        put_error(&mut message, error);
        if let Some(header) = self.inbound.next()? {
            if matches!(header.tag, tag::QUERY | tag::FUNCTION_CALL) {
                self.inbound.skip(header);
                message.extend_from_slice(&ready_for_query(TransactionStatus::Idle));
            } else {
                self.skipping = true;
            }
        }
        self.stream.send_vec(message);
        Ok(())
    }

    /// Forgets what concerns the server that it has had.
    fn let_go(&mut self) -> Ties {
        *self.link.target.borrow_mut() = None;
        self.link.pinned.set(None);
        self.unnamed = Unnamed::None;
        self.timed_out = false;
        self.retry = None;
        self.tracker = None;
        std::mem::take(&mut self.ties)
    }

    /// The server was lost before it answered anything of the only batch. `ended`: its Sync was sent, or it was a
    /// Query.
    fn server_lost(&mut self, error: Error, ended: bool) -> End {
        if self.state.config().clients.recovery != ClientRecovery::Recover {
            return End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            });
        }
        self.link.meter.error();
        let mut message = Vec::new();
        put_error(&mut message, &error);
        if ended {
            message.extend_from_slice(&ready_for_query(TransactionStatus::Idle));
            self.statements.ready();
        } else {
            self.statements.abandoned();
            self.skipping = true;
        }
        self.stream.send_vec(message);
        End::Recovered
    }

    /// Returns the server to its pool: at once if it is fit, otherwise when it has been made fit.
    fn give_back(&mut self, mut held: Held) {
        let tracked = self.tracker.is_some();
        let ties = self.let_go();
        let half_sent = self.inbound.is_amid_message();
        // What was on its way may have changed settings, and nobody looks at the answers any more.
        let scrub = self.manner.mode == PoolerMode::Session
            || ties.scrub()
            || !self.settings.is_exact()
            || tracked;
        if !scrub && held.is_fit() && !half_sent {
            if !Arc::ptr_eq(&held.settings, self.settings.on_server()) {
                held.settings = Arc::clone(self.settings.on_server());
            }
            // Arms the receive, so that a server that goes away is noticed.
            held.stream.has_received();
            return held.check_in();
        }
        let reset = match scrub {
            true => Reset::Session,
            false => Reset::Transaction,
        };
        if half_sent || ties.spoilt() {
            return; // dropped, and so closed
        }
        let state = Rc::clone(&self.state);
        let out_of_sync = !held.exchange.is_resting();
        if out_of_sync {
            held.link.meter.counters().count(Stat::OutOfSync);
        }
        self.state.core.spawn(async move {
            if held.reset(&state, reset).await {
                if out_of_sync {
                    held.link.meter.counters().count(Stat::ReSynced);
                }
                held.check_in();
            }
        });
    }

    /// The error that goes with a notice.
    fn farewell(&self, notice: Notice) -> Error {
        let config = self.state.config();
        let clients = &config.clients;
        let ms = |limit: Option<Duration>| limit.unwrap_or_default().as_millis();
        match notice {
            Notice::Drain | Notice::ShutDown => Error::fatal(
                Fault::Proxy,
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection: shutting down",
            ),
            Notice::Removed => adopt::removed(&self.slot.names.database),
            Notice::Killed => adopt::killed(),
            Notice::IdleTimeout => {
                let text = format!(
                    "idle for {} ms (client_idle_timeout)",
                    ms(clients.idle_timeout)
                );
                Error::fatal(Fault::Client, SqlState::IDLE_SESSION_TIMEOUT, text)
            }
            Notice::IdleInTransactionTimeout => {
                let limit = ms(clients.idle_in_transaction_timeout);
                let text = format!(
                    "idle in transaction for {limit} ms (client_idle_in_transaction_timeout)"
                );
                Error::fatal(
                    Fault::Client,
                    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                    text,
                )
            }
            Notice::QueryTimeout => {
                let limit = ms(config.servers.query_timeout);
                let text = format!("statement cancelled by query_timeout ({limit} ms)");
                Error::fatal(Fault::Proxy, SqlState::QUERY_CANCELED, text)
            }
        }
    }

    /// Says goodbye, and forgets the session.
    async fn end(self, end: End) {
        let left = matches!(end, End::Left);
        if let End::Fatal(error) = end {
            let mut message = Vec::new();
            put_error(&mut message, &error);
            self.stream.send_vec(message);
        }
        if self.state.config().log.disconnections {
            let (user, database) = (&self.slot.names.user, &self.slot.names.database);
            tracing::info!(%user, %database, "client disconnected");
        }
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        if left && self.stream.poll_flush(&mut cx).is_ready() {
            return; // it has all that it wanted: closing is enough
        }
        // A client that does not read cannot keep us.
        let deadline = self.state.core.now() + Duration::from_secs(5);
        let state = Rc::clone(&self.state);
        let _ = state
            .core
            .timeout_at(Some(deadline), self.stream.close())
            .await;
    }
}

/// A place in the queue, left when the client goes.
struct Waiting<'a> {
    session: &'a mut Session,
    ticket: Option<Ticket>,
}

impl Waiting<'_> {
    fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Result<Result<Lease<Conn>, WaitError>, End>> {
        self.session.link.listen(cx);
        if let Some(served) = self.session.link.take_served() {
            self.ticket = None;
            return Poll::Ready(Ok(served));
        }
        self.session.poll_waiting(cx).map(Err)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let session = &mut *self.session;
        session.slot.decide(&session.state, |pool, now, out| {
            pool.cancel(ticket, now, out)
        });
        // It may have been served in the same moment.
        if let Some(Ok(lease)) = session.link.take_served() {
            session.slot.decide(&session.state, |pool, now, out| {
                pool.checkin(lease, now, out)
            });
        }
    }
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

/// The function of PostgreSQL that says "cached plan must not change result type": the message may be translated.
const STALE_PLAN: &[u8] = b"RevalidateCachedQuery";

impl Recipient for Session {
    const CLIENT: bool = true;

    #[inline]
    fn forward(&mut self, buf: Buf) {
        self.stream.send(buf);
    }

    fn forward_copy(&mut self, bytes: &[u8]) {
        self.stream.write(bytes);
    }

    fn parameter(&mut self, name: &[u8], value: &[u8]) {
        if !Parameters::is_settable(name) {
            return;
        }
        if name == b"application_name" {
            if let Some(face) = self.link.face.get() {
                face.rename(value);
            }
        }
        let own = self.slot.welcome(&Settings::default());
        let own = own.as_ref().and_then(|own| own.reported.get(name));
        let mut store = self.state.settings.borrow_mut();
        self.settings.reported(name, value, own, &mut store);
    }

    fn statement_answered(&mut self) {
        self.statements.succeeded();
    }

    fn statement_done(&mut self, tag: &[u8]) {
        let done = self
            .tracker
            .as_mut()
            .and_then(|tracker| tracker.succeeded());
        let Some(done) = done else { return };
        let mut store = self.state.settings.borrow_mut();
        for step in done.steps() {
            if done.is_one_of_several() && step.effect.forgets_statements() {
                self.statements.succeeded();
            }
            self.settings.succeeded(&step.effect, tag, &mut store);
        }
    }

    fn failed(&mut self, fields: Option<&Fields<'_>>) -> OnError {
        let code = fields.and_then(Fields::code);
        if code == Some(SqlState::FEATURE_NOT_SUPPORTED) {
            let stale = fields.and_then(|fields| fields.get(field::ROUTINE)) == Some(STALE_PLAN);
            if let Some(batch) = self.retry.take().filter(|_| stale) {
                self.inbound.put_back(&batch);
                return OnError::Retry;
            }
        }
        self.link.meter.error();
        self.settings.failed();
        // Whatever the batch parsed may not have been. It is the oldest that is not answered: of later ones nothing
        // is known yet.
        let of_this_batch = self.statements.syncs() == 0;
        if of_this_batch || self.unnamed != Unnamed::ParsedNow {
            self.unnamed = Unnamed::None;
        }
        if self.unbound_in == 1 {
            self.unbound = None;
        }
        if self.timed_out && code == Some(SqlState::QUERY_CANCELED) {
            let mut message = Vec::new();
            put_error(
                &mut message,
                &Error {
                    survives: crate::error::Survives::Session,
                    ..self.farewell(Notice::QueryTimeout)
                },
            );
            return OnError::Replace(message);
        }
        OnError::Forward
    }

    fn transaction_prepared(&mut self) {
        self.link.meter.prepared_transaction();
    }

    fn ready(&mut self, answered: Option<Answered>) {
        if let Some(answered) = answered {
            let time = self.link.meter.answered(answered);
            self.slot.registry.latencies().record(Phase::Query, time);
        }
        self.statements.ready();
        self.unbound_in = self.unbound_in.saturating_sub(1);
        if self.audit.is_some() {
            self.audit_answer(self.link.since.get());
        }
        let target = self.link.target.borrow();
        self.timed_out &= target.as_ref().is_some_and(|target| !target.is_settled());
        // What the client has sent ahead begins now.
        self.link.since.set(self.state.core.now());
        if let Some(tracker) = &mut self.tracker {
            tracker.ready();
            if let Some(Answered { status, .. }) = answered {
                let mut store = self.state.settings.borrow_mut();
                self.settings.ready(status.as_byte(), &mut store);
            }
        }
    }
}
