using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>The bf16 precision through the launch code: what rounds and what does not, and that neither the form of a weight nor the kernel that is chosen changes a bit.</summary>
public sealed class RoundedBackendTests
{
    // Sums of fp32 over up to 1,280 terms; operands are rounded on both sides of the comparison.
    private const double Sums = 5e-6;

    // Rows and columns, at a depth of 128, for which each tile of rounded.cu is the fastest on the emulator's 108 multiprocessors.
    internal static readonly (int Rows, int Columns, string Tile)[] Chosen = [(128, 128, "64x64"), (2688, 160, "128x128"), (4032, 288, "128x192"), (2880, 800, "256x160"), (1088, 3392, "256x192")];

    public static TheoryData<string, string> Forms()
    {
        var rows = new TheoryData<string, string>();
        foreach (string backend in Backends.Names.Where(n => n != "cpu"))
            foreach (string form in PackedMatrix.Forms)
                rows.Add(backend, form);
        return rows;
    }

    public static TheoryData<string> OnDevices() => [.. Backends.Names.Where(n => n != "cpu")];

    private static float[] Rounded(float[] values) => Array.ConvertAll(values, v => MatMulKernelTests.Widen(MatMulKernelTests.BFloat(v)));

    [Theory, MemberData(nameof(Forms))]
    public void TheFormOfAWeightChangesNothing(string backend, string form)
    {
        using IBackend b = Backends.Create(backend, precision: CudaPrecision.Bf16);
        using var memory = new TestMemory(b);
        // Wide enough for the kernels of bf16 operands; INT8's rows are odd, which others must take.
        using var w = new PackedMatrix(form, 136, form == "INT8" ? 131 : 160, 3);
        int n = w.Rows, k = w.Columns;
        View packed = w.On(memory), decoded = memory.Of(w.Decoded), half = memory.Of(Array.ConvertAll(w.Decoded, MatMulKernelTests.BFloat).AsSpan(), DType.BF16);
        foreach (MatMulArgs args in new MatMulArgs[] { new(130, n, k, TransB: true, Autocast: true), new(9, n, k, TransB: true, Autocast: true), new(130, k, n, Accumulate: true, Autocast: true), new(9, n, k, TransA: true, TransB: true, Autocast: true) })
        {
            float[] x = Gpu.Random(args.M * args.K, 22), before = Gpu.Random(args.M * args.N, 21);
            float[] product = Product(packed);
            double[] expected = MatMulKernelTests.Product(Rounded(x), Rounded(w.Decoded), args.M, args.N, args.K, args.TransA, args.TransB);
            for (int i = 0; args.Accumulate && i < expected.Length; i++)
                expected[i] += before[i];
            Close.To(Sums, product, expected, $"{form} {args}");
            Assert.Equal(product, Product(decoded));
            Assert.Equal(product, Product(half));

            float[] Product(View weight)
            {
                View c = memory.Of(before);
                b.MatMul(c, memory.Of(x), weight, args);
                return memory.Read(c);
            }
        }
    }

    [Theory, MemberData(nameof(OnDevices))]
    public void OnlyProductsOfLayersRoundAndFewRowsDoNot(string backend)
    {
        const int n = 72, k = 160;
        float[] w = Gpu.Random(n * k, 1);
        using var packed = new PackedMatrix("NF4", n, k, 2);
        // The same in both precisions: no product of a layer, and few rows with a weight [N, K].
        foreach (MatMulArgs args in new MatMulArgs[] { new(70, n, k, TransB: true), new(12, n, k), new(8, n, k, TransB: true, Autocast: true), new(1, n, k, TransB: true, Autocast: true) })
        {
            Assert.Equal(Product(CudaPrecision.Exact, args, false), Product(CudaPrecision.Bf16, args, false));
            Assert.Equal(Product(CudaPrecision.Exact, args with { TransB = true }, true), Product(CudaPrecision.Bf16, args with { TransB = true }, true));
        }
        // Others are off by what bf16 rounds, 2⁻⁹ an operand, and no more.
        foreach (bool quantised in new[] { false, true })
        {
            MatMulArgs args = new(9, n, k, TransB: true, Autocast: true);
            float[] exact = Product(CudaPrecision.Exact, args, quantised), rounded = Product(CudaPrecision.Bf16, args, quantised);
            Close.To(1e-2, rounded, exact, "rounded operands");
            Assert.True(exact.Zip(rounded).Max(p => Math.Abs(p.First - p.Second)) > 1e-4 * exact.Max(Math.Abs));
        }

        float[] Product(CudaPrecision precision, MatMulArgs args, bool quantised)
        {
            using IBackend b = Backends.Create(backend, precision: precision);
            using var memory = new TestMemory(b);
            View c = memory.Empty(args.M * args.N);
            b.MatMul(c, memory.Of(Gpu.Random(args.M * k, 3)), quantised ? packed.On(memory) : memory.Of(w), args);
            return memory.Read(c);
        }
    }

    [Theory, MemberData(nameof(OnDevices))]
    public void GroupsAndTermsAreTheProductsOneByOne(string backend)
    {
        using IBackend b = Backends.Create(backend, precision: CudaPrecision.Bf16);
        using var memory = new TestMemory(b);
        const int n = 136, k = 72, rank = 8, rows = 30;
        View x = memory.Of(Gpu.Random(rows * k, 1)), w = memory.Of(Gpu.Random(n * k, 2)), other = memory.Of(Gpu.Random(n * k, 3)), y = memory.Empty(rows * n), expected = memory.Empty(rows * n);
        MatMulGroup[] groups = [new(0, 3, w), new(3, 20, other), new(23, 7, w)];
        b.MatMulGroups(y, x, groups, new GroupArgs(n, k));
        GroupArgs.OneByOne(b, expected, x, groups, new GroupArgs(n, k));
        Assert.Equal(memory.Read(expected), memory.Read(y));

        View down = memory.Of(Gpu.Random(rank * k, 4)), u = memory.Of(Gpu.Random(n * rank, 5)), m = memory.Of(Gpu.Random(rank * rank, 6)), room = memory.Empty(2 * rows * rank);
        b.MatMulTerm(y, x, w, down, u, [new(0, rows, m)], room, new TermArgs(rows, n, k, rank));
        TermArgs.OneByOne(b, expected, x, w, down, u, [new(0, rows, m)], room, new TermArgs(rows, n, k, rank));
        Assert.Equal(memory.Read(expected), memory.Read(y));
    }

    [Fact]
    public void EveryTileIsChosenForSomeShapeAndChangesNoBit()
    {
        // Races and bounds are the kernel tests' business; these shapes are large.
        using var driver = new EmulatedCudaDriver(new EmulatorOptions { CheckGlobalRaces = false, CheckSharedRaces = false, CheckInitialization = false });
        string kernel = "";
        driver.Device.LaunchCompleted = launch => kernel = launch.Kernel;
        using CudaBackend b = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), CudaLibraries.None, CudaPrecision.Bf16);
        foreach ((int m, int n, string tile) in Chosen)
        {
            using var memory = new TestMemory(b);
            const int k = 128, few = 128;
            View x = memory.Of(Gpu.Random(m * k, 1)), w = memory.Of(Gpu.Random(n * k, 2)), y = memory.Empty((long)m * n), alone = memory.Empty((long)few * n);
            b.MatMul(y, x, w, new MatMulArgs(m, n, k, TransB: true, Autocast: true));
            b.Context.Synchronize();
            Assert.Equal("matmul_rounded_nt_" + tile, kernel);
            // The last rows by themselves.
            b.MatMul(alone, x.Slice((long)(m - few) * k, few * k), w, new MatMulArgs(few, n, k, TransB: true, Autocast: true));
            Assert.Equal(memory.Read(alone), memory.Read(y.Slice((long)(m - few) * n, (long)few * n)));
        }
    }

    [Theory, MemberData(nameof(OnDevices))]
    public void ThinProductsAreCutByTheirDepth(string backend)
    {
        using IBackend b = Backends.Create(backend, precision: CudaPrecision.Bf16);
        using var memory = new TestMemory(b);
        const int m = 20, n = 16, k = 1280;
        float[] x = Gpu.Random(m * k, 1), v = Gpu.Random(k * n, 2);
        View c = memory.Empty(m * n);
        b.MatMul(c, memory.Of(x), memory.Of(v), new MatMulArgs(m, n, k, Autocast: true));
        Close.To(Sums, memory.Read(c), MatMulKernelTests.Product(Rounded(x), Rounded(v), m, n, k, false, false), "x·V");
        // The gradient of a small matrix: A transposed, in shorter stretches, the last one ragged.
        const int rows = 1100;
        float[] z = Gpu.Random(rows * m, 3), dy = Gpu.Random(rows * n, 4);
        View gradient = memory.Of(Gpu.Random(m * n, 5));
        float[] before = memory.Read(gradient);
        b.MatMul(gradient, memory.Of(z), memory.Of(dy), new MatMulArgs(m, n, rows, TransA: true, Accumulate: true, Autocast: true));
        Close.To(Sums, memory.Read(gradient), [.. MatMulKernelTests.Product(Rounded(z), Rounded(dy), m, n, rows, true, false).Zip(before, (p, q) => p + q)], "zᵀ·dy");
    }

    [Theory]
    [InlineData("exact", CudaPrecision.Exact)]
    [InlineData("bf16", CudaPrecision.Bf16)]
    public void NamesAreReadAndOthersRefused(string name, CudaPrecision precision)
    {
        Assert.Equal(precision, CudaPrecisions.Parse(name));
        Assert.StartsWith(name + ":", precision.Describe());
        Assert.Equal("precision 'fast' is not known; it is exact (fp32 accuracy) or bf16 (products of layers and attention round their operands to bf16)", Assert.Throws<UserErrorException>(() => CudaPrecisions.Parse("fast")).Message);
    }
}
