//! The bare client: a window of Jobs, each created, waited for and deleted.

use std::{
    collections::HashMap,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use inferbench_crds::InferenceBenchmark;
use inferbench_operator::controller::{build, names, validate::validate};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{sync::oneshot, time::Instant};

use crate::{Cli, Failed, NAMESPACE, WINDOW, defaults, server::Server, spec, user};

/// Who waits for the end of which Job.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Creates the Jobs, and prints how many it did in a second.
pub async fn run(cli: &Cli) -> Result<(), Failed> {
    let jobs: Api<Job> = Api::namespaced(user(&cli.server)?, NAMESPACE);
    let waiting: Waiting = Waiting::default();
    let (ends, watched) = (Arc::clone(&waiting), jobs.clone());
    tokio::spawn(async move {
        let config = watcher::Config::default().labels("bare=yes");
        let stream = watcher(watched, config).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream);
        while let Some(job) = stream.next().await {
            let Ok(job) = job else { continue };
            let status = job.status.as_ref();
            if status.is_some_and(|status| status.conditions.is_some()) {
                let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(ended) = ends.remove(&job.name_any()) {
                    // Whoever waited may have given up.
                    let _ = ended.send(());
                }
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let count = cli.blocks * 2_016;
    futures::stream::iter(0..count)
        .map(|number| {
            let (jobs, waiting) = (jobs.clone(), Arc::clone(&waiting));
            async move {
                let name = format!("bare-{number}");
                let job = like_ours(&name)?;
                let (sender, ended) = oneshot::channel();
                waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name.clone(), sender);
                jobs.create(&PostParams::default(), &job).await?;
                ended.await?;
                jobs.delete(&name, &DeleteParams::background()).await?;
                Ok::<_, Failed>(())
            }
        })
        .buffer_unordered(WINDOW)
        .try_collect::<Vec<()>>()
        .await?;
    println!("{}", f64::from(count) / began.elapsed().as_secs_f64());
    Ok(())
}

/// A Job as the operator makes it, but for its name and its owner.
fn like_ours(name: &str) -> Result<Job, Failed> {
    let mut resource = InferenceBenchmark::new("bare", serde_json::from_value(spec(1, false))?);
    resource.metadata.namespace = Some(NAMESPACE.into());
    resource.metadata.uid = Some("00000000-0000-4000-8000-000000000000".into());
    let sweep = validate(&resource, &defaults());
    let sweep = sweep.map_err(|violations| format!("{violations:?}"))?;
    let trial = sweep.expansion.trial(0).ok_or("no trial")?;
    let mut job = build::trials(&sweep, &[trial]);
    job.metadata.name = Some(name.into());
    job.metadata.owner_references = None;
    let labels = job.metadata.labels.get_or_insert_default();
    labels.remove(names::MANAGED_BY);
    labels.insert("bare".into(), "yes".into());
    Ok(job)
}
/// The rate of a bare client on half as many Jobs, in Jobs a second.
pub async fn rate(server: &Server, cli: &Cli) -> Result<f64, Failed> {
    let blocks = cli.blocks.div_ceil(2).to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--part", "bare", "--server", &server.url])
        .args(["--blocks", &blocks])
        .stderr(Stdio::inherit());
    // Meanwhile the lead has to be kept.
    let bare = tokio::task::spawn_blocking(move || command.output()).await??;
    Ok(String::from_utf8(bare.stdout)?.trim().parse()?)
}
