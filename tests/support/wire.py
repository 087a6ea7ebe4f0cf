"""The protocol's messages, and a connection that shows each: what drivers hide is what is tested."""

import socket
import ssl
import struct
from collections.abc import Iterable, Sequence

Message = tuple[bytes, bytes]
Value = bytes | str | None

TLS = ssl.create_default_context()
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


class ServerError(Exception):
    def __init__(self, fields: dict[str, str]):
        self.code, self.text = fields.get("C", ""), fields.get("M", "")
        super().__init__(f"{fields.get('S')} {self.code} {self.text}")


class Gone(Exception):
    """The other side has closed the connection."""


class Hang(Exception):
    """No answer in time."""


def message(tag: bytes, body: bytes = b"") -> bytes:
    return tag + struct.pack("!I", len(body) + 4) + body


def text(word: str) -> bytes:
    return word.encode() + b"\0"


def query(sql: str) -> bytes:
    return message(b"Q", text(sql))


def parse(name: str, sql: str, types: Sequence[int] = ()) -> bytes:
    return message(b"P", text(name) + text(sql) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(portal: str, statement: str, values: Sequence[Value] = (), formats: Sequence[int] = (), result: int | Sequence[int] = 0) -> bytes:
    """`result`: the format of all columns, or of each."""
    body = text(portal) + text(statement) + struct.pack(f"!H{len(formats)}H", len(formats), *formats) + struct.pack("!H", len(values))
    for value in values:
        value = value.encode() if isinstance(value, str) else value
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    results = [result] if isinstance(result, int) else result
    return message(b"B", body + struct.pack(f"!H{len(results)}H", len(results), *results))


def execute(portal: str = "", rows_max: int = 0) -> bytes:
    return message(b"E", text(portal) + struct.pack("!I", rows_max))


def describe(kind: bytes, name: str) -> bytes:
    return message(b"D", kind + text(name))


def close(kind: bytes, name: str) -> bytes:
    return message(b"C", kind + text(name))


def once(sql: str, *values: Value) -> bytes:
    """An unnamed statement, without Sync."""
    return parse("", sql) + bind("", "", values) + execute()


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


SYNC, FLUSH, TERMINATE, COPY_DONE = message(b"S"), message(b"H"), message(b"X"), message(b"c")


def fields(body: bytes) -> dict[str, str]:
    return {chr(field[0]): field[1:].decode(errors="replace") for field in body.split(b"\0") if field}


def row(body: bytes) -> tuple[bytes | None, ...]:
    at, found = 2, []
    for _ in range(*struct.unpack("!H", body[:2])):
        (length,) = struct.unpack("!i", body[at : at + 4])
        found.append(None if length < 0 else body[at + 4 : at + 4 + length])
        at += 4 + max(length, 0)
    return tuple(found)


def columns(body: bytes) -> tuple[tuple[str, int, int, int, int], ...]:
    """Name, type, its size and modifier, and format. Where a column comes from depends on the database."""
    at, found = 2, []
    for _ in range(*struct.unpack("!H", body[:2])):
        end = body.index(b"\0", at)
        found.append((body[at:end].decode(), *struct.unpack("!6xIhih", body[end + 1 : end + 19])))
        at = end + 19
    return tuple(found)


def rows(messages: Iterable[Message]) -> list[list[str | None]]:
    return [[None if value is None else value.decode() for value in row(body)] for tag, body in messages if tag == b"D"]


def tags(messages: Iterable[Message]) -> str:
    return b"".join(tag for tag, _ in messages).decode()


class Connection:
    """Without a password. Notices are passed over, settings that the server tells too."""

    def __init__(self, port: int, database: str, user: str, tls: bool = False, timeout: float = 25, settings: dict[str, str] | None = None):
        self.buffer, self.status, self.key, self.sent = bytearray(), "", b"", b""
        self.notifications: list[bytes] = []
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout)
            self.socket.settimeout(timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self.socket.sendall(struct.pack("!II", 8, 80877103))
                if self.socket.recv(1) != b"S":
                    raise Gone("no TLS")
                self.socket = TLS.wrap_socket(self.socket)
        except TimeoutError:
            raise Hang("login") from None
        except OSError as error:
            raise Gone(f"login: {error!r}") from None
        settings = {"user": user, "database": database, **(settings or {})}
        body = struct.pack("!I", 196608) + b"".join(text(key) + text(value) for key, value in settings.items()) + b"\0"
        self.send(struct.pack("!I", len(body) + 4) + body)
        self.ready()

    def send(self, data: bytes) -> None:
        self.sent = data
        try:
            self.socket.sendall(data)
        except TimeoutError:
            raise Hang("send") from None
        except OSError as error:
            raise Gone(repr(error)) from None

    def fill(self, size: int) -> None:
        while len(self.buffer) < size:
            try:
                data = self.socket.recv(1 << 17)
            except TimeoutError:
                raise Hang("read") from None
            except OSError as error:
                raise Gone(repr(error)) from None
            if not data:
                raise Gone("end")
            self.buffer += data

    def read(self) -> Message:
        while True:
            self.fill(5)
            size = struct.unpack("!I", self.buffer[1:5])[0] + 1
            self.fill(size)
            tag, body = bytes(self.buffer[:1]), bytes(self.buffer[5:size])
            del self.buffer[:size]
            if tag == b"A":
                self.notifications.append(body)
            elif tag == b"K":
                self.key = body
            elif tag not in (b"N", b"S"):
                if tag == b"Z":
                    self.status = body.decode()
                return tag, body

    def messages(self) -> list[Message]:
        """Until the server is ready; an error that ends the connection is raised."""
        found = []
        while True:
            tag, body = self.read()
            found.append((tag, body))
            if tag == b"Z":
                return found
            if tag == b"E" and fields(body).get("S") == "FATAL":
                raise ServerError(fields(body))

    def ready(self) -> list[Message]:
        """Until the server is ready; then the first error is raised."""
        found = self.messages()
        for tag, body in found:
            if tag == b"E":
                raise ServerError(fields(body))
        return found

    def ask(self, data: bytes) -> list[Message]:
        self.send(data)
        return self.ready()

    def rows(self, sql: str, *values: Value) -> list[list[str | None]]:
        """By the simple protocol, unless there are parameters."""
        return rows(self.ask(once(sql, *values) + SYNC if values else query(sql)))

    def one(self, sql: str, *values: Value) -> str | None:
        return self.rows(sql, *values)[0][0]

    def close(self) -> None:
        try:
            self.socket.sendall(TERMINATE)
        except OSError:
            pass
        self.socket.close()

    def abort(self) -> None:
        """By a reset."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.socket.close()


def cancel(port: int, key: bytes) -> None:
    """Asks, and waits until pgdog has heard; whether it could is not known."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.settimeout(10)
            connection.sendall(struct.pack("!II", len(key) + 8, 80877102) + key)
            connection.recv(1)
    except OSError:
        pass
