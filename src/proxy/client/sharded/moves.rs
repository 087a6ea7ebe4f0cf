//! An UPDATE that moves a row from shard to shard, step by step, in the open transaction.

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::merge::{refused, MergePlan};
use crate::protocol::sqlstate::SqlState;
use crate::routing::moves::{held, too_many, Moving};
use crate::routing::verdict::{Place as At, Run};

use super::super::{End, Session};
use super::call::{Call, Shown};
use super::inquiry::{begin, place, rows};
use super::plan::Planned;
use super::scatter::{self, Outcome};
use super::stop::Stop;
use super::Leg;

impl Session {
    /// Runs the UPDATE on its servers, the one that rows move to among them, and moves the row that has another key now.
    pub(super) async fn run_move(
        &mut self,
        step: &Planned<'_>,
        moving: &Moving,
        legs: &mut [Leg],
    ) -> Result<Outcome, End> {
        self.aim(legs);
        self.link.since.set(self.state.core.now());
        match self.try_move(step, moving, legs).await {
            Ok(outcome) => Ok(outcome),
            Err(stop) => {
                self.tell_stop(stop)?;
                Ok(Outcome::Failed)
            }
        }
    }

    async fn try_move(
        &mut self,
        step: &Planned<'_>,
        moving: &Moving,
        legs: &mut [Leg],
    ) -> Result<Outcome, Stop> {
        let to = legs.iter().position(|leg| leg.shard == moving.to);
        let to = to.ok_or_else(|| refused("this UPDATE"))?;
        let update = step.part(&moving.update, false);
        let mut found = Vec::new();
        for (at, leg) in legs.iter_mut().enumerate() {
            if at != to {
                begin(leg, &update, step.owed());
            }
        }
        let at_work = legs.iter().enumerate().filter(|(at, _)| *at != to);
        let at_work: Vec<_> = at_work
            .map(|(_, leg)| Rc::clone(&leg.held.target))
            .collect();
        // All are heard, whatever one of them says.
        let mut heard = 1;
        let mut stop = None;
        for (at, leg) in legs.iter_mut().enumerate() {
            if at == to {
                continue;
            }
            let at_work = at_work.get(heard..).unwrap_or_default();
            heard += 1;
            match self.hear(leg, at_work).await {
                Ok(answer) => answer.each_row(|row| found.push((at, place(row)))),
                Err(why) => {
                    stop.get_or_insert(why);
                }
            }
        }
        if let Some(stop) = stop {
            return Err(stop);
        }
        let (from, place) = match &mut *found {
            // Rows that are there already have their key changed by their server.
            [] => return Ok(self.run_here(step, legs, to).await?),
            [(from, place)] => (*from, place.take().ok_or_else(|| refused("this UPDATE"))?),
            rows => return Err(too_many(rows.len()).into()),
        };
        begin(&mut legs[to], &update, step.owed());
        let mut here = 0;
        self.hear(&mut legs[to], &[]).await?.each_row(|_| here += 1);
        if here > 0 {
            return Err(too_many(here + 1).into());
        }
        let leg = &mut legs[from];
        let foreign_keys = self
            .inquire(leg, Moving::references(&place).as_bytes())
            .await?;
        for foreign_key in rows(&foreign_keys) {
            let mut texts = foreign_key.iter().map(|value| {
                let value = value.as_deref().unwrap_or_default();
                String::from_utf8_lossy(value).into_owned()
            });
            let name = texts.next().unwrap_or_default();
            let query = texts.next().unwrap_or_default();
            if self.inquire(leg, query.as_bytes()).await?.value() != Some(b"f") {
                return Err(held(&name).into());
            }
        }
        let mut columns: Vec<Box<str>> = Vec::new();
        for row in rows(&self.inquire(leg, moving.columns(&place).as_bytes()).await?) {
            let [name, varies, inherits] = &*row else {
                return Err(refused("this table").into());
            };
            if [varies, inherits]
                .iter()
                .any(|flag| flag.as_deref() != Some(b"f"))
            {
                let what = "a row that moves, of an inheriting table or with money in it,";
                return Err(refused(what).into());
            }
            let name = name.as_deref().unwrap_or_default();
            let name = std::str::from_utf8(name).map_err(|_| refused("this table"))?;
            columns.push(name.into());
        }
        let taken = self
            .inquire(leg, moving.take(&place, &columns).as_bytes())
            .await?;
        let taken = rows(&taken);
        let [_, values, _] = &*taken else {
            return Err(vanished().into());
        };
        let insert = moving.put(&columns, values)?;
        let messages = [step.part(&insert, true)];
        let call = Call {
            messages: &messages,
            owed: step.owed(),
            commits: false,
            shown: Shown::reply(MergePlan::moved_row(), step.is_described(), step.is_query()),
        };
        let to = legs.get_mut(to..=to).unwrap_or_default();
        Ok(scatter::run(self, to, &call, None).await?)
    }

    /// Runs the UPDATE as it is on the server that rows would have moved to.
    async fn run_here(
        &mut self,
        step: &Planned<'_>,
        legs: &mut [Leg],
        to: usize,
    ) -> Result<Outcome, End> {
        let run = Run::at(At::Joined);
        let (messages, owed, described) = step.messages(&run, 0);
        let call = Call {
            messages: &messages,
            owed,
            commits: false,
            shown: Shown::reply(run.merge, described, step.is_query()),
        };
        let to = legs.get_mut(to..=to).unwrap_or_default();
        scatter::run(self, to, &call, None).await
    }
}

fn vanished() -> Error {
    Error::error(
        Fault::Server,
        SqlState::INTERNAL_ERROR,
        "a row that moves is not where its UPDATE has left it",
    )
    .hint("does a trigger change or keep it?")
}
