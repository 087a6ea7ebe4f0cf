#!/usr/bin/env bash
# Aggregation over three shards with one core and with two: 3 million rows, many groups and few, and sorted as a whole.
#
#   perf/aggregate.sh [ROUNDS=5] [ROWS=3000000]
#
# Three databases of one throw-away PostgreSQL share the rows; the same pgdog serves them with workers = 1 and workers = 2
# in turns. Prints seconds of each statement and CPU seconds of pgdog (utime + stime), medians of all rounds. Groups are
# divided among the cores if they are many; load, PostgreSQL and pgdog share the same CPUs, so that this shows what it costs:
# `cargo bench -p pgdog-benches --bench groups` shows what it brings.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} rows=${2:-3000000}
postgres_options=(-c work_mem=256MB -c max_parallel_workers_per_gather=0)
. perf/postgres.sh
for shard in 0 1 2; do
  PGPORT=$pg_port psql -c "CREATE DATABASE s$shard" postgres
  PGPORT=$pg_port psql -c "CREATE TABLE sale (id int8 PRIMARY KEY, item int, total numeric(10, 2))" -c "
    INSERT INTO sale SELECT n, n::int8 * 7919 % 100000, n % 1000 / 4.0 FROM generate_series(1, $rows) n WHERE n % 3 = $shard" -c "VACUUM ANALYZE sale" -c "
    CREATE TABLE day (id int8 PRIMARY KEY, item int, total numeric(10, 2))" -c "
    INSERT INTO day SELECT n * 3 + $shard, n, n % 1000 / 4.0 FROM generate_series(1, 150000) n" -c "VACUUM ANALYZE day" "s$shard"
done
declare -A ports pids
for workers in 1 2; do
  port=$(free $((26432 + workers * 10)))
  {
    printf '[general]\nhost = "127.0.0.1"\nport = %s\nworkers = %s\nauth_type = "trust"\ndefault_pool_size = 8\n' "$port" "$workers"
    three_shards sale id
    printf '[[sharded_tables]]\ndatabase = "sharded"\nname = "day"\ncolumn = "id"\n'
  } >"$folder/toml"
  start_pgdog "$port" <"$folder/toml"
  pids[$workers]=${pgdog_pids[-1]} ports[$workers]=$port
done
few="SELECT count(*), sum(total), avg(total), min(item), max(item) FROM sale"
groups="SELECT item, count(*), sum(total), avg(total) FROM sale GROUP BY item"
many="SELECT id / 20 AS n, count(*), sum(total), avg(total) FROM sale GROUP BY 1"
ready="SELECT item, count(*), sum(total), avg(total) FROM day GROUP BY 1"
many_sorted="$many ORDER BY 3 DESC, 1"
sorted="SELECT id, total FROM sale ORDER BY id"

run() { # name, workers, clients, statement
  local before=$(ticks "${pids[$2]}") start=$(date +%s%N) jobs=()
  for _ in $(seq "$3"); do
    PGPORT=${ports[$2]} psql -c "$4" sharded >/dev/null &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
  local end=$(date +%s%N) after=$(ticks "${pids[$2]}")
  awk -v n="$1" -v w="$2" -v c="$3" -v t=$((end - start)) -v k=$((after - before)) -v h="$hertz" \
    'BEGIN { printf "%s,%d,%d,%.3f,%.3f\n", n, w, c, t / 1e9, k / h }'
}
for round in $(seq "$rounds"); do
  for workers in 1 2; do
    run "one group" "$workers" 1 "$few"
    run "100,000 groups" "$workers" 1 "$groups"
    run "150,000 groups" "$workers" 1 "$many"
    run "150,000 groups of as many rows each" "$workers" 1 "$ready"
    run "150,000 groups sorted" "$workers" 1 "$many_sorted"
    run "sorted" "$workers" 1 "$sorted"
    run "100,000 groups" "$workers" 2 "$groups"
  done
done | tee "$folder/aggregate.csv" >&2
python3 - "$folder/aggregate.csv" <<'PY'
import collections, statistics, sys
runs = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, workers, clients, seconds, cpu = line.strip().rsplit(",", 4)
    runs[name, clients, workers].append((float(seconds), float(cpu)))
for (name, clients, workers), found in runs.items():
    seconds, cpu = (statistics.median(column) for column in zip(*found))
    print(f"{name}, {clients} client(s), {workers} core(s): {seconds:.2f} s, pgdog {cpu:.2f} CPU s")
PY
