# Thin: each target is one step for people; CMake and scripts/ do the work. `make help` lists the targets.
#   CUDA=1           build the GPU program (build/cuda/cairn); setup then sees to nvcc, too
#   CAIRN_TORCH=DIR  use the LibTorch 2.11.0 in DIR instead of .deps/torch
#   CAIRN_PYTHON=P   a Python with torch and numpy, for the tests of python/ (default: python3; without torch they are skipped) and make wheel
#   RUNS=N           executions of each reader in make fuzz
#   JOBS=N           compile N files at a time (default: all cores)
CUDA ?= 0
JOBS ?= $(shell nproc)
BUILD := $(if $(filter 1,$(CUDA)),build/cuda,build)
export CAIRN_TORCH CUDA
# Waiting threads sleep: spinning ones cost a shared machine most of its time and win little on a quiet one.
export OMP_WAIT_POLICY ?= passive
.DEFAULT_GOAL := help
.PHONY: help setup configure build demo test fuzz bench lint format bundle wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup:  ## install what is missing: system packages, LibTorch into .deps/torch, CUDA=1: nvcc into .deps/cuda
	@scripts/setup.sh

configure: setup
	@mkdir -p $(BUILD)
	@cmake -S . -B $(BUILD) -G Ninja -DCAIRN_TORCH="$(CAIRN_TORCH)" -DCAIRN_CUDA=$(if $(filter 1,$(CUDA)),ON,OFF) > $(BUILD)/configure.log 2>&1 \
	  || { cat $(BUILD)/configure.log; exit 1; }

build: configure  ## the program: build/cairn (CUDA=1: build/cuda/cairn)
	@cmake --build $(BUILD) -j $(JOBS) --target cairn
	@echo "build: $(BUILD)/cairn is ready"

demo: build  ## train a tiny model from nothing and watch it find things far beyond its training length
	@$(BUILD)/cairn demo

test:  ## everything that must hold: build, tests, sanitizers, formatting
	@JOBS=$(JOBS) scripts/test.sh

fuzz:  ## fuzz the readers of files with clang: RUNS=1000000 executions each, READERS="..." some of them
	@JOBS=$(JOBS) RUNS="$(or $(RUNS),1000000)" READERS="$(READERS)" scripts/fuzz.sh

bench: build  ## speed of the operators beside the machine's limits
	@$(BUILD)/cairn bench ops

lint: setup  ## formatting of all sources
	@scripts/format.sh --check

format:  ## rewrite all sources in the house format
	@scripts/format.sh

bundle:  ## the GPU program and its libraries in build/bundle, to carry to a machine that has LibTorch
	@$(MAKE) --no-print-directory build CUDA=1
	@scripts/bundle.sh

wheel: configure  ## torch.ops.cairn for PyTorch users: a Python wheel in build/wheel (CUDA=1: with the kernels for GPUs)
	@cmake --build $(BUILD) -j $(JOBS) --target cairn_pytorch
	@scripts/wheel.sh $(BUILD)/libcairn_torch.so

clean:  ## remove everything that was built (not .deps)
	@rm -rf build && echo "clean: build/ is gone"
