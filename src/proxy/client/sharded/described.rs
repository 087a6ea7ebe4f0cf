//! Describe: what rows a statement or portal has. Of a statement a server is asked; of a portal, too, unless servers have it
//! already, or its rows come with their description.

use crate::error::Error;
use crate::merge::refused;
use crate::prepared::Statement;
use crate::protocol::backend::{tag, NO_DATA};
use crate::protocol::exchange::{Fate, Owed};
use crate::protocol::frontend::{Bind, Parse, Target, SYNC};
use crate::routing::copy::Copying;
use crate::routing::verdict::Verdict;
use crate::sql::session::Effects;
use crate::types::shape::Shape;

use super::super::super::cluster::Want;
use super::super::{End, Session};
use super::call::{Answers, Call, Shown};
use super::cursors::Fetched;
use super::execute::describing;
use super::portals::{Portal, State};
use super::steps::Stepped;

/// What answers Describe of a portal that a server has under the client's name.
const AFAR_DESCRIBED: &Answers = &[
    (Owed::Description, Fate::Forward),
    (Owed::Ready, Fate::Forward),
];

/// What answers the Sync behind a Describe.
const SYNCED: &Answers = &[(Owed::Ready, Fate::Forward)];

impl Session {
    /// Describe of a statement. What the client is told is known from then on.
    pub(super) async fn describe_statement(&mut self, name: &[u8]) -> Result<Stepped, End> {
        let statement = self
            .statement(name)
            .and_then(|statement| self.as_executed(statement, None));
        let statement = match statement {
            Ok(statement) => statement,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        self.sharded().shown = None;
        let went = self.describe(&statement, None).await?;
        // Of EXECUTE it depends on what that names when it is executed.
        let lasting = self.renames(name.is_empty()) && self.executed_by(&statement).is_none();
        if let Some(shape) = self.sharded().shown.take().filter(|_| lasting) {
            self.statements.describing(name);
            self.statements.described(shape);
        }
        Ok(went)
    }

    /// The client gets this of what describes a statement or portal.
    pub(super) fn note_shown(&mut self, tag: u8, body: &[u8]) {
        let rows = match tag {
            tag::ROW_DESCRIPTION => Some(body),
            tag::NO_DATA => None,
            _ => return,
        };
        self.sharded().shown = Some(Shape::of(rows));
    }

    /// The description of a portal's rows: with its rows, if it is executed at once.
    pub(super) async fn describe_portal(
        &mut self,
        name: &[u8],
        follows: bool,
    ) -> Result<Stepped, End> {
        if let Some(shard) = self.sharded().afar.shard_of(name) {
            let mut messages = Vec::new();
            Target::Portal(name).encode_describe(&mut messages);
            messages.extend_from_slice(&SYNC);
            return self
                .call_at(&[shard], messages, AFAR_DESCRIBED, Shown::Description)
                .await;
        }
        let mut portal = match self.portal(name) {
            Ok(portal) => portal,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let went = self.describe_one(&mut portal, follows).await;
        self.sharded().portals.push(portal);
        went
    }

    async fn describe_one(&mut self, portal: &mut Portal, follows: bool) -> Result<Stepped, End> {
        if let State::Open(merge, _) = &portal.state {
            self.stream.write(merge.row_description());
            return Ok(Stepped::Done);
        }
        let Ok(bind) = Bind::parse(&portal.bind) else {
            return Ok(self.failed_with(&Error::protocol_violation("Bind")));
        };
        let planned = match self.plan_portal(&portal.statement, &bind, false).await? {
            Ok(planned) => planned,
            Err(error) => return Ok(self.failed_with(&error)),
        };
        match planned.map(|planned| planned.verdict) {
            Some(Verdict::Fetch { cursor, .. }) if !follows => {
                let described = self.cursor_description(cursor.as_bytes()).to_vec();
                self.stream.send_vec(described);
            }
            // Its servers run a query, of which they would describe rows.
            Some(Verdict::Run(run)) if matches!(run.copying, Some(Copying::Written(_))) => {
                self.stream.write(&NO_DATA);
            }
            Some(Verdict::Run(_) | Verdict::Fetch { .. }) => {
                if !follows || !matches!(portal.state, State::Bound) {
                    return self.describe(&portal.statement, Some(&bind)).await;
                }
                portal.described = true;
            }
            _ => self.stream.write(&NO_DATA),
        }
        Ok(Stepped::Done)
    }

    /// Asks a server for the description of a statement, or of a portal.
    async fn describe(
        &mut self,
        statement: &Statement,
        bind: Option<&Bind<'_>>,
    ) -> Result<Stepped, End> {
        if statement.is_sql() {
            let what = "Describe of a statement that was made by PREPARE";
            return Ok(self.failed_with(&refused(what)));
        }
        let (messages, owed) = match self.executed_by(statement) {
            Some(executed) => describing(&executed, bind),
            None => {
                let mut messages = Vec::new();
                Parse::encode_content(&mut messages, b"", statement.definition());
                let owed = put_describe(bind, &mut messages);
                messages.extend_from_slice(&SYNC);
                (
                    messages,
                    [&[(Owed::ParseComplete, Fate::Forward)], owed, SYNCED].concat(),
                )
            }
        };
        let shard = match self.describe_fetch(statement, bind) {
            Ok(Fetched::Here(described)) => {
                self.stream.send_vec(described);
                return Ok(Stepped::Done);
            }
            Ok(Fetched::At(shard)) => shard.unwrap_or_else(|| self.any_shard()),
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let mut legs = match self.take_leg(shard, Want::Write).await? {
            Ok(leg) => vec![leg],
            Err(error) => return Ok(self.failed_with(&error)),
        };
        let call = Call {
            messages: &[messages],
            owed: &owed,
            commits: false,
            shown: Shown::Description,
        };
        let outcome = self.call(&mut legs, &call).await;
        self.end_call(legs, &Effects::default(), outcome)
    }
}

/// Describe of the unnamed statement, or of its portal, which is bound. What that is answered.
pub(super) fn put_describe(bind: Option<&Bind<'_>>, messages: &mut Vec<u8>) -> &'static Answers {
    match bind {
        Some(bind) => {
            bind.encode_for(messages, b"");
            Target::Portal(b"").encode_describe(messages);
            &[
                (Owed::BindComplete, Fate::Forward),
                (Owed::Description, Fate::Forward),
            ]
        }
        None => {
            Target::Statement(b"").encode_describe(messages);
            &[(Owed::Description, Fate::Forward)]
        }
    }
}
