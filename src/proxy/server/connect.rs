//! A new server connection: resolve, dial, log in, learn what it reports.

use std::rc::Rc;
use std::time::Instant;

use cores::{Stream, TcpOptions};

use crate::auth::iam::IamLogin;
use crate::auth::{
    certificate, Password, ServerLogin, ServerLoginRequest, ServerSecret, ServerStep,
};
use crate::balance::{BanReason, Event};
use crate::config::Host;
use crate::error::{Error, Fault};
use crate::metrics::{nanoseconds, Phase, ServerMeter, Stat};
use crate::pool::{ConnectFailure, Crowd, Pool};
use crate::prepared::server::ServerStatements;
use crate::protocol::backend::{tag, BackendKeyData, ParameterStatus};
use crate::protocol::error_fields::{field, Fields};
use crate::protocol::frame::Frames;
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup::{StartupMessage, Version};

use super::super::core_state::CoreState;
use super::super::news;
use super::super::pools::PoolSlot;
use super::super::room;
use super::cancel::Address;
use super::encrypt;
use super::{Lost, Server};

/// Longest message of a login.
const LOGIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// Opens one connection for the slice that asked for it.
pub(crate) async fn open(state: Rc<CoreState>, slot: Rc<PoolSlot>, generation: u32) {
    let began = state.core.now();
    let before = slot.config();
    // What the address means may change meanwhile: as of now.
    let epoch = slot.epoch(&state);
    let deadline = state
        .config()
        .servers
        .connect_timeout
        .and_then(|timeout| began.checked_add(timeout));
    let outcome = state
        .core
        .timeout_at(deadline, Box::pin(connect(&state, &slot, Purpose::Pool)))
        .await;
    match outcome.unwrap_or_else(|| Err(unreachable_server(&slot, "connect_timeout"))) {
        Ok(mut server) => {
            server.epoch = epoch;
            slot.refusals.admitted();
            news::happened(&state, slot.id, Event::Passed);
            let counters = slot.registry.counters();
            counters.count(Stat::ConnectCount);
            let took = state.core.now().saturating_duration_since(began);
            counters.add_time(Stat::ConnectTime, took);
            let reported = Rc::clone(&server.reported);
            super::super::pools::learned(&state, &slot, &reported);
            server.rest();
            slot.decide(&state, |pool, now, out| {
                pool.connected(Box::new(server), generation, now, out)
            });
        }
        Err(failure) => {
            let failure = match failure {
                // It says nothing of how we would log in by now.
                ConnectFailure::Fatal(_) if slot.config().login != before.login => {
                    ConnectFailure::Retryable
                }
                failure => failure,
            };
            match &failure {
                ConnectFailure::Retryable => {
                    tracing::info!(pool = %slot.id, "server is not ready yet");
                    // A check will tell for how long.
                    news::happened(&state, slot.id, Event::Lost);
                }
                ConnectFailure::Full(_) => {
                    tracing::info!(pool = %slot.id, "server has no connection left");
                }
                // That is no news of the server.
                ConnectFailure::Ours(error) => tracing::error!(pool = %slot.id, "{error}"),
                ConnectFailure::Fatal(error) | ConnectFailure::Unreachable(error) => {
                    tracing::error!(pool = %slot.id, address = %slot.config().address, "{error}");
                    // Who allows for several attempts is not served by a ban after the first.
                    let reason = match &failure {
                        ConnectFailure::Fatal(_) => BanReason::Login,
                        _ => BanReason::Connect,
                    };
                    let event = match state.config().servers.connect_attempts {
                        0 | 1 => Event::Failed(reason),
                        _ => Event::Lost,
                    };
                    news::happened(&state, slot.id, event);
                }
            }
            let crowd = match failure {
                ConnectFailure::Full(crowd) => Some(crowd),
                _ => None,
            };
            slot.decide(&state, |pool: &mut Pool<_>, now, out| {
                pool.connect_failed(failure, now, out)
            });
            if let Some(crowd) = crowd {
                room::refused(&state, &slot, crowd);
            }
        }
    }
}

fn unreachable_server(slot: &PoolSlot, reason: impl std::fmt::Display) -> ConnectFailure {
    ConnectFailure::Unreachable(cannot_connect(slot, reason))
}

fn cannot_connect(slot: &PoolSlot, reason: impl std::fmt::Display) -> Error {
    let message = format!(
        "cannot connect to server for database \"{}\"",
        slot.names.database
    );
    let code = SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
    Error::error(Fault::Server, code, message).detail(reason.to_string())
}

/// Why a login to a server came to nothing.
pub(crate) enum Refusal {
    /// The server's own words: an ErrorResponse.
    Server(Vec<u8>),
    /// What else.
    Other(ConnectFailure),
}

impl Refusal {
    /// What it means to those who wait for a connection.
    fn failure(self, slot: &PoolSlot) -> ConnectFailure {
        match self {
            Self::Server(body) => refused(slot, &body),
            Self::Other(failure) => failure,
        }
    }
}

impl From<ConnectFailure> for Refusal {
    fn from(failure: ConnectFailure) -> Self {
        Self::Other(failure)
    }
}

/// What a login is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The pool: whatever lets us in will do.
    Pool,
    /// To prove the password, which a server that does not ask for it cannot.
    Proof,
    /// Checks of the server: it is nobody's, and none of those that are shown and counted.
    Check,
    /// To finish what two-phase commits have left; not shown and counted either.
    Recovery,
}

impl Purpose {
    fn application_name(self) -> &'static [u8] {
        match self {
            Self::Pool | Self::Proof => b"pgdog",
            Self::Check => b"pgdog check",
            Self::Recovery => b"pgdog recovery",
        }
    }
}

/// Tries the passwords in turn, each on a connection of its own.
pub(crate) async fn connect(
    state: &Rc<CoreState>,
    slot: &PoolSlot,
    purpose: Purpose,
) -> Result<Server, ConnectFailure> {
    let pool = slot.config();
    if let Some(region) = &pool.login.iam_region {
        return connect_with_token(state, slot, region, purpose).await;
    }
    let passwords = &pool.login.passwords;
    let keys = pool.login.keys.as_ref();
    let keys = keys.and_then(|keys| ServerSecret::parse(keys.expose()));
    let mut last = None;
    let candidates = passwords
        .iter()
        .map(|secret| Some(ServerSecret::Password(Password::new(secret.expose()))))
        .chain(passwords.is_empty().then_some(keys));
    for secret in candidates {
        let outcome = log_in(state, slot, secret, purpose).await;
        match outcome.map_err(|refusal| refusal.failure(slot)) {
            Err(ConnectFailure::Fatal(error)) if error.code == SqlState::INVALID_PASSWORD => {
                last = Some(error)
            }
            other => return other,
        }
    }
    // To the client it is no password of its own that is wrong.
    let code = SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
    Err(last.map_or_else(
        || unreachable_server(slot, "no way to log in"),
        |error| ConnectFailure::Fatal(Error { code, ..error }),
    ))
}

/// Logs in to RDS with a token of AWS IAM for a password.
async fn connect_with_token(
    state: &Rc<CoreState>,
    slot: &PoolSlot,
    region: &str,
    purpose: Purpose,
) -> Result<Server, ConnectFailure> {
    let pool = slot.config();
    let login = IamLogin {
        host: pool.address.host.to_string(),
        port: pool.address.port,
        user: pool.login.user.clone(),
        region: region.to_owned(),
    };
    let token = state.core.foreign(state.iam.token(login.clone())).await;
    let token = token
        .map_err(|reason| unreachable_server(slot, format_args!("no RDS IAM token: {reason}")))?;
    let secret = ServerSecret::Password(token.clone());
    match log_in(state, slot, Some(secret), purpose).await {
        Err(refusal) => {
            let failure = refusal.failure(slot);
            let ConnectFailure::Fatal(error) = failure else {
                return Err(failure);
            };
            if error.code == SqlState::INVALID_PASSWORD {
                state.iam.refused(login, token);
            }
            // To the client it is no password of its own that is wrong.
            let code = SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
            Err(ConnectFailure::Fatal(Error { code, ..error }))
        }
        Ok(server) => Ok(server),
    }
}

/// Logs in to the slot's server with this secret.
pub(crate) async fn log_in(
    state: &Rc<CoreState>,
    slot: &PoolSlot,
    secret: Option<ServerSecret>,
    purpose: Purpose,
) -> Result<Server, Refusal> {
    let pool = slot.config();
    let gone = |error: std::io::Error| match is_ours(&error) {
        true => ConnectFailure::Ours(cannot_connect(slot, error)),
        false => unreachable_server(slot, error),
    };
    let Dialled { stream, to, host } = dial(state, slot).await.map_err(gone)?;
    if pool.login.iam_region.is_some() && stream.tls().is_none() {
        let why = "the server has no TLS, and tokens of RDS IAM are not sent without";
        return Err(unreachable_server(slot, why).into());
    }
    let end_point = stream
        .tls()
        .and_then(|tls| certificate::end_point(&tls.peer_certificate?));
    let dialled = state.core.now();
    slot.registry.counters().count(Stat::AuthAttempts);
    let mut startup = Vec::new();
    let mut pairs: Vec<(&[u8], &[u8])> = vec![
        (b"user", pool.login.user.as_bytes()),
        (b"database", pool.address.database_name.as_bytes()),
        (b"application_name", purpose.application_name()),
    ];
    pairs.extend(
        pool.startup
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    );
    StartupMessage::encode(&mut startup, Version::V3_0, pairs);
    stream.send_vec(startup);
    let mut login = ServerLogin::new(ServerLoginRequest {
        user: &pool.login.user,
        database: &pool.database,
        secret,
        end_point,
        random: state.login_random(),
    });
    let mut accepted = false;
    let mut key = None;
    let mut reported = Parameters::new();
    let mut received = Vec::new();
    loop {
        let mut frames = Frames::new(&received, LOGIN_BODY_BYTES_MAX);
        for frame in frames.by_ref() {
            let frame = frame.map_err(|_| unreachable_server(slot, Lost::Malformed))?;
            match frame.tag {
                tag::AUTHENTICATION => {
                    let Some((code, body)) = frame.body.split_first_chunk::<4>() else {
                        return Err(unreachable_server(slot, Lost::Malformed).into());
                    };
                    let mut step = login.authentication(i32::from_be_bytes(*code), body);
                    if let ServerStep::Derive(derivation) = step {
                        let keys = state.derive(derivation).await;
                        step = login.derived(&keys.ok_or_else(|| {
                            ConnectFailure::Ours(cannot_connect(slot, "too busy to derive keys"))
                        })?);
                    }
                    match step {
                        ServerStep::Send(bytes) => stream.send_vec(bytes),
                        ServerStep::Wait => {}
                        ServerStep::Accepted { password: false } if purpose == Purpose::Proof => {
                            let why = "server does not ask for a password, so it cannot be proven";
                            return Err(unreachable_server(slot, why).into());
                        }
                        ServerStep::Accepted { .. } => accepted = true,
                        ServerStep::Refused(error) => {
                            return Err(ConnectFailure::Fatal(error).into())
                        }
                        ServerStep::Derive(_) => {
                            let why = "authentication goes in circles";
                            return Err(unreachable_server(slot, why).into());
                        }
                    }
                }
                tag::ERROR_RESPONSE => return Err(Refusal::Server(frame.body.to_vec())),
                tag::PARAMETER_STATUS if accepted => {
                    if let Ok(status) = ParameterStatus::parse(frame.body) {
                        reported.set(status.name, status.value);
                    }
                }
                tag::BACKEND_KEY_DATA if accepted => {
                    if let Ok(data) = BackendKeyData::parse(frame.body) {
                        key = Some((data.process_id, data.secret.to_vec()));
                    }
                }
                tag::READY_FOR_QUERY if accepted => {
                    let target = Address {
                        connect: to,
                        host: host.filter(|_| stream.tls().is_some()),
                        key,
                    };
                    let prepared = ServerStatements::new(state.prepared_max());
                    let now = state.core.now();
                    stream.take_traffic(); // that of the login does not count
                    let reported = Rc::new(reported);
                    record(slot, Phase::ConnectAuth, dialled, now);
                    let nobody = Rc::default();
                    let registry = match purpose {
                        Purpose::Pool | Purpose::Proof => &slot.registry,
                        Purpose::Check | Purpose::Recovery => &nobody,
                    };
                    let meter = (registry, ServerMeter::new(now));
                    return Ok(Server::new(stream, reported, target, prepared, meter));
                }
                tag::NOTICE_RESPONSE | tag::NEGOTIATE_PROTOCOL_VERSION => {}
                other => {
                    let why = format!("unexpected message '{}'", other.escape_ascii());
                    return Err(unreachable_server(slot, why).into());
                }
            }
        }
        let done = frames.at();
        received.drain(..done);
        match stream.recv().await.map_err(gone)? {
            Some(buf) => received.extend_from_slice(&buf),
            None => {
                let why = "server closed the connection during login";
                return Err(unreachable_server(slot, why).into());
            }
        }
    }
}

/// Do we lack what it takes to ask the server: helpers, descriptors, ports, memory?
fn is_ours(error: &std::io::Error) -> bool {
    let inner = error.get_ref();
    let lost = inner.is_some_and(|inner| inner.is::<cores::blocking::Lost>());
    lost || cores::lacks_resources(error)
}

/// A connection that may be logged in on.
struct Dialled {
    stream: Stream,
    to: cores::Address,
    /// Its name; Unix sockets have none.
    host: Option<Box<str>>,
}

async fn dial(state: &Rc<CoreState>, slot: &PoolSlot) -> std::io::Result<Dialled> {
    let pool = slot.config();
    let address = &pool.address;
    let options = tcp_options(&state.config().tcp);
    let began = state.core.now();
    if let Some(path) = address.socket_path() {
        let to = cores::Address::Unix(path);
        let stream = Stream::connect(&state.core, &to, &options).await?;
        record(slot, Phase::ConnectTcp, began, state.core.now());
        return Ok(Dialled {
            stream,
            to,
            host: None,
        });
    }
    let Host::Tcp(host) = &address.host else {
        return Err(std::io::Error::other("no socket path"));
    };
    let found = state
        .core
        .foreign(state.names.resolve(host, address.port))
        .await?;
    let resolved = state.core.now();
    record(slot, Phase::ConnectDns, began, resolved);
    let mut last: Option<std::io::Error> = None;
    for ip in found {
        let to = cores::Address::Tcp(ip);
        match encrypt::connect(state, &to, Some(host), &options).await {
            Ok((stream, connected)) => {
                record(slot, Phase::ConnectTcp, resolved, connected);
                if stream.tls().is_some() {
                    record(slot, Phase::ConnectTls, connected, state.core.now());
                }
                let host = Some(host.as_str().into());
                return Ok(Dialled { stream, to, host });
            }
            // What a server has done tells more than what we lack for another address of it.
            Err(error) if last.as_ref().is_none_or(is_ours) => last = Some(error),
            Err(error) if !is_ours(&error) => last = Some(error),
            Err(_) => {}
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "no address")))
}

/// One phase of opening a connection is over.
fn record(slot: &PoolSlot, phase: Phase, began: Instant, now: Instant) {
    let time = nanoseconds(now.saturating_duration_since(began));
    slot.registry.latencies().record(phase, time);
}

/// The configured socket options, as the runtime knows them.
pub(crate) fn tcp_options(tcp: &crate::config::TcpOptions) -> TcpOptions {
    TcpOptions {
        keepalive: tcp.keepalive,
        keepalive_time: tcp.time,
        keepalive_interval: tcp.interval,
        keepalive_retries: tcp.retries,
        user_timeout: tcp.user_timeout,
        congestion_control: tcp.congestion_control.clone(),
    }
}

/// What a server's refusal means for those who wait, by its SQLSTATE.
fn refused(slot: &PoolSlot, body: &[u8]) -> ConnectFailure {
    let Ok(fields) = Fields::parse(body) else {
        return unreachable_server(slot, Lost::Malformed);
    };
    let code = fields.code().unwrap_or(SqlState::INTERNAL_ERROR);
    let text = |name| {
        fields
            .get(name)
            .map(|text| String::from_utf8_lossy(text).into_owned())
    };
    match code {
        // Starting up, shutting down, recovering; or full.
        SqlState::CANNOT_CONNECT_NOW => ConnectFailure::Retryable,
        SqlState::TOO_MANY_CONNECTIONS => ConnectFailure::Full(crowd(fields.get(field::ROUTINE))),
        _ => {
            let reason = format!("{} ({code})", text(field::MESSAGE).unwrap_or_default());
            let error = cannot_connect(slot, reason);
            ConnectFailure::Fatal(match code {
                SqlState::INVALID_PASSWORD => Error { code, ..error }, // another may do
                _ => error,
            })
        }
    }
}

/// Which limit is reached: the code and, in whatever language, the text are the same for all of them, so it is told by
/// the routine of the server that has found out.
///
/// Source: `miscinit.c` and `postinit.c` of PostgreSQL 10 to 18.
fn crowd(routine: Option<&[u8]>) -> Crowd {
    match routine {
        Some(b"InitializeSessionUserId") => Crowd::User,
        Some(b"CheckMyDatabase") => Crowd::Database,
        _ => Crowd::Server,
    }
}
