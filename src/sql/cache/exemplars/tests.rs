use proptest::prelude::*;

use super::super::super::hints::Hints;
use super::super::super::shape::Shape;
use super::super::super::statement::{Analysis, Unparsed, Usage};
use super::*;

/// An entry, of whatever.
fn entry() -> Rc<Entry> {
    let analysis = Analysis {
        statements: Err(Unparsed::TooLong),
        usage: Usage::default(),
        decisive: Default::default(),
    };
    Rc::new(Entry {
        key: Box::default(),
        analysis: Rc::new(analysis),
        used: Default::default(),
        bytes: 0,
    })
}

fn read(text: &str, dialect: Dialect) -> Option<Shape> {
    let mut shape = Shape::default();
    shape.read(text.as_bytes(), dialect).then_some(shape)
}

/// An exemplar of the text, if it is one.
fn exemplar(text: &str, dialect: Dialect) -> Option<Exemplar> {
    let shape = read(text, dialect).filter(|shape| shape.hints == Hints::default())?;
    Exemplar::new(text.as_bytes(), dialect, &shape.literals, &entry())
}

fn is_like(one: &str, other: &str) -> bool {
    let dialect = Dialect::default();
    let one = exemplar(one, dialect).expect("an exemplar");
    one.is_like(other.as_bytes(), &mut Vec::new())
}

#[test]
fn a_text_is_known_by_one_that_differs_in_lifted_literals() {
    for (one, other) in [
        (
            "SELECT a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = 4711",
        ),
        (
            "SELECT a FROM t WHERE b = 'x' AND c = 1.5;",
            "SELECT a FROM t WHERE b = 'it''s' AND c = 2e3;",
        ),
        (
            "INSERT INTO t VALUES (1, 'a'), (-2, '')",
            "INSERT INTO t VALUES (33, ''), (-4, 'b c')",
        ),
        ("SELECT 1", "SELECT 1"),
    ] {
        assert!(is_like(one, other), "{one}; {other}");
    }
    for (one, other) in [
        (
            "SELECT a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = 5 ",
        ),
        (
            "SELECT a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = 5.0",
        ),
        (
            "SELECT a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = .5",
        ),
        (
            "SELECT a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = '5'",
        ),
        (
            "SELECT a FROM t WHERE b = 'x'",
            "SELECT a FROM t WHERE b = E'x'",
        ),
        (
            "SELECT a FROM t WHERE b = 'x'",
            "SELECT a FROM t WHERE b = N'x'",
        ),
        (
            "SELECT a FROM t WHERE b = 'x'",
            "SELECT a FROM t WHERE b = 'x",
        ),
        (
            "SELECT a FROM t WHERE b = 'x'",
            "SELECT a FROM t WHERE b = 'x\0'",
        ),
        (
            "SELECT a FROM t WHERE b = 'x'",
            "SELECT a FROM t WHERE b = 'x'\n'y' ",
        ),
        ("SELECT a FROM t LIMIT 5", "SELECT a FROM t LIMIT 6"),
        (
            "SELECT a FROM t WHERE id = 5 LIMIT 1",
            "SELECT a FROM t WHERE id = 5 LIMIT 2",
        ),
    ] {
        assert!(!is_like(one, other), "{one}; {other}");
    }
    assert!(is_like(
        "SELECT a FROM t WHERE b = 'x' AND c = 1",
        "SELECT a FROM t WHERE b = 'x'\n'y' AND c = 1"
    ));
}

#[test]
fn what_begins_otherwise_is_no_exemplar() {
    let long = format!("SELECT a FROM t WHERE b = '{}'", "x".repeat(TEXT_BYTES_MAX));
    let many = format!(
        "SELECT a FROM t WHERE b IN (0{})",
        ", 1".repeat(LITERALS_MAX)
    );
    for text in [
        "SELECT a FROM t WHERE b = .5",
        "SELECT a FROM t WHERE b = $$x$$",
        "SELECT a FROM t WHERE b = E'x'",
        &long,
        &many,
    ] {
        assert!(exemplar(text, Dialect::default()).is_none(), "{text}");
    }
}

#[test]
fn a_place_is_taken_from_what_was_not_used() {
    let mut all = Exemplars::default();
    let (dialect, entries) = (Dialect::default(), [entry(), entry(), entry()]);
    // The same up to the first number.
    let texts = [
        "SELECT a FROM t WHERE id = 1",
        "SELECT a FROM t WHERE id = 1 AND b",
        "SELECT a FROM t WHERE id = 1 OR c",
    ];
    let note = |all: &mut Exemplars, at: usize| {
        let shape = read(texts[at], dialect).unwrap();
        all.note(texts[at].as_bytes(), dialect, &shape.literals, &entries[at]);
    };
    let known = |all: &mut Exemplars| {
        texts.map(|text| {
            all.find(text.as_bytes(), dialect, &mut Vec::new())
                .is_some()
        })
    };
    note(&mut all, 0);
    note(&mut all, 1);
    assert_eq!(known(&mut all), [true, true, false]);
    note(&mut all, 2);
    assert_eq!(known(&mut all), [true, true, false], "both were used since");
    note(&mut all, 2);
    note(&mut all, 2);
    assert_eq!(known(&mut all), [false, true, true]);
    all.forget(&entries[1]);
    assert_eq!(known(&mut all), [false, false, true]);
    all.clear();
    assert_eq!(known(&mut all), [false; 3]);
}

#[test]
fn texts_are_told_apart_up_to_their_first_literal() {
    let set = |text: &str| set_of(text.as_bytes());
    assert_eq!(
        set("SELECT a FROM t2 WHERE id = 5"),
        set("SELECT a FROM t2 WHERE id = 4711 AND b")
    );
    assert_eq!(
        set("INSERT INTO t1 VALUES ('abc')"),
        set("INSERT INTO t1 VALUES ('d'), ('e')")
    );
    let sets: std::collections::HashSet<_> = (0..9)
        .map(|n| set(&format!("SELECT a FROM table{n} WHERE id = 5")))
        .collect();
    assert!(sets.len() > 3, "a digit in a name is no literal: {sets:?}");
}

/// Pieces of texts, put together at random.
const PIECES: &[&str] = &[
    "SELECT ",
    "a",
    " FROM t",
    " WHERE ",
    " AND ",
    " OR ",
    "=",
    " = ",
    "(",
    ")",
    ", ",
    "+",
    "-",
    "--",
    "\n",
    " ",
    "/*",
    "*/",
    "'",
    "''",
    "'x'",
    "'y z'",
    "E'q'",
    "N'r'",
    "$$",
    "$a$",
    "$1",
    "5",
    "67",
    "8.9",
    ".5",
    "1e5",
    "0x1f",
    "\"",
    "\"n\"",
    "LIMIT ",
    "INSERT INTO t VALUES (",
    "UPDATE t SET a = ",
    ";",
    "\\",
    "e",
    "u&",
    "[",
    ":",
    "::int",
    "\u{e9}",
    " IN (",
    "VALUES ",
    "pgdog_shard: 1",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whoever is known by another has its shape, and the literals that a pass over it finds.
    #[test]
    fn who_is_like_an_exemplar_has_its_shape(
        pieces in prop::collection::vec(0..PIECES.len(), 1..14),
        changes in prop::collection::vec((0..14_usize, 0..PIECES.len()), 1..3),
        bits in 0..4_u8,
    ) {
        let dialect = Dialect { backslashes: bits & 1 != 0, overlapping: bits & 2 != 0 };
        let one: String = pieces.iter().map(|&at| PIECES[at]).collect();
        let mut others = pieces;
        for (at, piece) in changes {
            if let Some(place) = others.get_mut(at) {
                *place = piece;
            }
        }
        let other: String = others.iter().map(|&at| PIECES[at]).collect();
        let Some(exemplar) = exemplar(&one, dialect) else { return Ok(()) };
        let mut literals = Vec::new();
        prop_assert!(exemplar.is_like(one.as_bytes(), &mut literals), "itself: {one:?}");
        if exemplar.is_like(other.as_bytes(), &mut literals) {
            let (one, found) = (read(&one, dialect).unwrap(), read(&other, dialect));
            let found = found.expect("a shape");
            prop_assert_eq!(&one.key, &found.key);
            prop_assert_eq!(&literals, &found.literals);
            prop_assert_eq!(found.hints, Hints::default());
        }
    }

    /// The same for texts that differ in literals alone, so that many are alike.
    #[test]
    fn literals_of_all_kinds(
        pieces in prop::collection::vec(0..PIECES.len(), 0..8),
        first in 0..15_usize,
        second in 0..15_usize,
        bits in 0..4_u8,
    ) {
        const LITERALS: [&str; 15] = ["5", "67", "8.9", ".5", "1e5", "0x1f", "'x'", "''", "'it''s'", "'a\\'", "E'q'", "N'r'", "$$z$$", "5a", "'x'\n'y'"];
        let dialect = Dialect { backslashes: bits & 1 != 0, overlapping: bits & 2 != 0 };
        let rest: String = pieces.iter().map(|&at| PIECES[at]).collect();
        let text = |at: usize| format!("UPDATE t SET a = {} WHERE b={}{rest}", LITERALS[at], LITERALS[at]);
        let Some(exemplar) = exemplar(&text(first), dialect) else { return Ok(()) };
        let mut literals = Vec::new();
        if exemplar.is_like(text(second).as_bytes(), &mut literals) {
            let (one, found) = (read(&text(first), dialect).unwrap(), read(&text(second), dialect));
            let found = found.expect("a shape");
            prop_assert_eq!(&one.key, &found.key);
            prop_assert_eq!(&literals, &found.literals);
        }
    }
}
