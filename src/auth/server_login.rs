//! We log in to a server: answers to its Authentication messages.
//!
//! A server is as untrusted as a client. In particular one that has begun SCRAM must finish it: whoever says
//! AuthenticationOk without having proven that it knows the password may be posing as the server.
//!
//! The server names the method. As in libpq's default, a server that asks for the password in clear text gets
//! it; only verified TLS (`tls_verify`) keeps it from somebody in between.

use super::keys::{Derivation, Keys, Origin};
use super::md5::Md5Hash;
use super::revealed::ServerSecret;
use super::scram::client::{client_first, AwaitServerFinal, AwaitServerFirst, Binding, Challenge};
use super::scram::{Mechanism, ScramError};
use super::{code, message, Random};
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

/// Everything that decides how we log in.
#[derive(Debug)]
pub struct ServerLoginRequest<'a> {
    /// As in our startup message.
    pub user: &'a str,
    /// The database as clients know it, for the error they may get to see.
    pub database: &'a str,
    /// One secret; to try another takes another connection. `None` when there is none: then the server
    /// must do without.
    pub secret: Option<ServerSecret>,
    /// `tls-server-end-point` of the connection: the hash of the server's certificate. `None` without TLS.
    pub end_point: Option<Vec<u8>>,
    /// For this login only.
    pub random: Random,
}

/// What the caller does next.
#[derive(Debug)]
pub enum ServerStep {
    /// Send these bytes, then pass on the next Authentication message.
    Send(Vec<u8>),
    /// Nothing to send; pass on the next Authentication message.
    Wait,
    /// Find these keys in a cache or derive them on a helper thread, for [`ServerLogin::derived`].
    Derive(Derivation),
    /// We are in, and the server is who we wanted, as far as the method can tell. Was a password asked for? Otherwise
    /// nothing is said about it.
    Accepted {
        /// It was, and it is the right one.
        password: bool,
    },
    /// Close the connection. The error lets the session survive; the caller may change that.
    Refused(Error),
}

/// Our login to one server.
#[derive(Debug)]
pub struct ServerLogin {
    user: Box<str>,
    database: Box<str>,
    secret: Option<ServerSecret>,
    end_point: Option<Vec<u8>>,
    random: Random,
    state: State,
}

#[derive(Debug)]
enum State {
    Startup,
    /// The password is sent, in clear text or as md5.
    PasswordSent,
    ServerFirst(AwaitServerFirst),
    Deriving(Challenge),
    ServerFinal(AwaitServerFinal),
    /// The server has proven itself; it owes AuthenticationOk.
    Proven,
    Accepted,
    Refused,
}

impl ServerLogin {
    /// Waits for the server's answer to the startup message.
    pub fn new(request: ServerLoginRequest<'_>) -> Self {
        Self {
            user: request.user.into(),
            database: request.database.into(),
            secret: request.secret,
            end_point: request.end_point,
            random: request.random,
            state: State::Startup,
        }
    }

    /// Takes an Authentication message (`R`): its code, and what follows the code.
    pub fn authentication(&mut self, code: i32, body: &[u8]) -> ServerStep {
        let state = std::mem::replace(&mut self.state, State::Refused);
        match (state, code) {
            (state @ (State::Startup | State::PasswordSent | State::Proven), code::OK) => {
                self.state = State::Accepted;
                ServerStep::Accepted {
                    password: !matches!(state, State::Startup),
                }
            }
            (State::ServerFirst(_) | State::ServerFinal(_), code::OK) => {
                self.fail("server skipped its part of SCRAM authentication")
            }
            (State::Startup, code::CLEARTEXT_PASSWORD) => self.cleartext_password(),
            (State::Startup, code::MD5_PASSWORD) => self.md5_password(body),
            (State::Startup, code::SASL) => self.sasl(body),
            (State::Startup, _) => unsupported(),
            (State::ServerFirst(client), code::SASL_CONTINUE) => match client.server_first(body) {
                Ok(challenge) => self.challenge(challenge),
                Err(error) => self.scram_error(error),
            },
            (State::ServerFinal(client), code::SASL_FINAL) => match client.server_final(body) {
                Ok(()) => {
                    self.state = State::Proven;
                    ServerStep::Wait
                }
                Err(error) => self.scram_error(error),
            },
            _ => self.fail("unexpected authentication message"),
        }
    }

    /// Takes the keys asked for by [`ServerStep::Derive`].
    pub fn derived(&mut self, keys: &Keys) -> ServerStep {
        let State::Deriving(challenge) = std::mem::replace(&mut self.state, State::Refused) else {
            debug_assert!(false, "keys only when asked for");
            return self.fail("keys without a challenge");
        };
        let (client, response) = challenge.answer(keys);
        self.state = State::ServerFinal(client);
        ServerStep::Send(message(b'p', &[&response]))
    }

    fn cleartext_password(&mut self) -> ServerStep {
        let password = match &self.secret {
            None => return self.no_password(),
            Some(ServerSecret::Password(password)) => password,
            Some(ServerSecret::Scram(_) | ServerSecret::Md5(_)) => return self.only_keys(),
        };
        self.state = State::PasswordSent;
        ServerStep::Send(message(b'p', &[password.as_bytes(), b"\0"]))
    }

    fn md5_password(&mut self, body: &[u8]) -> ServerStep {
        let hash = match &self.secret {
            None => return self.no_password(),
            Some(ServerSecret::Password(password)) => {
                Md5Hash::new(password.as_bytes(), self.user.as_bytes())
            }
            Some(ServerSecret::Md5(hash)) => hash.clone(),
            Some(ServerSecret::Scram(_)) => return self.only_keys(),
        };
        let Ok(salt) = body.try_into() else {
            return self.fail("malformed authentication message");
        };
        let answer = hash.answer(salt);
        self.state = State::PasswordSent;
        ServerStep::Send(message(b'p', &[&answer, b"\0"]))
    }

    /// Chooses the strongest mechanism that both sides know. The body lists zero-terminated names.
    fn sasl(&mut self, body: &[u8]) -> ServerStep {
        match &self.secret {
            None => return self.no_password(),
            Some(ServerSecret::Password(_) | ServerSecret::Scram(_)) => {}
            Some(ServerSecret::Md5(_)) => return self.only_keys(),
        }
        let offers = |mechanism: Mechanism| {
            let mut names = body.split(|byte| *byte == 0);
            names.any(|name| name == mechanism.name().as_bytes())
        };
        let binding = match self.end_point.take() {
            Some(end_point) if offers(Mechanism::Sha256Plus) => Binding::EndPoint(end_point),
            _ if !offers(Mechanism::Sha256) => return unsupported(),
            Some(_) => Binding::NotOffered,
            None => Binding::Unsupported,
        };
        let mechanism = binding.mechanism().name().as_bytes();
        let (client, response) = client_first(binding, &self.random);
        let length = u32::try_from(response.len()).expect("a client-first message is short");
        self.state = State::ServerFirst(client);
        ServerStep::Send(message(
            b'p',
            &[mechanism, b"\0", &length.to_be_bytes(), &response],
        ))
    }

    fn challenge(&mut self, challenge: Challenge) -> ServerStep {
        let password = match &self.secret {
            Some(ServerSecret::Password(password)) => password.clone(),
            Some(ServerSecret::Scram(known))
                if known.are_for(&challenge.salt, challenge.iterations) =>
            {
                let (client, response) = challenge.answer(&known.keys);
                self.state = State::ServerFinal(client);
                return ServerStep::Send(message(b'p', &[&response]));
            }
            Some(ServerSecret::Scram(_)) => {
                return self.fail("the server's verifier has changed since the client logged in")
            }
            Some(ServerSecret::Md5(_)) | None => return self.no_password(),
        };
        let derivation = Derivation {
            password,
            salt: challenge.salt.clone(),
            iterations: challenge.iterations,
            origin: Origin::Configured,
        };
        self.state = State::Deriving(challenge);
        ServerStep::Derive(derivation)
    }

    fn no_password(&self) -> ServerStep {
        self.fail("server asks for a password, none is configured")
    }

    fn only_keys(&self) -> ServerStep {
        self.fail("server asks for a password, known is only what stands for it in another method")
    }

    fn scram_error(&self, error: ScramError) -> ServerStep {
        self.fail(error.as_str())
    }

    fn fail(&self, reason: &'static str) -> ServerStep {
        let message = format!(
            "cannot connect to server for database \"{}\"",
            self.database
        );
        ServerStep::Refused(cannot_connect(message.into()).detail(reason))
    }
}

fn unsupported() -> ServerStep {
    ServerStep::Refused(cannot_connect(
        "server authentication method not supported".into(),
    ))
}

fn cannot_connect(message: std::borrow::Cow<'static, str>) -> Error {
    Error::error(
        Fault::Server,
        SqlState::SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION,
        message,
    )
}
