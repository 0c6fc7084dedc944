// Rotations from skew-symmetric matrices, in batches of small n×n matrices (n ≤ 512) with double arithmetic inside, as on the
// CPU: skew parts, the Cayley transform and the matrix exponential with their backward passes. A matrix belongs to a block.
// Floor: 4·n² bytes in and out a matrix; 2·n³ fp64 FMA for Cayley, 2·n³ for its backward pass, over the device's rates. At the sizes of
// adapters (n = 64 … 256, hundreds of matrices) all of them run side by side and one step of elimination is a few barriers long.
//! rotation | skew | block 256 | grid (ceil(n / 32) * ceil(n / 32), batch) | shared 0
//! rotation | cayley_forward_shared | block 256 | grid batch | shared 8 * n * n | n <= 112 fits every device (99 KiB), n <= 144 sm_80, n <= 168 sm_90
//! rotation | cayley_forward_global | block 256 | grid batch | shared 0 | work: 8 * n * n * batch bytes
//! rotation | cayley_backward_first, cayley_backward_second | block 256 | grid (ceil(n / 32) * ceil(n / 32), batch) | shared 0 | work: 8 * n * n * batch bytes; first, then second
//! rotation | matrix_exp_forward | block 256 | grid batch | shared 0 | work: 48 * n * n * batch bytes
//! rotation | matrix_exp_backward | block 256 | grid batch | shared 0 | work: 96 * n * n * batch bytes
#include "math.cuh"

const int LargestRotation = 512;

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

/// r = (I − x)⁻¹(I + x) = 2(I − x)⁻¹ − I: a inverts I − x in place by Gauss and Jordan's elimination with partial pivoting, so
/// that both sides of the solve come from one elimination. Warps own rows, lanes columns. status 1: a pivot is not above
/// n·2⁻⁵²·max|I − x| or not a number (no such x is skew-symmetric); r is then left alone.
__device__ __forceinline__ void cayley(float *r, const float *x, double *a, int *status, int n)
{
    __shared__ double row[LargestRotation], col[LargestRotation], room[32], pivotValue;
    __shared__ int exchanged[LargestRotation], pivotRow;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    double largest = 0.0;
    for (int i = warp; i < n; i += 8)
        for (int j = lane; j < n; j += 32)
        {
            double value = (i == j ? 1.0 : 0.0) - (double)x[i * n + j], size = absolute(value);
            a[i * n + j] = value;
            largest = largest > size || largest != largest ? largest : size;
        }
    double smallest = (double)n * 2.220446049250313e-16 * block_max_double(largest, room);
    for (int k = 0; k < n; k++)
    {
        if (warp == 0)
        {
            // The first of the largest.
            double best = -1.0;
            int at = k;
            for (int i = k + lane; i < n; i += 32)
            {
                double size = absolute(a[i * n + k]);
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
            if (lane == 0)
            {
                pivotRow = at;
                pivotValue = a[at * n + k];
                exchanged[k] = at;
            }
        }
        __syncthreads();
        int p = pivotRow;
        double pivot = pivotValue;
        if (!(absolute(pivot) > smallest))
        {
            if (threadIdx.x == 0)
                status[blockIdx.x] = 1;
            return;
        }
        double inverse = 1.0 / pivot;
        for (int j = threadIdx.x; j < n; j += 256)
        {
            col[j] = j == p ? a[k * n + k] : a[j * n + k];
            double moved = a[p * n + j];
            row[j] = j == k ? inverse : moved * inverse;
        }
        __syncthreads();
        // Row p takes row k's place, row k becomes the pivot's; every other row loses its multiple of it.
        for (int i = warp; i < n; i += 8)
        {
            if (i == k)
                continue;
            double factor = col[i];
            for (int j = lane; j < n; j += 32)
            {
                double value = j == k ? 0.0 : i == p ? a[k * n + j] : a[i * n + j];
                a[i * n + j] = fma(-factor, row[j], value);
            }
        }
        __syncthreads();
        for (int j = threadIdx.x; j < n; j += 256)
            a[k * n + j] = row[j];
        __syncthreads();
    }
    // The exchanges of rows are exchanges of the inverse's columns, undone from the last on.
    for (int i = threadIdx.x; i < n; i += 256)
        for (int k = n - 1; k >= 0; k--)
        {
            int p = exchanged[k];
            double kept = a[i * n + k];
            a[i * n + k] = a[i * n + p];
            a[i * n + p] = kept;
        }
    __syncthreads();
    for (int i = warp; i < n; i += 8)
        for (int j = lane; j < n; j += 32)
            r[i * n + j] = (float)(2.0 * a[i * n + j] - (i == j ? 1.0 : 0.0));
    if (threadIdx.x == 0)
        status[blockIdx.x] = 0;
}

KERNEL(256) cayley_forward_shared(float *r, const float *PLAIN x, int *status, int n)
{
    i64 start = (i64)blockIdx.x * n * n;
    cayley(r + start, x + start, (double *)dynamic_shared, status, n);
}
KERNEL(256) cayley_forward_global(float *r, const float *PLAIN x, double *work, int *status, int n)
{
    i64 start = (i64)blockIdx.x * n * n;
    cayley(r + start, x + start, work + start, status, n);
}

/// A tile of 32×32 of Σ_k left(i, k)·right(k, j), four elements a thread, given to store(i, j, sum).
template <typename Left, typename Right, typename Store> __device__ __forceinline__ void product_tile(int n, int top, int leftCol, Left left, Right right, Store store)
{
    __shared__ double a[32][17], b[16][33];
    int x = threadIdx.x & 15, y = threadIdx.x >> 4;
    double sums[2][2] = {{0.0, 0.0}, {0.0, 0.0}};
    for (int k0 = 0; k0 < n; k0 += 16)
    {
        for (int e = threadIdx.x; e < 512; e += 256)
        {
            int i = e >> 4, k = e & 15;
            a[i][k] = top + i < n && k0 + k < n ? left(top + i, k0 + k) : 0.0;
            int j = e & 31, l = e >> 5;
            b[l][j] = k0 + l < n && leftCol + j < n ? right(k0 + l, leftCol + j) : 0.0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k++)
        {
            sums[0][0] = fma(a[y][k], b[k][x], sums[0][0]);
            sums[0][1] = fma(a[y][k], b[k][x + 16], sums[0][1]);
            sums[1][0] = fma(a[y + 16][k], b[k][x], sums[1][0]);
            sums[1][1] = fma(a[y + 16][k], b[k][x + 16], sums[1][1]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int u = 0; u < 2; u++)
#pragma unroll
        for (int v = 0; v < 2; v++)
            if (top + y + u * 16 < n && leftCol + x + v * 16 < n)
                store(top + y + u * 16, leftCol + x + v * 16, sums[u][v]);
}

/// work = ½(r + I)ᵀ·dr. With cayley_backward_second: dx += ½(r + I)ᵀ·dr·(r + I)ᵀ, since (I − x)⁻¹ = (r + I)/2.
/// Reads 8·n² bytes a matrix and row of tiles, writes 8·n².
KERNEL(256) cayley_backward_first(double *work, const float *PLAIN dr, const float *PLAIN r, int n)
{
    int tiles = (n + 31) >> 5;
    i64 start = (i64)blockIdx.y * n * n;
    product_tile(
        n, (blockIdx.x / tiles) * 32, (blockIdx.x % tiles) * 32, [&](int i, int k) { return (double)r[start + (i64)k * n + i] + (i == k ? 1.0 : 0.0); },
        [&](int k, int j) { return (double)dr[start + (i64)k * n + j]; }, [&](int i, int j, double sum) { work[start + (i64)i * n + j] = 0.5 * sum; });
}
/// dx += work·(r + I)ᵀ. Reads 12·n² bytes a matrix and row of tiles, writes 4·n².
KERNEL(256) cayley_backward_second(float *dx, const double *PLAIN work, const float *PLAIN r, int n)
{
    int tiles = (n + 31) >> 5;
    i64 start = (i64)blockIdx.y * n * n;
    product_tile(
        n, (blockIdx.x / tiles) * 32, (blockIdx.x % tiles) * 32, [&](int i, int k) { return work[start + (i64)i * n + k]; },
        [&](int k, int j) { return (double)r[start + (i64)j * n + k] + (j == k ? 1.0 : 0.0); }, [&](int i, int j, double sum) { dx[start + (i64)i * n + j] += (float)sum; });
}

// ---- the exponential ----
// Scaling and squaring of a Taylor polynomial as in LinearAlgebra/MatrixExponential.cs (Higham, Functions of Matrices, chapter
// 10): degree q·t evaluated as one of degree t in x^q, with the fewest products for which the first neglected term is below 2⁻⁵³.

/// c = a·b, or c += a·b, [n, n] in double, by the whole block; ends with a barrier.
__device__ __forceinline__ void block_product(double *c, const double *a, const double *b, int n, int accumulate)
{
    for (int top = 0; top < n; top += 32)
        for (int left = 0; left < n; left += 32)
            product_tile(
                n, top, left, [&](int i, int k) { return a[(i64)i * n + k]; }, [&](int k, int j) { return b[(i64)k * n + j]; },
                [&](int i, int j, double sum) { c[(i64)i * n + j] = accumulate ? c[(i64)i * n + j] + sum : sum; });
    __syncthreads();
}

/// to = Σ_{j < count} matrix_j/(first + j)!, where matrix_0 is the identity (absent in a tangent) and matrix_j = m1 + (j − 1)·size.
__device__ __forceinline__ void block_polynomial(double *to, const double *m1, i64 size, int first, int count, int identity, int n)
{
    double coefficients[5];
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
    for (int i = threadIdx.x; i < n * n; i += 256)
    {
        double sum = coefficients[1] * m1[i];
        if (count > 2)
            sum = fma(coefficients[2], m1[size + i], sum);
        if (count > 3)
            sum = fma(coefficients[3], m1[2 * size + i], sum);
        if (count > 4)
            sum = fma(coefficients[4], m1[3 * size + i], sum);
        to[i] = identity && i % (n + 1) == 0 ? sum + coefficients[0] : sum;
    }
    __syncthreads();
}

/// q, t and the number of squarings; false where x is not finite.
__device__ __forceinline__ bool plan(const double *x, int n, double *room, int &power, int &terms, int &squarings)
{
    double largest = 0.0;
    for (int j = threadIdx.x; j < n; j += 256)
    {
        double sum = 0.0;
        for (int i = 0; i < n; i++)
            sum += absolute(x[(i64)i * n + j]);
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
    bool finite = plan(powers, n, room, power, terms, squarings);
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
    bool finite = plan(powers, n, room, power, terms, squarings);
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
