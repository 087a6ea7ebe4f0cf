//! Tables and functions that nobody knows yet: the catalogue is asked before a statement that has them is routed.

use crate::error::Error;
use crate::merge::refused;
use crate::routing::route::{unknown_table, Database};
use crate::sql::statement::Statement;

use super::super::facts::Facts;
use super::super::Session;

impl Session {
    /// Is the catalogue to be asked, and this statement routed after that? It has tables that are not known: they were made on
    /// another core, or past pgdog.
    ///
    /// Errors: 0A000 for what only the open transaction knows, [`Facts::not_known`] where nobody has told.
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
        let tables = database.tables;
        let is_fine = |name: &str| defined.is_everywhere(name, tables);
        let Some(name) = unknown_table(statement, database, is_fine) else {
            return Ok(false);
        };
        if sharded.translations.learn() {
            return Ok(true);
        }
        if defined.any() {
            return Err(made(&format!("table \"{name}\"")));
        }
        if tables.depend_on_schema() && facts.are_unknown() {
            return Err(facts.not_known("which columns a table has"));
        }
        Ok(false) // there is none of that name
    }

    /// Is the catalogue to be asked for what the request under way has? It has not been yet.
    pub(super) fn learns_anew(&self) -> bool {
        let sharded = self.sharded.as_deref();
        sharded.is_some_and(|sharded| sharded.translations.learn())
    }

    /// The same for functions, of a statement that more than one shard may run. Errors: the same.
    pub(super) fn lacks_functions(
        &self,
        statement: &Statement,
        facts: &Facts,
    ) -> Result<bool, Error> {
        let Some(sharded) = self.sharded.as_deref() else {
            return Ok(false);
        };
        let defined = &sharded.defined;
        let mut functions = statement.functions.iter();
        let lacking = functions.find(|function| {
            let known = facts.functions.knows(function) || facts.lacks(&function.name);
            !known
                || defined.is_another(&function.name)
                    && function.schema.as_deref() != Some("pg_catalog")
        });
        let Some(function) = lacking else {
            return Ok(false);
        };
        if sharded.translations.learn() {
            return Ok(true);
        }
        if defined.any() {
            return Err(made(&format!("function \"{}\"", function.name)));
        }
        if facts.are_unknown() {
            return Err(facts.not_known("which functions there are"));
        }
        facts.note_lacking(&function.name);
        Ok(false)
    }
}

/// What only the open transaction knows.
pub(super) fn made(what: &str) -> Error {
    refused(&format!("{what}, which its transaction may have changed,"))
}
