//! One statement on several servers at once: sent to all, their replies merged into one, streamed to the client.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::error::{Error, Fault, Survives};
use crate::merge::{Description, Limits, Merge, Progress};
use crate::metrics::nanoseconds;
use crate::protocol::backend::{tag, CommandComplete};
use crate::protocol::error_fields::put_error;
use crate::protocol::frame::{Frames, BODY_BYTES_MAX};
use crate::protocol::rows::DataRow;
use crate::protocol::sqlstate::SqlState;
use crate::sql::set::Value;
use crate::types;
use crate::types::contents::Contents;
use crate::types::enums::Enums;

use super::super::super::link::Notice;
use super::super::super::server::cancel;
use super::super::facts::has_all_digits;
use super::super::{End, Session, WAITING_BYTES_MAX};
use super::call::{begin, send, Call, Shown};
use super::charge::Charge;
use super::crew::Crew;
use super::flow::Flow;
use super::kept::Kept;
use super::lost::{leaves_amid_commit, WordsOf};
use super::numbered::renumber_rows;
use super::replies::Replies;
use super::Leg;

/// Bytes of one message of one server that are kept until it is all there.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Turns in one poll before other tasks get theirs.
const BURST: usize = 16;
/// Bytes written to the client at a time.
const WRITE_BYTES: usize = 64 * 1024;
/// What bounds one merge.
pub(super) const LIMITS: Limits = Limits {
    window_bytes: 256 * 1024,
    budget_bytes: 64 * 1024 * 1024,
};

/// How a statement on several servers went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All have done it: the command tag, if there was one.
    Done(Vec<u8>),
    /// One of them, or we, said no; the client has been told. All are at rest.
    Failed,
}

/// The servers of one statement at work.
struct Scatter<'a> {
    session: &'a mut Session,
    legs: &'a mut [Leg],
    replies: Vec<Replies>,
    output: Output,
    tag: Vec<u8>,
    /// The client has been told of an error; the servers that are still at work were asked to stop.
    failed: bool,
    words_of: WordsOf,
    /// Why the servers were asked to stop: `query_timeout`, or they would wait for ever.
    cancelled: Option<Notice>,
    /// The client has got something of the reply.
    begun: bool,
    /// When the first row came.
    first_row: Option<Instant>,
    notes: Vec<String>,
    /// The client gets nothing.
    kept: Option<&'a mut Kept>,
    held: Charge,
    /// Cores that have a part of its groups.
    crew: Option<Crew>,
    /// What values have within, if servers number types otherwise than the client sees them.
    contents: Option<Rc<Contents>>,
    /// The call, which so many of the servers have, where others get it later.
    unsent: Option<(&'a Call<'a>, usize)>,
}

/// What becomes of the messages.
enum Output {
    Merged {
        merge: Box<Merge>,
        no_data: bool,
        /// The servers have a portal each, which is asked for rows as they are needed.
        flow: Option<Flow>,
    },
    Description,
    Errors,
}

/// Runs a call on these servers, which rest, and passes the replies on. Errors: a server is lost, or the client is.
pub(super) async fn run<'a>(
    session: &'a mut Session,
    legs: &'a mut [Leg],
    call: &'a Call<'a>,
    kept: Option<&'a mut Kept>,
) -> Result<Outcome, End> {
    let sent = begin(legs, call, 0);
    let mut notes = Vec::new();
    let output = match &call.shown {
        Shown::Description => Output::Description,
        Shown::Errors => Output::Errors,
        Shown::Reply {
            plan,
            slice,
            described,
            plain,
            names,
            export,
            promised,
            told: shape,
            first,
            notes: told,
            order: _,
        } => {
            notes.clone_from(told);
            let description = match described {
                true => Description::Forwarded,
                false => Description::Kept,
            };
            let (plan, slice) = (Arc::clone(plan), *slice);
            let facts = session.value_facts();
            let mut merge = Merge::new(plan, slice, legs.len(), facts, description, LIMITS)
                .enums(session.enums_of(legs))
                .told(*shape);
            if *names {
                merge = merge.copy_names();
            }
            if let Some(export) = export {
                merge = merge.exported(export.clone());
            }
            if sent < legs.len() {
                merge = merge.in_turn(sent);
            }
            if let Some(promised) = promised {
                merge = merge.promised(promised.clone());
            }
            if let Some(rows) = first {
                merge = merge.first(*rows);
            }
            Output::Merged {
                merge: Box::new(merge),
                no_data: *described && !*plain,
                flow: None,
            }
        }
    };
    let mut scatter = Scatter::new(session, legs, output, notes, kept);
    scatter.unsent = (sent < scatter.legs.len()).then_some((call, sent));
    let (outcome, _) = scatter.run().await?;
    Ok(outcome)
}

/// Gives the client the next slice of a portal's rows, of servers that have it, or get it by `opening`. They rest before
/// and after. Errors: as of [`run`].
pub(super) async fn flow(
    session: &mut Session,
    legs: &mut [Leg],
    opening: Option<&Call<'_>>,
    (merge, mut flow): (Box<Merge>, Flow),
) -> Result<(Outcome, Option<(Box<Merge>, Flow)>), End> {
    flow.held = None;
    if let Some(call) = opening {
        begin(legs, call, 0);
    }
    let columns = std::mem::take(&mut flow.columns);
    let output = Output::Merged {
        merge,
        no_data: false,
        flow: Some(flow),
    };
    let state = Rc::clone(&session.state);
    let mut scatter = Scatter::new(session, legs, output, Vec::new(), None);
    for (replies, columns) in scatter.replies.iter_mut().zip(columns) {
        replies.columns = columns;
    }
    let (outcome, output) = scatter.run().await?;
    let left = match output {
        Output::Merged {
            merge,
            flow: Some(mut flow),
            ..
        } => {
            let mut held = Charge::new(&state);
            // It was counted before, and has not grown since.
            let _: Result<(), Error> = held.set(merge.held_bytes());
            flow.held = Some(held);
            Some((merge, flow))
        }
        Output::Merged { .. } | Output::Description | Output::Errors => None,
    };
    Ok((outcome, left))
}

impl Session {
    /// The enums of these servers.
    pub(super) fn enums_of(&self, legs: &[Leg]) -> Vec<Arc<Enums>> {
        let facts = self.cluster.known();
        legs.iter().map(|leg| facts.enums_of(leg.shard)).collect()
    }

    /// What the shards' values look like under the settings of this session.
    pub(super) fn value_facts(&self) -> types::Session {
        let facts = self.cluster.known();
        let same_encoding = self.has_servers_encoding();
        let digits = self.settings.current().get(b"extra_float_digits");
        let exact = |digits: &Value| digits.text().is_some_and(|text| has_all_digits(&text));
        types::Session {
            known: facts.known(),
            text_ordered_by_bytes: facts.text.ordered_by_bytes && same_encoding,
            text_equal_by_bytes: facts.text.equal_by_bytes,
            floats_exact: digits.map_or(!facts.text.rounds_floats, exact),
        }
    }
}

impl<'a> Scatter<'a> {
    fn new(
        session: &'a mut Session,
        legs: &'a mut [Leg],
        output: Output,
        notes: Vec<String>,
        kept: Option<&'a mut Kept>,
    ) -> Self {
        let contents = session.cluster.known().contents().map(Rc::clone);
        Self {
            replies: legs.iter().map(|_| Replies::default()).collect(),
            held: Charge::new(&session.state),
            session,
            legs,
            output,
            tag: Vec::new(),
            failed: false,
            words_of: WordsOf::default(),
            cancelled: None,
            begun: false,
            first_row: None,
            notes,
            kept,
            crew: None,
            contents,
            unsent: None,
        }
    }

    async fn run(mut self) -> Result<(Outcome, Output), End> {
        let now = self.session.state.core.now();
        self.session.link.since.set(now);
        poll_fn(|cx| self.poll(cx)).await?;
        if self.failed || self.cancelled.is_some() {
            // What is sent next is not what cancel requests are for.
            for leg in &*self.legs {
                leg.held.target.settled().await;
            }
        }
        if let Some(first) = self.first_row.filter(|_| self.legs.len() > 1) {
            let now = self.session.state.core.clock();
            let took = nanoseconds(now.saturating_duration_since(first));
            self.session.cluster.over_shards.merges.record(took);
        }
        if let Output::Merged {
            flow: Some(flow), ..
        } = &mut self.output
        {
            let replies = self.replies.into_iter();
            flow.columns = replies.map(|replies| replies.columns).collect();
        }
        let outcome = match self.failed {
            true => Outcome::Failed,
            false => Outcome::Done(self.tag),
        };
        Ok((outcome, self.output))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        self.session.link.listen(cx);
        match self.session.link.notice() {
            None | Some(Notice::Drain | Notice::Removed) => {}
            Some(why @ (Notice::QueryTimeout | Notice::Deadlock)) if self.cancelled.is_none() => {
                self.cancel(why);
            }
            Some(notice) => return Poll::Ready(Err(End::Fatal(self.session.farewell(notice)))),
        }
        // A client that goes away is noticed here; what it sends meanwhile waits.
        while self.session.inbound.len() < WAITING_BYTES_MAX {
            match self.session.poll_inbound(cx)? {
                Poll::Ready(()) => self.session.inbound.settle(),
                Poll::Pending => break,
            }
        }
        for _ in 0..BURST {
            if self.session.stream.poll_room(cx)?.is_pending() {
                return Poll::Pending;
            }
            let mut moved = false;
            for at in 0..self.legs.len() {
                moved |= self.poll_leg(at, cx)?;
            }
            let progress = self.pump();
            moved |= self.divide(cx);
            self.charge();
            let over = match progress {
                Progress::Done | Progress::Suspended => true,
                // Portals are not asked for their rest.
                Progress::Reading | Progress::Writing => self.failed && self.is_flow(),
            };
            let over = over && self.unsent.is_none();
            if over && self.legs.iter().all(|leg| leg.held.is_resting()) {
                self.session.count_traffic();
                return Poll::Ready(Ok(()));
            }
            moved |= self.ask_on() || self.send_on();
            if !moved && progress != Progress::Writing {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what one server has sent. True: something came.
    fn poll_leg(&mut self, at: usize, cx: &mut Context<'_>) -> Result<bool, End> {
        let (leg, replies) = (&mut self.legs[at], &mut self.replies[at]);
        let server = &mut *leg.held;
        let wanted = match &self.output {
            Output::Merged { merge, .. } => merge.may_read(at) || merge.has_ended(at),
            Output::Description | Output::Errors => true,
        };
        if server.is_resting() || !(wanted || self.failed) {
            return Ok(false);
        }
        match server.poll_take(replies, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(())) => self.take(at).map(|()| true),
            Poll::Ready(Err(lost)) => Err(self.words_of.lost(at, leg, &lost, self.begun)),
        }
    }

    /// Has other cores do a part where there are many groups. True: one of them has answered.
    fn divide(&mut self, cx: &Context<'_>) -> bool {
        let Output::Merged { merge, .. } = &mut self.output else {
            return false;
        };
        if merge.is_worth_dividing() {
            self.crew = Crew::gather(&self.session.state, merge);
        }
        let Some(crew) = &mut self.crew else {
            return false;
        };
        match crew.poll(merge, cx) {
            Ok(news) => news,
            Err(error) => {
                self.refuse(&error);
                true
            }
        }
    }

    const fn is_flow(&self) -> bool {
        matches!(self.output, Output::Merged { flow: Some(_), .. })
    }

    /// Is there a server that has to be asked for more rows?
    fn needs_more(&self) -> bool {
        let Output::Merged { merge, .. } = &self.output else {
            return false;
        };
        let mut legs = self.legs.iter().enumerate();
        legs.any(|(at, leg)| leg.held.is_resting() && merge.needs(at))
    }

    /// Asks those servers for more rows of their portals without whose rows it does not go on. True: there are some.
    fn ask_on(&mut self) -> bool {
        if let Some(why) = self.cancelled.filter(|_| self.needs_more()) {
            // All of them were at rest when it was cancelled.
            let error = self.session.cancelled(why);
            self.refuse(&error);
            return true;
        }
        let Output::Merged {
            merge,
            flow: Some(flow),
            ..
        } = &mut self.output
        else {
            return false;
        };
        let mut asked = false;
        for (at, leg) in self.legs.iter_mut().enumerate() {
            if leg.held.is_resting() && merge.needs(at) {
                merge.asked(at);
                let messages = flow.next(at, merge.rows_left());
                send(leg, &Flow::CALL, &messages);
                asked = true;
            }
        }
        asked
    }

    /// Sends the call to the next servers when those before have done it. True: they have.
    fn send_on(&mut self) -> bool {
        let Some((call, sent)) = self.unsent else {
            return false;
        };
        if !self.legs[..sent].iter().all(|leg| leg.held.is_resting()) {
            return false;
        }
        if let Some(why) = self.cancelled.filter(|_| !self.failed) {
            let error = self.session.cancelled(why);
            self.refuse(&error);
        }
        self.unsent = None;
        if self.failed {
            // The others are spared.
            if let Output::Merged { merge, .. } = &mut self.output {
                (sent..self.legs.len()).for_each(|at| merge.lose(at));
            }
        } else {
            let next = begin(self.legs, call, sent);
            if let Output::Merged { merge, .. } = &mut self.output {
                merge.asked_up_to(next);
            }
            self.unsent = (next < self.legs.len()).then_some((call, next));
        }
        true
    }

    /// Looks at the whole messages of one server.
    fn take(&mut self, at: usize) -> Result<(), End> {
        let mut bytes = std::mem::take(&mut self.replies[at].bytes);
        if let Some(contents) = &self.contents {
            let (columns, types) = (&mut self.replies[at].columns, &self.legs[at].held.types);
            let carrying = renumber_rows(&mut bytes, columns, contents, types.as_deref());
            self.session.sharded().carrying |= carrying;
        }
        let mut out = Vec::new();
        let mut frames = Frames::new(&bytes, BODY_BYTES_MAX);
        let mut failed = false;
        while let Some(Ok(frame)) = frames.next() {
            let before = self.failed || failed;
            if frame.tag == tag::DATA_ROW && self.first_row.is_none() {
                self.first_row = Some(self.session.state.core.clock());
            }
            if frame.tag == tag::COMMAND_COMPLETE && at == 0 {
                if let Ok(complete) = CommandComplete::parse(frame.body) {
                    self.tag = complete.tag.to_vec();
                }
            }
            match (&mut self.output, frame.tag) {
                (
                    _,
                    tag::READY_FOR_QUERY
                    | tag::PARSE_COMPLETE
                    | tag::BIND_COMPLETE
                    | tag::CLOSE_COMPLETE,
                ) => {}
                (_, tag::ERROR_RESPONSE) if leaves_amid_commit(&self.legs[at]) => {}
                // Of what the client has listened to before; it is no part of the answer.
                (_, tag::NOTIFICATION_RESPONSE) => self.session.stream.write(frame.message),
                (Output::Merged { no_data, .. }, tag::NO_DATA) if !*no_data => {}
                (Output::Merged { merge, flow, .. }, _) => {
                    if let (tag::DATA_ROW, Some(flow)) = (frame.tag, flow) {
                        flow.saw(at, frame.message.len());
                    }
                    if frame.tag == tag::COMMAND_COMPLETE && at == 0 {
                        for note in self.notes.drain(..) {
                            let mut row = Vec::new();
                            DataRow::encode(&mut row, [Some(note.as_bytes())]);
                            merge.feed(at, &row, &mut out);
                        }
                    }
                    merge.feed(at, frame.message, &mut out);
                    failed |= merge.has_failed();
                }
                (_, tag::ERROR_RESPONSE) => {
                    if !self.failed && !failed {
                        out.extend_from_slice(frame.message);
                    }
                    failed = true;
                }
                (Output::Description, tag) => {
                    self.session.note_shown(tag, frame.body);
                    out.extend_from_slice(frame.message);
                }
                (Output::Errors, tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS) if at == 0 => {
                    out.extend_from_slice(frame.message);
                }
                (Output::Errors, _) => {}
            }
            if frame.tag == tag::ERROR_RESPONSE && failed && !before && self.kept.is_none() {
                self.words_of.said(at);
            }
        }
        if let Output::Merged { merge, .. } = &mut self.output {
            out = merge.export(out);
            failed |= merge.has_failed();
        }
        let rest = frames.rest();
        if rest.len() > MESSAGE_BYTES_MAX {
            // What follows of this message would be read as others.
            return Err(End::Fatal(Error {
                survives: Survives::Nothing,
                ..too_large()
            }));
        }
        let rest = rest.len();
        self.replies[at].keep(bytes, rest);
        self.write(out);
        self.note_parameters(at);
        if failed {
            self.fail();
        }
        Ok(())
    }

    /// Counts the memory of all this. Where there is not enough the statement fails.
    fn charge(&mut self) {
        let Output::Merged { merge, .. } = &self.output else {
            return;
        };
        let replies = self.replies.iter().map(|replies| replies.bytes.capacity());
        let kept = self.kept.as_ref().map_or(0, |kept| kept.held_bytes());
        let bytes = merge.held_bytes() + replies.sum::<usize>() + kept;
        // What is complete has been told.
        let over = self.failed || merge.is_complete();
        if let (Err(error), false) = (self.held.set(bytes), over) {
            self.refuse(&error);
        }
    }

    /// The statement fails, for a reason of ours.
    fn refuse(&mut self, error: &Error) {
        let mut message = Vec::new();
        if let Output::Merged { merge, .. } = &mut self.output {
            merge.fail(error, &mut message);
        }
        match &mut self.kept {
            Some(kept) => {
                // Also where the merge has handed over all that it had.
                let mut message = Vec::new();
                put_error(&mut message, error);
                kept.error.get_or_insert(message);
            }
            None => self.write(message),
        }
        self.fail();
    }

    /// Writes what is ready.
    fn pump(&mut self) -> Progress {
        let Output::Merged { merge, .. } = &mut self.output else {
            return Progress::Done;
        };
        let mut out = Vec::new();
        let progress = merge.pump(WRITE_BYTES, &mut out);
        let mut out = merge.export(out);
        let failed = merge.has_failed();
        if progress == Progress::Done && self.kept.is_none() {
            self.withhold(&mut out);
        }
        self.write(out);
        if failed {
            self.fail();
        }
        progress
    }

    /// Takes a CommandComplete off the end of a reply that has to wait for its transaction's commit.
    fn withhold(&mut self, out: &mut Vec<u8>) {
        if let Some(withheld) = &mut self.session.sharded().withheld {
            if let Some(at) = completion_at(out) {
                *withheld = out.split_off(at);
            }
        }
    }

    fn write(&mut self, out: Vec<u8>) {
        if let Some(kept) = &mut self.kept {
            if let (Err(error), false) = (kept.take(&out), self.failed) {
                self.refuse(&error);
            }
            return;
        }
        if !out.is_empty() {
            self.begun = true;
            self.session.stream.send_vec(out);
        }
    }

    /// Parameters that the servers report because of the statement: the same on all, so one is heard. They are so after what the
    /// statement does, which is noted when all have done it.
    fn note_parameters(&mut self, at: usize) {
        let reported = std::mem::take(&mut self.replies[at].parameters);
        if at == 0 {
            for (name, value) in reported {
                self.session.sharded().report(name, value);
            }
        }
    }

    /// The client has been told of an error: the servers that are still at work stop.
    fn fail(&mut self) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        self.crew = None;
        if self.kept.is_none() {
            self.session.link.meter.error();
        }
        self.stop();
    }

    /// The servers stop, and their errors are the client's. One that does not will end the session.
    fn cancel(&mut self, why: Notice) {
        self.cancelled = Some(why);
        self.session.await_cancel();
        let mut message = Vec::new();
        put_error(&mut message, &self.session.cancelled(why));
        for replies in &mut self.replies {
            replies.cancelled = Some(message.clone());
        }
        if !self.failed {
            self.stop();
        }
    }

    /// Asks the servers that are at work to stop.
    fn stop(&self) {
        for leg in &*self.legs {
            if !leg.held.is_resting() {
                cancel::begin(&self.session.state, &leg.held.target);
            }
        }
    }
}

/// Where a CommandComplete begins that ends these messages.
fn completion_at(messages: &[u8]) -> Option<usize> {
    let last = Frames::new(messages, BODY_BYTES_MAX)
        .map_while(Result::ok)
        .last()?;
    (last.tag == tag::COMMAND_COMPLETE).then_some(last.range.start)
}

pub(super) fn too_large() -> Error {
    let text = format!("result needs more than {MESSAGE_BYTES_MAX} bytes of buffer");
    Error::error(Fault::Proxy, SqlState::OUT_OF_MEMORY, text)
}
