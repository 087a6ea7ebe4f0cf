//! A client's messages on their way to its server: what each will be answered, and what a statement does to the
//! session.
//!
//! Most messages pass as they are, many in one piece. Those that name a prepared statement are rewritten (`prepared`),
//! and statements that touch the session are followed until they are answered (`session`).

use std::borrow::Cow;
use std::rc::Rc;

use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault};
use crate::metrics::{elapsed, Phase, Stat};
use crate::protocol::exchange::{Fate, Note, Owed};
use crate::protocol::frame::{peek, Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Parse, Query};
use crate::protocol::sqlstate::SqlState;
use crate::session::Tracker;
use crate::sql::lexer::Dialect;
use crate::sql::restore::restoring;
use crate::sql::session::{effects, Effect, Effects};

use super::super::core_state::Activity;
use super::super::server::{NOTE_COMMIT, NOTE_EFFECTS, NOTE_UNNAMED};
use super::inbound::CLIENT_BODY_BYTES_MAX;
use super::prepared::{commit_note, Amid};
use super::unnamed::Unnamed;
use super::{End, Relay, Session};

/// A statement is read whole, to see what it does to the session, up to this size. A larger one passes unread, and
/// its server is cleaned afterwards.
pub(super) const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Describe, Close and the names in Bind: PostgreSQL's names have 63 bytes.
pub(super) const NAMES_BYTES_MAX: usize = 64 * 1024;

/// What to do with a message.
enum Class {
    /// It passes as it is, and will be answered so.
    Pass(Option<Owed>),
    /// The same, and it may commit a transaction.
    Commit(Owed),
    /// It needs a hand.
    Alone,
    /// More of it has to come first.
    More,
    /// What it names depends on answers that have not come.
    Await,
    /// The client says goodbye.
    Terminate,
}

impl Relay<'_> {
    /// Passes on what has come, noting what each message will be answered. False: nothing could be passed.
    pub(super) fn pass_messages(&mut self) -> Result<bool, End> {
        let mut resting = self.server.exchange.is_resting();
        self.awaits = false;
        // Only the last batch may be sent again, and only if it is all that there was.
        self.session.retry = None;
        if self.session.timed_out && resting && self.server.target.is_settled() {
            self.session.timed_out = false; // that was another statement
        }
        let mut progress = self.session.inbound.pass_rest(&self.server.stream);
        while !self.session.inbound.is_amid_message() && !self.server.holds_behind() {
            let passed = self.pass_run()?;
            progress |= passed > 0;
            let Some(header) = self.session.inbound.next()? else {
                break;
            };
            self.admit_next(header.tag);
            match self.classify(header, self.session.inbound.bytes())? {
                Class::Alone => {
                    self.pass_alone(header)?;
                    progress = true;
                }
                Class::More => break,
                // Nothing will come that it could wait for.
                Class::Await if self.server.exchange.nothing_owed() => {
                    let text = "a message waits for an answer that nobody owes";
                    let code = SqlState::INTERNAL_ERROR;
                    return Err(End::Fatal(Error::fatal(Fault::Proxy, code, text)));
                }
                Class::Await => {
                    self.awaits = true;
                    break;
                }
                Class::Terminate => return Err(End::Left),
                Class::Pass(_) | Class::Commit(_) => {}
            }
        }
        if self.server.exchange.has_synthetic() {
            self.server.synthesize(self.session);
        }
        let Session { link, state, .. } = &*self.session;
        if progress {
            resting |= self.server.begin_behind();
            if resting {
                let now = state.core.now();
                let status = self.server.exchange.status();
                if let Some(idle) = self.server.link.meter.begin(now, status) {
                    let latencies = self.server.link.latencies();
                    latencies.record(Phase::IdleInTransaction, idle);
                }
                link.meter.begin(now);
                let meter = &self.server.link.meter;
                if meter.is_watched() {
                    meter.handed_over(elapsed(now, state.core.clock()));
                }
            }
            self.server.count_traffic();
        }
        if progress {
            self.follow_activity();
        }
        Ok(progress)
    }

    /// Something has passed: the client is active if that calls for an answer or is not all here. COPY data that comes after
    /// its COPY has failed, and what follows an error up to Sync, call for none.
    #[inline]
    fn follow_activity(&self) {
        let Session { link, state, .. } = &*self.session;
        let exchange = &self.server.exchange;
        let active = !exchange.nothing_owed() || self.session.inbound.is_amid_message();
        let was_active = link.activity.get() == Activity::Active;
        if active && !was_active {
            link.enter(Activity::Active, state.core.now());
        } else if !active && was_active && !exchange.at_rest() {
            link.enter(Activity::IdleInTransaction, state.core.now());
        }
    }

    /// Passes a run of messages that need no hand, in one piece.
    fn pass_run(&mut self) -> Result<usize, End> {
        // Taken out, so that its bytes can be read while the replies they call for are noted.
        let mut inbound = std::mem::take(&mut self.session.inbound);
        let passed = self.note_run(inbound.bytes());
        if let Ok(passed @ 1..) = passed {
            inbound.pass_messages(passed, &self.server.stream);
        }
        self.session.inbound = inbound;
        passed
    }

    /// Notes the messages at the front that need no hand; how many bytes they have, those still to come included.
    fn note_run(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        // The unnamed statement that was parsed and not bound yet: its definition.
        let mut unbound = None;
        let mut last = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(header) =
                peek(rest, CLIENT_BODY_BYTES_MAX).map_err(|error| End::Fatal(error.into()))?
            else {
                break;
            };
            self.admit(header.tag, rest);
            let (owed, mut note) = match self.classify(header, rest)? {
                Class::Pass(owed) => (owed, 0),
                Class::Commit(owed) => (Some(owed), NOTE_COMMIT),
                _ => break,
            };
            if self.session.audit.is_some() {
                self.audit(header, rest);
            }
            if ends_batch(header.tag) {
                self.admits.batch_ended();
            }
            match header.tag {
                _ if owed.is_none() => {}
                tag::PARSE => {
                    self.server
                        .link
                        .meter
                        .counters()
                        .count(Stat::ClientParseCount);
                    if rest.get(HEADER_BYTES) == Some(&0) {
                        self.session.unnamed = Unnamed::ParsedNow;
                        unbound = rest.get(HEADER_BYTES + 1..header.frame_bytes());
                        note |= NOTE_UNNAMED;
                    }
                }
                tag::BIND => self.remember_bound(unbound.take()),
                tag::SYNC | tag::QUERY => {
                    self.remember_unbound(unbound.take());
                    self.end_batch(header.tag);
                }
                tag::FUNCTION_CALL => {
                    self.remember_unbound(unbound.take());
                    self.end_batch(header.tag);
                    // The number of the function is here, the rest need not be.
                    let function = rest.get(HEADER_BYTES..).unwrap_or_default();
                    self.session.ties.note_call(function);
                }
                _ => {}
            }
            if let Some(owed) = owed {
                self.note(owed, Fate::Forward, note);
            }
            last = Some(header.tag);
            at += header.frame_bytes();
            if self.server.holds_behind() {
                break;
            }
        }
        if let Some(tag) = last {
            self.server.link.meter.sent(tag);
        }
        self.remember_unbound(unbound);
        Ok(at)
    }

    /// Looks at the batch in front, as far as it is here.
    fn admit_next(&mut self, first: u8) {
        if !self.may_admit(first) {
            return;
        }
        let inbound = std::mem::take(&mut self.session.inbound);
        self.admit(first, inbound.bytes());
        self.session.inbound = inbound;
    }

    pub(super) fn end_batch(&mut self, tag: u8) {
        if tag != tag::QUERY {
            if self.session.unnamed == Unnamed::ParsedNow {
                self.session.unnamed = Unnamed::Parsed;
            }
            return;
        }
        self.session.unnamed = Unnamed::None; // a Query drops it
        self.session.forget_unnamed();
    }

    pub(super) fn note(&mut self, owed: Owed, fate: Fate, note: Note) {
        self.note_with(owed, fate, note, None);
    }

    /// Notes a message that is about to be sent, and what it will do to the session.
    pub(super) fn note_with(
        &mut self,
        owed: Owed,
        fate: Fate,
        note: Note,
        effects: Option<Rc<Effects>>,
    ) {
        let note = note | effects.as_ref().map_or(0, |_| NOTE_EFFECTS);
        if !matches!(owed, Owed::Ready | Owed::Results) {
            let session = &mut *self.session;
            let answered = self.server.exchange.sent_with(owed, fate, note);
            if let (true, Some(effects), Some(tracker)) = (answered, effects, &mut session.tracker)
            {
                tracker.executed(effects);
            }
            return;
        }
        self.note_to_ready(owed, fate, note, effects, Box::default());
    }

    /// The same for a Sync or Query, among whose statements these are ours.
    fn note_to_ready(
        &mut self,
        owed: Owed,
        fate: Fate,
        note: Note,
        effects: Option<Rc<Effects>>,
        ours: Box<[u32]>,
    ) {
        let note = note | effects.as_ref().map_or(0, |_| NOTE_EFFECTS);
        if !self.server.sent_to_ready(owed, fate, note) {
            return;
        }
        let session = &mut *self.session;
        session.statements.sync();
        if let Some(tracker) = &mut session.tracker {
            if let Some(effects) = effects {
                tracker.queried(effects, ours);
            }
            tracker.sync();
        }
    }

    fn classify(&self, header: Header, available: &[u8]) -> Result<Class, End> {
        let whole = available.len() >= header.frame_bytes();
        let body = available
            .get(HEADER_BYTES..header.frame_bytes().min(available.len()))
            .unwrap_or_default();
        let (translates, tracks) = (self.session.translates(), self.session.tracker.is_some());
        Ok(match header.tag {
            tag::QUERY
            | tag::PARSE
            | tag::BIND
            | tag::DESCRIBE
            | tag::CLOSE
            | tag::EXECUTE
            | tag::SYNC
            | tag::FUNCTION_CALL
                if self.is_over() =>
            {
                Class::Await
            }
            // It has no effect, and no answer.
            tag::QUERY
            | tag::PARSE
            | tag::BIND
            | tag::DESCRIBE
            | tag::CLOSE
            | tag::EXECUTE
            | tag::FUNCTION_CALL
                if self.server.exchange.is_skipping() =>
            {
                Class::Pass(None)
            }
            tag::QUERY | tag::PARSE => {
                self.check_size(header, whole)?;
                let owed = if header.tag == tag::QUERY {
                    Owed::Results
                } else {
                    Owed::ParseComplete
                };
                if !whole && header.frame_bytes() <= READ_BYTES_MAX {
                    return Ok(Class::More);
                }
                if !whole && header.tag == tag::PARSE && !has_name(body) {
                    return Ok(Class::More);
                }
                if whole && self.session.begins_in_statement_mode(header.tag, body) {
                    return Ok(Class::Alone);
                }
                let renamed =
                    header.tag == tag::PARSE && self.session.renames(body.first() == Some(&0));
                if renamed && self.session.awaits_name(body) {
                    return Ok(Class::Await);
                }
                if renamed && self.awaits_recall() && self.asks(&self.effects(header.tag, body)) {
                    return Ok(Class::Await);
                }
                if !whole || renamed {
                    return Ok(Class::Alone);
                }
                let effects = self.effects(header.tag, body);
                let recalls = self.session.pools() && self.asks(&effects);
                if translates && self.session.awaits_names_of(&effects)
                    || recalls && self.awaits_recall()
                {
                    Class::Await
                } else if tracks || recalls || self.session.known.is_some() {
                    Class::Alone
                } else if effects.is_plain() {
                    Class::Pass(Some(owed))
                } else if !effects.only_transactions() || effects.resets() {
                    Class::Alone
                } else if effects.commits() {
                    Class::Commit(owed)
                } else {
                    Class::Pass(Some(owed))
                }
            }
            tag::BIND if translates => match statement_of_bind(body) {
                Some((_, [])) if self.waits_for_unnamed() => Class::Await,
                Some((_, [])) if !tracks && self.has_unnamed() => {
                    Class::Pass(Some(Owed::BindComplete))
                }
                Some(_) if tracks && !whole && header.frame_bytes() <= READ_BYTES_MAX => {
                    Class::More
                }
                Some((_, name)) if self.awaits_statement(name) || self.awaits_shape(name) => {
                    Class::Await
                }
                Some(_) => Class::Alone,
                None if whole || body.len() > NAMES_BYTES_MAX => {
                    Class::Pass(Some(Owed::BindComplete))
                }
                None => Class::More,
            },
            tag::DESCRIBE | tag::CLOSE if translates => {
                let owed = if header.tag == tag::DESCRIBE {
                    Owed::Description
                } else {
                    Owed::CloseComplete
                };
                match body {
                    _ if !whole && header.frame_bytes() <= NAMES_BYTES_MAX => Class::More,
                    [b'S', 0, ..] if self.waits_for_unnamed() => Class::Await,
                    [b'S', name @ .., 0] if whole && self.awaits_statement(name) => Class::Await,
                    [b'S', 0, ..] if whole && header.tag == tag::DESCRIBE && self.has_unnamed() => {
                        Class::Pass(Some(owed))
                    }
                    [b'S', ..] if whole => Class::Alone,
                    [b'P', ..] if tracks && header.tag == tag::CLOSE && whole => Class::Alone,
                    _ => Class::Pass(Some(owed)),
                }
            }
            tag::BIND if self.session.known.is_some() => match statement_of_bind(body) {
                Some(_) if !whole && header.frame_bytes() <= READ_BYTES_MAX => Class::More,
                Some(_) => Class::Alone,
                None if whole || body.len() > NAMES_BYTES_MAX => {
                    Class::Pass(Some(Owed::BindComplete))
                }
                None => Class::More,
            },
            tag::BIND => Class::Pass(Some(Owed::BindComplete)),
            tag::DESCRIBE => Class::Pass(Some(Owed::Description)),
            tag::CLOSE => Class::Pass(Some(Owed::CloseComplete)),
            tag::EXECUTE if tracks => {
                if !whole && header.frame_bytes() <= NAMES_BYTES_MAX {
                    return Ok(Class::More);
                }
                let effects = self.portal_effects(body);
                match effects.is_some_and(|effects| self.session.awaits_names_of(&effects)) {
                    true => Class::Await,
                    false => Class::Alone,
                }
            }
            tag::EXECUTE => Class::Pass(Some(Owed::Execution)),
            tag::SYNC if self.server.exchange.copying_in() && whole => Class::Alone,
            tag::SYNC => Class::Pass(Some(Owed::Ready)),
            tag::FUNCTION_CALL if !whole && body.len() < 4 => Class::More,
            tag::FUNCTION_CALL => Class::Pass(Some(Owed::Results)),
            tag::COPY_DONE | tag::COPY_FAIL => Class::Pass(Some(Owed::CopyEnd)),
            tag::FLUSH | tag::COPY_DATA => Class::Pass(None),
            tag::TERMINATE => Class::Terminate,
            other => {
                let what = format!("unexpected message '{}'", other.escape_ascii());
                return Err(End::Fatal(Error::protocol_violation(what)));
            }
        })
    }

    /// Is it open what the client's statement of this name means, or one that it names itself?
    fn awaits_statement(&self, name: &[u8]) -> bool {
        let statements = &self.session.statements;
        let effects = || {
            let statement = match name {
                [] if !self.session.renames(true) => self.unnamed(),
                name => statements.get(name).ok().cloned(),
            };
            statement?.effects(self.dialect())
        };
        if self.awaits_recall() && effects().is_some_and(|effects| self.asks(&effects)) {
            return true;
        }
        if !statements.awaits(None) {
            return false;
        }
        statements.awaits(Some(name))
            || effects().is_some_and(|effects| self.session.awaits_names_of(&effects))
    }

    fn check_size(&self, header: Header, whole: bool) -> Result<(), End> {
        // Said once, when it is all here.
        let says = whole || header.frame_bytes() > READ_BYTES_MAX;
        self.session.check_query_bytes(header, says)
    }

    /// What the statements of a Query or Parse do to the session.
    fn effects(&self, tag: u8, body: &[u8]) -> Effects {
        let text = if tag == tag::PARSE {
            Parse::parse(body).map_or(body, |parse| parse.query)
        } else {
            body.strip_suffix(b"\0").unwrap_or(body)
        };
        let audit = self.session.audit.as_deref();
        let begun = audit.and_then(|audit| audit.analysis_begins(&self.session.state));
        let effects = effects(text, self.dialect());
        if let Some((begun, limit)) = begun {
            self.analysed(text, begun, limit);
        }
        effects
    }

    /// Passes the next message on with what it needs.
    fn pass_alone(&mut self, header: Header) -> Result<(), End> {
        if header.tag == tag::SYNC {
            // Amid COPY data it means nothing.
            self.session.inbound.skip(header);
            return Ok(());
        }
        let told = match header.tag {
            tag::BIND => self.told_of_bind(header),
            _ => None,
        };
        if let Some((statement, _)) = &told {
            if self.asks_shape(statement) {
                return Ok(()); // it waits for the answer
            }
        }
        if self.session.audit.is_some() {
            self.audit_next(header);
        }
        if ends_batch(header.tag) {
            self.admits.batch_ended();
        }
        self.server.link.meter.sent(header.tag);
        if header.tag == tag::PARSE {
            self.server
                .link
                .meter
                .counters()
                .count(Stat::ClientParseCount);
        }
        if header.tag == tag::BIND {
            let stale = told.is_some_and(|(statement, told)| self.is_stale(&statement, told));
            return self.pass_bind(header, stale);
        }
        let whole = self.session.inbound.len() >= header.frame_bytes();
        if !whole {
            self.pass_unread(header);
            return Ok(());
        }
        let frame = self.session.inbound.take(header.frame_bytes());
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        match header.tag {
            tag if self.session.begins_in_statement_mode(tag, body) => self.refuse_begin(tag),
            tag::QUERY => self.pass_query(&frame, body),
            tag::PARSE => self.pass_parse(&frame, body)?,
            tag::EXECUTE => self.pass_execute(&frame, body),
            _ => self.pass_target(&frame, header.tag, body),
        }
        Ok(())
    }

    pub(super) fn send(&mut self, frame: &[u8], owed: Owed, note: Note) {
        self.note(owed, Fate::Forward, note);
        self.server.stream.write(frame);
    }

    /// What of a statement's effects must be followed through the pipeline.
    pub(super) fn track(&mut self, effects: Option<Rc<Effects>>) -> Option<Rc<Effects>> {
        let session = &mut *self.session;
        let effects = effects?;
        if session.tracker.is_none() {
            if !effects.sets() && !effects.resets() && !effects.makes_tables() {
                return None;
            }
            session.tracker = Some(Box::new(Tracker::new(session.statements.syncs())));
        }
        Some(effects)
    }

    fn pass_query(&mut self, frame: &[u8], body: &[u8]) {
        let effects = Rc::new(self.effects(tag::QUERY, body));
        self.end_batch(tag::QUERY);
        let Some(text) = body.strip_suffix(b"\0") else {
            // The server says what is wrong with it.
            return self.send(frame, Owed::Results, 0);
        };
        if self.session.translates() {
            if let Some(prepared) = self.prepare_by_sql(text, &effects) {
                return prepared;
            }
        }
        if self.pass_alone_and_restore(text, &effects) {
            return;
        }
        let baseline = self.session.settings.baseline();
        let restoring = restoring(text, &effects, self.dialect(), baseline);
        let (text, effects, ours) = match restoring {
            None => (Cow::Borrowed(text), effects, Box::default()),
            Some(with) => (Cow::Owned(with.text), Rc::new(with.effects), with.ours),
        };
        let (renamed, effects) = self.rename(&text, effects, Amid::Query);
        self.recall(&effects, Amid::Query);
        self.session.ties.note(&effects);
        let note = self.deallocate(&effects) | commit_note(&effects);
        let tracked = self.track(Some(effects));
        self.note_to_ready(Owed::Results, Fate::Forward, note, tracked, ours);
        let replaced = match text {
            _ if renamed.is_some() => renamed,
            Cow::Owned(text) => Some(text),
            Cow::Borrowed(_) => None,
        };
        match replaced {
            Some(text) => {
                let mut message = Vec::with_capacity(text.len() + HEADER_BYTES + 1);
                Query { text: &text }.encode(&mut message);
                self.server.stream.write(&message);
            }
            None => self.server.stream.write(frame),
        }
    }

    fn pass_parse(&mut self, frame: &[u8], body: &[u8]) -> Result<(), End> {
        let Ok(parse) = Parse::parse(body) else {
            // The server says what is wrong with it.
            self.send(frame, Owed::ParseComplete, 0);
            return Ok(());
        };
        if self.session.renames(parse.statement.is_empty()) {
            return self.parse_renamed(&parse);
        }
        let effects = Rc::new(self.effects(tag::PARSE, body));
        let (renamed, effects) = self.rename(parse.query, effects, Amid::Batch);
        self.recall(&effects, Amid::Batch);
        self.session.ties.note(&effects);
        self.session.know(parse.statement, &effects);
        if parse.statement.is_empty() {
            self.session.unnamed = Unnamed::ParsedNow;
            self.remember_unbound(Some(parse.content()));
            let tracked = self.track(Some(Rc::clone(&effects)));
            if let Some(tracker) = &mut self.session.tracker {
                tracker.parsed(tracked);
            }
        } else if effects.sets() && self.session.pools() {
            self.session.ties.note_unread(); // nobody will tell when it is executed
        }
        let note = match parse.statement.is_empty() {
            true => NOTE_UNNAMED,
            false => 0,
        };
        let Some(renamed) = renamed else {
            self.send(frame, Owed::ParseComplete, note);
            return Ok(());
        };
        let types = parse.content().get(parse.query.len() + 1..);
        let content = [&renamed, &b"\0"[..], types.unwrap_or_default()].concat();
        let mut message = Vec::new();
        Parse::encode_content(&mut message, parse.statement, &content);
        self.send(&message, Owed::ParseComplete, note);
        Ok(())
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.server.dialect
    }

    /// What an Execute will do.
    fn portal_effects(&self, body: &[u8]) -> Option<Rc<Effects>> {
        let tracker = self.session.tracker.as_ref()?;
        let end = memchr::memchr(0, body)?;
        tracker.portal(body.get(..end)?)
    }

    fn pass_execute(&mut self, frame: &[u8], body: &[u8]) {
        let effects = self.portal_effects(body);
        let note = effects
            .as_ref()
            .map_or(0, |effects| self.deallocate(effects));
        let restoring = effects.as_ref().map(|effects| self.restoring(effects));
        self.note_with(Owed::Execution, Fate::Forward, note, effects);
        self.server.stream.write(frame);
        self.restore(&restoring.unwrap_or_default());
    }
}

impl Session {
    /// Does it share servers with other clients?
    pub(super) fn pools(&self) -> bool {
        self.manner.mode != PoolerMode::Session
    }

    /// Is it open what the client's statement means whose name is in front of these bytes?
    fn awaits_name(&self, bytes: &[u8]) -> bool {
        let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
        self.statements.awaits(bytes.get(..end))
    }

    /// The same for statements that SQL names.
    fn awaits_names_of(&self, effects: &Effects) -> bool {
        effects.steps().iter().any(|step| match &step.effect {
            Effect::Prepare(at) | Effect::Execute(at) | Effect::Deallocate(at) => {
                self.statements.awaits(Some(&at.name))
            }
            Effect::DeallocateAll | Effect::DiscardAll => self.statements.awaits(None),
            _ => false,
        })
    }
}

/// Is the message the last one of its batch?
fn ends_batch(first: u8) -> bool {
    matches!(first, tag::QUERY | tag::SYNC | tag::FUNCTION_CALL)
}

/// Is the name of the statement here at the front of a Parse's body, or what is too long to be one?
fn has_name(body: &[u8]) -> bool {
    body.len() > NAMES_BYTES_MAX || memchr::memchr(0, body).is_some()
}

/// Portal and statement at the front of a Bind's body, if both are there.
pub(super) fn statement_of_bind(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let portal_end = memchr::memchr(0, body)?;
    let (portal, rest) = (body.get(..portal_end)?, body.get(portal_end + 1..)?);
    let statement_end = memchr::memchr(0, rest)?;
    Some((portal, rest.get(..statement_end)?))
}
