//! The end of a transaction on all its servers.

use std::sync::Arc;

use crate::config::choice::PoolerMode;
use crate::protocol::backend::TransactionStatus;
use crate::sql::session::Effect;

use super::super::{End, Session};
use super::call::{self, Call, Shown};
use super::plan::RESULTS;
use super::scatter::Outcome;
use super::steps::Stepped;
use super::two_phase::Fared;
use super::Leg;

impl Session {
    /// COMMIT on all servers of the transaction. `tag`: the client asked for it, and is told.
    pub(super) async fn commit(
        &mut self,
        chain: bool,
        tag: Option<&'static str>,
    ) -> Result<Stepped, End> {
        let legs = std::mem::take(&mut self.sharded().legs);
        self.end_transaction(legs, chain, b"COMMIT", tag).await
    }

    /// ROLLBACK on all servers of the transaction.
    pub(super) async fn roll_back(&mut self, chain: bool) -> Result<(), End> {
        let legs = std::mem::take(&mut self.sharded().legs);
        let ended = self.end_transaction(legs, chain, b"ROLLBACK", None);
        ended.await.map(drop)
    }

    async fn end_transaction(
        &mut self,
        legs: Vec<Leg>,
        chain: bool,
        text: &[u8],
        tag: Option<&'static str>,
    ) -> Result<Stepped, End> {
        let commits = text == b"COMMIT";
        // Those that are kept may have no part in it.
        let is_idle = |leg: &Leg| leg.held.exchange.status() == TransactionStatus::Idle;
        let (idle, open) = legs.into_iter().partition(is_idle);
        self.sharded().legs = idle;
        let mut legs: Vec<Leg> = open;
        let mut fared = Fared::Committed;
        let mut readers = Vec::new();
        if commits && self.commits_in_two_phases(&legs, tag.is_some()) {
            (legs, readers) = legs.into_iter().partition(|leg| leg.does.changes);
            fared = self.end_readers(&mut readers, &mut legs).await?;
        }
        if fared == Fared::RolledBack {
            // All of it is over.
        } else if commits && self.commits_in_two_phases(&legs, tag.is_some()) {
            fared = self.commit_in_two_phases(&mut legs).await?;
        } else if !legs.is_empty() {
            if commits {
                // None of them commits if one of them is known to be gone.
                if let Err(end) = self.hear_now(&mut legs).await {
                    self.sharded().legs.extend(legs);
                    return Err(end);
                }
            }
            let messages = [call::query(text)];
            let call = Call {
                messages: &messages,
                owed: RESULTS,
                commits,
                shown: Shown::Errors,
            };
            let outcome = self.call(&mut legs, &call).await;
            fared = match outcome {
                Ok(Outcome::Done(_)) => Fared::Committed,
                Ok(Outcome::Failed) => Fared::RolledBack,
                Err(end) => {
                    self.sharded().legs.extend(legs);
                    return Err(end);
                }
            };
        }
        legs.append(&mut readers);
        legs.append(&mut self.sharded().legs);
        let failed = fared == Fared::RolledBack;
        let chain = chain && fared == Fared::Committed;
        self.sharded().end_transaction(chain);
        // Servers that have prepared or committed keep what was set, even if the transaction as a whole is rolled back.
        let set = !Arc::ptr_eq(self.settings.current(), self.settings.committed());
        let unsure = failed && set;
        let (effect, text) = match commits && !failed {
            true => (Effect::Commit { chain }, text),
            false => (Effect::Rollback { chain }, &b"ROLLBACK"[..]),
        };
        {
            let mut store = self.state.settings.borrow_mut();
            self.settings.succeeded(&effect, text, &mut store);
        }
        self.note_reports();
        let status = self.status().as_byte();
        self.settings
            .ready(status, &mut self.state.settings.borrow_mut());
        self.tracker = None;
        // What was noted of ties concerns one of these servers; which one, nobody has asked.
        let keeps = self.manner.mode == PoolerMode::Session && !unsure;
        let kept = keeps || legs.iter().any(|leg| leg.kept && !unsure);
        let ties = match kept {
            true => self.ties,
            false => self.let_go(),
        };
        for leg in legs {
            if keeps || leg.kept && !unsure {
                self.keep(leg);
            } else {
                let scrub = leg.scrub || if kept { ties.asks() } else { ties.scrub() };
                self.release(leg.held, unsure || scrub);
            }
        }
        self.aim(&[]);
        if fared != Fared::Committed {
            return Ok(Stepped::Failed);
        }
        if let Some(tag) = tag {
            self.complete(tag);
        }
        Ok(Stepped::Done)
    }

    /// In front of a commit in two phases: servers that have only read have nothing to prepare, and their COMMIT is their
    /// vote. If one of them refuses, the others are rolled back.
    async fn end_readers(&mut self, readers: &mut [Leg], others: &mut [Leg]) -> Result<Fared, End> {
        let ending = |messages| Call {
            messages,
            owed: RESULTS,
            commits: false,
            shown: Shown::Errors,
        };
        if readers.is_empty() {
            return Ok(Fared::Committed);
        }
        let messages = [call::query(b"COMMIT")];
        if self.call(readers, &ending(&messages)).await? != Outcome::Failed {
            return Ok(Fared::Committed);
        }
        if !others.is_empty() {
            let messages = [call::query(b"ROLLBACK")];
            self.call(others, &ending(&messages)).await?;
        }
        Ok(Fared::RolledBack)
    }
}
