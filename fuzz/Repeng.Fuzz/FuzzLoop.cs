using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Repeng.Fuzz;

/// <summary>Feeds one reader with damaged inputs, and keeps those that reach new branches to damage them further.</summary>
internal sealed unsafe class FuzzLoop
{
    private const int MapBytes = 1 << 16;
    private const int MostFaults = 20;
    private readonly FuzzTarget _target;
    private readonly FuzzSettings _settings;
    private readonly string _work;
    private readonly Action<byte[]> _run;
    private readonly Mutator _mutator;
    private readonly Random _random;
    private readonly List<byte[]> _corpus = [];
    private readonly List<byte[]> _found = [];
    private readonly HashSet<string> _faults = [];
    private readonly byte[] _seen = new byte[MapBytes];
    private readonly byte* _map;
    private readonly FuzzState? _state;
    private readonly FuzzCount _before;
    private byte[] _current = [];
    private int _secondsOnInput;

    /// <param name="map">Where instrumented code counts its branches.</param>
    public FuzzLoop(FuzzTarget target, FuzzSettings settings, string work, byte* map)
    {
        _map = map;
        (_target, _settings, _work) = (target, settings, work);
        _state = settings.State is { } folder ? FuzzState.Open(folder, target.Name) : null;
        _before = _state?.Count ?? new FuzzCount();
        // Each start goes on with other draws, which follow from the seed and the inputs before it.
        int seed = unchecked(settings.Seed + (int)(_before.Runs * 7919));
        (_mutator, _random) = (new Mutator(seed, target.Words), new Random(seed));
        _run = target.Open(work);
    }

    /// <summary>Runs to the end; the number of different faults.</summary>
    public int Go()
    {
        using var watchdog = new Timer(_ => Watch(), null, 1000, 1000);
        string stored = Path.Combine(_settings.Corpus, _target.Name);
        foreach (byte[] seed in _target.Seeds(_work).Concat(FuzzState.Inputs(stored)))
            if (One(seed, keep: false) || _corpus.Count == 0)
                _corpus.Add(seed);
        int given = _corpus.Count;
        foreach (byte[] input in _state?.Found() ?? [])
            if (One(input, keep: true))
                _corpus.Add(input);
        var watch = Stopwatch.StartNew();
        var sinceLine = Stopwatch.StartNew();
        long runs = 0;
        while (_before.Runs + runs < _settings.Runs && watch.Elapsed.TotalSeconds < _settings.Seconds && _faults.Count < MostFaults)
        {
            runs++;
            byte[] input = _mutator.Mutate(Pick(), Pick());
            if (One(input, keep: true))
            {
                _corpus.Add(input);
                _state?.Add(input);
            }
            if (sinceLine.Elapsed.TotalSeconds >= 20)
            {
                sinceLine.Restart();
                Note(runs, watch, given);
            }
        }
        Note(runs, watch, given);
        if (_settings.Save)
            Save(stored);
        return _faults.Count;
    }

    private void Note(long runs, Stopwatch watch, int given)
    {
        int branches = _seen.Count(b => b != 0);
        Console.WriteLine(FormattableString.Invariant(
            $"{_target.Name}: {_before.Runs + runs} runs, {runs} in {watch.Elapsed.TotalSeconds:F0} s ({runs / watch.Elapsed.TotalSeconds:F0}/s), {branches} branches, {given} inputs given, {_corpus.Count - given} found, {_faults.Count} faults"));
        _state?.Note(new FuzzCount { Runs = _before.Runs + runs, Faults = _before.Faults + _faults.Count, Seconds = Math.Round(_before.Seconds + watch.Elapsed.TotalSeconds), Branches = branches });
    }

    private byte[] Pick() => _corpus[_random.Next(2) == 0 ? _random.Next(_corpus.Count) : Math.Max(_random.Next(_corpus.Count), _random.Next(_corpus.Count))];

    /// <summary>Whether the input reached something new.</summary>
    private bool One(byte[] input, bool keep)
    {
        new Span<byte>(_map, MapBytes).Clear();
        SharpFuzz.Common.Trace.PrevLocation = 0;
        _current = input;
        Volatile.Write(ref _secondsOnInput, 0);
        string? fault = FuzzTarget.Judge(_run, input, _work);
        if (fault is not null)
            Report(input, fault);
        bool news = News();
        if (news && keep && input.Length <= _settings.LargestSaved)
            _found.Add(input);
        return news;
    }

    private bool News()
    {
        bool news = false;
        var words = new ReadOnlySpan<ulong>(_map, MapBytes / 8);
        for (int w = 0; w < words.Length; w++)
        {
            if (words[w] == 0)
                continue;
            for (int i = w * 8; i < w * 8 + 8; i++)
                if (_map[i] is var count and > 0)
                {
                    // Counts matter by their order of magnitude, as a bit each.
                    byte bit = (byte)(1 << Math.Min(7, BitOperations.Log2(count)));
                    if ((_seen[i] & bit) == 0)
                    {
                        _seen[i] |= bit;
                        news = true;
                    }
                }
        }
        return news;
    }

    private void Report(byte[] input, string fault)
    {
        // Faults with the same place in the code are one.
        string place = string.Join('|', fault.Split('\n').Where(l => l.Contains(" at Repeng.", StringComparison.Ordinal)).Take(2));
        if (!_faults.Add(place.Length > 0 ? place : fault[..Math.Min(fault.Length, 70)]))
            return;
        Console.WriteLine($"{_target.Name}: FAULT {Keep(input)}\n{fault}");
    }

    private string Keep(byte[] input)
    {
        Directory.CreateDirectory(_settings.Faults);
        string file = Path.Combine(_settings.Faults, $"{_target.Name}-{Name(input)}");
        File.WriteAllBytes(file, input);
        return file;
    }

    /// <summary>Keeps the smallest inputs that together reach what was reached, as far as the bounds allow; what a seed reaches needs none.</summary>
    private void Save(string folder)
    {
        Array.Clear(_seen);
        foreach (byte[] seed in _target.Seeds(_work))
            One(seed, keep: false);
        Directory.CreateDirectory(folder);
        int files = 0, bytes = 0;
        foreach (byte[] input in _found.OrderBy(i => i.Length).ToList())
        {
            // A corpus is read by people and by every run of the tests.
            if (files >= _settings.MostSaved || bytes + input.Length > _settings.MostBytesSaved)
                break;
            if (!One(input, keep: false))
                continue;
            File.WriteAllBytes(Path.Combine(folder, Name(input)), input);
            files++;
            bytes += input.Length;
        }
    }

    private void Watch()
    {
        // Ticks and not the clock: a process that was stopped for a while did not spend it on its input.
        int seconds = Interlocked.Increment(ref _secondsOnInput);
        if (seconds < 6 * FuzzTarget.Longest.TotalSeconds)
            return;
        Console.WriteLine($"{_target.Name}: FAULT no end after {seconds} s: {Keep(_current)}");
        Environment.Exit(3);
    }

    internal static string Name(byte[] input) => Convert.ToHexStringLower(SHA256.HashData(input))[..16];
}

/// <summary>How long, with which draws, and where things lie.</summary>
internal sealed record FuzzSettings
{
    public long Runs { get; init; } = 1_000_000;

    public double Seconds { get; init; } = double.MaxValue;

    public int Seed { get; init; } = 1;

    public bool Save { get; init; }

    public int MostSaved { get; init; } = 40;

    public int MostBytesSaved { get; init; } = 24 << 10;

    public int LargestSaved { get; init; } = 4096;

    /// <summary>Where counts and found inputs outlive the process, or null.</summary>
    public string? State { get; init; }

    public string Corpus { get; init; } = "fuzz/corpus";

    public string Faults { get; init; } = "fuzz/faults";
}
