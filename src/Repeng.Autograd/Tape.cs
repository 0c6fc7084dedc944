using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

/// <summary>
/// Records what is needed to differentiate and plays it back. An op records itself only when one of its inputs
/// requires a gradient, and saves only what its backward pass reads; everything else is released when the scope
/// in which it was made ends. So frozen paths keep nothing.
/// One tape serves one pass at a time and is not thread-safe.
/// </summary>
public sealed partial class Tape : IDisposable
{
    private readonly Stack<List<Tensor>> _scopes = new();
    private List<Node> _nodes = [];

    /// <summary>A tape on a device; record = false makes a tape for inference only.</summary>
    public Tape(Device device, bool record = true)
    {
        Device = device;
        Recording = record;
        _scopes.Push([]);
    }

    /// <summary>Where the ops run.</summary>
    public Device Device { get; }

    /// <summary>Whether ops record themselves.</summary>
    public bool Recording { get; private set; }

    /// <summary>The op contract of the device.</summary>
    public IBackend Backend => Device.Backend;

    /// <summary>Number of recorded ops.</summary>
    public int NodeCount => _nodes.Count;

    /// <summary>Opens a scope; tensors made in it are released at its end unless kept or saved by a recorded op.</summary>
    public Scope BeginScope()
    {
        _scopes.Push([]);
        return new Scope(this);
    }

    /// <summary>A new tensor in the current scope; contents are undefined.</summary>
    public Tensor New(params ReadOnlySpan<int> shape) => Own(new Tensor(Device, DType.F32, shape));

    // A new tensor that products of layers read or write and little else. mayRound: all that reads it takes either type.
    private Tensor NewOfLayer(bool mayRound, params ReadOnlySpan<int> shape)
    {
        int cols = shape[^1];
        DType type = mayRound && cols > 0 ? Backend.LayerType(checked((int)(Tensor.Count(shape) / cols)), cols) : DType.F32;
        return Own(new Tensor(Device, type, shape));
    }

    /// <summary>A new integer tensor in the current scope.</summary>
    public Tensor New(ReadOnlySpan<int> values, params ReadOnlySpan<int> shape) => Own(Tensor.From(Device, values, shape));

    /// <summary>A constant in the current scope.</summary>
    public Tensor Constant(ReadOnlySpan<float> values, params ReadOnlySpan<int> shape) => Own(Tensor.From(Device, values, shape));

    /// <summary>A tensor of one value in the current scope.</summary>
    public Tensor Filled(float value, params ReadOnlySpan<int> shape)
    {
        Tensor t = New(shape);
        Backend.Fill(t.Data, value);
        return t;
    }

    /// <summary>The current scope releases the tensor at its end.</summary>
    public Tensor Own(Tensor t)
    {
        _scopes.Peek().Add(t);
        return t;
    }

    /// <summary>
    /// Gradients of the given tensors (each with its own upstream gradient; empty means one) flow back to everything
    /// recorded; each recorded op is dropped as soon as it is done.
    /// </summary>
    public void Backward(params ReadOnlySpan<Tensor> outputs)
    {
        foreach (Tensor t in outputs)
        {
            if (!t.RequiresGrad)
                throw new InvalidOperationException($"{t} does not depend on anything that requires a gradient");
            if (t.Grad.IsEmpty)
                Backend.Fill(t.GradForWrite(out _), 1);
        }
        Play(_nodes);
    }

    /// <summary>Releases every tensor and recorded op of this tape.</summary>
    public void Reset()
    {
        foreach (Node node in _nodes)
            node.Drop();
        _nodes.Clear();
        while (_scopes.Count > 0)
            foreach (Tensor t in _scopes.Pop())
            {
                t.Release();
                if (!t.RetainGrad)
                    t.FreeGrad();
            }
        _scopes.Push([]);
    }

    /// <inheritdoc/>
    public void Dispose() => Reset();

    /// <summary>True when an op over these inputs must be recorded.</summary>
    internal bool Tracks(params ReadOnlySpan<Tensor?> inputs)
    {
        if (!Recording)
            return false;
        foreach (Tensor? t in inputs)
            if (t is { RequiresGrad: true })
                return true;
        return false;
    }

    /// <summary>Records an op: its output, what the backward pass reads, and the backward pass.</summary>
    internal Tensor Record(Tensor output, ReadOnlySpan<Tensor?> saved, Action backward) => RecordMany([output], saved, backward)[0];

    internal Tensor[] RecordMany(Tensor[] outputs, ReadOnlySpan<Tensor?> saved, Action backward)
    {
        var kept = new List<Tensor>(saved.Length);
        foreach (Tensor? t in saved)
            if (t is not null)
                kept.Add(t.Retain());
        foreach (Tensor o in outputs)
            o.RequiresGrad = true;
        _nodes.Add(new Node(outputs, kept, backward));
        return outputs;
    }

    // Adds the gradient of one tensor to that of another of the same length. Where it is the first to arrive there it need not be zeroed
    // and added to, and its memory goes along, or is shared as long as it is read at its source too (not last).
    private void PassOn(Tensor from, Tensor to, bool last)
    {
        if (last ? to.TakeGradOf(from) : to.ShareGradOf(from))
            return;
        View grad = to.GradForWrite(out bool fresh);
        if (fresh)
            Backend.Copy(grad, from.Grad);
        else
            Backend.AddScaled(grad, from.Grad, to.Length, 1);
    }

    private static void Play(List<Node> nodes)
    {
        for (int i = nodes.Count - 1; i >= 0; i--)
        {
            Node node = nodes[i];
            nodes.RemoveAt(i);
            if (Array.Exists(node.Outputs, o => !o.Grad.IsEmpty))
            {
                // An output that nothing used has gradient zero.
                foreach (Tensor o in node.Outputs)
                    if (o.Grad.IsEmpty)
                        o.GradToAdd();
                node.Backward();
            }
            node.Drop();
        }
    }

    private void EndScope()
    {
        foreach (Tensor t in _scopes.Pop())
            t.Release();
    }

    private Tensor KeepInParent(Tensor t)
    {
        List<Tensor> current = _scopes.Pop();
        int at = current.LastIndexOf(t);
        if (at >= 0)
        {
            current.RemoveAt(at);
            _scopes.Peek().Add(t);
        }
        _scopes.Push(current);
        return t;
    }

    /// <summary>Lets a part of a pass run without recording; recording returns to what it was at the end.</summary>
    public Recorder SaveRecording() => new(this, Recording);

    /// <summary>See <see cref="SaveRecording"/>.</summary>
    public readonly struct Recorder(Tape tape, bool before) : IDisposable
    {
        /// <summary>Ops are not recorded from here on.</summary>
        public void Pause() => tape.Recording = false;

        /// <summary>Recording is as it was.</summary>
        public void Dispose() => tape.Recording = before;
    }

    /// <summary>A stretch of work whose temporaries end with it.</summary>
    public readonly struct Scope(Tape tape) : IDisposable
    {
        /// <summary>Moves a tensor made in this scope to the enclosing one.</summary>
        public Tensor Keep(Tensor t) => tape.KeepInParent(t);

        /// <summary>Releases what was not kept.</summary>
        public void Dispose() => tape.EndScope();
    }

    private sealed class Node(Tensor[] outputs, List<Tensor> saved, Action backward)
    {
        public Tensor[] Outputs { get; } = outputs;

        public void Backward() => backward();

        public void Drop()
        {
            foreach (Tensor t in saved)
                t.Release();
            saved.Clear();
            foreach (Tensor o in Outputs)
                if (!o.RetainGrad)
                    o.FreeGrad();
        }
    }
}
