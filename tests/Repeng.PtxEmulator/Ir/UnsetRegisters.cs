namespace Repeng.PtxEmulator.Ir;

/// <summary>
/// Finds registers that some path may read before it wrote them, by a forward analysis of what is surely written. Only these are watched when the kernel runs.
/// Moves, packs and selections do not count as reads: compilers move values that nobody will use.
/// </summary>
internal static class UnsetRegisters
{
    public static IReadOnlyDictionary<Register, int> Find(Chunk[] chunks, List<Register> registers)
    {
        var number = new Dictionary<Register, int>(ReferenceEqualityComparer.Instance);
        foreach (Register register in registers)
            number[register] = number.Count;
        int words = (registers.Count + 63) / 64;
        var predecessors = new List<int>[chunks.Length];
        for (int c = 0; c < chunks.Length; c++)
            predecessors[c] = [];
        foreach (Chunk chunk in chunks)
        {
            foreach (int target in chunk.Targets)
                predecessors[target].Add(chunk.Index);
            if (chunk.Next >= 0)
                predecessors[chunk.Next].Add(chunk.Index);
        }

        // Surely written at the end of each chunk; everything until it is known better.
        var written = new ulong[chunks.Length][];
        for (int c = 0; c < chunks.Length; c++)
        {
            written[c] = new ulong[words];
            Array.Fill(written[c], ulong.MaxValue);
        }

        var first = new ulong[words];
        foreach (Register register in registers.Where(r => r.Name.StartsWith('%') && IsSpecial(r.Name)))
            Set(first, number[register]);
        bool changed = true;
        while (changed)
        {
            changed = false;
            foreach (Chunk chunk in chunks)
            {
                ulong[] state = Entry(chunk);
                foreach (Instruction i in All(chunk))
                    Write(i, state, number);
                if (!state.AsSpan().SequenceEqual(written[chunk.Index]))
                {
                    written[chunk.Index] = state;
                    changed = true;
                }
            }
        }

        var watched = new Dictionary<Register, int>(ReferenceEqualityComparer.Instance);
        var unset = new List<Register>();
        foreach (Chunk chunk in chunks)
        {
            ulong[] state = Entry(chunk);
            foreach (Instruction i in All(chunk))
            {
                unset.Clear();
                if (i.Op is not (Op.Mov or Op.Pack or Op.Selp))
                    foreach (Value source in i.Sources)
                        Read(source);
                Read(i.Address);
                Read(i.Address2);
                if (i.Guard is not null)
                    Read(Value.Of(i.Guard));
                if (unset.Count > 0)
                    i.MaybeUnset = [.. unset];
                Write(i, state, number);
            }

            void Read(Value value)
            {
                if (value.Register is not { } register || Has(state, number[register]))
                    return;
                unset.Add(register);
                watched.TryAdd(register, watched.Count);
            }
        }

        return watched;

        ulong[] Entry(Chunk chunk)
        {
            var state = new ulong[words];
            if (chunk.Index == 0)
            {
                first.CopyTo(state, 0);
                return state;
            }

            Array.Fill(state, ulong.MaxValue);
            foreach (int p in predecessors[chunk.Index])
                for (int w = 0; w < words; w++)
                    state[w] &= written[p][w];
            return state;
        }
    }

    private static bool IsSpecial(string name) => name.Contains('.', StringComparison.Ordinal) || name is "%laneid" or "%warpid" or "%nwarpid" or "%smid" or "%nsmid" or "%gridid"
        || name.StartsWith("%lanemask", StringComparison.Ordinal) || name.EndsWith("smem_size", StringComparison.Ordinal);

    private static IEnumerable<Instruction> All(Chunk chunk) => chunk.Last is null ? chunk.Body : chunk.Body.Append(chunk.Last);

    private static void Write(Instruction i, ulong[] state, Dictionary<Register, int> number)
    {
        if (i.Guard is not null)
            return;
        foreach (Value destination in i.Destinations)
            if (destination.Register is not null)
                Set(state, number[destination.Register]);
    }

    private static void Set(ulong[] bits, int at) => bits[at >> 6] |= 1ul << at;

    private static bool Has(ulong[] bits, int at) => (bits[at >> 6] >> at & 1) != 0;
}
