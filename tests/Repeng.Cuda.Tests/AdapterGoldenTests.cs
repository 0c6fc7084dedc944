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

    private static void Run(string name, string backend, int steps)
    {
        string folder = Golden.Require("adapter");
        using var golden = new GoldenCase(folder, name, backend);
        GoldenTraining.Run(golden, GoldenCase.Batches(folder), checkpoint: false, steps);
    }
}
