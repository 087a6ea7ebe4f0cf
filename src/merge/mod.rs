//! Replies of several shards to one statement, merged into the reply of one server.
//!
//! [`MergePlan`] says what the legs' rows are to each other, [`Merge`] carries it out: it is fed with the legs' messages
//! in whatever order they come, and writes the messages that the client gets. It decides by what the rows' description
//! says, and refuses a type that it cannot compare or add as PostgreSQL does before the client has got a row.
//!
//! ```text
//!  leg 0 ──► feed ─► buffer ─┐ k-way merge by keys, or groups in a table
//!  leg 1 ──► feed ─► buffer ─┼──────────► DISTINCT ─► OFFSET, LIMIT ─► hidden columns off ─► pump ──► client
//!  leg 2 ──► feed ─► buffer ─┘
//! ```
//!
//! Memory: a leg that may not be read ([`Merge::may_read`]) has a window of rows waiting; groups and the rows that
//! DISTINCT remembers are bounded by [`Limits::budget_bytes`], beyond which the statement fails with 53200.

mod aggregate;
mod columns;
pub mod completion;
mod copied;
mod export;
mod expression;
pub mod gather;
mod giving;
mod groups;
mod leg;
mod order_by;
mod paced;
pub mod parts;
pub mod plan;
mod promised;
mod row;
mod sink;
mod turns;
mod uniform;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Fault, Survives};
use crate::protocol::backend::{tag, CommandComplete};
use crate::protocol::error_fields::{put_error, Fields};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::rows::RowDescription;
use crate::protocol::sqlstate::SqlState;
use crate::types::enums::Enums;
use crate::types::shape::Shape;
use crate::types::{Known, Session};

use columns::{agree, Columns};
use copied::Copied;
pub use export::Export;
use groups::{Giving, Groups};
use leg::{header, End, Leg};
use order_by::Heads;
use paced::Pace;
use parts::Parts;
pub use plan::MergePlan;
use plan::{Slice, Source};
use promised::{as_promised, as_told};
pub use promised::{stale_plan, Promised};
use row::Places;
use sink::Sink;
use turns::Turns;
use uniform::Uniform;

/// Notices and parameters that are remembered so that the client gets each once. Further ones it gets from every leg.
const NOTICES_MAX: usize = 64;

/// What bounds the memory of one merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A leg is not read on while so many bytes of it wait.
    pub window_bytes: usize,
    /// Bytes of everything that the merge holds.
    pub budget_bytes: usize,
}

/// Who gets RowDescription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Description {
    /// The client has asked for it.
    Forwarded,
    /// Only the merge: the client knows it from an earlier Describe. To merge rows it is needed nevertheless, in the
    /// formats of this Bind; the proxy asks for it by a Describe of the portal.
    Kept,
}

/// Where a merge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More messages are needed, from the legs that may be read.
    Reading,
    /// There is more for the client than [`Merge::pump`] was allowed to write.
    Writing,
    /// The client has as many rows as it asked for, and there may be more: see [`Merge::allow`]. Every leg is read up to
    /// its end, or to where it waits to be asked for more.
    Suspended,
    /// The reply is complete, and every leg's is read up to its end.
    Done,
}

/// Merges one statement's replies.
///
/// Fed are all messages of a leg from the first that answers the statement (ParseComplete, BindComplete,
/// RowDescription …) to the one that ends it (CommandComplete, ErrorResponse, EmptyQueryResponse), without
/// ReadyForQuery. After an error the client has got it; what the other legs still send is swallowed.
#[derive(Debug)]
pub struct Merge {
    plan: Arc<MergePlan>,
    session: Session,
    /// The legs' enums: none, or those of each.
    enums: Vec<Arc<Enums>>,
    limits: Limits,
    description: Description,
    legs: Vec<Leg>,
    asked: Asked,
    columns: Option<Arc<Columns>>,
    uniform: Uniform,
    rows: Rows,
    /// Groups that other cores have, if they were [divided](Self::divide).
    parts: Parts,
    sink: Sink,
    places: Places,
    notices: HashSet<Box<[u8]>>,
    copied: Copied,
    /// Where a query's rows are the data of a COPY.
    export: Option<Box<Export>>,
    /// How many rows the client gets at a time.
    pace: Pace,
    /// RowDescription, where rows are given in slices.
    described: Vec<u8>,
    /// Where the legs' statement is another than the client's.
    promised: Option<Promised>,
    /// What the client was told of its rows before.
    told: Option<Shape>,
    stage: Stage,
}

/// What is done with rows.
#[derive(Debug)]
enum Rows {
    /// Passed on as they come.
    Pass,
    /// Passed on in order.
    Ordered(Heads),
    /// Passed on in turns.
    Turns(Turns),
    /// Passed on in any order, when the client asks for them.
    Queued,
    /// Gathered in groups.
    Grouped(Groups),
    /// Groups that are passed on.
    Giving(Giving),
}

/// Which legs have been asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// So many, of whom none has given a row or come to its end.
    First(usize),
    /// So many.
    UpTo(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    Failed,
    Complete,
}

impl Merge {
    /// A merge of `legs` legs. `slice` is the plan's limit with the values of this execution's parameters.
    pub fn new(
        plan: Arc<MergePlan>,
        slice: Slice,
        legs: usize,
        session: Session,
        description: Description,
        limits: Limits,
    ) -> Self {
        let rows = if plan.grouping.is_some() {
            Rows::Grouped(Groups::default())
        } else if let Source::Turns(order) = &plan.source {
            Rows::Turns(Turns::new(Arc::clone(order), legs))
        } else if plan.order.is_empty() {
            Rows::Pass
        } else {
            Rows::Ordered(Heads::new(legs))
        };
        Self {
            sink: Sink::new(&plan, slice),
            plan,
            session,
            enums: Vec::new(),
            limits,
            description,
            legs: (0..legs).map(|_| Leg::default()).collect(),
            asked: Asked::UpTo(legs),
            columns: None,
            uniform: Uniform::default(),
            rows,
            parts: Parts::default(),
            places: Places::default(),
            notices: HashSet::new(),
            copied: Copied::default(),
            export: None,
            pace: Pace::Whole,
            described: Vec::new(),
            promised: None,
            told: None,
            stage: Stage::Open,
        }
    }

    /// The same merge for legs of whom these enums are known, of one leg after the other.
    #[must_use]
    pub fn enums(mut self, enums: Vec<Arc<Enums>>) -> Self {
        self.enums = enums;
        self
    }

    /// The same merge for legs of which the first `asked` answer before others are asked. What they say is passed on when
    /// there is a row, or the end: a statement that fails is not described, as where one server runs it.
    ///
    /// Only for rows that need no order.
    #[must_use]
    pub fn in_turn(mut self, asked: usize) -> Self {
        self.asked = Asked::First(asked);
        self.uniform.keep();
        self
    }

    /// So many legs have been asked now.
    pub fn asked_up_to(&mut self, asked: usize) {
        self.asked = Asked::UpTo(asked);
    }

    /// The same merge for a `COPY … TO STDOUT` of which every leg sends a line of column names (HEADER).
    #[must_use]
    pub fn copy_names(mut self) -> Self {
        self.copied.names = true;
        self
    }

    /// The same merge for legs that were asked something else than what the client has: the client gets this
    /// RowDescription if the legs' rows are of its types, and no error that only makes sense for what they were asked.
    #[must_use]
    pub fn promised(mut self, promised: Promised) -> Self {
        self.promised = Some(promised);
        self
    }

    /// The same merge for a client that was told before what rows there are: others are refused.
    #[must_use]
    pub fn told(mut self, told: Option<Shape>) -> Self {
        self.told = told;
        self
    }

    /// Takes the next message of a leg, all its bytes, and appends what the client gets of it at once: rows that need no
    /// order, notices, errors. The rest comes from [`Self::pump`].
    pub fn feed(&mut self, leg: usize, message: &[u8], out: &mut Vec<u8>) {
        if let Err(error) = self.take(leg, message, out) {
            self.fail(&of_server(error), out);
        }
    }

    /// Appends about `bytes_max` of what is ready for the client: rows in order, and the end of the reply. To be called
    /// when the legs have been fed, and again when there is room for more.
    pub fn pump(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> Progress {
        let start = out.len();
        match self.advance(start.saturating_add(bytes_max), out) {
            Ok(progress) => progress,
            Err(error) => {
                self.fail(&of_server(error), out);
                if self.all_ended() {
                    Progress::Done
                } else {
                    Progress::Reading
                }
            }
        }
    }

    /// Is this leg's next message wanted? No while a window of its rows waits for the other legs' or for the client.
    pub fn may_read(&self, leg: usize) -> bool {
        // A leg of a portal comes to rest before the client hears that it is suspended.
        let window = match self.is_paused() {
            true => usize::MAX,
            false => self.limits.window_bytes,
        };
        let leg = self.legs.get(leg);
        let room = leg.is_some_and(|leg| !leg.is_quiet() && leg.waiting_bytes() < window);
        room && self.parts.keep_up()
    }

    /// Has this leg's reply ended, or does it wait to be asked for more?
    pub fn has_ended(&self, leg: usize) -> bool {
        self.legs.get(leg).is_none_or(Leg::is_quiet)
    }

    /// Has the client got an error? What the other legs still do is of no use: they may be cancelled.
    ///
    /// A leg's own state may be better than what the client was told (an error of the merge itself): in a transaction
    /// block the client must be treated as in a failed one.
    pub fn has_failed(&self) -> bool {
        self.stage == Stage::Failed
    }

    /// Ends the reply with this error, unless it has ended: a leg was lost, a limit of the proxy was reached.
    pub fn fail(&mut self, error: &Error, out: &mut Vec<u8>) {
        if self.stage == Stage::Open {
            put_error(out, error);
            self.drop_rows();
        }
    }

    /// A leg's connection is gone: nothing more comes from it. The error that says so goes to [`Self::fail`].
    pub fn lose(&mut self, leg: usize) {
        if let Some(leg) = self.legs.get_mut(leg) {
            leg.end.get_or_insert(End::Failed);
        }
    }

    fn drop_rows(&mut self) {
        self.stage = Stage::Failed;
        self.rows = Rows::Pass;
        self.parts = Parts::default();
        self.notices.clear();
        self.legs.iter_mut().for_each(Leg::clear);
    }

    fn all_ended(&self) -> bool {
        self.legs.iter().all(|leg| leg.end.is_some())
    }

    fn take(&mut self, index: usize, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (tag, length) = header(message)?;
        let body = message.get(HEADER_BYTES..length).unwrap_or_default();
        let mut begun = Ok(());
        let legs = match self.asked {
            Asked::First(asked) if matches!(tag, tag::DATA_ROW | tag::COMMAND_COMPLETE) => {
                begun = self.end_first_turn(asked, out);
                asked
            }
            Asked::First(_) => usize::MAX,
            Asked::UpTo(asked) => asked,
        };
        let Some(leg) = self.legs.get_mut(index) else {
            return Err(broken("a message of an unknown leg"));
        };
        if let Err(error) = begun {
            if tag == tag::COMMAND_COMPLETE {
                leg.end = Some(End::Failed); // nothing else comes of it
            }
            return Err(error);
        }
        match tag {
            tag::COMMAND_COMPLETE => {
                leg.end = Some(End::Complete(CommandComplete::parse(body)?.tag.into()));
            }
            tag::EMPTY_QUERY_RESPONSE => leg.end = Some(End::Empty),
            tag::ERROR_RESPONSE => {
                leg.end = Some(End::Failed);
                if self.stage == Stage::Open {
                    match self.promised {
                        Some(_) if is_of_statement(body) => {
                            put_error(out, &refused("this query"));
                        }
                        _ if self.plan.is_own_error(body) => {
                            put_error(out, &refused("count(DISTINCT …) of arrays"));
                        }
                        _ => out.extend_from_slice(message),
                    }
                    self.drop_rows();
                }
            }
            tag::PORTAL_SUSPENDED => match self.pace {
                Pace::Slices { .. } => leg.suspended = true,
                // It has given all that was asked for.
                Pace::First(_) => leg.end = Some(End::Complete((*b"SELECT 0").into())),
                Pace::Whole => {
                    leg.end = Some(End::Failed);
                    return Err(broken("a portal is suspended without a row limit"));
                }
            },
            tag::NOTIFICATION_RESPONSE => out.extend_from_slice(message),
            tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS => self.once(message, out),
            _ if self.stage != Stage::Open => {}
            _ if Uniform::is(tag) => {
                let number = leg.uniform;
                leg.uniform += 1;
                self.compare(index, number, tag, body)?;
                if let Some(message) = self.uniform.take(number, legs, index, message) {
                    self.describe(&message, out)?;
                }
            }
            tag::DATA_ROW | tag::COPY_DATA => self.take_row(index, tag, message, out)?,
            tag::COPY_DONE => leg.copy_done = true,
            _ => return Err(broken("a message that answers no statement over shards")),
        }
        Ok(())
    }

    /// What the legs of the first turn have said so far is for the client.
    #[cold]
    fn end_first_turn(&mut self, asked: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.stage != Stage::Open {
            return Ok(());
        }
        self.asked = Asked::UpTo(asked);
        while let Some(message) = self.uniform.next(asked) {
            self.describe(&message, out)?;
        }
        Ok(())
    }

    /// A message of which the client gets the first of equal ones.
    fn once(&mut self, message: &[u8], out: &mut Vec<u8>) {
        if self.notices.contains(message) {
            return;
        }
        if self.notices.len() < NOTICES_MAX {
            self.notices.insert(message.into());
        }
        out.extend_from_slice(message);
    }

    /// Compares a message with the one of the same number that another leg has sent.
    fn compare(&self, leg: usize, number: usize, tag: u8, body: &[u8]) -> Result<(), Error> {
        let Some((sender, first)) = self.uniform.sent(number) else {
            return Ok(());
        };
        let (first_tag, length) = header(first)?;
        let first = first.get(HEADER_BYTES..length).unwrap_or_default();
        if first_tag != tag {
            return Err(broken("shards answer with different messages"));
        }
        match tag {
            tag::ROW_DESCRIPTION => {
                let (first, other) = (RowDescription::parse(first)?, RowDescription::parse(body)?);
                let enums = (self.enums_of(sender), self.enums_of(leg));
                agree(first, other, enums, self.plan.hidden)
            }
            tag::COPY_IN_RESPONSE | tag::COPY_OUT_RESPONSE if first != body => {
                Err(broken("shards copy in different formats"))
            }
            _ => Ok(()),
        }
    }

    fn enums_of(&self, leg: usize) -> &Enums {
        self.enums.get(leg).map_or(Enums::NONE, |enums| &**enums)
    }

    /// All legs have sent this message, which is the first one's.
    fn describe(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (tag, _) = header(message)?;
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        match tag {
            tag::ROW_DESCRIPTION => {
                let description = RowDescription::parse(body)?;
                let enums = self.enums_of(0);
                let columns = Columns::resolve(&self.plan, description, &self.session, enums)?;
                let visible = columns.count.checked_sub(self.plan.hidden);
                let visible = visible.ok_or_else(|| broken("fewer columns than were added"))?;
                self.sink.set_visible(visible);
                self.columns = Some(Arc::new(columns));
                let fields = description.fields().take(visible);
                let mut fields = fields.collect::<Result<Vec<_>, _>>()?;
                if let Some(promised) = &self.promised {
                    let rows = promised.rows.get(HEADER_BYTES..).unwrap_or_default();
                    let enums = (self.enums_of(0), &*promised.enums);
                    as_promised(&mut fields, RowDescription::parse(rows)?, enums)?;
                }
                if let Some(told) = self.told {
                    as_told(&fields, told)?;
                }
                let mut described = Vec::new();
                RowDescription::encode(&mut described, fields);
                if self.description == Description::Forwarded {
                    out.extend_from_slice(&described);
                }
                if matches!(self.pace, Pace::Slices { .. }) {
                    self.described = described;
                }
            }
            tag::COPY_OUT_RESPONSE => {
                self.copied.binary = body.first() == Some(&1);
                out.extend_from_slice(message);
            }
            _ => out.extend_from_slice(message),
        }
        self.pass_waiting(out)
    }

    /// Takes a row. It waits when the description that precedes it does, or the order needs that.
    fn take_row(
        &mut self,
        index: usize,
        tag: u8,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if self.plan.source == Source::FirstLeg && index != 0 {
            return Ok(());
        }
        let in_order = self.keeps_rows();
        let Some(leg) = self.legs.get_mut(index) else {
            return Ok(());
        };
        let waits = leg.uniform != self.uniform.passed();
        let needs_columns = self.plan.needs_columns() || self.plan.hidden > 0;
        if !waits && needs_columns && self.columns.is_none() && tag == tag::DATA_ROW {
            return Err(broken("rows without a description"));
        }
        if waits || in_order && !self.sink.is_full() {
            leg.push(message);
            return self.check_budget();
        }
        self.pass(index, message, out)?;
        self.check_budget()
    }

    /// Do rows wait with their legs until it is their turn?
    const fn keeps_rows(&self) -> bool {
        matches!(self.rows, Rows::Ordered(_) | Rows::Turns(_) | Rows::Queued)
    }

    /// Passes rows on that waited for the description.
    fn pass_waiting(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.keeps_rows() {
            return Ok(());
        }
        for index in 0..self.legs.len() {
            let Some(leg) = self.legs.get_mut(index) else {
                continue;
            };
            if leg.uniform != self.uniform.passed() || leg.is_empty() {
                continue;
            }
            let mut waiting = std::mem::take(leg);
            let mut passed = Ok(());
            while let (Some(message), Ok(())) = (waiting.front(), &passed) {
                passed = self.pass(index, message, out);
                waiting.pop();
            }
            // `pass` may have noted something about the leg meanwhile; it has the leg's end also when it has failed.
            if let Some(leg) = self.legs.get_mut(index) {
                waiting.copy_begun |= leg.copy_begun;
                *leg = waiting;
            }
            passed?;
        }
        Ok(())
    }

    /// A row that needs no order.
    fn pass(&mut self, index: usize, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let body = message.get(HEADER_BYTES..).unwrap_or_default();
        if message.first() == Some(&tag::COPY_DATA) {
            if let Some(leg) = self.legs.get_mut(index) {
                let is_first = !std::mem::replace(&mut leg.copy_begun, true);
                self.copied.put(is_first, body, out)?;
            }
            return Ok(());
        }
        let Some(columns) = &self.columns else {
            if !self.sink.is_full() && self.sink.pass() {
                out.extend_from_slice(message);
            }
            return Ok(());
        };
        match &mut self.rows {
            Rows::Grouped(groups) => {
                let row = self.places.find(body, columns.count)?;
                let which = groups.identify(columns, row)?;
                match self.parts.of(which) {
                    Some(outbox) => outbox.extend_from_slice(message),
                    None => groups.take(which, columns, row, body)?,
                }
                Ok(())
            }
            _ if self.sink.is_full() => Ok(()),
            _ if !self.plan.needs_columns() && self.plan.hidden == 0 => {
                if self.sink.pass() {
                    out.extend_from_slice(message);
                }
                Ok(())
            }
            _ => {
                let row = self.places.find(body, columns.count)?;
                self.sink.row(&columns.distinct, row, &[], out)
            }
        }
    }

    /// Bytes of memory: rows that wait, groups, and what DISTINCT remembers.
    pub fn held_bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Grouped(groups) => groups.held_bytes(),
            Rows::Giving(groups) => groups.held_bytes(),
            _ => 0,
        };
        let legs: usize = self.legs.iter().map(Leg::held_bytes).sum();
        rows + self.parts.held_bytes() + legs + self.sink.held_bytes()
    }

    fn check_budget(&self) -> Result<(), Error> {
        match self.held_bytes() <= self.limits.budget_bytes {
            true => Ok(()),
            false => Err(too_much_memory(self.limits.budget_bytes)),
        }
    }
}

/// Can rows of this description, the body of a RowDescription of a server with these enums, be merged as `plan` says?
pub fn can_merge(plan: &MergePlan, description: &[u8], session: &Session, enums: &Enums) -> bool {
    let description = RowDescription::parse(description);
    description.is_ok_and(|rows| Columns::resolve(plan, rows, session, enums).is_ok())
}

/// `… is not supported across shards`, 0A000.
pub fn refused(construct: &str) -> Error {
    Error::error(
        Fault::Client,
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("{construct} is not supported across shards"),
    )
}

/// `… is not known yet, try again`, 57P03: the catalogue of a server that is away might tell. One that refuses to tell does so again:
/// then its own code.
pub fn not_known(what: &str, known: Known) -> Error {
    if let Known::Refused(code) = known {
        let text = format!("{what} is not known: a server lets its catalogue not be read");
        return Error::error(Fault::Server, code, text);
    }
    Error::error(
        Fault::Proxy,
        SqlState::CANNOT_CONNECT_NOW,
        format!("{what} is not known yet, try again"),
    )
}

fn unsupported_type(construct: &str, type_oid: u32) -> Error {
    use crate::types::oid;
    let error = refused(&format!("{construct} of this type"));
    match type_oid {
        oid::TEXT | oid::VARCHAR | oid::BPCHAR => error
            .detail("The text's collation is not known to compare bytes.")
            .hint("Add COLLATE \"C\"."),
        other => error.detail(format!(
            "Type {other} cannot be compared or added by pgdog."
        )),
    }
}

/// Is this an error about the statement rather than about what it found, or may not read?
pub fn is_of_statement(body: &[u8]) -> bool {
    let code = Fields::parse(body).ok().and_then(|fields| fields.code());
    code.is_some_and(|code| code.class() == *b"42" && code != SqlState::INSUFFICIENT_PRIVILEGE)
}

/// 53200: for one statement, or for all of them together.
pub fn too_much_memory(bytes_max: usize) -> Error {
    Error::error(
        Fault::Proxy,
        SqlState::OUT_OF_MEMORY,
        "merging the rows of the shards takes too much memory",
    )
    .detail(format!("It needs more than {bytes_max} bytes."))
}

/// A malformed message is the server's fault here, and the client can go on.
fn of_server(error: Error) -> Error {
    match error.survives {
        Survives::Session => error,
        Survives::Nothing => Error {
            fault: Fault::Server,
            survives: Survives::Session,
            ..error
        },
    }
}

fn broken(what: &'static str) -> Error {
    Error::error(Fault::Server, SqlState::INTERNAL_ERROR, what)
}
