using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Repeng.Kernels.Cpu;

/// <summary>
/// A pool of threads that runs one parallel loop at a time without allocating. Items are claimed one by one, so
/// which thread runs an item is not fixed; an item must write only what no other item touches, which makes the
/// result independent of the number of threads. Each thread owns a scratch buffer that only grows. A loop ends when its
/// items are done, not when every thread has taken notice of it, so a thread that sleeps delays nobody.
/// </summary>
public sealed unsafe class CpuWorkers : IDisposable
{
    // Long enough for the serial ops between two products, short enough to leave the core to others.
    private static readonly long s_awake = Stopwatch.Frequency / 20_000;

    // Pauses before the end of a loop is waited for less closely: about 20 µs.
    private const int WaitPauses = 1000;

    private readonly Thread[] _threads;
    private readonly nint[] _scratch;
    private readonly long[] _scratchBytes;
    private readonly object _gate = new();
    private readonly SemaphoreSlim _wake = new(0);
    private delegate*<void*, int, int, void> _body;
    private void* _context;
    private int _items;

    // Items not yet claimed; below zero when there is nothing to do. A claim is a decrement that leaves it at zero or
    // above, and as long as one is held the loop cannot end, so body, context and items belong to it.
    private int _remaining = -1;
    private int _completed;
    private int _sleeping;
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
            _completed = 0;
            Volatile.Write(ref _remaining, items);
            // Between this write and the read below, and the helper's own pair in the other order, stands a full fence:
            // either we see it asleep or it sees the work.
            Interlocked.MemoryBarrier();
            int asleep = Math.Min(Volatile.Read(ref _sleeping), items - 1);
            if (asleep > 0)
                _wake.Release(asleep);
            Drain(0);
            // The others end within microseconds of us, unless they lost their core; SpinWait's own steps soon last longer than that.
            for (int i = 0; i < WaitPauses && Volatile.Read(ref _completed) < items; i++)
                Pause();
            SpinWait spin = default;
            while (Volatile.Read(ref _completed) < items)
                spin.SpinOnce(-1);
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
        if (_threads.Length > 0)
            _wake.Release(_threads.Length);
        foreach (Thread t in _threads)
            t.Join();
        for (int i = 0; i < _scratch.Length; i++)
            if (_scratch[i] != 0)
                NativeMemory.AlignedFree((void*)_scratch[i]);
        _wake.Dispose();
    }

    private void Loop(int worker)
    {
        while (!_stopping)
        {
            // Awake for a while after each loop: back-to-back small ops then pay no wake-up each.
            long since = Stopwatch.GetTimestamp();
            while (Volatile.Read(ref _remaining) <= 0 && Stopwatch.GetTimestamp() - since < s_awake)
                for (int i = 0; i < 16 && Volatile.Read(ref _remaining) <= 0; i++)
                    Pause();
            if (Volatile.Read(ref _remaining) <= 0)
            {
                Interlocked.Increment(ref _sleeping);
                // A wake-up too many, from a loop that began in between, costs one more turn here.
                if (Volatile.Read(ref _remaining) <= 0 && !_stopping)
                    _wake.Wait();
                Interlocked.Decrement(ref _sleeping);
            }
            if (!_stopping)
                Drain(worker);
        }
    }

    // Some 20 ns on the processors that matter; Thread.SpinWait counts in steps of its own.
    private static void Pause()
    {
        if (X86Base.IsSupported)
            X86Base.Pause();
        else if (ArmBase.IsSupported)
            ArmBase.Yield();
        else
            Thread.SpinWait(1);
    }

    private void Drain(int worker)
    {
        int done = 0;
        while (true)
        {
            int left = Interlocked.Decrement(ref _remaining);
            if (left < 0)
                break;
            try
            {
                _body(_context, _items - 1 - left, worker);
            }
            catch (Exception e)
            {
                // Carried to the caller of Run; the other items are done all the same.
                Interlocked.CompareExchange(ref _failure, e, null);
            }
            done++;
        }
        if (done > 0)
            Interlocked.Add(ref _completed, done);
    }
}
