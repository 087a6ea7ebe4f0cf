//! Random queries over `users`, `orders` and `countries`.

/// A pseudo-random sequence: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((value ^ value >> 31) % u64::try_from(end).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// Some of them, at least one, each once, in any order.
    fn some<'a>(&mut self, from: &[&'a str], most: usize) -> Vec<&'a str> {
        let mut left = from.to_vec();
        let count = 1 + self.below(most.min(left.len()));
        (0..count)
            .map(|_| left.swap_remove(self.below(left.len())))
            .collect()
    }
}

const USERS: &[&str] = &[
    "u.id",
    "u.name",
    "u.age",
    "u.balance",
    "u.score",
    "u.ratio",
    "u.created",
    "u.born",
    "u.active",
    "u.country",
    "u.level",
    "u.token",
    "u.pause",
    "u.data",
    "u.mood",
];
const ORDERS: &[&str] = &[
    "o.id",
    "o.user_id",
    "o.total",
    "o.quantity",
    "o.note",
    "o.placed",
    "o.state",
];
const COUNTRIES: &[&str] = &["c.code", "c.title", "c.big"];
/// Expressions over each.
const USERS_MORE: &[&str] = &[
    "u.age + 1",
    "lower(u.name)",
    "u.balance * 2",
    "u.score / 2",
    "date_trunc('day', u.created)",
    "u.age % 3",
    "coalesce(u.name, '-')",
    "CASE WHEN u.active THEN 1 ELSE 0 END",
    "u.level::text",
    "-u.age",
    "u.id % 10",
    "u.name IS NULL",
];
const ORDERS_MORE: &[&str] = &[
    "o.total / 2",
    "upper(o.note)",
    "o.quantity * 2",
    "o.total::int",
    "o.placed::date",
    "length(o.note)",
];

struct From {
    text: &'static str,
    columns: Vec<&'static str>,
    more: Vec<&'static str>,
    filters: Vec<&'static str>,
    /// Columns that tell every row from every other.
    unique: &'static [&'static str],
}

fn from(random: &mut Random) -> From {
    let (text, users, orders, countries, unique): (_, _, _, _, &[&str]) = match random.below(12) {
        0..=3 => ("users u", true, false, false, &["u.id"]),
        4..=6 => ("orders o", false, true, false, &["o.id"]),
        7 => ("users u JOIN orders o ON o.user_id = u.id", true, true, false, &["o.id"]),
        8 => ("users u LEFT JOIN orders o ON o.user_id = u.id AND o.quantity > 2", true, true, false, &["u.id", "o.id"]),
        9 => ("users u JOIN countries c ON c.code = u.country", true, false, true, &["u.id"]),
        10 => ("orders o JOIN users u ON u.id = o.user_id LEFT JOIN countries c ON c.code = u.country AND c.big", true, true, true, &["o.id"]),
        _ => ("users u JOIN orders o ON o.id = u.id", true, true, false, &["o.id"]),
    };
    let mut from = From {
        text,
        columns: Vec::new(),
        more: Vec::new(),
        filters: Vec::new(),
        unique,
    };
    if users {
        from.columns.extend(USERS);
        from.more.extend(USERS_MORE);
        from.filters.extend([
            "u.age > 8",
            "u.name LIKE 'a%'",
            "u.active",
            "u.balance < 70",
            "NOT u.active OR u.level = 2",
            "u.country IN ('de', 'it')",
            "u.id BETWEEN 10 AND 60",
            "EXISTS (SELECT 1 FROM orders x WHERE x.user_id = u.id AND x.total > 60)",
            "u.country IN (SELECT code FROM countries WHERE big)",
            "u.score <> 'NaN'",
            "u.id IN (SELECT user_id FROM orders WHERE quantity = 1)",
            "u.age > (SELECT count(*) FROM orders x WHERE x.user_id = u.id)",
            "u.age IN (SELECT quantity FROM orders)",
            "u.id < 0",
        ]);
    }
    if orders {
        from.columns.extend(ORDERS);
        from.more.extend(ORDERS_MORE);
        from.filters.extend([
            "o.total > 40",
            "o.quantity IS NOT NULL",
            "o.note <> 'n3'",
            "o.placed < '2024-02-03'",
            "o.state = 's1'",
        ]);
    }
    if countries {
        from.columns.extend(COUNTRIES);
    }
    from
}

/// A query, and whether the order of its rows is known in full.
pub(super) fn random_query(random: &mut Random) -> (String, bool) {
    let from = from(random);
    let mut filter = String::new();
    if random.one_in(2) {
        let filters = random.some(&from.filters, 2);
        filter = format!(
            " WHERE {}",
            filters
                .iter()
                .map(|filter| format!("({filter})"))
                .collect::<Vec<_>>()
                .join(random.pick(&[" AND ", " AND ", " OR "]))
        );
    }
    let source = format!("FROM {}{filter}", from.text);
    match random.below(16) {
        0..=3 => rows(random, &from, &source),
        4..=5 => distinct(random, &from, &source),
        6 => united(random, &source, &from),
        7..=9 => groups(random, &from, &source),
        10 => windows(random, &from, &source),
        11 => sets(random),
        12 => with(random, &from, &source),
        13 => wholes(random, &from, &source),
        _ => subqueries(random, &from, &source),
    }
}

/// Window functions whose partitions span shards, and GROUPING SETS.
fn windows(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let key = from.unique.join(", ");
    let columns = random.some(&from.columns, 2);
    let first = columns[0];
    if random.one_in(3) {
        let sets = random.pick(&["ROLLUP", "CUBE", "GROUPING SETS"]);
        let list = columns.join(", ");
        let grouping = random.pick(&["", ", grouping({})"]).replace("{}", first);
        return (
            format!("SELECT {list}, count(*){grouping} {source} GROUP BY {sets} ({list})"),
            false,
        );
    }
    let function = random
        .pick(&[
            "rank() OVER (ORDER BY {c})",
            "row_number() OVER (ORDER BY {c}, {k})",
            "count(*) OVER (PARTITION BY {c})",
            "lag({c}) OVER (ORDER BY {k})",
            "sum(1) OVER (PARTITION BY {c} ORDER BY {k} ROWS 2 PRECEDING)",
            "first_value({c}) OVER w",
            "max({c}) OVER ()",
        ])
        .replace("{c}", first)
        .replace("{k}", &key);
    let window = match function.contains("OVER w") {
        true => format!(" WINDOW w AS (PARTITION BY {first} ORDER BY {key})"),
        false => String::new(),
    };
    (
        format!(
            "SELECT {}, {function} AS f {source}{window} ORDER BY {key}{}",
            columns.join(", "),
            limit(random)
        ),
        true,
    )
}

/// UNION, INTERSECT and EXCEPT of branches of all kinds.
fn sets(random: &mut Random) -> (String, bool) {
    const NUMBERS: &[&str] = &[
        "SELECT id FROM users",
        "SELECT user_id FROM orders WHERE quantity > 1",
        "SELECT id FROM users WHERE active",
        "SELECT user_id FROM orders GROUP BY user_id HAVING count(*) > 2",
        "SELECT count(*) FROM orders GROUP BY quantity",
        "SELECT max(user_id) FROM orders",
        "SELECT length(title)::int8 FROM countries",
        "SELECT id % 7 FROM users ORDER BY id LIMIT 9",
        "VALUES (1::int8), (2), (95)",
    ];
    const TEXTS: &[&str] = &[
        "SELECT name FROM users",
        "SELECT country FROM users WHERE level > 2",
        "SELECT code FROM countries",
        "SELECT max(name) FROM users GROUP BY level",
        "SELECT DISTINCT country FROM users",
        "SELECT 'de'::text",
    ];
    let branches = match random.one_in(3) {
        true => TEXTS,
        false => NUMBERS,
    };
    let mut sql = format!("({})", random.pick(branches));
    for _ in 0..1 + random.below(2) {
        let operator = random.pick(&[
            "UNION",
            "UNION ALL",
            "INTERSECT",
            "INTERSECT ALL",
            "EXCEPT",
            "EXCEPT ALL",
        ]);
        sql += &format!(" {operator} ({})", random.pick(branches));
    }
    match random.one_in(2) {
        true => (format!("{sql} ORDER BY 1{}", limit(random)), true),
        false => (sql, false),
    }
}

/// WITH, once or twice in FROM.
fn with(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let column = random.pick(&from.columns);
    let key = from.unique[0];
    let materialized = random.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
    let (query, columns) = match random.below(4) {
        0 => (format!("SELECT {key} AS k, {column} AS v {source}"), ""),
        1 => (
            format!("SELECT {column}, count(*) {source} GROUP BY {column}"),
            "(v, k)",
        ),
        2 => (
            format!(
                "SELECT {key} AS k, {column} AS v {source} ORDER BY {} LIMIT 7",
                from.unique.join(", ")
            ),
            "",
        ),
        _ => (
            format!("SELECT max({key}) AS k, min({column}::text COLLATE \"C\") AS v {source}"),
            "",
        ),
    };
    let head = format!("WITH q{columns} AS {materialized}({query})");
    let rest = random.pick(&[
        "SELECT * FROM q",
        "SELECT k, v FROM q WHERE k > 3",
        "SELECT count(*), max(k) FROM q",
        "SELECT a.k, b.v FROM q a JOIN q b ON a.k = b.k",
        "SELECT u.id, q.v FROM users u JOIN q ON q.k = u.id",
        "SELECT q.k, c.title FROM q LEFT JOIN countries c ON c.code = q.v::text",
        "SELECT v FROM q UNION SELECT v FROM q",
        "SELECT id FROM users WHERE id IN (SELECT k FROM q)",
        "SELECT (SELECT max(k) FROM q) AS most, count(*) FROM users",
        ", r AS (SELECT k FROM q WHERE k < 50) SELECT count(*) FROM r",
    ]);
    (format!("{head} {rest}").replace(" ,", ","), false)
}

/// Aggregates that need all values.
fn wholes(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let users = from.text.contains("users");
    let (number, float, word, key) = match users {
        true => ("u.age", "u.score", "u.name", "u.id"),
        false => ("o.quantity", "o.total::float8", "o.note", "o.id"),
    };
    let order = from.unique.join(", ");
    let aggregate = random
        .pick(&[
            "string_agg({w}, ',' ORDER BY {k})",
            "string_agg(DISTINCT {w}, '-' ORDER BY {w} DESC)",
            "array_agg({n} ORDER BY {k} DESC)",
            "array_agg({w} ORDER BY {w}, {k}) FILTER (WHERE {n} > 2)",
            "json_agg({n} ORDER BY {k})",
            "jsonb_agg({w} ORDER BY {k})",
            "jsonb_object_agg({i}, {n})",
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY {n})",
            "percentile_disc(0.25) WITHIN GROUP (ORDER BY {n} DESC)",
            "percentile_cont(ARRAY[0.1, 0.9]) WITHIN GROUP (ORDER BY {n})",
            "mode() WITHIN GROUP (ORDER BY {n})",
            "rank(3) WITHIN GROUP (ORDER BY {n})",
            "round(corr({n}, {f})::numeric, 6)",
            "round(regr_slope({n}, {i})::numeric, 6)",
            "round(regr_r2({i}, {n})::numeric, 6)",
            "regr_count({n}, {i})",
            "round(covar_pop({n}, {i})::numeric, 6)",
            "round(stddev({n}::float8)::numeric, 6)",
            "sum(DISTINCT {n})",
            "avg(DISTINCT {n})",
            "CASE WHEN count(*) > 5 THEN 'many' ELSE 'few' END",
            "greatest(max({n}), count(*))",
            "max({w}) || min({w})",
            "count(DISTINCT ({n}, {w}))",
        ])
        .replace("{n}", number)
        .replace("{f}", float)
        .replace("{w}", word)
        .replace("{i}", key)
        .replace("{k}", &order);
    if random.one_in(2) {
        return (format!("SELECT {aggregate}, count(*) {source}"), true);
    }
    let by = random.pick(&from.columns);
    let having = random.pick(&[
        "",
        "",
        " HAVING count(*) > 1 OR max(1) = 2",
        " HAVING NOT min(1) > 1",
    ]);
    (
        format!(
            "SELECT {by} AS g, {aggregate} {source} GROUP BY {by}{having} ORDER BY {by}{}",
            limit(random)
        ),
        true,
    )
}

/// Subqueries that need rows of several shards.
fn subqueries(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let key = from.unique.join(", ");
    let own = from.unique[0];
    let column = random.pick(&from.columns);
    let filter = random
        .pick(&[
            "{k} > (SELECT avg(id) FROM users)",
            "{k} IN (SELECT quantity FROM orders)",
            "{k} NOT IN (SELECT quantity FROM orders WHERE quantity IS NOT NULL)",
            "{k} NOT IN (SELECT age FROM users)",
            "EXISTS (SELECT 1 FROM orders WHERE total > 120)",
            "NOT EXISTS (SELECT FROM users WHERE age > 100)",
            "{k} = ANY (SELECT max(user_id) FROM orders GROUP BY state)",
            "{k} < ALL (SELECT 50 + count(*) FROM users GROUP BY level)",
            "({k}, 1) IN (SELECT id, quantity FROM orders)",
            "{k} IN (SELECT o2.id FROM orders o2 JOIN users u2 ON u2.age = o2.quantity)",
            "{k} IN (SELECT id FROM users ORDER BY age, id LIMIT 20)",
            "{k} > (SELECT count(*) FROM countries) * (SELECT min(level) FROM users WHERE level > 0)",
        ])
        .replace("{k}", own);
    let both = match source.contains(" WHERE ") {
        true => format!("{} AND {filter}", source.replace(" OR ", " AND ")),
        false => format!("{source} WHERE {filter}"),
    };
    match random.below(6) {
        0..=2 => (
            format!("SELECT {key}, {column} {both} ORDER BY {key}{}", limit(random)),
            true,
        ),
        3 => (format!("SELECT count(*), max({column}::text COLLATE \"C\") {both}"), true),
        4 => (
            format!(
                "SELECT x.n, count(*) FROM (SELECT {column} AS v, count(*) AS n {source} GROUP BY {column}) x GROUP BY x.n ORDER BY 1"
            ),
            true,
        ),
        _ => (
            format!("SELECT {own}, (SELECT max(total) FROM orders) AS most, ARRAY(SELECT DISTINCT level FROM users ORDER BY 1) {source} ORDER BY {key}"),
            true,
        ),
    }
}

fn direction(random: &mut Random, key: &str) -> String {
    let way = random.pick(&["", " DESC", " ASC", " NULLS FIRST", " DESC NULLS LAST"]);
    format!("{key}{way}")
}

fn limit(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!(" LIMIT {}", random.below(12)),
        1 => format!(" LIMIT {} OFFSET {}", random.below(12), random.below(9)),
        2 => format!(" OFFSET {}", random.below(20)),
        _ => String::new(),
    }
}

fn rows(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let mut outputs: Vec<String> = random
        .some(&from.columns, 4)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if random.one_in(2) {
        let more = random.pick(&from.more);
        outputs.push(if random.one_in(2) {
            format!("{more} AS x")
        } else {
            more.to_owned()
        });
    }
    if random.one_in(12) {
        outputs = vec!["*".to_owned()];
    }
    if random.one_in(12) {
        let partition = random.pick(&from.columns);
        outputs.push(format!("count(*) OVER (PARTITION BY {partition}, u.id)"));
    }
    let mut sql = format!("SELECT {} {source}", outputs.join(", "));
    let mut ordered = false;
    if random.one_in(4) {
        // Without an order the number of rows is known only.
    } else {
        let mut keys: Vec<String> = Vec::new();
        for _ in 0..random.below(3) {
            let key = match random.below(4) {
                0 => (1 + random.below(outputs.len())).to_string(),
                1 => random.pick(&from.more).to_owned(),
                2 if sql.contains(" AS x") => "x".to_owned(),
                _ => random.pick(&from.columns).to_owned(),
            };
            keys.push(direction(random, &key));
        }
        for key in from.unique {
            keys.push(direction(random, key));
        }
        sql += &format!(" ORDER BY {}", keys.join(", "));
        ordered = true;
        sql += &match random.below(10) {
            0 => format!(" FETCH FIRST {} ROWS WITH TIES", 1 + random.below(5)),
            _ => limit(random),
        };
    }
    (sql, ordered)
}

fn distinct(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let mut outputs: Vec<String> = random
        .some(&from.columns, 3)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if random.one_in(3) {
        outputs.push(random.pick(&from.more).to_owned());
    }
    if random.one_in(8) {
        // Of those that are equal in what it is ordered by the rows are told apart, their order is not.
        let on = random.some(&from.columns, 2).join(", ");
        let first = on.split(',').next().unwrap_or_default();
        let sql = format!("SELECT DISTINCT ON ({on}) {on} {source} ORDER BY {first}");
        return (sql, false);
    }
    if random.one_in(4) {
        let on = &outputs[0];
        // The output may have what is distinct, have it under another name, or not have it.
        let (list, first) = match random.below(4) {
            0 => ("*".to_owned(), on.as_str()),
            1 => (from.unique.join(", "), on.as_str()),
            2 => (format!("{on} AS x, {}", from.unique.join(", ")), "x"),
            _ => (outputs.join(", "), on.as_str()),
        };
        let mut keys = vec![first];
        keys.extend(from.unique);
        return (
            format!(
                "SELECT DISTINCT ON ({on}) {list} {source} ORDER BY {}{}",
                keys.join(", "),
                limit(random)
            ),
            true,
        );
    }
    let sql = format!("SELECT DISTINCT {} {source}", outputs.join(", "));
    if random.one_in(3) {
        return (sql, false);
    }
    let keys: Vec<String> = (1..=outputs.len())
        .map(|at| direction(random, &at.to_string()))
        .collect();
    (
        format!("{sql} ORDER BY {}{}", keys.join(", "), limit(random)),
        true,
    )
}

fn united(random: &mut Random, source: &str, from: &From) -> (String, bool) {
    let column = random.pick(&from.columns);
    let (all, other) = (
        random.pick(&["", " ALL"]),
        random.pick(&["", " WHERE false", " LIMIT 3"]),
    );
    let mut sql = format!(
        "SELECT {column} AS v {source} UNION{all} SELECT {column} FROM {}{other}",
        from.text
    );
    if other == " LIMIT 3" {
        return (sql, false);
    }
    if random.one_in(2) {
        sql += &format!(" ORDER BY {}{}", direction(random, "v"), limit(random));
        return (sql, true);
    }
    (sql, false)
}

const AGGREGATES: &[&str] = &[
    "count(*)",
    "count({})",
    "sum({n})",
    "avg({n})",
    "min({})",
    "max({})",
    "bool_and({b})",
    "bool_or({b})",
    "every({b})",
    "bit_and({i})",
    "bit_or({i})",
    "bit_xor({i})",
    "stddev({n})",
    "variance({n})",
    "stddev_pop({n})",
    "var_pop({n})",
    "count(DISTINCT {})",
    "max(DISTINCT {})",
    "sum({n}) FILTER (WHERE {b})",
    "count(*)::int",
    "min({s})",
    "max({s})",
    "sum({n}) * 2",
    "sum({n}) / nullif(count({}), 0)",
    "coalesce(sum({n}), 0)",
    "round(avg({n}), 2)",
    "avg({n}) - 1.5",
    "(sum({n}) + count(*)) * 0.25",
    "round(100.0 * count({}) / count(*), 1)",
    "sum({n})::int",
    "max({n})::numeric / 7",
    "sum({i}) / (count({b}) - 3)",
    "sum({n})::float8 / 3",
    "abs(sum({n}))",
    "string_agg({s}, ',' ORDER BY {s})",
    "sum(DISTINCT {n})",
];

fn aggregate(random: &mut Random, from: &From) -> String {
    let users = from.text.contains("users");
    let numbers: &[&str] = if users {
        &[
            "u.age",
            "u.balance",
            "u.score",
            "u.level",
            "u.id",
            "u.ratio",
        ]
    } else {
        &["o.total", "o.quantity", "o.id"]
    };
    let flags = if users { "u.active" } else { "o.quantity > 2" };
    let integers: &[&str] = if users {
        &["u.age", "u.level", "u.id"]
    } else {
        &["o.quantity", "o.id"]
    };
    let texts: &[&str] = if users {
        &["u.name", "u.country"]
    } else {
        &["o.note", "o.state"]
    };
    random
        .pick(AGGREGATES)
        .replace("{n}", random.pick(numbers))
        .replace("{b}", flags)
        .replace("{i}", random.pick(integers))
        .replace("{s}", random.pick(texts))
        .replace("{}", random.pick(&from.columns))
}

fn groups(random: &mut Random, from: &From, source: &str) -> (String, bool) {
    let aggregates: Vec<String> = (0..=random.below(3))
        .map(|_| aggregate(random, from))
        .collect();
    if random.one_in(4) {
        return (format!("SELECT {} {source}", aggregates.join(", ")), true);
    }
    let mut keys: Vec<String> = random
        .some(&from.columns, 2)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if random.one_in(3) {
        keys.push(random.pick(&from.more).to_owned());
    }
    let shown = random.below(keys.len() + 1);
    let mut outputs: Vec<String> = keys[..shown].to_vec();
    outputs.extend(aggregates.clone());
    let mut named = keys.clone();
    if shown > 0 && random.one_in(4) {
        outputs[0] += " AS grouped";
        named[0] = random.pick(&["grouped", "1"]).to_owned();
    }
    let mut sql = format!(
        "SELECT {} {source} GROUP BY {}",
        outputs.join(", "),
        named.join(", ")
    );
    if random.one_in(4) {
        let what = random.pick(&[
            "count(*) > 2",
            "3 >= count(*)",
            "count(*) <> 1 AND count(*) < 9",
            "max(1) = 1",
            "sum(1) > 1.5",
        ]);
        sql += &format!(" HAVING {what}");
    }
    if random.one_in(3) {
        return (sql, false);
    }
    let mut order: Vec<String> = Vec::new();
    if random.one_in(2) {
        let by = direction(random, &aggregates[0]);
        order.extend((!is_inexact(&aggregates[0])).then_some(by));
    }
    for key in &keys {
        order.push(direction(random, key));
    }
    (
        format!("{sql} ORDER BY {}{}", order.join(", "), limit(random)),
        true,
    )
}

/// Do its last digits depend on the order in which rows are added? So they do on one PostgreSQL, too.
fn is_inexact(aggregate: &str) -> bool {
    let adds = ["sum(", "avg(", "stddev", "var"];
    let floats = ["u.score", "u.ratio", "float8"];
    adds.iter().any(|name| aggregate.contains(name))
        && floats.iter().any(|name| aggregate.contains(name))
}
