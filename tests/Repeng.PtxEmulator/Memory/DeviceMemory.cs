using System.Runtime.InteropServices;

namespace Repeng.PtxEmulator.Memory;

/// <summary>An allocation in device memory, or host memory that the device may touch.</summary>
internal sealed unsafe class Allocation(int number, ulong address, long size, byte* host, bool owned, string kind)
{
    public int Number { get; } = number;

    public ulong Address { get; } = address;

    public long Size { get; } = size;

    public byte* Host { get; private set; } = host;

    public string Kind { get; } = kind;

    public bool Freed { get; private set; }

    public bool ReadOnly { get; init; }

    /// <summary>Null when every byte is known to be written: host memory, or after a copy over all of it.</summary>
    public ByteBits? Written { get; set; }

    public RaceShadow? Races { get; set; }

    public void Free()
    {
        Freed = true;
        if (owned)
            NativeMemory.AlignedFree(Host);
        Host = null;
        Written?.Dispose();
        Written = null;
        Races?.Dispose();
        Races = null;
    }

    public override string ToString() => $"{Kind} #{Number} of {Size} bytes at 0x{Address:x}";
}

/// <summary>
/// The device's address space. Addresses are never given twice, so that a pointer to freed memory stays known as such; between allocations lie red zones
/// (at least 64 KiB after and 256 bytes before each). Thread-safe.
/// </summary>
internal sealed unsafe class DeviceMemory(long capacity, bool trackWrites) : IDisposable
{
    public const int GranuleBits = 16;

    /// <summary>First address; everything below is a null pointer plus something.</summary>
    public const ulong First = 1ul << 40;

    /// <summary>Generic addresses of shared and local memory begin here.</summary>
    public const ulong SharedWindow = 1ul << 44, LocalWindow = 1ul << 45, WindowEnd = 1ul << 46;

    /// <summary>Bytes from the start of its granule to an allocation: aligned to 256 as the driver promises, and to no more.</summary>
    private const int Lead = 256;

    private readonly Lock _lock = new();
    private readonly List<Allocation> _all = [];
    private Allocation?[] _table = new Allocation?[1024];
    private int _next = 1;

    public long Capacity { get; } = capacity;

    public long Used { get; private set; }

    public IReadOnlyList<Allocation> Live
    {
        get
        {
            lock (_lock)
                return [.. _all.Where(a => !a.Freed)];
        }
    }

    public Allocation Allocate(long size, string kind, bool readOnly = false) => Allocate(size, kind, readOnly, null);

    public Allocation Allocate(long size, string kind, bool readOnly, byte* host)
    {
        if (size <= 0)
            throw new InvalidCallException($"an allocation of {size} bytes");
        lock (_lock)
        {
            bool owned = host == null;
            if (owned && Used + size > Capacity)
                throw new DeviceOutOfMemoryException($"{size} bytes wanted, {Capacity - Used} of {Capacity} free");
            int granules = (int)((size + Lead + (1L << GranuleBits) - 1) >> GranuleBits);
            int first = _next;
            // One granule stays empty after each.
            _next += granules + 1;
            if (_next >= _table.Length)
            {
                var larger = new Allocation?[Math.Max(_table.Length * 2, _next + 1)];
                Array.Copy(_table, larger, _table.Length);
                Volatile.Write(ref _table, larger);
            }

            byte* memory = owned ? (byte*)NativeMemory.AlignedAlloc((nuint)size + 64, 256) : host;
            // A pattern that is a NaN in every float type, should anybody read it.
            if (owned)
                NativeMemory.Fill(memory, (nuint)size, 0xff);
            var allocation = new Allocation(_all.Count + 1, First + ((ulong)first << GranuleBits) + Lead, size, memory, owned, kind)
            {
                ReadOnly = readOnly,
                Written = owned && trackWrites ? new ByteBits(size) : null,
            };
            for (int g = 0; g < granules; g++)
                _table[first + g] = allocation;
            _all.Add(allocation);
            if (owned)
                Used += size;
            return allocation;
        }
    }

    public void Free(ulong address)
    {
        lock (_lock)
        {
            Allocation? allocation = Find(address);
            if (allocation is null || allocation.Address != address)
                throw new InvalidCallException($"0x{address:x} is no start of an allocation: {Describe(address)}");
            if (allocation.Freed)
                throw new DoubleFreeException($"{allocation} is freed for the second time");
            if (allocation.Written is not null || allocation.Kind != "host memory")
                Used -= allocation.Size;
            allocation.Free();
        }
    }

    /// <summary>The allocation whose granules hold an address; the address may still lie in its red zone.</summary>
    public Allocation? Find(ulong address)
    {
        ulong granule = (address - First) >> GranuleBits;
        Allocation?[] table = _table;
        return granule < (ulong)table.Length ? table[granule] : null;
    }

    /// <summary>What lies at or near an address, in words.</summary>
    public string Describe(ulong address)
    {
        if (address < First)
            return address == 0 ? "a null pointer" : $"no device memory (a null pointer plus {address}, or a host pointer)";
        Allocation? near = Find(address);
        for (ulong k = 1; near is null && k <= 4096; k++)
            near = Find(address - (k << GranuleBits)) ?? Find(address + (k << GranuleBits));
        if (near is null)
            return "far from every allocation";
        string freed = near.Freed ? " (freed)" : "";
        if (address < near.Address)
            return $"{near.Address - address} bytes before {near}{freed}";
        return address - near.Address < (ulong)near.Size ? $"{address - near.Address} bytes into {near}{freed}" : $"{address - near.Address - (ulong)near.Size} bytes past the end of {near}{freed}";
    }

    /// <summary>Host address of a range for copies and fills by the host.</summary>
    public (Allocation Allocation, long Offset) Range(ulong address, long count, string what)
    {
        Allocation? allocation = Find(address);
        if (allocation is { Freed: true })
            throw new HostAccessException($"{what} of {count} bytes at 0x{address:x}: {allocation} was freed");
        if (allocation is null || address < allocation.Address || count < 0 || address - allocation.Address + (ulong)count > (ulong)allocation.Size)
            throw new HostAccessException($"{what} of {count} bytes at 0x{address:x}: {Describe(address)}");
        return (allocation, (long)(address - allocation.Address));
    }

    /// <summary>Forgets who touched what; ticks may start again.</summary>
    public void ClearRaces()
    {
        foreach (Allocation allocation in Live)
            allocation.Races?.Clear();
    }

    public void Dispose()
    {
        lock (_lock)
            foreach (Allocation allocation in _all.Where(a => !a.Freed))
                allocation.Free();
    }
}
