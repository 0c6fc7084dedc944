// The next token of each row of logits, as Steering/Generation/Sampler.cs: repetition penalty, temperature, top-k, top-p, min-p,
// then the largest score (the first of equals) or a draw from the softmax addressed by (seed, stream, step) of Philox.
// A block of 512 threads owns a row and leaves its processed scores in `scores`; nothing is sorted: the k-th largest score and the
// border of top-p are found by passes over 8-bit digits of an order-preserving key, with integer counts and with probability mass in
// units of 2⁻⁵² (integers add in any order to the same sum). Probabilities are double, as on the CPU.
// Two differences to a sort: scores equal to the border of top-p are all kept, and the mass is rounded to 2⁻⁵².
// Greedy: one pass over the row. With top-k: one that counts scores by the first 12 bits of their key, and one that writes them, −∞ below
// the bin of the k-th, and lists the others in shared memory (up to 4096); what is left of them after top-k (up to 512) is put in order,
// and top-p, min-p and the draw are theirs. Without top-k, and where a list would be too long, every step is a pass over the row from L2.
// A repetition penalty is written before, in a pass of its own.
// Floor: 4·vocabulary bytes a row in and out over the bandwidth; with top-k in twice, as the border is known only when all has been read.
//! sampling | sample | block 512 | grid rows | shared 0
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

const int Threads = 512, Candidates = 4096, Kept = Threads;

struct SampleRoom
{
    u64 bins[256];
    union
    {
        unsigned wide[4096]; // scores by the first 12 bits of their key
        struct
        {
            float scores[Candidates];
            int indices[Candidates];
        } candidates; // in any order
    };
    float scores[Kept]; // what top-k kept, in the order of the indices
    int indices[Kept];
    double sums[32];
    float maxima[32];
    u64 taken;
    unsigned prefix;
    int answer, count, above;
};

/// What a step goes over: the whole row in memory (indices null), or the list in shared memory of what top-k kept, and where it stands in the row.
struct Row
{
    float *scores;
    const int *indices;
    float *x;
    int n;
    __device__ __forceinline__ float score(int i) const { return scores[i]; }
    __device__ __forceinline__ int token(int i) const { return indices != nullptr ? indices[i] : i; }
    __device__ __forceinline__ void remove(int i) const
    {
        scores[i] = -positive_infinity();
        if (indices != nullptr)
            x[indices[i]] = -positive_infinity();
    }
};

/// Calls visit(i, from[i]) for the row's elements, by 16 bytes where it may, the next ones under way.
template <typename Visit> __device__ __forceinline__ void over_row(const float *from, int n, Visit visit)
{
    if ((n & 3) == 0 && aligned16(from))
    {
        float4 next = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if ((int)threadIdx.x * 4 < n)
            next = load_four(from + threadIdx.x * 4);
        for (int i = threadIdx.x * 4; i < n; i += Threads * 4)
        {
            float4 v = next;
            if (i + Threads * 4 < n)
                next = load_four(from + i + Threads * 4);
            visit(i, v.x);
            visit(i + 1, v.y);
            visit(i + 2, v.z);
            visit(i + 3, v.w);
        }
        return;
    }
    for (int i = threadIdx.x; i < n; i += Threads)
        visit(i, from[i]);
}
/// to[i] = change(i, from[i]) likewise.
template <typename Change> __device__ __forceinline__ void change_row(float *to, const float *from, int n, Change change)
{
    if ((n & 3) == 0 && aligned16(from, to))
    {
        float4 next = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if ((int)threadIdx.x * 4 < n)
            next = load_four(from + threadIdx.x * 4);
        for (int i = threadIdx.x * 4; i < n; i += Threads * 4)
        {
            float4 v = next;
            if (i + Threads * 4 < n)
                next = load_four(from + i + Threads * 4);
            *(float4 *)(to + i) = make_float4(change(i, v.x), change(i + 1, v.y), change(i + 2, v.z), change(i + 3, v.w));
        }
        return;
    }
    for (int i = threadIdx.x; i < n; i += Threads)
        to[i] = change(i, from[i]);
}

__device__ __forceinline__ double block_sum_double(double x, SampleRoom &room) { return block_sum(x, room.sums, Threads); }

/// Probability of a score over the row's maximum, not divided by the sum; 0 for −∞.
__device__ __forceinline__ double weight_of(float score, float most) { return exp_of((double)score - (double)most); }

__device__ __forceinline__ float row_max(const Row &row, SampleRoom &room)
{
    float most = -positive_infinity();
#pragma unroll 1
    for (int i = threadIdx.x; i < row.n; i += Threads)
        most = larger(most, row.score(i));
    return block_max(most, room.maxima, Threads);
}

__device__ __forceinline__ double row_sum(const Row &row, float most, SampleRoom &room)
{
    double sum = 0.0;
#pragma unroll 1
    for (int i = threadIdx.x; i < row.n; i += Threads)
        sum += weight_of(row.score(i), most);
    return block_sum_double(sum, room);
}

__device__ __forceinline__ u64 shuffle_up(u64 x, int distance)
{
    return ((u64)shuffle_up((unsigned)(x >> 32), distance) << 32) | shuffle_up((unsigned)x, distance);
}

/// Sum of the amounts of this and all threads before; room.bins' first 32 numbers are overwritten. Ends with a barrier.
__device__ __forceinline__ u64 sum_up_to(u64 amount, u64 *room)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int distance = 1; distance < 32; distance <<= 1)
    {
        u64 other = shuffle_up(amount, distance);
        amount += lane >= distance ? other : 0;
    }
    __syncthreads();
    if (lane == 31)
        room[warp] = amount;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        amount += room[w];
    __syncthreads();
    return amount;
}

/// The key v such that the amounts of keys above v are less than `target` and those of v and above reach it (ascending: below and
/// up to v, exceed it); amount(i) of element i is an integer. Four passes, the highest digit first.
template <bool ASCENDING, typename Score, typename Amount> __device__ __forceinline__ unsigned find_key(int n, u64 target, Score score, Amount amount, SampleRoom &room)
{
    if (threadIdx.x == 0)
    {
        room.prefix = 0;
        room.taken = 0;
    }
    for (int shift = 24; shift >= 0; shift -= 8)
    {
        for (int b = threadIdx.x; b < 256; b += Threads)
            room.bins[b] = 0;
        __syncthreads();
        unsigned prefix = room.prefix;
        u64 taken = room.taken;
#pragma unroll 1
        for (int i = threadIdx.x; i < n; i += Threads)
        {
            unsigned key = order_of(score(i));
            if (shift == 24 || (key >> (shift + 8)) == (prefix >> (shift + 8)))
                add_shared(&room.bins[(key >> shift) & 255], amount(i));
        }
        __syncthreads();
        // A thread a digit: the first with which the sum reaches the target; where none does, the last.
        int digit = ASCENDING ? (int)threadIdx.x : 255 - (int)threadIdx.x;
        u64 own = threadIdx.x < 256 ? room.bins[digit] : 0, with = taken + sum_up_to(own, room.bins), before = with - own;
        bool here = ASCENDING ? with > target : with >= target, earlier = ASCENDING ? before > target : threadIdx.x > 0 && before >= target;
        if (threadIdx.x < 256 && !earlier && (here || threadIdx.x == 255))
        {
            room.taken = before;
            room.prefix = prefix | ((unsigned)digit << shift);
        }
        __syncthreads();
    }
    unsigned key = room.prefix;
    __syncthreads();
    return key;
}

/// The 12 bits of a key at which the scores counted in room.wide, from the largest on, reach k; room.above: how many they and those above are.
__device__ __forceinline__ unsigned find_bin(int k, SampleRoom &room)
{
    // Eight bins a thread, the highest first.
    int high = 4095 - 8 * (int)threadIdx.x;
    u64 own = 0;
    for (int i = 0; i < 8; i++)
        own += room.wide[high - i];
    u64 with = sum_up_to(own, room.bins), before = with - own;
    if (before < (u64)k && with >= (u64)k)
    {
        for (high++; before < (u64)k; before += room.wide[high])
            high--;
        room.prefix = (unsigned)high;
        room.above = (int)before;
    }
    __syncthreads();
    return room.prefix;
}

/// The next free place of a list.
__device__ __forceinline__ int next_place(SampleRoom &room)
{
    int at;
    asm volatile("atom.shared.add.u32 %0, [%1], 1;" : "=r"(at) : "r"(shared_address(&room.count)) : "memory");
    return at;
}

/// What follows top-k: top-p, min-p and the draw.
__device__ __forceinline__ int draw(const Row &row, const SampleRow &s, SampleRoom &room)
{
    int thread = threadIdx.x, n = row.n;
    float most = row_max(row, room);
    if (s.topP < 1.0f)
    {
        // Removed from the smallest on while the sum of what is removed stays ≤ 1 − p; the largest always stays.
        double sum = row_sum(row, most, room), unit = 4503599627370496.0 / sum;
        u64 target = (u64)((double)(1.0f - s.topP) * 4503599627370496.0);
        unsigned border = find_key<true>(
            n, target, [&](int i) { return row.score(i); }, [&](int i) { return (u64)(weight_of(row.score(i), most) * unit + 0.5); }, room);
#pragma unroll 1
        for (int i = thread; i < n; i += Threads)
            if (order_of(row.score(i)) < border && row.score(i) != most)
                row.remove(i);
        __syncthreads();
    }
    if (s.minP > 0.0f)
    {
#pragma unroll 1
        for (int i = thread; i < n; i += Threads)
            if (weight_of(row.score(i), most) < (double)s.minP)
                row.remove(i);
        __syncthreads();
    }
    // A thread owns a stretch in order; the draw falls into one stretch, whose thread walks it.
    double total = row_sum(row, most, room);
    double u = (double)philox_uniform(s.seed, s.stream, s.step);
    int each = (n + Threads - 1) / Threads, begin = smaller(n, thread * each), end = smaller(n, begin + each);
    double mine = 0.0;
#pragma unroll 1
    for (int i = begin; i < end; i++)
        mine += weight_of(row.score(i), most) / total;
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
#pragma unroll 1
    for (int i = begin; i < end; i++)
    {
        double p = weight_of(row.score(i), most) / total;
        if (p == 0.0)
            continue;
        last = row.token(i);
        cumulative += p;
        if (found < 0 && u < cumulative)
            found = last;
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
    return (unsigned)room.taken != 0xFFFFFFFFu ? (int)(unsigned)room.taken : room.answer < 0 ? 0 : room.answer;
}

/// x = from over the temperature, −∞ below the k-th largest, whose keys are counted in room.wide. True where what stays is listed in room.scores, room.count of it.
template <typename Score> __device__ __forceinline__ bool top_k(float *x, const float *from, int n, int k, Score score, SampleRoom &room)
{
    int thread = threadIdx.x;
    unsigned bin = find_bin(k, room);
    if (room.above > Candidates)
    {
        change_row(x, from, n, [&](int, float v) { return score(v); });
        __syncthreads();
        unsigned border = find_key<false>(n, (u64)k, [&](int i) { return x[i]; }, [&](int) { return (u64)1; }, room);
#pragma unroll 1
        for (int i = thread; i < n; i += Threads)
            if (order_of(x[i]) < border)
                x[i] = -positive_infinity();
        __syncthreads();
        return false;
    }
    if (thread == 0)
        room.count = 0;
    __syncthreads();
    change_row(x, from, n, [&](int i, float v) {
        float y = score(v);
        if (order_of(y) >> 20 < bin)
            return -positive_infinity();
        int at = next_place(room);
        room.candidates.scores[at] = y;
        room.candidates.indices[at] = i;
        return y;
    });
    __syncthreads();
    int count = room.count;
    unsigned border = find_key<false>(count, (u64)k, [&](int i) { return room.candidates.scores[i]; }, [&](int) { return (u64)1; }, room);
    // What stays, in any order.
    if (thread == 0)
        room.count = 0;
    __syncthreads();
#pragma unroll 1
    for (int i = thread; i < count; i += Threads)
    {
        if (order_of(room.candidates.scores[i]) < border)
        {
            x[room.candidates.indices[i]] = -positive_infinity();
            continue;
        }
        int at = next_place(room);
        if (at < Kept)
        {
            room.scores[at] = room.candidates.scores[i];
            room.indices[at] = room.candidates.indices[i];
        }
    }
    __syncthreads();
    count = room.count;
    if (count > Kept)
        return false;
    // In the order of the tokens: a token's place is how many lie before it.
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

/// tokens[row] of logits [rows, n] with settings[row]; scores [rows, n] receives the processed scores (−∞ where removed).
KERNEL(512) sample(int *tokens, float *scores, const float *PLAIN logits, const SampleRow *PLAIN settings, int n)
{
    __shared__ SampleRoom room;
    const SampleRow &s = settings[blockIdx.x];
    float *x = scores + (i64)blockIdx.x * n;
    const float *raw = logits + (i64)blockIdx.x * n, *from = raw;
    int thread = threadIdx.x;
    bool penalty = s.repetitionPenalty != 1.0f && s.seenCount > 0, cut = s.sample && s.topK > 0 && s.topK < n;
    float temperature = s.temperature;
    auto score = [&](float v) { return temperature != 1.0f ? v / temperature : v; };
    float broken = 0.0f, differs = 0.0f, same = raw[0];
    auto look = [&](float v) {
        broken = absolute(v) < positive_infinity() ? broken : 1.0f;
        differs = v == same ? differs : 1.0f;
    };
    if (thread == 0)
        room.answer = n;
    for (int b = thread; b < 4096; b += Threads)
        room.wide[b] = 0;
    if (penalty)
    {
        change_row(x, raw, n, [&](int, float v) {
            look(v);
            return v;
        });
        __syncthreads();
#pragma unroll 1
        for (int i = thread; i < s.seenCount; i += Threads)
        {
            int id = s.seen[i];
            x[id] = raw[id] > 0.0f ? raw[id] / s.repetitionPenalty : raw[id] * s.repetitionPenalty;
        }
        from = x;
    }
    __syncthreads();
    // The first pass: what is broken, and the largest, or counts for top-k, or the scores.
    float most = -positive_infinity();
    int first = thread < n ? ((n & 3) == 0 && aligned16(from, x) ? thread * 4 : thread) : n;
    if (!s.sample)
        change_row(x, from, n, [&](int i, float v) {
            if (!penalty)
                look(v);
            first = v > most ? i : first;
            most = larger(most, v);
            return v;
        });
    else if (!cut)
        change_row(x, from, n, [&](int, float v) {
            if (!penalty)
                look(v);
            return score(v);
        });
    else
        over_row(from, n, [&](int, float v) {
            if (!penalty)
                look(v);
            asm volatile("red.shared.add.u32 [%0], %1;" ::"r"(shared_address(&room.wide[order_of(score(v)) >> 20])), "r"(1) : "memory");
        });
    __syncthreads();
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
    if (!s.sample)
    {
        // The largest, the lowest index among equals.
        float largest = block_max(most, room.maxima, Threads);
        if (most == largest && first < n)
            asm volatile("red.shared.min.s32 [%0], %1;" ::"r"(shared_address(&room.answer)), "r"(first) : "memory");
        __syncthreads();
        if (thread == 0)
            tokens[blockIdx.x] = room.answer < n ? room.answer : 0;
        return;
    }
    bool listed = cut && top_k(x, from, n, s.topK, score, room);
    int token = draw(listed ? Row{room.scores, room.indices, x, room.count} : Row{x, nullptr, x, n}, s, room);
    if (thread == 0)
        tokens[blockIdx.x] = token;
}
