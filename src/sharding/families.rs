//! What inheritance says of sharded tables: the rows of a table are read together with those of its partitions and of all that
//! inherit from it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::key::KeyType;
use super::schema::{Schema, Table, TableKind};
use super::tables::{ShardedColumn, ShardingTables, TableKind as Kind};

/// Entries for tables that the configuration says nothing of, and that are partitions, parents or children of tables that it
/// names: they are sharded by the same column, if they have it.
pub(super) fn relatives(tables: &ShardingTables, schema: &Schema) -> Vec<ShardedColumn> {
    let named = tables.columns.iter().any(|column| column.table.is_some());
    let families = Families::of(schema);
    if !named || families.children.is_empty() {
        return Vec::new();
    }
    let mut found: BTreeMap<u32, ShardedColumn> = BTreeMap::new();
    let mut undecided = BTreeSet::new();
    let mut next: Vec<(u32, ShardedColumn)> = Vec::new();
    for (name, table) in schema.all() {
        if let Kind::Sharded(column) = kind(tables, name, table) {
            next.push((table.oid, column.clone()));
        }
    }
    while let Some((oid, column)) = next.pop() {
        for (name, table) in families.kin(oid) {
            let unlisted = Kind::Omnisharded { sticky: None };
            if kind(tables, name, table) != unlisted || table.column(&column.column).is_none() {
                continue;
            }
            match found.get(&table.oid) {
                None => {
                    let entry = ShardedColumn {
                        schema: Some((*table.schema).to_owned()),
                        table: Some(name.to_owned()),
                        primary: false,
                        ..column.clone()
                    };
                    next.push((table.oid, entry.clone()));
                    found.insert(table.oid, entry);
                }
                Some(known) if known.column == column.column && known.is_like(&column) => {}
                Some(_) => {
                    undecided.insert(table.oid);
                }
            }
        }
    }
    found.retain(|oid, _| !undecided.contains(oid));
    found.into_values().collect()
}

/// Takes note of the tables that have rows of others, which are sharded otherwise. `tables`: with all that follow.
pub fn note_divided(tables: &ShardingTables, schema: &mut Schema) {
    let families = Families::of(schema);
    let heads = families.children.keys();
    let heads = heads.filter_map(|oid| families.tables.get(oid));
    let divided = heads.filter(|(name, table)| {
        let own = kind(tables, name, table);
        let mut below = families.below(table.oid).into_iter();
        below.any(|(name, part)| !is_like(&own, &kind(tables, name, part)))
    });
    let divided: Vec<(String, String)> = divided
        .map(|(name, table)| ((*table.schema).to_owned(), (*name).to_owned()))
        .collect();
    for (of, name) in divided {
        schema.note_kind(&of, &name, TableKind::Divided);
    }
}

/// Takes note of the tables whose keys are of other types than the configuration says: their values are not what would be
/// hashed. Answers those that were not known to be, and what is wrong. `tables`: with all that follow.
pub fn note_mistyped(
    tables: &ShardingTables,
    schema: &mut Schema,
    before: Option<&Schema>,
) -> Vec<String> {
    let mut mistyped: Vec<(String, String, KeyType)> = Vec::new();
    let mut told = Vec::new();
    for (name, table) in schema.all() {
        let Kind::Sharded(entry) = kind(tables, name, table) else {
            continue;
        };
        // Of a view that no entry names nobody knows where its rows are, whatever its columns are.
        if table.kind == TableKind::View && entry.table.is_none() {
            continue;
        }
        let Some(key) = table.column(&entry.column) else {
            continue;
        };
        if entry.key_type.is_of_column(&key.of_type) {
            continue;
        }
        let known = before.and_then(|before| before.table(Some(&table.schema), name, || []));
        if known.is_none_or(|known| known.mistyped.is_none()) {
            told.push(format!(
                "{}.{name}.{} is of type {}, and data_type is \"{}\": the table cannot be used",
                table.schema, key.name, key.of_type, entry.key_type
            ));
        }
        mistyped.push(((*table.schema).into(), name.into(), entry.key_type));
    }
    for (of, name, wanted) in mistyped {
        schema.note_mistyped(&of, &name, wanted);
    }
    told
}

/// What this table is by the configuration, whose columns are known.
pub fn kind<'t>(tables: &'t ShardingTables, name: &str, table: &Table) -> Kind<'t> {
    let has = |column: &str| table.column(column).is_some();
    tables.table(Some(&table.schema), name, has)
}

/// Are equal rows of both on the same shards?
pub(super) fn is_like(one: &Kind<'_>, other: &Kind<'_>) -> bool {
    match (one, other) {
        (Kind::Sharded(one), Kind::Sharded(other)) => {
            one.column == other.column && one.is_like(other)
        }
        (Kind::InSchema(one), Kind::InSchema(other)) => one == other,
        (Kind::Omnisharded { .. }, Kind::Omnisharded { .. }) => true,
        _ => false,
    }
}

/// Who inherits from whom.
struct Families<'s> {
    /// By OID; none where nobody inherits.
    tables: HashMap<u32, (&'s str, &'s Table)>,
    children: HashMap<u32, Vec<u32>>,
}

impl<'s> Families<'s> {
    fn of(schema: &'s Schema) -> Self {
        let all = schema.all();
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (_, table) in &all {
            for parent in &table.parents {
                children.entry(*parent).or_default().push(table.oid);
            }
        }
        Self {
            tables: match children.is_empty() {
                true => HashMap::new(),
                false => all.into_iter().map(|one| (one.1.oid, one)).collect(),
            },
            children,
        }
    }

    fn children(&self, oid: u32) -> &[u32] {
        self.children.get(&oid).map_or(&[], Vec::as_slice)
    }

    /// Parents and children.
    fn kin(&self, oid: u32) -> impl Iterator<Item = (&'s str, &'s Table)> + use<'_, 's> {
        let parents = self.tables.get(&oid).map_or(&[][..], |one| &one.1.parents);
        let kin = parents.iter().chain(self.children(oid));
        kin.filter_map(|oid| self.tables.get(oid)).copied()
    }

    /// All that inherit from this one, directly or not.
    fn below(&self, oid: u32) -> Vec<(&'s str, &'s Table)> {
        let mut below = HashSet::new();
        let mut next = vec![oid];
        while let Some(parent) = next.pop() {
            let new = self.children(parent).iter();
            next.extend(new.filter(|child| below.insert(**child)));
        }
        let below = below.iter().filter_map(|oid| self.tables.get(oid));
        below.copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::references::with_followers;
    use super::*;

    fn column(table: Option<&str>, column: &str) -> ShardedColumn {
        ShardedColumn::hashed(None, table, column)
    }

    /// Tables as `name(column column)`, in the order of their OIDs from 1, and pairs of a table and its parent.
    fn schema(tables: &[&str], parents: &[(u32, u32)]) -> Schema {
        let mut schema = Schema::default();
        for (oid, text) in (1..).zip(tables) {
            let oid = format!("{oid}");
            let (name, columns) = text.strip_suffix(')').unwrap().split_once('(').unwrap();
            for column in columns.split(' ') {
                let row = ["public", name, "r", column, "f", "20", "f", "f", &oid, "1"];
                schema.add(&row.map(|value| Some(value.as_bytes())));
            }
        }
        schema.add_parents(parents);
        schema
    }

    /// Entries that follow, and tables that are divided.
    fn known(columns: &[ShardedColumn], schema: &Schema) -> (Vec<String>, Vec<String>) {
        let tables = ShardingTables {
            shards: 3,
            columns: columns.to_vec(),
            ..ShardingTables::default()
        };
        let all = with_followers(&tables, schema).unwrap_or(tables);
        let follow = all.columns.iter().skip(columns.len());
        let follow = follow.map(ShardedColumn::name).collect();
        let mut noted = schema.clone();
        note_divided(&all, &mut noted);
        let divided = noted.all().into_iter();
        let divided = divided.filter(|(_, table)| table.kind == TableKind::Divided);
        (follow, divided.map(|(name, _)| name.to_owned()).collect())
    }

    #[test]
    fn partitions_are_sharded_as_their_table_is() {
        let tables = ["t(id v)", "t_1(id v)", "t_1_a(id v)", "other(id)"];
        let schema = schema(&tables, &[(2, 1), (3, 2)]);
        let both = ["t_1.id", "t_1_a.id"];
        for (entry, expected) in [
            ("t", both),
            // As far as the names say, some part is sharded: so is all that has its rows.
            ("t_1_a", ["t.id", "t_1.id"]),
        ] {
            let (follow, divided) = known(&[column(Some(entry), "id")], &schema);
            assert_eq!(follow, expected, "{entry}");
            assert!(divided.is_empty(), "{entry}");
        }
        // Who has the column is sharded anyway.
        let (follow, divided) = known(&[column(None, "id")], &schema);
        assert!(follow.is_empty() && divided.is_empty());
    }

    #[test]
    fn tables_of_unlike_parts_are_divided() {
        let tables = ["base(v)", "users(v id)", "orders(v tenant)"];
        let schema = schema(&tables, &[(2, 1), (3, 1)]);
        let by_any = [column(None, "tenant")];
        assert_eq!(known(&by_any, &schema).1, ["base"]);
        let by_name = [column(Some("users"), "id")];
        assert_eq!(
            known(&by_name, &schema),
            (Vec::new(), vec!["base".to_owned()])
        );
        let of_others = [column(Some("elsewhere"), "id")];
        assert_eq!(known(&of_others, &schema), (Vec::new(), Vec::new()));
    }

    #[test]
    fn by_one_of_two_columns_nobody_follows() {
        let tables = ["base(a b)", "one(a b)", "two(a b)"];
        let schema = schema(&tables, &[(2, 1), (3, 1)]);
        let entries = [column(Some("one"), "a"), column(Some("two"), "b")];
        assert_eq!(
            known(&entries, &schema),
            (Vec::new(), vec!["base".to_owned()])
        );
    }
}
