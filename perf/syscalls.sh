#!/usr/bin/env bash
# System calls, ring entries and context switches per transaction, beside those of other proxies.
#
#   perf/syscalls.sh [WORKLOADS]     default: one-simple-1,one-simple-16,point-prepared-64
#
# Needs `perf` (linux-perf) and the right to its tracepoints: root, as a rule.
set -euo pipefail
cd "$(dirname "$0")"
command -v perf >/dev/null || { echo "syscalls: perf is missing: apt-get install linux-perf" >&2; exit 1; }
exec ./run.sh --count --workloads "${1:-one-simple-1,one-simple-16,point-prepared-64}" \
  --contenders haproxy,pgbouncer,pgdog --rounds 1 --name "$(date +%F)-syscalls"
