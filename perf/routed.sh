#!/usr/bin/env bash
# What routing costs: the same point query on a plain database, on one with a replica, and on one in three shards.
#
#   perf/routed.sh [ROUNDS=5] [SECONDS=4] [CLIENTS=16]
#
# pgbench -S with changing literals (simple protocol), then prepared; the three databases in turns, all behind one pgdog
# on one throw-away PostgreSQL, so that all see the same moments of the machine. Prints CPU microseconds of pgdog
# (utime + stime) per transaction and the median of each round's ratio to the plain database.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-4} clients=${3:-16}
PG=${PG_BIN:-/usr/lib/postgresql/15/bin}
PGDOG=${PGDOG:-${CARGO_TARGET_DIR:-target}/release/pgdog}
folder=$(mktemp -d "${TMPDIR:-/tmp}/pgdog-routed.XXXXXX")
postgres_pid='' pgdog_pid=''
cleanup() {
  [ -z "$pgdog_pid" ] || { kill "$pgdog_pid" && wait "$pgdog_pid" || true; } 2>/dev/null
  [ -z "$postgres_pid" ] || { kill -INT "$postgres_pid" && wait "$postgres_pid" || true; } 2>/dev/null
  rm -rf "$folder"
}
trap cleanup EXIT
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free() { local port=$1; while taken "$port"; do port=$((port + 1)); done; echo "$port"; }
as_owner=()
if [ "$(id -u)" = 0 ]; then
  chown postgres "$folder"
  as_owner=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi
pg_port=$(free 25432)
(cd / && "${as_owner[@]}" "$PG/initdb" -D "$folder/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8 --no-sync) >"$folder/initdb.log"
(cd / && exec "${as_owner[@]}" "$PG/postgres" -D "$folder/data" -p "$pg_port" -c listen_addresses=127.0.0.1 \
  -c unix_socket_directories="$folder" -c fsync=off -c max_connections=200) >"$folder/postgres.log" 2>&1 &
postgres_pid=$!
until taken "$pg_port"; do kill -0 "$postgres_pid"; sleep 0.1; done
export PGHOST=127.0.0.1 PGUSER=postgres PGPASSWORD=postgres
for database in s0 s1 s2; do
  PGPORT=$pg_port "$PG/psql" -Xqc "CREATE DATABASE $database" postgres
  PGPORT=$pg_port "$PG/pgbench" -i -q -s 1 "$database" >/dev/null 2>&1
done
port=$(free 26432)
server() { printf '[[databases]]\nname = "%s"\nhost = "127.0.0.1"\nport = %s\ndatabase_name = "%s"\n%s\n' "$1" "$pg_port" "$2" "$3"; }
{
  printf '[general]\nhost = "127.0.0.1"\nport = %s\nauth_type = "trust"\nlog_connections = false\nlog_disconnections = false\ndefault_pool_size = 20\n' "$port"
  server plain s0 ''
  server split s0 'role = "primary"'
  server split s1 'role = "replica"'
  for shard in 0 1 2; do server sharded "s$shard" "shard = $shard"; done
  printf '[[sharded_tables]]\ndatabase = "sharded"\nname = "pgbench_accounts"\ncolumn = "aid"\n'
} >"$folder/pgdog.toml"
printf '[[users]]\nname = "postgres"\nall_databases = true\npassword = "postgres"\n' >"$folder/users.toml"
"$PGDOG" --config "$folder/pgdog.toml" --users "$folder/users.toml" >"$folder/pgdog.log" 2>&1 &
pgdog_pid=$!
until taken "$port"; do kill -0 "$pgdog_pid"; sleep 0.1; done
export PGPORT=$port
ticks() { awk '{print $14 + $15}' "/proc/$pgdog_pid/stat"; }
hertz=$(getconf CLK_TCK)
for mode in simple prepared; do
  for round in $(seq "$rounds"); do
    for database in plain split sharded; do
      before=$(ticks)
      done_=$("$PG/pgbench" -n -S -M "$mode" -c "$clients" -j 2 -T "$seconds" "$database" 2>/dev/null |
        sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p')
      after=$(ticks)
      awk -v m="$mode" -v r="$round" -v d="$database" -v t=$((after - before)) -v h="$hertz" -v n="$done_" \
        'BEGIN { printf "%s,%s,%s,%d,%.2f\n", m, r, d, n, t / h * 1e6 / n }'
    done
  done
done | tee "$folder/routed.csv" >&2
python3 - "$folder/routed.csv" <<'PY'
import collections, statistics, sys
runs = collections.defaultdict(dict)
for line in open(sys.argv[1]):
    mode, turn, database, _, cpu = line.strip().split(",")
    runs[mode, turn][database] = float(cpu)
for mode in ("simple", "prepared"):
    turns = [costs for (of, _), costs in runs.items() if of == mode]
    plain = statistics.median(costs["plain"] for costs in turns)
    row = [f"{mode}: plain {plain:.1f} us"]
    for database in ("split", "sharded"):
        ratio = statistics.median(costs[database] / costs["plain"] for costs in turns)
        row.append(f"{database} {ratio:.2f}")
    print(", ".join(row))
PY
