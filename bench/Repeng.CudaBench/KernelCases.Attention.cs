using System.Runtime.InteropServices;
using Repeng.Kernels;

namespace Repeng.CudaBench;

internal static partial class KernelCases
{
    // Tensor-core products of the forward pass (6 for the scores, 3 for the rest), of the gradients by keys (6 + 3 · 3) and by queries (6 + 2 · 3).
    private const int ForwardParts = 9, KeyParts = 15, QueryParts = 12;

    private static IEnumerable<KernelCase> Attention()
    {
        // The step's own length, and a longer one where the diagonal weighs less; a key head with its four query heads.
        foreach ((int tokens, int headDim) in new[] { (64, 32), (64, 64), (64, 128), (64, 256), (512, 128) })
        {
            var args = new AttentionArgs(1, tokens, tokens, Heads / KvHeads, 1, headDim, 0.1f);
            int rowsOfTile = headDim == 256 ? 32 : 64, rowsOfQueries = headDim >= 128 ? 32 : 64, keysOfBlock = headDim <= 64 ? 64 : headDim == 128 ? 32 : 16;
            yield return ForwardCase(args, rowsOfTile);
            yield return BackwardCase(args, rowsOfQueries, keysOfBlock);
            yield return RoundedForwardCase(args);
            yield return RoundedBackwardCase(args);
        }
        foreach (int headDim in new[] { 32, 64, 128, 256 })
            yield return DecodeCase(headDim);
        const int rows = 256, heads = 8;
        const long n = (long)rows * heads;
        yield return new($"{rows} × {heads} × 64", g => g.Backend.AttentionSinksForward(g.Signed(n * 64), g.Signed(n), g.Signed(heads), rows, heads, 64),
            ("attention_sinks_forward", new Floor((4 * n * 64) + (4 * n), (4 * n * 64) + (4 * n), (8 * n * 64) + (96 * n))));
        yield return new($"{rows} × {heads}", g => g.Backend.AttentionSinksBackward(g.Zeros(heads), g.Signed(n), g.Signed(n), g.Signed(heads), rows, heads),
            ("attention_sinks_backward", new Floor(8 * n, 4 * heads, 64 * n)));
    }

    private static string Shape(AttentionArgs a) => $"{a.QueryLength} tokens, {a.Heads} heads on {a.KvHeads} of {a.HeadDim}";

    // Pairs of a row and a key that it sees.
    private static double Pairs(AttentionArgs a) => (double)a.QueryLength * (a.QueryLength + 1) / 2 * a.Heads;

    // Keys that tiles of so many rows read, in whole tiles of 32 (16 at a head of 256 elements in the backward pass).
    private static double KeysRead(AttentionArgs a, int rowsOfTile, int keysOfTile)
    {
        int rows = a.QueryLength * a.Group;
        double keys = 0;
        for (int start = 0; start < rows; start += rowsOfTile)
        {
            int end = ((Math.Min(rows, start + rowsOfTile) - 1) / a.Group) + 1;
            keys += Math.Min(a.KeyLength, (end + keysOfTile - 1) / keysOfTile * keysOfTile);
        }
        return keys;
    }

    private static KernelCase ForwardCase(AttentionArgs a, int rowsOfTile)
    {
        long q = (long)a.QueryLength * a.Heads * a.HeadDim, k = (long)a.KeyLength * a.KvHeads * a.HeadDim, rows = (long)a.QueryLength * a.Heads;
        double asked = (8.0 * q) + (4.0 * rows) + (8.0 * a.HeadDim * KeysRead(a, rowsOfTile, 32));
        return new(Shape(a), g => g.Backend.AttentionForward(g.Zeros(q), g.Zeros(rows), g.Signed(q), g.Signed(k), g.Signed(k), g.Ints(0), a),
            ($"attention_forward_{a.HeadDim}", new Floor(4.0 * (q + (2 * k)), 4.0 * (q + rows), asked, ForwardParts * 2 * Pairs(a) * a.HeadDim)));
    }

    private static KernelCase BackwardCase(AttentionArgs a, int rowsOfTile, int keysOfBlock)
    {
        long q = (long)a.QueryLength * a.Heads * a.HeadDim, k = (long)a.KeyLength * a.KvHeads * a.HeadDim, rows = (long)a.QueryLength * a.Heads;
        int keysOfTile = a.HeadDim == 256 ? 16 : 32;
        double rowsRead = 0;
        for (int start = 0; start < a.KeyLength; start += keysOfBlock)
            rowsRead += (a.QueryLength - start) * a.Group;
        double byKeys = (24.0 * k) + (rowsRead * ((8 * a.HeadDim) + 8)), byQueries = (16.0 * q) + (8 * rows) + (8.0 * a.HeadDim * KeysRead(a, rowsOfTile, keysOfTile));
        return new(Shape(a), g =>
            {
                View o = g.Signed(q);
                g.Backend.AttentionBackward(g.Zeros(q), g.Zeros(k), g.Zeros(k), g.Signed(q), o, g.Positive(rows), g.Zeros(rows), g.Signed(q), g.Signed(k), g.Signed(k), g.Ints(0), a);
            },
            ("attention_delta", new Floor(8.0 * q, 4.0 * rows, (8.0 * q) + (32 * rows))),
            ($"attention_keys_{a.HeadDim}", new Floor(4.0 * ((2 * q) + (4 * k) + (2 * rows)), 8.0 * k, byKeys, KeyParts * 2 * Pairs(a) * a.HeadDim)),
            ($"attention_queries_{a.HeadDim}", new Floor(4.0 * ((3 * q) + (2 * k) + (2 * rows)), 4.0 * q, byQueries, QueryParts * 2 * Pairs(a) * a.HeadDim)));
    }

    // Keys that 64 rows read: up to the last that they see, by sixteen.
    private static double KeysRounded(AttentionArgs a)
    {
        double keys = 0;
        for (int start = 0; start < a.QueryLength * a.Group; start += 64)
            keys += (((Math.Min(a.QueryLength * a.Group, start + 64) - 1) / a.Group) + 16) / 16 * 16;
        return keys;
    }

    private static KernelCase RoundedForwardCase(AttentionArgs a)
    {
        long q = (long)a.QueryLength * a.Heads * a.HeadDim, k = (long)a.KeyLength * a.KvHeads * a.HeadDim, rows = (long)a.QueryLength * a.Heads;
        double asked = (10.0 * q) + (4.0 * rows) + (8.0 * a.HeadDim * KeysRounded(a));
        return new(Shape(a), g => g.Rounding.AttentionForward(g.Zeros(q), g.Zeros(rows), g.Signed(q), g.Signed(k), g.Signed(k), g.Ints(0), a),
            ($"attention_forward_rounded_{a.HeadDim}", new Floor(4.0 * (q + (2 * k)), (6.0 * q) + (4.0 * rows), asked, 4 * Pairs(a) * a.HeadDim)));
    }

    private static KernelCase RoundedBackwardCase(AttentionArgs a)
    {
        long q = (long)a.QueryLength * a.Heads * a.HeadDim, k = (long)a.KeyLength * a.KvHeads * a.HeadDim, rows = (long)a.QueryLength * a.Heads;
        double rowsRead = 0;
        for (int start = 0, keysOfBlock = a.HeadDim == 256 ? 32 : 64; start < a.KeyLength; start += keysOfBlock)
            rowsRead += (a.QueryLength - start) * a.Group;
        double byKeys = (24.0 * k) + (rowsRead * ((8 * a.HeadDim) + 8)), byQueries = (20.0 * q) + (8.0 * rows) + (8.0 * a.HeadDim * KeysRounded(a));
        // dO once more for delta: at this size operands are read from shared memory, delta from registers.
        if (a.HeadDim == 256)
            byQueries += 4.0 * q;
        return new(Shape(a), g =>
            {
                View o = g.Signed(q);
                g.Rounding.AttentionBackward(g.Zeros(q), g.Zeros(k), g.Zeros(k), g.Signed(q), o, g.Positive(rows), g.Zeros(rows), g.Signed(q), g.Signed(k), g.Signed(k), g.Ints(0), a);
            },
            ($"attention_queries_rounded_{a.HeadDim}", new Floor(4.0 * ((4 * q) + (2 * k) + rows), 4.0 * (q + rows), byQueries, 6 * Pairs(a) * a.HeadDim)),
            ($"attention_keys_rounded_{a.HeadDim}", new Floor(4.0 * ((2 * q) + (4 * k) + (2 * rows)), 8.0 * k, byKeys, 8 * Pairs(a) * a.HeadDim)));
    }

    // A token of 8 heads on 2 over 1024 keys: four stretches of keys a key head.
    private static KernelCase DecodeCase(int headDim)
    {
        const int keys = 1024, heads = 8, kvHeads = 2, splits = 4;
        var a = new AttentionArgs(1, 1, keys, heads, kvHeads, headDim, 0.1f);
        long q = heads * headDim, k = (long)keys * kvHeads * headDim;
        double partial = splits * heads * (headDim + 2);
        return new($"1 token over {keys}, {heads} heads on {kvHeads} of {headDim}", g => g.Backend.AttentionForward(g.Zeros(q), g.Zeros(heads), g.Signed(q), g.Signed(k), g.Signed(k), g.Ints(0), a),
            ($"attention_split_{headDim}", new Floor(4.0 * (q + (2 * k)), 4 * partial, (4.0 * ((splits * q) + (2 * k))) + (4 * partial), ForwardParts * 2.0 * heads * keys * headDim)),
            ("attention_join", new Floor(4 * partial, 4.0 * (q + heads), (4.0 * splits * q) + (4 * q) + (32 * heads * ((2 * splits) + 1)))));
    }

    private static IEnumerable<KernelCase> Rotations()
    {
        // Columns of a panel of cayley_forward_global: each passes over the whole matrix in doubles.
        const int batch = 4, panel = 32;
        foreach (int n in new[] { 64, 160 })
        {
            int count = n == 64 ? batch : 1;
            long size = (long)n * n * count;
            string shape = $"{count} × {n} × {n}";
            yield return new(shape, g =>
                {
                    View x = g.Zeros(size);
                    g.Backend.Skew(x, g.Signed(size), n, count, false);
                    g.Backend.CayleyForward(g.Zeros(size), x, n, count);
                },
                ("skew", new Floor(4 * size, 4 * size, 12 * size)), n == 64 ? ("cayley_forward_shared", new Floor(4 * size, 4 * size)) : ("cayley_forward_global", new Floor(4 * size, 4 * size, (24 + (16 * Ceil(n, panel))) * size)));
        }
        const long all = batch * 64 * 64;
        yield return new($"{batch} × 64 × 64", g => g.Backend.CayleyBackward(g.Zeros(all), g.Signed(all), g.Signed(all), 64, batch),
            ("cayley_backward_first", new Floor(8 * all, 8 * all, (16 * all) + (8 * all))), ("cayley_backward_second", new Floor(16 * all, 4 * all, (24 * all) + (8 * all))));
        // A norm of 25.6 takes powers up to the fourth, four terms and five squarings. Doubles that pass for an element: up to 64 × 64 a power is written
        // once and read by every polynomial that has it; beyond, products ask for both operands once a row or column of tiles of 64, and add to what a
        // polynomial has written.
        const int powers = 4, terms = 4, squarings = 5;
        foreach (int n in new[] { 64, 96 })
        {
            int count = n == 64 ? batch : 1;
            long size = (long)n * n * count;
            double product = (2 * Ceil(n, 64)) + 1, polynomial = powers + ((terms - 1) * (powers - 1)), forward, backward;
            if (n == 64)
                (forward, backward) = (powers + polynomial, 2 * (powers + polynomial));
            else
            {
                double products = powers - 1 + squarings, sums = terms - 1;
                forward = 5 + (products * product) + polynomial + terms + (sums * (product + 1));
                backward = 9 + (products * ((3 * product) + 1)) - product + (2 * (polynomial + terms)) + (sums * ((3 * product) + 3));
            }
            string shape = $"{count} × {n} × {n}", kind = n == 64 ? "_side" : "";
            yield return new(shape, g => g.Backend.MatrixExpForward(g.Zeros(size), Even(g, n, count), n, count), ($"matrix_exp_forward{kind}", new Floor(4 * size, 4 * size, (8 + (8 * forward)) * size)));
            yield return new(shape, g => g.Backend.MatrixExpBackward(g.Zeros(size), g.Signed(size), Even(g, n, count), n, count), ($"matrix_exp_backward{kind}", new Floor(12 * size, 4 * size, (16 + (8 * backward)) * size)));
        }

        static View Even(EmulatedGpu g, int n, int count)
        {
            float[] x = [.. Enumerable.Range(0, n * n * count).Select(i => 25.6f / (n - 1) * Math.Sign(i % n - (i / n % n)))];
            return new View(g.Bytes(MemoryMarshal.AsBytes(x.AsSpan())), x.Length, DType.F32);
        }
    }

    /// <summary>SampleRow of kernels/sampling.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct SampleRow
    {
        public nint Seen;
        public int SeenCount, Sample;
        public ulong Seed, Stream, Step;
        public float RepetitionPenalty, Temperature, TopP, MinP;
        public int TopK, Reserved;
    }

    private static IEnumerable<KernelCase> Others()
    {
        const long n = 64 * 64;
        const int tensors = 8;
        yield return new($"{n}", g => g.Backend.AdamW(g.Positive(n), g.Signed(n), g.Signed(n), g.Positive(n), n, new AdamWArgs(1e-3, 0.9, 0.999, 1e-8, 0.01, 2)), ("adamw_one", new Floor(16 * n, 12 * n)));
        yield return new($"{tensors} × {n}", g => g.Backend.AdamWSeveral([.. Enumerable.Range(0, tensors).Select(_ => new AdamWTensor(g.Positive(n), g.Signed(n), g.Signed(n), g.Positive(n)))], new AdamWArgs(1e-3, 0.9, 0.999, 1e-8, 0.01, 2)),
            ("adamw", new Floor(16 * n * tensors, 12 * n * tensors)));
        const int experts = 128, chosen = 8;
        const long pairs = Rows * chosen;
        var route = new RouteArgs(Rows, experts, chosen, true);
        int[] place = [.. Enumerable.Range(0, (int)pairs)], picked = [.. Enumerable.Range(0, (int)pairs).Select(i => i % chosen)];
        string shape = $"{Rows} rows, {chosen} of {experts} experts";
        yield return new(shape, g => g.Backend.RouteForward(g.Zeros(pairs), g.Ints(place), g.Signed(Rows * experts), route), ("route_forward", new Floor(4 * Rows * experts, 8 * pairs)));
        yield return new(shape, g => g.Backend.RouteBackward(g.Zeros(Rows * experts), g.Signed(pairs), g.Positive(pairs), g.Ints(picked), g.Signed(Rows * experts), route),
            ("route_backward", new Floor(16 * pairs, 4 * pairs, 32 * Rows * ((2 * chosen) + 6))));
        yield return new($"{shape}, width {Hidden}", g => g.Backend.CombineForward(g.Zeros(Rows * Hidden), g.Signed(pairs * Hidden), g.Ints(place), g.Positive(pairs), Rows, chosen, Hidden),
            ("combine_forward", new Floor((4 * pairs * Hidden) + (8 * pairs), 4 * Rows * Hidden)));
        yield return new($"{shape}, width {Hidden}", g => g.Backend.CombineBackward(g.Zeros(pairs * Hidden), g.Zeros(pairs), g.Signed(Rows * Hidden), g.Signed(pairs * Hidden), g.Ints(place), g.Positive(pairs), Rows, chosen, Hidden),
            ("combine_backward_x", new Floor((4 * Rows * Hidden) + (4 * pairs * Hidden) + (8 * pairs), 4 * pairs * Hidden, (4 * Rows * Hidden) + (8 * pairs * Hidden) + (8 * pairs * Ceil(Hidden, 32)))),
            ("combine_backward_weights", new Floor((4 * Rows * Hidden) + (4 * pairs * Hidden), 4 * pairs, 8 * pairs * Hidden)));
        // What is −∞ is known only when all of a row has been seen, and a row of Qwen3's vocabulary is 0.6 MB: with top-k it is read twice, with top-p alone
        // three times (sum, mass, scores), with min-p alone twice. Logits of a model are peaked: the low temperature leaves some 400 tokens to top-p.
        const int vocabulary = 16384;
        yield return new($"1 × {vocabulary}, greedy", g => Sample(g, vocabulary, new SampleRow { RepetitionPenalty = 1, Temperature = 1, TopP = 1 }), ("sample", new Floor(4 * vocabulary, 4 * vocabulary)));
        yield return new($"1 × {vocabulary}, top-k and top-p", g => Sample(g, vocabulary, new SampleRow { Sample = 1, RepetitionPenalty = 1, Temperature = 0.8f, TopP = 0.9f, TopK = 50 }), ("sample", new Floor(4 * vocabulary, 4 * vocabulary, 12 * vocabulary)));
        yield return new($"1 × {vocabulary}, drawn", g => Sample(g, vocabulary, new SampleRow { Sample = 1, RepetitionPenalty = 1, Temperature = 0.8f, TopP = 1 }), ("sample", new Floor(4 * vocabulary, 4 * vocabulary)));
        yield return new($"1 × {vocabulary}, top-p", g => Sample(g, vocabulary, new SampleRow { Sample = 1, RepetitionPenalty = 1, Temperature = 0.01f, TopP = 0.9f }), ("sample", new Floor(4 * vocabulary, 4 * vocabulary, 16 * vocabulary)));
        yield return new($"1 × {vocabulary}, min-p", g => Sample(g, vocabulary, new SampleRow { Sample = 1, RepetitionPenalty = 1, Temperature = 0.01f, TopP = 1, MinP = 0.1f }), ("sample", new Floor(4 * vocabulary, 4 * vocabulary, 12 * vocabulary)));
    }

    private static void Sample(EmulatedGpu g, int n, SampleRow row)
    {
        nint rows = g.Bytes(MemoryMarshal.AsBytes(new[] { row }.AsSpan()));
        g.Launch("sampling", "sample", new(1), 512, 0, (ref a) => a.Add(g.Ints(0)).Add(g.Zeros(n)).Add(g.Signed(n)).Add(rows).Add(n));
    }
}
