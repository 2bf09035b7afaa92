// Instruction sets: a function marked DMREC_CLONES is compiled once per level below and bound at load time to the
// best one that the processor has. Everything it calls must be inlined into it to profit.
// Off where the compiler cannot do it (these levels: GCC 12), and with -DDMREC_NO_CLONES (sanitizers cannot follow the
// resolver).
#pragma once

#if !defined(DMREC_NO_CLONES) && defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define DMREC_HAS_CLONES 1
#define DMREC_CLONES __attribute__((target_clones("default", "arch=x86-64-v2", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define DMREC_HAS_CLONES 0
#define DMREC_CLONES
#endif
