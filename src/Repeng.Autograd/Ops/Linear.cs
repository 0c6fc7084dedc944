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

    /// <summary>The factors in bf16, for backends that round them (<see cref="IBackend.LayerType"/>), so that they are rounded once; null where there are none.</summary>
    public RoundedFactors? Rounded { get; init; }

    /// <summary><see cref="Down"/> contains M.</summary>
    public bool IsFolded { get; init; }

    /// <summary>The term for some of the rows (ascending), counted among themselves; null where it has none of them.</summary>
    public LowRankTerm? At(ReadOnlySpan<int> rows)
    {
        var segments = new List<LowRankSegment>();
        foreach ((int start, int count, Tensor m) in Segments)
        {
            int from = rows.BinarySearch(start), to = rows.BinarySearch(start + count);
            (from, to) = (from < 0 ? ~from : from, to < 0 ? ~to : to);
            if (to > from)
                segments.Add(new LowRankSegment(from, to - from, m));
        }
        return segments.Count == 0 ? null : this with { Segments = segments };
    }
}

/// <summary>Factors of a <see cref="LowRankTerm"/> in bf16: V [in, r], U [out, r], and V turned round, [r, in].</summary>
public sealed record RoundedFactors(Tensor V, Tensor U, Tensor Turned)
{
    /// <summary>Columns that factors may have.</summary>
    public const int MostRank = 256;
}

/// <summary>One row range of a <see cref="LowRankTerm"/>.</summary>
public readonly record struct LowRankSegment(int Start, int Count, Tensor M);

/// <summary>Rows [Start, Start + Count) of an input and the linear layer that they go through: W [out, in], bias [out] or null, and a low-rank term whose segments count from Start, or null.</summary>
public readonly record struct LinearGroup(int Start, int Count, Tensor Weight, Tensor? Bias = null, LowRankTerm? Term = null);

public sealed partial class Tape
{
    /// <summary>
    /// A linear layer: y = x·Wᵀ + bias, x [rows, in], W [out, in] (fp32, fp16 or bf16), plus a low-rank term.
    /// Gradients go to x, and to W, bias and the term's M where they require them; a frozen W keeps no activation.
    /// </summary>
    /// <param name="x">The input.</param>
    /// <param name="w">The weight.</param>
    /// <param name="bias">The bias.</param>
    /// <param name="term">The term.</param>
    /// <param name="mayRound">y and its gradient may be held as <see cref="IBackend.LayerType"/> says: what reads y takes that.</param>
    public Tensor Linear(Tensor x, Tensor w, Tensor? bias = null, LowRankTerm? term = null, bool mayRound = false) => LinearGroups(x, [new LinearGroup(0, x.Rows, w, bias, term)], mayRound);

    /// <summary>
    /// Linear layers of one shape, each over its own rows of x [rows, in]; the groups follow one another and cover all rows, some may be
    /// empty. Every row has the bits that <see cref="Linear"/> gives it; a layer without rows costs nothing and gets no gradient.
    /// </summary>
    public Tensor LinearGroups(Tensor x, params LinearGroup[] groups) => LinearGroups(x, groups, false);

    private Tensor LinearGroups(Tensor x, LinearGroup[] groups, bool mayRound)
    {
        int inputs = x.Cols, outputs = groups[0].Weight.Rows, rows = 0;
        foreach (LinearGroup g in groups)
        {
            if (inputs != g.Weight.Cols || outputs != g.Weight.Rows)
                throw new ArgumentException($"linear layer {g.Weight} of {outputs} outputs takes {g.Weight.Cols} inputs, was given {x}");
            if (g.Start != rows)
                throw new ArgumentException($"a group begins at row {g.Start}, the one before it ends at {rows}");
            rows += g.Count;
        }
        if (rows != x.Rows)
            throw new ArgumentException($"groups of {rows} rows for {x}");
        if (groups.Length > 1)
            groups = Array.FindAll(groups, g => g.Count > 0);
        int[] shape = [.. x.Shape];
        shape[^1] = outputs;
        if (!Recording && Array.Exists(groups, g => g.Term is { Down: not null }))
        {
            Tensor withDown = New(shape);
            LinearWithDown(withDown, x, groups, inputs, outputs);
            return withDown;
        }
        var low = new List<Placed>();
        foreach (LinearGroup g in groups)
            for (int i = 0; g.Term is not null && i < g.Term.Segments.Count; i++)
                low.Add(Placed.Of(g, i, New(g.Term.Segments[i].Count, g.Term.V.Cols)));
        // One term on all rows: as one op.
        bool whole = groups is [{ Start: 0 }] && low is [var only] && only.Count == rows;
        // Only where y is written once, and neither bias nor weight asks for its gradient in another way.
        Tensor y = NewOfLayer(mayRound && groups is [{ Bias: null, Weight.RequiresGrad: false }] && (whole || low.Count == 0), shape);
        y.GradType = y.Type;
        if (whole)
        {
            (LowRankTerm term, _, _, Tensor m, Tensor z) = low[0];
            using Scope scope = BeginScope();
            Backend.LinearTerm(y.Data, z.Data, New(rows, term.V.Cols).Data, x.Data, groups[0].Weight.Data, groups[0].Bias?.Data ?? default, Rounded(term, rows)?.V.Data ?? term.V.Data, m.Data, Rounded(term, rows)?.U.Data ?? term.U.Data,
                new TermArgs(rows, outputs, inputs, term.V.Cols));
        }
        else
        {
            Products(y.Data, x.Data, groups, new GroupArgs(outputs, inputs));
            AddBiases(y.Data, groups, outputs);
            LowRank(y, x, low, inputs, outputs);
        }

        bool trainsWeight = Array.Exists(groups, g => g.Weight.RequiresGrad);
        if (!Recording || !(x.RequiresGrad || trainsWeight || Array.Exists(groups, g => g.Bias is { RequiresGrad: true }) || low.Exists(p => p.M.RequiresGrad)))
            return y;
        var saved = new List<Tensor?>(groups.Select(g => g.Weight));
        if (trainsWeight)
            saved.Add(x);
        foreach (Placed p in low)
        {
            saved.AddRange([p.Term.V, p.Term.U, p.M, p.Term.Rounded?.U, p.Term.Rounded?.Turned]);
            if (p.M.RequiresGrad)
                saved.Add(p.Z);
        }
        return Record(y, saved.ToArray(), () =>
        {
            View dy = y.Grad;
            if (whole && x.RequiresGrad)
            {
                WholeTermBackward(low[0], groups[0], x, dy, inputs, outputs);
            }
            else if (x.RequiresGrad)
            {
                View dx = x.GradForWrite(out bool fresh);
                Products(dx, dy, groups, new GroupArgs(inputs, outputs, TransB: false, Accumulate: !fresh));
            }
            foreach (LinearGroup g in groups)
            {
                View part = dy.Slice((long)g.Start * outputs, (long)g.Count * outputs);
                if (g.Weight.RequiresGrad)
                {
                    View dw = g.Weight.GradForWrite(out bool fresh);
                    Backend.MatMul(dw, part, x.Data.Slice((long)g.Start * inputs, (long)g.Count * inputs), new MatMulArgs(outputs, inputs, g.Count, TransA: true, Accumulate: !fresh, Autocast: true));
                }
                if (g.Bias is { RequiresGrad: true })
                    Backend.AddBiasBackward(g.Bias.GradToAdd(), part, g.Count, outputs);
            }
            if (whole && x.RequiresGrad)
                return;
            foreach (Placed p in low)
                LowRankBackward(p, x, dy, inputs, outputs);
        });
    }

    /// <summary>One segment of a group's term, its rows counted from the beginning of the input, and z = x·V of them.</summary>
    private readonly record struct Placed(LowRankTerm Term, int Start, int Count, Tensor M, Tensor Z)
    {
        public static Placed Of(LinearGroup g, int segment, Tensor z)
        {
            (int start, int count, Tensor m) = g.Term!.Segments[segment];
            return new Placed(g.Term, g.Start + start, count, m, z);
        }
    }

    private void Products(View c, View a, LinearGroup[] groups, in GroupArgs args)
    {
        if (groups is [{ Start: 0 } only])
            Backend.MatMul(c, a, only.Weight.Data, args.Product(only.Count));
        else if (groups.Length > 0)
            Backend.MatMulGroups(c, a, Array.ConvertAll(groups, g => new MatMulGroup(g.Start, g.Count, g.Weight.Data)), args);
    }

    private void AddBiases(View y, LinearGroup[] groups, int outputs)
    {
        foreach (LinearGroup g in groups)
            if (g.Bias is not null)
                Backend.AddBias(y.Slice((long)g.Start * outputs, (long)g.Count * outputs), g.Bias.Data, g.Count, outputs);
    }

    private void LinearWithDown(Tensor y, Tensor x, LinearGroup[] groups, int inputs, int outputs)
    {
        using Scope scope = BeginScope();
        LinearGroup[] plain = Array.FindAll(groups, g => g.Term is null);
        Products(y.Data, x.Data, plain, new GroupArgs(outputs, inputs));
        foreach (LinearGroup g in groups)
        {
            if (g.Term is not { } term)
                continue;
            int r = term.V.Cols;
            TermSegment[] segments = [.. term.Segments.Select(s => new TermSegment(s.Start, s.Count, term.IsFolded ? default : s.M.Data))];
            Backend.MatMulTerm(y.Data.Slice((long)g.Start * outputs, (long)g.Count * outputs), x.Data.Slice((long)g.Start * inputs, (long)g.Count * inputs),
                g.Weight.Data, term.Down!.Data, term.U.Data, segments, New(2, g.Count, r).Data, new TermArgs(g.Count, outputs, inputs, r));
        }
        AddBiases(y.Data, groups, outputs);
    }

    private void LowRank(Tensor y, Tensor x, List<Placed> low, int inputs, int outputs)
    {
        foreach ((LowRankTerm term, int start, int count, Tensor m, Tensor z) in low)
        {
            int r = term.V.Cols;
            using Scope scope = BeginScope();
            Tensor mixed = New(count, r);
            Backend.MatMul(z.Data, x.Data.Slice((long)start * inputs, (long)count * inputs), term.V.Data, new MatMulArgs(count, r, inputs, Autocast: true));
            Backend.MatMul(mixed.Data, z.Data, m.Data, new MatMulArgs(count, r, r, Autocast: true));
            Backend.MatMul(y.Data.Slice((long)start * outputs, (long)count * outputs), mixed.Data, term.U.Data, new MatMulArgs(count, outputs, r, TransB: true, Accumulate: true, Autocast: true));
        }
    }

    private void WholeTermBackward(in Placed p, LinearGroup g, Tensor x, View dy, int inputs, int outputs)
    {
        (LowRankTerm term, _, int count, Tensor m, Tensor z) = p;
        int r = term.V.Cols;
        using Scope scope = BeginScope();
        Tensor dMixed = New(count, r), dz = New(count, r);
        Backend.LinearTermBackward(x.GradForWrite(out bool fresh), dMixed.Data, dz.Data, dy, g.Weight.Data, Rounded(term, count)?.Turned.Data ?? term.V.Data, m.Data, Rounded(term, count)?.U.Data ?? term.U.Data, new TermArgs(count, outputs, inputs, r), !fresh);
        if (m.RequiresGrad)
        {
            View dm = m.GradForWrite(out bool first);
            Backend.MatMul(dm, z.Data, dMixed.Data, new MatMulArgs(r, r, count, TransA: true, Accumulate: !first, Autocast: true));
        }
    }

    // The factors in bf16 where the backend takes them.
    private RoundedFactors? Rounded(LowRankTerm term, int rows)
    {
        foreach (int cols in (ReadOnlySpan<int>)[term.V.Rows, term.U.Rows, term.V.Cols])
            if (Backend.LayerType(rows, cols) != DType.BF16)
                return null;
        return term.V.Cols <= RoundedFactors.MostRank ? term.Rounded : null;
    }

    private void LowRankBackward(in Placed p, Tensor x, View dy, int inputs, int outputs)
    {
        (LowRankTerm term, int start, int count, Tensor m, Tensor z) = p;
        if (!m.RequiresGrad && !x.RequiresGrad)
            return;
        int r = term.V.Cols;
        using Scope scope = BeginScope();
        Tensor dMixed = New(count, r);
        Backend.MatMul(dMixed.Data, dy.Slice((long)start * outputs, (long)count * outputs), term.U.Data, new MatMulArgs(count, r, outputs, Autocast: true));
        if (m.RequiresGrad)
        {
            View dm = m.GradForWrite(out bool fresh);
            Backend.MatMul(dm, z.Data, dMixed.Data, new MatMulArgs(r, r, count, TransA: true, Accumulate: !fresh, Autocast: true));
        }
        if (x.RequiresGrad)
        {
            Tensor dz = New(count, r);
            Backend.MatMul(dz.Data, dMixed.Data, m.Data, new MatMulArgs(count, r, r, TransB: true, Autocast: true));
            Backend.MatMul(x.GradToAdd().Slice((long)start * inputs, (long)count * inputs), dz.Data, term.V.Data, new MatMulArgs(count, inputs, r, TransB: true, Accumulate: true, Autocast: true));
        }
    }
}
