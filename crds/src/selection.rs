//! The selection of some of a grid's combinations in place of all, as `design.select` asks for it, before anything
//! runs. By seed, and the same wherever it is computed: the operator, its pods and a laptop each come to the selection
//! by themselves.

pub mod algebra;
mod exchange;
mod model;
mod spread;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::model::{Coding, Term};

use crate::{
    factor::Axis,
    grid::{self, size},
    limits,
    select::{Method, Model, Select},
    sha256::sha256_hex,
    spec::Design,
    splitmix::SplitMix64,
};

/// Why a selection cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Fewer combinations than effects.
    #[error(
        "{combinations} is too few: the model {model} of these factors has {terms} terms, and needs as many combinations"
    )]
    TooFew {
        /// The combinations that were asked for.
        combinations: u32,
        /// The model.
        model: Model,
        /// The least that it needs.
        terms: usize,
    },
    /// More combinations than there are.
    #[error(
        "{combinations} is more than the {candidates} combinations that there are: leave out `select` to run them all"
    )]
    TooMany {
        /// The combinations that were asked for.
        combinations: u32,
        /// The combinations that there are.
        candidates: u32,
    },
    /// More effects than are looked at.
    #[error(
        "the model {model} of these factors has {terms} terms, and at most {} are allowed: choose a smaller model or fewer levels of names",
        MAX_TERMS
    )]
    TooLarge {
        /// The model.
        model: Model,
        /// Its terms.
        terms: usize,
    },
}

/// Terms that a model may have; one counts for each number, and one less than its levels for each name.
pub const MAX_TERMS: usize = 256;

/// The combinations that were chosen, and what they can tell.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// The selection that was asked for.
    pub select: Select,
    /// The mixed-radix indices of the chosen combinations, ascending.
    #[serde(skip)]
    pub chosen: Vec<u32>,
    /// Combinations that there were to choose from.
    pub candidates: u32,
    /// The model's independent terms, the mean included.
    pub terms: u32,
    /// The D-efficiency, |XᵀX|^(1/terms)/combinations: 1 is the most that any design can have. Numbers are coded from −1
    /// to 1 by their logarithm, names by orthogonal contrasts of mean square 1.
    pub efficiency: f64,
    /// The same of all combinations that there were to choose from.
    pub efficiency_of_all: f64,
    /// Terms of the model that the chosen combinations cannot tell from each other, or not at all: no effect is reported
    /// of them.
    pub aliased: Vec<Vec<Term>>,
    /// Effects that the model leaves out and that, if there are any, enter one of its terms: the largest shares.
    pub confounded: Vec<Confounded>,
}

/// An effect that would enter another.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Confounded {
    /// The term of the model.
    pub term: Term,
    /// The effect that the model leaves out.
    pub with: Term,
    /// The share of that effect which enters the term, by the largest of their contrasts.
    pub share: f64,
}

impl Selection {
    /// Whether a combination was chosen.
    #[must_use]
    pub fn has(&self, combination: u32) -> bool {
        self.chosen.binary_search(&combination).is_ok()
    }

    /// Whether no effect can be reported of a term.
    #[must_use]
    pub fn is_aliased(&self, term: &Term) -> bool {
        self.aliased.iter().flatten().any(|other| other == term)
    }
}

/// The grid of a design, to choose from, with its coding.
struct Grid<'a> {
    axes: &'a [Axis],
    coding: Coding,
    /// The combinations that can be chosen, ascending.
    candidates: Vec<u32>,
    /// By combination: whether it can.
    free: Vec<bool>,
}

impl Grid<'_> {
    /// The digits of a combination's index.
    fn digits(&self, index: u32, digits: &mut [usize]) {
        let mut rest = index as usize;
        for (digit, axis) in digits.iter_mut().zip(self.axes).rev() {
            *digit = rest % axis.levels.len();
            rest /= axis.levels.len();
        }
    }

    /// The index of the combination at these digits; those of parameters that its engine does not take count as 0.
    fn index(&self, digits: &[usize]) -> u32 {
        let engine = self.coding.engine(digits);
        let digits = self.axes.iter().zip(digits);
        digits.fold(0, |index, (axis, digit)| {
            let taken = axis.is_taken_by(engine);
            index * axis.levels.len() as u32 + if taken { *digit as u32 } else { 0 }
        })
    }

    /// Whether the combination at these digits can be chosen.
    fn find(&self, digits: &[usize]) -> Option<u32> {
        let index = self.index(digits);
        self.free.get(index as usize).copied()?.then_some(index)
    }

    /// The coded row of a combination.
    fn row(&self, index: u32, digits: &mut [usize], row: &mut Vec<f64>) {
        self.digits(index, digits);
        self.coding.row(digits, row);
    }

    /// XᵀX of some combinations.
    fn gram(&self, indices: impl Iterator<Item = u32>) -> Vec<f64> {
        let p = self.coding.columns();
        let mut gram = vec![0.0; p * p];
        let (mut digits, mut row) = (vec![0; self.axes.len()], Vec::with_capacity(p));
        for index in indices {
            self.row(index, &mut digits, &mut row);
            algebra::add_square(&mut gram, &row);
        }
        gram
    }
}

/// The selection of a design that has one; `None` for one that has none.
///
/// # Errors
/// Where it cannot be made.
///
/// # Panics
/// Where the design has more than [`limits::TRIALS`] combinations before exclusion, which `validate` reports.
pub fn of(design: &Design) -> Option<Result<Arc<Selection>, Unfit>> {
    let select = design.select?;
    Some(KNOWN.get(design, || choose(design, select)))
}

fn choose(design: &Design, select: Select) -> Result<Selection, Unfit> {
    let all = grid::Grid::new(design);
    let axes = all.axes();
    let total = size(axes, 1);
    assert!(
        total <= limits::TRIALS,
        "a design of {total} combinations was not validated: at most {} are allowed",
        limits::TRIALS
    );
    let total = total as u32;
    let free: Vec<bool> = all
        .left_out(total)
        .iter()
        .map(|left_out| !left_out)
        .collect();
    let candidates: Vec<u32> = (0..total).filter(|index| free[*index as usize]).collect();
    let coding = Coding::new(
        axes,
        candidates.iter().map(|index| all.digits(*index)),
        select.model,
    );
    let columns = coding.columns();
    if columns > MAX_TERMS {
        return Err(Unfit::TooLarge {
            model: select.model,
            terms: columns,
        });
    }
    let grid = Grid {
        axes,
        coding,
        candidates,
        free,
    };
    let combinations = select.combinations.max(0).unsigned_abs();
    let mut all = grid.gram(grid.candidates.iter().copied());
    let of_all = algebra::sweep(&mut all, columns);
    if of_all.rank() > combinations as usize {
        return Err(Unfit::TooFew {
            combinations,
            model: select.model,
            terms: of_all.rank(),
        });
    }
    if combinations as usize > grid.candidates.len() {
        return Err(Unfit::TooMany {
            combinations,
            candidates: grid.candidates.len() as u32,
        });
    }
    // Streams of blocks count from 0.
    let mut random = SplitMix64::stream(design.seed.cast_unsigned(), u64::MAX);
    let mut chosen = match select.method {
        Method::DOptimal => exchange::choose(&grid, combinations as usize, &of_all, &mut random),
        Method::LatinHypercube => {
            spread::latin_hypercube(&grid, combinations as usize, &mut random)
        }
        Method::Sobol => spread::sobol(&grid, combinations as usize, &mut random),
        Method::Random => {
            let mut indices = grid.candidates.clone();
            random.shuffle(&mut indices);
            indices.truncate(combinations as usize);
            indices
        }
    };
    chosen.sort_unstable();
    let mut gram = grid.gram(chosen.iter().copied());
    let found = algebra::sweep(&mut gram, columns);
    // An effect that no combination at all can tell counts only where it enters a term that there is.
    let efficiency = if found.rank() < of_all.rank() {
        0.0
    } else {
        found.efficiency(f64::from(combinations))
    };
    Ok(Selection {
        select,
        candidates: grid.candidates.len() as u32,
        terms: of_all.rank() as u32,
        efficiency,
        efficiency_of_all: of_all.efficiency(grid.candidates.len() as f64),
        aliased: aliased(&grid.coding, &gram, &found),
        confounded: confounded(&grid, &chosen, &gram, &found),
        chosen,
    })
}

/// The smallest coefficient by which a column counts as part of another.
const PART: f64 = 1e-6;

/// Terms that hang together: a column that depends on others leaves nothing to be said of any of them.
fn aliased(coding: &Coding, swept: &[f64], found: &algebra::Swept) -> Vec<Vec<Term>> {
    let p = coding.columns();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for dependent in (0..p).filter(|column| !found.independent[*column]) {
        let mut group: Vec<usize> = (0..p)
            .filter(|column| {
                *column == dependent
                    || (found.independent[*column] && swept[column * p + dependent].abs() > PART)
            })
            .filter_map(|column| coding.term_at(column))
            .collect();
        let (joined, others): (Vec<_>, Vec<_>) = groups
            .into_iter()
            .partition(|other| other.iter().any(|term| group.contains(term)));
        group.extend(joined.into_iter().flatten());
        group.sort_unstable();
        group.dedup();
        groups = others;
        groups.push(group);
    }
    groups.sort_unstable();
    let terms = |group: Vec<usize>| group.iter().map(|at| coding.terms()[*at].clone()).collect();
    groups.into_iter().map(terms).collect()
}

/// Shares of a left-out effect from which on it is named, and how many are.
const CONFOUNDED: (f64, usize) = (0.25, 64);

/// (XᵀX)⁻¹XᵀZ for the columns Z of the effects that the model leaves out: Box and Wilson's alias matrix.
fn confounded(
    grid: &Grid<'_>,
    chosen: &[u32],
    swept: &[f64],
    found: &algebra::Swept,
) -> Vec<Confounded> {
    let further = grid.coding.further(grid.axes);
    if further.columns() > MAX_TERMS {
        return Vec::new();
    }
    let (p, q) = (grid.coding.columns(), further.columns());
    let mut cross = vec![0.0; p * q];
    let (mut digits, mut row, mut more) = (vec![0; grid.axes.len()], Vec::new(), Vec::new());
    for index in chosen {
        grid.row(*index, &mut digits, &mut row);
        further.row(&digits, &mut more);
        for (at, x) in row.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            let cross = &mut cross[at * q..(at + 1) * q];
            cross
                .iter_mut()
                .zip(&more)
                .for_each(|(sum, z)| *sum += x * z);
        }
    }
    let mut shares: Vec<Confounded> = Vec::new();
    for (at, term) in grid.coding.terms().iter().enumerate() {
        for (with_at, with) in further.terms().iter().enumerate() {
            let mut share = 0.0_f64;
            for row in grid
                .coding
                .columns_of(at)
                .filter(|row| found.independent[*row])
            {
                for column in further.columns_of(with_at) {
                    let of = (0..p)
                        .filter(|k| found.independent[*k])
                        .map(|k| swept[row * p + k] * cross[k * q + column]);
                    share = share.max(of.sum::<f64>().abs());
                }
            }
            if share >= CONFOUNDED.0 {
                shares.push(Confounded {
                    term: term.clone(),
                    with: with.clone(),
                    share,
                });
            }
        }
    }
    shares.sort_by(|a, b| b.share.total_cmp(&a.share));
    shares.truncate(CONFOUNDED.1);
    shares
}

/// The selections of the designs that were asked for last. An operator asks at every reconcile of every resource, and
/// the answer depends on the design alone.
struct Known(Mutex<Vec<(String, Chosen)>>);

/// The outcome of a choice.
type Chosen = Result<Arc<Selection>, Unfit>;

static KNOWN: LazyLock<Known> = LazyLock::new(|| Known(Mutex::default()));

/// Designs that are remembered; one takes four bytes for each chosen combination, and little else.
const REMEMBERED: usize = 64;

impl Known {
    fn get(
        &self,
        design: &Design,
        choose: impl FnOnce() -> Result<Selection, Unfit>,
    ) -> Result<Arc<Selection>, Unfit> {
        // Neither replicates nor the order matter.
        let parts = (&design.factors, &design.exclude, design.select, design.seed);
        let key = sha256_hex(&serde_json::to_vec(&parts).unwrap_or_default());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut known = lock();
            if let Some(at) = known.iter().position(|(of, _)| *of == key) {
                let found = known.remove(at);
                let selection = found.1.clone();
                known.push(found);
                return selection;
            }
        }
        // Two that ask at once may both compute it: the same.
        let selection = choose().map(Arc::new);
        let mut known = lock();
        if known.len() >= REMEMBERED {
            drop(known.remove(0));
        }
        known.push((key, selection.clone()));
        selection
    }
}

#[cfg(test)]
mod tests;
