use super::*;
use crate::sharding::schema::ColumnDefault;
use crate::sharding::ShardingTables;
use crate::sql::asked::is_constant;
use crate::sql::cache::Cache;

/// `t (id, a, at, n, own)` of which `id` counts, `at` is a moment, `n` is 7 and `own` is an identity that is always its own.
struct Tables(Vec<TableColumn>);

impl Schema for Tables {
    fn columns(&self, _schema: Option<&str>, table: &str) -> Option<&[TableColumn]> {
        (table == "t").then_some(&self.0)
    }
}

fn column(name: &str, default: Option<(&str, &str)>, maker: Maker, always: bool) -> TableColumn {
    TableColumn {
        number: 0,
        name: name.into(),
        maker,
        default: default.map(|(expression, of_type)| {
            Box::new(ColumnDefault {
                varies: !is_constant(expression),
                expression: expression.into(),
                of_type: of_type.into(),
            })
        }),
        generated: false,
        always,
        type_oid: 0,
        primary: false,
        ..TableColumn::default()
    }
}

fn tables(own: bool) -> Tables {
    let (counts, nothing) = (Maker::Sequence, Maker::Nothing);
    let mut columns = vec![
        column(
            "id",
            Some(("nextval('public.s'::regclass)", "bigint")),
            counts,
            false,
        ),
        column("a", None, nothing, false),
        column(
            "at",
            Some(("now()", "timestamp with time zone")),
            nothing,
            false,
        ),
        column("n", Some(("7", "integer")), nothing, false),
    ];
    if own {
        let default = Some(("nextval('public.o'::regclass)", "bigint"));
        columns.push(column("own", default, counts, true));
    }
    Tables(columns)
}

/// What is asked, and what it makes of the statement when the values are `v0`, `v1`, …; the words of a refusal, up to `is not`.
fn told(
    sql: &str,
    definitions: &[&str],
    ask: impl Fn(&Statement, Text<'_>, &Defined) -> Result<Option<Asking>, Error>,
) -> [String; 2] {
    let mut cache = Cache::new(0, 0);
    let mut defined = Defined::default();
    for text in definitions {
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.as_ref().unwrap();
        defined.heed(&statements[0], &ShardingTables::default());
    }
    let analysed = cache.analyse(sql.as_bytes(), Dialect::default());
    let statements = analysed.analysis.statements.as_ref().unwrap();
    let text = (sql.as_bytes(), Dialect::default());
    let asking = match ask(&statements[0], text, &defined) {
        Ok(None) => return [String::new(), sql.to_owned()],
        Ok(Some(asking)) => asking,
        Err(error) => {
            let words = error.message.split(" is not supported").next();
            return ["refused".to_owned(), words.unwrap_or_default().to_owned()];
        }
    };
    let question = String::from_utf8(asking.question().to_vec()).unwrap();
    let count = question.matches("::text").count() + question.matches("to_json").count();
    let values: Vec<_> = (0..count)
        .map(|n| Some(format!("v{n}").into_bytes()))
        .collect();
    let statement = asking.statement(&values).unwrap();
    [question, String::from_utf8(statement).unwrap()]
}

fn everywhere_told(sql: &str, own: bool) -> [String; 2] {
    told(sql, &[], |statement, text, defined| {
        everywhere(statement, text, &tables(own), defined)
    })
}

const ID: &str = "(nextval('public.s'::regclass))::bigint::text";
const AT: &str = "pg_catalog.to_json((now())::timestamp with time zone) #>> '{}'";

#[test]
fn what_is_left_to_defaults_is_asked() {
    for (sql, question, statement) in [
        (
            "INSERT INTO t (a) VALUES ($1), (2) RETURNING id, now()",
            format!("VALUES ({ID}), ({AT}), ({ID}), ({AT})"),
            "INSERT INTO t (a, \"id\", \"at\") VALUES ($1, 'v0', 'v1'), (2, 'v2', 'v3') RETURNING id, now()",
        ),
        (
            "INSERT INTO t VALUES (DEFAULT, 1)",
            format!("VALUES ({ID}), ({AT})"),
            "INSERT INTO t VALUES ('v0', 1, 'v1')",
        ),
        (
            "INSERT INTO t VALUES (1, 1, DEFAULT, DEFAULT)",
            format!("VALUES ({AT})"),
            "INSERT INTO t VALUES (1, 1, 'v0', DEFAULT)",
        ),
        (
            "INSERT INTO t DEFAULT VALUES",
            format!("VALUES ({ID}), ({AT})"),
            "INSERT INTO t (\"id\", \"at\") VALUES ('v0', 'v1')",
        ),
        (
            "INSERT INTO t (id, at, a) VALUES (1, now(), nextval('x'))",
            "VALUES (pg_catalog.to_json((now())::timestamptz) #>> '{}'), ((nextval('x'))::int8::text)".to_owned(),
            "INSERT INTO t (id, at, a) VALUES (1, ('v0'::timestamptz), ('v1'::int8))",
        ),
        (
            "UPDATE t SET a = 1 WHERE at < now()",
            "VALUES (pg_catalog.to_json((now())::timestamptz) #>> '{}')".to_owned(),
            "UPDATE t SET a = 1 WHERE at < ('v0'::timestamptz)",
        ),
        ("INSERT INTO t (id, at) VALUES (1, NULL)", String::new(), "INSERT INTO t (id, at) VALUES (1, NULL)"),
        ("UPDATE t SET n = DEFAULT", String::new(), "UPDATE t SET n = DEFAULT"),
        ("INSERT INTO other VALUES (1)", String::new(), "INSERT INTO other VALUES (1)"),
        ("DELETE FROM t", String::new(), "DELETE FROM t"),
    ] {
        assert_eq!(everywhere_told(sql, false), [question, statement.to_owned()], "{sql}");
    }
    // Of a partition's identity nobody knows where it comes from.
    let mut unknown = tables(false);
    let default = unknown.0[0].default.as_mut().unwrap();
    default.expression = "".into();
    let [question, _] = told(
        "INSERT INTO t (a) VALUES (1)",
        &[],
        |statement, text, defined| everywhere(statement, text, &unknown, defined),
    );
    assert_eq!(question, "refused");
    let [_, statement] = everywhere_told("INSERT INTO t VALUES (1, 1, NULL)", true);
    assert_eq!(
        statement,
        "INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 1, NULL, DEFAULT, 'v0')"
    );
}

#[test]
fn what_cannot_be_told_is_refused() {
    let by = |name: &str| format!("a change of an omnisharded table by {name}() in this place");
    let left = |name: &str| {
        format!(
            "a change of an omnisharded table that leaves \"{name}\" to its default in this form"
        )
    };
    for (sql, words) in [
        ("UPDATE t SET a = nextval('x')", by("nextval")),
        (
            "INSERT INTO t (id, at, a) VALUES (1, NULL, (SELECT nextval('x')))",
            by("nextval"),
        ),
        (
            "INSERT INTO t (id, at, a) VALUES (1, NULL, nextval($1))",
            by("nextval"),
        ),
        (
            "INSERT INTO t (id, at) VALUES (1, NULL) RETURNING random()",
            by("random"),
        ),
        (
            "INSERT INTO t (id, at) VALUES (1, NULL) ON CONFLICT (id) DO UPDATE SET a = random()",
            by("random"),
        ),
        (
            "INSERT INTO t (a, at) VALUES (currval('s'), NULL)",
            by("currval"),
        ),
        ("UPDATE t SET a = u&\"now\"()", by("now")),
        ("INSERT INTO t (id, a) SELECT 1, 2", left("at")),
        ("INSERT INTO t SELECT * FROM u", left("id")),
        (
            "WITH x AS (INSERT INTO t (id) VALUES (1)) SELECT 1",
            left("at"),
        ),
        ("UPDATE t SET at = DEFAULT", left("at")),
        (
            "INSERT INTO t (id, at) VALUES (1, NULL) ON CONFLICT (id) DO UPDATE SET at = DEFAULT",
            left("at"),
        ),
        (
            "MERGE INTO t USING u ON t.id = u.id WHEN NOT MATCHED THEN INSERT (id) VALUES (1)",
            left("at"),
        ),
        (
            "INSERT INTO t (id, at) OVERRIDING USER VALUE VALUES (1, NULL)",
            left("id"),
        ),
    ] {
        assert_eq!(
            everywhere_told(sql, false),
            ["refused".to_owned(), words],
            "{sql}"
        );
    }
}

#[test]
fn what_the_transaction_has_changed_is_not_asked() {
    let check = |definition: &str, sql: &str, refused: bool| {
        let [question, _] = told(sql, &[definition], |statement, text, defined| {
            everywhere(statement, text, &tables(false), defined)
        });
        assert_eq!(question == "refused", refused, "{definition}; {sql}");
    };
    let new = "INSERT INTO made (a) VALUES (1)";
    check(
        "CREATE TABLE made (a int, at timestamptz DEFAULT now())",
        new,
        true,
    );
    check(
        "CREATE TABLE made (at timestamptz DEFAULT now(), a int)",
        "INSERT INTO made VALUES (now(), 1)",
        true,
    );
    check(
        "CREATE TABLE made (a int, at timestamptz DEFAULT now())",
        "INSERT INTO made (a, at) VALUES (1, NULL)",
        false,
    );
    check(
        "CREATE TABLE made (a int, id serial, n int DEFAULT -1)",
        new,
        false,
    );
    for definition in [
        "ALTER TABLE t ADD x timestamptz DEFAULT now()",
        "ALTER TABLE t ALTER n SET DEFAULT 8",
        "ALTER TABLE t ALTER n DROP DEFAULT",
        "ALTER TABLE t ALTER n ADD GENERATED ALWAYS AS IDENTITY",
    ] {
        check(definition, "INSERT INTO t (a) VALUES (1)", true);
        check(definition, "UPDATE t SET a = 1", false);
        check(definition, "INSERT INTO u (a) VALUES (1)", false);
    }
    check(
        "ALTER TABLE t ADD x int DEFAULT 1",
        "INSERT INTO t (a) VALUES (1)",
        false,
    );
}

#[test]
fn keys_that_nobody_knows_are_asked() {
    let by_key = |sql: &str, definitions: &[&str]| {
        told(sql, definitions, |statement, text, defined| {
            let column = ShardedColumn::hashed(None, Some("t"), "id");
            key(statement, text, &tables(false), (&column, defined)).map(Some)
        })
    };
    let refused = "this form of the sharding key \"id\"";
    for (sql, question, statement) in [
        (
            "INSERT INTO t (a) VALUES (now())",
            format!("VALUES ({ID})"),
            "INSERT INTO t (a, \"id\") VALUES (now(), 'v0')",
        ),
        (
            "INSERT INTO t VALUES (DEFAULT, 1), (2, 2), (1 + f(2), 3)",
            format!("VALUES ({ID}), ((1 + f(2)\n)::int8::text)"),
            "INSERT INTO t VALUES ('v0', 1), (2, 2), ('v1', 3)",
        ),
        (
            "INSERT INTO t VALUES ($1 + 1, 1)",
            "refused".to_owned(),
            refused,
        ),
        (
            "INSERT INTO t VALUES ((SELECT 1), 1)",
            "refused".to_owned(),
            refused,
        ),
        ("INSERT INTO t (a) SELECT 1", "refused".to_owned(), refused),
        ("INSERT INTO t VALUES (1, 1)", "refused".to_owned(), refused),
    ] {
        assert_eq!(by_key(sql, &[]), [question, statement.to_owned()], "{sql}");
    }
    let [question, _] = by_key(
        "INSERT INTO t (a) VALUES (1)",
        &["ALTER TABLE t ALTER id SET DEFAULT 8"],
    );
    assert_eq!(question, "refused");
}

#[test]
fn copies_are_the_same_or_refused() {
    let own = Catalogue::default();
    for (sql, same) in [
        ("COPY t FROM STDIN", true),
        ("COPY t (at, id) FROM STDIN", true),
        ("COPY t (id, a) FROM STDIN", false),
        ("COPY t FROM STDIN WITH (DEFAULT 'd')", false),
        ("COPY t FROM STDIN WHERE a > 5 AND abs(a) < 7", true),
        ("COPY t FROM STDIN WHERE at < now()", false),
        ("COPY t FROM STDIN WHERE at < CURRENT_DATE", false),
        ("COPY t FROM STDIN WHERE a < random()", false),
        ("COPY t FROM STDIN WHERE my_function(a)", false),
    ] {
        let mut cache = Cache::new(0, 0);
        let analysed = cache.analyse(sql.as_bytes(), Dialect::default());
        let statement = &analysed.analysis.statements.as_ref().unwrap()[0];
        let Command::Copy(copy) = &statement.kind else {
            panic!("{sql}")
        };
        let text = (sql.as_bytes(), Dialect::default());
        let found = copied(statement, copy, text, (&tables(false).0, &[]), &own);
        assert_eq!(found.is_ok(), same, "{sql}: {found:?}");
        let another = copied(statement, copy, text, (&[], &["n".into()]), &own);
        let expected = same && copy.columns.is_empty();
        assert_eq!(another.is_ok(), expected, "{sql}: {another:?}");
    }
}
