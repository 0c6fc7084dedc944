using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing;
using Repeng.Testing.Cuda;

namespace Repeng.Cuda.Tests;

/// <summary>A linear layer with its low-rank term as one op: exact as the products one by one, bf16 against double arithmetic on what is rounded, and the kernel that rounds.</summary>
public sealed class LinearTermTests
{
    // Sums of fp32; what the thin product gives is rounded to bf16 again, where a last bit of the sum may turn a tie.
    private const double Tolerance = 1e-4;

    public static TheoryData<string, CudaPrecision, string> Cases()
    {
        TheoryData<string, CudaPrecision, string> cases = [];
        foreach (string backend in Backends.Names.Where(n => n != "cpu"))
            foreach (CudaPrecision precision in Enum.GetValues<CudaPrecision>())
                foreach (string weight in new[] { "f32", "bf16", "NF4", "Q8_0" })
                    cases.Add(backend, precision, weight);
        return cases;
    }

    [Theory, MemberData(nameof(Cases))]
    public void ForwardAndBackwardAreTheProducts(string backend, CudaPrecision precision, string weight)
    {
        using IBackend b = Backends.Create(backend, precision: precision);
        using var memory = new TestMemory(b);
        // Ragged tiles; a depth that is cut (1,024 and more) one way; ranks that the tiles take, and one that they do not.
        foreach ((int rows, int outputs, int inputs, int r) in new[] { (70, 136, 64, 16), (12, 40, 1056, 8), (3, 40, 64, 8), (20, 40, 64, 6) })
        {
            TermArgs args = new(rows, outputs, inputs, r);
            using var packed = weight is "NF4" or "Q8_0" ? new PackedMatrix(weight, outputs, inputs, 3) : null;
            float[] values = packed?.Decoded ?? Gpu.Random(outputs * inputs, 1);
            if (weight == "bf16")
                values = Rounded(values);
            float[] x = Gpu.Random(rows * inputs, 2), v = Gpu.Random(inputs * r, 3), m = Gpu.Random(r * r, 4), u = Gpu.Random(outputs * r, 5), bias = Gpu.Random(outputs, 6), dy = Gpu.Random(rows * outputs, 7), before = Gpu.Random(rows * inputs, 8);
            View w = packed?.On(memory) ?? (weight == "bf16" ? memory.Of(Array.ConvertAll(values, MatMulKernelTests.BFloat).AsSpan(), DType.BF16) : memory.Of(values));
            View y = memory.Empty(rows * outputs), z = memory.Empty(rows * r), mixed = memory.Empty(rows * r), dx = memory.Of(before), dMixed = memory.Empty(rows * r), dz = memory.Empty(rows * r);
            b.LinearTerm(y, z, mixed, memory.Of(x), w, memory.Of(bias), memory.Of(v), memory.Of(m), memory.Of(u), args);
            b.LinearTermBackward(dx, dMixed, dz, memory.Of(dy), w, memory.Of(v), memory.Of(m), memory.Of(u), args, accumulate: true);

            // As they are computed: each product of what the device made before it.
            bool rounds = precision == CudaPrecision.Bf16 && rows > 8;
            Close.To(Tolerance, memory.Read(z), Product(x, v, rows, r, inputs, false), $"z {args}");
            Close.To(Tolerance, memory.Read(mixed), Product(memory.Read(z), m, rows, r, r, false), $"mixed {args}");
            double[] expected = Sum(Product(x, values, rows, outputs, inputs, true), Product(memory.Read(mixed), u, rows, outputs, r, true));
            for (int i = 0; i < expected.Length; i++)
                expected[i] += bias[i % outputs];
            Close.To(Tolerance, memory.Read(y), expected, $"y {args}");
            Close.To(Tolerance, memory.Read(dMixed), Product(dy, u, rows, r, outputs, false), $"dMixed {args}");
            Close.To(Tolerance, memory.Read(dz), Product(memory.Read(dMixed), m, rows, r, r, true), $"dz {args}");
            double[] gradient = Sum(Product(dy, values, rows, inputs, outputs, false), Product(memory.Read(dz), v, rows, inputs, r, true));
            for (int i = 0; i < gradient.Length; i++)
                gradient[i] += before[i];
            Close.To(Tolerance, memory.Read(dx), gradient, $"dx {args}");

            double[] Product(float[] left, float[] right, int rowsOf, int columns, int depth, bool transB) => rounds || (precision == CudaPrecision.Bf16 && !transB)
                ? MatMulKernelTests.Product(Rounded(left), Rounded(right), rowsOf, columns, depth, false, transB)
                : MatMulKernelTests.Product(left, right, rowsOf, columns, depth, false, transB);
        }
    }

    [Theory]
    [InlineData("emulator")]
    public void ExactIsThePlainProductsToTheBit(string backend)
    {
        using IBackend b = Backends.Create(backend);
        using var memory = new TestMemory(b);
        const int rows = 20, outputs = 72, inputs = 64, r = 8;
        TermArgs args = new(rows, outputs, inputs, r);
        View x = memory.Of(Gpu.Random(rows * inputs, 1)), w = memory.Of(Gpu.Random(outputs * inputs, 2)), v = memory.Of(Gpu.Random(inputs * r, 3)), m = memory.Of(Gpu.Random(r * r, 4)), u = memory.Of(Gpu.Random(outputs * r, 5));
        View y = memory.Empty(rows * outputs), z = memory.Empty(rows * r), mixed = memory.Empty(rows * r), expected = memory.Empty(rows * outputs);
        b.LinearTerm(y, z, mixed, x, w, default, v, m, u, args);
        b.MatMul(expected, x, w, new MatMulArgs(rows, outputs, inputs, TransB: true));
        b.MatMul(z, x, v, new MatMulArgs(rows, r, inputs));
        b.MatMul(mixed, z, m, new MatMulArgs(rows, r, r));
        b.MatMul(expected, mixed, u, new MatMulArgs(rows, outputs, r, TransB: true, Accumulate: true));
        Assert.Equal(memory.Read(expected), memory.Read(y));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TheLibraryAddsToTheTerm(bool hasAlgorithms)
    {
        const int rows = 70, outputs = 136, inputs = 72, r = 8;
        TermArgs args = new(rows, outputs, inputs, r);
        float[] x = Gpu.Random(rows * inputs, 2), v = Gpu.Random(inputs * r, 3), m = Gpu.Random(r * r, 4), u = Gpu.Random(outputs * r, 5), dy = Gpu.Random(rows * outputs, 7), before = Gpu.Random(rows * inputs, 8);
        using var packed = new PackedMatrix("NF4", outputs, inputs, 3);
        using var driver = new EmulatedCudaDriver();
        List<(bool Adds, long Depth)> products = [];
        var library = new FakeCublasLt(driver) { HasAlgorithms = hasAlgorithms, Computed = p => products.Add((p.Adds, p.Depth)) };
        using CudaBackend with = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), new CudaLibraries(library), CudaPrecision.Bf16, 0), without = CudaBackend.Open(driver, CudaDevices.Find(driver).Choose(), CudaLibraries.None, CudaPrecision.Bf16);
        float[][] expected = Of(without), seen = Of(with);
        for (int i = 0; i < expected.Length; i++)
            Close.To(1e-6, seen[i], expected[i], $"result {i}");
        // One product each way that adds to what is there, whether or not dx held anything before.
        Assert.Equal(hasAlgorithms ? [(true, inputs), (true, outputs), (true, outputs)] : [], products);

        float[][] Of(CudaBackend b)
        {
            using var memory = new TestMemory(b);
            View w = packed.On(memory), y = memory.Of(Gpu.Random(rows * outputs, 9)), z = memory.Empty(rows * r), mixed = memory.Empty(rows * r), dx = memory.Of(before), first = memory.Of(before), dMixed = memory.Empty(rows * r), dz = memory.Empty(rows * r);
            b.LinearTerm(y, z, mixed, memory.Of(x), w, default, memory.Of(v), memory.Of(m), memory.Of(u), args);
            b.LinearTermBackward(dx, dMixed, dz, memory.Of(dy), w, memory.Of(v), memory.Of(m), memory.Of(u), args, accumulate: true);
            b.LinearTermBackward(first, dMixed, dz, memory.Of(dy), w, memory.Of(v), memory.Of(m), memory.Of(u), args, accumulate: false);
            return [memory.Read(y), memory.Read(z), memory.Read(mixed), memory.Read(dx), memory.Read(first), memory.Read(dMixed), memory.Read(dz)];
        }
    }

    [Fact]
    public void RowsDoNotChangeARow()
    {
        using IBackend b = Backends.Create("emulator", precision: CudaPrecision.Bf16);
        using var memory = new TestMemory(b);
        const int outputs = 136, inputs = 1032, r = 8;
        float[] x = Gpu.Random(200 * inputs, 1);
        View w = memory.Of(Gpu.Random(outputs * inputs, 2)), v = memory.Of(Gpu.Random(inputs * r, 3)), m = memory.Of(Gpu.Random(r * r, 4)), u = memory.Of(Gpu.Random(outputs * r, 5));
        float[] many = Of(200), few = Of(9);
        Assert.Equal(few, many[..few.Length]);

        float[] Of(int rows)
        {
            View y = memory.Empty(rows * outputs), z = memory.Empty(rows * r), mixed = memory.Empty(rows * r);
            b.LinearTerm(y, z, mixed, memory.Of(x[..(rows * inputs)]), w, default, v, m, u, new TermArgs(rows, outputs, inputs, r));
            return memory.Read(y);
        }
    }

    [Fact]
    public void SeveralMatricesAreRoundedAndTurned()
    {
        using Gpu gpu = new();
        (int Rows, int Cols, bool Turned)[] shapes = [(37, 72, false), (72, 40, true), (8, 4, true), (300, 8, false)];
        float[][] values = [.. shapes.Select((s, i) => Gpu.Random(s.Rows * s.Cols, i + 1))];
        ulong[] y = [.. shapes.Select(s => gpu.Empty<ushort>(s.Rows * s.Cols))];
        // RoundParams of kernels/rounded.cu.
        var p = new byte[128];
        int end = 0;
        for (int i = 0; i < shapes.Length; i++)
        {
            BitConverter.TryWriteBytes(p.AsSpan(8 * i), y[i]);
            BitConverter.TryWriteBytes(p.AsSpan(32 + (8 * i)), gpu.Upload(values[i]));
            BitConverter.TryWriteBytes(p.AsSpan(64 + (4 * i)), shapes[i].Rows);
            BitConverter.TryWriteBytes(p.AsSpan(80 + (4 * i)), shapes[i].Cols);
            BitConverter.TryWriteBytes(p.AsSpan(96 + (4 * i)), shapes[i].Turned ? 1 : 0);
            BitConverter.TryWriteBytes(p.AsSpan(112 + (4 * i)), end += Gpu.Ceil(shapes[i].Rows * shapes[i].Cols, 2048));
        }
        gpu.Run("rounded", "round_several", end, 256, System.Runtime.InteropServices.MemoryMarshal.Read<Blob>(p));
        for (int i = 0; i < shapes.Length; i++)
        {
            (int rows, int cols, bool turned) = shapes[i];
            int across = turned ? rows : cols;
            Assert.Equal(Enumerable.Range(0, rows * cols).Select(j => MatMulKernelTests.BFloat(turned ? values[i][(j % across * cols) + (j / across)] : values[i][j])), gpu.Read<ushort>(y[i], rows * cols));
        }
    }

    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Sequential, Size = 128, Pack = 8)]
    private struct Blob
    {
        private ulong _first;
    }

    private static float[] Rounded(float[] values) => Array.ConvertAll(values, v => MatMulKernelTests.Widen(MatMulKernelTests.BFloat(v)));

    private static double[] Sum(double[] a, double[] b) => [.. a.Zip(b, (x, y) => x + y)];
}
