//! How a session gets a server, waits for one, and gives it back.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::balance::{BanReason, Event};
use crate::config::choice::PoolerMode;
use crate::error::{Error, Fault};
use crate::metrics::{elapsed, Phase, RequestKind, Stat, Timed};
use crate::pool::{Checkout, ClientId, Lease, Ticket, WaitError};
use crate::protocol::error_fields::Fields;
use crate::protocol::frontend::tag;
use crate::protocol::sqlstate::SqlState;
use crate::session::Ties;
use crate::sql::lexer::Dialect;
use crate::sql::session::effects;
use crate::sql::settings::Settings;

use super::super::cluster::Want;
use super::super::core_state::Activity;
use super::super::link::Notice;
use super::super::news;
use super::super::pools::{Conn, Held};
use super::super::server::{Lost, Reset, RunError, Targets};
use super::obtain::{unanswered, Aim, Attempt, Terms};
use super::unnamed::Unnamed;
use super::{adopt, lost_error, End, Proven, Session, WAITING_BYTES_MAX};

impl Session {
    /// A server that has this client's settings; `None` if the request was answered with an error.
    pub(super) async fn checkout(&mut self, aim: Aim) -> Result<Option<Held>, End> {
        // Most are served at once. What others need to wait is not kept in the session's task, where each idle client would
        // have it.
        let obtained = match self.obtain_idle(aim) {
            Ok(held) => Ok(held),
            Err(chosen) => Box::pin(self.obtain(aim, Way::Ahead, chosen)).await?,
        };
        match obtained {
            Ok(held) => {
                self.point_at(&held);
                Ok(Some(held))
            }
            Err(error) => self.answer(&error).map(|()| None),
        }
    }

    /// Cancel requests are for this server.
    pub(super) fn point_at(&self, held: &Held) {
        *self.link.targets.borrow_mut() = Targets::One(Rc::clone(&held.target));
    }

    /// A server of the pool that the session has turned to, with this client's settings. `news`: how much was known when
    /// the pool was chosen.
    pub(super) async fn attempt(
        &mut self,
        aim: Aim,
        way: Way,
        terms: &Terms,
        mut news: u64,
    ) -> Result<Attempt, End> {
        let since = self.state.core.now();
        let mut tries = 0;
        loop {
            if self.slot.is_held() {
                self.wait_for_release().await?;
                self.held_since(since);
                return Ok(Attempt::Released);
            }
            let checkout = match self.checkout_again(aim) {
                Some(lease) => Checkout::Ready(lease),
                None => {
                    let client = ClientId(u64::from(self.link.key.process_id().unsigned_abs()));
                    self.slot.decide(&self.state, |pool, now, out| {
                        pool.checkout_since(client, terms.since, now, out)
                    })
                }
            };
            let queued = matches!(checkout, Checkout::Wait(_));
            let served = match checkout {
                Checkout::Ready(lease) => Ok(lease),
                Checkout::Wait(ticket) => match self.wait(ticket, aim, terms, &mut news).await? {
                    Some(served) => served,
                    None if self.is_crowded_out(aim, terms) => return Ok(Attempt::Full),
                    None => return Ok(Attempt::Again),
                },
                Checkout::Closed => Err(WaitError::Closed),
            };
            let mut held = match served {
                Ok(lease) => Held::new(&self.state, &self.slot, lease),
                Err(why) => return self.not_served(why),
            };
            if held.take_unprompted().is_err() {
                // Closed by the server while idle: that is no error of the pool, the next one will do.
                continue;
            }
            if !self.suits(&held, aim, terms.epoch) {
                // Closed. What it would have to be may have changed meanwhile.
                drop(held);
                return Ok(Attempt::Again);
            }
            if queued && aim.want == Want::Write && !self.is_right(aim) {
                // The proof that this is the primary has grown old in the queue.
                held.check_in();
                return Ok(Attempt::Again);
            }
            match self.check(&mut held, aim, terms, &mut tries).await {
                Ok(true) => {}
                Ok(false) => {
                    held.check_in();
                    return Ok(Attempt::Behind);
                }
                Err(None) => continue,
                Err(Some(error)) => return Ok(Attempt::Failed(error)),
            }
            if !self.has_settings(&mut held, way) {
                // Seldom, and large: in a box of its own those who wait take half, and glibc keeps theirs at hand.
                match Box::pin(self.apply_in_time(held)).await {
                    Ok(ready) => held = ready,
                    Err(Unfit::Hung) => return Ok(Attempt::Failed(unanswered())),
                    Err(Unfit::Setting(error)) => return Ok(Attempt::Refused(error)),
                    // It was going away. Nothing of the client's was sent to it.
                    Err(Unfit::Gone(error)) => match self.may_try_again(&mut tries) {
                        true => continue,
                        false => return Ok(Attempt::Failed(error)),
                    },
                }
            }
            let waited = elapsed(since, self.state.core.now());
            self.assigned(&mut held, aim, waited);
            return Ok(Attempt::Ready(held));
        }
    }

    /// Has it the client's settings, as most of the time, or gets them ahead of the request?
    pub(super) fn has_settings(&mut self, held: &mut Held, way: Way) -> bool {
        if Settings::same(&held.settings, self.settings.committed()) {
            self.settings.in_line();
            return true;
        }
        let sent = way == Way::Ahead && self.send_ahead(held);
        if sent {
            self.settings.in_line();
        }
        sent
    }

    /// A server is this client's, which has waited for it so many nanoseconds.
    pub(super) fn assigned(&mut self, held: &mut Held, aim: Aim, waited: u64) {
        self.stays(held, aim);
        if !held.has_ahead() {
            held.trim(self.state.prepared_max());
        }
        held.link.meter.assigned(waited, self.kind_of(aim));
        self.link.meter.assigned(waited);
        held.link.latencies().record(Phase::CheckoutWait, waited);
        if !self.holds_servers() {
            self.link.forget_server();
        }
        self.link.enter(Activity::Active, self.state.core.now());
    }

    /// The pool has nothing for this request.
    fn not_served(&mut self, why: WaitError) -> Result<Attempt, End> {
        match why {
            WaitError::Closed if self.is_outdated() => {
                self.adopt()?;
                Ok(Attempt::Again)
            }
            WaitError::Connect(error) => Ok(Attempt::Failed(error)),
            why => Ok(Attempt::Refused(self.pool_error(why))),
        }
    }

    /// What the request does for which a server was given.
    fn kind_of(&self, aim: Aim) -> RequestKind {
        match (self.cluster.parses(), aim.writes) {
            (true, true) => RequestKind::Write,
            (true, false) => RequestKind::Read,
            (false, _) => RequestKind::Other,
        }
    }

    /// Does a PAUSE hold requests like this one up?
    fn is_paused(&self) -> bool {
        let names = &self.slot.names;
        let paused = &self.state.config().orders.paused;
        paused.is_on(&names.user, &names.database)
    }

    /// The operator has held a request up until now.
    fn held_since(&self, since: Instant) {
        let took = self.state.core.now().saturating_duration_since(since);
        let whose = vec![("database", self.slot.names.database.clone())];
        self.state.tally.timed(Timed::Hold, whose, took);
    }

    /// Sends the settings ahead of the request, if they may travel with it: they have been taken once, so that it hardly
    /// ever fails for them, and there is a message to go behind them.
    fn send_ahead(&self, held: &mut Held) -> bool {
        let wanted = self.settings.committed();
        let proven = self.proven.as_ref();
        let proven = proven.filter(|proven| Settings::same(&proven.settings, wanted));
        proven.is_some_and(|proven| {
            self.goes_behind(held.dialect) && held.send_ahead(wanted, &proven.reported)
        })
    }

    /// Is the next message here as a whole, and one in front of which we would not send a Sync?
    fn goes_behind(&self, dialect: Dialect) -> bool {
        let Some((tag, body)) = self.inbound.whole_message() else {
            return false;
        };
        if tag != tag::QUERY {
            return true;
        }
        let effects = effects(body.strip_suffix(b"\0").unwrap_or(body), dialect);
        effects.is_plain() || effects.only_transactions()
    }

    /// [`Self::apply_settings`], which takes no time unless the server hangs.
    async fn apply_in_time(&mut self, held: Held) -> Result<Held, Unfit> {
        let core = self.state.core.clone();
        let limit = self.state.config().balancing.check_timeout;
        let until = limit.and_then(|limit| core.now().checked_add(limit));
        let applied = core.timeout_at(until, self.apply_settings(held)).await;
        applied.unwrap_or_else(|| {
            let event = Event::Failed(BanReason::CheckTimeout);
            news::happened(&self.state, self.slot.id, event);
            Err(Unfit::Hung)
        })
    }

    /// Brings the server's settings in line with the client's.
    async fn apply_settings(&mut self, mut held: Held) -> Result<Held, Unfit> {
        match held.bring_to(self.settings.committed()).await {
            Ok(_) => {
                self.settings.in_line();
                self.proven = Some(Proven {
                    settings: Arc::clone(self.settings.committed()),
                    reported: Rc::clone(&held.reported),
                });
                Ok(held)
            }
            Err(RunError::Server(body)) if Fields::parse(&body).is_ok_and(|f| f.is_fatal()) => {
                held.link.meter.lost();
                Err(Unfit::Gone(lost_error(&Lost::Closed(None))))
            }
            Err(RunError::Server(body)) => {
                if held.is_fit() {
                    held.check_in(); // as it was
                }
                self.proven = None;
                Err(Unfit::Setting(refused_settings(&body)))
            }
            Err(RunError::Lost(lost)) => Err(Unfit::Gone(lost_error(&lost))),
        }
    }

    /// MAINTENANCE: waits until transactions may begin, for as long as the client stays.
    #[cold]
    async fn wait_for_release(&mut self) -> Result<(), End> {
        self.link.enter(Activity::Waiting, self.state.core.now());
        self.inbound.settle();
        poll_fn(|cx| {
            self.link.listen(cx);
            if !self.slot.is_held() || self.is_outdated() {
                return Poll::Ready(Ok(()));
            }
            self.poll_waiting(cx).map(Err)
        })
        .await?;
        match self.is_outdated() {
            true => self.adopt(),
            false => Ok(()),
        }
    }

    /// A client that waits for a server: why it has to stop.
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        match self.link.notice() {
            None => {}
            // Of a server of another shard, which it has.
            Some(Notice::Superseded | Notice::Hung) if self.holds_servers() => {
                return Poll::Ready(self.lost_kept());
            }
            Some(Notice::Superseded | Notice::Hung) => self.link.forget_server(),
            Some(notice) => return Poll::Ready(End::Fatal(self.farewell(notice))),
        }
        while self.inbound.len() < WAITING_BYTES_MAX {
            match self.poll_inbound(cx) {
                Poll::Ready(Ok(())) => self.inbound.settle(),
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Waits in the queue, for as long as the client stays. `None`: this is not the right one any more.
    async fn wait(&mut self, ticket: Ticket, aim: Aim, terms: &Terms, news: &mut u64) -> Waited {
        self.link.enter(Activity::Waiting, terms.since);
        // A request that waits does not occupy a receive buffer.
        self.inbound.settle();
        let now = self.state.core.now();
        let mut waiting = Waiting {
            held_since: self.is_paused().then_some(now),
            session: self,
            ticket: Some(ticket),
        };
        poll_fn(|cx| waiting.poll(cx, aim, terms, news)).await
    }

    /// What a client hears when the pool has nothing for it.
    fn pool_error(&self, why: WaitError) -> Error {
        match why {
            WaitError::Timeout { .. } => {
                let limit = self
                    .slot
                    .config()
                    .limits
                    .checkout_timeout
                    .unwrap_or_default()
                    .as_millis();
                let message =
                    format!("checkout timeout: no server connection free within {limit} ms");
                Error::error(Fault::Proxy, SqlState::TOO_MANY_CONNECTIONS, message)
            }
            WaitError::Connect(error) => error,
            WaitError::Closed => adopt::removed(&self.slot.names.database),
        }
    }

    /// Forgets what concerns the server that it has had.
    pub(super) fn let_go(&mut self) -> Ties {
        *self.link.targets.borrow_mut() = Targets::None;
        self.link.pin(None);
        self.unnamed = Unnamed::None;
        self.timed_out = false;
        self.retry = None;
        self.tracker = None;
        std::mem::take(&mut self.ties)
    }

    /// Returns the server to its pool: at once if it is fit, otherwise when it has been made fit.
    pub(super) fn give_back(&mut self, held: Held) {
        let tracked = self.tracker.is_some();
        let ties = self.let_go();
        let half_sent = self.inbound.is_amid_message();
        if half_sent || ties.spoilt() {
            return; // dropped, and so closed
        }
        // What was on its way may have changed settings, and nobody looks at the answers any more.
        let scrub = self.manner.mode == PoolerMode::Session || ties.scrub() || tracked;
        self.release(held, scrub);
    }

    /// Returns a server that has the account of settings that this session keeps. `scrub`: or may have other things.
    pub(super) fn release(&self, mut held: Held, scrub: bool) {
        let scrub = scrub || !self.settings.is_exact();
        let asking = self.asking(&held);
        // Whatever is undone, or cancelled late, that was in force at its last boundary.
        if !Arc::ptr_eq(&held.settings, self.settings.on_server()) {
            held.settings = Arc::clone(self.settings.on_server());
        }
        if !scrub && held.is_fit() {
            let Some(asking) = asking else {
                return held.check_in();
            };
            let state = Rc::clone(&self.state);
            self.state.core.spawn(async move {
                if asking.ask(&state, &mut held).await {
                    held.check_in();
                }
            });
            return;
        }
        let reset = match scrub {
            true => Reset::Session,
            false => Reset::Transaction,
        };
        let state = Rc::clone(&self.state);
        let out_of_sync = !held.exchange.is_resting();
        if out_of_sync {
            held.link.meter.counters().count(Stat::OutOfSync);
        }
        self.state.core.spawn(async move {
            if held.reset(&state, reset).await {
                if out_of_sync {
                    held.link.meter.counters().count(Stat::ReSynced);
                }
                let asked = match asking {
                    Some(asking) => asking.ask(&state, &mut held).await,
                    None => true,
                };
                if asked {
                    held.check_in();
                }
            }
        });
    }
}

/// Why a server does not have the client's settings.
enum Unfit {
    /// It does not take them: the client is told.
    Setting(Error),
    /// It went away: another connection may do.
    Gone(Error),
    /// It does not answer.
    Hung,
}

/// How a server gets the client's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Before the request, by a round trip of its own.
    First,
    /// In the same write, if that can be.
    Ahead,
}

/// The server has answered this to the client's settings: the body of its ErrorResponse.
pub(super) fn refused_settings(body: &[u8]) -> Error {
    let detail = String::from_utf8_lossy(body).replace('\0', " ");
    let text = "cannot apply this session's parameters";
    Error::error(Fault::Server, SqlState::INVALID_PARAMETER_VALUE, text).detail(detail)
}

/// What a place in the queue has come to; `None`: there is a better one elsewhere.
type Waited = Result<Option<Result<Lease<Conn>, WaitError>>, End>;

/// A place in the queue, left when the client goes.
struct Waiting<'a> {
    session: &'a mut Session,
    ticket: Option<Ticket>,
    /// A PAUSE holds it up.
    held_since: Option<Instant>,
}

impl Waiting<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        aim: Aim,
        terms: &Terms,
        news: &mut u64,
    ) -> Poll<Waited> {
        self.session.link.listen(cx);
        let served = self.session.link.take_served();
        if served.is_some() {
            self.ticket = None;
        } else if !self.session.is_crowded_out(aim, terms) && self.session.waits_rightly(aim, news)
        {
            return self.session.poll_waiting(cx).map(Err);
        }
        if let Some(since) = self.held_since {
            self.session.held_since(since);
        }
        Poll::Ready(Ok(served))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let session = &mut *self.session;
        session.slot.decide(&session.state, |pool, now, out| {
            pool.cancel(ticket, now, out)
        });
        // It may have been served in the same moment.
        if let Some(Ok(lease)) = session.link.take_served() {
            session.slot.decide(&session.state, |pool, now, out| {
                pool.checkin(lease, now, out)
            });
        }
    }
}
