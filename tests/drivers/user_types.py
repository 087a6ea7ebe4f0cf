"""psycopg 3 and asyncpg as they come, over shards that number types of users each in its own way."""

import asyncio
import enum

import asyncpg
import psycopg
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum


class Mood(enum.Enum):
    SAD = "sad"
    HAPPY = "happy"


def with_psycopg():
    with psycopg.connect(autocommit=True, connect_timeout=30) as conn:
        register_enum(EnumInfo.fetch(conn, "mood"), conn, Mood, mapping=[(Mood.SAD, "sad"), (Mood.HAPPY, "happy")])
        pair = CompositeInfo.fetch(conn, "pair")
        register_composite(pair, conn)
        make = pair.python_type
        for id in range(30):
            # Prepared by name from the sixth time on.
            sql = "INSERT INTO t (id, mood, list, pair) VALUES (%s, %s, %s, %s)"
            if id % 2:
                sql = sql.replace("%s", "%b")
            conn.execute(sql, (id, Mood.HAPPY, [Mood.SAD, Mood.HAPPY], make(id, Mood.SAD)))
        for binary in False, True:
            with conn.cursor(binary=binary) as cur:
                for id in range(30):
                    row = cur.execute("SELECT mood, list, pair FROM t WHERE id = %s", (id,)).fetchone()
                    assert row == (Mood.HAPPY, [Mood.SAD, Mood.HAPPY], (id, Mood.SAD)), (binary, row)
                cur.execute("SELECT pair FROM t WHERE mood = %s ORDER BY id", (Mood.HAPPY,))
                assert [pair for (pair,) in cur] == [(id, Mood.SAD) for id in range(30)]
        conn.execute("DELETE FROM t")


async def with_asyncpg():
    conn = await asyncpg.connect(timeout=30)
    for id in range(30):
        await conn.execute(
            "INSERT INTO t (id, mood, list, pair) VALUES ($1, $2, $3, $4)", id, "happy", ["sad", "happy"], (id, "sad")
        )
    for id in range(30):
        row = await conn.fetchrow("SELECT mood, list, pair FROM t WHERE id = $1", id)
        assert tuple(row) == ("happy", ["sad", "happy"], (id, "sad")), row
    rows = await conn.fetch("SELECT id, list FROM t WHERE list = $1 ORDER BY id", ["sad", "happy"])
    assert [tuple(row) for row in rows] == [(id, ["sad", "happy"]) for id in range(30)]
    await conn.close()


with_psycopg()
asyncio.run(with_asyncpg())
print("all well")
