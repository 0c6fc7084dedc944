using System.Runtime.InteropServices;
using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Generation;

/// <summary>
/// The steps of a generation after its prompts, each a token of every row, on a device that records (<see cref="IRecording"/>): the first ones are queued op by op, then a step is recorded, and every
/// later one is one call. Ids, positions and the number of tokens in the cache are read on the device, so that a step of any length is the same work on the same memory. That memory is a pool of
/// its own, which nobody else takes from; what else a step reads (weights, cache, terms of the adapter) stays where it is for the generation, and where tables or scratch move, the step is recorded anew.
/// </summary>
internal sealed class DecodeSteps : IDisposable
{
    // Recording queues a step once more, so that it must be repaid: by this many runs at least.
    private const int LeastRuns = 3;

    private readonly DecoderModel _model;
    private readonly Steering _steering;
    private readonly float[] _coefficients;
    private readonly KvCache _cache;
    private readonly IRecording _recording;
    private readonly MemoryPool _pool;
    private readonly Tensor _state;
    private readonly StepState _parts;
    private readonly int[] _values;
    private Tape? _tape;
    private Tensor? _logits;
    private IRecordedWork? _work;
    private (long Moves, int Tables) _made;
    private long _uploads, _lent;
    private bool _steady, _refused;

    /// <summary>Steps behind a cache that will hold the prompts.</summary>
    public DecodeSteps(DecoderModel model, Steering steering, float[] coefficients, KvCache cache)
    {
        (_model, _steering, _coefficients, _cache, _recording) = (model, steering, coefficients, cache, (IRecording)model.Device.Backend);
        int rows = cache.Batch;
        _values = new int[(2 * rows) + 1];
        _pool = new MemoryPool(model.Device.Backend, keeps: true);
        try
        {
            using (model.Device.UsePool(_pool))
                _state = new Tensor(model.Device, DType.I32, _values.Length);
        }
        catch
        {
            _pool.End();
            throw;
        }
        _parts = new StepState(_state.Alias(0, rows), _state.Alias(rows, rows), _state.Alias(2 * rows, 1));
    }

    /// <summary>Steps that were run from a recording.</summary>
    public int Replayed { get; private set; }

    /// <summary>Recordings that were made.</summary>
    public int Recorded { get; private set; }

    /// <summary>
    /// Whether a device and a model allow it: the device records; no experts, which the host hands their rows; no dynamic rotary angles, which are made anew for each pass; and no
    /// operator of the user's on a control vector, which may read what it changes.
    /// </summary>
    public static bool CanRun(DecoderModel model, Steering steering) =>
        model.Device.Backend is IRecording && !model.Device.Backend.IsDry && model.Blocks.All(b => b.Experts is null) && model.Config.Rope?.Scaling?.Type != RopeScalingType.Dynamic && steering.Vector is not { HasOperator: true };

    /// <summary>Logits [rows, vocabulary] after the next token of each row; they hold until the next call.</summary>
    /// <param name="ids">The tokens.</param>
    /// <param name="pass">The adapter's terms of one token a row, the same ones every time; null without an adapter.</param>
    /// <param name="remaining">Tokens that may come from here on, this one included.</param>
    public Tensor Next(int[] ids, IAdapterPass? pass, int remaining)
    {
        if (_cache.Length >= _cache.Capacity)
            throw new InvalidOperationException($"a token behind {_cache.Length} in a cache of {_cache.Capacity}");
        int rows = ids.Length;
        ids.CopyTo(_values, 0);
        for (int b = 0; b < rows; b++)
            _values[rows + b] = _cache.Length - _cache.Starts[b];
        _values[2 * rows] = _cache.Length;
        _model.Device.Backend.Upload(_state.Data, MemoryMarshal.AsBytes(_values.AsSpan()));
        // Outside of the pool, as the model keeps them.
        _model.EnsureRope(_cache);
        if ((_recording.Moves, _model.RopeTablesMade) != _made)
        {
            Forget();
            _steady = false;
        }
        if (_work is null && _steady && !_refused && remaining >= LeastRuns)
            Record(ids, pass);
        if (_work is not null)
        {
            _work.Run();
            Replayed++;
        }
        else
        {
            Queue(ids, pass);
        }
        _cache.Advance(1);
        _model.CountStep(rows);
        return _logits!;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        try
        {
            Forget();
        }
        finally
        {
            _tape?.Dispose();
            _pool.End();
        }
    }

    // One after the other. Where such a step takes no memory and moves none, the same step recorded will find all that it needs.
    private void Queue(int[] ids, IAdapterPass? pass)
    {
        (long reserved, long moves, long uploaded) = (_pool.Reserved, _recording.Moves, _recording.UploadedBytes);
        Run(ids, pass);
        _made = (_recording.Moves, _model.RopeTablesMade);
        _uploads = _recording.UploadedBytes - uploaded;
        _steady = _pool.Reserved == reserved && _made.Moves == moves;
    }

    private void Record(int[] ids, IAdapterPass? pass)
    {
        try
        {
            _work = _recording.Record(() => Run(ids, pass), _uploads);
            Recorded++;
            _lent = _pool.Reserved;
            _model.Device.Pool.Lend(_lent);
        }
        catch (NotRecordableException)
        {
            // Something that the user brought waits for the device in the middle of a step: its steps are queued one after the other, as ever.
            _refused = true;
        }
    }

    private void Run(int[] ids, IAdapterPass? pass)
    {
        _tape?.Dispose();
        _tape = new Tape(_model.Device, record: false);
        using Device.PoolScope scope = _model.Device.UsePool(_pool);
        var tokens = new TokenBatch(ids.Length, 1, ids, _cache.Starts);
        ForwardContext context = _steering.Context(_tape, tokens, _coefficients, _cache, pass, step: _parts);
        _logits = _model.Logits(context, _model.Forward(context));
    }

    private void Forget()
    {
        IRecordedWork? work = _work;
        _work = null;
        _model.Device.Pool.TakeBack(_lent);
        _lent = 0;
        work?.Dispose();
    }
}
