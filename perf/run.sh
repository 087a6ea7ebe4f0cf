#!/usr/bin/env bash
# Measures pgdog, as it is shipped, beside PgBouncer and HAProxy.
#
#   perf/run.sh [OPTIONS]                                  `--help` lists them, README.md tells how to read the results
#   perf/run.sh pooler|login|idle|rows [OPTIONS]           the workloads of one scenario, beside the others
#   perf/run.sh balancer|sharder [ROUNDS SECONDS CLIENTS]  what routing costs to replicas and to shards: routed.sh
set -euo pipefail
cd "$(dirname "$0")/.."
workloads=()
case "${1:-}" in
  pooler) workloads=(--workloads one-simple-1,one-simple-16,one-extended-16,one-prepared-16,point-prepared-64,transaction-extended-32,one-simple-500,one-prepared-16-tls) && shift ;;
  login) workloads=(--workloads one-simple-8-reconnect,logins-4) && shift ;;
  idle) workloads=(--workloads idle-5000,idle-5000-tls) && shift ;;
  rows) workloads=(--workloads rows-simple-4) && shift ;;
  balancer | sharder) routed=1 && shift ;;
esac
.ci/setup build postgres python peers
pgdog=$(deploy/build.sh)
[ -z "${routed:-}" ] || PGDOG=$pgdog exec perf/routed.sh "$@"
exec target/venv/bin/python perf/run.py --pgdog "$pgdog" "${workloads[@]}" "$@"
