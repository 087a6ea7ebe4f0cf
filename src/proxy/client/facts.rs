//! What a database's own catalogue says: which functions only read, which tables have which columns. Asked when a request
//! needs it, and again when a definition has changed or it has become old.

mod learning;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::merge::not_known;
use crate::protocol::error_fields::Fields;
use crate::protocol::sqlstate::SqlState;
use crate::routing::role::{Catalogue, Volatility};
use crate::routing::views::View;
use crate::sharding::schema::{ColumnDefault, Schema};
use crate::sharding::ShardingTables;
use crate::sql::across::Overload;
use crate::sql::asked::is_constant;
use crate::sql::cache::Cache;
use crate::sql::lexer::Dialect;
use crate::types::canonical::{Canonical, Disagreement};
use crate::types::contents::Contents;
use crate::types::enums::Enums;
use crate::types::{Known, COLLATIONS_QUERY};

use super::super::cluster::Cluster;
use super::super::server::{Collector, RunError, Server};

/// What was learnt longer ago is asked again: others may have changed definitions.
const AGE_MAX: Duration = Duration::from_secs(60);
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
    /// A server has told all but the layout, and no definition has changed since.
    told: bool,
    /// With which code a server has refused to tell some of this.
    refused: Option<SqlState>,
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
    /// Each shard has been asked, as far as it has to be.
    whole: bool,
    /// If clients are to see the numbers of the first shard, of each shard that has answered: how the first one numbers them.
    canonical: Vec<Option<Rc<Canonical>>>,
    /// Numbers of the first shard, or else of any, that are not the same everywhere.
    disagreement: Disagreement,
    /// If there are some of the first shard: what values of types have within, by its numbers.
    contents: Option<Rc<Contents>>,
    /// By the numbers that descriptions have when they are merged. None if a shard has not answered.
    enums: Vec<Arc<Enums>>,
}

impl Facts {
    /// Is nothing known of functions and tables?
    pub(super) fn are_unknown(&self) -> bool {
        !self.told
    }

    /// Is all known that values have to be compared by?
    pub(super) fn known(&self) -> Known {
        let layout = self.layout.as_ref();
        let known = !self.text.encoding.is_empty(); // every server has one
        match known && layout.is_some_and(|layout| layout.types.whole) {
            true => Known::Yes,
            false => self.lacking(),
        }
    }

    /// Why what is not known is not.
    fn lacking(&self) -> Known {
        self.refused.map_or(Known::NotYet, Known::Refused)
    }

    /// The error for what is not known.
    pub(super) fn not_known(&self, what: &str) -> Error {
        not_known(what, self.lacking())
    }

    /// A refusal, or that its reason may be that the catalogue could not be asked: with more knowledge it might be done.
    pub(super) fn doubt(&self, refusal: Error) -> Error {
        match self.are_unknown() && refusal.code == SqlState::FEATURE_NOT_SUPPORTED {
            true => {
                let error = self.not_known("what a statement depends on");
                error.detail(refusal.message)
            }
            false => refusal,
        }
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

    /// Where shards do not agree on the numbers of types.
    pub(super) fn disagreement(&self) -> Option<&Disagreement> {
        Some(&self.layout.as_ref()?.types.disagreement)
    }

    /// If clients see other numbers of types than some shards have: what values have within, by the numbers that they see.
    pub(super) fn contents(&self) -> Option<&Rc<Contents>> {
        self.layout.as_ref()?.types.contents.as_ref()
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

/// How the database compares text, and the user's sessions write values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct TextFacts {
    /// By its bytes, whatever the column.
    pub(crate) ordered_by_bytes: bool,
    /// Only equal bytes are equal, whatever the column.
    pub(crate) equal_by_bytes: bool,
    /// As the whole database does, whatever the column.
    pub(crate) plain: bool,
    /// The encoding that it is stored in.
    pub(crate) encoding: Box<[u8]>,
    /// Floats without their last digits, if a session has set nothing of that.
    pub(crate) rounds_floats: bool,
}

/// Asks for functions of users that are written in a language that queries tables, and are not immutable.
const READERS: &str = "SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p \
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
    WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace \
    AND p.provolatile <> 'i' AND l.lanname NOT IN ('c', 'internal')";

/// Asks for what RESET would set.
const RESET_VALUES: &str = "SELECT name, reset_val FROM pg_catalog.pg_settings \
    WHERE name IN ('search_path', 'extra_float_digits')";

/// Does this value of `extra_float_digits` have floats written with all their digits?
pub(super) fn has_all_digits(value: &[u8]) -> bool {
    let digits = std::str::from_utf8(value).ok().map(str::parse::<i32>);
    matches!(digits, Some(Ok(1..)))
}

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

    /// What is known, for the same servers after a reload, whose questions are counted anew. If it is not `lasting`, it counts for
    /// what is under way, and who comes next asks.
    pub(crate) fn facts_to_keep(&self, lasting: bool) -> Option<Learnt> {
        let learnt = self.facts.borrow();
        learnt.as_ref().map(|learnt| Learnt {
            facts: Rc::clone(&learnt.facts),
            at: learnt.at.filter(|_| lasting),
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
        let facts = learnt.as_ref().map(|learnt| Rc::clone(&learnt.facts));
        drop(learnt);
        if let Some(facts) = facts {
            self.replace_facts(Learnt {
                facts: Rc::new(Facts {
                    // Statements that have been planned compare by what was known: who plans another one asks before.
                    text: facts.text.clone(),
                    layout: facts.layout.clone(),
                    ..Facts::default()
                }),
                at: None,
                question: 0,
            });
        }
    }
}

/// Who asks the catalogue for a core.
#[derive(Default)]
pub(crate) struct Learning {
    /// A session is at it: one that has no servers, and one that has some. The one waits for the pools, which the other may have
    /// exhausted, so that does not wait for it.
    busy: [Cell<bool>; 2],
    /// Sessions that wait for the answer, by their clients' numbers.
    waiting: RefCell<HashMap<i32, Waker>>,
    /// How often what was known was given up.
    forgotten: Cell<u64>,
    /// How often somebody has asked.
    questions: Cell<u64>,
    /// With which code a server has refused a part of the question under way.
    refused: Cell<Option<SqlState>>,
}

impl Learning {
    /// A server has answered with this error. One for its syntax or a lack of privileges (class 42) comes again, others pass.
    fn note_error(&self, body: &[u8]) {
        let code = Fields::parse(body).ok().and_then(|fields| fields.code());
        if let Some(lasting) = code.filter(|code| code.class() == *b"42") {
            self.refused.set(Some(lasting));
        }
    }

    fn busy(&self, holds: bool) -> &Cell<bool> {
        let [free, holding] = &self.busy;
        if holds {
            holding
        } else {
            free
        }
    }

    /// Has whoever asks its answer, or given up? Wakes this client when that is so. `holds`: it has servers.
    fn poll_ended(&self, holds: bool, client: i32, cx: &Context<'_>) -> Poll<()> {
        if !self.busy(holds).get() {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().insert(client, cx.waker().clone());
        Poll::Pending
    }
}

/// A session that asks.
struct Turn {
    cluster: Rc<Cluster>,
    /// It has servers.
    holds: bool,
}

impl Turn {
    /// `None`: another one is at it.
    fn begin(cluster: &Rc<Cluster>, holds: bool) -> Option<Self> {
        let busy = cluster.learning.busy(holds).replace(true);
        (!busy).then(|| Self {
            cluster: Rc::clone(cluster),
            holds,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let learning = &self.cluster.learning;
        learning.busy(self.holds).set(false);
        learning.waiting.take().into_values().for_each(Waker::wake);
    }
}

/// `references`, `defaults`: foreign keys, and what columns get by themselves, too.
async fn learn(
    server: &mut Server,
    (references, defaults): (bool, bool),
) -> Result<(Facts, Vec<View>), RunError> {
    let mut facts = Facts {
        schema: learn_tables(server, references).await?,
        told: true,
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
    rows(server, RESET_VALUES, |row| match row {
        [Some(b"search_path"), Some(path)] => {
            facts.search_path = String::from_utf8_lossy(path).into();
        }
        [Some(_), Some(digits)] => facts.text.rounds_floats = !has_all_digits(digits),
        _ => {}
    })
    .await?;
    rows(server, Catalogue::FUNCTIONS, |row| {
        if let [Some(name), Some(volatility)] = row {
            let name = String::from_utf8_lossy(name);
            let volatility = Volatility::of(volatility);
            facts.functions.add_function(&name, volatility);
        }
    })
    .await?;
    rows(server, Overload::QUERY, |row| {
        if let [Some(name), Some(kind)] = row {
            let name = String::from_utf8_lossy(name);
            facts.functions.add_overload(&name, Overload::of(kind));
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
    answer.outcome()?;
    if answer.is_cut() {
        return Err(RunError::Server(b"Mcatalogue is too large\0\0".to_vec()));
    }
    answer.each_row(show);
    Ok(())
}
