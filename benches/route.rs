//! What a statement is: found by its shape, or parsed; may a replica run it, and which shard has its rows.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group};
use pgdog::config::choice::SystemCatalogs;
use pgdog::routing::role::{readable, Catalogue};
use pgdog::routing::route::{route, Database, NoSchema, Route};
use pgdog::routing::values::Values;
use pgdog::sharding::hash::Hasher;
use pgdog::sharding::{Function, KeyType, ShardedColumn, ShardingTables};
use pgdog::sql::cache::Cache;
use pgdog::sql::lexer::Dialect;
use pgdog_benches::SELECT_LITERAL;

/// A report over some tables.
const REPORT: &[u8] = b"SELECT c.name, count(*) AS orders, sum(o.total) FROM customers c JOIN orders o \
    ON o.customer_id = c.id WHERE o.placed_at >= '2026-01-01' AND o.state IN ('paid', 'sent') AND c.region = 'eu' \
    GROUP BY c.name HAVING count(*) > 10 ORDER BY 3 DESC LIMIT 50";
/// The point query with another literal.
const OTHER_LITERAL: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;";

/// A cache that has seen these texts.
fn warm() -> Cache {
    let mut cache = Cache::new(100, 1 << 20);
    for text in [SELECT_LITERAL, REPORT] {
        cache.analyse(text, Dialect::default());
    }
    cache
}

/// The parser has its tables, and nothing is kept.
fn cold() -> Cache {
    let mut cache = Cache::new(0, 0);
    cache.analyse(b"SELECT 1", Dialect::default());
    cache
}

#[library_benchmark]
#[bench::hit_point_query(warm(), OTHER_LITERAL)]
#[bench::hit_report(warm(), REPORT)]
#[bench::miss_point_query(cold(), OTHER_LITERAL)]
#[bench::miss_report(cold(), REPORT)]
fn analysed(mut cache: Cache, text: &[u8]) -> Cache {
    let analysed = cache.analyse(black_box(text), Dialect::default());
    black_box(readable(&analysed.analysis, &Catalogue::default()).is_ok());
    cache
}

/// A database of three shards, whose key is the one of the point query.
fn sharded() -> (Cache, ShardingTables, Catalogue) {
    let key = ShardedColumn {
        schema: None,
        table: Some("pgbench_accounts".to_owned()),
        column: "aid".to_owned(),
        primary: false,
        key_type: KeyType::Bigint,
        function: Function::Hash(Hasher::Postgres),
        lookup: None,
        shards: 3,
    };
    let tables = ShardingTables {
        shards: 3,
        columns: vec![key],
        ..ShardingTables::default()
    };
    (warm(), tables, Catalogue::default())
}

// All that a simple query with another literal costs before it is sent.
#[library_benchmark]
#[bench::point_query(sharded())]
fn routed(
    (mut cache, tables, functions): (Cache, ShardingTables, Catalogue),
) -> (Cache, ShardingTables, Catalogue) {
    let analysed = cache.analyse(black_box(OTHER_LITERAL), Dialect::default());
    let database = Database {
        tables: &tables,
        schema: &NoSchema,
        search_path: None,
        functions: &functions,
        system_catalogs: SystemCatalogs::OmnishardedSticky,
        sticky: false,
        lookups: &|_, _| None,
    };
    let values = Values {
        text: OTHER_LITERAL,
        literals: analysed.literals,
        backslashes: false,
        parameters: &[],
    };
    let statements = analysed.analysis.statements.as_ref().unwrap();
    let found = route(statements.first().unwrap(), &values, &database);
    assert!(matches!(black_box(found), Ok(Route::One(_))));
    (cache, tables, functions)
}

library_benchmark_group!(name = routes, benchmarks = [analysed, routed]);
