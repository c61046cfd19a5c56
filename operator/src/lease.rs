//! Which replica leads: a Lease that is only ever written where it is still what was read, and judged by this machine's
//! own clock alone, so that clocks that disagree elect nobody twice. Losing it costs no data (every write to a
//! resource is checked by itself): it only keeps two replicas from doing the same work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// How the lease is held.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Lease's name.
    pub name: String,
    /// Its namespace: the operator's own.
    pub namespace: String,
    /// This replica.
    pub identity: String,
    /// How long the others wait for a holder that does not renew.
    pub duration: Duration,
    /// How often it is renewed, or tried for.
    pub every: Duration,
}

/// Whether this replica leads; known without asking anyone.
#[derive(Clone, Debug)]
pub struct Lead {
    start: Instant,
    /// Until when, in milliseconds since the start.
    until: Arc<AtomicU64>,
}

impl Default for Lead {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            until: Arc::default(),
        }
    }
}

impl Lead {
    /// Whether this replica may write now.
    #[must_use]
    pub fn holds(&self) -> bool {
        let now = self.start.elapsed().as_millis();
        now < u128::from(self.until.load(Ordering::SeqCst))
    }

    pub(crate) fn hold_until(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.start).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.until.store(millis, Ordering::SeqCst);
    }

    fn give_up(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

/// The lease as it was last seen, and since when it has been so.
#[derive(Clone, Debug, Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

/// The next step with a lease.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// Write this: it is free, ours, or its holder is gone.
    Write(Box<Lease>),
    /// Another replica holds it.
    Leave,
}

/// The next step with the lease as it was found at `now` (of the monotonic clock).
fn evaluate(
    found: Option<Lease>,
    seen: &mut Seen,
    settings: &Settings,
    now: Instant,
    wall: Timestamp,
) -> Verdict {
    let mut lease = found.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(settings.name.clone()),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let version = lease.metadata.resource_version.clone();
    if seen.since.is_none() || seen.version != version {
        *seen = Seen {
            version,
            since: Some(now),
        };
    }
    let spec = lease.spec.get_or_insert_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let is_ours = holder == settings.identity;
    if !is_ours && !holder.is_empty() {
        let seconds = spec.lease_duration_seconds.unwrap_or(0).max(0);
        let promised = Duration::from_secs(u64::from(seconds.unsigned_abs()));
        let quiet = seen.since.map_or(Duration::ZERO, |since| now - since);
        if quiet < promised.max(settings.duration) {
            return Verdict::Leave;
        }
    }
    let time = Some(MicroTime(wall));
    let transitions = spec.lease_transitions.unwrap_or(0);
    *spec = LeaseSpec {
        holder_identity: Some(settings.identity.clone()),
        lease_duration_seconds: i32::try_from(settings.duration.as_secs()).ok(),
        acquire_time: if is_ours {
            spec.acquire_time.clone()
        } else {
            time.clone()
        },
        renew_time: time,
        lease_transitions: Some(if is_ours {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    };
    Verdict::Write(Box::new(lease))
}

/// Holds the lease for as long as it can, from when it first gets it; returns when it has lost it.
pub struct Holder {
    client: Client,
    settings: Settings,
    lead: Lead,
    seen: Seen,
}

impl Holder {
    /// A replica that does not lead yet. The client must not retry by itself: a renewal that is late is worth nothing.
    #[must_use]
    pub fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            lead: Lead::default(),
            seen: Seen::default(),
        }
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn lead(&self) -> Lead {
        self.lead.clone()
    }

    /// Waits until this replica leads.
    pub async fn acquire(&mut self) {
        while !self.attempt().await {
            tokio::time::sleep(self.settings.every).await;
        }
        info!(identity = self.settings.identity, "this replica leads");
    }

    /// Renews until the lead is lost.
    pub async fn renew(&mut self) {
        loop {
            tokio::time::sleep(self.settings.every).await;
            self.attempt().await;
            if !self.lead.holds() {
                warn!(identity = self.settings.identity, "the lead is lost");
                return;
            }
        }
    }

    /// Hands the lease over, so that the next replica need not wait.
    pub async fn release(&mut self) {
        self.lead.give_up();
        let api = self.api();
        let release = async {
            let mut lease = api.get(&self.settings.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(self.settings.identity.as_str()) {
                spec.holder_identity = None;
                api.replace(&self.settings.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<(), kube::Error>(())
        };
        if !matches!(timeout(self.settings.every, release).await, Ok(Ok(()))) {
            warn!("the lease could not be handed over: it runs out by itself");
        }
    }

    /// Tries to get or renew the lease, once; says whether that worked.
    async fn attempt(&mut self) -> bool {
        // The time at which the attempt began counts: when the answer comes, others may have waited that long already.
        let began = Instant::now();
        let Ok(answer) = timeout(self.settings.every, self.write()).await else {
            warn!("no answer about the lease");
            return false;
        };
        match answer {
            Ok(true) => {
                // Ends one interval before the others may think so.
                let held = self.settings.duration.saturating_sub(self.settings.every);
                self.lead.hold_until(began + held);
                true
            }
            Ok(false) => {
                self.lead.give_up();
                false
            }
            Err(error) => {
                warn!(%error, "the lease could not be written");
                false
            }
        }
    }

    async fn write(&mut self) -> kube::Result<bool> {
        let api = self.api();
        let found = api.get_opt(&self.settings.name).await?;
        let is_new = found.is_none();
        let now = Instant::now();
        let verdict = evaluate(found, &mut self.seen, &self.settings, now, Timestamp::now());
        let Verdict::Write(lease) = verdict else {
            return Ok(false);
        };
        let params = PostParams::default();
        let written = if is_new {
            api.create(&params, &lease).await
        } else {
            // With the resourceVersion that was read: where anyone else was faster, this is refused.
            api.replace(&self.settings.name, &params, &lease).await
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(identity: &str) -> Settings {
        Settings {
            name: "inferbench-operator".into(),
            namespace: "inferbench".into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            every: Duration::from_secs(5),
        }
    }

    fn wall(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hours * 3_600).expect("a time")
    }

    fn written(verdict: Verdict, version: &str) -> Lease {
        let Verdict::Write(mut lease) = verdict else {
            panic!("{verdict:?}");
        };
        lease.metadata.resource_version = Some(version.into());
        *lease
    }

    #[tokio::test]
    async fn a_free_lease_is_taken_and_renewed() {
        let (me, mut seen, now) = (settings("a"), Seen::default(), Instant::now());
        let first = written(evaluate(None, &mut seen, &me, now, wall(0)), "1");
        let spec = first.spec.clone().expect("a spec");
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!(
            (spec.lease_duration_seconds, spec.lease_transitions),
            (Some(15), Some(1))
        );
        let again = written(evaluate(Some(first), &mut seen, &me, now, wall(1)), "2");
        let renewed = again.spec.expect("a spec");
        assert_eq!(renewed.acquire_time, spec.acquire_time);
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_ne!(renewed.renew_time, spec.renew_time);
    }

    #[tokio::test]
    async fn another_holder_is_waited_for_by_this_clock_alone() {
        let (a, b, now) = (settings("a"), settings("b"), Instant::now());
        // Its clock is an hour ahead or behind: no matter.
        for hours in [-1, 1] {
            let held = written(
                evaluate(None, &mut Seen::default(), &a, now, wall(hours)),
                "1",
            );
            let mut seen = Seen::default();
            let mut look = |lease: &Lease, seconds| {
                let later = now + Duration::from_secs(seconds);
                evaluate(Some(lease.clone()), &mut seen, &b, later, wall(0))
            };
            assert_eq!(look(&held, 0), Verdict::Leave);
            assert_eq!(look(&held, 14), Verdict::Leave);
            let mut renewed = held.clone();
            renewed.metadata.resource_version = Some("2".into());
            assert_eq!(look(&renewed, 14), Verdict::Leave);
            assert_eq!(look(&renewed, 28), Verdict::Leave);
            let taken = written(look(&renewed, 29), "3");
            // It is written over what was read and nothing else.
            assert_eq!(taken.spec.expect("a spec").lease_transitions, Some(2));
        }
    }

    #[tokio::test]
    async fn a_lease_that_was_handed_over_is_taken_at_once() {
        let (a, b, now) = (settings("a"), settings("b"), Instant::now());
        let mut lease = written(evaluate(None, &mut Seen::default(), &a, now, wall(0)), "1");
        lease.spec.get_or_insert_default().holder_identity = None;
        assert!(matches!(
            evaluate(Some(lease), &mut Seen::default(), &b, now, wall(0)),
            Verdict::Write(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lead_that_is_not_renewed_ends_by_itself() {
        let lead = Lead::default();
        assert!(!lead.holds());
        lead.hold_until(Instant::now() + Duration::from_secs(10));
        assert!(lead.holds());
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert!(lead.holds());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!lead.holds());
    }
}
