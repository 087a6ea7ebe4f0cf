//! Results that are here before the client gets them in slices: of what is done at once, whatever its client fetches.

use crate::error::Error;
use crate::protocol::backend::{tag, CommandComplete, PORTAL_SUSPENDED};
use crate::protocol::frame::{peek, Frames, BODY_BYTES_MAX};

use super::super::{End, Session};
use super::call::Call;
use super::charge::Charge;
use super::kept::{Kept, Messages};
use super::portals::Left;
use super::scatter::Outcome;
use super::Leg;

/// Rows that are here.
pub(super) struct Stored {
    /// DataRows, one behind the other; those before `at` are given.
    rows: Vec<u8>,
    at: usize,
    tag: Vec<u8>,
    held: Charge,
}

impl Stored {
    /// The next rows, and what follows them: PortalSuspended, or CommandComplete after the last.
    pub(super) fn give(&mut self, rows: Option<u64>) -> Vec<u8> {
        let mut given = 0;
        let from = self.at;
        while rows.is_none_or(|rows| given < rows) {
            let rest = self.rows.get(self.at..).unwrap_or_default();
            let Ok(Some(header)) = peek(rest, BODY_BYTES_MAX) else {
                break;
            };
            self.at += header.frame_bytes();
            given += 1;
        }
        let mut out = self.rows.get(from..self.at).unwrap_or_default().to_vec();
        if rows == Some(given) {
            out.extend_from_slice(&PORTAL_SUSPENDED);
            return out;
        }
        // As PostgreSQL: the rows of this slice.
        let complete = CommandComplete { tag: &self.tag };
        let tag = match complete.split() {
            (command, Some(_)) => [command, b" ", given.to_string().as_bytes()].concat(),
            _ => self.tag.clone(),
        };
        CommandComplete { tag: &tag }.encode(&mut out);
        self.rows = Vec::new();
        self.at = 0;
        let _: Result<(), Error> = self.held.set(0);
        out
    }
}

impl Session {
    /// Runs a call whose rows the client gets in slices, and keeps them.
    pub(super) async fn call_and_store(
        &mut self,
        legs: &mut [Leg],
        call: &Call<'_>,
        described: bool,
    ) -> Result<Outcome, End> {
        let mut kept = Kept::whole();
        let outcome = self.call_for(legs, call, &mut kept).await?;
        if outcome == Outcome::Failed {
            self.link.meter.error();
            self.stream.send_vec(kept.error.unwrap_or_default());
            return Ok(outcome);
        }
        let Messages::Whole(bytes) = kept.messages else {
            return Ok(outcome);
        };
        let mut has_rows = false;
        let mut stored = Stored {
            rows: Vec::new(),
            at: 0,
            tag: Vec::new(),
            held: Charge::new(&self.state),
        };
        let mut told = Vec::new();
        let mut frames = Frames::new(&bytes, BODY_BYTES_MAX);
        while let Some(Ok(frame)) = frames.next() {
            match frame.tag {
                tag::ROW_DESCRIPTION => {
                    has_rows = true;
                    if described {
                        told.extend_from_slice(frame.message);
                    }
                }
                tag::NO_DATA if !described => {}
                tag::DATA_ROW => stored.rows.extend_from_slice(frame.message),
                tag::COMMAND_COMPLETE if has_rows => {
                    if let Ok(complete) = CommandComplete::parse(frame.body) {
                        stored.tag = complete.tag.to_vec();
                    }
                }
                _ => told.extend_from_slice(frame.message),
            }
        }
        self.stream.send_vec(told);
        if has_rows {
            stored.rows.shrink_to_fit();
            // Not more than what its call has counted.
            let _: Result<(), Error> = stored.held.set(stored.rows.capacity());
            self.sharded().left = Some(Left::Stored(stored));
        }
        Ok(outcome)
    }
}
