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
            string gateUp = $"{list}.gate_up_proj", down = $"{list}.down_proj";
            Tensor[] first = Matrices(gateUp, x, packed, m, d, x.Gate, x.Up), second = Matrices(down, x, packed, d, m, x.Down);
            Tensor? firstBias = x.Bias ? StackedBias($"{gateUp}_bias", x, 2 * m) : null, secondBias = x.Bias ? StackedBias($"{down}_bias", x, d) : null;
            return [.. Enumerable.Range(0, n).Select(e => new Expert(
                Part(e, x.Gate, gateUp, first[2 * e], firstBias, 2L * m * e), Part(e, x.Up, gateUp, first[2 * e + 1], firstBias, 2L * m * e + m), Part(e, x.Down, down, second[e], secondBias, (long)d * e)))];

            LinearModule Part(int expert, string name, string stack, Tensor weight, Tensor? bias, long row)
            {
                Tensor? b = bias?.Part(row, weight.Rows);
                if (b is not null)
                    parts.Add(b);
                return new LinearModule($"{list}.{expert}.{name}", weight, b) { WeightPart = (stack, row * weight.Cols), BiasPart = b is null ? null : (bias!.Name!, row) };
            }
        }

        // The matrices of a stack [rows, inputs], expert by expert: parts of one parameter, or where they are quantised at load parameters of their own.
        private Tensor[] Matrices(string name, ExpertConfig x, bool packed, int rows, int inputs, params string[] projections)
        {
            if (weights.Quantise is { } quantise && !packed)
                return QuantisedStack(quantise, name, x, rows, inputs, projections);
            Tensor stack = Stack(name, x, projections.Length * rows, inputs, packed);
            Tensor[] made = [.. Enumerable.Range(0, x.Count * projections.Length).Select(i => stack.Part((long)i * rows * inputs, rows, inputs))];
            parts.AddRange(made);
            return made;
        }

        // Each matrix has scales of its own, as if the experts were stored one by one. One expert's slice of the stack exists in fp32 at a time.
        private Tensor[] QuantisedStack(Quantisation quantise, string name, ExpertConfig x, int rows, int inputs, string[] projections)
        {
            int outputs = projections.Length * rows;
            FileLayout each = SliceLayout(name, x, outputs, inputs);
            _layouts[name] = each with { Count = x.Count };
            Shaped(name, [x.Count, .. each.Shape]);
            long size = (long)outputs * inputs, total = size * x.Count;
            var samples = new Dictionary<long, float>();
            var made = new List<Tensor>();
            for (int e = 0; e < x.Count; e++)
            {
                using HostMatrix? slice = device.Backend.IsDry ? null : ReadSlice(name, e, each);
                for (int k = 0; slice is not null && k < SampleValues; k++)
                    if (total * k / SampleValues is var at && at / size == e)
                        samples[at] = slice.At[at % size];
                for (int p = 0; p < projections.Length; p++)
                {
                    string weight = $"{name[..name.LastIndexOf('.')]}.{e}.{projections[p]}.weight";
                    long first = (long)p * rows * inputs;
                    made.Add(Add(PackedStorage.Load(device, quantise.Packed(rows, inputs, () => Quantised(quantise, weight, slice!.At + first, rows, inputs)), null, rows, inputs), weight));
                }
            }
            // As the stack where it is not quantised.
            Sample(name, [x.Count, outputs, inputs], device.Backend.IsDry ? null : i => samples[i]);
            return [.. made];
        }

        private static FileLayout SliceLayout(string name, ExpertConfig x, int outputs, int inputs) => new(0, outputs, inputs,
            Transposed: x.Stack == StackLayout.InOutInterleaved, Interleaved: x.Stack == StackLayout.InOutInterleaved && name.EndsWith(".gate_up_proj", StringComparison.Ordinal));

        // One expert's slice of a stack in fp32, as memory has it.
        private HostMatrix ReadSlice(string name, int expert, FileLayout each)
        {
            const int Together = 1 << 18;
            var slice = new HostMatrix(each.Rows, each.Columns);
            try
            {
                if (!each.Transposed)
                {
                    source.ReadF32(name, (long)expert * each.Rows, each.Rows, slice.At);
                    return slice;
                }
                int outputs = each.Rows, inputs = each.Columns, step = Math.Max(1, Together / outputs);
                using var stored = new HostMatrix(Math.Min(step, inputs), outputs);
                float* from = stored.At, to = slice.At;
                for (int start = 0; start < inputs; start += step)
                {
                    int first = start, count = Math.Min(step, inputs - first);
                    source.ReadF32(name, (long)expert * inputs + first, count, from);
                    Parallel.For(0, outputs, row =>
                    {
                        long column = each.FileRow(row);
                        for (int i = 0; i < count; i++)
                            to[(long)row * inputs + first + i] = from[(long)i * outputs + column];
                    });
                }
                return slice;
            }
            catch
            {
                slice.Dispose();
                throw;
            }
        }

        // Memory is [experts, out, in] with the rows of gate above those of up, whatever the file has.
        private Tensor Stack(string name, ExpertConfig x, int outputs, int inputs, bool packed)
        {
            FileLayout each = SliceLayout(name, x, outputs, inputs);
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
                    using HostMatrix slice = ReadSlice(name, e, each);
                    device.Backend.Upload(to, new ReadOnlySpan<byte>(slice.At, checked((int)(size * sizeof(float)))));
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
