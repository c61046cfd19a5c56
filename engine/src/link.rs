//! The way of a rank to the stages beside its own: states go on from stage to stage, and ids from the last back to the
//! first.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use candle_core::{DType, Result, Tensor, bail};

use crate::error::GIVEN_UP;
use crate::parallel::Stage;

/// A place in a ring of stages. Tensors that one sends the next receives, in this order. To send may mean to wait until
/// a tensor is received.
pub(crate) trait Link: Send {
    /// The stage.
    fn stage(&self) -> Stage;
    /// Sends a tensor to the next stage; the last one sends to the first.
    ///
    /// # Errors
    /// When that stage has given up.
    fn send(&self, tensor: &Tensor) -> Result<()>;
    /// The tensor that the stage before sends, of which shape and type are known; the first one receives from the last.
    ///
    /// # Errors
    /// When that stage has given up.
    fn receive(&self, shape: &[usize], dtype: DType) -> Result<Tensor>;
}

/// The [`Link`] of a rank among threads of this process, on one device. Dropping it makes both neighbours fail rather
/// than wait for ever.
///
/// A sender waits for its receiver, always: so does NCCL, but only where its buffers are full, and an order of sending
/// and receiving that comes to an end here comes to one there.
pub(crate) struct LocalLink {
    stage: Stage,
    next: SyncSender<Tensor>,
    before: Receiver<Tensor>,
}

impl LocalLink {
    /// A link for each of `count` stages.
    pub fn ring(count: usize) -> Vec<Self> {
        let (mut senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| sync_channel(0)).unzip();
        // Each sends to the one after it.
        senders.rotate_left(1);
        let ends = senders.into_iter().zip(receivers).enumerate();
        ends.map(|(index, (next, before))| Self {
            stage: Stage { index, count },
            next,
            before,
        })
        .collect()
    }
}

impl Link for LocalLink {
    fn stage(&self) -> Stage {
        self.stage
    }

    fn send(&self, tensor: &Tensor) -> Result<()> {
        match self.next.send(tensor.clone()) {
            Ok(()) => Ok(()),
            Err(_) => bail!("{GIVEN_UP}"),
        }
    }

    fn receive(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let Ok(tensor) = self.before.recv() else {
            bail!("{GIVEN_UP}");
        };
        if tensor.dims() != shape || tensor.dtype() != dtype {
            bail!("{tensor:?} was sent where {shape:?} of {dtype:?} was expected");
        }
        Ok(tensor)
    }
}

/// The link of a rank whose stage is the only one: nobody is there.
pub(crate) struct NoLink;

impl Link for NoLink {
    fn stage(&self) -> Stage {
        Stage::WHOLE
    }

    fn send(&self, _: &Tensor) -> Result<()> {
        bail!("there is no other stage to send to")
    }

    fn receive(&self, _: &[usize], _: DType) -> Result<Tensor> {
        bail!("there is no other stage to receive from")
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn tensors_go_round_in_order_and_a_stage_that_leaves_makes_its_neighbours_fail() {
        let stages = LocalLink::ring(3).into_iter().map(|link| {
            std::thread::spawn(move || {
                let number = |n: u32| Tensor::new(&[n], &Device::Cpu).unwrap();
                let mut seen = Vec::new();
                for round in 0..20 {
                    if link.stage().is_first() {
                        link.send(&number(round)).unwrap();
                    }
                    let tensor = link.receive(&[1], DType::U32).unwrap();
                    seen.push(tensor.to_vec1::<u32>().unwrap()[0]);
                    if !link.stage().is_first() {
                        link.send(&tensor).unwrap();
                    }
                }
                // The second stage leaves: nobody takes what the first sends, and the last waits for nothing.
                let failed = match link.stage().index {
                    0 => link.send(&number(0)).is_err(),
                    1 => true,
                    _ => link.receive(&[1], DType::U32).is_err(),
                };
                (seen, failed)
            })
        });
        let stages: Vec<_> = stages.collect();
        for stage in stages {
            assert_eq!(stage.join().unwrap(), ((0..20).collect(), true));
        }
    }

    #[test]
    fn what_was_not_expected_is_refused() {
        let [one, two] = <[LocalLink; 2]>::try_from(LocalLink::ring(2)).ok().unwrap();
        let sender = std::thread::spawn(move || {
            let tensor = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
            for _ in 0..2 {
                one.send(&tensor).unwrap();
            }
        });
        assert!(two.receive(&[1], DType::F32).is_err());
        assert!(two.receive(&[2], DType::U32).is_err());
        sender.join().unwrap();
    }
}
