//! Random changes of `users`, `payments` and `countries`.

use super::{Random, Sql, Value};

const IDS: usize = 60;
const CODES: [&str; 5] = ["de", "fr", "it", "es", "x'y"];

pub(super) fn random_statement(random: &mut Random, in_transaction: bool) -> Sql {
    match random.below(25) {
        22..=24 => move_row(random),
        0..=4 => insert_users(random),
        5..=6 => insert_payments(random),
        7..=9 => update_users(random),
        10 => update_payments(random),
        11..=12 => delete(random),
        13..=15 => countries(random),
        16 => insert_select(random),
        17..=18 => select(random),
        _ if in_transaction => Sql::of(match random.below(4) {
            0 => "ROLLBACK",
            _ => "COMMIT",
        }),
        _ => Sql::of("BEGIN"),
    }
}

fn id(random: &mut Random) -> Value {
    Value::Big(i64::try_from(random.below(IDS)).unwrap() - 5)
}

fn name(random: &mut Random) -> Value {
    match random.below(6) {
        0 => Value::Null,
        1 => Value::Text("it's; (\\) $1".to_owned()),
        number => Value::Text(format!("name {number}")),
    }
}

fn age(random: &mut Random) -> Value {
    match random.below(6) {
        0 => Value::Null,
        number => Value::Int(i32::try_from(number).unwrap() * 11),
    }
}

fn returning(random: &mut Random, sql: &mut Sql, of: &[&str]) {
    if random.one_in(2) {
        sql.add(" RETURNING ");
        sql.add(random.pick(of));
    }
}

fn insert_users(random: &mut Random) -> Sql {
    let listed = random.one_in(2);
    let mut sql = Sql::of(match listed {
        true => "INSERT INTO users (age, id, name) VALUES ",
        false => "INSERT INTO users VALUES ",
    });
    for row in 0..=random.below(6) {
        sql.add(if row == 0 { "(" } else { ", (" });
        if listed {
            match random.below(5) {
                0 => sql.add("DEFAULT"),
                1 => sql.add("2 * 3"),
                _ => {
                    let age = age(random);
                    sql.value(age);
                }
            }
            sql.add(", ");
            sql.value(id(random));
            sql.add(", ");
            sql.value(name(random));
        } else {
            sql.value(id(random));
            sql.add(", ");
            match random.below(4) {
                0 => sql.add("upper('constant')"),
                1 => sql.add("(SELECT min(name) FROM countries)"),
                _ => {
                    let name = name(random);
                    sql.value(name);
                }
            }
            sql.add(", ");
            sql.value(age(random));
        }
        sql.add(")");
    }
    match random.below(5) {
        0 => sql.add(" ON CONFLICT DO NOTHING"),
        1 => sql.add(" ON CONFLICT (id) DO UPDATE SET name = excluded.name, age = users.age + 1"),
        2 => {
            sql.add(" ON CONFLICT (id) DO UPDATE SET name = ");
            sql.value(name(random));
        }
        _ => {}
    }
    returning(
        random,
        &mut sql,
        &["*", "id", "name, id + 1 AS more", "users.*, age IS NULL"],
    );
    sql
}

fn insert_payments(random: &mut Random) -> Sql {
    let mut sql = Sql::of("INSERT INTO payments (id, user_id, amount) VALUES ");
    for row in 0..=random.below(4) {
        sql.add(if row == 0 { "(" } else { ", (" });
        sql.value(Value::Big(i64::try_from(random.below(1000)).unwrap()));
        sql.add(", ");
        sql.value(id(random));
        sql.add(&format!(", {}.25)", random.below(100)));
    }
    returning(random, &mut sql, &["id, user_id, amount", "*"]);
    sql
}

fn condition(random: &mut Random, sql: &mut Sql, key: &str, other: &str) {
    match random.below(8) {
        0..=3 => {
            sql.add(&format!(" WHERE {key} = "));
            sql.value(id(random));
        }
        4 => {
            sql.add(&format!(" WHERE {key} IN ("));
            sql.value(id(random));
            sql.add(", ");
            sql.value(id(random));
            sql.add(")");
        }
        5 => {
            sql.add(&format!(" WHERE {key} < "));
            sql.value(id(random));
        }
        6 => {
            sql.add(&format!(
                " WHERE {other} > {} AND {key} > ",
                random.below(60)
            ));
            sql.value(id(random));
        }
        _ => sql.add(&format!(" WHERE {other} IS NULL")),
    }
}

fn update_users(random: &mut Random) -> Sql {
    let mut sql = Sql::of("UPDATE users SET ");
    match random.below(4) {
        0 => sql.add("age = age + 1"),
        1 => {
            sql.add("name = ");
            sql.value(name(random));
            sql.add(", age = ");
            sql.value(age(random));
        }
        2 => sql.add("name = (SELECT max(name) FROM countries WHERE code < 'g')"),
        _ => {
            sql.add("age = ");
            sql.value(age(random));
        }
    }
    condition(random, &mut sql, "id", "age");
    returning(random, &mut sql, &["*", "id, age", "name"]);
    sql.unordered()
}

fn update_payments(random: &mut Random) -> Sql {
    let mut sql = Sql::of(random.pick(&[
        "UPDATE payments SET amount = amount + 1",
        "UPDATE payments SET amount = age FROM users WHERE users.id = user_id AND users.id >",
        "UPDATE payments SET at = '2026-01-01 00:00:00+00'",
    ]));
    if sql.literal().ends_with('>') {
        sql.add(" ");
        sql.value(id(random));
    } else {
        condition(random, &mut sql, "user_id", "amount");
    }
    returning(random, &mut sql, &["payments.*", "amount"]);
    sql.unordered()
}

/// Mostly of one row.
fn move_row(random: &mut Random) -> Sql {
    let (mut sql, key) = match random.below(3) {
        0 => (Sql::of("UPDATE payments SET user_id = "), "user_id"),
        _ => (Sql::of("UPDATE users SET id = "), "id"),
    };
    sql.value(id(random));
    if key == "id" && random.one_in(2) {
        sql.add(", age = age + 1, name = ");
        sql.value(name(random));
    }
    match random.below(6) {
        0 => sql.add(" WHERE age = 11"),
        1 => {
            sql.add(&format!(" WHERE {key} IN ("));
            sql.value(id(random));
            sql.add(", ");
            sql.value(id(random));
            sql.add(")");
        }
        _ => {
            sql.add(&format!(" WHERE {key} = "));
            sql.value(id(random));
        }
    }
    if sql.literal().contains("payments SET") && sql.literal().contains("age =") {
        return Sql::of("SELECT 1 AS one");
    }
    returning(random, &mut sql, &["*", "id + 1 AS more, *"]);
    sql.unordered()
}

fn delete(random: &mut Random) -> Sql {
    let mut sql;
    match random.below(3) {
        0 => {
            sql = Sql::of("DELETE FROM users");
            condition(random, &mut sql, "id", "age");
        }
        1 => {
            sql = Sql::of("DELETE FROM payments");
            condition(random, &mut sql, "user_id", "amount");
        }
        _ => {
            sql = Sql::of(
                "DELETE FROM payments USING users WHERE users.id = user_id AND users.age > ",
            );
            sql.value(age(random));
        }
    }
    returning(random, &mut sql, &["*"]);
    sql.unordered()
}

fn countries(random: &mut Random) -> Sql {
    let code = Value::Text(random.pick(&CODES).to_owned());
    let mut sql;
    match random.below(4) {
        0..=1 => {
            sql = Sql::of("INSERT INTO countries VALUES (");
            sql.value(code);
            sql.add(", ");
            sql.value(name(random));
            sql.add(")");
            if random.one_in(2) {
                sql.add(" ON CONFLICT (code) DO UPDATE SET name = excluded.name");
            }
        }
        2 => {
            sql = Sql::of("UPDATE countries SET name = ");
            sql.value(name(random));
            if random.one_in(2) {
                sql.add(" WHERE code = ");
                sql.value(code);
            }
        }
        _ => {
            sql = Sql::of("DELETE FROM countries WHERE code = ");
            sql.value(code);
        }
    }
    returning(random, &mut sql, &["*", "code"]);
    sql.unordered()
}

fn insert_select(random: &mut Random) -> Sql {
    let mut sql = Sql::of(random.pick(&[
        "INSERT INTO payments (id, user_id, amount) SELECT id + 500, id, age FROM users",
        "INSERT INTO payments (user_id, id) SELECT u.id, p.id FROM users u JOIN payments p ON p.user_id = u.id",
        "INSERT INTO payments (user_id, id) SELECT user_id, id + 1 FROM payments",
        "INSERT INTO users (id, name) SELECT user_id + 7, 'x' FROM payments",
    ]));
    let key = if sql.literal().contains("FROM users") {
        "id"
    } else {
        "user_id"
    };
    let key = if sql.literal().contains("JOIN") {
        "u.id"
    } else {
        key
    };
    sql.add(&format!(" WHERE {key} < "));
    sql.value(id(random));
    returning(random, &mut sql, &["id, user_id"]);
    sql.unordered()
}

fn select(random: &mut Random) -> Sql {
    match random.below(3) {
        0 => Sql::of("SELECT * FROM users ORDER BY id"),
        1 => Sql::of("SELECT count(*), sum(amount) FROM payments"),
        _ => {
            let mut sql = Sql::of("SELECT u.name, p.id FROM users u JOIN payments p ON p.user_id = u.id WHERE u.id = ");
            sql.value(id(random));
            sql.unordered()
        }
    }
}
