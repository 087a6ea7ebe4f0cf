//! Encryption on both sides: every way to ask for it, what is verified, who is let in by a certificate.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::support::pgdog::ADMIN_PASSWORD;
use crate::support::postgres::{ALICE, MD5_USER, PASSWORD, PLAIN_USER, TRUSTED_USER};
use crate::support::process::{poll, PATIENCE};
use crate::support::programs::{pgbench, psql_as, psql_with, Said};
use crate::support::wire::{query, startup, untagged, CANCEL_REQUEST, SSL_REQUEST, VERSION_3_0};
use crate::support::{Certificates, Config, Pgdog, Postgres, Wire};

const STORED: &str = "password = \"hunter2\"";

/// Settings that let pgdog encrypt.
fn listener() -> String {
    let certificates = Certificates::shared();
    format!(
        "tls_certificate = {:?}\ntls_private_key = {:?}",
        certificates.path("server.crt"),
        certificates.path("server.key")
    )
}

/// Settings that name the authority for servers.
fn server_ca(file: &str) -> String {
    let path = Certificates::shared().path(file);
    format!("tls_server_ca_certificate = {path:?}")
}

fn ssl_request() -> Vec<u8> {
    untagged(SSL_REQUEST, &[])
}

/// psql with these settings of libpq's, trusting the authority.
fn psql(pgdog: &Pgdog, user: &str, database: &str, settings: &[(&str, &str)], sql: &str) -> Said {
    let authority = Certificates::shared().text("authority.crt");
    let trust = [
        ("PGSSLROOTCERT", authority.as_str()),
        ("PGHOST", "localhost"),
    ];
    psql_as(
        user,
        pgdog.port(),
        database,
        &[&trust, settings].concat(),
        sql,
    )
}

#[test]
fn every_client_method_with_every_mode_of_tls_and_every_server_method() {
    let postgres = Postgres::encrypted();
    let database = postgres.database("tls");
    let modes = [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ];
    let mut turn = 0;
    for auth_type in ["trust", "plain", "md5", "scram"] {
        for tls_verify in ["disabled", "prefer", "verify_ca", "verify_full"] {
            let general = format!(
                "auth_type = {auth_type:?}\ntls_verify = {tls_verify:?}\n{}\n{}",
                listener(),
                server_ca("authority.crt")
            );
            let mut config =
                Config::empty()
                    .general(&general)
                    .host(&database, "localhost", postgres.port(), "");
            let users = [ALICE, MD5_USER, PLAIN_USER, TRUSTED_USER];
            for user in users {
                config = config.user(user, &database, STORED);
            }
            let pgdog = config.start();
            for user in users {
                let mode = modes[turn % modes.len()];
                turn += 1;
                let sql = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                let settings = [("PGSSLMODE", mode)];
                let encrypted = if tls_verify == "disabled" { "f" } else { "t" };
                assert_eq!(
                    psql(&pgdog, user, &database, &settings, sql).ok(),
                    format!("{user}|{encrypted}\n"),
                    "{auth_type}, {mode}, {tls_verify}"
                );
                let told = psql(&pgdog, user, &database, &settings, "\\conninfo").ok();
                assert_eq!(
                    told.contains("TLSv1.3"),
                    !matches!(mode, "disable" | "allow"),
                    "{mode}: {told}"
                );
            }
            pgdog.stop();
        }
    }
}

#[test]
fn libpq_verifies_us() {
    let database = Postgres::shared().database("tls");
    let pgdog = Config::of(&database).general(&listener()).start();
    let check = |settings: &[(&str, &str)], expected: Result<(), &str>| {
        let said = psql(&pgdog, ALICE, &database, settings, "SELECT 1");
        match expected {
            Ok(()) => assert_eq!(said.ok(), "1\n"),
            Err(part) => assert!(said.err.contains(part), "{}", said.err),
        }
    };
    let stranger = Certificates::shared().text("stranger.crt");
    let stranger = ("PGSSLROOTCERT", stranger.as_str());
    check(&[("PGSSLMODE", "verify-full")], Ok(()));
    let by_address = [("PGSSLMODE", "verify-full"), ("PGHOST", "127.0.0.1")];
    check(&by_address, Err("does not match host name"));
    let verify_failed = Err("certificate verify failed");
    check(&[("PGSSLMODE", "verify-ca"), stranger], verify_failed);
    pgdog.stop();
}

#[test]
fn channels_are_bound_where_clients_demand_it() {
    let database = Postgres::shared().database("tls");
    for (auth_type, mode, works) in [
        ("scram", "require", true),
        ("scram", "disable", false),
        ("md5", "require", false),
        ("plain", "require", false),
    ] {
        let general = format!("auth_type = {auth_type:?}\n{}", listener());
        let pgdog = Config::of(&database).general(&general).start();
        let settings = [("PGSSLMODE", mode), ("PGCHANNELBINDING", "require")];
        let said = psql(&pgdog, ALICE, &database, &settings, "SELECT 1");
        if works {
            assert_eq!(said.ok(), "1\n");
        } else {
            assert!(
                said.err.contains("channel binding required"),
                "{}",
                said.err
            );
        }
        pgdog.stop();
    }
}

#[test]
fn a_client_that_must_encrypt() {
    let database = Postgres::shared().database("tls");
    let general = format!("tls_client_required = true\n{}", listener());
    let pgdog = Config::of(&database).general(&general).start();
    let refused = psql(
        &pgdog,
        ALICE,
        &database,
        &[("PGSSLMODE", "disable")],
        "SELECT 1",
    );
    assert!(
        refused
            .err
            .contains("TLS is required by tls_client_required"),
        "{}",
        refused.err
    );
    let mut wire = Wire::open(pgdog.port());
    wire.send(&startup(
        VERSION_3_0,
        &[("user", ALICE), ("database", &database)],
    ));
    assert_eq!(wire.rest(), "E:08004");
    // libpq goes on to try what is asked of it.
    for mode in ["allow", "prefer", "require"] {
        let said = psql(&pgdog, ALICE, &database, &[("PGSSLMODE", mode)], "SELECT 1");
        assert_eq!(said.ok(), "1\n", "{mode}");
    }
    pgdog.stop();
}

#[test]
fn bytes_sent_ahead_of_the_answer_are_refused() {
    let database = Postgres::shared().database("tls");
    let pgdog = Config::of(&database).general(&listener()).start();
    let mut wire = Wire::open(pgdog.port());
    let names = [("user", ALICE), ("database", &*database)];
    wire.send(&[ssl_request(), startup(VERSION_3_0, &names)].concat());
    assert_eq!(wire.rest(), "E:08P01");
    pgdog.stop();
}

type Client = StreamOwned<ClientConnection, TcpStream>;

/// TLS on a connection by hand, offering these protocols.
fn encrypt(socket: TcpStream, protocols: &[&str]) -> Client {
    encrypt_as(client_config(protocols), socket)
}

/// A client that trusts the authority, offers these protocols and keeps its sessions.
fn client_config(protocols: &[&str]) -> Arc<ClientConfig> {
    let certificates = Certificates::shared();
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(certificates.path("authority.crt")).unwrap();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    Arc::new(config)
}

fn encrypt_as(config: Arc<ClientConfig>, socket: TcpStream) -> Client {
    let name = "localhost".try_into().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket)
}

/// Everything up to the end of the stream, or up to as many bytes.
fn read(client: &mut Client, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 1024];
    while all.len() < bytes {
        match client.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(count) => all.extend_from_slice(&part[..count]),
        }
    }
    all
}

fn contains(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

#[test]
fn encryption_is_asked_for_once() {
    let database = Postgres::shared().database("tls");
    let pgdog = Config::of(&database).general(&listener()).start();
    let mut socket = TcpStream::connect(("127.0.0.1", pgdog.port())).unwrap();
    socket.write_all(&ssl_request()).unwrap();
    let mut answer = [0];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    let mut client = encrypt(socket, &[]);
    client.write_all(&ssl_request()).unwrap();
    let told = read(&mut client, usize::MAX);
    assert!(contains(&told, "C08P01"), "{told:?}");
    assert!(contains(&told, "encryption already negotiated"), "{told:?}");
    pgdog.stop();
}

/// libpq takes an end without a goodbye for a failure.
#[test]
fn an_encrypted_cancel_request_is_told_goodbye() {
    let database = Postgres::shared().database("tls");
    let pgdog = Config::of(&database).general(&listener()).start();
    let mut socket = TcpStream::connect(("127.0.0.1", pgdog.port())).unwrap();
    socket.write_all(&ssl_request()).unwrap();
    socket.read_exact(&mut [0]).unwrap();
    let mut client = encrypt(socket, &[]);
    let request = untagged(CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4]);
    client.write_all(&request).unwrap();
    assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    pgdog.stop();
}

/// With a ticket of an earlier connection, on whichever core that was; until the keys change.
#[test]
fn sessions_are_resumed() {
    let database = Postgres::shared().database("tls");
    let pgdog = Config::of(&database)
        .general(&format!("{}\nworkers = 2", listener()))
        .start();
    let connect = |config: &Arc<ClientConfig>| {
        let socket = TcpStream::connect(("127.0.0.1", pgdog.port())).unwrap();
        let mut client = encrypt_as(Arc::clone(config), socket);
        let names = [("user", ALICE), ("database", &*database)];
        client.write_all(&startup(VERSION_3_0, &names)).unwrap();
        // The ticket comes ahead of what follows the handshake.
        let asked = read(&mut client, 1);
        assert!(contains(&asked, "SCRAM-SHA-256-PLUS"), "{asked:?}");
        client.conn.handshake_kind().unwrap()
    };
    let config = client_config(&["postgresql"]);
    assert_eq!(connect(&config), HandshakeKind::Full);
    for _ in 0..8 {
        assert_eq!(connect(&config), HandshakeKind::Resumed);
    }
    let another = client_config(&["postgresql"]);
    assert_eq!(connect(&another), HandshakeKind::Full);
    pgdog.stop();
}

#[test]
fn direct_tls_needs_its_protocol_named() {
    let database = Postgres::shared().database("tls");
    let pgdog = Config::of(&database).general(&listener()).start();
    let names = [("user", ALICE), ("database", &*database)];
    let attempt = |protocols: &[&str]| {
        let socket = TcpStream::connect(("127.0.0.1", pgdog.port())).unwrap();
        let mut client = encrypt(socket, protocols);
        let _ = client.write_all(&startup(VERSION_3_0, &names));
        read(&mut client, 1)
    };
    let offer = attempt(&["postgresql"]);
    assert!(contains(&offer, "SCRAM-SHA-256-PLUS"), "{offer:?}");
    assert_eq!(attempt(&["h2", "postgresql"]).first(), Some(&b'R'));
    assert_eq!(attempt(&[]), b"");
    assert_eq!(attempt(&["h2"]), b"");
    let without = Config::of(&database).start();
    let socket = TcpStream::connect(("127.0.0.1", without.port())).unwrap();
    assert_eq!(read(&mut encrypt(socket, &["postgresql"]), 1), b"");
    without.stop();
    pgdog.stop();
}

#[test]
fn clients_with_certificates() {
    let certificates = Certificates::shared();
    let database = Postgres::shared().database("tls");
    let general = format!(
        "tls_client_ca_certificate = {:?}\n{}",
        certificates.path("authority.crt"),
        listener()
    );
    let identity =
        |lines: &str| format!("{lines}\nserver_user = \"alice\"\nserver_password = {PASSWORD:?}");
    let pgdog = Config::empty()
        .general(&general)
        .database(&database, "")
        .user(ALICE, &database, STORED)
        .user("named", &database, &identity("identity = \"cert_user\""))
        .user(
            "free",
            &database,
            &identity("password = \"hunter2\"\ntls_client_certificate_required = false"),
        )
        .admin()
        .start();
    let log_in =
        |database: &str, user: &str, shown: &str, password: &str, expected: Result<(), &str>| {
            let (certificate, key) = (
                certificates.text(&format!("{shown}.crt")),
                certificates.text(&format!("{shown}.key")),
            );
            let mut settings = vec![("PGSSLMODE", "require"), ("PGPASSWORD", password)];
            if !shown.is_empty() {
                settings.push(("PGSSLCERT", &certificate));
                settings.push(("PGSSLKEY", &key));
            }
            let sql = match database {
                "admin" => "SHOW VERSION",
                _ => "SELECT 1",
            };
            let said = psql(&pgdog, user, database, &settings, sql);
            match expected {
                Ok(()) => assert!(!said.ok().is_empty(), "{user} {shown}"),
                Err(part) => assert!(said.err.contains(part), "{user} {shown}: {}", said.err),
            }
        };
    let check = |user: &str, shown: &str, password: &str, expected: Result<(), &str>| {
        log_in(&database, user, shown, password, expected);
    };
    let rejected = |user: &str| format!("client certificate rejected for user \"{user}\"");
    // A certificate is required beside the password, unless the user's entry says otherwise.
    check(ALICE, "other", PASSWORD, Ok(()));
    check(ALICE, "other", "wrong", Err("authentication failed"));
    check(ALICE, "", PASSWORD, Err(&rejected(ALICE)));
    check("nobody", "", PASSWORD, Err(&rejected("nobody")));
    check("nobody", "other", PASSWORD, Err("authentication failed"));
    check("free", "", PASSWORD, Ok(()));
    // So it is for the administrator, who has power over all.
    log_in("admin", "admin", "other", ADMIN_PASSWORD, Ok(()));
    log_in(
        "admin",
        "admin",
        "other",
        "wrong",
        Err("authentication failed"),
    );
    log_in(
        "admin",
        "admin",
        "",
        ADMIN_PASSWORD,
        Err(&rejected("admin")),
    );
    // An identity replaces the password.
    check("named", "cert_user", "wrong", Ok(()));
    check("named", "other", PASSWORD, Err(&rejected("named")));
    check("named", "", PASSWORD, Err(&rejected("named")));
    // What no authority of ours has issued ends the handshake.
    check("free", "forged", PASSWORD, Err("SSL"));
    let plain = psql(
        &pgdog,
        ALICE,
        &database,
        &[("PGSSLMODE", "disable")],
        "SELECT 1",
    );
    assert!(plain.err.contains(&rejected(ALICE)), "{}", plain.err);
    pgdog.stop();
}

#[test]
fn servers_are_verified() {
    let postgres = Postgres::encrypted();
    let database = postgres.database("tls");
    for (host, ca, tls_verify, reason) in [
        ("localhost", "authority.crt", "verify_full", None),
        ("127.0.0.1", "authority.crt", "verify_ca", None),
        ("127.0.0.1", "stranger.crt", "prefer", None),
        (
            "127.0.0.1",
            "authority.crt",
            "verify_full",
            Some("not valid for name"),
        ),
        (
            "localhost",
            "stranger.crt",
            "verify_ca",
            Some("UnknownIssuer"),
        ),
        (
            "localhost",
            "stranger.crt",
            "verify_full",
            Some("UnknownIssuer"),
        ),
    ] {
        let general = format!(
            "connect_attempts = 1\ntls_verify = {tls_verify:?}\n{}",
            server_ca(ca)
        );
        let pgdog = Config::empty()
            .general(&general)
            .host(&database, host, postgres.port(), "")
            .user("tls_only", &database, STORED)
            .start();
        let login = Wire::login(pgdog.port(), "tls_only", &database, PASSWORD);
        match (login, reason) {
            (Ok(mut client), None) => assert_eq!(client.value("SELECT 1"), "1"),
            (Err(refused), Some(reason)) => {
                assert_eq!(refused.0.last().unwrap().field(b'C'), "57P03");
                pgdog.logged(reason);
            }
            (Ok(_), Some(reason)) => panic!("{host} {ca} {tls_verify}: expected {reason}"),
            (Err(refused), None) => panic!("{host} {ca} {tls_verify}: {refused:?}"),
        }
        pgdog.stop();
    }
}

#[test]
fn a_server_without_tls_will_do_or_not() {
    let database = Postgres::shared().database("tls");
    let preferring = Config::of(&database).start();
    assert_eq!(preferring.client(&database).value("SELECT 1"), "1");
    preferring.stop();
    let general = format!(
        "connect_attempts = 1\ntls_verify = \"verify_ca\"\n{}",
        server_ca("authority.crt")
    );
    let demanding = Config::of(&database).general(&general).start();
    let refused = Wire::login(demanding.port(), ALICE, &database, PASSWORD)
        .err()
        .expect("no TLS there");
    assert_eq!(refused.0.last().unwrap().field(b'C'), "57P03");
    demanding.logged("the server has no TLS");
    demanding.stop();
}

#[test]
fn we_show_servers_our_certificate() {
    let certificates = Certificates::shared();
    let postgres = Postgres::encrypted();
    let database = postgres.database("tls");
    let general = format!(
        "tls_verify = \"verify_ca\"\n{}\ntls_server_certificate = {:?}\ntls_server_private_key = {:?}",
        server_ca("authority.crt"),
        certificates.path("cert_user.crt"),
        certificates.path("cert_user.key")
    );
    let pgdog = Config::empty()
        .general(&general)
        .server(&database, postgres.port(), "")
        .user("cert_user", &database, STORED)
        .user("checked", &database, STORED)
        .start();
    for user in ["cert_user", "checked"] {
        let mut client = Wire::connect(pgdog.port(), user, &database, PASSWORD);
        assert_eq!(client.value("SELECT current_user"), user);
    }
    pgdog.stop();
}

#[test]
fn a_cancel_request_is_encrypted_as_its_connection() {
    let postgres = Postgres::encrypted();
    let database = postgres.database("tls");
    let general = format!(
        "tls_verify = \"verify_full\"\n{}",
        server_ca("authority.crt")
    );
    let pgdog = Config::empty()
        .general(&general)
        .host(&database, "localhost", postgres.port(), "")
        .user(ALICE, &database, STORED)
        .start();
    let mut client = pgdog.client(&database);
    client.send(&query("SELECT pg_sleep(60)"));
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    poll(PATIENCE, "the statement to run", || {
        (postgres.value("postgres", &running) == "1").then_some(())
    });
    Wire::cancel(pgdog.port(), &client.key());
    assert!(client.batches(1).contains("E:57014"));
    assert_eq!(client.value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn encrypted_servers_change_cores() {
    let postgres = Postgres::encrypted();
    let database = postgres.database("tls");
    let general = format!(
        "default_pool_size = 2\ntls_verify = \"verify_ca\"\n{}\n{}",
        server_ca("authority.crt"),
        listener()
    );
    let pgdog = Config::empty()
        .general(&general)
        .server(&database, postgres.port(), "")
        .user(ALICE, &database, STORED)
        .start();
    let script = Certificates::shared().path(&format!("{database}.sql"));
    std::fs::write(&script, "SELECT repeat('x', 100000);\nSELECT 1;\n").unwrap();
    let script = script.to_str().unwrap();
    let arguments = [
        "-c", "8", "-j", "4", "-t", "100", "-M", "prepared", "-f", script,
    ];
    assert_eq!(pgbench(pgdog.port(), &database, &arguments), 800);
    assert!(postgres.connections(&database) <= 2);
    pgdog.stop();
}

#[test]
fn large_values_and_copies_pass_through_both_sides() {
    let postgres = Postgres::encrypted();
    let database = postgres.database("tls");
    let pgdog = Config::empty()
        .general(&format!("tls_verify = \"prefer\"\n{}", listener()))
        .server(&database, postgres.port(), "")
        .user(ALICE, &database, STORED)
        .start();
    let file = Certificates::shared().path(&format!("{database}.copy"));
    let rows: String = (0..200_000)
        .map(|row| format!("{row}\trow {row}\n"))
        .collect();
    std::fs::write(&file, &rows).unwrap();
    let copy = format!("\\copy t FROM '{}'", file.display());
    let arguments = [
        "-c",
        "CREATE TABLE t (id int, name text)",
        "-c",
        &copy,
        "-c",
        "SELECT count(*), sum(id), sum(length(name)) FROM t",
        "-c",
        "SELECT length(repeat('y', 20000000)), md5(repeat('y', 20000000))",
    ];
    let said = psql_with(pgdog.port(), &database, &arguments).ok();
    let length: usize = (0..200_000)
        .map(|row: u32| format!("row {row}").len())
        .sum();
    assert!(
        said.contains(&format!("200000|19999900000|{length}\n")),
        "{said}"
    );
    let back = psql_with(pgdog.port(), &database, &["-c", "\\copy t TO STDOUT"]).ok();
    assert!(
        back == rows,
        "{} bytes came back of {}",
        back.len(),
        rows.len()
    );
    let long = psql_with(
        pgdog.port(),
        &database,
        &["-c", "SELECT repeat('y', 20000000)"],
    )
    .ok();
    assert_eq!(long.len(), 20_000_001);
    pgdog.stop();
}

#[test]
fn certificates_are_read_again_on_reload() {
    let certificates = Certificates::shared();
    let database = Postgres::shared().database("tls");
    let own = |extension: &str| certificates.path(&format!("{database}.{extension}"));
    let put = |name: &str| {
        for extension in ["crt", "key"] {
            let from = certificates.path(&format!("{name}.{extension}"));
            std::fs::copy(from, own(extension)).unwrap();
        }
    };
    put("server");
    let general = format!(
        "tls_certificate = {:?}\ntls_private_key = {:?}",
        own("crt"),
        own("key")
    );
    let pgdog = Config::of(&database).general(&general).start();
    let shown = || {
        let socket = TcpStream::connect(("127.0.0.1", pgdog.port())).unwrap();
        let mut client = encrypt(socket, &["postgresql"]);
        client.flush().unwrap();
        client.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown();
    assert_eq!(shown(), first);
    // A file that cannot be used changes nothing, and is named.
    std::fs::write(own("key"), "no key").unwrap();
    pgdog.signal(Signal::HUP);
    pgdog.logged("TLS for clients: private key");
    assert_eq!(shown(), first);
    put("renewed");
    pgdog.signal(Signal::HUP);
    poll(PATIENCE, "the new certificate", || {
        (shown() != first).then_some(())
    });
    pgdog.stop();
}
