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
        scales[i % DEPTH][token] = inside ? x_scales[(uint64_t)(first + token) * blocks + block] : 0.0f;
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
        fetch(x_codes, x_scales, first, tokens, from, blocks, x, x_scale);
        __syncthreads();
        unsigned depth = blocks - from < DEPTH ? blocks - from : DEPTH;
        for (unsigned b = 0; mine && b < depth; b++) {
            uint64_t at = (uint64_t)group * blocks + from + b;
            int a[4];
            F::fragment(codes + at * F::PIECES * 64, g, t, a);
            float d0 = F::scale(scales[at * 16 + g]), d1 = F::scale(scales[at * 16 + g + 8]);
#pragma unroll
            for (int n = 0; n < TOKENS / 8; n++) {
                const int* v = x + (n * 8 + g) * STRIDE + b * 8 + t;
                int dot[4];
                dots_of_16_by_8(a, v[0], v[4], dot);
                float s0 = x_scale[b][n * 8 + t * 2], s1 = x_scale[b][n * 8 + t * 2 + 1];
                sums[n][0] = add(sums[n][0], mul(__int2float_rn(dot[0]), mul(d0, s0)));
                sums[n][1] = add(sums[n][1], mul(__int2float_rn(dot[1]), mul(d0, s1)));
                sums[n][2] = add(sums[n][2], mul(__int2float_rn(dot[2]), mul(d1, s0)));
                sums[n][3] = add(sums[n][3], mul(__int2float_rn(dot[3]), mul(d1, s1)));
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
        __shared__ float x_scale[DEPTH][TOKENS];                                                                   \
        in_tiles<format>(codes, scales, rows, blocks, x_codes, x_scales, tokens, bias, out, out_stride, x,         \
                         x_scale);                                                                                 \
    }

IN_TILES(linear_q8_tiles, EightBits)
IN_TILES(linear_q4_tiles, Q4)
IN_TILES(linear_mx_tiles, Mx)
IN_TILES(linear_nl_tiles, Nl)
