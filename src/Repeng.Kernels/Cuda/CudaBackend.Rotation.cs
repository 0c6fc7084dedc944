using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const string Rotation = "rotation";
    private const int LargestRotation = 512, RotationTile = 32, CayleyShared = 2048, SideShared = 64 * 64 * sizeof(double), LargestSide = 64;

    /// <inheritdoc/>
    public void Skew(View a, View p, int n, int batch, bool accumulate)
    {
        long size = RequireRotation(nameof(Skew), n, batch);
        a.Require(size, DType.F32, nameof(Skew), nameof(a));
        p.Require(size, DType.F32, nameof(Skew), nameof(p));
        if (size == 0)
            return;
        KernelArguments k = default;
        k.Add(a).Add(p).Add(n).Add(accumulate ? 1 : 0);
        Kernel(Rotation, "skew").Launch(new(RotationTiles(n), (uint)batch), new(Threads), 0, ref k);
    }

    /// <inheritdoc/>
    public void CayleyForward(View r, View x, int n, int batch)
    {
        long size = RequireRotation(nameof(CayleyForward), n, batch);
        r.Require(size, DType.F32, nameof(CayleyForward), nameof(r));
        x.Require(size, DType.F32, nameof(CayleyForward), nameof(x));
        if (size == 0)
            return;
        // Columns are an odd number of doubles apart; what the kernel itself declares comes out of the same memory.
        int shared = sizeof(double) * (n + 1) * (n | 1);
        bool fits = shared + CayleyShared <= Context.Device.SharedBytesPerBlock;
        if (!fits)
            shared = 2 * sizeof(double) * (n | 1) * (n <= 176 ? 32 : n <= 352 ? 16 : 8);
        (nint status, nint work) = Room(batch, fits ? 0 : sizeof(double) * size);
        KernelArguments k = default;
        k.Add(r).Add(x);
        if (!fits)
            k.Add(work);
        k.Add(status).Add(n);
        Kernel(Rotation, fits ? "cayley_forward_shared" : "cayley_forward_global").Launch(new((uint)batch), new(Threads), shared, ref k);
        CheckStatus(nameof(CayleyForward), status, n, batch, "I - x is singular or not finite; was x skew-symmetric?");
    }

    /// <inheritdoc/>
    public void CayleyBackward(View dx, View dr, View r, int n, int batch)
    {
        if (dx.IsEmpty)
            return;
        const string Op = nameof(CayleyBackward);
        long size = RequireRotation(Op, n, batch);
        dx.Require(size, DType.F32, Op, nameof(dx));
        dr.Require(size, DType.F32, Op, nameof(dr));
        r.Require(size, DType.F32, Op, nameof(r));
        if (size == 0)
            return;
        nint work = Scratch(sizeof(double) * size);
        KernelArguments first = default, second = default;
        first.Add(work).Add(dr).Add(r).Add(n);
        Kernel(Rotation, "cayley_backward_first").Launch(new(RotationTiles(n), (uint)batch), new(Threads), 0, ref first);
        second.Add(dx).Add(work).Add(r).Add(n);
        Kernel(Rotation, "cayley_backward_second").Launch(new(RotationTiles(n), (uint)batch), new(Threads), 0, ref second);
    }

    /// <inheritdoc/>
    public void MatrixExpForward(View r, View x, int n, int batch)
    {
        const string Op = nameof(MatrixExpForward);
        long size = RequireRotation(Op, n, batch);
        r.Require(size, DType.F32, Op, nameof(r));
        x.Require(size, DType.F32, Op, nameof(x));
        if (size == 0)
            return;
        bool side = n <= LargestSide;
        (nint status, nint work) = Room(batch, (side ? 4L : 6L) * sizeof(double) * size);
        KernelArguments k = default;
        k.Add(r).Add(x).Add(work).Add(status).Add(n);
        Kernel(Rotation, side ? "matrix_exp_forward_side" : "matrix_exp_forward").Launch(new((uint)batch), new(Threads), side ? 2 * SideShared : 0, ref k);
        CheckStatus(Op, status, n, batch, "x has an element that is infinite or not a number");
    }

    /// <inheritdoc/>
    public void MatrixExpBackward(View dx, View dr, View x, int n, int batch)
    {
        if (dx.IsEmpty)
            return;
        const string Op = nameof(MatrixExpBackward);
        long size = RequireRotation(Op, n, batch);
        dx.Require(size, DType.F32, Op, nameof(dx));
        dr.Require(size, DType.F32, Op, nameof(dr));
        x.Require(size, DType.F32, Op, nameof(x));
        if (size == 0)
            return;
        // Four matrices in shared memory: 128 KiB and what the kernel itself declares.
        bool side = n <= LargestSide && (4 * SideShared) + 1024 <= Context.Device.SharedBytesPerBlock;
        (nint status, nint work) = Room(batch, (side ? 8L : 12L) * sizeof(double) * size);
        KernelArguments k = default;
        k.Add(dx).Add(dr).Add(x).Add(work).Add(status).Add(n);
        Kernel(Rotation, side ? "matrix_exp_backward_side" : "matrix_exp_backward").Launch(new((uint)batch), new(Threads), side ? 4 * SideShared : 0, ref k);
        CheckStatus(Op, status, n, batch, "x or dr has an element that is infinite or not a number");
    }

    private static uint RotationTiles(int n)
    {
        uint side = Blocks(n, RotationTile);
        return side * side;
    }

    // A status a matrix, and doubles behind it.
    private (nint Status, nint Work) Room(int batch, long bytes)
    {
        long head = (sizeof(int) * (long)batch + 255) & ~255L;
        nint room = Scratch(head + bytes);
        return (room, room + (nint)head);
    }

    // Waits: a rotation of nothing must not go on into the weights.
    private void CheckStatus(string op, nint status, int n, int batch, string what)
    {
        var host = new int[batch];
        Context.Download(MemoryMarshal.AsBytes(host.AsSpan()), status);
        int bad = Array.FindIndex(host, s => s != 0);
        if (bad >= 0)
            throw new ArithmeticException($"{op}: matrix {bad} of {batch} (n = {n}): {what}");
    }

    private static long RequireRotation(string op, int n, int batch)
    {
        if (n is < 1 or > LargestRotation)
            throw new ArgumentOutOfRangeException(nameof(n), n, $"{op}: matrices of n = {n}; 1 … {LargestRotation} are supported");
        if (batch is < 0 or > GridY)
            throw new ArgumentOutOfRangeException(nameof(batch), batch, $"{op}: {batch} matrices; 0 … {GridY} are supported");
        return (long)n * n * batch;
    }
}
