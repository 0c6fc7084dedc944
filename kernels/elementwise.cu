// Elementwise ops of IBackend: functions of one variable, of two with broadcast, gated ones, fills, copies, casts.
// All are bound by memory: the floor is the bytes that each docstring names, over the device's bandwidth.
// A flat kernel gives a block of 256 threads 1024 elements: four a thread by 16 bytes where all operands are aligned to
// 16 bytes, else one after the other by 4 bytes.
//! elementwise | flat kernels (unary, gated, add_scaled, fill, copy, cast, fill_uniform) | block 256 | grid ceil(n / 1024) | shared 0
//! elementwise | binary_forward_*, binary_backward_a_*, binary_backward_b_* | block 256 | grid rows * ceil(cols / 1024); None as rows = 1, cols = n | shared 0
#include "functions.cuh"
#include "philox.cuh"

/// A block's 1024 elements from base on: by_four(i) once a thread for a group of four, where the block is full and the
/// operands are aligned; else by_one(i) for each element, neighbours in neighbouring lanes.
template <typename Vector, typename Scalar> __device__ __forceinline__ void four_each(i64 base, i64 n, bool vector, Vector by_four, Scalar by_one)
{
    if (vector && base + 1024 <= n)
        by_four(base + threadIdx.x * 4);
    else
    {
        i64 end = smaller(n, base + 1024);
#pragma unroll 1
        for (i64 i = base + threadIdx.x; i < end; i += 256)
            by_one(i);
    }
}

__device__ __forceinline__ i64 flat_base() { return (i64)blockIdx.x * 1024; }
__device__ __forceinline__ float4 load4(const float *p) { return *(const float4 *)p; }
__device__ __forceinline__ void store4(float *p, float4 v) { *(float4 *)p = v; }

/// y[n] = f(x[n]); y may be x. Reads 4n bytes, writes 4n.
template <typename F> __device__ __forceinline__ void unary_forward(float *y, const float *x, i64 n, float p)
{
    four_each(
        flat_base(), n, aligned16(y, x),
        [&](i64 i) {
            float4 v = load4(x + i);
            store4(y + i, make_float4(F::apply(v.x, p), F::apply(v.y, p), F::apply(v.z, p), F::apply(v.w, p)));
        },
        [&](i64 i) { y[i] = F::apply(x[i], p); });
}

/// dx[n] += dy[n]·f′; x is the argument, or the result where BackwardReadsOutput. Reads 12n bytes, writes 4n.
template <typename F> __device__ __forceinline__ void unary_backward(float *dx, const float *dy, const float *x, i64 n, float p)
{
    four_each(
        flat_base(), n, aligned16(dx, dy, x),
        [&](i64 i) {
            float4 v = load4(x + i), g = load4(dy + i), d = load4(dx + i);
            d.x = fma(g.x, F::derivative(v.x, p), d.x);
            d.y = fma(g.y, F::derivative(v.y, p), d.y);
            d.z = fma(g.z, F::derivative(v.z, p), d.z);
            d.w = fma(g.w, F::derivative(v.w, p), d.w);
            store4(dx + i, d);
        },
        [&](i64 i) { dx[i] = fma(dy[i], F::derivative(x[i], p), dx[i]); });
}

#define ENTRY(name, Type)                                                                                                \
    KERNEL(256) unary_forward_##name(float *y, const float *x, i64 n, float p) { unary_forward<Type>(y, x, n, p); }      \
    KERNEL(256) unary_backward_##name(float *dx, const float *dy, const float *x, i64 n, float p) { unary_backward<Type>(dx, dy, x, n, p); }
FOR_EVERY_UNARY(ENTRY)
#undef ENTRY

/// y[n] += p·x[n]. Reads 8n bytes, writes 4n.
KERNEL(256) add_scaled(float *y, const float *x, i64 n, float p)
{
    four_each(
        flat_base(), n, aligned16(y, x),
        [&](i64 i) {
            float4 v = load4(x + i), d = load4(y + i);
            store4(y + i, make_float4(fma(v.x, p, d.x), fma(v.y, p, d.y), fma(v.z, p, d.z), fma(v.w, p, d.w)));
        },
        [&](i64 i) { y[i] = fma(x[i], p, y[i]); });
}

/// Tensors of copy_several, by value: elements of each, and blocks up to its last one.
struct CopyParams
{
    static const int Most = 30;
    float *y[Most];
    const float *x[Most];
    int n[Most];
    int end[Most];
    int count;
    int accumulate;
};

/// y[i] = p·x[i] (y[i] += with accumulate) of up to 30 tensors; y[i] may be x[i]. Reads 4n bytes (8n with accumulate) of each, writes 4n.
//! elementwise | copy_several | block 256 | grid sum over the tensors of ceil(n / 1024) | shared 0 | CopyParams, then the factor
KERNEL(256) copy_several(const CopyParams t, float p)
{
    int i = 0, first = 0;
    while (i < t.count - 1 && (int)blockIdx.x >= t.end[i])
        first = t.end[i++];
    float *y = t.y[i];
    const float *x = t.x[i];
    bool accumulate = t.accumulate != 0;
    four_each(
        (i64)((int)blockIdx.x - first) * 1024, t.n[i], aligned16(y, x),
        [&](i64 at) {
            float4 v = load4(x + at);
            if (accumulate)
            {
                float4 d = load4(y + at);
                store4(y + at, make_float4(fma(v.x, p, d.x), fma(v.y, p, d.y), fma(v.z, p, d.z), fma(v.w, p, d.w)));
            }
            else
                store4(y + at, make_float4(v.x * p, v.y * p, v.z * p, v.w * p));
        },
        [&](i64 at) { y[at] = accumulate ? fma(x[at], p, y[at]) : x[at] * p; });
}

/// y[batch, rows, cols] = x·s[batch, cols] (y += with accumulate) of n = batch·rows·cols elements, area = rows·cols. Reads 4(n + |s|) bytes (8n with
/// accumulate), writes 4n.
//! elementwise | scale_columns | block 256 | grid ceil(n / 1024) | shared 0 | n below 2^31
KERNEL(256) scale_columns(float *y, const float *x, const float *PLAIN s, int n, int area, int cols, int accumulate)
{
    auto factor = [&](int i) { return s + i / area * cols + i % cols; };
    four_each(
        flat_base(), n, (cols & 3) == 0 && aligned16(y, x, s),
        [&](i64 i) {
            float4 v = load4(x + i), w = load4(factor((int)i));
            v = make_float4(v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w);
            if (accumulate)
            {
                float4 d = load4(y + i);
                v = make_float4(d.x + v.x, d.y + v.y, d.z + v.z, d.w + v.w);
            }
            store4(y + i, v);
        },
        [&](i64 i) {
            float v = x[i] * *factor((int)i);
            y[i] = accumulate ? y[i] + v : v;
        });
}

/// Elements of fp32, or of bf16 (half), by four and one by one; sums and products are fp32 in either.
__device__ __forceinline__ float4 read4(const void *p, i64 i, bool half)
{
    if (!half)
        return load4((const float *)p + i);
    uint2 bits = *(const uint2 *)((const BF16 *)p + i);
    return make_float4(low_bf16(bits.x), high_bf16(bits.x), low_bf16(bits.y), high_bf16(bits.y));
}
__device__ __forceinline__ void write4(void *p, i64 i, float4 v, bool half)
{
    if (half)
        *(uint2 *)((BF16 *)p + i) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    else
        store4((float *)p + i, v);
}
__device__ __forceinline__ float read1(const void *p, i64 i, bool half) { return half ? widen(((const BF16 *)p)[i]) : ((const float *)p)[i]; }
__device__ __forceinline__ void write1(void *p, i64 i, float v, bool half)
{
    if (half)
        narrow(v, ((BF16 *)p)[i]);
    else
        ((float *)p)[i] = v;
}

/// y[n] = f(gate[n])·up[n], and copy[n], if not null, the same rounded to bf16. halves: gate (1), up (2), y (4) are bf16, else fp32. Reads 8n bytes (4n),
/// writes 4n (2n), and 2n of a copy.
template <typename F> __device__ __forceinline__ void gated_forward(void *y, const void *gate, const void *up, i64 n, BF16 *copy, int halves)
{
    bool halfGate = halves & 1, halfUp = halves & 2, to = halves & 4;
    four_each(
        flat_base(), n, aligned16(y, gate, up, copy),
        [&](i64 i) {
            float4 g = read4(gate, i, halfGate), u = read4(up, i, halfUp);
            float4 v = make_float4(F::apply(g.x, 0.0f) * u.x, F::apply(g.y, 0.0f) * u.y, F::apply(g.z, 0.0f) * u.z, F::apply(g.w, 0.0f) * u.w);
            write4(y, i, v, to);
            if (copy)
                *(uint2 *)(copy + i) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
        },
        [&](i64 i) {
            float v = F::apply(read1(gate, i, halfGate), 0.0f) * read1(up, i, halfUp);
            write1(y, i, v, to);
            if (copy)
                narrow(v, copy[i]);
        });
}

/// dGate = dy·up·f′(gate), dUp = dy·f(gate) (+= with accumulate); either may be null, and up where dGate is. halves: gate (1), up (2), dy (4), dGate (8), dUp (16)
/// are bf16, else fp32. Reads 12n bytes (20n with accumulate), writes 8n with both; of bf16 half.
template <typename F> __device__ __forceinline__ void gated_backward(void *dGate, void *dUp, const void *dy, const void *gate, const void *up, i64 n, int accumulate, int halves)
{
    bool addGate = dGate && accumulate, addUp = dUp && accumulate, halfGate = halves & 1, halfUp = halves & 2, halfY = halves & 4, toGate = halves & 8, toUp = halves & 16;
    auto one = [&](float g, float x, float u, float &intoGate, float &intoUp) {
        float derivative, value = F::both(x, derivative);
        intoGate = fma(g * u, derivative, intoGate);
        intoUp = fma(g, value, intoUp);
    };
    four_each(
        flat_base(), n, aligned16(dGate, dUp, dy, gate, up),
        [&](i64 i) {
            float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            float4 g = read4(dy, i, halfY), x = read4(gate, i, halfGate), u = dGate ? read4(up, i, halfUp) : zero;
            float4 a = addGate ? read4(dGate, i, toGate) : zero, b = addUp ? read4(dUp, i, toUp) : zero;
            float ax = a.x, ay = a.y, az = a.z, aw = a.w, bx = b.x, by = b.y, bz = b.z, bw = b.w;
            one(g.x, x.x, u.x, ax, bx);
            one(g.y, x.y, u.y, ay, by);
            one(g.z, x.z, u.z, az, bz);
            one(g.w, x.w, u.w, aw, bw);
            if (dGate)
                write4(dGate, i, make_float4(ax, ay, az, aw), toGate);
            if (dUp)
                write4(dUp, i, make_float4(bx, by, bz, bw), toUp);
        },
        [&](i64 i) {
            float a = addGate ? read1(dGate, i, toGate) : 0.0f, b = addUp ? read1(dUp, i, toUp) : 0.0f;
            one(read1(dy, i, halfY), read1(gate, i, halfGate), dGate ? read1(up, i, halfUp) : 0.0f, a, b);
            if (dGate)
                write1(dGate, i, a, toGate);
            if (dUp)
                write1(dUp, i, b, toUp);
        });
}

#define ENTRY(name, Type)                                                                                                \
    KERNEL(256) gated_forward_##name(void *y, const void *gate, const void *up, i64 n, BF16 *copy, int halves) { gated_forward<Type>(y, gate, up, n, copy, halves); } \
    KERNEL(256) gated_backward_##name(void *dGate, void *dUp, const void *dy, const void *gate, const void *up, i64 n, int accumulate, int halves) { gated_backward<Type>(dGate, dUp, dy, gate, up, n, accumulate, halves); }
FOR_EVERY_GATE(ENTRY)
#undef ENTRY

// Kernels over [rows, cols]: a block takes 1024 columns of a row, a row's blocks one after the other; the element of b that meets (row, col)
// stands at row·rowStep + col·colStep (None: cols, 1; OverRows: 0, 1; OverCols: 1, 0; Scalar: 0, 0).

__device__ __forceinline__ void row_and_base(i64 cols, i64 &row, i64 &base)
{
    i64 chunks = (cols + 1023) >> 10;
    row = blockIdx.x / chunks;
    base = (blockIdx.x - row * chunks) << 10;
}

/// Four elements of b for four neighbouring columns.
__device__ __forceinline__ float4 repeated4(const float *b, i64 at, int colStep)
{
    if (colStep != 0)
        return load4(b + at);
    float one = b[at];
    return make_float4(one, one, one, one);
}

/// y[rows, cols] = a ∘ b; y may be a. cols counts to 2³⁹ so that None can be one row. Reads 4(n + |b|) bytes, writes 4n.
template <typename F> __device__ __forceinline__ void binary_forward(float *y, const float *a, const float *b, int rows, i64 cols, i64 rowStep, int colStep)
{
    bool vector = (rows == 1 || (cols & 3) == 0) && aligned16(y, a, colStep != 0 ? b : nullptr);
    i64 row, base;
    row_and_base(cols, row, base);
    four_each(
        base, cols, vector,
        [&](i64 col) {
            i64 i = row * cols + col;
            float4 v = load4(a + i), w = repeated4(b, row * rowStep + col * colStep, colStep);
            store4(y + i, make_float4(F::apply(v.x, w.x), F::apply(v.y, w.y), F::apply(v.z, w.z), F::apply(v.w, w.w)));
        },
        [&](i64 col) {
            i64 i = row * cols + col;
            y[i] = F::apply(a[i], b[row * rowStep + col * colStep]);
        });
}

/// da[rows, cols] += dy·∂(a ∘ b)/∂a; b may be null for sums. Reads 4(2n + |b|) bytes, writes 4n.
template <typename F> __device__ __forceinline__ void binary_backward_a(float *da, const float *dy, const float *b, int rows, i64 cols, i64 rowStep, int colStep)
{
    if (b == nullptr)
    {
        b = dy;
        rowStep = 0;
        colStep = 0;
    }
    bool vector = (rows == 1 || (cols & 3) == 0) && aligned16(da, dy, colStep != 0 ? b : nullptr);
    i64 row, base;
    row_and_base(cols, row, base);
    four_each(
        base, cols, vector,
        [&](i64 col) {
            i64 i = row * cols + col;
            float4 g = load4(dy + i), w = repeated4(b, row * rowStep + col * colStep, colStep), d = load4(da + i);
            store4(da + i, make_float4(d.x + F::by_a(g.x, w.x), d.y + F::by_a(g.y, w.y), d.z + F::by_a(g.z, w.z), d.w + F::by_a(g.w, w.w)));
        },
        [&](i64 col) {
            i64 i = row * cols + col;
            da[i] = da[i] + F::by_a(dy[i], b[row * rowStep + col * colStep]);
        });
}

/// db[n] += dy·∂(a ∘ b)/∂b where b is not repeated (Broadcast.None; the sums of the others stand in reduce.cu). a and b
/// may be null where not read. Reads 8n to 16n bytes, writes 4n.
template <typename F> __device__ __forceinline__ void binary_backward_b(float *db, const float *dy, const float *a, const float *b, i64 n)
{
    four_each(
        flat_base(), n, false, [&](i64) {},
        [&](i64 i) { db[i] = db[i] + F::by_b(dy[i], F::needs_a ? a[i] : 0.0f, F::needs_b ? b[i] : 0.0f); });
}

#define ENTRY(name, Type)                                                                                                \
    KERNEL(256) binary_forward_##name(float *y, const float *a, const float *b, int rows, i64 cols, i64 rowStep, int colStep) { binary_forward<Type>(y, a, b, rows, cols, rowStep, colStep); } \
    KERNEL(256) binary_backward_a_##name(float *da, const float *dy, const float *b, int rows, i64 cols, i64 rowStep, int colStep) { binary_backward_a<Type>(da, dy, b, rows, cols, rowStep, colStep); } \
    KERNEL(256) binary_backward_b_##name(float *db, const float *dy, const float *a, const float *b, i64 n) { binary_backward_b<Type>(db, dy, a, b, n); }
FOR_EVERY_BINARY(ENTRY)
#undef ENTRY

/// y[n] = value. Writes 4n bytes.
KERNEL(256) fill(float *y, i64 n, float value)
{
    four_each(
        flat_base(), n, aligned16(y), [&](i64 i) { store4(y + i, make_float4(value, value, value, value)); }, [&](i64 i) { y[i] = value; });
}

/// y[n] = x[n], any type, n bytes: 16 a thread and step, so the grid is ceil(bytes / 4096). Reads n bytes, writes n.
//! elementwise | copy_bytes | block 256 | grid ceil(bytes / 4096) | shared 0
KERNEL(256) copy_bytes(u8 *y, const u8 *x, i64 bytes)
{
    i64 base = (i64)blockIdx.x * 4096;
    i64 at = base + threadIdx.x * 16;
    if (aligned16(y, x) && at + 15 < bytes)
        *(uint4 *)(y + at) = *(const uint4 *)(x + at);
    else if (aligned16(y, x))
    {
        for (i64 i = at; i < bytes && i < at + 16; i++)
            y[i] = x[i];
    }
    else
    {
        for (int k = 0; k < 16; k++)
            if (base + k * 256 + (int)threadIdx.x < bytes)
                y[base + k * 256 + threadIdx.x] = x[base + k * 256 + threadIdx.x];
    }
}

/// y[n] = x[n] in another type, rounded to nearest even. Reads and writes n elements.
template <typename To, typename From> __device__ __forceinline__ void cast(To *y, const From *x, i64 n)
{
    four_each(
        flat_base(), n, false, [&](i64) {}, [&](i64 i) { narrow(widen(x[i]), y[i]); });
}
KERNEL(256) cast_f32_bf16(BF16 *y, const float *x, i64 n) { cast(y, x, n); }
KERNEL(256) cast_f32_f16(F16 *y, const float *x, i64 n) { cast(y, x, n); }
KERNEL(256) cast_bf16_f32(float *y, const BF16 *x, i64 n) { cast(y, x, n); }
KERNEL(256) cast_f16_f32(float *y, const F16 *x, i64 n) { cast(y, x, n); }

/// x as the sum of `count` (1 to 3) bf16 numbers, the largest first: part i of element j at parts[i·n + j], each the nearest to what the
/// earlier ones leave. Reads 4n bytes, writes 2·count·n.
KERNEL(256) split_f32_bf16(BF16 *parts, const float *x, i64 n, int count)
{
    four_each(
        flat_base(), n, aligned16(x) && ((u64)parts & 7) == 0 && (n & 3) == 0,
        [&](i64 i) {
            float4 v = load_four(x + i);
            for (int k = 0; k < count; k++)
            {
                uint2 pairs = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
                *(uint2 *)(parts + k * n + i) = pairs;
                v = make_float4(v.x - low_bf16(pairs.x), v.y - high_bf16(pairs.x), v.z - low_bf16(pairs.y), v.w - high_bf16(pairs.y));
            }
        },
        [&](i64 i) {
            float rest = x[i];
            for (int k = 0; k < count; k++)
            {
                BF16 part;
                narrow(rest, part);
                parts[k * n + i] = part;
                rest -= widen(part);
            }
        });
}

/// y[i] = draw start + i of Philox.Uniform(seed, stream, ·), the same bits as on the CPU. Writes 4n bytes.
KERNEL(256) fill_uniform(float *y, i64 n, u64 seed, u64 stream, u64 start)
{
    four_each(
        flat_base(), n, false, [&](i64) {}, [&](i64 i) { y[i] = philox_uniform(seed, stream, start + (u64)i); });
}

/// y[rows, cols] += bias[cols], in place: binary_forward_add with b over rows. Kept as an entry of its own for its name.
KERNEL(256) add_bias(float *y, const float *bias, int rows, i64 cols) { binary_forward<Add>(y, y, bias, rows, cols, 0, 1); }
