//! A random forest of regression trees over ordered levels: bagged CART, as scikit-learn's `RandomForestRegressor`
//! grows it by default, on the calling thread pool.
//!
//! Why one of our own: a sweep's features are few levels of few factors, so that a histogram per feature finds the
//! exact best split in one pass without sorting, several times faster than a forest for arbitrary numbers.

use inferbench_crds::splitmix::SplitMix64;
use rayon::prelude::*;
use thiserror::Error;

/// Points that are predicted side by side: one alone waits for memory at every node.
const LANES: usize = 8;

/// Points that one task predicts.
const CHUNK: usize = 1024;

/// Why there is nothing to fit a forest to.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Unfit {
    /// No rows or no features.
    #[error("{features} features and {rows} rows: a forest needs at least one of each")]
    Empty {
        /// Features.
        features: usize,
        /// Rows of the target.
        rows: usize,
    },
    /// A feature has another number of rows than the target.
    #[error("feature {feature} has {found} rows, the target {expected}")]
    Length {
        /// The feature, counted from 0.
        feature: usize,
        /// Its rows.
        found: usize,
        /// The target's rows.
        expected: usize,
    },
    /// A target is infinite or not a number.
    #[error("target {row} is {value}, not a finite number")]
    NotFinite {
        /// The row, counted from 0.
        row: usize,
        /// Its target.
        value: f64,
    },
    /// Levels of all features together exceed what a histogram is made for.
    #[error("the features have {levels} levels together, more than {MAX_LEVELS}")]
    Levels {
        /// Levels of all features together.
        levels: usize,
    },
}

/// Levels that the features may have together.
pub const MAX_LEVELS: usize = 1 << 16;

/// Sums over rows: the weights, and the weighted targets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    weight: f64,
    target: f64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        self.weight += other.weight;
        self.target += other.target;
    }

    /// What is left without `part`.
    fn without(self, part: Self) -> Self {
        Self {
            weight: self.weight - part.weight,
            target: self.target - part.target,
        }
    }

    fn mean(self) -> f64 {
        self.target / self.weight
    }
}

/// What forests are fitted to: rows of levels and a target for each.
#[derive(Clone, Debug)]
pub struct Observations {
    features: usize,
    /// Where each feature's bins start in a histogram of all, and where the last one's end.
    starts: Vec<usize>,
    /// Every row's bin in each feature, a row after the other.
    bins: Vec<u16>,
    /// The targets as whole numbers from −`scale` to `scale`. Sums of whole numbers that stay below 2⁵³ are exact, so
    /// equal splits score equally whichever way they were summed up, whatever the targets' magnitude.
    targets: Vec<f64>,
    scale: f64,
    centre: f64,
    half_range: f64,
}

impl Observations {
    /// Rows of levels, each feature a column of codes (a level's rank, from 0), with their targets. Targets are kept to
    /// 2⁻⁵² × rows of their range.
    ///
    /// # Errors
    /// Nothing to fit to, or lengths that differ, or a target that is not finite.
    pub fn new(features: &[&[u16]], target: &[f64]) -> Result<Self, Unfit> {
        let rows = target.len();
        if features.is_empty() || rows == 0 {
            return Err(Unfit::Empty {
                features: features.len(),
                rows,
            });
        }
        let mut starts = vec![0];
        let mut levels = 0;
        for (feature, codes) in features.iter().enumerate() {
            if codes.len() != rows {
                return Err(Unfit::Length {
                    feature,
                    found: codes.len(),
                    expected: rows,
                });
            }
            levels += codes.iter().max().map_or(0, |&code| usize::from(code) + 1);
            starts.push(levels);
        }
        if levels > MAX_LEVELS {
            return Err(Unfit::Levels { levels });
        }
        if let Some((row, &value)) = target.iter().enumerate().find(|(_, y)| !y.is_finite()) {
            return Err(Unfit::NotFinite { row, value });
        }

        let mut bins = Vec::with_capacity(rows * features.len());
        for row in 0..rows {
            for (codes, start) in features.iter().zip(&starts) {
                // Below MAX_LEVELS.
                bins.push((start + usize::from(codes[row])) as u16);
            }
        }
        let low = target.iter().copied().fold(f64::INFINITY, f64::min);
        let high = target.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // Halves first: the range of finite numbers may be infinite.
        let (centre, half_range) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
        let scale = 2_f64.powi(52 - rows.next_power_of_two().ilog2() as i32);
        let whole = |y: &f64| match half_range {
            0.0 => 0.0,
            _ => ((y - centre) / half_range * scale).round(),
        };
        Ok(Self {
            features: features.len(),
            starts,
            bins,
            targets: target.iter().map(whole).collect(),
            scale,
            centre,
            half_range,
        })
    }

    /// How many features there are.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    /// The code of a row's level of a feature.
    #[must_use]
    pub fn code(&self, row: usize, feature: usize) -> u16 {
        // Bins count on from the feature's start.
        self.bins[row * self.features + feature] - self.starts[feature] as u16
    }

    /// A row's target on the scale of [`Forest::predict_scaled`]: from −1 to 1.
    #[must_use]
    pub fn scaled_target(&self, row: usize) -> f64 {
        self.targets[row] / self.scale
    }
}

/// A node of a tree; a leaf is its own left child.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Node {
    feature: u16,
    /// The largest code that goes left.
    split: u16,
    /// The left child; the right one follows it.
    left: u32,
    /// A leaf's mean.
    value: f64,
}

impl Node {
    fn leaf(at: usize, value: f64) -> Self {
        Self {
            feature: 0,
            // No code is larger: a walk stays here.
            split: u16::MAX,
            left: at as u32,
            value,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// Adds what the tree predicts for each of some points, `features` codes each, to `sums`.
    fn add_predictions(&self, features: usize, points: &[u16], sums: &mut [f64]) {
        for (points, sums) in points.chunks(LANES * features).zip(sums.chunks_mut(LANES)) {
            let mut at = [0_u32; LANES];
            let mut moves = true;
            while moves {
                moves = false;
                for (at, point) in at.iter_mut().zip(points.chunks_exact(features)) {
                    let node = self.nodes[*at as usize];
                    let right = point[usize::from(node.feature)] > node.split;
                    let next = node.left + u32::from(right);
                    moves |= next != *at;
                    *at = next;
                }
            }
            for (sum, at) in sums.iter_mut().zip(at) {
                *sum += self.nodes[at as usize].value;
            }
        }
    }
}

/// Where a node is divided.
#[derive(Clone, Copy, Debug)]
struct Split {
    feature: usize,
    /// The last bin with rows on the left.
    below: u16,
    /// The first bin with rows on the right.
    above: u16,
    left: Sums,
}

/// What growing a tree needs at hand.
struct Grower<'a> {
    features: usize,
    starts: &'a [usize],
    /// Bins and sums of the rows in the bag, compact to stay in the cache.
    bins: Vec<u16>,
    sums: Vec<Sums>,
    /// The rows, each node's side by side.
    rows: Vec<u32>,
    /// Where rows that go right wait while a node is divided.
    aside: Vec<u32>,
    /// All zero between nodes.
    histogram: Vec<Sums>,
    /// First and last bin of the node in each feature.
    bounds: Vec<(u16, u16)>,
    /// The order in which features are tried: the first one wins a tie.
    order: Vec<usize>,
    random: SplitMix64,
}

impl<'a> Grower<'a> {
    /// With every row in as often as `weights` says.
    fn new(observations: &'a Observations, weights: &[u32], random: SplitMix64) -> Self {
        let features = observations.features;
        let starts = &observations.starts;
        let mut bins = Vec::with_capacity(observations.bins.len());
        let mut sums = Vec::with_capacity(weights.len());
        let rows = observations.bins.chunks_exact(features);
        for ((row, &target), &weight) in rows.zip(&observations.targets).zip(weights) {
            if weight > 0 {
                bins.extend_from_slice(row);
                let weight = f64::from(weight);
                sums.push(Sums {
                    weight,
                    target: weight * target,
                });
            }
        }
        let count = sums.len();
        Self {
            features,
            starts,
            bins,
            sums,
            rows: (0..count as u32).collect(),
            aside: vec![0; count],
            histogram: vec![Sums::default(); starts.last().copied().unwrap_or_default()],
            bounds: starts
                .windows(2)
                .map(|pair| (pair[0] as u16, (pair[1] - 1) as u16))
                .collect(),
            order: (0..features).collect(),
            random,
        }
    }

    fn grow(mut self, scale: f64) -> Tree {
        let mut total = Sums::default();
        for &sums in &self.sums {
            total.add(sums);
        }
        let mut nodes = Vec::with_capacity(2 * self.rows.len());
        nodes.push(Node::leaf(0, 0.0));
        // The node at work; right children wait with their bounds.
        let (mut at, mut start, mut end) = (0, 0, self.rows.len());
        let mut waiting = Vec::new();
        let mut waiting_bounds = Vec::new();
        loop {
            if let Some(split) = self.best_split(start, end, total) {
                let middle = self.divide(start, end, split);
                let left = nodes.len();
                let first = self.starts[split.feature] as u16;
                nodes[at] = Node {
                    feature: split.feature as u16,
                    // Half way, as scikit-learn has it for codes that no row of this node has.
                    split: split.below + (split.above - split.below) / 2 - first,
                    left: left as u32,
                    value: 0.0,
                };
                nodes.push(Node::leaf(left, 0.0));
                nodes.push(Node::leaf(left + 1, 0.0));
                waiting.push((left + 1, middle, end, total.without(split.left)));
                let place = waiting_bounds.len();
                waiting_bounds.extend_from_slice(&self.bounds);
                waiting_bounds[place + split.feature].0 = split.above;
                self.bounds[split.feature].1 = split.below;
                (at, end, total) = (left, middle, split.left);
            } else {
                nodes[at].value = total.mean() / scale;
                let Some(next) = waiting.pop() else {
                    return Tree { nodes };
                };
                (at, start, end, total) = next;
                let place = waiting_bounds.len() - self.features;
                self.bounds.copy_from_slice(&waiting_bounds[place..]);
                waiting_bounds.truncate(place);
            }
        }
    }

    /// The split after which the squared errors of both parts' means are least: the largest
    /// (nᵣ·sₗ − nₗ·sᵣ)²/(nₗ·nᵣ), with n the weights and s the sums of the targets.
    fn best_split(&mut self, start: usize, end: usize, total: Sums) -> Option<Split> {
        if end - start < 2 {
            return None;
        }
        self.shuffle_order();
        if end - start == 2 {
            return self.split_of_two(start);
        }
        for &row in &self.rows[start..end] {
            let row = row as usize;
            let sums = self.sums[row];
            for &bin in &self.bins[row * self.features..][..self.features] {
                self.histogram[usize::from(bin)].add(sums);
            }
        }

        let mut best = -1.0;
        let mut found = None;
        for &feature in &self.order {
            let (first, last) = self.bounds[feature];
            let mut left = Sums::default();
            let bins = usize::from(first)..usize::from(last);
            for (bin, &sums) in bins.clone().zip(&self.histogram[bins]) {
                left.add(sums);
                // The same, to the bit, for two features that part the rows alike, be it the other way round. Not a
                // number where one side is empty, and then not larger.
                let right = total.without(left);
                let difference = right.weight * left.target - left.weight * right.target;
                let score = difference * difference / (left.weight * right.weight);
                if score > best {
                    best = score;
                    found = Some((feature, bin, left));
                }
            }
        }
        let split = found.map(|(feature, below, left)| {
            let above = below + 1;
            // An empty bin scores what the one before it does: `below` has rows, and so has one above.
            let gap = self.histogram[above..]
                .iter()
                .take_while(|sums| sums.weight == 0.0)
                .count();
            Split {
                feature,
                below: below as u16,
                above: (above + gap) as u16,
                left,
            }
        });
        for &(first, last) in &self.bounds {
            self.histogram[usize::from(first)..=usize::from(last)].fill(Sums::default());
        }
        // A score of 0: the targets are equal, or only a further split tells them apart.
        split.filter(|_| best > 0.0 || self.varies(start, end))
    }

    /// Any feature that tells two rows apart does it equally well.
    fn split_of_two(&self, start: usize) -> Option<Split> {
        if !self.varies(start, start + 2) {
            return None;
        }
        let [one, two] = [self.rows[start], self.rows[start + 1]].map(|row| row as usize);
        self.order.iter().find_map(|&feature| {
            let [a, b] = [one, two].map(|row| self.bins[row * self.features + feature]);
            (a != b).then(|| Split {
                feature,
                below: a.min(b),
                above: a.max(b),
                left: self.sums[if a < b { one } else { two }],
            })
        })
    }

    fn varies(&self, start: usize, end: usize) -> bool {
        let mut targets = self.rows[start..end]
            .iter()
            .map(|&row| self.sums[row as usize].mean());
        let first = targets.next();
        targets.any(|target| Some(target) != first)
    }

    /// Puts the rows that go left first; returns where those that go right start.
    fn divide(&mut self, start: usize, end: usize, split: Split) -> usize {
        let (mut left, mut right) = (start, 0);
        for at in start..end {
            let row = self.rows[at];
            let bin = self.bins[row as usize * self.features + split.feature];
            // Written to both sides, and kept on one: which one is anybody's guess, also the processor's.
            self.rows[left] = row;
            self.aside[right] = row;
            left += usize::from(bin <= split.below);
            right += usize::from(bin > split.below);
        }
        self.rows[left..end].copy_from_slice(&self.aside[..right]);
        left
    }

    /// A fresh order of the features, all from one number (Fisher and Yates; what a draw leaves is the next one's).
    fn shuffle_order(&mut self) {
        let mut random = self.random.next_u64();
        for last in (1..self.order.len()).rev() {
            let product = u128::from(random) * (last as u128 + 1);
            self.order.swap(last, (product >> 64) as usize);
            random = product as u64;
        }
    }
}

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
    /// Fits `trees` trees, each to as many rows as there are in `rows`, drawn from them with replacement; all features
    /// are tried at each split, and leaves hold one row. `rows` are numbers of rows of `observations`; those beyond are
    /// left out. The same seed grows the same forest on any number of threads.
    #[must_use]
    pub fn fit(observations: &Observations, rows: &[usize], trees: u32, seed: u64) -> Self {
        let rows: Vec<usize> = rows
            .iter()
            .copied()
            .filter(|&row| row < observations.rows())
            .collect();
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let grow = |tree: u32| {
            let mut random = SplitMix64::stream(seed, u64::from(tree));
            let mut weights = vec![0; observations.rows()];
            for _ in 0..count {
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

    /// What is predicted for points of one code per feature each, a point after the other; an incomplete last point is
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

    /// What one tree says of the rows.
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
        let forest = Forest::fit(&observations(&features, &target), &all(40), 300, 1);
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
            let forest = Forest::fit(&observations(&codes, &target), &all(6), 20, 3);
            let range = target.iter().fold((f64::MAX, f64::MIN), |(low, high), &y| {
                (y.min(low), y.max(high))
            });
            for y in forest.predict(&points(&codes)) {
                assert!((range.0..=range.1).contains(&y), "{y} in {target:?}");
            }
        }
        // One row, and no row.
        let one = observations(&[vec![3]], &[2.0]);
        assert_eq!(Forest::fit(&one, &[0], 10, 1).predict(&[0, 9]), [2.0, 2.0]);
        assert_eq!(Forest::fit(&one, &[], 10, 1).predict(&[3]), [2.0]);
        assert_eq!(Forest::fit(&one, &[1, 7], 10, 1).predict(&[3]), [2.0]);
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
                pool.install(|| Forest::fit(&observations, &rows, 13, seed))
            }).collect();
            prop_assert_eq!(&forests[0], &forests[1]);
            prop_assert!(target.len() < 20 || forests[0] != Forest::fit(&observations, &rows, 13, !seed));
        }

        #[test]
        fn a_scale_of_the_target_is_one_of_the_predictions((codes, target) in data(), seed: u64) {
            let rows = all(target.len());
            let points = points(&codes);
            let plain = Forest::fit(&observations(&codes, &target), &rows, 9, seed).predict(&points);
            for (scale, shift) in [(1e12, 0.0), (1e-12, 0.0), (-3.0, 7e4)] {
                let scaled: Vec<f64> = target.iter().map(|y| y * scale + shift).collect();
                let forest = Forest::fit(&observations(&codes, &scaled), &rows, 9, seed);
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
            let forest = Forest::fit(&observations(&codes, &target), &all(target.len()), 5, seed);
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
