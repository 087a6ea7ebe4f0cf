//! What is written otherwise before it is routed. Numbers of ours: in the place of each call of `pgdog.unique_id()`, and as
//! primary key of rows that lack it (`rewrite.primary_key`); new ones whenever a statement is executed. And INSERT of a list
//! in FROM, so that its rows may be divided.

use std::rc::Rc;

use crate::config::choice::PrimaryKeyRewrite;
use crate::error::Error;
use crate::prepared::Statement;
use crate::protocol::frontend::{Bind, Parse};
use crate::routing::primary_key::missing_key;
use crate::sql::explain;
use crate::sql::gaps::{with_key, Gap};
use crate::sql::listed::{listed, Parameters};
use crate::sql::statement::Kind;
use crate::sql::statements::Statements;
use crate::sql::unique_ids::{mentions, replace};

use super::super::Session;
use super::batch::malformed;
use super::view::View;

/// A statement of a text that lacks a key: where it is, and which.
struct Lacking {
    start: usize,
    end: usize,
    column: String,
    gap: Gap,
}

impl Session {
    /// The text as it is routed. `None`: as it came.
    pub(super) fn rewritten(
        &self,
        text: &[u8],
        parameters: Parameters<'_>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let listed = match self.cluster.shards() > 1 {
            true => listed(text, self.session_dialect(), parameters),
            false => None,
        };
        let numbered = self.with_ids(listed.as_deref().unwrap_or(text))?;
        Ok(numbered.or(listed))
    }

    /// The text with numbers for its calls, and for the keys that it lacks. `None`: there are none.
    fn with_ids(&self, text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let called = match self.cluster.shards() > 1 && mentions(text) {
            true => replace(text, self.session_dialect(), || self.state.unique_id())?,
            false => None,
        };
        let keyed = self.with_keys(called.as_deref().unwrap_or(text))?;
        Ok(keyed.or(called))
    }

    /// May the text be written otherwise? Then no server gets it as it is.
    pub(super) fn may_be_rewritten(&self, text: &[u8]) -> bool {
        self.cluster.shards() > 1
            && (mentions(text)
                || listed(text, self.session_dialect(), Parameters::default()).is_some()
                || !self.lacking_keys(text).is_empty())
    }

    fn with_keys(&self, text: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let lacking = self.lacking_keys(text);
        let mut out = Vec::new();
        let mut copied = 0;
        for one in &lacking {
            let part = text.get(one.start..one.end).unwrap_or_default();
            let dialect = self.session_dialect();
            let next = || self.state.unique_id();
            let Some(keyed) = with_key(part, dialect, &one.column, one.gap, next)? else {
                continue; // refused when it is routed
            };
            out.extend_from_slice(text.get(copied..one.start).unwrap_or_default());
            out.extend_from_slice(&keyed);
            copied = one.end;
        }
        if copied == 0 {
            return Ok(None);
        }
        out.extend_from_slice(text.get(copied..).unwrap_or_default());
        Ok(Some(out))
    }

    /// The statements of a text to which keys are to be added.
    fn lacking_keys(&self, text: &[u8]) -> Vec<Lacking> {
        let mode = self.state.config().routing.primary_key;
        let adds = matches!(
            mode,
            PrimaryKeyRewrite::Rewrite | PrimaryKeyRewrite::RewriteOmni
        );
        if !adds || self.cluster.shards() == 1 || !may_insert(text) {
            return Vec::new();
        }
        let dialect = self.session_dialect();
        let analysis = {
            let mut cache = self.cluster.analyses.borrow_mut();
            cache.analyse(text, dialect).analysis
        };
        let Ok(statements) = &analysis.statements else {
            return Vec::new();
        };
        let facts = self.cluster.known();
        let view = View::new(self, &facts);
        let parts = Statements::new(text, dialect);
        let lacking = parts.zip(statements).filter_map(|(part, statement)| {
            // Where it is not known, routing refuses the statement.
            let tables = facts.sharding(&self.cluster)?;
            let end = part.start + part.text.len();
            let (statement, length) = match &statement.kind {
                Kind::Explain { statement, .. } => {
                    let explained = explain::divide(part.text, dialect)?;
                    (&**statement, explained.statement.len())
                }
                _ => (statement, part.text.len()),
            };
            let missing = missing_key(statement, mode, tables, &view)?;
            Some(Lacking {
                start: end - length,
                end,
                column: missing.column.to_owned(),
                gap: missing.gap?,
            })
        });
        lacking.collect()
    }

    /// The statement for one execution, or to be described.
    pub(super) fn as_executed(
        &mut self,
        statement: Rc<Statement>,
        bind: Option<&Bind<'_>>,
    ) -> Result<Rc<Statement>, Error> {
        let text = statement.text();
        if statement.is_sql() || !self.may_be_rewritten(text) {
            return Ok(statement);
        }
        // The types of parameters follow the text.
        let types = statement.definition().get(text.len()..).unwrap_or_default();
        let declared = Parse::of_content(statement.definition()).map_err(malformed)?;
        let declared: Vec<u32> = declared.types.iter().collect();
        let formats = bind
            .and_then(|bind| bind.arguments().ok())
            .map(|arguments| arguments.formats);
        let parameters = Parameters {
            types: &declared,
            formats,
        };
        let Some(mut content) = self.rewritten(text, parameters)? else {
            return Ok(statement);
        };
        content.extend_from_slice(types);
        self.intern(&content)
    }
}

/// May the text be, or have, an INSERT? Never no when it has.
fn may_insert(text: &[u8]) -> bool {
    let word = b"insert";
    text.windows(word.len())
        .any(|window| window.eq_ignore_ascii_case(word))
}
