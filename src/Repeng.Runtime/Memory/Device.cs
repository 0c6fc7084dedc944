using Repeng.Kernels;
using Repeng.Kernels.Cpu;

namespace Repeng.Runtime;

/// <summary>Where tensors live and ops run: a backend and the pool of its memory.</summary>
public sealed class Device : IDisposable
{
    private readonly int _hostThreads;
    private CpuWorkers? _hostWorkers;

    /// <summary>Takes ownership of the backend.</summary>
    /// <param name="backend">The ops.</param>
    /// <param name="hostThreads">Threads of <see cref="HostWorkers"/> beside a backend that is not the CPU's, 0 for every core; the CPU's has its own.</param>
    public Device(IBackend backend, int hostThreads = 0)
    {
        _hostThreads = hostThreads;
        Backend = backend;
        Pool = new MemoryPool(backend);
    }

    /// <summary>The ops.</summary>
    public IBackend Backend { get; }

    /// <summary>Memory of activations, gradients and parameters; new tensors take theirs here and give it back where they took it.</summary>
    public MemoryPool Pool { get; private set; }

    /// <summary>New tensors take their memory from another pool of this device until what is returned is disposed.</summary>
    public PoolScope UsePool(MemoryPool pool)
    {
        var scope = new PoolScope(this, Pool);
        Pool = pool;
        return scope;
    }

    /// <summary>See <see cref="UsePool"/>.</summary>
    public readonly struct PoolScope(Device device, MemoryPool before) : IDisposable
    {
        /// <summary>The pool is the one from before.</summary>
        public void Dispose() => device.Pool = before;
    }

    /// <summary>Threads for host work, such as the SVD of a weight: the CPU backend's own, or a pool of its own.</summary>
    public CpuWorkers HostWorkers => _hostWorkers ??= (Backend as CpuBackend)?.Workers ?? new CpuWorkers(_hostThreads);

    /// <summary>Short name, such as <c>cpu</c>.</summary>
    public string Name => Backend.Name;

    /// <summary>The CPU with this many threads; 0 takes every core.</summary>
    public static Device Cpu(int threads = 0) => new(new CpuBackend(threads));

    /// <inheritdoc/>
    public void Dispose()
    {
        try
        {
            // Tensors of host memory may outlive their device; a GPU's memory ends with its context.
            if (Backend is CpuBackend)
                Pool.Dispose();
            else
                Pool.End();
        }
        finally
        {
            if (Backend is not CpuBackend)
                _hostWorkers?.Dispose();
            Backend.Dispose();
        }
    }
}
