using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Steering.Adapters.Peft;

/// <summary>The coefficients of the tokens of one pass: the same for all, or one a sequence.</summary>
internal sealed class CoefficientRows
{
    private readonly float[] _all;
    private readonly int _length;
    private readonly int[]? _distinctOf;
    private readonly Tensor? _index;
    private readonly Tensor? _column;

    public CoefficientRows(Tape tape, ReadOnlySpan<float> coefficients, int length)
    {
        for (int b = 0; b < coefficients.Length; b++)
            if (!float.IsFinite(coefficients[b]))
                throw new UserErrorException($"coefficient {coefficients[b]} of row {b} is not a finite number");
        (_all, _length) = (coefficients.ToArray(), length);
        float[] all = _all, distinct = [.. all.Distinct()];
        Distinct = distinct;
        if (distinct.Length == 1)
            return;
        _distinctOf = [.. all.SelectMany(c => Enumerable.Repeat(Array.IndexOf(distinct, c), length))];
        (_index, _column) = Columns(tape);
    }

    private CoefficientRows(Tape tape, CoefficientRows whole, int[] tokens)
    {
        (_all, _length, Distinct) = (whole._all, whole._length, whole.Distinct);
        _distinctOf = [.. tokens.Select(t => whole._distinctOf![t])];
        (_index, _column) = Columns(tape);
    }

    /// <summary>Each coefficient once.</summary>
    public IReadOnlyList<float> Distinct { get; }

    /// <summary>No row is steered.</summary>
    public bool AllZero => Distinct is [0];

    /// <summary>The coefficients of some of the tokens, whose rows a layer sees.</summary>
    public CoefficientRows At(Tape tape, int[] tokens) => _distinctOf is null ? this : new CoefficientRows(tape, this, tokens);

    /// <summary>Ranges of tokens with one coefficient that is not zero, in order.</summary>
    public IEnumerable<(int Start, int Count, float C)> Runs()
    {
        for (int b = 0; b < _all.Length;)
        {
            int end = b;
            while (end < _all.Length && _all[end] == _all[b])
                end++;
            if (_all[b] != 0)
                yield return (b * _length, (end - b) * _length, _all[b]);
            b = end;
        }
    }

    /// <summary>p·c·y, each row of y with its own c.</summary>
    public Tensor Scale(Tape tape, Tensor y, float p) => _column is null
        ? tape.Scale(y, p * Distinct[0])
        : tape.Multiply(y, p == 1 ? _column : tape.Scale(_column, p), Broadcast.OverCols);

    /// <summary>Each row of y [tokens, n] times the vector [n] of its coefficient.</summary>
    public Tensor Multiply(Tape tape, Tensor y, Func<float, Tensor> factor) => _index is null
        ? tape.Multiply(y, factor(Distinct[0]), Broadcast.OverRows)
        : tape.Multiply(y, tape.GatherRows(tape.ConcatRows([.. Distinct.Select(c => tape.Reshape(factor(c), 1, y.Cols))]), _index));

    private (Tensor Index, Tensor Column) Columns(Tape tape) =>
        (tape.New(_distinctOf!, _distinctOf!.Length), tape.Constant([.. _distinctOf.Select(i => Distinct[i])], _distinctOf.Length, 1));
}
