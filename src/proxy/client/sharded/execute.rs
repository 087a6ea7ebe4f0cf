//! PREPARE, EXECUTE and DEALLOCATE as SQL. The names are the session's own, one space of names with those of Parse; a
//! statement goes where it would go if it had come by itself, with its arguments in their places.
//!
//! Servers have it only while it is executed: each prepares it under a name of ours, executes it, and closes it again,
//! all of which is sent at once.

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::prepared::{unknown, Statement as Prepared};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Execute, Parse, Target, SYNC};
use crate::protocol::sqlstate::SqlState;
use crate::routing::values::{type_oid, Argument, Values};
use crate::routing::verdict::{Executed, Run};
use crate::sql::keys::Operand;
use crate::sql::keyword::Keyword;
use crate::sql::session::{prepared_body, Effect, Effects, NameAt};
use crate::sql::statement::{Kind, Statement};
use crate::sql::statements::first_keyword;

use super::super::super::cluster::Want;
use super::super::{End, Session};
use super::call::{Answers, Call, Shown};
use super::described::put_describe;
use super::plan::{not_analysed, Planned};
use super::route::Source;
use super::steps::Stepped;

/// The name that servers know a statement by while it is executed.
const NAME: &[u8] = b"__pgdog_execute";

/// What answers the messages of [`executing`].
pub(super) const OWED_BY_SQL: &Answers = &[
    (Owed::ParseComplete, Fate::Drop),
    (Owed::BindComplete, Fate::Drop),
    (Owed::Execution, Fate::Drop),
    (Owed::ParseComplete, Fate::Drop),
    (Owed::BindComplete, Fate::Drop),
    (Owed::Description, Fate::Forward),
    (Owed::Execution, Fate::Forward),
    (Owed::Ready, Fate::Forward),
    (Owed::CloseComplete, Fate::Drop),
    (Owed::Ready, Fate::Drop),
];

/// The same of a statement that was made by Parse.
pub(super) const OWED_BY_PARSE: &Answers = &[
    (Owed::ParseComplete, Fate::Drop),
    (Owed::ParseComplete, Fate::Drop),
    (Owed::BindComplete, Fate::Drop),
    (Owed::Description, Fate::Forward),
    (Owed::Execution, Fate::Forward),
    (Owed::Ready, Fate::Forward),
    (Owed::CloseComplete, Fate::Drop),
    (Owed::Ready, Fate::Drop),
];

/// What PREPARE of a statement that nobody executes is answered.
const OWED_BY_PREPARE: &Answers = &[
    (Owed::ParseComplete, Fate::Drop),
    (Owed::BindComplete, Fate::Drop),
    (Owed::Execution, Fate::Drop),
    (Owed::Ready, Fate::Forward),
    (Owed::CloseComplete, Fate::Drop),
    (Owed::Ready, Fate::Drop),
];

/// Names that the statements of a text have given and taken, ahead of their execution.
#[derive(Default)]
pub(super) struct Names {
    changes: Vec<Change>,
    cleared: bool,
}

/// A name, and the statement that has it from here on.
type Change = (Box<[u8]>, Option<Rc<Prepared>>);

impl Names {
    fn set(&mut self, name: &[u8], statement: Option<Rc<Prepared>>) {
        self.changes.push((name.into(), statement));
    }

    /// `None`: the session's own counts.
    fn get(&self, name: &[u8]) -> Option<Option<&Rc<Prepared>>> {
        let mut changes = self.changes.iter().rev();
        let found = changes.find(|(of, _)| **of == *name);
        match found {
            Some((_, statement)) => Some(statement.as_ref()),
            None => self.cleared.then_some(None),
        }
    }

    /// DEALLOCATE as it will be.
    pub(super) fn forget(&mut self, name: Option<&str>) {
        match name {
            Some(name) => self.set(name.as_bytes(), None),
            None => {
                self.changes.clear();
                self.cleared = true;
            }
        }
    }
}

/// What an EXECUTE names.
pub(super) struct ExecutedBy {
    prepared: Rc<Prepared>,
    /// The EXECUTE with the name that servers know, as Parse has it.
    call: Vec<u8>,
}

impl Session {
    /// What a statement executes that is an EXECUTE of one that the client has.
    pub(super) fn executed_by(&self, statement: &Prepared) -> Option<ExecutedBy> {
        let text = statement.text();
        if statement.is_sql() || first_keyword(text) != Keyword::Execute {
            return None;
        }
        let effects = crate::sql::session::effects(text, self.session_dialect());
        let named = effects.steps().iter().find_map(|step| match &step.effect {
            Effect::Execute(at) => Some(at),
            _ => None,
        });
        let NameAt { start, end, name } = named?;
        let prepared = Rc::clone(self.statements.get(name).ok()?);
        let call = [
            text.get(..*start)?,
            NAME,
            statement.definition().get(*end..)?,
        ];
        Some(ExecutedBy {
            prepared,
            call: call.concat(),
        })
    }

    /// A PREPARE that will be.
    pub(super) fn foresee(
        &mut self,
        part: &[u8],
        name: &str,
        names: &mut Names,
    ) -> Result<(), Error> {
        let prepared = self.intern_by_sql(part)?;
        names.set(name.as_bytes(), Some(prepared));
        Ok(())
    }

    /// The statement that a PREPARE makes.
    fn intern_by_sql(&self, part: &[u8]) -> Result<Rc<Prepared>, Error> {
        let effects = crate::sql::session::effects(part, self.session_dialect());
        let at = effects.steps().iter().find_map(|step| match &step.effect {
            Effect::Prepare(at) => Some(at.end),
            _ => None,
        });
        let rest = at.and_then(|at| part.get(at..));
        let rest = rest.ok_or_else(|| refused("this PREPARE"))?;
        let mut context = Vec::new();
        self.settings.current().parse_context(&mut context);
        self.state
            .statements
            .borrow_mut()
            .intern_sql(rest, &context)
    }

    /// Where an EXECUTE goes: where its statement goes. Also what that does to the session.
    pub(super) fn route_execute(
        &mut self,
        (name, operands): (&str, &[Operand]),
        names: &Names,
        source: &Source<'_>,
    ) -> Result<(Run, Effects), Error> {
        let prepared = match names.get(name.as_bytes()) {
            Some(found) => found.cloned().ok_or_else(|| unknown(name.as_bytes()))?,
            None => Rc::clone(self.statements.get(name.as_bytes())?),
        };
        let dialect = source.dialect;
        let (head, tail) =
            around_name(source.part, dialect).ok_or_else(|| refused("this EXECUTE"))?;
        let text = match prepared.is_sql() {
            true => [&b"PREPARE p "[..], prepared.text()].concat(),
            false => prepared.text().to_vec(),
        };
        let cluster = Rc::clone(&self.cluster);
        let (analysis, literals, hints) = {
            let mut cache = cluster.analyses.borrow_mut();
            let analysed = cache.analyse(&text, dialect);
            let literals = analysed.literals.to_vec();
            (analysed.analysis, literals, analysed.hints)
        };
        let statements = analysis.statements.as_ref().map_err(not_analysed)?;
        let [statement] = &**statements else {
            return Err(refused("EXECUTE of this statement"));
        };
        let (statement, declared, body) = match &statement.kind {
            Kind::Prepare {
                types, statement, ..
            } => {
                let declared = types.iter().map(|name| type_oid(name)).collect();
                let body = prepared_body(prepared.text(), dialect);
                let body = body.ok_or_else(|| refused("EXECUTE of this statement"))?;
                (&**statement, declared, body)
            }
            _ => {
                let types = Parse::of_content(prepared.definition());
                let types = types.map_err(Error::protocol_violation)?.types;
                // What a type beyond these is, nobody knows.
                let declared: Vec<u32> = types.iter().collect();
                (statement, declared, &*text)
            }
        };
        if !statement.kind.is_query() {
            return Err(refused("EXECUTE of this statement"));
        }
        self.heed_changes(statement);
        check_count(name, operands.len(), statement, declared.len())?;
        let given = Values {
            text: source.text,
            literals: source.literals,
            backslashes: dialect.backslashes,
            encoded_as_stored: true,
            parameters: &[],
        };
        let by_parse = !prepared.is_sql();
        let arguments = operands.iter().enumerate().map(|(index, operand)| {
            let declared = declared.get(index).copied();
            given.argument(operand, declared.filter(|oid| *oid != 0 || !by_parse))
        });
        let arguments: Vec<Argument> = arguments.collect();
        // Hints of the EXECUTE count before those that the statement was prepared with.
        let own = source.hints != &crate::sql::hints::Hints::default();
        let routed = Source {
            text: &text,
            part: body,
            dialect,
            literals: &literals,
            hints: if own { source.hints } else { &hints },
            hinted_key: match own {
                true => source.hinted_key,
                false => hints.sharding_key(&text),
            },
            bind: None,
            types: &[],
            given: &arguments,
        };
        let mut run = self.route_query(statement, &routed)?;
        if !run.parts.is_empty() {
            return Err(refused("a multi-row INSERT for several shards by EXECUTE"));
        }
        if run.moving.is_some() {
            return Err(refused("an UPDATE that moves rows by EXECUTE"));
        }
        if run.echo.is_some() {
            return Err(refused(
                "an INSERT … SELECT that each shard would do otherwise, by EXECUTE,",
            ));
        }
        if run.asking.is_some() {
            return Err(refused("a value that a server is asked for by EXECUTE"));
        }
        if run.gathering.is_some() {
            return Err(refused("EXECUTE of a query that is run in parts"));
        }
        run.apart = None;
        // Each server would have a value of its own.
        let shards = run.place.count(self.cluster.shards());
        if shards > 1 && operands.contains(&Operand::Other) {
            return Err(refused("an expression as argument of EXECUTE"));
        }
        let definition = match (run.text.take(), prepared.is_sql()) {
            (None, true) => prepared.text().to_vec(),
            (Some(instead), true) => {
                let types = prepared.text().len() - body.len();
                let types = prepared.text().get(..types).unwrap_or_default();
                [types, &instead].concat()
            }
            (None, false) => prepared.definition().to_vec(),
            (Some(instead), false) => {
                let types = prepared.definition().get(text.len()..);
                [&instead, types.unwrap_or_default()].concat()
            }
        };
        run.executed = Some(Box::new(Executed {
            by_sql: prepared.is_sql(),
            definition,
            head: head.to_vec(),
            tail: tail.to_vec(),
            arguments,
        }));
        let effects = prepared.effects(dialect);
        let effects = effects.map(|effects| (*effects).clone());
        Ok((run, effects.unwrap_or_default()))
    }

    /// PREPARE: a server looks at the statement, and forgets it.
    pub(super) async fn prepare_by_text(
        &mut self,
        step: &Planned<'_>,
        name: &str,
        shard: Option<usize>,
    ) -> Result<Stepped, End> {
        let made = match self.statements.get(name.as_bytes()) {
            Err(_) => self.intern_by_sql(step.text),
            Ok(_) => Err(exists(name)),
        };
        let prepared = match made {
            Ok(prepared) => prepared,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let mut messages = Vec::new();
        put_prepare(&mut messages, prepared.text());
        messages.extend_from_slice(&SYNC);
        put_close(&mut messages);
        let shard = shard.unwrap_or_else(|| self.any_shard());
        let mut legs = match self.take_leg(shard, Want::Write).await? {
            Ok(leg) => vec![leg],
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let call = Call {
            messages: &[messages],
            owed: OWED_BY_PREPARE,
            commits: false,
            shown: Shown::Errors,
        };
        let outcome = self.call(&mut legs, &call).await;
        let went = self.end_call(legs, &Effects::default(), outcome)?;
        if went == Stepped::Done {
            match self.statements.prepare(name.as_bytes(), prepared) {
                Ok(()) => self.statements.succeeded(),
                Err(error) => return Ok(self.failed_with(&error)),
            }
            self.complete("PREPARE");
        }
        Ok(went)
    }

    /// DEALLOCATE.
    pub(super) fn deallocate_by_text(&mut self, name: Option<&str>) -> Stepped {
        match name {
            None => {
                self.statements.clear();
                self.statements.succeeded();
                self.complete("DEALLOCATE ALL");
            }
            Some(name) if self.statements.get(name.as_bytes()).is_ok() => {
                self.statements.remove(name.as_bytes());
                self.statements.succeeded();
                self.complete("DEALLOCATE");
            }
            Some(name) => return self.failed_with(&unknown(name.as_bytes())),
        }
        Stepped::Done
    }
}

/// What a server is sent to execute a prepared statement.
pub(super) fn executing(executed: &Executed, bind: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut messages = Vec::new();
    match executed.by_sql {
        true => put_prepare(&mut messages, &executed.definition),
        false => Parse::encode_content(&mut messages, NAME, &executed.definition),
    }
    let call = [&executed.head, NAME, &executed.tail, b"\0\0\0"].concat();
    Parse::encode_content(&mut messages, b"", &call);
    bind(&mut messages);
    Target::Portal(b"").encode_describe(&mut messages);
    put_execute(&mut messages);
    messages.extend_from_slice(&SYNC);
    put_close(&mut messages);
    messages
}

/// What a server is sent to describe an EXECUTE, and what that is answered.
pub(super) fn describing(
    executed: &ExecutedBy,
    bind: Option<&Bind<'_>>,
) -> (Vec<u8>, Vec<(Owed, Fate)>) {
    let (mut messages, mut owed) = (Vec::new(), Vec::new());
    let dropped = |owed| (owed, Fate::Drop);
    match executed.prepared.is_sql() {
        true => {
            put_prepare(&mut messages, executed.prepared.text());
            owed.extend([Owed::ParseComplete, Owed::BindComplete, Owed::Execution].map(dropped));
        }
        false => {
            Parse::encode_content(&mut messages, NAME, executed.prepared.definition());
            owed.push(dropped(Owed::ParseComplete));
        }
    }
    Parse::encode_content(&mut messages, b"", &executed.call);
    owed.push(dropped(Owed::ParseComplete));
    owed.extend_from_slice(put_describe(bind, &mut messages));
    messages.extend_from_slice(&SYNC);
    owed.push((Owed::Ready, Fate::Forward));
    put_close(&mut messages);
    owed.extend([Owed::CloseComplete, Owed::Ready].map(dropped));
    (messages, owed)
}

/// PREPARE by the extended protocol.
fn put_prepare(messages: &mut Vec<u8>, definition: &[u8]) {
    let text = [b"PREPARE ", NAME, b" ", definition, b"\0\0\0"].concat();
    Parse::encode_content(messages, b"", &text);
    Bind::encode(messages, b"", b"", [], [], []);
    put_execute(messages);
}

fn put_execute(messages: &mut Vec<u8>) {
    Execute {
        portal: b"",
        rows_max: 0,
    }
    .encode(messages);
}

/// Close is possible in a failed transaction, too, but not in the batch that has failed.
fn put_close(messages: &mut Vec<u8>) {
    Target::Statement(NAME).encode_close(messages);
    messages.extend_from_slice(&SYNC);
}

/// An EXECUTE before and behind the name.
fn around_name(part: &[u8], dialect: crate::sql::lexer::Dialect) -> Option<(&[u8], &[u8])> {
    let effects = crate::sql::session::effects(part, dialect);
    let mut steps = effects.steps().iter();
    let NameAt { start, end, .. } = steps.find_map(|step| match &step.effect {
        Effect::Execute(at) => Some(at),
        _ => None,
    })?;
    Some((part.get(..*start)?, part.get(*end..)?))
}

fn check_count(
    name: &str,
    given: usize,
    statement: &Statement,
    declared: usize,
) -> Result<(), Error> {
    let expected = declared.max(statement.parameters as usize);
    if given == expected {
        return Ok(());
    }
    let text = format!("wrong number of parameters for prepared statement \"{name}\"");
    let error = Error::error(Fault::Client, SqlState::SYNTAX_ERROR, text);
    Err(error.detail(format!("expected {expected} parameters but got {given}")))
}

fn exists(name: &str) -> Error {
    let text = format!("prepared statement \"{name}\" already exists");
    Error::error(Fault::Client, SqlState::DUPLICATE_PREPARED_STATEMENT, text)
}
