using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Repeng.Kernels.Cpu;

namespace Repeng.Bench.Boards;

/// <summary>What this machine can do at most: bytes a second read from memory and fp32 operations a second in registers, on all threads, the best of several runs.</summary>
internal static unsafe class MachinePeaks
{
    private const long BytesRead = 512L << 20;
    private const int Parts = 64, Repeats = 10_000_000;

    /// <summary>(bytes/s, FLOP/s).</summary>
    public static (double Bandwidth, double Flops) Measure(int threads)
    {
        using var workers = new CpuWorkers(threads);
        var memory = (byte*)NativeMemory.AlignedAlloc((nuint)BytesRead, 64);
        new Span<byte>(memory, (int)BytesRead).Fill(1);
        double read = double.PositiveInfinity, compute = double.PositiveInfinity;
        for (int i = 0; i < 5; i++)
        {
            long start = Stopwatch.GetTimestamp();
            workers.Run(Parts, &Read, memory);
            read = Math.Min(read, Stopwatch.GetElapsedTime(start).TotalSeconds);
            start = Stopwatch.GetTimestamp();
            workers.Run(threads, &Compute, memory);
            compute = Math.Min(compute, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        NativeMemory.AlignedFree(memory);
        int lanes = Vector512.IsHardwareAccelerated ? 16 : 8;
        return (BytesRead / read, 2.0 * 12 * lanes * Repeats * threads / compute);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Read(void* context, int item, int worker)
    {
        const long Part = BytesRead / Parts;
        byte* p = (byte*)context + item * Part;
        Vector256<long> a = default, b = default, c = default, d = default;
        for (long i = 0; i < Part; i += 128)
        {
            a ^= Vector256.Load((long*)(p + i));
            b ^= Vector256.Load((long*)(p + i + 32));
            c ^= Vector256.Load((long*)(p + i + 64));
            d ^= Vector256.Load((long*)(p + i + 96));
        }
        // Something must depend on what was read.
        if ((a ^ b ^ c ^ d) == Vector256.Create(-1L))
            *p = 0;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Compute(void* context, int item, int worker)
    {
        float sum = Vector512.IsHardwareAccelerated ? Chains512() : Chains256();
        if (sum == 12345)
            *(byte*)context = 0;
    }

    // Twelve chains hide the latency of a fused multiply-add.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Chains512()
    {
        Vector512<float> x = Vector512.Create(0.999f), y = Vector512.Create(0.001f);
        Vector512<float> a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
        for (int n = 0; n < Repeats; n++)
        {
            a = Vector512.FusedMultiplyAdd(a, x, y);
            b = Vector512.FusedMultiplyAdd(b, x, y);
            c = Vector512.FusedMultiplyAdd(c, x, y);
            d = Vector512.FusedMultiplyAdd(d, x, y);
            e = Vector512.FusedMultiplyAdd(e, x, y);
            f = Vector512.FusedMultiplyAdd(f, x, y);
            g = Vector512.FusedMultiplyAdd(g, x, y);
            h = Vector512.FusedMultiplyAdd(h, x, y);
            i = Vector512.FusedMultiplyAdd(i, x, y);
            j = Vector512.FusedMultiplyAdd(j, x, y);
            k = Vector512.FusedMultiplyAdd(k, x, y);
            l = Vector512.FusedMultiplyAdd(l, x, y);
        }
        return Vector512.Sum(a + b + c + d + e + f + g + h + i + j + k + l);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Chains256()
    {
        Vector256<float> x = Vector256.Create(0.999f), y = Vector256.Create(0.001f);
        Vector256<float> a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
        for (int n = 0; n < Repeats; n++)
        {
            a = Vector256.FusedMultiplyAdd(a, x, y);
            b = Vector256.FusedMultiplyAdd(b, x, y);
            c = Vector256.FusedMultiplyAdd(c, x, y);
            d = Vector256.FusedMultiplyAdd(d, x, y);
            e = Vector256.FusedMultiplyAdd(e, x, y);
            f = Vector256.FusedMultiplyAdd(f, x, y);
            g = Vector256.FusedMultiplyAdd(g, x, y);
            h = Vector256.FusedMultiplyAdd(h, x, y);
            i = Vector256.FusedMultiplyAdd(i, x, y);
            j = Vector256.FusedMultiplyAdd(j, x, y);
            k = Vector256.FusedMultiplyAdd(k, x, y);
            l = Vector256.FusedMultiplyAdd(l, x, y);
        }
        return Vector256.Sum(a + b + c + d + e + f + g + h + i + j + k + l);
    }
}
