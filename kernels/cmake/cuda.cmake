# libfarm_cuda: the kernels for Hopper. No dependency but the CUDA toolkit; the driver's one function that is needed is
# looked up at run time, so that the library links, and compile errors show, on machines without a GPU.
set(CMAKE_CUDA_ARCHITECTURES 90a-real)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.5)
  message(FATAL_ERROR "nvcc is ${CMAKE_CUDA_COMPILER_VERSION}; the kernels need CUDA 12.5 or later")
endif()

add_library(farm_cuda SHARED
  src/cuda/gemm.cu
  src/cuda/launch.cu
  src/cuda/observe.cu
  src/cuda/skinny.cu
  src/cuda/streamk.cu
  src/cuda/wide.cu)

set(FARM_CUDA_FLAGS -O3 -lineinfo)
farm_quote(FARM_CUDA_FLAGS_TEXT ${CMAKE_CUDA_FLAGS} ${FARM_CUDA_FLAGS} sm_90a)
target_compile_options(farm_cuda PRIVATE ${FARM_CUDA_FLAGS})
target_compile_definitions(farm_cuda PRIVATE
  "FARM_COMPILER=\"nvcc ${CMAKE_CUDA_COMPILER_VERSION}\""
  "FARM_FLAGS=${FARM_CUDA_FLAGS_TEXT}")
target_include_directories(farm_cuda PRIVATE include src src/cuda)
target_link_options(farm_cuda PRIVATE -Wl,--no-undefined)
