#!/usr/bin/env bash
# pgdog as the compiler makes it when it knows what is run often (profile-guided optimisation): target/pgo/pgdog.
#
#   perf/pgo.sh        builds an instrumented pgdog, runs the workloads of run.sh and routed.sh against it, builds again
#
# It takes as long as two builds of profile `dist` and two minutes. What was learnt holds for this source and this compiler
# only, so it is not kept in the repository; and a ring is needed, so the Dockerfile, in whose build io_uring is forbidden,
# ships `dist` without it.
set -euo pipefail
cd "$(dirname "$0")/.."
.ci/setup build postgres python
sysroot=$(rustc --print sysroot)
host=$(rustc -vV | sed -n 's/^host: //p')
profdata="$sysroot/lib/rustlib/$host/bin/llvm-profdata"
[ -x "$profdata" ] || rustup component add llvm-tools
folder=$PWD/target/pgo
rm -rf "$folder/counts"
mkdir -p "$folder/counts"

# With a target named, build scripts and macros are built without the flags.
build() { RUSTFLAGS=$1 cargo build --locked --quiet --profile dist --bin pgdog --target "$host" --target-dir "$folder/$2"; }
built() { echo "$folder/$1/$host/dist/pgdog"; }

build "-Cprofile-generate=$folder/counts" train
target/venv/bin/python perf/run.py --pgdog "$(built train)" --contenders pgdog --rounds 1 --seconds 4 --name pgo-training \
  --workloads one-simple-1,one-simple-16,one-extended-16,one-prepared-16,point-prepared-64,transaction-extended-32,one-simple-500,rows-simple-4,one-prepared-16-tls,one-simple-8-reconnect
rm -r perf/results/pgo-training
PGDOG=$(built train) perf/routed.sh 1 2
"$profdata" merge -o "$folder/pgdog.profdata" "$folder"/counts/*.profraw
build "-Cprofile-use=$folder/pgdog.profdata" use
cp "$(built use)" "$folder/pgdog"
echo "$folder/pgdog"
