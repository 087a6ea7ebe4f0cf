"""Statements that write, at random."""

from collections.abc import Callable

from grammar import Scope, alias, both, condition, expression, key_condition, queries
from values import CHANCE, FLOATS, KEYS, NEW_KEYS, NUMBERS, PARENTS, TABLES, Mark, mark, one, parts, pick, written

Written = tuple[str, list[str]]  # a statement and the tables it changes


def of(name: str, called: str | None = None) -> Scope:
    return Scope([(called or name, TABLES[name].columns, TABLES[name].unique)])


def new_value(name: str, column: str) -> str:
    kind = TABLES[name].columns[column]
    if one(8):
        return "NULL"
    if column in ("m", "w"):
        return mark("num", pick(NUMBERS))
    if column == "om_id":
        return mark("int", pick(KEYS["om"]))
    if column in ("i", "q", "s", "no", "dp", "b"):
        return mark("int", str(CHANCE.randrange(1, 30)))
    if column == "r":
        return mark("flt", pick(FLOATS))
    return mark("txt", pick(["a", "b", "ab ", ""])) if column == "c" else mark(kind)


def key(name: str, new: bool | None = None) -> str:
    """Of a new row or one that is there; children have those of parents."""
    parent = PARENTS.get(name)
    new = (one(12) if parent else one(2)) if new is None or parent else new
    return mark(TABLES[name].key_kind, pick(NEW_KEYS[parent or name] if new else KEYS[parent or name]))


def returning(name: str, called: str | None = None) -> str:
    if one(2):
        return ""
    if one(4):
        return " RETURNING *"
    scope = of(name, called)
    with queries(False):
        return " RETURNING " + ", ".join(pick(scope.columns()) if one(2) else expression(pick(["int", "txt", "num"]), scope, 1) for _ in range(CHANCE.randrange(1, 4)))


def assignments(name: str, scope: Scope) -> str:
    columns = [column for column in written(name) if column not in TABLES[name].unique]
    found = []
    for column in CHANCE.sample(columns, CHANCE.randrange(1, min(4, len(columns) + 1))):
        if column in ("om_id", "dp", "c", "v", "s", "r", "dw", "b") or one(2):
            found.append((column, new_value(name, column)))
        else:
            with queries(one(5)):
                found.append((column, expression(TABLES[name].columns[column], scope, 1)))
    if one(8) and len(found) > 1:
        return f"({', '.join(column for column, _ in found)}) = {pick(['', 'ROW'])}({', '.join(what for _, what in found)})"
    return ", ".join(f"{column} = {what}" for column, what in found)


def where(scope: Scope) -> str:
    with queries(one(4)):
        return (one(3) and key_condition(scope)) or condition(scope, CHANCE.randrange(3))


def insert() -> Written:
    name = pick(list(TABLES))
    unique = TABLES[name].unique
    free = [column for column in written(name) if column not in unique]
    columns = unique + CHANCE.sample(free, CHANCE.randrange(min(5, len(free)) + 1))
    if one(6):
        CHANCE.shuffle(columns)
    computed = {"int": "1 + 1", "txt": "'a' || 'b'", "num": "1.5 * 2", "flt": "1e0 / 4"}
    rows = []
    for _ in range(pick([1, 1, 2, 3, 5])):
        row = []
        for column in columns:
            if column == unique[0]:
                row.append(key(name))
            elif column in unique:
                row.append(mark("int", str(CHANCE.randrange(9))))
            elif one(15):
                row.append("DEFAULT")
            elif one(10) and column not in ("om_id", "c"):
                row.append(f"({computed.get(TABLES[name].columns[column], 'NULL')})")
            else:
                row.append(new_value(name, column))
        rows.append(f"({', '.join(row)})")
    conflict = ""
    if one(3):
        conflict = pick([" ON CONFLICT DO NOTHING", f" ON CONFLICT ({', '.join(unique)}) DO NOTHING"])
        if others := [column for column in columns if column not in unique and one(2)]:
            column = pick(others)
            new = pick([f"EXCLUDED.{column}", f"{name}.{column}", f"coalesce({name}.{column}, EXCLUDED.{column})"])
            conflict = f" ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {column} = {new}{pick(['', '', f' WHERE {name}.{column} IS NOT NULL'])}"
    return f"INSERT INTO {name} ({', '.join(columns)}) VALUES {', '.join(rows)}{conflict}{returning(name)}", [name]


def insert_select() -> Written:
    choices: list[Callable[[], Written]] = [
        lambda: (f"INSERT INTO ob (id, om_id, label) SELECT id + {mark('int', pick(['40', '60']))}, id, code FROM om WHERE id < 6{returning('ob')}", ["ob"]),
        lambda: (f"INSERT INTO ch (a_id, no, q, t) SELECT id, {mark('int', pick('5678'))}, i, t FROM a WHERE {condition(of('a'), 1)}{pick([' ON CONFLICT DO NOTHING', ''])}{returning('ch')}", ["ch"]),
        lambda: (f"INSERT INTO ch SELECT a_id, no + 10, q + 1, w, t, om_id, d FROM ch WHERE {condition(of('ch'), 1)}{returning('ch')}", ["ch"]),
        lambda: (f"INSERT INTO tc (k, no) SELECT k, {mark('int', '7')} FROM tx WHERE {condition(of('tx'), 1)}", ["tc"]),
        lambda: (f"INSERT INTO ob SELECT x, 1, $q$a$q$ || x FROM generate_series(70, {mark('int', '73')}) x", ["ob"]),
        lambda: (f"INSERT INTO lr (k, i, t) SELECT {key('lr', True)}, id, code FROM om WHERE id = {mark('int', '3')}{returning('lr')}", ["lr"]),
        lambda: (f"INSERT INTO lr (k, i) SELECT v.x, v.y FROM (VALUES ({key('lr', True)}, 1), ({key('lr', True)}, 2)) v(x, y)", ["lr"]),
    ]
    return pick(choices)()


def update() -> Written:
    name = pick(list(TABLES))
    called = pick([name, alias(name + "_")])
    scope = of(name, called)
    condition_ = "" if one(8) else f" WHERE {where(scope)}"
    return f"UPDATE {name}{'' if called == name else pick([' ', ' AS ']) + called} SET {assignments(name, scope)}{condition_}{returning(name, called)}", [name]


def move() -> Written:
    """A new key, and so perhaps another shard."""
    name = pick([name for name in TABLES if TABLES[name].key])
    column, more = TABLES[name].key, f", {assignments(name, of(name))}" if one(2) else ""
    condition_ = where(of(name)) if one(5) else f"{column} = {key(name, False)}"
    if name in PARENTS:
        condition_ += f" AND no = {mark('int', pick('0123'))}"
    return f"UPDATE {name} SET {column} = {key(name)}{more} WHERE {condition_}{returning(name)}", [name, "tc"]


FROM = [("ch", "a", "ch.a_id = o.id"), ("tc", "tx", "tc.k = o.k"), ("ch", "om", "ch.om_id = o.id"), ("ob", "om", "ob.om_id = o.id"), ("lr", "om", "lr.i = o.id")]
UPDATE_FROM = [*FROM, ("a", "om", "a.i = o.id"), ("a", "lr", "a.id = o.k"), ("om", "a", "om.id = o.id"), ("lr", "lt", "lr.i = o.i AND false")]
DELETE_USING = [*FROM, ("lr", "ch", "lr.k = o.a_id"), ("ob", "ch", "ob.id = o.q")]


def update_from() -> Written:
    name, other, on = pick(UPDATE_FROM)
    scope = both(of(name), of(other, "o"))
    more = f" AND {condition(scope, 0)}" if one(2) else ""
    return f"UPDATE {name} SET {assignments(name, scope)} FROM {other} o WHERE {on}{more}{returning(name)}", [name]


def delete() -> Written:
    if one(3):
        name, other, on = pick(DELETE_USING)
        return f"DELETE FROM {name} USING {other} o WHERE {on} AND {condition(both(of(name), of(other, 'o')), 0)}{returning(name)}", [name, "tc"]
    name = pick(list(TABLES))
    called = pick([name, alias(name + "_")])
    return f"DELETE FROM {name}{'' if called == name else ' ' + called} WHERE {where(of(name, called))}{returning(name, called)}", [name, "tc"]


def within() -> Written:
    """WITH, around or in front."""
    name = pick(["om", "ob", "a", "ch", "lr"])
    scope = of(name)
    joined = {"lr": "i", "ch": "om_id"}.get(name, "id")
    choices: list[Callable[[], str]] = [
        lambda: f"WITH d AS (DELETE FROM {name} WHERE {where(scope)} RETURNING *) SELECT count(*) FROM d",
        lambda: f"WITH d AS (UPDATE {name} SET {assignments(name, scope)} WHERE {where(scope)} RETURNING {', '.join(TABLES[name].unique)}) SELECT * FROM d",
        lambda: f"WITH s AS (SELECT id FROM om WHERE {condition(of('om'), 0)}) UPDATE {name} SET {assignments(name, scope)} WHERE {name}.{joined} IN (SELECT id FROM s)",
        lambda: f"WITH s(x) AS (VALUES ({mark('int')}), ({mark('int')})) DELETE FROM {name} WHERE {TABLES[name].unique[0]} IN (SELECT x FROM s)",
    ]
    return pick(choices)(), [name]


def merge() -> Written:
    return "MERGE INTO ob USING om o ON ob.om_id = o.id AND ob.id < 20 WHEN MATCHED THEN UPDATE SET label = o.code", ["ob"]


def write() -> Written:
    return pick([insert] * 6 + [insert_select] + [update] * 5 + [move] * 2 + [update_from] * 2 + [delete] * 3 + [within] * 2 + [merge])()


def copied() -> tuple[str, str, list[str]]:
    """A table, COPY into it, and lines."""
    name = pick(list(TABLES))
    unique = TABLES[name].unique
    free = [column for column in written(name) if column not in unique]
    columns = unique + CHANCE.sample(free, CHANCE.randrange(min(4, len(free)) + 1))
    lines = []
    for _ in range(CHANCE.randrange(6)):
        line = []
        for column in columns:
            marked = key(name, not one(6)) if column == unique[0] else mark("int", str(CHANCE.randrange(15))) if column in unique else new_value(name, column)
            found = [part.value for part in parts(marked) if isinstance(part, Mark)]
            line.append(found[0].replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n") if found else "\\N")
        lines.append("\t".join(line))
    return name, f"COPY {name} ({', '.join(columns)}) FROM STDIN", lines
