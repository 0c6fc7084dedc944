// Products with a weight that is decoded into the tile, or into registers where rows are few; quantised.cu has them.
// A weight W has eight(v, i, n): its elements i ... i + n − 1 (1 ≤ n ≤ 8, i a multiple of 8 from a row's start), zeros after them.
#pragma once
#include "matmul.cuh"

/// Stages an fp32 tile [ROWS][COLS] of the decoded matrix: row r of the tile is row `row + r` of the matrix [rows, length], from
/// element `col` on; zeros outside.
template <int ROWS, int COLS, int THREADS, typename W> __device__ __forceinline__ void stage_packed(u8 *tile, const W &w, int row, int rows, int col, int length)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * COLS / 8; i += THREADS)
    {
        int r = i / (COLS / 8), k = i % (COLS / 8) * 8;
        float v[8];
        if (row + r < rows && col + k < length)
            w.eight(v, (i64)(row + r) * length + col + k, smaller(8, length - col - k));
        else
        {
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = 0.0f;
        }
        // Every other four lanes write their second half first, else eight lanes would meet in half of the banks.
        bool swap = (i & 4) != 0;
        float4 low = make_float4(v[0], v[1], v[2], v[3]), high = make_float4(v[4], v[5], v[6], v[7]);
        *(float4 *)(tile + chunk_offset<4, COLS>(r, (k >> 2) + (swap ? 1 : 0))) = swap ? high : low;
        *(float4 *)(tile + chunk_offset<4, COLS>(r, (k >> 2) + (swap ? 0 : 1))) = swap ? low : high;
    }
}

/// How a tile of W is staged for Product::run.
template <bool TRANS_B, int THREADS, typename W> struct PackedTiles
{
    const MatMulParams &p;
    const W &w;
    int col;

    __device__ __forceinline__ void operator()(u8 *to, int k0) const
    {
        if (TRANS_B)
            stage_packed<64, 32, THREADS>(to, w, col, p.n, k0, p.k);
        else
            stage_packed<32, 64, THREADS>(to, w, k0, p.k, col, p.n);
    }
};

/// Shared memory of a product with a packed weight.
const int PackedShared = 32768;

/// C = A·op(W) with W decoded into the tile, then as matmul_n?_f32: W [N, K] (TRANS_B) or [K, N], both without gaps between rows;
/// with TERM also the low-rank term of matmul_term_f32. The weight is decoded once for every 64 rows of A: by tiles(col), whose (to, k0)
/// stages the tile of the columns of C from col on. shared: PackedShared bytes.
template <bool TRANS_B, bool TERM, typename Tiles> __device__ __forceinline__ void packed_tile_of(const MatMulParams &p, u8 *shared, Tiles tiles)
{
    typedef Product<64, 64, 32, 32, false, TRANS_B, float, true, 2> P;
    static_assert(P::SHARED == PackedShared, "two stages of both operands");
    int row, col;
    tile_place<64, 64>(p.m, row, col);
    bool vectorA = rows_of_16(p.a, p.ldA, 0, 4);
    typename P::Sums sums;
    P::clear(sums);
    P::run(
        sums, shared, p.k, [&](u8 *to, int k0) { P::load_a(to, p.a, p.ldA, row, p.m, k0, p.k, vectorA); },
        tiles(col));
    if (TERM)
    {
        typename P::Sums term;
        P::clear(term);
        bool vectorZ = rows_of_16(p.termA, p.rank, 0, 4), vectorU = rows_of_16(p.termB, p.rank, 0, 4);
        P::run(
            term, shared, p.rank, [&](u8 *to, int k0) { P::load_a(to, p.termA, p.rank, row, p.m, k0, p.rank, vectorZ); },
            [&](u8 *to, int k0) { P::load_b(to, p.termB, p.rank, col, p.n, k0, p.rank, vectorU); });
#pragma unroll
        for (int i = 0; i < P::MT; i++)
#pragma unroll
            for (int j = 0; j < P::NT; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sums[i][j][e] += term[i][j][e];
    }
    Epilogue out(p, 0);
    P::collect(sums, shared);
    P::each_pair(shared, [&](int r, int k, float x, float y) { out.store(row + r, col + k, x, y); });
}

template <bool TRANS_B, bool TERM, typename W> __device__ __forceinline__ void packed_tile(const MatMulParams &p, const W &w)
{
    __shared__ __align__(16) u8 shared[PackedShared];
    packed_tile_of<TRANS_B, TERM>(p, shared, [&](int col) { return PackedTiles<TRANS_B, 128, W>{p, w, col}; });
}

/// What packed_matvec reads of row n. A structure, as the body of a lambda may stay a call of its own.
template <typename W> struct PackedRows
{
    const MatMulParams &p;
    const W &w;

    __device__ __forceinline__ void operator()(float (&v)[8], int n, int k, int end) const
    {
        if (n < p.n)
        {
            w.eight(v, (i64)n * p.k + k, smaller(8, end - k));
            return;
        }
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = 0.0f;
    }
};

/// C[m, n] = A·Wᵀ for m ≤ ROWS with W [N, K], as matvec_* of matmul.cu: the same bits. A warp owns OWN rows of W. Reads W once and
/// 4·m·K bytes for every 8·OWN of its rows.
template <int ROWS, int OWN, typename W> __device__ __forceinline__ void packed_matvec(const MatMulParams &p, const W &w)
{
    __shared__ __align__(16) float x[ROWS][MatvecStretch];
    matvec_rows<ROWS, OWN>(p, x, blockIdx.x * 8 * OWN, PackedRows<W>{p, w});
}
