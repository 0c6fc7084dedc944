using System.Globalization;
using System.Text;

namespace Repeng.Runtime.Tokenizers;

/// <summary>
/// Normalization Forms C, D, KC and KD of Unicode Standard Annex #15, over the tables of Unicode 9.0 that the
/// library behind tokenizer.json uses. <see cref="string.Normalize()"/> is not used: it follows the operating
/// system's tables, and does nothing at all where globalization is invariant.
/// </summary>
internal static class UnicodeNormalization
{
    // Hangul syllables decompose and compose by arithmetic (Unicode Standard, section 3.12).
    private const int SyllableBase = 0xAC00, LeadBase = 0x1100, VowelBase = 0x1161, TrailBase = 0x11A7;
    private const int LeadCount = 19, VowelCount = 21, TrailCount = 28;
    private const int SyllableCount = LeadCount * VowelCount * TrailCount;

    private static readonly Lazy<Tables> s_tables = new(() => new Tables());

    /// <param name="text">Well-formed UTF-16.</param>
    /// <returns>The same instance when nothing changes by a quick look.</returns>
    public static string Normalize(string text, NormalizationForm form)
    {
        bool compatible = form is NormalizationForm.FormKC or NormalizationForm.FormKD;
        bool compose = form is NormalizationForm.FormC or NormalizationForm.FormKC;
        // Below these limits no character changes, alone or with another below it.
        char limit = compatible ? '\u00A0' : compose ? '\u0300' : '\u00C0';
        if (!text.AsSpan().ContainsAnyInRange(limit, char.MaxValue))
            return text;

        Tables tables = s_tables.Value;
        if (!tables.MayChange(text, compatible, compose))
            return text;
        List<int> points = new(text.Length + 16);
        foreach (Rune rune in text.EnumerateRunes())
            tables.Decompose(rune.Value, compatible, points);
        tables.Order(points);
        if (compose)
            tables.Compose(points);

        var result = new StringBuilder(points.Count);
        foreach (int point in points)
        {
            if (point <= char.MaxValue)
                result.Append((char)point);
            else
                result.Append(char.ConvertFromUtf32(point));
        }
        return result.ToString();
    }

    private sealed class Tables
    {
        private readonly Dictionary<int, byte> _classes = [];
        private readonly Dictionary<int, int[]> _canonical = [];
        private readonly Dictionary<int, int[]> _compatible = [];
        private readonly Dictionary<(int, int), int> _pairs = [];

        /// <summary>Per character up to U+2FFFF (none above changes) one bit per form: normalization may change it or what stands before it.</summary>
        private readonly byte[] _changes = new byte[0x30000];

        public Tables()
        {
            using Stream stream = typeof(Tables).Assembly.GetManifestResourceStream("unicode-normalization.txt")!;
            using var reader = new StreamReader(stream);
            while (reader.ReadLine() is { } line)
            {
                int mark = line.AsSpan().IndexOfAny("#:=!~");
                switch (line[mark])
                {
                    case ':':
                        AddClass(line.AsSpan(0, mark), byte.Parse(line.AsSpan(mark + 1), CultureInfo.InvariantCulture));
                        break;
                    case '~':
                        _compatible.Add(Hex(line.AsSpan(0, mark)), HexList(line[(mark + 1)..]));
                        break;
                    case '=' or '!':
                        int[] parts = HexList(line[(mark + 1)..]);
                        _canonical.Add(Hex(line.AsSpan(0, mark)), parts);
                        if (line[mark] == '=')
                            _pairs.Add((parts[0], parts[1]), Hex(line.AsSpan(0, mark)));
                        break;
                }
            }
            MarkChanges();
        }

        private static byte FormBit(bool compatible, bool compose) => (byte)(1 << ((compatible ? 1 : 0) + (compose ? 2 : 0)));

        private void MarkChanges()
        {
            const byte all = 0b1111;
            byte decomposing = (byte)(FormBit(false, false) | FormBit(true, false));
            byte composing = (byte)(all & ~decomposing);
            foreach (int point in _classes.Keys)
                _changes[point] = all;
            foreach ((int, int) pair in _pairs.Keys)
                _changes[pair.Item2] |= composing;
            for (int point = VowelBase; point < TrailBase + TrailCount; point++)
                _changes[point] |= composing;
            for (int point = SyllableBase; point < SyllableBase + SyllableCount; point++)
                _changes[point] |= decomposing;
            foreach ((int point, int[] parts) in _canonical)
            {
                bool composesBack = parts.Length == 2 && _pairs.TryGetValue((parts[0], parts[1]), out int whole) && whole == point;
                _changes[point] |= composesBack ? decomposing : all;
            }
            foreach (int point in _compatible.Keys)
                _changes[point] |= (byte)(FormBit(true, false) | FormBit(true, true));
            // A character whose parts have compatibility decompositions changes in the compatible forms as well.
            foreach ((int point, int[] parts) in _canonical)
                if (parts.Any(p => _compatible.ContainsKey(p)))
                    _changes[point] |= FormBit(true, true);
        }

        /// <summary>False when every character of the text is known to stay as it is.</summary>
        public bool MayChange(string text, bool compatible, bool compose)
        {
            byte bit = FormBit(compatible, compose);
            for (int i = 0; i < text.Length;)
            {
                int point = CodePoints.At(text, i, out int length);
                if (point < _changes.Length && (_changes[point] & bit) != 0)
                    return true;
                i += length;
            }
            return false;
        }

        private void AddClass(ReadOnlySpan<char> range, byte combiningClass)
        {
            int dash = range.IndexOf('-');
            int first = Hex(dash < 0 ? range : range[..dash]);
            int last = Hex(dash < 0 ? range : range[(dash + 1)..]);
            for (int point = first; point <= last; point++)
                _classes.Add(point, combiningClass);
        }

        private static int Hex(ReadOnlySpan<char> digits) => int.Parse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);

        private static int[] HexList(string digits) => [.. digits.Split(' ').Select(d => Hex(d))];

        private int ClassOf(int point) => point < 0x300 ? 0 : _classes.GetValueOrDefault(point);

        public void Decompose(int point, bool compatible, List<int> output)
        {
            if (point < 0xA0)
            {
                output.Add(point);
            }
            else if ((uint)(point - SyllableBase) < SyllableCount)
            {
                int index = point - SyllableBase;
                output.Add(LeadBase + index / (VowelCount * TrailCount));
                output.Add(VowelBase + index % (VowelCount * TrailCount) / TrailCount);
                if (index % TrailCount != 0)
                    output.Add(TrailBase + index % TrailCount);
            }
            else if (_canonical.TryGetValue(point, out int[]? parts) || compatible && _compatible.TryGetValue(point, out parts))
            {
                foreach (int part in parts)
                    Decompose(part, compatible, output);
            }
            else
            {
                output.Add(point);
            }
        }

        /// <summary>The canonical ordering: each run of marks is sorted by combining class, equal classes keep their order.</summary>
        public void Order(List<int> points)
        {
            for (int start = 0; start < points.Count;)
            {
                int end = start;
                bool sorted = true;
                for (int before = 0; end < points.Count && ClassOf(points[end]) is > 0 and int now; before = now, end++)
                    sorted &= before <= now;
                if (!sorted)
                {
                    int[] run = [.. points.GetRange(start, end - start).OrderBy(ClassOf)];
                    for (int i = 0; i < run.Length; i++)
                        points[start + i] = run[i];
                }
                start = end + 1;
            }
        }

        /// <summary>The canonical composition, in place: a mark joins the last starter unless a mark of its class or above stands between.</summary>
        public void Compose(List<int> points)
        {
            int starter = -1;
            int written = 0;
            int lastClass = 0;
            for (int i = 0; i < points.Count; i++)
            {
                int point = points[i];
                int combiningClass = ClassOf(point);
                bool adjacent = starter == written - 1;
                bool reaches = starter >= 0 && (adjacent || lastClass < combiningClass && lastClass != 0);
                if (reaches && TryCompose(points[starter], point, out int composed))
                {
                    points[starter] = composed;
                    continue;
                }
                if (combiningClass == 0)
                    starter = written;
                lastClass = combiningClass;
                points[written++] = point;
            }
            points.RemoveRange(written, points.Count - written);
        }

        private bool TryCompose(int first, int second, out int composed)
        {
            if ((uint)(first - LeadBase) < LeadCount && (uint)(second - VowelBase) < VowelCount)
            {
                composed = SyllableBase + ((first - LeadBase) * VowelCount + (second - VowelBase)) * TrailCount;
                return true;
            }
            if ((uint)(first - SyllableBase) < SyllableCount && (first - SyllableBase) % TrailCount == 0
                && second > TrailBase && second < TrailBase + TrailCount)
            {
                composed = first + (second - TrailBase);
                return true;
            }
            return _pairs.TryGetValue((first, second), out composed);
        }
    }
}
