// What forward and backward of attention_rounded.cu are made of: rows and masks of a problem, tiles of bf16, operands, and how sums are written.
#pragma once
#include "attention.cuh"

const int Threads = 128;
const float Ln2 = 0.693147180559945309f;

__device__ __forceinline__ float most_of(float a, float b)
{
    float y;
    asm("max.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

/// A problem whose rows are found without a division: row / group = ⌊(row + 1)·⌊(2³² − 1) / group⌋ / 2³²⌋ for rows·group ≤ 2³².
struct Lines : Problem
{
    unsigned inverse;
    i64 firstRow, firstOfKeys;

    __device__ __forceinline__ Lines(const AttentionParams &params) : Problem(params)
    {
        inverse = 0xFFFFFFFFu / (unsigned)group;
        firstRow = (i64)sequence * p.queryLength * p.heads + kvHead * group;
        firstOfKeys = key_offset(0);
    }
    __device__ __forceinline__ int token(int row) const
    {
        unsigned high;
        asm("mul.hi.u32 %0, %1, %2;" : "=r"(high) : "r"((unsigned)row + 1), "r"(inverse));
        return (int)high;
    }
    __device__ __forceinline__ int query(int row) const { return offset + token(row); }
    __device__ __forceinline__ i64 row_index(int row) const { return firstRow + row + (i64)token(row) * (p.heads - group); }
    __device__ __forceinline__ i64 row_offset(int row) const { return row_index(row) * p.headDim; }
    __device__ __forceinline__ i64 key_place(int key) const { return firstOfKeys + (i64)key * (p.kvHeads * p.headDim); }
};

/// The keys that one query sees: those at less than `count` from `low`.
struct Seen
{
    int low;
    unsigned count;

    __device__ __forceinline__ Seen(const Lines &of, int query)
    {
        low = of.lowest_key(query);
        count = (unsigned)larger(0, query - low + 1);
    }
    __device__ __forceinline__ bool holds(int key) const { return (unsigned)(key - low) < count; }
};

/// From dot products to scores in powers of two.
struct Scale
{
    float plain, inner, outer;
    bool capped;

    __device__ __forceinline__ Scale(const AttentionParams &p)
    {
        capped = p.softCap > 0.0f;
        plain = p.scale * Log2E;
        inner = capped ? p.scale / p.softCap : 0.0f;
        outer = p.softCap * Log2E;
    }
    __device__ __forceinline__ void apply(float (&s)[4]) const
    {
        if (capped)
        {
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[e] = outer * tanh_fast(s[e] * inner);
            return;
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[e] *= plain;
    }
};

// ---- tiles ----

/// Stages `lines` lines of a, and of b where there is one, as bf16 tiles [line][D]: place(line) says where a line begins in both. Columns from
/// headDim on are 0. Four loads of 16 bytes an array (two at D = 32, whose tiles are small) are on the way at a time.
template <int D, bool BOTH, typename Place>
__device__ __forceinline__ void stage(u8 *tileA, const float *a, u8 *tileB, const float *b, int lines, int headDim, bool vector, Place place)
{
    const int PER = D / 4, STEP = Threads / PER, PASSES = D == 32 ? 2 : 4;
    if (vector)
    {
        int line = threadIdx.x / PER, col = threadIdx.x % PER * 4, to = chunk_offset<2, D>(line, col >> 3) + ((col & 4) << 1);
        bool inside = col < headDim;
#pragma unroll 1
        for (int from = 0; from < lines; from += STEP * PASSES)
        {
            float4 va[PASSES], vb[PASSES];
#pragma unroll
            for (int i = 0; i < PASSES; i++)
                va[i] = vb[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (inside)
            {
#pragma unroll
                for (int i = 0; i < PASSES; i++)
                {
                    i64 at = place(from + line + i * STEP) + col;
                    va[i] = load_four(a + at);
                    if (BOTH)
                        vb[i] = load_four(b + at);
                }
            }
#pragma unroll
            for (int i = 0; i < PASSES; i++)
            {
                // A line below STEP and a multiple of it have no bit in common, so that the exchange of chunks is the exchange of one and then of the other.
                int at = (D >= 64 ? to ^ (((i * STEP) & 7) << 4) : to) + (from + i * STEP) * (D * 2);
                *(uint2 *)(tileA + at) = make_uint2(pack_bf16(va[i].x, va[i].y), pack_bf16(va[i].z, va[i].w));
                if (BOTH)
                    *(uint2 *)(tileB + at) = make_uint2(pack_bf16(vb[i].x, vb[i].y), pack_bf16(vb[i].z, vb[i].w));
            }
        }
        return;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < lines * (D / 2); i += Threads)
    {
        int line = i / (D / 2), col = i % (D / 2) * 2, at = chunk_offset<2, D>(line, col >> 3) + (col & 7) * 2;
        i64 from = place(line) + col;
        float pair[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (col + e < headDim)
            {
                pair[e] = a[from + e];
                if (BOTH)
                    pair[2 + e] = b[from + e];
            }
        *(unsigned *)(tileA + at) = pack_bf16(pair[0], pair[1]);
        if (BOTH)
            *(unsigned *)(tileB + at) = pack_bf16(pair[2], pair[3]);
    }
}

__device__ __forceinline__ float2 pair_of(const float *line, int col, int headDim, bool whole)
{
    if (whole)
        return *(const float2 *)(line + col);
    return make_float2(col < headDim ? line[col] : 0.0f, col + 1 < headDim ? line[col + 1] : 0.0f);
}

/// Two lines of x (rows g and g + 8 of a warp) as the A operands of D / 16 products, from memory; with DOT their products with
/// the same lines of y in fp32, the warp's four lanes of a row together.
template <int D, bool DOT>
__device__ __forceinline__ void row_operands(unsigned (&a)[D / 16][4], float (&dot)[2], const float *x, const float *y, const i64 (&at)[2], int headDim, bool vector)
{
    int t = threadIdx.x & 3;
    bool whole = vector && headDim == D;
    dot[0] = dot[1] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int r = 0; r < 4; r++)
        {
            int col = k * 16 + (r >> 1) * 8 + 2 * t;
            float2 v = pair_of(x + at[r & 1], col, headDim, whole);
            a[k][r] = pack_bf16(v.x, v.y);
            if (DOT)
            {
                float2 w = pair_of(y + at[r & 1], col, headDim, whole);
                dot[r & 1] = fma(v.y, w.y, fma(v.x, w.x, dot[r & 1]));
            }
        }
    if (DOT)
#pragma unroll
        for (int r = 0; r < 2; r++)
        {
            dot[r] += shuffle_xor(dot[r], 1);
            dot[r] += shuffle_xor(dot[r], 2);
        }
}

/// An A operand of 16 lines of a tile.
template <int D> __device__ __forceinline__ void line_operand(unsigned (&a)[4], const u8 *tile, int line, int k)
{
    int lane = threadIdx.x & 31;
    load_matrices(a, shared_address(tile) + chunk_offset<2, D>(line + (lane & 15), (k >> 3) + (lane >> 4)));
}

/// 8 lines of a tile as the B operands of two products along 32 of D.
template <int D> __device__ __forceinline__ void eight_lines(unsigned (&b)[4], const u8 *tile, int line, int k)
{
    int lane = threadIdx.x & 31;
    load_matrices(b, shared_address(tile) + chunk_offset<2, D>(line + (lane & 7), (k >> 3) + (lane >> 3)));
}

/// Sums of 16 lines and 16 columns, rounded, as an A operand along these columns.
__device__ __forceinline__ void as_operand(unsigned (&a)[4], const float (&left)[4], const float (&right)[4])
{
    a[0] = pack_bf16(left[0], left[1]);
    a[1] = pack_bf16(left[2], left[3]);
    a[2] = pack_bf16(right[0], right[1]);
    a[3] = pack_bf16(right[2], right[3]);
}

/// sum += a·b: a along 16 lines of the tile from `line` on, columns of the tile from `col` on.
template <int D, int COLS> __device__ __forceinline__ void add_lines(float (&sum)[COLS / 8][4], const unsigned (&a)[4], const u8 *tile, int line, int col)
{
#pragma unroll
    for (int j = 0; j < COLS / 8; j += 2)
    {
        unsigned b[4];
        read_halves<false, D>(tile, col + j * 8, line, b);
        mma_bf16(sum[j], a, b);
        mma_bf16(sum[j + 1], a, b + 2);
    }
}

template <int TILES> __device__ __forceinline__ void clear(float (&sum)[TILES][4])
{
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[j][e] = 0.0f;
}

/// Writes, or adds, a warp's sums of 16 lines and COLS columns from `col` on: lines g and g + 8 lie at to + at[0] and to + at[1], if `there`.
template <int D, int COLS>
__device__ __forceinline__ void write_sums(float *to, const i64 (&at)[2], const bool (&there)[2], const float (&sum)[COLS / 8][4], int col, float factor0, float factor1, int headDim, bool vector, bool add)
{
    int t = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 2; r++)
    {
        if (!there[r])
            continue;
        float factor = r == 0 ? factor0 : factor1, *line = to + at[r] + col + 2 * t;
        int left = headDim - col - 2 * t;
        // The usual way without a question a column.
        if (vector && headDim == D)
        {
#pragma unroll
            for (int j = 0; j < COLS / 8; j++)
            {
                float2 v = make_float2(sum[j][2 * r] * factor, sum[j][2 * r + 1] * factor);
                if (add)
                {
                    float2 w = *(const float2 *)(line + j * 8);
                    v = make_float2(w.x + v.x, w.y + v.y);
                }
                *(float2 *)(line + j * 8) = v;
            }
            continue;
        }
#pragma unroll
        for (int j = 0; j < COLS / 8; j++)
        {
            float2 v = make_float2(sum[j][2 * r] * factor, sum[j][2 * r + 1] * factor);
            if (vector && j * 8 < left)
            {
                float2 w = add ? *(const float2 *)(line + j * 8) : make_float2(0.0f, 0.0f);
                *(float2 *)(line + j * 8) = add ? make_float2(w.x + v.x, w.y + v.y) : v;
            }
            if (!vector && j * 8 < left)
                line[j * 8] = add ? line[j * 8] + v.x : v.x;
            if (!vector && j * 8 + 1 < left)
                line[j * 8 + 1] = add ? line[j * 8 + 1] + v.y : v.y;
        }
    }
}

/// The same sums rounded to bf16: neighbouring lanes exchange pairs, so that each writes four columns and a row of sixteen is one sector.
template <int D>
__device__ __forceinline__ void write_copy(BF16 *to, const i64 (&at)[2], const bool (&there)[2], const float (&sum)[D / 8][4], float factor0, float factor1, int headDim, bool vector)
{
    int t = threadIdx.x & 3, own = (t & 1) * 8 + (t >> 1) * 4;
    bool odd = (t & 1) != 0;
#pragma unroll
    for (int r = 0; r < 2; r++)
    {
        float factor = r == 0 ? factor0 : factor1;
        uint2 four[D / 16];
#pragma unroll
        for (int j = 0; j < D / 16; j++)
        {
            unsigned left = pack_bf16(sum[2 * j][2 * r] * factor, sum[2 * j][2 * r + 1] * factor), right = pack_bf16(sum[2 * j + 1][2 * r] * factor, sum[2 * j + 1][2 * r + 1] * factor);
            unsigned other = shuffle_xor(odd ? left : right, 1);
            four[j] = odd ? make_uint2(other, right) : make_uint2(left, other);
        }
        if (!there[r])
            continue;
        BF16 *line = to + at[r] + own;
        if (vector && headDim == D)
        {
#pragma unroll
            for (int j = 0; j < D / 16; j++)
                *(uint2 *)(line + j * 16) = four[j];
            continue;
        }
#pragma unroll
        for (int j = 0; j < D / 16; j++)
        {
            if (vector && own + j * 16 < headDim)
                *(uint2 *)(line + j * 16) = four[j];
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (!vector && own + j * 16 + e < headDim)
                    line[j * 16 + e].bits = (u16)((e < 2 ? four[j].x : four[j].y) >> (e % 2 * 16));
        }
    }
}
