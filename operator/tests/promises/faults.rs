//! Faults of requests, of the cluster and of operators, all by a seed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use inferbench_crds::splitmix::SplitMix64;
use inferbench_fakekube::{Call, Fault, Verb, WatchFault};
use inferbench_operator::client::READ_TIMEOUT;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, PropagationPolicy},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::lab::Lab;

/// The ways in which a request goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Conflict,
    Expired,
    TooMany,
    Internal,
    Unavailable,
    GatewayTimeout,
    Hang,
    HangAfterCommit,
    Drop,
    DropAfterCommit,
    Delay,
    StaleList,
    LaggingWatch,
    DuplicatedWatch,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Conflict,
        Self::Expired,
        Self::TooMany,
        Self::Internal,
        Self::Unavailable,
        Self::GatewayTimeout,
        Self::Hang,
        Self::HangAfterCommit,
        Self::Drop,
        Self::DropAfterCommit,
        Self::Delay,
        Self::StaleList,
        Self::LaggingWatch,
        Self::DuplicatedWatch,
    ];

    /// The fate of a request; none where this kind cannot strike it.
    fn fault(self, call: &Call, random: &mut SplitMix64) -> Option<Fault> {
        let refuse = |code, reason, retry_after| Fault::Refuse {
            code,
            reason,
            retry_after,
        };
        let seconds = |random: &mut SplitMix64, most: u32| {
            Duration::from_millis(u64::from(random.below(most * 1_000)))
        };
        let (watch, writes) = (call.verb == Verb::Watch, call.verb.writes());
        Some(match self {
            Self::Conflict if writes => refuse(409, "Conflict", None),
            Self::Expired if watch && random.below(2) == 0 => Fault::Watch(WatchFault {
                cut_after: Some(random.below(20) as usize),
                ..WatchFault::default()
            }),
            Self::Expired if watch || call.verb == Verb::List => refuse(410, "Expired", None),
            Self::TooMany => refuse(429, "TooManyRequests", Some(1)),
            Self::Internal => refuse(500, "InternalError", None),
            Self::Unavailable => refuse(503, "ServiceUnavailable", None),
            Self::GatewayTimeout if writes => Fault::RefuseAfterCommit { code: 504 },
            // The first list of a watch has no limit but the client's own, after which it is asked for again.
            Self::Hang if call.verb == Verb::List => Fault::Delay(READ_TIMEOUT),
            // A watch that never says anything would be an API server that is broken for good.
            Self::Hang if !watch => Fault::Hang,
            Self::HangAfterCommit if writes => Fault::HangAfterCommit,
            Self::Drop => Fault::Drop,
            Self::DropAfterCommit if writes => Fault::DropAfterCommit,
            Self::Delay => Fault::Delay(seconds(random, 8)),
            // Only who asks for anything at hand may get what is old.
            Self::StaleList if call.verb == Verb::List && call.version == "0" => {
                Fault::Stale(u64::from(random.below(50)))
            }
            Self::LaggingWatch if watch => Fault::Watch(WatchFault {
                lag: seconds(random, 60),
                ..WatchFault::default()
            }),
            Self::DuplicatedWatch if watch => Fault::Watch(WatchFault {
                duplicate: true,
                ..WatchFault::default()
            }),
            _ => return None,
        })
    }
}

impl Lab {
    /// From now on `percent` of a hundred requests of this replica go wrong, in one of these ways. Faults of watches
    /// last, so they strike more of them.
    pub fn disturb(&self, name: &str, kinds: &[Kind], percent: u32, seed: u64) {
        let (kinds, monitor) = (kinds.to_vec(), Arc::clone(&self.monitor));
        let random = Mutex::new(SplitMix64::new(seed));
        self.kube.set_faults(name, move |call| {
            monitor.look(call);
            let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
            let kind = kinds[random.below(u32::try_from(kinds.len()).expect("few")) as usize];
            let percent = if call.verb == Verb::Watch {
                50
            } else {
                percent
            };
            if random.below(100) >= percent {
                return Fault::None;
            }
            kind.fault(call, &mut random).unwrap_or_default()
        });
    }

    /// The `nth` write of this replica from now on is never answered, though it may be done; says when it has come to
    /// it.
    pub fn stop_at_write(&self, name: &str, nth: u64, is_done: bool) -> Stopped {
        let stopped = Stopped::default();
        let (stopper, count) = (stopped.clone(), AtomicU64::new(0));
        let monitor = Arc::clone(&self.monitor);
        self.kube.set_faults(name, move |call| {
            monitor.look(call);
            if !call.verb.writes() || call.resource == "leases" {
                return Fault::None;
            }
            if count.fetch_add(1, Ordering::SeqCst) + 1 != nth {
                return Fault::None;
            }
            stopper.0.0.store(true, Ordering::SeqCst);
            stopper.0.1.notify_one();
            if is_done {
                Fault::HangAfterCommit
            } else {
                Fault::Hang
            }
        });
        stopped
    }

    /// Does something to the cluster that happens to clusters.
    pub async fn harm(&mut self, namespace: &str, random: &mut SplitMix64) {
        let pick = |objects: &[Value], random: &mut SplitMix64| {
            let count = u32::try_from(objects.len()).expect("few");
            let index = (count > 0).then(|| random.below(count) as usize)?;
            objects[index]["metadata"]["name"]
                .as_str()
                .map(str::to_owned)
        };
        let pods = self.pods(namespace);
        let running: Vec<Value> = pods
            .iter()
            .filter(|pod| pod["status"]["phase"] == "Running")
            .cloned()
            .collect();
        let (pod, live) = (pick(&pods, random), pick(&running, random));
        let job = pick(&self.jobs(namespace), random);
        let client = self.kube.client("user");
        let node = ["a", "b", "c"][random.below(3) as usize];
        match random.below(12) {
            0 | 1 => {
                if let Some(pod) = live {
                    self.cluster.evict(namespace, &pod).await;
                }
            }
            2 => {
                if let Some(pod) = live {
                    self.cluster.kill_for_memory(namespace, &pod).await;
                }
            }
            3 => {
                if let Some(pod) = live {
                    self.cluster.lose_message(namespace, &pod).await;
                }
            }
            4 => {
                if let Some(pod) = pod {
                    let api: Api<Pod> = Api::namespaced(client, namespace);
                    // It may have gone meanwhile.
                    let _ = api.delete(&pod, &DeleteParams::default()).await;
                }
            }
            5 | 6 => {
                if let Some(job) = job {
                    let ways = [PropagationPolicy::Background, PropagationPolicy::Foreground];
                    let params = DeleteParams {
                        propagation_policy: Some(ways[random.below(2) as usize].clone()),
                        ..DeleteParams::default()
                    };
                    let api: Api<Job> = Api::namespaced(client, namespace);
                    let _ = api.delete(&job, &params).await;
                }
            }
            7 => {
                self.cluster.reboot(node).await;
            }
            8 => {
                let time = Duration::from_secs(u64::from(random.below(300)));
                self.cluster.stop_kubelet(node, time).await;
            }
            9 => self.kube.compact(),
            _ => self.restart("operator-a"),
        }
    }

    /// A user who cannot make up their mind.
    pub async fn fidget(&mut self, namespace: &str, name: &str, random: &mut SplitMix64) {
        let spec = match random.below(4) {
            0 => json!({"suspend": true}),
            1 => json!({"suspend": false}),
            2 => json!({"execution": {"parallelism": 1 + random.below(6)}}),
            _ => json!({"objectives": {"maxTtft": format!("{}ms", 100 + random.below(400))}}),
        };
        self.edit(namespace, name, spec).await;
    }
}

/// Whether and when a replica has come to where it was to stop.
#[derive(Clone, Default)]
pub struct Stopped(Arc<(AtomicBool, Notify)>);

impl Stopped {
    pub async fn wait(&self) {
        self.0.1.notified().await;
    }

    pub fn has(&self) -> bool {
        self.0.0.load(Ordering::SeqCst)
    }
}
