using System.Runtime.InteropServices;
using Repeng.Steering.Generation;

namespace Repeng.Cuda.Tests;

/// <summary>sampling.cu chooses the tokens that the CPU's sampler chooses.</summary>
public sealed class SamplingKernelTests
{
    /// <summary>SampleRow of kernels/sampling.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Row
    {
        public ulong Seen;
        public int SeenCount, Sample;
        public ulong Seed, Stream, Step;
        public float RepetitionPenalty, Temperature, TopP, MinP;
        public int TopK, Reserved;
    }

    public static TheoryData<SamplingSettings> Settings() =>
    [
        new(new SamplingSettings { Sample = false, RepetitionPenalty = 1.3f }),
        new(new SamplingSettings { Sample = true, Seed = 5 }),
        new(new SamplingSettings { Sample = true, Seed = 6, Temperature = 0.7f, TopK = 40 }),
        new(new SamplingSettings { Sample = true, Seed = 7, TopP = 0.8f, RepetitionPenalty = 1.2f }),
        new(new SamplingSettings { Sample = true, Seed = 8, MinP = 0.05f, Temperature = 1.5f }),
        new(new SamplingSettings { Sample = true, Seed = 9, TopK = 50, TopP = 0.9f, MinP = 0.02f, Temperature = 0.9f, RepetitionPenalty = 0.9f }),
    ];

    [Theory]
    [MemberData(nameof(Settings))]
    public void ChoosesWhatTheCpuChooses(SamplingSettings settings) => Compare(settings, 1500, 3, 0);

    /// <summary>Rows that are and are not whole 16 bytes; more candidates for top-k or top-p than the list takes (scores so near each other that their keys begin alike); more kept than it takes.</summary>
    [Theory]
    [InlineData(9000, 40, 0.9, 0.001, 3, 0)]
    [InlineData(9001, 40, 0.9, 0.001, 3, 0)]
    [InlineData(9000, 40, 0.9, 0.001, 0.01, 1.5)]
    [InlineData(9001, 700, 0.9, 0.001, 3, 0)]
    [InlineData(6000, 513, 1, 0, 0.5, -9)]
    [InlineData(9000, 0, 0.9, 0, 6, 0)]
    [InlineData(9001, 0, 0.9, 0.01, 6, 2)]
    [InlineData(9000, 0, 0.5, 0.001, 0.01, 1.5)]
    [InlineData(9000, 0, 0.9, 0, 1, 0)]
    [InlineData(9001, 0, 1, 0.02, 3, 0)]
    [InlineData(9000, 0, 1, 0, 2, 0)]
    [InlineData(9001, 0, 1, 0, 2, 0)]
    public void ListsMayBeTooShort(int n, int topK, double topP, double minP, double spread, double centre)
        => Compare(new SamplingSettings { Sample = true, Seed = 3, TopK = topK, TopP = (float)topP, MinP = (float)minP, Temperature = 0.8f, RepetitionPenalty = 1.1f }, n, spread, centre);

    private static void Compare(SamplingSettings settings, int n, double spread, double centre)
    {
        using Gpu gpu = new();
        const int rows = 3;
        float[] logits = Array.ConvertAll(Gpu.Random(rows * n, 1, spread), v => v + (float)centre);
        logits[7] = float.NegativeInfinity;
        int[] seen = [1, 3, 8, 700, 1499];
        ulong ids = gpu.Upload(seen), tokens = gpu.Empty<int>(rows), scores = gpu.Empty<float>(rows * n), input = gpu.Upload(logits);
        for (ulong step = 0; step < 3; step++)
        {
            Row[] parameters = [.. Enumerable.Range(0, rows).Select(r => new Row
            {
                Seen = ids,
                SeenCount = r == 1 ? 0 : seen.Length,
                Sample = settings.Sample ? 1 : 0,
                Seed = settings.Seed,
                Stream = (ulong)r,
                Step = step,
                RepetitionPenalty = settings.RepetitionPenalty,
                Temperature = settings.Temperature,
                TopP = settings.TopP,
                MinP = settings.MinP,
                TopK = settings.TopK,
            })];
            gpu.Run("sampling", "sample", rows, 512, tokens, scores, input, gpu.Upload(parameters), n);
            int[] chosen = gpu.Read<int>(tokens, rows);
            float[] processed = gpu.Read(scores, rows * n);
            for (int r = 0; r < rows; r++)
            {
                Sampler sampler = new(settings, n);
                int expected = sampler.Next(logits.AsSpan(r * n, n), r == 1 ? [] : seen, (ulong)r, step);
                Assert.Equal(sampler.Scores.ToArray(), processed[(r * n)..((r + 1) * n)]);
                Assert.Equal(expected, chosen[r]);
            }
        }
    }

    [Fact]
    public void GreedyTakesTheFirstOfEquals()
    {
        using Gpu gpu = new();
        float[] logits = new float[2000];
        logits[1200] = logits[1100] = logits[1999] = 2;
        ulong tokens = gpu.Empty<int>(1);
        gpu.Run("sampling", "sample", 1, 512, tokens, gpu.Empty<float>(2000), gpu.Upload(logits), gpu.Upload(new[] { new Row { RepetitionPenalty = 1, Temperature = 1, TopP = 1 } }), 2000);
        Assert.Equal(1100, gpu.Read<int>(tokens, 1)[0]);
    }
}
