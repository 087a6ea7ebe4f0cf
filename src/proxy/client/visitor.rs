//! A login visits a pool: to learn what servers report, to have them asked something. It leaves no trace there.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::error::{Error, Fault};
use crate::pool::{Checkout, ClientId, Ticket, WaitError};
use crate::protocol::error_fields::{field, Fields};
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup;
use crate::sql::encodings::are_same;
use crate::sql::settings::Settings;

use super::super::core_state::CoreState;
use super::super::link::{Enrolled, Notice, Served};
use super::super::pools::{Held, PoolSlot};
use super::super::server::{Collector, RunError};
use super::super::welcomes::messages;
use super::adopt::killed;

/// Connections found lost before a visit is given up.
const LOST_MAX: usize = 100;

/// A client in the pool's queue that only wants to look.
pub(crate) struct Visitor<'a> {
    state: &'a Rc<CoreState>,
    slot: &'a Rc<PoolSlot>,
    link: Enrolled,
}

impl<'a> Visitor<'a> {
    pub(crate) fn new(state: &'a Rc<CoreState>, slot: &'a Rc<PoolSlot>) -> Self {
        Self {
            state,
            slot,
            link: state.enroll(startup::Version::V3_0, slot),
        }
    }

    /// What a server reports to a session with these settings, as a client is told.
    pub(super) async fn learn(
        &self,
        wished: &Parameters,
        settings: &Arc<Settings>,
    ) -> Result<Rc<[u8]>, Error> {
        let served = match self.ask_pool() {
            Asked::Served(served) => served,
            Asked::Queued(leave) => {
                if let Some(own) = self.slot.reported(&Settings::default()) {
                    // All are busy: what would be reported is plain enough to say without asking one.
                    drop(leave);
                    return Ok(messages(&overlaid(&own, wished)));
                }
                self.wait(leave).await?
            }
        };
        let mut held = self.hold(served)?;
        let ran = if held.take_unprompted().is_err() {
            held.run("SELECT 1").await.map(Some) // finds out
        } else {
            held.bring_to(settings).await
        };
        match ran {
            Ok(_) => {
                let welcome = self.slot.remember(settings, &held.reported);
                held.check_in();
                Ok(welcome)
            }
            Err(RunError::Server(body)) => {
                if held.is_fit() {
                    held.check_in(); // as it was
                }
                Err(from_server(&body))
            }
            Err(RunError::Lost(lost)) => Err(self.no_server().detail(lost.to_string())),
        }
    }

    /// Runs a query of ours in a session that has no settings. Errors: no server to be had; its own, without position.
    pub(crate) async fn run(&self, sql: &str) -> Result<Collector, Error> {
        let mut attempts = 0;
        let mut held = loop {
            let served = match self.ask_pool() {
                Asked::Served(served) => served,
                Asked::Queued(leave) => self.wait(leave).await?,
            };
            let mut held = self.hold(served)?;
            match held.take_unprompted() {
                Ok(()) => break held,
                // It was lost while it idled, and so may be others.
                Err(_) if attempts < LOST_MAX => attempts += 1,
                Err(lost) => return Err(self.no_server().detail(lost.to_string())),
            }
        };
        let ran = async {
            held.bring_to(&Arc::default()).await?;
            held.run(sql).await
        };
        let ran = ran.await;
        if !matches!(ran, Err(RunError::Lost(_))) && held.is_fit() {
            held.check_in();
        }
        ran.map_err(|error| match error {
            RunError::Server(body) => from_server(&body),
            RunError::Lost(lost) => self.no_server().detail(lost.to_string()),
        })
    }

    fn ask_pool(&self) -> Asked<'_> {
        let client = ClientId(u64::from(self.link.key.process_id().unsigned_abs()));
        let checkout = self
            .slot
            .decide(self.state, |pool, now, out| pool.checkout(client, now, out));
        match checkout {
            Checkout::Ready(lease) => Asked::Served(Ok(lease)),
            Checkout::Wait(ticket) => Asked::Queued(LeaveOnDrop {
                visitor: self,
                ticket,
            }),
            Checkout::Closed => Asked::Served(Err(WaitError::Closed)),
        }
    }

    /// Errors: KILL was for this client, too.
    async fn wait(&self, leave: LeaveOnDrop<'_>) -> Result<Served, Error> {
        let served = poll_fn(|cx| {
            self.link.listen(cx);
            if self.link.notice() == Some(Notice::Killed) {
                return Poll::Ready(Err(killed()));
            }
            self.link
                .take_served()
                .map_or(Poll::Pending, |served| Poll::Ready(Ok(served)))
        });
        let served = served.await;
        drop(leave);
        served
    }

    fn hold(&self, served: Served) -> Result<Held, Error> {
        let lease = served.map_err(|why| self.unavailable(why))?;
        Ok(Held::new(self.state, self.slot, lease))
    }

    fn no_server(&self) -> Error {
        let (user, database) = (&self.slot.names.user, &self.slot.names.database);
        let text = format!("no server available for user \"{user}\", database \"{database}\"");
        Error::fatal(Fault::Server, SqlState::CANNOT_CONNECT_NOW, text)
    }

    fn unavailable(&self, why: WaitError) -> Error {
        match why {
            WaitError::Connect(error) => {
                let detail = error.detail.clone().map_or_else(
                    || error.message.to_string(),
                    |detail| format!("{}: {detail}", error.message),
                );
                self.no_server().detail(detail)
            }
            WaitError::Timeout { .. } | WaitError::Closed => self.no_server(),
        }
    }
}

/// What the pool has answered.
enum Asked<'a> {
    Served(Served),
    Queued(LeaveOnDrop<'a>),
}

/// What a server reports once these settings are made. Spelling may differ from the server's in what it accepts in
/// several forms; the encoding, which drivers act on, is spelt as the server does.
fn overlaid(reported: &Parameters, settings: &Parameters) -> Parameters {
    let mut overlaid = reported.clone();
    for (name, value) in settings.iter() {
        if reported.get(name).is_none() || !Parameters::is_settable(name) {
            continue;
        }
        if name.eq_ignore_ascii_case(b"client_encoding") {
            let known = match are_same(value, b"UTF8") {
                true => b"UTF8".to_vec(),
                false => value.to_ascii_uppercase(),
            };
            overlaid.set(name, known);
        } else {
            overlaid.set(name, value);
        }
    }
    overlaid
}

/// Leaves the queue when the login is given up.
struct LeaveOnDrop<'a> {
    visitor: &'a Visitor<'a>,
    ticket: Ticket,
}

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        let Visitor { state, slot, link } = self.visitor;
        slot.decide(state, |pool, now, out| pool.cancel(self.ticket, now, out));
        if let Some(Ok(lease)) = link.take_served() {
            slot.decide(state, |pool, now, out| pool.checkin(lease, now, out));
        }
    }
}

/// A server's error about the client's own startup parameters: told as it is, but it ends the login.
pub(super) fn from_server(body: &[u8]) -> Error {
    let Ok(fields) = Fields::parse(body) else {
        return Error::fatal(
            Fault::Server,
            SqlState::CONNECTION_FAILURE,
            "server connection lost",
        );
    };
    let message = String::from_utf8_lossy(fields.message()).into_owned();
    let error = Error::fatal(
        Fault::Client,
        fields.code().unwrap_or(SqlState::INVALID_PARAMETER_VALUE),
        message,
    );
    match fields.get(field::DETAIL) {
        Some(detail) => error.detail(String::from_utf8_lossy(detail)),
        None => error,
    }
}
