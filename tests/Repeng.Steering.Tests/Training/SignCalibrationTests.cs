using Repeng.Runtime;
using Repeng.Steering.Adapters;
using Repeng.Steering.Demo;
using Repeng.Steering.Models;
using Repeng.Steering.Training;

namespace Repeng.Steering.Tests.Training;

/// <summary>The sign of a trained adapter.</summary>
public sealed class SignCalibrationTests
{
    [Theory]
    [InlineData(1ul)]
    [InlineData(2ul)]
    [InlineData(3ul)]
    public void An_adapter_and_its_negative_end_as_the_same(ulong seed)
    {
        using Device device = Device.Cpu(1);
        var recipe = new DemoModelRecipe { Layers = 2, Hidden = 32, Intermediate = 32, Heads = 1 };
        ModelConfig description = Families.Read(new ConfigReader(recipe.Config(), "test"));
        using var weights = new ModelInitialiser(description, seed);
        using DecoderModel model = ModelLoader.Load(device, description, weights);
        using SvdAdapter adapter = SvdAdapter.Create(model, new SvdAdapterConfig { Rank = 8, TargetModules = ".*down_proj", InitRotation = 0.3 });
        var data = new PairData([new TokenPair([4, 5, 6], [4, 7, 6]), new TokenPair([8, 5, 9, 3], [8, 7, 9, 3])], 0);

        SignReport first = SignCalibration.Run(model, adapter, data);
        Assert.True(first.Plus > first.Minus, "+c leans toward the positive texts");
        float[][] calibrated = [.. adapter.Parameters.Select(p => p.ToArray())];

        SignReport again = SignCalibration.Run(model, adapter, data);
        Assert.False(again.Flipped);
        Assert.Equal(first.Plus, again.Plus, 1e-6);

        adapter.Negate();
        SignReport turned = SignCalibration.Run(model, adapter, data);
        Assert.True(turned.Flipped);
        Assert.Equal(first.Plus, turned.Plus, 1e-6);
        Assert.Equal(first.Minus, turned.Minus, 1e-6);
        foreach ((float[] a, float[] b) in calibrated.Zip(adapter.Parameters.Select(p => p.ToArray())))
            Assert.Equal(a, b);
    }
}
