//! Designs with `until`: what a look between two blocks decides is decided once, and nothing is measured that it decided
//! against, wherever the operator is killed and whatever happens to the cluster.

use std::time::Duration;

use inferbench_crds::{Outcome, design::Expansion, splitmix::SplitMix64};
use k8s_openapi::jiff::SignedDuration;
use serde_json::json;

use crate::{
    faults::Kind,
    lab::{Build, Lab, each_seed, in_paused_time, killed_at_every_write},
    runner::Nature,
};

/// Six combinations, two to five times each: the runner of these tests has enough of a combination with two, three or
/// four results, as its number says.
const LOOKED_AT: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4]
    inputLength: [8]
    gpus: [1, 2]
  replicates: 5
  until: {metric: outputThroughput, halfWidth: 3%, min: 2}
results: {store: {url: 's3://bucket'}}
execution: {parallelism: 3, startupTimeout: 10m, pendingTimeout: 10m, trialTimeout: 5m, maxFailedPercent: 100}
";

/// Two combinations each with 3, 2 and 1 trials that are not needed.
const NOT_NEEDED: u32 = 12;

/// Every trial has the end that it has with nothing in the way.
fn check(lab: &Lab, why: &str) {
    lab.check("bench", "thesis");
    let ledger = lab.ledger("bench", "thesis");
    for index in 0..30 {
        let (block, combination) = (index / 6, index % 6);
        let expected = if block >= 2 + combination % 3 {
            Outcome::NotNeeded
        } else {
            Outcome::Succeeded
        };
        assert_eq!(ledger.get(index), Some(expected), "trial {index}, {why}");
    }
    let status = lab.status("bench", "thesis");
    let counts = status.counts.expect("counts");
    assert_eq!(
        (counts.done, counts.succeeded, counts.pending),
        (30, 18, 0),
        "{why}"
    );
    assert_eq!(counts.not_needed.unsigned_abs(), NOT_NEEDED, "{why}");
    assert_eq!(status.ledger.expect("a ledger").decided, 4, "{why}");
    let begun = lab.store.begun(&lab.folder("bench", "thesis"));
    assert_eq!(begun.len(), 18, "{why}");
    assert!(begun.values().all(|times| *times == 1), "{why}: {begun:?}");
}

#[test]
fn combinations_that_are_enough_run_no_further_and_then_all_is_quiet() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.watch("operator-a");
        lab.apply("bench", "thesis", LOOKED_AT);
        lab.finish("bench", "thesis").await;
        check(&lab, "undisturbed");
        let succeeded = lab.status("bench", "thesis").conditions;
        let succeeded = succeeded
            .iter()
            .find(|it| it.type_ == "Succeeded")
            .expect("one");
        assert_eq!(
            succeeded.message,
            "All 30 trials ended; 0 failed, 12 not needed."
        );
        lab.is_quiet("operator-a").await;
    });
}

#[test]
fn wherever_the_operator_is_killed_the_same_is_decided() {
    killed_at_every_write(LOOKED_AT, 40, check);
}

/// The same, and then the best again, twice: by this lab's runner every third combination.
fn confirmed() -> String {
    LOOKED_AT.replace(
        "  replicates: 5\n",
        "  replicates: 5\n  confirm: {replicates: 2}\n",
    )
}

/// Every trial has the end that it has with nothing in the way, what is measured again among them.
fn check_confirmed(lab: &Lab, why: &str) {
    lab.check("bench", "thesis");
    let ledger = lab.ledger("bench", "thesis");
    for index in 0..42 {
        let (block, combination) = (index / 6, index % 6);
        let needed = match block {
            0..5 => block < 2 + combination % 3,
            _ => combination % 3 == 0,
        };
        let expected = if needed {
            Outcome::Succeeded
        } else {
            Outcome::NotNeeded
        };
        assert_eq!(ledger.get(index), Some(expected), "trial {index}, {why}");
    }
    let status = lab.status("bench", "thesis");
    let counts = status.counts.expect("counts");
    assert_eq!(
        (
            counts.done,
            counts.succeeded,
            counts.not_needed,
            counts.pending
        ),
        (42, 22, 20, 0),
        "{why}"
    );
    assert_eq!(status.ledger.expect("a ledger").decided, 5, "{why}");
    let begun = lab.store.begun(&lab.folder("bench", "thesis"));
    assert_eq!(begun.len(), 22, "{why}");
    assert!(begun.values().all(|times| *times == 1), "{why}: {begun:?}");
}

#[test]
fn what_is_best_is_measured_again_and_nothing_else_wherever_the_operator_is_killed() {
    killed_at_every_write(&confirmed(), 50, check_confirmed);
}

#[test]
fn without_until_the_best_is_measured_again_too_and_then_all_is_quiet() {
    let spec = confirmed().replace(
        "  until: {metric: outputThroughput, halfWidth: 3%, min: 2}\n",
        "",
    );
    in_paused_time(async {
        let lab = Lab::new();
        lab.watch("operator-a");
        lab.apply("bench", "thesis", &spec);
        let limit = Duration::from_secs(7_200);
        lab.until("measuring", limit, |lab| {
            lab.ledger("bench", "thesis").iter().count() >= 9
        })
        .await;
        let conditions = lab.status("bench", "thesis").conditions;
        let message = conditions
            .iter()
            .find(|it| it.type_ == "Progressing")
            .map(|it| it.message.as_str());
        // Six of one workload: the best and two rivals.
        assert_eq!(
            message,
            Some("30 trials are planned, and then at most 6 that measure the best again.")
        );
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let ended = lab.ledger("bench", "thesis");
        assert_eq!(
            (
                ended.count(Outcome::Succeeded),
                ended.count(Outcome::NotNeeded)
            ),
            (34, 8)
        );
        lab.is_quiet("operator-a").await;
    });
}

#[test]
fn other_objectives_ask_anew_what_is_measured_again_until_that_is_decided() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.watch("operator-a");
        lab.apply("bench", "thesis", &confirmed());
        let limit = Duration::from_secs(7_200);
        let looks = |lab: &Lab| {
            let jobs = lab.jobs("bench").into_iter();
            let looks = jobs
                .filter(|job| job["metadata"]["labels"]["app.kubernetes.io/component"] == "look");
            looks.collect::<Vec<_>>()
        };
        let is_last = |lab: &Lab| {
            let decided = lab
                .status("bench", "thesis")
                .ledger
                .map_or(0, |ledger| ledger.decided);
            decided >= 4 && !looks(lab).is_empty()
        };
        lab.until("the last look", limit, is_last).await;
        let before = looks(&lab)[0]["metadata"]["uid"].clone();
        lab.edit(
            "bench",
            "thesis",
            json!({"objectives": {"maxTtft": "123ms"}}),
        )
        .await;
        lab.until("another look", limit, |lab| {
            looks(lab)
                .iter()
                .any(|job| job["metadata"]["uid"] != before)
        })
        .await;
        lab.finish("bench", "thesis").await;
        check_confirmed(&lab, "other objectives");
    });
}

#[test]
fn whatever_happens_to_the_cluster_nothing_is_measured_that_was_decided_against() {
    each_seed(2, async |seed| {
        let build = Build {
            nature: Nature::mixed,
            ..Build::default()
        };
        let mut lab = build.lab();
        lab.monitor.bear_one_more();
        lab.disturb("operator-a", &Kind::ALL, 5, seed);
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", LOOKED_AT);
        let mut random = SplitMix64::stream(seed, 1);
        for _ in 0..50 {
            let wait = Duration::from_secs(u64::from(random.below(60)));
            tokio::time::sleep(wait).await;
            lab.harm("bench", &mut random).await;
        }
        lab.watch("operator-a");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        // A trial that is decided against stays so to the last block.
        let (ledger, resource) = (
            lab.ledger("bench", "thesis"),
            lab.resource("bench", "thesis"),
        );
        let trials = Expansion::new(&resource.spec.design).len_before_exclusion();
        for (index, _) in ledger
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::NotNeeded)
        {
            for later in (index..trials).step_by(6) {
                assert_eq!(ledger.get(later), Some(Outcome::NotNeeded), "{later}");
            }
        }
    });
}

#[test]
fn a_suspended_sweep_is_not_looked_at() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.watch("operator-a");
        lab.apply("bench", "thesis", LOOKED_AT);
        let limit = Duration::from_secs(7_200);
        lab.until("in its second block", limit, |lab| {
            lab.ledger("bench", "thesis").iter().count() >= 9
        })
        .await;
        lab.edit("bench", "thesis", json!({"suspend": true})).await;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let looks = |lab: &Lab| {
            let jobs = lab.jobs("bench");
            jobs.iter()
                .filter(|job| job["metadata"]["labels"]["app.kubernetes.io/component"] == "look")
                .count()
        };
        assert_eq!(looks(&lab), 0, "P9");
        lab.edit("bench", "thesis", json!({"suspend": false})).await;
        lab.finish("bench", "thesis").await;
        check(&lab, "suspended and resumed");
    });
}
