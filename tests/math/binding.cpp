// The host side of csrc/math for the tests: whole arrays, compiled with the instruction-set clones of the operators.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "math/elementary.h"
#include "ops/cpu/element.h"
#include "ops/cpu/target.h"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

struct BoundedExp {
  template <class T>
  DMREC_FN static T apply(T x) {
    return dmrec::bounded_exp(x);
  }
};
struct HalfExpm1 {
  template <class T>
  DMREC_FN static T apply(T x) {
    return dmrec::half_expm1(x);
  }
};
struct HalfExpGap {
  template <class T>
  DMREC_FN static T apply(T x) {
    return dmrec::half_exp_gap(x);
  }
};

struct LogOf {
  template <class T>
  DMREC_FN static T apply(T x) {
    return dmrec::log_of(x);
  }
};
struct LogOfOnePlus {
  template <class T>
  DMREC_FN static T apply(T x) {
    return dmrec::log_of_one_plus(x);
  }
};

template <class F, class T>
struct Map {
  DMREC_CLONES static void run(const T* in, T* out, py::ssize_t n) {
#pragma omp simd
    for (py::ssize_t i = 0; i < n; ++i) out[i] = F::apply(in[i]);
  }
};

template <class F, class T>
Array<T> map(const Array<T>& x) {
  Array<T> out(x.size());
  Map<F, T>::run(x.data(), out.mutable_data(), x.size());
  return out;
}

template <class Stored>
Array<float> widen(const Array<uint16_t>& x) {
  Array<float> out(x.size());
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    Stored element;
    element.x = x.data()[i];
    out.mutable_data()[i] = dmrec::cpu::Element<Stored>::load(&element);
  }
  return out;
}

template <class Stored>
Array<uint16_t> narrow(const Array<float>& x) {
  Array<uint16_t> out(x.size());
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    Stored element;
    dmrec::cpu::Element<Stored>::store(&element, x.data()[i]);
    out.mutable_data()[i] = element.x;
  }
  return out;
}

template <class F>
void bind(py::module_& m, const char* name) {
  m.def(name, &map<F, float>, py::arg("x").noconvert());
  m.def(name, &map<F, double>, py::arg("x").noconvert());
}

}  // namespace

PYBIND11_MODULE(_math, m) {
  bind<BoundedExp>(m, "bounded_exp");
  bind<HalfExpm1>(m, "half_expm1");
  bind<HalfExpGap>(m, "half_exp_gap");
  bind<LogOf>(m, "log_of");
  bind<LogOfOnePlus>(m, "log_of_one_plus");
  m.def("widen_half", &widen<c10::Half>);
  m.def("widen_bfloat16", &widen<c10::BFloat16>);
  m.def("narrow_half", &narrow<c10::Half>);
  m.def("narrow_bfloat16", &narrow<c10::BFloat16>);
}
