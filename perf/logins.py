"""A storm of logins: SCRAM, one statement, goodbye, at a given rate, with how long each took.

    perf/logins.py HOST:PORT [--rate 2000] [--seconds 5] [--processes 4]

User, password and database are `bench`. Keys are derived once per salt, so that the load is the proxy's and not
ours. A process that falls behind its pace does not catch up: the line printed at the end says what was reached.

Source of the exchange: RFC 5802 and 7677, and "SASL Authentication" in PostgreSQL's documentation.
"""

import argparse
import base64
import hashlib
import hmac
import json
import multiprocessing
import os
import socket
import statistics
import struct
import time

USER = PASSWORD = DATABASE = b"bench"
STARTUP = struct.pack("!i", 196608) + b"user\0" + USER + b"\0database\0" + DATABASE + b"\0\0"
STARTUP = struct.pack("!i", len(STARTUP) + 4) + STARTUP
salted_passwords = {}


def sign(key, text):
    return hmac.digest(key, text, "sha256")


def message(tag, body):
    return tag + struct.pack("!i", len(body) + 4) + body


class Connection:
    """Just enough of the protocol."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""

    def read(self):
        """The next message: tag and body."""
        while True:
            if len(self.received) >= 5:
                end = 1 + struct.unpack_from("!i", self.received, 1)[0]
                if len(self.received) >= end:
                    tag, body = self.received[:1], self.received[5:end]
                    self.received = self.received[end:]
                    if tag == b"E":
                        raise ConnectionError(body.replace(b"\0", b" ").decode())
                    return tag, body
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed by the proxy")
            self.received += more

    def read_to(self, wanted):
        while True:
            tag, body = self.read()
            if tag == wanted:
                return body


def log_in(address):
    """Logs in, runs one statement, leaves. Seconds until the welcome."""
    begun = time.perf_counter()
    connection = Connection(address)
    connection.socket.sendall(STARTUP)
    connection.read_to(b"R")
    nonce = base64.b64encode(os.urandom(18))
    bare = b"n=,r=" + nonce
    first = b"n,," + bare
    connection.socket.sendall(message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first))
    server_first = connection.read_to(b"R")[4:]
    fields = dict(field.split(b"=", 1) for field in server_first.split(b","))
    salt, iterations = base64.b64decode(fields[b"s"]), int(fields[b"i"])
    salted = salted_passwords.get((salt, iterations))
    if salted is None:
        salted = salted_passwords[salt, iterations] = hashlib.pbkdf2_hmac("sha256", PASSWORD, salt, iterations)
    client_key = sign(salted, b"Client Key")
    unproven = b"c=biws,r=" + fields[b"r"]
    text = bare + b"," + server_first + b"," + unproven
    signature = sign(hashlib.sha256(client_key).digest(), text)
    proof = bytes(left ^ right for left, right in zip(client_key, signature))
    connection.socket.sendall(message(b"p", unproven + b",p=" + base64.b64encode(proof)))
    connection.read_to(b"Z")
    took = time.perf_counter() - begun
    connection.socket.sendall(message(b"Q", b"SELECT 1\0"))
    connection.read_to(b"Z")
    connection.socket.sendall(message(b"X", b""))
    connection.socket.close()
    return took


def storm(address, rate, seconds, yielding, results):
    if yielding:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    took, failed = [], 0
    begun = due = time.perf_counter()
    while due < begun + seconds:
        now = time.perf_counter()
        if now < due:
            time.sleep(due - now)
        due = max(due, now) + 1 / rate
        try:
            took.append(log_in(address))
        except OSError:
            failed += 1
    results.put((took, failed, time.perf_counter() - begun))


def run(host, port, rate, seconds, processes, yielding=False):
    """What came of it: logins a second, failures, and percentiles in microseconds. `yielding`: everybody else on this
    machine goes first, as if these clients were on another one."""
    results = multiprocessing.Queue()
    arguments = ((host, port), rate / processes, seconds, yielding, results)
    children = [multiprocessing.Process(target=storm, args=arguments) for _ in range(processes)]
    for child in children:
        child.start()
    parts = [results.get() for _ in children]
    for child in children:
        child.join()
    took = sorted(value for part in parts for value in part[0])
    at = lambda share: round(took[min(int(len(took) * share), len(took) - 1)] * 1e6) if took else None
    return {
        "logins_per_second": round(len(took) / statistics.mean(part[2] for part in parts), 1),
        "logins": len(took),
        "failed": sum(part[1] for part in parts),
        "p50_us": at(0.5),
        "p99_us": at(0.99),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    host, port = options.endpoint.rsplit(":", 1)
    print(json.dumps(run(host, int(port), options.rate, options.seconds, options.processes)))


if __name__ == "__main__":
    main()
