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
            var experts = new Experts(config, x) { Router = Linear($"{path}.{x.Router}", x.Count, d, x.RouterBias) };
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
            string? missing = Enumerable.Range(0, x.Count).SelectMany(e => new[] { x.Gate, x.Up, x.Down }.Select(n => $"{list}.{e}.{n}.weight")).FirstOrDefault(n => !source.Contains(n));
            bool more = source.Contains($"{list}.{x.Count}.{x.Gate}.weight");
            if (missing is null && !more)
                return;
            int held = 0;
            while (source.Contains($"{list}.{held}.{x.Gate}.weight"))
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

        // Memory is [experts, out, in] with the rows of gate above those of up, whatever the file has.
        private Tensor Stack(string name, ExpertConfig x, int outputs, int inputs, bool packed)
        {
            bool turned = x.Stack == StackLayout.InOutInterleaved && !packed, interleaved = x.Stack == StackLayout.InOutInterleaved && name.EndsWith(".gate_up_proj", StringComparison.Ordinal);
            var each = new FileLayout(0, outputs, inputs, turned, interleaved);
            if (x.Stack == StackLayout.InOutInterleaved)
                _layouts[name] = new FileLayout(x.Count, outputs, inputs, Transposed: true, interleaved);
            string? type = packed ? "BF16" : Shaped(name, [x.Count, .. each.Shape]).Type;
            if (packed && (inputs % Mxfp4.Block != 0))
                throw new UserErrorException($"{source.Description}: {name} of {inputs} inputs cannot be stored in MXFP4 blocks of {Mxfp4.Block}; take configuration and weights of the same model");
            if (packed)
            {
                Shaped($"{name}_blocks", x.Count, outputs, inputs / Mxfp4.Block, Mxfp4.Block / 2);
                Shaped($"{name}_scales", x.Count, outputs, inputs / Mxfp4.Block);
            }
            DType memory = weights == WeightType.F32 ? DType.F32 : type switch { "BF16" => DType.BF16, "F16" => DType.F16, _ => DType.F32 };
            var t = new Tensor(device, memory, x.Count, outputs, inputs) { Name = name };
            parameters.Add(name, t);
            long size = (long)outputs * inputs;
            for (int e = 0; e < x.Count && device.Backend is not DryBackend; e++)
            {
                View to = t.Data.Slice(e * size, size);
                if (packed)
                {
                    byte[] blocks = Rows($"{name}_blocks", e, x.Count), scales = Rows($"{name}_scales", e, x.Count);
                    ushort[] values = each.FromFile<ushort>(Mxfp4.ToBFloat16(blocks, scales));
                    device.Backend.Upload(to, memory == DType.F32 ? MemoryMarshal.AsBytes(Array.ConvertAll(values, v => BitConverter.UInt32BitsToSingle((uint)v << 16)).AsSpan()) : MemoryMarshal.AsBytes(values.AsSpan()));
                }
                else if (memory == DType.F32)
                {
                    var stored = new float[size];
                    long rows = size / each.Shape[^1];
                    fixed (float* p = stored)
                        source.ReadF32(name, e * rows, rows, p);
                    device.Backend.Upload(to, MemoryMarshal.AsBytes(each.FromFile<float>(stored).AsSpan()));
                }
                else
                {
                    byte[] stored = Rows(name, e, x.Count);
                    device.Backend.Upload(to, MemoryMarshal.AsBytes(each.FromFile<ushort>(MemoryMarshal.Cast<byte, ushort>(stored)).AsSpan()));
                }
            }
            Check(t);
            return t;
        }

        private Tensor StackedBias(string name, ExpertConfig x, int outputs)
        {
            Shaped(name, x.Count, outputs);
            var layout = new FileLayout(x.Count, outputs, 1, Transposed: false, x.Stack == StackLayout.InOutInterleaved && name.EndsWith(".gate_up_proj_bias", StringComparison.Ordinal));
            if (layout.Interleaved)
                _layouts[name] = layout with { Columns = 1 };
            Tensor t = device.Backend is DryBackend ? new Tensor(device, DType.F32, x.Count, outputs) : Tensor.From(device, layout.FromFile<float>(source.ReadF32(name)), x.Count, outputs);
            t.Name = name;
            parameters.Add(name, t);
            Check(t);
            return t;
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
