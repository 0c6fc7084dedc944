using Repeng.Kernels.Dry;

namespace Repeng.Bench.Scaling;

/// <summary>Rates that the formula is asked with; those of machines that are not here are assumed.</summary>
/// <param name="Name">The machine.</param>
/// <param name="Flops">Operations a second.</param>
/// <param name="Bandwidth">Bytes a second.</param>
/// <param name="Between">Seconds from op to op.</param>
/// <param name="Why">Where the rates are from.</param>
internal sealed record AssumedMachine(string Name, double Flops, double Bandwidth, double Between, string Why)
{
    public static AssumedMachine[] All { get; } =
    [
        new("16-core desktop", 16 * 64 * 4.5e9, 2 * 8 * 5.6e9 * 0.8, 0, "Zen 5, two 512-bit multiply-adds a clock at 4.5 GHz; two channels of DDR5-5600, 80 % of them"),
        // Rates of bench/Repeng.CudaBench (docs/cuda-plan.md): cuBLASLt with operands rounded to bf16, 90 % of the data sheet's bandwidth.
        new("H100 SXM", 700e12, 3.35e12 * 0.9, 1.5e-6, "cuBLASLt on bf16 operands, 90 % of the data sheet's 3.35 TB/s, 1.5 µs between kernels, as in docs/cuda-plan.md"),
    ];

    public double Seconds(OpTally work) => work.Seconds(Flops, Bandwidth, Between);

    /// <summary>What the time goes to: operations, bytes, the gaps between ops; in shares.</summary>
    public (double Operations, double Bytes, double Gaps) Limits(OpTally work)
    {
        double operations = 0, bytes = 0, gaps = work.Count * Between;
        foreach ((OpCost op, double times) in work.Ops)
            if (op.FlopSeconds(Flops) >= op.Bytes / Bandwidth)
                operations += times * op.FlopSeconds(Flops);
            else
                bytes += times * op.Bytes / Bandwidth;
        double all = operations + bytes + gaps;
        return (operations / all, bytes / all, gaps / all);
    }
}
