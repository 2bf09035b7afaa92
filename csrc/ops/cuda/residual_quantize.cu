// Launchers of residual_quantize.cuh.
#include "ops/cuda/residual_quantize.cuh"

namespace dmrec::cuda {

namespace {

template <class T>
Quantize<T> typed(const QuantizeJob& job) {
  return {
      static_cast<const T*>(job.x), static_cast<const T*>(job.codebooks), job.n_rows, job.levels, job.codes, job.width,
      static_cast<T>(job.beta)};
}

template <class T>
QuantizeGradient<T> typed(const QuantizeGradientJob& of) {
  return {static_cast<const T*>(of.of_quantized),
          static_cast<const T*>(of.of_loss),
          of.codes,
          of.code_begin,
          of.code_rows,
          of.first_alone,
          of.full};
}

dim3 grid_of_warps(int64_t count) { return dim3(grid_x(blocks_for(count, warps_of_block))); }

constexpr dim3 block_of_warps(warp_size, warps_of_block);

// body.template operator()<T>()
template <class Body>
int with_arithmetic_type(Type type, const Body& body) {
  return type == Type::float64 ? body.template operator()<double>() : body.template operator()<float>();
}

}  // namespace

int launch_quantize_rows(Type type, const QuantizeJob& job, const void* transposed, void* left, void* quantized,
                         void* loss, int64_t* codes, Stream stream) {
  return with_arithmetic_type(type, [&]<class T>() {
    return launch("quantize_rows", quantize_rows<T>, grid_of_warps(blocks_for(job.n_rows, rows_of_warp)),
                  block_of_warps, stream, typed<T>(job), static_cast<const T*>(transposed), static_cast<T*>(left),
                  static_cast<T*>(quantized), static_cast<T*>(loss), codes);
  });
}

int launch_quantize_gradient_of_rows(Type type, const QuantizeJob& job, const QuantizeGradientJob& of, void* out,
                                     Stream stream) {
  return with_arithmetic_type(type, [&]<class T>() {
    return launch("gradient_of_rows", gradient_of_rows<T>, grid_of_warps(job.n_rows), block_of_warps, stream,
                  typed<T>(job), typed<T>(of), static_cast<T*>(out));
  });
}

int launch_quantize_gradient_of_codes(Type type, const QuantizeJob& job, const QuantizeGradientJob& of, void* out,
                                      Stream stream) {
  return with_arithmetic_type(type, [&]<class T>() {
    return launch("gradient_of_codes", gradient_of_codes<T>, grid_of_warps(job.levels * job.codes), block_of_warps,
                  stream, typed<T>(job), typed<T>(of), static_cast<T*>(out));
  });
}

}  // namespace dmrec::cuda
