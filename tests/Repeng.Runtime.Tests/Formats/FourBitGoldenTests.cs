using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;
using Repeng.Runtime.Formats;
using Repeng.Testing;
using Xunit;

namespace Repeng.Runtime.Tests.Formats;

/// <summary>NF4 and FP4 against bitsandbytes: code books, packing, scales, double quantisation, unpacking, bit for bit.</summary>
public sealed unsafe class FourBitGoldenTests
{
    public static TheoryData<string> Cases()
    {
        string path = Golden.Path("nf4", "cases.json");
        return File.Exists(path) ? new(JsonNode.Parse(File.ReadAllText(path))!["cases"]!.AsArray().Select(c => c!["name"]!.GetValue<string>())) : new(["absent"]);
    }

    [Fact]
    public void Code_books_are_equal()
    {
        using SafetensorsFile file = Open();
        foreach (FourBitCode code in new[] { FourBitCode.Nf4, FourBitCode.Fp4 })
            Assert.Equal(file.ReadF32($"{code.Name.ToLowerInvariant()}.code"), code.Values.ToArray());
        Assert.Equal(file.ReadF32("dynamic.code"), FourBitCode.DynamicCode.ToArray());
    }

    [Theory, MemberData(nameof(Cases))]
    public void Packs_and_unpacks(string name)
    {
        using SafetensorsFile file = Open();
        (FourBitCode code, int blockSize, int nestedSize) = Settings(name);
        float[] source = file.ReadF32($"{name}.source"), absmax = file.ReadF32($"{name}.absmax");
        byte[] packed = file.ReadBytes($"{name}.packed");

        var made = new byte[(source.Length + 1) / 2];
        var scales = new float[(source.Length + blockSize - 1) / blockSize];
        fixed (float* s = source, a = scales)
        fixed (byte* p = made)
            code.Quantise(s, source.Length, blockSize, p, a);
        Assert.Equal(absmax, scales);
        // FP4 has two codes of value zero.
        Assert.Equal(Values(code, packed, source.Length), Values(code, made, source.Length));
        if (code == FourBitCode.Nf4)
            Assert.Equal(packed, made);

        fixed (byte* p = packed)
        fixed (float* a = absmax)
            CheckDecoded(file, name, Packing.OfCodes(code, (nint)p, (nint)a, blockSize, source.Length), "dequant");

        // Double quantisation.
        float[] nested = file.ReadF32($"{name}.dq.nested_absmax"), map = file.ReadF32($"{name}.dq.nested_quant_map");
        float offset = file.ReadF32($"{name}.dq.offset")[0];
        byte[] codes = file.ReadBytes($"{name}.dq.absmax_u8"), madeCodes = new byte[scales.Length];
        var madeNested = new float[(scales.Length + FourBitCode.NestedBlockSize - 1) / FourBitCode.NestedBlockSize];
        float mean = FourBitCode.QuantiseScales(absmax, madeCodes, madeNested);
        Assert.True(Math.Abs(mean - offset) <= 1e-6 * Math.Abs(offset), $"offset {mean} instead of {offset}");
        FourBitCode.QuantiseScales(absmax, offset, madeCodes, madeNested);
        Assert.Equal(nested, madeNested);
        Assert.Equal(file.ReadBytes($"{name}.dq.absmax_u8_nearest"), madeCodes);
        fixed (byte* p = packed, q = codes)
        fixed (float* n = nested, m = map)
            CheckDecoded(file, name, Packing.OfNestedCodes(code, (nint)p, (nint)q, (nint)n, (nint)m, offset, blockSize, nestedSize, source.Length), "dq.dequant");
    }

    [Fact]
    public void A_value_that_is_not_finite_is_refused_by_its_number()
    {
        foreach (float bad in new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity })
        {
            var source = new float[200];
            (source[77], source[150]) = (bad, bad);
            var packed = new byte[100];
            var absmax = new float[4];
            Assert.Contains("value 77 of 200", Assert.Throws<UserErrorException>(() => Quantise(source, packed, absmax)).Message, StringComparison.Ordinal);
        }

        static void Quantise(float[] source, byte[] packed, float[] absmax)
        {
            fixed (float* s = source, a = absmax)
            fixed (byte* p = packed)
                FourBitCode.Nf4.Quantise(s, source.Length, 64, p, a);
        }
    }

    private static void CheckDecoded(SafetensorsFile file, string name, Packing packing, string what)
    {
        var decoded = new float[packing.Elements];
        packing.Decode(0, decoded);
        Assert.Equal(Bits(file.ReadF32($"{name}.{what}_f32")), Bits(decoded));
        byte[] bf16 = file.ReadBytes($"{name}.{what}_bf16");
        for (int i = 0; i < decoded.Length; i++)
            Assert.Equal(BitConverter.ToUInt16(bf16, 2 * i), BFloat16(decoded[i]));
    }

    // As bits, so that −0 is told from 0.
    private static uint[] Bits(float[] values) => [.. values.Select(BitConverter.SingleToUInt32Bits)];

    private static ushort BFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }

    private static float[] Values(FourBitCode code, byte[] packed, int count) =>
        [.. Enumerable.Range(0, count).Select(i => code.Values[i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15])];

    private static (FourBitCode Code, int BlockSize, int NestedSize) Settings(string name)
    {
        JsonNode c = JsonNode.Parse(File.ReadAllText(Golden.Require("nf4", "cases.json")))!["cases"]!.AsArray().Single(c => c!["name"]!.GetValue<string>() == name)!;
        return (FourBitCode.Find(c["quant_type"]!.GetValue<string>())!, c["blocksize"]!.GetValue<int>(), c["nested_blocksize"]!.GetValue<int>());
    }

    private static SafetensorsFile Open() => SafetensorsFile.Open(Golden.Require("nf4", "cases.safetensors"));
}
