#!/usr/bin/env bash
# How evenly a running pgdog uses its cores: CPU, waiting for a CPU and switches of every core's thread.
#
#   perf/skew.sh PID [SECONDS]
#
# busy     CPU time (user and system) of the thread
# delayed  time it was runnable and had no CPU: somebody else is on the core, or a quota holds it back
# gave up  switches of its own will (it waits) and not (it was pushed off), per second
set -euo pipefail
pid=${1:?usage: perf/skew.sh PID [SECONDS]} seconds=${2:-5}

sample() {
  for task in /proc/"$pid"/task/*; do
    read -r comm <"$task/comm"
    [[ $comm == core-* ]] || continue
    read -r ran waited _ <"$task/schedstat"
    switches=$(awk '/ctxt_switches/ { printf "%s ", $2 }' "$task/status")
    printf '%s %s %s %s %s\n' "$comm" "$ran" "$waited" "$switches" "$(awk '{print $39}' "$task/stat")"
  done | sort -V
}

before=$(sample)
[ -n "$before" ] || { echo "process $pid has no thread named core-*" >&2; exit 1; }
sleep "$seconds"
after=$(sample)
# A core's helper thread has the core's name, and hardly runs: they are added up.
paste -d' ' <(echo "$before") <(echo "$after") | awk -v seconds="$seconds" '
  { name = $1; if (!(name in busy)) order[++count] = name
    ran = $8 - $2; if (ran >= most[name]) { most[name] = ran; cpu[name] = $12 }
    busy[name] += ran / 1e7 / seconds; delayed[name] += ($9 - $3) / 1e7 / seconds
    waits[name] += ($10 - $4) / seconds; pushed[name] += ($11 - $5) / seconds
    sum += ran / 1e7 / seconds }
  END { printf "%-8s %4s %8s %9s %11s %11s\n", "core", "cpu", "busy", "delayed", "waits/s", "pushed/s"
    for (i = 1; i <= count; i++) { name = order[i]
      printf "%-8s %4d %7.1f%% %8.1f%% %11.0f %11.0f\n", name, cpu[name], busy[name], delayed[name], waits[name], pushed[name]
      if (busy[name] > max) max = busy[name] }
    if (sum > 0) printf "busiest core: %.2f of the mean\n", max * count / sum }'
