using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend
{
    private const int PartsOfFloat = 3, LeastLibraryRows = 64;

    private readonly CudaLibraries _libraries;
    private CudaProducts? _products;

    /// <summary>The libraries in use.</summary>
    public CudaLibraries Libraries => _libraries;

    /// <summary>Products of so many FLOP and more go to the library.</summary>
    public double LeastLibraryWork { get; private init; } = CudaLibraries.LeastWork;

    /// <summary>Shapes of products for which an algorithm of the library was chosen.</summary>
    public int LibraryShapes => _products?.Plans ?? 0;

    /// <summary>Whether a product is one for the library by its sizes and types.</summary>
    private bool IsForLibrary(in MatMulArgs args, DType type) =>
        _libraries.Products is not null && args.Batch == 1 && args.M >= LeastLibraryRows && args.N >= LeastLibraryRows && args.Flops >= LeastLibraryWork && type is (DType.F32 or DType.BF16);

    /// <summary>A large product of fp32 accuracy by cuBLASLt; false where the kernels must do it.</summary>
    private bool ByLibrary(in MatMulParams p, in MatMulArgs args, DType type)
    {
        if (!IsForLibrary(args, type) || !(Aligned(p.A, args.RowStrideA, sizeof(float)) && Aligned(p.B, args.RowStrideB, type.Size()) && Aligned(p.C, args.RowStrideC, sizeof(float))))
            return false;
        CudaProducts.Shape shape = new(args.M, args.N, args.K, args.TransA, args.TransB, args.RowStrideA, args.RowStrideB, args.RowStrideC, CudaDataType.R32F, CublasCompute.F32);
        if (type == DType.F32)
            return MultiplyByLibrary(p.C, p.A, p.B, shape, args.Accumulate);
        // bf16 weights: the activations as bf16 parts whose sum they are, the smallest part's product first.
        long rows = args.TransA ? args.K : args.M, cols = args.TransA ? args.M : args.K, n = rows * cols;
        if (args.RowStrideA != cols)
            return false;
        shape = shape with { Type = CudaDataType.R16BF };
        nint room = Scratch(2 * n * PartsOfFloat);
        KernelArguments k = default;
        k.Add(room).Add(p.A).Add(n).Add(PartsOfFloat);
        Kernel(Elementwise, "split_f32_bf16").Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref k);
        for (int part = PartsOfFloat - 1; part >= 0; part--)
            if (!MultiplyByLibrary(p.C, room + (nint)(2 * n * part), p.B, shape, args.Accumulate || part < PartsOfFloat - 1))
                return part == PartsOfFloat - 1 ? false : throw new InvalidOperationException("a shape has an algorithm or it has none");
        return true;

        static bool Aligned(nint address, long stride, int size) => ((address | (nint)(stride * size)) & (CudaProducts.Alignment - 1)) == 0;
    }

    private bool MultiplyByLibrary(nint c, nint a, nint b, in CudaProducts.Shape shape, bool accumulate)
    {
        if (_libraries.Products is not { } library)
            return false;
        lock (_lock)
        {
            _products ??= CudaProducts.Open(Context, library);
            return _products.Multiply(c, a, b, shape, accumulate);
        }
    }
}
