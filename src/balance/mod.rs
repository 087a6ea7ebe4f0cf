//! Which server of a shard a request goes to: what one core knows of them, and [`Balance::pick`].
//!
//! Reads go to the best of those that the policy allows: not banned before banned, preferred before the others, not
//! suspect before suspect, `lb_weight` above 0 before 0; the strategy decides among equals. Bans by failures never
//! leave nobody: if all are banned, they are used again. Those of the administrator, and for lag, are meant: what is
//! too old is not read because nothing else is there. Writes go to the primary, banned or not, and wait while it is
//! not known which one that is.

mod health;
mod lag;
mod question;
mod reads;
mod role;
mod strategy;
mod written;

use std::time::{Duration, Instant};

use crate::config::choice::{LoadBalancingStrategy, ReadWriteSplit, Role};
use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

pub use self::health::{Ban, BanReason, Event, Health, Schedule};
pub use self::lag::{Lag, LagLimits, Lsn, Replayed, Trail};
pub use self::question::ROLE_QUESTION;
pub use self::role::{Epoch, News, Observation, Part, Roles, Standing, Writable};
pub use self::strategy::Turns;
pub use self::written::{pause, Ledger, Mark, Written, MARK_QUESTION, REPLAYED_QUESTION};

use self::reads::{Proof, Reads};

/// A replica that a read has waited for in vain is no candidate for others that would have to wait for so many times as
/// long, so that waiting takes a tenth of the time at most.
const STALLED_TIMES: u32 = 10;
/// And for this at least.
const STALLED_MIN: Duration = Duration::from_secs(1);

/// A server as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it does.
    pub role: Role,
    /// `lb_weight`; 0 is used only when nothing else is left.
    pub weight: u8,
    /// Kept free of ordinary traffic.
    pub resharding_only: bool,
}

/// What the configuration says about balancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who serves reads.
    pub split: ReadWriteSplit,
    /// Which of several.
    pub strategy: LoadBalancingStrategy,
    /// Length of a ban; zero disables them.
    pub ban_timeout: Duration,
    /// How far replicas may be behind.
    pub lag: LagLimits,
    /// Time between checks of roles, which is how long their evidence holds; `None`: they are not checked.
    pub role_checks: Option<Duration>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// It may write, or has to see what was written last.
    #[default]
    Write,
    /// It reads.
    Read,
    /// It reads, and a hint asks for a replica.
    Replica,
}

impl Want {
    /// Of a request that has another part behind this one.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        match next {
            Self::Write => Self::Write,
            Self::Read | Self::Replica => self,
        }
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// To this server.
    Server {
        /// Its index.
        server: usize,
        /// Only over a connection opened under this epoch.
        epoch: Option<Epoch>,
        /// What has to be asked of it, for a read that has to see something.
        asks: Asks,
    },
    /// Nowhere yet: roles are not known, or changing. Ask again when there is news, or `checkout_timeout` is over.
    Wait,
    /// Nowhere.
    Refused(Refusal),
}

/// What has to be asked of a server that a read goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// Has it replayed up to here? Otherwise it does not serve this read.
    Replayed(Lsn),
    /// It is the primary: where is it? What the session knew of that is worth nothing.
    Mark,
}

/// Why there is no server for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The shard has no servers.
    NoServers,
    /// A write, and no server can be the primary.
    NoPrimary,
    /// A read, `exclude_primary`, and no replica is configured.
    NoReplica,
    /// All that could serve it were tried, or are banned for good.
    NoneAvailable,
    /// The only server that could serve it is banned.
    Banned(BanReason),
}

impl Refusal {
    /// What the client is told. Whether its session goes on is for `client_connection_recovery` to say, where
    /// [`Self::by_recovery`].
    pub fn error(self, database: &str, shard: u32) -> Error {
        match self {
            Self::NoServers => {
                let text = format!("shard {shard} has no servers");
                Error::error(Fault::Proxy, SqlState::CANNOT_CONNECT_NOW, text)
            }
            Self::NoPrimary => {
                let text = format!("no primary configured for database \"{database}\"");
                Error::error(Fault::Client, SqlState::READ_ONLY_SQL_TRANSACTION, text)
            }
            Self::NoReplica => {
                let text = "no replica configured and read_write_split excludes the primary";
                Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
            }
            Self::NoneAvailable => {
                let text = format!("no replica available for database \"{database}\"");
                Error::error(Fault::Server, SqlState::CANNOT_CONNECT_NOW, text)
            }
            Self::Banned(reason) => {
                let text = format!("server is banned: {}", reason.text());
                Error::error(Fault::Server, SqlState::CANNOT_CONNECT_NOW, text)
            }
        }
    }

    /// Does the session end by it, unless `client_connection_recovery` says otherwise?
    pub fn by_recovery(self) -> bool {
        match self {
            Self::NoneAvailable | Self::Banned(_) => true,
            Self::NoServers | Self::NoPrimary | Self::NoReplica => false,
        }
    }
}

/// A ban in force, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned {
    /// Why.
    pub reason: BanReason,
    /// When it ends by itself; `None`: not by time.
    pub until: Option<Instant>,
}

/// What one core knows of the servers of one shard.
#[derive(Clone, Debug)]
pub struct Balance {
    servers: Vec<Server>,
    roles: Roles,
    trail: Trail,
    turns: Turns,
    policy: Policy,
    core: (usize, usize),
}

#[derive(Clone, Debug)]
struct Server {
    member: Member,
    health: Health,
    /// Banned by the administrator.
    barred: bool,
    /// As of the last check.
    lag: Option<Lag>,
    /// More than the limits allow.
    lagging: bool,
    /// It has said to a read when asked then that it has replayed up to here, which no check has told yet.
    replayed: Option<(Instant, Lsn)>,
    /// A read has waited for it in vain: reads that would have to wait do without it until then.
    stalled: Option<Instant>,
}

impl Balance {
    /// For core `core` of `cores`. Nothing is known yet.
    pub fn new(members: Vec<Member>, policy: Policy, core: usize, cores: usize) -> Self {
        let weights: Vec<u8> = members.iter().map(|member| member.weight).collect();
        let roles = members.iter().map(|member| member.role);
        Self {
            roles: Roles::new(roles, policy.role_checks),
            trail: Trail::default(),
            turns: Turns::new(policy.strategy, &weights, core, cores),
            servers: members.into_iter().map(Server::new).collect(),
            policy,
            core: (core, cores),
        }
    }

    /// Other servers, or another policy: what is known of those that stay is kept (edge case 66). `before`: the place
    /// that each has had.
    #[must_use]
    pub fn reconfigured(
        &self,
        members: Vec<Member>,
        policy: Policy,
        before: &[Option<usize>],
    ) -> Self {
        let mut next = Self::new(members, policy, self.core.0, self.core.1);
        // Without checks nobody would see a replica catch up.
        let checks = next.policy.role_checks.is_some();
        for (server, place) in next.servers.iter_mut().zip(before) {
            if let Some(known) = place.and_then(|place| self.servers.get(place)) {
                *server = Server {
                    member: server.member,
                    lag: known.lag.filter(|_| checks),
                    ..known.clone()
                };
            }
        }
        next.roles.inherit(&self.roles, before);
        next.trail = self.trail.clone();
        (0..next.servers.len()).for_each(|server| next.judge_lag(server));
        next
    }

    /// A server for a request that has `tried` others in vain.
    ///
    /// `written` is what a read has to see. `active` counts the connections of this core that are in use, by server;
    /// `random` is any number.
    pub fn pick(
        &mut self,
        want: Want,
        written: Written,
        tried: impl Fn(usize) -> bool,
        active: impl Fn(usize) -> usize,
        now: Instant,
        random: u64,
    ) -> Pick {
        if self.servers.is_empty() {
            return Pick::Refused(Refusal::NoServers);
        }
        if want == Want::Write {
            return self.primary(Asks::Nothing, now);
        }
        let mark = match written {
            Written::Nothing => None,
            // Of another reign: no position here compares to it.
            Written::UpTo(mark) if self.roles.epoch() == Some(mark.epoch) => Some(mark),
            Written::Somewhere | Written::UpTo(_) => return self.primary(Asks::Mark, now),
        };
        let reads = Reads {
            servers: &self.servers,
            roles: &self.roles,
            split: self.policy.split,
            hinted: want == Want::Replica,
            mark,
            now,
        };
        let rank = |server: usize| match tried(server) {
            true => None,
            false => reads.rank(server),
        };
        let count = reads.servers.len();
        let Some(best) = (0..count).filter_map(rank).min() else {
            return match mark {
                Some(_) => self.primary(Asks::Nothing, now),
                None => reads.nobody((0..count).any(tried)),
            };
        };
        let candidate = |server| rank(server) == Some(best);
        let picked = self.turns.pick(candidate, active, random);
        let server = picked.expect("the best rank is that of a server");
        let proof = mark.map_or(Proof::None, |mark| reads.proof(server, mark));
        Pick::Server {
            server,
            epoch: match proof {
                Proof::Epoch(epoch) => Some(epoch),
                Proof::None | Proof::Replayed(_) => None,
            },
            asks: match proof {
                Proof::Replayed(lsn) => Asks::Replayed(lsn),
                Proof::None | Proof::Epoch(_) => Asks::Nothing,
            },
        }
    }

    /// The server that is written to.
    fn primary(&self, asks: Asks, now: Instant) -> Pick {
        match self.roles.writable(now) {
            Writable::Server(server, epoch) => Pick::Server {
                server,
                epoch,
                asks,
            },
            Writable::Nobody => Pick::Wait,
            Writable::Never => Pick::Refused(Refusal::NoPrimary),
        }
    }

    /// A read has asked a replica at `at`, and it has replayed up to `lsn`.
    pub fn replayed(&mut self, server: usize, at: Instant, lsn: Lsn) {
        if let Some(server) = self.servers.get_mut(server) {
            server.replayed = Some((at, lsn));
        }
    }

    /// A read has waited for a replica for so long in vain.
    pub fn stalled(&mut self, server: usize, now: Instant, waited: Duration) {
        let pause = waited.saturating_mul(STALLED_TIMES).max(STALLED_MIN);
        if let Some(server) = self.servers.get_mut(server) {
            server.stalled = now.checked_add(pause);
        }
    }

    /// Something happened to a server at `at`. `random` is any number, the same on all cores for the same event.
    pub fn happened(&mut self, server: usize, event: Event, at: Instant, random: u64) {
        let timeout = self.policy.ban_timeout;
        if let Some(server) = self.servers.get_mut(server) {
            server.health = server.health.after(event, at, timeout, random);
        }
    }

    /// Would such an event change nothing that others should know?
    pub fn is_old_news(&self, server: usize, event: Event, now: Instant) -> bool {
        let Some(server) = self.servers.get(server) else {
            return true;
        };
        let health = server.health.at(now);
        match event {
            Event::Passed => health.is_clear(),
            Event::Lost => health.is_suspect(now) || health.ban_at(now).is_some(),
            Event::Failed(_) => health.ban_at(now).is_some(),
        }
    }

    /// A server was asked for its role and position in vain.
    pub fn unreached(&mut self, server: usize, at: Instant) {
        self.roles.unreached(server, at);
    }

    /// A server was asked for its role and position, and answered. What is new in that.
    pub fn observe(&mut self, server: usize, observation: Observation) -> Option<News> {
        if self
            .roles
            .last(server)
            .is_some_and(|last| observation.at <= last.at)
        {
            return None;
        }
        let news = self.roles.observe(server, observation);
        if let Some(server) = self.servers.get_mut(server) {
            // What it says now is as good, or it is not what it was.
            server.replayed = None;
        }
        if let Some(News::Crowned { .. }) = news {
            self.trail.clear();
        }
        let reigns = self.roles.primary() == Some(server);
        match observation.replayed() {
            None if reigns => self.trail.step(observation.at, observation.lsn()),
            None => {}
            Some(replayed) => {
                // Before the primary was asked, the last thing known stays known.
                if let (Some(lag), Some(server)) =
                    (self.trail.lag(replayed), self.servers.get_mut(server))
                {
                    server.lag = Some(lag);
                }
            }
        }
        if !observation.in_recovery() {
            if let Some(server) = self.servers.get_mut(server) {
                server.lag = None;
            }
        }
        self.judge_lag(server);
        news
    }

    fn judge_lag(&mut self, server: usize) {
        let limits = self.policy.lag;
        let disabled = self.policy.ban_timeout.is_zero();
        if let Some(server) = self.servers.get_mut(server) {
            server.lagging = !disabled && server.lag.is_some_and(|lag| limits.exceeded(lag));
        }
    }

    /// BAN: no reads for this server until UNBAN.
    pub fn bar(&mut self, server: usize) {
        if let Some(server) = self.servers.get_mut(server) {
            server.barred = true;
        }
    }

    /// UNBAN: ends all bans of this server. One for lag comes back with the next check if it still holds.
    pub fn unbar(&mut self, server: usize, now: Instant) {
        if let Some(server) = self.servers.get_mut(server) {
            server.barred = false;
            server.lagging = false;
            server.health = server.health.unbanned(now);
        }
    }

    /// The ban of a server, the administrator's before others.
    pub fn ban(&self, server: usize, now: Instant) -> Option<Banned> {
        self.servers.get(server)?.ban(now)
    }

    /// Was the last check of a server, or connection to it, a success?
    pub fn is_healthy(&self, server: usize) -> bool {
        self.servers
            .get(server)
            .is_some_and(|server| server.health.is_healthy())
    }

    /// How far a replica was behind at the last check.
    pub fn lag(&self, server: usize) -> Option<Lag> {
        self.servers.get(server)?.lag
    }

    /// Roles, and what they follow from.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Its servers, as they are configured.
    pub fn members(&self) -> impl ExactSizeIterator<Item = Member> + '_ {
        self.servers.iter().map(|server| server.member)
    }
}

impl Server {
    fn new(member: Member) -> Self {
        Self {
            member,
            health: Health::Healthy,
            barred: false,
            lag: None,
            lagging: false,
            replayed: None,
            stalled: None,
        }
    }

    fn ban(&self, now: Instant) -> Option<Banned> {
        if let Some(reason) = self.ban_kept() {
            return Some(Banned {
                reason,
                until: None,
            });
        }
        self.health.ban_at(now).map(|ban| Banned {
            reason: ban.reason,
            until: Some(ban.until),
        })
    }

    /// A ban that is not given up when nobody else is left.
    fn ban_kept(&self) -> Option<BanReason> {
        match (self.barred, self.lagging) {
            (true, _) => Some(BanReason::Administrator),
            (false, true) => Some(BanReason::Lag),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests;
