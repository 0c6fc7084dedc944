using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Evaluation;
using Repeng.Steering.Generation;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Tests.Generation;

/// <summary>A coefficient that is too large is answered with the block where the numbers end, not with text made of NaN.</summary>
public sealed class FiniteLogitsTests : IDisposable
{
    private readonly Device _device = Device.Cpu(2);

    public void Dispose() => _device.Dispose();

    [Theory]
    [InlineData("1", 3e38f, "block 1 ", "∞")]
    [InlineData("2", -3e38f, "block 2 ", "∞")]
    [InlineData("2", 1e25f, "block 2 ", "square is infinite")]
    [InlineData("model.layers.3.mlp.down_proj", 3e38f, "block 3 ", "∞")]
    [InlineData("model.embed_tokens", 3e38f, "the embeddings ", "∞")]
    [InlineData("model.norm", 3e38f, "although the output of every block is", "not finite")]
    public void The_first_bad_block_and_the_coefficient_are_named(string layer, float c, string block, string what)
    {
        using DecoderModel model = TinyDecoder.Load(_device);
        using var control = new VectorControl(model, new ControlVector("qwen3", [KeyValuePair.Create(layer, new Direction([.. Enumerable.Range(0, 16).Select(i => i % 2 == 0 ? 2f : 1e-3f)]))]));
        var steering = new Repeng.Steering.Generation.Steering(Vector: control);
        // The row beside it is well and must not be blamed.
        string generated = Message(() => new Generator(model).Generate([[5], [1, 2, 3]], [0.5f, c], steering, new SamplingSettings(), 4, []));
        string single = Message(() => new TruthEvaluator(model).Run([new ChoiceItem("q", [1, 2, 3], [[4]], [[5]])], steering, c));
        string several = Message(() => new TruthEvaluator(model).Run([new ChoiceItem("q", [1, 2, 3], [[4, 7]], [[5, 8]])], steering, c));
        foreach (string message in new[] { generated, single, several })
        {
            Assert.Contains(block, message, StringComparison.Ordinal);
            Assert.Contains(what, message, StringComparison.Ordinal);
            Assert.Contains("control vector at coefficient " + c.ToString(System.Globalization.CultureInfo.InvariantCulture), message, StringComparison.Ordinal);
            Assert.Contains("smaller |coefficient|", message, StringComparison.Ordinal);
        }
        // A search over c takes it as a result.
        Assert.Single(new TruthEvaluator(model) { AllowInfinite = true }.Run([new ChoiceItem("q", [1, 2, 3], [[4]], [[5]])], steering, c));
        Assert.Equal(4, new Generator(model).Generate([[1, 2, 3]], [1], steering, new SamplingSettings(), 4, [])[0].Length);
    }

    [Fact]
    public void An_adapter_is_named_as_such_and_a_damaged_model_is_not_blamed_on_steering()
    {
        using DecoderModel model = TinyDecoder.Load(_device);
        LinearModule down = model.Linears["model.layers.1.mlp.down_proj"];
        var json = new JsonObject { ["peft_type"] = "LORA", ["r"] = 1, ["lora_alpha"] = 1, ["target_modules"] = new JsonArray("model.layers.1.mlp.down_proj") };
        using var lora = new PeftAdapter(model, new PeftConfig(json, "test"), [new LoraLayer(down, 1, Ones(1, down.Inputs), Ones(down.Outputs, 1), null, null)]);
        var steering = new Repeng.Steering.Generation.Steering(lora);
        string message = Message(() => new Generator(model).Generate([[1, 2, 3]], [3e38f], steering, new SamplingSettings(), 4, []));
        Assert.Contains("LoRA adapter at coefficient 3E+38: the output of block 1 (model.layers.1)", message, StringComparison.Ordinal);

        using DecoderModel damaged = TinyDecoder.Load(_device);
        float[] weight = damaged.Linears["model.layers.2.mlp.up_proj"].Weight.ToArray();
        weight[5] = float.NaN;
        _device.Backend.Upload(damaged.Linears["model.layers.2.mlp.up_proj"].Weight.Data, System.Runtime.InteropServices.MemoryMarshal.AsBytes(weight.AsSpan()));
        string unsteered = Message(() => new Generator(damaged).Generate([[1, 2, 3]], [0], Repeng.Steering.Generation.Steering.None, new SamplingSettings(), 4, []));
        Assert.Contains("without steering: the output of block 2 ", unsteered, StringComparison.Ordinal);
        Assert.Contains("NaN at token 0 of 3", unsteered, StringComparison.Ordinal);

        Tensor Ones(int rows, int cols) => Tensor.From(_device, Enumerable.Repeat(1f, rows * cols).ToArray(), rows, cols);
    }

    private static string Message(Action run) => Assert.Throws<UserErrorException>(run).Message;
}
