# Everything a developer needs; each target installs what it misses (Debian packages, drivers).

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The newest server that a package registry ships; its tests are those that depend on PostgreSQL's version.
NEWEST_TESTS := psql:: startup:: auth:: extended:: copy:: drivers:: killed:: asked:: echo:: listed::

.PHONY: help demo test lint bench fuzz regress storms differential

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## PostgreSQL and pgdog on port 6432, used by psql, pgbench and Python; DEMO_EXIT=1 stops by itself
	@.ci/setup build postgres python
	@deploy/demo/demo.sh

# Always the whole workspace: another choice of packages or features builds the dependencies again, PostgreSQL's parser
# among them.
test: ## All tests, against PostgreSQL 15 and the newest release that can be had
	@.ci/setup build postgres python node java perl newest
	cargo test --workspace --tests
	PG_BIN="$$(.ci/setup newest-bin)" cargo test --workspace --test proxy -- $(NEWEST_TESTS)

lint: ## Format and clippy, as CI runs them
	@.ci/setup build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --lib --no-default-features -- -D warnings

bench: ## Instructions of the pure code against benches/instructions.toml (BLESS=1 renews it), then times of routing and runtime
	@.ci/setup build counter
	set -o pipefail; GUNGRAUN_RUNNER=$$PWD/target/tools/bin/gungraun-runner \
	  cargo bench -p pgdog-benches --bench instructions -- --output-format=json | benches/compare.py $(if $(BLESS),--bless)
	cargo bench -p pgdog-benches --bench times
	cargo bench -p pgdog-benches --bench groups
	cargo bench -p cores

fuzz: ## Every fuzz target for FUZZ_SECONDS (default 30); needs cargo-fuzz and a nightly compiler
	@.ci/setup build
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	cd tests/fuzz && for target in $$(cargo fuzz list --fuzz-dir .); do \
	  cargo +nightly fuzz run --fuzz-dir . "$$target" -- -max_total_time=$${FUZZ_SECONDS:-30} || exit 1; done

regress: ## PostgreSQL's own regression tests, pooled and over shards; REPORT=folder for what differs (default target/regress)
	@.ci/setup build postgres python regress
	cargo build --release
	tests/regress/run.sh "$${REPORT:-target/regress}"

# Both end with an error and their seed when they have found something, and need not end otherwise: they are no part of `make test`.
# pgdog is built as for tests, with the same dependencies.
TESTER = PYTHONPATH=tests/support target/venv/bin/python

storms: ## Clients at random while servers and pgdog go down, each of STORMS (default all) for STORM_SECONDS (default 60); SEED=number
	@.ci/setup build postgres python
	cargo test --workspace --no-run --test pure
	$(TESTER) tests/storms $(STORMS) --seconds $${STORM_SECONDS:-60} $(if $(SEED),--seed $(SEED)) --pgdog $${CARGO_TARGET_DIR:-target}/debug/pgdog

differential: ## Random statements over shards and in one database, compared, for DIFFERENTIAL_SECONDS (default 300); SEED=number
	@.ci/setup build postgres python
	cargo test --workspace --no-run --test pure
	$(TESTER) tests/differential --seconds $${DIFFERENTIAL_SECONDS:-300} $(if $(SEED),--seed $(SEED)) --pgdog $${CARGO_TARGET_DIR:-target}/debug/pgdog
