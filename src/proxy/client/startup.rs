//! A client's first packets: encryption, in either way; cancel requests; the packet that asks for a session.

use cores::Stream;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup::{
    self, Packet, StartupError, ALPN_PROTOCOL, DIRECT_TLS_FIRST_BYTE, ENCRYPTION_REFUSED,
    SSL_ACCEPTED,
};

use super::super::server::cancel;
use super::super::tls::ClientSide;
use super::login::Newcomer;
use super::wish::Wish;
use super::End;

/// Encryption requests answered before the startup packet has to come.
const ENCRYPTION_REQUESTS_MAX: usize = 2;

/// What an encrypted client has shown, and what it was shown.
pub(super) struct Encrypted {
    /// Its verified certificate in DER.
    pub(super) certificate: Option<Vec<u8>>,
    /// Of our own certificate, for SCRAM.
    end_point: Option<Vec<u8>>,
}

/// How a client asked for TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By SSLRequest.
    Asked,
    /// By speaking it at once. Then it must have said by ALPN that it means PostgreSQL.
    Direct,
}

impl Newcomer<'_> {
    pub(super) fn stream(&self) -> &Stream {
        let stream = self.stream.as_ref();
        stream.expect("it is away only inside of `encrypt`, or the login is over")
    }

    /// What SCRAM binds to on this connection.
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        self.encrypted.as_ref()?.end_point.clone()
    }

    /// Reads untagged packets up to the one that asks for a session; `None` when it was something else.
    pub(super) async fn startup(&mut self) -> Result<Option<Wish>, End> {
        let mut requests = 0;
        loop {
            let first = self.received.first();
            if first == Some(&DIRECT_TLS_FIRST_BYTE) && requests == 0 && self.encrypted.is_none() {
                self.encrypt(Way::Direct).await?;
                continue;
            }
            let parsed = startup::parse(&self.received).map_err(|error| match error {
                StartupError::CancelKey => End::Silent,
                error => End::Fatal(error.into()),
            })?;
            let (request, bytes) = match parsed {
                None => {
                    self.read().await?;
                    continue;
                }
                Some((Packet::Startup(message), bytes)) => {
                    if self.state.config().clients.tls_required && self.encrypted.is_none() {
                        let code = SqlState::SQLSERVER_REJECTED_ESTABLISHMENT_OF_SQLCONNECTION;
                        let text = "TLS is required by tls_client_required";
                        return Err(End::Fatal(Error::fatal(Fault::Client, code, text)));
                    }
                    let wish = Wish::read(&message)?;
                    self.received.drain(..bytes);
                    return Ok(Some(wish));
                }
                Some((Packet::CancelRequest(request), _)) => {
                    self.cancel(request.process_id, request.secret);
                    return Ok(None);
                }
                Some((request, bytes)) => (request, bytes),
            };
            if self.encrypted.is_some() {
                return Err(violation("encryption already negotiated"));
            }
            requests += 1;
            // What follows in the same segment was not meant for an unencrypted connection.
            if requests > ENCRYPTION_REQUESTS_MAX || self.received.len() > bytes {
                return Err(violation("unencrypted data received after TLS request"));
            }
            let tls =
                request == Packet::SslRequest && self.state.config().certificates.clients.is_some();
            self.received.clear();
            if tls {
                self.stream().send_static(&[SSL_ACCEPTED]);
                self.encrypt(Way::Asked).await?;
            } else {
                self.stream().send_static(&[ENCRYPTION_REFUSED]);
            }
        }
    }

    /// Shakes hands. Whoever fails in that hears an alert, if anything.
    async fn encrypt(&mut self, way: Way) -> Result<(), End> {
        let setup = self.state.config();
        let Some(ClientSide {
            acceptor,
            end_point,
            ..
        }) = &setup.certificates.clients
        else {
            return Err(End::Silent);
        };
        self.state.core.patiently().await;
        let stream = self.stream.take().ok_or(End::Silent)?;
        let peer = stream.peer();
        let ahead = std::mem::take(&mut self.received);
        let handshake = Box::pin(stream.accept_tls(acceptor, ahead)).await;
        let (stream, received) = handshake.map_err(|error| {
            tracing::info!(?peer, "TLS handshake with a client failed: {error}");
            End::Silent
        })?;
        let info = stream.tls().ok_or(End::Silent)?;
        if way == Way::Direct && info.alpn.as_deref() != Some(ALPN_PROTOCOL) {
            tracing::info!(?peer, "direct TLS without ALPN refused");
            return Err(End::Silent);
        }
        self.stream = Some(stream);
        self.received = received;
        self.encrypted = Some(Encrypted {
            certificate: info.peer_certificate,
            end_point: end_point.clone(),
        });
        Ok(())
    }

    pub(super) async fn read(&mut self) -> Result<(), End> {
        match self.stream().recv().await? {
            Some(buf) => {
                self.received.extend_from_slice(&buf);
                drop(buf);
                // Those who are in go first.
                self.state.core.patiently().await;
                Ok(())
            }
            None => Err(End::Left),
        }
    }

    /// Hands a cancel request to the core that issued its key.
    fn cancel(&self, process_id: i32, secret: &[u8]) {
        let state = self.state;
        match state.home_of(process_id) {
            None => {}
            Some(core) if core == state.core.index() => {
                cancel::requested(state, process_id, secret)
            }
            Some(core) => cancel::pass_on(state, core, process_id, secret),
        }
    }
}

fn violation(text: &'static str) -> End {
    End::Fatal(Error::fatal(
        Fault::Client,
        SqlState::PROTOCOL_VIOLATION,
        text,
    ))
}
