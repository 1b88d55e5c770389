# libfarm_cpu: the kernels in C++17 and threads. Every instruction set has one source file with flags of its own; the
# rest is compiled for the plain architecture, so that one library runs on every machine of that architecture.
find_package(Threads REQUIRED)

add_library(farm_cpu SHARED
  src/cpu/api.cpp
  src/cpu/check.cpp
  src/cpu/digest.cpp
  src/cpu/isa.cpp
  src/cpu/micro_portable.cpp
  src/cpu/plan.cpp
  src/cpu/threads.cpp
  src/cpu/tile.cpp
  src/cpu/variants.cpp)

# Where a multiply-add is fused, and in which order sums are taken, is part of the result: the source alone decides it,
# whatever CXXFLAGS say.
set(FARM_CPU_FLAGS -O3 -fno-fast-math -ffp-contract=off -Wall -Wextra)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  target_sources(farm_cpu PRIVATE src/cpu/digest_avx512.cpp src/cpu/micro_avx2.cpp src/cpu/micro_avx512.cpp)
  target_compile_definitions(farm_cpu PRIVATE FARM_X86=1)
  set_source_files_properties(src/cpu/micro_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  set_source_files_properties(src/cpu/digest_avx512.cpp PROPERTIES
    COMPILE_OPTIONS "-mavx512f;-mavx512dq;-mprefer-vector-width=512")
  # Where its functions start moves the speed of the AVX-512 product by up to 3 %: at a cache line's start it is good.
  set_source_files_properties(src/cpu/micro_avx512.cpp PROPERTIES
    COMPILE_OPTIONS "-falign-functions=64;-mavx512f;-mavx512bw;-mavx512vl;-mavx2;-mfma;-mf16c")
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag("-mamx-tile -mamx-bf16 -mavx512vbmi" FARM_COMPILER_KNOWS_AMX)
  if(FARM_COMPILER_KNOWS_AMX AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
    target_sources(farm_cpu PRIVATE src/cpu/micro_amx.cpp)
    target_compile_definitions(farm_cpu PRIVATE FARM_AMX=1)
    set_source_files_properties(src/cpu/micro_amx.cpp PROPERTIES
      COMPILE_OPTIONS "-mamx-tile;-mamx-bf16;-mavx512f;-mavx512bw;-mavx512vl;-mavx512vbmi;-mavx2;-mfma;-mf16c")
  endif()
endif()

farm_quote(FARM_CPU_FLAGS_TEXT ${CMAKE_CXX_FLAGS} ${FARM_CPU_FLAGS})
target_compile_options(farm_cpu PRIVATE ${FARM_CPU_FLAGS})
target_compile_definitions(farm_cpu PRIVATE
  "FARM_COMPILER=\"${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}\""
  "FARM_FLAGS=${FARM_CPU_FLAGS_TEXT}")
target_include_directories(farm_cpu PRIVATE include src)
target_link_libraries(farm_cpu PRIVATE Threads::Threads)
# Undefined symbols must fail the build here, not the first run on a worker; and a library linked with -ffast-math in
# CXXFLAGS would make the whole process flush subnormals.
target_link_options(farm_cpu PRIVATE -fno-fast-math -Wl,--no-undefined)
