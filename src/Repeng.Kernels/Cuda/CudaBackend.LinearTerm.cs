using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>
/// A layer and its low-rank term where operands round: what is fp32 is rounded once, in one launch, the thin product reads what the wide one reads, and the term's slices follow
/// those of the wide product into the same sums (kernels/rounded.cu), so that y and dx are written once. Where cuBLASLt does the wide product, it adds to the term.
/// </summary>
public sealed partial class CudaBackend
{
    private const int TermRows = 16, MostRank = 256;

    private ScratchRoom _roundedTerm;

    // Not by rows: the bits of a row must not depend on how many there are. What is rounded is read by 16 bytes.
    private bool TakesTerm(in TermArgs args, View x, View z, View mixed, View v, View u) =>
        Precision == CudaPrecision.Bf16 && args.Rows > VectorRows && args.Outputs % Eight == 0 && args.Inputs % Eight == 0 && args.Rank % Eight == 0 && args.Rank is > 0 and <= MostRank
        && ((x.Address | z.Address | mixed.Address | v.Address | u.Address) & 15) == 0;

    /// <inheritdoc/>
    public void LinearTerm(View y, View z, View mixed, View x, View w, View bias, View v, View m, View u, in TermArgs args)
    {
        (int rows, int outputs, int inputs, int r) = args;
        if (!TakesTerm(args, x, z, mixed, v, u))
        {
            TermArgs.Forward(this, y, z, mixed, x, w, bias, v, m, u, args);
            return;
        }
        RequireTerm(y, z, mixed, x, w, v, m, u, args, inputs, r, nameof(LinearTerm));
        TermRooms at = RoomsOf(x, rows, v, u, args);
        RoundSeveral((IsCopied(x.Address, (long)rows * inputs) ? 0 : at.Wide, x, rows, inputs, false), (at.Thin, v, inputs, r, false), (at.Term, u, outputs, r, false));
        ThinProduct(z, mixed, at, m, rows, r, inputs, turned: false);
        WithTerm(y, w, at, rows, outputs, inputs, r, transB: true, accumulate: false);
        if (!bias.IsEmpty)
            AddBias(y, bias, rows, outputs);
        if (x.Type == DType.F32)
            Copied(x.Address, (long)rows * inputs);
    }

    /// <inheritdoc/>
    public void LinearTermBackward(View dx, View dMixed, View dz, View dy, View w, View v, View m, View u, in TermArgs args, bool accumulate)
    {
        (int rows, int outputs, int inputs, int r) = args;
        if (!TakesTerm(args, dy, dMixed, dz, v, u))
        {
            // One by one V is read as it is stored.
            v.Require(v.Length, DType.F32, nameof(LinearTermBackward), nameof(v));
            TermArgs.Backward(this, dx, dMixed, dz, dy, w, v, m, u, args, accumulate);
            return;
        }
        // V in bf16 comes turned round, as the term of dx reads it.
        RequireTerm(dy, dz, dMixed, dx, w, v, m, u, args, v.Type == DType.BF16 ? r : inputs, v.Type == DType.BF16 ? inputs : r, nameof(LinearTermBackward));
        TermRooms at = RoomsOf(dy, rows, u, v, args);
        RoundSeveral((IsCopied(dy.Address, (long)rows * outputs) ? 0 : at.Wide, dy, rows, outputs, false), (at.Thin, u, outputs, r, false), (at.Term, v, inputs, r, true));
        ThinProduct(dMixed, dz, at, m, rows, r, outputs, turned: true);
        WithTerm(dx, w, at, rows, inputs, outputs, r, transB: false, accumulate);
    }

    private static void RequireTerm(View y, View z, View mixed, View x, View w, View v, View m, View u, in TermArgs args, int rowsOfV, int columnsOfV, string op)
    {
        (int rows, int outputs, int inputs, int r) = args;
        RequireMatrix(y, Held(y), rows, outputs, outputs, 1, 0, op, nameof(y));
        RequireMatrix(x, Held(x), rows, inputs, inputs, 1, 0, op, nameof(x));
        RequireMatrix(z, DType.F32, rows, r, r, 1, 0, op, nameof(z));
        RequireMatrix(mixed, DType.F32, rows, r, r, 1, 0, op, nameof(mixed));
        RequireMatrix(w, w.Type, outputs, inputs, inputs, 1, 0, op, nameof(w));
        RequireMatrix(v, Held(v), rowsOfV, columnsOfV, columnsOfV, 1, 0, op, nameof(v));
        RequireMatrix(m, DType.F32, r, r, r, 1, 0, op, nameof(m));
        RequireMatrix(u, Held(u), outputs, r, r, 1, 0, op, nameof(u));
    }

    // Where the operands lie in bf16: the wide one [rows, depth] and the mixed one [rows, rank]; of the factors the one that the wide operand is multiplied with, and the
    // other. Those that are bf16 lie where they are.
    private TermRooms RoomsOf(View wide, int rows, View thin, View term, in TermArgs args)
    {
        long copy = wide.Type == DType.BF16 ? 0 : Round(2 * wide.Length), factor = Round(2L * Math.Max(args.Inputs, args.Outputs) * args.Rank);
        nint a = Scratch(copy + (2L * rows * args.Rank), ref _roundedA), b = Scratch(2 * factor, ref _roundedTerm);
        return new TermRooms(At(wide, a), a + (nint)copy, At(thin, b), At(term, b + (nint)factor));

        static long Round(long bytes) => (bytes + 255) & ~255L;

        static nint At(View v, nint room) => v.Type == DType.BF16 ? v.Address : room;
    }

    private readonly record struct TermRooms(nint Wide, nint Mixed, nint Thin, nint Term);

    // z = wide·thin [rows, rank], cut by its depth as the other products of few columns are, and mixed = z·M (or z·Mᵀ), which goes to at.Mixed too.
    private void ThinProduct(View z, View mixed, in TermRooms at, View m, int rows, int rank, int depth, bool turned)
    {
        int stretch = IsCut(rank, depth) ? Stretch : depth, count = depth / stretch, rest = depth % stretch, all = count + (rest > 0 ? 1 : 0);
        long product = (long)rows * rank;
        nint partial = all == 1 ? z.Address : Scratch(sizeof(float) * product * all);
        MatMulParams p = new() { A = at.Wide, B = at.Thin, C = partial, StrideA = stretch, StrideB = (long)stretch * rank, StrideC = product, M = rows, N = rank, K = stretch, LdA = depth, LdB = rank, LdC = rank, Summed = 1 };
        Launch(p, count);
        if (rest > 0)
            Launch(p with { A = at.Wide + (2 * count * stretch), B = at.Thin + (nint)(2L * count * stretch * rank), C = partial + (nint)(sizeof(float) * count * product), K = rest }, 1);
        KernelArguments mix = default;
        mix.Add(z).Add(mixed).Add(at.Mixed).Add(partial).Add(m).Add(rows).Add(rank).Add(all).Add(turned ? 1 : 0);
        Kernel(RoundedImage, "term_rounded").Launch(new(Blocks(rows, TermRows)), new(Threads), 0, ref mix);

        void Launch(in MatMulParams part, int batch)
        {
            (int tileRows, int tileColumns, int threads, int shared, _) = s_roundedTiles[^1];
            KernelArguments k = default;
            k.Add(part);
            Kernel(RoundedImage, $"matmul_rounded_nn_{tileRows}x{tileColumns}").Launch(new(Blocks((long)Blocks(rows, tileRows) * Blocks(rank, tileColumns), 1), (uint)batch), new((uint)threads), shared, ref k);
        }
    }

    // c = (c +) wide·op(W) + mixed·op(term).
    private void WithTerm(View c, View w, in TermRooms at, int rows, int columns, int depth, int rank, bool transB, bool accumulate)
    {
        int length = transB ? depth : columns;
        nint b = RoundedWeight(w, transB ? columns : depth, length);
        MatMulParams wide = new() { A = at.Wide, B = b, C = c.Address, M = rows, N = columns, K = depth, LdA = depth, LdB = length, LdC = columns, Accumulate = accumulate ? 1 : 0, Summed = 1, Halves = HalvesOf(c) };
        if (!IsForLibrary(new MatMulArgs(rows, columns, depth), DType.BF16) || (c.Address & 15) != 0)
        {
            LaunchRounded(wide with { TermA = at.Mixed, TermB = at.Term, Rank = rank }, transB);
            return;
        }
        // The library has no term: it adds its product to the term's, which is written first, as what it adds to it reads while it multiplies.
        LaunchRounded(wide with { A = at.Mixed, B = at.Term, K = rank, LdA = rank, LdB = transB ? rank : columns }, transB);
        if (!MultiplyByLibrary(c.Address, at.Wide, b, new(rows, columns, depth, false, transB, depth, length, columns, CudaDataType.R16BF, CublasCompute.F32, ResultOf(c)), accumulate: true))
            LaunchRounded(wide with { Accumulate = 1 }, transB);
    }

    // fp32 matrices without gaps to bf16, some of them turned, in one launch; those that are bf16, or are to go nowhere (0), are left alone.
    private void RoundSeveral(params ReadOnlySpan<(nint To, View From, int Rows, int Columns, bool Turned)> matrices)
    {
        RoundParams p = default;
        long blocks = 0;
        int i = 0;
        foreach ((nint to, View from, int rows, int columns, bool turned) in matrices)
        {
            if (to == 0 || from.Type == DType.BF16)
                continue;
            blocks += Blocks((long)rows * columns, RoundTile);
            (p.To[i], p.From[i], p.Rows[i], p.Columns[i], p.Turned[i], p.Ends[i]) = (to, from.Address, rows, columns, turned ? 1 : 0, checked((int)blocks));
            i++;
        }
        if (blocks == 0)
            return;
        KernelArguments k = default;
        k.Add(p);
        Kernel(RoundedImage, "round_several").Launch(new(Blocks(blocks, 1)), new(Threads), 0, ref k);
    }

    /// <summary>Up to four matrices; laid out as RoundParams in kernels/rounded.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct RoundParams
    {
        public Addresses To, From;
        public Numbers Rows, Columns, Turned, Ends;

        [InlineArray(4)]
        public struct Addresses
        {
            private nint _first;
        }

        [InlineArray(4)]
        public struct Numbers
        {
            private int _first;
        }
    }
}
