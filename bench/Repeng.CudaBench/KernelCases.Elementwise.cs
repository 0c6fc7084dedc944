using Repeng.Kernels;

namespace Repeng.CudaBench;

/// <summary>Every kernel at shapes of Qwen3-4B, cut to a few blocks.</summary>
internal static partial class KernelCases
{
    // Qwen3-4B: width, width of the MLP, heads, key heads, size of a head; rows of a step are 1792, here a few.
    private const int Hidden = 2560, Mlp = 9728, Heads = 32, KvHeads = 8, HeadDim = 128, Rows = 32;

    /// <summary>All of them; each kernel of the manifest is named by one at least.</summary>
    public static IEnumerable<KernelCase> All() =>
        [.. Elementwise(), .. Sums(), .. RowOps(), .. Norms(), .. VocabularyOps(), .. Products(), .. PackedWeights(), .. GroupsAndBlocks(), .. Attention(), .. Rotations(), .. Others()];

    internal static string Snake(string name) => string.Concat(name.Select((c, i) => char.IsUpper(c) && i > 0 ? "_" + char.ToLowerInvariant(c) : char.ToLowerInvariant(c).ToString()));

    private static uint Ceil(long n, int by) => (uint)((n + by - 1) / by);

    private static IEnumerable<KernelCase> Elementwise()
    {
        const long n = Rows * Hidden, e = 4 * n;
        string shape = $"{Rows} × {Hidden}";
        foreach (UnaryOp op in Enum.GetValues<UnaryOp>())
        {
            yield return new(shape, g => g.Backend.Unary(g.Zeros(n), g.Positive(n), n, op, 0.7f), ($"unary_forward_{Snake(op.ToString())}", new Floor(e, e)));
            // The derivative of these two does not depend on x.
            long read = op is UnaryOp.Scale or UnaryOp.Offset ? 2 * e : 3 * e;
            yield return new(shape, g =>
            {
                View x = g.Positive(n);
                g.Backend.UnaryBackward(g.Zeros(n), g.Signed(n), x, x, n, op, 0.7f);
            }, ($"unary_backward_{Snake(op.ToString())}", new Floor(read, e)));
        }
        foreach (BinaryOp op in Enum.GetValues<BinaryOp>())
        {
            string name = Snake(op.ToString());
            yield return new(shape, g => g.Backend.Binary(g.Zeros(n), g.Signed(n), g.Positive(n), Rows, Hidden, op, Broadcast.None), ($"binary_forward_{name}", new Floor(2 * e, e)));
            bool product = op is BinaryOp.Multiply or BinaryOp.Divide;
            yield return new(shape, g => g.Backend.BinaryBackward(g.Zeros(n), g.Zeros(n), g.Signed(n), g.Signed(n), g.Positive(n), Rows, Hidden, op, Broadcast.None),
                ($"binary_backward_a_{name}", new Floor(product ? 3 * e : 2 * e, e)), ($"binary_backward_b_{name}", new Floor(op == BinaryOp.Divide ? 4 * e : product ? 3 * e : 2 * e, e)));
        }
        foreach (UnaryOp op in new[] { UnaryOp.Silu, UnaryOp.Gelu, UnaryOp.GeluTanh })
        {
            string name = Snake(op.ToString());
            yield return new(shape, g => g.Backend.GatedForward(g.Zeros(n), g.Signed(n), g.Signed(n), n, op), ($"gated_forward_{name}", new Floor(2 * e, e)));
            yield return new(shape, g => g.Backend.GatedBackward(g.Zeros(n), g.Zeros(n), g.Signed(n), g.Signed(n), g.Signed(n), n, op), ($"gated_backward_{name}", new Floor(5 * e, 2 * e)));
            yield return new($"{shape}, written", g => g.Backend.GatedBackward(g.Zeros(n), g.Zeros(n), g.Signed(n), g.Signed(n), g.Signed(n), n, op, accumulate: false), ($"gated_backward_{name}", new Floor(3 * e, 2 * e)));
        }
        yield return new(shape, g => g.Backend.AddScaled(g.Zeros(n), g.Signed(n), n, 0.5f), ("add_scaled", new Floor(2 * e, e)));
        yield return new($"8 × {4096}", g =>
        {
            View[] to = [.. Enumerable.Range(0, 8).Select(_ => g.Zeros(4096))];
            g.Backend.CopySeveral(to, [.. Enumerable.Range(0, 8).Select(_ => g.Signed(4096))], accumulate: true);
        }, ("copy_several", new Floor(8 * 8 * 4096, 8 * 4 * 4096)));
        // A warp reads two rows, and their factors once.
        yield return new("8 × 64 × 64", g => g.Backend.ScaleColumns(g.Zeros(32768), g.Signed(32768), g.Signed(512), 8, 64, 64, accumulate: false), ("scale_columns", new Floor((4 * 32768) + (4 * 512), 4 * 32768, 10 * 32768)));
        yield return new(shape, g => g.Backend.AddBias(g.Zeros(n), g.Signed(Hidden), Rows, Hidden), ("add_bias", new Floor(e + (4 * Hidden), e, (2 * e) + (4.0 * Rows * Hidden))));
        yield return new(shape, g => g.Launch("elementwise", "add_bias", new(Rows * Ceil(Hidden, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(n)).Add(g.Signed(Hidden)).Add(Rows).Add((long)Hidden)), ("add_bias", new Floor(e + (4 * Hidden), e, (2 * e) + (4.0 * Rows * Hidden))));
        yield return new(shape, g => g.Launch("elementwise", "fill", new(Ceil(n, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(n)).Add(n).Add(1f)), ("fill", new Floor(0, e)));
        yield return new(shape, g => g.Launch("elementwise", "copy_bytes", new(Ceil(e, 4096)), 256, 0, (ref a) => a.Add(g.Zeros(n)).Add(g.Signed(n)).Add(e)), ("copy_bytes", new Floor(e, e)));
        yield return new(shape, g => g.Launch("elementwise", "fill_uniform", new(Ceil(n, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(n)).Add(n).Add(1ul).Add(2ul).Add(0ul)), ("fill_uniform", new Floor(0, e)));
        foreach ((string name, DType from) in new[] { ("f32_bf16", DType.F32), ("f32_f16", DType.F32), ("bf16_f32", DType.BF16), ("f16_f32", DType.F16) })
            yield return new(shape, g => g.Launch("elementwise", "cast_" + name, new(Ceil(n, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(n)).Add(g.Weights(n, from)).Add(n)),
                ("cast_" + name, new Floor(from == DType.F32 ? e : e / 2, from == DType.F32 ? e / 2 : e)));
        yield return new(shape, g => g.Launch("elementwise", "split_f32_bf16", new(Ceil(n, 1024)), 256, 0, (ref a) => a.Add(g.Zeros(2 * n)).Add(g.Signed(n)).Add(n).Add(3)), ("split_f32_bf16", new Floor(e, 1.5 * e)));
        yield return new(shape, g => g.Backend.ClampedGatedForward(g.Zeros(n), g.Signed(n), g.Signed(n), n, 1.702f, 7), ("clamped_gated_forward", new Floor(2 * e, e)));
        yield return new(shape, g => g.Backend.ClampedGatedBackward(g.Zeros(n), g.Zeros(n), g.Signed(n), g.Signed(n), g.Signed(n), n, 1.702f, 7), ("clamped_gated_backward", new Floor(5 * e, 2 * e)));
    }

    private static IEnumerable<KernelCase> Sums()
    {
        const long n = Rows * Hidden, e = 4 * n;
        string shape = $"{Rows} × {Hidden}";
        yield return new(shape, g => g.Backend.ReduceSum(g.Zeros(Rows), g.Signed(n), Rows, Hidden, 1, false), ("sum_rows_plain", new Floor(e, 8 * Rows, e + (32 * Rows))), ("sum_partials", new Floor(8 * Rows, 4 * Rows)));
        yield return new(shape, g => g.Backend.ReduceSum(g.Zeros(Hidden), g.Signed(n), 1, Rows, Hidden, true), ("sum_cols_plain", new Floor(e, 8 * Hidden)), ("sum_partials", new Floor(12 * Hidden, 4 * Hidden)));
        yield return new(shape, g => g.Backend.ReduceSumBackward(g.Zeros(n), g.Signed(Rows), Rows, Hidden, 1), ("reduce_sum_backward", new Floor(e + (4 * Rows), e)));
        foreach (BinaryOp op in new[] { BinaryOp.Subtract, BinaryOp.Multiply, BinaryOp.Divide })
        {
            string name = Snake(op.ToString());
            double operands = op == BinaryOp.Subtract ? e : 2 * e;
            yield return new(shape, g => g.Backend.BinaryBackward(default, g.Zeros(Rows), g.Signed(n), g.Signed(n), g.Positive(Rows), Rows, Hidden, op, Broadcast.OverCols),
                ($"sum_rows_{name}", new Floor(operands, 8 * Rows, operands + (64 * Rows))), ("sum_partials", new Floor(12 * Rows, 4 * Rows)));
            yield return new(shape, g => g.Backend.BinaryBackward(default, g.Zeros(Hidden), g.Signed(n), g.Signed(n), g.Positive(Hidden), Rows, Hidden, op, Broadcast.OverRows),
                ($"sum_cols_{name}", new Floor(operands + (op == BinaryOp.Divide ? 4 * Hidden : 0), 8 * Hidden)), ("sum_partials", new Floor(12 * Hidden, 4 * Hidden)));
        }
    }

    private static IEnumerable<KernelCase> RowOps()
    {
        const int table = 64;
        const long n = Rows * Hidden, e = 4 * n;
        string shape = $"{Rows} of {table} × {Hidden}";
        int[] index = [.. Enumerable.Range(0, Rows).Select(i => i * 7 % table)];
        yield return new(shape, g => g.Backend.GatherRows(g.Zeros(n), g.Signed(table * Hidden), g.Ints(index), Rows, Hidden), ("gather_rows", new Floor(e, e)));
        yield return new(shape, g => g.Backend.GatherRowsBackward(g.Zeros(table * Hidden), g.Signed(n), g.Ints(index), Rows, Hidden), ("scatter_rows", new Floor(2 * e, e)));
        yield return new(shape, g => g.Backend.CopyColumns(g.Zeros(n), Hidden, 0, g.Signed(2 * n), 2 * Hidden, Hidden, Rows, Hidden, false), ("copy_columns", new Floor(e, e)));
        yield return new($"{Rows} rows of {Hidden} behind 1", g => g.Backend.AppendToCache(g.Zeros(2 * n), g.Zeros(2 * n), g.Signed(n), g.Signed(n), g.Ints([1]), Rows, 2, Hidden), ("append_rows", new Floor(2 * e, 2 * e)));
        foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
            yield return new(shape, g => g.Backend.EmbeddingForward(g.Zeros(n), g.Weights(table * Hidden, type), g.Ints(index), Rows, Hidden, 1), ($"embedding_forward_{type.ToString().ToLowerInvariant()}", new Floor(n * type.Size(), e)));
    }

    private static IEnumerable<KernelCase> Norms()
    {
        foreach ((int rows, int cols, string kind) in new[] { (Rows * KvHeads, HeadDim, "warp"), (Rows, Hidden, "block") })
        {
            long n = (long)rows * cols, e = 4 * n;
            string shape = $"{rows} × {cols}";
            // The weight comes from the cache for every row but the first.
            yield return new(shape, g => g.Backend.RmsNormForward(g.Zeros(n), g.Zeros(rows), g.Signed(n), g.Signed(cols), rows, cols, 1e-6f, 0),
                ($"rms_norm_forward_{kind}", new Floor(e + (4 * cols), e + (4 * rows), 3 * e)));
            yield return new(shape, g => g.Backend.RmsNormBackward(g.Zeros(n), default, g.Signed(n), g.Signed(n), g.Signed(cols), g.Positive(rows), rows, cols, 0),
                ($"rms_norm_backward_{kind}", new Floor((3 * e) + (4 * cols) + (4 * rows), e, 5 * e)));
            yield return new($"{shape}, written", g => g.Backend.RmsNormBackward(g.Zeros(n), default, g.Signed(n), g.Signed(n), g.Signed(cols), g.Positive(rows), rows, cols, 0, accumulate: false),
                ($"rms_norm_backward_{kind}", new Floor((2 * e) + (4 * cols) + (4 * rows), e, 4 * e)));
            yield return new(shape, g => g.Backend.LayerNormForward(g.Zeros(n), g.Zeros(rows), g.Zeros(rows), g.Signed(n), g.Signed(cols), g.Signed(cols), rows, cols, 1e-5f),
                ($"layer_norm_forward_{kind}", new Floor(e + (8 * cols), e + (8 * rows), 4 * e)));
            yield return new(shape, g => g.Backend.LayerNormBackward(g.Zeros(n), default, default, g.Signed(n), g.Signed(n), g.Signed(cols), g.Positive(rows), g.Positive(rows), rows, cols),
                ($"layer_norm_backward_{kind}", new Floor((3 * e) + (4 * cols) + (8 * rows), e, 5 * e)));
        }
        foreach (int dim in new[] { 32, 64, 128, 256 })
        {
            const int tokens = 16;
            var args = new NormRopeArgs(tokens, KvHeads, dim, dim, false, 1e-6f, 0);
            long n = (long)args.Lines * dim, e = 4 * n, angles = 4 * tokens * dim;
            int[] positions = [.. Enumerable.Range(0, tokens)];
            string shape = $"{tokens} × {KvHeads} × {dim}";
            // Every fourth head asks for the weight and for the angles and position of its token; rstd is a sector a head.
            double rest = (4.0 * args.Lines) + (4 * dim), cached = (0.5 * e) + (40 * args.Lines);
            yield return new(shape, g => g.Backend.NormRopeForward(g.Zeros(n), g.Zeros(args.Lines), g.Signed(n), g.Signed(dim), g.Signed(tokens * dim / 2), g.Signed(tokens * dim / 2), g.Ints(positions), args),
                ($"rms_norm_rope_forward_{dim}", new Floor(e + angles + rest, e, (2 * e) + cached)));
            yield return new(shape, g => g.Backend.NormRopeBackward(g.Zeros(n), default, g.Signed(n), g.Signed(n), g.Signed(dim), g.Positive(args.Lines), g.Signed(tokens * dim / 2), g.Signed(tokens * dim / 2), g.Ints(positions), g.Zeros(n), args, accumulate: false),
                ($"rms_norm_rope_backward_{dim}", new Floor((2 * e) + angles + rest, e, (3 * e) + cached)));
        }
        const long m = 1024 * Hidden;
        yield return new($"1024 × {Hidden}", g => g.Backend.RmsNormBackward(default, g.Zeros(Hidden), g.Signed(m), g.Signed(m), g.Signed(Hidden), g.Positive(1024), 1024, Hidden, 0),
            ("norm_weight_partial", new Floor((8 * m) + 4096, 8 * Hidden)), ("sum_partials", new Floor(12 * Hidden, 4 * Hidden)));
        const long q = (long)Rows * Heads * HeadDim;
        yield return new($"{Rows} × {Heads} × {HeadDim}", g =>
            {
                View x = g.Signed(q), angles = g.Signed(Rows * HeadDim / 2);
                g.Backend.Rope(g.Zeros(q), x, angles, angles, g.Ints([.. Enumerable.Range(0, Rows)]), Rows, Heads, HeadDim, HeadDim, false, false, false);
            },
            ("rope", new Floor((4 * q) + (4 * Rows * HeadDim), 4 * q, 12 * q)));
    }

    private static IEnumerable<KernelCase> VocabularyOps()
    {
        const int rows = 32, cols = 8192;
        const long n = rows * cols, e = 4 * n;
        string shape = $"{rows} × {cols}";
        int[] labels = [.. Enumerable.Range(0, rows).Select(i => i * 251)];
        yield return new(shape, g => g.Backend.LogSumExpChunk(g.Zeros(rows), g.Positive(rows), g.Signed(n), rows, cols), ("log_sum_exp_partial", new Floor(e, 32 * rows, e + (64 * rows))), ("log_sum_exp_fold", new Floor(24 * rows, 8 * rows)));
        yield return new("1792", g => g.Backend.LogSumExpFinish(g.Zeros(1792), g.Signed(1792), g.Positive(1792), 1792), ("log_sum_exp_finish", new Floor(8 * 1792, 4 * 1792)));
        yield return new(shape, g => g.Backend.GatherLabelChunk(g.Zeros(rows), g.Signed(n), g.Ints(labels), rows, cols, 0), ("gather_label", new Floor(8 * rows, 4 * rows, 40 * rows)));
        yield return new(shape, g => g.Backend.LogProbBackwardChunk(g.Signed(n), g.Positive(rows), g.Signed(rows), g.Ints(labels), rows, cols, 0, 0), ("log_prob_backward", new Floor(e, e)));
        yield return new(shape, g => g.Backend.EntropyChunk(g.Zeros(rows), g.Signed(n), g.Positive(rows), rows, cols), ("entropy_partial", new Floor(e, 32 * rows)), ("sum_partials", new Floor(12 * rows, 4 * rows)));
        yield return new(shape, g => g.Backend.TotalVariationChunk(g.Zeros(rows), g.Zeros(rows), g.Signed(n), g.Positive(rows), g.Signed(n), g.Positive(rows), rows, cols), ("total_variation_partial", new Floor(2 * e, 32 * rows)), ("sum_partials", new Floor(24 * rows, 8 * rows)));
        yield return new(shape, g => g.Backend.TotalVariationBackwardChunk(g.Signed(n), g.Positive(rows), g.Signed(n), g.Positive(rows), g.Signed(rows), g.Signed(rows), default, rows, cols, 0), ("total_variation_backward", new Floor(2 * e, e)));
    }
}
