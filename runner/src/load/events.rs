//! Server-sent events, told apart in a stream of bytes as the HTML standard has it (section 9.2.6): lines end with LF,
//! CR LF or CR; a line that begins with a colon is a comment; the data lines of an event are joined with LF; a blank
//! line ends it. How the bytes were cut on their way changes nothing.

/// The event that a blank line has just ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its data lines, joined.
    pub data: &'a [u8],
    /// Whether it calls itself an error: `event: error`, or the field `error:` with which older builds of llama.cpp
    /// say what went wrong.
    pub error: bool,
    /// How many bytes of the stream had been read when it ended.
    pub end: u64,
}

/// A splitter of bytes into events.
#[derive(Clone, Debug, Default)]
pub struct Splitter {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    error: bool,
    /// The line before ended with CR: an LF that follows belongs to it.
    after_cr: bool,
    /// A line has been read: a byte order mark can no longer come.
    begun: bool,
    read: u64,
}

impl Splitter {
    /// Reads on, and hands over each event that ends in `bytes`.
    pub fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Event<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.after_cr && rest[0] == b'\n' {
                rest = &rest[1..];
                self.read += 1;
            }
            self.after_cr = false;
            let Some(length) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(rest);
                self.read += rest.len() as u64;
                return;
            };
            self.after_cr = rest[length] == b'\r';
            self.read += length as u64 + 1;
            if self.line.is_empty() {
                // The usual case: the line lies in one piece and is not copied twice.
                self.end_line(&rest[..length], &mut sink);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&rest[..length]);
                self.end_line(&line, &mut sink);
                line.clear();
                self.line = line;
            }
            rest = &rest[length + 1..];
        }
    }

    /// The data of an event that the end of the stream cut off before its blank line. The standard drops it; it can be
    /// a `[DONE]` that a server did not finish.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        if self.line.is_empty() {
            &self.data
        } else {
            field(&self.line).map_or(&[], |(_, value)| value)
        }
    }

    fn end_line(&mut self, line: &[u8], sink: &mut impl FnMut(Event<'_>)) {
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if !self.begun => rest,
            _ => line,
        };
        self.begun = true;
        if line.is_empty() {
            if self.has_data {
                sink(Event {
                    data: &self.data,
                    error: self.error,
                    end: self.read,
                });
            }
            self.data.clear();
            self.has_data = false;
            self.error = false;
            return;
        }
        match field(line) {
            Some((name @ (b"data" | b"error"), value)) => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
                self.error |= name == b"error";
            }
            Some((b"event", b"error")) => self.error = true,
            // Comments, `id`, `retry` and whatever else: nothing that is counted.
            _ => {}
        }
    }
}

/// Name and value of a line; none of a comment.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    match line.iter().position(|&byte| byte == b':') {
        Some(0) => None,
        Some(colon) => {
            let value = &line[colon + 1..];
            Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)))
        }
        None => Some((line, b"")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<(String, bool, u64)> {
        let mut splitter = Splitter::default();
        let mut events = Vec::new();
        for piece in pieces {
            splitter.push(piece, |event| {
                events.push((
                    String::from_utf8_lossy(event.data).into_owned(),
                    event.error,
                    event.end,
                ));
            });
        }
        events
    }

    fn texts(stream: &str) -> Vec<String> {
        split(&[stream.as_bytes()])
            .into_iter()
            .map(|event| event.0)
            .collect()
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("data: one{end}{end}data: [DONE]{end}{end}");
            assert_eq!(texts(&stream), ["one", "[DONE]"], "{end:?}");
        }
    }

    #[test]
    fn comments_and_other_fields_are_no_events() {
        assert_eq!(
            texts(": ping\n\nid: 7\nretry: 10\n\n:\n\ndata: x\nid: 8\n: between\n\n"),
            ["x"]
        );
    }

    #[test]
    fn data_lines_are_joined_and_lose_one_space() {
        assert_eq!(texts("data:a\ndata:  b\ndata\n\n"), ["a\n b\n"]);
        assert_eq!(texts("data:\n\n"), [""]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_only_at_the_beginning() {
        assert_eq!(texts("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
    }

    #[test]
    fn errors_are_told_by_event_or_by_field() {
        let events = split(&[b"event: error\ndata: a\n\nerror: {}\n\ndata: b\n\n"]);
        let told: Vec<_> = events.iter().map(|event| event.1).collect();
        assert_eq!(told, [true, true, false]);
        assert_eq!(events[1].0, "{}");
    }

    #[test]
    fn what_no_blank_line_ended_is_a_rest() {
        for stream in ["data: a\n\ndata: [DONE]", "data: a\n\ndata: [DONE]\n"] {
            let mut splitter = Splitter::default();
            let mut count = 0;
            splitter.push(stream.as_bytes(), |_| count += 1);
            assert_eq!((count, splitter.rest()), (1, &b"[DONE]"[..]), "{stream:?}");
        }
        assert_eq!(Splitter::default().rest(), b"");
    }

    #[test]
    fn the_end_counts_the_bytes_up_to_the_blank_line() {
        assert_eq!(
            split(&[b"data: a\n\n", b"data: b\n", b"\n"])
                .iter()
                .map(|event| event.2)
                .collect::<Vec<_>>(),
            [9, 18]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn cuts_change_nothing(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("data"), Just(":"), Just(" "), Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n"), Just("x"),
                    Just("event: error"), Just("error: y"), Just("data: {\"a\":1}"), Just("é"), Just("\u{feff}"),
                ],
                0..40,
            ),
            cuts in proptest::collection::vec(0_usize..200, 0..12),
        ) {
            let stream = parts.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            let whole = split(&[&stream]);
            prop_assert_eq!(&split(&pieces), &whole);
            prop_assert_eq!(&split(&bytes), &whole);
        }
    }
}
