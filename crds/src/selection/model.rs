//! A model's terms and their columns: numbers from −1 to 1 by their logarithm, names as orthogonal contrasts.

use std::{collections::BTreeMap, fmt, ops::Range, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    factor::{Axis, Factor, Kind},
    level::Level,
    select::Model,
};

/// A term of a model: a factor's own effect, the curvature of a number, or what two factors do together.
#[derive(
    Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// The factor.
    pub factor: Factor,
    /// The factor that it does something together with; itself for its curvature, absent for its own effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<Factor>,
}

impl Term {
    /// A factor's own effect.
    #[must_use]
    pub const fn main(factor: Factor) -> Self {
        Self { factor, with: None }
    }

    /// The factors in it.
    pub fn factors(&self) -> impl Iterator<Item = &Factor> {
        std::iter::once(&self.factor).chain(&self.with)
    }

    /// Whether it is the curvature of a number.
    #[must_use]
    pub fn is_square(&self) -> bool {
        self.with.as_ref() == Some(&self.factor)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.with {
            None => f.write_str(self.factor.title()),
            Some(with) if *with == self.factor => write!(f, "{}²", with.title()),
            Some(with) => write!(f, "{} × {}", self.factor.title(), with.title()),
        }
    }
}

/// By level: the columns that it sets.
type Contrasts = Arc<Vec<Vec<f64>>>;

/// A factor among the combinations that there are.
#[derive(Clone, Debug)]
struct Coded {
    /// Its place among the axes.
    at: usize,
    kind: Kind,
    /// Levels that occur.
    used: Vec<bool>,
    contrasts: Contrasts,
}

/// The columns of a term: the products of those of its parts.
#[derive(Clone, Debug)]
struct Columns {
    parts: Vec<(usize, Contrasts)>,
    range: Range<usize>,
}

/// The coding of combinations as rows of a model's columns. The first one is the mean.
#[derive(Clone, Debug)]
pub struct Coding {
    engines: Option<(usize, Vec<Level>)>,
    /// By axis: the engines that take it, where not all do.
    taken_by: Vec<Option<Vec<String>>>,
    coded: Vec<Coded>,
    terms: Vec<Term>,
    of_terms: Vec<Columns>,
    columns: usize,
    model: Model,
}

impl Coding {
    /// The coding of a model of the combinations at these digits of a design's axes; factors that do not vary among them
    /// are none of it.
    pub fn new(
        axes: &[Axis],
        combinations: impl Iterator<Item = Vec<usize>>,
        model: Model,
    ) -> Self {
        let engine = axes.iter().position(|axis| axis.factor == Factor::ENGINE);
        let engines = engine.map(|at| (at, axes[at].levels.clone()));
        let mut used: Vec<Vec<bool>> = axes
            .iter()
            .map(|axis| vec![false; axis.levels.len()])
            .collect();
        for digits in combinations {
            let engine = engine_of(engines.as_ref(), &digits);
            for ((used, axis), digit) in used.iter_mut().zip(axes).zip(digits.iter().copied()) {
                used[digit] |= axis.is_taken_by(engine);
            }
        }
        let coded = used
            .into_iter()
            .enumerate()
            .filter(|(_, used)| used.iter().filter(|used| **used).count() > 1)
            .map(|(at, used)| {
                let axis = &axes[at];
                let kind = axis.factor.kind(&axis.levels);
                let contrasts = Arc::new(match kind {
                    Kind::Number => linear(&axis.levels, &used),
                    Kind::Category => contrasts(&used),
                });
                Coded {
                    at,
                    kind,
                    used,
                    contrasts,
                }
            })
            .collect();
        let mut coding = Self {
            engines,
            taken_by: axes.iter().map(|axis| axis.engines.clone()).collect(),
            coded,
            terms: Vec::new(),
            of_terms: Vec::new(),
            columns: 1,
            model,
        };
        coding.add_mains(axes);
        match model {
            Model::MainEffects => {}
            Model::TwoFactor => coding.add_pairs(axes),
            Model::Quadratic => {
                coding.add_squares(axes);
                coding.add_pairs(axes);
            }
        }
        coding
    }

    /// The terms of the largest model that this one leaves out; no mean.
    pub(super) fn further(&self, axes: &[Axis]) -> Self {
        let mut further = Self {
            terms: Vec::new(),
            of_terms: Vec::new(),
            columns: 0,
            ..self.clone()
        };
        match self.model {
            Model::MainEffects => {
                further.add_squares(axes);
                further.add_pairs(axes);
            }
            Model::TwoFactor => further.add_squares(axes),
            Model::Quadratic => {}
        }
        further
    }

    fn add_mains(&mut self, axes: &[Axis]) {
        for coded in self.coded.clone() {
            let factor = axes[coded.at].factor.clone();
            self.add(Term::main(factor), vec![(coded.at, coded.contrasts)]);
        }
    }

    fn add_squares(&mut self, axes: &[Axis]) {
        for coded in self.coded.clone() {
            if coded.kind == Kind::Number && coded.used.iter().filter(|used| **used).count() > 2 {
                let factor = axes[coded.at].factor.clone();
                let term = Term {
                    with: Some(factor.clone()),
                    factor,
                };
                let squares = squares(&coded.contrasts, &coded.used);
                self.add(term, vec![(coded.at, Arc::new(squares))]);
            }
        }
    }

    fn add_pairs(&mut self, axes: &[Axis]) {
        let coded = self.coded.clone();
        for (first, a) in coded.iter().enumerate() {
            for b in &coded[first + 1..] {
                let term = Term {
                    factor: axes[a.at].factor.clone(),
                    with: Some(axes[b.at].factor.clone()),
                };
                // An engine's effect on a parameter is told among the engines that take it.
                let of = |one: &Coded, other: &Coded| match &axes[other.at].engines {
                    Some(taking) if axes[one.at].factor == Factor::ENGINE => {
                        let takes = |level: &Level| match level {
                            Level::Text(name) => taking.iter().any(|taking| **taking == **name),
                            _ => false,
                        };
                        let levels = axes[one.at].levels.iter().zip(&one.used);
                        let used: Vec<bool> =
                            levels.map(|(level, used)| *used && takes(level)).collect();
                        Arc::new(contrasts(&used))
                    }
                    _ => one.contrasts.clone(),
                };
                self.add(term, vec![(a.at, of(a, b)), (b.at, of(b, a))]);
            }
        }
    }

    fn add(&mut self, term: Term, parts: Vec<(usize, Contrasts)>) {
        let width = |(_, contrasts): &(usize, Contrasts)| contrasts.first().map_or(0, Vec::len);
        let count: usize = parts.iter().map(width).product();
        if count > 0 {
            let range = self.columns..self.columns + count;
            self.columns += count;
            self.terms.push(term);
            self.of_terms.push(Columns { parts, range });
        }
    }

    /// How many columns there are, the mean included.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// The terms beside the mean.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The columns of the term at a place among the terms.
    #[must_use]
    pub fn columns_of(&self, term: usize) -> Range<usize> {
        self.of_terms[term].range.clone()
    }

    /// The place of the term that a column belongs to; none of the mean's.
    pub(super) fn term_at(&self, column: usize) -> Option<usize> {
        self.of_terms
            .iter()
            .position(|of| of.range.contains(&column))
    }

    /// The name of the engine at these digits.
    pub(super) fn engine(&self, digits: &[usize]) -> Option<&str> {
        engine_of(self.engines.as_ref(), digits)
    }

    /// The row of the combination at these digits. A parameter that its engine does not take sets no column.
    pub fn row(&self, digits: &[usize], row: &mut Vec<f64>) {
        row.clear();
        row.resize(self.columns, 0.0);
        if self.terms.is_empty() || self.of_terms[0].range.start == 1 {
            row.iter_mut().take(1).for_each(|mean| *mean = 1.0);
        }
        let engine = self.engine(digits);
        let taken = |at: usize| match &self.taken_by[at] {
            None => true,
            Some(taking) => engine.is_some_and(|engine| taking.iter().any(|name| name == engine)),
        };
        for of in &self.of_terms {
            if !of.parts.iter().all(|(at, _)| taken(*at)) {
                continue;
            }
            let row = &mut row[of.range.clone()];
            match &of.parts[..] {
                [(a, of_a), (b, of_b)] => {
                    let (of_a, of_b) = (&of_a[digits[*a]], &of_b[digits[*b]]);
                    let products = of_a.iter().flat_map(|a| of_b.iter().map(move |b| a * b));
                    row.iter_mut()
                        .zip(products)
                        .for_each(|(column, product)| *column = product);
                }
                [(a, of_a)] => row.copy_from_slice(&of_a[digits[*a]]),
                _ => {}
            }
        }
    }

    /// The axes of the factors that vary, with whether their levels can be computed with.
    #[must_use]
    pub fn varies(&self) -> BTreeMap<usize, Kind> {
        self.coded
            .iter()
            .map(|coded| (coded.at, coded.kind))
            .collect()
    }

    /// The levels of the factor at an axis that occur, as whether each does.
    pub(super) fn used(&self, at: usize) -> Option<&[bool]> {
        let coded = self.coded.iter().find(|coded| coded.at == at)?;
        Some(&coded.used)
    }

    /// How far two combinations lie apart: for each factor the difference of numbers between 0 and 1, and 1 for names
    /// that differ.
    pub(super) fn distance(&self, a: &[usize], b: &[usize]) -> f64 {
        let of = |coded: &Coded| match coded.kind {
            Kind::Number => {
                let contrasts = &coded.contrasts;
                (contrasts[a[coded.at]][0] - contrasts[b[coded.at]][0]).abs() / 2.0
            }
            Kind::Category => f64::from(u8::from(a[coded.at] != b[coded.at])),
        };
        self.coded.iter().map(of).sum()
    }
}

fn engine_of<'a>(engines: Option<&'a (usize, Vec<Level>)>, digits: &[usize]) -> Option<&'a str> {
    let (at, levels) = engines?;
    match levels.get(*digits.get(*at)?)? {
        Level::Text(name) => Some(name),
        _ => None,
    }
}

/// Logarithms are rounded to this: their last digits differ between machines, and a selection must not.
const ROUND: f64 = 1e9;

/// One column from −1 to 1: by the logarithm where all levels are above 0, else by the level itself.
fn linear(levels: &[Level], used: &[bool]) -> Vec<Vec<f64>> {
    let numbers: Vec<f64> = levels
        .iter()
        .map(|level| level.number().unwrap_or_default())
        .collect();
    let of_used = || {
        numbers
            .iter()
            .zip(used)
            .filter(|(_, used)| **used)
            .map(|(number, _)| *number)
    };
    let above = of_used().all(|number| number > 0.0);
    let scale = |number: f64| if above { number.log2() } else { number };
    let low = of_used().map(scale).fold(f64::INFINITY, f64::min);
    let high = of_used().map(scale).fold(f64::NEG_INFINITY, f64::max);
    let (middle, half) = (f64::midpoint(low, high), (high - low) / 2.0);
    let coded = |(number, used): (&f64, &bool)| {
        let x = if *used {
            (scale(*number) - middle) / half
        } else {
            0.0
        };
        vec![(x * ROUND).round() / ROUND]
    };
    numbers.iter().zip(used).map(coded).collect()
}

/// The squares of a number's column, around their mean over the levels.
fn squares(linear: &[Vec<f64>], used: &[bool]) -> Vec<Vec<f64>> {
    let squares: Vec<f64> = linear.iter().map(|x| x[0] * x[0]).collect();
    let count = used.iter().filter(|used| **used).count() as f64;
    let sum: f64 = squares
        .iter()
        .zip(used)
        .filter(|(_, used)| **used)
        .map(|(square, _)| square)
        .sum();
    let of = |(square, used): (&f64, &bool)| vec![if *used { square - sum / count } else { 0.0 }];
    squares.iter().zip(used).map(of).collect()
}

/// Helmert's contrasts of the levels that occur, each with a mean square of 1: of equally frequent levels, a matrix whose
/// square is the unit matrix.
fn contrasts(used: &[bool]) -> Vec<Vec<f64>> {
    let count = used.iter().filter(|used| **used).count();
    let levels = count as f64;
    let mut rank = 0;
    used.iter()
        .map(|is_used| {
            if !is_used {
                return vec![0.0; count.saturating_sub(1)];
            }
            let at = rank;
            rank += 1;
            (1..count)
                .map(|column| {
                    let of = column as f64;
                    let scale = (levels / (of * (of + 1.0))).sqrt();
                    match at.cmp(&column) {
                        std::cmp::Ordering::Less => -scale,
                        std::cmp::Ordering::Equal => of * scale,
                        std::cmp::Ordering::Greater => 0.0,
                    }
                })
                .collect()
        })
        .collect()
}
