// The admin database with node-postgres on its defaults. PGDATABASE is the administrator's password.
const assert = require("node:assert");
const { Client, Pool } = require("pg");

const login = { user: "admin", password: process.env.PGDATABASE, database: "admin" };

async function main() {
  const client = new Client(login);
  await client.connect();
  const simple = await client.query("SHOW POOLS");
  assert.strictEqual(simple.rows[0].sv_active, "0");
  assert.strictEqual(simple.rows[0].online, true);
  const named = { name: "pools", text: "SHOW POOLS" };
  for (let n = 0; n < 3; n++) assert.deepStrictEqual((await client.query(named)).rows, simple.rows);
  await assert.rejects(client.query("SHOW FDS"), { code: "0A000" });
  await assert.rejects(client.query("SHOW POOLS", ["a parameter"]), { code: "0A000" });
  assert.strictEqual((await client.query("SELECT 1 AS one")).rows[0].one, 1);
  await client.end();
  const pool = new Pool({ ...login, max: 3 });
  await Promise.all(Array.from({ length: 20 }, () => pool.query("SHOW CLIENTS")));
  await pool.end();
  console.log("all well");
}

main();
