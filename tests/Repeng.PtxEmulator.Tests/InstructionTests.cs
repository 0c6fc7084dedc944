using System.Globalization;
using System.Text;

namespace Repeng.PtxEmulator.Tests;

/// <summary>Every scalar instruction against values worked out from the PTX definition (Data/*.txt), interpreted and compiled.</summary>
public sealed class InstructionTests
{
    private sealed record Case(int Line, string Text, string[] Destinations, string Opcode, string[] Operands, string[] Inputs, string[] Outputs);

    public static TheoryData<string, bool> Files
    {
        get
        {
            var data = new TheoryData<string, bool>();
            foreach (string file in new[] { "integer.txt", "float.txt", "rounding.txt" })
            {
                data.Add(file, false);
                data.Add(file, true);
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Computes_what_the_definition_says(string file, bool compile)
    {
        Case[] cases = [.. Gpu.Text(file).Split('\n').Select((text, k) => (text, k)).Where(l => l.text.Length > 0 && l.text[0] != '#').Select(l => Parse(l.text, l.k + 1))];
        Assert.True(cases.Length > 90);
        using var gpu = new Gpu(new EmulatorOptions { Compile = compile });
        var ptx = new StringBuilder(".version 7.8\n.target sm_80\n.address_size 64\n");
        foreach (Case c in cases)
            ptx.Append(Kernel(c));
        PtxModule module = gpu.Load(ptx.ToString());
        var wrong = new List<string>();
        foreach (Case c in cases)
        {
            ulong[] inputs = new ulong[8];
            string[] kinds = Kinds(c.Operands);
            for (int k = 0; k < c.Inputs.Length; k++)
                inputs[k] = Bits(c.Inputs[k], Width(kinds[k]));
            ulong data = gpu.Upload(inputs), results = gpu.Empty(32 * 8 * 8);
            gpu.Run(module.GetFunction($"k{c.Line}"), 1, 32, data, results);
            string[] outputs = Kinds(c.Destinations);
            for (int k = 0; k < outputs.Length; k++)
            {
                ulong[] got = gpu.Download<ulong>(results + (ulong)(256 * k), 32);
                int width = Width(outputs[k]);
                if (got.Any(g => !Same(g, c.Outputs[k], width)))
                    wrong.Add($"line {c.Line}: {c.Text} gave 0x{got[0]:x}");
            }
        }

        Assert.True(wrong.Count == 0, string.Join("\n", wrong));
    }

    private static Case Parse(string text, int line)
    {
        string[] halves = text.Split(" : ");
        string[] sides = halves[0].Split(" = "), values = halves[1].Split(" -> "), right = sides[1].Split(' ');
        return new Case(line, text, [sides[0]], right[0], right[1..], values[0].Split(' ', StringSplitOptions.RemoveEmptyEntries), values[1].Split(' '));
    }

    /// <summary>The registers among the operands, in order: vectors and pairs opened, constants left out.</summary>
    private static string[] Kinds(string[] operands) => [.. operands.SelectMany(o => o.Trim('{', '}').Split(',', '|')).Where(o => o[0] != '#')];

    private static int Width(string kind) => kind switch { "p" => 1, "h" => 16, "r" => 32, _ => 64 };

    private static string Kernel(Case c)
    {
        var text = new StringBuilder($".visible .entry k{c.Line}(.param .u64 data, .param .u64 results)\n{{\n.reg .b64 %d<32>; .reg .b32 %r<32>; .reg .b16 %h<32>; .reg .pred %p<32>; .reg .b64 %at, %wide;\nld.param.u64 %at, [data];\n");
        int next = 0;
        string Register(string kind, bool load)
        {
            string name = $"%{kind}{next}";
            if (load)
            {
                text.Append(CultureInfo.InvariantCulture, $"ld.global.u64 %wide, [%at+{8 * next}];\n");
                text.Append(kind switch { "p" => $"setp.ne.u64 {name}, %wide, 0;\n", "h" => $"cvt.u16.u64 {name}, %wide;\n", "r" => $"cvt.u32.u64 {name}, %wide;\n", _ => $"mov.b64 {name}, %wide;\n" });
            }

            next++;
            return name;
        }

        string Operand(string operand, bool load)
        {
            if (operand[0] == '#')
                return operand[1..];
            if (operand[0] == '{')
                return "{" + string.Join(", ", operand.Trim('{', '}').Split(',').Select(o => Register(o, load))) + "}";
            return string.Join("|", operand.Split('|').Select(o => Register(o, load)));
        }

        string[] sources = [.. c.Operands.Select(o => Operand(o, true))];
        int first = next;
        string[] destinations = [.. c.Destinations.Select(o => Operand(o, false))];
        text.Append($"{c.Opcode} {string.Join(", ", destinations.Concat(sources))};\nld.param.u64 %at, [results];\n.reg .b32 %lane; .reg .b64 %by;\nmov.u32 %lane, %laneid;\nmul.wide.u32 %by, %lane, 8;\nadd.s64 %at, %at, %by;\n");
        string[] kinds = Kinds(c.Destinations);
        for (int k = 0; k < kinds.Length; k++)
        {
            string name = $"%{kinds[k]}{first + k}";
            text.Append(kinds[k] switch { "p" => $"selp.b64 %wide, 1, 0, {name};\n", "h" => $"cvt.u64.u16 %wide, {name};\n", "r" => $"cvt.u64.u32 %wide, {name};\n", _ => $"mov.b64 %wide, {name};\n" });
            text.Append(CultureInfo.InvariantCulture, $"st.global.u64 [%at+{256 * k}], %wide;\n");
        }

        return text.Append("ret;\n}\n").ToString();
    }

    private static ulong Bits(string value, int width)
    {
        ulong mask = width == 64 ? ulong.MaxValue : (1ul << width) - 1;
        if (value.StartsWith("0x", StringComparison.Ordinal))
            return Convert.ToUInt64(value[2..], 16) & mask;
        char kind = value[^1];
        if (kind is not ('f' or 'd' or 'h' or 'b'))
            return value[0] == '-' ? (ulong)long.Parse(value, CultureInfo.InvariantCulture) & mask : ulong.Parse(value, CultureInfo.InvariantCulture) & mask;
        string number = value[..^1];
        double x = number switch { "inf" => double.PositiveInfinity, "-inf" => double.NegativeInfinity, "nan" => double.NaN, _ => double.Parse(number, CultureInfo.InvariantCulture) };
        return kind switch
        {
            'f' => BitConverter.SingleToUInt32Bits((float)x),
            'd' => BitConverter.DoubleToUInt64Bits(x),
            'h' => BitConverter.HalfToUInt16Bits((Half)x),
            _ => BitConverter.SingleToUInt32Bits((float)x) >> 16,
        };
    }

    private static bool Same(ulong got, string expected, int width)
    {
        if (!expected.StartsWith("nan", StringComparison.Ordinal))
            return got == Bits(expected, width);
        return expected[^1] switch
        {
            'f' => float.IsNaN(BitConverter.UInt32BitsToSingle((uint)got)),
            'd' => double.IsNaN(BitConverter.UInt64BitsToDouble(got)),
            'h' => Half.IsNaN(BitConverter.UInt16BitsToHalf((ushort)got)),
            _ => float.IsNaN(BitConverter.UInt32BitsToSingle((uint)got << 16)),
        };
    }

    [Theory]
    [InlineData("frob.s32 %r1, %r2;", "unknown instruction")]
    [InlineData("add.s32.banana %r1, %r1, %r1;", ".banana")]
    [InlineData("add.s32 %r1, %r1;", "2 operands where 3")]
    [InlineData("add.s32 %r1, %r1, %nobody;", "'%nobody' is not declared")]
    [InlineData("add.s64 %r1, %r1, %r1;", "32 bits where 64")]
    [InlineData("fma.f32 %r1, %r1, %r1, %r1;", "rounding is missing")]
    [InlineData("mma.sync.aligned.m16n8k16.row.col.f32.f32.f32.f32 {%r1}, {%r1}, {%r1}, {%r1};", "not known")]
    [InlineData("bra nowhere;", "'nowhere' is not declared")]
    [InlineData("ld.global.f32.v2 {%r1}, [%d1];", "1 destinations for a vector of 2")]
    [InlineData("cp.async.bulk.commit_group;", ".bulk")]
    [InlineData("setp.lt.f16x2 %p, %r1, %r1;", "two predicates")]
    [InlineData("set.lt.f16x2.bf16x2 %r1, %r1, %r1;", ".f16x2 is not known here")]
    [InlineData("lop3.or.b32 %r1, %r1, %r1, %r1, 0x80, %p;", "predicate beside the destination")]
    [InlineData("elect.sync %r1, -1;", "predicate beside the destination")]
    [InlineData("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r1], {%r1};", "1 values for 2 matrices")]
    [InlineData("createpolicy.fractional.b64 %d1;", "priority is missing")]
    [InlineData("add.s32 %r1, %r1, 5", "';'")]
    [InlineData("call (%r1), nobody, (%r1);", "call of something unknown")]
    public void Refuses_what_it_does_not_know(string instruction, string says)
    {
        using var gpu = new Gpu();
        PtxSyntaxException error = Assert.Throws<PtxSyntaxException>(() => gpu.Load($".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k()\n{{\n.reg .b32 %r<4>; .reg .b64 %d<4>; .reg .pred %p;\n{instruction}\nret;\n}}\n").GetFunction("k"));
        Assert.Contains(says, error.Message);
        Assert.InRange(error.Line, 7, 8);
    }
}
