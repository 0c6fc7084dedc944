using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using CsCheck;

namespace Repeng.PtxEmulator.Tests;

/// <summary>Random programs with branches, loops, guards and memory: the compiler gives what the interpreter gives, in results and in counters.</summary>
public sealed class RandomProgramTests
{
    private static readonly string[] s_integer32 =
    [
        "add.s32 R, R, S", "sub.s32 R, R, S", "mul.lo.s32 R, R, S", "mul.hi.u32 R, R, S", "mul.hi.s32 R, R, S", "mad.lo.s32 R, R, S, R", "min.s32 R, R, S", "max.u32 R, R, S",
        "and.b32 R, R, S", "or.b32 R, R, S", "xor.b32 R, R, S", "not.b32 R, R", "neg.s32 R, R", "abs.s32 R, R", "shl.b32 R, R, 7", "shr.u32 R, R, 33", "shr.s32 R, R, 5", "shl.b32 R, R, R", "shr.u32 R, R, R", "shr.s32 R, R, R",
        "shf.l.wrap.b32 R, R, R, 13", "shf.r.clamp.b32 R, R, R, 32", "bfe.u32 R, R, 5, 9", "bfe.s32 R, R, 3, 7", "popc.b32 R, R", "clz.b32 R, R", "brev.b32 R, R", "lop3.b32 R, R, R, R, 0x96", "lop3.b32 R, R, R, R, 0x1b",
        "prmt.b32 R, R, R, 0x5410", "div.u32 R, R, S", "rem.s32 R, R, S", "div.s32 R, R, S", "selp.b32 R, R, S, P", "mov.u32 R, R", "cvt.u32.u64 R, D", "cvt.s32.s16 R, H", "cvt.u32.u16 R, H", "cvt.u32.u8 R, R", "cvt.rzi.s32.f32 R, F",
        "mov.b32 R, {H, H}", "shfl.sync.bfly.b32 R, R, 5, 31, -1", "sad.u32 R, R, S, R", "bfi.b32 R, R, R, 4, 8", "add.sat.s32 R, R, S", "cvt.rn.bf16x2.f32 R, F, F",
    ];

    private static readonly string[] s_others =
    [
        "add.s64 D, D, D", "sub.s64 D, D, D", "mul.lo.s64 D, D, D", "mul.wide.u32 D, R, S", "mul.wide.s32 D, R, S", "mad.wide.s32 D, R, S, D", "shl.b64 D, D, 9", "shr.s64 D, D, 17", "xor.b64 D, D, D", "cvt.s64.s32 D, R", "cvt.u64.u32 D, R", "mov.b64 D, {R, R}",
        "selp.b64 D, D, D, P", "min.s64 D, D, D", "shl.b64 D, D, R", "mov.b64 {R, _}, D", "mov.b64 {R, R}, D", "mov.b32 {H, _}, R",
        "add.s16 H, H, H", "mul.lo.s16 H, H, H", "cvt.u16.u32 H, R", "and.b16 H, H, 255", "shr.u16 H, H, 3", "shr.s16 H, H, 4", "shl.b16 H, H, 2", "selp.b16 H, H, H, P", "neg.s16 H, H",
        "add.f32 F, F, G", "sub.f32 F, F, G", "mul.f32 F, F, G", "fma.rn.f32 F, F, G, F", "fma.rn.ftz.f32 F, F, G, F", "add.ftz.f32 F, F, G", "mul.ftz.f32 F, F, 0f00800001", "div.rn.f32 F, F, G", "sqrt.rn.f32 F, F", "rcp.rn.f32 F, F", "rsqrt.approx.f32 F, F", "ex2.approx.f32 F, F",
        "ex2.approx.ftz.f32 F, F", "lg2.approx.f32 F, F", "sin.approx.f32 F, F", "tanh.approx.f32 F, F", "min.f32 F, F, G", "max.f32 F, F, G", "neg.f32 F, F", "abs.f32 F, F", "selp.f32 F, F, G, P", "cvt.rn.f32.s32 F, R", "cvt.rn.f32.u32 F, R", "cvt.f32.bf16 F, H", "cvt.f32.f16 F, H",
        "add.rz.f32 F, F, G", "fma.rp.f32 F, F, G, F", "mul.sat.f32 F, F, G",
        "setp.lt.s32 P, R, S", "setp.ge.u32 P, R, S", "setp.eq.s32 P, R, S", "setp.ne.b32 P, R, S", "setp.gt.s64 P, D, D", "setp.lt.f32 P, F, G", "setp.neu.f32 P, F, G", "setp.gtu.f32 P, F, G", "setp.nan.f32 P, F, G", "setp.le.and.s32 P, R, S, P", "setp.lt.or.u32 P|P, R, S, P", "setp.hi.u16 P, H, H",
        "and.pred P, P, P", "or.pred P, P, !P", "xor.pred P, P, P", "not.pred P, P", "mov.pred P, P", "vote.sync.ballot.b32 R, P, -1",
    ];

    private const int Counts = 6;

    private static string Fill(string template, Random random)
    {
        var text = new StringBuilder();
        for (int k = 0; k < template.Length; k++)
        {
            char c = template[k];
            bool alone = (k == 0 || !char.IsLetterOrDigit(template[k - 1]) && template[k - 1] != '.') && (k + 1 == template.Length || !char.IsLetterOrDigit(template[k + 1]) && template[k + 1] != '.');
            text.Append(alone ? c switch
            {
                'R' => $"%r{random.Next(Counts)}",
                'S' => random.Next(3) == 0 ? random.Next(-40, 1 << 20).ToString(CultureInfo.InvariantCulture) : $"%r{random.Next(Counts)}",
                'D' => $"%d{random.Next(Counts)}",
                'H' => $"%h{random.Next(Counts)}",
                'F' => $"%f{random.Next(Counts)}",
                'G' => random.Next(4) == 0 ? $"0f{BitConverter.SingleToUInt32Bits((float)(random.NextDouble() * 4 - 2)):X8}" : $"%f{random.Next(Counts)}",
                'P' => $"%p{random.Next(Counts)}",
                _ => c.ToString(),
            } : c.ToString());
        }

        return text.ToString();
    }

    private static int Threads(int seed) => seed % 2 == 0 ? 64 : 1 + (seed % 70);

    /// <summary>A program: straight pieces, ifs and loops whose lanes part, guards, memory of its own thread, and all registers stored at the end.</summary>
    private static string Program(int seed)
    {
        var random = new Random(seed);
        var text = new StringBuilder("""
            .version 7.8
            .target sm_80
            .address_size 64
            .visible .entry k(.param .u64 data, .param .u64 results)
            {
            .reg .b64 %d<6>; .reg .b32 %r<6>; .reg .b16 %h<6>; .reg .f32 %f<6>; .reg .pred %p<6>;
            .reg .b64 %in, %out, %by, %wide; .reg .b32 %tid, %slot, %n, %t; .reg .pred %q;
            .shared .align 16 .b8 mine[4096];
            mov.u32 %tid, %tid.x;
            mul.wide.u32 %by, %tid, 64;
            ld.param.u64 %in, [data];
            add.s64 %in, %in, %by;
            ld.param.u64 %out, [results];
            mul.wide.u32 %by, %tid, 128;
            add.s64 %out, %out, %by;
            shl.b32 %slot, %tid, 4;
            mov.u32 %t, mine;
            add.s32 %slot, %slot, %t;

            """);
        for (int k = 0; k < Counts; k++)
            text.Append(CultureInfo.InvariantCulture, $"ld.global.u32 %r{k}, [%in+{4 * k}];\nmul.wide.s32 %d{k}, %r{k}, {k + 3};\ncvt.u16.u32 %h{k}, %r{k};\ncvt.rn.f32.s32 %f{k}, %r{k};\nmul.f32 %f{k}, %f{k}, 0f35000000;\nsetp.gt.s32 %p{k}, %r{k}, {k * 100};\n");
        text.Append("st.shared.v4.b32 [%slot], {%r0, %r1, %r2, %r3};\n");
        int labels = 0;
        Piece(3);
        void Piece(int depth)
        {
            for (int n = random.Next(3, 12); n > 0; n--)
            {
                string[] from = random.Next(2) == 0 ? s_integer32 : s_others;
                string instruction = Fill(from[random.Next(from.Length)], random);
                bool together = instruction.Contains("sync", StringComparison.Ordinal);
                // Warp-wide instructions only where the lanes are together.
                if (together && (depth < 3 || Threads(seed) % 32 != 0))
                    continue;
                if (!together && random.Next(5) == 0)
                    text.Append(CultureInfo.InvariantCulture, $"@{(random.Next(2) == 0 ? "!" : "")}%p{random.Next(Counts)} ");
                text.Append(instruction).Append(";\n");
                if (random.Next(8) == 0)
                    text.Append(random.Next(5) switch
                    {
                        0 => "st.shared.v2.u32 [%slot+8], {%r0, %r4};\n",
                        1 => "ld.shared.u32 %r2, [%slot+4];\n",
                        2 => "ld.shared.s8 %r5, [%slot+7];\n",
                        3 => "st.shared.u16 [%slot+2], %h3;\n",
                        _ => "ld.shared.v4.b32 {%r1, %r3, _, %r5}, [%slot];\n",
                    });
                if (depth > 0 && random.Next(4) == 0)
                {
                    int label = labels++;
                    if (random.Next(2) == 0)
                    {
                        text.Append(CultureInfo.InvariantCulture, $"@%p{random.Next(Counts)} bra $L{label};\n");
                        Piece(depth - 1);
                        if (random.Next(2) == 0)
                        {
                            text.Append(CultureInfo.InvariantCulture, $"bra.uni $E{label};\n$L{label}:\n");
                            Piece(depth - 1);
                            text.Append(CultureInfo.InvariantCulture, $"$E{label}:\n");
                        }
                        else
                        {
                            text.Append(CultureInfo.InvariantCulture, $"$L{label}:\n");
                        }
                    }
                    else if (depth == 3)
                    {
                        // Lanes leave the loop one by one.
                        text.Append(CultureInfo.InvariantCulture, $"and.b32 %n, %r{random.Next(Counts)}, 7;\n$L{label}:\n");
                        Piece(depth - 2);
                        text.Append(CultureInfo.InvariantCulture, $"sub.s32 %n, %n, 1;\nsetp.ge.s32 %q, %n, 0;\n@%q bra $L{label};\n");
                    }
                }
            }
        }

        for (int k = 0; k < Counts; k++)
            text.Append(CultureInfo.InvariantCulture, $"st.global.u32 [%out+{4 * k}], %r{k};\nst.global.f32 [%out+{24 + (4 * k)}], %f{k};\nst.global.u64 [%out+{48 + (8 * k)}], %d{k};\nst.global.u16 [%out+{96 + (2 * k)}], %h{k};\nselp.b32 %t, 1, 0, %p{k};\nst.global.u8 [%out+{108 + k}], %t;\n");
        return text.Append("ret;\n}\n").ToString();
    }

    private static (byte[] Results, string Counters) Run(string ptx, int seed, bool compile, int threads)
    {
        using var gpu = new Gpu(new EmulatorOptions { Compile = compile });
        var random = new Random(seed + 1);
        uint[] data = [.. Enumerable.Range(0, threads * 16).Select(_ => random.Next(4) == 0 ? (uint)random.Next(-50, 50) : (uint)random.NextInt64())];
        ulong input = gpu.Upload(data), results = gpu.Upload(new byte[threads * 128]);
        LaunchCounters counters = gpu.Run(gpu.Load(ptx).GetFunction("k"), 1, threads, input, results);
        return (gpu.Download<byte>(results, threads * 128), counters.ToString());
    }

    /// <summary>Equal but for the bits inside of NaNs, which PTX leaves open.</summary>
    private static string? Difference(byte[] a, byte[] b)
    {
        for (int at = 0; at < a.Length; at += 4)
        {
            uint x = MemoryMarshal.Read<uint>(a.AsSpan(at)), y = MemoryMarshal.Read<uint>(b.AsSpan(at));
            bool floating = at % 128 is >= 24 and < 48;
            if (x != y && !(floating && float.IsNaN(BitConverter.UInt32BitsToSingle(x)) && float.IsNaN(BitConverter.UInt32BitsToSingle(y))))
                return $"thread {at / 128}, {Name(at % 128)}: interpreted 0x{x:x8}, compiled 0x{y:x8}";
        }

        return null;
    }

    private static string Name(int at) => at switch { < 24 => $"%r{at / 4}", < 48 => $"%f{(at - 24) / 4}", < 96 => $"%d{(at - 48) / 8}", < 108 => $"%h{(at - 96) / 2}", _ => $"%p{at - 108}" };

    [Fact]
    public void Compiler_and_interpreter_agree()
        => Gen.Int[0, int.MaxValue - 2].Sample(
            seed =>
            {
                string ptx = Program(seed);
                int threads = Threads(seed);
                (byte[] expected, string counters) = Run(ptx, seed, compile: false, threads);
                (byte[] got, string compiled) = Run(ptx, seed, compile: true, threads);
                if (counters != compiled)
                    throw new InvalidOperationException($"counters: {counters}\ncompiled: {compiled}\n{ptx}");
                if (Difference(expected, got) is { } difference)
                    throw new InvalidOperationException($"{difference}\n{ptx}");
            },
            iter: 50,
            threads: 1);
}
