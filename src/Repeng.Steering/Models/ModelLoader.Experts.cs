using System.Runtime.InteropServices;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

public static unsafe partial class ModelLoader
{
    private sealed partial class Builder
    {
        // Experts are stored one by one, or each projection of all of them as one tensor.
        private Experts BuildExperts(ExpertConfig x, string path)
        {
            int d = config.HiddenSize;
            string list = $"{path}.{x.List}";
            bool stacked = source.Contains($"{list}.gate_up_proj"), packed = source.Contains($"{list}.gate_up_proj_blocks");
            if (!stacked && !packed)
                CheckExperts(x, list);
            var experts = new Experts(config, x) { Router = Linear($"{path}.{x.Router}", x.Count, d, x.RouterBias, x.RouterIsLinear) };
            experts.All = stacked || packed ? Stacked(x, list, packed) : [.. Enumerable.Range(0, x.Count).Select(e => Expert($"{list}.{e}", x, x.IntermediateSize))];
            if (x.SharedIntermediateSize > 0)
            {
                experts.Shared = Expert($"{path}.shared_expert", x, x.SharedIntermediateSize);
                experts.SharedGate = Linear($"{path}.shared_expert_gate", 1, d, bias: false);
            }
            return experts;
        }

        private Expert Expert(string path, ExpertConfig x, int width) => new(
            Linear($"{path}.{x.Gate}", width, config.HiddenSize, x.Bias), Linear($"{path}.{x.Up}", width, config.HiddenSize, x.Bias), Linear($"{path}.{x.Down}", config.HiddenSize, width, x.Bias));

        private void CheckExperts(ExpertConfig x, string list)
        {
            string[] Names(int e) => [.. new[] { x.Gate, x.Up, x.Down }.Select(n => $"{list}.{e}.{n}.weight")];
            string? missing = Enumerable.Range(0, x.Count).SelectMany(Names).FirstOrDefault(n => !source.Contains(n));
            if (missing is null && !source.Contains(Names(x.Count)[0]))
                return;
            int held = 0;
            while (Names(held).All(source.Contains))
                held++;
            string what = missing is null ? "there are more experts than that" : $"tensor '{missing}' is missing";
            throw new UserErrorException($"{source.Description}: the configuration has {x.Count} experts a layer, {list} holds {held} in a row, and {what}; take configuration and weights of the same model, or fetch the file again");
        }

        private Expert[] Stacked(ExpertConfig x, string list, bool packed)
        {
            int d = config.HiddenSize, m = x.IntermediateSize, n = x.Count;
            Tensor gateUp = Stack($"{list}.gate_up_proj", x, 2 * m, d, packed), down = Stack($"{list}.down_proj", x, d, m, packed);
            Tensor? gateUpBias = x.Bias ? StackedBias($"{list}.gate_up_proj_bias", x, 2 * m) : null, downBias = x.Bias ? StackedBias($"{list}.down_proj_bias", x, d) : null;
            return [.. Enumerable.Range(0, n).Select(e => new Expert(
                Part(e, x.Gate, gateUp, gateUpBias, 2L * m * e, m, d), Part(e, x.Up, gateUp, gateUpBias, 2L * m * e + m, m, d), Part(e, x.Down, down, downBias, (long)d * e, d, m)))];

            LinearModule Part(int expert, string name, Tensor weight, Tensor? bias, long row, int outputs, int inputs)
            {
                Tensor w = weight.Part(row * inputs, outputs, inputs);
                Tensor? b = bias?.Part(row, outputs);
                parts.AddRange(b is null ? [w] : [w, b]);
                return new LinearModule($"{list}.{expert}.{name}", w, b) { WeightPart = (weight.Name!, row * inputs), BiasPart = b is null ? null : (bias!.Name!, row) };
            }
        }

        // Memory is [experts, out, in] with the rows of gate above those of up, whatever the file has. Quantisation at load leaves stacks
        // as they are: transformers quantises linear layers, and these are none.
        private Tensor Stack(string name, ExpertConfig x, int outputs, int inputs, bool packed)
        {
            bool interleaved = x.Stack == StackLayout.InOutInterleaved && name.EndsWith(".gate_up_proj", StringComparison.Ordinal);
            var each = new FileLayout(0, outputs, inputs, Transposed: x.Stack == StackLayout.InOutInterleaved, interleaved);
            if (each.Transposed)
                _layouts[name] = each with { Count = x.Count };
            if (packed)
                return PackedStack(name, x, each);
            TensorInfo info = Shaped(name, [x.Count, .. each.Shape]);
            DType memory = weights.Type == WeightType.F32 ? DType.F32 : info.Type switch { "BF16" => DType.BF16, "F16" => DType.F16, _ => DType.F32 };
            Tensor t = Add(new Tensor(device, memory, x.Count, outputs, inputs), name);
            long size = (long)outputs * inputs;
            for (int e = 0; e < x.Count && !device.Backend.IsDry; e++)
            {
                View to = t.Data.Slice(e * size, size);
                if (memory == DType.F32)
                {
                    var stored = new float[size];
                    long rows = size / each.Shape[^1];
                    fixed (float* p = stored)
                        source.ReadF32(name, e * rows, rows, p);
                    device.Backend.Upload(to, MemoryMarshal.AsBytes(each.FromFile<float>(stored).AsSpan()));
                }
                else
                {
                    device.Backend.Upload(to, MemoryMarshal.AsBytes(each.FromFile<ushort>(MemoryMarshal.Cast<byte, ushort>(Rows(name, e, x.Count))).AsSpan()));
                }
            }
            Check(t);
            return t;
        }

        // MXFP4, [experts, out, in / 32] blocks and scales: held as ggml's blocks of the same numbers.
        private Tensor PackedStack(string name, ExpertConfig x, FileLayout each)
        {
            int n = x.Count, outputs = each.Rows, inputs = each.Columns;
            if (inputs % Mxfp4.Block != 0)
                throw new UserErrorException($"{source.Description}: {name} of {inputs} inputs cannot be stored in MXFP4 blocks of {Mxfp4.Block}; take configuration and weights of the same model");
            foreach ((string part, long[] shape) in new[] { ("blocks", (long[])[n, outputs, inputs / Mxfp4.Block, Mxfp4.Block / 2]), ("scales", [n, outputs, inputs / Mxfp4.Block]) })
                if (Shaped($"{name}_{part}", shape) is { Type: not "U8" and var type })
                    throw new UserErrorException($"{source.Description}: tensor '{name}_{part}' is stored as {type}, MXFP4 is bytes (U8); fetch the file again");
            int perRow = inputs / Mxfp4.Block, rowBytes = (int)Mxfp4.Bytes(inputs);
            PackedTensor stored = Mxfp4.Packed((long)n * outputs * inputs, to =>
            {
                for (int e = 0; e < n; e++)
                {
                    byte[] blocks = Rows($"{name}_blocks", e, n), scales = Rows($"{name}_scales", e, n);
                    for (int row = 0; row < outputs; row++, to += rowBytes)
                        Mxfp4.WriteRow(blocks.AsSpan(each.FileRow(row) * inputs / 2, inputs / 2), scales.AsSpan(each.FileRow(row) * perRow, perRow), to);
                }
            });
            if (weights.Type != WeightType.F32)
                return ReadPacked(stored, name, n, outputs, inputs);
            using Tensor blocks = PackedStorage.Load(device, stored, null, n, outputs, inputs);
            return Keep(device.Backend.IsDry ? new Tensor(device, DType.F32, n, outputs, inputs) : Tensor.From(device, WeightReader.ToHost(blocks), n, outputs, inputs), name);
        }

        private Tensor StackedBias(string name, ExpertConfig x, int outputs)
        {
            Shaped(name, x.Count, outputs);
            var layout = new FileLayout(x.Count, outputs, 1, Transposed: false, x.Stack == StackLayout.InOutInterleaved && name.EndsWith(".gate_up_proj_bias", StringComparison.Ordinal));
            if (layout.Interleaved)
                _layouts[name] = layout;
            return device.Backend.IsDry
                ? Add(new Tensor(device, DType.F32, x.Count, outputs), name)
                : Keep(Tensor.From(device, layout.FromFile<float>(source.ReadF32(name)), x.Count, outputs), name);
        }

        // The stored bytes of one matrix of a stack.
        private byte[] Rows(string name, int index, int count)
        {
            TensorInfo info = source.Info(name);
            long rows = info.Rows / count;
            byte[] bytes = new byte[info.Bytes / count];
            fixed (byte* p = bytes)
                source.ReadRaw(name, index * rows, rows, p);
            return bytes;
        }
    }
}
