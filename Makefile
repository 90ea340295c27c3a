# Doorbell is built by cargo; this puts the commands together. `make` alone lists the targets.
# TARGET: cargo's folder for what it builds. BUILD: where the libraries go.
CARGO ?= cargo
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
BUILD ?= build
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)

# Each set of RUSTFLAGS has a folder of its own: else cargo builds all crates again at every change of them.
FOR_EPOLL := --target-dir $(TARGET)
POLL := RUSTFLAGS='--cfg doorbell_backend="poll"'
FOR_POLL := --target-dir $(TARGET)/poll

# In the order of what they cost, so that a failure shows early.
STAGES := lint abi abi-selftest unit-epoll unit-poll c-tests-epoll c-tests-poll fuzz release-c-tests c-tests-uring docs man-check \
  installcheck doorbell-check check-targets examples counters haskell tsan loom prove-quick

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: deps
deps: ## is all here that building and testing need? installs it on Debian, as root
	@c-tests/deps.sh

.PHONY: lib
lib: ## the optimized library: build/libdoorbell.so and build/libdoorbell.a
	@CARGO='$(CARGO)' TARGET='$(TARGET)' BUILD='$(BUILD)' STD='$(STD)' pkg/build.sh

.PHONY: check-cargo-c
check-cargo-c: lib ## does `cargo cinstall` install the same as `make install` does
	@CARGO='$(CARGO)' TARGET='$(TARGET)' c-tests/cargo-c.sh

# What is built is built only if it is not there or too old, so that root needs no cargo.
INSTALL = $(foreach v,PREFIX LIBDIR INCLUDEDIR MANDIR BINDIR DESTDIR BUILD,$(v)='$($(v))') pkg/install.sh
$(BUILD)/libdoorbell.so.$(VERSION): $(shell find src pkg -type f) Cargo.toml Cargo.lock build.rs
	@$(MAKE) --no-print-directory lib

$(BUILD)/man/man7/doorbell.7: include/doorbell.h $(wildcard docs/man* docs/doorbell*)
	@if command -v python3 >/dev/null; then $(MAKE) --no-print-directory man; \
	else echo "install: no manual pages: they are made by python3"; fi

.PHONY: install uninstall
install: $(BUILD)/libdoorbell.so.$(VERSION) $(BUILD)/man/man7/doorbell.7 $(BUILD)/doorbell-check ## to PREFIX=/usr/local; knows DESTDIR, LIBDIR ..
	@$(INSTALL) install
uninstall: ## takes away what `make install` with the same variables has put there
	@$(INSTALL) uninstall

.PHONY: demo
demo: deps lib ## the demonstration: builds and runs demo/
	@$(MAKE) --no-print-directory -C demo run

.PHONY: bench
bench: lib ## beside its peers (under 45 minutes; ROW=w1: one row, QUICK=1: under 5 minutes); writes bench/REPORT.md
	@bench/deps.sh
	@$(MAKE) --no-print-directory -C bench
	@bench/run.py $(ROW)

# It finds the library beside it, and in ../lib when both are installed. For a LIBDIR where the loader looks anyway,
# CHECK_LDFLAGS= links it without.
CHECK_LDFLAGS ?= -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib'
$(BUILD)/doorbell-check: check/doorbell-check.c include/doorbell.h $(BUILD)/libdoorbell.so.$(VERSION)
	@$(or $(CC),cc) -std=c11 -Wall -Wextra -Werror -pedantic -O2 -g $(CFLAGS) -pthread -I include $< -o $@ \
	  -L$(BUILD) $(CHECK_LDFLAGS) $(LDFLAGS) -ldoorbell

.PHONY: targets
targets: ## installs what check-targets and test-aarch64 need (rustup; apt as root)
	@c-tests/targets.sh install

.PHONY: test-aarch64
test-aarch64: ## the C tests, built for aarch64, under qemu-user
	@TARGET=$(TARGET) c-tests/targets.sh aarch64

.PHONY: demo-haskell
demo-haskell: lib ## Warp through Doorbell beside Warp as it is, under wrk (about a minute)
	@c-tests/deps.sh haskell
	@$(MAKE) --no-print-directory -C haskell-bindings demo LIB=$(abspath $(BUILD))

.PHONY: bench-haskell
bench-haskell: lib ## the rows G1 to G5, beside GHC's own (QUICK=1: two minutes; ROW="g1 g5": only those)
	@c-tests/deps.sh haskell
	@$(MAKE) --no-print-directory -C haskell-bindings bench LIB=$(abspath $(BUILD))

.PHONY: header
header: ## writes include/doorbell.h anew from src/ffi
	@BELL_BLESS=1 $(CARGO) test -q -p doorbell-c-tests --test header $(FOR_EPOLL)

.PHONY: abi-bless
abi-bless: ## records the binary interface anew, on purpose: see docs/versioning.md
	@BELL_BLESS=1 $(CARGO) test -q -p doorbell-abi $(FOR_EPOLL) nothing_that

.PHONY: man
man: ## the manual pages, from the header: build/man
	@docs/man.py $(BUILD)/man

.PHONY: pictures
pictures: ## draws docs/pictures/*.svg anew from the texts beside them
	@BELL_BLESS=1 $(CARGO) test -q -p doorbell-c-tests --test pictures $(FOR_EPOLL)

.PHONY: clean
clean: ## removes all that was built
	@$(CARGO) clean -q $(FOR_EPOLL)
	@$(MAKE) -s -C demo clean
	@$(MAKE) -s -C bench clean
	@$(MAKE) -s -C haskell-bindings clean
	@rm -rf $(BUILD)

.PHONY: test
test: deps ## every test (under 20 minutes on two cores): the stages below, one after the other
	@begin=$$(date +%s); \
	for stage in $(STAGES); do \
	  echo "== $$stage"; start=$$(date +%s); \
	  $(MAKE) --no-print-directory $$stage || { echo "make test: $$stage FAILED"; exit 1; }; \
	  echo "   $$stage: $$(($$(date +%s) - start)) s"; \
	done; \
	echo "make test: all passed, $$(($$(date +%s) - begin)) s"

.PHONY: $(STAGES) soak storm

lint: ## clippy (for each backend) and rustdoc with warnings as errors
	@if $(CARGO) clippy -V >/dev/null 2>&1; then \
	  $(CARGO) clippy -q --workspace --all-targets $(FOR_EPOLL) -- -D warnings && \
	  $(POLL) $(CARGO) clippy -q --lib --tests $(FOR_POLL) -- -D warnings; \
	else echo "skipped: no clippy"; fi
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc -q -p doorbell --no-deps $(FOR_EPOLL)
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc -q -p doorbell --no-deps --document-private-items $(FOR_EPOLL)

abi: ## the binary interface against c-tests/abi: what is removed or changed fails, what is added is listed
	@$(CARGO) test -q -p doorbell-abi $(FOR_EPOLL) nothing_that

abi-selftest: ## does that guard bite: tried on headers with each kind of change
	@$(CARGO) test -q -p doorbell-abi $(FOR_EPOLL) selftest

unit-epoll: ## the tests in src/, backend epoll
	@$(CARGO) test -q -p doorbell $(FOR_EPOLL)

unit-poll: ## the tests in src/, backend poll(2)
	@$(POLL) $(CARGO) test -q -p doorbell $(FOR_POLL)

c-tests-epoll: ## header, layout, exports, C programs (plain, sanitizers, valgrind); backend epoll
	@$(CARGO) test -q --no-fail-fast -p doorbell-c-tests $(FOR_EPOLL)

c-tests-poll: ## the same, backend poll(2)
	@$(POLL) $(CARGO) test -q --no-fail-fast -p doorbell-c-tests $(FOR_POLL)

release-c-tests: lib ## the C programs against the optimized library, without cargo
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so

# Not: dlopen and static_link, which are about the file.
c-tests-uring: lib ## the same with every manager asked for io_uring, if the kernel has it
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so NAME=c-tests-uring \
	  CFLAGS='-O1 -g -DBELL_TEST_IO_URING' LEAVE='dlopen static_link' LIMIT=240

docs: lib ## compiles and runs every program in the documentation
	@c-tests/docs.sh $(BUILD)

man-check: lib man ## is there a manual page for each function, and are they well-formed?
	@c-tests/man.sh $(BUILD)

soak: lib ## ten minutes (SECONDS=) at the fd limit, with forks and signals: is all flat, is nothing lost?
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so soak

storm: lib ## ten million synchronous unregistrations (ten minutes), the word unmapped at once after each four
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so storm

counters: lib ## instructions, system calls and bytes that must not grow (bench/counters.py)
	@if command -v valgrind >/dev/null && command -v strace >/dev/null && command -v python3 >/dev/null; then \
	  $(MAKE) -s -C bench build/doorbell && bench/counters.py; \
	else echo "skipped: no valgrind, strace or python3"; fi

installcheck: lib ## installs into an empty folder and builds against it: pkg-config, CMake, Python, Haskell; uninstalls
	@c-tests/install.sh

doorbell-check: $(BUILD)/doorbell-check ## builds build/doorbell-check (does it work here, what does it cost?) and tests it
	@check/test.sh $(BUILD)

check-targets: ## types and clippy for macOS, FreeBSD, NetBSD, aarch64 and musl; C programs with a static musl library
	@TARGET=$(TARGET) c-tests/targets.sh check

# python3 is what the tests are written in.
examples: lib ## the programs of examples/: builds them, and uses them as a user would
	@if command -v python3 >/dev/null; then \
	  $(MAKE) --no-print-directory -s -C examples check LIB=$(abspath $(BUILD)) OUT=$(abspath $(BUILD))/examples; \
	else echo "skipped: no python3"; fi

# Fixed programs only, so that a run can be repeated; fresh ones are for who has the time to look at what they find.
fuzz: ## calls against a model: the corpus and 4,000 fixed programs (FIXED=), SECONDS=n of new ones (0); all backends
	@$(CARGO) build -q --lib $(FOR_EPOLL)
	@$(POLL) $(CARGO) build -q --lib $(FOR_POLL)
	@FIXED=$(or $(FIXED),4000) c-tests/fuzz.sh $(or $(SECONDS),0) $(TARGET)/debug $(TARGET)/poll/debug

tsan: ## data races: ThreadSanitizer over the library and the C programs
	@CARGO_TARGET_DIR=$(TARGET) c-tests/tsan.sh

# Without link-time optimization the models build in a third of the time and run as fast. A filter that matches
# nothing is a success to cargo, so that is asked first.
LOOM := CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false \
  RUSTFLAGS='--cfg loom' $(CARGO) test -q --release --lib loom_ --target-dir $(TARGET)/loom
loom: ## every interleaving of the lock-free parts (loom)
	@$(LOOM) -- --list | grep ': test$$' >/dev/null || { echo "loom: no model was found"; exit 1; }
	@$(LOOM)

# Models too large for every order: shuttle draws SHUTTLE_RUNS orders of each.
SHUTTLE := CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false \
  RUSTFLAGS='--cfg shuttle' $(CARGO) test -q --release --lib shuttle_ --target-dir $(TARGET)/shuttle
.PHONY: shuttle
shuttle: ## models with four to eight threads (shuttle), SHUTTLE_RUNS=n (2,000) orders of each
	@$(SHUTTLE) -- --list | grep ': test$$' >/dev/null || { echo "shuttle: no model was found"; exit 1; }
	@$(SHUTTLE)

# The package in haskell-bindings/. No GHC, or one without hspec and network: skipped, and said.
haskell: lib ## the Haskell package and its suites: both runtimes, -N1 and -N2, the -debug runtime
	@c-tests/deps.sh haskell
	@if ghc-pkg latest hspec >/dev/null 2>&1 && ghc-pkg latest network >/dev/null 2>&1; then \
	  $(MAKE) --no-print-directory -C haskell-bindings test LIB=$(abspath $(BUILD)); \
	else echo "skipped: no GHC with hspec and network"; fi

# The simulator: the library over a simulated kernel (src/tests/sim). Two builds: epoll, and poll(2) with generations of
# two bits, so that handles wrap. Overflow checks and assertions stay on.
# From a hundred million steps on it is worth half a minute more for the build: a step then takes two thirds of the time.
IS_FAR := $(filter 1,$(shell expr 0$(subst _,,$(STEPS)) '>=' 100000000))
SIM_BUILD := CARGO_PROFILE_RELEASE_LTO=$(if $(IS_FAR),fat,off) CARGO_PROFILE_RELEASE_CODEGEN_UNITS=$(if $(IS_FAR),1,16)
SIM_PROFILE := $(SIM_BUILD) CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
  CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true
SIM := $(SIM_PROFILE) COMMIT=$(shell git rev-parse --short HEAD 2>/dev/null) RUSTFLAGS='--cfg doorbell_sim' \
  $(CARGO) test -q --release --lib --target-dir $(TARGET)/sim
SIM_POLL := $(SIM_PROFILE) COMMIT=$(shell git rev-parse --short HEAD 2>/dev/null) \
  RUSTFLAGS='--cfg doorbell_sim --cfg doorbell_backend="poll" --cfg doorbell_small_generations' \
  $(CARGO) test -q --release --lib --target-dir $(TARGET)/sim-poll
# What the user gives: make sim STEPS=1000000000 JOBS=2, make sim SEED=n. Ten million steps of a long run took 14 s of one
# CPU, with either backend; JOBS share the steps, and none waits for another.
export STEPS SEED JOBS SHUTTLE_RUNS

.PHONY: sim sim-poll sim-seeds prove mutants museum faults
sim: ## the simulator: STEPS=n (a million) JOBS=n (1) from seed SEED=n on; SEED=n alone replays that seed; 10^9: 24 min of CPU
	@$(SIM) sim_random_steps -- --nocapture

sim-poll: ## the same over poll(2), with generations of two bits
	@$(SIM_POLL) sim_random_steps -- --nocapture

sim-seeds: ## every seed that ever failed, on both
	@$(SIM) sim_seeds
	@$(SIM_POLL) sim_seeds

# FDS= CPUS= OPS= SEED=; seconds.
export FDS CPUS OPS
.PHONY: sim-scale
sim-scale: ## what 64 CPUs with a million fds would do to each other: the tables of docs/scale.md (a minute)
	@$(SIM) many_cpus -- --ignored --nocapture

mutants: ## is each rule watched? applies proof/mutants/*.patch one by one (half a minute each)
	@CARGO="$(CARGO)" TARGET="$(abspath $(TARGET))" proof/mutants.sh

museum: lib ## real bugs of other libraries: the C programs of c-tests/MUSEUM.md, counted
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so museum
faults: lib ## every system call and allocation fails in turn, counted: with epoll, and with io_uring
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so faults
	@$(MAKE) --no-print-directory -C c-tests SO=$(abspath $(BUILD))/libdoorbell.so NAME=c-tests-uring \
	  CFLAGS='-O1 -g -DBELL_TEST_IO_URING' faults

prove-quick: ## ten million simulated steps and every seed that failed; its last line counts
	@MAKE="$(MAKE)" proof/prove.sh quick

prove: ## all proofs: a thousand million steps, models, faults, the museum, mutants (hours)
	@MAKE="$(MAKE)" proof/prove.sh all

# STEPS= and JOBS= as above; SHARD=k/n: every n-th mutant, from the k-th on.
.PHONY: coverage mutants-cargo
coverage: ## which lines of src/ and which error returns run in the tests? both backends (six minutes)
	@CARGO='$(CARGO)' proof/coverage.py $(TARGET)

mutants-cargo: ## cargo-mutants over the core: SHARD=0/50 takes every 50th; goes on where an earlier run was stopped
	@CARGO='$(CARGO)' SHARD='$(or $(SHARD),0/50)' proof/cargo-mutants.py $(TARGET)
