using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend : ISampling
{
    private const int SampleThreads = 512;

    /// <inheritdoc/>
    public void Sample(View tokens, View scores, View logits, View seen, ReadOnlySpan<int> seenCounts, int vocabulary, in SampleArgs args, ulong step)
    {
        const string Op = nameof(Sample);
        if (vocabulary < 1)
            throw new ArgumentException($"{Op}: {nameof(vocabulary)} is {vocabulary}, it must be positive");
        int rows = checked((int)tokens.Length);
        long n = (long)rows * vocabulary;
        tokens.Require(rows, DType.I32, Op, nameof(tokens));
        scores.Require(n, DType.F32, Op, nameof(scores));
        logits.Require(n, DType.F32, Op, nameof(logits));
        bool penalty = args.RepetitionPenalty != 1 && !seen.IsEmpty;
        if (penalty && (seenCounts.Length != rows || seen.Length % Math.Max(1, rows) != 0))
            throw new ArgumentException($"{Op}: {seen.Length} seen tokens and {seenCounts.Length} counts for {rows} rows");
        if (rows == 0)
            return;
        int stride = penalty ? checked((int)(seen.Length / rows)) : 0;
        seen.Require((long)rows * stride, DType.I32, Op, nameof(seen));
        var settings = new SampleRow[rows];
        for (int r = 0; r < rows; r++)
        {
            int count = penalty ? seenCounts[r] : 0;
            if (count < 0 || count > stride)
                throw new ArgumentException($"{Op}: row {r} counts {count} of {stride} seen tokens");
            settings[r] = new SampleRow
            {
                Seen = count > 0 ? seen.Address + (nint)((long)r * stride * sizeof(int)) : 0,
                SeenCount = count,
                Sample = args.Sample ? 1 : 0,
                Seed = args.Seed,
                Stream = (ulong)r,
                Step = step,
                RepetitionPenalty = count > 0 ? args.RepetitionPenalty : 1,
                Temperature = args.Temperature,
                TopP = args.TopP,
                MinP = args.MinP,
                TopK = args.TopK,
                Check = 1,
            };
        }
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(settings.AsSpan());
        nint room = Scratch(bytes.Length);
        Context.Upload(room, bytes);
        KernelArguments a = default;
        a.Add(tokens).Add(scores).Add(logits).Add(room).Add(vocabulary);
        Kernel("sampling", "sample").Launch(new((uint)rows), new(SampleThreads), 0, ref a);
    }

    /// <summary>Laid out as SampleRow in kernels/sampling.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private record struct SampleRow
    {
        public nint Seen;
        public int SeenCount;
        public int Sample;
        public ulong Seed;
        public ulong Stream;
        public ulong Step;
        public float RepetitionPenalty;
        public float Temperature;
        public float TopP;
        public float MinP;
        public int TopK;
        public int Check;
    }
}
