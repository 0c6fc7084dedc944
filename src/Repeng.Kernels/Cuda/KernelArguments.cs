using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace Repeng.Kernels.Cuda;

/// <summary>Values for a launch, in the order of the kernel's parameters, on the stack: numbers, pointers (0 for an absent operand), structures.</summary>
public unsafe ref struct KernelArguments
{
    /// <summary>The most parameters of a kernel.</summary>
    public const int Limit = 24;

    private const int Alignment = 16, Capacity = 768;

    private fixed byte _values[Capacity];
    private fixed ushort _offsets[Limit];
    private int _used;

    /// <summary>Number of values so far.</summary>
    public int Count { get; private set; }

    /// <summary>A pointer to the view's memory; 0 for an empty one.</summary>
    [UnscopedRef]
    public ref KernelArguments Add(View view) => ref Add<nint>(view.IsEmpty ? 0 : view.Address);

    /// <summary>A number, a pointer or a structure laid out as in the kernel's source.</summary>
    [UnscopedRef]
    public ref KernelArguments Add<T>(in T value)
        where T : unmanaged
    {
        if (Count == Limit || _used + sizeof(T) > Capacity)
            throw new ArgumentException($"argument {Count} of {sizeof(T)} bytes; there is room for {Limit} arguments and {Capacity} bytes");
        _offsets[Count] = (ushort)_used;
        Unsafe.WriteUnaligned(ref _values[_used], value);
        _used += (sizeof(T) + Alignment - 1) & -Alignment;
        Count++;
        return ref this;
    }

    /// <summary>Writes the address of each value. The structure is on the stack, so they hold while it is in scope.</summary>
    internal void Addresses(void** pointers)
    {
        var values = (byte*)Unsafe.AsPointer(ref _values[0]);
        for (int i = 0; i < Count; i++)
            pointers[i] = values + _offsets[i];
    }
}
