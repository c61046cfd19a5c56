//! D-optimal selections by coordinate exchange (Meyer and Nachtsheim, *The coordinate-exchange algorithm for
//! constructing exact optimal experimental designs*, 1995), over the combinations of a grid, none of them twice.

use super::{
    Grid,
    algebra::{Swept, add_square, dot, sweep, times},
};
use crate::splitmix::SplitMix64;

/// Random beginnings, of which the best end is taken.
const STARTS: usize = 10;
/// Multiplications that a selection may take in all: a few seconds. Counted, not timed, so that a slow machine selects
/// the same.
const EFFORT: u64 = 4_000_000_000;
/// Grids up to which every combination is tried in the place of every chosen one; in larger ones, those that differ in
/// one factor, and a few at random.
const SMALL: usize = 64;
/// Random ones that are tried.
const TRIES: usize = 8;
/// A gain of the determinant that is not rounding.
const GAIN: f64 = 1e-7;
/// Added to the information, so that beginnings that tell nothing of some term have a determinant to improve.
const RIDGE: f64 = 1e-4;

/// The indices of a selection with a large determinant of the information about the columns that can be told at all.
pub fn choose(grid: &Grid<'_>, count: usize, of_all: &Swept, random: &mut SplitMix64) -> Vec<u32> {
    if count == grid.candidates.len() {
        return grid.candidates.clone();
    }
    let mut effort = 0;
    let mut best: Option<(f64, Vec<u32>)> = None;
    for _ in 0..STARTS {
        let mut search = Search::new(grid, count, of_all, random);
        while search.improve(random, &mut effort) && effort < EFFORT {}
        let found = search.log_determinant();
        if best.as_ref().is_none_or(|(most, _)| found > most + GAIN) {
            best = Some((found, search.chosen));
        }
        if effort >= EFFORT {
            break;
        }
    }
    best.map_or_else(Vec::new, |(_, chosen)| chosen)
}

struct Search<'a> {
    grid: &'a Grid<'a>,
    /// The columns that enter.
    columns: Vec<usize>,
    chosen: Vec<u32>,
    /// By combination: whether it is chosen.
    is_chosen: Vec<bool>,
    /// The rows of the chosen ones, one after another.
    rows: Vec<f64>,
    /// (XᵀX + ridge)⁻¹.
    inverse: Vec<f64>,
}

impl<'a> Search<'a> {
    fn new(grid: &'a Grid<'a>, count: usize, of_all: &Swept, random: &mut SplitMix64) -> Self {
        let mut chosen = grid.candidates.clone();
        // The first of a shuffle, without shuffling the rest.
        for at in 0..count {
            let other = at + random.below((chosen.len() - at) as u32) as usize;
            chosen.swap(at, other);
        }
        chosen.truncate(count);
        let mut is_chosen = vec![false; grid.free.len()];
        chosen
            .iter()
            .for_each(|index| is_chosen[*index as usize] = true);
        let columns = (0..of_all.independent.len()).filter(|column| of_all.independent[*column]);
        let mut search = Self {
            grid,
            columns: columns.collect(),
            chosen,
            is_chosen,
            rows: Vec::new(),
            inverse: Vec::new(),
        };
        let (mut digits, mut full, mut row) = (vec![0; grid.axes.len()], Vec::new(), Vec::new());
        for at in 0..count {
            grid.digits(search.chosen[at], &mut digits);
            search.row(&digits, &mut full, &mut row);
            search.rows.extend_from_slice(&row);
        }
        search
    }

    fn row(&self, digits: &[usize], full: &mut Vec<f64>, row: &mut Vec<f64>) {
        self.grid.coding.row(digits, full);
        row.clear();
        row.extend(self.columns.iter().map(|column| full[*column]));
    }

    fn information(&self, ridge: f64) -> Vec<f64> {
        let p = self.columns.len();
        let mut gram = vec![0.0; p * p];
        (0..p).for_each(|at| gram[at * p + at] = ridge);
        self.rows
            .chunks_exact(p)
            .for_each(|row| add_square(&mut gram, row));
        gram
    }

    fn log_determinant(&self) -> f64 {
        let p = self.columns.len();
        let mut gram = self.information(RIDGE);
        sweep(&mut gram, p).log_determinant
    }

    /// Goes once over the chosen combinations and puts the best other one in the place of each; whether any was better.
    fn improve(&mut self, random: &mut SplitMix64, effort: &mut u64) -> bool {
        let p = self.columns.len();
        let each = (p * p) as u64;
        // Anew in each round: updates gather errors.
        self.inverse = self.information(RIDGE);
        sweep(&mut self.inverse, p);
        *effort += each * (p + self.chosen.len()) as u64;
        let mut improved = false;
        let mut others: Vec<u32> = Vec::new();
        let mut digits = vec![0; self.grid.axes.len()];
        let (mut full, mut z, mut product) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..self.chosen.len() {
            if *effort >= EFFORT {
                break;
            }
            let x = self.rows[at * p..(at + 1) * p].to_vec();
            let mut of_x = Vec::new();
            times(&self.inverse, &x, &mut of_x);
            let without = 1.0 - dot(&x, &of_x);
            self.others(at, random, &mut others);
            let mut best: Option<(f64, u32)> = None;
            for other in &others {
                self.grid.digits(*other, &mut digits);
                self.row(&digits, &mut full, &mut z);
                times(&self.inverse, &z, &mut product);
                let gain = (1.0 + dot(&z, &product)) * without + dot(&z, &of_x).powi(2);
                if best.is_none_or(|(most, _)| gain > most + GAIN) {
                    best = Some((gain, *other));
                }
            }
            *effort += each * (others.len() + 1) as u64;
            if let Some((gain, other)) = best
                && gain > 1.0 + GAIN
            {
                self.put(at, other, &x);
                improved = true;
            }
        }
        improved
    }

    /// The combinations that are tried in a place.
    fn others(&self, at: usize, random: &mut SplitMix64, others: &mut Vec<u32>) {
        others.clear();
        let grid = self.grid;
        if grid.candidates.len() <= SMALL {
            let free = |index: &&u32| !self.is_chosen[**index as usize];
            others.extend(grid.candidates.iter().filter(free));
            return;
        }
        let mut digits = vec![0; grid.axes.len()];
        grid.digits(self.chosen[at], &mut digits);
        for axis in 0..digits.len() {
            let own = digits[axis];
            for digit in 0..grid.axes[axis].levels.len() {
                digits[axis] = digit;
                others.extend(
                    grid.find(&digits)
                        .filter(|index| !self.is_chosen[*index as usize]),
                );
            }
            digits[axis] = own;
        }
        for _ in 0..TRIES {
            let index = grid.candidates[random.below(grid.candidates.len() as u32) as usize];
            if !self.is_chosen[index as usize] {
                others.push(index);
            }
        }
    }

    /// Puts a combination in the place of the one with row `x`: by Sherman and Morrison, first one in, then one out.
    fn put(&mut self, at: usize, other: u32, x: &[f64]) {
        let p = x.len();
        let mut digits = vec![0; self.grid.axes.len()];
        self.grid.digits(other, &mut digits);
        let (mut full, mut z) = (Vec::new(), Vec::new());
        self.row(&digits, &mut full, &mut z);
        for (row, sign) in [(&z[..], 1.0), (x, -1.0)] {
            let mut product = Vec::new();
            times(&self.inverse, row, &mut product);
            let scale = sign / (1.0 + sign * dot(row, &product));
            for (entries, a) in self.inverse.chunks_exact_mut(p).zip(&product) {
                let a = a * scale;
                entries
                    .iter_mut()
                    .zip(&product)
                    .for_each(|(entry, b)| *entry -= a * b);
            }
        }
        self.is_chosen[self.chosen[at] as usize] = false;
        self.is_chosen[other as usize] = true;
        self.chosen[at] = other;
        self.rows[at * p..(at + 1) * p].copy_from_slice(&z);
    }
}
