using System.Diagnostics;
using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Training;

/// <summary>How fast a device computes, for predictions and reports.</summary>
/// <param name="FlopsPerSecond">Floating-point operations a second of a matrix product in fp32.</param>
/// <param name="BytesPerSecond">Bytes a second that an elementwise op reads and writes.</param>
public readonly record struct DeviceRate(double FlopsPerSecond, double BytesPerSecond)
{
    // A linear layer of a small model on a batch of the default size.
    private const int Rows = 448, Width = 768;

    /// <summary>Measures both, each for about as long as asked; medians, so that another process does not spoil them.</summary>
    public static DeviceRate Measure(Device device, double seconds = 0.3)
    {
        using var a = new Tensor(device, DType.F32, Rows, Width);
        using var b = new Tensor(device, DType.F32, Width, Width);
        using var c = new Tensor(device, DType.F32, Rows, Width);
        device.Backend.Fill(a.Data, 0.5f);
        device.Backend.Fill(b.Data, 0.25f);
        var product = new MatMulArgs(Rows, Width, Width, TransB: true, Autocast: true);
        double multiply = Median(c, seconds, () => device.Backend.MatMul(c.Data, a.Data, b.Data, product));
        double scale = Median(c, seconds / 3, () => device.Backend.Unary(c.Data, a.Data, a.Length, UnaryOp.Scale, 2));
        return new DeviceRate(product.Flops / multiply, 2.0 * a.Data.Bytes / scale);
    }

    private static double Median(Tensor result, double seconds, Action op)
    {
        var times = new List<double>();
        Span<float> one = stackalloc float[1];
        op();
        var total = Stopwatch.StartNew();
        do
        {
            long start = Stopwatch.GetTimestamp();
            op();
            // Reading one value back makes the time that of finished work on a device that queues.
            result.Device.Backend.Download(MemoryMarshal.AsBytes(one), result.Data.Slice(0, 1));
            times.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        while (total.Elapsed.TotalSeconds < seconds);
        times.Sort();
        return times[times.Count / 2];
    }
}
