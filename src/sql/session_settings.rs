//! A session's settings through its transactions: what is undone, what ends, what stays.
//!
//! ```text
//!   baseline     from the startup message; what RESET goes back to
//!   committed    what the session has between transactions
//!   on_server    what its server has then: not the same after RESET, which puts the server back to
//!                its own values and not to the client's
//!   open         while a transaction is open, and once more per savepoint:
//!     session      what `committed` becomes at COMMIT
//!     server       what `on_server` becomes at COMMIT
//!     current      `session` with SET LOCAL in force
//! ```
//!
//! Statements outside a transaction block are one transaction up to the next ReadyForQuery, too.
//!
//! Source: <https://www.postgresql.org/docs/current/sql-set.html>

use std::sync::Arc;

use super::cursor::Name;
use super::date_style;
use super::session::Effect;
use super::set::{Change, Scope, Value};
use super::settings::{Settings, SettingsStore};

/// The settings of one client's session. 40 bytes while no transaction changes any.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    baseline: Arc<Settings>,
    committed: Arc<Settings>,
    on_server: Arc<Settings>,
    open: Option<Box<Open>>,
    exact: bool,
}

/// Names and values of one session may take this much. What is set beyond is not kept account of.
pub const SETTINGS_BYTES_MAX: usize = 64 * 1024;

/// A transaction may have this many savepoints before we lose account of its settings.
const SAVEPOINTS_MAX: usize = 1024;

#[derive(Clone, Debug)]
struct Open {
    block: Block,
    now: Layer,
    savepoints: Vec<(Name, Layer)>,
    /// There were more savepoints than are kept account of.
    overflowed: bool,
}

impl Open {
    fn savepoint(&self, name: &Name) -> Option<usize> {
        let mut savepoints = self.savepoints.iter();
        savepoints.rposition(|(other, _)| other == name)
    }
}

/// How an open transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// With ReadyForQuery.
    Implicit,
    /// The same, undone, because a statement failed.
    Failed,
    /// With COMMIT or ROLLBACK.
    Explicit,
    /// As the server's reports say: nobody follows its statements.
    Unfollowed,
}

#[derive(Clone, Debug)]
struct Layer {
    session: Arc<Settings>,
    server: Arc<Settings>,
    current: Arc<Settings>,
    exact: bool,
}

impl SessionSettings {
    /// A session that begins with the run-time parameters of its startup message, those of `options=-c …`
    /// included; not `user`, `database`, `replication` and the like.
    pub fn new<'a>(
        startup: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        store: &mut SettingsStore,
    ) -> Self {
        let mut settings = Settings::default();
        for (name, value) in startup {
            let name = name.to_ascii_lowercase();
            let value = Value::from_text(&name, value);
            settings.set(&name, Some(value));
        }
        let baseline = store.intern(settings);
        Self {
            committed: Arc::clone(&baseline),
            on_server: Arc::clone(&baseline),
            baseline,
            open: None,
            exact: true,
        }
    }

    /// What the session began with.
    pub fn baseline(&self) -> &Arc<Settings> {
        &self.baseline
    }

    /// What a server must have when this client comes to it. Once it has, say so with [`Self::in_line`].
    pub fn committed(&self) -> &Arc<Settings> {
        &self.committed
    }

    /// What the server of this client has, outside a transaction: to be noted when the client leaves it.
    pub fn on_server(&self) -> &Arc<Settings> {
        &self.on_server
    }

    /// The client's server has been brought to [`Self::committed`].
    pub fn in_line(&mut self) {
        if !Arc::ptr_eq(&self.on_server, &self.committed) {
            self.on_server = Arc::clone(&self.committed);
        }
    }

    /// What is in force for the client at this moment, SET LOCAL included.
    pub fn current(&self) -> &Arc<Settings> {
        match &self.open {
            Some(open) => &open.now.current,
            None => &self.committed,
        }
    }

    /// Is no transaction open that could undo any of it, and the account complete?
    pub fn is_at_rest(&self) -> bool {
        self.open.is_none() && self.exact
    }

    /// Is the account complete? If not, only the server that the client has knows its settings: the client must
    /// keep it, and it must be reset afterwards.
    pub fn is_exact(&self) -> bool {
        let open = self.open.as_ref();
        open.map_or(self.exact, |open| open.now.exact && !open.overflowed)
    }

    /// Has the open transaction done anything to them, or may have?
    pub fn are_changing(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| {
            let Layer {
                session,
                server,
                exact,
                ..
            } = &open.now;
            let same =
                Arc::ptr_eq(session, &self.committed) && Arc::ptr_eq(server, &self.on_server);
            !same || *exact != self.exact || open.overflowed
        })
    }

    /// A statement succeeded. `tag` is that of its CommandComplete: COMMIT of a failed transaction says ROLLBACK.
    pub fn succeeded(&mut self, effect: &Effect, tag: &[u8], store: &mut SettingsStore) {
        match effect {
            Effect::Begin => self.open().block = Block::Explicit,
            Effect::Commit { chain } => self.finish(tag != b"ROLLBACK", *chain, store),
            Effect::PrepareTransaction => self.finish(tag != b"ROLLBACK", false, store),
            Effect::Rollback { chain } => self.finish(false, *chain, store),
            Effect::Savepoint(name) => {
                let open = self.open();
                if open.savepoints.len() < SAVEPOINTS_MAX {
                    open.savepoints.push((name.clone(), open.now.clone()));
                } else {
                    open.overflowed = true;
                }
            }
            // One that we do not know is older than the first change of this transaction.
            Effect::Release(name) => {
                if let Some(open) = &mut self.open {
                    let at = open.savepoint(name).unwrap_or_default();
                    open.savepoints.truncate(at);
                }
            }
            Effect::RollbackTo(name) => {
                let base = self.base();
                if let Some(open) = &mut self.open {
                    let at = open.savepoint(name);
                    open.savepoints.truncate(at.map_or(0, |at| at + 1));
                    let layer = open.savepoints.last().map(|(_, layer)| layer.clone());
                    open.now = layer.unwrap_or(base);
                }
            }
            Effect::Setting(change) => self.change(change),
            Effect::SettingsUnknown | Effect::SetConfig(_) => self.open().now.exact = false,
            Effect::DiscardAll => {
                let baseline = Arc::clone(&self.baseline);
                self.open().now = Layer {
                    session: Arc::clone(&baseline),
                    server: Arc::default(),
                    current: baseline,
                    exact: true, // whatever was unknown is gone
                };
            }
            _ => {}
        }
    }

    /// A statement failed: outside a transaction block, what came before it since the last ReadyForQuery is undone.
    pub fn failed(&mut self) {
        if let Some(open) = &mut self.open {
            if open.block == Block::Implicit {
                open.block = Block::Failed;
            }
        }
    }

    /// Is a transaction open whose statements nobody follows? Its end is to be told all the same.
    pub fn is_unfollowed(&self) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.block == Block::Unfollowed)
    }

    /// The same as [`Self::ready`] for a session whose statements nobody follows: what the server has reported in a
    /// transaction is so until it reports something else, at the latest before the ReadyForQuery that ends it.
    pub fn ready_unfollowed(&mut self, status: u8, store: &mut SettingsStore) {
        if status == b'I' && self.is_unfollowed() {
            self.finish(true, false, store);
        }
    }

    /// ReadyForQuery: `I`, `T` or `E`.
    pub fn ready(&mut self, status: u8, store: &mut SettingsStore) {
        let block = self.open.as_ref().map(|open| open.block);
        match (status, block) {
            (b'I', None) => {}
            (b'I', Some(Block::Implicit | Block::Unfollowed)) => self.finish(true, false, store),
            (b'I', Some(Block::Failed)) => self.finish(false, false, store),
            (b'I', Some(Block::Explicit)) => {
                // It ended out of our sight, in a procedure for instance. If it changed nothing, no harm is done.
                let changed = self
                    .open
                    .as_ref()
                    .is_some_and(|open| !Settings::same(&open.now.session, &self.committed));
                self.finish(true, false, store);
                self.exact &= !changed;
            }
            (_, Some(Block::Explicit)) => {}
            (_, _) => self.open().block = Block::Explicit,
        }
    }

    /// The server reports the value of a setting (ParameterStatus). That is how it really is, whoever changed it: a
    /// statement that we know, a function, or the end of a transaction. `own` is what it reports when nothing is
    /// set: what RESET restores there, while the client has again what it began with.
    pub fn reported(&mut self, name: &[u8], value: &[u8], own: Option<&[u8]>) {
        let name = name.to_ascii_lowercase();
        let is = Some(Value::from_text(&name, value));
        let was_reset = |server: &Settings| server.get(&name).is_none() && own == Some(value);
        if self.open.is_none() {
            let known = self.on_server.get(&name) == is.as_ref()
                && self.committed.get(&name) == is.as_ref();
            if known || was_reset(&self.on_server) {
                return;
            }
            self.open().block = Block::Unfollowed;
        }
        let base = self.base();
        let Some(open) = &mut self.open else { return };
        let now = &mut open.now;
        if was_reset(&now.server) {
            return;
        }
        let local = now.current.get(&name) != now.session.get(&name);
        let back = open.block == Block::Unfollowed && was_reset(&base.server);
        let levels = [
            (&mut now.current, &base.current),
            (&mut now.session, &base.session),
            (&mut now.server, &base.server),
        ];
        for (settings, base) in levels.into_iter().take(if local { 1 } else { 3 }) {
            if back {
                Arc::make_mut(settings).reset(&name, base);
            } else if settings.get(&name) != is.as_ref() {
                Arc::make_mut(settings).set(&name, is.clone());
            }
        }
    }

    fn change(&mut self, change: &Change) {
        let baseline = Arc::clone(&self.baseline);
        let now = &mut self.open().now;
        let (name, value, local) = match change {
            Change::ResetAll => {
                // PostgreSQL passes over what SET LOCAL has put to its default for this transaction.
                let mut kept = now.session.without(&now.current);
                kept.retain(|entry| baseline.get(&entry.name).is_none());
                Arc::make_mut(&mut now.session).reset_all(&baseline, &kept);
                Arc::make_mut(&mut now.current).reset_all(&baseline, &[]);
                Arc::make_mut(&mut now.server).reset_all(&Settings::default(), &kept);
                return;
            }
            Change::Set { scope, name, value } => (name, value, *scope == Scope::Local),
        };
        let before = now.current.get(name);
        let value = value.as_ref().map(|value| match **name == *b"datestyle" {
            true => date_style::completed(value, before),
            false => value.clone(),
        });
        // What was set in one encoding cannot be sent in another.
        if **name == *b"client_encoding" {
            let mut entries = now.current.iter();
            now.exact &= entries.all(|entry| entry.value.sql().is_ascii());
        }
        let empty = Settings::default();
        let levels = [
            (&mut now.current, &*baseline),
            (&mut now.session, &*baseline),
            (&mut now.server, &empty),
        ];
        for (settings, start) in levels.into_iter().take(if local { 1 } else { 3 }) {
            match &value {
                Some(value) => Arc::make_mut(settings).set(name, Some(value.clone())),
                None => Arc::make_mut(settings).reset(name, start),
            }
        }
        now.exact &= now.current.bytes() <= SETTINGS_BYTES_MAX;
    }

    /// The open transaction, begun by this statement if there is none.
    fn open(&mut self) -> &mut Open {
        let base = self.base();
        self.open.get_or_insert_with(|| {
            Box::new(Open {
                block: Block::Implicit,
                now: base,
                savepoints: Vec::new(),
                overflowed: false,
            })
        })
    }

    /// What a transaction begins with.
    fn base(&self) -> Layer {
        Layer {
            session: Arc::clone(&self.committed),
            server: Arc::clone(&self.on_server),
            current: Arc::clone(&self.committed),
            exact: self.exact,
        }
    }

    fn finish(&mut self, commit: bool, chain: bool, store: &mut SettingsStore) {
        if let Some(open) = self.open.take().filter(|_| commit) {
            let exact = open.now.exact && !open.overflowed;
            let Layer {
                session, server, ..
            } = open.now;
            if !Arc::ptr_eq(&session, &self.committed) {
                self.committed = store.intern(Arc::unwrap_or_clone(session));
            }
            if !Arc::ptr_eq(&server, &self.on_server) {
                self.on_server = store.intern(Arc::unwrap_or_clone(server));
            }
            self.exact = exact;
        }
        if chain {
            self.open().block = Block::Explicit;
        }
    }
}

#[cfg(test)]
mod tests;
