// Launchers of rank_topk.cuh.
#include "ops/cuda/rank_topk.cuh"

namespace dmrec::cuda {

namespace {

template <class Stored>
Vectors<Stored> vectors(const RankVectors& given) {
  return {static_cast<const Stored*>(given.data), given.stride, given.width};
}

}  // namespace

int launch_item_norms(Type type, const RankVectors& items, const void* bias, int64_t n_items, void* filter_bias,
                      double* maxima, int n_maxima, Stream stream) {
  return with_stored_type(type, [&]<class Stored>() {
    return launch("item_norms", item_norms<Stored>, dim3(grid_x(n_maxima)), dim3(ranking_threads), stream,
                  vectors<Stored>(items), static_cast<const Stored*>(bias), n_items,
                  static_cast<ArithmeticOf<Stored>*>(filter_bias), maxima);
  });
}

int launch_user_margins(Type type, const RankVectors& users, int64_t n_users, const RankBound& bound, bool rounded,
                        Stream stream) {
  const dim3 grid(grid_x(blocks_for(n_users * dot_lanes, ranking_threads)));
  return with_stored_type(type, [&]<class Stored>() {
    return launch("user_margins", user_margins<Stored>, grid, dim3(ranking_threads), stream, vectors<Stored>(users),
                  n_users, bound.maxima, bound.n_maxima, rounded, bound.margins);
  });
}

int launch_select_tile(const RankJob& job, const void* products, int64_t first, int64_t count, bool aligned,
                       Stream stream) {
  return with_stored_type(job.type, [&]<class Stored>() {
    using T = ArithmeticOf<Stored>;
    const RankTile<Stored> tile{vectors<Stored>(job.users),
                                vectors<Stored>(job.items),
                                static_cast<const Stored*>(job.bias),
                                job.exclude,
                                static_cast<const T*>(job.bound.filter_bias),
                                job.bound.margins,
                                job.n_users,
                                static_cast<int>(job.k),
                                power_of_two_from(static_cast<int>(job.k)),
                                job.scores,
                                job.ids,
                                static_cast<const T*>(products),
                                first,
                                count,
                                aligned,
                                first == 0};
    const dim3 grid(grid_x(job.n_users), grid_y(job.parts));
    return launch("select_tile", select_tile<Stored>, grid, dim3(ranking_threads), stream, tile);
  });
}

int launch_finish_ranking(const RankJob& job, double* scores, int64_t* ids, Stream stream) {
  const double* parts = job.scores;
  return launch("finish_ranking", finish_ranking<double>, dim3(grid_x(job.n_users)), dim3(ranking_threads), stream,
                parts, job.ids, job.parts, static_cast<int>(job.k), power_of_two_from(static_cast<int>(job.k)), scores,
                ids);
}

}  // namespace dmrec::cuda
