//! Logging in: every method towards clients and servers, and what a refused client may learn.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::pgdog::program;
use crate::support::postgres::{ALICE, MD5_USER, PASSWORD, PLAIN_USER, TRUSTED_USER};
use crate::support::wire::{startup, tagged, transcript, Message, Refused, VERSION_3_0};
use crate::support::{Config, Pgdog, Postgres, Wire};

/// Requests for authentication by their documented numbers.
const SCRAM: &[u32] = &[10, 11, 12, 0];
const MD5: &[u32] = &[5, 0];
const PLAIN: &[u32] = &[3, 0];
const TRUST: &[u32] = &[0];

/// Numbers of the authentication requests among these messages.
fn requests(messages: &[Message]) -> Vec<u32> {
    let requests = messages.iter().filter(|message| message.tag == b'R');
    requests
        .map(|message| u32::from_be_bytes(*message.body.first_chunk::<4>().unwrap()))
        .collect()
}

/// Sends a startup message and goes through the login.
fn log_in(
    pgdog: &Pgdog,
    user: &str,
    database: &str,
    password: &str,
) -> Result<Vec<Message>, Refused> {
    let mut wire = Wire::open(pgdog.port());
    wire.send(&startup(
        VERSION_3_0,
        &[("user", user), ("database", database)],
    ));
    wire.authenticate(user, password)
}

/// Alice logs in by the method that `auth_type` names; the server always asks her for SCRAM.
fn check_client_method(auth_type: &str, secret: &str, expected: &[u32]) {
    let database = Postgres::shared().database("auth");
    let pgdog = Config::empty()
        .general(&format!("auth_type = {auth_type:?}"))
        .database(&database, "")
        .user(ALICE, &database, secret)
        .start();
    for _ in 0..2 {
        let messages = log_in(&pgdog, ALICE, &database, PASSWORD).expect("the right password");
        assert_eq!(requests(&messages), expected, "{auth_type}");
        let told = messages
            .iter()
            .filter(|message| message.tag == b'S')
            .count();
        assert!(
            told >= 10,
            "only {told} parameters of the server reached the client"
        );
        assert_eq!(
            messages
                .iter()
                .filter(|message| message.tag == b'K')
                .count(),
            1
        );
    }
    assert_eq!(pgdog.client(&database).value("SELECT current_user"), ALICE);
    if auth_type != "trust" {
        let Refused(messages) =
            log_in(&pgdog, ALICE, &database, "wrong").expect_err("a wrong password");
        assert_eq!(messages.last().unwrap().field(b'C'), "28P01");
        log_in(&pgdog, ALICE, &database, "").expect_err("an empty password");
    }
    pgdog.stop();
}

const STORED: &str = "password = \"hunter2\"";

#[test]
fn client_by_trust() {
    check_client_method("trust", STORED, TRUST);
}

#[test]
fn client_by_plain_password() {
    check_client_method("plain", STORED, PLAIN);
}

#[test]
fn client_by_md5() {
    check_client_method("md5", STORED, MD5);
}

#[test]
fn client_by_scram() {
    check_client_method("scram", STORED, SCRAM);
}

/// What `pgdog hash` prints for the password.
fn hash() -> String {
    let output = Command::new(program())
        .args(["hash", PASSWORD])
        .output()
        .unwrap();
    let verifier = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
    verifier
}

#[test]
fn client_by_scram_from_a_stored_verifier() {
    let secret = format!(
        "password_hash = {:?}\nserver_password = {PASSWORD:?}",
        hash()
    );
    check_client_method("scram", &secret, SCRAM);
}

#[test]
fn client_by_plain_password_against_a_stored_verifier() {
    let secret = format!(
        "password_hash = {:?}\nserver_password = {PASSWORD:?}",
        hash()
    );
    check_client_method("plain", &secret, PLAIN);
}

#[test]
fn a_verifier_of_ours_is_one_that_postgresql_accepts() {
    let postgres = Postgres::shared();
    let database = postgres.database("auth");
    let role = format!("role_of_{database}");
    postgres
        .admin("postgres")
        .query(&format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", hash()));
    assert_eq!(
        Wire::connect(postgres.port(), &role, &database, PASSWORD).value("SELECT 1"),
        "1"
    );
}

#[test]
fn client_by_one_of_several_passwords() {
    let database = Postgres::shared().database("auth");
    let pgdog = Config::empty()
        .database(&database, "")
        .user(
            ALICE,
            &database,
            "password = \"hunter2\"\npasswords = [\"next\", \"after next\"]",
        )
        .start();
    for password in [PASSWORD, "next", "after next"] {
        log_in(&pgdog, ALICE, &database, password)
            .unwrap_or_else(|refused| panic!("{password}: {refused:?}"));
    }
    log_in(&pgdog, ALICE, &database, "previous").expect_err("not one of them");
    pgdog.stop();
}

/// A refusal without what must differ: the nonces, and the names in the message.
fn shape(Refused(messages): Refused, user: &str, database: &str) -> Vec<String> {
    let shape = messages.iter().map(|message| match message.tag {
        b'R' => {
            let text = String::from_utf8_lossy(&message.body).into_owned();
            let salt = text
                .split(',')
                .find_map(|part| part.strip_prefix("s="))
                .map(str::len);
            let iterations = text
                .split(',')
                .find_map(|part| part.strip_prefix("i="))
                .map(str::to_owned);
            let kind = message.body.get(..4).unwrap();
            format!(
                "R {kind:?}, {} bytes, salt of {salt:?}, {iterations:?} iterations",
                message.body.len()
            )
        }
        b'E' => {
            let text = message
                .field(b'M')
                .replace(user, "USER")
                .replace(database, "DATABASE");
            format!("{} {} {text}", message.field(b'S'), message.field(b'C'))
        }
        _ => transcript(std::slice::from_ref(message)),
    });
    shape.collect()
}

#[test]
fn refusals_do_not_tell_who_exists() {
    for auth_type in ["plain", "md5", "scram"] {
        let database = Postgres::shared().database("auth");
        let pgdog = Config::of(&database)
            .database("forbidden", "")
            .user(
                "hashed",
                &database,
                &format!(
                    "password_hash = {:?}\nserver_password = \"hunter2\"",
                    hash()
                ),
            )
            .general(&format!("auth_type = {auth_type:?}"))
            .start();
        let refused = |user: &str, database: &str| {
            shape(
                log_in(&pgdog, user, database, "wrong").expect_err("refused"),
                user,
                database,
            )
        };
        let wrong_password = refused(ALICE, &database);
        let last = wrong_password.last().unwrap();
        assert_eq!(
            last,
            "FATAL 28P01 authentication failed for user \"USER\", database \"DATABASE\""
        );
        for (user, database) in [
            ("nobody", &*database),
            (ALICE, "nowhere"),
            (ALICE, "forbidden"),
            ("nobody", "nowhere"),
        ] {
            assert_eq!(
                refused(user, database),
                wrong_password,
                "{auth_type}: {user} at {database}"
            );
        }
        if auth_type == "scram" {
            assert_eq!(refused("hashed", &database), wrong_password);
        }
        pgdog.stop();
    }
}

#[test]
fn a_user_who_does_not_exist_has_a_constant_salt_too() {
    let database = Postgres::shared().database("auth");
    let pgdog = Config::of(&database).start();
    let salt = |user: &str| {
        let Refused(messages) = log_in(&pgdog, user, &database, "wrong").expect_err("refused");
        let first = String::from_utf8(messages[1].body[4..].to_vec()).unwrap();
        first
            .split(',')
            .find_map(|part| part.strip_prefix("s="))
            .unwrap()
            .to_owned()
    };
    for user in [ALICE, "nobody"] {
        assert_eq!(salt(user), salt(user), "{user}");
    }
    assert_ne!(salt("nobody"), salt("somebody"));
}

#[test]
fn an_unknown_database_under_trust_is_named() {
    let database = Postgres::shared().database("auth");
    let pgdog = Config::of(&database)
        .general("auth_type = \"trust\"")
        .start();
    let Refused(messages) = log_in(&pgdog, ALICE, "nowhere", "").expect_err("unknown");
    assert_eq!(messages.last().unwrap().field(b'C'), "3D000");
}

#[test]
fn something_else_instead_of_a_password() {
    let database = Postgres::shared().database("auth");
    let pgdog = Config::of(&database).start();
    let mut wire = Wire::open(pgdog.port());
    wire.send(&startup(
        VERSION_3_0,
        &[("user", ALICE), ("database", &database)],
    ));
    assert_eq!(wire.expect(1), "R");
    wire.send(&crate::support::wire::query("SELECT 1"));
    assert_eq!(wire.rest(), "E:08P01");
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
}

#[test]
fn servers_by_every_method() {
    let database = Postgres::shared().database("auth");
    let users = [ALICE, MD5_USER, PLAIN_USER, TRUSTED_USER];
    let mut config = Config::empty().database(&database, "");
    for user in users {
        config = config.user(user, &database, STORED);
    }
    let pgdog = config.start();
    for user in users {
        let mut client = Wire::connect(pgdog.port(), user, &database, PASSWORD);
        assert_eq!(client.value("SELECT current_user"), user);
    }
    pgdog.stop();
}

#[test]
fn servers_by_other_credentials_than_the_client() {
    let database = Postgres::shared().database("auth");
    let other = Postgres::shared().database("auth");
    let pgdog = Config::empty()
        .database(&database, "")
        .database(&other, "user = \"plain_user\"\npassword = \"hunter2\"")
        .user(
            "carol",
            &database,
            "password = \"her own\"\nserver_user = \"md5_user\"\nserver_password = \"hunter2\"",
        )
        .user(
            "carol",
            &other,
            "password = \"her own\"\nserver_user = \"md5_user\"\nserver_password = \"hunter2\"",
        )
        .start();
    for (database, server_user) in [(&database, MD5_USER), (&other, PLAIN_USER)] {
        let mut client = Wire::connect(pgdog.port(), "carol", database, "her own");
        assert_eq!(client.value("SELECT current_user"), server_user);
    }
    pgdog.stop();
}

#[test]
fn a_wrong_server_password_is_not_shown_as_the_clients() {
    let database = Postgres::shared().database("auth");
    let secret = "password = \"hunter2\"\nserver_password = \"wrong\"";
    let pgdog = Config::empty()
        .database(&database, "")
        .user(ALICE, &database, secret)
        .start();
    let Refused(messages) = log_in(&pgdog, ALICE, &database, PASSWORD).expect_err("no server");
    assert_eq!(messages.last().unwrap().field(b'C'), "57P03");
    // The operator learns why.
    pgdog.logged("password authentication failed");
    pgdog.stop();
}

/// The same helpers derive keys from what they have typed, and for logins to servers.
#[test]
fn strangers_who_guess_passwords_do_not_keep_pgdog_from_its_servers() {
    let database = Postgres::shared().database("auth");
    let zeros = format!("{}=", "A".repeat(43));
    let hash = format!("password_hash = \"SCRAM-SHA-256$40000:AAAA${zeros}:{zeros}\"");
    let pgdog = Config::of(&database)
        .user("guessed", &database, &hash)
        .general("auth_type = \"plain\"\nmin_pool_size = 0\ncheckout_timeout = 60000")
        .admin()
        .start();
    let guess = || {
        let mut stranger = Wire::open(pgdog.port());
        let user = [("user", "guessed"), ("database", &database)];
        stranger.send(&startup(VERSION_3_0, &user));
        assert_eq!(stranger.read().tag, b'R');
        stranger.send(&tagged(b'p', b"guess\0"));
        stranger
    };
    let began = Instant::now();
    assert_eq!(guess().read().field(b'C'), "28P01");
    // Two helpers need 30 times as long for all of them.
    let limit = (began.elapsed() * 10).max(Duration::from_secs(1));
    let set = format!("SET connect_timeout TO {}", limit.as_millis());
    assert!(!pgdog.admin().query(&set).starts_with("E:"));
    let strangers = [(); 60].map(|()| guess());
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    drop(strangers);
    pgdog.stop();
}

#[test]
fn many_logins_at_once() {
    let database = Postgres::shared().database("auth");
    let pgdog = Config::of(&database).start();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_eq!(pgdog.client(&database).value("SELECT 1"), "1"));
        }
    });
    pgdog.stop();
}
