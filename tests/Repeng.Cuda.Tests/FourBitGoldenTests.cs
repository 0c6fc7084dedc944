using System.Text.Json.Nodes;
using Repeng.Kernels.Quantised;
using Repeng.Runtime.Formats;
using Repeng.Testing;
using Codes = Repeng.Cuda.Tests.QuantisedKernelTests.Codes;

namespace Repeng.Cuda.Tests;

/// <summary>quantised.cu against bitsandbytes: packing, scales, double quantisation, unpacking, bit for bit.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "nf4")]
public sealed class FourBitGoldenTests
{
    public static TheoryData<string> Cases()
    {
        string path = Golden.Path("nf4", "cases.json");
        return File.Exists(path) ? new(JsonNode.Parse(File.ReadAllText(path))!["cases"]!.AsArray().Select(c => c!["name"]!.GetValue<string>())) : new(["absent"]);
    }

    [Theory, MemberData(nameof(Cases))]
    public void PacksAndUnpacks(string name)
    {
        JsonNode settings = JsonNode.Parse(File.ReadAllText(Golden.Require("nf4", "cases.json")))!["cases"]!.AsArray().Single(c => c!["name"]!.GetValue<string>() == name)!;
        FourBitCode code = FourBitCode.Find(settings["quant_type"]!.GetValue<string>())!;
        int blockSize = settings["blocksize"]!.GetValue<int>(), nestedSize = settings["nested_blocksize"]!.GetValue<int>();
        using SafetensorsFile file = SafetensorsFile.Open(Golden.Require("nf4", "cases.safetensors"));
        using Gpu gpu = new();
        float[] source = file.ReadF32($"{name}.source"), absmax = file.ReadF32($"{name}.absmax"), map = file.ReadF32($"{name}.dq.nested_quant_map");
        byte[] packed = file.ReadBytes($"{name}.packed");
        int n = source.Length, blocks = absmax.Length;

        // Packing.
        byte[] ascending = [.. Enumerable.Range(0, 16).Where(i => code.Values.IndexOf(code.Values[i]) == i).OrderBy(i => code.Values[i]).Select(i => (byte)i)];
        float[] midpoints = [.. Enumerable.Range(0, ascending.Length - 1).Select(i => (code.Values[ascending[i]] + code.Values[ascending[i + 1]]) / 2)];
        ulong data = gpu.Empty<byte>(packed.Length), scales = gpu.Empty<float>(blocks), status = gpu.Upload(new int[1]);
        gpu.Run("quantised", "pack_codes", Gpu.Ceil(blocks, 8), 256, data, scales, status, gpu.Upload(source), gpu.Upload(midpoints), gpu.Upload(ascending), (long)n, blockSize, ascending.Length, code.Values.IndexOf(0f));
        Assert.Equal(0, gpu.Read<int>(status, 1)[0]);
        Assert.Equal(absmax, gpu.Read(scales, blocks));
        byte[] made = gpu.Read<byte>(data, packed.Length);
        // FP4 has two codes of value zero.
        Assert.Equal(Values(code, packed, n), Values(code, made, n));
        if (code == FourBitCode.Nf4)
            Assert.Equal(packed, made);

        // Scales of scales, with the stored offset; the offset itself is a mean.
        float offset = file.ReadF32($"{name}.dq.offset")[0];
        ulong mean = gpu.Empty<float>(1), codes = gpu.Empty<byte>(blocks), nested = gpu.Empty<float>(Gpu.Ceil(blocks, 256));
        gpu.Run("quantised", "scales_mean", 1, 1024, mean, scales, (long)blocks);
        Assert.True(Math.Abs(gpu.Read(mean, 1)[0] - offset) <= 1e-6 * Math.Abs(offset), $"offset {gpu.Read(mean, 1)[0]} instead of {offset}");
        gpu.Run("quantised", "pack_scales", Gpu.Ceil(blocks, 256), 256, codes, nested, scales, gpu.Upload(new[] { offset }), gpu.Upload(map), (long)blocks);
        Assert.Equal(file.ReadF32($"{name}.dq.nested_absmax"), gpu.Read(nested, Gpu.Ceil(blocks, 256)));
        Assert.Equal(file.ReadBytes($"{name}.dq.absmax_u8_nearest"), gpu.Read<byte>(codes, blocks));

        // Unpacking, plain and double quantised.
        var plain = new Codes { Data = gpu.Upload(packed), Code = gpu.Upload(code.Values), Absmax = gpu.Upload(absmax), BlockShift = int.Log2(blockSize) };
        Decoded(plain, "dequant");
        Decoded(plain with
        {
            Absmax = 0,
            ScaleCodes = gpu.Upload(file.ReadBytes($"{name}.dq.absmax_u8")),
            NestedScales = gpu.Upload(file.ReadF32($"{name}.dq.nested_absmax")),
            NestedMap = gpu.Upload(map),
            Offset = offset,
            NestedShift = int.Log2(nestedSize),
        }, "dq.dequant");

        void Decoded(Codes c, string what)
        {
            ulong y = gpu.Empty<float>(n), half = gpu.Empty<ushort>(n);
            gpu.Run("quantised", "unpack_codes_f32", Gpu.Ceil(n, 16384), 256, c, y, (long)n);
            gpu.Run("quantised", "unpack_codes_bf16", Gpu.Ceil(n, 16384), 256, c, half, (long)n);
            // As bits, so that −0 is told from 0.
            Assert.Equal(Array.ConvertAll(file.ReadF32($"{name}.{what}_f32"), BitConverter.SingleToUInt32Bits), Array.ConvertAll(gpu.Read(y, n), BitConverter.SingleToUInt32Bits));
            byte[] bf16 = file.ReadBytes($"{name}.{what}_bf16");
            Assert.Equal([.. Enumerable.Range(0, n).Select(i => BitConverter.ToUInt16(bf16, 2 * i))], gpu.Read<ushort>(half, n));
        }
    }

    private static float[] Values(FourBitCode code, byte[] packed, int count) =>
        [.. Enumerable.Range(0, count).Select(i => code.Values[i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15])];
}
