using Repeng.PtxEmulator.Syntax;

namespace Repeng.PtxEmulator.Ir;

/// <summary>Cuts a kernel into chunks and finds where diverged lanes meet again.</summary>
internal static class FlowGraph
{
    /// <summary>Longest body of a chunk: what the JIT optimises as one method.</summary>
    private const int MostInstructions = 96;

    public static Chunk[] Cut(List<object> items, out Instruction[] all, Function entry)
    {
        var chunks = new List<Chunk>();
        var labels = new Dictionary<object, int>(ReferenceEqualityComparer.Instance);
        var body = new List<Instruction>();
        var instructions = new List<Instruction>();
        var waiting = new List<object>();

        void Close(Instruction? last)
        {
            var chunk = new Chunk { Index = chunks.Count, Body = [.. body], Last = last };
            foreach (Instruction i in body)
                chunk.Classes[(int)i.Class]++;
            if (last is not null)
                chunk.Classes[(int)last.Class]++;
            foreach (object label in waiting)
                labels[label] = chunk.Index;
            waiting.Clear();
            body.Clear();
            chunks.Add(chunk);
        }

        foreach (object item in items)
        {
            if (item is not Instruction instruction)
            {
                if (body.Count > 0)
                    Close(null);
                waiting.Add(item);
                continue;
            }

            instruction.Index = instructions.Count;
            instructions.Add(instruction);
            if (instruction.Op is Op.Bra or Op.Brx or Op.Exit or Op.Trap or Op.Bar)
            {
                Close(instruction);
                continue;
            }

            body.Add(instruction);
            if (body.Count >= MostInstructions)
                Close(null);
        }

        // Falling off the end is a return.
        var end = new Instruction { Op = Op.Exit, Text = "}", Line = instructions.Count > 0 ? instructions[^1].Line : entry.Line, Class = InstructionClass.Branch, Index = instructions.Count };
        instructions.Add(end);
        Close(end);

        foreach (Chunk chunk in chunks)
        {
            bool leaves = chunk.Last is { Guard: null, Op: Op.Bra or Op.Brx or Op.Exit or Op.Trap };
            chunk.Next = leaves ? -1 : chunk.Index + 1;
            if (chunk.Last is { Op: Op.Bra or Op.Brx } branch)
                chunk.Targets = [.. branch.Labels.Select(l => labels[l])];
        }

        PostDominators(chunks);
        all = [.. instructions];
        return [.. chunks];
    }

    /// <summary>Immediate post-dominators (Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm", on the reversed graph).</summary>
    private static void PostDominators(List<Chunk> chunks)
    {
        int n = chunks.Count, exit = n;
        var successors = new List<int>[n];
        var predecessors = new List<int>[n + 1];
        for (int i = 0; i <= n; i++)
            predecessors[i] = [];
        for (int i = 0; i < n; i++)
        {
            Chunk chunk = chunks[i];
            List<int> next = [.. chunk.Targets];
            if (chunk.Next >= 0)
                next.Add(chunk.Next);
            if (chunk.Last is { Op: Op.Exit or Op.Trap } || next.Count == 0)
                next.Add(exit);
            successors[i] = [.. next.Distinct()];
            foreach (int s in successors[i])
                predecessors[s].Add(i);
        }

        // Order of the reversed graph from the exit. Chunks that never reach it (loops without end) have no post-dominator.
        int[] order = new int[n + 1];
        Array.Fill(order, -1);
        var post = new List<int>();
        var visited = new bool[n + 1];
        var stack = new Stack<(int Node, int Next)>();
        stack.Push((exit, 0));
        visited[exit] = true;
        while (stack.Count > 0)
        {
            (int node, int at) = stack.Pop();
            if (at < predecessors[node].Count)
            {
                stack.Push((node, at + 1));
                int p = predecessors[node][at];
                if (!visited[p])
                {
                    visited[p] = true;
                    stack.Push((p, 0));
                }
            }
            else
            {
                order[node] = post.Count;
                post.Add(node);
            }
        }

        int[] dominator = new int[n + 1];
        Array.Fill(dominator, -1);
        dominator[exit] = exit;
        bool changed = true;
        while (changed)
        {
            changed = false;
            for (int k = post.Count - 1; k >= 0; k--)
            {
                int node = post[k];
                if (node == exit)
                    continue;
                int best = -1;
                foreach (int s in successors[node])
                {
                    if (order[s] < 0 || dominator[s] < 0)
                        continue;
                    best = best < 0 ? s : Meet(best, s);
                }

                if (best != dominator[node])
                {
                    dominator[node] = best;
                    changed = true;
                }
            }
        }

        for (int i = 0; i < n; i++)
            chunks[i].Reconverge = dominator[i] < 0 || dominator[i] == exit ? -1 : dominator[i];

        int Meet(int a, int b)
        {
            while (a != b)
            {
                while (order[a] < order[b])
                    a = dominator[a];
                while (order[b] < order[a])
                    b = dominator[b];
            }

            return a;
        }
    }
}
