namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <inheritdoc/>
    public void ReduceSum(View y, View x, int outer, int n, int inner, bool accumulate)
    {
        RequireReduction(y, x, outer, n, inner, nameof(ReduceSum), nameof(y), nameof(x));
        float* source = (float*)x.Address, target = (float*)y.Address;
        if (inner == 1)
            SumKernel.OverCols<AddTerm>(_workers, target, source, source, null, outer, n, accumulate);
        else
            SumKernel.OverRows<AddTerm>(_workers, target, source, source, null, outer, n, inner, accumulate);
    }

    /// <inheritdoc/>
    public void ReduceSumBackward(View dx, View dy, int outer, int n, int inner)
    {
        if (dx.IsEmpty)
            return;
        RequireReduction(dy, dx, outer, n, inner, nameof(ReduceSumBackward), nameof(dy), nameof(dx));
        if (outer == 0 || n == 0 || inner == 0)
            return;
        float* source = (float*)dy.Address, target = (float*)dx.Address;
        if (inner == 1)
            BroadcastKernel.Run<SecondFunction, Accumulate>(_workers, target, target, source, outer, n, Broadcast.OverCols);
        else
            BroadcastKernel.AddRepeated(_workers, target, source, checked(outer * n), inner, n);
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
