namespace Repeng.Steering.Adapters.Peft;

/// <summary>
/// MT19937 (Matsumoto and Nishimura 1998), the generator of torch on a CPU, for files that hold a seed in the place of values.
/// Nothing of our own draws from it.
/// </summary>
public sealed class MersenneTwister
{
    private const int Size = 624, Shift = 397;
    private readonly uint[] _state = new uint[Size];
    private int _next = Size;

    /// <summary>The generator of a seed; as torch does, its lower 32 bits.</summary>
    public MersenneTwister(long seed)
    {
        _state[0] = (uint)seed;
        for (int i = 1; i < Size; i++)
            _state[i] = 1812433253u * (_state[i - 1] ^ _state[i - 1] >> 30) + (uint)i;
    }

    /// <summary>The next 32 bits.</summary>
    public uint Next()
    {
        if (_next == Size)
            Refill();
        uint y = _state[_next++];
        y ^= y >> 11;
        y ^= y << 7 & 0x9D2C5680u;
        y ^= y << 15 & 0xEFC60000u;
        return y ^ y >> 18;
    }

    /// <summary>
    /// A matrix drawn as torch's kaiming_uniform_ with a = 0 does: uniform in ±√(6 / columns), 24 bits a value, scaled in one
    /// rounding.
    /// </summary>
    public float[] KaimingUniform(int rows, int columns)
    {
        double bound = Math.Sqrt(3) * (Math.Sqrt(2) / Math.Sqrt(columns));
        var values = new float[checked(rows * columns)];
        for (int i = 0; i < values.Length; i++)
            values[i] = MathF.FusedMultiplyAdd((Next() & 0xFFFFFF) * (1f / (1 << 24)), (float)(2 * bound), (float)-bound);
        return values;
    }

    private void Refill()
    {
        for (int i = 0; i < Size; i++)
        {
            uint y = _state[i] & 0x80000000u | _state[(i + 1) % Size] & 0x7FFFFFFFu;
            _state[i] = _state[(i + Shift) % Size] ^ y >> 1 ^ ((y & 1) == 0 ? 0 : 0x9908B0DFu);
        }
        _next = 0;
    }
}
