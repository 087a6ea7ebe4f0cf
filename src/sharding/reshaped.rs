//! What definitions make of tables with rows: another table for routing, whose rows are not where they are looked for?

use std::collections::HashMap;

use super::families::{is_like, kind};
use super::key::KeyType;
use super::references::with_followers;
use super::schema::{Column, Schema, Table, TableKind};
use super::tables::{ShardingTables, TableKind as Kind};

/// The tables, schema and name, that were there before and are placed otherwise since, or by another column, or by one that was
/// `computed` anew, which is asked with a table's name and its key.
pub fn reshaped(
    tables: &ShardingTables,
    before: &Schema,
    after: &Schema,
    computed: impl Fn(&str, &str) -> bool,
) -> Vec<(String, String)> {
    let extended = [before, after].map(|schema| with_followers(tables, schema));
    let [then, now] = extended
        .each_ref()
        .map(|all| all.as_ref().unwrap_or(tables));
    let known = before.all().into_iter();
    let known: HashMap<u32, _> = known.map(|one| (one.1.oid, one)).collect();
    let changed = after.all().into_iter().filter(|(name, table)| {
        let was = known.get(&table.oid);
        table.kind == TableKind::Table
            && was.is_some_and(|(old, was)| {
                let (old, new) = (kind(then, old, was), kind(now, name, table));
                !is_like(&old, &new)
                    || key(&old, was).map(number) != key(&new, table).map(number)
                    || !keeps_keys(&new, key(&old, was), key(&new, table))
                    || matches!(new, Kind::Sharded(by) if computed(name, &by.column))
            })
    });
    changed
        .map(|(name, table)| ((*table.schema).to_owned(), name.to_owned()))
        .collect()
}

/// The column that is the key.
fn key<'t>(kind: &Kind<'_>, table: &'t Table) -> Option<&'t Column> {
    match kind {
        Kind::Sharded(column) => table.column(&column.column),
        Kind::InSchema(_) | Kind::Omnisharded { .. } => None,
    }
}

fn number(column: &Column) -> u16 {
    column.number
}

/// Are keys what they were, by the types of their column before and now?
fn keeps_keys(kind: &Kind<'_>, before: Option<&Column>, now: Option<&Column>) -> bool {
    let (Kind::Sharded(entry), Some(before), Some(now)) = (kind, before, now) else {
        return true;
    };
    let is_key = |column: &Column| entry.key_type.is_of_column(&column.of_type);
    let same = now.width == before.width || now.width.holds(before.width);
    let cut = entry.key_type == KeyType::Varchar && !same;
    is_key(before) == is_key(now) && !cut
}

#[cfg(test)]
mod tests {
    use super::super::schema::Width;
    use super::super::ShardedColumn;
    use super::*;

    /// Tables as `oid schema.name(column=number …) parent`.
    fn schema(tables: &[&str]) -> Schema {
        let mut schema = Schema::default();
        let mut parents = Vec::new();
        for text in tables {
            let (oid, rest) = text.split_once(' ').unwrap();
            let (name, rest) = rest.split_once('(').unwrap();
            let (of, name) = name.split_once('.').unwrap();
            let (columns, parent) = rest.split_once(')').unwrap();
            for column in columns.split(' ') {
                let (column, number) = column.split_once('=').unwrap();
                let row = [of, name, "r", column, "f", "20", "f", "f", oid, number];
                schema.add(&row.map(|value| Some(value.as_bytes())));
            }
            if let Ok(parent) = parent.trim().parse() {
                parents.push((oid.parse().unwrap(), parent));
            }
        }
        schema.add_parents(&parents);
        schema
    }

    fn check(before: &[&str], after: &[&str], expected: &[&str]) {
        let tables = ShardingTables {
            shards: 3,
            columns: vec![
                ShardedColumn::hashed(None, None, "tenant"),
                ShardedColumn::hashed(None, Some("users"), "id"),
                ShardedColumn::hashed(Some("s"), Some("named"), "id"),
            ],
            ..ShardingTables::default()
        };
        let computed = |table: &str, column: &str| (table, column) == ("computed", "tenant");
        let found = reshaped(&tables, &schema(before), &schema(after), computed);
        let found: Vec<_> = found.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(found, expected, "{before:?} {after:?}");
    }

    #[test]
    fn tables_that_are_placed_otherwise_are_found() {
        // A key comes, goes, and is another column of the same name.
        check(&["1 p.t(a=1)"], &["1 p.t(a=1 tenant=2)"], &["t"]);
        check(&["1 p.t(a=1 tenant=2)"], &["1 p.t(a=1)"], &["t"]);
        check(&["1 p.t(a=1 tenant=2)"], &["1 p.t(tenant=1 b=2)"], &["t"]);
        check(&["1 p.users(id=1 a=2)"], &["1 p.users(a=2)"], &["users"]);
        let computed = ["1 p.computed(tenant=1)", "2 p.other(tenant=1)"];
        check(&computed, &computed, &["computed"]);
        // Names.
        check(&["1 p.users(id=1)"], &["1 p.people(id=1)"], &["people"]);
        check(&["1 p.people(id=1)"], &["1 p.users(id=1)"], &["users"]);
        check(&["1 p.named(id=1)"], &["1 s.named(id=1)"], &["named"]);
        // Families.
        let apart = ["1 p.users(id=1)", "2 p.part(id=1)"];
        let joined = ["1 p.users(id=1)", "2 p.part(id=1) 1"];
        check(&apart, &joined, &["part"]);
        check(&joined, &apart, &["part"]);
    }

    #[test]
    fn a_key_of_another_type_is_another() {
        let entry = |key_type| ShardedColumn {
            key_type,
            ..ShardedColumn::hashed(None, None, "tenant")
        };
        let column = |of_type: &str, width| Column {
            of_type: of_type.into(),
            width,
            ..Column::default()
        };
        let five = Width::Characters(5);
        for (key_type, before, now, kept) in [
            (
                KeyType::Bigint,
                ("int4", Width::Any),
                ("int8", Width::Any),
                true,
            ),
            (
                KeyType::Bigint,
                ("int8", Width::Any),
                ("numeric", Width::Any),
                false,
            ),
            (
                KeyType::Bigint,
                ("text", Width::Any),
                ("int8", Width::Any),
                false,
            ),
            (
                KeyType::Varchar,
                ("varchar", five),
                ("text", Width::Any),
                true,
            ),
            (KeyType::Varchar, ("varchar", five), ("varchar", five), true),
            (
                KeyType::Varchar,
                ("text", Width::Any),
                ("varchar", five),
                false,
            ),
        ] {
            let entry = entry(key_type);
            let columns = [before, now].map(|(of_type, width)| column(of_type, width));
            let [before, now] = columns.each_ref().map(Some);
            let found = keeps_keys(&Kind::Sharded(&entry), before, now);
            assert_eq!(found, kept, "{before:?} {now:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_rows_is_none() {
        check(&["1 p.t(a=1)"], &["1 p.u(a=1 b=2)"], &[]);
        check(&["1 p.t(tenant=1 a=2)"], &["1 s.u(tenant=1)"], &[]);
        check(&[], &["1 p.t(tenant=1)"], &[]);
        check(&["1 p.t(tenant=1)"], &[], &[]);
        check(&["1 p.t(tenant=1)"], &["2 p.t(a=1)"], &[]);
    }
}
