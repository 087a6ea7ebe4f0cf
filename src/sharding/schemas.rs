//! Schemas that live on one shard each.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::sql::set::Value;

use super::shards::Shards;

/// Which schema is where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchemaShards {
    by_name: BTreeMap<String, Shards>,
    /// Where all others are.
    default: Option<Shards>,
}

impl SchemaShards {
    /// An entry; without a name it is for all that have none.
    ///
    /// Errors: there is such an entry already.
    pub fn insert(&mut self, name: Option<String>, shards: Shards) -> Result<(), String> {
        match name {
            None if self.default.is_some() => return Err("two default entries".to_owned()),
            None => self.default = Some(shards),
            Some(name) if self.by_name.contains_key(&name) => {
                return Err(format!("schema \"{name}\" has an entry already"));
            }
            Some(name) => {
                self.by_name.insert(name, shards);
            }
        }
        Ok(())
    }

    /// Has no schema a shard of its own?
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.default.is_none()
    }

    /// Where the tables of this schema are, if it has an entry.
    pub fn named(&self, schema: &str) -> Option<Shards> {
        self.by_name.get(schema).copied()
    }

    /// Where tables are whose schema has no entry, if there is a rule for them.
    pub fn unlisted(&self) -> Option<Shards> {
        self.default
    }

    /// Where names without a schema are looked for: on the shards of the first schema of `search_path` that has an
    /// entry.
    pub fn by_search_path<'a>(
        &self,
        path: impl IntoIterator<Item = Cow<'a, str>>,
    ) -> Option<Shards> {
        path.into_iter().find_map(|schema| self.named(&schema))
    }
}

/// The schemas of a setting of `search_path`. SET takes a literal for one name, whatever is in it.
pub fn schemas_set(value: &Value) -> Vec<String> {
    let names = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    match value {
        Value::Words(_) => value.names().map(|name| names(&name)).collect(),
        Value::List(_) => {
            let list = value.text().map(|text| names(&text)).unwrap_or_default();
            search_path(&list).map(Cow::into_owned).collect()
        }
    }
}

/// The schemas of a value of `search_path`, unquoted and folded as identifiers are. `"$user"` stays as it is: the caller
/// knows the user. What is not well formed ends the list; the server refuses such a value anyway.
///
/// Source: <https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-SEARCH-PATH>
pub fn search_path(value: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        let name = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (name, behind) = unquote(quoted)?;
                rest = behind;
                name
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (name, behind) = rest.split_at(end);
                rest = behind;
                fold(name.trim_ascii_end())
            }
        };
        rest = rest.trim_ascii_start();
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if rest.is_empty() => {}
            None => return None,
        }
        (!name.is_empty()).then_some(name)
    })
}

fn fold(name: &str) -> Cow<'_, str> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// The name up to its closing quote, and what is behind that.
fn unquote(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut name = Cow::Borrowed("");
    let mut rest = quoted;
    loop {
        let (part, behind) = rest.split_once('"')?;
        match &mut name {
            Cow::Borrowed("") => name = Cow::Borrowed(part),
            longer => longer.to_mut().push_str(part),
        }
        match behind.strip_prefix('"') {
            Some(more) => {
                name.to_mut().push('"');
                rest = more;
            }
            None => return Some((name, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (value, expected) in [
            ("\"$user\", public", &["$user", "public"][..]),
            ("Tenant_1,public", &["tenant_1", "public"]),
            ("  \"Mixed Case\" ,b ", &["Mixed Case", "b"]),
            ("\"a\"\"b\", c", &["a\"b", "c"]),
            ("\"\"\"\"", &["\""]),
            ("a", &["a"]),
            ("", &[]),
            ("\"\"", &[]),
            ("a,,b", &["a"]),
            ("\"a\" b, c", &[]),
            ("\"a", &[]),
        ] {
            let found: Vec<_> = search_path(value).collect();
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn a_literal_is_one_name_for_set_and_a_list_for_a_function() {
        let words = |sql: &str| Value::Words(sql.as_bytes().into());
        let list = |text: &str| Value::from_text(b"search_path", text.as_bytes());
        for (value, expected) in [
            (words("'MyS', public"), &["MyS", "public"][..]),
            (words("'a, b'"), &["a, b"]),
            (
                words("mys,\"X\"\",y\" , E'it''s \\\\'"),
                &["mys", "X\",y", "it's \\"],
            ),
            (words("\"$user\", a"), &["$user", "a"]),
            (words("a, U&\"b\" uescape '!', c"), &["a"]),
            (list("MyS, \"MyS\""), &["mys", "MyS"]),
            (list("a'b, c\\d"), &["a'b", "c\\d"]),
            (list(""), &[]),
        ] {
            assert_eq!(schemas_set(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn the_first_schema_with_an_entry_decides() {
        let mut schemas = SchemaShards::default();
        schemas
            .insert(Some("a".to_owned()), Shards::one(1))
            .unwrap();
        schemas
            .insert(Some("b".to_owned()), Shards::all(3))
            .unwrap();
        assert_eq!(
            schemas.by_search_path(search_path("x, b, a")),
            Some(Shards::all(3))
        );
        assert_eq!(schemas.by_search_path(search_path("x")), None);
        schemas.insert(None, Shards::one(2)).unwrap();
        assert_eq!(schemas.unlisted(), Some(Shards::one(2)));
        assert!(schemas.insert(None, Shards::one(0)).is_err());
        assert!(schemas
            .insert(Some("a".to_owned()), Shards::one(0))
            .is_err());
    }
}
