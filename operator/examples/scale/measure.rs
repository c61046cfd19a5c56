//! The operator, as `main` of its crate runs it, and the figures that it is judged by.

use std::{collections::HashMap, sync::Arc, time::Duration};

use inferbench_crds::InferenceBenchmark;
use inferbench_operator::{
    client::client,
    controller::{
        bounds::{Bounds, Limits, Live},
        run::{Clock, Settings, run as operate},
    },
    lease,
    metrics::Metrics,
};
use kube::{Api, Config, api::PostParams};
use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::{
    Cli, Failed, NAMESPACE, WINDOW, bare, defaults,
    reconciles::{Reconciles, Spans},
    server::Server,
    spec, user,
};

/// Runs the operator, and prints what it takes.
pub async fn run(cli: &Cli) -> Result<(), Failed> {
    let reconciles = Reconciles::default();
    let spans = Spans::new(reconciles.clone());
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans))?;
    let mut server = Server::start()?;
    let before = bare::rate(&server, cli).await?;

    let metrics = Arc::new(Metrics::default());
    let client = client(Config::new(server.url.parse()?), Arc::clone(&metrics))?;
    let settings = lease::Settings {
        name: "inferbench-operator".into(),
        namespace: NAMESPACE.into(),
        identity: "scale".into(),
        duration: Duration::from_secs(15),
        every: Duration::from_secs(5),
    };
    let mut holder = lease::Holder::new(client.clone(), settings);
    holder.acquire().await;
    let lead = holder.lead();
    tokio::spawn(async move { holder.renew().await });
    let settings = Settings {
        namespaces: Vec::new(),
        defaults: defaults(),
        identity: "scale".into(),
        limit: Duration::from_secs(30),
        bounds: Arc::new(Bounds::new(Limits {
            create_rate: 0,
            max_live_jobs: u32::MAX,
            status_interval: Duration::ZERO,
            ..Limits::default()
        })),
        clock: Clock::default(),
    };
    let operator = tokio::spawn(operate(
        client.clone(),
        settings,
        lead,
        Arc::clone(&metrics),
        std::future::pending(),
    ));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = memory()?;

    server.ask("reset")?;
    let api: Api<InferenceBenchmark> = Api::namespaced(user(&server.url)?, NAMESPACE);
    let resource =
        InferenceBenchmark::new("scale", serde_json::from_value(spec(cli.blocks, false))?);
    api.create(&PostParams::default(), &resource).await?;
    let total = u64::from(cli.blocks * 2_016);
    let (began, worked) = (Instant::now(), cpu()?);
    let (mut asked, mut marks, mut largest) = (1, Vec::new(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let status = api.get("scale").await?.status.unwrap_or_default();
        asked += 1;
        let counts = status.counts.unwrap_or_default();
        marks.push((u64::try_from(counts.done).unwrap_or(0), reconciles.take()));
        largest = largest.max(serde_json::to_vec(&status)?.len());
        let is = |kind: &str| {
            let mut conditions = status.conditions.iter();
            conditions.any(|it| it.type_ == kind && it.status == "True")
        };
        if is("Succeeded") {
            break;
        }
        if operator.is_finished() {
            return Err("the operator has ended".into());
        }
    }
    let (took, worked) = (began.elapsed().as_secs_f64(), cpu()? - worked);
    let (requests, _, counted) = server.counts()?;
    let requests = (requests - asked) as f64 / total as f64;
    let rate = total as f64 / took;
    // Before and after: a machine that others use as well changes its speed.
    let peer = f64::midpoint(before, bare::rate(&server, cli).await?);
    let mut times: Vec<Duration> = marks
        .iter()
        .flat_map(|(_, all)| all)
        .map(|it| it.0)
        .collect();
    times.sort_unstable();
    let quantile = |q: f64| {
        times
            .get(((times.len() - 1) as f64 * q) as usize)
            .copied()
            .unwrap_or_default()
    };
    // The work per trial grows with the window; the cost of a reconcile is shown for equally many.
    let cost = |from: u64, to: u64| {
        let within = marks.iter().filter(|(done, _)| (from..to).contains(done));
        let all: Vec<Duration> = within.flat_map(|(_, all)| all).map(|it| it.1).collect();
        all.iter().sum::<Duration>().as_secs_f64() * 1e3 / all.len().max(1) as f64
    };
    let peak = memory()?;
    println!("{total} trials, {WINDOW} at a time\n{counted}");
    row("requests per trial (at most 3.2)", format!("{requests:.2}"));
    row("trials a second", format!("{rate:.0}"));
    row("... of a bare client", format!("{peer:.0}"));
    row("... ratio (at least 0.80)", format!("{:.2}", rate / peer));
    row("reconciles", times.len().to_string());
    row(
        "reconcile, median",
        format!("{:.1} ms", quantile(0.5).as_secs_f64() * 1e3),
    );
    row(
        "reconcile, p99 (below 50 ms)",
        format!("{:.1} ms", quantile(0.99).as_secs_f64() * 1e3),
    );
    // Not the first: the window is only being filled there.
    row(
        "at work per reconcile, third tenth",
        format!("{:.2} ms", cost(total * 2 / 10, total * 3 / 10)),
    );
    row(
        "at work per reconcile, last tenth",
        format!("{:.2} ms", cost(total * 9 / 10, total)),
    );
    row(
        "processor time per trial",
        format!("{:.2} ms", worked * 1e3 / total as f64),
    );
    for (verb, mean) in answers(&metrics) {
        row(&format!("{verb}, mean"), format!("{mean:.2} ms"));
    }
    row("status, at most", format!("{largest} bytes"));
    row("memory at the start", format!("{start:.1} MiB"));
    row("memory, peak (below 64 MiB)", format!("{peak:.1} MiB"));

    for number in 0..cli.idle {
        let name = format!("idle-{number}");
        let resource = InferenceBenchmark::new(&name, serde_json::from_value(spec(1, true))?);
        api.create(&PostParams::default(), &resource).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.ask("reset")?;
    let (began, worked) = (Instant::now(), cpu()?);
    tokio::time::sleep(Duration::from_secs(cli.idle_seconds)).await;
    let share = (cpu()? - worked) / began.elapsed().as_secs_f64();
    let (requests, writes, counted) = server.counts()?;
    println!(
        "{} resources that have nothing to do, for {} s\n{counted}",
        cli.idle, cli.idle_seconds
    );
    row("writes (none), leases apart", writes.to_string());
    row("requests, leases apart", requests.to_string());
    row("of a core (below 1 %)", format!("{:.2} %", share * 100.0));
    row("memory, peak", format!("{:.1} MiB", memory()?));
    Ok(())
}

/// How long the answers to each verb took in the mean, in ms.
fn answers(metrics: &Metrics) -> Vec<(String, f64)> {
    let text = metrics.text(true, &Live::new());
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_prefix("inferbench_operator_api_request_duration_seconds_")?;
        let (name, value) = line.rsplit_once(' ')?;
        let (kind, labels) = name.split_once('{')?;
        Some((kind, labels.split('"').nth(1)?, value.parse::<f64>().ok()?))
    });
    let mut sums = HashMap::new();
    let mut means = Vec::new();
    for (kind, verb, value) in lines {
        match kind {
            "sum" => {
                sums.insert(verb, value);
            }
            "count" => {
                let sum = sums.get(verb).copied().unwrap_or_default();
                means.push((verb.to_owned(), sum * 1e3 / value));
            }
            _ => {}
        }
    }
    means
}

fn row(what: &str, value: String) {
    println!("  {what:<34} {value:>12}");
}
/// The most memory that this process has had, in MiB.
fn memory() -> Result<f64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no VmHWM")?
        .parse()?;
    Ok(kib / 1_024.0)
}

/// The processor time of this process so far, in seconds.
fn cpu() -> Result<f64, Failed> {
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no such line")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse::<f64>().ok())
            .ok_or("no time")
    };
    Ok((next()? + next()?) / TICKS)
}
