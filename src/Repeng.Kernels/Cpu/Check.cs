using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cpu;

/// <summary>Checks of sizes and index values; the messages name the op, the operand and the numbers.</summary>
internal static unsafe class Check
{
    /// <summary>Throws for a negative size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Size(long value, string op, string name)
    {
        if (value < 0)
            ThrowSize(value, op, name);
    }

    /// <summary>Throws where one of the first count values does not lie in [0, limit).</summary>
    public static void Indices(int* values, int count, long limit, string op, string operand)
    {
        for (int i = 0; i < count; i++)
            if ((uint)values[i] >= limit)
                ThrowIndex(values[i], i, limit, op, operand);
    }

    [DoesNotReturn]
    private static void ThrowSize(long value, string op, string name) => throw new ArgumentException($"{op}: {name} is {value}, it cannot be negative");

    [DoesNotReturn]
    private static void ThrowIndex(int value, int at, long limit, string op, string operand) =>
        throw new ArgumentException($"{op}: {operand}[{at}] is {value}, valid are 0 … {limit - 1}");

    /// <summary>The exception for an op that a kernel does not have.</summary>
    public static ArgumentException Unknown<T>(T value, string op) where T : struct, Enum => new($"{op}: {typeof(T).Name} {value} is not supported here");
}
