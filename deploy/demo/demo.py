"""What an application does: a transaction, a prepared statement, COPY, and an error it survives."""

import psycopg

with psycopg.connect("") as conn:
    print("connected to PostgreSQL", conn.info.parameter_status("server_version"), "on port", conn.info.port)
    with conn.transaction():
        conn.execute("CREATE TABLE walks (dog text, km numeric)")
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO walks VALUES (%s, %s)", [("Laika", 2.5), ("Balto", 1085), ("Hachiko", 0.8)])
        with cur.copy("COPY walks FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row(("Balto", number / 1000))
    conn.commit()
    for _ in range(20):  # psycopg prepares it on the server from the sixth time on
        total = conn.execute("SELECT sum(km) FROM walks WHERE dog = %s", ("Balto",)).fetchone()[0]
    conn.commit()
    print("Balto walked", total, "km")
    try:
        conn.execute("SELECT 1/0")
    except psycopg.errors.DivisionByZero as error:
        conn.rollback()
        print("the server's errors arrive as they are:", error)
    print("rows:", conn.execute("SELECT count(*) FROM walks").fetchone()[0])
