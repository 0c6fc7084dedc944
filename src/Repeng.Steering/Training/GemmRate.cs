using System.Diagnostics;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Training;

/// <summary>How fast a device multiplies matrices, for predictions and reports.</summary>
public static class GemmRate
{
    /// <summary>
    /// Floating-point operations a second of C [m, n] = A [m, k]·Bᵀ [n, k] in fp32, the shape of a linear layer: the
    /// median of repetitions within the time, so that another process does not spoil it.
    /// </summary>
    /// <param name="device">Where.</param>
    /// <param name="rows">m.</param>
    /// <param name="inputs">k.</param>
    /// <param name="outputs">n.</param>
    /// <param name="seconds">How long to measure.</param>
    public static double Measure(Device device, int rows = 448, int inputs = 768, int outputs = 768, double seconds = 0.3)
    {
        using var a = new Tensor(device, DType.F32, rows, inputs);
        using var b = new Tensor(device, DType.F32, outputs, inputs);
        using var c = new Tensor(device, DType.F32, rows, outputs);
        device.Backend.Fill(a.Data, 0.5f);
        device.Backend.Fill(b.Data, 0.25f);
        var product = new MatMulArgs(rows, outputs, inputs, TransB: true);
        var times = new List<double>();
        float[] last = [0];
        // Reading one value back makes the time that of finished work on a device that queues.
        device.Backend.MatMul(c.Data, a.Data, b.Data, product);
        var total = Stopwatch.StartNew();
        do
        {
            long start = Stopwatch.GetTimestamp();
            device.Backend.MatMul(c.Data, a.Data, b.Data, product);
            device.Backend.Download(System.Runtime.InteropServices.MemoryMarshal.AsBytes(last.AsSpan()), c.Data.Slice(0, 1));
            times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        while (total.Elapsed.TotalSeconds < seconds);
        times.Sort();
        return product.Flops / times[times.Count / 2];
    }
}
