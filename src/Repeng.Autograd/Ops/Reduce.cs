using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>Sum over dimension <paramref name="dim"/> (negative counts from the end); the dimension disappears.</summary>
    public Tensor Sum(Tensor x, int dim)
    {
        (int outer, int n, int inner, int[] shape) = Split(x.Shape, dim);
        Tensor y = New(shape);
        Backend.ReduceSum(y.Data, x.Data, outer, n, inner, accumulate: false);
        if (!Tracks(x))
            return y;
        return Record(y, [], () => Backend.ReduceSumBackward(x.GradToAdd(), y.Grad, outer, n, inner));
    }

    /// <summary>Sum of all elements, a scalar [1].</summary>
    public Tensor Sum(Tensor x)
    {
        Tensor y = New(1);
        int n = checked((int)x.Length);
        Backend.ReduceSum(y.Data, x.Data, 1, n, 1, accumulate: false);
        if (!Tracks(x))
            return y;
        return Record(y, [], () => Backend.ReduceSumBackward(x.GradToAdd(), y.Grad, 1, n, 1));
    }

    /// <summary>Mean of all elements, a scalar [1].</summary>
    public Tensor Mean(Tensor x) => Scale(Sum(x), 1f / x.Length);

    /// <summary>The same memory with another shape.</summary>
    public Tensor Reshape(Tensor x, params ReadOnlySpan<int> shape) => Part(x, 0, shape);

    /// <summary>Rows [start, start + count) of x seen as [rows, cols]; the same memory.</summary>
    public Tensor SliceRows(Tensor x, int start, int count) => Part(x, (long)start * x.Cols, count, x.Cols);

    /// <summary>Rows of x seen as [rows, cols] at the given I32 indices.</summary>
    public Tensor GatherRows(Tensor x, Tensor index)
    {
        int rows = checked((int)index.Length), cols = x.Cols;
        Tensor y = New(rows, cols);
        Backend.GatherRows(y.Data, x.Data, index.Data, rows, cols);
        if (!Tracks(x))
            return y;
        return Record(y, [index], () => Backend.GatherRowsBackward(x.GradToAdd(), y.Grad, index.Data, rows, cols));
    }

    /// <summary>Splits the last dimension into parts of the given sizes (copies).</summary>
    public Tensor[] SplitColumns(Tensor x, params ReadOnlySpan<int> sizes)
    {
        int rows = x.Rows, cols = x.Cols;
        var parts = new Tensor[sizes.Length];
        var offsets = new int[sizes.Length];
        int offset = 0;
        for (int i = 0; i < parts.Length; i++)
        {
            int[] shape = [.. x.Shape];
            shape[^1] = sizes[i];
            parts[i] = New(shape);
            offsets[i] = offset;
            Backend.CopyColumns(parts[i].Data, sizes[i], 0, x.Data, cols, offset, rows, sizes[i], accumulate: false);
            offset += sizes[i];
        }
        if (offset != cols)
            throw new ArgumentException($"parts of {offset} columns out of {x}");
        if (!Tracks(x))
            return parts;
        return RecordMany(parts, [], () =>
        {
            View dx = x.GradToAdd();
            for (int i = 0; i < parts.Length; i++)
                Backend.CopyColumns(dx, cols, offsets[i], parts[i].Grad, parts[i].Cols, 0, rows, parts[i].Cols, accumulate: true);
        });
    }

    /// <summary>Stacks matrices of the same width on top of each other (copies).</summary>
    public Tensor ConcatRows(params ReadOnlySpan<Tensor> parts)
    {
        Tensor[] inputs = parts.ToArray();
        int cols = inputs[0].Cols, rows = inputs.Sum(p => p.Rows);
        Tensor y = New(rows, cols);
        long at = 0;
        foreach (Tensor p in inputs)
        {
            Backend.Copy(y.Data.Slice(at, p.Length), p.Data);
            at += p.Length;
        }
        if (!Tracks(inputs))
            return y;
        return Record(y, [], () =>
        {
            long from = 0;
            foreach (Tensor p in inputs)
            {
                if (p.RequiresGrad)
                    Backend.AddScaled(p.GradToAdd(), y.Grad.Slice(from, p.Length), p.Length, 1);
                from += p.Length;
            }
        });
    }

    /// <summary>
    /// Tensors of one shape as one, [count, …shape] (copies), so that ops on many small ones are few calls.
    /// </summary>
    /// <param name="parts">One tensor or more.</param>
    /// <param name="reached">
    /// Which parts get their share of the gradient; null for all. Others are left without one, as if nothing had depended on them, where
    /// what follows the stack was used for some of the parts alone.
    /// </param>
    public Tensor Stack(IReadOnlyList<Tensor> parts, Func<int, bool>? reached = null)
    {
        Tensor[] inputs = [.. parts];
        long length = inputs[0].Length;
        if (Array.Find(inputs, p => !p.Shape.AsSpan().SequenceEqual(inputs[0].Shape)) is { } other)
            throw new ArgumentException($"a stack of {inputs[0]} and {other}: shapes differ");
        Tensor y = New([inputs.Length, .. inputs[0].Shape]);
        Backend.CopySeveral(Slices(y.Data), Array.ConvertAll(inputs, p => p.Data), accumulate: false);
        if (!Tracks(inputs))
            return y;
        return Record(y, [], () =>
        {
            View[] from = Slices(y.Grad);
            List<View> first = [], firstFrom = [], more = [], moreFrom = [];
            for (int i = 0; i < inputs.Length; i++)
            {
                if (!inputs[i].RequiresGrad || reached?.Invoke(i) == false)
                    continue;
                View grad = inputs[i].GradForWrite(out bool fresh);
                (fresh ? first : more).Add(grad);
                (fresh ? firstFrom : moreFrom).Add(from[i]);
            }
            Backend.CopySeveral(first.ToArray(), firstFrom.ToArray(), accumulate: false);
            Backend.CopySeveral(more.ToArray(), moreFrom.ToArray(), accumulate: true);
        });

        View[] Slices(View whole) => [.. Enumerable.Range(0, inputs.Length).Select(i => whole.Slice(i * length, length))];
    }

    /// <summary>A [nb·bs, nb·bs] matrix with the blocks [nb, bs, bs] on its diagonal; of blocks [count, nb, bs, bs] a stack of them.</summary>
    public Tensor BlockDiagonal(Tensor blocks)
    {
        int nb = blocks.Shape[^3], bs = blocks.Shape[^1], n = nb * bs, all = (int)(blocks.Length / ((long)bs * bs));
        Tensor y = Filled(0, [.. blocks.Shape.AsSpan(0, blocks.Shape.Length - 3), n, n]);
        for (int i = 0; i < all; i++)
            Backend.CopyColumns(y.Data.Slice((long)i * bs * n, (long)bs * n), n, i % nb * bs, blocks.Data.Slice((long)i * bs * bs, (long)bs * bs), bs, 0, bs, bs, accumulate: false);
        if (!Tracks(blocks))
            return y;
        return Record(y, [], () =>
        {
            View d = blocks.GradToAdd();
            for (int i = 0; i < all; i++)
                Backend.CopyColumns(d.Slice((long)i * bs * bs, (long)bs * bs), bs, 0, y.Grad.Slice((long)i * bs * n, (long)bs * n), n, i % nb * bs, bs, bs, accumulate: true);
        });
    }

    private Tensor Part(Tensor x, long start, params ReadOnlySpan<int> shape)
    {
        Tensor y = Own(x.Alias(start, shape));
        if (!Tracks(x))
            return y;
        return Record(y, [], () => Backend.AddScaled(x.GradToAdd().Slice(start, y.Length), y.Grad, y.Length, 1));
    }

    private static (int Outer, int N, int Inner, int[] Remaining) Split(int[] shape, int dim)
    {
        if (dim < 0)
            dim += shape.Length;
        if ((uint)dim >= (uint)shape.Length)
            throw new ArgumentOutOfRangeException(nameof(dim), dim, $"a shape of {shape.Length} dimensions");
        long outer = Tensor.Count(shape.AsSpan(0, dim)), inner = Tensor.Count(shape.AsSpan(dim + 1));
        int[] rest = [.. shape.AsSpan(0, dim), .. shape.AsSpan(dim + 1)];
        return (checked((int)outer), shape[dim], checked((int)inner), rest.Length == 0 ? [1] : rest);
    }
}
