//! Prepared statements and portals of an admin session: the extended protocol without parameters.

use std::collections::HashMap;

use crate::error::{Error, Fault};
use crate::protocol::backend::{BIND_COMPLETE, CLOSE_COMPLETE, NO_DATA, PARSE_COMPLETE};
use crate::protocol::frontend::{Bind, Execute, Parse, Target};
use crate::protocol::rows::ParameterDescription;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::wire::Malformed;

use super::command::{self, Missing};
use super::rows::{put_description, Formats};
use super::{Answer, Command};

/// Statements, and portals, that one session may have.
const NAMES_MAX: usize = 1000;

/// What one session has prepared and bound.
#[derive(Debug, Default)]
pub struct Extended {
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
}

/// A bound statement; `None` is the empty one.
#[derive(Debug)]
struct Portal {
    command: Option<Command>,
    formats: Formats,
    /// What is left of its answer once it has run.
    answer: Option<Answer>,
}

/// A portal that is to be run, or to be continued.
#[derive(Debug)]
pub struct Run {
    /// Its name, for [`Extended::suspend`].
    pub portal: Vec<u8>,
    /// What to do; `None` for nothing at all.
    pub command: Option<Command>,
    /// What is left of the answer, if it has been run.
    pub answer: Option<Answer>,
    /// How its values are wanted.
    pub formats: Formats,
    /// Rows wanted, if not all.
    pub rows_max: Option<usize>,
}

impl Extended {
    /// A Parse; appends the reply.
    ///
    /// Errors: what is no command, parameters, a name that is taken.
    pub fn parse(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let parse = Parse::parse(body).map_err(malformed)?;
        if parse.types.iter().next().is_some() {
            return Err(parameters());
        }
        let name = parse.statement.to_vec();
        if !name.is_empty() && self.statements.contains_key(&name) {
            let name = String::from_utf8_lossy(&name).into_owned();
            return Err(error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let mut commands = command::parse(&String::from_utf8_lossy(parse.query))?;
        if commands.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(error(SqlState::SYNTAX_ERROR, text.to_owned()));
        }
        room(self.statements.len())?;
        self.statements.insert(name, commands.pop());
        out.extend_from_slice(&PARSE_COMPLETE);
        Ok(())
    }

    /// A Bind; appends the reply.
    ///
    /// Errors: no such statement, parameters, formats that do not fit.
    pub fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let bind = Bind::parse(body).map_err(malformed)?;
        let arguments = bind.arguments().map_err(malformed)?;
        let command = self.statement(bind.statement)?.clone();
        if !arguments.is_empty() {
            return Err(parameters());
        }
        let formats = Formats(arguments.result_formats.iter().collect());
        let columns = command.as_ref().and_then(Command::columns);
        if !formats.fit(columns.map_or(0, |columns| columns.len())) {
            return Err(error(
                SqlState::PROTOCOL_VIOLATION,
                "bind message has result formats that do not fit".to_owned(),
            ));
        }
        room(self.portals.len())?;
        let portal = Portal {
            command,
            formats,
            answer: None,
        };
        self.portals.insert(bind.portal.to_vec(), portal);
        out.extend_from_slice(&BIND_COMPLETE);
        Ok(())
    }

    /// A Describe; appends the reply.
    ///
    /// Errors: no such statement or portal.
    pub fn describe(&self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (command, formats) = match Target::parse(body).map_err(malformed)? {
            Target::Statement(name) => {
                let command = self.statement(name)?;
                ParameterDescription::encode(out, []);
                (command, &Formats::default())
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (&portal.command, &portal.formats)
            }
        };
        match command.as_ref().and_then(Command::columns) {
            Some(columns) => put_description(out, &columns, formats),
            None => out.extend_from_slice(&NO_DATA),
        }
        Ok(())
    }

    /// A Close; appends the reply.
    pub fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match Target::parse(body).map_err(malformed)? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        out.extend_from_slice(&CLOSE_COMPLETE);
        Ok(())
    }

    /// An Execute: what there is to be done.
    ///
    /// Errors: no such portal.
    pub fn execute(&mut self, body: &[u8]) -> Result<Run, Error> {
        let execute = Execute::parse(body).map_err(malformed)?;
        let portal = self.portals.get_mut(execute.portal);
        let portal = portal.ok_or_else(|| no_portal(execute.portal))?;
        Ok(Run {
            portal: execute.portal.to_vec(),
            command: portal.command.clone(),
            answer: portal.answer.take(),
            formats: portal.formats.clone(),
            rows_max: usize::try_from(execute.rows_max)
                .ok()
                .filter(|rows| *rows > 0),
        })
    }

    /// A portal has run so far, and this is what is left for its next Execute.
    pub fn suspend(&mut self, portal: &[u8], rest: Answer) {
        if let Some(portal) = self.portals.get_mut(portal) {
            portal.answer = Some(rest);
        }
    }

    /// The end of a transaction, which no portal outlives.
    pub fn transaction_ended(&mut self) {
        self.portals.clear();
    }

    /// DISCARD ALL and DEALLOCATE ALL.
    pub fn forget(&mut self) {
        self.statements.clear();
    }

    fn statement(&self, name: &[u8]) -> Result<&Option<Command>, Error> {
        self.statements.get(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            let text = format!("prepared statement \"{name}\" does not exist");
            error(SqlState::INVALID_SQL_STATEMENT_NAME, text)
        })
    }
}

fn no_portal(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    error(
        SqlState::INVALID_CURSOR_NAME,
        format!("portal \"{name}\" does not exist"),
    )
}

fn room(names: usize) -> Result<(), Error> {
    let text = || format!("an admin session has at most {NAMES_MAX} statements and portals");
    (names < NAMES_MAX)
        .then_some(())
        .ok_or_else(|| error(SqlState::PROGRAM_LIMIT_EXCEEDED, text()))
}

fn parameters() -> Error {
    command::missing(Missing {
        command: "a parameter",
        reason: "write values into the command",
    })
}

fn error(code: SqlState, text: String) -> Error {
    Error::error(Fault::Client, code, text)
}

fn malformed(malformed: Malformed) -> Error {
    Error::protocol_violation(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut message = Vec::new();
        encode(&mut message);
        message.split_off(5)
    }

    fn parse(name: &[u8], text: &[u8]) -> Vec<u8> {
        body(|out| Parse::encode(out, name, text, []))
    }

    fn bind(statement: &[u8], values: &[Option<&[u8]>], formats: &[i16]) -> Vec<u8> {
        let values = values.iter().copied();
        body(|out| Bind::encode(out, b"", statement, [], values, formats.to_vec()))
    }

    #[test]
    fn a_statement_is_prepared_bound_described_and_run() {
        let mut extended = Extended::default();
        let mut out = Vec::new();
        extended
            .parse(&parse(b"s", b"SHOW VERSION"), &mut out)
            .unwrap();
        extended.bind(&bind(b"s", &[], &[1]), &mut out).unwrap();
        let described = body(|out| Target::Statement(b"s").encode_describe(out));
        extended.describe(&described, &mut out).unwrap();
        let tags = [out[0], out[5], out[10], out[17]];
        assert_eq!(tags, *b"12tT");
        let execute = body(|out| {
            Execute {
                portal: b"",
                rows_max: 5,
            }
            .encode(out)
        });
        let run = extended.execute(&execute).unwrap();
        assert_eq!(run.rows_max, Some(5));
        assert_eq!(
            run.command,
            Some(Command::Show(super::super::Show::Version))
        );
        extended.suspend(b"", Answer::done("SHOW".to_owned()));
        assert!(extended.execute(&execute).unwrap().answer.is_some());
        extended.transaction_ended();
        assert_eq!(
            extended.execute(&execute).unwrap_err().code,
            SqlState::INVALID_CURSOR_NAME
        );
    }

    #[test]
    fn what_cannot_be_has_its_own_code() {
        let mut extended = Extended::default();
        let mut out = Vec::new();
        extended
            .parse(&parse(b"s", b"SHOW POOLS"), &mut out)
            .unwrap();
        let code = |result: Result<(), Error>| result.unwrap_err().code.to_string();
        let again = extended.parse(&parse(b"s", b"SHOW POOLS"), &mut out);
        assert_eq!(code(again), "42P05");
        let two = extended.parse(&parse(b"", b"RELOAD; RELOAD"), &mut out);
        assert_eq!(code(two), "42601");
        let typed = body(|out| Parse::encode(out, b"", b"SHOW POOLS", [23]));
        assert_eq!(code(extended.parse(&typed, &mut out)), "0A000");
        assert_eq!(
            code(extended.bind(&bind(b"t", &[], &[]), &mut out)),
            "26000"
        );
        assert_eq!(
            code(extended.bind(&bind(b"s", &[None], &[]), &mut out)),
            "0A000"
        );
        assert_eq!(
            code(extended.bind(&bind(b"s", &[], &[1, 1]), &mut out)),
            "08P01"
        );
        extended.parse(&parse(b"", b""), &mut out).unwrap();
        extended.bind(&bind(b"", &[], &[]), &mut out).unwrap();
    }
}
