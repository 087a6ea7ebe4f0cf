//! Reads the certificates and keys that a configuration names: at start, and again with every reload.

use std::path::Path;

use cores::tls::{Acceptor, AcceptorPem, Connector, ConnectorPem, Verify};

use crate::config::choice::TlsVerify;
use crate::config::{CertificateFiles, TlsSettings};
use crate::protocol::startup::ALPN_PROTOCOL;
use crate::proxy::{ClientSide, Tls};

/// Errors: the setting whose file cannot be used, and why. Never what is in it.
pub(super) fn material(settings: &TlsSettings) -> Result<Tls, String> {
    let clients = settings.clients.as_ref();
    let clients = clients.map(|files| client_side(files, settings.client_ca.as_deref()));
    Ok(Tls {
        clients: clients.transpose()?,
        servers: server_side(settings)?,
    })
}

fn client_side(files: &CertificateFiles, ca: Option<&Path>) -> Result<ClientSide, String> {
    let certificates = read("tls_certificate", &files.certificate)?;
    let private_key = read("tls_private_key", &files.private_key)?;
    let ca = ca.map(|ca| read("tls_client_ca_certificate", ca));
    let ca = ca.transpose()?;
    let acceptor = Acceptor::new(&AcceptorPem {
        certificates: &certificates,
        private_key: &private_key,
        client_ca: ca.as_deref(),
        alpn: ALPN_PROTOCOL,
    });
    let acceptor = acceptor.map_err(|invalid| format!("TLS for clients: {invalid}"))?;
    Ok(ClientSide::new(acceptor, ca.is_some()))
}

fn server_side(settings: &TlsSettings) -> Result<Option<Connector>, String> {
    let verify = match settings.servers {
        TlsVerify::Disabled => return Ok(None),
        TlsVerify::Prefer => Verify::Nothing,
        TlsVerify::VerifyCa => Verify::Chain,
        TlsVerify::VerifyFull => Verify::ChainAndName,
    };
    let ca = settings.server_ca.as_ref();
    let ca = ca.map(|ca| read("tls_server_ca_certificate", ca));
    let ca = ca.transpose()?;
    let identity = match &settings.server_identity {
        None => None,
        Some(files) => Some((
            read("tls_server_certificate", &files.certificate)?,
            read("tls_server_private_key", &files.private_key)?,
        )),
    };
    let connector = Connector::new(&ConnectorPem {
        verify,
        ca: ca.as_deref(),
        identity: identity.as_ref().map(|(a, b)| (&a[..], &b[..])),
        alpn: ALPN_PROTOCOL,
    });
    let connector = connector.map_err(|invalid| format!("TLS for servers: {invalid}"))?;
    Ok(Some(connector))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread is no core, and reads files"
)]
fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{setting}: {}: {error}", path.display()))
}
