// Linear layers with F32, F16 and BF16 weights: one sum per output, in order of K.
//
// A block of threads owns sixteen rows and up to eight tokens: one thread per (row,
// token) adds products in order of K, while all of them bring the next stretch of
// weights and activations into shared memory. The sum is one chain of K additions,
// which bounds decoding from below (4 cycles each); weights of eight or fewer bits
// have chains 32 or more times shorter.
//
// Weights: `[group of 16 rows][K][row]`, as on a CPU. Activations: f32 rows of K.
// A bias, where there is one, is added last. For experts: `Chosen` of `common.cuh`, and
// one choice in place of eight tokens. Grid: (groups, tokens / 8), 128 threads. Called by
// `cuda/linear.rs`.
#include "common.cuh"

// Elements of K at a time.
#define STRETCH 64
#define TILE 8

__device__ __forceinline__ float wide(float w) { return w; }
struct Half {
    half_bits bits;
};
struct Brain {
    unsigned short bits;
};
__device__ __forceinline__ float wide(Half w) { return widen(w.bits); }
__device__ __forceinline__ float wide(Brain w) { return widen_brain(w.bits); }

template <class W>
__device__ __forceinline__ void floats(const W* weights, unsigned rows, unsigned k, const float* x, unsigned tokens,
                                       const float* bias, float* out, unsigned out_stride, const unsigned* chosen,
                                       unsigned sharing, float (*w)[STRETCH][16], float (*xs)[STRETCH][TILE]) {
    unsigned row = threadIdx.x % 16, token = threadIdx.x / 16, group = blockIdx.x;
    unsigned first = chosen ? blockIdx.y : blockIdx.y * TILE;
    unsigned most = chosen ? 1 : TILE, count = tokens - first < most ? tokens - first : most;
    Chosen c = choice<1>(chosen, sharing, first);
    const W* source = weights + (c.group + group) * k * 16;
    float sum = 0.0f;
    for (unsigned from = 0, turn = 0; from < k; from += STRETCH, turn ^= 1) {
        unsigned n = k - from < STRETCH ? k - from : STRETCH;
        for (unsigned i = threadIdx.x; i < n * 16; i += blockDim.x)
            w[turn][i / 16][i % 16] = wide(source[(uint64_t)from * 16 + i]);
        for (unsigned t = token; t < count; t += TILE)
            for (unsigned i = row; i < n; i += 16) xs[turn][i][t] = x[(uint64_t)(c.x + t) * k + from + i];
        __syncthreads();
        if (token < count)
            for (unsigned i = 0; i < n; i++) sum = add(sum, mul(w[turn][i][row], xs[turn][i][token]));
    }
    unsigned at = group * 16 + row;
    if (token < count && at < rows)
        out[(uint64_t)(first + token) * out_stride + at] = bias ? add(sum, bias[(uint64_t)c.expert * rows + at]) : sum;
}

#define FLOATS(name, type)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                            \
        name(const type* weights, unsigned rows, unsigned k, const float* x, unsigned tokens, const float* bias, \
             float* out, unsigned out_stride, const unsigned* chosen, unsigned sharing) {                        \
        __shared__ float w[2][STRETCH][16];                                                                      \
        __shared__ float xs[2][STRETCH][TILE];                                                                   \
        floats<type>(weights, rows, k, x, tokens, bias, out, out_stride, chosen, sharing, w, xs);                                       \
    }

FLOATS(linear_f32, float)
FLOATS(linear_f16, Half)
FLOATS(linear_bf16, Brain)
