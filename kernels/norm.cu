// RMSNorm and LayerNorm, forward and backward. A row belongs to a warp (cols ≤ 512: eight rows a block) or to a block of
// 256 threads; 16 elements a thread stay in registers, so that an aligned row of up to 512 or 4096 elements is read once.
// What lies beyond, and rows that no 16-byte load may touch, are read once more for each pass over them. The gradients by weight and bias are sums over rows in two
// stages: chunks of rows (norm_weight_partial), then the chunks in order (sum_partials in reduce.cu): no atomics.
// Floor: the bytes in each docstring over the device's bandwidth.
//! norm | *_warp | block 256 | grid ceil(rows / 8) | shared 0 | cols <= 512
//! norm | *_block | block 256 | grid rows | shared 0 | any cols
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

/// y = (x − mean)·rstd·(weight + offset) + bias of one row. What is not kept is read again in each pass.
template <int THREADS, bool CENTERED, bool VECTOR>
__device__ __forceinline__ void normalise_row(float *y, float *meanOut, float *rstdOut, const float *x, const float *weight, const float *bias, int row, int cols, float eps, float offset)
{
    typedef Group<THREADS> G;
    int lane = G::lane();
    x += (i64)row * cols;
    y += (i64)row * cols;
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
        store(y + i, w);
    });
#pragma unroll 1
    for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
    {
        float unit = (x[i] - mean) * rstd;
        y[i] = CENTERED ? fma(unit, weight[i], bias[i]) : unit * (weight[i] + offset);
    }
}

template <int THREADS, bool CENTERED>
__device__ __forceinline__ void norm_forward(float *y, float *mean, float *rstd, const float *x, const float *weight, const float *bias, int rows, int cols, float eps, float offset)
{
    int row = Group<THREADS>::row();
    if (row >= rows)
        return;
    if ((cols & 3) == 0 && aligned16(y, x, weight, CENTERED ? bias : nullptr))
        normalise_row<THREADS, CENTERED, true>(y, mean, rstd, x, weight, bias, row, cols, eps, offset);
    else
        normalise_row<THREADS, CENTERED, false>(y, mean, rstd, x, weight, bias, row, cols, eps, offset);
}

/// y = x / sqrt(mean(x²) + eps)·(weight + weightOffset), rstd[rows]. Reads 4(rows·cols + cols) bytes, writes 4(rows·cols + rows).
KERNEL(256) rms_norm_forward_warp(float *y, float *rstd, const float *PLAIN x, const float *PLAIN weight, int rows, int cols, float eps, float weightOffset)
{
    norm_forward<32, false>(y, nullptr, rstd, x, weight, nullptr, rows, cols, eps, weightOffset);
}
KERNEL(256) rms_norm_forward_block(float *y, float *rstd, const float *PLAIN x, const float *PLAIN weight, int rows, int cols, float eps, float weightOffset)
{
    norm_forward<256, false>(y, nullptr, rstd, x, weight, nullptr, rows, cols, eps, weightOffset);
}
/// y = (x − mean)·rstd·weight + bias; mean[rows], rstd[rows]. Reads 4(rows·cols + 2·cols) bytes, writes 4(rows·cols + 2·rows).
KERNEL(256) layer_norm_forward_warp(float *y, float *mean, float *rstd, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN bias, int rows, int cols, float eps)
{
    norm_forward<32, true>(y, mean, rstd, x, weight, bias, rows, cols, eps, 0.0f);
}
KERNEL(256) layer_norm_forward_block(float *y, float *mean, float *rstd, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN bias, int rows, int cols, float eps)
{
    norm_forward<256, true>(y, mean, rstd, x, weight, bias, rows, cols, eps, 0.0f);
}

/// With u = (x − mean)·rstd and g = dy·(weight + offset): dx += rstd·(g − mean(g) − u·mean(g·u)), mean(g) left out for RMSNorm.
template <int THREADS, bool CENTERED, bool VECTOR>
__device__ __forceinline__ void input_gradient_row(float *dx, const float *dy, const float *x, const float *weight, float mean, float rstd, int row, int cols, float offset)
{
    typedef Group<THREADS> G;
    int lane = G::lane();
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
        float d[4];
        load(d, dx + i);
#pragma unroll
        for (int e = 0; e < 4; e++)
            d[e] = fma(rstd, fma(u[k + e], -meanGu, g[k + e] - meanG), d[e]);
        store(dx + i, d);
    });
#pragma unroll 1
    for (int i = rest_of_row<THREADS, VECTOR>(lane); i < cols; i += THREADS)
        dx[i] = fma(rstd, fma((x[i] - mean) * rstd, -meanGu, dy[i] * (weight[i] + offset) - meanG), dx[i]);
}

template <int THREADS, bool CENTERED>
__device__ __forceinline__ void norm_backward(float *dx, const float *dy, const float *x, const float *weight, const float *mean, const float *rstd, int rows, int cols, float offset)
{
    int row = Group<THREADS>::row();
    if (row >= rows)
        return;
    float m = CENTERED ? mean[row] : 0.0f;
    if ((cols & 3) == 0 && aligned16(dx, dy, x, weight))
        input_gradient_row<THREADS, CENTERED, true>(dx, dy, x, weight, m, rstd[row], row, cols, offset);
    else
        input_gradient_row<THREADS, CENTERED, false>(dx, dy, x, weight, m, rstd[row], row, cols, offset);
}

/// dx += of RMSNorm. Reads 4(3·rows·cols + cols + rows) bytes, writes 4·rows·cols.
KERNEL(256) rms_norm_backward_warp(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN rstd, int rows, int cols, float weightOffset)
{
    norm_backward<32, false>(dx, dy, x, weight, nullptr, rstd, rows, cols, weightOffset);
}
KERNEL(256) rms_norm_backward_block(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN rstd, int rows, int cols, float weightOffset)
{
    norm_backward<256, false>(dx, dy, x, weight, nullptr, rstd, rows, cols, weightOffset);
}
/// dx += of LayerNorm. Reads 4(3·rows·cols + cols + 2·rows) bytes, writes 4·rows·cols.
KERNEL(256) layer_norm_backward_warp(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN mean, const float *PLAIN rstd, int rows, int cols)
{
    norm_backward<32, true>(dx, dy, x, weight, mean, rstd, rows, cols, 0.0f);
}
KERNEL(256) layer_norm_backward_block(float *dx, const float *PLAIN dy, const float *PLAIN x, const float *PLAIN weight, const float *PLAIN mean, const float *PLAIN rstd, int rows, int cols)
{
    norm_backward<256, true>(dx, dy, x, weight, mean, rstd, rows, cols, 0.0f);
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
