namespace Repeng.PtxEmulator.Tests;

/// <summary>Warp-wide instructions, atomics, barriers and matrices from shared memory: what 32 lanes (or 64 threads) get, against plain code.</summary>
public sealed class WarpTests
{
    public static TheoryData<bool> Both => [false, true];

    /// <summary>Runs a piece of PTX for each thread: %x is its input, %y what it leaves, %lane its lane, %tid its number, %p a predicate (x odd), %at the address of the scratch.</summary>
    private static uint[] Run(bool compile, string body, uint[] x, uint[]? scratch = null, Action<uint[]>? after = null)
    {
        using var gpu = new Gpu(new EmulatorOptions { Compile = compile });
        string ptx = $$"""
            .version 7.8
            .target sm_80
            .address_size 64
            .visible .entry k(.param .u64 data, .param .u64 results, .param .u64 scratch)
            {
            .reg .b32 %x, %y, %lane, %tid, %r<8>; .reg .b64 %at, %in, %out, %by, %d<8>; .reg .pred %p, %q<4>;
            .shared .align 16 .b8 tile[1024];
            mov.u32 %tid, %tid.x;
            mov.u32 %lane, %laneid;
            mul.wide.u32 %by, %tid, 4;
            ld.param.u64 %in, [data];
            add.s64 %in, %in, %by;
            ld.global.u32 %x, [%in];
            ld.param.u64 %out, [results];
            add.s64 %out, %out, %by;
            ld.param.u64 %at, [scratch];
            and.b32 %y, %x, 1;
            setp.ne.u32 %p, %y, 0;
            {{body}}
            st.global.u32 [%out], %y;
            ret;
            }
            """;
        ulong results = gpu.Empty(x.Length * 4), extra = gpu.Upload(scratch ?? new uint[8]);
        gpu.Run(gpu.Load(ptx).GetFunction("k"), 1, x.Length, gpu.Upload(x), results, extra);
        after?.Invoke(gpu.Download<uint>(extra, (scratch ?? new uint[8]).Length));
        return gpu.Download<uint>(results, x.Length);
    }

    private static readonly uint[] s_x = [.. Enumerable.Range(0, 32).Select(i => (uint)(i * i * 7 % 31))];

    private static uint[] Each(Func<int, uint> f, int n = 32) => [.. Enumerable.Range(0, n).Select(f)];

    [Theory]
    [MemberData(nameof(Both))]
    public void Shuffles(bool compile)
    {
        Assert.Equal(Each(i => s_x[i ^ 5]), Run(compile, "shfl.sync.bfly.b32 %y, %x, 5, 31, -1;", s_x));
        Assert.Equal(Each(i => i + 3 < 32 ? s_x[i + 3] : s_x[i] + 100), Run(compile, "shfl.sync.down.b32 %y|%q1, %x, 3, 31, -1;\n@!%q1 add.s32 %y, %y, 100;", s_x));
        Assert.Equal(Each(i => i >= 4 ? s_x[i - 4] : s_x[i]), Run(compile, "shfl.sync.up.b32 %y, %x, 4, 0, -1;", s_x));
        Assert.Equal(Each(i => s_x[9]), Run(compile, "shfl.sync.idx.b32 %y, %x, 9, 31, -1;", s_x));
        // Segments of eight lanes: c = 0x1807 for up's like, (32 - 8) << 8 | 7.
        Assert.Equal(Each(i => (i & 7) + 3 < 8 ? s_x[i + 3] : s_x[i]), Run(compile, "shfl.sync.down.b32 %y, %x, 3, 6175, -1;", s_x));
        Assert.Equal(Each(i => s_x[(i & 24) | 2]), Run(compile, "shfl.sync.idx.b32 %y, %x, 2, 6175, -1;", s_x));
        Assert.Equal(Each(i => s_x[s_x[i]]), Run(compile, "shfl.sync.idx.b32 %y, %x, %x, 31, -1;", s_x));
        // Lanes of a mask alone.
        Assert.Equal(Each(i => i < 8 ? s_x[i ^ 1] : 0), Run(compile, "mov.u32 %y, 0;\nsetp.lt.u32 %q0, %lane, 8;\n@%q0 shfl.sync.bfly.b32 %y, %x, 1, 31, 255;", s_x));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Votes_matches_and_reductions(bool compile)
    {
        uint ballot = s_x.Select((v, i) => (v & 1) << i).Aggregate((a, b) => a | b);
        Assert.Equal(Each(_ => ballot), Run(compile, "vote.sync.ballot.b32 %y, %p, -1;", s_x));
        Assert.Equal(Each(_ => ~ballot), Run(compile, "vote.sync.ballot.b32 %y, !%p, -1;", s_x));
        Assert.Equal(Each(_ => 1), Run(compile, "vote.sync.any.pred %q0, %p, -1;\nselp.b32 %y, 1, 0, %q0;", s_x));
        Assert.Equal(Each(_ => 0), Run(compile, "vote.sync.all.pred %q0, %p, -1;\nselp.b32 %y, 1, 0, %q0;", s_x));
        Assert.Equal(Each(_ => 0), Run(compile, "vote.sync.uni.pred %q0, %p, -1;\nselp.b32 %y, 1, 0, %q0;", s_x));
        Assert.Equal(Each(i => s_x.Select((v, k) => v == s_x[i] ? 1u << k : 0).Aggregate((a, b) => a | b)), Run(compile, "match.any.sync.b32 %y, %x, -1;", s_x));
        Assert.Equal(Each(_ => 0), Run(compile, "match.all.sync.b32 %y|%q0, %x, -1;", s_x));
        Assert.Equal(Each(_ => uint.MaxValue), Run(compile, "cvt.u64.u32 %d0, 5;\nmatch.all.sync.b64 %y|%q0, %d0, -1;", s_x));
        Assert.Equal(Each(_ => (uint)s_x.Sum(v => v)), Run(compile, "redux.sync.add.s32 %y, %x, -1;", s_x));
        Assert.Equal(Each(_ => s_x.Max()), Run(compile, "redux.sync.max.u32 %y, %x, -1;", s_x));
        Assert.Equal(Each(_ => s_x.Aggregate((a, b) => a ^ b)), Run(compile, "redux.sync.xor.b32 %y, %x, -1;", s_x));
        Assert.Equal(Each(i => (s_x[i] & 1) != 0 ? ballot : 0), Run(compile, "mov.u32 %y, 0;\n@!%p bra $L;\nactivemask.b32 %y;\n$L:", s_x));
        Assert.Equal(Each(i => (1u << i) - 1), Run(compile, "mov.u32 %y, %lanemask_lt;", s_x));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Atomics(bool compile)
    {
        uint[] start = [10, 10, 0xffff_fff0, 5, 0xf0f0, 0x0f0f, BitConverter.SingleToUInt32Bits(1.5f), 7];
        uint[] y = Run(compile, """
            atom.global.add.u32 %y, [%at], %x;
            red.global.max.u32 [%at+4], %x;
            red.global.min.s32 [%at+8], %x;
            atom.global.inc.u32 %r0, [%at+12], 6;
            red.global.and.b32 [%at+16], 0xff;
            red.relaxed.gpu.global.or.b32 [%at+20], 0xf0;
            red.global.add.f32 [%at+24], 0f3F000000;
            atom.global.cas.b32 %r1, [%at+28], 7, 99;
            """, s_x, start, left => Assert.Equal(
            [10 + (uint)s_x.Sum(v => v), Math.Max(10, s_x.Max()), 0xffff_fff0, (5 + 32) % 7, 0xf0, 0x0fff, BitConverter.SingleToUInt32Bits(17.5f), 99], left));
        uint sum = 10;
        Assert.Equal(Each(i => (sum += s_x[i]) - s_x[i]), y);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Barriers_of_the_block(bool compile)
    {
        uint[] x = Each(i => (uint)i, 64);
        Assert.Equal(Each(_ => 32, 64), Run(compile, "bar.red.popc.u32 %y, 0, %p;", x));
        Assert.Equal(Each(_ => 1, 64), Run(compile, "bar.red.or.pred %q0, 0, %p;\nselp.b32 %y, 1, 0, %q0;", x));
        Assert.Equal(Each(_ => 0, 64), Run(compile, "bar.red.and.pred %q0, 0, %p;\nselp.b32 %y, 1, 0, %q0;", x));
        // A producer warp arrives at a named barrier, the consumer waits there; then all meet.
        Assert.Equal(Each(i => i < 32 ? 7u : (uint)(63 - i), 64), Run(compile, """
            mov.u32 %r0, tile;
            mov.u32 %y, 7;
            setp.ge.u32 %q0, %tid, 32;
            @%q0 bra $CONSUME;
            shl.b32 %r1, %lane, 2;
            add.s32 %r1, %r1, %r0;
            st.shared.u32 [%r1], %x;
            bar.arrive 1, 64;
            bra.uni $DONE;
            $CONSUME:
            bar.sync 1, 64;
            sub.s32 %r1, 31, %lane;
            shl.b32 %r1, %r1, 2;
            add.s32 %r1, %r1, %r0;
            ld.shared.u32 %y, [%r1];
            $DONE:
            barrier.sync.aligned 0;
            """, x));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Matrices_from_shared_memory(bool compile)
    {
        // tile holds 16-bit numbers 0, 1, 2, … in rows of 8; lane i holds 2i and 2i + 1 of each matrix.
        const string fill = "mov.u32 %r0, tile;\nshl.b32 %r1, %lane, 4;\nadd.s32 %r0, %r0, %r1;\nshl.b32 %r1, %lane, 3;\nadd.s32 %r2, %r1, 1;\nshl.b32 %r2, %r2, 16;\nor.b32 %r1, %r1, %r2;\nadd.s32 %r2, %r1, 0x20002;\nadd.s32 %r3, %r1, 0x40004;\nadd.s32 %r4, %r1, 0x60006;\nst.shared.v4.b32 [%r0], {%r1, %r2, %r3, %r4};\nbar.warp.sync -1;\n";
        Assert.Equal(Each(i => (uint)((2 * i) | (((2 * i) + 1) << 16))), Run(compile, fill + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%y}, [%r0];", s_x));
        Assert.Equal(Each(i => (uint)((192 + (2 * i)) | ((192 + (2 * i) + 1) << 16))), Run(compile, fill + "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %y}, [%r0];", s_x));
        uint[] transposed = Each(i => (uint)(((i % 4 * 2 * 8) + (i / 4)) | ((((i % 4 * 2) + 1) * 8) + (i / 4)) << 16));
        Assert.Equal(transposed, Run(compile, fill + "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%y, %r6}, [%r0];", s_x));
        Assert.Equal(transposed, Run(compile, fill + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r5}, [%r0];\nmovmatrix.sync.aligned.m8n8.trans.b16 %y, %r5;", s_x));
        // 64 bytes on from a row's end belong to nobody; rows must be aligned to 16 bytes.
        Assert.Throws<MisalignedAccessException>(() => Run(compile, fill + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%y}, [%r0+8];", s_x));
        Assert.Throws<InactiveLaneException>(() => Run(compile, fill + "@%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%y}, [%r0];", s_x));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Matrices_to_shared_memory(bool compile)
    {
        // The lanes' numbers 2i and 2i + 1 are an 8×8 matrix row by row; the second matrix has 100 more. Then lane i reads word i of what was stored, and of the second matrix.
        const string values = "shl.b32 %r1, %lane, 1;\nadd.s32 %r2, %r1, 1;\nshl.b32 %r2, %r2, 16;\nor.b32 %r1, %r1, %r2;\nadd.s32 %r2, %r1, 0x640064;\nmov.u32 %r0, tile;\nshl.b32 %r3, %lane, 4;\nadd.s32 %r3, %r0, %r3;\nshl.b32 %r4, %lane, 2;\nadd.s32 %r4, %r0, %r4;\n";
        const string read = "\nbar.warp.sync -1;\nld.shared.u32 %y, [%r4];";
        Assert.Equal(Each(i => (uint)((2 * i) | (((2 * i) + 1) << 16))), Run(compile, values + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r1};" + read, s_x));
        Assert.Equal(Each(i => (uint)((100 + (2 * i)) | ((101 + (2 * i)) << 16))), Run(compile, values + "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r3], {%r1, %r2};\nadd.s32 %r4, %r4, 128;" + read, s_x));
        // By columns: word i of the memory holds elements (2j, row) and (2j + 1, row) of the lanes' matrix, row = i / 4, j = i % 4.
        uint[] transposed = Each(i => (uint)(((i % 4 * 2 * 8) + (i / 4)) | ((((i % 4 * 2) + 1) * 8) + (i / 4)) << 16));
        Assert.Equal(transposed, Run(compile, values + "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r3], {%r1};" + read, s_x));
        Assert.Equal(Each(i => (uint)((2 * i) | (((2 * i) + 1) << 16))),
            Run(compile, values + "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r3], {%r2, %r2, %r2, %r1};\nbar.warp.sync -1;\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %y}, [%r3];", s_x));
        Assert.Throws<MisalignedAccessException>(() => Run(compile, values + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3+8], {%r1};", s_x));
        Assert.Throws<OutOfBoundsException>(() => Run(compile, values + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3+1024], {%r1};", s_x));
        Assert.Throws<InactiveLaneException>(() => Run(compile, values + "@%p stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r1};", s_x));
        Assert.Throws<SharedRaceException>(() => Run(compile, values + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r0], {%r1};", s_x));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Leaders_and_what_changes_no_result(bool compile)
    {
        Assert.Equal(Each(i => i == 0 ? 100u : 0), Run(compile, "elect.sync %y|%q0, -1;\n@%q0 add.s32 %y, %y, 100;", s_x));
        Assert.Equal(Each(i => i is 4 ? 104u : i is > 4 and < 8 ? 4u : 7), Run(compile, "mov.u32 %y, 7;\nshr.u32 %r1, %lane, 2;\nsetp.eq.u32 %q1, %r1, 1;\n@!%q1 bra $OUT;\nelect.sync %y|%q0, 240;\n@%q0 add.s32 %y, %y, 100;\n$OUT:", s_x));
        Assert.Throws<InactiveLaneException>(() => Run(compile, "@%p elect.sync %y|%q0, -1;", s_x));
        Assert.Equal(Each(i => s_x[i] + 1), Run(compile, """
            griddepcontrol.wait;
            createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %d0, 0.5;
            createpolicy.fractional.L2::evict_first.b64 %d1;
            createpolicy.range.global.L2::evict_last.b64 %d2, [%in], 4, 128;
            ld.global.L1::no_allocate.L2::cache_hint.u32 %r0, [%in], %d0;
            st.global.L2::cache_hint.u32 [%out], %r0, %d1;
            applypriority.global.L2::evict_normal [%out], 128;
            ld.mmio.relaxed.sys.global.u32 %y, [%out];
            add.s32 %y, %y, 1;
            griddepcontrol.launch_dependents;
            """, s_x));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Carries_special_registers_and_address_spaces(bool compile)
    {
        Assert.Equal(Each(i => (uint)((s_x[i] + 0xffff_fff0ul) >> 32)), Run(compile, "add.cc.u32 %r0, %x, 0xfffffff0;\naddc.u32 %y, 0, 0;", s_x));
        Assert.Equal(Each(i => s_x[i] < 5 ? uint.MaxValue : 0), Run(compile, "sub.cc.u32 %r0, %x, 5;\nsubc.u32 %y, 0, 0;", s_x));
        Assert.Equal(Each(i => (uint)((s_x[i] * 0x1234_5678ul + 0xffff_ffffu) >> 32)), Run(compile, "mad.lo.cc.u32 %r0, %x, 0x12345678, 0xffffffff;\nmadc.hi.u32 %y, %x, 0x12345678, 0;", s_x));
        Assert.Equal(Each(i => s_x[i]), Run(compile, "mov.u64 %d0, tile;\ncvta.shared.u64 %d1, %d0;\nmul.wide.u32 %d2, %lane, 4;\nadd.s64 %d1, %d1, %d2;\nst.u32 [%d1], %x;\nisspacep.shared %q0, %d1;\n@%q0 ld.u32 %y, [%d1];", s_x));
        Assert.Equal(Each(_ => 32), Run(compile, "mov.u32 %y, %ntid.x;", s_x));
        Assert.Throws<UninitializedReadException>(() => Run(compile, "add.s32 %y, %r7, 1;", s_x));
        Assert.Throws<UninitializedReadException>(() => Run(compile, "@%p mov.u32 %r7, 1;\nadd.s32 %y, %r7, 1;", s_x));
        Assert.Equal(Each(i => (s_x[i] & 1) + 1), Run(compile, "@%p mov.u32 %r7, 2;\n@!%p mov.u32 %r7, 1;\nmov.u32 %y, %r7;\n@%p add.s32 %y, %r7, 0;", s_x));
    }
}
