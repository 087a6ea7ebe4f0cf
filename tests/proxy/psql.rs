//! psql: statements, scripts, errors, \copy, descriptions.

use std::io::Write;
use std::process::Stdio;

use crate::support::programs::{client_program, psql, psql_with};
use crate::support::{Config, Postgres};

#[test]
fn statements_and_results() {
    let database = Postgres::shared().database("psql");
    let pgdog = Config::of(&database).start();
    let check = |sql: &str, expected: &str| {
        assert_eq!(psql(pgdog.port(), &database, sql).ok(), expected, "{sql}");
    };
    check("SELECT 1 + 1", "2\n");
    check("SELECT 'a', NULL, 'ü'", "a||ü\n");
    check(
        "SELECT current_user, current_database()",
        &format!("alice|{database}\n"),
    );
    check(
        "CREATE TABLE t (id int PRIMARY KEY, name text)",
        "CREATE TABLE\n",
    );
    check(
        "INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g",
        "INSERT 0 1000\n",
    );
    check("SELECT sum(id), max(length(name)) FROM t", "500500|8\n");
    check(
        "BEGIN; DELETE FROM t; ROLLBACK; SELECT count(*) FROM t",
        "BEGIN\nDELETE 1000\nROLLBACK\n1000\n",
    );
    pgdog.stop();
}

#[test]
fn an_error_fails_the_statement_and_not_the_connection() {
    let database = Postgres::shared().database("psql");
    let pgdog = Config::of(&database).start();
    let failed = psql(pgdog.port(), &database, "SELECT 1/0");
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.contains("division by zero"), "{}", failed.err);

    let arguments = [
        "-v",
        "ON_ERROR_STOP=0",
        "-c",
        "SELECT nonsense",
        "-c",
        "SELECT 'still here'",
    ];
    let said = psql_with(pgdog.port(), &database, &arguments);
    assert_eq!(said.out, "still here\n");
    assert!(
        said.err.contains("column \"nonsense\" does not exist"),
        "{}",
        said.err
    );
    assert!(
        said.err.contains("LINE 1: SELECT nonsense"),
        "the position arrives too: {}",
        said.err
    );
}

#[test]
fn a_script_with_meta_commands() {
    let database = Postgres::shared().database("psql");
    let pgdog = Config::of(&database).start();
    let script = "\
        CREATE TABLE t (id int PRIMARY KEY, name text);\n\
        \\copy t FROM PSTDIN\n1\tone\n2\ttwo\n\\.\n\
        SELECT count(*) AS rows FROM t \\gset\n\
        \\echo :rows\n\
        \\copy t TO PSTDOUT\n\
        \\d t\n\
        \\set FETCH_COUNT 1\n\
        SELECT name FROM t ORDER BY id;\n\
        \\connect\n\
        SELECT 'again';\n"
        .replace("PSTDIN", "STDIN")
        .replace("PSTDOUT", "STDOUT");
    let mut command = client_program("psql", pgdog.port(), &database);
    let mut child = command
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}");
    assert!(out.starts_with("2\n1\tone\n2\ttwo\n"), "{out}");
    assert!(out.contains("\nid|integer||not null|\n"), "{out}");
    assert!(out.ends_with("\none\ntwo\nagain\n"), "{out}");
}
