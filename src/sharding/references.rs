//! What foreign keys say of sharded tables, where an entry with `primary = true` is their anchor.
//!
//! A table whose column refers to the anchor's key has its rows where the anchor's are: it is sharded by that column, and so
//! are tables that refer to that one's. Only so can its constraint hold on every shard.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::families::relatives;
use super::schema::{Reference, Schema};
use super::tables::{ShardedColumn, ShardingTables};

/// A table: its schema and name.
type Name<'a> = (&'a str, &'a str);

/// The same tables, and those that follow an anchor or are related to one that is named. `None`: no more than these.
pub fn with_followers(tables: &ShardingTables, schema: &Schema) -> Option<ShardingTables> {
    let mut all = Cow::Borrowed(tables);
    for find in [by_references, relatives] {
        let more = find(&all, schema);
        if !more.is_empty() {
            all.to_mut().columns.extend(more);
        }
    }
    match all {
        Cow::Owned(all) => Some(all),
        Cow::Borrowed(_) => None,
    }
}

/// The tables that follow an anchor.
fn by_references(tables: &ShardingTables, schema: &Schema) -> Vec<ShardedColumn> {
    if !tables.has_anchors() {
        return Vec::new();
    }
    // In an order that is the same on all cores.
    let mut references: Vec<_> = schema.references().collect();
    references.sort_by_key(|(child, reference)| (*child, reference.oid));
    // Nobody knows by which of several columns a table follows, so it follows by none, and nobody follows it.
    let mut undecided = BTreeSet::new();
    loop {
        match followers(tables, schema, &references, &undecided) {
            Ok(followers) => break followers,
            Err(another) => undecided.insert(another),
        };
    }
}

/// The tables that follow an anchor, without those that are undecided. Errors: another one that is.
fn followers<'s>(
    tables: &ShardingTables,
    schema: &'s Schema,
    references: &[(Name<'s>, &'s Reference)],
    undecided: &BTreeSet<Name<'s>>,
) -> Result<Vec<ShardedColumn>, Name<'s>> {
    let anchors = tables.columns.iter().filter(|column| column.primary);
    let mut next: Vec<ShardedColumn> = anchors.cloned().collect();
    let mut found: BTreeMap<Name<'s>, ShardedColumn> = BTreeMap::new();
    while let Some(anchor) = next.pop() {
        for (child, reference) in references {
            let target = anchor.table.as_deref() == Some(&*reference.table);
            let within = anchor.schema.as_deref();
            let within = within.is_none_or(|schema| *schema == *reference.schema);
            let mut pairs = reference.columns.iter();
            let pair = pairs.find(|(_, theirs)| **theirs == *anchor.column);
            let Some((own, _)) = pair.filter(|_| target && within) else {
                continue;
            };
            if undecided.contains(child) || is_listed(tables, schema, *child) {
                continue;
            }
            let follower = ShardedColumn {
                schema: Some(child.0.into()),
                table: Some(child.1.into()),
                column: own.to_string(),
                primary: false,
                ..anchor.clone()
            };
            match found.get(child) {
                None => {
                    found.insert(*child, follower.clone());
                    next.push(follower);
                }
                Some(known) if *known != follower => return Err(*child),
                Some(_) => {}
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Does the configuration say what this table is?
fn is_listed(tables: &ShardingTables, schema: &Schema, (of, name): (&str, &str)) -> bool {
    let known = schema.table(Some(of), name, || []);
    let has = |column: &str| known.is_some_and(|table| table.column(column).is_some());
    let named = |column: &ShardedColumn| match &column.table {
        Some(table) => {
            *table == *name && column.schema.as_ref().is_none_or(|schema| *schema == *of)
        }
        None => has(&column.column),
    };
    tables.columns.iter().any(named)
        || tables.omnisharded.contains_key(name)
        || tables.schemas.named(of).is_some()
}

impl ShardingTables {
    /// Is a table that no entry names, and of which nothing is known, maybe a sharded one? It may have a key, refer to an
    /// anchor, or be a partition.
    pub fn depend_on_schema(&self) -> bool {
        !self.columns.is_empty()
    }

    /// May other tables follow one of these?
    pub fn has_anchors(&self) -> bool {
        self.columns.iter().any(|column| column.primary)
    }

    /// Are rows that refer to each other by a foreign key on one shard, because tables with these keys have an anchor?
    pub fn is_anchored(&self, column: &ShardedColumn) -> bool {
        let mut columns = self.columns.iter();
        columns.any(|other| other.primary && other.is_like(column))
    }
}

impl Reference {
    /// Is it this column alone that refers to that one?
    pub fn is_of(&self, own: &str, schema: &str, table: &str, theirs: &str) -> bool {
        let pair = matches!(self.columns.as_slice(), [(one, other)] if **one == *own && **other == *theirs);
        pair && *self.schema == *schema && *self.table == *table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(table: &str, column: &str, primary: bool) -> ShardedColumn {
        ShardedColumn {
            primary,
            ..ShardedColumn::hashed(None, Some(table), column)
        }
    }

    /// Each constraint as `number table.column table.column`.
    fn schema(references: &[&str]) -> Schema {
        let mut schema = Schema::default();
        for text in references {
            let words: Vec<_> = text.split(['.', ' ']).collect();
            let [number, table, own, to, theirs] = words[..] else {
                panic!("{text}");
            };
            for (name, column) in [(table, own), (to, theirs)] {
                let row = ["public", name, "r", column, "f"].map(|value| Some(value.as_bytes()));
                schema.add(&row);
            }
            let row = [number, "public", table, own, "public", to, theirs];
            schema.add_reference(&row.map(|value| Some(value.as_bytes())));
        }
        schema
    }

    fn followers(tables: &[ShardedColumn], references: &[&str]) -> Vec<String> {
        let mut all = ShardingTables {
            shards: 3,
            columns: tables.to_vec(),
            ..ShardingTables::default()
        };
        all.omnisharded.insert("listed".to_owned(), false);
        let found = with_followers(&all, &schema(references));
        let found = found.map(|found| found.columns).unwrap_or_default();
        let new = found.iter().skip(tables.len());
        new.map(ShardedColumn::name).collect()
    }

    #[test]
    fn tables_follow_an_anchor_by_their_foreign_keys() {
        let anchor = [column("users", "id", true)];
        let references = [
            "1 orders.user_id users.id",
            // By two columns of one constraint, one of which carries the key.
            "2 items.user_id orders.user_id",
            "2 items.order_id orders.id",
            // Not by a key.
            "3 notes.order_id orders.id",
            // By either of two.
            "4 gifts.giver users.id",
            "5 gifts.taker users.id",
            "6 listed.user_id users.id",
            "7 users.parent users.id",
            // Of what follows by either of two nobody follows.
            "8 cards.gift gifts.giver",
            "9 cards.other gifts.taker",
        ];
        assert_eq!(
            followers(&anchor, &references),
            ["items.user_id", "orders.user_id"]
        );
        let plain = [column("users", "id", false)];
        assert!(followers(&plain, &references).is_empty());
        let own = [
            column("users", "id", true),
            column("orders", "number", false),
        ];
        assert!(followers(&own, &references).is_empty());
    }

    #[test]
    fn one_column_refers_alone() {
        let schema = schema(&["1 items.order_id orders.id", "2 a.b c.d", "2 a.e c.f"]);
        let is = |child: &str, own: &str, to: &str, theirs: &str| {
            let mut references = schema.references();
            references.any(|((_, name), reference)| {
                name == child && reference.is_of(own, "public", to, theirs)
            })
        };
        assert!(is("items", "order_id", "orders", "id"));
        assert!(!is("items", "order_id", "orders", "user_id"));
        assert!(!is("a", "b", "c", "d"), "not without the other");
    }
}
