//! COMMIT in two phases, as its client sees it.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::Poll;

use futures_channel::oneshot;

use crate::config::TwoPhaseCommit;
use crate::error::{Error, Fault};
use crate::protocol::backend::{tag, ParameterStatus};
use crate::protocol::error_fields::Fields;
use crate::protocol::frame::{Frames, BODY_BYTES_MAX, HEADER_BYTES};
use crate::protocol::sqlstate::SqlState;
use crate::routing::two_phase::{is_needed, Cause, Outcome};

use super::super::super::core_state::Activity;
use super::super::super::link::Notice;
use super::super::super::two_phase::{commit, Conclusion, Underway};
use super::super::{End, Session, WAITING_BYTES_MAX};
use super::{Does, Leg};

/// What has become of a transaction that was to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fared {
    Committed,
    /// It will be, and the client has been told that it lags.
    Lags,
    /// It is rolled back, and the client has been told why.
    RolledBack,
}

impl Session {
    fn two_phase_commit(&self) -> TwoPhaseCommit {
        let config = self.state.config();
        let names = &self.cluster.names;
        let user = config.users.find(&names.user, &names.database);
        user.map_or(TwoPhaseCommit::Off, |user| user.two_phase_commit)
    }

    /// Are the statements of two-phase commit ours, and not the client's?
    pub(super) fn reserves_two_phase(&self) -> bool {
        self.two_phase_commit() != TwoPhaseCommit::Off && self.cluster.shards() > 1
    }

    /// Is a transaction that is open on these servers committed in two phases? `asked`: the client said COMMIT.
    pub(super) fn commits_in_two_phases(&self, legs: &[Leg], asked: bool) -> bool {
        let wanted = match self.two_phase_commit() {
            TwoPhaseCommit::Off => false,
            TwoPhaseCommit::Transactions => asked,
            TwoPhaseCommit::Statements => true,
        };
        wanted && is_needed(legs.iter().map(|leg| number(leg.shard)).collect())
    }

    /// Commits on these servers, on which the transaction is open, and tells the client if that does not go well. Those
    /// that are still of use are left.
    pub(super) async fn commit_in_two_phases(&mut self, legs: &mut Vec<Leg>) -> Result<Fared, End> {
        // Until servers prepare there is nothing that could be cancelled.
        self.aim(&[]);
        self.link.enter(Activity::Active, self.state.core.now());
        self.link.meter.prepared_transaction();
        let mut notes = Vec::with_capacity(legs.len());
        let mut servers = Vec::with_capacity(legs.len());
        for leg in legs.drain(..) {
            let shard = number(leg.shard);
            notes.push((shard, leg.kept, leg.scrub));
            servers.push((shard, leg.held));
        }
        let client = self.link.link();
        let underway = commit(&self.state, &self.cluster, client, servers);
        let (conclusion, stopped) = self.concluded(underway).await?;
        let Conclusion {
            outcome,
            legs: back,
            refusal,
            heard,
        } = conclusion;
        self.pass_heard(heard);
        // Once it is decided there is nothing that could be cancelled without doubt about the outcome.
        self.link.dismiss(Notice::QueryTimeout);
        self.link.dismiss(Notice::Deadlock);
        if back.len() == notes.len() {
            self.link.forget_server(); // it was about another one: all of these are well
        }
        for (shard, held) in back {
            let note = notes.iter().find(|(of, ..)| *of == shard);
            if let (Some((_, kept, scrub)), Ok(shard)) = (note, usize::try_from(shard)) {
                legs.push(Leg {
                    shard,
                    held,
                    does: Does::default(),
                    kept: *kept,
                    scrub: *scrub,
                });
            }
        }
        let cause = match outcome {
            Outcome::Committed => return Ok(Fared::Committed),
            Outcome::Completing | Outcome::InDoubt => {
                self.tell(&lags());
                return Ok(Fared::Lags);
            }
            Outcome::RolledBack(cause) => cause,
        };
        match (cause, refusal, stopped) {
            (Cause::Refused(_), Some(body), Some(why)) if is_cancelled(&body) => {
                self.tell(&self.cancelled(why));
            }
            (Cause::Refused(_), Some(body), _) => self.pass_on(&body),
            (cause, ..) => self.tell(&rolled_back(cause)),
        }
        Ok(Fared::RolledBack)
    }

    /// What servers have said beside their answers, for the client: settings among it are noted with the transaction's end.
    fn pass_heard(&mut self, heard: Vec<u8>) {
        for frame in Frames::new(&heard, BODY_BYTES_MAX).map_while(Result::ok) {
            if frame.tag != tag::PARAMETER_STATUS {
                continue;
            }
            if let Ok(status) = ParameterStatus::parse(frame.body) {
                let (name, value) = (status.name.to_vec(), status.value.to_vec());
                self.sharded().report(name, value);
            }
        }
        self.stream.send_vec(heard);
    }

    /// Waits for the end, and tells why the servers were asked to stop, if they were. The end comes without this session, too:
    /// what is not decided by then is undone.
    async fn concluded(&mut self, underway: Underway) -> Result<(Conclusion, Option<Notice>), End> {
        let Underway {
            mut conclusion,
            stop,
        } = underway;
        let (mut stop, mut stopped) = (Some(stop), None);
        let conclusion = poll_fn(|cx| {
            self.link.listen(cx);
            match self.link.notice() {
                Some(notice @ (Notice::ShutDown | Notice::Killed)) => {
                    return Poll::Ready(Err(End::Fatal(self.farewell(notice))));
                }
                Some(notice @ (Notice::QueryTimeout | Notice::Deadlock)) => {
                    if let Some(stop) = stop.take() {
                        stopped = Some(notice);
                        let _ = stop.send(()); // it may be decided
                    }
                }
                _ => {}
            }
            // A client that goes away is noticed here; what it sends meanwhile waits.
            while self.inbound.len() < WAITING_BYTES_MAX {
                match self.poll_inbound(cx)? {
                    Poll::Ready(()) => self.inbound.settle(),
                    Poll::Pending => break,
                }
            }
            let concluded = Pin::new(&mut conclusion).poll(cx);
            concluded.map_err(|oneshot::Canceled| End::Fatal(unknown()))
        });
        Ok((conclusion.await?, stopped))
    }

    /// A server's error, for the client.
    fn pass_on(&mut self, body: &[u8]) {
        self.link.meter.error();
        self.sharded().transaction.fail();
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        let length = u32::try_from(body.len() + 4).expect("it was read whole");
        message.push(tag::ERROR_RESPONSE);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.send_vec(message);
    }
}

fn is_cancelled(body: &[u8]) -> bool {
    let code = Fields::parse(body).ok().and_then(|fields| fields.code());
    code == Some(SqlState::QUERY_CANCELED)
}

fn number(shard: usize) -> u32 {
    u32::try_from(shard).expect("the configuration admits few shards")
}

/// A client wants to do what `two_phase_commit` does.
pub(super) fn reserved() -> Error {
    let text = "two-phase statements are reserved by two_phase_commit";
    Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
}

fn lags() -> Error {
    let text = "commit will be completed in background, some shards may lag";
    let code = SqlState::TRANSACTION_RESOLUTION_UNKNOWN;
    Error::error(Fault::Server, code, text)
}

fn unknown() -> Error {
    let text = "the outcome of the commit is unknown";
    let code = SqlState::TRANSACTION_RESOLUTION_UNKNOWN;
    Error::fatal(Fault::Proxy, code, text)
}

fn rolled_back(cause: Cause) -> Error {
    match cause {
        Cause::Refused(shard) => {
            let text = format!("shard {shard} did not prepare the transaction, it is rolled back");
            Error::error(Fault::Server, SqlState::INVALID_TRANSACTION_STATE, text)
        }
        Cause::Lost(shard) => {
            let text =
                format!("server connection of shard {shard} lost, transaction is rolled back");
            Error::error(Fault::Server, SqlState::CONNECTION_FAILURE, text)
        }
        Cause::Log => {
            let text = "cannot write the log of two-phase commits, transaction is rolled back";
            Error::error(Fault::Proxy, SqlState::IO_ERROR, text)
        }
    }
}
