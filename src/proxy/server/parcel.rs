//! A server connection on its way to another core.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cores::{Core, Detached, Stream};

use crate::balance::Epoch;
use crate::metrics::ServerMeter;
use crate::prepared::server::ServerStatements;
use crate::protocol::parameters::Parameters;
use crate::session::Counters;
use crate::sql::settings::Settings;

use super::link::Registry;
use super::{cancel, Server};

/// A server connection between cores.
pub(crate) struct Parcel {
    stream: Detached,
    reported: Parameters,
    settings: Arc<Settings>,
    target: cancel::Address,
    prepared: ServerStatements,
    counters: Counters,
    epoch: Option<Epoch>,
    checked: Instant,
    meter: ServerMeter,
}

impl Server {
    /// Leaves this core. Errors: it is not at rest any more, and has been closed.
    pub(crate) async fn pack(self) -> Result<Parcel, ()> {
        self.count_traffic();
        let Self {
            stream,
            reported,
            settings,
            target,
            prepared,
            counters,
            epoch,
            checked,
            link,
            ..
        } = self;
        match stream.detach().await {
            Ok(stream) if stream.received.is_empty() => Ok(Parcel {
                stream,
                reported: Rc::unwrap_or_clone(reported),
                settings,
                target: target.address.clone(),
                prepared,
                counters,
                epoch,
                checked,
                meter: link.leave(),
            }),
            _ => {
                link.meter.lost();
                link.meter.given_up();
                Err(())
            }
        }
    }

    /// Arrives on this core.
    pub(crate) fn unpack(core: &Core, registry: &Rc<Registry>, parcel: Parcel) -> Self {
        let mut meter = parcel.meter;
        meter.arrived();
        let stream = Stream::attach(core, parcel.stream);
        let mut server = Self::new(
            stream,
            Rc::new(parcel.reported),
            parcel.target,
            parcel.prepared,
            (registry, meter),
        );
        server.link.statements.set(server.prepared.len());
        server.settings = parcel.settings;
        server.counters = parcel.counters;
        server.epoch = parcel.epoch;
        server.checked = parcel.checked;
        server
    }
}
