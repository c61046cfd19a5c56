use std::time::Instant;

use inferbench_results::validity::remedy;

use super::*;
use crate::load::{Arrival, Reply, RequestError};

const WANTED: Wanted = Wanted {
    input: 100,
    output: 4,
    prefix_cache: false,
    texts: false,
};

fn exchange(change: impl FnOnce(&mut Exchange)) -> Exchange {
    let start = Instant::now();
    let arrivals = (1..=4).map(|token| Arrival {
        at: start + Duration::from_millis(20 * token),
        tokens: 1,
    });
    let mut exchange = Exchange {
        index: 0,
        stream: 0,
        intended: start,
        sent: Some(start),
        ended: start + Duration::from_millis(80),
        reply: Reply {
            arrivals: arrivals.collect(),
            output_tokens: 4,
            proven: true,
            prompt_tokens: Some(100),
            cached_tokens: Some(0),
            finish_reason: None,
            events: 4,
        },
        error: None,
    };
    change(&mut exchange);
    exchange
}

fn told(exchanges: &[Exchange], wanted: &Wanted) -> String {
    let all: Vec<&Exchange> = exchanges.iter().collect();
    objections(&all, wanted, Some(Counting::TokenIds), &Lag::default()).join("\n")
}

#[test]
fn requests_that_are_what_was_asked_for_pass() {
    let good: Vec<_> = (0..100).map(|_| exchange(|_| ())).collect();
    assert_eq!(told(&good, &WANTED), "");
    assert_eq!(told(&[], &WANTED), "");
}

#[test]
fn every_difference_is_told_with_its_figure() {
    let mut bad: Vec<_> = (0..8).map(|_| exchange(|_| ())).collect();
    bad.push(exchange(|one| one.reply.output_tokens = 3));
    bad.push(exchange(|one| {
        one.reply.prompt_tokens = Some(101);
        one.reply.cached_tokens = Some(64);
        one.reply.proven = false;
    }));
    bad.push(exchange(|one| {
        one.error = Some(RequestError::NoToken { events: 2 })
    }));
    let all = told(&bad, &WANTED);
    assert!(all.lines().all(|one| remedy(one).is_some()), "{all}");
    insta::assert_snapshot!(all);
    let meant = Wanted {
        prefix_cache: true,
        ..WANTED
    };
    assert!(!told(&bad, &meant).contains("prefix cache"));
}

#[test]
fn one_failure_in_a_hundred_is_let_pass() {
    let mut all: Vec<_> = (0..99).map(|_| exchange(|_| ())).collect();
    all.push(exchange(|one| {
        one.error = Some(RequestError::NoToken { events: 2 })
    }));
    assert_eq!(told(&all, &WANTED), "");
}

#[test]
fn batches_are_summed_up_by_their_worst() {
    let lag = |millis| {
        let mut lag = Lag::default();
        lag.send.p99 = Duration::from_millis(millis);
        lag.cpu = Duration::from_millis(10);
        lag.wall = Duration::from_millis(100);
        lag
    };
    let served = |millis| Served {
        started: Instant::now(),
        sequences: Vec::new(),
        ids: None,
        exchanges: vec![exchange(|one| one.reply.prompt_tokens = Some(99))],
        lag: Some(lag(millis)),
    };
    let mut batches = Batches::default();
    for millis in [1, 3, 2] {
        batches.add(&served(millis), &WANTED, Some(Counting::FinalUsage));
    }
    let asked = batches.finish().unwrap();
    assert_eq!(
        (asked.client.send_lag_p99_ms, asked.client.cpu_pct),
        (Some(3.0), Some(10.0))
    );
    // Said once.
    let lengths = asked
        .objections
        .iter()
        .filter(|one| one.contains("99 input tokens"));
    assert_eq!(lengths.count(), 1, "{:?}", asked.objections);
    assert_eq!(Batches::default().finish(), None);
}

#[test]
fn a_text_may_have_a_token_more_where_the_server_counts() {
    let texts = Wanted {
        texts: true,
        ..WANTED
    };
    let read = |tokens| exchange(|one| one.reply.prompt_tokens = Some(tokens));
    assert_eq!(told(&[read(98), read(102)], &texts), "");
    assert!(told(&[read(103)], &texts).contains("read 103 input tokens where 100"));
    assert!(told(&[read(101)], &WANTED).contains("read 101 input tokens where 100"));
    // Tokens that it writes are counted by one rule alone.
    let short = exchange(|one| one.reply.output_tokens = 3);
    assert!(told(&[short], &texts).contains("wrote 3 output tokens where 4"));
}

#[test]
fn a_servers_counters_speak_against_it() {
    let quiet = ServerMetrics {
        prefix_hit_pct: Some(1.0),
        ..ServerMetrics::default()
    };
    assert_eq!(objections_of(&quiet, &WANTED), Vec::<String>::new());
    let loud = ServerMetrics {
        prefix_hit_pct: Some(50.0),
        restarted: true,
        ..ServerMetrics::default()
    };
    let all = objections_of(&loud, &WANTED);
    assert!(all.iter().all(|one| remedy(one).is_some()), "{all:?}");
    insta::assert_snapshot!(all.join("\n"), @r"
    the server's counters have 50.0 % of the input tokens found in its prefix cache, which was to be off
    the server's metrics came from more than one process: it was restarted, or several answer at this address
    ");
    let meant = Wanted {
        prefix_cache: true,
        ..WANTED
    };
    assert_eq!(objections_of(&loud, &meant).len(), 1);
}
