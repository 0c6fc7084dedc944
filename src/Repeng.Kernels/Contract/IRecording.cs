namespace Repeng.Kernels;

/// <summary>Work of a device that was recorded and can be run again and again: the same ops on the same memory, at the cost of one call.</summary>
public interface IRecordedWork : IDisposable
{
    /// <summary>Queues the work.</summary>
    void Run();
}

/// <summary>Something in the middle of a recording needed an answer of the device, or memory, and a recording gives none.</summary>
public sealed class NotRecordableException(string what) : InvalidOperationException($"{what} cannot be recorded");

/// <summary>
/// A backend that records what is queued, to run it again. Recorded ops keep their sizes and addresses, so that a decoding step, which is the same for every token but for how many there are, reads that
/// number on the device: <see cref="AppendToCache"/>, <see cref="AttentionOfCache"/>. The CPU, where queueing costs nothing beside the work, has no use for it.
/// </summary>
public interface IRecording
{
    /// <summary>Grows whenever memory of the backend's own has moved that recorded work may read: work of an earlier number must not be run.</summary>
    long Moves { get; }

    /// <summary>Bytes that <see cref="IBackend.Upload"/> has carried so far.</summary>
    long UploadedBytes { get; }

    /// <summary>
    /// Records what <paramref name="queue"/> queues, without running it. Uploads become copies of what was uploaded here, made anew each time the work runs.
    /// Throws <see cref="NotRecordableException"/> where something is downloaded, waited for, allocated or freed; nothing is left recording then.
    /// </summary>
    /// <param name="queue">Queues ops.</param>
    /// <param name="uploadBytes">Bytes that it uploads, at most, each upload rounded up to <see cref="UploadUnit"/>.</param>
    IRecordedWork Record(Action queue, long uploadBytes);

    /// <summary>What an upload of a recording is rounded up to, bytes.</summary>
    const int UploadUnit = 256;

    /// <summary>One row behind those that each sequence of a cache holds: keys[b, length, :] = k[b, :], and the same of values.</summary>
    /// <param name="keys">[batch, capacity, width].</param>
    /// <param name="values">[batch, capacity, width].</param>
    /// <param name="k">[batch, width].</param>
    /// <param name="v">[batch, width].</param>
    /// <param name="length">I32 [1]: rows that each sequence holds, less than capacity; not checked here.</param>
    /// <param name="batch">Sequences.</param>
    /// <param name="capacity">Rows that a sequence can hold.</param>
    /// <param name="width">Elements of a row.</param>
    void AppendToCache(View keys, View values, View k, View v, View length, int batch, int capacity, int width);

    /// <summary>
    /// As <see cref="IBackend.AttentionForward"/>, with length[0] + QueryLength keys, of which KeyLength is the most; the bits are those of that op with that number.
    /// </summary>
    void AttentionOfCache(View o, View lse, View q, View k, View v, View firstKey, View length, in AttentionArgs args);
}
