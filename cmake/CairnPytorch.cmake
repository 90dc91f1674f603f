# libcairn_torch.so: torch.ops.cairn for PyTorch users (src/cairn/pytorch, docs/library.md). One file that holds the operators' room, with
# CAIRN_CUDA the kernels, too. It needs the libraries of LibTorch by name alone: those of the torch that is loaded already, or what
# LD_LIBRARY_PATH names; and of the system only what every program has.
file(GLOB _pytorch_sources CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/src/cairn/pytorch/*.cpp")
# The archive of `ops` and the two files of `core` that it uses, not the archive of `core` with the libraries behind it: LibTorch's own open
# references would draw half of that in.
add_library(cairn_pytorch SHARED ${_pytorch_sources} "${CMAKE_SOURCE_DIR}/src/cairn/core/error.cpp"
            "${CMAKE_SOURCE_DIR}/src/cairn/core/fmt_library.cpp")
target_link_libraries(cairn_pytorch PRIVATE cairn_options $<TARGET_FILE:cairn_ops> cairn_torch)
cairn_precompile(cairn_pytorch TORCH)
add_dependencies(cairn_pytorch cairn_ops)
set_target_properties(cairn_pytorch PROPERTIES OUTPUT_NAME cairn_torch LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}" CAIRN_OWN_RPATH ON
                      SKIP_BUILD_RPATH ON)
# Nothing is exported: what it registers is all that others use. No unresolved symbol of our own, no library that is not needed.
file(WRITE "${CMAKE_BINARY_DIR}/cairn_torch.exports" "{ local: *; };\n")
target_link_options(cairn_pytorch PRIVATE "LINKER:--version-script=${CMAKE_BINARY_DIR}/cairn_torch.exports" "LINKER:-z,defs" "LINKER:--as-needed")
if(CAIRN_CUDA)
  cairn_link_cuda(cairn_pytorch OPERATORS)
  set_source_files_properties("${CMAKE_SOURCE_DIR}/src/cairn/pytorch/library.cpp" PROPERTIES COMPILE_DEFINITIONS
                              CAIRN_CUDA_VERSION="${CMAKE_CUDA_COMPILER_VERSION}")
endif()
