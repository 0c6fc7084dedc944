namespace Repeng.PtxEmulator.Tests;

/// <summary>The classic bugs, planted in Kernels/bugs.cu: each is caught, at its line, and the sound kernels are not. The table in the emulator's README lists them.</summary>
public sealed class BugTests
{
    public static TheoryData<bool> Both => [false, true];

    private static Gpu New(bool compile) => new(new EmulatorOptions { Compile = compile, InstructionLimit = 200_000, CheckLeaks = false });

    private static float[] Numbers(int n) => [.. Enumerable.Range(0, n).Select(i => (float)i)];

    private static T Caught<T>(Gpu gpu, string kernel, int blocks, int threads, string marker, params object[] parameters) where T : KernelFaultException
    {
        T fault = Assert.Throws<T>(() => gpu.Run(gpu.Kernel("bugs.ptx", kernel), blocks, threads, parameters));
        Assert.Equal(kernel, fault.Site.Kernel);
        Assert.Contains(kernel, fault.Message);
        Assert.True(fault.Site.PtxLine > 0);
        Assert.Contains(marker, Gpu.Text(Path.GetFileName(fault.Site.Source.File)).Split('\n')[fault.Site.Source.Line - 1]);
        // The context is broken from here on.
        Assert.Same(fault, Assert.Throws<T>(() => gpu.Device.Synchronize()));
        return fault;
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Missing_barrier(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Upload(Numbers(256)), y = gpu.Empty(8);
        gpu.Run(gpu.Kernel("bugs.ptx", "sound_sum"), 2, 128, x, y);
        Assert.Equal([127 * 64f, 383 * 64f], gpu.Download<float>(y, 2));
        SharedRaceException fault = Caught<SharedRaceException>(gpu, "missing_barrier", 2, 128, "s[t] += s[t + by]", x, y);
        Assert.Contains("since the last barrier", fault.Message);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Off_by_one_in_a_tile(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Upload(Numbers(128)), y = gpu.Empty(512);
        OutOfBoundsException fault = Caught<OutOfBoundsException>(gpu, "off_by_one_tile", 1, 128, "s[t + 1]", x, y);
        Assert.Equal((127, 0, 0), fault.Site.Thread);
        Assert.Contains("0 bytes past the end of shared", fault.Message);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Off_by_one_in_global_memory(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Upload(Numbers(101)), y = gpu.Empty(400);
        OutOfBoundsException fault = Caught<OutOfBoundsException>(gpu, "off_by_one_global", 4, 32, "y[i] = 2 * x[i]", x, y, 100);
        Assert.Equal((4, 0, 0), fault.Site.Thread);
        Assert.Equal((3, 0, 0), fault.Site.Block);
        Assert.Equal(y + 400, fault.Address);
        Assert.Contains("0 bytes past the end of allocation", fault.Message);
        Assert.Equal(700, fault.CudaError);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Uninitialised_accumulator(bool compile)
    {
        using Gpu gpu = New(compile);
        Caught<UninitializedReadException>(gpu, "uninitialised_accumulator", 1, 32, "+= x[threadIdx_x]", gpu.Upload(Numbers(32)), gpu.Empty(128));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Uninitialised_shared_memory(bool compile)
    {
        using Gpu gpu = New(compile);
        Assert.Equal((32, 0, 0), Caught<UninitializedReadException>(gpu, "uninitialised_shared", 1, 64, "y[t] = s[t]", gpu.Upload(Numbers(64)), gpu.Empty(256)).Site.Thread);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Uninitialised_local_memory(bool compile)
    {
        using Gpu gpu = New(compile);
        int[] at = [0, 3, 6, 1, 4, 7, 2, 5];
        Assert.Equal((7, 0, 0), Caught<UninitializedReadException>(gpu, "uninitialised_local", 1, 8, "buffer[at[threadIdx_x]]", gpu.Upload(at), gpu.Empty(32)).Site.Thread);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Misaligned_vector_load(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Upload(Numbers(200)), y = gpu.Empty(128);
        gpu.Run(gpu.Kernel("bugs.ptx", "misaligned_vector"), 1, 32, x, y, 4);
        Assert.Equal(4 + 5 + 6 + 7, gpu.Download<float>(y, 1)[0]);
        Assert.Equal(716, Caught<MisalignedAccessException>(gpu, "misaligned_vector", 1, 32, "v.x + v.y", x, y, 1).CudaError);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Divergent_barrier(bool compile)
    {
        using Gpu gpu = New(compile);
        Caught<DivergentBarrierException>(gpu, "divergent_barrier", 1, 64, "__nvvm_bar_sync(0)", gpu.Upload(Numbers(64)), gpu.Empty(256));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Warps_that_wait_at_different_barriers(bool compile)
    {
        using Gpu gpu = New(compile);
        Assert.Contains("barrier 2", Caught<DeadlockException>(gpu, "barriers_of_two_kinds", 1, 64, "__nvvm_bar_sync", gpu.Empty(256)).Message);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Race_between_blocks(bool compile)
    {
        using Gpu gpu = New(compile);
        Assert.Contains("block 0", Caught<GlobalRaceException>(gpu, "block_race", 2, 32, "*y += x", gpu.Upload(Numbers(2)), gpu.Upload(0f)).Message);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Block_that_reads_what_another_writes(bool compile)
    {
        using Gpu gpu = New(compile);
        Caught<GlobalRaceException>(gpu, "block_reads_neighbour", 2, 64, "x[", gpu.Upload(Numbers(128)));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Lanes_that_write_different_values_to_one_place(bool compile)
    {
        using Gpu gpu = New(compile);
        Caught<GlobalRaceException>(gpu, "lanes_collide", 1, 32, "y[threadIdx_x / 2]", gpu.Empty(64));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Early_read_of_an_asynchronous_copy(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Upload(Numbers(128)), y = gpu.Empty(512);
        gpu.Run(gpu.Kernel("bugs.ptx", "sound_async_copy"), 1, 128, x, y);
        Assert.Equal(Numbers(128).Reverse(), gpu.Download<float>(y, 128));
        Caught<AsyncCopyRaceException>(gpu, "early_read_of_async_copy", 1, 128, "s[127 - t]", x, y);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Asynchronous_copy_read_by_others_without_a_barrier(bool compile)
    {
        using Gpu gpu = New(compile);
        KernelFaultException fault = Assert.ThrowsAny<KernelFaultException>(() => gpu.Run(gpu.Kernel("bugs.ptx", "async_copy_without_barrier"), 1, 128, gpu.Upload(Numbers(128)), gpu.Empty(512)));
        Assert.True(fault is SharedRaceException or UninitializedReadException or AsyncCopyRaceException, fault.Message);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Shuffle_whose_mask_names_absent_lanes(bool compile)
    {
        using Gpu gpu = New(compile);
        Assert.Contains("fff00000", Caught<InactiveLaneException>(gpu, "shuffle_with_absent_lanes", 1, 32, "__nvvm_shfl_sync_bfly", gpu.Upload(Numbers(32)), gpu.Empty(128)).Message);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Last_block_that_sums_without_a_fence(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Upload(Numbers(5)), part = gpu.Empty(20), y = gpu.Empty(4);
        gpu.Run(gpu.Kernel("bugs.ptx", "sound_last_block"), 5, 32, x, part, gpu.Upload(0u), y);
        Assert.Equal(20, gpu.Download<float>(y, 1)[0]);
        Caught<GlobalRaceException>(gpu, "last_block_without_fence", 5, 32, "part[b]", x, part, gpu.Upload(0u), y);
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Barrier_of_the_grid(bool compile)
    {
        using Gpu gpu = New(compile);
        ulong x = gpu.Empty(4 * 256), y = gpu.Empty(4 * 256), arrived = gpu.Upload(0u);
        gpu.Device.Launch(gpu.Kernel("bugs.ptx", "grid_barrier"), (4, 1, 1), (64, 1, 1), 0, gpu.Device.DefaultStream, true, x, y, arrived);
        gpu.Device.Synchronize();
        Assert.Equal(Numbers(256).Reverse(), gpu.Download<float>(y, 256));
        // Launched without "cooperative" the first block waits for ever for blocks that have not begun.
        Assert.Throws<InstructionLimitException>(() => gpu.Run(gpu.Kernel("bugs.ptx", "grid_barrier"), 4, 64, x, y, gpu.Upload(0u)));
    }

    [Theory]
    [MemberData(nameof(Both))]
    public void Loop_without_end_and_trap(bool compile)
    {
        using (Gpu gpu = New(compile))
            Assert.Equal(702, Assert.Throws<InstructionLimitException>(() => gpu.Run(gpu.Kernel("bugs.ptx", "endless"), 1, 32, gpu.Upload(0))).CudaError);
        using (Gpu gpu = New(compile))
            Assert.Equal((2, 0, 0), Caught<TrapException>(gpu, "traps", 1, 3, "__builtin_trap", gpu.Upload(1, 2, -3)).Site.Thread);
    }

    [Fact]
    public void Use_after_free_and_null_pointers()
    {
        using (Gpu gpu = New(false))
        {
            ulong x = gpu.Upload(Numbers(64)), y = gpu.Empty(8), old = gpu.Device.Allocate(1024);
            gpu.Device.Free(old);
            UseAfterFreeException fault = Assert.Throws<UseAfterFreeException>(() => gpu.Run(gpu.Kernel("bugs.ptx", "sound_sum"), 1, 128, old, y));
            Assert.Contains("(freed)", fault.Message);
        }

        using (Gpu gpu = New(false))
            Assert.Contains("null pointer", Assert.Throws<OutOfBoundsException>(() => gpu.Run(gpu.Kernel("bugs.ptx", "sound_sum"), 1, 128, 0ul, gpu.Empty(8))).Message);
    }

    [Fact]
    public void Host_mistakes_double_free_and_leaks()
    {
        var device = new PtxDevice();
        ulong a = device.Allocate(100);
        device.Free(a);
        Assert.Throws<DoubleFreeException>(() => device.Free(a));
        ulong b = device.Allocate(16);
        Assert.Throws<InvalidCallException>(() => device.Free(b + 4));
        Assert.Throws<HostAccessException>(() => device.CopyToDevice(b, new byte[17]));
        Assert.Throws<HostAccessException>(() => device.CopyToHost(new byte[16], b));
        Assert.Throws<HostAccessException>(() => device.CopyToDevice(a, new byte[1]));
        Assert.Throws<DeviceOutOfMemoryException>(() => device.Allocate(1L << 50));
        device.CreateStream();
        LeakException leak = Assert.Throws<LeakException>(device.Dispose);
        Assert.Contains("16 bytes", leak.Message);
        Assert.Contains("1 streams", leak.Message);
    }

    [Fact]
    public void A_constant_cannot_be_written()
    {
        using Gpu gpu = New(false);
        (ulong table, _) = gpu.Load(Gpu.Text("basic.ptx")).GetGlobal("table");
        Assert.Throws<ReadOnlyException>(() => gpu.Run(gpu.Kernel("bugs.ptx", "store_to_constant_pointer"), 1, 8, table));
    }
}
