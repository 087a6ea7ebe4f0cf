//! Which servers a read may go to, and which of them are better.

use std::time::Instant;

use crate::config::choice::{ReadWriteSplit as Split, Role};

use super::{Part, Pick, Refusal, Roles, Server};

/// The servers of a shard as a read sees them.
#[derive(Clone, Copy)]
pub(super) struct Reads<'a> {
    pub(super) servers: &'a [Server],
    pub(super) roles: &'a Roles,
    pub(super) split: Split,
    /// A hint asks for a replica.
    pub(super) hinted: bool,
    pub(super) now: Instant,
}

/// How good a server is for a read: less is better, and the first field that differs decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    banned: bool,
    fallback: bool,
    suspect: bool,
    spare: bool,
}

impl Reads<'_> {
    /// `None`: not for this read.
    pub(super) fn rank(&self, index: usize) -> Option<Rank> {
        let server = self.servers.get(index)?;
        if server.member.resharding_only || server.ban_kept().is_some() {
            return None;
        }
        Some(Rank {
            banned: server.ban(self.now).is_some(),
            fallback: self.is_fallback(index)?,
            suspect: server.health.is_suspect(self.now),
            spare: server.member.weight == 0,
        })
    }

    /// Is this server for when the others cannot? `None`: not allowed at all.
    fn is_fallback(&self, index: usize) -> Option<bool> {
        match (self.roles.part(index), self.split) {
            (Part::Apart, _) => None,
            (Part::Replica, Split::PreferPrimary) => self.hinted.then_some(false),
            (Part::Replica, _) => Some(false),
            // Whatever it is, it serves reads. Where that matters, it has to be known.
            (Part::Unknown | Part::Primary, Split::IncludePrimary) => Some(self.hinted),
            (Part::Unknown, _) => None,
            (Part::Primary, Split::ExcludePrimary) => None,
            (Part::Primary, Split::PreferPrimary) => Some(self.hinted),
            (Part::Primary, Split::IncludePrimaryIfReplicaBanned) => {
                Some(self.hinted || !self.any_replica_banned())
            }
        }
    }

    fn any_replica_banned(&self) -> bool {
        let mut servers = self.servers.iter().enumerate();
        servers.any(|(index, server)| {
            self.roles.part(index) == Part::Replica && server.ban(self.now).is_some()
        })
    }

    /// Why nobody is left, after those that were `tried` in vain.
    pub(super) fn nobody(&self, tried: &[usize]) -> Pick {
        let ordinary = || {
            let servers = self.servers.iter().enumerate();
            servers.filter(|(_, server)| !server.member.resharding_only)
        };
        let undecided = |index| self.roles.is_undecided(index);
        if ordinary().any(|(index, server)| undecided(index) && server.ban_kept().is_none()) {
            return Pick::Wait;
        }
        // A read that only the primary serves waits for the next one, as a write does.
        let elected = ordinary().all(|(_, server)| server.member.role == Role::Auto);
        if elected && self.split == Split::PreferPrimary && !self.hinted && !tried.is_empty() {
            return Pick::Wait;
        }
        let mut allowed = ordinary().filter(|(_, server)| {
            self.split != Split::ExcludePrimary || server.member.role != Role::Primary
        });
        let Some((_, first)) = allowed.next() else {
            return Pick::Refused(Refusal::NoReplica);
        };
        match first.ban_kept() {
            Some(reason) if allowed.next().is_none() => Pick::Refused(Refusal::Banned(reason)),
            _ => Pick::Refused(Refusal::NoneAvailable),
        }
    }
}
