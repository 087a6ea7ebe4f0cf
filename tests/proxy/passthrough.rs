//! Passthrough authentication: whom servers let in comes in here too, and nobody else.

use crate::support::pgdog::Pgdog;
use crate::support::postgres::{ALICE, MD5_USER, PASSWORD, PLAIN_USER, TRUSTED_USER};
use crate::support::process::free_port;
use crate::support::programs::{psql_as, Said};
use crate::support::{Certificates, Config, Postgres, Wire};

/// pgdog that knows a database and nobody who may use it.
fn open_to_guests(passthrough: &str, database: &str) -> Config {
    Config::empty()
        .general(&format!("passthrough_auth = {passthrough:?}"))
        .general("default_pool_size = 3")
        .database(database, "")
        .admin()
}

/// The SQLSTATE and the message that a login ends with.
#[track_caller]
fn refused(pgdog: &Pgdog, user: &str, database: &str, password: &str) -> (String, String) {
    match Wire::login(pgdog.port(), user, database, password) {
        Ok(_) => panic!("{user} is in with {password:?}"),
        Err(refused) => {
            let error = refused.0.last().expect("a reason");
            assert_eq!(error.field(b'S'), "FATAL");
            (error.field(b'C'), error.field(b'M'))
        }
    }
}

/// A role of the test's own.
fn role(database: &str, password: &str) -> String {
    let name = format!("role_of_{database}");
    Postgres::shared()
        .admin("postgres")
        .query(&format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"));
    name
}

fn new_password(role: &str, password: &str) {
    Postgres::shared()
        .admin("postgres")
        .query(&format!("ALTER ROLE {role} PASSWORD '{password}'"));
}

fn pools_of(pgdog: &Pgdog, user: &str) -> usize {
    let rows = pgdog.admin().rows("SHOW POOLS");
    rows.iter()
        .filter(|row| row.iter().any(|value| value == user))
        .count()
}

#[test]
fn whom_the_server_accepts_by_any_method_is_in() {
    let database = Postgres::shared().database("passthrough");
    let pgdog = open_to_guests("enabled_plain", &database).start();
    for user in [ALICE, MD5_USER, PLAIN_USER] {
        for _ in 0..2 {
            let mut client = Wire::connect(pgdog.port(), user, &database, PASSWORD);
            assert_eq!(client.value("SELECT current_user"), user);
        }
        let (code, _) = refused(&pgdog, user, &database, "wrong");
        assert_eq!(code, "28P01");
        assert_eq!(pools_of(&pgdog, user), 1);
    }
    pgdog.stop();
}

#[test]
fn a_wrong_password_makes_no_pool_and_spoils_none() {
    let database = Postgres::shared().database("passthrough");
    let pgdog = open_to_guests("enabled_plain_allow_change", &database).start();
    // In the server's own words.
    let text = "password authentication failed for user \"alice\"".to_owned();
    let wrong = ("28P01".to_owned(), text);
    assert_eq!(refused(&pgdog, ALICE, &database, "wrong"), wrong);
    assert_eq!(pools_of(&pgdog, ALICE), 0);

    let mut client = pgdog.client(&database);
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    for _ in 0..3 {
        assert_eq!(refused(&pgdog, ALICE, &database, "wrong"), wrong);
    }
    assert_eq!(client.query("COMMIT"), "C:COMMIT Z:I");
    // The pool can still open connections, all that it may have.
    let mut clients = [(); 3].map(|()| pgdog.client(&database));
    for client in &mut clients {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    }
    drop(clients);
    pgdog.stop();
}

#[test]
fn who_exists_on_no_server_or_asks_for_no_database_of_ours() {
    let database = Postgres::shared().database("passthrough");
    let pgdog = open_to_guests("enabled_plain", &database).start();
    let (code, text) = refused(&pgdog, "nobody", &database, PASSWORD);
    assert_eq!(code, "28P01");
    assert!(text.contains("nobody"), "{text}");
    let (code, text) = refused(&pgdog, ALICE, "postgres", PASSWORD);
    assert_eq!(code, "28P01");
    assert_eq!(
        text,
        "authentication failed for user \"alice\", database \"postgres\""
    );
    let (code, _) = refused(&pgdog, ALICE, &database, "");
    assert_eq!(code, "28P01");
    pgdog.stop();
}

#[test]
fn a_server_that_asks_for_no_password_proves_nothing() {
    let database = Postgres::shared().database("passthrough");
    let pgdog = open_to_guests("enabled_plain", &database).start();
    let (code, _) = refused(&pgdog, TRUSTED_USER, &database, "anything");
    assert_eq!(code, "57P03");
    pgdog.logged("server does not ask for a password");
    assert_eq!(pools_of(&pgdog, TRUSTED_USER), 0);
    pgdog.stop();
}

#[test]
fn another_password_takes_the_place_of_the_known_one_only_where_it_may() {
    for (passthrough, may) in [
        ("enabled_plain", false),
        ("enabled_plain_allow_change", true),
    ] {
        let database = Postgres::shared().database("passthrough");
        let user = role(&database, "old");
        let config = open_to_guests(passthrough, &database);
        let pgdog = config.start();
        let mut stays = Wire::connect(pgdog.port(), &user, &database, "old");
        let backend = stays.value("SELECT pg_backend_pid()");
        new_password(&user, "new");
        if may {
            let mut client = Wire::connect(pgdog.port(), &user, &database, "new");
            assert_eq!(client.value("SELECT current_user"), user);
            let (code, _) = refused(&pgdog, &user, &database, "old");
            assert_eq!(code, "28P01", "the server no longer accepts it");
        } else {
            let (code, text) = refused(&pgdog, &user, &database, "new");
            assert_eq!(code, "28P01");
            assert!(text.starts_with("authentication failed for"), "{text}");
            // An operator has it forgotten.
            pgdog.reload(&config);
            Wire::connect(pgdog.port(), &user, &database, "new");
        }
        // Whoever was in has noticed nothing.
        assert_eq!(stays.value("SELECT pg_backend_pid()"), backend);
        assert_eq!(pools_of(&pgdog, &user), 1);
        pgdog.stop();
    }
}

#[test]
fn over_tls_only_unless_it_says_plain() {
    let database = Postgres::shared().database("passthrough");
    let certificates = Certificates::shared();
    for (passthrough, plain) in [
        ("disabled", [false, false]),
        ("enabled", [false, true]),
        ("enabled_allow_change", [false, true]),
        ("enabled_plain", [true, true]),
        ("enabled_plain_allow_change", [true, true]),
    ] {
        let pgdog = open_to_guests(passthrough, &database)
            .general(&format!(
                "tls_certificate = {:?}\ntls_private_key = {:?}",
                certificates.path("server.crt"),
                certificates.path("server.key")
            ))
            .start();
        let found = ["disable", "require"].map(|mode| {
            let settings = [("PGSSLMODE", mode), ("PGHOST", "localhost")];
            let said: Said = psql_as(ALICE, pgdog.port(), &database, &settings, "SELECT 1");
            said.code == Some(0)
        });
        assert_eq!(found, plain, "{passthrough}: without TLS, and with it");
        pgdog.stop();
    }
}

#[test]
fn an_entry_without_a_password_says_how_its_pool_is() {
    let database = Postgres::shared().database("passthrough");
    let pgdog = open_to_guests("enabled_plain", &database)
        .user(ALICE, &database, "pool_size = 1\npooler_mode = \"session\"")
        .start();
    let rows = pgdog.admin().rows("SHOW POOLS");
    assert_eq!(rows.len(), 1, "its pool waits for a password");
    let mut first = pgdog.client(&database);
    assert_eq!(first.query("SET work_mem = '7MB'"), "C:SET Z:I");
    let rows = pgdog.admin().rows("SHOW POOLS");
    assert_eq!(rows.len(), 1);
    assert!(rows[0].iter().any(|value| value == "session"), "{rows:?}");
    pgdog.stop();
}

#[test]
fn a_verifier_lets_in_and_the_password_opens_servers() {
    let database = Postgres::shared().database("passthrough");
    let output = std::process::Command::new(crate::support::pgdog::program())
        .args(["hash", PASSWORD])
        .output()
        .unwrap();
    let hash = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let config = open_to_guests("enabled_plain", &database).user(
        ALICE,
        &database,
        &format!("password_hash = {hash:?}"),
    );
    let pgdog = config.start();
    let (_, text) = refused(&pgdog, ALICE, &database, "wrong");
    assert!(text.starts_with("authentication failed for"), "{text}");
    let mut client = pgdog.client(&database);
    assert_eq!(client.value("SELECT current_user"), ALICE);
    // Whoever is there at a reload goes on to open servers, and the verifier to check who comes.
    let mut other = pgdog.client(&database);
    pgdog.reload(&config);
    assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    assert_eq!(other.query("BEGIN"), "C:BEGIN Z:T");
    let (_, text) = refused(&pgdog, ALICE, &database, "wrong");
    assert!(text.starts_with("authentication failed for"), "{text}");
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    assert!(!pgdog.log().contains("cannot connect"), "{}", pgdog.log());
    drop((client, other));
    pgdog.stop();
}

#[test]
fn without_the_primary_a_replica_says_who_is_in() {
    let database = Postgres::shared().database("passthrough");
    let pgdog = Config::empty()
        .general("passthrough_auth = \"enabled_plain\"")
        .server(&database, free_port(), "")
        .database(&database, "role = \"replica\"")
        .start();
    let (_, text) = refused(&pgdog, ALICE, &database, "wrong");
    assert_eq!(text, "password authentication failed for user \"alice\"");
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}

#[test]
fn guests_stay_through_a_reload_and_come_back_after_one() {
    let database = Postgres::shared().database("passthrough");
    let config = open_to_guests("enabled_plain", &database);
    let pgdog = config.start();
    let mut stays = pgdog.client(&database);
    let backend = stays.value("SELECT pg_backend_pid()");
    Wire::connect(pgdog.port(), PLAIN_USER, &database, PASSWORD);
    crate::support::process::poll(crate::support::process::PATIENCE, "it to leave", || {
        (pgdog.admin().rows("SHOW CLIENTS").len() == 2).then_some(())
    });
    pgdog.reload(&config);
    assert_eq!(stays.value("SELECT pg_backend_pid()"), backend);
    assert_eq!(pools_of(&pgdog, ALICE), 1);
    let mut back = Wire::connect(pgdog.port(), PLAIN_USER, &database, PASSWORD);
    assert_eq!(back.value("SELECT current_user"), PLAIN_USER);
    // Without the database there is nowhere to stay.
    pgdog.reload(&Config::empty().general("passthrough_auth = \"enabled_plain\""));
    assert_eq!(stays.read().field(b'C'), "57P01");
    pgdog.stop();
}

#[test]
fn a_reload_that_fails_forgets_no_guests() {
    let database = Postgres::shared().database("passthrough");
    let config = open_to_guests("enabled_plain", &database);
    let pgdog = config.start();
    Wire::connect(pgdog.port(), PLAIN_USER, &database, PASSWORD);
    let mut admin = pgdog.admin();
    crate::support::process::poll(crate::support::process::PATIENCE, "it to leave", || {
        (admin.rows("SHOW CLIENTS").len() == 1).then_some(())
    });
    let nowhere = "tls_certificate = \"/nowhere\"\ntls_private_key = \"/nowhere\"";
    pgdog.rewrite(&config.clone().general(nowhere));
    assert!(admin.query("RELOAD").starts_with("E:"));
    let mut back = Wire::connect(pgdog.port(), PLAIN_USER, &database, PASSWORD);
    pgdog.reload(&config);
    assert_eq!(back.value("SELECT current_user"), PLAIN_USER);
    pgdog.stop();
}

#[test]
fn many_strangers_at_once_make_one_pool() {
    let database = Postgres::shared().database("passthrough");
    // More than one core asks the server about at a time: the others wait.
    let pgdog = open_to_guests("enabled_plain", &database)
        .general("workers = 1")
        .start();
    std::thread::scope(|scope| {
        for number in 0..48 {
            let (pgdog, database) = (&pgdog, &database);
            scope.spawn(move || match number % 3 {
                0 => assert_eq!(refused(pgdog, ALICE, database, "wrong").0, "28P01"),
                _ => assert_eq!(pgdog.client(database).value("SELECT 1"), "1"),
            });
        }
    });
    assert_eq!(pools_of(&pgdog, ALICE), 1);
    assert!(Postgres::shared().connections(&database) <= 3);
    pgdog.stop();
}
