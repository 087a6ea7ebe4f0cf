// node-postgres as it comes: a pool, named statements, cursors, errors in the middle, notifications, types.
const assert = require("node:assert");
const { Client, Pool, Query } = require("pg");
const Cursor = require("pg-cursor");

async function main() {
  const pool = new Pool({ max: 6 });
  await pool.query("CREATE TYPE mood AS ENUM ('sad', 'glad')");
  await pool.query("CREATE TABLE item (id int PRIMARY KEY, name text, tags int[], mood mood, at timestamptz, body jsonb)");
  for (let n = 0; n < 50; n++) {
    await pool.query({
      name: "insert-item",
      text: "INSERT INTO item VALUES ($1, $2, $3, $4, now(), $5)",
      values: [n, `item ${n}`, [n, n + 1], "glad", { n }],
    });
  }
  const byId = (id) => ({ name: "by-id", text: "SELECT * FROM item WHERE id = $1", values: [id] });
  await Promise.all(
    Array.from({ length: 200 }, async (_, n) => {
      const { rows } = await pool.query(byId(n % 50));
      assert.deepStrictEqual([rows[0].name, rows[0].tags, rows[0].body], [`item ${n % 50}`, [n % 50, (n % 50) + 1], { n: n % 50 }]);
    }),
  );

  const client = await pool.connect();
  await client.query("BEGIN");
  await client.query("UPDATE item SET name = 'gone'");
  await client.query("SAVEPOINT s");
  await assert.rejects(client.query("SELECT 1/0"), { code: "22012" });
  await assert.rejects(client.query(byId(1)), { code: "25P02" });
  await client.query("ROLLBACK TO s");
  assert.strictEqual((await client.query(byId(1))).rows[0].name, "gone");
  await client.query("ROLLBACK");
  assert.strictEqual((await client.query(byId(1))).rows[0].name, "item 1");
  await assert.rejects(client.query("SELECT * FROM nothing WHERE a = $1", [1]), { code: "42P01" });

  await client.query("SET statement_timeout = '77s'");
  for (let n = 0; n < 20; n++) {
    await Promise.all([pool.query("SELECT 1"), client.query("SELECT 2")]);
    assert.strictEqual((await client.query("SHOW statement_timeout")).rows[0].statement_timeout, "77s");
  }
  await client.query("RESET statement_timeout");

  const cursor = client.query(new Cursor("SELECT generate_series(1, 1000) AS n"));
  let total = 0;
  for (let rows = await cursor.read(100); rows.length > 0; rows = await cursor.read(100)) {
    for (const { n } of rows) total += n;
  }
  assert.strictEqual(total, 500500);
  await cursor.close();

  await client.query("ALTER TABLE item ADD COLUMN extra int DEFAULT 5");
  const changed = await client.query(byId(3)).catch((error) => error);
  assert.ok(changed.code === "0A000" || changed.rows[0].extra === 5, changed);
  client.release();

  // A request to cancel, of a query that is running.
  const sleeper = new Client();
  await sleeper.connect();
  const slept = new Query("SELECT pg_sleep(60)");
  const ended = new Promise((resolve) => {
    slept.on("error", resolve);
    slept.on("end", resolve);
  });
  sleeper.query(slept);
  for (;;) {
    const { rows } = await pool.query("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()");
    if (rows.length > 0) break;
  }
  new Client().cancel(sleeper, slept);
  assert.strictEqual((await ended).code, "57014");
  assert.strictEqual((await sleeper.query("SELECT 1 AS n")).rows[0].n, 1);

  // What pools do between two users of a connection.
  for (const clean of ["RESET ALL", "DEALLOCATE ALL", "DISCARD ALL"]) {
    await sleeper.query("SET statement_timeout = '9s'");
    await sleeper.query(clean);
    const { rows } = await sleeper.query("SHOW statement_timeout");
    assert.strictEqual(rows[0].statement_timeout, clean === "DEALLOCATE ALL" ? "9s" : "0", clean);
  }
  await sleeper.end();

  const listener = new Client();
  await listener.connect();
  const heard = new Promise((resolve) => listener.on("notification", resolve));
  await listener.query("LISTEN news");
  await pool.query("SELECT pg_notify('news', 'hello')");
  assert.strictEqual((await heard).payload, "hello");
  await listener.end();
  await pool.end();
  console.log("all well");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
