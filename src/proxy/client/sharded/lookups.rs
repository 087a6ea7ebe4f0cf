//! Keys that a query translates, and what the catalogue has not told of yet: what the request under way has to know of them is asked
//! before it is run.
//!
//! A statement is planned with what is known. What is not is noted, all at once, a server is asked, and the statement
//! is planned again. The question is put on a connection of its own, to a primary, without the client's settings: whoever
//! asks, the answer is the same, and no client's transaction has a part in it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{poll_fn, Future};
use std::rc::Rc;
use std::task::Poll;

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::routing::lookup::{answered, failed, question, timed_out};
use crate::sharding::lookups::{placement, KeyName, Translated};
use crate::sharding::{Key, KeyType, Placement, ShardedColumn, ShardingTables};
use crate::sql::encodings::has_same_bytes;
use crate::sql::statement::{Kind, Statement, TableUse};

use super::super::super::cluster::Cluster;
use super::super::super::core_state::CoreState;
use super::super::super::link::Notice;
use super::super::visitor::Visitor;
use super::super::{End, Session};

/// Keys that are asked for before a statement is planned again.
const LACKING_MAX: usize = 1024;

/// What the request under way knows of keys.
#[derive(Default)]
pub(super) struct Translations {
    /// Whatever is forgotten elsewhere: a request is planned more than once, and always the same.
    known: RefCell<HashMap<KeyName, Translated>>,
    /// What its plan lacks.
    lacking: RefCell<Vec<(KeyName, Wanted)>>,
    /// It has tables or functions of which nothing is known.
    unknown: Cell<Unknown>,
}

/// Has a request tables or functions of which nothing is known?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unknown {
    /// None so far.
    #[default]
    None,
    /// The catalogue is to be asked.
    Ask,
    /// It was asked, for this request: what it does not know does not exist.
    Asked,
}

/// A key that is to be translated.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The column's place among the sharded ones.
    pub(super) column: usize,
    pub(super) key: Key<'static>,
}

impl Translations {
    /// The request is over.
    pub(super) fn clear(&mut self) {
        if !self.known.get_mut().is_empty() {
            *self = Self::default();
        }
        self.lacking.get_mut().clear();
        self.unknown.set(Unknown::None);
    }

    /// Has the catalogue asked for a table or function of which nothing is known, before the request is planned again. False: it was.
    pub(super) fn learn(&self) -> bool {
        if self.unknown.get() == Unknown::None {
            self.unknown.set(Unknown::Ask);
        }
        self.unknown.get() == Unknown::Ask
    }
}

impl Session {
    /// Where the rows of a key are, for routing. If that is not known, it is noted that it is lacking, and anything will do
    /// for the answer: the plan is not used.
    pub(super) fn translated(
        &self,
        column: &ShardedColumn,
        key: &Key<'_>,
    ) -> Option<Placement<'static>> {
        let columns = &self.cluster.sharding.columns;
        // One that it follows has the same query, and the same shards.
        let place = columns.iter().position(|one| one.is_like(column))?;
        let translations = &self.sharded.as_deref()?.translations;
        let name = KeyName::new(place, key);
        if let Some(known) = translations.known.borrow().get(&name) {
            return Some(placement(*known));
        }
        let now = self.state.core.now();
        let mut lookups = self.cluster.lookups.borrow_mut();
        // One in another encoding is refused when it is to be asked for.
        if let Some(known) = lookups.get(&name, now).filter(|_| self.stores(key)) {
            translations.known.borrow_mut().insert(name, known);
            return Some(placement(known));
        }
        let mut lacking = translations.lacking.borrow_mut();
        if lacking.len() < LACKING_MAX && lacking.iter().all(|(other, _)| *other != name) {
            let key = key.clone().into_owned();
            let column = place;
            lacking.push((name, Wanted { column, key }));
        }
        Some(Placement::Shard(0))
    }

    /// Are texts on their way as the servers store them?
    pub(super) fn has_servers_encoding(&self) -> bool {
        let encoding = self.reported("client_encoding");
        has_same_bytes(&encoding, &self.cluster.known().text.encoding)
    }

    /// The same of texts that are keys. Where no key is one, that is not asked.
    pub(super) fn stores_keys(&self, sharding: &ShardingTables) -> bool {
        let mut columns = sharding.columns.iter();
        let texts = columns.any(|column| column.key_type == KeyType::Varchar);
        !texts || self.has_servers_encoding()
    }

    /// Does the server store this key as the client has it?
    fn stores(&self, key: &Key<'_>) -> bool {
        key.is_ascii() || self.has_servers_encoding()
    }

    /// Does the plan that was made last lack something?
    pub(super) fn must_look_up(&self) -> bool {
        let translations = self.sharded.as_deref().map(|sharded| &sharded.translations);
        translations.is_some_and(|translations| {
            let unknown = translations.unknown.get() == Unknown::Ask;
            unknown || !translations.lacking.borrow().is_empty()
        })
    }

    /// Asks for what the plan lacks. Errors: one of the keys has no translation, or it cannot be had.
    pub(super) async fn look_up(&mut self) -> Result<Result<(), Error>, End> {
        let translations = &self.sharded().translations;
        let lacking = translations.lacking.take();
        if translations.unknown.get() == Unknown::Ask {
            translations.unknown.set(Unknown::Asked);
            // If nobody could be asked a moment ago, a moment is waited for.
            let unheard = self.cluster.is_fresh(self.state.core.now());
            if !(unheard && self.cluster.known().are_unknown()) {
                self.learn_anew().await?;
            }
        }
        for (name, wanted) in lacking {
            if !self.stores(&wanted.key) {
                let what = "a sharding key that a query translates, in this client_encoding";
                return Ok(Err(self.cluster.known().doubt(refused(what))));
            }
            let shard = self.shard_to_ask();
            let asked = translate(
                Rc::clone(&self.state),
                Rc::clone(&self.cluster),
                wanted,
                shard,
            );
            match self.unless_noticed(asked).await? {
                Ok(translated) => {
                    let translations = &self.sharded().translations;
                    translations.known.borrow_mut().insert(name, translated);
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// One of which the client has no server: with it, it would wait for itself.
    pub(super) fn shard_to_ask(&self) -> usize {
        let shards = self.cluster.shards();
        let first = self.one_of(shards);
        let legs = self.sharded.iter().flat_map(|sharded| &sharded.legs);
        let taken: Vec<_> = legs.map(|leg| leg.shard).collect();
        let mut all = (0..shards).map(|at| (first + at) % shards);
        all.find(|shard| !taken.contains(shard)).unwrap_or(first)
    }

    /// What comes of this, unless the session is to end, or the statement.
    async fn unless_noticed<T>(
        &mut self,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<Result<T, Error>, End> {
        let mut asked = std::pin::pin!(asked);
        poll_fn(|cx| {
            self.link.listen(cx);
            match self.link.notice() {
                None | Some(Notice::Drain | Notice::Removed) => {}
                Some(Notice::QueryTimeout) => {
                    self.link.dismiss(Notice::QueryTimeout);
                    return Poll::Ready(Ok(Err(self.timeout_error())));
                }
                Some(notice) => return Poll::Ready(Err(End::Fatal(self.farewell(notice)))),
            }
            asked.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// A statement that may change translations: what is known of them is forgotten, now and when it is committed.
    pub(super) fn heed_changes(&mut self, statement: &Statement) {
        let tables = &self.cluster.translating;
        if tables.is_empty() || matches!(statement.kind, Kind::Select) && !statement.writes() {
            return;
        }
        let inner = statement.kind.inner();
        let named = statement.tables.iter();
        let mut named = named.chain(inner.iter().flat_map(|inner| &inner.tables));
        let changes =
            named.any(|table| table.usage != TableUse::Read && tables.contains(&table.name));
        if changes {
            self.forget_translations();
            self.sharded().retranslates = true;
        }
    }

    /// A translation may have changed, for whatever user of the database.
    pub(super) fn forget_translations(&self) {
        let pools = self.state.pools();
        let same = pools.clusters_of(&self.cluster.names.database);
        same.for_each(|cluster| cluster.lookups.borrow_mut().forget());
    }
}

/// Why a plan is not one.
pub(super) fn lacks_keys() -> Error {
    let text = "keys are looked up first";
    Error::error(Fault::Proxy, SqlState::INTERNAL_ERROR, text)
}

/// Asks the primary of a shard where the rows of a key are, and remembers it.
///
/// Errors: 22023 if the query has no row for it, 57014 after `sharding_lookup_timeout`, 58000 if it fails otherwise.
pub(super) async fn translate(
    state: Rc<CoreState>,
    cluster: Rc<Cluster>,
    wanted: Wanted,
    shard: usize,
) -> Result<Translated, Error> {
    let column = cluster.sharding.columns.get(wanted.column);
    let asked = column.and_then(|column| Some((column, column.lookup.as_ref()?)));
    let Some((column, lookup)) = asked else {
        return Err(failed("there is no query"));
    };
    let began = state.core.now();
    let forgotten = cluster.lookups.borrow().forgotten();
    let limit = state.config().routing.lookup_timeout;
    let deadline = limit.and_then(|limit| began.checked_add(limit));
    let question = question(lookup, &wanted.key);
    let visitor = Visitor::new(&state, cluster.writer_of(shard));
    let ran = state
        .core
        .timeout_at(deadline, visitor.run(&question))
        .await;
    let now = state.core.now();
    let mut lookups = cluster.lookups.borrow_mut();
    lookups.asked(now.saturating_duration_since(began));
    let answer = match ran {
        None => return Err(timed_out()),
        Some(Err(error)) => return Err(failed(&error.message)),
        Some(Ok(answer)) if answer.is_cut() => return Err(failed("its answer is too long")),
        Some(Ok(answer)) => answer,
    };
    let mut rows = Vec::new();
    answer.each_row(|row| rows.push(row.first().copied().flatten().map(<[u8]>::to_vec)));
    let translated = match answered(column, &rows)? {
        Placement::Shard(shard) => Some(shard),
        Placement::Unmatched | Placement::Ask(_) => None,
    };
    let name = KeyName::new(wanted.column, &wanted.key);
    lookups.learn(&name, translated, (forgotten, now));
    Ok(translated)
}
