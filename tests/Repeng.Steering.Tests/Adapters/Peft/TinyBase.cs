using System.Text.Json.Nodes;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Steering.Tests.Adapters.Peft;

/// <summary>A small random model with biases, for tests that need no golden data.</summary>
internal sealed class TinyBase : IDisposable
{
    public TinyBase(int hidden = 16, ulong seed = 5)
    {
        Device = Device.Cpu(2);
        var json = (JsonObject)JsonNode.Parse($$"""
            { "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": {{hidden}}, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 3,
              "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false }
            """)!;
        using var weights = new ModelInitialiser(Families.Read(new ConfigReader(json, "tiny")), seed, 0.3);
        Model = ModelLoader.Load(Device, Families.Read(new ConfigReader(json, "tiny")), weights);
        foreach (LinearModule l in Model.Linears.Values.Where(l => l.Bias is not null))
            l.Bias!.Upload([.. Enumerable.Range(0, l.Outputs).Select(i => 0.3f * MathF.Sin(i + l.Inputs))]);
        Tokens = TokenBatch.Pad([[3, 7, 11, 2, 19, 30], [5, 9, 1]], 0);
    }

    public Device Device { get; }

    public DecoderModel Model { get; }

    public TokenBatch Tokens { get; }

    public void Dispose()
    {
        Model.Dispose();
        Device.Dispose();
    }
}
