namespace Repeng.Autograd;

/// <summary>
/// The one-cycle schedule as torch.optim.lr_scheduler.OneCycleLR computes it (Smith and Topin 2018): cosine from
/// max/divFactor up to max over pctStart of the steps, then down to max/divFactor/finalDivFactor; beta1 goes the
/// other way between maxMomentum and baseMomentum.
/// </summary>
public sealed record OneCycle(
    int TotalSteps, double MaxLearningRate, double PctStart = 0.3, double DivFactor = 25, double FinalDivFactor = 1e4,
    double BaseMomentum = 0.85, double MaxMomentum = 0.95)
{
    /// <summary>Learning rate and beta1 for optimiser step <paramref name="step"/>, counted from 0.</summary>
    public (double LearningRate, double Beta1) At(int step)
    {
        if (step < 0 || step >= Math.Max(TotalSteps, 1))
            throw new ArgumentOutOfRangeException(nameof(step), step, $"the schedule has {TotalSteps} steps");
        double initial = MaxLearningRate / DivFactor, final = initial / FinalDivFactor;
        double peak = PctStart * TotalSteps - 1, last = TotalSteps - 1;
        if (peak > 0 && step <= peak)
        {
            double up = step / peak;
            return (Cosine(initial, MaxLearningRate, up), Cosine(MaxMomentum, BaseMomentum, up));
        }
        double down = (step - peak) / (last - peak);
        return (Cosine(MaxLearningRate, final, down), Cosine(BaseMomentum, MaxMomentum, down));
    }

    private static double Cosine(double from, double to, double fraction) => to + (from - to) / 2 * (1 + Math.Cos(Math.PI * fraction));
}
