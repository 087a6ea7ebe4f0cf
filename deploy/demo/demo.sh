#!/usr/bin/env bash
# pgdog between real clients and a real PostgreSQL, to look at and to play with. `make demo` runs this.
#
# Starts a throw-away PostgreSQL cluster on a free port and pgdog on port 6432, uses them with psql, pgbench and
# Python, a database in three shards among them, and leaves them running until Ctrl-C. DEMO_EXIT=1 stops by itself. Any step that fails ends it with 1.
set -euo pipefail
cd "$(dirname "$0")/../.."

PORT=6432
PG=${PG_BIN:-/usr/lib/postgresql/15/bin}
PYTHON=target/venv/bin/python
PGDOG=${CARGO_TARGET_DIR:-target}/release/pgdog
export PGHOST=127.0.0.1 PGPORT=$PORT PGUSER=alice PGPASSWORD=hunter2 PGDATABASE=pgdog PGCONNECT_TIMEOUT=10
unset PGOPTIONS PGSSLMODE PGSERVICE

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' CYAN=$'\e[36m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' GREEN='' CYAN='' RED='' PLAIN=''
fi
chapter() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
note() { printf '%s%s%s\n' "$DIM" "$*" "$PLAIN"; }
good() { printf '%s✓ %s%s\n' "$GREEN" "$*" "$PLAIN"; }
fail() {
  printf '%s✗ %s%s\n' "$RED" "$*" "$PLAIN" >&2
  exit 1
}
# run COMMAND... : shows a command as one would type it, then its output; lines matching `quiet`, if set, are left out.
quiet='^$'
run() {
  local shown=${1##*/} argument
  for argument in "${@:2}"; do
    [[ $argument == *[^[:alnum:]_./=:-]* ]] && argument="\"$argument\""
    shown+=" $argument"
  done
  printf '%s$ %s%s\n' "$CYAN" "$shown" "$PLAIN"
  if ! "$@" >"$folder/output" 2>&1; then
    tail -n 12 "$folder/output" | sed 's/^/  /' >&2
    fail "that failed"
  fi
  { grep -vE "$quiet" "$folder/output" || true; } | sed 's/^/  /'
}

# Everything we start is stopped by its own process id, and its files go with it.
folder=$(mktemp -d "${TMPDIR:-/tmp}/pgdog-demo.XXXXXX")
postgres_pid='' pgdog_pid='' sampler_pid=''
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  local pid
  if [ "$status" != 0 ] && [ -s "$folder/pgdog.log" ]; then
    printf '\nThe end of pgdog'\''s log:\n' >&2
    tail -n 20 "$folder/pgdog.log" >&2
  fi
  for pid in $sampler_pid $pgdog_pid; do
    kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
  done
  [ -z "$postgres_pid" ] || { kill -INT "$postgres_pid" && wait "$postgres_pid" || true; } 2>/dev/null
  rm -rf "$folder"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Whether anything listens on this port.
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

if taken "$PORT"; then
  fail "port $PORT is in use by another program; stop it and try again (who is it: ss -ltnp 'sport = :$PORT')"
fi

chapter "1. Building pgdog"
note "The first time this takes some minutes."
cargo build --release --quiet
good "$("$PGDOG" --version)"

chapter "2. Starting PostgreSQL, thrown away afterwards"
as_owner=()
if [ "$(id -u)" = 0 ]; then # the server refuses to run as root
  chown postgres "$folder"
  as_owner=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi
pg_port=15432
while taken "$pg_port"; do pg_port=$((pg_port + 1)); done
(cd / && "${as_owner[@]}" "$PG/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync) >"$folder/initdb.log" 2>&1 ||
  fail "initdb: $(tail -n 3 "$folder/initdb.log")"
cat >>"$folder/data/postgresql.conf" <<CONF
port = $pg_port
listen_addresses = '127.0.0.1'
unix_socket_directories = '$folder'
fsync = off
CONF
printf 'local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n' >"$folder/data/pg_hba.conf"
(cd / && exec "${as_owner[@]}" "$PG/postgres" -D "$folder/data") >"$folder/postgres.log" 2>&1 &
postgres_pid=$!
# direct SQL : asks PostgreSQL itself, not through pgdog.
direct() { PGHOST=$folder PGPORT=$pg_port PGUSER=postgres "$PG/psql" -XAtq -v ON_ERROR_STOP=1 -d "${2:-postgres}" -c "$1"; }
for _ in $(seq 200); do
  direct 'SELECT 1' >/dev/null 2>&1 && break
  kill -0 "$postgres_pid" 2>/dev/null || fail "PostgreSQL ended: $(tail -n 3 "$folder/postgres.log")"
  sleep 0.05
done
direct "CREATE ROLE alice LOGIN PASSWORD 'hunter2'"
direct 'CREATE DATABASE pgdog OWNER alice'
direct "ALTER ROLE postgres PASSWORD 'postgres'"
for shard in 0 1 2; do direct "CREATE DATABASE shard_$shard"; done
good "PostgreSQL $(direct 'SHOW server_version') on port $pg_port"

chapter "3. Starting pgdog in front of it"
cat >"$folder/pgdog.toml" <<TOML
[general]
port = $PORT
default_pool_size = 10
expanded_explain = true

[[databases]]
name = "pgdog"
host = "127.0.0.1"
port = $pg_port

# A database in three shards. Here they are databases of one server; anywhere else, servers.
$(for shard in 0 1 2; do
  printf '[[databases]]\nname = "sharded"\nhost = "127.0.0.1"\nport = %s\ndatabase_name = "shard_%s"\nshard = %s\n\n' \
    "$pg_port" "$shard" "$shard"
done)
[[sharded_tables]]
database = "sharded"
name = "users"
column = "id"
data_type = "bigint"

[[sharded_tables]]
database = "sharded"
name = "payments"
column = "user_id"
data_type = "bigint"
TOML
cat >"$folder/users.toml" <<'TOML'
[[users]]
name = "alice"
database = "pgdog"
password = "hunter2"

[[users]]
name = "postgres"
database = "sharded"
password = "postgres"
TOML
for file in pgdog.toml users.toml; do
  note "--- $file"
  sed 's/^/  /' "$folder/$file"
done
"$PGDOG" --config "$folder/pgdog.toml" --users "$folder/users.toml" >"$folder/pgdog.log" 2>&1 &
pgdog_pid=$!
for _ in $(seq 200); do
  taken "$PORT" && break
  kill -0 "$pgdog_pid" 2>/dev/null || fail "pgdog ended; its log follows"
  sleep 0.05
done
good "pgdog on port $PORT, a pool of 10 server connections on $(nproc) cores"

chapter "4. psql"
run "$PG/psql" -X -c "SELECT 'Hello, ' || current_user || '!' AS greeting, split_part(version(), ' ', 2) AS postgresql"
run "$PG/psql" -X -c "CREATE TABLE dogs (name text, weight_kg int)" \
  -c "INSERT INTO dogs VALUES ('Laika', 5), ('Balto', 30), ('Hachiko', 41)" \
  -c "SELECT * FROM dogs ORDER BY weight_kg"
run "$PG/psql" -X -c "BEGIN; DELETE FROM dogs; ROLLBACK; SELECT count(*) AS still_there FROM dogs"
good "statements, transactions and results pass through"

chapter "5. pgbench: 200 clients at once"
quiet='^(NOTICE|dropping|creating|generating|vacuuming|[0-9]+ of)|^pgbench \(|scaling factor|maximum number|failed transactions|threads'
run "$PG/pgbench" -i -q -s 1
# What PostgreSQL sees meanwhile.
(
  while :; do
    direct "SELECT count(*) FROM pg_stat_activity WHERE datname = 'pgdog' AND backend_type = 'client backend'"
    sleep 0.1
  done
) >"$folder/samples" 2>/dev/null &
sampler_pid=$!
run "$PG/pgbench" -n -S -M prepared -c 200 -j 2 -T 5
run "$PG/pgbench" -n -M extended -c 200 -j 2 -T 5
kill "$sampler_pid" && wait "$sampler_pid" 2>/dev/null || true
sampler_pid=''
most=$(sort -n "$folder/samples" | tail -n 1)
samples=$(wc -l <"$folder/samples")
[ "$most" -le 10 ] || fail "PostgreSQL had $most connections, the pool has 10"
good "200 clients shared at most $most server connections (pg_stat_activity, $samples samples)"

chapter "6. Three shards"
# sharded COMMAND... : as user postgres on the sharded database.
sharded() { PGUSER=postgres PGPASSWORD=postgres PGDATABASE=sharded run "$PG/psql" -X "$@"; }
note "Rows of users are spread by id, rows of payments by user_id: those of one user are together."
sharded -q -c "CREATE TABLE users (id bigint PRIMARY KEY, name text)" \
  -c "CREATE TABLE payments (id bigint, user_id bigint REFERENCES users, amount numeric(10, 2))"
# One statement each: a shard gets only the rows that are its own.
for id in 1 2 3 4 5 6; do
  printf "INSERT INTO users VALUES (%s, 'user %s');\n" $id $id
  printf 'INSERT INTO payments VALUES (%s, %s, %s.50), (%s, %s, %s.25);\n' $id $id $((id * 10)) $((id + 10)) $id $id
done >"$folder/rows.sql"
sharded -q -f "$folder/rows.sql"
sharded -c "SELECT u.name, p.amount FROM users u JOIN payments p ON p.user_id = u.id WHERE u.id = 3 ORDER BY p.id"
sharded -c "EXPLAIN (COSTS off) SELECT * FROM users WHERE id = 3"
sharded -c "SELECT count(*), sum(amount), avg(amount) FROM payments"
sharded -c "SELECT id, name FROM users ORDER BY id DESC LIMIT 3"
sharded -c "EXPLAIN (COSTS off) SELECT id, name FROM users ORDER BY id DESC LIMIT 3"
sharded -c "BEGIN" -c "UPDATE users SET name = upper(name)" -c "INSERT INTO users VALUES (7, 'USER 7')" -c "COMMIT"
for shard in 0 1 2; do
  note "shard $shard has $(direct 'SELECT count(*) FROM users' "shard_$shard") of them"
done
all=$(for shard in 0 1 2; do direct 'SELECT string_agg(name, chr(44) ORDER BY id) FROM users' "shard_$shard"; done | tr '\n' ',')
[ "$(tr ',' '\n' <<<"$all" | grep -c '^USER [1-7]$')" = 7 ] || fail "the shards have: $all"
good "direct, across shards, and in one transaction over all of them"

chapter "7. A Python driver"
note "--- deploy/demo/demo.py"
run "$PYTHON" deploy/demo/demo.py
good "psycopg 3 with its default settings"

chapter "All of it worked."
if [ -n "${DEMO_EXIT:-}" ]; then
  kill -TERM "$pgdog_pid"
  wait "$pgdog_pid" || fail "pgdog did not end well"
  pgdog_pid=''
  good "pgdog has shut down in order"
  exit 0
fi
cat <<TEXT
PostgreSQL and pgdog keep running. In another terminal:

  ${CYAN}PGPASSWORD=hunter2 psql -h 127.0.0.1 -p $PORT -U alice pgdog${PLAIN}
  ${CYAN}PGPASSWORD=postgres psql -h 127.0.0.1 -p $PORT -U postgres sharded${PLAIN}

pgdog's log: $folder/pgdog.log
Ctrl-C stops everything and removes its files.
TEXT
trap 'printf "\n"; exit 0' INT TERM
wait "$pgdog_pid" || fail "pgdog ended by itself"
