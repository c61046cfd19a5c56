//! `design.search`: the highest load at which the objectives hold, in place of levels of the load. Each trial searches it
//! inside one start of its engine (`inferbench_runner::trial::bracket`); here is what a user may ask for.
//!
//! It stands beside the factors and not among the levels of one: an API server's schema knows no choice between a list
//! and an object, and the load of such a design has no level.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{level::Number, limits, patterns};

/// A search for the highest load at which the objectives hold.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Search {
    /// The load that is searched.
    pub factor: Searched,
    /// The lowest load that is tried.
    #[schemars(range(min = 0.001, max = limits::REQUEST_RATE))]
    pub from: Number,
    /// The highest load that is tried.
    #[schemars(range(min = 0.001, max = limits::REQUEST_RATE))]
    pub to: Number,
    /// How much higher than a load that holds one that does not hold may be, as a share: `10%`. Of a concurrency, they
    /// need not be nearer than neighbours.
    #[serde(default = "default_within")]
    #[schemars(length(max = 8), regex(pattern = patterns::PERCENT))]
    pub within: String,
    /// The share of requests that have to keep to every objective for a load to hold.
    #[serde(default = "default_share")]
    #[schemars(length(max = 8), regex(pattern = patterns::PERCENT))]
    pub share: String,
}

/// A load that can be searched.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub enum Searched {
    /// Requests a second.
    #[default]
    RequestRate,
    /// Requests in flight.
    Concurrency,
}

impl Searched {
    /// The name of the factor.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RequestRate => "requestRate",
            Self::Concurrency => "concurrency",
        }
    }

    /// The highest load of this kind.
    #[must_use]
    pub const fn most(self) -> u32 {
        match self {
            Self::RequestRate => limits::REQUEST_RATE,
            Self::Concurrency => limits::CONCURRENCY,
        }
    }
}

impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Search {
    /// `within` as a share: 0.1 for `10%`.
    #[must_use]
    pub fn within(&self) -> f64 {
        patterns::share(&self.within).unwrap_or(0.1)
    }

    /// `share` as a share: 0.99 for `99%`.
    #[must_use]
    pub fn share(&self) -> f64 {
        patterns::share(&self.share).unwrap_or(0.99)
    }

    /// Whether loads are whole numbers.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.factor == Searched::Concurrency
    }

    /// The requests that a server is to take at once for it.
    #[must_use]
    pub fn requests_at_once(&self) -> u32 {
        match self.factor {
            Searched::RequestRate => limits::OPEN_CONCURRENCY,
            Searched::Concurrency => self.to.get() as u32,
        }
    }

    /// The loads that are tested where no test contradicts another: `from`, doubled until one does not hold, halved by
    /// ratio until the ends are near enough, and both ends again.
    #[must_use]
    pub fn steps(&self) -> u32 {
        let (from, to, within) = (self.from.get(), self.to.get(), self.within());
        let doublings = (to / from).log2().ceil().max(0.0);
        let halvings = (std::f64::consts::LN_2 / within.ln_1p())
            .log2()
            .ceil()
            .max(0.0);
        (1.0 + doublings + halvings + 2.0) as u32
    }

    /// Reasons why it cannot be searched, by member; empty where it can.
    #[must_use]
    pub fn violations(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let most = self.factor.most();
        for (member, load) in [("from", self.from), ("to", self.to)] {
            let number = load.get();
            let fits = match self.factor {
                Searched::RequestRate => number > 0.0,
                Searched::Concurrency => number >= 1.0 && number.fract() == 0.0,
            };
            if !fits || number > f64::from(most) {
                let allowed = match self.factor {
                    Searched::RequestRate => format!("a request rate above 0 and at most {most}"),
                    Searched::Concurrency => format!("a whole number from 1 to {most}"),
                };
                found.push((member, format!("{load} is not {allowed}")));
            }
        }
        if found.is_empty() && self.from >= self.to {
            found.push((
                "to",
                format!("{} is not above from, {}", self.to, self.from),
            ));
        }
        found
    }
}

fn default_within() -> String {
    "10%".into()
}

fn default_share() -> String {
    "99%".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(text: &str) -> Search {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn shares_are_percentages_with_defaults() {
        let plain = search(r#"{"factor": "requestRate", "from": 1, "to": 128}"#);
        assert_eq!((plain.within(), plain.share()), (0.1, 0.99));
        let given = search(
            r#"{"factor": "concurrency", "from": 1, "to": 8, "within": "2.5%", "share": "100%"}"#,
        );
        assert_eq!((given.within(), given.share()), (0.025, 1.0));
        assert!(given.is_whole() && !plain.is_whole());
        // 1, 2, 4 … 128; 2, √2, 2^¼, 2^⅛ = 1.09; both ends again.
        assert_eq!(plain.steps(), 1 + 7 + 3 + 2);
    }

    #[test]
    fn what_cannot_be_searched_is_named() {
        let wrong = |text: &str| {
            let found = search(text).violations();
            let found = found.iter().map(|(member, why)| format!("{member}: {why}"));
            found.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(
            wrong(r#"{"factor": "requestRate", "from": 0.5, "to": 4}"#),
            ""
        );
        insta::assert_snapshot!(
            wrong(r#"{"factor": "requestRate", "from": 4, "to": 4}"#),
            @"to: 4 is not above from, 4"
        );
        insta::assert_snapshot!(
            wrong(r#"{"factor": "concurrency", "from": 0.5, "to": 9000000}"#),
            @r"
        from: 0.5 is not a whole number from 1 to 10000
        to: 9000000 is not a whole number from 1 to 10000
        "
        );
    }
}
