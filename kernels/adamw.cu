// AdamW (Loshchilov and Hutter; torch.optim.AdamW) over many tensors in one launch.
//! adamw | adamw | block 256 | grid sum over the tensors of ceil(n / 1024) | shared 0 | AdamWTensors, then the numbers
//! adamw | adamw_one | block 256 | grid ceil(n / 1024) | shared 0
#include "common.cuh"

/// A tensor: addresses of param, grad, m, v (fp32) and the number of elements.
struct AdamWTensor
{
    float *param;
    const float *grad;
    float *m;
    float *v;
    i64 n;
};

/// Tensors of a launch, by value: elements of each, and blocks up to its last one.
struct AdamWTensors
{
    static const int Most = 16;
    float *param[Most];
    const float *grad[Most];
    float *m[Most];
    float *v[Most];
    int n[Most];
    int end[Most];
    int count;
    int reserved;
};

/// decay = lr·λ, mix1 = 1 − β1, mix2 = 1 − β2, inverseRoot2 = 1/√(1 − β2^step), stepSize = lr/(1 − β1^step), each computed
/// in double by the caller and rounded once, as the CPU does.
__device__ __forceinline__ void adamw_element(float &p, float g, float &first, float &second, float decay, float mix1, float beta2, float mix2, float inverseRoot2, float stepSize, float eps)
{
    // lr·λ is taken off as a product of its own: 1 − lr·λ in fp32 would round away much of a small decay.
    p = fma(-decay, p, p);
    first = fma(g - first, mix1, first);
    second = fma(g * mix2, g, second * beta2);
    float denominator = fma(square_root(second), inverseRoot2, eps);
    p = p - first * stepSize / denominator;
}

__device__ __forceinline__ void adamw_block(const AdamWTensor &t, i64 base, float decay, float mix1, float beta2, float mix2, float inverseRoot2, float stepSize, float eps)
{
    i64 end = smaller(t.n, base + 1024);
    if (aligned16(t.param, t.grad, t.m, t.v) && base + 1024 <= t.n)
    {
        i64 i = base + threadIdx.x * 4;
        float4 p = *(const float4 *)(t.param + i), g = *(const float4 *)(t.grad + i), m = *(const float4 *)(t.m + i), v = *(const float4 *)(t.v + i);
        float ps[4] = {p.x, p.y, p.z, p.w}, gs[4] = {g.x, g.y, g.z, g.w}, ms[4] = {m.x, m.y, m.z, m.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int k = 0; k < 4; k++)
            adamw_element(ps[k], gs[k], ms[k], vs[k], decay, mix1, beta2, mix2, inverseRoot2, stepSize, eps);
        *(float4 *)(t.param + i) = make_float4(ps[0], ps[1], ps[2], ps[3]);
        *(float4 *)(t.m + i) = make_float4(ms[0], ms[1], ms[2], ms[3]);
        *(float4 *)(t.v + i) = make_float4(vs[0], vs[1], vs[2], vs[3]);
    }
    else
    {
#pragma unroll 1
        for (i64 i = base + threadIdx.x; i < end; i += 256)
        {
            float p = t.param[i], m = t.m[i], v = t.v[i];
            adamw_element(p, t.grad[i], m, v, decay, mix1, beta2, mix2, inverseRoot2, stepSize, eps);
            t.param[i] = p;
            t.m[i] = m;
            t.v[i] = v;
        }
    }
}

/// One step on up to 16 tensors. Reads 16 and writes 12 bytes an element.
KERNEL(256) adamw(const AdamWTensors t, float decay, float mix1, float beta2, float mix2, float inverseRoot2, float stepSize, float eps)
{
    int i = 0, first = 0;
    while (i < t.count - 1 && (int)blockIdx.x >= t.end[i])
        first = t.end[i++];
    AdamWTensor one = {t.param[i], t.grad[i], t.m[i], t.v[i], t.n[i]};
    adamw_block(one, (i64)((int)blockIdx.x - first) * 1024, decay, mix1, beta2, mix2, inverseRoot2, stepSize, eps);
}

/// The same step on one tensor whose addresses are arguments: IBackend.AdamW.
KERNEL(256) adamw_one(float *param, const float *grad, float *m, float *v, i64 n, float decay, float mix1, float beta2, float mix2, float inverseRoot2, float stepSize, float eps)
{
    AdamWTensor t = {param, grad, m, v, n};
    adamw_block(t, (i64)blockIdx.x * 1024, decay, mix1, beta2, mix2, inverseRoot2, stepSize, eps);
}
