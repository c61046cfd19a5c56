//! Bounds over all resources: how many Jobs may live and how fast they are created, and how soon a resource is looked
//! at and written again. Live Jobs are known as each resource's last reconcile saw them, with those that were created
//! since. It is the operator's whole memory from one reconcile to the next: without it, nothing goes wrong but the
//! pace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::{names::Role, observe::JobView, plan::NotCreated};

/// How long to wait where all Jobs that may live do: those of other resources end unseen.
const CROWDED: Duration = Duration::from_secs(5);

/// A resource: namespace and name.
pub type Key = (String, String);

/// How many Jobs have not ended, by what they are for.
pub type Live = BTreeMap<Role, u64>;

/// The limits that the operator is set up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that may be created in a second, on average; 0 for any number.
    pub create_rate: u32,
    /// Jobs that may be created at once, where none were created for a while.
    pub create_burst: u32,
    /// Jobs that may live at a time, over all resources; each may have one whatever the others have.
    pub max_live_jobs: u32,
    /// The shortest time between two writes to a resource's status that are no transition; it is looked at twice in
    /// that time at most.
    pub status_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            create_rate: 20,
            create_burst: 50,
            max_live_jobs: 500,
            status_interval: Duration::from_secs(2),
        }
    }
}

/// The bounds, and how far they are used up.
#[derive(Debug)]
pub struct Bounds {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Jobs that may be created at once, as of `filled`.
    tokens: f64,
    filled: Instant,
    shares: BTreeMap<Key, Share>,
}

/// A resource's part.
#[derive(Debug, Default)]
struct Share {
    live: Live,
    /// The uids of its Jobs.
    jobs: BTreeSet<String>,
    /// When one of them was last found to have gone.
    gone: Option<Timestamp>,
    /// When the API server first refused one since it last let one be created.
    refused: Option<Timestamp>,
    /// It was refused a Job in its last reconcile.
    wants: bool,
    looked: Option<Instant>,
    written: Option<Instant>,
    /// The Job that its last reconcile could not create.
    not_created: Option<NotCreated>,
    /// The uid of the resource, where its namespace is being deleted: that is never taken back, and one that is created anew
    /// has another uid.
    goes: Option<String>,
}

impl Share {
    fn live_jobs(&self) -> u64 {
        self.live.values().sum()
    }
}

impl Bounds {
    /// With nothing known yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = State {
            tokens: f64::from(limits.create_burst.max(1)),
            filled: Instant::now(),
            shares: BTreeMap::new(),
        };
        Self {
            limits,
            state: Mutex::new(state),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A resource is to be looked at; later, where it was only just.
    ///
    /// # Errors
    /// How long to wait.
    pub fn look(&self, key: &Key, now: Instant) -> Result<(), Duration> {
        let interval = self.limits.status_interval / 2;
        self.with(|state| {
            let share = state.shares.entry(key.clone()).or_default();
            wait(share.looked, interval, now)?;
            share.looked = Some(now);
            Ok(())
        })
    }

    /// A resource's status has changed, and not by a transition.
    ///
    /// # Errors
    /// How long to wait with writing it, and with all that follows from it.
    pub fn write(&self, key: &Key, now: Instant) -> Result<(), Duration> {
        let interval = self.limits.status_interval;
        self.with(|state| {
            let written = state.shares.get(key).and_then(|share| share.written);
            wait(written, interval, now)
        })
    }

    /// A resource's status was written.
    pub fn written(&self, key: &Key, now: Instant) {
        self.with(|state| state.shares.entry(key.clone()).or_default().written = Some(now));
    }

    /// A reconcile has left some of its work to the next one, which may follow at once.
    pub fn cut_short(&self, key: &Key) {
        self.with(|state| {
            let share = state.shares.entry(key.clone()).or_default();
            (share.looked, share.written) = (None, None);
        });
    }

    /// A reconcile has seen these Jobs of a resource. Returns when one was last found to have gone.
    pub fn seen(&self, key: &Key, jobs: &[JobView], now: Timestamp) -> Option<Timestamp> {
        let mut live = Live::new();
        for job in jobs.iter().filter(|job| job.end.is_none()) {
            *live.entry(job.role).or_default() += 1;
        }
        self.with(|state| {
            let share = state.shares.entry(key.clone()).or_default();
            (share.live, share.wants) = (live, false);
            let jobs: BTreeSet<String> = jobs.iter().map(|job| job.uid.clone()).collect();
            if !share.jobs.is_subset(&jobs) {
                share.gone = Some(now);
            }
            share.jobs = jobs;
            share.gone
        })
    }

    /// The API server has let a Job of a resource be created.
    pub fn created(&self, key: &Key) {
        self.with(|state| {
            if let Some(share) = state.shares.get_mut(key) {
                share.refused = None;
            }
        });
    }

    /// The API server refuses a Job of a resource. Returns since when it lets none be created.
    pub fn refused(&self, key: &Key, now: Timestamp) -> Timestamp {
        self.with(|state| {
            let share = state.shares.entry(key.clone()).or_default();
            *share.refused.get_or_insert(now)
        })
    }

    /// A Job of a resource is about to be created.
    ///
    /// # Errors
    /// How long to wait with it.
    pub fn create(&self, key: &Key, role: Role, now: Instant) -> Result<(), Duration> {
        self.with(|state| {
            let has_room = state.has_room(key, u64::from(self.limits.max_live_jobs));
            let taken = if has_room {
                state.take(self.limits, now)
            } else {
                Err(CROWDED)
            };
            let share = state.shares.entry(key.clone()).or_default();
            match taken {
                Ok(()) => *share.live.entry(role).or_default() += 1,
                Err(_) => share.wants = !has_room,
            }
            taken
        })
    }

    /// A Job of a resource was not created after all.
    pub fn not_created(&self, key: &Key, role: Role) {
        self.with(|state| {
            let share = state.shares.get_mut(key);
            if let Some(count) = share.and_then(|share| share.live.get_mut(&role)) {
                *count = count.saturating_sub(1);
            }
        });
    }

    /// A reconcile could not create a Job, and why; or none was in the way.
    pub fn found(&self, key: &Key, not_created: Option<NotCreated>) {
        self.with(|state| {
            state.shares.entry(key.clone()).or_default().not_created = not_created;
        });
    }

    /// The Job that the last reconcile could not create.
    #[must_use]
    pub fn found_last(&self, key: &Key) -> Option<NotCreated> {
        self.with(|state| state.shares.get(key)?.not_created.clone())
    }

    /// The namespace of the resource with this uid is being deleted.
    pub fn namespace_goes(&self, key: &Key, uid: &str) {
        self.with(|state| state.shares.entry(key.clone()).or_default().goes = Some(uid.to_owned()));
    }

    /// Whether that is known of it.
    #[must_use]
    pub fn goes_with_namespace(&self, key: &Key, uid: &str) -> bool {
        let goes = |state: &mut State| state.shares.get(key)?.goes.clone();
        self.with(goes).as_deref() == Some(uid)
    }

    /// A resource is gone.
    pub fn forget(&self, key: &Key) {
        self.with(|state| state.shares.remove(key));
    }

    /// Only these resources are still there.
    pub fn retain(&self, is_there: impl Fn(&Key) -> bool) {
        self.with(|state| state.shares.retain(|key, _| is_there(key)));
    }

    /// The live Jobs of all resources.
    #[must_use]
    pub fn live(&self) -> Live {
        self.with(|state| {
            let mut live = Live::new();
            for (role, count) in state.shares.values().flat_map(|share| &share.live) {
                *live.entry(*role).or_default() += count;
            }
            live
        })
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl State {
    /// Whether a resource may have another Job. While others are refused theirs and have less than an equal part, one
    /// that has as much gets no more.
    fn has_room(&self, key: &Key, most: u64) -> bool {
        let own = self.shares.get(key).map_or(0, Share::live_jobs);
        if own == 0 {
            return true;
        }
        let shares = self.shares.values();
        if shares.clone().map(Share::live_jobs).sum::<u64>() >= most {
            return false;
        }
        let claims = shares.filter(|share| share.wants || share.live_jobs() > 0);
        let part = (most / claims.count().max(1) as u64).max(1);
        let others = self.shares.iter().filter(|(other, _)| *other != key);
        let mut poor = others.filter(|(_, share)| share.wants && share.live_jobs() < part);
        own < part || poor.next().is_none()
    }

    /// Takes one of the tokens, which come in again at the rate of creations.
    fn take(&mut self, limits: Limits, now: Instant) -> Result<(), Duration> {
        if limits.create_rate == 0 {
            return Ok(());
        }
        let rate = f64::from(limits.create_rate);
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(f64::from(limits.create_burst.max(1)));
        self.filled = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / rate));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

/// How long until `interval` has passed since something was.
fn wait(since: Option<Instant>, interval: Duration, now: Instant) -> Result<(), Duration> {
    let passed = since.map(|since| now.saturating_duration_since(since));
    match passed.filter(|passed| *passed < interval) {
        Some(passed) => Err(interval - passed),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("bench".into(), name.into())
    }

    fn bounds(create_rate: u32, create_burst: u32, max_live_jobs: u32) -> Bounds {
        Bounds::new(Limits {
            create_rate,
            create_burst,
            max_live_jobs,
            ..Limits::default()
        })
    }

    /// Creates Jobs for as long as it may; returns how many that were.
    fn fill(bounds: &Bounds, name: &str, most: u32, now: Instant) -> u32 {
        (0..most)
            .take_while(|_| bounds.create(&key(name), Role::Trial, now).is_ok())
            .count() as u32
    }

    /// Of a resource's Jobs, `count` have ended.
    fn end(bounds: &Bounds, name: &str, count: u64) {
        bounds.with(|state| {
            let share = state.shares.get_mut(&key(name)).expect("it is known");
            *share.live.get_mut(&Role::Trial).expect("it has Jobs") -= count;
        });
    }

    #[tokio::test]
    async fn creations_come_in_a_burst_and_then_at_their_rate() {
        let now = Instant::now();
        let free = bounds(0, 1, 1_000);
        assert_eq!(fill(&free, "a", 1_000, now), 1_000);
        let bounds = bounds(20, 50, 1_000);
        assert_eq!(fill(&bounds, "a", 100, now), 50);
        let wait = bounds.create(&key("a"), Role::Trial, now);
        assert_eq!(wait, Err(Duration::from_millis(50)));
        assert_eq!(fill(&bounds, "a", 100, now + Duration::from_secs(1)), 20);
        // Another resource draws on the same rate.
        assert!(
            bounds
                .create(&key("b"), Role::Trial, now + Duration::from_secs(1))
                .is_err()
        );
        assert_eq!(fill(&bounds, "b", 100, now + Duration::from_secs(60)), 50);
    }

    #[tokio::test]
    async fn every_resource_gets_one_job_and_then_an_equal_part() {
        let (bounds, now) = (bounds(0, 1, 12), Instant::now());
        assert_eq!(fill(&bounds, "a", 100, now), 12);
        // They are all taken: a late one gets one all the same, and only one.
        assert_eq!(fill(&bounds, "b", 100, now), 1);
        assert_eq!(bounds.create(&key("b"), Role::Trial, now), Err(CROWDED));
        // A Job of the one that ends makes room for the other, until each has its part.
        for _ in 0..20 {
            if bounds.with(|state| state.shares[&key("a")].live_jobs()) > 6 {
                end(&bounds, "a", 1);
            }
            fill(&bounds, "a", 1, now);
            fill(&bounds, "b", 1, now);
        }
        let jobs = |name: &str| bounds.with(|state| state.shares[&key(name)].live_jobs());
        assert_eq!((jobs("a"), jobs("b")), (6, 6));
        // Without anybody who wants more, one may have all the room there is.
        bounds.forget(&key("b"));
        assert_eq!(fill(&bounds, "a", 100, now), 6);
    }

    #[tokio::test]
    async fn what_is_live_follows_what_reconciles_see() {
        let (bounds, now) = (bounds(0, 1, 12), Instant::now());
        fill(&bounds, "a", 3, now);
        bounds
            .create(&key("b"), Role::Preflight, now)
            .expect("room");
        assert_eq!(
            bounds.live(),
            [(Role::Trial, 3), (Role::Preflight, 1)].into()
        );
        bounds.not_created(&key("a"), Role::Trial);
        assert_eq!(bounds.live()[&Role::Trial], 2);
        bounds.seen(&key("a"), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(bounds.live(), [(Role::Preflight, 1)].into());
        bounds.retain(|key| key.1 != "b");
        assert_eq!(bounds.live(), Live::new());
    }

    #[test]
    fn a_job_that_has_gone_is_noticed_by_the_next_reconcile() {
        let (bounds, a) = (Bounds::default(), key("a"));
        let at = |second| Timestamp::from_second(second).expect("a time");
        let jobs = |uids: &[&str]| -> Vec<JobView> {
            let jobs = uids.iter().map(|uid| JobView {
                name: (*uid).into(),
                uid: (*uid).into(),
                role: Role::Trial,
                trials: vec![0],
                gpus: 1,
                attempt: 1,
                inputs: String::new(),
                created: at(0),
                started: None,
                suspended: false,
                end: None,
                deleting: false,
            });
            jobs.collect()
        };
        assert_eq!(bounds.seen(&a, &jobs(&["1", "2"]), at(1)), None);
        assert_eq!(bounds.seen(&a, &jobs(&["1", "2", "3"]), at(2)), None);
        // Another has come in its place.
        let gone = bounds.seen(&a, &jobs(&["1", "3", "4"]), at(3));
        assert_eq!(gone, Some(at(3)));
        let gone = bounds.seen(&a, &jobs(&["1", "3", "4"]), at(4));
        assert_eq!(gone, Some(at(3)));
        assert_eq!(bounds.seen(&key("b"), &[], at(5)), None);
    }

    #[test]
    fn refusals_are_in_a_row_until_a_job_is_created() {
        let (bounds, a) = (Bounds::default(), key("a"));
        let at = |second| Timestamp::from_second(second).expect("a time");
        assert_eq!(bounds.refused(&a, at(1)), at(1));
        assert_eq!(bounds.refused(&a, at(2)), at(1));
        bounds.created(&key("b"));
        assert_eq!(bounds.refused(&a, at(3)), at(1));
        bounds.created(&a);
        assert_eq!(bounds.refused(&a, at(4)), at(4));
    }

    #[tokio::test]
    async fn a_resource_is_looked_at_and_written_now_and_then() {
        let (bounds, now, a) = (bounds(0, 1, 12), Instant::now(), key("a"));
        let later = |millis| now + Duration::from_millis(millis);
        assert_eq!(bounds.look(&a, now), Ok(()));
        assert_eq!(bounds.write(&a, now), Ok(()));
        bounds.written(&a, now);
        assert_eq!(bounds.look(&a, later(300)), Err(Duration::from_millis(700)));
        assert_eq!(bounds.look(&a, later(1_000)), Ok(()));
        assert_eq!(bounds.write(&a, later(1_000)), Err(Duration::from_secs(1)));
        assert_eq!(bounds.write(&a, later(2_000)), Ok(()));
        assert_eq!(bounds.look(&key("b"), now), Ok(()), "each by itself");
    }
}
