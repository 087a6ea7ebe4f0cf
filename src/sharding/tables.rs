//! Sharded and omnisharded tables of one database: which column is a table's key, and where a key's rows are.

use std::collections::BTreeMap;

use crate::error::{Error, Fault};
use crate::protocol::sqlstate::SqlState;

use super::centroids::Centroids;
use super::hash::Hasher;
use super::key::{Key, KeyType};
use super::number::integer;
use super::rules::Rules;
use super::schemas::SchemaShards;
use super::shards::Shards;

/// How tables of one database are spread over its shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardingTables {
    /// How many shards there are, numbered from 0.
    pub shards: u32,
    /// Keys, in the order of the file.
    pub columns: Vec<ShardedColumn>,
    /// Schemas that live on one shard each.
    pub schemas: SchemaShards,
    /// Tables listed as omnisharded, and whether a client reads each from one shard only.
    pub omnisharded: BTreeMap<String, bool>,
}

/// A column with the sharding key, of one table or of all that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardedColumn {
    /// Schema of the table; `None`: any.
    pub schema: Option<String>,
    /// The table; `None`: any that has the column.
    pub table: Option<String>,
    /// The column.
    pub column: String,
    /// Anchor for reasoning about foreign keys.
    pub primary: bool,
    /// Type of the key.
    pub key_type: KeyType,
    /// From key to shard.
    pub function: Function,
    /// What to ask a server before the function is applied.
    pub lookup: Option<Lookup>,
    /// How many shards there are.
    pub shards: u32,
}

/// From key to shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Function {
    /// The remainder of a hash.
    Hash(Hasher),
    /// Lists, ranges, default.
    Rules(Rules),
    /// The nearest centroid.
    Centroids(Centroids),
}

/// A query that translates keys, run on any shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// SQL with the key as `$1`, whose result has one column and at most one row.
    pub query: String,
    /// What it returns.
    pub answer: LookupAnswer,
}

/// What a lookup query returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupAnswer {
    /// A value of the key's type, to which the function is applied.
    Value,
    /// The number of the shard.
    Shard,
}

/// Where the rows of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement<'a> {
    /// On this shard.
    Shard(u32),
    /// No rule takes it. It is looked for on all shards; storing it there would make several rows of one, so that is
    /// for the caller to refuse.
    Unmatched,
    /// Where this query says: run it, then ask [`ShardedColumn::answered`].
    Ask(&'a Lookup),
}

/// What a table is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TableKind<'a> {
    /// Its rows are spread by this column.
    Sharded(&'a ShardedColumn),
    /// It lives on these shards because its schema does; on several, it has the same rows on each.
    InSchema(Shards),
    /// The same rows on every shard; is it `sticky`, a client reads it from one shard.
    Omnisharded {
        /// As it is listed; `None`: listed nowhere.
        sticky: Option<bool>,
    },
}

impl ShardingTables {
    /// The same, over so many shards: with most of them two keys are hardly ever on one by chance.
    #[must_use]
    pub fn over(&self, shards: u32) -> Self {
        let mut over = Self {
            shards,
            ..self.clone()
        };
        for column in &mut over.columns {
            column.shards = shards;
        }
        over
    }

    /// All shards.
    pub fn all(&self) -> Shards {
        Shards::all(self.shards)
    }

    /// What this table is. `schema` is the one that it is in, as far as that is known: an unknown one is any.
    /// `has_column` knows the columns of the table, for keys that are those of any table; where the schema is not known,
    /// it says whether the statement names such a column.
    ///
    /// Entries that name the table are stronger than those of any table; of equally strong ones the first counts.
    pub fn table(
        &self,
        schema: Option<&str>,
        table: &str,
        has_column: impl Fn(&str) -> bool,
    ) -> TableKind<'_> {
        if let Some(shards) = schema.and_then(|schema| self.schemas.named(schema)) {
            return TableKind::InSchema(shards);
        }
        // How well an entry fits: one of the known schema better than one of any, that better than a guess.
        let fit = |column: &ShardedColumn| match (&column.schema, schema) {
            (Some(wanted), Some(schema)) => (wanted == schema).then_some(2),
            (None, _) => Some(1),
            (Some(_), None) => Some(0),
        };
        let (fit, has_column) = (&fit, &has_column);
        let best = |wanted: Option<&str>| {
            let fitting = self.columns.iter().filter(move |column| {
                column.table.as_deref() == wanted
                    && (wanted.is_some() || has_column(&column.column))
            });
            let ranked = fitting.filter_map(|column| Some((fit(column)?, column)));
            // `max_by_key` takes the last of equals.
            ranked.rev().max_by_key(|(fit, _)| *fit)
        };
        if let Some((_, column)) = best(Some(table)) {
            return TableKind::Sharded(column);
        }
        if let Some(sticky) = self.omnisharded.get(table) {
            return TableKind::Omnisharded {
                sticky: Some(*sticky),
            };
        }
        if let Some((_, column)) = best(None) {
            return TableKind::Sharded(column);
        }
        match self.schemas.unlisted() {
            Some(shards) => TableKind::InSchema(shards),
            None => TableKind::Omnisharded { sticky: None },
        }
    }
}

impl ShardedColumn {
    /// Where the row with this key is stored, and where rows with `key = …` are looked for.
    pub fn place(&self, key: &Key<'_>) -> Placement<'_> {
        match &self.lookup {
            Some(_) if *key == Key::Null => Placement::Unmatched,
            Some(lookup) => Placement::Ask(lookup),
            None => self.apply(key),
        }
    }

    /// The same once its lookup query was answered: with the value's text, or `None` for no row and for NULL.
    ///
    /// Errors: 22023 without a row, 58000 for a shard that does not exist or a value of another type.
    pub fn answered(&self, answer: Option<&[u8]>) -> Result<Placement<'_>, Error> {
        let Some(answer) = answer else {
            return Err(Error::error(
                Fault::Client,
                SqlState::INVALID_PARAMETER_VALUE,
                "no translation for sharding key",
            ));
        };
        let by_number = self
            .lookup
            .as_ref()
            .is_some_and(|lookup| lookup.answer == LookupAnswer::Shard);
        if by_number {
            let shard = integer(answer).and_then(|shard| u32::try_from(shard).ok());
            return match shard.filter(|shard| *shard < self.shards) {
                Some(shard) => Ok(Placement::Shard(shard)),
                None => Err(lookup_failed(&format!(
                    "it returned no shard below {}",
                    self.shards
                ))),
            };
        }
        match self.key_type.text(answer) {
            Ok(key) => Ok(self.apply(&key)),
            Err(_) => Err(lookup_failed(&format!("it returned no {}", self.key_type))),
        }
    }

    /// Where the nearest neighbours of a vector are looked for; all shards for other keys.
    pub fn near(&self, key: &Key<'_>) -> Shards {
        let found = match (&self.function, key) {
            (Function::Centroids(centroids), Key::Vector(vector)) => {
                centroids.probe(vector, self.shards)
            }
            _ => None,
        };
        found.unwrap_or_else(|| Shards::all(self.shards))
    }

    fn apply(&self, key: &Key<'_>) -> Placement<'_> {
        let shard = match (&self.function, key) {
            (Function::Hash(hasher), key) => hasher.shard(key, self.shards),
            (Function::Rules(rules), key) => rules.shard(key),
            (Function::Centroids(centroids), Key::Vector(vector)) => {
                centroids.shard(vector, self.shards)
            }
            (Function::Centroids(_), _) => None,
        };
        match shard.filter(|shard| *shard < self.shards) {
            Some(shard) => Placement::Shard(shard),
            None => Placement::Unmatched,
        }
    }

    /// Are equal keys of both on the same shard?
    pub fn is_like(&self, other: &Self) -> bool {
        self.key_type == other.key_type
            && self.function == other.function
            && self.lookup == other.lookup
            && self.shards == other.shards
    }

    /// One of three shards by PostgreSQL's hash of a bigint.
    #[cfg(test)]
    pub(crate) fn hashed(schema: Option<&str>, table: Option<&str>, column: &str) -> Self {
        Self {
            schema: schema.map(str::to_owned),
            table: table.map(str::to_owned),
            column: column.to_owned(),
            primary: false,
            key_type: KeyType::Bigint,
            function: Function::Hash(Hasher::Postgres),
            lookup: None,
            shards: 3,
        }
    }

    /// `orders.user_id`, `*.user_id`, for people.
    pub fn name(&self) -> String {
        let table = self.table.as_deref().unwrap_or("*");
        format!("{table}.{}", self.column)
    }
}

impl Placement<'_> {
    /// Where rows are looked for, of so many shards; `None` while a query must be asked.
    pub fn shards(self, count: u32) -> Option<Shards> {
        match self {
            Placement::Shard(shard) => Some(Shards::one(shard)),
            Placement::Unmatched => Some(Shards::all(count)),
            Placement::Ask(_) => None,
        }
    }
}

/// Why a key could not be looked up.
pub fn lookup_failed(reason: &str) -> Error {
    let text = format!("sharding key lookup failed: {reason}");
    Error::error(Fault::Proxy, SqlState::SYSTEM_ERROR, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(schema: Option<&str>, table: Option<&str>, column: &str) -> ShardedColumn {
        ShardedColumn::hashed(schema, table, column)
    }

    fn tables() -> ShardingTables {
        let mut schemas = SchemaShards::default();
        schemas
            .insert(Some("tenant".to_owned()), Shards::one(1))
            .unwrap();
        ShardingTables {
            shards: 3,
            columns: vec![
                column(None, None, "user_id"),
                column(None, Some("users"), "id"),
                column(Some("old"), Some("users"), "number"),
                column(None, Some("users"), "second"),
                column(Some("old"), None, "number"),
            ],
            schemas,
            omnisharded: BTreeMap::from([("countries".to_owned(), true)]),
        }
    }

    #[test]
    fn which_column_is_the_key() {
        let tables = tables();
        for (schema, table, columns, expected) in [
            (None, "users", &["id", "user_id"][..], "users.id"),
            (Some("public"), "users", &["id"], "users.id"),
            (Some("old"), "users", &["id", "number"], "users.number"),
            (Some("old"), "orders", &["user_id", "number"], "*.number"),
            (
                Some("public"),
                "orders",
                &["user_id", "number"],
                "*.user_id",
            ),
            (Some("public"), "orders", &["number"], ""),
            (None, "countries", &["user_id"], "countries"),
            (Some("tenant"), "users", &["id"], "tenant"),
        ] {
            let has_column = |name: &str| columns.contains(&name);
            let found = match tables.table(schema, table, has_column) {
                TableKind::Sharded(column) => column.name(),
                TableKind::InSchema(shards) => {
                    assert_eq!(shards, Shards::one(1));
                    "tenant".to_owned()
                }
                TableKind::Omnisharded { sticky: None } => String::new(),
                TableKind::Omnisharded { sticky: Some(true) } => "countries".to_owned(),
                kind => panic!("{kind:?}"),
            };
            assert_eq!(found, expected, "{schema:?} {table}");
        }
    }

    #[test]
    fn tables_of_other_schemas_follow_the_default_rule() {
        let mut tables = tables();
        tables.schemas.insert(None, Shards::one(2)).unwrap();
        let kind = tables.table(Some("public"), "anything", |_| false);
        assert_eq!(kind, TableKind::InSchema(Shards::one(2)));
        let kind = tables.table(Some("public"), "users", |_| true);
        assert!(matches!(kind, TableKind::Sharded(_)));
    }

    #[test]
    fn lookups_come_first() {
        let mut by_value = column(None, Some("users"), "name");
        by_value.lookup = Some(Lookup {
            query: "SELECT id FROM users WHERE name = $1".to_owned(),
            answer: LookupAnswer::Value,
        });
        let key = Key::Integer(5);
        assert!(matches!(by_value.place(&key), Placement::Ask(_)));
        assert_eq!(by_value.place(&Key::Null), Placement::Unmatched);
        let plain = column(None, Some("users"), "id");
        assert_eq!(by_value.answered(Some(b"5")), Ok(plain.place(&key)));
        let code = |answer| by_value.answered(answer).unwrap_err().code;
        assert_eq!(code(Some(b"x")), SqlState::SYSTEM_ERROR);
        assert_eq!(code(None), SqlState::INVALID_PARAMETER_VALUE);

        let mut by_number = by_value.clone();
        by_number.lookup.as_mut().unwrap().answer = LookupAnswer::Shard;
        assert_eq!(by_number.answered(Some(b"2")), Ok(Placement::Shard(2)));
        for answer in ["3", "-1", "", "x"] {
            let error = by_number.answered(Some(answer.as_bytes())).unwrap_err();
            assert_eq!(
                error.message,
                "sharding key lookup failed: it returned no shard below 3"
            );
        }
    }

    #[test]
    fn keys_without_a_rule_are_anywhere() {
        let mut listed = column(None, None, "id");
        let rule = |values, shard| super::super::Rule {
            values,
            start: None,
            end: None,
            shard,
        };
        let one = super::super::RuleKey::Integer(1);
        listed.function = Function::Rules(Rules::new(vec![rule(vec![one], 2)]).unwrap());
        let find = |key| listed.place(&key).shards(3);
        assert_eq!(find(Key::Integer(1)), Some(Shards::one(2)));
        assert_eq!(find(Key::Integer(2)), Some(Shards::all(3)));
        assert_eq!(listed.near(&Key::Integer(1)), Shards::all(3));
    }
}
