# Sourced: a throw-away PostgreSQL (databases in C.UTF-8, fsync off) with the options in `postgres_options`, in `folder`.
# Gives PG, PGDOG, pg_port, the functions psql, taken and free, and ends what is in `pgdog_pids` with it.
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
