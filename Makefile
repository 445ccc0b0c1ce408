# Targets for developers and CI. `make` without a target lists them.

CARGO ?= cargo
SPORTS_BET = $(CARGO) run --release --locked -- serve

TOOLS = $(abspath $(or $(CARGO_TARGET_DIR),target))/tools
export PATH := $(TOOLS)/bin:$(PATH)

# How many tests run at once. Many of them mostly wait.
TEST_JOBS ?= $(shell expr 1 + $$(nproc))

.DEFAULT_GOAL := help
.PHONY: help run odds processor ingest wallet bets confirmation settlement gateway supplier fmt test test-embedded test-real nextest haproxy engines-up engines-down test-board check-operation check-examples check-documents check-grpc check-migrations check-k8s check-k8s-api check-image compose-secrets proto bench faults audit audit-tools sbom

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Run all roles in one process; needs nothing else
	$(SPORTS_BET)

odds: ## Run only the odds role: REST and WebSocket (needs real engines)
	$(SPORTS_BET) --role odds

processor: ## Run only the processor role: odds books and database (needs real engines)
	$(SPORTS_BET) --role processor

ingest: ## Run only the ingest role: supplier feeds to the bus (needs real engines)
	$(SPORTS_BET) --role ingest

wallet: ## Run only the wallet role: users' money (needs real engines)
	$(SPORTS_BET) --role wallet

bets: ## Run only the bets role: accepts bets at the current price (needs real engines)
	$(SPORTS_BET) --role bets

confirmation: ## Run only the confirmation role: confirms bets with their supplier (needs real engines)
	$(SPORTS_BET) --role confirmation

settlement: ## Run only the settlement role: pays bets by the results of their markets (needs real engines)
	$(SPORTS_BET) --role settlement

gateway: ## Run only the gateway role: forwards to GATEWAY_ODDS_URL, GATEWAY_WALLET_URL and GATEWAY_BETS_URL
	$(SPORTS_BET) --role gateway

supplier: ## Run only the simulator role: a supplier for development
	$(SPORTS_BET) --role simulator

fmt: ## Format the code
	$(CARGO) fmt --all

test: test-embedded test-real test-board check-operation check-examples check-documents check-grpc ## Check format, lints and docs, then run all tests, on embedded and on real engines

test-embedded: nextest ## Like test, but without real engines; nothing else has to be installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	$(CARGO) nextest run --locked --no-fail-fast --test-threads $(TEST_JOBS)
	$(CARGO) test --locked --doc

# Tests that need real engines are marked as ignored. The rest of the integration suite runs on real
# engines as well, except the tests of the binary's defaults (process::) and the tests with
# `embedded` in their name. The engines start before the build, so that a missing engine fails at
# once. Engines that this target starts are stopped at its end.
test-real: nextest haproxy ## Run the integration suite and the ignored tests on Kafka, Redis and PostgreSQL, which are started if needed
	@TEST_ENGINES=real scripts/engines with sh -xc ' \
		failed=0; \
		$(CARGO) nextest run --locked --no-fail-fast --test-threads $(TEST_JOBS) --test it -E "not test(/embedded/) and not test(/^process::|^architecture::/)" || failed=1; \
		$(CARGO) nextest run --locked --no-fail-fast --test-threads $(TEST_JOBS) --run-ignored only || failed=1; \
		exit $$failed'

# Builds the binary together with the tests, for the same reason as check-operation.
test-board: ## Test the board: its modules, and the page in a real Chromium, which is installed if needed
	@$(CARGO) build --locked --bin sports-bet --test it
	@SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/test-board

# nextest runs each test in its own process, so that leftovers (connections, group members, threads)
# end with the test.
nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --debug --locked --root $(TOOLS) cargo-nextest@0.9.151 \
		--no-default-features --features default-no-update

haproxy:
	@scripts/install-haproxy

engines-up: ## Start Kafka, Redis and PostgreSQL for development and tests (scripts/engines help)
	@scripts/engines up

engines-down: ## Stop the engines that engines-up started; the data stays
	@scripts/engines down

# Builds the binary together with the tests, so that it is the binary the tests ran with. Built
# alone, it would get other dependency features, and rebuilding those takes more than a minute.
check-operation: ## Check alerts and Alertmanager routes, and scrape the running binary with a real Prometheus
	@$(CARGO) build --locked --bin sports-bet --test it
	@SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/check-operation

check-examples: ## Paste the shell examples of README.md and docs into a shell, against the running binary
	@$(CARGO) build --locked --bin sports-bet --test it
	@SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/check-examples

check-documents: ## Hold openapi.yaml and asyncapi.yaml against the running binary (schemathesis, AsyncAPI parser)
	@$(CARGO) build --locked --bin sports-bet --test it
	@TOOLS=$(TOOLS) SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/check-documents

check-grpc: ## Call the gRPC APIs of the running binary with grpcurl, or with Python's grpcio
	@$(CARGO) build --locked --bin sports-bet --test it
	@TOOLS=$(TOOLS) SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/check-grpc

# The test compares the code with the files; here it writes it.
proto: nextest ## Generate the gRPC code from proto/
	@WRITE_GENERATED=1 $(CARGO) nextest run --locked --test it -E 'test(grpc::generated)'

check-migrations: ## Run the commands of migrations/README.md with the real diesel CLI, on SQLite and PostgreSQL
	@TOOLS=$(TOOLS) scripts/engines with scripts/check-migrations

check-k8s: ## Check deploy/k8s without a cluster: renderings, strict schemas, kube-score, settings, ports and probes (needs Go)
	@$(CARGO) build --locked --bin sports-bet --test it
	@TOOLS=$(TOOLS) SPORTS_BET="$${CARGO_TARGET_DIR:-target}/debug/sports-bet" scripts/check-k8s

check-k8s-api: ## Check deploy/k8s against a real kube-apiserver, which is built if needed (about 12 minutes)
	@TOOLS=$(TOOLS) scripts/check-k8s --api-server

check-image: ## Check docker/Dockerfile without Docker, and compile what it copies as it does
	@scripts/check-image

compose-secrets: ## Write random passwords for docker/compose.yaml into docker/.env
	@scripts/compose-secrets

# Run in this order, one at a time. If one fails, the others still run.
BENCHES = fanout idle latency drain rest slow storm start scale money settlement pure

bench: ## Run all benches and print one table (about 25 minutes; `cargo bench --bench NAME` runs one)
	@$(CARGO) bench --locked --no-run
	@rm -rf "$${CARGO_TARGET_DIR:-target}/tmp/bench"
	@scripts/engines with sh -c 'failed=""; for bench in $(BENCHES); do \
		echo "== $$bench"; $(CARGO) bench --locked --quiet --bench "$$bench" || failed="$$failed $$bench"; done; \
		$(CARGO) bench --locked --quiet --bench table; \
		test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }'

# How often each fault is made, and how many faults are made at once. A scenario mostly waits, and has
# its own processes.
FAULT_RUNS ?= 20
FAULT_JOBS ?= 3
FAULT_ROWS = $(abspath $(or $(CARGO_TARGET_DIR),target))/tmp/faults.md

faults: nextest ## Make each fault FAULT_RUNS times (20) on real engines, and print what clients see as a table (about 15 minutes)
	@mkdir -p $(dir $(FAULT_ROWS)) && : > $(FAULT_ROWS)
	@TEST_ENGINES=real FAULT_RUNS=$(FAULT_RUNS) FAULT_ROWS=$(FAULT_ROWS) scripts/engines with \
		$(CARGO) nextest run --locked --no-fail-fast --test it --run-ignored only --test-threads $(FAULT_JOBS) \
		-E 'test(/^survive::lost_source::faults::/)'; failed=$$?; \
		echo '| fault | runs | clients know: median | worst | bets taken after that, by the clients | by the supplier | prices are live again: median | worst |'; \
		echo '|---|---|---|---|---|---|---|---|'; \
		sort $(FAULT_ROWS); \
		if grep -q ABOVE $(FAULT_ROWS); then echo 'Clients did not always know of a lost source within 5 s.'; fi; \
		exit $$failed

# ADVISORIES=if-reachable does not fail if the advisory database cannot be fetched; it says so.
ADVISORIES ?= required

audit: audit-tools ## Check licences, bans, sources, unused dependencies and advisories (ADVISORIES=if-reachable or off)
	$(CARGO) deny --locked --log-level error check bans licenses sources
	$(CARGO) machete
ifeq ($(ADVISORIES),off)
	@echo 'audit: advisories were NOT checked: ADVISORIES=off' >&2
else
	@if $(CARGO) deny --locked fetch db; then \
		$(CARGO) deny --locked --offline --log-level error check advisories; \
	elif [ '$(ADVISORIES)' = if-reachable ]; then \
		echo 'audit: advisories were NOT checked: their database could not be fetched' >&2; \
	else \
		echo 'audit: the advisory database could not be fetched; ADVISORIES=off skips it' >&2; exit 1; \
	fi
endif

sbom: ## Write the dependencies of the binary as CycloneDX into target/sbom
	@TOOLS=$(TOOLS) scripts/sbom

audit-tools:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --debug --locked --root $(TOOLS) --no-default-features cargo-deny@0.20.2
	@$(CARGO) machete --version >/dev/null 2>&1 || $(CARGO) install --debug --locked --root $(TOOLS) cargo-machete@0.9.2
