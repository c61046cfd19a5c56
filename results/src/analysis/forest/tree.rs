//! A regression tree over ordered levels: grown split by split from a histogram per feature, walked many points at
//! once.

use inferbench_crds::splitmix::SplitMix64;

use super::observations::Observations;

/// Points that are predicted side by side: one alone waits for memory at every node.
const LANES: usize = 8;

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

    /// The rest without `part`.
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

/// A node of a tree; a leaf is its own left child.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) feature: u16,
    /// The largest code that goes left.
    pub(super) split: u16,
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
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
}

impl Tree {
    /// Adds what the tree predicts for each of some points, `features` codes each, to `sums`.
    pub(super) fn add_predictions(&self, features: usize, points: &[u16], sums: &mut [f64]) {
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

/// A tree in the making: the rows in its bag, and the buffers that all its nodes share.
pub(super) struct Grower<'a> {
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
    pub(super) fn new(observations: &'a Observations, weights: &[u32], random: SplitMix64) -> Self {
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

    pub(super) fn grow(mut self, scale: f64) -> Tree {
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
