using Repeng.Autograd;
using Repeng.Runtime;
using Repeng.Steering.Models;

namespace Repeng.Steering.Adapters;

/// <summary>Any adapter on linear layers of a model that a signed coefficient steers. Owns its tensors; the model stays untouched.</summary>
public interface IAdapter : IDisposable
{
    /// <summary>What it is, in words for reports.</summary>
    string Kind { get; }

    /// <summary>The base model.</summary>
    DecoderModel Model { get; }

    /// <summary>Dotted paths of the adapted layers, in the order of the forward pass.</summary>
    IReadOnlyCollection<string> Modules { get; }

    /// <summary>Number of the first block with an adapted layer: what enters it is the same for every coefficient.</summary>
    int FirstBlock { get; }

    /// <summary>Trained tensors, in the order of the layers; each has a name.</summary>
    IReadOnlyList<Tensor> Parameters { get; }

    /// <summary>Number of trained values.</summary>
    long ParameterCount { get; }

    /// <summary>What the forward pass adds or changes where each sequence has its own coefficient.</summary>
    /// <param name="tape">Records what depends on the parameters when they are to be trained.</param>
    /// <param name="coefficients">One a sequence; not finite ones are refused.</param>
    /// <param name="length">Tokens a sequence.</param>
    /// <param name="like">An earlier pass on the same tape with the same parameters, whose derived tensors are used again.</param>
    /// <param name="asTerms">Layers whose change is to come as <see cref="IAdapterPass.Term"/>, where <see cref="AddsToWeight"/> holds; null for those that are best as terms.</param>
    IAdapterPass Pass(Tape tape, ReadOnlySpan<float> coefficients, int length, IAdapterPass? like = null, Func<string, bool>? asTerms = null);

    /// <summary>Whether all that the adapter does on one of its layers is to add a product of low rank to the weight, so that other adapters can add theirs.</summary>
    bool AddsToWeight(string module);

    /// <summary>
    /// Weight [out, in] and bias of a plain linear layer that computes what the adapted one does at a coefficient; null for a layer
    /// that is not adapted. Throws <see cref="Kernels.UserErrorException"/> where a plain layer cannot say it.
    /// </summary>
    (float[] Weight, float[]? Bias)? Merge(LinearModule module, float c);

    /// <summary>Turns the effect round: afterwards c does what −c did.</summary>
    void Negate();

    /// <summary>Writes the adapter's files into a folder that exists.</summary>
    /// <param name="folder">Where to.</param>
    /// <param name="baseModel">Name of the base model, for the configuration.</param>
    void Save(string folder, string baseModel);
}
