//! A definition that may make other tables of some that have rows: it is run, what has become of them is looked at, and where one
//! with rows would be looked for elsewhere its transaction fails.

use crate::routing::reshape::Reshaping;
use crate::routing::verdict::Run;
use crate::sharding::schema::Schema;

use super::super::super::cluster::Want;
use super::super::facts::learn_tables;
use super::super::{End, Session};
use super::plan::Planned;
use super::steps::Stepped;
use super::stop::Stop;

impl Session {
    pub(super) async fn run_reshaping(
        &mut self,
        step: &Planned<'_>,
        run: &Run,
        reshaping: &Reshaping,
    ) -> Result<Stepped, End> {
        let before = match self.tables_in_transaction(reshaping).await {
            Ok(before) => before,
            Err(stop) => return self.stopped(stop),
        };
        // The client hears that it is done when it is known that it may be.
        let outer = self.sharded().withheld.replace(Vec::new());
        let went = self.run_as(step, run, None).await?;
        let completion = self.sharded().withheld.take().unwrap_or_default();
        self.sharded().withheld = outer;
        if went == Stepped::Failed {
            return Ok(went);
        }
        if let Err(stop) = self.look_at_tables(reshaping, &before).await {
            return self.stopped(stop);
        }
        match &mut self.sharded().withheld {
            Some(withheld) => *withheld = completion,
            None => self.stream.send_vec(completion),
        }
        Ok(Stepped::Done)
    }

    /// Has it made another table of one with rows?
    async fn look_at_tables(&mut self, reshaping: &Reshaping, before: &Schema) -> Result<(), Stop> {
        let after = self.tables_in_transaction(reshaping).await?;
        let others = reshaping.tables(&self.cluster.sharding, before, &after);
        let mut legs = std::mem::take(&mut self.sharded().legs);
        self.aim(&legs);
        let mut found = Ok(());
        'tables: for another in &others {
            for leg in &mut legs {
                found = match leg.held.run(&another.question()).await {
                    Ok(answer) if answer.value() == Some(b"f") => continue,
                    Ok(_) => Err(another.refused().into()),
                    Err(why) => Err(Stop::of(leg, why)),
                };
                break 'tables;
            }
        }
        self.sharded().legs = legs;
        self.aim(&[]);
        found
    }

    /// The tables as the first shard has them in the open transaction.
    async fn tables_in_transaction(&mut self, reshaping: &Reshaping) -> Result<Schema, Stop> {
        let mut leg = self.take_leg(0, Want::Write).await??;
        self.aim(std::slice::from_ref(&leg));
        let learnt = learn_tables(&mut leg.held, reshaping.references).await;
        let learnt = learnt.map_err(|why| Stop::of(&leg, why));
        self.keep(leg);
        learnt
    }

    /// The client is told.
    fn stopped(&mut self, stop: Stop) -> Result<Stepped, End> {
        self.tell_stop(stop)?;
        self.sharded().transaction.fail();
        Ok(Stepped::Failed)
    }
}
