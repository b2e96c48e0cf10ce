// Mixtures of experts beside their matrices: which experts a row takes, and how their
// results become one. "Experts" of NUMERICS.md. Called by `cuda/steps.rs`.
#include "common.cuh"

#define MOST_EXPERTS 2048
#define MOST_USED 64

// The `used` largest router logits of a row, the lowest index first among equals, best
// first, and their softmax times `scale` where that is not 0. Grid: (rows), 32 threads:
// every step is the whole warp's.
extern "C" __global__ void __launch_bounds__(32)
    route(const float* router, unsigned count, unsigned used, float scale, unsigned* chosen, float* weights) {
    __shared__ unsigned char taken[MOST_EXPERTS];
    __shared__ float weight[MOST_USED];
    const float* logits = router + (uint64_t)blockIdx.x * count;
    uint64_t to = (uint64_t)blockIdx.x * used;
    for (unsigned i = threadIdx.x; i < count; i += 32) taken[i] = 0;
    __syncwarp();
    for (unsigned rank = 0; rank < used; rank++) {
        // Beyond `count`: none.
        unsigned best = count;
        float largest = 0.0f;
        for (unsigned i = threadIdx.x; i < count; i += 32) {
            float logit = logits[i];
            if (!taken[i] && (best == count || logit > largest)) best = i, largest = logit;
        }
        for (unsigned bits = 16; bits > 0; bits /= 2) {
            unsigned other = __shfl_xor_sync(ALL_LANES, best, bits);
            float value = __shfl_xor_sync(ALL_LANES, largest, bits);
            bool larger = value > largest || (value == largest && other < best);
            if (other < count && (best == count || larger)) best = other, largest = value;
        }
        // Lanes may disagree where a logit is no number: one of them decides.
        best = __shfl_sync(ALL_LANES, best, 0);
        if (threadIdx.x == 0) {
            taken[best] = 1;
            chosen[to + rank] = best;
            weight[rank] = largest;
        }
        __syncwarp();
    }
    float most = weight[0];
    __syncwarp();
    for (unsigned i = threadIdx.x; i < used; i += 32) weight[i] = exp_f32(sub(weight[i], most));
    __syncwarp();
    float total = __shfl_sync(ALL_LANES, strided_sum(weight, used), 0);
    for (unsigned i = threadIdx.x; i < used; i += 32) {
        float w = divide(weight[i], total);
        weights[to + i] = scale != 0.0f ? mul(w, scale) : w;
    }
}

// A row of `out` from the rows of its choices, in their order. Grid: (rows, width / 256),
// 256 threads.
extern "C" __global__ void __launch_bounds__(256)
    combine(const float* made, const float* weights, unsigned used, unsigned width, float* out) {
    unsigned i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= width) return;
    uint64_t first = (uint64_t)blockIdx.x * used;
    float y = 0.0f;
    for (unsigned rank = 0; rank < used; rank++)
        y = add(y, mul(made[(first + rank) * width + i], weights[first + rank]));
    out[(uint64_t)blockIdx.x * width + i] = y;
}
