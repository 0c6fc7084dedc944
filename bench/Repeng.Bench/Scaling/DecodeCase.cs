using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Bench.Scaling;

/// <summary>Tokens of one sequence decoded at the end of a context. The cache is filled with a constant: what it holds changes no time, and a prompt of 8,192 tokens would take minutes.</summary>
internal sealed class DecodeCase : IDisposable
{
    private readonly DecoderModel _model;
    private readonly KvCache _cache;
    private readonly int[] _ids;
    private int _next;

    /// <summary>The last of so many tokens sees so many tokens, itself included.</summary>
    public DecodeCase(DecoderModel model, int context, int tokens)
    {
        _model = model;
        _cache = new KvCache(model.Device, model.Config, 1, context, [0]);
        for (int layer = 0; layer < model.Config.NumLayers; layer++)
        {
            model.Device.Backend.Fill(_cache.Keys(layer).Data, 0.01f);
            model.Device.Backend.Fill(_cache.Values(layer).Data, 0.01f);
        }
        _cache.Advance(context - tokens);
        _ids = StepCase.Tokens(model.Config, tokens);
    }

    public void Run()
    {
        using var tape = new Tape(_model.Device, record: false);
        Tensor hidden = _model.Forward(new ForwardContext(tape, new TokenBatch(1, 1, [_ids[_next++]], [0]), _cache));
        _model.Logits(tape, hidden).ToArray();
    }

    public void Dispose() => _cache.Dispose();
}
