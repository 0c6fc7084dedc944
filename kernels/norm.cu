// RMSNorm and LayerNorm, forward and backward. A row belongs to a warp (cols ≤ 512: eight rows a block) or to a block of
// 256 threads; 16 elements a thread stay in registers, so that an aligned row of up to 512 or 4096 elements is read once.
// What lies beyond, and rows that no 16-byte load may touch, are read once more for each pass over them. The gradients by weight and bias are sums over rows in two
// stages: chunks of rows (norm_weight_partial), then the chunks in order (sum_partials in reduce.cu): no atomics.
// Floor: the bytes in each docstring over the device's bandwidth.
//! norm | *_warp | block 256 | grid ceil(rows / 8) | shared 0 | cols <= 512
//! norm | *_block | block 256 | grid rows | shared 0 | any cols
//! norm | rms_norm_rope_* | block 256 | grid ceil(rows * heads / 32) | shared 0 | heads of 32, 64, 128 or 256 elements that are all rotated, by halves; everything on 16 bytes
//! norm | norm_weight_partial | block 256 | grid (ceil(cols / 32), ceil(rows / 1024)) | shared 0
#include "common.cuh"

/// Threads of one row: a warp or the block.
template <int THREADS> struct Group
{
    static __device__ __forceinline__ int row() { return THREADS == 32 ? blockIdx.x * 8 + (threadIdx.x >> 5) : blockIdx.x; }
    static __device__ __forceinline__ int lane() { return THREADS == 32 ? threadIdx.x & 31 : threadIdx.x; }
    static __device__ __forceinline__ float sum(float x)
    {
        if (THREADS == 32)
            return warp_sum(x);
        __shared__ float room[32];
        return block_sum(x, room, THREADS);
    }
};

/// Elements of a row that a thread keeps: four chunks of 16 bytes of an aligned row, none of another.
const int Kept = 16;

/// Calls visit(k, i) for each chunk: registers k … k + 3 hold elements i … i + 3.
template <int THREADS, bool VECTOR, typename Visit> __device__ __forceinline__ void visit_row(int lane, int cols, Visit visit)
{
    if constexpr (VECTOR)
    {
#pragma unroll
        for (int k = 0; k < Kept; k += 4)
        {
            int i = (k * THREADS) + lane * 4;
            if (i < cols)
                visit(k, i);
        }
    }
}
/// The first element that is not kept.
template <int THREADS, bool VECTOR> __device__ __forceinline__ int rest_of_row(int lane) { return (VECTOR ? Kept * THREADS : 0) + lane; }

__device__ __forceinline__ void load(float *v, const float *p)
{
    float4 four = *(const float4 *)p;
    v[0] = four.x;
    v[1] = four.y;
    v[2] = four.z;
    v[3] = four.w;
}
__device__ __forceinline__ void store(float *p, const float *v) { *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]); }

/// y, if not null, = (x − mean)·rstd·(weight + offset) + bias of one row, and copy, if not null, the same rounded to bf16. What is not kept is read again in each pass.
template <int THREADS, bool CENTERED, bool VECTOR>
__device__ __forceinline__ void normalise_row(float *y, float *meanOut, float *rstdOut, const float *x, const float *weight, const float *bias, int row, int cols, float eps, float offset, BF16 *copy)
{
    typedef Group<THREADS> G;
    int lane = G::lane();
    x += (i64)row * cols;
    if (y)
        y += (i64)row * cols;
    if (copy)
        copy += (i64)row * cols;
    float kept[Kept];
    float mean = 0.0f;
    if (CENTERED)
    {
        float sum = 0.0f;
        visit_row<THREADS, VECTOR>(lane, cols, [&](int k, int i) {
            load(kept + k, x + i);
#pragma unroll
            for (int e = 0; e < 4; e++)
                sum += kept[k + e];
        });
#pragma unroll 1
        for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
            sum += x[i];
        mean = G::sum(sum) / (float)cols;
    }
    float squares = 0.0f;
    visit_row<THREADS, VECTOR>(lane, cols, [&](int k, int i) {
        if (!CENTERED)
            load(kept + k, x + i);
#pragma unroll
        for (int e = 0; e < 4; e++)
        {
            float d = kept[k + e] - mean;
            squares = fma(d, d, squares);
        }
    });
#pragma unroll 1
    for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
    {
        float d = x[i] - mean;
        squares = fma(d, d, squares);
    }
    float rstd = 1.0f / square_root(G::sum(squares) / (float)cols + eps);
    if (lane == 0)
    {
        rstdOut[row] = rstd;
        if (CENTERED)
            meanOut[row] = mean;
    }
    visit_row<THREADS, VECTOR>(lane, cols, [&](int k, int i) {
        float w[4], b[4];
        load(w, weight + i);
        if (CENTERED)
            load(b, bias + i);
#pragma unroll
        for (int e = 0; e < 4; e++)
        {
            float unit = (kept[k + e] - mean) * rstd;
            w[e] = CENTERED ? fma(unit, w[e], b[e]) : unit * (w[e] + offset);
        }
        if (y)
            store(y + i, w);
        if (copy)
            *(uint2 *)(copy + i) = make_uint2(pack_bf16(w[0], w[1]), pack_bf16(w[2], w[3]));
    });
#pragma unroll 1
    for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
    {
        float unit = (x[i] - mean) * rstd, value = CENTERED ? fma(unit, weight[i], bias[i]) : unit * (weight[i] + offset);
        if (y)
            y[i] = value;
        if (copy)
            narrow(value, copy[i]);
    }
}

template <int THREADS, bool CENTERED>
__device__ __forceinline__ void norm_forward(float *y, float *mean, float *rstd, const float *x, const float *weight, const float *bias, int rows, int cols, float eps, float offset, BF16 *copy)
{
    int row = Group<THREADS>::row();
    if (row >= rows)
        return;
    if ((cols & 3) == 0 && aligned16(y, x, weight, CENTERED ? bias : nullptr, copy))
        normalise_row<THREADS, CENTERED, true>(y, mean, rstd, x, weight, bias, row, cols, eps, offset, copy);
    else
        normalise_row<THREADS, CENTERED, false>(y, mean, rstd, x, weight, bias, row, cols, eps, offset, copy);
}

/// y, if not null, = x / sqrt(mean(x²) + eps)·(weight + weightOffset), rstd[rows], and copy [rows, cols], if not null, the same rounded to bf16. Reads
/// 4(rows·cols + cols) bytes, writes 4·rows, 4·rows·cols of y and 2·rows·cols of a copy.
KERNEL(256) rms_norm_forward_warp(float *y, float *rstd, const float *PLAIN x, const float *PLAIN weight, int rows, int cols, float eps, float weightOffset, BF16 *copy)
{
    norm_forward<32, false>(y, nullptr, rstd, x, weight, nullptr, rows, cols, eps, weightOffset, copy);
}
KERNEL(256) rms_norm_forward_block(float *y, float *rstd, const float *PLAIN x, const float *PLAIN weight, int rows, int cols, float eps, float weightOffset, BF16 *copy)
{
    norm_forward<256, false>(y, nullptr, rstd, x, weight, nullptr, rows, cols, eps, weightOffset, copy);
}
/// y = (x − mean)·rstd·weight + bias; mean[rows], rstd[rows]. Reads 4(rows·cols + 2·cols) bytes, writes 4(rows·cols + 2·rows).
KERNEL(256) layer_norm_forward_warp(float *y, float *mean, float *rstd, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN bias, int rows, int cols, float eps)
{
    norm_forward<32, true>(y, mean, rstd, x, weight, bias, rows, cols, eps, 0.0f, nullptr);
}
KERNEL(256) layer_norm_forward_block(float *y, float *mean, float *rstd, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN bias, int rows, int cols, float eps)
{
    norm_forward<256, true>(y, mean, rstd, x, weight, bias, rows, cols, eps, 0.0f, nullptr);
}

/// With u = (x − mean)·rstd and g = dy·(weight + offset): dx (+)= rstd·(g − mean(g) − u·mean(g·u)), mean(g) left out for RMSNorm; copy, if not null, is what
/// dx becomes rounded to bf16.
template <int THREADS, bool CENTERED, bool VECTOR>
__device__ __forceinline__ void input_gradient_row(float *dx, const float *dy, const float *x, const float *weight, float mean, float rstd, int row, int cols, float offset, int accumulate, BF16 *copy)
{
    typedef Group<THREADS> G;
    int lane = G::lane();
    if (copy)
        copy += (i64)row * cols;
    dx += (i64)row * cols;
    dy += (i64)row * cols;
    x += (i64)row * cols;
    float g[Kept], u[Kept], sumG = 0.0f, sumGu = 0.0f;
    visit_row<THREADS, VECTOR>(lane, cols, [&](int k, int i) {
        float w[4];
        load(g + k, dy + i);
        load(u + k, x + i);
        load(w, weight + i);
#pragma unroll
        for (int e = 0; e < 4; e++)
        {
            g[k + e] = g[k + e] * (w[e] + offset);
            u[k + e] = (u[k + e] - mean) * rstd;
            sumG += g[k + e];
            sumGu = fma(g[k + e], u[k + e], sumGu);
        }
    });
#pragma unroll 1
    for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
    {
        float one = dy[i] * (weight[i] + offset);
        sumG += one;
        sumGu = fma(one, (x[i] - mean) * rstd, sumGu);
    }
    float meanG = CENTERED ? G::sum(sumG) / (float)cols : 0.0f, meanGu = G::sum(sumGu) / (float)cols;
    visit_row<THREADS, VECTOR>(lane, cols, [&](int k, int i) {
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (accumulate)
            load(d, dx + i);
#pragma unroll
        for (int e = 0; e < 4; e++)
            d[e] = fma(rstd, fma(u[k + e], -meanGu, g[k + e] - meanG), d[e]);
        store(dx + i, d);
        if (copy)
            *(uint2 *)(copy + i) = make_uint2(pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]));
    });
#pragma unroll 1
    for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
    {
        float value = fma(rstd, fma((x[i] - mean) * rstd, -meanGu, dy[i] * (weight[i] + offset) - meanG), accumulate ? dx[i] : 0.0f);
        dx[i] = value;
        if (copy)
            narrow(value, copy[i]);
    }
}

template <int THREADS, bool CENTERED>
__device__ __forceinline__ void norm_backward(float *dx, const float *dy, const float *x, const float *weight, const float *mean, const float *rstd, int rows, int cols, float offset, int accumulate, BF16 *copy)
{
    int row = Group<THREADS>::row();
    if (row >= rows)
        return;
    float m = CENTERED ? mean[row] : 0.0f;
    if ((cols & 3) == 0 && aligned16(dx, dy, x, weight, copy))
        input_gradient_row<THREADS, CENTERED, true>(dx, dy, x, weight, m, rstd[row], row, cols, offset, accumulate, copy);
    else
        input_gradient_row<THREADS, CENTERED, false>(dx, dy, x, weight, m, rstd[row], row, cols, offset, accumulate, copy);
}

/// dx = (dx += with accumulate) of RMSNorm, and copy, if not null, what dx becomes rounded to bf16. Reads 4(2·rows·cols + cols + rows) bytes (3·rows·cols with
/// accumulate), writes 4·rows·cols, and 2·rows·cols of a copy.
KERNEL(256) rms_norm_backward_warp(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN rstd, int rows, int cols, float weightOffset, int accumulate, BF16 *copy)
{
    norm_backward<32, false>(dx, dy, x, weight, nullptr, rstd, rows, cols, weightOffset, accumulate, copy);
}
KERNEL(256) rms_norm_backward_block(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN rstd, int rows, int cols, float weightOffset, int accumulate, BF16 *copy)
{
    norm_backward<256, false>(dx, dy, x, weight, nullptr, rstd, rows, cols, weightOffset, accumulate, copy);
}
/// dx = (dx += with accumulate) of LayerNorm. Reads 4(2·rows·cols + cols + 2·rows) bytes (3·rows·cols with accumulate), writes 4·rows·cols.
KERNEL(256) layer_norm_backward_warp(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN mean, const float *PLAIN rstd, int rows, int cols, int accumulate)
{
    norm_backward<32, true>(dx, dy, x, weight, mean, rstd, rows, cols, 0.0f, accumulate, nullptr);
}
KERNEL(256) layer_norm_backward_block(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN mean, const float *PLAIN rstd, int rows, int cols, int accumulate)
{
    norm_backward<256, true>(dx, dy, x, weight, mean, rstd, rows, cols, 0.0f, accumulate, nullptr);
}

/// Sums over a chunk of 1024 rows: weights[chunk, col] = Σ dy·(x − mean)·rstd, biases[chunk, col] = Σ dy, in double; biases may
/// be null, mean is for RMSNorm. Then sum_partials adds the chunks to dWeight and dBias. A block takes 32 columns, eight
/// warps of rows. Reads 4(2·rows·cols + 2·rows) bytes, writes 16·chunks·cols.
KERNEL(256) norm_weight_partial(double *weights, double *biases, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN mean, const float *PLAIN rstd, int rows, int cols)
{
    __shared__ double room[2][8][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = blockIdx.x * 32 + lane;
    int end = smaller(rows, (blockIdx.y + 1) * 1024);
    double weight = 0, bias = 0;
    if (col < cols)
        for (int row = blockIdx.y * 1024 + warp; row < end; row += 8)
        {
            i64 i = (i64)row * cols + col;
            float g = dy[i], centre = mean ? mean[row] : 0.0f;
            weight += (double)(g * ((x[i] - centre) * rstd[row]));
            bias += (double)g;
        }
    room[0][warp][lane] = weight;
    room[1][warp][lane] = bias;
    __syncthreads();
    if (warp < 2 && col < cols)
    {
        double sum = 0;
#pragma unroll
        for (int w = 0; w < 8; w++)
            sum += room[warp][w][lane];
        double *target = warp == 0 ? weights : biases;
        if (target)
            target[(i64)blockIdx.y * cols + col] = sum;
    }
}

/// Heads that a warp takes one after the other: they share the weight, and those of a token its angles.
const int HeadsOfWarp = 4;

/// A head of D elements in a warp: a lane holds four neighbours, of 256 those 128 further on too.
template <int D> struct Head
{
    static const int Chunks = D > 128 ? 2 : 1, N = 4 * Chunks, Half = D / 2;
    int lane, token;
    bool there, inverse;
    float c[4], s[4];

    __device__ __forceinline__ Head(bool back)
    {
        lane = threadIdx.x & 31;
        token = -1;
        there = D >= 128 || lane * 4 < D;
        inverse = back;
#pragma unroll
        for (int e = 0; e < 4; e++)
            c[e] = s[e] = 0.0f;
    }
    __device__ __forceinline__ i64 start(int line) const { return (i64)line * D + lane * 4; }
    __device__ __forceinline__ void read(float (&v)[N], const float *from) const
    {
#pragma unroll
        for (int k = 0; k < Chunks; k++)
        {
            if (there)
                load(v + 4 * k, from + k * 128);
            else
                v[0] = v[1] = v[2] = v[3] = 0.0f;
        }
    }
    /// The same of bf16 where half.
    __device__ __forceinline__ void read(float (&v)[N], const void *from, i64 at, bool half) const
    {
        if (!half)
            return read(v, (const float *)from + at);
#pragma unroll
        for (int k = 0; k < Chunks; k++)
        {
            uint2 bits = make_uint2(0, 0);
            if (there)
                bits = *(const uint2 *)((const BF16 *)from + at + k * 128);
            v[4 * k] = low_bf16(bits.x);
            v[4 * k + 1] = high_bf16(bits.x);
            v[4 * k + 2] = low_bf16(bits.y);
            v[4 * k + 3] = high_bf16(bits.y);
        }
    }
    /// The angles of a token, where they are not those that are here.
    __device__ __forceinline__ void of(int next, const float *cos, const float *sin, const int *positions)
    {
        if (next == token)
            return;
        token = next;
        i64 angle = (i64)positions[token] * Half + (lane * 4) % Half;
        if (!there)
            return;
        load(c, cos + angle);
        load(s, sin + angle);
#pragma unroll
        for (int e = 0; e < 4; e++)
            s[e] = inverse ? -s[e] : s[e];
    }
    /// Turns the pairs (i, i + D/2) as rope does, in place.
    __device__ __forceinline__ void turn(float (&v)[N]) const
    {
#pragma unroll
        for (int e = 0; e < 4; e++)
        {
            if constexpr (Chunks == 2)
            {
                float a = v[e], b = v[4 + e];
                v[e] = a * c[e] - b * s[e];
                v[4 + e] = b * c[e] + a * s[e];
            }
            else
            {
                float own = v[e], other = shuffle_xor(own, Half / 4);
                v[e] = lane * 4 < Half ? own * c[e] - other * s[e] : own * c[e] + other * s[e];
            }
        }
    }
};

/// y = rope(RMSNorm(x)) of each head and rstd[rows·heads], with the bits of rms_norm_forward_warp and rope. halves: x is bf16 (1). Reads 4·n bytes (2·n), the weight and the angles of a token
/// once for four heads, writes 4·n, n = rows·heads·D.
template <int D> __device__ __forceinline__ void norm_rope_forward(float *y, float *rstdOut, const void *x, const float *weight, const float *cos, const float *sin, const int *positions, int lines, int heads, float eps, float offset, int halves)
{
    const int N = Head<D>::N;
    int first = (blockIdx.x * 8 + (threadIdx.x >> 5)) * HeadsOfWarp, end = smaller(lines, first + HeadsOfWarp);
    if (first >= lines)
        return;
    Head<D> head(false);
    float w[N];
    head.read(w, weight + head.lane * 4);
#pragma unroll 1
    for (int line = first; line < end; line++)
    {
        float v[N], squares = 0.0f;
        head.read(v, x, head.start(line), halves & 1);
        head.of(line / heads, cos, sin, positions);
#pragma unroll
        for (int e = 0; e < N; e++)
            squares = fma(v[e], v[e], squares);
        float rstd = 1.0f / square_root(warp_sum(squares) / (float)D + eps);
        if (head.lane == 0)
            rstdOut[line] = rstd;
#pragma unroll
        for (int e = 0; e < N; e++)
            v[e] = v[e] * rstd * (w[e] + offset);
        head.turn(v);
#pragma unroll
        for (int k = 0; k < Head<D>::Chunks; k++)
            if (head.there)
                store(y + head.start(line) + k * 128, v + 4 * k);
    }
}

/// dx (+)= of norm_rope_forward, with the bits of rope's inverse and rms_norm_backward_warp. halves: x (1), dx (2) are bf16. Reads 8·n bytes (12·n with accumulate) and what the
/// forward pass reads, writes 4·n; of bf16 half.
template <int D> __device__ __forceinline__ void norm_rope_backward(void *dx, const float *dy, const void *x, const float *weight, const float *rstds, const float *cos, const float *sin, const int *positions, int lines, int heads, float offset, int accumulate, int halves)
{
    const int N = Head<D>::N;
    int first = (blockIdx.x * 8 + (threadIdx.x >> 5)) * HeadsOfWarp, end = smaller(lines, first + HeadsOfWarp);
    if (first >= lines)
        return;
    Head<D> head(true);
    float w[N];
    head.read(w, weight + head.lane * 4);
#pragma unroll 1
    for (int line = first; line < end; line++)
    {
        float g[N], u[N], rstd = rstds[line], sum = 0.0f;
        head.read(g, dy + head.start(line));
        head.read(u, x, head.start(line), halves & 1);
        head.of(line / heads, cos, sin, positions);
        head.turn(g);
#pragma unroll
        for (int e = 0; e < N; e++)
        {
            g[e] = g[e] * (w[e] + offset);
            u[e] = u[e] * rstd;
            sum = fma(g[e], u[e], sum);
        }
        float mean = warp_sum(sum) / (float)D;
#pragma unroll
        for (int k = 0; k < Head<D>::Chunks; k++)
        {
            float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            i64 at = head.start(line) + k * 128;
            bool half = halves & 2;
            if (accumulate && head.there)
            {
                if (half)
                {
                    uint2 before = *(const uint2 *)((const BF16 *)dx + at);
                    d[0] = low_bf16(before.x);
                    d[1] = high_bf16(before.x);
                    d[2] = low_bf16(before.y);
                    d[3] = high_bf16(before.y);
                }
                else
                    load(d, (const float *)dx + at);
            }
#pragma unroll
            for (int e = 0; e < 4; e++)
                d[e] = fma(rstd, fma(u[4 * k + e], -mean, g[4 * k + e]), d[e]);
            if (head.there && half)
                *(uint2 *)((BF16 *)dx + at) = make_uint2(pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]));
            else if (head.there)
                store((float *)dx + at, d);
        }
    }
}

#define ENTRY(D)                                                                                                         \
    KERNEL(256) rms_norm_rope_forward_##D(float *y, float *rstd, const void *PLAIN x, const float *PLAIN weight, const float *PLAIN cos, const float *PLAIN sin, const int *PLAIN positions, int lines, int heads, float eps, float offset, int halves) { norm_rope_forward<D>(y, rstd, x, weight, cos, sin, positions, lines, heads, eps, offset, halves); } \
    KERNEL(256) rms_norm_rope_backward_##D(void *dx, const float *PLAIN dy, const void *PLAIN x, const float *PLAIN weight, const float *PLAIN rstd, const float *PLAIN cos, const float *PLAIN sin, const int *PLAIN positions, int lines, int heads, float offset, int accumulate, int halves) { norm_rope_backward<D>(dx, dy, x, weight, rstd, cos, sin, positions, lines, heads, offset, accumulate, halves); }
ENTRY(32)
ENTRY(64)
ENTRY(128)
ENTRY(256)
#undef ENTRY
