#!/usr/bin/env python3
"""Records the exchanges of this folder against a real PostgreSQL.

    record.py PORT     a throw-away server on 127.0.0.1, superuser postgres, trust,
                       user scram with password 'pencil' and method scram-sha-256

One line per message, tab-separated: direction, length, name and fields as libpq's PQtrace writes them
(without suppressing anything), then the bytes in hexadecimal. F is from the client, B from the server.
"""

import os
import socket
import struct
import subprocess
import sys
import threading

PORT = int(sys.argv[1])
FOLDER = os.path.dirname(os.path.abspath(__file__))


# --- reading messages, independently of the Rust code ---


class Fields:
    def __init__(self, body):
        self.body, self.at, self.out = body, 0, []

    def take(self, count):
        piece = self.body[self.at : self.at + count]
        assert len(piece) == count
        self.at += count
        return piece

    def number(self, form):
        (n,) = struct.unpack(">" + form, self.take(struct.calcsize(form)))
        self.out.append(str(n))
        return n

    def char(self):
        byte = self.take(1)[0]
        self.out.append(chr(byte) if 32 < byte < 127 else "\\x%02x" % byte)
        return byte

    def string(self):
        end = self.body.index(b"\0", self.at)
        text = self.take(end - self.at)
        self.at += 1
        self.out.append('"%s"' % escape(text))
        return text

    def rest(self):
        self.out.append("'%s'" % escape(self.take(len(self.body) - self.at)))

    def value(self):
        length = self.number("i")
        if length >= 0:
            self.out.append("'%s'" % escape(self.take(length)))

    def many(self, form):
        for _ in range(self.number("h")):
            self.number(form)


def escape(text):
    return "".join(chr(b) if 32 <= b < 127 and b != 92 else "\\x%02x" % b for b in text)


def columns(f):
    for _ in range(f.number("h")):
        f.string()
        for form in "ihihih":
            f.number(form)


def row(f):
    for _ in range(f.number("h")):
        f.value()


def report(f):
    while f.char():
        f.string()


def bind(f):
    f.string(), f.string(), f.many("h"), row(f), f.many("h")


def call(f):
    f.number("i"), f.many("h"), row(f), f.number("h")


def key(f):
    f.number("i"), f.rest()


def copy(f):
    f.number("b"), f.many("h")


def nothing(f):
    pass


AUTHENTICATION = {
    0: ("AuthenticationOk", nothing),
    10: ("AuthenticationSASL", lambda f: [f.string() for _ in iter(lambda: f.body[f.at], 0)] and f.take(1)),
    11: ("AuthenticationSASLContinue", Fields.rest),
    12: ("AuthenticationSASLFinal", Fields.rest),
}

BACKEND = {
    "1": ("ParseComplete", nothing),
    "2": ("BindComplete", nothing),
    "3": ("CloseComplete", nothing),
    "A": ("NotificationResponse", lambda f: (f.number("i"), f.string(), f.string())),
    "C": ("CommandComplete", Fields.string),
    "D": ("DataRow", row),
    "E": ("ErrorResponse", report),
    "G": ("CopyInResponse", copy),
    "H": ("CopyOutResponse", copy),
    "I": ("EmptyQueryResponse", nothing),
    "K": ("BackendKeyData", key),
    "N": ("NoticeResponse", report),
    "S": ("ParameterStatus", lambda f: (f.string(), f.string())),
    "T": ("RowDescription", columns),
    "V": ("FunctionCallResponse", Fields.value),
    "Z": ("ReadyForQuery", Fields.char),
    "c": ("CopyDone", nothing),
    "d": ("CopyData", Fields.rest),
    "n": ("NoData", nothing),
    "s": ("PortalSuspended", nothing),
    "t": ("ParameterDescription", lambda f: f.many("I")),
    "v": ("NegotiateProtocolVersion", lambda f: (f.number("i"), [f.string() for _ in range(f.number("i"))])),
}

FRONTEND = {
    "B": ("Bind", bind),
    "C": ("Close", lambda f: (f.char(), f.string())),
    "D": ("Describe", lambda f: (f.char(), f.string())),
    "E": ("Execute", lambda f: (f.string(), f.number("i"))),
    "F": ("FunctionCall", call),
    "H": ("Flush", nothing),
    "P": ("Parse", lambda f: (f.string(), f.string(), f.many("I"))),
    "Q": ("Query", Fields.string),
    "S": ("Sync", nothing),
    "X": ("Terminate", nothing),
    "c": ("CopyDone", nothing),
    "d": ("CopyData", Fields.rest),
    "f": ("CopyFail", Fields.string),
}


class Recording:
    """Lines of one connection, complete messages in the order in which they were seen."""

    def __init__(self):
        self.lines, self.buffers = [], {"F": b"", "B": b""}
        self.started = self.encryption_asked = self.mechanism_sent = False
        self.lock = threading.Lock()

    def feed(self, direction, data):
        with self.lock:
            self.buffers[direction] += data
            while self.next(direction):
                pass

    def next(self, direction):
        data = self.buffers[direction]
        if direction == "B" and self.encryption_asked:
            self.encryption_asked = False
            return self.line("B", 1, 1, "EncryptionResponse", Fields(data[:1]), Fields.char)
        tagged = direction == "B" or self.started
        if len(data) < 4 + tagged:
            return False
        (length,) = struct.unpack(">i", data[tagged : 4 + tagged])
        size = length + tagged
        if len(data) < size:
            return False
        fields = Fields(data[4 + tagged : size])
        tag = chr(data[0])
        if not tagged:
            (code,) = struct.unpack(">i", fields.take(4))
            if code == 80877103:
                self.encryption_asked = True
                name, read = "SSLRequest", nothing
            else:
                self.started = True
                fields.out += [str(code >> 16), str(code & 65535)]
                name, read = "StartupMessage", lambda f: [f.string() for _ in iter(lambda: f.body[f.at], 0)] and f.take(1)
        elif direction == "F" and tag == "p":
            if self.mechanism_sent:
                name, read = "SASLResponse", Fields.rest
            else:
                name, read = "SASLInitialResponse", lambda f: (f.string(), f.value())
            self.mechanism_sent = True
        elif direction == "B" and tag == "R":
            (code,) = struct.unpack(">i", fields.take(4))
            name, read = AUTHENTICATION[code]
        else:
            name, read = (FRONTEND if direction == "F" else BACKEND)[tag]
        return self.line(direction, size, length, name, fields, read)

    def line(self, direction, size, length, name, fields, read):
        read(fields)
        assert fields.at == len(fields.body), (name, fields.body)
        raw, self.buffers[direction] = self.buffers[direction][:size], self.buffers[direction][size:]
        self.lines.append("\t".join([direction, str(length), name, " ".join(fields.out), raw.hex()]))
        return True


def relay(recording):
    """A proxy for one connection. Returns its port and its thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        client, _ = listener.accept()
        listener.close()
        server = socket.create_connection(("127.0.0.1", PORT))

        def pump(direction, source, sink):
            while data := source.recv(65536):
                recording.feed(direction, data)
                sink.sendall(data)
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        back = threading.Thread(target=pump, args=("B", server, client))
        back.start()
        pump("F", client, server)
        back.join()

    thread = threading.Thread(target=run)
    thread.start()
    return listener.getsockname()[1], thread


def save(name, recording):
    assert not any(recording.buffers.values()), recording.buffers
    with open(os.path.join(FOLDER, name + ".txt"), "w") as file:
        file.write("\n".join(recording.lines) + "\n")


def psql(name, conninfo, script):
    """What libpq itself sends and gets."""
    recording = Recording()
    port, thread = relay(recording)
    environment = {**os.environ, "PGCLIENTENCODING": "UTF8"}
    command = ["psql", "-X", "-q", "host=127.0.0.1 port=%d dbname=postgres %s" % (port, conninfo)]
    subprocess.run(command, input=script.encode(), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    thread.join()
    save(name, recording)


def text(string):
    return string.encode() + b"\0"


def message(tag, body=b""):
    return tag.encode() + struct.pack(">i", len(body) + 4) + body


def parse(name, query, *types):
    return message("P", text(name) + text(query) + struct.pack(">h%dI" % len(types), len(types), *types))


def bound(portal, name, *values):
    packed = b"".join(struct.pack(">i", -1) if v is None else struct.pack(">i", len(v)) + v for v in values)
    return message("B", text(portal) + text(name) + struct.pack(">hh", 0, len(values)) + packed + b"\0\0")


def execute(portal="", rows=0):
    return message("E", text(portal) + struct.pack(">i", rows))


SYNC, FLUSH = message("S"), message("H")


def raw(name, batches, version=(3, 0), options=()):
    """Messages by hand, for what psql does not send. Each batch waits for the replies of the last."""
    recording = Recording()
    port, thread = relay(recording)
    pairs = ("user", "postgres", "database", "postgres", "client_encoding", "UTF8", *options)
    body = struct.pack(">HH", *version) + b"".join(map(text, pairs)) + b"\0"
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.settimeout(0.5)
        for batch in [struct.pack(">i", len(body) + 4) + body, *batches, message("X")]:
            server.sendall(batch)
            try:
                while server.recv(65536):
                    pass
            except TimeoutError:
                pass
    thread.join()
    save(name, recording)


psql("startup_scram", "user=scram password=pencil sslmode=prefer", "SELECT 1;")
psql("startup_wrong_password", "user=scram password=pen sslmode=disable", "")
psql(
    "simple_query",
    "user=postgres sslmode=disable",
    """SELECT 1 AS one, NULL AS nothing, 'Z\u00fcrich' AS town;
       SELECT generate_series(1, 3);
       SELECT 1/0;
       BEGIN; SELECT oops; SELECT 1; ROLLBACK;
       SET TimeZone TO 'Europe/Berlin';""",
)
psql(
    "multi_statement",
    "user=postgres sslmode=disable",
    """SELECT 1\\; CREATE TEMP TABLE t (a int)\\; INSERT INTO t VALUES (1), (2)\\; SELECT 2;
       SELECT 1\\; SELECT 1/0\\; SELECT 3;""",
)
psql(
    "notices",
    "user=postgres sslmode=disable",
    """ROLLBACK;
       DO $$ BEGIN RAISE NOTICE 'hello' USING HINT = 'wave', DETAIL = 'politely'; RAISE WARNING 'bye'; END $$;
       LISTEN news; NOTIFY news, 'extra';""",
)
psql(
    "copy",
    "user=postgres sslmode=disable",
    """CREATE TEMP TABLE t (a int, b text);
       COPY t FROM STDIN;\n1\tone\n2\t\\N\n\\.
       COPY t TO STDOUT;
       COPY t TO STDOUT (FORMAT binary);
       COPY t FROM STDIN;\nx\tone\n\\.
       SELECT count(*) FROM t;""",
)
raw("copy_fail", [message("Q", text("CREATE TEMP TABLE t (a int); COPY t FROM STDIN")), message("d", b"1\n") + message("f", text("changed my mind"))])
raw(
    "pipeline_error",
    [
        parse("s", "SELECT $1::int", 23)
        + message("D", text("Ss"))
        + bound("", "s", b"1") + message("D", text("P")) + execute()
        + parse("", "SELECT 1/$1") + bound("", "", b"0") + execute()
        + bound("", "s", b"2") + execute()
        + SYNC
        + bound("", "s", None) + execute()
        + SYNC
    ],
)
raw(
    "portal_suspended",
    [
        message("Q", text("BEGIN")),
        parse("", "SELECT generate_series(1, 3)") + bound("p", "") + execute("p", 2) + FLUSH,
        execute("p", 2) + message("C", text("Pp")) + parse("", "COMMIT") + bound("", "") + message("D", text("P")) + execute() + SYNC,
        parse("", "") + bound("", "") + execute() + SYNC,
    ],
)
# int4pl(2, 3), arguments and result in binary
raw("function_call", [message("F", struct.pack(">I hh h i4s i4s h", 177, 1, 1, 2, 4, b"\0\0\0\2", 4, b"\0\0\0\3", 1))])
raw("negotiate_version", [message("Q", text(";"))], version=(3, 9999), options=("_pq_.unknown", "on"))
