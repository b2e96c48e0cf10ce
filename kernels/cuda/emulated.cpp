// The library that tests load in place of a driver: every kernel by name, memory that
// notices a step outside of it, and launches as `cuLaunchKernel` takes them.
//
// Build: c++ -std=c++17 -O2 -ffp-contract=off -DEMULATION -shared -fPIC emulated.cpp
// Not thread-safe: the caller takes turns.
#include <type_traits>
#include <utility>
#include "emulation.h"

#include "linear_blocks.cu"
#undef STEP
#undef WARPS
#include "linear_tiles.cu"
#include "linear_float.cu"
#undef TILE
#undef STRETCH
#include "linear_k.cu"
#include "norm.cu"
#include "heads.cu"
#include "attention.cu"
#include "sample.cu"
#include "experts.cu"

// Not kernels of the engine: what the emulation's own test runs. Each thread of a block
// reads what its neighbour wrote, with and without waiting for it.
extern "C" __global__ void emulation_waits(unsigned* out) {
    __shared__ unsigned mine[64];
    mine[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = mine[(threadIdx.x + 1) % 64];
}
extern "C" __global__ void emulation_does_not_wait(unsigned* out) {
    __shared__ unsigned mine[64];
    mine[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = mine[(threadIdx.x + 1) % 64];
}
// Only some threads reach the barrier of the others.
extern "C" __global__ void emulation_parts_ways(unsigned* out) {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncwarp();
    out[threadIdx.x] = 0;
}

namespace {

struct Entry {
    const char* name;
    void (*run)(void**);
    const char* signature;
};

#define ENTRY(name) {#name, emulation::Kernel<name>::run, emulation::Kernel<name>::signature}
const Entry KERNELS[] = {
    ENTRY(linear_q8_one), ENTRY(linear_q8_eight), ENTRY(linear_q8_tiles), ENTRY(linear_q4_one), ENTRY(linear_q4_eight),
    ENTRY(linear_q4_tiles), ENTRY(linear_mx_one), ENTRY(linear_mx_eight), ENTRY(linear_mx_tiles), ENTRY(linear_nl_one),
    ENTRY(linear_nl_eight), ENTRY(linear_nl_tiles), ENTRY(linear_f32), ENTRY(linear_f16), ENTRY(linear_bf16),
    ENTRY(linear_q4_k_one), ENTRY(linear_q4_k_eight), ENTRY(linear_q5_k_one), ENTRY(linear_q5_k_eight),
    ENTRY(linear_q6_k_one), ENTRY(linear_q6_k_eight), ENTRY(linear_iq4_xs_one), ENTRY(linear_iq4_xs_eight),
    ENTRY(linear_q4_min_one), ENTRY(linear_q4_min_eight), ENTRY(linear_q4_min_tiles),
    ENTRY(linear_q5_min_one), ENTRY(linear_q5_min_eight), ENTRY(linear_q5_min_tiles),
    ENTRY(rms_norm),      ENTRY(gated),           ENTRY(quantise),   ENTRY(residual),   ENTRY(cap),
    ENTRY(heads),         ENTRY(attention),
    ENTRY(attention_scores), ENTRY(attention_weights), ENTRY(attention_values),
    ENTRY(top_of_logits), ENTRY(top_of_keys),     ENTRY(weigh),      ENTRY(settle),     ENTRY(all_finite),
    ENTRY(emulation_waits), ENTRY(emulation_does_not_wait), ENTRY(emulation_parts_ways),
    ENTRY(route),         ENTRY(combine),
};

const Entry* find(const char* name) {
    for (const Entry& entry : KERNELS)
        if (!strcmp(entry.name, name)) return &entry;
    return nullptr;
}

size_t pages(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

}  // namespace

extern "C" {

// Parameters of a kernel, one letter each; null where there is no such kernel.
const char* emulated_signature(const char* name) {
    const Entry* entry = find(name);
    return entry ? entry->signature : nullptr;
}

// Null, or what went wrong, readable until the next launch.
const char* emulated_launch(const char* name, void** arguments, const unsigned* grid, unsigned threads,
                            unsigned shared, unsigned order) {
    const Entry* entry = find(name);
    if (!entry) return "no such kernel";
    return emulation::launch(entry->name, entry->run, arguments, {grid[0], grid[1], grid[2]}, {threads, 1, 1},
                             shared, order);
}

// Memory that is all ones, aligned to 16 bytes, which ends within 16 bytes of a page that
// cannot be touched.
void* emulated_alloc(size_t bytes) {
    size_t page = pages(1), body = pages(bytes);
    char* start = (char*)mmap(nullptr, page + body + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == (char*)MAP_FAILED || mprotect(start + page, body, PROT_READ | PROT_WRITE)) return nullptr;
    memset(start + page, 0xff, body);
    return start + page + body - (bytes + 15) / 16 * 16;
}

void emulated_free(void* memory, size_t bytes) {
    size_t page = pages(1), body = pages(bytes);
    char* end = (char*)memory + (bytes + 15) / 16 * 16;
    munmap(end - body - page, page + body + page);
}
}
