use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

fn job(spec: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": "j", "namespace": "bench", "uid": "job-uid"},
        "spec": {
            "template": {
                "metadata": {"labels": {"app": "x"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "runner"}]},
            },
            "completions": 1,
            "parallelism": 1,
            "podFailurePolicy": {"rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": {"containerName": "runner", "operator": "In", "values": [65, 137]}},
            ]},
            "podReplacementPolicy": "Failed",
        },
    });
    for (key, value) in spec.as_object().expect("a spec") {
        job["spec"][key] = value.clone();
    }
    serde_json::from_value(job).expect("a Job")
}

/// A little API server, which does at once what a sync asks for.
struct Bench {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    second: i64,
}

impl Bench {
    fn new(spec: Value) -> Self {
        Self {
            job: job(spec),
            pods: Vec::new(),
            made: 0,
            second: 0,
        }
    }

    fn sync(&mut self) -> Next {
        let pods: Vec<&Pod> = self.pods.iter().collect();
        let next = next(&self.job, &pods, at(self.second), &Backoff::default());
        for name in &next.delete {
            self.delete(name);
        }
        for pod in &next.create {
            self.made += 1;
            let mut pod = pod.clone();
            let prefix = pod.metadata.generate_name.clone().expect("a prefix");
            pod.metadata.name = Some(format!("{prefix}{}", self.made));
            pod.metadata.uid = Some(format!("uid-{}", self.made));
            pod.metadata.creation_timestamp = Some(seconds(at(self.second)));
            self.pods.push(pod);
        }
        if let Some(status) = &next.status {
            self.job.status = Some(status.clone());
        }
        for name in &next.release {
            for pod in &mut self.pods {
                if pod.metadata.name.as_ref() == Some(name) {
                    pod.metadata.finalizers = None;
                }
            }
        }
        self.pods.retain(|pod| {
            pod.metadata.deletion_timestamp.is_none() || is_tracked(pod) || !has_ended(pod)
        });
        next
    }

    /// Syncs until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..20 {
            let next = self.sync();
            let quiet = next.status.is_none() && next.create.is_empty() && next.release.is_empty();
            if quiet && next.delete.is_empty() {
                return;
            }
        }
        panic!("it never settles: {:?}", self.job.status);
    }

    fn delete(&mut self, name: &str) {
        let now = seconds(at(self.second));
        for pod in &mut self.pods {
            if pod.metadata.name.as_deref() == Some(name) {
                pod.metadata.deletion_timestamp.get_or_insert(now.clone());
            }
        }
    }

    /// The newest pod that has not ended ends with this exit code.
    fn end(&mut self, code: i32, conditions: &Value) {
        let pod = self
            .pods
            .iter_mut()
            .rev()
            .find(|pod| !has_ended(pod))
            .expect("a pod that runs");
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        pod.status = serde_json::from_value(json!({
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": [{
                "name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": at(self.second).to_string()}},
            }],
        }))
        .expect("a status");
    }

    fn status(&self) -> &JobStatus {
        self.job.status.as_ref().expect("a status")
    }

    fn conditions(&self) -> Vec<(&str, &str)> {
        let conditions = self.status().conditions.as_deref().unwrap_or_default();
        conditions
            .iter()
            .map(|condition| {
                let reason = condition.reason.as_deref().unwrap_or_default();
                (condition.type_.as_str(), reason)
            })
            .collect()
    }
}

#[test]
fn a_job_makes_its_pod_counts_it_and_completes() {
    let mut bench = Bench::new(json!({}));
    bench.sync();
    let pod = bench.pods[0].clone();
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-"));
    let owner = &pod.metadata.owner_references.as_ref().expect("an owner")[0];
    assert_eq!(
        (owner.controller, owner.block_owner_deletion),
        (Some(true), Some(true))
    );
    let labels = pod.metadata.labels.clone().expect("labels");
    for (label, value) in [
        ("app", "x"),
        ("job-name", "j"),
        ("batch.kubernetes.io/controller-uid", "job-uid"),
    ] {
        assert_eq!(labels.get(label).map(String::as_str), Some(value));
    }
    assert!(is_tracked(&pod));
    assert_eq!(bench.status().start_time, Some(seconds(at(0))));
    assert_eq!(bench.status().active, Some(1));
    bench.settle();
    assert_eq!(bench.pods.len(), 1, "one is enough");

    bench.second = 60;
    bench.end(0, &json!([]));
    let next = bench.sync();
    // First it is noted, and that it suffices; only what is released is counted.
    assert_eq!(
        bench.conditions(),
        [("SuccessCriteriaMet", "CompletionsReached")]
    );
    assert_eq!(next.release, ["j-1"]);
    assert_eq!(bench.status().succeeded, None);
    bench.settle();
    assert_eq!(bench.status().succeeded, Some(1));
    assert_eq!(bench.status().active, None);
    assert_eq!(bench.status().completion_time, Some(seconds(at(60))));
    assert_eq!(
        bench.conditions(),
        [
            ("SuccessCriteriaMet", "CompletionsReached"),
            ("Complete", "CompletionsReached")
        ]
    );
}

#[test]
fn failures_are_replaced_ever_later_until_the_limit() {
    let mut bench = Bench::new(json!({"backoffLimit": 2}));
    for (failure, wait) in [(1, 10), (2, 20)] {
        bench.settle();
        bench.end(1, &json!([]));
        bench.settle();
        assert_eq!(bench.status().failed, Some(failure));
        let again = bench.sync().again.expect("it waits");
        assert_eq!(again, Duration::from_secs(wait));
        assert_eq!(bench.status().active, None);
        bench.second += i64::try_from(wait).expect("few") - 1;
        bench.settle();
        assert_eq!(bench.pods.len(), failure as usize);
        bench.second += 1;
        bench.settle();
        assert_eq!(bench.pods.len(), failure as usize + 1);
    }
    bench.end(1, &json!([]));
    bench.settle();
    assert_eq!(
        bench.conditions(),
        [
            ("FailureTarget", "BackoffLimitExceeded"),
            ("Failed", "BackoffLimitExceeded")
        ]
    );
    assert_eq!((bench.status().failed, bench.pods.len()), (Some(3), 3));
}

#[test]
fn exit_codes_fail_the_job_and_disruptions_do_not_count() {
    let mut bench = Bench::new(json!({"backoffLimit": 0}));
    bench.settle();
    // Killed, but not by a fault of its own: the first rule that matches decides.
    let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
    bench.end(137, &disrupted);
    bench.settle();
    bench.second += 10;
    bench.settle();
    assert_eq!((bench.pods.len(), bench.status().failed), (2, None));
    bench.end(65, &json!([]));
    bench.settle();
    assert_eq!(
        bench.conditions(),
        [
            ("FailureTarget", "PodFailurePolicy"),
            ("Failed", "PodFailurePolicy")
        ]
    );
    let conditions = bench.status().conditions.as_ref().expect("conditions");
    assert_eq!(
        conditions[1].message.as_deref(),
        Some(
            "Container runner for pod bench/j-2 failed with exit code 65 matching FailJob rule at index 1"
        )
    );
}

#[test]
fn a_pod_that_is_going_is_not_replaced_before_it_has_gone() {
    let mut bench = Bench::new(json!({"backoffLimit": 3}));
    bench.settle();
    bench.delete("j-1");
    bench.settle();
    assert_eq!(bench.pods.len(), 1);
    assert_eq!(
        (bench.status().active, bench.status().terminating),
        (None, Some(1))
    );
    bench.end(1, &json!([]));
    bench.settle();
    // It is counted and gone, and so is what would have made the next one wait.
    assert_eq!(bench.status().failed, Some(1));
    let names: Vec<String> = bench.pods.iter().map(name).collect();
    assert_eq!(names, ["j-2"]);
}

#[test]
fn an_indexed_job_hands_each_index_to_one_pod_after_the_other() {
    let mut bench = Bench::new(json!({"completionMode": "Indexed", "completions": 4}));
    bench.settle();
    let first = bench.pods[0].clone();
    assert_eq!(first.metadata.generate_name.as_deref(), Some("j-0-"));
    let spec = first.spec.as_ref().expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("j-0"));
    let env = spec.containers[0].env.as_ref().expect("variables");
    assert_eq!(env[0].name, "JOB_COMPLETION_INDEX");
    bench.end(0, &json!([]));
    bench.settle();
    assert_eq!(bench.status().completed_indexes.as_deref(), Some("0"));
    // Index 1 fails and is tried again.
    bench.end(1, &json!([]));
    bench.settle();
    bench.second += 10;
    bench.settle();
    assert_eq!(index(bench.pods.last().expect("a pod")), Some(1));
    for code in [0, 0, 0] {
        bench.end(code, &json!([]));
        bench.settle();
    }
    assert_eq!(bench.status().completed_indexes.as_deref(), Some("0-3"));
    assert_eq!(
        (bench.status().succeeded, bench.status().failed),
        (Some(4), Some(1))
    );
    assert_eq!(bench.conditions()[1], ("Complete", "CompletionsReached"));
}

#[test]
fn suspension_takes_the_pods_and_resumption_brings_them_back() {
    let mut bench = Bench::new(json!({"suspend": true}));
    bench.settle();
    assert!(bench.pods.is_empty());
    assert_eq!(bench.conditions(), [("Suspended", "JobSuspended")]);
    assert_eq!(bench.status().start_time, None);
    let suspend = |bench: &mut Bench, suspend| {
        bench.job.spec.as_mut().expect("a spec").suspend = Some(suspend);
        bench.second += 5;
        bench.settle();
    };
    suspend(&mut bench, false);
    assert_eq!(bench.conditions(), [("Suspended", "JobResumed")]);
    assert_eq!(bench.status().start_time, Some(seconds(at(5))));
    assert_eq!(bench.pods.len(), 1);
    suspend(&mut bench, true);
    assert!(bench.pods[0].metadata.deletion_timestamp.is_some());
    assert_eq!(bench.conditions(), [("Suspended", "JobSuspended")]);
}

#[test]
fn a_job_that_is_overdue_or_long_finished_goes() {
    let mut bench =
        Bench::new(json!({"activeDeadlineSeconds": 100, "ttlSecondsAfterFinished": 50}));
    bench.settle();
    assert_eq!(bench.sync().again, Some(Duration::from_secs(100)));
    bench.second = 100;
    bench.sync();
    assert_eq!(bench.conditions(), [("FailureTarget", "DeadlineExceeded")]);
    assert!(bench.pods[0].metadata.deletion_timestamp.is_some());
    // It has not failed while a pod of it runs.
    bench.settle();
    assert_eq!(bench.conditions().len(), 1);
    bench.end(1, &json!([]));
    bench.settle();
    assert_eq!(bench.conditions()[1], ("Failed", "DeadlineExceeded"));
    let next = bench.sync();
    assert_eq!(
        (next.expired, next.again),
        (false, Some(Duration::from_secs(50)))
    );
    bench.second = 150;
    assert!(bench.sync().expired);
}

#[test]
fn the_pods_of_a_job_that_goes_are_let_go_of() {
    let mut bench = Bench::new(json!({}));
    bench.settle();
    bench.job.metadata.deletion_timestamp = Some(seconds(at(1)));
    let next = bench.sync();
    assert_eq!(next.release, ["j-1"]);
    assert!(next.status.is_none() && next.create.is_empty());
}

#[test]
fn no_pod_is_counted_twice_or_not_at_all_wherever_a_sync_ends() {
    // A sync may be cut off after any of its steps: writes before that stand.
    for cut in 0..3 {
        let mut bench = Bench::new(json!({"backoffLimit": 5}));
        bench.settle();
        bench.end(1, &json!([]));
        let pods: Vec<&Pod> = bench.pods.iter().collect();
        let next = next(&bench.job, &pods, at(0), &Backoff::default());
        if cut > 0 {
            bench.job.status = next.status;
        }
        if cut > 1 {
            bench.pods[0].metadata.finalizers = None;
        }
        bench.settle();
        assert_eq!(bench.status().failed, Some(1), "cut after {cut}");
        assert_eq!(
            bench.status().uncounted_terminated_pods,
            Some(Default::default()),
            "cut after {cut}"
        );
    }
}

#[test]
fn indexes_are_written_as_kubernetes_writes_them() {
    for text in ["", "0", "0,1", "0-2", "0-2,4,5,7-9"] {
        assert_eq!(write_indexes(&read_indexes(text)), text);
    }
}
