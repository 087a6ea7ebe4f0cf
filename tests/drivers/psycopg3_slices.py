"""psycopg 3 over shards: server-side cursors, which are DECLARE, FETCH and CLOSE."""

import psycopg

with psycopg.connect() as connection:
    whole = connection.execute("SELECT id, name FROM users ORDER BY id").fetchall()
    assert len(whole) > 50, whole
    with connection.cursor(name="slices") as cursor:
        cursor.execute("SELECT id, name FROM users ORDER BY id")
        assert cursor.fetchone() == whole[0]
        assert cursor.fetchmany(7) == whole[1:8]
        assert connection.execute("SELECT count(*) FROM users").fetchone()[0] >= len(whole)
        assert cursor.fetchall() == whole[8:]
    with connection.cursor(name="iterated") as cursor:
        cursor.itersize = 10
        cursor.execute("SELECT id, name FROM users ORDER BY id")
        assert list(cursor) == whole
print("all well")
