using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// Activations and gradients that are bf16 themselves: what products of layers would round anyway (<see cref="LayerType"/>). No copy is made of them, and they are read and
/// written with half of the bytes.
/// </summary>
public sealed partial class CudaBackend
{
    // fp32 of operands in bf16 that a product cannot take as they are.
    private ScratchRoom _widenedA, _widenedC;

    /// <inheritdoc/>
    public DType LayerType(int rows, int cols) => Precision == CudaPrecision.Bf16 && rows > VectorRows && cols % Eight == 0 ? DType.BF16 : DType.F32;

    // The type of an operand that may be either, for checks that name the one wanted.
    private static DType Held(View v) => v.Type == DType.BF16 ? DType.BF16 : DType.F32;

    private static int HalvesOf(View c) => c.Type == DType.BF16 ? 1 : 0;

    private static CudaDataType ResultOf(View c) => c.Type == DType.BF16 ? CudaDataType.R16BF : CudaDataType.R32F;

    // c = (c +) a·op(b) where a or c is bf16, by the tiles that read bf16 however few the rows are, or by the library.
    private void HalvesProduct(View c, View a, View b, in MatMulArgs args)
    {
        const string Op = nameof(MatMul);
        (int m, int n, int k) = (args.M, args.N, args.K);
        int lines = args.TransB ? n : k, length = args.TransB ? k : n, ldA = args.RowStrideA, ldC = args.RowStrideC;
        RequireMatrix(a, Held(a), args.TransA ? k : m, args.TransA ? m : k, ldA, args.Batch, args.StrideA, Op, nameof(a));
        RequireMatrix(c, Held(c), m, n, ldC, args.Batch, args.StrideC, Op, nameof(c));
        bool fits = Precision == CudaPrecision.Bf16 && args is { Autocast: true, Batch: 1, TransA: false } && k % Eight == 0 && length % Eight == 0 && args.RowStrideB == length
            && (a.Type != DType.BF16 || ((a.Address & 15) == 0 && ldA % Eight == 0)) && (c.Type != DType.BF16 || ((c.Address & 15) == 0 && ldC % Eight == 0 && n % Eight == 0));
        if (!fits)
        {
            View wideA = a.Type == DType.BF16 ? Widened(a, ref _widenedA, true) : a, wideC = c.Type == DType.BF16 ? Widened(c, ref _widenedC, args.Accumulate || ldC > n || args.Batch > 1) : c;
            MatMul(wideC, wideA, b, args);
            if (c.Type == DType.BF16)
                Cast("cast_f32_bf16", c, wideC);
            return;
        }
        RequireMatrix(b, b.Type, lines, length, length, 1, 0, Op, nameof(b));
        bool whole = a.Type == DType.F32 && ldA == k;
        MatMulParams p = new()
        {
            A = a.Type == DType.BF16 ? a.Address : whole && IsCopied(a.Address, (long)m * k) ? _roundedA.Address : RoundRows(a.Address, DType.F32, m, k, ldA, ref _roundedA),
            B = RoundedWeight(b, lines, length),
            C = c.Address,
            M = m,
            N = n,
            K = k,
            LdA = a.Type == DType.BF16 ? ldA : k,
            LdB = length,
            LdC = ldC,
            Accumulate = args.Accumulate ? 1 : 0,
            Summed = 1,
            Halves = HalvesOf(c),
        };
        bool library = IsForLibrary(args, DType.BF16) && (c.Address & 15) == 0 && ldC % Eight == 0;
        if (!library || !MultiplyByLibrary(p.C, p.A, p.B, new(m, n, k, false, args.TransB, p.LdA, length, ldC, CudaDataType.R16BF, CublasCompute.F32, ResultOf(c)), args.Accumulate))
            LaunchRounded(p, args.TransB);
        if (whole)
            Copied(a.Address, (long)m * k);
    }

    // A weight without gaps as bf16: where it is, decoded, or rounded.
    private nint RoundedWeight(View w, int lines, int length)
    {
        nint b = w.Address;
        DType type = w.Type;
        if (w.Packing is { } packing)
            (b, type) = (DecodedWeight(w, packing), DType.BF16);
        return type == DType.BF16 && (b & 15) == 0 ? b : RoundRows(b, type, lines, length, length, ref _roundedB);
    }

    private View Widened(View half, ref ScratchRoom room, bool reads)
    {
        View wide = new(Scratch(Math.Max(1, sizeof(float) * half.Length), ref room), half.Length, DType.F32);
        if (reads)
            Cast("cast_bf16_f32", wide, half);
        return wide;
    }

    private void Cast(string kernel, View y, View x)
    {
        KernelArguments a = default;
        a.Add(y).Add(x).Add(x.Length);
        Flat(kernel, x.Length, ref a);
    }
}
