//! What is planned for which query, and what is refused by which name.

use pg_query::NodeEnum;

use super::*;
use crate::merge::plan::{Aggregate, Bound, Column, Expression, Function, Limit, Operator};
use crate::types::oid;

/// `users.id`, `orders.user_id` and `lines.user_id` are keys; `other.key` is one of another family.
struct Tables;

impl Catalogue for Tables {
    fn table(&self, schema: Option<&str>, table: &str) -> Placed {
        let sharded = |key: &str, family| Placed::Sharded {
            key: key.to_owned(),
            family,
        };
        match (schema, table) {
            (Some("far"), _) => Placed::Elsewhere,
            (_, "users") => sharded("id", 0),
            (_, "orders" | "lines") => sharded("user_id", 0),
            (_, "other") => sharded("key", 1),
            _ => Placed::Everywhere,
        }
    }

    fn has_column(&self, _column: &str) -> Option<bool> {
        None
    }

    fn is_immutable(&self, _schema: Option<&str>, function: &str) -> bool {
        function == "distance"
    }
}

fn planned(sql: &str) -> Result<Asked, Error> {
    with_select(sql, |select| {
        let mut select = select.clone();
        with::inline(&mut select)?;
        merged(&select, &Tables)
    })
}

fn with_select<T>(sql: &str, plan: impl FnOnce(&SelectStmt) -> T) -> T {
    let tree = pg_query::parse(sql, pg_query::ParserOptions::default())
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    match tree.protobuf.stmts[0]
        .stmt
        .as_ref()
        .unwrap()
        .node
        .as_ref()
        .unwrap()
    {
        NodeEnum::SelectStmt(select) => plan(select),
        other => panic!("{other:?}"),
    }
}

/// The shards' text, where `=` is the query itself as the library writes it.
fn check(sql: &str, text: &str) -> MergePlan {
    let found = planned(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let same = pg_query::parse(sql, pg_query::ParserOptions::default())
        .unwrap()
        .deparse(pg_query::DeparseOptions::default())
        .unwrap();
    assert_eq!(
        found.text,
        if text == "=" { same.as_str() } else { text },
        "{sql}"
    );
    found.plan
}

fn refusal(sql: &str, construct: &str) {
    let error = planned(sql).map(|across| across.text).expect_err(sql);
    assert_eq!(error.code.as_str(), "0A000", "{sql}");
    assert_eq!(
        error.message,
        format!("{construct} is not supported across shards"),
        "{sql}"
    );
}

#[test]
fn what_every_shard_computes_is_concatenated() {
    for sql in [
        "SELECT * FROM users",
        "SELECT id, lower(name) FROM users WHERE age > 3 AND (name LIKE 'a%' OR NOT deleted)",
        "SELECT u.id FROM users u JOIN orders o ON o.user_id = u.id",
        "SELECT u.id FROM users u, orders o WHERE o.user_id = u.id AND o.total > 5",
        "SELECT 1 FROM lines l, users u, orders o WHERE o.user_id = u.id AND l.user_id = o.user_id",
        "SELECT 1 FROM orders JOIN lines USING (user_id)",
        "SELECT 1 FROM orders o LEFT JOIN lines l ON l.user_id = o.user_id AND l.n = 1",
        "SELECT 1 FROM orders o FULL JOIN lines l ON l.user_id = o.user_id",
        "SELECT 1 FROM users u JOIN countries c ON c.code = u.country",
        "SELECT 1 FROM countries c RIGHT JOIN users u ON c.code = u.country",
        "SELECT user_id, sum(total) / count(*) FROM orders GROUP BY user_id HAVING count(*) > 5",
        "SELECT user_id, count(*) FROM orders GROUP BY 1",
        "SELECT array_agg(total ORDER BY total) FROM orders GROUP BY user_id",
        "SELECT DISTINCT user_id, total FROM orders",
        "SELECT DISTINCT * FROM orders",
        "SELECT DISTINCT ON (user_id) user_id, total FROM orders",
        "SELECT row_number() OVER (PARTITION BY user_id ORDER BY total) FROM orders",
        "SELECT sum(total) OVER w FROM orders WINDOW w AS (PARTITION BY user_id)",
        "SELECT * FROM (SELECT user_id, count(*) AS n FROM orders GROUP BY user_id) o JOIN users u ON u.id = o.user_id",
        "SELECT * FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.user_id = u.id AND o.total > 1)",
        "SELECT id, (SELECT max(total) FROM orders o WHERE o.user_id = u.id) FROM users u",
        "SELECT * FROM users WHERE id IN (SELECT user_id FROM orders)",
        "SELECT * FROM users WHERE country IN (SELECT code FROM countries WHERE big)",
        "SELECT id FROM users UNION ALL SELECT user_id FROM orders WHERE total > 1",
        "SELECT id FROM users FOR UPDATE",
        "SELECT x FROM users, unnest(tags) AS x",
        "SELECT id FROM users WHERE created < now()",
        "SELECT id, distance(place, 'here') FROM users WHERE geo.distance(place, 'there') < 5",
    ] {
        let plan = check(sql, "=");
        assert_eq!(plan, MergePlan::concatenate(), "{sql}");
    }
}

#[test]
fn order_by_finds_or_adds_its_columns() {
    let order = |sql: &str, text: &str, expected: &[(Column, bool, bool)], hidden| {
        let plan = check(sql, text);
        let found: Vec<_> = plan
            .order
            .iter()
            .map(|key| (key.column, key.descending, key.nulls_first))
            .collect();
        assert_eq!((found.as_slice(), plan.hidden), (expected, hidden), "{sql}");
    };
    let (start, end) = (Column::FromStart, Column::FromEnd);
    order(
        "SELECT id, name FROM users ORDER BY name",
        "=",
        &[(start(1), false, false)],
        0,
    );
    order(
        "SELECT id, name FROM users ORDER BY 2 DESC, 1",
        "=",
        &[(start(1), true, true), (start(0), false, false)],
        0,
    );
    order(
        "SELECT *, age FROM users ORDER BY 2 NULLS FIRST",
        "=",
        &[(start(1), false, true)],
        0,
    );
    order(
        "SELECT -age AS age FROM users ORDER BY age",
        "=",
        &[(start(0), false, false)],
        0,
    );
    order(
        "SELECT age::text FROM users ORDER BY age",
        "=",
        &[(start(0), false, false)],
        0,
    );
    order(
        "SELECT lower(name) FROM users ORDER BY lower(name)",
        "=",
        &[(start(0), false, false)],
        0,
    );
    order(
        "SELECT id FROM users ORDER BY age, lower(name) DESC NULLS LAST",
        "SELECT id, lower(name) AS __pgdog_2, age AS __pgdog_1 FROM users ORDER BY age, lower(name) DESC NULLS LAST",
        &[(end(0), false, false), (end(1), true, false)],
        2,
    );
    order(
        "SELECT * FROM users ORDER BY age",
        "SELECT *, age AS __pgdog_1 FROM users ORDER BY age",
        &[(end(0), false, false)],
        1,
    );
    order(
        "SELECT DISTINCT id, age FROM users ORDER BY age",
        "=",
        &[(start(1), false, false)],
        0,
    );
    order(
        "SELECT id FROM users UNION ALL SELECT user_id FROM orders ORDER BY id",
        "=",
        &[(start(0), false, false)],
        0,
    );
    assert!(
        check(
            "SELECT name FROM users ORDER BY name COLLATE \"C\"",
            "SELECT name, name COLLATE \"C\" AS __pgdog_1 FROM users ORDER BY name COLLATE \"C\""
        )
        .order[0]
            .by_bytes
    );
}

#[test]
fn the_order_of_a_subquery_is_that_of_the_query_around_it() {
    let order = |sql: &str, text: &str, expected: &[(Column, bool)]| {
        let plan = check(sql, text);
        let keys = plan.order.iter();
        let found: Vec<_> = keys.map(|key| (key.column, key.descending)).collect();
        assert_eq!(found, expected, "{sql}");
    };
    let (start, end) = (Column::FromStart, Column::FromEnd);
    order(
        "SELECT * FROM (SELECT id, age FROM users ORDER BY age DESC, 1) s LIMIT 10",
        "SELECT *, s.id AS __pgdog_2, s.age AS __pgdog_1 FROM (SELECT id, age FROM users ORDER BY age DESC, 1) s \
         ORDER BY s.age DESC, s.id LIMIT 10",
        &[(end(0), true), (end(1), false)],
    );
    order(
        "SELECT s.age FROM (SELECT * FROM users u ORDER BY u.age) s",
        "SELECT s.age FROM (SELECT * FROM users u ORDER BY u.age) s ORDER BY s.age",
        &[(start(0), false)],
    );
    order(
        "SELECT b FROM (SELECT lower(name), age FROM users ORDER BY lower(name), age) s(a, b)",
        "SELECT b, s.b AS __pgdog_2, s.a AS __pgdog_1 FROM (SELECT lower(name), age FROM users ORDER BY lower(name), age) s(a, b) \
         ORDER BY s.a, s.b",
        &[(end(0), false), (end(1), false)],
    );
    order(
        "SELECT n FROM (SELECT age AS n FROM (SELECT * FROM users ORDER BY age DESC NULLS LAST) a) b OFFSET 1",
        "SELECT n, b.n AS __pgdog_1 FROM (SELECT age AS n FROM (SELECT * FROM users ORDER BY age DESC NULLS LAST) a) b \
         ORDER BY b.n DESC NULLS LAST",
        &[(end(0), true)],
    );
    order(
        "WITH s AS (SELECT id FROM users ORDER BY id) SELECT id FROM s",
        "SELECT id, s.id AS __pgdog_1 FROM (SELECT id FROM users ORDER BY id) s ORDER BY s.id",
        &[(end(0), false)],
    );
    // What has an order of its own, or where there is none.
    for sql in [
        "SELECT * FROM (SELECT id FROM users ORDER BY id) s ORDER BY id",
        "SELECT count(*) FROM (SELECT name FROM users ORDER BY lower(name)) s",
        "SELECT max(age) FROM (SELECT id, age FROM users ORDER BY id) s GROUP BY id",
        "SELECT DISTINCT age FROM (SELECT age FROM users ORDER BY age) s",
    ] {
        let plan = planned(sql).expect(sql);
        assert_eq!(
            plan.text.matches("ORDER BY").count(),
            sql.matches("ORDER BY").count(),
            "{sql}"
        );
    }
    let unsaid = "a query in the order of a subquery that does not select what it is sorted by";
    for sql in [
        "SELECT * FROM (SELECT id FROM users ORDER BY age) s",
        "SELECT id FROM (SELECT id, age AS id FROM users ORDER BY age) s",
        "SELECT id FROM (SELECT *, -age AS age FROM users ORDER BY users.age) s",
        "SELECT -age AS age FROM (SELECT age FROM users ORDER BY age)",
        "SELECT * FROM (SELECT * FROM users u JOIN orders o ON o.user_id = u.id ORDER BY u.id) s",
        "SELECT id FROM (SELECT id FROM (SELECT id, age FROM users ORDER BY age) a) b",
        "SELECT 1 FROM (SELECT age AS n, id AS n FROM (SELECT id, age FROM users ORDER BY age) a) b",
        "SELECT * FROM (SELECT id FROM users ORDER BY id USING >) s",
    ] {
        refusal(sql, unsaid);
    }
}

#[test]
fn limits_are_widened_for_the_shards() {
    let limit = |sql: &str, text: &str, count, offset| {
        let plan = check(sql, text);
        assert_eq!(
            (plan.limit.count, plan.limit.offset),
            (count, offset),
            "{sql}"
        );
    };
    let constant = Bound::Constant;
    let parameter = |number, type_oid| Bound::Parameter { number, type_oid };
    limit(
        "SELECT id FROM users LIMIT 5",
        "=",
        constant(5),
        Bound::None,
    );
    limit(
        "SELECT id FROM users LIMIT 5 OFFSET 2",
        "SELECT id FROM users LIMIT 7",
        constant(5),
        constant(2),
    );
    limit(
        "SELECT id FROM users OFFSET 2",
        "SELECT id FROM users",
        Bound::None,
        constant(2),
    );
    limit(
        "SELECT id FROM users LIMIT NULL OFFSET 0",
        "SELECT id FROM users",
        Bound::None,
        constant(0),
    );
    limit(
        "SELECT id FROM users LIMIT ALL",
        "SELECT id FROM users",
        Bound::None,
        Bound::None,
    );
    limit(
        "SELECT id FROM users LIMIT '5'::bigint",
        "SELECT id FROM users LIMIT 5",
        constant(5),
        Bound::None,
    );
    limit(
        "SELECT id FROM users FETCH FIRST ROW ONLY",
        "SELECT id FROM users LIMIT 1",
        constant(1),
        Bound::None,
    );
    limit(
        "SELECT id FROM users LIMIT 4294967296",
        "SELECT id FROM users LIMIT 4294967296",
        constant(1 << 32),
        Bound::None,
    );
    limit(
        "SELECT id FROM users LIMIT $1 OFFSET $2::int",
        "SELECT id FROM users LIMIT LEAST(9223372036854775807 - GREATEST($2::int4::int8, 0), $1::int8) + GREATEST($2::int4::int8, 0)",
        parameter(1, oid::INT8),
        parameter(2, oid::INT4),
    );
    limit(
        "SELECT count(*) FROM users LIMIT $1::smallint",
        "SELECT count(*) FROM users LIMIT CASE WHEN COALESCE($1::int2::int8) IS NULL THEN NULL::int8 END",
        parameter(1, oid::INT2),
        Bound::None,
    );
    let plan = check(
        "SELECT age FROM users ORDER BY age OFFSET 1 FETCH FIRST 2 ROWS WITH TIES",
        "SELECT age FROM users ORDER BY age FETCH FIRST 3 ROWS WITH TIES",
    );
    assert!(plan.limit.with_ties);
    let negative = planned("SELECT id FROM users LIMIT -1").unwrap_err();
    assert_eq!(negative.code.as_str(), "2201W");
}

#[test]
fn duplicates_across_shards_are_dropped_by_the_merge() {
    let plan = check("SELECT DISTINCT age FROM users ORDER BY age LIMIT 3", "=");
    assert_eq!(plan.distinct, Distinct::Rows);
    let plan = check(
        "SELECT DISTINCT ON (age) name FROM users ORDER BY age, id",
        "SELECT DISTINCT ON (age) name, id AS __pgdog_2, age AS __pgdog_1 FROM users ORDER BY age, id",
    );
    assert_eq!(plan.distinct, Distinct::On(vec![Column::FromEnd(0)]));
    let plan = check(
        "SELECT age FROM users UNION SELECT total FROM orders ORDER BY 1 LIMIT 2",
        "=",
    );
    assert_eq!((plan.distinct, plan.order.len()), (Distinct::Rows, 1));
}

#[test]
fn groups_are_put_together() {
    let grouping = |sql: &str, text: &str| {
        let plan = check(sql, text);
        (*plan.grouping.unwrap(), plan.hidden)
    };
    let (start, end) = (Column::FromStart, Column::FromEnd);
    let sum = |column| Aggregate {
        column,
        function: Function::Sum,
    };

    let (found, hidden) = grouping("SELECT count(*), max(age) FROM users", "=");
    assert_eq!(found.keys, []);
    assert_eq!(found.aggregates[0], sum(start(0)));
    assert_eq!(found.aggregates[1].function, Function::Greatest);
    assert_eq!(hidden, 0);

    let (found, _) = grouping("SELECT count(*)::int FROM users", "=");
    assert_eq!(found.aggregates, [sum(start(0))]);

    let (found, hidden) = grouping(
        "SELECT avg(age) FILTER (WHERE age > 0) FROM users",
        "SELECT avg(age) FILTER (WHERE age > 0), pg_catalog.count(age) FILTER (WHERE age > 0) AS __pgdog_2, \
         pg_catalog.sum(age) FILTER (WHERE age > 0) AS __pgdog_1 FROM users",
    );
    assert_eq!(
        found.aggregates[0].function,
        Function::Average {
            sum: end(0),
            count: end(1)
        }
    );
    assert_eq!(hidden, 2);

    let (found, _) = grouping(
        "SELECT count(*) FROM users GROUP BY age",
        "SELECT count(*), age AS __pgdog_1 FROM users GROUP BY age",
    );
    assert_eq!(found.keys, [end(0)]);

    let (found, _) = grouping(
        "SELECT date_trunc('day', created) AS day, count(*) FROM users GROUP BY day ORDER BY day",
        "SELECT date_trunc('day', created) AS day, count(*) FROM users GROUP BY date_trunc('day', created)",
    );
    assert_eq!(found.keys, [start(0)]);

    let (found, _) = grouping("SELECT age, count(*) FROM users GROUP BY 1", "=");
    assert_eq!(found.keys, [start(0)]);

    let (found, _) = grouping(
        "SELECT count(DISTINCT age), count(DISTINCT id) FROM users",
        "SELECT count(DISTINCT age), count(DISTINCT id), pg_catalog.array_agg(DISTINCT age) AS __pgdog_1 FROM users",
    );
    assert_eq!(
        found.aggregates[0].function,
        Function::CountDistinct { values: end(0) }
    );
    assert_eq!(found.aggregates[1], sum(start(1)));

    let plan = check(
        "SELECT age, count(*) FROM users GROUP BY age HAVING age > 3 AND 5 <= count(*) AND sum(id) <> 7 ORDER BY 2 DESC LIMIT 3",
        "SELECT age, count(*), sum(id) AS __pgdog_1 FROM users GROUP BY age HAVING age > 3",
    );
    assert_eq!(plan.conditions.len(), 2);
    assert_eq!(plan.conditions[0].column, start(1));
    assert_eq!(plan.conditions[1].column, end(0));
    assert_eq!(plan.order.len(), 1);
    assert_eq!(
        plan.limit,
        Limit {
            count: Bound::Constant(3),
            ..Limit::NONE
        }
    );

    let (found, _) = grouping(
        "SELECT stddev(age) FROM users",
        "SELECT stddev(age), pg_catalog.count(age) AS __pgdog_3, \
         pg_catalog.sum(age::numeric * age::numeric) AS __pgdog_2, pg_catalog.sum(age) AS __pgdog_1 FROM users",
    );
    assert!(matches!(
        found.aggregates[0].function,
        Function::Deviation {
            sample: true,
            root: true,
            ..
        }
    ));
}

#[test]
fn expressions_over_aggregates_are_computed_by_the_merge() {
    let computed = |sql: &str, text: &str| check(sql, text).grouping.unwrap().computed;
    let (start, end) = (Column::FromStart, Column::FromEnd);
    let column = |column| Box::new(Expression::Column(column));
    let found = computed(
        "SELECT count(*), sum(age) / nullif(count(*), 0) FROM users",
        "SELECT count(*), CASE WHEN false THEN sum(age) / NULLIF(count(*), 0) END AS \"?column?\", sum(age) AS __pgdog_1 FROM users",
    );
    let zero = Box::new(Expression::Constant("0".to_owned()));
    let divisor = Box::new(Expression::NullIf(column(start(0)), zero));
    assert_eq!(found[0].column, start(1));
    assert_eq!(
        found[0].expression,
        Expression::Arithmetic(Operator::Divide, column(end(0)), divisor)
    );
    let found = computed(
        "SELECT round(avg(age), 2) FROM users",
        "SELECT CASE WHEN false THEN round(avg(age), 2) END AS round, pg_catalog.count(age) AS __pgdog_3, \
         pg_catalog.sum(age) AS __pgdog_2, avg(age) AS __pgdog_1 FROM users",
    );
    assert_eq!(
        found[0].expression,
        Expression::Round(column(end(0)), Some(2))
    );
    let found = computed(
        "SELECT age FROM users GROUP BY age ORDER BY coalesce(sum(id), 0)::int8 DESC",
        "SELECT age, sum(id) AS __pgdog_2, CASE WHEN false THEN COALESCE(sum(id), 0)::int8 END AS __pgdog_1 FROM users GROUP BY age",
    );
    assert_eq!(found[0].column, end(0));
}

#[test]
fn what_is_not_known_to_be_right_is_refused_by_name() {
    for (sql, construct) in [
        ("SELECT abs(sum(age)) FROM users", "an expression over aggregates"),
        ("SELECT sum(age) || 'x' FROM users", "an expression over aggregates"),
        ("SELECT sum(age)::numeric(5, 1) FROM users", "an expression over aggregates"),
        ("SELECT CASE WHEN count(*) > 1 THEN 1 END FROM users", "an expression over aggregates"),
        ("SELECT 1 FROM users u JOIN orders o ON o.id = u.id", "joining sharded tables other than by their sharding keys"),
        ("SELECT 1 FROM users, orders", "joining sharded tables other than by their sharding keys"),
        ("SELECT 1 FROM users u JOIN other o ON o.key = u.id", "joining sharded tables other than by their sharding keys"),
        ("SELECT 1 FROM users u JOIN orders o ON o.user_id = u.id OR u.id = 1", "joining sharded tables other than by their sharding keys"),
        ("SELECT 1 FROM orders a LEFT JOIN lines b ON true WHERE a.user_id = b.user_id", "joining sharded tables other than by their sharding keys"),
        ("SELECT 1 FROM orders NATURAL JOIN lines", "NATURAL JOIN of sharded tables"),
        ("SELECT 1 FROM countries c LEFT JOIN users u ON c.code = u.country", "an outer join that keeps all rows of an omnisharded table"),
        ("SELECT 1 FROM users u FULL JOIN countries c ON c.code = u.country", "an outer join that keeps all rows of an omnisharded table"),
        ("SELECT count(*) FROM countries", "a query without a sharded table in FROM"),
        ("SELECT 1 FROM far.away", "a table of a schema that is on other shards"),
        ("SELECT rank() OVER (ORDER BY age) FROM users", "a window function that is not partitioned by the sharding key"),
        ("SELECT sum(age) OVER (PARTITION BY name) FROM users", "a window function that is not partitioned by the sharding key"),
        ("SELECT age FROM users INTERSECT SELECT user_id FROM orders", "INTERSECT"),
        ("SELECT id FROM users EXCEPT SELECT id FROM orders", "EXCEPT"),
        ("SELECT id FROM users UNION ALL SELECT code FROM countries", "UNION ALL with rows that are on every shard"),
        ("SELECT id FROM users UNION ALL (SELECT 1 FROM orders UNION SELECT 2 FROM orders)", "UNION within UNION ALL"),
        ("SELECT count(*) FROM users UNION ALL SELECT 1 FROM orders", "UNION of rows that are aggregated across shards"),
        ("WITH x AS (SELECT 1) SELECT id FROM users", "a query of WITH that is not used"),
        ("SELECT string_agg(name, ',') FROM users", "the aggregate string_agg"),
        ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY age) FROM users", "the aggregate percentile_cont"),
        ("SELECT sum(DISTINCT age) FROM users", "sum(DISTINCT …)"),
        ("SELECT age, count(*) FROM users GROUP BY ROLLUP (age)", "GROUPING SETS, ROLLUP or CUBE"),
        ("SELECT count(*) FROM users GROUP BY age HAVING count(*) > count(name)", "HAVING other than comparing an aggregate with a number"),
        ("SELECT median(age) FROM users", "the function median, of which nothing is known,"),
        ("SELECT public.count(age) FROM users", "the function public.count, of which nothing is known,"),
        ("SELECT tableoid FROM users", "a system column"),
        ("SELECT id, now() FROM users", "the current time in the result"),
        ("SELECT name FROM users ORDER BY name COLLATE \"de_DE\"", "COLLATE \"de_DE\" in the result"),
        ("SELECT id FROM users ORDER BY age USING <", "ORDER BY … USING"),
        ("SELECT DISTINCT * FROM users u JOIN countries c ON true ORDER BY upper(name)", "ORDER BY of what is not in the output of SELECT DISTINCT"),
        ("SELECT id FROM users LIMIT 1 + 1", "LIMIT with an expression"),
        ("SELECT id FROM users LIMIT (SELECT 1)", "LIMIT with an expression"),
        ("SELECT id FROM users LIMIT 1 FOR UPDATE", "FOR UPDATE or FOR SHARE with LIMIT"),
        ("SELECT * FROM (SELECT id FROM users LIMIT 1) x", "LIMIT in a subquery over a sharded table"),
        ("SELECT * FROM (SELECT count(*) FROM users) x", "a subquery that aggregates rows of several shards"),
        ("SELECT id FROM users WHERE age = (SELECT max(age) FROM users)", "a subquery that aggregates rows of several shards"),
        ("SELECT id FROM users WHERE age IN (SELECT total FROM orders)", "a subquery over a sharded table that is not bound to the outer row's sharding key"),
        ("SELECT id FROM users WHERE id NOT IN (SELECT user_id FROM orders)", "a subquery over a sharded table that is not bound to the outer row's sharding key"),
        ("SELECT id FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.id = u.id)", "a subquery over a sharded table that is not bound to the outer row's sharding key"),
        ("SELECT count(*) FROM orders o LEFT JOIN lines l ON l.user_id = o.user_id GROUP BY ROLLUP (l.user_id)", "GROUPING SETS, ROLLUP or CUBE"),
        ("SELECT lower(day) AS day, count(*) FROM users GROUP BY day", "GROUP BY of a name that may be an output's or a column's"),
        ("SELECT * FROM users TABLESAMPLE system (1)", "TABLESAMPLE"),
        ("SELECT age, random() FROM users GROUP BY age", "a volatile function beside aggregates"),
    ] {
        refusal(sql, construct);
    }
}

#[test]
fn collations_and_the_time_are_refused_within_subqueries_too() {
    for sql in [
        "SELECT * FROM (SELECT id, name COLLATE \"de_DE\" AS n FROM users) x ORDER BY n",
        "SELECT id, (SELECT now()) FROM users",
    ] {
        assert!(planned(sql).is_err(), "{sql}");
    }
}

#[test]
fn texts_of_any_depth_are_answered() {
    for levels in [50, 1_000, 100_000] {
        let sums = format!("SELECT 1{} FROM users ORDER BY age", " + 1".repeat(levels));
        let nested = format!(
            "SELECT {}1{} FROM users",
            "(".repeat(levels),
            ")".repeat(levels)
        );
        let subqueries = "SELECT * FROM (".repeat(levels / 10)
            + "SELECT id FROM users"
            + &") x".repeat(levels / 10);
        for sql in [sums, nested, subqueries] {
            let found = plan_text(sql.as_bytes(), Dialect::default(), &Tables);
            assert!(levels > 50 || found.is_ok_and(|found| found.is_some()));
        }
    }
    assert_eq!(
        plan_text(b"SELECT 1; SELECT 2", Dialect::default(), &Tables),
        Ok(None)
    );
    assert_eq!(
        plan_text(b"DELETE FROM users", Dialect::default(), &Tables),
        Ok(None)
    );
}

/// Groups of a key that an outer join may leave out are not on one shard.
#[test]
fn a_key_that_may_be_missing_groups_across_shards() {
    let plan = check(
        "SELECT l.user_id, count(*) FROM orders o LEFT JOIN lines l ON l.user_id = o.user_id GROUP BY l.user_id",
        "=",
    );
    assert!(plan.grouping.is_some());
}

/// What is asked in which order; the last gives the result. `@` in front of what one server is asked.
fn parts(sql: &str) -> Vec<String> {
    let found = with_select(sql, |select| plan(select, &Tables));
    let across = found.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let all = across.gathered.into_iter().chain([across.asked]);
    let show = |asked: Asked| match asked.of {
        Of::EveryShard => asked.text,
        Of::AnyShard => format!("@{}", asked.text),
    };
    all.map(show).collect()
}

#[test]
fn what_cannot_be_merged_is_asked_in_parts() {
    let check = |sql: &str, expected: &[&str]| assert_eq!(parts(sql), expected, "{sql}");
    check(
        "SELECT id FROM users WHERE age > (SELECT max(age) FROM users)",
        &[
            "SELECT max(age) FROM users",
            "SELECT id FROM users WHERE age > (SELECT * FROM __pgdog_gathered_0 __pgdog_rows)",
        ],
    );
    check(
        "SELECT n, count(*) FROM (SELECT age, count(*) AS n FROM users GROUP BY age) x GROUP BY n",
        &[
            "SELECT age, count(*) AS n FROM users GROUP BY age",
            "@SELECT n, count(*) FROM __pgdog_gathered_0 x GROUP BY n",
        ],
    );
    check(
        "SELECT name, rank() OVER (ORDER BY u.age) FROM users u WHERE active ORDER BY 2",
        &[
            "SELECT name AS __pgdog_1, u.age AS __pgdog_2 FROM users u WHERE active",
            "@SELECT __pgdog_1 AS name, rank() OVER (ORDER BY __pgdog_2) AS rank FROM __pgdog_gathered_0 __pgdog_rows ORDER BY 2",
        ],
    );
    check(
        "SELECT u.id FROM users u JOIN orders o ON o.total = u.age WHERE o.paid",
        &[
            "SELECT * FROM orders o WHERE o.paid",
            "SELECT u.id FROM users u JOIN __pgdog_gathered_0 o ON o.total = u.age WHERE o.paid",
        ],
    );
    check(
        "SELECT age FROM users EXCEPT SELECT code FROM countries ORDER BY 1 LIMIT 3",
        &[
            "SELECT age FROM users",
            "@SELECT * FROM __pgdog_gathered_0 __pgdog_rows EXCEPT SELECT code FROM countries ORDER BY 1 LIMIT 3",
        ],
    );
    check(
        "WITH q AS (SELECT max(age) AS m FROM users) SELECT a.m, b.m FROM q a, q b",
        &[
            "SELECT max(age) AS m FROM users",
            "@SELECT a.m, b.m FROM __pgdog_gathered_0 a, __pgdog_gathered_0 b",
        ],
    );
    check(
        "SELECT country, array_agg(name ORDER BY id) FROM users GROUP BY 1",
        &[
            "SELECT country AS __pgdog_1, name AS __pgdog_2, id AS __pgdog_3 FROM users",
            "@SELECT __pgdog_1 AS country, array_agg(__pgdog_2 ORDER BY __pgdog_3) AS array_agg \
             FROM __pgdog_gathered_0 __pgdog_rows GROUP BY 1",
        ],
    );
}

#[test]
fn with_and_sets_by_key_stay_on_the_shards() {
    let check = |sql: &str, expected: &str| assert_eq!(parts(sql), [expected], "{sql}");
    check(
        "WITH q(k) AS (SELECT user_id FROM orders WHERE paid) SELECT u.name FROM users u JOIN q ON q.k = u.id",
        "SELECT u.name FROM users u JOIN (SELECT user_id FROM orders WHERE paid) q(k) ON q.k = u.id",
    );
    check(
        "SELECT id FROM users EXCEPT SELECT user_id FROM orders",
        "SELECT id FROM users EXCEPT SELECT user_id FROM orders",
    );
    check(
        "SELECT name, id FROM users INTERSECT ALL SELECT note, user_id FROM orders",
        "SELECT name, id FROM users INTERSECT ALL SELECT note, user_id FROM orders",
    );
}

#[test]
fn what_depends_on_other_queries_is_not_asked_apart() {
    for sql in [
        "SELECT id FROM users u WHERE age > (SELECT max(total) FROM orders o WHERE o.total < u.age)",
        "WITH RECURSIVE q AS (SELECT id FROM users) SELECT * FROM q",
        "WITH q AS (SELECT random() AS r FROM users) SELECT max(r) FROM q",
        "WITH q AS (SELECT id FROM users FOR UPDATE) SELECT count(*) FROM q",
        "WITH q AS (SELECT id FROM users), r AS (SELECT 1) SELECT * FROM q",
        "SELECT x.n FROM users u, LATERAL (SELECT count(*) AS n FROM orders o WHERE o.total = u.age) x",
        "SELECT count(*) FROM (SELECT name COLLATE \"C\" AS n, count(*) FROM users GROUP BY 1) x",
        "SELECT rank() OVER (ORDER BY age), secret(age) FROM users",
        "SELECT 1 AS age, rank() OVER (ORDER BY 1) FROM users GROUP BY age",
        "SELECT array_agg(ctid) FROM users",
        r"SELECT string_agg(name, E'\x5f_pgdog_gathered_0') FROM users",
        r#"SELECT array_agg(age) AS U&"\005f_pgdog_gathered_0" FROM users"#,
    ] {
        let found = with_select(sql, |select| plan(select, &Tables));
        let error = found.map(|across| across.gathered).expect_err(sql);
        assert_eq!(error.code.as_str(), "0A000", "{sql}");
    }
    let theirs = b"SELECT count(*) FROM users, __pgdog_gathered_0";
    assert!(plan_text(theirs, Dialect::default(), &Tables).is_err());
}
