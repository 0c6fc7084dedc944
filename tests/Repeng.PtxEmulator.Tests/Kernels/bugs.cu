// The classic bugs, one a kernel: the emulator must catch each of them (BugTests.cs), and must say nothing of the sound kernel beside it.
#include "device.cuh"

// Sum of each block of 128 values, from a tree in shared memory.
template <bool Barrier> DI void block_sum(const float* x, float* y)
{
    __shared__ float s[128];
    int t = threadIdx_x;
    s[t] = x[blockIdx_x * 128 + t];
    sync_threads();
    for (int by = 64; by > 0; by >>= 1) {
        if (t < by) s[t] += s[t + by];
        if (Barrier) sync_threads();
    }
    if (t == 0) y[blockIdx_x] = s[0];
}
extern "C" __global__ void sound_sum(const float* x, float* y) { block_sum<true>(x, y); }
extern "C" __global__ void missing_barrier(const float* x, float* y) { block_sum<false>(x, y); }

// The halo of a tile: thread 0 reads one element before, the last thread one past the tile of 128.
extern "C" __global__ void off_by_one_tile(const float* x, float* y)
{
    __shared__ float s[128];
    int t = threadIdx_x;
    s[t] = x[t];
    sync_threads();
    y[t] = s[t] + s[t + 1];
}

extern "C" __global__ void off_by_one_global(const float* x, float* y, int n)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x;
    if (i <= n) y[i] = 2 * x[i];
}

// += into an output that nobody cleared.
extern "C" __global__ void uninitialised_accumulator(const float* x, float* y) { y[threadIdx_x] += x[threadIdx_x]; }

extern "C" __global__ void uninitialised_shared(const float* x, float* y)
{
    __shared__ float s[64];
    int t = threadIdx_x;
    if (t < 32) s[t] = x[t];
    sync_threads();
    y[t] = s[t];
}

extern "C" __global__ void uninitialised_local(const int* at, float* y)
{
    float buffer[8];
    for (int i = 0; i < 7; i++) buffer[(i * 3) & 7] = (float)i;
    y[threadIdx_x] = buffer[at[threadIdx_x]];
}

extern "C" __global__ void misaligned_vector(const float* x, float* y, int offset)
{
    typedef float float4 __attribute__((ext_vector_type(4)));
    float4 v = *(const float4*)(x + offset + 4 * threadIdx_x);
    y[threadIdx_x] = v.x + v.y + v.z + v.w;
}

extern "C" __global__ void divergent_barrier(const float* x, float* y)
{
    __shared__ float s[64];
    int t = threadIdx_x;
    s[t] = x[t];
    if (t < 16) sync_threads();
    y[t] = s[t ^ 1];
}

extern "C" __global__ void barriers_of_two_kinds(float* y)
{
    if (threadIdx_x < 32) __nvvm_bar_sync(1); else __nvvm_bar_sync(2);
    y[threadIdx_x] = 1;
}

// Every block adds to the same word.
extern "C" __global__ void block_race(const float* x, float* y) { if (threadIdx_x == 0) *y += x[blockIdx_x]; }

extern "C" __global__ void block_reads_neighbour(float* x)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x;
    float next = x[(i + 1) % (gridDim_x * blockDim_x)];
    x[i] = next;
}

extern "C" __global__ void lanes_collide(float* y) { y[threadIdx_x / 2] = (float)threadIdx_x; }

template <bool Wait> DI void staged(const float* x, float* y)
{
    __shared__ __attribute__((aligned(16))) float s[128];
    int t = threadIdx_x;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(smem_address(&s[t])), "l"(x + t) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (Wait) asm volatile("cp.async.wait_group 0;" ::: "memory");
    sync_threads();
    y[t] = s[127 - t];
}
extern "C" __global__ void sound_async_copy(const float* x, float* y) { staged<true>(x, y); }
extern "C" __global__ void early_read_of_async_copy(const float* x, float* y) { staged<false>(x, y); }

// Waits for its own copies only: other warps' bytes need the barrier.
extern "C" __global__ void async_copy_without_barrier(const float* x, float* y)
{
    __shared__ __attribute__((aligned(16))) float s[128];
    int t = threadIdx_x;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(smem_address(&s[t])), "l"(x + t) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    y[t] = s[127 - t];
}

extern "C" __global__ void shuffle_with_absent_lanes(const float* x, float* y)
{
    int t = threadIdx_x;
    float v = x[t];
    if (t < 20) v = shfl_xor(v, 1);
    y[t] = v;
}

// Counters of the last block that arrives: the sound form fences, the other forgets to.
template <bool Fence> DI void last_block(const float* x, float* part, unsigned* arrived, float* y)
{
    __shared__ bool last;
    if (threadIdx_x == 0) {
        part[blockIdx_x] = x[blockIdx_x] * 2;
        if (Fence) asm volatile("fence.acq_rel.gpu;" ::: "memory");
        unsigned before;
        asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
        if (Fence) asm volatile("fence.acq_rel.gpu;" ::: "memory");
        last = before == gridDim_x - 1;
    }
    sync_threads();
    if (last && threadIdx_x == 0) {
        float sum = 0;
        for (unsigned b = 0; b < gridDim_x; b++) sum += part[b];
        *y = sum;
    }
}
extern "C" __global__ void sound_last_block(const float* x, float* part, unsigned* arrived, float* y) { last_block<true>(x, part, arrived, y); }
extern "C" __global__ void last_block_without_fence(const float* x, float* part, unsigned* arrived, float* y) { last_block<false>(x, part, arrived, y); }

// A barrier of the whole grid by an atomic counter; blocks wait in a loop.
extern "C" __global__ void grid_barrier(float* x, float* y, unsigned* arrived)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x, n = gridDim_x * blockDim_x;
    x[i] = (float)i;
    sync_threads();
    if (threadIdx_x == 0) {
        asm volatile("fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%0], 1;" :: "l"(arrived) : "memory");
        unsigned now;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory"); while (now < gridDim_x);
    }
    sync_threads();
    y[i] = x[n - 1 - i];
}

extern "C" __global__ void endless(volatile int* flag) { while (*flag == 0) { } }

extern "C" __global__ void traps(const int* x) { if (x[threadIdx_x] < 0) __builtin_trap(); }

extern "C" __global__ void store_to_constant_pointer(float* y) { y[threadIdx_x] = 1; }
