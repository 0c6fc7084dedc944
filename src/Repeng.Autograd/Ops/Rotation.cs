using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>A = P − Pᵀ for P [n, n] or a batch [batch, n, n].</summary>
    public Tensor Skew(Tensor p)
    {
        (int n, int batch) = Square(p);
        Tensor a = New(p.Shape);
        Backend.Skew(a.Data, p.Data, n, batch, accumulate: false);
        if (!Tracks(p))
            return a;
        return Record(a, [], () => Backend.Skew(p.GradToAdd(), a.Grad, n, batch, accumulate: true));
    }

    /// <summary>The Cayley transform (I − X)⁻¹(I + X) of each matrix.</summary>
    public Tensor Cayley(Tensor x)
    {
        (int n, int batch) = Square(x);
        Tensor r = New(x.Shape);
        Backend.CayleyForward(r.Data, x.Data, n, batch);
        if (!Tracks(x))
            return r;
        return Record(r, [r], () => Backend.CayleyBackward(x.GradToAdd(), r.Grad, r.Data, n, batch));
    }

    /// <summary>The matrix exponential of each matrix.</summary>
    public Tensor MatrixExp(Tensor x)
    {
        (int n, int batch) = Square(x);
        Tensor r = New(x.Shape);
        Backend.MatrixExpForward(r.Data, x.Data, n, batch);
        if (!Tracks(x))
            return r;
        return Record(r, [x], () => Backend.MatrixExpBackward(x.GradToAdd(), r.Grad, x.Data, n, batch));
    }

    private static (int N, int Batch) Square(Tensor x)
    {
        int n = x.Cols;
        if (x.Shape.Length < 2 || x.Shape[^2] != n)
            throw new ArgumentException($"square matrices needed, was given {x}");
        return (n, checked((int)(x.Length / ((long)n * n))));
    }
}
