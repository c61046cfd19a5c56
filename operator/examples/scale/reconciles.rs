//! How long reconciles take, by their spans.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::span;
use tracing_subscriber::registry::LookupSpan;

/// Every reconcile: how long it took, and for how much of that it was at work.
#[derive(Clone, Default)]
pub struct Reconciles(Arc<Mutex<Vec<(Duration, Duration)>>>);

impl Reconciles {
    /// The reconciles that have ended since the last call.
    pub fn take(&self) -> Vec<(Duration, Duration)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Times of spans that are open.
pub struct Spans {
    reconciles: Reconciles,
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    began: Instant,
    entered: Instant,
    busy: Duration,
}

impl Spans {
    pub fn new(reconciles: Reconciles) -> Self {
        Self {
            reconciles,
            open: Mutex::default(),
        }
    }

    fn with(&self, id: &span::Id, act: impl FnOnce(&mut Open)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.get_mut(&id.into_u64()) {
            act(open);
        }
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        if attributes.metadata().name() == "reconcile" {
            let now = Instant::now();
            let open = Open {
                began: now,
                entered: now,
                busy: Duration::ZERO,
            };
            let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(id.into_u64(), open);
        }
    }

    fn on_enter(&self, id: &span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        self.with(id, |open| open.entered = Instant::now());
    }

    fn on_exit(&self, id: &span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        self.with(id, |open| open.busy += open.entered.elapsed());
    }

    fn on_close(&self, id: span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.remove(&id.into_u64()) {
            let mut reconciles = self
                .reconciles
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            reconciles.push((open.began.elapsed(), open.busy));
        }
    }
}
