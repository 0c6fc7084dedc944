using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Repeng.Kernels.Quantised;

/// <summary>
/// bitsandbytes' 4-bit code books and how values are brought to them, bit for bit. NF4: Dettmers et al., QLoRA (2023),
/// appendix E; FP4: a sign, two bits of exponent, one of mantissa, over 12.
/// </summary>
public sealed unsafe class FourBitCode
{
    /// <summary>Values that share a scale where nothing else is asked for.</summary>
    public const int DefaultBlockSize = 64;

    /// <summary>Scales that share a scale with double quantisation.</summary>
    public const int NestedBlockSize = 256;

    // What bitsandbytes takes; the smallest keeps a block in whole bytes.
    private const int LeastBlockSize = 32, MostBlockSize = 4096;

    private readonly float[] _values, _midpoints;
    private readonly byte[] _ascending;

    private FourBitCode(string name, float[] values)
    {
        (Name, _values) = (name, values);
        // Codes in the order of their values; FP4 has two zeros, of which the first is written.
        _ascending = [.. Enumerable.Range(0, 16).Where(i => Array.IndexOf(values, values[i]) == i).OrderBy(i => values[i]).Select(i => (byte)i)];
        _midpoints = [.. Enumerable.Range(0, _ascending.Length - 1).Select(i => (values[_ascending[i]] + values[_ascending[i + 1]]) / 2)];
    }

    /// <summary>The quantiles of a normal distribution.</summary>
    public static FourBitCode Nf4 { get; } = new("NF4",
    [
        -1, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0,
        0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1,
    ]);

    /// <summary>Floating point of 4 bits.</summary>
    public static FourBitCode Fp4 { get; } = new("FP4",
    [
        0, 0.0625f / 12, 8f / 12, 12f / 12, 4f / 12, 6f / 12, 2f / 12, 3f / 12,
        0, -0.0625f / 12, -8f / 12, -12f / 12, -4f / 12, -6f / 12, -2f / 12, -3f / 12,
    ]);

    /// <summary>NF4 or FP4.</summary>
    public string Name { get; }

    /// <summary>Value of each code.</summary>
    public ReadOnlySpan<float> Values => _values;

    /// <summary>A code of this name with the 16 values of a file, which versions of the library round differently.</summary>
    public FourBitCode With(ReadOnlySpan<float> values) => values.Length == 16 ? new FourBitCode(Name, values.ToArray()) : throw new ArgumentException($"{values.Length} values, a code has 16");

    /// <summary>The code of this name (nf4 or fp4, in any case), or null.</summary>
    public static FourBitCode? Find(string name) => name.ToUpperInvariant() switch { "NF4" => Nf4, "FP4" => Fp4, _ => null };

    /// <summary>Whether a block may have this size: a power of two from 32 to 4096.</summary>
    public static bool IsBlockSize(long size) => size is >= LeastBlockSize and <= MostBlockSize && (size & (size - 1)) == 0;

    internal static void CheckBlockSize(int size)
    {
        if (!IsBlockSize(size))
            throw new ArgumentException($"block size {size}: a power of two from {LeastBlockSize} to {MostBlockSize} is needed");
    }

    /// <summary>
    /// Packs values, on all cores: absmax[j] = the largest magnitude of block j, code = the nearest to x·(1/absmax), of two
    /// equally near the lower. The even element of a byte is in the high nibble; behind an odd count stands the code of zero.
    /// </summary>
    /// <param name="source">count values.</param>
    /// <param name="count">Number of values.</param>
    /// <param name="blockSize">A power of two from 32 to 4096.</param>
    /// <param name="packed">(count + 1) / 2 bytes.</param>
    /// <param name="absmax">One a block.</param>
    /// <exception cref="UserErrorException">A value is not finite.</exception>
    public void Quantise(float* source, long count, int blockSize, byte* packed, float* absmax)
    {
        CheckBlockSize(blockSize);
        long blocks = (count + blockSize - 1) / blockSize, each = Math.Max(1, 65536 / blockSize);
        long bad = long.MaxValue;
        Parallel.For(0, (blocks + each - 1) / each, part =>
        {
            for (long block = part * each; block < Math.Min(blocks, (part + 1) * each); block++)
            {
                long at = block * blockSize;
                int n = (int)Math.Min(blockSize, count - at);
                if (!TryBlock(source + at, n, n == blockSize, packed + at / 2, out absmax[block]))
                    InterlockedMin(ref bad, at + FirstNotFinite(source + at, n));
            }
        });
        if (bad != long.MaxValue)
            throw new UserErrorException($"value {bad} of {count} is {source[bad]}: only finite values can be quantised; the weight is damaged");
    }

    /// <summary>
    /// Double quantisation of the scales: offset = their mean, and absmax − offset in blocks of 256 by the nearest of
    /// <see cref="DynamicCode"/>.
    /// </summary>
    /// <param name="absmax">Scales.</param>
    /// <param name="codes">A byte a scale.</param>
    /// <param name="nested">One for each 256 scales.</param>
    /// <returns>The offset.</returns>
    public static float QuantiseScales(ReadOnlySpan<float> absmax, Span<byte> codes, Span<float> nested)
    {
        double sum = 0;
        foreach (float a in absmax)
            sum += a;
        float offset = absmax.Length == 0 ? 0 : (float)(sum / absmax.Length);
        QuantiseScales(absmax, offset, codes, nested);
        return offset;
    }

    /// <summary>The same with a given offset.</summary>
    public static void QuantiseScales(ReadOnlySpan<float> absmax, float offset, Span<byte> codes, Span<float> nested)
    {
        ReadOnlySpan<float> values = DynamicCode;
        for (int block = 0; block * NestedBlockSize < absmax.Length; block++)
        {
            int at = block * NestedBlockSize, n = Math.Min(NestedBlockSize, absmax.Length - at);
            float largest = 0;
            for (int i = 0; i < n; i++)
                largest = MathF.Max(largest, MathF.Abs(absmax[at + i] - offset));
            nested[block] = largest;
            float divisor = MathF.Max(largest, LeastScale), inverse = 1 / divisor;
            for (int i = 0; i < n; i++)
            {
                float d = absmax[at + i] - offset;
                float s = Math.Clamp(n == NestedBlockSize ? d * inverse : d / divisor, -1, 1);
                // The first midpoint that is not below s.
                int low = 0, high = values.Length - 1;
                while (low < high)
                {
                    int middle = (low + high) / 2;
                    if (s > (values[middle] + values[middle + 1]) / 2)
                        low = middle + 1;
                    else
                        high = middle;
                }
                codes[at + i] = (byte)low;
            }
        }
    }

    /// <summary>
    /// bitsandbytes' signed 8-bit dynamic map, 256 ascending values: for i = 0 … 6 the means of neighbours of 2ⁱ + 1 numbers
    /// from 0.1 to 1, times 10^(i − 6), with both signs; 0 and 1. In fp32 with the operations of torch.linspace.
    /// </summary>
    public static ReadOnlySpan<float> DynamicCode => s_dynamic;

    private const float LeastScale = 1e-38f;

    private static readonly float[] s_dynamic = MakeDynamicCode();

    private static float[] MakeDynamicCode()
    {
        var values = new List<float> { 0, 1 };
        for (int i = 0; i < 7; i++)
        {
            int items = (1 << i) + 1;
            float step = (1f - 0.1f) / (items - 1), power = (float)Math.Pow(10, i - 6);
            float At(int k) => k < items / 2 ? MathF.FusedMultiplyAdd(step, k, 0.1f) : MathF.FusedMultiplyAdd(-step, items - 1 - k, 1f);
            for (int k = 0; k < items - 1; k++)
            {
                float mean = (At(k) + At(k + 1)) / 2 * power;
                values.Add(mean);
                values.Add(-mean);
            }
        }
        values.Sort();
        return [.. values];
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization), SkipLocalsInit]
    private bool TryBlock(float* x, int n, bool whole, byte* packed, out float absmax)
    {
        float largest = 0;
        bool finite = true;
        for (int i = 0; i < n; i++)
        {
            float magnitude = MathF.Abs(x[i]);
            finite &= magnitude <= float.MaxValue;
            largest = magnitude > largest ? magnitude : largest;
        }
        // The library's own code for a short last block divides, and raises the scale that it stores.
        float divisor = MathF.Max(largest, LeastScale), inverse = 1 / divisor;
        absmax = whole ? largest : divisor;
        byte* codes = stackalloc byte[MostBlockSize];
        int k = 0;
        for (; k <= n - 8; k += 8)
        {
            Vector256<float> v = Vector256.Load(x + k);
            v = whole ? v * Vector256.Create(inverse) : v / Vector256.Create(divisor);
            // A comparison that holds is −1. What lies outside of ±1 is beyond the last midpoint anyway.
            Vector256<int> above = Vector256<int>.Zero;
            foreach (float midpoint in _midpoints)
                above -= Vector256.GreaterThan(v, Vector256.Create(midpoint)).AsInt32();
            for (int lane = 0; lane < 8; lane++)
                codes[k + lane] = _ascending[above.GetElement(lane)];
        }
        for (; k < n; k++)
        {
            float s = whole ? x[k] * inverse : x[k] / divisor;
            int above = 0;
            foreach (float midpoint in _midpoints)
                above += s > midpoint ? 1 : 0;
            codes[k] = _ascending[above];
        }
        if ((n & 1) != 0)
            codes[n] = (byte)Array.IndexOf(_values, 0f);
        for (int i = 0; i < n; i += 2)
            packed[i / 2] = (byte)(codes[i] << 4 | codes[i + 1]);
        return finite;
    }

    private static int FirstNotFinite(float* x, int n)
    {
        int i = 0;
        while (i < n - 1 && float.IsFinite(x[i]))
            i++;
        return i;
    }

    private static void InterlockedMin(ref long target, long value)
    {
        long seen = Volatile.Read(ref target);
        while (value < seen)
            seen = Interlocked.CompareExchange(ref target, value, seen) is var now && now == seen ? value : now;
    }
}
