using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Bench.Packed;

/// <summary>The random weights of the training benchmark, rounded to bf16.</summary>
internal sealed unsafe class BFloat16Weights(ModelConfig config) : ITensorSource
{
    private readonly ModelInitialiser _inner = new(config, seed: 1);

    public string Description => _inner.Description;

    public IReadOnlyList<string> Names => _inner.Names;

    public bool TryGetInfo(string name, out TensorInfo info)
    {
        bool found = _inner.TryGetInfo(name, out info);
        info = info with { Type = "BF16", Bytes = 2 * info.Elements };
        return found;
    }

    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        _inner.ReadF32(name, firstRow, rows, destination);
        for (long i = 0; i < rows * _inner.Info(name).RowLength; i++)
            destination[i] = BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(destination[i]) & 0xFFFF0000);
    }

    // In pieces: a matrix of the vocabulary in fp32 would be the largest thing that a bench of memory holds.
    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        long width = _inner.Info(name).RowLength, most = Math.Max(1, (1 << 20) / width);
        var values = new float[Math.Min(rows, most) * width];
        fixed (float* p = values)
            for (long row = 0; row < rows; row += most)
            {
                long count = Math.Min(most, rows - row);
                _inner.ReadF32(name, firstRow + row, count, p);
                for (long i = 0; i < count * width; i++)
                    ((ushort*)destination)[row * width + i] = (ushort)(BitConverter.SingleToUInt32Bits(p[i]) >> 16);
            }
    }

    public bool TryMap(string name, out MappedBytes bytes)
    {
        bytes = default;
        return false;
    }

    public void Dispose() => _inner.Dispose();
}
