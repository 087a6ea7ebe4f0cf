#!/usr/bin/env bash
# pgdog beside any other proxy that runs already, on this machine or elsewhere.
#
#   perf/compare.sh NAME=HOST:PORT[,PID] [OPTIONS OF run.sh]
#
# The other proxy has to lead to the database that the measurement starts, 127.0.0.1:15800, user, password and
# database `bench`; with its PID, its CPU time counts as well.
#
#   perf/compare.sh odyssey=127.0.0.1:6433,4711 --workloads one-simple-16,point-prepared-64
set -euo pipefail
cd "$(dirname "$0")"
endpoint=${1:?usage: perf/compare.sh NAME=HOST:PORT[,PID] [OPTIONS OF run.sh]}
shift
exec ./run.sh --contenders pgdog --endpoint "$endpoint" --name "$(date +%F)-${endpoint%%=*}" "$@"
