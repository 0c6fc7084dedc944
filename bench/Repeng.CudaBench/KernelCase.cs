namespace Repeng.CudaBench;

/// <summary>What a kernel cannot do without.</summary>
/// <param name="Read">Bytes of what it reads, each operand once.</param>
/// <param name="Written">Bytes of what it writes.</param>
/// <param name="Asked">Bytes that its plan asks of memory, reads and writes: where a tile or a row is read again by another block or row, from the cache. 0: the operands once.</param>
/// <param name="Mma">FLOP of the tensor core that the accuracy asks for.</param>
internal sealed record Floor(double Read, double Written, double Asked = 0, double Mma = 0)
{
    /// <summary>Every operand once.</summary>
    public double Once => Read + Written;

    /// <summary>What may be asked.</summary>
    public double Plan => Asked > 0 ? Asked : Once;
}

/// <summary>A run of one or more kernels at one shape.</summary>
internal sealed record KernelCase(string Shape, Action<EmulatedGpu> Run, params (string Kernel, Floor Floor)[] Expected);

/// <summary>A line of the board.</summary>
internal sealed record BoardRow(string Kernel, string Shape, Floor Floor, KernelCounts Counts)
{
    /// <summary>Most of what may be asked over the floor, and of tensor work over what is needed.</summary>
    public const double MostTraffic = 1.15, MostMma = 1.1, LeastTraffic = 0.95;

    public double Traffic => Counts.Bytes / Floor.Plan;

    /// <summary>Asked over the operands once: what the cache has to give.</summary>
    public double Cached => Counts.Bytes / Floor.Once;

    public long ExtraWays => Counts.SharedWays - Counts.SharedPhases;

    public double Mma => Floor.Mma == 0 ? 0 : Counts.MmaFlop / Floor.Mma;

    /// <summary>The targets that it misses: traffic, mma, banks, short.</summary>
    public IEnumerable<string> Misses()
    {
        if (Traffic > MostTraffic)
            yield return "traffic";
        if (Mma > MostMma)
            yield return "mma";
        if (ExtraWays > 0)
            yield return "banks";
        // Less than the least: the floor is wrong, or the launch leaves work out.
        if (Traffic < LeastTraffic || (Floor.Mma > 0 && Mma < 1))
            yield return "short";
    }
}
