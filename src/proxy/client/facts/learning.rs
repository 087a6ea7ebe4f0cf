//! Who asks the catalogue, of which server, and when: one session for all of its core, while the others wait or go on with what
//! was known.

use std::future::{poll_fn, Future};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::pool::ConnectFailure;
use crate::protocol::backend::TransactionStatus;
use crate::routing::defined::Redefined;
use crate::routing::views::note_like_tables;
use crate::sharding::families::{note_divided, note_mistyped};
use crate::sharding::references::with_followers;
use crate::types::canonical::{enums, Canonical, ServerTypes, TYPES_QUERY};

use super::super::super::cluster::{Cluster, Want};
use super::super::super::link::Notice;
use super::super::super::news;
use super::super::super::pools::Held;
use super::super::super::server::connect::{connect, Purpose};
use super::super::super::server::{RunError, Server};
use super::super::checkout::Way;
use super::super::obtain::Aim;
use super::super::{End, Session};
use super::{learn, rows, Facts, Layout, Learnt, Turn, Types, AGE_MAX};

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

impl Session {
    /// Asks a server what the database's catalogue says, unless that is known. Where it cannot be had nothing is known:
    /// what needs to be is refused, or goes to the primary.
    ///
    /// One session asks for all of its core. What was known goes on to count meanwhile; where nothing was, others wait.
    pub(in super::super) async fn learn_facts(&mut self) -> Result<(), End> {
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
    pub(in super::super) async fn learn_anew(&mut self) -> Result<(), End> {
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
    pub(in super::super) fn tell_of_definitions(&mut self) {
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
        let client = self.link.key.process_id();
        let holds = self.holds_servers();
        poll_fn(|cx| {
            self.link.listen(cx);
            let ended = cluster.learning.poll_ended(holds, client, cx);
            if ended.is_ready() {
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
        let Some(turn) = Turn::begin(cluster, self.holds_servers()) else {
            return Ok(false);
        };
        let learning = &cluster.learning;
        let question = learning.questions.get() + 1;
        learning.questions.set(question);
        let forgotten = learning.forgotten.get();
        let (facts, at) = self.ask_catalogue(newest).await?;
        // A definition that has changed since may not be in it: whoever comes next asks again.
        let at = (learning.forgotten.get() == forgotten).then_some(at);
        if !cluster.answers(question) {
            cluster.replace_facts(Learnt {
                facts: Rc::new(facts),
                at,
                question,
            });
        }
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
        self.cluster.learning.refused.set(None);
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
        // For who holds servers what was known goes on to count: each shard would cost a login.
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
        facts.refused = self.cluster.learning.refused.get();
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
        // had.
        let now = self.state.core.now();
        if newest && self.cluster.has_healthy_primary(shard, now) {
            let core = self.state.core.clone();
            // Where rows are is not to be taken from a replica if it can be helped: then it is waited for like any.
            let until = (self.cluster.shards() == 1).then(|| now + BUSY_PATIENCE);
            let asked = self.seek(aim(Want::Write), Way::First, None);
            if let Some(Ok(held)) = core.timeout_at(until, asked).await.transpose()? {
                return Ok(Some(held));
            }
            // Not one that may be as busy.
            return Ok(self.seek(aim(Want::Replica), Way::First, None).await?.ok());
        }
        Ok(self.seek(aim(Want::Read), Way::First, None).await?.ok())
    }

    /// Asks a server of a shard, with a connection that goes back to its pool. `None`: there is none to be had at the moment, or it did
    /// not answer.
    async fn ask_shard<T>(
        &mut self,
        (shard, newest): (usize, bool),
        question: impl AsyncFnOnce(&mut Server) -> Result<T, RunError>,
    ) -> Result<Option<T>, End> {
        if self.holds_servers() {
            return Ok(Box::pin(self.ask_apart(shard, question)).await);
        }
        let obtained = Box::pin(self.server_to_ask((shard, newest))).await?;
        let Some(mut held) = obtained else {
            return Ok(None);
        };
        let core = self.state.core.clone();
        let until = self.answered_by();
        let answered = {
            let mut asked = pin!(question(&mut held));
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
                self.link.forget_server();
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
                self.cluster.learning.note_error(&body);
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

    /// The same on a connection that no pool counts, for who has servers already: it might wait for itself. There is one at a time
    /// of each core and database.
    async fn ask_apart<T>(
        &mut self,
        shard: usize,
        question: impl AsyncFnOnce(&mut Server) -> Result<T, RunError>,
    ) -> Option<T> {
        let (state, slot) = (&self.state, self.cluster.writer_of(shard));
        let asked = async {
            let connected = connect(state, slot, Purpose::Check).await;
            let mut server = connected.map_err(ConnectFailure::reason)?;
            let answer = question(&mut server).await;
            Box::new(server).close(state).await;
            answer.map_err(|error| match error {
                RunError::Server(body) => {
                    self.cluster.learning.note_error(&body);
                    String::from_utf8_lossy(&body).replace('\0', " ")
                }
                RunError::Lost(lost) => lost.to_string(),
            })
        };
        let until = self.answered_by();
        let answered = state.core.timeout_at(until, asked).await;
        let answered = answered.unwrap_or_else(|| Err("it takes too long".to_owned()));
        let told = |reason: &String| {
            let database = &self.cluster.names.database;
            tracing::warn!(%database, shard, "cannot read the catalogue: {reason}");
        };
        answered.inspect_err(told).ok()
    }

    /// How long a question of the catalogue that is asked now may take.
    fn answered_by(&self) -> Option<Instant> {
        let limit = self.state.config().balancing.check_timeout;
        let limit = limit.map(|limit| limit.saturating_mul(QUESTION_CHECKS));
        limit.and_then(|limit| self.state.core.now().checked_add(limit))
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
            if !numbered && found.as_ref().is_some_and(|types| !types.has_own()) {
                let none = Types {
                    whole: true,
                    ..Types::default()
                };
                return Ok((none, true));
            }
            all.push(found);
        }
        let mut types = Types::default();
        if let (true, Some(first)) = (numbered, all.first()) {
            let contents = Rc::new(
                first
                    .as_ref()
                    .map(ServerTypes::contents)
                    .unwrap_or_default(),
            );
            let of = |here: &Option<ServerTypes>| {
                let (first, here) = (first.as_ref()?, here.as_ref()?);
                Some(Rc::new(Canonical::of(first, here, &contents)))
            };
            types.canonical = all.iter().map(of).collect();
            let disagreement = |of: &ServerTypes| of.disagreement(all.iter().flatten());
            types.disagreement = first.as_ref().map(disagreement).unwrap_or_default();
            types.contents = (!types.disagreement.differing.is_empty()).then_some(contents);
        } else {
            for of in all.iter().flatten() {
                types
                    .disagreement
                    .add(of.disagreement(all.iter().flatten()));
            }
        }
        let all: Option<Vec<ServerTypes>> = all.into_iter().collect();
        let whole = all.is_some();
        types.whole = whole;
        let found = enums(&all.unwrap_or_default(), numbered);
        types.enums = found.into_iter().map(Arc::new).collect();
        Ok((types, whole))
    }
}
