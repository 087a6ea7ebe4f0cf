//! Cores that have a part of one statement's groups.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::Error;
use crate::merge::parts::PARTS_MAX;
use crate::merge::Merge;

use super::super::super::core_state::CoreState;
use super::super::super::mail::Mail;
use super::super::super::shares::{Order, Report, Reports, ShareId};

/// Batches of rows that are on their way to one core, or wait there.
const BATCHES_MAX: usize = 8;

/// The other cores that a merge is divided among. Dropped, it dismisses them.
pub(super) struct Crew {
    state: Rc<CoreState>,
    statement: u64,
    reports: Rc<Reports>,
    hands: Vec<Hand>,
}

/// One of them.
struct Hand {
    core: usize,
    /// Batches of rows that it has not answered.
    batches: usize,
    /// Batches of groups that it was asked for.
    asked: usize,
}

impl Crew {
    /// Divides a merge among the cores, if there are several.
    pub(super) fn gather(state: &Rc<CoreState>, merge: &mut Merge) -> Option<Self> {
        let cores = state.core.count();
        if cores == 1 {
            return None;
        }
        let statement = state.statements_divided.get();
        state.statements_divided.set(statement + 1);
        let reports = Rc::<Reports>::default();
        let registered = Rc::clone(&reports);
        state.divided.borrow_mut().insert(statement, registered);
        let mut crew = Self {
            state: Rc::clone(state),
            statement,
            reports,
            hands: Vec::new(),
        };
        for (part, share) in merge.divide(cores.min(PARTS_MAX)).into_iter().enumerate() {
            crew.hands.push(Hand {
                core: (state.core.index() + part + 1) % cores,
                batches: 0,
                asked: 0,
            });
            crew.tell(part, Order::Begin(Box::new(share)));
        }
        Some(crew)
    }

    /// Hears what the others have done, and gives them more to do. True: there was news.
    ///
    /// Errors: what the statement has failed with.
    pub(super) fn poll(&mut self, merge: &mut Merge, cx: &Context<'_>) -> Result<bool, Error> {
        let mut news = false;
        while let Poll::Ready((part, report)) = self.reports.poll_next(cx) {
            let Some(hand) = self.hands.get_mut(part) else {
                continue;
            };
            news = true;
            match report {
                Report::Taken { held_bytes } => {
                    hand.batches -= 1;
                    merge.part_holds(part, held_bytes);
                }
                Report::Groups {
                    batch,
                    last,
                    held_bytes,
                } => {
                    hand.asked -= 1;
                    merge.part_holds(part, held_bytes);
                    merge.returned(part, batch, last);
                }
                Report::Failed(error) => return Err(error),
            }
        }
        for part in 0..self.hands.len() {
            while self.hands[part].batches < BATCHES_MAX {
                let Some(rows) = merge.collected(part) else {
                    break;
                };
                self.hands[part].batches += 1;
                self.tell(part, Order::Rows(rows));
            }
            while merge.is_collected(part) && merge.wants(part, self.hands[part].asked) {
                self.hands[part].asked += 1;
                self.tell(part, Order::More);
            }
        }
        Ok(news)
    }

    fn tell(&self, part: usize, order: Order) {
        let id = ShareId {
            core: self.state.core.index(),
            statement: self.statement,
            part,
        };
        let to = self.hands[part].core;
        self.state.postbag.post(to, Mail::Share { id, order });
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.state.divided.borrow_mut().remove(&self.statement);
        for part in 0..self.hands.len() {
            self.tell(part, Order::Dismiss);
        }
    }
}
