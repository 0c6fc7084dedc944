using System.Text.Json.Nodes;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Adapters;
using Repeng.Steering.Adapters.Peft;

namespace Repeng.Steering.Tests.Adapters.Peft;

/// <summary>What is wrong with a PEFT folder is said in one line that names file, place and numbers.</summary>
public sealed class PeftBadInputTests : IDisposable
{
    private readonly TinyBase _base = new();
    private readonly string _folder = Directory.CreateTempSubdirectory("repeng-peft-").FullName;

    [Fact]
    public void A_sound_folder_loads() => Load().Dispose();

    [Theory]
    [InlineData("use_qalora", "true", "'use_qalora'")]
    [InlineData("modules_to_save", "[\"lm_head\"]", "'modules_to_save'")]
    [InlineData("alora_invocation_tokens", "[1, 2]", "'alora_invocation_tokens'")]
    [InlineData("something_new", "3", "'something_new'")]
    [InlineData("bias", "\"all\"", "'bias'")]
    [InlineData("bias", "\"n\\ne\"", "'n\\u000ae'")]
    [InlineData("init_lora_weights", "\"pissa\"", "'init_lora_weights'")]
    [InlineData("peft_type", "\"OFT\"", "'OFT'")]
    [InlineData("r", "0", "'r'")]
    [InlineData("target_modules", "[]", "'target_modules'")]
    [InlineData("target_modules", "\"(\"", "'target_modules'")]
    [InlineData("target_modules", "[\"nowhere\"]", "selects none")]
    public void A_setting_that_is_not_understood_is_refused_by_name(string field, string value, string said)
    {
        Write(config: c => c[field] = JsonNode.Parse(value));
        Refused(AdapterFile.ConfigName, said);
    }

    [Theory]
    [InlineData("megatron_config", "null")]
    [InlineData("something_new", "false")]
    [InlineData("loftq_config", "{}")]
    [InlineData("lora_dropout", "0.3")]
    public void A_setting_that_changes_nothing_is_left_alone(string field, string value)
    {
        Write(config: c => c[field] = JsonNode.Parse(value));
        Load(write: false).Dispose();
    }

    [Fact]
    public void Layers_beside_an_expression_are_refused()
    {
        Write(config: c => (c["target_modules"], c["layers_to_transform"]) = (".*q_proj", 1));
        Refused("'layers_to_transform'", "expression");
    }

    [Fact]
    public void A_key_that_nothing_reads_is_named()
    {
        Write(weights: w => w["base_model.model.lm_head.lora_A.weight"] = ([2, 16], new float[32]));
        Refused("base_model.model.lm_head.lora_A.weight", AdapterFile.ModelName);
    }

    [Fact]
    public void A_missing_key_is_named()
    {
        Write(weights: w => w.Remove("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"));
        Refused("model.layers.1.self_attn.q_proj.lora_B.weight", "1 of 6");
    }

    [Fact]
    public void A_value_that_is_not_a_number_is_named()
    {
        Write(weights: w => w["base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"].Values[5] = float.NaN);
        Refused("model.layers.2.self_attn.q_proj.lora_A.weight", "NaN", "element 5");
    }

    [Fact]
    public void A_base_of_another_width_is_said_with_both_shapes()
    {
        using var other = new TinyBase(hidden: 32);
        Write();
        string message = Assert.Throws<UserErrorException>(() => PeftFile.Load(other.Model, _folder)).Message;
        Assert.Contains("[2, 16]", message);
        Assert.Contains("[2, 32]", message);
        Assert.Contains("base/model", message);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void Pickled_weights_are_refused()
    {
        Write();
        File.Move(Path.Combine(_folder, AdapterFile.ModelName), Path.Combine(_folder, "adapter_model.bin"));
        Refused("pickled");
    }

    public void Dispose()
    {
        _base.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private IAdapter Load(bool write = true)
    {
        if (write)
            Write();
        return AdapterFile.LoadAny(_base.Model, _folder);
    }

    private void Refused(params string[] said)
    {
        string message = Assert.Throws<UserErrorException>(() => PeftFile.Load(_base.Model, _folder)).Message;
        Assert.All(said, s => Assert.Contains(s, message));
        Assert.DoesNotContain('\n', message);
    }

    private void Write(Action<JsonObject>? config = null, Action<Dictionary<string, (long[] Shape, float[] Values)>>? weights = null)
    {
        var json = new JsonObject { ["peft_type"] = "LORA", ["base_model_name_or_path"] = "base/model", ["r"] = 2, ["lora_alpha"] = 4, ["target_modules"] = new JsonArray("q_proj"), ["bias"] = "none", ["revision"] = null };
        config?.Invoke(json);
        File.WriteAllText(Path.Combine(_folder, AdapterFile.ConfigName), json.ToJsonString());
        var tensors = new Dictionary<string, (long[] Shape, float[] Values)>();
        for (int i = 0; i < 3; i++)
        {
            tensors[$"base_model.model.model.layers.{i}.self_attn.q_proj.lora_A.weight"] = ([2, 16], new float[32]);
            tensors[$"base_model.model.model.layers.{i}.self_attn.q_proj.lora_B.weight"] = ([16, 2], new float[32]);
        }
        weights?.Invoke(tensors);
        var writer = new SafetensorsWriter();
        foreach ((string key, (long[] shape, float[] values)) in tensors)
            writer.Add(key, shape, values);
        writer.Write(Path.Combine(_folder, AdapterFile.ModelName));
    }
}
