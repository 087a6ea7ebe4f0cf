//! Statements that change the session, on their way through the pipeline.
//!
//! What a text would do is known when it is sent, whether it did only when the server has answered. Messages
//! without such effects are not in here at all; a session that never sends any has no tracker.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::error::{Error, Fault};
use crate::prepared::kept_name;
use crate::protocol::sqlstate::SqlState;
use crate::sql::session::{Effects, Step};

/// The statements with effects of one client that are sent and not answered, and where others wait to be executed.
#[derive(Debug, Default)]
pub struct Tracker {
    /// Oldest first.
    unanswered: VecDeque<Unanswered>,
    /// Of the unnamed prepared statement.
    unnamed: Option<Rc<Effects>>,
    /// By name, the unnamed one included.
    portals: HashMap<Box<[u8]>, Rc<Effects>>,
}

#[derive(Debug)]
enum Unanswered {
    /// Query: its statements are answered one after the other.
    Query {
        effects: Rc<Effects>,
        /// The next to be answered.
        next: u32,
        /// Those that are not the client's, in order.
        ours: Box<[u32]>,
    },
    /// Execute: its one statement.
    Execute(Rc<Effects>),
    /// Sync or the end of a Query: ReadyForQuery will come.
    Sync,
}

/// A statement that has succeeded.
#[derive(Debug)]
pub struct Done {
    effects: Rc<Effects>,
    statement: u32,
    /// Are the results of the statement that comes next in the same Query for nobody?
    pub hides_next: bool,
}

impl Done {
    /// Was it one of several in a Query?
    pub fn is_one_of_several(&self) -> bool {
        self.effects.statements > 1
    }

    /// What it did.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        let steps = self.effects.steps().iter();
        steps.filter(|step| step.statement == self.statement)
    }
}

/// Portals with effects that one transaction may have.
const PORTALS_MAX: usize = 4096;

impl Tracker {
    /// For a client to which this many ReadyForQuery are still owed.
    pub fn new(syncs: u32) -> Self {
        Self {
            unanswered: (0..syncs).map(|_| Unanswered::Sync).collect(),
            ..Self::default()
        }
    }

    /// Parse of the unnamed statement. None: it has no effects.
    pub fn parsed(&mut self, effects: Option<Rc<Effects>>) {
        self.unnamed = effects;
    }

    /// The effects of the unnamed statement.
    pub fn unnamed(&self) -> Option<Rc<Effects>> {
        self.unnamed.clone()
    }

    /// Bind. None: it has no effects.
    ///
    /// Errors: 53200 if 4,096 portals have some.
    pub fn bound(&mut self, portal: &[u8], effects: Option<Rc<Effects>>) -> Result<(), Error> {
        let Some(effects) = effects else {
            self.closed(portal);
            return Ok(());
        };
        if self.portals.len() >= PORTALS_MAX {
            let text = format!("a transaction may have {PORTALS_MAX} portals that change settings");
            return Err(Error::fatal(Fault::Client, SqlState::OUT_OF_MEMORY, text));
        }
        self.portals.insert(kept_name(portal).into(), effects);
        Ok(())
    }

    /// Close of a portal.
    pub fn closed(&mut self, portal: &[u8]) {
        self.portals.remove(kept_name(portal));
    }

    /// What Execute of this portal will do.
    pub fn portal(&self, name: &[u8]) -> Option<Rc<Effects>> {
        self.portals.get(kept_name(name)).cloned()
    }

    /// A Query with these effects was sent; [`Self::sync`] follows.
    ///
    /// `ours`: which of its statements are not the client's, in order; the first never is.
    pub fn queried(&mut self, effects: Rc<Effects>, ours: Box<[u32]>) {
        self.unnamed = None; // PostgreSQL drops it
        self.unanswered.push_back(Unanswered::Query {
            effects,
            next: 0,
            ours,
        });
    }

    /// An Execute with these effects was sent.
    pub fn executed(&mut self, effects: Rc<Effects>) {
        self.unanswered.push_back(Unanswered::Execute(effects));
    }

    /// Something was sent that ReadyForQuery will answer.
    pub fn sync(&mut self) {
        self.unanswered.push_back(Unanswered::Sync);
    }

    /// CommandComplete for a Query or Execute with effects, or PortalSuspended: what a call does is done with its row.
    pub fn succeeded(&mut self) -> Option<Done> {
        match self.unanswered.front_mut()? {
            Unanswered::Query {
                effects,
                next,
                ours,
            } => {
                let statement = *next;
                *next += 1;
                Some(Done {
                    effects: Rc::clone(effects),
                    statement,
                    hides_next: ours.binary_search(next).is_ok(),
                })
            }
            Unanswered::Execute(effects) => {
                let effects = Rc::clone(effects);
                self.unanswered.pop_front();
                Some(Done {
                    effects,
                    statement: 0,
                    hides_next: false,
                })
            }
            Unanswered::Sync => None,
        }
    }

    /// ReadyForQuery, or a Sync that the server ignored: what has no answer up to here was not done.
    pub fn ready(&mut self) {
        while let Some(unanswered) = self.unanswered.pop_front() {
            if matches!(unanswered, Unanswered::Sync) {
                return;
            }
        }
    }

    /// Is a statement with effects under way?
    pub fn is_pending(&self) -> bool {
        let is_sync = |unanswered: &Unanswered| matches!(unanswered, Unanswered::Sync);
        !self.unanswered.iter().all(is_sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::Dialect;
    use crate::sql::session::effects;

    fn of(text: &str) -> Rc<Effects> {
        Rc::new(effects(text.as_bytes(), Dialect::default()))
    }

    fn steps(tracker: &mut Tracker) -> usize {
        tracker
            .succeeded()
            .map_or(usize::MAX, |done| done.steps().count())
    }

    #[test]
    fn a_query_is_answered_statement_by_statement() {
        let mut tracker = Tracker::new(1);
        tracker.queried(of("SELECT 1; SET a = 1; SET b = 2"), Box::default());
        tracker.sync();
        assert!(tracker.is_pending());
        assert_eq!(steps(&mut tracker), usize::MAX, "of what was sent before");
        tracker.ready();
        assert_eq!([(); 3].map(|()| steps(&mut tracker)), [0, 1, 1]);
        tracker.ready();
        assert!(!tracker.is_pending());
    }

    #[test]
    fn statements_of_ours_are_pointed_out() {
        let mut tracker = Tracker::new(0);
        let text = of("RESET a; SET a = 1; SELECT 1; RESET b; SET b = 2");
        tracker.queried(text, [1, 4].into());
        tracker.sync();
        let hides = [(); 5].map(|()| tracker.succeeded().unwrap().hides_next);
        assert_eq!(hides, [true, false, false, true, false]);
    }

    #[test]
    fn what_follows_an_error_up_to_sync_was_not_done() {
        let mut tracker = Tracker::new(0);
        for text in ["SET a = 1", "SET b = 1", "SET c = 1"] {
            tracker.executed(of(text));
        }
        tracker.sync();
        tracker.executed(of("SET d = 1"));
        tracker.sync();
        assert_eq!(steps(&mut tracker), 1);
        tracker.ready();
        let done = tracker.succeeded().unwrap();
        assert_eq!(done.steps().next(), of("SET d = 1").steps().first());
        tracker.ready();
        assert!(!tracker.is_pending());
    }

    #[test]
    fn a_portal_runs_what_was_bound_to_it() {
        let mut tracker = Tracker::new(0);
        tracker.parsed(Some(of("SET a = 1")));
        tracker.bound(b"p", tracker.unnamed()).unwrap();
        tracker.parsed(None);
        tracker.bound(b"", tracker.unnamed()).unwrap();
        assert_eq!(tracker.portal(b"p"), Some(of("SET a = 1")));
        assert_eq!(tracker.portal(b""), None);
        tracker.bound(b"p", None).unwrap();
        assert_eq!(tracker.portal(b"p"), None);
    }

    #[test]
    fn portals_are_bounded() {
        let mut tracker = Tracker::new(0);
        for n in 0..PORTALS_MAX {
            let name = format!("{n:063}and more");
            tracker
                .bound(name.as_bytes(), Some(of("SET a = 1")))
                .unwrap();
        }
        assert!(tracker.portal(format!("{:063}", 7).as_bytes()).is_some());
        let refused = tracker.bound(b"p", Some(of("SET a = 1"))).unwrap_err();
        assert_eq!(refused.code, SqlState::OUT_OF_MEMORY);
    }
}
