namespace Repeng.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public void Unary(View y, View x, long n, UnaryOp op, float p = 0) => throw new NotImplementedException();

    public void UnaryBackward(View dx, View dy, View x, View y, long n, UnaryOp op, float p = 0) => throw new NotImplementedException();

    public void Binary(View y, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast) => throw new NotImplementedException();

    public void BinaryBackward(View da, View db, View dy, View a, View b, int rows, int cols, BinaryOp op, Broadcast broadcast) => throw new NotImplementedException();

    public void AddScaled(View y, View x, long n, float p) => throw new NotImplementedException();

    public void GatedForward(View y, View gate, View up, long n, UnaryOp op) => throw new NotImplementedException();

    public void GatedBackward(View dGate, View dUp, View dy, View gate, View up, long n, UnaryOp op) => throw new NotImplementedException();

    public void ReduceSum(View y, View x, int outer, int n, int inner, bool accumulate) => throw new NotImplementedException();

    public void ReduceSumBackward(View dx, View dy, int outer, int n, int inner) => throw new NotImplementedException();

    public void GatherRows(View y, View x, View index, int rows, int cols) => throw new NotImplementedException();

    public void GatherRowsBackward(View dx, View dy, View index, int rows, int cols) => throw new NotImplementedException();

    public void CopyColumns(View dst, int dstStride, int dstOffset, View src, int srcStride, int srcOffset, int rows, int cols, bool accumulate) => throw new NotImplementedException();

    public void AdamW(View param, View grad, View m, View v, long n, in AdamWArgs args) => throw new NotImplementedException();
}
