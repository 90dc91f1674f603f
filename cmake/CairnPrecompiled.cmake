# Precompiled headers: those of libraries that most files of a kind include are read once, not once a file. They only save time: every file
# includes what it uses, and CAIRN_PCH=OFF builds the same program.
#
#   cairn_precompile(TARGET [TORCH [FEW_TENSORS]] [TEST])
#     TORCH        the target is compiled with LibTorch's flags
#     FEW_TENSORS  but few of its files include LibTorch's headers
#     TEST         a test program
#
# A header that a file does not use costs it time, too, for the templates in it (nlohmann/json.hpp 0.4 s, torch's autograd 1.5 s), so these
# lists are short. Headers of Cairn are not in them: a change of one would compile everything anew. One precompiled header serves all targets
# of a kind; the compiler takes it for equal flags only.
option(CAIRN_PCH "Precompiled headers: a first build takes less time" ON)

set(_pch_std <algorithm> <chrono> <cmath> <cstdint> <cstdio> <cstring> <filesystem> <functional> <map> <memory> <optional> <set> <span> <string>
    <string_view> <unordered_map> <utility> <vector> <fmt/format.h>)
set(_pch_tensors <ATen/Context.h> <ATen/Parallel.h> <ATen/TensorOperators.h> <ATen/core/Tensor.h> <ATen/core/grad_mode.h> <ATen/ops/arange.h>
    <ATen/ops/cat.h> <ATen/ops/empty.h> <ATen/ops/full.h> <ATen/ops/where.h> <ATen/ops/zeros.h>)

function(cairn_precompile TARGET)
  cmake_parse_arguments(ARG "TORCH;FEW_TENSORS;TEST" "" "" ${ARGN})
  if(NOT CAIRN_PCH)
    return()
  endif()
  set(pch cairn_pch ${ARGN})
  list(JOIN pch "_" pch)
  string(TOLOWER "${pch}" pch)
  if(NOT TARGET ${pch})
    file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/pch/${pch}.cpp" CONTENT "// CMake wants a source.\n")
    add_library(${pch} OBJECT "${CMAKE_BINARY_DIR}/pch/${pch}.cpp")
    target_link_libraries(${pch} PRIVATE cairn_options)
    set(headers ${_pch_std})
    if(ARG_TORCH)
      target_link_libraries(${pch} PRIVATE cairn_torch)
      if(NOT ARG_FEW_TENSORS)
        list(APPEND headers ${_pch_tensors})
      endif()
    endif()
    if(ARG_TEST)
      list(APPEND headers <gtest/gtest.h>)
      target_link_libraries(${pch} PRIVATE GTest::gtest)
      set_target_properties(${pch} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
      target_compile_options(${pch} PRIVATE -fPIE)  # as the files of a program
    endif()
    target_precompile_headers(${pch} PRIVATE ${headers})
  endif()
  target_precompile_headers(${TARGET} REUSE_FROM ${pch})
  # With them GCC 12 says this of std::string("...") + "...", which without them it knows to be right: shown, but no reason to stop.
  target_compile_options(${TARGET} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-error=array-bounds>)
endfunction()
