# distilld.  `make help` lists the targets.
#
# Layout of the build: every folder becomes build/<folder>.a; the dashboard becomes build/web/pages.c (web/build.mjs);
# engine/simd/*.c are compiled once for each instruction set and chosen at run time (engine/simd.h).
# BUILD=dir keeps another configuration apart: `make asan`, `make tsan` and `make coverage` do so.

BUILD   ?= build
ifeq ($(origin CC),default)
CC      := gcc
endif
OPT     ?= -O2
JOBS    ?= $(shell nproc)
PREFIX  ?= /usr/local
DESTDIR ?=
UNITDIR ?= $(PREFIX)/lib/systemd/system
VENV    ?= $(or $(DISTILLD_VENV),$(HOME)/.cache/distilld/venv)
FOLDERS := base spec engine storage api daemon

WARN := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wformat=2 \
        -Wpointer-arith -Wcast-qual -Wundef -Werror
PKGS := libmicrohttpd gnutls libcjson sqlite3 libutf8proc libarchive zlib nettle libxxhash libcurl
CPPFLAGS := $(CPPFLAGS) -I. -I$(BUILD) -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) openblas 2>/dev/null)
CFLAGS   += -std=gnu17 $(OPT) -g -fPIC -fno-omit-frame-pointer -fstack-protector-strong $(WARN) $(SAN)
LDFLAGS  += $(SAN) -Wl,-z,relro,-z,now -Wl,--as-needed
LDLIBS   += $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -lpthread
# The libraries that multiply are opened by the names they give themselves when there is something to compute (engine/blas.c).
soname    = $(shell objdump -p "$$($(CC) -print-file-name=$(1))" 2>/dev/null | awk '$$1 == "SONAME" { print $$2 }')
CPPFLAGS += -DDD_OPENBLAS='"$(call soname,libopenblas.so)"'
ifneq ($(DD_NO_ONEDNN),1)
ifneq ($(wildcard /usr/include/oneapi/dnnl/dnnl.h),)
CPPFLAGS += -DDD_HAVE_ONEDNN -DDD_ONEDNN='"$(call soname,libdnnl.so)"'
endif
endif

# Numeric code: contraction and vectorised reductions are asked for where they are meant, never -ffast-math.
NUMERIC  := -O3 -fno-math-errno -fno-trapping-math -fopenmp-simd
SIMD_avx512   := -march=x86-64-v4 -mprefer-vector-width=512
SIMD_avx2     := -march=x86-64-v3
SIMD_baseline :=
SIMD_SETS := avx512 avx2 baseline

src  = $(sort $(wildcard $(1)/*.c))
objs = $(patsubst %.c,$(BUILD)/%.o,$(call src,$(1)))
SIMD_OBJS := $(foreach s,$(SIMD_SETS),$(patsubst engine/simd/%.c,$(BUILD)/engine/simd/%.$(s).o,$(wildcard engine/simd/*.c)))

.PHONY: failpoints-all bench-http asan-e2e tsan-e2e all demo test bench bench-web bench-asha bench-experiment bench-bf16 quality lint install uninstall clean help asan tsan failpoints unit-tests-below web deps deps-test unit unit-tests build-tests deb deb-check \
        lint-includes lint-format lint-cppcheck lint-analyzer lint-tidy fuzz fuzz-build torture man
.DEFAULT_GOAL := all

all: $(BUILD)/distilld ## build ./build/distilld

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# One short line for each file; V=1 shows the whole commands.
Q    := $(if $(filter 1,$(V)),,@)
say   = $(if $(Q),@printf '  %-8s %s\n' $(1) $(2))

# --- compiling ---------------------------------------------------------------
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(FILE_CFLAGS) -MMD -MP -c $< -o $@

$(patsubst %.c,$(BUILD)/%.o,$(wildcard engine/*.c)): FILE_CFLAGS := $(NUMERIC)

define simd_rule
$(BUILD)/engine/simd/%.$(1).o: engine/simd/%.c
	@mkdir -p $$(@D)
	$$(call say,CC,"$$< for $(1)")
	$$(Q)$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(NUMERIC) $$(SIMD_$(1)) -DDD_SIMD=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach s,$(SIMD_SETS),$(eval $(call simd_rule,$(s))))

define archive_rule
$(BUILD)/$(1).a: $(call objs,$(1)) $(2)
	@rm -f $$@
	$$(call say,AR,$$@)
	$$(Q)$$(AR) rcs $$@ $$^
endef
$(foreach f,$(filter-out engine,$(FOLDERS)),$(eval $(call archive_rule,$(f),)))
$(eval $(call archive_rule,engine,$(SIMD_OBJS)))

# --- the dashboard, embedded -------------------------------------------------
WEB_SOURCES := $(shell find web -type f -not -path '*/node_modules/*' 2>/dev/null)
web/node_modules/.installed: web/package-lock.json
	cd web && npm ci --no-audit --no-fund --omit=dev
	@touch $@
$(BUILD)/web/pages.c: $(WEB_SOURCES) web/node_modules/.installed
	@mkdir -p $(@D)
	$(call say,WEB,$@)
	$(Q)node web/build.mjs $@
$(BUILD)/web/pages.o: $(BUILD)/web/pages.c
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@
web: $(BUILD)/web/pages.c
# Notices and licences of what the pages contain.
$(BUILD)/web/third-party.txt: web/node_modules/.installed
	@mkdir -p $(@D)
	$(Q)cd web/node_modules && tail -n +1 echarts/NOTICE echarts/LICENSE echarts/licenses/LICENSE-d3 zrender/LICENSE tslib/LICENSE.txt uplot/LICENSE >$(abspath $@)

$(BUILD)/distilld: $(BUILD)/daemon.a $(BUILD)/api.a $(BUILD)/storage.a $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a $(BUILD)/web/pages.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(BUILD)/daemon.a $(BUILD)/api.a $(BUILD)/storage.a $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a $(BUILD)/web/pages.o $(LDLIBS)

# The engine as a shared library, for the live comparisons with PyTorch (tests/live, through ctypes).
$(BUILD)/libengine.so: $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(LDFLAGS) -o $@ -Wl,--whole-archive $^ -Wl,--no-whole-archive $(LDLIBS)

# --- unit tests: tests/unit/<folder>/test_*.c links that folder and what lies below it -----------------------------
LIBS_base    := base
LIBS_spec    := spec base
LIBS_engine  := engine spec base
LIBS_storage := storage base
LIBS_api     := api spec base
LIBS_daemon  := daemon api storage engine spec base
define unit_rule
$(BUILD)/tests/unit/$(1)/%: tests/unit/$(1)/%.c $(foreach l,$(LIBS_$(1)),$(BUILD)/$(l).a) $(if $(filter daemon,$(1)),$(BUILD)/web/pages.o)
	@mkdir -p $$(@D)
	$$(call say,TEST,$$@)
	$$(Q)$$(CC) $$(CPPFLAGS) $$(CFLAGS) -MMD -MP $$(LDFLAGS) -o $$@ $$< $(if $(filter daemon,$(1)),$(BUILD)/web/pages.o) $(foreach l,$(LIBS_$(1)),$(BUILD)/$(l).a) $$(LDLIBS) -lcmocka
UNIT_TESTS += $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/$(1)/test_*.c))
endef
$(foreach f,$(FOLDERS),$(eval $(call unit_rule,$(f))))
unit: $(UNIT_TESTS) ## build and run the unit tests
	@set -e; for t in $(UNIT_TESTS); do echo "== $$t"; $$t; done

# --- testing -----------------------------------------------------------------
tests/browser/node_modules/.installed: tests/browser/package-lock.json
	cd tests/browser && npm ci --no-audit --no-fund
	@touch $@

deps: ## install what building needs (Debian packages, npm)
	@tools/install-deps build
deps-test:
	@tools/install-deps test

test: deps-test ## build, install what the tests need, run every test and count
	@$(MAKE) --no-print-directory -j$(JOBS) all build-tests tests/browser/node_modules/.installed
	@BUILD=$(BUILD) DISTILLD_VENV=$(VENV) tests/run

build-tests: $(BUILD)/distilld $(UNIT_TESTS) $(BUILD)/libengine.so

asan: ## the unit tests under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/asan OPT=-O1 SAN="-fsanitize=address,undefined -fno-sanitize-recover=all" unit-tests
	@BUILD=build/asan DISTILLD_SANITIZED=1 tests/run unit

tsan: ## the unit tests under ThreadSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/tsan OPT=-O1 SAN="-fsanitize=thread" unit-tests
	@BUILD=build/tsan DISTILLD_SANITIZED=1 TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1" tests/run unit

asan-e2e: ## the end-to-end tests against a daemon under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/asan OPT=-O1 SAN="-fsanitize=address,undefined -fno-sanitize-recover=all" build/asan/distilld
	@# LeakSanitizer's list of thread-local memory breaks over a library that dlopen brings (oneDNN's) when a thread has ended.
	@BUILD=build/asan DISTILLD_SANITIZED=1 ASAN_OPTIONS=intercept_tls_get_addr=0 tests/run e2e
tsan-e2e: ## the same under ThreadSanitizer
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/tsan OPT=-O1 SAN="-fsanitize=thread" build/tsan/distilld
	@BUILD=build/tsan DISTILLD_SANITIZED=1 TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1" tests/run e2e

failpoints: ## faults planned: the unit tests of base and storage, and a daemon in which a fixed few of all steps fail
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/fail SAN=-DDD_FAILPOINTS unit-tests-below build/fail/distilld
	@BUILD=build/fail tests/run unit fail
failpoints-all: ## the same daemon with every step failing in turn: an hour
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=build/fail SAN=-DDD_FAILPOINTS build/fail/distilld
	@BUILD=build/fail DISTILLD_FAIL_ALL=1 tests/run fail

unit-tests: $(UNIT_TESTS)
unit-tests-below: $(filter $(BUILD)/tests/unit/base/% $(BUILD)/tests/unit/storage/%,$(UNIT_TESTS))

# --- fuzzing: fuzz/<reader>.c under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer -----------------------
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(sort $(patsubst fuzz/%.c,%,$(wildcard fuzz/*.c)))
fuzz: ## every reader of foreign bytes for FUZZ_SECONDS (60) each; findings stay in build/fuzz/findings
	@$(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/fuzz CC=clang OPT=-O1 WARN=-Wno-pass-failed SAN="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all" \
		FUZZ_TARGETS="$(FUZZ_TARGETS)" fuzz-build
	@BUILD=$(BUILD)/fuzz FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run $(FUZZ_TARGETS)
fuzz-build: $(patsubst %,$(BUILD)/targets/%,$(FUZZ_TARGETS))
$(BUILD)/targets/%: fuzz/%.c fuzz/fuzz.h fuzz/weights.h $(BUILD)/daemon.a $(BUILD)/api.a $(BUILD)/storage.a $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $(filter %.c %.a,$^) $(LDLIBS)

KILLS ?= 1000
torture: $(BUILD)/distilld ## kill -9 a busy daemon KILLS (1000) times and look whether anything is lost
	@DISTILLD_BIN=$(abspath $(BUILD))/distilld node tests/e2e/torture.mjs $(KILLS)

# --- linters -----------------------------------------------------------------
C_FILES := $(foreach f,$(FOLDERS),$(call src,$(f))) $(wildcard engine/simd/*.c)
ALL_C   := $(C_FILES) $(wildcard */*.h engine/simd/*.h tests/*/*.[ch] tests/unit/*/*.[ch] fuzz/*.[ch])

# cppcheck takes a NULL at the end of variable arguments for a 0 that may be an int: in glibc NULL is (void *)0.
# unusedFunction: a folder's public functions are used by the others and by the tests.
# The AST of engine/simd/product.h cannot be built by cppcheck (2.10: GNU vector subscripts); gcc and clang-tidy read it.
# resourceLeak: it does not know __attribute__((cleanup)); gcc's analyzer does, and looks for the same.
CPPCHECK_EXCEPT := missingIncludeSystem unusedFunction varFuncNullUB resourceLeak internalAstError:engine/simd/product.h

lint: ## every linter; warnings are errors
	@$(MAKE) --no-print-directory -k -j$(JOBS) lint-includes lint-format lint-cppcheck lint-analyzer lint-tidy
lint-includes:
	$(Q)tools/check-includes
lint-format:
	$(call say,FORMAT,"$(words $(ALL_C)) files")
	$(Q)clang-format --dry-run -Werror $(ALL_C)
lint-cppcheck: $(patsubst %.c,$(BUILD)/cppcheck/%.ok,$(C_FILES))
$(BUILD)/cppcheck/%.ok: %.c $(wildcard */*.h engine/simd/*.h)
	@mkdir -p $(@D)
	$(call say,CPPCHECK,$<)
	$(Q)cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability --inline-suppr \
		$(CPPCHECK_EXCEPT:%=--suppress=%) -D_GNU_SOURCE -D__x86_64__ -DDD_SIMD=avx512 -I. $<
	@touch $@
# The analyzer takes the lanes of a vector shift for its count's precision (gcc 12), so that warning is off for engine/simd.
ANALYZER_SIMD := $(SIMD_avx512) -Wno-analyzer-shift-count-overflow
lint-analyzer: $(patsubst %.c,$(BUILD)/analyzer/%.ok,$(C_FILES))
$(BUILD)/analyzer/%.ok: %.c
	@mkdir -p $(@D)
	$(call say,ANALYZE,$<)
	$(Q)$(CC) $(CPPFLAGS) -DDD_SIMD=avx512 $(filter-out -O2 -O3,$(CFLAGS)) -O1 -fopenmp-simd $(if $(findstring simd/,$<),$(ANALYZER_SIMD)) \
		-fanalyzer -MMD -MP -MF $(@:.ok=.d) -MT $@ -c $< -o /dev/null
	@touch $@
lint-tidy: $(patsubst %.c,$(BUILD)/tidy/%.ok,$(C_FILES))
$(BUILD)/tidy/%.ok: %.c .clang-tidy $(wildcard */*.h engine/simd/*.h)
	@mkdir -p $(@D)
	$(call say,TIDY,$<)
	$(Q)clang-tidy --quiet $< -- $(CPPFLAGS) -DDD_SIMD=avx512 -std=gnu17 -fopenmp-simd $(if $(findstring simd/,$<),-march=x86-64-v4) \
		2>$(@:.ok=.log) || { cat $(@:.ok=.log) >&2; exit 1; }
	@touch $@

# --- the rest ----------------------------------------------------------------
demo: deps ## build, start the daemon, train on real text, print the table and the dashboard's address
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@demo/demo.sh

bench-web: $(BUILD)/distilld tests/browser/node_modules/.installed ## measure the dashboard in chromium with 10,000 runs in history
	@DISTILLD_BIN=$(abspath $(BUILD))/distilld node tests/browser/perf.mjs

bench-asha: $(BUILD)/distilld ## successive halving against the full grid, on the shared headlines
	@DISTILLD_BIN=$(abspath $(BUILD))/distilld node tests/bench/asha.mjs

bench-experiment: $(BUILD)/distilld $(BUILD)/tests/bench/step ## a whole experiment of 20 epochs with a teacher of 12 layers: twenty minutes (BENCH_EPOCHS=2: five)
	@BUILD=$(BUILD) DISTILLD_BIN=$(abspath $(BUILD))/distilld DISTILLD_VENV=$(VENV) node tests/bench/experiment.mjs

bench-bf16: $(BUILD)/distilld ## five seeds in fp32 and in bf16 on the shared headlines: the curves side by side
	@DISTILLD_BIN=$(abspath $(BUILD))/distilld node tests/bench/bf16.mjs

bench-http: $(BUILD)/distilld $(BUILD)/tests/bench/http_load ## answer times and what they cost a training: 1,000 connections, 100 event readers, 500 GETs a second
	@BUILD=$(BUILD) DISTILLD_BIN=$(abspath $(BUILD))/distilld node tests/bench/stress.mjs

bench: $(BUILD)/distilld $(BUILD)/tests/bench/step $(BUILD)/tests/bench/predict $(BUILD)/tests/bench/http_load ## measure the engine against the machine's sgemm and, where it is installed, PyTorch
	@BUILD=$(BUILD) DISTILLD_VENV=$(VENV) tests/bench/run

# By env, not by a shell, which would keep a signal to itself.
quality: $(BUILD)/distilld ## what a student keeps of its teacher, arm by arm: a night (QUALITY_SCALE=short: half an hour)
	@env BUILD=$(BUILD) DISTILLD_BIN=$(BUILD)/distilld DISTILLD_VENV=$(VENV) node tests/bench/quality/run.mjs

$(BUILD)/tests/bench/%: tests/bench/%.c $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a
	@mkdir -p $(@D)
	$(call say,BENCH,$@)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^) $(LDLIBS)

man: $(BUILD)/man/distilld.1 ## the man pages, from the binary's own help
$(BUILD)/man/distilld.1: $(BUILD)/distilld man/build.mjs
	node man/build.mjs $(BUILD)/distilld $(BUILD)/man

install: all man $(BUILD)/web/third-party.txt ## into PREFIX (/usr/local)
	install -D -m 755 $(BUILD)/distilld $(DESTDIR)$(PREFIX)/bin/distilld
	install -D -m 644 $(BUILD)/man/distilld.1 $(DESTDIR)$(PREFIX)/share/man/man1/distilld.1
	install -D -m 644 $(BUILD)/man/distilld.conf.5 $(DESTDIR)$(PREFIX)/share/man/man5/distilld.conf.5
	install -D -m 644 $(BUILD)/web/third-party.txt $(DESTDIR)$(PREFIX)/share/doc/distilld/third-party.txt
	install -D -m 644 systemd/distilld.service $(DESTDIR)$(UNITDIR)/distilld.service
	install -D -m 644 systemd/distilld.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/distilld.conf
	install -D -m 644 systemd/distilld.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/distilld.conf
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/distilld $(DESTDIR)$(UNITDIR)/distilld.service $(DESTDIR)$(PREFIX)/lib/sysusers.d/distilld.conf \
		$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/distilld.conf $(DESTDIR)$(PREFIX)/share/doc/distilld/third-party.txt \
		$(DESTDIR)$(PREFIX)/share/man/man1/distilld.1 $(DESTDIR)$(PREFIX)/share/man/man5/distilld.conf.5

deb: ## build a Debian package into build/deb, as lintian wants it
	@tools/install-deps deb
	@$(MAKE) --no-print-directory web/node_modules/.installed
	@tools/make-deb $(BUILD)/deb
deb-check: ## install, start, upgrade, remove and purge that package in a clean Debian 12 (as root, with debootstrap)
	@tests/package/check $(BUILD)/deb

clean: ## remove what was built
	rm -rf build web/node_modules tests/browser/node_modules

-include $(shell find $(BUILD) -path $(BUILD)/deb -prune -o -type f -name '*.d' -print 2>/dev/null)
