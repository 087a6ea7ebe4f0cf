//! An INSERT of a query's rows into a table that is everywhere: its first server does it, and the others store what that has stored.

use crate::merge::MergePlan;
use crate::protocol::backend::NO_DATA;
use crate::routing::echo::{vanished, Echo};
use crate::routing::moves::Place;

use super::super::{End, Session};
use super::call::{Call, Shown};
use super::inquiry::{begin, place, rows};
use super::plan::{Planned, Wanted};
use super::scatter::{self, Outcome};
use super::stop::Stop;
use super::Leg;

impl Session {
    /// Runs it, in the open transaction.
    pub(super) async fn run_echo(
        &mut self,
        step: &Planned<'_>,
        echo: &Echo,
        legs: &mut [Leg],
    ) -> Result<Outcome, End> {
        self.aim_anew(legs);
        self.link.since.set(self.state.core.now());
        let places = match self.store(step, echo, legs).await {
            Ok(places) => places,
            Err(stop) => {
                self.tell_stop(stop)?;
                return Ok(Outcome::Failed);
            }
        };
        if let Some(returned) = echo.returning(&places) {
            let messages = [step.part(&returned, true)];
            let stored = step.wanted == Wanted::Stored;
            let (described, plan) = (step.is_described(), MergePlan::inserted_rows());
            let call = Call {
                messages: &messages,
                owed: step.owed(),
                commits: false,
                shown: Shown::reply(plan, described || stored, step.is_query()),
            };
            let first = legs.get_mut(..1).unwrap_or_default();
            return match stored {
                true => self.call_and_store(first, &call, described).await,
                false => scatter::run(self, first, &call, None).await,
            };
        }
        if !step.is_query() && step.is_described() {
            self.stream.write(&NO_DATA);
        }
        let tag = format!("INSERT 0 {}", places.len());
        self.complete(&tag);
        Ok(Outcome::Done(tag.into_bytes()))
    }

    /// Where the first server has the rows that all have stored.
    async fn store(
        &self,
        step: &Planned<'_>,
        echo: &Echo,
        legs: &mut [Leg],
    ) -> Result<Vec<Place>, Stop> {
        let Some((first, others)) = legs.split_first_mut() else {
            return Ok(Vec::new());
        };
        begin(first, &step.part(&echo.insert, false), step.owed());
        let mut places = Vec::new();
        self.hear(first, &[])
            .await?
            .each_row(|row| places.extend(place(row)));
        let mut stored = 0;
        // Some at a time, so that not all of them are here at once.
        for text in echo.read(&places) {
            let answer = self.inquire(first, text.as_bytes()).await?;
            let found = rows(&answer);
            // Those of settings are around them.
            let found = found
                .get(1..found.len().saturating_sub(1))
                .unwrap_or_default();
            stored += found.len();
            let Some(text) = echo.put(found)? else {
                continue;
            };
            for leg in &mut *others {
                self.inquire(leg, &text).await?;
            }
        }
        match stored == places.len() {
            true => Ok(places),
            false => Err(vanished().into()),
        }
    }
}
