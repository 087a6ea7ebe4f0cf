//! A scripted server with TLS: what comes before the startup message, and reading messages by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Certificates;

/// An encrypted connection.
pub(crate) type Encrypted = StreamOwned<ServerConnection, TcpStream>;

/// Answers an SSLRequest and encrypts, as `localhost`. The startup message comes next.
pub(crate) fn accept(mut stream: TcpStream) -> Option<Encrypted> {
    assert_eq!(untagged(&mut stream)?, [4, 210, 22, 47], "an SSLRequest");
    stream.write_all(b"S").ok()?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate()],
            PrivateKeyDer::from_pem_file(Certificates::shared().path("server.key")).expect("a key"),
        )
        .expect("a pair");
    let tls = ServerConnection::new(Arc::new(config)).expect("a configuration");
    Some(StreamOwned::new(tls, stream))
}

/// The certificate that it shows.
pub(crate) fn certificate() -> CertificateDer<'static> {
    CertificateDer::from_pem_file(Certificates::shared().path("server.crt")).expect("a certificate")
}

/// The rest of a message without a tag.
pub(crate) fn untagged(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let mut body = vec![0; length.checked_sub(4)?];
    stream.read_exact(&mut body).ok()?;
    Some(body)
}

/// A message with its tag.
pub(crate) fn message(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut tag = [0];
    stream.read_exact(&mut tag).ok()?;
    Some((tag[0], untagged(stream)?))
}
