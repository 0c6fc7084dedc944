using System.Text.Json.Nodes;
using Repeng.Runtime.Formats;
using Repeng.Testing;

namespace Repeng.Cli.Tests;

/// <summary>quantize against checkpoints of transformers and bitsandbytes, key by key; weights quantised at load; damaged checkpoints.</summary>
public sealed class QuantizeTests : IDisposable
{
    private readonly Workshop _shop = new();

    public static IEnumerable<TheoryDataRow<string>> Checkpoints => Golden.Folders("nf4", "config.json").Select(n => new TheoryDataRow<string>(n));

    public void Dispose() => _shop.Dispose();

    [Theory]
    [MemberData(nameof(Checkpoints))]
    [Trait("Category", "Golden")]
    [Trait("Golden", "nf4")]
    public void A_checkpoint_of_bitsandbytes_comes_out_again(string name)
    {
        // The weights that it decodes to, as bf16, fall on the same codes and scales: the scale of a block is a value of it.
        string golden = Golden.Require("nf4", name), source = _shop.At("source"), output = _shop.At("again");
        JsonObject config = JsonNode.Parse(File.ReadAllText(Path.Combine(golden, "config.json")))!.AsObject();
        JsonObject quantisation = config["quantization_config"]!.AsObject();
        bool int8 = quantisation["load_in_8bit"]!.GetValue<bool>(), nested = quantisation["bnb_4bit_use_double_quant"]!.GetValue<bool>();
        Decode(golden, source, config, nested ? Sibling(golden, config) : golden);

        string type = int8 ? "int8" : quantisation["bnb_4bit_quant_type"]!.GetValue<string>();
        CliResult result = CliRun.Run(["quantize", "--model", source, "--output", output, "--quant_type", type, .. nested ? new[] { "--double_quant" } : []]);
        Assert.True(result.Code == 0, result.Error);

        using SafetensorsFile wanted = SafetensorsFile.Open(Path.Combine(golden, "model.safetensors")), made = SafetensorsFile.Open(Path.Combine(output, "model.safetensors"));
        Assert.Equal(wanted.Names, made.Names);
        Assert.Equal(wanted.Metadata, made.Metadata);
        foreach (string tensor in wanted.Names)
        {
            TensorInfo a = wanted.Info(tensor), b = made.Info(tensor);
            Assert.Equal((a.Type, a.ShapeText), (b.Type, b.ShapeText));
            if (nested && (tensor.EndsWith("absmax", StringComparison.Ordinal) || tensor.Contains("quant_state", StringComparison.Ordinal)))
                continue;
            Assert.True(wanted.ReadBytes(tensor).AsSpan().SequenceEqual(made.ReadBytes(tensor)), $"{name}: {tensor} has other bytes");
        }
        JsonObject madeConfig = JsonNode.Parse(File.ReadAllText(Path.Combine(output, "config.json")))!.AsObject();
        Assert.True(JsonNode.DeepEquals(quantisation, madeConfig["quantization_config"]), madeConfig["quantization_config"]!.ToJsonString());
        if (nested)
            CompareNested(wanted, made);
        // And what was written is read.
        Assert.Equal(0, CliRun.Run("inspect", output).Code);
    }

    [Fact]
    public void Weights_are_quantised_at_load_as_quantize_writes_them()
    {
        string model = _shop.Model(), rows = _shop.At("rows.safetensors");
        new SafetensorsWriter().Add("input_ids", [2, 5], new long[] { 5, 6, 7, 8, 9, 0, 0, 10, 11, 12 }).Add("attention_mask", [2, 5], new long[] { 1, 1, 1, 1, 1, 0, 0, 1, 1, 1 }).Write(rows);
        float[] plain = Forward(model);
        foreach ((string[] write, string[] load) in new[]
        {
            (new[] { "--quant_type", "nf4" }, new[] { "--quantization_type", "4bit" }),
            (["--quant_type", "fp4", "--double_quant"], ["--quantization_type", "4bit", "--quant_type", "fp4", "--double_quant"]),
            (["--quant_type", "int8"], ["--quantization_type", "8bit"]),
        })
        {
            string folder = _shop.At(string.Concat(load).Replace("-", ""));
            CliResult written = CliRun.Run(["quantize", "--model", model, "--output", folder, .. write]);
            Assert.True(written.Code == 0, written.Error);
            Assert.Contains("bits a weight", written.Out, StringComparison.Ordinal);
            float[] stored = Forward(folder), loaded = Forward(model, load), expanded = Forward(folder, "--weight_type", "f32");
            Assert.Equal(stored, loaded);
            Assert.Equal(stored, expanded);
            double worst = stored.Zip(plain, (a, b) => Math.Abs(a - b)).Max(), scale = plain.Max(Math.Abs);
            Assert.InRange(worst, 1e-6 * scale, scale);
            Assert.Contains("leave --quantization_type out", CliRun.Run("forward", "--model", folder, "--input", rows, "--output", _shop.At("no.safetensors"), "--quantization_type", "4bit").Error, StringComparison.Ordinal);
        }

        float[] Forward(string from, params string[] more)
        {
            string output = _shop.At("out.safetensors");
            CliResult result = CliRun.Run(["forward", "--model", from, "--input", rows, "--output", output, .. more]);
            Assert.True(result.Code == 0, result.Error);
            using SafetensorsFile file = SafetensorsFile.Open(output);
            return file.ReadF32("logits");
        }
    }

    [Theory]
    [InlineData("forward --text x --quant_type nf4", "--quant_type belongs to --quantization_type 4bit, which is none here")]
    [InlineData("forward --text x --quantization_type 8bit --double_quant", "--double_quant belongs to --quantization_type 4bit, which is 8bit here")]
    [InlineData("forward --text x --quantization_type 4bit --gradients", "quantised weights have no gradients")]
    [InlineData("quantize --quant_type int8 --double_quant", "double quantisation belongs to 4-bit weights")]
    [InlineData("quantize --block_size 48", "block size 48")]
    [InlineData("quantize --quant_type int8 --block_size 64", "int8 has a scale a row")]
    public void What_does_not_go_together_is_refused(string line, string part)
    {
        CliResult result = CliRun.Run([.. line.Split(' '), "--model", _shop.Model(), "--output", _shop.At("out")]);
        Assert.Equal(1, result.Code);
        Assert.Contains(part, result.Error, StringComparison.Ordinal);
        Assert.False(Path.Exists(_shop.At("out")));
    }

    [Theory]
    [InlineData("type", "quant type 'nf5'; known are nf4 and fp4")]
    [InlineData("absmax", "has absmax of")]
    [InlineData("noabsmax", "has no absmax, which its quant_state needs")]
    [InlineData("nostate", "has an absmax but no quant_state")]
    [InlineData("blocksize", "has blocks of 48")]
    [InlineData("shape", "bytes, shape [")]
    [InlineData("config", "the model's configuration asks for")]
    [InlineData("nan", "NaN at element 2 of absmax")]
    [InlineData("json", "quant_state")]
    [InlineData("named", "is named nf4 by its key and 'fp4'")]
    [InlineData("map", "has quant_map of")]
    public void Damaged_checkpoints_name_weight_and_fault(string damage, string part)
    {
        string folder = _shop.At("nf4"), bad = Directory.CreateDirectory(_shop.At("bad")).FullName;
        Assert.Equal(0, CliRun.Run("quantize", "--model", _shop.Model(), "--output", folder).Code);
        foreach (string file in Directory.GetFiles(folder))
            File.Copy(file, Path.Combine(bad, Path.GetFileName(file)));
        string weight;
        using (SafetensorsFile file = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
        {
            weight = file.Names.First(n => n.EndsWith(".weight.absmax", StringComparison.Ordinal))[..^".absmax".Length];
            var writer = new SafetensorsWriter();
            foreach (string name in file.Names)
                Spoil(writer, file.Info(name), file.ReadBytes(name), name.StartsWith(weight, StringComparison.Ordinal) ? name[weight.Length..] : null, damage);
            writer.Write(Path.Combine(bad, "model.safetensors"));
        }
        CliResult result = CliRun.Run("forward", "--model", bad, "--text", "x", "--output", _shop.At("out.safetensors"));
        Assert.Equal(1, result.Code);
        Assert.Contains(part, result.Error, StringComparison.Ordinal);
        Assert.Contains(weight, result.Error, StringComparison.Ordinal);
    }

    private static void Spoil(SafetensorsWriter writer, TensorInfo info, byte[] bytes, string? part, string damage)
    {
        const string State = ".quant_state.bitsandbytes__nf4";
        string name = info.Name, text = System.Text.Encoding.UTF8.GetString(bytes);
        switch (part, damage)
        {
            case (".absmax", "noabsmax") or (State, "nostate"):
                return;
            case (State, "type"):
                name = name[..^"nf4".Length] + "nf5";
                break;
            case (State, "blocksize"):
                text = text.Replace("\"blocksize\": 64", "\"blocksize\": 48");
                break;
            case (State, "shape"):
                text = text.Replace("\"shape\": [", "\"shape\": [1");
                break;
            case (State, "config"):
                System.Text.RegularExpressions.Match m = System.Text.RegularExpressions.Regex.Match(text, @"\[(\d+), (\d+)\]");
                text = text.Replace(m.Value, $"[{m.Groups[2].Value}, {m.Groups[1].Value}]");
                break;
            case (State, "json"):
                text = text[..^1];
                break;
            case (State, "named"):
                text = text.Replace("nf4", "fp4");
                break;
            case (".absmax", "absmax") or (".quant_map", "map"):
                bytes = bytes[..^4];
                writer.AddRaw(name, info.Type, [info.Elements - 1], bytes);
                return;
            case (".absmax", "nan"):
                BitConverter.TryWriteBytes(bytes.AsSpan(8), float.NaN);
                break;
        }
        if (part == State)
        {
            bytes = System.Text.Encoding.UTF8.GetBytes(text);
            writer.AddRaw(name, "U8", [bytes.Length], bytes);
            return;
        }
        writer.AddRaw(name, info.Type, info.Shape, bytes);
    }

    /// <summary>The same model without double quantisation, whose scales are the exact ones.</summary>
    private static string Sibling(string golden, JsonObject config)
    {
        foreach (string folder in Golden.Folders("nf4", "config.json").Select(n => Golden.Path("nf4", n)))
        {
            JsonObject other = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject();
            JsonObject a = config["quantization_config"]!.AsObject(), b = other["quantization_config"]!.AsObject();
            if (b["load_in_4bit"]!.GetValue<bool>() && !b["bnb_4bit_use_double_quant"]!.GetValue<bool>() && a["bnb_4bit_quant_type"]!.GetValue<string>() == b["bnb_4bit_quant_type"]!.GetValue<string>() && SameEmbedding(golden, folder))
                return folder;
        }
        Assert.Skip($"{golden}: no checkpoint of the same weights without double quantisation beside it");
        return golden;
    }

    private static bool SameEmbedding(string a, string b)
    {
        using SafetensorsFile x = SafetensorsFile.Open(Path.Combine(a, "model.safetensors")), y = SafetensorsFile.Open(Path.Combine(b, "model.safetensors"));
        string? name = x.Names.FirstOrDefault(n => n.Contains("embed", StringComparison.Ordinal));
        return name is not null && y.TryGetInfo(name, out _) && x.ReadBytes(name).AsSpan().SequenceEqual(y.ReadBytes(name));
    }

    private static void Decode(string golden, string to, JsonObject config, string weights)
    {
        Directory.CreateDirectory(to);
        config = config.DeepClone().AsObject();
        config.Remove("quantization_config");
        File.WriteAllText(Path.Combine(to, "config.json"), config.ToJsonString());
        using ITensorSource source = BitsAndBytesSource.Wrap(SafetensorsFile.Open(Path.Combine(weights, "model.safetensors")));
        var writer = new SafetensorsWriter();
        foreach (string name in source.Names)
        {
            TensorInfo info = source.Info(name);
            byte[] bytes = source.Packed(name) is null ? source.ReadBytes(name) : [.. source.ReadF32(name).SelectMany(BFloat16)];
            writer.AddRaw(name, source.Packed(name) is null ? info.Type : "BF16", info.Shape, bytes);
        }
        writer.Write(Path.Combine(to, "model.safetensors"));

        static byte[] BFloat16(float value)
        {
            uint bits = BitConverter.SingleToUInt32Bits(value);
            return BitConverter.GetBytes((ushort)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16));
        }
    }

    // The mean of the scales is a sum in another order, and the library's nearest code is one off in up to four places (see the folder's README).
    private static void CompareNested(SafetensorsFile wanted, SafetensorsFile made)
    {
        foreach (string state in wanted.Names.Where(n => n.Contains("quant_state", StringComparison.Ordinal)))
        {
            string weight = state[..state.IndexOf(".quant_state", StringComparison.Ordinal)];
            JsonObject a = JsonNode.Parse(wanted.ReadBytes(state))!.AsObject(), b = JsonNode.Parse(made.ReadBytes(state))!.AsObject();
            double offset = a["nested_offset"]!.GetValue<double>();
            Assert.InRange(b["nested_offset"]!.GetValue<double>(), offset - 1e-6 * Math.Abs(offset), offset + 1e-6 * Math.Abs(offset));
            a["nested_offset"] = b["nested_offset"] = null;
            Assert.Equal(a.ToJsonString(), b.ToJsonString());
            // Around the mean the map's codes are finer than the last bit of the mean, so scales are compared, not codes.
            byte[] codes = wanted.ReadBytes(weight + ".absmax"), ours = made.ReadBytes(weight + ".absmax");
            float[] scales = Rebuilt(wanted, weight, codes, offset), found = Rebuilt(made, weight, ours, offset);
            double allowed = 2e-6 * scales.Max(Math.Abs);
            int[] apart = [.. Enumerable.Range(0, codes.Length).Where(i => Math.Abs(scales[i] - found[i]) > allowed)];
            Assert.InRange(apart.Length, 0, 4);
            // The coarsest codes of the map are 9/640 apart.
            float[] nested = wanted.ReadF32(weight + ".nested_absmax");
            Assert.All(apart, i => Assert.InRange(Math.Abs(scales[i] - found[i]), 0, 0.0141f * nested[i / 256]));
            Close.To(1e-5, made.ReadF32(weight + ".nested_absmax"), wanted.ReadF32(weight + ".nested_absmax"), weight);
        }
    }

    private static float[] Rebuilt(SafetensorsFile file, string weight, byte[] codes, double offset)
    {
        float[] map = file.ReadF32(weight + ".nested_quant_map"), nested = file.ReadF32(weight + ".nested_absmax");
        return [.. codes.Select((c, i) => map[c] * nested[i / 256] + (float)offset)];
    }
}
