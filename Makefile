# SPDX-License-Identifier: BSD-3-Clause
# A front for Meson: `make demo` and `make check` do everything, installing
# what is missing first. BUILD=dir builds elsewhere.
BUILD ?= build
PREFIX ?= /usr/local
NINJA := ninja -C

.PHONY: all demo check soak check-kvm check-asan check-tsan bench bench-quick \
	bench-ready fuzz build install clean distclean help

all: build

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make              build into build/
build:
	@scripts/install-deps build
	@test -f $(BUILD)/build.ninja || \
		meson setup $(BUILD) --prefix $(PREFIX) >/dev/null
	@$(NINJA) $(BUILD) --quiet
	@ln -sf cli/godwit lib/libgodwit.so $(BUILD)/

## make demo         move a running Linux guest between two QEMUs
demo: build
	@scripts/install-deps demo
	@scripts/find-qemu >/dev/null 2>&1 || scripts/get-qemu 10.0 >/dev/null
	@scripts/make-guest >/dev/null
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/demo

## make check        all tests but the long ones
check: build
	@scripts/install-deps test guest
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/check unit e2e

## make soak         the long ones: every row, many hops, every version
soak: build
	@scripts/install-deps test guest
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/check soak

## make check-kvm    a move between two QEMUs under KVM, nested if need be
check-kvm: build
	@scripts/install-deps guest
	@GODWIT_BUILD=$(abspath $(BUILD)) scripts/check kvm

## make check-asan   unit tests and corpora under asan and ubsan
check-asan:
	@scripts/install-deps build test
	@test -f $(BUILD)-asan/build.ninja || meson setup $(BUILD)-asan \
		-Db_sanitize=address,undefined -Db_lundef=false \
		-Dwerror=true >/dev/null
	@$(NINJA) $(BUILD)-asan --quiet
	@GODWIT_BUILD=$(abspath $(BUILD)-asan) scripts/check asan

## make check-tsan   tests with threads under tsan
check-tsan:
	@scripts/install-deps build test
	@test -f $(BUILD)-tsan/build.ninja || meson setup $(BUILD)-tsan \
		-Db_sanitize=thread -Db_lundef=false >/dev/null
	@$(NINJA) $(BUILD)-tsan --quiet
	@GODWIT_BUILD=$(abspath $(BUILD)-tsan) scripts/check tsan

## make bench        against QEMU's own migration, in one go: docs/benchmarks.md
bench: bench-ready
	@GODWIT_BUILD=$(abspath $(BUILD)) bench/all.py $(BENCH)

## make bench-quick  the same with small guests, once each, in 3 minutes:
##                   build/bench-quick/benchmarks.md
bench-quick: bench-ready
	@GODWIT_BUILD=$(abspath $(BUILD)) bench/all.py --quick $(BENCH)

# What the benches need; BENCH="--rows full gap -n 9" goes to bench/all.py.
bench-ready: build
	@scripts/install-deps test guest
	@scripts/find-qemu >/dev/null 2>&1 || scripts/get-qemu 10.0 >/dev/null
	@scripts/make-guest >/dev/null

## make fuzz         libFuzzer on every decoder, SECONDS=60 each
SECONDS ?= 60
fuzz:
	@scripts/install-deps build test
	@test -f $(BUILD)-fuzz/build.ninja || CC=clang meson setup \
		$(BUILD)-fuzz -Dfuzz=true -Db_sanitize=address,undefined \
		-Db_lundef=false >/dev/null
	@$(NINJA) $(BUILD)-fuzz --quiet
	@for t in $(BUILD)-fuzz/fuzz/fuzz_*; do case $$t in *_replay|*.p) ;; \
		*) n=$${t##*/fuzz_}; echo "fuzz $$n"; \
		mkdir -p $(BUILD)-fuzz/corpus/$$n; \
		$$t -max_total_time=$(SECONDS) -print_final_stats=1 \
		-artifact_prefix=$(BUILD)-fuzz/ \
		$(BUILD)-fuzz/corpus/$$n fuzz/corpus/$$n \
		2>&1 | tail -3 || exit 1;; esac; done

## make install      PREFIX=/usr/local
install: build
	@meson install -C $(BUILD)

## make clean        what was built; distclean: what was fetched too
clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-fuzz
distclean: clean
	rm -rf .deps
