//! The brackets that the searches of each configuration found, block by block, as they were measured. Their middles are
//! metrics as any other ([`crate::sample::METRICS`]); an open bracket has none, and is shown here alone.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    row::Row,
    sample::{Levels, is_valid},
};

/// The brackets of one configuration.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capacities {
    /// Its levels; that of the load is what was searched.
    #[serde(flatten)]
    pub levels: Levels,
    /// The load that was searched: `requestRate` or `concurrency`.
    pub load: String,
    /// The bracket of each block, from valid trials.
    pub brackets: Vec<Bracket>,
}

/// The bracket that one trial found.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Bracket {
    /// The block, from 0.
    pub replicate: u32,
    /// The highest load that held; absent where the lowest one did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The lowest load that did not hold; absent where the highest one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// The geometric middle; absent where the bracket is open, wide, or its ends were not tested again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub middle: Option<f64>,
    /// A note on it: how the search ended where it is open, and which tests contradict each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Capacities {
    /// The name of the metric that the middles are.
    #[must_use]
    pub fn metric(&self) -> &'static str {
        if self.load == "concurrency" {
            "capacityConcurrency"
        } else {
            "capacityRate"
        }
    }
}

/// The brackets of these rows, the latest attempts at their trials, by configuration; empty where nothing was searched.
pub(super) fn of(latest: &[&Row]) -> Vec<Capacities> {
    let mut found: BTreeMap<Levels, Capacities> = BTreeMap::new();
    let searched = latest.iter().filter(|row| is_valid(row));
    for row in searched {
        let (Some(load), Some(_)) = (&row.capacity_load, row.capacity_tests) else {
            continue;
        };
        let levels = row.levels();
        let of = found.entry(levels.clone()).or_insert_with(|| Capacities {
            levels,
            load: load.clone(),
            brackets: Vec::new(),
        });
        of.brackets.push(Bracket {
            replicate: row.replicate,
            low: row.capacity_low,
            high: row.capacity_high,
            middle: row.capacity_rate.or(row.capacity_concurrency),
            note: row.capacity_note.clone(),
        });
    }
    let mut found: Vec<Capacities> = found.into_values().collect();
    for of in &mut found {
        of.brackets.sort_by_key(|bracket| bracket.replicate);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::analyze,
        fixtures,
        report::{Report, html, markdown},
        summary::summarize,
    };

    /// Two lengths in three blocks; in the last one a search was open above.
    fn rows() -> Vec<Row> {
        let mut rows = Vec::new();
        for (at, input) in [16, 32].into_iter().enumerate() {
            for replicate in 0..3_u32 {
                let mut request = fixtures::open_loop(2.5);
                request.replicate = replicate;
                request.combination.input_length = input;
                let index = 2 * replicate + at as u32;
                let low = f64::from(12 + replicate) / (at + 1) as f64;
                let record = fixtures::searched(request, index, low, low * 1.1);
                let mut row = Row::of(&record);
                if (at, replicate) == (1, 2) {
                    (row.capacity_high, row.capacity_rate) = (None, None);
                    row.capacity_note = Some("the highest load holds".into());
                }
                rows.push(row);
            }
        }
        rows
    }

    #[test]
    fn brackets_stand_by_configuration_and_block() {
        let rows = rows();
        let found = of(&rows.iter().collect::<Vec<_>>());
        assert_eq!(found.len(), 2);
        let blocks: Vec<u32> = found[0]
            .brackets
            .iter()
            .map(|bracket| bracket.replicate)
            .collect();
        assert_eq!(blocks, [0, 1, 2]);
        assert_eq!(found[0].brackets[1].low, Some(13.0));
        assert_eq!(
            (found[1].brackets[2].high, found[1].brackets[2].middle),
            (None, None)
        );
        assert_eq!(found[0].metric(), "capacityRate");
        let batches = [Row::of(&fixtures::record())];
        assert!(of(&batches.iter().collect::<Vec<_>>()).is_empty());
    }

    #[test]
    fn a_capacity_is_a_metric_over_factors_and_a_section_of_the_report() {
        let (rows, objectives) = (rows(), inferbench_crds::spec::Objectives::default());
        let summary = summarize("sweep", &rows, &objectives);
        let estimate = &summary.combinations[0].metrics["capacityRate"];
        assert_eq!(estimate.count, 3);
        assert!(estimate.low.is_some() && (estimate.mean - 13.0 * 1.1_f64.sqrt()).abs() < 1e-9);
        let analysis = analyze(&rows, &summary, &objectives);
        let attribution = &analysis.scopes[0].attribution;
        assert!(
            attribution.iter().any(|of| of.metric == "capacityRate"),
            "no effects of it"
        );
        let figures = crate::figures::all(&summary, &analysis);
        let report = Report {
            summary: &summary,
            analysis: &analysis,
            objectives: &objectives,
            figures: &figures,
            doubtful: &[],
        };
        let page = html(&report);
        assert!(page.contains("How much load it bears"));
        let text = markdown(&report);
        let table: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("by block") || line.contains("12.0"))
            .collect();
        insta::assert_snapshot!(table.join("\n"));
        // A sweep without a search has no such section.
        let rows = [Row::of(&fixtures::record())];
        let summary = summarize("sweep", &rows, &objectives);
        let analysis = analyze(&rows, &summary, &objectives);
        assert!(analysis.capacities.is_empty());
        let report = Report {
            summary: &summary,
            analysis: &analysis,
            ..report
        };
        assert!(!html(&report).contains("How much load it bears"));
    }
}
