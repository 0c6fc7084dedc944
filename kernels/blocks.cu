// Matrices of ggml's quantised blocks (GGUF files) and of LLM.int8's rows: unpacking, look-ups, and products that decode what they read. Blocks
// need no alignment and no type of them fits sectors, so that bytes are copied to shared memory first, by 16 aligned ones each (blocks_staged.cuh),
// and decoded from there (blocks.cuh), eight neighbours a thread. The type is a number, the same in every thread. unpack_TYPE_*: one type each.
// Floor: the blocks read once and the outputs written once over the bandwidth; products as those of matmul.cu. A grid of the IQ types (1 to 16 KiB,
// from L2) is brought to shared memory once a block.
//! blocks | unpack_*_f32, unpack_*_bf16 | block 128 | grid ceil((first % 256 + count) / 4096) | shared 0 | data: the matrix's first block; elements first ... first + count - 1, first any number
//! blocks | unpack_blocks, unpack_blocks_bf16 | block 128 | grid ceil((start % 256 + count) / 4096), or fewer: a block then goes on to the next tiles | shared the grid's bytes | with a grid 8 tiles a block or so
//! blocks | lookup_blocks | block 128 | grid (rows, ceil(dim / 4096)) | shared the grid's bytes
//! blocks | matmul_blocks_nt | block 128 | grid (ceil(m / 64) * ceil(n / 64), 1) | shared 32768 + 64 * odd(piece(bytes of 256 elements, of 128 where those are more than 224)) + the grid's bytes; piece(b) = (b + 28) / 16 * 16, odd: 16 more where that is a multiple of 32 | MatMulParams (b is not read), then BlocksParams; rows are whole blocks
//! blocks | matmul_blocks_nn | block 128 | the same | shared 32768 + 32 * piece(bytes of the blocks that 64 elements lie in) + the grid's bytes | the same
//! blocks | matvec_blocks_1, _2, _4, _8 | block 256 | grid ceil(n / 16) | shared 8 * rows * S + 32 * piece(bytes of S elements) + the grid's bytes, or 8 * S for blocks of 256 without one; S = 512, of _1 1024, of _8 256 | as matvec_* of matmul.cu, then BlocksParams; rows are whole blocks
#include "blocks_staged.cuh"
#include "matmul.cuh"

// ---- unpacking ----

/// 16 bytes of shared memory in one instruction; the compiler would take them apart.
__device__ __forceinline__ void write_four(void *to, float x, float y, float z, float w)
{
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

/// A warp's room: bytes of 1024 elements, and values of 256, chunk c of four at c ^ (c / 8 % 2).
struct __align__(16) UnpackRoom
{
    float values[256];
    u8 bytes[piece_room(4 * 272)];

    __device__ __forceinline__ float &value(int i) { return values[(((i >> 2) ^ (i >> 5 & 1)) << 2) + (i & 3)]; }
};

/// y[i] = scale·element start + i for those of the warp's 1024 elements from `tile` (a multiple of 256) on that are among start … start + count − 1.
template <typename D, typename T> __device__ __forceinline__ void unpack_tile(T *y, const BlocksParams &c, UnpackRoom &room, i64 tile, i64 start, i64 count, float scale)
{
    i64 begin = tile > start ? tile : start, stop = smaller(tile + 1024, start + count);
    if (begin >= stop)
        return;
    int lane = threadIdx.x & 31, first = (int)(begin - tile), end = (int)(stop - tile), block = c.width >> (8 - c.shift);
    // Rows of int8 end anywhere, the others with a block.
    int skipped = (first >> c.shift) * block, past = c.type < 0 ? end : ((end + (1 << c.shift) - 1) >> c.shift) * block;
    u64 data = global_address(c.data), from = data + (tile >> 8) * c.width + skipped;
    stage_bytes<3, false>(room.bytes, from, past - skipped, data, Needed{});
    copy_commit();
    copy_wait<0>();
    warp_barrier();
    // Blocks lie as if the first ones were there too.
    int place = piece_start((unsigned)from) - skipped;
    bool vector = (((u64)y & 15) | ((tile - start) & 3)) == 0;
#pragma unroll 1
    for (int step = first >> 8; step * 256 < end; step++)
    {
        // Elements of this step that count, and the first's place in y.
        i64 at = tile + step * 256 - start;
        int low = first - step * 256, high = end - step * 256, own = lane * 8;
        if (c.type < 0)
        {
#pragma unroll 1
            for (int i = lane; i < 256; i += 32)
                if (i >= low && i < high)
                    room.value(i) = (float)(int)(signed char)room.bytes[place + step * 256 + i] * c.scales[(tile + step * 256 + i) / c.columns] * (1.0f / 127.0f) * scale;
        }
        else if (own + 8 > low && own < high)
        {
            float v[8];
            D::eight(v, c, room.bytes, place, step * 256 + own, make_float2(0.0f, 0.0f), dynamic_shared);
            int flip = (own >> 5) & 1;
            write_four(&room.values[((own >> 2) ^ flip) << 2], v[0] * scale, v[1] * scale, v[2] * scale, v[3] * scale);
            write_four(&room.values[(((own >> 2) + 1) ^ flip) << 2], v[4] * scale, v[5] * scale, v[6] * scale, v[7] * scale);
        }
        warp_barrier();
        if (vector && low <= 0 && high >= 256)
        {
#pragma unroll
            for (int h = 0; h < 2; h++)
            {
                int chunk = lane + h * 32;
                float4 v = read_four(&room.values[(chunk ^ ((chunk >> 3) & 1)) << 2]);
                if (sizeof(T) == 4)
                    *(float4 *)(y + at + chunk * 4) = v;
                else
                    *(uint2 *)(y + at + chunk * 4) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
            }
        }
        else
#pragma unroll 1
            for (int i = lane; i < 256; i += 32)
                if (i >= low && i < high)
                    narrow(room.value(i), y[at + i]);
        // The next step's values, or tile's bytes, go where these were read.
        warp_barrier();
    }
}

/// Tiles of 4096 elements, which the blocks with this number and stride share: tile t of them begins at start rounded down to 256.
template <typename D, typename T> __device__ __forceinline__ void unpack(T *y, const BlocksParams &c, i64 start, i64 count, float scale, unsigned first, unsigned stride)
{
    __shared__ __align__(16) UnpackRoom rooms[4];
    if (D::grid && c.grid != nullptr)
    {
        stage_grid<128>(dynamic_shared, c.grid, grid_bytes(c.type));
        copy_commit();
        copy_wait<0>();
        __syncthreads();
    }
    int warp = threadIdx.x >> 5;
#pragma unroll 1
    for (i64 tile = (start & ~(i64)255) + (i64)first * 4096; tile < start + count; tile += (i64)stride * 4096)
        unpack_tile<D>(y, c, rooms[warp], tile + warp * 1024, start, count, scale);
}

/// y[count] = elements first … of the matrix whose blocks begin at data.
template <typename B, typename T> __device__ __forceinline__ void unpack_one(T *y, const u8 *data, i64 first, i64 count)
{
    const int width = 256 / B::elements * B::bytes, shift = B::elements == 32 ? 5 : 8;
    BlocksParams c = {data, nullptr, nullptr, 0, 0, 0, width, shift};
    unpack<OneType<B>>(y, c, first, count, 1.0f, blockIdx.x, gridDim.x);
}
#define ENTRY(name, Type)                                                                                                \
    KERNEL(128) unpack_##name##_f32(float *y, const u8 *PLAIN data, i64 first, i64 count) { unpack_one<Type>(y, data, first, count); } \
    KERNEL(128) unpack_##name##_bf16(BF16 *y, const u8 *PLAIN data, i64 first, i64 count) { unpack_one<Type>(y, data, first, count); }
ENTRY(q4_0, Q4_0)
ENTRY(q4_1, Q4_1)
ENTRY(q5_0, Q5_0)
ENTRY(q5_1, Q5_1)
ENTRY(q8_0, Q8_0)
ENTRY(q2_k, Q2_K)
ENTRY(q3_k, Q3_K)
ENTRY(q4_k, Q4_K)
ENTRY(q5_k, Q5_K)
ENTRY(q6_k, Q6_K)
ENTRY(iq4_nl, IQ4_NL)
ENTRY(iq4_xs, IQ4_XS)
ENTRY(mxfp4, MXFP4)
#undef ENTRY

/// y[count] = the matrix's elements from start on.
KERNEL(128) unpack_blocks(float *y, const BlocksParams c, i64 count) { unpack<AnyType>(y, c, c.start, count, 1.0f, blockIdx.x, gridDim.x); }

/// The same rounded to bf16, for products of rounded operands.
KERNEL(128) unpack_blocks_bf16(BF16 *y, const BlocksParams c, i64 count) { unpack<AnyType>(y, c, c.start, count, 1.0f, blockIdx.x, gridDim.x); }

/// y[i, :] = scale·row ids[i] of the matrix, dim a row: an embedding. Reads a row's blocks, writes 4·dim bytes.
KERNEL(128) lookup_blocks(float *y, const BlocksParams c, const int *PLAIN ids, int dim, float scale)
{
    unpack<AnyType>(y + (i64)blockIdx.x * dim, c, c.start + (i64)ids[blockIdx.x] * dim, dim, scale, blockIdx.y, gridDim.y);
}

// ---- products of many rows ----

/// Where the bytes of a tile of W [ROWS lines][COLS elements] lie in shared memory, and how they are decoded.
template <bool TRANS_B> struct BlockTiles
{
    static const int ROWS = TRANS_B ? 64 : 32, COLS = TRANS_B ? 32 : 64;
    const MatMulParams &p;
    const BlocksParams &c;
    u8 *raw;
    const u8 *grid;
    u64 data;
    int room, block, mask, depth, col; // bytes of a line's room and of a block, its elements less 1, elements of a line that lie there (nt), the first column of C

    __device__ __forceinline__ BlockTiles(const MatMulParams &p, const BlocksParams &c, int col) : p(p), c(c), col(col)
    {
        raw = dynamic_shared + 32768;
        data = global_address(c.data);
        block = c.width >> (8 - c.shift);
        mask = (1 << c.shift) - 1;
        depth = c.width > 224 ? 128 : 256;
        // An odd number of chunks a line, so that the same byte of eight lines lies in eight banks.
        room = TRANS_B ? piece_room(c.width >> (depth == 128 ? 1 : 0)) | 16 : piece_room(larger(block, c.width >> 2));
        grid = raw + ROWS * room;
    }

    /// Address of what lies in the room of line r, which is whole blocks, for the tile from k0 of K on.
    __device__ __forceinline__ u64 from(int r, int k0) const
    {
        i64 first = c.start + (TRANS_B ? (i64)(col + r) * p.k + (k0 & ~(depth - 1)) : (i64)(k0 + r) * p.n + (col & ~mask));
        return data + (u64)(first >> c.shift) * block;
    }

    /// True where the tile from k0 on needs bytes that are not there yet.
    __device__ __forceinline__ bool begins(int k0) const { return !TRANS_B || (k0 & (depth - 1)) == 0; }

    __device__ __forceinline__ void stage(int k0) const
    {
        // 64 columns of the larger blocks are the scales and a quarter of the codes.
        int header = TRANS_B ? -1 : c.type == 12 ? 16 : c.type == 13 ? 48 : c.type == 23 ? 8 : -1;
        Needed needed = {header >= 0 ? header : 1 << 30, header + 32 * ((col & 255) >> 6), 32};
        int most = TRANS_B ? smaller(depth, p.k - k0) : smaller(larger(64, mask + 1), p.n - (col & ~mask));
        int bytes = (most >> c.shift) * block, r = threadIdx.x >> 5, lines = smaller(ROWS, TRANS_B ? p.n - col : p.k - k0);
        u64 line = from(r, k0), step = (u64)((TRANS_B ? p.k : p.n) >> c.shift) * block * 4;
        u8 *to = raw + r * room;
#pragma unroll 1
        for (; r < lines; r += 4, line += step, to += 4 * room)
            stage_bytes<1, !TRANS_B>(to, line, bytes, data, needed);
    }

    template <typename B> __device__ __forceinline__ void decode_as(u8 *tile, int k0) const
    {
        int lines = TRANS_B ? p.n - col : p.k - k0, length = TRANS_B ? p.k - k0 : p.n - col;
        // The tile's first element, counted from the first in the room.
        int first = TRANS_B ? k0 & (depth - 1) : col & mask;
        int thread = hidden((int)threadIdx.x), r = thread / (COLS / 8), k = thread % (COLS / 8) * 8, at = (first + k) / B::elements * B::bytes, i = (first + k) % B::elements / 8;
        unsigned line = (unsigned)from(r, k0), step = (unsigned)((TRANS_B ? p.k : p.n) / B::elements * B::bytes) * (128 * 8 / COLS);
#pragma unroll 1
        for (; r < ROWS; r += 128 * 8 / COLS, line += step)
        {
            float v[8];
            if (r < lines && k < length)
            {
                int where = r * room + piece_start(line) + at;
                float2 of = make_float2(0.0f, 0.0f);
                if (B::groups)
                    of = B::group(raw, where, i * B::groups / 32);
                if (B::rows)
                    of.x = c.scales[(int)(c.start / c.columns) + (TRANS_B ? col : k0) + r];
                // Where blocks are words, so is their address.
                if (B::bytes % 4 == 0)
                    B::eight(v, raw + where, 0, i, of, grid);
                else
                    B::eight(v, raw, where, i, of, grid);
            }
            else
            {
#pragma unroll
                for (int e = 0; e < 8; e++)
                    v[e] = 0.0f;
            }
            // Every other four lanes write their second half first, else eight lanes would meet in half of the banks.
            bool swap = (thread & 4) != 0;
            float4 low = make_float4(v[0], v[1], v[2], v[3]), high = make_float4(v[4], v[5], v[6], v[7]);
            *(float4 *)(tile + chunk_offset<4, COLS>(r, (k >> 2) + (swap ? 1 : 0))) = swap ? high : low;
            *(float4 *)(tile + chunk_offset<4, COLS>(r, (k >> 2) + (swap ? 0 : 1))) = swap ? low : high;
        }
    }

    __device__ __forceinline__ void decode(u8 *tile, int k0) const
    {
        switch (c.type)
        {
#define EACH(number, Type) case number: decode_as<Type>(tile, k0); break;
            FOR_EVERY_FORM(EACH)
#undef EACH
        }
    }
};

/// C = A·op(W) with W decoded into the tile, then as matmul_n?_f32: W [N, K] (TRANS_B) or [K, N], without gaps between rows, which are whole
/// blocks. Bytes of the next tiles are on their way while one is multiplied. The weight is read and decoded once for every 64 rows of A.
template <bool TRANS_B> __device__ __forceinline__ void blocks_tile(const MatMulParams &p, const BlocksParams &c)
{
    typedef Product<64, 64, 32, 32, false, TRANS_B, float, true, 2> P;
    static_assert(P::SHARED == 32768, "the launch counts on it");
    u8 *shared = dynamic_shared;
    int row, col, tiles = (p.k + P::BK - 1) / P::BK;
    tile_place<64, 64>(p.m, row, col);
    bool vectorA = rows_of_16(p.a, p.ldA, 0, 4);
    BlockTiles<TRANS_B> w(p, c, col);
    if (c.grid != nullptr)
        stage_grid<128>((u8 *)w.grid, c.grid, grid_bytes(c.type));
    typename P::Sums sums;
    P::clear(sums);
    // A turn makes the next tile ready and multiplies the one before it; the first only the former.
#pragma unroll 1
    for (int tile = -1; tile < tiles; tile++)
    {
        u8 *now = shared + (tile & 1) * P::STAGE, *then = shared + (~tile & 1) * P::STAGE;
        int next = (tile + 1) * P::BK;
        bool more = next < p.k, begins = more && w.begins(next);
        copy_wait<0>();
        __syncthreads();
        if (more)
            P::load_a(then, p.a, p.ldA, row, p.m, next, p.k, vectorA);
        if (begins)
            w.stage(next);
        copy_commit();
        if (tile >= 0)
            P::multiply(sums, now);
        if (begins)
        {
            copy_wait<0>();
            __syncthreads();
        }
        if (more)
            w.decode(then + P::A_BYTES, next);
    }
    __syncthreads();
    Epilogue out(p, 0);
    P::collect(sums, shared);
    P::each_pair(shared, [&](int r, int k, float x, float y) { out.store(row + r, col + k, x, y); });
}
KERNEL_OF(128, 2) matmul_blocks_nt(const MatMulParams p, const BlocksParams c) { blocks_tile<true>(p, c); }
KERNEL_OF(128, 2) matmul_blocks_nn(const MatMulParams p, const BlocksParams c) { blocks_tile<false>(p, c); }

// ---- products of few rows ----

/// Rows of A, and of W two a warp, in shared memory by stretches of S of K, each twice: A's 16-byte chunks c at c ^ (c / 8 % 2), the warps' bytes,
/// then the scales of groups of the stretch at hand, or the grid.
template <int ROWS> struct BlocksVector
{
    static const int OWN = 2, S = ROWS == 1 ? 1024 : ROWS == 8 ? 256 : 512, STEPS = S / 256, X = ROWS * S * 4, TURNS = (STEPS * 272 + 28 + 511) / 512;
    const MatMulParams &p;
    const BlocksParams &c;
    int lane, room;
    u8 *raw, *grid;
    float2 *scales;
    u64 data, from[OWN];
    float2 rowScale[OWN];
    float sums[OWN][ROWS];

    __device__ __forceinline__ BlocksVector(const MatMulParams &p, const BlocksParams &c, int n) : p(p), c(c)
    {
        int warp = threadIdx.x >> 5;
        lane = threadIdx.x & 31;
        room = piece_room(STEPS * c.width);
        raw = dynamic_shared + 2 * X + warp * 2 * OWN * room;
        scales = (float2 *)(dynamic_shared + 2 * X + 16 * OWN * room) + warp * OWN * STEPS * 16;
        // No type has both.
        grid = dynamic_shared + 2 * X + 16 * OWN * room;
        data = global_address(c.data);
#pragma unroll
        for (int j = 0; j < OWN; j++)
        {
            // Beyond the last row: the last, whose sum nobody stores.
            i64 first = c.start + (i64)smaller(n + j, p.n - 1) * p.k;
            from[j] = data + (u64)(first >> c.shift) * (c.width >> (8 - c.shift));
            rowScale[j] = make_float2(c.type < 0 ? c.scales[first / c.columns] : 0.0f, 0.0f);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                sums[j][r] = 0.0f;
        }
    }

    __device__ __forceinline__ void stage(int k0, int which, bool vector) const
    {
        float *x = (float *)(dynamic_shared + which * X);
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * S / 4; i += 256)
        {
            int r = i / (S / 4), chunk = i % (S / 4), k = k0 + chunk * 4;
            float *to = x + r * S + ((chunk ^ ((chunk >> 3) & 1)) << 2);
            bool inside = r < p.m && k < p.k;
            const float *a = p.a + (inside ? (i64)r * p.ldA + k : 0);
            if (vector)
                copy_async(to, a, inside ? 16 : 0);
            else
#pragma unroll 1
                for (int e = 0; e < 4; e++)
                    to[e] = inside ? a[e] : 0.0f;
        }
        int bytes = smaller(STEPS * c.width, (p.k - k0) * c.width >> 8);
#pragma unroll
        for (int j = 0; j < OWN; j++)
            stage_bytes<TURNS, false>(raw + (which * OWN + j) * room, from[j] + (u64)((k0 >> 8) * c.width), bytes, data, Needed{});
    }

    /// sums += A · the weights of a lane's eight k, for rows of A from R on; a and b: addresses of the halves of the first row's.
    template <int R, int OFFSET> __device__ __forceinline__ void add(unsigned a, unsigned b, const float (&weights)[OWN][8])
    {
        float x[8];
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4+%5];" : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]) : "r"(a), "n"(R * S * 4 + OFFSET) : "memory");
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4+%5];" : "=f"(x[4]), "=f"(x[5]), "=f"(x[6]), "=f"(x[7]) : "r"(b), "n"(R * S * 4 + OFFSET) : "memory");
#pragma unroll
        for (int j = 0; j < OWN; j++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                sums[j][R] = fma(x[e], weights[j][e], sums[j][R]);
        if constexpr (R + 1 < ROWS)
            add<R + 1, OFFSET>(a, b, weights);
    }

    template <typename B> __device__ __forceinline__ void decode(float (&weights)[OWN][8], const int (&place)[OWN], int step, int lane) const
    {
        const int width = 256 / B::elements * B::bytes;
        int block = lane * 8 / B::elements * B::bytes, eight = lane * 8 % B::elements / 8;
#pragma unroll
        for (int j = 0; j < OWN; j++)
        {
            float2 of = B::groups ? scales[(j * STEPS + step) * B::groups + eight * B::groups / 32] : rowScale[j];
            // Words of an address go to the pointer, where they cost nothing.
            if (B::bytes % 4 == 0)
                B::eight(weights[j], raw + place[j] + block + step * width, 0, eight, of, grid);
            else if (width % 4 == 0)
                B::eight(weights[j], raw + step * width, place[j] + block, eight, of, grid);
            else
                B::eight(weights[j], raw, place[j] + block + step * width, eight, of, grid);
        }
    }

    template <typename B, int STEP> __device__ __forceinline__ void steps(unsigned a, unsigned b, const int (&place)[OWN], int length, int lane)
    {
        if (STEP * 256 + lane * 8 >= length)
            return;
        float weights[OWN][8];
        decode<B>(weights, place, STEP, lane);
        add<0, STEP * 1024>(a, b, weights);
        if constexpr (STEP + 1 < STEPS)
            steps<B, STEP + 1>(a, b, place, length, lane);
    }

    /// Scales number `to` of the stretch, of block `step` of a row.
    template <typename B> __device__ __forceinline__ void group(int to, int place, int step, int length)
    {
        if (step * 256 < length)
            scales[to] = B::group(raw, place + step * B::bytes, to % (B::groups + !B::groups));
    }

    /// The stretch of `length` elements whose bytes begin at `place`: scales of groups once each, by lanes, then a step for every 256.
    template <typename B> __device__ __forceinline__ void stretch(unsigned a, unsigned b, const int (&place)[OWN], int length)
    {
        int lane = hidden(this->lane);
        if (B::groups)
        {
            const int each = STEPS * B::groups;
            if (each >= 32)
#pragma unroll
                for (int j = 0; j < OWN; j++)
#pragma unroll
                    for (int g = 0; g < each; g += 32)
                        group<B>(j * each + g + lane, place[j], (g + lane) / (B::groups + !B::groups), length);
            else
#pragma unroll 1
                for (int g = lane; g < OWN * each; g += 32)
                    group<B>(g, g < each ? place[0] : place[OWN - 1], g / (B::groups + !B::groups) % STEPS, length);
            warp_barrier();
        }
        if constexpr (ROWS <= 2)
            steps<B, 0>(a, b, place, length, lane);
        else
#pragma unroll 1
            for (int step = 0; step < STEPS && step * 256 + lane * 8 < length; step++)
            {
                float weights[OWN][8];
                decode<B>(weights, place, step, lane);
                add<0, 0>(a + step * 1024, b + step * 1024, weights);
            }
    }

    /// The same of the rarer types.
    __device__ __forceinline__ void stretch_of_any(unsigned a, unsigned b, const int (&place)[OWN], int length)
    {
#pragma unroll 1
        for (int k = lane * 8; k < length; k += 256, a += 1024, b += 1024)
        {
            float weights[OWN][8];
#pragma unroll
            for (int j = 0; j < OWN; j++)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    weights[j][e] = 0.0f;
            int at = hidden(k);
            switch (hidden(c.type))
            {
#define EACH(number, Type)                                                                                               \
    case number:                                                                                                         \
        OneType<Type>::eight(weights[0], c, raw, place[0], at, rowScale[0], grid);                                        \
        OneType<Type>::eight(weights[OWN - 1], c, raw, place[OWN - 1], at, rowScale[OWN - 1], grid);                      \
        break;
                FOR_RARE_TYPES(EACH) EACH(-1, Int8)
#undef EACH
            }
            add<0, 0>(a, b, weights);
        }
    }
};

/// C[m, n] = A·Wᵀ for m ≤ ROWS, as matvec_* of matmul.cu: the same bits, as a lane has the same terms in the same order. A warp owns two rows of W.
/// A stretch of A and of W is copied while the one before is multiplied. Reads W once and 4·m·K bytes for every 16 of its rows.
template <int ROWS> __device__ __forceinline__ void blocks_matvec(const MatMulParams &p, const BlocksParams &c)
{
    typedef BlocksVector<ROWS> V;
    int n = blockIdx.x * 16 + (threadIdx.x >> 5) * V::OWN;
    bool vector = rows_of_16(p.a, p.ldA, 0, 4);
    V v(p, c, n);
    if (c.grid != nullptr)
        stage_grid<256>(v.grid, c.grid, grid_bytes(c.type));
    // A turn has the next stretch copied and multiplies the one before it; the first only the former.
#pragma unroll 1
    for (int k0 = -V::S, which = 1; k0 < p.k; k0 += V::S, which ^= 1)
    {
        copy_wait<0>();
        __syncthreads();
        if (k0 + V::S < p.k)
            v.stage(k0 + V::S, which ^ 1, vector);
        copy_commit();
        if (k0 < 0)
            continue;
        int place[V::OWN];
#pragma unroll
        for (int j = 0; j < V::OWN; j++)
            place[j] = (which * V::OWN + j) * v.room + piece_start((unsigned)v.from[j] + (k0 >> 8) * c.width);
        // A lane's eight k are two chunks of A's rows.
        int flip = (v.lane >> 2) & 1;
        unsigned x = shared_address(dynamic_shared) + which * V::X, a = x + (((2 * v.lane) ^ flip) << 4), b = x + (((2 * v.lane + 1) ^ flip) << 4);
        int length = smaller(V::S, p.k - k0);
        switch (hidden(c.type))
        {
#define EACH(number, Type) case number: v.template stretch<Type>(a, b, place, length); break;
            FOR_COMMON_TYPES(EACH)
#undef EACH
        default:
            v.stretch_of_any(a, b, place, length);
        }
    }
    Epilogue out(p, 0);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < V::OWN; j++)
        {
            float s = warp_sum(v.sums[j][r]);
            if (v.lane == 0 && r < p.m && n + j < p.n)
            {
                i64 at = (i64)r * p.ldC + n + j;
                out.c[at] = out.finish(s, at, n + j);
            }
        }
}
KERNEL_OF(256, 2) matvec_blocks_1(const MatMulParams p, const BlocksParams c) { blocks_matvec<1>(p, c); }
KERNEL_OF(256, 2) matvec_blocks_2(const MatMulParams p, const BlocksParams c) { blocks_matvec<2>(p, c); }
KERNEL_OF(256, 2) matvec_blocks_4(const MatMulParams p, const BlocksParams c) { blocks_matvec<4>(p, c); }
KERNEL_OF(256, 2) matvec_blocks_8(const MatMulParams p, const BlocksParams c) { blocks_matvec<8>(p, c); }
