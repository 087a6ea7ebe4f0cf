"""Measures proxies side by side: every workload against every contender in turn, several rounds.

All contenders of a workload run at once and are used in turn, in short runs: the noise of a machine hits all alike,
and ratios are medians over pairs of neighbouring runs. The figure to trust on a small machine is the CPU time of the
proxy (utime + stime of its threads) per transaction, next to throughput and latency. PostgreSQL and pgbench run on the
same machine. Written to perf/results/NAME: host.txt, runs.csv (one line per run), summary.md (medians and ratios).
"""

import argparse
import csv
import datetime
import multiprocessing
import os
import pwd
import re
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import logins

HERE = os.path.dirname(os.path.abspath(__file__))
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SERVER_PORT = 15_800
FIRST_PROXY_PORT = 16_800
USER = PASSWORD = DATABASE = "bench"

SCRIPTS = {
    "one": "\\set n random(1, 100000)\nSELECT :n;\n",
    "point": "\\set n random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :n;\n",
    "transaction": "\\set n random(1, 100000)\nBEGIN;\nSELECT abalance FROM pgbench_accounts WHERE aid = :n;\n"
    "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :n;\nCOMMIT;\n",
    "rows": "SELECT g, repeat('x', 100) FROM generate_series(1, 10000) g;\n",
}

# name: script, protocol, clients, more arguments of pgbench, TLS
WORKLOADS = {
    "one-simple-1": ("one", "simple", 1, [], False),
    "one-simple-16": ("one", "simple", 16, [], False),
    "one-extended-16": ("one", "extended", 16, [], False),
    "one-prepared-16": ("one", "prepared", 16, [], False),
    "point-prepared-64": ("point", "prepared", 64, [], False),
    # Not prepared: pgbench prepares synchronously and blocks itself when clients outnumber servers.
    "transaction-extended-32": ("transaction", "extended", 32, [], False),
    "one-simple-500": ("one", "simple", 500, [], False),
    "rows-simple-4": ("rows", "simple", 4, [], False),
    "one-prepared-16-tls": ("one", "prepared", 16, [], True),
    "one-simple-8-reconnect": ("one", "simple", 8, ["-C"], False),
}
# Clients at work beside a storm of logins. Paced, so that the machine has room for both: clients that take all they get
# wait longer for anything that is added, whoever serves it.
PACED = ("one", "simple", 16, ["-R", "4000"], False)
IDLE = ["idle-5000", "idle-5000-tls"]
# Logins one after the other from four processes; and 2,000 of them a second beside clients at work.
LOGINS, STORM = "logins-4", "storm-2000"
MORE_WORKLOADS = [*IDLE, LOGINS, STORM]
COLUMNS = ["round", "workload", "contender", "tps", "p50_us", "p99_us", "cpu_us", "system_us", "busiest", "rss_kb", "bytes_per_client"]
COLUMNS += ["system_calls", "ring_entries", "switches", "calm_p99_us", "elsewhere_p99_us", "logins_per_second", "logins_failed", "error"]

# Options that host.txt records; paths say nothing elsewhere, and it has the versions.
RECORDED = ["contenders", "workloads", "rounds", "seconds", "pool", "workers", "count"]

# What `--count` counts per transaction: column, event of perf.
EVENTS = {
    "system_calls": "raw_syscalls:sys_enter",
    "ring_entries": "io_uring:io_uring_submit_req",
    "switches": "context-switches",
}


class Server:
    """A throw-away PostgreSQL cluster with pgbench's tables."""

    def __init__(self, folder, pg_bin):
        self.bin = pg_bin
        self.data = f"{folder}/data"
        self.demote = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self.demote = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.call("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync")
        with open(f"{self.data}/postgresql.conf", "a") as conf:
            conf.write(
                f"port = {SERVER_PORT}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{folder}'\n"
                "max_connections = 700\nshared_buffers = '512MB'\nfsync = off\nsynchronous_commit = off\n"
                "full_page_writes = off\nautovacuum = off\n"
            )
        write(f"{self.data}/pg_hba.conf", "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n")
        self.call("pg_ctl", "-D", self.data, "-w", "-l", f"{folder}/postgres.log", "start")
        admin = dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(SERVER_PORT), PGUSER="postgres")
        for sql in [f"CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'", f"CREATE DATABASE {DATABASE} OWNER {USER}"]:
            subprocess.run([f"{pg_bin}/psql", "-Xqc", sql, "postgres"], env=admin, check=True)
        subprocess.run([f"{pg_bin}/pgbench", "-iq", "-s", "1", DATABASE], env=admin, check=True, stderr=subprocess.DEVNULL)

    def call(self, program, *arguments):
        subprocess.run([f"{self.bin}/{program}", *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/", **self.demote)

    def stop(self):
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "stop")


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def logs_in(workload):
    """Whether logging in is what is measured. Elsewhere the proxies trust their clients: 500 logins would drown the rest."""
    return workload in MORE_WORKLOADS or workload.endswith("-reconnect")


def pgdog(binary, folder, port, pool, workers, tls, auth):
    lines = f'tls_certificate = "{tls[0]}"\ntls_private_key = "{tls[1]}"\n' if tls else ""
    write(
        f"{folder}/pgdog.toml",
        f'[general]\nhost = "127.0.0.1"\nport = {port}\nworkers = {workers}\ndefault_pool_size = {pool}\n'
        f'auth_type = "{auth}"\n'
        f"log_connections = false\nlog_disconnections = false\n{lines}"
        f'[[databases]]\nname = "{DATABASE}"\nhost = "127.0.0.1"\nport = {SERVER_PORT}\n',
    )
    write(f"{folder}/users.toml", f'[[users]]\nname = "{USER}"\npassword = "{PASSWORD}"\ndatabase = "{DATABASE}"\n')
    return [binary, "--config", f"{folder}/pgdog.toml", "--users", f"{folder}/users.toml"]


def pgbouncer(binary, folder, port, pool, tls, auth):
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, re.search(r"(\d+)\.(\d+)", version).groups())
    prepared = "max_prepared_statements = 500" if (major, minor) >= (1, 21) else ""
    lines = f"client_tls_sslmode = allow\nclient_tls_cert_file = {tls[0]}\nclient_tls_key_file = {tls[1]}" if tls else ""
    write(f"{folder}/users.txt", f'"{USER}" "{PASSWORD}"\n')
    write(
        f"{folder}/pgbouncer.ini",
        f"[databases]\n{DATABASE} = host=127.0.0.1 port={SERVER_PORT} dbname={DATABASE}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = {auth}\n"
        f"auth_file = {folder}/users.txt\npool_mode = transaction\nmax_client_conn = 20000\n"
        f"default_pool_size = {pool}\nlog_connections = 0\nlog_disconnections = 0\n{prepared}\n{lines}\n",
    )
    user = ["-u", "postgres"] if os.getuid() == 0 else []
    return [binary, *user, f"{folder}/pgbouncer.ini"]


def two_pgbouncers(binary, folder, port, pool, tls, auth):
    """Two processes behind one port, as PgBouncer uses two CPUs: each with half of the pool."""
    command = pgbouncer(binary, folder, port, pool // 2, tls, auth)
    with open(command[-1], "a") as more:
        more.write("so_reuseport = 1\n")
    both = shlex.join(command)
    return ["bash", "-c", f"trap 'kill $(jobs -p)' TERM; {both} & {both} & wait"]


def haproxy(binary, folder, port, workers):
    write(
        f"{folder}/haproxy.cfg",
        f"global\n  maxconn 9000\n  nbthread {workers}\ndefaults\n  mode tcp\n  timeout connect 5s\n"
        f"  timeout client 10m\n  timeout server 10m\nlisten pg\n  bind 127.0.0.1:{port}\n"
        f"  server s1 127.0.0.1:{SERVER_PORT}\n",
    )
    return [binary, "-f", f"{folder}/haproxy.cfg", "-db"]


class Endpoint:
    """Something that runs already: `name=host:port`, or `name=host:port,pid` to count its CPU time, too."""

    def __init__(self, text):
        fields = re.fullmatch(r"([^=]+)=(.+):(\d+)(?:,(\d+))?", text)
        if not fields:
            raise SystemExit(f"not an endpoint: {text} (expected name=host:port or name=host:port,pid)")
        self.name, self.host, self.port = fields[1], fields[2], int(fields[3])
        self.pid = int(fields[4]) if fields[4] else None


class Proxy:
    """A running contender; `direct` is PostgreSQL itself."""

    def __init__(self, name, options, folder, workload, tls):
        self.name, self.process, self.host, self.port, self.pid = name, None, "127.0.0.1", SERVER_PORT, None
        if name == "direct":
            return
        endpoint = options.endpoints.get(name)
        if endpoint:
            self.host, self.port, self.pid = endpoint.host, endpoint.port, endpoint.pid
            return
        self.port = FIRST_PROXY_PORT + options.contenders.index(name)
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)
        if name == "haproxy":
            command = haproxy(options.haproxy, folder, self.port, options.workers)
        elif name == "pgbouncer":
            auth = "scram-sha-256" if logs_in(workload) else "trust"
            command = pgbouncer(options.pgbouncer, folder, self.port, options.pool, tls, auth)
        elif name == "pgbouncer-2":
            auth = "scram-sha-256" if logs_in(workload) else "trust"
            command = two_pgbouncers(options.pgbouncer, folder, self.port, options.pool, tls, auth)
        else:
            workers = 1 if name == "pgdog-1" else options.workers
            auth = "scram" if logs_in(workload) else "trust"
            command = pgdog(options.builds.get(name, options.pgdog), folder, self.port, options.pool, workers, tls, auth)
        self.log = f"{folder}/log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        self.pid = self.process.pid
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise SystemExit(f"{name} did not start: {open(self.log).read()[-2000:]}")
                time.sleep(0.02)

    def threads(self):
        """CPU seconds of each thread: all, and those in the kernel."""
        seconds = {}
        for pid in self.pids():
            for thread in os.listdir(f"/proc/{pid}/task"):
                fields = open(f"/proc/{pid}/task/{thread}/stat").read().rsplit(")", 1)[1].split()
                user, system = int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND
                seconds[thread] = (user + system, system)
        return seconds

    def pids(self):
        """The process and its children: HAProxy may have some."""
        if self.pid is None:
            return []
        children = open(f"/proc/{self.pid}/task/{self.pid}/children").read().split()
        return [self.pid, *map(int, children)]

    def rss_kb(self):
        status = [open(f"/proc/{pid}/status").read() for pid in self.pids()]
        return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in status)

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Watch:
    """perf, beside a run: counts events, or takes samples for flame graphs."""

    def __init__(self, proxy, options):
        self.process, pids = None, ",".join(map(str, proxy.pids()))
        if not pids or not (options.count or options.record):
            return
        if options.record:
            command = ["perf", "record", "-q", "-F", "997", "--call-graph", "fp", "-o", options.record, "-p", pids]
        else:
            command = ["perf", "stat", "-x", ";", "-e", ",".join(EVENTS.values()), "-p", pids]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.5)  # until it has attached: it does not say when

    def counts(self, transactions):
        """Events per transaction."""
        if self.process is None:
            return {}
        self.process.send_signal(signal.SIGINT)
        text = self.process.communicate()[1]
        lines = [line.split(";") for line in text.splitlines() if ";" in line]
        values = {fields[2]: fields[0] for fields in lines}
        return {column: int(values[event]) / transactions for column, event in EVENTS.items() if values.get(event, "").isdigit()}


def pgbench(proxy, load, seconds, options, folder):
    script, protocol, clients, more, tls = load
    write(f"{folder}/script.sql", SCRIPTS[script])
    logs = tempfile.mkdtemp(dir=folder)
    environment = dict(os.environ, PGHOST=proxy.host, PGPORT=str(proxy.port), PGUSER=USER, PGPASSWORD=PASSWORD)
    environment["PGSSLMODE"] = "require" if tls else "disable"
    threads = "1" if clients < 8 else "2"
    seconds += clients // 100  # connecting counts for pgbench
    command = [f"{options.pg_bin}/pgbench", "-n", "-f", f"{folder}/script.sql", "-M", protocol, "-c", str(clients)]
    command += ["-j", threads, "-T", str(seconds), "-l", "--log-prefix", f"{logs}/log", *more, DATABASE]
    before, watch = proxy.threads(), Watch(proxy, options)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        watch.counts(1)
        return {"error": "timeout"}
    after = proxy.threads()
    latencies = sorted(int(line.split()[2]) for name in os.listdir(logs) for line in open(f"{logs}/{name}"))
    shutil.rmtree(logs)
    tps = re.search(r"tps = ([\d.]+)", done.stdout)
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    counts = watch.counts(max(len(latencies), 1))
    if done.returncode != 0 or not tps or not latencies or int(failed[1]) > 0:
        return {"error": (done.stderr.strip().splitlines() or ["no transactions"])[-1][:200]}
    result = {"tps": float(tps[1]), "p50_us": latencies[len(latencies) // 2], "p99_us": latencies[len(latencies) * 99 // 100], **counts}
    used = sorted(seconds[0] - before.get(thread, (0, 0))[0] for thread, seconds in after.items())
    if used:
        result["cpu_us"] = sum(used) * 1e6 / len(latencies)
        system = sum(seconds[1] - before.get(thread, (0, 0))[1] for thread, seconds in after.items())
        result["system_us"] = system * 1e6 / len(latencies)
        result["rss_kb"] = proxy.rss_kb()
        # Threads that did a hundredth of the work or less are not the ones that serve.
        serving = [value for value in used if value > sum(used) / 100]
        result["busiest"] = max(serving) / statistics.mean(serving) if serving else 1.0
    return result


def idle(proxy, tls):
    """Memory per logged-in client that does nothing."""
    import psycopg2

    parameters = f"host={proxy.host} port={proxy.port} user={USER} password={PASSWORD} dbname={DATABASE} sslmode={'require' if tls else 'disable'}"
    psycopg2.connect(parameters).close()
    before_kb = proxy.rss_kb()
    clients = []
    try:
        for _ in range(5_000):
            clients.append(psycopg2.connect(parameters))
        time.sleep(2)
        after_kb = proxy.rss_kb()
    except psycopg2.OperationalError as error:
        return {"error": f"after {len(clients)} clients: {str(error).strip()[:150]}"}
    finally:
        for client in clients:
            client.close()
    return {"rss_kb": after_kb, "bytes_per_client": (after_kb - before_kb) * 1024 / 5_000}


def login_cost(proxy, seconds):
    """CPU time of a login: nothing else goes on."""
    before = proxy.threads()
    done = logins.run(proxy.host, proxy.port, 1e6, seconds, 4)
    used = [seconds[0] - before.get(thread, (0, 0))[0] for thread, seconds in proxy.threads().items()]
    cpu = {"cpu_us": sum(used) * 1e6 / max(done["logins"], 1)} if used else {}
    return {"tps": done["logins_per_second"], "p50_us": done["p50_us"], "p99_us": done["p99_us"], **cpu}


def beside_logins(proxy, target, seconds, options, folder):
    """Clients at work at one proxy, beside a storm of logins at another one or the same."""
    queue = multiprocessing.Queue()
    rage = lambda: queue.put(logins.run(target.host, target.port, 2000, seconds + 1, 8, yielding=True))
    process = multiprocessing.Process(target=rage)
    process.start()
    time.sleep(0.5)
    stormy = pgbench(proxy, PACED, seconds, options, folder)
    process.join()
    return stormy, queue.get()


def storm(proxy, other, seconds, options, folder):
    """What a storm of logins does to clients that are at work: their p99 without it, with it, and with it at another
    proxy of the machine, if there is one, which only takes the CPUs."""
    calm = pgbench(proxy, PACED, seconds, options, folder)
    elsewhere = beside_logins(proxy, other, seconds, options, folder)[0] if other else {}
    stormy, done = beside_logins(proxy, proxy, seconds, options, folder)
    if "error" in stormy:
        return stormy
    counted = {"logins_per_second": done["logins_per_second"], "logins_failed": done["failed"]}
    return {**stormy, "calm_p99_us": calm.get("p99_us"), "elsewhere_p99_us": elsewhere.get("p99_us"), **counted}


def applies(workload, contender):
    """HAProxy and PostgreSQL itself have a server connection per client and no TLS here."""
    if contender not in ("direct", "haproxy"):
        return True
    return workload not in IDLE and not workload.endswith("-tls")


def self_signed(folder):
    certificate, key = f"{folder}/cert.pem", f"{folder}/key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    os.chmod(key, 0o644)
    return certificate, key


def summary(rows, options):
    """Medians per workload and contender, with ratios of pgdog to the others."""
    columns = ["workload", "contender", "tps", "p50 µs", "p99 µs", "CPU µs/transaction", "of it in the kernel", "busiest core", "RSS MB", "pgdog's CPU against it"]
    counted = [column for column in EVENTS if any(column in row for row in rows)]
    columns += [f"{column.replace('_', ' ')}/transaction" for column in counted]
    lines = ["|" + "|".join(columns) + "|", "|-" * len(columns) + "|"]
    for workload in options.workloads:
        for contender in options.contenders:
            runs = [row for row in rows if row["workload"] == workload and row["contender"] == contender]
            if not runs:
                continue

            def median(column, of=contender):
                values = [row[column] for row in rows if row["workload"] == workload and row["contender"] == of and column in row]
                return statistics.median(values) if values else None

            def paired(column):
                """Of pgdog to this contender, round by round: what drifts meanwhile hits both."""
                value = {(row["contender"], row["round"]): row[column] for row in rows if row["workload"] == workload and column in row}
                pairs = [(value.get(("pgdog", row["round"])), row.get(column)) for row in runs]
                return [ours / theirs for ours, theirs in pairs if ours and theirs]

            errors = [row["error"] for row in runs if "error" in row]
            if errors and median("tps") is None and median("rss_kb") is None:
                lines.append(f"|{workload}|{contender}|{errors[0]}||||||||")
                continue
            show = lambda column, digits=0, scale=1: "" if median(column) is None else f"{median(column) / scale:.{digits}f}"
            ratios = paired("cpu_us")
            ratio = f"{statistics.median(ratios):.2f}" if ratios and contender != "pgdog" else ""
            if median("calm_p99_us") is not None:
                counts = f" (p99 without logins {show('calm_p99_us')}, logins elsewhere {show('elsewhere_p99_us')}, {show('logins_per_second')} logins/s)"
            else:
                counts = ""
            per_client = f" ({show('bytes_per_client')} B per client)" if median("bytes_per_client") is not None else ""
            lines.append(
                f"|{workload}|{contender}{counts}|{show('tps')}|{show('p50_us')}|{show('p99_us')}|{show('cpu_us', 1)}|{show('system_us', 1)}"
                f"|{show('busiest', 2)}|{show('rss_kb', 1, 1024)}{per_client}|{ratio}|" + "".join(f"{show(column, 2)}|" for column in counted)
            )
    return "\n".join(lines) + "\n"


def parse_options():
    names = [*WORKLOADS, *MORE_WORKLOADS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pgdog", required=True, help="our binary")
    parser.add_argument("--pgbouncer", default=os.environ.get("PGBOUNCER", "/usr/sbin/pgbouncer"))
    parser.add_argument("--haproxy", default="/usr/sbin/haproxy")
    parser.add_argument("--pg-bin", default=os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin"))
    parser.add_argument("--contenders", default="direct,haproxy,pgbouncer,pgdog,pgdog-1", help="pgdog-1 is pgdog on one core, pgbouncer-2 two processes of PgBouncer on one port")
    parser.add_argument("--workloads", default=",".join(names), help=f"default: all of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each run")
    parser.add_argument("--pool", type=int, default=20, help="server connections")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="cores for pgdog and HAProxy")
    parser.add_argument("--count", action="store_true", help="count system calls, ring entries and switches (needs perf; slows all)")
    parser.add_argument("--record", metavar="FILE", help="take samples of pgdog with perf: see flame.sh")
    parser.add_argument("--endpoint", action="append", default=[], metavar="NAME=HOST:PORT[,PID]", help="a contender that runs already; knows user, password and database `bench`, with tables of `pgbench -i`")
    parser.add_argument("--build", action="append", default=[], metavar="NAME=PROGRAM", help="another build of pgdog as a contender")
    parser.add_argument("--name", default=f"{datetime.date.today()}", help="folder under perf/results")
    options = parser.parse_args()
    options.endpoints = {endpoint.name: endpoint for endpoint in map(Endpoint, options.endpoint)}
    options.builds = dict(build.split("=", 1) for build in options.build)
    options.contenders = [*options.contenders.split(","), *options.builds, *options.endpoints]
    options.workloads = options.workloads.split(",")
    unknown = [name for name in options.workloads if name not in names]
    if unknown:
        parser.error(f"unknown workload: {', '.join(unknown)}")
    options.pgdog = os.path.abspath(options.pgdog)
    return options


def measure(proxy, other, workload, options, folder):
    if workload in IDLE:
        return idle(proxy, workload.endswith("-tls"))
    if workload == LOGINS:
        return login_cost(proxy, options.seconds)
    if workload == STORM:
        return storm(proxy, other, options.seconds, options, folder)
    return pgbench(proxy, WORKLOADS[workload], options.seconds, options, folder)


def main():
    options = parse_options()
    # What was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = f"{HERE}/results/{options.name}"
    os.makedirs(results, exist_ok=True)
    host = subprocess.run([f"{HERE}/host.sh"], capture_output=True, text=True, check=True).stdout
    write(f"{results}/host.txt", f"{host}\nsettings\n" + "".join(f"  {key}: {value}\n" for key, value in vars(options).items() if key in RECORDED))
    folder = tempfile.mkdtemp(prefix="pgdog-perf-")
    os.chmod(folder, 0o755)
    rows = []
    server = Server(folder, options.pg_bin)
    try:
        tls = self_signed(folder)
        with open(f"{results}/runs.csv", "w", newline="") as file:
            out = csv.DictWriter(file, COLUMNS)
            out.writeheader()
            for workload in options.workloads:
                contenders = [name for name in options.contenders if applies(workload, name)]
                offered = tls if workload.endswith("-tls") else None
                proxies = []
                try:
                    for name in contenders:
                        proxies.append(Proxy(name, options, f"{folder}/{name}", workload, offered))
                    for number in range(1, options.rounds + 1):
                        for at, proxy in enumerate(proxies):
                            if workload in IDLE and number > 1:  # memory is not given back: a fresh process each time
                                proxy.stop()
                                proxies[at] = proxy = Proxy(proxy.name, options, f"{folder}/{proxy.name}", workload, offered)
                            other = proxies[(at + 1) % len(proxies)] if len(proxies) > 1 else None
                            result = measure(proxy, other, workload, options, folder)
                            row = {"round": number, "workload": workload, "contender": proxy.name, **result}
                            rows.append(row)
                            out.writerow({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()})
                            file.flush()
                            print(" ".join(f"{key}={value:.1f}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()), file=sys.stderr)
                finally:
                    for proxy in proxies:
                        proxy.stop()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    table = summary(rows, options)
    write(f"{results}/summary.md", table)
    print(table)


if __name__ == "__main__":
    main()
