using System.Diagnostics;
using System.Runtime.InteropServices;
using Repeng.PtxEmulator.Execution;
using Repeng.PtxEmulator.Ir;
using Repeng.PtxEmulator.Memory;

namespace Repeng.PtxEmulator;

public sealed partial class PtxDevice
{
    /// <summary>Multiprocessors, and what each holds: an A100's numbers (sm_80).</summary>
    public const int Multiprocessors = 108, ThreadsPerMultiprocessor = 2048, BlocksPerMultiprocessor = 32;

    /// <summary>Launches a kernel. <paramref name="parameters"/> points to one pointer a parameter, as cuLaunchKernel takes them; the values are copied now.</summary>
    public unsafe void Launch(PtxFunction function, (int X, int Y, int Z) grid, (int X, int Y, int Z) block, long dynamicShared, void** parameters, PtxStream stream, bool cooperative = false)
    {
        Kernel kernel = function.Kernel;
        byte[] bytes = new byte[kernel.ParameterBytes];
        foreach ((KernelParameter parameter, int k) in kernel.Parameters.Select((p, k) => (p, k)))
            new Span<byte>(parameters[k], parameter.Size).CopyTo(bytes.AsSpan(parameter.Offset));
        Launch(function, grid, block, dynamicShared, bytes, stream, cooperative);
    }

    /// <summary>Launches a kernel with parameters given as values: numbers, pointers, unmanaged structs. Their sizes must fit.</summary>
    public void Launch(PtxFunction function, (int X, int Y, int Z) grid, (int X, int Y, int Z) block, long dynamicShared, PtxStream stream, bool cooperative, params ReadOnlySpan<object> parameters)
    {
        Kernel kernel = function.Kernel;
        if (parameters.Length != kernel.Parameters.Count)
            throw new InvalidCallException($"{kernel.Name} takes {kernel.Parameters.Count} parameters, {parameters.Length} given");
        byte[] bytes = new byte[kernel.ParameterBytes];
        for (int k = 0; k < parameters.Length; k++)
        {
            KernelParameter parameter = kernel.Parameters[k];
            int size = Marshal.SizeOf(parameters[k]);
            if (size != parameter.Size)
                throw new InvalidCallException($"parameter {k} of {kernel.Name} has {parameter.Size} bytes, {size} given");
            GCHandle handle = GCHandle.Alloc(parameters[k], GCHandleType.Pinned);
            Marshal.Copy(handle.AddrOfPinnedObject(), bytes, parameter.Offset, size);
            handle.Free();
        }

        Launch(function, grid, block, dynamicShared, bytes, stream, cooperative);
    }

    private void Launch(PtxFunction function, (int X, int Y, int Z) grid, (int X, int Y, int Z) block, long dynamicShared, byte[] parameters, PtxStream stream, bool cooperative)
    {
        CheckShape(function, grid, block, dynamicShared, cooperative);
        Enqueue(stream, function.Name, () => Execute(function.Kernel, grid, block, dynamicShared, parameters, cooperative));
    }

    private void CheckShape(PtxFunction function, (int X, int Y, int Z) grid, (int X, int Y, int Z) block, long dynamicShared, bool cooperative)
    {
        Kernel kernel = function.Kernel;
        string what = $"{kernel.Name} with grid ({grid.X},{grid.Y},{grid.Z}) and block ({block.X},{block.Y},{block.Z})";
        if (function.Module.Device != this)
            throw new InvalidCallException($"{kernel.Name} belongs to another device", 400);
        if (grid.X < 1 || grid.Y < 1 || grid.Z < 1 || grid.Y > 65535 || grid.Z > 65535 || (long)grid.X * grid.Y * grid.Z > int.MaxValue)
            throw new InvalidCallException($"{what}: the grid is not possible");
        long threads = (long)block.X * block.Y * block.Z;
        if (block.X < 1 || block.Y < 1 || block.Z < 1 || block.X > 1024 || block.Y > 1024 || block.Z > 64 || threads > function.MaxThreads)
            throw new InvalidCallException($"{what}: at most {function.MaxThreads} threads a block");
        if (kernel.Function.RequiredThreads is { } required && required != block)
            throw new InvalidCallException($"{what}: the kernel requires blocks of ({required.X},{required.Y},{required.Z})");
        if (dynamicShared < 0 || (dynamicShared > 0 && !kernel.UsesDynamicShared && dynamicShared > Options.SharedMemoryPerBlock))
            throw new InvalidCallException($"{what}: {dynamicShared} bytes of dynamic shared memory");
        long most = function.MaxDynamicShared >= 0 ? Math.Min(function.MaxDynamicShared, Options.SharedMemoryPerBlock - kernel.SharedStaticBytes) : Options.SharedMemoryDefault - kernel.SharedStaticBytes;
        if (dynamicShared > most || kernel.SharedStaticBytes > Options.SharedMemoryDefault)
            throw new InvalidCallException($"{what}: {kernel.SharedStaticBytes} bytes of static and {dynamicShared} of dynamic shared memory; at most {most} dynamic (set MaxDynamicShared for more than {Options.SharedMemoryDefault} in all)");
        if (cooperative)
        {
            long resident = (long)Occupancy(function, (int)threads, dynamicShared) * Multiprocessors;
            if ((long)grid.X * grid.Y * grid.Z > resident)
                throw new InvalidCallException($"{what}: a cooperative launch holds at most {resident} blocks", 720);
        }
    }

    /// <summary>Blocks that a multiprocessor holds at once, by threads and shared memory (registers are not known here).</summary>
    public int Occupancy(PtxFunction function, int threads, long dynamicShared)
    {
        int warps = (threads + 31) / 32;
        long byThreads = ThreadsPerMultiprocessor / 32 / warps;
        // Each block also takes 1 KiB for the system.
        long shared = function.Kernel.SharedStaticBytes + dynamicShared + 1024;
        return (int)Math.Min(Math.Min(byThreads, BlocksPerMultiprocessor), (Options.SharedMemoryPerBlock + 1024) / shared);
    }

    private void Execute(Kernel kernel, (int X, int Y, int Z) gridSize, (int X, int Y, int Z) block, long dynamicShared, byte[] parameters, bool cooperative)
    {
        if (_tick > RaceShadow.LastTick / 2)
        {
            Memory.ClearRaces();
            _tick = 1;
        }

        IExecutor executor = Options.Compile ? Compilation.Compiler.Instance : Interpreter.Instance;
        var grid = new Grid(kernel, Memory, parameters, gridSize, block, dynamicShared, Options, executor, ++_launches, _tick + 1);
        long started = Stopwatch.GetTimestamp();
        try
        {
            grid.Run(cooperative);
        }
        finally
        {
            _tick = grid.LastTick + 1;
            LastLaunch = new LaunchRecord(kernel.Name, gridSize, block, dynamicShared, grid.Counters, Stopwatch.GetElapsedTime(started));
        }

        LaunchCompleted?.Invoke(LastLaunch!);
    }
}
