//! Drivers as people use them, with their default settings.

use crate::support::programs::{psql_with, python, script, Said};
use crate::support::{Config, Postgres};

/// Runs a script of `tests/drivers` on a pool smaller than the number of its connections.
fn check_with(run: impl Fn(u16, &str) -> Said) {
    let database = Postgres::shared().database("drivers");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 3\ncheckout_timeout = 20000")
        .start();
    let out = run(pgdog.port(), &database).ok();
    assert!(out.ends_with("all well\n"), "{out}");
    pgdog.stop();
}

fn check(name: &str) {
    check_with(|port, database| python(name, port, database));
}

#[test]
fn sqlalchemy() {
    check("sqlalchemy_work.py");
}

#[test]
fn django() {
    check("django_work.py");
}

#[test]
fn node_postgres() {
    check_with(|port, database| script("node", &[], "node_work.js", port, database));
}

#[test]
fn pgjdbc() {
    let jar = ["-cp", "/usr/share/java/postgresql.jar"];
    check_with(|port, database| script("java", &jar, "Jdbc.java", port, database));
}

#[test]
fn dbd_pg() {
    check_with(|port, database| script("perl", &[], "dbd_pg.pl", port, database));
}

#[test]
fn psycopg_3() {
    check("psycopg3.py");
}

#[test]
fn psycopg_3_pipeline() {
    check("psycopg3_pipeline.py");
}

#[test]
fn psycopg_2() {
    check("psycopg2_work.py");
}

#[test]
fn asyncpg() {
    check("asyncpg_work.py");
}

/// What pools of drivers do between two users of a connection.
const CLEANERS: [&str; 3] = ["RESET ALL", "DEALLOCATE ALL", "DISCARD ALL"];

/// What `SET statement_timeout = '9s'` has left after one of them.
fn left_of_nine_seconds(cleaner: &str) -> &'static str {
    match cleaner {
        "DEALLOCATE ALL" => "9s",
        _ => "0",
    }
}

#[test]
fn sqlx() {
    let database = Postgres::shared().database("drivers");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 2")
        .start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = format!(
        "postgres://alice:hunter2@127.0.0.1:{}/{database}",
        pgdog.port()
    );
    runtime.block_on(sqlx_work(&address)).unwrap();
    pgdog.stop();
}

async fn sqlx_work(address: &str) -> Result<(), sqlx::Error> {
    use sqlx::postgres::{PgListener, PgPoolOptions};
    use sqlx::{Acquire, Column, Connection, Row, TypeInfo};

    let pool = PgPoolOptions::new().max_connections(6).connect(address);
    let pool = pool.await?;
    sqlx::query("CREATE TABLE item (id int PRIMARY KEY, name text, tags int[])")
        .execute(&pool)
        .await?;
    for id in 0..50_i32 {
        sqlx::query("INSERT INTO item VALUES ($1, $2, $3)")
            .bind(id)
            .bind(format!("item {id}"))
            .bind(vec![id, id + 1])
            .execute(&pool)
            .await?;
    }
    // The same statement on all connections at once.
    let mut tasks = Vec::new();
    for id in 0..50_i32 {
        let pool = pool.clone();
        tasks.push(tokio::spawn(async move {
            let row = sqlx::query("SELECT name, tags FROM item WHERE id = $1")
                .bind(id)
                .fetch_one(&pool)
                .await?;
            assert_eq!(row.get::<String, _>(0), format!("item {id}"));
            assert_eq!(row.get::<Vec<i32>, _>(1), [id, id + 1]);
            Ok::<_, sqlx::Error>(())
        }));
    }
    for task in tasks {
        task.await.unwrap()?;
    }
    let mut transaction = pool.begin().await?;
    sqlx::query("UPDATE item SET name = 'changed'")
        .execute(&mut *transaction)
        .await?;
    let mut savepoint = transaction.begin().await?;
    let failed = sqlx::query("SELECT 1/0").execute(&mut *savepoint).await;
    let code = failed.unwrap_err().into_database_error().unwrap();
    assert_eq!(code.code().as_deref(), Some("22012"));
    savepoint.rollback().await?;
    let changed = sqlx::query_scalar("SELECT count(*) FROM item WHERE name = 'changed'");
    let changed: i64 = changed.fetch_one(&mut *transaction).await?;
    assert_eq!(changed, 50);
    sqlx::query("DECLARE c CURSOR FOR SELECT id FROM item ORDER BY id")
        .execute(&mut *transaction)
        .await?;
    let mut fetched = 0;
    for expected in [30, 20, 0] {
        let rows = sqlx::query("FETCH 30 FROM c").fetch_all(&mut *transaction);
        let rows = rows.await?;
        assert_eq!(rows.len(), expected);
        fetched += rows.len();
    }
    assert_eq!(fetched, 50);
    transaction.rollback().await?;

    // A type that the driver has to ask for.
    sqlx::raw_sql("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        .execute(&pool)
        .await?;
    let row = sqlx::query("SELECT 'glad'::mood, ARRAY['sad'::mood]");
    let row = row.fetch_one(&pool).await?;
    let names = row.columns().iter().map(|column| column.type_info().name());
    assert_eq!(names.collect::<Vec<_>>(), ["mood", "mood[]"]);

    // A column more between two executions: the server says so, once.
    let mut connection = pool.acquire().await?;
    let all_of = "SELECT * FROM item WHERE id = 1";
    for _ in 0..2 {
        let row = sqlx::query(all_of).fetch_one(&mut *connection).await?;
        assert_eq!(row.len(), 3);
    }
    sqlx::raw_sql("ALTER TABLE item ADD COLUMN extra int")
        .execute(&pool)
        .await?;
    if let Err(error) = sqlx::query(all_of).fetch_one(&mut *connection).await {
        let error = error.into_database_error().unwrap();
        assert_eq!(error.code().as_deref(), Some("0A000"));
        connection.clear_cached_statements().await?;
    }
    let row = sqlx::query(all_of).fetch_one(&mut *connection).await?;
    assert_eq!(row.len(), 4);

    // What pools do between two users of a connection.
    for clean in CLEANERS {
        let mut one = pool.acquire().await?.detach();
        sqlx::raw_sql("SET statement_timeout = '9s'")
            .execute(&mut one)
            .await?;
        sqlx::raw_sql(clean).execute(&mut one).await?;
        let row = sqlx::raw_sql("SHOW statement_timeout").fetch_one(&mut one);
        let timeout: String = row.await?.get(0);
        assert_eq!(timeout, left_of_nine_seconds(clean), "{clean}");
        one.close().await?;
    }
    let mut copy = sqlx::postgres::PgConnection::copy_in_raw(
        &mut connection,
        "COPY item (id, name) FROM STDIN",
    )
    .await?;
    copy.send(&b"100\tcopied\n101\tcopied\n"[..]).await?;
    assert_eq!(copy.finish().await?, 2);
    drop(connection);
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("news").await?;
    sqlx::query("SELECT pg_notify('news', 'hello')")
        .execute(&pool)
        .await?;
    assert_eq!(listener.recv().await?.payload(), "hello");
    drop(listener);
    pool.close().await;
    Ok(())
}

#[test]
fn tokio_postgres() {
    let database = Postgres::shared().database("drivers");
    let pgdog = Config::of(&database)
        .general("default_pool_size = 2")
        .start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let parameters = format!(
        "host=127.0.0.1 port={} user=alice password=hunter2 dbname={database}",
        pgdog.port()
    );
    runtime.block_on(tokio_postgres_work(&parameters)).unwrap();
    pgdog.stop();
}

async fn tokio_postgres_work(parameters: &str) -> Result<(), tokio_postgres::Error> {
    use futures_util::{SinkExt, TryStreamExt};
    use tokio_postgres::error::SqlState;

    let (mut client, connection) =
        tokio_postgres::connect(parameters, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
        .await?;

    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await?;
    for id in 0..100 {
        client
            .execute(&insert, &[&id, &format!("row {id}")])
            .await?;
    }
    // Several statements at once go out as a pipeline.
    let select = client.prepare("SELECT name FROM t WHERE id = $1").await?;
    let (first, second) = tokio::try_join!(
        client.query_one(&select, &[&1]),
        client.query_one(&select, &[&2])
    )?;
    assert_eq!(
        (first.get::<_, &str>(0), second.get::<_, &str>(0)),
        ("row 1", "row 2")
    );

    // An error among them is its own.
    let divide = client.prepare("SELECT 1 / $1::int").await?;
    let (first, second, third) = tokio::join!(
        client.query_one(&select, &[&3]),
        client.query_one(&divide, &[&0]),
        client.query_one(&select, &[&4])
    );
    assert_eq!(first?.get::<_, &str>(0), "row 3");
    let error = second.expect_err("a division by zero");
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    assert_eq!(third?.get::<_, &str>(0), "row 4");

    let mut transaction = client.transaction().await?;
    transaction.execute("DELETE FROM t", &[]).await?;
    let savepoint = transaction.savepoint("s").await?;
    let failed = savepoint.execute("SELECT 1/0", &[]).await;
    failed.expect_err("a division by zero");
    savepoint.rollback().await?;
    let count = transaction.query_one("SELECT count(*) FROM t", &[]);
    assert_eq!(count.await?.get::<_, i64>(0), 0);
    let portal = transaction
        .bind("SELECT generate_series(1, 10)", &[])
        .await?;
    assert_eq!(transaction.query_portal(&portal, 4).await?.len(), 4);
    assert_eq!(transaction.query_portal(&portal, 100).await?.len(), 6);
    transaction.rollback().await?;

    let duplicate = client
        .execute(&insert, &[&1, &"again"])
        .await
        .expect_err("id 1 exists");
    assert_eq!(duplicate.code(), Some(&SqlState::UNIQUE_VIOLATION));

    // A type that the driver has to ask for.
    client
        .batch_execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        .await?;
    let row = client.query_one("SELECT 'glad'::mood", &[]).await?;
    assert_eq!(row.columns()[0].type_().name(), "mood");

    // A column more between two executions: the driver knows its rows from Parse, so it is an error.
    let all_of = "SELECT * FROM t WHERE id = $1";
    let before = client.prepare(all_of).await?;
    client.query_one(&before, &[&1]).await?;
    client
        .batch_execute("ALTER TABLE t ADD COLUMN extra int DEFAULT 5")
        .await?;
    let changed = client.query_one(&before, &[&1]).await;
    let changed = changed.expect_err("it has another result by now");
    assert_eq!(changed.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    let row = client.query_one(all_of, &[&1]).await?;
    assert_eq!(row.get::<_, i32>("extra"), 5);
    client
        .batch_execute("ALTER TABLE t DROP COLUMN extra")
        .await?;

    let mut sink = Box::pin(client.copy_in("COPY t FROM STDIN").await?);
    sink.send(&b"1000\tcopied\n1001\tcopied\n"[..]).await?;
    assert_eq!(sink.as_mut().finish().await?, 2);
    let copied: Vec<_> = client
        .copy_out("COPY (SELECT id FROM t WHERE id >= 1000 ORDER BY id) TO STDOUT")
        .await?
        .try_collect()
        .await?;
    assert_eq!(copied.concat(), b"1000\n1001\n");

    let cancel = client.cancel_token();
    let sleep = client.batch_execute("SELECT pg_sleep(60)");
    let stop = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        cancel.cancel_query(tokio_postgres::NoTls).await
    };
    let (slept, stopped) = tokio::join!(sleep, stop);
    stopped?;
    assert_eq!(
        slept.expect_err("it was cancelled").code(),
        Some(&SqlState::QUERY_CANCELED)
    );
    assert_eq!(
        client
            .query_one("SELECT count(*) FROM t", &[])
            .await?
            .get::<_, i64>(0),
        102
    );

    client.clear_type_cache();
    for clean in CLEANERS {
        client.batch_execute("SET statement_timeout = '9s'").await?;
        client.batch_execute(clean).await?;
        let row = client.query_one("SHOW statement_timeout", &[]).await?;
        assert_eq!(
            row.get::<_, &str>(0),
            left_of_nine_seconds(clean),
            "{clean}"
        );
    }

    drop(client);
    connection
        .await
        .expect("the connection's task did not panic")
}

#[test]
fn libpq_of_this_server_with_its_newest_protocol() {
    let database = Postgres::shared().database("drivers");
    let pgdog = Config::of(&database).start();
    let port = pgdog.port();
    let version = psql_with(port, &database, &["-c", "SHOW server_version_num"]).ok();
    // libpq knows the parameter from 18 on.
    if version.trim().parse::<u32>().unwrap() >= 180_000 {
        let parameters = format!(
            "host=127.0.0.1 port={port} user=alice dbname={database} max_protocol_version=3.2"
        );
        assert_eq!(
            psql_with(port, &database, &["-d", &parameters, "-c", "SELECT 1"]).ok(),
            "1\n"
        );
    }
    pgdog.stop();
}
