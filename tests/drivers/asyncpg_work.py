"""asyncpg as it comes: every statement is prepared by name and cached."""

import asyncio
import datetime
import decimal

import asyncpg


async def main():
    conn = await asyncpg.connect(timeout=30)
    await conn.execute("CREATE TABLE item (id int PRIMARY KEY, name text, price numeric, at timestamptz)")
    now = datetime.datetime.now(datetime.timezone.utc)
    await conn.executemany(
        "INSERT INTO item VALUES ($1, $2, $3, $4)",
        [(n, f"item {n}", decimal.Decimal(n) / 4, now) for n in range(200)],
    )
    row = await conn.fetchrow("SELECT * FROM item WHERE id = $1", 7)
    assert row["name"] == "item 7" and row["price"] == decimal.Decimal("1.75") and row["at"] == now
    assert await conn.fetchval("SELECT sum(x) FROM unnest($1::int[]) x", list(range(100))) == 4950

    try:
        async with conn.transaction():
            await conn.execute("DELETE FROM item")
            await conn.fetchval("SELECT 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    async with conn.transaction():
        ids = [record["id"] async for record in conn.cursor("SELECT id FROM item ORDER BY id", prefetch=30)]
        assert ids == list(range(200))
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO item (id) VALUES (1)")
        except asyncpg.UniqueViolationError:
            pass
        await conn.execute("INSERT INTO item (id) VALUES (200)")
    assert await conn.fetchval("SELECT count(*) FROM item") == 201

    prepared = await conn.prepare("SELECT name FROM item WHERE id = $1")
    for n in range(20):
        assert await prepared.fetchval(n) == f"item {n}"

    copied = await conn.copy_records_to_table("item", records=[(n, "copied", None, None) for n in range(1000, 2000)])
    assert copied == "COPY 1000"
    data = []

    async def collect(chunk):
        data.append(chunk)

    await conn.copy_from_query("SELECT id FROM item WHERE name = $1", "copied", output=collect)
    assert b"".join(data).count(b"\n") == 1000

    # What is executed many times goes out as a pipeline; an error in it undoes all of it.
    try:
        await conn.executemany("INSERT INTO item (id) VALUES ($1)", [(3000,), (3001,), (3000,)])
    except asyncpg.UniqueViolationError:
        pass
    else:
        raise AssertionError("an id that is there twice must fail")
    assert await conn.fetchval("SELECT count(*) FROM item WHERE id >= 3000") == 0

    # Types that the driver has to ask for.
    await conn.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (mood mood, at int4range)")
    row = await conn.fetchrow("SELECT $1::mood AS mood, $2::pair[] AS pairs", "glad", [("sad", asyncpg.Range(1, 3))])
    assert row["mood"] == "glad" and row["pairs"] == [("sad", asyncpg.Range(1, 3))], row

    # A column more: what was prepared is prepared anew; in a transaction it is an error, once, if its server had it.
    all_of = "SELECT * FROM item WHERE id = 7"
    assert len(await conn.fetchrow(all_of)) == 4
    await conn.execute("ALTER TABLE item ADD COLUMN extra int DEFAULT 5")
    assert (await conn.fetchrow(all_of))["extra"] == 5
    await conn.execute("ALTER TABLE item DROP COLUMN extra")
    try:
        async with conn.transaction():
            await conn.fetchrow(all_of)
    except asyncpg.InvalidCachedStatementError:
        pass
    assert len(await conn.fetchrow(all_of)) == 4

    # As a pool cleans up, and by hand; the settings of the start are there again.
    await conn.execute("SET statement_timeout = '9s'")
    await conn.reset()
    assert await conn.fetchval("SHOW statement_timeout") == "0"
    for clean in ["RESET ALL", "DEALLOCATE ALL", "DISCARD ALL"]:
        other = await asyncpg.connect(server_settings={"statement_timeout": "8s"})
        await other.execute("SET statement_timeout = '9s'")
        await other.execute(clean)
        assert await other.fetchval("SHOW statement_timeout") == ("9s" if clean == "DEALLOCATE ALL" else "8s"), clean
        await other.close()

    # Values in another encoding; the text of statements the driver always sends in UTF-8.
    await conn.execute("SET client_encoding = 'LATIN1'")
    assert await conn.fetchval("SELECT $1 || chr(233)", "café") == "caféé"
    assert await conn.fetchval("SELECT octet_length($1)", "é") == 2
    await conn.execute("SET client_encoding = 'UTF8'")

    try:
        await conn.fetchval("SELECT pg_sleep(30)", timeout=0.5)
    except asyncio.TimeoutError:
        pass
    else:
        raise AssertionError("the statement must be cancelled")
    assert await conn.fetchval("SELECT 1") == 1
    await conn.close()

    # A pool of its own, larger than the number of servers.
    async with asyncpg.create_pool(min_size=8, max_size=8) as pool:

        async def work(number):
            for n in range(30):
                async with pool.acquire() as conn:
                    assert await conn.fetchval("SELECT $1::int + $2::int", number, n) == number + n
                    async with conn.transaction():
                        await conn.execute("UPDATE item SET price = price + 1 WHERE id = $1", number)

        await asyncio.gather(*(work(n) for n in range(8)))
        assert await pool.fetchval("SELECT sum(price) FROM item WHERE id < 8") == 7 + 8 * 30


asyncio.run(main())
print("all well")
