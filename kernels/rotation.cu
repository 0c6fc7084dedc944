// Rotations from skew-symmetric matrices, in batches of small n×n matrices (n ≤ 512) with double arithmetic inside, as on the
// CPU: skew parts, the Cayley transform and the matrix exponential with their backward passes. A matrix belongs to a block.
// Floor: 4·n² bytes in and out a matrix; 2·n³ fp64 FMA for Cayley, 2·n³ for its backward pass, over the device's rates. At the sizes of
// adapters (n = 64 … 256, hundreds of matrices) all of them run side by side and one step of elimination is a few barriers long.
//! rotation | skew | block 256 | grid (ceil(n / 32) * ceil(n / 32), batch) | shared 0
//! rotation | cayley_forward_shared | block 256 | grid batch | shared 8 * (n + 1) * (n | 1) | with 2 KiB of its own: n <= 110 fits every device (99 KiB), n <= 143 sm_80 (163 KiB), n <= 169 sm_90 (227 KiB)
//! rotation | cayley_forward_global | block 256 | grid batch | shared 16 * (n | 1) * (n <= 176 ? 32 : n <= 352 ? 16 : 8) | work: 8 * n * n * batch bytes
//! rotation | cayley_backward_first, cayley_backward_second | block 256 | grid (ceil(n / 32) * ceil(n / 32), batch) | shared 0 | work: 8 * n * n * batch bytes; first, then second
//! rotation | matrix_exp_forward_side | block 256 | grid batch | shared 65536 | n <= 64; work: 32 * n * n * batch bytes
//! rotation | matrix_exp_backward_side | block 256 | grid batch | shared 131072 | n <= 64; work: 64 * n * n * batch bytes
//! rotation | matrix_exp_forward | block 256 | grid batch | shared 0 | work: 48 * n * n * batch bytes
//! rotation | matrix_exp_backward | block 256 | grid batch | shared 0 | work: 96 * n * n * batch bytes
#include "math.cuh"

/// Largest matrix, and the largest of which a block's shared memory could hold the doubles (227 KiB).
const int LargestRotation = 512, LargestShared = 176;

/// a = p − pᵀ (a += with accumulate) of each matrix, by tiles of 32×32. Reads 8·n² bytes (12 with accumulate), writes 4·n².
KERNEL(256) skew(float *a, const float *PLAIN p, int n, int accumulate)
{
    __shared__ float tile[32][33];
    int tiles = (n + 31) >> 5, top = (blockIdx.x / tiles) * 32, left = (blockIdx.x % tiles) * 32;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    i64 start = (i64)blockIdx.y * n * n;
    for (int i = warp; i < 32; i += 8)
        if (left + i < n && top + lane < n)
            tile[i][lane] = p[start + (i64)(left + i) * n + top + lane];
    __syncthreads();
    for (int i = warp; i < 32; i += 8)
        if (top + i < n && left + lane < n)
        {
            i64 at = start + (i64)(top + i) * n + left + lane;
            float difference = p[at] - tile[lane][i];
            a[at] = accumulate ? a[at] + difference : difference;
        }
}

__device__ __forceinline__ double warp_max_double(double x)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
    {
        double other = shuffle_xor(x, mask);
        x = x > other || x != x ? x : other;
    }
    return x;
}

/// Largest over the block, NaN where a thread has one.
__device__ __forceinline__ double block_max_double(double x, double *room)
{
    x = warp_max_double(x);
    if ((threadIdx.x & 31) == 0)
        room[threadIdx.x >> 5] = x;
    __syncthreads();
    double most = room[0];
    for (int i = 1; i < 8; i++)
        most = most > room[i] || most != most ? most : room[i];
    __syncthreads();
    return most;
}

// ---- Cayley: r = (I − x)⁻¹(I + x) = 2(I − x)⁻¹ − I ----
// I − x is inverted in place by Gauss and Jordan's elimination with partial pivoting, so that both sides of the solve come from one
// elimination. Columns lie one after the other in shared memory, an odd number of doubles apart: a warp owns a column, lanes its rows, and
// no access has a bank conflict. status 1: a pivot is not above n·2⁻⁵²·max|I − x| or not a number (no such x is skew-symmetric); r is
// then left alone.

struct EliminationRoom
{
    double maxima[32], inverses[32], pivot;
    int pivotRow;
};

/// The first of the largest |column[i]|, i from k on below n, by one warp; the same in every lane.
__device__ __forceinline__ int pivot_of(const double *column, int k, int n)
{
    double best = -1.0;
    int at = k;
    for (int i = k + (threadIdx.x & 31); i < n; i += 32)
    {
        double size = absolute(column[i]);
        if (size > best)
        {
            best = size;
            at = i;
        }
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
    {
        double other = shuffle_xor(best, mask);
        int otherAt = shuffle_xor(at, mask);
        if (other > best || (other == best && otherAt < at))
        {
            best = other;
            at = otherAt;
        }
    }
    return at;
}

/// A step of the elimination of one column, by a warp: rows k and p change places, row k is divided by the pivot, every other row loses its
/// factor times it. OWN: the pivot's column itself, which becomes the inverse's.
template <bool OWN> __device__ __forceinline__ void eliminate(double *column, const double *factors, double inverse, int k, int p, int n)
{
    double moved = OWN ? inverse : column[p] * inverse, old = column[k];
    warp_barrier();
    for (int i = threadIdx.x & 31; i < n; i += 32)
        column[i] = i == k ? moved : fma(-factors[i], moved, OWN ? 0.0 : i == p ? old : column[i]);
    warp_barrier();
}

/// Eliminates columns k0 … k0 + steps − 1, which lie in the tile; their factors are left at factors + step·apart, the exchanges in
/// exchanged[k]. False, in every thread, where a pivot is too small. Begins after a barrier and ends with one.
__device__ __forceinline__ bool eliminate_panel(double *tile, int ld, double *factors, int apart, int k0, int steps, int n, double smallest, int *exchanged, bool keepInverses, EliminationRoom &room)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int s = 0; s < steps; s++)
    {
        int k = k0 + s;
        double *column = tile + s * ld, *factor = factors + s * apart;
        if (warp == 0)
        {
            int p = pivot_of(column, k, n);
            double old = column[k];
            warp_barrier();
            for (int i = lane; i < n; i += 32)
            {
                double value = column[i];
                factor[i] = i == p ? old : value;
            }
            if (lane == 0)
            {
                room.pivotRow = exchanged[k] = p;
                room.pivot = column[p];
            }
        }
        __syncthreads();
        int p = room.pivotRow;
        double pivot = room.pivot, inverse = 1.0 / pivot;
        if (!(absolute(pivot) > smallest))
            return false;
        if (keepInverses && threadIdx.x == 0)
            room.inverses[s] = inverse;
        for (int c = warp; c < steps; c += 8)
        {
            if (c == s)
                eliminate<true>(column, factor, inverse, k, p, n);
            else
                eliminate<false>(tile + c * ld, factor, inverse, k, p, n);
        }
        __syncthreads();
    }
    return true;
}

/// The smallest pivot allowed, where `largest` is a thread's largest element.
__device__ __forceinline__ double smallest_pivot(double largest, int n, EliminationRoom &room) { return (double)n * 2.220446049250313e-16 * block_max_double(largest, room.maxima); }

/// The whole matrix in shared memory: n columns, and one of factors behind them. Reads and writes 4·n² bytes.
KERNEL_OF(256, 2) cayley_forward_shared(float *result, const float *PLAIN input, int *status, int n)
{
    __shared__ EliminationRoom room;
    __shared__ int exchanged[LargestShared];
    i64 start = (i64)blockIdx.x * n * n;
    const float *x = input + start;
    float *r = result + start;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, ld = n | 1;
    double *a = (double *)dynamic_shared, largest = 0.0;
    for (int i = warp; i < n; i += 8)
        for (int j = lane; j < n; j += 32)
        {
            double value = (i == j ? 1.0 : 0.0) - (double)x[i * n + j], size = absolute(value);
            a[j * ld + i] = value;
            largest = largest > size || largest != largest ? largest : size;
        }
    double smallest = smallest_pivot(largest, n, room);
    if (!eliminate_panel(a, ld, a + n * ld, 0, 0, n, n, smallest, exchanged, false, room))
    {
        if (threadIdx.x == 0)
            status[blockIdx.x] = 1;
        return;
    }
    // The exchanges of rows are exchanges of the inverse's columns, undone from the last on.
    if ((int)threadIdx.x < n)
        for (int k = n - 1; k >= 0; k--)
        {
            double *to = a + k * ld + threadIdx.x, *from = a + exchanged[k] * ld + threadIdx.x, kept = *to;
            *to = *from;
            *from = kept;
        }
    __syncthreads();
    for (int i = warp; i < n; i += 8)
        for (int j = lane; j < n; j += 32)
            r[i * n + j] = (float)(2.0 * a[j * ld + i] - (i == j ? 1.0 : 0.0));
    if (threadIdx.x == 0)
        status[blockIdx.x] = 0;
}

/// Columns that are eliminated together where the matrix stays in global memory: with as many factors they fit 99 KiB of shared memory.
__device__ __forceinline__ int panel_of(int n) { return n <= 176 ? 32 : n <= 352 ? 16 : 8; }

/// As cayley_forward_shared, the same bits, of a matrix in global memory: columns are eliminated by panels in shared memory, whose factors and
/// exchanges then go over the other columns, a panel of them at a time. Reads and writes 16·n² bytes a panel, 24·n² before and after.
KERNEL_OF(256, 2) cayley_forward_global(float *result, const float *PLAIN input, double *work, int *status, int n)
{
    __shared__ EliminationRoom room;
    __shared__ int exchanged[LargestRotation];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, width = panel_of(n), ld = n | 1;
    i64 start = (i64)blockIdx.x * n * n;
    const float *x = input + start;
    float *r = result + start;
    double *a = work + start, *tile = (double *)dynamic_shared, *factors = tile + width * ld, largest = 0.0;
    for (int i = warp; i < n; i += 8)
        for (int j = lane; j < n; j += 32)
        {
            double value = (i == j ? 1.0 : 0.0) - (double)x[i * n + j], size = absolute(value);
            a[i * n + j] = value;
            largest = largest > size || largest != largest ? largest : size;
        }
    double smallest = smallest_pivot(largest, n, room);
    // Columns from `first` on between memory and the tile.
    auto columns = [&](int first, bool read) {
        for (int e = threadIdx.x; e < n * width; e += 256)
        {
            int i = e / width, c = e - i * width;
            if (first + c < n)
            {
                if (read)
                    tile[c * ld + i] = a[i * n + first + c];
                else
                    a[i * n + first + c] = tile[c * ld + i];
            }
        }
        __syncthreads();
    };
    for (int k0 = 0; k0 < n; k0 += width)
    {
        int steps = smaller(width, n - k0);
        columns(k0, true);
        if (!eliminate_panel(tile, ld, factors, ld, k0, steps, n, smallest, exchanged, true, room))
        {
            if (threadIdx.x == 0)
                status[blockIdx.x] = 1;
            return;
        }
        columns(k0, false);
        for (int first = 0; first < n; first += width)
        {
            if (first == k0)
                continue;
            columns(first, true);
            for (int c = warp; c < width && first + c < n; c += 8)
                for (int s = 0; s < steps; s++)
                    eliminate<false>(tile + c * ld, factors + s * ld, room.inverses[s], k0 + s, exchanged[k0 + s], n);
            __syncthreads();
            columns(first, false);
        }
    }
    // As above, by rows.
    for (int top = 0; top < n; top += 2 * width)
    {
        int rows = smaller(2 * width, n - top);
        for (int i = warp; i < rows; i += 8)
            for (int j = lane; j < n; j += 32)
                tile[i * ld + j] = a[(top + i) * n + j];
        __syncthreads();
        if ((int)threadIdx.x < rows)
            for (int k = n - 1; k >= 0; k--)
            {
                double *line = tile + threadIdx.x * ld, kept = line[k];
                line[k] = line[exchanged[k]];
                line[exchanged[k]] = kept;
            }
        __syncthreads();
        for (int i = warp; i < rows; i += 8)
            for (int j = lane; j < n; j += 32)
                r[(top + i) * n + j] = (float)(2.0 * tile[i * ld + j] - (top + i == j ? 1.0 : 0.0));
        __syncthreads();
    }
    if (threadIdx.x == 0)
        status[blockIdx.x] = 0;
}

/// A tile of 16·EACH × 16·EACH of Σ_k left(i, k)·right(k, j), EACH × EACH elements a thread, given to store(i, j, sum). LEFT_DOWN: left's
/// neighbours in memory are those of i, else of k; RIGHT_DOWN: right's are those of k, else of j.
template <int EACH, bool LEFT_DOWN, bool RIGHT_DOWN, typename Left, typename Right, typename Store> __device__ __forceinline__ void product_tile(int n, int top, int leftCol, Left left, Right right, Store store)
{
    const int side = 16 * EACH;
    __shared__ double a[side][17], b[16][side + 1];
    int x = threadIdx.x & 15, y = threadIdx.x >> 4;
    double sums[EACH][EACH];
#pragma unroll
    for (int u = 0; u < EACH; u++)
#pragma unroll
        for (int v = 0; v < EACH; v++)
            sums[u][v] = 0.0;
    for (int k0 = 0; k0 < n; k0 += 16)
    {
        for (int e = threadIdx.x; e < side * 16; e += 256)
        {
            int i = LEFT_DOWN ? e % side : e >> 4, k = LEFT_DOWN ? e / side : e & 15;
            a[i][k] = top + i < n && k0 + k < n ? left(top + i, k0 + k) : 0.0;
            int j = RIGHT_DOWN ? e >> 4 : e % side, l = RIGHT_DOWN ? e & 15 : e / side;
            b[l][j] = k0 + l < n && leftCol + j < n ? right(k0 + l, leftCol + j) : 0.0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k++)
#pragma unroll
            for (int u = 0; u < EACH; u++)
#pragma unroll
                for (int v = 0; v < EACH; v++)
                    sums[u][v] = fma(a[y + u * 16][k], b[k][x + v * 16], sums[u][v]);
        __syncthreads();
    }
#pragma unroll
    for (int u = 0; u < EACH; u++)
#pragma unroll
        for (int v = 0; v < EACH; v++)
            if (top + y + u * 16 < n && leftCol + x + v * 16 < n)
                store(top + y + u * 16, leftCol + x + v * 16, sums[u][v]);
}

/// work = ½(r + I)ᵀ·dr. With cayley_backward_second: dx += ½(r + I)ᵀ·dr·(r + I)ᵀ, since (I − x)⁻¹ = (r + I)/2.
/// Reads 8·n² bytes a matrix and row of tiles, writes 8·n².
KERNEL_OF(256, 4) cayley_backward_first(double *work, const float *PLAIN dr, const float *PLAIN r, int n)
{
    int tiles = (n + 31) >> 5;
    i64 start = (i64)blockIdx.y * n * n;
    product_tile<2, true, false>(
        n, (blockIdx.x / tiles) * 32, (blockIdx.x % tiles) * 32, [&](int i, int k) { return (double)r[start + (i64)k * n + i] + (i == k ? 1.0 : 0.0); },
        [&](int k, int j) { return (double)dr[start + (i64)k * n + j]; }, [&](int i, int j, double sum) { work[start + (i64)i * n + j] = 0.5 * sum; });
}
/// dx += work·(r + I)ᵀ. Reads 12·n² bytes a matrix and row of tiles, writes 4·n².
KERNEL_OF(256, 4) cayley_backward_second(float *dx, const double *PLAIN work, const float *PLAIN r, int n)
{
    int tiles = (n + 31) >> 5;
    i64 start = (i64)blockIdx.y * n * n;
    product_tile<2, false, true>(
        n, (blockIdx.x / tiles) * 32, (blockIdx.x % tiles) * 32, [&](int i, int k) { return work[start + (i64)i * n + k]; },
        [&](int k, int j) { return (double)r[start + (i64)j * n + k] + (j == k ? 1.0 : 0.0); }, [&](int i, int j, double sum) { dx[start + (i64)i * n + j] += (float)sum; });
}

// ---- the exponential ----
// Scaling and squaring of a Taylor polynomial as in LinearAlgebra/MatrixExponential.cs (Higham, Functions of Matrices, chapter
// 10): degree q·t evaluated as one of degree t in x^q, with the fewest products for which the first neglected term is below 2⁻⁵³.

/// c = a·b, or c += a·b, [n, n] in double, by the whole block; ends with a barrier.
__device__ __forceinline__ void block_product(double *c, const double *a, const double *b, int n, int accumulate)
{
    for (int top = 0; top < n; top += 64)
        for (int left = 0; left < n; left += 64)
            product_tile<4, false, false>(
                n, top, left, [&](int i, int k) { return a[(i64)i * n + k]; }, [&](int k, int j) { return b[(i64)k * n + j]; },
                [&](int i, int j, double sum) { c[(i64)i * n + j] = accumulate ? c[(i64)i * n + j] + sum : sum; });
    __syncthreads();
}

/// coefficients[j] = 1/(first + j)! for j < count, else 0.
__device__ __forceinline__ void taylor(double (&coefficients)[5], int first, int count)
{
    double f = 1.0;
    for (int i = 2; i <= first; i++)
        f /= (double)i;
#pragma unroll
    for (int j = 0; j < 5; j++)
    {
        if (j > 0)
            f /= (double)(first + j > 0 ? first + j : 1);
        coefficients[j] = j < count ? f : 0.0;
    }
}
/// Element i of Σ_{j < count} coefficients[j]·matrix_j, where matrix_0 is the identity (absent in a tangent) and matrix_j = m1 + (j − 1)·size.
__device__ __forceinline__ double polynomial_at(const double (&coefficients)[5], const double *m1, i64 size, int count, bool diagonal, i64 i)
{
    double sum = coefficients[1] * m1[i];
    if (count > 2)
        sum = fma(coefficients[2], m1[size + i], sum);
    if (count > 3)
        sum = fma(coefficients[3], m1[2 * size + i], sum);
    if (count > 4)
        sum = fma(coefficients[4], m1[3 * size + i], sum);
    return diagonal ? sum + coefficients[0] : sum;
}
/// to = that polynomial of 1/(first + j)!.
__device__ __forceinline__ void block_polynomial(double *to, const double *m1, i64 size, int first, int count, int identity, int n)
{
    double coefficients[5];
    taylor(coefficients, first, count);
    for (int i = threadIdx.x; i < n * n; i += 256)
        to[i] = polynomial_at(coefficients, m1, size, count, identity && i % (n + 1) == 0, i);
    __syncthreads();
}

/// q, t and the number of squarings for x, rows ld apart; false where x is not finite.
__device__ __forceinline__ bool plan(const double *x, int ld, int n, double *room, int &power, int &terms, int &squarings)
{
    double largest = 0.0;
    for (int j = threadIdx.x; j < n; j += 256)
    {
        double sum = 0.0;
        for (int i = 0; i < n; i++)
            sum += absolute(x[(i64)i * ld + j]);
        largest = largest > sum || largest != largest ? largest : sum;
    }
    double norm = block_max_double(largest, room);
    if (!(norm < double_of(0x7FF0000000000000LL)))
        return false;
    int fewest = 0x7FFFFFFF;
#pragma unroll
    for (int candidate = 0; candidate < 5; candidate++)
    {
        // (2⁻⁵³·(q·t + 1)!)^(1/(q·t)).
        int q = candidate == 0 ? 2 : candidate < 3 ? 3 : 4, t = candidate < 2 ? 2 : candidate < 4 ? 3 : 4, s = 0;
        double theta = candidate == 0 ? 0.00033974092818771245 : candidate == 1 ? 0.009077650565872676 : candidate == 2 ? 0.09039207636193984 : candidate == 3 ? 0.3066485241576151 : 0.8171088636385498;
        for (double scaled = norm; scaled > theta; scaled *= 0.5)
            s++;
        if (q + t - 2 + s < fewest)
        {
            fewest = q + t - 2 + s;
            power = q;
            terms = t;
            squarings = s;
        }
    }
    return true;
}

__device__ __forceinline__ double inverse_power_of_two(int s) { return double_of((i64)(1023 - s) << 52); }

// Matrices of up to 64 × 64, with zeros around, in shared memory: 32 KiB each. A thread has 16 elements of a product in registers, at
// y + 16u, x + 16v; operands are read along rows, or one word for all lanes, free of bank conflicts. Sums are those of block_product.

const int Side = 64, SideSize = Side * Side;

__device__ __forceinline__ void side_product(double (&sums)[4][4], const double *a, const double *b, int n)
{
    a += (threadIdx.x >> 4) * Side;
    b += threadIdx.x & 15;
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int v = 0; v < 4; v++)
            sums[u][v] = 0.0;
#pragma unroll 2
    for (int k = 0; k < n; k++)
    {
        double left[4], right[4];
#pragma unroll
        for (int u = 0; u < 4; u++)
        {
            left[u] = a[u * 16 * Side + k];
            right[u] = b[k * Side + u * 16];
        }
#pragma unroll
        for (int u = 0; u < 4; u++)
#pragma unroll
            for (int v = 0; v < 4; v++)
                sums[u][v] = fma(left[u], right[v], sums[u][v]);
    }
}
/// sums = visit(sums, i, j) of the thread's elements inside of n × n.
template <typename Visit> __device__ __forceinline__ void side_each(double (&sums)[4][4], int n, Visit visit)
{
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int v = 0; v < 4; v++)
        {
            int i = (threadIdx.x >> 4) + u * 16, j = (threadIdx.x & 15) + v * 16;
            if (i < n && j < n)
                sums[u][v] = visit(sums[u][v], i, j);
        }
}
/// to = the block's elements.
__device__ __forceinline__ void side_store(double *to, const double (&sums)[4][4])
{
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int v = 0; v < 4; v++)
            to[((threadIdx.x >> 4) + u * 16) * Side + (threadIdx.x & 15) + v * 16] = sums[u][v];
}
/// sums += the polynomial's elements, added from the left.
__device__ __forceinline__ void side_polynomial(double (&sums)[4][4], const double *m1, i64 size, int first, int count, bool identity, int n)
{
    double coefficients[5];
    taylor(coefficients, first, count);
    side_each(sums, n, [&](double sum, int i, int j) { return polynomial_at(coefficients, m1, size, count, identity && i == j, (i64)i * n + j) + sum; });
}
__device__ __forceinline__ void side_add(double (&sums)[4][4], const double (&more)[4][4])
{
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int v = 0; v < 4; v++)
            sums[u][v] += more[u][v];
}
__device__ __forceinline__ void side_clear(double (&sums)[4][4])
{
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int v = 0; v < 4; v++)
            sums[u][v] = 0.0;
}

/// matrix_exp_forward for n ≤ 64, the same bits: both operands of a product lie in shared memory, so that squarings ask nothing of the device's,
/// and the powers of x, which the polynomials read element by element, in work: 4·n² doubles a matrix. Reads 4·n² bytes and 8·n² for
/// each term of a polynomial, writes 8·n² for each power (2 to 4) and 4·n².
KERNEL_OF(256, 1) matrix_exp_forward_side(float *r, const float *PLAIN x, double *work, int *status, int n)
{
    __shared__ double room[32];
    i64 size = (i64)n * n, start = blockIdx.x * size;
    double *powers = work + 4 * start, *now = (double *)dynamic_shared, *last = now + SideSize, sums[4][4];
    side_clear(sums);
    side_each(sums, n, [&](double, int i, int j) { return (double)x[start + (i64)i * n + j]; });
    side_store(now, sums);
    __syncthreads();
    int power, terms, squarings;
    bool finite = plan(now, Side, n, room, power, terms, squarings);
    if (threadIdx.x == 0)
        status[blockIdx.x] = finite ? 0 : 1;
    if (!finite)
        return;
    auto keep = [&](int j) {
        side_each(sums, n, [&](double sum, int i, int k) { return powers[j * size + (i64)i * n + k] = sum; });
        side_store(now, sums);
        __syncthreads();
    };
    side_each(sums, n, [&](double sum, int, int) { return sum * inverse_power_of_two(squarings); });
    side_store(last, sums);
    keep(0);
    for (int j = 1; j < power; j++)
    {
        side_product(sums, now, last, n);
        __syncthreads();
        keep(j);
    }
    // The last power is the operand from here on.
    double *was = last;
    last = now;
    now = was;
    side_clear(sums);
    side_polynomial(sums, powers, size, (terms - 1) * power, power + 1, true, n);
    side_store(now, sums);
    __syncthreads();
    for (int t = terms - 2; t >= 0; t--)
    {
        side_product(sums, now, last, n);
        side_polynomial(sums, powers, size, t * power, power, true, n);
        __syncthreads();
        side_store(now, sums);
        __syncthreads();
    }
    for (int s = 0; s < squarings; s++)
    {
        side_product(sums, now, now, n);
        __syncthreads();
        side_store(now, sums);
        __syncthreads();
    }
    side_each(sums, n, [&](double sum, int i, int j) {
        r[start + (i64)i * n + j] = (float)sum;
        return sum;
    });
}

/// matrix_exp_backward for n ≤ 64 likewise, the same bits; work: 8·n² doubles a matrix. Reads 12·n² bytes and 8·n² for each term of a
/// polynomial, writes 16·n² for each power and 4·n².
KERNEL_OF(256, 1) matrix_exp_backward_side(float *dx, const float *PLAIN dr, const float *PLAIN x, double *work, int *status, int n)
{
    __shared__ double room[32];
    i64 size = (i64)n * n, start = blockIdx.x * size;
    double *powers = work + 8 * start, *tangents = powers + 4 * size;
    double *value = (double *)dynamic_shared, *tangent = value + SideSize, *last = tangent + SideSize, *lastTangent = last + SideSize;
    double sums[4][4], slopes[4][4], more[4][4];
    // xᵀ by way of rows an odd number of doubles apart, over `last` and `lastTangent`.
    side_clear(sums);
    side_clear(slopes);
    side_each(sums, n, [&](double, int i, int j) { return last[j * (Side + 1) + i] = (double)x[start + (i64)i * n + j]; });
    __syncthreads();
    side_each(sums, n, [&](double, int i, int j) { return last[i * (Side + 1) + j]; });
    side_each(slopes, n, [&](double, int i, int j) { return (double)dr[start + (i64)i * n + j]; });
    side_store(value, sums);
    __syncthreads();
    int power, terms, squarings;
    bool finite = plan(value, Side, n, room, power, terms, squarings);
    if (threadIdx.x == 0)
        status[blockIdx.x] = finite ? 0 : 1;
    if (!finite)
        return;
    auto keep = [&](int j) {
        side_each(sums, n, [&](double sum, int i, int k) { return powers[j * size + (i64)i * n + k] = sum; });
        side_each(slopes, n, [&](double sum, int i, int k) { return tangents[j * size + (i64)i * n + k] = sum; });
        side_store(value, sums);
        side_store(tangent, slopes);
        __syncthreads();
    };
    side_each(sums, n, [&](double sum, int, int) { return sum * inverse_power_of_two(squarings); });
    side_each(slopes, n, [&](double sum, int, int) { return sum * inverse_power_of_two(squarings); });
    side_store(last, sums);
    side_store(lastTangent, slopes);
    keep(0);
    for (int j = 1; j < power; j++)
    {
        side_product(slopes, tangent, last, n);
        side_product(more, value, lastTangent, n);
        side_add(slopes, more);
        side_product(sums, value, last, n);
        __syncthreads();
        keep(j);
    }
    double *was = last;
    last = value;
    value = was;
    was = lastTangent;
    lastTangent = tangent;
    tangent = was;
    auto replace = [&]() {
        __syncthreads();
        side_store(value, sums);
        side_store(tangent, slopes);
        __syncthreads();
    };
    side_clear(sums);
    side_clear(slopes);
    side_polynomial(sums, powers, size, (terms - 1) * power, power + 1, true, n);
    side_polynomial(slopes, tangents, size, (terms - 1) * power, power + 1, false, n);
    replace();
    for (int t = terms - 2; t >= 0; t--)
    {
        side_product(slopes, tangent, last, n);
        side_polynomial(slopes, tangents, size, t * power, power, false, n);
        side_product(more, value, lastTangent, n);
        side_add(slopes, more);
        side_product(sums, value, last, n);
        side_polynomial(sums, powers, size, t * power, power, true, n);
        replace();
    }
    for (int s = 0; s < squarings; s++)
    {
        side_product(slopes, tangent, value, n);
        side_product(more, value, tangent, n);
        side_add(slopes, more);
        side_product(sums, value, value, n);
        replace();
    }
    side_each(slopes, n, [&](double sum, int i, int j) {
        dx[start + (i64)i * n + j] += (float)sum;
        return sum;
    });
}

/// r = e^x. status 1: x is not finite (r is left alone). work: 6·n² doubles a matrix.
KERNEL_OF(256, 1) matrix_exp_forward(float *r, const float *PLAIN x, double *work, int *status, int n)
{
    __shared__ double room[32];
    i64 size = (i64)n * n, start = blockIdx.x * size;
    double *powers = work + 6 * start, *now = powers + 4 * size, *next = now + size;
    for (int i = threadIdx.x; i < size; i += 256)
        powers[i] = (double)x[start + i];
    __syncthreads();
    int power, terms, squarings;
    bool finite = plan(powers, n, n, room, power, terms, squarings);
    if (threadIdx.x == 0)
        status[blockIdx.x] = finite ? 0 : 1;
    if (!finite)
        return;
    for (int i = threadIdx.x; i < size; i += 256)
        powers[i] *= inverse_power_of_two(squarings);
    __syncthreads();
    for (int j = 1; j < power; j++)
        block_product(powers + j * size, powers + (j - 1) * size, powers, n, 0);
    block_polynomial(now, powers, size, (terms - 1) * power, power + 1, 1, n);
    for (int t = terms - 2; t >= 0; t--)
    {
        block_polynomial(next, powers, size, t * power, power, 1, n);
        block_product(next, now, powers + (power - 1) * size, n, 1);
        double *was = now;
        now = next;
        next = was;
    }
    for (int s = 0; s < squarings; s++)
    {
        block_product(next, now, now, n, 0);
        double *was = now;
        now = next;
        next = was;
    }
    for (int i = threadIdx.x; i < size; i += 256)
        r[start + i] = (float)now[i];
}

/// dx += L(xᵀ, dr), the derivative of the exponential at xᵀ in direction dr, product by product as the forward pass.
/// work: 12·n² doubles a matrix.
KERNEL_OF(256, 1) matrix_exp_backward(float *dx, const float *PLAIN dr, const float *PLAIN x, double *work, int *status, int n)
{
    __shared__ double room[32];
    i64 size = (i64)n * n, start = blockIdx.x * size;
    double *powers = work + 12 * start, *tangents = powers + 4 * size;
    double *value = tangents + 4 * size, *nextValue = value + size, *tangent = nextValue + size, *nextTangent = tangent + size;
    for (int i = threadIdx.x; i < size; i += 256)
    {
        powers[i] = (double)x[start + (i64)(i % n) * n + i / n];
        tangents[i] = (double)dr[start + i];
    }
    __syncthreads();
    int power, terms, squarings;
    bool finite = plan(powers, n, n, room, power, terms, squarings);
    if (threadIdx.x == 0)
        status[blockIdx.x] = finite ? 0 : 1;
    if (!finite)
        return;
    for (int i = threadIdx.x; i < size; i += 256)
    {
        powers[i] *= inverse_power_of_two(squarings);
        tangents[i] *= inverse_power_of_two(squarings);
    }
    __syncthreads();
    for (int j = 1; j < power; j++)
    {
        block_product(powers + j * size, powers + (j - 1) * size, powers, n, 0);
        block_product(tangents + j * size, tangents + (j - 1) * size, powers, n, 0);
        block_product(tangents + j * size, powers + (j - 1) * size, tangents, n, 1);
    }
    double *last = powers + (power - 1) * size, *lastTangent = tangents + (power - 1) * size;
    block_polynomial(value, powers, size, (terms - 1) * power, power + 1, 1, n);
    block_polynomial(tangent, tangents, size, (terms - 1) * power, power + 1, 0, n);
    for (int t = terms - 2; t >= 0; t--)
    {
        block_polynomial(nextTangent, tangents, size, t * power, power, 0, n);
        block_product(nextTangent, tangent, last, n, 1);
        block_product(nextTangent, value, lastTangent, n, 1);
        block_polynomial(nextValue, powers, size, t * power, power, 1, n);
        block_product(nextValue, value, last, n, 1);
        double *was = value;
        value = nextValue;
        nextValue = was;
        was = tangent;
        tangent = nextTangent;
        nextTangent = was;
    }
    for (int s = 0; s < squarings; s++)
    {
        block_product(nextTangent, tangent, value, n, 0);
        block_product(nextTangent, value, tangent, n, 1);
        double *was = tangent;
        tangent = nextTangent;
        nextTangent = was;
        if (s == squarings - 1)
            break;
        block_product(nextValue, value, value, n, 0);
        was = value;
        value = nextValue;
        nextValue = was;
    }
    for (int i = threadIdx.x; i < size; i += 256)
        dx[start + i] += (float)tangent[i];
}
