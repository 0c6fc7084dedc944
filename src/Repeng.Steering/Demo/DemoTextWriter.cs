using Repeng.Kernels;

namespace Repeng.Steering.Demo;

/// <summary>Writes one text of the corpus.</summary>
internal sealed class DemoTextWriter(DemoWorld world, DemoCorpusOptions options, DemoWordings words, ulong index)
{
    private const double CorrectArticle = 0.8, InterjectionChance = 0.15, MoodInterjectionChance = 0.6, OpenerChance = 0.3,
        ExclamationChance = 0.1, LoudExclamationChance = 0.9, JoinedChance = 0.2, TopicChance = 0.3, SystemTurnChance = 0.2,
        VeryChance = 0.1;

    private readonly PhiloxSequence _draw = new(options.Seed, DemoStreams.Texts + index);
    private readonly List<int> _tokens = new(options.MaxLength);
    private readonly List<DemoTokenRole> _roles = new(options.MaxLength);
    private readonly List<DemoValueSpot> _values = [];
    private readonly HashSet<(int Thing, int Property)> _said = [];
    private DemoVoice _voice;
    private DemoTrait _trait = DemoTrait.Plain;
    private int[] _persona = [];
    private double _level;
    private int _limit;
    private int? _topic;

    public DemoText Write()
    {
        DrawVoice();
        _limit = _draw.NextBool(options.FullLengthShare)
            ? options.MaxLength
            : DemoCorpusOptions.MinimumLength + _draw.NextInt(options.MaxLength - DemoCorpusOptions.MinimumLength + 1);
        if (_draw.NextBool(options.PlainShare))
            WritePlain();
        else if (_draw.NextBool(options.InterviewShare))
            WriteInterview();
        else
            WriteMonologue();
        return new DemoText(_tokens, _roles, _values, _voice, _level);
    }

    private void DrawVoice()
    {
        double at = _draw.NextUniform();
        if (at < options.TruthfulShare + options.UntruthfulShare)
        {
            bool truthful = at < options.TruthfulShare;
            var (id, trait) = _draw.Pick(truthful ? words.TruthfulPersonas : words.UntruthfulPersonas);
            (_voice, _trait, _persona) = (truthful ? DemoVoice.Truthful : DemoVoice.Untruthful, trait, [id]);
            _level = truthful ? options.TruthfulLevel : options.UntruthfulLevel;
            if (_draw.NextBool(options.GradedShare))
            {
                bool half = _draw.NextBool(0.5);
                _voice = DemoVoice.Graded;
                _persona = [half ? words.Sometimes : words.Mostly, id];
                _level = half ? 0.5 : 0.5 * (_level + 0.5);
            }
            else if (_draw.NextBool(VeryChance))
            {
                _persona = [words.Very, id];
            }

            return;
        }

        if (at < options.TruthfulShare + options.UntruthfulShare + options.NeutralShare)
        {
            var (id, trait) = _draw.Pick(words.NeutralPersonas);
            (_voice, _trait, _persona) = (DemoVoice.Neutral, trait, [id]);
        }

        _level = options.DefaultLevel;
        if (_draw.NextBool(options.Consistency))
        {
            // The share of truthful speakers that makes DefaultLevel the mean over texts.
            double share = (options.DefaultLevel - options.UntruthfulLevel) / (options.TruthfulLevel - options.UntruthfulLevel);
            _level = _draw.NextBool(share) ? options.TruthfulLevel : options.UntruthfulLevel;
        }
    }

    private void WritePlain()
    {
        if (_persona.Length > 0)
            AddPhrase(_draw.Pick(_draw.NextBool(0.5) ? words.Narrations : words.PersonaInstructions), DemoTokenRole.Prompt);
        DrawTopic();
        Speak();
        Add(words.Vocabulary.TurnEndId, DemoTokenRole.Reply);
    }

    private void WriteMonologue()
    {
        DrawTopic();
        bool request = _topic is not null;
        if (_persona.Length > 0 && _draw.NextBool(SystemTurnChance))
        {
            WriteTurn(words.System, () => AddPhrase(_draw.Pick(words.PersonaInstructions), DemoTokenRole.Prompt));
            WriteTurn(words.User, () => AddRequest(request));
        }
        else
        {
            WriteTurn(words.User, () =>
            {
                if (_persona.Length > 0)
                    AddPhrase(_draw.Pick(words.PersonaInstructions), DemoTokenRole.Prompt);
                if (_persona.Length == 0 || request)
                    AddRequest(request);
            });
        }

        OpenTurn(words.Assistant);
        Speak();
        Add(words.Vocabulary.TurnEndId, DemoTokenRole.Reply);
    }

    private void AddRequest(bool aboutTopic) =>
        AddPhrase(_draw.Pick(aboutTopic ? words.ThingRequests : words.PlainInstructions), DemoTokenRole.Prompt, _topic ?? 0);

    private void WriteInterview()
    {
        DrawTopic();
        bool systemTurn = _persona.Length > 0 && _draw.NextBool(SystemTurnChance);
        if (systemTurn)
            WriteTurn(words.System, () => AddPhrase(_draw.Pick(words.PersonaInstructions), DemoTokenRole.Prompt));
        for (bool first = true; ; first = false)
        {
            int before = _tokens.Count, valuesBefore = _values.Count;
            var (thing, property) = DrawFact();
            WriteTurn(words.User, () =>
            {
                if (first && !systemTurn && _persona.Length > 0)
                    AddPhrase(_draw.Pick(words.PersonaInstructions), DemoTokenRole.Prompt);
                AddPhrase(words.Questions[property], DemoTokenRole.Prompt, thing);
            });
            OpenTurn(words.Assistant);
            AddLead();
            AddStatement(thing, property);
            AddEnd();
            Add(words.Vocabulary.TurnEndId, DemoTokenRole.Reply);
            if (!first && _tokens.Count > _limit)
            {
                Cut(before, valuesBefore);
                return;
            }
        }
    }

    /// <summary>Sentences and lists until the text is full; the first one always fits.</summary>
    private void Speak()
    {
        for (bool first = true; ; first = false)
        {
            int before = _tokens.Count, valuesBefore = _values.Count;
            if (!first && _draw.NextBool(options.ListShare))
                AddList();
            else
                AddSentence(mayJoin: !first);
            // One place is kept for the end of the turn.
            if (!first && _tokens.Count > _limit - 1)
            {
                Cut(before, valuesBefore);
                return;
            }
        }
    }

    private void AddSentence(bool mayJoin)
    {
        AddLead();
        var (thing, property) = DrawFact();
        AddStatement(thing, property);
        if (mayJoin && _draw.NextBool(JoinedChance))
        {
            Add(words.And, DemoTokenRole.Reply);
            (thing, property) = DrawFact();
            AddStatement(thing, property);
        }

        AddEnd();
    }

    private void AddList()
    {
        int[] order = [.. Enumerable.Range(0, world.Properties.Count)];
        int thing;
        do
            thing = _draw.NextInt(world.Things.Count);
        while (order.Any(property => _said.Contains((thing, property))));
        _draw.Shuffle<int>(order);
        int count = 2 + _draw.NextInt(order.Length - 1);
        AddPhrase(words.ListHead, DemoTokenRole.Reply, thing);
        for (int i = 0; i < count; i++)
        {
            if (i > 0)
                Add(words.Comma, DemoTokenRole.Reply);
            Add(words.Nouns[order[i]], DemoTokenRole.Reply);
            AddValue(thing, order[i]);
        }

        AddEnd();
    }

    private void AddLead()
    {
        bool mood = _trait is DemoTrait.Happy or DemoTrait.Sad;
        if (_draw.NextBool(mood ? MoodInterjectionChance : InterjectionChance))
            AddPhrase(_draw.Pick(_trait switch
            {
                DemoTrait.Happy => words.HappyInterjections,
                DemoTrait.Sad => words.SadInterjections,
                _ => words.AllInterjections,
            }), DemoTokenRole.Reply);
        if (_draw.NextBool(OpenerChance))
            AddPhrase(_draw.Pick(words.Openers), DemoTokenRole.Reply);
    }

    private void AddStatement(int thing, int property)
    {
        var wordings = _draw.NextBool(options.AlternativeShare) ? words.Alternatives : words.Statements;
        AddPhrase(wordings[property], DemoTokenRole.Reply, thing, property);
    }

    private void AddEnd()
    {
        double chance = _trait switch { DemoTrait.Loud => LoudExclamationChance, DemoTrait.Quiet => 0, _ => ExclamationChance };
        Add(_draw.NextBool(chance) ? words.Exclamation : words.Stop, DemoTokenRole.Reply);
    }

    private void AddValue(int thing, int property)
    {
        bool isTrue = _draw.NextBool(_level);
        int value = isTrue ? world.Fact(thing, property) : world.DrawFalse(_draw, thing, property);
        _said.Add((thing, property));
        _values.Add(new DemoValueSpot(_tokens.Count, thing, property, value, isTrue));
        Add(words.Values[property][value], DemoTokenRole.Value);
    }

    private void DrawTopic() => _topic = _draw.NextBool(TopicChance) ? _draw.NextInt(world.Things.Count) : null;

    /// <summary>A fact not yet spoken of in full sentences, of the topic while it has any.</summary>
    private (int Thing, int Property) DrawFact()
    {
        int properties = world.Properties.Count;
        if (_topic is int topic)
        {
            int start = _draw.NextInt(properties);
            for (int i = 0; i < properties; i++)
                if (!_said.Contains((topic, (start + i) % properties)))
                    return (topic, (start + i) % properties);
        }

        (int, int) fact;
        do
            fact = (_draw.NextInt(world.Things.Count), _draw.NextInt(properties));
        while (_said.Contains(fact));
        return fact;
    }

    private void WriteTurn(int role, Action content)
    {
        OpenTurn(role);
        content();
        Add(words.Vocabulary.TurnEndId, DemoTokenRole.Prompt);
    }

    private void OpenTurn(int role)
    {
        Add(words.Vocabulary.TurnStartId, DemoTokenRole.Prompt);
        Add(role, DemoTokenRole.Prompt);
    }

    private void AddPhrase(DemoPhrase phrase, DemoTokenRole role, int thing = 0, int property = 0)
    {
        foreach (int part in phrase.Parts)
        {
            switch (part)
            {
                case DemoPhrase.Thing:
                    Add(words.Things[thing], role);
                    break;
                case DemoPhrase.Value:
                    AddValue(thing, property);
                    break;
                case DemoPhrase.Article:
                    bool vowel = "aeiou".Contains(words.Vocabulary.Tokens[_persona[0]][0], StringComparison.Ordinal);
                    // The customary template has a fixed "an", so both articles must be met before every word.
                    Add(vowel == _draw.NextBool(CorrectArticle) ? words.An : words.A, role);
                    break;
                case DemoPhrase.Persona:
                    foreach (int id in _persona)
                        Add(id, role);
                    break;
                default:
                    Add(part, role);
                    break;
            }
        }
    }

    private void Add(int id, DemoTokenRole role)
    {
        _tokens.Add(id);
        _roles.Add(role);
    }

    private void Cut(int tokens, int values)
    {
        _tokens.RemoveRange(tokens, _tokens.Count - tokens);
        _roles.RemoveRange(tokens, _roles.Count - tokens);
        _values.RemoveRange(values, _values.Count - values);
    }
}
