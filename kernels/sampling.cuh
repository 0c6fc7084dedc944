// What sampling.cu searches with: passes over a row by a block, sums of probability, digits of an order-preserving key.
#pragma once
#include "math.cuh"

/// A key that orders floats as numbers; −∞ is the smallest that occurs.
__device__ __forceinline__ unsigned order_of(float x)
{
    unsigned bits = (unsigned)bits_of(x);
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ void add_shared(u64 *to, u64 x) { asm volatile("red.shared.add.u64 [%0], %1;" ::"r"(shared_address(to)), "l"(x) : "memory"); }

const int Threads = 512, Warps = Threads / 32, Candidates = 4096, Kept = Threads;

struct SampleRoom
{
    u64 bins[256];
    union
    {
        unsigned counts[4096]; // scores by the first 12 bits of their key
        u64 masses[4096];      // their probability
        struct
        {
            float scores[Candidates];
            int indices[Candidates];
        } candidates; // in any order
    };
    float scores[Kept]; // what is kept of them, in the order of the indices
    int indices[Kept];
    double sums[32], segments[Warps]; // segments: sums of probability of the warps' parts of the row
    float maxima[32];
    u64 taken;
    unsigned prefix, found;
    int answer, count;
};

__device__ __forceinline__ float minus_infinity() { return -positive_infinity(); }

/// Elements of the row a warp owns, one part after the other, in whole 512 bytes.
__device__ __forceinline__ int segment_of(int n) { return ((n + Warps * 128 - 1) / (Warps * 128)) * 128; }

/// change(i, from[i]) for the row's elements, a warp along its part, by 16 bytes where it may, the next ones under way. WRITE: to[i] is what it gives.
template <bool WRITE, typename Change> __device__ __forceinline__ void over_row(float *to, const float *from, int n, Change change)
{
    int lane = threadIdx.x & 31, each = segment_of(n), begin = smaller(n, (int)(threadIdx.x >> 5) * each), end = smaller(n, begin + each);
    if ((n & 3) == 0 && aligned16(from, to))
    {
        float4 next = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (begin + lane * 4 < end)
            next = load_four(from + begin + lane * 4);
        for (int i = begin + lane * 4; i < end; i += 128)
        {
            float4 v = next;
            if (i + 128 < end)
                next = load_four(from + i + 128);
            v.x = change(i, v.x);
            v.y = change(i + 1, v.y);
            v.z = change(i + 2, v.z);
            v.w = change(i + 3, v.w);
            if (WRITE)
                *(float4 *)(to + i) = v;
        }
        return;
    }
    for (int i = begin + lane; i < end; i += 32)
    {
        float v = change(i, from[i]);
        if (WRITE)
            to[i] = v;
    }
}

/// Probability of a score over the row's maximum, not divided by the sum; 0 for −∞.
__device__ __forceinline__ double weight_of(float score, float most) { return exp_of((double)score - (double)most); }

/// The largest score so far and the sum of the weights relative to it.
struct Mass
{
    float most;
    double sum;

    __device__ __forceinline__ Mass() : most(minus_infinity()), sum(0.0) {}

    __device__ __forceinline__ void add(float v)
    {
        bool higher = v > most;
        double e = v == minus_infinity() ? 0.0 : exp_of(higher ? (double)most - (double)v : (double)v - (double)most);
        sum = higher ? fma(sum, e, 1.0) : sum + e;
        most = higher ? v : most;
    }

    /// The block's, the same in every thread; the warps' sums are left in room.segments.
    __device__ __forceinline__ void gather(SampleRoom &room)
    {
        float largest = block_max(most, room.maxima, Threads);
        double part = warp_sum(sum == 0.0 ? 0.0 : sum * weight_of(most, largest));
        if ((threadIdx.x & 31) == 0)
            room.segments[threadIdx.x >> 5] = part;
        __syncthreads();
        most = largest;
        sum = 0.0;
        for (int w = 0; w < Warps; w++)
            sum += room.segments[w];
    }
};

__device__ __forceinline__ u64 shuffle_up(u64 x, int distance)
{
    return ((u64)shuffle_up((unsigned)(x >> 32), distance) << 32) | shuffle_up((unsigned)x, distance);
}

/// The last lane's.
__device__ __forceinline__ double warp_last(double x)
{
    u64 bits = (u64)bits_of(x);
    unsigned low, high;
    asm volatile("shfl.sync.idx.b32 %0, %1, 31, 31, 0xffffffff;" : "=r"(low) : "r"((unsigned)bits));
    asm volatile("shfl.sync.idx.b32 %0, %1, 31, 31, 0xffffffff;" : "=r"(high) : "r"((unsigned)(bits >> 32)));
    return double_of((i64)(((u64)high << 32) | low));
}

/// Sum of this and all lanes before.
template <typename T> __device__ __forceinline__ T warp_sum_up_to(T x)
{
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1)
    {
        T other = shuffle_up(x, distance);
        x = (int)(threadIdx.x & 31) >= distance ? x + other : x;
    }
    return x;
}
/// Sum of this and all threads before; room holds a number a warp. Begins and ends with a barrier.
template <typename T> __device__ __forceinline__ T block_sum_up_to(T x, T *room)
{
    int warp = threadIdx.x >> 5;
    x = warp_sum_up_to(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 31)
        room[warp] = x;
    __syncthreads();
    T before = 0;
    for (int w = 0; w < warp; w++)
        before += room[w];
    __syncthreads();
    return before + x;
}

/// The key v such that the amounts of keys above v are less than `target` and those of v and above reach it (ascending: those below, `taken` of
/// them not here, and up to v, exceed it); amount(i) of element i is an integer. Four passes, the highest digit first.
template <bool ASCENDING, typename Score, typename Amount> __device__ __forceinline__ unsigned find_key(int n, u64 target, u64 taken, Score score, Amount amount, SampleRoom &room)
{
    unsigned prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8)
    {
        for (int b = threadIdx.x; b < 256; b += Threads)
            room.bins[b] = 0;
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < n; i += Threads)
        {
            unsigned key = order_of(score(i));
            if (shift == 24 || (key >> (shift + 8)) == (prefix >> (shift + 8)))
                add_shared(&room.bins[(key >> shift) & 255], amount(i));
        }
        __syncthreads();
        // A thread a digit: the first with which the sum reaches the target; where none does, the last.
        int digit = ASCENDING ? (int)threadIdx.x : 255 - (int)threadIdx.x;
        u64 own = threadIdx.x < 256 ? room.bins[digit] : 0, with = taken + block_sum_up_to(own, room.bins), before = with - own;
        bool here = ASCENDING ? with > target : with >= target, earlier = threadIdx.x > 0 && (ASCENDING ? before > target : before >= target);
        if (threadIdx.x < 256 && !earlier && (here || threadIdx.x == 255))
        {
            room.taken = before;
            room.prefix = prefix | ((unsigned)digit << shift);
        }
        __syncthreads();
        prefix = room.prefix;
        taken = room.taken;
        __syncthreads();
    }
    return prefix;
}

/// The bin at which the counts, from the largest scores on, reach k; room.count: how many they and those above are.
__device__ __forceinline__ unsigned bin_of_count(int k, SampleRoom &room)
{
    // Eight bins a thread, the highest first.
    int high = 4096 - 8 * (int)threadIdx.x;
    u64 own = 0;
    for (int i = 1; i <= 8; i++)
        own += room.counts[high - i];
    u64 with = block_sum_up_to(own, room.bins), before = with - own;
    if (before < (u64)k && with >= (u64)k)
    {
        while (before < (u64)k)
            before += room.counts[--high];
        room.prefix = (unsigned)high;
        room.count = (int)before;
    }
    __syncthreads();
    return room.prefix;
}

/// The bin at which the masses, from the smallest scores on, exceed target (else the last); room.taken: what lies below.
__device__ __forceinline__ unsigned bin_of_mass(u64 target, SampleRoom &room)
{
    int low = 8 * (int)threadIdx.x;
    u64 own = 0;
    for (int i = 0; i < 8; i++)
        own += room.masses[low + i];
    u64 with = block_sum_up_to(own, room.bins), before = with - own;
    if (before <= target && (with > target || threadIdx.x == Threads - 1))
    {
        int bin = low;
        while (bin < low + 7 && before + room.masses[bin] <= target)
            before += room.masses[bin++];
        room.prefix = (unsigned)bin;
        room.taken = before;
    }
    __syncthreads();
    return room.prefix;
}
