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

/// The words that refusals of these folders are made of.
fn refusals(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("it is there").path();
        if path.is_dir() {
            refusals(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        let own = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        for call in own.split("refused(").skip(1) {
            let call = call
                .trim_start()
                .trim_start_matches("&format!(")
                .trim_start();
            let words = call
                .strip_prefix('"')
                .and_then(|rest| rest.split('"').next());
            // What stands in braces, or in quotes, is the statement's own.
            let words = words.and_then(|words| words.split(['{', '\\']).next());
            found.extend(words.map(|words| words.trim().to_owned()));
        }
    }
}

/// Those of a SELECT that cannot be merged are told of by what they name.
#[test]
fn every_refusal_of_routing_is_in_the_book() {
    let book = include_str!("../../docs/sharding.md");
    let mut found = Vec::new();
    for folder in ["src/routing", "src/proxy/client/sharded"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        refusals(&root.join(folder), &mut found);
    }
    assert!(found.len() > 40, "{found:?}");
    for words in found.iter().filter(|words| !words.is_empty()) {
        assert!(
            book.contains(&format!("`{words}")),
            "docs/sharding.md does not name {words:?}"
        );
    }
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
