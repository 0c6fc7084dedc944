using System.Text.RegularExpressions;
using Repeng.Kernels;
using Repeng.Runtime;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;
using Repeng.Testing;

namespace Repeng.Steering.Tests.Models;

/// <summary>The file that a forward pass writes against the one that transformers' tensors were written to.</summary>
[Trait("Category", "Golden")]
[Trait("Golden", "models")]
public sealed class ForwardDumpGoldenTests
{
    public static IEnumerable<TheoryDataRow<string>> Names => GoldenFiles.Folders("models", "expected.safetensors");

    [Theory]
    [MemberData(nameof(Names))]
    public void The_written_file_holds_the_tensors_of_transformers(string name)
    {
        string folder = Golden.Require("models", name);
        using Device device = Device.Cpu();
        using DecoderModel model = GoldenFiles.Load(device, folder);
        string output = Path.Combine(Path.GetTempPath(), $"repeng-forward-{Guid.NewGuid():N}.safetensors");
        try
        {
            string rows = Path.Combine(folder, "expected.safetensors");
            TokenBatch tokens = ForwardDump.ReadRows(rows);
            var settings = new ForwardDumpSettings { HiddenStates = true, Gradients = true, Modules = new Regex(Regex.Escape(model.Linears.Keys.First())) };
            ForwardDump.Run(model, tokens, settings).Write(output);
            using ITensorSource actual = SafetensorsFile.Open(output), expected = SafetensorsFile.Open(rows), gradients = SafetensorsFile.Open(Path.Combine(folder, "gradients.safetensors"));
            Assert.Contains(model.Linears.Keys.First(), actual.Names);
            foreach (string tensor in expected.Names.Where(n => n != "greedy_tokens"))
            {
                Assert.Equal(expected.Info(tensor).Shape, actual.Info(tensor).Shape);
                if (tensor is "input_ids" or "attention_mask" or "position_ids")
                    Assert.Equal(expected.ReadI64(tensor), actual.ReadI64(tensor));
                else if (tensor == "loss")
                    Close.To(2e-5, actual.ReadF32(tensor), expected.ReadF32(tensor), $"{name} {tensor}");
                else if (tensor != "label_logprob")
                    Assert.True(GoldenFiles.ErrorOverReal(tokens, actual.ReadF32(tensor), expected.ReadF32(tensor)) <= 2e-5, $"{name} {tensor}");
            }
            Assert.Equal(gradients.Names.Order(StringComparer.Ordinal), actual.Names.Where(n => n.StartsWith("grad.", StringComparison.Ordinal)).Select(n => n["grad.".Length..]).Order(StringComparer.Ordinal));
            foreach (string tensor in gradients.Names)
            {
                Assert.Equal(gradients.Info(tensor).Shape, actual.Info($"grad.{tensor}").Shape);
                double error = GoldenFiles.GradientError(actual.ReadF32($"grad.{tensor}"), gradients.ReadF32(tensor), GoldenFiles.GradientFloor(gradients));
                Assert.True(error <= 2e-4, $"{name} grad.{tensor}: error {error:g4}, allowed 2e-4");
            }
        }
        finally
        {
            File.Delete(output);
        }
    }
}
