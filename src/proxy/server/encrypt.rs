//! TLS towards a server, as `tls_verify` says.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use cores::tls::Connector;
use cores::{Stream, TcpOptions};

use crate::config::choice::TlsVerify;
use crate::protocol::startup::{ENCRYPTION_REFUSED, SSL_ACCEPTED, SSL_REQUEST_PACKET};

use super::super::core_state::CoreState;

/// Connects, and asks for TLS where `host`, the server's name, is given; Unix sockets have none.
///
/// Answers also when the connection was there, before any TLS.
///
/// Errors: as of connecting; the server has no TLS and must; its certificate is not accepted.
pub(super) async fn connect(
    state: &Rc<CoreState>,
    to: &cores::Address,
    host: Option<&str>,
    options: &TcpOptions,
) -> io::Result<(Stream, Instant)> {
    let setup = state.config();
    let stream = Stream::connect(&state.core, to, options).await?;
    let connected = state.core.now();
    let (Some(host), Some(connector)) = (host, &setup.certificates.servers) else {
        return Ok((stream, connected));
    };
    let must = setup.tls.servers != TlsVerify::Prefer;
    match Box::pin(encrypt(stream, connector, host)).await {
        Ok(Answer::Encrypted(stream)) => Ok((stream, connected)),
        Ok(Answer::Refused(stream)) if !must => Ok((stream, connected)),
        Ok(Answer::Refused(_)) => Err(io::Error::other(
            "the server has no TLS, which tls_verify demands",
        )),
        // As libpq does: what only prefers encryption can do without.
        Err(error) if !must => {
            tracing::info!("TLS with a server failed, going on without: {error}");
            let stream = Stream::connect(&state.core, to, options).await?;
            Ok((stream, state.core.now()))
        }
        Err(error) => Err(error),
    }
}

enum Answer {
    Encrypted(Stream),
    Refused(Stream),
}

async fn encrypt(stream: Stream, connector: &Connector, host: &str) -> io::Result<Answer> {
    stream.send_static(&SSL_REQUEST_PACKET);
    let answer = stream.recv().await?;
    match answer.as_deref() {
        Some([SSL_ACCEPTED]) => {
            let encrypted = stream.connect_tls(connector, host).await?;
            Ok(Answer::Encrypted(encrypted))
        }
        Some([ENCRYPTION_REFUSED]) => Ok(Answer::Refused(stream)),
        // Whatever follows an answer in clear text may be anybody's.
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "unexpected answer to the request for TLS",
        )),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
