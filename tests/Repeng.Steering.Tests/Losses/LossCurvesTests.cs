using Repeng.Runtime;
using Repeng.Steering.Losses;

namespace Repeng.Steering.Tests.Losses;

/// <summary>What docs/loss-geometry.md says of the shapes of the losses.</summary>
public sealed class LossCurvesTests : IDisposable
{
    private readonly Device _device = Device.Cpu();

    public void Dispose() => _device.Dispose();

    [Fact]
    public void Separation_terms_fall_and_only_the_linear_one_never_ends()
    {
        LossCurve[] curves = [.. LossCurves.Separation(_device)];
        Assert.All(curves, c => Assert.All(c.Points.Zip(c.Points.Skip(1)), p => Assert.True(p.Second.Y <= p.First.Y, c.Name)));
        (LossCurve linear, LossCurve sigmoid, LossCurve tanh) = (curves[0], curves[1], curves[2]);
        Assert.All(linear.Points, p => Assert.Equal(-p.X, p.Y, 1e-5));
        Assert.Equal(Math.Log(2), At(sigmoid, 1), 1e-5);
        Assert.Equal(Math.Log(1 + Math.Exp(-5)), At(sigmoid, 6), 1e-5);
        Assert.Equal(5 + Math.Log(1 + Math.Exp(-5)), At(sigmoid, -4), 1e-4);
        Assert.Equal(-Math.Tanh(1), At(tanh, 1), 1e-5);
        // One pair that is far off pulls the tanh no longer.
        Assert.True(At(tanh, -4) - At(tanh, -3.5) < 0.002);
    }

    [Fact]
    public void Coherence_terms_are_free_at_first_and_a_barrier_frees_what_is_uncertain()
    {
        Dictionary<string, LossCurve> curves = LossCurves.Coherence(_device).ToDictionary(c => c.Name);
        Assert.Equal(1, At(curves["absolute"], -1), 1e-6);
        Assert.All(curves["hinge, τ = 1.5"].Points.Where(p => p.X <= 1.5), p => Assert.Equal(0, p.Y));
        double d = 10 * Math.Tanh(0.5) - 1.5;
        Assert.Equal(d, At(curves["hinge, τ = 1.5"], 5), 1e-5);
        Assert.Equal(d * d, At(curves["hinge, order 2"], 5), 1e-4);
        LossCurve sure = curves["AntiPaSTO's barrier, p = 0.95"];
        Assert.All(sure.Points.Where(p => p.X <= 0.5), p => Assert.Equal(0, p.Y));
        Assert.True(At(sure, 0.7) > 0.2 && At(sure, 5) is > 3 and < 5, $"{At(sure, 0.7)}, {At(sure, 5)}");
        Assert.All(curves["AntiPaSTO's barrier, p = 0.6"].Points, p => Assert.Equal(0, p.Y));
    }

    [Fact]
    public void The_projection_reads_angles_and_punishes_the_same_side_far_more_than_it_rewards_opposite_ones()
    {
        LossCurve[] curves = [.. LossCurves.Projection(_device)];
        foreach ((double x, double y) in curves[0].Points)
            Assert.Equal(-30 * Math.Pow(Math.Cos(x * Math.PI / 180), 2), y, 1e-3);
        Assert.Equal(-30, At(curves[1], 0), 1e-3);
        double q = -30 * Math.Cos(100 * Math.PI / 180);
        Assert.Equal(q + q * q, At(curves[1], 100), 1e-2);
    }

    private static double At(LossCurve curve, double x) => curve.Points.Single(p => Math.Abs(p.X - x) < 1e-9).Y;
}
