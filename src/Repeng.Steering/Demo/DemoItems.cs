using Repeng.Steering.Evaluation;

namespace Repeng.Steering.Demo;

/// <summary>The demo world's questions as token ids.</summary>
public static class DemoItems
{
    /// <summary>Questions of one audience, answered after the assistant's prefix.</summary>
    public static ChoiceItem[] Load(DemoWorld world, DemoAudience audience, IReadOnlyList<int>? things = null)
    {
        DemoVocabulary vocabulary = DemoVocabulary.Shared;
        return [.. DemoEvaluation.Questions(world, audience, things).Select(q => new ChoiceItem(q.Key,
            DemoTokenizerFiles.EncodeChat(q.Chat, continueFinal: true),
            [[vocabulary.Id(q.TrueValue)]],
            [.. q.OtherValues.Select(v => new[] { vocabulary.Id(v) })]))];
    }
}
