//! P1, P2, P3 and P10: whatever happens, every trial ends, once, and what is known stays known.

use std::time::Duration;

use inferbench_crds::{Outcome, contract::ModelReport, splitmix::SplitMix64};
use inferbench_fakekube::Fault;
use k8s_openapi::jiff::SignedDuration;
use serde_json::json;

use crate::{
    GROUPED, SMALL,
    faults::Kind,
    lab::{Build, Lab, each_seed, in_paused_time, killed_at_every_write},
    runner::Nature,
};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Where trials end in every way there is.
fn mixed() -> Build {
    let fine = Build::default();
    Build {
        nature: Nature::mixed,
        model: ModelReport {
            max_tokens: Some(500),
            ..fine.model.clone()
        },
        ..fine
    }
}

#[test]
fn p1_every_trial_ends_with_one_result_or_a_recorded_failure() {
    in_paused_time(async {
        let mut lab = mixed().lab();
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!((counts.done, counts.pending, counts.active), (36, 0, 0));
        assert_eq!(counts.unsupported, 12);
        // Each kind of end, or the test would say little.
        let kinds = [
            counts.succeeded,
            counts.failed,
            counts.out_of_memory,
            counts.timed_out,
        ];
        assert!(kinds.iter().all(|count| *count > 0), "{counts:?}");
        assert_eq!(lab.condition("bench", "thesis", "Succeeded").0, "True");
    });
}

#[test]
fn p1_whatever_the_api_server_does() {
    each_seed(3, async |seed| {
        let mut lab = mixed().lab();
        lab.disturb("operator-a", &Kind::ALL, 15, seed);
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        tokio::time::sleep(Duration::from_secs(2_400)).await;
        lab.watch("operator-a");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
    });
}

#[test]
fn p1_under_each_fault_of_the_api_server_by_itself() {
    for kind in Kind::ALL {
        eprintln!("{kind:?}");
        in_paused_time(async {
            let mut lab = Build::default().lab();
            lab.disturb("operator-a", &[kind], 30, 11);
            lab.start("operator-a", SignedDuration::ZERO);
            lab.apply("bench", "thesis", SMALL);
            tokio::time::sleep(Duration::from_secs(900)).await;
            lab.watch("operator-a");
            lab.finish("bench", "thesis").await;
            lab.check("bench", "thesis");
            let counts = lab.status("bench", "thesis").counts.expect("counts");
            assert_eq!(counts.succeeded, 12, "{kind:?}");
        });
    }
}

#[test]
fn p1_whatever_happens_to_the_cluster() {
    each_seed(3, async |seed| {
        let mut lab = mixed().lab();
        lab.disturb("operator-a", &Kind::ALL, 5, seed);
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        let mut random = SplitMix64::stream(seed, 1);
        for _ in 0..60 {
            let wait = Duration::from_secs(u64::from(random.below(60)));
            tokio::time::sleep(wait).await;
            lab.harm("bench", &mut random).await;
        }
        lab.watch("operator-a");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
    });
}

#[test]
fn p1_wherever_the_operator_is_killed() {
    killed_at_every_write(SMALL, 30, |lab, why| {
        lab.check("bench", "thesis");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!(counts.succeeded, 12, "{why}");
        let begun = lab.store.begun(&lab.folder("bench", "thesis"));
        assert!(
            begun.values().all(|times| *times == 1),
            "P2: {why} {begun:?}"
        );
    });
}

#[test]
fn p1_though_it_is_killed_again_and_again() {
    each_seed(2, async |seed| {
        let mut random = SplitMix64::new(seed);
        let mut lab = mixed().lab();
        lab.apply("bench", "thesis", GROUPED);
        for _ in 0..40 {
            let (nth, is_done) = (u64::from(1 + random.below(5)), random.below(2) == 0);
            let stopped = lab.stop_at_write("operator-a", nth, is_done);
            lab.start("operator-a", SignedDuration::ZERO);
            tokio::select! {
                () = stopped.wait() => {}
                () = tokio::time::sleep(Duration::from_secs(300)) => {}
            }
            lab.kill("operator-a");
        }
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
    });
}

#[test]
fn p1_with_two_operators_whose_clocks_are_an_hour_off() {
    each_seed(2, async |seed| {
        let mut lab = mixed().lab();
        lab.monitor.bear_one_more();
        lab.watch("operator-a");
        lab.watch("operator-b");
        lab.start("operator-a", HOUR);
        lab.start("operator-b", -HOUR);
        lab.apply("bench", "thesis", GROUPED);
        let mut random = SplitMix64::new(seed);
        for round in 0..12 {
            // Whoever leads cannot renew its lease, in the middle of a reconcile, and works on until it knows.
            let (name, other) =
                [("operator-a", "operator-b"), ("operator-b", "operator-a")][round % 2];
            let monitor = std::sync::Arc::clone(&lab.monitor);
            let slow = Duration::from_millis(u64::from(random.below(4_000)));
            lab.kube.set_faults(name, move |call| {
                monitor.look(call);
                if call.resource == "leases" {
                    Fault::Hang
                } else {
                    Fault::Delay(slow)
                }
            });
            lab.watch(other);
            tokio::time::sleep(Duration::from_secs(30 + u64::from(random.below(120)))).await;
        }
        lab.watch("operator-a");
        lab.watch("operator-b");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let leads = |name: &str| lab.writes(name) > 0;
        assert!(
            leads("operator-a") && leads("operator-b"),
            "only one has ever led"
        );
    });
}

#[test]
fn p1_though_the_store_refuses_the_credentials() {
    in_paused_time(async {
        let lab = Lab::new();
        let refuse = |refuses| {
            let flag = &lab.store.refuses;
            flag.store(refuses, std::sync::atomic::Ordering::SeqCst);
        };
        refuse(true);
        lab.apply("bench", "thesis", SMALL);
        let limit = Duration::from_secs(600);
        lab.until("refused", limit, |lab| {
            lab.condition("bench", "thesis", "Progressing").1 == "PreflightFailed"
        })
        .await;
        let conditions = lab.status("bench", "thesis").conditions;
        assert!(
            conditions.iter().any(|it| it.message.contains("403")),
            "{conditions:#?}"
        );
        tokio::time::sleep(Duration::from_secs(7_200)).await;
        assert!(lab.store.begun(&lab.folder("bench", "thesis")).is_empty());
        refuse(false);
        let all_ended = |lab: &Lab| lab.ledger("bench", "thesis").iter().count() == 12;
        lab.until(
            "measured",
            3 * limit + Duration::from_secs(3_600),
            all_ended,
        )
        .await;
        // And again, when it is to be collected.
        refuse(true);
        lab.until("refused", 10 * limit, |lab| {
            lab.condition("bench", "thesis", "Progressing").1 == "CollectionFailed"
        })
        .await;
        refuse(false);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
    });
}

#[test]
fn p1_though_its_jobs_expire_before_they_are_recorded() {
    in_paused_time(async {
        let mut lab = Lab::new();
        let spec = format!("{SMALL}retention: {{ttlSecondsAfterFinished: 3600}}\n");
        lab.begin("bench", "thesis", &spec).await;
        lab.kill("operator-a");
        tokio::time::sleep(Duration::from_secs(2 * 3_600)).await;
        assert!(lab.jobs("bench").is_empty(), "they have expired");
        let stored = lab.store.records(&lab.folder("bench", "thesis")).len();
        assert!(stored > 0);
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!(counts.succeeded, 12);
        assert!(counts.reused > 0, "what was stored was found: {counts:?}");
    });
}

#[test]
fn p1_with_shapes_that_no_node_has_room_for() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.apply(
            "bench",
            "thesis",
            &SMALL.replace("gpus: [1, 2]", "gpus: [1, 8]"),
        );
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!((counts.succeeded, counts.failed), (6, 6));
        assert!(lab.pods("bench").is_empty(), "P8");
    });
}

#[test]
fn p2_no_trial_is_measured_again_once_its_result_is_stored() {
    each_seed(2, async |seed| {
        // The runner looks before it measures, so what counts is that it is always asked by the same key.
        let mut lab = Build::default().lab();
        lab.disturb("operator-a", &Kind::ALL, 10, seed);
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        let mut random = SplitMix64::stream(seed, 2);
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(u64::from(random.below(120)))).await;
            lab.restart("operator-a");
        }
        lab.watch("operator-a");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let folder = lab.folder("bench", "thesis");
        let (begun, records) = (lab.store.begun(&folder), lab.store.records(&folder));
        assert_eq!(records.len(), 36);
        // Nothing has ended a pod, so that nothing was begun twice.
        assert!(begun.values().all(|times| *times == 1), "{begun:?}");
    });
}

#[test]
fn p3_no_index_leaves_the_ledger() {
    each_seed(3, async |seed| {
        // The monitor compares the ledger with the one before it at every write; here with users and rivals at work.
        let mut lab = mixed().lab();
        lab.monitor.bear_one_more();
        for name in ["operator-a", "operator-b"] {
            lab.disturb(name, &Kind::ALL, 10, seed);
            lab.start(name, SignedDuration::ZERO);
        }
        lab.apply("bench", "thesis", GROUPED);
        let mut random = SplitMix64::stream(seed, 3);
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(u64::from(random.below(90)))).await;
            lab.fidget("bench", "thesis", &mut random).await;
            lab.harm("bench", &mut random).await;
        }
        lab.watch("operator-a");
        lab.watch("operator-b");
        lab.edit("bench", "thesis", json!({"suspend": false})).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
    });
}

#[test]
fn p3_a_stored_record_outranks_a_failure() {
    in_paused_time(async {
        let mut lab = Lab::new();
        lab.watch("operator-a");
        lab.apply("bench", "thesis", SMALL);
        // Nobody hears what the first pods have measured: the Job has completed, and how it ended is not known.
        let mut lost = 0;
        while lost < 3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for pod in lab.pods("bench") {
                let labels = &pod["metadata"]["labels"];
                let name = pod["metadata"]["name"].as_str().expect("a name");
                if labels["app.kubernetes.io/component"] == "trial" && lost < 3 {
                    lost += usize::from(lab.cluster.lose_message("bench", name).await);
                }
            }
        }
        lab.until("recorded as failed", Duration::from_secs(3_600), |lab| {
            lab.ledger("bench", "thesis").count(Outcome::Failed) > 0
        })
        .await;
        lab.restart("operator-a");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!((counts.succeeded, counts.failed), (12, 0));
    });
}

#[test]
fn p10_the_summary_depends_only_on_results_ledger_and_objectives() {
    let found = std::sync::Mutex::new(Vec::new());
    for disturbed in [false, true] {
        in_paused_time(async {
            let mut lab = Build::default().lab();
            if disturbed {
                lab.disturb("operator-a", &Kind::ALL, 20, 5);
            }
            lab.start("operator-a", SignedDuration::ZERO);
            lab.apply("bench", "thesis", GROUPED);
            tokio::time::sleep(Duration::from_secs(600)).await;
            if disturbed {
                lab.edit("bench", "thesis", json!({"execution": {"parallelism": 1}}))
                    .await;
                lab.restart("operator-a");
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
            lab.watch("operator-a");
            lab.finish("bench", "thesis").await;
            lab.check("bench", "thesis");
            let first = lab.status("bench", "thesis");
            let results = first.results.clone().expect("results");
            let noted = (
                first.summary,
                results.sha256.clone(),
                results.inputs.clone(),
            );
            found.lock().expect("no panic").push(noted);
            // Other objectives are collected anew; what is only about execution is not.
            lab.edit("bench", "thesis", json!({"execution": {"parallelism": 7}}))
                .await;
            tokio::time::sleep(Duration::from_secs(600)).await;
            let second = lab.status("bench", "thesis").results.expect("results");
            assert_eq!(second, results);
            lab.edit(
                "bench",
                "thesis",
                json!({"objectives": {"maxTtft": "123ms"}}),
            )
            .await;
            lab.until("collected anew", Duration::from_secs(3_600), |lab| {
                let now = lab.status("bench", "thesis").results.expect("results");
                now.inputs != results.inputs && lab.has_finished("bench", "thesis")
            })
            .await;
            let third = lab.status("bench", "thesis").results.expect("results");
            assert_eq!(third.sha256, results.sha256);
            // So are other expectations.
            let expected = json!([{"name": "fast", "that": "mean('ttftMs') < 9"}]);
            lab.edit("bench", "thesis", json!({"expectations": expected}))
                .await;
            lab.until("judged", Duration::from_secs(3_600), |lab| {
                let now = lab.status("bench", "thesis").results.expect("results");
                now.inputs != third.inputs && lab.has_finished("bench", "thesis")
            })
            .await;
            let last = lab.status("bench", "thesis");
            assert_eq!(last.results.expect("results").sha256, results.sha256);
            // This lab's collections judge nothing.
            let said = last.conditions.iter();
            let said = said.filter(|condition| condition.type_ == "Expectations");
            let said: Vec<&str> = said.map(|condition| condition.reason.as_str()).collect();
            assert_eq!(said, ["NotCollected"]);
        });
    }
    let found = found.into_inner().expect("no panic");
    assert_eq!(found[0], found[1]);
}
