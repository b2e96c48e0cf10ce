// Causal attention over the paged cache, for decoding and prefilling alike.
//
// A block of threads owns the queries of one KV head and one run of rows of one
// sequence: they share every tile of keys and values they read. Tiles of 64 positions
// go by in order with the online softmax of NUMERICS.md: a score is one sum in order
// over the head, a value one sum in order over positions; only different sums run side
// by side. Called by `cuda/steps.rs`.
#include "common.cuh"

// Queries in shared memory: `dim` elements each of query and result, 64 weights.
struct Queries {
    float *query, *out, *weight, *max, *sum, *correction;
};

__device__ __forceinline__ Queries queries(unsigned char* shared, unsigned n, unsigned dim) {
    Queries q;
    q.query = (float*)shared;
    q.out = q.query + n * dim;
    q.weight = q.out + n * dim;
    q.max = q.weight + n * 64;
    q.sum = q.max + n;
    q.correction = q.sum + n;
    return q;
}

// The slots of a tile that a row at `position` sees: the last `window` positions.
struct Seen {
    unsigned from, to;
};

__device__ __forceinline__ unsigned slot(unsigned position, unsigned tile) {
    unsigned start = tile * 64;
    return position < start ? 0 : (position - start < 64 ? position - start : 64);
}

__device__ __forceinline__ unsigned first_seen(unsigned position, unsigned window) {
    return position + 1 > window ? position + 1 - window : 0;
}

__device__ __forceinline__ Seen seen(unsigned position, unsigned window, unsigned tile) {
    return {slot(first_seen(position, window), tile), slot(position + 1, tile)};
}

// Scores of all positions of the tile; those not seen are replaced by `soften`.
__device__ __forceinline__ void score(const Queries& q, const half_bits* keys, unsigned n, unsigned dim, float scale,
                                      float cap) {
    for (unsigned at = threadIdx.x; at < n * 64; at += blockDim.x) {
        const float* query = q.query + at / 64 * dim;
        float sum = 0.0f;
        for (unsigned i = 0; i < dim; i++) sum = add(sum, mul(query[i], widen(keys[i * 64 + at % 64])));
        sum = mul(sum, scale);
        q.weight[at] = cap > 0.0f ? mul(cap, tanh_f32(divide(sum, cap))) : sum;
    }
}

// One warp per query: the tile's scores become weights.
__device__ __forceinline__ void soften(const Queries& q, unsigned query, Seen seen) {
    unsigned lane = threadIdx.x % 32;
    float* w = q.weight + query * 64;
    float before = q.max[query], largest = before;
    for (unsigned p = lane; p < 64; p += 32)
        if (p >= seen.from && p < seen.to) largest = w[p] > largest ? w[p] : largest;
    for (unsigned bits = 16; bits > 0; bits /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, largest, bits);
        largest = other > largest ? other : largest;
    }
    for (unsigned p = lane; p < 64; p += 32)
        w[p] = p >= seen.from && p < seen.to ? exp_f32(sub(w[p], largest)) : 0.0f;
    __syncwarp();
    float total = strided_sum(w, 64);
    if (lane == 0) {
        float correction = exp_f32(sub(before, largest));
        q.sum[query] = add(mul(q.sum[query], correction), total);
        q.max[query] = largest;
        q.correction[query] = correction;
    }
}

// `rows` holds (sequence, position) per row, `runs` (first row, number of rows) per
// run; the pages of sequence s are at tables[s * table_len ..]. Query heads of a KV
// head are taken `heads_at_once` at a time. Grid: (runs, kv_heads * parts), 128
// threads, shared memory for `run_len * heads_at_once` queries. A row sees `window`
// positions; `cap` bounds scores where it is above 0; `sinks` (or null) begin each
// head's softmax.
extern "C" __global__ void __launch_bounds__(128)
    attention(const float* qkv, unsigned heads, unsigned kv_heads, unsigned dim, const half_bits* pages,
              uint64_t page_len, uint64_t layer_at, const uint2* rows, const uint2* runs, const unsigned* tables,
              unsigned table_len, unsigned heads_at_once, float scale, unsigned window, float cap, const float* sinks,
              float* out) {
    DYNAMIC_SHARED(shared);
    unsigned kv = blockIdx.y % kv_heads, group = heads / kv_heads;
    unsigned head = kv * group + blockIdx.y / kv_heads * heads_at_once;
    unsigned left = (kv + 1) * group - head, of_row = left < heads_at_once ? left : heads_at_once;
    uint2 run = runs[blockIdx.x];
    unsigned n = run.y * of_row, warp = threadIdx.x / 32;
    Queries q = queries(shared, n, dim);
    uint64_t stride = (uint64_t)(heads + 2 * kv_heads) * dim;
    for (unsigned i = threadIdx.x; i < n * dim; i += blockDim.x) {
        unsigned query = i / dim;
        q.query[i] = qkv[(run.x + query / of_row) * stride + (head + query % of_row) * dim + i % dim];
        q.out[i] = 0.0f;
    }
    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) {
        q.max[i] = sinks ? sinks[head + i % of_row] : __uint_as_float(0xff800000u);
        q.sum[i] = sinks ? 1.0f : 0.0f;
    }
    __syncthreads();
    uint2 last = rows[run.x + run.y - 1];
    for (unsigned tile = first_seen(rows[run.x].y, window) / 64; tile <= last.y / 64; tile++) {
        const half_bits* keys = pages + tables[(uint64_t)last.x * table_len + tile] * page_len + layer_at +
                                (uint64_t)kv * 2 * dim * 64;
        const half_bits* values = keys + dim * 64;
        score(q, keys, n, dim, scale, cap);
        __syncthreads();
        for (unsigned query = warp; query < n; query += 4) {
            Seen visible = seen(rows[run.x + query / of_row].y, window, tile);
            if (visible.from < visible.to) soften(q, query, visible);
        }
        __syncthreads();
        for (unsigned i = threadIdx.x; i < n * dim; i += blockDim.x) {
            unsigned query = i / dim;
            Seen visible = seen(rows[run.x + query / of_row].y, window, tile);
            if (visible.from >= visible.to) continue;
            float sum = mul(q.out[i], q.correction[query]);
            const float* w = q.weight + query * 64;
            for (unsigned p = visible.from; p < visible.to; p++)
                sum = add(sum, mul(w[p], widen(values[p * dim + i % dim])));
            q.out[i] = sum;
        }
        __syncthreads();
    }
    for (unsigned i = threadIdx.x; i < n * dim; i += blockDim.x) {
        unsigned query = i / dim;
        float inverse = divide(1.0f, q.sum[query]);
        out[((uint64_t)(run.x + query / of_row) * heads + head + query % of_row) * dim + i % dim] = mul(q.out[i], inverse);
    }
}

// The same for decoding, one row a sequence, in three launches that spread over the card:
// scores of every tile by itself; then weights, tile by tile in order; then values, a few
// elements of a head by themselves. The numbers and their order are those of `attention`.
//
// `scores` holds 64 for each (row, head, tile), `turns` for each (row, head) a correction
// for each tile and last 1 / L; `tiles` is the length of a table, of which a row's own
// tiles are the first.
struct Sight {
    unsigned position, from, to;
};

// The tiles from `from` to `to` that a row sees something of.
__device__ __forceinline__ Sight sight(const uint2* rows, unsigned row, unsigned window) {
    unsigned position = rows[row].y;
    return {position, first_seen(position, window) / 64, position / 64};
}

__device__ __forceinline__ const half_bits* tile_of(const half_bits* pages, uint64_t page_len, uint64_t layer_at,
                                                    const unsigned* table, unsigned tile, unsigned kv, unsigned dim) {
    return pages + table[tile] * page_len + layer_at + (uint64_t)kv * 2 * dim * 64;
}

// Grid: (rows * kv_heads, tiles), 128 threads, shared memory for the queries of a KV head.
extern "C" __global__ void __launch_bounds__(128)
    attention_scores(const float* qkv, unsigned heads, unsigned kv_heads, unsigned dim, const half_bits* pages,
                     uint64_t page_len, uint64_t layer_at, const uint2* rows, const unsigned* tables, unsigned tiles,
                     float scale, unsigned window, float cap, float* scores) {
    DYNAMIC_SHARED(shared);
    float* query = (float*)shared;
    unsigned row = blockIdx.x / kv_heads, kv = blockIdx.x % kv_heads, group = heads / kv_heads, tile = blockIdx.y;
    Sight s = sight(rows, row, window);
    // The same for all threads of the block.
    if (tile < s.from || tile > s.to) return;
    const float* own = qkv + ((uint64_t)row * (heads + 2 * kv_heads) + kv * group) * dim;
    for (unsigned i = threadIdx.x; i < group * dim; i += blockDim.x) query[i] = own[i];
    __syncthreads();
    const unsigned* table = tables + (uint64_t)rows[row].x * tiles;
    const half_bits* keys = tile_of(pages, page_len, layer_at, table, tile, kv, dim);
    for (unsigned at = threadIdx.x; at < group * 64; at += blockDim.x) {
        const float* q = query + at / 64 * dim;
        float sum = 0.0f;
#pragma unroll 8
        for (unsigned i = 0; i < dim; i++) sum = add(sum, mul(q[i], widen(keys[i * 64 + at % 64])));
        sum = mul(sum, scale);
        uint64_t to = (((uint64_t)row * heads + kv * group + at / 64) * tiles + tile) * 64 + at % 64;
        scores[to] = cap > 0.0f ? mul(cap, tanh_f32(divide(sum, cap))) : sum;
    }
}

// Scores become weights. Grid: (rows, heads), 32 threads.
extern "C" __global__ void __launch_bounds__(32)
    attention_weights(unsigned heads, const uint2* rows, unsigned tiles, unsigned window, const float* sinks,
                      float* scores, float* turns) {
    __shared__ float weight[64];
    __shared__ float max, sum, correction;
    unsigned row = blockIdx.x, head = blockIdx.y;
    Sight s = sight(rows, row, window);
    uint64_t first = (uint64_t)row * heads + head;
    float* to = turns + first * (tiles + 1);
    Queries q = {nullptr, nullptr, weight, &max, &sum, &correction};
    if (threadIdx.x == 0) {
        max = sinks ? sinks[head] : __uint_as_float(0xff800000u);
        sum = sinks ? 1.0f : 0.0f;
    }
    for (unsigned tile = s.from; tile <= s.to; tile++) {
        float* own = scores + (first * tiles + tile) * 64;
        for (unsigned p = threadIdx.x; p < 64; p += 32) weight[p] = own[p];
        __syncwarp();
        soften(q, 0, seen(s.position, window, tile));
        __syncwarp();
        for (unsigned p = threadIdx.x; p < 64; p += 32) own[p] = weight[p];
        if (threadIdx.x == 0) to[tile] = correction;
        __syncwarp();
    }
    if (threadIdx.x == 0) to[tiles] = divide(1.0f, sum);
}

// Grid: (rows * kv_heads, dim / 32), 128 threads: each has one of 32 elements, of every
// fourth query of the KV head.
extern "C" __global__ void __launch_bounds__(128)
    attention_values(unsigned heads, unsigned kv_heads, unsigned dim, const half_bits* pages, uint64_t page_len,
                     uint64_t layer_at, const uint2* rows, const unsigned* tables, unsigned tiles, unsigned window,
                     const float* scores, const float* turns, float* out) {
    unsigned row = blockIdx.x / kv_heads, kv = blockIdx.x % kv_heads, group = heads / kv_heads;
    unsigned i = blockIdx.y * 32 + threadIdx.x % 32;
    if (i >= dim) return;
    Sight s = sight(rows, row, window);
    const unsigned* table = tables + (uint64_t)rows[row].x * tiles;
    for (unsigned query = threadIdx.x / 32; query < group; query += 4) {
        uint64_t first = (uint64_t)row * heads + kv * group + query;
        float o = 0.0f;
        for (unsigned tile = s.from; tile <= s.to; tile++) {
            const half_bits* values = tile_of(pages, page_len, layer_at, table, tile, kv, dim) + dim * 64;
            const float* w = scores + (first * tiles + tile) * 64;
            Seen visible = seen(s.position, window, tile);
            o = mul(o, turns[first * (tiles + 1) + tile]);
#pragma unroll 8
            for (unsigned p = visible.from; p < visible.to; p++) o = add(o, mul(w[p], widen(values[p * dim + i])));
        }
        out[first * dim + i] = mul(o, turns[first * (tiles + 1) + tiles]);
    }
}
