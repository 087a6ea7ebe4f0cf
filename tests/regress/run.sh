#!/usr/bin/env bash
# run.sh FOLDER: PostgreSQL's regression tests pooled, and over shards by both protocols; differences go to FOLDER.
set -euo pipefail
cd "$(dirname "$0")/../.."
report=$(realpath "$1")
# Servers read it as another user.
place=$(mktemp -d /tmp/pgdog-regress.XXXXXX)
trap 'rm -rf "$place"' EXIT
chmod 755 "$place"
cp -r target/regress/source "$place/source"
cp target/regress/regress.so /usr/lib/postgresql/15/lib/{autoinc,refint}.so "$place"
tests() {
  target/venv/bin/python tests/regress/regress.py --pgdog "${PGDOG:-$PWD/${CARGO_TARGET_DIR:-target}/release/pgdog}" --source "$place/source" --library "$place" "$@"
}
tests pooled --report "$report/pooled.diff"
tests pooled --mode session --report "$report/session.diff"
tests sharded --column a --report "$report/sharded.txt"
tests sharded --column a --extended --report "$report/sharded-extended.txt"
