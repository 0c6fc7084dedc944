// The next token of each row of logits, as Steering/Generation/Sampler.cs: repetition penalty, temperature, top-k, top-p, min-p,
// then the largest score (the first of equals) or a draw from the softmax addressed by (seed, stream, step) of Philox.
// A block of 512 threads owns a row and leaves its processed scores in `scores`; nothing is sorted: the k-th largest score and the
// border of top-p are found by digits of an order-preserving key, with integer counts and with probability mass in units of 2⁻⁵²
// (integers add in any order to the same sum). Probabilities are double, as on the CPU.
// Two differences to a sort: scores equal to the border of top-p are all kept, and the mass is rounded to 2⁻⁵².
// Passes over the row, which comes from L2 (a row of Qwen3's vocabulary is 0.6 MB), but for a repetition penalty, which is written before:
//  greedy; a draw with neither top-k, top-p nor min-p: one, which also writes. Sums of probability are kept relative to the largest so far.
//  top-k: one that counts scores by the first 12 bits of their key, one that writes them, −∞ below the bin of the k-th.
//  top-p without top-k: one for the sum, one for the mass of each such bin, one that writes, −∞ below the bin of the border.
//  min-p alone: one for the largest, one that writes.
// What is not below the bin is listed in shared memory (up to 4096), and what is left of it (up to 512) put in order; the rest of the work
// is theirs. Where a list would be too long, every further step is a pass over the written row.
// Floor: 4·vocabulary bytes a row in and out over the bandwidth, and in once more for each pass before the one that writes.
//! sampling | sample | block 512 | grid rows | shared 0
#include "philox.cuh"
#include "sampling.cuh"

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

/// The next free place of a list.
__device__ __forceinline__ int next_place(SampleRoom &room)
{
    int at;
    asm volatile("atom.shared.add.u32 %0, [%1], 1;" : "=r"(at) : "r"(shared_address(&room.count)) : "memory");
    return at;
}

/// x = the scores of from, −∞ below the bin but for the score `spared`; the others are listed as candidates, room.count of them, whether there is
/// room or not.
template <typename Score> __device__ __forceinline__ void list_row(float *x, const float *from, int n, unsigned bin, float spared, Score score, SampleRoom &room)
{
    if (threadIdx.x == 0)
        room.count = 0;
    __syncthreads();
    over_row<true>(x, from, n, [&](int i, float v) {
        float y = score(v);
        if (order_of(y) >> 20 < bin && y != spared)
            return minus_infinity();
        int at = next_place(room);
        if (at < Candidates)
        {
            room.candidates.scores[at] = y;
            room.candidates.indices[at] = i;
        }
        return y;
    });
    __syncthreads();
}

/// Removes candidates below the border, but not the score `spared`, from x, and puts the others in order. False where they are too many.
__device__ __forceinline__ bool keep(float *x, unsigned border, float spared, SampleRoom &room)
{
    int thread = threadIdx.x, count = room.count;
    __syncthreads();
    if (thread == 0)
        room.count = 0;
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < count; i += Threads)
    {
        float score = room.candidates.scores[i];
        if (order_of(score) < border && score != spared)
        {
            x[room.candidates.indices[i]] = minus_infinity();
            continue;
        }
        int at = next_place(room);
        if (at < Kept)
        {
            room.scores[at] = score;
            room.indices[at] = room.candidates.indices[i];
        }
    }
    __syncthreads();
    count = room.count;
    if (count > Kept)
        return false;
    // A token's place is how many lie before it.
    int before = 0, index = thread < count ? room.indices[thread] : 0;
    float own = thread < count ? room.scores[thread] : 0.0f;
#pragma unroll 1
    for (int j = 0; j < count; j++)
        before += room.indices[j] < index ? 1 : 0;
    __syncthreads();
    if (thread < count)
    {
        room.scores[before] = own;
        room.indices[before] = index;
    }
    __syncthreads();
    return true;
}

/// Probability mass in units of 2⁻⁵² that top-p may remove.
__device__ __forceinline__ u64 removable(const SampleRow &s) { return (u64)((double)(1.0f - s.topP) * 4503599627370496.0); }

/// Top-p where it is still to do, min-p and the draw among what is kept, a token a thread.
__device__ __forceinline__ int draw_kept(float *x, const SampleRow &s, bool topP, SampleRoom &room)
{
    int thread = threadIdx.x, count = room.count, index = thread < count ? room.indices[thread] : 0;
    float own = thread < count ? room.scores[thread] : minus_infinity();
    float most = block_max(own, room.maxima, Threads);
    double weight = weight_of(own, most);
    bool removed = false;
    if (topP)
    {
        // Removed from the smallest on while the sum of what is removed stays ≤ 1 − p; the largest always stays.
        double unit = 4503599627370496.0 / block_sum(weight, room.sums, Threads);
        unsigned border = find_key<true>(
            count, removable(s), 0, [&](int) { return own; }, [&](int) { return (u64)(weight * unit + 0.5); }, room);
        removed = order_of(own) < border && own != most;
    }
    removed |= s.minP > 0.0f && weight < (double)s.minP;
    if (removed)
    {
        weight = 0.0;
        if (thread < count)
            x[index] = minus_infinity();
    }
    double upTo = block_sum_up_to(weight, room.sums);
    if (thread == Threads - 1)
        room.segments[0] = upTo;
    if (thread == 0)
    {
        room.found = 0xFFFFFFFFu;
        room.answer = 0;
    }
    __syncthreads();
    // The lowest token whose sum exceeds the draw; where rounding leaves none, the last that has a probability.
    double target = (double)philox_uniform(s.seed, s.stream, s.step) * room.segments[0];
    if (weight > 0.0 && target < upTo)
        asm volatile("red.shared.min.u32 [%0], %1;" ::"r"(shared_address(&room.found)), "r"(index) : "memory");
    if (weight > 0.0)
        asm volatile("red.shared.max.s32 [%0], %1;" ::"r"(shared_address(&room.answer)), "r"(index) : "memory");
    __syncthreads();
    return room.found != 0xFFFFFFFFu ? (int)room.found : room.answer;
}

/// The first of the sums with which they exceed target, else the last that is not 0; target: what is left of it within that one.
__device__ __forceinline__ int choose(const double *sums, double &target)
{
    int chosen = 0;
    double before = 0.0, below = 0.0;
    for (int i = 0; i < Warps; i++)
    {
        if (sums[i] == 0.0)
            continue;
        chosen = i;
        below = before;
        before += sums[i];
        if (target < before)
            break;
    }
    target -= below;
    return chosen;
}

/// The draw from the whole row x, whose parts have the sums room.segments: in one of them, in a sixteenth of it, and there token by token.
__device__ __forceinline__ int draw_row(const float *x, int n, const SampleRow &s, Mass mass, SampleRoom &room)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, each = segment_of(n), part = ((each + Warps * 32 - 1) / (Warps * 32)) * 32;
    double target = (double)philox_uniform(s.seed, s.stream, s.step) * mass.sum;
    int begin = choose(room.segments, target) * each, end = smaller(n, begin + each), from = begin + warp * part, to = smaller(end, from + part);
    double sum = 0.0;
    for (int i = from + lane; i < to; i += 32)
        sum += weight_of(x[i], mass.most);
    sum = warp_sum(sum);
    if (lane == 0)
        room.sums[warp] = sum;
    __syncthreads();
    from = begin + choose(room.sums, target) * part;
    to = smaller(end, from + part);
    if (warp == 0)
    {
        // The lowest token whose sum exceeds the draw; where rounding leaves none, the last that has a probability.
        int last = 0;
        double before = 0.0;
        unsigned here = 0;
        for (int i = from; i < to && here == 0; i += 32)
        {
            double weight = i + lane < to ? weight_of(x[i + lane], mass.most) : 0.0, upTo = before + warp_sum_up_to(weight);
            here = lanes_with(weight > 0.0 && target < upTo);
            last = here ? i + popcount((here & (0u - here)) - 1) : weight > 0.0 ? i + lane : last;
            before = warp_last(upTo);
        }
#pragma unroll
        for (int mask = 16; mask > 0; mask >>= 1)
            last = larger(last, shuffle_xor(last, mask));
        if (lane == 0)
            room.answer = last;
    }
    __syncthreads();
    return room.answer;
}

/// What is to do where neither list was long enough, on the written row: top-p where it is still to do (its border), min-p, and the sums of the draw.
__device__ __forceinline__ Mass finish_row(float *x, int n, const SampleRow &s, bool topP, SampleRoom &room)
{
    Mass mass;
    over_row<false>(nullptr, x, n, [&](int, float v) {
        mass.add(v);
        return v;
    });
    mass.gather(room);
    float most = mass.most;
    if (!topP && s.minP == 0.0f)
        return mass;
    unsigned border = 0;
    if (topP)
    {
        double unit = 4503599627370496.0 / mass.sum;
        border = find_key<true>(
            n, removable(s), 0, [&](int i) { return x[i]; }, [&](int i) { return (u64)(weight_of(x[i], most) * unit + 0.5); }, room);
    }
    Mass left;
    over_row<true>(x, x, n, [&](int, float v) {
        if ((order_of(v) < border && v != most) || (s.minP > 0.0f && weight_of(v, most) < (double)s.minP))
            return minus_infinity();
        left.add(v);
        return v;
    });
    left.gather(room);
    return left;
}

/// tokens[row] of logits [rows, n] with settings[row]; scores [rows, n] receives the processed scores (−∞ where removed).
KERNEL(512) sample(int *tokens, float *scores, const float *PLAIN logits, const SampleRow *PLAIN settings, int n)
{
    __shared__ SampleRoom room;
    const SampleRow &s = settings[blockIdx.x];
    float *x = scores + (i64)blockIdx.x * n;
    const float *raw = logits + (i64)blockIdx.x * n, *from = raw;
    int thread = threadIdx.x;
    bool penalty = s.repetitionPenalty != 1.0f && s.seenCount > 0, cut = s.sample && s.topK > 0 && s.topK < n, topP = s.sample && s.topP < 1.0f;
    float temperature = s.temperature, broken = 0.0f, differs = 0.0f, same = raw[0];
    auto score = [&](float v) { return temperature != 1.0f ? v / temperature : v; };
    auto look = [&](float v) {
        broken = absolute(v) < positive_infinity() ? broken : 1.0f;
        differs = v == same ? differs : 1.0f;
        return v;
    };
    for (int b = thread; b < 4096; b += Threads)
        room.masses[b] = 0;
    if (penalty)
    {
        over_row<true>(x, raw, n, [&](int, float v) { return look(v); });
        __syncthreads();
        for (int i = thread; i < s.seenCount; i += Threads)
        {
            int id = s.seen[i];
            x[id] = raw[id] > 0.0f ? raw[id] / s.repetitionPenalty : raw[id] * s.repetitionPenalty;
        }
        from = x;
    }
    __syncthreads();
    // The first pass, which also sees what is broken.
    Mass mass;
    int first = n;
    auto largest = [&](int i, float v) {
        first = v > mass.most || first == n ? i : first;
        mass.most = larger(mass.most, v);
    };
    if (!s.sample)
        over_row<true>(x, from, n, [&](int i, float v) {
            if (!penalty)
                look(v);
            largest(i, v);
            return v;
        });
    else if (cut)
        over_row<false>(nullptr, from, n, [&](int, float v) {
            if (!penalty)
                look(v);
            asm volatile("red.shared.add.u32 [%0], 1;" ::"r"(shared_address(&room.counts[order_of(score(v)) >> 20])) : "memory");
            return v;
        });
    else if (topP || s.minP == 0.0f)
    {
        auto weigh = [&](int, float v) {
            if (!penalty)
                look(v);
            v = score(v);
            mass.add(v);
            return v;
        };
        if (topP)
            over_row<false>(nullptr, from, n, weigh);
        else
            over_row<true>(x, from, n, weigh);
    }
    else
        over_row<false>(nullptr, from, n, [&](int i, float v) {
            if (!penalty)
                look(v);
            largest(i, score(v));
            return v;
        });
    if (s.check)
    {
        broken = block_max(broken, room.maxima, Threads);
        differs = block_max(differs, room.maxima, Threads);
        if (broken > 0.0f || (n > 1 && differs == 0.0f))
        {
            if (thread == 0)
                tokens[blockIdx.x] = -1;
            return;
        }
    }
    int token;
    if (!s.sample)
    {
        // The largest, the lowest index among equals.
        if (thread == 0)
            room.answer = n;
        float most = block_max(mass.most, room.maxima, Threads);
        if (mass.most == most && first < n)
            asm volatile("red.shared.min.s32 [%0], %1;" ::"r"(shared_address(&room.answer)), "r"(first) : "memory");
        __syncthreads();
        token = room.answer < n ? room.answer : 0;
    }
    else
    {
        bool listed = false, written = false;
        __syncthreads();
        if (cut)
        {
            unsigned bin = bin_of_count(s.topK, room);
            bool fits = room.count <= Candidates;
            __syncthreads();
            if (fits)
                list_row(x, from, n, bin, positive_infinity(), score, room);
            else
                over_row<true>(x, from, n, [&](int, float v) { return score(v); });
            __syncthreads();
            unsigned border = find_key<false>(
                fits ? room.count : n, (u64)s.topK, 0, [&](int i) { return fits ? room.candidates.scores[i] : x[i]; }, [&](int) { return (u64)1; }, room);
            if (fits)
                listed = keep(x, border, positive_infinity(), room);
            else
                over_row<true>(x, x, n, [&](int, float v) { return order_of(v) < border ? minus_infinity() : v; });
            __syncthreads();
        }
        else if (topP)
        {
            mass.gather(room);
            float most = mass.most;
            double unit = 4503599627370496.0 / mass.sum;
            auto amount = [&](float y) { return (u64)(weight_of(y, most) * unit + 0.5); };
            over_row<false>(nullptr, from, n, [&](int, float v) {
                float y = score(v);
                add_shared(&room.masses[order_of(y) >> 20], amount(y));
                return v;
            });
            __syncthreads();
            unsigned bin = bin_of_mass(removable(s), room);
            u64 taken = room.taken;
            __syncthreads();
            list_row(x, from, n, bin, most, score, room);
            bool fits = room.count <= Candidates;
            unsigned border = find_key<true>(
                fits ? room.count : n, removable(s), taken, [&](int i) { return fits ? room.candidates.scores[i] : x[i]; }, [&](int i) { return amount(fits ? room.candidates.scores[i] : x[i]); }, room);
            if (fits)
                listed = keep(x, border, most, room);
            else
                over_row<true>(x, x, n, [&](int, float v) { return order_of(v) < border && v != most ? minus_infinity() : v; });
            topP = false;
            __syncthreads();
        }
        else if (s.minP > 0.0f)
        {
            float most = block_max(mass.most, room.maxima, Threads);
            mass = Mass();
            over_row<true>(x, from, n, [&](int, float v) {
                float y = score(v);
                if (weight_of(y, most) < (double)s.minP)
                    return minus_infinity();
                mass.add(y);
                return y;
            });
            mass.gather(room);
            written = true;
        }
        else
        {
            mass.gather(room);
            written = true;
        }
        token = listed ? draw_kept(x, s, topP, room) : draw_row(x, n, s, written ? mass : finish_row(x, n, s, topP, room), room);
    }
    if (thread == 0)
        tokens[blockIdx.x] = token;
}
