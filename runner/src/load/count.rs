//! Tokens, counted in the events of a response. An event is not a token: schedulers, stream intervals and speculative
//! decoding put several into one, llama.cpp holds bytes back until they make up a character, and begins with events
//! that say only how far the prompt is. So a token is what the server's counts show, and never what has text.

use std::{fmt, time::Instant};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::{
    error::{RequestError, beginning},
    rule::Rule,
};

/// Tokens that arrived together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When the read that completed their event returned.
    pub at: Instant,
    /// How many.
    pub tokens: u32,
}

/// The content of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its tokens. Under [`Rule::FinalUsage`] the total is spread evenly over the events that have text.
    pub arrivals: Vec<Arrival>,
    /// Output tokens.
    pub output_tokens: u64,
    /// Whether the server gave the count of each event: only then are gaps those between tokens.
    pub proven: bool,
    /// Prompt tokens that the server says it was given.
    pub prompt_tokens: Option<u64>,
    /// Of these, the tokens that its cache held.
    pub cached_tokens: Option<u64>,
    /// Why it ended: `length`, `stop`, …
    pub finish_reason: Option<String>,
    /// Events, `[DONE]` left out.
    pub events: u32,
}

impl Reply {
    /// When the first token was here.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        self.arrivals.first().map(|arrival| arrival.at)
    }

    /// When the last token was here.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        self.arrivals.last().map(|arrival| arrival.at)
    }

    /// When each token was here: tokens of one event at the same time.
    pub fn token_ends(&self) -> impl Iterator<Item = Instant> + '_ {
        self.arrivals
            .iter()
            .flat_map(|arrival| std::iter::repeat_n(arrival.at, arrival.tokens as usize))
    }
}

/// A count in progress.
#[derive(Clone, Debug)]
pub struct Counter {
    rule: Rule,
    reply: Reply,
    /// Events with text, and when they came where the rule needs them.
    text_events: u32,
    text_at: Vec<Instant>,
    /// The rule's field was there at least once.
    counted: bool,
    total_told: Option<u64>,
    done: bool,
    failure: Option<RequestError>,
}

impl Counter {
    /// A count by `rule` that has seen nothing.
    #[must_use]
    pub const fn new(rule: Rule) -> Self {
        Self {
            rule,
            reply: Reply {
                arrivals: Vec::new(),
                output_tokens: 0,
                proven: rule.tells_each_event(),
                prompt_tokens: None,
                cached_tokens: None,
                finish_reason: None,
                events: 0,
            },
            text_events: 0,
            text_at: Vec::new(),
            counted: false,
            total_told: None,
            done: false,
            failure: None,
        }
    }

    /// Events so far.
    #[must_use]
    pub const fn events(&self) -> u32 {
        self.reply.events
    }

    /// Counts one event; `is_error` where it calls itself one.
    pub fn event(&mut self, data: &[u8], is_error: bool, at: Instant) {
        if self.done {
            return;
        }
        if data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return;
        }
        self.reply.events += 1;
        let event: StreamEvent = match serde_json::from_slice(data) {
            Ok(event) => event,
            Err(_) if is_error => {
                return self.fail(RequestError::Server {
                    message: beginning(data),
                });
            }
            Err(error) => {
                return self.fail(RequestError::Malformed {
                    event: self.reply.events,
                    reason: error.to_string(),
                    data: beginning(data),
                });
            }
        };
        if is_error || event.error.is_some() || event.object.as_deref() == Some("error") {
            // The words alone where they can be found, else all of it.
            let message = event.error.and_then(message_of).or(event.message);
            return self.fail(RequestError::Server {
                message: message.unwrap_or_else(|| beginning(data)),
            });
        }
        self.count(&event, at);
    }

    /// The reply, once nothing more comes; `rest` is the end of the stream that no blank line ended.
    #[must_use]
    pub fn finish(mut self, rest: &[u8]) -> (Reply, Option<RequestError>) {
        let done = self.done || rest.trim_ascii() == b"[DONE]";
        if self.rule == Rule::FinalUsage {
            self.spread();
        }
        let counted = self.reply.output_tokens;
        let error = if self.failure.is_some() {
            self.failure
        } else if !done {
            Some(RequestError::NoDone {
                events: self.reply.events,
            })
        } else if !self.counted && self.text_events > 0 {
            Some(RequestError::NotCounted {
                rule: self.rule,
                events: self.text_events,
            })
        } else if counted == 0 {
            Some(RequestError::NoToken {
                events: self.reply.events,
            })
        } else {
            self.total_told
                .filter(|&told| told != counted)
                .map(|told| RequestError::CountsDiffer {
                    rule: self.rule,
                    counted,
                    told,
                })
        };
        (self.reply, error)
    }

    fn fail(&mut self, error: RequestError) {
        self.failure.get_or_insert(error);
    }

    fn count(&mut self, event: &StreamEvent, at: Instant) {
        let choices = event.choices.as_deref().unwrap_or_default();
        if choices.iter().any(|choice| choice.text.0) {
            self.text_events += 1;
            if self.rule == Rule::FinalUsage {
                self.text_at.push(at);
            }
        }
        let reply = &mut self.reply;
        for choice in choices {
            if let Some(Count(prompt)) = choice.prompt_token_ids {
                reply.prompt_tokens = Some(prompt);
            }
            if let Some(reason) = &choice.finish_reason {
                reply.finish_reason = Some(reason.clone());
            }
        }
        let ids = choices.iter().filter_map(|choice| choice.token_ids);
        let told = match self.rule {
            Rule::Ids => ids
                .map(|Count(ids)| ids)
                .reduce(|a, b| a + b)
                .map(|new| reply.output_tokens + new),
            Rule::Timings => event
                .timings
                .as_ref()
                .and_then(|timings| timings.predicted_n),
            Rule::ContinuousUsage => event
                .usage
                .as_ref()
                .and_then(|usage| usage.completion_tokens),
            Rule::FinalUsage => None,
        };
        if let Some(told) = told {
            self.counted = true;
            match told.checked_sub(reply.output_tokens) {
                Some(0) => {}
                Some(new) => {
                    reply.arrivals.push(Arrival {
                        at,
                        tokens: u32::try_from(new).unwrap_or(u32::MAX),
                    });
                    reply.output_tokens = told;
                }
                None => {
                    let (event, before) = (reply.events, reply.output_tokens);
                    return self.fail(RequestError::Malformed {
                        event,
                        reason: format!("{} fell from {before} to {told}", self.rule.field()),
                        data: String::new(),
                    });
                }
            }
        }
        if let Some(usage) = &event.usage {
            self.total_told = usage.completion_tokens.or(self.total_told);
            reply.prompt_tokens = usage.prompt_tokens.or(reply.prompt_tokens);
            let cached = usage
                .prompt_tokens_details
                .as_ref()
                .and_then(|details| details.cached_tokens);
            reply.cached_tokens = cached.or(reply.cached_tokens);
        }
        if let Some(timings) = &event.timings {
            reply.cached_tokens = timings.cache_n.or(reply.cached_tokens);
            if let (None, Some(prompt)) = (&event.usage, timings.prompt_n) {
                // Tokens that the cache held are not in `prompt_n`.
                reply.prompt_tokens = Some(prompt + timings.cache_n.unwrap_or(0));
            }
        }
    }

    /// Spreads the total over the events that have text: cumulatively rounded down, so that the last event ends it.
    fn spread(&mut self) {
        let Some(total) = self.total_told else { return };
        self.counted = true;
        let events = self.text_at.len() as u64;
        let mut before = 0;
        for (at, event) in self.text_at.iter().zip(1..) {
            let until = total * event / events;
            // The first event has a token, whatever the rounding says.
            let until = until.max(total.min(1));
            if until > before {
                self.reply.arrivals.push(Arrival {
                    at: *at,
                    tokens: u32::try_from(until - before).unwrap_or(u32::MAX),
                });
            }
            before = until;
        }
        self.reply.output_tokens = before;
    }
}

/// The fields of an event that count.
#[derive(Deserialize)]
struct StreamEvent {
    error: Option<serde_json::Value>,
    object: Option<String>,
    message: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    timings: Option<Timings>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    text: HasText,
    token_ids: Option<Count>,
    prompt_token_ids: Option<Count>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    predicted_n: Option<u64>,
    prompt_n: Option<u64>,
    cache_n: Option<u64>,
}

/// How many elements a list has; they themselves are not kept.
#[derive(Clone, Copy)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Count;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of token ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
                let mut count = 0;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Count(count))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Whether a text is not empty; it is not kept.
#[derive(Clone, Copy, Default)]
struct HasText(bool);

impl<'de> Deserialize<'de> for HasText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = HasText;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<HasText, E> {
                Ok(HasText(!text.is_empty()))
            }

            fn visit_unit<E>(self) -> Result<HasText, E> {
                Ok(HasText(false))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// The words of an error: `{"message": …}`, or a text.
fn message_of(error: serde_json::Value) -> Option<String> {
    match error {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Object(mut fields) => match fields.remove("message") {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
