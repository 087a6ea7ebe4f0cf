#!/bin/sh
# Builds the pgdog that is shipped and prints where it is: profile `dist`, compiled for what is run often.
#
# deploy/pgdog.profdata is what perf/pgo.sh has counted (profile-guided optimisation). Functions that have changed since, and all
# of them with another compiler than the Dockerfile's, another version of pgdog or another architecture than x86-64, are compiled
# as if nothing were known of them: that costs some speed and nothing else. A compiler older than that cannot read it, and says so.
set -eu
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts and macros are built without the flags.
RUSTFLAGS="-Cprofile-use=$PWD/deploy/pgdog.profdata -Cllvm-args=-no-pgo-warn-mismatch" \
  cargo build --locked --quiet --profile dist --bin pgdog --target "$host"
echo "${CARGO_TARGET_DIR:-$PWD/target}/$host/dist/pgdog"
