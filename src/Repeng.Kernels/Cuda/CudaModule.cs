using System.Collections.Concurrent;
using Repeng.Kernels.Cuda.Interop;

namespace Repeng.Kernels.Cuda;

/// <summary>Compiled kernels of one .cu file.</summary>
public sealed class CudaModule : IDisposable
{
    private readonly ConcurrentDictionary<string, CudaFunction> _functions = new(StringComparer.Ordinal);
    private readonly CudaModuleHandle _handle;

    internal CudaModule(CudaContext context, string name, CudaModuleHandle handle) => (Context, Name, _handle) = (context, name, handle);

    /// <summary>Name for messages.</summary>
    public string Name { get; }

    internal CudaContext Context { get; }

    /// <summary>A kernel by its name; looked up once.</summary>
    public CudaFunction Function(string name) => _functions.GetOrAdd(name, n =>
    {
        Context.MakeCurrent();
        Context.Check(Context.Driver.ModuleGetFunction(out nint function, _handle.Value, n), "cuModuleGetFunction", $"{n} in {Name}");
        return new CudaFunction(this, n, function);
    });

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();
}

/// <summary>One kernel. Lives as long as its module.</summary>
public sealed unsafe class CudaFunction
{
    private const int SharedWithoutOptIn = 48 * 1024;

    private readonly Lock _lock = new();
    private readonly nint _function;
    private int _sharedAllowed = SharedWithoutOptIn;

    internal CudaFunction(CudaModule module, string name, nint function) => (Module, Name, _function) = (module, name, function);

    /// <summary>Name of the kernel.</summary>
    public string Name { get; }

    private CudaModule Module { get; }

    /// <summary>An attribute, such as its registers.</summary>
    public int Attribute(CuFunctionAttribute attribute)
    {
        Module.Context.MakeCurrent();
        Module.Context.Check(Module.Context.Driver.FuncGetAttribute(out int value, attribute, _function), "cuFuncGetAttribute", $"{attribute} of {Name}");
        return value;
    }

    /// <summary>Blocks of this size that a multiprocessor holds at once.</summary>
    public int BlocksPerMultiprocessor(int blockSize, int sharedBytes)
    {
        Module.Context.MakeCurrent();
        Allow(sharedBytes);
        Module.Context.Check(Module.Context.Driver.OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, _function, blockSize, (nuint)sharedBytes), "cuOccupancyMaxActiveBlocksPerMultiprocessor", Name);
        return blocks;
    }

    /// <summary>Queues the kernel. A grid without blocks is nothing to do.</summary>
    /// <param name="grid">Blocks.</param>
    /// <param name="block">Threads of a block.</param>
    /// <param name="sharedBytes">Dynamic shared memory.</param>
    /// <param name="arguments">Values in the order of the kernel's parameters.</param>
    /// <param name="cooperative">Whether all blocks must run at once (a barrier over the grid).</param>
    public void Launch(Dim3 grid, Dim3 block, int sharedBytes, ref KernelArguments arguments, bool cooperative = false)
    {
        if (grid.Count == 0)
            return;
        if (grid.Y > 65535 || grid.Z > 65535)
            throw new ArgumentException($"{Name}: a grid of {grid} blocks, of which y and z can be 65535 at most; give fewer rows or sequences at once");
        CudaContext context = Module.Context;
        context.MakeCurrent();
        Allow(sharedBytes);
        void** pointers = stackalloc void*[KernelArguments.Limit];
        arguments.Addresses(pointers);
        context.CountWrite();
        CuResult result = cooperative
            ? context.Driver.LaunchCooperativeKernel(_function, grid, block, (uint)sharedBytes, context.Stream.Value, pointers)
            : context.Driver.LaunchKernel(_function, grid, block, (uint)sharedBytes, context.Stream.Value, pointers);
        if (result != CuResult.Success)
            context.Check(result, cooperative ? "cuLaunchCooperativeKernel" : "cuLaunchKernel", $"{Name}, grid {grid}, block {block}, {sharedBytes} bytes of shared memory");
    }

    // Over 48 KiB of shared memory must be asked for once.
    private void Allow(int sharedBytes)
    {
        if (sharedBytes <= Volatile.Read(ref _sharedAllowed))
            return;
        CudaContext context = Module.Context;
        if (sharedBytes > context.Device.SharedBytesPerBlock)
            throw new UserErrorException($"CUDA: {Name} needs {sharedBytes} bytes of shared memory, {context.Device.Name} has {context.Device.SharedBytesPerBlock} a block");
        lock (_lock)
        {
            if (sharedBytes <= _sharedAllowed)
                return;
            context.Check(context.Driver.FuncSetAttribute(_function, CuFunctionAttribute.MaxDynamicSharedSizeBytes, sharedBytes), "cuFuncSetAttribute", $"{sharedBytes} bytes of shared memory for {Name}");
            Volatile.Write(ref _sharedAllowed, sharedBytes);
        }
    }
}
