//! Expectations: named statements about a sweep's results, written in the syntax of CEL
//! (<https://github.com/google/cel-spec>) over what the analysis says. Here they are read and checked, which takes the
//! names of factors and metrics and no results; `inferbench_results::analysis::expectations` judges them.
//!
//! Of CEL there are `&&`, `||`, `!`, comparisons, `+ - * /`, `in`, numbers, texts, lists and maps; there are no variables,
//! no members, no conditional and no macros. All numbers are of one kind: 2 is 2.0. A test holds the parser to the `cel`
//! crate, which is no dependency of the programs: its parser is generated, pulls in a dozen crates, and knows nothing of
//! which names and arguments are allowed.

mod check;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    factor::{Factor, Level, Levels},
    limits, patterns,
};

/// A statement about the results, which is judged when they are collected.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Expectation {
    /// Its name in reports and in the status.
    #[schemars(length(min = 1, max = limits::EXPECTATION_NAME), regex(pattern = patterns::LINE))]
    pub name: String,
    /// The expectation, as `pearson('batchSize', 'outputThroughput') > 0.7`: docs/expectations.md has the functions.
    #[schemars(length(min = 1, max = limits::EXPECTATION), regex(pattern = patterns::EXPRESSION))]
    pub that: String,
    /// Its source, such as the figure of a study: shown beside what was measured.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::EXPECTATION_REFERENCE), regex(pattern = patterns::LINE))]
    pub reference: String,
}

/// Why an expression cannot be judged by any sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The character that it stands at, from 1.
    pub at: usize,
    /// The fault, and what is allowed.
    pub message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at, self.message)
    }
}

impl Expectation {
    /// The statement, read and checked, for a sweep whose parameters have these names.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read<'a>(
        &self,
        parameters: impl IntoIterator<Item = &'a str>,
    ) -> Result<Statement, Wrong> {
        let parameters: Vec<&str> = parameters.into_iter().collect();
        check::check(&self.that, &parse::parse(&self.that)?, &parameters)
    }
}

/// A statement that can be judged: a truth value.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `true` or `false`.
    Literal(bool),
    /// `!a`
    Not(Box<Self>),
    /// `a && b`
    And(Box<Self>, Box<Self>),
    /// `a || b`
    Or(Box<Self>, Box<Self>),
    /// Two numbers, compared.
    Compare(Quantity, Comparison, Quantity),
    /// Whether what was chosen is among these levels or names: `a == 'x'`, `a != 'x'` (negated), `a in ['x', 'y']`.
    Is(Call, Vec<Level>),
}

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
    /// `==`
    Equal,
}

/// A number, with its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// As it is written.
    pub text: String,
    /// The number as a tree.
    pub term: Term,
}

/// A number as a tree: a literal, an operation, or an answer of the analysis.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A literal.
    Literal(f64),
    /// `-a`
    Negative(Box<Self>),
    /// Two numbers and what is done with them.
    Arithmetic(Box<Self>, Operator, Box<Self>),
    /// An answer of the analysis.
    Call(Call),
}

impl Term {
    /// Whether nothing in it was measured.
    #[must_use]
    pub fn is_constant(&self) -> bool {
        match self {
            Self::Literal(_) => true,
            Self::Negative(of) => of.is_constant(),
            Self::Arithmetic(a, _, b) => a.is_constant() && b.is_constant(),
            Self::Call(_) => false,
        }
    }
}

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Times,
    /// `/`
    Over,
}

/// A question to the analysis.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// As it is written.
    pub text: String,
    /// The function that is asked for.
    pub function: Function,
    /// The factor, of functions that take one.
    pub factor: Option<Factor>,
    /// The metric, one of [`METRICS`].
    pub metric: &'static str,
    /// The combinations that it is asked of: those that have a listed level of each of these factors.
    pub only: Only,
}

/// The combinations that something is asked of: those with a listed level of each of these factors.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Only(pub Vec<(Factor, Vec<Level>)>);

impl Only {
    /// Whether a combination is among them.
    #[must_use]
    pub fn holds(&self, levels: &Levels) -> bool {
        self.0.iter().all(|(factor, listed)| {
            levels
                .get(factor)
                .is_some_and(|level| listed.contains(level))
        })
    }
}

/// The functions of the analysis that an expectation can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Pearson's r of a factor's levels and a metric.
    Pearson,
    /// Spearman's ρ, the same of ranks.
    Spearman,
    /// Permutation importance of a factor for a metric: how much R² falls when it is shuffled, 0 to 2.
    Importance,
    /// The same for the metric's logarithm.
    LogImportance,
    /// A factor's total share of a metric's variance, interactions included: 0 to 1.
    Share,
    /// The same of the metric's logarithm.
    LogShare,
    /// The metric's ratio per doubling of a factor.
    Effect,
    /// The exponent of the power curve of a metric along a factor.
    Exponent,
    /// The family of the curve of a metric along a factor: a name.
    Curve,
    /// The mean of a metric.
    Mean,
    /// The best value of a metric that any combination has in the mean.
    Best,
    /// The level of a factor with the best mean of a metric.
    BestLevel,
}

/// The kind of answer that a function gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// A number.
    Number,
    /// A level of its factor.
    Level,
    /// The name of a family of curves.
    Family,
}

impl Function {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Pearson,
        Self::Spearman,
        Self::Importance,
        Self::LogImportance,
        Self::Share,
        Self::LogShare,
        Self::Effect,
        Self::Exponent,
        Self::Curve,
        Self::Mean,
        Self::Best,
        Self::BestLevel,
    ];

    /// How it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
            Self::Importance => "importance",
            Self::LogImportance => "logImportance",
            Self::Share => "share",
            Self::LogShare => "logShare",
            Self::Effect => "effect",
            Self::Exponent => "exponent",
            Self::Curve => "curve",
            Self::Mean => "mean",
            Self::Best => "best",
            Self::BestLevel => "bestLevel",
        }
    }

    /// How it is called with its arguments, of which the map in the end may be left out.
    #[must_use]
    pub const fn usage(self) -> &'static str {
        match self {
            Self::Pearson => "pearson(factor, metric, {factor: level, …})",
            Self::Spearman => "spearman(factor, metric, {factor: level, …})",
            Self::Importance => "importance(factor, metric, {factor: level, …})",
            Self::LogImportance => "logImportance(factor, metric, {factor: level, …})",
            Self::Share => "share(factor, metric, {factor: level, …})",
            Self::LogShare => "logShare(factor, metric, {factor: level, …})",
            Self::Effect => "effect(factor, metric, {factor: level, …})",
            Self::Exponent => "exponent(metric, factor, {factor: level, …})",
            Self::Curve => "curve(metric, factor, {factor: level, …})",
            Self::Mean => "mean(metric, {factor: level, …})",
            Self::Best => "best(metric, {factor: level, …})",
            Self::BestLevel => "bestLevel(factor, metric, {factor: level, …})",
        }
    }

    /// The kind of answer that it gives.
    #[must_use]
    pub const fn gives(self) -> Gives {
        match self {
            Self::Curve => Gives::Family,
            Self::BestLevel => Gives::Level,
            _ => Gives::Number,
        }
    }

    /// The arguments that it takes besides a metric and a map.
    const fn takes(self) -> Takes {
        match self {
            Self::Mean | Self::Best => Takes::Metric,
            Self::Curve | Self::Exponent => Takes::MetricAndFactor,
            _ => Takes::FactorAndMetric,
        }
    }
}

/// The arguments of a function, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Metric,
    FactorAndMetric,
    MetricAndFactor,
}

/// The families of curves that `curve` tells apart.
pub const FAMILIES: [&str; 4] = ["constant", "inverse", "linear", "power"];

/// The metrics, by their names in documents. A test of `inferbench-results`, where they are defined, holds one list to
/// the other.
pub const METRICS: [&str; 32] = [
    "ttftMs",
    "ttltMs",
    "tpotMs",
    "medianItlMs",
    "p90ItlMs",
    "p50TtftMs",
    "p99TtftMs",
    "p99TpotMs",
    "p99E2eMs",
    "outputThroughput",
    "decodeThroughput",
    "prefillThroughput",
    "normalizedLatencyMs",
    "outputThroughputPerGpu",
    "requestThroughput",
    "goodput",
    "capacityRate",
    "capacityConcurrency",
    "gpuUtilMeanPct",
    "gpuUtilMaxPct",
    "gpuDramActiveMeanPct",
    "gpuTensorActiveMeanPct",
    "gpuMemPeakMib",
    "gpuPowerMeanW",
    "joulesPerOutputToken",
    "rssPeakMib",
    "decodeRooflineFraction",
    "prefillRooflineFraction",
    "meanLogLikelihood",
    "perplexity",
    "repetitionRate",
    "promptSimilarity",
];

impl Statement {
    /// Every call in it, in the order in which they are written.
    #[must_use]
    pub fn calls(&self) -> Vec<&Call> {
        let mut found = Vec::new();
        self.visit(&mut found);
        found
    }

    fn visit<'a>(&'a self, found: &mut Vec<&'a Call>) {
        match self {
            Self::Literal(_) => {}
            Self::Not(of) => of.visit(found),
            Self::And(a, b) | Self::Or(a, b) => {
                a.visit(found);
                b.visit(found);
            }
            Self::Compare(a, _, b) => {
                a.term.visit(found);
                b.term.visit(found);
            }
            Self::Is(call, _) => found.push(call),
        }
    }
}

impl Term {
    fn visit<'a>(&'a self, found: &mut Vec<&'a Call>) {
        match self {
            Self::Literal(_) => {}
            Self::Negative(of) => of.visit(found),
            Self::Arithmetic(a, _, b) => {
                a.visit(found);
                b.visit(found);
            }
            Self::Call(call) => found.push(call),
        }
    }
}
