//! How exactly the load client measures: against a server, in a process of its own, that keeps when it really wrote
//! each byte (first token 20 ms after the request, then one every 5 ms).
//!
//! Closed loops of 1, 64, 256 and 1,000 streams, or of those that the second argument lists, with 32 tokens a request;
//! as many rounds as the first argument says (3). Each figure is the median over the rounds, and the best of them.
//! Errors are the client's figure less the server's: TTFT from when a request was meant to leave, against the time from
//! its receipt to the write of the first token.
//!
//! `cargo run --release -p inferbench --example client_accuracy`
//!
//! `client_accuracy serve [ADDRESS]` is the server alone, for other clients: it serves until its standard input ends,
//! and then prints when it received each request and wrote each step of its response, in ns.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use inferbench_runner::load::{Arrivals, Client, RequestLoad, Rule, Run, Target, window::Bounds};

#[allow(dead_code)]
#[path = "../src/load/timed/mod.rs"]
mod timed;

use timed::{Clock, Truth, script, serve};

const TOKENS: u64 = 32;
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return Ok(serve_until_told(
            arguments.get(1).map_or("127.0.0.1:0", String::as_str),
        )?);
    }
    let rounds = arguments.first().map_or(Ok(3), |count| count.parse())?;
    let streams = arguments
        .get(1)
        .map_or("1,64,256,1000", String::as_str)
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<usize>, _>>()?;
    println!(
        "{:>7} {:>9} {:>17} {:>17} {:>15} {:>17} {:>17} {:>9} {:>13} {:>6}",
        "streams",
        "requests",
        "mean TTFT, ms",
        "p99 TTFT, ms",
        "ITL p50, %",
        "from 20 ms, ms",
        "stamp p99, ms",
        "in flight",
        "CPU, us/event",
        "CPU, %"
    );
    for streams in streams {
        let rows = (0..rounds)
            .map(|_| row(streams))
            .collect::<Result<Vec<_>, _>>()?;
        let figure = |of: fn(&Row) -> f64| both(rows.iter().map(of).collect());
        println!(
            "{streams:>7} {:>9} {:>17} {:>17} {:>15} {:>17} {:>17} {:>9} {:>13} {:>6.0}",
            rows.iter().map(|row| row.requests).sum::<usize>(),
            figure(|row| row.mean_ttft_ms),
            figure(|row| row.p99_ttft_ms),
            figure(|row| row.itl_pct),
            figure(|row| row.nominal_ms),
            figure(|row| row.stamp_p99_ms),
            rows.iter().map(|row| row.in_flight).min().unwrap_or(0),
            figure(|row| row.cpu_us),
            median(&mut rows.iter().map(|row| row.cpu_pct).collect::<Vec<_>>()),
        );
    }
    memory(10_000)
}

/// The server, until standard input ends.
fn serve_until_told(address: &str) -> std::io::Result<()> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    thread::spawn(|| {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        STOP.store(true, Relaxed);
    });
    let mut out = std::io::stdout().lock();
    for truth in serve(&listener, &STOP)? {
        write!(out, "{} {}", truth.request, truth.received)?;
        for at in truth.written {
            write!(out, " {at}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A server in another process.
struct Server {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    url: String,
}

impl Server {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut address = String::new();
        out.read_line(&mut address)?;
        Ok(Self {
            child,
            out,
            url: format!("http://{}/v1/completions", address.trim()),
        })
    }

    /// The truth by the number of the request.
    fn stop(mut self) -> Result<Vec<Truth>, Box<dyn Error>> {
        drop(self.child.stdin.take());
        let mut truths = Vec::new();
        for line in self.out.lines() {
            let line = line?;
            let numbers = line
                .split(' ')
                .map(str::parse)
                .collect::<Result<Vec<u64>, _>>()?;
            truths.push(Truth {
                request: numbers[0],
                received: numbers[1],
                written: numbers[2..].to_vec(),
            });
        }
        self.child.wait()?;
        truths.sort_by_key(|truth| truth.request);
        Ok(truths)
    }

    fn client(&self, streams: usize) -> Result<Client, Box<dyn Error>> {
        let target = Target {
            url: self.url.clone(),
            headers: Vec::new(),
            roots: None,
            rule: Rule::Ids,
        };
        Ok(Client::connect(&target, streams)?)
    }
}

fn body(model: &str, tokens: u64, index: u64) -> bytes::Bytes {
    format!(
        "{{\"model\":\"{model}\",\"prompt\":{:?},\"max_tokens\":{tokens},\"temperature\":0,\"ignore_eos\":true,\"stream\":true,\
         \"stream_options\":{{\"include_usage\":true}},\"return_token_ids\":true,\"user\":\"{index}\"}}",
        vec![index % 50_000; 32]
    )
    .into()
}

/// The figures of one round.
struct Row {
    requests: usize,
    mean_ttft_ms: f64,
    p99_ttft_ms: f64,
    nominal_ms: f64,
    itl_pct: f64,
    stamp_p99_ms: f64,
    in_flight: usize,
    cpu_us: f64,
    cpu_pct: f64,
}

fn row(streams: usize) -> Result<Row, Box<dyn Error>> {
    let server = Server::start()?;
    let mut client = server.client(streams)?;
    let load = RequestLoad {
        arrivals: Arrivals::Closed { streams },
        bounds: Bounds {
            warmup_requests: 2 * streams as u64,
            warmup: Duration::from_millis(500),
            iterations: 3 * streams as u64,
            min_duration: Duration::from_secs(3),
            tokens_each: TOKENS,
        },
        limit: LIMIT,
        max_failures: 0,
    };
    let run = client.run(
        &load,
        &mut |index| body("steady", TOKENS, index),
        &mut |_| false,
    )?;
    drop(client);
    let truths = server.stop()?;
    compare(&run, &truths)
}

fn compare(run: &Run, truths: &[Truth]) -> Result<Row, Box<dyn Error>> {
    let window = run
        .window
        .ok_or_else(|| format!("no window: {:?}", run.ending))?;
    let steps = script("steady", TOKENS).steps;
    let first = steps
        .iter()
        .position(|step| step.tokens > 0)
        .ok_or("no token")?;
    let clock = Clock::read();
    let at = |instant| clock.nanos(instant);
    let mut seen = Gaps::default();
    let mut told = Gaps::default();
    let mut late = Vec::new();
    for exchange in window.requests(&run.exchanges) {
        if let Some(error) = &exchange.error {
            return Err(error.to_string().into());
        }
        let truth = &truths[exchange.index as usize];
        let ends: Vec<u64> = exchange.reply.token_ends().map(at).collect();
        let written = &truth.written[first..first + TOKENS as usize];
        seen.add(at(exchange.intended), &ends);
        told.add(truth.received, written);
        late.extend(
            ends.iter()
                .zip(written)
                .map(|(seen, written)| (seen - written) as f64 / 1e6),
        );
    }
    let events = run
        .exchanges
        .iter()
        .flat_map(|one| &one.reply.arrivals)
        .filter(|one| window.hold(one.at))
        .count();
    let mean_ttft_ms = mean(&seen.ttft) - mean(&told.ttft);
    Ok(Row {
        requests: seen.ttft.len(),
        mean_ttft_ms,
        p99_ttft_ms: quantile(&mut seen.ttft, 0.99) - quantile(&mut told.ttft, 0.99),
        nominal_ms: mean(&seen.ttft) - 20.0,
        itl_pct: 100.0 * (median(&mut seen.itl) / median(&mut told.itl) - 1.0),
        stamp_p99_ms: quantile(&mut late, 0.99),
        in_flight: in_flight(truths),
        cpu_us: run.lag.cpu.as_secs_f64() * 1e6 / events as f64,
        cpu_pct: 100.0 * run.lag.cpu_share(),
    })
}

#[derive(Default)]
struct Gaps {
    ttft: Vec<f64>,
    itl: Vec<f64>,
}

impl Gaps {
    fn add(&mut self, start: u64, ends: &[u64]) {
        self.ttft.push((ends[0] - start) as f64 / 1e6);
        self.itl
            .extend(ends.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6));
    }
}

/// Requests that the server had at once, at most.
fn in_flight(truths: &[Truth]) -> usize {
    let mut edges: Vec<(u64, i32)> = truths
        .iter()
        .flat_map(|truth| {
            [
                (truth.received, 1),
                (truth.written.last().copied().unwrap_or(truth.received), -1),
            ]
        })
        .collect();
    edges.sort_unstable();
    let mut now = 0;
    edges
        .iter()
        .map(|edge| {
            now += edge.1;
            now
        })
        .max()
        .unwrap_or(0) as usize
}

/// The memory that `streams` open streams take, of which each has a token a second.
fn memory(streams: usize) -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    let before = resident();
    let mut client = server.client(streams)?;
    let connected = resident();
    let bodies = (0..streams as u64)
        .map(|index| body("slow", 4, index))
        .collect();
    let mut most = 0;
    let batch = client.batch(bodies, LIMIT, &mut || {
        most = most.max(resident());
        false
    })?;
    let failed = batch
        .exchanges
        .iter()
        .filter(|exchange| exchange.error.is_some())
        .count();
    let kib = |bytes: usize| bytes.saturating_sub(before) as f64 / 1024.0 / streams as f64;
    println!(
        "{streams} streams open: {:.1} KiB each idle, {:.1} KiB each while they stream ({failed} failed)",
        kib(connected),
        kib(most)
    );
    drop(client);
    let truths = server.stop()?;
    println!("in flight at most: {}", in_flight(&truths));
    Ok(())
}

fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

fn mean(sample: &[f64]) -> f64 {
    sample.iter().sum::<f64>() / sample.len() as f64
}

fn quantile(sample: &mut [f64], share: f64) -> f64 {
    sample.sort_by(f64::total_cmp);
    sample[((share * sample.len() as f64).ceil() as usize).clamp(1, sample.len()) - 1]
}

fn median(sample: &mut [f64]) -> f64 {
    quantile(sample, 0.5)
}

/// The median, and what is nearest to zero.
fn both(mut sample: Vec<f64>) -> String {
    let best = sample
        .iter()
        .copied()
        .min_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap_or(f64::NAN);
    format!("{:.3} ({best:.3})", median(&mut sample))
}
