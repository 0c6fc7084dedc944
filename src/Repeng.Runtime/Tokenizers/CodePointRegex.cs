using Repeng.Kernels;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// A backtracking regular expression over whole code points. The one of .NET works on UTF-16 units,
/// so that its <c>\p{L}</c> never sees a letter beyond U+FFFF and would split where the original does not.
/// </summary>
/// <remarks>Immutable; each thread matches with its own <see cref="Matcher"/>.</remarks>
internal sealed class CodePointRegex
{
    private const int LargestProgram = 50_000;
    private const int MostAlternatives = 32;

    private readonly string _pattern;
    private readonly string _where;
    private readonly List<Instruction> _building = [];
    private readonly Instruction[] _program;
    private readonly int[] _starts;
    private readonly uint[] _asciiStarts = new uint[128];
    private Matcher? _idle;

    private CodePointRegex(string pattern, string where)
    {
        _pattern = pattern;
        _where = where;
        RegexNode root = RegexSyntax.Parse(pattern, where);
        // The alternatives at the top are tried one by one, so that one look at the first character can rule most out.
        IReadOnlyList<RegexNode> alternatives = root is RegexNode.Choice { Options.Count: <= MostAlternatives } choice ? choice.Options : [root];
        _starts = new int[alternatives.Count];
        for (int i = 0; i < alternatives.Count; i++)
        {
            _starts[i] = _building.Count;
            Emit(alternatives[i]);
            Add(new Instruction { Op = Op.Match });
            for (int c = 0; c < 128; c++)
                if (MayStart(alternatives[i], c))
                    _asciiStarts[c] |= 1u << i;
        }
        _program = [.. _building];
    }

    /// <param name="where">File and place of the pattern, for error messages.</param>
    /// <exception cref="UserErrorException">The pattern uses what is not supported.</exception>
    public static CodePointRegex Parse(string pattern, string where) => new(pattern, where);

    /// <summary>A matcher for one thread; give it back with <see cref="Return"/>.</summary>
    public Matcher Rent() => Interlocked.Exchange(ref _idle, null) ?? new Matcher(this);

    public void Return(Matcher matcher) => _idle = matcher;

    /// <summary>Appends the matches of a piece and what lies between them, in order.</summary>
    public void SplitAtMatches(Piece piece, List<Piece> output)
    {
        ReadOnlySpan<char> text = piece.Span;
        Matcher matcher = Rent();
        int done = 0;
        for (int from = 0; from < text.Length && matcher.Find(text, from, out int start, out int end);)
        {
            if (start > done)
                output.Add(piece.Slice(done, start));
            if (end > start)
                output.Add(piece.Slice(start, end));
            // An empty match cuts, and the search goes on behind the next character.
            done = from = end;
            if (end == start && end < text.Length)
            {
                CodePoints.At(text, end, out int length);
                from = end + length;
            }
            else if (end == start)
            {
                break;
            }
        }
        if (done < text.Length)
            output.Add(piece.Slice(done, text.Length));
        Return(matcher);
    }

    private enum Op { Set, Loop, Atomic, LookAhead, LookBehind, Anchor, Split, Jump, Match }

    private struct Instruction
    {
        public Op Op;
        /// <summary>Loop: no giving back. Look-around: must not match. Split: prefers the target over the next instruction.</summary>
        public bool Flag;
        public int Target;
        public int Min;
        public int Max;
        public CodePointSet? Set;
        public AnchorKind Anchor;
    }

    private int Add(Instruction instruction)
    {
        if (_building.Count >= LargestProgram)
            throw new UserErrorException($"{_where}: the pattern {JsonSection.Quote(_pattern)} unrolls to more than {LargestProgram} steps; shorten its intervals");
        _building.Add(instruction);
        return _building.Count - 1;
    }

    private void Aim(int at)
    {
        Instruction instruction = _building[at];
        instruction.Target = _building.Count;
        _building[at] = instruction;
    }

    private void Emit(RegexNode node)
    {
        switch (node)
        {
            case RegexNode.Set set:
                Add(new Instruction { Op = Op.Set, Set = set.Members });
                break;
            case RegexNode.Sequence sequence:
                foreach (RegexNode item in sequence.Items)
                    Emit(item);
                break;
            case RegexNode.Choice choice:
                EmitChoice(choice);
                break;
            case RegexNode.Repeat repeat:
                EmitRepeat(repeat);
                break;
            case RegexNode.Atomic atomic:
                EmitNested(Op.Atomic, atomic.Body, false);
                break;
            case RegexNode.LookAhead look:
                EmitNested(Op.LookAhead, look.Body, look.Negative);
                break;
            case RegexNode.LookBehind behind:
                Add(new Instruction { Op = Op.LookBehind, Set = behind.Members, Flag = behind.Negative });
                break;
            case RegexNode.Anchor anchor:
                Add(new Instruction { Op = Op.Anchor, Anchor = anchor.Kind });
                break;
        }
    }

    /// <summary>A body that runs on its own and ends in Match; the instruction's target is what follows it.</summary>
    private void EmitNested(Op op, RegexNode body, bool flag)
    {
        int head = Add(new Instruction { Op = op, Flag = flag });
        Emit(body);
        Add(new Instruction { Op = Op.Match });
        Aim(head);
    }

    private void EmitChoice(RegexNode.Choice choice)
    {
        List<int> exits = [];
        for (int i = 0; i < choice.Options.Count - 1; i++)
        {
            int split = Add(new Instruction { Op = Op.Split });
            Emit(choice.Options[i]);
            exits.Add(Add(new Instruction { Op = Op.Jump }));
            Aim(split);
        }
        Emit(choice.Options[^1]);
        foreach (int exit in exits)
            Aim(exit);
    }

    private void EmitRepeat(RegexNode.Repeat repeat)
    {
        if (repeat.Body is RegexNode.Set set && repeat.Kind != RepeatKind.Lazy)
        {
            bool atomic = repeat.Kind == RepeatKind.Possessive;
            Add(new Instruction { Op = Op.Loop, Set = set.Members, Min = repeat.Min, Max = repeat.Max, Flag = atomic });
            return;
        }
        if (repeat.Kind == RepeatKind.Possessive)
        {
            EmitNested(Op.Atomic, repeat with { Kind = RepeatKind.Greedy }, false);
            return;
        }
        bool lazy = repeat.Kind == RepeatKind.Lazy;
        for (int i = 0; i < repeat.Min; i++)
            Emit(repeat.Body);
        if (repeat.Max == int.MaxValue)
        {
            int split = Add(new Instruction { Op = Op.Split, Flag = lazy });
            Emit(repeat.Body);
            Add(new Instruction { Op = Op.Jump, Target = split });
            Aim(split);
            return;
        }
        List<int> exits = [];
        for (int i = repeat.Min; i < repeat.Max; i++)
        {
            exits.Add(Add(new Instruction { Op = Op.Split, Flag = lazy }));
            Emit(repeat.Body);
        }
        foreach (int exit in exits)
            Aim(exit);
    }

    /// <summary>False only when no match of the node can begin with this character.</summary>
    private static bool MayStart(RegexNode node, int c) => node switch
    {
        RegexNode.Set set => set.Members.Contains(c),
        RegexNode.Repeat repeat => repeat.Min == 0 || MayStart(repeat.Body, c),
        RegexNode.Choice choice => choice.Options.Any(o => MayStart(o, c)),
        RegexNode.Atomic atomic => MayStart(atomic.Body, c),
        RegexNode.Sequence sequence => SequenceMayStart(sequence.Items, c),
        _ => true,
    };

    private static bool SequenceMayStart(IReadOnlyList<RegexNode> items, int c)
    {
        foreach (RegexNode item in items)
        {
            // An assertion takes no character, so what follows it decides.
            bool assertion = item is RegexNode.LookAhead or RegexNode.LookBehind or RegexNode.Anchor;
            if (!assertion && ConsumingMayStart(item, c))
                return true;
            if (!item.CanBeEmpty)
                return false;
        }
        return true;
    }

    private static bool ConsumingMayStart(RegexNode item, int c) =>
        item is RegexNode.Repeat repeat ? MayStart(repeat.Body, c) : MayStart(item, c);

    /// <summary>The state of matching: a stack of the points to go back to. Not for use by several threads at once.</summary>
    internal sealed class Matcher(CodePointRegex regex)
    {
        private struct Frame
        {
            public int Next;
            public int Position;
            /// <summary>For a loop, the position below which it must not give back; else -1.</summary>
            public int Floor;
        }

        private readonly CodePointRegex _regex = regex;
        private Frame[] _frames = new Frame[32];
        private int _count;
        private long _stepsLeft;

        /// <summary>The leftmost match that begins at <paramref name="from"/> or later, by the first alternative that matches there.</summary>
        /// <exception cref="UserErrorException">The pattern backtracks without end on this text.</exception>
        public bool Find(ReadOnlySpan<char> text, int from, out int start, out int end)
        {
            for (start = from; start <= text.Length;)
            {
                end = MatchAt(text, start);
                if (end >= 0)
                    return true;
                if (start == text.Length)
                    break;
                CodePoints.At(text, start, out int length);
                start += length;
            }
            start = end = -1;
            return false;
        }

        private int MatchAt(ReadOnlySpan<char> text, int start)
        {
            // A sane pattern looks at each character a few times; only nested repeats of the same text need more.
            _stepsLeft = 1_000_000 + 64L * (text.Length - start);
            uint candidates = start < text.Length && text[start] < 128 ? _regex._asciiStarts[text[start]] : uint.MaxValue;
            for (int i = 0; i < _regex._starts.Length; i++)
            {
                if ((candidates >> i & 1) == 0)
                    continue;
                int end = Run(text, _regex._starts[i], start);
                if (end >= 0)
                    return end;
            }
            return -1;
        }

        /// <summary>Runs from an instruction to its Match; returns the position there, or -1.</summary>
        private int Run(ReadOnlySpan<char> text, int at, int position)
        {
            int bottom = _count;
            Instruction[] program = _regex._program;
            while (true)
            {
                if (--_stepsLeft < 0)
                    throw new UserErrorException($"{_regex._where}: the pattern {JsonSection.Quote(_regex._pattern)} does not come to an end on a text of {text.Length} characters; it repeats a repeat");
                ref readonly Instruction step = ref program[at];
                bool matched = true;
                switch (step.Op)
                {
                    case Op.Match:
                        _count = bottom;
                        return position;
                    case Op.Set:
                        matched = TakeOne(text, step.Set!, ref position);
                        at++;
                        break;
                    case Op.Loop:
                        matched = TakeMany(text, step, at + 1, ref position);
                        at++;
                        break;
                    case Op.Jump:
                        at = step.Target;
                        break;
                    case Op.Split:
                        Push(step.Flag ? at + 1 : step.Target, position, -1);
                        at = step.Flag ? step.Target : at + 1;
                        break;
                    case Op.Atomic:
                        int end = Run(text, at + 1, position);
                        matched = end >= 0;
                        position = end;
                        at = step.Target;
                        break;
                    case Op.LookAhead:
                        matched = Run(text, at + 1, position) >= 0 != step.Flag;
                        at = step.Target;
                        break;
                    case Op.LookBehind:
                        matched = (position > 0 && step.Set!.Contains(CodePoints.Before(text, position, out _))) != step.Flag;
                        at++;
                        break;
                    case Op.Anchor:
                        matched = Holds(text, step.Anchor, position);
                        at++;
                        break;
                }
                if (matched)
                    continue;
                if (_count == bottom)
                    return -1;
                ref Frame frame = ref _frames[_count - 1];
                if (frame.Floor >= 0)
                {
                    CodePoints.Before(text, frame.Position, out int length);
                    frame.Position -= length;
                }
                (at, position) = (frame.Next, frame.Position);
                if (frame.Floor < 0 || frame.Position <= frame.Floor)
                    _count--;
            }
        }

        private static bool TakeOne(ReadOnlySpan<char> text, CodePointSet set, ref int position)
        {
            if (position >= text.Length)
                return false;
            char c = text[position];
            int length = 1;
            if (!(char.IsSurrogate(c) ? set.Contains(CodePoints.At(text, position, out length)) : set.ContainsUnit(c)))
                return false;
            position += length;
            return true;
        }

        private bool TakeMany(ReadOnlySpan<char> text, in Instruction loop, int next, ref int position)
        {
            int floor = position;
            int count = 0;
            CodePointSet set = loop.Set!;
            while (count < loop.Max && TakeOne(text, set, ref position))
                if (++count == loop.Min)
                    floor = position;
            if (count < loop.Min)
                return false;
            // What ends the expression accepts the longest run: there is nothing to come back for.
            if (!loop.Flag && position > floor && _regex._program[next].Op != Op.Match)
                Push(next, position, floor);
            return true;
        }

        private void Push(int next, int position, int floor)
        {
            if (_count == _frames.Length)
                Array.Resize(ref _frames, _count * 2);
            _frames[_count++] = new Frame { Next = next, Position = position, Floor = floor };
        }

        private static bool Holds(ReadOnlySpan<char> text, AnchorKind kind, int position) => kind switch
        {
            AnchorKind.TextStart => position == 0,
            AnchorKind.TextEnd => position == text.Length,
            AnchorKind.LineStart => position == 0 || (position < text.Length && text[position - 1] == '\n'),
            AnchorKind.LineEnd => position == text.Length || text[position] == '\n',
            AnchorKind.WordBoundary => AtBoundary(text, position),
            _ => !AtBoundary(text, position),
        };

        private static bool AtBoundary(ReadOnlySpan<char> text, int position)
        {
            bool before = position > 0 && CodePointSet.Word.Contains(CodePoints.Before(text, position, out _));
            bool after = position < text.Length && CodePointSet.Word.Contains(CodePoints.At(text, position, out _));
            return before != after;
        }
    }
}
