//! A server for a request: which of a shard's it is, another one if that fails, and waiting for one to be the primary.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::balance::{Asks, BanReason, Epoch, Event, Lsn, Refusal, Written};
use crate::config::choice::ReadWriteSplit;
use crate::error::{Error, Fault};
use crate::metrics::Stat;
use crate::pool::PoolId;
use crate::protocol::sqlstate::SqlState;
use crate::session::{Counters, WIPE};

use super::super::cluster::{Choice, Want};
use super::super::core_state::Activity;
use super::super::news;
use super::super::pools::Held;
use super::super::server::{Lost, RunError};
use super::checkout::Way;
use super::{End, Session};

/// Connections beyond those of the pool that may turn out to be gone, before another server is tried for a request.
const TRIES_MAX: usize = 3;

/// What a request is for: of which shard a server is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aim {
    /// Its place among the shards of the cluster.
    pub(super) shard: usize,
    /// To do what.
    pub(super) want: Want,
    /// May it write there, whatever it was wanted for?
    pub(super) writes: bool,
}

/// What a connection has to be, and by when.
pub(super) struct Terms {
    /// Opened under this epoch.
    pub(super) epoch: Option<Epoch>,
    /// To a server that has replayed up to here.
    pub(super) replayed: Option<Lsn>,
    /// Since when the request waits.
    pub(super) since: Instant,
    /// It waits for what it has to see until then.
    pub(super) written_by: Instant,
    /// No server has a connection left: it waits where it is.
    pub(super) patient: bool,
}

/// What became of an attempt at one pool.
pub(super) enum Attempt {
    /// Its server has the client's settings.
    Ready(Held),
    /// The client gets none, neither here nor elsewhere.
    Refused(Error),
    /// This server has none that would do, for this reason: another server may.
    Failed(Error),
    /// This server has not replayed what the request has to see.
    Behind,
    /// This server has no connection left: another one may serve a read sooner.
    Full,
    /// Things have changed: whether this is the right server is to be asked again.
    Again,
    /// The same after the operator has held the request up: its time begins anew.
    Released,
}

/// Why a request gets no server.
pub(super) enum NoServer {
    /// It is answered with this error, and the session goes on.
    Refused(Error),
    /// The same, or the session ends with it: as `client_connection_recovery` says.
    Failed(Error),
}

impl Session {
    /// A server that has this client's settings. An error is for the client, who has not heard of it, and whose session
    /// goes on.
    ///
    /// A server that cannot be reached is passed over for another that may serve the request. While it is not known who
    /// is the primary, writes wait, for `checkout_timeout` at most. `chosen`: which it is to be at first, if that was asked already.
    pub(super) async fn obtain(
        &mut self,
        aim: Aim,
        way: Way,
        chosen: Option<Choice>,
    ) -> Result<Result<Held, Error>, End> {
        match self.seek(aim, way, chosen).await? {
            Ok(held) => Ok(Ok(held)),
            Err(NoServer::Refused(error)) => Ok(Err(error)),
            Err(NoServer::Failed(error)) => self.recoverable(error).map(Err),
        }
    }

    /// The same for a question of ours: whatever comes of it, the client's session goes on.
    pub(super) async fn seek(
        &mut self,
        aim: Aim,
        way: Way,
        mut chosen: Option<Choice>,
    ) -> Result<Result<Held, NoServer>, End> {
        let since = self.state.core.now();
        let mut terms = Terms {
            epoch: None,
            replayed: None,
            since,
            written_by: since + self.state.config().balancing.written_wait,
            patient: false,
        };
        let mut tried: Vec<PoolId> = Vec::new();
        let mut full: Vec<PoolId> = Vec::new();
        let mut failure: Option<Error> = None;
        loop {
            if self.is_outdated() {
                self.adopt()?;
            }
            let written = self.has_written(aim, terms.written_by).await?;
            let news = self.cluster.news();
            let choice = chosen.take();
            let choice = choice.unwrap_or_else(|| self.choose(aim, written, &tried));
            let asks_mark = match choice {
                Choice::Pool { slot, epoch, asks } => {
                    // There is no other primary to try, and nobody waits for one.
                    if let Some(error) = failure.take_if(|_| tried.contains(&slot.id)) {
                        return Ok(Err(NoServer::Failed(error)));
                    }
                    terms.patient |= full.contains(&slot.id);
                    self.turn_to(slot);
                    terms.epoch = epoch;
                    terms.replayed = match asks {
                        Asks::Replayed(lsn) => Some(lsn),
                        Asks::Nothing | Asks::Mark => None,
                    };
                    asks == Asks::Mark
                }
                Choice::Wait => {
                    if Box::pin(self.wait_for_news(news, terms.since)).await? {
                        tried.clear();
                        continue;
                    }
                    return Ok(Err(NoServer::Failed(self.no_primary(aim))));
                }
                Choice::Refused(_) if !full.is_empty() => {
                    // There is no other: like a write, it waits.
                    tried.retain(|pool| !full.contains(pool));
                    full.clear();
                    terms.patient = true;
                    continue;
                }
                Choice::Refused(refusal) => {
                    let error = self.refusal(aim, refusal, failure);
                    return Ok(Err(match refusal.by_recovery() {
                        true => NoServer::Failed(error),
                        false => NoServer::Refused(error),
                    }));
                }
            };
            match self.attempt(aim, way, &terms, news).await? {
                Attempt::Ready(mut held) => {
                    self.note_aim(&mut held, aim);
                    if asks_mark && !aim.writes {
                        held.asks_mark = Some(aim.shard);
                    }
                    return Ok(Ok(held));
                }
                Attempt::Refused(error) => return Ok(Err(NoServer::Failed(error))),
                Attempt::Again => {}
                Attempt::Released => terms.since = self.state.core.now(),
                Attempt::Behind => tried.push(self.slot.id),
                Attempt::Full => {
                    tried.push(self.slot.id);
                    full.push(self.slot.id);
                }
                Attempt::Failed(error) => {
                    tried.push(self.slot.id);
                    failure = Some(error);
                }
            }
        }
    }

    /// A server for a request, as things are now.
    fn choose(&self, aim: Aim, written: Written, tried: &[PoolId]) -> Choice {
        let (state, now) = (&self.state, self.state.core.now());
        self.cluster
            .pick(aim.shard, (aim.want, written), tried, now, || {
                state.chance()
            })
    }

    /// The same without waiting, from a connection that needs nothing before this request. Error: [`Self::obtain`] is needed, with this
    /// choice, which counts.
    pub(super) fn obtain_idle(&mut self, aim: Aim) -> Result<Held, Option<Choice>> {
        let has_to_see = aim.want != Want::Write && self.cluster.reads_own_writes();
        if has_to_see || self.is_outdated() {
            return Err(None);
        }
        let (slot, epoch) = match self.choose(aim, Written::Nothing, &[]) {
            Choice::Pool {
                slot,
                epoch,
                asks: Asks::Nothing,
            } if !slot.is_held() => (slot, epoch),
            other => return Err(Some(other)),
        };
        self.turn_to(slot);
        self.idle_of_pool(aim, epoch).ok_or_else(|| {
            Some(Choice::Pool {
                slot: Rc::clone(&self.slot),
                epoch,
                asks: Asks::Nothing,
            })
        })
    }

    /// The same from the pool that the session has turned to.
    fn idle_of_pool(&mut self, aim: Aim, epoch: Option<Epoch>) -> Option<Held> {
        let again = self.checkout_again(aim);
        let again = again.map(|lease| Held::new(&self.state, &self.slot, lease));
        let mut held = again.or_else(|| self.slot.checkout_idle(&self.state))?;
        if held.take_unprompted().is_err() || !self.suits(&held, aim, epoch) {
            return None; // dropped, and so closed
        }
        let asks = self.is_to_be_checked(&held) || self.is_to_be_wiped(&held, aim);
        if asks || !self.has_settings(&mut held, Way::Ahead) {
            held.check_in();
            return None;
        }
        self.assigned(&mut held, aim, 0);
        self.note_aim(&mut held, aim);
        Some(held)
    }

    /// Counts what a connection was obtained for, and remembers what it may change.
    fn note_aim(&mut self, held: &mut Held, aim: Aim) {
        let counters = held.link.meter.counters();
        counters.count(match aim.want {
            Want::Write => Stat::Writes,
            Want::Read | Want::Replica => Stat::Reads,
        });
        if aim.writes {
            self.note_writes(held, aim.shard, aim.want);
        }
    }

    /// What the client hears when no server is left. `failure`: why the last one did not serve.
    fn refusal(&self, aim: Aim, refusal: Refusal, failure: Option<Error>) -> Error {
        let shard = self.cluster.number_of(aim.shard);
        let error = refusal.error(&self.cluster.names.database, shard);
        let only_replicas = self.state.config().balancing.split == ReadWriteSplit::ExcludePrimary;
        match failure {
            Some(Error { detail, .. }) if only_replicas => Error { detail, ..error },
            Some(failure) => failure,
            None => error,
        }
    }

    /// Nobody was known to be the primary for as long as a client may wait.
    fn no_primary(&self, aim: Aim) -> Error {
        let limit = self.checkout_timeout().unwrap_or_default().as_millis();
        let text = format!("checkout timeout: no server connection free within {limit} ms");
        let shard = self.cluster.number_of(aim.shard);
        let detail = format!("no server of shard {shard} is known to be the primary");
        Error::error(Fault::Proxy, SqlState::TOO_MANY_CONNECTIONS, text).detail(detail)
    }

    fn checkout_timeout(&self) -> Option<Duration> {
        self.slot.config().limits.checkout_timeout
    }

    /// Waits until something else is known of the servers than at `news`. False: `checkout_timeout` is over.
    #[cold]
    async fn wait_for_news(&mut self, news: u64, since: Instant) -> Result<bool, End> {
        let until = self
            .checkout_timeout()
            .and_then(|limit| since.checked_add(limit));
        self.link.enter(Activity::Waiting, self.state.core.now());
        self.inbound.settle();
        let core = self.state.core.clone();
        let changed = poll_fn(|cx| {
            self.link.listen(cx);
            if self.cluster.news() != news || self.is_outdated() {
                return Poll::Ready(Ok(()));
            }
            self.poll_waiting(cx).map(Err)
        });
        let waited = core.timeout_at(until, changed).await;
        match waited {
            None => {
                self.slot.registry.counters().count(Stat::CheckoutTimeouts);
                Ok(false)
            }
            Some(Err(end)) => Err(end),
            Some(Ok(())) => {
                if self.is_outdated() {
                    self.adopt()?;
                }
                Ok(true)
            }
        }
    }

    /// Is a connection that was lent one for this request?
    pub(super) fn suits(&self, held: &Held, aim: Aim, epoch: Option<Epoch>) -> bool {
        if aim.want != Want::Write && epoch.is_none() {
            return true;
        }
        // Opened when another was the primary, or nobody was known to be: its address may lead elsewhere now.
        let current = epoch.is_none() || held.epoch == epoch;
        let refuses = held.is_in_recovery() && self.cluster.is_elected(aim.shard);
        if refuses {
            // It says so itself, and that is newer than what was known.
            news::is_no_primary(&self.state, self.slot.id);
        }
        current && !refuses
    }

    /// Was that not done for `healthcheck_interval`?
    fn is_to_be_checked(&self, held: &Held) -> bool {
        let after = self.state.config().balancing.check_after;
        let due = after.and_then(|after| held.checked.checked_add(after));
        due.is_some_and(|due| due <= self.state.core.now())
    }

    /// Checks a connection, if that was not done for `healthcheck_interval`, or has to be for what the request has to see, or
    /// if it is to be wiped. False: the server has not replayed that. Errors: the connection is of no use, and what to say if no other is.
    pub(super) async fn check(
        &mut self,
        held: &mut Held,
        aim: Aim,
        terms: &Terms,
        tries: &mut usize,
    ) -> Result<bool, Option<Error>> {
        let due = self.is_to_be_checked(held);
        let wipes = self.is_to_be_wiped(held, aim);
        if !due && !wipes && terms.replayed.is_none() {
            return Ok(true);
        }
        let config = self.state.config();
        let balancing = &config.balancing;
        let now = self.state.core.now();
        let core = &self.state.core;
        let limit = balancing.check_timeout;
        let answer = match terms.replayed {
            Some(lsn) => Box::pin(self.has_replayed(held, aim, terms, lsn)).await,
            None => {
                if due {
                    held.link.meter.counters().count(Stat::Healthchecks);
                }
                let until = limit.and_then(|limit| now.checked_add(limit));
                // A text without a statement: the server parses nothing, and answers.
                let text = if wipes { WIPE } else { "" };
                let answer = core.timeout_at(until, Box::pin(held.run(text))).await;
                if wipes && matches!(answer, Some(Ok(_))) {
                    held.counters = Counters::default();
                    self.recall.wiped();
                }
                answer.map(|answer| answer.map(|_| true))
            }
        };
        let event = match answer {
            Some(Ok(_)) if held.exchange.said_farewell() => Event::Lost,
            Some(Ok(has_it)) => {
                held.checked = self.state.core.now();
                return Ok(has_it);
            }
            Some(Err(RunError::Lost(Lost::Closed(_)))) => Event::Lost,
            Some(Err(_)) => Event::Failed(BanReason::Check),
            None => Event::Failed(BanReason::CheckTimeout),
        };
        held.link.meter.lost();
        news::happened(&self.state, self.slot.id, event);
        let hopeless = event != Event::Lost || !self.may_try_again(tries);
        Err(hopeless.then(unanswered))
    }

    /// A connection has turned out to be gone: is another one of this pool to be tried?
    pub(super) fn may_try_again(&self, tries: &mut usize) -> bool {
        *tries += 1;
        *tries < self.slot.config().limits.size + TRIES_MAX
    }

    /// Is this a read that another server may serve sooner, since this one has no connection left?
    pub(super) fn is_crowded_out(&self, aim: Aim, terms: &Terms) -> bool {
        let full = aim.want != Want::Write && !terms.patient;
        let full = full && self.slot.refusals.is_full(self.state.core.now());
        let shard = self.cluster.shard(aim.shard).filter(|_| full);
        shard.is_some_and(|shard| shard.servers().len() > 1)
    }

    /// Does a client that waits for a server of this pool do so for good reason? `known` is what was known when it
    /// began.
    pub(super) fn waits_rightly(&self, aim: Aim, known: &mut u64) -> bool {
        if self.is_outdated() && self.cluster.is_split() {
            return false;
        }
        let news = self.cluster.news();
        if news == *known {
            return true;
        }
        *known = news;
        self.is_right(aim)
    }

    /// Is the pool that the session has turned to one that may serve this, as far as is known now?
    pub(super) fn is_right(&self, aim: Aim) -> bool {
        let now = self.state.core.now();
        self.cluster
            .is_right(aim.shard, aim.want, self.slot.id, now)
    }
}

/// The error for a server that does not answer what it is asked before the client's request.
pub(super) fn unanswered() -> Error {
    let text = "server failed its health check";
    Error::error(Fault::Server, SqlState::CANNOT_CONNECT_NOW, text)
}

/// A session whose requests go to the primary of the first shard, unless somebody decides otherwise.
impl Default for Aim {
    fn default() -> Self {
        Self {
            shard: 0,
            want: Want::Write,
            writes: true,
        }
    }
}
