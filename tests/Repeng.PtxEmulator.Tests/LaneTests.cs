namespace Repeng.PtxEmulator.Tests;

/// <summary>Races between lanes of one warp in shared memory, planted in Kernels/lanes.cu, where <see cref="EmulatorOptions.CheckLaneRaces"/> asks for the look.</summary>
public sealed class LaneTests
{
    private static readonly float[] s_numbers = [.. Enumerable.Range(0, 64).Select(i => (float)i)];

    private static float[] Run(string kernel, bool compile, bool check, int threads = 32)
    {
        using Gpu gpu = new(new EmulatorOptions { Compile = compile, CheckLaneRaces = check, CheckLeaks = false });
        ulong y = gpu.Empty(256);
        gpu.Run(gpu.Kernel("lanes.ptx", kernel), 1, threads, gpu.Upload(s_numbers), y);
        return gpu.Download<float>(y, threads);
    }

    public static TheoryData<string, string, string> Bugs => new()
    {
        { "exchange_without_barrier", "y[t] = s[t ^ 31]", "a read of 4 bytes at shared 0x" },
        { "overwrite_without_barrier", "s[t] = 2 * v", "a write of 4 bytes at shared 0x" },
        { "exchange_behind_a_shuffle", "y[t] = s[31 - t] + v", "a read of 4 bytes at shared 0x" },
        { "copy_without_barrier", "y[t] = s[31 - t]", "a read of 4 bytes at shared 0x" },
        { "count_without_barrier", "y[t] = (float)n", "which an atomic of another lane uses" },
        { "matrix_without_barrier", "ldmatrix", "a read of 16 bytes at shared 0x" },
    };

    [Theory]
    [MemberData(nameof(Bugs))]
    public void A_missing_barrier_of_the_warp_is_caught(string kernel, string line, string message)
    {
        foreach (bool compile in (bool[])[false, true])
        {
            SharedRaceException fault = Assert.Throws<SharedRaceException>(() => Run(kernel, compile, check: true));
            Assert.Contains(message, fault.Message);
            Assert.Contains("since the last bar.warp.sync or barrier", fault.Message);
            Assert.Contains(line, Gpu.Text("lanes.cu").Split('\n')[fault.Site.Source.Line - 1]);
            // Not looked for unless it is asked for.
            Assert.Equal(32, Run(kernel, compile, check: false).Length);
        }
    }

    [Theory]
    [InlineData("sound_exchange", 64)]
    [InlineData("sound_overwrite", 32)]
    [InlineData("sound_copy", 32)]
    [InlineData("sound_count", 32)]
    [InlineData("sound_matrix", 32)]
    [InlineData("sound_without_barrier", 32)]
    public void What_is_sound_is_left_alone(string kernel, int threads)
    {
        float[] expected = Run(kernel, compile: false, check: false, threads);
        foreach (bool compile in (bool[])[false, true])
            Assert.Equal(expected, Run(kernel, compile, check: true, threads));
    }
}
