//! The scripts by their names: streams as servers write them, and all that may be wrong with one.

use std::time::Duration;

use super::{EACH, FIRST, PROMPT, Script, Step, Then};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";

/// The bytes of one chunk of a response.
fn chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// A step in the making, without its time.
fn step(after: Duration, bytes: Vec<u8>, tokens: u32) -> Step {
    Step {
        after,
        bytes,
        tokens,
    }
}

/// An event as vLLM writes it.
fn ids(ids: &str, text: &str, finish: &str) -> String {
    format!(
        "{{\"id\":\"cmpl-8e1c2f4ab2c94d6f8a3b\",\"object\":\"text_completion\",\"created\":1790000000,\"model\":\"steady\",\
         \"choices\":[{{\"index\":0,\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{finish},\"stop_reason\":null,\
         \"token_ids\":[{ids}],\"prompt_token_ids\":null}}],\"usage\":null}}"
    )
}

/// An event of llama.cpp, after `predicted` tokens.
fn llama(text: &str, predicted: u64, finish: &str) -> String {
    format!(
        "{{\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":{finish}}}],\
         \"object\":\"text_completion\",\"timings\":{{\"cache_n\":3,\"prompt_n\":4,\"predicted_n\":{predicted}}}}}"
    )
}

/// An event that says how many tokens there have been.
fn usage(text: &str, tokens: u64, finish: &str) -> String {
    format!(
        "{{\"object\":\"text_completion\",\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":{finish}}}],\
         \"usage\":{}}}",
        used(tokens)
    )
}

fn used(tokens: u64) -> String {
    format!(
        "{{\"prompt_tokens\":{PROMPT},\"completion_tokens\":{tokens},\"total_tokens\":{},\
         \"prompt_tokens_details\":{{\"cached_tokens\":2}}}}",
        PROMPT + tokens
    )
}

/// The last event of OpenAI's API, which has no choice.
fn total(tokens: u64) -> String {
    format!(
        "{{\"object\":\"text_completion\",\"choices\":[],\"usage\":{}}}",
        used(tokens)
    )
}

/// A stream in the making: events with their times, each in a chunk of its own.
struct Writer {
    steps: Vec<Step>,
    first: Duration,
    each: Duration,
    /// Between events.
    end: &'static str,
}

impl Writer {
    fn new() -> Self {
        Self {
            steps: vec![step(Duration::ZERO, HEAD.into(), 0)],
            first: FIRST,
            each: EACH,
            end: "\n\n",
        }
    }

    /// When token number `index` is due.
    fn at(&self, index: u64) -> Duration {
        self.first + self.each * index as u32
    }

    fn event(&mut self, index: u64, data: &str, tokens: u32) {
        let bytes = chunk(&format!("data: {data}{}", self.end));
        self.steps.push(step(self.at(index), bytes, tokens));
    }

    /// Bytes of the body, whatever they are.
    fn raw(&mut self, index: u64, bytes: &str, tokens: u32) {
        self.steps.push(step(self.at(index), chunk(bytes), tokens));
    }

    /// The usage, [DONE] and the end of the body, together with the last token.
    fn end(mut self, tokens: u64) -> Script {
        let index = tokens.saturating_sub(1);
        let last = format!(
            "data: {}{}data: [DONE]{}",
            total(tokens),
            self.end,
            self.end
        );
        let mut bytes = chunk(&last);
        bytes.extend_from_slice(b"0\r\n\r\n");
        self.steps.push(step(self.at(index), bytes, 0));
        self.then(Then::Stay)
    }

    fn then(self, then: Then) -> Script {
        Script {
            steps: self.steps,
            then,
        }
    }
}

/// The list of models, for which a client asks first.
pub(super) fn models() -> Script {
    let listed = ["steady", "refused", "error"]
        .map(|name| format!("{{\"id\":\"{name}\",\"object\":\"model\"}}"))
        .join(",");
    let body = format!("{{\"object\":\"list\",\"data\":[{listed}]}}");
    plain("200 OK", "application/json", &body)
}

/// A response that is no stream.
fn plain(status: &str, content_type: &str, body: &str) -> Script {
    let bytes = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    Script {
        steps: vec![step(Duration::ZERO, bytes.into(), 0)],
        then: Then::Stay,
    }
}

/// The script of a model's name: the plain ones (`steady`, `slow`) and the awkward.
#[must_use]
#[allow(clippy::too_many_lines)]
pub fn script(name: &str, tokens: u64) -> Script {
    let mut writer = Writer::new();
    let finish = |index: u64| {
        if index + 1 == tokens {
            "\"length\""
        } else {
            "null"
        }
    };
    let plain_ids = |writer: &mut Writer, until: u64| {
        for index in 0..until {
            writer.event(index, &ids("1234", " word", finish(index)), 1);
        }
    };
    match name {
        // As slow as makes a stream that is open and mostly idle.
        "slow" => {
            writer.each = Duration::from_secs(1);
            plain_ids(&mut writer, tokens);
            writer.end(tokens)
        }
        "usage" => {
            for index in 0..tokens {
                writer.event(index, &usage(" word", index + 1, finish(index)), 1);
            }
            writer.end(tokens)
        }
        // Only the total is told; every other event has two tokens.
        "final" => {
            for index in (0..tokens).step_by(2) {
                writer.event(
                    index,
                    &usage(" two words", 0, "null").replace(&used(0), "null"),
                    2,
                );
            }
            writer.end(tokens)
        }
        // Empty events first (`return_progress`), then bytes held back: every third token shows with the next one.
        "llama" => {
            writer.steps.push(step(
                Duration::from_millis(2),
                chunk(&format!("data: {}\n\n", llama("", 0, "null"))),
                0,
            ));
            writer.steps.push(step(
                Duration::from_millis(4),
                chunk(&format!("data: {}\n\n", llama("", 0, "null"))),
                0,
            ));
            let mut shown = 0;
            for index in 0..tokens {
                if index % 3 == 1 && index + 1 < tokens {
                    continue;
                }
                writer.event(
                    index,
                    &llama("é", index + 1, finish(index)),
                    (index + 1 - shown) as u32,
                );
                shown = index + 1;
            }
            writer.end(tokens)
        }
        // Several ids in an event.
        "speculative" => {
            for index in (0..tokens).step_by(4) {
                let count = (tokens - index).min(4);
                let list = vec!["7"; count as usize].join(",");
                writer.event(
                    index,
                    &ids(&list, " a b c d", finish(index + count - 1)),
                    count as u32,
                );
            }
            writer.end(tokens)
        }
        // Four events in a write, each of a token.
        "bundled" => {
            for index in (0..tokens).step_by(4) {
                let count = (tokens - index).min(4);
                let events: String = (0..count)
                    .map(|more| format!("data: {}\n\n", ids("1", " w", finish(index + more))))
                    .collect();
                writer.raw(index, &events, count as u32);
            }
            writer.end(tokens)
        }
        // Each event over three writes, a millisecond apart; the last brings no more than its second line feed.
        "cut" => {
            for index in 0..tokens {
                let event = format!("data: {}\n\n", ids("1", " w", finish(index)));
                let (half, last) = (event.len() / 2, event.len() - 1);
                for (part, piece) in [&event[..half], &event[half..last], &event[last..]]
                    .into_iter()
                    .enumerate()
                {
                    let after = writer.at(index) + Duration::from_millis(part as u64);
                    writer
                        .steps
                        .push(step(after, chunk(piece), u32::from(part == 2)));
                }
            }
            let mut script = writer.end(tokens);
            if let Some(last) = script.steps.last_mut() {
                last.after += Duration::from_millis(2);
            }
            script
        }
        "comments" => {
            for index in 0..tokens {
                writer.raw(
                    index,
                    &format!(
                        ": ping\n\nid: 3\ndata: {}\n: pong\n\n",
                        ids("1", " w", finish(index))
                    ),
                    1,
                );
            }
            writer.end(tokens)
        }
        "crlf" => {
            writer.end = "\r\n\r\n";
            plain_ids(&mut writer, tokens);
            writer.end(tokens)
        }
        // One byte each millisecond.
        "trickle" => {
            let event = chunk(&format!("data: {}\n\n", ids("1", " w", "\"length\"")));
            let last = event.len() - 1;
            for (index, byte) in event.into_iter().enumerate() {
                let after = FIRST + Duration::from_millis(index as u64);
                // The event is complete before the chunk is: its last two bytes are the chunk's.
                let token = u32::from(index == last - 2);
                writer.steps.push(step(after, vec![byte], token));
            }
            let after = FIRST + Duration::from_millis(last as u64 + 1);
            writer.steps.push(step(
                after,
                [chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat(),
                0,
            ));
            writer.then(Then::Stay)
        }
        "error" | "error-done" => {
            plain_ids(&mut writer, tokens / 2);
            let data = "{\"error\":{\"message\":\"EngineCore died\",\"type\":\"InternalServerError\",\"code\":500}}";
            writer.event(tokens / 2, data, 0);
            if name == "error-done" {
                writer.event(tokens / 2, "[DONE]", 0);
            }
            let after = writer.at(tokens / 2);
            writer.steps.push(step(after, b"0\r\n\r\n".to_vec(), 0));
            writer.then(Then::Stay)
        }
        "no-done" => {
            plain_ids(&mut writer, tokens);
            let after = writer.at(tokens);
            writer.steps.push(step(after, b"0\r\n\r\n".to_vec(), 0));
            writer.then(Then::Stay)
        }
        "early" => {
            plain_ids(&mut writer, tokens / 2);
            writer.then(Then::Close)
        }
        "reset" => {
            plain_ids(&mut writer, tokens / 2);
            // Else the reset would overtake the bytes.
            let after = writer.at(tokens / 2);
            writer.steps.push(step(after, Vec::new(), 0));
            writer.then(Then::Reset)
        }
        "malformed" => {
            plain_ids(&mut writer, 1);
            writer.event(1, "{\"choices\":[{\"text\":", 0);
            writer.end(tokens)
        }
        "uncounted" => {
            for index in 0..tokens {
                writer.event(index, "{\"choices\":[{\"index\":0,\"text\":\" w\"}]}", 0);
            }
            writer.end(tokens)
        }
        // The usage at the end says that there was one token more.
        "lying" => {
            plain_ids(&mut writer, tokens);
            let script = writer.end(tokens + 1);
            Script {
                then: Then::Stay,
                ..script
            }
        }
        "no-token" => writer.end(0),
        "refused" => plain(
            "503 Service Unavailable",
            "application/json",
            "{\"error\":\"Loading model\"}",
        ),
        "json" => plain(
            "200 OK",
            "application/json",
            "{\"choices\":[{\"text\":\"all at once\"}]}",
        ),
        "silent" => Script {
            steps: Vec::new(),
            then: Then::Hang,
        },
        "hanging" => {
            plain_ids(&mut writer, tokens / 2);
            writer.then(Then::Hang)
        }
        // [DONE], but no end of the body.
        "unended" => {
            plain_ids(&mut writer, tokens);
            writer.event(tokens - 1, "[DONE]", 0);
            writer.then(Then::Hang)
        }
        // Says so, and closes.
        "closing" => {
            plain_ids(&mut writer, tokens);
            let mut script = writer.end(tokens);
            script.steps[0].bytes = HEAD
                .replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")
                .into();
            script.then = Then::Close;
            script
        }
        // Closes without a word, as a server may between two requests.
        "leaving" => {
            plain_ids(&mut writer, tokens);
            let mut script = writer.end(tokens);
            script.then = Then::Close;
            script
        }
        _ => {
            plain_ids(&mut writer, tokens);
            writer.end(tokens)
        }
    }
}
