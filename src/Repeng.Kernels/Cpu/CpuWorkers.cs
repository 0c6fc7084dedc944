using System.Runtime.InteropServices;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// A pool of threads that runs one parallel loop at a time without allocating. Items are claimed one by one, so
/// which thread runs an item is not fixed; an item must write only what no other item touches, which makes the
/// result independent of the number of threads. Each thread owns a scratch buffer that only grows.
/// </summary>
public sealed unsafe class CpuWorkers : IDisposable
{
    private readonly Thread[] _threads;
    private readonly nint[] _scratch;
    private readonly long[] _scratchBytes;
    private readonly object _gate = new();
    private readonly SemaphoreSlim _start = new(0);
    private readonly CountdownEvent _done = new(1);
    private delegate*<void*, int, int, void> _body;
    private void* _context;
    private int _items;
    private int _next;
    private Exception? _failure;
    private volatile bool _stopping;

    /// <summary>Starts threads − 1 helpers; the calling thread is the last worker. 0 takes every core.</summary>
    public CpuWorkers(int threads = 0)
    {
        if (threads < 0)
            throw new ArgumentOutOfRangeException(nameof(threads), threads, "a number of threads cannot be negative");
        Count = threads == 0 ? Environment.ProcessorCount : threads;
        _scratch = new nint[Count];
        _scratchBytes = new long[Count];
        _threads = new Thread[Count - 1];
        for (int i = 0; i < _threads.Length; i++)
        {
            int worker = i + 1;
            _threads[i] = new Thread(() => Loop(worker)) { IsBackground = true, Name = $"repeng cpu {worker}" };
            _threads[i].Start();
        }
    }

    /// <summary>Number of workers, the calling thread included.</summary>
    public int Count { get; }

    /// <summary>
    /// Runs body(context, item, worker) for item = 0 … items − 1 and returns when all are done. worker (0 … Count − 1)
    /// says whose scratch the item may use. Not re-entrant: a body must not call Run. An exception in a body is thrown here.
    /// </summary>
    public void Run(int items, delegate*<void*, int, int, void> body, void* context)
    {
        if (items <= 0)
            return;
        if (items == 1 || Count == 1)
        {
            for (int i = 0; i < items; i++)
                body(context, i, 0);
            return;
        }

        lock (_gate)
        {
            _body = body;
            _context = context;
            _items = items;
            _failure = null;
            int helpers = Math.Min(_threads.Length, items - 1);
            _done.Reset(helpers + 1);
            Volatile.Write(ref _next, 0);
            _start.Release(helpers);
            Drain(0);
            _done.Signal();
            SpinThenWait();
            if (_failure is not null)
                throw new InvalidOperationException($"a CPU kernel failed: {_failure.Message}", _failure);
        }
    }

    /// <summary>Scratch memory of one worker, at least <paramref name="bytes"/>, aligned to 64 bytes; contents are undefined.</summary>
    public void* Scratch(int worker, long bytes)
    {
        if (_scratchBytes[worker] < bytes)
        {
            if (_scratch[worker] != 0)
                NativeMemory.AlignedFree((void*)_scratch[worker]);
            long rounded = (bytes + 4095) & ~4095L;
            _scratch[worker] = (nint)NativeMemory.AlignedAlloc((nuint)rounded, 64);
            _scratchBytes[worker] = rounded;
        }
        return (void*)_scratch[worker];
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_stopping)
            return;
        _stopping = true;
        _start.Release(_threads.Length + 1);
        foreach (Thread t in _threads)
            t.Join();
        for (int i = 0; i < _scratch.Length; i++)
            if (_scratch[i] != 0)
                NativeMemory.AlignedFree((void*)_scratch[i]);
        _start.Dispose();
        _done.Dispose();
    }

    private void SpinThenWait()
    {
        // The helpers end within microseconds of each other; spinning first saves a trip through the kernel.
        for (int i = 0; i < 200 && !_done.IsSet; i++)
            Thread.SpinWait(20);
        _done.Wait();
    }

    private void Loop(int worker)
    {
        while (true)
        {
            // Spinning shortly before sleeping keeps back-to-back small ops from paying a wake-up each.
            SpinWait spin = default;
            bool taken = false;
            while (!spin.NextSpinWillYield && !taken)
            {
                taken = _start.Wait(0);
                if (!taken)
                    spin.SpinOnce(-1);
            }
            if (!taken)
                _start.Wait();
            if (_stopping)
                return;
            Drain(worker);
            _done.Signal();
        }
    }

    private void Drain(int worker)
    {
        try
        {
            while (true)
            {
                int item = Interlocked.Increment(ref _next) - 1;
                if (item >= _items)
                    return;
                _body(_context, item, worker);
            }
        }
        catch (Exception e)
        {
            // Carried to the caller of Run; the other workers finish their items.
            Interlocked.CompareExchange(ref _failure, e, null);
        }
    }
}
