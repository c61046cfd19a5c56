//! Ranks as threads: each owns its share of the model for as long as the engine lives.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use candle_core::Device;

use crate::comm::{Communicator, GIVEN_UP};
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::rank::{Call, Rank, RankOptions, Reply};
use crate::threads;
use crate::weights::Source;

/// Gives a rank its line to the others, on its own thread and for its device.
pub(crate) type Join =
    Box<dyn FnOnce(&Device) -> Result<Box<dyn Communicator>, EngineError> + Send>;

/// How long the others have to give up once a rank has failed, by default.
const GRACE: Duration = Duration::from_secs(10);

/// The threads of all ranks. A rank that fails or panics ends its thread, and with it its
/// communicator, so that the others fail too rather than wait. Those that wait all the same, as NCCL does, are left
/// behind: they end with the process.
pub(crate) struct Group {
    ranks: Vec<Handle>,
    answers: Receiver<(usize, Answer)>,
    /// One has failed: there will be no more answers.
    failed: bool,
    /// How long the others then have to give up.
    grace: Duration,
    pub prefill_rows: usize,
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
    prefill_rows: usize,
}

/// Nothing says that a rank is loaded.
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

    /// There is nothing more to say: it was told to end, or has said why it does.
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
                    let rank = options.backend.open(index).and_then(|device| {
                        let comm = join(&device)?;
                        Rank::load(&config, &source, device, comm, &options)
                    });
                    drop(source);
                    match rank {
                        Ok(rank) => {
                            if answers.send(Ok(None)) {
                                serve(rank, &orders, &mut answers);
                            }
                            answers.end();
                        }
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
            ranks,
            answers,
            failed: false,
            grace: GRACE,
            prefill_rows: crate::size::PREFILL_ROWS,
        };
        group.all()?;
        Ok(group)
    }

    pub fn run(&mut self, call: Call, prompts: &[Vec<u32>]) -> Result<Reply, EngineError> {
        if self.failed {
            return Err(
                anyhow!("a rank has failed before; the model has to be loaded again").into(),
            );
        }
        let prompts = Arc::new(prompts.to_vec());
        for rank in &self.ranks {
            let order = Order {
                call,
                prompts: prompts.clone(),
                prefill_rows: self.prefill_rows,
            };
            // A thread that has ended says so by itself.
            if let Some(calls) = &rank.calls {
                let _ = calls.send(order);
            }
        }
        let mut replies = self.all()?.into_iter();
        let first = replies
            .next()
            .ok_or_else(|| anyhow!("a group without ranks"))?;
        if let Reply::Generated { ids, .. } = &first {
            let agree =
                replies.all(|r| matches!(r, Reply::Generated { ids: other, .. } if other == *ids));
            if !agree {
                return Err(EngineError::Other(anyhow!("ranks disagree on the ids")));
            }
        }
        Ok(first)
    }

    /// Every rank's answer, in their order, or the error that began it: not that of a rank which only gave up because
    /// another had.
    fn all(&mut self) -> Result<Vec<Reply>, EngineError> {
        let mut replies: Vec<Option<Reply>> = self.ranks.iter().map(|_| None).collect();
        let mut cause: Option<EngineError> = None;
        for rank in &mut self.ranks {
            rank.answered = false;
        }
        while self.ranks.iter().any(|rank| !rank.answered) {
            let answer = if self.failed {
                self.answers.recv_timeout(self.grace).ok()
            } else {
                self.answers.recv().ok()
            };
            let Some((rank, answer)) = answer else {
                break;
            };
            self.ranks[rank].answered = true;
            match answer {
                Ok(reply) => replies[rank] = reply,
                Err(error) => {
                    self.failed = true;
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
        for rank in &mut self.ranks {
            if let Some(thread) = rank.thread.take().filter(|_| rank.answered) {
                // A panic has been told as the rank's answer.
                let _ = thread.join();
            }
        }
    }
}

fn serve(mut rank: Rank, orders: &Receiver<Order>, answers: &mut Answers) {
    while let Ok(order) = orders.recv() {
        rank.prefill_rows = order.prefill_rows;
        let reply = rank.run(order.call, &order.prompts);
        if reply.is_err() {
            // Before anyone is told: the others are waiting for this rank.
            drop(rank);
            answers.send(reply.map(Some));
            return;
        }
        if !answers.send(reply.map(Some)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Instant;

    use candle_core::{Tensor, bail};

    use super::*;
    use crate::comm::LocalComm;
    use crate::format::Format;
    use crate::gpu::Backend;
    use crate::presets::preset;
    use crate::weights::random::Random;

    /// How a rank goes on when it has summed often enough.
    #[derive(Clone, Copy)]
    enum Fault {
        None,
        Fails,
        Panics,
        Waits,
    }

    struct Faulty {
        inner: LocalComm,
        sums_left: Cell<usize>,
        fault: Fault,
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
                (0, Fault::Fails) => bail!("the network is gone"),
                (0, Fault::Panics) => panic!("the test wants it so"),
                (0, Fault::Waits) => loop {
                    std::thread::park();
                },
                (left, _) => self.sums_left.set(left - 1),
            }
            self.inner.all_reduce_sum(tensor)
        }
        fn all_gather(&self, tensor: &Tensor) -> candle_core::Result<Vec<Tensor>> {
            self.inner.all_gather(tensor)
        }
    }

    fn group(faults: [Fault; 3]) -> Group {
        let config = preset("tiny-llama").unwrap();
        let source = Arc::new(Source::Random(Random::new(1, config.layers)));
        let joins = LocalComm::ranks(3)
            .into_iter()
            .zip(faults)
            .map(|(inner, fault)| {
                let comm = Faulty {
                    sums_left: Cell::new(20),
                    inner,
                    fault,
                };
                Box::new(|_: &Device| Ok(Box::new(comm) as Box<dyn Communicator>)) as Join
            })
            .collect();
        let options = RankOptions {
            format: Format::F32,
            backend: Backend::Cpu,
            #[cfg(feature = "cuda")]
            needed: 0,
            max_seq: 32,
        };
        Group::load(&config, &source, joins, &options).unwrap()
    }

    /// That the test ends at all is half of what it says.
    #[test]
    fn a_rank_that_fails_or_panics_takes_nobody_along() {
        use Fault::{Fails, None, Panics, Waits};
        for (faults, cause) in [
            ([Fails, None, None], "the network is gone"),
            ([None, None, Fails], "the network is gone"),
            ([Panics, None, None], "rank 0 has ended"),
            ([None, Panics, None], "rank 1 has ended"),
            // One that goes on waiting, as NCCL does, is waited for no longer.
            ([Waits, Fails, Waits], "the network is gone"),
            ([Waits, Waits, Panics], "rank 2 has ended"),
        ] {
            let mut group = group(faults);
            group.grace = Duration::from_millis(100);
            let started = Instant::now();
            let call = Call::Generate { n: 20, started };
            let error = group.run(call, &[vec![5, 6, 7]]).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
            assert!(group.run(Call::Logits, &[vec![5]]).is_err());
        }
    }
}
