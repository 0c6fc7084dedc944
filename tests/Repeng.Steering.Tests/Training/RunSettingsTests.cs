using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Steering.Adapters.Peft;
using Repeng.Steering.Losses;
using Repeng.Steering.Training;
using Xunit;

namespace Repeng.Steering.Tests.Training;

/// <summary>training_config.json is read as it was written, and as an older program wrote it.</summary>
public sealed class RunSettingsTests : IDisposable
{
    private readonly string _path = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName());

    public void Dispose() => File.Delete(_path);

    public static TheoryData<string> Profiles => [.. TrainConfig.Profiles];

    [Theory]
    [MemberData(nameof(Profiles))]
    public void Settings_come_back_as_they_were_written(string profile)
    {
        RunSettings settings = Settings(TrainConfig.FromProfile(profile) with { Peft = new PeftSettings { Kind = "vera", Rank = 3 }, ClipNorm = double.NaN, Epochs = 7 }) with { MaxTokens = 33, EvalQuestions = 0 };
        Assert.Equal(settings.ToJson(), Load(settings.ToJson()).ToJson());
        Assert.Equal(7, Load(settings.ToJson()).Train.Epochs);
    }

    [Fact]
    public void A_pair_of_personas_has_both()
    {
        var e = Assert.Throws<UserErrorException>(() => Load("""{"Model":"m","Template":"t","Personas":[{"Positive":"honest"}],"Suffixes":[],"Train":{}}"""));
        Assert.Contains(_path, e.Message);
        Assert.Contains("Negative", e.Message);
    }

    [Fact]
    public void What_a_file_leaves_out_has_the_records_own_values()
    {
        var train = new TrainConfig { Peft = new PeftSettings(), AntiPasto = new AntiPastoLossConfig() };
        RunSettings whole = Settings(train);
        JsonObject json = JsonNode.Parse(whole.ToJson())!.AsObject();
        Assert.True(Strip(json, ["Model", "Template", "Personas", "Suffixes", "Train", "Peft", "AntiPasto"]) > 40);
        Assert.Equal(whole.ToJson(), Load(json.ToJsonString()).ToJson());
        Assert.Null(Load("""{"Model":"m","Template":"t","Personas":[],"Suffixes":[],"Train":{}}""").Train.AntiPasto);
    }

    [Theory]
    [InlineData("""{"Model":"m","Template":"t","Personas":[],"Suffixes":[],"Train":{"Epochs":"many"}}""", "$.Train.Epochs")]
    [InlineData("""{"Model":null,"Template":"t","Personas":[],"Suffixes":[],"Train":{}}""", "Model")]
    [InlineData("""{"Model":"m","Template":"t","Personas":[],"Suffixes":[],"Train":{"Loss":null}}""", "Loss")]
    [InlineData("""{"Model":"m","Template":"t","Personas":[],"Suffixes":[],"Train":7}""", "$.Train")]
    [InlineData("""{"Template":"t","Personas":[],"Suffixes":[],"Train":{}}""", "Model")]
    [InlineData("[]", "no object")]
    [InlineData("{", "not valid JSON")]
    public void What_does_not_fit_is_named(string json, string part)
    {
        var e = Assert.Throws<UserErrorException>(() => Load(json));
        Assert.Contains(_path, e.Message);
        Assert.Contains(part, e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    private static RunSettings Settings(TrainConfig train) => new() { Model = "m", Template = "{persona}", Personas = [new PersonaPair("a", "b")], Suffixes = ["s"], Train = train };

    private RunSettings Load(string json)
    {
        File.WriteAllText(_path, json);
        return RunSettings.Load(_path);
    }

    // Takes out every value but the objects that are to be looked into.
    private static int Strip(JsonObject json, string[] kept)
    {
        int removed = 0;
        foreach (string name in json.Select(p => p.Key).ToArray())
            if (!kept.Contains(name))
                removed += json.Remove(name) ? 1 : 0;
            else if (json[name] is JsonObject inner)
                removed += Strip(inner, kept);
        return removed;
    }
}
