//! `design.until`: a combination runs no further once a metric of it is known well enough. Which combinations that are,
//! `inferbench_results::looks` decides from records; here is what a user may ask for.
//!
//! It stands beside `replicates`, which stays the number that everything is bounded by: an API server's schema knows no
//! choice between a number and an object, and what it does not know the type of, its rules can neither count (at most
//! 50,000 trials) nor keep from being changed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{limits, patterns};

/// The metrics that can be asked for: times, rates and energies, which are above 0 in every trial that has them and
/// depend on nothing but its record. The names are those of the results, which a test there holds these to.
pub const METRICS: [&str; 17] = [
    "outputThroughput",
    "decodeThroughput",
    "prefillThroughput",
    "outputThroughputPerGpu",
    "requestThroughput",
    "ttftMs",
    "ttltMs",
    "tpotMs",
    "medianItlMs",
    "p90ItlMs",
    "p50TtftMs",
    "p99TtftMs",
    "p99TpotMs",
    "p99E2eMs",
    "normalizedLatencyMs",
    "gpuPowerMeanW",
    "joulesPerOutputToken",
];

/// When a combination has been measured often enough.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Until {
    /// The metric whose mean over the replicates is to be known.
    #[schemars(extend("enum" = METRICS))]
    pub metric: String,
    /// The half width of its interval that is narrow enough, as a share of the mean: `3%`.
    #[schemars(length(max = 8), regex(pattern = patterns::PERCENT))]
    pub half_width: String,
    /// The percentage of intervals that are to hold the truth, however often they were looked at.
    #[serde(default = "default_confidence")]
    #[schemars(range(min = 50, max = 99.9))]
    pub confidence: f64,
    /// Replicates before the first look; `replicates` is the most.
    #[serde(default = "default_min")]
    #[schemars(range(min = 2, max = limits::REPLICATES))]
    pub min: i32,
}

impl Until {
    /// The half width as a share: 0.03 for `3%`. None where it is no percentage, which validation reports.
    #[must_use]
    pub fn half_width_share(&self) -> Option<f64> {
        patterns::share(&self.half_width)
    }
}

fn default_confidence() -> f64 {
    95.0
}

fn default_min() -> i32 {
    3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_width_is_a_percentage() {
        let share = |half_width: &str| {
            let until = Until {
                metric: "ttftMs".into(),
                half_width: half_width.into(),
                confidence: 95.0,
                min: 3,
            };
            until.half_width_share()
        };
        assert_eq!(share("3%"), Some(0.03));
        assert_eq!(share("0.5%"), Some(0.005));
        assert_eq!(share("100%"), Some(1.0));
        for none in ["", "3", "0%", "101%", "x%", "-1%"] {
            assert_eq!(share(none), None, "{none}");
        }
    }
}
