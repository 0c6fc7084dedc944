using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Adapters.Peft;

/// <summary>An SVD rotation at one coefficient, as a plain LoRA, as a merged model and as files.</summary>
public sealed class LoraExportTests : IDisposable
{
    private readonly TinyBase _base = new();

    [Theory]
    [InlineData(ScaleMethod.Add, RotationMethod.Cayley, true)]
    [InlineData(ScaleMethod.Mult, RotationMethod.MatrixExp, true)]
    [InlineData(ScaleMethod.AddTanh, RotationMethod.Cayley, false)]
    public void The_LoRA_of_a_rotation_computes_the_same_as_the_rotation(ScaleMethod scale, RotationMethod rotation, bool rotateU)
    {
        using SvdAdapter svd = Rotated(scale, rotation, rotateU);
        foreach (float c in new[] { -1.5f, 0.5f, 1 })
        {
            using PeftAdapter lora = LoraExport.Of(svd, c, "tiny");
            float[] wanted = Logits(_base.Model, svd, c);
            Assert.True(Close.Error(wanted, Logits(_base.Model, null, 0)) > 0.05, "the rotation must do something");
            Close.To(2e-5, Logits(_base.Model, lora, 1), wanted, $"LoRA at {c}");
            Assert.All(lora.Layers.Values, l => Assert.Equal(4, l.Stored.First(s => s.Key == "lora_A.weight").Value.Rows));
            using DecoderModel merged = MergedWeights.Load(svd, c);
            Close.To(2e-5, Logits(merged, null, 0), wanted, $"merged at {c}");
        }
    }

    [Fact]
    public void Its_files_read_back_as_the_same_adapter()
    {
        using SvdAdapter svd = Rotated(ScaleMethod.Add, RotationMethod.Cayley, true);
        using PeftAdapter lora = LoraExport.Of(svd, 0.75f, "tiny");
        string folder = Directory.CreateTempSubdirectory("repeng-peft-").FullName;
        try
        {
            lora.Save(folder, "tiny");
            using IAdapter again = AdapterFile.LoadAny(_base.Model, folder);
            Assert.Equal(svd.Modules, again.Modules);
            Assert.Equal(Logits(_base.Model, lora, 1), Logits(_base.Model, again, 1));
            MergedWeights.Write(svd, 0.75f, Path.Combine(folder, "model.safetensors"));
            using var source = Runtime.Formats.SafetensorsFile.Open(Path.Combine(folder, "model.safetensors"));
            using DecoderModel merged = ModelLoader.Load(_base.Device, _base.Model.Config, source);
            Close.To(2e-5, Logits(merged, null, 0), Logits(_base.Model, svd, 0.75f), "merged file");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void A_coefficient_that_is_not_finite_is_refused()
    {
        using SvdAdapter svd = Rotated(ScaleMethod.Add, RotationMethod.Cayley, true);
        Assert.Throws<UserErrorException>(() => LoraExport.Of(svd, float.NaN, "tiny"));
        Assert.Throws<UserErrorException>(() => MergedWeights.Of(svd, float.PositiveInfinity));
    }

    public void Dispose() => _base.Dispose();

    private SvdAdapter Rotated(ScaleMethod scale, RotationMethod rotation, bool rotateU) => SvdAdapter.Create(_base.Model, new SvdAdapterConfig
    {
        Rank = 4,
        Scale = scale,
        Rotation = rotation,
        RotateU = rotateU,
        InitRotation = 0.3,
        TargetModules = @".*\.(0|2)\..*(q_proj|down_proj)",
    });

    private float[] Logits(DecoderModel model, IAdapter? adapter, float c)
    {
        using var tape = new Tape(_base.Device, record: false);
        Tensor h = model.Forward(new ForwardContext(tape, _base.Tokens) { Adapter = adapter?.Pass(tape, [c, c], _base.Tokens.Length) });
        float[] all = model.Logits(tape, h).ToArray();
        return [.. Enumerable.Range(0, _base.Tokens.Ids.Length).Where(i => _base.Tokens.IsReal(i / _base.Tokens.Length, i % _base.Tokens.Length)).SelectMany(i => all.AsSpan(i * model.Config.VocabSize, model.Config.VocabSize).ToArray())];
    }
}
