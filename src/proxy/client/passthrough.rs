//! Users whom only servers know: a server is asked about a password, and then all cores know whose it is.

use std::rc::Rc;

use futures_channel::oneshot;

use crate::auth::login::wrong_password;
use crate::auth::{Credentials, Password, ServerSecret, Verifier};
use crate::config::guests::Voucher;
use crate::config::{Guest, GuestSecret, PoolConfig, Secret};
use crate::error::{Error, Fault};
use crate::pool::PoolId;
use crate::protocol::sqlstate::SqlState;

use super::super::core_state::CoreState;
use super::super::pools::PoolSlot;
use super::super::server::connect::{self, Purpose, Refusal};
use super::super::Event;
use super::login::Proof;
use super::visitor::from_server;
use super::wish::Wish;

/// Somebody whom a server has vouched for, or may vouch for, and whom the cores may not know yet.
pub(super) struct Stranger {
    guest: Guest,
    /// To be tried on a server, unless that has been done.
    unproven: Option<Password>,
}

impl Stranger {
    /// `None` for whoever has shown nothing that servers could be logged in to with. `known` is what was looked up.
    pub(super) fn of(
        wish: &Wish,
        proof: Proof,
        voucher: Voucher,
        known: Option<Credentials>,
    ) -> Option<Self> {
        let password = |password: &Password| secret(password).map(GuestSecret::Password);
        let looked_up = match known {
            Some(Credentials::Stored(Verifier::Md5(hash))) => {
                let text = Verifier::Md5(hash).to_text();
                Some(GuestSecret::Keys(Secret::from(text)))
            }
            Some(Credentials::Passwords(passwords)) => passwords.first().and_then(password),
            Some(Credentials::Stored(Verifier::Scram(_)) | Credentials::Unknown) | None => None,
        };
        let shown = proof.typed.as_ref().and_then(password);
        let keys = proof.keys.map(GuestSecret::Keys);
        let guest = Guest {
            user: wish.user.clone(),
            database: wish.database.clone(),
            secret: shown.or(keys).or(looked_up)?,
            voucher,
        };
        let unproven = proof.typed;
        let proven = proof.vouched || voucher == Voucher::Query;
        Some(Self {
            guest,
            unproven: unproven.filter(|_| !proven),
        })
    }

    /// Has the user become unknown since, by a reload?
    pub(super) fn is_unknown(&self, state: &CoreState) -> bool {
        state.config().must_be_introduced(&self.guest)
    }

    /// Makes the user known on all cores, with a pool. Does nothing if that is so.
    ///
    /// Errors: the server does not accept the password; another is known by now; there are too many.
    pub(super) async fn introduce(&mut self, state: &Rc<CoreState>) -> Result<(), Error> {
        if !self.is_unknown(state) {
            return Ok(());
        }
        let guest = self.guest.clone();
        if let Some(password) = &self.unproven {
            // A verifier of ours fits the password, or what was known has been forgotten since.
            ask(state, &guest.user, &guest.database, password).await?;
            self.unproven = None;
        }
        let (reply, introduced) = oneshot::channel();
        if state
            .events
            .try_send(Event::Guest { guest, reply })
            .is_err()
        {
            return Err(too_many());
        }
        let nothing = |oneshot::Canceled| {
            let text = "shutting down, not accepting connections";
            Err(Error::fatal(
                Fault::Proxy,
                SqlState::CANNOT_CONNECT_NOW,
                text,
            ))
        };
        state.core.foreign(introduced).await.unwrap_or_else(nothing)
    }
}

/// Logs in to a server with this password, and out again: to the primary, or to another one if that cannot say. Errors: the
/// server does not accept it, in its own words; none can be asked, or they do not ask for passwords.
pub(super) async fn ask(
    state: &Rc<CoreState>,
    user: &str,
    database: &str,
    password: &Password,
) -> Result<(), Error> {
    let secret = secret(password).ok_or_else(|| wrong_password(user, database))?;
    let pools = state.config().vouchers(user, database, &secret);
    let _asking = state.asking.take().await;
    let mut first = None;
    for pool in &pools {
        match ask_one(state, pool, password).await {
            Ok(()) => return Ok(()),
            Err(No::Refused(error)) => {
                tracing::warn!(%user, %database, "login refused by the server: {error}");
                return Err(error);
            }
            Err(No::Unavailable(reason)) => {
                // Why is for the log: nobody is logged in yet.
                let address = &pool.address;
                tracing::warn!(%user, %database, %address, "cannot ask the server about a password: {reason}");
                let text =
                    format!("no server available for user \"{user}\", database \"{database}\"");
                let nothing = Error::fatal(Fault::Server, SqlState::CANNOT_CONNECT_NOW, text);
                first.get_or_insert(nothing);
            }
            Err(No::NotNow(error)) => {
                let address = &pool.address;
                tracing::warn!(%user, %database, %address, "cannot ask the server about a password: {error}");
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| wrong_password(user, database)))
}

/// Why a server has not vouched for somebody.
enum No {
    /// It does not accept the password, or the user.
    Refused(Error),
    /// It lets nobody in at the moment.
    NotNow(Error),
    /// It cannot be asked.
    Unavailable(String),
}

async fn ask_one(state: &Rc<CoreState>, pool: &PoolConfig, password: &Password) -> Result<(), No> {
    let setup = state.config();
    // Of no pool: it is here only for its address and for what is counted.
    let slot = PoolSlot::new(PoolId(0), pool, &setup, &state.core);
    let deadline = setup
        .servers
        .connect_timeout
        .and_then(|timeout| state.core.now().checked_add(timeout));
    let login = Box::pin(connect::log_in(
        state,
        &slot,
        Some(ServerSecret::Password(password.clone())),
        Purpose::Proof,
    ));
    match state.core.timeout_at(deadline, login).await {
        Some(Ok(server)) => {
            Box::new(server).close(state).await;
            Ok(())
        }
        Some(Err(Refusal::Server(body))) => {
            let error = from_server(&body);
            Err(match error.code {
                SqlState::CANNOT_CONNECT_NOW
                | SqlState::TOO_MANY_CONNECTIONS
                | SqlState::CONNECTION_FAILURE => No::NotNow(error),
                _ => No::Refused(error),
            })
        }
        Some(Err(Refusal::Other(failure))) => Err(No::Unavailable(failure.reason())),
        None => Err(No::Unavailable("connect_timeout".to_owned())),
    }
}

/// Errors: it is not UTF-8, which pools could not log in with.
fn secret(password: &Password) -> Option<Secret> {
    std::str::from_utf8(password.as_bytes())
        .ok()
        .map(Secret::from)
}

fn too_many() -> Error {
    Error::fatal(
        Fault::Proxy,
        SqlState::TOO_MANY_CONNECTIONS,
        "too many clients",
    )
}
