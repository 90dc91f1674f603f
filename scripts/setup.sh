#!/bin/sh
# Puts everything in place that building and testing need, and says what it does. Quick when all is there already.
#   packages of the system   through apt-get, as root or with sudo that asks no password; otherwise the exact command is printed (exit 2)
#   LibTorch                 from PyPI into .deps/torch, unless CAIRN_TORCH names a folder that has it
#   nvcc (CUDA=1)            from PyPI into .deps/cuda, if neither CUDACXX, nor PATH, nor /usr/local/cuda*/bin has one of CUDA 13
# Python serves as downloader only; nothing is installed outside .deps and the system's packages.
set -eu
cd "$(dirname "$0")/.."

TORCH_VERSION=2.11.0
CUDA_VERSION=13.0
NVCC_VERSION=13.0.88
CCCL_VERSION=13.0.85
PACKAGES="cmake ninja-build ccache libsentencepiece-dev libfmt-dev libcli11-dev nlohmann-json3-dev libtomlplusplus-dev libxxhash-dev libzstd-dev
  librapidcheck-dev libgtest-dev libgmock-dev libgloo-dev clang-format"

say() { echo "setup: $*"; }
fail() {
  echo "setup: $*" >&2
  exit 2
}

has_package() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# install_packages NAME...: through apt-get if that is permitted, otherwise exit 2 with the command to run.
install_packages() {
  if [ "$(id -u)" = 0 ]; then
    as_root="env"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n env"
  else
    fail "packages are missing and this user may not install them. Run
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $*
and then the same make command again."
  fi
  say "installing: $*"
  # The lists may be old or absent: then the first attempt fails, and the second has fresh ones.
  $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return
  $as_root apt-get update -qq || fail "apt-get update failed (see above); is the network there?"
  $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || fail "apt-get install failed (see above)"
}

need_packages() {
  missing=""
  for package in $PACKAGES; do
    case "$package" in
      # Tools may come from elsewhere.
      cmake) command -v cmake >/dev/null && continue ;;
      ninja-build) command -v ninja >/dev/null && continue ;;
      ccache | clang-format) command -v "$package" >/dev/null && continue ;;
    esac
    has_package "$package" || missing="$missing $package"
  done
  command -v c++ >/dev/null || missing="$missing g++"
  # shellcheck disable=SC2086
  [ -z "$missing" ] || install_packages $missing
}

# A folder is LibTorch if the build would find it there (cmake/FindTorchParts.cmake).
is_torch() { [ -e "$1/include/ATen/ATen.h" ] && [ -e "$1/lib/libtorch_cpu.so" ]; }

torch_is_complete() {
  is_torch "$1/torch" && [ -d "$1/torch-$TORCH_VERSION.dist-info" ] &&
    ls -d "$1/nvidia_cuda_runtime-$CUDA_VERSION".*.dist-info "$1/nvidia_cuda_cupti-$CUDA_VERSION".*.dist-info >/dev/null 2>&1
}

# Sets $python to an interpreter that has pip.
find_pip() {
  command -v python3 >/dev/null || install_packages python3 python3-venv
  python=python3
  $python -m pip --version >/dev/null 2>&1 && return
  # Debian's Python comes without pip; a virtual environment brings its own where python3-venv is installed.
  if ! python3 -m venv .deps/venv >/dev/null 2>&1; then
    rm -rf .deps/venv
    if command -v apt-get >/dev/null; then install_packages python3-venv; fi
    python3 -m venv .deps/venv || fail "python3 has neither pip nor venv; install one of them"
  fi
  python=.deps/venv/bin/python3
}

need_torch() {
  if [ -n "${CAIRN_TORCH:-}" ]; then
    is_torch "$CAIRN_TORCH" || is_torch "$CAIRN_TORCH/torch" ||
      fail "CAIRN_TORCH=$CAIRN_TORCH holds no LibTorch (include/ATen/ATen.h and lib/libtorch_cpu.so); unset it to let setup fetch $TORCH_VERSION"
    return
  fi
  torch_is_complete .deps/torch && return
  mkdir -p .deps
  free_kb=$(df -Pk .deps | awk 'NR == 2 { print $4 }')
  [ "$free_kb" -gt 3500000 ] || fail "LibTorch needs 3.5 GB for download and unpacking, but only $((free_kb / 1000)) MB are free here"
  find_pip
  # Into a folder of its own first: an interrupted installation never looks like a finished one.
  rm -rf .deps/torch.new .deps/tmp
  mkdir -p .deps/tmp
  say "fetching LibTorch $TORCH_VERSION into .deps/torch (about 600 MB to download, 1.3 GB on disk)"
  # --target never touches the system's Python, so its protection against that is not needed. Temporary files stay on this disk: /tmp may be small.
  TMPDIR="$PWD/.deps/tmp" PIP_BREAK_SYSTEM_PACKAGES=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    $python -m pip install --quiet --no-deps --no-compile --only-binary=:all: --target .deps/torch.new \
    "torch==$TORCH_VERSION" "nvidia-cuda-runtime==$CUDA_VERSION.*" "nvidia-cuda-cupti==$CUDA_VERSION.*" ||
    fail "pip could not install LibTorch (see above); run the same command again, or set CAIRN_TORCH to a folder that has LibTorch $TORCH_VERSION"
  torch_is_complete .deps/torch.new || fail "what pip installed lacks files of LibTorch $TORCH_VERSION; see .deps/torch.new"
  rm -rf .deps/torch .deps/tmp
  mv .deps/torch.new .deps/torch
}

# True if that nvcc is there and of LibTorch's CUDA.
is_nvcc() { [ -x "$1" ] && "$1" --version 2>/dev/null | grep -q "release ${CUDA_VERSION%%.*}\."; }

# The build looks in the same places in the same order (cmake/CairnCuda.cmake).
need_nvcc() {
  if [ -n "${CUDACXX:-}" ]; then
    is_nvcc "$CUDACXX" || is_nvcc "$(command -v "$CUDACXX" || true)" || fail "CUDACXX=$CUDACXX is no nvcc of CUDA ${CUDA_VERSION%%.*}; unset it or name one"
    return
  fi
  for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc /usr/local/cuda*/bin/nvcc .deps/cuda/nvidia/cu13/bin/nvcc; do
    is_nvcc "$nvcc" && return
  done
  find_pip
  rm -rf .deps/cuda.new .deps/tmp
  mkdir -p .deps/tmp
  say "fetching nvcc $NVCC_VERSION into .deps/cuda (about 110 MB to download, 350 MB on disk)"
  TMPDIR="$PWD/.deps/tmp" PIP_BREAK_SYSTEM_PACKAGES=1 PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    $python -m pip install --quiet --no-deps --no-compile --only-binary=:all: --target .deps/cuda.new "nvidia-cuda-nvcc==$NVCC_VERSION" \
    "nvidia-cuda-crt==$NVCC_VERSION" "nvidia-nvvm==$NVCC_VERSION" "nvidia-cuda-cccl==$CCCL_VERSION" "nvidia-cuda-runtime==$CUDA_VERSION.*" ||
    fail "pip could not install nvcc (see above); run the same command again, or set CUDACXX to an nvcc of CUDA ${CUDA_VERSION%%.*}"
  root=.deps/cuda.new/nvidia/cu13
  chmod +x "$root"/bin/* "$root"/nvvm/bin/* # wheels do not always keep that
  [ -e "$root/lib64" ] || ln -s lib "$root/lib64" # nvcc's own link tests look there
  is_nvcc "$root/bin/nvcc" || fail "what pip installed is no working nvcc; see .deps/cuda.new"
  rm -rf .deps/cuda .deps/tmp
  mv .deps/cuda.new .deps/cuda
}

if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
  need_packages
else
  say "no apt-get here: these must be installed by other means: $(echo $PACKAGES)"
fi
need_torch
[ "${CUDA:-0}" != 1 ] || need_nvcc
say "all is there (LibTorch $TORCH_VERSION in ${CAIRN_TORCH:-.deps/torch})"
