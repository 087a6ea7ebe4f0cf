#!/usr/bin/env bash
# Measures pgdog beside PgBouncer and HAProxy; `perf/run.sh --help` lists what can be chosen, README.md how to read it.
set -euo pipefail
cd "$(dirname "$0")/.."
.ci/setup build postgres python peers
cargo build --profile dist --quiet # as the Dockerfile ships it
exec target/venv/bin/python perf/run.py --pgdog "${CARGO_TARGET_DIR:-target}/dist/pgdog" "$@"
