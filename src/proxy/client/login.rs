//! From an accepted socket to a session: encryption requests, startup, authentication, welcome.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cores::Stream;

use crate::admin::driver::Session as AdminDialogue;
use crate::auth::{
    certificate, Credentials, Login, LoginRequest, Method, Password, ScramKeys, Step, Verifier,
};
use crate::config::choice::AuthType;
use crate::config::guests::{Passthrough, Voucher};
use crate::config::{Config, Secret, User};
use crate::error::{Error, Fault};
use crate::metrics::{tally, LoginResult, Stat};
use crate::prepared::ClientStatements;
use crate::protocol::authentication::AUTHENTICATION_OK;
use crate::protocol::backend::{ready_for_query, ParameterStatus, TransactionStatus};
use crate::protocol::error_fields::put_error;
use crate::protocol::frame::{peek, Header, HEADER_BYTES};
use crate::protocol::parameters::Parameters;
use crate::protocol::sqlstate::SqlState;
use crate::session::{Recall, Ties};
use crate::snapshot::Names;
use crate::sql::session_settings::SessionSettings;

use super::super::cluster::Cluster;
use super::super::core_state::{CoreState, Phase, KEYS_MAX};
use super::super::link::{Enrolled, Face};
use super::super::mail::Mail;
use super::super::pools::PoolSlot;
use super::super::setup::Setup;
use super::admin::{self, AdminLink, AdminSession};
use super::adopt::{admit, killed, unknown_database, Manner};
use super::audit::Audit;
use super::farewell::close;
use super::lookup;
use super::passthrough::{self, Stranger};
use super::startup::Encrypted;
use super::unnamed::Unnamed;
use super::visitor::Visitor;
use super::wish::Wish;
use super::{End, Inbound, LoggedIn, Session};

/// Another name of the admin database, for PgBouncer's tools.
const ADMIN_ALIAS: &str = "pgbouncer";
/// A guest may be forgotten by a reload as soon as it is introduced. Where it is to have its place has gone meanwhile if
/// that does not help.
const INTRODUCTIONS_MAX: usize = 3;
/// What a client sends at once while it logs in usually fits.
const RECEIVED_BYTES: usize = 256;
/// AuthenticationOk and all that follows usually fit.
const WELCOME_BYTES: usize = 1024;

/// A client that is not logged in.
pub(super) struct Newcomer<'a> {
    pub(super) state: &'a Rc<CoreState>,
    /// Not there only while it is being encrypted: given up then, it is closed without a word.
    pub(super) stream: Option<Stream>,
    pub(super) received: Vec<u8>,
    pub(super) encrypted: Option<Encrypted>,
    /// What it wants, once it has said so: its database, and the method by which it has to prove itself.
    wants: Option<(String, &'static str)>,
}

/// How a client has proven itself.
pub(super) struct Proof {
    /// The password that it has sent in clear text.
    pub(super) typed: Option<Password>,
    /// What it has shown by SCRAM, where only a verifier was known.
    pub(super) keys: Option<Secret>,
    /// Has a server said that it is the right one?
    pub(super) vouched: bool,
}

/// How long a connection that has no session may take to hear its end.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(1);

/// The session, or `None` when there is to be none.
pub(super) async fn log_in(state: &Rc<CoreState>, stream: Stream) -> Option<LoggedIn> {
    let deadline = state
        .config()
        .clients
        .login_timeout
        .and_then(|timeout| state.core.now().checked_add(timeout));
    let mut newcomer = Newcomer {
        state,
        stream: Some(stream),
        received: Vec::with_capacity(RECEIVED_BYTES),
        encrypted: None,
        wants: None,
    };
    let began = state.core.now();
    let error = match state.core.timeout_at(deadline, newcomer.log_in()).await {
        Some(Ok(None)) => {
            // A cancel request that came over TLS: libpq takes an end without a goodbye for a failure.
            if let Some(stream) = newcomer
                .stream
                .take()
                .filter(|_| newcomer.encrypted.is_some())
            {
                close(state, stream, GOODBYE).await;
            }
            return None;
        }
        Some(Ok(Some(Admitted::Client { cluster, .. })))
            if state.was_killed(&cluster.names.user, &cluster.names.database, began) =>
        {
            killed()
        }
        Some(Ok(Some(admitted))) => {
            newcomer.ended(began, LoginResult::Ok);
            return admitted.session(state, newcomer);
        }
        Some(Err(End::Fatal(error))) => error,
        Some(Err(End::Left | End::Silent | End::Recovered)) => {
            // Whoever only knocks (a port that is probed) has not tried to log in.
            if newcomer.wants.is_some() {
                newcomer.ended(began, LoginResult::Abandoned);
            }
            return None;
        }
        None => {
            let limit = state
                .config()
                .clients
                .login_timeout
                .unwrap_or_default()
                .as_millis();
            let text = format!("login not finished within {limit} ms (client_login_timeout)");
            Error::fatal(Fault::Client, SqlState::QUERY_CANCELED, text)
        }
    };
    let shutting_down = state.phase.get() != Phase::Serving;
    newcomer.ended(began, LoginResult::refused(error.code, shutting_down));
    state.tally.error(newcomer.database(), error.code);
    let mut message = Vec::new();
    put_error(&mut message, &error);
    let stream = newcomer.stream?;
    stream.send_vec(message);
    close(state, stream, GOODBYE).await;
    None
}

/// Who a client is, after a look at its certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// Whom the certificate names.
    Proven,
    /// To be asked.
    Asked,
}

/// Who may have a session.
enum Admitted {
    Client {
        generation: u32,
        cluster: Rc<Cluster>,
        link: Enrolled,
        settings: SessionSettings,
    },
    Admin {
        link: Rc<AdminLink>,
        session: AdminDialogue,
    },
}

impl Admitted {
    fn session(self, state: &Rc<CoreState>, newcomer: Newcomer<'_>) -> Option<LoggedIn> {
        let (stream, received) = (newcomer.stream?, newcomer.received);
        let (generation, cluster, link, settings) = match self {
            Self::Admin { link, session } => {
                let session = AdminSession::new(state, stream, received, link, session);
                return Some(LoggedIn::Admin(session));
            }
            Self::Client {
                generation,
                cluster,
                link,
                settings,
            } => (generation, cluster, link, settings),
        };
        Some(LoggedIn::Client(Session {
            state: Rc::clone(state),
            stream,
            link,
            generation,
            manner: Manner::of(state, cluster.home()),
            slot: Rc::clone(cluster.home()),
            cluster,
            inbound: Inbound::of(received),
            settings,
            proven: None,
            statements: ClientStatements::default(),
            tracker: None,
            known: None,
            ties: Ties::default(),
            recall: Recall::default(),
            redefined: Default::default(),
            unnamed: Unnamed::None,
            unbound: None,
            bound: Vec::new(),
            unbound_in: 0,
            skipping: false,
            is_silent: true,
            timed_out: false,
            retry: None,
            audit: Audit::of(state),
            written: None,
            sharded: None,
        }))
    }
}

impl Newcomer<'_> {
    /// The database that it wants, if it is one of ours: others may have any name.
    fn database(&self) -> &str {
        let config = self.state.config();
        let wanted = self.wants.as_ref().map(|(database, _)| database);
        let known = wanted.filter(|name| {
            config.cluster(name).is_some() || **name == config.admin.name || *name == ADMIN_ALIAS
        });
        known.map_or(tally::OTHER, String::as_str)
    }

    /// Its login has come to an end.
    fn ended(&self, began: Instant, result: LoginResult) {
        let took = self.state.core.now().saturating_duration_since(began);
        let method = self.wants.as_ref().map_or("none", |(_, method)| *method);
        let way = (method, self.encrypted.is_some());
        self.state.tally.login(self.database(), result, way, took);
    }

    async fn log_in(&mut self) -> Result<Option<Admitted>, End> {
        let Some(wish) = self.startup().await? else {
            return Ok(None);
        };
        self.wants = Some((wish.database.clone(), "none"));
        if self.wants_admin(&wish) {
            return self.log_in_admin(&wish).await.map(Some);
        }
        if self.state.phase.get() != Phase::Serving {
            let text = "shutting down, not accepting connections";
            return Err(End::Fatal(Error::fatal(
                Fault::Proxy,
                SqlState::CANNOT_CONNECT_NOW,
                text,
            )));
        }
        if !wish.negotiation.is_empty() {
            self.stream().write(&wish.negotiation);
        }
        let (method, credentials, identity, voucher) = {
            let config = self.state.config();
            let encrypted = self.encrypted.is_some();
            let passthrough = config.passthrough(&wish.user, &wish.database, encrypted);
            let method = match passthrough {
                Passthrough::Off => method(&config),
                Passthrough::Known => Method::Plain,
                Passthrough::Server => Method::Passthrough,
            };
            if method == Method::Trust && config.cluster(&wish.database).is_none() {
                return Err(End::Fatal(unknown_database(&wish.database)));
            }
            let user = config.users.find(&wish.user, &wish.database);
            // Of a user who does not exist as much is demanded as of most who do.
            let required = user.is_none_or(|user| user.certificate_required);
            let named = user.and_then(|user| user.credentials.identity.as_deref());
            let identity = self.check_certificate(&config, required, named, &wish.user)?;
            let looked_up = method != Method::Trust
                && passthrough == Passthrough::Off
                && config.lookup(&wish.user, &wish.database).is_some();
            let voucher = match passthrough {
                Passthrough::Known | Passthrough::Server => Some(Voucher::Login { settled: true }),
                Passthrough::Off => Some(Voucher::Query).filter(|_| looked_up),
            };
            (method, credentials(user), identity, voucher)
        };
        let mut stranger = None;
        if identity == Identity::Asked {
            let credentials = match voucher {
                Some(Voucher::Query) => lookup::credentials(self.state, &wish).await?,
                _ => credentials,
            };
            let looked_up = voucher == Some(Voucher::Query);
            let known = looked_up.then(|| credentials.clone());
            let proof = self.authenticate(&wish, method, credentials).await;
            if proof.is_err() && looked_up {
                // The next attempt hears of a new password.
                lookup::forget(self.state, &wish);
            }
            let proof = proof?;
            stranger = voucher.and_then(|voucher| Stranger::of(&wish, proof, voucher, known));
        }
        let settings =
            SessionSettings::new(wish.settings.iter(), &mut self.state.settings.borrow_mut());
        let mut introductions = 0..INTRODUCTIONS_MAX;
        let (generation, cluster, welcome) = loop {
            if let Some(stranger) = &mut stranger {
                let introduction = Box::pin(stranger.introduce(self.state));
                introduction.await.map_err(End::Fatal)?;
            }
            let generation = self.state.generation();
            let cluster = match admit(self.state, &wish.user, &wish.database) {
                Err(_)
                    if stranger
                        .as_ref()
                        .is_some_and(|who| who.is_unknown(self.state))
                        && introductions.next().is_some() =>
                {
                    continue
                }
                found => found.map_err(End::Fatal)?,
            };
            match self.learn_from_any(&cluster, &wish, &settings).await {
                Ok(welcome) => break (generation, cluster, welcome),
                // The pool may have been replaced meanwhile.
                Err(_) if generation != self.state.generation() => {}
                Err(end) => return Err(end),
            }
        };
        let slot = cluster.home();
        let link = self.state.enroll(wish.version, slot);
        let mut message = Vec::with_capacity(WELCOME_BYTES);
        message.extend_from_slice(&AUTHENTICATION_OK);
        message.extend_from_slice(&welcome);
        link.key.backend_key_data().encode(&mut message);
        message.extend_from_slice(&ready_for_query(TransactionStatus::Idle));
        // Behind what is queued, in one piece with it.
        self.stream().write(&message);
        if self.state.config().log.connections {
            let (user, database) = (&wish.user, &wish.database);
            tracing::info!(%user, %database, "client logged in");
        }
        let application_name = wish.settings.get("application_name").unwrap_or_default();
        let face = Face {
            names: Arc::clone(&slot.names),
            peer: self.stream().peer(),
            application_name: RefCell::new(self.state.application_name(application_name)),
        };
        let _ = link.face.set(face); // it is fresh
        slot.registry.counters().count(Stat::ClientLoginCount);
        Ok(Some(Admitted::Client {
            generation,
            cluster,
            link,
            settings,
        }))
    }

    fn wants_admin(&self, wish: &Wish) -> bool {
        let config = self.state.config();
        let alias = wish.database == ADMIN_ALIAS && config.cluster(ADMIN_ALIAS).is_none();
        alias || wish.database == config.admin.name
    }

    /// The admin database: its only user has a password of its own, whatever is trusted elsewhere.
    async fn log_in_admin(&mut self, wish: &Wish) -> Result<Admitted, End> {
        let state = self.state;
        let config = state.config();
        let method = match method(&config) {
            Method::Trust => Method::Scram,
            method => method,
        };
        let admin = &config.admin;
        self.check_certificate(&config, admin.certificate_required, None, &wish.user)?;
        let password = admin
            .password
            .as_ref()
            .filter(|_| wish.user == admin.user)
            .map(|password| Password::new(password.expose()));
        let credentials = match password {
            Some(password) => Credentials::Passwords(vec![password]),
            None => Credentials::Unknown,
        };
        if !wish.negotiation.is_empty() {
            self.stream().write(&wish.negotiation);
        }
        self.authenticate(wish, method, credentials).await?;
        if state.admins.borrow().len() >= admin::SESSIONS_MAX {
            let text = "too many clients in the admin database";
            let code = SqlState::TOO_MANY_CONNECTIONS;
            return Err(End::Fatal(Error::fatal(Fault::Proxy, code, text)));
        }
        let key = state.key(wish.version);
        let session = AdminDialogue::new(
            &wish.user,
            &wish.database,
            key.process_id(),
            env!("CARGO_PKG_VERSION"),
            wish.settings.iter(),
        );
        let mut message = AUTHENTICATION_OK.to_vec();
        for (name, value) in session.reported() {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            ParameterStatus { name, value }.encode(&mut message);
        }
        key.backend_key_data().encode(&mut message);
        message.extend_from_slice(&ready_for_query(TransactionStatus::Idle));
        self.stream().send_vec(message);
        if config.log.connections {
            tracing::info!(user = %wish.user, database = %wish.database, "administrator logged in");
        }
        let names = Names {
            user: wish.user.clone(),
            database: wish.database.clone(),
        };
        let link = AdminLink::new(state, key, names, self.stream().peer());
        Ok(Admitted::Admin {
            link: Rc::new(link),
            session,
        })
    }

    async fn authenticate(
        &mut self,
        wish: &Wish,
        method: Method,
        credentials: Credentials,
    ) -> Result<Proof, End> {
        let state = self.state;
        if let Some((_, by)) = &mut self.wants {
            *by = method.name();
        }
        let mut vouched = false;
        let mut login = Login::new(LoginRequest {
            user: &wish.user,
            database: &wish.database,
            method,
            credentials,
            end_point: self.end_point(),
            secret: &state.instance_secret,
            random: state.login_random(),
        });
        let mut step = login.start();
        loop {
            step = match step {
                Step::Send(bytes) => {
                    self.stream().send_vec(bytes);
                    let header = self.message().await?;
                    let frame_bytes = header.frame_bytes();
                    let body = self.received.get(HEADER_BYTES..frame_bytes);
                    let step = login.message(header.tag, body.unwrap_or_default());
                    self.received.drain(..frame_bytes);
                    step
                }
                Step::Derive(derivations) => {
                    let mut keys = Vec::with_capacity(derivations.len());
                    for derivation in derivations {
                        let busy = || {
                            Error::fatal(
                                Fault::Proxy,
                                SqlState::TOO_MANY_CONNECTIONS,
                                "too many clients",
                            )
                        };
                        keys.push(
                            state
                                .derive(derivation)
                                .await
                                .ok_or_else(|| End::Fatal(busy()))?,
                        );
                    }
                    login.derived(&keys)
                }
                Step::Ask(password) => {
                    let (user, database) = (&wish.user, &wish.database);
                    let answer = Box::pin(passthrough::ask(state, user, database, &password));
                    answer.await.map_err(End::Fatal)?;
                    vouched = true;
                    login.vouched()
                }
                Step::Accepted(bytes) => {
                    // AuthenticationOk goes out with the welcome.
                    self.stream().write(&bytes);
                    let typed = login.typed().cloned();
                    let keys = login.revealed().map(ScramKeys::to_text);
                    return Ok(Proof {
                        typed,
                        keys: keys.map(Secret::from),
                        vouched,
                    });
                }
                Step::Refused { error, reason } => {
                    tracing::warn!(user = %wish.user, database = %wish.database, "login refused: {reason}");
                    return Err(End::Fatal(error));
                }
            };
        }
    }

    /// Is the client's certificate what its user must show? `required`: one, if clients are asked for any; `identity`: whom it names.
    fn check_certificate(
        &self,
        setup: &Setup,
        required: bool,
        identity: Option<&str>,
        name: &str,
    ) -> Result<Identity, End> {
        let shown = self.encrypted.as_ref();
        let shown = shown.and_then(|encrypted| encrypted.certificate.as_deref());
        let clients = setup.certificates.clients.as_ref();
        let asks = clients.is_some_and(|clients| clients.asks_certificates);
        match (identity, shown) {
            (Some(identity), Some(shown)) if certificate::names(shown, identity) => {
                Ok(Identity::Proven)
            }
            (None, Some(_)) => Ok(Identity::Asked),
            (None, None) if !(asks && required) => Ok(Identity::Asked),
            _ => {
                let text = format!("client certificate rejected for user \"{name}\"");
                let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
                Err(End::Fatal(Error::fatal(Fault::Client, code, text)))
            }
        }
    }

    /// Waits for the next tagged message, which is in front of `received` then.
    async fn message(&mut self) -> Result<Header, End> {
        let limit = crate::auth::login::LOGIN_MESSAGE_BYTES_MAX;
        loop {
            if let Some(header) =
                peek(&self.received, limit).map_err(|error| End::Fatal(error.into()))?
            {
                if self.received.len() >= header.frame_bytes() {
                    return Ok(header);
                }
            }
            self.read().await?;
        }
    }

    /// What the servers of a cluster report to a session with these settings, as a client is told: all the same, so any
    /// of them may say. Errors: what the first one says.
    async fn learn_from_any(
        &mut self,
        cluster: &Cluster,
        wish: &Wish,
        settings: &SessionSettings,
    ) -> Result<Rc<[u8]>, End> {
        let known = cluster
            .pools()
            .find_map(|slot| slot.welcome(settings.committed()));
        if let Some(welcome) = known {
            return Ok(welcome);
        }
        let home = cluster.home();
        let error = match self.learn(home, &wish.settings, settings).await {
            Ok(welcome) => return Ok(welcome),
            Err(error) => error,
        };
        for slot in cluster.pools().filter(|slot| !Rc::ptr_eq(slot, home)) {
            if let Ok(welcome) = self.learn(slot, &wish.settings, settings).await {
                return Ok(welcome);
            }
        }
        Err(error)
    }

    /// The same of one pool: from memory, or from a server.
    async fn learn(
        &mut self,
        slot: &Rc<PoolSlot>,
        wished: &Parameters,
        settings: &SessionSettings,
    ) -> Result<Rc<[u8]>, End> {
        if let Some(welcome) = slot.welcome(settings.committed()) {
            return Ok(welcome);
        }
        let visitor = Visitor::new(self.state, slot);
        let outcome = visitor.learn(wished, settings.committed()).await;
        outcome.map_err(End::Fatal)
    }
}

/// How clients prove who they are.
fn method(config: &Config) -> Method {
    match config.clients.auth_type {
        AuthType::Trust => Method::Trust,
        AuthType::Plain => Method::Plain,
        AuthType::Md5 => Method::Md5,
        AuthType::Scram => Method::Scram,
    }
}

/// Derives, after a start or a reload, what first logins would wait for, for all cores: that they wait would tell who exists.
pub(crate) async fn derive_ahead(state: Rc<CoreState>) {
    let config = state.config();
    let generation = state.generation();
    let admin = &config.admin;
    let password = admin.password.as_ref();
    let password = password.map(|password| vec![Password::new(password.expose())]);
    let admin = (
        &admin.user,
        password.map_or(Credentials::Unknown, Credentials::Passwords),
    );
    let users = config.users.iter();
    let users = users.map(|user| (&user.name, credentials(Some(user))));
    let users = users.filter(|_| method(&config) == Method::Scram);
    let secret = &state.instance_secret;
    let all = std::iter::once(admin).chain(users);
    let all = all.flat_map(|(user, known)| known.derivations(user, secret));
    // Keys for servers have to have room, too.
    for derivation in all.take(KEYS_MAX / 2) {
        if state.generation() != generation || state.phase.get() != Phase::Serving {
            return;
        }
        let Some(keys) = state.derive(derivation.clone()).await else {
            continue;
        };
        for other in state.others() {
            // A core with much mail derives them when somebody logs in.
            let _ = state.leave(
                other,
                Mail::Derived(Box::new((derivation.clone(), keys.clone()))),
            );
        }
        state.core.patiently().await;
    }
}

fn credentials(user: Option<&User>) -> Credentials {
    let Some(user) = user else {
        return Credentials::Unknown;
    };
    let known = &user.credentials;
    if let Some(Ok(verifier)) = known
        .password_hash
        .as_ref()
        .map(|hash| Verifier::parse(hash.expose()))
    {
        return Credentials::Stored(verifier);
    }
    Credentials::Passwords(
        known
            .passwords
            .iter()
            .map(|password| Password::new(password.expose()))
            .collect(),
    )
}
