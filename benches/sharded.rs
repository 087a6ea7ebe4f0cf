//! Statements to analyse, and a database of three shards to route them on.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use pgdog::config::choice::SystemCatalogs;
use pgdog::routing::role::Catalogue;
use pgdog::routing::route::{route, Database, NoSchema, Route};
use pgdog::routing::values::Values;
use pgdog::sharding::hash::Hasher;
use pgdog::sharding::{Function, KeyType, ShardedColumn, ShardingTables};
use pgdog::sql::cache::Cache;
use pgdog::sql::lexer::Dialect;

use crate::SELECT_LITERAL;

/// A report over some tables.
pub const REPORT: &[u8] = b"SELECT c.name, count(*) AS orders, sum(o.total) FROM customers c JOIN orders o \
    ON o.customer_id = c.id WHERE o.placed_at >= '2026-01-01' AND o.state IN ('paid', 'sent') AND c.region = 'eu' \
    GROUP BY c.name HAVING count(*) > 10 ORDER BY 3 DESC LIMIT 50";
/// The point query with another literal.
pub const OTHER_LITERAL: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = 1234567;";

/// A cache that has seen these texts.
pub fn warm() -> Cache {
    let mut cache = Cache::new(100, 1 << 20);
    for text in [SELECT_LITERAL, REPORT] {
        cache.analyse(text, Dialect::default());
    }
    cache
}

/// The same, which has seen each of them again.
pub fn known() -> Cache {
    let mut cache = warm();
    for text in [SELECT_LITERAL, REPORT] {
        cache.analyse(text, Dialect::default());
    }
    cache
}

/// The parser has its tables, and nothing is kept.
pub fn cold() -> Cache {
    let mut cache = Cache::new(0, 0);
    cache.analyse(b"SELECT 1", Dialect::default());
    cache
}

/// A database of three shards, whose key is the one of the point query.
pub struct Sharded {
    cache: Cache,
    tables: ShardingTables,
    functions: Catalogue,
}

impl Sharded {
    /// With a cache that has seen the statements.
    pub fn warm() -> Self {
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
        Self {
            cache: warm(),
            tables: ShardingTables {
                shards: 3,
                columns: vec![key],
                ..ShardingTables::default()
            },
            functions: Catalogue::default(),
        }
    }

    /// All that a simple query costs before it is sent: is it routed to one shard?
    pub fn is_routed_to_one(&mut self, text: &[u8]) -> bool {
        let analysed = self.cache.analyse(text, Dialect::default());
        let database = Database {
            tables: &self.tables,
            schema: &NoSchema,
            search_path: None,
            functions: &self.functions,
            system_catalogs: SystemCatalogs::OmnishardedSticky,
            sticky: false,
            lookups: &|_, _| None,
        };
        let values = Values {
            text,
            literals: analysed.literals,
            backslashes: false,
            encoded_as_stored: true,
            parameters: &[],
        };
        let statement = analysed.analysis.statements.as_ref().unwrap().first();
        statement.is_some_and(|statement| {
            matches!(route(statement, &values, &database), Ok(Route::One(_)))
        })
    }
}
