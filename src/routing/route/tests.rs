use std::collections::BTreeMap;

use super::super::direct::{self, decisive};
use super::super::values::Parameter;
use super::*;
use crate::sharding::schema::{ColumnDefault, Width};
use crate::sharding::{hash::Hasher, Centroids, Function as Sharding, KeyType, SchemaShards};
use crate::sql::cache::Cache;
use crate::sql::lexer::Dialect;

const CORPUS: &str = include_str!("../../../tests/corpus/routes.txt");
const SHARDS: u32 = 3;

fn column(table: &str, column: &str, key_type: KeyType) -> ShardedColumn {
    ShardedColumn {
        schema: None,
        table: Some(table.to_owned()),
        column: column.to_owned(),
        primary: false,
        key_type,
        function: Sharding::Hash(Hasher::Postgres),
        lookup: None,
        shards: SHARDS,
    }
}

fn sharding() -> ShardingTables {
    ShardingTables {
        shards: SHARDS,
        columns: vec![
            column("users", "id", KeyType::Bigint),
            column("payments", "user_id", KeyType::Bigint),
            column("orders", "user_id", KeyType::Bigint),
            column("people", "name", KeyType::Varchar),
            column("items", "id", KeyType::Uuid),
        ],
        schemas: SchemaShards::default(),
        omnisharded: BTreeMap::from([("countries".to_owned(), true)]),
    }
}

/// Of two tables it is known what columns they have.
struct Some2(Vec<TableColumn>, Vec<TableColumn>);

fn columns(names: &[(&str, bool)]) -> Vec<TableColumn> {
    let column = |&(name, has_default): &(&str, bool)| TableColumn {
        name: name.into(),
        number: 0,
        default: has_default.then(|| {
            Box::new(ColumnDefault {
                varies: true,
                expression: "pgdog.next_id()".into(),
                of_type: "bigint".into(),
            })
        }),
        maker: if has_default {
            Maker::Function
        } else {
            Maker::Nothing
        },
        width: Width::Any,
        ..TableColumn::default()
    };
    names.iter().map(column).collect()
}

impl Schema for Some2 {
    fn columns(&self, _schema: Option<&str>, table: &str) -> Option<&[TableColumn]> {
        match table {
            "users" => Some(&self.0),
            "people" => Some(&self.1),
            _ => None,
        }
    }

    fn opaque(&self, _schema: Option<&str>, table: &str) -> Option<Opaque> {
        match table {
            "a_view" => Some(Opaque::View),
            "a_family" => Some(Opaque::Divided),
            _ => None,
        }
    }
}

fn schema() -> Some2 {
    Some2(
        columns(&[("id", false), ("name", true), ("age", true)]),
        columns(&[("name", true), ("age", true)]),
    )
}

fn database<'s>(
    tables: &'s ShardingTables,
    schema: &'s Some2,
    functions: &'s Catalogue,
) -> Database<'s> {
    Database {
        tables,
        schema,
        search_path: None,
        functions,
        system_catalogs: SystemCatalogs::OmnishardedSticky,
        sticky: false,
        lookups: &|_, _| None,
    }
}

fn shard_of(tables: &ShardingTables, key: i64) -> u32 {
    let column = tables.columns.first().unwrap();
    match column.place(&Key::Integer(key)) {
        Placement::Shard(shard) => shard,
        other => panic!("{other:?}"),
    }
}

/// Keys of each shard: `{a}`, `{b}`, `{c}`, and `{a2}`.
fn fill_in(tables: &ShardingTables, text: &str) -> String {
    let of = |shard: u32| (100..).filter(move |key| shard_of(tables, *key) == shard);
    let mut text = text.to_owned();
    let keys = [
        ("{a2}", of(0).nth(1)),
        ("{a}", of(0).next()),
        ("{b}", of(1).next()),
        ("{c}", of(2).next()),
    ];
    for (name, key) in keys {
        text = text.replace(name, &key.unwrap().to_string());
    }
    text
}

fn show(route: Result<Route<'_>, Error>) -> String {
    match route {
        Ok(Route::One(shard)) => shard.to_string(),
        Ok(Route::Any { sticky: false }) => "any".to_owned(),
        Ok(Route::Any { sticky: true }) => "sticky".to_owned(),
        Ok(Route::Several(shards)) if shards.len() == SHARDS => "all".to_owned(),
        Ok(Route::Several(shards)) => shards.to_string().replace(' ', ""),
        Ok(Route::Same(_)) => "same".to_owned(),
        Ok(Route::New(_)) => "new".to_owned(),
        Ok(Route::Echoed(_)) => "as the first".to_owned(),
        Ok(Route::Unmade { of, .. }) => format!("as one of {of} says"),
        Ok(Route::Rows(rows)) => {
            let rows: Vec<String> = rows.iter().map(u32::to_string).collect();
            format!("rows {}", rows.join(" "))
        }
        Ok(Route::Move { from, to, .. }) => format!("move {from} > {to}"),
        Ok(Route::Lookup(column, key)) => format!("lookup {} {key:?}", column.name()),
        Err(error) => error.code.to_string(),
    }
}

/// A text's route, and that of the same from the cache, which must be the same.
fn routed(
    cache: &mut Cache,
    tables: &ShardingTables,
    text: &str,
    parameters: &[Parameter<'_>],
) -> String {
    let (schema, functions) = (schema(), Catalogue::default());
    let database = database(tables, &schema, &functions);
    let mut answers = [(); 2].map(|()| {
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.as_deref();
        let [statement] = statements.unwrap_or_else(|why| panic!("{text}: {why:?}")) else {
            panic!("{text} is no statement");
        };
        let values = Values {
            text: text.as_bytes(),
            literals: analysed.literals,
            backslashes: false,
            encoded_as_stored: true,
            parameters,
        };
        let shown = show(route(statement, &values, &database));
        if let Some(decisive) = decisive(statement, &database) {
            // The short way comes to the same, or to nothing.
            let shard = direct::shard(statement, decisive, &values, tables);
            assert!(
                shard.is_none_or(|shard| shard.to_string() == shown),
                "{text}"
            );
        }
        shown
    });
    assert_eq!(answers[0], answers[1], "{text}");
    std::mem::take(&mut answers[0])
}

#[test]
fn every_statement_of_the_corpus_goes_to_its_shards() {
    let tables = sharding();
    let mut cache = Cache::new(1000, 1 << 22);
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in CORPUS.lines() {
        let Some((text, rest)) = line.split_once(" => ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let text = fill_in(&tables, text);
        let (expected, parameters) = rest.split_once(" with ").unwrap_or((rest, ""));
        let parameters = fill_in(&tables, parameters);
        let parameters: Vec<String> = parameters
            .split(", ")
            .filter(|value| !value.is_empty())
            .map(|value| value.replace(';', ","))
            .collect();
        let parameters: Vec<Parameter<'_>> = parameters
            .iter()
            .map(|value| match value.as_str() {
                "NULL" => Parameter::Null,
                value => Parameter::Text {
                    type_oid: 0,
                    value: value.as_bytes(),
                },
            })
            .collect();
        let found = routed(&mut cache, &tables, &text, &parameters);
        let right = match expected {
            "one" => found.parse::<u32>().is_ok(),
            "=x" => {
                found
                    == tables.columns[3]
                        .place(&Key::Text(b"x"[..].into()))
                        .shards(3)
                        .unwrap()
                        .to_string()
            }
            expected => found == expected,
        };
        if !right {
            wrong.push(format!("{text}: {found}, not {expected}"));
        }
        count += 1;
    }
    assert!(count > 200, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Statements that share an analysis go where their own literals say.
#[test]
fn other_literals_of_the_same_shape_have_their_own_shards() {
    let tables = sharding();
    let mut cache = Cache::new(10, 1 << 20);
    for key in 0..200_i64 {
        let expected = shard_of(&tables, key).to_string();
        let select = format!("SELECT * FROM users WHERE id = {key} AND age = {}", key + 1);
        assert_eq!(routed(&mut cache, &tables, &select, &[]), expected);
        let insert = format!("INSERT INTO users (name, id) VALUES ('{key}', {key})");
        assert_eq!(routed(&mut cache, &tables, &insert, &[]), expected);
        let negative = format!("DELETE FROM users WHERE id = -{key}");
        let expected = shard_of(&tables, -key).to_string();
        assert_eq!(routed(&mut cache, &tables, &negative, &[]), expected);
    }
    assert_eq!(cache.counts().1, 3);
}

/// What the search path finds is not the table of another schema that has the same name.
#[test]
fn a_table_without_a_schema_is_where_it_is_found() {
    struct Found(&'static str);
    impl Schema for Found {
        fn columns(&self, _schema: Option<&str>, _table: &str) -> Option<&[TableColumn]> {
            None
        }

        fn schema_of(&self, _table: &str) -> Option<&str> {
            Some(self.0)
        }
    }
    let mut tables = sharding();
    tables.columns[0].schema = Some("public".to_owned());
    let functions = Catalogue::default();
    let mut cache = Cache::new(10, 1 << 20);
    let mut routed = |text: &str, found| {
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statement = &analysed.analysis.statements.as_ref().unwrap()[0];
        let values = Values {
            text: text.as_bytes(),
            literals: analysed.literals,
            backslashes: false,
            encoded_as_stored: true,
            parameters: &[],
        };
        let (schema, other) = (Found(found), schema());
        let database = Database {
            schema: &schema,
            ..database(&tables, &other, &functions)
        };
        show(route(statement, &values, &database))
    };
    let shard = shard_of(&tables, 7).to_string();
    for (schema, target) in [("public", &*shard), ("other", "same")] {
        let delete = "DELETE FROM users WHERE id = 7";
        assert_eq!(routed(delete, schema), target);
    }
    assert_eq!(
        routed("DELETE FROM public.users WHERE id = 7", "other"),
        shard
    );
    assert_eq!(
        routed("DELETE FROM other.users WHERE id = 7", "public"),
        "same"
    );
}

#[test]
fn binary_parameters_are_read() {
    let tables = sharding();
    let mut cache = Cache::new(10, 1 << 20);
    for key in [1_i32, -5, 70_000] {
        let expected = shard_of(&tables, key.into()).to_string();
        let bytes = key.to_be_bytes();
        let four = [Parameter::Binary {
            type_oid: 23,
            value: &bytes,
        }];
        let text = "SELECT * FROM users WHERE id = $1";
        assert_eq!(routed(&mut cache, &tables, text, &four), expected);
        let bytes = i64::from(key).to_be_bytes();
        let eight = [Parameter::Binary {
            type_oid: 0,
            value: &bytes,
        }];
        assert_eq!(routed(&mut cache, &tables, text, &eight), expected);
        let float = [Parameter::Binary {
            type_oid: 701,
            value: &bytes,
        }];
        assert_eq!(routed(&mut cache, &tables, text, &float), "all");
        let insert = "INSERT INTO users (id) VALUES ($1)";
        assert_eq!(routed(&mut cache, &tables, insert, &float), "0A000");
    }
}

#[test]
fn lookups_are_asked_for_first() {
    use crate::sharding::{Lookup, LookupAnswer};
    let mut tables = sharding();
    tables.columns[0].lookup = Some(Lookup {
        query: "SELECT 1 WHERE $1 = 1".to_owned(),
        answer: LookupAnswer::Shard,
    });
    let mut cache = Cache::new(10, 1 << 20);
    let found = routed(&mut cache, &tables, "SELECT * FROM users WHERE id = 5", &[]);
    assert_eq!(found, "lookup users.id Integer(5)");
}

#[test]
fn schemas_have_their_shards() {
    let mut tables = sharding();
    tables
        .schemas
        .insert(Some("north".to_owned()), Shards::one(1))
        .unwrap();
    tables
        .schemas
        .insert(Some("south".to_owned()), Shards::one(2))
        .unwrap();
    let mut cache = Cache::new(10, 1 << 20);
    for (text, expected) in [
        ("SELECT * FROM north.t", "1"),
        ("SELECT * FROM north.t JOIN countries USING (code)", "1"),
        ("SELECT * FROM north.t JOIN north.u USING (id)", "1"),
        ("SELECT * FROM north.t JOIN south.u USING (id)", "0A000"),
        ("UPDATE south.t SET a = 1", "2"),
        ("INSERT INTO north.t SELECT * FROM south.t", "0A000"),
    ] {
        assert_eq!(routed(&mut cache, &tables, text, &[]), expected, "{text}");
    }
}

#[test]
fn keys_of_hints_have_their_shard() {
    let (schema, functions) = (schema(), Catalogue::default());
    let mut tables = sharding();
    let of = |tables: &ShardingTables, key: &str| {
        let database = database(tables, &schema, &functions);
        show(route_key(key.as_bytes(), true, &database))
    };
    assert_eq!(of(&tables, "5"), "0A000", "uuids and numbers");
    tables.columns.truncate(3);
    assert_eq!(of(&tables, " 05"), shard_of(&tables, 5).to_string());
    assert_eq!(of(&tables, "x"), "22P02");
}

#[test]
fn routes_are_told_in_words() {
    for (route, words) in [
        (Route::One(2), "shard 2"),
        (Route::Any { sticky: true }, "any shard"),
        (Route::Several(Shards::all(2)), "shards 0, 1"),
        (
            Route::Rows(vec![0, 2, 0]),
            "3 rows divided among shards 0, 2",
        ),
    ] {
        assert_eq!(route.to_string(), words);
    }
}

#[test]
fn the_nearest_vectors_are_looked_for_at_the_nearest_centroids() {
    let mut tables = sharding();
    let mut points = column("points", "place", KeyType::Vector);
    let centroids = [0.0, 10.0, 20.0].map(|point| vec![point]).to_vec();
    points.function = Sharding::Centroids(Centroids::new(centroids, 1).unwrap());
    tables.columns.push(points);
    let mut cache = Cache::new(100, 1 << 20);
    for (text, to) in [
        ("SELECT * FROM points ORDER BY place <-> '[1]' LIMIT 3", "0"),
        (
            "SELECT * FROM points p ORDER BY '[19]' <-> p.place ASC, id LIMIT 3 OFFSET 2",
            "2",
        ),
        (
            "SELECT place <-> '[9]'::vector AS d FROM points ORDER BY d FETCH FIRST 1 ROW ONLY",
            "1",
        ),
        (
            "SELECT * FROM points WHERE place = '[0]' ORDER BY place <-> '[1]' LIMIT 3",
            "0",
        ),
        (
            "SELECT * FROM (SELECT * FROM points ORDER BY place <-> '[19]' LIMIT 3) p",
            "2",
        ),
        // All rows, another order, or other rows than the nearest.
        ("SELECT * FROM points ORDER BY place <-> '[1]'", "all"),
        (
            "SELECT * FROM points ORDER BY place <-> '[1]' LIMIT NULL",
            "all",
        ),
        (
            "SELECT * FROM points ORDER BY place <-> '[1]' LIMIT 1 + 1",
            "all",
        ),
        (
            "SELECT * FROM points ORDER BY place <-> '[1]' DESC LIMIT 3",
            "all",
        ),
        (
            "SELECT * FROM points ORDER BY place <=> '[1]' LIMIT 3",
            "all",
        ),
        (
            "SELECT * FROM points ORDER BY id, place <-> '[1]' LIMIT 3",
            "all",
        ),
        (
            "SELECT DISTINCT place FROM points ORDER BY place <-> '[1]' LIMIT 3",
            "all",
        ),
        (
            "SELECT place FROM points GROUP BY place ORDER BY place <-> '[1]' LIMIT 3",
            "all",
        ),
        (
            "SELECT sum(id) OVER () FROM points ORDER BY place <-> '[1]' LIMIT 3",
            "all",
        ),
        ("SELECT * FROM points ORDER BY place <-> id LIMIT 3", "all"),
        (
            "SELECT * FROM points ORDER BY place <-> '[1,2]' LIMIT 3",
            "all",
        ),
        (
            "SELECT * FROM countries LEFT JOIN points USING (id) ORDER BY place <-> '[1]' LIMIT 3",
            "all",
        ),
        (
            "SELECT id AS place FROM points ORDER BY place <-> '[1]' LIMIT 3",
            "0",
        ),
    ] {
        assert_eq!(routed(&mut cache, &tables, text, &[]), to, "{text}");
    }
}

#[test]
fn tables_of_which_nothing_is_known_are_told() {
    let (tables, schema) = (sharding(), schema());
    let catalogue = Catalogue::default();
    let database = database(&tables, &schema, &catalogue);
    let check = |text: &str, expected: Option<&str>| {
        let mut cache = Cache::new(0, 0);
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statements = analysed.analysis.statements.as_ref().unwrap();
        let found = unknown_table(&statements[0], &database, |name| name == "fine");
        assert_eq!(found, expected, "{text}");
    };
    check("SELECT * FROM strange", Some("strange"));
    check(
        "SELECT * FROM users JOIN strange USING (id)",
        Some("strange"),
    );
    check("INSERT INTO strange VALUES (1)", Some("strange"));
    check("COPY strange FROM STDIN", Some("strange"));
    for text in [
        "SELECT 1",
        "SELECT * FROM users, payments, countries, fine",
        "SELECT * FROM pg_class, information_schema.tables",
        "SELECT * FROM generate_series(1, 2) strange",
        "SELECT * FROM (VALUES (1)) strange",
        "WITH strange AS (SELECT 1) SELECT * FROM strange",
        "WITH RECURSIVE strange AS (SELECT 1 UNION ALL SELECT * FROM strange) SELECT * FROM strange",
        "COPY users TO STDOUT",
    ] {
        check(text, None);
    }
}

/// Most statements of a busy database have a value that decides, and no other has one.
#[test]
fn one_value_decides_where_all_else_is_plain() {
    let tables = sharding();
    let mut cache = Cache::new(100, 1 << 20);
    let (schema, functions) = (schema(), Catalogue::default());
    let database = database(&tables, &schema, &functions);
    let mut sent = |text: &str, parameters: &[Parameter<'_>]| {
        let analysed = cache.analyse(text.as_bytes(), Dialect::default());
        let statement = analysed
            .analysis
            .statements
            .as_ref()
            .unwrap()
            .first()
            .unwrap();
        let values = Values {
            text: text.as_bytes(),
            literals: analysed.literals,
            backslashes: false,
            encoded_as_stored: true,
            parameters,
        };
        let found = decisive(statement, &database);
        found.map(|found| direct::shard(statement, found, &values, &tables))
    };
    let expected = shard_of(&tables, 7);
    for text in [
        "SELECT * FROM users WHERE id = 7",
        "SELECT name FROM users u WHERE 7 = u.id AND age > 5 ORDER BY name LIMIT 3",
        "SELECT DISTINCT age FROM users WHERE id = '7' AND name IN ('a', 'b')",
        "UPDATE users SET age = 5 WHERE id = 7",
        "DELETE FROM users WHERE id = 7 RETURNING name",
    ] {
        assert_eq!(sent(text, &[]), Some(Some(expected)), "{text}");
    }
    let seven = Parameter::Text {
        type_oid: 0,
        value: b"7",
    };
    let by_parameter = "SELECT * FROM users WHERE id = $1";
    assert_eq!(sent(by_parameter, &[seven]), Some(Some(expected)));
    // It is this value, and it is none of a shard.
    for text in [
        "SELECT * FROM users WHERE id = 'x'",
        "SELECT * FROM users WHERE id = 7.5",
    ] {
        assert_eq!(sent(text, &[]), Some(None), "{text}");
    }
    assert_eq!(sent(by_parameter, &[Parameter::Null]), Some(None));
    assert_eq!(sent(by_parameter, &[]), Some(None));
    for text in [
        "SELECT * FROM users WHERE id IN (7, 8)",
        "SELECT * FROM users WHERE id = 7 AND id = 8",
        "SELECT * FROM users WHERE id = ANY ('{7}')",
        "SELECT * FROM users WHERE id = 7 OR age = 5",
        "SELECT * FROM users WHERE id = 7 FOR UPDATE",
        "SELECT f(age) FROM users WHERE id = 7",
        "SELECT * FROM users JOIN payments ON user_id = id WHERE id = 7",
        "SELECT * FROM users WHERE id = 7 AND EXISTS (SELECT 1 FROM countries)",
        "SELECT * FROM countries WHERE id = 7",
        "SELECT * FROM users WHERE age = 7",
        "SELECT * FROM users",
        "EXPLAIN SELECT * FROM users WHERE id = 7",
        "DECLARE c CURSOR FOR SELECT * FROM users WHERE id = 7",
        "WITH d AS (DELETE FROM users WHERE id = 7 RETURNING *) SELECT * FROM d",
        "UPDATE users SET id = 8 WHERE id = 7",
        "UPDATE users SET age = f() WHERE id = 7",
        "INSERT INTO users (id) VALUES (7)",
    ] {
        assert_eq!(sent(text, &[]), None, "{text}");
    }
}
