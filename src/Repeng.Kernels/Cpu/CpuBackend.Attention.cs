namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public void AttentionForward(View o, View lse, View q, View k, View v, View firstKey, in AttentionArgs args) => throw new NotImplementedException();

    public void AttentionBackward(View dq, View dk, View dv, View dO, View o, View lse, View delta, View q, View k, View v, View firstKey, in AttentionArgs args) => throw new NotImplementedException();
}
