//! Statements that one value sends to one shard, whatever else they say.
//!
//! [`super::route::route`] answers for every statement. Most that a busy database gets are of one table and compare its key
//! with one value. Which value that is does not depend on what it is, so it is found out once for all texts of a shape;
//! what is left to do for each is to place the key.

use crate::sharding::{Key, Placement, ShardingTables, Usage};
use crate::sql::keys::{Change, Keys, Reference};
use crate::sql::statement::{Decisive, Kind, Statement};

use super::reach::{Reach, Table};
use super::role::statement_is_readable;
use super::route::{tables, Database};
use super::values::Values;

/// The value that alone decides where a statement goes. `None`: there is none of which that is known.
///
/// Where there is one, and [`shard`] knows where it is, [`super::route::route`] says the same; and a SELECT may be run by a
/// replica.
pub fn decisive(statement: &Statement, database: &Database<'_>) -> Option<Decisive> {
    let keys = statement.keys.as_deref()?;
    if !is_simple(keys) || !statement.functions.is_empty() {
        return None;
    }
    let tables = tables(keys, database);
    let [Table::Sharded(column)] = *tables else {
        return None;
    };
    let is_key = |(name, _): &(Box<str>, _)| **name == *column.column;
    let fits = match (&statement.kind, &*keys.writes) {
        (Kind::Select, []) => statement_is_readable(statement, database.functions).is_ok(),
        (Kind::Delete, [write]) => write.change == Change::Delete,
        (Kind::Update, [write]) => {
            let schema = database.schema;
            let renames =
                |one: &Reference| schema.below(one.schema.as_deref(), &one.name).renames_key;
            let plain = !keys.references.iter().any(renames);
            plain && matches!(&write.change, Change::Update { sets } if !sets.iter().any(is_key))
        }
        _ => false,
    };
    if !fits || column.lookup.is_some() {
        return None;
    }
    let reach = Reach {
        keys,
        tables: &tables,
        schema: database.schema,
        sharding: database.tables,
    };
    let mut restrictions = (0_u16..)
        .zip(&keys.restrictions)
        .filter(|(_, restriction)| {
            let mut keys = reach.keys_of(&restriction.column, &restriction.within);
            keys.next().is_some()
        });
    let (restriction, of_key) = restrictions.next()?;
    let single = matches!(&*of_key.members, [member] if !member.array);
    if !single || restrictions.next().is_some() {
        return None;
    }
    let mut columns = database.tables.columns.iter();
    let column = columns.position(|known| std::ptr::eq(known, column))?;
    Some(Decisive {
        restriction,
        column: u16::try_from(column).ok()?,
    })
}

/// One level with one table, all of it understood.
fn is_simple(keys: &Keys) -> bool {
    let lone = keys.levels.len() == 1 && keys.references.len() == 1;
    lone && !keys.incomplete && keys.equalities.is_empty() && keys.nearest.is_empty()
}

/// The shard of a statement's decisive value. `None`: it is not this value that decides it, after all: it is NULL, no key,
/// or none that a rule takes.
pub fn shard(
    statement: &Statement,
    decisive: Decisive,
    values: &Values<'_>,
    tables: &ShardingTables,
) -> Option<u32> {
    let keys = statement.keys.as_deref()?;
    let restriction = keys.restrictions.get(usize::from(decisive.restriction))?;
    let member = restriction.members.first()?;
    let column = tables.columns.get(usize::from(decisive.column))?;
    let key = values
        .key(&member.operand, column.key_type, Usage::Comparison)
        .ok()??;
    match (&key, column.place(&key)) {
        (Key::Null, _) => None,
        (_, Placement::Shard(shard)) => Some(shard),
        _ => None,
    }
}
