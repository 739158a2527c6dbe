# Flags of every target, and the functions that folders use.
set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")

add_library(skep_flags INTERFACE)
target_include_directories(skep_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(skep_flags INTERFACE _GNU_SOURCE)
target_compile_options(skep_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -Wno-missing-field-initializers
  -fno-pie -fstack-protector-strong -ffile-prefix-map=${CMAKE_SOURCE_DIR}/= -gz)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  # __extension__ does not silence clang's warning on statement expressions, nor g++'s on some uses.
  # At -O1 it takes members of a std::expected without a value for uninitialized.
  target_compile_options(skep_flags INTERFACE -Wframe-larger-than=4096
    $<$<CONFIG:Debug>:-Wno-maybe-uninitialized>)
else()
  # For clang, and not for g++, -Wconversion says -Wsign-conversion too, and a TRY that is a statement
  # drops a value.
  target_compile_options(skep_flags INTERFACE -Wthread-safety -Wno-gnu-statement-expression
    -Wno-sign-conversion -Wno-unused-result -Wno-unused-value)
endif()
target_link_options(skep_flags INTERFACE -no-pie)
if(SKEP_SANITIZE)
  target_compile_definitions(skep_flags INTERFACE SKEP_NO_ARENA)
  target_compile_options(skep_flags INTERFACE -fsanitize=address,undefined
    -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-frame-larger-than)
  target_link_options(skep_flags INTERFACE -fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
    set(SKEP_FUZZ ON)  # libFuzzer programs of tests/fuzz
    # Frames stay on their fiber's stack, as with g++.
    target_compile_options(skep_flags INTERFACE -fsanitize=fuzzer-no-link
      -fsanitize-address-use-after-return=never)
  endif()
else()
  # One static, fixed-address binary: a kernel arena is resumed by the same build.
  target_link_options(skep_flags INTERFACE -static)
endif()

add_custom_target(unit_tests)  # all programs of unit tests

# Unit tests are not measured: -O1 compiles sooner.
add_library(skep_unit_flags INTERFACE)
target_link_libraries(skep_unit_flags INTERFACE skep_flags)
target_compile_options(skep_unit_flags INTERFACE -O1 -Wno-frame-larger-than
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)  # as in Debug, above

# skep_precompiled(NAME FLAGS HEADER ...): headers that are compiled once for all targets that say
# REUSE_FROM NAME and have FLAGS' options.
function(skep_precompiled name flags)
  add_library(${name} OBJECT ${CMAKE_SOURCE_DIR}/cmake/pch.cc)
  target_link_libraries(${name} PRIVATE ${flags})
  target_precompile_headers(${name} PRIVATE ${ARGN})
endfunction()
skep_precompiled(skep_product_pch skep_flags ${CMAKE_SOURCE_DIR}/cmake/product_pch.h)
skep_precompiled(skep_unit_pch skep_unit_flags ${CMAKE_SOURCE_DIR}/cmake/product_pch.h
  ${CMAKE_SOURCE_DIR}/cmake/test_pch.h)
target_link_libraries(skep_unit_pch PRIVATE GTest::gtest GTest::gmock)

# skep_library(NAME [DIRS sub ...] [DEPS lib ...]): a static library of this folder's .cc files (and of
# the sub-folders in DIRS), and one test program NAME_tests of its *_test.cc files.
function(skep_library name)
  cmake_parse_arguments(ARG "" "" "DIRS;DEPS;TEST_DEPS;EXTRA" ${ARGN})
  set(sources)
  set(tests)
  foreach(dir IN ITEMS . LISTS ARG_DIRS)
    file(GLOB found CONFIGURE_DEPENDS ${dir}/*.cc ${dir}/*.S)
    list(APPEND sources ${found})
  endforeach()
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "(_test|/main)\\.cc$")
  if(sources OR ARG_EXTRA)
    add_library(${name} STATIC ${sources} ${ARG_EXTRA})
    target_link_libraries(${name} PUBLIC skep_flags ${ARG_DEPS})
    target_precompile_headers(${name} REUSE_FROM skep_product_pch)
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE skep_flags ${ARG_DEPS})
  endif()
  if(tests)
    add_executable(${name}_tests ${tests})
    target_link_libraries(${name}_tests PRIVATE ${name} ${ARG_TEST_DEPS} GTest::gtest GTest::gmock
      GTest::gtest_main skep_unit_flags)
    target_precompile_headers(${name}_tests REUSE_FROM skep_unit_pch)
    add_dependencies(unit_tests ${name}_tests)
    add_test(NAME unit.${name} COMMAND ${name}_tests)
    set_tests_properties(unit.${name} PROPERTIES LABELS unit TIMEOUT 300)
  endif()
endfunction()
