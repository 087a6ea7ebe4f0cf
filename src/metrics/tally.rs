//! What one core counts that belongs to no pool: logins and how they ended, errors of ours, cancel requests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use super::{nanoseconds, Counter, Distribution, Histogram};
use crate::protocol::sqlstate::SqlState;

/// Sets of labels per counter; what comes on top is counted under [`OTHER`].
const LABELS_MAX: usize = 4096;
/// Stands for a database that is not configured, or one too many.
pub const OTHER: &str = "";

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoginResult {
    /// The client is in.
    Ok,
    /// Wrong user, database, password or certificate.
    BadPassword,
    /// The database is not there, as far as that may be told.
    NoDatabase,
    /// The client did not encrypt.
    TlsRequired,
    /// There are too many.
    Limit,
    /// We are shutting down.
    Shutdown,
    /// It took too long.
    Timeout,
    /// The client left amid the login, after it had said who it is.
    Abandoned,
    /// No server could be had, or the client broke the protocol.
    Error,
}

impl LoginResult {
    /// As the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadPassword => "bad_password",
            Self::NoDatabase => "no_database",
            Self::TlsRequired => "tls_required",
            Self::Limit => "limit",
            Self::Shutdown => "shutdown",
            Self::Timeout => "timeout",
            Self::Abandoned => "abandoned",
            Self::Error => "error",
        }
    }

    /// How a login ended that was refused with this code.
    pub fn refused(code: SqlState, shutting_down: bool) -> Self {
        match code {
            SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Self::BadPassword
            }
            SqlState::INVALID_CATALOG_NAME => Self::NoDatabase,
            SqlState::SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION => Self::TlsRequired,
            SqlState::TOO_MANY_CONNECTIONS => Self::Limit,
            SqlState::QUERY_CANCELED => Self::Timeout,
            SqlState::CANNOT_CONNECT_NOW if shutting_down => Self::Shutdown,
            _ => Self::Error,
        }
    }
}

/// How a client logs in: method, and whether it has encrypted.
pub type LoginWay = (&'static str, bool);

/// What is timed that happens too rarely to be kept per pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timed {
    /// A text is parsed.
    Parse,
    /// A server is checked.
    Healthcheck,
    /// One phase of a two-phase commit.
    TwoPhase,
    /// A request is held by PAUSE or MAINTENANCE.
    Hold,
}

/// Whose time: names and values of labels.
pub type Whose = Vec<(&'static str, String)>;

/// One core's own counters.
#[derive(Debug, Default)]
pub struct Tally {
    logins: RefCell<BTreeMap<(String, LoginResult), u64>>,
    errors: RefCell<BTreeMap<(String, SqlState), u64>>,
    login_times: RefCell<BTreeMap<LoginWay, Histogram>>,
    times: RefCell<BTreeMap<(Timed, Whose), Histogram>>,
    /// Requests passed on to servers.
    pub cancels_sent: Counter,
    /// Requests with an unknown key, or for clients that hold no server.
    pub cancels_unknown: Counter,
}

impl Tally {
    /// A login has ended after so long. `database` must be one that is configured, or [`OTHER`].
    pub fn login(&self, database: &str, result: LoginResult, way: LoginWay, took: Duration) {
        add(&mut self.logins.borrow_mut(), database, result);
        let mut times = self.login_times.borrow_mut();
        times.entry(way).or_default().record(nanoseconds(took));
    }

    /// A client hears of an error that this program has made.
    pub fn error(&self, database: &str, code: SqlState) {
        add(&mut self.errors.borrow_mut(), database, code);
    }

    /// Something took so long.
    pub fn timed(&self, what: Timed, whose: Whose, took: Duration) {
        let mut times = self.times.borrow_mut();
        if times.len() < LABELS_MAX || times.contains_key(&(what, whose.clone())) {
            let times = times.entry((what, whose)).or_default();
            times.record(nanoseconds(took));
        }
    }

    /// What was counted so far.
    pub fn totals(&self) -> TallyTotals {
        let rare = self.times.borrow();
        let times = self.login_times.borrow();
        TallyTotals {
            logins: self.logins.borrow().clone(),
            errors: self.errors.borrow().clone(),
            login_times: times
                .iter()
                .map(|(way, times)| (*way, times.read()))
                .collect(),
            times: rare
                .iter()
                .map(|(what, times)| (what.clone(), times.read()))
                .collect(),
            cancels: [self.cancels_sent.get(), self.cancels_unknown.get()],
        }
    }
}

fn add<L: Ord + Copy>(counts: &mut BTreeMap<(String, L), u64>, database: &str, label: L) {
    let full = counts.len() >= LABELS_MAX;
    let mut key = (database.to_owned(), label);
    if full && !counts.contains_key(&key) {
        key.0 = OTHER.to_owned();
    }
    *counts.entry(key).or_default() += 1;
}

/// What was counted up to some moment.
#[derive(Clone, Debug, Default)]
pub struct TallyTotals {
    /// Logins by database and result.
    pub logins: BTreeMap<(String, LoginResult), u64>,
    /// Errors by database and code.
    pub errors: BTreeMap<(String, SqlState), u64>,
    /// How long logins took.
    pub login_times: BTreeMap<LoginWay, Distribution>,
    /// How long what is rare took.
    pub times: BTreeMap<(Timed, Whose), Distribution>,
    /// Cancel requests: sent on, unknown.
    pub cancels: [u64; 2],
}

impl AddAssign<&TallyTotals> for TallyTotals {
    fn add_assign(&mut self, other: &TallyTotals) {
        for (key, count) in &other.logins {
            *self.logins.entry(key.clone()).or_default() += count;
        }
        for (key, count) in &other.errors {
            *self.errors.entry(key.clone()).or_default() += count;
        }
        for (way, times) in &other.login_times {
            *self.login_times.entry(*way).or_default() += times;
        }
        for (what, times) in &other.times {
            *self.times.entry(what.clone()).or_default() += times;
        }
        for (mine, more) in self.cancels.iter_mut().zip(other.cancels) {
            *mine += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_result() {
        let cases = [
            (SqlState::INVALID_PASSWORD, LoginResult::BadPassword),
            (SqlState::INVALID_CATALOG_NAME, LoginResult::NoDatabase),
            (SqlState::TOO_MANY_CONNECTIONS, LoginResult::Limit),
            (SqlState::QUERY_CANCELED, LoginResult::Timeout),
            (SqlState::PROTOCOL_VIOLATION, LoginResult::Error),
            (SqlState::CANNOT_CONNECT_NOW, LoginResult::Error),
        ];
        for (code, expected) in cases {
            assert_eq!(LoginResult::refused(code, false), expected, "{code}");
        }
        let code = SqlState::CANNOT_CONNECT_NOW;
        assert_eq!(LoginResult::refused(code, true), LoginResult::Shutdown);
    }

    #[test]
    fn counts_of_cores_add_up() {
        let tally = Tally::default();
        let way = ("scram", true);
        tally.login("a", LoginResult::Ok, way, Duration::from_millis(1));
        tally.login("a", LoginResult::Ok, way, Duration::from_millis(2));
        tally.error("a", SqlState::QUERY_CANCELED);
        tally.cancels_sent.add(1);
        let mut totals = tally.totals();
        totals += &tally.totals();
        assert_eq!(totals.logins[&("a".to_owned(), LoginResult::Ok)], 4);
        assert_eq!(
            totals.errors[&("a".to_owned(), SqlState::QUERY_CANCELED)],
            2
        );
        assert_eq!(totals.login_times[&way].count(), 4);
        assert_eq!(totals.cancels, [2, 0]);
    }

    #[test]
    fn labels_are_bounded() {
        let tally = Tally::default();
        for database in 0..2 * LABELS_MAX {
            tally.error(&database.to_string(), SqlState::QUERY_CANCELED);
        }
        let errors = tally.totals().errors;
        assert_eq!(errors.len(), LABELS_MAX + 1);
        assert_eq!(errors.values().sum::<u64>(), 2 * LABELS_MAX as u64);
    }
}
