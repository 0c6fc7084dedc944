using TorchSharp;

namespace Repeng.Bench.Kernels;

/// <summary>One row of the kernel benchmarks: an op of the CPU backend in one size, the least that it must do, and the peer's way to the same numbers.</summary>
/// <param name="Name">Op and sizes; the row's name on the board.</param>
/// <param name="Flops">Floating-point operations that the mathematics needs.</param>
/// <param name="Bytes">Bytes that must be read or written at least once.</param>
/// <param name="Prepare">Makes operands and what is timed.</param>
internal sealed record KernelCase(string Name, double Flops, double Bytes, Func<Operands, KernelRun> Prepare)
{
    /// <summary>Whether libtorch has the same mathematics.</summary>
    public bool HasPeer { get; init; } = true;

    /// <summary>How far results may differ from the peer's, over the largest of these: the bounds that the tests of the op have.</summary>
    public double Tolerance { get; init; } = 1e-4;

    /// <summary>Takes seconds: run once, without warming up.</summary>
    public bool Once { get; init; }

    /// <inheritdoc/>
    public override string ToString() => Name;
}

/// <summary>What is timed in one row, over operands that are there.</summary>
/// <param name="Ours">One call.</param>
/// <param name="Peer">The same by libtorch, whose results it gives: [rows, columns] or any shape with the elements of <see cref="Results"/> in order. Temporaries belong to the caller's scope.</param>
internal sealed record KernelRun(Action Ours, Func<torch.Tensor[]>? Peer = null)
{
    /// <summary>What <see cref="Ours"/> writes (or adds to zeros), in the order of the peer's results.</summary>
    public Repeng.Kernels.View[] Results { get; init; } = [];
}
