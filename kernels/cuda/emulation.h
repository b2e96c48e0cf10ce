// The part of CUDA that our kernels use, on a CPU: for tests only.
//
// One fiber per CUDA thread, blocks one after the other. `__syncthreads`, warp
// barriers and shuffles suspend a fiber until everybody named has arrived; threads
// that wait for each other for ever are an error, not a hang. Threads and blocks run
// in ascending, descending or shuffled order, so that a missing barrier shows as a
// difference between two runs. Shared memory starts as NaN in every block. Device
// memory comes from `emulated_alloc`, starts as NaN and ends at a page that cannot be
// touched; a kernel that leaves it fails with its name.
//
// It is not: a model of time, of memory ordering between blocks, or of instructions
// that have no wrapper in `common.cuh`.
#pragma once
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
// All static shared memory lies in one section, which is poisoned before each block.
#define __shared__ static __attribute__((section("emulated_shared")))

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};

namespace emulation {

constexpr size_t STACK = 64 << 10;  // Bytes of a fiber: kernels keep little on it.
constexpr unsigned WARP = 32;

enum class State { Ready, AtBlock, AtWarp, Done };

struct Fiber {
    jmp_buf resume;
    ucontext_t first;
    char* stack = nullptr;
    bool started = false;
    State state = State::Done;
    unsigned mask = 0;       // Lanes awaited at a warp barrier.
    uint64_t exchanged = 0;  // What the others read in a shuffle.
    int fragment[6];         // What the others read in `emulated_dots`.
    dim3 thread{};
};

inline std::vector<Fiber> fibers;
inline unsigned current, threads;
inline jmp_buf scheduler;
inline sigjmp_buf fault;
inline dim3 block_index, block_size, grid_size;
inline std::vector<unsigned char> dynamic_bytes;
inline char message[512];
inline void (*body)(void**);
inline void** arguments;

inline Fiber& self() { return fibers[current]; }

inline void suspend(State state) {
    Fiber& me = self();
    me.state = state;
    if (!_setjmp(me.resume)) _longjmp(scheduler, 1);
}

inline void entry() {
    for (;;) {
        body(arguments);
        suspend(State::Done);
    }
}

inline void resume(unsigned index) {
    current = index;
    Fiber& f = fibers[index];
    if (_setjmp(scheduler)) return;
    if (f.started) _longjmp(f.resume, 1);
    f.started = true;
    getcontext(&f.first);
    if (!f.stack) f.stack = new char[STACK];
    f.first.uc_stack.ss_sp = f.stack;
    f.first.uc_stack.ss_size = STACK;
    f.first.uc_link = nullptr;
    makecontext(&f.first, entry, 0);
    setcontext(&f.first);
}

inline void block_barrier() { suspend(State::AtBlock); }

inline void warp_barrier(unsigned mask) {
    self().mask = mask;
    suspend(State::AtWarp);
}

// Another lane's value; `lane` counts within the warp. A lane outside the block or
// the mask gives one's own value, as the hardware's shuffles do at their ends.
template <class T>
T exchange(unsigned mask, T value, unsigned lane) {
    static_assert(sizeof(T) <= 8, "four or eight bytes");
    self().exchanged = 0;
    memcpy(&self().exchanged, &value, sizeof(T));
    warp_barrier(mask);
    unsigned at = (current & ~(WARP - 1)) + lane;
    T read = value;
    if (lane < WARP && at < threads) memcpy(&read, &fibers[at].exchanged, sizeof(T));
    warp_barrier(mask);
    return read;
}

// Everybody of a warp that waits for the same lanes, all of which wait.
inline bool release_warp(unsigned first) {
    bool moved = false;
    unsigned end = first + WARP < threads ? first + WARP : threads;
    for (unsigned i = first; i < end; i++) {
        if (fibers[i].state != State::AtWarp) continue;
        unsigned mask = fibers[i].mask;
        bool all = (mask >> (i - first) & 1) != 0;
        for (unsigned j = first; j < end; j++)
            if (mask >> (j - first) & 1)
                all = all && fibers[j].state == State::AtWarp && fibers[j].mask == mask;
        if (!all) continue;
        for (unsigned j = first; j < end; j++)
            if (mask >> (j - first) & 1) fibers[j].state = State::Ready;
        moved = true;
    }
    return moved;
}

inline bool release_block() {
    for (unsigned i = 0; i < threads; i++)
        if (fibers[i].state != State::AtBlock && fibers[i].state != State::Done) return false;
    bool moved = false;
    for (unsigned i = 0; i < threads; i++)
        if (fibers[i].state == State::AtBlock) fibers[i].state = State::Ready, moved = true;
    return moved;
}

// The order in which threads and blocks run: 0 ascending, 1 descending, else shuffled.
inline std::vector<unsigned> order(unsigned n, unsigned kind) {
    std::vector<unsigned> all(n);
    for (unsigned i = 0; i < n; i++) all[i] = kind == 1 ? n - 1 - i : i;
    uint64_t state = kind;
    for (unsigned i = n; kind > 1 && i > 1; i--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        unsigned j = (unsigned)((state >> 33) % i), kept = all[i - 1];
        all[i - 1] = all[j];
        all[j] = kept;
    }
    return all;
}

extern "C" char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));

inline bool run_block(const std::vector<unsigned>& order) {
    if (__start_emulated_shared)
        memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    memset(dynamic_bytes.data(), 0xff, dynamic_bytes.size());
    for (unsigned i = 0; i < threads; i++) fibers[i].state = State::Ready;
    for (;;) {
        unsigned done = 0;
        for (unsigned i : order) {
            if (fibers[i].state == State::Ready) resume(i);
            done += fibers[i].state == State::Done;
        }
        if (done == threads) return true;
        bool moved = false;
        for (unsigned i = 0; i < threads; i++) moved |= fibers[i].state == State::Ready;
        for (unsigned i = 0; i < threads; i += WARP) moved |= release_warp(i);
        if (!moved && !release_block()) return false;
    }
}

// Whether this thread runs a kernel: faults of others go to whoever handled them before.
inline thread_local bool launching = false;
inline struct sigaction before_segv, before_bus;

inline void on_fault(int signal, siginfo_t* about, void* context) {
    if (launching) siglongjmp(fault, 1);
    const struct sigaction& before = signal == SIGBUS ? before_bus : before_segv;
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(signal, about, context);
    else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)
        sigaction(signal, &before, nullptr);  // The same instruction meets it again.
    else
        before.sa_handler(signal);
}

// Once, and for good: others install handlers meanwhile, and remember this one.
inline bool watch_faults() {
    struct sigaction ours {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_NODEFER | SA_SIGINFO;
    return !sigaction(SIGSEGV, &ours, &before_segv) && !sigaction(SIGBUS, &ours, &before_bus);
}

inline const char* fail(const char* kernel, const char* what) {
    snprintf(message, sizeof message, "%s, block (%u, %u, %u), thread %u: %s", kernel, block_index.x,
             block_index.y, block_index.z, current, what);
    for (Fiber& f : fibers) f.started = false;
    return message;
}

// Run a kernel; null, or what went wrong.
inline const char* launch(const char* name, void (*kernel)(void**), void** args, dim3 grid, dim3 size,
                          unsigned shared, unsigned kind) {
    threads = size.x * size.y * size.z;
    block_index = {0, 0, 0};
    if (threads == 0 || threads > 1024) return fail(name, "a block has 1 to 1024 threads");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return fail(name, "the grid is empty");
    if (fibers.size() < threads) fibers.resize(1024);
    body = kernel, arguments = args, grid_size = grid, block_size = size;
    dynamic_bytes.assign(shared, 0xff);
    for (unsigned i = 0; i < threads; i++)
        fibers[i].thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    std::vector<unsigned> threads_in_order = order(threads, kind);
    std::vector<unsigned> blocks = order(grid.x * grid.y * grid.z, kind);
    static bool watched = watch_faults();
    if (!watched) return fail(name, "faults cannot be caught");
    launching = true;
    const char* volatile wrong = nullptr;  // Survives the jump.
    if (sigsetjmp(fault, 1)) {
        wrong = fail(name, "access outside its memory");
    } else {
        for (unsigned b : blocks) {
            block_index = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
            if (run_block(threads_in_order)) continue;
            wrong = fail(name, "its threads wait at different barriers");
            break;
        }
    }
    launching = false;
    return wrong;
}

// Call a kernel with the arguments that a CUDA launch gets: pointers to each.
template <class... A>
struct Call {
    template <void (*KERNEL)(A...), size_t... I>
    static void unpack(void** args, std::index_sequence<I...>) {
        KERNEL(*static_cast<A*>(args[I])...);
    }
};

// One letter per parameter, so that a caller can be checked: p(ointer), u(32), f(32), l(64).
template <class T>
constexpr char letter() {
    return std::is_pointer_v<T> ? 'p' : std::is_same_v<T, float> ? 'f' : sizeof(T) == 8 ? 'l' : 'u';
}

template <auto KERNEL>
struct Kernel;
template <class... A, void (*KERNEL)(A...)>
struct Kernel<KERNEL> {
    static void run(void** args) {
        Call<A...>::template unpack<KERNEL>(args, std::index_sequence_for<A...>{});
    }
    static constexpr char signature[] = {letter<A>()..., 0};
};

}  // namespace emulation

#define threadIdx (emulation::self().thread)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::warp_barrier(mask); }

inline unsigned emulated_lane() { return emulation::current % emulation::WARP; }
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return emulation::exchange(mask, value, (unsigned)lane % emulation::WARP);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return emulation::exchange(mask, value, emulated_lane() ^ (unsigned)bits);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    return emulation::exchange(mask, value, emulated_lane() + by);
}

// Round to nearest even; the compiler is told not to contract.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __int2float_rn(int a) { return (float)a; }
inline float __uint2float_rn(unsigned a) { return (float)a; }
inline double __uint2double_rn(unsigned a) { return (double)a; }
inline float __double2float_rn(double a) { return (float)a; }

template <class To, class From>
To emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float a) { return emulated_bits<unsigned>(a); }
inline float __uint_as_float(unsigned a) { return emulated_bits<float>(a); }
inline long long __double_as_longlong(double a) { return emulated_bits<long long>(a); }
inline double __longlong_as_double(long long a) { return emulated_bits<double>(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }

// Four of the eight bytes of `a` and `b`, each named by three bits.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned names) {
    uint64_t both = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= (unsigned)(both >> 8 * (names >> 4 * i & 7) & 255) << 8 * i;
    return out;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}

// A byte of a matrix whose fragments a warp's lanes hold: of register `base` of the lane
// that has row or column `line` and the word of `k`.
inline int emulated_element(unsigned first, unsigned line, unsigned k, unsigned base) {
    const emulation::Fiber& lane = emulation::fibers[first + line % 8 * 4 + k % 16 / 4];
    return (int8_t)(lane.fragment[base] >> 8 * (k % 4));
}

// 16 rows by 8 columns: the fragments are described at `dots_of_16_by_8`.
inline void emulated_dots(const int (&a)[4], int b0, int b1, int (&dot)[4]) {
    emulation::Fiber& me = emulation::self();
    for (int i = 0; i < 4; i++) me.fragment[i] = a[i];
    me.fragment[4] = b0, me.fragment[5] = b1;
    emulation::warp_barrier(0xffffffffu);
    unsigned lane = emulated_lane(), first = emulation::current - lane;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        dot[i] = 0;
        for (unsigned k = 0; k < 32; k++)
            dot[i] += emulated_element(first, row, k, row / 8 + k / 16 * 2) *
                      emulated_element(first, column, k, 4 + k / 16);
    }
    emulation::warp_barrier(0xffffffffu);
}

inline unsigned emulated_widen(unsigned short half) {
    unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ff;
    if (exponent == 31) return sign | 0x7f800000u | mantissa << 13;
    if (exponent) return sign | (exponent + 112) << 23 | mantissa << 13;
    if (!mantissa) return sign;
    int shift = 0;
    while (!(mantissa & 0x400)) mantissa <<= 1, shift++;
    return sign | (unsigned)(113 - shift) << 23 | (mantissa & 0x3ff) << 13;
}

// Round to nearest even.
inline unsigned short emulated_narrow(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (unsigned short)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) return (unsigned short)(sign | 0x7c00);
    if (magnitude < 0x38800000u) {
        // Adding 2^-24 times 1.5 * 2^23 leaves the rounded multiple of 2^-24 in the low bits.
        float at = __uint_as_float(magnitude) + 0.5f;
        return (unsigned short)(sign | (__float_as_uint(at) - 0x3f000000u));
    }
    unsigned rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (unsigned short)(sign | ((rounded - 0x38000000u) >> 13));
}
