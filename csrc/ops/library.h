// The namespace of the operators. The tests build the CUDA half a second time, for their emulator, as another library.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef DMREC_LIBRARY
#define DMREC_LIBRARY dmrec_ext
#endif

#define DMREC_SCHEMAS(m) STABLE_TORCH_LIBRARY_FRAGMENT(DMREC_LIBRARY, m)
#define DMREC_KERNELS(device, m) STABLE_TORCH_LIBRARY_IMPL(DMREC_LIBRARY, device, m)
