"""Random SELECTs, INSERTs, UPDATEs, DELETEs and COPYs, over three shards through pgdog and in one database beside it; answers
and rows are compared. What pgdog refuses clearly is counted, another answer is an error. Called by `make differential`; see `--help`."""

import argparse
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from compare import Difference, compare
from grammar import Select, query as random_select
from throwaway import Cluster, Pgdog, place
from values import CHANCE, NEW_KEYS, OIDS, PARENTS, SQL, TABLES, configuration, encoded, first_rows, literal, omni_rows, one, parameters, pick, quoted, varied, written, written_out
from wire import COPY_DONE, SYNC, Connection, Gone, Hang, Message, bind, close, copy_data, describe, execute, parse, query
from writes import copied, write

SHARDS = range(3)
SETTINGS = [
    *["SET timezone = 'Asia/Kolkata'", "SET datestyle = 'SQL, DMY'", "SET datestyle = 'German'", "SET intervalstyle = 'iso_8601'", "SET intervalstyle = 'sql_standard'"],
    *["SET bytea_output = 'escape'", "SET extra_float_digits = 3", "SET search_path = public", "SET enable_hashagg = off"],
]
GENERAL = 'workers = 2\nauth_type = "trust"\ndefault_pool_size = 8\n[rewrite]\nenabled = true\nshard_key = "rewrite"\nsplit_inserts = "rewrite"\n'
# Result of a statement, how it was asked, and its text.
Result = tuple[Difference | None, str, str]


def run_to_end(portal: str = "", result: int | Sequence[int] = 0, values: Sequence[bytes | None] = (), formats: Sequence[int] = (), statement: str = "", rows_max: int = 0) -> bytes:
    return bind(portal, statement, values, formats, result) + describe(b"P", portal) + execute(portal, rows_max) + SYNC


def result_formats(columns: int) -> int | Sequence[int]:
    """One for all, or for each, if their number is known."""
    return [CHANCE.randrange(2) for _ in range(columns)] if columns and one(2) else CHANCE.randrange(2)


def limited(sql: str) -> bool:
    return bool(re.search("LIMIT|OFFSET|FETCH", sql.rsplit("ORDER BY", 1)[-1]))


class Twins:
    """The same data on both sides, and what has been found to differ."""

    def __init__(self, folder: str, program: str, seed: int):
        self.seed, self.counts, self.refusals, self.findings = seed, Counter[str](), Counter[str](), Counter[str]()
        self.settings = [sql for sql in SETTINGS if one(3)] if one(2) else []
        locale = pick(["", " TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"])
        self.cluster = Cluster(folder, "server", synchronous_commit="off", autovacuum="on", jit="off", statement_timeout="20s")
        self.cluster.rows("CREATE ROLE alice LOGIN SUPERUSER")
        self.cluster.rows(f"CREATE DATABASE whole OWNER alice{locale}")
        schema = Path(__file__).with_name("schema.sql").read_text()
        self.cluster.rows(schema, "whole")
        self.cluster.rows("CREATE DATABASE shard_0 OWNER alice TEMPLATE whole")
        # All shards number users' types alike, or each does in its own way.
        numbered = one(2)
        shards = ""
        for shard in SHARDS:
            if shard and numbered:
                self.cluster.rows(f"CREATE DATABASE shard_{shard} OWNER alice{locale}")
                self.cluster.rows(schema, f"shard_{shard}")
            elif shard:
                self.cluster.rows(f"CREATE DATABASE shard_{shard} OWNER alice TEMPLATE whole")
            shards += f'[[databases]]\nname = "sharded"\nhost = "127.0.0.1"\nport = {self.cluster.port}\ndatabase_name = "shard_{shard}"\nshard = {shard}\n'
        settings = f"canonicalize_type_information = {str(numbered).lower()}\n{GENERAL}"
        self.pgdog = Pgdog(folder, program, settings + shards + configuration(), '[[users]]\nname = "alice"\ndatabase = "sharded"\npassword = "x"\n')
        self.databases = [self.cluster.connect(name) for name in ("whole", *(f"shard_{shard}" for shard in SHARDS))]
        self.number_types()
        print(f"locale{locale or ' C'}, {self.settings}{', numbered types' if numbered else ''}", flush=True)
        self.open()
        self.fill()

    def number_types(self) -> None:
        """As clients know them."""
        for kind in ("enum", "enums", "glad", "pair", "pairs", "span"):
            OIDS[kind] = self.cluster.rows(f"SELECT '{SQL[kind]}'::regtype::oid::int", "whole")[0][0]

    def open(self) -> None:
        self.ours, self.theirs = Connection(self.pgdog.port, "sharded", "alice"), Connection(self.cluster.port, "whole", "alice")
        for sql in self.settings:
            self.both(query(sql))

    def reopen(self) -> None:
        self.ours.close()
        self.theirs.close()
        self.open()

    def fill(self) -> None:
        for name, row in [*omni_rows(), *first_rows()]:
            sql = f"INSERT INTO {name} ({', '.join(written(name)[: len(row)])}) VALUES ({', '.join(row)})"
            if compare(*self.both(query(sql))) or self.theirs.status != "I":
                self.report("fill", "", sql, None)
        for database in self.databases:
            for name in TABLES:
                database.execute(f"CREATE TABLE base.{name} AS TABLE public.{name}")
            database.execute("ANALYZE")

    def reset(self) -> None:
        names = ["om", "ob", *(name for name in TABLES if name not in ("om", "ob"))]
        lists = {name: ", ".join(written(name)) for name in names}
        sql = [f"DELETE FROM {name}" for name in reversed(names)]
        sql += [f"INSERT INTO {name} ({list_}) SELECT {list_} FROM base.{name}" for name, list_ in lists.items()]
        for database in self.databases:
            database.execute("; ".join(sql))

    def both(self, batch: bytes, syncs: int = 1, stop: bytes = b"") -> tuple[list[Message], list[Message]]:
        """The answers of both, up to a number of ReadyForQuery or a message `stop`."""
        self.ours.send(batch)
        self.theirs.send(batch)
        found: list[list[Message]] = []
        for side in (self.theirs, self.ours):
            messages: list[Message] = []
            while sum(tag == b"Z" for tag, _ in messages) < syncs and (not messages or messages[-1][0] != stop):
                messages.append(side.read())
            found.append(messages)
        return found[1], found[0]

    def report(self, kind: str, how: str, sql: str, detail: object, history: Sequence[str] = ()) -> None:
        self.findings[kind] += 1
        if self.findings[kind] <= 5:
            print(f"## {kind} {how}\n   {sql[:2000]}\n   {str(detail)[:900]}", *(f"   after {each}" for each in history), sep="\n", flush=True)

    def account(self, results: list[Result], stripped: bool = False) -> None:
        for difference, how, sql in results:
            self.counts["statements"] += 1
            kind = difference.kind if difference else "same"
            if difference and kind == "refused":
                self.refusals[re.sub(r'"[^"]*"', '"…"', str(difference.detail))[:110]] += 1
            # Names without their table may order by something else; sums of floats differ in their last digits.
            elif kind == "order" and (stripped or re.search("avg|stddev|var|sum", sql)):
                kind = "order allowed"
            # As text, without the columns' types to compare by.
            elif kind == "copied" and re.search(r"\b(iv|n)\b|avg|stddev|var", sql):
                kind = "copied allowed"
            # Of a plan in which constants are folded, and so one branch may be all that is left.
            elif kind == "modifiers" and re.search("CASE|coalesce|nullif", sql):
                kind = "modifiers allowed"
            # Evaluated for rows that another plan does not look at.
            elif difference and kind in ("error of pgdog only", "no error") and str(difference.detail).startswith("[('22003'"):
                kind = "overflow allowed"
            elif difference and kind != "spelling":
                self.report(kind, how, sql, difference.detail)
            self.counts[kind] += 1

    # SELECT, in one of the ways a client may ask.

    def select(self, asked: Select, way: str = "") -> list[Result]:
        ways = ["simple"] * 4 + ["extended"] * 3 + ["parameters"] * 2 + ["prepared"] * 3 + ["portal"] * 2 + ["pipeline", "cursor", "copy", "sql_prepared"]
        way = way or pick(ways)

        def judged(ours: list[Message], theirs: list[Message]) -> Difference | None:
            return compare(ours, theirs, asked.order, asked.keys, limited(asked.sql))

        if way == "copy" and asked.columns and "flt" not in [kind for _, kind in asked.columns]:
            sql = f"COPY ({written_out(asked.sql)}) TO STDOUT{pick(['', ' CSV', ' CSV HEADER', ' (FORMAT csv, FORCE_QUOTE *)'])}"
            return [(judged(*self.both(query(sql))), way, sql)]
        if way in ("simple", "copy"):
            sql = written_out(asked.sql)
            return [(judged(*self.both(query(sql))), way, sql)]
        if way == "extended":
            sql = written_out(asked.sql)
            return [(judged(*self.both(parse("", sql) + run_to_end(result=result_formats(len(asked.columns))))), way, sql)]
        if way == "pipeline":
            return self.pipeline(asked)
        if way == "cursor":
            return [(judged(*self.cursor(written_out(asked.sql))), way, written_out(asked.sql))]
        return self.with_parameters(asked.sql, way, judged, len(asked.columns))

    def with_parameters(self, marked: str, way: str, judged: Callable[[list[Message], list[Message]], Difference | None], columns: int = 0) -> list[Result]:
        sql, values, types = parameters(marked, 0.7 if way in ("parameters", "portal") else 0.9)
        sent, formats = encoded(values)
        result = result_formats(columns)
        text = f"{sql} -- {values} {types} formats {formats} {result}"
        if way == "parameters":
            return [(judged(*self.both(parse("", sql, types) + run_to_end("", result, sent, formats))), way, text)]
        if way == "portal":
            self.both(query("BEGIN"))
            found = self.portal(parse("", sql, types) + run_to_end("c", result, sent, formats, rows_max=pick([1, 2, 3, 7, 20])))
            self.both(query("ROLLBACK"))
            return [(judged(*found), way, text)]
        if way == "sql_prepared":
            self.both(query("DEALLOCATE ALL"))
            found_ = [(compare(*self.both(query(f"PREPARE p1 AS {sql}"))), "PREPARE", sql)]
            for _ in range(2 if found_[0][0] is None else 0):
                list_ = ", ".join("NULL" if what is None else literal(kind, what, 1) for kind, what in values)
                call = f"EXECUTE p1{f'({list_})' if values else ''}"
                found_.append((judged(*self.both(query(call))), "EXECUTE", f"{sql} -- {call}"))
                values = varied(values)
            return found_
        name = f"s{CHANCE.randrange(5)}"
        self.both(close(b"S", name) + SYNC)
        results: list[Result] = [(compare(*self.both(parse(name, sql, types) + describe(b"S", name) + SYNC)), "described", text)]
        for _ in range(CHANCE.randrange(1, 4) if results[0][0] is None and self.theirs.status != "E" else 0):
            sent, formats = encoded(values)
            result = result_formats(columns)
            results.append((judged(*self.both(run_to_end("", result, sent, formats, name))), way, f"{sql} -- {values} formats {formats} {result}"))
            values = varied(values)
        return results

    def portal(self, opened: bytes) -> tuple[list[Message], list[Message]]:
        """Slices, and now and then something between them."""
        ours, theirs = self.both(opened)
        while not any(tag in (b"E", b"C") for tag, _ in ours + theirs):
            if one(6):
                between = pick(["SELECT 1", "SELECT count(*) FROM om", "SELECT count(*) FROM a", "SAVEPOINT s"])
                self.account([(compare(*self.both(query(between))), "between slices", between)])
                continue
            rows_max = pick([1, 2, 5, 20, 0])
            ours_, theirs_ = self.both(execute("c", rows_max) * pick([1, 1, 1, 2]) + SYNC)
            ours, theirs = ours + ours_, theirs + theirs_
        return ours, theirs

    def cursor(self, sql: str) -> tuple[list[Message], list[Message]]:
        ours: list[Message] = []
        theirs: list[Message] = []
        fetch = pick(["FETCH NEXT FROM c", "FETCH FORWARD 3 FROM c", "FETCH c", "FETCH FORWARD c"])
        for each in ("BEGIN", f"DECLARE c CURSOR FOR {sql}", f"FETCH {CHANCE.randrange(1, 5)} FROM c", fetch, "FETCH ALL FROM c", "FETCH 1 FROM c", "CLOSE c", "COMMIT"):
            ours_, theirs_ = self.both(query(each))
            ours, theirs = ours + ours_, theirs + theirs_
            if any(tag == b"E" for tag, _ in ours + theirs):
                break
        self.both(query("ROLLBACK"))
        return ours, theirs

    def pipeline(self, first: Select) -> list[Result]:
        asked = [first, *(random_select() for _ in range(CHANCE.randrange(1, 4)))]
        texts, each = [written_out(select.sql) for select in asked], one(2)
        batch = b"".join(parse("", sql) + run_to_end() if each else (parse("", sql) + run_to_end())[: -len(SYNC)] for sql in texts)
        ours, theirs = self.both(batch if each else batch + SYNC, len(asked) if each else 1)
        if not each and any(tag == b"E" for tag, _ in ours + theirs):
            return [(compare(ours, theirs), "pipeline", " ;; ".join(texts))]
        end = b"Z" if each else b"C"
        pairs = zip(asked, texts, split(ours, end), split(theirs, end))
        return [(compare(our, their, select.order, select.keys, limited(sql)), "pipeline", sql) for select, sql, our, their in pairs if not select.stripped]

    # Writes, in transactions or alone.

    def write(self, history: list[str]) -> tuple[Result, list[str]]:
        way = pick(["simple"] * 4 + ["extended"] * 2 + ["parameters"] * 3 + ["prepared", "sql_prepared", "copy", "several"])
        if way == "copy":
            name, sql, lines = copied()
            history.append(f"{sql} {lines}")
            ours, theirs = self.both(query(sql), stop=b"G")
            data = "".join(f"{line}\n" for line in lines).encode()
            size = pick([7, 10**6])
            if ours[-1][0] == theirs[-1][0] == b"G":
                more = self.both(b"".join(copy_data(data[at : at + size]) for at in range(0, len(data), size)) + COPY_DONE)
                ours, theirs = ours + more[0], theirs + more[1]
            return (compare(ours, theirs), way, history[-1]), [name]
        if way == "several":
            return self.several(history)
        marked, names = write()
        ordered = "total" if marked.startswith("INSERT") and "VALUES" in marked and "SELECT" not in marked else "set"
        if way in ("simple", "extended"):
            sql = written_out(marked)
            history.append(sql)
            batch = query(sql) if way == "simple" else parse("", sql) + run_to_end(result=CHANCE.randrange(2))
            return (compare(*self.both(batch), ordered if way == "simple" else "set"), way, sql), names
        results = self.with_parameters(marked, way, lambda ours, theirs: compare(ours, theirs))
        history += [f"{how}: {sql}" for _, how, sql in results]
        return next((result for result in results if result[0]), results[-1]), names

    def several(self, history: list[str]) -> tuple[Result, list[str]]:
        """Statements in one text, or in one pipeline with one Sync."""
        texts, names, batch, simple = [], [], b"", one(2)
        for _ in range(CHANCE.randrange(2, 5)):
            marked, changed = (random_select().sql, []) if one(3) else write()
            names += changed
            sql, values, types = (written_out(marked), [], []) if simple else parameters(marked)
            sent, formats = encoded(values)
            batch += parse("", sql, types) + run_to_end("", 0, sent, formats)[: -len(SYNC)]
            texts.append(f"{sql} -- {values}" if values else sql)
        history.append("; ".join(texts))
        ours, theirs = self.both(query(history[-1]) if simple else batch + SYNC)
        return (compare(without_rows(ours), without_rows(theirs)), "several" if simple else "several, pipelined", history[-1]), names

    def writes(self) -> None:
        """Some statements, perhaps in a transaction with savepoints; then what the tables hold."""
        history: list[str] = []
        changed = {"om"}
        transaction, dead = one(2), False
        if transaction:
            history.append(pick(["BEGIN", "START TRANSACTION", "BEGIN ISOLATION LEVEL REPEATABLE READ"]))
            self.both(query(history[-1]))
        for number in range(CHANCE.randrange(1, 6)):
            savepoint = transaction and one(2)
            if savepoint:
                history.append(f"SAVEPOINT s{number}")
                self.both(query(history[-1]))
            if one(4):
                asked = random_select()
                results = self.select(asked, "simple")
                history.append(results[0][2])
                self.account(results, asked.stripped)
                difference = results[0][0]
            else:
                (difference, how, sql), names = self.write(history)
                changed.update(names)
                self.count_write(difference, how, sql, history)
            same = difference is None or difference.kind in ("spelling", "order")
            if not transaction:
                if difference and difference.kind == "refused":
                    self.reset()
                elif not same and difference and difference.kind != "other error":
                    break
            elif "E" in (self.ours.status, self.theirs.status):
                if not savepoint or one(2):
                    dead = True
                    break
                history.append(f"ROLLBACK TO s{number}")
                if found := compare(*self.both(query(history[-1]))):
                    self.report("savepoint", "", history[-1], found, history)
            elif not same:
                dead = True
                break
            elif savepoint and one(3):
                history.append(f"ROLLBACK TO s{number}")
                self.both(query(history[-1]))
        if transaction:
            history.append("ROLLBACK" if dead or one(4) else "COMMIT")
            if found := compare(*self.both(query(history[-1]))):
                self.report("end", "", history[-1], found, history)
        if self.differs(changed, history):
            self.reset()

    def count_write(self, difference: Difference | None, how: str, sql: str, history: list[str]) -> None:
        kind = difference.kind if difference else "same"
        if difference and kind == "refused":
            self.refusals[re.sub(r'"[^"]*"', '"…"', str(difference.detail))[:110]] += 1
        # Of several errors, each of values or constraints, which is met first.
        elif difference and kind == "other error" and all(found[0][0][:2] in ("22", "23") for found in difference.detail):  # type: ignore[attr-defined]
            kind = "other error allowed"
        elif difference and kind != "spelling":
            self.report(f"write: {kind}", how, sql, difference.detail, history)
        self.counts[f"write {kind}"] += 1

    def differs(self, names: set[str], history: Sequence[str] = ()) -> bool:
        """Whether the shards together hold other rows than the whole, or rows where their key does not find them."""
        found = False
        for name in names:
            whole, *shards = [sorted(text for (text,) in database.execute(f"SELECT {name}::text FROM {name}")) for database in self.databases]
            wrong = any(shard != whole for shard in shards) if TABLES[name].key is None else sorted(sum(shards, [])) != whole
            if wrong:
                self.report("tables differ", "", name, [list(Counter(whole) - Counter(shard))[:3] for shard in shards], history)
                found = True
            elif column := TABLES[name].key:
                known = NEW_KEYS[PARENTS.get(name, name)] if one(2) else [str(key) for (key,) in self.databases[0].execute(f"SELECT {column} FROM {name}")] or ["1"]
                sql = f"SELECT * FROM {name} WHERE {column} = {quoted(pick(known))}"
                if difference := compare(*self.both(query(sql))):
                    self.report("row not found", "", sql, difference, history)
                    found = True
        return found

    def run(self, until: float) -> None:
        self.reset()
        rounds = 0
        while time.time() < until:
            rounds += 1
            try:
                if one(2):
                    asked = random_select()
                    self.account(self.select(asked), asked.stripped)
                    if (self.ours.status, self.theirs.status) != ("I", "I"):
                        self.both(query("ROLLBACK"))
                else:
                    self.writes()
                    if rounds % 12 == 0:
                        self.reset()
            except (Hang, Gone) as error:
                self.report(type(error).__name__, "", "", traceback.format_exc())
                self.reopen()

    def stop(self) -> None:
        for database in self.databases:
            database.close()
        self.pgdog.stop()
        self.cluster.stop()


def split(messages: list[Message], end: bytes) -> list[list[Message]]:
    found: list[list[Message]] = [[]]
    for message in messages:
        found[-1].append(message)
        if message[0] == end:
            found.append([])
    return found


def without_rows(messages: list[Message]) -> list[Message]:
    """Where several statements are answered, only how many rows each has: their orders are not known one by one."""
    return [(tag, b"\0\0" if tag in (b"D", b"T") else body) for tag, body in messages]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=300, help="default 300")
    parser.add_argument("--pgdog", default="target/debug/pgdog", help="the binary (default target/debug/pgdog)")
    options = parser.parse_args()
    CHANCE.seed(options.seed)
    print(f"seed {options.seed}, {options.seconds:.0f} s", flush=True)
    with place("differential") as folder:
        twins = Twins(folder, options.pgdog, options.seed)
        try:
            twins.run(time.time() + options.seconds)
        finally:
            twins.stop()
    print(dict(twins.counts))
    for text, count in twins.refusals.most_common(20):
        print(f"  refused {count}: {text}")
    if twins.findings:
        sys.exit(f"different by seed {options.seed}: {dict(twins.findings)}")


if __name__ == "__main__":
    main()
