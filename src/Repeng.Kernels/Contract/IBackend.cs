namespace Repeng.Kernels;

/// <summary>
/// The op contract: every op of the engine, forward and backward, over memory that it does not own.
/// <list type="bullet">
/// <item>All matrices are row-major and contiguous unless an argument says otherwise. Sizes are elements.</item>
/// <item>Activations and gradients are fp32. Weights may be fp32, fp16, bf16 or packed (quantised) where stated.</item>
/// <item>Forward ops overwrite their outputs. Backward ops ADD to the gradients they produce (names that
/// start with d), so that several uses of a tensor sum up; an empty gradient view is skipped. Those that take accumulate overwrite them without it.</item>
/// <item>Ops allocate nothing, keep nothing, and give the same bits at any thread count.</item>
/// <item>Operands never overlap unless the op says "in place".</item>
/// </list>
/// </summary>
public partial interface IBackend : IDisposable
{
    /// <summary>Short name for messages, such as <c>cpu</c>.</summary>
    string Name { get; }

    /// <summary>Whether ops compute nothing, so that sizes alone matter: weights need not be read and read as zeros.</summary>
    bool IsDry => false;

    /// <summary>Whether ops read host memory, so that mapped files and packed codes are operands where they lie.</summary>
    bool ReadsHostMemory => false;

    /// <summary>Allocates zeroed memory, aligned to 64 bytes or more.</summary>
    nint Allocate(long bytes);

    /// <summary>Frees what <see cref="Allocate"/> gave.</summary>
    void Free(nint address, long bytes);

    /// <summary>Copies host memory to the device.</summary>
    void Upload(View destination, ReadOnlySpan<byte> source);

    /// <summary>Copies device memory to the host.</summary>
    void Download(Span<byte> destination, View source);

    /// <summary>dst = src, same type and length.</summary>
    void Copy(View dst, View src);

    /// <summary>Every element of an fp32 view becomes <paramref name="value"/>.</summary>
    void Fill(View dst, float value);
}
