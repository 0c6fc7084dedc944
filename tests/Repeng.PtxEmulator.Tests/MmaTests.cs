using System.Text;

namespace Repeng.PtxEmulator.Tests;

/// <summary>Each mma.sync against a plain product; the places of the elements are those of the figures of PTX ISA 9.7.14, written out again here.</summary>
public sealed class MmaTests
{
    public static TheoryData<string, string, string, bool> Shapes
    {
        get
        {
            var data = new TheoryData<string, string, string, bool>();
            foreach (bool compile in new[] { false, true })
                foreach ((string shape, string types) in new[]
                {
                    ("m16n8k16", "f32.bf16.bf16.f32"), ("m16n8k8", "f32.bf16.bf16.f32"), ("m16n8k16", "f32.f16.f16.f32"), ("m16n8k8", "f32.f16.f16.f32"), ("m16n8k16", "f16.f16.f16.f16"), ("m16n8k8", "f16.f16.f16.f16"),
                    ("m16n8k8", "f32.tf32.tf32.f32"), ("m16n8k4", "f32.tf32.tf32.f32"), ("m16n8k16", "s32.s8.s8.s32"), ("m16n8k32", "s32.s8.s8.s32"), ("m16n8k32", "s32.u8.s8.s32"), ("m8n8k16", "s32.s8.s8.s32"), ("m8n8k4", "f64.f64.f64.f64"),
                })
                    data.Add(shape, types, types.Contains("s8", StringComparison.Ordinal) ? ".satfinite" : "", compile);
            return data;
        }
    }

    /// <summary>Elements a lane holds of A and B, and the place of element i.</summary>
    private static (int Count, Func<int, int, int, (int Row, int Column)> At) PlaceA(string shape, int bits) => (shape, bits) switch
    {
        ("m16n8k16", 16) => (8, (g, t, i) => (i is 0 or 1 or 4 or 5 ? g : g + 8, (t * 2) + (i & 1) + (i < 4 ? 0 : 8))),
        ("m16n8k8", 16) => (4, (g, t, i) => (i < 2 ? g : g + 8, (t * 2) + (i & 1))),
        ("m16n8k8", 32) => (4, (g, t, i) => (i is 0 or 2 ? g : g + 8, i < 2 ? t : t + 4)),
        ("m16n8k4", 32) => (2, (g, t, i) => (i == 0 ? g : g + 8, t)),
        ("m16n8k16", 8) => (8, (g, t, i) => (i < 4 ? g : g + 8, (t * 4) + (i & 3))),
        ("m16n8k32", 8) => (16, (g, t, i) => (i < 4 || (i >= 8 && i < 12) ? g : g + 8, (t * 4) + (i & 3) + (i < 8 ? 0 : 16))),
        ("m8n8k16", 8) => (4, (g, t, i) => (g, (t * 4) + i)),
        _ => (1, (g, t, i) => (g, t)),
    };

    private static (int Count, Func<int, int, int, (int Row, int Column)> At) PlaceB(string shape, int bits) => (shape, bits) switch
    {
        ("m16n8k16", 16) => (4, (g, t, i) => ((t * 2) + (i & 1) + (i < 2 ? 0 : 8), g)),
        ("m16n8k8", 16) => (2, (g, t, i) => ((t * 2) + i, g)),
        ("m16n8k8", 32) => (2, (g, t, i) => (i == 0 ? t : t + 4, g)),
        ("m16n8k4", 32) => (1, (g, t, i) => (t, g)),
        ("m16n8k16", 8) => (4, (g, t, i) => ((t * 4) + i, g)),
        ("m16n8k32", 8) => (8, (g, t, i) => ((t * 4) + (i & 3) + (i < 4 ? 0 : 16), g)),
        ("m8n8k16", 8) => (4, (g, t, i) => ((t * 4) + i, g)),
        _ => (1, (g, t, i) => (t, g)),
    };

    private static ulong Encode(double x, string type) => type switch
    {
        "bf16" => BitConverter.SingleToUInt32Bits((float)x) >> 16,
        "f16" => BitConverter.HalfToUInt16Bits((Half)x),
        // The low bits of a tf32 do not count.
        "tf32" => BitConverter.SingleToUInt32Bits((float)x) | 0x5a5,
        "f32" => BitConverter.SingleToUInt32Bits((float)x),
        "f64" => BitConverter.DoubleToUInt64Bits(x),
        "s8" or "u8" => (byte)(int)x,
        _ => (uint)(int)x,
    };

    private static int Bits(string type) => type switch { "bf16" or "f16" => 16, "f64" => 64, "s8" or "u8" => 8, _ => 32 };

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Multiplies_and_adds(string shape, string types, string flag, bool compile)
    {
        string[] t = types.Split('.');
        int[] sizes = [.. shape.Split('m', 'n', 'k').Skip(1).Select(int.Parse)];
        (int m, int n, int k) = (sizes[0], sizes[1], sizes[2]);
        var random = new Random(m + k + types.Length);
        // Small whole numbers: exact in every type, fp16 sums included.
        double[,] a = new double[m, k], b = new double[k, n], c = new double[m, n];
        for (int i = 0; i < m; i++)
            for (int j = 0; j < k; j++)
                a[i, j] = random.Next(t[1] == "u8" ? 0 : -7, 8);
        for (int i = 0; i < k; i++)
            for (int j = 0; j < n; j++)
                b[i, j] = random.Next(-7, 8);
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
                c[i, j] = random.Next(-20, 20);
        if (flag.Length > 0)
            c[0, 0] = int.MaxValue;
        ulong[] ra = Registers(a, t[1], PlaceA(shape, Bits(t[1]))), rb = Registers(b, t[2], PlaceB(shape, Bits(t[2])));
        (int, Func<int, int, int, (int, int)>) placeC = (m * n / 32, (g, l, i) => (g + (i < 2 ? 0 : 8), (l * 2) + (i & 1)));
        ulong[] rc = Registers(c, t[3], placeC);
        using var gpu = new Gpu(new EmulatorOptions { Compile = compile });
        int nd = m * n / 32 / (t[0] == "f16" ? 2 : 1), width = t[0] == "f64" ? 64 : 32, na = ra.Length / 32, nb = rb.Length / 32, nc = rc.Length / 32;
        var text = new StringBuilder($".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data, .param .u64 results)\n{{\n.reg .b{width} %x<32>; .reg .b{width} %y<8>; .reg .b32 %lane; .reg .b64 %at, %out, %by;\nmov.u32 %lane, %laneid;\nmul.wide.u32 %by, %lane, 8;\nld.param.u64 %at, [data];\nadd.s64 %at, %at, %by;\nld.param.u64 %out, [results];\nadd.s64 %out, %out, %by;\n");
        for (int r = 0; r < na + nb + nc; r++)
            text.Append($"ld.global.b{width} %x{r}, [%at+{256 * r}];\n");
        string Names(char name, int first, int count) => "{" + string.Join(", ", Enumerable.Range(first, count).Select(r => $"%{name}{r}")) + "}";
        text.Append($"mma.sync.aligned.{shape}.row.col{flag}.{types} {Names('y', 0, nd)}, {Names('x', 0, na)}, {Names('x', na, nb)}, {Names('x', na + nb, nc)};\n");
        for (int r = 0; r < nd; r++)
            text.Append($"st.global.b{width} [%out+{256 * r}], %y{r};\n");
        text.Append("ret;\n}\n");
        ulong results = gpu.Upload(new ulong[nd * 32]);
        LaunchCounters counters = gpu.Run(gpu.Load(text.ToString()).GetFunction("k"), 1, 32, gpu.Upload([.. ra, .. rb, .. rc]), results);
        Assert.Equal(2L * m * n * k, counters.MmaFlop);
        double[,] expected = new double[m, n];
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
            {
                expected[i, j] = c[i, j] + Enumerable.Range(0, k).Sum(e => a[i, e] * b[e, j]);
                if (flag.Length > 0)
                    expected[i, j] = Math.Clamp(expected[i, j], int.MinValue, int.MaxValue);
            }

        Assert.Equal(Registers(expected, t[0], placeC), gpu.Download<ulong>(results, nd * 32));
    }

    /// <summary>The registers of the 32 lanes that hold a matrix, register by register.</summary>
    private static ulong[] Registers(double[,] matrix, string type, (int Count, Func<int, int, int, (int Row, int Column)> At) place)
    {
        int bits = Bits(type), each = Math.Max(1, 32 / bits);
        ulong[] registers = new ulong[Math.Max(1, place.Count / each) * 32];
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < place.Count; i++)
            {
                (int row, int column) = place.At(lane >> 2, lane & 3, i);
                registers[(i / each * 32) + lane] |= Encode(matrix[row, column], type) << (i % each * bits % 64);
            }

        return registers;
    }
}
