//! `pgdog.unique_id()`: a number in the place of each call, a new one whenever the statement is executed.

use std::rc::Rc;

use crate::error::Error;
use crate::prepared::Statement;
use crate::sql::unique_ids::{mentions, replace};

use super::super::Session;

impl Session {
    /// The text with numbers for its calls. `None`: there are none.
    pub(super) fn with_ids(&self, text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.may_call_ids(text) {
            true => replace(text, self.session_dialect(), || self.state.unique_id()),
            false => Ok(None),
        }
    }

    /// May the text have such calls? Then no server gets it as it is.
    pub(super) fn may_call_ids(&self, text: &[u8]) -> bool {
        self.cluster.shards() > 1 && mentions(text)
    }

    /// The statement for one execution: with numbers in the place of its calls.
    pub(super) fn with_fresh_ids(
        &mut self,
        statement: Rc<Statement>,
    ) -> Result<Rc<Statement>, Error> {
        if statement.is_sql() {
            return Ok(statement);
        }
        let text = statement.text();
        let Some(mut content) = self.with_ids(text)? else {
            return Ok(statement);
        };
        // The types of parameters follow the text.
        let types = statement.definition().get(text.len()..);
        content.extend_from_slice(types.unwrap_or_default());
        self.intern(&content)
    }
}
