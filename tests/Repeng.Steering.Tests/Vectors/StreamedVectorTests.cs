using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Steering.Training;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Vectors;

/// <summary>Directions from rows that are read in parts: the same as the formula's, on either side of rows = width, and with memory that does not follow their number.</summary>
public sealed class StreamedVectorTests : IDisposable
{
    private const double Tolerance = 1e-9;

    private readonly CpuWorkers _workers = new(2);

    public void Dispose() => _workers.Dispose();

    // 256 rows are read at a time: fewer, a whole part, and parts with a rest; below and above the width.
    [Theory]
    [InlineData(40, 200)]
    [InlineData(198, 200)]
    [InlineData(200, 200)]
    [InlineData(512, 24)]
    [InlineData(1030, 200)]
    public void Directions_are_the_formulas(int rows, int width)
    {
        LayerRows layer = Rows(rows, width);
        double[] h = layer.Hidden!.ToArray(), g = layer.Gradients!.ToArray();
        double[] difference = new double[h.Length / 2];
        for (int i = 0; i < difference.Length; i++)
            difference[i] = h[i / width * 2 * width + i % width] - h[(i / width * 2 + 1) * width + i % width];
        // The singular value decomposition of all rows at once.
        double[] components = PrincipalComponents.Compute(_workers, difference, rows / 2, width, 3).Components, found = Make("pca_diff", layer, 3);
        for (int q = 0; q < 3; q++)
        {
            double cosine = Dot(components, found, q * width, width);
            Assert.True(Math.Abs(cosine) > 1 - Tolerance, $"component {q}: {cosine}");
            int votes = Enumerable.Range(0, rows / 2).Sum(i => Math.Sign(Dot(difference, i * width, found, q * width, width)));
            Assert.True(votes >= 0, $"component {q}: {votes}");
        }
        Assert.True(Math.Abs(Dot(PrincipalComponents.Compute(_workers, g, rows, width, 1).Components, Make("svd_gradient", layer), 0, width)) > 1 - Tolerance);
        Assert.Equal(Enumerable.Range(0, width).Select(j => Enumerable.Range(0, rows / 2).Sum(i => difference[i * width + j]) / (rows / 2)), Make("mean_diff", layer), (a, b) => Math.Abs(a - b) < Tolerance);

        // (F + λI)·v = ḡ, whichever way it was solved.
        double[] mean = Mean(g, width);
        Solves(Make("fisher_steer_emp_reg1", layer), g, null, mean, 0.1, 1.0 / rows, unit: false);
        Solves(Make("fisher_steer_cov_reg2", layer), g, mean, mean, 0.01, 1.0 / (rows - 1), unit: false);
        Solves(Make("kfac_steer_reg1", layer), h, null, Mean(h, width), 0.1, 1.0 / rows, unit: true);
    }

    // K-FAC's projection from XXᵀ and from XᵀX: rows of zeros change the one that is decomposed, and by √(rows) the scale of X.
    [Theory]
    [InlineData(0)]
    [InlineData(5)]
    public void Kfac_projects_alike_from_rows_and_from_their_moments(int rank)
    {
        const int Few = 20, Width = 32;
        LayerRows few = Rows(Few, Width);
        double[] h = few.Hidden!.ToArray(), g = few.Gradients!.ToArray();
        Array.Resize(ref h, 4 * h.Length);
        Array.Resize(ref g, 4 * g.Length);
        var settings = new KfacSettings(KfacMode.Pca, rank, 0.04);
        double[] narrow = KfacSteering.Direction(_workers, few, settings), wide = KfacSteering.Direction(_workers, new LayerRows(Width, h, g), settings with { Lambda = 0.01 });
        Assert.True(Dot(narrow, wide, 0, Width) > 1 - 1e-7, $"cosine {Dot(narrow, wide, 0, Width)}");
    }

    [Theory]
    [InlineData("mean_diff")]
    [InlineData("pca_diff")]
    [InlineData("pca_center_weighted")]
    [InlineData("svd_gradient")]
    [InlineData("fisher_steer")]
    [InlineData("fisher_steer_dual_diff")]
    [InlineData("kfac_steer_pca")]
    public void Pool_memory_is_that_of_a_batch(string method)
    {
        long few = Peak(16), many = Peak(64);
        Assert.True(few > 0);
        Assert.Equal(few, many);

        long Peak(int pairs)
        {
            using Device device = Device.Cpu(2);
            using DecoderModel model = TinyDecoder.Load(device);
            // All of one length, so that batches do not differ.
            int[] Text(int seed) => [.. Enumerable.Range(0, 6).Select(i => (seed * 7 + i * i * 3 + seed * seed * i) % (TinyDecoder.Vocabulary - 1))];
            TokenPair[] texts = [.. Enumerable.Range(0, pairs).Select(i => new TokenPair(Text(2 * i), Text(2 * i + 1)))];
            ControlVector vector = ControlVectorTrainer.Train(model, [model.Blocks[0].Path, model.Blocks[1].Path], texts, 0, VectorMethod.Parse(method), new RepresentationSettings { BatchRows = 8 });
            Assert.Equal(2, vector.Layers.Count);
            return device.Pool.PeakReserved;
        }
    }

    [Fact]
    public void A_folder_that_takes_no_rows_is_named()
    {
        using Device device = Device.Cpu(1);
        using DecoderModel model = TinyDecoder.Load(device);
        string folder = Path.Combine(Path.GetTempPath(), Guid.NewGuid().ToString("N"));
        string message = Assert.Throws<UserErrorException>(() => ControlVectorTrainer.Train(model, [model.Blocks[1].Path], [new([1, 2, 3], [4, 2, 3])], 0, VectorMethod.Parse("pca_diff"), new RepresentationSettings { ScratchFolder = folder })).Message;
        Assert.Contains(folder, message, StringComparison.Ordinal);
        Assert.Contains("MiB of rows", message, StringComparison.Ordinal);
        // Sums need no room.
        Assert.Single(ControlVectorTrainer.Train(model, [model.Blocks[1].Path], [new([1, 2, 3], [4, 2, 3])], 0, VectorMethod.Parse("mean_diff"), new RepresentationSettings { ScratchFolder = folder }).Layers);
    }

    private double[] Make(string method, LayerRows layer, int components = 1) => VectorMethod.Parse(method).Directions(_workers, layer, components);

    // (scale·Σ (x − centre)(x − centre)ᵀ + λI)·v against b; a direction of unit length is first given the length that fits best.
    private static void Solves(double[] v, double[] x, double[]? centre, double[] b, double lambda, double scale, bool unit)
    {
        int d = b.Length;
        double[] image = [.. v.Select(y => lambda * y)];
        for (int i = 0; i < x.Length / d; i++)
        {
            double along = 0;
            for (int j = 0; j < d; j++)
                along += (x[i * d + j] - (centre?[j] ?? 0)) * v[j];
            for (int j = 0; j < d; j++)
                image[j] += scale * along * (x[i * d + j] - (centre?[j] ?? 0));
        }
        double factor = unit ? Dot(image, b, 0, d) / Dot(image, image, 0, d) : Math.Sign(Dot(image, b, 0, d));
        double error = Math.Sqrt(image.Zip(b, (p, q) => (factor * p - q) * (factor * p - q)).Sum() / Dot(b, b, 0, d));
        Assert.True(error < Tolerance, $"residual {error}");
    }

    private static LayerRows Rows(int rows, int width)
    {
        var noise = new float[2 * rows * width];
        Philox.FillNormal(noise, 11, 0);
        // Three directions stand out, and pairs differ.
        double Value(int i, int kind) => noise[kind * rows * width + i] + (i / width % 2 == 0 ? 0.3 : -0.2) + Math.Cos(i % width * 1.7) * noise[(kind * rows + i / width) * width] * 3
            + (i % width == 3 ? 2.5 * noise[kind * rows * width + i] : 0) + (i % width == 5 ? 1.2 * noise[kind * rows * width + i] : 0);
        double[] h = [.. Enumerable.Range(0, rows * width).Select(i => Value(i, 0))], g = [.. Enumerable.Range(0, rows * width).Select(i => Value(i, 1))];
        return new LayerRows(width, h, g, [.. Enumerable.Range(0, rows).Select(i => -2 - 0.01 * (i % 9))], [.. Enumerable.Repeat(1.0, rows)]);
    }

    private static double[] Mean(double[] x, int d) => [.. Enumerable.Range(0, d).Select(j => Enumerable.Range(0, x.Length / d).Sum(i => x[i * d + j]) / (x.Length / d))];

    private static double Dot(double[] a, double[] b, int from, int n) => Dot(a, from, b, from, n);

    private static double Dot(double[] a, int from, double[] b, int at, int n)
    {
        double sum = 0;
        for (int i = 0; i < n; i++)
            sum += a[from + i] * b[at + i];
        return sum;
    }
}
