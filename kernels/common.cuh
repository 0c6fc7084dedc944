// What every kernel shares: the language of CUDA without its headers, vector loads, and sums over warps and blocks.
// clang compiles with -nocudainc -nocudalib, so the few names that CUDA's headers would declare are declared here;
// nvcc brings its own. Rounding is written out: contraction is off in both compilers (-ffp-contract=off, -fmad=false),
// and a fused multiply-add stands where fma() is called, so that both compilers give the same numbers.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef long long i64;
typedef unsigned long long u64;

#if !defined(__CUDACC_VER_MAJOR__)
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define INDEX(name, register)                                                                                            \
    struct name##_type                                                                                                   \
    {                                                                                                                    \
        __declspec(property(get = get_x)) int x;                                                                         \
        __declspec(property(get = get_y)) int y;                                                                         \
        __declspec(property(get = get_z)) int z;                                                                         \
        static __device__ __forceinline__ int get_x() { return __nvvm_read_ptx_sreg_##register##_x(); }                  \
        static __device__ __forceinline__ int get_y() { return __nvvm_read_ptx_sreg_##register##_y(); }                  \
        static __device__ __forceinline__ int get_z() { return __nvvm_read_ptx_sreg_##register##_z(); }                  \
    };                                                                                                                   \
    extern const __device__ name##_type name;
INDEX(threadIdx, tid)
INDEX(blockIdx, ctaid)
INDEX(blockDim, ntid)
INDEX(gridDim, nctaid)
#undef INDEX
typedef float float2 __attribute__((ext_vector_type(2)));
typedef float float4 __attribute__((ext_vector_type(4)));
typedef unsigned uint2 __attribute__((ext_vector_type(2)));
typedef unsigned uint4 __attribute__((ext_vector_type(4)));

__device__ __forceinline__ float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__device__ __forceinline__ double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
__device__ __forceinline__ float square_root(float x) { return __builtin_sqrtf(x); }
__device__ __forceinline__ float absolute(float x) { return __builtin_fabsf(x); }
__device__ __forceinline__ double absolute(double x) { return __builtin_fabs(x); }
__device__ __forceinline__ int bits_of(float x) { return __builtin_bit_cast(int, x); }
__device__ __forceinline__ long long bits_of(double x) { return __builtin_bit_cast(long long, x); }
__device__ __forceinline__ float float_of(int bits) { return __builtin_bit_cast(float, bits); }
__device__ __forceinline__ double double_of(long long bits) { return __builtin_bit_cast(double, bits); }
__device__ __forceinline__ unsigned shared_address(const void *p) { return (unsigned)(u64)(const __attribute__((address_space(3))) void *)p; }
__device__ __forceinline__ u64 global_address(const void *p) { return (u64)(const __attribute__((address_space(1))) void *)p; }
__device__ __forceinline__ float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }
__device__ __forceinline__ float2 make_float2(float x, float y) { return float2{x, y}; }
__device__ __forceinline__ uint2 make_uint2(unsigned x, unsigned y) { return uint2{x, y}; }
__device__ __forceinline__ uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4{x, y, z, w}; }
#else
__device__ __forceinline__ float square_root(float x) { return __fsqrt_rn(x); }
__device__ __forceinline__ float absolute(float x) { return fabsf(x); }
__device__ __forceinline__ double absolute(double x) { return fabs(x); }
__device__ __forceinline__ int bits_of(float x) { return __float_as_int(x); }
__device__ __forceinline__ long long bits_of(double x) { return __double_as_longlong(x); }
__device__ __forceinline__ float float_of(int bits) { return __int_as_float(bits); }
__device__ __forceinline__ double double_of(long long bits) { return __longlong_as_double(bits); }
__device__ __forceinline__ unsigned shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ __forceinline__ u64 global_address(const void *p) { return (u64)__cvta_generic_to_global(p); }
#endif

/// Pointer that no other pointer of the kernel overlaps.
#define PLAIN __restrict__
/// An entry point under its plain name.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
/// The same where at least `blocks` must fit on a multiprocessor, which bounds the registers.
#define KERNEL_OF(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

/// Shared memory whose size the launch gives.
extern __shared__ __align__(16) u8 dynamic_shared[];

// Element types of weights, by wrapper so that fp16 and bf16 are told apart.
struct F16
{
    u16 bits;
};
struct BF16
{
    u16 bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(BF16 x) { return float_of((int)((unsigned)x.bits << 16)); }
__device__ __forceinline__ float widen(F16 x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
/// Nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ void narrow(float x, float &y) { y = x; }
__device__ __forceinline__ void narrow(float x, F16 &y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
/// Two floats to a pair of bf16, the first in the low half; nearest, ties to even.
__device__ __forceinline__ unsigned pack_bf16(float low, float high)
{
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ void narrow(float x, BF16 &y) { y.bits = (u16)pack_bf16(x, 0.0f); }
__device__ __forceinline__ float low_bf16(unsigned pair) { return float_of((int)(pair << 16)); }
__device__ __forceinline__ float high_bf16(unsigned pair) { return float_of((int)(pair & 0xFFFF0000u)); }

/// True where every pointer may be read by 16 bytes.
__device__ __forceinline__ bool aligned16(const void *a, const void *b = nullptr, const void *c = nullptr, const void *d = nullptr, const void *e = nullptr)
{
    return (((u64)a | (u64)b | (u64)c | (u64)d | (u64)e) & 15) == 0;
}

/// 16 bytes of global memory in one instruction; the compiler would take them apart where only elements are used, and ask for each sector several times.
__device__ __forceinline__ float4 load_four(const float *p)
{
    float x, y, z, w;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "l"(global_address(p)) : "memory");
    return make_float4(x, y, z, w);
}
/// 8 bytes, likewise.
__device__ __forceinline__ uint2 load_two(const void *p)
{
    unsigned x, y;
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(x), "=r"(y) : "l"(global_address(p)) : "memory");
    return make_uint2(x, y);
}
__device__ __forceinline__ int popcount(unsigned x)
{
    int n;
    asm("popc.b32 %0, %1;" : "=r"(n) : "r"(x));
    return n;
}
/// Lanes of the warp where the answer is yes; every lane takes part.
__device__ __forceinline__ unsigned lanes_with(bool yes)
{
    unsigned lanes;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff; }" : "=r"(lanes) : "r"((unsigned)yes));
    return lanes;
}

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

/// The larger; NaN where one is (so that a broken number shows in the result).
__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }

__device__ __forceinline__ float positive_infinity() { return float_of(0x7F800000); }
__device__ __forceinline__ float not_a_number() { return float_of(0x7FC00000); }

// Values of other lanes of the warp; every lane takes part.
__device__ __forceinline__ unsigned shuffle_xor(unsigned x, int mask)
{
    unsigned y;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(y) : "r"(x), "r"(mask));
    return y;
}
__device__ __forceinline__ int shuffle_xor(int x, int mask) { return (int)shuffle_xor((unsigned)x, mask); }
__device__ __forceinline__ float shuffle_xor(float x, int mask) { return float_of((int)shuffle_xor((unsigned)bits_of(x), mask)); }
__device__ __forceinline__ double shuffle_xor(double x, int mask)
{
    u64 bits = (u64)bits_of(x);
    unsigned low = shuffle_xor((unsigned)bits, mask), high = shuffle_xor((unsigned)(bits >> 32), mask);
    return double_of((i64)(((u64)high << 32) | low));
}
/// The value of the lane `distance` below; lanes below `distance` keep their own.
__device__ __forceinline__ unsigned shuffle_up(unsigned x, int distance)
{
    unsigned y;
    asm volatile("shfl.sync.up.b32 %0, %1, %2, 0, 0xffffffff;" : "=r"(y) : "r"(x), "r"(distance));
    return y;
}
__device__ __forceinline__ double shuffle_up(double x, int distance)
{
    u64 bits = (u64)bits_of(x);
    unsigned low = shuffle_up((unsigned)bits, distance), high = shuffle_up((unsigned)(bits >> 32), distance);
    return double_of((i64)(((u64)high << 32) | low));
}

/// The warp's lanes wait for each other; what they wrote before is seen after.
__device__ __forceinline__ void warp_barrier() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

/// Sum over the warp, the same in every lane, in the fixed order of a butterfly.
template <typename T> __device__ __forceinline__ T warp_sum(T x)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
        x += shuffle_xor(x, mask);
    return x;
}
/// Largest over the warp, the same in every lane; NaN where a lane has one.
__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
        x = larger(x, shuffle_xor(x, mask));
    return x;
}

/// Sum over a block of `threads` (a multiple of 32, at most 1024), the same in every thread, in a fixed order; `room`
/// holds 32 numbers of shared memory. Ends with a barrier, so that room may be used again at once.
template <typename T> __device__ __forceinline__ T block_sum(T x, T *room, int threads)
{
    x = warp_sum(x);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    T sum = 0;
#pragma unroll 4
    for (int i = 0; i < threads >> 5; i++)
        sum += room[i];
    __syncthreads();
    return sum;
}
/// Largest over a block, as block_sum.
__device__ __forceinline__ float block_max(float x, float *room, int threads)
{
    x = warp_max(x);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    float most = room[0];
    for (int i = 1; i < threads >> 5; i++)
        most = larger(most, room[i]);
    __syncthreads();
    return most;
}
