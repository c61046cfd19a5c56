//! Decoding by way of the host: every step's ids pass it, and go from the last stage to the first.
//!
//! The batch goes through the stages in parts, one for each stage where it has the sequences: while a stage works on one
//! part, the others work on theirs.

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
        let mut back = Back::new(parts.len());
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
                if step + 1 < n && !stage.is_first() {
                    let best = Tensor::from_vec(best, rows.len(), &self.device)?;
                    back.is_chosen(best, &*self.link)?;
                }
            }
            step_ends.push(started.elapsed());
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

/// The batch in so many parts: the rows of each, with their cache.
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
/// Neither of the two may wait for the other to receive while that one waits for it. The first sends all parts before it
/// receives ids, and from then on one part after the ids of each. So the last sends ids only while it has all parts, or
/// ids that came of them; and then at once, before it works on what has come.
struct Back {
    /// Parts of the batch.
    parts: usize,
    /// Those that have come since their last ids were sent.
    here: usize,
    /// Ids that are to be sent, in the order of their parts.
    ids: VecDeque<Tensor>,
}

impl Back {
    fn new(parts: usize) -> Self {
        Self {
            parts,
            here: 0,
            ids: VecDeque::new(),
        }
    }

    /// A part has come.
    fn has_come(&mut self, link: &dyn Link) -> Result<()> {
        self.here += 1;
        self.send(link)
    }

    /// The ids of a part, one for each row, are to be sent.
    fn is_chosen(&mut self, ids: Tensor, link: &dyn Link) -> Result<()> {
        self.ids.push_back(ids);
        self.send(link)
    }

    fn send(&mut self, link: &dyn Link) -> Result<()> {
        if self.here < self.parts {
            return Ok(());
        }
        match self.ids.pop_front() {
            Some(ids) => {
                self.here -= 1;
                link.send(&ids)
            }
            None => Ok(()),
        }
    }
}
