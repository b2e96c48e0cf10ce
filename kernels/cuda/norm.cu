// RMS norm of rows, gates and plain rows, each with the quantisation of its result in
// the same pass, so that activations cross memory once; and two elementwise steps.
//
// Every kernel writes f32 where `out` is not null and Q8 codes with their scales where
// `codes` is not null (rows of a multiple of 32). Grid: (rows), 256 threads, and for
// `rms_norm` 4 bytes of shared memory per element of a row; `out` may be `x`. Called by `cuda/steps.rs`.
#include "common.cuh"

// Quantise element `i`, held by this lane; a warp holds one block of 32.
__device__ __forceinline__ void quantise_block(float y, uint64_t i, int8_t* codes, float* scales) {
    Quantiser q = quantiser(largest_of_warp(__float_as_uint(y) & 0x7fffffffu));
    codes[i] = code(q, y);
    if (i % 32 == 0) scales[i / 32] = q.scale;
}

// Whole warps run through a row: a lane beyond its end still takes part in shuffles.
#define EACH_OF_ROW(i, n) for (unsigned i = threadIdx.x; i < ((n) + 31) / 32 * 32; i += blockDim.x)

extern "C" __global__ void __launch_bounds__(256)
    rms_norm(const float* x, const float* weight, unsigned n, float epsilon, float* out, int8_t* codes,
             float* scales) {
    DYNAMIC_SHARED(shared);
    __shared__ float scale;
    float* squares = (float*)shared;
    uint64_t row = (uint64_t)blockIdx.x * n;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) squares[i] = mul(x[row + i], x[row + i]);
    __syncthreads();
    if (threadIdx.x < 32) {
        float sum = strided_sum(squares, n);
        if (threadIdx.x == 0) scale = divide(1.0f, __fsqrt_rn(add(divide(sum, (float)n), epsilon)));
    }
    __syncthreads();
    EACH_OF_ROW(i, n) {
        float y = i < n ? mul(mul(x[row + i], scale), weight[i]) : 0.0f;
        if (out && i < n) out[row + i] = y;
        if (codes) quantise_block(y, row + i, codes, scales);
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
    gated(const float* gate_up, unsigned n, unsigned kind, float* out, int8_t* codes, float* scales) {
    uint64_t from = (uint64_t)blockIdx.x * 2 * n, to = (uint64_t)blockIdx.x * n;
    EACH_OF_ROW(i, n) {
        float y = i < n ? gated_by(kind, gate_up[from + i], gate_up[from + n + i]) : 0.0f;
        if (out && i < n) out[to + i] = y;
        if (codes) quantise_block(y, to + i, codes, scales);
    }
}

extern "C" __global__ void __launch_bounds__(256) quantise(const float* x, unsigned n, int8_t* codes, float* scales) {
    uint64_t row = (uint64_t)blockIdx.x * n;
    EACH_OF_ROW(i, n) quantise_block(x[row + i], row + i, codes, scales);
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
