"""What storms share: clients that act at random, troubles, and what has to be true afterwards."""

import os
import random
import re
import signal
import subprocess
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from throwaway import Cluster, Pgdog
from wire import Connection, Gone, Hang, ServerError, SYNC, bind, cancel, close, execute, fields, once, parse, query, rows, tags

# What a client may be told when servers, its connection or pgdog go down.
LOST = {"08001", "08006", "08007", "25P03", "53300", "57P01", "57P02", "57P03", "57P05"}
BAD_LOG = re.compile(r"panic|internal error|XX00\d|assert|overflow|unreachable")


class Wrong(Exception):
    """An answer that no server may give."""


def expect(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        raise Wrong(f"{what}: got {str(got)[:300]}, wanted {str(wanted)[:300]}")


def certificate(folder: str) -> str:
    """Settings for TLS."""
    key, chain = f"{folder}/key.pem", f"{folder}/chain.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", chain], check=True, stderr=subprocess.DEVNULL)
    return f'tls_certificate = "{chain}"\ntls_private_key = "{key}"\n'


@dataclass
class Options:
    folder: str
    pgdog: str
    seed: int
    seconds: float
    workers: int = 2


@dataclass
class Record:
    """What has happened, for all threads."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=60))

    def event(self, text: str) -> None:
        self.events.append(f"{time.time():.3f} {text}")

    def problem(self, text: str) -> None:
        self.event(f"PROBLEM {text}")
        self.problems.append(text)
        print(f"  PROBLEM {text[:1500]}", flush=True)


class Storm:
    """One kind of weather: a subclass says what servers, settings and clients there are, and what else has to be true."""

    database = "db"
    users = ["app"]
    clients = 24
    troubles = ["reload", "reload", "reconnect", "pause", "maintenance", "show"]
    rough_troubles = ["terminate", "terminate", "terminate", "kill", "kill_client", "restart", "crash"]
    # What clients may be told when it is rough.
    allowed = LOST
    shown = ["CLIENTS", "SERVERS", "POOLS", "STATS", "PREPARED", "CORES", "PINS", "TRANSACTIONS", "CONFIG"]

    def __init__(self, options: Options, rough: bool, mean: int):
        """`mean` clients of all leave amid everything; when it is `rough`, servers do so too."""
        self.options, self.rough, self.mean = options, rough, mean
        self.random = random.Random(f"{options.seed}/storm")
        self.record = Record()
        self.stale_keys: list[bytes] = []
        self.tls = certificate(options.folder)
        # What runs for a pgdog that was killed ends with it.
        self.server = Cluster(options.folder, "server", client_connection_check_interval="500ms")
        self.servers = [self.server]
        self.prepare_servers()
        users = "".join(f'[[users]]\nname = "{user}"\nall_databases = true\npassword = "x"\n' for user in self.users)
        try:
            self.pgdog = Pgdog(options.folder, options.pgdog, self.settings(None), users, NODE_ID="storm-1")
            self.prepare()
        except BaseException:
            self.stop()
            raise

    def settings(self, chance: random.Random | None) -> str:
        """The configuration, with what may change at a reload drawn by `chance`."""
        raise NotImplementedError

    def client(self, number: int) -> "Client":
        raise NotImplementedError

    def prepare_servers(self) -> None:
        """Roles and databases."""

    def prepare(self) -> None:
        """What is made through pgdog."""

    def check(self) -> None:
        """What has to be true once all is at rest."""

    def general(self, chance: random.Random | None, pool: int, **more: str) -> str:
        """Settings of [general] that all storms have."""
        prepared = chance.choice(["extended", "extended", "extended_anonymous", "full"]) if chance else "extended"
        clients_per_core = chance.choice([1, 4, 64]) if chance else 1
        lines = [f"workers = {self.options.workers}", f"clients_per_core = {clients_per_core}", f"default_pool_size = {pool}", "min_pool_size = 1"]
        lines += [f'prepared_statements = "{prepared}"', "prepared_statements_limit = 20", 'auth_type = "trust"', "checkout_timeout = 15000"]
        lines += ["connect_timeout = 8000", "connect_attempts = 3", "connect_attempt_delay = 100", "shutdown_timeout = 1500"]
        lines += ['client_connection_recovery = "recover"', *(f"{key} = {value}" for key, value in more.items())]
        return "\n".join(lines) + "\n" + self.tls

    def backends(self, more: str = "true") -> list[tuple[Any, ...]]:
        """Of clients: pgdog's checks of servers have connections of their own."""
        names = ", ".join(f"'{user}'" for user in self.users)
        sql = f"SELECT pid, usename, state, left(query, 100) FROM pg_stat_activity WHERE usename IN ({names}) AND query NOT LIKE '%pg_is_in_recovery()%' AND {more}"
        return [row for server in self.servers for row in server.rows(sql)]

    # Troubles.

    def reload(self, chance: random.Random) -> None:
        self.pgdog.configure(self.settings(chance))
        self.pgdog.admin("RELOAD")

    def reconnect(self, chance: random.Random) -> None:
        self.pgdog.admin(chance.choice(["RECONNECT", f"RECONNECT {self.database}"]))

    def pause(self, chance: random.Random) -> None:
        target = chance.choice(["", f" {self.database}"])
        self.pgdog.admin("PAUSE" + target)
        time.sleep(chance.random())
        self.pgdog.admin("RESUME" + target)

    def maintenance(self, chance: random.Random) -> None:
        self.pgdog.admin("MAINTENANCE ON")
        time.sleep(chance.random() / 2)
        self.pgdog.admin("MAINTENANCE OFF")

    def show(self, _: random.Random) -> None:
        for what in self.shown:
            self.pgdog.admin(f"SHOW {what}")

    def terminate(self, chance: random.Random) -> None:
        found = self.backends()
        for pid, *_ in chance.sample(found, min(len(found), chance.randint(1, 4))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self, chance: random.Random) -> None:
        self.pgdog.admin(f"KILL {self.database}")
        time.sleep(chance.random() * 0.3)
        self.pgdog.admin("RESUME")

    def kill_client(self, chance: random.Random) -> None:
        if clients := self.pgdog.admin("SHOW CLIENTS"):
            try:
                self.pgdog.admin(f"KILL_CLIENT {chance.choice(clients)['id']}")
            except psycopg.errors.UndefinedObject:
                pass  # It has left meanwhile.
            except psycopg.OperationalError:
                pass  # It was this one.

    def restart(self, _: random.Random) -> None:
        self.server.stop("fast")
        self.server.start()

    def crash(self, _: random.Random) -> None:
        self.server.stop("immediate")
        self.server.start()

    def crash_pgdog(self, chance: random.Random) -> None:
        self.pgdog.kill()
        time.sleep(chance.random() * 0.3)
        self.pgdog.start()

    def restart_pgdog(self, chance: random.Random) -> None:
        """With another configuration, and as many cores as that says."""
        expect(self.pgdog.stop(), 0, "exit of pgdog")
        self.options.workers = chance.randint(1, 3)
        self.pgdog.configure(self.settings(chance))
        self.pgdog.start()

    def trouble(self, until: float) -> None:
        chance = random.Random(f"{self.options.seed}/troubles")
        kinds = self.troubles + (self.rough_troubles if self.rough else [])
        while time.time() < until:
            time.sleep(chance.uniform(0.2, 1.0))
            kind = chance.choice(kinds)
            self.record.counts[kind] += 1
            self.record.event(f"trouble {kind}")
            try:
                getattr(self, kind)(chance)
            except Exception as error:
                if not (self.rough and isinstance(error, psycopg.OperationalError)):
                    self.record.problem(f"trouble {kind}: {error!r}")

    # From start to end.

    def run(self) -> Record:
        until = time.time() + self.options.seconds
        threads = [threading.Thread(target=self.client(number).run, args=(until,), daemon=True) for number in range(self.clients)]
        threads.append(threading.Thread(target=self.trouble, args=(until,), daemon=True))
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(until + 60 - time.time())
            if any(thread.is_alive() for thread in threads):
                self.record.problem("a client does not come to its end")
            if self.pgdog.process.poll() is not None:
                self.record.problem(f"pgdog has ended: {self.pgdog.process.returncode}")
            else:
                self.settle()
                self.check()
        except Exception:
            self.record.problem(traceback.format_exc())
        finally:
            code = self.stop()
        if code:
            self.record.problem(f"pgdog ended with {code}")
        for line in self.pgdog.log().splitlines():
            if BAD_LOG.search(line):
                self.record.problem(f"log: {line[:400]}")
        return self.record

    def stop(self) -> int:
        pgdog = getattr(self, "pgdog", None)
        code = pgdog.stop() if pgdog and pgdog.process.poll() is None else 0
        for server in self.servers:
            server.stop()
        return code

    def settle(self) -> None:
        """Pools come to rest, and servers agree with pgdog about who is there."""
        for command in ("RESUME", "MAINTENANCE OFF"):
            self.pgdog.admin(command)
        self.pgdog.configure(self.settings(None))
        self.pgdog.admin("RELOAD")
        why: object = None
        for _ in range(80):
            time.sleep(0.25)
            try:
                why = self.unrest()
            except psycopg.OperationalError as error:  # The server is recovering.
                why = error
            if not why:
                return
        self.record.problem(f"no rest: {why}")

    def unrest(self) -> object:
        pools, transactions = self.pgdog.admin("SHOW POOLS"), self.pgdog.admin("SHOW TRANSACTIONS")
        listed, clients = self.pgdog.admin("SHOW SERVERS"), self.pgdog.admin("SHOW CLIENTS")
        if found := self.server.rows("SELECT gid, database FROM pg_prepared_xacts"):
            return "prepared transactions", found, transactions
        if transactions:
            return "transactions", transactions
        if busy := [pool for pool in pools if pool["cl_waiting"] or pool["sv_active"] or pool["sv_idle_xact"]]:
            return "busy pools", busy
        if found := self.backends("state <> 'idle'"):
            return "busy servers", found
        if found := self.server.rows("SELECT locktype, relation::regclass, objid, pid FROM pg_locks WHERE locktype = 'advisory' OR (locktype = 'relation' AND pid <> pg_backend_pid())"):
            return "locks", found
        # A crash leaves them.
        if not self.rough and (found := self.server.rows("SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'")):
            return "temporary tables", found
        if left := [client for client in clients if client["database"] != "admin"]:
            return "clients", left
        known, there = {server["remote_pid"]: server for server in listed}, {pid: more for pid, *more in self.backends()}
        if only := there.keys() - known.keys():
            return "servers that pgdog does not know", [there[pid] for pid in only]
        # That an idle server has gone is seen when it is wanted.
        if only := {pid for pid in known.keys() - there.keys() if not (self.rough and known[pid]["state"] == "idle")}:
            return "servers that have gone", [known[pid] for pid in only]
        total = sum(pool["sv_total"] for pool in pools)
        return total != len(listed) and ("servers of pools", total, "listed", len(listed))

    def clean(self, asked: str, wanted: list[str | None], count: int = 6) -> None:
        """What `count` servers of each user answer when nobody has set anything."""
        for user in self.users:
            held = [Connection(self.pgdog.port, self.database, user) for _ in range(count)]
            for connection in held:
                connection.ask(query("BEGIN"))
                got = connection.rows(asked)[0]
                if got != wanted:
                    self.record.problem(f"left on a server: {got}")
            for connection in held:
                connection.ask(query("ROLLBACK"))
                connection.close()


class Client:
    """Chooses among its `kind` or its `mean` operations; each is a method."""

    kind: list[str] = []
    mean: list[str] = []

    def __init__(self, storm: Storm, number: int, database: str, user: str):
        self.storm, self.number, self.database, self.user = storm, number, database, user
        self.port = storm.pgdog.port
        self.random = random.Random(f"{storm.options.seed}/{number}")
        self.operations = self.mean if number >= storm.clients - storm.mean else self.kind
        self.marks = 0
        self.settings: dict[str, str] = {}
        self.wire: Connection | None = None
        self.cancelled_at = 0.0

    def mark(self) -> str:
        """A text that nobody else has, and a name too."""
        self.marks += 1
        return f"m{self.storm.options.seed}_{self.number}_{self.marks}_"

    def open(self) -> None:
        self.settings = self.first_settings()
        self.forget()
        self.first = dict(self.settings)
        self.wire = Connection(self.port, self.database, self.user, tls=self.number % 5 == 0, settings=self.settings)

    def first_settings(self) -> dict[str, str]:
        return {}

    def forget(self) -> None:
        """Nothing is prepared."""
        self.known: dict[str, str] = {}

    @property
    def c(self) -> Connection:
        if self.wire is None:
            self.open()
        assert self.wire
        return self.wire

    def leave(self, how: Callable[[Connection], None] = Connection.close) -> None:
        if self.wire:
            how(self.wire)
        self.wire = None

    def run(self, until: float) -> None:
        record = self.storm.record
        while time.time() < until:
            operation = "open"
            try:
                if self.wire is None:
                    self.open()
                operation = self.random.choice(self.operations)
                record.event(f"client {self.number} {operation}")
                getattr(self, operation)()
                record.counts[operation] += 1
                if self.random.random() < 0.02:
                    self.leave()
                continue
            except Hang as error:
                record.problem(f"client {self.number} {operation} hangs ({error}), {self.picture()}")
            except (ServerError, Gone) as error:
                code = error.code if isinstance(error, ServerError) else "gone"
                record.errors[f"{code} {str(error)[:90]}"] += 1
                # A cancel of its own that took long on a busy machine.
                late = code == "57014" and time.time() - self.cancelled_at < 5
                if code != "40P01" and not late and not (self.storm.rough and code in self.storm.allowed | {"gone"}):
                    record.problem(f"client {self.number} {operation}: {error}")
                time.sleep(0.05)
            except Wrong as error:
                record.problem(f"client {self.number} {operation}: {error}")
            except Exception:
                record.problem(f"client {self.number} {operation}: {traceback.format_exc()}")
            self.leave()
        self.leave(self.random.choice([Connection.close, Connection.abort]))

    def picture(self) -> str:
        try:
            pools = self.storm.pgdog.admin("SHOW POOLS")
            own = self.wire.socket.getsockname()[1] if self.wire else 0
            busy = [client for client in self.storm.pgdog.admin("SHOW CLIENTS") if client["state"] != "idle" or client["port"] == own]
            return f"port {own} sent {self.wire and self.wire.sent[:200]!r} pools {[{key: value for key, value in pool.items() if value} for pool in pools]} clients {busy} servers {self.storm.backends()}"
        except Exception as error:
            return repr(error)

    def refused(self, sql: str, *codes: str) -> None:
        try:
            self.c.rows(sql)
        except ServerError as error:
            if error.code not in codes:
                raise
            return
        raise Wrong(f"no error: {sql}")

    def after_cancels(self) -> None:
        """One of them may come late, and hit what follows."""
        self.cancelled_at = time.time()
        time.sleep(0.05)
        for _ in range(4):
            try:
                if self.c.status != "I":
                    self.c.ask(query("ROLLBACK"))
                self.c.rows("SELECT 1")
                return
            except ServerError as error:
                if error.code != "57014":
                    raise

    def cancel_until_ready(self) -> None:
        """Again and again, since a cancel may come before the statement does."""
        ended, heard = threading.Event(), [time.time()]

        def again() -> None:
            while True:
                cancel(self.port, self.c.key)
                heard.append(time.time())
                if ended.wait(0.3):
                    return

        thread = threading.Thread(target=again)
        thread.start()
        try:
            self.c.ready()
        except ServerError as error:
            if error.code != "57014":
                raise
        else:
            raise Wrong(f"not cancelled, requests heard after {[round(moment - heard[0], 2) for moment in heard[1:]]}, ready after {time.time() - heard[0]:.2f} s")
        finally:
            ended.set()
            thread.join()
        self.after_cancels()

    # Operations that all clients have.

    def named(self) -> None:
        """A few executions of a named statement that may be parsed anew."""
        name, batch, wanted, answers = f"s{self.random.randint(0, 6)}", b"", [], ""
        if name not in self.known or self.random.random() < 0.2:
            if name in self.known:
                batch, answers = close(b"S", name), "3"
            self.known[name] = self.mark()
            batch += parse(name, f"SELECT $1::text || '{self.known[name]}', {self.random.randint(0, 5)} + 0 * length($1::text)")
            answers += "1"
        for _ in range(self.random.randint(1, 5)):
            value = self.mark()
            batch += bind("", name, [value]) + execute()
            answers += "2DC"
            wanted.append(value + self.known[name])
        found = self.c.ask(batch + SYNC)
        expect(tags(found), answers + "Z", "messages")
        expect([row[0] for row in rows(found)], wanted, "rows")

    def listen(self) -> None:
        channel = self.mark()
        self.c.ask(query(f"LISTEN {channel}"))
        self.c.notifications.clear()
        self.c.ask(query(f"NOTIFY {channel}, '{channel}'"))
        self.c.rows("SELECT 1")
        if not self.c.notifications:
            self.c.rows("SELECT pg_sleep(0.1)")
        expect([body[4:] for body in self.c.notifications], [f"{channel}\0{channel}\0".encode()], "notifications")
        self.c.ask(query(self.random.choice([f"UNLISTEN {channel}", "UNLISTEN *"])))

    def reset_all(self) -> None:
        """Amid a pipeline: what is set and prepared goes, or stays, as of one's own server."""
        way, mark, shown = self.random.choice(["RESET ALL", "DISCARD ALL", "DEALLOCATE ALL", "RESET app.m", "DISCARD PLANS"]), self.mark(), "coalesce(current_setting('app.m', true), '')"
        executed = bind("", "again") + execute() + SYNC
        batches = [(close(b"S", "again") if "again" in self.known else b"") + parse("again", f"SELECT '{mark}', {shown}") + SYNC]
        batches += [once(f"SET app.m = '{mark}'") + SYNC, executed, once(way) + SYNC, executed, once(f"SELECT {shown}") + SYNC]
        if self.random.random() < 0.3:
            batches[3] = query(way)
        self.c.send(b"".join(batches))
        found = [self.c.messages() for _ in batches]
        errors = [fields(body) for messages in found for tag, body in messages if tag == b"E"]
        goes, left = way in ("DISCARD ALL", "DEALLOCATE ALL"), mark if way.startswith("D") and way != "DISCARD ALL" else ""
        if goes:
            self.forget()
        else:
            self.known["again"] = ""
        if way in ("RESET ALL", "DISCARD ALL"):
            self.settings = dict(self.first)
        else:
            self.settings["app.m"] = left
        unexpected = [error for error in errors if not (goes and error["C"] == "26000")]
        if unexpected:
            raise ServerError(unexpected[0])
        wanted = [[], [], [[mark, mark]], [], [] if goes else [[mark, left]], [[left]]]
        expect([rows(messages) for messages in found], wanted, f"rows around {way}")
        expect(len(errors), int(goes), f"errors after {way}")
        expect(self.c.status, "I", "status")

    def cancel_amid(self) -> None:
        """A large result, of which some has been read."""
        mark, count = self.mark(), 20000
        copied = self.random.random() < 0.3
        sql = f"SELECT '{mark}', repeat('z', 1000), g FROM generate_series(1, {count}) g"
        self.c.send(query(f"COPY ({sql}) TO STDOUT" if copied else sql))
        for _ in range(self.random.choice([0, 1, 50, 5000])):
            tag, body = self.c.read()
            if tag == b"E":
                self.c.messages()
                raise ServerError(fields(body))
        cancel(self.port, self.c.key)
        found = self.c.messages()
        kept = [body for tag, body in found if tag == b"d"] if copied else [(row[0] or "").encode() for row in rows(found)]
        expect([body for body in kept if not body.startswith(mark.encode())], [], "rows of another")
        for tag, body in found:
            if tag == b"E" and fields(body)["C"] != "57014":
                raise ServerError(fields(body))
        expect(tags(found)[-2:] in ("EZ", "CZ"), True, f"end {tags(found)[-5:]}")
        self.after_cancels()

    def statement_timeout(self) -> None:
        self.refused("BEGIN; SET LOCAL statement_timeout = 30; SELECT pg_sleep(3); COMMIT", "57014")
        if self.c.status != "I":
            self.c.ask(query("ROLLBACK"))

    def stale(self) -> None:
        """Cancels with keys of those who have left, which concern nobody."""
        if self.storm.stale_keys:
            cancel(self.port, self.random.choice(self.storm.stale_keys))
        cancel(self.port, self.c.key[:4] + bytes(len(self.c.key) - 4))

    def vanish_after(self, *sent: bytes) -> None:
        """Sends, perhaps not to its end, and leaves in one of several ways."""
        for part in sent:
            self.c.send(part)
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 0.2)
        self.storm.stale_keys.append(self.c.key)
        self.leave(self.random.choice([Connection.abort, lambda connection: connection.socket.close(), Connection.close]))

    def cut(self, data: bytes) -> bytes:
        return data[: self.random.randint(1, len(data) - 1)]

    def ask_late(self, sql: str, wanted: list[list[str | None]]) -> None:
        """Reads the answer only after a while."""
        self.c.send(query(sql))
        time.sleep(self.random.random())
        expect(rows(self.c.ready()), wanted, "rows read late")

    def failing_batch(self, table: str, values: str) -> None:
        """Nothing of a batch stays that fails at its end."""
        try:
            self.c.ask(once(f"INSERT INTO {table} VALUES {values}") + once("SELECT 1/0") + SYNC)
        except ServerError as error:
            if error.code != "22012":
                raise
            return
        raise Wrong("no error")
