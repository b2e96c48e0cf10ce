// Linear layers with weights in blocks of 32 (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4,
// IQ4_NL): exact dots of blocks, added in order of K.
//
// A block of threads owns sixteen rows. Each half warp takes one quantisation block,
// each lane one row, so that loads are 256 bytes in a row; the products of sixteen
// quantisation blocks meet in shared memory, where one thread per (row, token) adds
// them in order. The order is that of NUMERICS.md whatever the grid, so decoding
// and prefilling give the same bits as a CPU.
//
// Weights: codes `[group of 16 rows][block of K]` as `blocks.cuh` says, and scales
// `[group][block][row]`, sixteen bits each; with minima, `[group][block][2][row]`. Activations: codes `[token][block][32]`,
// scales `[token][block]`. A bias, where there is one, is added last. For experts:
// `Chosen` of `common.cuh`. Grid: (groups,
// tokens / tile), 128 threads. Called by `cuda/linear.rs`.
#include "common.cuh"
#include "blocks.cuh"

#define WARPS 4
// Blocks of K per step: every half warp takes two.
#define STEP 16

template <class F, int TILE>
__device__ __forceinline__ void in_blocks(const int4* codes, const half_bits* scales, unsigned rows, unsigned blocks,
                                   const int4* x_codes, const float* x_scales, unsigned tokens, const float* bias,
                                   float* out, unsigned out_stride, const unsigned* chosen, unsigned sharing,
                                          float (*terms)[TILE][STEP][16]) {
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned row = lane % 16, half = lane / 16, group = blockIdx.x;
    unsigned first = blockIdx.y * TILE;
    unsigned count = tokens - first < TILE ? tokens - first : TILE;
    unsigned sum_token = threadIdx.x / 16;
    Chosen c = choice<TILE>(chosen, sharing, first);
    float sum = 0.0f;
    for (unsigned from = 0, turn = 0; from < blocks; from += STEP, turn ^= 1) {
        // Two blocks of terms, used in turns: one barrier per step is enough.
        for (unsigned u = 0; u < STEP / (2 * WARPS); u++) {
            unsigned at = (u * WARPS + warp) * 2 + half, block = from + at;
            if (block >= blocks) continue;
            uint64_t at_w = (c.group + group) * blocks + block;
            int w[8];
            F::words(codes + at_w * F::PIECES * 16 + row, w);
            const half_bits* at_d = scales + at_w * (F::MINIMA ? 32 : 16) + row;
            float d = F::scale(at_d[0]), m = F::MINIMA ? widen(at_d[16]) : 0.0f;
            for (unsigned t = 0; t < count; t++) {
                uint64_t at_x = (uint64_t)(c.x + t) * blocks + block;
                int4 a = x_codes[at_x * 2], b = x_codes[at_x * 2 + 1];
                int dot = dot_of_4(w[0], a.x, 0);
                dot = dot_of_4(w[1], a.y, dot);
                dot = dot_of_4(w[2], a.z, dot);
                dot = dot_of_4(w[3], a.w, dot);
                dot = dot_of_4(w[4], b.x, dot);
                dot = dot_of_4(w[5], b.y, dot);
                dot = dot_of_4(w[6], b.z, dot);
                dot = dot_of_4(w[7], b.w, dot);
                float term = mul(__int2float_rn(dot), mul(d, x_scales[at_x]));
                if (F::MINIMA) term = add(term, mul(m, mul(__int2float_rn(sum_of_codes(a, b)), x_scales[at_x])));
                terms[turn][t][at][row] = term;
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
        out[(uint64_t)(first + sum_token) * out_stride + at] = bias ? add(sum, bias[(uint64_t)c.expert * rows + at]) : sum;
}

#define IN_BLOCKS(name, format, tile)                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS)                                                       \
        name(const int4* codes, const half_bits* scales, unsigned rows, unsigned blocks, const int4* x_codes,      \
             const float* x_scales, unsigned tokens, const float* bias, float* out, unsigned out_stride,           \
             const unsigned* chosen, unsigned sharing) {                                                           \
        __shared__ float terms[2][tile][STEP][16];                                                                 \
        in_blocks<format, tile>(codes, scales, rows, blocks, x_codes, x_scales, tokens, bias, out, out_stride,     \
                                chosen, sharing, terms);                                                           \
    }

IN_BLOCKS(linear_q8_one, EightBits, 1)
IN_BLOCKS(linear_q8_eight, EightBits, 8)
IN_BLOCKS(linear_q4_one, Q4, 1)
IN_BLOCKS(linear_q4_eight, Q4, 8)
IN_BLOCKS(linear_mx_one, Mx, 1)
IN_BLOCKS(linear_mx_eight, Mx, 8)
IN_BLOCKS(linear_nl_one, Nl, 1)
IN_BLOCKS(linear_nl_eight, Nl, 8)
IN_BLOCKS(linear_q4_min_one, Q4Min, 1)
IN_BLOCKS(linear_q4_min_eight, Q4Min, 8)
IN_BLOCKS(linear_q5_min_one, Q5Min, 1)
IN_BLOCKS(linear_q5_min_eight, Q5Min, 8)
