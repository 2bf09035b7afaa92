// Types of matrix products on the CPU: what torch multiplies in, and tensors brought into it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "ops/aten_calls.h"
#include "ops/cpu/element.h"
#include "ops/row_inputs.h"

namespace dmrec::cpu {

template <class Product>
constexpr ScalarType type_of = ScalarType::Float;
template <>
inline constexpr ScalarType type_of<double> = ScalarType::Double;
template <>
inline constexpr ScalarType type_of<c10::BFloat16> = ScalarType::BFloat16;

}  // namespace dmrec::cpu
