using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;

namespace Repeng.PtxEmulator.Compilation;

/// <summary>Shuffles and matrix products of a whole warp.</summary>
internal static unsafe class WarpVector
{
    /// <summary>Where each lane of a shuffle with constant operands reads, and for which lanes that is in range.</summary>
    private sealed record Sources(int[] From, uint Valid);

    public static void Shuffle(Warp warp, Instruction i, byte* frame, uint mask)
    {
        // Bfly, up, down or idx by a constant, by all lanes: the usual reduction.
        if (mask != uint.MaxValue || i.Sources[1].Kind != ValueKind.Immediate || i.Sources[2].Kind != ValueKind.Immediate || i.Sources[3] is not { Kind: ValueKind.Immediate, Bits: var members } || (uint)members != uint.MaxValue
            || i.Sources[0].Register is not { } source || i.Destinations[0].Register is not { } destination)
        {
            Interpreter.Step(warp, i, mask);
            return;
        }

        Sources sources = i.Prepared as Sources ?? Prepare(i);
        uint* values = stackalloc uint[32];
        uint* from = (uint*)(frame + source.Offset), to = (uint*)(frame + destination.Offset);
        Vector512.Load(from).Store(values);
        Vector512.Load(from + 16).Store(values + 16);
        int[] lanes = sources.From;
        for (int lane = 0; lane < lanes.Length; lane++)
            to[lane] = values[lanes[lane]];
        if (i.Destinations.Length > 1 && i.Destinations[1].Register is { } valid)
            *(uint*)(frame + valid.Offset) = sources.Valid;
    }

    private static Sources Prepare(Instruction i)
    {
        int[] from = new int[32];
        uint valid = 0;
        int b = (int)i.Sources[1].Bits & 31, clamp = (int)i.Sources[2].Bits & 31, segment = (int)(i.Sources[2].Bits >> 8) & 31;
        for (int lane = 0; lane < 32; lane++)
        {
            int most = (lane & segment) | (clamp & ~segment);
            int at = i.Mode switch { Mode.Up => lane - b, Mode.Down => lane + b, Mode.Bfly => lane ^ b, _ => (lane & segment) | (b & ~segment) };
            bool ok = i.Mode == Mode.Up ? at >= most : at <= most;
            from[lane] = ok ? at : lane;
            valid |= ok ? 1u << lane : 0;
        }

        var made = new Sources(from, valid);
        i.Prepared = made;
        return made;
    }

    /// <summary>Where a fragment of A, in the doubles that <see cref="Unpack"/> makes, holds column k of its rows; the same for B's rows.</summary>
    private sealed record Fragments(bool Fast, int RegistersA, int RegistersB, int[] PlaceA, int[] PlaceB);

    private static Fragments PrepareMma(Instruction i)
    {
        bool fast = i is { Shape: (16, 8, 8 or 16 or 4), Type: PtxType.F32, ThirdType: PtxType.F32, SourceType: PtxType.BF16 or PtxType.F16 or PtxType.TF32 }
            && i.Sources.All(s => s.Register is not null) && i.Destinations.All(d => d.Register is not null);
        bool pairs = i.SourceType != PtxType.TF32;
        int k = i.Shape.K, registersA = pairs ? k / 4 : k / 2, inRegister = pairs ? 8 : 4;
        int[] placeA = new int[k], placeB = new int[k];
        for (int at = 0; at < k; at++)
        {
            int register = at / inRegister, inside = at % inRegister, lane = pairs ? inside / 2 : inside, half = pairs ? inside & 1 : 0;
            placeA[at] = (2 * register * 64) + (half * 32) + lane;
            placeB[at] = (register * 64) + (half * 32) + lane;
        }

        var made = new Fragments(fast, registersA, registersA / 2, placeA, placeB);
        i.Prepared = made;
        return made;
    }

    /// <summary>m16n8k4, k8 and k16 of bf16, f16 and tf32 with fp32 accumulators: eight columns at a time in double, in the order of k.</summary>
    public static void Multiply(Warp warp, Instruction i, byte* frame, uint mask)
    {
        Fragments fragments = i.Prepared as Fragments ?? PrepareMma(i);
        if (mask != uint.MaxValue || !fragments.Fast)
        {
            Interpreter.Step(warp, i, mask);
            return;
        }

        int k = i.Shape.K, first = fragments.RegistersA + fragments.RegistersB;
        warp.Block.Grid.Counters.MmaFlop += 2L * 16 * 8 * k;
        // Element h of register r of lane l: parts[(r·2 + h)·32 + l]; tf32 has h = 0 alone.
        double* a = stackalloc double[4 * 2 * 32], b = stackalloc double[2 * 2 * 32], rows = stackalloc double[16 * 8];
        float* results = stackalloc float[4 * 32];
        for (int r = 0; r < fragments.RegistersA; r++)
            Unpack((uint*)(frame + i.Sources[r].Register!.Offset), a + (r * 64), i.SourceType);
        // B by rows of eight columns: column n lies in lanes 4n to 4n + 3.
        if (Avx512F.IsSupported && i.SourceType == PtxType.BF16)
        {
            for (int r = 0; r < fragments.RegistersB; r++)
                RowsOfB((uint*)(frame + i.Sources[fragments.RegistersA + r].Register!.Offset), rows + (r * 64));
        }
        else
        {
            for (int r = 0; r < fragments.RegistersB; r++)
                Unpack((uint*)(frame + i.Sources[fragments.RegistersA + r].Register!.Offset), b + (r * 64), i.SourceType);
            for (int at = 0; at < k; at++)
            {
                double* from = b + fragments.PlaceB[at];
                Vector512.Create(from[0], from[4], from[8], from[12], from[16], from[20], from[24], from[28]).Store(rows + (at * 8));
            }
        }

        for (int half = 0; half < 2; half++)
        {
            float* c0 = (float*)(frame + i.Sources[first + (2 * half)].Register!.Offset), c1 = (float*)(frame + i.Sources[first + (2 * half) + 1].Register!.Offset);
            Vector512<double> s0 = Row(c0, c1, 0), s1 = Row(c0, c1, 4), s2 = Row(c0, c1, 8), s3 = Row(c0, c1, 12), s4 = Row(c0, c1, 16), s5 = Row(c0, c1, 20), s6 = Row(c0, c1, 24), s7 = Row(c0, c1, 28);
            for (int at = 0; at < k; at++)
            {
                double* x = a + (half * 64) + fragments.PlaceA[at];
                Vector512<double> row = Vector512.Load(rows + (at * 8));
                s0 = Vector512.FusedMultiplyAdd(Vector512.Create(x[0]), row, s0);
                s1 = Vector512.FusedMultiplyAdd(Vector512.Create(x[4]), row, s1);
                s2 = Vector512.FusedMultiplyAdd(Vector512.Create(x[8]), row, s2);
                s3 = Vector512.FusedMultiplyAdd(Vector512.Create(x[12]), row, s3);
                s4 = Vector512.FusedMultiplyAdd(Vector512.Create(x[16]), row, s4);
                s5 = Vector512.FusedMultiplyAdd(Vector512.Create(x[20]), row, s5);
                s6 = Vector512.FusedMultiplyAdd(Vector512.Create(x[24]), row, s6);
                s7 = Vector512.FusedMultiplyAdd(Vector512.Create(x[28]), row, s7);
            }

            float* d0 = results + (64 * half);
            Scatter(s0, d0, 0);
            Scatter(s1, d0, 4);
            Scatter(s2, d0, 8);
            Scatter(s3, d0, 12);
            Scatter(s4, d0, 16);
            Scatter(s5, d0, 20);
            Scatter(s6, d0, 24);
            Scatter(s7, d0, 28);
        }

        // Only now: a destination may be a register that was read.
        for (int r = 0; r < 4; r++)
            Finish(frame, i.Destinations[r], results + (32 * r));
    }

    private static readonly Vector512<uint> s_firstRows = Vector512.Create(0u, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29), s_lastRows = s_firstRows + Vector512.Create(2u);

    /// <summary>A register of a bf16 B fragment as eight rows of eight columns: lanes 4n + j hold rows 2j and 2j + 1 of column n.</summary>
    private static void RowsOfB(uint* register, double* rows)
    {
        Vector512<uint> low = Vector512.Load(register), high = Vector512.Load(register + 16), mask = Vector512.Create(0xffff_0000u);
        Vector512<uint> first = Avx512F.PermuteVar16x32x2(low, s_firstRows, high), last = Avx512F.PermuteVar16x32x2(low, s_lastRows, high);
        Pair(Vector512.ShiftLeft(first, 16), first & mask, rows);
        Pair(Vector512.ShiftLeft(last, 16), last & mask, rows + 32);

        static void Pair(Vector512<uint> even, Vector512<uint> odd, double* to)
        {
            (Vector512<double> row0, Vector512<double> row2) = Vector512.Widen(even.AsSingle());
            (Vector512<double> row1, Vector512<double> row3) = Vector512.Widen(odd.AsSingle());
            row0.Store(to);
            row1.Store(to + 8);
            row2.Store(to + 16);
            row3.Store(to + 24);
        }
    }

    /// <summary>A row of the accumulator: lanes l to l + 3 hold two neighbouring columns each.</summary>
    private static Vector512<double> Row(float* c0, float* c1, int lane)
        => Vector512.WidenLower(Vector256.Shuffle(Vector256.Create(Vector128.Load(c0 + lane), Vector128.Load(c1 + lane)), Vector256.Create(0, 4, 1, 5, 2, 6, 3, 7)).ToVector512Unsafe());

    private static void Scatter(Vector512<double> row, float* d, int lane)
    {
        Vector256<float> parted = Vector256.Shuffle(Vector512.Narrow(row, row).GetLower(), Vector256.Create(0, 2, 4, 6, 1, 3, 5, 7));
        parted.GetLower().Store(d + lane);
        parted.GetUpper().Store(d + 32 + lane);
    }

    private static void Finish(byte* frame, in Value destination, float* values)
    {
        float* to = (float*)(frame + destination.Register!.Offset);
        Vector512.Load(values).Store(to);
        Vector512.Load(values + 16).Store(to + 16);
    }

    private static void Unpack(uint* from, double* to, PtxType type)
    {
        for (int lane = 0; lane < 32; lane += 16)
        {
            Vector512<uint> bits = Vector512.Load(from + lane);
            switch (type)
            {
                case PtxType.BF16:
                    Store(Vector512.ShiftLeft(bits, 16).AsSingle(), to + lane);
                    Store((bits & Vector512.Create(0xffff_0000u)).AsSingle(), to + 32 + lane);
                    break;
                case PtxType.F16:
                    Store(VectorOps.HalfToSingle(bits & Vector512.Create(0xffffu)), to + lane);
                    Store(VectorOps.HalfToSingle(Vector512.ShiftRightLogical(bits, 16)), to + 32 + lane);
                    break;
                default:
                    Store((bits & Vector512.Create(0xffff_e000u)).AsSingle(), to + lane);
                    break;
            }
        }
    }

    private static void Store(Vector512<float> values, double* to)
    {
        (Vector512<double> low, Vector512<double> high) = Vector512.Widen(values);
        low.Store(to);
        high.Store(to + 8);
    }
}
