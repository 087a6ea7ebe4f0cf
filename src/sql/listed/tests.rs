//! Which texts are made others, and what of.

use super::*;
use crate::protocol::wire::Reader;

fn become_of(text: &str, types: &[u32]) -> Option<String> {
    // The ninth is binary.
    let mut codes = vec![0, 9];
    codes.extend((1..=9).flat_map(|number| [0, u8::from(number == 9)]));
    let formats = FormatCodes::read(&mut Reader::new(&codes, "codes")).unwrap();
    let parameters = Parameters {
        types,
        formats: Some(formats),
    };
    let made = listed(text.as_bytes(), Dialect::default(), parameters)?;
    Some(String::from_utf8(made).unwrap())
}

#[test]
fn the_list_becomes_the_rows() {
    for (text, types, expected) in [
        // As SQLAlchemy writes it.
        (
            "INSERT INTO items (owner, name) SELECT p0::INTEGER, p1::VARCHAR(30) FROM (VALUES ($1, $2, 0), ($3, $4, 1)) \
             AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING items.id, items.id AS id__1",
            &[][..],
            "INSERT INTO items (owner, name) VALUES (($1)::INTEGER, ($2)::VARCHAR(30)), (($3)::INTEGER, ($4)::VARCHAR(30)) \
             RETURNING items.id, items.id AS id__1",
        ),
        (
            "insert into t select v.\"B\"::numeric(10, 2), v.a::int[] from (values ('{1}', -1.5), (null, 2)) v (A, \"B\") ;",
            &[],
            "insert into t VALUES ((-1.5)::numeric(10, 2), ('{1}')::int[]), ((2::numeric)::numeric(10, 2), (null)::int[]) ;",
        ),
        (
            "INSERT INTO t (a) SELECT p0::timestamp with time zone FROM (VALUES ($1::timestamptz, 3), ($2::TIMESTAMPTZ, 7)) AS i(p0, n) \
             ORDER BY i.n ASC ON CONFLICT DO NOTHING",
            &[],
            "INSERT INTO t (a) VALUES (($1::timestamptz)::timestamp with time zone), (($2::TIMESTAMPTZ)::timestamp with time zone) \
             ON CONFLICT DO NOTHING",
        ),
        (
            "INSERT INTO t (a, b) SELECT p0::bigint, p1::text FROM (VALUES (1, 1), (12345678901, -2.50)) AS i(p0, p1)",
            &[],
            "INSERT INTO t (a, b) VALUES ((1)::bigint, (1::numeric)::text), ((12345678901)::bigint, (-2.50)::text) ",
        ),
        (
            "INSERT INTO t (a) SELECT p0::VARCHAR FROM (VALUES ($1::varchar), (NULL)) AS i(p0)",
            &[],
            "INSERT INTO t (a) VALUES ($1::varchar), (NULL) ",
        ),
        (
            "EXPLAIN (COSTS OFF) INSERT INTO t (a) SELECT p0::int FROM (VALUES (1)) AS i(p0)",
            &[],
            "EXPLAIN (COSTS OFF) INSERT INTO t (a) VALUES ((1)::int) ",
        ),
        // As psycopg declares integers by their size, and None not at all.
        (
            "INSERT INTO t (a) SELECT p0::BIGINT FROM (VALUES ($1, 0), ($2, 1), ($3, 2)) AS i(p0, n) ORDER BY n",
            &[oid::INT2, oid::INT4, 0],
            "INSERT INTO t (a) VALUES (($1::int4)::BIGINT), (($2)::BIGINT), (($3::int4)::BIGINT) ",
        ),
        (
            "INSERT INTO t (a) SELECT p0::interval FROM (VALUES ('1'), (NULL)) i(p0)",
            &[],
            "INSERT INTO t (a) VALUES (('1')::interval), ((NULL)::interval) ",
        ),
    ] {
        assert_eq!(become_of(text, types).as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn wide_lists_stay() {
    let text = |columns: usize| {
        let each = |of: fn(usize) -> String| {
            let all: Vec<_> = (0..columns).map(of).collect();
            all.join(", ")
        };
        let [outputs, values, names] = [
            |n| format!("c{n}::int"),
            |n: usize| n.to_string(),
            |n| format!("c{n}"),
        ]
        .map(each);
        format!("INSERT INTO t SELECT {outputs} FROM (VALUES ({values})) v({names})")
    };
    assert!(become_of(&text(COLUMNS_MAX), &[]).is_some());
    assert_eq!(become_of(&text(COLUMNS_MAX + 1), &[]), None);
}

proptest::proptest! {
    /// Whatever a client sends: no panic, and what was made is not made again.
    #[test]
    fn any_tokens(changes in proptest::collection::vec((0_usize..60, 0_usize..32), 0..6)) {
        const VALID: &str = "INSERT INTO t ( a , b ) SELECT p0 ::int , v . p1 ::text FROM ( VALUES ( $1 , 'x' , 0 ) , \
            ( $2 , NULL , 1 ) ) AS v ( p0 , p1 , n ) ORDER BY n RETURNING a ;";
        const OTHERS: [&str; 16] = [
            "", "(", ")", ",", "::", ";", "'", "\"", "SELECT", "FROM", "VALUES", "n", "7", "$9", "[", "EXPLAIN",
        ];
        let mut tokens: Vec<&str> = VALID.split(' ').collect();
        for (at, other) in changes {
            let at = at % tokens.len();
            match OTHERS.get(other) {
                Some(other) => tokens[at] = other,
                None => tokens.insert(at, OTHERS[other - OTHERS.len()]),
            }
        }
        if let Some(made) = become_of(&tokens.join(" "), &[oid::INT4]) {
            proptest::prop_assert_eq!(become_of(&made, &[oid::INT4]), None);
        }
    }
}

#[test]
fn what_could_mean_something_else_stays() {
    for text in [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO t SELECT a::int FROM u",
        "SELECT a::int FROM (VALUES (1)) v(a)",
        "WITH w AS (SELECT 1) INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a)",
        // An output that is no column with its type.
        "INSERT INTO t SELECT a FROM (VALUES (1)) v(a)",
        "INSERT INTO t SELECT a::int + 1 FROM (VALUES (1)) v(a)",
        "INSERT INTO t SELECT b::int FROM (VALUES (1)) v(a)",
        "INSERT INTO t SELECT w.a::int FROM (VALUES (1)) v(a)",
        "INSERT INTO t SELECT DISTINCT a::int FROM (VALUES (1)) v(a)",
        "INSERT INTO t SELECT a::int, a::text FROM (VALUES (1)) v(a)",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a, a)",
        "INSERT INTO t SELECT a::interval hour FROM (VALUES ('1')) v(a)",
        "INSERT INTO t SELECT a::interval(0) FROM (VALUES ('1')) v(a)",
        // Another order, or one that is not known.
        "INSERT INTO t SELECT a::int FROM (VALUES (1, 2), (2, 1)) v(a, n) ORDER BY n",
        "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 1)) v(a, n) ORDER BY n",
        "INSERT INTO t SELECT a::int FROM (VALUES (1, $1), (2, $2)) v(a, n) ORDER BY n",
        "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) ORDER BY n DESC",
        "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) ORDER BY n, a",
        "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) LIMIT 1",
        "INSERT INTO t SELECT a::int FROM (VALUES (1, 1), (2, 2)) v(a, n) WHERE a > 1",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a) UNION SELECT 1",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a), u",
        "INSERT INTO t SELECT a::int FROM (VALUES (1) LIMIT 1) v(a)",
        // A column that is not inserted, and does something.
        "INSERT INTO t SELECT a::int FROM (VALUES (1, nextval('s'))) v(a, n)",
        // Values whose type depends on each other.
        "INSERT INTO t SELECT a::text FROM (VALUES ('05'), (5)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES (5), (true)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES ($1), (5)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES ($1::date), ($2::timestamp)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES ($1::date), ('now')) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES ('1'::\"T\"), ('1'::\"t\")) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES (N'a ')) v(a)",
        "INSERT INTO t SELECT a::int FROM (VALUES ($9)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES (1 + 1)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES (- 1::int2)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES ('1'::int2 + 1)) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES (now())) v(a)",
        "INSERT INTO t SELECT a::text FROM (VALUES (DEFAULT)) v(a)",
        // Rows that PostgreSQL refuses.
        "INSERT INTO t SELECT a::int FROM (VALUES (1), (1, 2)) v(a)",
        "INSERT INTO t SELECT a::int FROM (VALUES ()) v(a)",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a); SELECT 1",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a) RETURNING a; SELECT 1",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)) v(a) RETURNING 'a",
        "INSERT INTO t SELECT a::int FROM (VALUES (1)",
        "INSERT INTO t SELECT",
        "INSERT",
        "",
    ] {
        assert_eq!(become_of(text, &[]), None, "{text}");
    }
    let mixed = "INSERT INTO t SELECT a::text FROM (VALUES ($1), ($2)) v(a)";
    assert_eq!(become_of(mixed, &[oid::DATE, oid::TIMESTAMP]), None);
    assert_eq!(become_of(mixed, &[oid::INT4, oid::FLOAT8]), None);
    assert_eq!(become_of(mixed, &[oid::BIT, 0]), None);
    assert!(become_of(mixed, &[oid::DATE, oid::DATE]).is_some());
    let binary = "INSERT INTO t SELECT a::int FROM (VALUES ($9)) v(a)";
    assert!(become_of(binary, &[oid::INT4; 9]).is_some());
}
