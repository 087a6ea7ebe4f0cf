use super::*;
use crate::sql::keys::Operand;
use crate::sql::statement::{
    CopyOption, Created, Function, Isolation, Kind, Modes, Need, Reshape, TableUse,
};

fn parse_text(text: &str) -> Result<Vec<Statement>, Unparsed> {
    parse(text.as_bytes(), Dialect::default(), text.len(), &[])
}

fn one(text: &str) -> Statement {
    let mut statements = parse_text(text).unwrap();
    assert_eq!(statements.len(), 1, "{text}");
    statements.remove(0)
}

/// Tables as `schema.name alias use`.
fn tables(text: &str) -> Vec<String> {
    let describe = |table: &crate::sql::statement::Table| {
        let schema = table
            .schema
            .as_deref()
            .map_or(String::new(), |schema| format!("{schema}."));
        let alias = table
            .alias
            .as_deref()
            .map_or(String::new(), |alias| format!(" {alias}"));
        format!("{schema}{}{alias} {:?}", table.name, table.usage)
    };
    one(text).tables.iter().map(describe).collect()
}

#[test]
fn tables_are_found_wherever_they_stand() {
    let cases: &[(&str, &[&str])] = &[
        ("SELECT 1", &[]),
        (
            "SELECT * FROM Users u, \"Users\", s.t",
            &["users u Read", "Users Read", "s.t Read"],
        ),
        (
            "SELECT * FROM t WHERE a IN (SELECT b FROM u WHERE c = (SELECT d FROM v))",
            &["t Read", "u Read", "v Read"],
        ),
        (
            "SELECT (SELECT 1 FROM t) FROM u ORDER BY (SELECT 1 FROM v)",
            &["t Read", "u Read", "v Read"],
        ),
        (
            "WITH a AS (SELECT * FROM t) SELECT * FROM a JOIN u USING (id)",
            &["t Read", "u Read"],
        ),
        // A name means the expression only from where it is known, and not with a schema.
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", &["a Read"]),
        ("WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a", &[]),
        ("WITH a AS (SELECT 1) SELECT * FROM s.a", &["s.a Read"]),
        (
            "WITH a AS (SELECT 1), b AS (SELECT * FROM a, c) SELECT * FROM b",
            &["c Read"],
        ),
        (
            "SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a",
            &["a Read"],
        ),
        (
            "WITH t AS (SELECT 1) INSERT INTO t SELECT * FROM t",
            &["t Insert"],
        ),
        (
            "INSERT INTO s.t AS x VALUES (1) ON CONFLICT (a) DO UPDATE SET b = (SELECT c FROM u)",
            &["s.t x Insert", "u Read"],
        ),
        (
            "UPDATE t SET a = u.a FROM u WHERE EXISTS (SELECT 1 FROM t)",
            &["t Update", "u Read", "t Read"],
        ),
        (
            "DELETE FROM t USING u WHERE t.a = u.a",
            &["t Delete", "u Read"],
        ),
        (
            "MERGE INTO t USING (SELECT * FROM u) s ON t.a = s.a WHEN MATCHED THEN DELETE",
            &["t Merge", "u Read"],
        ),
        (
            "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
            &["t Delete"],
        ),
        ("SELECT * INTO u FROM t", &["u Definition", "t Read"]),
        ("SELECT * FROM a FOR UPDATE OF a", &["a Read"]),
        ("COPY s.t (a, b) FROM STDIN", &["s.t Insert"]),
        ("TRUNCATE a, b", &["a Definition", "b Definition"]),
        ("DROP TABLE s.a, b", &["s.a Redefinition", "b Redefinition"]),
        ("CREATE TABLE t (a int)", &["t Creation"]),
        ("CREATE VIEW v AS SELECT 1", &["v Redefinition"]),
        (
            "CREATE FUNCTION s.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
            &["s.f Redefinition"],
        ),
        ("ALTER TABLE t RENAME TO u", &["t Redefinition"]),
        ("ALTER TABLE t RENAME a TO b", &["t Alteration"]),
        ("ALTER TABLE t DROP a", &["t Alteration"]),
        ("CREATE INDEX ON t (a)", &["t Definition"]),
        ("VACUUM t, u", &["t Definition", "u Definition"]),
        ("LOCK TABLE t", &["t Definition"]),
    ];
    for (text, expected) in cases {
        assert_eq!(tables(text), *expected, "{text}");
    }
}

#[test]
fn functions_are_found_with_what_is_known_of_them() {
    let statement = one(
        "SELECT lower(a), app.f(count(*)), lower(b) FROM g(1) WHERE EXISTS (SELECT nextval('s'))",
    );
    let found: Vec<(Option<&str>, &str, bool)> = statement
        .functions
        .iter()
        .map(
            |Function {
                 schema,
                 name,
                 harmless,
             }| (schema.as_deref(), &**name, *harmless),
        )
        .collect();
    assert_eq!(
        found,
        [
            (None, "lower", true),
            (Some("app"), "f", false),
            (None, "count", true),
            (None, "g", false),
            (None, "nextval", false),
        ]
    );
    assert_eq!(one("SELECT $2, $10 + $1").parameters, 10);
}

#[test]
fn kinds_are_told_apart() {
    let modes = |read_only, isolation| Modes {
        read_only,
        isolation,
        deferrable: None,
    };
    let read_only = modes(Some(true), None);
    for (text, expected) in [
        ("VALUES (1)", Kind::Select),
        ("BEGIN", Kind::Begin(Modes::default())),
        ("START TRANSACTION READ ONLY", Kind::Begin(read_only)),
        (
            "BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE",
            Kind::Begin(modes(Some(false), Some(Isolation::Serializable))),
        ),
        ("SET TRANSACTION READ ONLY", Kind::SetTransaction(read_only)),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            Kind::SetSessionCharacteristics(read_only),
        ),
        ("END", Kind::Commit { chain: false }),
        ("COMMIT AND CHAIN", Kind::Commit { chain: true }),
        ("ABORT", Kind::Rollback { chain: false }),
        ("SAVEPOINT a", Kind::Savepoint("a".into())),
        ("RELEASE SAVEPOINT a", Kind::Release("a".into())),
        ("ROLLBACK TO a", Kind::RollbackTo("a".into())),
        (
            "PREPARE TRANSACTION 'x'",
            Kind::PrepareTransaction("x".into()),
        ),
        ("COMMIT PREPARED 'x'", Kind::CommitPrepared("x".into())),
        ("RESET a", Kind::Reset(Some("a".into()))),
        ("RESET ALL", Kind::Reset(None)),
        ("SHOW search_path", Kind::Show("search_path".into())),
        (
            "EXECUTE p (1 + 1)",
            Kind::Execute {
                name: "p".into(),
                arguments: vec![Operand::Other],
            },
        ),
        ("DEALLOCATE ALL", Kind::Deallocate(None)),
        ("CLOSE c", Kind::Close(Some("c".into()))),
        ("LISTEN c", Kind::Listen("c".into())),
        ("UNLISTEN *", Kind::Unlisten(None)),
        ("NOTIFY c", Kind::Notify("c".into())),
        ("VACUUM t", Kind::Maintenance { alone: true }),
        ("ANALYZE t", Kind::Maintenance { alone: false }),
        (
            "REINDEX TABLE CONCURRENTLY t",
            Kind::Maintenance { alone: true },
        ),
        (
            "CREATE INDEX CONCURRENTLY ON t (a)",
            Kind::Ddl { alone: true },
        ),
        ("CREATE INDEX ON t (a)", Kind::Ddl { alone: false }),
        ("CREATE DATABASE d", Kind::Ddl { alone: true }),
        ("ALTER SYSTEM RESET ALL", Kind::Server),
    ] {
        assert_eq!(one(text).kind, expected, "{text}");
    }
    let Kind::Set(set) = one("SET LOCAL Search_Path TO a, \"B\"").kind else {
        panic!("no SET");
    };
    assert!(set.local && &*set.name == "search_path");
    assert_eq!(set.values, ["a", "B"].map(Box::from));
    let Kind::Copy(copy) =
        one("COPY t (a, b) FROM STDIN WITH (FORMAT csv, HEADER, FORCE_NULL (a, b))").kind
    else {
        panic!("no COPY");
    };
    assert!(copy.from && copy.stream && copy.query.is_none());
    assert_eq!(copy.columns, ["a", "b"].map(Box::from));
    let options = [
        ("format", CopyOption::Word("csv".into())),
        ("header", CopyOption::Nothing),
        ("force_null", CopyOption::List(vec!["a".into(), "b".into()])),
    ];
    assert_eq!(
        copy.options,
        options.map(|(name, given)| (name.into(), given))
    );
    let Kind::Copy(copy) = one("COPY t TO STDOUT (a 1, b '1', c *, d (\"*\"), e true)").kind else {
        panic!("no COPY");
    };
    let given: Vec<_> = copy.options.into_iter().map(|(_, given)| given).collect();
    assert_eq!(
        given,
        [
            CopyOption::Number("1".into()),
            CopyOption::Word("1".into()),
            CopyOption::Every,
            CopyOption::List(vec!["*".into()]),
            CopyOption::Word("true".into()),
        ]
    );
    let Kind::Copy(copy) = one("COPY t FROM '/tmp/x' DELIMITER ',' CSV").kind else {
        panic!("no COPY");
    };
    assert!(!copy.stream);
    let Kind::Explain { analyze, statement } = one("EXPLAIN (ANALYZE false) DELETE FROM t").kind
    else {
        panic!("no EXPLAIN");
    };
    assert!(!analyze && statement.kind == Kind::Delete);
}

#[test]
fn several_statements_keep_their_order() {
    let kinds: Vec<Kind> = parse_text(";BEGIN; SELECT 1;; COMMIT;")
        .unwrap()
        .into_iter()
        .map(|statement| statement.kind)
        .collect();
    assert!(matches!(
        kinds.as_slice(),
        [Kind::Begin(_), Kind::Select, Kind::Commit { .. }]
    ));
    assert!(parse_text("").unwrap().is_empty());
}

#[test]
fn texts_that_do_not_parse_say_why() {
    let message = "syntax error at or near \"SELEC\"";
    assert_eq!(parse_text("SELEC 1"), Err(Unparsed::Syntax(message.into())));
    let not_utf8 = parse(b"SELECT '\xff'", Dialect::default(), 4, &[]);
    assert_eq!(not_utf8, Err(Unparsed::Encoding));
    let overlapping = Dialect {
        overlapping: true,
        ..Dialect::default()
    };
    assert!(parse(b"SELECT 1", overlapping, 2, &[]).is_ok());
    assert_eq!(
        parse("SELECT 'é'".as_bytes(), overlapping, 2, &[]),
        Err(Unparsed::Encoding)
    );
    assert!(parse(b"SELECT 1\0", Dialect::default(), 2, &[]).is_err());
}

#[test]
fn backslashes_escape_when_the_session_says_so() {
    let backslashes = Dialect {
        backslashes: true,
        ..Dialect::default()
    };
    let text = br"SELECT 'a\'; DELETE FROM t; --'";
    let statements = parse(text, backslashes, 20, &[]).unwrap();
    assert_eq!(statements.len(), 1);
    assert!(parse(text, Dialect::default(), 20, &[]).unwrap().len() > 1);
}

/// Texts of a shape that nests.
fn nested(levels: usize) -> Vec<(&'static str, String)> {
    let around = |open: &str, middle: &str, close: &str| {
        format!("{}{middle}{}", open.repeat(levels), close.repeat(levels))
    };
    vec![
        ("sum", format!("SELECT 1{}", "+1".repeat(levels))),
        ("signs", format!("SELECT {}1", "+".repeat(levels))),
        ("parentheses", format!("SELECT {}", around("(", "1", ")"))),
        ("subqueries", around("SELECT (", "SELECT 1", ")")),
        ("derived", around("SELECT * FROM (", "SELECT 1", ") x")),
        ("calls", format!("SELECT {}", around("f(", "1", ")"))),
        ("not", format!("SELECT {}true", "NOT ".repeat(levels))),
        ("casts", format!("SELECT 1{}", "::int".repeat(levels))),
        (
            "unions",
            format!("SELECT 1{}", " UNION SELECT 1".repeat(levels)),
        ),
        (
            "cases",
            format!("SELECT {}", around("CASE WHEN true THEN ", "1", " END")),
        ),
        (
            "joins",
            format!("SELECT * FROM t{}", " JOIN t USING (a)".repeat(levels)),
        ),
        ("arrays", format!("SELECT {}", around("ARRAY[", "1", "]"))),
        ("with", around("WITH a AS (", "SELECT 1", ") SELECT 1")),
        (
            "and",
            format!(
                "SELECT a{}",
                " AND (a OR a".repeat(levels) + &")".repeat(levels)
            ),
        ),
        ("explain", format!("{}SELECT 1", "EXPLAIN ".repeat(levels))),
        ("rows", format!("VALUES (1){}", ", (1)".repeat(levels))),
        (
            "unions with conditions",
            format!(
                "SELECT 1{}",
                " UNION SELECT a FROM t WHERE b = 1 AND c = 2".repeat(levels)
            ),
        ),
        (
            "cases with conditions",
            format!("SELECT {}", around("CASE WHEN a AND b THEN ", "1", " END")),
        ),
        (
            "mixed",
            format!(
                "SELECT {}",
                around("f(a, NOT CASE WHEN b[", "1", "] AND c THEN 1 END + 1)")
            ),
        ),
        (
            "joins with conditions",
            format!(
                "SELECT * FROM t{}",
                " JOIN t ON a = b AND c = d".repeat(levels)
            ),
        ),
        ("lists", format!("SELECT {}", around("(1, ", "2", ")"))),
        (
            "exists",
            format!(
                "SELECT 1 WHERE {}",
                around("EXISTS (SELECT 1 FROM t WHERE a AND ", "b", ")")
            ),
        ),
        ("is null", format!("SELECT a{}", " IS NULL".repeat(levels))),
        ("subscripts", format!("SELECT a{}", "[1]".repeat(levels))),
    ]
}

/// Parses as the cache does, with the levels that the shape counts, and the stack of a core's thread.
fn on_a_small_stack(text: String) -> Result<Vec<Statement>, Unparsed> {
    let body = move || {
        let mut cache = crate::sql::cache::Cache::new(0, 0);
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        analysed.analysis.statements.clone()
    };
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    thread.spawn(body).unwrap().join().unwrap()
}

#[test]
fn fifty_levels_are_read() {
    for (what, text) in nested(50) {
        let found = on_a_small_stack(text);
        if what == "explain" {
            assert!(found.is_err(), "EXPLAIN EXPLAIN is no statement");
        } else {
            assert_eq!(found.map(|list| list.len()), Ok(1), "{what}");
        }
    }
}

/// Depths between those of the other tests, where the parser's own limits do not help.
#[test]
fn a_few_thousand_levels_are_read_or_refused() {
    for levels in [2_000, 4_500, 9_000] {
        for (what, text) in nested(levels) {
            if let Err(unparsed) = on_a_small_stack(text) {
                let refused = matches!(unparsed, Unparsed::TooDeep | Unparsed::Syntax(_));
                assert!(refused, "{what} {levels}: {unparsed:?}");
            }
        }
    }
}

#[test]
fn a_thousand_levels_are_read_or_refused() {
    for (what, text) in nested(1000) {
        if let Err(unparsed) = on_a_small_stack(text) {
            assert!(
                matches!(unparsed, Unparsed::TooDeep | Unparsed::Syntax(_)),
                "{what}: {unparsed:?}"
            );
        }
    }
}

#[test]
fn a_hundred_thousand_levels_are_read_or_refused() {
    for (what, text) in nested(100_000) {
        if let Err(unparsed) = on_a_small_stack(text) {
            let refused = matches!(
                unparsed,
                Unparsed::TooDeep | Unparsed::TooLong | Unparsed::Syntax(_)
            );
            assert!(refused, "{what}: {unparsed:?}");
        }
    }
}

#[test]
fn what_hides_a_write_is_found_at_any_depth() {
    let mut text = "SELECT nextval('s') FROM t FOR UPDATE".to_owned();
    for _ in 0..20 {
        text = format!("SELECT (SELECT max(x) FROM ({text}) x WHERE EXISTS (SELECT 1))");
    }
    let statement = one(&text);
    assert_eq!(statement.needs_primary, Some(Need::LocksRows));
    assert!(statement
        .functions
        .iter()
        .any(|function| &*function.name == "nextval"));
    assert_eq!(statement.tables.len(), 1);
    assert_eq!(statement.tables[0].usage, TableUse::Read);
}

#[test]
fn what_else_hides_behind_the_first_reason_is_found() {
    let found = |text: &str| {
        let statement = one(text);
        let does = (
            statement.locks_rows,
            statement.makes_table,
            statement.changes_rows,
        );
        (does, statement.writes())
    };
    let locked = "WITH a AS (SELECT * FROM t FOR UPDATE)";
    for (text, expected) in [
        ("SELECT 1".to_owned(), ((false, false, false), false)),
        (
            format!("{locked} SELECT * INTO n FROM a"),
            ((true, true, false), false),
        ),
        (
            format!("{locked}, b AS (UPDATE t SET x = 1 RETURNING *) SELECT * FROM b"),
            ((true, false, true), true),
        ),
        (
            "INSERT INTO t DEFAULT VALUES".to_owned(),
            ((false, false, true), true),
        ),
    ] {
        assert_eq!(found(&text), expected, "{text}");
    }
}

/// The parser may be built so that it redirects the process's stderr while it parses: two threads at once would leave
/// it closed.
#[test]
fn parsing_on_several_threads_leaves_stderr_alone() {
    let stderr = || std::fs::read_link("/proc/self/fd/2").unwrap();
    let before = stderr();
    let watch = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let parsers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        parse_text("SELECT 1").unwrap();
                    }
                })
            })
            .collect();
        while parsers.iter().any(|parser| !parser.is_finished()) {
            if stderr() != before {
                watch.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    assert!(!watch.into_inner(), "stderr was elsewhere for a moment");
    assert_eq!(stderr(), before);
}

#[test]
fn a_new_table_tells_its_columns() {
    let check = |sql: &str, columns: &[&str], (open, refers), may_exist| {
        let statement = one(sql);
        let columns = columns.iter().map(|name| (*name).into()).collect();
        let expected = Created {
            columns,
            open,
            refers,
            may_exist,
            varying: Vec::new(),
        };
        assert_eq!(statement.created.as_deref(), Some(&expected), "{sql}");
    };
    check(
        "CREATE TABLE t (a int PRIMARY KEY, \"B\" text NOT NULL, CHECK (a > 1))",
        &["a", "B"],
        (false, false),
        false,
    );
    check(
        "CREATE TABLE IF NOT EXISTS t (a int DEFAULT 1)",
        &["a"],
        (false, false),
        true,
    );
    for sql in [
        "CREATE TABLE t (a int REFERENCES u)",
        "CREATE TABLE t (a int, FOREIGN KEY (a) REFERENCES u)",
    ] {
        check(sql, &["a"], (false, true), false);
    }
    for sql in [
        "CREATE TABLE t (a int, LIKE u)",
        "CREATE TABLE t (a int) INHERITS (u)",
    ] {
        check(sql, &["a"], (true, false), false);
    }
    for sql in [
        "CREATE TABLE t PARTITION OF u DEFAULT",
        "CREATE TABLE t OF u",
    ] {
        check(sql, &[], (true, false), false);
    }
    assert_eq!(one("CREATE VIEW t AS SELECT 1").created, None);
    let sql = "CREATE TABLE t (a int DEFAULT -1, b uuid DEFAULT gen_random_uuid(), c serial, d date DEFAULT CURRENT_DATE, \
        e int GENERATED ALWAYS AS IDENTITY, f text[] DEFAULT ARRAY['x']::text[], g bigint DEFAULT nextval('s'))";
    let varying = &one(sql).created.unwrap().varying;
    let varying: Vec<&str> = varying.iter().map(|name| &**name).collect();
    assert_eq!(varying, ["b", "d"], "new sequences count alike");
}

#[test]
fn what_becomes_of_tables_that_there_are() {
    let check = |sql: &str, expected: Reshape| {
        let reshapes = one(sql).reshapes.map(|reshape| *reshape);
        assert_eq!(reshapes.unwrap_or_default(), expected, "{sql}");
    };
    let columns = |names: &[&str]| Reshape {
        columns: names.iter().map(|name| (*name).into()).collect(),
        ..Reshape::default()
    };
    check(
        "ALTER TABLE t ADD a int, ADD COLUMN \"B\" int",
        columns(&["a", "B"]),
    );
    check(
        "ALTER TABLE t ALTER a SET NOT NULL, DROP b",
        columns(&["b"]),
    );
    check("ALTER TABLE t RENAME a TO b", columns(&["a", "b"]));
    let computed = Reshape {
        computed: vec!["a".into()],
        typed: vec!["b".into()],
        ..Reshape::default()
    };
    check(
        "ALTER TABLE t ALTER a TYPE int USING a + 1, ALTER b TYPE text",
        computed,
    );
    let names = Reshape {
        names: true,
        ..Reshape::default()
    };
    check("ALTER TABLE t RENAME TO u", names.clone());
    check("ALTER TABLE t SET SCHEMA s", names.clone());
    check("ALTER SCHEMA s RENAME TO t", names);
    let families = Reshape {
        families: true,
        ..Reshape::default()
    };
    for sql in [
        "ALTER TABLE t ATTACH PARTITION u DEFAULT",
        "ALTER TABLE t DETACH PARTITION u",
        "ALTER TABLE t INHERIT u",
        "ALTER TABLE t NO INHERIT u",
        "CREATE TABLE t PARTITION OF u DEFAULT",
        "CREATE TABLE t () INHERITS (u)",
    ] {
        check(sql, families.clone());
    }
    let defaults = |names: &[&str], added: &[&str], fills| Reshape {
        columns: added.iter().map(|name| (*name).into()).collect(),
        defaults: names.iter().map(|name| (*name).into()).collect(),
        fills,
        ..Reshape::default()
    };
    for (sql, expected) in [
        (
            "ALTER TABLE t ADD a int DEFAULT 1",
            defaults(&[], &["a"], false),
        ),
        (
            "ALTER TABLE t ADD a date DEFAULT now()",
            defaults(&["a"], &["a"], true),
        ),
        ("ALTER TABLE t ADD a serial", defaults(&[], &["a"], true)),
        (
            "ALTER TABLE t ALTER a SET DEFAULT 1, ALTER b DROP DEFAULT",
            defaults(&["a", "b"], &[], false),
        ),
        (
            "ALTER TABLE t ALTER a DROP IDENTITY",
            defaults(&["a"], &[], false),
        ),
    ] {
        check(sql, expected);
    }
    let computed = Reshape {
        computed: vec!["a".into()],
        fills: true,
        ..Reshape::default()
    };
    check(
        "ALTER TABLE t ALTER a TYPE uuid USING gen_random_uuid()",
        computed,
    );
    let references = Reshape {
        references: true,
        ..Reshape::default()
    };
    for sql in [
        "ALTER TABLE t DROP CONSTRAINT c",
        "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u",
        "ALTER TABLE t VALIDATE CONSTRAINT c",
    ] {
        check(sql, references.clone());
    }
    for sql in ["DROP TABLE t CASCADE", "DROP SCHEMA s CASCADE"] {
        let cascades = Reshape {
            cascades: true,
            ..references.clone()
        };
        check(sql, cascades);
    }
    for sql in [
        "ALTER TABLE t ALTER a SET STATISTICS 1, OWNER TO u",
        "ALTER TABLE t RENAME CONSTRAINT a TO b",
        "ALTER INDEX t RENAME TO u",
        "DROP TABLE t",
        "CREATE TABLE t (a int)",
        "SELECT 1",
    ] {
        check(sql, Reshape::default());
    }
}
