"""psycopg 3 as it comes: statements are prepared by name after five executions."""

import enum
import threading

import psycopg
from psycopg.rows import dict_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum

with psycopg.connect("") as conn:
    conn.execute("CREATE TABLE account (id int PRIMARY KEY, owner text, balance numeric)")
    with conn.cursor() as cur:
        cur.executemany(
            "INSERT INTO account VALUES (%s, %s, %s)",
            [(n, f"owner {n}", n * 10) for n in range(100)],
        )

# The same statement often enough to be prepared, in one transaction each.
with psycopg.connect("", autocommit=True) as conn:
    for n in range(50):
        (balance,) = conn.execute("SELECT balance FROM account WHERE id = %s", (n,)).fetchone()
        assert balance == n * 10
    assert conn.execute("SELECT owner FROM account WHERE id = %s", (7,), prepare=True).fetchone() == ("owner 7",)

# Transactions, savepoints, errors.
with psycopg.connect("") as conn:
    try:
        with conn.transaction():
            conn.execute("UPDATE account SET balance = 0")
            conn.execute("SELECT 1/0")
    except psycopg.errors.DivisionByZero:
        pass
    with conn.transaction():
        conn.execute("UPDATE account SET balance = balance + 1 WHERE id = 1")
        try:
            with conn.transaction():
                conn.execute("DELETE FROM account")
                raise psycopg.Rollback
        except psycopg.Rollback:
            pass
    with conn.cursor(row_factory=dict_row) as cur:
        cur.execute("SELECT count(*) AS n, sum(balance) AS total FROM account")
        assert cur.fetchone() == {"n": 100, "total": 49501}

# Server-side cursor, binary results, COPY both ways.
with psycopg.connect("") as conn:
    with conn.cursor("series") as cur:
        cur.itersize = 100
        cur.execute("SELECT generate_series(1, 1000)")
        assert sum(n for (n,) in cur) == 500500
    with conn.cursor(binary=True) as cur:
        cur.execute("SELECT %s::int8, %s::bytea, now()", (2**40, b"\0\xff"))
        assert cur.fetchone()[:2] == (2**40, b"\0\xff")
    with conn.cursor() as cur:
        with cur.copy("COPY account FROM STDIN") as copy:
            for n in range(1000, 2000):
                copy.write_row((n, "copied", 0))
        with cur.copy("COPY (SELECT id FROM account WHERE owner = 'copied') TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 1000
        try:
            with cur.copy("COPY account FROM STDIN") as copy:
                copy.write("not a row\n")
        except psycopg.errors.DataError:
            pass
        else:
            raise AssertionError("a bad row must fail")
    conn.rollback()
    notices = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert notices == ["hello"]

# Types that the driver has to ask for.
with psycopg.connect("") as conn:
    conn.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
    conn.execute("CREATE TYPE pair AS (mood mood, n int)")
    conn.commit()
    Mood = enum.Enum("Mood", ["sad", "glad"])
    register_enum(EnumInfo.fetch(conn, "mood"), conn, Mood)
    register_composite(CompositeInfo.fetch(conn, "pair"), conn)
    row = conn.execute("SELECT %s, ROW('sad', 3)::pair, ARRAY['sad'::mood]", (Mood.glad,)).fetchone()
    assert row == (Mood.glad, (Mood.sad, 3), [Mood.sad]), row

# A column more between two executions of a prepared statement: PostgreSQL itself would refuse them from then on.
with psycopg.connect("", autocommit=True) as conn, psycopg.connect("", autocommit=True) as other:
    all_of = "SELECT * FROM account WHERE id = %s"
    for columns, change in [(4, "ADD COLUMN extra int DEFAULT 5"), (3, "DROP COLUMN extra")]:
        for n in range(3):
            conn.execute(all_of, (1,), prepare=True)
        other.execute("ALTER TABLE account " + change)
        row = conn.execute(all_of, (1,), prepare=True).fetchone()
        assert len(row) == columns, row

# What pools do between two users of a connection, with statements prepared before.
with psycopg.connect("", autocommit=True, options="-c statement_timeout=8s") as conn:
    for clean in ["RESET ALL", "DEALLOCATE ALL", "DISCARD ALL"]:
        conn.execute("SET statement_timeout = '9s'")
        conn.execute(clean)
        (timeout,) = conn.execute("SHOW statement_timeout").fetchone()
        assert timeout == ("9s" if clean == "DEALLOCATE ALL" else "8s"), (clean, timeout)

# Text in another encoding, while others use the servers.
with psycopg.connect("", autocommit=True, client_encoding="latin1") as conn, psycopg.connect("") as other:
    for n in range(10):
        row = conn.execute("SELECT %s::text || 'é', octet_length(%s::text)", ("café", "é")).fetchone()
        assert row == ("caféé", 2), row
        assert other.execute("SELECT 'é'").fetchone() == ("é",)
        other.commit()

# Cancel from another thread.
with psycopg.connect("", autocommit=True) as conn:
    timer = threading.Timer(0.5, conn.cancel)
    timer.start()
    try:
        conn.execute("SELECT pg_sleep(30)")
    except psycopg.errors.QueryCanceled:
        pass
    else:
        raise AssertionError("the statement must be cancelled")
    assert conn.execute("SELECT 1").fetchone() == (1,)


# More connections than servers, each preparing the same statements under the same names.
def work(number):
    with psycopg.connect("", autocommit=True) as conn:
        for n in range(40):
            row = conn.execute("SELECT %s::int + %s::int", (number, n)).fetchone()
            assert row == (number + n,)
            with conn.transaction():
                conn.execute("UPDATE account SET balance = balance + 1 WHERE id = %s", (number,))


failures = []


def guarded(number):
    try:
        work(number)
    except Exception as error:
        failures.append(error)


threads = [threading.Thread(target=guarded, args=(n,)) for n in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
with psycopg.connect("") as conn:
    assert conn.execute("SELECT sum(balance) FROM account WHERE id < 12").fetchone()[0] == 660 + 1 + 12 * 40
print("all well")
