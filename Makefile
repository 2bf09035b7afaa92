# Needs Python >= 3.11 and a C++ compiler; everything else goes into .venv.
#   make demo    train on MovieLens-100K and recommend          make test    the whole test suite
#   make lint    formatting, lint, types                        make bench   kernels against their peers
#   make bench-million    training and ranking as the catalogue grows to a million items
#   make docs    the pages of docs/ that follow from the code     make site    the documentation as a website
#   make fuzz    operators under sanitizers (GCC)
#   make portable      compile with clang, and for aarch64 (g++-aarch64-linux-gnu)
#   make wheel   sdist and wheel into dist/                     make wheel-check    install the wheel elsewhere, use it
#   make gpu     all checks of a GPU (tests, benchmarks, training) into gpu.json: docs/gpu-checklist.md
#   make lock    newest versions for developing into constraints.txt
#   make cuda-check    compile the CUDA half for every target, look at its machine code (nvcc, no GPU)
#   make cuda-full     the same as an installed package, beside a CUDA build of torch (8 GB, no GPU)
PYTHON ?= python3
VENV ?= .venv
# The torch to install. Another build: make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# Versions of all else, for developing and the demo; LOCK=/dev/null takes the newest
LOCK ?= constraints.txt

BIN := $(VENV)/bin
SOURCES := setup.py CMakeLists.txt pyproject.toml $(shell find csrc -type f)
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint format docs site bench bench-million fuzz portable cuda-check cuda-full gpu wheel wheel-check lock clean

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: building against it must not fetch another, and an index of its own may lack what is locked
$(VENV)/torch: $(LOCK) | $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) -c $(LOCK) 'setuptools>=77' wheel 'cmake>=3.27' ninja numpy build
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(PIP) -c $(LOCK) --no-build-isolation -e '.[parquet,plot]'
	touch $@

$(VENV)/developing: $(VENV)/torch $(SOURCES)
	DMREC_REQUIRE_NATIVE=1 DMREC_CMAKE_ARGS=-DDMREC_WERROR=ON $(PIP) -c $(LOCK) --no-build-isolation -e '.[dev]'
	touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/dmrec doctor
	$(BIN)/dmrec data fetch ml-100k --out demo/ml-100k --force
	$(BIN)/dmrec profile demo/ml-100k
	$(BIN)/dmrec embed demo/ml-100k --profiles template
	$(BIN)/dmrec train mult-vae dmrec-m --config examples/ml-100k.yaml --data demo/ml-100k --out demo/runs \
	  --set language.alone=0.3 --plot demo/validation.png --force
	$(BIN)/dmrec recommend demo/runs/ml-100k/dmrec-m --user 1
	$(BIN)/dmrec recommend demo/runs/ml-100k/dmrec-m --profile "Sci-Fi and Horror, Star Wars and the like" \
	  --popularity 0.25

test: $(VENV)/developing
	DMREC_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

lint: $(VENV)/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

docs: $(VENV)/developing
	$(BIN)/python docs/generate.py

site: $(VENV)/developing
	$(BIN)/python docs/site.py

bench: $(VENV)/developing
	$(PIP) -c $(LOCK) -e '.[bench]' --no-build-isolation
	$(BIN)/python -m benchmarks

bench-million: $(VENV)/developing
	$(BIN)/python -m benchmarks.dmrec.million

# 10,000 calls of the raw operators against a build with sanitizers; instruction-set clones off, which they cannot follow
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined
fuzz: $(VENV)/developing
	PATH="$(BIN):$$PATH" cmake -S . -B build/fuzz -G Ninja -DDMREC_CLONES=OFF -DCMAKE_BUILD_TYPE=None \
	  -DDMREC_TORCH_ROOT=$$($(BIN)/python -c 'import torch; print(torch.__path__[0])') -DCMAKE_CXX_FLAGS="$(SANITIZE)"
	PATH="$(BIN):$$PATH" cmake --build build/fuzz
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  $(BIN)/python -W ignore tests/fuzz_operators.py build/fuzz/_C.abi3.so

# all of the CPU half by another compiler, and for another processor: there without linking, as its torch is not here
CROSS := aarch64-linux-gnu-g++ -std=c++20 -O2 -fPIC -fvisibility=hidden -fopenmp-simd -fno-math-errno -fno-trapping-math \
  -Wall -Wextra -Werror -DTORCH_TARGET_VERSION=0x020b000000000000 -I csrc
portable: $(VENV)/developing
	PATH="$(BIN):$$PATH" cmake -S . -B build/clang -G Ninja -DDMREC_WERROR=ON -DCMAKE_CXX_COMPILER=clang++ \
	  -DDMREC_TORCH_ROOT=$$($(BIN)/python -c 'import torch; print(torch.__path__[0])')
	PATH="$(BIN):$$PATH" cmake --build build/clang
	for file in csrc/ops/*.cpp csrc/ops/cpu/*.cpp; do echo $$file for aarch64 && $(CROSS) -c $$file -o build/aarch64.o \
	  -isystem $$($(BIN)/python -c 'import torch; print(torch.__path__[0])')/include || exit 1; done
	$(BIN)/python -m pytest -q -rs tests/math/test_portable.py

cuda-check: $(VENV)/developing
	$(PIP) 'nvidia-cuda-cuobjdump==13.2.51' 'nvidia-cuda-nvdisasm==13.2.51'
	PATH="$(BIN):$$PATH" $(BIN)/python tests/cuda/check.py

cuda-full:
	$(PYTHON) tests/cuda/full.py

# the first machine with a GPU: TORCH names a CUDA build, DMREC_CUDA=on makes a missing nvcc an error
gpu: $(VENV)/developing
	$(BIN)/python -W ignore -m benchmarks.gpu --out gpu.json

# the wheel is built from the sdist, which so must hold all that is needed
wheel: $(VENV)/torch
	rm -rf dist
	DMREC_REQUIRE_NATIVE=1 $(BIN)/python -m build --no-isolation

wheel-check: $(VENV)/torch
	TORCH="$(TORCH)" $(BIN)/python tests/install/fresh.py dist

# in a fresh environment; dmrec without its native library, for its requirements alone
lock:
	rm -rf build/lock
	$(MAKE) VENV=build/lock LOCK=/dev/null build/lock/torch
	CXX=false DMREC_CUDA=off build/lock/bin/python -m pip install --quiet --no-build-isolation '.[dev,bench]'
	echo "# Made by 'make lock': what developers have beside torch and CUDA, on Python $$($(PYTHON) -V | cut -c 8-)" > $(LOCK)
	build/lock/bin/python -m pip freeze --all --exclude pip --exclude torch --exclude dmrec \
	  | grep -Ev '^(nvidia|cuda|triton)' >> $(LOCK)

clean:
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache
