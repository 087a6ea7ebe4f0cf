//! TLS over a stream, both roles: futures-rustls shakes hands, then the ring drives rustls over its own buffers.
//!
//! ```text
//!             a completed receive                                    the end of a turn
//! kernel ──► [ciphertext | room ] ──► rustls ──► [ … | plaintext]    chunks ──► rustls ──► one vector ──► one send
//!             one receive buffer                  the same buffer    (one record, if they fit)
//! ```
//!
//! Between two receives a session keeps nothing of its own but rustls' state and its incomplete record.

mod material;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSlice, Write};
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use futures_rustls::{TlsAcceptor, TlsConnector};
use futures_util::io::{AsyncRead, AsyncWrite};
use rustls::pki_types::ServerName;
use rustls::{Connection, HandshakeKind};

use crate::buffer::Buf;
use crate::ring::Chunk;
use crate::stream::Stream;

pub use material::{Acceptor, AcceptorPem, Connector, ConnectorPem, Invalid, Verify};

/// A record as it may come in at most: 16 KiB, and what TLS 1.2 may add.
const RECORD_BYTES_MAX: usize = 18 * 1024;
/// Most ciphertext taken in one receive. What it decrypts to, with the rest of a record that came before, has room in
/// the same buffer behind it: 2 × 22 + 18 KiB are less than 64.
pub(crate) const RECEIVE_BYTES: u32 = 22 * 1024;
const _: () = assert!(2 * RECEIVE_BYTES as usize + RECORD_BYTES_MAX <= crate::buffer::BUFFER_BYTES);
/// Pieces of plaintext encrypted at a time.
const GATHER_MAX: usize = 16;

/// The TLS of one connection, from its handshake on.
pub(crate) struct Session {
    connection: Connection,
    /// Nothing comes after the peer's close_notify.
    ended: bool,
    /// Nothing goes after ours, which the next sealing sends.
    closing: bool,
}

/// What a receive brought.
pub(crate) enum Opened {
    Plain(Buf),
    /// Only part of a record, or messages of TLS itself.
    Nothing,
    /// The peer has closed in order.
    End,
}

impl Session {
    fn new(mut connection: Connection) -> Self {
        // The ring bounds what is queued, and takes what was encrypted at once.
        connection.set_buffer_limit(None);
        Self {
            connection,
            ended: false,
            closing: false,
        }
    }

    /// Has the peer closed in order?
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Has TLS itself something to say: an alert, a key update?
    pub(crate) fn has_to_say(&self) -> bool {
        self.connection.wants_write()
    }

    /// From here on only close_notify goes out.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Decrypts what a receive of at most [`RECEIVE_BYTES`] brought. Errors: not TLS, forged, or too long.
    pub(crate) fn open(&mut self, mut sealed: Buf) -> io::Result<Opened> {
        let (ciphertext, mut room) = sealed.with_room();
        let bytes = self.open_to(ciphertext, &mut room)?;
        Ok(if bytes > 0 {
            Opened::Plain(sealed.into_room(bytes))
        } else if self.ended {
            Opened::End
        } else {
            Opened::Nothing
        })
    }

    /// Writes what `ciphertext` decrypts to; returns how many bytes.
    pub(crate) fn open_to(
        &mut self,
        mut ciphertext: &[u8],
        plaintext: &mut impl Write,
    ) -> io::Result<usize> {
        let mut bytes = self.take_plaintext(plaintext)?;
        while !ciphertext.is_empty() && !self.ended {
            if self.connection.read_tls(&mut ciphertext)? == 0 {
                break;
            }
            self.connection
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            bytes += self.take_plaintext(plaintext)?;
        }
        Ok(bytes)
    }

    fn take_plaintext(&mut self, to: &mut impl Write) -> io::Result<usize> {
        let mut reader = self.connection.reader();
        let mut bytes = 0;
        loop {
            let part = match reader.fill_buf() {
                Ok([]) => {
                    self.ended = true;
                    return Ok(bytes);
                }
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(bytes),
                Err(error) => return Err(error),
            };
            to.write_all(part)?;
            let taken = part.len();
            reader.consume(taken);
            bytes += taken;
        }
    }

    /// Encrypts all chunks into one, with what TLS itself has to say. `sealed` is an empty vector.
    ///
    /// Errors: ours was the last word already.
    pub(crate) fn seal(
        &mut self,
        chunks: &mut VecDeque<Chunk>,
        mut sealed: Vec<u8>,
    ) -> io::Result<()> {
        while !chunks.is_empty() {
            let mut pieces = [IoSlice::new(&[]); GATHER_MAX];
            let mut count = 0;
            let mut bytes = 0;
            for (piece, chunk) in pieces.iter_mut().zip(&*chunks) {
                *piece = IoSlice::new(chunk.bytes());
                count += 1;
                bytes += chunk.bytes().len();
            }
            if bytes > 0 && self.connection.writer().write_vectored(&pieces)? != bytes {
                return Err(io::ErrorKind::WriteZero.into());
            }
            chunks.drain(..count);
        }
        if std::mem::take(&mut self.closing) {
            self.connection.send_close_notify();
        }
        while self.connection.wants_write() {
            self.connection.write_tls(&mut sealed)?;
        }
        if !sealed.is_empty() {
            chunks.push_back(Chunk::Owned(sealed));
        }
        Ok(())
    }

    pub(crate) fn info(&self) -> Info {
        let certificates = self.connection.peer_certificates().unwrap_or_default();
        Info {
            peer_certificate: certificates.first().map(|first| first.to_vec()),
            alpn: self.connection.alpn_protocol().map(<[u8]>::to_vec),
            resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// What the handshake has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The peer's own certificate in DER, if it showed one. A client's is verified; a server's as far as [`Verify`]
    /// says.
    pub peer_certificate: Option<Vec<u8>>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<Vec<u8>>,
    /// Was an earlier session resumed?
    pub resumed: bool,
}

impl Stream {
    /// Takes a TLS client: its ClientHello begins with `ahead`, which was received already. Answers the encrypted
    /// stream and what came encrypted along with the end of the handshake.
    ///
    /// Errors: no agreement, an invalid client certificate, the peer left. The alert is sent where there is one.
    /// The caller limits the time.
    pub async fn accept_tls(
        self,
        acceptor: &Acceptor,
        ahead: Vec<u8>,
    ) -> io::Result<(Stream, Vec<u8>)> {
        let wire = Wire {
            stream: self,
            ahead,
        };
        let accept = TlsAcceptor::from(acceptor.config()).accept(wire);
        let (wire, connection) = match accept.into_fallible().await {
            Ok(accepted) => accepted.into_inner(),
            Err((error, wire)) => return Err(wire.give_up(error).await),
        };
        wire.secure(connection.into()).await
    }

    /// Asks a server for TLS; `host` is its name or IP address, as its certificate must have it under
    /// [`Verify::ChainAndName`].
    ///
    /// Errors: no agreement, a certificate that is not accepted, a `host` that cannot be in a certificate.
    pub async fn connect_tls(self, connector: &Connector, host: &str) -> io::Result<Stream> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let name = ServerName::try_from(host).map_err(invalid)?.to_owned();
        let wire = Wire {
            stream: self,
            ahead: Vec::new(),
        };
        let connect = TlsConnector::from(connector.config()).connect(name, wire);
        let (wire, connection) = match connect.into_fallible().await {
            Ok(connected) => connected.into_inner(),
            Err((error, wire)) => return Err(wire.give_up(error).await),
        };
        let (stream, early) = wire.secure(connection.into()).await?;
        if early.is_empty() {
            Ok(stream)
        } else {
            let text = "the server spoke before it was asked";
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

/// A plain stream as the handshake sees it.
struct Wire {
    stream: Stream,
    /// Received and not yet read: a receive, at most.
    ahead: Vec<u8>,
}

impl Wire {
    /// Lets the alert go out that says why.
    async fn give_up(self, error: io::Error) -> io::Error {
        // Whoever does not hear it does not need it.
        let _ = self.stream.finish().await;
        error
    }

    /// The handshake is over: from here on the ring encrypts.
    async fn secure(self, connection: Connection) -> io::Result<(Stream, Vec<u8>)> {
        let Self { stream, ahead } = self;
        let mut session = Box::new(Session::new(connection));
        let mut plaintext = Vec::new();
        session.open_to(&ahead, &mut plaintext)?;
        // A receive that is armed may bring more than a receive buffer can hold decrypted as well.
        poll_fn(|cx| stream.poll_disarm(cx)).await;
        for buf in stream.take_received() {
            session.open_to(&buf, &mut plaintext)?;
        }
        stream.secure(session);
        Ok((stream, plaintext))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.ahead.is_empty() {
            match ready!(self.stream.poll_recv(cx))? {
                Some(buf) => self.ahead.extend_from_slice(&buf),
                None => return Poll::Ready(Ok(0)),
            }
        }
        let count = out.len().min(self.ahead.len());
        out[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.stream.poll_room(cx))?;
        self.stream.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(cx)
    }
}
