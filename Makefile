# Two commands for a newcomer: `make up` and `make test`. Programs live in .venv, a cluster and its data in
# ~/.local/state/endpointd/local (ARGS="--data-dir DIR" for another place); nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
TESTING := $(VENV)/.test-installed
KILLS ?= 10
INPUTS ?= 1000000
SANITIZED_INPUTS ?= 30000
SEEDS ?= 1000
REPEAT ?= 1
MINUTES ?= 30
SEED ?= 1
ARGS ?=
VERSIONS ?= 15 16 17

# The tests start a daemon thousands of times: without what Python keeps of compiled modules each start takes a third longer.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install prepare-tests up down status test test-fast test-integration test-versions check check-native sanitize sanitize-address sanitize-thread format compose-test sim bench-failover \
        bench-patroni bench-proxy bench-logins bench-idle fuzz faults faults-short hostile hostile-network soak coverage compat clean

help:
	@echo "make up              install into .venv and run a cluster in the foreground (^C stops it)"
	@echo "make down            stop a cluster that runs in the background"
	@echo "make status          show the cluster"
	@echo "make test            every test, on real PostgreSQL, on free ports (ARGS=... for pytest)"
	@echo "make test-fast       the tests that start no PostgreSQL"
	@echo "make test-versions   what differs from version to version, on VERSIONS=\"15 16 17\" of PostgreSQL (ARGS=... for pytest)"
	@echo "make coverage        branches of the pure code that unit tests take, one row a package; fails below the minima"
	@echo "make check           lint, format, types, import rules"
	@echo "make sim             SEEDS=1000 runs of a simulated cluster under faults, with the real decisions (ARGS=\"--jobs 2 --coverage\")"
	@echo "make compose-test    the cluster of docker-compose.yml on a real engine, under faults (root; ARGS=--short for less)"
	@echo "make bench-failover  KILLS=10 times kill -9 of the primary under load, or ARGS=\"--fault freeze-node\"; outages and verdict"
	@echo "make bench-patroni   endpointd and Patroni side by side under the same faults (needs etcd, haproxy; ARGS=--short for two minutes)"
	@echo "make bench-proxy     pgbench directly, through the proxy, PgBouncer and HAProxy, in turns (ARGS=--short for three minutes; --list)"
	@echo "make bench-logins    what a login costs the proxy, beside PgBouncer if it is installed, and whether its time tells who exists"
	@echo "make bench-idle      what 10,000 clients that say nothing cost the proxy, beside PgBouncer if it is installed (ARGS=\"--clients 500\")"
	@echo "make fuzz            INPUTS=1000000 for all that reads the wire, guided by coverage (ARGS=\"--jobs 2 relay\")"
	@echo "make sanitize        the native relay engine under AddressSanitizer, UBSan and ThreadSanitizer (needs gcc)"
	@echo "make faults          everything that may befall a cluster, under recording clients (REPEAT=5, ARGS=\"kill-node 15\")"
	@echo "make faults-short    four faults and the control run, as with every change"
	@echo "make hostile-network every port attacked in every way, and the primary killed meanwhile (ARGS=\"--listener manager --kills 1\", --short)"
	@echo "make hostile         all that a tenant can do by SQL, and the writer killed and switched over each time (ARGS=\"'lock-*' --resume\")"
	@echo "make compat          third-party suites directly and through the endpoint: one transparency score each (ARGS=\"--suite asyncpg --way plain\")"
	@echo "make soak            seeded mishaps for MINUTES=30 from SEED=1"
	@echo "make install         only install into .venv"

install: $(RUNTIME)

# The venv module and pip are separate packages on Debian and Ubuntu; without them venv fails half way with a long text.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); install Python 3.11 or newer, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: this Python has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv) and run make again" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUNTIME): pyproject.toml setup.py $(wildcard endpointd/relay/native/*.[ch]) | $(BIN)/python
	@echo "installing into $(VENV) (15 seconds or more, and silent)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,sql]'
	@touch $@

# All at once: what runs is among what the tests need.
$(TESTING): pyproject.toml setup.py $(wildcard endpointd/relay/native/*.[ch]) | $(BIN)/python
	@echo "installing into $(VENV), also what the tests need (a minute or more, and silent)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,sql,test]'
	@touch $(RUNTIME) $@

prepare-tests: $(TESTING)

up: $(RUNTIME)
	@$(BIN)/endpointctl up $(ARGS)

down: $(RUNTIME)
	@$(BIN)/endpointctl down $(ARGS)

status: $(RUNTIME)
	@$(BIN)/endpointctl status $(ARGS)

test: $(TESTING)
	$(BIN)/python -m pytest $(ARGS)

test-fast: $(TESTING)
	$(BIN)/python -m pytest -m "not integration" $(ARGS)

test-integration: $(TESTING)
	$(BIN)/python -m pytest -m integration $(ARGS)

# Each version's build is fetched once; the default, 18, is what every other target runs on.
test-versions: $(TESTING)
	@for version in $(VERSIONS); do \
	  echo "PostgreSQL $$version"; $(BIN)/python -m pytest --pg-version=$$version -m versions $(ARGS) || exit 1; done

check: $(TESTING) check-native
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

# Where there is no compiler there is nothing to check: the asyncio engine serves.
check-native: $(TESTING)
	@command -v $(CC) >/dev/null || { echo "check-native: no C compiler"; exit 0; }; \
	for source in endpointd/relay/native/*.c; do \
	  $(CC) -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wconversion -Werror \
	    -isystem $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') \
	    -c $$source -o /dev/null || exit 1; \
	done

# Other builds of the extension, each in a Python that was not built so: the runtime has to come first.
sanitize: sanitize-address sanitize-thread

sanitize-address: SANITIZERS := address,undefined
sanitize-address: RUNTIME_LIBRARIES = $(shell $(CC) -print-file-name=libasan.so) $(shell $(CC) -print-file-name=libubsan.so)
sanitize-thread: SANITIZERS := thread
sanitize-thread: RUNTIME_LIBRARIES = $(shell $(CC) -print-file-name=libtsan.so)

sanitize-address sanitize-thread: $(TESTING)
	@mkdir -p build/$@
	$(CC) -std=c11 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -fPIC -shared -pthread -fsanitize=$(SANITIZERS) \
	  -fno-sanitize-recover=all -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') \
	  endpointd/relay/native/*.c -o build/$@/_native.abi3.so
	export NATIVE_BUILD=build/$@/_native.abi3.so LD_PRELOAD="$(RUNTIME_LIBRARIES)" PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=8 TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0; \
	$(BIN)/python -m pytest -p tests.sanitized -p no:cacheprovider -q -k "native or both" $(ARGS) \
	  tests/endpointd/test_relay.py tests/endpointd/test_relay_strain.py tests/endpointd/test_twins.py && \
	$(BIN)/python -m pytest -p tests.sanitized -p no:cacheprovider -q tests/endpointd/test_pooler.py tests/endpointd/test_pooler_ends.py && \
	$(BIN)/python -c "import tests.sanitized, tests.fuzz.__main__ as fuzz; raise SystemExit(fuzz.main())" --inputs $(SANITIZED_INPUTS) native

coverage: $(TESTING)
	@rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -m "not integration and not slow" $(ARGS)
	$(BIN)/python -m tests.floors

format: $(TESTING)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compose-test: $(TESTING)
	$(BIN)/python -m tests.compose $(ARGS)

sim: $(TESTING)
	$(BIN)/python -m tests.sim --seeds $(SEEDS) $(ARGS)

bench-failover: $(TESTING)
	$(BIN)/python -m bench.failover --kills $(KILLS) $(ARGS)

bench-patroni: $(TESTING)
	$(BIN)/python -m bench.patroni $(ARGS)

bench-proxy: $(TESTING)
	$(BIN)/python -m bench.proxy $(ARGS)

bench-logins: $(TESTING)
	$(BIN)/python -m bench.logins $(ARGS)

bench-idle: $(TESTING)
	$(BIN)/python -m bench.idleclients $(ARGS)

fuzz: $(TESTING)
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS) $(ARGS)

faults: $(TESTING)
	$(BIN)/python -m bench.faults --repeat $(REPEAT) $(ARGS)

faults-short: $(TESTING)
	$(BIN)/python -m bench.faults --short $(ARGS)

hostile-network: $(TESTING)
	$(BIN)/python -m tests.hostile_network $(ARGS)

hostile: $(TESTING)
	$(BIN)/python -m tests.hostile $(ARGS)

compat: $(TESTING)
	$(BIN)/python -m tests.compat $(ARGS)

soak: $(TESTING)
	$(BIN)/python -m bench.soak --minutes $(MINUTES) --seed $(SEED) $(ARGS)

clean:
	rm -rf build dist *.egg-info test-logs bench-reports .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
