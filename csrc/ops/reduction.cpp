// Schema of what the backward of reduced row operators does to gradients that are there already: multiplied in place by
// a number on their device, which is 1 in nearly all training and is then not even read by the host.
#include "ops/library.h"

DMREC_SCHEMAS(m) { m.def("_multiply_unless_one_(Tensor(a!)[] values, Tensor factor) -> ()"); }
