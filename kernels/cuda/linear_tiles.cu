// Linear layers with weights in blocks of 32 for many tokens: exact dots of blocks on
// int8 tensor cores, added in order of K by the thread that owns the output.
//
// A block of threads owns 64 rows (a group of sixteen for each warp) and 64 tokens, whose
// codes it shares through shared memory. One `mma` makes the dots of 16 rows with 8
// tokens; each thread then adds its four with one multiplication of scales, one product
// and one addition, as NUMERICS.md writes. Layouts as in `linear_blocks.cu`.
// Grid: (groups / 4, tokens / 64), 128 threads. Called by `cuda/linear.rs`.
#include "common.cuh"
#include "blocks.cuh"

#define TOKENS 64
// Blocks of K whose activations are in shared memory at once.
#define DEPTH 4
// Words of one token there, and four more, so that eight tokens meet 32 banks.
#define STRIDE (DEPTH * 8 + 4)

// Codes and scales of all tokens for the blocks `from ..`; zero beyond the last of each.
// With `MINIMA`, behind the scales: the sums of the blocks' codes, times their scales.
template <bool MINIMA>
__device__ __forceinline__ void fetch(const int4* x_codes, const float* x_scales, unsigned first, unsigned tokens,
                                      unsigned from, unsigned blocks, int* codes, float (*scales)[TOKENS]) {
    for (unsigned i = threadIdx.x; i < TOKENS * DEPTH * 2; i += blockDim.x) {
        unsigned token = i / (DEPTH * 2), piece = i % (DEPTH * 2), block = from + piece / 2;
        int4 v = {0, 0, 0, 0};
        if (first + token < tokens && block < blocks)
            v = x_codes[((uint64_t)(first + token) * blocks + block) * 2 + piece % 2];
        *(int4*)(codes + token * STRIDE + piece * 4) = v;
    }
    for (unsigned i = threadIdx.x; i < TOKENS * DEPTH; i += blockDim.x) {
        unsigned token = i / DEPTH, block = from + i % DEPTH;
        bool inside = first + token < tokens && block < blocks;
        uint64_t at = (uint64_t)(first + token) * blocks + block;
        float scale = inside ? x_scales[at] : 0.0f;
        scales[i % DEPTH][token] = scale;
        if (MINIMA) {
            int sum = inside ? sum_of_codes(x_codes[at * 2], x_codes[at * 2 + 1]) : 0;
            scales[DEPTH + i % DEPTH][token] = mul(__int2float_rn(sum), scale);
        }
    }
}

template <class F>
__device__ __forceinline__ void in_tiles(const int* codes, const half_bits* scales, unsigned rows, unsigned blocks,
                                         const int4* x_codes, const float* x_scales, unsigned tokens,
                                         const float* bias, float* out, unsigned out_stride, int* x,
                                         float (*x_scale)[TOKENS]) {
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    unsigned group = blockIdx.x * 4 + warp, first = blockIdx.y * TOKENS;
    bool mine = group * 16 < rows;
    float sums[TOKENS / 8][4];
#pragma unroll
    for (int n = 0; n < TOKENS / 8; n++)
        for (int i = 0; i < 4; i++) sums[n][i] = 0.0f;
    for (unsigned from = 0; from < blocks; from += DEPTH) {
        __syncthreads();
        fetch<F::MINIMA>(x_codes, x_scales, first, tokens, from, blocks, x, x_scale);
        __syncthreads();
        unsigned depth = blocks - from < DEPTH ? blocks - from : DEPTH;
        for (unsigned b = 0; mine && b < depth; b++) {
            uint64_t at = (uint64_t)group * blocks + from + b;
            int a[4];
            F::fragment(codes + at * F::PIECES * 64, g, t, a);
            const half_bits* at_d = scales + at * (F::MINIMA ? 32 : 16) + g;
            float d0 = F::scale(at_d[0]), d1 = F::scale(at_d[8]);
            float m0 = F::MINIMA ? widen(at_d[16]) : 0.0f, m1 = F::MINIMA ? widen(at_d[24]) : 0.0f;
#pragma unroll
            for (int n = 0; n < TOKENS / 8; n++) {
                const int* v = x + (n * 8 + g) * STRIDE + b * 8 + t;
                int dot[4];
                dots_of_16_by_8(a, v[0], v[4], dot);
                float s0 = x_scale[b][n * 8 + t * 2], s1 = x_scale[b][n * 8 + t * 2 + 1];
                float terms[4] = {mul(__int2float_rn(dot[0]), mul(d0, s0)), mul(__int2float_rn(dot[1]), mul(d0, s1)),
                                  mul(__int2float_rn(dot[2]), mul(d1, s0)), mul(__int2float_rn(dot[3]), mul(d1, s1))};
                if (F::MINIMA) {
                    float c0 = x_scale[DEPTH + b][n * 8 + t * 2], c1 = x_scale[DEPTH + b][n * 8 + t * 2 + 1];
                    terms[0] = add(terms[0], mul(m0, c0)), terms[1] = add(terms[1], mul(m0, c1));
                    terms[2] = add(terms[2], mul(m1, c0)), terms[3] = add(terms[3], mul(m1, c1));
                }
                for (int i = 0; i < 4; i++) sums[n][i] = add(sums[n][i], terms[i]);
            }
        }
    }
    if (!mine) return;
#pragma unroll
    for (int n = 0; n < TOKENS / 8; n++)
        for (int i = 0; i < 4; i++) {
            unsigned row = group * 16 + g + i / 2 * 8, token = first + n * 8 + t * 2 + i % 2;
            if (row < rows && token < tokens)
                out[(uint64_t)token * out_stride + row] = bias ? add(sums[n][i], bias[row]) : sums[n][i];
        }
}

#define IN_TILES(name, format)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                              \
        name(const int* codes, const half_bits* scales, unsigned rows, unsigned blocks, const int4* x_codes,       \
             const float* x_scales, unsigned tokens, const float* bias, float* out, unsigned out_stride) {         \
        __shared__ __align__(16) int x[TOKENS * STRIDE];                                                           \
        __shared__ float x_scale[format::MINIMA ? 2 * DEPTH : DEPTH][TOKENS];                                                                   \
        in_tiles<format>(codes, scales, rows, blocks, x_codes, x_scales, tokens, bias, out, out_stride, x,         \
                         x_scale);                                                                                 \
    }

IN_TILES(linear_q8_tiles, EightBits)
IN_TILES(linear_q4_tiles, Q4)
IN_TILES(linear_mx_tiles, Mx)
IN_TILES(linear_nl_tiles, Nl)
IN_TILES(linear_q4_min_tiles, Q4Min)
IN_TILES(linear_q5_min_tiles, Q5Min)
