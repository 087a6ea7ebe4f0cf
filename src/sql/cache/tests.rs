use proptest::prelude::*;

use super::*;
use crate::sql::lexer::Kind;

const CORPUS: &str = include_str!("../../../tests/corpus/roles.txt");

fn corpus() -> Vec<String> {
    let more = [
        "SELECT * FROM t WHERE a = 5 AND b IN (1, 2.5, 'x') OR c LIKE 'y%' AND d BETWEEN 1 AND -2 ORDER BY 2 LIMIT 10",
        "INSERT INTO t (a, b) VALUES (1, 'x'), (2, E'y\\n'), (-3, $$z$$) ON CONFLICT (a) DO UPDATE SET b = 'w' RETURNING 1",
        "UPDATE t SET a = 1, b = 'x' || c WHERE d = ANY ('{1,2}') AND e > DATE '2026-01-01'",
        "WITH x AS (SELECT a FROM t WHERE b = 1 ORDER BY 1 LIMIT 5) SELECT * FROM x JOIN (SELECT 1 WHERE 2 = 2) y ON z = 3",
        "SELECT a, 'lit' FROM t WHERE (SELECT count(*) FROM u WHERE v = 7 GROUP BY 1 HAVING sum(w + 1) > 2) = 3",
        "DELETE FROM t USING u WHERE t.a = u.a AND u.b = 'x' AND t.c IS DISTINCT FROM 4 AND t.d = 5",
        "MERGE INTO t USING u ON t.a = u.a AND u.b = 1 WHEN MATCHED AND t.c > 2 THEN UPDATE SET d = 3 WHEN NOT MATCHED THEN INSERT (a) VALUES (4)",
        "EXECUTE p (1, 'a', -3, $$z$$, 5::bigint, f(7), NULL)",
    ];
    let lines = CORPUS.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter_map(|line| line.split_once(' '));
    let texts = lines.map(|(_, text)| text.trim_start().to_owned());
    texts.chain(more.map(str::to_owned)).collect()
}

fn shape(text: &str) -> Shape {
    let mut shape = Shape::default();
    shape.read(text.as_bytes(), Dialect::default());
    shape
}

/// What stands in place of lifted literals, and the rest, for human eyes.
fn shown(text: &str) -> String {
    display(&shape(text).key)
}

#[test]
fn literals_are_lifted_where_they_are_but_values() {
    for (text, expected) in [
        (
            "SELECT a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = ?",
        ),
        (
            "SELECT  a /* c */ FROM t -- d\nWHERE id=5",
            "SELECT a FROM t WHERE id=?",
        ),
        (
            "SELECT 1, 'a' FROM t WHERE b = 'c' LIMIT 3",
            "SELECT 1, 'a' FROM t WHERE b = ? LIMIT 3",
        ),
        (
            "SELECT f(1) FROM g(2) WHERE h(3) = 4",
            "SELECT f(1) FROM g(2) WHERE h(?) = ?",
        ),
        (
            "SELECT a FROM t GROUP BY 1 HAVING b > 2 ORDER BY 3",
            "SELECT a FROM t GROUP BY 1 HAVING b > 2 ORDER BY 3",
        ),
        (
            "SELECT count(*) FILTER (WHERE a = 1) FROM t",
            "SELECT count(*) FILTER (WHERE a = 1) FROM t",
        ),
        (
            "SELECT (SELECT 1 WHERE a = 2) FROM t",
            "SELECT (SELECT 1 WHERE a = 2) FROM t",
        ),
        (
            "SELECT * FROM (SELECT 1 WHERE a = 2) t",
            "SELECT * FROM (SELECT 1 WHERE a = ?) t",
        ),
        (
            "SELECT a FROM t WHERE b > DATE '2026-01-01' AND c = 1",
            "SELECT a FROM t WHERE b > DATE '2026-01-01' AND c = ?",
        ),
        (
            "SELECT a FROM t WHERE b IN (1, -2, '3')",
            "SELECT a FROM t WHERE b IN (?, -?, ?)",
        ),
        (
            "SELECT a FROM t JOIN u ON t.x = 1 JOIN v ON t.y = 2",
            "SELECT a FROM t JOIN u ON t.x = ? JOIN v ON t.y = ?",
        ),
        (
            "SELECT DISTINCT ON (a, 1) b FROM t",
            "SELECT DISTINCT ON (a, 1) b FROM t",
        ),
        (
            "SELECT set, 1, values, 2 FROM t",
            "SELECT set, 1, values, 2 FROM t",
        ),
        (
            "SELECT a FROM t WHERE b IN (SELECT c FROM u WHERE d = 1 ORDER BY 1 LIMIT 2)",
            "SELECT a FROM t WHERE b IN (SELECT c FROM u WHERE d = ? ORDER BY 1 LIMIT 2)",
        ),
        (
            "INSERT INTO t (a) VALUES (1), ('b') RETURNING 2",
            "INSERT INTO t (a) VALUES (?), (?) RETURNING 2",
        ),
        (
            "INSERT INTO t SELECT 1 WHERE a = 2",
            "INSERT INTO t SELECT 1 WHERE a = ?",
        ),
        (
            "UPDATE t SET a = 1 WHERE b = 2",
            "UPDATE t SET a = ? WHERE b = ?",
        ),
        ("SET a = 1", "SET a = 1"),
        ("EXECUTE p (1)", "EXECUTE p (?)"),
        (
            "EXPLAIN SELECT a FROM t WHERE b = 1",
            "EXPLAIN SELECT a FROM t WHERE b = 1",
        ),
        (
            "SELECT a FROM t WHERE b = 1; SET c = 2",
            "SELECT a FROM t WHERE b = ?; SET c = 2",
        ),
        (
            "SELECT a FROM t WHERE b = 1 UNION SELECT 2 FROM u WHERE c = 3",
            "SELECT a FROM t WHERE b = ? UNION SELECT 2 FROM u WHERE c = ?",
        ),
    ] {
        assert_eq!(shown(text), expected);
    }
}

#[test]
fn kinds_of_literals_are_told_apart() {
    let keys: Vec<_> = ["1", "1.5", "'a'", "E'a'", "$$a$$", "-1"]
        .map(|literal| shape(&format!("SELECT a FROM t WHERE b = {literal}")).key)
        .into();
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys.iter().skip(at + 1).any(|other| other == key), "{at}");
    }
    // No byte of a text can stand for a literal.
    assert!(!shape("SELECT a FROM t WHERE b = ?").key[1..].contains(&0));
    let mut cache = Cache::new(10, 1 << 20);
    cache.analyse(b"SELECT a FROM t WHERE b = 5", Dialect::default());
    let forged = cache.analyse(b"SELECT a FROM t WHERE b = \0i", Dialect::default());
    assert!(forged.analysis.statements.is_err());
}

#[test]
fn texts_of_one_shape_share_their_analysis() {
    let mut cache = Cache::new(10, 1 << 20);
    let first = cache
        .analyse(b"SELECT a FROM t WHERE b = 5", Dialect::default())
        .analysis;
    let text = b"/* pgdog_shard: 1 */ SELECT a\n FROM t WHERE b = 12345 -- x";
    let second = cache.analyse(text, Dialect::default());
    assert_eq!(second.hints.shard, Some(1));
    assert!(!second.literals.is_empty());
    assert_eq!(second.literals[0].of(text), b"12345");
    assert_eq!(second.literals[0].kind, Kind::Number);
    assert!(Rc::ptr_eq(&first, &second.analysis));
    assert_eq!(first.usage.hits.get(), 1);
    assert_eq!(cache.counts(), (1, 1));
    let listed: Vec<String> = cache.list().map(|listed| listed.query).collect();
    assert_eq!(listed[0], "SELECT a FROM t WHERE b = ?");
}

#[test]
fn dialects_do_not_share() {
    let mut cache = Cache::new(10, 1 << 20);
    let text = br"SELECT a FROM t WHERE b = 'c\' AND d = '; DELETE FROM t; --'";
    let backslashes = Dialect {
        backslashes: true,
        ..Dialect::default()
    };
    let plain = cache.analyse(text, Dialect::default()).analysis;
    let escaped = cache.analyse(text, backslashes).analysis;
    assert!(!Rc::ptr_eq(&plain, &escaped));
    assert_ne!(
        plain.statements.as_ref().map(Vec::len),
        escaped.statements.as_ref().map(Vec::len)
    );
}

#[test]
fn the_cache_keeps_its_limits_and_what_is_used() {
    let mut cache = Cache::new(3, 1 << 20);
    for name in ["a", "b", "c"] {
        cache.analyse(format!("SELECT {name}").as_bytes(), Dialect::default());
    }
    cache.analyse(b"SELECT a", Dialect::default());
    cache.analyse(b"SELECT d", Dialect::default());
    assert_eq!(cache.len(), 3);
    let before = cache.counts();
    cache.analyse(b"SELECT a", Dialect::default());
    assert_eq!(
        cache.counts(),
        (before.0 + 1, before.1),
        "what was used is still there"
    );
    cache.analyse(b"SELECT b", Dialect::default());
    assert_eq!(cache.counts().1, before.1 + 1, "what was not is gone");
    let one = cache.bytes() / cache.len();
    cache.resize(100, one);
    assert!(cache.len() <= 1 && cache.bytes() <= one);
    cache.clear();
    assert!(cache.is_empty() && cache.bytes() == 0);
    // Larger than all of it: not kept, and nothing else goes for it.
    let mut small = Cache::new(10, 1500);
    small.analyse(b"SELECT 1", Dialect::default());
    let long = format!("SELECT {}", "1,".repeat(2000) + "1");
    small.analyse(long.as_bytes(), Dialect::default());
    assert_eq!(small.len(), 1);
}

#[test]
fn what_does_not_parse_is_not_kept() {
    let mut cache = Cache::new(10, 1 << 20);
    let broken = cache.analyse(b"SELECT a FROM t WHERE b = E'\\uzzzz'", Dialect::default());
    assert!(broken.analysis.statements.is_err());
    let proper = cache.analyse(b"SELECT a FROM t WHERE b = E'\\u00e9'", Dialect::default());
    assert!(proper.analysis.statements.is_ok());
}

/// Another literal of the same kind.
fn other(kind: Kind, literal: &[u8], number: u32) -> String {
    match kind {
        Kind::String => format!("'{number}; -- '' \"x'"),
        Kind::EscapeString => format!("E'{number}\\'; \\\\'"),
        Kind::DollarString => format!("$q${number} $$ ' $q$"),
        _ if literal.iter().all(u8::is_ascii_digit) => number.to_string(),
        _ => format!("{number}.5"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The analysis by shape is that of the full text, whatever the literals are.
    #[test]
    fn lifted_literals_change_nothing(numbers in prop::collection::vec(0..100_000_u32, 8)) {
        for text in corpus() {
            let shape = shape(&text);
            let mut changed = String::new();
            let mut at = 0;
            for (literal, number) in shape.literals.iter().zip(numbers.iter().cycle()) {
                changed.push_str(&text[at..literal.start]);
                changed.push_str(&other(literal.kind, literal.of(text.as_bytes()), *number));
                at = literal.end;
            }
            changed.push_str(&text[at..]);
            let mut cache = Cache::new(10, 1 << 20);
            let first = cache.analyse(text.as_bytes(), Dialect::default()).analysis;
            let kept = cache.len();
            let second = cache.analyse(changed.as_bytes(), Dialect::default());
            prop_assert!(kept == 0 || Rc::ptr_eq(&first, &second.analysis), "{} {}", text, changed);
            let mut full = Shape::default();
            full.read(changed.as_bytes(), Dialect::default());
            let alone = parse(changed.as_bytes(), Dialect::default(), changed.len(), &full.literals);
            prop_assert_eq!(&first.statements, &alone, "{}", changed);
        }
    }

    #[test]
    fn any_bytes_are_analysed_without_panic(data: Vec<u8>) {
        let mut cache = Cache::new(10, 1 << 20);
        cache.analyse(&data, Dialect::default());
        cache.analyse(&data, Dialect { backslashes: true, overlapping: true });
    }

    /// Put together at random: most is no SQL, and some is.
    #[test]
    fn any_words_are_analysed_without_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "SELECT", "a", ",", "1", "'x'", "FROM", "t", "WHERE", "=", "(", ")", "AND", "IN", "ORDER", "BY", "LIMIT",
            "UPDATE", "SET", "INSERT", "INTO", "VALUES", "WITH", "AS", "JOIN", "ON", "UNION", ";", "/* pgdog_shard: 1 */",
            "$1", "::int", "DELETE", "NOT", "-", "[", "]", "CASE", "WHEN", "THEN", "END", "FOR", "DISTINCT",
        ]), 0..30),
    ) {
        let text = words.join(" ");
        let mut cache = Cache::new(10, 1 << 20);
        let first = cache.analyse(text.as_bytes(), Dialect::default()).analysis;
        let second = cache.analyse(text.as_bytes(), Dialect::default()).analysis;
        prop_assert_eq!(&first.statements, &second.statements);
        if let Ok(statements) = &first.statements {
            prop_assert!(statements.iter().map(Statement::size).sum::<usize>() < 1 << 20);
        }
    }
}
