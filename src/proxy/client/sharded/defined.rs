//! What the request or transaction under way has changed of the catalogue: nobody can be asked about it before it is
//! committed.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::merge::refused;
use crate::routing::route::{unknown_table, Database};
use crate::sql::keys::Change;
use crate::sql::statement::{Created, Kind, Statement, TableUse};

use super::super::facts::Facts;
use super::super::Session;
use super::not_known_yet;

/// Names that are remembered; with more of them, nothing is known of any table or function.
const NAMES_MAX: usize = 1024;

/// What was changed. It is forgotten when the transaction ends, however it does.
#[derive(Default)]
pub(super) struct Defined {
    any: bool,
    /// Tables and functions.
    names: HashMap<Box<str>, Changed>,
}

/// What has become of a table or function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// It is new, unless it was there.
    Made(Arc<Created>),
    /// It may have other columns.
    Altered,
    /// Its name is that of something else.
    Unknown,
}

impl Defined {
    /// Takes note of a statement that is going to be run.
    pub(super) fn heed(&mut self, statement: &Statement) {
        if !statement.kind.defines() {
            return;
        }
        self.any = true;
        for table in &statement.tables {
            let changed = match (table.usage, &statement.created) {
                (TableUse::Creation, Some(created)) => Changed::Made(Arc::clone(created)),
                (TableUse::Redefinition | TableUse::Creation, _) => Changed::Unknown,
                (TableUse::Alteration, _) => match self.named(&table.name) {
                    // It may refer to others now.
                    Some(Changed::Made(created)) => Changed::Made(Arc::new(Created {
                        open: true,
                        ..Created::clone(created)
                    })),
                    Some(Changed::Unknown) => continue,
                    Some(Changed::Altered) | None => Changed::Altered,
                },
                _ => continue,
            };
            if self.names.len() < NAMES_MAX {
                self.names.insert(table.name.clone(), changed);
            }
        }
    }

    /// Was a definition changed?
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// What has become of what has this name, if it was not left as it is; in any schema.
    pub(super) fn named(&self, name: &str) -> Option<&Changed> {
        match self.names.get(name) {
            None if self.names.len() >= NAMES_MAX => Some(&Changed::Unknown),
            changed => changed,
        }
    }
}

impl Session {
    /// Is the catalogue to be asked, and this statement routed after that? It has tables that are not known: they were made on
    /// another core, or past pgdog.
    ///
    /// Errors: 0A000 for what only the open transaction knows, 57P03 where nobody could be asked.
    pub(super) fn lacks_tables(
        &self,
        statement: &Statement,
        database: &Database<'_>,
        facts: &Facts,
    ) -> Result<bool, Error> {
        let Some(sharded) = self.sharded.as_deref() else {
            return Ok(false);
        };
        let defined = &sharded.defined;
        if let Some(name) = defined.positions(statement) {
            return Err(made(&format!("the order of columns of \"{name}\"")));
        }
        let by_columns = database.tables.depend_on_schema();
        let keys = &database.tables.columns;
        let is_key = |column: &str| {
            let mut keys = keys.iter();
            keys.any(|key| key.table.is_none() && *key.column == *column)
        };
        // The same rows on every shard.
        let is_plain = |created: &Created| {
            let mut columns = created.columns.iter();
            !by_columns || !created.open && !columns.any(|column| is_key(column))
        };
        let is_fine = |name: &str| match defined.named(name) {
            Some(Changed::Made(created)) => is_plain(created),
            _ => false,
        };
        let Some(name) = unknown_table(statement, database, is_fine) else {
            return Ok(false);
        };
        if sharded.translations.learn() {
            return Ok(true);
        }
        if defined.any {
            return Err(made(&format!("table \"{name}\"")));
        }
        if by_columns && facts.are_unknown() {
            return Err(not_known_yet("which columns a table has"));
        }
        Ok(false) // there is none of that name
    }

    /// The same for functions, of a statement that more than one shard may run.
    pub(super) fn lacks_functions(
        &self,
        statement: &Statement,
        facts: &Facts,
    ) -> Result<bool, Error> {
        let Some(sharded) = self.sharded.as_deref() else {
            return Ok(false);
        };
        let defined = &sharded.defined;
        let is_new = |name: &str| defined.named(name) == Some(&Changed::Unknown);
        let mut functions = statement.functions.iter();
        let lacking = functions.find(|function| {
            let known = facts.functions.knows(function) || facts.lacks(&function.name);
            !known || is_new(&function.name) && function.schema.as_deref() != Some("pg_catalog")
        });
        let Some(function) = lacking else {
            return Ok(false);
        };
        if sharded.translations.learn() {
            return Ok(true);
        }
        if defined.any {
            return Err(made(&format!("function \"{}\"", function.name)));
        }
        facts.note_lacking(&function.name);
        Ok(false)
    }
}

impl Defined {
    /// A table that may have other columns, and into which rows go without a list of columns.
    fn positions<'s>(&self, statement: &'s Statement) -> Option<&'s str> {
        let unlisted = match (&statement.kind, &statement.keys) {
            (Kind::Copy(copy), _) => copy.from && copy.columns.is_empty(),
            (_, Some(keys)) => {
                let mut changes = keys.writes.iter().map(|write| &write.change);
                changes.any(
                    |change| matches!(change, Change::Insert { columns, .. } if columns.is_empty()),
                )
            }
            _ => false,
        };
        let mut tables = statement.tables.iter();
        let altered = tables.find(|table| {
            table.usage == TableUse::Insert && self.named(&table.name) == Some(&Changed::Altered)
        });
        altered.filter(|_| unlisted).map(|table| &*table.name)
    }
}

fn made(what: &str) -> Error {
    refused(&format!("{what}, which its transaction may have changed,"))
}
