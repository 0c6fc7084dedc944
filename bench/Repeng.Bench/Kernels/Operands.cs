using System.Globalization;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using TorchSharp;

namespace Repeng.Bench.Kernels;

/// <summary>Memory of one row's operands, the CPU backend that works on it, and libtorch's copies of it.</summary>
internal sealed unsafe class Operands(CpuBackend backend, bool peer) : IDisposable
{
    // Not a power of two, so that rows of a matrix differ; drawing every number of a large one would take longer than measuring.
    private const int Drawn = 999_983;

    private static readonly double s_cacheBytes = LastLevelCache();

    private readonly List<(nint Address, long Bytes)> _memory = [];
    private readonly List<IDisposable> _owned = [];
    private ulong _stream;

    public CpuBackend Backend => backend;

    /// <summary>Whether the peer is wanted, so that its operands are needed.</summary>
    public bool Peer => peer;

    /// <summary>How many operands of this size to take in turns so that each call finds its own in memory and not in a cache, as decoding a model does.</summary>
    public static int Copies(double bytes) => (int)Math.Ceiling(4 * s_cacheBytes / bytes);

    /// <summary>Zeros.</summary>
    public View Zeros(long count, DType type = DType.F32)
    {
        long bytes = count * type.Size();
        nint address = backend.Allocate(bytes);
        _memory.Add((address, bytes));
        // Pages that were never written are one page of zeros, which lies in a cache.
        new Span<byte>((void*)address, checked((int)Math.Min(bytes, int.MaxValue))).Clear();
        return new View(address, count, type);
    }

    /// <summary>Normal numbers times scale; bf16 ones are cut off.</summary>
    public View Normal(long count, float scale = 1, DType type = DType.F32)
    {
        View view = Zeros(count, type);
        var drawn = new float[Math.Min(count, Drawn)];
        Philox.FillNormal(drawn, 1, ++_stream);
        for (int i = 0; i < drawn.Length; i++)
            drawn[i] *= scale;
        for (long at = 0; at < count; at += drawn.Length)
        {
            int n = (int)Math.Min(drawn.Length, count - at);
            if (type == DType.F32)
                drawn.AsSpan(0, n).CopyTo(view.Slice(at, n).HostFloats);
            else
                for (int i = 0; i < n; i++)
                    ((ushort*)view.Address)[at + i] = (ushort)(BitConverter.SingleToUInt32Bits(drawn[i]) >> 16);
        }
        return view;
    }

    /// <summary>Integers.</summary>
    public View Integers(int count, Func<int, int> value)
    {
        View view = Zeros(count, DType.I32);
        for (int i = 0; i < count; i++)
            view.HostInts[i] = value(i);
        return view;
    }

    /// <summary>A tensor with the bytes of the view.</summary>
    public torch.Tensor Tensor(View view, params long[] shape)
    {
        torch.ScalarType type = view.Type switch { DType.F32 => torch.ScalarType.Float32, DType.BF16 => torch.ScalarType.BFloat16, _ => torch.ScalarType.Int32 };
        torch.Tensor tensor = Own(torch.empty(shape, dtype: type));
        Span<byte> bytes = tensor.bytes;
        Buffer.MemoryCopy((void*)view.Address, System.Runtime.CompilerServices.Unsafe.AsPointer(ref bytes[0]), view.Bytes, view.Bytes);
        return tensor;
    }

    /// <summary>Keeps something until the row is done.</summary>
    public T Own<T>(T thing) where T : IDisposable
    {
        _owned.Add(thing);
        return thing;
    }

    public void Dispose()
    {
        foreach (IDisposable thing in _owned)
            thing.Dispose();
        foreach ((nint address, long bytes) in _memory)
            backend.Free(address, bytes);
    }

    private static double LastLevelCache()
    {
        const string File = "/sys/devices/system/cpu/cpu0/cache/index3/size", Unit = "K";
        if (!System.IO.File.Exists(File))
            return 32 << 20;
        string size = System.IO.File.ReadAllText(File).Trim();
        return size.EndsWith(Unit, StringComparison.Ordinal)
            ? 1024.0 * int.Parse(size[..^Unit.Length], CultureInfo.InvariantCulture)
            : throw new UserErrorException($"{File} says {size}, where kibibytes were expected");
    }
}
