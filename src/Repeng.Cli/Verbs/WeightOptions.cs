using System.CommandLine;
using Repeng.Kernels;
using Repeng.Runtime.Formats;
using Repeng.Steering.Models;

namespace Repeng.Cli.Verbs;

/// <summary>How weights are held: options of every verb that loads a model.</summary>
public sealed class WeightOptions
{
    private readonly Option<string?> _quantization = Opt.Choice("--quantization_type", "quantise plain linear weights of the blocks when the model is loaded (default none: as stored; what is quantised in the file stays packed)", "none", "4bit", "8bit");
    private readonly Option<string?> _quantType = CreateQuantType("with --quantization_type 4bit: the code (default nf4)", "nf4", "fp4");
    private readonly Option<bool?> _doubleQuant = CreateDoubleQuant("with --quantization_type 4bit: quantise the scales too (default no)");
    private readonly Option<string?> _weightType = Opt.Choice("--weight_type", "stored: as in the file, quantised weights packed; f32: everything expanded (default stored)", "stored", "f32");

    /// <summary>All of them.</summary>
    public IEnumerable<Option> All => [_quantization, _quantType, _doubleQuant, _weightType];

    internal static Option<string?> CreateQuantType(string description, params string[] values) => Opt.Choice("--quant_type", description, values);

    internal static Option<bool?> CreateDoubleQuant(string description) => Opt.Flag("--double_quant", description);

    /// <summary>What was asked for.</summary>
    public WeightStorage Read(ParseResult p)
    {
        string kind = p.GetValue(_quantization) ?? "none";
        if (kind != "4bit" && (p.GetValue(_quantType) is not null || p.GetValue(_doubleQuant) is not null))
            throw new UserErrorException($"{(p.GetValue(_quantType) is not null ? "--quant_type" : "--double_quant")} belongs to --quantization_type 4bit, which is {kind} here; add it, or leave the option out");
        Quantisation? quantise = kind switch
        {
            "4bit" => new Quantisation(p.GetValue(_quantType) == "fp4" ? QuantisedForm.Fp4 : QuantisedForm.Nf4, p.GetValue(_doubleQuant) == true),
            "8bit" => new Quantisation(QuantisedForm.Int8),
            _ => null,
        };
        return new WeightStorage(p.GetValue(_weightType) == "f32" ? WeightType.F32 : WeightType.AsStored, quantise);
    }
}
