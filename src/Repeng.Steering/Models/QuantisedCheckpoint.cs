using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Kernels.Quantised;
using Repeng.Runtime;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>What became of a model's weights.</summary>
/// <param name="Form">Form of the quantised ones.</param>
/// <param name="Weights">How many were quantised.</param>
/// <param name="BitsPerWeight">Bits that a value of theirs takes, scales included.</param>
/// <param name="BytesBefore">All tensors before.</param>
/// <param name="BytesAfter">All tensors after.</param>
/// <param name="Stacks">Tensors that hold all experts of a block, which were copied as they are.</param>
/// <param name="StackBytes">Bytes of these.</param>
public sealed record QuantisedSizes(string Form, int Weights, double BitsPerWeight, long BytesBefore, long BytesAfter, int Stacks, long StackBytes);

/// <summary>
/// Writes a model folder as transformers with bitsandbytes saves it: keys, types and bytes. Linear weights of the blocks are
/// quantised from their stored values; everything else is copied as it is stored: bitsandbytes' keys have no form for a tensor that holds all experts of a block.
/// </summary>
public static unsafe class QuantisedCheckpoint
{
    /// <summary>Writes the folder at once or not at all. Scales are kept, weights are quantised twice: codes stand last in the file.</summary>
    public static QuantisedSizes Write(string model, Quantisation settings, string output, Action<int, int>? progress = null)
    {
        (ModelConfig config, ITensorSource source, string folder) = ModelBundle.OpenConfig(model);
        using (source)
        {
            if (!Directory.Exists(folder))
                throw new UserErrorException($"{folder} is one file without config.json; give the model's folder in the Hugging Face layout");
            var writer = new Writer(config, source, settings, progress);
            AtomicFile.WriteFolder(output, into =>
            {
                writer.Write(Path.Combine(into, ShardedSafetensors.SingleName));
                WriteConfig(folder, settings, into);
            });
            return writer.Sizes;
        }
    }

    private static void WriteConfig(string folder, Quantisation settings, string into)
    {
        JsonObject config = JsonFile.ReadObject(Path.Combine(folder, "config.json")).Json;
        bool four = settings.Code is not null;
        string compute = four && (config["dtype"] ?? config["torch_dtype"]) is JsonValue dtype && dtype.TryGetValue(out string? named) ? named : "float32";
        config["quantization_config"] = new JsonObject
        {
            ["_load_in_4bit"] = four,
            ["_load_in_8bit"] = !four,
            ["bnb_4bit_compute_dtype"] = compute,
            ["bnb_4bit_quant_storage"] = "uint8",
            ["bnb_4bit_quant_type"] = settings.Form == QuantisedForm.Nf4 ? "nf4" : "fp4",
            ["bnb_4bit_use_double_quant"] = settings.DoubleQuant,
            ["llm_int8_enable_fp32_cpu_offload"] = false,
            ["llm_int8_has_fp16_weight"] = false,
            ["llm_int8_skip_modules"] = null,
            ["llm_int8_threshold"] = 6.0,
            ["load_in_4bit"] = four,
            ["load_in_8bit"] = !four,
            ["quant_method"] = "bitsandbytes",
        };
        File.WriteAllText(Path.Combine(into, "config.json"), config.ToJsonString(new() { WriteIndented = true }) + "\n");
        foreach (string file in Directory.GetFiles(folder))
            if (Path.GetExtension(file) is ".json" or ".jinja" or ".txt" or ".model" && Path.GetFileName(file) is not ("config.json" or ShardedSafetensors.IndexName))
                File.Copy(file, Path.Combine(into, Path.GetFileName(file)));
    }

    private sealed class Writer(ModelConfig config, ITensorSource source, Quantisation settings, Action<int, int>? progress)
    {
        private readonly SafetensorsWriter _writer = new SafetensorsWriter().SetMetadata("format", "pt");
        private readonly string _type = settings.Form.ToString().ToLowerInvariant();
        private long _before, _after, _quantisedBytes, _quantisedElements, _stackBytes;
        private int _weights, _done, _all, _stacks;

        public QuantisedSizes Sizes => new(settings.Code is { } code ? code.Name + (settings.DoubleQuant ? "+DQ" : "") : "INT8", _weights, _quantisedElements == 0 ? 0 : 8.0 * _quantisedBytes / _quantisedElements, _before, _after, _stacks, _stackBytes);

        public void Write(string path)
        {
            string[] linears = Linears(out HashSet<string> stacks);
            // Once for the scales, once for the codes.
            _all = 2 * linears.Length;
            foreach (string name in source.Names)
            {
                TensorInfo info = source.Info(name);
                _before += info.Bytes;
                if (!linears.Contains(name))
                {
                    if (stacks.Contains(name))
                    {
                        _stacks++;
                        _stackBytes += info.Bytes;
                    }
                    _after += info.Bytes;
                    _writer.AddStreamed(name, info.Type, info.Shape, stream => CopyRows(info, stream));
                    continue;
                }
                if (info.Type is not ("F32" or "F16" or "BF16"))
                    throw new UserErrorException($"{source.Description}: weight {name} is stored as {info.Type}; plain weights (F32, F16, BF16) are needed to quantise");
                _weights++;
                _quantisedElements += info.Elements;
                if (settings.Code is null)
                    AddRows(name);
                else
                    AddCodes(name, info);
            }
            if (_weights == 0)
                throw new UserErrorException($"{source.Description}: none of the linear layers of this {config.ModelType} has a weight of its own in the file; there is nothing to quantise");
            _writer.Write(path);
        }

        // Layers as the model is built, without a byte of its weights.
        private string[] Linears(out HashSet<string> stacks)
        {
            using var device = new Device(new DryBackend());
            using DecoderModel model = ModelLoader.Load(device, config, source);
            stacks = [.. model.Linears.Values.Where(l => l.WeightPart is not null).Select(l => l.WeightPart!.Value.Name)];
            string? router = config.Experts is { RouterIsLinear: false } x ? $".{x.Router}" : null;
            return [.. model.Linears.Keys.Where(path => router is null || !path.EndsWith(router, StringComparison.Ordinal)).Select(path => $"{path}.weight").Where(n => source.TryGetInfo(n, out TensorInfo info) && info.Shape.Length == 2)];
        }

        private void AddCodes(string name, TensorInfo info)
        {
            QuantisedMatrix parts = Quantise(name);
            long elements = info.Elements;
            AddFloats($"{name}.quant_map", settings.Code!.Values.ToArray());
            string state = $$"""{"quant_type": "{{_type}}", "blocksize": {{settings.BlockSize}}, "dtype": "{{TorchName(info.Type)}}", "shape": [{{parts.Rows}}, {{parts.Columns}}]""";
            if (parts.ScaleCodes is { } codes)
            {
                Count(codes.Length);
                _writer.AddRaw($"{name}.absmax", "U8", [codes.Length], codes);
                AddFloats($"{name}.nested_absmax", parts.Scales);
                AddFloats($"{name}.nested_quant_map", FourBitCode.DynamicCode.ToArray());
                state += $""", "nested_blocksize": {FourBitCode.NestedBlockSize}, "nested_dtype": "float32", "nested_offset": {PythonNumber(parts.Offset)}""";
            }
            else
            {
                AddFloats($"{name}.absmax", parts.Scales);
            }
            byte[] json = Encoding.UTF8.GetBytes(state + "}");
            _writer.AddRaw($"{name}.quant_state.bitsandbytes__{_type}", "U8", [json.Length], json);
            Count((elements + 1) / 2);
            _writer.AddStreamed(name, "U8", [(elements + 1) / 2, 1], stream => stream.Write(Quantise(name).Codes));
        }

        private void AddRows(string name)
        {
            QuantisedMatrix parts = Quantise(name);
            string module = name[..^".weight".Length];
            AddFloats($"{module}.SCB", parts.Scales);
            _writer.AddRaw($"{module}.weight_format", "U8", [], new byte[1]);
            Count(parts.Codes.Length);
            _writer.AddStreamed(name, "I8", [parts.Rows, parts.Columns], stream => stream.Write(Quantise(name).Codes));
        }

        private QuantisedMatrix Quantise(string name)
        {
            TensorInfo info = source.Info(name);
            bool turned = config.LinearStoredTransposed;
            int rows = checked((int)info.Shape[turned ? 1 : 0]), columns = checked((int)info.Shape[turned ? 0 : 1]);
            using var values = new HostMatrix(rows, columns);
            source.ReadF32(name, 0, info.Rows, values.At);
            if (turned)
                values.Transpose();
            try
            {
                QuantisedMatrix made = settings.Quantise(values.At, rows, columns);
                progress?.Invoke(++_done, _all);
                return made;
            }
            catch (UserErrorException e)
            {
                throw new UserErrorException($"{source.Description}: weight {name}: {e.Message}", e);
            }
        }

        private void AddFloats(string name, float[] values)
        {
            Count(values.Length * sizeof(float));
            _writer.Add(name, [values.Length], values);
        }

        private void Count(long bytes)
        {
            _after += bytes;
            _quantisedBytes += bytes;
        }

        private void CopyRows(TensorInfo info, Stream stream)
        {
            const long Piece = 1 << 24;
            long rowBytes = info.Rows == 0 ? 0 : info.Bytes / info.Rows, step = Math.Max(1, Piece / Math.Max(1, rowBytes));
            for (long row = 0; row < info.Rows; row += step)
            {
                long rows = Math.Min(step, info.Rows - row);
                var bytes = new byte[checked((int)(rows * rowBytes))];
                fixed (byte* p = bytes)
                    source.ReadRaw(info.Name, row, rows, p);
                stream.Write(bytes);
            }
        }

        private static string TorchName(string type) => type switch { "BF16" => "bfloat16", "F16" => "float16", _ => "float32" };

        // As json.dumps writes a float: shortest digits, a point or an exponent.
        private static string PythonNumber(double value)
        {
            string text = value.ToString("R", CultureInfo.InvariantCulture).Replace('E', 'e');
            return text.AsSpan().IndexOfAny(".e") < 0 ? text + ".0" : text;
        }
    }
}
