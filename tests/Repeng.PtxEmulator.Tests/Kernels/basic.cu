// Kernels that the emulator's tests run: elementwise, reductions, divergence, tiles in shared memory.
#include "device.cuh"

extern "C" __global__ void saxpy(int n, float a, const float* x, float* y)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x;
    if (i < n) y[i] = a * x[i] + y[i];
}

extern "C" __global__ void rms_norm(const float* x, const float* w, float* y, int n, float eps)
{
    __shared__ float part[32];
    const float* row = x + (long long)blockIdx_x * n;
    float sum = 0;
    for (int i = threadIdx_x; i < n; i += blockDim_x) sum += row[i] * row[i];
    for (int by = 16; by > 0; by >>= 1) sum += shfl_xor(sum, by);
    if ((threadIdx_x & 31) == 0) part[threadIdx_x >> 5] = sum;
    sync_threads();
    float total = 0;
    for (unsigned k = 0; k < blockDim_x / 32; k++) total += part[k];
    float scale = rsqrt_approx(total / (float)n + eps);
    for (int i = threadIdx_x; i < n; i += blockDim_x) y[(long long)blockIdx_x * n + i] = row[i] * scale * w[i];
}

// Collatz steps: lanes leave the loop one by one.
extern "C" __global__ void collatz(const unsigned* x, int* steps, int n)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x;
    if (i >= n) return;
    unsigned v = x[i];
    int count = 0;
    while (v != 1) {
        if (v & 1) v = 3 * v + 1; else v >>= 1;
        count++;
    }
    steps[i] = count;
}

// C[m,n] = A[m,k]·B[k,n], 16×16 tiles.
extern "C" __global__ void tiled_matmul(const float* a, const float* b, float* c, int m, int n, int k)
{
    __shared__ float ta[16][16];
    __shared__ float tb[16][17];
    int row = blockIdx_y * 16 + threadIdx_y, col = blockIdx_x * 16 + threadIdx_x;
    float sum = 0;
    for (int t = 0; t < k; t += 16) {
        ta[threadIdx_y][threadIdx_x] = row < m && t + (int)threadIdx_x < k ? a[row * k + t + threadIdx_x] : 0;
        tb[threadIdx_y][threadIdx_x] = col < n && t + (int)threadIdx_y < k ? b[(t + threadIdx_y) * n + col] : 0;
        sync_threads();
        for (int i = 0; i < 16; i++) sum += ta[threadIdx_y][i] * tb[i][threadIdx_x];
        sync_threads();
    }
    if (row < m && col < n) c[row * n + col] = sum;
}

extern "C" __global__ void histogram(const unsigned char* x, unsigned* bins, int n)
{
    extern __shared__ unsigned local[];
    for (int i = threadIdx_x; i < 256; i += blockDim_x) local[i] = 0;
    sync_threads();
    for (int i = blockIdx_x * blockDim_x + threadIdx_x; i < n; i += gridDim_x * blockDim_x)
        __nvvm_atom_add_gen_i((int*)&local[x[i]], 1);
    sync_threads();
    for (int i = threadIdx_x; i < 256; i += blockDim_x) __nvvm_atom_add_gen_i((int*)&bins[i], (int)local[i]);
}

__constant__ float table[8] = {1, 2, 4, 8, 16, 32, 64, 128};
__device__ int counter = 3;

struct Step { float scale; int shift; };

__device__ __attribute__((noinline)) float apply(float x, Step s, int i)
{
    return x * s.scale + table[(i + s.shift) & 7];
}

extern "C" __global__ void calls(const float* x, float* y, Step s, int n)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x;
    float buffer[8];
    for (int k = 0; k < 8; k++) buffer[(k * 3) & 7] = (float)k;
    if (i < n) y[i] = apply(x[i], s, i) + buffer[i & 7] + (float)counter;
}

extern "C" __global__ void switches(const int* x, int* y, int n)
{
    int i = blockIdx_x * blockDim_x + threadIdx_x;
    if (i >= n) return;
    int v = x[i], r = 0;
    switch (v) {
        case 0: r = v * 7 + 1; break;
        case 1: r = __nvvm_read_ptx_sreg_laneid(); break;
        case 2: for (int k = 0; k < (i & 7); k++) r += k * i; break;
        case 3: r = v ^ i; break;
        case 4: r = i / 3; break;
        case 5: r = i % 7; break;
        default: r = -v;
    }
    y[i] = r;
}
