use super::*;
use crate::sql::cache::Cache;
use crate::sql::lexer::Dialect;

const CORPUS: &str = include_str!("../../../tests/corpus/roles.txt");

fn cases() -> impl Iterator<Item = (&'static str, String)> {
    CORPUS.lines().filter_map(|line| {
        let (role, text) = line.split_once(' ')?;
        (role != "#").then(|| (role, text.trim_start().replace("\\n", "\n")))
    })
}

/// What a text is answered, outside of a transaction unless the context says otherwise.
fn route<'c>(
    cache: &mut Cache,
    text: &str,
    context: Context<'c>,
    check: impl FnOnce(RoleRoute<'_>),
) {
    let analysed = cache.analyse(text.as_bytes(), Dialect::default());
    check(route_role(
        Some(&analysed.analysis),
        &analysed.hints,
        &context,
    ));
}

fn context(catalogue: &Catalogue) -> Context<'_> {
    Context {
        transaction: Transaction::None,
        hint: None,
        defaults: Modes::default(),
        temporary: false,
        strategy: ReadWriteStrategy::Conservative,
        split: ReadWriteSplit::IncludePrimary,
        catalogue,
    }
}

#[test]
fn every_statement_of_the_corpus_has_its_role() {
    let catalogue = Catalogue::default();
    let mut cache = Cache::new(1000, 1 << 20);
    let mut count = 0;
    let mut wrong = Vec::new();
    // The second round finds all in the cache, and must answer the same.
    for round in 0..2 {
        for (role, text) in cases() {
            let analysed = cache.analyse(text.as_bytes(), Dialect::default());
            let found = readable(&analysed.analysis, &catalogue);
            let expected = match role {
                "replica" => true,
                "primary" => false,
                other => panic!("{other} is no role"),
            };
            if found.is_ok() != expected {
                wrong.push(format!("{round} {text}: {found:?}"));
            }
            count += 1;
        }
    }
    assert!(count >= 2 * 300, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_corpus_parses_but_for_what_shall_not() {
    let mut cache = Cache::new(0, 0);
    let unparsed = cases().filter(|(_, text)| {
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        analysed.analysis.statements.is_err()
    });
    assert_eq!(unparsed.count(), 8);
}

#[test]
fn users_functions_are_harmless_when_the_catalogue_says_so() {
    let mut catalogue = Catalogue::default();
    catalogue.add_function("stable_one", Volatility::Stable);
    catalogue.add_function("volatile_one", Volatility::Volatile);
    catalogue.add_function("overloaded", Volatility::Stable);
    catalogue.add_function("overloaded", Volatility::Volatile);
    catalogue.add_function("lower", Volatility::Volatile);
    catalogue.add_function("upper", Volatility::Stable);
    catalogue.add_function("nextval", Volatility::Stable);
    for (text, expected) in [
        ("SELECT stable_one(1)", true),
        ("SELECT app.stable_one(1)", true),
        ("SELECT volatile_one(1)", false),
        ("SELECT overloaded(1)", false),
        ("SELECT unknown_one(1)", false),
        ("SELECT lower('A')", false),
        ("SELECT pg_catalog.lower('A')", true),
        ("SELECT upper('a'), app.upper('a')", true),
        ("SELECT nextval('s')", false),
        ("SELECT app.nextval('s')", true),
        ("SELECT pg_catalog.stable_one(1)", false),
    ] {
        let mut cache = Cache::new(0, 0);
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let found = readable(&analysed.analysis, &catalogue);
        assert_eq!(found.is_ok(), expected, "{text}: {found:?}");
    }
}

#[test]
fn users_functions_are_immutable_when_all_of_their_name_are() {
    let mut catalogue = Catalogue::default();
    for (name, volatilities) in [
        ("one", &[Volatility::Immutable][..]),
        ("other", &[Volatility::Immutable, Volatility::Stable]),
        ("another", &[Volatility::Volatile, Volatility::Immutable]),
        ("lower", &[Volatility::Immutable]),
    ] {
        for volatility in volatilities {
            catalogue.add_function(name, *volatility);
        }
    }
    for (schema, name, expected) in [
        (None, "one", true),
        (Some("app"), "one", true),
        (None, "other", false),
        (None, "another", false),
        (None, "unknown", false),
        // Which of them is called depends on the search path.
        (None, "lower", false),
        (Some("app"), "lower", true),
    ] {
        let found = catalogue.function_is_immutable(schema, name);
        assert_eq!(found, expected, "{schema:?} {name}");
    }
    for (told, volatility) in [
        (b"i", Volatility::Immutable),
        (b"s", Volatility::Stable),
        (b"v", Volatility::Volatile),
        (b"?", Volatility::Volatile),
    ] {
        assert_eq!(Volatility::of(told), volatility);
    }
}

#[test]
fn views_are_as_harmless_as_what_they_read() {
    let mut catalogue = Catalogue::default();
    let mut cache = Cache::new(0, 0);
    let mut view = |text: &str| cache.analyse(text.as_bytes(), Dialect::default()).analysis;
    let (plain, outer, inner) = (
        view("SELECT id, lower(name) FROM users;"),
        view("SELECT * FROM inner_view;"),
        view("SELECT nextval('s') AS n;"),
    );
    catalogue.add_views(&[
        ("plain_view", &plain),
        ("outer_view", &outer),
        ("inner_view", &inner),
    ]);
    for (text, expected) in [
        ("SELECT * FROM plain_view", true),
        ("SELECT * FROM inner_view", false),
        ("SELECT * FROM app.outer_view JOIN t USING (id)", false),
        (
            "WITH inner_view AS (SELECT 1) SELECT * FROM inner_view",
            true,
        ),
    ] {
        let analysis = view(text);
        assert_eq!(readable(&analysis, &catalogue).is_ok(), expected, "{text}");
    }
}

#[test]
fn splits_decide_who_reads() {
    use ReadWriteSplit as S;
    let catalogue = Catalogue::default();
    let mut cache = Cache::new(10, 1 << 20);
    for (split, text, expected) in [
        (
            S::IncludePrimary,
            "SELECT 1",
            RoleRoute::Read(Readers::All, Why::ReadOnly),
        ),
        (
            S::ExcludePrimary,
            "SELECT 1",
            RoleRoute::Read(Readers::Replicas, Why::ReadOnly),
        ),
        (
            S::IncludePrimaryIfReplicaBanned,
            "SELECT 1",
            RoleRoute::Read(Readers::ReplicasThenPrimary, Why::ReadOnly),
        ),
        (
            S::PreferPrimary,
            "SELECT 1",
            RoleRoute::Primary(Why::PreferPrimary),
        ),
        (
            S::PreferPrimary,
            "/* pgdog_role: replica */ SELECT 1",
            RoleRoute::Read(Readers::ReplicasThenPrimary, Why::Hint),
        ),
        (
            S::ExcludePrimary,
            "SELECT my_function() /* pgdog_role: replica */",
            RoleRoute::Read(Readers::Replicas, Why::Hint),
        ),
        (
            S::ExcludePrimary,
            "/* pgdog_role: primary */ SELECT 1",
            RoleRoute::Primary(Why::Hint),
        ),
        (
            S::ExcludePrimary,
            "DELETE FROM t",
            RoleRoute::Primary(Why::Need(&Need::ChangesData)),
        ),
    ] {
        let context = Context {
            split,
            ..context(&catalogue)
        };
        route(&mut cache, text, context, |found| {
            assert_eq!(found, expected, "{text}");
        });
    }
}

/// Texts of one session in order, and what each is answered. Deferred modes are carried on; a server ends it.
fn transaction(strategy: ReadWriteStrategy, steps: &[(&str, &str)]) {
    let catalogue = Catalogue::default();
    let mut cache = Cache::new(10, 1 << 20);
    let mut state = Transaction::None;
    for (text, expected) in steps {
        let context = Context {
            transaction: state,
            strategy,
            ..context(&catalogue)
        };
        route(&mut cache, text, context, |found| {
            let word = match found {
                RoleRoute::Read(..) => "replica",
                RoleRoute::Primary(_) => "primary",
                RoleRoute::Defer(_) => "defer",
                RoleRoute::Stay => "stay",
            };
            assert_eq!(word, *expected, "{text} of {steps:?}: {found:?}");
            state = match found {
                RoleRoute::Defer(modes) => Transaction::Deferred(modes),
                _ => Transaction::Begun,
            };
        });
    }
}

#[test]
fn transactions_go_where_strategy_and_modes_say() {
    use ReadWriteStrategy::{Aggressive, Conservative};
    for strategy in [Aggressive, Conservative] {
        transaction(
            strategy,
            &[("BEGIN READ ONLY", "replica"), ("SELECT 1", "stay")],
        );
        transaction(
            strategy,
            &[(
                "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
                "replica",
            )],
        );
        transaction(
            strategy,
            &[(
                "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
                "primary",
            )],
        );
        transaction(strategy, &[("BEGIN", "defer"), ("COMMIT", "defer")]);
        transaction(
            strategy,
            &[
                ("BEGIN", "defer"),
                ("INSERT INTO t VALUES (1)", "primary"),
                ("SELECT 1", "stay"),
            ],
        );
        transaction(
            strategy,
            &[("BEGIN", "defer"), ("SELECT nextval('s')", "primary")],
        );
        transaction(
            strategy,
            &[
                ("BEGIN", "defer"),
                ("SET TRANSACTION READ ONLY", "defer"),
                ("SELECT f()", "replica"),
            ],
        );
        transaction(
            strategy,
            &[
                ("BEGIN", "defer"),
                ("SET TRANSACTION READ ONLY", "defer"),
                ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "defer"),
                ("SELECT 1", "primary"),
            ],
        );
        transaction(strategy, &[("BEGIN; SELECT 1", "primary")]);
        transaction(strategy, &[("BEGIN /* pgdog_role: replica */", "replica")]);
    }
    transaction(Conservative, &[("BEGIN", "defer"), ("SELECT 1", "primary")]);
    transaction(
        Aggressive,
        &[
            ("BEGIN", "defer"),
            ("SELECT 1", "replica"),
            ("DELETE FROM t", "stay"),
        ],
    );
    transaction(
        Aggressive,
        &[("BEGIN", "defer"), ("SAVEPOINT a", "primary")],
    );
    transaction(
        Aggressive,
        &[("BEGIN READ WRITE", "defer"), ("SELECT 1", "primary")],
    );
    transaction(
        Aggressive,
        &[
            ("BEGIN READ WRITE", "defer"),
            ("SET TRANSACTION READ ONLY", "defer"),
            ("SELECT 1", "replica"),
        ],
    );
}

#[test]
fn what_the_session_has_set_counts() {
    let catalogue = Catalogue::default();
    let mut cache = Cache::new(10, 1 << 20);
    let read_only = Modes {
        read_only: Some(true),
        ..Modes::default()
    };
    let serializable = Modes {
        isolation: Some(Isolation::Serializable),
        ..Modes::default()
    };
    let plain = context(&catalogue);
    for (text, context, expected) in [
        (
            "BEGIN",
            Context {
                defaults: read_only,
                ..plain
            },
            RoleRoute::Read(Readers::All, Why::ReadOnlyTransaction),
        ),
        (
            "BEGIN READ WRITE",
            Context {
                defaults: read_only,
                ..plain
            },
            RoleRoute::Defer(Modes {
                read_only: Some(false),
                ..Modes::default()
            }),
        ),
        (
            "SELECT 1",
            Context {
                defaults: serializable,
                ..plain
            },
            RoleRoute::Primary(Why::Serializable),
        ),
        (
            "SELECT 1",
            Context {
                temporary: true,
                ..plain
            },
            RoleRoute::Primary(Why::TemporaryTables),
        ),
        (
            "SELECT 1",
            Context {
                hint: Some(Role::Primary),
                ..plain
            },
            RoleRoute::Primary(Why::Hint),
        ),
        (
            "/* pgdog_role: replica */ SELECT 1",
            Context {
                hint: Some(Role::Primary),
                ..plain
            },
            RoleRoute::Read(Readers::ReplicasThenPrimary, Why::Hint),
        ),
        (
            "SELECT 1",
            Context {
                transaction: Transaction::Begun,
                ..plain
            },
            RoleRoute::Stay,
        ),
    ] {
        route(&mut cache, text, context, |found| {
            assert_eq!(found, expected, "{text}")
        });
    }
    let unparsed = route_role(None, &Hints::default(), &plain);
    assert_eq!(unparsed, RoleRoute::Primary(Why::NotAnalysed));
}

#[test]
fn levels_decide_what_is_parsed() {
    let none = Needs::default();
    let balanced = Needs {
        balanced: true,
        ..none
    };
    assert!(analyses(QueryParser::On, none));
    assert!(!analyses(QueryParser::Off, balanced));
    assert!(analyses(QueryParser::Auto, balanced) && !analyses(QueryParser::Auto, none));
    assert!(!analyses(QueryParser::SessionControl, balanced));
}
