// Grouped-query attention, forward and backward, by tiles with a running maximum (Dao et al., FlashAttention): no T×T matrix.
// Layouts and masks as in AttentionArgs: q, o [batch, queryLength, heads, headDim], k, v [batch, keyStride, kvHeads, headDim],
// lse, delta [batch, queryLength, heads], firstKey I32 [batch].
//
// The query heads of one key head are rows of one problem: row r is token r / group, head kvHead·group + r % group, so that
// K and V are read once for the whole group. Products run on the tensor cores with operands split into bf16 parts (mma.cuh):
// three parts for the scores, which are exponentiated (2⁻²⁴), two for the other products (2⁻¹⁶ of each operand); plain bf16
// would be off by 1e-2 where 1e-4 is asked for. Sums of a tile are added to fp32 registers with rounding to nearest.
// headDim is padded to D = 32, 64, 128 or 256 with zeros, in shared memory only. At D = 256, and at 128 backward, two warps share rows or
// keys and take half of the columns each, so that sums stay in registers (by keys at 256: four). At 128 each computes half of the scores and passes
// P and dS to the other as parts of operands, through shared memory; at 256 each computes all of them.
// Sixteen keys (rows) of a tile that none of a warp's rows (keys) sees are left out.
// Deterministic: forward by rows; backward in two kernels without atomics, one that owns keys (dK, dV) and walks over the
// rows in order, one that owns rows (dQ) and walks over the keys; S is computed in both.
//
// attention_forward_D: a block owns 16 rows a warp. attention_split_D: a block of one warp owns 16 rows and a stretch of keys (decode), and
// leaves unnormalised sums that attention_join adds in the order of the stretches.
// Floor: 4·(2·|q| + 2·|k|) bytes forward, 4·(4·|q| + 6·|k|) backward (with dq, dk, dv read and written; 4·(3·|q| + 4·|k|) where they are the first) over the bandwidth, or 9
// times 2·rows·keys·headDim (backward 26) over the bf16 tensor rate.
//! attention | attention_forward_32, _64, _128 | block 128 | grid (ceil(queryLength * group / 64), batch * kvHeads) | shared 512 * D | one parameter: AttentionParams
//! attention | attention_forward_256 | block 128 | grid (ceil(queryLength * group / 32), batch * kvHeads) | shared 98304
//! attention | attention_split_32, _64, _128, attention_split_256 | block 32; 64 for D = 256 | grid (ceil(queryLength * group / 16), batch * kvHeads, splits) | shared 320 * D | p.partial: splits * batch * kvHeads * rows * (headDim + 2) floats, rows = queryLength * group; p.splitKeys a multiple of 32
//! attention | attention_join | block 128 | grid batch * queryLength * heads | shared 0
//! attention | attention_delta | block 256 | grid ceil(batch * queryLength * heads / 8) | shared 0
//! attention | attention_keys_32, attention_keys_64 | block 128 | grid (ceil(keyLength / 64), batch * kvHeads) | shared 768 * D + 256 | dk and dv, either may be null; += with accumulate
//! attention | attention_keys_128 | block 128 | grid (ceil(keyLength / 32), batch * kvHeads) | shared 73984
//! attention | attention_keys_256 | block 128 | grid (ceil(keyLength / 16), batch * kvHeads) | shared 65664
//! attention | attention_queries_32, attention_queries_64 | block 128 | grid (ceil(queryLength * group / 64), batch * kvHeads) | shared 768 * D | dq; += with accumulate
//! attention | attention_queries_128 | block 128 | grid (ceil(queryLength * group / 32), batch * kvHeads) | shared 69632 | dq; += with accumulate
//! attention | attention_queries_256 | block 128 | grid (ceil(queryLength * group / 32), batch * kvHeads) | shared 98304
#include "attention.cuh"

/// Stages rows [first, first + ROWS) of x, an array laid out like q; what lies from `end` on is 0.
template <int ROWS, int D, int THREADS> __device__ __forceinline__ void stage_rows(u8 *tile, const float *x, const Problem &of, int first, int end, bool vector)
{
    stage_tile<ROWS, D, THREADS, 2>(
        tile, [&](int r) { return first + r < end ? x + of.row_offset(first + r) : nullptr; }, of.p.headDim, vector, x);
}
/// The same for keys of an array laid out like k.
template <int KEYS, int D, int THREADS> __device__ __forceinline__ void stage_keys(u8 *tile, const float *x, const Problem &of, int first, int end, bool vector)
{
    stage_tile<KEYS, D, THREADS, 2>(
        tile, [&](int r) { return first + r < end ? x + of.key_offset(first + r) : nullptr; }, of.p.headDim, vector, x);
}

/// Every pair of eight lines of TILES · 8.
template <int TILES> __device__ __forceinline__ constexpr unsigned all_pairs() { return (1u << (TILES / 2)) - 1; }

template <int D, int PARTS, int TILES, bool ALL> __device__ __forceinline__ void dot_products_of(float (&s)[TILES][4], const u8 *a, int lineA, const u8 *b, int lineB, unsigned seen)
{
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[j][e] = 0.0f;
#pragma unroll 1
    for (int k = 0; k < D; k += 16)
    {
        unsigned af[PARTS][4];
        read_a<true, D>(a, lineA, k, af);
#pragma unroll
        for (int j = 0; j < TILES; j += 2)
        {
            if (!ALL && (seen >> (j >> 1) & 1) == 0)
                continue;
            unsigned bf[2][PARTS][2];
            read_b<true, D>(b, 0.0f, lineB + j * 8, k, bf);
            mma_parts(s[j], af, bf[0]);
            mma_parts(s[j + 1], af, bf[1]);
        }
    }
}

/// s[j] = the products of 16 lines of a with 8·TILES lines of b along D, both tiles [line][D], in PARTS parts; 0 for pairs of eight lines
/// whose bit of `seen` is 0. The bits are the warp's.
template <int D, int PARTS, int TILES> __device__ __forceinline__ void dot_products(float (&s)[TILES][4], const u8 *a, int lineA, const u8 *b, int lineB, unsigned seen)
{
    if (TILES == 2 || seen == all_pairs<TILES>())
    {
        // One pair: seen or not as a whole.
        if (TILES == 2 && seen == 0)
        {
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[j][e] = 0.0f;
            return;
        }
        dot_products_of<D, PARTS, TILES, true>(s, a, lineA, b, lineB, seen);
    }
    else
        dot_products_of<D, PARTS, TILES, false>(s, a, lineA, b, lineB, seen);
}

/// Sums of 16 lines and 8·TILES columns as the A operand of a product over those columns, split.
template <int TILES> __device__ __forceinline__ void as_operand(unsigned (&a)[TILES / 2][2][4], const float (&s)[TILES][4])
{
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
        {
            unsigned parts[2];
            split(s[j][2 * h], s[j][2 * h + 1], parts);
#pragma unroll
            for (int p = 0; p < 2; p++)
                a[j >> 1][p][(j & 1) * 2 + h] = parts[p];
        }
}

/// sum = sum·factor + a·b, b a tile [k][D] of 8·TILES lines of which COLS columns from `col` on are taken; sixteen lines whose bit of `seen` is 0
/// are left out. factor is one number for the rows g and one for g + 8.
template <int D, int COLS, int TILES, bool ALL>
__device__ __forceinline__ void add_product_of(float (&sum)[COLS / 8][4], const unsigned (&a)[TILES / 2][2][4], const u8 *b, int col, float factor0, float factor1, unsigned seen)
{
#pragma unroll
    for (int j = 0; j < COLS / 8; j += 2)
    {
        float part[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
#pragma unroll
        for (int k = 0; k < TILES / 2; k++)
        {
            if (!ALL && (seen >> k & 1) == 0)
                continue;
            unsigned bf[2][2][2];
            read_b<false, D>(b, 0.0f, col + j * 8, k * 16, bf);
            mma_parts(part[0], a[k], bf[0]);
            mma_parts(part[1], a[k], bf[1]);
        }
#pragma unroll
        for (int n = 0; n < 2; n++)
        {
            sum[j + n][0] = fma(sum[j + n][0], factor0, part[n][0]);
            sum[j + n][1] = fma(sum[j + n][1], factor0, part[n][1]);
            sum[j + n][2] = fma(sum[j + n][2], factor1, part[n][2]);
            sum[j + n][3] = fma(sum[j + n][3], factor1, part[n][3]);
        }
    }
}
template <int D, int COLS, int TILES>
__device__ __forceinline__ void add_product(float (&sum)[COLS / 8][4], const unsigned (&a)[TILES / 2][2][4], const u8 *b, int col, float factor0, float factor1, unsigned seen)
{
    if (seen == all_pairs<TILES>())
        add_product_of<D, COLS, TILES, true>(sum, a, b, col, factor0, factor1, seen);
    else
        add_product_of<D, COLS, TILES, false>(sum, a, b, col, factor0, factor1, seen);
}

/// P or dS of 16 lines and 16 columns as their warp's lanes hold them, split, for the warp beside it: 1 KiB of shared memory.
__device__ __forceinline__ void pass(uint4 *to, const unsigned (&a)[2][4])
{
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int part = 0; part < 2; part++)
        to[part * 32 + lane] = make_uint4(a[part][0], a[part][1], a[part][2], a[part][3]);
}
__device__ __forceinline__ void take(unsigned (&a)[2][4], const uint4 *from)
{
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int part = 0; part < 2; part++)
    {
        uint4 v = from[part * 32 + lane];
        a[part][0] = v.x;
        a[part][1] = v.y;
        a[part][2] = v.z;
        a[part][3] = v.w;
    }
}

/// Puts a warp's sums of 16 lines and COLS columns into a tile [line][D].
template <int D, int COLS> __device__ __forceinline__ void put(u8 *tile, const float (&sum)[COLS / 8][4], int line, int col, float factor0, float factor1)
{
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int j = 0; j < COLS / 8; j++)
    {
        int chunk = (col >> 2) + j * 2 + (t >> 1), at = (t & 1) << 3;
        *(float2 *)(tile + chunk_offset<4, D>(line + g, chunk) + at) = make_float2(sum[j][0] * factor0, sum[j][1] * factor0);
        *(float2 *)(tile + chunk_offset<4, D>(line + g + 8, chunk) + at) = make_float2(sum[j][2] * factor1, sum[j][3] * factor1);
    }
}

/// Writes (or adds) the lines of a tile to memory, neighbours by neighbours: place(line) gives where a line begins, or null.
template <int LINES, int D, int THREADS, typename Place> __device__ __forceinline__ void write_lines(const u8 *tile, int headDim, bool vector, bool add, Place place)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < LINES * D / 4; i += THREADS)
    {
        int line = i / (D / 4), col = i % (D / 4) * 4;
        float *to = place(line);
        if (to == nullptr || col >= headDim)
            continue;
        float4 v = *(const float4 *)(tile + chunk_offset<4, D>(line, col >> 2));
        to += col;
        if (vector)
        {
            if (add)
            {
                float4 w = *(const float4 *)to;
                v = make_float4(w.x + v.x, w.y + v.y, w.z + v.z, w.w + v.w);
            }
            *(float4 *)to = v;
            continue;
        }
        float four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (col + e < headDim)
                to[e] = add ? to[e] + four[e] : four[e];
    }
}

/// o = softmax(mask(cap(scale·q·kᵀ)))·v and lse of 16 rows a warp, or HALVES warps. With SPLIT the sums over keys
/// [z·splitKeys, (z + 1)·splitKeys) go to partial instead, with their maximum and denominator.
/// Where p.cached is given the number of keys is *p.cached + queryLength, so that a launch that was recorded serves every length up to
/// p.keyLength, which the grid covers: a stretch without keys leaves a maximum of −∞ and a denominator of 0, which change no bit of the join.
/// Reads each row of q once, K and V once a block; writes o and lse.
template <int D, int WARPS, int HALVES, bool SPLIT> __device__ __forceinline__ void forward(const AttentionParams &p)
{
    const int THREADS = WARPS * 32, ROWS = WARPS / HALVES * 16, COLS = D / HALVES, KEYS = 32;
    u8 *qs = dynamic_shared, *ks = qs + ROWS * D * 4, *vs = ks + KEYS * D * 4;
    int keyLength = p.cached == nullptr ? p.keyLength : *p.cached + p.queryLength;
    Problem of(p, keyLength);
    int start = blockIdx.x * ROWS, warp = threadIdx.x >> 5, g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
    int line = warp / HALVES * 16, col = warp % HALVES * COLS, last = smaller(of.rows, start + ROWS) - 1;
    int begin = of.lowest_key(of.query(start)) / KEYS * KEYS, end = of.query(last) + 1;
    if (SPLIT)
    {
        begin = larger(begin, blockIdx.z * p.splitKeys);
        end = smaller(end, (blockIdx.z + 1) * p.splitKeys);
        if (begin >= end)
        {
            // No key: the join takes a denominator of 0 for that, and asks for nothing else.
            i64 lines = (i64)p.batch * p.kvHeads * of.rows, at = ((i64)blockIdx.z * p.batch * p.kvHeads + blockIdx.y) * of.rows + start;
            float *none = p.partial + p.splits * lines * p.headDim + at;
            for (int r = threadIdx.x; r < smaller(ROWS, of.rows - start); r += THREADS)
            {
                none[r] = -positive_infinity();
                none[p.splits * lines + r] = 0.0f;
            }
            return;
        }
    }
    bool vectorQ = of.vector(p.q, p.q), vectorKv = of.vector(p.k, p.v);
    int row0 = start + line + g, row1 = row0 + 8;
    int query0 = of.query(smaller(row0, of.rows - 1)), query1 = of.query(smaller(row1, of.rows - 1));
    // The warp's rows see keys from `from` to `highest`.
    int from = of.lowest_key(of.query(smaller(start + line, of.rows - 1))), highest = start + line < of.rows ? of.query(smaller(start + line + 15, of.rows - 1)) : -1;

    float sum[COLS / 8][4], most0 = -positive_infinity(), most1 = most0, total0 = 0.0f, total1 = 0.0f;
#pragma unroll
    for (int j = 0; j < COLS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[j][e] = 0.0f;

    stage_rows<ROWS, D, THREADS>(qs, p.q, of, start, of.rows, vectorQ);
    if (begin < end)
        stage_keys<KEYS, D, THREADS>(ks, p.k, of, begin, keyLength, vectorKv);
    copy_commit();
#pragma unroll 1
    for (int key = begin; key < end; key += KEYS)
    {
        // V comes while the scores are computed, the next K while V is multiplied.
        stage_keys<KEYS, D, THREADS>(vs, p.v, of, key, keyLength, vectorKv);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        // A token of a cache sees what its stretch has; at D = 256 there are no registers for leaving sub-tiles out.
        unsigned seen = SPLIT || D == 256 ? 3 : (key <= highest && key + 15 >= from ? 1 : 0) | (key + 16 <= highest && key + 31 >= from ? 2 : 0);
        float s[4][4];
        dot_products<D, 3>(s, qs, line, ks, 0, seen);
        __syncthreads();
        if (key + KEYS < end)
            stage_keys<KEYS, D, THREADS>(ks, p.k, of, key + KEYS, keyLength, vectorKv);
        copy_commit();

        float high0 = most0, high1 = most1;
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                int at = key + j * 8 + 2 * t + (e & 1);
                float slope, x = of.score(s[j][e], slope);
                x = at < end && of.visible(e < 2 ? query0 : query1, at) ? x : -positive_infinity();
                s[j][e] = x;
                if (e < 2)
                    high0 = larger(high0, x);
                else
                    high1 = larger(high1, x);
            }
        high0 = larger(high0, shuffle_xor(high0, 1));
        high0 = larger(high0, shuffle_xor(high0, 2));
        high1 = larger(high1, shuffle_xor(high1, 1));
        high1 = larger(high1, shuffle_xor(high1, 2));
        // A row that has seen no key yet has no maximum to subtract.
        float base0 = high0 == -positive_infinity() ? 0.0f : high0, base1 = high1 == -positive_infinity() ? 0.0f : high1;
        float factor0 = exp2_fast((most0 - base0) * Log2E), factor1 = exp2_fast((most1 - base1) * Log2E);
        most0 = high0;
        most1 = high1;
        total0 *= factor0;
        total1 *= factor1;
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                s[j][e] = exp2_fast((s[j][e] - (e < 2 ? base0 : base1)) * Log2E);
                if (e < 2)
                    total0 += s[j][e];
                else
                    total1 += s[j][e];
            }
        unsigned a[2][2][4];
        as_operand<4>(a, s);
        copy_wait<1>();
        __syncthreads();
        add_product<D, COLS, 4>(sum, a, vs, col, factor0, factor1, seen);
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    total0 += shuffle_xor(total0, 1);
    total0 += shuffle_xor(total0, 2);
    total1 += shuffle_xor(total1, 1);
    total1 += shuffle_xor(total1, 2);
    float inverse0 = total0 == 0.0f ? 0.0f : 1.0f / total0, inverse1 = total1 == 0.0f ? 0.0f : 1.0f / total1;
    put<D, COLS>(qs, sum, line, col, SPLIT ? 1.0f : inverse0, SPLIT ? 1.0f : inverse1);
    __syncthreads();
    // One lane of each row of the first columns' warp writes what the row has besides o.
    bool first0 = t == 0 && col == 0 && row0 < of.rows, first1 = t == 0 && col == 0 && row1 < of.rows;
    if (SPLIT)
    {
        i64 problems = (i64)p.batch * p.kvHeads, lines = problems * of.rows, at = ((i64)blockIdx.z * problems + blockIdx.y) * of.rows;
        float *maxima = p.partial + p.splits * lines * p.headDim, *totals = maxima + p.splits * lines;
        write_lines<ROWS, D, THREADS>(
            qs, p.headDim, of.vector(p.partial, nullptr), false, [&](int r) { return start + r < of.rows ? p.partial + (at + start + r) * p.headDim : nullptr; });
        if (first0)
        {
            maxima[at + row0] = most0;
            totals[at + row0] = total0;
        }
        if (first1)
        {
            maxima[at + row1] = most1;
            totals[at + row1] = total1;
        }
        return;
    }
    write_lines<ROWS, D, THREADS>(
        qs, p.headDim, of.vector(p.o, nullptr), false, [&](int r) { return start + r < of.rows ? p.o + of.row_offset(start + r) : nullptr; });
    if (first0)
        p.lse[of.row_index(row0)] = total0 == 0.0f ? -positive_infinity() : most0 + log_of(total0);
    if (first1)
        p.lse[of.row_index(row1)] = total1 == 0.0f ? -positive_infinity() : most1 + log_of(total1);
}

KERNEL(128) attention_forward_32(const AttentionParams p) { forward<32, 4, 1, false>(p); }
KERNEL(128) attention_forward_64(const AttentionParams p) { forward<64, 4, 1, false>(p); }
KERNEL(128) attention_forward_128(const AttentionParams p) { forward<128, 4, 1, false>(p); }
KERNEL(128) attention_forward_256(const AttentionParams p) { forward<256, 4, 2, false>(p); }
KERNEL(32) attention_split_32(const AttentionParams p) { forward<32, 1, 1, true>(p); }
KERNEL(32) attention_split_64(const AttentionParams p) { forward<64, 1, 1, true>(p); }
KERNEL(32) attention_split_128(const AttentionParams p) { forward<128, 1, 1, true>(p); }
KERNEL(64) attention_split_256(const AttentionParams p) { forward<256, 2, 2, true>(p); }

/// o and lse from the stretches of attention_split, in their order; a block a row of o, threads along headDim. What the stretches leave besides their sums
/// is read once a row, a thread a stretch.
/// Reads 8·splits bytes a row and 4·headDim of each stretch that has keys, writes 4·(headDim + 1).
KERNEL(128) attention_join(const AttentionParams p)
{
    __shared__ float room[32], factors[128], denominators[128];
    int head = blockIdx.x % p.heads, group = p.heads / p.kvHeads, kvHead = head / group;
    int token = blockIdx.x / p.heads, sequence = token / p.queryLength;
    int rows = p.queryLength * group, row = (token - sequence * p.queryLength) * group + head - kvHead * group;
    i64 problems = (i64)p.batch * p.kvHeads, lines = problems * rows, line = ((i64)sequence * p.kvHeads + kvHead) * rows + row;
    const float *maxima = p.partial + p.splits * lines * p.headDim, *totals = maxima + p.splits * lines;
    int own = threadIdx.x;
    float first = own < p.splits ? maxima[own * lines + line] : -positive_infinity(), most = first;
    for (int s = own + 128; s < p.splits; s += 128)
        most = larger(most, maxima[s * lines + line]);
    most = block_max(most, room, 128);
    float base = most == -positive_infinity() ? 0.0f : most, total = 0.0f, sum[2] = {0.0f, 0.0f};
    for (int from = 0; from < p.splits; from += 128)
    {
        if (from + own < p.splits)
        {
            factors[own] = exp_of((from == 0 ? first : maxima[(from + own) * lines + line]) - base);
            denominators[own] = totals[(from + own) * lines + line];
        }
        __syncthreads();
        for (int s = 0; s < smaller(128, p.splits - from); s++)
        {
            float factor = factors[s], denominator = denominators[s];
            total = fma(denominator, factor, total);
            if (denominator == 0.0f)
                continue;
            const float *sums = p.partial + ((from + s) * lines + line) * p.headDim;
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (own + i * 128 < p.headDim)
                    sum[i] = fma(sums[own + i * 128], factor, sum[i]);
        }
        __syncthreads();
    }
    float inverse = total == 0.0f ? 0.0f : 1.0f / total;
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (own + i * 128 < p.headDim)
            p.o[(i64)blockIdx.x * p.headDim + own + i * 128] = sum[i] * inverse;
    if (own == 0)
        p.lse[blockIdx.x] = total == 0.0f ? -positive_infinity() : most + log_of(total);
}

/// delta[row] = Σ dO·o, a warp a row. Reads 8·headDim bytes a row, writes 4.
KERNEL(256) attention_delta(const AttentionParams p)
{
    i64 row = (i64)blockIdx.x * 8 + (threadIdx.x >> 5), rows = (i64)p.batch * p.queryLength * p.heads;
    if (row >= rows)
        return;
    const float *a = p.dO + row * p.headDim, *b = p.o + row * p.headDim;
    float sum = 0.0f;
    for (int d = threadIdx.x & 31; d < p.headDim; d += 32)
        sum = fma(a[d], b[d], sum);
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0)
        p.delta[row] = sum;
}

/// P and dS of one element from its dot product and that of dO and v. A row that saw no key (lse = −∞) gives 0.
__device__ __forceinline__ void gradient(const Problem &of, float &s, float &dp, int query, int key, float lse, float delta)
{
    float slope, x = of.score(s, slope);
    bool seen = of.visible(query, key) && lse != -positive_infinity();
    s = seen ? exp2_fast((x - lse) * Log2E) : 0.0f;
    dp = seen ? s * (dp - delta) * slope * of.p.scale : 0.0f;
}

/// dk (+)= dSᵀ·q and dv (+)= Pᵀ·dO of KEYS keys; a warp owns 16 keys and COLS = D / SPLIT columns, and walks over the rows in
/// order, ROWS at a time. SPLIT = 2: of the two warps of 16 keys each computes the scores of half of the rows and passes P and dS to the other. Reads K, V once and q, dO, lse, delta of the rows that see the keys, once a block of keys.
template <int D, int SPLIT, int ROWS> __device__ __forceinline__ void key_gradients(const AttentionParams &p)
{
    const bool PASSES = SPLIT == 2;
    const int THREADS = 128, KEYS = 64 / SPLIT, COLS = D / SPLIT, TILES = ROWS / 8, OWN = PASSES ? TILES / SPLIT : TILES;
    static_assert(!PASSES || OWN == 2, "a warp passes sixteen rows");
    u8 *ks = dynamic_shared, *vs = ks + KEYS * D * 4, *qs = vs + KEYS * D * 4, *gs = qs + ROWS * D * 4;
    float *lse = (float *)(gs + ROWS * D * 4), *delta = lse + ROWS;
    uint4 *passed = (uint4 *)(delta + ROWS);
    Problem of(p);
    int start = blockIdx.x * KEYS, warp = threadIdx.x >> 5, t = threadIdx.x & 3, g = (threadIdx.x & 31) >> 2;
    int line = warp / SPLIT * 16, col = warp % SPLIT * COLS;
    bool vectorQ = of.vector(p.q, p.dO), vectorKv = of.vector(p.k, p.v);
    float sumK[COLS / 8][4], sumV[COLS / 8][4];
#pragma unroll
    for (int j = 0; j < COLS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            sumK[j][e] = sumV[j][e] = 0.0f;
    stage_keys<KEYS, D, THREADS>(ks, p.k, of, start, p.keyLength, vectorKv);
    stage_keys<KEYS, D, THREADS>(vs, p.v, of, start, p.keyLength, vectorKv);
    copy_commit();
    // Queries from the first key of the block on, to the last that has its last key in the window.
    int lastKey = smaller(start + KEYS, p.keyLength) - 1;
    int begin = larger(0, start - of.offset) * of.group, end = of.rows;
    if (p.window > 0)
        end = smaller(end, larger(0, lastKey + p.window - of.offset) * of.group);
    if (lastKey < of.first)
        end = begin;
    int key0 = start + line, highKey = smaller(key0 + 15, lastKey), own = PASSES ? warp % SPLIT * 16 : 0;
#pragma unroll 1
    for (int row = begin; row < end; row += ROWS)
    {
        stage_rows<ROWS, D, THREADS>(qs, p.q, of, row, end, vectorQ);
        stage_rows<ROWS, D, THREADS>(gs, p.dO, of, row, end, vectorQ);
        if (threadIdx.x < ROWS)
        {
            int r = row + threadIdx.x;
            lse[threadIdx.x] = r < end ? p.lse[of.row_index(r)] : -positive_infinity();
            delta[threadIdx.x] = r < end ? p.delta[of.row_index(r)] : 0.0f;
        }
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        // Sixteen rows of which some see some of the warp's keys.
        unsigned seen = 0;
#pragma unroll
        for (int i = 0; i < TILES / 2; i++)
        {
            int low = row + i * 16;
            if (low < end && key0 <= of.query(smaller(low + 15, end - 1)) && highKey >= of.lowest_key(of.query(low)))
                seen |= 1u << i;
        }
        float s[OWN][4], dp[OWN][4];
        unsigned ours = PASSES ? seen >> (own >> 4) & 1 : seen;
        dot_products<D, 3>(s, ks, line, qs, own, ours);
        dot_products<D, 2>(dp, vs, line, gs, own, ours);
#pragma unroll
        for (int j = 0; j < OWN; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
            {
                int r = own + j * 8 + 2 * t + (e & 1), key = key0 + g + (e >> 1) * 8;
                gradient(of, s[j][e], dp[j][e], of.query(row + r), key < p.keyLength ? key : 0x7FFFFFFF, lse[r], delta[r]);
            }
        unsigned a[TILES / 2][2][4];
        if constexpr (PASSES)
        {
            unsigned half[1][2][4];
            as_operand<OWN>(half, s);
            pass(passed + warp * 128, half[0]);
            as_operand<OWN>(half, dp);
            pass(passed + warp * 128 + 64, half[0]);
            __syncthreads();
            const uint4 *pair = passed + warp / SPLIT * SPLIT * 128;
            take(a[0], pair);
            take(a[1], pair + 128);
            add_product<D, COLS, TILES>(sumV, a, gs, col, 1.0f, 1.0f, seen);
            take(a[0], pair + 64);
            take(a[1], pair + 192);
        }
        else
        {
            as_operand<TILES>(a, s);
            add_product<D, COLS, TILES>(sumV, a, gs, col, 1.0f, 1.0f, seen);
            as_operand<TILES>(a, dp);
        }
        add_product<D, COLS, TILES>(sumK, a, qs, col, 1.0f, 1.0f, seen);
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    put<D, COLS>(ks, sumK, line, col, 1.0f, 1.0f);
    put<D, COLS>(vs, sumV, line, col, 1.0f, 1.0f);
    __syncthreads();
    if (p.dk != nullptr)
        write_lines<KEYS, D, THREADS>(
            ks, p.headDim, of.vector(p.dk, nullptr), p.accumulate != 0, [&](int r) { return start + r < p.keyLength ? p.dk + of.key_offset(start + r) : nullptr; });
    if (p.dv != nullptr)
        write_lines<KEYS, D, THREADS>(
            vs, p.headDim, of.vector(p.dv, nullptr), p.accumulate != 0, [&](int r) { return start + r < p.keyLength ? p.dv + of.key_offset(start + r) : nullptr; });
}
KERNEL_OF(128, 1) attention_keys_32(const AttentionParams p) { key_gradients<32, 1, 32>(p); }
KERNEL_OF(128, 1) attention_keys_64(const AttentionParams p) { key_gradients<64, 1, 32>(p); }
KERNEL_OF(128, 1) attention_keys_128(const AttentionParams p) { key_gradients<128, 2, 32>(p); }
KERNEL_OF(128, 1) attention_keys_256(const AttentionParams p) { key_gradients<256, 4, 16>(p); }

/// dq (+)= dS·k of ROWS rows; a warp owns 16 rows and COLS = D / SPLIT columns, and walks over the keys in order, KEYS at a
/// time. D = 128: of the two warps of 16 rows each computes the scores of half of the keys and passes dS to the other. Reads q, dO, lse, delta once and the keys that the rows see, once a block of rows.
template <int D, int SPLIT, int KEYS> __device__ __forceinline__ void query_gradients(const AttentionParams &p)
{
    // At D = 256 there is neither shared memory for what is passed (98,304 bytes of 101,376 hold the tiles) nor more than sixteen keys to share.
    const bool PASSES = SPLIT == 2 && KEYS == 32;
    const int THREADS = 128, ROWS = 64 / SPLIT, COLS = D / SPLIT, TILES = KEYS / 8, OWN = PASSES ? TILES / SPLIT : TILES;
    u8 *qs = dynamic_shared, *gs = qs + ROWS * D * 4, *ks = gs + ROWS * D * 4, *vs = ks + KEYS * D * 4;
    uint4 *passed = (uint4 *)(vs + KEYS * D * 4);
    Problem of(p);
    int start = blockIdx.x * ROWS, warp = threadIdx.x >> 5, t = threadIdx.x & 3, g = (threadIdx.x & 31) >> 2;
    int line = warp / SPLIT * 16, col = warp % SPLIT * COLS;
    bool vectorQ = of.vector(p.q, p.dO), vectorKv = of.vector(p.k, p.v);
    int row0 = start + line + g, row1 = row0 + 8, last = smaller(of.rows, start + ROWS) - 1;
    float lse0 = -positive_infinity(), lse1 = lse0, delta0 = 0.0f, delta1 = 0.0f;
    if (row0 < of.rows)
    {
        lse0 = p.lse[of.row_index(row0)];
        delta0 = p.delta[of.row_index(row0)];
    }
    if (row1 < of.rows)
    {
        lse1 = p.lse[of.row_index(row1)];
        delta1 = p.delta[of.row_index(row1)];
    }
    int query0 = of.query(row0), query1 = of.query(row1), own = PASSES ? warp % SPLIT * 16 : 0;
    int from = of.lowest_key(of.query(smaller(start + line, of.rows - 1))), highest = start + line < of.rows ? of.query(smaller(start + line + 15, of.rows - 1)) : -1;
    float sum[COLS / 8][4];
#pragma unroll
    for (int j = 0; j < COLS / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            sum[j][e] = 0.0f;
    stage_rows<ROWS, D, THREADS>(qs, p.q, of, start, of.rows, vectorQ);
    stage_rows<ROWS, D, THREADS>(gs, p.dO, of, start, of.rows, vectorQ);
    int begin = of.lowest_key(of.query(start)) / KEYS * KEYS, end = of.query(last) + 1;
#pragma unroll 1
    for (int key = begin; key < end; key += KEYS)
    {
        stage_keys<KEYS, D, THREADS>(ks, p.k, of, key, p.keyLength, vectorKv);
        stage_keys<KEYS, D, THREADS>(vs, p.v, of, key, p.keyLength, vectorKv);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        unsigned seen = 0;
#pragma unroll
        for (int i = 0; i < TILES / 2; i++)
            if (key + i * 16 <= highest && key + i * 16 + 15 >= from)
                seen |= 1u << i;
        float s[OWN][4], dp[OWN][4];
        unsigned ours = PASSES ? seen >> (own >> 4) & 1 : seen;
        dot_products<D, 3>(s, qs, line, ks, own, ours);
        dot_products<D, 2>(dp, gs, line, vs, own, ours);
#pragma unroll
        for (int j = 0; j < OWN; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                gradient(of, s[j][e], dp[j][e], e < 2 ? query0 : query1, key + own + j * 8 + 2 * t + (e & 1), e < 2 ? lse0 : lse1, e < 2 ? delta0 : delta1);
        unsigned a[TILES / 2][2][4];
        if constexpr (PASSES)
        {
            unsigned half[1][2][4];
            as_operand<OWN>(half, dp);
            pass(passed + warp * 64, half[0]);
            __syncthreads();
            const uint4 *pair = passed + warp / SPLIT * SPLIT * 64;
            take(a[0], pair);
            take(a[1], pair + 64);
        }
        else
            as_operand<TILES>(a, dp);
        add_product<D, COLS, TILES>(sum, a, ks, col, 1.0f, 1.0f, seen);
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    put<D, COLS>(qs, sum, line, col, 1.0f, 1.0f);
    __syncthreads();
    write_lines<ROWS, D, THREADS>(
        qs, p.headDim, of.vector(p.dq, nullptr), p.accumulate != 0, [&](int r) { return start + r < of.rows ? p.dq + of.row_offset(start + r) : nullptr; });
}
KERNEL_OF(128, 1) attention_queries_32(const AttentionParams p) { query_gradients<32, 1, 32>(p); }
KERNEL_OF(128, 1) attention_queries_64(const AttentionParams p) { query_gradients<64, 1, 32>(p); }
KERNEL_OF(128, 1) attention_queries_128(const AttentionParams p) { query_gradients<128, 2, 32>(p); }
KERNEL_OF(128, 1) attention_queries_256(const AttentionParams p) { query_gradients<256, 2, 16>(p); }

/// Attention sinks: o ← o·e^(lse − new lse), lse ← ln(e^lse + e^sink) of each row and head; rows that saw no key stay. A warp a
/// row of o. Reads and writes 4·headDim bytes a row.
//! attention | attention_sinks_forward | block 256 | grid ceil(rows * heads / 8) | shared 0
//! attention | attention_sinks_backward | block 256 | grid heads | shared 0
KERNEL(256) attention_sinks_forward(float *o, float *lse, const float *PLAIN sinks, i64 rows, int heads, int headDim)
{
    i64 row = (i64)blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows)
        return;
    int lane = threadIdx.x & 31;
    float before = lse[row];
    if (before == -positive_infinity())
        return;
    double sink = (double)sinks[row % heads], old = (double)before, most = old > sink ? old : sink;
    float kept = (float)(1.0 / (1.0 + exp_of(sink - old)));
    for (int d = lane; d < headDim; d += 32)
        o[row * headDim + d] *= kept;
    // Every lane has read lse before it is replaced.
    warp_barrier();
    if (lane == 0)
        lse[row] = (float)(most + log_of(exp_of(old - most) + exp_of(sink - most)));
}

/// dSinks[head] −= Σ_rows e^(sink − lse)·delta, in double: a thread its rows in order, then the block. Reads 8·rows·heads bytes.
KERNEL(256) attention_sinks_backward(float *dSinks, const float *PLAIN delta, const float *PLAIN lse, const float *PLAIN sinks, int rows, int heads)
{
    __shared__ double room[32];
    int head = blockIdx.x;
    double sink = (double)sinks[head], sum = 0.0;
    for (int row = threadIdx.x; row < rows; row += 256)
    {
        float l = lse[(i64)row * heads + head];
        if (l != -positive_infinity())
            sum = fma(exp_of(sink - (double)l), (double)delta[(i64)row * heads + head], sum);
    }
    sum = block_sum(sum, room, 256);
    if (threadIdx.x == 0)
        dSinks[head] = (float)((double)dSinks[head] - sum);
}
