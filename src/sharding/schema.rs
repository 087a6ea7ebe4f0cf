//! The tables of a database, as a server's catalogue tells of them: what routing has to know of names that it meets.

use std::collections::HashMap;

use super::key::KeyType;

/// Tables by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    tables: HashMap<Box<str>, Vec<Table>>,
}

/// A table, or something that is used like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// By which its server knows it, whatever it is called; 0: not known.
    pub oid: u32,
    /// The schema that it is in.
    pub schema: Box<str>,
    /// What it is.
    pub kind: TableKind,
    /// In their order.
    pub columns: Vec<Column>,
    /// Its foreign keys.
    pub references: Vec<Reference>,
    /// What it inherits from, or is a partition of.
    pub parents: Vec<u32>,
    /// If it is a view: of what.
    pub below: Below,
    /// Its sharding key should be of this type, and is of another.
    pub mistyped: Option<KeyType>,
}

/// What is known of the tables that a view selects from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// What is inserted may get values by their defaults that are not the same everywhere.
    pub varies: bool,
    /// A column of the view is a sharding key, and has another name.
    pub renames_key: bool,
}

/// A foreign key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The constraint.
    pub(super) oid: u32,
    /// Of the table that it refers to.
    pub schema: Box<str>,
    /// That table.
    pub table: Box<str>,
    /// Columns, and those that they refer to.
    pub columns: Vec<(Box<str>, Box<str>)>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: Box<str>,
    /// It has this number for good, whatever it is called; 0: not known.
    pub number: u16,
    /// What that value comes from.
    pub maker: Maker,
    /// How it is computed.
    pub default: Option<Box<ColumnDefault>>,
    /// Its value is computed: `COPY` leaves it out unless it is named.
    pub generated: bool,
    /// It is an identity that takes no value but its own.
    pub always: bool,
    /// Its type's OID; 0: not known.
    pub type_oid: u32,
    /// The name of its type, or of what that is a domain of; empty: not known.
    pub of_type: Box<str>,
    /// How long its texts are.
    pub width: Width,
    /// It is the primary key, alone.
    pub primary: bool,
}

/// How long a text may be in a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    /// Nobody knows.
    #[default]
    Unknown,
    /// Any length.
    Any,
    /// So many characters, of `varchar(n)`: blanks behind them are cut off when a value is stored.
    Characters(usize),
}

impl Width {
    /// Does a column of this width store all texts of one of that width as they are?
    pub fn holds(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Characters(most), Self::Characters(other)) => other <= most,
            (Self::Characters(_) | Self::Unknown, _) => false,
        }
    }
}

/// How a column gets its value when an INSERT gives it none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDefault {
    /// An expression, all of whose names are qualified. Empty: of the identity of a partition, which is its root's, it is not known.
    pub expression: Box<str>,
    /// It may have another value on each server.
    pub varies: bool,
    /// The column's type, or what it is a domain of; qualified and of no length: `bpchar`, not `character`, which is of one.
    pub of_type: Box<str>,
}

/// What a column's default comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maker {
    /// Nothing of the database's own: a constant, a built-in function.
    #[default]
    Nothing,
    /// A sequence of the server's, or an identity.
    Sequence,
    /// A function that somebody has made, which may know what is its shard's.
    Function,
}

/// What is used like a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// It has rows of its own, or its partitions have.
    Table,
    /// A view, materialised or not: its rows are those of other tables.
    View,
    /// The same, of which each server has what it would have of a table with these rows.
    LikeTable,
    /// Its rows are also those of tables that inherit from it, and are sharded otherwise.
    Divided,
    /// A foreign table: its rows are on another server.
    Foreign,
}

/// Why nobody knows what a server has of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// It is a view, and not like a table.
    View,
    /// As of [`TableKind::Divided`].
    Divided,
    /// Its sharding key is not of this type.
    Mistyped(KeyType),
}

impl Opaque {
    /// What is refused of the table with this name.
    pub fn refused(self, name: &str) -> String {
        match self {
            Self::View => format!("view {name}"),
            Self::Divided => format!("table {name}, of which parts are sharded otherwise,"),
            Self::Mistyped(key_type) => {
                format!("table {name}, whose sharding key is not of data_type \"{key_type}\",")
            }
        }
    }
}

impl Schema {
    /// Asks a server: schema, table, kind, column, whether that is generated (before
    /// PostgreSQL 12 none is, before 11 no index includes others), its type, whether it is alone the primary key, and an identity that is always generated,
    /// the table's OID, the column's number, what its default comes from, the name of what its type is (of a domain: what that is of, unless
    /// it stands for a vector), and the modifier of that; in the order of columns. Tables of the system are left out.
    pub const QUERY: &'static str = "SELECT n.nspname, c.relname, c.relkind, a.attname, \
        CASE WHEN a.atthasdef THEN coalesce(to_jsonb(a) ->> 'attgenerated', '') <> '' ELSE false END, a.atttypid, \
        coalesce((to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts) = 1 AND i.indkey[0] = a.attnum, a.attidentity = 'a', \
        c.oid, a.attnum, CASE WHEN a.attidentity <> '' THEN 's' ELSE m.maker END, \
        CASE t.typname WHEN 'vector' THEN t.typname ELSE coalesce(b.typname, t.typname) END, greatest(a.atttypmod, b.modifier) \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
        LEFT JOIN (WITH RECURSIVE d(oid, base, modifier) AS (SELECT oid, typbasetype, typtypmod \
        FROM pg_catalog.pg_type WHERE typtype = 'd' UNION ALL SELECT d.oid, t.typbasetype, greatest(d.modifier, t.typtypmod) \
        FROM d JOIN pg_catalog.pg_type t ON t.oid = d.base AND t.typtype = 'd') \
        SELECT d.oid, d.modifier, t.typname FROM d JOIN pg_catalog.pg_type t ON t.oid = d.base AND t.typtype <> 'd') b \
        ON b.oid = a.atttypid \
        LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary \
        LEFT JOIN (SELECT e.adrelid, e.adnum, pg_catalog.min( \
        CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass THEN 'f' WHEN s.relkind = 'S' THEN 's' END) AS maker \
        FROM pg_catalog.pg_attrdef e \
        JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = e.oid \
        LEFT JOIN pg_catalog.pg_class s ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.oid = d.refobjid \
        GROUP BY 1, 2) m ON m.adrelid = a.attrelid AND m.adnum = a.attnum \
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
        ORDER BY c.oid, a.attnum";

    /// Asks a server for foreign keys that hold for all rows: constraint, schema, table and column, then the same of what it
    /// refers to; a row for each pair of columns.
    pub const REFERENCES: &'static str = "SELECT k.oid, n.nspname, c.relname, a.attname, fn.nspname, f.relname, fa.attname \
        FROM pg_catalog.pg_constraint k \
        CROSS JOIN LATERAL pg_catalog.generate_subscripts(k.conkey, 1) i \
        JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        JOIN pg_catalog.pg_class f ON f.oid = k.confrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace \
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[i] \
        JOIN pg_catalog.pg_attribute fa ON fa.attrelid = f.oid AND fa.attnum = k.confkey[i] \
        WHERE k.contype = 'f' AND k.convalidated ORDER BY k.oid, i";

    /// Asks a server for partitions and tables that inherit: the OIDs of each and of what it inherits from.
    pub const PARENTS: &'static str = "SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i \
        JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind IN ('r', 'p', 'f') ORDER BY 1, 2";

    /// Asks a server whose `search_path` is empty for what columns get when an INSERT gives them nothing: the table's OID, the column's
    /// number, an expression, and the column's type. It takes no lock on the tables.
    pub const DEFAULTS: &'static str = "SELECT a.attrelid, a.attnum, CASE WHEN a.attidentity <> '' \
        THEN 'nextval(' || pg_catalog.quote_literal(s.objid::pg_catalog.regclass::text) || '::regclass)' \
        ELSE pg_catalog.pg_get_expr(coalesce(d.adbin, t.typdefaultbin), 0) END, \
        pg_catalog.format_type(CASE t.typbasetype WHEN 0 THEN t.oid ELSE t.typbasetype END, -1) \
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
        LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
        LEFT JOIN pg_catalog.pg_depend s ON s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype = 'i' \
        AND s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND a.attidentity <> '' \
        WHERE c.relkind IN ('r', 'p', 'v', 'f') AND a.attnum > 0 AND NOT a.attisdropped \
        AND (a.atthasdef OR t.typdefaultbin IS NOT NULL OR a.attidentity <> '') \
        AND CASE WHEN a.atthasdef THEN coalesce(pg_catalog.to_jsonb(a) ->> 'attgenerated', '') = '' ELSE true END \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'";

    /// Adds what that answer says, by table and column.
    pub fn add_defaults(&mut self, mut found: HashMap<(u32, u16), ColumnDefault>) {
        for table in self.tables.values_mut().flatten() {
            for column in &mut table.columns {
                column.default = found.remove(&(table.oid, column.number)).map(Box::new);
            }
        }
    }

    /// Adds what that answer says: pairs of a table and what it inherits from, in its order.
    pub fn add_parents(&mut self, pairs: &[(u32, u32)]) {
        for table in self.tables.values_mut().flatten() {
            let first = pairs.partition_point(|(child, _)| *child < table.oid);
            let own = pairs.iter().skip(first);
            let own = own.take_while(|(child, _)| *child == table.oid);
            table.parents = own.map(|(_, parent)| *parent).collect();
        }
    }

    /// All tables, with their names, in an order that is the same everywhere.
    pub fn all(&self) -> Vec<(&str, &Table)> {
        let tables = self.tables.iter();
        let mut all: Vec<_> = tables
            .flat_map(|(name, tables)| tables.iter().map(|table| (&**name, table)))
            .collect();
        all.sort_unstable_by_key(|(name, table)| (&*table.schema, *name));
        all
    }

    /// Adds what one row of that answer says, of a table that is known.
    pub fn add_reference(&mut self, row: &[Option<&[u8]>]) {
        let text = |at: usize| std::str::from_utf8((*row.get(at)?)?).ok();
        let all: Option<Vec<_>> = (0..7).map(text).collect();
        let Some([oid, of, name, own, schema, table, theirs]) = all.as_deref() else {
            return;
        };
        let tables = self.tables.get_mut(*name);
        let known = tables.and_then(|tables| tables.iter_mut().find(|table| *table.schema == **of));
        let (Some(known), Ok(oid)) = (known, oid.parse()) else {
            return;
        };
        let pair = ((*own).into(), (*theirs).into());
        match known.references.iter_mut().find(|one| one.oid == oid) {
            Some(reference) => reference.columns.push(pair),
            None => known.references.push(Reference {
                oid,
                schema: (*schema).into(),
                table: (*table).into(),
                columns: vec![pair],
            }),
        }
    }

    /// All foreign keys, with the schema and name of their table.
    pub fn references(&self) -> impl Iterator<Item = ((&str, &str), &Reference)> {
        self.tables.iter().flat_map(|(name, tables)| {
            tables.iter().flat_map(move |table| {
                let of = (&*table.schema, &**name);
                table
                    .references
                    .iter()
                    .map(move |reference| (of, reference))
            })
        })
    }

    /// Adds what one row of the answer says. A row that is not as [`Self::QUERY`] makes it adds nothing.
    pub fn add(&mut self, row: &[Option<&[u8]>]) {
        let text = |at: usize| std::str::from_utf8((*row.get(at)?)?).ok();
        let number = |at: usize| text(at).and_then(|number| number.parse::<u32>().ok());
        let (Some(schema), Some(name), Some(kind)) = (text(0), text(1), text(2)) else {
            return;
        };
        let kind = match kind {
            "v" | "m" => TableKind::View,
            "f" => TableKind::Foreign,
            _ => TableKind::Table,
        };
        let tables = self.tables.entry(name.into()).or_default();
        let at = match tables.iter().position(|table| *table.schema == *schema) {
            Some(at) => at,
            None => {
                tables.push(Table {
                    oid: number(8).unwrap_or_default(),
                    schema: schema.into(),
                    kind,
                    columns: Vec::new(),
                    references: Vec::new(),
                    parents: Vec::new(),
                    below: Below::default(),
                    mistyped: None,
                });
                tables.len() - 1
            }
        };
        if let (Some(table), Some(column)) = (tables.get_mut(at), text(3)) {
            let of_type = text(11).unwrap_or_default();
            table.columns.push(Column {
                name: column.into(),
                generated: text(4) == Some("t"),
                primary: text(6) == Some("t"),
                always: text(7) == Some("t"),
                type_oid: number(5).unwrap_or_default(),
                of_type: of_type.into(),
                width: match (of_type, number(12)) {
                    ("", _) => Width::Unknown,
                    // The modifier counts four bytes more.
                    ("varchar", Some(modifier)) => {
                        Width::Characters(modifier.saturating_sub(4) as usize)
                    }
                    _ => Width::Any,
                },
                maker: match text(10) {
                    Some("s") => Maker::Sequence,
                    Some("f") => Maker::Function,
                    _ => Maker::Nothing,
                },
                default: None,
                number: number(9)
                    .and_then(|number| number.try_into().ok())
                    .unwrap_or_default(),
            });
        }
    }

    /// The table of this name. Without a schema it is the one that the first schema of `path` has; if none of them has
    /// one, the only one there is.
    pub fn table<'p, P: IntoIterator<Item = &'p str>>(
        &self,
        schema: Option<&str>,
        name: &str,
        path: impl FnOnce() -> P,
    ) -> Option<&Table> {
        let tables = self.tables.get(name)?;
        let in_schema = |schema: &str| tables.iter().find(|table| *table.schema == *schema);
        match schema {
            Some(schema) => in_schema(schema),
            None => match tables.as_slice() {
                [only] => Some(only),
                _ => path().into_iter().find_map(in_schema),
            },
        }
    }

    /// Are there tables of this name in several schemas?
    pub fn is_ambiguous(&self, name: &str) -> bool {
        self.tables.get(name).is_some_and(|tables| tables.len() > 1)
    }

    /// This is what the table has turned out to be.
    pub fn note_kind(&mut self, schema: &str, name: &str, kind: TableKind) {
        let tables = self.tables.get_mut(name).into_iter().flatten();
        for table in tables.filter(|table| *table.schema == *schema) {
            table.kind = kind;
        }
    }

    /// The sharding key of this table should be of this type.
    pub fn note_mistyped(&mut self, schema: &str, name: &str, wanted: KeyType) {
        let tables = self.tables.get_mut(name).into_iter().flatten();
        for table in tables.filter(|table| *table.schema == *schema) {
            table.mistyped = Some(wanted);
        }
    }

    /// This is what is below a view.
    pub fn note_below(&mut self, schema: &str, name: &str, below: Below) {
        let tables = self.tables.get_mut(name).into_iter().flatten();
        for table in tables.filter(|table| *table.schema == *schema) {
            table.below = below;
        }
    }

    /// How many tables there are.
    pub fn len(&self) -> usize {
        self.tables.values().map(Vec::len).sum()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}

impl Table {
    /// Is it a view?
    pub fn is_view(&self) -> bool {
        matches!(self.kind, TableKind::View | TableKind::LikeTable)
    }

    /// Why nobody knows what a server has of it, if it is so.
    pub fn opaque(&self) -> Option<Opaque> {
        if let Some(wanted) = self.mistyped {
            return Some(Opaque::Mistyped(wanted));
        }
        match self.kind {
            TableKind::View => Some(Opaque::View),
            TableKind::Divided => Some(Opaque::Divided),
            TableKind::Table | TableKind::LikeTable | TableKind::Foreign => None,
        }
    }

    /// Does this column of it, alone, refer to that one of another table (schema and name) by a foreign key?
    pub fn refers(&self, column: &str, (schema, name): (&str, &str), theirs: &str) -> bool {
        let mut references = self.references.iter();
        references.any(|one| one.is_of(column, schema, name, theirs))
    }

    /// Its column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| *column.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(rows: &[[&str; 5]]) -> Schema {
        let mut schema = Schema::default();
        for row in rows {
            let row = row.map(|value| (!value.is_empty()).then_some(value.as_bytes()));
            schema.add(&row);
        }
        schema
    }

    #[test]
    fn names_are_found_as_the_search_path_finds_them() {
        let schema = schema(&[
            ["public", "users", "r", "id", "t"],
            ["public", "users", "r", "name", "f"],
            ["old", "users", "p", "number", "f"],
            ["old", "orders", "v", "id", "f"],
            ["public", "empty", "r", "", ""],
        ]);
        assert_eq!(schema.len(), 4);
        let users = schema.table(None, "users", || ["alice", "public"]).unwrap();
        assert_eq!((&*users.schema, users.columns.len()), ("public", 2));
        assert!(users.column("id").unwrap().generated);
        assert!(!users.column("name").unwrap().generated);
        assert_eq!(
            &*schema
                .table(Some("old"), "users", || ["public"])
                .unwrap()
                .schema,
            "old"
        );
        assert!(
            schema.table(None, "users", || []).is_none(),
            "it may be either"
        );
        assert_eq!(
            schema.table(None, "orders", || []).unwrap().kind,
            TableKind::View
        );
        assert!(schema
            .table(None, "empty", || [])
            .unwrap()
            .columns
            .is_empty());
        assert!(schema.table(None, "nothing", || ["public"]).is_none());
    }
}
