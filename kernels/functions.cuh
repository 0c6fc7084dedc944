// The functions of UnaryOp and BinaryOp with their derivatives, as in Cpu/UnaryFunctions.cs. A derivative reads x or the
// result y, as UnaryOps.BackwardReadsOutput tells; the kernels hand it whichever it is.
#pragma once
#include "math.cuh"

#define UNARY(Name, value, slope)                                                                                        \
    struct Name                                                                                                          \
    {                                                                                                                    \
        static __device__ __forceinline__ float apply(float x, float p) { return value; }                                \
        static __device__ __forceinline__ float derivative(float x, float p) { return slope; }                           \
    };

UNARY(Scale, (x * p), p)
UNARY(Offset, x + p, 1.0f)
UNARY(Exp, exp_of(x), x)
UNARY(Log, log_of(x), 1.0f / x)
UNARY(Log1p, log1p_of(x), 1.0f / (1.0f + x))
UNARY(Sqrt, square_root(x), 0.5f / x)
UNARY(Square, (x * x), x + x)
// A constant (p = 0) has slope 0 at x = 0 too, where p·xᵖ⁻¹ would be 0·∞.
UNARY(Power, power_of(x, p), p == 0.0f ? 0.0f : p * power_of(x, p - 1.0f))
UNARY(Reciprocal, 1.0f / x, -(x * x))
UNARY(Abs, absolute(x), (x > 0.0f ? 1.0f : 0.0f) - (x < 0.0f ? 1.0f : 0.0f))
UNARY(Relu, x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f)
UNARY(Min, x > p ? p : x, x <= p ? 1.0f : 0.0f)
UNARY(Max, x < p ? p : x, x >= p ? 1.0f : 0.0f)
UNARY(Tanh, tanh_of(x), (1.0f - x) * (1.0f + x))
UNARY(SoftCap, p * tanh_of(x / p), (1.0f - x / p) * (1.0f + x / p))
UNARY(Sigmoid, sigmoid_of(x), x * (1.0f - x))
UNARY(LogSigmoid, (x > 0.0f ? 0.0f : x) - log1p_of(exp_of(-absolute(x))), sigmoid_of(-x))
#undef UNARY

// Functions that gate another operand: value and derivative share their work.

struct Silu
{
    static __device__ __forceinline__ float both(float x, float &derivative)
    {
        float complement, sigmoid = sigmoid_of(x, complement);
        derivative = sigmoid * fma(x, complement, 1.0f);
        return x * sigmoid;
    }
    static __device__ __forceinline__ float apply(float x, float) { return x * sigmoid_of(x); }
    static __device__ __forceinline__ float derivative(float x, float)
    {
        float d;
        both(x, d);
        return d;
    }
};

struct Gelu
{
    static __device__ __forceinline__ float both(float x, float &derivative)
    {
        float gaussian, cdf = normal_cdf(x, gaussian);
        derivative = fma(x * 0.398942280f, gaussian, cdf);
        return x * cdf;
    }
    static __device__ __forceinline__ float apply(float x, float)
    {
        float d;
        return both(x, d);
    }
    static __device__ __forceinline__ float derivative(float x, float)
    {
        float d;
        both(x, d);
        return d;
    }
};

struct GeluTanh
{
    // ½x(1 + tanh u) = x·σ(2u), u = √(2/π)(x + 0.044715x³).
    static __device__ __forceinline__ float argument(float x) { return x * fma(x * x, 2.0f * 0.797884561f * 0.044715f, 2.0f * 0.797884561f); }
    static __device__ __forceinline__ float both(float x, float &derivative)
    {
        float complement, sigmoid = sigmoid_of(argument(x), complement);
        float slope = fma(x * x, 6.0f * 0.797884561f * 0.044715f, 2.0f * 0.797884561f);
        // At large |x| the product of both sigmoids is 0 and must not meet an infinite slope.
        float product = sigmoid * complement;
        derivative = sigmoid + (product == 0.0f ? 0.0f : product * x * slope);
        return x * sigmoid;
    }
    static __device__ __forceinline__ float apply(float x, float) { return x * sigmoid_of(argument(x)); }
    static __device__ __forceinline__ float derivative(float x, float)
    {
        float d;
        both(x, d);
        return d;
    }
};

/// Every function of UnaryOp: M(entry name, type).
#define FOR_EVERY_UNARY(M)                                                                                               \
    M(scale, Scale)                                                                                                      \
    M(offset, Offset)                                                                                                    \
    M(exp, Exp)                                                                                                          \
    M(log, Log)                                                                                                          \
    M(log1p, Log1p)                                                                                                      \
    M(sqrt, Sqrt)                                                                                                        \
    M(square, Square)                                                                                                    \
    M(power, Power)                                                                                                      \
    M(reciprocal, Reciprocal)                                                                                            \
    M(abs, Abs)                                                                                                          \
    M(relu, Relu)                                                                                                        \
    M(min, Min)                                                                                                          \
    M(max, Max)                                                                                                          \
    M(tanh, Tanh)                                                                                                        \
    M(soft_cap, SoftCap)                                                                                                 \
    M(sigmoid, Sigmoid)                                                                                                  \
    M(log_sigmoid, LogSigmoid)                                                                                           \
    M(silu, Silu)                                                                                                        \
    M(gelu, Gelu)                                                                                                        \
    M(gelu_tanh, GeluTanh)

/// Functions that gate: M(entry name, type).
#define FOR_EVERY_GATE(M)                                                                                                \
    M(silu, Silu)                                                                                                        \
    M(gelu, Gelu)                                                                                                        \
    M(gelu_tanh, GeluTanh)

// Functions of two variables: the value, and what an element adds to the gradients by a and by b.

struct Add
{
    static __device__ __forceinline__ float apply(float a, float b) { return a + b; }
    static __device__ __forceinline__ float by_a(float dy, float) { return dy; }
    static __device__ __forceinline__ float by_b(float dy, float, float) { return dy; }
    static const bool needs_a = false, needs_b = false;
};
struct Subtract
{
    static __device__ __forceinline__ float apply(float a, float b) { return a - b; }
    static __device__ __forceinline__ float by_a(float dy, float) { return dy; }
    static __device__ __forceinline__ float by_b(float dy, float, float) { return -dy; }
    static const bool needs_a = false, needs_b = false;
};
struct Multiply
{
    static __device__ __forceinline__ float apply(float a, float b) { return a * b; }
    static __device__ __forceinline__ float by_a(float dy, float b) { return dy * b; }
    static __device__ __forceinline__ float by_b(float dy, float a, float) { return dy * a; }
    static const bool needs_a = true, needs_b = false;
};
struct Divide
{
    static __device__ __forceinline__ float apply(float a, float b) { return a / b; }
    static __device__ __forceinline__ float by_a(float dy, float b) { return dy / b; }
    // Two divisions: b² would leave the range of fp32 long before the quotient does.
    static __device__ __forceinline__ float by_b(float dy, float a, float b) { return -(dy * (a / b) / b); }
    static const bool needs_a = true, needs_b = true;
};

/// Every function of BinaryOp: M(entry name, type).
#define FOR_EVERY_BINARY(M)                                                                                              \
    M(add, Add)                                                                                                          \
    M(subtract, Subtract)                                                                                                \
    M(multiply, Multiply)                                                                                                \
    M(divide, Divide)
