# The kernels of our own, for CAIRN_CUDA: the language CUDA, and cairn_link_cuda(TARGET), which puts them into a program.
#
#   src/cairn/**/*.cu               kernels and their launch functions; raw pointers, no torch header  -> object library cairn_cuda_kernels
#   src/cairn/**/*_cuda_host.cpp    checks, workspace, stream; they register themselves                -> object library cairn_cuda_host
#
# Objects, not archives: nothing refers to what they register, so a linker would leave members of an archive out.
# nvcc: CUDACXX or CMAKE_CUDA_COMPILER; else the first of CUDA 13 in PATH, /usr/local/cuda*/bin and .deps/cuda, where `make setup CUDA=1` puts the one from PyPI.

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  file(GLOB _cuda_places LIST_DIRECTORIES true /usr/local/cuda*/bin)
  list(SORT _cuda_places COMPARE NATURAL ORDER DESCENDING)
  find_program(_cuda_on_path nvcc NO_CACHE NO_CMAKE_SYSTEM_PATH)
  set(CAIRN_NVCC "")
  foreach(_cuda_place ${_cuda_on_path} /usr/local/cuda/bin/nvcc ${_cuda_places} "${CMAKE_SOURCE_DIR}/.deps/cuda/nvidia/cu13/bin/nvcc")
    if(IS_DIRECTORY "${_cuda_place}")
      string(APPEND _cuda_place "/nvcc")
    endif()
    if(NOT CAIRN_NVCC AND EXISTS "${_cuda_place}")
      execute_process(COMMAND "${_cuda_place}" --version OUTPUT_VARIABLE _cuda_says ERROR_QUIET)
      if(_cuda_says MATCHES "release 13\\.")  # that of LibTorch
        set(CAIRN_NVCC "${_cuda_place}")
      endif()
    endif()
  endforeach()
  if(NOT CAIRN_NVCC)
    message(FATAL_ERROR "no nvcc of CUDA 13 found. `make setup CUDA=1` fetches it into .deps/cuda; or set CUDACXX to the nvcc of a CUDA 13 toolkit.")
  endif()
  set(CMAKE_CUDA_COMPILER "${CAIRN_NVCC}")
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)  # said below: machine code for Hopper with its own instructions, PTX for everything from Ampere on
if(NOT CMAKE_CUDA_FLAGS_INIT)
  set(CMAKE_CUDA_FLAGS_INIT "-gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_80,code=compute_80")
endif()
set(CMAKE_CUDA_FLAGS_RELEASE "-O3" CACHE STRING "")
# One runtime in a process: the shared one that LibTorch loads.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # older CMake does not know that nvcc can
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13 OR NOT CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 14)
  message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} is of CUDA ${CMAKE_CUDA_COMPILER_VERSION}; LibTorch 2.11.0 here wants CUDA 13. Set CUDACXX to an nvcc of "
                      "CUDA 13, or unset it and let `make setup CUDA=1` fetch one.")
endif()
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}")
if(CAIRN_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CAIRN_CCACHE}")
endif()
find_file(CAIRN_CUDART libcudart.so.13 PATHS ${CAIRN_TORCH_RPATH} ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} NO_DEFAULT_PATH)
if(NOT CAIRN_CUDART)
  message(FATAL_ERROR "libcudart.so.13 not found in ${CAIRN_TORCH_RPATH}; it comes with LibTorch (`make setup`)")
endif()

file(GLOB_RECURSE _cuda_kernels CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/cairn/*.cu")
file(GLOB_RECURSE _cuda_hosts CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/cairn/*_cuda_host.cpp")

# Those of the operators' room, and those of other rooms (NCCL), which libraries of operators alone do without.
set(_other_hosts ${_cuda_hosts})
list(FILTER _cuda_hosts INCLUDE REGEX "/src/cairn/ops/")
list(FILTER _other_hosts EXCLUDE REGEX "/src/cairn/ops/")
add_library(cairn_cuda_host OBJECT ${_cuda_hosts})
add_library(cairn_cuda_other OBJECT ${_other_hosts})
foreach(_hosts cairn_cuda_host cairn_cuda_other)
  target_link_libraries(${_hosts} PUBLIC cairn_options cairn_torch)
  cairn_precompile(${_hosts} TORCH)
  target_include_directories(${_hosts} SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
endforeach()
set(_cuda_objects $<TARGET_OBJECTS:cairn_cuda_host>)
if(_cuda_kernels)
  add_library(cairn_cuda_kernels OBJECT ${_cuda_kernels})
  target_include_directories(cairn_cuda_kernels PRIVATE "${CMAKE_SOURCE_DIR}/src")
  target_compile_options(cairn_cuda_kernels PRIVATE -Xcompiler=-Wall --expt-relaxed-constexpr)
  if(CAIRN_WERROR)
    target_compile_options(cairn_cuda_kernels PRIVATE -Werror=all-warnings)
  endif()
  list(APPEND _cuda_objects $<TARGET_OBJECTS:cairn_cuda_kernels>)
endif()
set(CAIRN_CUDA_OBJECTS ${_cuda_objects})

# cairn_link_cuda(TARGET [OPERATORS]): OPERATORS for what links the operators' room alone.
function(cairn_link_cuda TARGET)
  target_sources(${TARGET} PRIVATE ${CAIRN_CUDA_OBJECTS})
  if(NOT "OPERATORS" IN_LIST ARGN)
    target_sources(${TARGET} PRIVATE $<TARGET_OBJECTS:cairn_cuda_other>)
  endif()
  target_link_libraries(${TARGET} PRIVATE "${CAIRN_CUDART}")
endfunction()
