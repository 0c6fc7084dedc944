using System.Runtime.ExceptionServices;
using Repeng.Kernels;
using Repeng.Kernels.Cpu;
using Repeng.Kernels.LinearAlgebra;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters;

/// <summary>
/// The leading singular triplets of adapted weights. Large weights take every core one after the other, so that one
/// matrix at a time is in memory; small ones, whose decomposition is serial, are done side by side, but for packed
/// weights: of those one at a time is decoded. The bits are those of one after the other. A device that decomposes large ones
/// itself (<see cref="ISingularVectors"/>) is asked first.
/// </summary>
internal sealed class AdapterBases(Device device, int rank, Action<int> progress)
{
    private readonly Dictionary<string, TruncatedSvd> _small = [];
    private int _done;

    /// <summary>Decomposes the small ones of the targets.</summary>
    public void Prepare(IReadOnlyList<LinearModule> targets)
    {
        // A dry run has no weights to decompose.
        if (device.Backend.IsDry)
            return;
        LinearModule[] small = [.. targets.Where(t => TopSvd.IsSmall(t.Outputs, t.Inputs) && t.Weight.Type != DType.Packed)];
        float[][] weights = [.. small.Select(t => WeightReader.ToHost(t.Weight))];
        var found = new TruncatedSvd[small.Length];
        try
        {
            Parallel.For(0, small.Length, new ParallelOptions { MaxDegreeOfParallelism = device.HostWorkers.Count }, () => new CpuWorkers(1), (i, _, worker) =>
            {
                found[i] = TopSvd.Compute(worker, weights[i], small[i].Outputs, small[i].Inputs, rank);
                lock (_small)
                    progress(++_done);
                return worker;
            }, worker => worker.Dispose());
        }
        catch (AggregateException e)
        {
            // The user is told of the first damaged weight, as when they are done in order.
            IReadOnlyList<Exception> all = e.Flatten().InnerExceptions;
            ExceptionDispatchInfo.Throw(all.FirstOrDefault(x => x is UserErrorException) ?? all[0]);
        }
        for (int i = 0; i < small.Length; i++)
            _small[small[i].Path] = found[i];
    }

    /// <summary>The triplets of a weight, which are forgotten here; a dry run gets zeros of the right sizes.</summary>
    public TruncatedSvd Take(LinearModule target)
    {
        if (device.Backend.IsDry)
            return new TruncatedSvd(target.Outputs, target.Inputs, rank, new float[(long)target.Outputs * rank], new float[rank], new float[(long)target.Inputs * rank], 0, 0);
        if (_small.Remove(target.Path, out TruncatedSvd? made))
            return made;
        TruncatedSvd svd = TopSvd.Compute(device.HostWorkers, WeightReader.ToHost(target.Weight), target.Outputs, target.Inputs, rank, device.Backend as ISingularVectors);
        progress(++_done);
        return svd;
    }
}
