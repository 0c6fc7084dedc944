using Repeng.Kernels.Cuda;
using Repeng.Steering.Tests.Adapters;
using Repeng.Testing;

namespace Repeng.Cuda.Tests;

/// <summary>Whole training runs on the kernels that ship: history, gradients and parameters of the original, step by step.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "adapter")]
public sealed class AdapterGoldenTests
{
    public static IEnumerable<TheoryDataRow<string, string>> Cases =>
        from row in GoldenCase.Names
        from backend in Backends.Names
        where backend != "cpu"
        select new TheoryDataRow<string, string>(row.Data, backend);

    // The first step of every case, AdamW's update included.
    [Theory, MemberData(nameof(Cases))]
    public void TrainingBeginsWithTheOriginalHistoryAndGradients(string name, string backend) => Run(name, backend, 1);

    // A minute a case on the emulator: dotnet Repeng.Cuda.Tests.dll -explicit only -trait Category=Long
    [Theory(Explicit = true), MemberData(nameof(Cases))]
    [Trait("Category", "Long")]
    public void WholeTrainingGivesTheOriginalHistoryGradientsAndParameters(string name, string backend) => Run(name, backend, int.MaxValue);

    // The original's history is fp32's. Rounding changes an operand by up to 2⁻⁹; through the products of the blocks, there and back, a few percent are left of values, and of gradients, which
    // are sums of both signs, up to a tenth of the largest (seen: 0.084, the rotations of readme-linear).
    private static readonly GoldenTraining.Tolerances s_bf16 = new(History: 3e-2, Gradients: 0.15, Parameters: 5e-2, Logits: 5e-2);

    private const double Times = 6;

    [Theory, MemberData(nameof(Cases))]
    public void TrainingBeginsWithThemInBf16WithinItsRounding(string name, string backend) => Run(name, backend, 1, CudaPrecision.Bf16, s_bf16);

    [Theory(Explicit = true), MemberData(nameof(Cases))]
    [Trait("Category", "Long")]
    public void WholeTrainingInBf16StaysWithinItsRounding(string name, string backend)
    {
        // How far a history of so many steps of AdamW strays is a matter of the case, not of the step: so the measure is what rounding nothing but the weights, once, does to it in fp32 on the CPU.
        GoldenTraining.Deviations weights = new(), all = new();
        Run(name, "cpu", int.MaxValue, tolerances: new() { Seen = weights }, roundWeights: true);
        Run(name, backend, int.MaxValue, CudaPrecision.Bf16, new() { Seen = all });
        TestContext.Current.SendDiagnosticMessage($"{name}: weights rounded: {weights}; all rounded: {all}");
        Assert.InRange(all.History, 0, Times * weights.History);
        Assert.InRange(all.Gradients, 0, Times * weights.Gradients);
        Assert.InRange(all.Parameters, 0, Times * weights.Parameters);
        Assert.InRange(all.Logits, 0, Times * weights.Logits);
    }

    private static void Run(string name, string backend, int steps, CudaPrecision precision = CudaPrecision.Exact, GoldenTraining.Tolerances? tolerances = null, bool roundWeights = false)
    {
        string folder = Golden.Require("adapter");
        using var golden = new GoldenCase(folder, name, backend, precision);
        if (roundWeights)
            golden.RoundWeights();
        GoldenTraining.Run(golden, GoldenCase.Batches(folder), checkpoint: false, steps, tolerances);
    }
}
