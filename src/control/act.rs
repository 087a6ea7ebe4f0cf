//! Admin commands that act: done on all cores before they are answered.

use std::rc::Rc;
use std::time::Instant;

use crate::admin::command;
use crate::admin::{Act, Answer};
use crate::auth::login::wrong_password;
use crate::config::guests::{Unwelcome, GUESTS_MAX};
use crate::config::{Guest, Resolved};
use crate::error::{Error, Fault};
use crate::orders::{Of, Orders, Switches};
use crate::pool::PoolId;
use crate::protocol::sqlstate::SqlState;
use crate::proxy::{self, Introduced, Reply, Whom};
use crate::snapshot::Scope;

use super::admin::tell;
use super::events::{Control, Load};
use super::now;
use super::reload::{round, Failure};
use super::waits::{Until, Wait};

impl Control {
    /// Carries a command out and answers it.
    pub(super) fn act(&mut self, act: Act, load: Load<'_>, reply: Reply) {
        let tag = act.tag();
        let until = match &act {
            Act::Pause { of, wait: true } => Some(Until::Empty(of.clone())),
            Act::WaitClose { database } => Some(Until::Closed(Of::database(database.clone()))),
            _ => None,
        };
        match (self.carry_out(act, load), until) {
            (Err(error), _) => tell(reply, Err(error)),
            (Ok(()), Some(until)) => {
                let wait = Wait::new(until, tag, reply);
                self.waits.borrow_mut().begin(wait, now());
            }
            (Ok(()), None) => tell(reply, Ok(Answer::done(tag))),
        }
    }

    fn carry_out(&mut self, act: Act, load: Load<'_>) -> Result<(), Error> {
        match act {
            Act::Reload => self.reload(load),
            Act::Pause { of, wait: _ } => self.order(&of, |orders| &mut orders.paused, true),
            Act::Resume(of) => self.order(&of, |orders| &mut orders.paused, false),
            Act::Maintenance { on, database } => self.order(
                &Of::database(database),
                |orders| &mut orders.maintenance,
                on,
            ),
            Act::Disable { database } => {
                let of = Of::Database(database);
                self.order(&of, |orders| &mut orders.disabled, true)
            }
            Act::Enable { database } => {
                let of = Of::Database(database);
                self.order(&of, |orders| &mut orders.disabled, false)
            }
            Act::Reconnect { database } => {
                let of = Of::database(database);
                self.known(&of)?;
                self.all_cores(&proxy::Act::Reconnect(of)).map(drop)
            }
            Act::Kill { database } => {
                let of = Of::database(database);
                self.order(&of, |orders| &mut orders.paused, true)?;
                let killed = self.kill(Whom::All(of))?;
                tracing::warn!(killed, "clients were terminated by KILL");
                Ok(())
            }
            Act::KillClient { id } => {
                let process_id = i32::try_from(id).map_err(|_| no_client(id))?;
                match self.kill(Whom::Client(process_id))? {
                    0 => Err(no_client(id)),
                    _ => Ok(()),
                }
            }
            Act::WaitClose { database } => self.known(&Of::database(database)),
            Act::Shutdown(how) => {
                self.shut_down(how);
                Ok(())
            }
            Act::Ban(pool) => self.on_pool(pool, proxy::Act::Ban),
            Act::Unban(pool) => self.on_pool(pool, proxy::Act::Unban),
            Act::Healthcheck(pool) => self.on_pool(pool, proxy::Act::Check),
            Act::ResetPrepared => self.all_cores(&proxy::Act::ForgetPrepared).map(drop),
            Act::ResetQueryCache => self.all_cores(&proxy::Act::ForgetAnalyses).map(drop),
            Act::Probe { .. } => {
                debug_assert!(false, "sessions do that themselves");
                Ok(())
            }
            Act::Missing(what) => Err(command::missing(what)),
        }
    }

    /// RELOAD and SIGHUP. Errors: as of [`Control::replace`], and while it shuts down.
    pub(super) fn reload(&mut self, load: Load<'_>) -> Result<(), Error> {
        if !self.is_serving() {
            let code = SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE;
            return Err(Error::error(Fault::Client, code, "shutting down"));
        }
        self.replace(load())
    }

    /// Puts a configuration in force on all cores. Errors: it is not valid, or not all of them have answered; the log
    /// says so.
    pub(super) fn replace(&mut self, loaded: Result<Resolved, String>) -> Result<(), Error> {
        let (current, office) = self.current();
        current
            .reload(loaded, office)
            .map_err(|failure| match failure {
                Failure::Invalid(problems) => {
                    let text = "configuration not changed";
                    tracing::error!("{text}: {problems}");
                    Error::error(Fault::Client, SqlState::CONFIG_FILE_ERROR, text).detail(problems)
                }
                silent @ (Failure::Silent(_) | Failure::Unwelcome(_)) => {
                    tracing::error!("not all cores have the new configuration: {silent}");
                    unanswered(&silent)
                }
            })
    }

    /// A server has accepted a guest: makes it known to all cores.
    pub(super) fn introduce(&mut self, guest: Guest, reply: Introduced) {
        let (user, database) = (guest.user.clone(), guest.database.clone());
        let refused = |code, text: &str| Error::fatal(Fault::Proxy, code, text.to_owned());
        let outcome = if self.is_serving() {
            let (current, office) = self.current();
            current.introduce(guest, office).map_err(|failure| match failure {
                Failure::Unwelcome(Unwelcome::Differs) => wrong_password(&user, &database),
                Failure::Unwelcome(Unwelcome::TooMany) => {
                    tracing::error!("more than {GUESTS_MAX} users whom only servers know, refusing \"{user}\"");
                    refused(SqlState::TOO_MANY_CONNECTIONS, "too many clients")
                }
                silent @ (Failure::Silent(_) | Failure::Invalid(_)) => unanswered(&silent),
            })
        } else {
            let text = "shutting down, not accepting connections";
            Err(refused(SqlState::CANNOT_CONNECT_NOW, text))
        };
        // The client may have left.
        let _ = reply.send(outcome);
    }

    /// Turns something on or off for some, and waits until all cores obey.
    fn order(
        &mut self,
        of: &Of,
        switches: impl FnOnce(&mut Orders) -> &mut Switches,
        on: bool,
    ) -> Result<(), Error> {
        self.known(of)?;
        let change = |orders: &mut Orders| switches(orders).set(of.clone(), on);
        let (current, office) = self.current();
        let outcome = current.order(office, change);
        outcome.map_err(|failure| unanswered(&failure))
    }

    /// Does something to one pool, or to all. Errors: there is no such pool.
    fn on_pool(
        &mut self,
        pool: Option<u64>,
        act: impl FnOnce(Option<PoolId>) -> proxy::Act,
    ) -> Result<(), Error> {
        let no_pool = |id: u64| {
            let text = format!("no such pool: {id}");
            Error::error(Fault::Client, SqlState::UNDEFINED_OBJECT, text)
        };
        let id = match pool {
            None => None,
            Some(id) => Some(PoolId(u32::try_from(id).map_err(|_| no_pool(id))?)),
        };
        match (pool, self.all_cores(&act(id))?) {
            (Some(id), 0) => Err(no_pool(id)),
            _ => Ok(()),
        }
    }

    /// How many there were. Twice: a client that is on its way between cores is on none, but arrives before the second order does.
    fn kill(&mut self, whom: Whom) -> Result<usize, Error> {
        let kill = proxy::Act::Kill(whom);
        Ok(self.all_cores(&kill)? + self.all_cores(&kill)?)
    }

    fn all_cores(&mut self, act: &proxy::Act) -> Result<usize, Error> {
        let (_, office) = self.current();
        let outcome = round(office, act).map_err(|failure| unanswered(&failure))?;
        Ok(outcome.sessions)
    }

    /// Errors: the configuration has no such pool.
    fn known(&self, of: &Of) -> Result<(), Error> {
        let setup = self.current.setup();
        let (database, user) = match of {
            Of::All => return Ok(()),
            Of::Database(database) => (database, None),
            Of::User { user, database } => (database, Some(user)),
        };
        if setup.cluster(database).is_none() {
            let text = format!("database \"{database}\" is not configured");
            return Err(Error::error(
                Fault::Client,
                SqlState::INVALID_CATALOG_NAME,
                text,
            ));
        }
        match user.filter(|user| setup.pools_of(user, database).next().is_none()) {
            None => Ok(()),
            Some(user) => {
                let text = format!("user \"{user}\" is not configured for database \"{database}\"");
                Err(Error::error(
                    Fault::Client,
                    SqlState::UNDEFINED_OBJECT,
                    text,
                ))
            }
        }
    }

    /// Looks whether what commands wait for has happened, when it is time to.
    pub(super) fn look(&mut self, at: Instant) {
        if !self.waits.borrow_mut().is_due(at) {
            return;
        }
        let waits = Rc::clone(&self.waits);
        let setup = self.current.setup().clone();
        self.gather(Scope::default(), move |gathered| {
            // Who does not answer in time is asked again: this takes as long as it takes.
            let cores = gathered.unwrap_or_default();
            waits.borrow_mut().looked(&cores, &setup, now());
        });
    }
}

fn no_client(id: i64) -> Error {
    let text = format!("no such client: {id}");
    Error::error(Fault::Client, SqlState::UNDEFINED_OBJECT, text)
}

fn unanswered(failure: &Failure) -> Error {
    let text = "not all cores have answered";
    Error::error(Fault::Proxy, SqlState::SYSTEM_ERROR, text).detail(failure.to_string())
}
