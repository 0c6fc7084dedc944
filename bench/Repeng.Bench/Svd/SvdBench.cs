using System.Diagnostics;
using System.Globalization;
using MathNet.Numerics.LinearAlgebra;
using Repeng.Bench.Boards;
using Repeng.Bench.Training;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;

namespace Repeng.Bench.Svd;

/// <summary>
/// The leading 64 singular triplets of a random weight beside MathNet's SVD, which knows no part of a decomposition and does the whole. At 9728 × 2560
/// that would take hours in its managed code, so the two alternate at an eighth of both sides, and ours alone takes the large one.
/// </summary>
internal static class SvdBench
{
    public static int Run(string[] args)
    {
        int rows = 9728, cols = 2560, rank = 64, runs = 3, part = 8;
        for (int i = 0; i + 1 < args.Length; i += 2)
        {
            int n = int.Parse(args[i + 1], CultureInfo.InvariantCulture);
            switch (args[i])
            {
                case "--rows": rows = n; break;
                case "--cols": cols = n; break;
                case "--rank": rank = n; break;
                case "--runs": runs = n; break;
                case "--part": part = n; break;
                default: throw new UserErrorException($"svd knows no option {args[i]}");
            }
        }
        using var workers = new CpuWorkers();
        Console.WriteLine($"{Machine.Cpu} ({CpuBackend.Simd}), {workers.Count} threads, commit {Machine.Commit()}, load average {Machine.Load()}");
        float[] large = Random(rows, cols), small = Random(rows / part, cols / part);
        Seconds(() => TopSvd.Compute(workers, small, rows / part, cols / part, rank));
        double[] whole = [.. Enumerable.Range(0, runs).Select(_ => Seconds(() => TopSvd.Compute(workers, large, rows, cols, rank)))];
        double[] ours = new double[runs], peer = new double[runs];
        Matrix<double> matrix = Matrix<double>.Build.Dense(rows / part, cols / part, (r, c) => small[r * (cols / part) + c]);
        double difference = 0;
        for (int i = 0; i < runs; i++)
        {
            TruncatedSvd top = null!;
            ours[i] = Seconds(() => top = TopSvd.Compute(workers, small, rows / part, cols / part, rank));
            peer[i] = Seconds(() => difference = Difference(top, matrix.Svd().S));
        }
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{rows} × {cols}, {rank} triplets: {Median(whole):f2} s; {rows / part} × {cols / part}: {Median(ours):f3} s, MathNet {Median(peer):f2} s, singular values differ by {difference:e1} of the largest"));
        new BoardRow { Job = $"SVD, {rank} triplets of {rows} × {cols}", Unit = "s", Ours = whole, Target = 4 }.Report();
        new BoardRow { Job = $"SVD, {rank} triplets of {rows / part} × {cols / part}", Unit = "s", Ours = ours, Peer = peer, PeerName = "MathNet 5.0 (whole SVD)", Target = 5 }.Report();
        return 0;
    }

    private static double Difference(TruncatedSvd ours, Vector<double> theirs) => ours.S.Select((s, i) => Math.Abs(s - theirs[i])).Max() / theirs[0];

    private static float[] Random(int rows, int cols)
    {
        var w = new float[rows * cols];
        Philox.FillNormal(w, 1, 7);
        return w;
    }

    private static double Seconds(Action work)
    {
        long start = Stopwatch.GetTimestamp();
        work();
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static double Median(double[] values) => values.Order().ElementAt(values.Length / 2);
}
