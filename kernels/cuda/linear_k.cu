// Linear layers with K-quants (Q4_K, Q5_K, Q6_K) and IQ4_XS: super-blocks of 256, exact in
// i32 with their scales and minima, then one step in f32 each, added in order of K.
//
// As `linear_blocks.cu`: a block of threads owns sixteen rows, each lane of a half warp is a
// row, each half warp takes one super-block; products meet in shared memory, where one
// thread per (row, token) adds them in order.
//
// Weights, per group of sixteen rows and super-block, each piece `[row][16 bytes]`:
// eight pieces of low nibbles (sub-block j of 32: nibble n of byte i is element 16 n + i),
// then for Q5_K two pieces of fifth bits (word j: bit 8 i + w is that of element 4 w + i),
// for Q6_K four of fifth and sixth bits (sub-block j has words 2 j and 2 j + 1: bits
// 8 i + 2 w and 8 i + 2 w + 1 are those of element 4 w + i of a half), then one piece of
// scales: eight and eight minima, or sixteen; for IQ4_XS eight. `d` holds
// `[group][super-block][row]` pairs of f16: the scale and the minimum (0 for Q6_K and
// IQ4_XS).
//
// Activations: codes `[token][super-block][256]`, scales `[token][super-block]`, sums of
// each sixteen codes. For experts: `Chosen` of `common.cuh`. Grid: (groups, tokens / tile), 128 threads. Called by
// `cuda/linear.rs`.
#include "common.cuh"
#include "blocks.cuh"

// Super-blocks per step: one for each half warp.
#define K_STEP 8

__device__ __forceinline__ int word(const int4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
// Byte `i` of sixteen, unsigned or signed.
__device__ __forceinline__ int byte_of(const int4& v, int i) { return word(v, i / 4) >> 8 * (i % 4) & 255; }
__device__ __forceinline__ int signed_byte_of(const int4& v, int i) { return (int)(int8_t)byte_of(v, i); }

// What scales are of: unsigned codes of 32, with minima; codes less 32, of sixteen; numbers
// of the table T, of 32.
enum Scales { MINIMA, LESS_32, TABLE };

// How a format's upper bits are read: word `w` (four elements) of sub-block `j`.
struct FourBits {
    static const int PIECES = 0;
    static const Scales SCALES = MINIMA;
    __device__ __forceinline__ void load(const int4*) {}
    __device__ __forceinline__ int high(int, int) const { return 0; }
};

// IQ4_XS: four bits that name a number.
struct Named : FourBits {
    static const Scales SCALES = TABLE;
};

struct FiveBits {
    static const int PIECES = 2;
    static const Scales SCALES = MINIMA;
    int4 bits[2];
    __device__ __forceinline__ void load(const int4* pieces) {
        for (int p = 0; p < 2; p++) bits[p] = pieces[p * 16];
    }
    __device__ __forceinline__ int high(int j, int w) const {
        return (word(bits[j / 4], j % 4) >> w & 0x01010101) << 4;
    }
};

struct SixBits {
    static const int PIECES = 4;
    static const Scales SCALES = LESS_32;
    int4 bits[4];
    __device__ __forceinline__ void load(const int4* pieces) {
        for (int p = 0; p < 4; p++) bits[p] = pieces[p * 16];
    }
    __device__ __forceinline__ int high(int j, int w) const {
        return (word(bits[j / 2], j % 2 * 2 + w / 4) >> 2 * (w % 4) & 0x03030303) << 4;
    }
};

struct Codes {
    const int4* codes;
    const float* scales;
    const short* sums;
};

// One sub-block of 32 with one token: scales and minima applied, in i32.
template <class F>
__device__ __forceinline__ void sub_block(const int (&w)[8], const int4& scale, int j, const int4* x,
                                          const short* sums, int& dot, int& minimum) {
    int4 a = x[2 * j], b = x[2 * j + 1];
    int low = 0, high = 0;
    for (int i = 0; i < 4; i++) {
        low = dot_of_4(w[i], word(a, i), low);
        high = dot_of_4(w[4 + i], word(b, i), high);
    }
    int s0 = sums[2 * j], s1 = sums[2 * j + 1];
    if (F::SCALES == TABLE) {
        dot += signed_byte_of(scale, j) * (low + high);
    } else if (F::SCALES == LESS_32) {
        dot += signed_byte_of(scale, 2 * j) * (low - 32 * s0) + signed_byte_of(scale, 2 * j + 1) * (high - 32 * s1);
    } else {
        dot += byte_of(scale, j) * (low + high);
        minimum += byte_of(scale, 8 + j) * (s0 + s1);
    }
}

template <class F, int TILE>
__device__ __forceinline__ void k_quant(const int4* codes, const unsigned* d, unsigned rows, unsigned blocks,
                                        const Codes& x, unsigned tokens, const float* bias, float* out,
                                        unsigned out_stride, const unsigned* chosen, unsigned sharing,
                                        float (*terms)[TILE][K_STEP][16]) {
    const unsigned PIECES = 8 + F::PIECES + 1;
    unsigned row = threadIdx.x % 16, mine = threadIdx.x / 16, group = blockIdx.x;
    unsigned first = blockIdx.y * TILE;
    unsigned count = tokens - first < TILE ? tokens - first : TILE;
    Chosen c = choice<TILE>(chosen, sharing, first);
    float sum = 0.0f;
    for (unsigned from = 0, turn = 0; from < blocks; from += K_STEP, turn ^= 1) {
        unsigned block = from + mine;
        if (block < blocks) {
            uint64_t at = (c.group + group) * blocks + block;
            const int4* pieces = codes + at * PIECES * 16 + row;
            F upper;
            upper.load(pieces + 8 * 16);
            int4 scale = pieces[(PIECES - 1) * 16];
            int dot[TILE], minimum[TILE];
#pragma unroll
            for (int t = 0; t < TILE; t++) dot[t] = minimum[t] = 0;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                int4 nibbles = pieces[j * 16];
                int w[8];
                for (int i = 0; i < 4; i++) {
                    if (F::SCALES == TABLE) {
                        TableT::numbers(word(nibbles, i), w[i], w[4 + i]);
                        continue;
                    }
                    w[i] = (word(nibbles, i) & 0x0f0f0f0f) | upper.high(j, i);
                    w[4 + i] = (word(nibbles, i) >> 4 & 0x0f0f0f0f) | upper.high(j, 4 + i);
                }
#pragma unroll
                for (int t = 0; t < TILE; t++) {
                    if (t >= (int)count) continue;
                    uint64_t at_x = (uint64_t)(c.x + t) * blocks + block;
                    sub_block<F>(w, scale, j, x.codes + at_x * 16, x.sums + at_x * 16, dot[t], minimum[t]);
                }
            }
            float scale_w = widen((half_bits)(d[at * 16 + row] & 0xffff)), min_w = widen((half_bits)(d[at * 16 + row] >> 16));
#pragma unroll
            for (int t = 0; t < TILE; t++) {
                if (t >= (int)count) continue;
                float scale_x = x.scales[(uint64_t)(c.x + t) * blocks + block];
                float term = mul(__int2float_rn(dot[t]), mul(scale_w, scale_x));
                if (F::SCALES == MINIMA) term = sub(term, mul(__int2float_rn(minimum[t]), mul(min_w, scale_x)));
                terms[turn][t][mine][row] = term;
            }
        }
        __syncthreads();
        if (mine < count) {
            unsigned n = blocks - from < K_STEP ? blocks - from : K_STEP;
            for (unsigned i = 0; i < n; i++) sum = add(sum, terms[turn][mine][i][row]);
        }
    }
    unsigned at = group * 16 + row;
    if (mine < count && at < rows)
        out[(uint64_t)(first + mine) * out_stride + at] = bias ? add(sum, bias[(uint64_t)c.expert * rows + at]) : sum;
}

#define K_QUANT(name, format, tile)                                                                                \
    /* So many blocks at once: registers enough to spill none. */                                                  \
    extern "C" __global__ void __launch_bounds__(128, 4)                                                          \
        name(const int4* codes, const unsigned* d, unsigned rows, unsigned blocks, const int4* x_codes,            \
             const float* x_scales, const short* x_sums, unsigned tokens, const float* bias, float* out,           \
             unsigned out_stride, const unsigned* chosen, unsigned sharing) {                                      \
        __shared__ float terms[2][tile][K_STEP][16];                                                               \
        Codes x = {x_codes, x_scales, x_sums};                                                                     \
        k_quant<format, tile>(codes, d, rows, blocks, x, tokens, bias, out, out_stride, chosen, sharing, terms);   \
    }

K_QUANT(linear_q4_k_one, FourBits, 1)
K_QUANT(linear_q4_k_eight, FourBits, 8)
K_QUANT(linear_q5_k_one, FiveBits, 1)
K_QUANT(linear_q5_k_eight, FiveBits, 8)
K_QUANT(linear_q6_k_one, SixBits, 1)
K_QUANT(linear_q6_k_eight, SixBits, 8)
K_QUANT(linear_iq4_xs_one, Named, 1)
K_QUANT(linear_iq4_xs_eight, Named, 8)
