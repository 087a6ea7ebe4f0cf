#!/usr/bin/env bash
# Flame graphs of pgdog, one per core.
#
#   perf/flame.sh WORKLOAD [FOLDER]       a workload of run.sh, on a build with frame pointers
#   perf/flame.sh --pid PID [FOLDER]      a process that runs; better if built with `-C force-frame-pointers=yes`
#
# SECONDS_LONG (10) is for how long to sample. Needs `perf` (linux-perf) and the right to use it:
# kernel.perf_event_paranoid at most 1, or root.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${SECONDS_LONG:-10}
fail() { printf 'flame: %s\n' "$*" >&2; exit 1; }
command -v perf >/dev/null || fail "perf is missing: apt-get install linux-perf"
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2; }

if [ "$1" = --pid ]; then
  [ -d "/proc/${2:-none}" ] || fail "no process ${2:-}"
  out=${3:-flame}
  mkdir -p "$out"
  perf record -q -F 997 --call-graph fp -o "$out/perf.data" -p "$2" -- sleep "$seconds"
else
  out=${2:-flame}
  mkdir -p "$out"
  .ci/setup build postgres python
  # A target folder of its own: other flags would build everything anew each time.
  RUSTFLAGS="-C force-frame-pointers=yes" cargo build --release --quiet --target-dir target/flame
  target/venv/bin/python perf/run.py --pgdog target/flame/release/pgdog --contenders pgdog --workloads "$1" \
    --rounds 1 --seconds "$seconds" --name flame --record "$out/perf.data"
  rm -rf perf/results/flame
fi

perf script -i "$out/perf.data" -F comm,ip,sym,dso 2>/dev/null >"$out/stacks.txt"
drawn=0
for core in $(grep -oE '^core-[0-9]+(-[0-9]+)?' "$out/stacks.txt" | sort -u); do
  python3 perf/flame.py --comm "$core" --title "$core of pgdog, ${1#--pid}" <"$out/stacks.txt" >"$out/$core.svg"
  echo "$out/$core.svg"
  drawn=$((drawn + 1))
done
[ $drawn -gt 0 ] || fail "no samples of a core: was there any load?"
