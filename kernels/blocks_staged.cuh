// How blocks come to shared memory, and eight elements of any type from there.
#pragma once
#include "blocks.cuh"
#include "mma.cuh"

/// LLM.int8: q·scales[row]·(1/127), left to right; eight bytes count as a block.
struct Int8 : BlockOf<8, 8>
{
    static const bool rows = true;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int, float2 of, const u8 *)
    {
        unsigned w[2];
        eight_bytes<4>(w, s, at);
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = byte_of(w[e >> 2] ^ 0x80808080, e & 3, 128.0f) * of.x * (1.0f / 127.0f);
    }
};
#define FOR_EVERY_FORM(EACH) FOR_COMMON_TYPES(EACH) FOR_RARE_TYPES(EACH) EACH(-1, Int8)

/// Where a matrix of blocks, or of LLM.int8's rows, lies; passed by value, 48 bytes. start: number of the operand's first element in the
/// matrix; for products a row begins there.
struct BlocksParams
{
    const u8 *data;
    const float *scales; // int8: one a row
    const u8 *grid;      // IQ types: the points of their grid
    i64 start;
    int type;    // ggml's number; −1 int8
    int columns; // int8: elements of a row
    int width;   // bytes of 256 elements
    int shift;   // log2 of the elements of a block; int8: 3
};

// ---- bytes to shared memory ----

/// The value of the lane above; the last lane keeps its own.
__device__ __forceinline__ unsigned shuffle_down(unsigned x)
{
    unsigned y;
    asm volatile("shfl.sync.down.b32 %0, %1, 1, 31, 0xffffffff;" : "=r"(y) : "r"(x));
    return y;
}
__device__ __forceinline__ unsigned global_byte(u64 at)
{
    unsigned x;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
    return x;
}
/// Four bytes at a multiple of 4, those outside of first … end − 1 zero.
__device__ __forceinline__ unsigned global_word(u64 at, u64 first, u64 end)
{
    unsigned x = 0;
    if (at >= first && at + 4 <= end)
        asm volatile("ld.global.b32 %0, [%1];" : "=r"(x) : "l"(at) : "memory");
    else
#pragma unroll 1
        for (int i = 0; i < 4; i++)
            if (at + i >= first && at + i < end)
                x |= global_byte(at + i) << (8 * i);
    return x;
}
/// Room for a piece of a row of `bytes` bytes, wherever they lie, and a word behind it.
constexpr __device__ __forceinline__ int piece_room(int bytes) { return (bytes + 28) & ~15; }
/// Where in its room the first byte of a piece lies.
__device__ __forceinline__ int piece_start(unsigned from) { return (int)(from & 12); }

/// What of a block a piece needs: its first `header` bytes, and `length` bytes from `begin` on.
struct Needed
{
    int header, begin, length;
};

/// Chunks of 16 bytes, a lane each, for 512 bytes at a time: `left` are to come, which may be less than nothing.
template <int TURNS, bool PARTS> __device__ __forceinline__ void copy_chunks(unsigned to, u64 from, int left, int at, const Needed &needed)
{
    if (left < 0)
        return;
    if (!PARTS || at < needed.header || (at + 16 > needed.begin && at < needed.begin + needed.length))
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(smaller(16, left)) : "memory");
    if constexpr (TURNS > 1)
        copy_chunks<TURNS - 1, PARTS>(to + 512, from + 512, left - 512, at + 512, needed);
}

/// The warp copies bytes from … from + bytes − 1 of global memory, at most 512·TURNS − 28, to `to` + piece_start, in the background where they lie
/// at a multiple of 4. No byte below `lowest`, where the matrix begins, is read, and none behind the last: there are zeros, a word at least.
template <int TURNS, bool PARTS> __device__ __forceinline__ void stage_bytes(u8 *to, u64 from, int bytes, u64 lowest, const Needed &needed)
{
    int lane = threadIdx.x & 31, skip = (int)from & 12;
    u64 first = from & ~(u64)15;
    if (((int)from & 3) == 0 && first >= lowest)
    {
        copy_chunks<TURNS, PARTS>(shared_address(to) + lane * 16, first + lane * 16, skip + bytes - lane * 16, lane * 16 - skip, needed);
        return;
    }
    // A lane a word, which takes bytes of two; the next lane has the other.
    u64 word = from & ~(u64)3, end = from + bytes;
    int words = (bytes >> 2) + 1;
    unsigned by = (unsigned)from << 3;
#pragma unroll 1
    for (int w = lane; w - lane < words; w += 31)
    {
        unsigned low = global_word(word + 4 * w, lowest, end), high = shuffle_down(low);
        if (lane < 31 && w < words)
            *(unsigned *)(to + skip + 4 * w) = funnel(low, high, by);
    }
}

/// A grid to shared memory by all threads of the block, in the background.
template <int THREADS> __device__ __forceinline__ void stage_grid(u8 *to, const u8 *grid, int bytes)
{
#pragma unroll 1
    for (int at = threadIdx.x * 16; at < bytes; at += THREADS * 16)
        copy_async(to + at, grid + at, 16);
}

// ---- eight elements ----

/// x, of which the compiler knows nothing any more: it would else make a loop of its own for every type, or keep what every type makes of a
/// lane's number in registers.
__device__ __forceinline__ int hidden(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/// Element `element` and the seven after it, of blocks in a row that begin at `place` in s: of one type, its scales made for these eight alone.
template <typename B> struct OneType
{
    static const int grid = B::grid;

    static __device__ __forceinline__ void eight(float (&v)[8], const BlocksParams &, const u8 *s, int place, int element, float2 of, const u8 *points)
    {
        int at = place + element / B::elements * B::bytes, i = element % B::elements / 8;
        B::eight(v, s, at, i, B::groups ? B::group(s, at, i * B::groups / 32) : of, points);
    }
};
/// Bytes of the grid of a type.
__device__ __forceinline__ int grid_bytes(int type)
{
    switch (type)
    {
#define EACH(number, Type) case number: return Type::grid;
        FOR_EVERY_FORM(EACH)
#undef EACH
    }
    return 0;
}
/// The same of the type that c names.
struct AnyType
{
    static const int grid = 1;

    static __device__ __forceinline__ void eight(float (&v)[8], const BlocksParams &c, const u8 *s, int place, int element, float2 of, const u8 *points)
    {
        switch (hidden(c.type))
        {
#define EACH(number, Type) case number: OneType<Type>::eight(v, c, s, place, element, of, points); break;
            FOR_EVERY_FORM(EACH)
#undef EACH
        }
    }
};
