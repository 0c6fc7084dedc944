using System.Runtime.InteropServices;
using Repeng.Kernels;

namespace Repeng.Runtime;

/// <summary>
/// An array of numbers on a device: row-major, contiguous. Memory from the pool is counted by references:
/// <see cref="Retain"/> and <see cref="Release"/>; it goes back to the pool when the count reaches zero.
/// A tensor over memory that somebody else owns (a mapped file) ignores the count.
/// </summary>
public sealed class Tensor : IDisposable
{
    private readonly long _granted;
    private readonly MemoryPool? _pool;
    private readonly object? _owner;
    private readonly Tensor? _parent;
    private readonly bool _isPart;
    private readonly long _start;
    private bool _requiresGrad;
    private int _references = 1;
    private View _grad;
    private long _gradGranted;
    private MemoryPool? _gradPool;
    private GradUsers? _gradUsers;
    private bool _gradArrived;

    /// <summary>New memory from the device's pool; contents are undefined.</summary>
    public Tensor(Device device, DType type, params ReadOnlySpan<int> shape)
    {
        Device = device;
        Shape = shape.ToArray();
        long length = Count(Shape);
        _pool = device.Pool;
        Data = new View(_pool.Take(length * type.Size(), out _granted), length, type);
    }

    /// <summary>Wraps memory that <paramref name="owner"/> keeps alive.</summary>
    public Tensor(Device device, View data, object owner, params ReadOnlySpan<int> shape)
    {
        Device = device;
        Shape = shape.ToArray();
        if (Count(Shape) != data.Length)
            throw new ArgumentException($"shape [{string.Join(", ", Shape)}] over {data.Length} elements");
        Data = data;
        _owner = owner;
    }

    private Tensor(Tensor parent, long start, int[] shape, bool isPart)
    {
        Device = parent.Device;
        Shape = shape;
        Data = parent.Data.Slice(start, Count(shape));
        (_parent, _start, _isPart) = (parent, start, isPart);
        parent.Retain();
    }

    /// <summary>The device that holds the memory.</summary>
    public Device Device { get; }

    /// <summary>Sizes, slowest dimension first.</summary>
    public int[] Shape { get; }

    /// <summary>The memory; empty once released.</summary>
    public View Data { get; private set; }

    /// <summary>Name for messages and files.</summary>
    public string? Name { get; set; }

    /// <summary>Whether gradients flow to this tensor; a packed one refuses.</summary>
    public bool RequiresGrad
    {
        get => _isPart ? _parent!.RequiresGrad : _requiresGrad;
        set => _requiresGrad = value && Type == DType.Packed
            ? throw new UserErrorException($"{Name ?? "a weight"} is held packed as {TypeName}; packed weights have no gradients. Train an adapter, or load the model with --weight_type f32")
            : value;
    }

    /// <summary>Made by <see cref="Part"/>.</summary>
    public bool IsPart => _isPart;

    /// <summary>Keeps the gradient after the backward pass (parameters and taps).</summary>
    public bool RetainGrad { get; set; }

    /// <summary>How the gradient is held: fp32, or bf16 where all that writes it and all that reads it can (see <see cref="IBackend.LayerType"/>). Set before there is one.</summary>
    public DType GradType { get; set; } = DType.F32;

    /// <summary>The gradient, of the same shape; empty when there is none yet.</summary>
    public View Grad => !_isPart ? _grad : _parent!.Grad.IsEmpty ? default : _parent.Grad.Slice(_start, Length);

    /// <summary>Whether anything has written a gradient here; of a part: to this part itself, whatever came to the whole.</summary>
    public bool GradArrived => _isPart ? _gradArrived : !_grad.IsEmpty;

    /// <summary>Number of elements.</summary>
    public long Length => Count(Shape);

    /// <summary>Size of the last dimension.</summary>
    public int Cols => Shape.Length == 0 ? 1 : Shape[^1];

    /// <summary>Product of all dimensions but the last.</summary>
    public int Rows => checked((int)(Length / Math.Max(1, Cols)));

    /// <summary>Element type.</summary>
    public DType Type => Data.Type;

    /// <summary>Element type by name; of packed tensors the form, such as Q4_1 or NF4.</summary>
    public string TypeName => Data.Packing?.Name ?? Type.ToString();

    /// <summary>Number of elements of a shape.</summary>
    public static long Count(ReadOnlySpan<int> shape)
    {
        long n = 1;
        foreach (int d in shape)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(d);
            n = checked(n * d);
        }
        return n;
    }

    /// <summary>A parameter or constant from host values.</summary>
    public static Tensor From(Device device, ReadOnlySpan<float> values, params ReadOnlySpan<int> shape)
    {
        var t = new Tensor(device, DType.F32, shape);
        t.Upload(values);
        return t;
    }

    /// <summary>Integers (token ids, positions, indices) from host values.</summary>
    public static Tensor From(Device device, ReadOnlySpan<int> values, params ReadOnlySpan<int> shape)
    {
        var t = new Tensor(device, DType.I32, shape);
        device.Backend.Upload(t.Data, MemoryMarshal.AsBytes(values));
        return t;
    }

    /// <summary>Copies host values in; the lengths must agree.</summary>
    public void Upload(ReadOnlySpan<float> values)
    {
        if (values.Length != Length || Type != DType.F32)
            throw new ArgumentException($"{values.Length} fp32 values into a tensor [{string.Join(", ", Shape)}] of {Type}");
        Device.Backend.Upload(Data, MemoryMarshal.AsBytes(values));
    }

    /// <summary>Copies fp32 elements to the host.</summary>
    public float[] ToArray()
    {
        if (Type != DType.F32)
            throw new InvalidOperationException($"tensor {Name} of {Type} read as fp32");
        var host = new float[Length];
        Device.Backend.Download(MemoryMarshal.AsBytes(host.AsSpan()), Data);
        return host;
    }

    /// <summary>Copies fp32 elements to host memory of the same length.</summary>
    public void CopyTo(Span<float> host)
    {
        if (host.Length != Length || Type != DType.F32)
            throw new ArgumentException($"a tensor [{string.Join(", ", Shape)}] of {Type} into {host.Length} fp32 values");
        Device.Backend.Download(MemoryMarshal.AsBytes(host), Data);
    }

    /// <summary>Copies the gradient to the host; zeros where none arrived.</summary>
    public float[] GradToArray()
    {
        var host = new float[Length];
        View grad = Grad;
        if (!grad.IsEmpty)
            Device.Backend.Download(MemoryMarshal.AsBytes(host.AsSpan()), grad);
        return host;
    }

    /// <summary>The one number of a scalar tensor.</summary>
    public float Item()
    {
        if (Length != 1)
            throw new InvalidOperationException($"Item() of a tensor [{string.Join(", ", Shape)}]");
        Span<float> one = stackalloc float[1];
        Device.Backend.Download(MemoryMarshal.AsBytes(one), Data);
        return one[0];
    }

    /// <summary>A tensor over the same memory (part of it) with another shape; it keeps this one alive.</summary>
    public Tensor Alias(long start, params ReadOnlySpan<int> shape) => new(this, start, shape.ToArray(), isPart: false);

    /// <summary>
    /// A part of a parameter that is used as a tensor of its own: it shares the memory, requires a gradient when the whole does, and its
    /// gradient is that part of the whole's.
    /// </summary>
    public Tensor Part(long start, params ReadOnlySpan<int> shape) => new(this, start, shape.ToArray(), isPart: true);

    /// <summary>Copies int32 elements to the host.</summary>
    public int[] ToInts()
    {
        if (Type != DType.I32)
            throw new InvalidOperationException($"tensor {Name} of {Type} read as int32");
        var host = new int[Length];
        Device.Backend.Download(MemoryMarshal.AsBytes(host.AsSpan()), Data);
        return host;
    }

    /// <summary>One more user of the memory.</summary>
    public Tensor Retain()
    {
        _references++;
        return this;
    }

    /// <summary>One user fewer; at zero the memory goes back to where it came from, and the gradient with it.</summary>
    public void Release()
    {
        if (--_references > 0)
            return;
        if (_references < 0)
            throw new InvalidOperationException($"tensor {Name} [{string.Join(", ", Shape)}] released twice");
        if (_granted > 0)
            _pool!.Return(Data.Address, _granted);
        Data = default;
        _parent?.Release();
        (_owner as PackedStorage)?.Dispose();
        FreeGradUnlessFlowing();
    }

    /// <summary>The gradient's memory, made on first use. fresh: its contents are undefined and must be overwritten.</summary>
    public View GradForWrite(out bool fresh)
    {
        if (_isPart)
        {
            fresh = false;
            _gradArrived = true;
            return _parent!.GradToAdd().Slice(_start, Length);
        }
        fresh = _grad.IsEmpty;
        if (fresh)
        {
            NewGrad();
        }
        else if (_gradUsers is { Count: > 1 } shared)
        {
            View old = _grad;
            shared.Count--;
            _gradUsers = null;
            NewGrad();
            Device.Backend.Copy(_grad, old);
        }
        return _grad;
    }

    /// <summary>The gradient's memory to add to, zeroed on first use.</summary>
    public View GradToAdd()
    {
        View g = GradForWrite(out bool fresh);
        if (fresh)
            Zero(g);
        return g;
    }

    /// <summary>
    /// Gradients of several tensors (null: not wanted, an empty view) for an op that treats them alike. fresh: all that are wanted are made here, and
    /// their contents are undefined; else each is to be added to.
    /// </summary>
    public static View[] GradsForWrite(out bool fresh, params ReadOnlySpan<Tensor?> tensors)
    {
        var grads = new View[tensors.Length];
        var made = new bool[tensors.Length];
        fresh = true;
        for (int i = 0; i < grads.Length; i++)
        {
            if (tensors[i] is { } t)
                grads[i] = t.GradForWrite(out made[i]);
            fresh &= made[i] || tensors[i] is null;
        }
        for (int i = 0; i < grads.Length && !fresh; i++)
            if (made[i])
                tensors[i]!.Zero(grads[i]);
        return grads;
    }

    /// <summary>
    /// Takes over the gradient of another tensor of the same length, memory and all, which then has none; false, with nothing changed,
    /// where this tensor has a gradient already, the other keeps its own (<see cref="RetainGrad"/>), or one is a part of a parameter.
    /// </summary>
    public bool TakeGradOf(Tensor other)
    {
        if (_isPart || other._isPart || !_grad.IsEmpty || other._grad.IsEmpty || other.RetainGrad || other.Length != Length || other.GradType != GradType || other.Device != Device)
            return false;
        (_grad, _gradGranted, _gradPool, _gradUsers) = (other._grad, other._gradGranted, other._gradPool, other._gradUsers);
        (other._grad, other._gradUsers) = (default, null);
        return true;
    }

    /// <summary>
    /// Has the gradient of another tensor of the same length too, in one memory until one of them is written to; false, with nothing changed, where
    /// <see cref="TakeGradOf"/> would be, or where this tensor keeps its gradient, which may then be changed by who reads it.
    /// </summary>
    public bool ShareGradOf(Tensor other)
    {
        GradUsers users = other._gradUsers ?? new GradUsers();
        (View grad, long granted, MemoryPool? pool) = (other._grad, other._gradGranted, other._gradPool);
        if (RetainGrad || !TakeGradOf(other))
            return false;
        users.Count++;
        (other._grad, other._gradGranted, other._gradPool, other._gradUsers, _gradUsers) = (grad, granted, pool, users, users);
        return true;
    }

    /// <summary>Gives the gradient's memory back.</summary>
    public void FreeGrad()
    {
        if (_grad.IsEmpty)
            return;
        if (_gradUsers is { Count: > 1 } shared)
            shared.Count--;
        else
            _gradPool!.Return(_grad.Address, _gradGranted);
        (_grad, _gradUsers) = (default, null);
    }

    private void NewGrad()
    {
        _gradPool = Device.Pool;
        _grad = new View(_gradPool.Take(Length * GradType.Size(), out _gradGranted), Length, GradType);
    }

    // Zero is the same bits in either type; a gradient in bf16 has an even number of elements.
    private void Zero(View grad) => Device.Backend.Fill(grad.Type == DType.F32 ? grad : new View(grad.Address, grad.Length / 2, DType.F32), 0);

    /// <summary>Tensors that have one gradient.</summary>
    private sealed class GradUsers
    {
        public int Count { get; set; } = 1;
    }

    /// <summary>Same as <see cref="Release"/>, for parameters and constants held by one owner.</summary>
    public void Dispose() => Release();

    /// <inheritdoc/>
    public override string ToString() => $"{Name ?? "tensor"} [{string.Join(", ", Shape)}]";

    // An output's data may be released by its scope before the backward pass writes its gradient; a gradient
    // already present at that time belongs to a tensor that nobody will ask again.
    private void FreeGradUnlessFlowing()
    {
        if (!RequiresGrad || RetainGrad)
            FreeGrad();
    }
}
