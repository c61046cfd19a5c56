//! One reconcile of one resource: look, decide, act. A decision rests on what the API server says in this very
//! reconcile, and is void when the resource changes meanwhile.

use std::{sync::Arc, time::Duration};

use futures::{TryStreamExt as _, stream};
use inferbench_crds::{InferenceBenchmark, Violation, ledger::Outcomes};
use k8s_openapi::{api::batch::v1::Job, jiff::Timestamp};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    apply::{ApplyError, Cluster, Created},
    bounds::{Bounds, Key},
    build, events, log,
    names::Role,
    observe::{JobView, PodView},
    plan::{Action, Create, Known, NotCreated, Phase, Plan, Problem, may_settle, plan},
    status,
    sweep::{Defaults, Sweep},
    validate::validate,
};
use crate::metrics::Metrics;

/// How soon to look again, so that the status says what has just been found.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long an unfinished sweep goes without a look at most: a missed event must not stop it for good.
const LOOK: Duration = Duration::from_secs(600);
/// Deletions at a time. Creations come one by one: a leader that has lost the lead unawares may exceed the window by
/// the one that is under way, and by no more.
const AT_A_TIME: usize = 16;
/// Creations of one reconcile: a large window is filled by several, and nobody waits long for any of them.
const CREATIONS: usize = 12;

/// When to look at a resource again, unless something happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When it changes.
    Changed,
    /// After this time.
    After(Duration),
}

/// The means of every reconcile.
pub struct Context {
    /// The API server.
    pub cluster: Cluster,
    /// Settings that a resource does not have itself.
    pub defaults: Defaults,
    /// Bounds over all resources.
    pub bounds: Arc<Bounds>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// A resource is gone, or its Jobs go with it.
    pub fn forget(&self, key: &Key) {
        self.bounds.forget(key);
    }
}

/// Whether this replica may write; asked before every single write.
pub type MayWrite<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// Reconciles the resource of this name.
///
/// # Errors
/// Where a call to the API server fails or is refused, where the resource has changed since it was read, and where
/// another replica leads. The next reconcile begins anew from what is there then.
pub async fn reconcile(
    context: &Context,
    may_write: MayWrite<'_>,
    key: &Key,
    now: Timestamp,
) -> Result<Next, ApplyError> {
    let cluster = &context.cluster;
    let (namespace, name) = key;
    let resource = match cluster.resource(namespace, name).await? {
        None => {
            context.forget(key);
            return Ok(Next::Changed);
        }
        Some(Err(error)) => {
            warn!(%error, "the resource cannot be read");
            return Ok(Next::Changed);
        }
        Some(Ok(resource)) => resource,
    };
    if resource.metadata.deletion_timestamp.is_some() {
        // Its Jobs go with it.
        context.forget(key);
        return Ok(Next::Changed);
    }
    match accept(&resource, &context.defaults) {
        Ok((sweep, mut known)) => {
            known.not_created = context.bounds.found_last(key);
            let decided = (sweep, known);
            reconcile_sweep(context, may_write, key, &resource, decided, now).await
        }
        Err(violations) => {
            let old = resource.status.clone().unwrap_or_default();
            let generation = resource.metadata.generation.unwrap_or_default();
            let status = status::rejected(generation, &old, &violations, now);
            lead(may_write)?;
            if cluster.patch_status(&resource, &status).await? {
                let violation = violations.first().map(ToString::to_string);
                warn!(
                    violations = violations.len(),
                    violation, "the resource breaks rules"
                );
                let events = events::of_rejection(&old, &status);
                cluster.post_events(&resource, &events).await;
            }
            Ok(Next::Changed)
        }
    }
}

/// The sweep of a resource and what its status records, or the rules that it breaks.
fn accept(
    resource: &InferenceBenchmark,
    defaults: &Defaults,
) -> Result<(Sweep, Known), Vec<Violation>> {
    let sweep = validate(resource, defaults)?;
    let status = resource.status.as_ref();
    let ledger = status.and_then(|status| status.ledger.as_ref());
    let text = ledger.map_or("", |ledger| ledger.outcomes.as_str());
    let trials = sweep.expansion.len_before_exclusion();
    // To begin anew would measure everything again: a ledger that cannot be read is for a person to look at.
    let ledger = Outcomes::decode(text, trials).map_err(|error| {
        vec![Violation {
            path: "status.ledger".into(),
            message: error.to_string(),
        }]
    })?;
    let results = status.and_then(|status| status.results.as_ref());
    let inputs = results.map_or_else(String::new, |results| results.inputs.clone());
    let decided = status.and_then(|status| status.ledger.as_ref());
    let decided = decided.map_or(0, |ledger| ledger.decided.max(0).unsigned_abs());
    let known = Known {
        ledger,
        decided,
        inputs,
        not_created: None,
    };
    Ok((sweep, known))
}

/// Reconciles a resource that keeps to every rule.
async fn reconcile_sweep(
    context: &Context,
    may_write: MayWrite<'_>,
    key: &Key,
    resource: &InferenceBenchmark,
    (sweep, known): (Sweep, Known),
    now: Timestamp,
) -> Result<Next, ApplyError> {
    let Context {
        cluster,
        bounds,
        metrics,
        ..
    } = context;
    let (namespace, uid) = (&sweep.namespace, &sweep.uid);
    // Jobs before pods: the pods of a Job that is seen to have ended are seen to have ended, too.
    let jobs = cluster.jobs(namespace, uid).await?;
    let pods = cluster.pods(namespace, uid).await?;
    let pods: Vec<PodView> = pods.iter().filter_map(PodView::of).collect();
    let jobs: Vec<JobView> = jobs
        .iter()
        .filter_map(|job| JobView::of(job, uid))
        .collect();
    let gone = bounds.seen(key, &jobs, now);
    let plan = plan(&sweep, &known, &jobs, &pods, now);
    let old = resource.status.clone().unwrap_or_default();
    let status = status::status(&sweep, &old, &plan, now);
    let goes_on = status != old && !status::is_transition(&old, &status);
    if goes_on && let Err(wait) = bounds.write(key, Instant::now()) {
        // With the whole reconcile: nothing may be deleted before it is recorded.
        return Ok(Next::After(wait));
    }
    lead(may_write)?;
    if cluster.patch_status(resource, &status).await? {
        bounds.written(key, Instant::now());
        log::recorded(&plan, metrics);
        let events = events::of_reconcile(&sweep, &old, &status, &plan);
        log::transitions(&events);
        // A namespace that is being deleted takes no events either.
        if !bounds.goes_with_namespace(key, uid) {
            cluster.post_events(resource, &events).await;
        }
    }
    delete(context, may_write, namespace, &plan).await?;
    let deletes = |action: &Action| matches!(action, Action::Delete { .. });
    let seen = Seen {
        now,
        jobs: jobs.len(),
        gone: gone.max(plan.actions.iter().any(deletes).then_some(now)),
        not_created: known.not_created.as_ref(),
    };
    create(context, may_write, key, &sweep, &plan, &seen).await
}

/// What a reconcile knew before it created anything.
struct Seen<'a> {
    now: Timestamp,
    /// The resource's Jobs.
    jobs: usize,
    /// When one of them has last gone, or was deleted.
    gone: Option<Timestamp>,
    not_created: Option<&'a NotCreated>,
}

/// Creates what is to be created, one by one, and remembers what could not be.
async fn create(
    context: &Context,
    may_write: MayWrite<'_>,
    key: &Key,
    sweep: &Sweep,
    plan: &Plan,
    seen: &Seen<'_>,
) -> Result<Next, ApplyError> {
    let Context {
        cluster, bounds, ..
    } = context;
    let slowly = match plan.phase {
        Phase::Finished => Next::Changed,
        Phase::Preflight | Phase::Measuring | Phase::Collecting => Next::After(LOOK),
    };
    let mut next = slowly;
    if bounds.goes_with_namespace(key, &sweep.uid) {
        return Ok(slowly);
    }
    let not_created = |problem, created: usize| NotCreated {
        problem,
        generation: sweep.generation,
        jobs: seen.jobs + created,
    };
    let mut taken = None;
    let (mut creations, mut created) = (0, 0);
    for action in &plan.actions {
        match action {
            Action::Create(_) if creations == CREATIONS => {
                bounds.cut_short(key);
                next = Next::After(Duration::ZERO);
                break;
            }
            Action::Create(create) => {
                creations += 1;
                let job = job(sweep, create, plan);
                if let Err(wait) = bounds.create(key, role(create), Instant::now()) {
                    next = Next::After(wait);
                    if creations == 1 {
                        // Nothing has been tried: all that is remembered stands.
                        return Ok(next);
                    }
                    break;
                }
                lead(may_write)?;
                let answer = cluster.create_job(&sweep.namespace, &job, &sweep.uid).await;
                if !matches!(answer, Ok(Created::There)) {
                    bounds.not_created(key, role(create));
                }
                let name = job.metadata.name.unwrap_or_default();
                match answer {
                    Ok(Created::There) => {
                        created += 1;
                        bounds.created(key);
                        info!(job = name, "created");
                    }
                    Ok(Created::Refused(why))
                        if may_settle(seen.gone, bounds.refused(key, seen.now), seen.now) =>
                    {
                        debug!(job = name, why, "refused, and a Job has gone only just");
                        next = Next::After(AT_ONCE);
                        return taken.map_or(Ok(next), |name| Err(ApplyError::Taken { name }));
                    }
                    Ok(Created::Refused(why)) => {
                        let before = seen.not_created.filter(|before| {
                            created == 0 && before.stands(sweep.generation, seen.jobs)
                        });
                        let number = before.map_or(1, NotCreated::next_attempt);
                        debug!(job = name, why, number, "the API server refuses the Job");
                        let problem = Problem::job_refused(&name, &why, number, seen.now);
                        bounds.found(key, Some(not_created(problem, created)));
                        // The next reconcile has it in the status.
                        next = Next::After(AT_ONCE);
                        return taken.map_or(Ok(next), |name| Err(ApplyError::Taken { name }));
                    }
                    Ok(Created::NamespaceGoes) => {
                        info!("the namespace is being deleted: no Job is created in it any more");
                        bounds.namespace_goes(key, &sweep.uid);
                        return Ok(slowly);
                    }
                    // Somebody else's Job is in the way of this one, and of no other.
                    Err(ApplyError::Taken { name }) => {
                        taken.get_or_insert(name);
                    }
                    Err(error) => return Err(error),
                }
            }
            Action::Wait(wait) => next = Next::After((*wait).min(LOOK)),
            _ => {}
        }
    }
    if !plan.holds {
        let problem = taken.as_deref().map(Problem::name_taken);
        bounds.found(key, problem.map(|problem| not_created(problem, created)));
    }
    taken.map_or(Ok(next), |name| Err(ApplyError::Taken { name }))
}

/// Deletes what is to be deleted, some at a time: each deletion is of what is recorded already, and says nothing of the
/// others.
async fn delete(
    context: &Context,
    may_write: MayWrite<'_>,
    namespace: &str,
    plan: &Plan,
) -> Result<(), ApplyError> {
    let deletions = plan.actions.iter().filter_map(|action| match action {
        Action::Delete { name, uid, active } => Some((name, uid, *active)),
        _ => None,
    });
    stream::iter(deletions.map(Ok))
        .try_for_each_concurrent(AT_A_TIME, async |(name, uid, active)| {
            lead(may_write)?;
            context
                .cluster
                .delete_job(namespace, name, uid, active)
                .await?;
            info!(job = name, active, "deleted");
            Ok(())
        })
        .await
}

const fn role(create: &Create) -> Role {
    match create {
        Create::Preflight(_) => Role::Preflight,
        Create::Trials(_) => Role::Trial,
        Create::Look { .. } => Role::Look,
        Create::Collector(_) => Role::Collector,
    }
}

fn lead(may_write: MayWrite<'_>) -> Result<(), ApplyError> {
    if may_write() {
        Ok(())
    } else {
        Err(ApplyError::Deposed)
    }
}

fn job(sweep: &Sweep, create: &Create, plan: &Plan) -> Job {
    match create {
        Create::Preflight(attempt) => build::preflight(sweep, *attempt),
        Create::Trials(indices) => {
            let trials: Vec<_> = indices
                .iter()
                .filter_map(|&index| sweep.expansion.trial(index))
                .collect();
            build::trials(sweep, &trials)
        }
        Create::Look { blocks, attempt } => {
            build::look(sweep, &plan.ledger.encode(), *blocks, *attempt)
        }
        Create::Collector(attempt) => {
            let failed = plan.tally.count(inferbench_crds::Outcome::Failed);
            build::collector(sweep, &plan.ledger.encode(), failed, *attempt)
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
