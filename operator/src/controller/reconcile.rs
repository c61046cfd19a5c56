//! One pass over one resource: look, decide, act. What is decided rests on what the API server says in this very pass,
//! and is void when the resource changes meanwhile.

use std::time::Duration;

use inferbench_crds::{InferenceBenchmark, Violation, ledger::Outcomes};
use k8s_openapi::{api::batch::v1::Job, jiff::Timestamp};
use tracing::{info, warn};

use super::{
    apply::{ApplyError, Cluster, Created},
    build, events,
    observe::{JobView, PodView},
    plan::{Action, Create, Known, Phase, Plan, plan},
    status,
    sweep::{Defaults, Sweep},
    validate::validate,
};

/// How long to wait where there is no room for a Job.
const NO_ROOM: Duration = Duration::from_secs(30);
/// How long an unfinished sweep goes without a look at most: a missed event must not stop it for good.
const LOOK: Duration = Duration::from_secs(600);

/// When to look at a resource again, unless something happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When it changes.
    Changed,
    /// After so long.
    After(Duration),
}

/// Whether this replica may write; asked before every single write.
pub type MayWrite<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// One pass over the resource of this name.
///
/// # Errors
/// Where the API server does not play along; the next pass begins anew from what is there then.
pub async fn reconcile(
    cluster: &Cluster,
    defaults: &Defaults,
    may_write: MayWrite<'_>,
    (namespace, name): (&str, &str),
    now: Timestamp,
) -> Result<Next, ApplyError> {
    let resource = match cluster.resource(namespace, name).await? {
        None => return Ok(Next::Changed),
        Some(Err(error)) => {
            warn!(%error, "the resource cannot be read");
            return Ok(Next::Changed);
        }
        Some(Ok(resource)) => resource,
    };
    if resource.metadata.deletion_timestamp.is_some() {
        // Its Jobs go with it.
        return Ok(Next::Changed);
    }
    match accept(&resource, defaults) {
        Ok((sweep, known)) => pass(cluster, may_write, &resource, sweep, known, now).await,
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
                let told = events::of_rejection(&old, &status);
                cluster.tell(&resource, &told).await;
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
    Ok((sweep, Known { ledger, inputs }))
}

async fn pass(
    cluster: &Cluster,
    may_write: MayWrite<'_>,
    resource: &InferenceBenchmark,
    sweep: Sweep,
    known: Known,
    now: Timestamp,
) -> Result<Next, ApplyError> {
    let (namespace, uid) = (&sweep.namespace, &sweep.uid);
    // Jobs before pods: the pods of a Job that is seen to have ended are seen to have ended, too.
    let jobs = cluster.jobs(namespace, uid).await?;
    let pods = cluster.pods(namespace, uid).await?;
    let pods: Vec<PodView> = pods.iter().filter_map(PodView::of).collect();
    let jobs: Vec<JobView> = jobs
        .iter()
        .filter_map(|job| JobView::of(job, uid))
        .collect();
    let plan = plan(&sweep, &known, &jobs, &pods, now);
    let old = resource.status.clone().unwrap_or_default();
    let status = status::status(&sweep, &old, &plan, now);
    lead(may_write)?;
    if cluster.patch_status(resource, &status).await? {
        tell(&plan);
        let told = events::of_pass(&sweep, &old, &status, &plan);
        cluster.tell(resource, &told).await;
    }
    for action in &plan.actions {
        if let Action::Delete { name, uid, active } = action {
            lead(may_write)?;
            cluster.delete_job(namespace, name, uid, *active).await?;
            info!(job = name, active, "deleted");
        }
    }
    let mut next = match plan.phase {
        Phase::Finished => Next::Changed,
        Phase::Preflight | Phase::Measuring | Phase::Collecting => Next::After(LOOK),
    };
    for action in &plan.actions {
        match action {
            Action::Create(create) => {
                let job = job(&sweep, create, &plan);
                lead(may_write)?;
                let created = cluster.create_job(namespace, &job, uid).await?;
                let job = job.metadata.name.unwrap_or_default();
                if created == Created::NoRoom {
                    warn!(job, "the API server forbids the Job: a quota?");
                    return Ok(Next::After(NO_ROOM));
                }
                info!(job, "created");
            }
            Action::Wait(wait) => next = Next::After((*wait).min(LOOK)),
            _ => {}
        }
    }
    Ok(next)
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
        Create::Collector(attempt) => {
            let failed = plan.tally.count(inferbench_crds::Outcome::Failed);
            build::collector(sweep, &plan.ledger.encode(), failed, *attempt)
        }
    }
}

/// What was recorded, for the logs.
fn tell(plan: &Plan) {
    for action in &plan.actions {
        match action {
            Action::Pin(models) => info!(models = models.len(), "models pinned"),
            Action::Record(ended) => {
                for trial in ended.iter().filter(|trial| !trial.why.is_empty()) {
                    warn!(trial = trial.index, outcome = %trial.outcome, why = trial.why, "trial failed");
                }
                info!(trials = ended.len(), ended = plan.tally.ended(), "recorded");
            }
            Action::Collect { collected, .. } => {
                info!(rows = collected.results.rows, "results collected");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
