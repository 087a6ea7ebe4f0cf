//! What would be done with a statement, told without a server: for `pgdog route` and `dry_run`.

use crate::error::Error;
use crate::merge::refused;
use crate::sharding::TableKind;
use crate::sql::across::{Asked, Of};
use crate::sql::copied;
use crate::sql::explain;
use crate::sql::hints::Hints;
use crate::sql::lexer::Dialect;
use crate::sql::statement::{Copy, Kind, Statement, Table};

use super::role::statement_is_readable;
use super::route::{route, route_key, schema_of, Database, Route};
use super::several;
use super::values::Values;
use super::verdict::{verdict, Place, Verdict};

/// Where a statement would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// Which shards, and what becomes of their rows; or why it would be refused.
    pub place: String,
    /// How many take part.
    pub reach: Reach,
}

/// How many shards take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One.
    Direct,
    /// Several.
    Multi,
    /// It would be refused.
    Refused,
}

/// Which shards a statement would go to. `part` is the statement alone, `values` are of the text that it stands in, and
/// so are `hints`.
pub fn preview(
    statement: &Statement,
    part: &[u8],
    (dialect, hints): (Dialect, &Hints),
    values: &Values<'_>,
    database: &Database<'_>,
) -> Preview {
    let found = decide(statement, part, (dialect, hints), values, database);
    found.unwrap_or_else(|error| Preview {
        place: format!("refused: {}", error.message),
        reach: Reach::Refused,
    })
}

/// Which server of a shard may run a statement, and why.
pub fn role(statement: &Statement, hints: &Hints, database: &Database<'_>) -> String {
    if let Some(role) = hints.role {
        return format!("{role:?}, asked for").to_lowercase();
    }
    match statement_is_readable(statement, database.functions) {
        Ok(()) => "any: reads only".to_owned(),
        Err(why) => format!("primary: {why}"),
    }
}

fn decide(
    statement: &Statement,
    part: &[u8],
    (dialect, hints): (Dialect, &Hints),
    values: &Values<'_>,
    database: &Database<'_>,
) -> Result<Preview, Error> {
    let direct = |place: String| Preview {
        place,
        reach: Reach::Direct,
    };
    if let Some(shard) = hints.shard.filter(|_| !statement.kind.is_of_transactions()) {
        return Ok(direct(format!("shard {shard}, asked for")));
    }
    if let Some(key) = hints.sharding_key(values.text) {
        let route = route_key(key, values.encoded_as_stored, database)?;
        return Ok(direct(format!("{route}, by the key that is asked for")));
    }
    match &statement.kind {
        Kind::Explain { statement, .. } => {
            let part = explain::divide(part, dialect).map_or(part, |explain| explain.statement);
            decide(statement, part, (dialect, hints), values, database)
        }
        Kind::Prepare { .. } | Kind::Execute { .. } => {
            Ok(direct("where the statement itself goes".to_owned()))
        }
        Kind::Copy(copy) => match (&copy.query, statement.tables.first()) {
            (Some(query), _) => {
                let part = copied::divide(part, dialect).map_or(part, |copied| copied.query);
                let preview = query_preview(query, part, dialect, values, database)?;
                match preview.reach == Reach::Multi && query.writes() {
                    true => Err(refused("COPY of a change")),
                    false => Ok(preview),
                }
            }
            (None, Some(table)) => Ok(copy_preview(copy, table, database)),
            (None, None) => Ok(direct("any shard".to_owned())),
        },
        kind if kind.is_query() => query_preview(statement, part, dialect, values, database),
        _ => {
            let mut none = |_: &Statement| Err(refused("this statement"));
            let run = match verdict(statement, 0, &mut none)? {
                Verdict::Run(run) => run,
                Verdict::Session | Verdict::Transaction(_) => {
                    return Ok(direct("every server that the session uses".to_owned()))
                }
                _ => return Ok(direct("the servers of the transaction".to_owned())),
            };
            Ok(match run.place {
                Place::All => Preview {
                    place: "every shard".to_owned(),
                    reach: Reach::Multi,
                },
                _ => direct("any shard".to_owned()),
            })
        }
    }
}

fn query_preview(
    statement: &Statement,
    part: &[u8],
    dialect: Dialect,
    values: &Values<'_>,
    database: &Database<'_>,
) -> Result<Preview, Error> {
    let route = route(statement, values, database)?;
    let reach = match &route {
        Route::One(_) | Route::Any { .. } | Route::New(_) => Reach::Direct,
        Route::Several(_)
        | Route::Same(_)
        | Route::Rows(_)
        | Route::Echoed(_)
        | Route::Unmade { .. }
        | Route::Move { .. }
        | Route::Lookup(..) => Reach::Multi,
    };
    let mut place = route.to_string();
    if matches!(route, Route::Several(_)) && statement.kind == Kind::Select {
        let across = several::plan(statement, part, dialect, database)?;
        let asked = across.gathered.iter().chain([&across.asked]);
        let asked = asked.map(|Asked { of, text, .. }| match of {
            Of::EveryShard => format!("each of which runs {text}"),
            Of::AnyShard => format!("one of which runs {text}"),
        });
        place = format!("{place}, {}", asked.collect::<Vec<_>>().join(", then "));
    }
    Ok(Preview { place, reach })
}

fn copy_preview(copy: &Copy, table: &Table, database: &Database<'_>) -> Preview {
    let has = |column: &str| copy.columns.iter().any(|name| **name == *column);
    let name = &*table.name;
    let named = (table.schema.as_deref(), name);
    let schema = schema_of(named, database.tables, database.schema);
    let (place, reach) = match database.tables.table(schema, name, has) {
        TableKind::Sharded(column) if copy.from => (
            format!("each row to the shard of its {}", column.column),
            Reach::Multi,
        ),
        TableKind::InSchema(shards) => (format!("shards {shards}"), Reach::Multi),
        TableKind::Omnisharded { .. } if !copy.from => ("any shard".to_owned(), Reach::Direct),
        TableKind::Sharded(_) | TableKind::Omnisharded { .. } => {
            ("every shard".to_owned(), Reach::Multi)
        }
    };
    Preview { place, reach }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::choice::SystemCatalogs;
    use crate::routing::role::Catalogue;
    use crate::routing::route::NoSchema;
    use crate::routing::values::Parameter;
    use crate::sharding::{ShardedColumn, ShardingTables};
    use crate::sql::cache::Cache;

    #[test]
    fn statements_go_where_they_say() {
        let tables = ShardingTables {
            shards: 3,
            columns: vec![ShardedColumn::hashed(None, Some("users"), "id")],
            ..ShardingTables::default()
        };
        let functions = Catalogue::default();
        let database = Database {
            tables: &tables,
            schema: &NoSchema,
            search_path: None,
            functions: &functions,
            system_catalogs: SystemCatalogs::OmnishardedSticky,
            sticky: false,
            lookups: &|_, _| None,
        };
        for (text, expected_role, expected, reach) in [
            (
                "SELECT * FROM users WHERE id = 7",
                "any: reads only",
                "shard ",
                Reach::Direct,
            ),
            (
                "SELECT name FROM users ORDER BY 1 LIMIT 2",
                "any: reads only",
                "shards 0, 1, 2, each of which runs SELECT",
                Reach::Multi,
            ),
            (
                "SELECT * FROM users WHERE id = $1",
                "any: reads only",
                "shards 0, 1, 2",
                Reach::Multi,
            ),
            (
                "UPDATE users SET name = 'x' WHERE id = 1",
                "primary: changes data",
                "shard ",
                Reach::Direct,
            ),
            (
                "INSERT INTO countries VALUES ('x')",
                "primary: changes data",
                "the same on shards 0, 1, 2",
                Reach::Multi,
            ),
            (
                "SELECT * FROM users u, LATERAL (SELECT count(*) FROM users v WHERE v.id < u.id) c",
                "any: reads only",
                "refused: ",
                Reach::Refused,
            ),
            (
                "/* pgdog_shard: 2 */ SELECT * FROM users",
                "any: reads only",
                "shard 2, asked for",
                Reach::Direct,
            ),
            (
                "/* pgdog_role: replica */ EXPLAIN SELECT * FROM users WHERE id IN (1)",
                "replica, asked for",
                "shard ",
                Reach::Direct,
            ),
            (
                "COPY users FROM STDIN",
                "primary: not a query",
                "each row to the shard of its id",
                Reach::Multi,
            ),
            (
                "COPY (SELECT name FROM users ORDER BY name) TO STDOUT CSV",
                "primary: not a query",
                "shards 0, 1, 2, each of which runs SELECT name FROM users ORDER BY name",
                Reach::Multi,
            ),
            (
                "COPY (SELECT name FROM users WHERE id = 7) TO STDOUT",
                "primary: not a query",
                "shard ",
                Reach::Direct,
            ),
            (
                "COPY (UPDATE users SET name = 'x' RETURNING id) TO STDOUT",
                "primary: not a query",
                "refused: COPY of a change is not supported across shards",
                Reach::Refused,
            ),
            (
                "CREATE TABLE t (a int)",
                "primary: not a query",
                "every shard",
                Reach::Multi,
            ),
            (
                "BEGIN",
                "primary: not a query",
                "the servers of the transaction",
                Reach::Direct,
            ),
        ] {
            let mut cache = Cache::new(10, 1 << 20);
            let analysed = cache.analyse(text.as_bytes(), Dialect::default());
            let statements = analysed.analysis.statements.as_deref().unwrap();
            let values = Values {
                text: text.as_bytes(),
                literals: analysed.literals,
                backslashes: false,
                encoded_as_stored: true,
                parameters: &[Parameter::Unknown],
            };
            let context = (Dialect::default(), &analysed.hints);
            let found = preview(&statements[0], text.as_bytes(), context, &values, &database);
            let role = role(&statements[0], &analysed.hints, &database);
            assert_eq!((&*role, found.reach), (expected_role, reach), "{text}");
            assert!(found.place.starts_with(expected), "{text}: {}", found.place);
        }
    }
}
