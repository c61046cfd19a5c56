//! The levels of a row. Factors of the first release have typed columns of their own; those that came later, and
//! parameters, stand in [`FurtherLevels`] and have a column each after the others.

use std::{collections::BTreeMap, sync::LazyLock};

use inferbench_crds::factor::{self, Allowed, Factor, Level, Levels, PARAMETER_COLUMN};

use super::Row;
use crate::columns::{Cell, Column, Kind, TableRow as _};

/// The factors with a typed column, and where it stands.
static TYPED: LazyLock<Vec<(Factor, usize)>> = LazyLock::new(|| {
    Factor::builtins()
        .filter_map(|factor| {
            let at = typed(&factor.column())?;
            Some((factor, at))
        })
        .collect()
});

/// Where a typed column stands.
fn typed(column: &str) -> Option<usize> {
    Row::COLUMNS.iter().position(|known| known.name == column)
}

/// Levels of the factors that have no typed column. One at its implied level is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FurtherLevels(BTreeMap<Factor, Level>);

impl FurtherLevels {
    /// Every factor and its level, in the order of the factors.
    pub fn iter(&self) -> impl Iterator<Item = (&Factor, &Level)> {
        self.0.iter()
    }

    fn set(&mut self, factor: Factor, level: Level) {
        if factor.implied().as_ref() == Some(&level) {
            self.0.remove(&factor);
        } else {
            self.0.insert(factor, level);
        }
    }

    /// The columns of a table: every such factor of the crate's table, then the parameters that any row has.
    pub(crate) fn columns<'a>(rows: impl Iterator<Item = &'a Self>) -> Vec<Column> {
        let mut found: BTreeMap<Factor, Vec<&Level>> = Factor::builtins()
            .filter(|factor| typed(&factor.column()).is_none())
            .map(|factor| (factor, Vec::new()))
            .collect();
        for (factor, level) in rows.flat_map(Self::iter) {
            let levels = found.entry(factor.clone()).or_default();
            if !levels.contains(&level) {
                levels.push(level);
            }
        }
        found
            .iter()
            .map(|(factor, levels)| column(factor, levels))
            .collect()
    }

    /// The value in one of these columns.
    pub(crate) fn cell(&self, column: &Column) -> Cell<'_> {
        let mut stated = self.0.iter().filter(|(of, _)| of.column() == column.name);
        match stated.next() {
            Some((_, level)) => cell_of(level, column.kind),
            None => of_column(&column.name)
                .filter(|factor| !factor.may_be_absent())
                .and_then(|factor| factor.implied())
                .map_or(Cell::Empty, |implied| owned(cell_of(&implied, column.kind))),
        }
    }
}

fn column(factor: &Factor, levels: &[&Level]) -> Column {
    let whole = |level: &&Level| level.number().is_some_and(|number| number.fract() == 0.0);
    let kind = match factor.row() {
        Some(builtin) => match (builtin.kind, builtin.allowed) {
            (factor::Kind::Category, _) => Kind::Text,
            (factor::Kind::Number, Allowed::Range(..)) => Kind::Integer,
            (factor::Kind::Number, _) => Kind::Number,
        },
        None if levels.iter().all(whole) => Kind::Integer,
        None if levels.iter().all(|level| level.number().is_some()) => Kind::Number,
        None if levels
            .iter()
            .all(|level| matches!(level, Level::Boolean(_))) =>
        {
            Kind::Boolean
        }
        None => Kind::Text,
    };
    Column {
        name: factor.column(),
        unit: factor.unit(),
        kind,
        nullable: factor.implied().is_none() || factor.may_be_absent(),
        doc: match factor.row() {
            Some(builtin) => builtin.doc.into(),
            None => format!(
                "The level of the parameter {}; empty where the engine does not take it.",
                factor.name()
            )
            .into(),
        },
    }
}

fn cell_of(level: &Level, kind: Kind) -> Cell<'_> {
    match (level, kind, level.number()) {
        (_, Kind::Integer, Some(number)) => Cell::Integer(number as i64),
        (_, Kind::Number, Some(number)) => Cell::Number(number),
        (Level::Boolean(truth), Kind::Boolean, _) => Cell::Boolean(*truth),
        (Level::Text(text), ..) => Cell::Text(text.as_ref().into()),
        _ => Cell::Text(level.to_string().into()),
    }
}

fn owned(cell: Cell<'_>) -> Cell<'static> {
    match cell {
        Cell::Text(text) => Cell::Text(text.into_owned().into()),
        Cell::Integer(number) => Cell::Integer(number),
        Cell::Number(number) => Cell::Number(number),
        Cell::Boolean(truth) => Cell::Boolean(truth),
        _ => Cell::Empty,
    }
}

/// The factor without a typed column whose column has this name.
pub(crate) fn of_column(name: &str) -> Option<Factor> {
    if typed(name).is_some() {
        return None;
    }
    Factor::builtins()
        .find(|factor| factor.column() == name)
        .or_else(|| {
            let parameter = name.strip_prefix(PARAMETER_COLUMN)?;
            (!parameter.is_empty()).then(|| Factor::Parameter(parameter.into()))
        })
}

impl Row {
    /// The level of every factor; trials with equal ones belong to one combination.
    #[must_use]
    pub fn levels(&self) -> Levels {
        // A load that was searched has no level.
        let typed = TYPED.iter();
        let typed = typed
            .filter(|(factor, _)| self.capacity_load.is_none() || *factor != Factor::BATCH_SIZE);
        let typed = typed.filter_map(|(factor, at)| {
            let level = match Self::CELLS[*at](self) {
                Cell::Text(name) => Level::from(&*name),
                Cell::Integer(number) => Level::from(u32::try_from(number).ok()?),
                _ => return None,
            };
            Some((factor.clone(), level))
        });
        let further = self.further.iter();
        let further = further.map(|(factor, level)| (factor.clone(), level.clone()));
        Levels::new(typed.chain(further))
    }

    /// Whether requests come one by one, and not in batches.
    #[must_use]
    pub fn of_requests(&self) -> bool {
        let load = [Factor::CONCURRENCY, Factor::REQUEST_RATE];
        let mut load = load.iter();
        self.capacity_load.is_some() || load.any(|factor| self.further.0.contains_key(factor))
    }

    /// Sets the level of a factor; false where its typed column cannot hold it.
    pub fn set_level(&mut self, factor: &Factor, level: &Level) -> bool {
        match TYPED.iter().find(|(of, _)| of == factor) {
            Some((_, at)) => Self::SETTERS[*at](self, &level.to_string()),
            None => {
                self.further.set(factor.clone(), level.clone());
                true
            }
        }
    }

    /// Reads the cell of a further column; an empty one holds no level.
    pub(crate) fn read_further(&mut self, factor: &Factor, text: &str) {
        if text.is_empty() {
            return;
        }
        let names = factor
            .row()
            .is_some_and(|row| row.kind == factor::Kind::Category);
        let level = if names {
            Level::from(text)
        } else {
            Level::parse(text)
        };
        self.further.set(factor.clone(), level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn parameter(name: &str) -> Factor {
        Factor::Parameter(name.into())
    }

    #[test]
    fn every_factor_of_the_table_has_one_column() {
        let columns = Row::columns(&[Row::default()]);
        for factor in Factor::builtins() {
            let own = columns
                .iter()
                .filter(|column| column.name == factor.column());
            assert_eq!(own.count(), 1, "{factor}");
        }
    }

    #[test]
    fn levels_are_those_of_the_combination() {
        let mut request = fixtures::request();
        let row = Row::of(&fixtures::measured(request.clone(), 0));
        assert_eq!(row.levels(), Levels::of(&request.combination));
        request.combination.batch_size = 16;
        assert_ne!(row.levels(), Levels::of(&request.combination));
    }

    #[test]
    fn a_load_that_is_not_there_has_an_empty_cell() {
        let cells = |row: &Row| {
            let names = ["concurrency", "request_rate", "prefix_share"];
            let columns = Row::further_columns(std::slice::from_ref(row));
            names.map(|name| {
                let column = columns.iter().find(|column| column.name == name).unwrap();
                owned(row.further_cell(column))
            })
        };
        let batches = Row::of(&fixtures::record());
        assert_eq!(
            cells(&batches),
            [Cell::Empty, Cell::Empty, Cell::Integer(0)]
        );
        assert!(!batches.of_requests());
        let row = Row::of(&fixtures::served(fixtures::closed_loop(8), 0));
        assert_eq!(
            cells(&row),
            [Cell::Integer(8), Cell::Empty, Cell::Integer(0)]
        );
        let row = Row::of(&fixtures::served(fixtures::open_loop(2.5), 0));
        assert_eq!(
            cells(&row),
            [Cell::Empty, Cell::Number(2.5), Cell::Integer(0)]
        );
        assert!(row.of_requests() && row.batch_size == 1);
        let levels = row.levels();
        assert_eq!(levels, Levels::of(&fixtures::open_loop(2.5).combination));
        assert_eq!(levels.shown(&Factor::BATCH_SIZE), None);
        assert!(
            levels
                .stated()
                .all(|(factor, _)| *factor != Factor::BATCH_SIZE)
        );
    }

    #[test]
    fn a_row_without_a_level_has_the_implied_one() {
        let levels = Row::default().levels();
        for factor in Factor::builtins() {
            if let Some(implied) = factor.implied() {
                assert_eq!(levels.get(&factor), Some(&implied), "{factor}");
            }
        }
    }

    #[test]
    fn a_column_has_the_type_that_holds_all_levels() {
        let half = Level::parse("0.5");
        for (levels, kind) in [
            (vec![Level::from(64), Level::from(256)], Kind::Integer),
            (vec![Level::from(1), half.clone()], Kind::Number),
            (
                vec![Level::Boolean(true), Level::Boolean(false)],
                Kind::Boolean,
            ),
            (
                vec![Level::from("fcfs"), Level::from("priority")],
                Kind::Text,
            ),
            (vec![half, Level::from("auto")], Kind::Text),
        ] {
            let rows: Vec<Row> = levels
                .iter()
                .map(|level| {
                    let mut row = Row::default();
                    assert!(row.set_level(&parameter("p"), level));
                    row
                })
                .collect();
            let columns = Row::further_columns(&rows);
            let column = columns
                .iter()
                .find(|column| column.name == "param_p")
                .unwrap();
            assert_eq!(column.kind, kind, "{levels:?}");
            for (row, level) in rows.iter().zip(&levels) {
                assert_ne!(row.further_cell(column), Cell::Empty);
                assert_eq!(row.levels().get(&parameter("p")), Some(level));
            }
            assert_eq!(Row::default().further_cell(column), Cell::Empty);
        }
    }

    #[test]
    fn a_typed_column_refuses_what_it_cannot_hold() {
        let mut row = Row::default();
        assert!(row.set_level(&Factor::BATCH_SIZE, &Level::from(8)));
        assert_eq!(row.batch_size, 8);
        assert!(!row.set_level(&Factor::BATCH_SIZE, &Level::from("many")));
        assert!(!row.set_level(&Factor::BATCH_SIZE, &Level::parse("0.5")));
        assert_eq!(row.batch_size, 8);
    }
}
