//! `inferbench-operator`: waits for the lead, then works until it is to stop or has lost it.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use inferbench_operator::{
    client::client,
    controller::{
        bounds::{Bounds, Limits},
        run::{Clock, Settings, run},
        sweep::{Defaults, light, resources},
    },
    lease,
    metrics::Metrics,
    server::{self, Shown},
    traces::{self, Logs},
};
use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::Config;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info};

/// Turns InferenceBenchmarks into Jobs, and what becomes of them into their status.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// The runner's image, where a resource names none; with a digest, so that all trials of a sweep run the same.
    #[arg(long, env = "INFERBENCH_RUNNER_IMAGE")]
    runner_image: String,
    /// User, group and volume group of runner pods; without it the platform chooses them, as OpenShift does.
    #[arg(long, env = "INFERBENCH_RUNNER_USER", value_parser = clap::value_parser!(i64).range(1..))]
    runner_user: Option<i64>,
    /// CPU and memory of the pods of preflight and collection, as JSON: `{"requests": {…}, "limits": {…}}`.
    #[arg(long, env = "INFERBENCH_LIGHT_RESOURCES", value_parser = resources)]
    light_resources: Option<ResourceRequirements>,
    /// A namespace to work in; may be repeated, or several given with commas. All of them by default.
    #[arg(long, env = "INFERBENCH_WATCH_NAMESPACE", value_delimiter = ',')]
    watch_namespace: Vec<String>,
    /// The operator's own namespace, where its Lease is.
    #[arg(long, env = "INFERBENCH_NAMESPACE")]
    namespace: Option<String>,
    /// The name of the Lease.
    #[arg(long, default_value = "inferbench-operator")]
    lease: String,
    /// The name of this replica in the Lease; the pod's name.
    #[arg(long, env = "HOSTNAME")]
    identity: String,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: String,
    /// The longest that one call to the API server may take, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300))]
    call_timeout: u64,
    /// How many Jobs may be created in a second, on average, over all resources; 0 for any number.
    #[arg(long, default_value_t = Limits::default().create_rate)]
    create_rate: u32,
    /// How many Jobs may be created at once, where none were created for a while.
    #[arg(long, default_value_t = Limits::default().create_burst, value_parser = clap::value_parser!(u32).range(1..))]
    create_burst: u32,
    /// How many Jobs may live at a time over all resources; each may have one all the same.
    #[arg(long, default_value_t = Limits::default().max_live_jobs, value_parser = clap::value_parser!(u32).range(1..))]
    max_live_jobs: u32,
    /// The shortest time between two writes to a resource's status that are no transition, in seconds.
    #[arg(long, default_value_t = Limits::default().status_interval.as_secs(), value_parser = clap::value_parser!(u64).range(..=60))]
    status_interval: u64,
    /// How logs are written; RUST_LOG says how much.
    #[arg(long, value_enum, default_value_t = Logs::Json)]
    logs: Logs,
}

// One thread is plenty: it waits for the API server most of the time, and hands nothing over meanwhile.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let _traces = match traces::init(cli.logs, &cli.identity) {
        Ok(traces) => traces,
        Err(message) => {
            eprintln!("inferbench-operator: {message}");
            return ExitCode::FAILURE;
        }
    };
    match operate(cli).await {
        Ok(code) => code,
        Err(message) => {
            error!(message, "the operator cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn operate(cli: Cli) -> Result<ExitCode, String> {
    let config = Config::infer().await.map_err(|error| error.to_string())?;
    let namespace = cli
        .namespace
        .unwrap_or_else(|| config.default_namespace.clone());
    let metrics = Arc::new(Metrics::default());
    let client = client(config, Arc::clone(&metrics)).map_err(|error| error.to_string())?;

    let settings = lease::Settings {
        name: cli.lease,
        namespace,
        identity: cli.identity.clone(),
        duration: Duration::from_secs(15),
        every: Duration::from_secs(5),
    };
    let mut holder = lease::Holder::new(client.clone(), settings);
    let listener = TcpListener::bind(&cli.listen)
        .await
        .map_err(|error| format!("--listen {}: {error}", cli.listen))?;
    info!(listen = cli.listen, "serving");
    let bounds = Arc::new(Bounds::new(Limits {
        create_rate: cli.create_rate,
        create_burst: cli.create_burst,
        max_live_jobs: cli.max_live_jobs,
        status_interval: Duration::from_secs(cli.status_interval),
    }));
    let shown = Shown {
        metrics: Arc::clone(&metrics),
        bounds: Arc::clone(&bounds),
        lead: holder.lead(),
    };
    tokio::spawn(server::serve(listener, shown));

    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let signalled = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(signalled);

    tokio::select! {
        () = &mut signalled => return Ok(ExitCode::SUCCESS),
        () = holder.acquire() => {}
    }
    let shutdown = {
        let mut stopped = stopped.clone();
        async move {
            // A sender that is gone says stop, too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let mut namespaces = cli.watch_namespace;
    namespaces.retain(|namespace| !namespace.is_empty());
    namespaces.sort_unstable();
    namespaces.dedup();
    let settings = Settings {
        namespaces,
        defaults: Defaults {
            image: cli.runner_image,
            user: cli.runner_user,
            light: cli.light_resources.unwrap_or_else(light),
        },
        identity: cli.identity,
        limit: Duration::from_secs(cli.call_timeout),
        bounds,
        clock: Clock::default(),
    };
    let mut work = tokio::spawn(run(client, settings, holder.lead(), metrics, shutdown));
    let code = tokio::select! {
        () = &mut signalled => {
            info!("stopping: reconciles that are under way go on to their end");
            ExitCode::SUCCESS
        }
        // Another replica may lead by now: this one begins anew, with an empty memory.
        () = holder.renew() => ExitCode::FAILURE,
        _ = &mut work => ExitCode::FAILURE,
    };
    stop.send_replace(true);
    if !work.is_finished() {
        tokio::select! {
            _ = &mut work => {}
            // The lead is kept for as long as it takes.
            () = holder.renew() => {}
        }
    }
    holder.release().await;
    Ok(code)
}
