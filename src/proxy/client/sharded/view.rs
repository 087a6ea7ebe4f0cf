//! What routing has to know of a database, as a session sees it: names mean what its search path and its open transaction make of them.

use std::cell::OnceCell;

use crate::routing::defined::{Changed, Defined};
use crate::routing::route::{ColumnOf, Database, Opaque, Schema, TableColumn};
use crate::sharding::schema::{Below, Table, TableKind};
use crate::sharding::{ShardingTables, Shards};
use crate::sql::statement::Statement;

use super::super::facts::Facts;
use super::super::Session;

/// The database's tables, for a session with this search path.
pub(super) struct View<'a> {
    pub(super) facts: &'a Facts,
    pub(super) session: &'a Session,
    /// Its search path, once it is needed.
    path: OnceCell<Vec<String>>,
}

impl<'a> View<'a> {
    pub(super) fn new(session: &'a Session, facts: &'a Facts) -> Self {
        Self {
            facts,
            session,
            path: OnceCell::new(),
        }
    }

    pub(super) fn table(&self, schema: Option<&str>, name: &str) -> Option<&Table> {
        let defined = self
            .session
            .sharded
            .as_deref()
            .map(|sharded| &sharded.defined);
        if schema.is_none()
            && defined.is_some_and(Defined::is_shadowed)
            && self.facts.schema.is_ambiguous(name)
        {
            return None;
        }
        match defined.and_then(|defined| defined.named(name)) {
            None | Some(Changed::Altered) => {}
            Some(Changed::Made(created)) if created.may_exist => {}
            Some(Changed::Made(_) | Changed::Unknown) => return None,
        }
        self.facts
            .schema
            .table(schema, name, || self.path().iter().map(String::as_str))
    }

    pub(super) fn path(&self) -> &[String] {
        self.path.get_or_init(|| self.session.search_path())
    }

    /// The shards of what `search_path` finds first, where schemas have shards.
    pub(super) fn placed(&self, tables: &ShardingTables) -> Option<Shards> {
        if tables.schemas.is_empty() {
            return None;
        }
        let path = self.path().iter().map(|name| name.as_str().into());
        tables.schemas.by_search_path(path)
    }

    /// What routing has to know, where neither schemas have shards nor keys are translated.
    pub(super) fn database<'s>(&'s self, tables: &'s ShardingTables) -> Database<'s> {
        let config = self.session.state.config();
        Database {
            tables,
            schema: self,
            search_path: None,
            functions: &self.facts.functions,
            system_catalogs: config.routing.system_catalogs,
            sticky: config.routing.omnisharded_sticky,
            lookups: &|_, _| None,
        }
    }

    /// A table in the statement whose rows are elsewhere.
    pub(super) fn foreign<'s>(&self, statement: &'s Statement) -> Option<&'s str> {
        let mut tables = statement.tables.iter();
        let foreign = tables.find(|table| {
            let found = self.table(table.schema.as_deref(), &table.name);
            found.is_some_and(|found| found.kind == TableKind::Foreign)
        });
        foreign.map(|table| &*table.name)
    }
}

impl Schema for View<'_> {
    fn columns(&self, schema: Option<&str>, table: &str) -> Option<&[TableColumn]> {
        self.table(schema, table).map(|table| &*table.columns)
    }

    fn refers(&self, (of, column): ColumnOf<'_>, (to, theirs): ColumnOf<'_>) -> bool {
        let (Some(of), Some(found)) = (self.table(of.0, of.1), self.table(to.0, to.1)) else {
            return false;
        };
        of.refers(column, (&found.schema, to.1), theirs)
    }

    fn schema_of(&self, table: &str) -> Option<&str> {
        self.table(None, table).map(|table| &*table.schema)
    }

    fn below(&self, schema: Option<&str>, table: &str) -> Below {
        let found = self.table(schema, table);
        found.map_or_else(Below::default, |table| table.below)
    }

    fn opaque(&self, schema: Option<&str>, table: &str) -> Option<Opaque> {
        self.table(schema, table)?.opaque()
    }
}
