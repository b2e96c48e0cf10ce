// What happens to queries, keys and values between their matrices and attention: the
// norm of each head, rope, and the place in the cache.
//
// One block of threads per (row, head). A row of `qkv` holds all query heads, then all
// key heads, then all value heads. Queries are turned in place; keys and values go to
// the cache as f16: in a page of 64 positions, one head's tile holds keys `[dim][64]`,
// then values `[64][dim]`. Called by `cuda/steps.rs`.
#include "common.cuh"

// The angles of a row: cosines, then sines, of the pairs of the first `turning`
// elements, which are neighbours or lie half of `turning` apart. None where null.
struct Rope {
    const float* angles;
    unsigned turning;
    bool neighbours;
};

// Norm, where there are weights, then rope: element `i` is read by `turned`.
__device__ __forceinline__ void normalise(const float* head, const float* weight, unsigned dim, float epsilon,
                                          float* normed, float* scale) {
    if (weight) {
        for (unsigned i = threadIdx.x; i < dim; i += blockDim.x) normed[i] = mul(head[i], head[i]);
        __syncthreads();
        if (threadIdx.x < 32) {
            float sum = strided_sum(normed, dim);
            if (threadIdx.x == 0) *scale = divide(1.0f, __fsqrt_rn(add(divide(sum, (float)dim), epsilon)));
        }
        __syncthreads();
    }
    for (unsigned i = threadIdx.x; i < dim; i += blockDim.x)
        normed[i] = weight ? mul(mul(head[i], *scale), weight[i]) : head[i];
    __syncthreads();
}

__device__ __forceinline__ float turned(const float* normed, unsigned i, const Rope& rope) {
    if (!rope.angles || i >= rope.turning) return normed[i];
    unsigned half = rope.turning / 2, pair = rope.neighbours ? i / 2 : i % half;
    bool first = rope.neighbours ? i % 2 == 0 : i < half;
    float cos = rope.angles[pair], sin = rope.angles[half + pair];
    float a = normed[rope.neighbours ? 2 * pair : pair], b = normed[rope.neighbours ? 2 * pair + 1 : half + pair];
    return first ? sub(mul(a, cos), mul(b, sin)) : add(mul(b, cos), mul(a, sin));
}

// `place` holds, for each row, its page and its slot of that page; `factors`, where not
// null, what a row's queries are multiplied by. `layer_at` is where the layer begins in
// a page. Grid: (rows, heads + 2 * kv_heads), 128 threads, 4 bytes of shared memory per
// element of a head.
extern "C" __global__ void __launch_bounds__(128)
    heads(float* qkv, unsigned heads, unsigned kv_heads, unsigned dim, const float* query_norm, const float* key_norm,
          float epsilon, const float* angles, unsigned turning, unsigned neighbours, const float* factors,
          half_bits* pages, uint64_t page_len, uint64_t layer_at, const uint2* place) {
    DYNAMIC_SHARED(shared);
    __shared__ float scale;
    float* normed = (float*)shared;
    unsigned row = blockIdx.x, head = blockIdx.y;
    float* own = qkv + ((uint64_t)row * (heads + 2 * kv_heads) + head) * dim;
    bool is_query = head < heads, is_key = !is_query && head < heads + kv_heads;
    Rope rope = {angles ? angles + (uint64_t)row * turning : nullptr, turning, neighbours != 0};
    if (is_query || is_key) normalise(own, is_query ? query_norm : key_norm, dim, epsilon, normed, &scale);
    if (is_query) {
        for (unsigned i = threadIdx.x; i < dim; i += blockDim.x) {
            float q = turned(normed, i, rope);
            own[i] = factors ? mul(q, factors[row]) : q;
        }
        return;
    }
    unsigned kv = (head - heads) % kv_heads;
    uint2 at = place[row];
    half_bits* tile = pages + at.x * page_len + layer_at + (uint64_t)kv * 2 * dim * 64;
    for (unsigned i = threadIdx.x; i < dim; i += blockDim.x) {
        if (is_key)
            tile[(uint64_t)i * 64 + at.y] = narrow(turned(normed, i, rope));
        else
            tile[(uint64_t)(64 + at.y) * dim + i] = narrow(own[i]);
    }
}
