#!/bin/sh
# build/bundle: the stripped GPU program and the libraries it needs that are neither the system's base nor LibTorch's. On another machine with
# LibTorch 2.11.0 and its CUDA libraries: LD_LIBRARY_PATH=.../torch/lib build/bundle/cairn
set -eu
cd "$(dirname "$0")/.."
program=build/cuda/cairn
[ -x $program ] || { echo "bundle: $program is missing; run make build CUDA=1" >&2; exit 2; }
rm -rf build/bundle.new
mkdir -p build/bundle.new
cp $program build/bundle.new/cairn
strip build/bundle.new/cairn
# Base libraries are on every machine with the same or a later C library; torch's and NVIDIA's come with LibTorch there.
ldd $program | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | while read -r library; do
  case "$(basename "$library")" in
    libc.so* | libm.so* | libdl.so* | libpthread.so* | librt.so* | libutil.so* | libgcc_s.so* | libstdc++.so* | libresolv.so* | ld-linux*) ;;
    libtorch* | libc10* | libcu* | libnv* | libnccl* | libgomp* | libshm* | libcaffe2*) ;;
    *)
      cp -L "$library" build/bundle.new/
      strip --strip-unneeded "build/bundle.new/$(basename "$library")"
      ;;
  esac
done
rm -rf build/bundle
mv build/bundle.new build/bundle
echo "bundle: build/bundle ($(du -sk build/bundle | cut -f1) KB): $(cd build/bundle && echo *)"
