//! A client's messages on their way to its server: what each will be answered, which name a prepared statement has
//! there, and what a statement does to the session.
//!
//! Most messages pass as they are, many in one piece. Those that name a prepared statement are rewritten, and
//! statements that touch the session are noticed; see `Judgement` for what follows.

use std::rc::Rc;

use crate::config::choice::{PoolerMode, PreparedStatements, QuerySizeAction};
use crate::error::{Error, Fault};
use crate::prepared::server::Ensure;
use crate::prepared::{Id, Prepared, Statement};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::exchange::{Fate, Note, Owed};
use crate::protocol::frame::{peek, Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Parse, Target};
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::sql::lexer::Dialect;
use crate::sql::session::{effects, Effect, Effects, NameAt};
use crate::sql::set::{Change, Scope};
use crate::sql::statements::Traits;

use super::super::core_state::Activity;
use super::super::server::{Server, NOTE_CLIENT, NOTE_SERVER};
use super::inbound::CLIENT_BODY_BYTES_MAX;
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
    /// It needs a hand.
    Alone,
    /// More of it has to come first.
    More,
    /// The client says goodbye.
    Terminate,
}

/// What follows for the server from a statement's effects on its session.
#[derive(Default)]
struct Judgement {
    /// State that only this server has, and that the client counts on: it keeps the server.
    pin: Option<&'static str>,
    /// State that must be gone before another client comes.
    scrub: bool,
    /// The settings go back to those of the session's start: all, or one.
    reset_all: bool,
    reset: Vec<Box<[u8]>>,
    deallocate: Option<NameAt>,
    deallocate_all: bool,
}

impl Relay<'_> {
    /// Passes on what has come, noting what each message will be answered. False: nothing could be passed.
    pub(super) fn pass_messages(&mut self) -> Result<bool, End> {
        let mut progress = self.session.inbound.pass_rest(&self.server.stream);
        while !self.session.inbound.is_amid_message() {
            let passed = self.pass_run()?;
            progress |= passed > 0;
            let Some(header) = self.session.inbound.next()? else {
                break;
            };
            match self.classify(header, self.session.inbound.bytes())? {
                Class::Alone => {
                    self.pass_alone(header)?;
                    progress = true;
                }
                Class::More => break,
                Class::Terminate => return Err(End::Left),
                Class::Pass(_) => {}
            }
        }
        if self.server.exchange.has_synthetic() {
            self.server.synthesize(self.session);
        }
        let Session { link, state, .. } = &*self.session;
        if progress && link.activity.get() != Activity::Active {
            link.enter(Activity::Active, state.core.now());
        }
        Ok(progress)
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
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(header) =
                peek(rest, CLIENT_BODY_BYTES_MAX).map_err(|error| End::Fatal(error.into()))?
            else {
                break;
            };
            let Class::Pass(owed) = self.classify(header, rest)? else {
                break;
            };
            if let Some(owed) = owed {
                self.note(owed, Fate::Forward, 0);
            }
            at += header.frame_bytes();
        }
        Ok(at)
    }

    fn note(&mut self, owed: Owed, fate: Fate, note: Note) {
        let server = &mut *self.server;
        match owed {
            Owed::Ready | Owed::Results => {
                if server.sent_to_ready(owed, fate) {
                    self.session.statements.sync();
                }
            }
            _ => {
                server.exchange.sent_with(owed, fate, note);
            }
        }
    }

    fn classify(&self, header: Header, available: &[u8]) -> Result<Class, End> {
        let whole = available.len() >= header.frame_bytes();
        let body = available
            .get(HEADER_BYTES..header.frame_bytes().min(available.len()))
            .unwrap_or_default();
        let translates = self.session.translates();
        Ok(match header.tag {
            tag::QUERY | tag::PARSE => {
                self.check_size(header, whole)?;
                let owed = if header.tag == tag::QUERY {
                    Owed::Results
                } else {
                    Owed::ParseComplete
                };
                if self.session.slot.config.mode == PoolerMode::Session {
                    return Ok(Class::Pass(Some(owed)));
                }
                if !whole && header.frame_bytes() <= READ_BYTES_MAX {
                    return Ok(Class::More);
                }
                let named = header.tag == tag::PARSE && body.first() != Some(&0);
                if !whole || named && translates || !self.effects(header.tag, body).is_plain() {
                    return Ok(Class::Alone);
                }
                Class::Pass(Some(owed))
            }
            tag::BIND if translates => match statement_of_bind(body) {
                Some((_, [])) => Class::Pass(Some(Owed::BindComplete)),
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
                    [b'S', first, ..] if *first != 0 && whole => Class::Alone,
                    _ => Class::Pass(Some(owed)),
                }
            }
            tag::BIND => Class::Pass(Some(Owed::BindComplete)),
            tag::DESCRIBE => Class::Pass(Some(Owed::Description)),
            tag::CLOSE => Class::Pass(Some(Owed::CloseComplete)),
            tag::EXECUTE => Class::Pass(Some(Owed::Execution)),
            tag::SYNC => Class::Pass(Some(Owed::Ready)),
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

    fn check_size(&self, header: Header, whole: bool) -> Result<(), End> {
        let clients = &self.session.state.config.clients;
        let Some(max) = clients.query_bytes_max else {
            return Ok(());
        };
        let bytes = header.frame_bytes() as u64;
        if bytes <= max {
            return Ok(());
        }
        if clients.query_size_action != QuerySizeAction::Block {
            let client = self.session.link.key.process_id();
            if !whole && header.frame_bytes() <= READ_BYTES_MAX {
                return Ok(()); // said once, when it is all here
            }
            tracing::warn!(
                client,
                "query of {bytes} bytes exceeds query_size_limit ({max})"
            );
            return Ok(());
        }
        let text = format!("query of {bytes} bytes exceeds query_size_limit ({max})");
        Err(End::Fatal(Error::fatal(
            Fault::Client,
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            text,
        )))
    }

    /// What the statements of a Query or Parse do to the session.
    fn effects(&self, tag: u8, body: &[u8]) -> Effects {
        let text = if tag == tag::PARSE {
            Parse::parse(body).map_or(body, |parse| parse.query)
        } else {
            body.strip_suffix(b"\0").unwrap_or(body)
        };
        effects(text, dialect(&self.server.reported))
    }

    /// Passes the next message on with what it needs.
    fn pass_alone(&mut self, header: Header) -> Result<(), End> {
        if header.tag == tag::BIND {
            self.pass_bind(header);
            return Ok(());
        }
        let whole = self.session.inbound.len() >= header.frame_bytes();
        if !whole {
            // Too large to be read: whatever it does will be undone before the next client comes.
            self.session.scrub = true;
            let owed = if header.tag == tag::QUERY {
                Owed::Results
            } else {
                Owed::ParseComplete
            };
            self.note(owed, Fate::Forward, 0);
            self.session
                .inbound
                .pass_messages(header.frame_bytes(), &self.server.stream);
            return Ok(());
        }
        let frame = self.session.inbound.take(header.frame_bytes());
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        match header.tag {
            tag::QUERY => self.pass_query(&frame, body),
            tag::PARSE => self.pass_parse(&frame, body)?,
            _ => self.pass_target(&frame, header.tag, body),
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8], owed: Owed, note: Note) {
        self.note(owed, Fate::Forward, note);
        self.server.stream.write(frame);
    }

    fn pass_query(&mut self, frame: &[u8], body: &[u8]) {
        let effects = self.effects(tag::QUERY, body);
        let judgement = self.judge(&effects);
        if let Some((text, at)) = body.strip_suffix(b"\0").zip(judgement.deallocate.as_ref()) {
            if let Some(renamed) = self.deallocate(text, at) {
                let mut message = Vec::new();
                crate::protocol::frontend::Query { text: &renamed }.encode(&mut message);
                return self.send(&message, Owed::Results, 0);
            }
        }
        self.send(frame, Owed::Results, 0);
    }

    fn pass_parse(&mut self, frame: &[u8], body: &[u8]) -> Result<(), End> {
        let Ok(parse) = Parse::parse(body) else {
            // The server says what is wrong with it.
            self.send(frame, Owed::ParseComplete, 0);
            return Ok(());
        };
        let effects = self.effects(tag::PARSE, body);
        let judgement = self.judge(&effects);
        if parse.statement.is_empty() || !self.session.translates() {
            if let Some(at) = &judgement.deallocate {
                if let Some(renamed) = self.deallocate(parse.query, at) {
                    let mut message = Vec::new();
                    let types = parse
                        .content()
                        .get(parse.query.len() + 1..)
                        .unwrap_or_default();
                    let content = [&renamed, &b"\0"[..], types].concat();
                    Parse::encode_content(&mut message, parse.statement, &content);
                    self.send(&message, Owed::ParseComplete, 0);
                    return Ok(());
                }
            }
            self.send(frame, Owed::ParseComplete, 0);
            return Ok(());
        }
        let context = parse_context(&self.session.settings);
        let interned = self
            .session
            .state
            .statements
            .borrow_mut()
            .intern(parse.content(), &context);
        let statement = interned.map_err(|error| {
            End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            })
        })?;
        match self
            .session
            .statements
            .prepare(parse.statement, Rc::clone(&statement))
        {
            Ok(prepared) => {
                let note = if prepared == Prepared::New {
                    NOTE_CLIENT
                } else {
                    0
                };
                self.parse_for_client(&statement, note);
            }
            Err(_) => {
                // The server has a statement of that name as soon as we say so: its error ends the batch properly.
                self.ensure(&statement);
                let mut message = Vec::new();
                Parse::encode_content(
                    &mut message,
                    &statement.server_name(),
                    statement.definition(),
                );
                self.send(&message, Owed::ParseComplete, 0);
            }
        }
        Ok(())
    }

    /// Answers a client's Parse: by the server if it does not have the statement, otherwise by us.
    fn parse_for_client(&mut self, statement: &Rc<Statement>, note: Note) {
        let server = &mut *self.server;
        match server.prepared.ensure(statement.id()) {
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
                close(server, Some(statement.id()));
                parse(server, statement, Fate::Forward, note);
            }
        }
    }

    /// Sees to it that the server has the statement, in front of a message that names it.
    fn ensure(&mut self, statement: &Rc<Statement>) {
        let server = &mut *self.server;
        match server.prepared.ensure(statement.id()) {
            Ensure::Present => {}
            Ensure::Prepare { evict } => {
                close(server, evict);
                parse(server, statement, Fate::Drop, 0);
            }
            Ensure::Replace => {
                close(server, Some(statement.id()));
                parse(server, statement, Fate::Drop, 0);
            }
        }
    }

    /// Bind: only its head is rewritten, its values pass as they are.
    fn pass_bind(&mut self, header: Header) {
        let bytes = self.session.inbound.bytes();
        let names = bytes.get(HEADER_BYTES..).and_then(statement_of_bind);
        let known = names.and_then(|(portal, name)| {
            let statement = self.session.statements.get(name).ok()?;
            Some((portal.to_vec(), name.len(), Rc::clone(statement)))
        });
        let Some((portal, name_bytes, statement)) = known else {
            // The server does not know the name either, and says so.
            self.note(Owed::BindComplete, Fate::Forward, 0);
            return self
                .session
                .inbound
                .pass_messages(header.frame_bytes(), &self.server.stream);
        };
        self.ensure(&statement);
        let name = statement.server_name();
        let head_bytes = HEADER_BYTES + portal.len() + 1 + name_bytes + 1;
        let length = header.body_bytes + 4 - name_bytes + name.len();
        let mut head = Vec::with_capacity(HEADER_BYTES + portal.len() + 1 + name.len() + 1);
        head.push(tag::BIND);
        head.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        head.extend_from_slice(&portal);
        head.push(0);
        head.extend_from_slice(&name);
        head.push(0);
        self.server.stream.write(&head);
        self.note(Owed::BindComplete, Fate::Forward, 0);
        drop(self.session.inbound.take(head_bytes));
        self.session.inbound.pass_messages(
            header.frame_bytes().saturating_sub(head_bytes),
            &self.server.stream,
        );
    }

    /// Describe or Close of a named statement.
    fn pass_target(&mut self, frame: &[u8], tag: u8, body: &[u8]) {
        let Ok(Target::Statement(name)) = Target::parse(body) else {
            let owed = if tag == tag::DESCRIBE {
                Owed::Description
            } else {
                Owed::CloseComplete
            };
            return self.send(frame, owed, 0);
        };
        if tag == tag::CLOSE {
            // Other clients may use it: the server keeps it until its own limit is met.
            self.session.statements.remove(name);
            self.server
                .exchange
                .sent_with(Owed::CloseComplete, Fate::Synthesize, NOTE_CLIENT);
            return;
        }
        let Ok(statement) = self.session.statements.get(name).cloned() else {
            return self.send(frame, Owed::Description, 0);
        };
        self.ensure(&statement);
        let mut message = Vec::new();
        Target::Statement(&statement.server_name()).encode_describe(&mut message);
        self.send(&message, Owed::Description, 0);
    }

    /// `DEALLOCATE name` of a statement that the client prepared by protocol: the same for its name on the server.
    fn deallocate(&mut self, text: &[u8], at: &NameAt) -> Option<Vec<u8>> {
        let statement = self.session.statements.get(&at.name).ok().cloned()?;
        self.ensure(&statement);
        let settled = self.server.exchange.nothing_owed();
        self.session.statements.remove(&at.name);
        if settled {
            self.session.statements.succeeded();
        }
        self.server.prepared.failed(statement.id());
        Some(
            [
                text.get(..at.start)?,
                &statement.server_name(),
                text.get(at.end..)?,
            ]
            .concat(),
        )
    }

    /// Draws the conclusions from a statement's effects that concern this session and server.
    fn judge(&mut self, effects: &Effects) -> Judgement {
        let judgement = Judgement::of(effects, &self.server.reported);
        let session = &mut *self.session;
        if let Some(reason) = judgement.pin {
            if session.pinned.is_none() {
                tracing::debug!(
                    client = session.link.key.process_id(),
                    reason,
                    "client keeps its server"
                );
            }
            session.pinned = Some(reason);
        }
        session.scrub |= judgement.scrub || judgement.pin.is_some();
        if judgement.reset_all || !judgement.reset.is_empty() {
            if self.server.exchange.status() != TransactionStatus::Idle {
                // It may yet be rolled back: the server knows, we would have to guess.
                session.pinned = Some("reset in a transaction");
            }
            let resets = session.resets.get_or_insert_default();
            resets.all |= judgement.reset_all;
            resets.names.extend(judgement.reset.iter().cloned());
        }
        if judgement.deallocate_all {
            self.server.prepared.forget_all();
            let settled = self.server.exchange.nothing_owed();
            session.statements.clear();
            if settled {
                session.statements.succeeded();
            }
        }
        judgement
    }
}

impl Judgement {
    fn of(effects: &Effects, reported: &Parameters) -> Self {
        let mut judgement = Self::default();
        for step in effects.steps() {
            judgement.add(&step.effect, reported, effects.statements == 1);
        }
        if effects.traits.has(Traits::LOCKS) {
            judgement.pin = Some("advisory lock");
        }
        if effects.traits.has(Traits::TEMPORARY) {
            judgement.pin = Some("temporary object");
        }
        judgement.scrub |=
            effects.traits.has(Traits::OPAQUE) || effects.traits.has(Traits::MALFORMED);
        judgement
    }

    fn add(&mut self, effect: &Effect, reported: &Parameters, alone: bool) {
        match effect {
            Effect::Setting(Change::Set {
                scope: Scope::Local,
                ..
            }) => {}
            Effect::Setting(Change::Set {
                name, value: None, ..
            }) => {
                self.scrub = true;
                self.reset.push(name.to_vec().into());
            }
            // The server reports it, so that we hear of it, and of its end if the transaction fails.
            Effect::Setting(Change::Set { name, .. })
                if Parameters::is_settable(name) && reported.get(name).is_some() => {}
            Effect::Setting(Change::Set { .. })
            | Effect::SettingsUnknown
            | Effect::SetConfig(_) => self.pin = Some("setting"),
            Effect::Setting(Change::ResetAll) => {
                self.scrub = true;
                self.reset_all = true;
            }
            Effect::DiscardAll => {
                self.scrub = true;
                self.reset_all = true;
                self.deallocate_all = true;
            }
            Effect::DeallocateAll => self.deallocate_all = true,
            Effect::Deallocate(name) if alone => self.deallocate = Some(name.clone()),
            Effect::Prepare(_) => self.pin = Some("prepared statement"),
            Effect::Declare { hold: true, .. } => self.pin = Some("cursor"),
            Effect::Listen(_) => self.pin = Some("listen"),
            Effect::Temporary => self.pin = Some("temporary object"),
            Effect::Load => self.pin = Some("library"),
            _ => {}
        }
    }
}

/// Settings that a statement has put back to the server's own values, where the client expects those of the start
/// of its session.
#[derive(Default)]
pub(super) struct Resets {
    all: bool,
    names: Vec<Box<[u8]>>,
}

impl Session {
    /// The server has done what the client's RESET said: from here on the client has what it began with.
    pub(super) fn finish_resets(&mut self) {
        let Some(resets) = self.resets.take() else {
            return;
        };
        if resets.all {
            self.settings = Rc::clone(&self.baseline);
            return;
        }
        let mut settings = (*self.settings).clone();
        for name in &resets.names {
            match self.baseline.get(name) {
                Some(value) => settings.set(name, value),
                None => settings.remove(name),
            };
        }
        self.settings = Rc::new(settings);
    }

    /// Are names of prepared statements translated?
    fn translates(&self) -> bool {
        self.slot.config.mode != PoolerMode::Session
            && self.state.config.prepared.level != PreparedStatements::Disabled
    }
}

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
    let mut message = Vec::new();
    Parse::encode_content(
        &mut message,
        &statement.server_name(),
        statement.definition(),
    );
    server.stream.write(&message);
    server
        .exchange
        .sent_with(Owed::ParseComplete, fate, note | NOTE_SERVER);
}

/// Portal and statement at the front of a Bind's body, if both are there.
fn statement_of_bind(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let portal_end = memchr::memchr(0, body)?;
    let (portal, rest) = (body.get(..portal_end)?, body.get(portal_end + 1..)?);
    let statement_end = memchr::memchr(0, rest)?;
    Some((portal, rest.get(..statement_end)?))
}

pub(super) fn dialect(reported: &Parameters) -> Dialect {
    let get = |name| reported.get(name).unwrap_or_default();
    Dialect::of(get("standard_conforming_strings"), get("client_encoding"))
}

/// Settings that decide what a literal means when a statement is parsed: part of what the statement is.
fn parse_context(settings: &Parameters) -> Vec<u8> {
    const READ_BY_PARSER: [&str; 5] = [
        "client_encoding",
        "DateStyle",
        "IntervalStyle",
        "standard_conforming_strings",
        "TimeZone",
    ];
    let mut context = Vec::new();
    for name in READ_BY_PARSER {
        if let Some(value) = settings.get(name) {
            context.extend_from_slice(name.as_bytes());
            context.push(b'=');
            context.extend_from_slice(value);
            context.push(0);
        }
    }
    context
}
