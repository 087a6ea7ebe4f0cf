//! One authenticated server connection.

mod ahead;
pub(crate) mod cancel;
mod collector;
pub(crate) mod connect;
mod encrypt;
mod link;
mod parcel;
mod reset;
mod resting;
mod statements;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{ready, Context, Poll, Waker};
use std::time::{Duration, Instant};

use cores::{Buf, Stream};

use crate::balance::Epoch;
use crate::metrics::{elapsed, Answered, Phase, ServerMeter, Stat};
use crate::prepared::server::ServerStatements;
use crate::protocol::backend::{tag, ParameterStatus, TransactionStatus};
use crate::protocol::error_fields::Fields;
use crate::protocol::exchange::{Exchange, Fate, Note, OutOfStep, Owed};
use crate::protocol::frame::{peek, run, Header, BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::frontend;
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::routing::defined::is_definition;
use crate::session::Counters;
use crate::sql::lexer::Dialect;
use crate::sql::settings::Settings;
use crate::types::canonical::Canonical;
use crate::types::shape::Shape;

use super::core_state::CoreState;
use ahead::Ahead;

pub(crate) use cancel::{Target, Targets};
pub(crate) use collector::{Collector, RunError};
use link::Enlisted;
pub(crate) use link::{Registry, ServerLink};
pub(crate) use parcel::Parcel;
pub(crate) use reset::Reset;

/// Longest message that is read whole: ReadyForQuery and ParameterStatus. Others stream through.
const WHOLE_BYTES_MAX: usize = 64 * 1024;
/// The same of descriptions that are looked into: 1,664 columns with names of 63 bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024 * 1024;
/// How long a server may take to close its side after Terminate.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server connection of this core.
pub(crate) struct Server {
    pub(crate) stream: Stream,
    pub(crate) exchange: Exchange,
    replies: Replies,
    /// As it last reported.
    pub(crate) reported: Rc<Parameters>,
    /// How it reads statements, as far as its parameters say.
    pub(crate) dialect: Dialect,
    in_recovery: bool,
    /// What was set on it beyond its own values.
    pub(crate) settings: Arc<Settings>,
    pub(crate) target: Rc<Target>,
    pub(crate) prepared: ServerStatements,
    /// Who may have counted there.
    pub(crate) counters: Counters,
    /// Whose reign it was when it was opened, if that was known.
    pub(crate) epoch: Option<Epoch>,
    /// When it was last known to answer, by a check or because it had just been opened.
    pub(crate) checked: Instant,
    /// Settings that travel ahead of a request.
    ahead: Ahead,
    /// What they are reported as, which may be as late as with the first ReadyForQuery.
    reported_ahead: Option<Rc<Parameters>>,
    /// How another server numbers its types, if its client is to see those numbers.
    pub(crate) types: Option<Rc<Canonical>>,
    /// What it counts, where others see it.
    pub(crate) link: Enlisted,
}

/// The answered message is accounted for in the server's list of prepared statements.
pub(crate) const NOTE_SERVER: Note = 1;
/// The answered message changed the names of the client's prepared statements.
pub(crate) const NOTE_CLIENT: Note = 2;
/// The answered message has effects on the client's session.
pub(crate) const NOTE_EFFECTS: Note = 4;
/// The message may commit a transaction.
pub(crate) const NOTE_COMMIT: Note = 8;
/// The message parses the unnamed statement for the client.
pub(crate) const NOTE_UNNAMED: Note = 32;
/// The message wipes what `currval` and `lastval` would tell.
pub(crate) const NOTE_WIPE: Note = 64;
/// The message is the last of those that change settings ahead of a request.
const NOTE_AHEAD: Note = 16;

/// Where in the server's stream of messages we are.
#[derive(Default)]
struct Replies {
    /// Bytes still to come of a message whose beginning went through.
    body_left: usize,
    fate: Option<Fate>,
    /// Beginning of a message: its header, or all of one that is read whole.
    partial: Vec<u8>,
}

impl Replies {
    #[inline]
    fn is_whole(&self) -> bool {
        self.body_left == 0 && self.partial.is_empty()
    }
}

/// The connection is of no further use.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Closed, or failed.
    Closed(Option<std::io::Error>),
    /// It said what cannot be.
    OutOfStep(OutOfStep),
    /// Its bytes are no messages.
    Malformed,
    /// It was the primary, and another server is now.
    Superseded,
    /// It does not answer its checks.
    Hung,
    /// It refused settings ahead of a request, which did not run: the body of its ErrorResponse.
    Unset(Vec<u8>),
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Lost::Closed(None) => f.write_str("closed by the server"),
            Lost::Closed(Some(error)) => error.fmt(f),
            Lost::OutOfStep(message) => {
                write!(f, "unexpected message '{}'", message.tag.escape_ascii())
            }
            Lost::Malformed => f.write_str("malformed message"),
            Lost::Superseded => f.write_str("another server is the primary"),
            Lost::Hung => f.write_str("it does not answer"),
            Lost::Unset(_) => f.write_str("settings were refused"),
        }
    }
}

impl From<OutOfStep> for Lost {
    fn from(message: OutOfStep) -> Self {
        Lost::OutOfStep(message)
    }
}

/// Who gets a server's replies.
pub(crate) trait Recipient {
    /// Is it a client, whose requests are counted?
    const CLIENT: bool = false;
    /// Bytes of whole or partial messages, in order.
    fn forward(&mut self, buf: Buf);
    /// The same, for bytes not in a receive buffer.
    fn forward_copy(&mut self, bytes: &[u8]);
    /// The server reported a parameter because of what the recipient did.
    fn parameter(&mut self, name: &[u8], value: &[u8]);
    /// The oldest change to the recipient's prepared statements has been answered.
    fn statement_answered(&mut self) {}
    /// A statement of the recipient's has been described to it.
    fn statement_described(&mut self, _shape: Shape) {}
    /// A statement of the recipient with effects on its session has succeeded; `tag` is its command tag. Says whether
    /// the results of the next statement of the same Query are for nobody.
    fn statement_done(&mut self, _tag: &[u8]) -> bool {
        false
    }
    /// A message of the recipient has failed, and with it its batch. Says what becomes of the ErrorResponse; its
    /// fields are not there if it is too large to be read.
    fn failed(&mut self, _fields: Option<&Fields<'_>>) -> OnError {
        OnError::Forward
    }
    /// Is an error that answers nothing for the recipient? What it asked for was answered before; `status` is as the server said
    /// then.
    fn hears_farewell(&self, status: TransactionStatus) -> bool {
        status != TransactionStatus::Idle
    }
    /// A Parse of the unnamed statement has failed, or was skipped after an error.
    fn unnamed_skipped(&mut self) {}
    /// A statement of the recipient has prepared a transaction.
    fn transaction_prepared(&mut self) {}
    /// A statement of the recipient has changed a definition; `tag` is its command tag.
    fn definition_changed(&mut self, _tag: &[u8]) {}
    /// A Sync or Query of the recipient is answered; `None`: it was ignored.
    fn ready(&mut self, _answered: Option<Answered>) {}
}

/// What becomes of an ErrorResponse.
pub(crate) enum OnError {
    /// The recipient gets it.
    Forward,
    /// It gets another message in its place.
    Replace(Vec<u8>),
    /// It gets neither this nor ReadyForQuery: the batch will be sent again.
    Retry,
}

fn dialect(reported: &Parameters) -> Dialect {
    let value = |name| reported.get(name).unwrap_or_default();
    Dialect::of(
        value("standard_conforming_strings"),
        value("client_encoding"),
    )
}

fn in_recovery(reported: &Parameters) -> bool {
    reported.get("in_hot_standby") == Some(b"on")
}

impl Server {
    pub(crate) fn new(
        stream: Stream,
        reported: Rc<Parameters>,
        target: cancel::Address,
        prepared: ServerStatements,
        (registry, meter): (&Rc<Registry>, ServerMeter),
    ) -> Self {
        let target = Rc::new(Target::new(target));
        Self {
            epoch: None,
            checked: stream.core().now(),
            stream,
            exchange: Exchange::default(),
            replies: Replies::default(),
            ahead: Ahead::Nothing,
            reported_ahead: None,
            types: None,
            dialect: dialect(&reported),
            in_recovery: in_recovery(&reported),
            reported,
            settings: Arc::default(),
            link: registry.enlist(meter, &target),
            target,
            prepared,
            counters: Counters::default(),
        }
    }

    /// Notes a Sync or Query. False: the server ignores it, no ReadyForQuery will come.
    #[inline]
    pub(crate) fn sent_to_ready(&mut self, owed: Owed, fate: Fate, note: Note) -> bool {
        let answered = self.exchange.sent_with(owed, fate, note);
        if answered {
            self.prepared.sync();
        }
        answered
    }

    /// What an error says about the connection.
    fn heed(&mut self, fields: &Fields<'_>) {
        if fields.is_fatal() {
            self.exchange.note_farewell();
        }
        // "cached plan must not change result type", or a statement deallocated behind our back: whatever is named
        // next is closed and parsed anew.
        if matches!(
            fields.code(),
            Some(SqlState::FEATURE_NOT_SUPPORTED | SqlState::INVALID_SQL_STATEMENT_NAME)
        ) {
            self.prepared.forget_all();
        }
    }

    /// An ErrorResponse, and what it means for the recipient. `body`: if it is there as a whole.
    fn error(&mut self, body: Option<&[u8]>, fate: Fate, to: &mut impl Recipient) -> Fate {
        let fields = body.and_then(|body| Fields::parse(body).ok());
        if let Some(fields) = &fields {
            self.heed(fields);
        }
        if self.has_ahead() {
            self.refused_ahead(body);
        }
        if self.exchange.take_skipped() & NOTE_UNNAMED != 0 {
            to.unnamed_skipped();
        }
        if fate != Fate::Forward {
            return fate;
        }
        // All was answered: it is the farewell of a server that is about to close.
        if self.exchange.is_resting() && !to.hears_farewell(self.exchange.status()) {
            return Fate::Drop;
        }
        match to.failed(fields.as_ref()) {
            OnError::Forward => Fate::Forward,
            OnError::Replace(message) => {
                to.forward_copy(&message);
                Fate::Drop
            }
            OnError::Retry => {
                self.exchange.drop_next();
                to.ready(None);
                Fate::Drop
            }
        }
    }

    /// What follows from a reply for prepared statements.
    #[inline]
    fn account<R: Recipient>(&mut self, tag: u8, body: &[u8], fate: Fate, to: &mut R) {
        let meter = &self.link.meter;
        meter.received(tag);
        if self.has_ahead() {
            return self.answered_ahead(tag);
        }
        match tag {
            tag::COMMAND_COMPLETE => {
                let note = self.exchange.take_note();
                if note & NOTE_SERVER != 0 {
                    self.prepared.succeeded();
                }
                if note & NOTE_CLIENT != 0 {
                    to.statement_answered();
                }
                if note & NOTE_WIPE != 0 {
                    self.counters.wiped();
                }
                let command = body.strip_suffix(b"\0").unwrap_or(body);
                if meter.completed(command) {
                    to.transaction_prepared();
                }
                if is_definition(command) {
                    to.definition_changed(command);
                }
                if note & NOTE_EFFECTS != 0 {
                    let hides_next = to.statement_done(command);
                    self.exchange.hide(hides_next);
                }
            }
            tag::PORTAL_SUSPENDED if self.exchange.take_note() & NOTE_EFFECTS != 0 => {
                to.statement_done(b"");
            }
            tag::BIND_COMPLETE => meter.counters().count(Stat::BindCount),
            tag::PARSE_COMPLETE | tag::CLOSE_COMPLETE => {
                if tag == tag::PARSE_COMPLETE {
                    meter.counters().count(Stat::ServerParseCount);
                }
                let note = self.exchange.take_note();
                if note & NOTE_SERVER != 0 {
                    self.prepared.succeeded();
                }
                if note & NOTE_CLIENT != 0 {
                    to.statement_answered();
                }
            }
            tag::ROW_DESCRIPTION | tag::NO_DATA => {
                let note = self.exchange.take_note();
                if note & (NOTE_SERVER | NOTE_CLIENT) != 0 {
                    let shape = Shape::of((tag == tag::ROW_DESCRIPTION).then_some(body));
                    if note & NOTE_SERVER != 0 {
                        self.prepared.described(shape);
                    }
                    if note & NOTE_CLIENT != 0 {
                        to.statement_described(shape);
                    }
                }
            }
            tag::READY_FOR_QUERY => {
                self.prepared.ready();
                self.link.statements.set(self.prepared.len());
                if R::CLIENT && fate == Fate::Forward {
                    let more = !self.exchange.nothing_owed();
                    let now = self.stream.core().now();
                    let answered = meter.answered(now, self.exchange.status(), more);
                    let latencies = self.link.latencies();
                    latencies.record(Phase::ServerQuery, answered.query_time);
                    if let Some(time) = answered.transaction_time {
                        latencies.record(Phase::Transaction, time);
                    }
                    if let Some(spent) = meter.take_overhead() {
                        let answering = elapsed(now, self.stream.core().clock());
                        latencies.record(Phase::Overhead, spent + answering);
                    }
                    to.ready(Some(answered));
                }
            }
            tag::COPY_IN_RESPONSE | tag::ERROR_RESPONSE => {
                if tag == tag::ERROR_RESPONSE {
                    meter.counters().count(Stat::Errors);
                }
                for _ in 0..self.exchange.take_ignored_syncs() {
                    self.prepared.ready();
                    to.ready(None);
                }
            }
            _ => {}
        }
    }

    /// At rest with nothing half sent or half received.
    #[inline]
    pub(crate) fn at_rest(&self) -> bool {
        self.exchange.at_rest() && self.replies.is_whole()
    }

    /// The same, and a transaction may be open.
    #[inline]
    pub(crate) fn is_resting(&self) -> bool {
        self.exchange.is_resting() && self.replies.is_whole()
    }

    /// Shows received bytes to the exchange, message by message, and passes on what the client shall get.
    pub(crate) fn take(&mut self, mut buf: Buf, to: &mut impl Recipient) -> Result<(), Lost> {
        self.count_traffic();
        while !buf.is_empty() {
            if self.replies.body_left > 0 {
                let part = buf.split_to(self.replies.body_left);
                self.replies.body_left -= part.len();
                if self.replies.fate == Some(Fate::Forward) {
                    to.forward(part);
                }
            } else if !self.replies.partial.is_empty() {
                self.complete_partial(&mut buf, to)?;
            } else {
                self.take_messages(&mut buf, to)?;
            }
        }
        Ok(())
    }

    /// The bytes that have passed since the last call.
    #[inline]
    pub(crate) fn count_traffic(&self) {
        let (received, sent) = self.stream.take_traffic();
        self.link.meter.passed(received, sent);
    }

    /// The messages at the front of `buf`, up to where one must be cut out or is incomplete.
    #[inline]
    fn take_messages(&mut self, buf: &mut Buf, to: &mut impl Recipient) -> Result<(), Lost> {
        let mut at = 0;
        loop {
            let rest = &buf[at..];
            let Some(header) = peek(rest, BODY_BYTES_MAX).map_err(|_| Lost::Malformed)? else {
                forward(buf, at, to);
                self.replies.partial.extend_from_slice(buf);
                buf.advance(buf.len());
                return Ok(());
            };
            let body = &rest[HEADER_BYTES..];
            let whole = body.len() >= header.body_bytes;
            let renumbered = self.is_renumbered(header);
            if !whole && (renumbered || self.reads_whole(header)) {
                forward(buf, at, to);
                return self.begin_partial(buf, header.frame_bytes());
            }
            let ready = header.tag == tag::READY_FOR_QUERY && self.reported_ahead.is_some();
            if (ready || header.tag == tag::ERROR_RESPONSE) && at > 0 {
                // Something else may take its place, or go in front: what came before it goes first.
                forward(buf, at, to);
                at = 0;
                continue;
            }
            if ready {
                self.tell_reported(to);
            }
            let mut fate = self.exchange.received(header.tag, body.first().copied())?;
            let body = body.get(..header.body_bytes).filter(|_| whole);
            self.account(header.tag, body.unwrap_or_default(), fate, to);
            if header.tag == tag::ERROR_RESPONSE {
                fate = self.error(body, fate, to);
                self.check_ahead()?;
            }
            if header.tag == tag::PARAMETER_STATUS {
                fate = self.parameter(body.unwrap_or_default(), fate, to);
            }
            let here = header.frame_bytes().min(rest.len());
            if !whole {
                self.replies.body_left = header.frame_bytes() - here;
                self.replies.fate = Some(fate);
            }
            match fate {
                Fate::Forward if renumbered => {
                    forward(buf, at, to);
                    let mut message = buf.get(..here).unwrap_or_default().to_vec();
                    self.renumber(header.tag, &mut message);
                    to.forward_copy(&message);
                    buf.advance(here);
                    at = 0;
                }
                Fate::Forward if whole && header.tag == tag::DATA_ROW => {
                    at += here;
                    at += run(tag::DATA_ROW, &buf[at..]); // each would change as little as this one did
                }
                Fate::Forward => at += here,
                Fate::Drop | Fate::Synthesize => {
                    forward(buf, at, to);
                    buf.advance(here);
                    at = 0;
                }
            }
            if at == buf.len() || self.exchange.has_synthetic() {
                forward(buf, at, to);
                self.synthesize(to);
                return Ok(());
            }
        }
    }

    fn begin_partial(&mut self, buf: &mut Buf, frame_bytes: usize) -> Result<(), Lost> {
        if frame_bytes > DESCRIPTION_BYTES_MAX {
            return Err(Lost::Malformed);
        }
        self.replies.partial.extend_from_slice(buf);
        buf.advance(buf.len());
        Ok(())
    }

    /// Goes on with a message whose beginning was kept.
    fn complete_partial(&mut self, buf: &mut Buf, to: &mut impl Recipient) -> Result<(), Lost> {
        let mut partial = std::mem::take(&mut self.replies.partial);
        let missing = HEADER_BYTES.saturating_sub(partial.len());
        partial.extend_from_slice(&buf.split_to(missing));
        let Some(header) = peek(&partial, BODY_BYTES_MAX).map_err(|_| Lost::Malformed)? else {
            self.replies.partial = partial;
            return Ok(());
        };
        let renumbered = self.is_renumbered(header);
        if renumbered || self.reads_whole(header) {
            if header.frame_bytes() > DESCRIPTION_BYTES_MAX {
                return Err(Lost::Malformed);
            }
            partial.extend_from_slice(&buf.split_to(header.frame_bytes() - partial.len()));
            if partial.len() < header.frame_bytes() {
                self.replies.partial = partial;
                return Ok(());
            }
        }
        if header.tag == tag::READY_FOR_QUERY {
            self.tell_reported(to);
        }
        // Only a message read whole is looked into.
        let body = partial.get(HEADER_BYTES..).unwrap_or_default();
        let mut fate = self.exchange.received(header.tag, body.first().copied())?;
        self.account(header.tag, body, fate, to);
        if header.tag == tag::ERROR_RESPONSE {
            let whole = partial.len() == header.frame_bytes();
            fate = self.error(whole.then_some(body), fate, to);
            self.check_ahead()?;
        }
        if header.tag == tag::PARAMETER_STATUS {
            fate = self.parameter(body, fate, to);
        }
        if fate == Fate::Forward {
            if renumbered {
                self.renumber(header.tag, &mut partial);
            }
            to.forward_copy(&partial);
        }
        self.replies.body_left = header.frame_bytes() - partial.len();
        self.replies.fate = Some(fate);
        self.synthesize(to);
        Ok(())
    }

    /// Is it a message whose types are numbered anew?
    #[inline]
    fn is_renumbered(&self, header: Header) -> bool {
        self.types.is_some() && Canonical::concerns(header.tag)
    }

    /// Does the content of the message matter here? An error of any size is passed on, one that is read has a limit.
    #[inline]
    fn reads_whole(&self, header: Header) -> bool {
        match header.tag {
            tag::READY_FOR_QUERY | tag::PARAMETER_STATUS | tag::COMMAND_COMPLETE => true,
            tag::ERROR_RESPONSE => header.frame_bytes() <= WHOLE_BYTES_MAX,
            tag::ROW_DESCRIPTION => {
                header.frame_bytes() <= DESCRIPTION_BYTES_MAX
                    && self.exchange.is_noted(NOTE_SERVER | NOTE_CLIENT)
            }
            _ => false,
        }
    }

    #[cold]
    fn renumber(&self, tag: u8, message: &mut [u8]) {
        if let (Some(types), Some(body)) = (&self.types, message.get_mut(HEADER_BYTES..)) {
            types.apply(tag, body);
        }
    }

    fn parameter(&mut self, body: &[u8], fate: Fate, to: &mut impl Recipient) -> Fate {
        let Ok(status) = ParameterStatus::parse(body) else {
            return fate;
        };
        if self.reported.get(status.name) != Some(status.value) {
            Rc::make_mut(&mut self.reported).set(status.name, status.value);
            self.dialect = dialect(&self.reported);
            self.in_recovery = in_recovery(&self.reported);
        }
        if fate != Fate::Forward || self.was_ahead(status.name, status.value) {
            return Fate::Drop;
        }
        to.parameter(status.name, status.value);
        self.told(status.name, status.value);
        fate
    }

    /// Makes the replies that are ours to make, as far as their turn has come.
    pub(crate) fn synthesize(&mut self, to: &mut impl Recipient) {
        while let Some(owed) = self.exchange.next_synthetic() {
            if self.exchange.take_note() & NOTE_CLIENT != 0 {
                to.statement_answered();
            }
            match owed {
                Owed::ParseComplete => to.forward_copy(&crate::protocol::backend::PARSE_COMPLETE),
                Owed::CloseComplete => to.forward_copy(&crate::protocol::backend::CLOSE_COMPLETE),
                _ => debug_assert!(false, "only Parse and Close are answered here"),
            }
        }
    }

    /// Takes what comes next.
    pub(crate) fn poll_take(
        &mut self,
        to: &mut impl Recipient,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        Poll::Ready(match ready!(self.stream.poll_recv(cx)) {
            Ok(Some(buf)) => self.take(buf, to),
            Ok(None) => Err(Lost::Closed(None)),
            Err(error) => Err(Lost::Closed(Some(error))),
        })
    }

    /// Does it say that it is in recovery? PostgreSQL 14 and later say so, and when that changes.
    pub(crate) fn is_in_recovery(&self) -> bool {
        self.in_recovery
    }

    /// Has the server closed the connection, as far as that has come?
    fn is_gone(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(
            self.stream.poll_recv(&mut cx),
            Poll::Ready(Ok(None) | Err(_))
        )
    }

    /// Ends the connection and waits until the server has closed its side, so that it no longer counts there.
    pub(crate) async fn close(self: Box<Self>, state: &Rc<CoreState>) {
        let deadline = state.core.now() + CLOSE_TIMEOUT;
        if !self.exchange.nothing_owed() && !self.is_gone() {
            // It is at work for nobody, and would notice only at the end.
            cancel::send(state, &self.target).await;
        }
        self.stream.send_static(&frontend::TERMINATE);
        let gone = async {
            // Half a message may be on its way there: the end of the stream is an end all the same.
            if self.stream.finish().await.is_ok() {
                while let Ok(Some(_)) = self.stream.recv().await {}
            }
        };
        if state.core.timeout_at(Some(deadline), gone).await.is_none() {
            tracing::warn!("a server did not close its connection within {CLOSE_TIMEOUT:?}");
        }
    }
}

fn forward(buf: &mut Buf, bytes: usize, to: &mut impl Recipient) {
    if bytes > 0 {
        to.forward(buf.split_to(bytes));
    }
}
