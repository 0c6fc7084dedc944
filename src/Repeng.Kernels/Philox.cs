using System.Runtime.CompilerServices;

namespace Repeng.Kernels;

/// <summary>
/// Philox4x32-10, the counter-based random generator of Salmon, Moraes, Dror and Shaw,
/// "Parallel random numbers: as easy as 1, 2, 3" (SC'11). A draw is a pure function of
/// (seed, stream, index), so results depend neither on the order of the draws nor on the number
/// of threads, and a resumed run draws what an unbroken one would have drawn.
/// </summary>
/// <remarks>
/// The key is the seed (low word first); the 128-bit counter is (index, stream), each low word first.
/// Element-wise draws (<see cref="Uniform(ulong, ulong, ulong)"/>, <see cref="Normal(ulong, ulong, ulong)"/>)
/// take word <c>index % 4</c> of block <c>index / 4</c>; <see cref="Bounded"/> takes the whole block
/// <c>index</c>. Give every purpose a stream of its own.
/// </remarks>
public static class Philox
{
    private const uint Multiplier0 = 0xD2511F53, Multiplier1 = 0xCD9E8D57;
    private const uint Weyl0 = 0x9E3779B9, Weyl1 = 0xBB67AE85;
    private const int Rounds = 10;

    /// <summary>The ten rounds on an explicit counter (c0…c3) and key (k0, k1): the raw bijection.</summary>
    public static (uint X0, uint X1, uint X2, uint X3) Block(uint c0, uint c1, uint c2, uint c3, uint k0, uint k1)
    {
        for (int round = 0; round < Rounds; round++)
        {
            ulong product0 = (ulong)Multiplier0 * c0;
            ulong product1 = (ulong)Multiplier1 * c2;
            uint next0 = (uint)(product1 >> 32) ^ c1 ^ k0;
            uint next2 = (uint)(product0 >> 32) ^ c3 ^ k1;
            (c0, c1, c2, c3) = (next0, (uint)product1, next2, (uint)product0);
            k0 += Weyl0;
            k1 += Weyl1;
        }

        return (c0, c1, c2, c3);
    }

    /// <summary>Four random words of block <paramref name="block"/> in stream <paramref name="stream"/>.</summary>
    public static (uint X0, uint X1, uint X2, uint X3) Block(ulong seed, ulong stream, ulong block) =>
        Block((uint)block, (uint)(block >> 32), (uint)stream, (uint)(stream >> 32), (uint)seed, (uint)(seed >> 32));

    /// <summary>Random word number <paramref name="index"/> of a stream.</summary>
    public static uint UInt32(ulong seed, ulong stream, ulong index) =>
        Lane(Block(seed, stream, index >> 2), (int)(index & 3));

    /// <summary>Uniform in [0, 1) on the grid of 2⁻²⁴, so that 1 is never reached by rounding.</summary>
    public static float Uniform(ulong seed, ulong stream, ulong index) => ToUnit(UInt32(seed, stream, index));

    /// <summary>
    /// Standard normal by Box and Muller: draws 4k and 4k+1 share the words 0 and 1 of block k,
    /// draws 4k+2 and 4k+3 the words 2 and 3. Computed in double precision, rounded once.
    /// </summary>
    public static float Normal(ulong seed, ulong stream, ulong index)
    {
        var block = Block(seed, stream, index >> 2);
        bool upper = (index & 2) != 0;
        var (even, odd) = BoxMuller(upper ? block.X2 : block.X0, upper ? block.X3 : block.X1);
        return (index & 1) == 0 ? even : odd;
    }

    /// <summary>
    /// Uniform integer in [0, <paramref name="bound"/>) without modulo bias (Lemire's multiply and reject,
    /// "Fast random integer generation in an interval", 2019). A block gives four tries.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The bound is zero.</exception>
    public static uint Bounded(ulong seed, ulong stream, ulong index, uint bound)
    {
        ArgumentOutOfRangeException.ThrowIfZero(bound);
        uint threshold = (0u - bound) % bound;
        // A stream of its own for each further block of tries; the step is odd, so none is met twice.
        for (ulong tryStream = stream; ; tryStream += 0x9E3779B97F4A7C15)
        {
            var block = Block(seed, tryStream, index);
            for (int lane = 0; lane < 4; lane++)
            {
                ulong product = (ulong)Lane(block, lane) * bound;
                if ((uint)product >= threshold)
                    return (uint)(product >> 32);
            }
        }
    }

    /// <summary>Fills with draws <paramref name="start"/>, start + 1, … of <see cref="Uniform(ulong, ulong, ulong)"/>.</summary>
    public static void FillUniform(Span<float> values, ulong seed, ulong stream, ulong start = 0)
    {
        for (int i = 0; i < values.Length;)
        {
            ulong index = start + (ulong)i;
            var block = Block(seed, stream, index >> 2);
            for (int lane = (int)(index & 3); lane < 4 && i < values.Length; lane++, i++)
                values[i] = ToUnit(Lane(block, lane));
        }
    }

    /// <summary>Fills with draws <paramref name="start"/>, start + 1, … of <see cref="Normal(ulong, ulong, ulong)"/>.</summary>
    public static void FillNormal(Span<float> values, ulong seed, ulong stream, ulong start = 0)
    {
        Span<float> four = stackalloc float[4];
        for (int i = 0; i < values.Length;)
        {
            ulong index = start + (ulong)i;
            var block = Block(seed, stream, index >> 2);
            (four[0], four[1]) = BoxMuller(block.X0, block.X1);
            (four[2], four[3]) = BoxMuller(block.X2, block.X3);
            for (int lane = (int)(index & 3); lane < 4 && i < values.Length; lane++, i++)
                values[i] = four[lane];
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static float ToUnit(uint word) => (word >> 8) * (1f / (1 << 24));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static uint Lane((uint X0, uint X1, uint X2, uint X3) block, int lane) => lane switch
    {
        0 => block.X0,
        1 => block.X1,
        2 => block.X2,
        _ => block.X3,
    };

    private static (float Even, float Odd) BoxMuller(uint word0, uint word1)
    {
        // (word + 1)·2⁻³² lies in (0, 1], so the logarithm is finite.
        double radius = Math.Sqrt(-2.0 * Math.Log((word0 + 1.0) * (1.0 / 4294967296.0)));
        var (sine, cosine) = Math.SinCos(2.0 * Math.PI * (word1 * (1.0 / 4294967296.0)));
        return ((float)(radius * cosine), (float)(radius * sine));
    }
}

/// <summary>
/// Draws one after the other from a single Philox stream. The state is (seed, stream, position):
/// store <see cref="Position"/> to resume. Not safe for use by several threads at once.
/// </summary>
/// <param name="seed">The key.</param>
/// <param name="stream">The upper half of the counter.</param>
/// <param name="position">Number of the first word to draw.</param>
public sealed class PhiloxSequence(ulong seed, ulong stream, ulong position = 0)
{
    private (uint X0, uint X1, uint X2, uint X3) _block;
    private ulong _blockNumber = ulong.MaxValue;

    /// <summary>Number of words drawn so far, plus the start.</summary>
    public ulong Position { get; private set; } = position;

    /// <summary>The next random word.</summary>
    public uint NextUInt32()
    {
        ulong number = Position >> 2;
        if (number != _blockNumber)
        {
            _block = Philox.Block(seed, stream, number);
            _blockNumber = number;
        }

        return Philox.Lane(_block, (int)(Position++ & 3));
    }

    /// <summary>Uniform in [0, 1).</summary>
    public float NextUniform() => Philox.ToUnit(NextUInt32());

    /// <summary>Uniform integer in [0, <paramref name="bound"/>), without modulo bias.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The bound is not positive.</exception>
    public int NextInt(int bound)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bound);
        uint threshold = (0u - (uint)bound) % (uint)bound;
        ulong product;
        do
            product = (ulong)NextUInt32() * (uint)bound;
        while ((uint)product < threshold);
        return (int)(product >> 32);
    }

    /// <summary>True with the given probability.</summary>
    public bool NextBool(double probability) => NextUniform() < probability;

    /// <summary>One element, each as likely as any other.</summary>
    public T Pick<T>(IReadOnlyList<T> items) => items[NextInt(items.Count)];

    /// <summary>Fisher and Yates: every order is as likely as any other.</summary>
    public void Shuffle<T>(Span<T> items)
    {
        for (int i = items.Length - 1; i > 0; i--)
        {
            int j = NextInt(i + 1);
            (items[i], items[j]) = (items[j], items[i]);
        }
    }
}
