"""SELECT, at random: expressions of every kind of value, joins along keys and not, groups, windows, set operations, WITH."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from values import CHANCE, NUMBERS, SQL, TABLES, keys, literal, mark, one, pick, quoted, value

Relation = tuple[str, dict[str, str], list[str]]  # its alias, columns with their kinds, and those that identify a row
ORDERED = ["int", "num", "flt", "txt", "ts", "date", "iv", "bool", "enum", "glad", "enums", "uuid", "bytea", "arr", "tsn", "time"]
COMPARED = ["int", "int", "num", "flt", "txt", "txt", "ts", "date", "iv", "enum", "glad", "enums", "uuid", "bytea", "arr", "jsonb", "tsn", "time", "bool"]
GREATEST = {"int": "max", "num": "max", "flt": "min", "txt": "max", "ts": "max", "tsn": "min", "date": "min", "iv": "max", "enum": "max", "glad": "min", "enums": "max", "time": "max", "arr": "max"}
NUMBERED = count(1)
QUERIES = [True]  # whether expressions may have queries in them


@dataclass
class Scope:
    relations: list[Relation] = field(default_factory=list)
    where: str = ""  # that joins them

    def typed(self) -> list[tuple[str, str]]:
        return [(f"{alias}.{column}", kind) for alias, columns, _ in self.relations for column, kind in columns.items()]

    def columns(self, kind: str | None = None) -> list[str]:
        return [column for column, of in self.typed() if kind in (None, of)]

    def unique(self) -> list[str]:
        return [f"{alias}.{column}" for alias, _, unique in self.relations for column in unique]

    def ordered(self) -> list[tuple[str, str]]:
        return [(column, kind) for column, kind in self.typed() if kind in ORDERED]


@dataclass
class Select:
    sql: str
    columns: list[tuple[str, str]]
    # What its order says: "total", "keys" (of `keys`, positions in a row) or nothing ("set").
    order: str
    keys: list[int] = field(default_factory=list)
    # Columns without their tables' names: an order may then be by other columns, and ambiguous.
    stripped: bool = False


def alias(prefix: str) -> str:
    return f"{prefix}{next(NUMBERED)}"


def table_of(called: str) -> str:
    """An alias begins with its table's name."""
    return called.split("_")[0]


def both(one_scope: Scope, other: Scope) -> Scope:
    return Scope(one_scope.relations + other.relations)


def table_scope(names: list[str] | None = None) -> tuple[str, str, Scope]:
    name = pick(names or ["a", "a", "ch", "ch", "tx", "tc", "uu", "lr", "lt", "om", "ob"])
    called = alias(name + "_")
    return name, called, Scope([(called, TABLES[name].columns, TABLES[name].unique)])


@contextmanager
def queries(allowed: bool) -> Iterator[None]:
    before, QUERIES[0] = QUERIES[0], allowed
    try:
        yield
    finally:
        QUERIES[0] = before


# Expressions.


def expression(kind: str, scope: Scope, depth: int = 2) -> str:
    columns = scope.columns(kind)
    if columns and (depth <= 0 or one(2)):
        return pick(columns)
    if depth <= 0 or one(6):
        return mark(kind)

    def e(kind: str) -> str:
        return expression(kind, scope, depth - 1)

    if one(14):
        return f"CASE WHEN {condition(scope, depth - 1)} THEN {e(kind)} ELSE {e(kind)} END"
    if one(14):
        return f"coalesce({e(kind)}, {e(kind)})"
    if one(20):
        return f"nullif({e(kind)}, {e(kind)})"
    if QUERIES[0] and one(25) and kind in ORDERED:
        return scalar(kind, scope)
    made: dict[str, list[Callable[[], str]]] = {
        "int": [
            lambda: f"({e('int')} + {mark('int')})",
            lambda: f"({e('int')} % {pick(['3', '7', '10'])})",
            lambda: f"({e('int')} - {pick('123')})",
            lambda: f"length({e('txt')})",
            lambda: f"({e('int')} / {pick('2345')})",
            lambda: f"cardinality({e('arr')})",
            lambda: f"sign({e('int')})::int",
            lambda: f"extract({pick(['year', 'month', 'day', 'dow'])} from {mark('date', '2024-02-29')})::int",
            lambda: f"ascii({e('txt')})",
            lambda: f"({mark('int')})::int4 & 7",
            lambda: f"-({e('int')} % 5)",
            lambda: f"position({mark('txt')} in {e('txt')})",
            lambda: f"({e('arr')})[1]",
        ],
        "num": [
            lambda: f"({e('num')} + {e('num')})",
            lambda: f"({e('num')} * {mark('num', pick(NUMBERS))})",
            lambda: f"round({e('num')}, {pick('012')})",
            lambda: f"{e('int')}::numeric",
            lambda: f"trunc({e('num')})",
            lambda: f"abs({e('num')})",
            lambda: f"({e('num')} / {pick(['3', '7.00', '0.5'])})",
            lambda: f"{mark('num', pick(NUMBERS))}::numeric(12,2)",
            lambda: f"- {e('num')}",
        ],
        "flt": [lambda: f"({e('flt')} + {mark('flt')})", lambda: f"({e('flt')} * 2)", lambda: f"{e('int')}::float8", lambda: f"abs({e('flt')})", lambda: f"(- {e('flt')})", lambda: f"({e('flt')} / 4)"],
        "txt": [
            lambda: f"{pick(['lower', 'upper', 'trim', 'md5'])}({e('txt')})",
            lambda: f"({e('txt')} || {e('txt')})",
            lambda: f"substr({e('txt')}, 1, {pick('123')})",
            lambda: f"({e('int')})::text",
            lambda: f"({e('enum')})::text",
            lambda: f"concat_ws('-', {e('txt')}, {e('int')})",
            lambda: f'({e("txt")})::text COLLATE "C"',
            lambda: f"to_char({e('date')}, 'YYYY-MM')",
            lambda: f"({e('txt')})::varchar(2)",
            lambda: f"({e('jsonb')} ->> {mark('txt', 'a')})",
            lambda: f"left({e('txt')}, 1)",
        ],
        "bool": [lambda: f"({condition(scope, depth - 1)})"],
        "date": [lambda: f"({e('date')} + {pick('123')})", lambda: f"date '2024-01-01' + ({mark('int')} % 100)"],
        "ts": [lambda: f"date_trunc('{pick(['day', 'hour', 'month'])}', {e('ts')})", lambda: f"({e('ts')} + {mark('iv', '1 day')})"],
        "iv": [lambda: f"({e('iv')} * 2)", lambda: f"({e('iv')} + {mark('iv')})", lambda: f"justify_days({e('iv')})"],
        "jsonb": [lambda: f"to_jsonb({e(pick(['int', 'txt', 'bool', 'num']))})", lambda: f"({e('jsonb')} -> 'a')", lambda: f"jsonb_build_object('x', {e('int')})", lambda: f"jsonb_build_array({e('int')}, {e('txt')})"],
        "arr": [lambda: f"ARRAY[{e('int')}, {e('int')}]::int[]", lambda: f"array_append({mark('arr', '{1,2}')}, 1)"],
        "enum": [lambda: f"({e('enums')})[1]", lambda: f"({e('pair')}).e", lambda: f"{e('glad')}::mood"],
        "enums": [lambda: f"ARRAY[{e('enum')}, {e('enum')}]", lambda: f"array_append({e('enums')}, {e('enum')})", lambda: f"({e('enums')} || {mark('enums')})"],
        "pair": [lambda: f"ROW({e('int')}, {e('enum')})::pair", lambda: f"({e('pairs')})[1]"],
        "pairs": [lambda: f"ARRAY[{e('pair')}, {e('pair')}]"],
        "arrt": [lambda: f"ARRAY[{e('txt')}]"],
        "bytea": [lambda: f"convert_to({e('txt')}, 'UTF8')"],
    }
    return pick(made.get(kind, [lambda: mark(kind)]))()


def scalar(kind: str, scope: Scope) -> str:
    name, called, inner = table_scope()
    columns = inner.columns(kind)
    what = pick(columns) if columns else expression(kind, inner, 0)
    where = " AND ".join(filter(None, [correlation(name, called, scope), condition(inner, 0) if one(2) else ""])) or "true"
    if kind in GREATEST and one(2):
        return f"(SELECT {GREATEST[kind]}({what}) FROM {name} {called} WHERE {where})"
    if kind == "int" and one(2):
        return f"(SELECT count(*)::int FROM {name} {called} WHERE {where})"
    return f"(SELECT {what} FROM {name} {called} WHERE {where} ORDER BY {', '.join(inner.unique())} LIMIT 1)"


def correlation(name: str, called: str, scope: Scope) -> str:
    """By a key, with a table around it that has the same."""
    for family in ({"a": "id", "ch": "a_id"}, {"tx": "k", "tc": "k"}):
        for outer, columns, _ in scope.relations:
            column = family.get(table_of(outer))
            if name in family and column in columns and one(2):
                return f"{called}.{family[name]} = {outer}.{column}"
    return ""


def key_condition(scope: Scope) -> str | None:
    """Says more or less clearly on which shards rows are."""
    keyed = [(called, TABLES[table_of(called)].key) for called, columns, _ in scope.relations if table_of(called) in TABLES and TABLES[table_of(called)].key in columns]
    if not keyed:
        return None
    called, column = pick(keyed)
    name = table_of(called)
    key, kind, known = f"{called}.{column}", TABLES[name].key_kind, keys(name)

    def some() -> str:
        return mark(kind, pick(known))

    plain = [what for what in CHANCE.choices(known, k=3) if kind != "txt" or what.isalnum()] or ["1"]
    simple: list[Callable[[], str]] = [
        lambda: f"{key} = {some()}",
        lambda: f"{key} = {some()}",
        lambda: f"{key} = {some()}",
        lambda: f"{some()} = {key}",
        lambda: f"{key} IN ({', '.join(some() for _ in range(CHANCE.randrange(1, 5)))})",
        lambda: f"{key} IN ({', '.join(some() for _ in range(CHANCE.randrange(1, 5)))})",
        lambda: f"{key} = ANY ('{{{','.join(plain)}}}'::{SQL[kind]}[])",
        lambda: f"{key} = ANY (ARRAY[{some()}, {some()}])",
        lambda: f"({key} = {some()} OR {f'{key} = {some()}' if one(2) else condition(scope, 0)})",
    ]
    if not one(3):
        return pick(simple)()
    what = some()
    traps = [
        f"{key} = NULL",
        f"{key} IN ({what}, NULL)",
        f"({key} = {what}) IS NOT TRUE",
        f"NOT {key} = {what}",
        f"{key} IS NOT DISTINCT FROM {what}",
        f"{key} BETWEEN {what} AND {what}",
        f"{key} = (SELECT {what})",
        f"({key}, 1) = ({what}, 1)",
        f"({key}, 1) IN (({what}, 1), ({some()}, 2))",
        f"{key} <> ALL (ARRAY[{what}])",
        f"{key} = coalesce(NULL, {what})",
        f"({key} = {what} AND true OR false)",
        f"CASE WHEN {key} = {what} THEN true ELSE false END",
        f"{key} = {what} AND {key} = {some()}",
        *[written_key(key, kind, pick(known)) for _ in range(3)],
    ]
    return pick(traps)


def written_key(key: str, kind: str, what: str) -> str:
    """A key as another type, or by a detour."""
    text = quoted(what)
    if kind == "big" and what[0] != "-":
        return pick([f"{key} = {what}.0", f"{key} = {what}::numeric", f"{key} = {text}", f"{key} = +{what}", f"{key} = {what}::text::bigint", f"{key} = {what}::float8", f"{key} IN (SELECT {what})", f"{key} = - (- {what})", f"{key} = ' {what} '"])
    if kind == "txt":
        return pick([f"{key} = {text}", *(f"{key} = {text}::{kind}" for kind in ("varchar", "char(3)", "name", "text")), f"{key} LIKE {text}", f'{key} = {text} COLLATE "C"', f"{key}::varchar = {text}", f"{key} = lower({text})"])
    if kind == "uuid":
        what = pick([what, what.upper(), what.replace("-", "")])
        return pick([f"{key} = '{what}'", f"{key} = '{{{what}}}'", f"{key}::text = '{what}'"])
    return f"{key} = {text}"


def condition(scope: Scope, depth: int = 2) -> str:
    if depth > 0 and one(5):
        first, second = condition(scope, depth - 1), condition(scope, depth - 1)
        return pick([f"({first} AND {second})", f"({first} OR {second})", f"({first}) AND NOT ({second})"])
    if one(5) and (found := key_condition(scope)):
        return found
    kind = pick(COMPARED)
    if not scope.columns(kind):
        kind = pick([of for _, of in scope.typed() if of in COMPARED] or ["int"])

    def e() -> str:
        return expression(kind, scope, depth - 1)

    compared: Callable[[], str] = lambda: f"{expression(kind, scope, depth)} {pick(['=', '<>', '<', '<=', '>', '>='])} {e()}"
    bools = scope.columns("bool")
    return pick(
        [compared] * 7
        + [lambda: exists(scope, depth)] * 3 * QUERIES[0]
        + [lambda: in_query(scope, kind)] * 2 * QUERIES[0]
        + [
            lambda: f"{e()} IS {pick(['', 'NOT '])}NULL",
            lambda: f"{e()} {pick(['', '', 'NOT '])}IN ({', '.join(mark(kind) for _ in range(CHANCE.randrange(1, 4)))})",
            lambda: f"{e()} BETWEEN {mark(kind)} AND {mark(kind)}",
            lambda: f"{expression('txt', scope, 1)} {pick(['LIKE', 'NOT LIKE', 'ILIKE', '~'])} {quoted('^a') if one(3) else mark('txt', pick(['a%', '%b%', '_', '%']))}",
            lambda: f"{e()} IS {pick(['', 'NOT '])}DISTINCT FROM {mark(kind)}",
            lambda: f"int4range(1,5) @> {mark('int')}",
            lambda: pick(["{}", "NOT {}", "{} IS TRUE", "{} IS NOT TRUE", "{} IS UNKNOWN"]).format(pick(bools)) if bools else compared(),
            lambda: f"({e()}, {expression('int', scope, 0)}) {pick(['=', '<', '>='])} ({mark(kind)}, {mark('int')})",
            lambda: f"{expression('int', scope, 0)} = ANY (ARRAY[{mark('int')}, {mark('int')}])",
            lambda: f"{expression('int', scope, depth)} {pick(['<', '>', '<>'])} {mark('int')}",
        ]
    )()


def exists(scope: Scope, depth: int) -> str:
    name, called, inner = table_scope()
    correlated = correlation(name, called, scope)
    with queries(depth > 1):
        where = condition(both(scope, inner) if one(6) else inner, depth - 1)
    where = where if not correlated else f"{correlated} AND {where}" if one(2) else correlated
    return f"{pick(['', 'NOT '])}EXISTS (SELECT {pick(['1', '', '*', inner.unique()[0]])} FROM {name} {called} WHERE {where})"


def in_query(scope: Scope, kind: str) -> str:
    name, called, inner = table_scope()
    kind = "int" if kind in ("arr", "jsonb") else kind
    what, left = expression(kind, inner, 0), expression(kind, scope, 0)
    where = condition(inner, 0) if one(2) else "true"
    asked = f"SELECT {what} FROM {name} {called}"
    return pick(
        [
            f"{left} {pick(['', '', 'NOT '])}IN ({asked} WHERE {where})",
            f"{left} {pick(['', '', 'NOT '])}IN ({asked} WHERE {where})",
            f"{left} {pick(['=', '<', '>', '<>'])} {pick(['ANY', 'ALL', 'SOME'])} ({asked} WHERE {where})",
            f"{left} IN ({asked} GROUP BY 1 HAVING count(*) > {pick('012')})",
            f"{left} IN ({asked} WHERE {where} ORDER BY {', '.join(inner.unique())} LIMIT {mark('int', pick('135'))})",
        ]
    )


# FROM.

JOINS = [
    *[("a", "ch", on) for on in ("{0}.id = {1}.a_id", "{0}.id = {1}.a_id AND {1}.q > 2", "{0}.id = {1}.a_id AND {0}.id < {1}.q", "{0}.id = {1}.a_id OR {1}.q = 1", "{0}.id = {1}.a_id + 1", "{0}.id = {1}.q", "{0}.id <> {1}.a_id AND {1}.q = 3 AND {0}.i = 2")],
    *[("a", "a", "{0}.id = {1}.id"), ("a", "a", "{0}.id = {1}.i"), ("ch", "ch", "{0}.a_id = {1}.a_id AND {0}.no < {1}.no"), ("lr", "lr", "{0}.k = {1}.k"), ("uu", "uu", "{0}.k = {1}.k")],
    *[("tx", "tc", "{0}.k = {1}.k"), ("a", "lr", "{0}.id = {1}.k"), ("a", "uu", "{0}.u = {1}.k"), ("a", "tx", "{0}.t = {1}.k"), ("tx", "lt", "{0}.k = {1}.k"), ("a", "lr", "{0}.i = {1}.i")],
    *[("a", "om", "{0}.i = {1}.id"), ("ch", "om", "{0}.om_id = {1}.id"), ("om", "ob", "{0}.id = {1}.om_id"), ("om", "ch", "{0}.id = {1}.om_id"), ("om", "a", "{0}.id = {1}.s"), ("lr", "ob", "{0}.i = {1}.id"), ("ob", "lt", "{0}.label = {1}.k"), ("ob", "lt", "{0}.id = {1}.i")],
]
# Columns called otherwise: what is named like a key is none.
RENAMED = [("lr", "i:int k:int t:txt m:num bo:bool"), ("ch", "no:int a_id:int q:int w:num t:txt om_id:int d:date"), ("tc", "no:txt k:int q:int z:ts"), ("a", "i:int id:int b:int s:int n:num")]


def relation(name: str) -> tuple[str, Relation]:
    called = alias(name + "_")
    return f"{name} {pick(['', 'AS '])}{called}", (called, TABLES[name].columns, TABLES[name].unique)


def joined(keyed: bool) -> tuple[str, Scope]:
    first, second, on = pick(JOINS)
    (one_text, one_relation), (other_text, other) = relation(first), relation(second)
    on, scope = on.format(one_relation[0], other[0]), Scope([one_relation, other])
    if keyed:
        with queries(False):
            return f"{one_text} {pick(['JOIN', 'LEFT JOIN', 'RIGHT JOIN'])} {other_text} ON ({on}) AND {key_condition(scope) or 'true'}", scope
    if one(5):
        scope.where = on
        return f"{one_text}, {other_text}", scope
    equal = " OR " not in on and "<>" not in on
    text = f"{one_text} {pick(['JOIN', 'JOIN', 'LEFT JOIN', 'LEFT JOIN', *(['RIGHT JOIN', 'FULL JOIN'] if equal else [])])} {other_text} ON {on}"
    return join_more(text, scope, ["om", "ob", "ch", "a", "tx"]) if one(4) else (text, scope)


def join_more(text: str, scope: Scope, names: list[str] | None = None) -> tuple[str, Scope]:
    """One more table, by any two numbers."""
    name, called, more = table_scope(names)
    if not scope.columns("int") or not more.columns("int"):
        return text, scope
    return f"{text} {pick(['JOIN', 'LEFT JOIN'])} {name} {called} ON {pick(scope.columns('int'))} = {pick(more.columns('int'))}", both(scope, more)


def renamed() -> tuple[str, Scope]:
    name, columns = pick(RENAMED)
    called, named = alias(name + "_"), dict(column.split(":") for column in columns.split())
    text = f"{name} {pick(['', 'AS '])}{called}({', '.join(list(named)[:2])})"
    if name == "tc":
        named.pop("k")
    scope = Scope([(called, named, {"lr": ["i"], "ch": ["no", "a_id"], "tc": ["no", "q", "z"], "a": ["i"]}[name])])
    return join_more(text, scope, ["ch"]) if one(2) else (text, scope)


def family() -> tuple[str, Scope]:
    (x_text, x), (y_text, y), (z_text, z) = relation("a"), relation("ch"), relation("a")
    joins = ["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]
    third = pick([f"{y[0]}.a_id", f"{x[0]}.id", f"{y[0]}.q"])
    return f"{x_text} {pick(joins)} {y_text} ON {x[0]}.id = {y[0]}.a_id {pick(joins)} {z_text} ON {z[0]}.id = {third}", Scope([x, y, z])


def lateral() -> tuple[str, Scope]:
    name, called, outer = table_scope()
    name2, called2, inner = table_scope()
    on = correlation(name2, called2, outer) or f"{pick(inner.columns('int') or ['1'])} = {pick(outer.columns('int') or ['2'])}"
    number, around = expression("int", inner, 1), alias("l")
    query = pick([f"SELECT count(*) AS x, max({number}) AS y FROM {name2} {called2} WHERE {on}", f"SELECT {number} AS x, {expression('int', inner, 0)} AS y FROM {name2} {called2} WHERE {on} ORDER BY {', '.join(inner.unique())} LIMIT 2"])
    return f"{name} {called} CROSS JOIN LATERAL ({query}) {around}", Scope([*outer.relations, (around, {"x": "int", "y": "int"}, ["x", "y"])])


def values_list() -> tuple[str, Scope]:
    name, called, scope = table_scope()
    rows = ", ".join(f"({mark('int', str(number), 0)}, {mark('txt', None, 0)})" for number in range(CHANCE.randrange(1, 4)))
    around = alias("v")
    return f"(VALUES {rows}) AS {around}(x, w) {pick(['JOIN', 'LEFT JOIN'])} {name} {called} ON {around}.x = {pick(scope.columns('int') or ['1'])}", Scope([(around, {"x": "int", "w": "txt"}, ["x", "w"]), *scope.relations])


def using() -> tuple[str, Scope]:
    (one_text, first), (other_text, second) = relation("tx"), relation("tc")
    return f"{one_text} {pick(['JOIN', 'LEFT JOIN', 'FULL JOIN'])} {other_text} USING (k)", Scope([first, second])


def derived(depth: int) -> tuple[str, Scope]:
    query, called = select(depth - 1, named=True), alias("q")
    columns = dict(query.columns)
    text, scope = f"({query.sql}) {pick(['', 'AS '])}{called}", Scope([(called, columns, list(columns))])
    return join_more(text, scope) if one(3) else (text, scope)


def plain_table() -> tuple[str, Scope]:
    name, called, scope = table_scope()
    text = f"{pick(['', '', 'public.', 'ONLY '])}{name} {called}"
    if one(5):
        text, scope = f"{text}, generate_series(1, 2) g{called}", Scope([*scope.relations, (f"g{called}", {f"g{called}": "int"}, [f"g{called}"])])
    return text, scope


def source(depth: int = 2) -> tuple[str, Scope]:
    """FROM, without the word."""
    choices: list[Callable[[], tuple[str, Scope]]] = [plain_table] * 8 + [lambda: joined(False)] * 8 + [lambda: joined(True), renamed, family, using, values_list]
    if depth > 0:
        choices += [lambda: derived(depth)] * 2 + [lateral] * one(3)
    return pick(choices)()


# SELECT.


def direction() -> str:
    return pick(["", "", " DESC", " ASC", " NULLS FIRST", " DESC NULLS LAST", " USING <", " USING >", " DESC NULLS FIRST", " NULLS LAST"])


def limit() -> str:
    def number(up_to: int) -> str:
        return mark("int", str(CHANCE.randrange(up_to)))

    choices = ["", "", "", f" LIMIT {number(20)}", f" LIMIT {number(12)} OFFSET {number(9)}", f" OFFSET {number(15)}", f" FETCH FIRST {CHANCE.randrange(1, 12)} ROWS ONLY", f" FETCH NEXT {CHANCE.randrange(1, 12)} ROW WITH TIES"]
    return pick([*choices, pick([" LIMIT ALL", " LIMIT NULL", " OFFSET 2 ROWS FETCH NEXT 5 ROWS ONLY", " LIMIT 3 + 2", " LIMIT 4::bigint OFFSET 1"])])


def where(scope: Scope, of_three: int = 2) -> str:
    found = [scope.where] if scope.where else []
    if CHANCE.randrange(3) < of_three:
        found.append(condition(scope, CHANCE.randrange(3)))
    return " WHERE " + " AND ".join(f"({each})" for each in found) if found else ""


def outputs(scope: Scope, number: int, kinds: list[str] | None = None) -> list[tuple[str, str]]:
    found = []
    for position in range(number):
        if kinds:
            found.append((expression(kinds[position], scope, CHANCE.randrange(3)), kinds[position]))
        elif one(2) and scope.typed():
            found.append(pick(scope.typed()))
        else:
            kind = pick(["int", "int", "num", "flt", "txt", "ts", "date", "bool", "iv", "jsonb", "arr", "enum", "enums"] + ["pair", "pairs"] * one(8))
            found.append((expression(kind, scope, CHANCE.randrange(1, 3)), kind))
    if kinds is None and one(20):
        found[-1] = (pick([relation[0] for relation in scope.relations] + [f"ROW({expression(pick(['enum', 'pair', 'enums']), scope, 1)}, {expression('int', scope, 1)})"]), "record")
    if kinds is None and one(14):
        arrays = scope.columns("arr")
        found[0] = (f"unnest({pick(arrays)})" if arrays else pick(["generate_series(1, 2)", "unnest(ARRAY[1, NULL, 3])"]), "int")
    return found


def named_columns(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(f"c{number}", kind) for number, (_, kind) in enumerate(found, 1)]


def output_list(found: list[tuple[str, str]], named: bool) -> str:
    return ", ".join(f"{what} AS c{number}" if named else what for number, (what, _) in enumerate(found, 1))


def by_position(columns: list[tuple[str, str]]) -> str:
    """ORDER BY all of them, in any order."""
    return " ORDER BY " + ", ".join(f"{number}{direction()}" for number in CHANCE.sample(range(1, len(columns) + 1), len(columns)))


def all_ordered(columns: list[tuple[str, str]]) -> bool:
    return all(kind in ORDERED for _, kind in columns)


def plain(depth: int, named: bool) -> Select:
    text, scope = source(depth)
    found = [] if one(12) and not named else outputs(scope, CHANCE.randrange(1, 5))
    columns = named_columns(found)
    base = f"SELECT {output_list(found, named or one(2)) or '*'} FROM {text}{where(scope)}"
    order = []
    for _ in range(CHANCE.randrange(3)):
        position = CHANCE.randrange(len(found)) if found else 0
        if found and one(3):
            if found[position][1] in ORDERED:
                order.append(f"{position + 1}{direction()}")
        elif one(4):
            kind = pick(["int", "txt", "num", "date"])
            order.append(f"({expression(kind, scope, 1)}){collation(kind)}{direction()}")
        elif scope.ordered():
            what, kind = pick(scope.ordered())
            order.append(f"{what}{collation(kind)}{direction()}")
    total = " ORDER BY " + ", ".join(order + [what + pick(["", "", " DESC"]) for what in scope.unique()])
    if named:
        return Select(base + (total + limit().replace("WITH TIES", "ONLY") if one(3) else ""), columns, "set")
    way = CHANCE.randrange(4)
    if way == 0:
        return Select(base, columns, "set")
    positions = [position for position in range(len(found)) if found[position][1] in ORDERED and one(2)]
    if way == 1 and positions:
        keyed = " ORDER BY " + ", ".join(f"{position + 1}{direction()}" for position in positions)
        return Select(base + keyed + (limit() if one(2) else ""), columns, "keys", positions)
    return Select(base + total + limit() + (pick([" FOR UPDATE", " FOR SHARE"]) if one(40) else ""), columns, "total")


def collation(kind: str) -> str:
    return ' COLLATE "C"' if kind == "txt" and one(3) else ""


def aggregate(scope: Scope) -> tuple[str, str]:
    """One, with the kind of its value."""

    def e(*kinds: str) -> tuple[str, str]:
        kind = pick(kinds)
        return expression(kind, scope, CHANCE.randrange(2)), kind

    def of(functions: str, *kinds: str, gives: str = "", distinct: str = "") -> tuple[str, str]:
        what, kind = e(*kinds)
        return f"{pick(functions.split())}({distinct}{what})", gives or kind

    unique = ", ".join(scope.unique())
    # Sums of integers are `numeric` or `bigint`, of others their own.
    numbers: list[Callable[[], tuple[str, str]]] = [
        lambda: (f"{pick(['sum', 'avg'])}({e('int')[0]})", "num"),
        lambda: of("sum avg", "num", "flt", "iv"),
        lambda: of("min max", "int", "num", "flt", "txt", "ts", "date", "iv", "enum", "glad", "enums", "tsn", "time", "arr"),
    ]
    plain_ones: list[Callable[[], tuple[str, str]]] = [
        *numbers * 3,
        *[lambda: ("count(*)", "int")] * 2,
        *[lambda: of("count", *COMPARED, gives="int")] * 2,
        lambda: of("count", *ORDERED, gives="int", distinct="DISTINCT "),
        lambda: of("bool_and bool_or every", "bool"),
        lambda: of("bit_and bit_or bit_xor", "int"),
        lambda: of("stddev variance stddev_pop var_samp var_pop stddev_samp", "int", "num", gives="num"),
        lambda: of("stddev variance var_pop", "flt"),
        lambda: of("sum avg", "int", "num", gives="num", distinct="DISTINCT "),
        lambda: (f"string_agg({e('txt')[0]}, ',' ORDER BY {unique})", "txt"),
        lambda: (f"string_agg(DISTINCT {e('txt')[0]}, '-')", "txt"),
        lambda: (f"array_agg({e('int')[0]} ORDER BY {unique})", "arr"),
        lambda: (f"array_agg({e('enum')[0]} ORDER BY {unique})", "enums"),
        lambda: (f"array_agg({e('pair')[0]} ORDER BY {unique})", "pairs"),
        lambda: (f"jsonb_agg({e('int', 'txt', 'bool')[0]} ORDER BY {unique})", "jsonb"),
        lambda: (f"{pick(['percentile_disc(0.5)', 'mode()', 'rank(3)'])} WITHIN GROUP (ORDER BY {e('int')[0]})", "int"),
        lambda: (f"regr_count({e('flt')[0]}, {e('flt')[0]})", "int"),
    ]
    computed: list[Callable[[], tuple[str, str]]] = [
        lambda: (f"coalesce(sum({e('int')[0]}), 0)", "num"),
        lambda: (f"(sum({e('int')[0]}) / nullif(count({e('int')[0]}), 0))", "num"),
        lambda: (f"round(avg({e('int')[0]}), 2)", "num"),
        lambda: (f"(max({e('int')[0]}) - min({e('int')[0]}))", "int"),
        lambda: ("(count(*) + 1)", "int"),
        lambda: (f"CASE WHEN count(*) > 3 THEN max({e('int')[0]}) ELSE min({e('int')[0]}) END", "int"),
        lambda: (f"sum({e('int')[0]})::text", "txt"),
        lambda: (f"(sum({e('num')[0]}) * 1.5)", "num"),
    ]
    if one(4):
        return pick(computed)()
    what, kind = pick(plain_ones)()
    return what + (f" FILTER (WHERE {condition(scope, 0)})" if one(5) else ""), kind


def having(scope: Scope) -> str:
    def e(kind: str = "int") -> str:
        return expression(kind, scope, 0)

    choices = [f"count(*) > {mark('int', pick('0125'))}", f"{aggregate(scope)[0]} IS NOT NULL", "count(*) % 2 = 0", f"sum({e()}) > {mark('int')}", f"max({e()}) < {mark('int')}", f"min({e('txt')}) IS NULL", f"bool_or({e('bool')})", "count(*) BETWEEN 1 AND 3"]
    return pick([*choices, "NOT count(*) > 2", f"avg({e()}) >= 1.5 AND count(*) < 30", "count(*) = (SELECT count(*) FROM om)", f"count(DISTINCT {e()}) = 1"])


def group(depth: int, named: bool) -> Select:
    text, scope = source(depth)
    condition_ = where(scope)
    keyed: list[tuple[str, str]] = []
    for _ in range(CHANCE.randrange(4)):
        kind = pick(["int", "txt", "bool", "date", "num"])
        keyed.append(pick(scope.typed()) if one(2) and scope.typed() else (expression(kind, scope, 1), kind))
    keyed = [each for each in keyed if each[1] in ORDERED or each[1] == "jsonb"]
    found = keyed + [aggregate(scope) for _ in range(CHANCE.randrange(0 if keyed else 1, 4))]
    columns, named_outputs = named_columns(found), named or one(2)
    clause, hidden = " GROUP BY ()" if one(10) and not keyed else "", False
    if keyed:
        written = {"position": [str(number) for number in range(1, len(keyed) + 1)], "name": [name for name, _ in columns], "text": [what for what, _ in keyed]}
        items = ", ".join(written[pick(["position", "text", "name" if named_outputs else "text"])][: len(keyed)])
        # PostgreSQL 15 does not sort by constants of grouping sets, nor by the same column again, though they are NULL in some.
        sets = [f"ROLLUP ({items})", f"CUBE ({items})", f"GROUPING SETS (({items}), ())"] if len(set(keyed) & set(scope.typed())) == len(keyed) else []
        clause = " GROUP BY " + pick([items] * 5 + sets)
        if clause == f" GROUP BY {items}" and one(8):
            clause, hidden = f"{clause}, {pick(scope.columns('int') or scope.columns())}", True
    if one(5):
        clause += f" HAVING {having(scope)}"
    base = f"SELECT {output_list(found, named_outputs)} FROM {text}{condition_}{clause}"
    if named or one(3):
        return Select(base, columns, "set")
    first, kind = aggregate(scope)
    before = f"{first}{direction()}, " if one(3) and kind in ORDERED and kind != "flt" else ""
    if all_ordered(columns) and not hidden:
        return Select(base + by_position(columns).replace(" ORDER BY ", f" ORDER BY {before}") + limit(), columns, "total")
    return Select(base + (f" ORDER BY {before[:-2]}" if before else ""), columns, "set")


def distinct(depth: int, named: bool) -> Select:
    text, scope = source(depth)
    condition_, found = where(scope), outputs(scope, CHANCE.randrange(1, 4))
    columns = named_columns(found)
    if one(2) or not scope.ordered():
        base = f"SELECT DISTINCT {output_list(found, named or one(2))} FROM {text}{condition_}"
        ordered = not named and all_ordered(columns) and one(2)
        return Select(base + by_position(columns) + limit(), columns, "total") if ordered else Select(base, columns, "set")
    on = [pick(scope.ordered())[0] for _ in range(CHANCE.randrange(1, 3))]
    if one(4):
        on[0] = expression("int", scope, 1)
    order = ", ".join([what + direction() for what in on] + scope.unique())
    return Select(f"SELECT DISTINCT ON ({', '.join(on)}) {output_list(found, True)} FROM {text}{condition_} ORDER BY {order}{limit()}", columns, "total")


def window(depth: int, named: bool) -> Select:
    text, scope = source(depth)
    condition_, found, unique = where(scope), outputs(scope, CHANCE.randrange(1, 3)), scope.unique()
    for _ in range(CHANCE.randrange(1, 3) if scope.ordered() else 0):
        (what, kind), (other, _) = pick(scope.ordered()), pick(scope.ordered())
        part = pick(["", f"PARTITION BY {other} ", f"PARTITION BY {other} ", f"PARTITION BY {unique[0]} "])
        whole = f"{part}ORDER BY {what}{pick(['', ' DESC', ' NULLS FIRST'])}, {', '.join(unique)}"
        number = expression("int", scope, 0)
        found.append(
            pick(
                [
                    (f"{pick(['row_number()', 'ntile(3)'])} OVER ({whole})", "int"),
                    (f"rank() OVER ({part}ORDER BY {what})", "int"),
                    (f"dense_rank() OVER ({part}ORDER BY {what} DESC)", "int"),
                    (f"count(*) OVER ({part})", "int"),
                    (f"sum({number}) OVER ({whole})", "num"),
                    (f"{pick([f'lag({what})', f'lead({what}, 2)', f'first_value({what})'])} OVER ({whole})", kind),
                    (f"last_value({what}) OVER ({whole} ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)", kind),
                    (f"max({number}) OVER ({part})", "int"),
                    (f"count(*) FILTER (WHERE {condition(scope, 0)}) OVER ({part})", "int"),
                    (f"cume_dist() OVER (ORDER BY {what})", "flt"),
                    (f"nth_value({what}, 2) OVER ({whole} RANGE UNBOUNDED PRECEDING)", kind),
                ]
            )
        )
    base, columns = f"SELECT {output_list(found, True)} FROM {text}{condition_}", named_columns(found)
    if named or one(3) or not scope.ordered():
        return Select(base, columns, "set")
    return Select(f"{base} ORDER BY {', '.join([pick(scope.ordered())[0] + direction(), *unique])}{limit()}", columns, "total")


def set_operation(depth: int, named: bool) -> Select:
    kinds = [pick(["int", "txt", "num", "date", "bool", "flt"]) for _ in range(CHANCE.randrange(1, 3))]

    def branch() -> str:
        way = CHANCE.randrange(6)
        if way == 0:
            return "(VALUES {})".format(", ".join(f"({', '.join(literal(kind, value(kind), 0) for kind in kinds)})" for _ in range(2)))
        text, scope = source(depth - 1)
        found = [f"({what})::{SQL[kind] if kind != 'int' else 'bigint'} AS c{number}" for number, (what, kind) in enumerate(outputs(scope, len(kinds), kinds), 1)]
        rest = f"{', '.join(found)} FROM {text}{where(scope)}"
        if way == 1:
            return f"(SELECT {rest} ORDER BY {', '.join(scope.unique())} LIMIT 5)"
        if way == 2:
            return f"(SELECT DISTINCT {rest})"
        if way == 3 and kinds[0] == "int":
            return f"(SELECT count(*) AS c1{''.join(f', {what}' for what in found[1:])} FROM {text}{where(scope)}{' GROUP BY 2' if len(kinds) > 1 else ''})"
        return pick([f"(SELECT {rest})", f"SELECT {rest}"])

    sql = branch()
    for _ in range(CHANCE.randrange(1, 3)):
        sql += f" {pick(['UNION', 'UNION ALL', 'INTERSECT', 'EXCEPT', 'INTERSECT ALL', 'EXCEPT ALL', 'UNION'])} {branch()}"
    columns = [(f"c{number}", kind) for number, kind in enumerate(kinds, 1)]
    return Select(sql, columns, "set") if named or one(2) else Select(sql + by_position(columns) + limit(), columns, "total")


def common(depth: int, named: bool) -> Select:
    """WITH."""
    query, called, around = select(depth - 1, named=True), alias("w"), alias("x")
    columns = dict(query.columns)
    text, scope = f"{called} {around}", Scope([(around, columns, list(columns))])
    if one(2):
        text, scope = join_more(text, scope)
    found = [aggregate(scope)] if one(3) else outputs(scope, CHANCE.randrange(1, 3))
    return Select(f"WITH {called} AS {pick(['', 'MATERIALIZED ', 'NOT MATERIALIZED '])}({query.sql}) SELECT {output_list(found, True)} FROM {text}{where(scope, 1)}", named_columns(found), "set")


def select(depth: int = 2, named: bool = False) -> Select:
    """`named`: within another, so that all its columns have names, c1 and so on."""
    return pick([plain] * 5 + [group] * 5 + [distinct] * 2 + [window] * 2 + [set_operation if depth > 0 else group] * 2 + [common if depth > 0 else plain])(depth, named)


def query() -> Select:
    """A whole statement."""
    if one(240):
        return Select(pick(["TABLE {}", "SELECT * FROM {}", "TABLE public.{}", "SELECT {0}.* FROM {0}"]).format(pick(list(TABLES))), [], "set")
    found = select(pick([1, 2, 2, 3]))
    if one(6):
        called = sorted(set(re.findall(rf"\b((?:{'|'.join(TABLES)}|[qvlx])_?\d+)\.", found.sql)))
        for each in CHANCE.sample(called, CHANCE.randrange(len(called) + 1)):
            found.sql, found.stripped = re.sub(rf"\b{each}\.", "", found.sql), True
    return found
