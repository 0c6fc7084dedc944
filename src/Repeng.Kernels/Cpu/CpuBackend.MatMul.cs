namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public void MatMul(View c, View a, View b, in MatMulArgs args) => throw new NotImplementedException();

    public void AddBias(View y, View bias, int rows, int cols) => throw new NotImplementedException();

    public void AddBiasBackward(View dBias, View dy, int rows, int cols) => throw new NotImplementedException();
}
