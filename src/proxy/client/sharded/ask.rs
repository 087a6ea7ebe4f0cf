//! A statement with values of its servers: one of them is asked for these first, in the open transaction if there is one, and then it is
//! another statement, which all get.

use crate::error::Error;
use crate::merge::refused;
use crate::routing::asking::calls_others;
use crate::routing::verdict::Place;
use crate::sql::asked::Asking;
use crate::sql::session::Effects;

use super::super::super::cluster::Want;
use super::super::{End, Session};
use super::plan::Planned;
use super::steps::in_failed_transaction;
use super::stop::Stop;

impl Session {
    /// The text of the statement with its values. `None`: it cannot be had, and the client was told.
    pub(super) async fn ask_first(
        &mut self,
        (asking, place): (&Asking, &Place),
    ) -> Result<Option<Vec<u8>>, End> {
        let asked = match self.sharded().transaction.is_failed() {
            true => Err(in_failed_transaction().into()),
            false => self.asked(asking, place).await,
        };
        match asked {
            Ok(text) => Ok(Some(text)),
            Err(stop) => {
                self.tell_stop(stop)?;
                self.sharded().transaction.fail();
                Ok(None)
            }
        }
    }

    async fn asked(&mut self, asking: &Asking, place: &Place) -> Result<Vec<u8>, Stop> {
        let shards = self.shards_at(place);
        let shard = shards.first().copied().unwrap_or_default();
        let mut leg = self.take_leg(shard, Want::Write).await??;
        leg.does.counts |= asking.counts();
        if self.may_change(asking.question()) {
            leg.does.changes = true;
            self.counts_on(&leg.held);
        }
        self.aim(std::slice::from_ref(&leg));
        let answered = self.inquire(&mut leg, asking.question()).await;
        let tag = answered.is_ok().then_some(&b"SELECT"[..]);
        self.end_step(vec![leg], &Effects::default(), tag);
        let answer = answered?;
        let mut values = Vec::new();
        answer.each_row(|row| values.push(row.first().copied().flatten().map(<[u8]>::to_vec)));
        Ok(asking.statement(&values)?)
    }

    /// May a question do more than read, and take numbers from sequences? A default may be anybody's function.
    fn may_change(&self, question: &[u8]) -> bool {
        let dialect = self.session_dialect();
        let analysis = {
            let mut cache = self.cluster.analyses.borrow_mut();
            cache.analyse(question, dialect).analysis
        };
        let facts = self.cluster.known();
        match &analysis.statements {
            Ok(statements) => statements
                .iter()
                .any(|one| calls_others(one, &facts.functions)),
            Err(_) => true,
        }
    }

    /// The one statement of a text that has come in a Query.
    pub(super) async fn planned_anew<'t>(
        &mut self,
        text: &'t [u8],
    ) -> Result<Result<Planned<'t>, Error>, End> {
        let steps = self.plans_of(text).await?;
        Ok(steps.and_then(|mut steps| match (steps.pop(), &*steps) {
            (Some(only), []) => Ok(only),
            _ => Err(refused("this statement")),
        }))
    }
}
