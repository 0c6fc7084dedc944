// Quantised weights: bitsandbytes' 4-bit codes (NF4, FP4; plain and double quantised) and LLM.int8: packing, unpacking, and
// products that decode what they read. The code book is an operand, so that NF4 and FP4 share the kernels.
// Element i of a 4-bit matrix is code[nibble i]·scale(i / blockSize), the even element of a byte in the high nibble, blocks
// running over row ends; scale(j) = absmax[j], or map[scaleCodes[j]]·nested[j / nestedSize] + offset, each step rounded.
// Floor: (elements / 2 + elements / blockSize · 4 (or 1) + outputs) bytes over the bandwidth.
//! quantised | unpack_codes_f32, unpack_codes_bf16 | block 256 | grid ceil(count / 2048) | shared 0 | CodesParams, then y and count
//! quantised | unpack_rows_f32, unpack_rows_bf16 | block 256 | grid ceil(count / 1024) | shared 0
//! quantised | pack_codes | block 256 | grid ceil(ceil(count / blockSize) / 8) | shared 0 | a warp a block of values
//! quantised | scales_mean | block 1024 | grid 1 | shared 0
//! quantised | pack_scales | block 256 | grid ceil(count / 256) | shared 0
//! quantised | matmul_codes_nt, matmul_codes_nn | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 0 | MatMulParams (b is not read), then CodesParams
//! quantised | matmul_codes_term | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 0 | as matmul_term_*, then CodesParams
//! quantised | lookup_codes | block 256 | grid (rows, ceil(dim / 1024)) | shared 0
//! quantised | matvec_codes_1, _2, _4, _8 | block 256 | grid ceil(n / 16) | shared 0 | as matvec_* of matmul.cu, then CodesParams
#include "packed.cuh"

/// Where a 4-bit matrix lies; passed by value, 72 bytes. start: number of the operand's first element in the matrix.
struct CodesParams
{
    const u8 *data;
    const float *code; // 16 values
    const float *absmax; // plain; else null
    const u8 *scaleCodes;
    const float *nestedScales;
    const float *nestedMap; // 256 values
    i64 start;
    float offset;
    int blockShift;  // log2 of the block size
    int nestedShift; // log2 of the number of scales that share one
    int reserved;
};

__device__ __forceinline__ float scale_of(const CodesParams &c, i64 block)
{
    if (c.absmax != nullptr)
        return c.absmax[block];
    float product = c.nestedMap[c.scaleCodes[block]] * c.nestedScales[block >> c.nestedShift];
    return product + c.offset;
}

/// The code book in shared memory: 16 words in 16 banks, so that any choice of them is free of conflicts.
__device__ __forceinline__ void load_code(float *book, const CodesParams &c)
{
    if (threadIdx.x < 16)
        book[threadIdx.x] = c.code[threadIdx.x];
    __syncthreads();
}

/// Value of one element.
__device__ __forceinline__ float code_value(const CodesParams &c, const float *book, i64 i)
{
    i64 at = c.start + i;
    unsigned byte = c.data[at >> 1];
    return book[(at & 1) ? byte & 15 : byte >> 4] * scale_of(c, at >> c.blockShift);
}

/// True where elements i … i + 7 (i a multiple of 8 from rows of `row` elements) are four aligned bytes under one scale.
__device__ __forceinline__ bool codes_by_eight(const CodesParams &c, i64 row) { return (c.start & 7) == 0 && (row & 7) == 0 && ((u64)c.data & 3) == 0 && c.blockShift >= 3; }

/// Eight elements from i on, where codes_by_eight holds.
__device__ __forceinline__ void code_values(float (&v)[8], const CodesParams &c, const float *book, i64 i)
{
    i64 at = c.start + i;
    unsigned bytes = *(const unsigned *)(c.data + (at >> 1));
    float scale = scale_of(c, at >> c.blockShift);
#pragma unroll
    for (int k = 0; k < 8; k++)
        v[k] = book[(bytes >> ((k >> 1) * 8 + ((k & 1) ? 0 : 4))) & 15] * scale;
}

/// Four elements from i on, where codes_by_eight holds and i is a multiple of 4.
__device__ __forceinline__ float4 code_four(const CodesParams &c, const float *book, i64 i)
{
    i64 at = c.start + i;
    unsigned bytes = *(const u16 *)(c.data + (at >> 1));
    float scale = scale_of(c, at >> c.blockShift);
    return make_float4(book[bytes >> 4 & 15] * scale, book[bytes & 15] * scale, book[bytes >> 12 & 15] * scale, book[bytes >> 8 & 15] * scale);
}

/// y[count] = elements of the matrix from start on, fp32 bit for bit as the reference, or rounded to bf16; eight a thread, each warp's stores side by side.
template <typename T> __device__ __forceinline__ void unpack_codes(const CodesParams &c, T *y, i64 count)
{
    __shared__ float book[16];
    load_code(book, c);
    i64 base = (i64)blockIdx.x * 2048;
    if (codes_by_eight(c, 8) && aligned16(y) && base + 2048 <= count)
    {
        if (sizeof(T) == 4)
        {
            i64 i = base + threadIdx.x * 4;
            *(float4 *)(y + i) = code_four(c, book, i);
            *(float4 *)(y + i + 1024) = code_four(c, book, i + 1024);
            return;
        }
        i64 i = base + threadIdx.x * 8;
        float v[8];
        code_values(v, c, book, i);
        *(uint4 *)(y + i) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
        return;
    }
    i64 end = smaller(count, base + 2048);
#pragma unroll 1
    for (i64 i = base + threadIdx.x; i < end; i += 256)
        narrow(code_value(c, book, i), y[i]);
}
KERNEL(256) unpack_codes_f32(const CodesParams c, float *y, i64 count) { unpack_codes(c, y, count); }
KERNEL(256) unpack_codes_bf16(const CodesParams c, BF16 *y, i64 count) { unpack_codes(c, y, count); }

/// LLM.int8: y[i] = q·scales[row]·(1/127), left to right, of elements start … of a matrix of `columns` a row. Reads n bytes.
template <typename T> __device__ __forceinline__ void unpack_rows(T *y, const u8 *data, const float *scales, i64 start, i64 count, int columns)
{
    i64 base = (i64)blockIdx.x * 1024, end = smaller(count, base + 1024);
    if (((columns | start) & 3) == 0 && ((u64)data & 3) == 0 && aligned16(y) && base + 1024 <= count)
    {
        i64 i = base + threadIdx.x * 4, at = start + i;
        unsigned four = *(const unsigned *)(data + at);
        float scale = scales[at / columns], v[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[k] = (float)(int)(signed char)(four >> (8 * k)) * scale * (1.0f / 127.0f);
        if (sizeof(T) == 4)
            *(float4 *)(y + i) = make_float4(v[0], v[1], v[2], v[3]);
        else
            *(uint2 *)(y + i) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
        return;
    }
#pragma unroll 1
    for (i64 i = base + threadIdx.x; i < end; i += 256)
    {
        i64 at = start + i;
        narrow((float)(int)(signed char)data[at] * scales[at / columns] * (1.0f / 127.0f), y[i]);
    }
}
KERNEL(256) unpack_rows_f32(float *y, const u8 *PLAIN data, const float *PLAIN scales, i64 start, i64 count, int columns) { unpack_rows(y, data, scales, start, count, columns); }
KERNEL(256) unpack_rows_bf16(BF16 *y, const u8 *PLAIN data, const float *PLAIN scales, i64 start, i64 count, int columns) { unpack_rows(y, data, scales, start, count, columns); }

/// Packs x[count]: absmax[block] = the largest magnitude, codes nearest to x·(1/absmax), of two equally near the lower. midpoints: 15
/// ascending; ascending: the codes in the order of their values; levels: how many (NF4 16, FP4 15); zero: the code behind an odd count.
/// A short last block divides and raises its stored scale to 1e-38, as bitsandbytes does. status 1 where a value is not finite.
/// A warp packs a block; reads 4·count bytes (twice, the second time from the cache), writes count/2 and the scales.
KERNEL(256) pack_codes(u8 *data, float *absmax, int *status, const float *PLAIN x, const float *PLAIN midpoints, const u8 *PLAIN ascending, i64 count, int blockSize, int levels, int zero)
{
    i64 block = (i64)blockIdx.x * 8 + (threadIdx.x >> 5), first = block * blockSize;
    int lane = threadIdx.x & 31;
    if (first >= count)
        return;
    int n = (int)smaller((i64)blockSize, count - first);
    bool whole = n == blockSize;
    float largest = 0.0f;
    int broken = 0;
    for (int i = lane; i < n; i += 32)
    {
        float size = absolute(x[first + i]);
        broken |= !(size < positive_infinity());
        largest = size > largest ? size : largest;
    }
    largest = warp_max(largest);
    broken = warp_sum(broken);
    float divisor = largest > 1e-38f ? largest : 1e-38f, inverse = 1.0f / divisor;
    auto code = [&](int i) {
        if (i >= n)
            return zero;
        float v = x[first + i], s = whole ? v * inverse : v / divisor;
        int above = 0;
        for (int k = 0; k < levels - 1; k++)
            above += s > midpoints[k] ? 1 : 0;
        return (int)ascending[above];
    };
    for (int i = lane * 2; i < n; i += 64)
        data[(first + i) >> 1] = (u8)(code(i) << 4 | code(i + 1));
    if (lane == 0)
    {
        absmax[block] = whole ? largest : divisor;
        if (broken)
            status[0] = 1;
    }
}

/// offset[0] = the mean of absmax[count], summed in double, the threads' stretches in order.
KERNEL(1024) scales_mean(float *offset, const float *PLAIN absmax, i64 count)
{
    __shared__ double room[32];
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < count; i += 1024)
        sum += (double)absmax[i];
    sum = block_sum(sum, room, 1024);
    if (threadIdx.x == 0)
        offset[0] = count == 0 ? 0.0f : (float)(sum / (double)count);
}

/// Double quantisation of scales: blocks of 256 (one a block of threads) of absmax − offset by the nearest of map[256], ascending;
/// nested[block] is the largest magnitude. Reads 4·count bytes, writes count.
KERNEL(256) pack_scales(u8 *codes, float *nested, const float *PLAIN absmax, const float *PLAIN offset, const float *PLAIN map, i64 count)
{
    __shared__ float room[32], values[256];
    values[threadIdx.x] = map[threadIdx.x];
    i64 first = (i64)blockIdx.x * 256;
    int n = (int)smaller((i64)256, count - first), i = threadIdx.x;
    float d = i < n ? absmax[first + i] - offset[0] : 0.0f;
    float largest = block_max(absolute(d), room, 256);
    if (i == 0)
        nested[blockIdx.x] = largest;
    if (i >= n)
        return;
    float divisor = largest > 1e-38f ? largest : 1e-38f, s = n == 256 ? d * (1.0f / divisor) : d / divisor;
    s = s < -1.0f ? -1.0f : s > 1.0f ? 1.0f : s;
    int low = 0, high = 255;
    while (low < high)
    {
        int middle = (low + high) >> 1;
        if (s > (values[middle] + values[middle + 1]) / 2.0f)
            low = middle + 1;
        else
            high = middle;
    }
    codes[first + i] = (u8)low;
}

// ---- products ----

/// The matrix as packed.cuh reads it.
struct Codes
{
    const CodesParams &c;
    const float *book;
    bool eights;

    __device__ __forceinline__ void eight(float (&v)[8], i64 i, int n) const
    {
        if (eights)
        {
            code_values(v, c, book, i);
            return;
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = e < n ? code_value(c, book, i + e) : 0.0f;
    }
};

#define ENTRY(name, transB, term)                                                                                        \
    KERNEL_OF(128, 2) matmul_codes_##name(const MatMulParams p, const CodesParams c)                                          \
    {                                                                                                                    \
        __shared__ float book[16];                                                                                       \
        load_code(book, c);                                                                                              \
        packed_tile<transB, term>(p, Codes{c, book, codes_by_eight(c, transB ? p.k : p.n)});                                 \
    }
ENTRY(nt, true, false)
ENTRY(nn, false, false)
ENTRY(term, true, true)
#undef ENTRY

#define ENTRY(rows)                                                                                                      \
    KERNEL_OF(256, 2) matvec_codes_##rows(const MatMulParams p, const CodesParams c)                                          \
    {                                                                                                                    \
        __shared__ float book[16];                                                                                       \
        load_code(book, c);                                                                                              \
        packed_matvec<rows, 2>(p, Codes{c, book, codes_by_eight(c, p.k)});                                                   \
    }
ENTRY(1)
ENTRY(2)
ENTRY(4)
ENTRY(8)
#undef ENTRY

/// y[i, :] = scale·row ids[i] of the matrix, dim a row: an embedding. Reads dim / 2 bytes and the scales a row, writes 4·dim.
KERNEL(256) lookup_codes(float *y, const CodesParams c, const int *PLAIN ids, int dim, float scale)
{
    __shared__ float book[16];
    load_code(book, c);
    int end = smaller(dim, ((int)blockIdx.y + 1) * 1024);
    i64 row = (i64)ids[blockIdx.x] * dim;
    y += (i64)blockIdx.x * dim;
    for (int i = (int)blockIdx.y * 1024 + threadIdx.x; i < end; i += 256)
        y[i] = code_value(c, book, row + i) * scale;
}
