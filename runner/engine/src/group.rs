//! Ranks as threads: each owns its share of the model for as long as the engine lives.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

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

/// The threads of all ranks. A rank that fails or panics ends its thread, and with it its
/// communicator, so that the others fail too rather than wait.
pub(crate) struct Group {
    ranks: Vec<Handle>,
    pub prefill_rows: usize,
}

struct Handle {
    /// Closed to make the thread end.
    calls: Option<Sender<Order>>,
    replies: Receiver<Result<Reply, EngineError>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    call: Call,
    prompts: Arc<Vec<Vec<u32>>>,
    prefill_rows: usize,
}

impl Group {
    /// Starts a thread for each rank and loads all shares at once.
    pub fn load(
        config: &ModelConfig,
        source: &Arc<Source>,
        joins: Vec<Join>,
        options: &RankOptions,
    ) -> Result<Self, EngineError> {
        let mut ranks = Vec::with_capacity(joins.len());
        let mut loads = Vec::with_capacity(joins.len());
        for (index, join) in joins.into_iter().enumerate() {
            let (calls, orders) = channel();
            let (answers, replies) = channel();
            let (loaded, load) = channel();
            let (config, source, options) = (config.clone(), source.clone(), options.clone());
            let thread = std::thread::Builder::new()
                .name(format!("rank-{index}"))
                .spawn(move || {
                    threads::flush_denormals();
                    let rank = options.backend.open(index).and_then(|device| {
                        let comm = join(&device)?;
                        Rank::load(&config, &source, device, comm, &options)
                    });
                    match rank {
                        Ok(rank) => {
                            drop(source);
                            // Whoever is gone no longer wants to know.
                            if loaded.send(Ok(())).is_ok() {
                                serve(rank, &orders, &answers);
                            }
                        }
                        Err(error) => drop(loaded.send(Err(error))),
                    }
                })
                .map_err(|e| anyhow!("starting the thread of a rank: {e}"))?;
            ranks.push(Handle {
                calls: Some(calls),
                replies,
                thread: Some(thread),
            });
            loads.push(load);
        }
        let group = Self {
            ranks,
            prefill_rows: crate::size::PREFILL_ROWS,
        };
        all(loads.iter().map(Receiver::recv))?;
        Ok(group)
    }

    pub fn run(&mut self, call: Call, prompts: &[Vec<u32>]) -> Result<Reply, EngineError> {
        let prompts = Arc::new(prompts.to_vec());
        for rank in &self.ranks {
            let order = Order {
                call,
                prompts: prompts.clone(),
                prefill_rows: self.prefill_rows,
            };
            // A thread that has ended shows when its reply is missing.
            if let Some(calls) = &rank.calls {
                let _ = calls.send(order);
            }
        }
        let mut replies = all(self.ranks.iter().map(|rank| rank.replies.recv()))?;
        let first = replies.swap_remove(0);
        if let Reply::Generated { ids, .. } = &first {
            let agree = replies
                .iter()
                .all(|r| matches!(r, Reply::Generated { ids: other, .. } if other == ids));
            if !agree {
                return Err(EngineError::Other(anyhow!("ranks disagree on the ids")));
            }
        }
        Ok(first)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            rank.calls = None;
        }
        for rank in &mut self.ranks {
            if let Some(thread) = rank.thread.take() {
                // A panic has been reported as the missing reply.
                let _ = thread.join();
            }
        }
    }
}

fn serve(mut rank: Rank, orders: &Receiver<Order>, answers: &Sender<Result<Reply, EngineError>>) {
    while let Ok(order) = orders.recv() {
        rank.prefill_rows = order.prefill_rows;
        let reply = rank.run(order.call, &order.prompts);
        let failed = reply.is_err();
        if failed {
            // Before anyone is told: the others are waiting for this rank.
            drop(rank);
            let _ = answers.send(reply);
            return;
        }
        if answers.send(reply).is_err() {
            return;
        }
    }
}

/// Every rank's answer, or the error that began it: not that of a rank which only gave up because
/// another had.
fn all<T>(
    answers: impl Iterator<Item = Result<Result<T, EngineError>, std::sync::mpsc::RecvError>>,
) -> Result<Vec<T>, EngineError> {
    let mut values = Vec::new();
    let mut cause: Option<EngineError> = None;
    for (rank, answer) in answers.enumerate() {
        let error = match answer {
            Ok(Ok(value)) => {
                values.push(value);
                continue;
            }
            Ok(Err(error)) => error,
            Err(_) => EngineError::Other(anyhow!("rank {rank} has ended; see its message above")),
        };
        let follows = error.to_string().contains(GIVEN_UP);
        if cause.is_none() || !follows {
            cause = Some(error);
        }
    }
    cause.map_or(Ok(values), Err)
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

    /// Fails, or panics, when it has summed often enough.
    struct Faulty {
        inner: LocalComm,
        sums_left: Cell<usize>,
        panics: bool,
    }

    impl Communicator for Faulty {
        fn rank(&self) -> usize {
            self.inner.rank()
        }
        fn world(&self) -> usize {
            self.inner.world()
        }
        fn all_reduce_sum(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
            match self.sums_left.get() {
                0 if self.panics => panic!("the test wants it so"),
                0 => bail!("the network is gone"),
                left => self.sums_left.set(left - 1),
            }
            self.inner.all_reduce_sum(tensor)
        }
        fn all_gather(&self, tensor: &Tensor) -> candle_core::Result<Vec<Tensor>> {
            self.inner.all_gather(tensor)
        }
    }

    fn group(faulty: usize, panics: bool) -> Group {
        let config = preset("tiny-llama").unwrap();
        let source = Arc::new(Source::Random(Random::new(1, config.layers)));
        let joins = LocalComm::ranks(3)
            .into_iter()
            .map(|inner| {
                let sums = if inner.rank() == faulty {
                    20
                } else {
                    usize::MAX
                };
                let comm = Faulty {
                    sums_left: Cell::new(sums),
                    inner,
                    panics,
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
        for (faulty, panics, cause) in [
            (0, false, "the network is gone"),
            (2, false, "the network is gone"),
            (0, true, "rank 0 has ended"),
            (1, true, "rank 1 has ended"),
        ] {
            let mut group = group(faulty, panics);
            let started = Instant::now();
            let call = Call::Generate { n: 20, started };
            let error = group.run(call, &[vec![5, 6, 7]]).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
            assert!(group.run(Call::Logits, &[vec![5]]).is_err());
        }
    }
}
