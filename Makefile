# Targets for people and for CI. `make` alone lists them.

CARGO ?= cargo
SPORTS_BET = $(CARGO) run --release --locked -- serve

TOOLS = $(abspath $(or $(CARGO_TARGET_DIR),target))/tools
export PATH := $(TOOLS)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run odds processor ingest wallet bets confirmation supplier fmt test test-embedded test-real nextest engines-up engines-down check-operation check-migrations compose-secrets bench audit tools

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Run everything in one process, nothing else needed
	$(SPORTS_BET)

odds: ## Run the role odds alone: REST and WebSocket (needs the real engines)
	$(SPORTS_BET) --role odds

processor: ## Run the role processor alone: books and database (needs the real engines)
	$(SPORTS_BET) --role processor

ingest: ## Run the role ingest alone: suppliers to bus (needs the real engines)
	$(SPORTS_BET) --role ingest

wallet: ## Run the role wallet alone: users' money (needs the real engines)
	$(SPORTS_BET) --role wallet

bets: ## Run the role bets alone: bets at the price of the moment (needs the real engines)
	$(SPORTS_BET) --role bets

confirmation: ## Run the role confirmation alone: bets to their supplier (needs the real engines)
	$(SPORTS_BET) --role confirmation

supplier: ## Run the role simulator alone: a supplier for development
	$(SPORTS_BET) --role simulator

fmt: ## Format the code
	$(CARGO) fmt --all

test: test-embedded test-real check-operation ## Check format, lints and docs, then run all tests, on the embedded engines and on real ones

test-embedded: nextest ## The same without the real engines: nothing else needs to be installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	$(CARGO) nextest run --locked --no-fail-fast
	$(CARGO) test --locked --doc

# What needs real engines is marked as ignored. The rest of the integration suite runs on them as it does on the embedded
# ones, but for what is about those: tests of the binary's defaults (process::), and those that are named embedded.
# The engines come first: where one is missing, nobody waits for a build to be told. What this call started is ended with it.
test-real: nextest ## Run the tests that need Kafka, Redis and PostgreSQL, and the integration suite on them; they come up by themselves
	@TEST_ENGINES=real scripts/engines with sh -xc ' \
		failed=0; \
		$(CARGO) nextest run --locked --no-fail-fast --test it -E "not test(/embedded/) and not test(/^process::|^architecture::/)" || failed=1; \
		$(CARGO) nextest run --locked --no-fail-fast --run-ignored only || failed=1; \
		exit $$failed'

# A process for each test: what a test leaves behind (connections, members of groups, threads) ends with it.
nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --debug --locked --root $(TOOLS) cargo-nextest@0.9.151 \
		--no-default-features --features default-no-update

engines-up: ## Start Kafka, Redis and PostgreSQL for development and tests (scripts/engines help)
	@scripts/engines up

engines-down: ## End what engines-up started; the data stays
	@scripts/engines down

# With the tests beside it, so that the binary is the one that they were run with: alone it would be built with other
# features of its dependencies, which takes more than a minute.
check-operation: ## Check alerts and dashboards, and scrape the running binary with a real Prometheus
	@$(CARGO) build --locked --bin sports-bet --test it
	@SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/check-operation

check-migrations: ## Run the commands of migrations/README.md with the real diesel CLI, on SQLite and PostgreSQL
	@TOOLS=$(TOOLS) scripts/engines with scripts/check-migrations

compose-secrets: ## Write random passwords for docker/compose.yaml into docker/.env
	@scripts/compose-secrets

# In this order, each alone on the machine. One that fails does not keep the others from being run.
BENCHES = fanout idle latency drain rest slow start scale money pure

bench: ## Measure everything and print one table (about 20 minutes; `cargo bench --bench NAME` is one of them)
	@$(CARGO) bench --locked --no-run
	@rm -rf "$${CARGO_TARGET_DIR:-target}/tmp/bench"
	@scripts/engines with sh -c 'failed=""; for bench in $(BENCHES); do \
		echo "== $$bench"; $(CARGO) bench --locked --quiet --bench "$$bench" || failed="$$failed $$bench"; done; \
		$(CARGO) bench --locked --quiet --bench table; \
		test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }'

audit: ## Check licences, bans, sources, advisories and unused dependencies (AUDIT_OFFLINE=1 skips advisories)
	@for tool in deny machete; do \
		$(CARGO) $$tool --version >/dev/null 2>&1 || { echo "cargo-$$tool is missing: run 'make tools'" >&2; exit 1; }; \
	done
ifeq ($(AUDIT_OFFLINE),1)
	$(CARGO) deny --locked --offline check bans licenses sources
	$(CARGO) machete
	@echo 'AUDIT_OFFLINE=1: advisories were NOT checked' >&2
else
	$(CARGO) deny --locked check bans licenses sources
	$(CARGO) machete
	@$(CARGO) deny --locked check advisories || { \
		echo 'Advisories are not clean, or could not be fetched and so were NOT checked: see above.' >&2; \
		echo 'Without a network, AUDIT_OFFLINE=1 leaves them out and says so.' >&2; \
		exit 1; \
	}
endif

tools: ## Install the tools of audit, and the faster test runner
	$(CARGO) install --locked cargo-deny@0.20.2
	$(CARGO) install --locked cargo-machete@0.9.2
	$(CARGO) install --locked cargo-nextest@0.9.151 --no-default-features --features default-no-update
