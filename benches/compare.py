#!/usr/bin/env python3
"""Compares gungraun's JSON lines on standard input with instructions.toml; with --bless, writes them there instead.

Fails where a count has risen by more than 3%, or is missing on either side."""
import json
import pathlib
import subprocess
import sys
import tomllib

KEPT = pathlib.Path(__file__).with_name("instructions.toml")
TOLERATED = 0.03
HEAD = """\
# Instructions of each bench, counted by callgrind. `make bench` fails where one has risen by more than 3%;
# `make bench BLESS=1` writes this file. Another compiler or C library counts otherwise. Valgrind has no SHA
# instructions: what hashes is cheaper in reality.
"""


def counted(lines):
    """{"group.function.id": instructions}"""
    for line in filter(None, map(str.strip, lines)):
        run = json.loads(line)
        callgrind = next(p for p in run["profiles"] if p["tool"] == "Callgrind")
        name = ".".join((run["group"], run["function_name"], run["id"]))
        yield name, callgrind["data"]["total"]["metrics"]["Ir"]["values"]["new"]


def bless(counts, compiler):
    lines = [HEAD, f'compiler = "{compiler}"']
    group = None
    for name, count in counts.items():
        section, rest = name.split(".", 1)
        if section != group:
            group = section
            lines.append(f"\n[{group}]")
        lines.append(f'"{rest}" = {count}')
    KEPT.write_text("\n".join(lines) + "\n")
    print(f"{len(counts)} counts written to benches/{KEPT.name}")


def main():
    counts = dict(counted(sys.stdin))
    if not counts:
        sys.exit("bench: nothing was counted")
    compiler = subprocess.check_output(["rustc", "--version"], text=True).strip()
    if sys.argv[1:] == ["--bless"]:
        return bless(counts, compiler)
    kept = tomllib.loads(KEPT.read_text())
    kept_compiler = kept.pop("compiler")
    before = {f"{group}.{name}": n for group, names in kept.items() for name, n in names.items()}
    problems = [f"{name} was not run" for name in before.keys() - counts.keys()]
    width = max(map(len, counts))
    for name, count in counts.items():
        if name not in before:
            problems.append(f"{name} is new")
            continue
        change = count / before[name] - 1
        print(f"{name:{width}} {count:>9,} {change:+7.1%}")
        if change > TOLERATED:
            problems.append(f"{name} takes {count:,} instructions, {change:.1%} more than {before[name]:,}")
    if problems:
        print("\nbench: " + "\nbench: ".join(sorted(problems)), file=sys.stderr)
        if compiler != kept_compiler:
            print(f"bench: the file was made by {kept_compiler}, and this is {compiler}", file=sys.stderr)
        sys.exit("bench: make it cheaper, or say in the commit why not and run `make bench BLESS=1`")


main()
