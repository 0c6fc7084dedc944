namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Reduce = "reduce";
    private const int RowChunk = 8192, ColChunk = 1024;

    /// <inheritdoc/>
    public void ReduceSum(View y, View x, int outer, int n, int inner, bool accumulate)
    {
        RequireReduction(y, x, outer, n, inner, nameof(ReduceSum), nameof(y), nameof(x));
        if ((long)outer * inner == 0)
            return;
        if (n == 0)
        {
            if (!accumulate)
                Fill(y.Slice(0, (long)outer * inner), 0);
            return;
        }
        if (inner == 1)
            SumRows(s_terms[0], y, x, default, default, outer, n, 0, accumulate);
        else
            SumCols(s_terms[0], y, x, default, default, outer, n, inner, accumulate);
    }

    /// <inheritdoc/>
    public void ReduceSumBackward(View dx, View dy, int outer, int n, int inner)
    {
        if (dx.IsEmpty)
            return;
        RequireReduction(dy, dx, outer, n, inner, nameof(ReduceSumBackward), nameof(dy), nameof(dx));
        long total = (long)outer * n * inner;
        KernelArguments a = default;
        a.Add(dx).Add(dy).Add(total).Add(n).Add(inner);
        Kernel(Reduce, "reduce_sum_backward").Launch(new(Blocks(total, FlatTile)), new(Threads), 0, ref a);
    }

    /// <summary>y[rows] (=|+=) Σ_cols term(dy, a, b); b's element stands at row·bStep.</summary>
    private void SumRows(string term, View y, View dy, View a, View b, int rows, long cols, int bStep, bool accumulate)
    {
        uint chunks = Blocks(cols, RowChunk);
        nint partial = Scratch(sizeof(double) * rows * (long)chunks);
        KernelArguments k = default;
        k.Add(partial).Add(dy).Add(a).Add(b).Add(cols).Add(bStep);
        Kernel(Reduce, "sum_rows_" + term).Launch(new((uint)rows, chunks), new(Threads), 0, ref k);
        SumPartials(y, partial, rows, 1, (int)chunks, 1, chunks, accumulate);
    }

    /// <summary>y[outer, cols] (=|+=) Σ_n term(dy[outer, n, cols], a, b[cols]); partial sums go to <paramref name="room"/> where the caller has some.</summary>
    private void SumCols(string term, View y, View dy, View a, View b, int outer, int n, int cols, bool accumulate, nint room = 0)
    {
        uint chunks = Blocks(n, ColChunk);
        nint partial = room != 0 ? room : Scratch(sizeof(double) * outer * (long)chunks * cols);
        KernelArguments k = default;
        k.Add(partial).Add(dy).Add(a).Add(b).Add(n).Add(cols);
        Kernel(Reduce, "sum_cols_" + term).Launch(new(Blocks((long)outer * Blocks(cols, 32), 1), chunks), new(Threads), 0, ref k);
        SumPartials(y, partial, (long)outer * cols, cols, (int)chunks, cols, (long)chunks * cols, accumulate);
    }

    private void SumPartials(View y, nint partial, long count, int cols, int chunks, long chunkStep, long outerStep, bool accumulate)
    {
        KernelArguments k = default;
        k.Add(y).Add(partial).Add(count).Add(cols).Add(chunks).Add(chunkStep).Add(outerStep).Add(accumulate ? 1 : 0);
        Kernel(Reduce, "sum_partials").Launch(new(Blocks(count, Threads)), new(Threads), 0, ref k);
    }

    private static void RequireReduction(View summed, View whole, int outer, int n, int inner, string op, string summedName, string wholeName)
    {
        Check.Size(outer, op, nameof(outer));
        Check.Size(n, op, nameof(n));
        Check.Size(inner, op, nameof(inner));
        summed.Require((long)outer * inner, DType.F32, op, summedName);
        whole.Require((long)outer * n * inner, DType.F32, op, wholeName);
    }
}
