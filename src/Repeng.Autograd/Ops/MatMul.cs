using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

/// <summary>
/// A low-rank term of a linear layer: rows [Start, Start + Count) of the input get (x·V)·M·Uᵀ added, each
/// segment with its own M [r, r]; rows in no segment are left alone exactly.
/// </summary>
/// <param name="V">[in, r], frozen.</param>
/// <param name="U">[out, r], frozen.</param>
/// <param name="Segments">Row ranges and their M.</param>
public sealed record LowRankTerm(Tensor V, Tensor U, IReadOnlyList<LowRankSegment> Segments)
{
    /// <summary>
    /// For passes without gradients over few rows: the first factor [r, in] laid out along the depth, so that it is read as
    /// the weight is. It is Vᵀ, or (V·M)ᵀ where one M holds for all segments (<see cref="IsFolded"/>). Null leaves V in use.
    /// </summary>
    public Tensor? Down { get; init; }

    /// <summary><see cref="Down"/> contains M.</summary>
    public bool IsFolded { get; init; }
}

/// <summary>One row range of a <see cref="LowRankTerm"/>.</summary>
public readonly record struct LowRankSegment(int Start, int Count, Tensor M);

public sealed partial class Tape
{
    /// <summary>y = op(a)·op(b) for matrices; a [M, K] (or [K, M]), b [K, N] (or [N, K]).</summary>
    public Tensor MatMul(Tensor a, Tensor b, bool transA = false, bool transB = false)
    {
        int m = transA ? a.Cols : a.Rows, k = transA ? a.Rows : a.Cols, n = transB ? b.Rows : b.Cols;
        if (k != (transB ? b.Cols : b.Rows))
            throw new ArgumentException($"matmul of {a}{(transA ? "ᵀ" : "")} and {b}{(transB ? "ᵀ" : "")}: inner sizes differ");
        Tensor y = New(m, n);
        Backend.MatMul(y.Data, a.Data, b.Data, new MatMulArgs(m, n, k, transA, transB));
        if (!Tracks(a, b))
            return y;
        return Record(y, [a, b], () =>
        {
            if (a.RequiresGrad)
            {
                View da = a.GradForWrite(out bool fresh);
                // op(a) = y·op(b)ᵀ; where a is stored transposed its gradient is op(b)·dyᵀ.
                Backend.MatMul(da, transA ? b.Data : y.Grad, transA ? y.Grad : b.Data, transA
                    ? new MatMulArgs(k, m, n, transB, true, !fresh)
                    : new MatMulArgs(m, k, n, false, !transB, !fresh));
            }
            if (b.RequiresGrad)
            {
                View db = b.GradForWrite(out bool fresh);
                Backend.MatMul(db, transB ? y.Grad : a.Data, transB ? a.Data : y.Grad, transB
                    ? new MatMulArgs(n, k, m, true, transA, !fresh)
                    : new MatMulArgs(k, n, m, !transA, false, !fresh));
            }
        });
    }

    /// <summary>
    /// A linear layer: y = x·Wᵀ + bias, x [rows, in], W [out, in] (fp32, fp16 or bf16), plus a low-rank term.
    /// Gradients go to x, and to W, bias and the term's M where they require them; a frozen W keeps no activation.
    /// </summary>
    public Tensor Linear(Tensor x, Tensor w, Tensor? bias = null, LowRankTerm? term = null)
    {
        int rows = x.Rows, inputs = x.Cols, outputs = w.Rows;
        if (inputs != w.Cols)
            throw new ArgumentException($"linear layer {w} takes {w.Cols} inputs, was given {x}");
        int[] shape = [.. x.Shape];
        shape[^1] = outputs;
        Tensor y = New(shape);
        if (!Recording && term is { Down: not null })
        {
            LinearWithDown(y, x, w, bias, term);
            return y;
        }
        Backend.MatMul(y.Data, x.Data, w.Data, new MatMulArgs(rows, outputs, inputs, TransB: true));
        if (bias is not null)
            Backend.AddBias(y.Data, bias.Data, rows, outputs);

        Tensor[] z = [];
        bool trainsTerm = false;
        if (term is not null)
        {
            int r = term.V.Cols;
            z = new Tensor[term.Segments.Count];
            for (int i = 0; i < z.Length; i++)
            {
                (int start, int count, Tensor m) = term.Segments[i];
                z[i] = New(count, r);
                using Scope scope = BeginScope();
                Tensor mixed = New(count, r);
                Backend.MatMul(z[i].Data, x.Data.Slice((long)start * inputs, (long)count * inputs), term.V.Data, new MatMulArgs(count, r, inputs));
                Backend.MatMul(mixed.Data, z[i].Data, m.Data, new MatMulArgs(count, r, r));
                Backend.MatMul(y.Data.Slice((long)start * outputs, (long)count * outputs), mixed.Data, term.U.Data, new MatMulArgs(count, outputs, r, TransB: true, Accumulate: true));
                trainsTerm |= m.RequiresGrad;
            }
        }

        if (!Recording || !(x.RequiresGrad || w.RequiresGrad || bias is { RequiresGrad: true } || trainsTerm))
            return y;
        var saved = new List<Tensor?> { w };
        if (w.RequiresGrad)
            saved.Add(x);
        if (term is not null)
        {
            saved.Add(term.V);
            saved.Add(term.U);
            for (int i = 0; i < z.Length; i++)
            {
                saved.Add(term.Segments[i].M);
                if (term.Segments[i].M.RequiresGrad)
                    saved.Add(z[i]);
            }
        }
        return Record(y, saved.ToArray(), () =>
        {
            View dy = y.Grad;
            if (x.RequiresGrad)
            {
                View dx = x.GradForWrite(out bool fresh);
                Backend.MatMul(dx, dy, w.Data, new MatMulArgs(rows, inputs, outputs, Accumulate: !fresh));
            }
            if (w.RequiresGrad)
            {
                View dw = w.GradForWrite(out bool fresh);
                Backend.MatMul(dw, dy, x.Data, new MatMulArgs(outputs, inputs, rows, TransA: true, Accumulate: !fresh));
            }
            if (bias is { RequiresGrad: true })
                Backend.AddBiasBackward(bias.GradToAdd(), dy, rows, outputs);
            if (term is not null)
                LowRankBackward(term, z, x, dy, inputs, outputs);
        });
    }

    private void LinearWithDown(Tensor y, Tensor x, Tensor w, Tensor? bias, LowRankTerm term)
    {
        int rows = x.Rows, r = term.V.Cols;
        using Scope scope = BeginScope();
        TermSegment[] segments = [.. term.Segments.Select(s => new TermSegment(s.Start, s.Count, term.IsFolded ? default : s.M.Data))];
        Backend.MatMulTerm(y.Data, x.Data, w.Data, term.Down!.Data, term.U.Data, segments, New(2, rows, r).Data, new TermArgs(rows, w.Rows, x.Cols, r));
        if (bias is not null)
            Backend.AddBias(y.Data, bias.Data, rows, w.Rows);
    }

    private void LowRankBackward(LowRankTerm term, Tensor[] z, Tensor x, View dy, int inputs, int outputs)
    {
        int r = term.V.Cols;
        for (int i = 0; i < z.Length; i++)
        {
            (int start, int count, Tensor m) = term.Segments[i];
            if (!m.RequiresGrad && !x.RequiresGrad)
                continue;
            using Scope scope = BeginScope();
            Tensor dMixed = New(count, r);
            Backend.MatMul(dMixed.Data, dy.Slice((long)start * outputs, (long)count * outputs), term.U.Data, new MatMulArgs(count, r, outputs));
            if (m.RequiresGrad)
            {
                View dm = m.GradForWrite(out bool fresh);
                Backend.MatMul(dm, z[i].Data, dMixed.Data, new MatMulArgs(r, r, count, TransA: true, Accumulate: !fresh));
            }
            if (x.RequiresGrad)
            {
                Tensor dz = New(count, r);
                Backend.MatMul(dz.Data, dMixed.Data, m.Data, new MatMulArgs(count, r, r, TransB: true));
                Backend.MatMul(x.GradToAdd().Slice((long)start * inputs, (long)count * inputs), dz.Data, term.V.Data, new MatMulArgs(count, inputs, r, TransB: true, Accumulate: true));
            }
        }
    }
}
