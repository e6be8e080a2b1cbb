// torch's DLPack C exchange API (torch 2.10 and newer): tensors, streams and memory without libtorch.
#pragma once

#include <dlpack/dlpack.h>
#include <pybind11/pybind11.h>

namespace fusestep {

// The API that the type of `object` announces, or null.
const DLPackExchangeAPI* exchange_api_of(pybind11::handle object);

}  // namespace fusestep
