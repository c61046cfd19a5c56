//! A random forest of regression trees over ordered levels: bagged CART, as scikit-learn's `RandomForestRegressor`
//! grows it by default, on the calling thread pool.
//!
//! Why one of our own: a sweep's features are few levels of few factors, so that a histogram per feature finds the
//! exact best split in one pass without sorting, several times faster than a forest for arbitrary numbers.

mod observations;
mod tree;

use inferbench_crds::splitmix::SplitMix64;
use rayon::prelude::*;

pub use self::observations::{MAX_LEVELS, Observations, Unfit};
use self::tree::{Grower, Tree};

/// Points that one task predicts.
const CHUNK: usize = 1024;

/// Trees that each saw another sample of the rows; their mean predicts.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    /// Levels of each feature.
    levels: Vec<usize>,
    trees: Vec<Tree>,
    centre: f64,
    half_range: f64,
}

impl Forest {
    /// Fits `trees` trees, each to `draws` rows that are drawn from `rows` with replacement; all features are tried at
    /// each split, and leaves hold one row. `rows` are numbers of rows of `observations`; those beyond are left out. The
    /// same seed grows the same forest on any number of threads.
    #[must_use]
    pub fn fit(
        observations: &Observations,
        rows: &[usize],
        draws: usize,
        trees: u32,
        seed: u64,
    ) -> Self {
        let rows: Vec<usize> = rows
            .iter()
            .copied()
            .filter(|&row| row < observations.rows())
            .collect();
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let grow = |tree: u32| {
            let mut random = SplitMix64::stream(seed, u64::from(tree));
            let mut weights = vec![0; observations.rows()];
            for _ in 0..draws {
                weights[rows[random.below(count) as usize]] += 1;
            }
            Grower::new(observations, &weights, random).grow(observations.scale)
        };
        // Without rows there is nothing to draw from, and no tree: the centre is predicted.
        let trees = if count == 0 { 0 } else { trees };
        Self {
            levels: observations
                .starts
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .collect(),
            trees: (0..trees).into_par_iter().map(grow).collect(),
            centre: observations.centre,
            half_range: observations.half_range,
        }
    }

    /// Predictions for points of one code per feature each, a point after the other; an incomplete last point is
    /// left out.
    #[must_use]
    pub fn predict(&self, points: &[u16]) -> Vec<f64> {
        let mut predictions = self.predict_scaled(points);
        for y in &mut predictions {
            *y = self.centre + self.half_range * *y;
        }
        predictions
    }

    /// The same, with the observations' range of targets from −1 to 1: sums of squares neither overflow nor vanish.
    #[must_use]
    pub fn predict_scaled(&self, points: &[u16]) -> Vec<f64> {
        let features = self.levels.len();
        let count = points.len() / features;
        let cells = self
            .levels
            .iter()
            .try_fold(1, |cells: usize, &levels| cells.checked_mul(levels))
            .filter(|&cells| cells < count);
        let Some(cells) = cells else {
            return self.walk(points);
        };
        // More points than the grid of levels has cells: each cell is predicted once.
        let mut grid = Vec::with_capacity(cells * features);
        let mut cell = vec![0_u16; features];
        for _ in 0..cells {
            grid.extend_from_slice(&cell);
            // The last feature counts fastest.
            for (code, &levels) in cell.iter_mut().zip(&self.levels).rev() {
                if usize::from(*code) + 1 < levels {
                    *code += 1;
                    break;
                }
                *code = 0;
            }
        }
        let table = self.walk(&grid);
        let index = |point: &[u16]| {
            point
                .iter()
                .zip(&self.levels)
                .fold(0, |index, (&code, &levels)| {
                    // Codes beyond the largest one go the way that it goes.
                    index * levels + usize::from(code).min(levels - 1)
                })
        };
        points
            .chunks_exact(features)
            .map(|point| table[index(point)])
            .collect()
    }

    /// Predicts each point by itself.
    fn walk(&self, points: &[u16]) -> Vec<f64> {
        let features = self.levels.len();
        let mut sums = vec![0.0; points.len() / features];
        // A tree at a time over many points keeps the tree in the cache; each sum goes in the order of the trees.
        sums.par_chunks_mut(CHUNK)
            .zip(points.par_chunks(CHUNK * features))
            .for_each(|(sums, points)| {
                for tree in &self.trees {
                    tree.add_predictions(features, points, sums);
                }
                for sum in sums {
                    *sum /= self.trees.len().max(1) as f64;
                }
            });
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observations(features: &[Vec<u16>], target: &[f64]) -> Observations {
        let columns: Vec<&[u16]> = features.iter().map(Vec::as_slice).collect();
        Observations::new(&columns, target).unwrap()
    }

    fn tree(observations: &Observations, weights: &[u32]) -> Tree {
        Grower::new(observations, weights, SplitMix64::new(5)).grow(observations.scale)
    }

    fn points(features: &[Vec<u16>]) -> Vec<u16> {
        (0..features[0].len())
            .flat_map(|row| features.iter().map(move |codes| codes[row]))
            .collect()
    }

    /// One tree's predictions for the rows.
    fn predictions(tree: &Tree, features: &[Vec<u16>]) -> Vec<f64> {
        let mut sums = vec![0.0; features[0].len()];
        tree.add_predictions(features.len(), &points(features), &mut sums);
        sums
    }

    fn all(count: usize) -> Vec<usize> {
        (0..count).collect()
    }

    #[test]
    fn a_tree_splits_where_squared_errors_fall_most() {
        // The first feature explains more; within its halves, the second one.
        let features = [vec![0, 0, 1, 1, 4, 4, 5, 5], vec![0, 1, 0, 1, 0, 1, 0, 1]];
        let target = [1.0, 2.0, 1.0, 2.0, 11.0, 12.0, 11.0, 12.0];
        let tree = tree(&observations(&features, &target), &[1; 8]);
        assert_eq!((tree.nodes[0].feature, tree.nodes[0].split), (0, 2));
        assert_eq!(
            tree.nodes.len(),
            7,
            "four leaves: nothing to gain inside them"
        );
        for child in [1, 2] {
            assert_eq!((tree.nodes[child].feature, tree.nodes[child].split), (1, 0));
        }
    }

    #[test]
    fn a_tree_tells_apart_what_only_two_splits_together_do() {
        let features = [vec![0, 0, 1, 1], vec![0, 1, 0, 1]];
        let target = [0.0, 1.0, 1.0, 0.0];
        let tree = tree(&observations(&features, &target), &[1; 4]);
        assert_eq!(predictions(&tree, &features), [-1.0, 1.0, 1.0, -1.0]);
    }

    #[test]
    fn ties_fall_to_every_feature() {
        // Three copies of one feature: whichever comes first in a random order.
        let codes: Vec<u16> = (0..40).map(|row| row % 8).collect();
        let target: Vec<f64> = codes.iter().map(|&code| f64::from(code * code)).collect();
        let features = vec![codes; 3];
        let forest = Forest::fit(&observations(&features, &target), &all(40), 40, 300, 1);
        let mut counts = [0; 3];
        for tree in &forest.trees {
            counts[usize::from(tree.nodes[0].feature)] += 1;
        }
        assert!(
            counts.iter().all(|count| (70..=130).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn degenerate_targets_are_predicted_as_they_are() {
        let codes = vec![(0..6).collect::<Vec<u16>>()];
        for target in [
            vec![7.5; 6],
            vec![0.0; 6],
            vec![-f64::MAX, f64::MAX, 0.0, 1.0, f64::MAX, -1.0],
            vec![5e-324, 0.0, 5e-324, 0.0, 5e-324, 0.0],
            vec![1e12, 1e12 + 1.0, 1e12, 1e12 + 2.0, 1e12, 1e12],
        ] {
            let forest = Forest::fit(&observations(&codes, &target), &all(6), 6, 20, 3);
            let range = target.iter().fold((f64::MAX, f64::MIN), |(low, high), &y| {
                (y.min(low), y.max(high))
            });
            for y in forest.predict(&points(&codes)) {
                assert!((range.0..=range.1).contains(&y), "{y} in {target:?}");
            }
        }
        // One row, and no row.
        let one = observations(&[vec![3]], &[2.0]);
        assert_eq!(
            Forest::fit(&one, &[0], 1, 10, 1).predict(&[0, 9]),
            [2.0, 2.0]
        );
        assert_eq!(Forest::fit(&one, &[], 0, 10, 1).predict(&[3]), [2.0]);
        assert_eq!(Forest::fit(&one, &[1, 7], 2, 10, 1).predict(&[3]), [2.0]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let said = |features: &[&[u16]], target: &[f64]| {
            Observations::new(features, target).unwrap_err().to_string()
        };
        assert_eq!(
            said(&[], &[1.0]),
            "0 features and 1 rows: a forest needs at least one of each"
        );
        assert_eq!(
            said(&[&[], &[]], &[]),
            "2 features and 0 rows: a forest needs at least one of each"
        );
        assert_eq!(
            said(&[&[0, 1], &[0]], &[1.0, 2.0]),
            "feature 1 has 1 rows, the target 2"
        );
        assert_eq!(
            said(&[&[0, 1]], &[1.0, f64::NAN]),
            "target 1 is NaN, not a finite number"
        );
        assert_eq!(
            said(&[&[0, u16::MAX], &[0, 1]], &[1.0, 2.0]),
            "the features have 65538 levels together, more than 65536"
        );
        // As many as there may be.
        let most = observations(&[vec![0, u16::MAX]], &[1.0, 2.0]);
        assert_eq!(
            predictions(&tree(&most, &[1, 1]), &[vec![0, 40_000]]),
            [-1.0, 1.0]
        );
    }

    prop_compose! {
        /// A few features of a few levels, with targets that do not repeat.
        fn data()(features in 1..5_usize, rows in 1..60_usize)(
            codes in prop::collection::vec(prop::collection::vec(0..9_u16, rows), features),
            target in prop::collection::vec(-1e3..1e3, rows),
        ) -> (Vec<Vec<u16>>, Vec<f64>) {
            (codes, target)
        }
    }

    proptest! {
        #[test]
        fn a_seed_is_a_forest_on_any_number_of_threads((codes, target) in data(), seed: u64) {
            let observations = observations(&codes, &target);
            let rows = all(target.len());
            let forests: Vec<Forest> = [1, 3].iter().map(|&threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| Forest::fit(&observations, &rows, rows.len(), 13, seed))
            }).collect();
            prop_assert_eq!(&forests[0], &forests[1]);
            prop_assert!(target.len() < 20 || forests[0] != Forest::fit(&observations, &rows, rows.len(), 13, !seed));
        }

        #[test]
        fn a_scale_of_the_target_is_one_of_the_predictions((codes, target) in data(), seed: u64) {
            let rows = all(target.len());
            let points = points(&codes);
            let plain = Forest::fit(&observations(&codes, &target), &rows, rows.len(), 9, seed).predict(&points);
            for (scale, shift) in [(1e12, 0.0), (1e-12, 0.0), (-3.0, 7e4)] {
                let scaled: Vec<f64> = target.iter().map(|y| y * scale + shift).collect();
                let forest = Forest::fit(&observations(&codes, &scaled), &rows, rows.len(), 9, seed);
                for (y, expected) in forest.predict(&points).iter().zip(&plain) {
                    prop_assert!((y - shift - expected * scale).abs() <= 1e-6 * scale.abs(), "{y} {expected}");
                }
            }
        }

        #[test]
        fn a_row_twice_is_a_weight_of_two((codes, target) in data(), weights in prop::collection::vec(0..4_u32, 60)) {
            let weights = &weights[..target.len()];
            prop_assume!(weights.iter().any(|&weight| weight > 0));
            let repeated: Vec<usize> =
                (0..target.len()).flat_map(|row| std::iter::repeat_n(row, weights[row] as usize)).collect();
            // The same range of targets in both, and so the same rounding: the whole data, with a weight of 0.
            let rows = [all(target.len()), repeated.clone()].concat();
            let ones: Vec<u32> = rows.iter().enumerate().map(|(at, _)| u32::from(at >= target.len())).collect();
            let longer: Vec<Vec<u16>> = codes.iter().map(|codes| rows.iter().map(|&row| codes[row]).collect()).collect();
            let longer_target: Vec<f64> = rows.iter().map(|&row| target[row]).collect();

            let weighted = predictions(&tree(&observations(&codes, &target), weights), &codes);
            let unrolled = predictions(&tree(&observations(&longer, &longer_target), &ones), &codes);
            // Rows with weight; of others no tree says the same, where ties fall differently.
            for row in repeated {
                prop_assert!((weighted[row] - unrolled[row]).abs() < 1e-9);
            }
        }

        /// A table of the grid says the same as walks do.
        #[test]
        fn many_points_are_predicted_as_each_alone((codes, target) in data(), seed: u64) {
            let forest = Forest::fit(&observations(&codes, &target), &all(target.len()), target.len(), 5, seed);
            let mut random = SplitMix64::new(seed);
            let cells: usize = forest.levels.iter().product();
            let points: Vec<u16> = (0..(cells + 3) * codes.len()).map(|_| random.below(12) as u16).collect();
            prop_assert_eq!(forest.predict_scaled(&points), forest.walk(&points));
        }

        /// A full tree gives back the mean of the rows that no feature tells apart.
        #[test]
        fn a_full_tree_gives_back_its_rows((codes, target) in data()) {
            let observations = observations(&codes, &target);
            let found = predictions(&tree(&observations, &vec![1; target.len()]), &codes);
            let points = points(&codes);
            let point = |row: usize| &points[row * codes.len()..][..codes.len()];
            for (row, found) in found.into_iter().enumerate() {
                let same: Vec<f64> = (0..target.len())
                    .filter(|&other| point(other) == point(row))
                    .map(|other| observations.scaled_target(other))
                    .collect();
                let mean = same.iter().sum::<f64>() / same.len() as f64;
                prop_assert!((found - mean).abs() < 1e-12);
            }
        }
    }
}
