namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public void Skew(View a, View p, int n, int batch, bool accumulate) => throw new NotImplementedException();

    public void CayleyForward(View r, View x, int n, int batch) => throw new NotImplementedException();

    public void CayleyBackward(View dx, View dr, View r, int n, int batch) => throw new NotImplementedException();

    public void MatrixExpForward(View r, View x, int n, int batch) => throw new NotImplementedException();

    public void MatrixExpBackward(View dx, View dr, View x, int n, int batch) => throw new NotImplementedException();
}
