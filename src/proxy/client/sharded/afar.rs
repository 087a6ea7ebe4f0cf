//! Portals and cursors that the server of one shard has under the client's own names: where they are.

use crate::protocol::batch::messages;
use crate::protocol::frontend::{tag, Bind, Target};
use crate::sql::session::{Effect, Effects};

use super::super::Session;
use super::batch::Relayed;
use super::portals::PORTALS_MAX;

/// Those of the open transaction. What exceeds [`PORTALS_MAX`] is not found again.
#[derive(Default)]
pub(super) struct Afar(Vec<One>);

struct One {
    name: Box<[u8]>,
    shard: usize,
    /// Savepoints that were in force when it was made.
    depth: usize,
    /// It is a COPY FROM, whose data only the relay passes on.
    copies: bool,
}

impl Afar {
    /// The shard whose server has one of this name.
    pub(super) fn shard_of(&self, name: &[u8]) -> Option<usize> {
        let found = self.0.iter().find(|one| *one.name == *name);
        found.map(|one| one.shard)
    }

    /// Is this one a COPY FROM?
    pub(super) fn copies_in(&self, name: &[u8]) -> bool {
        self.0.iter().any(|one| one.copies && *one.name == *name)
    }

    fn note(&mut self, name: &[u8], shard: usize, depth: usize) {
        self.forget(name);
        if self.0.len() < PORTALS_MAX {
            self.0.push(One {
                name: name.into(),
                shard,
                depth,
                copies: false,
            });
        }
    }

    fn note_copies(&mut self, names: &[Box<[u8]>]) {
        for one in &mut self.0 {
            one.copies |= names.contains(&one.name);
        }
    }

    /// It is not there any more. Gives where it was.
    pub(super) fn forget(&mut self, name: &[u8]) -> Option<usize> {
        let at = self.0.iter().position(|one| *one.name == *name)?;
        Some(self.0.swap_remove(at).shard)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// So many savepoints are left after RELEASE.
    pub(super) fn released(&mut self, depth: usize) {
        for one in &mut self.0 {
            one.depth = one.depth.min(depth);
        }
    }

    /// After ROLLBACK TO the savepoint that makes so many: what was made since is gone.
    pub(super) fn rolled_back(&mut self, depth: usize) {
        self.0.retain(|one| one.depth < depth);
    }
}

impl Session {
    /// What a batch has left on the server of its shard, in an open transaction.
    pub(super) fn note_afar(&mut self, batch: &[u8], relayed: &Relayed) {
        let shard = relayed.shard;
        for (header, body) in messages(batch) {
            match header.tag {
                tag::BIND => {
                    if let Ok(bind) = Bind::parse(body) {
                        self.note_one(bind.portal, shard, true);
                    }
                }
                tag::CLOSE => {
                    if let Ok(Target::Portal(name)) = Target::parse(body) {
                        self.note_one(name, shard, false);
                    }
                }
                _ => {}
            }
        }
        for effects in &relayed.effects {
            self.note_cursors(effects, shard);
        }
        if let Some(sharded) = self.sharded.as_mut() {
            sharded.afar.note_copies(&relayed.copies);
        }
    }

    /// A statement has run on the server of this shard: cursors that are there now, or no more.
    pub(super) fn note_cursors(&mut self, effects: &Effects, shard: usize) {
        for step in effects.steps() {
            match &step.effect {
                Effect::Declare { name, .. } => self.note_one(name, shard, true),
                Effect::Close(name) => self.note_one(name, shard, false),
                _ => {}
            }
        }
    }

    fn note_one(&mut self, name: &[u8], shard: usize, made: bool) {
        let Some(sharded) = self.sharded.as_mut() else {
            return;
        };
        let transaction = &sharded.transaction;
        if made && transaction.is_open() && !transaction.is_failed() {
            let depth = transaction.savepoints();
            sharded.afar.note(name, shard, depth);
        } else if !made {
            sharded.afar.forget(name);
        }
    }
}
