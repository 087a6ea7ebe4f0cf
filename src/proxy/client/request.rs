//! A client's messages on their way to its server: what each will be answered, which name a prepared statement has
//! there, and what a statement does to the session.
//!
//! Most messages pass as they are, many in one piece. Those that name a prepared statement are rewritten, and
//! statements that touch the session are followed until they are answered: see `session`.

use std::rc::Rc;

use crate::config::choice::{PoolerMode, PreparedStatements, QuerySizeAction};
use crate::error::{Error, Fault};
use crate::prepared::server::Ensure;
use crate::prepared::{Id, Prepared, Statement};
use crate::protocol::exchange::{Fate, Note, Owed};
use crate::protocol::frame::{peek, Frames, Header, HEADER_BYTES};
use crate::protocol::frontend::{tag, Bind, Parse, Query, Target};
use crate::protocol::sqlstate::SqlState;
use crate::session::Tracker;
use crate::sql::lexer::Dialect;
use crate::sql::session::{effects, Effect, Effects, NameAt};

use super::super::core_state::Activity;
use super::super::server::{Server, NOTE_CLIENT, NOTE_COMMIT, NOTE_EFFECTS, NOTE_SERVER};
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
    /// The same, and it may commit a transaction.
    Commit(Owed),
    /// It needs a hand.
    Alone,
    /// More of it has to come first.
    More,
    /// The client says goodbye.
    Terminate,
}

/// What is known of the unnamed prepared statement on the server that a client has. It is not the client's own by
/// nature: the server may have another client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unnamed {
    /// Nothing.
    #[default]
    None,
    /// The client has parsed one since it has this server.
    Parsed,
    /// And in this batch.
    ParsedNow,
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
                Class::Pass(_) | Class::Commit(_) => {}
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
        // The unnamed statement that was parsed and not bound yet: its definition.
        let mut unbound = None;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(header) =
                peek(rest, CLIENT_BODY_BYTES_MAX).map_err(|error| End::Fatal(error.into()))?
            else {
                break;
            };
            let (owed, note) = match self.classify(header, rest)? {
                Class::Pass(owed) => (owed, 0),
                Class::Commit(owed) => (Some(owed), NOTE_COMMIT),
                _ => break,
            };
            match header.tag {
                tag::PARSE => {
                    self.session.unnamed = Unnamed::ParsedNow;
                    unbound = rest.get(HEADER_BYTES + 1..header.frame_bytes());
                }
                tag::BIND if unbound.is_some() => {
                    unbound = None;
                    self.session.unbound = None;
                }
                tag::SYNC | tag::QUERY => {
                    self.remember_unbound(unbound.take());
                    self.end_batch(header.tag);
                }
                _ => {}
            }
            if let Some(owed) = owed {
                self.note(owed, Fate::Forward, note);
            }
            at += header.frame_bytes();
        }
        self.remember_unbound(unbound);
        Ok(at)
    }

    /// Remembers an unnamed statement that may be bound in a later batch, when the client may have another server.
    fn remember_unbound(&mut self, definition: Option<&[u8]>) {
        if let Some(definition) = definition.filter(|_| self.session.pools()) {
            // One that is malformed is none: the server says so.
            self.session.unbound = self.intern(definition).ok();
            self.session.unbound_in = self.session.statements.syncs() + 1;
        }
    }

    fn end_batch(&mut self, tag: u8) {
        self.session.unnamed = match (tag, self.session.unnamed) {
            (tag::SYNC, Unnamed::ParsedNow) => Unnamed::Parsed,
            (tag::SYNC, unnamed) => unnamed,
            _ => Unnamed::None, // a Query drops it
        };
    }

    fn note(&mut self, owed: Owed, fate: Fate, note: Note) {
        self.note_with(owed, fate, note, None);
    }

    /// Notes a message that is about to be sent, and what it will do to the session.
    fn note_with(&mut self, owed: Owed, fate: Fate, note: Note, effects: Option<Rc<Effects>>) {
        let note = note | effects.as_ref().map_or(0, |_| NOTE_EFFECTS);
        let session = &mut *self.session;
        if !matches!(owed, Owed::Ready | Owed::Results) {
            let answered = self.server.exchange.sent_with(owed, fate, note);
            if let (true, Some(effects), Some(tracker)) = (answered, effects, &mut session.tracker)
            {
                tracker.executed(effects);
            }
            return;
        }
        if !self.server.sent_to_ready(owed, fate, note) {
            return;
        }
        session.statements.sync();
        if let Some(tracker) = &mut session.tracker {
            if let Some(effects) = effects {
                tracker.queried(effects);
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
                let renamed =
                    header.tag == tag::PARSE && self.session.renames(body.first() == Some(&0));
                if !whole || renamed || tracks {
                    return Ok(Class::Alone);
                }
                let effects = self.effects(header.tag, body);
                if effects.is_plain() {
                    Class::Pass(Some(owed))
                } else if !effects.only_transactions() {
                    Class::Alone
                } else if effects.commits() {
                    Class::Commit(owed)
                } else {
                    Class::Pass(Some(owed))
                }
            }
            tag::BIND if translates => match statement_of_bind(body) {
                Some((_, [])) if self.waits_for_unnamed() => Class::More,
                Some((_, [])) if !tracks && self.has_unnamed() => {
                    Class::Pass(Some(Owed::BindComplete))
                }
                Some(_) if tracks && !whole && header.frame_bytes() <= READ_BYTES_MAX => {
                    Class::More
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
                    [b'S', 0, ..] if self.waits_for_unnamed() => Class::More,
                    [b'S', first, ..] if whole && (*first != 0 || !self.has_unnamed()) => {
                        Class::Alone
                    }
                    [b'P', ..] if tracks && header.tag == tag::CLOSE && whole => Class::Alone,
                    _ => Class::Pass(Some(owed)),
                }
            }
            tag::BIND => Class::Pass(Some(Owed::BindComplete)),
            tag::DESCRIBE => Class::Pass(Some(Owed::Description)),
            tag::CLOSE => Class::Pass(Some(Owed::CloseComplete)),
            tag::EXECUTE if tracks => {
                if !whole && header.frame_bytes() <= NAMES_BYTES_MAX {
                    return Ok(Class::More);
                }
                Class::Alone
            }
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
        effects(text, self.dialect())
    }

    /// Does the server have this client's unnamed statement for certain?
    fn has_unnamed(&self) -> bool {
        match self.session.unnamed {
            _ if !self.session.pools() => true,
            Unnamed::ParsedNow => !self.session.renames(true),
            Unnamed::Parsed => self.server.exchange.nothing_owed(),
            Unnamed::None => false,
        }
    }

    /// Was the unnamed statement parsed in an earlier batch of which nobody knows yet whether it failed?
    fn waits_for_unnamed(&self) -> bool {
        let session = &*self.session;
        session.unnamed != Unnamed::ParsedNow && session.unbound_in > 0 && !session.renames(true)
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
            let owed = match header.tag {
                tag::QUERY => Owed::Results,
                tag::PARSE => Owed::ParseComplete,
                _ => Owed::Execution,
            };
            if owed != Owed::Execution {
                self.session.ties.note_unread();
            }
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
            tag::EXECUTE => self.pass_execute(&frame, body),
            _ => self.pass_target(&frame, header.tag, body),
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8], owed: Owed, note: Note) {
        self.note(owed, Fate::Forward, note);
        self.server.stream.write(frame);
    }

    /// What of a statement's effects must be followed through the pipeline.
    fn track(&mut self, effects: Option<Rc<Effects>>) -> Option<Rc<Effects>> {
        let session = &mut *self.session;
        let effects = effects?;
        if session.tracker.is_none() {
            if !effects.sets() {
                return None;
            }
            session.tracker = Some(Box::new(Tracker::new(session.statements.syncs())));
        }
        Some(effects)
    }

    fn pass_query(&mut self, frame: &[u8], body: &[u8]) {
        let effects = Rc::new(self.effects(tag::QUERY, body));
        self.session.ties.note(&effects);
        self.end_batch(tag::QUERY);
        let mut renamed = None;
        if let ([step], Some(text)) = (effects.steps(), body.strip_suffix(b"\0")) {
            if let (Effect::Deallocate(at), 1) = (&step.effect, effects.statements) {
                renamed = self.rename(text, at);
            }
        }
        let note = self.deallocate(&effects) | commit_note(&effects);
        let tracked = self.track(Some(effects));
        self.note_with(Owed::Results, Fate::Forward, note, tracked);
        match renamed {
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
        self.session.ties.note(&effects);
        if parse.statement.is_empty() {
            self.session.unnamed = Unnamed::ParsedNow;
            self.remember_unbound(Some(parse.content()));
            let tracked = self.track(Some(Rc::clone(&effects)));
            if let Some(tracker) = &mut self.session.tracker {
                tracker.parsed(tracked);
            }
        } else if effects.sets() {
            self.session.ties.note_unread(); // nobody will tell when it is executed
        }
        if let [step] = effects.steps() {
            if let Effect::Deallocate(at) = &step.effect {
                if let Some(renamed) = self.rename(parse.query, at) {
                    let types = parse.content().get(parse.query.len() + 1..);
                    let content = [&renamed, &b"\0"[..], types.unwrap_or_default()].concat();
                    let mut message = Vec::new();
                    Parse::encode_content(&mut message, parse.statement, &content);
                    self.send(&message, Owed::ParseComplete, 0);
                    return Ok(());
                }
            }
        }
        self.send(frame, Owed::ParseComplete, 0);
        Ok(())
    }

    /// The shared statement of a Parse's content, as it means to this client at this moment.
    fn intern(&self, content: &[u8]) -> Result<Rc<Statement>, Error> {
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
        let mut statements = session.state.statements.borrow_mut();
        statements.intern(content, &context)
    }

    fn dialect(&self) -> Dialect {
        let get = |name| self.server.reported.get(name).unwrap_or_default();
        Dialect::of(get("standard_conforming_strings"), get("client_encoding"))
    }

    /// Parse of a statement whose name on the server derives from what it is.
    fn parse_renamed(&mut self, parse: &Parse<'_>) -> Result<(), End> {
        let statement = self.intern(parse.content()).map_err(|error| {
            End::Fatal(Error {
                survives: crate::error::Survives::Nothing,
                ..error
            })
        })?;
        let statements = &mut self.session.statements;
        match statements.prepare(parse.statement, Rc::clone(&statement)) {
            Ok(prepared) => {
                let note = match prepared {
                    Prepared::New => NOTE_CLIENT,
                    Prepared::Same => 0,
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
        let session = &mut *self.session;
        let frame = session.inbound.bytes();
        let frame = frame.get(..header.frame_bytes()).unwrap_or(frame);
        let body = frame.get(HEADER_BYTES..).unwrap_or_default();
        let Some((portal, name)) = statement_of_bind(body) else {
            return self.pass_bind_as(header, 0, None, 0);
        };
        let (portal, name) = (portal.to_vec(), name.to_vec());
        let rest_at = HEADER_BYTES + portal.len() + 1 + name.len() + 1;
        if !session.renames(name.is_empty()) {
            let bound = if self.has_unnamed() {
                let tracker = self.session.tracker.as_ref();
                tracker.and_then(|tracker| tracker.unnamed())
            } else if let Some(statement) = self.session.unbound.clone() {
                // It was parsed in an earlier batch, perhaps on another server.
                self.session.unnamed = Unnamed::ParsedNow;
                parse_as(self.server, b"", &statement);
                statement.effects(self.dialect())
            } else {
                // The server may have one, but it is another client's.
                return self.pass_bind_as(header, rest_at, Some((&portal, NO_STATEMENT)), 0);
            };
            self.bind_effects(header, &portal, bound);
            return self.pass_bind_as(header, 0, None, 0);
        }
        let Some(statement) = self.session.statements.get(&name).ok().cloned() else {
            // The server does not know the name either, and says so.
            return self.pass_bind_as(header, 0, None, 0);
        };
        // Before anything of it is noted: is it all there is?
        let lone = self.server.exchange.at_rest() && self.session.tracker.is_none();
        self.session.retry = lone.then(|| self.lone_batch()).flatten();
        self.ensure(&statement);
        let mut note = 0;
        let effects = statement.effects(self.dialect());
        if let Some(effects) = &effects {
            note = commit_note(effects);
        }
        self.bind_effects(header, &portal, effects);
        self.pass_bind_as(
            header,
            rest_at,
            Some((&portal, &statement.server_name())),
            note,
        );
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
    fn bind_effects(&mut self, header: Header, portal: &[u8], effects: Option<Rc<Effects>>) {
        let effects = effects.map(|effects| {
            self.session.ties.note(&effects);
            if !effects.needs_arguments() {
                return effects;
            }
            let frame = self.session.inbound.bytes();
            let body = frame.get(HEADER_BYTES..header.frame_bytes());
            let arguments = body.and_then(|body| Bind::parse(body).ok()?.arguments().ok());
            let nth = |n: u16| {
                let arguments = arguments.as_ref()?;
                arguments.values().nth(usize::from(n).checked_sub(1)?)
            };
            Rc::new(effects.resolved(nth))
        });
        let tracked = self.track(effects);
        if let Some(tracker) = &mut self.session.tracker {
            tracker.bound(portal, tracked);
        }
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
            drop(self.session.inbound.take(head_bytes));
        }
        self.note(Owed::BindComplete, Fate::Forward, note);
        let rest = header.frame_bytes().saturating_sub(head_bytes);
        self.session
            .inbound
            .pass_messages(rest, &self.server.stream);
    }

    fn pass_execute(&mut self, frame: &[u8], body: &[u8]) {
        let tracker = self.session.tracker.as_ref();
        let portal = memchr::memchr(0, body).and_then(|end| body.get(..end));
        let effects = tracker.zip(portal);
        let effects = effects.and_then(|(tracker, portal)| tracker.portal(portal));
        let note = effects
            .as_ref()
            .map_or(0, |effects| self.deallocate(effects));
        self.note_with(Owed::Execution, Fate::Forward, note, effects);
        self.server.stream.write(frame);
    }

    /// Describe or Close.
    fn pass_target(&mut self, frame: &[u8], tag: u8, body: &[u8]) {
        let owed = match tag {
            tag::DESCRIBE => Owed::Description,
            _ => Owed::CloseComplete,
        };
        let name = match Target::parse(body) {
            Ok(Target::Statement(name)) => name,
            Ok(Target::Portal(portal)) => {
                if let Some(tracker) = &mut self.session.tracker {
                    tracker.bound(portal, None);
                }
                return self.send(frame, owed, 0);
            }
            Err(_) => return self.send(frame, owed, 0),
        };
        let renamed = self.session.renames(name.is_empty());
        if tag == tag::CLOSE {
            if !renamed {
                self.session.unbound = None;
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
            self.ensure(&statement);
            Target::Statement(&statement.server_name()).encode_describe(&mut message);
            return self.send(&message, owed, 0);
        }
        if !self.has_unnamed() {
            let Some(statement) = self.session.unbound.clone() else {
                Target::Statement(NO_STATEMENT).encode_describe(&mut message);
                return self.send(&message, owed, 0);
            };
            self.session.unnamed = Unnamed::ParsedNow;
            parse_as(self.server, b"", &statement);
        }
        self.send(frame, owed, 0);
    }

    /// `DEALLOCATE name` of a statement that the client prepared by protocol: the same for its name on the server.
    fn rename(&mut self, text: &[u8], at: &NameAt) -> Option<Vec<u8>> {
        let statement = self.session.statements.get(&at.name).ok().cloned()?;
        self.ensure(&statement);
        let (before, after) = (text.get(..at.start)?, text.get(at.end..)?);
        Some([before, &statement.server_name(), after].concat())
    }

    /// Statements that are about to be deallocated are so from here on. Answers the note for what does it.
    fn deallocate(&mut self, effects: &Effects) -> Note {
        let mut note = 0;
        for step in effects.steps() {
            match &step.effect {
                Effect::Deallocate(at) => {
                    if let Ok(statement) = self.session.statements.get(&at.name) {
                        self.server.prepared.failed(statement.id());
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
        note
    }
}

impl Session {
    /// Does it share servers with other clients?
    pub(super) fn pools(&self) -> bool {
        self.slot.config.mode != PoolerMode::Session
    }

    /// Are names of prepared statements translated?
    fn translates(&self) -> bool {
        self.pools() && self.state.config.prepared.level != PreparedStatements::Disabled
    }

    /// Does a statement have another name on the server?
    fn renames(&self, unnamed: bool) -> bool {
        let anonymous = self.state.config.prepared.level == PreparedStatements::ExtendedAnonymous;
        self.translates() && (!unnamed || anonymous)
    }
}

fn commit_note(effects: &Effects) -> Note {
    match effects.commits() {
        true => NOTE_COMMIT,
        false => 0,
    }
}

/// A batch up to this size is kept until it is answered, to be sent again if its plan is stale.
const RETRY_BYTES_MAX: usize = 8 * 1024;

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

/// Parse of ours under a name that the server's list of statements does not know.
fn parse_as(server: &mut Server, name: &[u8], statement: &Statement) {
    let mut message = Vec::new();
    Parse::encode_content(&mut message, name, statement.definition());
    server.stream.write(&message);
    server.exchange.sent(Owed::ParseComplete, Fate::Drop);
}

/// Portal and statement at the front of a Bind's body, if both are there.
fn statement_of_bind(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let portal_end = memchr::memchr(0, body)?;
    let (portal, rest) = (body.get(..portal_end)?, body.get(portal_end + 1..)?);
    let statement_end = memchr::memchr(0, rest)?;
    Some((portal, rest.get(..statement_end)?))
}
