// Weights in blocks of 32: how the codes of a format become eight-bit integers, and what
// its scales are. For `linear_blocks.cu` and `linear_tiles.cu`; no arithmetic in floats.
//
// Per group of sixteen rows and block, Q8_0 holds `[half][row][16 bytes]`, a code each
// (Q5_0 and Q5_1 likewise); the others `[row][16 bytes]`, byte j with the code of element
// j in its lower half and that of element j + 16 in its upper half, as in a file. MXFP4
// and IQ4_NL name one of sixteen numbers; NUMERICS.md has the tables U and T.
#pragma once

// Eight bits: the codes are the numbers.
struct EightBits {
    static const unsigned PIECES = 2;  // Of sixteen rows by sixteen bytes.
    static const bool MINIMA = false;
    __device__ __forceinline__ static float scale(unsigned short bits) { return widen(bits); }
    // The 32 numbers of a row as eight words, where `at` is the row's first piece.
    __device__ __forceinline__ static void words(const int4* at, int (&w)[8]) {
        int4 low = at[0], high = at[16];
        w[0] = low.x, w[1] = low.y, w[2] = low.z, w[3] = low.w;
        w[4] = high.x, w[5] = high.y, w[6] = high.z, w[7] = high.w;
    }
    // The words t and t + 4 of the rows g and g + 8, as `dots_of_16_by_8` takes them.
    __device__ __forceinline__ static void fragment(const int* block, unsigned g, unsigned t, int (&a)[4]) {
        const int* w = block + g * 4 + t;
        a[0] = w[0], a[1] = w[32], a[2] = w[64], a[3] = w[96];
    }
};

// Four bits: `N` makes two words of numbers out of a word of codes.
template <class N>
struct FourBitsEach {
    static const unsigned PIECES = 1;
    static const bool MINIMA = false;
    __device__ __forceinline__ static float scale(unsigned short bits) { return N::scale(bits); }
    __device__ __forceinline__ static void words(const int4* at, int (&w)[8]) {
        int4 codes = at[0];
        N::numbers(codes.x, w[0], w[4]);
        N::numbers(codes.y, w[1], w[5]);
        N::numbers(codes.z, w[2], w[6]);
        N::numbers(codes.w, w[3], w[7]);
    }
    __device__ __forceinline__ static void fragment(const int* block, unsigned g, unsigned t, int (&a)[4]) {
        const int* w = block + g * 4 + t;
        N::numbers(w[0], a[0], a[2]);
        N::numbers(w[32], a[1], a[3]);
    }
};

// Q4_0: each code less 8. 128 added and taken away again keeps bytes from borrowing.
struct LessEight {
    __device__ __forceinline__ static float scale(unsigned short bits) { return widen(bits); }
    __device__ __forceinline__ static int less(unsigned codes) {
        return (int)((((codes & 0x0f0f0f0fu) | 0x80808080u) - 0x08080808u) ^ 0x80808080u);
    }
    __device__ __forceinline__ static void numbers(int codes, int& low, int& high) {
        low = less((unsigned)codes);
        high = less((unsigned)codes >> 4);
    }
};

// Q4_1: each code.
struct Itself {
    __device__ __forceinline__ static float scale(unsigned short bits) { return widen(bits); }
    __device__ __forceinline__ static void numbers(int codes, int& low, int& high) {
        low = codes & 0x0f0f0f0f;
        high = codes >> 4 & 0x0f0f0f0f;
    }
};

// A format of which each block has a minimum: sixteen more f16, behind the scales.
template <class F>
struct WithMinima : F {
    static const bool MINIMA = true;
};

// The sum of the codes of a block.
__device__ __forceinline__ int sum_of_codes(const int4& a, const int4& b) {
    const int ones = 0x01010101;
    int sum = dot_of_4(ones, a.x, 0);
    sum = dot_of_4(ones, a.y, sum);
    sum = dot_of_4(ones, a.z, sum);
    sum = dot_of_4(ones, a.w, sum);
    sum = dot_of_4(ones, b.x, sum);
    sum = dot_of_4(ones, b.y, sum);
    sum = dot_of_4(ones, b.z, sum);
    return dot_of_4(ones, b.w, sum);
}

// A table of sixteen bytes in four words, and scales in bf16 or f16.
template <unsigned A, unsigned B, unsigned C, unsigned D, bool BRAIN>
struct Looked {
    __device__ __forceinline__ static float scale(unsigned short bits) {
        return BRAIN ? widen_brain(bits) : widen(bits);
    }
    // The numbers of four codes: each half of the table gives one, bit 3 chooses.
    __device__ __forceinline__ static unsigned four(unsigned codes) {
        unsigned at = codes & 0x7777u;
        return __byte_perm(__byte_perm(A, B, at), __byte_perm(C, D, at), 0x3210u | (codes & 0x8888u) >> 1);
    }
    __device__ __forceinline__ static void numbers(int codes, int& low, int& high) {
        // Elements 0, 16, 1, 17 and 2, 18, 3, 19 of the word's.
        unsigned first = four((unsigned)codes & 0xffffu), last = four((unsigned)codes >> 16);
        low = (int)__byte_perm(first, last, 0x6420u);
        high = (int)__byte_perm(first, last, 0x7531u);
    }
};

typedef FourBitsEach<LessEight> Q4;
typedef FourBitsEach<Looked<0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu, true>> Mx;
typedef Looked<0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u, false> TableT;
typedef FourBitsEach<TableT> Nl;
typedef WithMinima<FourBitsEach<Itself>> Q4Min;
typedef WithMinima<EightBits> Q5Min;
