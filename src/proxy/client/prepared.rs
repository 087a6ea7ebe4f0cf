//! Prepared statements of a client: under which name its server has them, and that it has them in time.
//!
//! A statement's name on servers derives from what it is (`crate::prepared`). So messages that name one are rewritten,
//! and one that the server lacks is prepared in front of them: in the same batch, whose error is the client's, or, for
//! SQL in a Query, in a batch apart.

use std::rc::Rc;

use crate::config::choice::PreparedStatements;
use crate::error::Error;
use crate::prepared::server::Ensure;
use crate::prepared::{kept_name, Id, Statement};
use crate::protocol::exchange::{Fate, Note, Owed};
use crate::protocol::frame::{Frames, Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Bind, Execute, Parse, Query, Target, SYNC};
use crate::protocol::sqlstate::SqlState;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::Dialect;
use crate::sql::session::{Effect, Effects, NameAt};

use super::super::server::{Server, NOTE_CLIENT, NOTE_COMMIT, NOTE_SERVER};
use super::request::statement_of_bind;
use super::shapes::STALE;
use super::unnamed::Unnamed;
use super::{End, Relay, Session};

impl Relay<'_> {
    /// The shared statement of a Parse's content, as it means to this client at this moment.
    pub(super) fn intern(&self, content: &[u8]) -> Result<Rc<Statement>, Error> {
        let context = self.parse_context();
        let mut statements = self.session.state.statements.borrow_mut();
        statements.intern(content, &context)
    }

    /// What, besides its text, a statement's meaning depends on.
    fn parse_context(&self) -> Vec<u8> {
        let session = &*self.session;
        let mut context = Vec::new();
        session.settings.current().parse_context(&mut context);
        let dialect = self.dialect();
        if dialect != Dialect::default() {
            context.extend([b'd', dialect.backslashes.into(), dialect.overlapping.into()]);
        }
        let pending = session.tracker.as_ref();
        if pending.is_some_and(|tracker| tracker.is_pending()) {
            // Settings that it depends on may be about to change: nobody else can mean just this.
            context.extend_from_slice(b"pending");
            context.extend(session.link.key.process_id().to_be_bytes());
            context.extend(session.state.random::<8>());
        }
        context
    }

    /// Parse of a statement whose name on the server derives from what it is.
    pub(super) fn parse_renamed(&mut self, parse: &Parse<'_>) -> Result<(), End> {
        let statement = self.intern(parse.content()).map_err(|error| {
            End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            })
        })?;
        if let Some(does) = statement.effects(self.dialect()) {
            self.recall(&does, Amid::Batch);
        }
        let statements = &mut self.session.statements;
        match statements.prepare(parse.statement, Rc::clone(&statement)) {
            Ok(()) => {
                let named = !parse.statement.is_empty();
                self.parse_for_client(&statement, NOTE_CLIENT, named);
            }
            Err(error) if error.code == SqlState::OUT_OF_MEMORY => {
                return Err(End::Fatal(Error {
                    survives: crate::error::Survives::Nothing,
                    ..error
                }));
            }
            Err(_) => self.parse_twice(&statement),
        }
        Ok(())
    }

    /// The client has a statement of the name that it gives: the server has this one as soon as we say so, and its error
    /// ends the batch properly.
    pub(super) fn parse_twice(&mut self, statement: &Rc<Statement>) {
        self.ensure(statement);
        write_parse(self.server, &statement.server_name(), statement);
        self.note(Owed::ParseComplete, Fate::Forward, 0);
    }

    /// Answers a client's Parse: by the server, even if it has the statement, because since it was parsed there its
    /// tables may have changed. Only unnamed ones, which some clients parse for every execution, are then answered by
    /// us.
    fn parse_for_client(&mut self, statement: &Rc<Statement>, note: Note, named: bool) {
        let server = &mut *self.server;
        let id = statement.id();
        let mut ensure = server.ensure(id);
        if named && ensure == Ensure::Present {
            server.prepared.failed(id);
            ensure = server.prepared.ensure(id);
        }
        match ensure {
            Ensure::Present => {
                server
                    .exchange
                    .sent_with(Owed::ParseComplete, Fate::Synthesize, note);
            }
            Ensure::Prepare { evict } => {
                close(server, evict);
                parse(server, statement, Fate::Forward, note);
            }
            Ensure::Replace => {
                close(server, Some(id));
                parse(server, statement, Fate::Forward, note);
            }
        }
    }

    /// Sees to it that the server has the statement, in front of a message of the same batch that names it.
    pub(super) fn ensure(&mut self, statement: &Rc<Statement>) {
        let Some(evict) = self.missing(statement) else {
            return;
        };
        close(self.server, evict);
        if !statement.is_sql() {
            return parse(self.server, statement, Fate::Drop, 0);
        }
        self.execute_own(&prepare_text(statement), NOTE_SERVER, None);
    }

    /// Executes a statement of ours amid a batch, under a name that is in nobody's way.
    pub(super) fn execute_own(&mut self, text: &[u8], note: Note, effects: Option<Rc<Effects>>) {
        let mut messages = Vec::new();
        Parse::encode(&mut messages, OWN, text, []);
        Bind::encode(&mut messages, OWN, OWN, [], [], []);
        Execute {
            portal: OWN,
            rows_max: 0,
        }
        .encode(&mut messages);
        Target::Portal(OWN).encode_close(&mut messages);
        Target::Statement(OWN).encode_close(&mut messages);
        self.server.stream.write(&messages);
        self.note(Owed::ParseComplete, Fate::Drop, 0);
        self.note(Owed::BindComplete, Fate::Drop, 0);
        self.note_with(Owed::Execution, Fate::Drop, note, effects);
        self.note(Owed::CloseComplete, Fate::Drop, 0);
        self.note(Owed::CloseComplete, Fate::Drop, 0);
    }

    /// The same in front of a Query: an error is nobody's, and leaves the Query to fail by itself.
    pub(super) fn ensure_apart(&mut self, statement: &Rc<Statement>) {
        if self.server.exchange.is_unsynced() {
            return; // amid a batch, which a Sync of ours would end
        }
        let Some(evict) = self.missing(statement) else {
            return;
        };
        close(self.server, evict);
        if statement.is_sql() {
            let mut message = Vec::new();
            let text = prepare_text(statement);
            Query { text: &text }.encode(&mut message);
            self.server.stream.write(&message);
            self.server
                .sent_to_ready(Owed::Results, Fate::Drop, NOTE_SERVER);
        } else {
            parse(self.server, statement, Fate::Drop, 0);
            self.server.stream.write(&SYNC);
            self.server.sent_to_ready(Owed::Ready, Fate::Drop, 0);
        }
    }

    /// What to close before the statement is prepared on the server; `None` if the server has it.
    fn missing(&mut self, statement: &Statement) -> Option<Option<Id>> {
        match self.server.ensure(statement.id()) {
            Ensure::Present => None,
            Ensure::Prepare { evict } => Some(evict),
            Ensure::Replace => Some(Some(statement.id())),
        }
    }

    /// `PREPARE` in a Query of its own, with `prepared_statements = "full"`: the statement gets a name that derives
    /// from what it is. `None`: it is something else.
    pub(super) fn prepare_by_sql(&mut self, text: &[u8], effects: &Effects) -> Option<()> {
        let full = self.session.manner.prepared == PreparedStatements::Full;
        let ([step], 1, true) = (effects.steps(), effects.statements, full) else {
            return None;
        };
        let Effect::Prepare(at) = &step.effect else {
            return None;
        };
        let context = self.parse_context();
        let definition = text.get(at.end..)?;
        let interned = {
            let mut statements = self.session.state.statements.borrow_mut();
            statements.intern_sql(definition, &context).ok()?
        };
        let statements = &mut self.session.statements;
        let mut note = 0;
        if statements.get(&at.name).is_err() {
            statements.prepare(&at.name, Rc::clone(&interned)).ok()?;
            note = NOTE_CLIENT;
            let evict = match self.server.ensure(interned.id()) {
                Ensure::Prepare { evict } => evict,
                Ensure::Replace => Some(interned.id()),
                // Prepared anew: it is the server that reads it, and says that it is well.
                Ensure::Present => {
                    self.server.prepared.failed(interned.id());
                    self.server.prepared.ensure(interned.id());
                    Some(interned.id())
                }
            };
            close(self.server, evict);
            note |= NOTE_SERVER;
        } else {
            // The client has a statement of this name: the server says so of the name that it knows.
            self.ensure_apart(&interned);
        }
        let mut message = Vec::new();
        let text = [text.get(..at.start)?, &interned.server_name(), definition].concat();
        Query { text: &text }.encode(&mut message);
        self.note_with(Owed::Results, Fate::Forward, note, None);
        self.server.stream.write(&message);
        Some(())
    }

    /// `EXECUTE` and `DEALLOCATE` of statements that the client has by names that servers do not know: the text with
    /// the servers' names, if it names any, and what it does.
    pub(super) fn rename(
        &mut self,
        text: &[u8],
        effects: Rc<Effects>,
        amid: Amid,
    ) -> (Option<Vec<u8>>, Rc<Effects>) {
        self.rename_within(text, effects, amid, NESTED_MAX)
    }

    fn rename_within(
        &mut self,
        text: &[u8],
        effects: Rc<Effects>,
        amid: Amid,
        nested: usize,
    ) -> (Option<Vec<u8>>, Rc<Effects>) {
        if self.session.statements.is_empty() {
            return (None, effects);
        }
        let mut renamed = Vec::with_capacity(text.len() + 32);
        let mut done = 0;
        let (mut executed, mut among) = (None, Rc::clone(&effects));
        for step in effects.steps() {
            let (Effect::Execute(at) | Effect::Deallocate(at)) = &step.effect else {
                continue;
            };
            let Ok(mut statement) = self.session.statements.get(&at.name).cloned() else {
                continue;
            };
            if matches!(step.effect, Effect::Execute(_)) {
                let does;
                (statement, does) = self.translated(statement, amid, nested);
                match amid {
                    Amid::Batch => self.ensure(&statement),
                    Amid::Query => self.ensure_apart(&statement),
                }
                if let Some(does) = &does {
                    among = Rc::new(among.with_executed(step.statement, does));
                }
                executed = Some(does.unwrap_or_default());
            } else {
                self.ensure_name(&statement, amid);
            }
            let NameAt { start, end, .. } = *at;
            renamed.extend_from_slice(text.get(done..start).unwrap_or_default());
            renamed.extend_from_slice(&statement.server_name());
            done = end;
        }
        if done == 0 {
            return (None, effects);
        }
        renamed.extend_from_slice(text.get(done..).unwrap_or_default());
        // A plain EXECUTE does what its statement does.
        let plain = effects.verb == Keyword::Execute && effects.statements == 1;
        let effects = match executed {
            Some(executed) if plain => executed,
            // Among others, or within EXPLAIN: the server is the client's until that is undone, and is cleaned then.
            _ if !Rc::ptr_eq(&among, &effects) => {
                self.session.ties.note_unread();
                among
            }
            _ => effects,
        };
        (Some(renamed), effects)
    }

    /// A statement that is `EXECUTE` or `DEALLOCATE` of others, as the server has to read it at this moment; all others as
    /// they are. And what it does to the client's session.
    fn translated(
        &mut self,
        statement: Rc<Statement>,
        amid: Amid,
        nested: usize,
    ) -> (Rc<Statement>, Option<Rc<Effects>>) {
        let does = statement.effects(self.dialect());
        let named = does.as_ref().filter(|does| does.names_statements());
        let Some(named) = named.filter(|_| !statement.is_sql() && nested > 0) else {
            return (statement, does);
        };
        let text = statement.text();
        let named = Rc::clone(named);
        let (Some(renamed), effects) = self.rename_within(text, named, amid, nested - 1) else {
            return (statement, does);
        };
        let types = statement.definition().get(text.len()..);
        let content = [&renamed[..], types.unwrap_or_default()].concat();
        match self.intern(&content) {
            Ok(translated) => (translated, Some(effects)),
            Err(_) => (statement, does), // out of memory for statements: the server does not know the name
        }
    }

    /// Sees to it that the server has something of the statement's name, so that it can be deallocated.
    fn ensure_name(&mut self, statement: &Rc<Statement>, amid: Amid) {
        let unsynced = self.server.exchange.is_unsynced();
        if let Some(evict) = self.missing(statement) {
            close(self.server, evict);
            let mut message = Vec::new();
            Parse::encode_content(&mut message, &statement.server_name(), b"\0\0\0");
            self.server.stream.write(&message);
            self.server
                .exchange
                .sent_with(Owed::ParseComplete, Fate::Drop, NOTE_SERVER);
            if amid == Amid::Query && !unsynced {
                self.server.stream.write(&SYNC);
                self.server.sent_to_ready(Owed::Ready, Fate::Drop, 0);
            }
            self.server.prepared.failed(statement.id());
        }
    }

    /// Bind: only its head is rewritten, its values pass as they are. `stale`: the rows would be others than the client was told of.
    pub(super) fn pass_bind(&mut self, header: Header, stale: bool) -> Result<(), End> {
        let session = &*self.session;
        let frame = session.inbound.bytes();
        let frame = frame.get(..header.frame_bytes()).unwrap_or(frame);
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        let Some((portal, name)) = statement_of_bind(body) else {
            self.pass_bind_as(header, 0, None, 0);
            return Ok(());
        };
        let portal = portal.to_vec();
        let rest_at = HEADER_BYTES + portal.len() + 1 + name.len() + 1;
        if !session.renames(name.is_empty()) {
            let bound = if !self.session.translates() {
                let known = self.session.known.as_ref();
                known.and_then(|known| known.get(kept_name(name)).cloned())
            } else if self.has_unnamed() {
                let tracker = self.session.tracker.as_ref();
                tracker.and_then(|tracker| tracker.unnamed())
            } else if let Some(statement) = self.remembered() {
                self.parse_again(&statement);
                statement.effects(self.dialect())
            } else {
                // The server may have one, but it is another client's.
                self.pass_bind_as(header, rest_at, Some((&portal, NO_STATEMENT)), 0);
                return Ok(());
            };
            self.bind_effects(header, &portal, bound)?;
            self.pass_bind_as(header, 0, None, 0);
            return Ok(());
        }
        let Some(statement) = session.statements.get(name).ok().cloned() else {
            // The server does not know the name either, and says so.
            self.pass_bind_as(header, 0, None, 0);
            return Ok(());
        };
        if stale {
            self.pass_bind_as(header, rest_at, Some((&portal, STALE)), 0);
            return Ok(());
        }
        // Before anything of it is noted: is it all there is?
        let first = self.server.exchange.at_rest() || self.server.is_fresh_behind();
        let lone = first && self.session.tracker.is_none();
        self.session.retry = lone.then(|| self.lone_batch()).flatten();
        let (statement, effects) = self.translated(statement, Amid::Batch, NESTED_MAX);
        let mut note = 0;
        if let Some(effects) = &effects {
            self.recall(effects, Amid::Batch);
            note = commit_note(effects);
        }
        self.ensure(&statement);
        self.bind_effects(header, &portal, effects)?;
        self.pass_bind_as(
            header,
            rest_at,
            Some((&portal, &statement.server_name())),
            note,
        );
        Ok(())
    }

    /// The bytes in front, if they are one small batch of Bind, Describe of the portal, Execute and Sync, and
    /// nothing else. It can be sent again without harm as long as nothing of it was executed; and because it asks
    /// for the description of its rows, its client understands them whatever they are by then.
    fn lone_batch(&self) -> Option<Box<[u8]>> {
        let bytes = self.session.inbound.bytes();
        if bytes.len() > RETRY_BYTES_MAX {
            return None;
        }
        let mut frames = Frames::new(bytes, RETRY_BYTES_MAX);
        for expected in [tag::BIND, tag::DESCRIBE, tag::EXECUTE, tag::SYNC] {
            let frame = frames.next()?.ok()?;
            let of_portal = expected != tag::DESCRIBE || frame.body.first() == Some(&b'P');
            if frame.tag != expected || !of_portal {
                return None;
            }
        }
        (frames.at() == bytes.len()).then(|| bytes.into())
    }

    /// What the portal will do when it is executed.
    fn bind_effects(
        &mut self,
        header: Header,
        portal: &[u8],
        effects: Option<Rc<Effects>>,
    ) -> Result<(), End> {
        let effects = effects.map(|effects| {
            self.session.ties.note(&effects);
            if !effects.needs_arguments() {
                return effects;
            }
            let frame = self.session.inbound.bytes();
            let body = frame.get(HEADER_BYTES..header.frame_bytes());
            let arguments = body.and_then(|body| Bind::parse(body).ok()?.arguments().ok());
            Rc::new(effects.resolved(|number| arguments.as_ref()?.parameter(number)))
        });
        let tracked = self.track(effects);
        if let Some(tracker) = &mut self.session.tracker {
            tracker.bound(portal, tracked).map_err(End::Fatal)?;
        }
        Ok(())
    }

    /// Passes a Bind on, with other names than it came with if there are any: what they replace is `head_bytes`.
    fn pass_bind_as(
        &mut self,
        header: Header,
        head_bytes: usize,
        names: Option<(&[u8], &[u8])>,
        note: Note,
    ) {
        if let Some((portal, statement)) = names {
            let names_bytes = portal.len() + 1 + statement.len() + 1;
            let length = header.frame_bytes() - head_bytes + names_bytes + 4;
            let mut head = Vec::with_capacity(HEADER_BYTES + names_bytes);
            head.push(tag::BIND);
            head.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
            for name in [portal, statement] {
                head.extend_from_slice(name);
                head.push(0);
            }
            self.server.stream.write(&head);
            self.session.inbound.skip_bytes(head_bytes);
        }
        self.note(Owed::BindComplete, Fate::Forward, note);
        let rest = header.frame_bytes().saturating_sub(head_bytes);
        self.session
            .inbound
            .pass_messages(rest, &self.server.stream);
    }

    /// Describe or Close.
    pub(super) fn pass_target(&mut self, frame: &[u8], tag: u8, body: &[u8]) {
        let owed = match tag {
            tag::DESCRIBE => Owed::Description,
            _ => Owed::CloseComplete,
        };
        let name = match Target::parse(body) {
            Ok(Target::Statement(name)) => name,
            Ok(Target::Portal(portal)) => {
                if let Some(tracker) = &mut self.session.tracker {
                    tracker.closed(portal);
                }
                return self.send(frame, owed, 0);
            }
            Err(_) => return self.send(frame, owed, 0),
        };
        let renamed = self.session.renames(name.is_empty());
        if tag == tag::CLOSE {
            if !renamed {
                self.session.unnamed = Unnamed::None;
                self.session.forget_unnamed();
                return self.send(frame, owed, 0);
            }
            // Other clients may use it: the server keeps it until its own limit is met.
            self.session.statements.remove(name);
            self.server
                .exchange
                .sent_with(owed, Fate::Synthesize, NOTE_CLIENT);
            return;
        }
        let mut message = Vec::new();
        if renamed {
            let Some(statement) = self.session.statements.get(name).ok().cloned() else {
                return self.send(frame, owed, 0);
            };
            let named = statement.id();
            let (statement, _) = self.translated(statement, Amid::Batch, NESTED_MAX);
            self.ensure(&statement);
            Target::Statement(&statement.server_name()).encode_describe(&mut message);
            let mut note = 0;
            // Of EXECUTE it depends on what that names when it is executed.
            if statement.id() == named {
                self.server.prepared.describing(named);
                self.session.statements.describing(name);
                note = NOTE_SERVER | NOTE_CLIENT;
            }
            return self.send(&message, owed, note);
        }
        if !self.has_unnamed() {
            let Some(statement) = self.remembered() else {
                Target::Statement(NO_STATEMENT).encode_describe(&mut message);
                return self.send(&message, owed, 0);
            };
            self.parse_again(&statement);
        }
        self.send(frame, owed, 0);
    }

    /// The client's unnamed statement was parsed in an earlier batch, perhaps on another server.
    fn parse_again(&mut self, statement: &Statement) {
        if let Some(effects) = statement.effects(self.dialect()) {
            self.recall(&effects, Amid::Batch);
        }
        self.session.unnamed = Unnamed::ParsedNow;
        parse_as(self.server, b"", statement);
    }

    /// Statements that are about to be deallocated are so from here on. Answers the note for what does it; among
    /// several statements of a Query each counts when it is answered itself (`Session::statement_done`).
    pub(super) fn deallocate(&mut self, effects: &Effects) -> Note {
        let mut note = 0;
        let several = effects.statements > 1;
        for step in effects.steps() {
            match &step.effect {
                Effect::Deallocate(at) => {
                    let statement = self.session.statements.get(&at.name).ok().cloned();
                    if let Some(statement) = &statement {
                        self.server.prepared.failed(statement.id());
                    }
                    if statement.is_some() || several {
                        self.session.statements.remove(&at.name);
                        note = NOTE_CLIENT;
                    }
                }
                Effect::DeallocateAll | Effect::DiscardAll => {
                    self.server.prepared.forget_all();
                    self.session.statements.clear();
                    note = NOTE_CLIENT;
                }
                _ => {}
            }
        }
        if several {
            0
        } else {
            note
        }
    }
}

impl Session {
    /// Are names of prepared statements translated? Always where a statement may run on another server than that which has
    /// parsed it, though the client keeps all of them.
    pub(super) fn translates(&self) -> bool {
        let shared = self.pools() && self.manner.prepared != PreparedStatements::Disabled;
        shared || self.defers_transactions()
    }

    /// Does a statement have another name on the server?
    pub(super) fn renames(&self, unnamed: bool) -> bool {
        let anonymous = self.manner.prepared == PreparedStatements::ExtendedAnonymous;
        self.translates() && (!unnamed || anonymous)
    }
}

/// The note of what may commit a transaction.
pub(super) fn commit_note(effects: &Effects) -> Note {
    match effects.commits() {
        true => NOTE_COMMIT,
        false => 0,
    }
}

/// In front of what a statement is to be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amid {
    /// Messages of the extended protocol: in the same batch.
    Batch,
    /// A Query: in a batch apart.
    Query,
}

/// A batch up to this size is kept until it is answered, to be sent again if its plan is stale.
const RETRY_BYTES_MAX: usize = 8 * 1024;

/// A prepared EXECUTE of a prepared EXECUTE is followed so far. One of itself has no end: the server says so.
const NESTED_MAX: usize = 8;

/// No client has a statement of this name, and no server.
const NO_STATEMENT: &[u8] = b"__pgdog_unnamed";

fn close(server: &mut Server, id: Option<Id>) {
    let Some(id) = id else { return };
    let mut message = Vec::new();
    Target::Statement(&id.server_name()).encode_close(&mut message);
    server.stream.write(&message);
    server
        .exchange
        .sent_with(Owed::CloseComplete, Fate::Drop, NOTE_SERVER);
}

fn parse(server: &mut Server, statement: &Statement, fate: Fate, note: Note) {
    write_parse(server, &statement.server_name(), statement);
    server
        .exchange
        .sent_with(Owed::ParseComplete, fate, note | NOTE_SERVER);
}

/// Parse of ours under a name that the server's list of statements does not know.
fn parse_as(server: &mut Server, name: &[u8], statement: &Statement) {
    write_parse(server, name, statement);
    server.exchange.sent(Owed::ParseComplete, Fate::Drop);
}

fn write_parse(server: &Server, name: &[u8], statement: &Statement) {
    let mut message = Vec::new();
    Parse::encode_content(&mut message, name, statement.definition());
    server.write_messages(&message);
}

/// The text that prepares a statement made by SQL.
fn prepare_text(statement: &Statement) -> Vec<u8> {
    [
        b"PREPARE ",
        &statement.server_name()[..],
        b" ",
        statement.text(),
    ]
    .concat()
}

/// A name of ours for what is gone at once.
const OWN: &[u8] = b"__pgdog_prepare";
