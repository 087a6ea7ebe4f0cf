"""Storms: clients at random, and servers, connections and pgdog that go down under them; afterwards nothing may be lost, left
or half done. Called by `make storms`; see `--help`."""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable

from definitions import DefinedPooled, DefinedSharded
from drivers import Drivers
from harness import Options, Storm
from pooled import Failover, Farewells, Lagging, Pooled, Stuck
from sharded import Sharded
from throwaway import place

STORMS: dict[str, Callable[[Options], Storm]] = {
    "pooled": lambda options: Pooled(options, rough=False),
    "pooled-rough": lambda options: Pooled(options, rough=True),
    "session": lambda options: Pooled(options, rough=False, mode="session"),
    "session-rough": lambda options: Pooled(options, rough=True, mode="session"),
    "failover": Failover,
    "lagging": Lagging,
    "farewells": Farewells,
    "sharded": lambda options: Sharded(options, rough=False),
    "sharded-rough": lambda options: Sharded(options, rough=True),
    "sharded-scarce": lambda options: Sharded(options, rough=True, scarce=True),
    "defined": lambda options: DefinedPooled(options, rough=False),
    "defined-rough": lambda options: DefinedPooled(options, rough=True),
    "defined-sharded": lambda options: DefinedSharded(options, rough=False),
    "defined-sharded-rough": lambda options: DefinedSharded(options, rough=True),
    "drivers": Drivers,
    "stuck": Stuck,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("storms", nargs="*", metavar="STORM", help=f"of {', '.join(STORMS)} (default: all)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60, help="of each storm (default 60)")
    parser.add_argument("--workers", type=int, default=2, help="cores of pgdog (default 2)")
    parser.add_argument("--pgdog", default="target/debug/pgdog", help="the binary (default target/debug/pgdog)")
    options = parser.parse_args()
    if unknown := set(options.storms) - set(STORMS):
        parser.error(f"no such storm: {', '.join(unknown)}")
    broken = []
    for name in options.storms or STORMS:
        print(f"{name}: {options.seconds:.0f} s, seed {options.seed}", flush=True)
        with place("storms") as folder:
            begun = time.time()
            record = STORMS[name](Options(folder, options.pgdog, options.seed, options.seconds, options.workers)).run()
            print(f"  {time.time() - begun:.0f} s, {len(record.problems)} problems, {dict(record.counts)}")
            print(f"  errors {dict(record.errors.most_common(8))}", flush=True)
            if record.problems:
                broken.append(name)
                print("  last events:", *record.events, sep="\n    ")
                kept = f"target/storms-{name}.log"
                with open(kept, "w") as file:
                    file.write(open(os.path.join(folder, "pgdog.log"), errors="replace").read())
                print(f"  log of pgdog: {kept}", flush=True)
    if broken:
        sys.exit(f"broken by seed {options.seed}: {', '.join(broken)}")


if __name__ == "__main__":
    main()
