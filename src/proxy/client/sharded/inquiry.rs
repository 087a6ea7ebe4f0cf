//! What a statement of several steps of our own asks its servers, and what they answer: kept here, none of it is the client's.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::routing::echo::Row;
use crate::routing::moves::Place;

use super::super::super::link::Notice;
use super::super::super::server::{cancel, Collector, RunError, Target};
use super::super::{End, Session};
use super::call::{self, Answers, Call, Shown};
use super::stop::Stop;
use super::Leg;

/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sends a server messages that [`Session::hear`] hears the answer to.
pub(super) fn begin(leg: &mut Leg, messages: &[u8], owed: &Answers) {
    let call = Call {
        messages: &[],
        owed,
        commits: false,
        shown: Shown::Errors,
    };
    call::send(leg, &call, messages);
}

impl Session {
    /// The answer of a server. `at_work`: others that have something to do; if this one is cancelled they are, too.
    ///
    /// Errors: the server's; 57014 and 40P01 where it is cancelled, for `query_timeout` or because it would wait for ever; it is too long.
    pub(super) async fn hear(
        &self,
        leg: &mut Leg,
        at_work: &[Rc<Target>],
    ) -> Result<Collector, Stop> {
        let targets = [&[Rc::clone(&leg.held.target)], at_work].concat();
        let mut collector = Collector::up_to(ANSWER_BYTES_MAX);
        let answered = leg.held.answer_into(&mut collector);
        let answered = self.unless_cancelled(&targets, answered).await?;
        heard(leg, answered, collector)
    }

    /// Asks a server something of our own.
    ///
    /// Errors: as those of [`Self::hear`].
    pub(super) async fn inquire(&self, leg: &mut Leg, text: &[u8]) -> Result<Collector, Stop> {
        let targets = [Rc::clone(&leg.held.target)];
        let mut collector = Collector::up_to(ANSWER_BYTES_MAX);
        let answered = leg.held.run_into(text, &mut collector);
        let answered = self.unless_cancelled(&targets, answered).await?;
        heard(leg, answered, collector)
    }

    /// What comes of this, unless the session is to end. What is to be cancelled is on these servers, and then has failed, whatever
    /// came of it.
    async fn unless_cancelled<T>(
        &self,
        targets: &[Rc<Target>],
        answered: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        let mut answered = pin!(answered);
        let mut cancelled = None;
        let answer = poll_fn(|cx| {
            self.link.listen(cx);
            match self.link.notice() {
                None | Some(Notice::Drain | Notice::Removed) => {}
                Some(why @ (Notice::QueryTimeout | Notice::Deadlock)) if cancelled.is_none() => {
                    cancelled = Some(why);
                    self.await_cancel();
                    for target in targets {
                        cancel::begin(&self.state, target);
                    }
                }
                Some(notice) => return Poll::Ready(Err(End::Fatal(self.farewell(notice)))),
            }
            answered.as_mut().poll(cx).map(Ok)
        })
        .await?;
        let Some(why) = cancelled else {
            return Ok(answer);
        };
        // What is sent next is not what cancel requests are for.
        for target in targets {
            target.settled().await;
        }
        Err(self.cancelled(why).into())
    }
}

fn heard(
    leg: &Leg,
    answered: Result<(), RunError>,
    collector: Collector,
) -> Result<Collector, Stop> {
    answered.map_err(|why| Stop::of(leg, why))?;
    if let Some(body) = collector.error() {
        return Err(Stop::Server(body));
    }
    if collector.is_cut() {
        let text =
            format!("what one shard hands to another has more than {ANSWER_BYTES_MAX} bytes");
        let code = SqlState::PROGRAM_LIMIT_EXCEEDED;
        return Err(Error::error(Fault::Proxy, code, text).into());
    }
    Ok(collector)
}

/// The rows of an answer.
pub(super) fn rows(answer: &Collector) -> Vec<Row> {
    let mut rows = Vec::new();
    answer.each_row(|row| {
        let values = row.iter().map(|value| value.map(<[u8]>::to_vec));
        rows.push(values.collect());
    });
    rows
}

/// Where a row is, by the row that says it.
pub(super) fn place(row: &[Option<&[u8]>]) -> Option<Place> {
    match row {
        [Some(table), Some(row)] => Place::parse(table, row),
        _ => None,
    }
}
