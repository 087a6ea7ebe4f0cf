"""Tables, values that have made differences, and values in statements that may become parameters."""

import random
import re
import struct
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

CHANCE = random.Random()
Item = TypeVar("Item")


def pick(items: Sequence[Item]) -> Item:
    return CHANCE.choice(items)


def one(of: int) -> bool:
    """True once in `of` times."""
    return CHANCE.randrange(of) == 0


class Table(NamedTuple):
    columns: dict[str, str]  # with their kinds of values
    unique: list[str]
    key: str | None  # of sharding; without one it is omnisharded
    key_kind: str


def table(columns: str, unique: str, key: str | None, key_kind: str) -> Table:
    return Table(dict(column.split(":") for column in columns.split()), unique.split(), key, key_kind)


TABLES = {
    "a": table("id:int i:int b:int s:int n:num m:num f:flt r:flt t:txt v:txt c:txt z:ts ts:tsn d:date iv:iv bo:bool j:jsonb ai:arr at:arrt y:bytea e:enum ir:range dp:int dw:txt u:uuid ti:time es:enums gl:glad pr:pair ps:pairs sp:span", "id", "id", "big"),
    "ch": table("a_id:int no:int q:int w:num t:txt om_id:int d:date", "a_id no", "a_id", "big"),
    "tx": table("k:txt i:int t:txt n:num d:date bo:bool g:int", "k", "k", "txt"),
    "tc": table("k:txt no:int q:int z:ts", "k no", "k", "txt"),
    "uu": table("k:uuid i:int t:txt f:flt e:enum pr:pair", "k", "k", "uuid"),
    "lr": table("k:int i:int t:txt m:num bo:bool", "k", "k", "big"),
    "lt": table("k:txt i:int n:num t:txt", "k", "k", "txt"),
    "om": table("id:int code:txt n:num big:bool e:enum f:flt", "id", None, "int"),
    "ob": table("id:int om_id:int label:txt", "id", None, "int"),
}
SHARDING = """
[[sharded_tables]]
database = "sharded"
name = "{table}"
column = "{column}"
data_type = "{kind}"
"""
MAPPINGS = {
    "lr": "mapping = [{values = [1, 2, 3, 50], shard = 0}, {start = 10, end = 30, shard = 1}, {shard = 2}]\n",
    "lt": 'mapping = [{values = ["x1", "x2", "x3"], shard = 1}, {values = ["y1", "y2", "y3"], shard = 2}, {shard = 0}]\n',
}


def configuration() -> str:
    """How the tables are sharded."""
    kinds = {"big": "bigint", "txt": "varchar", "uuid": "uuid"}
    text = '[[omnisharded_tables]]\ndatabase = "sharded"\ntables = ["om", "ob"]\n'
    for name, of in TABLES.items():
        if of.key:
            text += SHARDING.format(table=name, column=of.key, kind=kinds[of.key_kind]) + MAPPINGS.get(name, "")
    return text


def written(name: str) -> list[str]:
    """Columns that a statement may write."""
    return [column for column in TABLES[name].columns if (name, column) != ("tx", "g")]


UUIDS = [str(uuid.UUID(int=(number * 0x123456789ABCDEF0FEDCBA987654321) % 2**128)) for number in range(24)]
NUMBERS = ["0", "1", "1.5", "-1.5", "2.250", "100", "7", "3.125", "-42", "0.5", "99999.999"]
FLOATS = ["0", "-0", "1", "1.5", "-2.5", "3", "0.25", "-7.75", "1024", "0.125"]
TIMES = ["2024-01-01 00:00:00+00", "2024-03-31 01:30:00+00", "2023-12-31 23:59:59.999999+00", "1999-12-25 12:00:00+02", "2024-10-27 00:30:00+00", "infinity", "-infinity", "2024-01-01 00:00:00.1+00"]
KEYS = {
    "a": [str(key) for key in [*range(1, 41), 0, -1, -7, 2**33, 2**63 - 1, -(2**63)]],
    "tx": ["", " ", "a", "A", "b", "B", "ä", "Ä", "z", "Z", "b-a", "ba", "it's", "back\\slash", "😀", "a ", " a", "%", "_", "NULL", "1", "01", "x" * 120, "é", "e\u0301", "Zoë", "zoe", "tab\there", "new\nline", '"q"', "{a,b}", "$1", "--", "/*"],
    "uu": UUIDS,
    "lr": [str(key) for key in [1, 2, 3, 50, 10, 11, 15, 20, 29, 30, 31, 9, 0, -3, 100, 1000, 2**40, 4, 5, 49, 51]],
    "lt": ["x1", "x2", "x3", "y1", "y2", "y3", "z", "", "X1", "x1x", "o", "ä", "q", "x4"],
    "om": [str(key) for key in range(1, 9)],
    "ob": [str(key) for key in range(1, 13)],
}
NEW_KEYS = {
    "a": [str(key) for key in range(200, 230)],
    "tx": [f"n{number}" for number in range(20)],
    "uu": [str(uuid.UUID(int=number * 7919 * 2**80 + number)) for number in range(20)],
    "lr": [*(str(key) for key in range(60, 80)), "12", "13", "28"],
    "lt": [f"p{number}" for number in range(9)],
    "om": [str(key) for key in range(20, 32)],
    "ob": [str(key) for key in range(20, 40)],
}
PARENTS = {"ch": "a", "tc": "tx"}
POOL = {
    "txt": ["", " ", "a", "A", "b", "B", "ab", "Ab", "ä", "zeta", "Zeta", "a-b", "a b", "o'k", "\\", "NaN", "10", "9", "é", "a,b", '"', "{}"],
    "num": ["0", "1", "1.0", "1.00", "-1", "-1.5", "2.50", "2.5", "NaN", "10", "100.001", "-0.0", "0.000", "3", "7", "12345678901234567890.123", "0.0000001", "Infinity", "-Infinity"],
    "flt": ["0", "-0", "1", "1.5", "-2.5", "NaN", "Infinity", "-Infinity", "3", "0.25", "1e10", "-7.75", "1e-5"],
    "date": ["2024-01-01", "2024-02-29", "2023-12-31", "1999-12-25", "2024-03-31", "infinity", "-infinity", "0044-03-15 BC", "2024-10-27"],
    "ts": TIMES,
    "tsn": [time[:19] if time[0] in "12" else time for time in TIMES],
    "iv": ["1 day", "24 hours", "1 mon", "30 days", "-1 day", "1 mon -30 days", "00:00:00", "1 year 2 mons 3 days 04:05:06.7", "12 mons", "00:00:00.000001"],
    "jsonb": ["1", "1.0", '"a"', "null", '{"a": 1}', '{"a": 1.0, "b": [1, 2]}', "[1, 2]", "[]", "{}", "true", '{"a": null}', '"A"', "10", "9"],
    "arr": ["{}", "{1}", "{1,2}", "{1,NULL}", "{NULL}", "{2,1}", "{10}", "{9}", "[0:1]={1,2}", "{{1,2},{3,4}}"],
    "arrt": ["{}", "{a}", '{"a,b"}', "{NULL}", '{"NULL"}', "{A,b}", '{"\\"",""}'],
    "bytea": ["\\x", "\\x00", "\\x00ff", "\\xff", "\\x61", "\\x6100", "\\xdeadbeef"],
    "enum": ["sad", "merry", "calm", "Zed"],
    "enums": ["{}", "{sad}", "{Zed,NULL}", "{merry,calm,sad}", "{NULL}", "{calm}"],
    "glad": ["merry", "calm", "Zed"],
    "pair": ["(1,sad)", "(,)", "(7,Zed)", "(-1,)", "(,merry)", "(1,merry)"],
    "pairs": ["{}", '{"(1,sad)",NULL}', '{"(,)"}', '{"(7,Zed)","(,calm)"}'],
    "span": ["empty", "[sad,calm]", "(merry,)", "(,)", "[calm,Zed)"],
    "range": ["empty", "[1,5)", "[2,3)", "(,)", "[1,)", "(,10)", "[5,9)"],
    "time": ["00:00:00", "23:59:59.5", "12:30:00", "24:00:00"],
    "uuid": UUIDS,
    "bool": ["true", "false"],
    "int": ["0", "1", "2", "3", "4", "5", "7", "10", "-1", "12", "20", "40", "100"],
    "big": [*KEYS["a"], *KEYS["lr"]],
}
SQL = {"int": "int", "big": "bigint", "num": "numeric", "flt": "float8", "txt": "text", "ts": "timestamptz", "tsn": "timestamp", "date": "date", "iv": "interval", "bool": "bool", "enums": "mood[]", "glad": "glad", "pair": "pair", "pairs": "pair[]", "span": "span", "jsonb": "jsonb", "arr": "int[]", "arrt": "text[]", "bytea": "bytea", "enum": "mood", "range": "int4range", "uuid": "uuid", "time": "time"}
OIDS = {"int": 23, "big": 20, "num": 1700, "flt": 701, "txt": 25, "ts": 1184, "tsn": 1114, "date": 1082, "iv": 1186, "bool": 16, "jsonb": 3802, "arr": 1007, "arrt": 1009, "bytea": 17, "range": 3904, "uuid": 2950, "time": 1083}


def value(kind: str) -> str:
    """Of numbers mostly those whose sums are exact."""
    plain = {"num": NUMBERS, "flt": FLOATS}
    return pick(plain[kind] if kind in plain and not one(4) else POOL[kind])


def keys(name: str) -> list[str]:
    """Of rows that are there, and one that is not."""
    name = PARENTS.get(name, name)
    return KEYS[name] + {"big": ["77"], "txt": ["nope"]}.get(TABLES[name].key_kind, [])


class Mark(NamedTuple):
    """A value in a statement: written out, or a parameter whose type is declared (style 3) or cast."""

    kind: str
    style: int
    value: str


def mark(kind: str, what: str | None = None, style: int | None = None) -> str:
    what = value(kind) if what is None else what
    return f"\x01{kind}|{CHANCE.randrange(4) if style is None else style}|{what}\x02"


def quoted(what: str) -> str:
    return "'" + what.replace("'", "''") + "'"


def literal(kind: str, what: str, style: int) -> str:
    if kind in ("int", "big"):
        return f"'{what}'::bigint" if kind == "big" and style == 0 else f"({what})" if what[0] == "-" else what
    if kind == "bool":
        return what
    text = "E" + quoted(what.replace("\\", "\\\\")) if "\\" in what and one(2) else quoted(what)
    return text if kind == "txt" and style else f"{text}::{SQL[kind]}"


def parts(marked: str) -> Iterator[str | Mark]:
    for part in re.split("(\x01[^\x02]*\x02)", marked):
        if part.startswith("\x01"):
            kind, style, what = part[1:-1].split("|", 2)
            yield Mark(kind, int(style), what)
        else:
            yield part


def written_out(marked: str) -> str:
    return "".join(part if isinstance(part, str) else literal(part.kind, part.value, part.style) for part in parts(marked))


Values = list[tuple[str, str | None]]


def parameters(marked: str, share: float = 0.7) -> tuple[str, Values, list[int]]:
    """A text in which a share of the values are parameters, their kinds and values, and their types."""
    numbers: dict[Mark, int] = {}
    chosen: dict[Mark, bool] = {}
    text = ""
    for part in parts(marked):
        if isinstance(part, str):
            text += part
        elif chosen.setdefault(part, CHANCE.random() < share):
            number = numbers.setdefault(part, len(numbers) + 1)
            text += f"${number}" if part.style == 3 else f"${number}::{SQL[part.kind]}"
        else:
            text += literal(part.kind, part.value, part.style)
    return text, [(mark.kind, mark.value) for mark in numbers], [OIDS.get(mark.kind, 0) if mark.style == 3 else 0 for mark in numbers]


def encoded(values: Values) -> tuple[list[bytes | None], list[int]]:
    """Values and their formats, some in binary."""
    binary: dict[str, Any] = {"int": lambda v: struct.pack("!i", int(v)), "big": lambda v: struct.pack("!q", int(v)), "bool": lambda v: b"\1" if v == "true" else b"\0", "flt": lambda v: struct.pack("!d", float(v)), "txt": str.encode, "uuid": lambda v: uuid.UUID(v).bytes}
    binary |= {"enum": str.encode, "glad": str.encode, "enums": lambda v: array("enum", v[1:-1].split(",")), "pair": pair, "pairs": lambda v: array("pair", re.findall(r"\([^)]*\)|NULL", v))}
    found, formats = [], []
    for kind, what in values:
        formats.append(int(what is not None and kind in binary and one(2)))
        found.append(None if what is None else binary[kind](what) if formats[-1] else what.encode())
    return found, formats


def item(what: bytes | None) -> bytes:
    return struct.pack("!i", -1) if what is None else struct.pack("!i", len(what)) + what


def array(kind: str, found: list[str]) -> bytes:
    """One of users' types, in binary format."""
    of = {"enum": str.encode, "pair": pair}[kind]
    values = [None if what == "NULL" else of(what) for what in found if what]
    head = struct.pack("!iiI", bool(values), None in values, OIDS[kind]) + (struct.pack("!ii", len(values), 1) if values else b"")
    return head + b"".join(item(what) for what in values)


def pair(what: str) -> bytes:
    x, e = what[1:-1].split(",")
    number, text = struct.pack("!i", int(x)) if x else None, e.encode() if e else None
    return struct.pack("!iI", 2, OIDS["int"]) + item(number) + struct.pack("!I", OIDS["enum"]) + item(text)


def varied(values: Values) -> Values:
    """For the next execution."""
    found: Values = []
    for kind, what in values:
        if one(12):
            found.append((kind, None))
        elif what is not None and one(2):
            found.append((kind, what))
        elif kind == "int" and what and what.isdigit() and int(what) < 20 and one(2):
            found.append((kind, str(CHANCE.randrange(15))))
        else:
            found.append((kind, pick(KEYS["tx"]) if kind == "txt" and one(2) else value(kind)))
    return found


def first_rows() -> Iterator[tuple[str, list[str]]]:
    """Rows that are there from the beginning, as literals in the order of `written`."""
    extremes = {
        "b": ["0", "1", "-5", "4611686018427387904", "9223372036854775807", "-9223372036854775807", "10", "2", "3"],
        "s": ["0", "1", "2", "3", "-4", "32767", "-32768"],
        "i": ["1", "2", "3", "4", "5", "10", "20", "-1", "0", "33"],
        "dp": ["1", "2", "3", "9"],
        "q": list("01234567"),
        "om_id": KEYS["om"],
    }

    def of(name: str, column: str) -> str:
        kind = TABLES[name].columns[column]
        if column not in ("u",) and one(6):
            return "NULL"
        if column in extremes:
            return pick(extremes[column])
        if (name, column) in (("a", "m"), ("ch", "w"), ("lr", "m")):
            return quoted("NaN" if one(9) else pick(NUMBERS))
        what = value(kind)
        return what if kind in ("int", "bool") else quoted("2" if column == "r" and what == "1e10" else what[:5] if column == "c" else what)

    for name, of_table in TABLES.items():
        if name in ("om", "ob"):
            continue
        for key in KEYS[PARENTS.get(name, name)]:
            first = key if of_table.key_kind == "big" else quoted(key)
            for number in range(CHANCE.randrange(5)) if name in PARENTS else [None]:
                unique = [first] if number is None else [first, str(number)]
                yield name, unique + [of(name, column) for column in written(name)[len(unique) :]]


def omni_rows() -> Iterator[tuple[str, list[str]]]:
    for key in KEYS["om"]:
        yield "om", [key, quoted(value("txt")), quoted(value("num")), value("bool"), quoted(value("enum")), quoted(value("flt"))]
    for key in KEYS["ob"]:
        yield "ob", [key, pick(KEYS["om"]), quoted(pick(KEYS["lt"]))]
