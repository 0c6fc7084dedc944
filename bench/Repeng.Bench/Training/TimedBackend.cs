using Repeng.Kernels;

namespace Repeng.Bench.Training;

/// <summary>Passes every op on and sums its seconds by kind (products by shape).</summary>
internal sealed class TimedBackend(IBackend backend, Func<double> clock) : IBackend
{
    private readonly Dictionary<string, (long Calls, double Seconds, double Flops)> _totals = [];

    public string Name => backend.Name;

    public bool IsDry => backend.IsDry;

    public bool ReadsHostMemory => backend.ReadsHostMemory;

    /// <summary>Calls, seconds and floating-point operations (products only) of each kind.</summary>
    public IEnumerable<(string Kind, long Calls, double Seconds, double Flops)> Totals =>
        _totals.Select(t => (t.Key, t.Value.Calls, t.Value.Seconds, t.Value.Flops));

    /// <summary>Count nothing for now.</summary>
    public bool Paused { get; set; }

    public void Clear() => _totals.Clear();

    public void Dispose() => backend.Dispose();

    public void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args)
    {
        double start = clock();
        backend.AttentionForward(o, lse, q, k, v, firstKey, in args);
        Add(nameof(AttentionForward), start);
    }

    public void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args, bool accumulate)
    {
        double start = clock();
        backend.AttentionBackward(dq, dk, dv, dO, o, lse, delta, q, k, v, firstKey, in args, accumulate);
        Add(nameof(AttentionBackward), start);
    }

    public void AttentionSinksForward(View o, View lse, View sinks, int rows, int heads, int headDim)
    {
        double start = clock();
        backend.AttentionSinksForward(o, lse, sinks, rows, heads, headDim);
        Add(nameof(AttentionSinksForward), start);
    }

    public void AttentionSinksBackward(View dSinks, View delta, View lse, View sinks, int rows, int heads)
    {
        double start = clock();
        backend.AttentionSinksBackward(dSinks, delta, lse, sinks, rows, heads);
        Add(nameof(AttentionSinksBackward), start);
    }

    public void RouteForward(View weights, View chosen, View logits, in RouteArgs args)
    {
        double start = clock();
        backend.RouteForward(weights, chosen, logits, in args);
        Add(nameof(RouteForward), start);
    }

    public void RouteBackward(View dLogits, View dWeights, View weights, View chosen, View logits, in RouteArgs args)
    {
        double start = clock();
        backend.RouteBackward(dLogits, dWeights, weights, chosen, logits, in args);
        Add(nameof(RouteBackward), start);
    }

    public void CombineForward(View y, View x, View place, View weights, int rows, int perToken, int cols)
    {
        double start = clock();
        backend.CombineForward(y, x, place, weights, rows, perToken, cols);
        Add(nameof(CombineForward), start);
    }

    public void CombineBackward(View dx, View dWeights, View dy, View x, View place, View weights, int rows, int perToken, int cols)
    {
        double start = clock();
        backend.CombineBackward(dx, dWeights, dy, x, place, weights, rows, perToken, cols);
        Add(nameof(CombineBackward), start);
    }

    public void ClampedGatedForward(View y, View gate, View up, long n, float alpha, float limit)
    {
        double start = clock();
        backend.ClampedGatedForward(y, gate, up, n, alpha, limit);
        Add(nameof(ClampedGatedForward), start);
    }

    public void ClampedGatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, float alpha, float limit)
    {
        double start = clock();
        backend.ClampedGatedBackward(dGate, dUp, dy, gate, up, n, alpha, limit);
        Add(nameof(ClampedGatedBackward), start);
    }

    public void Unary(View y, View x, long n, UnaryOp op, float p = 0)
    {
        double start = clock();
        backend.Unary(y, x, n, op, p);
        Add($"Unary {op}", start);
    }

    public void UnaryBackward(View dx, View dy, View x, View y, long n, UnaryOp op, float p = 0)
    {
        double start = clock();
        backend.UnaryBackward(dx, dy, x, y, n, op, p);
        Add($"UnaryBackward {op}", start);
    }

    public void Binary(View y, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        double start = clock();
        backend.Binary(y, a, b, rows, cols, op, broadcast);
        Add($"Binary {op}", start);
    }

    public void BinaryBackward(View da, View db, View dy, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast)
    {
        double start = clock();
        backend.BinaryBackward(da, db, dy, a, b, rows, cols, op, broadcast);
        Add($"BinaryBackward {op}", start);
    }

    public void AddScaled(View y, View x, long n, float p)
    {
        double start = clock();
        backend.AddScaled(y, x, n, p);
        Add(nameof(AddScaled), start);
    }

    public void GatedForward(View y, View gate, View up, long n, UnaryOp op)
    {
        double start = clock();
        backend.GatedForward(y, gate, up, n, op);
        Add(nameof(GatedForward), start);
    }

    public void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op, bool accumulate)
    {
        double start = clock();
        backend.GatedBackward(dGate, dUp, dy, gate, up, n, op, accumulate);
        Add(nameof(GatedBackward), start);
    }

    public void ReduceSum(View y, View x, int outer, int n, int inner, bool accumulate)
    {
        double start = clock();
        backend.ReduceSum(y, x, outer, n, inner, accumulate);
        Add(nameof(ReduceSum), start);
    }

    public void ReduceSumBackward(View dx, View dy, int outer, int n, int inner)
    {
        double start = clock();
        backend.ReduceSumBackward(dx, dy, outer, n, inner);
        Add(nameof(ReduceSumBackward), start);
    }

    public void GatherRows(View y, View x, View index, int rows, int cols)
    {
        double start = clock();
        backend.GatherRows(y, x, index, rows, cols);
        Add(nameof(GatherRows), start);
    }

    public void GatherRowsBackward(View dx, View dy, View index, int rows, int cols)
    {
        double start = clock();
        backend.GatherRowsBackward(dx, dy, index, rows, cols);
        Add(nameof(GatherRowsBackward), start);
    }

    public void CopyColumns(View dst, int dstStride, int dstOffset, View src, int srcStride, int srcOffset, int rows, int cols, bool accumulate)
    {
        double start = clock();
        backend.CopyColumns(dst, dstStride, dstOffset, src, srcStride, srcOffset, rows, cols, accumulate);
        Add(nameof(CopyColumns), start);
    }

    public void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args)
    {
        double start = clock();
        backend.AdamW(param, grad, m, v, n, in args);
        Add(nameof(AdamW), start);
    }

    public void MatMul(View c, View a, View b, in MatMulArgs args)
    {
        double start = clock();
        backend.MatMul(c, a, b, in args);
        Add(Product(args), start, args.Flops);
    }

    public void AddBias(View y, View bias, int rows, int cols)
    {
        double start = clock();
        backend.AddBias(y, bias, rows, cols);
        Add(nameof(AddBias), start);
    }

    public void AddBiasBackward(View dBias, View dy, int rows, int cols)
    {
        double start = clock();
        backend.AddBiasBackward(dBias, dy, rows, cols);
        Add(nameof(AddBiasBackward), start);
    }

    public void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset)
    {
        double start = clock();
        backend.RmsNormForward(y, rstd, x, weight, rows, cols, eps, weightOffset);
        Add(nameof(RmsNormForward), start);
    }

    public void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset, bool accumulate)
    {
        double start = clock();
        backend.RmsNormBackward(dx, dWeight, dy, x, weight, rstd, rows, cols, weightOffset, accumulate);
        Add(nameof(RmsNormBackward), start);
    }

    public void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps)
    {
        double start = clock();
        backend.LayerNormForward(y, mean, rstd, x, weight, bias, rows, cols, eps);
        Add(nameof(LayerNormForward), start);
    }

    public void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols, bool accumulate)
    {
        double start = clock();
        backend.LayerNormBackward(dx, dWeight, dBias, dy, x, weight, mean, rstd, rows, cols, accumulate);
        Add(nameof(LayerNormBackward), start);
    }

    public void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate)
    {
        double start = clock();
        backend.Rope(y, x, cos, sin, positions, rows, heads, headDim, rotaryDim, interleaved, inverse, accumulate);
        Add(nameof(Rope), start);
    }

    public void Skew(View a, View p, int n, int batch, bool accumulate)
    {
        double start = clock();
        backend.Skew(a, p, n, batch, accumulate);
        Add(nameof(Skew), start);
    }

    public void CayleyForward(View r, View x, int n, int batch)
    {
        double start = clock();
        backend.CayleyForward(r, x, n, batch);
        Add(nameof(CayleyForward), start);
    }

    public void CayleyBackward(View dx, View dr, View r, int n, int batch)
    {
        double start = clock();
        backend.CayleyBackward(dx, dr, r, n, batch);
        Add(nameof(CayleyBackward), start);
    }

    public void MatrixExpForward(View r, View x, int n, int batch)
    {
        double start = clock();
        backend.MatrixExpForward(r, x, n, batch);
        Add(nameof(MatrixExpForward), start);
    }

    public void MatrixExpBackward(View dx, View dr, View x, int n, int batch)
    {
        double start = clock();
        backend.MatrixExpBackward(dx, dr, x, n, batch);
        Add(nameof(MatrixExpBackward), start);
    }

    public void Unpack(View y, View packed)
    {
        double start = clock();
        backend.Unpack(y, packed);
        Add(nameof(Unpack), start);
    }

    public void EmbeddingForward(View y, View table, View ids, int rows, int dim, float scale)
    {
        double start = clock();
        backend.EmbeddingForward(y, table, ids, rows, dim, scale);
        Add(nameof(EmbeddingForward), start);
    }

    public void EmbeddingBackward(View dTable, View dy, View ids, int rows, int dim, float scale)
    {
        double start = clock();
        backend.EmbeddingBackward(dTable, dy, ids, rows, dim, scale);
        Add(nameof(EmbeddingBackward), start);
    }

    public void LogSumExpChunk(View max, View sum, View logits, int rows, int cols)
    {
        double start = clock();
        backend.LogSumExpChunk(max, sum, logits, rows, cols);
        Add(nameof(LogSumExpChunk), start);
    }

    public void LogSumExpFinish(View lse, View max, View sum, int rows)
    {
        double start = clock();
        backend.LogSumExpFinish(lse, max, sum, rows);
        Add(nameof(LogSumExpFinish), start);
    }

    public void GatherLabelChunk(View target, View logits, View labels, int rows, int cols, int firstColumn)
    {
        double start = clock();
        backend.GatherLabelChunk(target, logits, labels, rows, cols, firstColumn);
        Add(nameof(GatherLabelChunk), start);
    }

    public void LogProbBackwardChunk(View logits, View lse, View dLogProb, View labels, int rows, int cols, int firstColumn, float softCap)
    {
        double start = clock();
        backend.LogProbBackwardChunk(logits, lse, dLogProb, labels, rows, cols, firstColumn, softCap);
        Add(nameof(LogProbBackwardChunk), start);
    }

    public void EntropyChunk(View entropy, View logits, View lse, int rows, int cols)
    {
        double start = clock();
        backend.EntropyChunk(entropy, logits, lse, rows, cols);
        Add(nameof(EntropyChunk), start);
    }

    public void TotalVariationChunk(View tv, View dot, View logitsRef, View lseRef, View logits, View lse, int rows, int cols)
    {
        double start = clock();
        backend.TotalVariationChunk(tv, dot, logitsRef, lseRef, logits, lse, rows, cols);
        Add(nameof(TotalVariationChunk), start);
    }

    public void TotalVariationBackwardChunk(View logits, View lse, View logitsRef, View lseRef, View dot, View dTv, View add, int rows, int cols, float softCap)
    {
        double start = clock();
        backend.TotalVariationBackwardChunk(logits, lse, logitsRef, lseRef, dot, dTv, add, rows, cols, softCap);
        Add(nameof(TotalVariationBackwardChunk), start);
    }

    public nint Allocate(long bytes) => backend.Allocate(bytes);

    public void Free(nint address, long bytes) => backend.Free(address, bytes);

    public void Upload(View destination, ReadOnlySpan<byte> source)
    {
        double start = clock();
        backend.Upload(destination, source);
        Add(nameof(Upload), start);
    }

    public void Download(Span<byte> destination, View source)
    {
        double start = clock();
        backend.Download(destination, source);
        Add(nameof(Download), start);
    }

    public void Copy(View dst, View src)
    {
        double start = clock();
        backend.Copy(dst, src);
        Add(nameof(Copy), start);
    }

    public void Fill(View dst, float value)
    {
        double start = clock();
        backend.Fill(dst, value);
        Add(nameof(Fill), start);
    }

    private static string Product(in MatMulArgs a) =>
        $"MatMul {(a.TransA ? 'T' : 'N')}{(a.TransB ? 'T' : 'N')} {a.M}x{a.N}x{a.K}{(a.Accumulate ? " +=" : "")}";

    private void Add(string kind, double start, double flops = 0)
    {
        if (Paused)
            return;
        (long calls, double seconds, double sum) = _totals.GetValueOrDefault(kind);
        _totals[kind] = (calls + 1, seconds + clock() - start, sum + flops);
    }
}
