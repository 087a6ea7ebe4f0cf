#!/usr/bin/env bash
# Has the compiler learn what pgdog runs often (profile-guided optimisation), for deploy/build.sh: deploy/pgdog.profdata.
#
#   perf/pgo.sh        builds an instrumented pgdog and runs what is measured here against it
#
# It takes as long as a build of profile `dist` and five minutes. Of a function that runs here what does not run is taken for cold
# and made small, and a function that never runs is compiled as if nothing were known; so every subject has its part: statements, logins,
# TLS, bulk, routing, merging, COPY. Worth doing again when the hot path has changed, and when pgdog gets another version.
set -euo pipefail
cd "$(dirname "$0")/.."
.ci/setup build postgres python
sysroot=$(rustc --print sysroot)
host=$(rustc -vV | sed -n 's/^host: //p')
profdata="$sysroot/lib/rustlib/$host/bin/llvm-profdata"
[ -x "$profdata" ] || rustup component add llvm-tools
folder=${CARGO_TARGET_DIR:-$PWD/target}/pgo
rm -rf "$folder/counts"
RUSTFLAGS="-Cprofile-generate=$folder/counts" cargo build --locked --quiet --profile dist --bin pgdog --target "$host" --target-dir "$folder/train"
export PGDOG=$folder/train/$host/dist/pgdog
target/venv/bin/python perf/run.py --pgdog "$PGDOG" --contenders pgdog --rounds 1 --seconds 4 --name pgo-training \
  --workloads one-simple-1,one-simple-16,one-extended-16,one-prepared-16,point-prepared-64,transaction-extended-32,one-simple-500,rows-simple-4,one-prepared-16-tls,one-simple-8-reconnect
rm -r perf/results/pgo-training
perf/routed.sh 1 2
perf/asked.sh 1 2
perf/aggregate.sh 1 30000
perf/copy.sh 1 100000
"$profdata" merge --sparse -o deploy/pgdog.profdata "$folder"/counts/*.profraw
