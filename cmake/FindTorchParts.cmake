# Imported targets for the parts of LibTorch that Cairn links.
#
# The wheel's own CMake package fails on a machine without CUDA, because its libtorch_cpu.so was built beside it. So: targets of our own.
#   cairn::torch       torch_cpu + c10, and (CAIRN_CUDA) torch_cuda + c10_cuda
# Input: CAIRN_TORCH (cache or environment), a folder that holds include/ and lib/ of LibTorch 2.11.0, or the site folder above it.
#        CAIRN_TORCH_FALLBACK: where to look if that is not given (the installed package: the folder that Cairn was built with).
# Output: CAIRN_TORCH_ROOT, the folder; CAIRN_TORCH_RPATH, the folders whose libraries programs load.

set(CAIRN_TORCH "$ENV{CAIRN_TORCH}" CACHE PATH "LibTorch 2.11.0: folder with include/ and lib/ (default: .deps/torch, made by `make setup`)")
if(CAIRN_TORCH)
  set(_candidates "${CAIRN_TORCH}" "${CAIRN_TORCH}/torch")  # a given folder that has none is an error, not a reason to take another
else()
  set(_candidates "${CMAKE_SOURCE_DIR}/.deps/torch/torch" ${CAIRN_TORCH_FALLBACK})
endif()
set(_root "")
foreach(_dir ${_candidates})
  if(NOT _root AND EXISTS "${_dir}/include/ATen/ATen.h" AND EXISTS "${_dir}/lib/libtorch_cpu.so")
    set(_root "${_dir}")
  endif()
endforeach()
if(NOT _root)
  list(JOIN _candidates ", " _places)
  message(FATAL_ERROR "LibTorch not found in ${_places}. In a checkout of Cairn `make setup` installs it into .deps/torch; or set CAIRN_TORCH to a LibTorch 2.11.0 folder.")
endif()

file(STRINGS "${_root}/version.py" _version_line REGEX "^__version__" LIMIT_COUNT 1)
if(_version_line AND NOT _version_line MATCHES "2\\.11\\.")
  message(FATAL_ERROR "LibTorch at ${_root} is not 2.11 (${_version_line}). Run `make setup`, or set CAIRN_TORCH to a 2.11.0 folder.")
endif()

# libtorch_cpu.so needs libcudart and libcupti at load time, even where no GPU is; pip puts them beside torch.
file(GLOB _nvidia_libs LIST_DIRECTORIES true "${_root}/../nvidia/*/lib")
set(CAIRN_TORCH_RPATH "${_root}/lib" ${_nvidia_libs})
set(CAIRN_TORCH_ROOT "${_root}")
message(STATUS "LibTorch: ${_root}")

foreach(_part torch_cpu c10)
  add_library(cairn_part_${_part} SHARED IMPORTED GLOBAL)
  set_target_properties(cairn_part_${_part} PROPERTIES IMPORTED_LOCATION "${_root}/lib/lib${_part}.so" IMPORTED_NO_SONAME OFF)
endforeach()

add_library(cairn_torch INTERFACE)
add_library(cairn::torch ALIAS cairn_torch)
# (the second folder: c10d's headers include torch/types.h)
target_include_directories(cairn_torch SYSTEM INTERFACE "${_root}/include" "${_root}/include/torch/csrc/api/include")
target_link_libraries(cairn_torch INTERFACE cairn_part_torch_cpu cairn_part_c10)
target_link_options(cairn_torch INTERFACE "LINKER:--allow-shlib-undefined")
# at::parallel_for is a header on top of OpenMP: without the flag it runs on one thread. The library is the one that LibTorch brings (same soname).
target_compile_options(cairn_torch INTERFACE -fopenmp)
if(EXISTS "${_root}/lib/libgomp.so.1")
  target_link_libraries(cairn_torch INTERFACE "${_root}/lib/libgomp.so.1")
else()
  target_link_options(cairn_torch INTERFACE -fopenmp)
endif()
# A program that sets CAIRN_OWN_RPATH says itself where it finds these at run time.
foreach(_dir ${CAIRN_TORCH_RPATH})
  target_link_options(cairn_torch INTERFACE "LINKER:-rpath-link,${_dir}"
                      "$<$<NOT:$<BOOL:$<TARGET_PROPERTY:CAIRN_OWN_RPATH>>>:LINKER:-rpath,${_dir}>")
endforeach()
if(CAIRN_CUDA)
  # Nothing of ours refers to a symbol of torch_cuda: it registers its kernels when it is loaded, so it must not be dropped as unneeded.
  target_link_options(cairn_torch INTERFACE "LINKER:--no-as-needed,${_root}/lib/libtorch_cuda.so,${_root}/lib/libc10_cuda.so,--as-needed")
endif()
