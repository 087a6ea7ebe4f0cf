"""PostgreSQL clusters and pgdogs to throw away, for the testers that run as long as one wants."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

BIN = os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin")


def free_port() -> int:
    """Below those that outgoing connections take, which would be in the way of a restart."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def as_owner(*command: str, check: bool = True) -> None:
    """Servers refuse to run as root."""
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    subprocess.run([*prefix, *command], cwd="/", check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def place(name: str) -> Iterator[str]:
    """A folder that servers may write, gone at the end; SIGTERM is an end like others."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    folder = tempfile.mkdtemp(prefix=f"pgdog-{name}-")
    os.chmod(folder, 0o755)
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """A server; a replica of `source`, if there is one."""

    def __init__(self, folder: str, name: str, source: "Cluster | None" = None, **settings: Any):
        self.data, self.port = f"{folder}/{name}", free_port()
        self.settings = {"port": self.port, "unix_socket_directories": folder, "fsync": "off", "max_connections": 200, "max_prepared_transactions": 50, "shared_buffers": "64MB", "autovacuum": "off", **settings}
        if source:
            self.follow(source)
        else:
            as_owner(f"{BIN}/initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--locale=C", "-E", "UTF8", "--no-sync")
            self.start()

    def follow(self, source: "Cluster") -> None:
        """Becomes a replica, without what it may have had."""
        shutil.rmtree(self.data, ignore_errors=True)
        as_owner(f"{BIN}/pg_basebackup", "-D", self.data, "-d", f"host=127.0.0.1 port={source.port} user=postgres", "-X", "stream", "-R", "--checkpoint=fast", "--no-sync")
        self.start()

    def promote(self) -> None:
        as_owner(f"{BIN}/pg_ctl", "-D", self.data, "-w", "promote")

    def start(self) -> None:
        """Tried again, as processes of the one before may take a while to leave."""
        options = " ".join(f"-c {key}={value}" for key, value in self.settings.items())
        for left in reversed(range(20)):
            try:
                return as_owner(f"{BIN}/pg_ctl", "-D", self.data, "-l", f"{self.data}.log", "-w", "-o", options, "start")
            except subprocess.CalledProcessError:
                if not left:
                    raise
                time.sleep(0.3)

    def stop(self, mode: str = "immediate") -> None:
        as_owner(f"{BIN}/pg_ctl", "-D", self.data, "-m", mode, "-w", "stop", check=False)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True)

    def rows(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Of a query; of statements that answer none, nothing."""
        with self.connect(database) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


class Pgdog:
    """Its settings begin with those of `[general]`; the port and the administrator are added."""

    def __init__(self, folder: str, program: str, settings: str, users: str, **environment: str):
        self.folder, self.program, self.users, self.port = folder, os.path.abspath(program), users, free_port()
        self.environment = {**os.environ, **environment}
        self.configure(settings)
        self.start()

    def configure(self, settings: str) -> None:
        general = f'[general]\nhost = "127.0.0.1"\nport = {self.port}\nlog_connections = false\nlog_disconnections = false\n'
        for name, text in (("pgdog.toml", f'{general}{settings}\n[admin]\npassword = "secret"\n'), ("users.toml", self.users)):
            with open(f"{self.folder}/{name}.new", "w") as file:
                file.write(text)
            os.rename(f"{self.folder}/{name}.new", f"{self.folder}/{name}")

    def start(self) -> None:
        command = [self.program, "--config", f"{self.folder}/pgdog.toml", "--users", f"{self.folder}/users.toml"]
        with open(f"{self.folder}/pgdog.log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        deadline = time.monotonic() + 20
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"pgdog did not start:\n{self.log()[-2000:]}") from error
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Its exit code; negative if it had to be killed."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def admin(self, command: str) -> list[dict[str, Any]]:
        with psycopg.connect(host="127.0.0.1", port=self.port, user="admin", password="secret", dbname="admin", autocommit=True, row_factory=dict_row, connect_timeout=25) as connection:
            cursor = connection.execute(command)
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        return open(f"{self.folder}/pgdog.log", errors="replace").read()

    def memory_kilobytes(self) -> int:
        return next(int(line.split()[1]) for line in open(f"/proc/{self.process.pid}/status") if line.startswith("VmRSS"))
