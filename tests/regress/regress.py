"""PostgreSQL's own regression tests through pgdog. Called by `make regress`; see `--help`.

pooled: pg_regress runs them on a server and through pgdog; the outputs of the two runs are compared.
sharded: each statement is run through pgdog, which has three shards, and on one server, and the answers are compared. What
pgdog refuses (0A000) is not run on the server either, so that both go on with the same rows. Temporary tables are made
permanent, since pgdog refuses them; each file has a schema of its own.

Differences are for people to read: row order where the query says none, and plans, sizes and OIDs differ of themselves.
Those that are known and have a reason are in README.md.
"""

import argparse
import concurrent.futures
import difflib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

from psycopg import pq

BIN = os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin")
DATABASE = "regression"
SHARDS = 3
# What needs a server of its own, a file system, or psql.
UNFIT = "tablespace event_trigger infinite_recurse subscription publication vacuum_parallel security_label psql psql_crosstab database advisory_lock async stats sanity_check oidjoins opr_sanity type_sanity misc_sanity maintain_every guc prepared_xacts"
KEYS = [("onek", "unique1"), ("onek2", "unique1"), ("tenk1", "unique1"), ("tenk2", "unique1"), ("int4_tbl", "f1"), ("int2_tbl", "f1"), ("int8_tbl", "q1")]
TEXT_KEYS = [("text_tbl", "f1"), ("varchar_tbl", "f1"), ("person", "name"), ("emp", "name"), ("student", "name"), ("road", "name")]
# Answers that depend on more than the rows.
LOOSE = re.compile(r"(?i)\b(explain|ctid|xmin|xmax|tableoid|oid|regclass|information_schema|tablesample|random|now|current_\w+|pg_\w+)\b")
# Of psql.
VARIABLE = re.compile(r":'[a-z_]+'|:\"[a-z_]+\"|:(abs_\w+|libdir|dlpath|dlsuffix)\b")
REFUSED = re.compile(r"across shards|refused by rewrite|sharding key", re.I)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_owner(command, **more):
    """Servers refuse to run as root."""
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    return subprocess.run([*prefix, *command], cwd="/", check=more.pop("check", True), capture_output=True, text=True, **more)


def give_to_owner(folder):
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")


class Server:
    """A throw-away cluster with the database that pg_regress would make."""

    def __init__(self, folder, name):
        self.data, self.port = f"{folder}/{name}", free_port()
        as_owner([f"{BIN}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync"])
        options = {"port": self.port, "unix_socket_directories": folder, "fsync": "off", "max_prepared_transactions": 10}
        options = " ".join(f"-c {key}={value}" for key, value in options.items())
        as_owner([f"{BIN}/pg_ctl", "-D", self.data, "-l", f"{self.data}.log", "-w", "-o", options, "start"])
        settings = [f"{name} TO 'C'" for name in ("lc_messages", "lc_monetary", "lc_numeric", "lc_time")]
        settings += ["bytea_output TO 'hex'", "timezone_abbreviations TO 'Default'"]
        self.psql("postgres", f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        for setting in settings:
            self.psql("postgres", f"ALTER DATABASE {DATABASE} SET {setting}")

    def psql(self, database, sql):
        subprocess.run([f"{BIN}/psql", "-Xq", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-c", sql, database], check=True)

    def stop(self):
        as_owner([f"{BIN}/pg_ctl", "-D", self.data, "-m", "immediate", "stop"], check=False)


class Pgdog:
    """In front of one server, or of shards."""

    def __init__(self, program, folder, servers, options):
        self.port = free_port()
        lines = ["[general]", 'host = "127.0.0.1"', f"port = {self.port}", 'auth_type = "trust"', f'pooler_mode = "{options.mode}"']
        lines += ["default_pool_size = 20", "checkout_timeout = 20000", "log_connections = false", "log_disconnections = false"]
        if len(servers) > 1:
            lines += ["[rewrite]", "enabled = true", 'shard_key = "rewrite"', 'split_inserts = "rewrite"']
            keys = [(f'name = "{table}"\n', column, "bigint") for table, column in KEYS]
            keys += [(f'name = "{table}"\n', column, "varchar") for table, column in TEXT_KEYS]
            keys += [("", options.column, "bigint")]
            for name, column, kind in keys:
                lines.append(f'[[sharded_tables]]\ndatabase = "{DATABASE}"\n{name}column = "{column}"\ndata_type = "{kind}"')
        for shard, server in enumerate(servers):
            lines.append(f'[[databases]]\nname = "{DATABASE}"\nhost = "127.0.0.1"\nport = {server.port}\nshard = {shard}')
        lines.append(f'[[databases]]\nname = "postgres"\nhost = "127.0.0.1"\nport = {servers[0].port}')
        with open(f"{folder}/pgdog.toml", "w") as file:
            file.write("\n".join(lines) + "\n")
        with open(f"{folder}/users.toml", "w") as file:
            file.write('[[users]]\nname = "postgres"\nall_databases = true\npassword = "postgres"\n')
        command = [program, "--config", f"{folder}/pgdog.toml", "--users", f"{folder}/users.toml"]
        self.log = open(f"{folder}/pgdog.log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    sys.exit(f"pgdog did not start:\n{open(self.log.name).read()[-2000:]}")
                time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def run_pg_regress(folder, name, server_port, options):
    out = f"{folder}/{name}"
    os.makedirs(out)
    give_to_owner(out)
    tests = f"{options.source}/src/test/regress"
    command = [f"{BIN}/../lib/pgxs/src/test/regress/pg_regress", f"--bindir={BIN}", f"--inputdir={tests}", f"--outputdir={out}"]
    command += [f"--dlpath={options.library}", "--use-existing", "--host=127.0.0.1", f"--port={server_port}", "--user=postgres"]
    command += ["--max-concurrent-tests=20", f"--schedule={tests}/parallel_schedule"]
    as_owner(command, check=False)
    return f"{out}/results"


def pooled(folder, options):
    results = []
    for name in ("direct", "pooled"):
        server = Server(folder, f"server-{name}")
        proxy = Pgdog(options.pgdog, folder, [server], options) if name == "pooled" else None
        try:
            results.append(run_pg_regress(folder, name, (proxy or server).port, options))
        finally:
            if proxy:
                proxy.stop()
            server.stop()
    differing = 0
    with open(options.report, "w") as report:
        for name in sorted(os.listdir(results[0])):
            both = [open(f"{result}/{name}", errors="replace").read().splitlines(True) for result in results]
            differences = list(difflib.unified_diff(*both, f"direct/{name}", f"pooled/{name}"))
            report.writelines(differences)
            differing += bool(differences)
    print(f"{len(os.listdir(results[0]))} files, {differing} with other output: {options.report}")


def without_comments(sql):
    return re.sub(r"--[^\n]*", "", re.sub(r"/\*.*?\*/", "", sql, flags=re.S)).strip()


TOKEN = re.compile(
    r"(?P<copied>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"
    r"|(?P<word>\w+)|(?P<meta>\\[^\n]*)|(?P<sign>[();])|(?P<other>.)",
    re.S,
)


def statements(text):
    """Statements of a script of psql, each with the data of its COPY, if it has any."""
    found, start, at, depth, atomic, last = [], 0, 0, 0, False, ""
    while match := TOKEN.match(text, at):
        at = match.end()
        word = (match["word"] or "").lower()
        if word:
            atomic = atomic and word != "end" or word == "atomic" and last == "begin"
            last = word
        depth += {"(": 1, ")": -1}.get(match["sign"], 0)
        if match["meta"]:
            sql = text[start : match.start()].strip()
            if re.match(r"\\g", match["meta"]) and without_comments(sql):
                found.append((sql, None))
            start, depth = at, 0
        elif match["sign"] == ";" and depth <= 0 and not atomic:
            sql, start, depth = text[start : match.start()].strip(), at, 0
            data = None
            if re.match(r"(?is)copy\b.*\bfrom\s+stdin", without_comments(sql)):
                end = re.compile(r"^\\\.$", re.M).search(text, at)
                if end:
                    data, start = text[text.find("\n", at) + 1 : end.start()], end.end()
                    at = start
            if without_comments(sql):
                found.append((sql, data))
    return found


def script(path, tests, library):
    """A test file without what is psql's own, and with data that would be a file of the server's."""
    files, lines = {}, []
    for line in open(path, encoding="utf8", errors="replace").read().split("\n"):
        if match := re.match(r"\\set (\w+) :abs_srcdir '(/data/[\w.]+)'", line):
            files[match[1]] = match[2]
        match = re.match(r"(?is)(copy\s+[\w() ,]+\s+from\s+):'(\w+)'(.*);\s*$", line)
        if match and match[2] in files:
            data = open(tests + files[match[2]], errors="replace").read().rstrip("\n").removesuffix("\\.").rstrip("\n")
            line = f"{match[1]}STDIN{match[3]};\n{data}\n\\."
        lines.append(line.replace(":'regresslib'", f"'{library}/regress.so'"))
    text = re.sub(r"(?i)\bcreate\s+(?:(?:local|global)\s+)?temp(?:orary)?\s+", "CREATE ", "\n".join(lines))
    return re.sub(r"(?i)CREATE TABLE (onek2|tenk2) AS SELECT \* FROM (\w+);", r"CREATE TABLE \1 (LIKE \2); INSERT INTO \1 SELECT * FROM \2;", text)


def connect(port):
    connection = pq.PGconn.connect(f"host=127.0.0.1 port={port} user=postgres dbname={DATABASE} sslmode=disable options='-c timezone=PST8PDT'".encode())
    if connection.status != pq.ConnStatus.OK:
        sys.exit(connection.error_message.decode())
    connection.notice_handler = lambda _: None
    return connection


def answers(connection, sql, data=None, extended=False):
    """What a text is answered: rows, data of COPY, tags, and an error with its SQLSTATE and message."""
    if extended:
        connection.send_query_params(sql.encode(), None)
    else:
        connection.send_query(sql.encode())
    found = []
    while result := connection.get_result():
        if result.status == pq.ExecStatus.TUPLES_OK:
            rows = [tuple(result.get_value(row, column) for column in range(result.nfields)) for row in range(result.ntuples)]
            found.append(("rows", tuple(result.fname(column) for column in range(result.nfields)), rows, result.command_status))
        elif result.status == pq.ExecStatus.COPY_IN:
            if data:
                connection.put_copy_data(data.encode())
            connection.put_copy_end(None if data is not None else b"no data")
        elif result.status == pq.ExecStatus.COPY_OUT:
            rows = []
            while (part := connection.get_copy_data(0))[0] >= 0:
                rows.append(bytes(part[1]))
            found.append(("copy", (), rows, b""))
        elif result.status == pq.ExecStatus.FATAL_ERROR:
            field = lambda which: (result.error_field(which) or b"").decode("utf8", "replace")
            found.append(("error", field(pq.DiagnosticField.SQLSTATE), field(pq.DiagnosticField.MESSAGE_PRIMARY)))
            if connection.status == pq.ConnStatus.BAD:
                break
        else:
            found.append(("tag", (result.command_status or b"").decode()))
    return found


def comparable(found, ordered):
    order = (lambda rows: rows) if ordered else (lambda rows: sorted(rows, key=repr))
    whole = {"error": lambda one: one[:2], "tag": lambda one: one}
    return [whole[one[0]](one) if one[0] in whole else (*one[:2], order(one[2]), one[3]) for one in found]


class Twins:
    """One file, on both."""

    def __init__(self, server, proxy, name, extended):
        self.ports, self.name, self.counts, self.report = (server.port, proxy.port), name, Counter(), []
        self.extended = extended
        self.one, self.many = (connect(port) for port in self.ports)
        if name != "test_setup":
            schema = f"x_{name.replace('.', '_')}"
            for sql in (f"CREATE SCHEMA {schema}", f"SET search_path = {schema}, public"):
                answers(self.one, sql), answers(self.many, sql)

    def note(self, what, sql, *found):
        self.counts[what] += 1
        self.report.append(f"## {self.name}: {what}: {sql[:1500]}\n" + "".join(f"   {str(one)[:700]}\n" for one in found))

    def step(self, sql, data):
        got = answers(self.many, sql, data, self.extended)
        if self.many.status == pq.ConnStatus.BAD:
            self.note("LOST", sql, got)
            self.many = connect(self.ports[1])
            return answers(self.one, "ROLLBACK")
        if any(one[0] == "error" and REFUSED.search(one[2]) for one in got):
            self.note("refused", without_comments(sql)[:300], got[-1])
            if self.one.transaction_status == pq.TransactionStatus.INTRANS:
                answers(self.one, "SELECT 1/0")
            return None
        want = answers(self.one, sql, data, self.extended)
        if self.one.status == pq.ConnStatus.BAD:
            sys.exit(f"the server has closed the connection at: {sql}")
        last_clause = re.search(r"(?is)\border\s+by\b(?!.*\))", sql)
        if comparable(got, False) != comparable(want, False):
            self.note("loose" if LOOSE.search(without_comments(sql)) else "DIFFERENT", sql, want, got)
        elif last_clause and comparable(got, True) != comparable(want, True):
            self.note("order", sql, want, got)
        else:
            self.counts["same"] += 1
        if self.one.transaction_status != self.many.transaction_status:
            self.note("STATE", sql, self.one.transaction_status, self.many.transaction_status)
            answers(self.one, "ROLLBACK"), answers(self.many, "ROLLBACK")
        return None

    def run(self, text):
        for sql, data in statements(text):
            if not VARIABLE.search(without_comments(sql)):
                self.step(sql, data)
        self.one.finish(), self.many.finish()


def sharded(folder, options):
    tests = f"{options.source}/src/test/regress"
    schedule = re.findall(r"(?m)^test: (.*)$", open(f"{tests}/parallel_schedule").read())
    names = [name for line in schedule for name in line.split() if name not in UNFIT.split()]
    names = ["test_setup", *(options.files or names[1:])]
    servers = []
    proxy = None
    counts, lock = Counter(), threading.Lock()
    report = open(options.report, "w")

    def one(name):
        twins = Twins(servers[0], proxy, name, options.extended)
        twins.run(script(f"{tests}/sql/{name}.sql", tests, options.library))
        with lock:
            counts.update(twins.counts)
            report.writelines(twins.report)
            report.flush()
            print(f"{name}: {dict(twins.counts)}", flush=True)

    try:
        for number in range(SHARDS + 1):
            servers.append(Server(folder, f"server-{number}"))
        proxy = Pgdog(options.pgdog, folder, servers[1:], options)
        one(names[0])
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(one, names[1:]))
    finally:
        if proxy:
            proxy.stop()
        for server in servers:
            server.stop()
        report.close()
    print(f"{dict(counts)}: {options.report}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pooled", "sharded"])
    parser.add_argument("files", nargs="*", help="of sharded: these test files only")
    parser.add_argument("--pgdog", required=True, help="our binary")
    parser.add_argument("--source", required=True, help="of PostgreSQL")
    parser.add_argument("--library", required=True, help="folder with regress.so")
    parser.add_argument("--mode", default="transaction", help="pooler_mode")
    parser.add_argument("--column", default="a", help="column that is the sharding key of every table that has it")
    parser.add_argument("--extended", action="store_true", help="of sharded: by the extended protocol")
    parser.add_argument("--report", default="/dev/stdout", help="where differences are written")
    options = parser.parse_intermixed_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # what was started is stopped
    folder = tempfile.mkdtemp(prefix="pgdog-regress-")
    os.chmod(folder, 0o755)
    give_to_owner(folder)
    try:
        {"pooled": pooled, "sharded": sharded}[options.what](folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
