//! Permutation importance: how much worse a forest predicts combinations that it has not seen when one factor is
//! shuffled.

use inferbench_crds::splitmix::SplitMix64;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::forest::{Forest, Observations};
use crate::sample::Factor;

/// How much worse a random forest predicts combinations that it has not seen when one factor is shuffled.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Importance {
    /// R² on the held-out combinations, mean over seeds; absent where no forest could be fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_r2: Option<f64>,
    /// Splits and forests that the means go over.
    pub seeds: u32,
    /// Combinations fitted to, and held out, each time.
    pub fitted: u32,
    /// Combinations held out each time.
    pub held_out: u32,
    /// Decrease of R² per factor; empty where `refused`. Values from 0 to 2: for independent factors twice the total
    /// share.
    pub factors: Vec<FactorImportance>,
    /// Why no importances are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A factor's permutation importance.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FactorImportance {
    /// The factor.
    pub factor: Factor,
    /// Mean decrease of R² over seeds and shuffles.
    pub mean: f64,
    /// Standard deviation over seeds: how much the forest's own chance matters. Differences between replicates and
    /// between starts of the engine are not in it; the `p` of the factor's share tells whether that could make the
    /// importance.
    pub sd: f64,
}

/// Splits, and forests: one each.
pub const SEEDS: u32 = 5;
/// Trees of a forest.
pub const TREES: u32 = 100;
/// Shuffles of each factor.
pub const SHUFFLES: u32 = 10;
/// Combinations below which none can be spared to check a forest on.
pub const MIN_COMBINATIONS: usize = 10;
/// Times that a combination stands in the data where some have no level of a factor.
const COPIES: usize = 8;
/// Mean R² on held-out combinations below which importances say nothing.
pub const MIN_R2: f64 = 0.5;

/// The permutation importance of factors for a target, one row per *combination*: replicates of a combination on both
/// sides of a split would let the forest look its answers up.
///
/// For each of [`SEEDS`] seeds: a fifth of the combinations is held out at random, a forest of [`TREES`] trees fitted
/// to the others, and R² on the held-out ones compared with R² after a factor's levels were shuffled among them,
/// [`SHUFFLES`] times per factor (Breiman, *Random forests*, 2001). Nothing is clipped or normalised: for independent
/// factors and a good fit the decrease is twice Sobol's total index (Gregorutti, Michel and Saint-Pierre, *Correlation
/// and variable importance in random forests*, 2017), so that values up to 2 are expected.
///
/// Features are columns of levels' ranks; `None` where a combination has no level since it makes no difference to it (a
/// parameter of another engine). It then stands in the data several times, with each of the levels in turn. With a code
/// of its own, having no level would tell a tree which engine it is, and shuffling the engine alone would cost nothing:
/// all that engines differ by would count for their parameters.
///
/// Seeds whose held-out combinations do not differ in the target cannot tell and are left out. The same `seed` gives the
/// same figures on any number of threads.
#[must_use]
pub fn importance(
    features: &[(Factor, Vec<Option<u16>>)],
    target: &[f64],
    seed: u64,
) -> Importance {
    let combinations = target.len();
    let (copies, columns) = completed(features, seed);
    let columns: Vec<&[u16]> = columns.iter().map(Vec::as_slice).collect();
    let all_target: Vec<f64> = target
        .iter()
        .flat_map(|&y| std::iter::repeat_n(y, copies))
        .collect();
    if combinations < MIN_COMBINATIONS {
        return refused(format!(
            "{combinations} combinations are too few to hold some out: a forest needs at least {MIN_COMBINATIONS}"
        ));
    }
    let observations = match Observations::new(&columns, &all_target) {
        Ok(observations) => observations,
        Err(unfit) => return refused(unfit.to_string()),
    };
    if columns.iter().all(|codes| constant(codes)) {
        return refused(format!(
            "no factor varies over the {combinations} combinations"
        ));
    }
    if constant(target) {
        return refused(format!(
            "the target is the same for all {combinations} combinations"
        ));
    }

    let held_out = combinations.div_ceil(5);
    let mut random = SplitMix64::new(seed);
    let seeds: Vec<u64> = (0..SEEDS).map(|_| random.next_u64()).collect();
    let scores: Vec<Score> = seeds
        .into_par_iter()
        .filter_map(|seed| score(&observations, copies, held_out, SplitMix64::new(seed)))
        .collect();
    let mut importance = Importance {
        seeds: scores.len() as u32,
        fitted: (combinations - held_out) as u32,
        held_out: held_out as u32,
        ..Importance::default()
    };
    if scores.is_empty() {
        importance.refused = Some(format!(
            "the target is the same for nearly all of {combinations} combinations: none of {SEEDS} samples of \
             {held_out} held-out ones differ in it"
        ));
        return importance;
    }
    let (r2, _) = mean_and_sd(scores.iter().map(|score| score.r2));
    importance.held_out_r2 = Some(r2);
    if r2 < MIN_R2 {
        importance.refused = Some(format!(
            "the forest predicts held-out combinations with a mean R² of {}, below {MIN_R2}: what it relies on says \
             little about the target",
            rounded(r2)
        ));
        return importance;
    }
    importance.factors = features
        .iter()
        .enumerate()
        .map(|(at, (factor, _))| {
            let factor = factor.clone();
            let (mean, sd) = mean_and_sd(scores.iter().map(|score| score.decreases[at]));
            FactorImportance { factor, mean, sd }
        })
        .collect();
    importance
}

/// How often each combination stands in the data, and the codes of all these rows, those of a combination after each
/// other. Levels that a combination has not are dealt to its rows in a random order, each as often as the others.
fn completed(features: &[(Factor, Vec<Option<u16>>)], seed: u64) -> (usize, Vec<Vec<u16>>) {
    if features.iter().all(|(_, codes)| !codes.contains(&None)) {
        let known = features
            .iter()
            .map(|(_, codes)| codes.iter().flatten().copied().collect());
        return (1, known.collect());
    }
    let of_feature = |(at, (_, codes)): (usize, &(Factor, Vec<Option<u16>>))| {
        let mut random = SplitMix64::stream(seed, at as u64);
        let levels = codes.iter().flatten().max().map_or(1, |&code| code + 1);
        let mut deck: Vec<u16> = (0..levels).collect();
        let mut dealt = usize::from(levels);
        let mut deal = move || {
            if dealt == deck.len() {
                random.shuffle(&mut deck);
                dealt = 0;
            }
            dealt += 1;
            deck[dealt - 1]
        };
        codes
            .iter()
            .flat_map(|code| std::iter::repeat_n(*code, COPIES))
            .map(|code| code.unwrap_or_else(&mut deal))
            .collect()
    };
    (
        COPIES,
        features.iter().enumerate().map(of_feature).collect(),
    )
}

fn refused(reason: String) -> Importance {
    Importance {
        refused: Some(reason),
        ..Importance::default()
    }
}

fn constant<T: PartialEq>(values: &[T]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// Two decimals, and never up to the limit that the figure lies below; far below zero, only the magnitude.
fn rounded(r2: f64) -> String {
    if r2 < -100.0 {
        format!("{r2:.0e}")
    } else {
        format!("{:.2}", (r2 * 100.0).floor() / 100.0)
    }
}

/// One seed's figures.
struct Score {
    r2: f64,
    /// Mean decrease of R² per factor.
    decreases: Vec<f64>,
}

/// Fits a forest to a random part of the combinations, `copies` rows each, and scores it on the rest; nothing where the
/// rest does not vary.
fn score(
    observations: &Observations,
    copies: usize,
    held_out: usize,
    mut random: SplitMix64,
) -> Option<Score> {
    let mut order: Vec<usize> = (0..observations.rows() / copies).collect();
    random.shuffle(&mut order);
    let (held_out, fitted) = order.split_at(held_out);
    let rows_of = |combinations: &[usize]| -> Vec<usize> {
        let rows = |&of: &usize| of * copies..(of + 1) * copies;
        combinations.iter().flat_map(rows).collect()
    };
    let draws = fitted.len();
    let (held_out, fitted) = (rows_of(held_out), rows_of(fitted));
    let targets: Vec<f64> = held_out
        .iter()
        .map(|&row| observations.scaled_target(row))
        .collect();
    if constant(&targets) {
        return None;
    }
    let forest = Forest::fit(observations, &fitted, draws, TREES, random.next_u64());

    // The held-out rows as they are, then with each feature shuffled, all predicted at once.
    let features = observations.features();
    let shuffles = features * SHUFFLES as usize;
    let mut points = Vec::with_capacity((1 + shuffles) * held_out.len() * features);
    for &row in &held_out {
        points.extend((0..features).map(|feature| observations.code(row, feature)));
    }
    let rows = points.len();
    let mut order: Vec<usize> = (0..held_out.len()).collect();
    for shuffle in 0..shuffles {
        let feature = shuffle / SHUFFLES as usize;
        random.shuffle(&mut order);
        let start = points.len();
        points.extend_from_within(..rows);
        let shuffled = points[start..].chunks_exact_mut(features);
        for (point, &other) in shuffled.zip(&order) {
            point[feature] = observations.code(held_out[other], feature);
        }
    }
    let predictions = forest.predict_scaled(&points);
    let mut r2 = predictions
        .chunks_exact(held_out.len())
        .map(|predictions| r_squared(&targets, predictions));
    let plain = r2.next()?;
    let r2: Vec<f64> = r2.collect();
    let decrease = |shuffled: &[f64]| plain - shuffled.iter().sum::<f64>() / f64::from(SHUFFLES);
    Some(Score {
        r2: plain,
        decreases: r2.chunks_exact(SHUFFLES as usize).map(decrease).collect(),
    })
}

/// 1 − Σ(y − ŷ)²/Σ(y − ȳ)², for values that differ.
fn r_squared(values: &[f64], predictions: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = |differences: &mut dyn Iterator<Item = f64>| -> f64 {
        differences.map(|difference| difference * difference).sum()
    };
    let errors = squares(&mut values.iter().zip(predictions).map(|(y, guess)| y - guess));
    1.0 - errors / squares(&mut values.iter().map(|y| y - mean))
}

/// The mean, and the standard deviation of a sample: 0 for a single value.
fn mean_and_sd(values: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.clone().sum::<f64>() / count;
    let squares: f64 = values.map(|value| (value - mean) * (value - mean)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A column of codes for each factor.
    type Columns = Vec<(Factor, Vec<Option<u16>>)>;

    /// A full grid of batch sizes, output lengths and GPUs, and a target of its codes.
    fn grid(target: impl Fn(f64, f64, f64) -> f64) -> (Columns, Vec<f64>) {
        let codes = |divisor: u16, levels: u16| -> Vec<Option<u16>> {
            (0..240).map(|row| Some(row / divisor % levels)).collect()
        };
        let features = vec![
            (Factor::BATCH_SIZE, codes(1, 6)),
            (Factor::OUTPUT_LENGTH, codes(6, 8)),
            (Factor::GPUS, codes(48, 5)),
        ];
        let at = |feature: usize, row: usize| f64::from(features[feature].1[row].unwrap());
        let y = (0..240)
            .map(|row| target(at(0, row), at(1, row), at(2, row)))
            .collect();
        (features, y)
    }

    #[test]
    fn values_are_twice_the_share_of_variance() {
        let (features, target) = grid(|batch, output, _| 30.0 * batch + 10.0 * output);
        let runs: Vec<Importance> = (0..8)
            .map(|seed| importance(&features, &target, seed))
            .collect();
        // Var(code) is (levels² − 1)/12.
        let (batch, output) = (900.0 * 35.0 / 12.0, 100.0 * 63.0 / 12.0);
        let expected = [batch, output, 0.0].map(|variance| 2.0 * variance / (batch + output));
        assert!(expected[0] > 1.5, "beyond 1 as it should be");
        for (at, expected) in expected.into_iter().enumerate() {
            let (mean, _) = mean_and_sd(runs.iter().map(|run| run.factors[at].mean));
            // The forest takes a little of the noise in 192 rows for an influence.
            assert!((mean - expected).abs() < 0.1, "{mean} {expected}");
        }
        for run in &runs {
            assert_eq!((run.seeds, run.fitted, run.held_out), (5, 192, 48));
            assert_eq!(run.refused, None);
            assert!(run.held_out_r2.unwrap() > 0.97);
            assert!(run.factors[2].mean.abs() < 0.02, "of no influence");
        }
    }

    /// Engines that differ, one of which has a parameter, as a grid of 4 batch sizes, 4 levels of the parameter, and
    /// lengths of no influence.
    #[test]
    fn an_engine_is_not_told_by_its_parameters() {
        let mut features = [Factor::ENGINE, Factor::BATCH_SIZE, Factor::OUTPUT_LENGTH]
            .map(|factor| (factor, Vec::new()))
            .to_vec();
        features.push((Factor::Parameter("threads".into()), Vec::new()));
        let mut target = Vec::new();
        for engine in 0..2 {
            for parameter in 0..4 {
                for of_all in 0..24_u16 {
                    let (batch, output) = (of_all % 4, of_all / 4);
                    let level = (engine == 1).then_some(parameter);
                    if level.is_none() && parameter > 0 {
                        continue;
                    }
                    let codes = [Some(engine), Some(batch), Some(output), level];
                    for ((_, column), code) in features.iter_mut().zip(codes) {
                        column.push(code);
                    }
                    let of_level = level.map_or(0.0, |level| 4.0 * f64::from(level) - 6.0);
                    target.push(20.0 * f64::from(engine) + of_level + f64::from(batch));
                }
            }
        }
        assert_eq!(target.len(), 24 * (1 + 4));
        let runs: Vec<Importance> = (0..8)
            .map(|seed| importance(&features, &target, seed))
            .collect();
        let of = |at: usize| mean_and_sd(runs.iter().map(|run| run.factors[at].mean)).0;
        // One combination in five is of the first engine: variances of 20² × 0.16, 5/4, 0, and 4² × 5/4 where there is
        // a level.
        let parts = [400.0 * 0.16, 1.25, 0.0, 0.8 * 20.0];
        let all: f64 = parts.iter().sum();
        for (at, part) in parts.into_iter().enumerate() {
            let expected = 2.0 * part / all;
            assert!(
                (of(at) - expected).abs() < 0.2,
                "{at}: {} {expected}",
                of(at)
            );
        }
        assert!(of(0) > 1.0, "the engine most");
    }

    #[test]
    fn levels_that_a_combination_has_not_are_dealt_evenly() {
        let codes = vec![Some(2), None, Some(0), None];
        let (copies, columns) = completed(&[(Factor::GPUS, codes)], 3);
        assert_eq!((copies, columns[0].len()), (COPIES, 4 * COPIES));
        assert!(columns[0][..COPIES].iter().all(|&code| code == 2));
        let dealt = [&columns[0][COPIES..2 * COPIES], &columns[0][3 * COPIES..]].concat();
        let counts = [0, 1, 2].map(|level| dealt.iter().filter(|&&code| code == level).count());
        assert!(
            counts.iter().all(|&count| count == 5 || count == 6),
            "{counts:?}"
        );
    }

    #[test]
    fn threads_and_magnitudes_do_not_matter() {
        let (features, target) =
            grid(|batch, output, gpus| (1.0 + batch) * (2.0 + output) / (1.0 + gpus));
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
        };
        let plain = pool(1).install(|| importance(&features, &target, 7));
        assert_eq!(pool(4).install(|| importance(&features, &target, 7)), plain);
        assert_ne!(importance(&features, &target, 8), plain);
        // Powers of two change no digit.
        for scale in [2_f64.powi(900), 2_f64.powi(-900)] {
            let scaled: Vec<f64> = target.iter().map(|y| y * scale).collect();
            assert_eq!(importance(&features, &scaled, 7), plain);
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused_in_words() {
        let (features, target) = grid(|batch, _, _| batch);
        let refused = |features: &[(Factor, Vec<Option<u16>>)], target: &[f64]| {
            let found = importance(features, target, 1);
            assert!(found.factors.is_empty());
            (found.refused.unwrap(), found.held_out_r2, found.seeds)
        };
        let few: Vec<_> = features
            .iter()
            .map(|(factor, codes)| (factor.clone(), codes[..9].to_vec()))
            .collect();
        assert_eq!(
            refused(&few, &target[..9]),
            (
                "9 combinations are too few to hold some out: a forest needs at least 10".into(),
                None,
                0
            )
        );
        assert_eq!(
            refused(&features, &[3.0; 240]).0,
            "the target is the same for all 240 combinations"
        );
        assert_eq!(
            refused(&[(Factor::GPUS, vec![Some(1); 240])], &target).0,
            "no factor varies over the 240 combinations"
        );
        assert_eq!(
            refused(&[], &target).0,
            "0 features and 240 rows: a forest needs at least one of each"
        );
        assert_eq!(
            refused(&few, &target).0,
            "feature 0 has 9 rows, the target 240"
        );
        assert_eq!(
            refused(&features, &[vec![f64::INFINITY], vec![1.0; 239]].concat()).0,
            "target 0 is inf, not a finite number"
        );

        // One combination that differs: whether it is held out or not, nothing can be learned of it.
        let (reason, r2, seeds) = refused(&features, &[vec![1.0], vec![0.0; 239]].concat());
        assert!(seeds < SEEDS, "{reason}");
        assert!(r2.is_none_or(|r2| r2 < MIN_R2), "{reason}");

        let mut random = SplitMix64::new(1);
        let noise: Vec<f64> = target
            .iter()
            .map(|_| f64::from(random.below(1000)))
            .collect();
        let (reason, r2, seeds) = refused(&features, &noise);
        assert!(r2.unwrap() < MIN_R2 && seeds == SEEDS);
        let said = format!("with a mean R² of {}, below 0.5", rounded(r2.unwrap()));
        assert!(reason.contains(&said), "{reason}");
        assert_eq!(
            (rounded(0.4999), rounded(-3.0), rounded(-12345.0)),
            ("0.49".into(), "-3.00".into(), "-1e4".into())
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn figures_are_finite_whatever_the_target(
            target in prop::collection::vec(prop::num::f64::ANY, 0..40), codes in prop::collection::vec(prop::option::weighted(0.9, 0..4_u16), 40),
        ) {
            let rows = target.len();
            let features = [(Factor::GPUS, codes[..rows].to_vec()), (Factor::MODEL, vec![Some(0); rows])];
            let found = importance(&features, &target, 1);
            prop_assert_eq!(found.refused.is_some(), found.factors.is_empty());
            prop_assert!(found.held_out_r2.is_none_or(f64::is_finite));
            prop_assert!(found.factors.iter().all(|factor| factor.mean.is_finite() && factor.sd.is_finite()));
        }
    }
}
