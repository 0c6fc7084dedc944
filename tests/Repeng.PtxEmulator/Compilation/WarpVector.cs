using System.Runtime.Intrinsics;
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

    /// <summary>m16n8k8 and m16n8k16 of bf16, f16 and tf32 with fp32 accumulators: eight columns at a time in double, in the order of k.</summary>
    public static void Multiply(Warp warp, Instruction i, byte* frame, uint mask)
    {
        bool fast = mask == uint.MaxValue && i is { Shape: (16, 8, 8 or 16 or 4), Type: PtxType.F32, ThirdType: PtxType.F32, SourceType: PtxType.BF16 or PtxType.F16 or PtxType.TF32 }
            && i.Sources.All(s => s.Register is not null) && i.Destinations.All(d => d.Register is not null);
        if (!fast)
        {
            Interpreter.Step(warp, i, mask);
            return;
        }

        int k = i.Shape.K, registersA = i.SourceType == PtxType.TF32 ? k / 2 : k / 4, registersB = registersA / 2;
        warp.Block.Grid.Counters.MmaFlop += 2L * 16 * 8 * k;
        bool pairs = i.SourceType != PtxType.TF32;
        // Element h of register r of lane l, as double: parts[(r·2 + h)·32 + l]; tf32 has h = 0 alone.
        double* a = stackalloc double[4 * 2 * 32], b = stackalloc double[2 * 2 * 32], rows = stackalloc double[16 * 8];
        for (int r = 0; r < registersA; r++)
            Unpack((uint*)(frame + i.Sources[r].Register!.Offset), a + (r * 64), i.SourceType);
        for (int r = 0; r < registersB; r++)
            Unpack((uint*)(frame + i.Sources[registersA + r].Register!.Offset), b + (r * 64), i.SourceType);
        // B by rows of eight columns: column n of B lies in lanes 4n to 4n + 3.
        int inRegister = pairs ? 8 : 4;
        for (int at = 0; at < k; at++)
        {
            int r = at / inRegister, inside = at % inRegister, t = pairs ? inside / 2 : inside, h = pairs ? inside & 1 : 0;
            double* from = b + (r * 64) + (h * 32) + t;
            for (int n = 0; n < 8; n++)
                rows[(at * 8) + n] = from[4 * n];
        }

        int first = registersA + registersB;
        float* c = stackalloc float[8], results = stackalloc float[4 * 32];
        for (int half = 0; half < 2; half++)
        {
            float* c0 = (float*)(frame + i.Sources[first + (2 * half)].Register!.Offset), c1 = (float*)(frame + i.Sources[first + (2 * half) + 1].Register!.Offset);
            float* d0 = results + (64 * half), d1 = d0 + 32;
            for (int group = 0; group < 8; group++)
            {
                for (int t = 0; t < 4; t++)
                {
                    c[2 * t] = c0[(4 * group) + t];
                    c[(2 * t) + 1] = c1[(4 * group) + t];
                }

                Vector512<double> sum = Vector512.WidenLower(Vector256.Load(c).ToVector512Unsafe());
                for (int at = 0; at < k; at++)
                {
                    int block = at / inRegister, inside = at % inRegister, t = pairs ? inside / 2 : inside, h = pairs ? inside & 1 : 0;
                    double x = a[(((2 * block) + half) * 64) + (h * 32) + (4 * group) + t];
                    sum = Vector512.FusedMultiplyAdd(Vector512.Create(x), Vector512.Load(rows + (at * 8)), sum);
                }

                Vector512.Narrow(sum, sum).GetLower().Store(c);
                for (int t = 0; t < 4; t++)
                {
                    d0[(4 * group) + t] = c[2 * t];
                    d1[(4 * group) + t] = c[(2 * t) + 1];
                }
            }
        }

        // Only now: a destination may be a register that was read.
        for (int r = 0; r < 4; r++)
            Finish(frame, i.Destinations[r], results + (32 * r));
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
