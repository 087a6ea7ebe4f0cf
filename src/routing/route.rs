//! To which shards a statement goes.
//!
//! By what is provably right. A table's rows that a statement may touch are on the shards of the values that its key is
//! compared with, where that comparison must hold for each such row; else on all. A statement goes to one shard only if
//! all that it touches is there. Writes that cannot be divided are refused; a SELECT for several shards is planned by
//! `sql::parse::across`, which refuses what it cannot put together.

use std::fmt;

use crate::config::choice::SystemCatalogs;
use crate::error::{Error, Fault};
use crate::merge::refused;
use crate::protocol::sqlstate::SqlState;
pub use crate::sharding::schema::{Below, Column as TableColumn, Maker, Opaque};
use crate::sharding::{
    Key, KeyType, Placement, ShardedColumn, ShardingTables, Shards, TableKind, Usage,
};
use crate::sql::keys::{Keys, Member, Nearest, Reference};
use crate::sql::statement::{Function, Kind, Statement, TableUse};

pub use super::changes::key_changes;
use super::reach::{Reach, Table, EVERYTHING};
use super::role::Catalogue;
use super::values::{NoKey, Values, OTHER_ENCODING};

/// Where a query goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Route<'s> {
    /// One shard has all that it touches.
    One(u32),
    /// Any shard answers the same: only omnisharded tables are read, or none.
    Any {
        /// A client reads it from one shard.
        sticky: bool,
    },
    /// These shards, none of which has all; at least two. Each may write its part; of a SELECT the plan is to be made.
    Several(Shards),
    /// Each of these shards does the same; the reply of one counts.
    Same(Shards),
    /// One shard stores it, whichever: a new row whose key the shard makes.
    New(Shards),
    /// The first of these does it, and the others store the rows that it has stored.
    Echoed(Shards),
    /// A row's key is for a server to make, one of these: ask it first, and route what the answer makes of the statement.
    Unmade {
        /// The key's column.
        column: &'s ShardedColumn,
        /// Who may be asked.
        of: Shards,
    },
    /// Rows of an INSERT, each to its shard, in order; at least two differ.
    Rows(Vec<u32>),
    /// An UPDATE that gives rows of this shard (or of one of several) another key, which is of `to`.
    Move {
        /// Where the rows are.
        from: Shards,
        /// Where they go.
        to: u32,
        /// The key's column.
        column: &'s ShardedColumn,
    },
    /// This must be known first: run the lookup query of the column with this key, and route again with its answer.
    Lookup(&'s ShardedColumn, Key<'static>),
}

/// Columns of tables, as far as they are known.
pub trait Schema {
    /// Of this table in its order, none if nothing is known of it. Without a schema it is the one that the search path finds.
    fn columns(&self, schema: Option<&str>, table: &str) -> Option<&[TableColumn]>;

    /// Does this column, alone, refer to that one by a foreign key? Each with its table and, maybe, schema.
    fn refers(&self, column: ColumnOf<'_>, to: ColumnOf<'_>) -> bool {
        let _ = (column, to);
        false
    }

    /// The schema in which a table is found that is named without one, if that is known.
    fn schema_of(&self, table: &str) -> Option<&str> {
        let _ = table;
        None
    }

    /// If it is a view: of what.
    fn below(&self, schema: Option<&str>, table: &str) -> Below {
        let _ = (schema, table);
        Below::default()
    }

    /// Why nobody knows what a server has of this table, if that is known of it.
    fn opaque(&self, schema: Option<&str>, table: &str) -> Option<Opaque> {
        let _ = (schema, table);
        None
    }
}

/// A column of a table that is named with a schema, or without.
pub type ColumnOf<'a> = ((Option<&'a str>, &'a str), &'a str);

/// Nothing is known of tables.
#[derive(Clone, Copy, Debug)]
pub struct NoSchema;

impl Schema for NoSchema {
    fn columns(&self, _schema: Option<&str>, _table: &str) -> Option<&[TableColumn]> {
        None
    }
}

/// What routing needs to know of a database.
#[derive(Clone, Copy)]
pub struct Database<'s> {
    /// Its sharded tables.
    pub tables: &'s ShardingTables,
    /// Columns of its tables.
    pub schema: &'s dyn Schema,
    /// Where tables are that are named without a schema, if schemas have shards and the search path names one.
    pub search_path: Option<Shards>,
    /// Functions of its own, and which of them are harmless.
    pub functions: &'s Catalogue,
    /// How system catalogues are read.
    pub system_catalogs: SystemCatalogs,
    /// Omnisharded tables that are not listed are read from one shard per client.
    pub sticky: bool,
    /// Answers of lookup queries so far.
    pub lookups: &'s dyn Fn(&ShardedColumn, &Key<'_>) -> Option<Placement<'s>>,
}

/// The schema of a table, as it is named with one or found without. Where schemas have shards it is not looked for: no
/// shard's catalogue knows them all.
pub(super) fn schema_of<'n>(
    (named, name): (Option<&'n str>, &str),
    tables: &ShardingTables,
    schema: &'n dyn Schema,
) -> Option<&'n str> {
    match named {
        None if tables.schemas.is_empty() => schema.schema_of(name),
        named => named,
    }
}

/// Where a SELECT, INSERT, UPDATE, DELETE or MERGE goes.
///
/// Errors: 0A000 with the reason why it cannot be done, 22P02 for what is no key, 08P01 for a parameter that is missing.
pub fn route<'s>(
    statement: &Statement,
    values: &Values<'_>,
    database: &Database<'s>,
) -> Result<Route<'s>, Error> {
    let Some(keys) = &statement.keys else {
        return Err(refused("this statement"));
    };
    if statement.makes_table {
        return Err(refused("SELECT INTO"));
    }
    let router = Router {
        functions: &statement.functions,
        locks: statement.locks_rows,
        keys,
        values,
        database,
        tables: tables(keys, database),
    };
    match router.route() {
        Ok(route) => Ok(route),
        Err(Stop::Lookup(column, key)) => Ok(Route::Lookup(column, key)),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// A table of this statement that would be taken for an omnisharded one as nothing is known of it. It may be a view, or
/// sharded by one of its columns. `is_fine` are tables of which this is known to be right.
pub fn unknown_table<'k>(
    statement: &'k Statement,
    database: &Database<'_>,
    is_fine: impl Fn(&str) -> bool,
) -> Option<&'k str> {
    // Where schemas have shards, one of another shard's schema is not in the catalogue that was asked.
    let by_path = database.search_path.is_some() && !database.tables.schemas.is_empty();
    let unlisted = |schema: Option<&str>, name: &str, names: &dyn Fn(&str) -> bool| {
        let placed = by_path && schema.is_none();
        let unknown = !placed && database.schema.columns(schema, name).is_none() && !is_fine(name);
        let kind = || database.tables.table(schema, name, names);
        let everywhere = || matches!(kind(), TableKind::Omnisharded { sticky: None });
        unknown && !is_system_catalog((schema, name), database.schema) && everywhere()
    };
    let references = statement.keys.iter().flat_map(|keys| {
        let references = (0_u16..).zip(&keys.references);
        references.map(move |(index, reference)| (keys, index, reference))
    });
    let mut references = references.filter(|(keys, index, reference)| {
        let names = |column: &str| keys.names(*index, column);
        unlisted(reference.schema.as_deref(), &reference.name, &names)
    });
    if let Some((_, _, reference)) = references.next() {
        return Some(&reference.name);
    }
    let Kind::Copy(copy) = &statement.kind else {
        return None;
    };
    let mut tables = statement.tables.iter();
    let names = |column: &str| copy.columns.iter().any(|name| **name == *column);
    let found = tables.find(|table| unlisted(table.schema.as_deref(), &table.name, &names));
    found.map(|table| &*table.name)
}

/// Does a statement change rows of a table that is known, and is the same on several shards?
pub fn changes_alike(statement: &Statement, database: &Database<'_>) -> bool {
    let changed = statement.tables.iter().filter(|table| match table.usage {
        TableUse::Insert | TableUse::Update | TableUse::Delete | TableUse::Merge => true,
        TableUse::Definition => statement.kind == Kind::Truncate,
        _ => false,
    });
    let known = changed.filter(|table| {
        let schema = table.schema.as_deref();
        database.schema.columns(schema, &table.name).is_some()
    });
    let references = known.map(|table| Reference {
        schema: table.schema.clone(),
        name: table.name.clone(),
        usage: table.usage,
        level: 0,
    });
    let keys = Keys {
        references: references.collect(),
        ..Keys::default()
    };
    tables(&keys, database).iter().any(|table| match table {
        Table::Everywhere { .. } => true,
        Table::On(shards) => shards.len() > 1,
        Table::Sharded(_) | Table::Opaque(_) => false,
    })
}

/// The shards of a key that a comment or `pgdog.sharding_key` gives, whatever the statement.
///
/// Errors: 22P02 for what is no key, 0A000 if the database's tables do not agree on where equal keys are, or no rule
/// takes this one.
pub fn route_key<'s>(
    key: &[u8],
    encoded_as_stored: bool,
    database: &Database<'s>,
) -> Result<Route<'s>, Error> {
    let mut columns = database.tables.columns.iter();
    let Some(column) = columns.next() else {
        return Err(refused("a sharding key without sharded tables"));
    };
    if columns.any(|other| !column.is_like(other)) {
        return Err(refused(
            "a sharding key where tables have keys of different kinds",
        ));
    }
    let key = column.key_type.text(key)?;
    if !encoded_as_stored && !key.is_ascii() {
        return Err(NoKey::Unknown(OTHER_ENCODING).error());
    }
    let placement = match column.place(&key) {
        Placement::Ask(_) => match (database.lookups)(column, &key) {
            Some(answer) => answer,
            None => return Ok(Route::Lookup(column, key.into_owned())),
        },
        placement => placement,
    };
    match placement {
        Placement::Shard(shard) => Ok(Route::One(shard)),
        Placement::Ask(_) | Placement::Unmatched => {
            Err(refused("a sharding key that no rule takes"))
        }
    }
}

/// For EXPLAIN and logs.
impl fmt::Display for Route<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(shard) => write!(f, "shard {shard}"),
            Self::Any { .. } => f.write_str("any shard"),
            Self::Several(shards) => write!(f, "shards {shards}"),
            Self::Same(shards) => write!(f, "the same on shards {shards}"),
            Self::New(_) => f.write_str("any shard, which makes the key"),
            Self::Echoed(shards) => write!(
                f,
                "the first of shards {shards}, whose rows all others store"
            ),
            Self::Unmade { of, .. } => write!(f, "as the key says that one of shards {of} makes"),
            Self::Rows(rows) => {
                let shards: Shards = rows.iter().copied().collect();
                write!(f, "{} rows divided among shards {shards}", rows.len())
            }
            Self::Move { from, to, .. } => write!(f, "rows move from shards {from} to shard {to}"),
            Self::Lookup(column, _) => write!(f, "as the lookup query of {} says", column.name()),
        }
    }
}

/// Why a route is not known.
pub(super) enum Stop<'s> {
    Error(Error),
    Lookup(&'s ShardedColumn, Key<'static>),
}

impl From<Error> for Stop<'_> {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

pub(super) struct Router<'r, 's> {
    pub(super) functions: &'r [Function],
    /// It locks rows that it reads.
    pub(super) locks: bool,
    pub(super) keys: &'r Keys,
    pub(super) values: &'r Values<'r>,
    pub(super) database: &'r Database<'s>,
    pub(super) tables: Vec<Table<'s>>,
}

/// What each reference is.
pub(super) fn tables<'s>(keys: &Keys, database: &Database<'s>) -> Vec<Table<'s>> {
    let references = (0_u16..).zip(&keys.references);
    let tables = references.map(|(index, reference)| {
        let (schema, name) = (reference.schema.as_deref(), &*reference.name);
        let has_column = |column: &str| match database.schema.columns(schema, name) {
            Some(columns) => columns.iter().any(|known| &*known.name == column),
            None => keys.names(index, column),
        };
        if is_system_catalog((schema, name), database.schema) {
            return Table::Everywhere {
                sticky: database.system_catalogs == SystemCatalogs::OmnishardedSticky,
            };
        }
        let found = schema_of((schema, name), database.tables, database.schema);
        let kind = database.tables.table(found, name, has_column);
        // Of a view that an entry names its rows are where that says.
        let named = match kind {
            TableKind::Sharded(column) => column.table.is_some(),
            TableKind::Omnisharded { sticky } => sticky.is_some(),
            TableKind::InSchema(_) => true,
        };
        let opaque = database.schema.opaque(schema, name);
        let opaque = opaque.filter(|why| !named || *why != Opaque::View);
        match kind {
            TableKind::Sharded(column) => match opaque {
                Some(why) => Table::Opaque(why),
                None => Table::Sharded(column),
            },
            TableKind::InSchema(shards) => match (schema, database.search_path) {
                (None, Some(found)) => Table::On(found),
                _ => Table::On(shards),
            },
            TableKind::Omnisharded { sticky } => match (schema, database.search_path) {
                (None, Some(found)) if !database.tables.schemas.is_empty() => Table::On(found),
                _ => match opaque {
                    Some(why) => Table::Opaque(why),
                    None => Table::Everywhere {
                        sticky: sticky.unwrap_or(database.sticky),
                    },
                },
            },
        }
    });
    tables.collect()
}

/// As psql and drivers name them: PostgreSQL looks into `pg_catalog` first. A table of a user may have such a name, too; a view
/// that tells of a server is like one of the system.
pub(super) fn is_system_catalog((named, name): (Option<&str>, &str), schema: &dyn Schema) -> bool {
    let of_user = || {
        let known = schema.columns(None, name).is_some();
        known && schema.opaque(None, name) != Some(Opaque::View)
    };
    match named {
        Some(named) => matches!(named, "pg_catalog" | "information_schema"),
        None => name.starts_with("pg_") && !of_user(),
    }
}

/// Does it read one of them?
pub fn reads_catalogue(keys: &Keys, schema: &dyn Schema) -> bool {
    keys.references.iter().any(|reference| {
        let named = (reference.schema.as_deref(), &*reference.name);
        is_system_catalog(named, schema)
    })
}

impl<'s> Router<'_, 's> {
    fn route(&self) -> Result<Route<'s>, Stop<'s>> {
        for (table, reference) in self.tables.iter().zip(&self.keys.references) {
            if let Table::Opaque(why) = table {
                return Err(refused(&why.refused(&reference.name)).into());
            }
        }
        let mut sets = self.shards_of_tables()?;
        let written = self.keys.writes.as_slice();
        let route = match written {
            [] => return self.read(&sets),
            [write] if write.level == 0 => self.write(write, sets),
            _ if sets.iter().all(Option::is_none) => self.changes_everywhere(&sets),
            // Changes within a query: only where all of it is on one shard.
            _ => {
                let stays = self.writes_stay(&mut sets)?;
                match self.only(&sets) {
                    Some(shard) if stays => Ok(Route::One(shard)),
                    _ => Err(refused("a change of rows within a query").into()),
                }
            }
        }?;
        // Rows of several shards are at the same places, and each shard has other numbers for the same transaction.
        let alone = matches!(route, Route::One(_) | Route::Echoed(_));
        match self.keys.system_columns && !alone {
            true => Err(refused("a change by a system column").into()),
            false => Ok(route),
        }
    }

    /// Where the rows of each table are that may count: `None` for one that has all rows everywhere.
    fn shards_of_tables(&self) -> Result<Vec<Option<Shards>>, Stop<'s>> {
        let all = self.database.tables.all();
        let mut sets: Vec<Option<Shards>> = self
            .tables
            .iter()
            .map(|table| match table {
                Table::Sharded(_) => Some(all),
                Table::On(shards) => Some(*shards),
                Table::Everywhere { .. } | Table::Opaque(_) => None,
            })
            .collect();
        let reach = self.reach();
        for restriction in &self.keys.restrictions {
            for (index, column) in reach.keys_of(&restriction.column, &restriction.within) {
                let Some(found) = self.places(column, &restriction.members)? else {
                    continue;
                };
                if let Some(Some(set)) = sets.get_mut(usize::from(index)) {
                    *set = set.intersection(found);
                }
            }
        }
        for nearest in &self.keys.nearest {
            for (index, column) in reach.keys_of(&nearest.column, &EVERYTHING) {
                let Some(found) = self.near(column, nearest) else {
                    continue;
                };
                if let Some(Some(set)) = sets.get_mut(usize::from(index)) {
                    *set = set.intersection(found);
                }
            }
        }
        // What restricts a table restricts those that follow it; each turn makes a set smaller, or is the last.
        let edges = reach.edges();
        loop {
            let mut changed = false;
            for &(from, to) in &edges {
                let from = sets.get(usize::from(from)).copied().flatten();
                let (Some(from), Some(Some(set))) = (from, sets.get_mut(usize::from(to))) else {
                    continue;
                };
                let smaller = set.intersection(from);
                changed |= smaller != *set;
                *set = smaller;
            }
            if !changed {
                return Ok(sets);
            }
        }
    }

    pub(super) fn reach(&self) -> Reach<'_, 's> {
        Reach {
            keys: self.keys,
            tables: &self.tables,
            schema: self.database.schema,
            sharding: self.database.tables,
        }
    }

    /// The shards of values; `None` if they cannot be told.
    fn places(
        &self,
        column: &'s ShardedColumn,
        members: &[Member],
    ) -> Result<Option<Shards>, Stop<'s>> {
        let mut found = Shards::NONE;
        let mut stop = None;
        for member in members {
            let mut each = |key: Key<'_>| {
                // Nothing equals NULL.
                if key != Key::Null && stop.is_none() {
                    match self.place(column, key, Usage::Comparison) {
                        Ok(shards) => found = found.union(shards),
                        Err(why) => stop = Some(why),
                    }
                }
            };
            match self.values.each(member, column.key_type, &mut each) {
                Ok(()) => {}
                Err(NoKey::Unknown(_)) => return Ok(None),
                Err(other) => return Err(other.error().into()),
            }
        }
        match stop {
            Some(why) => Err(why),
            None => Ok(Some(found)),
        }
    }

    /// Where the nearest vectors are looked for; `None` where that cannot be told, or all rows are wanted.
    fn near(&self, column: &ShardedColumn, nearest: &Nearest) -> Option<Shards> {
        let value = |operand, key_type| {
            let key = self.values.key(operand, key_type, Usage::Comparison);
            key.ok().flatten()
        };
        match value(&nearest.limit, KeyType::Bigint)? {
            Key::Integer(_) => Some(column.near(&value(&nearest.to, column.key_type)?)),
            _ => None,
        }
    }

    /// Where a key is looked for, or stored.
    pub(super) fn place(
        &self,
        column: &'s ShardedColumn,
        key: Key<'_>,
        usage: Usage,
    ) -> Result<Shards, Stop<'s>> {
        let placement = match column.place(&key) {
            Placement::Ask(_) => match (self.database.lookups)(column, &key) {
                Some(answer) => answer,
                None => return Err(Stop::Lookup(column, key.into_owned())),
            },
            placement => placement,
        };
        match placement {
            Placement::Shard(shard) => Ok(Shards::one(shard)),
            Placement::Ask(_) | Placement::Unmatched if usage == Usage::Assignment => {
                let text = format!(
                    "no rule says where rows with this \"{}\" are",
                    column.column
                );
                let error = Error::error(Fault::Client, SqlState::FEATURE_NOT_SUPPORTED, text);
                Err(error.into())
            }
            Placement::Ask(_) | Placement::Unmatched => Ok(self.database.tables.all()),
        }
    }

    /// The one shard that has all that counts.
    pub(super) fn only(&self, sets: &[Option<Shards>]) -> Option<u32> {
        if self.keys.incomplete {
            return None;
        }
        let mut sets = sets.iter().flatten().peekable();
        sets.peek()?;
        let needed = sets.fold(Shards::NONE, |all, set| all.union(*set));
        // Where no row can count, any shard says so.
        match needed.is_empty() {
            true => Some(0),
            false => needed.single(),
        }
    }

    /// Where a query that any shard could answer has to go for what it calls. Numbers of a sequence, advisory locks and large
    /// objects are the same for all clients, so one server has them, as it has the locks of rows that are everywhere. Whoever listens
    /// hears it from one shard, so all notify. A function of a schema is where that is.
    fn by_functions(&self) -> Option<Route<'s>> {
        let calls = |names: &dyn Fn(&str) -> bool| {
            let mut functions = self.functions.iter();
            functions.any(|function| names(&function.name))
        };
        let found = match self.database.search_path {
            Some(shards) if self.tables.is_empty() && !self.functions.is_empty() => shards,
            _ => self.database.tables.all(),
        };
        if calls(&|name| matches!(name, "setval" | "pg_notify")) {
            return Some(match found.len() {
                1 => Route::One(found.first()?),
                _ => Route::Same(found),
            });
        }
        let of_one = self.locks
            || calls(&|name| {
                matches!(name, "nextval" | "loread" | "lowrite")
                    || name.starts_with("lo_")
                    || name.starts_with("pg_advisory_")
                    || name.starts_with("pg_try_advisory_")
            });
        let narrower = found != self.database.tables.all();
        (of_one || narrower).then(|| found.first().map(Route::One))?
    }

    fn read(&self, sets: &[Option<Shards>]) -> Result<Route<'s>, Stop<'s>> {
        if self.keys.incomplete && !self.tables.is_empty() {
            return Err(refused("a construct of this query").into());
        }
        if let Some(shard) = self.only(sets) {
            return Ok(Route::One(shard));
        }
        if sets.iter().all(Option::is_none) {
            let catalogue = reads_catalogue(self.keys, self.database.schema);
            if catalogue && self.database.system_catalogs == SystemCatalogs::Sharded {
                return Ok(Route::Several(self.database.tables.all()));
            }
            if let Some(route) = self.by_functions() {
                return Ok(route);
            }
            let sticky = |table: &Table<'_>| matches!(table, Table::Everywhere { sticky: true });
            // Without a table nothing is gained by going elsewhere.
            let sticky = self.tables.is_empty() || self.tables.iter().any(sticky);
            return Ok(Route::Any { sticky });
        }
        let needed = sets.iter().flatten();
        let needed = needed.fold(Shards::NONE, |all, set| all.union(*set));
        // Tables of a schema that is on several shards are the same on each.
        let same = self
            .tables
            .iter()
            .zip(sets)
            .all(|(table, set)| match table {
                Table::On(shards) => *set == Some(*shards) && shards.len() > 1,
                Table::Everywhere { .. } => true,
                Table::Sharded(_) | Table::Opaque(_) => false,
            });
        if same {
            let common = sets.iter().flatten();
            let common = common.fold(needed, |all, set| all.intersection(*set));
            if let Some(shard) = common.first() {
                return Ok(Route::One(shard));
            }
        }
        if self
            .tables
            .iter()
            .any(|table| matches!(table, Table::On(_)))
        {
            return Err(refused("a query over schemas of several shards").into());
        }
        Ok(Route::Several(needed))
    }
}

#[cfg(test)]
mod tests;
