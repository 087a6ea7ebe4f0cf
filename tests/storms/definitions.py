"""Definitions change amid a storm: a side table gets and loses a column and an index, while clients execute what they have prepared before."""

import threading

from harness import Client, Options, ServerError, Storm, Wrong, expect
from pooled import Pooled, PooledClient
from sharded import SHARDS, Sharded, ShardedClient
from wire import SYNC, Connection, bind, close, columns, describe, execute, parse, rows

# The number of columns is what changes; the first three are always there.
SIDE = "CREATE TABLE side (id bigint, m text, a int)"
DEFINITIONS = ["ALTER TABLE side ADD COLUMN IF NOT EXISTS x int DEFAULT 7", "ALTER TABLE side DROP COLUMN IF EXISTS x", "CREATE INDEX IF NOT EXISTS side_a ON side (a)", "DROP INDEX IF EXISTS side_a"]


class DefinedStorm(Storm):
    defining = threading.Lock()


class DefinedClient(Client):
    storm: DefinedStorm
    # Of shards, one may have a definition before another does.
    amid: set[str] = set()

    def forget(self) -> None:
        self.described: dict[str, int] = {}
        super().forget()

    def define(self) -> None:
        """One at a time: PostgreSQL itself does not bear two."""
        with self.storm.defining:
            try:
                self.c.rows(self.random.choice(DEFINITIONS))
            except ServerError as error:
                # What a client had begun that has lost its server.
                if error.code not in ("42P07", "23505"):
                    raise

    def side(self) -> None:
        """Rows are as the client was told of them, in the same batch or of the statement, or refused."""
        mark, number, name = self.mark(), str(self.random.randint(0, 10**6)), f"side{self.random.randint(0, 5)}"
        self.c.rows("INSERT INTO side (id, m, a) VALUES ($1, $2, 5)", number, mark)
        where, values = ("m = $1", [mark]) if int(name[-1]) % 2 else ("m = $1 AND id = $2", [mark, number])
        told = self.random.random() < 0.4
        try:
            if name not in self.described or self.random.random() < 0.2:
                batch = close(b"S", name) if name in self.described else b""
                self.described.pop(name, None)
                found = self.c.ask(batch + parse(name, f"SELECT * FROM side WHERE {where}") + describe(b"S", name) + SYNC)
                self.described[name] = next(len(columns(body)) for tag, body in found if tag == b"T")
            batch = bind("", name, values) + (describe(b"P", "") if told else b"") + execute() + SYNC
            found = self.c.ask(batch)
            got = rows(found)
            expect([row[:3] for row in got], [[number, mark, "5"]], "side row")
            widths = [len(columns(body)) for tag, body in found if tag == b"T"] or [self.described[name]]
            expect([len(got[0])], widths, f"columns, told in its batch: {told}")
        except ServerError as error:
            if not (error.code == "0A000" and "cached plan" in error.text) and error.code not in self.amid:
                raise
            self.storm.record.counts[f"refused {error.code}"] += 1
            if self.random.random() < 0.5:
                self.leave()
                return
        self.c.rows(f"DELETE FROM side WHERE m = '{mark}'")

    kind = ["define", *["side"] * 6]


class DefinedPooled(Pooled, DefinedStorm):
    def client(self, number: int) -> Client:
        return DefinedPooledClient(self, number, "db" if number % 4 else "db2", "app")

    def prepare_servers(self) -> None:
        super().prepare_servers()
        self.server.rows(f"{SIDE}; ALTER TABLE side OWNER TO app")


class DefinedPooledClient(DefinedClient, PooledClient):
    kind = [*PooledClient.kind, *DefinedClient.kind]


class DefinedSharded(Sharded, DefinedStorm):
    def client(self, number: int) -> Client:
        return DefinedShardedClient(self, number, "sh", "app")

    def prepare(self) -> None:
        super().prepare()
        Connection(self.pgdog.port, "sh", "app").rows(SIDE)

    def check(self) -> None:
        super().check()
        columns = [self.server.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'side'::regclass AND attnum > 0 AND NOT attisdropped", f"s{shard}") for shard in SHARDS]
        if not columns[0] == columns[1] == columns[2]:
            self.record.problem(f"shards have other columns: {columns}")


class DefinedShardedClient(DefinedClient, ShardedClient):
    kind = [*ShardedClient.kind, *DefinedClient.kind]
    amid = {"42804"}
