// Ops that move rows: gathers, scatters in a fixed order, columns between matrices, embeddings.
// Floor: the bytes in each docstring over the device's bandwidth.
//! rows | gather_rows, embedding_forward_* | block 256 | grid (rows, ceil(cols / 1024)) | shared 0
//! rows | scatter_rows | block 256 | grid rows | shared 0
//! rows | copy_columns | block 256 | grid (rows, ceil(cols / 1024)) | shared 0
//! rows | append_rows | block 256 | grid (batch, ceil(width / 1024)) | shared 0
#include "common.cuh"

template <typename T> __device__ __forceinline__ float4 widen_four(uint2 pairs)
{
    T a = {(u16)pairs.x}, b = {(u16)(pairs.x >> 16)}, c = {(u16)pairs.y}, d = {(u16)(pairs.y >> 16)};
    return make_float4(widen(a), widen(b), widen(c), widen(d));
}
template <> __device__ __forceinline__ float4 widen_four<float>(uint2) { return make_float4(0.0f, 0.0f, 0.0f, 0.0f); }

/// y[i, :] = scale·x[index[i], :] of one row and 1024 columns.
template <typename T> __device__ __forceinline__ void gather(float *y, const T *x, const int *index, i64 cols, float scale)
{
    i64 row = blockIdx.x, begin = (i64)blockIdx.y * 1024, end = smaller(cols, begin + 1024);
    const T *source = x + (i64)index[row] * cols;
    y += row * cols;
    i64 i = begin + threadIdx.x * 4;
    if ((cols & 3) == 0 && aligned16(y) && ((u64)source & (4 * sizeof(T) - 1)) == 0)
    {
        if (i >= end)
            return;
        float4 v;
        if (sizeof(T) == 4)
            v = load_four((const float *)(source + i));
        else
            v = widen_four<T>(load_two(source + i));
        *(float4 *)(y + i) = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
    }
    else
    {
        for (i = begin + threadIdx.x; i < end; i += 256)
            y[i] = widen(source[i]) * scale;
    }
}

/// y[i, :] = x[index[i], :], i < rows; index I32. Reads 4·rows·(cols + 1) bytes, writes 4·rows·cols.
KERNEL(256) gather_rows(float *y, const float *PLAIN x, const int *PLAIN index, i64 cols) { gather(y, x, index, cols, 1.0f); }
/// y[i, :] = scale·table[ids[i], :]. Reads rows·(dim·size + 4) bytes, writes 4·rows·dim.
KERNEL(256) embedding_forward_f32(float *y, const float *PLAIN table, const int *PLAIN ids, i64 dim, float scale) { gather(y, table, ids, dim, scale); }
KERNEL(256) embedding_forward_f16(float *y, const F16 *PLAIN table, const int *PLAIN ids, i64 dim, float scale) { gather(y, table, ids, dim, scale); }
KERNEL(256) embedding_forward_bf16(float *y, const BF16 *PLAIN table, const int *PLAIN ids, i64 dim, float scale) { gather(y, table, ids, dim, scale); }

/// dx[index[i], :] += scale·dy[i, :] in the order of i, repeated indices allowed: backward of gather_rows and of the
/// embedding. The block of the first row with an index adds all rows with that index in their order, the others leave:
/// one owner an element, no atomics, the same bits as on the CPU. Rows are listed 256 at a time: each block reads the indices once, rows² comparisons in all.
/// Reads 4·rows·cols bytes and the touched rows of dx, writes those rows.
KERNEL(256) scatter_rows(float *dx, const float *PLAIN dy, const int *PLAIN index, int rows, i64 cols, float scale)
{
    __shared__ int seen[8], list[256];
    int row = blockIdx.x, mine = index[row], before = 0;
    for (int i = threadIdx.x; i < row; i += 256)
        before |= index[i] == mine;
    before = warp_sum(before);
    if ((threadIdx.x & 31) == 0)
        seen[threadIdx.x >> 5] = before;
    __syncthreads();
    int any = 0;
    for (int w = 0; w < 8; w++)
        any |= seen[w];
    if (any)
        return;
    float *target = dx + (i64)mine * cols;
    for (int base = row; base < rows; base += 256)
    {
        int i = base + threadIdx.x, warp = threadIdx.x >> 5, first = 0, found = 0;
        bool hit = i < rows && index[i] == mine;
        unsigned lanes = lanes_with(hit);
        __syncthreads();
        if ((threadIdx.x & 31) == 0)
            seen[warp] = popcount(lanes);
        __syncthreads();
        for (int w = 0; w < 8; w++)
        {
            if (w < warp)
                first += seen[w];
            found += seen[w];
        }
        if (hit)
            list[first + popcount(lanes & ((1u << (threadIdx.x & 31)) - 1))] = i;
        __syncthreads();
        for (i64 col = threadIdx.x; found > 0 && col < cols; col += 256)
        {
            float sum = target[col];
            for (int j = 0; j < found; j++)
                sum = fma(dy[(i64)list[j] * cols + col], scale, sum);
            target[col] = sum;
        }
    }
}

/// dst[r, dstOffset + j] (=|+=) src[r, srcOffset + j], j < cols; the offsets are in the pointers. Reads 4·rows·cols bytes (8
/// with accumulate), writes 4·rows·cols.
KERNEL(256) copy_columns(float *dst, i64 dstStride, const float *PLAIN src, i64 srcStride, int cols, int accumulate)
{
    i64 row = blockIdx.x;
    int begin = blockIdx.y * 1024, end = smaller(cols, begin + 1024);
    float *to = dst + row * dstStride;
    const float *from = src + row * srcStride;
    int i = begin + threadIdx.x * 4;
    if ((cols & 3) == 0 && aligned16(to, from))
    {
        if (i >= end)
            return;
        float4 v = *(const float4 *)(from + i);
        if (accumulate)
        {
            float4 w = *(const float4 *)(to + i);
            v = make_float4(w.x + v.x, w.y + v.y, w.z + v.z, w.w + v.w);
        }
        *(float4 *)(to + i) = v;
    }
    else
    {
        for (i = begin + threadIdx.x; i < end; i += 256)
            to[i] = accumulate ? to[i] + from[i] : from[i];
    }
}

/// One row behind those of each sequence of a cache: keys[b, length[0], :] = k[b, :], and the same of values and v. keys, values
/// [batch, capacity, width], k, v [batch, width], length I32 [1] < capacity, in device memory, so that a recorded launch serves every length.
/// Reads 8·batch·width bytes, writes as many.
KERNEL(256) append_rows(float *keys, float *values, const float *PLAIN k, const float *PLAIN v, const int *PLAIN length, i64 capacity, i64 width)
{
    i64 to = ((i64)blockIdx.x * capacity + length[0]) * width, from = (i64)blockIdx.x * width, begin = (i64)blockIdx.y * 1024, end = smaller(width, begin + 1024);
    i64 i = begin + threadIdx.x * 4;
    if ((width & 3) == 0 && aligned16(keys, values, k, v))
    {
        if (i >= end)
            return;
        *(float4 *)(keys + to + i) = *(const float4 *)(k + from + i);
        *(float4 *)(values + to + i) = *(const float4 *)(v + from + i);
    }
    else
    {
        for (i = begin + threadIdx.x; i < end; i += 256)
        {
            keys[to + i] = k[from + i];
            values[to + i] = v[from + i];
        }
    }
}
