//! Types of users, which each shard numbers itself while clients see the numbers of the first one: what passes as it is, and what has
//! to be looked into. Only what is run here (`super::steps`) is.

use std::collections::{HashMap, HashSet};

use crate::error::Error;
use crate::merge::refused;
use crate::prepared::{Id, Statement};
use crate::protocol::backend::tag;
use crate::protocol::frame::{Frames, BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::frontend::{Bind, Parse, Target, SYNC};
use crate::protocol::rows::ParameterDescription;
use crate::sql::session::Effects;
use crate::sql::settings::Settings;
use crate::types::canonical::{each, Canonical, Columns};
use crate::types::contents::{may_contain, Contents};

use super::super::super::cluster::Want;
use super::super::{End, Session};
use super::batch::malformed;
use super::call::{Call, Shown};
use super::gather::DESCRIPTION;
use super::kept::{Kept, Messages};
use super::portals::Portal;
use super::steps::Stepped;

/// Statements of which is known that their rows have no OIDs within; beyond that all are forgotten.
const PLAIN_MAX: usize = 4096;

/// Bytes of what a session has set of where names are looked for; with more, its statements are not known.
const LEADING_BYTES_MAX: usize = 1024;

/// Statements whose rows can pass as they are.
#[derive(Default)]
pub(crate) struct PlainRows {
    /// What was known of the database then, by its number.
    facts: u64,
    /// With what the session had set of where names are looked for.
    statements: HashMap<Id, Vec<u8>>,
}

impl PlainRows {
    fn of(&mut self, facts: u64) -> &mut HashMap<Id, Vec<u8>> {
        if self.facts != facts || self.statements.len() >= PLAIN_MAX {
            self.facts = facts;
            self.statements.clear();
        }
        &mut self.statements
    }
}

impl Session {
    /// Errors: a parameter is declared with a type that not all shards have, or that has a number on each of which the client
    /// knows one.
    pub(super) fn check_types(&self, parse: &Parse<'_>) -> Result<(), Error> {
        self.check_declared(parse.types.iter())
    }

    /// The same of these types.
    pub(super) fn check_declared(
        &self,
        types: impl Iterator<Item = u32> + Clone,
    ) -> Result<(), Error> {
        let facts = self.cluster.known();
        let Some(disagreement) = facts.disagreement() else {
            return Ok(());
        };
        let any = |of: &HashSet<u32>| types.clone().any(|oid| of.contains(&oid));
        if any(&disagreement.lacking) {
            return Err(refused(
                "a parameter declared with a type that not all shards have",
            ));
        }
        let renumbered = self.state.config().routing.canonical_types;
        let one_shard = || self.settings.current().get(b"pgdog.shard").is_some();
        if !renumbered && any(&disagreement.differing) && !one_shard() {
            return Err(refused(
                "a parameter declared with a type whose OID differs between shards, without \
                 canonicalize_type_information,",
            ));
        }
        Ok(())
    }

    /// Can any shard's server have this Parse as it has come?
    pub(super) fn is_declared_alike(&self, parse: &Parse<'_>) -> bool {
        let facts = self.cluster.known();
        let differing = facts.disagreement().map(|found| &found.differing);
        let differs = |oid| differing.is_some_and(|differing| differing.contains(&oid));
        self.renames(parse.statement.is_empty())
            || facts.contents().is_none()
            || !parse.types.iter().any(differs)
    }

    /// Are the values of this Bind, and the rows that come of it, the same whichever server has it?
    pub(super) fn is_bound_alike(&self, content: &[u8], bind: &Bind<'_>) -> bool {
        let facts = self.cluster.known();
        let Some(contents) = facts.contents() else {
            return true;
        };
        let (Ok(parse), Ok(arguments)) = (Parse::of_content(content), bind.arguments()) else {
            return true; // a server says what is wrong
        };
        let number = self.cluster.facts_number.get();
        let binary = arguments.result_formats.iter().any(|format| format == 1);
        let plain = || {
            let statement = self.intern(content);
            let mut known = self.cluster.plain_rows.borrow_mut();
            let leading = self.leading();
            statement.is_ok_and(|found| known.of(number).get(&found.id()) == Some(&leading))
        };
        let carries = |(value, oid)| match oid {
            0 => self.may_be_foreign(value),
            oid => contents.carries(oid),
        };
        !(binaries(bind, &parse).any(carries) || binary && !plain())
    }

    /// May a value of a type that nobody has declared have OIDs within that are others elsewhere?
    fn may_be_foreign(&self, value: &[u8]) -> bool {
        let facts = self.cluster.known();
        let disagreement = facts.disagreement();
        disagreement.is_some_and(|found| may_contain(value, |oid| found.differing.contains(&oid)))
    }

    /// Rows of a portal were described. `carrying`: with OIDs within, if they are in binary format.
    pub(super) fn note_rows(&self, statement: &Statement, carrying: bool) {
        let number = self.cluster.facts_number.get();
        if !carrying && self.cluster.known().contents().is_some() {
            let leading = self.leading();
            if leading.len() <= LEADING_BYTES_MAX {
                let mut known = self.cluster.plain_rows.borrow_mut();
                known.of(number).insert(statement.id(), leading);
            }
        }
    }

    /// What is set of where names are looked for.
    fn leading(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let settings = self.settings.current().iter();
        for setting in settings.filter(|setting| Settings::leads(&setting.name)) {
            for part in [&*setting.name, setting.value.sql()] {
                out.extend_from_slice(part);
                out.push(0);
            }
        }
        out
    }

    /// Values of parameters whose types the client has not declared may have OIDs within: a server says what types they are, and
    /// then they are declared.
    pub(super) async fn declare_values(&mut self, portal: &mut Portal) -> Result<Stepped, End> {
        let statement = &portal.statement;
        let foreign = |bind: &Bind<'_>, parse: &Parse<'_>| {
            binaries(bind, parse).any(|(value, oid)| oid == 0 && self.may_be_foreign(value))
        };
        let parse = Parse::of_content(statement.definition());
        let (Ok(parse), Ok(bind)) = (parse, Bind::parse(&portal.bind)) else {
            return Ok(Stepped::Done); // said when it is executed
        };
        let asks = self.cluster.known().contents().is_some() && !statement.is_sql();
        if !asks || !foreign(&bind, &parse) {
            return Ok(Stepped::Done);
        }
        let query = parse.query.to_vec();
        let mut messages = Vec::new();
        Parse::encode_content(&mut messages, b"", statement.definition());
        Target::Statement(b"").encode_describe(&mut messages);
        messages.extend_from_slice(&SYNC);
        let call = Call {
            messages: &[messages],
            owed: DESCRIPTION,
            commits: false,
            shown: Shown::Description,
        };
        let shard = self.any_shard();
        let mut legs = match self.take_leg(shard, Want::Write).await? {
            Ok(leg) => vec![leg],
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let mut kept = Kept::whole();
        let outcome = self.call_for(&mut legs, &call, &mut kept).await;
        let went = self.end_call(legs, &Effects::default(), outcome)?;
        if let (Stepped::Failed, Some(error)) = (went, kept.error) {
            self.sharded().transaction.fail();
            self.link.meter.error();
            self.stream.send_vec(error);
            return Ok(Stepped::Failed);
        }
        let Messages::Whole(answer) = &kept.messages else {
            return Ok(went);
        };
        let frames = Frames::new(answer, BODY_BYTES_MAX).map_while(Result::ok);
        let mut told = frames.filter(|frame| frame.tag == tag::PARAMETER_DESCRIPTION);
        let types = told.next().and_then(|frame| {
            let told = ParameterDescription::parse(frame.body).ok()?;
            Some(told.types.iter().collect::<Vec<u32>>())
        });
        let mut declared = Vec::new();
        Parse::encode(&mut declared, b"", &query, types.unwrap_or_default());
        let made = Parse::parse(declared.get(HEADER_BYTES..).unwrap_or_default())
            .map_err(malformed)
            .and_then(|parse| self.intern(parse.content()));
        match made {
            Ok(made) => portal.statement = made,
            Err(error) => return Ok(self.failed_with(&error)),
        }
        Ok(went)
    }
}

/// The values of a Bind that are in binary format, but NULL, with the types that are declared for them, 0 where none is.
fn binaries<'b>(
    bind: &Bind<'b>,
    parse: &'b Parse<'_>,
) -> impl Iterator<Item = (&'b [u8], u32)> + 'b {
    let arguments = bind.arguments().ok();
    let values = arguments.into_iter().flat_map(|arguments| {
        let formats = arguments.formats;
        let values = arguments.values().enumerate();
        values.map(move |(at, value)| value.filter(|_| formats.of(at) == Some(1)))
    });
    let declared = parse.types.iter().chain(std::iter::repeat(0));
    let typed = values.zip(declared);
    typed.filter_map(|(value, oid)| Some((value?, oid)))
}

/// Whole messages of a server, and bytes of one that is not: their rows as the client is to see them. True: they were described as
/// having OIDs within, if they are in binary format.
pub(super) fn renumber_rows(
    messages: &mut [u8],
    columns: &mut Columns,
    contents: &Contents,
    server: Option<&Canonical>,
) -> bool {
    let mut carrying = false;
    each(messages, |tag, body| match (tag, server) {
        (tag::ROW_DESCRIPTION, _) => {
            *columns = Columns::of(body, contents);
            carrying |= Columns::could_be(body, contents);
        }
        (tag::DATA_ROW, Some(server)) if !columns.is_empty() => server.apply_to_row(columns, body),
        _ => {}
    });
    carrying
}
