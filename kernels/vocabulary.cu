// Ops on chunks of logits [rows, cols]: log-sum-exp, label gathers, the gradient of log-probabilities, entropy, total
// variation. A block takes 8192 columns of a row (32 a thread, by 16 bytes where rows are aligned); sums over a row are
// partial sums of those blocks, fp32 over a thread's 32 terms and double above, added in order by a second kernel.
// Floor: one read of the logits (and one write where they become their gradient) over the device's bandwidth.
//! vocabulary | *_partial | block 256 | grid (rows, ceil(cols / 8192)) | shared 0 | log_sum_exp: partial [rows, chunks, 2] doubles; entropy: [rows, chunks]; total_variation: [2, rows, chunks]
//! vocabulary | log_sum_exp_fold, log_sum_exp_finish, gather_label | block 256 | grid ceil(rows / 256) | shared 0
//! vocabulary | log_prob_backward, total_variation_backward | block 256 | grid (rows, ceil(cols / 8192)) | shared 0
#include "math.cuh"

/// Calls visit(i) for this block's columns of the row; four at a time share one call of load.
template <typename Four, typename One> __device__ __forceinline__ void over_chunk(int cols, bool vector, Four four, One one)
{
    int begin = blockIdx.y * 8192, end = smaller(cols, begin + 8192);
    if (vector)
    {
#pragma unroll 2
        for (int i = begin + threadIdx.x * 4; i < end; i += 1024)
            four(i);
    }
    else
    {
#pragma unroll 1
        for (int i = begin + threadIdx.x; i < end; i += 256)
            one(i);
    }
}

/// A row whose log-sum-exp is −∞ has no finite logit; every p is then taken as 0, not as e^(∞ − ∞).
__device__ __forceinline__ float shift_of(float lse) { return lse == -positive_infinity() ? 0.0f : lse; }

/// 1 − (logit/softCap)², the derivative of the cap at a capped logit; 1 without a cap.
__device__ __forceinline__ float cap_slope(float logit, float inverseCap)
{
    float ratio = logit * inverseCap;
    return inverseCap == 0.0f ? 1.0f : (1.0f - ratio) * (1.0f + ratio);
}

/// ½ with the sign of x, 0 at 0.
__device__ __forceinline__ float half_sign(float x) { return x > 0.0f ? 0.5f : x < 0.0f ? -0.5f : 0.0f; }

/// The largest logit of a block's columns and Σ e^(x − largest). Reads 4·cols bytes a row (the second pass finds them in
/// registers or the cache), writes 16·chunks a row. NaN passes through the maximum: a broken logit must show.
KERNEL(256) log_sum_exp_partial(double *partial, const float *PLAIN logits, int cols)
{
    __shared__ float room[32];
    __shared__ double sums[32];
    const float *x = logits + (i64)blockIdx.x * cols;
    int begin = blockIdx.y * 8192, end = smaller(cols, begin + 8192);
    float kept[32], most = -positive_infinity();
    bool vector = (cols & 3) == 0 && aligned16(x);
#pragma unroll
    for (int k = 0; k < 32; k++)
        kept[k] = -positive_infinity();
    if (vector)
    {
#pragma unroll
        for (int k = 0; k < 8; k++)
        {
            int i = begin + k * 1024 + threadIdx.x * 4;
            if (i < end)
            {
                float4 v = load_four(x + i);
                kept[k * 4] = v.x;
                kept[k * 4 + 1] = v.y;
                kept[k * 4 + 2] = v.z;
                kept[k * 4 + 3] = v.w;
            }
        }
    }
    else
    {
#pragma unroll
        for (int k = 0; k < 32; k++)
        {
            int i = begin + k * 256 + threadIdx.x;
            if (i < end)
                kept[k] = x[i];
        }
    }
#pragma unroll
    for (int k = 0; k < 32; k++)
        most = larger(most, kept[k]);
    most = block_max(most, room, 256);
    float sum = 0.0f;
    if (most != -positive_infinity())
    {
#pragma unroll
        for (int k = 0; k < 32; k++)
            sum += exp_of(kept[k] - most);
    }
    double total = block_sum((double)sum, sums, 256);
    if (threadIdx.x == 0)
    {
        double *p = partial + ((i64)blockIdx.x * gridDim.y + blockIdx.y) * 2;
        p[0] = (double)most;
        p[1] = total;
    }
}

/// Two neighbours in one instruction.
__device__ __forceinline__ void load_doubles(double &x, double &y, const double *p) { asm volatile("ld.global.v2.f64 {%0, %1}, [%2];" : "=d"(x), "=d"(y) : "l"(global_address(p)) : "memory"); }

/// A sum of e^(x − from) as a sum of e^(x − to). No term at all stays 0, also where both are −∞.
__device__ __forceinline__ double rescaled(double sum, double from, double to) { return sum == 0.0 ? 0.0 : from == to ? sum : sum * exp_of(from - to); }

/// Folds the partial sums of a chunk into max[rows] and sum[rows]. Reads 16·rows·chunks bytes (chunks beyond the eighth twice) and 8·rows,
/// writes 8·rows.
KERNEL(256) log_sum_exp_fold(float *max, float *sum, const double *PLAIN partial, int rows, int chunks)
{
    const int kept = 8;
    int row = blockIdx.x * 256 + threadIdx.x;
    if (row >= rows)
        return;
    const double *p = partial + (i64)row * chunks * 2;
    double before = (double)max[row], most = before, largest[kept], sums[kept];
#pragma unroll
    for (int c = 0; c < kept; c++)
    {
        largest[c] = sums[c] = 0.0;
        if (c < chunks)
            load_doubles(largest[c], sums[c], p + 2 * c);
    }
#pragma unroll
    for (int c = 0; c < kept; c++)
        if (c < chunks)
            most = largest[c] > most || largest[c] != largest[c] ? largest[c] : most;
    for (int c = kept; c < chunks; c++)
        most = p[2 * c] > most || p[2 * c] != p[2 * c] ? p[2 * c] : most;
    double total = rescaled((double)sum[row], before, most);
#pragma unroll
    for (int c = 0; c < kept; c++)
        if (c < chunks)
            total += rescaled(sums[c], largest[c], most);
    for (int c = kept; c < chunks; c++)
    {
        double m, s;
        load_doubles(m, s, p + 2 * c);
        total += rescaled(s, m, most);
    }
    max[row] = (float)most;
    sum[row] = (float)total;
}

/// lse[i] = max[i] + ln sum[i]; −∞ where no logit was finite.
KERNEL(256) log_sum_exp_finish(float *lse, const float *PLAIN max, const float *PLAIN sum, int rows)
{
    int row = blockIdx.x * 256 + threadIdx.x;
    if (row >= rows)
        return;
    float s = sum[row], m = max[row];
    lse[row] = s > 0.0f && s < positive_infinity() ? (float)((double)m + log_of((double)s)) : m + log_of(s);
}

/// target[i] = logits[i, labels[i] − firstColumn] where the label falls into the chunk; other rows are left alone.
KERNEL(256) gather_label(float *target, const float *PLAIN logits, const int *PLAIN labels, int rows, int cols, int firstColumn)
{
    int row = blockIdx.x * 256 + threadIdx.x;
    if (row >= rows)
        return;
    i64 column = (i64)labels[row] - firstColumn;
    if (column >= 0 && column < cols)
        target[row] = logits[(i64)row * cols + column];
}

/// logits[i, v] ← dLogProb[i]·([v is the label] − e^(logits − lse[i])), times 1 − (logit/softCap)² where softCap > 0, in place.
/// Reads and writes 4·rows·cols bytes.
KERNEL(256) log_prob_backward(float *logits, const float *PLAIN lse, const float *PLAIN dLogProb, const int *PLAIN labels, int cols, int firstColumn, float softCap)
{
    int row = blockIdx.x;
    float *x = logits + (i64)row * cols;
    float upstream = dLogProb[row], shift = shift_of(lse[row]), inverseCap = softCap > 0.0f ? 1.0f / softCap : 0.0f;
    i64 label = (i64)labels[row] - firstColumn;
    auto one = [&](float logit, int i) {
        float p = exp_of(logit - shift), slope = cap_slope(logit, inverseCap);
        return i == label ? upstream * (1.0f - p) * slope : -upstream * p * slope;
    };
    over_chunk(
        cols, (cols & 3) == 0 && aligned16(x),
        [&](int i) {
            float4 v = *(const float4 *)(x + i);
            *(float4 *)(x + i) = make_float4(one(v.x, i), one(v.y, i + 1), one(v.z, i + 2), one(v.w, i + 3));
        },
        [&](int i) { x[i] = one(x[i], i); });
}

/// partial[row, chunk] = −Σ p ln p over 8192 columns. Then sum_partials with cols = 1, chunkStep = 1, outerStep = chunks.
/// Reads 4·rows·cols bytes.
KERNEL(256) entropy_partial(double *partial, const float *PLAIN logits, const float *PLAIN lse, int cols)
{
    __shared__ double room[32];
    int row = blockIdx.x;
    const float *x = logits + (i64)row * cols;
    float shift = shift_of(lse[row]), sum = 0.0f;
    auto one = [&](float logit) {
        float logProb = logit - shift, p = exp_of(logProb);
        // p ln p → 0 as p → 0, where the product would be 0·∞.
        sum -= p == 0.0f ? 0.0f : p * logProb;
    };
    over_chunk(
        cols, (cols & 3) == 0 && aligned16(x),
        [&](int i) {
            float4 v = *(const float4 *)(x + i);
            one(v.x);
            one(v.y);
            one(v.z);
            one(v.w);
        },
        [&](int i) { one(x[i]); });
    double total = block_sum((double)sum, room, 256);
    if (threadIdx.x == 0)
        partial[(i64)row * gridDim.y + blockIdx.y] = total;
}

/// partial[0, row, chunk] = ½Σ |pRef − p|, partial[1, row, chunk] = Σ −½sign(pRef − p)·p over 8192 columns. Then sum_partials twice (tv
/// from partial, dot from partial + rows·chunks) with cols = 1, chunkStep = 1, outerStep = chunks. Reads 8·rows·cols bytes.
KERNEL(256) total_variation_partial(double *partial, const float *PLAIN logitsRef, const float *PLAIN lseRef, const float *PLAIN logits, const float *PLAIN lse, int cols)
{
    __shared__ double room[32];
    int row = blockIdx.x;
    const float *x = logits + (i64)row * cols, *r = logitsRef + (i64)row * cols;
    float shift = shift_of(lse[row]), shiftRef = shift_of(lseRef[row]), size = 0.0f, slope = 0.0f;
    auto one = [&](float logit, float reference) {
        float p = exp_of(logit - shift), difference = exp_of(reference - shiftRef) - p;
        size += absolute(difference);
        slope = fma(-half_sign(difference), p, slope);
    };
    over_chunk(
        cols, (cols & 3) == 0 && aligned16(x, r),
        [&](int i) {
            float4 v = *(const float4 *)(x + i), w = *(const float4 *)(r + i);
            one(v.x, w.x);
            one(v.y, w.y);
            one(v.z, w.z);
            one(v.w, w.w);
        },
        [&](int i) { one(x[i], r[i]); });
    double half = 0.5 * block_sum((double)size, room, 256), dot = block_sum((double)slope, room, 256);
    if (threadIdx.x == 0)
    {
        i64 at = (i64)row * gridDim.y + blockIdx.y;
        partial[at] = half;
        partial[(i64)gridDim.x * gridDim.y + at] = dot;
    }
}

/// logits ← dTv[i]·p·(−½sign(pRef − p) − dot[i]), chained through the soft cap, plus add where not null, in place.
/// Reads 8 (12 with add) and writes 4·rows·cols bytes.
KERNEL(256) total_variation_backward(float *logits, const float *PLAIN lse, const float *PLAIN logitsRef, const float *PLAIN lseRef, const float *PLAIN dot, const float *PLAIN dTv, const float *PLAIN add, int cols, float softCap)
{
    int row = blockIdx.x;
    i64 at = (i64)row * cols;
    float *x = logits + at;
    const float *r = logitsRef + at, *more = add ? add + at : nullptr;
    float shift = shift_of(lse[row]), shiftRef = shift_of(lseRef[row]), inverseCap = softCap > 0.0f ? 1.0f / softCap : 0.0f;
    float upstream = dTv[row], inner = dot[row];
    auto one = [&](float logit, float reference) {
        float p = exp_of(logit - shift), difference = exp_of(reference - shiftRef) - p;
        return upstream * p * (-half_sign(difference) - inner) * cap_slope(logit, inverseCap);
    };
    over_chunk(
        cols, (cols & 3) == 0 && aligned16(x, r, more),
        [&](int i) {
            float4 v = *(const float4 *)(x + i), w = *(const float4 *)(r + i), m = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (more)
                m = *(const float4 *)(more + i);
            *(float4 *)(x + i) = make_float4(one(v.x, w.x) + m.x, one(v.y, w.y) + m.y, one(v.z, w.z) + m.z, one(v.w, w.w) + m.w);
        },
        [&](int i) { x[i] = one(x[i], r[i]) + (more ? more[i] : 0.0f); });
}
