using Repeng.Bench.Training;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Bench.Packed;

/// <summary>The random weights of the training benchmark, rounded to bf16.</summary>
internal sealed unsafe class BFloat16Weights : ITensorSource
{
    private readonly ModelInitialiser _inner = new(TrainCase.SmolShape(), seed: 1);

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

    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        var values = new float[rows * _inner.Info(name).RowLength];
        fixed (float* p = values)
            _inner.ReadF32(name, firstRow, rows, p);
        for (int i = 0; i < values.Length; i++)
            ((ushort*)destination)[i] = (ushort)(BitConverter.SingleToUInt32Bits(values[i]) >> 16);
    }

    public bool TryMap(string name, out MappedBytes bytes)
    {
        bytes = default;
        return false;
    }

    public void Dispose() => _inner.Dispose();
}
