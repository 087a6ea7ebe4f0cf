//! What a database's own catalogue says: which functions only read, which tables have which columns. Asked when a request
//! needs it, and again when a definition has changed or it has become old.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::{poll_fn, Future};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::protocol::backend::TransactionStatus;
use crate::routing::defined::Redefined;
use crate::routing::role::Catalogue;
use crate::routing::views::{note_like_tables, View};
use crate::sharding::families::{note_divided, note_mistyped};
use crate::sharding::references::with_followers;
use crate::sharding::schema::{ColumnDefault, Schema};
use crate::sharding::ShardingTables;
use crate::sql::asked::is_constant;
use crate::sql::cache::Cache;
use crate::sql::lexer::Dialect;
use crate::types::canonical::{enums, Canonical, ServerTypes, TYPES_QUERY};
use crate::types::enums::Enums;
use crate::types::COLLATIONS_QUERY;

use super::super::cluster::{Cluster, Want};
use super::super::link::Notice;
use super::super::news;
use super::super::pools::Held;
use super::super::server::{Collector, RunError, Server};
use super::checkout::Way;
use super::obtain::Aim;
use super::{End, Session};

/// What was learnt longer ago is asked again: others may have changed definitions.
const AGE_MAX: Duration = Duration::from_secs(60);
/// When nobody could be asked, somebody is after this.
const RETRY: Duration = Duration::from_secs(1);
/// How soon it is asked again for views whose definitions somebody had locked: that may take long, and all is asked.
const LOCKED_RETRY: Duration = Duration::from_secs(10);
/// How long the primary of a database without shards is waited for while what has just been defined is asked for: longer than a
/// new connection takes. Who waits for all its connections asks a replica.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);
/// So many times as long as for a check a server may take for all that is asked of the catalogue, unless one finds before that it
/// hangs.
const QUESTION_CHECKS: u32 = 12;
/// Bytes of one answer. A larger catalogue is not learnt: its tables are unknown, its functions may write.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is known of a database.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) functions: Catalogue,
    pub(crate) schema: Schema,
    pub(crate) text: TextFacts,
    /// Functions whose answer may depend on the rows that their server has.
    pub(crate) readers: HashSet<Box<str>>,
    /// Where the user's sessions look for names, if they have set nothing.
    search_path: Box<str>,
    /// Functions that were asked for in vain, as far as there is room for them.
    lacking: RefCell<HashSet<Box<str>>>,
    /// `None`: it was never learnt.
    layout: Option<Rc<Layout>>,
}

/// Names of functions that do not exist.
const LACKING_MAX: usize = 256;

/// What is good until something newer is known, also when a definition has changed: without it rows would be looked for in
/// the wrong place.
#[derive(Default)]
struct Layout {
    /// Which rows are where, with tables that follow others by their foreign keys; `None`: as it is configured.
    followed: Option<ShardingTables>,
    /// What types users have made.
    types: Rc<Types>,
}

/// The types of all shards.
#[derive(Default)]
struct Types {
    /// If clients are to see the numbers of the first shard, of each shard that has answered: how the first one numbers them.
    canonical: Vec<Option<Rc<Canonical>>>,
    /// Numbers of the first shard that are then not the same everywhere.
    ambiguous: HashSet<u32>,
    /// By the numbers that descriptions have when they are merged. None if a shard has not answered.
    enums: Vec<Arc<Enums>>,
}

impl Facts {
    /// Is nothing known of functions and tables?
    pub(super) fn are_unknown(&self) -> bool {
        self.text.encoding.is_empty() // every server has one
    }

    /// The search path of a session that has set none: of its user, its database, or the server.
    pub(super) fn search_path(&self) -> &str {
        match &*self.search_path {
            "" => "\"$user\", public",
            known => known,
        }
    }

    /// Is a function of this name known not to exist?
    pub(super) fn lacks(&self, function: &str) -> bool {
        self.lacking.borrow().contains(function)
    }

    /// There was no function of this name when the catalogue was asked for it: for this time nobody asks again.
    pub(super) fn note_lacking(&self, function: &str) {
        let mut lacking = self.lacking.borrow_mut();
        if lacking.len() < LACKING_MAX {
            lacking.insert(function.into());
        }
    }

    /// How the first shard numbers the types of this one. `None`: that is not known.
    pub(super) fn types_of(&self, shard: usize) -> Option<Rc<Canonical>> {
        let layout = self.layout.as_ref()?;
        layout.types.canonical.get(shard)?.clone()
    }

    /// The enums of a shard, by the OIDs that it describes rows with.
    pub(super) fn enums_of(&self, shard: usize) -> Arc<Enums> {
        let layout = self.layout.as_ref();
        let known = layout.and_then(|layout| layout.types.enums.get(shard));
        known.map(Arc::clone).unwrap_or_default()
    }

    /// Does a type of this number mean something else on another shard?
    pub(super) fn is_ambiguous(&self, oid: u32) -> bool {
        let layout = self.layout.as_ref();
        layout.is_some_and(|layout| layout.types.ambiguous.contains(&oid))
    }

    /// Which rows are where. `None`: tables may follow others, and which ones do is not known.
    pub(super) fn sharding<'a>(&'a self, cluster: &'a Cluster) -> Option<&'a ShardingTables> {
        let configured = &cluster.sharding;
        match &self.layout {
            Some(layout) => Some(layout.followed.as_ref().unwrap_or(configured)),
            None => (!configured.has_anchors()).then_some(configured),
        }
    }
}

/// How the database compares text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextFacts {
    /// By its bytes, whatever the column.
    pub(crate) ordered_by_bytes: bool,
    /// Only equal bytes are equal, whatever the column.
    pub(crate) equal_by_bytes: bool,
    /// As the whole database does, whatever the column.
    pub(crate) plain: bool,
    /// The encoding that it is stored in.
    pub(crate) encoding: Box<[u8]>,
}

/// Asks for functions of users that are written in a language that queries tables, and are not immutable.
const READERS: &str = "SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p \
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
    WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
    AND p.provolatile <> 'i' AND l.lanname NOT IN ('c', 'internal')";

/// Asks for the search path that RESET would set.
const SEARCH_PATH: &str = "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path'";

/// When that was learnt.
pub(crate) struct Learnt {
    facts: Rc<Facts>,
    /// `None`: a definition has changed since.
    at: Option<Instant>,
    /// The number of the question that it answers; 0 if only the layout is left.
    question: u64,
}

impl Cluster {
    /// What is known, as far as anything is.
    pub(crate) fn known(&self) -> Rc<Facts> {
        let learnt = self.facts.borrow();
        learnt
            .as_ref()
            .map(|learnt| Rc::clone(&learnt.facts))
            .unwrap_or_default()
    }

    /// Is that recent?
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let learnt = self.facts.borrow();
        let at = learnt.as_ref().and_then(|learnt| learnt.at);
        at.is_some_and(|at| now.saturating_duration_since(at) < AGE_MAX)
    }

    /// Is more known than what outlives a change of definitions?
    fn is_known(&self) -> bool {
        let learnt = self.facts.borrow();
        learnt.as_ref().is_some_and(|learnt| learnt.at.is_some())
    }

    /// Does what is known answer this question, or a later one?
    fn answers(&self, question: u64) -> bool {
        let learnt = self.facts.borrow();
        learnt
            .as_ref()
            .is_some_and(|learnt| learnt.question >= question)
    }

    /// What is known, for the same servers after a reload, whose questions are counted anew.
    pub(crate) fn facts_to_keep(&self) -> Option<Learnt> {
        let learnt = self.facts.borrow();
        learnt.as_ref().map(|learnt| Learnt {
            facts: Rc::clone(&learnt.facts),
            at: learnt.at,
            question: 0,
        })
    }

    /// Something else is known from here on.
    fn replace_facts(&self, learnt: Learnt) {
        self.facts_number.set(self.facts_number.get() + 1);
        self.facts.replace(Some(learnt));
    }

    /// A definition has changed.
    pub(crate) fn forget_facts(&self) {
        let forgotten = &self.learning.forgotten;
        forgotten.set(forgotten.get() + 1);
        let learnt = self.facts.borrow();
        let layout = learnt.as_ref().map(|learnt| learnt.facts.layout.clone());
        drop(learnt);
        if let Some(layout) = layout {
            self.replace_facts(Learnt {
                facts: Rc::new(Facts {
                    layout,
                    ..Facts::default()
                }),
                at: None,
                question: 0,
            });
        }
    }
}

impl Session {
    /// Asks a server what the database's catalogue says, unless that is known. Where it cannot be had nothing is known:
    /// what needs to be is refused, or goes to the primary.
    ///
    /// One session asks for all of its core. What was known goes on to count meanwhile; where nothing was, others wait.
    pub(super) async fn learn_facts(&mut self) -> Result<(), End> {
        let cluster = Rc::clone(&self.cluster);
        let next = cluster.learning.questions.get() + 1;
        while !cluster.is_fresh(self.state.core.now()) && !cluster.answers(next) {
            let newest = !cluster.is_known();
            if !self.ask_in_turn(&cluster, newest).await? {
                if cluster.is_known() {
                    break;
                }
                self.await_answer(&cluster).await?;
            }
        }
        Ok(())
    }

    /// The same, whatever is known: what is true by now has to be.
    pub(super) async fn learn_anew(&mut self) -> Result<(), End> {
        let cluster = Rc::clone(&self.cluster);
        let next = cluster.learning.questions.get() + 1;
        while !cluster.answers(next) {
            if !self.ask_in_turn(&cluster, true).await? {
                self.await_answer(&cluster).await?;
            }
        }
        Ok(())
    }

    /// A transaction that has changed definitions is over. Over shards it is known from the statements.
    #[cold]
    pub(super) fn tell_of_definitions(&mut self) {
        let redefined = std::mem::take(&mut self.redefined);
        let cluster = &self.cluster;
        let asks = cluster.is_split() || cluster.rehearsal.is_some();
        // Those of a session that keeps its server may be anybody's: its ties stay.
        let own = redefined == Redefined::Tables && self.ties.asks() && self.pools();
        let heeds = self.state.config().routing.reload_schema_on_ddl;
        if heeds && asks && !own && cluster.shards() == 1 {
            news::definitions_changed(&self.state, &cluster.names);
        }
    }

    /// Until whoever asks has its answer, or has given up, for as long as the client stays.
    async fn await_answer(&mut self, cluster: &Cluster) -> Result<(), End> {
        poll_fn(|cx| {
            self.link.listen(cx);
            if cluster.learning.poll_ended(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            // An open transaction comes to its end first.
            let leaves = matches!(self.link.notice(), Some(Notice::Drain | Notice::Removed));
            if leaves && self.status() != TransactionStatus::Idle {
                return Poll::Pending;
            }
            self.poll_waiting(cx).map(Err)
        })
        .await
    }

    /// `newest`: what has been defined a moment ago counts. False: another session is asking.
    async fn ask_in_turn(&mut self, cluster: &Rc<Cluster>, newest: bool) -> Result<bool, End> {
        let Some(turn) = Turn::begin(cluster) else {
            return Ok(false);
        };
        let learning = &cluster.learning;
        let question = learning.questions.get() + 1;
        learning.questions.set(question);
        let forgotten = learning.forgotten.get();
        let (facts, at) = self.ask_catalogue(newest).await?;
        // A definition that has changed since may not be in it: whoever comes next asks again.
        let at = (learning.forgotten.get() == forgotten).then_some(at);
        cluster.replace_facts(Learnt {
            facts: Rc::new(facts),
            at,
            question,
        });
        drop(turn);
        Ok(true)
    }

    /// What it says, and when that was so.
    async fn ask_catalogue(&mut self, newest: bool) -> Result<(Facts, Instant), End> {
        let mut at = self.state.core.now();
        let soon = at.checked_sub(AGE_MAX - RETRY).unwrap_or(at);
        let wanted = (
            self.cluster.sharding.has_anchors(),
            self.cluster.shards() > 1,
        );
        let before = self.cluster.known().layout.clone();
        let asked = self.ask_shard((0, newest), async |server| learn(server, wanted).await);
        let mut facts = match asked.await? {
            Some((mut facts, views)) => {
                let configured = &self.cluster.sharding;
                let followed = with_followers(configured, &facts.schema);
                if self.cluster.shards() > 1 {
                    let tables = followed.as_ref().unwrap_or(configured);
                    note_divided(tables, &mut facts.schema);
                    let known = self.cluster.known();
                    for told in note_mistyped(tables, &mut facts.schema, Some(&known.schema)) {
                        let database = &self.cluster.names.database;
                        tracing::warn!(%database, "{told}");
                    }
                    note_like_tables(&mut facts.schema, &views, tables, &facts.functions);
                }
                if views.iter().any(|view| view.definition.is_empty()) {
                    at = at.checked_sub(AGE_MAX - LOCKED_RETRY).unwrap_or(at);
                }
                let types = before.map(|before| Rc::clone(&before.types));
                facts.layout = Some(Rc::new(Layout {
                    followed,
                    types: types.unwrap_or_default(),
                }));
                facts
            }
            None => {
                // Whoever needs this server will hear of it.
                at = soon;
                Facts {
                    layout: before,
                    ..Facts::default()
                }
            }
        };
        let several = self.cluster.shards() > 1;
        // Who holds servers might wait for itself: then what was known goes on to count.
        if several && !self.holds_servers() {
            let (types, whole) = self.ask_types(newest).await?;
            if !whole {
                at = soon;
            }
            let layout = facts.layout.take();
            facts.layout = Some(Rc::new(Layout {
                followed: layout.and_then(|layout| layout.followed.clone()),
                types: Rc::new(types),
            }));
        }
        Ok((facts, at))
    }

    /// A server of a shard to ask. `None`: there is none to be had at the moment.
    async fn server_to_ask(&mut self, (shard, newest): (usize, bool)) -> Result<Option<Held>, End> {
        let aim = |want| Aim {
            shard,
            want,
            writes: false,
        };
        // A replica may not have heard yet of what has just been defined. It is asked all the same where the primary is not to be
        // had, or where who has the primary's connections might wait for itself.
        let now = self.state.core.now();
        let asks_primary = newest && !self.holds_servers();
        if asks_primary && self.cluster.has_healthy_primary(shard, now) {
            let core = self.state.core.clone();
            // Where rows are is not to be taken from a replica if it can be helped: then it is waited for like any.
            let until = (self.cluster.shards() == 1).then(|| now + BUSY_PATIENCE);
            let asked = self.seek(aim(Want::Write), Way::First);
            if let Some(Ok(held)) = core.timeout_at(until, asked).await.transpose()? {
                return Ok(Some(held));
            }
            // Not one that may be as busy.
            return Ok(self.seek(aim(Want::Replica), Way::First).await?.ok());
        }
        Ok(self.seek(aim(Want::Read), Way::First).await?.ok())
    }

    /// Asks a server of a shard, with a connection that goes back to its pool. `None`: there is none to be had at the moment, or it did
    /// not answer.
    async fn ask_shard<T>(
        &mut self,
        (shard, newest): (usize, bool),
        question: impl AsyncFnOnce(&mut Server) -> Result<T, RunError>,
    ) -> Result<Option<T>, End> {
        let obtained = Box::pin(self.server_to_ask((shard, newest))).await?;
        let Some(mut held) = obtained else {
            return Ok(None);
        };
        let core = self.state.core.clone();
        let limit = self.state.config().balancing.check_timeout;
        let limit = limit.map(|limit| limit.saturating_mul(QUESTION_CHECKS));
        let until = limit.and_then(|limit| core.now().checked_add(limit));
        let answered = {
            let mut asked = std::pin::pin!(question(&mut held));
            let answered = poll_fn(|cx| {
                self.link.listen(cx);
                // A check has found that it hangs, or that it is another server now.
                let given_up =
                    matches!(self.link.notice(), Some(Notice::Superseded | Notice::Hung));
                if given_up {
                    return Poll::Ready(None);
                }
                asked.as_mut().poll(cx).map(Some)
            });
            core.timeout_at(until, answered).await.flatten()
        };
        Ok(match answered {
            None => {
                held.link.meter.lost();
                if !self.holds_servers() {
                    self.link.forget_server();
                }
                let database = &self.cluster.names.database;
                tracing::warn!(%database, shard, "a server did not answer what is asked of the catalogue");
                None
            }
            Some(Ok(answer)) => {
                self.release(held, false);
                Some(answer)
            }
            Some(Err(RunError::Server(body))) => {
                self.release(held, true);
                let reason = String::from_utf8_lossy(&body).replace('\0', " ");
                let database = &self.cluster.names.database;
                tracing::warn!(%database, shard, "cannot read the catalogue: {reason}");
                None
            }
            Some(Err(RunError::Lost(lost))) => {
                tracing::warn!("server connection lost: {lost}");
                None
            }
        })
    }

    /// Asks every shard for its types, if that matters. Of one that does not answer, and of all if it is the first, they are
    /// not known. False: one has not answered.
    async fn ask_types(&mut self, newest: bool) -> Result<(Types, bool), End> {
        let numbered = self.state.config().routing.canonical_types;
        let mut all: Vec<Option<ServerTypes>> = Vec::new();
        for shard in 0..self.cluster.shards() {
            let asked = self.ask_shard((shard, newest), async |server| {
                let mut types = ServerTypes::default();
                rows(server, TYPES_QUERY, |row| types.add(row)).await?;
                Ok(types)
            });
            let found = asked.await?;
            if !numbered && found.as_ref().is_some_and(|types| !types.has_enums()) {
                return Ok((Types::default(), true));
            }
            all.push(found);
        }
        let mut types = Types::default();
        if let (true, Some(first)) = (numbered, all.first()) {
            let of = |here: &Option<ServerTypes>| {
                let (first, here) = (first.as_ref()?, here.as_ref()?);
                Some(Rc::new(Canonical::of(first, here)))
            };
            types.canonical = all.iter().map(of).collect();
            let ambiguous = |first: &ServerTypes| first.ambiguous(all.iter().flatten());
            types.ambiguous = first.as_ref().map(ambiguous).unwrap_or_default();
        }
        let all: Option<Vec<ServerTypes>> = all.into_iter().collect();
        let whole = all.is_some();
        let found = enums(&all.unwrap_or_default(), numbered);
        types.enums = found.into_iter().map(Arc::new).collect();
        Ok((types, whole))
    }
}

/// Who asks the catalogue for a core.
#[derive(Default)]
pub(crate) struct Learning {
    busy: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// How often what was known was given up.
    forgotten: Cell<u64>,
    /// How often somebody has asked.
    questions: Cell<u64>,
}

impl Learning {
    /// Has whoever asks its answer, or given up?
    fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.busy.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A session that asks.
struct Turn(Rc<Cluster>);

impl Turn {
    /// `None`: another one is at it.
    fn begin(cluster: &Rc<Cluster>) -> Option<Self> {
        let busy = cluster.learning.busy.replace(true);
        (!busy).then(|| Self(Rc::clone(cluster)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let learning = &self.0.learning;
        learning.busy.set(false);
        learning.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// `references`, `defaults`: foreign keys, and what columns get by themselves, too.
async fn learn(
    server: &mut Server,
    (references, defaults): (bool, bool),
) -> Result<(Facts, Vec<View>), RunError> {
    let mut facts = Facts {
        schema: learn_tables(server, references).await?,
        ..Facts::default()
    };
    rows(server, COLLATIONS_QUERY, |row| {
        if let [by_bytes, equal, plain] = row {
            facts.text.plain = *plain == Some(b"t");
            facts.text.ordered_by_bytes = *by_bytes == Some(b"t");
            facts.text.equal_by_bytes = *equal == Some(b"t");
        }
    })
    .await?;
    rows(server, READERS, |row| {
        if let [Some(name)] = row {
            facts.readers.insert(String::from_utf8_lossy(name).into());
        }
    })
    .await?;
    rows(server, "SHOW server_encoding", |row| {
        if let [Some(encoding)] = row {
            facts.text.encoding = (*encoding).into();
        }
    })
    .await?;
    rows(server, SEARCH_PATH, |row| {
        if let [Some(path)] = row {
            facts.search_path = String::from_utf8_lossy(path).into();
        }
    })
    .await?;
    rows(server, Catalogue::FUNCTIONS, |row| {
        if let [Some(name), Some(harmless)] = row {
            let name = String::from_utf8_lossy(name);
            facts.functions.add_function(&name, *harmless == b"t");
        }
    })
    .await?;
    rows(server, Catalogue::UNREPLICATED, |row| {
        if let [Some(name)] = row {
            let name = String::from_utf8_lossy(name);
            facts.functions.add_unreplicated(&name);
        }
    })
    .await?;
    let (views, defaults) = learn_qualified(server, defaults).await?;
    facts.schema.add_defaults(defaults);
    // Each is analysed once: nothing is kept.
    let mut cache = Cache::new(0, 0);
    let computed = views.iter().filter(|view| !view.materialised);
    let analysed = computed.map(|view| {
        let analysis = cache.analyse(&view.definition, Dialect::default()).analysis;
        (view.name.as_str(), analysis)
    });
    let analysed: Vec<_> = analysed.collect();
    let analysed: Vec<_> = analysed
        .iter()
        .map(|(name, analysis)| (*name, &**analysis))
        .collect();
    facts.functions.add_views(&analysed);
    Ok((facts, views))
}

/// Defaults of columns, each with its table's OID and its number.
type Defaults = HashMap<(u32, u16), ColumnDefault>;

/// Asks for what is to have all names qualified: views and, if they are `wanted`, defaults. Of views that somebody else is
/// changing it is not known what they select.
async fn learn_qualified(
    server: &mut Server,
    wanted: bool,
) -> Result<(Vec<View>, Defaults), RunError> {
    server.run("BEGIN").await?;
    server.run(Catalogue::BEFORE_VIEWS).await?;
    let defaults = match wanted {
        true => ask_defaults(server).await?,
        false => Defaults::new(),
    };
    let views = match ask_views(server, Catalogue::VIEWS).await {
        Ok(views) => {
            server.run("COMMIT").await?;
            views
        }
        Err(RunError::Server(_)) => {
            server.run("ROLLBACK").await?;
            ask_views(server, Catalogue::VIEWS_BY_NAME).await?
        }
        Err(lost) => return Err(lost),
    };
    Ok((views, defaults))
}

async fn ask_defaults(server: &mut Server) -> Result<Defaults, RunError> {
    let mut defaults = Defaults::new();
    rows(server, Schema::DEFAULTS, |row| {
        let [Some(table), Some(column), expression, Some(of_type)] = row else {
            return;
        };
        let text = |value| String::from_utf8_lossy(value);
        if let (Ok(table), Ok(column)) = (text(table).parse(), text(column).parse()) {
            let expression = text(expression.unwrap_or_default());
            let default = ColumnDefault {
                varies: !is_constant(&expression),
                expression: expression.into(),
                of_type: text(of_type).into(),
            };
            defaults.insert((table, column), default);
        }
    })
    .await?;
    Ok(defaults)
}

async fn ask_views(server: &mut Server, sql: &str) -> Result<Vec<View>, RunError> {
    let mut views = Vec::new();
    rows(server, sql, |row| {
        if let [Some(schema), Some(name), materialised, definition] = row {
            views.push(View {
                schema: String::from_utf8_lossy(schema).into_owned(),
                name: String::from_utf8_lossy(name).into_owned(),
                materialised: *materialised == Some(b"t"),
                definition: definition.unwrap_or_default().to_vec(),
            });
        }
    })
    .await?;
    Ok(views)
}

/// Asks for tables; `references`: foreign keys, too.
pub(super) async fn learn_tables(
    server: &mut Server,
    references: bool,
) -> Result<Schema, RunError> {
    let mut schema = Schema::default();
    rows(server, Schema::QUERY, |row| schema.add(row)).await?;
    let mut pairs = Vec::new();
    rows(server, Schema::PARENTS, |row| {
        let number = |value: &Option<&[u8]>| std::str::from_utf8((*value)?).ok()?.parse().ok();
        if let [Some(child), Some(parent)] = &*row.iter().map(number).collect::<Vec<_>>() {
            pairs.push((*child, *parent));
        }
    })
    .await?;
    schema.add_parents(&pairs);
    if references {
        let add = |row: &[Option<&[u8]>]| schema.add_reference(row);
        rows(server, Schema::REFERENCES, add).await?;
    }
    Ok(schema)
}

/// Runs a query and shows its rows.
async fn rows(
    server: &mut Server,
    sql: &str,
    show: impl FnMut(&[Option<&[u8]>]),
) -> Result<(), RunError> {
    let mut answer = Collector::up_to(ANSWER_BYTES_MAX);
    server.run_into(sql.as_bytes(), &mut answer).await?;
    if let Some(body) = answer.error() {
        return Err(RunError::Server(body));
    }
    if answer.is_cut() {
        return Err(RunError::Server(b"Mcatalogue is too large\0\0".to_vec()));
    }
    answer.each_row(show);
    Ok(())
}
