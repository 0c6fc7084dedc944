using Repeng.Testing;

namespace Repeng.Kernels.Tests;

/// <summary>Runs ops of the CPU backend on 1, 2 and 3 threads and compares what they give bit by bit.</summary>
internal static class Threads
{
    public static void AssertSameBits(Action<IBackend, TestMemory, List<(string What, float[] Values)>> run)
    {
        List<(string What, float[] Values)>? first = null;
        for (int threads = 1; threads <= 3; threads++)
        {
            using IBackend b = Backends.Create("cpu", threads);
            using TestMemory memory = new(b);
            List<(string What, float[] Values)> results = [];
            run(b, memory, results);
            first ??= results;
            Assert.Equal(first.Count, results.Count);
            for (int i = 0; i < results.Count; i++)
                for (int j = 0; j < results[i].Values.Length; j++)
                    Assert.True(
                        BitConverter.SingleToInt32Bits(first[i].Values[j]) == BitConverter.SingleToInt32Bits(results[i].Values[j]),
                        $"{results[i].What}[{j}] is {results[i].Values[j]:g9} on {threads} threads and {first[i].Values[j]:g9} on one");
        }
    }
}

/// <summary>Checks that code allocates no managed memory once it has run.</summary>
internal static class Allocation
{
    public static void AssertNone(Action code)
    {
        // The runtime itself may allocate once while it compiles a method again; code that allocates does so every time.
        long smallest = long.MaxValue;
        for (int round = 0; round < 8 && smallest > 0; round++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            code();
            smallest = Math.Min(smallest, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        Assert.Equal(0, smallest);
    }
}
