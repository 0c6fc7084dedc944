// Attention of --precision bf16, forward and backward: one tensor-core product where attention.cu takes three to six, as torch.autocast
// runs it. q, k, v, dO, P = e^(score − …) and dS are rounded to bf16, nearest even, where a product reads them; scores, maxima, denominators,
// lse, delta and all sums are fp32, and what is read and written is fp32 (and, of o, a bf16 copy for the layer that follows). Sums of a product
// stay in the tensor core's fp32 accumulator. Layouts, masks and the rows of a problem: attention.cu.
//
// A warp owns 16 rows (forward, queries) or 16 keys and computes each of its scores once, in sub-tiles of 8 or 16 keys or rows; a sub-tile
// that no pair sees is left out, one that all pairs see is not masked. Only at D = 256 by keys two warps share 16 keys, as dK and dV
// of 16 keys are 256 registers: each computes the scores of every other 16 rows, hands P and dS to its neighbour through shared memory, as
// the registers of an operand, and sums up half of the columns.
// Tiles are rounded on their way to shared memory; q and dO of a warp's rows go straight to the registers of operands (D = 256: shared).
// Deterministic: forward and queries by rows that walk over the keys in order, keys by keys that walk over the rows in order, no atomics.
// Floor: 4·(2·|q| + 2·|k|) bytes forward and 2·|q| of the copy, 4·(2·|q| + 4·|k|) by keys and 4·(4·|q| + 2·|k|) by queries (with dq, dk, dv
// added to: |q| and 2·|k| more) over the bandwidth, or 2, 4 and 3 times 2·rows·keys·headDim over the bf16 tensor rate.
//! attention | attention_forward_rounded_32, _64, _128 | block 128 | grid (ceil(queryLength * group / 64), batch * kvHeads) | shared 256 * D | one parameter: AttentionParams; queryLength * group² of at most 2³², as for all of these
//! attention | attention_forward_rounded_256 | block 128 | grid (ceil(queryLength * group / 64), batch * kvHeads) | shared 65536
//! attention | attention_queries_rounded_32, _64, _128 | block 128 | grid (ceil(queryLength * group / 64), batch * kvHeads) | shared 256 * D | writes delta, which attention_keys_rounded reads; dq; += with accumulate
//! attention | attention_queries_rounded_256 | block 128 | grid (ceil(queryLength * group / 64), batch * kvHeads) | shared 98304
//! attention | attention_keys_rounded_32, _64, _128 | block 128 | grid (ceil(keyLength / 64), batch * kvHeads) | shared 384 * D + 384 | dk and dv, either may be null; += with accumulate
//! attention | attention_keys_rounded_256 | block 128 | grid (ceil(keyLength / 32), batch * kvHeads) | shared 70016
#include "attention_rounded.cuh"

// ---- forward ----

/// o = softmax(mask(cap(scale·q·kᵀ)))·v, lse, and o rounded to bf16 where p.copy is given. Reads q once, K and V once a block of 64 rows; writes o, lse and the copy.
template <int D> __device__ __forceinline__ void forward(const AttentionParams &p)
{
    // At D = 256 the sums are 128 registers, and q is read from shared memory.
    const bool KEPT = D <= 128;
    const int ROWS = 64, KEYS = KEPT ? 64 : 32, TILES = KEYS / 8;
    u8 *ks = dynamic_shared, *vs = ks + KEYS * D * 2, *qs = vs + KEYS * D * 2;
    Lines of(p);
    Scale scale(p);
    int start = blockIdx.x * ROWS, line = threadIdx.x >> 5 << 4, g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, last = of.rows - 1;
    int row = start + line, begin = of.lowest_key(of.query(start)) / KEYS * KEYS, end = of.query(smaller(last, start + ROWS - 1)) + 1;
    bool vectorQ = of.vector(p.q, p.q), vectorKv = of.vector(p.k, p.v);
    // The warp's rows see keys up to `highest`, all of them those up to `lowest`.
    int lowest = of.query(smaller(row, last)), highest = row <= last ? of.query(smaller(row + 15, last)) : -1;
    int from = of.lowest_key(lowest), allFrom = of.lowest_key(highest);
    int row0 = smaller(row + g, last), row1 = smaller(row + g + 8, last);
    const i64 at[2] = {of.row_offset(row0), of.row_offset(row1)};
    Seen seen0(of, of.query(row0)), seen1(of, of.query(row1));

    unsigned q[KEPT ? D / 16 : 1][4];
    if constexpr (KEPT)
    {
        float none[2];
        row_operands<D, false>(q, none, p.q, nullptr, at, p.headDim, vectorQ);
    }
    else
        stage<D, false>(qs, p.q, nullptr, nullptr, ROWS, p.headDim, vectorQ, [&](int r) { return of.row_offset(smaller(start + r, last)); });
    float sum[D / 8][4], most0 = -positive_infinity(), most1 = most0, total0 = 0.0f, total1 = 0.0f;
    clear(sum);
#pragma unroll 1
    for (int key = begin; key < end; key += KEYS)
    {
        if (key > begin)
            __syncthreads();
        stage<D, true>(ks, p.k, vs, p.v, smaller(KEYS, (end - key + 15) & ~15), p.headDim, vectorKv, [&](int k) { return of.key_place(smaller(key + k, p.keyLength - 1)); });
        __syncthreads();
        if (key > highest || key + KEYS <= from)
            continue;
        float s[TILES][4], high0 = most0, high1 = most1;
#pragma unroll
        for (int j = 0; j < TILES; j++)
        {
            int first = key + j * 8;
            if (first > highest || first + 8 <= from)
            {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[j][e] = -positive_infinity();
                continue;
            }
            // Two sums, so that a product need not wait for the one before.
            float part[2][4];
            clear(part);
#pragma unroll
            for (int k = 0; k < D; k += 32)
            {
                unsigned b[4], a[2][4];
                eight_lines<D>(b, ks, j * 8, k);
#pragma unroll
                for (int h = 0; h < 2; h++)
                {
                    if constexpr (KEPT)
                    {
#pragma unroll
                        for (int r = 0; r < 4; r++)
                            a[h][r] = q[k / 16 + h][r];
                    }
                    else
                        line_operand<D>(a[h], qs, line, k + h * 16);
                    mma_bf16(part[h], a[h], b + 2 * h);
                }
            }
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[j][e] = part[0][e] + part[1][e];
            scale.apply(s[j]);
            if (first + 7 > lowest || first < allFrom)
            {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (!(e < 2 ? seen0 : seen1).holds(first + 2 * t + (e & 1)))
                        s[j][e] = -positive_infinity();
            }
            high0 = most_of(high0, most_of(s[j][0], s[j][1]));
            high1 = most_of(high1, most_of(s[j][2], s[j][3]));
        }
        high0 = most_of(high0, shuffle_xor(high0, 1));
        high0 = most_of(high0, shuffle_xor(high0, 2));
        high1 = most_of(high1, shuffle_xor(high1, 1));
        high1 = most_of(high1, shuffle_xor(high1, 2));
        // A row that has seen no key yet has no maximum to subtract.
        float base0 = high0 == -positive_infinity() ? 0.0f : high0, base1 = high1 == -positive_infinity() ? 0.0f : high1;
        float factor0 = exp2_fast(most0 - base0), factor1 = exp2_fast(most1 - base1);
        most0 = high0;
        most1 = high1;
        total0 *= factor0;
        total1 *= factor1;
        // Where no maximum of the warp has changed there is nothing to scale.
        if (lanes_with(factor0 != 1.0f || factor1 != 1.0f) != 0)
        {
#pragma unroll
            for (int j = 0; j < D / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sum[j][e] *= e < 2 ? factor0 : factor1;
        }
#pragma unroll
        for (int j = 0; j < TILES; j += 2)
        {
            int first = key + j * 8;
            if (first > highest || first + 16 <= from)
                continue;
#pragma unroll
            for (int n = 0; n < 2; n++)
            {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    s[j + n][e] = exp2_fast(s[j + n][e] - (e < 2 ? base0 : base1));
                total0 += s[j + n][0] + s[j + n][1];
                total1 += s[j + n][2] + s[j + n][3];
            }
            unsigned a[4];
            as_operand(a, s[j], s[j + 1]);
            add_lines<D, D>(sum, a, vs, j * 8, 0);
        }
    }
    total0 += shuffle_xor(total0, 1);
    total0 += shuffle_xor(total0, 2);
    total1 += shuffle_xor(total1, 1);
    total1 += shuffle_xor(total1, 2);
    float inverse0 = total0 == 0.0f ? 0.0f : 1.0f / total0, inverse1 = total1 == 0.0f ? 0.0f : 1.0f / total1;
    const bool there[2] = {row + g <= last, row + g + 8 <= last};
    bool vectorO = of.vector(p.o, p.o);
    write_sums<D, D>(p.o, at, there, sum, 0, inverse0, inverse1, p.headDim, vectorO, false);
    if (p.copy != nullptr)
        write_copy<D>(p.copy, at, there, sum, inverse0, inverse1, p.headDim, (p.headDim & 3) == 0 && aligned16(p.copy));
    if (t == 0 && there[0])
        p.lse[of.row_index(row0)] = total0 == 0.0f ? -positive_infinity() : fma(most0, Ln2, log_of(total0));
    if (t == 0 && there[1])
        p.lse[of.row_index(row1)] = total1 == 0.0f ? -positive_infinity() : fma(most1, Ln2, log_of(total1));
}

KERNEL_OF(128, 3) attention_forward_rounded_32(const AttentionParams p) { forward<32>(p); }
KERNEL_OF(128, 3) attention_forward_rounded_64(const AttentionParams p) { forward<64>(p); }
KERNEL(128) attention_forward_rounded_128(const AttentionParams p) { forward<128>(p); }
KERNEL(128) attention_forward_rounded_256(const AttentionParams p) { forward<256>(p); }

// ---- backward ----

/// lse in powers of two; a row that saw no key gives P = 2^(−∞) = 0.
__device__ __forceinline__ float power_of(float lse) { return lse == -positive_infinity() ? positive_infinity() : lse * Log2E; }

/// s ← P and dp ← dS / scale of one element, where `seen`.
template <bool CAPPED> __device__ __forceinline__ void gradient(float &s, float &dp, const Scale &scale, float lse, float delta, bool seen)
{
    float slope = 1.0f;
    if (CAPPED)
    {
        float u = tanh_fast(s * scale.inner);
        slope = (1.0f - u) * (1.0f + u);
        s = exp2_fast(fma(scale.outer, u, -lse));
    }
    else
        s = exp2_fast(fma(s, scale.plain, -lse));
    s = seen ? s : 0.0f;
    dp = s * (dp - delta);
    if (CAPPED)
        dp *= slope;
}

/// dq (+)= dS·k of 64 rows and delta[row] = Σ dO·o; a warp owns 16 rows and walks over the keys in order. Reads q, dO, o and lse once, the keys that
/// the rows see once a block of rows; writes dq and delta.
template <int D> __device__ __forceinline__ void query_gradients(const AttentionParams &p)
{
    const bool KEPT = D <= 128;
    const int ROWS = 64, KEYS = KEPT ? 64 : 32, UNROLL = KEPT ? D / 16 : 4;
    u8 *ks = dynamic_shared, *vs = ks + KEYS * D * 2, *qs = vs + KEYS * D * 2, *gs = qs + ROWS * D * 2;
    Lines of(p);
    Scale scale(p);
    int start = blockIdx.x * ROWS, line = threadIdx.x >> 5 << 4, g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, last = of.rows - 1;
    int row = start + line, begin = of.lowest_key(of.query(start)) / KEYS * KEYS, end = of.query(smaller(last, start + ROWS - 1)) + 1;
    bool vectorQ = of.vector(p.q, p.dO), vectorKv = of.vector(p.k, p.v);
    int lowest = of.query(smaller(row, last)), highest = row <= last ? of.query(smaller(row + 15, last)) : -1;
    int from = of.lowest_key(lowest), allFrom = of.lowest_key(highest);
    int row0 = smaller(row + g, last), row1 = smaller(row + g + 8, last);
    const i64 at[2] = {of.row_offset(row0), of.row_offset(row1)}, index[2] = {of.row_index(row0), of.row_index(row1)};
    const bool there[2] = {row + g <= last, row + g + 8 <= last};
    Seen seen0(of, of.query(row0)), seen1(of, of.query(row1));
    const float lse[2] = {power_of(p.lse[index[0]]), power_of(p.lse[index[1]])};

    unsigned q[KEPT ? D / 16 : 1][4], d[KEPT ? D / 16 : 1][4];
    float delta[2];
    if constexpr (KEPT)
    {
        row_operands<D, false>(q, delta, p.q, nullptr, at, p.headDim, vectorQ);
        row_operands<D, true>(d, delta, p.dO, p.o, at, p.headDim, of.vector(p.dO, p.o));
    }
    else
    {
        unsigned unused[D / 16][4];
        row_operands<D, true>(unused, delta, p.dO, p.o, at, p.headDim, of.vector(p.dO, p.o));
        stage<D, true>(qs, p.q, gs, p.dO, ROWS, p.headDim, vectorQ, [&](int r) { return of.row_offset(smaller(start + r, last)); });
    }
#pragma unroll
    for (int r = 0; r < 2; r++)
        if (t == 0 && there[r])
            p.delta[index[r]] = delta[r];
    float sum[D / 8][4];
    clear(sum);
#pragma unroll 1
    for (int key = begin; key < end; key += KEYS)
    {
        if (key > begin)
            __syncthreads();
        stage<D, true>(ks, p.k, vs, p.v, smaller(KEYS, (end - key + 15) & ~15), p.headDim, vectorKv, [&](int k) { return of.key_place(smaller(key + k, p.keyLength - 1)); });
        __syncthreads();
#pragma unroll 1
        for (int sub = 0; sub < KEYS; sub += 16)
        {
            int first = key + sub;
            if (first > highest || first + 16 <= from)
                continue;
            float s[2][4], dp[2][4];
            clear(s);
            clear(dp);
#pragma unroll UNROLL
            for (int k = 0; k < D; k += 16)
            {
                unsigned a[4], b[4];
                if constexpr (!KEPT)
                    line_operand<D>(a, qs, line, k);
                read_halves<true, D>(ks, sub, k, b);
                mma_bf16(s[0], KEPT ? q[KEPT ? k / 16 : 0] : a, b);
                mma_bf16(s[1], KEPT ? q[KEPT ? k / 16 : 0] : a, b + 2);
                if constexpr (!KEPT)
                    line_operand<D>(a, gs, line, k);
                read_halves<true, D>(vs, sub, k, b);
                mma_bf16(dp[0], KEPT ? d[KEPT ? k / 16 : 0] : a, b);
                mma_bf16(dp[1], KEPT ? d[KEPT ? k / 16 : 0] : a, b + 2);
            }
            bool all = first + 15 <= lowest && first >= allFrom;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                {
                    bool seen = all || (e < 2 ? seen0 : seen1).holds(first + n * 8 + 2 * t + (e & 1));
                    if (scale.capped)
                        gradient<true>(s[n][e], dp[n][e], scale, lse[e >> 1], delta[e >> 1], seen);
                    else
                        gradient<false>(s[n][e], dp[n][e], scale, lse[e >> 1], delta[e >> 1], seen);
                }
            unsigned a[4];
            as_operand(a, dp[0], dp[1]);
            add_lines<D, D>(sum, a, ks, sub, 0);
        }
    }
    write_sums<D, D>(p.dq, at, there, sum, 0, p.scale, p.scale, p.headDim, of.vector(p.dq, p.dq), p.accumulate != 0);
}

KERNEL_OF(128, 3) attention_queries_rounded_32(const AttentionParams p) { query_gradients<32>(p); }
KERNEL_OF(128, 3) attention_queries_rounded_64(const AttentionParams p) { query_gradients<64>(p); }
KERNEL(128) attention_queries_rounded_128(const AttentionParams p) { query_gradients<128>(p); }
KERNEL(128) attention_queries_rounded_256(const AttentionParams p) { query_gradients<256>(p); }

/// dk (+)= dSᵀ·q and dv (+)= Pᵀ·dO of KEYS keys; SPLIT warps own 16 keys and COLS = D / SPLIT columns each, and walk over the rows in order, 32 at a
/// time. Reads K and V once and q, dO, lse, delta of the rows that see the keys, once a block of keys; writes dk and dv.
template <int D, int SPLIT> __device__ __forceinline__ void key_gradients(const AttentionParams &p)
{
    const int KEYS = 64 / SPLIT, COLS = D / SPLIT, ROWS = 32;
    u8 *ks = dynamic_shared, *vs = ks + KEYS * D * 2, *qs = vs + KEYS * D * 2, *gs = qs + ROWS * D * 2;
    float *lses = (float *)(gs + ROWS * D * 2), *deltas = lses + ROWS;
    int *queries = (int *)(deltas + ROWS);
    // SPLIT = 2: P and dS of 16 keys and 16 rows, as their warp's lanes hold them.
    uint4 *passed = (uint4 *)(queries + ROWS);
    Lines of(p);
    Scale scale(p);
    int start = blockIdx.x * KEYS, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    int line = warp / SPLIT * 16, half = warp % SPLIT, col = half * COLS, lastKey = smaller(start + KEYS, p.keyLength) - 1;
    int key = start + line, highKey = smaller(key + 15, lastKey);
    bool vectorQ = of.vector(p.q, p.dO), vectorKv = of.vector(p.k, p.v);
    float sumK[COLS / 8][4], sumV[COLS / 8][4];
    clear(sumK);
    clear(sumV);
    stage<D, true>(ks, p.k, vs, p.v, KEYS, p.headDim, vectorKv, [&](int k) { return of.key_place(smaller(start + k, p.keyLength - 1)); });
    // Queries from the first key of the block on, to the last that has its last key in the window.
    int begin = larger(0, start - of.offset) * of.group, end = of.rows;
    if (p.window > 0)
        end = smaller(end, larger(0, lastKey + p.window - of.offset) * of.group);
    if (lastKey < of.first)
        end = begin;
    // The end of the window within the warp's keys, that of all of them, and whether padding is among them.
    int reach = p.window > 0 ? highKey + p.window : 0x7FFFFFFF, allReach = p.window > 0 ? key + p.window : 0x7FFFFFFF;
    bool none = highKey < of.first || key > lastKey, padded = key < of.first || key + 15 > lastKey;
#pragma unroll 1
    for (int row = begin; row < end; row += ROWS)
    {
        if (row > begin)
            __syncthreads();
        stage<D, true>(qs, p.q, gs, p.dO, smaller(ROWS, (end - row + 15) & ~15), p.headDim, vectorQ, [&](int r) { return of.row_offset(smaller(row + r, end - 1)); });
        if (threadIdx.x < ROWS)
        {
            int r = row + threadIdx.x;
            i64 index = of.row_index(smaller(r, end - 1));
            lses[threadIdx.x] = r < end ? power_of(p.lse[index]) : positive_infinity();
            deltas[threadIdx.x] = r < end ? p.delta[index] : 0.0f;
            queries[threadIdx.x] = of.query(smaller(r, end - 1));
        }
        __syncthreads();
#pragma unroll 1
        for (int turn = 0; turn < ROWS; turn += 16 * SPLIT)
        {
            // The warp's own sixteen rows of this turn.
            int sub = turn + half * 16, low = queries[sub], high = queries[sub + 15];
            unsigned aP[4], aS[4];
            bool seen = row + sub < end && !none && key <= high && reach > low;
            if (seen)
            {
                float s[2][4], dp[2][4];
                clear(s);
                clear(dp);
#pragma unroll
                for (int k = 0; k < D; k += 16)
                {
                    unsigned a[4], b[4];
                    line_operand<D>(a, ks, line, k);
                    read_halves<true, D>(qs, sub, k, b);
                    mma_bf16(s[0], a, b);
                    mma_bf16(s[1], a, b + 2);
                    line_operand<D>(a, vs, line, k);
                    read_halves<true, D>(gs, sub, k, b);
                    mma_bf16(dp[0], a, b);
                    mma_bf16(dp[1], a, b + 2);
                }
                bool all = !padded && low >= key + 15 && high < allReach;
#pragma unroll
                for (int n = 0; n < 2; n++)
                {
                    int r = sub + n * 8 + 2 * t;
                    float2 lse = *(const float2 *)(lses + r), delta = *(const float2 *)(deltas + r);
#pragma unroll
                    for (int e = 0; e < 4; e++)
                    {
                        bool there = all || (key + g + (e >> 1) * 8 <= lastKey && of.visible(queries[r + (e & 1)], key + g + (e >> 1) * 8));
                        if (scale.capped)
                            gradient<true>(s[n][e], dp[n][e], scale, e & 1 ? lse.y : lse.x, e & 1 ? delta.y : delta.x, there);
                        else
                            gradient<false>(s[n][e], dp[n][e], scale, e & 1 ? lse.y : lse.x, e & 1 ? delta.y : delta.x, there);
                    }
                }
                as_operand(aP, s[0], s[1]);
                as_operand(aS, dp[0], dp[1]);
            }
            if constexpr (SPLIT == 1)
            {
                if (!seen)
                    continue;
                add_lines<D, COLS>(sumV, aP, gs, sub, col);
                add_lines<D, COLS>(sumK, aS, qs, sub, col);
            }
            else
            {
                if (seen)
                {
                    passed[warp * 64 + lane] = make_uint4(aP[0], aP[1], aP[2], aP[3]);
                    passed[warp * 64 + 32 + lane] = make_uint4(aS[0], aS[1], aS[2], aS[3]);
                }
                __syncthreads();
#pragma unroll 1
                for (int h = 0; h < SPLIT; h++)
                {
                    int there = turn + h * 16;
                    if (!(row + there < end && !none && key <= queries[there + 15] && reach > queries[there]))
                        continue;
                    const uint4 *from = passed + (warp - half + h) * 64 + lane;
                    uint4 v = from[0];
                    const unsigned a[4] = {v.x, v.y, v.z, v.w};
                    add_lines<D, COLS>(sumV, a, gs, there, col);
                    v = from[32];
                    const unsigned b[4] = {v.x, v.y, v.z, v.w};
                    add_lines<D, COLS>(sumK, b, qs, there, col);
                }
            }
        }
    }
    const bool there[2] = {key + g <= lastKey, key + g + 8 <= lastKey};
    const i64 at[2] = {of.key_place(key + g), of.key_place(key + g + 8)};
    if (p.dk != nullptr)
        write_sums<D, COLS>(p.dk, at, there, sumK, col, p.scale, p.scale, p.headDim, of.vector(p.dk, p.dk), p.accumulate != 0);
    if (p.dv != nullptr)
        write_sums<D, COLS>(p.dv, at, there, sumV, col, 1.0f, 1.0f, p.headDim, of.vector(p.dv, p.dv), p.accumulate != 0);
}

KERNEL_OF(128, 3) attention_keys_rounded_32(const AttentionParams p) { key_gradients<32, 1>(p); }
KERNEL_OF(128, 3) attention_keys_rounded_64(const AttentionParams p) { key_gradients<64, 1>(p); }
KERNEL(128) attention_keys_rounded_128(const AttentionParams p) { key_gradients<128, 1>(p); }
KERNEL(128) attention_keys_rounded_256(const AttentionParams p) { key_gradients<256, 2>(p); }
