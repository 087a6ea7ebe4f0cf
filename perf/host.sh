#!/usr/bin/env bash
# Describes the machine and the tree of a measurement; results are worth nothing without it.
set -u
cd "$(dirname "$0")/.."
line() { printf '%-22s %s\n' "$1" "$2"; }
value() { cat "$1" 2>/dev/null || echo '?'; }

line date "$(date -u +%FT%TZ)"
line commit "$(git rev-parse --short HEAD 2>/dev/null)$(git diff --quiet HEAD 2>/dev/null || echo ', with changes')"
line kernel "$(uname -sr)"
line cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
line "cpus allowed" "$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status) of $(nproc --all)"
line hypervisor "$(grep -qw hypervisor /proc/cpuinfo && echo yes || echo no)"
line "cpu quota" "$(value /sys/fs/cgroup/cpu.max)"
line governor "$(value /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor)"
line isolated "$(value /sys/devices/system/cpu/isolated)"
line mitigations "$(grep -H . /sys/devices/system/cpu/vulnerabilities/* 2>/dev/null | grep -c Mitigation) active"
line memory "$(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
line "load before" "$(cut -d' ' -f1-3 /proc/loadavg)"
line "open files" "$(ulimit -Sn) soft, $(ulimit -Hn) hard"
line "locked memory" "$(ulimit -Sl) kB soft, $(ulimit -Hl) kB hard"
line io_uring_disabled "$(value /proc/sys/kernel/io_uring_disabled)"
line somaxconn "$(value /proc/sys/net/core/somaxconn)"
line rustc "$(rustc --version 2>/dev/null)"
line postgresql "$("${PG_BIN:-/usr/lib/postgresql/15/bin}/postgres" --version 2>/dev/null)"
line pgbouncer "$("${PGBOUNCER:-/usr/sbin/pgbouncer}" --version 2>/dev/null | head -n 1)"
line haproxy "$(haproxy -v 2>/dev/null | head -n 1 || /usr/sbin/haproxy -v 2>/dev/null | head -n 1)"
printf '\ninterrupts of network devices, per CPU:\n'
grep -E 'CPU0|eth|ens|enp|virtio.*-(input|output)' /proc/interrupts 2>/dev/null | sed 's/^/  /'
