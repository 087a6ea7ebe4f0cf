//! Groups of other cores' statements: this core has a part of them, as long as their client's core wants it to.

use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::merge::parts::{Given, Share};
use crate::protocol::sqlstate::SqlState;

use super::core_state::CoreState;
use super::mail::Mail;
use super::queue::Queue;

/// Which share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ShareId {
    /// The core of the statement's client.
    pub(crate) core: usize,
    /// Which of that core's statements.
    pub(crate) statement: u64,
    /// Which part of it.
    pub(crate) part: usize,
}

/// What the client's core says to the one that has a share.
#[derive(Debug)]
pub(crate) enum Order {
    /// Have this.
    Begin(Box<Share>),
    /// Take these rows: [`Report::Taken`] is the answer.
    Rows(Vec<u8>),
    /// All rows have come, give some groups: [`Report::Groups`] is the answer.
    More,
    /// It is not needed any more.
    Dismiss,
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Report {
    /// Rows have been taken.
    Taken {
        /// Bytes that the share holds.
        held_bytes: usize,
    },
    /// Groups as of [`Share::give`]. After the last ones there is no share any more.
    Groups {
        /// The groups.
        batch: Vec<u8>,
        /// Are these the last ones?
        last: bool,
        /// Bytes that the share holds.
        held_bytes: usize,
    },
    /// The statement has failed, and the share is gone.
    Failed(Error),
}

/// What a share is told.
pub(crate) type Orders = Queue<Order>;
/// What a statement hears of its shares, by the number of the part.
pub(crate) type Reports = Queue<(usize, Report)>;

/// Hears from a statement of another core.
pub(crate) fn receive(state: &Rc<CoreState>, id: ShareId, order: Order) {
    match order {
        Order::Begin(share) => {
            let orders = Rc::<Orders>::default();
            state.shares.borrow_mut().insert(id, Rc::clone(&orders));
            let work = Work {
                state: Rc::clone(state),
                id,
                over: false,
            };
            state.core.spawn(work.run(share, orders));
        }
        // What comes for a share that has failed is of no use.
        order => {
            if let Some(orders) = state.shares.borrow().get(&id) {
                orders.push(order);
            }
        }
    }
}

/// Hears from a share of a statement of this core.
pub(crate) fn heard(state: &CoreState, id: ShareId, report: Report) {
    if let Some(reports) = state.divided.borrow().get(&id.statement) {
        reports.push((id.part, report));
    }
}

/// A share at work.
struct Work {
    state: Rc<CoreState>,
    id: ShareId,
    over: bool,
}

impl Work {
    /// Does as it is told, batch by batch, so that this core's clients come in between.
    async fn run(mut self, mut share: Box<Share>, orders: Rc<Orders>) {
        while !self.over {
            match orders.next().await {
                Order::Rows(rows) => match share.take(&rows) {
                    Ok(()) => self.report(Report::Taken {
                        held_bytes: share.held_bytes(),
                    }),
                    Err(error) => self.fail(error),
                },
                Order::More => match self.give(&mut share).await {
                    Ok((batch, last)) => {
                        self.over = last;
                        self.report(Report::Groups {
                            batch,
                            last,
                            held_bytes: share.held_bytes(),
                        });
                    }
                    Err(error) => self.fail(error),
                },
                Order::Dismiss | Order::Begin(_) => self.over = true,
            }
            self.state.core.yield_now().await;
        }
    }

    async fn give(&self, share: &mut Share) -> Result<(Vec<u8>, bool), Error> {
        loop {
            match share.give()? {
                Given::NotYet => self.state.core.yield_now().await,
                Given::Groups { batch, last } => return Ok((batch, last)),
            }
        }
    }

    fn fail(&mut self, error: Error) {
        self.over = true;
        self.report(Report::Failed(error));
    }

    fn report(&self, report: Report) {
        let id = self.id;
        self.state
            .postbag
            .post(id.core, Mail::Shared { id, report });
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.state.shares.borrow_mut().remove(&self.id);
        if !self.over {
            // It panicked: its client must not wait.
            let text = "a part of the result was lost";
            let error = Error::error(Fault::Proxy, SqlState::INTERNAL_ERROR, text);
            self.report(Report::Failed(error));
        }
    }
}
