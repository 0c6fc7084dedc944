// ggml's quantised blocks (GGUF files) to fp32 or bf16, bit for bit as src/Repeng.Kernels/Quantised decodes them: products with such weights
// decode into scratch first. A thread decodes single elements, neighbours in neighbouring lanes. Blocks need no alignment: bytes
// are read one by one (they come from the cache: a warp's 32 elements share a few sectors).
// Floor: the blocks read once and the outputs written once over the bandwidth.
//! blocks | unpack_*_f32, unpack_*_bf16 | block 256 | grid ceil(count / 1024) | shared 0 | data: the matrix's first block; elements first ... first + count - 1, first any number
#include "common.cuh"

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
