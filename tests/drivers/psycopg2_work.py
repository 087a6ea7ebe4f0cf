"""psycopg2: the simple protocol, client-side parameters, COPY through files."""

import io
import threading

import psycopg2
import psycopg2.extras

with psycopg2.connect("") as conn:
    with conn.cursor() as cur:
        cur.execute("CREATE TABLE item (id int PRIMARY KEY, name text, data jsonb)")
        psycopg2.extras.execute_values(
            cur,
            "INSERT INTO item VALUES %s",
            [(n, f"it's {n}", psycopg2.extras.Json({"n": n})) for n in range(500)],
        )
    conn.commit()
    with conn.cursor() as cur:
        cur.execute("SELECT name, data FROM item WHERE id = %s", (42,))
        assert cur.fetchone() == ("it's 42", {"n": 42})
        try:
            cur.execute("SELECT nonsense")
        except psycopg2.errors.UndefinedColumn as error:
            assert error.diag.statement_position == "8"
        conn.rollback()
        cur.copy_expert("COPY item (id, name) FROM STDIN", io.StringIO("1000\tcopied\n1001\tcopied\n"))
        out = io.StringIO()
        cur.copy_expert("COPY (SELECT id FROM item WHERE id >= 1000 ORDER BY id) TO STDOUT", out)
        assert out.getvalue() == "1000\n1001\n"
    conn.commit()
    with conn.cursor("named") as cur:
        cur.itersize = 50
        cur.execute("SELECT id FROM item ORDER BY id")
        assert sum(1 for _ in cur) == 502
    with conn.cursor() as cur:
        cur.execute("UPDATE item SET name = 'changed'")
        cur.execute("SAVEPOINT s")
        try:
            cur.execute("SELECT 1/0")
        except psycopg2.errors.DivisionByZero:
            cur.execute("ROLLBACK TO s")
        cur.execute("SELECT count(*) FROM item WHERE name = 'changed'")
        assert cur.fetchone() == (502,)
    conn.rollback()

    # Types that the driver has to ask for.
    with conn.cursor() as cur:
        cur.execute("CREATE TYPE pair AS (word text, n int)")
        psycopg2.extras.register_composite("pair", cur)
        cur.execute("SELECT ROW('a', 1)::pair")
        assert cur.fetchone()[0] == ("a", 1)
    conn.commit()
conn.close()

conn = psycopg2.connect("", options="-c statement_timeout=30000", application_name="tester")
conn.set_session(autocommit=True)
assert conn.get_parameter_status("client_encoding") == "UTF8"
with conn.cursor() as cur:
    cur.execute("SHOW application_name")
    assert cur.fetchone() == ("tester",)
    cur.execute("SHOW statement_timeout")
    assert cur.fetchone() == ("30s",)

# What pools do between two users of a connection.
with conn.cursor() as cur:
    for clean in ["RESET ALL", "DEALLOCATE ALL", "DISCARD ALL"]:
        cur.execute("SET statement_timeout = '9s'")
        cur.execute(clean)
        cur.execute("SHOW statement_timeout")
        assert cur.fetchone() == ("9s" if clean == "DEALLOCATE ALL" else "30s",), clean
    cur.execute("SET statement_timeout = '9s'")
conn.reset()
conn.set_session(autocommit=True)
with conn.cursor() as cur:
    cur.execute("SHOW statement_timeout")
    assert cur.fetchone() == ("30s",)

# Text in another encoding, while others use the server.
other = psycopg2.connect("")
conn.set_client_encoding("LATIN1")
for n in range(10):
    with conn.cursor() as cur, other.cursor() as seen:
        cur.execute("SELECT %s || 'é', octet_length(%s)", ("café", "é"))
        assert cur.fetchone() == ("caféé", 2)
        seen.execute("SELECT 'é'")
        assert seen.fetchone() == ("é",)
    other.rollback()
other.close()

timer = threading.Timer(0.5, conn.cancel)
timer.start()
with conn.cursor() as cur:
    try:
        cur.execute("SELECT pg_sleep(30)")
    except psycopg2.errors.QueryCanceled:
        pass
    else:
        raise AssertionError("the statement must be cancelled")
    cur.execute("SELECT 1; SELECT 2")
    assert cur.fetchone() == (2,)
conn.close()
print("all well")
