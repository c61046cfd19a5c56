//! Collective operations among the ranks that share every layer, and how a rank comes to its place among the others.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::error::{EngineError, GIVEN_UP};
use crate::link::{Link, LocalLink};
use crate::parallel::Parallel;

/// Collective operations among `world` ranks. Every rank calls the same operations in the same order.
pub trait Communicator: Send {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// The number of ranks.
    fn world(&self) -> usize;
    /// The sum of every rank's tensor of the same shape, the same bits on each of them. Ranks on the CPU take it in f32
    /// in their order.
    ///
    /// # Errors
    /// When another rank has given up.
    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<Tensor>;
    /// Every rank's tensor of the same shape, in the order of ranks, along a new first dimension.
    ///
    /// # Errors
    /// When another rank has given up.
    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor>;
}

/// A rank's place: its device, and its ways to the others.
pub(crate) struct Seat {
    pub device: Device,
    /// To those that it shares every layer with.
    pub comm: Box<dyn Communicator>,
    /// To the stages beside its own.
    pub link: Box<dyn Link>,
}

/// Makes a rank's [`Seat`], on the rank's own thread.
pub(crate) type Join = Box<dyn FnOnce() -> std::result::Result<Seat, EngineError> + Send>;

/// The [`Join`] of a rank whose ways to the others are there already.
pub(crate) fn join(
    device: Device,
    comm: impl Communicator + 'static,
    link: impl Link + 'static,
) -> Join {
    Box::new(|| {
        Ok(Seat {
            device,
            comm: Box::new(comm),
            link: Box::new(link),
        })
    })
}

/// The only rank there is.
#[derive(Debug)]
pub struct SingleComm;

impl Communicator for SingleComm {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.clone())
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.unsqueeze(0)
    }
}

/// One rank among threads of this process. Dropping it before the others are done makes their
/// pending and later operations fail rather than wait for ever: a rank that panics takes nobody along.
#[derive(Debug)]
pub struct LocalComm {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    world: usize,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State {
    /// Contributions to the round under way.
    pending: Vec<Option<Tensor>>,
    /// Contributions to the last complete round. A rank cannot be two rounds ahead of another,
    /// because the next one is only complete once all have read this one and come back.
    complete: Vec<Tensor>,
    round: u64,
    gone: bool,
}

impl LocalComm {
    /// A communicator for each of `world` ranks.
    pub fn ranks(world: usize) -> Vec<LocalComm> {
        let shared = Arc::new(Shared {
            world,
            state: Mutex::new(State {
                pending: vec![None; world],
                complete: Vec::new(),
                round: 0,
                gone: false,
            }),
            arrived: Condvar::new(),
        });
        (0..world)
            .map(|rank| LocalComm {
                rank,
                shared: shared.clone(),
            })
            .collect()
    }

    /// Threads of this process on one device, in the order of [`Parallel`]: each with its communicator and its link.
    pub(crate) fn seats(parallel: Parallel) -> Vec<(LocalComm, LocalLink)> {
        let mut seats = Vec::with_capacity(parallel.world());
        for _ in 0..parallel.data {
            // Each rank of a stage has its own way through the stages.
            let rings =
                (0..parallel.tensor).map(|_| LocalLink::ring(parallel.pipeline).into_iter());
            let mut rings: Vec<_> = rings.collect();
            for _ in 0..parallel.pipeline {
                let links = rings.iter_mut().filter_map(Iterator::next);
                seats.extend(Self::ranks(parallel.tensor).into_iter().zip(links));
            }
        }
        seats
    }

    /// Nothing panics while it holds the lock, so that a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Every rank's tensor.
    fn exchange(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        // A tensor that is kept from before a capture could not be freed in it.
        if self.shared.world == 1 {
            return Ok(vec![tensor.clone()]);
        }
        let mut state = self.lock();
        state.pending[self.rank] = Some(tensor.clone());
        let round = state.round;
        if state.pending.iter().all(Option::is_some) {
            let complete = state.pending.iter_mut().filter_map(Option::take).collect();
            state.complete = complete;
            state.round += 1;
            self.shared.arrived.notify_all();
        }
        while state.round == round {
            if state.gone {
                bail!("{GIVEN_UP}");
            }
            state = self
                .shared
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state.complete.clone())
    }
}

impl Drop for LocalComm {
    fn drop(&mut self) {
        self.lock().gone = true;
        self.shared.arrived.notify_all();
    }
}

impl Communicator for LocalComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.world
    }

    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<Tensor> {
        let parts = self.exchange(tensor)?;
        let mut sum = parts[0].to_dtype(DType::F32)?;
        for part in &parts[1..] {
            sum = (sum + part.to_dtype(DType::F32)?)?;
        }
        sum.to_dtype(tensor.dtype())
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        Tensor::stack(&self.exchange(tensor)?, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T: Send>(world: usize, body: impl Fn(LocalComm) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> = LocalComm::ranks(world)
                .into_iter()
                .map(|comm| scope.spawn(move || body(comm)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_and_gathers_many_rounds_in_the_order_of_ranks() {
        for world in [1, 2, 3, 4] {
            let results = run(world, |comm| {
                let mut seen = Vec::new();
                for round in 0..200 {
                    let mine = (comm.rank() * 1000 + round) as f32;
                    let tensor = Tensor::new(&[mine], &Device::Cpu).unwrap();
                    let sum = comm.all_reduce_sum(&tensor).unwrap();
                    let all = comm.all_gather(&tensor).unwrap();
                    seen.push(sum.to_vec1::<f32>().unwrap()[0]);
                    assert_eq!(all.dims(), [world, 1]);
                    seen.extend(all.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                }
                seen
            });
            let mut expected = Vec::new();
            for round in 0..200 {
                let all: Vec<_> = (0..world).map(|r| (r * 1000 + round) as f32).collect();
                expected.push(all.iter().sum());
                expected.extend(all);
            }
            for seen in results {
                assert_eq!(seen, expected, "world {world}");
            }
        }
    }

    #[test]
    fn a_rank_that_leaves_makes_the_others_fail() {
        let failed = run(3, |comm| {
            if comm.rank() == 1 {
                return false;
            }
            let tensor = Tensor::new(&[1f32], &Device::Cpu).unwrap();
            comm.all_reduce_sum(&tensor).is_err()
        });
        assert_eq!(failed, [true, false, true]);
    }
}
