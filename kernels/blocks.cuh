// ggml's quantised blocks, decoded from shared memory bit for bit as src/Repeng.Kernels/Quantised does. A type says how many values a block has
// and in how many bytes, and gives eight neighbours: by words, not by bytes, where the type is common. Types whose scales take work give those of a
// group (8 or 16 a block) on their own, so that they can be made once for all that share them.
// Where blocks lie: s is aligned to 16 bytes, and `at` the block's place in it, with the two lowest bits of a row's address left out (stage_bytes),
// so that what is at a multiple of 4 of every block is aligned to 4.
// A code becomes a number as the low byte of 2^23's bits, less 2^23: exact, as is its product with a scale of at most 17 bits. A sum of such
// a product and a minimum is then one fused multiply-add with the bits of two operations.
#pragma once
#include "common.cuh"

__device__ __forceinline__ unsigned permute(unsigned low, unsigned high, unsigned which)
{
    unsigned y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(which));
    return y;
}
/// Bits `by` … `by` + 31 of 64, by modulo 32.
__device__ __forceinline__ unsigned funnel(unsigned low, unsigned high, unsigned by)
{
    unsigned y;
    asm("shf.r.wrap.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(by));
    return y;
}
__device__ __forceinline__ float half_at(const u8 *s, int at)
{
    F16 h = {*(const u16 *)(s + at)};
    return widen(h);
}
/// Byte i of w, less `less`.
__device__ __forceinline__ float byte_of(unsigned w, int i, float less)
{
    float x;
    asm("prmt.b32 %0, %1, %2, %3;" : "=f"(x) : "r"(w), "r"(0x4B000000), "r"(0x7440 + i));
    return x - (8388608.0f + less);
}

/// Eight bytes from s + at on, where at is a multiple of ALIGN.
template <int ALIGN> __device__ __forceinline__ void eight_bytes(unsigned (&w)[2], const u8 *s, int at)
{
    const unsigned *from = (const unsigned *)(s + (ALIGN == 4 ? at : at & ~3));
    w[0] = from[0];
    w[1] = from[1];
    if (ALIGN == 4)
        return;
    unsigned last = from[2], by = (unsigned)at << 3;
    w[0] = funnel(w[0], w[1], by);
    w[1] = funnel(w[1], last, by);
}
/// The low (shift 0) or high (shift 4) nibbles of eight bytes.
template <int ALIGN> __device__ __forceinline__ void eight_nibbles(unsigned (&w)[2], const u8 *s, int at, int shift)
{
    eight_bytes<ALIGN>(w, s, at);
    w[0] = (w[0] >> shift) & 0x0F0F0F0F;
    w[1] = (w[1] >> shift) & 0x0F0F0F0F;
}
__device__ __forceinline__ void scaled(float (&v)[8], const unsigned (&w)[2], float scale, float less)
{
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = scale * byte_of(w[e >> 2], e & 3, less);
}
__device__ __forceinline__ void scaled_plus(float (&v)[8], const unsigned (&w)[2], float scale, float min)
{
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = fma(scale, byte_of(w[e >> 2], e & 3, 0.0f), min);
}
/// Bit e of eight as bit 4 of byte e.
__device__ __forceinline__ void add_fifth(unsigned (&w)[2], unsigned bits)
{
    w[0] |= ((bits & 15) * 0x02040810u) & 0x10101010;
    w[1] |= ((bits >> 4) * 0x02040810u) & 0x10101010;
}

/// Eight nibbles (a byte each) chosen among 16 values, which are 128 too large: scale times each.
template <unsigned V0, unsigned V1, unsigned V2, unsigned V3> __device__ __forceinline__ void chosen(float (&v)[8], const unsigned (&w)[2], float scale)
{
    // Nibble 2k: byte k of the first word, nibble 2k + 1: of the second. A permutation looks at four of them, at three bits and a sign.
    unsigned codes = w[0] | w[1] << 4;
#pragma unroll
    for (int h = 0; h < 2; h++)
    {
        unsigned four = codes >> (16 * h), place = four & 0x7777;
        unsigned values = permute(permute(V0, V1, place), permute(V2, V3, place), 0x3210 | (four & 0x8888) >> 1);
        v[2 * h] = scale * byte_of(values, 0, 128.0f);
        v[2 * h + 4] = scale * byte_of(values, 1, 128.0f);
        v[2 * h + 1] = scale * byte_of(values, 2, 128.0f);
        v[2 * h + 5] = scale * byte_of(values, 3, 128.0f);
    }
}
/// The uneven steps of IQ4_NL and IQ4_XS; FP4 (E2M1), doubled so that it is whole.
__device__ __forceinline__ void uneven(float (&v)[8], const unsigned (&w)[2], float scale) { chosen<0x3F2D1801, 0x766A5D4F, 0xA6998D81, 0xF1D9C5B5>(v, w, scale); }
__device__ __forceinline__ void fp4_doubled(float (&v)[8], const unsigned (&w)[2], float scale) { chosen<0x83828180, 0x8C888684, 0x7D7E7F80, 0x74787A7C>(v, w, scale); }

/// What a type is unless it says otherwise: no groups of scales, no grid, no scale a row.
template <int ELEMENTS, int BYTES> struct BlockOf
{
    static const int elements = ELEMENTS, bytes = BYTES, groups = 0, grid = 0;
    static const bool rows = false;
    static __device__ __forceinline__ float2 group(const u8 *, int, int) { return make_float2(0.0f, 0.0f); }
};

// ---- blocks of 32: low nibbles first, i the eight's number ----

struct Q8_0 : BlockOf<32, 34>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_bytes<2>(w, s, at + 2 + 8 * i);
        w[0] ^= 0x80808080;
        w[1] ^= 0x80808080;
        scaled(v, w, half_at(s, at), 128.0f);
    }
};
struct Q4_0 : BlockOf<32, 18>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<2>(w, s, at + 2 + 8 * (i & 1), (i & 2) << 1);
        scaled(v, w, half_at(s, at), 8.0f);
    }
};
struct Q4_1 : BlockOf<32, 20>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<4>(w, s, at + 4 + 8 * (i & 1), (i & 2) << 1);
        scaled_plus(v, w, half_at(s, at), half_at(s, at + 2));
    }
};
struct Q5_0 : BlockOf<32, 22>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<2>(w, s, at + 6 + 8 * (i & 1), (i & 2) << 1);
        add_fifth(w, s[at + 2 + i]);
        scaled(v, w, half_at(s, at), 16.0f);
    }
};
struct Q5_1 : BlockOf<32, 24>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<4>(w, s, at + 8 + 8 * (i & 1), (i & 2) << 1);
        add_fifth(w, s[at + 4 + i]);
        scaled_plus(v, w, half_at(s, at), half_at(s, at + 2));
    }
};
struct IQ4_NL : BlockOf<32, 18>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<2>(w, s, at + 2 + 8 * (i & 1), (i & 2) << 1);
        uneven(v, w, half_at(s, at));
    }
};
struct MXFP4 : BlockOf<32, 17>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        // 2^(e − 127) / 2; the lowest two are subnormal.
        unsigned w[2];
        int e = s[at];
        eight_nibbles<1>(w, s, at + 1 + 8 * (i & 1), (i & 2) << 1);
        fp4_doubled(v, w, float_of(e < 2 ? 0x00200000 << e : (int)((unsigned)(e - 1) << 23)));
    }
};

// ---- blocks of 256 with scales by groups: d·scale and −dmin·min ----

struct Q2_K : BlockOf<256, 84>
{
    static const int groups = 16;
    static __device__ __forceinline__ float2 group(const u8 *s, int at, int g)
    {
        int both = s[at + g];
        return make_float2(half_at(s, at + 80) * (float)(both & 15), -(half_at(s, at + 82) * (float)(both >> 4)));
    }
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2 of, const u8 *)
    {
        unsigned w[2];
        eight_bytes<4>(w, s, at + 16 + 32 * (i >> 4) + 8 * (i & 3));
        int shift = (i >> 1) & 6;
        w[0] = (w[0] >> shift) & 0x03030303;
        w[1] = (w[1] >> shift) & 0x03030303;
        scaled_plus(v, w, of.x, of.y);
    }
};
struct Q3_K : BlockOf<256, 110>
{
    static const int groups = 16;
    static __device__ __forceinline__ float2 group(const u8 *s, int at, int g)
    {
        int low = (s[at + 96 + (g & 7)] >> (g < 8 ? 0 : 4)) & 15, high = (s[at + 104 + (g & 3)] >> (2 * (g >> 2))) & 3;
        return make_float2(half_at(s, at + 108) * (float)((low | high << 4) - 32), 0.0f);
    }
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2 of, const u8 *)
    {
        unsigned w[2], third[2];
        eight_bytes<2>(w, s, at + 32 + 32 * (i >> 4) + 8 * (i & 3));
        eight_bytes<2>(third, s, at + 8 * (i & 3));
        int shift = (i >> 1) & 6, bit = i >> 2;
#pragma unroll
        for (int h = 0; h < 2; h++)
            w[h] = ((w[h] >> shift) & 0x03030303) | ((third[h] >> bit) & 0x01010101) << 2;
        scaled(v, w, of.x, 4.0f);
    }
};
/// Of Q4_K and Q5_K: six bits each; the first four pairs lie in bytes 4-7 and 8-11, of the others the high two bits there and the nibbles in bytes 12-15.
__device__ __forceinline__ float2 scale_and_min(const u8 *s, int at, int g)
{
    int a = s[at + 4 + (g & 3)], b = s[at + 8 + (g & 3)], c = s[at + 12 + (g & 3)];
    int scale = g < 4 ? a & 63 : (c & 15) | ((a >> 2) & 48), min = g < 4 ? b & 63 : c >> 4 | ((b >> 2) & 48);
    return make_float2(half_at(s, at) * (float)scale, -(half_at(s, at + 2) * (float)min));
}
struct Q4_K : BlockOf<256, 144>
{
    static const int groups = 8;
    static __device__ __forceinline__ float2 group(const u8 *s, int at, int g) { return scale_and_min(s, at, g); }
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2 of, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<4>(w, s, at + 16 + 32 * (i >> 3) + 8 * (i & 3), i & 4);
        scaled_plus(v, w, of.x, of.y);
    }
};
struct Q5_K : BlockOf<256, 176>
{
    static const int groups = 8;
    static __device__ __forceinline__ float2 group(const u8 *s, int at, int g) { return scale_and_min(s, at, g); }
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2 of, const u8 *)
    {
        unsigned w[2], fifth[2];
        eight_nibbles<4>(w, s, at + 48 + 32 * (i >> 3) + 8 * (i & 3), i & 4);
        eight_bytes<4>(fifth, s, at + 16 + 8 * (i & 3));
        int bit = i >> 2;
        w[0] |= ((fifth[0] >> bit) & 0x01010101) << 4;
        w[1] |= ((fifth[1] >> bit) & 0x01010101) << 4;
        scaled_plus(v, w, of.x, of.y);
    }
};
struct Q6_K : BlockOf<256, 210>
{
    static const int groups = 16;
    static __device__ __forceinline__ float2 group(const u8 *s, int at, int g) { return make_float2(half_at(s, at + 208) * (float)(signed char)s[at + 192 + g], 0.0f); }
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2 of, const u8 *)
    {
        unsigned w[2], high[2];
        eight_nibbles<2>(w, s, at + 64 * (i >> 4) + 8 * (i & 7), (i >> 1) & 4);
        eight_bytes<2>(high, s, at + 128 + 32 * (i >> 4) + 8 * (i & 3));
        int shift = (i >> 1) & 6;
        w[0] |= ((high[0] >> shift) & 0x03030303) << 4;
        w[1] |= ((high[1] >> shift) & 0x03030303) << 4;
        scaled(v, w, of.x, 32.0f);
    }
};
struct IQ4_XS : BlockOf<256, 136>
{
    static const int groups = 8;
    static __device__ __forceinline__ float2 group(const u8 *s, int at, int g)
    {
        int scale = ((s[at + 4 + (g >> 1)] >> (4 * (g & 1))) & 15) | ((*(const u16 *)(s + at + 2) >> (2 * g)) & 3) << 4;
        return make_float2(half_at(s, at) * (float)(scale - 32), 0.0f);
    }
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2 of, const u8 *)
    {
        unsigned w[2];
        eight_nibbles<4>(w, s, at + 8 + 16 * (i >> 2) + 8 * (i & 1), (i & 2) << 1);
        uneven(v, w, of.x);
    }
};

// ---- the rarer types ----

struct NVFP4 : BlockOf<64, 36>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        // Half of an unsigned E4M3 number; its NaN counts as 0.
        unsigned w[2];
        int bits = s[at + (i >> 1)], exponent = (bits >> 3) & 15, mantissa = bits & 7;
        eight_nibbles<4>(w, s, at + 4 + 8 * (i >> 1), (i & 1) << 2);
        fp4_doubled(v, w, bits == 0x7F ? 0.0f : exponent == 0 ? (float)mantissa * (1.0f / 1024) : (float)(8 + mantissa) * float_of((exponent - 11 + 127) << 23));
    }
};
struct TQ1_0 : BlockOf<256, 54>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        // Digits of base 3: five a byte for 160 and 80 values, four a byte for the last 16.
        float d = half_at(s, at + 52);
#pragma unroll
        for (int e = 0; e < 8; e++)
        {
            int n = 8 * i + e, digit = n < 160 ? n >> 5 : n < 240 ? (n - 160) >> 4 : (n - 240) >> 2;
            int byte = s[at + (n < 160 ? n & 31 : n < 240 ? 32 + (n & 15) : 48 + (n & 3))], power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
            v[e] = d * (float)((((byte * power) & 255) * 3 >> 8) - 1);
        }
    }
};
struct TQ2_0 : BlockOf<256, 66>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        unsigned w[2];
        eight_bytes<2>(w, s, at + 32 * (i >> 4) + 8 * (i & 3));
        int shift = (i >> 1) & 6;
        w[0] = (w[0] >> shift) & 0x03030303;
        w[1] = (w[1] >> shift) & 0x03030303;
        scaled(v, w, half_at(s, at + 64), 1.0f);
    }
};
/// x, its sign changed where bit e of the word is set.
__device__ __forceinline__ float with_sign(float x, unsigned signs, int e) { return float_of((int)((unsigned)bits_of(x) ^ ((signs << (31 - e)) & 0x80000000u))); }
struct Q1_0 : BlockOf<128, 18>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        float d = half_at(s, at);
        unsigned less = ~(unsigned)s[at + 2 + i];
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = with_sign(d, less, e);
    }
};
__device__ __forceinline__ unsigned short_at(const u8 *s, int at) { return *(const u16 *)(s + at); }
struct Q2_0 : BlockOf<64, 18>
{
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *)
    {
        float d = half_at(s, at);
        unsigned codes = short_at(s, at + 2 + 2 * i);
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = d * (float)((int)((codes >> (2 * e)) & 3) - 1);
    }
};

// Points of a grid of 8 (or 4) small numbers, a byte each, with signs, or shifted. The grid lies in shared memory too.

__device__ __forceinline__ unsigned word_at(const u8 *s, int at) { return short_at(s, at) | short_at(s, at + 2) << 16; }
/// Seven signs; the eighth makes their number even.
__device__ __forceinline__ unsigned signs_of(unsigned code) { return (code & 127) | (popcount(code & 127) & 1) << 7; }
__device__ __forceinline__ float quarter_scale(float d, const u8 *s, int at, int k) { return d * (0.5f + (float)((s[at + (k >> 2)] >> (4 * ((k >> 1) & 1))) & 15)) * 0.25f; }
/// scale · the points of both words, with signs.
__device__ __forceinline__ void signed_points(float (&v)[8], unsigned first, unsigned second, unsigned signs, float scale)
{
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = scale * with_sign(byte_of(e < 4 ? first : second, e & 3, 0.0f), signs, e);
}
__device__ __forceinline__ void signed_point(float (&v)[8], const u8 *grid, unsigned point, unsigned signs, float scale)
{
    const unsigned *w = (const unsigned *)grid + 2 * point;
    signed_points(v, w[0], w[1], signs, scale);
}
/// scale · (point + shift).
__device__ __forceinline__ void shifted_point(float (&v)[8], const u8 *grid, unsigned point, float shift, float scale)
{
    const unsigned *w = (const unsigned *)grid + 2 * point;
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e] = scale * (byte_of(w[e >> 2] ^ 0x80808080, e & 3, 128.0f) + shift);
}

struct IQ2_XXS : BlockOf<256, 66>
{
    static const int grid = 2048;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        int k = i & 3, codes = at + 2 + 8 * (i >> 2);
        unsigned rest = word_at(s, codes + 4);
        signed_point(v, points, s[codes + k], signs_of(rest >> (7 * k)), half_at(s, at) * (0.5f + (float)(rest >> 28)) * 0.25f);
    }
};
struct IQ2_XS : BlockOf<256, 74>
{
    static const int grid = 4096;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        unsigned code = short_at(s, at + 2 + 2 * i);
        signed_point(v, points, code & 511, signs_of(code >> 9), quarter_scale(half_at(s, at), s, at + 66, i));
    }
};
struct IQ2_S : BlockOf<256, 82>
{
    static const int grid = 8192;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        unsigned point = s[at + 2 + i] | ((s[at + 66 + (i >> 2)] >> (2 * (i & 3))) & 3) << 8;
        signed_point(v, points, point, s[at + 34 + i], quarter_scale(half_at(s, at), s, at + 74, i));
    }
};
struct IQ3_XXS : BlockOf<256, 98>
{
    static const int grid = 1024;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        unsigned rest = word_at(s, at + 66 + 4 * (i >> 2)), codes = short_at(s, at + 2 + 2 * i);
        const unsigned *w = (const unsigned *)points;
        signed_points(v, w[codes & 255], w[codes >> 8], signs_of(rest >> (7 * (i & 3))), half_at(s, at) * (0.5f + (float)(rest >> 28)) * 0.5f);
    }
};
struct IQ3_S : BlockOf<256, 110>
{
    static const int grid = 2048;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        int sub = i >> 2;
        unsigned codes = short_at(s, at + 2 + 2 * i), ninth = s[at + 66 + sub] >> (2 * (i & 3));
        const unsigned *w = (const unsigned *)points;
        float scale = half_at(s, at) * (float)(1 + 2 * ((s[at + 106 + (sub >> 1)] >> (4 * (sub & 1))) & 15));
        signed_points(v, w[(codes & 255) | (ninth & 1) << 8], w[codes >> 8 | (ninth & 2) << 7], s[at + 74 + i], scale);
    }
};
struct IQ1_S : BlockOf<256, 50>
{
    static const int grid = 16384;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        unsigned rest = short_at(s, at + 34 + 2 * (i >> 2)), point = s[at + 2 + i] | ((rest >> (3 * (i & 3))) & 7) << 8;
        shifted_point(v, points, point, (rest & 0x8000) ? -0.125f : 0.125f, half_at(s, at) * (float)(2 * ((rest >> 12) & 7) + 1));
    }
};
struct IQ1_M : BlockOf<256, 56>
{
    static const int grid = 16384;
    static __device__ __forceinline__ void eight(float (&v)[8], const u8 *s, int at, int i, float2, const u8 *points)
    {
        // The top nibbles of four words are the fp16 d; the rest of each four scales of three bits.
        int sub = i >> 1;
        unsigned rest = s[at + 32 + sub] >> (4 * (i & 1)), point = s[at + i] | (rest & 7) << 8;
        F16 d = {(u16)(s[at + 49] >> 4 | (s[at + 51] & 0xF0) | (s[at + 53] & 0xF0) << 4 | (s[at + 55] & 0xF0) << 8)};
        unsigned scale = (short_at(s, at + 48 + 2 * (sub >> 2)) >> (3 * (sub & 3))) & 7;
        shifted_point(v, points, point, (rest & 8) ? -0.125f : 0.125f, widen(d) * (float)(2 * scale + 1));
    }
};

/// EACH(number of ggml, type) of the types that most files have, and of the others.
#define FOR_COMMON_TYPES(EACH) EACH(2, Q4_0) EACH(8, Q8_0) EACH(10, Q2_K) EACH(11, Q3_K) EACH(12, Q4_K) EACH(13, Q5_K) EACH(14, Q6_K) EACH(20, IQ4_NL) EACH(23, IQ4_XS) EACH(39, MXFP4)
#define FOR_RARE_TYPES(EACH)                                                                                             \
    EACH(3, Q4_1) EACH(6, Q5_0) EACH(7, Q5_1) EACH(16, IQ2_XXS) EACH(17, IQ2_XS) EACH(18, IQ3_XXS) EACH(19, IQ1_S) EACH(21, IQ3_S) EACH(22, IQ2_S) \
    EACH(29, IQ1_M) EACH(34, TQ1_0) EACH(35, TQ2_0) EACH(40, NVFP4) EACH(41, Q1_0) EACH(42, Q2_0)
