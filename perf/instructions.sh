#!/usr/bin/env bash
# Instructions in user space of all of pgdog per transaction, by callgrind: the same within 1% with 16
# clients (2% with 4), whatever else the machine does.
#
#   perf/instructions.sh [MODE=simple] [CLIENTS=16] [FUNCTIONS=20]
#
# MODE: simple, extended or prepared, one SELECT of a number each; login, a connection (SCRAM) and one such SELECT;
# transaction, four statements, extended; plain, split or sharded, a simple point query on a database like those of routed.sh.
# Counts 100 and then 300 transactions of each client and prints the difference by 200, and what most of it is spent in:
# functions as compiled, so what is inlined counts for its caller. One core. Valgrind knows no SHA instructions: hashing
# (`sha2`) is about a twentieth of what is printed where the CPU has them. PGDOG names another build than target/release/pgdog.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-simple} clients=${2:-16} functions=${3:-20}
.ci/setup counter postgres
postgres_options=(-c max_connections=100)
. perf/postgres.sh
PGPORT=$pg_port psql -c "ALTER ROLE postgres PASSWORD 'postgres'" postgres
for database in s0 s1 s2; do
  PGPORT=$pg_port psql -c "CREATE DATABASE $database" postgres
  PGPORT=$pg_port "$PG/pgbench" -i -q -s 1 "$database" >/dev/null 2>&1
done
port=$(free 26832)
binary=$PGDOG
PGDOG=$folder/counted
printf '#!/bin/sh\nexec valgrind -q --tool=callgrind --instr-atstart=no --callgrind-out-file=%s/counts %s "$@"\n' "$folder" "$binary" >"$PGDOG"
chmod +x "$PGDOG"
{
  printf '[general]\nhost = "127.0.0.1"\nport = %s\nworkers = 1\nauth_type = "scram"\nlog_connections = false\nlog_disconnections = false\ndefault_pool_size = 20\n' "$port"
  database postgres postgres ''
  database plain s0 ''
  database split s0 'role = "primary"'
  database split s1 'role = "replica"'
  three_shards pgbench_accounts aid
} >"$folder/toml"
start_pgdog "$port" <"$folder/toml"
pid=${pgdog_pids[0]}
trap '{ kill -KILL "$pid" || true; } 2>/dev/null; cleanup' EXIT # under valgrind it does not end by itself
export PGSSLMODE=disable
point='SELECT abalance FROM pgbench_accounts WHERE aid = :n;'
script="SELECT :n;" name=postgres protocol=$mode
case $mode in
  login) protocol=simple ;;
  transaction) script="BEGIN; $point UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :n; COMMIT;" name=plain protocol=extended ;;
  plain | split | sharded) script=$point name=$mode protocol=simple ;;
esac
printf '\\set n random(1, 100000)\n%s\n' "${script//; /;$'\n'}" >"$folder/script.sql"
arguments=(-n -f "$folder/script.sql" -c "$clients" -M "$protocol")
[ "$mode" != login ] || arguments+=(-C)
fail() { cat "$folder/log" >&2; exit 1; }
# Transactions of each client; the counts go to a file of their own.
count() {
  PGPORT=$port "$PG/pgbench" "${arguments[@]}" -t "$1" "$name" >"$folder/log" 2>&1 || fail
  callgrind_control -d "$pid" >"$folder/log" 2>&1 || fail
  until [ -s "$folder/counts.$2" ] && grep -q '^totals:' "$folder/counts.$2"; do sleep 0.1; done
}
callgrind_control -i on "$pid" >"$folder/log" 2>&1 || fail
count 20 1 # whatever is done once
count 100 2
count 300 3
python3 - "$folder/counts.2" "$folder/counts.3" $((200 * clients)) "$functions" <<'PY'
import collections, re, sys

def counts(path):
    """Self cost by function. Format: https://valgrind.org/docs/manual/cl-format.html"""
    names, costs, function, call = {}, collections.Counter(), None, False
    for line in open(path):
        named = re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line)
        if named:
            if named[3]:
                names[named[2]] = named[3]
            if not named[1]:
                function = names[named[2]]
        elif line.startswith("calls="):
            call = True
        elif line[0] in "+-*0123456789":
            if not call:
                costs[function] += int(line.split()[1])
            call = False
    return costs

few, many, transactions, functions = counts(sys.argv[1]), counts(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
many.subtract(few)
print(f"{sum(many.values()) / transactions:10.0f} instructions a transaction")
for function, cost in many.most_common(functions):
    print(f"{cost / transactions:10.0f} {function}")
PY
