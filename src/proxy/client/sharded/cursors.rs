//! Cursors over several shards: DECLARE, FETCH and CLOSE of what is a portal here. One of a single shard is its server's.

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::prepared::Statement as Prepared;
use crate::protocol::backend::NO_DATA;
use crate::protocol::frontend::Bind;
use crate::protocol::sqlstate::SqlState;
use crate::routing::verdict::{Place, Run, Verdict};
use crate::sql::cursors::{declared, fetched};
use crate::sql::keyword::Keyword;
use crate::sql::session::{Effect, Effects};
use crate::sql::statement::{Kind, Statement};
use crate::sql::statements::first_keyword;

use super::super::{End, Session};
use super::plan::{Form, Planned};
use super::portals::{Portal, State, Why};
use super::route::Source;
use super::steps::Stepped;

/// Body of a Bind of no values, to the unnamed portal and statement.
const NO_VALUES: &[u8] = &[0; 8];

/// Cursors that a text declares, ahead of their execution.
#[derive(Default)]
pub(super) struct Declared {
    /// Over several shards.
    ours: Vec<Box<str>>,
    /// On one server.
    elsewhere: Vec<Box<str>>,
}

impl Session {
    /// What is done for a statement about a cursor of several shards, or of another one than all that the transaction
    /// has. `None`: it is none. `names`: cursors that the text declares before.
    pub(super) fn plan_cursor(
        &mut self,
        statement: &Statement,
        source: &Source<'_>,
        names: &mut Declared,
    ) -> Result<Option<Verdict>, Error> {
        match &statement.kind {
            Kind::Declare {
                cursor,
                hold,
                statement,
            } if statement.kind == Kind::Select => {
                let Some(declared) = declared(source.part, source.dialect) else {
                    return Ok(None);
                };
                let of_query = Source {
                    part: declared.query,
                    ..*source
                };
                let run = self.route_query(statement, &of_query)?;
                if run.place.count(self.cluster.shards()) == 1 && run.gathering.is_none() {
                    names.elsewhere.push(cursor.clone());
                    return Ok(None);
                }
                if *hold || !declared.is_plain {
                    let what = "a cursor that is held, binary or scrolls";
                    return Err(refused(what));
                }
                let binds = |bind: &Bind<'_>| {
                    bind.arguments()
                        .is_ok_and(|arguments| !arguments.is_empty())
                };
                if source.bind.is_some_and(binds) {
                    return Err(refused("a cursor with parameters"));
                }
                names.ours.push(cursor.clone());
                Ok(Some(Verdict::Declare {
                    cursor: cursor.clone(),
                    query: declared.query.into(),
                }))
            }
            Kind::Fetch(cursor) if self.is_ours(cursor, names) => {
                let rows = fetched(source.part, source.dialect);
                let what = "MOVE, or FETCH in this direction, of a cursor";
                let rows = rows.ok_or_else(|| refused(what))?;
                let binary = |bind: &Bind<'_>| {
                    let arguments = bind.arguments();
                    arguments
                        .is_ok_and(|found| found.result_formats.iter().any(|format| format != 0))
                };
                if source.bind.is_some_and(binary) {
                    return Err(refused("FETCH of binary values"));
                }
                Ok(Some(Verdict::Fetch {
                    cursor: cursor.clone(),
                    rows,
                }))
            }
            Kind::Close(Some(cursor)) if self.is_ours(cursor, names) => {
                Ok(Some(Verdict::Close(Some(cursor.clone()))))
            }
            Kind::Close(None) if self.cluster.shards() > 1 => Ok(Some(Verdict::Close(None))),
            Kind::Fetch(cursor) | Kind::Close(Some(cursor)) => {
                let place = match self.sharded().afar.shard_of(cursor.as_bytes()) {
                    Some(shard) => Place::These(vec![shard]),
                    // Where that is, is known when it has been declared.
                    None if names.elsewhere.contains(cursor) => Place::Joined,
                    None => return Ok(None),
                };
                Ok(Some(Verdict::Run(Box::new(Run::at(place)))))
            }
            _ => Ok(None),
        }
    }

    fn is_ours(&mut self, cursor: &str, names: &Declared) -> bool {
        let mut portals = self.sharded().portals.iter();
        names.ours.iter().any(|name| **name == *cursor)
            || portals.any(|portal| *portal.name == *cursor.as_bytes())
    }

    /// Errors: a cursor that is declared on one server is there already, wherever that is.
    pub(super) fn check_cursors(&mut self, effects: &Effects) -> Result<(), Error> {
        let mut declared = effects
            .steps()
            .iter()
            .filter_map(|step| match &step.effect {
                Effect::Declare { name, .. } => Some(name),
                _ => None,
            });
        match declared.find(|name| self.has_portal(name)) {
            Some(name) => Err(already_exists(name)),
            None => Ok(()),
        }
    }

    /// Has the transaction a portal or cursor of this name, on whatever server?
    pub(super) fn has_portal(&mut self, name: &[u8]) -> bool {
        let sharded = self.sharded();
        let mut portals = sharded.portals.iter();
        portals.any(|portal| *portal.name == *name) || sharded.afar.shard_of(name).is_some()
    }

    /// The shard of what may do something to cursors, if it is one.
    pub(super) fn shard_of_cursors(&mut self, effects: &Effects, place: &Place) -> Option<usize> {
        let shards = match effects.is_plain() {
            true => return None,
            false => self.shards_at(place),
        };
        match *shards {
            [shard] => Some(shard),
            _ => None,
        }
    }

    /// DECLARE.
    pub(super) async fn declare(&mut self, cursor: &str, query: &[u8]) -> Result<Stepped, End> {
        if !self.sharded().transaction.is_open() {
            return Ok(self.outside("DECLARE CURSOR"));
        }
        // A Parse of that text, without parameters.
        let made = self.intern(&[query, b"\0\0\0"].concat());
        let made = made.and_then(|made| self.new_portal(cursor.as_bytes(), made, NO_VALUES));
        let portal = match made {
            Ok(portal) => portal,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let went = Box::pin(self.declare_portal(portal)).await?;
        if went == Stepped::Done {
            self.complete("DECLARE CURSOR");
        }
        Ok(went)
    }

    /// FETCH.
    pub(super) async fn fetch(
        &mut self,
        step: &Planned<'_>,
        cursor: &str,
        rows: Option<u64>,
    ) -> Result<Stepped, End> {
        let described = match step.form {
            Form::Query => true,
            Form::Portal { described, .. } => described,
        };
        self.fetch_portal(cursor.as_bytes(), rows, described).await
    }

    /// CLOSE.
    pub(super) async fn close_cursor(
        &mut self,
        step: &Planned<'_>,
        cursor: Option<&str>,
    ) -> Result<Stepped, End> {
        let Some(cursor) = cursor else {
            self.sharded().portals.clear();
            self.sharded().afar.clear();
            return self.run_on_legs(step, "CLOSE CURSOR ALL").await;
        };
        if !self.is_ours(cursor, &Declared::default()) {
            return Ok(self.no_cursor(cursor.as_bytes()));
        }
        let went = self.drop_portal(cursor.as_bytes()).await?;
        if went == Stepped::Done {
            self.complete("CLOSE CURSOR");
        }
        Ok(went)
    }

    /// Keeps a portal that is opened at once.
    async fn declare_portal(&mut self, mut portal: Portal) -> Result<Stepped, End> {
        let went = match self.open_one(&mut portal).await? {
            Ok(went) => went,
            Err(error) => self.failed_with(&error),
        };
        if went == Stepped::Done {
            if !matches!(portal.state, State::Open(..)) {
                return Ok(self.failed_with(&refused("DECLARE CURSOR")));
            }
            self.sharded().portals.push(portal);
        }
        Ok(went)
    }

    fn no_cursor(&mut self, name: &[u8]) -> Stepped {
        let name = String::from_utf8_lossy(name);
        let text = format!("cursor \"{name}\" does not exist");
        let error = Error::error(Fault::Client, SqlState::INVALID_CURSOR_NAME, text);
        self.failed_with(&error)
    }

    /// Gives the next rows of one.
    async fn fetch_portal(
        &mut self,
        name: &[u8],
        rows: Option<u64>,
        described: bool,
    ) -> Result<Stepped, End> {
        let Ok(mut portal) = self.portal(name) else {
            return Ok(self.no_cursor(name));
        };
        let state = std::mem::replace(&mut portal.state, State::Failed(Why::Error));
        let (went, state) = match state {
            State::Open(merge, flow) => {
                if described {
                    self.stream.send_vec(merge.row_description().to_vec());
                }
                self.execute_open(&portal, rows, "FETCH", (merge, flow))
                    .await?
            }
            state => {
                let what = "FETCH of a portal that is no open cursor";
                (self.failed_with(&refused(what)), state)
            }
        };
        portal.state = state;
        self.sharded().portals.push(portal);
        Ok(went)
    }

    /// Describe of a FETCH. `None`: it is described by a server, if only one has the cursor, by that.
    pub(super) fn describe_fetch(
        &mut self,
        statement: &Prepared,
        bind: Option<&Bind<'_>>,
    ) -> Result<Fetched, Error> {
        if first_keyword(statement.text()) != Keyword::Fetch {
            return Ok(Fetched::At(None));
        }
        let mut steps = self.statements_of(statement.text(), bind, &[])?;
        Ok(match steps.pop().map(|step| step.verdict) {
            Some(Verdict::Fetch { cursor, .. }) => {
                let mut described = match bind {
                    Some(_) => Vec::new(),
                    None => NO_PARAMETERS.to_vec(),
                };
                described.extend_from_slice(self.cursor_description(cursor.as_bytes()));
                Fetched::Here(described)
            }
            Some(Verdict::Run(run)) => Fetched::At(run.place.single()),
            _ => Fetched::At(None),
        })
    }

    /// RowDescription of what FETCH gives.
    pub(super) fn cursor_description(&mut self, name: &[u8]) -> &[u8] {
        let mut portals = self.sharded().portals.iter();
        match portals
            .find(|portal| *portal.name == *name)
            .map(|portal| &portal.state)
        {
            Some(State::Open(merge, _)) => merge.row_description(),
            _ => &NO_DATA,
        }
    }
}

/// What describes a FETCH.
pub(super) enum Fetched {
    /// This.
    Here(Vec<u8>),
    /// The server of this shard, or of any.
    At(Option<usize>),
}

/// ParameterDescription of none.
const NO_PARAMETERS: &[u8] = b"t\0\0\0\x06\0\0";

pub(super) fn already_exists(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name);
    let text = format!("cursor \"{name}\" already exists");
    Error::error(Fault::Client, SqlState::DUPLICATE_CURSOR, text)
}
