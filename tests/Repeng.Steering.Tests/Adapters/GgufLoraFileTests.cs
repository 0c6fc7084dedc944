using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Models;
using Repeng.Steering.Tests.Adapters.Peft;

namespace Repeng.Steering.Tests.Adapters;

/// <summary>A LoRA of llama.cpp is an adapter like those of PEFT: it trains; one that does not fit says why.</summary>
public sealed class GgufLoraFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-lora-").FullName;
    private readonly TinyBase _base = new();

    public void Dispose()
    {
        _base.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public void Steps_of_an_optimiser_reach_a_lora_that_was_read()
    {
        using IAdapter adapter = AdapterFile.LoadAny(_base.Model, Lora());
        float before = Loss(out _), after = before;
        for (int step = 0; step < 3; step++)
        {
            Loss(out float[][] gradients);
            Assert.Equal(4, gradients.Length);
            Assert.All(gradients, g => Assert.Contains(g, v => v != 0));
            foreach ((Tensor p, float[] g) in adapter.Parameters.Zip(gradients))
                p.Upload([.. p.ToArray().Zip(g, (v, d) => v - 0.02f * d)]);
            after = Loss(out _);
        }
        Assert.True(after < before, $"{before} before, {after} after three steps");

        float Loss(out float[][] gradients)
        {
            using var tape = new Tape(_base.Device);
            Tensor logits = _base.Model.Logits(tape, _base.Model.Forward(new ForwardContext(tape, _base.Tokens) { Adapter = adapter.Pass(tape, [1, 0.5f], _base.Tokens.Length) }));
            Tensor loss = tape.Scale(tape.Sum(tape.Multiply(logits, logits)), 1f / logits.Length);
            tape.Backward(loss);
            gradients = [.. adapter.Parameters.Select(p => p.GradToArray())];
            foreach (Tensor p in adapter.Parameters)
                p.FreeGrad();
            return loss.ToArray()[0];
        }
    }

    [Theory]
    [InlineData("type", "general.type is 'model', an adapter is needed")]
    [InlineData("vector", "is a control vector, no adapter; give it as --vector")]
    [InlineData("kind", "adapter.type is 'ia3'; lora is the one that is read")]
    [InlineData("architecture", "is for a model of architecture 'gemma', ")]
    [InlineData("alora", "is an activated LoRA")]
    [InlineData("half", "has no lora_b; the LoRA is not whole")]
    [InlineData("other", "is neither lora_a nor lora_b of a layer")]
    [InlineData("embedding", "model.embed_tokens, which is no linear layer")]
    [InlineData("block", "is no linear layer of a qwen2 model of 3 blocks")]
    [InlineData("rank", "[r, in] and [out, r] are needed")]
    [InlineData("size", "the weight of")]
    [InlineData("nan", "holds NaN at element 1 of")]
    [InlineData("empty", "holds no tensor; this LoRA is empty")]
    public void What_does_not_fit_is_refused_by_name(string fault, string part)
    {
        string path = Lora(fault);
        UserErrorException e = Assert.Throws<UserErrorException>(() => AdapterFile.LoadAny(_base.Model, path));
        Assert.StartsWith(path, e.Message, StringComparison.Ordinal);
        Assert.Contains(part, e.Message, StringComparison.Ordinal);
    }

    // A LoRA of rank 2 on two layers, or one with a fault.
    private string Lora(string? fault = null)
    {
        var writer = new GgufWriter(fault switch { "vector" => "controlvector", "architecture" => "gemma", _ => "qwen2" });
        writer.Add("general.type", fault == "type" ? "model" : "adapter").Add("adapter.type", fault == "kind" ? "ia3" : "lora").Add("adapter.lora.alpha", 4f);
        if (fault == "alora")
            writer.Add("adapter.alora.invocation_tokens", "x");
        var random = new Random(5);
        string q = fault switch { "embedding" => "token_embd", "block" => "blk.3.attn_q", _ => "blk.0.attn_q" };
        foreach ((string stem, string layer) in new[] { (q, "self_attn.q_proj"), ("blk.1.ffn_down", "mlp.down_proj") })
        {
            LinearModule linear = _base.Model.Blocks[0].Linears.First(l => l.Path.EndsWith(layer, StringComparison.Ordinal));
            int outputs = linear.Outputs, inputs = linear.Inputs - (fault == "size" ? 1 : 0), rank = fault == "rank" ? 3 : 2;
            float[] a = Values(2 * inputs);
            if (fault == "nan")
                a[1] = float.NaN;
            if (fault == "empty")
                continue;
            writer.AddTensor($"{stem}.weight.{(fault == "other" ? "lora_c" : "lora_a")}", [2, inputs], a);
            if (fault != "half")
                writer.AddTensor($"{stem}.weight.lora_b", [outputs, rank], Values(outputs * rank));
        }
        string path = Path.Combine(_folder, $"{fault ?? "good"}.gguf");
        writer.Write(path);
        return path;

        float[] Values(int n) => [.. Enumerable.Range(0, n).Select(_ => random.NextSingle() - 0.5f)];
    }
}
