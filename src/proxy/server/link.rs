//! Server connections of one slice as the rest of their core sees them: which there are, and what they have counted.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Instant;

use crate::metrics::{Counters, Latencies, ServerMeter, Totals};

use super::Target;

/// One server connection, whoever holds it.
pub(crate) struct ServerLink {
    pub(crate) meter: ServerMeter,
    /// The same as the `target` of the client's link that holds the server.
    pub(crate) target: Rc<Target>,
    /// How many are prepared on it.
    pub(crate) statements: Cell<usize>,
}

/// The server connections of one slice, and what those that are gone have counted.
#[derive(Default)]
pub(crate) struct Registry {
    counters: Counters,
    latencies: Latencies,
    servers: RefCell<HashMap<u64, Rc<ServerLink>>>,
    last: Cell<u64>,
    /// When a server that is gone was last used.
    used: Cell<Option<Instant>>,
}

/// A server's entry in its slice's list, which goes when the server does.
pub(crate) struct Enlisted {
    link: Rc<ServerLink>,
    id: u64,
    registry: Rc<Registry>,
}

impl Registry {
    /// For what no server counts.
    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    #[inline]
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    pub(crate) fn enlist(self: &Rc<Self>, meter: ServerMeter, target: &Rc<Target>) -> Enlisted {
        let id = self.last.get() + 1;
        self.last.set(id);
        let target = Rc::clone(target);
        let link = Rc::new(ServerLink {
            meter,
            target,
            statements: Cell::new(0),
        });
        self.servers.borrow_mut().insert(id, Rc::clone(&link));
        Enlisted {
            link,
            id,
            registry: Rc::clone(self),
        }
    }

    /// When a server that is gone was last used.
    pub(crate) fn used(&self) -> Option<Instant> {
        self.used.get()
    }

    /// Its servers.
    pub(crate) fn each(&self, mut show: impl FnMut(&ServerLink)) {
        self.servers.borrow().values().for_each(|link| show(link));
    }

    /// What this slice has counted, with all its servers, past and present. Takes time with their number.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.counters.totals();
        for server in self.servers.borrow().values() {
            totals += &server.meter.totals_here();
        }
        totals
    }
}

impl Enlisted {
    /// The slice's.
    #[inline]
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.registry.latencies
    }

    /// The server leaves for another core.
    pub(super) fn leave(self) -> ServerMeter {
        self.link.meter.clone()
    }
}

impl Deref for Enlisted {
    type Target = ServerLink;

    #[inline]
    fn deref(&self) -> &ServerLink {
        &self.link
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.registry.servers.borrow_mut().remove(&self.id);
        let used = &self.registry.used;
        used.set(used.get().max(Some(self.link.meter.last_used())));
        self.registry
            .counters
            .add_all(&self.link.meter.totals_here());
    }
}
