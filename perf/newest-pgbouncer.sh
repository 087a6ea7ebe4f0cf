#!/usr/bin/env bash
# Fetches Debian unstable's PgBouncer with the libraries that it needs into a folder of its own, touching nothing of
# the system, and prints the path of a program that runs it: `PGBOUNCER=$(perf/newest-pgbouncer.sh) perf/run.sh`.
set -euo pipefail
cd "$(dirname "$0")/.."
at=$PWD/target/pgbouncer-newest
program=$at/pgbouncer
[ -x "$program" ] && "$program" --version >/dev/null 2>&1 && echo "$program" && exit
rm -rf "$at"
mkdir -p "$at"/{lists/partial,cache/archives/partial,root}
touch "$at/status"
cat >"$at/sources.list" <<EOT
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main
EOT
cat >"$at/apt.conf" <<EOT
Dir::Etc::sourcelist "$at/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$at/lists";
Dir::State::status "$at/status";
Dir::Cache "$at/cache";
APT::Sandbox::User "root";
EOT
export APT_CONFIG=$at/apt.conf
apt-get -qq update >&2
cd "$at/cache"
# All that the program and its libraries may load; what is not needed only lies there.
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances pgbouncer | grep -E '^(lib|pgbouncer|gcc-[0-9]+-base)' | grep -vE '^(libperl|libjson-perl)' | sort -u)
# shellcheck disable=SC2086
apt-get -qq download $packages >&2
for package in *.deb; do dpkg -x "$package" "$at/root"; done
rm -rf "$at/lists" "$at/cache"
libraries=$(find "$at/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
loader=$(find "$at/root" -name 'ld-linux*.so*' -type f | head -1)
cat >"$program" <<EOT
#!/bin/sh
exec $loader --library-path $libraries $at/root/usr/sbin/pgbouncer "\$@"
EOT
chmod +x "$program"
"$program" --version >&2
echo "$program"
