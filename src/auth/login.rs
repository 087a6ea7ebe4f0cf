//! A client logs in to us: which method, what to send, whether to let it in.
//!
//! ```text
//!            start()                message()              message()
//! Startup ------------> Challenge ------------> Challenge ------------> Accepted or Refused
//!    |                      |                       |   message()
//!    | trust                | plain, md5            +------------> Deriving
//!    v                      v                                         |  derived()
//! Accepted or Refused   Accepted, Refused or Deriving                 v
//!                                                            Accepted or Refused
//! ```
//!
//! An unknown user goes through the same states, with a verifier that no password satisfies; what a client
//! sees, and how long it takes, does not tell whether a user exists. Two things the caller must do for it:
//! derive the keys of configured passwords before the first login where it can (a login that has to wait for
//! them has a password), and keep the [`InstanceSecret`] as long as possible.

use super::keys::{Derivation, Keys, Origin, Password, StoredKeys, ITERATIONS};
use super::md5::Md5Hash;
use super::mock::InstanceSecret;
use super::revealed::ScramKeys;
use super::scram::server::{client_first, AwaitClientFinal, Proof};
use super::scram::{Mechanism, ScramError};
use super::verifier::{ScramVerifier, Verifier};
use super::{code, message, Random};
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

/// Longest message a client may send while it logs in, in bytes without tag: tokens used as passwords can be
/// some kilobytes long. PostgreSQL's limit. The caller should refuse a longer one before it is buffered.
pub const LOGIN_MESSAGE_BYTES_MAX: usize = 65_535;

/// `auth_type`: how clients prove themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// The password in clear text.
    Plain,
    /// The same; a password that is none of those we know may still be the server's: [`Step::Ask`].
    Passthrough,
    /// PostgreSQL's `md5`. As there, a user with a stored SCRAM verifier is asked for SCRAM instead, which
    /// shows that this user exists; `Scram` does not have this weakness.
    Md5,
    /// SCRAM-SHA-256, with channel binding on TLS.
    Scram,
}

impl Method {
    /// As it is called in `auth_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Plain => "plain",
            Self::Passthrough => "passthrough",
            Self::Md5 => "md5",
            Self::Scram => "scram",
        }
    }
}

/// What the configuration, or a query to a server, knows of a user in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Any of these is accepted. Empty ones are passed over; with none left only `trust` lets the user in.
    Passwords(Vec<Password>),
    /// A stored secret.
    Stored(Verifier),
    /// There is no such user, or not in this database.
    Unknown,
}

/// Everything that decides a login.
#[derive(Debug)]
pub struct LoginRequest<'a> {
    /// As in the startup message.
    pub user: &'a str,
    /// As in the startup message, or its default.
    pub database: &'a str,
    /// How the client is to prove itself.
    pub method: Method,
    /// What it is checked against.
    pub credentials: Credentials,
    /// `tls-server-end-point` of this connection: the hash of our certificate. `None` without TLS, or when
    /// the certificate's signature algorithm defines none; then no channel binding is offered.
    pub end_point: Option<Vec<u8>>,
    /// Where salts come from.
    pub secret: &'a InstanceSecret,
    /// For this login only.
    pub random: Random,
}

/// What the caller does next.
#[derive(Debug)]
pub enum Step {
    /// Send these bytes, then pass on the next message.
    Send(Vec<u8>),
    /// Find these keys in a cache or derive them on a helper thread, in this order, for [`Login::derived`].
    /// Read nothing from the client meanwhile.
    Derive(Vec<Derivation>),
    /// Ask the server whether this is the user's password: [`Login::vouched`] if it is. Only for
    /// [`Method::Passthrough`].
    Ask(Password),
    /// Send these bytes, if there are any, and AuthenticationOk. The client is who it says.
    Accepted(Vec<u8>),
    /// Send the error and close.
    Refused {
        /// What the client hears. Never says which part of user, database and password was wrong.
        error: Error,
        /// Why, for our log only.
        reason: &'static str,
    },
}

/// The login of one client.
#[derive(Debug)]
pub struct Login<'a> {
    user: &'a str,
    database: &'a str,
    end_point: Option<Vec<u8>>,
    random: Random,
    /// The password that the client has sent in clear text.
    typed: Option<Password>,
    /// What its proof has shown, where we had only a verifier.
    revealed: Option<ScramKeys>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Lets in whoever is known.
    Trust {
        known: bool,
    },
    /// Not sent yet.
    Startup(Challenge),
    Challenge(Challenge),
    Deriving(Deriving),
    Asking,
    Accepted,
    Refused,
}

/// What the client has been asked for.
#[derive(Debug)]
enum Challenge {
    Plain(Targets, Otherwise),
    Md5(Md5Target),
    /// To choose a mechanism.
    Mechanism(ScramTarget),
    /// For its client-first message, which it might have sent along with the mechanism.
    ClientFirst(Mechanism, ScramTarget),
    ClientFinal(AwaitClientFinal, ScramTarget),
}

/// What becomes of a password in clear text that is none of those known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Otherwise {
    Refuse,
    AskServer,
}

/// What will be decided once the keys are there.
#[derive(Debug)]
enum Deriving {
    /// A proof against the keys of configured passwords.
    Proof(Proof),
    /// A clear text password against stored keys.
    Typed(StoredKeys, Otherwise),
}

/// All that a password in clear text may be checked against.
#[derive(Debug)]
struct Targets {
    md5: Md5Target,
    scram: ScramVerifier,
    /// Is there a real verifier behind `scram`?
    scram_stored: bool,
}

/// What an answer to the `md5` challenge may be checked against.
#[derive(Debug)]
struct Md5Target {
    passwords: Vec<Password>,
    hash: Md5Hash,
}

/// What a SCRAM exchange is held against.
#[derive(Debug)]
struct ScramTarget {
    salt: Box<[u8]>,
    iterations: u32,
    secrets: ScramSecrets,
}

#[derive(Debug)]
enum ScramSecrets {
    /// Keys are known: a stored verifier, or one for a user who does not exist.
    Keys(StoredKeys),
    /// Keys follow from these, all with the same salt.
    Derive(Vec<Derivation>),
}

// What a user does not have is filled in with what no password satisfies, at the same cost for all users of a method.

impl Targets {
    fn new(credentials: Credentials, user: &str, secret: &InstanceSecret) -> Self {
        let nobody = secret.scram(user);
        let (scram, scram_stored) = match &credentials {
            Credentials::Stored(Verifier::Scram(scram)) => (scram.clone(), true),
            _ => (nobody, false),
        };
        Self {
            md5: Md5Target::new(credentials, user, secret),
            scram,
            scram_stored,
        }
    }
}

impl Md5Target {
    fn new(credentials: Credentials, user: &str, secret: &InstanceSecret) -> Self {
        let nobody = secret.md5(user);
        let (passwords, hash) = match credentials {
            Credentials::Passwords(passwords) => (usable(passwords), nobody),
            Credentials::Stored(Verifier::Md5(hash)) => (Vec::new(), hash),
            Credentials::Stored(Verifier::Scram(_)) | Credentials::Unknown => (Vec::new(), nobody),
        };
        Self { passwords, hash }
    }
}

impl ScramTarget {
    fn new(credentials: Credentials, user: &str, secret: &InstanceSecret) -> Self {
        let nobody = secret.scram(user);
        let (verifier, passwords) = match credentials {
            Credentials::Passwords(passwords) => (nobody, usable(passwords)),
            Credentials::Stored(Verifier::Scram(verifier)) => (verifier, Vec::new()),
            Credentials::Stored(Verifier::Md5(_)) | Credentials::Unknown => (nobody, Vec::new()),
        };
        let ScramVerifier {
            salt,
            iterations,
            keys,
        } = verifier;
        let secrets = if passwords.is_empty() {
            ScramSecrets::Keys(keys)
        } else {
            // The salt is this user's, whoever asks.
            debug_assert_eq!(iterations, ITERATIONS);
            ScramSecrets::Derive(derivations(&passwords, &salt))
        };
        Self {
            salt,
            iterations,
            secrets,
        }
    }
}

fn usable(mut passwords: Vec<Password>) -> Vec<Password> {
    passwords.retain(|password| !password.is_empty());
    passwords
}

fn derivations(passwords: &[Password], salt: &[u8]) -> Vec<Derivation> {
    let derivation = |password: &Password| Derivation {
        password: password.clone(),
        salt: salt.into(),
        iterations: ITERATIONS,
        origin: Origin::Configured,
    };
    passwords.iter().map(derivation).collect()
}

impl Credentials {
    /// The derivations a SCRAM login of `user` would ask for: run them at start and after a reload, and keep
    /// the keys in a [`KeyCache`](super::KeyCache), so that no login waits.
    pub fn derivations(&self, user: &str, secret: &InstanceSecret) -> Vec<Derivation> {
        match self {
            Self::Passwords(passwords) => derivations(passwords, &secret.salt(user))
                .into_iter()
                .filter(|derivation| !derivation.password.is_empty())
                .collect(),
            Self::Stored(_) | Self::Unknown => Vec::new(),
        }
    }
}

impl<'a> Login<'a> {
    /// Prepares a login; [`start`](Self::start) makes the first step.
    pub fn new(request: LoginRequest<'a>) -> Self {
        let LoginRequest {
            user,
            database,
            method,
            credentials,
            end_point,
            secret,
            random,
        } = request;
        let scram_stored = matches!(credentials, Credentials::Stored(Verifier::Scram(_)));
        let state = match method {
            Method::Trust => State::Trust {
                known: !matches!(credentials, Credentials::Unknown),
            },
            Method::Plain | Method::Passthrough => {
                let otherwise = match method {
                    Method::Passthrough => Otherwise::AskServer,
                    _ => Otherwise::Refuse,
                };
                let targets = Targets::new(credentials, user, secret);
                State::Startup(Challenge::Plain(targets, otherwise))
            }
            Method::Md5 if !scram_stored => {
                State::Startup(Challenge::Md5(Md5Target::new(credentials, user, secret)))
            }
            Method::Md5 | Method::Scram => {
                let target = ScramTarget::new(credentials, user, secret);
                State::Startup(Challenge::Mechanism(target))
            }
        };
        Self {
            user,
            database,
            end_point,
            random,
            typed: None,
            revealed: None,
            state,
        }
    }

    /// Asks for whatever the method needs. Call it once, first.
    pub fn start(&mut self) -> Step {
        let challenge = match self.leave() {
            State::Trust { known: true } => return self.accept(Vec::new()),
            State::Trust { known: false } => return self.refuse("unknown user"),
            State::Startup(challenge) => challenge,
            _ => {
                debug_assert!(false, "a login starts once");
                return self.unexpected();
            }
        };
        let bytes = match (&challenge, &self.end_point) {
            (Challenge::Plain(..), _) => authentication(code::CLEARTEXT_PASSWORD, &[]),
            (Challenge::Md5(_), _) => authentication(code::MD5_PASSWORD, &self.md5_salt()),
            (_, None) => authentication(code::SASL, b"SCRAM-SHA-256\0\0"),
            (_, Some(_)) => authentication(code::SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        };
        self.challenge(challenge, bytes)
    }

    /// Takes the client's next message: its tag, and its body without length. Only `p`, which holds
    /// passwords and SASL responses alike, goes anywhere.
    pub fn message(&mut self, tag: u8, body: &[u8]) -> Step {
        let State::Challenge(challenge) = self.leave() else {
            return self.unexpected();
        };
        if tag != b'p' {
            return self.unexpected();
        }
        if body.len() > LOGIN_MESSAGE_BYTES_MAX {
            return self.violation("password message too long");
        }
        match challenge {
            Challenge::Plain(targets, otherwise) => self.plain(targets, otherwise, body),
            Challenge::Md5(target) => self.md5(&target, body),
            Challenge::Mechanism(target) => self.sasl_initial_response(target, body),
            Challenge::ClientFirst(mechanism, target) => self.client_first(mechanism, target, body),
            Challenge::ClientFinal(server, target) => match server.client_final(body) {
                Ok(proof) => match target.secrets {
                    ScramSecrets::Keys(keys) => {
                        let verifier = ScramVerifier {
                            salt: target.salt,
                            iterations: target.iterations,
                            keys,
                        };
                        self.check_verifier(&proof, verifier)
                    }
                    ScramSecrets::Derive(derivations) => {
                        self.derive(Deriving::Proof(proof), derivations)
                    }
                },
                Err(error) => self.scram_error(error),
            },
        }
    }

    /// Takes the keys asked for by [`Step::Derive`], one for each derivation.
    pub fn derived(&mut self, keys: &[Keys]) -> Step {
        let State::Deriving(deriving) = self.leave() else {
            debug_assert!(false, "keys only when asked for");
            return self.unexpected();
        };
        match deriving {
            Deriving::Proof(proof) => {
                let keys: Vec<_> = keys.iter().map(|keys| keys.stored.clone()).collect();
                self.check(&proof, &keys)
            }
            Deriving::Typed(expected, otherwise) => {
                if keys.iter().any(|keys| keys.stored == expected) {
                    self.accept(Vec::new())
                } else {
                    self.none_of_ours(otherwise)
                }
            }
        }
    }

    /// The server says that it is the user's password, after [`Step::Ask`].
    pub fn vouched(&mut self) -> Step {
        let State::Asking = self.leave() else {
            debug_assert!(false, "only who was asked may vouch");
            return self.unexpected();
        };
        self.accept(Vec::new())
    }

    /// The password that the client has sent, if it was in clear text.
    pub fn typed(&self) -> Option<&Password> {
        self.typed.as_ref()
    }

    /// Is the client in?
    pub fn is_accepted(&self) -> bool {
        matches!(self.state, State::Accepted)
    }

    /// The keys that a client has shown who proved itself by SCRAM to a stored verifier.
    pub fn revealed(&self) -> Option<&ScramKeys> {
        self.revealed.as_ref()
    }

    fn plain(&mut self, targets: Targets, otherwise: Otherwise, body: &[u8]) -> Step {
        let Some(typed) = password(body) else {
            return self.violation("malformed password message");
        };
        if typed.is_empty() {
            return self.refuse("empty password");
        }
        let password = Password::new(typed);
        self.typed = Some(password.clone());
        let mut matches = targets.md5.hash.matches(typed, self.user.as_bytes());
        for password in &targets.md5.passwords {
            matches |= password.matches(typed);
        }
        if matches {
            return self.accept(Vec::new());
        }
        if otherwise == Otherwise::AskServer && !targets.scram_stored {
            return self.none_of_ours(otherwise);
        }
        // Only a stored SCRAM verifier needs this, but all failures must take the same time.
        let derivation = Derivation {
            password,
            salt: targets.scram.salt,
            iterations: targets.scram.iterations,
            origin: Origin::Typed,
        };
        self.derive(
            Deriving::Typed(targets.scram.keys, otherwise),
            vec![derivation],
        )
    }

    /// The password in clear text is none that we know.
    fn none_of_ours(&mut self, otherwise: Otherwise) -> Step {
        match (otherwise, self.typed.clone()) {
            (Otherwise::AskServer, Some(password)) => {
                self.state = State::Asking;
                Step::Ask(password)
            }
            _ => self.refuse(ScramError::Proof.as_str()),
        }
    }

    fn md5(&mut self, target: &Md5Target, body: &[u8]) -> Step {
        let Some(answer) = password(body) else {
            return self.violation("malformed password message");
        };
        let salt = self.md5_salt();
        let mut matches = target.hash.check(salt, answer);
        for password in &target.passwords {
            let hash = Md5Hash::new(password.as_bytes(), self.user.as_bytes());
            matches |= hash.check(salt, answer);
        }
        if matches {
            self.accept(Vec::new())
        } else {
            self.refuse("password does not match")
        }
    }

    fn sasl_initial_response(&mut self, target: ScramTarget, body: &[u8]) -> Step {
        let Some((name, response)) = split_initial_response(body) else {
            return self.violation("malformed SASL response");
        };
        let mechanism = match Mechanism::from_name(name) {
            Some(Mechanism::Sha256Plus) if self.end_point.is_none() => None,
            mechanism => mechanism,
        };
        let Some(mechanism) = mechanism else {
            return self.violation("SASL mechanism was not offered");
        };
        match response {
            Some(response) => self.client_first(mechanism, target, response),
            None => self.challenge(
                Challenge::ClientFirst(mechanism, target),
                authentication(code::SASL_CONTINUE, &[]),
            ),
        }
    }

    fn client_first(&mut self, mechanism: Mechanism, target: ScramTarget, body: &[u8]) -> Step {
        let result = client_first(
            mechanism,
            self.end_point.as_deref(),
            body,
            &self.random,
            &target.salt,
            target.iterations,
        );
        match result {
            Ok((server, response)) => self.challenge(
                Challenge::ClientFinal(server, target),
                authentication(code::SASL_CONTINUE, &response),
            ),
            Err(error) => self.scram_error(error),
        }
    }

    fn check(&mut self, proof: &Proof, keys: &[StoredKeys]) -> Step {
        match proof.check(keys) {
            Ok(proven) => self.accept(authentication(code::SASL_FINAL, &proven.server_final)),
            Err(error) => self.scram_error(error),
        }
    }

    fn check_verifier(&mut self, proof: &Proof, verifier: ScramVerifier) -> Step {
        match proof.check(std::slice::from_ref(&verifier.keys)) {
            Ok(proven) => {
                self.revealed = Some(ScramKeys::revealed(verifier, proven.client_key));
                self.accept(authentication(code::SASL_FINAL, &proven.server_final))
            }
            Err(error) => self.scram_error(error),
        }
    }

    fn md5_salt(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.random;
        [a, b, c, d]
    }

    /// Takes the state out. Whoever does not put another in has refused the login.
    fn leave(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Refused)
    }

    fn challenge(&mut self, challenge: Challenge, bytes: Vec<u8>) -> Step {
        self.state = State::Challenge(challenge);
        Step::Send(bytes)
    }

    fn derive(&mut self, deriving: Deriving, derivations: Vec<Derivation>) -> Step {
        self.state = State::Deriving(deriving);
        Step::Derive(derivations)
    }

    fn accept(&mut self, bytes: Vec<u8>) -> Step {
        self.state = State::Accepted;
        Step::Accepted(bytes)
    }

    fn scram_error(&self, error: ScramError) -> Step {
        if error.is_violation() {
            self.violation(error.as_str())
        } else {
            self.refuse(error.as_str())
        }
    }

    fn refuse(&self, reason: &'static str) -> Step {
        Step::Refused {
            error: wrong_password(self.user, self.database),
            reason,
        }
    }

    fn violation(&self, reason: &'static str) -> Step {
        Step::Refused {
            error: Error::protocol_violation(reason),
            reason,
        }
    }

    fn unexpected(&self) -> Step {
        let reason = "expected a password message";
        Step::Refused {
            error: Error::fatal(Fault::Client, SqlState::PROTOCOL_VIOLATION, reason),
            reason,
        }
    }
}

/// What everybody hears whose user, database or password is not right.
pub fn wrong_password(user: &str, database: &str) -> Error {
    let text = format!("authentication failed for user \"{user}\", database \"{database}\"");
    Error::fatal(Fault::Client, SqlState::INVALID_PASSWORD, text)
}

/// An Authentication message.
fn authentication(code: i32, body: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), body])
}

/// The string of a PasswordMessage: ends with a zero byte and holds no other.
fn password(body: &[u8]) -> Option<&[u8]> {
    let (zero, password) = body.split_last()?;
    (*zero == 0 && !password.contains(&0)).then_some(password)
}

/// SASLInitialResponse: `mechanism "\0"`, length (-1: none) and bytes of the response.
fn split_initial_response(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (name, rest) = body.split_at_checked(end)?;
    let (length, response) = rest.get(1..)?.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 if response.is_empty() => Some((name, None)),
        length if usize::try_from(length) == Ok(response.len()) => Some((name, Some(response))),
        _ => None,
    }
}

/// Feeds hostile bytes to every challenge. The first byte picks the mechanism offered.
#[cfg(any(test, fuzzing))]
pub fn fuzz_login(data: &[u8]) {
    let (flavour, body) = data.split_first().unwrap_or((&0, &[]));
    let secret = InstanceSecret::new([1; 32]);
    for method in [
        Method::Plain,
        Method::Passthrough,
        Method::Md5,
        Method::Scram,
    ] {
        let mut login = Login::new(LoginRequest {
            user: "alice",
            database: "shop",
            method,
            credentials: Credentials::Passwords(vec![Password::new("pencil")]),
            end_point: (flavour & 1 == 1).then(|| b"certificate".to_vec()),
            secret: &secret,
            random: [*flavour; super::scram::NONCE_BYTES],
        });
        login.start();
        // Again after the first answer: the client-final message.
        for _ in 0..2 {
            login.message(b'p', body);
        }
    }
}
