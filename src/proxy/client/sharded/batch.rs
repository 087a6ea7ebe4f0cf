//! A batch of the extended protocol that concerns several shards, or none: each message is answered here, and what a
//! portal executes is run like a statement of a Query.
//!
//! Between two Syncs everything is one transaction, as on one server. A server never sees the client's own Sync: so
//! none is left in the middle of a batch, and a Flush costs nothing.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::prepared::Statement;
use crate::protocol::backend::{ready_for_query, CLOSE_COMPLETE, PARSE_COMPLETE};
use crate::protocol::batch::{messages, BatchEnd};
use crate::protocol::frontend::{tag, Bind, Execute, Parse, Target};
use crate::protocol::sqlstate::SqlState;
use crate::routing::verdict::Verdict;
use crate::session::Ties;
use crate::sql::keyword::Keyword;
use crate::sql::session::Effects;
use crate::sql::statements::first_keyword;

use super::super::super::cluster::Want;
use super::super::super::link::Notice;
use super::super::statement_mode::no_transactions;
use super::super::{End, Session, WAITING_BYTES_MAX};
use super::lookups::lacks_keys;
use super::plan::{Form, Planned};
use super::steps::{in_failed_transaction, Stepped};
use super::Does;

/// A batch that one server can do.
pub(super) struct Relayed {
    pub(super) shard: usize,
    pub(super) want: Want,
    pub(super) does: Does,
    /// What its statements do to cursors and settings.
    pub(super) effects: Vec<Effects>,
    /// Portals of COPY FROM.
    pub(super) copies: Vec<Box<[u8]>>,
}

impl Session {
    /// The one server that can do all of a batch, and whether that may do more than read. `None`: it is run here.
    pub(super) fn one_server_for_batch(
        &mut self,
        batch: &[u8],
        end: BatchEnd,
    ) -> Result<Option<Relayed>, Error> {
        let sharded = self.sharded();
        if end != BatchEnd::Sync || sharded.ours || !sharded.portals.is_empty() {
            return Ok(None);
        }
        if sharded.transaction.is_failed() {
            return Ok(None);
        }
        // One server can do it if it can do what is executed, and knows what is only parsed or described.
        let mut parsed: Vec<(&[u8], Rc<Statement>)> = Vec::new();
        let (mut verdicts, mut effects, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut prepares, mut does) = (false, Does::default());
        // What was planned changes where the rest goes, when it has been executed.
        let mut routes = false;
        for (header, body) in messages(batch) {
            match header.tag {
                tag::PARSE => {
                    let parse = Parse::parse(body).map_err(malformed)?;
                    self.check_types(&parse)?;
                    if self.may_be_rewritten(parse.query) || !self.is_declared_alike(&parse) {
                        return Ok(None);
                    }
                    let statement = self.intern(parse.content())?;
                    parsed.push((parse.statement, statement));
                }
                tag::DESCRIBE => {
                    let target = Target::parse(body).map_err(malformed)?;
                    let named = match target {
                        Target::Statement(name) => match parsed.iter().rfind(|one| one.0 == name) {
                            Some((_, statement)) => Some(Rc::clone(statement)),
                            None => self.statement(name).ok(),
                        },
                        Target::Portal(_) => None,
                    };
                    if named.is_some_and(|statement| {
                        first_keyword(statement.text()) == Keyword::Fetch
                            || self.may_be_rewritten(statement.text())
                    }) {
                        return Ok(None);
                    }
                }
                tag::BIND => {
                    let bind = Bind::parse(body).map_err(malformed)?;
                    let of_name = |(name, _): &&(&[u8], _)| *name == bind.statement;
                    let statement = match parsed.iter().rfind(of_name) {
                        Some((_, statement)) => Rc::clone(statement),
                        None => match self.statement(bind.statement) {
                            Ok(statement) => statement,
                            Err(_) => return Ok(None),
                        },
                    };
                    if routes || self.may_be_rewritten(statement.text()) {
                        return Ok(None);
                    }
                    let planned = match self.planned(&statement, &bind, false) {
                        Ok(planned) => planned,
                        // What is lacking is noted, with that of other messages.
                        _ if self.must_look_up() => continue,
                        // It may be what an earlier message of this batch prepares or declares.
                        Err(_) if prepares => return Ok(None),
                        Err(error) => return Err(error),
                    };
                    if let Some(planned) = planned {
                        let alike = is_tied(&planned.effects)
                            || self.is_bound_alike(statement.definition(), &bind);
                        if !alike || self.check_cursors(&planned.effects).is_err() {
                            return Ok(None);
                        }
                        does = does.and(planned.does);
                        prepares |= matches!(planned.verdict, Verdict::Prepare { .. })
                            || planned.effects.verb == Keyword::Declare;
                        routes |= planned.effects.routes() || planned.verdict.is_control();
                        if planned.copies_in() {
                            copies.push(bind.portal.into());
                        }
                        let sets = planned.sets();
                        verdicts.push((planned.verdict, sets));
                        if !planned.effects.is_plain() {
                            effects.push(planned.effects);
                        }
                    }
                }
                _ => {}
            }
        }
        if self.must_look_up() {
            return Err(lacks_keys());
        }
        let verdicts = verdicts.iter().map(|(verdict, sets)| (verdict, *sets));
        let found = self.one_server_for(verdicts);
        Ok(found.map(|(shard, want)| Relayed {
            shard,
            want,
            does,
            effects,
            copies,
        }))
    }

    /// The shared statement of a Parse's content.
    pub(super) fn intern(&self, content: &[u8]) -> Result<Rc<Statement>, Error> {
        let mut context = Vec::new();
        self.settings.current().parse_context(&mut context);
        self.state.statements.borrow_mut().intern(content, &context)
    }

    /// The client's statement of a name.
    pub(in super::super) fn statement(&self, name: &[u8]) -> Result<Rc<Statement>, Error> {
        if name.is_empty() && !self.renames(true) {
            return match &self.bound[..] {
                [] => {
                    let unbound = self.unbound.clone();
                    unbound.ok_or_else(|| crate::prepared::unknown(name))
                }
                definition => self.intern(definition),
            };
        }
        self.statements.get(name).cloned()
    }

    /// What a portal does. `None`: nothing, its text is empty.
    pub(super) fn planned<'p>(
        &mut self,
        statement: &'p Statement,
        bind: &Bind<'p>,
        described: bool,
    ) -> Result<Option<Planned<'p>>, Error> {
        if statement.is_sql() {
            return Err(refused("Bind of a statement that was made by PREPARE"));
        }
        let parse = Parse::of_content(statement.definition()).map_err(malformed)?;
        let types: Vec<u32> = parse.types.iter().collect();
        let mut steps = self.statements_of(statement.text(), Some(bind), &types)?;
        if steps.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(Error::error(Fault::Client, SqlState::SYNTAX_ERROR, text));
        }
        let Some(mut planned) = steps.pop() else {
            return Ok(None);
        };
        if planned.effects.needs_arguments() {
            let arguments = bind.arguments().ok();
            let resolved = |number| arguments.as_ref()?.parameter(number);
            planned.effects = planned.effects.resolved(resolved);
        }
        planned.form = Form::Portal {
            definition: statement.definition(),
            bind: *bind,
            described,
        };
        Ok(Some(planned))
    }

    /// Answers a batch.
    pub(super) async fn run_batch(&mut self, batch: &[u8], end: BatchEnd) -> Result<(), End> {
        let executes = messages(batch).filter(|(header, _)| header.tag == tag::EXECUTE);
        let lone = executes.count() == 1 && end == BatchEnd::Sync && !self.sharded().ours;
        let mut rest = messages(batch);
        let mut at = 0;
        let begun = self.state.core.now();
        while let Some((header, body)) = rest.next() {
            self.room().await?;
            self.audit_run(header.tag, body);
            at += header.frame_bytes();
            let behind = batch.get(at..).unwrap_or_default();
            let went = match header.tag {
                tag::SYNC => {
                    self.end_batch().await?;
                    self.stream.write(&ready_for_query(self.status()));
                    self.audit_ran(begun);
                    continue;
                }
                tag::FLUSH => continue,
                tag => {
                    let follows = |portal: &[u8]| executes_next(rest.clone(), portal);
                    self.run_message(tag, body, lone, behind, follows).await?
                }
            };
            let put_back = std::mem::take(&mut self.sharded().put_back);
            if went == Stepped::Failed {
                self.abandon_batch().await?;
                if end == BatchEnd::Sync && !put_back {
                    self.stream.write(&ready_for_query(self.status()));
                } else {
                    self.skipping = true;
                }
                self.audit_ran(begun);
                break;
            }
            if put_back {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the client has read so much that it can be told more. Meanwhile it may leave, or have to.
    pub(super) async fn room(&mut self) -> Result<(), End> {
        poll_fn(|cx| {
            if self.stream.poll_room(cx)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            self.link.listen(cx);
            match self.link.notice() {
                None | Some(Notice::Drain | Notice::Removed) => {}
                // The next statement heeds them: none is under way.
                Some(Notice::QueryTimeout | Notice::Deadlock) => {}
                Some(notice) => return Poll::Ready(Err(End::Fatal(self.farewell(notice)))),
            }
            while self.inbound.len() < WAITING_BYTES_MAX {
                match self.poll_inbound(cx)? {
                    Poll::Ready(()) => self.inbound.settle(),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn run_message(
        &mut self,
        tag: u8,
        body: &[u8],
        lone: bool,
        behind: &[u8],
        follows: impl Fn(&[u8]) -> bool,
    ) -> Result<Stepped, End> {
        let answered = match tag {
            tag::PARSE => self.parse(body),
            tag::BIND => return self.bind(body).await,
            tag::DESCRIBE => match Target::parse(body).map_err(malformed) {
                Ok(Target::Statement(name)) => {
                    return Box::pin(self.describe_statement(name)).await;
                }
                Ok(Target::Portal(name)) => {
                    let follows = follows(name);
                    return Box::pin(self.describe_portal(name, follows)).await;
                }
                Err(error) => Err(error),
            },
            tag::EXECUTE => match Execute::parse(body).map_err(malformed) {
                Ok(execute) => return Box::pin(self.execute(execute, lone, behind)).await,
                Err(error) => Err(error),
            },
            tag::CLOSE => match Target::parse(body).map_err(malformed) {
                Ok(target) => return self.close(target).await,
                Err(error) => Err(error),
            },
            _ => Ok(()),
        };
        Ok(match answered {
            Ok(()) => Stepped::Done,
            Err(error) => {
                self.tell(&error);
                Stepped::Failed
            }
        })
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Error> {
        if self.begins_in_statement_mode(tag::PARSE, body) {
            return Err(no_transactions());
        }
        let parse = Parse::parse(body).map_err(malformed)?;
        self.check_not_failed(parse.query)?;
        self.check_types(&parse)?;
        let statement = self.intern(parse.content())?;
        if parse.statement.is_empty() && !self.renames(true) {
            // No server has it yet, whatever one had of those before it.
            self.sharded().parsed_on = None;
            self.forget_unnamed();
            self.unbound = Some(statement);
        } else {
            self.statements.prepare(parse.statement, statement)?;
            self.statements.succeeded();
        }
        self.stream.write(&PARSE_COMPLETE);
        Ok(())
    }

    /// In a failed transaction nothing is parsed or bound but what ends it.
    pub(super) fn check_not_failed(&mut self, text: &[u8]) -> Result<(), Error> {
        let ends = || {
            matches!(
                first_keyword(text),
                Keyword::Commit | Keyword::End | Keyword::Rollback | Keyword::Abort
            )
        };
        match self.sharded().transaction.is_failed() && !text.trim_ascii().is_empty() && !ends() {
            true => Err(in_failed_transaction()),
            false => Ok(()),
        }
    }

    async fn close(&mut self, target: Target<'_>) -> Result<Stepped, End> {
        match target {
            Target::Statement(name) if name.is_empty() && !self.renames(true) => {
                self.forget_unnamed();
            }
            Target::Statement(name) => {
                self.statements.remove(name);
                self.statements.succeeded();
            }
            Target::Portal(name) => {
                if self.drop_portal(name).await? == Stepped::Failed {
                    return Ok(Stepped::Failed);
                }
            }
        }
        self.stream.write(&CLOSE_COMPLETE);
        Ok(Stepped::Done)
    }

    /// Sync: what was done is done.
    async fn end_batch(&mut self) -> Result<(), End> {
        if std::mem::take(&mut self.sharded().ours) {
            let _: Stepped = self.commit(false, None).await?; // told, either way
        }
        self.keep_portals().await
    }

    /// An error: what was done is undone, unless the transaction is the client's.
    pub(super) async fn abandon_batch(&mut self) -> Result<(), End> {
        if std::mem::take(&mut self.sharded().ours) {
            self.roll_back(false).await?;
        }
        let sharded = self.sharded();
        if !sharded.transaction.is_open() {
            sharded.portals.clear();
        }
        Ok(())
    }

    pub(super) fn failed_with(&mut self, error: &Error) -> Stepped {
        self.tell(error);
        Stepped::Failed
    }

    /// Is a batch open that a Sync has to end on servers?
    pub(in super::super) fn has_open_batch(&self) -> bool {
        let sharded = self.sharded.as_deref();
        sharded.is_some_and(|sharded| sharded.ours || !sharded.portals.is_empty())
    }
}

/// Has a server something of it that only a server can keep? Then one has to do all of it.
fn is_tied(effects: &Effects) -> bool {
    let mut ties = Ties::default();
    ties.note(effects);
    ties.asks() || ties.spoilt()
}

/// Is the next message but Describe an Execute of this portal?
fn executes_next<'b>(
    mut rest: impl Iterator<Item = (crate::protocol::frame::Header, &'b [u8])>,
    portal: &[u8],
) -> bool {
    let next = rest.next();
    next.is_some_and(|(header, body)| {
        let execute = Execute::parse(body);
        header.tag == tag::EXECUTE && execute.is_ok_and(|execute| execute.portal == portal)
    })
}

pub(super) fn malformed(error: crate::protocol::wire::Malformed) -> Error {
    Error::protocol_violation(error)
}
