//! The loop around `reconcile`: watches resources, Jobs and pods, and reconciles whatever has changed.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::{Future, FutureExt as _, StreamExt as _, future::join_all};
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
        Controller,
        controller::{Action, Error},
        reflector::ObjectRef,
        watcher,
    },
};
use tokio::{sync::Semaphore, time::Instant};
use tracing::{Instrument as _, debug, info_span, warn};

use super::{
    apply::{ApplyError, Cluster},
    bounds::{Bounds, Key},
    names,
    observe::JobView,
    reconcile::{Context, Next, reconcile},
    sweep::Defaults,
};
use crate::{lease::Lead, metrics::Metrics};

/// Reconciles at a time, over all resources.
const PLACES: usize = 8;
/// How long to wait after a reconcile that a change of its resource has made void.
const AGAIN: Duration = Duration::from_secs(1);
/// How long to wait after a reconcile that failed.
const RETRY: Duration = Duration::from_secs(5);
/// How long reconciles that are under way may go on when it is time to stop: less than Kubernetes waits before it
/// kills.
const PATIENCE: Duration = Duration::from_secs(25);
/// How often it is looked which resources are still there: a watch that was interrupted shows no deletion.
const TIDY: Duration = Duration::from_secs(30);

/// A resource, of which nothing but its metadata is kept, so that one that cannot be read stops no other.
type Known = PartialObjectMeta<InferenceBenchmark>;

/// The time, as far as this replica knows it.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// One that shows what this says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// How the operator is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespaces to work in; all where there is none.
    pub namespaces: Vec<String>,
    /// Settings that a resource does not have itself.
    pub defaults: Defaults,
    /// The name of this replica in events.
    pub identity: String,
    /// The longest that one call to the API server may take.
    pub limit: Duration,
    /// Bounds over all resources.
    pub bounds: Arc<Bounds>,
    /// The machine's clock; another in tests.
    pub clock: Clock,
}

/// Shared by the reconciles of all namespaces.
struct Shared {
    context: Context,
    lead: Lead,
    clock: Clock,
    places: Semaphore,
}

/// Runs until `shutdown`, and then until the reconciles that are under way have ended, or have had time enough.
pub async fn run(
    client: Client,
    settings: Settings,
    lead: Lead,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let cluster = Cluster::new(client.clone(), settings.limit);
    let shared = Arc::new(Shared {
        context: Context {
            cluster: cluster.reporting_as(&settings.identity),
            defaults: settings.defaults,
            bounds: settings.bounds,
            metrics,
        },
        lead,
        clock: settings.clock,
        places: Semaphore::new(PLACES),
    });
    let stopping = Arc::clone(&shared);
    // A reconcile that waits for its place need not wait any longer.
    let shutdown = async move {
        shutdown.await;
        stopping.places.close();
    };
    let shutdown = shutdown.boxed().shared();
    let stopping_at = shutdown.clone();
    let namespaces = settings.namespaces.iter();
    let mut namespaces: Vec<Option<&str>> = namespaces.map(|name| Some(name.as_str())).collect();
    if namespaces.is_empty() {
        namespaces.push(None);
    }
    tokio::select! {
        () = survey(&shared, &namespaces) => {}
        () = shutdown.clone() => return,
    }
    // One for each: with a Role for each namespace, no watch may go over several.
    let controllers: Vec<Controller<Known>> = namespaces
        .into_iter()
        .map(|namespace| controller(&client, namespace).graceful_shutdown_on(shutdown.clone()))
        .collect();
    let stores: Vec<_> = controllers.iter().map(Controller::store).collect();
    let works = controllers.into_iter().map(|controller| {
        let shared = Arc::clone(&shared);
        controller
            .run(reconcile_resource, retry, Arc::clone(&shared))
            .for_each(move |result| {
                look_at(&shared.context, result);
                std::future::ready(())
            })
    });
    let tidy = async {
        loop {
            tokio::time::sleep(TIDY).await;
            shared.context.bounds.retain(|(namespace, name)| {
                let reference = ObjectRef::new(name).within(namespace);
                stores.iter().any(|store| store.get(&reference).is_some())
            });
        }
    };
    // A controller whose first list has not come waits for it even when it is to stop.
    let patience = async {
        stopping_at.await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        _ = join_all(works) => {}
        () = tidy => {}
        () = patience => {}
    }
}

/// Finds out what lives already, so that it counts from the first creation on: a leader that has just come to it has
/// seen no resource yet.
async fn survey(shared: &Shared, namespaces: &[Option<&str>]) {
    for namespace in namespaces {
        let jobs = loop {
            match shared.context.cluster.all_jobs(*namespace).await {
                Ok(jobs) => break jobs,
                Err(error) => warn!(%error, "the Jobs that live already are not known"),
            }
            tokio::time::sleep(RETRY).await;
        };
        let mut found: BTreeMap<Key, Vec<JobView>> = BTreeMap::new();
        for job in &jobs {
            let metadata = &job.metadata;
            let label = |key: &str| metadata.labels.get(key).map(String::as_str);
            if let (Some(name), Some(uid)) = (label(names::BENCHMARK), label(names::UID))
                && let Some(view) = JobView::of(job, uid)
            {
                let key = (
                    metadata.namespace.clone().unwrap_or_default(),
                    name.to_owned(),
                );
                found.entry(key).or_default().push(view);
            }
        }
        for (key, jobs) in found {
            let now = shared.clock.now();
            shared.context.bounds.seen(&key, &jobs, now);
        }
    }
}

/// Watches resources, Jobs and pods. The bounds of each resource put events together that follow each other closely:
/// the debounce of the library begins anew with every event, and a busy sweep would never be looked at.
fn controller(client: &Client, namespace: Option<&str>) -> Controller<Known> {
    let ours = format!("{}={}", names::MANAGED_BY, names::MANAGER);
    let children = watcher::Config::default().labels(&ours);
    let resources: Api<Known> = api(client, namespace);
    let jobs: Api<PartialObjectMeta<Job>> = api(client, namespace);
    let pods: Api<PartialObjectMeta<Pod>> = api(client, namespace);
    Controller::new(resources, watcher::Config::default())
        .watches(jobs, children.clone(), |job| owner(&job))
        .watches(pods, children, |pod| owner(&pod))
}

/// Forgets a resource that is gone, and logs a watch that was interrupted.
fn look_at<T, E: std::error::Error + 'static>(
    context: &Context,
    result: Result<T, Error<ApplyError, E>>,
) {
    match result {
        // Jobs outlive their resource for a moment.
        Err(Error::ObjectNotFound(reference)) => {
            let namespace = reference.namespace.unwrap_or_default();
            context.forget(&(namespace, reference.name));
        }
        Ok(_) => {}
        Err(Error::QueueError(error)) => warn!(%error, "a watch was interrupted"),
        Err(error) => debug!(%error, "a reconcile failed"),
    }
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

/// The resource that a Job or a pod says it belongs to; whether it does is for the reconcile to find out.
fn owner<K: Resource>(child: &K) -> Option<ObjectRef<Known>> {
    let name = child.meta().labels.as_ref()?.get(names::BENCHMARK)?;
    let namespace = child.meta().namespace.as_ref()?;
    Some(ObjectRef::new(name).within(namespace))
}

async fn reconcile_resource(
    resource: Arc<Known>,
    shared: Arc<Shared>,
) -> Result<Action, ApplyError> {
    let Shared {
        context,
        lead,
        clock,
        ..
    } = &*shared;
    let key: Key = (
        resource.namespace().unwrap_or_default(),
        resource.name_any(),
    );
    if let Err(wait) = context.bounds.look(&key, Instant::now()) {
        return Ok(Action::requeue(wait));
    }
    let waits = context.metrics.waits();
    let Ok(_place) = shared.places.acquire().await else {
        // It is time to stop.
        return Ok(Action::await_change());
    };
    drop(waits);
    let _runs = context.metrics.runs();
    // Not `name`: a span has a name of its own, which stands beside it.
    let span = info_span!("reconcile", namespace = key.0, benchmark = key.1);
    let began = Instant::now();
    let may_write = || lead.holds();
    let result = reconcile(context, &may_write, &key, clock.now())
        .instrument(span.clone())
        .await;
    let error = result.as_ref().err().map(ApplyError::kind);
    context.metrics.reconciled(began.elapsed(), error);
    match result {
        Ok(Next::Changed) => Ok(Action::await_change()),
        Ok(Next::After(wait)) => Ok(Action::requeue(wait)),
        // It happens whenever a user edits what is being worked on, and costs nothing.
        Err(ApplyError::Conflict) => Ok(Action::requeue(AGAIN)),
        Err(error) => {
            span.in_scope(|| warn!(%error, "the reconcile failed"));
            Err(error)
        }
    }
}

fn retry(_: Arc<Known>, _: &ApplyError, _: Arc<Shared>) -> Action {
    Action::requeue(RETRY)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::controller::{bounds::Live, fixtures::defaults, reconcile::tests::World};

    #[tokio::test(start_paused = true)]
    async fn whatever_is_there_is_reconciled_until_the_end() {
        let world = World::fresh();
        let lead = Lead::default();
        lead.hold_until(Instant::now() + Duration::from_secs(3_600));
        let metrics = Arc::new(Metrics::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let settings = Settings {
            namespaces: vec!["bench".into(), "lab".into()],
            defaults: defaults(),
            identity: "operator-0".into(),
            limit: Duration::from_secs(5),
            bounds: Arc::default(),
            clock: Clock::default(),
        };
        let shutdown = async {
            let _ = stopped.await;
        };
        let counted = Arc::clone(&metrics);
        let client = world.client();
        let work = tokio::spawn(async move {
            run(client, settings, lead, counted, shutdown).await;
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
            metrics.text(true, &Live::new()).contains("_count 1\n"),
            "{}",
            metrics.text(true, &Live::new())
        );
    }
}
