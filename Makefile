# privlink: build, generate, verify, lint, test, demo. `make help` lists the targets.
# On a machine without make or compilers, scripts/setup TARGET installs them and comes here.

# --- Versions of tools: the only place ------------------------------------------------------
# The Go toolchain and the Go tools (bpf2go, staticcheck) are pinned in go.mod.
# Generated objects depend on the compiler's exact output, so its major version is part of the name.
CLANG        := clang-19
LLVM_STRIP   := llvm-strip-19
CLANG_FORMAT := clang-format-19

# --- Settings ---------------------------------------------------------------------------------
# Limit for the tests of one package; two packages at a time, as the smallest machine has two cores.
TEST_TIMEOUT  ?= 25m
TEST_PARALLEL ?= 2
# Restricts `make test` and `make lint` to some packages: make test PKG=./pkg/lab/...
PKG ?= ./...

# scripts/setup leaves a link to the Go toolchain it fetched in .cache/go; where it found one, PATH has it.
export PATH := $(CURDIR)/.cache/go/bin:$(PATH):/usr/local/go/bin
# A go command must not fetch another toolchain behind our back: setup has chosen one.
export GOTOOLCHAIN := local

# bpf2go reads these; the go:generate lines name only the source, the target and their own -I.
#  -mcpu=v3      32-bit ALU and jumps, supported since 5.1; the oldest kernel we support is 6.1
#  -idirafter    asm/types.h stands in the multiarch folder, which the BPF target does not search
#  BPF2GO_STRIP  named by version: plain llvm-strip may be another LLVM's
export BPF2GO_CC     := $(CLANG)
export BPF2GO_STRIP  := $(LLVM_STRIP)
export BPF2GO_CFLAGS := -O2 -g -mcpu=v3 -Wall -Wextra -Werror -Wno-unused-parameter \
	-idirafter /usr/include/$(shell uname -m)-linux-gnu

# Packets of `make fuzz`, and where its seeds begin: a failure prints the seed that replays it.
FUZZ_PACKETS ?= 200000
FUZZ_SEED    ?= 1

.DEFAULT_GOAL := build
.PHONY: help build generate verify lint format test check-crash check-hostile check-lb check-proxy check-proxy-quick check-scale check-sdk demo fuzz fuzz-json fuzz-mutants bench bench-quick test-kernels chaos lab-clean clean
# A recipe that fails half way must not leave a file that looks finished.
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## bin/privlink (needs neither clang nor root)
	go build -o bin/privlink ./cmd/privlink

generate: ## compile bpf/ and write objects and Go bindings beside the packages that embed them
	go generate ./...

verify: ## regenerate everything in a copy at another path and compare with what is committed
	scripts/verify

# gofmt and clang-format list what they would change and say nothing when all is well.
lint: ## gofmt, go vet, staticcheck, clang-format, go.mod
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	go vet $(PKG)
	go vet -tags machine ./pkg/doctor ./pkg/dataplane
	go tool staticcheck $(PKG)
	git ls-files -co --exclude-standard 'bpf/*.[ch]' | xargs -r $(CLANG_FORMAT) --dry-run -Werror

format: ## let gofmt and clang-format rewrite what lint complains about
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')
	git ls-files -co --exclude-standard 'bpf/*.[ch]' | xargs -r $(CLANG_FORMAT) -i

# -count=1: what these tests measure is the kernel, which the test cache knows nothing of.
# The comparison with nftables is a result to be read, and go test shows nothing of a package that passed.
test: export ORACLE_REPORT = $(CURDIR)/bin/oracle.txt
test: build ## every test: unit, packet tables, namespaces (root)
	@test "$$(id -u)" = 0 || { echo "make test: must be root (network namespaces, BPF)"; exit 1; }
	@rm -f $(ORACLE_REPORT)
	go test -count=1 -p $(TEST_PARALLEL) -timeout $(TEST_TIMEOUT) $(PKG); status=$$?; \
		test ! -e $(ORACLE_REPORT) || cat $(ORACLE_REPORT); exit $$status

# Emulated machines, some minutes a kernel. KERNELS=6.1 for one; newest is left out where it cannot be had.
KERNELS ?=
test-kernels: ## verifier load, stress and packet tables on Linux 6.1, 6.12 and newest, in VMs
	scripts/test-kernels $(KERNELS)

check-proxy: ## the PROXY path with real servers, 8,000 idle and 100,000 short connections (root, 15 min)
	go run ./pkg/splice/check

check-proxy-quick: ## the same in under a minute: says what it leaves out (root)
	go run ./pkg/splice/check -quick

# CHECK_LB_SECONDS is how long backends are killed, 120 unless CI=true; CHECK_LB_SEED repeats who is killed when.
check-lb: ## the load balancer under load: killed backends, many services, rolling replacement (root, 5 min)
	go run ./scripts/check-lb

# CRASH_KILLS is the number of kills; CRASH_SEED repeats an order of writes and moments.
check-crash: export CRASH_KILLS ?= 200
check-crash: ## kill -9 while many write: nothing acknowledged is lost, the kernel is as the store: CRASH_KILLS=N (root, 5 min)
	@go run ./scripts/check-crash

# Judges throughput on one processor while the other is busy in two ways: nothing else may run beside it.
check-hostile: ## what other consumers keep beside one that attacks at full rate: eight floods through TC and XDP, and a slow loris (root, 4 min)
	FAULTS_ALONE=1 go test -count=1 -v -run TestHostile_FullRate -skip '$(CHECK_HOSTILE_SKIP)' ./pkg/dataplane/faults

# By time, so nothing else may run beside it; CHECK_SCALE="-busy" judges by the daemon's processor time, "-short" takes half a minute.
check-scale: ## 1,000 endpoints on 100 services: lists, approvals, restarts, in time (root, 1 min)
	@go run ./scripts/check-scale $(CHECK_SCALE)

check-sdk: ## the story of a private link with two majors of the Azure SDK, every operation (root)
	go run ./scripts/check-sdk

demo: build ## the main job in network namespaces, under 30 s (root)
	bin/privlink demo

# One core, network namespaces of its own; the other core should be idle.
bench: ## privlink beside its limits and alternatives: table, bench.json, plots (root, some minutes)
	go run ./pkg/bench/run

bench-quick: ## the same with fewer packets and parts, under a minute (root)
	go run ./pkg/bench/run -quick

fuzz: ## FUZZ_PACKETS random packets through programs and model, from FUZZ_SEED on (root)
	@mkdir -p bin && go build -o bin/fuzz ./scripts/fuzz
	@bin/fuzz -packets $(FUZZ_PACKETS) -seed $(FUZZ_SEED)

fuzz-mutants: ## every fault that can be compiled in must be found within 200,000 packets (root)
	@mkdir -p bin && go build -o bin/fuzz ./scripts/fuzz
	@bin/fuzz -mutants -packets 200000 -seed $(FUZZ_SEED)

# What it finds stands in testdata/fuzz of the package then, and fails every run of the tests from there on.
# A time, or a number of inputs such as 2000x. Making an input smaller is bounded: by default that may take a minute, in which
# nothing new is tried, and the end of the time in the middle of it fails the run.
FUZZ_JSON ?= 60s
fuzz-json: ## any JSON at decoder, control plane and every route, FUZZ_JSON each: nothing panics, nothing half-applies
	go test ./pkg/api -run '^$$' -fuzz FuzzDecode -fuzztime $(FUZZ_JSON) -fuzzminimizetime 20x
	go test ./pkg/control -run '^$$' -fuzz FuzzPut -fuzztime $(FUZZ_JSON) -fuzzminimizetime 20x
	go test ./pkg/server -run '^$$' -fuzz FuzzWrite -fuzztime $(FUZZ_JSON) -fuzzminimizetime 20x

# Faults one after the other while mixed traffic runs; the last line says what was lost. A seed repeats an order.
CHAOS_SECONDS ?= 120
CHAOS_SEED    ?= 0
chaos: build ## break things at random under traffic and count what is lost: CHAOS_SECONDS=N CHAOS_SEED=S (root)
	@go run ./pkg/chaos/run -seconds $(CHAOS_SECONDS) -seed $(CHAOS_SEED) -privlink bin/privlink

lab-clean: ## remove namespaces, processes and pins left by labs whose owner was killed (root)
	go run ./scripts/lab-clean

clean: ## remove what was built; .cache (the fetched toolchain) stays
	rm -rf bin
