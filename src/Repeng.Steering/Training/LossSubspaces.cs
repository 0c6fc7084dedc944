using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Training;

/// <summary>
/// The subspaces of the residual stream that AntiPaSTO's loss can be projected on, under AntiPaSTO's names:
/// taskdiff (principal components of the differences positive − negative at the loss block), suppressed (of what blocks
/// write and later ones take back, outside of the head's reach), write and read (what output projections can write and
/// input projections can see), logits_read (what the head sees), and their intersections "_x_" and complements "not".
/// taskdiff_uncentred is ours: the mean difference is part of it.
/// </summary>
public sealed class LossSubspaces
{
    /// <summary>Upstream's default.</summary>
    public const string Default = "taskdiff_x_suppressed_x_write";

    /// <summary>Principal directions of the differences about zero rather than about their mean.</summary>
    public const string Uncentred = "taskdiff_uncentred";

    private const double EarlyPart = 0.1;
    private readonly DecoderModel _model;
    private readonly int _block;
    private readonly PairData _data;
    private readonly int _pairs;
    private readonly int _perBatch;
    private readonly int _rank;
    private readonly Action<string, int, int>? _progress;
    private readonly Dictionary<string, Subspace> _made = [];
    private (double[] Differences, double[] Written)? _activations;

    /// <summary>
    /// Subspaces of a model for a loss on the output of a block. Activations are those of at most rows / 2 leading pairs at
    /// the last token, adapter off. Progress hears what is being made, how much is done, of how much.
    /// </summary>
    public LossSubspaces(DecoderModel model, int block, PairData data, int rows, int pairsPerBatch, Action<string, int, int>? progress = null)
    {
        (_model, _block, _data, _perBatch, _progress) = (model, block, data, pairsPerBatch, progress);
        _pairs = Math.Min(data.Pairs.Count, Math.Max(1, rows / 2));
        // Upstream's 256 would be everything in a narrow model, and nothing would lie outside of it.
        _rank = Math.Min(256, model.Config.HiddenSize / 2);
    }

    /// <summary>Names, upstream's and ours.</summary>
    public static IReadOnlyList<string> Names { get; } =
    [
        "taskdiff_x_suppressed_x_write", "taskdiff_x_suppressed", "taskdiff_x_logits_read", "taskdiff_x_write_not_read", "taskdiff_x_write_x_notlogits",
        "taskdiff", Uncentred, "suppressed", "write", "read", "logits_read", "write_not_read", "write_x_notlogits",
    ];

    private CpuWorkers Workers => _model.Device.HostWorkers;

    private ISingularVectors? Solver => _model.Device.Backend as ISingularVectors;

    private int Width => _model.Config.HiddenSize;

    /// <summary>The basis [d, k] of a subspace: k leading directions, or with k = 0 as many as make up this part of its weights.</summary>
    public Tensor Basis(string name, int k, double energy)
    {
        if (name == Uncentred)
        {
            if (k <= 0)
                throw new UserErrorException($"loss subspace {name} has no weights to choose its rank by; give --loss_subspace_rank");
            return AboutZero(name, k);
        }
        Subspace subspace = Get(name);
        int rank = k > 0 ? k : subspace.RankForEnergy(energy);
        if (rank > subspace.Rank)
            throw new UserErrorException($"--loss_subspace_rank {rank}: {name} has only {subspace.Rank} directions for {_pairs} pairs and a width of {Width}; ask for fewer, give more pairs, or take another --loss_subspace");
        return Tensor.From(_model.Device, subspace.Basis(rank), Width, rank);
    }

    /// <summary>A subspace by name.</summary>
    public Subspace Get(string name)
    {
        if (!_made.TryGetValue(name, out Subspace? subspace))
            _made[name] = subspace = Make(name);
        return subspace;
    }

    private Subspace Make(string name) => name switch
    {
        "taskdiff" => TaskDifference(name),
        "suppressed" => Suppressed(name),
        "write" => Weights(name, b => b.Writers, columns: true),
        "read" => Weights(name, b => b.Linears.Except(b.Writers), columns: false),
        "logits_read" => Head(name),
        "write_not_read" => Subspace.Outside(name, Subspace.Outside(name, Get("write"), Get("read")), Get("logits_read")),
        "write_x_notlogits" => Subspace.Outside(name, Get("write"), Get("logits_read")),
        "taskdiff_x_suppressed" => Both(name, "taskdiff", "suppressed"),
        "taskdiff_x_suppressed_x_write" => Both(name, "taskdiff_x_suppressed", "write"),
        "taskdiff_x_logits_read" => Both(name, "taskdiff", "logits_read"),
        "taskdiff_x_write_not_read" => Both(name, "taskdiff", "write_not_read"),
        "taskdiff_x_write_x_notlogits" => Both(name, "taskdiff", "write_x_notlogits"),
        _ => throw new UserErrorException($"loss subspace {name} is not known; known: {string.Join(", ", Names)}"),
    };

    private Subspace Both(string name, string a, string b) => Subspace.Intersect(Workers, name, Get(a), Get(b), _rank);

    // Each pair votes alike: rows are divided by their length, tiny ones held down by a hundredth of the median length.
    private Subspace TaskDifference(string name)
    {
        double[] rows = [.. Activations().Differences], lengths = new double[_pairs];
        for (int i = 0; i < _pairs; i++)
            lengths[i] = Math.Sqrt(rows.AsSpan(i * Width, Width).ToArray().Sum(x => x * x));
        double floor = 0.01 * Math.Max(lengths.Order().ElementAt((_pairs - 1) / 2), 1e-8);
        for (int i = 0; i < rows.Length; i++)
            rows[i] /= lengths[i / Width] + floor;
        return Principal(name, rows, Math.Sqrt);
    }

    /*
     * Upstream sums relu(h_{l+1} − h_l) − relu(h_l − h_{l+1}) over the blocks after the first tenth. As relu(x) − relu(−x) = x
     * the sum telescopes: it is the last hidden state (after the final norm, as in transformers) less the one where it began.
     */
    private Subspace Suppressed(string name)
    {
        Subspace head = Get("logits_read");
        double[] written = Activations().Written;
        var rows = new double[written.Length];
        for (int first = 0; first < rows.Length; first += Width)
            head.Without(written.AsSpan(first, Width)).CopyTo(rows, first);
        // Weights are the covariance's eigenvalues here, not singular values.
        return Principal(name, rows, v => v);
    }

    private Subspace Principal(string name, double[] rows, Func<double, double> weight)
    {
        int n = rows.Length / Width, k = Math.Min(_rank, Math.Min(n - 1, Width));
        if (k < 1)
            throw new UserErrorException($"loss subspace {name}: {n} text{(n == 1 ? "" : "s")} have no principal components; give more pairs");
        PrincipalComponents components = PrincipalComponents.Compute(Workers, rows, n, Width, k);
        return Subspace.Of(name, components.Components, Width, [.. components.Variances.Select(weight)]);
    }

    private Subspace Head(string name)
    {
        _progress?.Invoke("singular vectors of the head", 0, 1);
        TruncatedSvd svd = TopSvd.Compute(Workers, WeightReader.ToHost(_model.Head), _model.Head.Rows, Width, Math.Min(_rank, Math.Min(_model.Head.Rows, Width)), Solver);
        _progress?.Invoke("singular vectors of the head", 1, 1);
        return Subspace.Of(name, Transposed(svd.V, Width, svd.Rank), Width, [.. svd.S.Select(s => (double)s)]);
    }

    // Leading directions of the sum of the projectors on every module's leading columns (or rows): the left singular
    // vectors of all those bases side by side.
    private Subspace Weights(string name, Func<Block, IEnumerable<LinearModule>> modules, bool columns)
    {
        LinearModule[] all = [.. _model.Blocks.SelectMany(modules)];
        var stack = new List<float>();
        string what = $"singular vectors of what blocks {(columns ? "write" : "read")}";
        for (int i = 0; i < all.Length; i++)
        {
            int k = Math.Min(_rank, Math.Min(all[i].Outputs, all[i].Inputs));
            TruncatedSvd svd = TopSvd.Compute(Workers, WeightReader.ToHost(all[i].Weight), all[i].Outputs, all[i].Inputs, k, Solver);
            stack.AddRange(Transposed(columns ? svd.U : svd.V, Width, k).Select(x => (float)x));
            _progress?.Invoke(what, i + 1, all.Length);
        }
        int rows = stack.Count / Width, rank = Math.Min(_rank, rows);
        TruncatedSvd top = TopSvd.Compute(Workers, System.Runtime.InteropServices.CollectionsMarshal.AsSpan(stack), rows, Width, rank, Solver);
        return Subspace.Of(name, Transposed(top.V, Width, rank), Width);
    }

    private (double[] Differences, double[] Written) Activations()
    {
        if (_activations is { } known)
            return known;
        int d = Width, layers = _model.Config.NumLayers, begin = (int)(EarlyPart * layers);
        double[] differences = new double[_pairs * d], written = new double[2 * _pairs * d];
        Visit((tape, texts) => new ForwardContext(tape, texts) { KeepHiddenStates = true }, (pairs, context, last) =>
        {
            float[] task = last(context.HiddenStates[_block + 1]), start = last(context.HiddenStates[begin]), end = last(context.HiddenStates[layers]);
            for (int b = 0; b < 2 * pairs.Length; b++)
                for (int j = 0; j < d; j++)
                {
                    int pair = pairs[b / 2];
                    written[(2 * pair + b % 2) * d + j] = (double)end[b * d + j] - start[b * d + j];
                    differences[pair * d + j] += (b % 2 == 0 ? 1 : -1) * (double)task[b * d + j];
                }
        });
        _activations = (differences, written);
        return (differences, written);
    }

    // Leading principal directions, about zero, of the differences divided by their length. Nothing after the block is run.
    private Tensor AboutZero(string name, int k)
    {
        int d = Width;
        if (k > Math.Min(d, _pairs))
            throw new UserErrorException($"--loss_subspace_rank {k}: {name} has no more directions than the smaller of {_pairs} pairs and a width of {d}; ask for fewer, or give more pairs");
        var rows = new float[(long)_pairs * d];
        string path = _model.Blocks[_block].Path;
        Visit((tape, texts) => new ForwardContext(tape, texts) { Capture = m => m == path, LastBlock = _block }, (pairs, context, last) =>
        {
            float[] h = last(context.Outputs[path]);
            for (int i = 0; i < pairs.Length; i++)
            {
                Span<float> row = rows.AsSpan(pairs[i] * d, d);
                double square = 0;
                for (int j = 0; j < d; j++)
                {
                    row[j] = h[2 * i * d + j] - h[(2 * i + 1) * d + j];
                    square += (double)row[j] * row[j];
                }
                float scale = square > 0 ? (float)(1 / Math.Sqrt(square)) : 0;
                for (int j = 0; j < d; j++)
                    row[j] *= scale;
            }
        });
        TruncatedSvd svd = TopSvd.Compute(Workers, rows, _pairs, d, k, Solver);
        return Tensor.From(_model.Device, svd.V, d, k);
    }

    // Runs the leading pairs through the base model; use hears the pairs of a batch, the pass, and how to read the last
    // token's values [2 · pairs, d] of one of its tensors.
    private void Visit(Func<Tape, SharedPrefixes, ForwardContext> pass, Action<int[], ForwardContext, Func<Tensor, float[]>> use)
    {
        int done = 0;
        foreach (int[] pairs in _data.ByLength(_pairs, _perBatch))
        {
            SharedPrefixes texts = SharedPrefixes.Of(_data.Batch(pairs));
            using var tape = new Tape(_model.Device, record: false);
            ForwardContext context = pass(tape, texts);
            _model.Forward(context);
            int[] last = texts.RowsFromEnd(1);
            use(pairs, context, x => tape.GatherRows(x, tape.New(last, last.Length)).ToArray());
            done += pairs.Length;
            _progress?.Invoke("loss subspace", done, _pairs);
        }
    }

    private static double[] Transposed(float[] columns, int rows, int count)
    {
        var result = new double[rows * count];
        for (int i = 0; i < rows; i++)
            for (int q = 0; q < count; q++)
                result[q * rows + i] = columns[i * count + q];
        return result;
    }
}
