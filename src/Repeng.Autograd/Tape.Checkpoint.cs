using Repeng.Runtime;

namespace Repeng.Autograd;

public sealed partial class Tape
{
    /// <summary>
    /// Runs a part of the pass without recording and records it as one op that runs the part again when gradients
    /// come (activation checkpointing; Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). The body
    /// must compute the same both times; parameters it captures get their gradients directly.
    /// </summary>
    /// <param name="body">Maps the inputs to the outputs.</param>
    /// <param name="tracks">Whether the outputs depend on anything that requires a gradient.</param>
    /// <param name="inputs">Tensors that gradients flow back to when they require them.</param>
    public Tensor[] Checkpoint(Func<Tensor[], Tensor[]> body, bool tracks, params Tensor[] inputs)
    {
        if (!Recording || !tracks)
            return body(inputs);
        Tensor[] outputs;
        Recording = false;
        try
        {
            using Scope scope = BeginScope();
            outputs = body(inputs);
            foreach (Tensor o in outputs)
                scope.Keep(o);
        }
        finally
        {
            Recording = true;
        }

        return RecordMany(outputs, inputs, () =>
        {
            List<Node> outer = _nodes;
            _nodes = [];
            try
            {
                using Scope scope = BeginScope();
                Tensor[] detached = Array.ConvertAll(inputs, x => Own(x.Alias(0, x.Shape)));
                for (int i = 0; i < inputs.Length; i++)
                    detached[i].RequiresGrad = inputs[i].RequiresGrad;
                Tensor[] again = body(detached);
                // A tensor may stand in the outputs twice (a block's output that is also tapped); its gradient counts once.
                for (int i = 0; i < outputs.Length; i++)
                    if (again[i].RequiresGrad && Array.IndexOf(outputs, outputs[i]) == i)
                        PassOn(outputs[i], again[i], last: true);
                Play(_nodes);
                for (int i = 0; i < inputs.Length; i++)
                {
                    if (detached[i].Grad.IsEmpty)
                        continue;
                    PassOn(detached[i], inputs[i], last: true);
                    detached[i].FreeGrad();
                }
            }
            finally
            {
                foreach (Node node in _nodes)
                    node.Drop();
                _nodes = outer;
            }
        });
    }
}
