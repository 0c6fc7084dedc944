using System.Runtime.InteropServices;
using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>MatMulTerm: values against double precision, the bits of its products one by one, rows of no segment, errors.</summary>
public sealed class MatMulTermTests
{
    public static TheoryData<string, DType> Backings()
    {
        var rows = new TheoryData<string, DType>();
        foreach (string backend in Backends.Fast)
            foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
                rows.Add(backend, type);
        return rows;
    }

    public static TheoryData<string> Names() => new(Backends.Fast);

    // Rows, outputs, inputs, rank; the last has more rows than the thin path takes, the second fewer ranks than rows.
    private static readonly (int Rows, int Outputs, int Inputs, int Rank)[] s_sizes =
        [(1, 300, 70, 20), (8, 300, 70, 5), (5, 7, 33, 3), (3, 130, 576, 64), (2, 1, 9, 4), (8, 640, 100, 700), (30, 90, 41, 6)];

    // Segments of a number of rows: all, all in two, a gap at either end and within; M or none.
    private static IEnumerable<(int Start, int Count, bool HasM)[]> Cuts(int rows)
    {
        yield return [(0, rows, false)];
        yield return [(0, rows, true)];
        if (rows < 2)
            yield break;
        yield return [(0, 1, true), (1, rows - 1, true)];
        yield return [(1, rows - 1, true)];
        yield return [(0, rows - 1, false)];
        if (rows >= 5)
            yield return [(0, 1, true), (1, 1, false), (3, 1, true), (4, rows - 4, true)];
    }

    [Theory, MemberData(nameof(Backings))]
    public void Is_the_product_and_the_term(string backend, DType type)
    {
        using IBackend ops = Backends.Create(backend, 3);
        foreach (TermArgs args in s_sizes.Select(s => new TermArgs(s.Rows, s.Outputs, s.Inputs, s.Rank)))
            foreach ((int Start, int Count, bool HasM)[] cut in Cuts(args.Rows))
            {
                using var memory = new TestMemory(ops);
                var c = new Case(memory, args, cut, type);
                ops.MatMulTerm(c.Y, c.X, c.W, c.Down, c.U, c.Segments, c.Room, args);
                c.Compare();
            }
    }

    [Theory, MemberData(nameof(Backings))]
    public void Has_the_bits_of_the_products_one_by_one_at_any_thread_count(string backend, DType type)
    {
        foreach (int threads in new[] { 1, 2, 5 })
        {
            using IBackend ops = Backends.Create(backend, threads);
            foreach (TermArgs args in s_sizes.Select(s => new TermArgs(s.Rows, s.Outputs, s.Inputs, s.Rank)))
                foreach ((int Start, int Count, bool HasM)[] cut in Cuts(args.Rows))
                {
                    using var memory = new TestMemory(ops);
                    var c = new Case(memory, args, cut, type);
                    TermArgs.OneByOne(ops, c.Y, c.X, c.W, c.Down, c.U, c.Segments, c.Room, args);
                    float[] expected = memory.Read(c.Y);
                    for (int again = 0; again < 2; again++)
                    {
                        ops.Fill(c.Y, float.NaN);
                        ops.Fill(c.Room, float.NaN);
                        ops.MatMulTerm(c.Y, c.X, c.W, c.Down, c.U, c.Segments, c.Room, args);
                        Assert.Equal(expected, memory.Read(c.Y));
                    }
                }
        }
    }

    [Theory, MemberData(nameof(Names))]
    public void Rows_of_no_segment_are_the_product_alone(string backend)
    {
        using IBackend ops = Backends.Create(backend, 2);
        using var memory = new TestMemory(ops);
        var args = new TermArgs(4, 200, 60, 8);
        var c = new Case(memory, args, [(1, 2, true)], DType.F32);
        ops.MatMul(c.Y, c.X, c.W, new MatMulArgs(4, 200, 60, TransB: true));
        float[] plain = memory.Read(c.Y);
        ops.MatMulTerm(c.Y, c.X, c.W, c.Down, c.U, c.Segments, c.Room, args);
        float[] found = memory.Read(c.Y);
        Assert.Equal(plain[..200], found[..200]);
        Assert.Equal(plain[600..], found[600..]);
        Assert.NotEqual(plain[200..600], found[200..600]);
    }

    [Fact]
    public void Wrong_segments_and_too_little_room_are_refused()
    {
        using IBackend ops = Backends.Create("cpu", 2);
        using var memory = new TestMemory(ops);
        var args = new TermArgs(4, 20, 6, 3);
        foreach ((int, int, bool)[] cut in new[] { new[] { (3, 2, true) }, [(2, 1, true), (1, 1, true)], [(0, 2, true), (1, 1, true)], [(0, 0, true)] })
        {
            var c = new Case(memory, args, cut, DType.F32);
            Assert.Throws<ArgumentException>(() => ops.MatMulTerm(c.Y, c.X, c.W, c.Down, c.U, c.Segments, c.Room, args));
        }
        var short_ = new Case(memory, args, [(0, 4, true)], DType.F32);
        Assert.Throws<ArgumentException>(() => ops.MatMulTerm(short_.Y, short_.X, short_.W, short_.Down, short_.U, short_.Segments, short_.Room.Slice(0, 23), args));
    }

    private sealed class Case
    {
        private readonly TestMemory _memory;
        private readonly TermArgs _args;
        private readonly (int Start, int Count, bool HasM)[] _cut;

        public Case(TestMemory memory, TermArgs args, (int Start, int Count, bool HasM)[] cut, DType type)
        {
            (_memory, _args, _cut) = (memory, args, cut);
            (int rows, int outputs, int inputs, int r) = args;
            X = Values(rows * inputs, 1, DType.F32);
            W = Values(outputs * inputs, 2, type);
            Down = Values(r * inputs, 3, DType.F32);
            U = Values(outputs * r, 4, DType.F32);
            Y = Values(rows * outputs, 5, DType.F32);
            Room = Values(2 * rows * r, 6, DType.F32);
            Segments = [.. cut.Select((s, i) => new TermSegment(s.Start, s.Count, s.HasM ? Values(r * r, 10 + (ulong)i, DType.F32) : default))];
        }

        public View X { get; }

        public View W { get; }

        public View Down { get; }

        public View U { get; }

        public View Y { get; }

        public View Room { get; }

        public TermSegment[] Segments { get; }

        public void Compare()
        {
            (int rows, int outputs, int inputs, int r) = _args;
            double[] x = Read(X), w = Read(W), down = Read(Down), u = Read(U), y = Read(Y);
            for (int row = 0; row < rows; row++)
            {
                int segment = Array.FindIndex(_cut, s => row >= s.Start && row < s.Start + s.Count);
                double[] z = [.. Enumerable.Range(0, r).Select(q => Sum(inputs, k => x[row * inputs + k] * down[q * inputs + k]))];
                if (segment >= 0 && _cut[segment].HasM)
                {
                    double[] m = Read(Segments[segment].M), before = z;
                    z = [.. Enumerable.Range(0, r).Select(q => Sum(r, k => before[k] * m[k * r + q]))];
                }
                for (int o = 0; o < outputs; o++)
                {
                    double term = segment < 0 ? 0 : Sum(r, q => z[q] * u[o * r + q]), expected = Sum(inputs, k => x[row * inputs + k] * w[o * inputs + k]) + term;
                    // Terms are sums of r·r·inputs products of normal numbers.
                    double scale = Math.Sqrt(inputs) * (1 + (segment < 0 ? 0 : r * Math.Sqrt(_cut[segment].HasM ? r : 1.0 / r)));
                    Assert.True(Math.Abs(expected - y[row * outputs + o]) <= 4e-6 * scale, $"{_args} row {row} output {o}: {y[row * outputs + o]} instead of {expected}");
                }
            }
        }

        private static double Sum(int n, Func<int, double> term)
        {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += term(k);
            return sum;
        }

        private double[] Read(View view)
        {
            if (view.Type == DType.F32)
                return [.. _memory.Read(view).Select(v => (double)v)];
            var bits = new ushort[view.Length];
            _memory.Backend.Download(MemoryMarshal.AsBytes(bits.AsSpan()), view);
            return [.. bits.Select(b => view.Type == DType.F16 ? (double)BitConverter.UInt16BitsToHalf(b) : BitConverter.Int32BitsToSingle(b << 16))];
        }

        private View Values(int length, ulong stream, DType type)
        {
            float[] values = [.. Enumerable.Range(0, length).Select(i => (float)Philox.Normal(7, stream, (ulong)i))];
            return type == DType.F32
                ? _memory.Of(values)
                : _memory.Of([.. values.Select(v => type == DType.F16 ? BitConverter.HalfToUInt16Bits((Half)v) : (ushort)(BitConverter.SingleToInt32Bits(v) >> 16))], type);
        }
    }
}
