// Quantised weights: bitsandbytes' 4-bit codes (NF4, FP4; plain and double quantised) and LLM.int8: packing, unpacking, and
// products that decode what they read. The code book is an operand, so that NF4 and FP4 share the kernels.
// Element i of a 4-bit matrix is code[nibble i]·scale(i / blockSize), the even element of a byte in the high nibble, blocks
// running over row ends; scale(j) = absmax[j], or map[scaleCodes[j]]·nested[j / nestedSize] + offset, each step rounded.
// Where whole blocks of values stand in a row (their sizes 64 and more, as bitsandbytes has them), a block's scale is made once by one lane and
// handed to the others, and a code's value is found by a shuffle among lanes that hold the book: no table in memory is read by data.
// Floor: (elements / 2 + elements / blockSize · 4 (or 1) + outputs) bytes over the bandwidth.
//! quantised | unpack_codes_f32, unpack_codes_bf16 | block 256 | grid ceil(count / 16384) | shared 0 | CodesParams, then y and count
//! quantised | unpack_rows_f32, unpack_rows_bf16 | block 256 | grid ceil(count / 1024) | shared 0
//! quantised | pack_codes | block 256 | grid ceil(ceil(count / blockSize) / 8) | shared 0 | a warp a block of values
//! quantised | scales_mean | block 1024 | grid 1 | shared 0
//! quantised | pack_scales | block 256 | grid ceil(count / 256) | shared 0
//! quantised | matmul_codes_nt, matmul_codes_nn | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 0 | MatMulParams (b is not read), then CodesParams
//! quantised | matmul_codes_term | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 0 | as matmul_term_*, then CodesParams
//! quantised | lookup_codes | block 256 | grid (rows, ceil(dim / 1024)) | shared 0
//! quantised | matvec_codes_1, _2, _4, _8 | block 256 | grid ceil(n / 16) | shared 0 | as matvec_* of matmul.cu, then CodesParams
#include "codes.cuh"

// ---- unpacking ----

/// y[count] = elements of the matrix from start on, fp32 bit for bit as the reference, or rounded to bf16. A warp takes 2048 elements, whose
/// scales its lanes make at once.
template <typename T> __device__ __forceinline__ void unpack_codes(const CodesParams &c, T *y, i64 count)
{
    __shared__ float map[256];
    int lane = threadIdx.x & 31;
    i64 base = (i64)blockIdx.x * 16384 + (threadIdx.x >> 5) * 2048;
    if (c.absmax == nullptr)
    {
        map[threadIdx.x] = c.nestedMap[threadIdx.x];
        __syncthreads();
    }
    if (!codes_in_rows(c, 64) || !aligned16(y) || base + 2048 > count)
    {
        i64 end = smaller(count, base + 2048);
#pragma unroll 1
        for (i64 i = base + lane; i < end; i += 32)
            narrow(code_value(c, i), y[i]);
        return;
    }
    CodesParams shared = c;
    shared.nestedMap = map;
    Book book(c.code);
    NestedMap nested(shared);
    i64 at = c.start + base, first = at >> c.blockShift;
    int into = (int)(at - (first << c.blockShift));
    StoredScale stored;
    if (first + lane <= (at + 2047) >> c.blockShift)
        stored.read(c, first + lane);
    float scale = stored.value(c, nested);
    const u8 *data = c.data + (at >> 1);
    y += base;
    if constexpr (sizeof(T) == 4)
    {
#pragma unroll 4
        for (int t = 0; t < 16; t++)
        {
            int i = t * 128 + lane * 4;
            unsigned codes = *(const u16 *)(data + (i >> 1));
            *(float4 *)(y + i) = book.four(codes, 0, shuffle(scale, (into + i) >> c.blockShift));
        }
    }
    else
    {
#pragma unroll 4
        for (int t = 0; t < 8; t++)
        {
            int i = t * 256 + lane * 8;
            unsigned codes = *(const unsigned *)(data + (i >> 1));
            float own = shuffle(scale, (into + i) >> c.blockShift);
            float4 a = book.four(codes, 0, own), b = book.four(codes, 16, own);
            *(uint4 *)(y + i) = make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w));
        }
    }
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
/// A warp packs a block; reads 4·count bytes (blocks of more than 128 a second time, from the cache), writes count/2 and the scales.
KERNEL(256) pack_codes(u8 *data, float *absmax, int *status, const float *PLAIN x, const float *PLAIN midpoints, const u8 *PLAIN ascending, i64 count, int blockSize, int levels, int zero)
{
    // 16 words each in 16 banks: any choice of them is free of conflicts.
    __shared__ float borders[16];
    __shared__ int order[16];
    if (threadIdx.x < 16)
    {
        borders[threadIdx.x] = (int)threadIdx.x < levels - 1 ? midpoints[threadIdx.x] : positive_infinity();
        order[threadIdx.x] = (int)threadIdx.x < levels ? ascending[threadIdx.x] : 0;
    }
    __syncthreads();
    i64 block = (i64)blockIdx.x * 8 + (threadIdx.x >> 5), first = block * blockSize;
    int lane = threadIdx.x & 31;
    if (first >= count)
        return;
    int n = (int)smaller((i64)blockSize, count - first);
    bool whole = n == blockSize, kept = n <= 128, pairs = ((first | n) & 1) == 0 && ((u64)x & 7) == 0;
    float values[4] = {0.0f, 0.0f, 0.0f, 0.0f}, largest = 0.0f;
    int broken = 0;
    auto measure = [&](float v) {
        float size = absolute(v);
        broken |= !(size < positive_infinity());
        largest = size > largest ? size : largest;
    };
    if (kept)
    {
#pragma unroll
        for (int h = 0; h < 2; h++)
        {
            int i = lane * 2 + h * 64;
            if (pairs && i < n)
            {
                uint2 both = load_two(x + first + i);
                values[2 * h] = float_of((int)both.x);
                values[2 * h + 1] = float_of((int)both.y);
            }
            else
            {
                values[2 * h] = i < n ? x[first + i] : 0.0f;
                values[2 * h + 1] = i + 1 < n ? x[first + i + 1] : 0.0f;
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            measure(values[e]);
    }
    else
        for (int i = lane; i < n; i += 32)
            measure(x[first + i]);
    largest = warp_max(largest);
    broken = warp_sum(broken);
    float divisor = largest > 1e-38f ? largest : 1e-38f, inverse = 1.0f / divisor;
    auto code = [&](float v) {
        // How many borders lie below: they ascend, so four of them are asked.
        float s = whole ? v * inverse : v / divisor;
        int above = 0;
#pragma unroll
        for (int step = 8; step > 0; step >>= 1)
            above += s > borders[above + step - 1] ? step : 0;
        return order[above];
    };
    u8 *to = data + (first >> 1);
    if (kept)
    {
#pragma unroll
        for (int h = 0; h < 2; h++)
        {
            int i = lane * 2 + h * 64;
            if (i < n)
                to[i >> 1] = (u8)(code(values[2 * h]) << 4 | (i + 1 < n ? code(values[2 * h + 1]) : zero));
        }
    }
    else
        for (int i = lane * 2; i < n; i += 64)
            to[i >> 1] = (u8)(code(x[first + i]) << 4 | (i + 1 < n ? code(x[first + i + 1]) : zero));
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
/// nested[block] is the largest magnitude. Reads 4·count bytes, writes count. A lane holds the borders above eight values, and a thread
/// finds its own among them by twelve shuffles.
KERNEL(256) pack_scales(u8 *codes, float *nested, const float *PLAIN absmax, const float *PLAIN offset, const float *PLAIN map, i64 count)
{
    __shared__ __align__(16) float room[32], borders[256];
    int i = threadIdx.x, lane = i & 31;
    float here = map[i];
    borders[i] = here;
    __syncthreads();
    float border = i < 255 ? (here + borders[i + 1]) / 2.0f : positive_infinity();
    __syncthreads();
    borders[((i >> 2 ^ (i >> 5 & 1)) << 2) + (i & 3)] = border;
    i64 first = (i64)blockIdx.x * 256;
    int n = (int)smaller((i64)256, count - first);
    float d = i < n ? absmax[first + i] - offset[0] : 0.0f;
    float largest = block_max(absolute(d), room, 256);
    if (i == 0)
        nested[blockIdx.x] = largest;
    int chunk = lane * 2, flip = chunk >> 3 & 1;
    float4 low = read_four(&borders[(chunk ^ flip) << 2]), high = read_four(&borders[((chunk + 1) ^ flip) << 2]);
    float divisor = largest > 1e-38f ? largest : 1e-38f, s = n == 256 ? d * (1.0f / divisor) : d / divisor;
    s = s < -1.0f ? -1.0f : s > 1.0f ? 1.0f : s;
    int eight = 0;
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
        eight += s > shuffle(high.w, eight + step - 1) ? step : 0;
    bool upper = s > shuffle(low.w, eight);
    float b1 = shuffle(low.y, eight), b5 = shuffle(high.y, eight);
    bool middle = s > (upper ? b5 : b1);
    float b0 = shuffle(low.x, eight), b2 = shuffle(low.z, eight), b4 = shuffle(high.x, eight), b6 = shuffle(high.z, eight);
    bool last = s > (upper ? middle ? b6 : b4 : middle ? b2 : b0);
    if (i < n)
        codes[first + i] = (u8)(eight * 8 + (upper ? 4 : 0) + (middle ? 2 : 0) + (last ? 1 : 0));
}

// ---- products ----

template <bool TERM> __device__ __forceinline__ void codes_by_rows(const MatMulParams &p, const CodesParams &c)
{
    __shared__ __align__(16) u8 shared[PackedShared];
    __shared__ float scales[4 * CodeTilesOfRows::Scales];
    Codes w{c};
    if (codes_in_rows(c, p.k))
        packed_tile_of<true, TERM>(p, shared, [&](int col) { return CodeTilesOfRows(p, c, scales, col); });
    else
        packed_tile_of<true, TERM>(p, shared, [&](int col) { return PackedTiles<true, 128, Codes>{p, w, col}; });
}
KERNEL_OF(128, 2) matmul_codes_nt(const MatMulParams p, const CodesParams c) { codes_by_rows<false>(p, c); }
KERNEL_OF(128, 2) matmul_codes_term(const MatMulParams p, const CodesParams c) { codes_by_rows<true>(p, c); }
KERNEL_OF(128, 2) matmul_codes_nn(const MatMulParams p, const CodesParams c)
{
    __shared__ __align__(16) u8 shared[PackedShared];
    Codes w{c};
    if (codes_in_rows(c, p.n))
        packed_tile_of<false, false>(p, shared, [&](int col) { return CodeTilesOfColumns(p, c, col); });
    else
        packed_tile_of<false, false>(p, shared, [&](int col) { return PackedTiles<false, 128, Codes>{p, w, col}; });
}

/// C[m, n] = A·Wᵀ for m ≤ ROWS as matvec_* of matmul.cu: the same bits. A warp owns two rows of W. Codes and scales of 1024 elements of
/// both are read before x is staged, 16 bytes of codes and half a scale a lane and row.
template <int ROWS> __device__ __forceinline__ void codes_matvec(const MatMulParams &p, const CodesParams &c)
{
    const int own = 2;
    __shared__ __align__(16) float x[ROWS][MatvecStretch];
    if (!codes_in_rows(c, p.k))
    {
        Codes w{c};
        matvec_rows<ROWS, own>(p, x, blockIdx.x * 8 * own, PackedRows<Codes>{p, w});
        return;
    }
    int lane = threadIdx.x & 31, n = (blockIdx.x * 8 + (threadIdx.x >> 5)) * own;
    Book book(c.code);
    NestedMap map(c);
    float sums[own][ROWS];
    matvec_clear(sums);
    // Rows beyond the last read the last; what they give is not stored.
    i64 start[own];
#pragma unroll
    for (int j = 0; j < own; j++)
        start[j] = c.start + (i64)smaller(n + j, p.n - 1) * p.k;
#pragma unroll 1
    for (int k0 = 0; k0 < p.k; k0 += MatvecStretch)
    {
        int end = smaller(MatvecStretch, p.k - k0), into[own];
        unsigned words[own][4];
        StoredScale stored[own];
#pragma unroll
        for (int j = 0; j < own; j++)
        {
            i64 at = start[j] + k0, block = at >> c.blockShift;
            const u8 *from = c.data + (at >> 1) + lane * 4;
            into[j] = (int)(at - (block << c.blockShift));
            stored[j].read(c, block + smaller(lane, (into[j] + end - 1) >> c.blockShift));
            if (end == MatvecStretch)
            {
#pragma unroll
                for (int t = 0; t < 4; t++)
                    words[j][t] = *(const unsigned *)(from + t * 128);
            }
            else
            {
#pragma unroll
                for (int t = 0; t < 4; t++)
                    words[j][t] = t * 256 + lane * 8 < end ? *(const unsigned *)(from + t * 128) : 0;
            }
        }
        __syncthreads();
        matvec_stage<ROWS>(p, x, k0);
        __syncthreads();
        float scales[own];
#pragma unroll
        for (int j = 0; j < own; j++)
            scales[j] = stored[j].value(c, map);
#pragma unroll
        for (int t = 0; t < 4; t++)
        {
            int k = t * 256 + lane * 8;
            if (t * 256 >= end)
                break;
            float weights[own][8];
#pragma unroll
            for (int j = 0; j < own; j++)
            {
                float scale = shuffle(scales[j], (into[j] + k) >> c.blockShift);
                float4 a = book.four(words[j][t], 0, scale), b = book.four(words[j][t], 16, scale);
                weights[j][0] = a.x, weights[j][1] = a.y, weights[j][2] = a.z, weights[j][3] = a.w;
                weights[j][4] = b.x, weights[j][5] = b.y, weights[j][6] = b.z, weights[j][7] = b.w;
            }
            if (k < end)
                matvec_add(sums, weights, x, k);
        }
    }
    matvec_store(p, sums, n);
}
#define ENTRY(rows) KERNEL_OF(256, rows <= 2 ? 3 : 2) matvec_codes_##rows(const MatMulParams p, const CodesParams c) { codes_matvec<rows>(p, c); }
ENTRY(1)
ENTRY(2)
ENTRY(4)
ENTRY(8)
#undef ENTRY

/// y[i, :] = scale·row ids[i] of the matrix, dim a row: an embedding. Reads dim / 2 bytes and the scales a row, writes 4·dim.
KERNEL(256) lookup_codes(float *y, const CodesParams c, const int *PLAIN ids, int dim, float scale)
{
    __shared__ float values[16];
    if (threadIdx.x < 16)
        values[threadIdx.x] = c.code[threadIdx.x];
    __syncthreads();
    int lane = threadIdx.x & 31, begin = (int)blockIdx.y * 1024 + (threadIdx.x >> 5) * 128, end = smaller(dim, begin + 128);
    i64 row = (i64)ids[blockIdx.x] * dim;
    y += (i64)blockIdx.x * dim;
    if (codes_in_rows(c, dim) && aligned16(y) && begin + 128 <= dim)
    {
        int i = begin + lane * 4;
        i64 at = c.start + row + i;
        Book book(values);
        float4 v = book.four(*(const u16 *)(c.data + (at >> 1)), 0, scale_of(c, at >> c.blockShift));
        *(float4 *)(y + i) = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
        return;
    }
    for (int i = begin + lane; i < end; i += 32)
        y[i] = code_value(c, row + i) * scale;
}
