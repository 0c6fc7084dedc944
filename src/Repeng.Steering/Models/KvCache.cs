using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Models;

/// <summary>Keys and values of the tokens seen so far: per layer [batch, capacity, kv heads · head size], owned.</summary>
public sealed class KvCache : IDisposable
{
    private readonly Tensor[] _keys;
    private readonly Tensor[] _values;

    /// <summary>Memory for capacity tokens of each of batch sequences.</summary>
    public KvCache(Device device, ModelConfig config, int batch, int capacity, int[] starts)
    {
        (Batch, Capacity, Starts) = (batch, capacity, starts);
        int width = config.NumKvHeads * config.HeadDim;
        _keys = [.. Enumerable.Range(0, config.NumLayers).Select(_ => new Tensor(device, DType.F32, batch, capacity, width))];
        _values = [.. Enumerable.Range(0, config.NumLayers).Select(_ => new Tensor(device, DType.F32, batch, capacity, width))];
    }

    /// <summary>Sequences.</summary>
    public int Batch { get; }

    /// <summary>Tokens a sequence can hold.</summary>
    public int Capacity { get; }

    /// <summary>Tokens held so far, padding included.</summary>
    public int Length { get; private set; }

    /// <summary>First real token of each sequence.</summary>
    public int[] Starts { get; }

    /// <summary>Keys of a layer.</summary>
    public Tensor Keys(int layer) => _keys[layer];

    /// <summary>Values of a layer.</summary>
    public Tensor Values(int layer) => _values[layer];

    /// <summary>Writes the keys and values of length new tokens (each [batch · length, width]) behind those of a layer.</summary>
    public void Append(int layer, Tensor keys, Tensor values, int length)
    {
        if (Length + length > Capacity)
            throw new InvalidOperationException($"{Length} + {length} tokens in a cache of {Capacity}");
        int width = keys.Cols;
        IBackend backend = keys.Device.Backend;
        for (int b = 0; b < Batch; b++)
        {
            long to = ((long)b * Capacity + Length) * width, from = (long)b * length * width, count = (long)length * width;
            backend.Copy(_keys[layer].Data.Slice(to, count), keys.Data.Slice(from, count));
            backend.Copy(_values[layer].Data.Slice(to, count), values.Data.Slice(from, count));
        }
    }

    /// <summary>Writes the keys and values of one new token a sequence (each [batch, width]) behind as many of a layer as length (I32 [1]) says on the device.</summary>
    internal void Append(int layer, Tensor keys, Tensor values, Tensor length) =>
        ((IRecording)keys.Device.Backend).AppendToCache(_keys[layer].Data, _values[layer].Data, keys.Data, values.Data, length.Data, Batch, Capacity, keys.Cols);

    /// <summary>Counts tokens that every layer has appended.</summary>
    public void Advance(int length) => Length += length;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in _keys.Concat(_values))
            t.Dispose();
    }
}
