"""Clients of one server: what each has set, prepared, begun or locked is its own, whoever had the server before."""

import os
import random
import signal
import time
from contextlib import suppress

from harness import Client, Options, Record, Storm, Wrong, expect
from throwaway import Cluster
from wire import COPY_DONE, FLUSH, SYNC, Connection, Gone, ServerError, bind, close, copy_data, execute, fields, message, once, parse, query, rows, tags

LEFT = """SELECT (SELECT string_agg(name || '=' || setting, ',') FROM pg_settings WHERE source = 'session'
    AND name NOT IN ('application_name', 'transaction_isolation', 'transaction_read_only', 'transaction_deferrable', 'client_encoding')),
  (SELECT string_agg(x, ',') FROM pg_listening_channels() x), (SELECT string_agg(name, ',') FROM pg_cursors WHERE name <> ''),
  current_user = session_user, nullif(current_setting('app.m', true), ''), nullif(current_setting('app.x', true), '')"""


class Pooled(Storm):
    users = ["app", "other"]
    rough_troubles = [*Storm.rough_troubles, "kill_backend"]

    def __init__(self, options: Options, rough: bool, mean: int = 7, mode: str = "transaction"):
        self.mode = mode
        self.kept: list[str] = []
        super().__init__(options, rough, mean)

    def settings(self, chance: random.Random | None) -> str:
        mode, pool = self.mode, chance.randint(1, 9) if chance else 6
        if chance and self.rough and chance.random() < 0.2:
            mode = chance.choice(["session", "transaction"])
        pool += 25 if self.mode == "session" else 0
        text = self.general(chance, pool, pooler_mode=f'"{mode}"')
        databases = ["db", "db2", *(["db3"] if chance and chance.random() < 0.5 else [])]
        for name in databases:
            text += f'[[databases]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {self.server.port}\ndatabase_name = "postgres"\n'
            text += f"pool_size = {25 if self.mode == 'session' else 3}\n" if name == "db2" else ""
        return text

    def client(self, number: int) -> Client:
        return PooledClient(self, number, "db" if number % 4 else "db2", "app" if number % 3 else "other")

    def prepare_servers(self) -> None:
        self.server.rows("CREATE ROLE app LOGIN; CREATE ROLE other LOGIN; CREATE ROLE r1; GRANT r1 TO app, other; GRANT ALL ON SCHEMA public TO public")
        self.server.rows("CREATE TABLE t (m text, n int, v text); CREATE TABLE ghost (m text); CREATE TABLE keep (m text PRIMARY KEY); GRANT ALL ON t, ghost, keep TO public; CREATE INDEX ON t (m)")

    def kill_backend(self, chance: random.Random) -> None:
        """As the kernel does when memory is short."""
        if found := self.backends():
            with suppress(ProcessLookupError):
                os.kill(chance.choice(found)[0], signal.SIGKILL)

    def check(self) -> None:
        self.clean(LEFT, [None, None, None, "t", None, None])
        if ghosts := self.server.rows("SELECT m FROM ghost LIMIT 5"):
            self.record.problem(f"rows of what was never committed: {ghosts}")
        if lost := set(self.kept) - {mark for (mark,) in self.server.rows("SELECT m FROM keep")}:
            self.record.problem(f"committed and lost: {sorted(lost)[:5]}")


class PooledClient(Client):
    storm: Pooled
    kind = ["simple", "named", "named", "pipeline", "pipeline", "set", "set", "check_settings", "role", "transaction", "transaction", "failing_transaction"]
    kind += ["failing", "temporary", "no_temporary", "advisory", "copy_in", "copy_out", "big", "listen", "cursor", "portal", "statement_timeout", "keep", "keep", "slow", "stale", "reset_all", "cancel_amid", "copy_batches", "copy_batches"]
    mean = ["vanish", "vanish", "vanish", "cancel_self", "idle_in_transaction", "simple", "set", "named", "stale"]

    def first_settings(self) -> dict[str, str]:
        found = {"application_name": self.mark()} if self.random.random() < 0.5 else {}
        return {**found, "search_path": "public, pg_catalog"} if self.random.random() < 0.3 else found

    def simple(self) -> None:
        one, two = self.mark(), self.mark()
        found = self.c.ask(query(f"SELECT '{one}'; SELECT '{two}', generate_series(1, 3)"))
        expect(tags(found), "TDCTDDDCZ", "messages")
        expect([row[0] for row in rows(found)], [one, two, two, two], "rows")

    def pipeline(self) -> None:
        """Batches, of which some fail; what follows the failure in its batch is passed over."""
        batches, wanted, answers = b"", [], ""
        for _ in range(self.random.randint(2, 6)):
            failing = failed = False
            for _ in range(self.random.randint(1, 4)):
                value = self.mark()
                failing = not failed and self.random.random() < 0.1
                batches += once("SELECT 1 / (length($1::text) - length($1::text))" if failing else f"SELECT $1::text, '{value}'", value)
                if not failed:
                    answers += "12E" if failing else "12DC"
                    wanted += [] if failing else [[value, value]]
                failed = failed or failing
            batches += SYNC
            answers += "Z"
        self.c.send(batches)
        found = []
        for _ in range(answers.count("Z")):
            found += self.c.messages()
        for tag, body in found:
            if tag == b"E" and fields(body)["C"] != "22012":
                raise ServerError(fields(body))
        expect(tags(found).replace("12E", "1E"), answers.replace("12E", "1E"), "messages")
        expect(rows(found), wanted, "rows")

    def set(self) -> None:
        name = self.random.choice(["app.m", "app.x", "application_name", "work_mem", "search_path", "lock_timeout", "TimeZone"])
        choices = {"work_mem": [f"{self.random.randint(100, 900)}kB"], "search_path": ["public, pg_catalog", "pg_catalog, public"], "lock_timeout": [f"{self.random.randint(20, 50)}s"], "TimeZone": ["UTC", "Asia/Tokyo", "America/Lima"]}
        value = self.random.choice(choices.get(name, [self.mark()]))
        to = f"{name} TO {value if name == 'search_path' else repr(value)}"
        way, stays = self.random.randint(0, 4), True
        if way == 0:
            self.c.rows(f"SET {to}")
        elif way == 1:
            self.c.rows("SELECT set_config($1, $2, false)", name, value)
        elif way == 2:
            self.c.rows(f"BEGIN; SET {to}; COMMIT")
        elif way == 3:
            stays = self.random.random() < 0.5
            for sql in ("BEGIN", "SAVEPOINT a", f"SET {to}", *([] if stays else ["ROLLBACK TO a"]), "COMMIT"):
                self.c.rows(sql)
        else:
            stays = False
            for sql in ("BEGIN", f"SET LOCAL {to}", "SELECT 1", self.random.choice(["ROLLBACK", "COMMIT"])):
                self.c.rows(sql)
        if stays:
            self.settings[name] = value
        self.check_settings()

    def check_settings(self) -> None:
        wanted = {"app.m": "", **self.settings}
        got = self.c.rows(f"SELECT {', '.join(f'coalesce(current_setting({name!r}, true), $$$$)' for name in wanted)}")[0]
        expect(got, list(wanted.values()), f"settings {list(wanted)}")

    def role(self) -> None:
        for sql, user in (("SET ROLE r1", "r1"), ("RESET ROLE", self.user)):
            self.c.rows(sql)
            expect(self.c.one("SELECT current_user"), user, "role")

    def transaction(self) -> None:
        mark, count = self.mark(), self.random.randint(1, 4)
        self.c.rows("BEGIN")
        for number in range(count):
            self.c.rows("INSERT INTO t (m, n) VALUES ($1, $2)", mark, str(number))
            if self.random.random() < 0.4:
                self.c.rows("SAVEPOINT s")
                self.c.rows(f"INSERT INTO ghost VALUES ('{mark}')")
                if self.random.random() < 0.5:
                    self.refused("SELECT nope", "42703")
                    expect(self.c.status, "E", "status")
                self.c.rows("ROLLBACK TO s")
        rows_of_mark = f"SELECT count(*) FROM t WHERE m = '{mark}'"
        expect(self.c.one(rows_of_mark), str(count), "own rows")
        end = self.random.choice(["COMMIT", "ROLLBACK"])
        self.c.rows(end)
        expect(self.c.status, "I", "status")
        expect(self.c.one(rows_of_mark), str(count if end == "COMMIT" else 0), f"rows after {end}")
        self.c.rows(f"DELETE FROM t WHERE m = '{mark}'")

    def failing_transaction(self) -> None:
        mark = self.mark()
        self.c.rows("BEGIN")
        self.c.rows(f"INSERT INTO ghost VALUES ('{mark}')")
        self.refused(f"SELECT * FROM nope_{mark}", "42P01")
        self.refused("SELECT 1", "25P02")
        expect(self.c.ask(query("COMMIT"))[0][1], b"ROLLBACK\0", "tag")

    def failing(self) -> None:
        mark = self.mark()
        self.failing_batch("ghost", f"('{mark}')")
        expect(self.c.one(f"SELECT count(*) FROM ghost WHERE m = '{mark}'"), "0", "rows of a failed batch")

    def temporary(self) -> None:
        mark = self.mark()
        self.c.rows("CREATE TEMP TABLE tt (m text)")
        self.c.rows(f"INSERT INTO tt VALUES ('{mark}')")
        expect(self.c.rows("SELECT m FROM tt"), [[mark]], "temporary table")
        self.check_settings()
        expect(rows(self.c.ask(once("SELECT m FROM tt") + SYNC)), [[mark]], "temporary table")
        if self.random.random() < 0.8:
            self.c.rows("DROP TABLE tt")
        else:
            self.c.rows("DISCARD ALL")
            self.leave()

    def no_temporary(self) -> None:
        self.refused("SELECT * FROM pg_temp.tt", "42P01")

    def advisory(self) -> None:
        key = self.number * 1000 + self.random.randint(0, 9)
        self.c.rows(f"SELECT pg_advisory_lock({key})")
        pid = self.c.one("SELECT pg_backend_pid()")
        for _ in range(self.random.randint(0, 2)):
            self.check_settings()
        expect(self.c.one("SELECT pg_backend_pid()"), pid, "server")
        expect(self.c.one(f"SELECT pg_advisory_unlock({key})"), "t", "unlock")
        expect(self.c.one(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {key}"), "0", "locks")

    def copy_in(self) -> None:
        mark, count, end = self.mark(), self.random.randint(1, 3000), self.random.choice(["good", "good", "good", "bad", "fail"])
        self.c.send(query("COPY t FROM STDIN"))
        tag, body = self.c.read()
        if tag == b"E":
            self.c.messages()
            raise ServerError(fields(body))
        data = b"".join(f"{mark}\t{number}\t{'v' * 26}\n".encode() for number in range(count)) + (b"a\tb\tc\td\n" if end == "bad" else b"")
        while data:
            size = self.random.randint(1, 20000)
            self.c.send(copy_data(data[:size]))
            data = data[size:]
        self.c.send(message(b"f", b"no\0") if end == "fail" else COPY_DONE)
        try:
            expect(self.c.ready()[0][1], f"COPY {count}\0".encode(), "tag")
            if end != "good":
                raise Wrong("COPY went well")
        except ServerError as error:
            if end == "good" or error.code not in ("22P02", "22P04", "57014"):
                raise
            count = 0
        expect(self.c.rows(f"SELECT count(*), coalesce(sum(n), 0) FROM t WHERE m = '{mark}'"), [[str(count), str(count * (count - 1) // 2)]], "copied")
        self.c.rows(f"DELETE FROM t WHERE m = '{mark}'")

    def copy_batches(self) -> None:
        """COPYs in and out, of which some fail amid, in batches that are sent at once."""
        mark, batches, wanted, copied, stored = self.mark(), b"", [], [], 0
        for number in range(self.random.randint(2, 5)):
            way, value, count = self.random.choice(["in", "in", "bad", "fail", "out", "out fails", "rows", "simple"]), f"{mark}{number}", self.random.randint(1, 300)
            lines = b"".join(f"{mark}\t{line}\tv\n".encode() for line in range(count))
            out = f"COPY (SELECT '{value}', 1 / ({count} - g) FROM generate_series(1, {count - (way != 'out fails')}) g) TO STDOUT"
            if way in ("in", "bad", "fail"):
                ended = message(b"f", b"no\0") if way == "fail" else copy_data(b"a\tb\n" if way == "bad" else lines) + COPY_DONE
                batches += once("COPY t FROM STDIN") + copy_data(lines) + ended + SYNC
                stored += 2 * count if way == "in" else 0
                wanted.append("12GCZ" if way == "in" else "12GEZ")
            elif way == "rows":
                batches += once("SELECT $1::text", value) + SYNC
                wanted.append("12DCZ")
            elif way == "simple":
                batches += query(f"SELECT '{value}'; {out}")
                wanted.append("TDCHcCZ")
            else:
                batches += once(out) + SYNC
                wanted.append("12HcCZ" if way == "out" else "12HEZ")
            copied.append(value if way in ("out", "simple", "out fails") else "")
        self.c.send(batches)
        for expected, value in zip(wanted, copied, strict=True):
            found = self.c.messages()
            for tag, body in found:
                if tag == b"E" and ("E" not in expected or fields(body)["C"] not in ("22P02", "22P04", "57014", "22012")):
                    raise ServerError(fields(body))
            expect("".join(tag for tag in tags(found) if tag != "d"), expected, "messages")
            strange = [body for tag, body in found if tag == b"d" and not (value and body.startswith(f"{value}\t".encode()))]
            expect(strange, [], "copied")
        expect(self.c.one(f"SELECT count(*) FROM t WHERE m = '{mark}'"), str(stored), "rows of COPY")
        self.c.rows(f"DELETE FROM t WHERE m = '{mark}'")

    def copy_out(self) -> None:
        mark, count = self.mark(), self.random.randint(1, 5000)
        found = self.c.ask(query(f"COPY (SELECT '{mark}', g FROM generate_series(1, {count}) g) TO STDOUT"))
        expect(b"".join(body for tag, body in found if tag == b"d"), b"".join(f"{mark}\t{number}\n".encode() for number in range(1, count + 1)), "copied")

    def big(self) -> None:
        mark, times = self.mark(), self.random.choice([100, 4000, 30000])
        expect(self.c.one(f"SELECT repeat($1, {times})", mark), mark * times, "large value")
        expect(self.c.one("SELECT $1::text", mark * times), mark * times, "large parameter")

    def cursor(self) -> None:
        mark, hold = self.mark(), self.random.random() < 0.3
        self.c.rows("BEGIN")
        self.c.rows(f"DECLARE cc CURSOR {'WITH HOLD' if hold else ''} FOR SELECT '{mark}', g FROM generate_series(1, 20) g")
        expect(self.c.rows("FETCH 3 FROM cc"), [[mark, str(number)] for number in (1, 2, 3)], "fetched")
        self.c.rows("COMMIT")
        if hold:
            self.check_settings()
            expect(self.c.rows("FETCH 2 FROM cc"), [[mark, "4"], [mark, "5"]], "fetched")
            self.c.rows("CLOSE cc")
        expect(self.c.one("SELECT count(*) FROM pg_cursors WHERE name = 'cc'"), "0", "cursors")

    def portal(self) -> None:
        mark, found = self.mark(), []
        self.c.send(parse("", f"SELECT '{mark}', g FROM generate_series(1, 10) g") + bind("p", "") + execute("p", 3) + FLUSH)
        while True:
            tag, body = self.c.read()
            found.append((tag, body))
            if tag == b"E":
                self.c.send(SYNC)
                self.c.messages()
                raise ServerError(fields(body))
            if tag == b"s":
                time.sleep(self.random.choice([0, 0.02]))
                self.c.send(execute("p") + FLUSH)
            if tag == b"C":
                break
        self.c.ask(SYNC)
        expect(rows(found), [[mark, str(number)] for number in range(1, 11)], "rows of a portal")

    def keep(self) -> None:
        mark = self.mark()
        self.c.rows(f"INSERT INTO keep VALUES ('{mark}')")
        self.storm.kept.append(mark)

    def slow(self) -> None:
        mark = self.mark()
        self.ask_late(f"SELECT '{mark}', repeat('y', 2000), g FROM generate_series(1, 5000) g", [[mark, "y" * 2000, str(number)] for number in range(1, 5001)])

    def cancel_self(self) -> None:
        if self.random.random() < 0.5:
            self.c.rows("BEGIN")
        self.c.send(query(f"SELECT pg_sleep(60), '{self.mark()}'"))
        time.sleep(self.random.choice([0, 0.01, 0.05]))
        self.cancel_until_ready()

    def idle_in_transaction(self) -> None:
        self.c.rows("BEGIN")
        try:
            self.c.rows("SET LOCAL idle_in_transaction_session_timeout = 30; INSERT INTO ghost VALUES ('idle')")
            time.sleep(0.15)
            self.c.rows("SELECT 1")
        except ServerError as error:
            if error.code not in ("25P03", "08006"):
                raise
        except Gone:
            pass
        else:
            raise Wrong("a transaction outlives its timeout")
        self.leave()

    def vanish(self) -> None:
        mark, how = self.mark(), self.random.randint(0, 9)
        ghost, with_value = query(f"INSERT INTO ghost VALUES ('{mark}')"), once("INSERT INTO ghost VALUES ($1)", mark)
        lines = copy_data(mark.encode() + b"\n") * 1000
        if how == 4:
            self.c.rows("BEGIN")
        if how == 6:
            for sql in (f"SELECT pg_advisory_lock({self.number * 1000 + 77})", "CREATE TEMP TABLE tt (m text)", "LISTEN zz", "SET app.m = 'leak'", "SET ROLE r1"):
                self.c.rows(sql)
        sent = [
            [self.cut(ghost)],
            [query("BEGIN") + ghost],
            [with_value + FLUSH],
            [with_value, self.cut(parse("y", "SELECT 1"))],
            [query("COPY ghost FROM STDIN"), lines + self.cut(copy_data(b"x" * 5000))],
            [query("COPY ghost FROM STDIN"), lines],
            [query("SELECT pg_sleep(3)")],
            [query(f"SELECT repeat('{mark}', 1000), g FROM generate_series(1, 20000) g")],
            [query("BEGIN; SELECT pg_sleep(0.3)") + ghost],
            [once("SELECT pg_sleep(0.2)") + with_value + FLUSH],
        ][how]
        self.vanish_after(*sent)


class Failover(Pooled):
    """A primary and its replica take turns. Commits are synchronous, and so none that was confirmed may be lost; a client reads what it has written."""

    rough_troubles = ["fail_over", "fail_over", "terminate"]
    roles = ["auto", "auto"]

    def __init__(self, options: Options):
        super().__init__(options, rough=True, mean=5)

    def settings(self, chance: random.Random | None) -> str:
        text = self.general(chance, chance.randint(1, 9) if chance else 6, read_your_writes="true", lsn_check_delay="0", lsn_check_interval="500", idle_healthcheck_delay="0", idle_healthcheck_interval="500")
        for name in ("db", "db2"):
            for server, role in zip(self.servers, self.roles, strict=True):
                text += f'[[databases]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {server.port}\ndatabase_name = "postgres"\nrole = "{role}"\n'
        return text

    def prepare_servers(self) -> None:
        super().prepare_servers()
        self.server.rows("CREATE FUNCTION store(text) RETURNS void LANGUAGE sql AS 'INSERT INTO keep VALUES ($1)'")
        # The replica has it from the beginning, and the primary once there is one.
        self.server.rows("ALTER SYSTEM SET synchronous_standby_names = 'walreceiver'")
        self.servers.append(Cluster(self.options.folder, "replica", self.server))
        self.server.rows("SELECT pg_reload_conf()")

    def client(self, number: int) -> Client:
        return FailoverClient(self, number, "db" if number % 4 else "db2", "app" if number % 3 else "other")

    def fail_over(self, _: random.Random) -> None:
        old, new = self.server, next(server for server in self.servers if server is not self.server)
        while not old.rows("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"):
            time.sleep(0.1)
        old.stop("immediate")
        new.promote()
        self.server = new
        old.follow(new)


class Lagging(Failover):
    """A replica that stands still, goes down and comes back, and a primary that does so too: nobody reads what was before his own writes."""

    troubles = [*Failover.troubles, "stand_still", "stand_still"]
    rough_troubles = ["restart_replica", "crash_replica", "terminate", "crash", "restart"]
    roles = ["primary", "replica"]

    def prepare_servers(self) -> None:
        super().prepare_servers()
        # Commits do not wait for who may be down.
        self.server.rows("ALTER SYSTEM RESET synchronous_standby_names")
        self.server.rows("SELECT pg_reload_conf()")

    def stand_still(self, chance: random.Random) -> None:
        replica = self.servers[1]
        replica.rows("SELECT pg_wal_replay_pause()")
        time.sleep(chance.random() * 2)
        replica.rows("SELECT pg_wal_replay_resume()")

    def restart_replica(self, _: random.Random) -> None:
        self.servers[1].stop("fast")
        self.servers[1].start()

    def crash_replica(self, _: random.Random) -> None:
        self.servers[1].stop("immediate")
        self.servers[1].start()


class FailoverClient(PooledClient):
    """Without what asks a server about itself: replicas answer too."""

    kind = ["simple", "named", "pipeline", "set", "check_settings", "transaction", "transaction", "failing_transaction", "failing", "copy_in", "portal", "keep", "keep", "kept", "slow", "stale", "reset_all", "copy_batches"]
    mean = ["vanish", "vanish", "keep", "set", "named", "stale"]

    def kept(self) -> None:
        """Written in one of several ways, and read in another."""
        mark = self.mark()
        insert, select = f"INSERT INTO keep VALUES ('{mark}')", f"SELECT count(*) FROM keep WHERE m = '{mark}'"
        writes = [query(insert), once("INSERT INTO keep VALUES ($1)", mark) + SYNC, query(f"BEGIN; {insert}; COMMIT"), query(f"WITH w AS ({insert} RETURNING m) SELECT m FROM w"), query(f"DO $$BEGIN {insert}; END$$"), query("SELECT store($$" + mark + "$$)")]
        write, read = self.random.randrange(len(writes) + 2), self.random.randrange(5)
        if write < len(writes):
            self.c.ask(writes[write])
        elif write == len(writes):
            for sql in ("BEGIN", "SELECT 1", insert, "COMMIT"):
                self.c.rows(sql)
        else:
            self.c.send(query("COPY keep FROM STDIN"))
            tag, body = self.c.read()
            if tag == b"E":
                self.c.messages()
                raise ServerError(fields(body))
            self.c.send(copy_data(f"{mark}\n".encode()) + COPY_DONE)
            self.c.ready()
        self.storm.kept.append(mark)
        if read == 4:
            self.c.rows("BEGIN READ ONLY")
        way = f"own row, written {write}, read {read}"
        if read < 2:
            if "own" not in self.known or self.random.random() < 0.2:
                self.c.ask((close(b"S", "own") if "own" in self.known else b"") + parse("own", "SELECT count(*) FROM keep WHERE m = $1") + SYNC)
                self.known["own"] = ""
            expect(rows(self.c.ask(bind("", "own", [mark]) + execute() + SYNC)), [["1"]], way)
        elif read == 2:
            expect(self.c.one("SELECT count(*) FROM keep WHERE m = $1", mark), "1", way)
        else:
            expect(self.c.one(select), "1", way)
        if read == 4:
            self.c.rows("COMMIT")


class Farewells(Pooled):
    """Cancels and farewells only, of clients and of servers."""

    def __init__(self, options: Options):
        super().__init__(options, rough=True, mean=self.clients)


class Stuck(Pooled):
    """Clients that ask for much and read nothing; when they have left, memory and servers are back."""

    rounds = 4
    spare_kilobytes = 40_000
    shown: list[str] = []

    def __init__(self, options: Options):
        super().__init__(options, rough=False, mean=0)

    def settings(self, chance: random.Random | None) -> str:
        return super().settings(None).replace("default_pool_size = 6", "default_pool_size = 60")

    def run(self) -> Record:
        self.clients, self.options.seconds = 0, 0
        asked = [query("SELECT repeat('x', 100000000)"), query("SELECT repeat('x', 1000), g FROM generate_series(1, 200000) g"), (once("SELECT repeat($1, 20000)", "abcde") + SYNC) * 5000]
        after = []
        for _ in range(self.rounds):
            stuck = [Connection(self.pgdog.port, "db", "app", tls=number % 2 == 0) for number in range(50)]
            for number, connection in enumerate(stuck):
                connection.socket.settimeout(0.3)
                try:
                    connection.socket.sendall(asked[number % 3])
                except TimeoutError:
                    pass  # Nobody reads more.
            time.sleep(3)
            most = self.pgdog.memory_kilobytes()
            for connection in stuck:
                connection.abort()
            self.settle()
            after.append(self.pgdog.memory_kilobytes())
            self.record.event(f"memory {most} kB with clients, {after[-1]} kB after them")
        self.record.counts["kilobytes after"] = after[-1]
        if after[-1] > after[0] + self.spare_kilobytes:
            self.record.problem(f"memory in kB after each round: {after}")
        return super().run()
