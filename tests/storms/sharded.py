"""Clients of three shards with two-phase commits: money is moved between accounts, and none may be made or lost."""

import random
import time
from collections import Counter

from harness import LOST, Client, Options, Storm, Wrong, expect
from wire import COPY_DONE, FLUSH, SYNC, Connection, ServerError, bind, cancel, copy_data, execute, fields, message, once, parse, query, rows, tags

# Work without an end and without a file: only a cancel ends it, however slow the machine is.
ENDLESS = "generate_series(1, 9000) g, generate_series(1, 9000) h, generate_series(1, 9000) i"
SHARDS = range(3)
ACCOUNTS = 24


class Sharded(Storm):
    database = "sh"
    clients = 20
    rough_troubles = [*Storm.rough_troubles, "crash_pgdog", "crash_pgdog", "crash_pgdog", "restart_pgdog"]

    def __init__(self, options: Options, rough: bool, scarce: bool = False):
        """`scarce`: fewer servers than clients, so that transactions wait for each other's."""
        self.pools = (3, 9) if scarce else (22, 30)
        # How transfers ended, by their marks: `promised` are those pgdog says it will complete.
        self.ends: dict[str, str] = {}
        super().__init__(options, rough, mean=6)

    def settings(self, chance: random.Random | None) -> str:
        pool = chance.randint(*self.pools) if chance else self.pools[1]
        text = self.general(chance, pool, two_phase_commit="true", two_phase_commit_auto="true", two_phase_commit_wal_dir=f'"{self.options.folder}/commits"', two_phase_commit_wal_segment_size="65536", two_phase_commit_wal_checkpoint_interval="1000")
        text += '[rewrite]\nenabled = true\nshard_key = "rewrite"\nsplit_inserts = "rewrite"\n'
        for shard in SHARDS:
            text += f'[[databases]]\nname = "sh"\nhost = "127.0.0.1"\nport = {self.server.port}\ndatabase_name = "s{shard}"\nshard = {shard}\n'
        return text + '[[sharded_tables]]\ndatabase = "sh"\ncolumn = "id"\n'

    def client(self, number: int) -> Client:
        return ShardedClient(self, number, "sh", "app")

    def prepare_servers(self) -> None:
        self.server.rows("CREATE ROLE app LOGIN SUPERUSER")
        for shard in SHARDS:
            self.server.rows(f"CREATE DATABASE s{shard}")

    def prepare(self) -> None:
        connection = Connection(self.pgdog.port, "sh", "app")
        for sql in (
            "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint)",
            "CREATE TABLE log (id bigint, m text, x int)",
            "CREATE TABLE bulk (id bigint, m text)",
            "CREATE TABLE ghost (id bigint, m text)",
            "CREATE TABLE everywhere (k int PRIMARY KEY, v text)",
            "CREATE INDEX ON log (m)",
            "CREATE INDEX ON bulk (m)",
            f"INSERT INTO account VALUES {', '.join(f'({number}, 1000)' for number in range(ACCOUNTS))}",
            "INSERT INTO everywhere SELECT g, 'x' FROM generate_series(1, 5) g",
        ):
            connection.ask(query(sql))
        connection.close()

    def check(self) -> None:
        logged: Counter[str] = Counter()
        accounts, everywhere = [], []
        for shard in SHARDS:
            accounts += self.server.rows("SELECT balance FROM account", f"s{shard}")
            logged.update(mark for (mark,) in self.server.rows("SELECT m FROM log", f"s{shard}"))
            everywhere.append(self.server.rows("SELECT k, v FROM everywhere ORDER BY k", f"s{shard}"))
            if ghosts := self.server.rows("SELECT * FROM ghost LIMIT 5", f"s{shard}"):
                self.record.problem(f"rows of what was never committed: {ghosts}")
        got = len(accounts), sum(balance for (balance,) in accounts)
        if got != (ACCOUNTS, 1000 * ACCOUNTS):
            self.record.problem(f"accounts and their sum: {got}")
        if not everywhere[0] == everywhere[1] == everywhere[2]:
            self.record.problem(f"shards differ: {everywhere}")
        allowed = {"committed": {2}, "promised": {2}, "failed": {0}, "unknown": {0, 2}}
        self.record.counts.update(self.ends.values())
        for mark, end in self.ends.items():
            if logged[mark] not in allowed[end]:
                self.record.problem(f"{end} transfer {mark} has logged {logged[mark]} times")
        for shard in SHARDS:
            self.clean(f"/* pgdog_shard: {shard} */ SELECT coalesce(current_setting('app.m', true), '')", [""], count=3)


class ShardedClient(Client):
    storm: Sharded
    kind = ["transfer"] * 8 + ["within", "within", "everywhere", "everywhere", "named", "bulk", "bulk", "copy_in", "move", "set", "check_settings"]
    kind += ["failing_transaction", "listen", "advisory", "totals", "stale", "statement_timeout", "reset_all", "cancel_amid", "copy_batches", "copy_batches"]
    mean = ["vanish", "vanish", "vanish", "cancel_self", "cancel_commit", "transfer", "stale", "set"]

    def parts(self, first: int, second: int, amount: int, mark: str) -> list[str]:
        updates = [f"UPDATE account SET balance = balance + {change} WHERE id = {account}" for account, change in ((first, -amount), (second, amount))]
        return [*updates, f"INSERT INTO log VALUES ({first}, '{mark}', {-amount})", f"INSERT INTO log VALUES ({second}, '{mark}', {amount})"]

    def two(self) -> tuple[int, int]:
        """Mostly in order, that few deadlock."""
        first, second = self.random.sample(range(ACCOUNTS), 2)
        return (second, first) if first > second and self.random.random() < 0.7 else (first, second)

    def transfer(self) -> None:
        mark, amount, (first, second) = self.mark(), self.random.randint(1, 9), self.two()
        parts = self.parts(first, second, amount, mark)
        ends = self.storm.ends
        ends[mark] = "failed"
        way = self.random.randint(0, 4)
        try:
            if way in (0, 1):
                self.c.rows("BEGIN")
                if way == 0:
                    for sql in parts:
                        self.c.rows(sql)
                else:
                    self.c.rows(parts[0])
                    self.c.rows("SAVEPOINT s")
                    self.c.rows(f"INSERT INTO ghost VALUES ({second}, '{mark}')")
                    self.c.rows("ROLLBACK TO s")
                    self.c.rows(parts[1])
                    self.c.rows(f"INSERT INTO log VALUES ({first}, '{mark}', {-amount}), ({second}, '{mark}', {amount})")
                if self.random.random() < 0.15:
                    self.c.rows("ROLLBACK")
                    return
                ends[mark] = "unknown"
                expect(self.c.ask(query("COMMIT"))[0][1], b"COMMIT\0", "tag")
            else:
                ends[mark] = "unknown"
                texts = [query(f"BEGIN; {'; '.join(parts)}; COMMIT"), query("; ".join(parts))]
                update, insert = "UPDATE account SET balance = balance + $1::bigint WHERE id = $2", "INSERT INTO log VALUES ($1, $2, $3)"
                batch = once("BEGIN")
                for account, change in ((first, str(-amount)), (second, str(amount))):
                    batch += once(update, change, str(account)) + once(insert, str(account), mark, change)
                self.c.ask([*texts, batch + once("COMMIT") + SYNC][way - 2])
            ends[mark] = "committed"
        except ServerError as error:
            self.ended(mark, error)
            if error.code == "40P01":
                self.storm.record.counts["deadlock"] += 1
                if self.c.status != "I":
                    self.c.rows("ROLLBACK")
                return
            raise
        expect(sorted(self.c.rows(f"SELECT id, x FROM log WHERE m = '{mark}'")), sorted([[str(first), str(-amount)], [str(second), str(amount)]]), "own log")

    def ended(self, mark: str, error: ServerError) -> None:
        """What an error says of a commit that was asked for."""
        if self.storm.ends[mark] == "unknown":
            if error.code == "08007" and "completed in background" in error.text:
                self.storm.ends[mark] = "promised"
            elif error.code not in LOST:
                self.storm.ends[mark] = "failed"

    def within(self) -> None:
        amount, (first, second) = self.random.randint(1, 9), self.two()
        self.c.rows(f"UPDATE account SET balance = balance + CASE id WHEN {first} THEN {-amount} ELSE {amount} END WHERE id IN ({first}, {second})")

    def everywhere(self) -> None:
        self.c.rows(f"UPDATE everywhere SET v = '{self.mark()}' WHERE k = {self.random.randint(1, 5)}")

    def bulk(self) -> None:
        mark, count = self.mark(), self.random.randint(2, 200)
        found = self.c.ask(query(f"INSERT INTO bulk VALUES {', '.join(f'({number}, {mark!r})' for number in range(count))}"))
        expect(found[0][1], f"INSERT 0 {count}\0".encode(), "tag")
        self.read_bulk(mark, count)

    def read_bulk(self, mark: str, count: int) -> None:
        sql = f"SELECT id, m FROM bulk WHERE m = '{mark}' ORDER BY id"
        wanted: list[list[str | None]] = [[str(number), mark] for number in range(count)]
        way = self.random.randint(0, 5)
        got: list[list[str | None]] = []
        if way == 0:
            got = self.c.rows(sql)
        elif way == 1:
            got = self.c.rows(sql.replace(f"'{mark}'", "$1"), mark)
        elif way == 2:
            lines = b"".join(body for tag, body in self.c.ask(query(f"COPY ({sql}) TO STDOUT")) if tag == b"d").decode()
            got = [list(line.split("\t")) for line in lines.splitlines()]
        elif way == 3:
            self.c.rows("BEGIN")
            self.c.rows(f"DECLARE cc CURSOR FOR {sql}")
            while part := self.c.rows(f"FETCH {self.random.randint(1, 50)} FROM cc"):
                got += part
            self.c.rows("COMMIT")
        elif way == 4:
            self.c.send(parse("", sql) + bind("p", "") + execute("p", max(1, count // 2)) + FLUSH)
            found = [self.c.read()]
            while found[-1][0] not in (b"s", b"C", b"E"):
                found.append(self.c.read())
            self.c.send((execute("p") if found[-1][0] == b"s" else b"") + SYNC)
            if found[-1][0] == b"E":
                self.c.messages()
                raise ServerError(fields(found[-1][1]))
            got = rows(found + self.c.ready())
        else:
            got = self.c.rows(f"SELECT count(*), sum(id), m FROM bulk WHERE m = '{mark}' GROUP BY m")
            wanted = [[str(count), str(count * (count - 1) // 2), mark]]
        expect(got, wanted, f"rows of bulk, way {way}")
        expect(self.c.ask(query(f"DELETE FROM bulk WHERE m = '{mark}'"))[0][1], f"DELETE {count}\0".encode(), "tag")

    def copy_in(self) -> None:
        mark, count, bad = self.mark(), self.random.randint(1, 2000), self.random.random() < 0.25
        self.c.send(query("COPY bulk FROM STDIN"))
        tag, body = self.c.read()
        if tag == b"E":
            self.c.messages()
            raise ServerError(fields(body))
        data = b"".join(f"{number}\t{mark}\n".encode() for number in range(count)) + (b"xx\tb\n" if bad else b"")
        while data:
            size = self.random.randint(1, 9000)
            self.c.send(copy_data(data[:size]))
            data = data[size:]
        self.c.send(COPY_DONE)
        try:
            expect(self.c.ready()[0][1], f"COPY {count}\0".encode(), "tag")
            if bad:
                raise Wrong("COPY went well")
        except ServerError as error:
            if not bad or error.code not in ("22P02", "22P04"):
                raise
            expect(self.c.one(f"SELECT count(*) FROM bulk WHERE m = '{mark}'"), "0", "rows of a failed COPY")
            return
        self.read_bulk(mark, count)

    def copy_batches(self) -> None:
        """COPYs in and out, of which some fail amid, and other statements, in batches that are sent at once."""
        mark, batches, wanted, stored = self.mark(), b"", [], 0
        for _ in range(self.random.randint(2, 5)):
            way, count = self.random.choice(["in", "in", "bad", "fail", "out", "rows"]), self.random.randint(1, 200)
            lines = b"".join(f"{number}\t{mark}\n".encode() for number in range(count))
            if way in ("in", "bad", "fail"):
                ended = message(b"f", b"no\0") if way == "fail" else copy_data(b"xx\tb\n" if way == "bad" else lines) + COPY_DONE
                batches += once("COPY bulk FROM STDIN") + copy_data(lines) + ended + SYNC
                stored += 2 * count if way == "in" else 0
                wanted.append(("12GCZ" if way == "in" else "12GEZ", 0))
            elif way == "rows":
                batches += once("SELECT count(*) FROM bulk WHERE m = $1", mark) + SYNC
                wanted.append(("12DCZ", stored))
            else:
                batches += once(f"COPY (SELECT m FROM bulk WHERE m = '{mark}' ORDER BY id) TO STDOUT") + SYNC
                wanted.append(("12HcCZ", stored))
        self.c.send(batches)
        for expected, count in wanted:
            found = self.c.messages()
            for tag, body in found:
                if tag == b"E" and ("E" not in expected or fields(body)["C"] not in ("22P02", "22P04", "57014")):
                    raise ServerError(fields(body))
            expect("".join(tag for tag in tags(found) if tag != "d"), expected, "messages")
            copied = [body for tag, body in found if tag == b"d"]
            expect(set(copied) <= {f"{mark}\n".encode()}, True, "copied")
            expect([len(copied)] if "H" in expected else [int(row[0] or 0) for row in rows(found)], [count] if "D" in expected or "H" in expected else [], "rows so far")
        expect(self.c.one(f"SELECT count(*) FROM bulk WHERE m = '{mark}'"), str(stored), "rows of COPY")
        self.c.rows(f"DELETE FROM bulk WHERE m = '{mark}'")

    def move(self) -> None:
        """A row from shard to shard."""
        mark, old, new = self.mark(), self.random.randint(1, 10**9), self.random.randint(1, 10**9)
        end = self.random.choice(["COMMIT", "ROLLBACK"])
        for sql in (f"INSERT INTO bulk VALUES ({old}, '{mark}')", "BEGIN", f"UPDATE bulk SET id = {new} WHERE id = {old} AND m = '{mark}'", end):
            self.c.rows(sql)
        expect(self.c.rows(f"SELECT id FROM bulk WHERE m = '{mark}'"), [[str(new if end == "COMMIT" else old)]], "moved")
        self.c.rows(f"DELETE FROM bulk WHERE m = '{mark}'")

    def set(self) -> None:
        value, way = self.mark(), self.random.randint(0, 3)
        count = "SELECT count(*) FROM account"
        if way < 2:
            self.c.rows(f"SET app.m = '{value}'" if way else f"BEGIN; SET app.m = '{value}'; {count}; COMMIT")
            self.settings["app.m"] = value
        elif way == 2:
            for sql in ("BEGIN", count, f"SET app.m = '{value}'", count, "ROLLBACK"):
                self.c.rows(sql)
        else:
            self.c.rows("BEGIN")
            self.c.rows(f"SET LOCAL app.m = '{value}'")
            self.on_shards(value)
            self.c.rows("COMMIT")
        self.check_settings()

    def check_settings(self) -> None:
        self.on_shards(self.settings.get("app.m", ""))

    def on_shards(self, value: str) -> None:
        for shard in SHARDS:
            expect(self.c.one(f"/* pgdog_shard: {shard} */ SELECT coalesce(current_setting('app.m', true), '')"), value, f"setting on shard {shard}")

    def failing_transaction(self) -> None:
        mark = self.mark()
        self.c.rows("BEGIN")
        self.c.rows(f"INSERT INTO ghost VALUES {', '.join(f'({number}, {mark!r})' for number in range(4))}")
        self.refused(self.random.choice(["SELECT nope", "SELECT 1 / 0 FROM account", "INSERT INTO account VALUES (1, 1)", "syntax error"]), "42703", "22012", "23505", "42601")
        self.refused("SELECT 1", "25P02")
        expect(self.c.ask(query("COMMIT"))[0][1], b"ROLLBACK\0", "tag")

    def advisory(self) -> None:
        for sql in ("BEGIN", f"SELECT pg_advisory_xact_lock({self.number * 1000 + self.random.randint(0, 9)})", "COMMIT"):
            self.c.rows(sql)

    def totals(self) -> None:
        expect(self.c.rows("SELECT count(*), min(id), max(id) FROM account"), [[str(ACCOUNTS), "0", str(ACCOUNTS - 1)]], "totals")

    def cancel_self(self) -> None:
        sql = [
            "SELECT pg_sleep(60) FROM account WHERE id = 3",
            f"SELECT count(*) FROM account, {ENDLESS} WHERE id + g <> 0",
            f"UPDATE account SET balance = balance WHERE (SELECT count(*) FROM {ENDLESS}) > 0",
            f"BEGIN; SELECT a.id FROM account a, {ENDLESS} WHERE a.id + g < 0 ORDER BY a.id",
        ]
        self.c.send(query(self.random.choice(sql)))
        time.sleep(self.random.choice([0, 0.01, 0.05]))
        self.cancel_until_ready()

    def cancel_commit(self) -> None:
        mark, (first, second) = self.mark(), sorted(self.two())
        self.storm.ends[mark] = "failed"
        for sql in ("BEGIN", *self.parts(first, second, 3, mark)):
            self.c.rows(sql)
        self.storm.ends[mark] = "unknown"
        self.c.send(query("COMMIT"))
        for _ in range(self.random.randint(1, 3)):
            cancel(self.port, self.c.key)
        try:
            self.c.ready()
            self.storm.ends[mark] = "committed"
        except ServerError as error:
            self.ended(mark, error)
            if error.code not in ("57014", "08007"):
                raise
        self.after_cancels()

    def vanish(self) -> None:
        mark, how = self.mark(), self.random.randint(0, 8)
        ghosts = f"INSERT INTO ghost VALUES {', '.join(f'({self.random.randint(0, 999)}, {mark!r})' for _ in range(4))}"
        if how in (0, 7, 8):
            self.c.rows("BEGIN")
        if how == 0:
            self.c.rows(ghosts)
        if how == 7:
            transfer = self.mark()
            self.storm.ends[transfer] = "failed"
            for sql in self.parts(*self.two(), 5, transfer):
                self.c.rows(sql)
            self.storm.ends[transfer] = "unknown"
        if how == 8:
            self.c.rows("DECLARE cc CURSOR FOR SELECT * FROM account ORDER BY id")
        sent = [
            [],
            [query("BEGIN") + query(ghosts)],
            [query("BEGIN") + query(ghosts) + query("SELECT count(*) FROM account, generate_series(1, 100000) g WHERE id + g <> 0")],
            [once(ghosts) + FLUSH],
            [query("COPY ghost FROM STDIN"), copy_data(f"1\t{mark}\n2\t{mark}\n3\t{mark}\n".encode()) * 300],
            [query("SELECT a.id, repeat('x', 1000), b FROM account a, generate_series(1, 3000) b ORDER BY a.id, b")],
            [self.cut(query(ghosts))],
            [query("COMMIT")],
            [query("FETCH 3 FROM cc")],
        ][how]
        self.vanish_after(*sent)
