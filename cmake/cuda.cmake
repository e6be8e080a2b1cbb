# Finds nvcc as FUSESTEP_CUDA asks and builds fusestep/_cuda.
string(TOLOWER "${FUSESTEP_CUDA}" cuda_wanted)
if(NOT cuda_wanted MATCHES "^(auto|on|off|pypi)$")
  message(FATAL_ERROR "FUSESTEP_CUDA must be auto, on, off or pypi, got \"${FUSESTEP_CUDA}\"")
endif()
if(cuda_wanted STREQUAL "off")
  message(STATUS "fusestep: CUDA engine off")
  return()
endif()

if(cuda_wanted STREQUAL "pypi")
  # The wheels nvidia-cuda-nvcc, -crt, -cccl, -runtime and nvidia-nvvm together make a toolkit under
  # site-packages/nvidia/cu13, whose nvcc looks for libraries in lib64 while the wheels have lib.
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
      "import glob,os,sys;print(next((p for d in sys.path for p in glob.glob(os.path.join(d,'nvidia/cu*/bin/nvcc'))),''))"
    OUTPUT_VARIABLE pypi_nvcc OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  if(NOT pypi_nvcc)
    message(FATAL_ERROR "FUSESTEP_CUDA=pypi: no nvcc among the installed Python packages")
  endif()
  set(CMAKE_CUDA_COMPILER "${pypi_nvcc}")
  get_filename_component(pypi_root "${pypi_nvcc}/../.." ABSOLUTE)
  set(CMAKE_CUDA_FLAGS_INIT "-L${pypi_root}/lib")
elseif(cuda_wanted STREQUAL "auto")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(STATUS "fusestep: no nvcc found, building without the CUDA engine")
    return()
  endif()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 90-real 100-real 120)
endif()
enable_language(CUDA)
message(STATUS "fusestep: CUDA engine with ${CMAKE_CUDA_COMPILER} for ${CMAKE_CUDA_ARCHITECTURES}")

Python_add_library(_cuda MODULE WITH_SOABI csrc/cuda/kernels.cu csrc/cuda/module.cpp)
target_link_libraries(_cuda PRIVATE fusestep_options)
target_compile_definitions(_cuda PRIVATE FUSESTEP_TARGET=cuda)
target_compile_options(_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-O3 --threads=0 --expt-relaxed-constexpr --extended-lambda -Xcompiler=-Wall,-Wextra>)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  # Machine code for five architectures: 3 MB instead of 24.
  target_compile_options(_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-compress-mode=size>)
endif()
set_target_properties(_cuda PROPERTIES CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static)
install(TARGETS _cuda LIBRARY DESTINATION fusestep)
