# A thin front door: CMake does the work (CMakePresets.json).
.PHONY: demo test test-cpus build bench bench-gate asan tsan format format-check tidy install interop clean deps test-aarch64 test-onednn3
.DEFAULT_GOAL := build

PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
SOURCES = $(shell git ls-files '*.c' '*.h' '*.cpp' '*.cu' '*.cuh')

demo: deps
	@$(MAKE) --no-print-directory build
	rm -rf build/tiny-int4 build/tiny-int4.run
	build/bin/quantpipe run

test: deps
	@$(MAKE) --no-print-directory build
	ctest --preset release --output-on-failure --parallel $(JOBS)

# Kernels, stages and whole runs of each kind under each instruction set of QUANTPIPE_CPU that this machine has, and a table.
test-cpus: build
	JOBS=$(JOBS) tests/cpus.sh

# Installs nothing: what is missing is named.
build:
	@[ -f build/build.ninja ] || scripts/deps --check
	@cmake --preset release || { scripts/deps --check; exit 1; }
	cmake --build --preset release --parallel $(JOBS)

deps:
	@scripts/deps

# The Python libraries that read what we write: makes its own virtual environment in the user's cache folder.
interop: build
	tests/interop/run.sh

asan tsan: deps
	@cmake --preset $@ || { scripts/deps --check; exit 1; }
	cmake --build --preset $@ --parallel $(JOBS)
	ctest --preset $@ --output-on-failure --parallel $(JOBS)

# The kernels elsewhere: for AArch64, emulated, and with oneDNN 3. Libraries go to the user's cache folder, once.
test-aarch64:
	@scripts/deps --aarch64
	tests/portable/aarch64.sh

test-onednn3: deps
	tests/portable/onednn3.sh

# Times the kernels, then whole jobs, in ten minutes at most. PEERS="TOOL:RECIPE ..." runs these of other tools as well
# (tests/bench/README.md says what that takes).
bench: build
	cmake --build --preset release --target bench_kernels
	timeout 120 build/tests/bench_kernels
	PEERS="$(PEERS)" tests/bench/speed/run.sh

# Counts instructions of kernels under valgrind, against tests/bench/gate/counts.txt; UPDATE=1 writes that file.
bench-gate: build
	cmake --build --preset release --target bench_gate
	UPDATE=$(UPDATE) tests/bench/gate/run.sh

format:
	clang-format -i $(SOURCES)

format-check:
	clang-format --dry-run --Werror $(SOURCES)

tidy: build
	clang-tidy -p build --quiet $(shell git ls-files 'libstage/*.c' 'runner/*.c' 'stages/*.c' 'kernels/*.c')

# The program, its stages, and headers, library and pkg-config file for authors of stages. DESTDIR=FOLDER goes before PREFIX.
install: build
	DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)"

clean:
	rm -rf build build-dev build-asan build-tsan build-cuda
