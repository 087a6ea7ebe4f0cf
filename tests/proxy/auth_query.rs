//! `auth_query`: users who are in no file log in with what their server stores of their password.

use crate::support::pgdog::Pgdog;
use crate::support::postgres::{ALICE, MD5_USER, PASSWORD, PLAIN_USER};
use crate::support::process::{free_port, poll, PATIENCE};
use crate::support::{Config, Postgres, Wire};

/// pgdog that asks the server about everybody, as its superuser.
fn asking(auth_type: &str, database: &str) -> Config {
    Config::empty()
        .general(&format!(
            "auth_type = {auth_type:?}\nauth_user = \"postgres\""
        ))
        .general("default_pool_size = 3")
        .database(database, "")
        .user("postgres", database, "password = \"of nobody else\"")
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

#[track_caller]
fn check_refused(pgdog: &Pgdog, user: &str, database: &str, password: &str) {
    let text = format!("authentication failed for user \"{user}\", database \"{database}\"");
    let found = refused(pgdog, user, database, password);
    assert_eq!(found, ("28P01".to_owned(), text));
}

fn superuser(sql: &str) {
    Postgres::shared().admin("postgres").query(sql);
}

#[test]
fn a_verifier_lets_in_and_what_the_client_shows_opens_servers() {
    // How clients log in, and who can be served: the server asks each of them by a method of its own.
    for (auth_type, users) in [
        ("scram", vec![ALICE]),
        ("md5", vec![ALICE, MD5_USER]),
        ("plain", vec![ALICE, MD5_USER, PLAIN_USER]),
    ] {
        let database = Postgres::shared().database("auth_query");
        let pgdog = asking(auth_type, &database).start();
        for user in users {
            let mut clients =
                [(); 3].map(|()| Wire::connect(pgdog.port(), user, &database, PASSWORD));
            for client in &mut clients {
                assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
                assert_eq!(client.value("SELECT current_user"), user);
            }
            drop(clients);
            check_refused(&pgdog, user, &database, "wrong");
        }
        check_refused(&pgdog, "nobody", &database, PASSWORD);
        // Who asks has a password of its own here, whatever the server says of it.
        check_refused(&pgdog, "postgres", &database, "wrong");
        pgdog.stop();
    }
}

#[test]
fn a_server_that_wants_the_password_itself_cannot_be_logged_in_to_with_less() {
    let database = Postgres::shared().database("auth_query");
    let pgdog = asking("scram", &database).start();
    let (code, _) = refused(&pgdog, PLAIN_USER, &database, PASSWORD);
    assert_eq!(code, "57P03");
    pgdog.logged("known is only what stands for it");
    pgdog.stop();
}

#[test]
fn expired_and_nologin_roles_are_refused() {
    let database = Postgres::shared().database("auth_query");
    let (expired, nologin, valid) = (
        format!("expired_{database}"),
        format!("nologin_{database}"),
        format!("valid_{database}"),
    );
    superuser(&format!(
        "CREATE ROLE {expired} LOGIN PASSWORD 'hunter2' VALID UNTIL '2001-01-01';
         CREATE ROLE {nologin} NOLOGIN PASSWORD 'hunter2';
         CREATE ROLE {valid} LOGIN PASSWORD 'hunter2' VALID UNTIL '2101-01-01'"
    ));
    let pgdog = asking("scram", &database).start();
    for user in [&expired, &nologin] {
        check_refused(&pgdog, user, &database, PASSWORD);
    }
    let mut client = Wire::connect(pgdog.port(), &valid, &database, PASSWORD);
    assert_eq!(client.value("SELECT current_user"), valid);
    pgdog.stop();
}

#[test]
fn a_new_password_on_the_server_is_heard_of() {
    let database = Postgres::shared().database("auth_query");
    let user = format!("role_of_{database}");
    superuser(&format!("CREATE ROLE {user} LOGIN PASSWORD 'old'"));
    let pgdog = asking("scram", &database).start();
    let mut stays = Wire::connect(pgdog.port(), &user, &database, "old");
    let backend = stays.value("SELECT pg_backend_pid()");
    superuser(&format!("ALTER ROLE {user} PASSWORD 'new'"));
    // What was said before may be remembered for a moment, but on no core for longer than one login that fails.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let attempts =
        (0..=2 * cores).filter(|_| Wire::login(pgdog.port(), &user, &database, "new").is_ok());
    assert!(attempts.count() > 0);
    // They may all have come to one core: the other one may remember, for as long as that lasts.
    poll(PATIENCE, "the old password to be refused", || {
        let mut attempts = 0..8 * cores;
        let refused = |_| Wire::login(pgdog.port(), &user, &database, "old").is_err();
        attempts.all(refused).then_some(())
    });
    check_refused(&pgdog, &user, &database, "old");
    assert_eq!(stays.value("SELECT pg_backend_pid()"), backend);
    // Further servers are opened with what is true now.
    let log_in = || Wire::login(pgdog.port(), &user, &database, "new").ok();
    let mut clients = [(); 3].map(|()| poll(PATIENCE, "every core to hear of it", log_in));
    for client in &mut clients {
        assert_eq!(client.query("BEGIN"), "C:BEGIN Z:T");
    }
    drop(clients);
    pgdog.stop();
}

#[test]
fn a_query_of_ones_own_in_the_clients_database() {
    let database = Postgres::shared().database("auth_query");
    Postgres::shared().admin(&database).query(
        "CREATE FUNCTION verifier_of(who text, OUT name text, OUT verifier text) LANGUAGE sql AS
         $$ SELECT $1, rolpassword FROM pg_authid WHERE rolname = $1 AND $1 <> 'md5_user' $$",
    );
    let pgdog = asking("md5", &database)
        .general("auth_query = \"SELECT * FROM verifier_of($1) -- not $1\"")
        .start();
    let mut client = pgdog.client(&database);
    assert_eq!(client.value("SELECT current_user"), ALICE);
    check_refused(&pgdog, MD5_USER, &database, PASSWORD);
    pgdog.stop();
}

#[test]
fn a_query_that_fails_is_the_operators_to_know() {
    let database = Postgres::shared().database("auth_query");
    let pgdog = asking("scram", &database)
        .general("auth_query = \"SELECT $1 FROM nowhere\"")
        .start();
    let (code, text) = refused(&pgdog, ALICE, &database, PASSWORD);
    assert_eq!(code, "57P03");
    assert!(!text.contains("nowhere"), "{text}");
    pgdog.logged("relation \"nowhere\" does not exist");
    pgdog.stop();
}

#[test]
fn names_of_users_are_names_and_nothing_else() {
    let database = Postgres::shared().database("auth_query");
    let pgdog = asking("scram", &database).start();
    for user in [
        "'",
        "' OR true --",
        "\\",
        "$1",
        "é\u{1F600}",
        "alice\"",
        "x'; DROP ROLE alice; --",
    ] {
        check_refused(&pgdog, user, &database, PASSWORD);
    }
    assert!(!pgdog.log().contains("auth_query failed"));
    assert_eq!(pgdog.client(&database).value("SELECT current_user"), ALICE);
    pgdog.stop();
}

#[test]
fn without_the_primary_a_replica_says_who_is_in() {
    let database = Postgres::shared().database("auth_query");
    let pgdog = Config::empty()
        .general("auth_user = \"postgres\"")
        .server(&database, free_port(), "")
        .database(&database, "role = \"replica\"")
        .user("postgres", &database, "password = \"of nobody else\"")
        .start();
    check_refused(&pgdog, ALICE, &database, "wrong");
    assert_eq!(pgdog.client(&database).value("SELECT 1"), "1");
    pgdog.stop();
}
