namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public void RmsNormForward(View y, View rstd, View x, View weight, int rows, int cols, float eps, float weightOffset) => throw new NotImplementedException();

    public void RmsNormBackward(View dx, View dWeight, View dy, View x, View weight, View rstd, int rows, int cols, float weightOffset) => throw new NotImplementedException();

    public void LayerNormForward(View y, View mean, View rstd, View x, View weight, View bias, int rows, int cols, float eps) => throw new NotImplementedException();

    public void LayerNormBackward(View dx, View dWeight, View dBias, View dy, View x, View weight, View mean, View rstd, int rows, int cols) => throw new NotImplementedException();

    public void Rope(View y, View x, View cos, View sin, View positions, int rows, int heads, int headDim, int rotaryDim, bool interleaved, bool inverse, bool accumulate) => throw new NotImplementedException();
}
