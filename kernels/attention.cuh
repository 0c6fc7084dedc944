// What attention.cu and attention_rounded.cu share: the operands and how rows and keys of a problem lie in memory.
#pragma once
#include "math.cuh"
#include "mma.cuh"

/// Operands and sizes; passed by value as one parameter, 168 bytes. Kernels read what their docstrings name.
struct AttentionParams
{
    float *o;
    float *lse;
    const float *q;
    const float *k;
    const float *v;
    const int *firstKey;
    const float *dO;
    float *delta;
    float *dq;
    float *dk;
    float *dv;
    float *partial; // attention_split: sums, then maxima, then denominators
    int batch;
    int queryLength;
    int keyLength;
    int heads;
    int kvHeads;
    int headDim;
    int keyStride;
    int window;
    int splitKeys; // attention_split: keys of a stretch, a multiple of 32
    int splits;
    float scale;
    float softCap;
    const int *cached; // forward and split: keys before the queries' own, in device memory; null where keyLength says how many keys there are
    int accumulate; // backward: gradients are added to what is there
    int reserved;
    BF16 *copy; // attention_forward_rounded: o rounded to bf16; null where nobody reads it
};

const float Log2E = 1.44269504088896341f;

/// One problem: a sequence and a key head with its group of query heads.
struct Problem
{
    const AttentionParams &p;
    int sequence, kvHead, group, rows, first, offset;

    __device__ __forceinline__ Problem(const AttentionParams &params) : Problem(params, params.keyLength) {}
    __device__ __forceinline__ Problem(const AttentionParams &params, int keyLength) : p(params)
    {
        sequence = blockIdx.y / p.kvHeads;
        kvHead = blockIdx.y - sequence * p.kvHeads;
        group = p.heads / p.kvHeads;
        rows = p.queryLength * group;
        first = larger(0, p.firstKey[sequence]);
        offset = keyLength - p.queryLength;
    }

    __device__ __forceinline__ int query(int row) const { return offset + row / group; }

    /// Index of a row in lse and delta.
    __device__ __forceinline__ i64 row_index(int row) const
    {
        int token = row / group;
        return ((i64)sequence * p.queryLength + token) * p.heads + kvHead * group + (row - token * group);
    }
    __device__ __forceinline__ i64 row_offset(int row) const { return row_index(row) * p.headDim; }
    __device__ __forceinline__ i64 key_offset(int key) const { return (((i64)sequence * p.keyStride + key) * p.kvHeads + kvHead) * p.headDim; }

    __device__ __forceinline__ bool visible(int query, int key) const { return key >= first && key <= query && (p.window == 0 || key > query - p.window); }

    /// First key that a query from `query` on can see.
    __device__ __forceinline__ int lowest_key(int query) const { return p.window == 0 ? first : larger(first, query - p.window + 1); }

    /// 16-byte loads need headDim in fours and aligned arrays.
    __device__ __forceinline__ bool vector(const float *a, const float *b) const { return (p.headDim & 3) == 0 && aligned16(a, b); }

    /// scale·x, capped; slope is the derivative of the cap.
    __device__ __forceinline__ float score(float dot, float &slope) const
    {
        float s = dot * p.scale;
        slope = 1.0f;
        if (p.softCap > 0.0f)
        {
            float t = tanh_fast(s / p.softCap);
            slope = (1.0f - t) * (1.0f + t);
            s = p.softCap * t;
        }
        return s;
    }
};
