// Mixtures of experts: the router's choice, the outputs of a token's experts put together, gpt-oss's clamped gated unit. The
// products of the experts' groups of rows run by matmul.cu, together. Floor: the bytes of each docstring over the bandwidth.
//! experts | route_forward, route_backward | block 256 | grid ceil(rows / 8) | shared 0
//! experts | combine_forward, combine_backward_x | block 256 | grid rows | shared 0
//! experts | combine_backward_weights | block 256 | grid ceil(rows * perToken / 8) | shared 0
//! experts | clamped_gated_* | block 256 | grid ceil(n / 1024) | shared 0
#include "functions.cuh"

/// A key that orders logits as numbers, NaN below all, the lower index first among equals; never 0.
__device__ __forceinline__ u64 route_key(float logit, int index)
{
    unsigned bits = (unsigned)bits_of(logit == 0.0f ? 0.0f : logit);
    unsigned ordered = logit != logit ? 0u : (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
    return ((u64)ordered << 32) | (unsigned)(0x7FFFFFFF - index);
}

__device__ __forceinline__ u64 warp_max_key(u64 x)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
    {
        u64 other = ((u64)shuffle_xor((unsigned)(x >> 32), mask) << 32) | shuffle_xor((unsigned)x, mask);
        x = x > other ? x : other;
    }
    return x;
}

/// Σ e^(logit − most) over a row in double, the same in every lane.
__device__ __forceinline__ double route_sum(const float *logits, int experts, double most)
{
    double sum = 0.0;
    for (int e = threadIdx.x & 31; e < experts; e += 32)
        sum += exp_of((double)logits[e] - most);
    return warp_sum(sum);
}

/// The logit that a key was made of; zeros lose their sign, NaNs their payload.
__device__ __forceinline__ float route_logit(u64 key)
{
    unsigned ordered = (unsigned)(key >> 32);
    return ordered == 0 ? not_a_number() : float_of((int)((ordered & 0x80000000u) ? ordered ^ 0x80000000u : ~ordered));
}

/// A row of up to 32·EACH experts in registers, up to 32 choices, one a lane: the logits are read once.
template <int EACH> __device__ __forceinline__ void route_row(float *w, int *choice, const float *x, int experts, int perToken, int normalise)
{
    int lane = threadIdx.x & 31, expert = 0;
    u64 keys[EACH], last = ~(u64)0;
    double most = 0.0, sum = 0.0;
    float own = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++)
        keys[i] = i * 32 + lane < experts ? route_key(x[i * 32 + lane], i * 32 + lane) : 0;
#pragma unroll 1
    for (int j = 0; j < perToken; j++)
    {
        u64 best = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            best = keys[i] < last && keys[i] > best ? keys[i] : best;
        last = warp_max_key(best);
        double logit = (double)route_logit(last);
        if (j == 0)
        {
            most = logit;
            if (!normalise)
            {
#pragma unroll 1
                for (int i = 0; i < EACH; i++)
                    if (i * 32 + lane < experts)
                        sum += exp_of((double)x[i * 32 + lane] - most);
                sum = warp_sum(sum);
            }
        }
        float term = (float)exp_of(logit - most);
        if (normalise)
            sum += (double)term;
        if (lane == j)
        {
            expert = 0x7FFFFFFF - (int)(unsigned)last;
            own = term;
        }
    }
    if (lane < perToken)
    {
        choice[lane] = expert;
        w[lane] = (float)((double)own / sum);
    }
}

/// weights and chosen [rows, perToken] of logits [rows, experts], as RouteArgs says; a warp a row. The j-th choice is the largest
/// below the (j − 1)-th. Reads 4·experts bytes a row (twice where not normalised; more than 256 experts or 32 choices: perToken times, from
/// the cache), writes 8·perToken.
KERNEL_OF(256, 2) route_forward(float *weights, int *chosen, const float *PLAIN logits, int rows, int experts, int perToken, int normalise)
{
    int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows)
        return;
    const float *x = logits + (i64)row * experts;
    float *w = weights + (i64)row * perToken;
    if (experts <= 256 && perToken <= 32)
    {
        if (experts <= 128)
            route_row<4>(w, chosen + (i64)row * perToken, x, experts, perToken, normalise);
        else
            route_row<8>(w, chosen + (i64)row * perToken, x, experts, perToken, normalise);
        return;
    }
    u64 last = ~(u64)0;
    double most = 0.0, sum = 0.0;
    // Twice: first the sum of the chosen ones' terms, then the weights.
    for (int pass = normalise ? 0 : 1; pass < 2; pass++)
    {
        last = ~(u64)0;
        for (int j = 0; j < perToken; j++)
        {
            u64 best = 0;
            for (int e = lane; e < experts; e += 32)
            {
                u64 key = route_key(x[e], e);
                best = key < last && key > best ? key : best;
            }
            last = warp_max_key(best);
            int expert = 0x7FFFFFFF - (int)(unsigned)last;
            if (j == 0)
            {
                most = (double)x[expert];
                if (!normalise)
                    sum = route_sum(x, experts, most);
            }
            float term = (float)exp_of((double)x[expert] - most);
            if (pass == 0)
                sum += (double)term;
            else if (lane == 0)
            {
                chosen[(i64)row * perToken + j] = expert;
                w[j] = (float)((double)term / sum);
            }
        }
    }
}

/// dLogits += the gradient by the weights; a warp a row. Reads 4·experts bytes a row twice where not normalised, writes what changes.
KERNEL(256) route_backward(float *dLogits, const float *PLAIN dWeights, const float *PLAIN weights, const int *PLAIN chosen, const float *PLAIN logits, int rows, int experts, int perToken, int normalise)
{
    int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows)
        return;
    const float *x = logits + (i64)row * experts, *w = weights + (i64)row * perToken, *dw = dWeights + (i64)row * perToken;
    const int *choice = chosen + (i64)row * perToken;
    float *d = dLogits + (i64)row * experts;
    double s = 0.0;
    for (int j = 0; j < perToken; j++)
        s = fma((double)dw[j], (double)w[j], s);
    if (!normalise)
    {
        double most = (double)x[choice[0]], sum = route_sum(x, experts, most);
        for (int e = lane; e < experts; e += 32)
            d[e] = (float)((double)d[e] - exp_of((double)x[e] - most) / sum * s);
        s = 0.0;
        warp_barrier();
    }
    // A row's choices differ, so lanes write different elements.
    for (int j = lane; j < perToken; j += 32)
        d[choice[j]] = (float)((double)d[choice[j]] + (double)w[j] * ((double)dw[j] - s));
}

/// y[t, :] = Σ_j weights[t, j]·x[place[t, j], :] in order; a block a token. Reads 4·perToken·cols bytes, writes 4·cols.
KERNEL(256) combine_forward(float *y, const float *PLAIN x, const int *PLAIN place, const float *PLAIN weights, int perToken, int cols)
{
    i64 row = blockIdx.x;
    if ((cols & 3) == 0 && aligned16(x, y))
    {
        for (int col = threadIdx.x * 4; col < cols; col += 1024)
        {
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (int j = 0; j < perToken; j++)
            {
                float4 v = load_four(x + (i64)place[row * perToken + j] * cols + col);
                float w = weights[row * perToken + j];
                sum = make_float4(fma(v.x, w, sum.x), fma(v.y, w, sum.y), fma(v.z, w, sum.z), fma(v.w, w, sum.w));
            }
            *(float4 *)(y + row * cols + col) = sum;
        }
        return;
    }
    for (int col = threadIdx.x; col < cols; col += 256)
    {
        float sum = 0.0f;
        for (int j = 0; j < perToken; j++)
            sum = fma(x[(i64)place[row * perToken + j] * cols + col], weights[row * perToken + j], sum);
        y[row * cols + col] = sum;
    }
}

/// dx[place[t, j], :] += weights[t, j]·dy[t, :]; a block a token, no two places alike. Reads 4·(perToken + 1)·cols bytes, writes 4·perToken·cols.
KERNEL(256) combine_backward_x(float *dx, const float *PLAIN dy, const int *PLAIN place, const float *PLAIN weights, int perToken, int cols)
{
    i64 row = blockIdx.x;
    if ((cols & 3) == 0 && aligned16(dx, dy))
    {
        for (int col = threadIdx.x * 4; col < cols; col += 1024)
        {
            float4 g = load_four(dy + row * cols + col);
            for (int j = 0; j < perToken; j++)
            {
                float *to = dx + (i64)place[row * perToken + j] * cols + col;
                float w = weights[row * perToken + j];
                float4 d = load_four(to);
                *(float4 *)to = make_float4(fma(g.x, w, d.x), fma(g.y, w, d.y), fma(g.z, w, d.z), fma(g.w, w, d.w));
            }
        }
        return;
    }
    for (int col = threadIdx.x; col < cols; col += 256)
    {
        float g = dy[row * cols + col];
        for (int j = 0; j < perToken; j++)
        {
            i64 at = (i64)place[row * perToken + j] * cols + col;
            dx[at] = fma(g, weights[row * perToken + j], dx[at]);
        }
    }
}

/// dWeights[t, j] += dy[t, :]·x[place[t, j], :]; a warp a weight. Reads 8·cols bytes each.
KERNEL(256) combine_backward_weights(float *dWeights, const float *PLAIN dy, const float *PLAIN x, const int *PLAIN place, int places, int perToken, int cols)
{
    int i = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (i >= places)
        return;
    const float *g = dy + (i64)(i / perToken) * cols, *v = x + (i64)place[i] * cols;
    float sum = 0.0f;
    for (int col = lane; col < cols; col += 32)
        sum = fma(g[col], v[col], sum);
    sum = warp_sum(sum);
    if (lane == 0)
        dWeights[i] += sum;
}

__device__ __forceinline__ float at_most(float x, float limit) { return x > limit ? limit : x; }

/// y[n] = (u + 1)·g·σ(alpha·g), g = min(gate, limit), u = up cut to ±limit. Reads 8n bytes, writes 4n.
KERNEL(256) clamped_gated_forward(float *y, const float *PLAIN gate, const float *PLAIN up, i64 n, float alpha, float limit)
{
    i64 end = smaller(n, ((i64)blockIdx.x + 1) * 1024);
#pragma unroll 1
    for (i64 i = (i64)blockIdx.x * 1024 + threadIdx.x; i < end; i += 256)
    {
        float g = at_most(gate[i], limit), u = -at_most(-at_most(up[i], limit), limit);
        y[i] = (u + 1.0f) * (g * sigmoid_of(alpha * g));
    }
}

/// dGate += and dUp += (either may be null); what was cut has no gradient, what is at the limit has. Reads 20n bytes, writes 8n.
KERNEL(256) clamped_gated_backward(float *dGate, float *dUp, const float *PLAIN dy, const float *PLAIN gate, const float *PLAIN up, i64 n, float alpha, float limit)
{
    i64 end = smaller(n, ((i64)blockIdx.x + 1) * 1024);
#pragma unroll 1
    for (i64 i = (i64)blockIdx.x * 1024 + threadIdx.x; i < end; i += 256)
    {
        float rawGate = gate[i], rawUp = up[i], upstream = dy[i];
        float g = at_most(rawGate, limit), u = -at_most(-at_most(rawUp, limit), limit);
        float complement, sigmoid = sigmoid_of(alpha * g, complement);
        if (dGate)
        {
            float slope = sigmoid * fma(alpha * g, complement, 1.0f) * (u + 1.0f);
            dGate[i] += rawGate <= limit ? upstream * slope : 0.0f;
        }
        if (dUp)
            dUp[i] += absolute(rawUp) <= limit ? upstream * (g * sigmoid) : 0.0f;
    }
}
