//! What the client gets of the legs' rows, and when: in order or in turns, as far as they have come.

use super::columns::put_keys;
use super::groups::Groups;
use super::leg::{End, Leg};
use super::paced::Pace;
use super::parts::{First, Parts};
use super::plan::Source;
use super::turns::Next;
use super::{broken, completion, Merge, Progress, Rows, Stage};
use crate::error::{Error, Fault};
use crate::protocol::backend::{
    CommandComplete, COPY_DONE, EMPTY_QUERY_RESPONSE, PORTAL_SUSPENDED,
};
use crate::protocol::frame::HEADER_BYTES;
use crate::protocol::sqlstate::SqlState;

/// Groups that are finished before other tasks get their turn.
const GROUPS_AT_A_TIME: usize = 1024;

impl Merge {
    /// Gives the client what is ready, up to where `out` has `end` bytes.
    pub(super) fn advance(&mut self, end: usize, out: &mut Vec<u8>) -> Result<Progress, Error> {
        if self.stage != Stage::Open {
            return Ok(if self.all_ended() {
                Progress::Done
            } else {
                Progress::Reading
            });
        }
        if matches!(self.rows, Rows::Ordered(_)) && !self.merge_ordered(end, out)? {
            return Ok(Progress::Writing);
        }
        if !self.take_turns(end, out)? || !self.pass_queued(end, out)? {
            return Ok(Progress::Writing);
        }
        // What LIMIT leaves out is not asked for.
        let full = self.sink.is_full();
        let over = |leg: &Leg| leg.end.is_some() || leg.suspended && full;
        match self.is_paused() {
            true if self.legs.iter().all(Leg::is_quiet) => return Ok(Progress::Suspended),
            false if self.legs.iter().all(over) => {}
            true | false => return Ok(Progress::Reading),
        }
        if !self.uniform.is_settled() || self.legs.iter().any(|leg| !leg.is_empty()) {
            return Err(broken("shards answer with different messages"));
        }
        if let Rows::Grouped(groups) = &mut self.rows {
            let groups = std::mem::take(groups);
            // PostgreSQL does not even begin for LIMIT 0.
            let begins = self.columns.is_some() && !full;
            self.rows = Rows::Giving(if begins { groups } else { Groups::default() }.into());
        }
        if !matches!(self.rows, Rows::Giving(_)) || full {
            return self.end(out);
        }
        self.give_groups(end, out)
    }

    /// Gives the client the rows of groups, and the end of the reply.
    fn give_groups(&mut self, end: usize, out: &mut Vec<u8>) -> Result<Progress, Error> {
        loop {
            if self.pace.is_reached(self.sink.given()) {
                return Ok(Progress::Suspended);
            }
            let (Rows::Giving(groups), Some(columns)) = (&mut self.rows, &self.columns) else {
                break;
            };
            if self.sink.is_full() {
                break;
            }
            if out.len() >= end || !groups.prepare(columns, &mut self.places, GROUPS_AT_A_TIME)? {
                return Ok(Progress::Writing);
            }
            let first = (self.parts).first(groups.front(), columns.is_all_or_nothing());
            let row = match first {
                First::Own => groups.front().map(|(order, body)| (&**order, &**body)),
                First::Of(part) => self.parts.front(part),
                First::Unknown => return Ok(Progress::Reading),
                First::Nothing => None,
            };
            let Some((order, body)) = row else {
                break;
            };
            let row = self.places.find(body, columns.count)?;
            self.sink.row(&columns.distinct, row, order, out)?;
            match first {
                First::Of(part) => self.parts.pop(part),
                _ => groups.pop(),
            }
        }
        self.end(out)
    }

    /// The end of the reply.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<Progress, Error> {
        self.complete(out)?;
        self.rows = Rows::Pass;
        self.parts = Parts::default();
        self.legs.iter_mut().for_each(Leg::clear);
        self.sink.forget();
        Ok(Progress::Done)
    }

    /// Passes rows on as far as it is their turn. False: there was no room for more.
    fn take_turns(&mut self, end: usize, out: &mut Vec<u8>) -> Result<bool, Error> {
        let (Rows::Turns(turns), Some(_)) = (&mut self.rows, &self.columns) else {
            return Ok(true);
        };
        loop {
            if out.len() >= end {
                return Ok(false);
            }
            let Next::Row(index) = turns.next(&self.legs)? else {
                return Ok(true);
            };
            let Some(leg) = self.legs.get_mut(index) else {
                return Ok(true);
            };
            if self.sink.pass() {
                out.extend_from_slice(leg.front().unwrap_or_default());
            }
            leg.pop();
        }
    }

    /// Passes rows on as far as the order allows. False: there was no room for more.
    fn merge_ordered(&mut self, end: usize, out: &mut Vec<u8>) -> Result<bool, Error> {
        let (Rows::Ordered(heads), Some(columns)) = (&mut self.rows, &self.columns) else {
            return Ok(true);
        };
        loop {
            if self.pace.is_reached(self.sink.given()) {
                return Ok(true);
            }
            if self.sink.is_full() {
                self.legs.iter_mut().for_each(Leg::clear);
                return Ok(true);
            }
            let mut complete = true;
            for (index, leg) in self.legs.iter().enumerate() {
                if !heads.is_absent(index) {
                    continue;
                }
                let passes = self.plan.source != Source::FirstLeg || index == 0;
                let Some(message) = leg.front().filter(|_| passes) else {
                    complete &= leg.end.is_some() || !passes;
                    continue;
                };
                let body = message.get(HEADER_BYTES..).unwrap_or_default();
                let row = self.places.find(body, columns.count)?;
                if !heads.add(index, |key| put_keys(&columns.order, row, key))? {
                    return Err(Error::error(
                        Fault::Server,
                        SqlState::INTERNAL_ERROR,
                        format!("rows of shard {index} are not in the order that was asked for"),
                    ));
                }
            }
            if !complete {
                return Ok(true);
            }
            let Some((first, order)) = heads.first() else {
                return Ok(true);
            };
            if out.len() >= end {
                return Ok(false);
            }
            if let Some(leg) = self.legs.get_mut(first) {
                let body = leg
                    .front()
                    .and_then(|message| message.get(HEADER_BYTES..))
                    .unwrap_or_default();
                let row = self.places.find(body, columns.count)?;
                self.sink.row(&columns.distinct, row, order, out)?;
                leg.pop();
            }
            heads.take();
        }
    }

    /// All legs have ended, and the client has got all rows.
    fn complete(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Pace::Slices { before, verb, .. } = self.pace {
            let tag = format!("{verb} {}", self.sink.given() - before);
            self.stage = Stage::Complete;
            CommandComplete {
                tag: tag.as_bytes(),
            }
            .encode(out);
            return Ok(());
        }
        if self.pace == Pace::First(self.sink.given()) {
            self.stage = Stage::Complete;
            out.extend_from_slice(&PORTAL_SUSPENDED);
            return Ok(());
        }
        let ends = || self.legs.iter().filter_map(|leg| leg.end.as_ref());
        if ends().all(|end| *end == End::Empty) {
            self.stage = Stage::Complete;
            out.extend_from_slice(&EMPTY_QUERY_RESPONSE);
            return Ok(());
        }
        let tags = ends().map(|end| match end {
            End::Complete(tag) => &**tag,
            End::Empty | End::Failed => b"",
        });
        let tag = completion::tag(self.plan.completion, self.sink.given(), tags)?;
        if self.legs.iter().any(|leg| leg.copy_done) {
            self.copied.put_end(out);
            out.extend_from_slice(&COPY_DONE);
        }
        CommandComplete { tag: &tag }.encode(out);
        self.stage = Stage::Complete;
        Ok(())
    }
}
