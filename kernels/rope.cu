// Rotary position embedding. Floor: the bytes of the docstring over the device's bandwidth.
//! rope | rope | block 256 | grid rows | shared 0
#include "common.cuh"

/// Rotates x [rows, heads, headDim] at positions[rows] (I32): pairs (i, i + rotaryDim/2), or (2i, 2i + 1) when interleaved,
/// by the angles whose cos and sin are [positions, rotaryDim / 2]; the elements from rotaryDim on are copied. y may be x
/// when accumulate is 0. inverse rotates by the negative angle, which with accumulate (y +=) is the backward pass.
/// A block takes a row; a thread takes pairs, neighbours in neighbouring lanes (by 8 bytes when interleaved).
/// Reads 4·n bytes (8·n with accumulate) and rotaryDim/2 cosines and sines a row, writes 4·n, n = rows·heads·headDim.
KERNEL(256) rope(float *y, const float *x, const float *PLAIN cos, const float *PLAIN sin, const int *PLAIN positions, int heads, int headDim, int rotaryDim, int interleaved, int inverse, int accumulate)
{
    int row = blockIdx.x, half = rotaryDim >> 1, pairs = heads * half;
    i64 start = (i64)row * heads * headDim, angle = (i64)positions[row] * half;
    for (int pair = threadIdx.x; pair < pairs; pair += 256)
    {
        int head = pair / half, i = pair - head * half;
        float c = cos[angle + i], s = sin[angle + i];
        s = inverse ? -s : s;
        i64 first = start + (i64)head * headDim + (interleaved ? 2 * i : i), second = first + (interleaved ? 1 : half);
        float a = x[first], b = x[second];
        float turnedA = a * c - b * s, turnedB = b * c + a * s;
        y[first] = accumulate ? y[first] + turnedA : turnedA;
        y[second] = accumulate ? y[second] + turnedB : turnedB;
    }
    int rest = headDim - rotaryDim;
    if (rest == 0 || (y == x && !accumulate))
        return;
    for (int k = threadIdx.x; k < heads * rest; k += 256)
    {
        int head = k / rest;
        i64 i = start + (i64)head * headDim + rotaryDim + (k - head * rest);
        y[i] = accumulate ? y[i] + x[i] : x[i];
    }
}
