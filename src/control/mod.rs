//! One plain thread: configuration, start of the cores, signals, end. No query waits for it.

mod act;
mod admin;
mod events;
mod gather;
mod http;
mod observe;
mod push;
mod query_log;
mod recent;
mod reload;
mod route;
mod systemd;
mod tcp;
mod tls;
mod waits;

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use cores::blocking::{Blocking, Helpers};
use cores::limits::{Demand, Limits};
use cores::log::{Dedup, Format, LogGuard, LogSettings, Output};
use cores::names::Names;
use cores::placement::{Placement, Wish};
use cores::signal::Signals;
use cores::BoundSocket;

use crate::auth::{InstanceSecret, Verifier};
use crate::config::choice::LogFormat;
use crate::config::cli::{Cli, Command};
use crate::config::{resolve_with, Config, Environment, Resolved, Source, Sources, TwoPhaseCommit};
use crate::proxy::commit_log::CommitLog;
use crate::proxy::iam::Tokens;
use crate::proxy::{self, Boot, CommitBoot, MAILBOX_CAPACITY};
use crate::routing::two_phase::gid::Owner;
use crate::routing::two_phase::log::Ledger;

use events::Control;
use query_log::QueryLog;

use reload::Current;

/// Log records that may wait for the writer thread.
const LOG_RECORDS_MAX: usize = 10_000;
/// Threads for key derivation, and jobs that may wait for them.
const HELPERS: usize = 2;
const HELPER_JOBS_MAX: usize = 4096;

/// Runs the program. Exit code 0 after an orderly end, 1 when it cannot start.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if let Some(reason) = cli.command.as_ref().and_then(Command::unavailable) {
        return fail(reason);
    }
    match &cli.command {
        Some(Command::Hash { password }) => hash(password.expose()),
        Some(Command::Route {
            user,
            database,
            file,
            queries,
        }) => route::run(&cli, (user, database), file.as_deref(), queries),
        Some(Command::Configcheck(_)) => match load(&cli, &Found::default()) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    eprintln!("warning: {warning}");
                }
                let usable =
                    tcp::check(&loaded.config.tcp).and_then(|()| tls::material(&loaded.config.tls));
                match usable {
                    Ok(_) => ExitCode::SUCCESS,
                    Err(reason) => fail(reason),
                }
            }
            Err(problems) => fail(problems),
        },
        _ => match serve(&cli) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => fail(reason),
        },
    }
}

fn fail(reason: impl std::fmt::Display) -> ExitCode {
    eprintln!("{reason}");
    ExitCode::FAILURE
}

fn hash(password: &str) -> ExitCode {
    let mut salt = [0; 16];
    if let Err(error) = getrandom::fill(&mut salt) {
        return fail(error);
    }
    let verifier = Verifier::derive(password.as_bytes(), &salt, crate::auth::keys::ITERATIONS);
    #[expect(clippy::print_stdout, reason = "the answer of the subcommand")]
    {
        println!("{}", verifier.to_text());
    }
    ExitCode::SUCCESS
}

/// Which of pgdog.toml and users.toml there was when they were last valid.
type Found = Cell<[bool; 2]>;

/// The configuration from files, environment and flags. Errors: all that is wrong with it, one per line; a file is gone.
fn load(cli: &Cli, found: &Found) -> Result<Resolved, String> {
    let (config_path, users_path) = (cli.config_path(), cli.users_path());
    let config = read(config_path)?;
    let users = read(users_path)?;
    let now_found = [config.is_some(), users.is_some()];
    for (path, (before, now)) in [config_path, users_path]
        .into_iter()
        .zip(found.get().into_iter().zip(now_found))
    {
        if before && !now {
            return Err(format!("{}: no such file any more", path.display()));
        }
    }
    let (environment, unreadable) = environment();
    let sources = Sources {
        config: Source {
            path: &config_path.to_string_lossy(),
            text: config.as_deref(),
        },
        users: Source {
            path: &users_path.to_string_lossy(),
            text: users.as_deref(),
        },
        environment: &environment,
        overrides: &cli.overrides(),
    };
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| error.to_string());
    let mut resolved = resolve_with(&sources, &read).map_err(|problems| {
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    found.set(now_found);
    resolved.warnings.extend(unreadable);
    Ok(resolved)
}

/// Variables of the process; warns of those of ours that are no text.
fn environment() -> (Environment, Vec<String>) {
    let mut environment = Environment::new();
    let mut warnings = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => drop(environment.insert(name, value)),
            (Ok(name), Err(_)) if name.starts_with("PGDOG_") => {
                warnings.push(format!("{name}: is not UTF-8, ignored"));
            }
            _ => {}
        }
    }
    (environment, warnings)
}

/// A file's text; `None` if there is none.
fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn serve(cli: &Cli) -> Result<(), String> {
    let signals = Signals::block().map_err(|error| format!("cannot take signals: {error}"))?;
    let found = Found::default();
    let Resolved { config, warnings } = load(cli, &found)?;
    let _log = start_log(&config).map_err(|error| format!("cannot start logging: {error}"))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let cpus = place(&config)?;
    let ring = cores::ring_size();
    let demand = Demand {
        cores: cpus.len(),
        ring,
        executor_entries: cores::EXECUTOR_ENTRIES,
        sockets: sockets(&config),
    };
    let limits = Limits::raise(&demand);
    for warning in &limits.warnings {
        tracing::warn!("{warning}");
    }
    cores::preflight::check(&ring).map_err(|unusable| unusable.to_string())?;
    let helpers = |error| format!("cannot start helper threads: {error}");
    let keys = Blocking::start(&Helpers {
        threads: HELPERS,
        jobs_max: HELPER_JOBS_MAX,
        avoid: Vec::new(),
        nice: 0,
    });
    let keys = keys.map_err(helpers)?;
    let names = Names::start().map_err(helpers)?;
    let query_log = QueryLog::start(&config.log)?;
    let (listen, where_to) = listen(&config, cpus.len())?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| format!("no random bytes: {error}"))?;
    let journal = query_log.journal();
    let current = Current::first(config, query_log)?;
    let (events, received) = events::channel();
    let instance_id = instance_id(current.setup())?;
    let observation = &current.setup().observation;
    observe::serve(observation, &events)?;
    if let Some(otlp) = observation.otlp.clone() {
        push::start(otlp, &instance_id, events.clone())?;
    }
    let boot = Boot {
        setup: current.setup().clone(),
        keys,
        names,
        iam: Tokens::start().map_err(|error| format!("cannot start a helper thread: {error}"))?,
        journal,
        instance_secret: InstanceSecret::new(secret),
        listen,
        events: events.clone(),
        newcomers_max: proxy::newcomers_max(limits.files.soft, cpus.len()),
        commits: commits(current.setup(), &instance_id)?,
    };
    let count = cpus.len();
    let cores = cores::start(&cpus, MAILBOX_CAPACITY, move |core, mailbox, office| {
        proxy::run(core, mailbox, office, boot)
    })
    .map_err(|error| format!("cannot start the cores: {error}"))?;
    tracing::info!(
        "pgdog {} listens on {where_to} with {count} cores",
        env!("CARGO_PKG_VERSION")
    );
    let control = Control::new(current, instance_id, cores.office().clone(), received);
    events::forward_signals(signals, events.clone())
        .and_then(|()| events::await_end(cores, events))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    control
        .run(&|| load(cli, &found))
        .map_err(|error| error.to_string())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread has no core to ask"
)]
fn now() -> Instant {
    Instant::now()
}

/// How this process is told from its siblings: `NODE_ID`, or eight hexadecimal digits.
fn instance_id(config: &Config) -> Result<String, String> {
    if let Some(node_id) = &config.instance.node_id {
        return Ok(node_id.clone());
    }
    let number = getrandom::u32().map_err(|error| format!("no random bytes: {error}"))?;
    Ok(format!("{number:08x}"))
}

/// Opens the log of two-phase commits, if there is to be one.
fn commits(config: &Config, instance_id: &str) -> Result<CommitBoot, String> {
    let (log, left) = match &config.commit_log {
        Some(settings) => CommitLog::open(settings).map(|(log, left)| (Some(log), left))?,
        None => (None, Ledger::default()),
    };
    let mut users = config.users.iter();
    if log.is_none() && users.any(|user| user.two_phase_commit != TwoPhaseCommit::Off) {
        tracing::warn!(
            "two_phase_commit without two_phase_commit_wal_dir: after a crash, prepared transactions are left to the \
             operator (pg_prepared_xacts)"
        );
    }
    let deployment = config.instance.deployment_id.as_deref();
    Ok(CommitBoot {
        log,
        left,
        owner: Owner::new(deployment, instance_id),
        process: getrandom::u64().map_err(|error| format!("no random bytes: {error}"))?,
    })
}

fn start_log(config: &Config) -> io::Result<LogGuard> {
    let format = match config.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
        LogFormat::JsonFlattened => Format::JsonFlattened,
    };
    cores::log::start(&LogSettings {
        format,
        filter: config.log.level.clone(),
        records_max: LOG_RECORDS_MAX,
        output: Output::Stderr,
        dedup: config
            .log
            .dedup
            .map(|(window, allowed)| Dedup { window, allowed }),
    })
}

fn place(config: &Config) -> Result<Vec<usize>, String> {
    let wish = Wish {
        workers: config.workers.map(std::num::NonZeroUsize::get),
        cpus: Vec::new(),
    };
    let placement =
        Placement::choose(&wish).map_err(|error| format!("cannot choose CPUs: {error}"))?;
    for warning in &placement.warnings {
        tracing::warn!("{warning}");
    }
    Ok(placement.cpus)
}

/// Sockets that the operator surely wants: every pool full, and a thousand clients.
fn sockets(config: &Config) -> u64 {
    let servers: usize = config.pools.iter().map(|pool| pool.limits.size).sum();
    servers as u64 + 1000
}

/// Where to listen, and how to say it: on the service manager's sockets if it has opened some. What cannot work is
/// found out here, before any core starts.
fn listen(config: &Config, cores: usize) -> Result<(Arc<[BoundSocket]>, String), String> {
    let sockets = cores::activation::take()
        .map_err(|error| format!("cannot use the service manager's sockets: {error}"))?;
    if sockets.is_empty() {
        let address = listen_address(config)?;
        let text = |error| format!("cannot listen on {address}: {error}");
        let sockets: io::Result<Vec<_>> = (0..cores).map(|_| cores::bind(address)).collect();
        return Ok((sockets.map_err(text)?.into(), address.to_string()));
    }
    if sockets.len() > cores {
        let count = sockets.len();
        return Err(format!(
            "the service manager gives {count} sockets to {cores} cores: at most one each"
        ));
    }
    let name = |socket: &BoundSocket| socket.local_address().map(|address| address.to_string());
    let names: io::Result<Vec<_>> = sockets.iter().map(name).collect();
    let names = names.map_err(|error| format!("cannot use a socket: {error}"))?;
    Ok((sockets.into(), names.join(", ")))
}

fn listen_address(config: &Config) -> Result<SocketAddr, String> {
    let (host, port) = (config.listen.host.as_str(), config.listen.port);
    (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot resolve host = \"{host}\": {error}"))?
        .next()
        .ok_or_else(|| format!("host = \"{host}\" has no address"))
}
