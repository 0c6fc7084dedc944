using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cuda;

public sealed unsafe partial class CudaBackend
{
    // Groups of one launch: what the kernel's parameter holds.
    private const int GroupsTogether = 32;

    /// <inheritdoc/>
    /// <remarks>For each type of weight one launch for up to 32 groups of few rows and one for up to 32 of more; packed weights, and groups of more rows where operands round, one after the other.</remarks>
    public void MatMulGroups(View c, View a, ReadOnlySpan<MatMulGroup> groups, in GroupArgs args)
    {
        const string Op = nameof(MatMulGroups);
        if (args.N < 0 || args.K < 0)
            throw new ArgumentException($"{Op}: sizes {args.K} × {args.N} cannot be negative");
        if (args.N == 0 || IsCut(args.N, args.K))
        {
            GroupArgs.OneByOne(this, c, a, groups, args);
            return;
        }
        foreach (MatMulGroup g in groups)
        {
            if (g.Start < 0 || g.Count < 0)
                throw new ArgumentException($"{Op}: a group of {g.Count} rows from row {g.Start}");
            c.Require(g.Count == 0 ? 0 : ((long)g.Start + g.Count) * args.N, DType.F32, Op, nameof(c));
            a.Require(g.Count == 0 ? 0 : ((long)g.Start + g.Count) * args.K, DType.F32, Op, nameof(a));
            g.B.Require(g.Count == 0 ? 0 : (long)args.N * args.K, g.B.Type, Op, nameof(g.B));
            if (g.B.Type != DType.Packed)
                _ = Suffix(g.B.Type, Op);
        }
        foreach (MatMulGroup g in groups)
            if (IsAlone(g, args))
                GroupArgs.OneByOne(this, c, a, [g], args);
        foreach (DType type in (ReadOnlySpan<DType>)[DType.F32, DType.F16, DType.BF16])
            GroupsOf(type, c, a, groups, args);
    }

    private bool IsAlone(in MatMulGroup g, in GroupArgs args) => g.B.Type == DType.Packed || Rounds(args.Product(g.Count));

    private void GroupsOf(DType type, View c, View a, ReadOnlySpan<MatMulGroup> groups, in GroupArgs args)
    {
        string suffix = type switch { DType.F16 => "f16", DType.BF16 => "bf16", _ => "f32" };
        GroupsParams few = default, many = default;
        long tiles = 0;
        foreach (MatMulGroup g in groups)
        {
            if (g.Count == 0 || g.B.Type != type || IsAlone(g, args))
                continue;
            // The same choice as for one product, so that the bits are the same.
            if (args.TransB && g.Count <= VectorRows)
            {
                few.Add(g);
                if (few.Count == GroupsTogether)
                    Few(ref few, args);
                continue;
            }
            many.Add(g);
            tiles += (long)Blocks(g.Count, Tile) * Blocks(args.N, Tile);
            if (many.Count == GroupsTogether)
                Many(ref many, args);
        }
        Few(ref few, args);
        Many(ref many, args);

        void Few(ref GroupsParams some, in GroupArgs args) => LaunchGroups(ref some, "matvec_groups_" + suffix, (long)some.Count * Blocks(args.N, VectorTile), Threads, c, a, args);

        void Many(ref GroupsParams some, in GroupArgs args)
        {
            LaunchGroups(ref some, $"matmul_groups_n{(args.TransB ? 't' : 'n')}_{suffix}", tiles, TileThreads, c, a, args);
            tiles = 0;
        }
    }

    private void LaunchGroups(ref GroupsParams groups, string kernel, long blocks, int threads, View c, View a, in GroupArgs args)
    {
        if (groups.Count == 0)
            return;
        KernelArguments k = default;
        k.Add(new MatMulParams
        {
            A = a.Address,
            C = c.Address,
            N = args.N,
            K = args.K,
            LdA = args.K,
            LdB = args.TransB ? args.K : args.N,
            LdC = args.N,
            Accumulate = args.Accumulate ? 1 : 0,
            Summed = 1,
        }).Add(groups);
        Kernel(Products, kernel).Launch(new(Blocks(blocks, 1)), new((uint)threads), 0, ref k);
        groups = default;
    }

    /// <summary>Groups by value; laid out as GroupsParams in kernels/matmul.cu.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct GroupsParams
    {
        private Addresses _b;
        private Numbers _start;
        private Numbers _rows;
        public int Count;
        private int _reserved;

        public void Add(in MatMulGroup g)
        {
            _b[Count] = g.B.Address;
            _start[Count] = g.Start;
            _rows[Count] = g.Count;
            Count++;
        }

        [InlineArray(GroupsTogether)]
        private struct Addresses
        {
            private nint _first;
        }

        [InlineArray(GroupsTogether)]
        private struct Numbers
        {
            private int _first;
        }
    }
}
