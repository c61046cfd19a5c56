//! A look between two blocks: which combinations run no further, as their stored records say. After all replicates these
//! are those that are not measured again. It changes no record, so that every pod and every attempt find the same.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{contract::Decided, ledger::Outcomes};
use inferbench_results::{
    confirm::Confirming,
    looks::Looks,
    row::{Planned, Row},
    sample::latest_attempts,
};

use super::{Broken, broken};
use crate::{
    process::{exit::Exit, print_error},
    store::{Store, StoreError},
    sweep::{
        collect::{find_attempts, read_records},
        prepared::Prepared,
    },
};

/// Decides after these `blocks` on the combinations that have trials left to run.
pub(super) fn decide(
    sweep: &Prepared,
    store: &Store,
    ledger: &Outcomes,
    blocks: u32,
) -> Result<Decided, Broken> {
    let (design, objectives) = (&sweep.spec.design, &sweep.spec.objectives);
    let combinations = sweep.expansion.combinations_before_exclusion();
    if blocks >= sweep.expansion.blocks_of_all() {
        let Some(confirming) = Confirming::of(design) else {
            return Err(broken(
                "the request asks what is measured again, and its design has no confirm",
                Exit::BadRequest,
            ));
        };
        let rows = rows(sweep, store, &|planned| !planned.request.confirming)?;
        let chosen = confirming.chosen(latest_attempts(&rows), objectives);
        let others = (0..combinations).filter(|of| !chosen.contains(of));
        return Ok(Decided::new(blocks, combinations, others));
    }
    let Some(looks) = Looks::of(design) else {
        return Err(broken(
            "the request asks for a look, and its design has no until",
            Exit::BadRequest,
        ));
    };
    let waiting: BTreeSet<u32> = sweep
        .expansion
        .order()
        .filter(|index| ledger.get(*index).is_none() && !sweep.expansion.confirms(*index))
        .map(|index| index % combinations.max(1))
        .collect();
    let rows = rows(sweep, store, &|planned| {
        let (block, combination) = (
            planned.trial_index / combinations.max(1),
            planned.trial_index % combinations.max(1),
        );
        block < blocks && waiting.contains(&combination)
    })?;
    let enough = looks.enough(latest_attempts(&rows), combinations);
    Ok(Decided::new(blocks, combinations, enough.into_keys()))
}

/// The stored attempts at some trials of the sweep.
fn rows(
    sweep: &Prepared,
    store: &Store,
    is_looked_at: &dyn Fn(&Planned) -> bool,
) -> Result<Vec<Row>, Broken> {
    let failed = |error: StoreError| broken(error, Exit::Failed);
    let plan: Vec<Planned> = sweep
        .planned(&BTreeMap::new())
        .filter(is_looked_at)
        .collect();
    let found = find_attempts(store, &plan, sweep.remeasure_invalid()).map_err(failed)?;
    let mut rows: Vec<Row> = Vec::with_capacity(found.attempts.len());
    let corrupt = read_records(
        store,
        &found.attempts,
        |attempt, stored| Row {
            trial_index: plan[attempt.planned].trial_index,
            ..Row::of(&stored.record)
        },
        |row| {
            rows.push(row);
            Ok::<(), StoreError>(())
        },
    )
    .map_err(failed)?;
    for (_, corrupt) in &corrupt {
        print_error(corrupt);
    }
    Ok(rows)
}
