//! How factors and metrics go together: Pearson's and Spearman's coefficients over combinations' means.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grid::Grid;
use crate::sample::{Factor, METRICS};

/// Coefficients of every pair of variables, over the combinations of a scope that have both.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Correlation {
    /// Combinations that enter.
    pub combinations: u32,
    /// The variables: factors that vary, by their name in documents (a model counts by its parameters, a data type by
    /// its bytes), then metrics.
    pub variables: Vec<String>,
    /// Pearson's r, `variables` × `variables`; null where one of the two does not vary.
    pub pearson: Vec<Vec<Option<f64>>>,
    /// Spearman's ρ, the same of ranks.
    pub spearman: Vec<Vec<Option<f64>>>,
    /// Factors × metrics in words.
    pub pairs: Vec<Pair>,
}

/// How a metric goes with a factor.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// The factor.
    pub factor: Factor,
    /// The metric.
    pub metric: String,
    /// Pearson's r; absent where one of the two does not vary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pearson: Option<f64>,
    /// Spearman's ρ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spearman: Option<f64>,
    /// Pearson's r in words, such as `strong positive`; `n/a` where there is none.
    pub strength: String,
}

/// Correlates the factors that vary and every metric that was measured.
pub(super) fn correlate(grid: &Grid<'_>) -> Correlation {
    let mut variables: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    let mut factors = Vec::new();
    for (position, axis) in grid.varying() {
        // Names alone have no order to go with.
        let Some(numbers) = &axis.numbers else {
            continue;
        };
        let values = grid
            .cells
            .iter()
            .map(|cell| numbers.get(cell.at[position] as usize).copied());
        variables.push((axis.factor.name().to_owned(), values.collect()));
        factors.push(axis.factor.clone());
    }
    for metric in METRICS {
        let values: Vec<Option<f64>> = grid.values(metric).means;
        if values.iter().any(Option::is_some) {
            variables.push((metric.name.to_owned(), values));
        }
    }
    let matrix = |coefficient: fn(&[f64], &[f64]) -> Option<f64>| -> Vec<Vec<Option<f64>>> {
        variables
            .iter()
            .map(|(_, a)| {
                variables
                    .iter()
                    .map(|(_, b)| {
                        let (a, b): (Vec<f64>, Vec<f64>) = a
                            .iter()
                            .zip(b)
                            .filter_map(|(a, b)| Some(((*a)?, (*b)?)))
                            .unzip();
                        coefficient(&a, &b)
                    })
                    .collect()
            })
            .collect()
    };
    let (pearson, spearman) = (matrix(pearson), matrix(spearman));
    let metrics = factors.len()..variables.len();
    let pairs = metrics
        .flat_map(|metric| (0..factors.len()).map(move |factor| (factor, metric)))
        .map(|(factor, metric)| Pair {
            factor: factors[factor].clone(),
            metric: variables[metric].0.clone(),
            pearson: pearson[factor][metric],
            spearman: spearman[factor][metric],
            strength: pearson[factor][metric].map_or_else(|| "n/a".into(), strength),
        })
        .collect();
    Correlation {
        combinations: grid.cells.len() as u32,
        variables: variables.into_iter().map(|(name, _)| name).collect(),
        pearson,
        spearman,
        pairs,
    }
}

/// Pearson's product-moment coefficient; `None` for fewer than two pairs or where one side does not vary.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let count = a.len().min(b.len());
    if count < 2 {
        return None;
    }
    let (a, b) = (centred(&a[..count])?, centred(&b[..count])?);
    let product: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    Some(product.clamp(-1.0, 1.0))
}

/// Deviations from the mean, scaled to a sum of squares of 1; `None` where there are none but rounding errors.
fn centred(values: &[f64]) -> Option<Vec<f64>> {
    let largest = |values: &[f64]| {
        values
            .iter()
            .fold(0.0_f64, |most, value| most.max(value.abs()))
    };
    // The first one is taken off before anything is rounded; halves, so that no difference overflows.
    let first = values.first()? / 2.0;
    let differences: Vec<f64> = values.iter().map(|value| value / 2.0 - first).collect();
    // Scaled, so that squares of huge or tiny values are numbers.
    let scale = largest(&differences);
    if !(scale > 1e-14 * largest(values) && scale.is_finite()) {
        return None;
    }
    let mean = differences.iter().map(|d| d / scale).sum::<f64>() / values.len() as f64;
    let deviations: Vec<f64> = differences.iter().map(|d| d / scale - mean).collect();
    let norm = deviations.iter().map(|d| d * d).sum::<f64>().sqrt();
    Some(deviations.iter().map(|d| d / norm).collect())
}

/// Spearman's rank coefficient: Pearson's of ranks, equal values sharing the mean of theirs.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let count = a.len().min(b.len());
    pearson(&ranks(&a[..count]), &ranks(&b[..count]))
}

/// Ranks from 1, equal values sharing the mean of theirs.
#[must_use]
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0.0;
    for equal in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let count = equal.len() as f64;
        for at in equal {
            ranks[*at] = before + (count + 1.0) / 2.0;
        }
        before += count;
    }
    ranks
}

/// A coefficient in words, after Evans (1996): below 0.2 very weak, 0.4 weak, 0.6 moderate, 0.8 strong, else very
/// strong, with its sign; nought has neither.
#[must_use]
pub fn strength(r: f64) -> String {
    let size = match r.abs() {
        0.0 => return "none".into(),
        size if size < 0.2 => "very weak",
        size if size < 0.4 => "weak",
        size if size < 0.6 => "moderate",
        size if size < 0.8 => "strong",
        _ => "very strong",
    };
    format!("{size} {}", if r > 0.0 { "positive" } else { "negative" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_values_share_their_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[]), [0.0; 0]);
    }

    #[test]
    fn what_does_not_vary_goes_with_nothing() {
        assert_eq!(pearson(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(pearson(&[0.1 + 0.2, 0.3], &[1.0, 2.0]), None);
        assert_eq!(pearson(&[1.0], &[1.0]), None);
        assert_eq!(spearman(&[], &[]), None);
    }

    #[test]
    fn words() {
        for (r, words) in [
            (0.0, "none"),
            (-0.0, "none"),
            (0.1, "very weak positive"),
            (-0.2, "weak negative"),
            (0.79, "strong positive"),
            (-1.0, "very strong negative"),
        ] {
            assert_eq!(strength(r), words, "{r}");
        }
    }

    proptest! {
        #[test]
        fn scale_does_not_matter(
            pairs in prop::collection::vec((-1e3..1e3, -1e3..1e3), 3..30), exponent in -280_i32..280
        ) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let scaled: Vec<f64> = a.iter().map(|x| x * 10_f64.powi(exponent)).collect();
            match (pearson(&a, &b), pearson(&scaled, &b)) {
                (Some(one), Some(other)) => prop_assert!((one - other).abs() < 1e-9 && one.abs() <= 1.0),
                (one, other) => prop_assert_eq!(one.is_some(), other.is_some()),
            }
        }

        #[test]
        fn ranks_do_not_see_a_monotone_function(values in prop::collection::vec(-5.0..5.0, 2..30)) {
            let b: Vec<f64> = values.iter().rev().copied().collect();
            let bent: Vec<f64> = values.iter().map(|x: &f64| x.exp()).collect();
            let (one, other) = (spearman(&values, &b), spearman(&bent, &b));
            prop_assert_eq!(one.is_some(), other.is_some());
            if let (Some(one), Some(other)) = (one, other) {
                prop_assert!((one - other).abs() < 1e-9);
            }
        }
    }
}
