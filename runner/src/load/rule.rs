//! How the tokens of an answer are to be counted, which depends on the server.

/// How a server says how many tokens an event brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The number of `choices[].token_ids` (vLLM and SGLang with `return_token_ids`).
    Ids,
    /// The rise of `timings.predicted_n` (llama.cpp with `timings_per_token`).
    Timings,
    /// The rise of `usage.completion_tokens` (`stream_options.continuous_usage_stats`).
    ContinuousUsage,
    /// `usage.completion_tokens` of the last event alone: only the total is known, and gaps are those of events.
    FinalUsage,
}

impl Rule {
    /// The field that is read.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Ids => "choices[].token_ids",
            Self::Timings => "timings.predicted_n",
            Self::ContinuousUsage => "usage.completion_tokens of each event",
            Self::FinalUsage => "usage.completion_tokens",
        }
    }

    /// Whether it tells of each event how many tokens it brought, so that gaps between events are gaps between tokens.
    #[must_use]
    pub const fn tells_each_event(self) -> bool {
        !matches!(self, Self::FinalUsage)
    }
}
