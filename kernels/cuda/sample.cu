// From logits to what a host needs of them: the 64 largest, exactly in the order of the
// digest; where a rule asks for it, the token that noise chooses among all; and the sum
// of all probabilities, for a host that cuts them off. "Sampling" of NUMERICS.md.
//
// A logit is a key of 64 bits, larger for larger logits and, among equals, for lower ids,
// so that any sort gives the one order. A logit that is not finite has the largest key of
// all. Parts of a row are sorted side by side, then the first 64 of each, until one part
// is left. Called by `cuda/sample.rs`.
#include "common.cuh"

#define TOP 64
// Keys that a block of threads sorts.
#define SORTED 1024
// Logits that a block of threads weighs.
#define WEIGHED 4096
#define NOT_FINITE 0xffffffffffffffffull

// What is to be done with a row; `cuda/sample.rs` has the same order of words.
struct Rule {
    unsigned noise, sum;
    float temperature;
    unsigned floor_low, floor_high;  // f64, added to the largest logit; -infinity: no floor.
    unsigned seed_low, seed_high, position;
};

__device__ __forceinline__ uint64_t key_of(float logit, unsigned id) {
    unsigned bits = __float_as_uint(logit);
    if ((bits & 0x7f800000u) == 0x7f800000u) return NOT_FINITE;
    // -0 and 0 are equal.
    bits = bits == 0x80000000u ? 0 : bits;
    unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)ordered << 32 | (0xffffffffu - id);
}

__device__ __forceinline__ unsigned id_of(uint64_t key) { return 0xffffffffu - (unsigned)key; }

// Batcher's bitonic sort, descending.
__device__ __forceinline__ void sort(uint64_t* keys) {
    for (unsigned size = 2; size <= SORTED; size *= 2)
        for (unsigned apart = size / 2; apart > 0; apart /= 2) {
            __syncthreads();
            for (unsigned i = threadIdx.x; i < SORTED / 2; i += blockDim.x) {
                unsigned at = i / apart * 2 * apart + i % apart;
                bool descending = (at & size) == 0;
                uint64_t a = keys[at], b = keys[at + apart];
                if ((a < b) == descending) keys[at] = b, keys[at + apart] = a;
            }
        }
    __syncthreads();
}

// The first keys of a part of a row. Grid: (parts of 1024, rows), 256 threads.
__device__ __forceinline__ void put_first(const uint64_t* keys, uint64_t* out) {
    uint64_t to = ((uint64_t)blockIdx.y * gridDim.x + blockIdx.x) * TOP;
    for (unsigned i = threadIdx.x; i < TOP; i += blockDim.x) out[to + i] = keys[i];
}

extern "C" __global__ void __launch_bounds__(256) top_of_logits(const float* logits, unsigned n, uint64_t* out) {
    __shared__ uint64_t keys[SORTED];
    for (unsigned i = threadIdx.x; i < SORTED; i += blockDim.x) {
        unsigned id = blockIdx.x * SORTED + i;
        keys[i] = id < n ? key_of(logits[(uint64_t)blockIdx.y * n + id], id) : 0;
    }
    sort(keys);
    put_first(keys, out);
}

extern "C" __global__ void __launch_bounds__(256) top_of_keys(const uint64_t* from, unsigned n, uint64_t* out) {
    __shared__ uint64_t keys[SORTED];
    for (unsigned i = threadIdx.x; i < SORTED; i += blockDim.x) {
        unsigned at = blockIdx.x * SORTED + i;
        keys[i] = at < n ? from[(uint64_t)blockIdx.y * n + at] : 0;
    }
    sort(keys);
    put_first(keys, out);
}

// Philox 4x32-10: the first word of its output.
__device__ __forceinline__ unsigned philox(unsigned position, unsigned id, unsigned key0, unsigned key1) {
    unsigned c0 = position, c1 = id, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        unsigned high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        unsigned high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ key0, c1 = low1, c2 = high0 ^ c3 ^ key1, c3 = low0;
        key0 += 0x9e3779b9u, key1 += 0xbb67ae85u;
    }
    return c0;
}

__device__ __forceinline__ double noise(const Rule& rule, unsigned id) {
    unsigned word = philox(rule.position, id, rule.seed_low, rule.seed_high);
    double u = divide(add(__uint2double_rn(word >> 8), 0.5), 16777216.0);
    return -ln_f64(-ln_f64(u));
}

// The best of a part, its token, and the part's sum.
struct Weighed {
    double best, sum;
    unsigned id;
};

__device__ __forceinline__ Weighed better(const Weighed& a, const Weighed& b) {
    bool second = b.best > a.best || (b.best == a.best && b.id < a.id);
    return {second ? b.best : a.best, add(a.sum, b.sum), second ? b.id : a.id};
}

#define NOTHING_BEST __longlong_as_double(0xfff0000000000000ll)
// The difference between the largest noise there is, 17.33, and the least, -2.86, and a
// little: a logit further below the largest cannot win.
#define NOISE_SPAN 20.25

// Grid: (parts of 4096, rows), 256 threads. `keys` holds the 64 first of each row.
extern "C" __global__ void __launch_bounds__(256)
    weigh(const float* logits, unsigned n, const uint64_t* keys, const unsigned* rules, double* bests, double* sums,
          unsigned* ids) {
    __shared__ double best_of[256], sum_of[256];
    __shared__ unsigned id_at[256];
    const Rule rule = ((const Rule*)rules)[blockIdx.y];
    // The same for all threads of the block.
    if (!rule.noise && !rule.sum) return;
    const float* row = logits + (uint64_t)blockIdx.y * n;
    uint64_t first = keys[(uint64_t)blockIdx.y * TOP];
    double largest = (double)divide(row[first == NOT_FINITE ? 0 : id_of(first)], rule.temperature);
    double floor =
        add(largest, __longlong_as_double((long long)((uint64_t)rule.floor_high << 32 | rule.floor_low)));
    Weighed mine = {NOTHING_BEST, 0.0, 0xffffffffu};
    for (unsigned i = threadIdx.x; i < WEIGHED; i += blockDim.x) {
        unsigned id = blockIdx.x * WEIGHED + i;
        if (id >= n) continue;
        double l = (double)divide(row[id], rule.temperature);
        if (!(l >= floor)) continue;
        if (rule.sum) {
            double below = sub(l, largest);
            mine.sum = add(mine.sum, exp_f64(below > -700.0 ? below : -700.0));
        }
        if (rule.noise && add(l, NOISE_SPAN) >= largest) mine = better(mine, {add(l, noise(rule, id)), 0.0, id});
    }
    best_of[threadIdx.x] = mine.best, sum_of[threadIdx.x] = mine.sum, id_at[threadIdx.x] = mine.id;
    for (unsigned width = 128; width > 0; width /= 2) {
        __syncthreads();
        if (threadIdx.x >= width) continue;
        unsigned at = threadIdx.x + width;
        mine = better(mine, {best_of[at], sum_of[at], id_at[at]});
        best_of[threadIdx.x] = mine.best, sum_of[threadIdx.x] = mine.sum, id_at[threadIdx.x] = mine.id;
    }
    if (threadIdx.x == 0) {
        uint64_t at = (uint64_t)blockIdx.y * gridDim.x + blockIdx.x;
        bests[at] = mine.best, sums[at] = mine.sum, ids[at] = mine.id;
    }
}

// What goes back to the host, 132 words a row: whether all logits are finite, the token
// that noise chose, the sum (low, high word), then ids and bits of the largest logits.
// Grid: (rows), 64 threads.
extern "C" __global__ void __launch_bounds__(64)
    settle(const float* logits, unsigned n, const uint64_t* keys, const unsigned* rules, const double* bests,
           const double* sums, const unsigned* ids, unsigned parts, unsigned* out) {
    unsigned row = blockIdx.x;
    unsigned* to = out + (uint64_t)row * (4 + 2 * TOP);
    const uint64_t* mine = keys + (uint64_t)row * TOP;
    unsigned id = id_of(mine[threadIdx.x]);
    bool there = mine[threadIdx.x] != 0 && id < n;
    to[4 + 2 * threadIdx.x] = there ? id : 0xffffffffu;
    to[5 + 2 * threadIdx.x] = there ? __float_as_uint(logits[(uint64_t)row * n + id]) : 0;
    if (threadIdx.x > 0) return;
    const Rule rule = ((const Rule*)rules)[row];
    Weighed all = {NOTHING_BEST, 0.0, 0};
    for (unsigned part = 0; part < parts && (rule.noise || rule.sum); part++) {
        uint64_t at = (uint64_t)row * parts + part;
        all = better(all, {bests[at], sums[at], ids[at]});
    }
    uint64_t sum = (uint64_t)__double_as_longlong(all.sum);
    to[0] = mine[0] != NOT_FINITE;
    to[1] = all.id;
    to[2] = (unsigned)sum, to[3] = (unsigned)(sum >> 32);
}

// Whether every element of a row is finite. Grid: (rows), 256 threads.
extern "C" __global__ void __launch_bounds__(256) all_finite(const float* x, unsigned n, unsigned* out) {
    __shared__ unsigned endless_of[8];
    unsigned endless = 0;
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x)
        endless |= (__float_as_uint(x[(uint64_t)blockIdx.x * n + i]) & 0x7f800000u) == 0x7f800000u;
    endless = largest_of_warp(endless);
    if (threadIdx.x % 32 == 0) endless_of[threadIdx.x / 32] = endless;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 0; w < 8; w++) endless |= endless_of[w];
    out[blockIdx.x] = !endless;
}
