// Linear layers with Q8_0 weights: exact dots of blocks of 32, added in order of K.
//
// A block of threads owns sixteen rows. Each half warp takes one quantisation block,
// each lane one row, so that loads are 256 bytes in a row; the products of sixteen
// quantisation blocks meet in shared memory, where one thread per (row, token) adds
// them in order. The order is that of NUMERICS.md whatever the grid, so decoding
// and prefilling give the same bits as a CPU.
//
// Weights: codes `[group of 16 rows][block of K][half][row][16 bytes]`, signed, and
// scales `[group][block][row]` in f16. Activations: codes `[token][block][32]`, scales
// `[token][block]`. A bias, where there is one, is added last. Grid: (groups, tokens /
// tile), 128 threads. Called by `cuda/linear.rs`.
#include "common.cuh"

#define WARPS 4
// Blocks of K per step: every half warp takes two.
#define STEP 16

template <int TILE>
__device__ __forceinline__ void q8(const int4* codes, const half_bits* scales, unsigned rows, unsigned blocks,
                                   const int4* x_codes, const float* x_scales, unsigned tokens, const float* bias,
                                   float* out, unsigned out_stride, float (*terms)[TILE][STEP][16]) {
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned row = lane % 16, half = lane / 16, group = blockIdx.x;
    unsigned first = blockIdx.y * TILE;
    unsigned count = tokens - first < TILE ? tokens - first : TILE;
    unsigned sum_token = threadIdx.x / 16;
    float sum = 0.0f;
    for (unsigned from = 0, turn = 0; from < blocks; from += STEP, turn ^= 1) {
        // Two blocks of terms, used in turns: one barrier per step is enough.
        for (unsigned u = 0; u < STEP / (2 * WARPS); u++) {
            unsigned at = (u * WARPS + warp) * 2 + half, block = from + at;
            if (block >= blocks) continue;
            const int4* w = codes + ((uint64_t)group * blocks + block) * 32 + row;
            int4 low = w[0], high = w[16];
            float d = widen(scales[((uint64_t)group * blocks + block) * 16 + row]);
            for (unsigned t = 0; t < count; t++) {
                uint64_t at_x = (uint64_t)(first + t) * blocks + block;
                int4 a = x_codes[at_x * 2], b = x_codes[at_x * 2 + 1];
                int dot = __dp4a(low.x, a.x, 0);
                dot = __dp4a(low.y, a.y, dot);
                dot = __dp4a(low.z, a.z, dot);
                dot = __dp4a(low.w, a.w, dot);
                dot = __dp4a(high.x, b.x, dot);
                dot = __dp4a(high.y, b.y, dot);
                dot = __dp4a(high.z, b.z, dot);
                dot = __dp4a(high.w, b.w, dot);
                terms[turn][t][at][row] = mul(__int2float_rn(dot), mul(d, x_scales[at_x]));
            }
        }
        __syncthreads();
        if (sum_token < count) {
            unsigned n = blocks - from < STEP ? blocks - from : STEP;
            for (unsigned i = 0; i < n; i++) sum = add(sum, terms[turn][sum_token][i][threadIdx.x % 16]);
        }
    }
    unsigned at = group * 16 + threadIdx.x % 16;
    if (sum_token < count && at < rows)
        out[(uint64_t)(first + sum_token) * out_stride + at] = bias ? add(sum, bias[at]) : sum;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    linear_q8_one(const int4* codes, const half_bits* scales, unsigned rows, unsigned blocks, const int4* x_codes,
                  const float* x_scales, unsigned tokens, const float* bias, float* out, unsigned out_stride) {
    __shared__ float terms[2][1][STEP][16];
    q8<1>(codes, scales, rows, blocks, x_codes, x_scales, tokens, bias, out, out_stride, terms);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    linear_q8_eight(const int4* codes, const half_bits* scales, unsigned rows, unsigned blocks, const int4* x_codes,
                    const float* x_scales, unsigned tokens, const float* bias, float* out, unsigned out_stride) {
    __shared__ float terms[2][8][STEP][16];
    q8<8>(codes, scales, rows, blocks, x_codes, x_scales, tokens, bias, out, out_stride, terms);
}
