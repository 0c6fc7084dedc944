// Lanes of one warp that exchange through shared memory: they run independently of one another, so that a bar.warp.sync must stand between a write and another lane's use. Each kernel has a sound form
// and one without that barrier, which the emulator must catch (LaneTests.cs).
#include "device.cuh"

template <bool Sync> DI void sync_warp() { if (Sync) asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); else asm volatile("" ::: "memory"); }

template <bool Sync> DI void exchange(const float* x, float* y)
{
    __shared__ float s[64];
    int t = threadIdx_x;
    s[t] = x[t];
    sync_warp<Sync>();
    y[t] = s[t ^ 31];
}
extern "C" __global__ void sound_exchange(const float* x, float* y) { exchange<true>(x, y); }
extern "C" __global__ void exchange_without_barrier(const float* x, float* y) { exchange<false>(x, y); }

// Reads what others wrote before a barrier, then writes again while they may still read.
template <bool Sync> DI void overwrite(const float* x, float* y)
{
    __shared__ float s[32];
    int t = threadIdx_x;
    s[t] = x[t];
    sync_warp<true>();
    float v = s[(t + 1) & 31];
    sync_warp<Sync>();
    s[t] = 2 * v;
    y[t] = s[t];
}
extern "C" __global__ void sound_overwrite(const float* x, float* y) { overwrite<true>(x, y); }
extern "C" __global__ void overwrite_without_barrier(const float* x, float* y) { overwrite<false>(x, y); }

// A shuffle makes lanes wait for one another and orders no memory.
extern "C" __global__ void exchange_behind_a_shuffle(const float* x, float* y)
{
    __shared__ float s[32];
    int t = threadIdx_x;
    s[t] = x[t];
    float v = shfl_xor(x[t], 1);
    asm volatile("" ::: "memory");
    y[t] = s[31 - t] + v;
}

// A lane's wait is for its own copies.
template <bool Sync> DI void copied(const float* x, float* y)
{
    __shared__ __attribute__((aligned(16))) float s[32];
    int t = threadIdx_x;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(smem_address(&s[t])), "l"(x + t) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    sync_warp<Sync>();
    y[t] = s[31 - t];
}
extern "C" __global__ void sound_copy(const float* x, float* y) { copied<true>(x, y); }
extern "C" __global__ void copy_without_barrier(const float* x, float* y) { copied<false>(x, y); }

template <bool Sync> DI void counted(const float* x, float* y)
{
    __shared__ unsigned n;
    int t = threadIdx_x;
    if (t == 0) n = 0;
    sync_warp<true>();
    if (x[t] > 3) asm volatile("red.shared.add.u32 [%0], 1;" :: "r"(smem_address(&n)) : "memory");
    sync_warp<Sync>();
    y[t] = (float)n;
}
extern "C" __global__ void sound_count(const float* x, float* y) { counted<true>(x, y); }
extern "C" __global__ void count_without_barrier(const float* x, float* y) { counted<false>(x, y); }

template <bool Sync> DI void matrix(const float* x, float* y)
{
    __shared__ __attribute__((aligned(16))) unsigned s[32];
    int t = threadIdx_x;
    s[t] = (unsigned)x[t];
    sync_warp<Sync>();
    unsigned v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 %0, [%1];" : "=r"(v) : "r"(smem_address(&s[4 * (t & 7)])) : "memory");
    y[t] = (float)v;
}
extern "C" __global__ void sound_matrix(const float* x, float* y) { matrix<true>(x, y); }
extern "C" __global__ void matrix_without_barrier(const float* x, float* y) { matrix<false>(x, y); }

// Lanes of one instruction that write the same value to one place, and each what it alone uses: no race.
extern "C" __global__ void sound_without_barrier(const float* x, float* y)
{
    __shared__ float s[33];
    int t = threadIdx_x;
    s[32] = 7;
    s[t] = x[t];
    s[t] = s[t] + 1;
    y[t] = s[t];
}
