using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>How exact large products are where a library computes them.</summary>
public enum CudaPrecision
{
    /// <summary>As the kernels: fp32 operands count with all their bits (three bf16 parts beside bf16 weights, fp32 arithmetic beside fp32 ones).</summary>
    Full,

    /// <summary>Operands rounded to bf16 (TF32 beside fp32 weights): 1e-2 in place of 1e-6, a third of the time.</summary>
    Fast,
}

public sealed partial class CudaBackend
{
    private const int PartsOfFloat = 3, LeastLibraryRows = 64;

    private readonly CudaLibraries _libraries;
    private CudaProducts? _products;

    /// <summary>The libraries in use.</summary>
    public CudaLibraries Libraries => _libraries;

    /// <summary>Products of so many FLOP and more go to the library.</summary>
    public double LeastLibraryWork { get; private init; } = CudaLibraries.LeastWork;

    /// <summary>How exact they are there.</summary>
    public CudaPrecision Precision { get; private init; }

    /// <summary>Shapes of products for which an algorithm of the library was chosen.</summary>
    public int LibraryShapes => _products?.Plans ?? 0;

    /// <summary>Whether a product is one for the library by its sizes and types.</summary>
    private bool IsForLibrary(in MatMulArgs args, DType type) =>
        _libraries.Products is not null && args.Batch == 1 && args.M >= LeastLibraryRows && args.N >= LeastLibraryRows && args.Flops >= LeastLibraryWork && type is (DType.F32 or DType.BF16);

    /// <summary>A large product by cuBLASLt; false where the kernels must do it.</summary>
    private bool ByLibrary(in MatMulParams p, in MatMulArgs args, DType type)
    {
        if (_libraries.Products is not { } library || !IsForLibrary(args, type) || !(Aligned(p.A, args.RowStrideA, sizeof(float)) && Aligned(p.B, args.RowStrideB, type.Size()) && Aligned(p.C, args.RowStrideC, sizeof(float))))
            return false;
        lock (_lock)
        {
            _products ??= CudaProducts.Open(Context, library);
            CudaProducts.Shape shape = new(args.M, args.N, args.K, args.TransA, args.TransB, args.RowStrideA, args.RowStrideB, args.RowStrideC, CudaDataType.R32F, Precision == CudaPrecision.Fast ? CublasCompute.F32FastTf32 : CublasCompute.F32);
            if (type == DType.F32)
                return _products.Multiply(p.C, p.A, p.B, shape, args.Accumulate);
            // bf16 weights: the activations as bf16 parts whose sum they are, the smallest part's product first.
            long rows = args.TransA ? args.K : args.M, cols = args.TransA ? args.M : args.K, n = rows * cols;
            if (args.RowStrideA != cols)
                return false;
            shape = shape with { Type = CudaDataType.R16BF, Compute = CublasCompute.F32 };
            int parts = Precision == CudaPrecision.Fast ? 1 : PartsOfFloat;
            nint room = Scratch(2 * n * parts);
            KernelArguments k = default;
            k.Add(room).Add(p.A).Add(n).Add(parts);
            Kernel(Elementwise, "split_f32_bf16").Launch(new(Blocks(n, FlatTile)), new(Threads), 0, ref k);
            for (int part = parts - 1; part >= 0; part--)
                if (!_products.Multiply(p.C, room + (nint)(2 * n * part), p.B, shape, args.Accumulate || part < parts - 1))
                    return part == parts - 1 ? false : throw new InvalidOperationException("a shape has an algorithm or it has none");
            return true;
        }

        static bool Aligned(nint address, long stride, int size) => ((address | (nint)(stride * size)) & 15) == 0;
    }
}
