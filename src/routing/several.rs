//! A SELECT for several shards, planned with what routing knows of its tables.

use crate::error::Error;
use crate::merge::refused;
use crate::sql::across::{
    is_type, plan_text, plan_text_apart, Across, Catalogue, Overload, Placed,
};
use crate::sql::keys::Keys;
use crate::sql::lexer::Dialect;
use crate::sql::statement::Statement;
use crate::types::oid;

use super::reach::Table;
use super::route::{tables, Database, TableColumn};

/// What every shard is asked, and how their rows are merged, for a SELECT whose route is `Several`.
///
/// `text` is the statement alone, with its literals. Errors: 0A000 with the name of what cannot be merged.
pub fn plan(
    statement: &Statement,
    text: &[u8],
    dialect: Dialect,
    database: &Database<'_>,
) -> Result<Across, Error> {
    let named = Named::of(statement, database)?;
    plan_text(text, dialect, &named)?.ok_or_else(|| refused("this statement"))
}

/// The same where values cannot be compared here that [`plan`] compares. `None`: it cannot be done.
///
/// Errors: as of [`plan`].
pub fn plan_apart(
    statement: &Statement,
    text: &[u8],
    dialect: Dialect,
    database: &Database<'_>,
) -> Result<Option<Across>, Error> {
    plan_text_apart(text, dialect, &Named::of(statement, database)?)
}

/// The tables that a statement names.
struct Named<'a, 's> {
    keys: &'a Keys,
    tables: Vec<Table<'s>>,
    database: &'a Database<'s>,
}

impl<'a, 's> Named<'a, 's> {
    fn of(statement: &'a Statement, database: &'a Database<'s>) -> Result<Self, Error> {
        let keys = statement
            .keys
            .as_ref()
            .ok_or_else(|| refused("this statement"))?;
        Ok(Self {
            keys,
            tables: tables(keys, database),
            database,
        })
    }
}

impl Catalogue for Named<'_, '_> {
    fn table(&self, schema: Option<&str>, table: &str) -> Placed {
        let named = self.keys.references.iter().zip(&self.tables);
        let found = named.filter(|(reference, _)| {
            reference.schema.as_deref() == schema && *reference.name == *table
        });
        let mut placed = None;
        for (_, found) in found {
            match found {
                Table::Sharded(column) => {
                    let columns = &self.database.tables.columns;
                    let family = columns.iter().position(|other| column.is_like(other));
                    return match family {
                        Some(family) => Placed::Sharded {
                            key: column.column.clone(),
                            family,
                        },
                        None => Placed::Elsewhere,
                    };
                }
                // Where one place names the key of a table and another does not, it is sharded.
                Table::Everywhere { .. } => placed = placed.or(Some(Placed::Everywhere)),
                Table::On(_) | Table::Opaque(_) => placed = Some(Placed::Elsewhere),
            }
        }
        // Analysis has not seen it: nothing is known.
        placed.unwrap_or(Placed::Elsewhere)
    }

    fn has_column(&self, column: &str) -> Option<bool> {
        let mut known = Some(false);
        for table in &self.keys.references {
            let columns = self
                .database
                .schema
                .columns(table.schema.as_deref(), &table.name);
            match columns {
                Some(columns) if columns.iter().any(|one| *one.name == *column) => {
                    return Some(true);
                }
                Some(_) => {}
                None => known = None,
            }
        }
        known
    }

    fn is_immutable(&self, schema: Option<&str>, function: &str) -> bool {
        let functions = self.database.functions;
        functions.function_is_immutable(schema, function)
    }

    fn overload(&self, function: &str) -> Option<Overload> {
        self.database.functions.overload(function)
    }

    fn is_of_postgres(&self, column: &str) -> Option<bool> {
        self.agree(column, &|found| {
            is_built_in(found) || is_type(&found.of_type)
        })
    }

    fn is_built_in(&self, column: &str) -> bool {
        self.agree(column, &is_built_in) == Some(true)
    }
}

impl Named<'_, '_> {
    /// Whether this is so of all columns of this name in the statement's tables, or of none. `None`: that is not known.
    fn agree(&self, column: &str, is: &dyn Fn(&TableColumn) -> bool) -> Option<bool> {
        let mut all = None;
        for table in &self.keys.references {
            let schema = table.schema.as_deref();
            let columns = self.database.schema.columns(schema, &table.name)?;
            for found in columns.iter().filter(|one| *one.name == *column) {
                let this = is(found);
                if *all.get_or_insert(this) != this {
                    return None;
                }
            }
        }
        all
    }
}

fn is_built_in(column: &TableColumn) -> bool {
    (1..oid::FIRST_OF_USERS).contains(&column.type_oid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::choice::SystemCatalogs;
    use crate::routing::role;
    use crate::routing::route::NoSchema;
    use crate::sharding::hash::Hasher;
    use crate::sharding::{Function, KeyType, ShardedColumn, ShardingTables};
    use crate::sql::cache::Cache;

    fn column(table: Option<&str>, column: &str, key_type: KeyType) -> ShardedColumn {
        ShardedColumn {
            schema: None,
            table: table.map(str::to_owned),
            column: column.to_owned(),
            primary: false,
            key_type,
            function: Function::Hash(Hasher::Postgres),
            lookup: None,
            shards: 3,
        }
    }

    fn planned(text: &str) -> Result<String, String> {
        let tables = ShardingTables {
            shards: 3,
            columns: vec![
                column(Some("users"), "id", KeyType::Bigint),
                column(Some("orders"), "user_id", KeyType::Bigint),
                column(Some("tags"), "name", KeyType::Varchar),
                column(None, "tenant", KeyType::Bigint),
            ],
            omnisharded: BTreeMap::from([("countries".to_owned(), false)]),
            ..ShardingTables::default()
        };
        let functions = role::Catalogue::default();
        let database = Database {
            tables: &tables,
            schema: &NoSchema,
            search_path: None,
            functions: &functions,
            system_catalogs: SystemCatalogs::OmnishardedSticky,
            sticky: false,
            lookups: &|_, _| None,
        };
        let mut cache = Cache::new(10, 1 << 20);
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.as_deref().unwrap();
        plan(
            &statements[0],
            text.as_bytes(),
            Dialect::default(),
            &database,
        )
        .map(|across| across.asked.text)
        .map_err(|error| error.message.into_owned())
    }

    #[test]
    fn tables_are_what_routing_takes_them_for() {
        for text in [
            "SELECT u.id FROM users u JOIN orders o ON o.user_id = u.id",
            "SELECT u.id FROM users u JOIN items i ON i.tenant = u.id",
            "SELECT u.id FROM users u JOIN countries c ON c.code = u.country",
        ] {
            assert_eq!(planned(text).as_deref(), Ok(text));
        }
        let other_family = "SELECT 1 FROM users u JOIN tags t ON t.name = u.id";
        assert!(planned(other_family).unwrap().contains("gathered"));
        let whole = "SELECT CASE WHEN count(*) > 1 THEN 1 END FROM users";
        assert!(planned(whole).unwrap().contains("gathered"));
        let unknown = "SELECT secret(id) FROM users";
        assert!(planned(unknown).unwrap_err().contains("secret"));
    }
}
