//! Which pool a session uses, and how: looked up at login, and again between two transactions when there is a new
//! configuration.

use std::rc::Rc;

use crate::config::choice::{PoolerMode, PreparedStatements};
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

use super::super::cluster::Cluster;
use super::super::core_state::CoreState;
use super::super::pools::PoolSlot;
use super::audit::Audit;
use super::{End, Session};

/// How a session uses servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// How long it keeps one.
    pub(super) mode: PoolerMode,
    /// Which of its prepared statements follow it.
    pub(super) prepared: PreparedStatements,
}

impl Manner {
    pub(super) fn of(state: &CoreState, slot: &PoolSlot) -> Self {
        Self {
            mode: slot.config().mode,
            prepared: state.config().prepared.level,
        }
    }
}

/// The pools of this user and database, for a new session. Errors: they admit nobody.
pub(super) fn admit(state: &CoreState, user: &str, database: &str) -> Result<Rc<Cluster>, Error> {
    let cluster = cluster_of(state, user, database)?;
    if state.config().orders.disabled.is_on(user, database) {
        let text = format!("database \"{database}\" is disabled");
        let code = SqlState::CANNOT_CONNECT_NOW;
        return Err(Error::fatal(Fault::Proxy, code, text));
    }
    Ok(cluster)
}

/// The pools of this user and database. Errors: there are none.
fn cluster_of(state: &CoreState, user: &str, database: &str) -> Result<Rc<Cluster>, Error> {
    let Some(cluster) = state.cluster_of(user, database) else {
        return Err(unknown_database(database));
    };
    Ok(cluster)
}

pub(super) fn unknown_database(database: &str) -> Error {
    let text = format!("database \"{database}\" is not configured");
    Error::fatal(Fault::Client, SqlState::INVALID_CATALOG_NAME, text)
}

/// For a client whose pool is gone.
pub(super) fn removed(database: &str) -> Error {
    let text = format!("database \"{database}\" was removed from the configuration");
    Error::fatal(Fault::Proxy, SqlState::ADMIN_SHUTDOWN, text)
}

/// For a client that the administrator throws out.
pub(super) fn killed() -> Error {
    let text = "terminated by administrator";
    Error::fatal(Fault::Proxy, SqlState::ADMIN_SHUTDOWN, text)
}

impl Session {
    /// Is this session's configuration no longer the current one?
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        self.generation != self.state.generation()
    }

    /// Takes the current configuration over. The session must hold no server, and no place in a queue. Errors: it
    /// has no place in it.
    #[cold]
    pub(super) fn adopt(&mut self) -> Result<(), End> {
        self.generation = self.state.generation();
        self.audit = Audit::of(&self.state);
        self.cluster = self.successor()?;
        self.displace_written();
        let home = Rc::clone(self.cluster.home());
        self.turn_to(home);
        // Its prepared statements are on servers under the names that go with how it was.
        if self.statements.is_empty() && self.unbound.is_none() {
            self.manner = Manner::of(&self.state, &self.slot);
        }
        Ok(())
    }

    /// From now on requests go to this pool.
    pub(super) fn turn_to(&mut self, slot: Rc<PoolSlot>) {
        if !Rc::ptr_eq(&slot, &self.slot) {
            *self.link.slot.borrow_mut() = Rc::clone(&slot);
            self.slot = slot;
        }
    }

    /// The same for a session that keeps its server: only whether it may go on.
    #[cold]
    pub(super) fn may_stay(&self) -> Result<(), End> {
        self.successor().map(drop)
    }

    fn successor(&self) -> Result<Rc<Cluster>, End> {
        let (user, database) = (&self.slot.names.user, &self.slot.names.database);
        if self.state.cluster_of(user, database).is_none() {
            return Err(End::Fatal(removed(database)));
        }
        cluster_of(&self.state, user, database).map_err(End::Fatal)
    }
}
