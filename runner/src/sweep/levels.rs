//! Levels for a terminal: as columns of a table and in few words. The factors that a fresh start of the engine fixes
//! come first, then those of the load; one that is at its implied level throughout is not shown.

use inferbench_crds::factor::{Factor, Kind, Level, Levels, Scope};
use inferbench_results::sample;

/// The factors that a table shows, a column each.
#[derive(Clone, Debug)]
pub struct Columns(Vec<Factor>);

impl Columns {
    /// The factors that some of these levels state.
    #[must_use]
    pub fn of<'a>(levels: impl IntoIterator<Item = &'a Levels>) -> Self {
        Self(start_first(sample::factors(levels)))
    }

    /// The heads of the columns.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|factor| factor.short().to_owned())
            .collect()
    }

    /// The cells of a row; empty where a factor has no level.
    #[must_use]
    pub fn cells(&self, levels: &Levels) -> Vec<String> {
        let cell = |factor| {
            levels
                .shown(factor)
                .map_or(String::new(), |level| cell(factor, level))
        };
        self.0.iter().map(cell).collect()
    }

    /// A row in few words: `gpt2, CPU, f32, batch 4, in 32, out 32`, with another separator where wanted. A factor that
    /// `levels` lacks is left out, so that a workload and a choice have words, too.
    #[must_use]
    pub fn in_words(&self, levels: &Levels, separator: &str) -> String {
        let words = self
            .0
            .iter()
            .filter_map(|factor| Some(words(factor, levels.shown(factor)?)));
        words.collect::<Vec<_>>().join(separator)
    }

    /// How many columns name what an engine is started with; those after them are numbers of the load.
    #[must_use]
    pub fn starts(&self) -> usize {
        self.0
            .iter()
            .filter(|factor| factor.scope() == Scope::Start)
            .count()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The place of a row among others.
    #[must_use]
    pub fn place(&self, levels: &Levels) -> Vec<Option<Level>> {
        self.0
            .iter()
            .map(|factor| levels.get(factor).cloned())
            .collect()
    }
}

fn start_first(factors: Vec<Factor>) -> Vec<Factor> {
    let (mut first, then): (Vec<Factor>, Vec<Factor>) = factors
        .into_iter()
        .partition(|factor| factor.scope() == Scope::Start);
    first.extend(then);
    first
}

fn cell(factor: &Factor, level: &Level) -> String {
    match level.number() {
        Some(0.0) if *factor == Factor::GPUS => "CPU".into(),
        _ => level.to_string(),
    }
}

fn words(factor: &Factor, level: &Level) -> String {
    let cell = cell(factor, level);
    match factor.row() {
        Some(_) if *factor == Factor::GPUS && cell != "CPU" => format!("{cell} GPU"),
        Some(_) if *factor == Factor::GPUS => cell,
        Some(row) if row.kind == Kind::Category => cell,
        _ => format!("{} {cell}", factor.short()),
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::workload::Choice;

    use super::*;

    fn levels(more: &[(&str, Level)]) -> Levels {
        let base = [
            (Factor::MODEL, Level::from("gpt2")),
            (Factor::BATCH_SIZE, Level::from(4)),
            (Factor::INPUT_LENGTH, Level::from(32)),
            (Factor::OUTPUT_LENGTH, Level::from(16)),
            (Factor::GPUS, Level::from(0)),
            (Factor::DTYPE, Level::from("f32")),
        ];
        let more = more
            .iter()
            .map(|(name, level)| (Factor::named(name), level.clone()));
        Levels::new(base.into_iter().chain(more))
    }

    #[test]
    fn a_plain_combination_shows_six_factors() {
        let plain = levels(&[]);
        let columns = Columns::of([&plain]);
        assert_eq!(
            columns.in_words(&plain, ", "),
            "gpt2, CPU, f32, batch 4, in 32, out 16"
        );
        assert_eq!(
            columns.heads(),
            ["model", "gpus", "dtype", "batch", "in", "out"]
        );
        assert_eq!(
            columns.cells(&plain),
            ["gpt2", "CPU", "f32", "4", "32", "16"]
        );
        assert_eq!((columns.starts(), columns.count()), (3, 6));
    }

    #[test]
    fn engines_and_parameters_have_columns_where_some_row_states_them() {
        let plain = levels(&[("gpus", 2.into())]);
        let other = levels(&[("engine", Level::from("vllm")), ("maxNumSeqs", 64.into())]);
        let columns = Columns::of([&plain, &other]);
        assert_eq!(
            columns.heads(),
            [
                "engine",
                "model",
                "gpus",
                "dtype",
                "maxNumSeqs",
                "batch",
                "in",
                "out"
            ]
        );
        assert_eq!(
            columns.cells(&plain),
            ["candle", "gpt2", "2", "f32", "", "4", "32", "16"]
        );
        assert_eq!(
            columns.in_words(&other, " "),
            "vllm gpt2 CPU f32 maxNumSeqs 64 batch 4 in 32 out 16"
        );
        // The implied engine is named where there is another one.
        assert_eq!(
            columns.in_words(&plain, ", "),
            "candle, gpt2, 2 GPU, f32, batch 4, in 32, out 16"
        );
        assert_eq!(
            columns.in_words(Choice::of(&plain).levels(), ", "),
            "candle, 2 GPU, f32, batch 4"
        );
        let alone = Columns::of([&plain]);
        assert_eq!(
            alone.in_words(&plain, ", "),
            "gpt2, 2 GPU, f32, batch 4, in 32, out 16"
        );
        assert_ne!(columns.place(&plain), columns.place(&other));
    }
}
