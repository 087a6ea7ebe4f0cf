//! May the request in front go to a replica?

use std::collections::HashSet;

use crate::config::choice::{ReadWriteSplit, ReadWriteStrategy};
use crate::error::{Error, Fault};
use crate::metrics::Timed;
use crate::protocol::batch::{extent, messages, BatchEnd, Extent};
use crate::protocol::frontend::{tag, Bind, Parse};
use crate::protocol::sqlstate::SqlState;
use crate::routing::role::{readable, route_role, Context, Readers, RoleRoute, Transaction};
use crate::sql::hints::Role;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::Dialect;
use crate::sql::settings::Settings;
use crate::sql::statement::{Isolation, Modes};
use crate::sql::statements::first_keyword;

use super::super::cluster::Want;
use super::inbound::CLIENT_BODY_BYTES_MAX;
use super::obtain::Aim;
use super::{End, Session};

/// The setting by which a session asks for servers of a role.
const ROLE: &[u8] = b"pgdog.role";

impl Session {
    /// What the request in front needs. `None`: it was answered with an error.
    pub(super) fn route(&mut self) -> Result<Option<Aim>, End> {
        match self.aim_of(self.inbound.bytes()) {
            Ok(Some(aim)) => Ok(Some(aim)),
            Ok(None) => {
                let hint = asked_role(self.settings.committed()).unwrap_or_default();
                Ok(Some(Aim {
                    shard: 0,
                    want: by_hint(hint),
                    writes: true,
                }))
            }
            Err(error) => self.answer(&error).map(|()| None),
        }
    }

    /// Which server the request needs that these bytes begin with. Whatever is not known to be a read of one request is a
    /// write. `None`: nothing in it says so, or not all of it is here.
    ///
    /// Errors: a hint that is none.
    pub(super) fn aim_of(&self, bytes: &[u8]) -> Result<Option<Aim>, Error> {
        let hint = asked_role(self.settings.committed());
        let Ok(Extent::Whole { bytes: length, end }) = extent(bytes, CLIENT_BODY_BYTES_MAX) else {
            return Ok(None);
        };
        if matches!(end, BatchEnd::Flush | BatchEnd::Cut) {
            // What follows is not known, and goes to the same server.
            return Ok(None);
        }
        let batch = bytes.get(..length).unwrap_or_default();
        let dialect = self.session_dialect();
        let mut wanted = None;
        let mut writes = false;
        // The name that the last Parse gave: most batches have no other.
        let mut parsed = None;
        let mut names: Option<HashSet<&[u8]>> = None;
        for (header, body) in messages(batch) {
            let unknown = (Want::Write, true);
            let (want, may_write) = match header.tag {
                tag::QUERY => {
                    let text = body.strip_suffix(b"\0").unwrap_or(body);
                    self.wanted_by(text, dialect, &hint)?
                }
                tag::PARSE => match Parse::parse(body) {
                    Ok(parse) => {
                        parsed = Some(parse.statement);
                        self.wanted_by(parse.query, dialect, &hint)?
                    }
                    Err(_) => unknown,
                },
                tag::BIND => match Bind::parse(body) {
                    // One that was parsed in this batch is counted already.
                    Ok(bind) if parsed == Some(bind.statement) => continue,
                    Ok(bind) => match self.statement(bind.statement) {
                        Ok(statement) => self.wanted_by(statement.text(), dialect, &hint)?,
                        Err(_)
                            if names
                                .get_or_insert_with(|| parsed_in(batch))
                                .contains(bind.statement) =>
                        {
                            continue
                        }
                        Err(_) => unknown,
                    },
                    Err(_) => unknown,
                },
                tag::FUNCTION_CALL => unknown,
                _ => continue,
            };
            writes |= may_write;
            wanted = Some(wanted.map_or(want, |earlier: Want| earlier.and(want)));
        }
        Ok(wanted.map(|want| Aim {
            shard: 0,
            want: self.for_session(want),
            writes,
        }))
    }

    /// A session that keeps its server for good has it for writes, too, whatever its first request is, if there is one to write to. One
    /// that asks for a replica gets it.
    pub(super) fn for_session(&self, want: Want) -> Want {
        if self.pools() || want != Want::Read {
            return want;
        }
        let now = self.state.core.now();
        let mut shards = 0..self.cluster.shards();
        match shards.all(|shard| self.cluster.has_healthy_primary(shard, now)) {
            true => Want::Write,
            false => want,
        }
    }

    /// Which server a text needs that is a request of its own, and whether it may write there, or begin what may.
    fn wanted_by(
        &self,
        text: &[u8],
        dialect: Dialect,
        hint: &Result<Option<Role>, Error>,
    ) -> Result<(Want, bool), Error> {
        let hint = match hint {
            Ok(hint) => *hint,
            // What takes it away has to be possible.
            Err(_) if sets(text) => None,
            Err(error) => return Err(error.clone()),
        };
        let settings = self.settings.committed();
        let facts = self.cluster.known();
        let context = Context {
            transaction: Transaction::None,
            hint,
            defaults: defaults(settings),
            temporary: false,
            strategy: ReadWriteStrategy::Conservative,
            split: ReadWriteSplit::IncludePrimary,
            catalogue: &facts.functions,
        };
        let mut cache = self.cluster.analyses.borrow_mut();
        if !self.cluster.parses() {
            let hints = cache.hints(text, dialect);
            if let Some(name) = hints.invalid {
                return Err(invalid(name));
            }
            return Ok((want(route_role(None, &hints, &context)), true));
        }
        let analysed = cache.analyse(text, dialect);
        if let Some(name) = analysed.hints.invalid {
            return Err(invalid(name));
        }
        let route = route_role(Some(&analysed.analysis), &analysed.hints, &context);
        let want = want(route);
        if let Some(took) = analysed.parsed_in {
            self.state.tally.timed(Timed::Parse, Vec::new(), took);
        }
        let analysis = analysed.analysis;
        let reads = readable(&analysis, &facts.functions).is_ok();
        cache.route(&analysis, false);
        Ok((want, !reads))
    }
}

/// Is it SET, RESET or DISCARD?
fn sets(text: &[u8]) -> bool {
    matches!(
        first_keyword(text),
        Keyword::Set | Keyword::Reset | Keyword::Discard
    )
}

/// Names of the statements that a batch parses.
fn parsed_in(batch: &[u8]) -> HashSet<&[u8]> {
    let parses = messages(batch).filter(|(header, _)| header.tag == tag::PARSE);
    let names = parses.filter_map(|(_, body)| body.split(|byte| *byte == 0).next());
    names.collect()
}

fn want(route: RoleRoute<'_>) -> Want {
    match route {
        RoleRoute::Read(Readers::All, _) => Want::Read,
        RoleRoute::Read(Readers::ReplicasThenPrimary | Readers::Replicas, _) => Want::Replica,
        RoleRoute::Primary(_) | RoleRoute::Defer(_) | RoleRoute::Stay => Want::Write,
    }
}

/// Which server a hint asks for.
pub(super) fn by_hint(hint: Option<Role>) -> Want {
    match hint {
        Some(Role::Replica) => Want::Replica,
        Some(Role::Primary) | None => Want::Write,
    }
}

/// What the session has set for its transactions.
pub(super) fn defaults(settings: &Settings) -> Modes {
    let value = |name: &[u8]| {
        let value = settings.get(name)?.text()?;
        Some(value.to_ascii_lowercase())
    };
    let read_only = value(b"default_transaction_read_only");
    let isolation = value(b"default_transaction_isolation");
    Modes {
        read_only: read_only
            .map(|value| matches!(&*value, b"on" | b"true" | b"yes" | b"1" | b"t" | b"y")),
        isolation: isolation.and_then(|value| match &*value {
            b"serializable" => Some(Isolation::Serializable),
            b"repeatable read" => Some(Isolation::RepeatableRead),
            b"read committed" | b"read uncommitted" => Some(Isolation::ReadCommitted),
            _ => None,
        }),
        deferrable: None,
    }
}

/// What `pgdog.role` says. Errors: it is neither `primary` nor `replica`.
pub(super) fn asked_role(settings: &Settings) -> Result<Option<Role>, Error> {
    let Some(value) = settings.get(ROLE) else {
        return Ok(None);
    };
    let role = value.text().and_then(|value| Role::parse(&value));
    role.map(Some).ok_or_else(|| invalid("pgdog.role"))
}

/// A hint or setting of ours that has no such value.
pub(super) fn invalid(name: &str) -> Error {
    let text = format!("invalid value for \"{name}\"");
    Error::error(Fault::Client, SqlState::INVALID_PARAMETER_VALUE, text)
}
