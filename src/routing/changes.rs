//! Changes of rows: which shards do them, and which are refused.

use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
use crate::sharding::schema::Width;
use crate::sharding::{Key, KeyType, ShardedColumn, Shards, Usage};
use crate::sql::asked::calls_of_schema;
use crate::sql::keys::{Change, Operand, Overriding, Rows, Write};
use crate::sql::statement::{Function, TableUse};

use super::asking::{has_rows, is_asked, is_of_sequences, is_of_server, is_volatile};
use super::echo::may_be_echoed;
use super::reach::{Table, EVERYTHING};
use super::route::{is_system_catalog, Maker, Route, Router, Stop, TableColumn};
use super::values::NoKey;

impl<'s> Router<'_, 's> {
    pub(super) fn write(
        &self,
        write: &Write,
        mut sets: Vec<Option<Shards>>,
    ) -> Result<Route<'s>, Stop<'s>> {
        if self.keys.incomplete {
            return Err(refused("a construct of this statement").into());
        }
        let target = usize::from(write.target);
        if write.change != Change::Delete && self.renames_key(write) {
            let what = "a change through a view in which a sharding key has another name, too,";
            return Err(refused(what).into());
        }
        match (self.tables.get(target), &write.change) {
            (
                Some(Table::Sharded(column)),
                Change::Insert {
                    columns,
                    rows,
                    conflict_sets,
                    overriding,
                },
            ) => {
                if conflict_sets.iter().any(|name| **name == *column.column) {
                    return Err(key_changes(column).into());
                }
                if *overriding == Overriding::User && self.may_be_identity(write, column) {
                    let what = "OVERRIDING USER VALUE where the sharding key may be an identity";
                    return Err(refused(what).into());
                }
                self.insert(write, column, columns, rows, &mut sets)
            }
            (Some(Table::Sharded(column)), Change::Update { sets: assigned }) => {
                let key = assigned.iter().find(|(name, _)| **name == *column.column);
                match key {
                    Some((_, value)) => self.update_key(write, column, value, &sets),
                    None => self.changed(write, &sets),
                }
            }
            (
                Some(Table::Sharded(column)),
                Change::Merge {
                    sets: assigned,
                    inserts,
                    ..
                },
            ) => {
                if assigned.iter().any(|name| **name == *column.column) {
                    return Err(key_changes(column).into());
                }
                let shard = self.only(&sets).ok_or_else(|| refused("MERGE"))?;
                for insert in inserts {
                    let key = insert.iter().find(|(name, _)| **name == *column.column);
                    let key = key.map(|(_, value)| value);
                    if !self.stored_on(column, key, write, shard)? {
                        return Err(refused("MERGE").into());
                    }
                }
                Ok(Route::One(shard))
            }
            (Some(Table::Sharded(_)), Change::Delete) => self.changed(write, &sets),
            (Some(Table::On(shards)), _) => {
                let shards = *shards;
                match self.only(&sets) {
                    Some(shard) => Ok(Route::One(shard)),
                    None if self.alone(write) => Ok(Route::Same(shards)),
                    None => Err(refused("a change over schemas of several shards").into()),
                }
            }
            (Some(Table::Everywhere { .. }), change) => {
                self.change_everywhere(write, change, &sets)
            }
            (Some(Table::Opaque(_)) | None, _) => Err(refused("this statement").into()),
        }
    }

    /// A change of an omnisharded table: the same on every shard, if every shard finds the same.
    fn change_everywhere(
        &self,
        write: &Write,
        change: &Change,
        sets: &[Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        let what = match change {
            Change::Insert { .. } => "INSERT",
            Change::Update { .. } => "UPDATE",
            Change::Delete => "DELETE",
            Change::Merge { .. } => "MERGE",
        };
        if sets.iter().any(Option::is_some) {
            let what = format!("{what} of an omnisharded table by rows of a sharded one");
            return Err(refused(&what).into());
        }
        let echoes = self.keys.writes.len() == 1 && may_be_echoed(write);
        // LIMIT may choose other rows on every shard.
        let mut levels = self.keys.levels.iter().skip(usize::from(write.level) + 1);
        let reduces = levels.any(|level| level.reduces);
        let catalogues = self.reads_catalogues();
        let other_rows = [
            (reduces, "a subquery with groups or a limit"),
            (catalogues, "a system catalogue"),
        ];
        let mut other_rows = other_rows.iter().filter(|(differs, _)| *differs);
        if let Some((_, by)) = other_rows.next().filter(|_| !echoes) {
            let what = format!("{what} of an omnisharded table by {by}");
            return Err(refused(&what).into());
        }
        let anew = self
            .functions
            .iter()
            .any(|one| is_asked(one) && is_volatile(one));
        let rows = echoes || has_rows(write, &self.keys.writes);
        let differs = |function: &&Function| match is_asked(function) {
            true => is_volatile(function) && !rows,
            false => {
                is_of_server(function) || !self.database.functions.function_is_harmless(function)
            }
        };
        if let Some(function) = self.functions.iter().find(differs) {
            let what = format!("{what} of an omnisharded table by {}()", function.name);
            return Err(refused(&what).into());
        }
        let all = self.database.tables.all();
        let differ = reduces || catalogues || self.keys.system_columns || anew;
        Ok(match echoes && differ {
            true => Route::Echoed(all),
            false => Route::Same(all),
        })
    }

    /// Are rows read of which each server has its own?
    fn reads_catalogues(&self) -> bool {
        let mut references = self.keys.references.iter();
        references.any(|one| {
            let named = (one.schema.as_deref(), &*one.name);
            one.usage == TableUse::Read && is_system_catalog(named, self.database.schema)
        })
    }

    /// Changes within a query, of omnisharded tables alone: each shard does them, and the rows of one are the client's.
    pub(super) fn changes_everywhere(
        &self,
        sets: &[Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        // What a limit chooses may be read by what stands before it, too.
        let mut within = self.keys.levels.iter().skip(1);
        if self.keys.incomplete || within.any(|level| level.reduces) {
            return Err(refused("a change of rows within a query").into());
        }
        let mut route = Route::Same(self.database.tables.all());
        for write in &self.keys.writes {
            route = self.change_everywhere(write, &write.change, sets)?;
        }
        Ok(route)
    }

    /// UPDATE and DELETE: each shard changes its rows, if it can tell by itself which.
    fn changed(&self, write: &Write, sets: &[Option<Shards>]) -> Result<Route<'s>, Stop<'s>> {
        if let Some(shard) = self.only(sets) {
            return Ok(Route::One(shard));
        }
        if !self.reach().all_follow(write.target) {
            return Err(refused("a change by rows of other shards").into());
        }
        let set = sets.get(usize::from(write.target)).copied().flatten();
        Ok(Route::Several(set.unwrap_or_default()))
    }

    /// An UPDATE that sets the key.
    fn update_key(
        &self,
        write: &Write,
        column: &'s ShardedColumn,
        value: &Operand,
        sets: &[Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        let target = usize::from(write.target);
        if let Operand::Column(same) = value {
            // `SET id = id` of the table itself.
            let reach = self.reach();
            let mut own = reach.keys_of(same, &EVERYTHING);
            let own = own.any(|(index, _)| usize::from(index) == target);
            if own {
                return match self.only(sets) {
                    Some(shard) => Ok(Route::One(shard)),
                    None => Err(key_changes(column).into()),
                };
            }
        }
        let to = match self.assigned(write, column, value) {
            Ok(Some(key)) => self.place(column, key, Usage::Assignment)?.single(),
            Ok(None) | Err(NoKey::Unknown(_)) => None,
            Err(other) => return Err(other.error().into()),
        };
        let Some(to) = to else {
            let text = "sharding key assignment is too complex";
            let error = Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text);
            return Err(error.into());
        };
        // Rows that stay where they are may have their key changed by their server.
        if self.only(sets) == Some(to) {
            return Ok(Route::One(to));
        }
        let references = self.keys.references.iter();
        let lone = references.filter(|reference| reference.level == write.level);
        let lone = lone.count() == 1;
        if !lone || !self.reach().all_follow(write.target) {
            let what = "an UPDATE that moves rows by what other tables have";
            return Err(refused(what).into());
        }
        let from = sets.get(target).copied().flatten().unwrap_or_default();
        Ok(Route::Move { from, to, column })
    }

    fn insert(
        &self,
        write: &Write,
        column: &'s ShardedColumn,
        columns: &[Box<str>],
        rows: &Rows,
        sets: &mut [Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        let target = usize::from(write.target);
        let known = self.columns_of(write.target);
        let position = match (columns, known) {
            ([], Some(known)) => known.iter().position(|known| *known.name == *column.column),
            ([], None) => {
                if matches!(rows, Rows::Defaults) {
                    None
                } else {
                    let what = format!("INSERT into {} without a list of columns", column.name());
                    return Err(refused(&what).into());
                }
            }
            (columns, _) => columns.iter().position(|name| **name == *column.column),
        };
        let mut found: Vec<u32> = Vec::new();
        match (rows, position) {
            (Rows::Values { width, operands }, Some(position)) if position < *width => {
                let rows = operands.chunks(*width);
                let values = rows.map(|row| row.get(position).unwrap_or(&Operand::Default));
                if values.clone().all(|value| *value == Operand::Default) {
                    return self.insert_without_key(column, known, sets);
                }
                let defaults = values.clone().any(|value| *value == Operand::Default);
                let other = values.clone().any(|value| *value == Operand::Other);
                if defaults || other && self.may_be_asked(write) {
                    return self.unmade(column, known, defaults, sets);
                }
                for value in values {
                    found.push(self.stored(write, column, value)?);
                }
            }
            (Rows::Select { level, outputs }, Some(position)) => {
                return self.insert_select(
                    write,
                    column,
                    *level,
                    outputs.first.get(position),
                    sets,
                );
            }
            _ => return self.insert_without_key(column, known, sets),
        }
        let Some(&first) = found.first() else {
            return Err(refused("INSERT without rows").into());
        };
        // What else it reads must be there, too.
        if let Some(set) = sets.get_mut(target) {
            *set = Some(found.iter().copied().collect());
        }
        if found.iter().all(|shard| *shard == first) {
            return match self.only(sets) {
                Some(shard) => Ok(Route::One(shard)),
                None => Err(refused("INSERT of rows that depend on other shards").into()),
            };
        }
        match sets.iter().flatten().count() {
            1 => Ok(Route::Rows(found)),
            _ => Err(refused("INSERT of rows that depend on other shards").into()),
        }
    }

    /// The columns of this table, if they are known.
    fn columns_of(&self, reference: u16) -> Option<&'s [TableColumn]> {
        let reference = self.keys.references.get(usize::from(reference))?;
        let schema = reference.schema.as_deref();
        self.database.schema.columns(schema, &reference.name)
    }

    /// Is what is written to a view that gives a key another name?
    fn renames_key(&self, write: &Write) -> bool {
        let reference = self.keys.references.get(usize::from(write.target));
        reference.is_some_and(|one| {
            let schema = self.database.schema;
            schema.below(one.schema.as_deref(), &one.name).renames_key
        })
    }

    /// May what is given for the key be ignored where it overrides nothing?
    fn may_be_identity(&self, write: &Write, column: &ShardedColumn) -> bool {
        let key = key_of(column, self.columns_of(write.target));
        key.is_none_or(|key| key.maker == Maker::Sequence)
    }

    /// The key that a row has to which this value is given.
    fn assigned<'v>(
        &'v self,
        write: &Write,
        column: &ShardedColumn,
        value: &'v Operand,
    ) -> Result<Option<Key<'v>>, NoKey> {
        match self.values.key(value, column.key_type, Usage::Assignment)? {
            Some(key) if key.ends_in_blanks() => {
                let width = self.width(write.target, column);
                Ok(Some(key.stored(width)?))
            }
            key => Ok(key),
        }
    }

    /// How long texts are in the key's column of this table.
    fn width(&self, reference: u16, column: &ShardedColumn) -> Width {
        let own = key_of(column, self.columns_of(reference));
        own.map_or(Width::Unknown, |own| own.width)
    }

    /// Does a row's key stay what it is in another table?
    fn keeps(&self, from: (u16, &ShardedColumn), to: (u16, &ShardedColumn)) -> bool {
        let text = to.1.key_type == KeyType::Varchar;
        !text || self.width(to.0, to.1).holds(self.width(from.0, from.1))
    }

    /// Where a row with this value is stored.
    fn stored(
        &self,
        write: &Write,
        column: &'s ShardedColumn,
        value: &Operand,
    ) -> Result<u32, Stop<'s>> {
        let key = match self.assigned(write, column, value) {
            Ok(Some(key)) => key,
            Ok(None) => return Err(NoKey::Unknown("a fraction").error().into()),
            Err(no_key) => return Err(no_key.error().into()),
        };
        let shards = self.place(column, key, Usage::Assignment)?;
        shards
            .single()
            .ok_or_else(|| refused("a row without a shard").into())
    }

    /// The key is left to its default. One that knows which keys are its shard's runs on any; of another the value is asked for.
    fn insert_without_key(
        &self,
        column: &'s ShardedColumn,
        known: Option<&[TableColumn]>,
        sets: &[Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        let knows = match key_of(column, known) {
            None => true,
            Some(key) => match key.maker {
                Maker::Function => {
                    let default = key.default.as_deref();
                    default.is_some_and(|default| calls_of_schema(&default.expression, OF_SHARDS))
                }
                Maker::Sequence | Maker::Nothing => false,
            },
        };
        if !knows {
            return self.unmade(column, known, true, sets);
        }
        match sets.iter().flatten().count() {
            1 => Ok(Route::New(self.database.tables.all())),
            _ => Err(refused("INSERT of rows that depend on other shards").into()),
        }
    }

    /// The key of a row is what a server says. `defaults`: it is left to its default, in one row at least.
    fn unmade(
        &self,
        column: &'s ShardedColumn,
        known: Option<&[TableColumn]>,
        defaults: bool,
        sets: &[Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        let key = key_of(column, known);
        if defaults && key.is_none_or(|key| key.default.is_none()) {
            let text = format!("sharding key \"{}\" is missing", column.column);
            let code = SqlState::FEATURE_NOT_SUPPORTED;
            return Err(Error::error(Fault::Client, code, text).into());
        }
        if sets.iter().flatten().count() != 1 {
            return Err(refused("INSERT of rows that depend on other shards").into());
        }
        // Sequences are the first shard's, and a user's function may have one.
        let counts = key.is_some_and(|key| defaults && key.maker != Maker::Nothing);
        let all = self.database.tables.all();
        let of = match counts || self.functions.iter().any(is_of_sequences) {
            true => all.first().map_or(all, Shards::one),
            false => all,
        };
        Ok(Route::Unmade { column, of })
    }

    /// Does a statement whose key is an expression change nothing but what it says, so that a server can be asked for it?
    fn may_be_asked(&self, write: &Write) -> bool {
        let mut functions = self.functions.iter();
        has_rows(write, &self.keys.writes)
            && self.keys.levels.len() <= 1
            && functions.all(|function| {
                is_asked(function) || self.database.functions.function_is_harmless(function)
            })
    }

    /// Rows that are read stay on their shard, or the key is one value.
    fn insert_select(
        &self,
        write: &Write,
        column: &'s ShardedColumn,
        level: u16,
        key: Option<&Operand>,
        sets: &mut [Option<Shards>],
    ) -> Result<Route<'s>, Stop<'s>> {
        let target = usize::from(write.target);
        let refusal = || {
            let text = "INSERT … SELECT across shards is not supported";
            Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
        };
        let source = match key {
            Some(Operand::Column(source)) => source,
            Some(Operand::Other | Operand::Default) | None => return Err(refusal().into()),
            Some(value) => {
                let shard = self.stored(write, column, value)?;
                if let Some(set) = sets.get_mut(target) {
                    *set = Some(Shards::one(shard));
                }
                return match self.only(sets) {
                    Some(shard) => Ok(Route::One(shard)),
                    None => Err(refusal().into()),
                };
            }
        };
        let reach = self.reach();
        let mut sources = reach.keys_of(source, &EVERYTHING);
        let found = sources.find(|(root, other)| {
            column.is_like(other) && self.keeps((*root, other), (write.target, column))
        });
        let Some((root, _)) = found else {
            return Err(refusal().into());
        };
        let from = sets.get(usize::from(root)).copied().flatten();
        let from = from.unwrap_or_default();
        if let Some(set) = sets.get_mut(target) {
            *set = Some(from);
        }
        if let Some(shard) = self.only(sets) {
            return Ok(Route::One(shard));
        }
        let direct = self.keys.references.get(usize::from(root));
        let direct = direct.is_some_and(|reference| reference.level == level);
        let plain = self.keys.levels.get(usize::from(level));
        let plain = plain.is_some_and(|level| !level.reduces && !level.combines);
        if direct && plain && reach.all_follow_but(root, write.target) {
            return Ok(Route::Several(from));
        }
        Err(refusal().into())
    }

    /// May an INSERT within a MERGE, all of which is on this shard, store this key there?
    fn stored_on(
        &self,
        column: &'s ShardedColumn,
        key: Option<&Operand>,
        write: &Write,
        shard: u32,
    ) -> Result<bool, Stop<'s>> {
        match key {
            None => Ok(false),
            Some(Operand::Column(source)) => {
                // The key of a table all of whose rows that count are on this shard.
                let reach = self.reach();
                let mut sources = reach.keys_of(source, &EVERYTHING);
                Ok(sources.any(|(index, other)| {
                    let kept = self.keeps((index, other), (write.target, column));
                    index != write.target && column.is_like(other) && kept
                }))
            }
            Some(Operand::Other | Operand::Default) => Ok(false),
            Some(value) => Ok(self.stored(write, column, value)? == shard),
        }
    }

    /// Do all changes of a query leave each row on its shard? Notes where the rows of an INSERT go.
    pub(super) fn writes_stay(&self, sets: &mut [Option<Shards>]) -> Result<bool, Stop<'s>> {
        for write in &self.keys.writes {
            let target = usize::from(write.target);
            let stays = match (self.tables.get(target), &write.change) {
                (Some(Table::On(_)), _) | (Some(Table::Sharded(_)), Change::Delete) => true,
                (Some(Table::Sharded(column)), Change::Update { sets }) => {
                    !sets.iter().any(|(name, _)| **name == *column.column)
                }
                (
                    Some(Table::Sharded(column)),
                    Change::Insert {
                        columns,
                        rows,
                        conflict_sets,
                        overriding: Overriding::Nothing | Overriding::System,
                    },
                ) => {
                    let set_by_conflict = conflict_sets.iter().any(|name| **name == *column.column);
                    let position = columns.iter().position(|name| **name == *column.column);
                    match (rows, position) {
                        (Rows::Values { width, operands }, Some(position)) if !set_by_conflict => {
                            let mut found = Shards::NONE;
                            for row in operands.chunks((*width).max(1)) {
                                let value = row.get(position).unwrap_or(&Operand::Default);
                                found.insert(self.stored(write, column, value)?);
                            }
                            if let Some(set) = sets.get_mut(target) {
                                *set = Some(found);
                            }
                            true
                        }
                        _ => false,
                    }
                }
                _ => false,
            };
            if !stays {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does the statement name no table but its target?
    fn alone(&self, write: &Write) -> bool {
        self.tables.len() == 1 && write.target == 0
    }
}

/// The key's column, as far as the table is known.
fn key_of<'k>(column: &ShardedColumn, known: Option<&'k [TableColumn]>) -> Option<&'k TableColumn> {
    let mut known = known.into_iter().flatten();
    known.find(|known| *known.name == *column.column)
}

/// The schema of functions that make keys of the shard that runs them.
const OF_SHARDS: &str = "pgdog";

/// A change of a sharding key that is not done.
pub fn key_changes(column: &ShardedColumn) -> Error {
    let text = format!(
        "updating sharding key \"{}\" is refused by rewrite.shard_key",
        column.column
    );
    Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
}
