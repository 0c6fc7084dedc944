using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Adapters;

/// <summary>
/// What an SVD adapter puts between the bases of its layers, for many layers at once: their matrices are stacked, so that each op is one call over
/// the stack and not one a layer, on a GPU a few launches in the place of some twenty a layer and coefficient.
/// </summary>
public static class SvdDeltas
{
    /// <summary>Elements of a stack of [r, r] at most: 4 MiB. It bounds what exists beside the results, at any rank and number of layers.</summary>
    public const int MostElements = 1 << 20;

    /// <summary>
    /// M(c) [r, r] of each layer, M(c) = R_v(c)·diag S_c·R_u(c)ᵀ − diag S, so that the adapted layer is x·Wᵀ + (x·V)·M(c)·Uᵀ: the frozen weight is
    /// never changed nor copied. A layer whose M gets no gradient gives its parameters none.
    /// </summary>
    /// <param name="tape">Records what the gradients of the parameters need.</param>
    /// <param name="config">The layers' settings.</param>
    /// <param name="layers">Layers of one rank.</param>
    /// <param name="c">The coefficient.</param>
    /// <param name="mostElements">Elements of a stack; no bit depends on it.</param>
    public static Tensor[] Of(Tape tape, SvdAdapterConfig config, IReadOnlyCollection<SvdLayer> layers, float c, int mostElements = MostElements)
    {
        int r = (int)layers.First().S.Length;
        return [.. layers.Chunk(Math.Max(1, mostElements / (r * r))).SelectMany(some => Stacked(tape, config, some, r, c))];
    }

    /// <summary>R(c) of rotation parameters [.., r, r], or [.., r / block, block, block] where it is block-diagonal.</summary>
    public static Tensor Rotation(Tape tape, SvdAdapterConfig config, Tensor p, float c)
    {
        Tensor a = tape.Skew(p);
        if (config.MaxRotationAngle is { } angle && angle < Math.PI - 1e-6)
            a = tape.Unary(a, UnaryOp.SoftCap, (float)(2 * Math.Tan(angle / 2)));
        return config.Rotation switch
        {
            RotationMethod.Cayley => tape.Cayley(tape.Scale(a, c / 2)),
            RotationMethod.MatrixExp => tape.MatrixExp(tape.Scale(a, c)),
            _ => tape.BlockDiagonal(tape.MatrixExp(tape.Scale(a, c))),
        };
    }

    private static Tensor[] Stacked(Tape tape, SvdAdapterConfig config, SvdLayer[] layers, int r, float c)
    {
        using Tape.Scope scope = tape.BeginScope();
        Tensor[] deltas = [];
        Tensor m = tape.ScaleColumns(Rotations(l => l.RotationV) ?? Frozen(l => l.Identity), ScaledValues());
        if (Rotations(l => l.RotationU) is { } ru)
            m = tape.MatMulEach(m, ru, transB: true);
        m = tape.Subtract(m, Frozen(l => l.DiagonalS));
        deltas = [.. layers.Select((_, i) => scope.Keep(tape.Own(m.Part((long)i * r * r, r, r))))];
        return deltas;

        // Asked in the backward pass, when the layers have run.
        Tensor Trained(Func<SvdLayer, Tensor?> of) => tape.Stack([.. layers.Select(l => of(l)!)], i => deltas[i].GradArrived);

        Tensor Frozen(Func<SvdLayer, Tensor> of) => tape.Stack([.. layers.Select(of)]);

        Tensor? Rotations(Func<SvdLayer, Tensor?> of) => of(layers[0]) is null ? null : Rotation(tape, config, Trained(of), c);

        Tensor ScaledValues()
        {
            Tensor s = Frozen(l => l.S);
            return config.Scale switch
            {
                ScaleMethod.Mult => tape.Multiply(tape.Unary(tape.Scale(Trained(l => l.Scale), c), UnaryOp.Exp), s),
                ScaleMethod.AddTanh => tape.Add(tape.Multiply(tape.Scale(tape.Unary(Trained(l => l.Scale), UnaryOp.Tanh), c), s), s),
                ScaleMethod.Add => tape.Add(tape.Scale(Trained(l => l.Scale), c), s),
                _ => s,
            };
        }
    }
}
