using System.Globalization;
using System.Text.Json.Nodes;
using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters.Peft;

/// <summary>One golden folder: an adapter that PEFT saved, its base model and PEFT's logits.</summary>
internal sealed class PeftGoldenCase : IDisposable
{
    public PeftGoldenCase(string name)
    {
        Folder = Golden.Require("peft", name);
        JsonObject json = GoldenFiles.Json(Path.Combine(Folder, AdapterFile.ConfigName));
        Expected = SafetensorsFile.Open(Path.Combine(Folder, "expected.safetensors"));
        Device = Device.Cpu();
        Model = GoldenFiles.Load(Device, Path.GetFullPath(Path.Combine(Folder, (string)json["base_model_name_or_path"]!)));
        Tokens = GoldenFiles.Batch(Expected);
        Adapter = PeftFile.Load(Model, Folder, Bases(json, Expected));
    }

    public string Folder { get; }

    public ITensorSource Expected { get; }

    public Device Device { get; }

    public DecoderModel Model { get; }

    public TokenBatch Tokens { get; }

    public PeftAdapter Adapter { get; }

    /// <summary>Expected logits by the coefficient in their name; "logits" alone is the adapter as it is.</summary>
    public IEnumerable<(string Name, float C)> Steered => Expected.Names.Where(n => n == "logits" || n.StartsWith("logits_c", StringComparison.Ordinal))
        .Select(n => (n, n == "logits" ? 1 : float.Parse(n["logits_c".Length..], CultureInfo.InvariantCulture)));

    public static Func<string, (float[], float[])>? Bases(JsonObject json, ITensorSource expected) =>
        string.Equals((string)json["peft_type"]!, "psoft", StringComparison.OrdinalIgnoreCase) ? path => (expected.ReadF32($"A.{path}"), expected.ReadF32($"B.{path}")) : null;

    public float[] Logits(DecoderModel model, IAdapter? adapter, params float[] coefficients)
    {
        using var tape = new Tape(Device, record: false);
        if (coefficients.Length == 1)
            coefficients = [.. Enumerable.Repeat(coefficients[0], Tokens.Batch)];
        return model.Logits(tape, model.Forward(new ForwardContext(tape, Tokens) { Adapter = adapter?.Pass(tape, coefficients, Tokens.Length) })).ToArray();
    }

    public void Dispose()
    {
        Adapter.Dispose();
        Model.Dispose();
        Device.Dispose();
        Expected.Dispose();
    }
}
