// 4-bit codes as quantised.cu reads them: where they lie, values found by shuffles, tiles of a product.
#pragma once
#include "packed.cuh"

/// Where a 4-bit matrix lies; passed by value, 72 bytes. start: number of the operand's first element in the matrix.
struct CodesParams
{
    const u8 *data;
    const float *code; // 16 values
    const float *absmax; // plain; else null
    const u8 *scaleCodes;
    const float *nestedScales;
    const float *nestedMap; // 256 values
    i64 start;
    float offset;
    int blockShift;  // log2 of the block size
    int nestedShift; // log2 of the number of scales that share one
    int reserved;
};

__device__ __forceinline__ float scale_of(const CodesParams &c, i64 block)
{
    if (c.absmax != nullptr)
        return c.absmax[block];
    float product = c.nestedMap[c.scaleCodes[block]] * c.nestedScales[block >> c.nestedShift];
    return product + c.offset;
}

/// Value of one element.
__device__ __forceinline__ float code_value(const CodesParams &c, i64 i)
{
    i64 at = c.start + i;
    unsigned byte = c.data[at >> 1];
    return c.code[(at & 1) ? byte & 15 : byte >> 4] * scale_of(c, at >> c.blockShift);
}

/// True where rows of `row` elements are whole blocks of 64 or more that start at 16 bytes of codes.
__device__ __forceinline__ bool codes_in_rows(const CodesParams &c, i64 row) { return c.blockShift >= 6 && ((c.start | row) & 63) == 0 && ((u64)c.data & 15) == 0; }

// ---- values from lanes; every lane of the warp takes part ----

/// The value of the lane `from`.
__device__ __forceinline__ unsigned shuffle(unsigned x, int from)
{
    unsigned y;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(y) : "r"(x), "r"(from));
    return y;
}
__device__ __forceinline__ float shuffle(float x, int from) { return float_of((int)shuffle((unsigned)bits_of(x), from)); }

/// The code book, a value a lane, twice in a warp.
struct Book
{
    float entry;

    __device__ __forceinline__ explicit Book(const float *code) : entry(code[threadIdx.x & 15]) {}

    /// The value of the code in the low four bits of x; those above do not matter.
    __device__ __forceinline__ float operator()(unsigned x) const
    {
        float y;
        asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x101f, 0xffffffff;" : "=f"(y) : "f"(entry), "r"(x));
        return y;
    }

    /// The four elements of two bytes, which stand `low` bits up in the word.
    __device__ __forceinline__ float4 four(unsigned word, int low, float scale) const
    {
        return make_float4((*this)(word >> (low + 4)) * scale, (*this)(word >> low) * scale, (*this)(word >> (low + 12)) * scale, (*this)(word >> (low + 8)) * scale);
    }
};

/// The 256 values of double quantised scales, eight a lane: entry i is number i / 32 of lane i % 32. Nothing where scales are plain.
struct NestedMap
{
    float values[8];

    __device__ __forceinline__ explicit NestedMap(const CodesParams &c)
    {
#pragma unroll
        for (int i = 0; i < 8; i++)
            values[i] = c.absmax == nullptr ? c.nestedMap[i * 32 + (threadIdx.x & 31)] : 0.0f;
    }

    __device__ __forceinline__ float operator()(unsigned code) const
    {
        float value = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++)
        {
            float here = shuffle(values[i], (int)(code & 31));
            value = code >> 5 == (unsigned)i ? here : value;
        }
        return value;
    }
};

/// A block's scale as it is stored: read first, made when it is needed.
struct StoredScale
{
    float number;
    unsigned code;

    __device__ __forceinline__ StoredScale() : number(0.0f), code(0) {}

    __device__ __forceinline__ void read(const CodesParams &c, i64 block)
    {
        if (c.absmax != nullptr)
        {
            number = c.absmax[block];
            return;
        }
        code = c.scaleCodes[block];
        number = c.nestedScales[block >> c.nestedShift];
    }

    __device__ __forceinline__ float value(const CodesParams &c, const NestedMap &map) const
    {
        if (c.absmax != nullptr)
            return number;
        float product = map(code) * number;
        return product + c.offset;
    }
};

// ---- tiles of a product ----

/// The matrix as packed.cuh reads it, element by element: where rows are not whole blocks.
struct Codes
{
    const CodesParams &c;

    __device__ __forceinline__ void eight(float (&v)[8], i64 i, int n) const
    {
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = e < n ? code_value(c, i + e) : 0.0f;
    }
};

__device__ __forceinline__ unsigned halves_swapped(unsigned word, bool swap)
{
    unsigned y;
    asm("prmt.b32 %0, %1, %1, %2;" : "=r"(y) : "r"(word), "r"(swap ? 0x1032u : 0x3210u));
    return y;
}

/// Tiles [64][32] of W [N, K]: two threads a row. Codes are read for two tiles at once, 16 bytes a thread and so whole sectors, while the
/// tile before is multiplied; scales for eight tiles of 64 at once, a lane each, and kept in shared memory.
struct CodeTilesOfRows
{
    static const int ScaleRows = 20, Scales = 8 * ScaleRows;
    const CodesParams &c;
    Book book;
    float *scales; // of the warp, [8][ScaleRows]: rows apart in the banks
    int k, rows;   // depth; rows of the warp that exist, of 16
    i64 start;     // element of the warp's first row
    uint4 words;   // half h of 64 elements of the row
    unsigned later[2];

    __device__ __forceinline__ CodeTilesOfRows(const MatMulParams &p, const CodesParams &c, float *room, int col) : c(c), book(c.code), scales(room + (threadIdx.x >> 5) * Scales), k(p.k)
    {
        int row = col + (threadIdx.x >> 5) * 16;
        rows = p.n - row;
        start = c.start + (i64)row * p.k;
        later[0] = later[1] = 0;
        fetch(0);
    }

    __device__ __forceinline__ void fetch(int k0)
    {
        int lane = threadIdx.x & 31, r = lane >> 1;
        words = make_uint4(0, 0, 0, 0);
        if (r < rows)
            words = *(const uint4 *)(c.data + ((start + (i64)r * k + k0 + (lane & 1) * 32) >> 1));
    }

    /// Scales of the next 512 elements of the warp's rows.
    __device__ __forceinline__ void fetch_scales(int k0)
    {
        NestedMap map(c);
        StoredScale stored[4];
        int lane = threadIdx.x & 31, s = lane & 7, last = smaller(511, k - k0 - 1);
#pragma unroll
        for (int i = 0; i < 4; i++)
        {
            int r = i * 4 + (lane >> 3);
            i64 at = start + (i64)r * k + k0, block = (at >> c.blockShift) + s;
            if (r < rows && block <= (at + last) >> c.blockShift)
                stored[i].read(c, block);
        }
        warp_barrier();
#pragma unroll
        for (int i = 0; i < 4; i++)
            scales[s * ScaleRows + i * 4 + (lane >> 3)] = stored[i].value(c, map);
        warp_barrier();
    }

    __device__ __forceinline__ void operator()(u8 *to, int k0)
    {
        int lane = threadIdx.x & 31, r = lane >> 1;
        bool odd = lane & 1;
        unsigned now[2];
        if ((k0 & 511) == 0)
            fetch_scales(k0);
        if (k0 & 32)
        {
            now[0] = later[0];
            now[1] = later[1];
            if (k0 + 32 < k)
                fetch(k0 + 32);
        }
        else
        {
            // A thread holds a tile's half of the row; it wants half of both tiles'.
            unsigned x = shuffle_xor(odd ? words.x : words.z, 1), y = shuffle_xor(odd ? words.y : words.w, 1);
            now[0] = odd ? x : words.x;
            now[1] = odd ? y : words.y;
            later[0] = odd ? words.z : x;
            later[1] = odd ? words.w : y;
        }
        i64 at = start + (i64)r * k + (k0 & ~511);
        float scale = scales[(((int)(at & ((1LL << c.blockShift) - 1)) + (k0 & 511)) >> c.blockShift) * ScaleRows + r];
        // Every other row writes its chunks in turned pairs, else eight lanes would meet in half of the banks.
        int row = (threadIdx.x >> 5) * 16 + r, turn = r & 1;
#pragma unroll
        for (int w = 0; w < 2; w++)
        {
            unsigned word = halves_swapped(now[w], turn);
            int chunk = odd * 4 + w * 2;
            *(float4 *)(to + chunk_offset<4, 32>(row, chunk + turn)) = book.four(word, 0, scale);
            *(float4 *)(to + chunk_offset<4, 32>(row, (chunk + 1) ^ turn)) = book.four(word, 16, scale);
        }
    }
};

/// Tiles [32][64] of W [K, N]: four threads a row, 8 bytes of codes and one scale each, read while the tile before is multiplied.
struct CodeTilesOfColumns
{
    const CodesParams &c;
    Book book;
    NestedMap map;
    int k;
    i64 n, at; // columns; element of the thread's first code
    bool inside;
    uint2 words;
    StoredScale stored;

    __device__ __forceinline__ CodeTilesOfColumns(const MatMulParams &p, const CodesParams &c, int col) : c(c), book(c.code), map(c), k(p.k), n(p.n)
    {
        int first = col + (threadIdx.x & 3) * 16;
        inside = first < p.n;
        at = c.start + (i64)(threadIdx.x >> 2) * p.n + first;
        fetch(0);
    }

    __device__ __forceinline__ void fetch(int k0)
    {
        words = make_uint2(0, 0);
        stored = StoredScale();
        if (inside && k0 + (int)(threadIdx.x >> 2) < k)
        {
            i64 i = at + (i64)k0 * n;
            words = load_two(c.data + (i >> 1));
            stored.read(c, i >> c.blockShift);
        }
    }

    __device__ __forceinline__ void operator()(u8 *to, int k0)
    {
        int row = threadIdx.x >> 2, quarter = threadIdx.x & 3, turn = quarter >> 1, exchange = row & 1;
        float scale = stored.value(c, map);
        // Chunks are written in turned pairs and exchanged pairs of pairs, so that eight lanes meet in no bank.
        unsigned first = halves_swapped(exchange ? words.y : words.x, turn), second = halves_swapped(exchange ? words.x : words.y, turn);
        int chunk = quarter * 4 + exchange * 2, other = quarter * 4 + (exchange ^ 1) * 2;
        *(float4 *)(to + chunk_offset<4, 64>(row, chunk + turn)) = book.four(first, 0, scale);
        *(float4 *)(to + chunk_offset<4, 64>(row, (chunk + 1) ^ turn)) = book.four(first, 16, scale);
        *(float4 *)(to + chunk_offset<4, 64>(row, other + turn)) = book.four(second, 0, scale);
        *(float4 *)(to + chunk_offset<4, 64>(row, (other + 1) ^ turn)) = book.four(second, 16, scale);
        if (k0 + 32 < k)
            fetch(k0 + 32);
    }
};
