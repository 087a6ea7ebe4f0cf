//! Certificates and keys of one configuration, as cores use them.

use cores::tls::{Acceptor, Connector};

use crate::auth::certificate;

/// Made by the control thread from the files that the configuration names; the same on all cores.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    /// `None`: clients do without.
    pub(crate) clients: Option<ClientSide>,
    /// `None`: servers are not asked for it.
    pub(crate) servers: Option<Connector>,
}

/// How clients are taken.
#[derive(Debug)]
pub(crate) struct ClientSide {
    pub(crate) acceptor: Acceptor,
    /// What SCRAM binds to, if our certificate allows it.
    pub(crate) end_point: Option<Vec<u8>>,
    /// Are they asked for certificates?
    pub(crate) asks_certificates: bool,
}

impl ClientSide {
    pub(crate) fn new(acceptor: Acceptor, asks_certificates: bool) -> Self {
        Self {
            end_point: certificate::end_point(acceptor.certificate()),
            acceptor,
            asks_certificates,
        }
    }
}
