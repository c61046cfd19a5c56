//! The grid: its balanced part, and factors that some engines do not know.

use proptest::prelude::*;

use super::*;
use crate::{
    fixtures::Sweep,
    row::Row,
    sample::{combine, latest_attempts},
};

proptest! {
    #[test]
    fn the_balanced_part_is_a_full_grid(gone in prop::collection::vec(any::<u16>(), 0..60)) {
        let mut rows = Sweep { replicates: 1, ..Sweep::default() }.rows(|_| 1.0);
        for index in gone {
            let at = usize::from(index) % rows.len();
            rows[at].valid = Some(false);
        }
        let latest = latest_attempts(&rows);
        let combinations = combine(&latest);
        let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
        let balanced: Vec<&Cell<'_>> = grid.cells.iter().filter(|cell| cell.balanced).collect();
        let full: usize = (0..grid.axes.len())
            .map(|axis| balanced.iter().map(|cell| cell.at[axis]).collect::<BTreeSet<_>>().len())
            .product();
        prop_assert_eq!(balanced.len(), full);
        prop_assert_eq!(balanced.len() as u32, grid.coverage.balanced);
        // Nothing is dropped where nothing is missing, and something is left where anything was measured.
        prop_assert_eq!(grid.coverage.dropped.is_empty(), grid.coverage.measured == grid.coverage.grid);
        prop_assert_eq!(balanced.is_empty(), grid.cells.is_empty());
    }
}

/// Two engines at two batch sizes, of which one takes a parameter with two levels.
fn nested() -> Vec<Row> {
    let parameter = Factor::Parameter("slots".into());
    let sweep = Sweep {
        batches: &[1, 8],
        inputs: &[16],
        outputs: &[16],
        gpus: &[1],
        ..Sweep::default()
    };
    let mut rows = Vec::new();
    for (engine, slots) in [("candle", None), ("other", Some(64)), ("other", Some(256))] {
        rows.extend(sweep.rows(|_| 1.0).into_iter().map(|mut row| {
            row.engine = Some(engine.into());
            if let Some(slots) = slots {
                row.set_level(&parameter, &Level::from(slots));
            }
            row
        }));
    }
    for (index, row) in (0..).zip(&mut rows) {
        row.trial_index = index;
    }
    rows
}

#[test]
fn a_factor_that_some_engines_do_not_know_leaves_no_holes() {
    let rows = nested();
    let latest = latest_attempts(&rows);
    let combinations = combine(&latest);
    let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
    assert_eq!(
        (
            grid.coverage.grid,
            grid.coverage.measured,
            grid.coverage.balanced
        ),
        (6, 6, 6)
    );
    let names: Vec<&str> = grid.varying().map(|(_, axis)| axis.factor.name()).collect();
    assert_eq!(names, ["engine", "batchSize", "slots"]);
    let slots = grid.axes.len() - 1;
    assert_eq!(grid.axes[slots].absent, Absent::Within(0));
    assert_eq!(grid.within(0).collect::<Vec<_>>(), [slots]);
    assert_eq!(grid.notes().count(), 1);
}

#[test]
fn an_engine_per_model_is_the_models_effect() {
    let mut rows = nested();
    for row in &mut rows {
        row.model = format!("m ({})", row.engine.as_deref().unwrap());
    }
    let latest = latest_attempts(&rows);
    let combinations = combine(&latest);
    let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
    let names: Vec<&str> = grid.varying().map(|(_, axis)| axis.factor.name()).collect();
    assert_eq!(names, ["model", "batchSize", "slots"]);
    assert_eq!((grid.coverage.grid, grid.coverage.balanced), (6, 6));
    assert_eq!(grid.notes().count(), 2);
}

#[test]
fn bits_of_data_types() {
    for (name, found) in [
        ("f32", Some(32.0)),
        ("bf16", Some(16.0)),
        ("q4_0", Some(4.0)),
        ("x", None),
    ] {
        assert_eq!(bits(name), found, "{name}");
    }
}
