# Sourced: a throw-away PostgreSQL (databases in C.UTF-8, fsync off) with the options in `postgres_options`, in `folder`.
# Gives PG, PGDOG, pg_port and the functions below, and ends what is in `pgdog_pids` with it.
PG=${PG_BIN:-/usr/lib/postgresql/15/bin}
PGDOG=${PGDOG:-${CARGO_TARGET_DIR:-target}/release/pgdog}
folder=$(mktemp -d "${TMPDIR:-/tmp}/pgdog-perf.XXXXXX")
postgres_pid='' pgdog_pids=()
cleanup() {
  for pid in "${pgdog_pids[@]}"; do { kill "$pid" && wait "$pid" || true; } 2>/dev/null; done
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
  -c unix_socket_directories="$folder" -c fsync=off "${postgres_options[@]}") >"$folder/postgres.log" 2>&1 &
postgres_pid=$!
until taken "$pg_port"; do kill -0 "$postgres_pid"; sleep 0.1; done
export PGHOST=127.0.0.1 PGUSER=postgres PGPASSWORD=postgres
psql() { "$PG/psql" -XqAt -v ON_ERROR_STOP=1 "$@"; }

# Starts pgdog with the configuration on standard input, for user postgres, which listens on this port; appends to pgdog_pids.
start_pgdog() {
  cat >"$folder/pgdog$1.toml"
  printf '[[users]]\nname = "postgres"\nall_databases = true\npassword = "postgres"\n' >"$folder/users.toml"
  "$PGDOG" --config "$folder/pgdog$1.toml" --users "$folder/users.toml" >"$folder/pgdog$1.log" 2>&1 &
  pgdog_pids+=($!)
  until taken "$1"; do kill -0 "${pgdog_pids[-1]}"; sleep 0.1; done
}
# One [[databases]] entry: name, database there, further lines.
database() { printf '[[databases]]\nname = "%s"\nhost = "127.0.0.1"\nport = %s\ndatabase_name = "%s"\n%s\n' "$1" "$pg_port" "$2" "$3"; }
# s0, s1 and s2 as the shards of `sharded`: table and column of its key.
three_shards() {
  for shard in 0 1 2; do database sharded "s$shard" "shard = $shard"; done
  printf '[[sharded_tables]]\ndatabase = "sharded"\nname = "%s"\ncolumn = "%s"\n' "$1" "$2"
}
# CPU of a process so far, in ticks of which there are `hertz` in a second.
ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }
hertz=$(getconf CLK_TCK)
