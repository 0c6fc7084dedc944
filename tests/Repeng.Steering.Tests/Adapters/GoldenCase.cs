using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Kernels.Cuda;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Losses;
using Repeng.Steering.Models;
using Repeng.Steering.Training;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>One case of the golden adapters: settings from the JSON, tensors from the safetensors file.</summary>
internal sealed class GoldenCase : IDisposable
{
    public GoldenCase(string folder, string name, string backend = "cpu", CudaPrecision precision = CudaPrecision.Exact)
    {
        Json = GoldenFiles.Json(Golden.Require("adapter", name + ".json"));
        Tensors = SafetensorsFile.Open(Path.Combine(folder, name + ".safetensors"));
        Device = new Device(Backends.Create(backend, precision: precision));
        Model = GoldenFiles.Load(Device, Path.Combine(folder, "model"));
        Adapter = new SvdAdapter(Config, Model, [.. Modules.Select(m => Layer(Device, Config, Tensors, m, "init."))]);
    }

    /// <summary>Cases with a training history, or one row that makes the test skip visibly.</summary>
    public static IEnumerable<TheoryDataRow<string>> Names =>
        Golden.OrAbsent(Directory.Exists(Golden.Path("adapter"))
            ? Directory.GetFiles(Golden.Path("adapter"), "*.json").Where(f => File.ReadAllText(f).Contains("\"loss_layers\"", StringComparison.Ordinal)).Select(f => Path.GetFileNameWithoutExtension(f))
            : []).Select(n => new TheoryDataRow<string>(n));

    /// <summary>Rounds the model's weights to bf16, to the nearest, the even one of two; they stay fp32.</summary>
    public void RoundWeights()
    {
        foreach (Tensor weight in Model.Parameters.Values.Where(w => w.Data.Type == DType.F32))
        {
            float[] values = Array.ConvertAll(weight.ToArray(), v => BitConverter.UInt32BitsToSingle((BitConverter.SingleToUInt32Bits(v) + 0x7FFF + (BitConverter.SingleToUInt32Bits(v) >> 16 & 1)) & 0xFFFF0000));
            Device.Backend.Upload(weight.Data, System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()));
        }
    }

    public JsonObject Json { get; }

    public ITensorSource Tensors { get; }

    public Device Device { get; }

    public DecoderModel Model { get; }

    public SvdAdapter Adapter { get; }

    public string[] Modules => [.. Json["modules"]!.AsArray().Select(m => (string)m!)];

    public SvdAdapterConfig Config => ReadConfig(Json);

    public static SvdAdapterConfig ReadConfig(JsonObject json)
    {
        JsonObject a = json["adapter"]!.AsObject();
        return new SvdAdapterConfig
        {
            Rank = (int)a["r"]!,
            RotateU = (bool)a["rotate_u"]!,
            RotateV = (bool)a["rotate_v"]!,
            Scale = (string)a["scale_s"]! switch { "mult" => ScaleMethod.Mult, "add" => ScaleMethod.AddTanh, "add2" => ScaleMethod.Add, "none" => ScaleMethod.None, var x => throw new InvalidDataException(x) },
            Rotation = (string)a["rotation_method"]! switch { "cayley" => RotationMethod.Cayley, "matrix_exp" => RotationMethod.MatrixExp, "block_diagonal" => RotationMethod.BlockDiagonal, var x => throw new InvalidDataException(x) },
            BlockSize = (int?)a["block_size"] ?? 0,
            TargetModules = (string)json["target_modules"]!,
        };
    }

    public static SvdLayer Layer(Device device, SvdAdapterConfig config, ITensorSource tensors, string module, string prefix)
    {
        Tensor Read(string name)
        {
            int[] shape = [.. tensors.Info(name).Shape.Select(x => (int)x)];
            return Tensor.From(device, tensors.ReadF32(name), shape);
        }
        Tensor? Optional(string name) => tensors.Contains(name) ? Read(name) : null;
        return new SvdLayer(config, module, Read($"basis.{module}.u"), Read($"basis.{module}.s"), Read($"basis.{module}.v"),
            config.Scale == ScaleMethod.None ? null : Optional($"{prefix}{module}.{config.ScaleParameter}"),
            Optional($"{prefix}{module}.{config.RotationPrefix}u"), Optional($"{prefix}{module}.{config.RotationPrefix}v"));
    }

    public ContrastiveLossConfig Loss => new()
    {
        Separation = (string)Json["loss"]! switch { "logsigmoid" => SeparationLoss.LogSigmoid, "tanh" => SeparationLoss.TanhRatio, "readme" => SeparationLoss.Linear, var x => throw new InvalidDataException(x) },
        Coherence = Json["lambda_coh"] is null ? CoherenceLoss.None : CoherenceLoss.Absolute,
        CoherenceWeight = (float?)Json["lambda_coh"] ?? 0,
        CoherenceThreshold = (float)Json["coherence_threshold"]!,
        HingeFactor = (string)Json["loss"]! == "logsigmoid" ? 1 : 10,
        LastTokens = (int)Json["last_n_tokens"]!,
    };

    public LossLayer LossLayer(string module)
    {
        float[] d = Tensors.ReadF32($"direction.{module}"), basis = Tensors.ReadF32($"loss_basis.{module}");
        int k = d.Length, n = basis.Length / k;
        var output = new double[n];
        for (int i = 0; i < n; i++)
            for (int q = 0; q < k; q++)
                output[i] += (double)basis[i * k + q] * d[q];
        return new LossLayer(module, LossLayers.Direction(Device, output, module), null, Tensor.From(Device, basis, n, k));
    }

    public static List<TokenBatch> Batches(string folder)
    {
        using ITensorSource source = SafetensorsFile.Open(Path.Combine(folder, "batches.safetensors"));
        return ReadBatches(source);
    }

    public static List<TokenBatch> ReadBatches(ITensorSource source)
    {
        long[] shape = source.Info("input_ids").Shape;
        (int count, int rows, int length) = ((int)shape[0], (int)shape[1], (int)shape[2]);
        int[] ids = GoldenFiles.Ints(source, "input_ids"), mask = GoldenFiles.Ints(source, "attention_mask");
        int size = rows * length;
        return [.. Enumerable.Range(0, count).Select(i => TokenBatch.FromMask(ids[(i * size)..((i + 1) * size)], mask[(i * size)..((i + 1) * size)], rows, length))];
    }

    public void Dispose()
    {
        Adapter.Dispose();
        Model.Dispose();
        Device.Dispose();
        Tensors.Dispose();
    }
}
