# cmake --install: the program, the rooms as static libraries, their headers, and a package so that other projects can say
#
#   find_package(cairn REQUIRED)
#   target_link_libraries(mine PRIVATE cairn::infer)          # or any other room: cairn::core, cairn::text, ...
#
#   PREFIX/bin/cairn    PREFIX/include/cairn/ROOM/*.h    PREFIX/lib/libcairn_ROOM.a    PREFIX/lib/cmake/cairn/    PREFIX/share/cairn/examples/cpp
#   PREFIX/lib/libcairn_torch.so, torch.ops.cairn for PyTorch users
#
# CAIRN_INSTALL_TORCH: folder of LibTorch where the installed program will run, if that is not the one it is built with. LD_LIBRARY_PATH goes before
# both.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(CAIRN_INSTALL_TORCH "" CACHE PATH "LibTorch folder (with lib/) that the installed program loads; default: the one it is built with")
set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/cairn")

set(_rooms core text tasks dist ops model memory infer eval train report cli)
set(_targets cairn_options)
foreach(_room ${_rooms})
  set_target_properties(cairn_${_room} PROPERTIES EXPORT_NAME ${_room})
  list(APPEND _targets cairn_${_room})
endforeach()
set_target_properties(cairn_options PROPERTIES EXPORT_NAME options)
target_include_directories(cairn_options INTERFACE "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
install(TARGETS ${_targets} EXPORT cairn-targets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT cairn-targets NAMESPACE cairn:: DESTINATION "${_package}")

set(_run_path ${CAIRN_TORCH_RPATH})
if(CAIRN_INSTALL_TORCH)
  # The same folders as here, below the one given: that of torch itself, or the site folder that holds torch and nvidia.
  set(_run_path "")
  foreach(_root "${CAIRN_INSTALL_TORCH}" "${CAIRN_INSTALL_TORCH}/torch")
    foreach(_dir ${CAIRN_TORCH_RPATH})
      file(RELATIVE_PATH _relative "${CAIRN_TORCH_ROOT}" "${_dir}")
      list(APPEND _run_path "${_root}/${_relative}")
    endforeach()
  endforeach()
endif()
set_target_properties(cairn PROPERTIES INSTALL_RPATH "${_run_path}")
install(TARGETS cairn RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
# Where it has been built: `make build` makes the program alone.
install(TARGETS cairn_pytorch LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" OPTIONAL)

install(DIRECTORY "${CMAKE_SOURCE_DIR}/src/cairn" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(DIRECTORY "${CMAKE_SOURCE_DIR}/examples/cpp" DESTINATION "${CMAKE_INSTALL_DATADIR}/cairn/examples")

configure_package_config_file("${CMAKE_SOURCE_DIR}/cmake/cairn-config.cmake.in" "${CMAKE_BINARY_DIR}/cairn-config.cmake"
                              INSTALL_DESTINATION "${_package}")
write_basic_package_version_file("${CMAKE_BINARY_DIR}/cairn-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/cairn-config.cmake" "${CMAKE_BINARY_DIR}/cairn-config-version.cmake"
              "${CMAKE_SOURCE_DIR}/cmake/FindTorchParts.cmake" DESTINATION "${_package}")
