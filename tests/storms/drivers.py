"""Drivers as applications use them, by TLS and SCRAM, amid logins that break off."""

import asyncio
import os
import random
import socket
import ssl
import struct
import threading
import time
import traceback

import asyncpg  # type: ignore[import-untyped]
import psycopg
from harness import Client, Options, Storm, expect
from wire import TLS, message, text

PASSWORD = "x"


class Drivers(Storm):
    clients = 0
    psycopgs, asyncpgs, churners = 10, 8, 2

    def __init__(self, options: Options):
        super().__init__(options, rough=False, mean=0)

    def settings(self, chance: random.Random | None) -> str:
        text = self.general(chance, chance.randint(2, 8) if chance else 5, client_login_timeout="5000").replace('auth_type = "trust"', 'auth_type = "scram"')
        return text + f'[[databases]]\nname = "db"\nhost = "127.0.0.1"\nport = {self.server.port}\ndatabase_name = "postgres"\n'

    def prepare_servers(self) -> None:
        self.server.rows("CREATE ROLE app LOGIN SUPERUSER; CREATE TABLE t (m text, n int)")

    def client(self, number: int) -> Client:
        raise NotImplementedError

    def trouble(self, until: float) -> None:
        threads = [threading.Thread(target=churn, args=(self.pgdog.port, random.Random(f"{self.options.seed}/{number}/churn"), until)) for number in range(self.churners)]
        threads.append(threading.Thread(target=lambda: asyncio.run(self.work(until))))
        for thread in threads:
            thread.start()
        super().trouble(until)
        for thread in threads:
            thread.join()

    async def work(self, until: float) -> None:
        kinds = [PsycopgClient] * self.psycopgs + [AsyncpgClient] * self.asyncpgs
        await asyncio.gather(*(kind(self, number).run(until) for number, kind in enumerate(kinds)))


class DriverClient:
    """Connects, does some of its operations, and leaves, until the time is over."""

    operations: list[str] = []

    def __init__(self, storm: Drivers, number: int):
        self.storm, self.number = storm, number
        self.random = random.Random(f"{storm.options.seed}/{number}")
        self.marks = 0

    def mark(self) -> str:
        self.marks += 1
        return f"m{self.number}_{self.marks}_"

    async def open(self) -> None:
        raise NotImplementedError

    async def leave(self) -> None:
        raise NotImplementedError

    async def run(self, until: float) -> None:
        while time.time() < until:
            operation = "open"
            try:
                await self.open()
                for _ in range(self.random.randint(1, 40)):
                    if time.time() > until:
                        break
                    operation = self.random.choice(self.operations)
                    self.storm.record.event(f"driver {self.number} {operation}")
                    await asyncio.wait_for(getattr(self, operation)(), 30)
                    self.storm.record.counts[operation] += 1
                await self.leave()
            except Exception:
                self.storm.record.problem(f"driver {self.number} {operation}: {traceback.format_exc()[-1200:]}")


class PsycopgClient(DriverClient):
    operations = ["statements", "pipeline", "savepoint", "copy", "server_cursor", "failing", "cancelled", "setting", "binary"]

    async def open(self) -> None:
        encryption, threshold = self.random.choice(["require", "disable"]), self.random.choice([0, 1, 3, None])
        self.c = await psycopg.AsyncConnection.connect(host="127.0.0.1", port=self.storm.pgdog.port, dbname="db", user="app", password=PASSWORD, autocommit=True, sslmode=encryption, prepare_threshold=threshold, application_name=self.mark())

    async def leave(self) -> None:
        await self.c.close()

    async def first(self, sql: str, *values: object) -> object:
        return await (await self.c.execute(sql, values)).fetchone()

    async def statements(self) -> None:
        for number in range(3):
            mark = self.mark()
            expect(await self.first("SELECT %s::text, %s::int", mark, number), (mark, number), "row")

    async def pipeline(self) -> None:
        mark = self.mark()
        async with self.c.pipeline():
            cursors = [await self.c.execute(f"SELECT %s::text, {number}", [mark]) for number in range(self.random.randint(1, 30))]
            for number, cursor in enumerate(cursors):
                expect(await cursor.fetchone(), (mark, number), "row of a pipeline")

    async def savepoint(self) -> None:
        mark = self.mark()
        async with self.c.transaction():
            await self.c.execute("INSERT INTO t VALUES (%s, 1)", [mark])
            async with self.c.transaction():
                await self.c.execute("INSERT INTO t VALUES (%s, 2)", [mark])
                raise psycopg.Rollback
            expect(await self.first("SELECT count(*) FROM t WHERE m = %s", mark), (1,), "rows after a savepoint")
        expect((await self.c.execute("DELETE FROM t WHERE m = %s", [mark])).rowcount, 1, "deleted")

    async def copy(self) -> None:
        mark = self.mark()
        async with self.c.transaction():
            async with self.c.cursor().copy("COPY t FROM STDIN") as copy:
                for number in range(200):
                    await copy.write_row((mark, number))
            expect((await self.c.execute("DELETE FROM t WHERE m = %s", [mark])).rowcount, 200, "copied")

    async def server_cursor(self) -> None:
        mark = self.mark()
        async with self.c.transaction(), self.c.cursor(name="slices") as cursor:
            cursor.itersize = 50
            await cursor.execute("SELECT %s::text, g FROM generate_series(1, 300) g", [mark])
            expect([row async for row in cursor], [(mark, number) for number in range(1, 301)], "rows of a cursor")

    async def failing(self) -> None:
        try:
            await self.first("SELECT 1 / (length(%s::text) * 0)", self.mark())
        except psycopg.errors.DivisionByZero:
            return
        raise AssertionError("no error")

    async def cancelled(self) -> None:
        task = asyncio.create_task(self.first("SELECT pg_sleep(10), %s::text", self.mark()))
        await asyncio.sleep(0.02)
        for _ in range(40):
            await self.c.cancel_safe()
            if (await asyncio.wait([task], timeout=0.25))[0]:
                break
        try:
            await task
            raise AssertionError("not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        for _ in range(4):  # A cancel may come late.
            try:
                await self.first("SELECT 1")
                break
            except psycopg.errors.QueryCanceled:
                pass

    async def setting(self) -> None:
        mark = self.mark()
        await self.first("SELECT set_config('app.m', %s, false)", mark)
        for _ in range(2):
            expect(await self.first("SELECT current_setting('app.m')"), (mark,), "setting")

    async def binary(self) -> None:
        data = os.urandom(self.random.choice([10, 5000, 200000]))
        cursor = await self.c.execute("SELECT %s::bytea", [data], binary=True)
        expect(await cursor.fetchone(), (data,), "bytes")


class AsyncpgClient(DriverClient):
    operations = ["statements", "many", "copy", "slices", "failing", "timed_out"]

    async def open(self) -> None:
        encryption: ssl.SSLContext | None = self.random.choice([TLS, None])
        self.c = await asyncpg.connect(host="127.0.0.1", port=self.storm.pgdog.port, database="db", user="app", password=PASSWORD, ssl=encryption, timeout=25, command_timeout=25, server_settings={"application_name": self.mark()}, statement_cache_size=self.random.choice([0, 5, 100]))

    async def leave(self) -> None:
        if self.random.random() < 0.7:
            await self.c.close(timeout=5)
        else:
            self.c.terminate()

    async def statements(self) -> None:
        mark = self.mark()
        expect(tuple(await self.c.fetchrow(f"SELECT $1::text, {self.random.randint(0, 8)} + 0 * $2::int, $2::int", mark, 7))[::2], (mark, 7), "row")

    async def many(self) -> None:
        mark = self.mark()
        async with self.c.transaction():
            await self.c.executemany("INSERT INTO t VALUES ($1, $2)", [(mark, number) for number in range(50)])
            expect(await self.c.fetchval("SELECT count(*) FROM t WHERE m = $1", mark), 50, "inserted")
        expect(await self.c.execute("DELETE FROM t WHERE m = $1", mark), "DELETE 50", "deleted")

    async def copy(self) -> None:
        mark = self.mark()
        await self.c.copy_records_to_table("t", records=[(mark, number) for number in range(500)])
        expect(await self.c.execute("DELETE FROM t WHERE m = $1", mark), "DELETE 500", "copied")

    async def slices(self) -> None:
        mark = self.mark()
        async with self.c.transaction():
            got = [tuple(row) async for row in self.c.cursor("SELECT $1::text, g FROM generate_series(1, 200) g", mark, prefetch=30)]
        expect(got, [(mark, number) for number in range(1, 201)], "rows of a cursor")

    async def failing(self) -> None:
        try:
            await self.c.fetch("SELECT 1 / (length($1::text) * 0)", self.mark())
        except asyncpg.DivisionByZeroError:
            return
        raise AssertionError("no error")

    async def timed_out(self) -> None:
        try:
            await self.c.fetch("SELECT pg_sleep(5), $1::text", self.mark(), timeout=0.05)
            raise AssertionError("no timeout")
        except TimeoutError:
            pass
        mark = self.mark()
        for _ in range(4):  # asyncpg's cancel may come late.
            try:
                return expect(await self.c.fetchval("SELECT $1::text", mark), mark, "row after a cancel")
            except asyncpg.QueryCanceledError:
                pass


def churn(port: int, chance: random.Random, until: float) -> None:
    """Logins that end at all places where one can end."""
    held: list[socket.socket] = []
    body = struct.pack("!I", 196608) + text("user") + text("app") + text("database") + text("db") + b"\0"
    startup = struct.pack("!I", len(body) + 4) + body
    encrypt, cancel = struct.pack("!II", 8, 80877103), struct.pack("!IIII", 16, 80877102, chance.randint(0, 9999), 5)
    first = message(b"p", text("SCRAM-SHA-256") + struct.pack("!i", 32) + b"n,,n=,r=abcdefghijklmnopqrstuvwx")
    while time.time() < until:
        # What is sent, and after which of it an answer is awaited.
        parts = chance.choice(
            [
                [startup[: chance.randint(0, len(startup) - 1)]],
                [startup, b""],
                [startup, first, message(b"p", b"c=biws,r=xxxx,p=aaaa")],
                [encrypt, bytes([22, 3, 1, 2, 0]) + os.urandom(chance.randint(0, 300))],
                [encrypt, b"TLS", startup, b""],
                [cancel[: chance.randint(1, 16)]],
                [os.urandom(chance.randint(1, 200))],
                [encrypt + startup],
            ]
        )
        try:
            connection = socket.create_connection(("127.0.0.1", port), 3)
            connection.settimeout(2)
            for number, part in enumerate(parts):
                if part == b"TLS":
                    connection = TLS.wrap_socket(connection)
                    continue
                connection.sendall(part)
                if number + 1 < len(parts):
                    connection.recv(200)
            held.append(connection)
            if len(held) > 30 or chance.random() < 0.7:
                connection = held.pop(0)
                if chance.random() < 0.5:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        except OSError:
            pass
        time.sleep(0.005)
    for connection in held:
        connection.close()
