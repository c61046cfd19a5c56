//! Ranks as threads: each owns its share of the model for as long as the engine lives.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::anyhow;

use crate::comm::{GIVEN_UP, LocalComm};
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::rank::{Call, Rank, RankOptions, Reply};
use crate::weights::Source;

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
    pub fn load(
        config: &ModelConfig,
        source: &Arc<Source>,
        world: usize,
        options: &RankOptions,
    ) -> Result<Self, EngineError> {
        let mut ranks = Vec::with_capacity(world);
        let mut loads = Vec::with_capacity(world);
        for comm in LocalComm::ranks(world) {
            let (calls, orders) = channel();
            let (answers, replies) = channel();
            let (loaded, load) = channel();
            let (config, source, options) = (config.clone(), source.clone(), options.clone());
            let thread = std::thread::Builder::new()
                .name(format!("rank-{}", ranks.len()))
                .spawn(move || {
                    match Rank::load(&config, &source, Box::new(comm), &options) {
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
