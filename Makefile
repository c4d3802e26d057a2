# distilld.  `make help` lists the targets.
#
# Layout of the build: every folder becomes build/<folder>.a; the dashboard becomes build/web/pages.c (web/build.mjs);
# engine/simd/*.c are compiled once for each instruction set and chosen at run time (engine/simd.h).
# BUILD=dir keeps another configuration apart: `make asan`, `make tsan` and `make coverage` do so.

BUILD   ?= build
CC      ?= gcc
OPT     ?= -O2
PREFIX  ?= /usr/local
DESTDIR ?=
VENV    ?= $(or $(DISTILLD_VENV),$(HOME)/.cache/distilld/venv)
FOLDERS := base spec engine storage api daemon

WARN := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wformat=2 \
        -Wpointer-arith -Wcast-qual -Wundef -Werror
PKGS := libmicrohttpd libcjson sqlite3 libutf8proc libarchive zlib nettle
CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE $(shell pkg-config --cflags $(PKGS) openblas 2>/dev/null)
CFLAGS   += -std=gnu17 $(OPT) -g -fPIC -fno-omit-frame-pointer -fstack-protector-strong $(WARN) $(SAN)
LDFLAGS  += $(SAN) -Wl,-z,relro,-z,now -Wl,--as-needed
LDLIBS   += $(shell pkg-config --libs $(PKGS) openblas 2>/dev/null) -lm -lpthread
ifneq ($(DD_NO_ONEDNN),1)
ifneq ($(wildcard /usr/include/oneapi/dnnl/dnnl.h),)
CPPFLAGS += -DDD_HAVE_ONEDNN
LDLIBS   += -ldnnl
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

.PHONY: all demo test bench lint install uninstall clean help asan tsan web deps deps-test
.DEFAULT_GOAL := all

all: $(BUILD)/distilld ## build ./build/distilld

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# --- compiling ---------------------------------------------------------------
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(FILE_CFLAGS) -MMD -MP -c $< -o $@

$(patsubst %.c,$(BUILD)/%.o,$(wildcard engine/*.c)): FILE_CFLAGS := $(NUMERIC)

define simd_rule
$(BUILD)/engine/simd/%.$(1).o: engine/simd/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(CPPFLAGS) $$(CFLAGS) $$(NUMERIC) $$(SIMD_$(1)) -DDD_SIMD=$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach s,$(SIMD_SETS),$(eval $(call simd_rule,$(s))))

define archive_rule
$(BUILD)/$(1).a: $(call objs,$(1)) $(2)
	@rm -f $$@
	$$(AR) rcs $$@ $$^
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
	node web/build.mjs $@
$(BUILD)/web/pages.o: $(BUILD)/web/pages.c
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@
web: $(BUILD)/web/pages.c

$(BUILD)/distilld: $(BUILD)/daemon.a $(BUILD)/api.a $(BUILD)/storage.a $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a $(BUILD)/web/pages.o
	$(CC) $(LDFLAGS) -o $@ $(BUILD)/daemon.a $(BUILD)/api.a $(BUILD)/storage.a $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a $(BUILD)/web/pages.o $(LDLIBS)

# The engine as a shared library, for the live comparisons with PyTorch (tests/live, through ctypes).
$(BUILD)/libengine.so: $(BUILD)/engine.a $(BUILD)/spec.a $(BUILD)/base.a
	$(CC) -shared $(LDFLAGS) -o $@ -Wl,--whole-archive $^ -Wl,--no-whole-archive $(LDLIBS)

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
	$$(CC) $$(CPPFLAGS) $$(CFLAGS) -MMD -MP $$(LDFLAGS) -o $$@ $$< $(if $(filter daemon,$(1)),$(BUILD)/web/pages.o) $(foreach l,$(LIBS_$(1)),$(BUILD)/$(l).a) $$(LDLIBS) -lcmocka
UNIT_TESTS += $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/$(1)/test_*.c))
endef
$(foreach f,$(FOLDERS),$(eval $(call unit_rule,$(f))))
unit: $(UNIT_TESTS) ## build and run the unit tests
	@set -e; for t in $(UNIT_TESTS); do echo "== $$t"; $$t; done

clean: ## remove what was built
	rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
