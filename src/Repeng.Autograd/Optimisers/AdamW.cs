using Repeng.Kernels;
using Repeng.Runtime;

namespace Repeng.Autograd;

/// <summary>AdamW over a set of parameters (Loshchilov and Hutter 2019; the numbers of torch.optim.AdamW).</summary>
public sealed class AdamW : IDisposable
{
    private readonly Tensor[] _m;
    private readonly Tensor[] _v;

    /// <summary>Moments start at zero.</summary>
    public AdamW(IReadOnlyList<Tensor> parameters, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8, double weightDecay = 0.01)
    {
        Parameters = parameters;
        (Beta1, Beta2, Eps, WeightDecay) = (beta1, beta2, eps, weightDecay);
        _m = [.. parameters.Select(Zeros)];
        _v = [.. parameters.Select(Zeros)];
    }

    /// <summary>What is optimised.</summary>
    public IReadOnlyList<Tensor> Parameters { get; }

    /// <summary>Decay of the first moment; schedules may cycle it.</summary>
    public double Beta1 { get; set; }

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; }

    /// <summary>Added to the root of the second moment.</summary>
    public double Eps { get; }

    /// <summary>Decoupled weight decay.</summary>
    public double WeightDecay { get; }

    /// <summary>Parameters that the weight decay spares (norms, biases, embeddings), if any.</summary>
    public Func<Tensor, bool>? NoDecay { get; init; }

    /// <summary>Steps taken.</summary>
    public int Steps { get; private set; }

    /// <summary>First and second moments, in the order of the parameters, for checkpoints.</summary>
    public IEnumerable<(Tensor Parameter, Tensor M, Tensor V)> State => Parameters.Select((p, i) => (p, _m[i], _v[i]));

    /// <summary>Sets the number of steps taken, when a run is resumed.</summary>
    public void Resume(int steps) => Steps = steps;

    /// <summary>One step with the gradients that the parameters hold; a parameter without a gradient is left alone, as torch does.</summary>
    public void Step(double learningRate)
    {
        Steps++;
        // Neighbours with one device and one decay are one call.
        var together = new List<AdamWTensor>();
        (IBackend? Backend, double Decay) of = default;
        for (int i = 0; i < Parameters.Count; i++)
        {
            Tensor p = Parameters[i];
            if (p.Grad.IsEmpty)
                continue;
            (IBackend, double) own = (p.Device.Backend, NoDecay?.Invoke(p) == true ? 0 : WeightDecay);
            if (own != of)
                Run();
            of = own;
            together.Add(new AdamWTensor(p.Data, p.Grad, _m[i].Data, _v[i].Data));
        }
        Run();

        void Run()
        {
            of.Backend?.AdamWSeveral(together.ToArray(), new AdamWArgs(learningRate, Beta1, Beta2, Eps, of.Decay, Steps));
            together.Clear();
        }
    }

    /// <summary>Drops the gradients.</summary>
    public void ZeroGrad()
    {
        foreach (Tensor p in Parameters)
            p.FreeGrad();
    }

    /// <summary>Scales all gradients so that their common L2 norm is at most maxNorm (torch.nn.utils.clip_grad_norm_); returns the norm before.</summary>
    public double ClipGradNorm(double maxNorm)
    {
        double total = 0;
        foreach (Tensor p in Parameters)
        {
            if (p.Grad.IsEmpty)
                continue;
            foreach (float g in p.GradToArray())
                total += (double)g * g;
        }
        double norm = Math.Sqrt(total);
        double factor = maxNorm / (norm + 1e-6);
        if (factor < 1)
            foreach (IGrouping<IBackend, View> grads in Parameters.Where(p => !p.Grad.IsEmpty).GroupBy(p => p.Device.Backend, p => p.Grad))
            {
                View[] views = [.. grads];
                grads.Key.CopySeveral(views, views, accumulate: false, (float)factor);
            }
        return norm;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Tensor t in _m.Concat(_v))
            t.Dispose();
    }

    private static Tensor Zeros(Tensor p)
    {
        var t = new Tensor(p.Device, DType.F32, p.Shape);
        p.Device.Backend.Fill(t.Data, 0);
        return t;
    }
}
