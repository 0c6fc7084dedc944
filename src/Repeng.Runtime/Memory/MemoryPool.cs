using System.Numerics;
using Repeng.Kernels;

namespace Repeng.Runtime;

/// <summary>
/// Memory of one device, handed out in blocks that are kept and reused. The same sequence of requests always
/// gives the same numbers, so a dry run over a backend that computes nothing predicts a real one.
/// Not thread-safe: one pool belongs to one thread of control.
/// </summary>
/// <param name="backend">The device.</param>
/// <param name="keeps">Whether unused blocks are kept even where others are asked for that they do not fit: a sequence of requests that is repeated then ends up without a request to the device.</param>
public sealed class MemoryPool(IBackend backend, bool keeps = false) : IDisposable
{
    // Sizes ascending, and the free blocks of each, perhaps none; a block may serve a request down to 3/4 of its size.
    // Arrays, because a pass takes and returns hundreds of blocks a token: no node is made or dropped for that.
    private readonly List<long> _sizes = [];
    private readonly List<Stack<nint>> _free = [];

    // Every block that was taken from the device, handed out or not.
    private readonly Dictionary<nint, long> _blocks = [];
    private bool _ended;

    /// <summary>Bytes handed out now.</summary>
    public long InUse { get; private set; }

    /// <summary>Bytes taken from the device now: handed out or kept for reuse.</summary>
    public long Reserved { get; private set; }

    /// <summary>The largest <see cref="Reserved"/> so far.</summary>
    public long PeakReserved { get; private set; }

    /// <summary>Takes a block of at least <paramref name="bytes"/>; contents are undefined. <paramref name="granted"/> is its real size.</summary>
    public nint Take(long bytes, out long granted)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        long size = RoundUp(bytes);
        for (int at = Place(size); at < _sizes.Count && _sizes[at] <= size + size / 3; at++)
        {
            if (_free[at].Count == 0)
                continue;
            granted = _sizes[at];
            InUse += granted;
            return _free[at].Pop();
        }

        // What lies unused is given back before the device is asked for more than it held so far.
        if (!keeps && Reserved + size > PeakReserved && Reserved - InUse > size)
            Trim(Reserved + size - PeakReserved);
        nint fresh = backend.Allocate(size);
        _blocks.Add(fresh, size);
        Reserved += size;
        PeakReserved = Math.Max(PeakReserved, Reserved);
        InUse += size;
        granted = size;
        return fresh;
    }

    /// <summary>Gives a block back; <paramref name="granted"/> is what <see cref="Take"/> said.</summary>
    public void Return(nint address, long granted)
    {
        // Its memory went with the device.
        if (_ended)
            return;
        int at = Place(granted);
        if (at == _sizes.Count || _sizes[at] != granted)
        {
            _sizes.Insert(at, granted);
            _free.Insert(at, new Stack<nint>());
        }
        _free[at].Push(address);
        InUse -= granted;
    }

    /// <summary>Counts memory that is used but comes from elsewhere, a mapped file, as in use and reserved.</summary>
    public void Lend(long bytes)
    {
        InUse += bytes;
        Reserved += bytes;
        PeakReserved = Math.Max(PeakReserved, Reserved);
    }

    /// <summary>Ends what <see cref="Lend"/> began.</summary>
    public void TakeBack(long bytes)
    {
        InUse -= bytes;
        Reserved -= bytes;
    }

    /// <summary>Frees kept blocks, largest first, until at least <paramref name="bytes"/> went back to the device or none is left.</summary>
    public void Trim(long bytes = long.MaxValue)
    {
        long freed = 0;
        for (int at = _sizes.Count - 1; at >= 0; at--)
        {
            while (_free[at].Count > 0)
            {
                if (freed >= bytes)
                    return;
                Free(_free[at].Pop(), _sizes[at]);
                freed += _sizes[at];
            }
        }
    }

    /// <summary>Forgets the peak so far.</summary>
    public void ResetPeak() => PeakReserved = Reserved;

    /// <summary>Frees what is kept; blocks still handed out are their owners' fault and stay.</summary>
    public void Dispose() => Trim();

    /// <summary>Frees everything, what is handed out too, when the device itself ends: after a failure in the middle of something nobody may know of it any more.</summary>
    /// <exception cref="UserErrorException">The device could not give a block back; the others are freed even so.</exception>
    public void End()
    {
        _ended = true;
        _free.Clear();
        _sizes.Clear();
        UserErrorException? first = null;
        foreach ((nint address, long size) in _blocks.ToArray())
            try
            {
                Free(address, size);
            }
            catch (UserErrorException e)
            {
                first ??= e;
            }
        if (first is not null)
            throw first;
    }

    private void Free(nint address, long size)
    {
        _blocks.Remove(address);
        Reserved -= size;
        backend.Free(address, size);
    }

    // Where a size stands or belongs among the sizes.
    private int Place(long size)
    {
        int at = _sizes.BinarySearch(size);
        return at < 0 ? ~at : at;
    }

    // Sizes in steps of an eighth of their power of two: few distinct sizes, at most 12.5 % wasted.
    private static long RoundUp(long bytes)
    {
        if (bytes <= 1024)
            return Math.Max(64, (bytes + 63) & ~63L);
        long step = 1L << (BitOperations.Log2((ulong)bytes) - 3);
        return (bytes + step - 1) & ~(step - 1);
    }
}
