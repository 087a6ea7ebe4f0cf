"""The admin database with Python's drivers on their defaults. PGDATABASE is the administrator's password."""

import asyncio
import os
from decimal import Decimal

import asyncpg
import psycopg
import psycopg2

LOGIN = dict(user="admin", password=os.environ["PGDATABASE"])


def check(row):
    assert row["online"] is True and row["sv_active"] == Decimal(0), row
    assert row["id"] == 1 and row["pool_mode"] == "transaction", row


def with_psycopg(autocommit):
    with psycopg.connect(dbname="admin", autocommit=autocommit, row_factory=psycopg.rows.dict_row, **LOGIN) as conn:
        check(conn.execute("SHOW POOLS").fetchone())
        check(conn.execute("SHOW POOLS", binary=True).fetchone())
        check(conn.execute("SHOW POOLS", prepare=True).fetchone())
        conn.commit()
        assert conn.execute("SELECT 1").fetchone() == {"?column?": 1}
        try:
            conn.execute("SHOW FDS")
        except psycopg.errors.FeatureNotSupported:
            conn.rollback()
        else:
            raise AssertionError("SHOW FDS must fail")
        assert conn.info.encoding == "utf-8"
        check(conn.execute("SHOW POOLS").fetchone())


def with_psycopg2():
    conn = psycopg2.connect(dbname="pgbouncer", **LOGIN)
    for _ in range(2):
        cursor = conn.cursor()
        cursor.execute("SHOW POOLS")
        check(dict(zip([column.name for column in cursor.description], cursor.fetchone())))
        conn.commit()
    conn.close()


async def with_asyncpg():
    async with asyncpg.create_pool(database="admin", min_size=2, max_size=2, **LOGIN) as pool:
        for _ in range(4):
            check(await pool.fetchrow("SHOW POOLS"))
        async with pool.acquire() as conn, conn.transaction():
            check(await conn.fetchrow("SHOW POOLS"))
            stats = await conn.fetchrow("SHOW STATS")
            assert stats["total_query_time"] == Decimal("0.000") and stats["port"] > 0
            entry = await conn.fetchrow("SHOW DATABASES")
            assert entry["pool_size"] == 10 and entry["force_user"] is None
        try:
            await pool.execute("SHOW FDS")
        except asyncpg.FeatureNotSupportedError:
            pass
        else:
            raise AssertionError("SHOW FDS must fail")


with_psycopg(True)
with_psycopg(False)
with_psycopg2()
asyncio.run(with_asyncpg())
print("all well")
