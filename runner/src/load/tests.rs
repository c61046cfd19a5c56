//! The client against a server whose every byte has a known time.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    timed::{self, Clock, Timed, Truth, script},
    window::Bounds,
    *,
};

const LIMIT: Duration = Duration::from_secs(20);
const TOKENS: u64 = 8;

fn target(server: &Timed, rule: Rule) -> Target {
    Target {
        url: format!("http://{}/v1/completions", server.address),
        headers: vec![("authorization".into(), "Bearer none".into())],
        roots: None,
        rule,
    }
}

fn body(model: &str, index: u64) -> Bytes {
    format!(
        "{{\"model\":\"{model}\",\"prompt\":[1,2,3],\"max_tokens\":{TOKENS},\"temperature\":0,\"stream\":true,\"user\":\"{index}\"}}"
    )
    .into()
}

fn never() -> bool {
    false
}

/// One request of a script, counted by a rule.
fn one(model: &str, rule: Rule) -> (Exchange, Truth) {
    with_limit(model, rule, LIMIT)
}

fn with_limit(model: &str, rule: Rule, limit: Duration) -> (Exchange, Truth) {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, rule), 1).unwrap();
    let mut batch = client
        .batch(vec![body(model, 0)], limit, &mut never)
        .unwrap();
    drop(client);
    let truth = server.stop().pop().unwrap();
    (batch.exchanges.pop().unwrap(), truth)
}

/// How far apart the two clocks may be read, in ns.
const APART: u64 = 1_000;

/// The events that came are those that were written, each token in the right place and never before its time.
fn compare(model: &str, exchange: &Exchange, truth: &Truth) {
    assert_eq!(exchange.error, None, "{model}");
    let script = script(model, TOKENS);
    let due: Vec<u64> = script
        .steps
        .iter()
        .zip(&truth.written)
        .flat_map(|(step, &at)| std::iter::repeat_n(at, step.tokens as usize))
        .collect();
    let clock = Clock::read();
    let seen: Vec<u64> = exchange
        .reply
        .token_ends()
        .map(|at| clock.nanos(at))
        .collect();
    assert_eq!(seen.len(), due.len(), "{model}");
    for (index, (seen, due)) in seen.iter().zip(&due).enumerate() {
        assert!(
            seen + APART >= *due,
            "{model}: token {index} came {} ns too early",
            due - seen
        );
    }
    // A token belongs to the event that it came with: it is never with a later write's.
    let writes: Vec<u64> = script
        .steps
        .iter()
        .filter(|step| step.tokens > 0)
        .map(|step| u64::from(step.tokens))
        .collect();
    let arrivals: u64 = exchange
        .reply
        .arrivals
        .iter()
        .map(|arrival| u64::from(arrival.tokens))
        .sum();
    assert_eq!(writes.iter().sum::<u64>(), arrivals, "{model}");
    assert!(exchange.intended <= exchange.sent.unwrap(), "{model}");
    assert!(
        exchange.sent.unwrap() <= exchange.reply.first().unwrap(),
        "{model}"
    );
    assert!(exchange.ended >= exchange.reply.last().unwrap(), "{model}");
}

#[test]
fn tokens_are_told_apart_however_they_come() {
    for model in [
        "steady",
        "speculative",
        "bundled",
        "cut",
        "comments",
        "crlf",
        "closing",
        "leaving",
        "unended",
    ] {
        let (exchange, truth) = one(model, Rule::Ids);
        compare(model, &exchange, &truth);
        assert_eq!(exchange.reply.output_tokens, TOKENS, "{model}");
        assert!(exchange.reply.proven);
        assert_eq!(
            exchange.reply.finish_reason.as_deref(),
            Some("length"),
            "{model}"
        );
    }
    let (exchange, truth) = one("trickle", Rule::Ids);
    compare("trickle", &exchange, &truth);
}

#[test]
fn an_event_over_several_reads_has_the_time_of_the_last() {
    let (exchange, truth) = one("cut", Rule::Ids);
    let clock = Clock::read();
    // The steps are a head and then three for each event, of which the third completes it.
    for (token, seen) in exchange.reply.token_ends().enumerate() {
        assert!(
            clock.nanos(seen) + APART >= truth.written[1 + 3 * token + 2],
            "token {token}"
        );
    }
}

#[test]
fn several_events_of_one_read_have_the_same_time_and_are_told_apart() {
    let (exchange, _) = one("bundled", Rule::Ids);
    let arrivals = &exchange.reply.arrivals;
    assert_eq!(arrivals.len(), 8);
    assert!(arrivals.iter().all(|arrival| arrival.tokens == 1));
    assert_eq!(arrivals[0].at, arrivals[3].at);
    assert!(arrivals[3].at <= arrivals[4].at);
}

#[test]
fn each_rule_counts_what_its_server_says() {
    let (exchange, truth) = one("usage", Rule::ContinuousUsage);
    compare("usage", &exchange, &truth);
    assert_eq!(exchange.reply.prompt_tokens, Some(timed::PROMPT));
    assert_eq!(exchange.reply.cached_tokens, Some(2));

    // Empty events come before the first token, and bytes are held back.
    let (exchange, truth) = one("llama", Rule::Timings);
    compare("llama", &exchange, &truth);
    let tokens: Vec<u32> = exchange
        .reply
        .arrivals
        .iter()
        .map(|arrival| arrival.tokens)
        .collect();
    assert_eq!(tokens, [1, 2, 1, 2, 1, 1]);

    let (exchange, truth) = one("final", Rule::FinalUsage);
    compare("final", &exchange, &truth);
    assert!(!exchange.reply.proven);
}

#[test]
fn every_failure_has_its_name() {
    let fails = |model: &str| {
        let (exchange, _) = one(model, Rule::Ids);
        exchange
            .error
            .unwrap_or_else(|| panic!("{model} did not fail"))
    };
    let server = RequestError::Server {
        message: "EngineCore died".into(),
    };
    assert_eq!(fails("error"), server);
    assert_eq!(fails("error-done"), server);
    assert_eq!(fails("no-done"), RequestError::NoDone { events: 8 });
    assert_eq!(fails("early"), RequestError::Closed { events: 4 });
    assert_eq!(fails("reset"), RequestError::Reset { events: 4 });
    assert!(matches!(
        fails("malformed"),
        RequestError::Malformed { event: 2, .. }
    ));
    assert_eq!(
        fails("uncounted"),
        RequestError::NotCounted {
            rule: Rule::Ids,
            events: 8
        }
    );
    assert_eq!(
        fails("lying"),
        RequestError::CountsDiffer {
            rule: Rule::Ids,
            counted: 8,
            told: 9
        }
    );
    assert_eq!(fails("no-token"), RequestError::NoToken { events: 1 });
    assert_eq!(
        fails("refused"),
        RequestError::Status {
            code: 503,
            body: "{\"error\":\"Loading model\"}".into()
        }
    );
    assert_eq!(
        fails("json"),
        RequestError::NotAStream {
            content_type: "application/json".into(),
            body: "{\"choices\":[{\"text\":\"all at once\"}]}".into()
        }
    );
}

#[test]
fn a_limit_ends_what_hangs() {
    let limit = Duration::from_millis(200);
    for model in ["silent", "hanging"] {
        let (exchange, _) = with_limit(model, Rule::Ids, limit);
        // Events that came until then are kept.
        let events = exchange.reply.events;
        assert_eq!(
            exchange.error,
            Some(RequestError::TimeOut { limit, events }),
            "{model}"
        );
        assert_eq!(exchange.reply.output_tokens, u64::from(events), "{model}");
        assert!(exchange.ended >= exchange.intended + limit, "{model}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let target = Target {
        url: format!("http://{address}/v1/completions"),
        headers: Vec::new(),
        roots: None,
        rule: Rule::Ids,
    };
    let error = Client::connect(&target, 3).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("{address} refuses connections: is the server running?")
    );
}

#[test]
fn a_target_that_cannot_be_is_told_what_is_allowed() {
    let target = |url: &str, headers: Vec<(String, String)>| Target {
        url: url.into(),
        headers,
        roots: None,
        rule: Rule::Ids,
    };
    let message = |target: Target| Client::connect(&target, 1).err().unwrap().to_string();
    for url in ["ftp://host/", "host:80", "http://"] {
        let message = message(target(url, Vec::new()));
        assert!(
            message.contains("allowed is http://host[:port]/path"),
            "{url}: {message}"
        );
    }
    let header = vec![("x-key".into(), "a\nb".into())];
    let message = message(target("http://127.0.0.1:1/", header));
    assert!(message.contains("header \"x-key\""), "{message}");
    let streams = Client::connect(&self::target(&Timed::start().unwrap(), Rule::Ids), 0)
        .err()
        .unwrap();
    assert!(
        streams.to_string().contains("allowed are 1 to"),
        "{streams}"
    );
}

#[test]
fn a_server_that_died_fails_every_request_of_a_batch() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 4).unwrap();
    drop(server);
    let error = client
        .batch(vec![body("steady", 0); 4], LIMIT, &mut never)
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Connect(RequestError::Refused { .. })),
        "{error}"
    );
}

#[test]
fn a_batch_leaves_at_once_and_its_connections_stay_warm() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 16).unwrap();
    for _ in 0..3 {
        let bodies = (0..16).map(|index| body("steady", index)).collect();
        let batch = client.batch(bodies, LIMIT, &mut never).unwrap();
        assert_eq!(batch.exchanges.len(), 16);
        for (index, exchange) in (0..).zip(&batch.exchanges) {
            assert_eq!((exchange.index, &exchange.error), (index, &None));
            assert_eq!(exchange.intended, batch.started);
            assert_eq!(exchange.reply.output_tokens, TOKENS);
        }
        assert_eq!(batch.lag.send.count, 16);
    }
    drop(client);
    assert_eq!(server.stop().len(), 48);
}

#[test]
fn a_connection_that_was_closed_between_requests_is_opened_anew() {
    for model in ["leaving", "closing"] {
        let server = Timed::start().unwrap();
        let mut client = Client::connect(&target(&server, Rule::Ids), 2).unwrap();
        let load = load(Arrivals::Closed { streams: 2 }, 6);
        let run = client
            .run(&load, &mut |index| body(model, index), &mut |_| false)
            .unwrap();
        assert_eq!(run.ending, LoadEnding::Complete);
        assert!(
            run.exchanges
                .iter()
                .all(|exchange| exchange.error.is_none()),
            "{model}: {run:?}"
        );
        assert!(run.connects >= 4, "{}", run.connects);
    }
}

fn load(arrivals: Arrivals, iterations: u64) -> RequestLoad {
    RequestLoad {
        arrivals,
        bounds: Bounds {
            warmup_requests: 2,
            warmup: Duration::from_millis(20),
            iterations,
            min_duration: Duration::from_millis(200),
            tokens_each: TOKENS,
        },
        limit: LIMIT,
        max_failures: 0,
    }
}

/// The properties of every run that is complete.
fn check(run: &Run) {
    assert_eq!(run.ending, LoadEnding::Complete);
    let window = run.window.unwrap();
    assert!(window.length() >= Duration::from_millis(200));
    for (index, exchange) in (0..).zip(&run.exchanges) {
        assert_eq!(exchange.index, index);
        assert!(exchange.error.is_none(), "{exchange:?}");
        assert_eq!(exchange.reply.output_tokens, TOKENS);
    }
    let inside = window.requests(&run.exchanges).count();
    assert!(inside >= 10, "{inside}");
    // The load goes on past the window.
    assert!(
        run.exchanges
            .iter()
            .any(|exchange| exchange.intended >= window.closed)
    );
    assert!(window.tokens(&run.exchanges) > 0);
    assert_eq!(run.lag.send.count, inside);
    assert!(run.lag.stamp.count > 0 && run.lag.cpu > Duration::ZERO);
}

#[test]
fn a_closed_loop_sends_the_next_when_the_last_has_ended() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 4).unwrap();
    let run = client
        .run(
            &load(Arrivals::Closed { streams: 4 }, 10),
            &mut |index| body("steady", index),
            &mut |_| false,
        )
        .unwrap();
    check(&run);
    assert_eq!(run.saturation, Saturation::DoesNotApply);
    for stream in 0..4 {
        let own: Vec<&Exchange> = run
            .exchanges
            .iter()
            .filter(|exchange| exchange.stream == stream)
            .collect();
        assert_eq!(own[0].intended, run.started);
        assert!(own.windows(2).all(|pair| pair[1].intended == pair[0].ended));
    }
    drop(client);
    // A closed loop has as many in flight as it has streams, at any time.
    let numbers: std::collections::BTreeSet<u64> =
        server.stop().iter().map(|truth| truth.request).collect();
    assert_eq!(numbers.len(), run.exchanges.len());
}

#[test]
fn an_open_loop_sends_at_its_own_times() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 2).unwrap();
    let arrivals = Arrivals::Open {
        per_second: 100.0,
        seed: 5,
        most: 1000,
    };
    let run = client
        .run(
            &load(arrivals, 20),
            &mut |index| body("steady", index),
            &mut |_| false,
        )
        .unwrap();
    check(&run);
    let times = arrivals::Poisson::new(100.0, 5);
    for (exchange, offset) in run.exchanges.iter().zip(times) {
        assert_eq!(exchange.intended, run.started + offset);
    }
    // 100 a second of 55 ms each are more than the two streams that were warm.
    assert!(run.connects > 0);
    assert_eq!(run.waited, 0);
}

#[test]
fn requests_above_the_most_in_flight_wait_and_are_measured_from_when_they_were_meant() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 1).unwrap();
    let arrivals = Arrivals::Open {
        per_second: 60.0,
        seed: 5,
        most: 1,
    };
    let run = client
        .run(
            &load(arrivals, 12),
            &mut |index| body("steady", index),
            &mut |_| false,
        )
        .unwrap();
    check(&run);
    assert!(run.waited > 0);
    // One after the other takes 55 ms each: three times as long as the mean gap, so the last has waited long.
    let window = run.window.unwrap();
    let longest = window
        .requests(&run.exchanges)
        .filter_map(Exchange::ttft)
        .max()
        .unwrap();
    assert!(longest > Duration::from_millis(100), "{longest:?}");
}

#[test]
fn a_run_stops_when_told_and_when_too_much_fails() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 2).unwrap();
    let endless = RequestLoad {
        bounds: Bounds {
            min_duration: Duration::from_secs(3600),
            ..load(Arrivals::Closed { streams: 2 }, 1).bounds
        },
        ..load(Arrivals::Closed { streams: 2 }, 1)
    };
    let mut asked = 0;
    let mut stop = || {
        asked += 1;
        asked > 4
    };
    let run = client
        .run(&endless, &mut |index| body("steady", index), &mut |_| {
            stop()
        })
        .unwrap();
    assert_eq!((run.ending, run.window), (LoadEnding::Stopped, None));
    // A request that was in flight says that it was cut, and has the events that it had.
    assert!(
        run.exchanges
            .iter()
            .any(|exchange| exchange.error == Some(RequestError::Cut))
    );
    assert!(run.exchanges.len() > 2);

    let run = client
        .run(&endless, &mut |index| body("refused", index), &mut |_| {
            false
        })
        .unwrap();
    assert_eq!((run.ending, run.window), (LoadEnding::Failures, None));
    // And it can be used again.
    let batch = client
        .batch(vec![body("steady", 0); 2], LIMIT, &mut never)
        .unwrap();
    assert!(
        batch
            .exchanges
            .iter()
            .all(|exchange| exchange.error.is_none())
    );
}

#[test]
fn a_hundred_streams_are_all_in_flight_at_once() {
    let server = Timed::start().unwrap();
    let mut client = Client::connect(&target(&server, Rule::Ids), 100).unwrap();
    let bodies = (0..100).map(|index| body("hanging", index)).collect();
    let limit = Duration::from_secs(1);
    let batch = client.batch(bodies, limit, &mut never).unwrap();
    drop(client);
    // None ended, and the server had all of them.
    assert_eq!(server.stop().len(), 100);
    let ends = batch.exchanges.iter().map(|exchange| &exchange.error);
    let time_outs = ends.filter(|error| matches!(error, Some(RequestError::TimeOut { .. })));
    assert_eq!(time_outs.count(), 100);
}

/// A certificate for `localhost` that signs itself, and its key; good for this test alone.
const CERTIFICATE: &[u8] = include_bytes!("fixtures/localhost.pem");
const KEY: &[u8] = include_bytes!("fixtures/localhost.key.pem");

/// Answers the requests of one connection over TLS, all of a script at once; says where.
fn encrypted(requests: usize) -> String {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, socket);
        for _ in 0..requests {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                let Ok(read @ 1..) = stream.read(&mut buffer) else {
                    return;
                };
                request.extend_from_slice(&buffer[..read]);
            }
            for step in script("steady", TOKENS).steps {
                stream.write_all(&step.bytes).unwrap();
            }
        }
    });
    format!("https://localhost:{port}/v1/completions")
}

#[test]
fn a_connection_can_be_encrypted() {
    let target = Target {
        url: encrypted(2),
        headers: Vec::new(),
        roots: Some(CERTIFICATE.to_vec()),
        rule: Rule::Ids,
    };
    let mut client = Client::connect(&target, 1).unwrap();
    for _ in 0..2 {
        let batch = client
            .batch(vec![body("steady", 0)], LIMIT, &mut never)
            .unwrap();
        let exchange = &batch.exchanges[0];
        assert_eq!(exchange.error, None);
        assert_eq!(exchange.reply.output_tokens, TOKENS);
        assert!(exchange.sent.unwrap() <= exchange.reply.first().unwrap());
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_named() {
    let target = Target {
        url: encrypted(1),
        headers: Vec::new(),
        roots: None,
        rule: Rule::Ids,
    };
    let error = Client::connect(&target, 1).err().unwrap().to_string();
    // A machine may trust nothing at all.
    assert!(error.contains("certificate"), "{error}");
    let nothing = Target {
        roots: Some(b"no certificate".to_vec()),
        ..target
    };
    let error = Client::connect(&nothing, 1).err().unwrap().to_string();
    assert_eq!(error, "no trusted certificates: none was found");
}
