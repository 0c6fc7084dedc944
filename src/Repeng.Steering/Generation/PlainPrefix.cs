using Repeng.Autograd;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Steering.Models;
using Repeng.Steering.Vectors;

namespace Repeng.Steering.Generation;

/// <summary>
/// What enters a block of the plain model, kept for batches that are run again and again: where steering begins at that block or later, the blocks before it
/// give the same for every method and coefficient. Holds tokens × width floats a batch. Not for several threads at once.
/// </summary>
/// <param name="model">The model.</param>
/// <param name="block">First block that is run each time, from 0.</param>
public sealed class PlainPrefix(DecoderModel model, int block)
{
    private readonly Dictionary<int[], float[]> _kept = new(new SameIds());

    /// <summary>First block that is run each time.</summary>
    public int Block { get; } = block >= 0 && block < model.Config.NumLayers ? block : throw new ArgumentOutOfRangeException(nameof(block), block, $"the model has blocks 0 … {model.Config.NumLayers - 1}");

    /// <summary>The residual stream, a row for each token that the pass runs over, [tokens, d], that enters the block; null where that is the first. Throws where the steering begins earlier.</summary>
    public Tensor? Enter(Tape tape, SharedPrefixes texts, Steering steering)
    {
        int first = Math.Min(steering.Adapter?.FirstBlock ?? int.MaxValue, steering.Vector?.Modules.Min(FirstOf) ?? int.MaxValue);
        if (first < Block)
            throw new ArgumentException($"steering begins at block {first}, and what is kept is what enters block {Block}");
        if (Block == 0)
            return null;
        // Padding is told by the rows' beginnings; the same texts have other rows where their beginnings are shared.
        int[] key = [texts.Computed, .. texts.Texts.Ids, .. texts.Texts.Starts];
        if (!_kept.TryGetValue(key, out float[]? hidden))
        {
            using var plain = new Tape(model.Device, record: false);
            _kept[key] = hidden = model.Forward(new ForwardContext(plain, texts) { LastBlock = Block - 1 }).ToArray();
        }
        return tape.Constant(hidden, texts.Computed, model.Config.HiddenSize);
    }

    // The head and the final norm are of no block and come last; so are the embeddings, which come first.
    private int FirstOf(string module) => LayerSelection.BlockOf(model, module) ?? (module == model.Config.EmbeddingPath ? 0 : model.Config.NumLayers);

    private sealed class SameIds : IEqualityComparer<int[]>
    {
        public bool Equals(int[]? a, int[]? b) => a.AsSpan().SequenceEqual(b);

        public int GetHashCode(int[] ids)
        {
            var hash = new HashCode();
            foreach (int id in ids)
                hash.Add(id);
            return hash.ToHashCode();
        }
    }
}
