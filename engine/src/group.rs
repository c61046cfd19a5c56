//! Ranks as threads: each owns its share of the model for as long as the engine lives, and each replica of the model
//! answers for its share of the rows.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::comm::Join;
use crate::config::ModelConfig;
use crate::error::{EngineError, GIVEN_UP};
use crate::parallel::{Parallel, part};
use crate::rank::{Call, Rank, RankOptions, Reply, Tuning};
use crate::threads;
use crate::weights::Source;

/// How long the others of a replica have to give up once one of its ranks has failed, by default.
const GRACE: Duration = Duration::from_secs(10);

/// How often a thread that is to end is asked whether it has.
const POLL: Duration = Duration::from_millis(2);

/// The threads of all ranks. A rank that fails or panics ends its thread, and with it its communicator, so that the
/// others of its replica fail too rather than wait. Ranks that wait all the same, as NCCL does, are left behind: they end
/// with the process. Other replicas know nothing of it, and are waited for until they are done: work that they would go on
/// with unseen takes time from whatever comes next.
pub(crate) struct Group {
    parallel: Parallel,
    ranks: Vec<Handle>,
    answers: Receiver<(usize, Answer)>,
    /// One has failed: there will be no more answers.
    failed: bool,
    /// How long the others of its replica then have to give up.
    grace: Duration,
}

struct Handle {
    /// Closed to make the thread end.
    calls: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    /// Whether its last answer has come.
    answered: bool,
}

struct Order {
    call: Call,
    prompts: Arc<Vec<Vec<u32>>>,
    tuning: Tuning,
}

/// Nothing says that a rank is loaded, or that its stage has done its part.
type Answer = Result<Option<Reply>, EngineError>;

/// A rank's way to answer. A thread that ends before it was to, as by a panic, says so too.
struct Answers {
    rank: usize,
    to: Sender<(usize, Answer)>,
    done: bool,
}

impl Answers {
    /// Says whether anyone still wants to know.
    fn send(&mut self, answer: Answer) -> bool {
        self.done = answer.is_err();
        self.to.send((self.rank, answer)).is_ok()
    }

    /// No answer follows: the thread was asked to end, or has answered why it does.
    fn end(&mut self) {
        self.done = true;
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if !self.done {
            let error = anyhow!("rank {} has ended; see its message above", self.rank);
            self.send(Err(EngineError::Other(error)));
        }
    }
}

impl Group {
    /// Starts a thread for each rank and loads all shares at once.
    pub fn load(
        config: &ModelConfig,
        source: &Arc<Source>,
        parallel: Parallel,
        joins: Vec<Join>,
        options: &RankOptions,
    ) -> Result<Self, EngineError> {
        let (to, answers) = channel();
        let mut ranks = Vec::with_capacity(joins.len());
        for (index, join) in joins.into_iter().enumerate() {
            let (calls, orders) = channel();
            let mut answers = Answers {
                rank: index,
                to: to.clone(),
                done: false,
            };
            let (config, source, options) = (config.clone(), source.clone(), options.clone());
            let thread = std::thread::Builder::new()
                .name(format!("rank-{index}"))
                .spawn(move || {
                    threads::flush_denormals();
                    let rank = join().and_then(|seat| Rank::load(&config, &source, seat, &options));
                    drop(source);
                    match rank {
                        Ok(rank) => serve(rank, &orders, answers),
                        Err(error) => drop(answers.send(Err(error))),
                    }
                })
                .map_err(|e| anyhow!("starting the thread of a rank: {e}"))?;
            ranks.push(Handle {
                calls: Some(calls),
                thread: Some(thread),
                answered: false,
            });
        }
        let mut group = Self {
            parallel,
            ranks,
            answers,
            failed: false,
            grace: GRACE,
        };
        group.all(parallel.world())?;
        Ok(group)
    }

    /// The answer of all: a replica that there are no rows for idles.
    pub fn run(
        &mut self,
        call: Call,
        prompts: &[Vec<u32>],
        tuning: Tuning,
    ) -> Result<Reply, EngineError> {
        if self.failed {
            return Err(
                anyhow!("a rank has failed before; the model has to be loaded again").into(),
            );
        }
        let Parallel { tensor, data, .. } = self.parallel;
        // Larger shares come first: without rows are the last.
        let busy = data.min(prompts.len());
        for (replica, ranks) in self
            .ranks
            .chunks(self.parallel.replica())
            .take(busy)
            .enumerate()
        {
            let prompts = Arc::new(prompts[part(prompts.len(), data, replica)].to_vec());
            for rank in ranks {
                let order = Order {
                    call,
                    prompts: prompts.clone(),
                    tuning,
                };
                // A thread that has ended says so by itself.
                if let Some(calls) = &rank.calls {
                    let _ = calls.send(order);
                }
            }
        }
        // Of every replica the ranks of its last stage.
        let mut replies = self.all(busy * self.parallel.replica())?.into_iter();
        let mut whole: Option<Reply> = None;
        while let Some(first) = replies.next() {
            let others: Vec<_> = replies.by_ref().take(tensor - 1).collect();
            if let Reply::Generated { ids, .. } = &first {
                let agree = others
                    .iter()
                    .all(|r| matches!(r, Reply::Generated { ids: other, .. } if other == ids));
                if !agree {
                    return Err(EngineError::Other(anyhow!("ranks disagree on the ids")));
                }
            }
            whole = Some(match whole {
                None => first,
                Some(before) => before.and(first),
            });
        }
        whole.ok_or_else(|| EngineError::Other(anyhow!("a group without ranks")))
    }

    /// The answers of the first `asked` ranks, in their order, or the error that began it: not that of a rank which
    /// only gave up because another had.
    fn all(&mut self, asked: usize) -> Result<Vec<Reply>, EngineError> {
        let mut replies: Vec<Option<Reply>> = self.ranks.iter().map(|_| None).collect();
        let mut cause: Option<EngineError> = None;
        for rank in &mut self.ranks[..asked] {
            rank.answered = false;
        }
        let of_a_replica = self.parallel.replica();
        let mut gives_up = vec![false; self.parallel.data];
        while self.ranks.iter().any(|rank| !rank.answered) {
            let mut replicas = self.ranks.chunks(of_a_replica).zip(&gives_up);
            let works = replicas.any(|(ranks, up)| !up && ranks.iter().any(|r| !r.answered));
            let answer = if works {
                self.answers.recv().ok()
            } else {
                self.answers.recv_timeout(self.grace).ok()
            };
            let Some((rank, answer)) = answer else {
                break;
            };
            self.ranks[rank].answered = true;
            match answer {
                Ok(reply) => replies[rank] = reply,
                Err(error) => {
                    self.failed = true;
                    gives_up[rank / of_a_replica] = true;
                    let follows = error.to_string().contains(GIVEN_UP);
                    if cause.is_none() || !follows {
                        cause = Some(error);
                    }
                }
            }
        }
        cause.map_or_else(|| Ok(replies.into_iter().flatten().collect()), Err)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            rank.calls = None;
        }
        let until = Instant::now() + self.grace;
        for rank in &mut self.ranks {
            let Some(thread) = rank.thread.take().filter(|_| rank.answered) else {
                continue;
            };
            // To close a communicator may mean to wait for one that is left behind.
            while self.failed && !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
            if !self.failed || thread.is_finished() {
                // A panic is an error in the rank's answer already.
                let _ = thread.join();
            }
        }
    }
}

/// Answers orders until one fails, or there are no more. The answers, the last of what it is given, are the first to go:
/// also of a panic they tell before the rank is dropped, which may mean to wait for others.
fn serve(mut rank: Rank, orders: &Receiver<Order>, mut answers: Answers) {
    let mut goes_on = answers.send(Ok(None));
    while goes_on {
        let Ok(order) = orders.recv() else {
            break;
        };
        let reply = rank.run(order.call, &order.prompts, order.tuning);
        let failed = reply.is_err();
        goes_on = answers.send(reply) && !failed;
    }
    answers.end();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    #[cfg(feature = "cuda")]
    use candle_core::DType;
    use candle_core::{Device, Tensor, bail};

    use super::*;
    use crate::comm::{Communicator, LocalComm, join};
    use crate::format::Format;
    use crate::presets::preset;
    use crate::weights::Weights;

    /// How long ranks have to give up here.
    const TEST_GRACE: Duration = Duration::from_millis(100);

    /// The behaviour of a rank after 20 sums.
    #[derive(Clone, Copy)]
    enum Fault {
        None,
        Fails,
        Panics,
        Waits,
        /// Takes longer than others have to give up, once.
        Slow,
        /// Fails, and never closes its communicator.
        Lingers,
        /// Panics, and never closes its communicator.
        PanicsAndLingers,
    }

    struct Faulty {
        inner: LocalComm,
        sums_left: Cell<usize>,
        fault: Fault,
    }

    fn wait_for_ever() -> ! {
        loop {
            std::thread::park();
        }
    }

    impl Drop for Faulty {
        fn drop(&mut self) {
            if matches!(self.fault, Fault::Lingers | Fault::PanicsAndLingers) {
                wait_for_ever();
            }
        }
    }

    impl Communicator for Faulty {
        fn rank(&self) -> usize {
            self.inner.rank()
        }
        fn world(&self) -> usize {
            self.inner.world()
        }
        fn all_reduce_sum(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
            match (self.sums_left.get(), self.fault) {
                (_, Fault::None) => {}
                (0, Fault::Fails | Fault::Lingers) => bail!("the network is gone"),
                (0, Fault::Panics | Fault::PanicsAndLingers) => panic!("the test wants it so"),
                (0, Fault::Waits) => wait_for_ever(),
                (0, Fault::Slow) => {
                    std::thread::sleep(10 * TEST_GRACE);
                    self.sums_left.set(usize::MAX);
                }
                (left, _) => self.sums_left.set(left - 1),
            }
            self.inner.all_reduce_sum(tensor)
        }
        fn all_gather(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
            self.inner.all_gather(tensor)
        }
    }

    fn random(config: &ModelConfig) -> Arc<Source> {
        let weights = Weights::Random {
            config: config.clone(),
            seed: 1,
        };
        Arc::new(weights.source(config).unwrap())
    }

    fn group(parallel: Parallel, faults: &[Fault]) -> Group {
        let config = preset("tiny-llama").unwrap();
        let source = random(&config);
        let joins = LocalComm::seats(parallel)
            .into_iter()
            .zip(faults)
            .map(|((inner, link), &fault)| {
                // Whom a stage that waits keeps waiting never comes to fail: it waits with what came before.
                let early = parallel.pipeline > 1 && matches!(fault, Fault::Waits);
                let comm = Faulty {
                    sums_left: Cell::new(if early { 18 } else { 20 }),
                    inner,
                    fault,
                };
                join(Device::Cpu, comm, link)
            })
            .collect();
        let options = RankOptions {
            format: Format::F32,
            #[cfg(feature = "cuda")]
            on_device: false,
            #[cfg(feature = "cuda")]
            needed: 0,
            max_seq: 32,
        };
        let mut group = Group::load(&config, &source, parallel, joins, &options).unwrap();
        group.grace = TEST_GRACE;
        group
    }

    /// Why the group fails to make 20 ids for three prompts.
    fn failure(group: &mut Group) -> String {
        let started = Instant::now();
        let call = Call::Generate { n: 20, started };
        let prompts = [vec![5, 6, 7], vec![6, 7, 8], vec![7, 8, 9]];
        let error = group.run(call, &prompts, Tuning::default()).unwrap_err();
        error.to_string()
    }

    /// That the test ends at all is half of what it says.
    #[test]
    fn a_rank_that_fails_or_panics_takes_nobody_along() {
        use Fault::{Fails, Lingers, None, Panics, PanicsAndLingers, Waits};
        let [stages, replicas, pairs] =
            [[1, 3, 1], [1, 1, 3], [2, 1, 2]].map(|[tensor, pipeline, data]| Parallel {
                tensor,
                pipeline,
                data,
            });
        let ends = [
            ([Fails, None, None], "the network is gone"),
            ([None, None, Fails], "the network is gone"),
            ([Panics, None, None], "rank 0 has ended"),
            ([None, Panics, None], "rank 1 has ended"),
        ];
        // One that keeps waiting, as NCCL does, is not waited for; nor one that waits when it is to end.
        let waits = [
            ([Waits, Fails, Waits], "the network is gone"),
            ([Waits, Waits, Panics], "rank 2 has ended"),
        ];
        let lingers = [
            ([Lingers, None, None], "the network is gone"),
            ([None, PanicsAndLingers, None], "rank 1 has ended"),
        ];
        for parallel in [Parallel::tensor(3), stages, replicas] {
            takes_nobody_along(parallel, &ends);
            takes_nobody_along(parallel, &lingers);
        }
        takes_nobody_along(Parallel::tensor(3), &waits);
        takes_nobody_along(stages, &[([None, Fails, Waits], "the network is gone")]);
        let in_one_replica = [
            ([Waits, Fails, None, None], "the network is gone"),
            ([None, None, Panics, Waits], "rank 2 has ended"),
        ];
        takes_nobody_along(pairs, &in_one_replica);
    }

    fn takes_nobody_along<const N: usize>(parallel: Parallel, cases: &[([Fault; N], &str)]) {
        for (faults, cause) in cases {
            let mut group = group(parallel, faults);
            let error = failure(&mut group);
            assert!(error.contains(cause), "{parallel:?}: {error}");
            let tuning = Tuning::default();
            assert!(group.run(Call::Logits, &[vec![5]], tuning).is_err());
        }
    }

    /// One that takes its time is not left behind while it computes.
    #[test]
    fn other_replicas_are_waited_for() {
        use Fault::{Fails, None, Slow};
        let replicas = Parallel {
            data: 3,
            ..Parallel::ONE
        };
        let mut group = group(replicas, &[Slow, Fails, None]);
        let error = failure(&mut group);
        assert!(error.contains("the network is gone"), "{error}");
        assert!(group.ranks.iter().all(|rank| rank.answered));
    }

    /// Of several GPUs all but NCCL, which wants a GPU for each rank, is shown by ranks that share one and its stream; of
    /// NCCL, what one rank alone shows; and with two GPUs, all of it.
    #[cfg(feature = "cuda")]
    #[test]
    fn ranks_on_gpus_say_what_one_says() {
        let Some((device, _alone)) = crate::gpu::for_test("ranks_on_gpus_say_what_one_says") else {
            return;
        };
        // Two threads that are the first to add at once would each load candle's kernels for it, and one unload them
        // again.
        let one = Tensor::ones(1, DType::F32, &device).unwrap();
        let _two = (&one + &one).unwrap();
        let sharing = |parallel: Parallel| -> Vec<Join> {
            let seats = LocalComm::seats(parallel).into_iter();
            seats
                .map(|(comm, link)| join(device.clone(), comm, link))
                .collect()
        };
        let two = [[2, 1, 1], [1, 2, 1], [1, 1, 2]].map(|[tensor, pipeline, data]| Parallel {
            tensor,
            pipeline,
            data,
        });
        for preset_name in ["tiny-gpt2", "tiny-llama"] {
            let config = preset(preset_name).unwrap();
            let source = random(&config);
            let prompts = [vec![5, 6, 7], vec![9, 8, 7]];
            let said = |parallel: Parallel, joins: Vec<Join>, graphs: bool| {
                let options = RankOptions {
                    format: Format::F32,
                    on_device: parallel.pipeline == 1,
                    needed: 0,
                    max_seq: 32,
                };
                let tuning = Tuning {
                    graphs,
                    ..Tuning::default()
                };
                let mut group = Group::load(&config, &source, parallel, joins, &options).unwrap();
                // Twice: with the graph that the first call left, too.
                [0, 1].map(|_| {
                    let started = Instant::now();
                    let call = Call::Generate { n: 20, started };
                    match group.run(call, &prompts, tuning).unwrap() {
                        Reply::Generated { ids, .. } => ids,
                        other => panic!("{other:?}"),
                    }
                })
            };
            let alone = said(Parallel::ONE, sharing(Parallel::ONE), true);
            assert_eq!(alone[0], alone[1], "{preset_name}");
            for parallel in two {
                // Two ranks that share a stream cannot both capture it.
                let shared = said(parallel, sharing(parallel), false);
                assert_eq!(shared, alone, "{preset_name}, {parallel:?}");
            }
            #[cfg(feature = "nccl")]
            for graphs in [false, true] {
                let what = format!("{preset_name} by NCCL, graphs: {graphs}");
                let one = crate::nccl::alone().unwrap();
                assert_eq!(said(Parallel::ONE, one, graphs), alone, "{what}");
                if crate::gpu::find(2).is_ok() {
                    for parallel in two {
                        let joins = crate::nccl::joins(parallel).unwrap();
                        assert_eq!(said(parallel, joins, graphs), alone, "{what}, {parallel:?}");
                    }
                }
            }
        }
    }
}
