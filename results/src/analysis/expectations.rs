//! Expectations, judged: what a spec says about its results, held to the intervals of the analysis.
//!
//! Every function gives a value and, where the analysis has one, a 95% interval over replicates. An expression goes over
//! these intervals (Moore, *Interval Analysis*, 1966): a sum, a product or a quotient of intervals holds whatever values
//! inside of them make, a comparison holds, fails, or does either inside of them, and `&&`, `||` and `!` are Kleene's of
//! three values. So an expectation is **shown** where it holds over the whole intervals, **refuted** where it fails over
//! all of them, and **not shown** where they hold both. Wider intervals never show or refute more, and what is refuted is
//! what its negation shows. Two intervals that are compared are both of 95%, which errs on the side of `not shown`; that
//! several expectations are judged is not accounted for.
//!
//! An expectation that a sweep cannot judge at all, because a factor does not vary or a metric was not measured, is
//! **untestable**.

mod ask;
mod range;
#[cfg(test)]
mod tests;

use inferbench_crds::{
    expectation::{Call, Comparison, Expectation, Gives, Operator, Quantity, Statement, Term},
    factor::Level,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{ask::Asker, range::Range};
use crate::{
    interval::Interval,
    numbers,
    row::Row,
    sample::{Factor, combine, latest_attempts},
};

/// The verdict on an expectation.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It holds over the whole intervals.
    Shown,
    /// It fails over the whole intervals.
    Refuted,
    /// The intervals hold both, or there are none.
    NotShown,
    /// The sweep cannot tell: a factor does not vary, a metric was not measured.
    Untestable,
}

impl Verdict {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Refuted => "refuted",
            Self::NotShown => "not shown",
            Self::Untestable => "cannot be judged",
        }
    }
}

/// An expectation and the verdict on it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Its name.
    pub name: String,
    /// The statement that was expected to hold.
    pub that: String,
    /// Its source, such as the figure of a study.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reference: String,
    /// The verdict on it.
    pub verdict: Verdict,
    /// The figures that it was judged by, in the order of the expression.
    pub values: Vec<MeasuredPart>,
    /// Why it could not be judged, or has no interval to be judged by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// A part of an expression, as it was measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Measured")]
pub struct MeasuredPart {
    /// The part, as it is written.
    pub text: String,
    /// Its value; absent for what is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The interval's lower end; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The interval's upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// The units that the interval goes over; absent where there is none, or parts have different ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<Over>,
    /// Of a level or a family of curves: the best one, and then those that may be as good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Level>,
}

/// The units that an interval goes over.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Over {
    /// Student's t over replicates.
    Replicates,
    /// Fisher's z over combinations, where there is one replicate: as if they were drawn at random from many.
    Combinations,
}

/// Judgements by their verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Shown.
    pub shown: u32,
    /// Refuted.
    pub refuted: u32,
    /// Not shown.
    pub not_shown: u32,
    /// Not to be judged.
    pub untestable: u32,
}

impl Tally {
    /// How many judgements have which verdict.
    #[must_use]
    pub fn of(judgements: &[Judgement]) -> Self {
        let with = |verdict| {
            judgements
                .iter()
                .filter(|one| one.verdict == verdict)
                .count() as u32
        };
        Self {
            shown: with(Verdict::Shown),
            refuted: with(Verdict::Refuted),
            not_shown: with(Verdict::NotShown),
            untestable: with(Verdict::Untestable),
        }
    }

    /// `12 shown, 1 refuted`: those that there are.
    #[must_use]
    pub fn in_words(&self) -> String {
        let parts = [
            (self.shown, Verdict::Shown),
            (self.refuted, Verdict::Refuted),
            (self.not_shown, Verdict::NotShown),
            (self.untestable, Verdict::Untestable),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, verdict)| format!("{} {}", numbers::count(*count), verdict.words()))
            .collect();
        numbers::listed(&parts)
    }
}

impl Judgement {
    /// The expectation that it is of.
    #[must_use]
    pub fn expectation(&self) -> Expectation {
        Expectation {
            name: self.name.clone(),
            that: self.that.clone(),
            reference: self.reference.clone(),
        }
    }

    /// The figures that it was judged by, for people: one line for each part, named where there are several.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let several = self.values.len() > 1;
        let values = self.values.iter().map(|value| {
            let said = value.in_words();
            if several {
                format!("{}: {said}", value.text)
            } else {
                said
            }
        });
        values.chain(self.why.iter().cloned()).collect()
    }
}

impl MeasuredPart {
    /// The value with its interval, or what was chosen.
    #[must_use]
    pub fn in_words(&self) -> String {
        if let Some((first, rest)) = self.candidates.split_first() {
            let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
            return if rest.is_empty() {
                first.to_string()
            } else {
                format!("{first} (or {})", rest.join(", "))
            };
        }
        self.value.map_or_else(
            || numbers::NOT_AVAILABLE.into(),
            |value| {
                numbers::interval(&Interval {
                    value,
                    low: self.low,
                    high: self.high,
                })
            },
        )
    }
}

/// Judges expectations by a sweep's rows.
#[must_use]
pub fn judge(rows: &[Row], expectations: &[Expectation]) -> Vec<Judgement> {
    if expectations.is_empty() {
        return Vec::new();
    }
    let latest = latest_attempts(rows);
    let combinations = combine(&latest);
    let mut asker = Asker::new(&combinations);
    let parameters = parameters(rows);
    expectations
        .iter()
        .map(|expectation| {
            let mut judge = Judge {
                asker: &mut asker,
                values: Vec::new(),
                why: Vec::new(),
            };
            let truth = match expectation.read(parameters.iter().map(String::as_str)) {
                Ok(statement) => judge.truth(&statement),
                // Of an expectation that names a parameter which no trial had.
                Err(wrong) => {
                    judge.why.push(wrong.to_string());
                    Truth::Untestable
                }
            };
            Judgement {
                name: expectation.name.clone(),
                that: expectation.that.clone(),
                reference: expectation.reference.clone(),
                verdict: match truth {
                    Truth::True => Verdict::Shown,
                    Truth::False => Verdict::Refuted,
                    Truth::Unknown => Verdict::NotShown,
                    Truth::Untestable => Verdict::Untestable,
                },
                why: if matches!(truth, Truth::True | Truth::False) {
                    Vec::new()
                } else {
                    judge.why
                },
                values: judge.values,
            }
        })
        .collect()
}

/// The parameters of a sweep, by name.
#[must_use]
pub fn parameters(rows: &[Row]) -> Vec<String> {
    let all = latest_attempts(rows);
    let levels: Vec<_> = all.iter().map(|row| row.levels()).collect();
    let factors = crate::sample::factors(&levels);
    let names = factors.iter().filter_map(|factor| match factor {
        Factor::Parameter(name) => Some(name.to_string()),
        Factor::Builtin(_) => None,
    });
    names.collect()
}

/// A truth value over intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    True,
    False,
    /// Either, inside of the intervals.
    Unknown,
    /// Something in it cannot be told.
    Untestable,
}

impl Truth {
    const fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            other => other,
        }
    }

    /// False where one is; what cannot be told decides over what is not known.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::False, _) | (_, Self::False) => Self::False,
            (Self::Untestable, _) | (_, Self::Untestable) => Self::Untestable,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::True, Self::True) => Self::True,
        }
    }

    const fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    const fn of(holds: bool, fails: bool) -> Self {
        match (holds, fails) {
            (true, _) => Self::True,
            (_, true) => Self::False,
            _ => Self::Unknown,
        }
    }
}

/// Two ranges, compared.
fn compare(a: Range, comparison: Comparison, b: Range) -> Truth {
    match comparison {
        Comparison::Less => Truth::of(a.high < b.low, a.low >= b.high),
        Comparison::AtMost => Truth::of(a.high <= b.low, a.low > b.high),
        Comparison::Greater => compare(b, Comparison::Less, a),
        Comparison::AtLeast => compare(b, Comparison::AtMost, a),
        Comparison::Equal => Truth::of(
            a.low == a.high && b.low == b.high && a.low == b.low,
            a.high < b.low || b.high < a.low,
        ),
    }
}

/// A number that was measured, or computed from such.
#[derive(Clone, Debug, PartialEq)]
struct Number {
    value: f64,
    range: Range,
    over: Option<Over>,
    /// Why parts of it have no interval.
    lacks: Vec<String>,
}

impl Number {
    fn literal(value: f64) -> Self {
        Self {
            value,
            range: Range::point(value),
            over: None,
            lacks: Vec::new(),
        }
    }
}

/// A choice among levels or families of curves.
#[derive(Clone, Debug, PartialEq)]
struct Choice {
    /// The best one, and then those that may be as good.
    candidates: Vec<Level>,
    /// Why the others could not be told from the best one.
    lacks: Option<String>,
}

/// One expectation, while it is judged.
struct Judge<'j, 'a> {
    asker: &'j mut Asker<'a>,
    values: Vec<MeasuredPart>,
    why: Vec<String>,
}

impl Judge<'_, '_> {
    /// Every part is looked at, also where one decides: the reader wants to see them all.
    fn truth(&mut self, statement: &Statement) -> Truth {
        match statement {
            Statement::Literal(true) => Truth::True,
            Statement::Literal(false) => Truth::False,
            Statement::Not(of) => self.truth(of).not(),
            Statement::And(a, b) => {
                let a = self.truth(a);
                a.and(self.truth(b))
            }
            Statement::Or(a, b) => {
                let a = self.truth(a);
                a.or(self.truth(b))
            }
            Statement::Compare(a, comparison, b) => {
                let (a, b) = (self.side(a), self.side(b));
                let (Some(a), Some(b)) = (a, b) else {
                    return Truth::Untestable;
                };
                let truth = compare(a.range, *comparison, b.range);
                if truth == Truth::Unknown {
                    for lack in a.lacks.into_iter().chain(b.lacks) {
                        self.because(lack);
                    }
                }
                truth
            }
            Statement::Is(call, listed) => self.is(call, listed),
        }
    }

    fn is(&mut self, call: &Call, listed: &[Level]) -> Truth {
        let chosen = match self.asker.choice(call) {
            Ok(chosen) => chosen,
            Err(why) => {
                self.because(format!("{}: {why}", call.text));
                return Truth::Untestable;
            }
        };
        self.values(MeasuredPart {
            text: call.text.clone(),
            value: None,
            low: None,
            high: None,
            over: None,
            candidates: chosen.candidates.clone(),
        });
        let is_listed = |level: &Level| listed.contains(level);
        let truth = Truth::of(
            chosen.candidates.iter().all(is_listed),
            !chosen.candidates.iter().any(is_listed),
        );
        if truth == Truth::Unknown
            && let Some(lack) = chosen.lacks
        {
            self.because(lack);
        }
        truth
    }

    /// A side of a comparison, shown unless it is a constant; `None` where it cannot be told.
    fn side(&mut self, quantity: &Quantity) -> Option<Number> {
        match self.number(&quantity.term) {
            Ok(number) if number.value.is_finite() => {
                if !quantity.term.is_constant() {
                    let known = number.range.is_bounded();
                    self.values(MeasuredPart {
                        text: quantity.text.clone(),
                        value: Some(number.value),
                        low: known.then_some(number.range.low),
                        high: known.then_some(number.range.high),
                        over: number.over.filter(|_| known),
                        candidates: Vec::new(),
                    });
                }
                Some(number)
            }
            Ok(_) => {
                self.because(format!("{}: it is no finite number", quantity.text));
                None
            }
            Err(why) => {
                self.because(why);
                None
            }
        }
    }

    fn number(&mut self, term: &Term) -> Result<Number, String> {
        match term {
            Term::Literal(value) => Ok(Number::literal(*value)),
            Term::Negative(of) => {
                let of = self.number(of)?;
                Ok(Number {
                    value: -of.value,
                    range: of.range.negated(),
                    ..of
                })
            }
            Term::Arithmetic(a, operator, b) => {
                let (constant_a, constant_b) = (a.is_constant(), b.is_constant());
                let (a, b) = (self.number(a)?, self.number(b)?);
                let (value, range) = match operator {
                    Operator::Plus => (a.value + b.value, a.range.plus(b.range)),
                    Operator::Minus => (a.value - b.value, a.range.plus(b.range.negated())),
                    Operator::Times => (a.value * b.value, a.range.times(b.range)),
                    Operator::Over => (a.value / b.value, a.range.over(b.range)),
                };
                Ok(Number {
                    value,
                    range,
                    over: match (constant_a, constant_b) {
                        (true, _) => b.over,
                        (_, true) => a.over,
                        _ => a.over.filter(|over| Some(*over) == b.over),
                    },
                    lacks: a.lacks.into_iter().chain(b.lacks).collect(),
                })
            }
            Term::Call(call) => {
                debug_assert_eq!(call.function.gives(), Gives::Number);
                self.asker
                    .number(call)
                    .map_err(|why| format!("{}: {why}", call.text))
            }
        }
    }

    fn values(&mut self, measured: MeasuredPart) {
        if !self.values.iter().any(|known| known.text == measured.text) {
            self.values.push(measured);
        }
    }

    fn because(&mut self, why: String) {
        if !self.why.contains(&why) {
            self.why.push(why);
        }
    }
}
