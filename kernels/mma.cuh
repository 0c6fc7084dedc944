// Tensor-core products of fp32 accuracy and the shared-memory tiles they read.
//
// An fp32 number is the sum of three bf16 numbers to 24 bits: hi = bf16(x), mid = bf16(x − hi), lo = bf16(x − hi − mid). The
// product of two numbers is then the sum of the products of their parts, of which those below 2⁻²⁴ are left out: 6 for
// fp32·fp32, 5 for fp32·fp16 (an fp16 is two bf16), 3 for fp32·bf16. Parts are made in registers when a fragment is read.
// The tensor core truncates when it accumulates, so sums stay in it for 32 terms only and are then added to fp32 registers
// with rounding to nearest. An infinite or NaN operand gives NaN.
//
// Fragments (PTX ISA, mma.m16n8k16), g = lane / 4, t = lane % 4: A holds rows g, g + 8 and k = 2t, 2t + 1, 2t + 8, 2t + 9;
// B the same k and column g; C rows g, g + 8 and columns 2t, 2t + 1.
//
// Tiles are rows of 16-byte chunks whose places are exchanged (XOR by the row), so that reads along rows and down columns
// and the 16-byte writes touch every bank once:
//  fp32, 8 or more chunks a row: chunk ^ ((row / 2 % 4) · 2 ^ (row % 2) · 4)
//  16-bit, 4 chunks a row: chunk ^ (row / 2 % 4); 16-bit, 8 or more: chunk ^ (row % 8)
#pragma once
#include "common.cuh"

template <int ELEMENT, int CHUNKS> __device__ __forceinline__ int swizzle(int row)
{
    if (ELEMENT == 4)
        return (((row >> 1) & 3) << 1) ^ ((row & 1) << 2);
    return CHUNKS == 4 ? (row >> 1) & 3 : row & 7;
}

/// Byte offset of a 16-byte chunk in a tile whose rows have COLS elements of ELEMENT bytes.
template <int ELEMENT, int COLS> __device__ __forceinline__ int chunk_offset(int row, int chunk)
{
    const int chunks = COLS * ELEMENT / 16;
    return row * (COLS * ELEMENT) + ((chunk ^ swizzle<ELEMENT, chunks>(row)) << 4);
}

// ---- instructions ----

__device__ __forceinline__ void mma_bf16(float *c, const unsigned *a, const unsigned *b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void load_matrices(unsigned *r, unsigned address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned *r, unsigned address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}

/// Copies the first `bytes` of 16 from global to shared memory in the background; the others become 0.
__device__ __forceinline__ void copy_async(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(global_address(from)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// ---- splitting ----

/// The bf16 parts of two neighbours, each part a pair.
template <int PARTS> __device__ __forceinline__ void split(float x, float y, unsigned (&parts)[PARTS])
{
#pragma unroll
    for (int i = 0; i < PARTS; i++)
    {
        parts[i] = pack_bf16(x, y);
        x -= low_bf16(parts[i]);
        y -= high_bf16(parts[i]);
    }
}

/// c += a·b from parts; A[i][4], B[j][2], small terms first. With n parts of the finer operand the terms i + j ≥ n are left out.
template <int PA, int PB> __device__ __forceinline__ void mma_parts(float *c, const unsigned (&a)[PA][4], const unsigned (&b)[PB][2])
{
#pragma unroll
    for (int order = (PA > PB ? PA : PB) - 1; order >= 0; order--)
#pragma unroll
        for (int i = 0; i <= order; i++)
            if (i < PA && order - i < PB)
                mma_bf16(c, a[i], b[order - i]);
}

/// Bf16 parts of an element type that lose nothing.
template <typename T> struct Parts;
template <> struct Parts<float>
{
    static const int exact = 3;
};
template <> struct Parts<F16>
{
    static const int exact = 2;
};
template <> struct Parts<BF16>
{
    static const int exact = 1;
};

// ---- fragments from shared tiles ----

/// 16 bytes of shared memory in one instruction; the compiler would take them apart where only elements are used.
__device__ __forceinline__ float4 read_four(const void *p)
{
    float x, y, z, w;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x), "=f"(y), "=f"(z), "=f"(w) : "r"(shared_address(p)) : "memory");
    return make_float4(x, y, z, w);
}
__device__ __forceinline__ float2 read_pair(const u8 *p) { return *(const float2 *)p; }
__device__ __forceinline__ float read_one(const u8 *p) { return *(const float *)p; }

/// Neighbours k, k + 1 of line `line` of an fp32 operand. Lines are rows or columns of the product; KMAJOR tiles are
/// [line][k], the others [k][line]; COLS is the row length of the tile.
template <bool KMAJOR, int COLS, int PARTS> __device__ __forceinline__ void read_split(const u8 *tile, int line, int k, unsigned (&parts)[PARTS])
{
    if (KMAJOR)
    {
        float2 v = read_pair(tile + chunk_offset<4, COLS>(line, k >> 2) + ((k & 2) << 2));
        split(v.x, v.y, parts);
    }
    else
    {
        int chunk = line >> 2, at = (line & 3) << 2;
        float x = read_one(tile + chunk_offset<4, COLS>(k, chunk) + at), y = read_one(tile + chunk_offset<4, COLS>(k + 1, chunk) + at);
        split(x, y, parts);
    }
}

/// A fragment: 16 lines from `line`, 16 k from `k`.
template <bool KMAJOR, int COLS, int PARTS> __device__ __forceinline__ void read_a(const u8 *tile, int line, int k, unsigned (&a)[PARTS][4])
{
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int r = 0; r < 4; r++)
    {
        unsigned parts[PARTS];
        read_split<KMAJOR, COLS>(tile, line + g + (r & 1) * 8, k + 2 * t + (r >> 1) * 8, parts);
#pragma unroll
        for (int p = 0; p < PARTS; p++)
            a[p][r] = parts[p];
    }
}

/// Two B fragments (16 lines from `line`, 16 k from `k`) of an fp32 tile.
template <bool KMAJOR, int COLS, int PARTS> __device__ __forceinline__ void read_b(const u8 *tile, float, int line, int k, unsigned (&b)[2][PARTS][2])
{
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int r = 0; r < 2; r++)
        {
            unsigned parts[PARTS];
            read_split<KMAJOR, COLS>(tile, line + n * 8 + g, k + 2 * t + r * 8, parts);
#pragma unroll
            for (int p = 0; p < PARTS; p++)
                b[n][p][r] = parts[p];
        }
}

/// The four registers of two B fragments of a 16-bit tile, by ldmatrix.
template <bool KMAJOR, int COLS> __device__ __forceinline__ void read_halves(const u8 *tile, int line, int k, unsigned (&r)[4])
{
    int lane = threadIdx.x & 31, matrix = lane >> 3, row = lane & 7;
    if (KMAJOR)
        load_matrices(r, shared_address(tile) + chunk_offset<2, COLS>(line + (matrix >> 1) * 8 + row, (k >> 3) + (matrix & 1)));
    else
        load_matrices_transposed(r, shared_address(tile) + chunk_offset<2, COLS>(k + (matrix & 1) * 8 + row, (line >> 3) + (matrix >> 1)));
}

template <bool KMAJOR, int COLS, int PARTS> __device__ __forceinline__ void read_b(const u8 *tile, BF16, int line, int k, unsigned (&b)[2][PARTS][2])
{
    unsigned r[4];
    read_halves<KMAJOR, COLS>(tile, line, k, r);
    b[0][0][0] = r[0];
    b[0][0][1] = r[1];
    b[1][0][0] = r[2];
    b[1][0][1] = r[3];
}

template <bool KMAJOR, int COLS, int PARTS> __device__ __forceinline__ void read_b(const u8 *tile, F16, int line, int k, unsigned (&b)[2][PARTS][2])
{
    unsigned r[4];
    read_halves<KMAJOR, COLS>(tile, line, k, r);
#pragma unroll
    for (int i = 0; i < 4; i++)
    {
        F16 low = {(u16)r[i]}, high = {(u16)(r[i] >> 16)};
        unsigned parts[PARTS];
        split(widen(low), widen(high), parts);
#pragma unroll
        for (int p = 0; p < PARTS; p++)
            b[i >> 1][p][i & 1] = parts[p];
    }
}

// ---- tiles from global memory ----

/// Stages a tile [ROWS][COLS] by all THREADS threads: source(r) gives the address of row r's element 0, or null for a row of
/// zeros; `left` elements of each row exist, what follows is 0. vector: rows start at 16 bytes; then the copies run in the
/// background (cp.async). Bytes moved: the tile's.
template <int ROWS, int COLS, int THREADS, int UNROLL = 16, typename T, typename Source>
__device__ __forceinline__ void stage_tile(u8 *tile, Source source, int left, bool vector, const T *valid)
{
    const int per = 16 / sizeof(T), chunks = COLS / per, all = ROWS * chunks;
    if (vector)
    {
#pragma unroll UNROLL
        for (int step = 0; step < (all + THREADS - 1) / THREADS; step++)
        {
            int i = step * THREADS + threadIdx.x;
            if (all % THREADS != 0 && i >= all)
                break;
            int row = i / chunks, chunk = i % chunks, col = chunk * per;
            const T *from = source(row);
            int count = from == nullptr ? 0 : larger(0, smaller(per, left - col));
            copy_async(tile + chunk_offset<sizeof(T), COLS>(row, chunk), count > 0 ? from + col : valid, count * (int)sizeof(T));
        }
        return;
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * COLS; i += THREADS)
    {
        int row = i / COLS, col = i % COLS;
        const T *from = source(row);
        T value = {};
        if (from != nullptr && col < left)
            value = from[col];
        *(T *)(tile + chunk_offset<sizeof(T), COLS>(row, col / per) + col % per * sizeof(T)) = value;
    }
}
