// ggml's quantised blocks (GGUF files), bit for bit as src/Repeng.Kernels/Quantised decodes them, and LLM.int8's rows: unpacking, look-ups, and
// products that decode what they read, eight elements a thread. Blocks need no alignment: bytes are read one by one (they come from the
// cache: a warp's elements share a few sectors). unpack_TYPE_*: one type each, single elements; the others take the type as a number, the
// same in every thread. Floor: the blocks read once and the outputs written once over the bandwidth; products as those of matmul.cu.
//! blocks | unpack_*_f32, unpack_*_bf16 | block 256 | grid ceil(count / 1024) | shared 0 | data: the matrix's first block; elements first ... first + count - 1, first any number
//! blocks | unpack_blocks, unpack_blocks_bf16 | block 128 | grid ceil((start % 8 + count) / 1024) | shared 0
//! blocks | lookup_blocks | block 128 | grid (rows, ceil(dim / 1024)) | shared 0
//! blocks | matmul_blocks_nt, matmul_blocks_nn | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 0 | MatMulParams (b is not read), then BlocksParams
//! blocks | matvec_blocks_1, _2, _4, _8 | block 256 | grid ceil(n / 8) | shared 0 | as matvec_* of matmul.cu, then BlocksParams
#include "packed.cuh"

__device__ __forceinline__ float half_at(const u8 *p)
{
    F16 h = {(u16)(p[0] | p[1] << 8)};
    return widen(h);
}

// Each type: values and bytes of a block, and the value of element i of a block.

struct Q8_0
{
    static const int elements = 32, bytes = 34;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)(signed char)p[2 + i]; }
};

/// Nibble i of 16 bytes: the low ones first.
__device__ __forceinline__ int nibble_of_32(const u8 *codes, int i) { return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4; }
/// Bit i of four bytes, as 16.
__device__ __forceinline__ int fifth_bit(const u8 *bits, int i) { return ((bits[i >> 3] >> (i & 7)) & 1) << 4; }

struct Q4_0
{
    static const int elements = 32, bytes = 18;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)(nibble_of_32(p + 2, i) - 8); }
};
struct Q4_1
{
    static const int elements = 32, bytes = 20;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)nibble_of_32(p + 4, i) + half_at(p + 2); }
};
struct Q5_0
{
    static const int elements = 32, bytes = 22;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)((nibble_of_32(p + 6, i) | fifth_bit(p + 2, i)) - 16); }
};
struct Q5_1
{
    static const int elements = 32, bytes = 24;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)(nibble_of_32(p + 8, i) | fifth_bit(p + 4, i)) + half_at(p + 2); }
};

struct Q2_K
{
    static const int elements = 256, bytes = 84;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        int sub = i >> 4, half = i >> 7, q = (p[16 + 32 * half + (i & 31)] >> (2 * ((i >> 5) & 3))) & 3, scales = p[sub];
        return (half_at(p + 80) * (float)(scales & 15)) * (float)q + -(half_at(p + 82) * (float)(scales >> 4));
    }
};
struct Q3_K
{
    static const int elements = 256, bytes = 110;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        int sub = i >> 4, group = i >> 5;
        const u8 *packed = p + 96;
        int low = sub < 8 ? packed[sub] & 15 : packed[sub - 8] >> 4, high = (packed[8 + (sub & 3)] >> (2 * (sub >> 2))) & 3;
        int q = (p[32 + 32 * (i >> 7) + (i & 31)] >> (2 * (group & 3))) & 3, third = ((p[i & 31] >> group) & 1) << 2;
        return (half_at(p + 108) * (float)((low | high << 4) - 32)) * (float)(q + third - 4);
    }
};

/// d·scale and −dmin·min of sub-block `sub` of Q4_K and Q5_K.
__device__ __forceinline__ void scale_and_min(const u8 *p, int sub, float &scale, float &min)
{
    const u8 *packed = p + 4;
    int s, m;
    if (sub < 4)
    {
        s = packed[sub] & 63;
        m = packed[sub + 4] & 63;
    }
    else
    {
        s = (packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4;
        m = (packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4;
    }
    scale = half_at(p) * (float)s;
    min = -(half_at(p + 2) * (float)m);
}

struct Q4_K
{
    static const int elements = 256, bytes = 144;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        int sub = i >> 5, byte = p[16 + 32 * (i >> 6) + (i & 31)];
        float scale, min;
        scale_and_min(p, sub, scale, min);
        return scale * (float)((sub & 1) ? byte >> 4 : byte & 15) + min;
    }
};
struct Q5_K
{
    static const int elements = 256, bytes = 176;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        int sub = i >> 5, byte = p[48 + 32 * (i >> 6) + (i & 31)], fifth = ((p[16 + (i & 31)] >> sub) & 1) << 4;
        float scale, min;
        scale_and_min(p, sub, scale, min);
        return scale * (float)(((sub & 1) ? byte >> 4 : byte & 15) | fifth) + min;
    }
};
struct Q6_K
{
    static const int elements = 256, bytes = 210;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        int half = i >> 7, quarter = (i >> 5) & 3, j = i & 31;
        int byte = p[64 * half + 32 * (quarter & 1) + j], low = quarter < 2 ? byte & 15 : byte >> 4, high = (p[128 + 32 * half + j] >> (2 * quarter)) & 3;
        float scale = half_at(p + 208) * (float)(signed char)p[192 + 8 * half + 2 * quarter + (j >> 4)];
        return scale * (float)((low | high << 4) - 32);
    }
};

/// The uneven steps of IQ4_NL and IQ4_XS; FP4 (E2M1), doubled so that it is whole.
__device__ __forceinline__ int uneven(int code)
{
    // Four bytes a word: chosen by shifts, since a table in memory would be read once a lane.
    unsigned word = code < 4 ? 0xBFAD9881u : code < 8 ? 0xF6EADDCFu : code < 12 ? 0x26190D01u : 0x71594535u;
    return (signed char)(word >> ((code & 3) * 8));
}
__device__ __forceinline__ int fp4_doubled(int code)
{
    int size = (int)((0xC8643210u >> ((code & 7) * 4)) & 15);
    return (code & 8) ? -size : size;
}

struct IQ4_NL
{
    static const int elements = 32, bytes = 18;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)uneven(nibble_of_32(p + 2, i)); }
};
struct IQ4_XS
{
    static const int elements = 256, bytes = 136;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        int sub = i >> 5, high = p[2] | p[3] << 8;
        int scale = ((p[4 + (sub >> 1)] >> (4 * (sub & 1))) & 15) | ((high >> (2 * sub)) & 3) << 4;
        return (half_at(p) * (float)(scale - 32)) * (float)uneven(nibble_of_32(p + 8 + 16 * sub, i & 31));
    }
};
struct MXFP4
{
    static const int elements = 32, bytes = 17;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        // 2^(e − 127) / 2; the lowest two are subnormal.
        int e = p[0];
        float half = float_of(e < 2 ? 0x00200000 << e : (int)((unsigned)(e - 1) << 23));
        return half * (float)fp4_doubled(nibble_of_32(p + 1, i));
    }
};

/// y[count] = elements first … of the matrix whose blocks begin at data.
template <typename Block, typename T> __device__ __forceinline__ void unpack(T *y, const u8 *data, i64 first, i64 count)
{
    i64 end = smaller(count, ((i64)blockIdx.x + 1) * 1024);
#pragma unroll 1
    for (i64 i = (i64)blockIdx.x * 1024 + threadIdx.x; i < end; i += 256)
    {
        i64 at = first + i, block = at / Block::elements;
        narrow(Block::value(data + block * Block::bytes, (int)(at - block * Block::elements)), y[i]);
    }
}

#define ENTRY(name, Type)                                                                                                \
    KERNEL(256) unpack_##name##_f32(float *y, const u8 *PLAIN data, i64 first, i64 count) { unpack<Type>(y, data, first, count); } \
    KERNEL(256) unpack_##name##_bf16(BF16 *y, const u8 *PLAIN data, i64 first, i64 count) { unpack<Type>(y, data, first, count); }
ENTRY(q4_0, Q4_0)
ENTRY(q4_1, Q4_1)
ENTRY(q5_0, Q5_0)
ENTRY(q5_1, Q5_1)
ENTRY(q8_0, Q8_0)
ENTRY(q2_k, Q2_K)
ENTRY(q3_k, Q3_K)
ENTRY(q4_k, Q4_K)
ENTRY(q5_k, Q5_K)
ENTRY(q6_k, Q6_K)
ENTRY(iq4_nl, IQ4_NL)
ENTRY(iq4_xs, IQ4_XS)
ENTRY(mxfp4, MXFP4)
#undef ENTRY

// ---- the rarer types ----

struct NVFP4
{
    static const int elements = 64, bytes = 36;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        // Half of an unsigned E4M3 number; its NaN counts as 0.
        int sub = i >> 4, bits = p[sub], exponent = (bits >> 3) & 15, mantissa = bits & 7, byte = p[4 + 8 * sub + (i & 7)];
        float half = bits == 0x7F ? 0.0f : exponent == 0 ? (float)mantissa * (1.0f / 1024) : (float)(8 + mantissa) * float_of((exponent - 11 + 127) << 23);
        return half * (float)fp4_doubled((i & 8) ? byte >> 4 : byte & 15);
    }
};
struct TQ1_0
{
    static const int elements = 256, bytes = 54;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        // Digits of base 3: five a byte for 160 and 80 values, four a byte for the last 16.
        int digit = i < 160 ? i >> 5 : i < 240 ? (i - 160) >> 4 : (i - 240) >> 2;
        int byte = p[i < 160 ? i & 31 : i < 240 ? 32 + (i & 15) : 48 + (i & 3)], power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
        return half_at(p + 52) * (float)((((byte * power) & 255) * 3 >> 8) - 1);
    }
};
struct TQ2_0
{
    static const int elements = 256, bytes = 66;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p + 64) * (float)(((p[32 * (i >> 7) + (i & 31)] >> (2 * ((i >> 5) & 3))) & 3) - 1); }
};
struct Q1_0
{
    static const int elements = 128, bytes = 18;
    static __device__ __forceinline__ float value(const u8 *p, int i)
    {
        float d = half_at(p);
        return (p[2 + (i >> 3)] >> (i & 7)) & 1 ? d : -d;
    }
};
struct Q2_0
{
    static const int elements = 64, bytes = 18;
    static __device__ __forceinline__ float value(const u8 *p, int i) { return half_at(p) * (float)(((p[2 + (i >> 2)] >> (2 * (i & 3))) & 3) - 1); }
};

// Points of a grid of 8 (or 4) values: grid[point·8 + i % 8], with signs, or shifted.

__device__ __forceinline__ unsigned short_at(const u8 *p) { return (unsigned)p[0] | (unsigned)p[1] << 8; }
__device__ __forceinline__ unsigned word_at(const u8 *p) { return short_at(p) | short_at(p + 2) << 16; }
/// Seven signs; the eighth makes their number even.
__device__ __forceinline__ unsigned signs_of(unsigned code) { return (code & 127) | (__builtin_popcount(code & 127) & 1) << 7; }
__device__ __forceinline__ float with_sign(int value, unsigned signs, int at) { return (float)((signs >> at) & 1 ? -value : value); }
__device__ __forceinline__ float quarter_scale(float d, const u8 *scales, int k) { return d * (0.5f + (float)((scales[k >> 2] >> (4 * ((k >> 1) & 1))) & 15)) * 0.25f; }

struct IQ2_XXS
{
    static const int elements = 256, bytes = 66;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        int k = (i >> 3) & 3;
        const u8 *codes = p + 2 + 8 * (i >> 5);
        unsigned rest = word_at(codes + 4);
        return half_at(p) * (0.5f + (float)(rest >> 28)) * 0.25f * with_sign(grid[codes[k] * 8 + (i & 7)], signs_of(rest >> (7 * k)), i & 7);
    }
};
struct IQ2_XS
{
    static const int elements = 256, bytes = 74;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        int k = i >> 3;
        unsigned code = short_at(p + 2 + 2 * k);
        return quarter_scale(half_at(p), p + 66, k) * with_sign(grid[(code & 511) * 8 + (i & 7)], signs_of(code >> 9), i & 7);
    }
};
struct IQ2_S
{
    static const int elements = 256, bytes = 82;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        int k = i >> 3, point = p[2 + k] | ((p[66 + (k >> 2)] >> (2 * (k & 3))) & 3) << 8;
        return quarter_scale(half_at(p), p + 74, k) * with_sign(grid[point * 8 + (i & 7)], p[34 + k], i & 7);
    }
};
struct IQ3_XXS
{
    static const int elements = 256, bytes = 98;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        int k = (i >> 3) & 3;
        unsigned rest = word_at(p + 66 + 4 * (i >> 5));
        return half_at(p) * (0.5f + (float)(rest >> 28)) * 0.5f * with_sign(grid[p[2 + (i >> 2)] * 4 + (i & 3)], signs_of(rest >> (7 * k)), i & 7);
    }
};
struct IQ3_S
{
    static const int elements = 256, bytes = 110;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        int k = i >> 2, sub = i >> 5, point = p[2 + k] | ((p[66 + sub] >> (k & 7)) & 1) << 8;
        return half_at(p) * (float)(1 + 2 * ((p[106 + (sub >> 1)] >> (4 * (sub & 1))) & 15)) * with_sign(grid[point * 4 + (i & 3)], p[74 + (i >> 3)], i & 7);
    }
};
struct IQ1_S
{
    static const int elements = 256, bytes = 50;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        int sub = i >> 5, k = (i >> 3) & 3, rest = (int)short_at(p + 34 + 2 * sub), point = p[2 + 4 * sub + k] | ((rest >> (3 * k)) & 7) << 8;
        return half_at(p) * (float)(2 * ((rest >> 12) & 7) + 1) * ((float)grid[point * 8 + (i & 7)] + ((rest & 0x8000) ? -0.125f : 0.125f));
    }
};
struct IQ1_M
{
    static const int elements = 256, bytes = 56;
    static __device__ __forceinline__ float value(const u8 *p, int i, const signed char *grid)
    {
        // The top nibbles of four words are the fp16 d; the rest of each four scales of three bits.
        int k = i >> 3, sub = i >> 4, rest = p[32 + (k >> 1)] >> (4 * (k & 1)), point = p[k] | (rest & 7) << 8;
        F16 d = {(u16)(p[49] >> 4 | (p[51] & 0xF0) | (p[53] & 0xF0) << 4 | (p[55] & 0xF0) << 8)};
        int scale = (short_at(p + 48 + 2 * (sub >> 2)) >> (3 * (sub & 3))) & 7;
        return widen(d) * (float)(2 * scale + 1) * ((float)grid[point * 8 + (i & 7)] + ((rest & 8) ? -0.125f : 0.125f));
    }
};

// ---- any type ----

/// Where a matrix of blocks, or of LLM.int8's rows, lies; passed by value, 40 bytes. start: number of the operand's first element in the
/// matrix, for blocks a multiple of 8, as their rows are whole blocks.
struct BlocksParams
{
    const u8 *data;
    const float *scales;     // int8: one a row
    const signed char *grid; // IQ types: the points of their grid
    i64 start;
    int type;    // ggml's number; −1 int8
    int columns; // int8: elements of a row
};

template <typename Block> __device__ __forceinline__ void eight_of(float (&v)[8], const u8 *data, i64 at)
{
    i64 block = at / Block::elements;
    const u8 *p = data + block * Block::bytes;
    int i = (int)(at - block * Block::elements) & ~7;
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = Block::value(p, i + e);
}
template <typename Block> __device__ __forceinline__ void eight_of(float (&v)[8], const u8 *data, i64 at, const signed char *grid)
{
    i64 block = at / Block::elements;
    const u8 *p = data + block * Block::bytes;
    int i = (int)(at - block * Block::elements) & ~7;
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = Block::value(p, i + e, grid);
}

/// The matrix as packed.cuh reads it.
struct Blocks
{
    const BlocksParams &c;

    __device__ __forceinline__ void eight(float (&v)[8], i64 i, int n) const
    {
        i64 at = c.start + i;
        // Hidden from the compiler, which would else make a loop of its own for every type.
        int type = c.type;
        asm volatile("" : "+r"(type));
        switch (type)
        {
#define CASE(number, Type) case number: eight_of<Type>(v, c.data, at); break;
            CASE(2, Q4_0) CASE(3, Q4_1) CASE(6, Q5_0) CASE(7, Q5_1) CASE(8, Q8_0) CASE(10, Q2_K) CASE(11, Q3_K) CASE(12, Q4_K) CASE(13, Q5_K) CASE(14, Q6_K)
            CASE(20, IQ4_NL) CASE(23, IQ4_XS) CASE(34, TQ1_0) CASE(35, TQ2_0) CASE(39, MXFP4) CASE(40, NVFP4) CASE(41, Q1_0) CASE(42, Q2_0)
#undef CASE
#define CASE(number, Type) case number: eight_of<Type>(v, c.data, at, c.grid); break;
            CASE(16, IQ2_XXS) CASE(17, IQ2_XS) CASE(18, IQ3_XXS) CASE(19, IQ1_S) CASE(21, IQ3_S) CASE(22, IQ2_S) CASE(29, IQ1_M)
#undef CASE
        default:
            rows(v, at, n);
        }
    }

    /// LLM.int8: q·scales[row]·(1/127), left to right; any eight elements.
    __device__ __forceinline__ void rows(float (&v)[8], i64 at, int n) const
    {
        i64 row = at / c.columns;
        int col = (int)(at - row * c.columns);
#pragma unroll
        for (int e = 0; e < 8; e++)
        {
            v[e] = e < n ? (float)(int)(signed char)c.data[at + e] * c.scales[row] * (1.0f / 127.0f) : 0.0f;
            bool last = ++col == c.columns;
            row += last ? 1 : 0;
            col = last ? 0 : col;
        }
    }
};

/// Elements start + first ... of the matrix to y, which has n of them: chunks of eight from multiples of 8 on, scaled.
template <typename T> __device__ __forceinline__ void write_eights(T *y, const BlocksParams &c, i64 first, i64 n, i64 chunk, float scale)
{
    // The chunk's first element, counted from y's; negative where y begins within the chunk.
    i64 begin = ((c.start + first) & ~(i64)7) - (c.start + first) + chunk * 8;
    if (begin >= n)
        return;
    float v[8];
    Blocks{c}.eight(v, first + begin, (int)smaller((i64)8, n - begin));
#pragma unroll
    for (int e = 0; e < 8; e++)
        if (begin + e >= 0 && begin + e < n)
            narrow(v[e] * scale, y[begin + e]);
}

/// y[count] = the matrix's elements from start on.
KERNEL(128) unpack_blocks(float *y, const BlocksParams c, i64 count) { write_eights(y, c, 0, count, (i64)blockIdx.x * 128 + threadIdx.x, 1.0f); }

/// The same rounded to bf16, for products of rounded operands.
KERNEL(128) unpack_blocks_bf16(BF16 *y, const BlocksParams c, i64 count) { write_eights(y, c, 0, count, (i64)blockIdx.x * 128 + threadIdx.x, 1.0f); }

/// y[i, :] = scale·row ids[i] of the matrix, dim a row: an embedding. Reads a row's blocks, writes 4·dim bytes.
KERNEL(128) lookup_blocks(float *y, const BlocksParams c, const int *PLAIN ids, int dim, float scale)
{
    // A row that begins within a chunk has one chunk more.
    i64 chunks = (dim + 7) / 8 + 1;
    for (i64 chunk = (i64)blockIdx.y * 128 + threadIdx.x; chunk < chunks; chunk += (i64)gridDim.y * 128)
        write_eights(y + (i64)blockIdx.x * dim, c, (i64)ids[blockIdx.x] * dim, dim, chunk, scale);
}

KERNEL_OF(128, 2) matmul_blocks_nt(const MatMulParams p, const BlocksParams c) { packed_tile<true, false>(p, Blocks{c}); }
KERNEL_OF(128, 2) matmul_blocks_nn(const MatMulParams p, const BlocksParams c) { packed_tile<false, false>(p, Blocks{c}); }
KERNEL_OF(256, 2) matvec_blocks_1(const MatMulParams p, const BlocksParams c) { packed_matvec<1, 1>(p, Blocks{c}); }
KERNEL_OF(256, 2) matvec_blocks_2(const MatMulParams p, const BlocksParams c) { packed_matvec<2, 1>(p, Blocks{c}); }
KERNEL_OF(256, 2) matvec_blocks_4(const MatMulParams p, const BlocksParams c) { packed_matvec<4, 1>(p, Blocks{c}); }
KERNEL_OF(256, 2) matvec_blocks_8(const MatMulParams p, const BlocksParams c) { packed_matvec<8, 1>(p, Blocks{c}); }
