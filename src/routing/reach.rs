//! Which tables of a statement have their rows where those of another are.

use std::ops::Range;

use crate::sharding::{ShardedColumn, ShardingTables, Shards};
use crate::sql::keys::{Column, Keys, Place};

use super::route::{Opaque, Schema};

/// What a table of a statement is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Table<'s> {
    /// Its rows are spread by this column.
    Sharded(&'s ShardedColumn),
    /// It is on these shards for its schema's sake.
    On(Shards),
    /// Nobody knows what a server has of it.
    Opaque(Opaque),
    /// It has the same rows on every shard.
    Everywhere {
        /// A client reads it from one shard.
        sticky: bool,
    },
}

/// All tables of a statement.
pub(super) const EVERYTHING: Range<u16> = 0..u16::MAX;

/// Tables and what connects them.
pub(super) struct Reach<'k, 's> {
    pub(super) keys: &'k Keys,
    pub(super) tables: &'k [Table<'s>],
    /// What is known of them.
    pub(super) schema: &'k dyn Schema,
    pub(super) sharding: &'k ShardingTables,
}

impl<'k, 's> Reach<'k, 's> {
    /// The tables whose key this column is.
    pub(super) fn keys_of<'a>(
        &'a self,
        column: &'a Column,
        within: &'a Range<u16>,
    ) -> impl Iterator<Item = (u16, &'s ShardedColumn)> + use<'a, 'k, 's> {
        column.of.clone().filter_map(move |index| {
            let reference = self.keys.references.get(usize::from(index))?;
            let Table::Sharded(key) = self.tables.get(usize::from(index))? else {
                return None;
            };
            let fits = reference.level == column.level
                && within.contains(&index)
                && *key.column == *column.name;
            fits.then_some((index, *key))
        })
    }

    /// Pairs of tables, the second of which follows the first: its rows that count have the keys of the first's.
    pub(super) fn edges(&self) -> Vec<(u16, u16)> {
        let mut edges = Vec::new();
        for equality in &self.keys.equalities {
            for (from, one) in self.keys_of(&equality.from, &EVERYTHING) {
                for (to, other) in self.keys_of(&equality.to, &equality.within) {
                    if from != to && one.is_like(other) {
                        edges.push((from, to));
                    }
                }
            }
            for from in self.sharded(&equality.from, &EVERYTHING) {
                for to in self.sharded(&equality.to, &equality.within) {
                    let columns = (&*equality.from.name, &*equality.to.name);
                    if from != to && self.refer((from, to), columns) {
                        edges.push((from, to));
                    }
                }
            }
        }
        edges
    }

    /// The sharded tables that this column may be of.
    fn sharded<'a>(
        &'a self,
        column: &'a Column,
        within: &'a Range<u16>,
    ) -> impl Iterator<Item = u16> + use<'a, 'k, 's> {
        column.of.clone().filter(move |index| {
            let at = usize::from(*index);
            let reference = self.keys.references.get(at);
            let here = reference.is_some_and(|reference| reference.level == column.level);
            here && within.contains(index) && matches!(self.tables.get(at), Some(Table::Sharded(_)))
        })
    }

    /// Are rows of both tables on one shard where these columns are equal, because one of them refers to the other by a
    /// foreign key? Each shard sees to it that the row referred to is there, and an anchor says that there is no other.
    fn refer(&self, (one, other): (u16, u16), (own, theirs): (&str, &str)) -> bool {
        let key = |index: u16| match self.tables.get(usize::from(index)) {
            Some(Table::Sharded(key)) => Some(*key),
            _ => None,
        };
        let (Some(first), Some(second)) = (key(one), key(other)) else {
            return false;
        };
        let named = |index: u16| {
            let reference = self.keys.references.get(usize::from(index))?;
            Some((reference.schema.as_deref(), &*reference.name))
        };
        let (Some(from), Some(to)) = (named(one), named(other)) else {
            return false;
        };
        first.is_like(second)
            && self.sharding.is_anchored(first)
            && (self.schema.refers((from, own), (to, theirs))
                || self.schema.refers((to, theirs), (from, own)))
    }

    /// Has each shard, for its rows of this table, all that the statement reads of sharded tables, and what is the same
    /// everywhere is read the same?
    pub(super) fn all_follow(&self, root: u16) -> bool {
        self.all_follow_but(root, root)
    }

    /// The same, whatever is with one other table, into which rows are put.
    pub(super) fn all_follow_but(&self, root: u16, other: u16) -> bool {
        let edges = self.edges();
        let mut reached = vec![false; self.tables.len()];
        let mut mark = |index: u16| match reached.get_mut(usize::from(index)) {
            Some(seen) => !std::mem::replace(seen, true),
            None => false,
        };
        mark(root);
        mark(other);
        let mut next = vec![root];
        while let Some(from) = next.pop() {
            for &(source, to) in &edges {
                if source == from && mark(to) {
                    next.push(to);
                }
            }
        }
        let followed = self
            .tables
            .iter()
            .zip(&reached)
            .all(|(table, reached)| match table {
                Table::Sharded(_) => *reached,
                Table::On(_) | Table::Opaque(_) => false,
                Table::Everywhere { .. } => true,
            });
        followed
            && self
                .keys
                .levels
                .iter()
                .enumerate()
                .all(|(at, _)| self.level_is_local(at))
    }

    /// Does a level within the statement give each shard what one server would have given for that shard's rows?
    fn level_is_local(&self, at: usize) -> bool {
        let Some(level) = self.keys.levels.get(at) else {
            return false;
        };
        let sharded = |range: &Range<u16>| {
            range
                .clone()
                .any(|index| matches!(self.tables.get(usize::from(index)), Some(Table::Sharded(_))))
        };
        let preserved = level
            .outer_joins
            .iter()
            .all(|(all, some)| sharded(all) || !sharded(some));
        if at == 0 || level.place == Place::Source {
            return preserved && !level.combines;
        }
        if !sharded(&level.references) {
            // The same on every shard, unless a limit chooses among rows of any order.
            return !level.reduces || level.references.is_empty();
        }
        match level.place {
            Place::With | Place::Recursive | Place::Arm => false,
            Place::From | Place::Top | Place::Source => {
                !level.reduces && !level.combines && preserved
            }
            // For each row of the outer level, on whose shard its rows are.
            Place::Expression => {
                !level.combines && preserved && self.is_correlated(&level.references)
            }
        }
    }

    /// Does a table of these follow one of an outer level?
    fn is_correlated(&self, references: &Range<u16>) -> bool {
        self.keys.equalities.iter().any(|equality| {
            let mut inner = self.keys_of(&equality.to, &equality.within);
            equality.correlated
                && inner.any(|(index, _)| references.contains(&index))
                && self.keys_of(&equality.from, &EVERYTHING).next().is_some()
        })
    }
}
