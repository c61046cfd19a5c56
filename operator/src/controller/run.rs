//! The loop around `reconcile`: watches resources, Jobs and pods, and passes over whatever has changed.

use std::{sync::Arc, time::Duration};

use futures::{Future, StreamExt as _};
use inferbench_crds::InferenceBenchmark;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{batch::v1::Job, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::PartialObjectMeta,
    runtime::{
        Config, Controller,
        controller::{Action, Error},
        reflector::ObjectRef,
        watcher,
    },
};
use tokio::time::Instant;
use tracing::{Instrument as _, debug, info_span, warn};

use super::{
    apply::{ApplyError, Cluster},
    names,
    reconcile::{Next, reconcile},
    sweep::Defaults,
};
use crate::{lease::Lead, metrics::Metrics};

/// Changes within so short a time are one: Jobs that end together are recorded by one patch.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Passes at a time.
const CONCURRENCY: u16 = 8;
/// How long to wait after a pass that could not go on.
const RETRY: Duration = Duration::from_secs(5);

/// A resource, of which nothing but its metadata is kept, so that one that cannot be read stops no other.
type Known = PartialObjectMeta<InferenceBenchmark>;

/// What every pass needs.
struct Context {
    cluster: Cluster,
    defaults: Defaults,
    lead: Lead,
    metrics: Arc<Metrics>,
}

/// Runs until `shutdown`, and then until the passes that are under way have ended.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    defaults: Defaults,
    lead: Lead,
    metrics: Arc<Metrics>,
    limit: Duration,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let ours = format!("{}={}", names::MANAGED_BY, names::MANAGER);
    let children = watcher::Config::default().labels(&ours);
    let context = Arc::new(Context {
        cluster: Cluster::new(client.clone(), limit),
        defaults,
        lead,
        metrics,
    });
    let resources: Api<Known> = api(&client, namespace);
    let jobs: Api<PartialObjectMeta<Job>> = api(&client, namespace);
    let pods: Api<Pod> = api(&client, namespace);
    Controller::new(resources, watcher::Config::default())
        .with_config(
            Config::default()
                .debounce(DEBOUNCE)
                .concurrency(CONCURRENCY),
        )
        .watches(jobs, children.clone(), |job| owner(&job))
        .watches(pods, children, |pod| owner(&pod))
        .graceful_shutdown_on(shutdown)
        .run(pass, retry, context)
        .for_each(|result| {
            match result {
                // Jobs outlive their resource for a moment.
                Err(Error::ObjectNotFound(_)) | Ok(_) => {}
                Err(Error::QueueError(error)) => warn!(%error, "a watch was interrupted"),
                Err(error) => debug!(%error, "a pass could not go on"),
            }
            std::future::ready(())
        })
        .await;
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The resource that a Job or a pod says it belongs to; whether it does is for the pass to find out.
fn owner<K: Resource>(child: &K) -> Option<ObjectRef<Known>> {
    let name = child.meta().labels.as_ref()?.get(names::BENCHMARK)?;
    let namespace = child.meta().namespace.as_ref()?;
    Some(ObjectRef::new(name).within(namespace))
}

async fn pass(resource: Arc<Known>, context: Arc<Context>) -> Result<Action, ApplyError> {
    let namespace = resource.namespace().unwrap_or_default();
    let name = resource.name_any();
    let span = info_span!("reconcile", namespace, name);
    let began = Instant::now();
    let may_write = || context.lead.holds();
    let result = reconcile(
        &context.cluster,
        &context.defaults,
        &may_write,
        (&namespace, &name),
        Timestamp::now(),
    )
    .instrument(span.clone())
    .await;
    let error = result.as_ref().err().map(ApplyError::kind);
    context.metrics.reconciled(began.elapsed(), error);
    match result {
        Ok(Next::Changed) => Ok(Action::await_change()),
        Ok(Next::After(wait)) => Ok(Action::requeue(wait)),
        // It happens whenever a user edits what is being worked on, and costs nothing.
        Err(ApplyError::Conflict) => Ok(Action::requeue(DEBOUNCE)),
        Err(error) => {
            span.in_scope(|| warn!(%error, "the pass could not go on"));
            Err(error)
        }
    }
}

fn retry(_: Arc<Known>, _: &ApplyError, _: Arc<Context>) -> Action {
    Action::requeue(RETRY)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::controller::{fixtures::defaults, reconcile::tests::World};

    #[tokio::test(start_paused = true)]
    async fn whatever_is_there_is_passed_over_until_the_end() {
        let world = World::fresh();
        let lead = Lead::default();
        lead.hold_until(Instant::now() + Duration::from_secs(3_600));
        let metrics = Arc::new(Metrics::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let limit = Duration::from_secs(5);
        let shutdown = async {
            let _ = stopped.await;
        };
        let counted = Arc::clone(&metrics);
        let client = world.client();
        let work = tokio::spawn(async move {
            run(
                client,
                Some("bench"),
                defaults(),
                lead,
                counted,
                limit,
                shutdown,
            )
            .await;
        });
        for _ in 0..600 {
            if world.jobs() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.jobs(), 1);
        stop.send(()).expect("it runs");
        work.await.expect("it ends");
        assert!(
            metrics.text(true).contains("_count 1\n"),
            "{}",
            metrics.text(true)
        );
    }
}
