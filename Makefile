# What can be done here; each recipe is a script in scripts/, which says what it needs.
# The extension's own phpize build lives in php/ext, so that its generated Makefile never meets this one.

.DEFAULT_GOAL := help
.PHONY: help run serve setup build install lint test test-full test-matrix test-zts model chaos soak fuzz conformance robustness bench audit asan miri clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

run: ## set up, build and watch server and clients survive for 30 s (DURATION=n)
	@scripts/setup.sh demo
	@scripts/build.sh
	@scripts/demo.sh

serve: ## set up, build and keep a page with a chat and a board up, and an echo (LISTEN=…)
	@scripts/setup.sh build
	@scripts/build.sh
	@scripts/serve.sh

setup: ## install everything that the tests need (Debian 12 or 13)
	@scripts/setup.sh test

build: ## build modules/lifeline.so (PROFILE=dev for a quick one)
	@scripts/build.sh

# Builds nothing: under sudo there may be no Rust, and what root builds nobody else can replace.
install: ## install what make build made where PHP loads it from, and enable it
	@scripts/install.sh

lint: ## formatting, clippy, php -l, shellcheck
	@scripts/lint.sh

test: ## everything with a budget of 25 minutes on 2 cores
	@scripts/test.sh

test-full: ## the long runs: valgrind, soak, all Autobahn cases, PHP matrix, ZTS
	@scripts/test.sh full

test-matrix: ## phpt with PHP 8.2 (bookworm) and 8.4 (trixie)
	@scripts/matrix.sh

test-zts: ## phpt with a thread-safe debug PHP built from Debian's source
	@scripts/zts.sh

model: ## the model checker of lifeline.v1 (MODEL_SCHEDULES=n, MODEL_FIRST=seed, MODEL_SEED=seed)
	@scripts/model.sh

chaos: ## real processes, kill -9 by the hundred: 1,000,000 messages, no gap (CHAOS_SECONDS=n: again until then)
	@scripts/build.sh
	@tests/chaos/run full kill_9_makes_no_gap

soak: ## half an hour of mixed load with faults: flat memory, descriptors and latency, nothing lost (SOAK_SECONDS=n)
	@scripts/build.sh
	@tests/soak/run full mixed

fuzz: ## fuzz what reads the network, and arrays of options (FUZZ_SECONDS=n for each target)
	@scripts/build.sh
	@scripts/fuzz.sh

audit: ## licences, sources, doubled crates and known vulnerabilities of what is used
	@scripts/audit.sh

asan: ## the crates' tests with AddressSanitizer and its search for leaks
	@scripts/asan.sh

miri: ## the rules' tests under Miri, where a nightly toolchain has it
	@scripts/miri.sh

conformance: ## all 517 Autobahn cases, both roles, over ws and wss, with a table
	@tests/conformance/run full

robustness: ## attack, fuzz, soak, and write docs/robustness.md (FULL=1, PARTS="abuse fuzz")
	@scripts/robustness.sh

bench: ## measure beside node ws and installed peers, write bench/RESULTS.md (QUICK=1)
	@scripts/bench.sh

clean: ## remove what was built; .cache/ (downloads, environments) stays
	@scripts/clean.sh
