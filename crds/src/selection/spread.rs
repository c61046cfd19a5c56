//! Selections that spread over the grid, whatever the model: Latin hypercubes and Sobol sequences. A point of the unit
//! cube stands for the combination of the levels that it falls into; where that is excluded or taken already, for one
//! near it.

use super::Grid;
use crate::splitmix::SplitMix64;

/// Combinations that are looked at for the nearest free one.
const SAMPLE: usize = 1024;

/// As many points as combinations, in each factor one in each of as many equal parts.
pub fn latin_hypercube(grid: &Grid<'_>, count: usize, random: &mut SplitMix64) -> Vec<u32> {
    let mut chosen = Chosen::new(grid, random.clone());
    let mut coordinates: Vec<Vec<u32>> = Vec::new();
    for _ in &chosen.axes {
        let mut parts: Vec<u32> = (0..count as u32).collect();
        random.shuffle(&mut parts);
        coordinates.push(parts);
    }
    for at in 0..count {
        let unit = coordinates.iter().map(|parts| {
            let within = f64::from(random.below(1 << 24)) / f64::from(1 << 24);
            (f64::from(parts[at]) + within) / count as f64
        });
        let unit: Vec<f64> = unit.collect();
        chosen.add(&unit);
    }
    chosen.indices
}

/// The first points of a Sobol sequence with Joe and Kuo's direction numbers (*Constructing Sobol sequences with better
/// two-dimensional projections*, 2008), shifted at random.
pub fn sobol(grid: &Grid<'_>, count: usize, random: &mut SplitMix64) -> Vec<u32> {
    let mut chosen = Chosen::new(grid, random.clone());
    let directions: Vec<[u32; 32]> = (0..chosen.axes.len()).map(directions).collect();
    let mut state: Vec<u32> = directions
        .iter()
        .map(|_| (random.next_u64() >> 32) as u32)
        .collect();
    for at in 0..count as u32 {
        let unit: Vec<f64> = state
            .iter()
            .map(|bits| f64::from(*bits) / 2_f64.powi(32))
            .collect();
        chosen.add(&unit);
        let bit = (at + 1).trailing_zeros() as usize;
        state
            .iter_mut()
            .zip(&directions)
            .for_each(|(state, of)| *state ^= of[bit]);
    }
    chosen.indices
}

/// Degree, coefficients and initial numbers of the primitive polynomials from the second dimension on.
const POLYNOMIALS: [(u32, u32, &[u32]); 15] = [
    (1, 0, &[1]),
    (2, 1, &[1, 3]),
    (3, 1, &[1, 3, 1]),
    (3, 2, &[1, 1, 1]),
    (4, 1, &[1, 1, 3, 3]),
    (4, 4, &[1, 3, 5, 13]),
    (5, 2, &[1, 1, 5, 5, 17]),
    (5, 4, &[1, 1, 5, 5, 5]),
    (5, 7, &[1, 1, 7, 11, 19]),
    (5, 11, &[1, 1, 5, 1, 1]),
    (5, 13, &[1, 1, 1, 3, 11]),
    (5, 14, &[1, 3, 5, 5, 31]),
    (6, 1, &[1, 3, 3, 9, 7, 49]),
    (6, 13, &[1, 1, 1, 15, 21, 21]),
    (6, 16, &[1, 3, 1, 13, 27, 49]),
];

/// The direction numbers of a dimension. No design within the limits has more factors that vary than there are.
fn directions(dimension: usize) -> [u32; 32] {
    let mut numbers = [0_u32; 32];
    let Some((degree, coefficients, initial)) =
        dimension.checked_sub(1).and_then(|at| POLYNOMIALS.get(at))
    else {
        for (bit, number) in numbers.iter_mut().enumerate() {
            *number = 1 << (31 - bit);
        }
        return numbers;
    };
    let degree = *degree as usize;
    for bit in 0..32 {
        numbers[bit] = if bit < degree {
            initial[bit] << (31 - bit)
        } else {
            let mut number = numbers[bit - degree] ^ (numbers[bit - degree] >> degree);
            for k in 1..degree {
                if coefficients >> (degree - 1 - k) & 1 == 1 {
                    number ^= numbers[bit - k];
                }
            }
            number
        };
    }
    numbers
}

struct Chosen<'a> {
    grid: &'a Grid<'a>,
    /// The axes that vary, each with the levels that occur.
    axes: Vec<(usize, Vec<usize>)>,
    indices: Vec<u32>,
    is_chosen: Vec<bool>,
    random: SplitMix64,
}

impl<'a> Chosen<'a> {
    fn new(grid: &'a Grid<'a>, random: SplitMix64) -> Self {
        let axes = grid.coding.varies().into_keys().map(|at| {
            let used = grid.coding.used(at).unwrap_or_default();
            let levels = (0..used.len()).filter(|level| used[*level]).collect();
            (at, levels)
        });
        Self {
            grid,
            axes: axes.collect(),
            indices: Vec::new(),
            is_chosen: vec![false; grid.free.len()],
            random,
        }
    }

    /// Adds the combination that a point stands for.
    fn add(&mut self, unit: &[f64]) {
        let grid = self.grid;
        let mut digits = vec![0; grid.axes.len()];
        if let Some(first) = grid.candidates.first() {
            grid.digits(*first, &mut digits);
        }
        for ((at, levels), unit) in self.axes.iter().zip(unit) {
            let level = (unit * levels.len() as f64) as usize;
            digits[*at] = levels[level.min(levels.len() - 1)];
        }
        let engine = grid.coding.engine(&digits);
        let taken: Vec<bool> = grid
            .axes
            .iter()
            .map(|axis| axis.is_taken_by(engine))
            .collect();
        for (digit, taken) in digits.iter_mut().zip(taken) {
            *digit = if taken { *digit } else { 0 };
        }
        let free = |index: &u32| !self.is_chosen[*index as usize];
        let found = match grid.find(&digits).filter(free) {
            Some(index) => Some(index),
            None => self.nearest(&digits),
        };
        if let Some(index) = found {
            self.is_chosen[index as usize] = true;
            self.indices.push(index);
        }
    }

    /// The free combination nearest to these digits, of [`SAMPLE`] drawn at random where there are more.
    fn nearest(&mut self, digits: &[usize]) -> Option<u32> {
        let grid = self.grid;
        let all = &grid.candidates;
        let is_free = |index: &u32| !self.is_chosen[*index as usize];
        let mut free: Vec<u32> = if all.len() <= SAMPLE {
            all.clone()
        } else {
            let draws = (0..SAMPLE).map(|_| all[self.random.below(all.len() as u32) as usize]);
            draws.collect()
        };
        free.retain(is_free);
        if free.is_empty() {
            free.extend(all.iter().copied().find(is_free));
        }
        let mut of = vec![0; digits.len()];
        let mut best: Option<(f64, u32)> = None;
        for index in free {
            grid.digits(index, &mut of);
            let distance = grid.coding.distance(digits, &of);
            if best.is_none_or(|(least, _)| distance < least) {
                best = Some((distance, index));
            }
        }
        best.map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_is_stratified() {
        for dimension in 0..16 {
            let numbers = directions(dimension);
            let mut state = 0_u32;
            let mut parts = [0; 64];
            for at in 0..64_u32 {
                parts[(state >> 26) as usize] += 1;
                state ^= numbers[(at + 1).trailing_zeros() as usize];
            }
            assert_eq!(parts, [1; 64], "dimension {dimension}");
        }
    }
}
