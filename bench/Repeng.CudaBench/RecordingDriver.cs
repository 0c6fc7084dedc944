using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Repeng.Kernels.Cuda;
using Repeng.Kernels.Cuda.Interop;
using Repeng.PtxEmulator.Driver;
using Repeng.Testing.Cuda;

namespace Repeng.CudaBench;

/// <summary>A launch as the engine asked for it.</summary>
/// <param name="Kernel">Its name.</param>
/// <param name="Grid">Blocks.</param>
/// <param name="Block">Threads of a block.</param>
/// <param name="Shared">Dynamic shared memory.</param>
/// <param name="Parameters">Each parameter's bytes.</param>
/// <param name="Pointers">Where addresses stand in the parameters: parameter, byte in it, bytes that lie from the address to the end of its block of memory, what was uploaded there if that was little.</param>
internal sealed record RecordedLaunch(string Kernel, Dim3 Grid, Dim3 Block, uint Shared, byte[][] Parameters, (int Parameter, int At, long Bytes, byte[]? Content)[] Pointers)
{
    /// <summary>Equal for launches that do the same to other memory.</summary>
    public string Signature { get; } = $"{Kernel} {Grid} {Block} {Shared} {string.Join(' ', Parameters.Select((p, i) => Convert.ToHexString(Blank(p, i, Pointers))))} {string.Join(' ', Pointers.Select(p => $"{p.Parameter}.{p.At}"))}";

    private static byte[] Blank(byte[] bytes, int parameter, (int Parameter, int At, long, byte[]?)[] pointers)
    {
        byte[] copy = [.. bytes];
        foreach ((int p, int at, _, _) in pointers.Where(x => x.Parameter == parameter))
            copy.AsSpan(at + 1, 7).Clear();
        return copy;
    }
}

/// <summary>
/// A driver that runs nothing and writes down every launch: with it the engine's own code says what a step of a model launches whose weights are nowhere.
/// Memory is addresses alone; what is read back is zeros. An H100's sizes.
/// </summary>
internal sealed unsafe class RecordingDriver : FaultyCudaDriver, IDisposable
{
    private const long KeptUploadBytes = 1 << 20, FirstAddress = 0x10_0000_0000;

    private static readonly long s_memory = 80L << 30;

    private static readonly Dictionary<string, int[]> s_parameters = JsonNode.Parse(KernelImages.Manifest)!["modules"]!.AsArray().SelectMany(m => m!["kernels"]!.AsArray())
        .ToDictionary(k => (string)k!["name"]!, k => k!["params"]!.AsArray().Select(p => Bytes((string)p!)).ToArray());

    private readonly EmulatedCudaDriver _inner;
    private readonly Dictionary<nint, string> _names = [];
    private readonly SortedList<nint, long> _blocks = [];
    private readonly Dictionary<nint, byte[]> _uploads = [];
    private nint _next = unchecked((nint)FirstAddress);

    public RecordingDriver()
        : this(new EmulatedCudaDriver())
    {
    }

    private RecordingDriver(EmulatedCudaDriver inner)
        : base(inner) => _inner = inner;

    /// <inheritdoc/>
    public override bool IsDry => true;

    /// <summary>Launches so far.</summary>
    public List<RecordedLaunch> Launches { get; } = [];

    /// <summary>Bytes that fills and copies on the device move, outside of kernels.</summary>
    public double MovedBytes { get; set; }

    /// <summary>Their number.</summary>
    public int Moves { get; set; }

    public override CuResult DeviceTotalMem(out nuint bytes, int device)
    {
        bytes = (nuint)s_memory;
        return CuResult.Success;
    }

    public override CuResult DeviceGetAttribute(out int value, CuDeviceAttribute attribute, int device)
    {
        CuResult result = base.DeviceGetAttribute(out value, attribute, device);
        value = attribute == CuDeviceAttribute.MultiprocessorCount ? Machine.All[0].Multiprocessors : value;
        return result;
    }

    public override CuResult ModuleGetFunction(out nint function, nint module, string name)
    {
        CuResult result = base.ModuleGetFunction(out function, module, name);
        _names[function] = name;
        return result;
    }

    public override CuResult LaunchKernel(nint function, Dim3 grid, Dim3 block, uint sharedBytes, nint stream, void** arguments)
    {
        string name = _names[function];
        int[] sizes = s_parameters[name];
        byte[][] parameters = [.. sizes.Select((size, i) => new ReadOnlySpan<byte>(arguments[i], size).ToArray())];
        List<(int, int, long, byte[]?)> pointers = [];
        for (int p = 0; p < sizes.Length; p++)
            for (int at = 0; at + 8 <= sizes[p]; at += 8)
            {
                nint address = (nint)BitConverter.ToInt64(parameters[p], at);
                if (Rest(address) is > 0 and var rest)
                    pointers.Add((p, at, rest, _uploads.GetValueOrDefault(address)));
            }
        Launches.Add(new RecordedLaunch(name, grid, block, sharedBytes, parameters, [.. pointers]));
        return CuResult.Success;
    }

    public override CuResult MemGetInfo(out nuint free, out nuint total)
    {
        (free, total) = ((nuint)(s_memory - (1L << 30)), (nuint)s_memory);
        return CuResult.Success;
    }

    public override CuResult MemAlloc(out nint address, nuint bytes)
    {
        address = _next;
        _blocks.Add(address, (long)bytes);
        // Room between blocks, so that an address belongs to one.
        _next += (nint)((bytes + 4096 + 255) & ~(nuint)255);
        return CuResult.Success;
    }

    public override CuResult MemAllocAsync(out nint address, nuint bytes, nint stream) => MemAlloc(out address, bytes);

    public override CuResult MemFree(nint address) => _blocks.Remove(address) ? CuResult.Success : CuResult.InvalidValue;

    public override CuResult MemFreeAsync(nint address, nint stream) => MemFree(address);

    public override CuResult MemcpyHtoDAsync(nint destination, void* source, nuint bytes, nint stream)
    {
        if ((long)bytes <= KeptUploadBytes)
            _uploads[destination] = new ReadOnlySpan<byte>(source, (int)bytes).ToArray();
        return CuResult.Success;
    }

    public override CuResult MemcpyDtoHAsync(void* destination, nint source, nuint bytes, nint stream)
    {
        NativeMemory.Clear(destination, bytes);
        return CuResult.Success;
    }

    public override CuResult MemcpyDtoDAsync(nint destination, nint source, nuint bytes, nint stream) => Moved(2.0 * bytes);

    public override CuResult MemsetD8Async(nint destination, byte value, nuint count, nint stream) => Moved(count);

    public override CuResult MemsetD32Async(nint destination, uint value, nuint count, nint stream) => Moved(4.0 * count);

    public void Dispose() => _inner.Dispose();

    /// <summary>cuBLASLt that writes down its products among the launches, as <see cref="ProductSizes.LibraryProduct"/> makes them.</summary>
    public CublasLt Library() => new FakeCublasLt(this) { Instead = p => Launches.Add(ProductSizes.LibraryProduct(p)) };

    private CuResult Moved(double bytes)
    {
        MovedBytes += bytes;
        Moves++;
        return CuResult.Success;
    }

    // Bytes from an address to the end of its block; 0 where it is in none.
    private long Rest(nint address)
    {
        if (address < FirstAddress || address >= _next)
            return 0;
        (int low, int high) = (0, _blocks.Count);
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_blocks.Keys[middle] <= address)
                low = middle + 1;
            else
                high = middle;
        }
        return low == 0 ? 0 : Math.Max(0, _blocks.Keys[low - 1] + (nint)_blocks.Values[low - 1] - address);
    }

    private static int Bytes(string type) => type.StartsWith("bytes[", StringComparison.Ordinal) ? int.Parse(type.AsSpan(6, type.Length - 7), System.Globalization.CultureInfo.InvariantCulture) : int.Parse(type.AsSpan(1), System.Globalization.CultureInfo.InvariantCulture) / 8;
}
