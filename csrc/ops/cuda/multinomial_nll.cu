// Launchers of multinomial_nll.cuh.
#include "ops/cuda/multinomial_nll.cuh"

namespace dmrec::cuda {

namespace {

constexpr unsigned rows_of_a_block = 4;  // where a warp owns a row

// body.template operator()<Product>(): products are float32, float64 or bfloat16
template <class Body>
int with_product_type(Type type, const Body& body) {
  switch (type) {
    case Type::float64: return body.template operator()<double>();
    case Type::bfloat16: return body.template operator()<__nv_bfloat16>();
    default: return body.template operator()<float>();
  }
}

template <class Product>
LogitTile<Product> logits(const NllTile& tile) {
  using T = ArithmeticOf<Product>;
  return {static_cast<const Product*>(tile.logits),
          tile.stride,
          static_cast<const T*>(tile.bias),
          tile.first,
          tile.count,
          tile.aligned,
          tile.bias_aligned};
}

template <class T>
Targets<T> targets(const NllTargets& given) {
  return {given.indices, static_cast<const T*>(given.values)};
}

template <class T>
ChunkSums<T> sums(const NllSums& given) {
  return {static_cast<T*>(given.max), static_cast<T*>(given.sum), given.of_targets};
}

dim3 grid_of_chunks(int64_t n_rows, int64_t count) {
  return dim3(grid_x(n_rows), grid_y(blocks_for(count, nll_chunk)));
}

}  // namespace

int launch_nll_sums(Type product, const NllTile& tile, const NllTargets& x, const NllSums& parts, const NllSums& state,
                    Stream stream) {
  return with_product_type(product, [&]<class Product>() {
    using T = ArithmeticOf<Product>;
    const int64_t n_rows = x.indices.n_rows;
    const int code = launch("chunk_sums", chunk_sums<Product>, grid_of_chunks(n_rows, tile.count), dim3(nll_threads),
                            stream, logits<Product>(tile), targets<T>(x), sums<T>(parts));
    if (code != 0) return code;
    return launch("combine_chunks", combine_chunks<T>, dim3(grid_x(blocks_for(n_rows, nll_threads))), dim3(nll_threads),
                  stream, sums<T>(parts), blocks_for(tile.count, nll_chunk), n_rows, tile.first == 0, sums<T>(state));
  });
}

int launch_nll_terms(Type product, const NllTargets& x, const NllSums& state, double* terms, void* log_sums,
                     Stream stream) {
  return with_product_type(product, [&]<class Product>() {
    using T = ArithmeticOf<Product>;
    const dim3 grid(grid_x(blocks_for(x.indices.n_rows, rows_of_a_block)));
    return launch("row_terms", row_terms<T>, grid, dim3(warp_size, rows_of_a_block), stream, sums<T>(state),
                  targets<T>(x), terms, static_cast<T*>(log_sums));
  });
}

int launch_nll_gradient(Type product, const NllTile& tile, const NllTargets& x, const NllGradient& of, void* out,
                        bool out_aligned, Stream stream) {
  return with_product_type(product, [&]<class Product>() {
    using T = ArithmeticOf<Product>;
    return launch("tile_gradient", tile_gradient<Product>, grid_of_chunks(x.indices.n_rows, tile.count),
                  dim3(nll_threads), stream, logits<Product>(tile), targets<T>(x), static_cast<const T*>(of.log_sums),
                  of.grad, static_cast<Product*>(out), out_aligned);
  });
}

int launch_nll_column_sums(Type product, const void* tile, int64_t n_rows, int64_t count, void* sums, Stream stream) {
  return with_product_type(product, [&]<class Product>() {
    return launch("column_sums", column_sums<Product>, dim3(grid_x(blocks_for(count, column_block))),
                  dim3(column_block, row_groups), stream, static_cast<const Product*>(tile), n_rows, count,
                  static_cast<ArithmeticOf<Product>*>(sums));
  });
}

int launch_nll_add(Type type, void* sum, const void* part, int64_t count, Stream stream) {
  const auto add = [&]<class T>(T) {
    return launch("add_to", add_to<T>, dim3(grid_x(blocks_for(count, nll_threads * piece<T>))), dim3(nll_threads),
                  stream, static_cast<T*>(sum), static_cast<const T*>(part), count);
  };
  return type == Type::float64 ? add(double{}) : add(float{});
}

}  // namespace dmrec::cuda
