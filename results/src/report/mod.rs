//! The report: what to run, what matters, how it behaves and whether to trust it, as one HTML file that needs nothing
//! else, and as Markdown for a pull request. Nothing in it is computed here but words.

mod behaviour;
mod capacity;
mod decisions;
mod expectations;
mod headline;
mod html;
mod markdown;
mod matters;
mod page;
mod trust;

use inferbench_crds::spec::Objectives;

use crate::{
    analysis::Analysis,
    figures::Figure,
    sample::Levels,
    summary::{CombinationSummary, Summary},
};

pub use self::{html::html, markdown::markdown};

/// The parts of a report.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The sweep at a glance.
    pub summary: &'a Summary,
    /// Its factors' effects, curves and costs.
    pub analysis: &'a Analysis,
    /// The limits that its figures are judged by.
    pub objectives: &'a Objectives,
    /// [`crate::figures::all`] of the same.
    pub figures: &'a [Figure],
    /// The combinations without a valid trial, which are shown and marked: [`crate::summary::doubtful`] of the same
    /// rows. Empty to show valid trials alone.
    pub doubtful: &'a [CombinationSummary],
}

impl Report<'_> {
    /// The summary of the invalid trials of a combination that has no valid one.
    fn doubt(&self, levels: &Levels) -> Option<&CombinationSummary> {
        self.doubtful.iter().find(|of| of.levels == *levels)
    }

    /// The objectives in words; `None` where there are none.
    fn limits(&self) -> Option<String> {
        let ttft = self.objectives.max_ttft.map(|limit| ("TTFT", limit));
        let tpot = self.objectives.max_tpot.map(|limit| ("TPOT", limit));
        let e2e = self.objectives.max_e2e.map(|limit| ("TTLT", limit));
        let parts: Vec<String> = ttft
            .into_iter()
            .chain(tpot)
            .chain(e2e)
            .map(|(name, limit)| {
                let ms = limit.std().as_secs_f64() * 1000.0;
                format!("{name} ≤ {}\u{202f}ms", crate::numbers::tick(ms))
            })
            .collect();
        (!parts.is_empty()).then(|| crate::numbers::listed(&parts))
    }
}
