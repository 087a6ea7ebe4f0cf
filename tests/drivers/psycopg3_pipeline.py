"""psycopg 3 in pipeline mode: many statements on the way before the first answer is read."""

import psycopg

with psycopg.connect("", autocommit=True) as conn:
    conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int", (n,)) for n in range(300)]
    assert [cur.fetchone()[0] for cur in cursors] == list(range(300))

    # An error fails what follows it up to the next synchronisation, and nothing after that.
    try:
        with conn.pipeline() as pipeline:
            conn.execute("INSERT INTO item VALUES (1)")
            pipeline.sync()
            conn.execute("INSERT INTO item VALUES (1)")
            conn.execute("INSERT INTO item VALUES (2)")
    except psycopg.errors.UniqueViolation:
        pass
    else:
        raise AssertionError("the second insert must fail")
    assert conn.execute("SELECT array_agg(id) FROM item").fetchone() == ([1],)

    with conn.pipeline() as pipeline:
        with conn.transaction():
            for n in range(10, 20):
                conn.execute("INSERT INTO item VALUES (%s)", (n,))
        count = conn.execute("SELECT count(*) FROM item")
        pipeline.sync()
        assert count.fetchone() == (11,)

    with conn.pipeline(), conn.cursor() as cur:
        cur.executemany("INSERT INTO item VALUES (%s) RETURNING id", [(n,) for n in range(100, 200)], returning=True)
        returned = [cur.fetchone()[0]]
        while cur.nextset():
            returned.append(cur.fetchone()[0])
    assert returned == list(range(100, 200))
print("all well")
