"""What two databases answered to the same: whether it is the same, and if not, in what."""

import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal, getcontext
from typing import NamedTuple

from wire import Message, columns, fields, row

getcontext().prec = 60
Row = tuple[bytes | None, ...]
FLOAT4, FLOAT8, INTERVAL, NUMERIC, JSONB = 700, 701, 1186, 1700, 3802
NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?")


class Difference(NamedTuple):
    """`refused`: we say that we cannot, which is allowed; `spelling`: equal values written otherwise, as 1.0 and 1.00 of a group."""

    kind: str
    detail: object = None


class Answer:
    """Rows, the errors, the data of COPY, and everything else in its order."""

    def __init__(self, messages: Iterable[Message]):
        self.rows: list[Row] = []
        self.columns: tuple[tuple[str, int, int, int, int], ...] = ()
        self.errors: list[tuple[str, str]] = []
        self.copied = b""
        self.states: list[bytes] = []
        self.others: list[object] = []
        before = 0
        for tag, body in messages:
            if tag == b"D":
                self.rows.append(row(body))
            elif tag == b"d":
                self.copied += body
            else:
                if tag == b"T":
                    self.columns = columns(body)
                elif tag == b"E":
                    found = fields(body)
                    self.errors.append((found.get("C", ""), found.get("M", "")))
                elif tag == b"Z":
                    self.states.append(body)
                told = tuple((name, kind, size, binary) for name, kind, size, _, binary in self.columns)
                self.others.append((tag, len(self.rows) - before, told if tag == b"T" else body))
                before = len(self.rows)

    @property
    def refused(self) -> bool:
        return bool(self.errors) and (self.errors[0][0] == "0A000" or "sharding key update matches" in self.errors[0][1])


def of_float(value: bytes, size: int, binary: bool) -> bytes:
    """To the digits that do not depend on the order of additions."""
    number = struct.unpack("!d" if len(value) == 8 else "!f", value)[0] if binary else float(value)
    if abs(number) < 1e-9:
        return b"0"
    return (f"{number:.4g}" if size == FLOAT4 else f"{number:.8g}").encode()


def of_interval(value: bytes) -> bytes:
    """In microseconds, of binary values."""
    microseconds, days, months = struct.unpack("!qii", value)
    return b"%d" % (microseconds + (days + 30 * months) * 86_400_000_000)


def of_numeric(value: bytes) -> bytes:
    """Without the zeros at its end, of binary values."""
    count, weight, sign, _ = struct.unpack("!hhHH", value[:8])
    if sign & 0xC000 == 0xC000:
        return value[:6]
    digits = struct.unpack(f"!{count}h", value[8:])
    number = sum((Decimal(digit) * Decimal(10000) ** (weight - place) for place, digit in enumerate(digits)), Decimal(0))
    return str((-number if sign == 0x4000 else number).normalize()).encode()


def of_text_interval(value: bytes) -> bytes:
    text, total = value.decode(), 0
    for number, unit in re.findall(r"([-+]?\d+) (year|mon|day)s?", text):
        total += int(number) * {"year": 360, "mon": 30, "day": 1}[unit] * 86_400_000_000
    if found := re.search(r"([-+]?)(\d+):(\d+):(\d+(?:\.\d+)?)", text):
        microseconds = (int(found[2]) * 3600 + int(found[3]) * 60) * 1_000_000 + round(float(found[4]) * 1_000_000)
        total += -microseconds if found[1] == "-" else microseconds
    return b"%d" % total


def of_text(value: bytes) -> bytes:
    def shorter(found: re.Match[bytes]) -> bytes:
        number = Decimal(found.group().decode())
        return b"0" if number == 0 else format(+number.normalize(), "f").encode() if abs(number.adjusted()) < 40 else found.group()

    return NUMBER.sub(shorter, value).rstrip(b" ")


def rounded(answer: Answer) -> list[Row]:
    floats = {place: column for place, column in enumerate(answer.columns) if column[1] in (FLOAT4, FLOAT8)}
    return [tuple(of_float(value, floats[place][1], bool(floats[place][4])) if place in floats and value is not None else value for place, value in enumerate(each)) for each in answer.rows]


def respelled(rows: list[Row], answer: Answer) -> list[Row]:
    def one(value: bytes | None, place: int) -> bytes | None:
        kind, binary = (answer.columns[place][1], answer.columns[place][4]) if place < len(answer.columns) else (0, 0)
        if value is None:
            return None
        if kind == INTERVAL:
            return of_interval(value) if binary else of_text_interval(value)
        if binary and kind == NUMERIC:
            return of_numeric(value)
        return of_text(value) if not binary or kind == JSONB else value

    return [tuple(one(value, place) for place, value in enumerate(each)) for each in rows]


def sorted_rows(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda each: tuple((value is None, value or b"") for value in each))


def compare(ours: Sequence[Message], theirs: Sequence[Message], order: str = "set", keys: Sequence[int] = (), limited: bool = False) -> Difference | None:
    """`order` as of a Select. With `limited`, rows beside equal keys may be others."""
    our, their = Answer(ours), Answer(theirs)
    if our.errors or their.errors:
        if our.refused and not their.refused:
            return Difference("refused", our.errors[0][1])
        if not their.errors:
            return Difference("error of pgdog only", our.errors)
        if not our.errors:
            return Difference("no error", their.errors)
        if our.errors[0][0] != their.errors[0][0]:
            return Difference("other error", (our.errors, their.errors))
        return None if our.states == their.states else Difference("state", (our.states, their.states))
    if our.others != their.others:
        differing = next((pair for pair in zip(our.others, their.others) if pair[0] != pair[1]), (our.others, their.others))
        return Difference("messages", differing)
    if our.copied != their.copied and (order == "total" or sorted(our.copied.split(b"\n")) != sorted(their.copied.split(b"\n"))):
        return Difference("copied", (our.copied[:500], their.copied[:500]))

    def equal(one: list[Row], other: list[Row]) -> bool:
        if order == "total":
            return one == other
        if order == "keys" and [[each[key] for key in keys] for each in one] != [[each[key] for key in keys] for each in other]:
            return False
        return limited and order == "keys" or sorted_rows(one) == sorted_rows(other)

    one, other = rounded(our), rounded(their)
    if equal(one, other):
        modifiers = [[modifier for _, _, _, modifier, _ in side.columns] for side in (our, their)]
        return None if modifiers[0] == modifiers[1] else Difference("modifiers", modifiers)
    loose, loose_other = respelled(one, our), respelled(other, their)
    if equal(loose, loose_other):
        return Difference("spelling")
    only = [list((Counter(first) - Counter(second)).items())[:2] for first, second in ((one, other), (other, one))]
    return Difference("order" if sorted_rows(loose) == sorted_rows(loose_other) else "rows", (len(one), len(other), only))
