//! Views that are like tables: of whose rows each server has those that it would have of a table.
//!
//! An `INSERT INTO view` of what the view selects would put these rows into such a table. Where each server can do its part of
//! that by itself, it has its part of the view.

use std::rc::Rc;

use crate::config::choice::SystemCatalogs;
use crate::sharding::schema::{Below, Schema as Known, TableKind};
use crate::sharding::ShardingTables;
use crate::sql::cache::Cache;
use crate::sql::keys::{Change, Keys, Operand, Rows};
use crate::sql::lexer::Dialect;
use crate::sql::quote;
use crate::sql::statement::Analysis;

use super::asking::varies;
use super::reach::{Reach, EVERYTHING};
use super::role::Catalogue;
use super::route::{
    is_system_catalog, route, tables, unknown_table, ColumnOf, Database, Opaque, Route, Schema,
    TableColumn,
};
use super::values::Values;

/// A view, as a server tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The schema that it is in.
    pub schema: String,
    /// Without that.
    pub name: String,
    /// Its rows are stored.
    pub materialised: bool,
    /// What it selects; tables of users have their schema. Empty: that is not known.
    pub definition: Vec<u8>,
}

/// Notes which of a database's views are like tables.
pub fn note_like_tables(
    known: &mut Known,
    views: &[View],
    tables: &ShardingTables,
    functions: &Catalogue,
) {
    let mut cache = Cache::new(0, 0);
    let mut left: Vec<_> = views
        .iter()
        .filter(|view| !view.definition.is_empty())
        .map(|view| (view, filled(view, &mut cache)))
        .collect();
    // A view may be made of others: each turn finds at least one more, or is the last.
    loop {
        let before = left.len();
        left.retain(|(view, (text, analysis))| {
            let below = like_table(view, (text, analysis), known, tables, functions);
            if let Some(below) = below {
                known.note_kind(&view.schema, &view.name, TableKind::LikeTable);
                known.note_below(&view.schema, &view.name, below);
            }
            below.is_none()
        });
        if left.len() == before {
            return;
        }
    }
}

/// The statement that would fill a table with the rows of a view.
fn filled(view: &View, cache: &mut Cache) -> (Vec<u8>, Rc<Analysis>) {
    let (schema, name) = (quote::name(&view.schema), quote::name(&view.name));
    let insert = format!("INSERT INTO {schema}.{name} ");
    let text = [insert.as_bytes(), &view.definition].concat();
    let analysis = cache.analyse(&text, Dialect::default()).analysis;
    (text, analysis)
}

/// What is below a view that is like a table. `None`: it is not.
fn like_table(
    view: &View,
    (text, analysis): (&[u8], &Analysis),
    known: &Known,
    tables: &ShardingTables,
    functions: &Catalogue,
) -> Option<Below> {
    let Ok([statement]) = analysis.statements.as_deref() else {
        return None;
    };
    let schema = Names { known, view };
    let database = Database {
        tables,
        schema: &schema,
        search_path: None,
        functions,
        system_catalogs: SystemCatalogs::OmnishardedSticky,
        sticky: false,
        lookups: &|_, _| None,
    };
    // Which values it selects by changes nothing: a server that has none of their rows has no rows of the view.
    let values = Values {
        text,
        literals: &[],
        backslashes: false,
        encoded_as_stored: true,
        parameters: &[],
    };
    // A catalogue says something else on every server.
    let mut references = statement.keys.iter().flat_map(|keys| &keys.references);
    let catalogue = references.any(|reference| {
        is_system_catalog((reference.schema.as_deref(), &reference.name), &schema)
    });
    let all_known = !catalogue && unknown_table(statement, &database, |_| false).is_none();
    let route = route(statement, &values, &database);
    let like = all_known && matches!(route, Ok(Route::Several(_) | Route::Same(_)));
    let keys = statement.keys.as_deref().filter(|_| like)?;
    Some(below(keys, view, known, &database))
}

fn below(keys: &Keys, view: &View, known: &Known, database: &Database<'_>) -> Below {
    let mut found = Below::default();
    for reference in &keys.references {
        let schema = reference.schema.as_deref();
        let own = schema == Some(view.schema.as_str()) && *reference.name == *view.name;
        let table = known.table(schema, &reference.name, || []);
        if let Some(table) = table.filter(|_| !own) {
            found.varies |= table.below.varies || table.columns.iter().any(varies);
            found.renames_key |= table.below.renames_key;
        }
    }
    let reach = Reach {
        keys,
        tables: &tables(keys, database),
        schema: database.schema,
        sharding: database.tables,
    };
    let columns = known.table(Some(&view.schema), &view.name, || []);
    let names = columns.map_or(&[][..], |table| &table.columns);
    let renames = |(name, output): (&TableColumn, &Operand)| match output {
        Operand::Column(column) => {
            let mut keys = reach.keys_of(column, &EVERYTHING);
            keys.any(|(_, key)| *key.column != *name.name)
        }
        _ => false,
    };
    for write in &keys.writes {
        if let Change::Insert {
            rows: Rows::Select { outputs, .. },
            ..
        } = &write.change
        {
            found.renames_key |= names.iter().zip(&outputs.first).any(renames);
        }
    }
    found
}

/// The database's tables, for the definition of a view, which is taken for a table itself.
struct Names<'a> {
    known: &'a Known,
    view: &'a View,
}

impl Schema for Names<'_> {
    fn columns(&self, schema: Option<&str>, table: &str) -> Option<&[TableColumn]> {
        let found = self.known.table(schema, table, || [])?;
        Some(&found.columns)
    }

    fn refers(&self, (of, column): ColumnOf<'_>, (to, theirs): ColumnOf<'_>) -> bool {
        let table = |named: (Option<&str>, &str)| self.known.table(named.0, named.1, || []);
        let (Some(of), Some(found)) = (table(of), table(to)) else {
            return false;
        };
        of.refers(column, (&found.schema, to.1), theirs)
    }

    fn opaque(&self, schema: Option<&str>, table: &str) -> Option<Opaque> {
        if (schema, table) == (Some(self.view.schema.as_str()), self.view.name.as_str()) {
            return None;
        }
        self.known.table(schema, table, || [])?.opaque()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharding::ShardedColumn;

    #[test]
    fn a_view_is_like_a_table_where_each_server_has_its_part() {
        let tables = ShardingTables {
            shards: 3,
            columns: vec![ShardedColumn::hashed(None, None, "tenant")],
            ..ShardingTables::default()
        };
        // A definition, and the columns of the view.
        let cases = [
            (
                "SELECT base.tenant, base.v FROM public.base",
                "tenant v",
                true,
            ),
            (
                "SELECT b.v + 1 AS w, b.tenant FROM public.base b WHERE b.v > 5",
                "w tenant",
                true,
            ),
            (
                "SELECT b.tenant, p.v FROM public.base b JOIN public.plain p ON p.k = b.v",
                "tenant v",
                true,
            ),
            (
                "SELECT a.tenant FROM public.base a JOIN public.base b ON a.tenant = b.tenant",
                "tenant",
                true,
            ),
            ("SELECT p.v FROM public.plain p WHERE p.k > 3", "v", true),
            (
                "SELECT a.tenant FROM public.base a JOIN public.base b ON a.v = b.v",
                "tenant",
                false,
            ),
            ("SELECT p.k AS tenant FROM public.plain p", "tenant", false),
            (
                "SELECT 5 AS tenant, p.v FROM public.plain p",
                "tenant v",
                false,
            ),
            ("SELECT b.v AS tenant FROM public.base b", "tenant", false),
            (
                "SELECT b.tenant, b.tenant AS also, b.v FROM public.base b",
                "tenant also v",
                true,
            ),
            (
                "SELECT b.tenant + 1 AS tenant FROM public.base b",
                "tenant",
                false,
            ),
            (
                "SELECT max(b.tenant) AS tenant FROM public.base b",
                "tenant",
                false,
            ),
            (
                "SELECT b.tenant, row_number() OVER (ORDER BY b.v) AS n FROM public.base b",
                "tenant n",
                false,
            ),
            (
                "SELECT b.tenant FROM public.base b LIMIT 5",
                "tenant",
                false,
            ),
            ("SELECT b.v FROM public.base b", "v", false),
            (
                "SELECT count(*) AS n FROM public.plain p LIMIT 1",
                "n",
                false,
            ),
            ("SELECT c.relname FROM pg_class c", "relname", false),
            ("SELECT u.tenant FROM public.unknown u", "tenant", false),
            ("SELECT", "tenant", false),
        ];
        let mut known = Known::default();
        let mut add = |name: &str, kind: &str, columns: &str| {
            for column in columns.split(' ') {
                let row = ["public", name, kind, column, "f", "f", "20", "f", "f"];
                known.add(&row.map(|value| Some(value.as_bytes())));
            }
        };
        add("base", "r", "tenant v");
        add("plain", "r", "k v");
        let view = |name: String, definition: &str| View {
            schema: "public".to_owned(),
            name,
            materialised: false,
            definition: definition.into(),
        };
        let mut views = Vec::new();
        for (number, (definition, columns, _)) in cases.iter().enumerate() {
            add(&format!("view{number}"), "v", columns);
            views.push(view(format!("view{number}"), definition));
        }
        // Views of views, in front of them.
        add("second", "v", "tenant");
        views.insert(
            0,
            view("second".to_owned(), "SELECT view0.tenant FROM public.view0"),
        );
        add("third", "v", "tenant");
        views.insert(
            0,
            view(
                "third".to_owned(),
                "SELECT view10.tenant FROM public.view10",
            ),
        );
        note_like_tables(&mut known, &views, &tables, &Catalogue::default());
        let is_like_table = |name: &str| {
            let found = known.table(None, name, || []).unwrap();
            found.kind == TableKind::LikeTable
        };
        let renames_key = |number: usize| {
            let view = known.table(None, &format!("view{number}"), || []);
            view.unwrap().below.renames_key
        };
        for (number, (definition, columns, expected)) in cases.iter().enumerate() {
            assert_eq!(
                renames_key(number),
                columns.contains("also"),
                "{definition}"
            );
            assert_eq!(
                is_like_table(&format!("view{number}")),
                *expected,
                "{definition}"
            );
        }
        assert!(is_like_table("second") && !is_like_table("third"));
        assert!(!is_like_table("base"));
    }
}
