using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Repeng.Kernels;
using Repeng.Kernels.Quantised;
using Repeng.Runtime;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>How weights are held in memory.</summary>
public enum WeightType
{
    /// <summary>As stored: fp16 and bf16 stay 16-bit, quantised weights stay packed.</summary>
    AsStored,

    /// <summary>Everything fp32, quantised weights decoded.</summary>
    F32,
}

/// <summary>How weights are held, and whether plain linear weights are quantised when they are loaded.</summary>
/// <param name="Type">How what is stored is held.</param>
/// <param name="Quantise">What linear weights of the blocks become; embedding, head, norms and biases stay as they are, as transformers leaves them. Null for none.</param>
public sealed record WeightStorage(WeightType Type = WeightType.AsStored, Quantisation? Quantise = null)
{
    /// <summary>No quantisation.</summary>
    public static implicit operator WeightStorage(WeightType type) => new(type);
}

/// <summary>Builds a <see cref="DecoderModel"/> from a description and named tensors; every shape is checked against the description.</summary>
public static unsafe partial class ModelLoader
{
    // Values of each weight that go into the fingerprint.
    private const int SampleValues = 64;

    /// <summary>Reads all weights. Throws <see cref="UserErrorException"/> for a missing tensor, a wrong shape or a weight that is not finite.</summary>
    public static DecoderModel Load(Device device, ModelConfig config, ITensorSource source, WeightStorage? weights = null, Action<int, int>? progress = null)
    {
        var parameters = new Dictionary<string, Tensor>();
        var parts = new List<Tensor>();
        try
        {
            return new Builder(device, AsNamed(config, source), source, weights ?? new WeightStorage(), parameters, parts, progress).Build();
        }
        catch
        {
            foreach (Tensor t in parts.Concat(parameters.Values))
                t.Dispose();
            throw;
        }
    }

    // transformers 5 calls the module of the experts mlp in every family; what it saves in its own layout has these names.
    private static ModelConfig AsNamed(ModelConfig config, ITensorSource source)
    {
        const string Now = "mlp";
        if (config.OtherPrefix is { } other && config with { Prefix = other } is var moved && !source.Contains($"{config.EmbeddingPath}.weight") && source.Contains($"{moved.EmbeddingPath}.weight"))
            config = moved;
        if (config.Experts is not { } x || config.Names.Mlp == Now || Array.IndexOf(x.Layers, true) is not (>= 0 and var layer))
            return config;
        string Router(string mlp) => $"{config.BlockPath(layer)}.{mlp}.{x.Router}.weight";
        return !source.Contains(Router(config.Names.Mlp)) && source.Contains(Router(Now)) ? config with { Names = config.Names with { Mlp = Now } } : config;
    }

    private sealed partial class Builder(Device device, ModelConfig config, ITensorSource source, WeightStorage weights, Dictionary<string, Tensor> parameters, List<Tensor> parts, Action<int, int>? progress)
    {
        private readonly Dictionary<string, FileLayout> _layouts = [];
        private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

        public DecoderModel Build()
        {
            int d = config.HiddenSize;
            CheckHead();
            Tensor embedding = Read($"{config.EmbeddingPath}.weight", config.VocabSize, d);
            Tensor? positions = config.PositionEmbedding is null ? null : Read($"{config.Prefix}{config.PositionEmbedding}.weight", config.MaxPositions, d);
            var blocks = new Block[config.NumLayers];
            for (int i = 0; i < blocks.Length; i++)
            {
                blocks[i] = BuildBlock(i);
                progress?.Invoke(i + 1, blocks.Length);
            }
            NormModule finalNorm = Norm($"{config.Prefix}{config.FinalNorm}", d)!;
            Tensor head = embedding;
            if (!config.TiedHead)
                head = Read($"{config.HeadPath}.weight", config.VocabSize, d);
            string fingerprint = Convert.ToHexStringLower(_hash.GetHashAndReset())[..32];
            _hash.Dispose();
            return new DecoderModel(config, device, parameters, _layouts, blocks, embedding, positions, finalNorm, head, source.Description, fingerprint);
        }

        private Block BuildBlock(int index)
        {
            BlockNames n = config.Names;
            int d = config.HiddenSize, q = config.NumHeads * config.HeadDim, kv = config.NumKvHeads * config.HeadDim, mlp = config.IntermediateSize;
            var block = new Block(config, index);
            string path = block.Path, attention = $"{path}.{n.Attention}", ff = $"{path}.{n.Mlp}";
            block.InputNorm = Norm(n.InputNorm is null ? null : $"{path}.{n.InputNorm}", d);
            block.PostAttentionNorm = Norm(n.PostAttentionNorm is null ? null : $"{path}.{n.PostAttentionNorm}", d);
            block.PreMlpNorm = Norm(n.PreMlpNorm is null ? null : $"{path}.{n.PreMlpNorm}", d);
            block.PostMlpNorm = Norm(n.PostMlpNorm is null ? null : $"{path}.{n.PostMlpNorm}", d);
            if (config.QkNorm != QkNormKind.None)
            {
                bool perHead = config.QkNorm == QkNormKind.PerHead;
                block.QueryNorm = Norm($"{attention}.q_norm", perHead ? config.HeadDim : q);
                block.KeyNorm = Norm($"{attention}.k_norm", perHead ? config.HeadDim : kv);
            }
            if (n.FusedQkv is not null)
            {
                block.FusedQkv = Linear($"{attention}.{n.FusedQkv}", q + 2 * kv, d, config.QkvBias);
            }
            else
            {
                block.Query = Linear($"{attention}.q_proj", q, d, config.QkvBias);
                block.Key = Linear($"{attention}.k_proj", kv, d, config.QkvBias);
                block.Value = Linear($"{attention}.v_proj", kv, d, config.QkvBias);
            }
            block.Output = Linear($"{attention}.{n.Output}", d, q, config.OutputBias);
            if (config.AttentionSinks)
                block.Sinks = Read($"{attention}.sinks", asF32: true, config.NumHeads);
            if (config.ExpertsOf(index) is { } experts)
            {
                block.Experts = BuildExperts(experts, ff);
                return block;
            }
            if (n.FusedGateUp is not null)
            {
                block.FusedGateUp = Linear($"{ff}.{n.FusedGateUp}", 2 * mlp, d, config.MlpBias);
            }
            else
            {
                if (config.Gated)
                    block.Gate = Linear($"{ff}.gate_proj", mlp, d, config.MlpBias);
                block.Up = Linear($"{ff}.{n.Up}", mlp, d, config.MlpBias);
            }
            block.Down = Linear($"{ff}.{n.Down}", d, mlp, config.MlpBias);
            return block;
        }

        // What is said of the head must be there before gigabytes are read.
        private void CheckHead()
        {
            string embedding = $"{config.EmbeddingPath}.weight", head = $"{config.HeadPath}.weight";
            if (!source.Contains(embedding) && config.TiedHead)
                throw new UserErrorException($"{source.Description}: tensor '{embedding}' is missing, and the head is tied to it (tie_word_embeddings), so that nothing gives the logits either; {(source.Contains(head) ? $"'{head}' alone is there: the file was saved without its shared tensor, save it again with the embedding" : "fetch the file again")}");
            if (!config.TiedHead && !source.Contains(head))
                throw new UserErrorException($"{source.Description}: tensor '{head}' is missing, and the configuration does not tie the head to the token embedding; set tie_word_embeddings to true in config.json if the model shares them, else fetch the file again");
        }

        private NormModule? Norm(string? path, int size) => path is null ? null : new NormModule(path,
            Read($"{path}.weight", asF32: true, size), config.Norm == NormKind.Layer ? Read($"{path}.bias", asF32: true, size) : null);

        private LinearModule Linear(string path, int outputs, int inputs, bool bias, bool quantisable = true)
        {
            string name = $"{path}.weight";
            Tensor w = quantisable && weights.Quantise is { } quantise ? ReadQuantised(quantise, name, outputs, inputs)
                : config.LinearStoredTransposed ? ReadTransposed(name, outputs, inputs) : Read(name, outputs, inputs);
            return new LinearModule(path, w, bias ? Read($"{path}.bias", asF32: true, outputs) : null);
        }

        private Tensor Read(string name, params int[] shape) => Read(name, asF32: false, shape);

        /// <summary>A tensor's entry; an error that names both files where its shape is not what the configuration asks for.</summary>
        private TensorInfo Shaped(string name, params long[] shape)
        {
            TensorInfo info = source.Info(name);
            if (!info.Shape.AsSpan().SequenceEqual(shape))
                throw new UserErrorException($"{source.Description}: tensor '{name}' has shape {info.ShapeText}, the model's configuration asks for [{string.Join(", ", shape)}]; take configuration and weights of the same model");
            return info;
        }

        private Tensor Read(string name, bool asF32, params int[] shape)
        {
            TensorInfo info = Shaped(name, [.. shape.Select(s => (long)s)]);
            if (weights.Type != WeightType.F32 && !asF32 && source.Packed(name) is { } packed)
                return ReadPacked(packed, name, shape);
            DType type = weights.Type == WeightType.F32 || asF32 ? DType.F32 : info.Type switch { "BF16" => DType.BF16, "F16" => DType.F16, _ => DType.F32 };
            Tensor t = Add(new Tensor(device, type, shape), name);
            if (type == DType.F32)
                Fill(t, (first, rows, p) => source.ReadF32(name, first, rows, (float*)p));
            else
                Fill(t, (first, rows, p) => source.ReadRaw(name, first, rows, (byte*)p));
            Check(t);
            return t;
        }

        private Tensor Add(Tensor t, string name)
        {
            t.Name = name;
            parameters.Add(name, t);
            return t;
        }

        private Tensor Keep(Tensor t, string name)
        {
            Check(Add(t, name));
            return t;
        }

        private Tensor ReadPacked(PackedTensor packed, string name, params int[] shape)
        {
            Tensor t = Add(PackedStorage.Load(device, packed, Look, shape), name);
            if (device.Backend.IsDry)
                Sample(name, shape, null);
            return t;

            void Look(Packing host)
            {
                Finite(host.FirstNotFinite(), name, host.Elements);
                Sample(name, shape, i => Decoded(host, i));
            }
        }

        /// <summary>A linear weight, quantised from its stored values; one matrix at a time exists in fp32.</summary>
        private Tensor ReadQuantised(Quantisation quantise, string name, int outputs, int inputs)
        {
            if (source.Packed(name) is { } packed)
                throw new UserErrorException($"{source.Description}: weight {name} is stored as {packed.Form} already; leave --quantization_type out, which is for plain weights");
            Shaped(name, config.LinearStoredTransposed ? [inputs, outputs] : [outputs, inputs]);
            Tensor t = Add(PackedStorage.Load(device, quantise.Packed(outputs, inputs, Read), null, outputs, inputs), name);
            if (device.Backend.IsDry)
                Sample(name, t.Shape, null);
            return t;

            QuantisedMatrix Read()
            {
                using var values = new HostMatrix(outputs, inputs);
                source.ReadF32(name, 0, config.LinearStoredTransposed ? inputs : outputs, values.At);
                if (config.LinearStoredTransposed)
                    values.Transpose();
                // The weight as it was tells base models apart: an adapter belongs to the plain and to the quantised one.
                Sample(name, [outputs, inputs], i => values.At[i]);
                return Quantised(quantise, name, values.At, outputs, inputs);
            }
        }

        private QuantisedMatrix Quantised(Quantisation quantise, string name, float* values, int outputs, int inputs)
        {
            try
            {
                return quantise.Quantise(values, outputs, inputs);
            }
            catch (UserErrorException e)
            {
                throw new UserErrorException($"{source.Description}: weight {name}: {e.Message}", e);
            }
        }

        private Tensor ReadTransposed(string name, int outputs, int inputs)
        {
            // Quantised weights are [out, in] in every family.
            if (source.Packed(name) is not null)
                return Read(name, outputs, inputs);
            Shaped(name, inputs, outputs);
            _layouts[name] = new FileLayout(0, outputs, inputs, Transposed: true, Interleaved: false);
            if (device.Backend.IsDry)
            {
                return Add(new Tensor(device, DType.F32, outputs, inputs), name);
            }
            return Keep(Tensor.From(device, _layouts[name].FromFile<float>(source.ReadF32(name)), outputs, inputs), name);
        }

        private delegate void RowReader(long first, long rows, nint destination);

        // The CPU reads straight into the tensor; another device through a staging buffer.
        private static void Fill(Tensor t, RowReader read)
        {
            // A dry run needs the sizes alone.
            if (t.Device.Backend.IsDry)
                return;
            if (t.Device.Backend is Kernels.Cpu.CpuBackend)
            {
                read(0, t.Rows, t.Data.Address);
                return;
            }
            long rowBytes = (long)t.Cols * t.Type.Size();
            int step = (int)Math.Clamp((64 << 20) / Math.Max(1, rowBytes), 1, t.Rows);
            byte[] staging = new byte[step * rowBytes];
            for (int first = 0; first < t.Rows; first += step)
            {
                int rows = Math.Min(step, t.Rows - first);
                fixed (byte* p = staging)
                    read(first, rows, (nint)p);
                t.Device.Backend.Upload(t.Data.Slice((long)first * t.Cols, (long)rows * t.Cols), staging.AsSpan(0, checked((int)(rows * rowBytes))));
            }
        }

        private void Check(Tensor t)
        {
            if (t.Device.Backend.IsDry)
            {
                Sample(t.Name!, t.Shape, null);
                return;
            }
            bool onHost = t.Device.Backend.ReadsHostMemory;
            Finite(onHost ? FirstNotFinite(t.Data) : FirstNotFiniteOnDevice(t), t.Name!, t.Length);
            Sample(t.Name!, t.Shape, i => onHost ? At(t.Data, i) : OnHost(t, i, 1, v => At(v, 0)));
        }

        private void Finite(long bad, string name, long length)
        {
            if (bad >= 0)
                throw new UserErrorException($"{source.Description}: weight {name} holds a value that is not finite at element {bad} of {length}; the file is damaged, fetch it again");
        }

        // Brings elements [first, first + count) back from a device and looks at them.
        private static T OnHost<T>(Tensor t, long first, int count, Func<View, T> look)
        {
            var bytes = new byte[count * t.Type.Size()];
            t.Device.Backend.Download(bytes, t.Data.Slice(first, count));
            fixed (byte* p = bytes)
                return look(new View((nint)p, count, t.Type));
        }

        private static long FirstNotFiniteOnDevice(Tensor t)
        {
            const int Part = 1 << 22;
            for (long first = 0; first < t.Length; first += Part)
            {
                long bad = OnHost(t, first, (int)Math.Min(Part, t.Length - first), FirstNotFinite);
                if (bad >= 0)
                    return first + bad;
            }
            return -1;
        }

        private void Sample(string name, int[] shape, Func<long, float>? value)
        {
            Span<byte> sample = stackalloc byte[SampleValues * 4];
            _hash.AppendData(Encoding.UTF8.GetBytes($"{name}[{string.Join(",", shape)}]"));
            if (value is null)
                return;
            long count = Tensor.Count(shape);
            for (int i = 0; i < SampleValues; i++)
                BinaryPrimitives.WriteSingleLittleEndian(sample[(i * 4)..], value(count * i / SampleValues));
            _hash.AppendData(sample);
        }

        private static float At(View v, long i) => v.Type switch
        {
            DType.F32 => ((float*)v.Address)[i],
            DType.F16 => (float)((Half*)v.Address)[i],
            _ => BitConverter.UInt32BitsToSingle((uint)((ushort*)v.Address)[i] << 16),
        };

        private static float Decoded(Packing packing, long i)
        {
            float value = 0;
            packing.Decode(i, new Span<float>(ref value));
            return value;
        }

        private static long FirstNotFinite(View v)
        {
            if (v.Packing is { } packing)
                return packing.FirstNotFinite();
            const int Part = 1 << 28;
            for (long first = 0; first < v.Length; first += Part)
            {
                int n = (int)Math.Min(Part, v.Length - first);
                int bad = v.Type switch
                {
                    DType.F32 => FiniteValues.FirstNot(new ReadOnlySpan<float>((float*)v.Address + first, n)),
                    DType.F16 => FiniteValues.FirstNot(new ReadOnlySpan<ushort>((ushort*)v.Address + first, n), 0x7C00),
                    _ => FiniteValues.FirstNot(new ReadOnlySpan<ushort>((ushort*)v.Address + first, n), 0x7F80),
                };
                if (bad >= 0)
                    return first + bad;
            }
            return -1;
        }
    }
}
