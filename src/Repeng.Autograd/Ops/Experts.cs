using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>
    /// The experts of each token by a router's logits [rows, experts]: their weights [rows, perToken], which carry the gradient, and
    /// their numbers on the host, row by row; see <see cref="RouteArgs"/>.
    /// </summary>
    public (Tensor Weights, int[] Chosen) Route(Tensor logits, int perToken, bool normalise)
    {
        var args = new RouteArgs(logits.Rows, logits.Cols, perToken, normalise);
        Tensor weights = New(args.Rows, perToken), chosen = Own(new Tensor(Device, DType.I32, args.Rows, perToken));
        Backend.RouteForward(weights.Data, chosen.Data, logits.Data, args);
        int[] experts = chosen.ToInts();
        if (!Tracks(logits))
            return (weights, experts);
        return (Record(weights, [logits, weights, chosen], () => Backend.RouteBackward(logits.GradToAdd(), weights.Grad, weights.Data, chosen.Data, logits.Data, args)), experts);
    }

    /// <summary>y [rows, cols]: Σ_j weights[t, j]·x[place[t, j], :]; weights [rows, perToken], place I32 [rows, perToken], no two alike.</summary>
    public Tensor Combine(Tensor x, Tensor place, Tensor weights)
    {
        int rows = weights.Rows, perToken = weights.Cols, cols = x.Cols;
        Tensor y = New(rows, cols);
        Backend.CombineForward(y.Data, x.Data, place.Data, weights.Data, rows, perToken, cols);
        if (!Tracks(x, weights))
            return y;
        return Record(y, [weights.RequiresGrad ? x : null, place, weights], () => Backend.CombineBackward(
            x.RequiresGrad ? x.GradToAdd() : default, weights.RequiresGrad ? weights.GradToAdd() : default,
            y.Grad, x.Data, place.Data, weights.Data, rows, perToken, cols));
    }

    /// <summary>Rows of zeros [rows, cols] to which the rows of x [n, cols] are added at the given I32 indices [n].</summary>
    public Tensor ScatterRows(Tensor x, Tensor index, int rows)
    {
        int n = x.Rows, cols = x.Cols;
        Tensor y = Filled(0, rows, cols);
        Backend.GatherRowsBackward(y.Data, x.Data, index.Data, n, cols);
        if (!Tracks(x))
            return y;
        return Record(y, [index], () =>
        {
            using Scope scope = BeginScope();
            Tensor picked = New(n, cols);
            Backend.GatherRows(picked.Data, y.Grad, index.Data, n, cols);
            Backend.AddScaled(x.GradToAdd(), picked.Data, x.Length, 1);
        });
    }

    /// <summary>(u + 1)·g·σ(alpha·g) with g = min(gate, limit), u = up cut to ±limit.</summary>
    public Tensor ClampedGated(Tensor gate, Tensor up, float alpha, float limit)
    {
        Tensor y = New(gate.Shape);
        Backend.ClampedGatedForward(y.Data, gate.Data, up.Data, gate.Length, alpha, limit);
        if (!Tracks(gate, up))
            return y;
        return Record(y, [gate, up], () => Backend.ClampedGatedBackward(
            gate.RequiresGrad ? gate.GradToAdd() : default, up.RequiresGrad ? up.GradToAdd() : default,
            y.Grad, gate.Data, up.Data, gate.Length, alpha, limit));
    }
}
