//! Syntax tree to statement: names, arguments and types.

use super::{
    Call, Comparison, FAMILIES, Function, Gives, METRICS, Only, Operator, Quantity, Statement,
    Takes, Term, Wrong,
    parse::{Kind, Node, character},
};
use crate::{
    factor::{self, Factor, Level, Number},
    suggest::did_you_mean,
};

/// A part of an expression, by its type.
enum Value {
    Truth(Statement),
    Number(Term),
    /// Something chosen: a level, or a name.
    Choice(Call),
    Text,
    List(Vec<Level>),
    Map,
}

impl Value {
    const fn what(&self) -> &'static str {
        match self {
            Self::Truth(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Choice(_) => "a level or a name",
            Self::Text => "a text",
            Self::List(_) => "a list",
            Self::Map => "a map",
        }
    }
}

/// The statement that a whole expression makes.
pub(super) fn check(text: &str, node: &Node, parameters: &[&str]) -> Result<Statement, Wrong> {
    let checker = Checker { text, parameters };
    match checker.value(node)? {
        Value::Truth(statement) => Ok(statement),
        Value::Number(_) => Err(checker.wrong(
            node,
            "this gives a number, and a truth value is needed: compare it, as in … > 0.7",
        )),
        Value::Choice(call) => Err(checker.wrong(
            node,
            format!(
                "{} gives a level or a name, and a truth value is needed: compare it, as in … == 2 or … in [2, 4]",
                call.function.name()
            ),
        )),
        other => Err(checker.wrong(
            node,
            format!("this is {}, and a truth value is needed", other.what()),
        )),
    }
}

struct Checker<'a> {
    text: &'a str,
    parameters: &'a [&'a str],
}

impl Checker<'_> {
    fn wrong(&self, node: &Node, message: impl Into<String>) -> Wrong {
        Wrong {
            at: character(self.text, node.from),
            message: message.into(),
        }
    }

    /// The text of a part, with its blanks made plain.
    fn written(&self, node: &Node) -> String {
        let text = self.text.get(node.from..node.to).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn value(&self, node: &Node) -> Result<Value, Wrong> {
        Ok(match &node.kind {
            Kind::Number(number) => Value::Number(Term::Literal(*number)),
            Kind::Boolean(value) => Value::Truth(Statement::Literal(*value)),
            Kind::Text(_) => Value::Text,
            Kind::List(items) => Value::List(
                items
                    .iter()
                    .map(|item| self.level(item))
                    .collect::<Result<_, _>>()?,
            ),
            Kind::Map(_) => Value::Map,
            Kind::Call(name, arguments) => {
                let call = self.call(node, name, arguments)?;
                match call.function.gives() {
                    Gives::Number => Value::Number(Term::Call(call)),
                    Gives::Level | Gives::Family => Value::Choice(call),
                }
            }
            Kind::Unary("!", of) => Value::Truth(Statement::Not(Box::new(self.truth("!", of)?))),
            Kind::Unary(_, of) => Value::Number(Term::Negative(Box::new(self.number("-", of)?))),
            Kind::Binary(operator, left, right) => self.binary(node, operator, left, right)?,
        })
    }

    fn binary(
        &self,
        node: &Node,
        operator: &'static str,
        left: &Node,
        right: &Node,
    ) -> Result<Value, Wrong> {
        let arithmetic = match operator {
            "+" => Some(Operator::Plus),
            "-" => Some(Operator::Minus),
            "*" => Some(Operator::Times),
            "/" => Some(Operator::Over),
            _ => None,
        };
        if let Some(arithmetic) = arithmetic {
            let (a, b) = (self.number(operator, left)?, self.number(operator, right)?);
            return Ok(Value::Number(Term::Arithmetic(
                Box::new(a),
                arithmetic,
                Box::new(b),
            )));
        }
        if matches!(operator, "&&" | "||") {
            let (a, b) = (self.truth(operator, left)?, self.truth(operator, right)?);
            let (a, b) = (Box::new(a), Box::new(b));
            return Ok(Value::Truth(if operator == "&&" {
                Statement::And(a, b)
            } else {
                Statement::Or(a, b)
            }));
        }
        let statement = match (operator, self.value(left)?, self.value(right)?) {
            ("in", Value::Choice(call), Value::List(levels)) => self.is(right, call, levels)?,
            ("in", Value::Choice(_), other) => {
                return Err(self.wrong(
                    right,
                    format!(
                        "in needs a list such as [2, 4], and this is {}",
                        other.what()
                    ),
                ));
            }
            ("in", other, _) => {
                return Err(self.wrong(
                    left,
                    format!(
                        "in looks for a level or a name, of bestLevel or curve, and this is {}",
                        other.what()
                    ),
                ));
            }
            ("==" | "!=", Value::Choice(call), _) => {
                let levels = vec![self.level(right)?];
                negated(operator, self.is(right, call, levels)?)
            }
            ("==" | "!=", _, Value::Choice(call)) => {
                let levels = vec![self.level(left)?];
                negated(operator, self.is(left, call, levels)?)
            }
            (_, Value::Number(a), Value::Number(b)) => {
                let comparison = match operator {
                    "<" => Comparison::Less,
                    "<=" => Comparison::AtMost,
                    ">" => Comparison::Greater,
                    ">=" => Comparison::AtLeast,
                    _ => Comparison::Equal,
                };
                let side = |node: &Node, term: Term| Quantity {
                    text: self.written(node),
                    term,
                };
                negated(
                    operator,
                    Statement::Compare(side(left, a), comparison, side(right, b)),
                )
            }
            (_, a, b) => {
                let what = if matches!(a, Value::Truth(_)) || matches!(b, Value::Truth(_)) {
                    "; join comparisons by &&, as in 0.5 < r && r < 0.7"
                } else {
                    ""
                };
                return Err(self.wrong(
                    node,
                    format!(
                        "{operator} compares two numbers, and here are {} and {}{what}",
                        a.what(),
                        b.what()
                    ),
                ));
            }
        };
        Ok(Value::Truth(statement))
    }

    fn truth(&self, operator: &str, node: &Node) -> Result<Statement, Wrong> {
        match self.value(node)? {
            Value::Truth(statement) => Ok(statement),
            other => Err(self.wrong(
                node,
                format!(
                    "{operator} needs a truth value, and this is {}",
                    other.what()
                ),
            )),
        }
    }

    fn number(&self, operator: &str, node: &Node) -> Result<Term, Wrong> {
        match self.value(node)? {
            Value::Number(term) => Ok(term),
            other => Err(self.wrong(
                node,
                format!("{operator} needs a number, and this is {}", other.what()),
            )),
        }
    }

    /// A choice that is compared with names or levels.
    fn is(&self, node: &Node, call: Call, levels: Vec<Level>) -> Result<Statement, Wrong> {
        if call.function.gives() == Gives::Family {
            for level in &levels {
                let name = level.to_string();
                if !FAMILIES.contains(&name.as_str()) {
                    return Err(self.wrong(
                        node,
                        format!(
                            "{name:?} is no family of curves: {}{}",
                            FAMILIES.join(", "),
                            did_you_mean(&name, FAMILIES)
                        ),
                    ));
                }
            }
        }
        Ok(Statement::Is(call, levels))
    }

    /// A level: a number, a text, true or false.
    fn level(&self, node: &Node) -> Result<Level, Wrong> {
        let number = |value: f64| Number::new(value).map(Level::Number);
        let level = match &node.kind {
            Kind::Number(value) => number(*value),
            Kind::Unary("-", of) => match of.kind {
                Kind::Number(value) => number(-value),
                _ => None,
            },
            Kind::Text(text) => Some(Level::from(text.as_str())),
            Kind::Boolean(value) => Some(Level::Boolean(*value)),
            _ => None,
        };
        level.ok_or_else(|| {
            self.wrong(
                node,
                "a level is a number, a text between quotes, true or false",
            )
        })
    }

    fn call(&self, node: &Node, name: &str, arguments: &[Node]) -> Result<Call, Wrong> {
        let known = Function::ALL.map(Function::name);
        let function = Function::ALL
            .into_iter()
            .find(|function| function.name() == name)
            .ok_or_else(|| {
                self.wrong(
                    node,
                    format!(
                        "there is no function {name}: {}{}",
                        known.join(", "),
                        did_you_mean(name, known)
                    ),
                )
            })?;
        let takes = function.takes();
        let names = if takes == Takes::Metric { 1 } else { 2 };
        if !(names..=names + 1).contains(&arguments.len()) {
            let given = match arguments.len() {
                1 => "1 argument".into(),
                count => format!("{count} arguments"),
            };
            return Err(self.wrong(
                node,
                format!("{name} has {given}, and {} is allowed", function.usage()),
            ));
        }
        let (factor, metric) = match takes {
            Takes::Metric => (None, &arguments[0]),
            Takes::FactorAndMetric => (Some(&arguments[0]), &arguments[1]),
            Takes::MetricAndFactor => (Some(&arguments[1]), &arguments[0]),
        };
        let metric = self.metric(function, metric)?;
        let factor = match factor {
            Some(node) => {
                let factor = self.factor(function, node)?;
                self.fits(function, &factor, node)?;
                Some(factor)
            }
            None => None,
        };
        let only = match arguments.get(names) {
            Some(node) => self.only(function, node)?,
            None => Only::default(),
        };
        Ok(Call {
            text: self.written(node),
            function,
            factor,
            metric,
            only,
        })
    }

    fn name<'a>(&self, function: Function, what: &str, node: &'a Node) -> Result<&'a str, Wrong> {
        match &node.kind {
            Kind::Text(text) => Ok(text),
            _ => Err(self.wrong(
                node,
                format!(
                    "the {what} of {} is a text, as 'batchSize': {}",
                    function.name(),
                    function.usage()
                ),
            )),
        }
    }

    fn metric(&self, function: Function, node: &Node) -> Result<&'static str, Wrong> {
        let name = self.name(function, "metric", node)?;
        METRICS
            .into_iter()
            .find(|metric| *metric == name)
            .ok_or_else(|| {
                let order = if self.is_factor(name) {
                    format!("; it is a factor: {}", function.usage())
                } else {
                    String::new()
                };
                self.wrong(
                    node,
                    format!(
                        "{name:?} is no metric{order}: {}{}",
                        METRICS.join(", "),
                        did_you_mean(name, METRICS)
                    ),
                )
            })
    }

    fn is_factor(&self, name: &str) -> bool {
        Factor::named(name).row().is_some() || self.parameters.contains(&name)
    }

    fn factor(&self, function: Function, node: &Node) -> Result<Factor, Wrong> {
        let name = self.name(function, "factor", node)?;
        if self.is_factor(name) {
            return Ok(Factor::named(name));
        }
        let order = if METRICS.contains(&name) {
            format!("; it is a metric: {}", function.usage())
        } else {
            String::new()
        };
        let builtins = factor::TABLE.iter().map(|row| row.name);
        let names: Vec<&str> = builtins.chain(self.parameters.iter().copied()).collect();
        Err(self.wrong(
            node,
            format!(
                "{name:?} is no factor{order}: {}{}",
                names.join(", "),
                did_you_mean(name, names.iter().copied())
            ),
        ))
    }

    /// Whether the levels of a factor are what a function computes with: of a parameter, its levels tell.
    fn fits(&self, function: Function, factor: &Factor, node: &Node) -> Result<(), Wrong> {
        let Some(row) = factor.row() else {
            return Ok(());
        };
        let numbers = row.kind == factor::Kind::Number;
        let fits = match function {
            Function::Effect | Function::Exponent | Function::Curve => numbers,
            // A model counts by its parameters, a data type by its bits.
            Function::Pearson | Function::Spearman => {
                numbers || *factor == Factor::MODEL || *factor == Factor::DTYPE
            }
            _ => true,
        };
        if fits {
            return Ok(());
        }
        Err(self.wrong(
            node,
            format!(
                "the levels of {} are names, and {} goes along numbers",
                row.name,
                function.name()
            ),
        ))
    }

    fn only(&self, function: Function, node: &Node) -> Result<Only, Wrong> {
        let Kind::Map(entries) = &node.kind else {
            return Err(self.wrong(
                node,
                format!(
                    "the last argument of {} is a map, as {{'model': 'gpt2', 'gpus': [1, 2]}}",
                    function.name()
                ),
            ));
        };
        let mut only: Vec<(Factor, Vec<Level>)> = Vec::new();
        for (key, value) in entries {
            let factor = self.factor(function, key)?;
            if only.iter().any(|(known, _)| *known == factor) {
                return Err(self.wrong(key, format!("{factor} stands in this map twice")));
            }
            let levels = match &value.kind {
                Kind::List(items) if !items.is_empty() => items
                    .iter()
                    .map(|item| self.level(item))
                    .collect::<Result<_, _>>()?,
                _ => vec![self.level(value)?],
            };
            only.push((factor, levels));
        }
        only.sort();
        Ok(Only(only))
    }
}

fn negated(operator: &str, statement: Statement) -> Statement {
    if operator == "!=" {
        Statement::Not(Box::new(statement))
    } else {
        statement
    }
}
