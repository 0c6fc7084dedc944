using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Tests.Training;

/// <summary>The algebra of subspaces on cases that can be worked out by hand, and AntiPaSTO's subspaces of a small random model.</summary>
public sealed class LossSubspacesTests : IDisposable
{
    private readonly Device _device = Device.Cpu(1);
    private readonly ModelInitialiser _weights;
    private readonly DecoderModel _model;
    private readonly PairData _data;

    public LossSubspacesTests()
    {
        var recipe = new DemoModelRecipe { Layers = 2, Hidden = 32, Intermediate = 48, Heads = 1 };
        ModelConfig config = Families.Read(new ConfigReader(recipe.Config(), "test"));
        _weights = new ModelInitialiser(config, 5, 0.2);
        _model = ModelLoader.Load(_device, config, _weights);
        var random = new PhiloxSequence(7, 0);
        int[] Text() => [.. Enumerable.Range(0, 6).Select(_ => 4 + (int)(random.NextUInt32() % 60))];
        _data = new PairData([.. Enumerable.Range(0, 24).Select(_ => new TokenPair(Text(), Text()))], 0);
    }

    [Fact]
    public void Principal_angles_of_planes_are_cut_in_half()
    {
        // Both planes hold e0; the second directions are 30° apart in the plane of e1 and e2.
        (double cos, double sin) = (Math.Cos(Math.PI / 6), Math.Sin(Math.PI / 6));
        var a = Subspace.Of("a", [1, 0, 0, 0, 0, 1, 0, 0], 4);
        var b = Subspace.Of("b", [1, 0, 0, 0, 0, cos, sin, 0], 4);

        Subspace both = Subspace.Intersect(_device.HostWorkers, "both", a, b, 4);

        Assert.Equal(2, both.Rank);
        Assert.Equal(1, both.Weights![0], 6);
        Assert.Equal(cos, both.Weights[1], 6);
        Assert.Equal(1, Math.Abs(both.Row(0)[0]), 6);
        Assert.Equal(Math.Cos(Math.PI / 12), Math.Abs(both.Row(1)[1]), 6);
        Assert.Equal(Math.Sin(Math.PI / 12), Math.Abs(both.Row(1)[2]), 6);
    }

    [Fact]
    public void Directions_more_than_sixty_degrees_apart_are_not_shared()
    {
        double angle = 70 * Math.PI / 180;
        var a = Subspace.Of("a", [1, 0, 0, 0, 0, 1, 0, 0], 4);
        var b = Subspace.Of("b", [1, 0, 0, 0, 0, Math.Cos(angle), Math.Sin(angle), 0], 4);
        Assert.Equal(1, Subspace.Intersect(_device.HostWorkers, "both", a, b, 4).Rank);
    }

    [Fact]
    public void Weights_on_both_sides_decide_which_shared_direction_comes_first()
    {
        // The same plane twice; e1 matters more in the product of the shares: 0.4·0.9 against 0.6·0.1.
        var a = Subspace.Of("a", [1, 0, 0, 0, 1, 0], 3, [3, 2]);
        var b = Subspace.Of("b", [0, 1, 0, 1, 0, 0], 3, [9, 1]);
        Subspace both = Subspace.Intersect(_device.HostWorkers, "both", a, b, 3);
        Assert.Equal(1, Math.Abs(both.Row(0)[1]), 6);
        Assert.Equal(0.36, both.Weights![0], 6);
        Assert.Equal(0.06, both.Weights[1], 6);
        Assert.Equal(1, both.RankForEnergy(0.6));
        Assert.Equal(2, both.RankForEnergy(0.9));
    }

    [Fact]
    public void What_lies_outside_is_orthogonal_to_what_was_taken_away()
    {
        var a = Subspace.Of("a", [1, 1, 0, 0, 0, 0, 1, 1], 4);
        var b = Subspace.Of("b", [1, 0, 0, 0, 0, 0, 0, 1], 4);
        Subspace outside = Subspace.Outside("outside", a, b);
        Assert.Equal([0, 1, 0, 0, 0, 0, 1, 0], outside.Directions.Select(x => Math.Round(Math.Abs(x), 9)));
        Assert.Throws<UserErrorException>(() => Subspace.Outside("nothing", b, b));
    }

    public static TheoryData<string> Names => [.. LossSubspaces.Names];

    [Theory]
    [MemberData(nameof(Names))]
    public void Every_subspace_is_an_orthonormal_basis(string name)
    {
        using Tensor basis = Subspaces().Basis(name, 2, 0.6);
        float[] x = basis.ToArray();
        Assert.Equal([32, 2], basis.Shape);
        for (int p = 0; p < 2; p++)
            for (int q = 0; q < 2; q++)
                Assert.Equal(p == q ? 1 : 0, Enumerable.Range(0, 32).Sum(i => (double)x[i * 2 + p] * x[i * 2 + q]), 5);
    }

    [Fact]
    public void Complements_keep_clear_of_what_is_read()
    {
        LossSubspaces subspaces = Subspaces();
        Overlap("write_x_notlogits", "logits_read");
        Overlap("write_not_read", "logits_read");

        void Overlap(string a, string b)
        {
            Subspace inner = subspaces.Get(b), outer = subspaces.Get(a);
            for (int i = 0; i < outer.Rank; i++)
                Assert.Equal(1, inner.Without(outer.Row(i)).Sum(x => x * x), 6);
        }
    }

    [Fact]
    public void The_suppressed_subspace_is_that_of_the_sums_over_blocks()
    {
        // By the definition: Σ relu(h_{l+1} − h_l) − Σ relu(h_l − h_{l+1}), outside of what the head reads.
        LossSubspaces subspaces = Subspaces();
        Subspace suppressed = subspaces.Get("suppressed"), head = subspaces.Get("logits_read");
        var rows = new List<double[]>();
        using var tape = new Tape(_device, record: false);
        TokenBatch batch = _data.Batch([.. Enumerable.Range(0, 24)]);
        var context = new ForwardContext(tape, batch) { KeepHiddenStates = true };
        _model.Forward(context);
        float[][] states = [.. context.HiddenStates.Select(h => h.ToArray())];
        for (int b = 0; b < batch.Batch; b++)
        {
            var row = new double[32];
            for (int l = 0; l + 1 < states.Length; l++)
                for (int j = 0; j < 32; j++)
                {
                    int at = ((b + 1) * batch.Length - 1) * 32 + j;
                    double change = (double)states[l + 1][at] - states[l][at];
                    row[j] += Math.Max(0, change) - Math.Max(0, -change);
                }
            rows.Add(head.Without(row));
        }
        double[] mean = [.. Enumerable.Range(0, 32).Select(j => rows.Average(r => r[j]))];
        for (int i = 0; i < 3; i++)
        {
            double variance = rows.Average(r => Math.Pow(r.Zip(mean, (x, m) => x - m).Zip(suppressed.Row(i).ToArray(), (x, v) => x * v).Sum(), 2));
            // Weights are eigenvalues of the covariance, up to the factor n/(n − 1).
            Assert.Equal(variance * rows.Count / (rows.Count - 1), suppressed.Weights![i], 4);
        }
    }

    [Fact]
    public void A_rank_that_is_not_there_is_refused()
    {
        var error = Assert.Throws<UserErrorException>(() => Subspaces().Basis("taskdiff", 30, 0.6));
        Assert.Contains("24 pairs", error.Message);
        Assert.Contains("--loss_subspace_rank", Assert.Throws<UserErrorException>(() => Subspaces().Basis("write", 0, 0.6)).Message);
    }

    [Fact]
    public void Every_subspace_keeps_to_the_texts_that_it_may_use()
    {
        var few = new LossSubspaces(_model, 1, _data, 8, 5);
        foreach (string name in new[] { LossSubspaces.Uncentred, "taskdiff" })
            Assert.Contains("4 pairs", Assert.Throws<UserErrorException>(() => few.Basis(name, 5, 0.6)).Message);
        using Tensor four = few.Basis(LossSubspaces.Uncentred, 4, 0.6);
        Assert.Equal([32, 4], four.Shape);
    }

    public void Dispose()
    {
        _model.Dispose();
        _weights.Dispose();
        _device.Dispose();
    }

    private LossSubspaces Subspaces() => new(_model, 1, _data, 2000, 5);
}
