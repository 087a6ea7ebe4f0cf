//! A session with the admin database: the protocol is spoken here, what is asked goes to the control thread.
//!
//! It holds no server and no place in a pool, and nobody waits for it: not a shutdown, and not the control thread,
//! whose answer it fetches. One command at a time, and no more of a result on its way than the client takes.

use std::cell::{Cell, RefCell};
use std::future::{poll_fn, Future};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cores::Stream;
use futures_channel::oneshot;

use crate::admin::command::{self, Missing};
use crate::admin::driver::{Driver, Session};
use crate::admin::extended::{Extended, Run};
use crate::admin::rows::{put_description, Formats};
use crate::admin::{Act, Answer, Command};
use crate::error::{Error, Fault, Survives};
use crate::metrics::ClientMeter;
use crate::protocol::backend::{
    ready_for_query, CommandComplete, ParameterStatus, TransactionStatus, EMPTY_QUERY_RESPONSE,
    PORTAL_SUSPENDED,
};
use crate::protocol::cancel_key::CancelKey;
use crate::protocol::error_fields::{put_error, put_notice, Severity};
use crate::protocol::frame::{Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Query};
use crate::protocol::sqlstate::SqlState;
use crate::snapshot::{Activity, ClientSnapshot, Names};

use super::super::core_state::CoreState;
use super::super::Event;
use super::adopt::killed;
use super::inbound::Inbound;
use super::End;

/// Admin sessions of one core; further ones are refused.
pub(super) const SESSIONS_MAX: usize = 100;
/// Longest message; commands are shorter.
const MESSAGE_BYTES_MAX: usize = command::TEXT_BYTES_MAX + 1024;
/// Bytes that a client may send ahead while its command is carried out.
const AHEAD_BYTES_MAX: usize = 4 * MESSAGE_BYTES_MAX;
/// Bytes of a result handed to the socket before the client has taken them.
const RUN_BYTES: usize = 64 * 1024;
/// How long a client may take to hear why its session ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why an admin session ends that does not end itself.
#[derive(Clone, Copy)]
enum Ending {
    Shutdown,
    Killed,
}

/// An admin session as the rest of its core sees it.
pub(crate) struct AdminLink {
    pub(super) key: CancelKey,
    names: Arc<Names>,
    peer: Option<SocketAddr>,
    application_name: RefCell<Arc<str>>,
    meter: ClientMeter,
    activity: Cell<Activity>,
    ending: Cell<Option<Ending>>,
    waker: RefCell<Option<Waker>>,
}

impl AdminLink {
    pub(super) fn new(
        state: &CoreState,
        key: CancelKey,
        names: Names,
        peer: Option<SocketAddr>,
    ) -> Self {
        Self {
            key,
            names: Arc::new(names),
            peer,
            application_name: RefCell::default(),
            meter: ClientMeter::new(state.core.now()),
            activity: Cell::new(Activity::Idle),
            ending: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// For SHOW CLIENTS.
    pub(crate) fn snapshot(&self) -> ClientSnapshot {
        let totals = self.meter.totals();
        ClientSnapshot {
            id: self.key.process_id(),
            names: Arc::clone(&self.names),
            peer: self.peer,
            activity: self.activity.get(),
            since: totals.last_request,
            totals,
            application_name: Arc::clone(&self.application_name.borrow()),
            pinned: None,
            statements: 0,
            server: None,
        }
    }

    /// Remembers whom to wake. Errors: the session has to end.
    fn listen(&self, cx: &Context<'_>) -> Result<(), End> {
        match self.ending.get() {
            None => {}
            Some(Ending::Killed) => return Err(End::Fatal(killed())),
            Some(Ending::Shutdown) => {
                let text = "terminating connection: shutting down";
                let code = SqlState::ADMIN_SHUTDOWN;
                return Err(End::Fatal(Error::fatal(Fault::Proxy, code, text)));
            }
        }
        self.waker.replace(Some(cx.waker().clone()));
        Ok(())
    }

    /// Its core ends.
    pub(crate) fn end(&self) {
        self.end_as(Ending::Shutdown);
    }

    /// Another administrator ends it, or this one itself.
    pub(crate) fn kill(&self) {
        self.end_as(Ending::Killed);
    }

    fn end_as(&self, ending: Ending) {
        self.ending.set(Some(ending));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A logged-in administrator.
pub(super) struct AdminSession {
    state: Rc<CoreState>,
    stream: Stream,
    inbound: Inbound,
    link: Rc<AdminLink>,
    session: Session,
    extended: Extended,
    /// After an error in a batch: everything up to Sync is ignored.
    skipping: bool,
}

impl Drop for AdminSession {
    fn drop(&mut self) {
        let process_id = self.link.key.process_id();
        self.state.admins.borrow_mut().remove(&process_id);
    }
}

impl AdminSession {
    pub(super) fn new(
        state: &Rc<CoreState>,
        stream: Stream,
        received: Vec<u8>,
        link: Rc<AdminLink>,
        session: Session,
    ) -> Self {
        let process_id = link.key.process_id();
        state
            .admins
            .borrow_mut()
            .insert(process_id, Rc::clone(&link));
        let name = Arc::from(session.application_name());
        link.application_name.replace(name);
        Self {
            state: Rc::clone(state),
            stream,
            inbound: Inbound::of(received),
            link,
            session,
            extended: Extended::default(),
            skipping: false,
        }
    }

    /// Serves it to its end.
    pub(super) async fn run(mut self) {
        let error = loop {
            match self.serve_message().await {
                Ok(()) => {}
                Err(End::Fatal(error)) => break error,
                Err(End::Left | End::Silent | End::Recovered) => return,
            }
        };
        let mut message = Vec::new();
        put_error(&mut message, &error);
        self.stream.send_vec(message);
        let deadline = self.state.core.now() + GOODBYE;
        let core = self.state.core.clone();
        let _ = core.timeout_at(Some(deadline), self.stream.flush()).await;
    }

    async fn serve_message(&mut self) -> Result<(), End> {
        let header = self.next_message().await?;
        let frame = self.inbound.take(header.frame_bytes());
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        let mut out = Vec::new();
        let outcome = match header.tag {
            tag::TERMINATE => return Err(End::Left),
            tag::SYNC => {
                self.skipping = false;
                Ok(())
            }
            _ if self.skipping => return Ok(()),
            tag::QUERY => self.query(body).await,
            tag::EXECUTE => self.execute(body).await,
            tag::PARSE => self.extended.parse(body, &mut out).map_err(End::from),
            tag::BIND => self.extended.bind(body, &mut out).map_err(End::from),
            tag::DESCRIBE => self.extended.describe(body, &mut out).map_err(End::from),
            tag::CLOSE => self.extended.close(body, &mut out).map_err(End::from),
            tag::FUNCTION_CALL => Err(End::from(command::missing(Missing {
                command: "a function call",
                reason: "only queries are answered",
            }))),
            tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => Ok(()),
            other => {
                let what = format!("unexpected message '{}'", other.escape_ascii());
                return Err(End::Fatal(Error::protocol_violation(what)));
            }
        };
        let ends = matches!(header.tag, tag::SYNC | tag::QUERY | tag::FUNCTION_CALL);
        match outcome {
            Ok(()) => {}
            Err(End::Fatal(error)) if error.survives == Survives::Session => {
                self.skipping = !ends;
                self.link.meter.error();
                put_error(&mut out, &error);
            }
            Err(end) => return Err(end),
        }
        if ends {
            let status = match self.session.in_transaction() {
                true => TransactionStatus::Transaction,
                false => {
                    self.extended.transaction_ended();
                    TransactionStatus::Idle
                }
            };
            out.extend_from_slice(&ready_for_query(status));
        }
        self.stream.send_vec(out);
        self.flush().await
    }

    /// Waits for a whole message.
    async fn next_message(&mut self) -> Result<Header, End> {
        loop {
            if let Some(header) = self.inbound.next()? {
                if header.frame_bytes() > MESSAGE_BYTES_MAX {
                    let text = format!("a message has at most {MESSAGE_BYTES_MAX} bytes here");
                    let code = SqlState::PROGRAM_LIMIT_EXCEEDED;
                    return Err(End::Fatal(Error::fatal(Fault::Client, code, text)));
                }
                if self.inbound.len() >= header.frame_bytes() {
                    return Ok(header);
                }
            }
            // What is not whole does not occupy a receive buffer.
            self.inbound.settle();
            let received = poll_fn(|cx| {
                self.link.listen(cx)?;
                self.stream.poll_recv(cx).map_err(End::from)
            });
            self.inbound.push(received.await?.ok_or(End::Left)?);
        }
    }

    async fn query(&mut self, body: &[u8]) -> Result<(), End> {
        let query = Query::parse(body).map_err(Error::protocol_violation)?;
        let commands = command::parse(&String::from_utf8_lossy(query.text))?;
        if commands.is_empty() {
            self.stream.send_static(&EMPTY_QUERY_RESPONSE);
        }
        for command in commands {
            let mut answer = self.carry_out(command).await?;
            let mut out = Vec::new();
            if let Some(rows) = &answer.rows {
                put_description(&mut out, &rows.columns, &Formats::default());
            }
            self.send(&mut answer, out, &Formats::default(), usize::MAX)
                .await?;
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), End> {
        let Run {
            portal,
            command,
            answer,
            formats,
            rows_max,
        } = self.extended.execute(body)?;
        let mut answer = match (answer, command) {
            (Some(rest), _) => rest,
            (None, Some(command)) => self.carry_out(command).await?,
            (None, None) => {
                self.stream.send_static(&EMPTY_QUERY_RESPONSE);
                return Ok(());
            }
        };
        let rows_max = rows_max.unwrap_or(usize::MAX);
        self.send(&mut answer, Vec::new(), &formats, rows_max)
            .await?;
        self.extended.suspend(&portal, answer);
        Ok(())
    }

    /// Does what there is to do.
    async fn carry_out(&mut self, command: Command) -> Result<Answer, End> {
        let begun = self.state.core.now();
        self.link.meter.begin(begun);
        self.link.activity.set(Activity::Active);
        let outcome = match command {
            Command::Driver(driver) => Ok(self.run_here(&driver)),
            Command::Act(Act::Probe { url }) => {
                let probed = Box::pin(super::probe::probe(&self.state, &url)).await;
                probed.map_err(End::from)
            }
            command => self.ask(command).await,
        };
        self.link.activity.set(match self.session.in_transaction() {
            true => Activity::IdleInTransaction,
            false => Activity::Idle,
        });
        let time = self.state.core.now().saturating_duration_since(begun);
        self.link.meter.served(time);
        outcome
    }

    /// What concerns only this session.
    fn run_here(&mut self, driver: &Driver) -> Answer {
        let answer = self.session.run(driver);
        if let Driver::Nothing("DISCARD ALL" | "DEALLOCATE ALL") = driver {
            self.extended.forget();
        }
        if *self.session.application_name() != **self.link.application_name.borrow() {
            let name = Arc::from(self.session.application_name());
            self.link.application_name.replace(name);
        }
        answer
    }

    /// Has the control thread carry out a command. The client may leave meanwhile.
    async fn ask(&mut self, command: Command) -> Result<Answer, End> {
        let (reply, answer) = oneshot::channel();
        let busy = || {
            let text = "the control thread has too much to do";
            Error::error(Fault::Proxy, SqlState::TOO_MANY_CONNECTIONS, text)
        };
        self.state
            .events
            .try_send(Event::Admin { command, reply })
            .map_err(|_| busy())?;
        self.inbound.settle();
        let core = self.state.core.clone();
        let mut answer = pin!(core.foreign(answer));
        let answered = poll_fn(|cx| {
            self.link.listen(cx)?;
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            while self.inbound.len() < AHEAD_BYTES_MAX {
                match self.stream.poll_recv(cx)? {
                    Poll::Ready(Some(buf)) => {
                        self.inbound.push(buf);
                        self.inbound.settle();
                    }
                    Poll::Ready(None) => return Poll::Ready(Err(End::Left)),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        });
        match answered.await? {
            Ok(answer) => Ok(answer?),
            Err(oneshot::Canceled) => {
                let text = "the command was given up";
                Err(Error::error(Fault::Proxy, SqlState::INTERNAL_ERROR, text).into())
            }
        }
    }

    /// Sends an answer behind what is in `out`: all of it, or so many rows, which are taken out.
    async fn send(
        &mut self,
        answer: &mut Answer,
        mut out: Vec<u8>,
        formats: &Formats,
        rows_max: usize,
    ) -> Result<(), End> {
        if let Some(text) = answer.notice.take() {
            let (severity, code) = (Severity::Notice, SqlState::SUCCESSFUL_COMPLETION);
            put_notice(&mut out, severity, code, &text, None, None);
        }
        if let Some((name, value)) = answer.status.take() {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            ParameterStatus { name, value }.encode(&mut out);
        }
        let mut left = rows_max;
        if let Some(rows) = &mut answer.rows {
            let all = std::mem::take(&mut rows.rows);
            let mut all = all.into_iter();
            while left > 0 {
                let Some(row) = all.next() else { break };
                rows.put_row(&mut out, &row, formats);
                left -= 1;
                if out.len() >= RUN_BYTES {
                    self.stream.send_vec(std::mem::take(&mut out));
                    self.flush().await?;
                }
            }
            rows.rows = all.collect();
        }
        if answer
            .rows
            .as_ref()
            .is_some_and(|rows| left == 0 && !rows.rows.is_empty())
        {
            out.extend_from_slice(&PORTAL_SUSPENDED);
        } else {
            let tag = answer.tag.as_bytes();
            CommandComplete { tag }.encode(&mut out);
        }
        self.stream.send_vec(out);
        Ok(())
    }

    /// Waits until the client has taken all.
    async fn flush(&mut self) -> Result<(), End> {
        let flushed = poll_fn(|cx| {
            self.link.listen(cx)?;
            self.stream.poll_flush(cx).map_err(End::from)
        });
        flushed.await?;
        let (received, sent) = self.stream.take_traffic();
        self.link.meter.passed(received, sent);
        Ok(())
    }
}
