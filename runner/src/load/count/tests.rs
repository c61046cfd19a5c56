use std::time::Duration;

use proptest::prelude::*;

use super::{super::events::Splitter, *};

/// Counts events that come 1 ms apart.
fn count(rule: Rule, events: &[&str]) -> (Reply, Option<RequestError>, Instant) {
    let base = Instant::now();
    let mut counter = Counter::new(rule);
    for (event, ms) in events.iter().zip(1..) {
        counter.event(event.as_bytes(), false, base + Duration::from_millis(ms));
    }
    let (reply, error) = counter.finish(b"");
    (reply, error, base)
}

/// The events with tokens, by their number from 1, and how many.
fn arrivals((reply, _, base): &(Reply, Option<RequestError>, Instant)) -> Vec<(u128, u32)> {
    let arrivals = reply.arrivals.iter();
    arrivals
        .map(|one| (one.at.duration_since(*base).as_millis(), one.tokens))
        .collect()
}

const DONE: &str = "[DONE]";

/// As vLLM 0.25 writes them, with `return_token_ids` and `include_usage`.
#[test]
fn ids_are_counted_event_by_event() {
    let counted = count(
        Rule::Ids,
        &[
            r#"{"id":"c","choices":[{"index":0,"text":"a","token_ids":[5],"prompt_token_ids":[1,2,3]}],"usage":null}"#,
            r#"{"id":"c","choices":[{"index":0,"text":"","token_ids":[6],"prompt_token_ids":null}]}"#,
            r#"{"id":"c","choices":[{"index":0,"text":"bc","token_ids":[7,8],"finish_reason":"length"}]}"#,
            r#"{"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":null}}"#,
            DONE,
        ],
    );
    assert_eq!(arrivals(&counted), [(1, 1), (2, 1), (3, 2)]);
    let (reply, error, base) = counted;
    assert_eq!(error, None);
    assert_eq!(
        (
            reply.output_tokens,
            reply.prompt_tokens,
            reply.cached_tokens
        ),
        (4, Some(3), None)
    );
    assert_eq!(
        (reply.finish_reason.as_deref(), reply.events, reply.proven),
        (Some("length"), 4, true)
    );
    let ends: Vec<_> = reply
        .token_ends()
        .map(|at| at.duration_since(base).as_millis())
        .collect();
    assert_eq!(ends, [1, 2, 3, 3]);
}

/// 57 events for 64 tokens, after two that only say how far the prompt is: neither an early nor a missing token.
#[test]
fn bytes_that_llama_cpp_holds_back_are_no_tokens_and_none_is_lost() {
    let progress = r#"{"choices":[{"text":"","index":0,"finish_reason":null}],"prompt_progress":{"total":9,"processed":4},"timings":{"predicted_n":0,"prompt_n":4,"cache_n":0}}"#;
    let mut events = vec![progress.to_owned(), progress.to_owned()];
    let mut predicted = 0;
    for event in 0..57 {
        predicted += if event % 8 == 7 { 2 } else { 1 };
        events.push(format!(
            r#"{{"choices":[{{"text":"x","index":0,"finish_reason":null}}],"timings":{{"predicted_n":{predicted},"prompt_n":6,"cache_n":3}}}}"#
        ));
    }
    events.push(
        r#"{"choices":[{"text":"","index":0,"finish_reason":"length"}],"usage":{"completion_tokens":64,"prompt_tokens":9},"timings":{"predicted_n":64,"prompt_n":6,"cache_n":3}}"#.into(),
    );
    events.push(DONE.into());
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let counted = count(Rule::Timings, &events);
    assert_eq!(counted.1, None);
    assert_eq!(counted.0.output_tokens, 64);
    assert_eq!(
        (counted.0.prompt_tokens, counted.0.cached_tokens),
        (Some(9), Some(3))
    );
    let arrivals = arrivals(&counted);
    assert_eq!(arrivals.len(), 57);
    assert_eq!(arrivals[0], (3, 1));
    assert_eq!(arrivals[7], (10, 2));
}

#[test]
fn continuous_usage_counts_what_it_rises_by() {
    let event = |tokens: u64| {
        format!(
            r#"{{"choices":[{{"text":"x"}}],"usage":{{"prompt_tokens":2,"completion_tokens":{tokens}}}}}"#
        )
    };
    let events = [event(0), event(1), event(4), event(4), event(5)];
    let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
    events.push(DONE);
    let counted = count(Rule::ContinuousUsage, &events);
    assert_eq!(
        (counted.1.clone(), arrivals(&counted)),
        (None, vec![(2, 1), (3, 3), (5, 1)])
    );
    let counted = count(Rule::ContinuousUsage, &[&event(3), &event(2), DONE]);
    let message = counted.1.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("fell from 3 to 2"), "{message}");
}

#[test]
fn a_final_usage_is_spread_over_the_events_with_text_and_proves_no_gaps() {
    let text = r#"{"choices":[{"text":"x"}]}"#;
    let empty = r#"{"choices":[{"text":""}]}"#;
    let usage = r#"{"choices":[{"text":""}],"usage":{"prompt_tokens":2,"completion_tokens":7}}"#;
    let counted = count(
        Rule::FinalUsage,
        &[empty, text, text, empty, text, usage, DONE],
    );
    assert_eq!(counted.1, None);
    assert_eq!(arrivals(&counted), [(2, 2), (3, 2), (5, 3)]);
    assert!(!counted.0.proven);
    // More events than tokens: the first still is the first.
    let one = r#"{"choices":[],"usage":{"completion_tokens":1}}"#;
    assert_eq!(
        arrivals(&count(Rule::FinalUsage, &[text, text, text, one, DONE])),
        [(1, 1)]
    );
    // No usage at all.
    let (_, error, _) = count(Rule::FinalUsage, &[text, DONE]);
    assert!(
        matches!(error, Some(RequestError::NotCounted { events: 1, .. })),
        "{error:?}"
    );
}

#[test]
fn a_server_says_that_it_failed_in_many_ways() {
    for event in [
        r#"{"error":{"message":"no memory","type":"x","code":500}}"#,
        r#"{"error":"no memory"}"#,
        r#"{"object":"error","message":"no memory","code":500}"#,
    ] {
        let (_, error, _) = count(Rule::Ids, &[event, DONE]);
        assert_eq!(
            error,
            Some(RequestError::Server {
                message: "no memory".into()
            }),
            "{event}"
        );
    }
    let mut counter = Counter::new(Rule::Ids);
    counter.event(b"no memory", true, Instant::now());
    assert_eq!(
        counter.finish(b"").1,
        Some(RequestError::Server {
            message: "no memory".into()
        })
    );
    // Without words, all of it is quoted.
    let (_, error, _) = count(Rule::Ids, &[r#"{"error":{"code":500}}"#]);
    assert_eq!(
        error,
        Some(RequestError::Server {
            message: r#"{"error":{"code":500}}"#.into()
        })
    );
}

#[test]
fn what_is_no_event_of_the_api_is_malformed() {
    for event in [
        "{",
        "[]",
        "hello",
        r#"{"choices":7}"#,
        r#"{"choices":[{"text":3}]}"#,
        r#"{"choices":[{"token_ids":3}]}"#,
    ] {
        let (_, error, _) = count(Rule::Ids, &[event, DONE]);
        assert!(
            matches!(error, Some(RequestError::Malformed { event: 1, .. })),
            "{event}: {error:?}"
        );
    }
}

#[test]
fn done_counts_with_spaces_and_without_its_blank_line() {
    let event = r#"{"choices":[{"text":"x","token_ids":[1]}]}"#;
    assert_eq!(count(Rule::Ids, &[event, " [DONE] "]).1, None);
    let mut counter = Counter::new(Rule::Ids);
    counter.event(event.as_bytes(), false, Instant::now());
    assert_eq!(counter.clone().finish(b"[DONE]").1, None);
    assert_eq!(
        counter.finish(b"").1,
        Some(RequestError::NoDone { events: 1 })
    );
    // An event that comes after it is not read.
    assert_eq!(count(Rule::Ids, &[event, DONE, "{"]).1, None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However tokens are laid into events, every rule that tells each event counts the same, and no event without
    /// tokens makes one, whatever text it has.
    #[test]
    fn rules_agree(events in proptest::collection::vec((0_u64..5, any::<bool>()), 1..40)) {
        let total: u64 = events.iter().map(|event| event.0).sum();
        prop_assume!(total > 0);
        let mut told = 0;
        let lines: Vec<String> = events.iter().map(|&(tokens, text)| {
            told += tokens;
            let ids = vec!["9"; tokens as usize].join(",");
            let text = if text { "token_ids\\\":[1,2]" } else { "" };
            format!(r#"{{"choices":[{{"text":"{text}","token_ids":[{ids}]}}],"usage":{{"completion_tokens":{told}}},"timings":{{"predicted_n":{told}}}}}"#)
        }).collect();
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.push(DONE);
        let expected: Vec<(u128, u32)> = (1..).zip(&events).filter(|(_, event)| event.0 > 0)
            .map(|(ms, event)| (ms, event.0 as u32)).collect();
        for rule in [Rule::Ids, Rule::Timings, Rule::ContinuousUsage] {
            let counted = count(rule, &lines);
            prop_assert_eq!(&counted.1, &None);
            prop_assert_eq!(&arrivals(&counted), &expected);
        }
        let counted = count(Rule::FinalUsage, &lines);
        let sum: u64 = counted.0.arrivals.iter().map(|one| u64::from(one.tokens)).sum();
        let texts = events.iter().filter(|event| event.1).count();
        prop_assert_eq!(sum, if texts == 0 { 0 } else { total });
        prop_assert!(counted.0.arrivals.len() <= texts);
    }

    /// Nothing that a server can send makes it panic.
    #[test]
    fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for rule in [Rule::Ids, Rule::Timings, Rule::ContinuousUsage, Rule::FinalUsage] {
            let mut splitter = Splitter::default();
            let mut counter = Counter::new(rule);
            splitter.push(&bytes, |event| counter.event(event.data, event.error, Instant::now()));
            let (_, error) = counter.finish(splitter.rest());
            prop_assert!(error.is_some());
        }
    }
}
