//! `dry_run`: what statements of a database that is not sharded would do if it were. SHOW QUERY_CACHE tells.

use std::rc::Rc;

use crate::protocol::frontend::Bind;
use crate::routing::preview::{preview, Reach};
use crate::routing::values::{Parameter, Values};
use crate::sql::listed::{listed, Parameters};

use super::super::Session;
use super::view::View;

impl Session {
    /// Counts whether a text would go to one shard or to several. `types` are those that its Parse has declared.
    #[cold]
    pub(in super::super) fn rehearse(&self, text: &[u8], bind: Option<(&Bind<'_>, &[u32])>) {
        let Some(tables) = &self.cluster.rehearsal else {
            return;
        };
        let facts = self.cluster.known();
        let view = View::new(self, &facts);
        let database = view.database(tables);
        let dialect = self.session_dialect();
        let arguments = bind.and_then(|(bind, types)| Some((bind.arguments().ok()?, types)));
        let declared = arguments.as_ref().map(|(arguments, types)| Parameters {
            types,
            formats: Some(arguments.formats),
        });
        let listed = listed(text, dialect, declared.unwrap_or_default());
        let text = listed.as_deref().unwrap_or(text);
        let parameters = arguments
            .map(|(arguments, types)| Parameter::of(&arguments, types.iter().copied()))
            .unwrap_or_default();
        let cluster = Rc::clone(&self.cluster);
        let mut cache = cluster.analyses.borrow_mut();
        let analysed = cache.analyse(text, dialect);
        let analysis = Rc::clone(&analysed.analysis);
        let Ok(statements) = &analysis.statements else {
            return;
        };
        if statements.iter().any(|statement| statement.kind.defines()) {
            self.cluster.forget_facts();
        }
        let values = Values {
            text,
            literals: analysed.literals,
            backslashes: dialect.backslashes,
            encoded_as_stored: self.stores_keys(database.tables),
            parameters: &parameters,
        };
        let context = (dialect, &analysed.hints);
        let mut queries = statements
            .iter()
            .filter(|one| one.kind.is_query())
            .peekable();
        if queries.peek().is_none() {
            return;
        }
        let direct = queries.all(|statement| {
            preview(statement, text, context, &values, &database).reach == Reach::Direct
        });
        cache.route(&analysis, !direct);
    }
}
