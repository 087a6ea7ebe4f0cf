//! What a session began with, given back on all servers of its transaction right behind what takes it away
//! (`sql::restore`).

use crate::routing::verdict::Place;
use crate::sql::session::{effects, Effect, Effects};
use crate::sql::set::Change;
use crate::sql::settings::{Own, Settings};
use crate::sql::statement::Modes;

use super::super::super::cluster::Want;
use super::super::{End, Session};
use super::call::{self, Call, Shown};
use super::plan::{Planned, RESULTS};
use super::steps::{too_much, Stepped};

impl Session {
    /// BEGIN where a transaction is open: it has these modes from here on, on its servers and on those that join.
    pub(super) async fn take_on(&mut self, modes: Modes) -> Result<Stepped, End> {
        let Some(text) = modes.statement() else {
            return Ok(Stepped::Done);
        };
        let transaction = &mut self.sharded().transaction;
        if transaction.remember_modes(&text, modes).is_err() {
            return Ok(self.failed_with(&too_much()));
        }
        let does = effects(&text, self.session_dialect());
        self.tell_joined(&text, &does, Want::Write).await
    }

    /// Has all servers of the transaction do this; the client hears of errors only.
    async fn tell_joined(
        &mut self,
        text: &[u8],
        does: &Effects,
        want: Want,
    ) -> Result<Stepped, End> {
        if self.sharded().legs.is_empty() {
            return Ok(Stepped::Done);
        }
        let shards = self.shards_at(&Place::Joined);
        let Some(mut legs) = self.take_legs(&shards, want).await? else {
            return Ok(Stepped::Failed);
        };
        let messages = [call::query(text)];
        let call = Call {
            messages: &messages,
            owed: RESULTS,
            commits: false,
            shown: Shown::Errors,
        };
        let outcome = self.call(&mut legs, &call).await;
        self.end_call(legs, does, outcome)
    }

    /// A SET, RESET or DISCARD has been run on the servers of a transaction: what it has taken away of what the session
    /// began with is set again, there and on those that join later. Outside of a transaction servers are told when they
    /// are next used.
    pub(super) async fn restore(&mut self, step: &Planned<'_>) -> Result<Stepped, End> {
        let baseline = self.settings.baseline();
        let steps = step.effects.steps().iter();
        let statements: Vec<_> = steps
            .flat_map(|step| baseline.restoring(&step.effect))
            .collect();
        for Own { text, change } in statements {
            if self.sharded().transaction.remember(&text).is_err() {
                return Ok(self.failed_with(&too_much()));
            }
            let want = step.want(self.is_decided());
            let does = effects(&text, self.session_dialect()).doing(0, change);
            if self.tell_joined(&text, &does, want).await? == Stepped::Failed {
                return Ok(Stepped::Failed);
            }
        }
        Ok(Stepped::Done)
    }

    /// Does it set what servers report to clients? One has to do it at once, unless it says which one.
    pub(super) fn is_reported(&self, effects: &Effects) -> bool {
        let own = self.slot.reported(&Settings::default());
        effects.steps().iter().any(|step| match &step.effect {
            Effect::Setting(Change::Set { name, .. }) => {
                let known = own.as_ref().is_none_or(|own| own.get(name).is_some());
                known && !Settings::leads(name)
            }
            _ => false,
        })
    }
}
