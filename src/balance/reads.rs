//! Which servers a read may go to, and which of them are better.

use std::time::Instant;

use crate::config::choice::{ReadWriteSplit as Split, Role};

use super::{Epoch, Lsn, Mark, Part, Pick, Refusal, Roles, Server, Standing};

/// The servers of a shard as a read sees them.
#[derive(Clone, Copy)]
pub(super) struct Reads<'a> {
    pub(super) servers: &'a [Server],
    pub(super) roles: &'a Roles,
    pub(super) split: Split,
    /// A hint asks for a replica.
    pub(super) hinted: bool,
    /// What it has to see, of the present reign.
    pub(super) mark: Option<Mark>,
    pub(super) now: Instant,
}

/// How good a server is for a read: less is better. What counts most comes first: is it banned, is it allowed only when
/// the others cannot, is it suspect, is it a spare one?
pub(super) type Rank = [bool; 4];

/// What proves that a server has what a read has to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing needs to.
    None,
    /// It is the primary that wrote it, over connections of this epoch.
    Epoch(Epoch),
    /// Its own word that it has replayed up to here.
    Replayed(Lsn),
}

impl Reads<'_> {
    /// `None`: not for this read.
    pub(super) fn rank(&self, index: usize) -> Option<Rank> {
        let server = self.servers.get(index)?;
        if server.member.resharding_only || server.ban_kept().is_some() {
            return None;
        }
        if self.mark.is_some_and(|mark| !self.may_have(index, mark)) {
            return None;
        }
        let banned = server.ban(self.now).is_some();
        let fallback = self.is_fallback(index)?;
        let suspect = server.health.is_suspect(self.now);
        let spare = server.member.weight == 0;
        Some([banned, fallback, suspect, spare])
    }

    /// Can this server have, or soon have, what was written up to `mark`?
    fn may_have(&self, index: usize, mark: Mark) -> bool {
        if self.roles.primary() == Some(index) {
            return self.roles.epoch_of(index, self.now) == Some(mark.epoch);
        }
        let Some(last) = self.roles.current(index, self.now) else {
            return false;
        };
        let Standing::Standby {
            system, timeline, ..
        } = last.standing
        else {
            return false;
        };
        let stalled = self.servers.get(index).and_then(|server| server.stalled);
        let waits = stalled.is_none_or(|until| until <= self.now);
        // What it had replayed of an older timeline may be what this one does not have.
        let follows = system == mark.epoch.system && timeline >= mark.epoch.timeline;
        follows && (waits || self.proof(index, mark) == Proof::None)
    }

    /// What is still to be proved by a server that may have it.
    pub(super) fn proof(&self, index: usize, mark: Mark) -> Proof {
        if self.roles.primary() == Some(index) {
            return Proof::Epoch(mark.epoch);
        }
        let checked = self.roles.current(index, self.now);
        let checked = checked.and_then(|last| last.replayed());
        let said = self.servers.get(index).and_then(|server| server.replayed);
        let said = said.filter(|(at, _)| self.roles.is_current(*at, self.now));
        let known = checked.map(|replayed| replayed.lsn);
        match known.max(said.map(|(_, lsn)| lsn)) {
            Some(known) if known >= mark.lsn => Proof::None,
            _ => Proof::Replayed(mark.lsn),
        }
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

    /// Why nobody is left; have some been `tried` in vain?
    pub(super) fn nobody(&self, tried: bool) -> Pick {
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
        if elected && self.split == Split::PreferPrimary && !self.hinted && tried {
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
