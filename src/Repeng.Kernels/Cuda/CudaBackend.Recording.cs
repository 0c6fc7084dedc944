namespace Repeng.Kernels.Cuda;

public sealed partial class CudaBackend : IRecording
{
    private long _moves;
    private long _uploadedBytes;

    /// <inheritdoc/>
    public long Moves => Interlocked.Read(ref _moves);

    /// <inheritdoc/>
    public long UploadedBytes => Interlocked.Read(ref _uploadedBytes);

    /// <inheritdoc/>
    public IRecordedWork Record(Action queue, long uploadBytes) => new RecordedWork(Context, Context.Capture(queue, uploadBytes, out CudaHostMemoryHandle? uploads), uploads);

    /// <inheritdoc/>
    public void AppendToCache(View keys, View values, View k, View v, View length, int batch, int capacity, int width)
    {
        const string Op = nameof(AppendToCache);
        Shape(batch, width, Op);
        Check.Size(capacity, Op, nameof(capacity));
        long held = (long)batch * capacity * width, added = (long)batch * width;
        keys.Require(held, DType.F32, Op, nameof(keys));
        values.Require(held, DType.F32, Op, nameof(values));
        k.Require(added, DType.F32, Op, nameof(k));
        v.Require(added, DType.F32, Op, nameof(v));
        length.Require(1, DType.I32, Op, nameof(length));
        KernelArguments a = default;
        a.Add(keys).Add(values).Add(k).Add(v).Add(length).Add((long)capacity).Add((long)width);
        PerRowChunk("append_rows", batch, width, ref a);
    }

    /// <inheritdoc/>
    public void AttentionOfCache(View o, View lse, View q, View k, View v, View firstKey, View length, in AttentionArgs args)
    {
        length.Require(1, DType.I32, nameof(AttentionOfCache), nameof(length));
        ForwardAttention(nameof(AttentionOfCache), o, lse, q, k, v, firstKey, length.Address, args);
    }

    private sealed class RecordedWork(CudaContext context, CudaGraphHandle graph, CudaHostMemoryHandle? uploads) : IRecordedWork
    {
        public void Run() => context.Launch(graph);

        // The copies read the memory until the last run is over.
        public void Dispose()
        {
            try
            {
                if (uploads is { IsClosed: false })
                    context.Settle();
            }
            finally
            {
                graph.Dispose();
                uploads?.Dispose();
            }
        }
    }
}
