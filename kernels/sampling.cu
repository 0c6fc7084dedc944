// The next token of each row of logits, as Steering/Generation/Sampler.cs: repetition penalty, temperature, top-k, top-p, min-p,
// then the largest score (the first of equals) or a draw from the softmax addressed by (seed, stream, step) of Philox.
// A block of 1024 threads owns a row and keeps its processed scores in `scores`; nothing is sorted: the k-th largest score and
// the border of top-p are found by four passes over 8-bit digits of an order-preserving key, with integer counts and with
// probability mass in units of 2⁻⁵² (integers add in any order to the same sum). Probabilities are double, as on the CPU.
// Two differences to a sort: scores equal to the border of top-p are all kept, and the mass is rounded to 2⁻⁵².
// Floor: 4·vocabulary bytes a row in and out over the bandwidth; about 6 (greedy 2) to 16 passes over the row from L2 are made.
//! sampling | sample | block 1024 | grid rows | shared 0
#include "math.cuh"
#include "philox.cuh"

/// One row's settings; 64 bytes, in device memory.
struct SampleRow
{
    const int *seen; // distinct token ids the penalty is for, or null
    int seenCount;
    int sample; // 0: greedy
    u64 seed;
    u64 stream;
    u64 step;
    float repetitionPenalty; // 1: none
    float temperature;
    float topP; // 1: none
    float minP; // 0: none
    int topK;   // 0: none
    int check;  // 1: the token is −1 where a logit is not finite, or all are the same
};

/// A key that orders floats as numbers; −∞ is the smallest that occurs.
__device__ __forceinline__ unsigned order_of(float x)
{
    unsigned bits = (unsigned)bits_of(x);
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ void add_shared(u64 *to, u64 x) { asm volatile("red.shared.add.u64 [%0], %1;" ::"r"(shared_address(to)), "l"(x) : "memory"); }

struct SampleRoom
{
    u64 bins[256];
    double sums[32];
    float maxima[32];
    u64 taken;
    unsigned prefix;
    int answer;
};

__device__ __forceinline__ double block_sum_double(double x, SampleRoom &room) { return block_sum(x, room.sums, 1024); }

/// Probability of a score over the row's maximum, not divided by the sum; 0 for −∞.
__device__ __forceinline__ double weight_of(float score, float most) { return exp_of((double)score - (double)most); }

__device__ __forceinline__ float row_max(const float *scores, int n, SampleRoom &room)
{
    float most = -positive_infinity();
    for (int i = threadIdx.x; i < n; i += 1024)
        most = larger(most, scores[i]);
    return block_max(most, room.maxima, 1024);
}

__device__ __forceinline__ double row_sum(const float *scores, int n, float most, SampleRoom &room)
{
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += 1024)
        sum += weight_of(scores[i], most);
    return block_sum_double(sum, room);
}

/// The key v such that the amounts of keys above v are less than `target` and those of v and above reach it (ascending: below and
/// up to v, exceed it); amount(i) of element i is an integer. Four passes, the highest digit first.
template <bool ASCENDING, typename Amount> __device__ __forceinline__ unsigned find_key(const float *scores, int n, u64 target, Amount amount, SampleRoom &room)
{
    if (threadIdx.x == 0)
    {
        room.prefix = 0;
        room.taken = 0;
    }
    for (int shift = 24; shift >= 0; shift -= 8)
    {
        for (int b = threadIdx.x; b < 256; b += 1024)
            room.bins[b] = 0;
        __syncthreads();
        unsigned prefix = room.prefix;
        for (int i = threadIdx.x; i < n; i += 1024)
        {
            unsigned key = order_of(scores[i]);
            if (shift == 24 || (key >> (shift + 8)) == (prefix >> (shift + 8)))
                add_shared(&room.bins[(key >> shift) & 255], amount(i));
        }
        __syncthreads();
        if (threadIdx.x == 0)
        {
            u64 taken = room.taken;
            int digit = ASCENDING ? 0 : 255;
            for (;;)
            {
                u64 with = taken + room.bins[digit];
                bool here = ASCENDING ? with > target : with >= target;
                if (here || digit == (ASCENDING ? 255 : 0))
                    break;
                taken = with;
                digit += ASCENDING ? 1 : -1;
            }
            room.taken = taken;
            room.prefix = prefix | ((unsigned)digit << shift);
        }
        __syncthreads();
    }
    unsigned key = room.prefix;
    __syncthreads();
    return key;
}

/// tokens[row] of logits [rows, n] with settings[row]; scores [rows, n] receives the processed scores (−∞ where removed).
KERNEL(1024) sample(int *tokens, float *scores, const float *PLAIN logits, const SampleRow *PLAIN settings, int n)
{
    __shared__ SampleRoom room;
    const SampleRow s = settings[blockIdx.x];
    float *x = scores + (i64)blockIdx.x * n;
    const float *raw = logits + (i64)blockIdx.x * n;
    int thread = threadIdx.x;
    float broken = 0.0f, differs = 0.0f, same = raw[0];
    for (int i = thread; i < n; i += 1024)
    {
        float v = raw[i];
        x[i] = v;
        broken = absolute(v) < positive_infinity() ? broken : 1.0f;
        differs = v == same ? differs : 1.0f;
    }
    __syncthreads();
    if (s.check)
    {
        broken = block_max(broken, room.maxima, 1024);
        differs = block_max(differs, room.maxima, 1024);
        if (broken > 0.0f || (n > 1 && differs == 0.0f))
        {
            if (thread == 0)
                tokens[blockIdx.x] = -1;
            return;
        }
    }
    if (s.repetitionPenalty != 1.0f)
    {
        for (int i = thread; i < s.seenCount; i += 1024)
        {
            int id = s.seen[i];
            x[id] = raw[id] > 0.0f ? raw[id] / s.repetitionPenalty : raw[id] * s.repetitionPenalty;
        }
        __syncthreads();
    }
    if (!s.sample)
    {
        // The largest, the lowest index among equals: two reductions.
        float most = row_max(x, n, room);
        if (thread == 0)
            room.answer = n;
        __syncthreads();
        int first = n;
        for (int i = thread; i < n && first == n; i += 1024)
            if (x[i] == most)
                first = i;
        if (first < n)
            asm volatile("red.shared.min.s32 [%0], %1;" ::"r"(shared_address(&room.answer)), "r"(first) : "memory");
        __syncthreads();
        if (thread == 0)
            tokens[blockIdx.x] = room.answer < n ? room.answer : 0;
        return;
    }
    if (s.temperature != 1.0f)
    {
        for (int i = thread; i < n; i += 1024)
            x[i] = x[i] / s.temperature;
        __syncthreads();
    }
    if (s.topK > 0 && s.topK < n)
    {
        unsigned border = find_key<false>(x, n, (u64)s.topK, [&](int) { return (u64)1; }, room);
        for (int i = thread; i < n; i += 1024)
            if (order_of(x[i]) < border)
                x[i] = -positive_infinity();
        __syncthreads();
    }
    float most = row_max(x, n, room);
    if (s.topP < 1.0f)
    {
        // Removed from the smallest on while the sum of what is removed stays ≤ 1 − p; the largest always stays.
        double sum = row_sum(x, n, most, room), unit = 4503599627370496.0 / sum;
        u64 target = (u64)((double)(1.0f - s.topP) * 4503599627370496.0);
        unsigned border = find_key<true>(x, n, target, [&](int i) { return (u64)(weight_of(x[i], most) * unit + 0.5); }, room);
        for (int i = thread; i < n; i += 1024)
            if (order_of(x[i]) < border && x[i] != most)
                x[i] = -positive_infinity();
        __syncthreads();
    }
    if (s.minP > 0.0f)
    {
        for (int i = thread; i < n; i += 1024)
            if (weight_of(x[i], most) < (double)s.minP)
                x[i] = -positive_infinity();
        __syncthreads();
    }
    // A thread owns a stretch of the vocabulary in order; the draw falls into one stretch, whose thread walks it.
    double total = row_sum(x, n, most, room);
    double u = (double)philox_uniform(s.seed, s.stream, s.step);
    int each = (n + 1023) / 1024, begin = smaller(n, thread * each), end = smaller(n, begin + each);
    double mine = 0.0;
    for (int i = begin; i < end; i++)
        mine += weight_of(x[i], most) / total;
    // Sums of all stretches up to this one: within the warp, then over the warps.
    int lane = thread & 31, warp = thread >> 5;
    double upTo = mine;
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1)
    {
        double other = shuffle_up(upTo, distance);
        upTo = lane >= distance ? upTo + other : upTo;
    }
    if (lane == 31)
        room.sums[warp] = upTo;
    if (thread == 0)
        room.answer = -1;
    __syncthreads();
    double before = upTo - mine;
    for (int w = 0; w < warp; w++)
        before += room.sums[w];
    int last = -1, found = -1;
    double cumulative = before;
    for (int i = begin; i < end; i++)
    {
        double p = weight_of(x[i], most) / total;
        if (p == 0.0)
            continue;
        last = i;
        cumulative += p;
        if (found < 0 && u < cumulative)
            found = i;
    }
    // The lowest token whose sum exceeds u; where rounding leaves none, the last that has a probability.
    __syncthreads();
    if (thread == 0)
        room.taken = 0xFFFFFFFFu;
    __syncthreads();
    if (found >= 0)
        asm volatile("red.shared.min.u32 [%0], %1;" ::"r"(shared_address(&room.taken)), "r"(found) : "memory");
    if (last >= 0)
        asm volatile("red.shared.max.s32 [%0], %1;" ::"r"(shared_address(&room.answer)), "r"(last) : "memory");
    __syncthreads();
    if (thread == 0)
        tokens[blockIdx.x] = (unsigned)room.taken != 0xFFFFFFFFu ? (int)(unsigned)room.taken : room.answer < 0 ? 0 : room.answer;
}
