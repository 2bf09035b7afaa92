// From the dtype of a tensor to the C++ type of its elements.
#pragma once

#include <type_traits>

#include "ops/cpu/element.h"
#include "ops/row_inputs.h"

namespace dmrec::cpu {

// body.template operator()<Stored>() with the C++ type of a dtype that check_rows admits
template <class Body>
void with_stored_type(ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float: return body.template operator()<float>();
    case ScalarType::Double: return body.template operator()<double>();
    case ScalarType::Half: return body.template operator()<c10::Half>();
    default: return body.template operator()<c10::BFloat16>();
  }
}

// body.template operator()<Stored, Other>() where the other dtype is the same, or that of its arithmetic
template <class Body>
void with_stored_types(ScalarType dtype, ScalarType other, const Body& body) {
  with_stored_type(dtype, [&]<class Stored>() {
    using Arithmetic = typename Element<Stored>::Arithmetic;
    if constexpr (!std::is_same_v<Stored, Arithmetic>) {
      if (other != dtype) return body.template operator()<Stored, Arithmetic>();
    }
    body.template operator()<Stored, Stored>();
  });
}

// body.template operator()<T>() with the C++ type of a type of arithmetic
template <class Body>
auto with_arithmetic_type(ScalarType type, const Body& body) {
  return type == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

// The rows of a (B, D) tensor of that dtype whose rows have adjacent elements.
template <class Stored>
Rows<const Stored> rows_in(const Tensor& matrix) {
  return {static_cast<const Stored*>(matrix.const_data_ptr()), matrix.stride(0)};
}

}  // namespace dmrec::cpu
