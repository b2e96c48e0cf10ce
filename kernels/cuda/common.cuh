// What all kernels share: arithmetic that no compiler may contract or reorder, and
// the elementary functions and sums of NUMERICS.md, operation by operation.
//
// Compiled by NVRTC and, through `emulation.h`, by any C++17 compiler. Inline assembly
// stands only here, each piece beside its body for the CPU.
#pragma once
#ifdef EMULATION
#include "emulation.h"
#else
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#endif

typedef unsigned short half_bits;

#ifdef EMULATION
#define DYNAMIC_SHARED(name) unsigned char* name = emulation::dynamic_bytes.data()
#else
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#define ALL_LANES 0xffffffffu

// The names say "rounded once": a + b * c is add(a, mul(b, c)), two roundings.
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
__device__ __forceinline__ double sub(double a, double b) { return __dsub_rn(a, b); }
__device__ __forceinline__ double divide(double a, double b) { return __ddiv_rn(a, b); }

// f16 to f32, exact.
__device__ __forceinline__ float widen(half_bits half) {
#ifdef EMULATION
    return __uint_as_float(emulated_widen(half));
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(half));
    return wide;
#endif
}

// `sum` plus the products of four signed bytes each. NVRTC 12.1 declares `__dp4a` and
// leaves it to be linked.
__device__ __forceinline__ int dot_of_4(int a, int b, int sum) {
#ifdef EMULATION
    return __dp4a(a, b, sum);
#else
    int out;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(sum));
    return out;
#endif
}

// bf16 to f32, exact.
__device__ __forceinline__ float widen_brain(unsigned short brain) {
    return __uint_as_float((unsigned)brain << 16);
}

// f32 to f16: clamped to the finite range, then to nearest even.
__device__ __forceinline__ half_bits narrow(float x) {
    x = x > 65504.0f ? 65504.0f : x;
    x = x < -65504.0f ? -65504.0f : x;
#ifdef EMULATION
    return emulated_narrow(x);
#else
    half_bits half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
#endif
}

#define ROUND_F32 12582912.0f
#define ROUND_F64 6755399441055744.0

// "exp" of NUMERICS.md.
__device__ __forceinline__ float exp_f32(float x) {
    bool small = x < -87.0f;
    x = x > 88.0f ? 88.0f : x;
    x = small ? -87.0f : x;
    float rounded = add(mul(x, 1.44269504f), ROUND_F32);
    float n = sub(rounded, ROUND_F32);
    float r = sub(x, mul(n, 0.693359375f));
    r = sub(r, mul(n, -2.1219444e-4f));
    float p = 1.0f / 5040.0f;
    p = add(mul(p, r), 1.0f / 720.0f);
    p = add(mul(p, r), 1.0f / 120.0f);
    p = add(mul(p, r), 1.0f / 24.0f);
    p = add(mul(p, r), 1.0f / 6.0f);
    p = add(mul(p, r), 0.5f);
    p = add(mul(p, mul(r, r)), r);
    p = add(p, 1.0f);
    unsigned power = (__float_as_uint(rounded) - __float_as_uint(ROUND_F32) + 127u) << 23;
    float y = mul(p, __uint_as_float(power));
    return small ? 0.0f : y;
}

__device__ __forceinline__ float silu(float x) {
    return divide(x, add(1.0f, exp_f32(-x)));
}

__device__ __forceinline__ float tanh_f32(float x) {
    return sub(1.0f, divide(2.0f, add(exp_f32(mul(2.0f, x)), 1.0f)));
}

// "gelu" of NUMERICS.md: the tanh form.
__device__ __forceinline__ float gelu(float x) {
    float u = mul(x, add(1.595769f, mul(0.071354814f, mul(x, x))));
    return divide(x, add(1.0f, exp_f32(-u)));
}

// "gelu_erf" of NUMERICS.md.
__device__ __forceinline__ float gelu_erf(float x) {
    float z = mul(x < 0.0f ? -x : x, 0.70710678f);
    float t = divide(1.0f, add(1.0f, mul(0.3275911f, z)));
    float p = 1.0614054f;
    p = sub(mul(p, t), 1.453152f);
    p = add(mul(p, t), 1.4214137f);
    p = sub(mul(p, t), 0.28449674f);
    p = add(mul(p, t), 0.2548296f);
    float tail = mul(0.5f, mul(mul(p, t), exp_f32(-mul(z, z))));
    return x < 0.0f ? mul(x, tail) : sub(x, mul(x, tail));
}

// The clamped gate of NUMERICS.md.
__device__ __forceinline__ float swiglu_clamped(float gate, float up) {
    float g = gate > 7.0f ? 7.0f : gate;
    float u = up > 7.0f ? 7.0f : up;
    u = u < -7.0f ? -7.0f : u;
    return mul(divide(g, add(1.0f, exp_f32(mul(-1.702f, g)))), add(u, 1.0f));
}

// "exp64" of NUMERICS.md.
__device__ __forceinline__ double exp_f64(double x) {
    double n = sub(add(mul(x, 1.4426950408889634), ROUND_F64), ROUND_F64);
    double r = sub(sub(x, mul(n, 6.93147180369123816490e-1)), mul(n, 1.90821492927058770002e-10));
    double p = 1.0;
    for (int i = 14; i > 0; i--) p = add(mul(p, divide(r, (double)i)), 1.0);
    return mul(p, __longlong_as_double(((long long)n + 1023) << 52));
}

// "ln64" of NUMERICS.md.
__device__ __forceinline__ double ln_f64(double x) {
    long long bits = __double_as_longlong(x);
    double exponent = (double)((bits >> 52) - 1023);
    double m = __longlong_as_double((bits & 0x000fffffffffffffLL) | 0x3ff0000000000000LL);
    if (m > 1.4142135623730951) {
        m = mul(m, 0.5);
        exponent = add(exponent, 1.0);
    }
    double s = divide(sub(m, 1.0), add(m, 1.0));
    double z = mul(s, s);
    double p = 0.0;
    for (int i = 27; i > 0; i -= 2) p = add(mul(p, z), divide(1.0, (double)i));
    double low = add(mul(mul(2.0, s), p), mul(exponent, 1.90821492927058770002e-10));
    return add(mul(exponent, 6.93147180369123816490e-1), low);
}

// The tree over sixteen numbers, one in each of the first sixteen lanes of a warp; the
// result is in lane 0. All 32 lanes call it.
__device__ __forceinline__ float tree_of_lanes(float s) {
    for (unsigned width = 8; width > 0; width /= 2) s = add(s, __shfl_down_sync(ALL_LANES, s, width));
    return s;
}

// The strided sum of x[0..n] in shared memory, by one whole warp; the result is in lane 0.
__device__ __forceinline__ float strided_sum(const float* x, unsigned n) {
    unsigned lane = threadIdx.x % 32;
    float s = 0.0f;
    if (lane < 16)
        for (unsigned i = lane; i < n; i += 16) s = add(s, x[i]);
    return tree_of_lanes(s);
}

// One activation to eight bits: its block's largest magnitude (as bits, so that NaN
// wins) gives scale and code. "Linear layers" of NUMERICS.md.
struct Quantiser {
    float inverse, scale;
    bool zero;
};

__device__ __forceinline__ Quantiser quantiser(unsigned magnitude) {
    Quantiser q;
    float largest = __uint_as_float(magnitude);
    bool finite = magnitude < 0x7f800000u;
    q.zero = largest < 1e-30f || !finite;
    q.scale = finite ? (largest < 1e-30f ? 0.0f : divide(largest, 127.0f)) : __uint_as_float(0x7fc00000u);
    q.inverse = q.zero ? 0.0f : divide(127.0f, largest);
    return q;
}

__device__ __forceinline__ int8_t code(const Quantiser& q, float x) {
    if (q.zero) return 0;
    float rounded = add(mul(x, q.inverse), ROUND_F32);
    return (int8_t)(__float_as_uint(rounded) - __float_as_uint(ROUND_F32));
}

__device__ __forceinline__ unsigned largest_of_warp(unsigned value) {
    for (unsigned bits = 16; bits > 0; bits /= 2) {
        unsigned other = __shfl_xor_sync(ALL_LANES, value, bits);
        value = other > value ? other : value;
    }
    return value;
}

// Dots over 32 eight-bit elements of 16 rows with 8 columns, by a whole warp, exact in
// i32. With g = lane / 4 and t = lane % 4, a lane brings the words (four elements) t and
// t + 4 of rows g and g + 8 as (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), and of
// column g the words t and t + 4; it gets (g, 2 t), (g, 2 t + 1), (g + 8, 2 t),
// (g + 8, 2 t + 1). PTX: "Matrix fragments for mma.m16n8k32".
__device__ __forceinline__ void dots_of_16_by_8(const int (&a)[4], int b0, int b1, int (&dot)[4]) {
#ifdef EMULATION
    emulated_dots(a, b0, b1, dot);
#else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %10, %10, %10};"
        : "=r"(dot[0]), "=r"(dot[1]), "=r"(dot[2]), "=r"(dot[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
#endif
}

// Matrices of experts, one below the other, each of `gridDim.x` groups of sixteen rows.
// Where `chosen` is not null, tokens are choices, one to a block of threads: choice c
// takes the matrix and the bias of expert `chosen[c]`, and the activations of row
// c / sharing. Where it is null, there is one matrix.
struct Chosen {
    unsigned expert, x;
    uint64_t group;
};

template <int TILE>
__device__ __forceinline__ Chosen choice(const unsigned* chosen, unsigned sharing, unsigned first) {
    if (TILE > 1 || !chosen) return {0, first, 0};
    unsigned expert = chosen[first];
    return {expert, first / sharing, (uint64_t)expert * gridDim.x};
}
