// Sums over an axis in a fixed order: double partial sums of fixed chunks (first kernel), then the chunks in order (second
// kernel), so that neither the device nor the grid shows in the bits. The terms are f(dy, a, b): plain sums, and what the
// elements of a binary op add to the gradient by an operand that was repeated.
// Floor: one read of the operands that the term needs.
//! reduce | sum_rows_* | block 256 | grid (rows, ceil(cols / 8192)) | shared 0 | partial [rows, chunks] doubles, then sum_partials with cols = 1, chunkStep = 1, outerStep = chunks
//! reduce | sum_cols_* | block 256 | grid (ceil(cols / 32) * outer, ceil(n / 1024)) | shared 0 | partial [outer, chunks, cols] doubles, then sum_partials with chunkStep = cols, outerStep = chunks * cols
//! reduce | sum_partials | block 256 | grid ceil(outer * cols / 256) | shared 0
#include "functions.cuh"

/// A plain sum.
struct Plain
{
    static __device__ __forceinline__ float by_b(float dy, float, float) { return dy; }
    static const bool needs_a = false, needs_b = false;
};

/// partial[row, chunk] = Σ f(dy, a, b) over 8192 columns of dy [rows, cols]; b's element stands at row·bStep (0: one number
/// for all). a and b may be null where f does not read them. Reads 4·|operands| bytes, writes 8·rows·chunks.
template <typename F> __device__ __forceinline__ void sum_rows(double *partial, const float *dy, const float *a, const float *b, i64 cols, int bStep)
{
    __shared__ double room[32];
    i64 row = blockIdx.x, begin = (i64)blockIdx.y * 8192, end = smaller(cols, begin + 8192);
    const float *g = dy + row * cols, *x = F::needs_a ? a + row * cols : nullptr;
    float number = F::needs_b ? b[row * bStep] : 0.0f;
    double sum = 0;
    if ((cols & 3) == 0 && aligned16(g, x))
    {
        for (i64 i = begin + threadIdx.x * 4; i < end; i += 1024)
        {
            float4 v = *(const float4 *)(g + i), w = v;
            if (F::needs_a)
                w = *(const float4 *)(x + i);
            sum += (double)F::by_b(v.x, w.x, number);
            sum += (double)F::by_b(v.y, w.y, number);
            sum += (double)F::by_b(v.z, w.z, number);
            sum += (double)F::by_b(v.w, w.w, number);
        }
    }
    else
    {
        for (i64 i = begin + threadIdx.x; i < end; i += 256)
            sum += (double)F::by_b(g[i], F::needs_a ? x[i] : 0.0f, number);
    }
    sum = block_sum(sum, room, 256);
    if (threadIdx.x == 0)
        partial[row * gridDim.y + blockIdx.y] = sum;
}

/// partial[outer, chunk, col] = Σ f(dy[outer, i, col], a[outer, i, col], b[col]) over 1024 of the n middle indices. A block
/// takes 32 columns, eight warps of the middle index. Reads 4·|operands| bytes, writes 8·outer·chunks·cols.
template <typename F> __device__ __forceinline__ void sum_cols(double *partial, const float *dy, const float *a, const float *b, int n, int cols)
{
    __shared__ double room[8][32];
    int tiles = (cols + 31) >> 5, outer = blockIdx.x / tiles;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, col = (blockIdx.x - outer * tiles) * 32 + lane;
    int end = smaller(n, (blockIdx.y + 1) * 1024);
    i64 start = (i64)outer * n * cols + col;
    double sum = 0;
    if (col < cols)
    {
        float number = F::needs_b ? b[col] : 0.0f;
        for (int i = blockIdx.y * 1024 + warp; i < end; i += 8)
            sum += (double)F::by_b(dy[start + (i64)i * cols], F::needs_a ? a[start + (i64)i * cols] : 0.0f, number);
    }
    room[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && col < cols)
    {
        sum = 0;
#pragma unroll
        for (int w = 0; w < 8; w++)
            sum += room[w][lane];
        partial[((i64)outer * gridDim.y + blockIdx.y) * cols + col] = sum;
    }
}

#define ENTRY(name, Type)                                                                                                \
    KERNEL(256) sum_rows_##name(double *partial, const float *PLAIN dy, const float *PLAIN a, const float *PLAIN b, i64 cols, int bStep) { sum_rows<Type>(partial, dy, a, b, cols, bStep); } \
    KERNEL(256) sum_cols_##name(double *partial, const float *PLAIN dy, const float *PLAIN a, const float *PLAIN b, int n, int cols) { sum_cols<Type>(partial, dy, a, b, n, cols); }
ENTRY(plain, Plain)
ENTRY(subtract, Subtract)
ENTRY(multiply, Multiply)
ENTRY(divide, Divide)
#undef ENTRY

/// y[o, col] (=|+=) Σ_chunk partial[o·outerStep + chunk·chunkStep + col] in the order of the chunks, rounded once.
/// Reads 8·outer·chunks·cols bytes (and 4·outer·cols with accumulate), writes 4·outer·cols.
KERNEL(256) sum_partials(float *y, const double *PLAIN partial, i64 count, int cols, int chunks, i64 chunkStep, i64 outerStep, int accumulate)
{
    i64 i = (i64)blockIdx.x * 256 + threadIdx.x;
    if (i >= count)
        return;
    i64 outer = i / cols;
    const double *p = partial + outer * outerStep + (i - outer * cols);
    double sum = 0;
    for (int chunk = 0; chunk < chunks; chunk++)
        sum += p[chunk * chunkStep];
    y[i] = (float)(accumulate ? (double)y[i] + sum : sum);
}

/// dx[outer, n, inner] += dy[outer, inner]. Reads 4·outer·inner·(n + 1) bytes, writes 4·outer·inner·n.
//! reduce | reduce_sum_backward | block 256 | grid ceil(outer * n * inner / 1024) | shared 0
KERNEL(256) reduce_sum_backward(float *dx, const float *PLAIN dy, i64 total, int n, int inner)
{
    i64 end = smaller(total, ((i64)blockIdx.x + 1) * 1024);
    for (i64 i = (i64)blockIdx.x * 1024 + threadIdx.x; i < end; i += 256)
    {
        i64 row = i / inner;
        dx[i] += dy[row / n * inner + (i - row * inner)];
    }
}
