//! P4, P5, P6 and P9: how much the operator does, and how little.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use inferbench_crds::{
    Outcome,
    contract::ModelReport,
    design::Expansion,
    factor::{Factor, Level, Levels},
    ledger::Outcomes,
    limits,
    splitmix::SplitMix64,
    status::{
        Best, Confirmed, Effect, Expectations, FactorSummary, MAX_BYTES, MeasuredConfiguration,
        MetricByLevel, Summary,
    },
};
use inferbench_fakekube::{Fault, Verb};
use k8s_openapi::jiff::SignedDuration;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    GROUPED, SMALL,
    lab::{Build, Lab, each_seed, in_paused_time},
};

/// Jobs in a namespace that have not ended.
fn live(lab: &Lab) -> usize {
    let jobs = lab.jobs("bench");
    let ended = |job: &&Value| job["status"]["completionTime"].is_null();
    jobs.iter().filter(ended).count()
}

#[test]
fn p4_no_create_exceeds_the_window_and_a_smaller_one_drains() {
    each_seed(2, async |seed| {
        let mut lab = Build::default().lab();
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        let mut random = SplitMix64::new(seed);
        let mut largest = 0;
        while !lab.has_finished("bench", "thesis") {
            let window = 1 + random.below(6);
            lab.edit(
                "bench",
                "thesis",
                json!({"execution": {"parallelism": window}}),
            )
            .await;
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                largest = largest.max(live(&lab));
            }
            // By now those of a wider window have ended.
            assert!(
                live(&lab) <= window as usize,
                "P4: {} in {window}",
                live(&lab)
            );
        }
        lab.check("bench", "thesis");
        assert!(largest > 1, "the window was never used");
    });
}

/// As a ResourceQuota does: a Job that was deleted is counted for a second more.
#[test]
fn a_quota_with_room_for_exactly_the_window_is_no_problem() {
    in_paused_time(async {
        let mut lab = Build::default().lab();
        let kube = lab.kube.clone();
        let deleted = Mutex::new(Vec::new());
        let refused = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&refused);
        lab.kube.set_faults("operator-a", move |call| {
            let is = |verb| call.verb == verb && call.resource == "jobs";
            let mut deleted = deleted.lock().expect("no panic");
            if is(Verb::Delete) {
                deleted.push(kube.now());
            }
            let lag = SignedDuration::from_millis(1_200);
            deleted.retain(|at| kube.now().duration_since(*at) < lag);
            if !is(Verb::Create) || kube.count("jobs.batch") + deleted.len() < 3 {
                return Fault::None;
            }
            count.fetch_add(1, Ordering::Relaxed);
            Fault::Refuse {
                code: 403,
                reason: "Forbidden",
                retry_after: None,
            }
        });
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", SMALL);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        assert!(
            refused.load(Ordering::Relaxed) > 3,
            "the quota was never in the way"
        );
        let events = lab.kube.objects("events.events.k8s.io");
        let told = events.iter().find(|event| event["reason"] == "JobRefused");
        assert!(told.is_none(), "{told:#?}");
    });
}

#[test]
fn p5_nothing_changed_nothing_written() {
    in_paused_time(async {
        let mut lab = Lab::new();
        lab.apply("bench", "thesis", SMALL);
        lab.finish("bench", "thesis").await;
        lab.is_quiet("operator-a").await;
        // A new leader finds it as it is.
        lab.restart("operator-a");
        lab.is_quiet("operator-a").await;
        // Nor while something is waited for: an end of a suspension, room on a node, a pod that takes long.
        lab.apply("lab", "suspended", &format!("{SMALL}suspend: true\n"));
        lab.is_quiet("operator-a").await;
        let patient = SMALL
            .replace("gpus: [1, 2]", "gpus: [8]")
            .replace("pendingTimeout: 10m", "pendingTimeout: 24h");
        lab.apply("other", "stuck", &patient);
        lab.until("stuck", Duration::from_secs(900), |lab| {
            lab.condition("other", "stuck", "Progressing").1 == "Unschedulable"
        })
        .await;
        lab.is_quiet("operator-a").await;
    });
    in_paused_time(async {
        let slow = Build {
            takes: |_| Duration::from_secs(7_200),
            ..Build::default()
        };
        let mut lab = slow.lab();
        lab.start("operator-a", SignedDuration::ZERO);
        let spec = SMALL.replace("trialTimeout: 5m", "trialTimeout: 3h");
        lab.begin("bench", "slow", &spec).await;
        lab.is_quiet("operator-a").await;
    });
}

/// The most that a collection may say: see `inferbench_crds::status`.
fn widest_summary() -> Summary {
    let column = |levels: usize| vec![Some(1.234e-10); levels];
    let factor = |factor: &str, levels: usize, level: String| FactorSummary {
        factor: factor.into(),
        levels: vec![level; levels],
        metrics: (0..limits::SUMMARY_METRICS)
            .map(|_| MetricByLevel {
                metric: "normalized_latency_ms".into(),
                mean: column(levels),
                half_width: column(levels),
            })
            .collect(),
    };
    let effect = Effect {
        metric: "normalized_latency_ms".into(),
        factor: "outputLength".into(),
        share: Some(0.123_4),
        total_share: Some(0.123_4),
        importance: Some(0.123_4),
        correlation: Some(-0.123_4),
    };
    let point = MeasuredConfiguration {
        levels: Levels::new([
            (
                Factor::MODEL,
                Level::from("x".repeat(limits::MODEL_NAME as usize).as_str()),
            ),
            (Factor::BATCH_SIZE, Level::from(1)),
            (Factor::INPUT_LENGTH, Level::from(64)),
            (Factor::OUTPUT_LENGTH, Level::from(64)),
            (Factor::GPUS, Level::from(1)),
            (Factor::DTYPE, Level::from("bf16")),
        ]),
        workload: "x".repeat(limits::SUMMARY_WORKLOAD as usize),
        capacity: Some(0.123_4),
        ..MeasuredConfiguration::default()
    };
    let best = Best {
        goal: "x".repeat(64),
        confirmation: Some(Confirmed::MissesObjectives),
        configuration: point.clone(),
    };
    Summary {
        trials: 50_000,
        invalid: 50_000,
        invalid_reason: Some("x".repeat(limits::SUMMARY_REASON as usize)),
        unmeasured_reason: Some("x".repeat(limits::SUMMARY_REASON as usize)),
        intervals: "Replicates".into(),
        factors: vec![
            factor("model", 12, "x".repeat(limits::MODEL_NAME as usize)),
            factor("inputLength", 64, "1048576".into()),
            factor("outputLength", 64, "1048576".into()),
        ],
        effects: vec![effect; (limits::SUMMARY_METRICS * 3) as usize],
        best: vec![best; limits::SUMMARY_BEST as usize],
        workloads_left_out: 50_000,
        pareto: vec![point; limits::SUMMARY_PARETO as usize],
        expectations: Some(Expectations {
            refuted: 32,
            refuted_names: vec![
                "x".repeat(limits::EXPECTATION_NAME as usize);
                limits::SUMMARY_REFUTED as usize
            ],
            ..Expectations::default()
        }),
    }
}

#[test]
fn p6_the_status_stays_under_64_kib() {
    in_paused_time(async {
        let summary = widest_summary();
        let bytes = serde_json::to_vec(&summary).expect("JSON").len();
        assert!(
            bytes > limits::SUMMARY_BYTES * 3 / 4,
            "{bytes} are not much"
        );
        let largest = Build {
            summary,
            model: ModelReport {
                revision: "f".repeat(64),
                ..ModelReport::default()
            },
            ..Build::default()
        };
        let mut lab = largest.lab();
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        // 12 models × 64 × 64 levels are 49,152 trials.
        let models: Vec<String> = (0..12)
            .map(|number| {
                format!(
                    "{{name: m{}{number:02}, source: {{random: {{preset: gpt2}}}}}}",
                    "x".repeat(limits::MODEL_NAME as usize - 3)
                )
            })
            .collect();
        let levels = |count: usize| {
            let levels: Vec<String> = (1..=count).map(|level| level.to_string()).collect();
            levels.join(", ")
        };
        let spec = format!(
            "
design:
  factors:
    model: [{}]
    batchSize: [1]
    inputLength: [{}]
    outputLength: [{}]
    gpus: [1]
  replicates: 1
results: {{store: {{url: 's3://bucket'}}}}
execution: {{parallelism: 8, maxFailedPercent: 100}}
expectations: [{{name: a, that: 'true'}}]
suspend: true
",
            models.join(", "),
            levels(64),
            levels(64),
        );
        let name = "x".repeat(63);
        lab.apply("bench", &name, &spec);
        lab.edit("bench", &name, json!({"suspend": false})).await;
        lab.measures("bench").await;
        lab.edit("bench", &name, json!({"suspend": true})).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        // All but a few trials have ended meanwhile, in any way, and most of them have failed.
        let mut ledger = lab.ledger("bench", &name);
        let resource = lab.resource("bench", &name);
        let expansion = Expansion::new(&resource.spec.design);
        assert!(expansion.len() > 49_000, "{}", expansion.len());
        let mut random = SplitMix64::new(6);
        for trial in expansion.order().take(expansion.len() as usize - 12) {
            let outcomes = [
                Outcome::Succeeded,
                Outcome::Unsupported,
                Outcome::OutOfMemory,
            ];
            let outcome = outcomes.get(random.below(6) as usize).copied();
            // Trials that have ended so far stay as they are.
            let _ = ledger.record(trial, outcome.unwrap_or(Outcome::Failed));
        }
        let params = PatchParams {
            field_manager: Some("inferbench-operator".into()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({"status": {"ledger": ledger.status()}}));
        let api: Api<inferbench_crds::InferenceBenchmark> =
            Api::namespaced(lab.kube.client("user"), "bench");
        let patched = api.patch_status(&name, &params, &patch).await;
        patched.expect("it is written");
        lab.edit("bench", &name, json!({"suspend": false})).await;
        let mut most = 0;
        while !lab.has_finished("bench", &name) {
            tokio::time::sleep(Duration::from_secs(10)).await;
            most = most.max(size(&lab, &name));
        }
        most = most.max(size(&lab, &name));
        assert!(lab.wrong().is_empty(), "{:?}", lab.wrong());
        let status = lab.status("bench", &name);
        assert!(
            status
                .summary
                .is_some_and(|summary| summary.factors.len() == 3)
        );
        assert!(most > MAX_BYTES * 3 / 4, "{most} are not much");
        assert!(most <= MAX_BYTES, "P6: {most}");
        let again = Outcomes::decode(
            &status.ledger.expect("a ledger").outcomes,
            expansion.len_before_exclusion(),
        );
        assert_eq!(
            again.expect("a ledger").iter().count(),
            expansion.len() as usize
        );
    });
}

/// The bytes of a status, and of what the API server keeps of who wrote it.
fn size(lab: &Lab, name: &str) -> usize {
    let resource = lab.find("bench", name).expect("it is there");
    let fields = resource["metadata"]["managedFields"].as_array();
    let fields = fields.into_iter().flatten();
    let fields = fields.filter(|entry| entry["subresource"] == "status");
    let bytes = |value: &Value| serde_json::to_vec(value).expect("JSON").len();
    let fields: usize = fields.map(bytes).sum();
    assert!(fields > 0, "somebody has written it");
    bytes(&resource["status"]) + fields
}

#[test]
fn p9_suspend_stops_creation_and_resume_repeats_nothing() {
    each_seed(3, async |seed| {
        let mut lab = Build::default().lab();
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        let mut random = SplitMix64::new(seed);
        for _ in 0..4 {
            let wait = Duration::from_secs(u64::from(random.below(300)));
            tokio::time::sleep(wait).await;
            lab.edit("bench", "thesis", json!({"suspend": true})).await;
            // One reconcile, which may have to wait for its turn.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let creates = |lab: &Lab| {
                let counts = lab.kube.counts("operator-a");
                counts.of(Verb::Create, "jobs")
            };
            let before = creates(&lab);
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            assert_eq!(creates(&lab), before, "P9");
            assert_eq!(live(&lab), 0, "those that ran have ended");
            let (state, _) = lab.condition("bench", "thesis", "Suspended");
            assert!(state == "True" || lab.has_finished("bench", "thesis"));
            if random.below(2) == 0 {
                lab.restart("operator-a");
            }
            lab.edit("bench", "thesis", json!({"suspend": false})).await;
        }
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let begun = lab.store.begun(&lab.folder("bench", "thesis"));
        assert!(begun.values().all(|times| *times == 1), "P9: {begun:?}");
    });
}
