// RMS norm of rows, gates and plain rows, each with the quantisation of its result in
// the same pass, so that activations cross memory once; and two elementwise steps.
//
// Every kernel writes f32 where `plain` is not null, codes per 32 where `codes` is not
// null (rows of a multiple of 32), and codes per 256 where `k_codes` is not null (rows of
// a multiple of 256). Grid: (rows), 256 threads, and for `rms_norm` 4 bytes of shared
// memory per element of a row; `plain` may be `x`. The norm takes row `from[i]` for row i,
// where that is not null. Called by `cuda/steps.rs`.
#include "common.cuh"

// Where the forms of a result go; null where a form is not wanted.
struct Outputs {
    float* plain;
    int8_t* codes;  // Per 32.
    float* scales;
    int8_t* k_codes;  // Per 256, with the sums of each sixteen codes.
    float* k_scales;
    short* k_sums;
};

// Element `i`, held by this lane; a warp holds one block of 32.
__device__ __forceinline__ void quantise_32(float y, uint64_t i, const Outputs& out) {
    Quantiser q = quantiser(largest_of_warp(__float_as_uint(y) & 0x7fffffffu));
    out.codes[i] = code(q, y);
    if (i % 32 == 0) out.scales[i / 32] = q.scale;
}

// The same for 256, of which the eight warps hold one block. `largest` is theirs.
__device__ __forceinline__ void quantise_256(float y, uint64_t i, const Outputs& out, unsigned* largest) {
    unsigned mine = largest_of_warp(__float_as_uint(y) & 0x7fffffffu);
    __syncthreads();
    if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = mine;
    __syncthreads();
    for (int w = 0; w < 8; w++) mine = largest[w] > mine ? largest[w] : mine;
    Quantiser q = quantiser(mine);
    int8_t c = code(q, y);
    out.k_codes[i] = c;
    int sum = c;
    for (unsigned bits = 8; bits > 0; bits /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, bits);
    if (i % 16 == 0) out.k_sums[i / 16] = (short)sum;
    if (i % 256 == 0) out.k_scales[i / 256] = q.scale;
}

// One element of a row of n, or of what fills its last warp, in every form.
__device__ __forceinline__ void put(float y, bool inside, uint64_t i, const Outputs& out, unsigned* largest) {
    if (out.plain && inside) out.plain[i] = y;
    if (out.codes) quantise_32(y, i, out);
    if (out.k_codes) quantise_256(y, i, out, largest);
}

// Whole warps run through a row: a lane beyond its end still takes part in shuffles.
#define EACH_OF_ROW(i, n) for (unsigned i = threadIdx.x; i < ((n) + 31) / 32 * 32; i += blockDim.x)

extern "C" __global__ void __launch_bounds__(256)
    rms_norm(const float* x, const unsigned* from, const float* weight, unsigned n, float epsilon, float* plain,
             int8_t* codes, float* scales, int8_t* k_codes, float* k_scales, short* k_sums) {
    DYNAMIC_SHARED(shared);
    __shared__ float scale;
    __shared__ unsigned largest[8];
    Outputs out = {plain, codes, scales, k_codes, k_scales, k_sums};
    float* squares = (float*)shared;
    uint64_t row = (uint64_t)blockIdx.x * n;
    if (from) x += (uint64_t)from[blockIdx.x] * n - row;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares[i] = mul(x[row + i], x[row + i]);
    __syncthreads();
    if (threadIdx.x < 32) {
        float sum = strided_sum(squares, n);
        if (threadIdx.x == 0) scale = divide(1.0f, __fsqrt_rn(add(divide(sum, (float)n), epsilon)));
    }
    __syncthreads();
    EACH_OF_ROW(i, n) {
        float y = i < n ? mul(mul(x[row + i], scale), weight[i]) : 0.0f;
        put(y, i < n, row + i, out, largest);
    }
}

// What stands between gate and up: the numbers that `cuda/steps.rs` gives.
__device__ __forceinline__ float gated_by(unsigned kind, float gate, float up) {
    switch (kind) {
        case 0: return mul(silu(gate), up);
        case 1: return mul(gelu(gate), up);
        case 2: return mul(gelu_erf(gate), up);
        default: return swiglu_clamped(gate, up);
    }
}

// A row of `gate_up` holds n of the one, then n of the other.
extern "C" __global__ void __launch_bounds__(256)
    gated(const float* gate_up, unsigned n, unsigned kind, float* plain, int8_t* codes, float* scales, int8_t* k_codes,
          float* k_scales, short* k_sums) {
    __shared__ unsigned largest[8];
    Outputs out = {plain, codes, scales, k_codes, k_scales, k_sums};
    uint64_t from = (uint64_t)blockIdx.x * 2 * n, to = (uint64_t)blockIdx.x * n;
    EACH_OF_ROW(i, n) {
        float y = i < n ? gated_by(kind, gate_up[from + i], gate_up[from + n + i]) : 0.0f;
        put(y, i < n, to + i, out, largest);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    quantise(const float* x, unsigned n, int8_t* codes, float* scales, int8_t* k_codes, float* k_scales,
             short* k_sums) {
    __shared__ unsigned largest[8];
    Outputs out = {nullptr, codes, scales, k_codes, k_scales, k_sums};
    uint64_t row = (uint64_t)blockIdx.x * n;
    EACH_OF_ROW(i, n) put(x[row + i], true, row + i, out, largest);
}

// x = x + y. Grid: (elements / 256).
extern "C" __global__ void __launch_bounds__(256) residual(float* x, const float* y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = add(x[i], y[i]);
}

// x = most * tanh(x / most). Grid: (elements / 256).
extern "C" __global__ void __launch_bounds__(256) cap(float* x, float most, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = mul(most, tanh_f32(divide(x[i], most)));
}
