// Philox4x32-10 of Salmon, Moraes, Dror and Shaw (SC'11), with the counter layout of Repeng.Kernels.Philox: the key is
// the seed (low word first), the counter is (index, stream), each low word first. Draw `index` of a stream is word
// index % 4 of block index / 4.
#pragma once
#include "common.cuh"

struct PhiloxBlock
{
    unsigned x[4];
};

__device__ __forceinline__ PhiloxBlock philox_block(u64 seed, u64 stream, u64 block)
{
    unsigned c0 = (unsigned)block, c1 = (unsigned)(block >> 32), c2 = (unsigned)stream, c3 = (unsigned)(stream >> 32);
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++)
    {
        u64 first = (u64)0xD2511F53u * c0, second = (u64)0xCD9E8D57u * c2;
        unsigned next0 = (unsigned)(second >> 32) ^ c1 ^ k0, next2 = (unsigned)(first >> 32) ^ c3 ^ k1;
        c0 = next0;
        c1 = (unsigned)second;
        c2 = next2;
        c3 = (unsigned)first;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    PhiloxBlock result = {{c0, c1, c2, c3}};
    return result;
}

/// Uniform in [0, 1) on the grid of 2⁻²⁴.
__device__ __forceinline__ float philox_unit(unsigned word) { return (float)(word >> 8) * (1.0f / 16777216.0f); }

__device__ __forceinline__ float philox_uniform(u64 seed, u64 stream, u64 index)
{
    PhiloxBlock b = philox_block(seed, stream, index >> 2);
    int lane = (int)(index & 3);
    return philox_unit(lane == 0 ? b.x[0] : lane == 1 ? b.x[1] : lane == 2 ? b.x[2] : b.x[3]);
}
