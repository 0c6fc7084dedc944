using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Testing.Cuda;

/// <summary>
/// cuBLASLt on the memory of an injected driver: keeps what it is told, refuses what the library would refuse, multiplies in double, and fails at a call on purpose.
/// </summary>
public sealed unsafe class FakeCublasLt(CudaDriver driver) : CublasLt
{
    private const int InvalidValue = 7, ExecutionFailed = 13;

    private readonly Dictionary<nint, object> _live = [];
    private nint _next = 0x5000;
    private int _calls = -1;

    private sealed class Description
    {
        public CublasCompute Compute;
        public int TransA, TransB;
    }

    private sealed record Layout(CudaDataType Type, long Rows, long Columns, long Leading);

    private sealed class Preference
    {
        // Of A, B, C and D, in bytes.
        public readonly uint[] Alignment = [256, 256, 256, 256];
        public nuint Workspace;
    }

    private sealed record Handle;

    /// <inheritdoc/>
    public override string Name => "libcublasLt.so.12";

    /// <summary>What <see cref="GetVersion"/> says.</summary>
    public nuint Version { get; init; } = 120103;

    /// <summary>Whether shapes have an algorithm.</summary>
    public bool HasAlgorithms { get; init; } = true;

    /// <summary>The call that fails, from 0; −1 for none.</summary>
    public int FailAt { get; set; } = -1;

    /// <summary>How it fails: CUBLAS_STATUS_INTERNAL_ERROR.</summary>
    public int Failure { get; init; } = 14;

    /// <summary>Calls so far.</summary>
    public int Calls => _calls + 1;

    /// <summary>The function that was made to fail.</summary>
    public string? Failed { get; private set; }

    /// <summary>A product as the library is asked for it, column-major: D [Rows, Columns] = (Adds: C +) op(A)·op(B).</summary>
    public readonly record struct LtProduct(CudaDataType Type, CudaDataType Result, long Rows, long Columns, long Depth, bool TransA, bool TransB, bool Adds);

    /// <summary>Addresses and leading dimensions of a product's operands, and the stream.</summary>
    public readonly record struct LtOperands(nint A, nint B, nint C, long LdA, long LdB, long LdC, nint Stream);

    /// <summary>Is told of each product in the place of computing it; null computes.</summary>
    public Action<LtProduct>? Instead { get; init; }

    /// <summary>Queues each product on the stream in the place of computing it at once, so that it can be recorded: operands as the library is given them.</summary>
    public Action<LtProduct, LtOperands>? Queue { get; init; }

    /// <summary>Is told of each product that is computed.</summary>
    public Action<LtProduct>? Computed { get; init; }

    /// <summary>Products so far: the type of the operands of each.</summary>
    public List<CudaDataType> Products { get; } = [];

    /// <summary>Searches for an algorithm.</summary>
    public int Searches { get; private set; }

    /// <summary>Things that were made and not destroyed.</summary>
    public int Live => _live.Count;

    /// <inheritdoc/>
    public override nuint GetVersion() => Version;

    /// <inheritdoc/>
    public override int Create(out nint handle) => Make("cublasLtCreate", new Handle(), out handle);

    /// <inheritdoc/>
    public override int Destroy(nint handle) => Remove<Handle>("cublasLtDestroy", handle);

    /// <inheritdoc/>
    public override int MatmulDescCreate(out nint description, CublasCompute compute, CudaDataType scale)
    {
        description = 0;
        return scale == CudaDataType.R32F ? Make("cublasLtMatmulDescCreate", new Description { Compute = compute }, out description) : InvalidValue;
    }

    /// <inheritdoc/>
    public override int MatmulDescDestroy(nint description) => Remove<Description>("cublasLtMatmulDescDestroy", description);

    /// <inheritdoc/>
    public override int MatmulDescSetAttribute(nint description, CublasLtDesc attribute, void* value, nuint bytes)
    {
        if (Before("cublasLtMatmulDescSetAttribute") is not 0 and var failure)
            return failure;
        if (!Find(description, out Description d) || bytes != sizeof(int) || *(int*)value is not (0 or 1))
            return InvalidValue;
        if (attribute == CublasLtDesc.TransA)
            d.TransA = *(int*)value;
        else
            d.TransB = *(int*)value;
        return 0;
    }

    /// <inheritdoc/>
    public override int MatrixLayoutCreate(out nint layout, CudaDataType type, ulong rows, ulong columns, long leadingDimension)
    {
        layout = 0;
        return leadingDimension >= (long)rows ? Make("cublasLtMatrixLayoutCreate", new Layout(type, (long)rows, (long)columns, leadingDimension), out layout) : InvalidValue;
    }

    /// <inheritdoc/>
    public override int MatrixLayoutDestroy(nint layout) => Remove<Layout>("cublasLtMatrixLayoutDestroy", layout);

    /// <inheritdoc/>
    public override int MatmulPreferenceCreate(out nint preference) => Make("cublasLtMatmulPreferenceCreate", new Preference(), out preference);

    /// <inheritdoc/>
    public override int MatmulPreferenceDestroy(nint preference) => Remove<Preference>("cublasLtMatmulPreferenceDestroy", preference);

    /// <inheritdoc/>
    public override int MatmulPreferenceSetAttribute(nint preference, CublasLtPreference attribute, void* value, nuint bytes)
    {
        if (Before("cublasLtMatmulPreferenceSetAttribute") is not 0 and var failure)
            return failure;
        if (!Find(preference, out Preference p))
            return InvalidValue;
        if (attribute is >= CublasLtPreference.MinAlignmentA and <= CublasLtPreference.MinAlignmentD && bytes == sizeof(uint))
            p.Alignment[attribute - CublasLtPreference.MinAlignmentA] = *(uint*)value;
        else if (attribute == CublasLtPreference.MaxWorkspaceBytes && bytes == (nuint)sizeof(nuint))
            p.Workspace = *(nuint*)value;
        else
            return InvalidValue;
        return 0;
    }

    /// <inheritdoc/>
    public override int MatmulAlgoGetHeuristic(nint handle, nint description, nint layoutA, nint layoutB, nint layoutC, nint layoutD, nint preference, int requested, CublasLtHeuristic* results, out int returned)
    {
        returned = 0;
        if (Before("cublasLtMatmulAlgoGetHeuristic") is not 0 and var failure)
            return failure;
        if (!Find(handle, out Handle _) || !Find(preference, out Preference p) || requested < 1 || Sizes(description, layoutA, layoutB, layoutC, layoutD) is not { } s)
            return InvalidValue;
        Searches++;
        if (!HasAlgorithms)
            return 0;
        returned = 1;
        *results = new CublasLtHeuristic { WorkspaceBytes = p.Workspace / 2 };
        // The algorithm is for this product and no other.
        results->Algorithm.Data[0] = (ulong)s.A.GetHashCode();
        results->Algorithm.Data[7] = (ulong)s.B.GetHashCode();
        // It counts on what it was promised of the addresses.
        for (int i = 0; i < 4; i++)
            results->Algorithm.Data[1 + i] = p.Alignment[i];
        return 0;
    }

    /// <inheritdoc/>
    public override int Matmul(nint handle, nint description, void* alpha, nint a, nint layoutA, nint b, nint layoutB, void* beta, nint c, nint layoutC, nint d, nint layoutD, CublasLtAlgorithm* algorithm, nint workspace, nuint workspaceBytes, nint stream)
    {
        if (Before("cublasLtMatmul") is not 0 and var failure)
            return failure;
        if (!Find(handle, out Handle _) || Sizes(description, layoutA, layoutB, layoutC, layoutD) is not { } s || c != d || stream == 0
            || (ulong)a % algorithm->Data[1] != 0 || (ulong)b % algorithm->Data[2] != 0 || (ulong)c % algorithm->Data[3] != 0 || (ulong)d % algorithm->Data[4] != 0
            || algorithm->Data[0] != (ulong)s.A.GetHashCode() || algorithm->Data[7] != (ulong)s.B.GetHashCode() || (workspace == 0 && workspaceBytes > 0))
            return InvalidValue;
        var product = new LtProduct(s.A.Type, s.C.Type, s.C.Rows, s.C.Columns, s.D.TransA == 0 ? s.A.Columns : s.A.Rows, s.D.TransA != 0, s.D.TransB != 0, *(float*)beta != 0);
        if (Instead is not null)
        {
            Instead(product);
            return 0;
        }
        if (Queue is not null)
        {
            Queue(product, new LtOperands(a, b, c, s.A.Leading, s.B.Leading, s.C.Leading, stream));
            Products.Add(s.A.Type);
            return 0;
        }
        if (Read(a, s.A, stream) is not { } left || Read(b, s.B, stream) is not { } right || Read(c, s.C, stream) is not { } before)
            return ExecutionFailed;
        float scale = *(float*)alpha, keep = *(float*)beta;
        long m = s.C.Rows, n = s.C.Columns, k = s.D.TransA == 0 ? s.A.Columns : s.A.Rows;
        // Old values, and what lies between the columns.
        float[] result = Array.ConvertAll(before, v => (float)v);
        for (long j = 0; j < n; j++)
            for (long i = 0; i < m; i++)
            {
                double sum = 0;
                for (long l = 0; l < k; l++)
                    sum += left[s.D.TransA == 0 ? (l * s.A.Leading) + i : (i * s.A.Leading) + l] * right[s.D.TransB == 0 ? (j * s.B.Leading) + l : (l * s.B.Leading) + j];
                ref float at = ref result[(j * s.C.Leading) + i];
                at = (float)((scale * sum) + (keep == 0 ? 0 : keep * at));
            }
        // Nearest even, as the library rounds.
        byte[] bytes = s.C.Type == CudaDataType.R32F ? MemoryMarshal.AsBytes(result.AsSpan()).ToArray() : MemoryMarshal.AsBytes(Array.ConvertAll(result, v => (ushort)((BitConverter.SingleToUInt32Bits(v) + 0x7FFF + (BitConverter.SingleToUInt32Bits(v) >> 16 & 1)) >> 16)).AsSpan()).ToArray();
        fixed (byte* from = bytes)
            if (driver.MemcpyHtoDAsync(c, from, (nuint)bytes.Length, stream) != CuResult.Success || driver.StreamSynchronize(stream) != CuResult.Success)
                return ExecutionFailed;
        Products.Add(s.A.Type);
        Computed?.Invoke(product);
        return 0;
    }

    private (Description D, Layout A, Layout B, Layout C)? Sizes(nint description, nint layoutA, nint layoutB, nint layoutC, nint layoutD)
    {
        if (!Find(description, out Description d) || !Find(layoutA, out Layout a) || !Find(layoutB, out Layout b) || !Find(layoutC, out Layout c) || layoutC != layoutD || a.Type != b.Type || c.Type is not (CudaDataType.R32F or CudaDataType.R16BF))
            return null;
        (long rowsA, long columnsA) = d.TransA == 0 ? (a.Rows, a.Columns) : (a.Columns, a.Rows);
        (long rowsB, long columnsB) = d.TransB == 0 ? (b.Rows, b.Columns) : (b.Columns, b.Rows);
        return rowsA == c.Rows && columnsB == c.Columns && columnsA == rowsB ? (d, a, b, c) : null;
    }

    // Null where the stream cannot be read, as while it is captured.
    private double[]? Read(nint address, Layout layout, nint stream)
    {
        int size = layout.Type == CudaDataType.R32F ? 4 : 2;
        var bytes = new byte[(((layout.Columns - 1) * layout.Leading) + layout.Rows) * size];
        fixed (byte* to = bytes)
            if (driver.MemcpyDtoHAsync(to, address, (nuint)bytes.Length, stream) != CuResult.Success || driver.StreamSynchronize(stream) != CuResult.Success)
                return null;
        if (size == 2)
            return Array.ConvertAll(MemoryMarshal.Cast<byte, ushort>(bytes).ToArray(), v => layout.Type == CudaDataType.R16BF ? BitConverter.UInt32BitsToSingle((uint)v << 16) : (double)BitConverter.UInt16BitsToHalf(v));
        return Array.ConvertAll(MemoryMarshal.Cast<byte, float>(bytes).ToArray(), v => (double)v);
    }

    private int Make(string function, object value, out nint handle)
    {
        handle = 0;
        if (Before(function) is not 0 and var failure)
            return failure;
        handle = _next += 16;
        _live.Add(handle, value);
        return 0;
    }

    // What destroys does so even where it is made to fail.
    private int Remove<T>(string function, nint handle)
    {
        bool there = Find(handle, out T _) && _live.Remove(handle);
        return Before(function) is not 0 and var failure ? failure : there ? 0 : InvalidValue;
    }

    private bool Find<T>(nint handle, out T value)
    {
        bool there = _live.TryGetValue(handle, out object? o) && o is T;
        value = there ? (T)o! : default!;
        return there;
    }

    private int Before(string function)
    {
        if (++_calls != FailAt)
            return 0;
        Failed = function;
        return Failure;
    }
}
