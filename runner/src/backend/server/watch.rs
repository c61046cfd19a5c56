//! A server's own metrics while a load goes on: read beside the client, by a thread that sleeps between two looks.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use inferbench_crds::engine::{Interface, preset::PresetRow};
use inferbench_results::record::{ServerMetrics, ServerSample};

use super::http::Http;
use crate::{backend::Stage, machine::unix_ns};

/// Time between two looks, and the longest that one may take.
const PERIOD: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);
/// Samples that are kept, at most.
const MOST: usize = 4_096;

/// Watches a server, load after load.
pub struct Watcher {
    http: Http,
    path: String,
    row: &'static PresetRow,
    watch: Option<Watch>,
}

impl Watcher {
    /// One that has not begun.
    pub fn new(http: &Http, interface: &Interface, row: &'static PresetRow) -> Self {
        Self {
            http: http.clone(),
            path: interface.metrics.clone(),
            row,
            watch: None,
        }
    }

    /// A load is at this stage, which may be said again and again; the first one of a load begins its watch.
    pub fn enter(&mut self, stage: Stage) {
        if stage == Stage::WarmingUp {
            // A watch over a load that nobody asked about any more.
            self.watch.take_if(|watch| watch.opened.is_some());
        }
        let begin = || Watch::new(&self.http, &self.path, self.row);
        self.watch.get_or_insert_with(begin).enter(stage);
    }

    /// Ends the watch of a load, and gives what was seen in its window.
    pub fn finish(&mut self) -> Option<ServerMetrics> {
        self.watch.take()?.finish()
    }
}

/// The watch over one load.
struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Samples that were there when the window opened, and when it closed.
    opened: Option<usize>,
    closed: Option<usize>,
}

struct Shared {
    samples: Mutex<Vec<Look>>,
    over: AtomicBool,
    now: AtomicBool,
}

impl Watch {
    /// Begins, where the server has metrics.
    fn new(http: &Http, path: &str, row: &'static PresetRow) -> Self {
        let shared = Arc::new(Shared {
            samples: Mutex::default(),
            over: AtomicBool::new(false),
            now: AtomicBool::new(false),
        });
        let thread = (!path.is_empty()).then(|| {
            let (shared, http, path) = (Arc::clone(&shared), http.clone(), path.to_owned());
            std::thread::spawn(move || look(&shared, &http, &path, row))
        });
        Self {
            shared,
            thread,
            opened: None,
            closed: None,
        }
    }

    /// The load is at this stage.
    fn enter(&mut self, stage: Stage) {
        let border = match stage {
            Stage::WarmingUp => return,
            Stage::InWindow => &mut self.opened,
            Stage::Closed => &mut self.closed,
        };
        if border.is_none() {
            self.shared.now.store(true, Ordering::Relaxed);
            *border = Some(self.shared.count());
        }
    }

    /// Ends, and gives what was seen in the window, with the sample before it and the one after it.
    fn finish(mut self) -> Option<ServerMetrics> {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take()?.join();
        let samples = std::mem::take(&mut *self.shared.lock());
        let first = self.opened?.saturating_sub(1);
        let last = self.closed.map_or(samples.len(), |closed| closed + 1);
        let window = samples.get(first..last.min(samples.len()))?.to_vec();
        (!window.is_empty()).then(|| of_looks(&window))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Look>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.lock().len()
    }
}

/// A look at a server's metrics.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    sample: ServerSample,
    /// When the process began that answered, in seconds since the Unix epoch; none where it does not tell.
    process_start: Option<f64>,
}

/// The metric by which every client library of Prometheus tells when its process began.
const PROCESS_START: &str = "process_start_time_seconds";

fn look(shared: &Shared, http: &Http, path: &str, row: &PresetRow) {
    while !shared.over.load(Ordering::Relaxed) {
        let next = Instant::now() + PERIOD;
        if let Ok((200, text)) = http.get(path, PATIENCE) {
            let mut samples = shared.lock();
            if samples.len() < MOST {
                samples.push(Look::of(&text, row));
            }
        }
        while Instant::now() < next
            && !shared.over.load(Ordering::Relaxed)
            && !shared.now.swap(false, Ordering::Relaxed)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if let Ok((200, text)) = http.get(path, PATIENCE) {
        shared.lock().push(Look::of(&text, row));
    }
}

impl Look {
    /// A look at a text in Prometheus' format.
    fn of(text: &str, row: &PresetRow) -> Self {
        Self {
            sample: sample(text, row),
            process_start: value(text, PROCESS_START),
        }
    }
}

/// A sample out of Prometheus' text format.
fn sample(text: &str, row: &PresetRow) -> ServerSample {
    let of = |name: &str| value(text, name);
    let gauges = &row.gauges;
    ServerSample {
        unix_ns: unix_ns(),
        running: of(gauges.running),
        waiting: of(gauges.waiting),
        kv_use_pct: of(gauges.kv_use).map(|share| 100.0 * share),
        preemptions: of(gauges.preemptions),
        prefix_hits: of(gauges.prefix_hits),
        prefix_queries: {
            let parts = gauges.prefix_queries.iter().map(|name| of(name));
            let parts: Option<Vec<f64>> = parts.collect();
            parts
                .filter(|parts| !parts.is_empty())
                .map(|parts| parts.iter().sum())
        },
    }
}

/// The value of a metric, summed over its labels (replicas, ranks); none where it is not there.
fn value(text: &str, name: &str) -> Option<f64> {
    if name.is_empty() {
        return None;
    }
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = match rest.strip_prefix('{') {
            Some(labels) => labels.split_once('}')?.1,
            None => rest.strip_prefix(' ').map(|_| rest)?,
        };
        rest.split_whitespace().next()?.parse::<f64>().ok()
    });
    let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// The metrics of a window, from its looks.
fn of_looks(looks: &[Look]) -> ServerMetrics {
    let starts = |look: &Look| look.process_start;
    let restarted = looks.windows(2).any(|pair| {
        let changed = starts(&pair[0])
            .zip(starts(&pair[1]))
            .is_some_and(|(before, after)| before.to_bits() != after.to_bits());
        changed || falls(&pair[0].sample, &pair[1].sample)
    });
    ServerMetrics {
        restarted,
        ..of_samples(looks.iter().map(|look| look.sample).collect())
    }
}

/// Whether a counter, which only rises while its process lives, has fallen. The number of preemptions is no counter in
/// all servers.
fn falls(before: &ServerSample, after: &ServerSample) -> bool {
    let counters: [fn(&ServerSample) -> Option<f64>; 2] =
        [|sample| sample.prefix_hits, |sample| sample.prefix_queries];
    counters.iter().any(|of| {
        of(before)
            .zip(of(after))
            .is_some_and(|(before, after)| after < before)
    })
}

/// The metrics of a window, from its samples.
fn of_samples(samples: Vec<ServerSample>) -> ServerMetrics {
    let all =
        |of: fn(&ServerSample) -> Option<f64>| samples.iter().filter_map(of).collect::<Vec<_>>();
    let most = |values: &[f64]| values.iter().copied().reduce(f64::max);
    let rise = |values: &[f64]| Some(values.last()? - values.first()?).filter(|rise| *rise >= 0.0);
    let waiting = all(|sample| sample.waiting);
    let hits = rise(&all(|sample| sample.prefix_hits));
    let queries = rise(&all(|sample| sample.prefix_queries));
    ServerMetrics {
        kv_use_max_pct: most(&all(|sample| sample.kv_use_pct)),
        preemptions: rise(&all(|sample| sample.preemptions)),
        queue_mean: (!waiting.is_empty())
            .then(|| waiting.iter().sum::<f64>() / waiting.len() as f64),
        queue_max: most(&waiting),
        prefix_hit_pct: hits
            .zip(queries)
            .filter(|(_, queries)| *queries > 0.0)
            .map(|(hits, queries)| 100.0 * hits / queries),
        restarted: false,
        samples,
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::engine::Preset;

    use super::*;

    const TEXT: &str = "\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0
vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4.0
vllm:num_requests_running_total 9
vllm:kv_cache_usage_perc{engine=\"0\"} 0.25
vllm:num_preemptions_total 2
";

    #[test]
    fn metrics_are_read_by_their_whole_names_and_summed_over_labels() {
        let sample = sample(TEXT, Preset::Vllm.row());
        assert_eq!((sample.running, sample.waiting), (Some(7.0), None));
        assert_eq!(
            (sample.kv_use_pct, sample.preemptions),
            (Some(25.0), Some(2.0))
        );
    }

    #[test]
    fn a_server_that_counts_only_what_it_computed_has_the_rest_added() {
        let text = "llamacpp:prompt_tokens_total 101\nllamacpp:prompt_tokens_cached_total 99\n";
        let row = Preset::LlamaCpp.row();
        let sample = sample(text, row);
        assert_eq!(
            (sample.prefix_hits, sample.prefix_queries),
            (Some(99.0), Some(200.0))
        );
    }

    #[test]
    fn counters_count_from_the_first_sample() {
        let at = |waiting, preemptions, hits, queries| ServerSample {
            waiting: Some(waiting),
            preemptions: Some(preemptions),
            prefix_hits: Some(hits),
            prefix_queries: Some(queries),
            ..ServerSample::default()
        };
        let metrics = of_samples(vec![
            at(0.0, 5.0, 100.0, 1_000.0),
            at(4.0, 5.0, 110.0, 1_050.0),
            at(2.0, 6.0, 125.0, 1_100.0),
        ]);
        assert_eq!(
            (metrics.preemptions, metrics.prefix_hit_pct),
            (Some(1.0), Some(25.0))
        );
        assert_eq!(
            (metrics.queue_mean, metrics.queue_max),
            (Some(2.0), Some(4.0))
        );
        assert_eq!(metrics.kv_use_max_pct, None);
    }

    #[test]
    fn another_process_is_told_by_its_start_or_by_counters_that_fall() {
        let look = |start, queries| Look {
            sample: ServerSample {
                prefix_queries: queries,
                ..ServerSample::default()
            },
            process_start: start,
        };
        let restarted = |before, after| of_looks(&[before, after]).restarted;
        assert!(!restarted(
            look(Some(5.5), Some(1.0)),
            look(Some(5.5), Some(9.0))
        ));
        assert!(restarted(look(Some(5.5), None), look(Some(7.5), None)));
        assert!(restarted(look(None, Some(9.0)), look(None, Some(1.0))));
        // A look without these values says nothing.
        assert!(!restarted(look(Some(5.5), Some(9.0)), look(None, None)));
        let row = Preset::Vllm.row();
        let text = "process_start_time_seconds 1.79563e+09\n";
        assert_eq!(Look::of(text, row).process_start, Some(1.79563e9));
    }
}
