//! Decoding by way of the host: every step's ids pass it, and go from the last stage to the first.
//!
//! The batch goes through the stages in parts, one for each stage where it has the sequences: while a stage works on one
//! part, the others work on theirs. So a step takes as long as one part in all stages.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use candle_core::{DType, Result, Tensor};

use super::share::{Generated, Share};
use crate::error::EngineError;
use crate::link::Link;
use crate::models::cache::KvCache;
use crate::models::parallel;
use crate::ops::Offset;
use crate::parallel::part;

impl Share {
    /// Continues prompts by `n` ids each: the ids, and when each step's were there. A stage before the last has neither.
    pub(super) fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        n: usize,
        started: Instant,
        cache: &KvCache,
    ) -> std::result::Result<Option<Generated>, EngineError> {
        let (batch, input) = (prompts.len(), prompts[0].len());
        let stage = self.link.stage();
        let parts = parts(batch, stage.count.min(batch), cache)?;
        let mut ids = vec![Vec::with_capacity(n); batch];
        let mut step_ends = Vec::with_capacity(n);
        let mut back = Back::new(parts.len(), stage.count);
        for step in 0..n {
            for (rows, cache) in &parts {
                let logits = if step == 0 {
                    let logits = self.prefill_stage(&prompts[rows.clone()], cache)?;
                    back.has_come(&*self.link)?;
                    logits
                } else {
                    let next = self.next(&ids[rows.clone()])?;
                    back.has_come(&*self.link)?;
                    self.forward_stage(&next, Offset::Host(input + step - 1), cache, true)?
                };
                let Some(logits) = logits else {
                    continue;
                };
                let best = parallel::ids(&self.best(&logits)?)?;
                for (row, id) in ids[rows.clone()].iter_mut().zip(&best) {
                    row.push(*id);
                }
                if rows.end == batch {
                    step_ends.push(started.elapsed());
                }
                if step + 1 < n && !stage.is_first() {
                    let best = Tensor::from_vec(best, rows.len(), &self.device)?;
                    back.is_chosen(best, &*self.link)?;
                }
            }
        }
        Ok(stage.is_last().then_some((ids, step_ends)))
    }

    /// The input of this stage for the next position of rows, of which the ids so far are known where they are chosen.
    fn next(&self, ids: &[Vec<u32>]) -> Result<Tensor> {
        let (stage, count) = (self.link.stage(), ids.len());
        if stage.is_first() && !stage.is_last() {
            return self.link.receive(&[count], DType::U32)?.unsqueeze(1);
        }
        let last = ids.iter().filter_map(|row| row.last().copied());
        self.input(last.collect(), (count, 1))
    }
}

/// The batch in `count` parts: the rows of each, with their cache.
fn parts(batch: usize, count: usize, cache: &KvCache) -> Result<Vec<(Range<usize>, KvCache)>> {
    let parts = (0..count).map(|index| {
        let rows = part(batch, count, index);
        let cache = cache.rows(rows.start, rows.len())?;
        Ok((rows, cache))
    });
    parts.collect()
}

/// The way of ids from the last stage back to the first.
///
/// Whoever sends may have to wait for the receiver, and the stages must never all wait so, round the ring. The first
/// sends every part before it receives ids, and from then on one part after the ids of each. So the last sends no ids
/// before it has had every part once, and from then on only as many that there are never as many parts under way as
/// there are stages: of those before the last, one is then free to receive, and the one before that to send, and so
/// back to the first. That suffices to keep all of them at work, each on a part of its own.
struct Back {
    /// The fewest parts that are with the last stage when it sends ids, those of the ids among them.
    least: usize,
    /// Parts that are still to come for the first time.
    missing: usize,
    /// Parts that have come since their last ids were sent.
    here: usize,
    /// Ids that are to be sent, in the order of their parts.
    ids: VecDeque<Tensor>,
}

impl Back {
    /// For this number of parts of the batch, and of stages.
    fn new(parts: usize, stages: usize) -> Self {
        Self {
            // Once the ids are sent, as many parts are under way as there are stages before the last, at most.
            least: (parts + 2).saturating_sub(stages).max(1),
            missing: parts,
            here: 0,
            ids: VecDeque::new(),
        }
    }

    /// A part has come: ids that wait for no more than that are sent before it is worked on.
    fn has_come(&mut self, link: &dyn Link) -> Result<()> {
        self.here += 1;
        self.missing = self.missing.saturating_sub(1);
        self.send(link)?;
        Ok(())
    }

    /// The ids of a part, one for each row, are to be sent: with them all those that may be.
    fn is_chosen(&mut self, ids: Tensor, link: &dyn Link) -> Result<()> {
        self.ids.push_back(ids);
        while self.send(link)? {}
        Ok(())
    }

    /// Sends the next ids where there are some and they may be sent, and says whether.
    fn send(&mut self, link: &dyn Link) -> Result<bool> {
        if self.missing > 0 || self.here < self.least {
            return Ok(false);
        }
        let Some(ids) = self.ids.pop_front() else {
            return Ok(false);
        };
        self.here -= 1;
        link.send(&ids)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::link::LocalLink;

    fn number(n: u32) -> Tensor {
        Tensor::new(&[n], &Device::Cpu).unwrap()
    }

    fn value(tensor: &Tensor) -> u32 {
        tensor.to_vec1().unwrap()[0]
    }

    /// As [`Share::generate`], of a model whose stages add one each: how many parts were with the last stage while it
    /// worked on one, step by step.
    fn run(link: &LocalLink, parts: usize, steps: usize) -> Vec<Vec<usize>> {
        let stage = link.stage();
        let mut back = Back::new(parts, stage.count);
        let mut here = vec![Vec::new(); steps];
        for (step, here) in here.iter_mut().enumerate() {
            for part in 0..parts {
                let start = 1000 * part as u32;
                let came = if step == 0 && stage.is_first() {
                    number(start)
                } else {
                    link.receive(&[1], DType::U32).unwrap()
                };
                let rounds = (step * stage.count + stage.index) as u32;
                assert_eq!(value(&came), start + rounds, "part {part} in step {step}");
                let next = number(value(&came) + 1);
                if !stage.is_last() {
                    link.send(&next).unwrap();
                    continue;
                }
                back.has_come(link).unwrap();
                here.push(back.here);
                if step + 1 < steps {
                    back.is_chosen(next, link).unwrap();
                }
            }
        }
        here
    }

    /// While the last stage works on a part, all others are under way: with as many parts as stages, one for each stage.
    /// That the test ends at all says that the stages never wait for each other.
    #[test]
    fn every_stage_has_a_part_to_work_on() {
        const STEPS: usize = 6;
        for stages in 2..=8 {
            for parts in 1..=stages {
                let threads = LocalLink::ring(stages)
                    .into_iter()
                    .map(|link| std::thread::spawn(move || run(&link, parts, STEPS)));
                let threads: Vec<_> = threads.collect();
                let here: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
                // The last ids go back no more.
                for step in &here[stages - 1][1..STEPS - 1] {
                    let alone = step.len() == parts && step.iter().all(|&here| here == 1);
                    assert!(alone, "{parts} parts in {stages} stages: {step:?}");
                }
            }
        }
    }

    /// The first ids have to wait for nothing but the last part; the others for its ids, which are there before.
    #[test]
    fn ids_go_back_once_all_parts_have_come() {
        let [last, first] = <[LocalLink; 2]>::try_from(LocalLink::ring(2)).ok().unwrap();
        let receiver = std::thread::spawn(move || {
            (0..3)
                .map(|_| value(&first.receive(&[1], DType::U32).unwrap()))
                .collect::<Vec<_>>()
        });
        let mut back = Back::new(4, 4);
        let sent = |back: &Back, chosen: usize| chosen - back.ids.len();
        for part in 0..3 {
            back.has_come(&last).unwrap();
            back.is_chosen(number(part), &last).unwrap();
            assert_eq!(sent(&back, part as usize + 1), 0);
        }
        back.has_come(&last).unwrap();
        assert_eq!(sent(&back, 3), 1);
        back.is_chosen(number(3), &last).unwrap();
        assert_eq!((sent(&back, 4), back.here), (3, 1));
        assert_eq!(receiver.join().unwrap(), [0, 1, 2]);
    }
}
