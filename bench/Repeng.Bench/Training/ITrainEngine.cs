namespace Repeng.Bench.Training;

/// <summary>What a training step is made of, so that each part can be timed in both engines.</summary>
internal interface ITrainEngine : IDisposable
{
    string Name { get; }

    /// <summary>The base model's pass over the batch, without gradients; its results are kept for <see cref="LossAndGradients"/>.</summary>
    void Reference();

    /// <summary>Passes at c = −1 and c = +1, loss, backward pass. Returns the loss.</summary>
    double LossAndGradients();

    /// <summary>Clips the gradients, takes an AdamW step and drops them.</summary>
    void Update();

    /// <summary>Gradients of the adapter's parameters, in the adapter's order.</summary>
    IReadOnlyList<float[]> Gradients();

    /// <summary>Sets the adapter's parameters, in the adapter's order, and drops the gradients.</summary>
    void SetParameters(IReadOnlyList<float[]> values);
}
