using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Bench.Scaling;

/// <summary>
/// bf16 weights of a shape, uniform with the deviation of <see cref="ModelInitialiser"/>, ones for norms. A value is a hash of its place: a second for
/// a billion, where normal draws would take most of a minute.
/// </summary>
internal sealed unsafe class RandomWeights(ModelConfig config) : ITensorSource
{
    private const float Deviation = 0.02f;

    private readonly ModelInitialiser _names = new(config, seed: 1);

    public string Description => "random weights";

    public IReadOnlyList<string> Names => _names.Names;

    public bool TryGetInfo(string name, out TensorInfo info)
    {
        bool found = _names.TryGetInfo(name, out info);
        info = info with { Type = "BF16", Bytes = 2 * info.Elements };
        return found;
    }

    public void ReadF32(string name, long firstRow, long rows, float* destination)
    {
        TensorInfo info = _names.Info(name);
        if (info.Shape.Length == 1)
        {
            _names.ReadF32(name, firstRow, rows, destination);
            return;
        }
        (ulong at, ulong key) = Place(name, firstRow, info);
        for (long i = 0; i < rows * info.RowLength; i++)
            destination[i] = BitConverter.UInt32BitsToSingle((uint)Draw(key, at + (ulong)i) << 16);
    }

    public void ReadRaw(string name, long firstRow, long rows, byte* destination)
    {
        TensorInfo info = _names.Info(name);
        (ulong at, ulong key) = Place(name, firstRow, info);
        for (long i = 0; i < rows * info.RowLength; i++)
            ((ushort*)destination)[i] = Draw(key, at + (ulong)i);
    }

    public bool TryMap(string name, out MappedBytes bytes)
    {
        bytes = default;
        return false;
    }

    public void Dispose() => _names.Dispose();

    private (ulong At, ulong Key) Place(string name, long firstRow, TensorInfo info)
    {
        ulong key = 0;
        foreach (char c in name)
            key = (key * 31) + c;
        return ((ulong)(firstRow * info.RowLength), key * 0x9E3779B97F4A7C15);
    }

    // splitmix64's finish, then the upper half of a float in ±√3 deviations.
    private static ushort Draw(ulong key, ulong at)
    {
        ulong z = (at * 0x9E3779B97F4A7C15) + key;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
        float unit = ((z ^ (z >> 31)) >> 40) * (2f / (1 << 24)) - 1;
        return (ushort)(BitConverter.SingleToUInt32Bits(unit * 1.7320508f * Deviation) >> 16);
    }
}
