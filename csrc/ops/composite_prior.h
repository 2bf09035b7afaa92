// Options of composite_prior.
#pragma once

#include <string>

#include "math/composite_prior.h"
#include "ops/row_inputs.h"

namespace dmrec {

inline Interpolation interpolation_of(const char* op, const std::string& name) {
  STD_TORCH_CHECK(name == "log_linear" || name == "linear" || name == "moment", op,
                  ": interpolation must be log_linear, linear or moment");
  return name == "log_linear" ? Interpolation::log_linear
         : name == "linear"   ? Interpolation::linear
                              : Interpolation::moment;
}

}  // namespace dmrec
