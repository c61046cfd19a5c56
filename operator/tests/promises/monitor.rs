//! Promises that hold at every moment: checked with every request of an operator, and reported in the end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use inferbench_crds::{InferenceBenchmarkSpec, Outcome, design::Expansion, ledger::Outcomes};
use inferbench_fakekube::{Call, FakeKube, Verb};
use serde_json::Value;
use tokio::time::Instant;

/// How long a reconcile may go on with what it read when it began: it is a few calls, each bounded.
const RECONCILE: Duration = Duration::from_secs(60);

/// The resources, as far as they are known.
pub struct Monitor {
    kube: FakeKube,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// By uid: the last ledger, and what the user wanted since when.
    resources: BTreeMap<String, Resource>,
    /// Creations beyond the window that are borne: one for a leader that does not know yet that it is none.
    slack: usize,
    wrong: Vec<String>,
}

struct Resource {
    ledger: Outcomes,
    /// The blocks after which it was decided what is not needed.
    decided: u64,
    wanted: Vec<(Instant, u64)>,
}

impl Monitor {
    pub fn new(kube: FakeKube) -> Self {
        Self {
            kube,
            seen: Mutex::default(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// There may be a leader that does not know that it is none.
    pub fn bear_one_more(&self) {
        self.with(|seen| seen.slack = 1);
    }

    /// Violations of a promise.
    pub fn wrong(&self) -> Vec<String> {
        self.with(|seen| seen.wrong.clone())
    }

    /// Looks at what there is before a request of an operator is answered.
    pub fn look(&self, call: &Call) {
        let writes = call.verb.writes() && call.resource != "leases" && call.resource != "events";
        if !writes {
            return;
        }
        let resources = self.kube.objects("inferencebenchmarks.inferbench.dev");
        let jobs = (call.verb == Verb::Create && call.resource == "jobs")
            .then(|| self.kube.objects("jobs.batch"));
        self.with(|seen| {
            for resource in &resources {
                seen.look(resource, jobs.as_deref(), &call.namespace);
            }
        });
    }
}

impl Seen {
    fn look(&mut self, resource: &Value, jobs: Option<&[Value]>, namespace: &str) {
        let metadata = &resource["metadata"];
        let Ok(spec) = serde_json::from_value::<InferenceBenchmarkSpec>(resource["spec"].clone())
        else {
            return;
        };
        let uid = metadata["uid"].as_str().unwrap_or_default();
        let trials = Expansion::new(&spec.design).len_before_exclusion();
        let text = resource["status"]["ledger"]["outcomes"].as_str();
        let Ok(ledger) = Outcomes::decode(text.unwrap_or_default(), trials) else {
            return;
        };
        let window = if spec.suspend {
            0
        } else {
            u64::try_from(spec.execution.parallelism).unwrap_or(0)
        };
        let now = Instant::now();
        let known = self.resources.entry(uid.to_owned()).or_insert(Resource {
            ledger: Outcomes::new(trials),
            decided: 0,
            wanted: Vec::new(),
        });
        let decided = resource["status"]["ledger"]["decided"]
            .as_u64()
            .unwrap_or(0);
        let new = ledger.iter().any(|(index, outcome)| {
            outcome == Outcome::NotNeeded && known.ledger.get(index).is_none()
        });
        if decided < known.decided || (new && decided == known.decided) {
            self.wrong.push(format!(
                "decided twice: after {decided} blocks, and after {} before",
                known.decided
            ));
        }
        known.decided = decided;
        for (index, before) in known.ledger.iter() {
            let after = ledger.get(index);
            // A collection may know better than a pod's end alone has shown.
            if after != Some(before) && (!before.gives_way() || after.is_none()) {
                self.wrong
                    .push(format!("P3: trial {index} was {before}, and is {after:?}"));
            }
        }
        known.ledger = ledger;
        if known.wanted.last().map(|(_, window)| *window) != Some(window) {
            known.wanted.push((now, window));
        }
        // A window that was wanted until a moment ago still counts: a reconcile may have read it.
        let ends = known.wanted.iter().skip(1).map(|(since, _)| Some(*since));
        let counts = known.wanted.iter().zip(ends.chain([None]));
        let most = counts
            .filter(|(_, end)| end.is_none_or(|end| now - end < RECONCILE))
            .map(|((_, window), _)| *window)
            .max();
        let most = usize::try_from(most.unwrap_or(0)).unwrap_or(0);
        let Some(jobs) = jobs.filter(|_| metadata["namespace"] == namespace) else {
            return;
        };
        let live = jobs.iter().filter(|job| is_live_trial(job, uid)).count();
        if most == 0 {
            self.wrong
                .push("P9: a Job is created while suspended".into());
        } else if live >= most + self.slack {
            self.wrong.push(format!(
                "P4: {live} Jobs live, and another is created in a window of {most}"
            ));
        }
    }
}

/// Whether a Job of this resource measures and has not ended.
fn is_live_trial(job: &Value, uid: &str) -> bool {
    let labels = &job["metadata"]["labels"];
    let conditions = job["status"]["conditions"].as_array();
    let ended = conditions.into_iter().flatten().any(|condition| {
        condition["status"] == "True"
            && (condition["type"] == "Complete" || condition["type"] == "Failed")
    });
    labels["inferbench.dev/uid"] == uid
        && labels["app.kubernetes.io/component"] == "trial"
        && job["metadata"]["ownerReferences"][0]["uid"] == uid
        && job["metadata"]["ownerReferences"][0]["controller"] == true
        && !ended
}
