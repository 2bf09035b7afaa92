// Launchers of code_alignment.cuh.
#include "ops/cuda/code_alignment.cuh"

namespace dmrec::cuda {

namespace {

constexpr unsigned rows_of_a_block = 4, threads_of_a_block = 256;  // a warp, or a thread, per row

template <class T>
Alignment<T> typed(const AlignmentJob& job) {
  return {static_cast<const T*>(job.target),
          static_cast<const T*>(job.prediction),
          static_cast<const T*>(job.weights),
          job.n_rows,
          job.levels,
          job.codes,
          static_cast<T>(job.log_rows),
          static_cast<T>(job.slope),
          static_cast<T*>(job.row_sums),
          static_cast<T*>(job.columns)};
}

// body.template operator()<T>()
template <class Body>
int with_type(const AlignmentJob& job, const Body& body) {
  return job.type == Type::float64 ? body.template operator()<double>() : body.template operator()<float>();
}

// body.template operator()<Kind, T>()
template <class Body>
int with_kind(const AlignmentJob& job, const Body& body) {
  return with_type(job, [&]<class T>() {
    const auto of_direction = [&]<bool forward, bool reverse>() {
      return job.leave_one_out ? body.template operator()<AlignmentKind<forward, reverse, true>, T>()
                               : body.template operator()<AlignmentKind<forward, reverse, false>, T>();
    };
    if (!job.reverse) return of_direction.template operator()<true, false>();
    return job.forward ? of_direction.template operator()<true, true>()
                       : of_direction.template operator()<false, true>();
  });
}

dim3 warps(const AlignmentJob& job) { return dim3(grid_x(blocks_for(job.n_rows * job.levels, rows_of_a_block))); }
dim3 threads(const AlignmentJob& job) { return dim3(grid_x(blocks_for(job.n_rows, threads_of_a_block))); }
dim3 columns(const AlignmentJob& job) {
  return dim3(grid_x(blocks_for(job.codes, alignment_codes)), grid_y(job.levels));
}

constexpr dim3 of_warps(warp_size, rows_of_a_block), of_columns(alignment_codes, alignment_groups);

}  // namespace

int launch_alignment_row_sums(const AlignmentJob& job, Stream stream) {
  return with_type(job, [&]<class T>() {
    return launch("alignment_row_sums", alignment_row_sums<T>, warps(job), of_warps, stream, typed<T>(job));
  });
}

int launch_alignment_columns(const AlignmentJob& job, Stream stream) {
  return with_type(job, [&]<class T>() {
    using LeftOut = AlignmentKind<true, false, true>;
    using Mean = AlignmentKind<true, false, false>;
    return job.leave_one_out ? launch("alignment_columns", alignment_columns<LeftOut, T>, columns(job), of_columns,
                                      stream, typed<T>(job))
                             : launch("alignment_columns", alignment_columns<Mean, T>, columns(job), of_columns, stream,
                                      typed<T>(job));
  });
}

int launch_alignment_losses(const AlignmentJob& job, void* gaps, void* delta, void* loss, Stream stream) {
  if (job.codes > 0 && job.levels > 0) {
    const int code = with_kind(job, [&]<class Kind, class T>() {
      return launch("alignment_gaps", alignment_gaps<Kind, T>, warps(job), of_warps, stream, typed<T>(job),
                    static_cast<T*>(gaps));
    });
    if (code != 0) return code;
  }
  return with_type(job, [&]<class T>() {
    return launch("alignment_losses", alignment_losses<T>, threads(job), dim3(threads_of_a_block), stream,
                  typed<T>(job), static_cast<const T*>(gaps), static_cast<T*>(delta), static_cast<T*>(loss));
  });
}

int launch_alignment_gradient(const AlignmentJob& job, const AlignmentGradientJob& of, Stream stream) {
  int code = with_type(job, [&]<class T>() {
    return launch("alignment_of_delta", alignment_of_delta<T>, threads(job), dim3(threads_of_a_block), stream,
                  typed<T>(job), static_cast<const T*>(of.grad), static_cast<const T*>(of.delta),
                  static_cast<T*>(of.of_delta));
  });
  if (code == 0 && of.of_columns) {
    code = with_kind(job, [&]<class Kind, class T>() {
      return launch("alignment_of_columns", alignment_of_columns<Kind, T>, columns(job), of_columns, stream,
                    typed<T>(job), static_cast<const T*>(of.of_delta), static_cast<T*>(of.of_columns));
    });
  }
  if (code != 0) return code;
  return with_kind(job, [&]<class Kind, class T>() {
    return launch("alignment_of_rows", alignment_of_rows<Kind, T>, warps(job), of_warps, stream, typed<T>(job),
                  static_cast<const T*>(of.of_delta), static_cast<const T*>(of.of_columns),
                  static_cast<T*>(of.d_target), static_cast<T*>(of.d_prediction));
  });
}

}  // namespace dmrec::cuda
