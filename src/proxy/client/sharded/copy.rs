//! COPY FROM STDIN on several servers: asked of all, the client's rows cut apart and sent to those that they concern.
//!
//! It runs within a transaction, so what a client leaves unfinished, or one server refuses, no server keeps.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use cores::Stream;

use crate::error::{Error, Fault, Survives};
use crate::merge::plan::Completion;
use crate::merge::{completion, refused};
use crate::protocol::backend::{tag, CommandComplete, NO_DATA};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frame::{Frames, BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::frontend::{self, CopyFail, COPY_DONE};
use crate::protocol::sqlstate::SqlState;
use crate::routing::copy::{Rows, Split};
use crate::sharding::lookups::{KeyName, Translated};
use crate::sharding::rows::unplaced;
use crate::sharding::{CopyRouter, RowTarget};

use super::super::super::link::Notice;
use super::super::super::server::{cancel, Lost};
use super::super::{End, Session, WAITING_BYTES_MAX};
use super::call::{self, Call, Shown};
use super::lookups::{translate, Wanted};
use super::lost::{self, WordsOf};
use super::plan::RESULTS;
use super::replies::Replies;
use super::scatter::Outcome;
use super::Leg;

/// Data of one CopyData message that a server gets.
const PIECE_BYTES: usize = 16 * 1024;
/// Bytes of a message of a server, of which it sends errors and notices, or of the client's reason to fail.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Turns in one poll before other tasks get theirs.
const BURST: usize = 16;

/// What the client has sent.
pub(super) struct Request<'a> {
    /// The statement.
    pub(super) text: &'a [u8],
    /// Who gets which rows.
    pub(super) rows: &'a Rows,
    /// The client wants to be told that there is no description of rows.
    pub(super) described: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not all servers have said that they want data.
    Asked,
    /// The client sends.
    Streaming {
        /// Of the CopyData message under way.
        bytes_left: usize,
    },
    /// The client has sent all.
    Ended,
    /// The client has been told why not; servers come to rest.
    Failed,
}

/// One server's part.
#[derive(Default)]
struct Part {
    replies: Replies,
    /// Body of its CopyInResponse.
    wants: Option<Vec<u8>>,
    tag: Vec<u8>,
    /// A CopyData message that is being filled; empty, or its header and data.
    message: Vec<u8>,
}

impl Part {
    fn put(&mut self, data: &[u8], to: &Stream) {
        for piece in data.chunks(PIECE_BYTES) {
            if self.message.len() + piece.len() > HEADER_BYTES + PIECE_BYTES {
                self.flush(to);
            }
            if self.message.is_empty() {
                self.message
                    .extend_from_slice(&[tag::COPY_DATA, 0, 0, 0, 0]);
            }
            self.message.extend_from_slice(piece);
        }
    }

    fn flush(&mut self, to: &Stream) {
        let length = u32::try_from(self.message.len().saturating_sub(1));
        let Ok(length @ 1..) = length else {
            return;
        };
        if let Some(field) = self.message.get_mut(1..HEADER_BYTES) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        to.write(&self.message);
        self.message.clear();
    }
}

struct CopyIn<'a> {
    session: &'a mut Session,
    legs: &'a mut [Leg],
    parts: Vec<Part>,
    split: Option<(&'a Split, CopyRouter)>,
    /// A row whose key is being looked up; what follows it is not read.
    waiting: Option<Waiting>,
    stage: Stage,
    words_of: WordsOf,
    described: bool,
}

/// A row that waits for a server to say where it belongs.
struct Waiting {
    asked: Pin<Box<dyn Future<Output = Result<Translated, Error>>>>,
    bytes: Vec<u8>,
    number: u64,
    /// The client has sent all.
    last: bool,
}

/// Runs a COPY on these servers, which rest and are in a transaction. Errors: a server is lost, or the client is.
pub(super) async fn run(
    session: &mut Session,
    legs: &mut [Leg],
    request: &Request<'_>,
) -> Result<Outcome, End> {
    let message = call::query(request.text);
    let call = Call {
        messages: &[],
        owed: RESULTS,
        commits: false,
        shown: Shown::Errors,
    };
    for leg in legs.iter_mut() {
        call::send(leg, &call, &message);
    }
    let split = match request.rows {
        Rows::All => None,
        Rows::Split(split) => {
            let router = CopyRouter::new(split.format.clone(), split.key);
            Some((&**split, router))
        }
    };
    let mut copy = CopyIn {
        parts: legs.iter().map(|_| Part::default()).collect(),
        session,
        legs,
        split,
        waiting: None,
        stage: Stage::Asked,
        words_of: WordsOf::default(),
        described: request.described,
    };
    poll_fn(|cx| copy.poll(cx)).await?;
    if copy.stage != Stage::Failed {
        match copy.complete() {
            Ok(tag) => return Ok(Outcome::Done(tag)),
            Err(error) => copy.refuse(&error),
        }
    }
    // What is sent next is not what cancel requests are for.
    for leg in &*copy.legs {
        leg.held.target.settled().await;
    }
    Ok(Outcome::Failed)
}

impl CopyIn<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.session.link.listen(cx);
        match self.session.link.notice() {
            None | Some(Notice::Drain | Notice::Removed) => {}
            Some(why @ (Notice::QueryTimeout | Notice::Deadlock))
                if self.stage != Stage::Failed =>
            {
                self.session.await_cancel();
                let error = self.session.cancelled(why);
                self.session.tell(&error);
                self.fail();
            }
            Some(notice) => return Poll::Ready(Err(End::Fatal(self.session.farewell(notice)))),
        }
        for _ in 0..BURST {
            if self.session.stream.poll_room(cx)?.is_pending() {
                return Poll::Pending;
            }
            let mut moved = false;
            for at in 0..self.legs.len() {
                moved |= self.poll_leg(at, cx)?;
            }
            let streams = matches!(self.stage, Stage::Streaming { .. });
            if self.waiting.is_some() {
                moved |= self.poll_waiting(cx);
            }
            if streams && self.waiting.is_none() && self.poll_room(cx)? {
                moved |= self.poll_client(cx)?;
            } else if self.session.inbound.len() < WAITING_BYTES_MAX {
                // A client that goes away is noticed; what it sends meanwhile waits.
                moved |= self.session.poll_inbound(cx)?.is_ready();
                self.session.inbound.settle();
            }
            if self.legs.iter().all(|leg| leg.held.is_resting()) {
                self.session.count_traffic();
                return Poll::Ready(Ok(()));
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what one server has sent. True: something came.
    fn poll_leg(&mut self, at: usize, cx: &mut Context<'_>) -> Result<bool, End> {
        let (leg, part) = (&mut self.legs[at], &mut self.parts[at]);
        let server = &mut *leg.held;
        if server.is_resting() {
            return Ok(false);
        }
        match server.poll_take(&mut part.replies, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => self.take(at).map(|()| true),
            Poll::Ready(Err(lost)) => Err(self.words_of.lost(at, leg, &lost, true)),
        }
    }

    /// Looks at the whole messages of one server.
    fn take(&mut self, at: usize) -> Result<(), End> {
        let bytes = std::mem::take(&mut self.parts[at].replies.bytes);
        let mut frames = Frames::new(&bytes, BODY_BYTES_MAX);
        while let Some(Ok(frame)) = frames.next() {
            match frame.tag {
                tag::COPY_IN_RESPONSE if self.stage == Stage::Failed => self.stop(at),
                tag::COPY_IN_RESPONSE => {
                    self.parts[at].wants = Some(frame.body.to_vec());
                    self.begin();
                }
                tag::COMMAND_COMPLETE => {
                    if let Ok(complete) = CommandComplete::parse(frame.body) {
                        self.parts[at].tag = complete.tag.to_vec();
                    }
                }
                tag::ERROR_RESPONSE if self.stage != Stage::Failed => {
                    self.session.stream.write(frame.message);
                    self.session.link.meter.error();
                    self.words_of.said(at);
                    if self.stage == Stage::Asked {
                        // It may know better which columns there are; the next attempt asks.
                        self.session.cluster.forget_facts();
                    }
                    self.fail();
                }
                tag::NOTIFICATION_RESPONSE => self.session.stream.write(frame.message),
                // What happens to all rows on every server is told once.
                tag::NOTICE_RESPONSE if self.split.is_some() || at == 0 => {
                    self.session.stream.write(frame.message);
                }
                _ => {}
            }
        }
        let rest = frames.rest();
        if rest.len() > MESSAGE_BYTES_MAX {
            return Err(End::Fatal(Error {
                survives: Survives::Nothing,
                ..Error::protocol_violation("a message of a server that is too long")
            }));
        }
        let rest = rest.len();
        self.parts[at].replies.keep(bytes, rest);
        Ok(())
    }

    /// Tells the client to send once all servers want data.
    fn begin(&mut self) {
        let wanted: Option<Vec<_>> = self
            .parts
            .iter()
            .map(|part| part.wants.as_deref())
            .collect();
        let Some(wanted) = wanted else {
            return;
        };
        let Some(first) = wanted.first() else {
            return;
        };
        if wanted.iter().any(|body| body != first) {
            let text = "the table's columns are not the same on all shards";
            let code = SqlState::FEATURE_NOT_SUPPORTED;
            return self.refuse(&Error::error(Fault::Client, code, text));
        }
        let mut message = Vec::new();
        if self.described {
            message.extend_from_slice(&NO_DATA);
        }
        crate::protocol::wire::put_message(&mut message, tag::COPY_IN_RESPONSE, |out| {
            out.extend_from_slice(first);
        });
        self.session.stream.send_vec(message);
        self.stage = Stage::Streaming { bytes_left: 0 };
    }

    /// May servers be sent more? The slowest decides.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        for leg in &*self.legs {
            match leg.held.stream.poll_room(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    return Err(lost::amid(leg, &Lost::Closed(Some(error)), true));
                }
            }
        }
        Ok(true)
    }

    /// Takes what the client has sent. True: there was something.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.feed()? {
            return Ok(true);
        }
        self.flush();
        Ok(self.session.poll_inbound(cx)?.is_ready())
    }

    /// Uses the next message of the client, or what there is of it. False: more has to come first.
    fn feed(&mut self) -> Result<bool, End> {
        let Stage::Streaming { bytes_left } = self.stage else {
            return Ok(false);
        };
        if bytes_left > 0 {
            return Ok(self.feed_data(bytes_left));
        }
        let Some(header) = self.session.inbound.next()? else {
            return Ok(false);
        };
        match header.tag {
            frontend::tag::COPY_DATA => {
                self.session.inbound.skip_bytes(HEADER_BYTES);
                self.stage = Stage::Streaming {
                    bytes_left: header.frame_bytes() - HEADER_BYTES,
                };
            }
            frontend::tag::COPY_DONE => {
                self.session.inbound.skip(header);
                self.end();
            }
            frontend::tag::COPY_FAIL => {
                let length = header.frame_bytes();
                if length <= MESSAGE_BYTES_MAX && self.session.inbound.len() < length {
                    return Ok(false);
                }
                let body = self.session.inbound.bytes().get(HEADER_BYTES..length);
                let reason = body.and_then(|body| body.strip_suffix(b"\0"));
                let reason = String::from_utf8_lossy(reason.unwrap_or_default());
                let text = format!("COPY from stdin failed: {reason}");
                self.session.inbound.skip(header);
                let code = SqlState::QUERY_CANCELED;
                self.refuse(&Error::error(Fault::Client, code, text));
            }
            // PostgreSQL ignores them amid the data.
            frontend::tag::FLUSH | frontend::tag::SYNC => self.session.inbound.skip(header),
            frontend::tag::TERMINATE => return Err(End::Left),
            other => {
                let text = format!("unexpected message type 0x{other:02X} during COPY from stdin");
                return Err(End::Fatal(Error::protocol_violation(text)));
            }
        }
        Ok(true)
    }

    /// Sends what is there of a CopyData message on.
    fn feed_data(&mut self, bytes_left: usize) -> bool {
        let here = bytes_left.min(self.session.inbound.len());
        if here == 0 {
            return false;
        }
        let data = self.session.inbound.bytes().get(..here).unwrap_or_default();
        let mut input = data;
        let spread = match &mut self.split {
            None => {
                for (part, leg) in self.parts.iter_mut().zip(&*self.legs) {
                    part.put(data, &leg.held.stream);
                }
                input = &[];
                Ok(())
            }
            Some((split, router)) => loop {
                match router.next(&split.column, &mut input) {
                    Ok(None) => break Ok(()),
                    Ok(Some((target, row))) => match located(self.session, split, target) {
                        Ok(Located::At(target)) => {
                            if let Err(error) = put(&mut self.parts, self.legs, target, row) {
                                break Err(error);
                            }
                        }
                        Ok(Located::Asked(asked, number)) => {
                            self.waiting = Some(Waiting {
                                asked,
                                bytes: row.to_vec(),
                                number,
                                last: false,
                            });
                            break Ok(());
                        }
                        Err(error) => break Err(error),
                    },
                    Err(error) => break Err(error),
                }
            },
        };
        let used = here - input.len();
        self.session.inbound.skip_bytes(used);
        self.stage = Stage::Streaming {
            bytes_left: bytes_left - used,
        };
        if let Err(error) = spread {
            self.refuse(&error);
        }
        true
    }

    fn flush(&mut self) {
        for (part, leg) in self.parts.iter_mut().zip(&*self.legs) {
            part.flush(&leg.held.stream);
        }
    }

    /// The client has sent all.
    fn end(&mut self) {
        if let Some((split, router)) = &mut self.split {
            let last = match router.finish(&split.column) {
                Ok(Some((target, row))) => match located(self.session, split, target) {
                    Ok(Located::At(target)) => put(&mut self.parts, self.legs, target, row),
                    Ok(Located::Asked(asked, number)) => {
                        self.waiting = Some(Waiting {
                            asked,
                            bytes: row.to_vec(),
                            number,
                            last: true,
                        });
                        return;
                    }
                    Err(error) => Err(error),
                },
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = last {
                return self.refuse(&error);
            }
        }
        self.done();
    }

    /// All rows are on their way.
    fn done(&mut self) {
        self.flush();
        for leg in self.legs.iter_mut() {
            leg.held.stream.write(&COPY_DONE);
            leg.held.exchange.sent(Owed::CopyEnd, Fate::Forward);
        }
        self.stage = Stage::Ended;
    }

    /// Sends the row that waits where it belongs, once that is known. True: it is.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(waiting) = &mut self.waiting else {
            return false;
        };
        let Poll::Ready(translated) = waiting.asked.as_mut().poll(cx) else {
            return false;
        };
        let number = waiting.number;
        let shard = translated.and_then(|shard| shard.ok_or_else(|| unplaced(number)));
        let Some(waiting) = self.waiting.take() else {
            return false;
        };
        let sent = shard.and_then(|shard| {
            let target = RowTarget::Shard(shard);
            put(&mut self.parts, self.legs, target, &waiting.bytes)
        });
        match sent {
            Err(error) => self.refuse(&error),
            Ok(()) if waiting.last => self.done(),
            Ok(()) => {}
        }
        true
    }

    /// Tells the client of an error of ours, and the servers to stop.
    fn refuse(&mut self, error: &Error) {
        self.session.tell(error);
        self.fail();
    }

    /// The client has been told of an error: the servers stop, what it still sends is nobody's.
    fn fail(&mut self) {
        if let Stage::Streaming { bytes_left } = self.stage {
            self.session.inbound.skip_bytes(bytes_left);
        }
        self.stage = Stage::Failed;
        self.waiting = None;
        for at in 0..self.legs.len() {
            self.stop(at);
        }
    }

    /// Ends the COPY of one server.
    fn stop(&mut self, at: usize) {
        let server = &mut *self.legs[at].held;
        if server.is_resting() {
            return;
        }
        if server.exchange.copying_in() {
            let mut message = Vec::new();
            let reason = b"COPY has failed elsewhere";
            CopyFail { reason }.encode(&mut message);
            server.stream.send_vec(message);
            server.exchange.sent(Owed::CopyEnd, Fate::Forward);
        }
        // It may wait for a lock and not read.
        cancel::begin(&self.session.state, &server.target);
    }

    /// The command tag, which the client gets.
    ///
    /// Errors: XX001 when the copies of an omnisharded table turn out to differ.
    fn complete(&mut self) -> Result<Vec<u8>, Error> {
        let completion = match self.split {
            None => Completion::Same,
            Some(_) => Completion::Added,
        };
        let tags = self.parts.iter().map(|part| &part.tag[..]);
        let tag = completion::tag(completion, 0, tags)?;
        self.session.complete_with(&tag);
        Ok(tag)
    }
}

/// Where a row goes, or who has been asked.
enum Located {
    At(RowTarget),
    Asked(
        Pin<Box<dyn Future<Output = Result<Translated, Error>>>>,
        u64,
    ),
}

/// Where a row goes, if it is known where its key's rows are. Nothing of that is kept for the COPY alone: it may have more
/// keys than there is memory for. Errors: no shard takes it.
fn located(session: &Session, split: &Split, target: RowTarget) -> Result<Located, Error> {
    let RowTarget::Ask { key, row } = target else {
        return Ok(Located::At(target));
    };
    let cluster = &session.cluster;
    let mut columns = cluster.sharding.columns.iter();
    let column = columns.position(|column| column.is_like(&split.column));
    let column = column.ok_or_else(|| refused("this COPY"))?;
    let name = KeyName::new(column, &key);
    let now = session.state.core.now();
    let known = cluster.lookups.borrow_mut().get(&name, now);
    match known {
        Some(Some(shard)) => Ok(Located::At(RowTarget::Shard(shard))),
        Some(None) => Err(unplaced(row)),
        None => {
            let shard = session.shard_to_ask();
            let wanted = Wanted { column, key };
            let (state, cluster) = (Rc::clone(&session.state), Rc::clone(cluster));
            let asked = translate(state, cluster, wanted, shard);
            Ok(Located::Asked(Box::pin(asked), row))
        }
    }
}

/// Sends a row where it belongs.
fn put(parts: &mut [Part], legs: &[Leg], target: RowTarget, row: &[u8]) -> Result<(), Error> {
    let shard = match target {
        RowTarget::Every => {
            for (part, leg) in parts.iter_mut().zip(legs) {
                part.put(row, &leg.held.stream);
            }
            return Ok(());
        }
        RowTarget::Shard(shard) => shard as usize,
        RowTarget::Ask { .. } => return Err(refused("this COPY")), // never: it is located first
    };
    let mut all = parts.iter_mut().zip(legs);
    let Some((part, leg)) = all.find(|(_, leg)| leg.shard == shard) else {
        return Err(refused("this COPY"));
    };
    part.put(row, &leg.held.stream);
    Ok(())
}
