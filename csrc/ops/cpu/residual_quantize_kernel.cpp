// residual_quantize on the CPU. Codebooks are transposed once a call, so that codes lie side by side: a register holds
// the distances of a row to as many codes, and four rows share what is read of the codebook. A distance is a sum of
// squares in the order of the dimensions, whatever rows are computed together. Gradients of codes are sums over their
// rows, in order: one thread owns a code.
#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "ops/cpu/dispatch.h"
#include "ops/cpu/target.h"
#include "ops/cpu/vector.h"
#include "ops/library.h"
#include "ops/residual_quantize.h"

namespace dmrec::cpu {
namespace {

constexpr int rows_together = 4, vectors_together = 2;
constexpr int64_t padding = 128;  // codes of a level are padded to whole blocks of the widest registers

// Takes a code off what is left of a row and adds it to its sum; the squares of what is left then. A function of its
// own, for rows that come alone and together: inlined into both, the compiler fuses other multiplications with
// additions.
template <class T>
DMREC_CLONES T take_off(const T* code, int64_t width, T* left, T* sum) {
  constexpr int lanes = 8;
  T squares[lanes] = {};
  int64_t d = 0;
  for (; d + lanes <= width; d += lanes) {
    for (int l = 0; l < lanes; ++l) {
      left[d + l] -= code[d + l];
      sum[d + l] += code[d + l];
      squares[l] += left[d + l] * left[d + l];
    }
  }
  for (int l = 0; d + l < width; ++l) {
    left[d + l] -= code[d + l];
    sum[d + l] += code[d + l];
    squares[l] += left[d + l] * left[d + l];
  }
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) squares[l] += squares[l + half];
  }
  return squares[0];
}

template <class T>
struct Quantize {
  const T* x;           // (B, D)
  const T* codebooks;   // (L, C, D)
  const T* transposed;  // (L, D, padded C)
  int64_t levels, codes, padded, width;
  T beta;
  int64_t* out_codes;  // (B, L)
  T *quantized, *loss;

  struct Part {
    int64_t begin, end;
    T* left;  // (rows_together, D) of scratch
  };

  template <int bytes>
  DMREC_FN void run(const Part& part) const {
    int64_t b = part.begin;
    for (; b + rows_together <= part.end; b += rows_together) rows<bytes, rows_together>(b, part.left);
    for (; b < part.end; ++b) rows<bytes, 1>(b, part.left);
  }

 private:
  template <int bytes, int n>
  DMREC_FN void rows(int64_t b, T* left) const {
    std::copy(x + b * width, x + (b + n) * width, left);
    T* sums = quantized + b * width;
    std::fill(sums, sums + n * width, T(0));
    T total[n] = {};
    for (int64_t level = 0; level < levels; ++level) {
      int64_t nearest[n];
      find<bytes, n>(transposed + level * width * padded, left, nearest);
      for (int r = 0; r < n; ++r) {
        out_codes[(b + r) * levels + level] = nearest[r];
        const T* code = codebooks + (level * codes + nearest[r]) * width;
        total[r] += take_off(code, width, left + r * width, sums + r * width);
      }
    }
    for (int r = 0; r < n; ++r) loss[b + r] = (T(1) + beta) * total[r];
  }

  // The nearest code of n rows, of several the first; 0 where no distance is a number.
  template <int bytes, int n>
  DMREC_FN void find(const T* book, const T* left, int64_t (&nearest)[n]) const {
    using Vector = typename VectorOf<T, bytes>::type;
    using Index = typename VectorOf<typename Float<T>::Int, bytes>::type;
    using Int = typename Float<T>::Int;
    constexpr int lanes = bytes / sizeof(T), v = vectors_together;
    Vector least[n];
    Index code[n];
    for (int r = 0; r < n; ++r) {
      least[r] = Vector{} + Float<T>::largest;
      code[r] = Index{} + std::numeric_limits<Int>::max();
    }
    Int numbers[v * lanes];
    for (int l = 0; l < v * lanes; ++l) numbers[l] = static_cast<Int>(l);
    Index number[v];
    memcpy(number, numbers, sizeof numbers);
    for (int64_t first = 0; first < codes; first += v * lanes) {
      Vector sum[n][v] = {};
      const T* at = book + first;
      for (int64_t d = 0; d < width; ++d, at += padded) {
        Vector column[v];
        for (int k = 0; k < v; ++k) memcpy(&column[k], at + k * lanes, bytes);
        for (int r = 0; r < n; ++r) {
          for (int k = 0; k < v; ++k) {
            const Vector gap = left[r * width + d] - column[k];
            sum[r][k] += gap * gap;
          }
        }
      }
      for (int k = 0; k < v; ++k) {
        for (int r = 0; r < n; ++r) {
          const auto is_less = sum[r][k] < least[r];
          least[r] = is_less ? sum[r][k] : least[r];
          code[r] = is_less ? number[k] : code[r];
        }
        number[k] += v * lanes;
      }
    }
    for (int r = 0; r < n; ++r) {
      T best = Float<T>::largest;
      int64_t best_code = codes;
      for (int l = 0; l < lanes; ++l) {
        if (code[r][l] < codes && (least[r][l] < best || (least[r][l] == best && code[r][l] < best_code))) {
          best = least[r][l];
          best_code = code[r][l];
        }
      }
      nearest[r] = best_code < codes ? best_code : 0;
    }
  }
};

// (L, D, padded C) of codebooks (L, C, D); padding is NaN, which is never nearest.
template <class T>
std::vector<T> transposed_books(const T* books, int64_t levels, int64_t codes, int64_t padded, int64_t width) {
  std::vector<T> result(levels * width * padded, std::numeric_limits<T>::quiet_NaN());
  torch::stable::parallel_for(0, levels * width, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = books + i / width * codes * width + i % width;
      for (int64_t c = 0; c < codes; ++c) result[i * padded + c] = from[c * width];
    }
  });
  return result;
}

template <class T>
struct QuantizeBackward {
  const T *x, *codebooks, *of_quantized, *of_loss;  // the last two may be null
  const int64_t* codes;                             // (B, L)
  int64_t n_rows, levels, n_codes, width;
  T beta;
  ResidualGradient kind;

  // left = what levels 0 to `level` leave of row b
  DMREC_FN void residual(int64_t b, int64_t level, T* left) const {
    const T* row = x + b * width;
    for (int64_t d = 0; d < width; ++d) left[d] = row[d];
    for (int64_t l = 0; l <= level; ++l) take_off(b, l, left);
  }

  DMREC_FN void take_off(int64_t b, int64_t level, T* left) const {
    const T* code = codebooks + (level * n_codes + codes[b * levels + level]) * width;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) left[d] -= code[d];
  }

  DMREC_CLONES static void rows(const QuantizeBackward& job, int64_t begin, int64_t end, T* left, T* out) {
    const int64_t width = job.width, last = job.kind == ResidualGradient::first ? 1 : job.levels;
    for (int64_t b = begin; b < end; ++b) {
      T* to = out + b * width;
      for (int64_t d = 0; d < width; ++d) to[d] = T(0);
      if (job.of_loss) {
        for (int64_t d = 0; d < width; ++d) left[d] = job.x[b * width + d];
        for (int64_t level = 0; level < std::min(last, job.levels); ++level) {
          job.take_off(b, level, left);
#pragma omp simd
          for (int64_t d = 0; d < width; ++d) to[d] += left[d];
        }
        const T scale = T(2) * job.beta * job.of_loss[b];
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) to[d] *= scale;
      }
      if (job.of_quantized) {
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) to[d] += job.of_quantized[b * width + d];
      }
    }
  }

  // Codes [begin, end), counted over all levels.
  DMREC_CLONES static void books(const QuantizeBackward& job, const int64_t* code_begin, const int64_t* code_rows,
                                 int64_t begin, int64_t end, T* scratch, T* out) {
    const int64_t width = job.width;
    T *left = scratch, *later = scratch + width;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t level = i / job.n_codes, code = i % job.n_codes;
      const int64_t* bounds = code_begin + level * (job.n_codes + 1) + code;
      T* to = out + i * width;
      for (int64_t d = 0; d < width; ++d) to[d] = T(0);
      if (!job.of_loss) continue;
      for (int64_t e = bounds[0]; e < bounds[1]; ++e) {
        const int64_t b = code_rows[level * job.n_rows + e];
        const T scale = T(-2) * job.of_loss[b];
        job.residual(b, level, left);
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) to[d] += scale * left[d];
        if (job.kind != ResidualGradient::full) continue;
        for (int64_t d = 0; d < width; ++d) later[d] = T(0);
        for (int64_t l = level + 1; l < job.levels; ++l) {
          job.take_off(b, l, left);
#pragma omp simd
          for (int64_t d = 0; d < width; ++d) later[d] += left[d];
        }
        const T scale_later = scale * job.beta;
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) to[d] += scale_later * later[d];
      }
    }
  }
};

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> residual_quantize(Tensor x, Tensor codebooks, double beta, std::string kind) {
  residual_gradient_of(kind);
  const QuantizeInput input(x, codebooks, beta);
  Tensor codes = torch::stable::new_empty(input.x, {input.n_rows, input.levels}, ScalarType::Long);
  Tensor quantized = torch::stable::new_empty(input.x, {input.n_rows, input.width});
  Tensor loss = torch::stable::new_empty(input.x, {input.n_rows});
  with_arithmetic_type(input.arithmetic, [&]<class T>() {
    const int64_t padded = (input.codes + padding - 1) / padding * padding;
    const std::vector<T> books =
        transposed_books(data<T>(input.codebooks), input.levels, input.codes, padded, input.width);
    const Quantize<T> job{data<T>(input.x),
                          data<T>(input.codebooks),
                          books.data(),
                          input.levels,
                          input.codes,
                          padded,
                          input.width,
                          static_cast<T>(beta),
                          static_cast<int64_t*>(codes.mutable_data_ptr()),
                          static_cast<T*>(quantized.mutable_data_ptr()),
                          static_cast<T*>(loss.mutable_data_ptr())};
    const int64_t work = std::max<int64_t>(1, input.levels * input.codes * input.width);
    const int64_t grain = std::max<int64_t>(rows_together, (int64_t{1} << 17) / work);
    torch::stable::parallel_for(0, input.n_rows, grain, [&](int64_t begin, int64_t end) {
      std::vector<T> left(rows_together * input.width);
      in_widest_vectors(job, typename Quantize<T>::Part{begin, end, left.data()});
    });
  });
  return {in_type(quantized, input.given), in_type(loss, input.given), std::move(codes)};
}

void check_indices(const QuantizeInput& input, const QuantizeGradient& given) {
  const char* op = "residual_quantize";
  const int64_t* codes = data<int64_t>(given.codes);
  for (int64_t i = 0; i < input.n_rows * input.levels; ++i) {
    STD_TORCH_CHECK(codes[i] >= 0 && codes[i] < input.codes, op, ": codes must be those of the forward");
  }
  for (int64_t l = 0; l < input.levels; ++l) {
    const int64_t *begin = data<int64_t>(given.code_begin) + l * (input.codes + 1),
                  *rows = data<int64_t>(given.code_rows) + l * input.n_rows;
    bool fits = begin[0] == 0 && begin[input.codes] == input.n_rows;
    for (int64_t c = 0; c < input.codes; ++c) fits = fits && begin[c] <= begin[c + 1];
    for (int64_t b = 0; b < input.n_rows; ++b) fits = fits && rows[b] >= 0 && rows[b] < input.n_rows;
    STD_TORCH_CHECK(fits, op, ": code_begin and code_rows must list every row once");
  }
}

std::vector<Tensor> residual_quantize_backward(std::optional<Tensor> grad_quantized, std::optional<Tensor> grad_loss,
                                               Tensor x, Tensor codebooks, Tensor codes, Tensor code_begin,
                                               Tensor code_rows, double beta, std::string kind, int64_t needed) {
  const ResidualGradient of = residual_gradient_of(kind);
  const QuantizeInput input(x, codebooks, beta);
  const QuantizeGradient given(input, std::move(grad_quantized), std::move(grad_loss), codes, code_begin, code_rows);
  check_indices(input, given);
  const bool of_x = needed & 1, of_books = needed & 2;
  Tensor d_x = torch::stable::new_empty(input.x, {of_x ? input.n_rows : 0, input.width});
  Tensor d_books = torch::stable::new_empty(input.x, {of_books ? input.levels : 0, input.codes, input.width});
  with_arithmetic_type(input.arithmetic, [&]<class T>() {
    const QuantizeBackward<T> job{data<T>(input.x),
                                  data<T>(input.codebooks),
                                  given.of_quantized ? data<T>(*given.of_quantized) : nullptr,
                                  given.of_loss ? data<T>(*given.of_loss) : nullptr,
                                  data<int64_t>(given.codes),
                                  input.n_rows,
                                  input.levels,
                                  input.codes,
                                  input.width,
                                  static_cast<T>(beta),
                                  of};
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, input.levels * input.width));
    if (of_x) {
      T* out = static_cast<T*>(d_x.mutable_data_ptr());
      torch::stable::parallel_for(0, input.n_rows, grain, [&](int64_t begin, int64_t end) {
        std::vector<T> left(input.width);
        QuantizeBackward<T>::rows(job, begin, end, left.data(), out);
      });
    }
    if (of_books) {
      T* out = static_cast<T*>(d_books.mutable_data_ptr());
      torch::stable::parallel_for(0, input.levels * input.codes, 8, [&](int64_t begin, int64_t end) {
        std::vector<T> scratch(2 * input.width);
        QuantizeBackward<T>::books(job, data<int64_t>(given.code_begin), data<int64_t>(given.code_rows), begin, end,
                                   scratch.data(), out);
      });
    }
  });
  std::vector<Tensor> result;
  if (of_x) result.push_back(in_type(d_x, input.given));
  if (of_books) result.push_back(in_type(d_books, input.given));
  return result;
}

}  // namespace
}  // namespace dmrec::cpu

DMREC_KERNELS(CPU, m) {
  m.impl("residual_quantize", TORCH_BOX(&dmrec::cpu::residual_quantize));
  m.impl("_residual_quantize_backward", TORCH_BOX(&dmrec::cpu::residual_quantize_backward));
}
