//! What documents say of tests is so.

use std::path::Path;

/// The number at the front of a table's row, and the tests that it names.
fn row(line: &str) -> Option<(u32, Vec<&str>)> {
    let mut cells = line.strip_prefix('|')?.split(" | ");
    let number = cells.next()?.trim().parse().ok()?;
    let tests = cells.last()?.split('`').skip(1).step_by(2);
    Some((number, tests.collect()))
}

/// Does the repository have a test of this name?
fn exists(test: &str) -> bool {
    let Some((place, name)) = test.rsplit_once("::") else {
        return false;
    };
    let path = match place.contains('/') {
        true => place.to_owned(),
        false => format!("tests/proxy/{place}.rs"),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut tests = text.split("#[test]").skip(1);
    tests.any(|test| {
        test.split("fn ")
            .nth(1)
            .is_some_and(|rest| rest.starts_with(&format!("{name}(")))
    })
}

#[test]
fn every_edge_case_names_tests_that_exist() {
    let rows: Vec<_> = include_str!("../../docs/edge-cases.md")
        .lines()
        .filter_map(row)
        .collect();
    let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
    assert!(numbers.len() > 50, "{numbers:?}");
    let in_order = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(in_order, "each once and in order: {numbers:?}");
    for (number, tests) in rows {
        assert!(!tests.is_empty(), "{number} names no test");
        for test in tests {
            assert!(exists(test), "{number}: there is no test {test}");
        }
    }
    assert!(!exists("session::no_such_test"), "a test that cannot fail");
}
