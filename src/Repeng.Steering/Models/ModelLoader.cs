using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Repeng.Kernels;
using Repeng.Kernels.Dry;
using Repeng.Runtime;
using Repeng.Runtime.Formats;

namespace Repeng.Steering.Models;

/// <summary>How 16-bit weights are held in memory.</summary>
public enum WeightType
{
    /// <summary>As stored (fp16 and bf16 stay 16-bit; quantised blocks become fp32).</summary>
    AsStored,

    /// <summary>Everything fp32.</summary>
    F32,
}

/// <summary>Builds a <see cref="DecoderModel"/> from a description and named tensors; every shape is checked against the description.</summary>
public static unsafe class ModelLoader
{
    // Values of each weight that go into the fingerprint.
    private const int SampleValues = 64;

    /// <summary>Reads all weights. Throws <see cref="UserErrorException"/> for a missing tensor, a wrong shape or a weight that is not finite.</summary>
    public static DecoderModel Load(Device device, ModelConfig config, ITensorSource source, WeightType weights = WeightType.AsStored, Action<int, int>? progress = null)
    {
        var parameters = new Dictionary<string, Tensor>();
        try
        {
            return new Builder(device, config, source, weights, parameters, progress).Build();
        }
        catch
        {
            foreach (Tensor t in parameters.Values)
                t.Dispose();
            throw;
        }
    }

    private sealed class Builder(Device device, ModelConfig config, ITensorSource source, WeightType weights, Dictionary<string, Tensor> parameters, Action<int, int>? progress)
    {
        private readonly IncrementalHash _hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);

        public DecoderModel Build()
        {
            int d = config.HiddenSize;
            Tensor embedding = Read($"{config.Prefix}{config.Embedding}.weight", config.VocabSize, d);
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
                head = Read("lm_head.weight", config.VocabSize, d);
            string fingerprint = Convert.ToHexStringLower(_hash.GetHashAndReset())[..32];
            _hash.Dispose();
            return new DecoderModel(config, device, parameters, blocks, embedding, positions, finalNorm, head, source.Description, fingerprint);
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

        private NormModule? Norm(string? path, int size) => path is null ? null : new NormModule(path,
            Read($"{path}.weight", asF32: true, size), config.Norm == NormKind.Layer ? Read($"{path}.bias", asF32: true, size) : null);

        private LinearModule Linear(string path, int outputs, int inputs, bool bias)
        {
            Tensor w = config.LinearStoredTransposed ? ReadTransposed($"{path}.weight", outputs, inputs) : Read($"{path}.weight", outputs, inputs);
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
            DType type = weights == WeightType.F32 || asF32 ? DType.F32 : info.Type switch { "BF16" => DType.BF16, "F16" => DType.F16, _ => DType.F32 };
            var t = new Tensor(device, type, shape) { Name = name };
            parameters.Add(name, t);
            if (type == DType.F32)
                Fill(t, (first, rows, p) => source.ReadF32(name, first, rows, (float*)p));
            else
                Fill(t, (first, rows, p) => source.ReadRaw(name, first, rows, (byte*)p));
            Check(t);
            return t;
        }

        private Tensor ReadTransposed(string name, int outputs, int inputs)
        {
            Shaped(name, inputs, outputs);
            if (device.Backend is DryBackend)
            {
                var empty = new Tensor(device, DType.F32, outputs, inputs) { Name = name };
                parameters.Add(name, empty);
                return empty;
            }
            float[] stored = source.ReadF32(name);
            var turned = new float[stored.Length];
            for (int i = 0; i < inputs; i++)
                for (int o = 0; o < outputs; o++)
                    turned[(long)o * inputs + i] = stored[(long)i * outputs + o];
            Tensor t = Tensor.From(device, turned, outputs, inputs);
            t.Name = name;
            parameters.Add(name, t);
            Check(t);
            return t;
        }

        private delegate void RowReader(long first, long rows, nint destination);

        // The CPU reads straight into the tensor; another device through a staging buffer.
        private static void Fill(Tensor t, RowReader read)
        {
            // A dry run needs the sizes alone.
            if (t.Device.Backend is DryBackend)
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
            Span<byte> sample = stackalloc byte[SampleValues * 4];
            _hash.AppendData(Encoding.UTF8.GetBytes($"{t.Name}[{string.Join(",", t.Shape)}]"));
            if (t.Device.Backend is not Kernels.Cpu.CpuBackend)
                return;
            long bad = FirstNotFinite(t.Data);
            if (bad >= 0)
                throw new UserErrorException($"{source.Description}: weight {t.Name} holds a value that is not finite at element {bad} of {t.Length}; the file is damaged, fetch it again");
            for (int i = 0; i < SampleValues; i++)
                BinaryPrimitives.WriteSingleLittleEndian(sample[(i * 4)..], At(t.Data, t.Length * i / SampleValues));
            _hash.AppendData(sample);
        }

        private static float At(View v, long i) => v.Type switch
        {
            DType.F32 => ((float*)v.Address)[i],
            DType.F16 => (float)((Half*)v.Address)[i],
            _ => BitConverter.UInt32BitsToSingle((uint)((ushort*)v.Address)[i] << 16),
        };

        // A value is not finite when its exponent bits are all ones.
        private static long FirstNotFinite(View v)
        {
            if (v.Type == DType.F32)
            {
                uint* p = (uint*)v.Address;
                for (long i = 0; i < v.Length; i++)
                    if ((p[i] & 0x7F800000u) == 0x7F800000u)
                        return i;
                return -1;
            }
            ushort mask = v.Type == DType.F16 ? (ushort)0x7C00 : (ushort)0x7F80;
            ushort* h = (ushort*)v.Address;
            for (long i = 0; i < v.Length; i++)
                if ((h[i] & mask) == mask)
                    return i;
            return -1;
        }
    }
}
