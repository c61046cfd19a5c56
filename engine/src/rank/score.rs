//! One rank's part in judging generated text: the whole rows once more, as one long prompt, with every position's last
//! hidden state kept.

use candle_core::{DType, Tensor};

use super::share::{Share, chunk};
use crate::error::EngineError;
use crate::models::cache::KvCache;
use crate::ops::Offset;
use crate::quality::{Score, cosine, log_softmax_at};

/// Positions whose logits are in memory at a time.
const ROWS: usize = 64;

/// The sums over the positions of one row that have been computed so far.
struct Seen {
    log_likelihood: f64,
    /// Sums of hidden states: of the prompt, and of the continuation.
    sums: [Vec<f64>; 2],
}

impl Share {
    /// Scores the tokens of each row from `input` on; a stage before the last has no scores.
    pub(super) fn score(
        &mut self,
        rows: &[Vec<u32>],
        input: usize,
        cache: &KvCache,
    ) -> Result<Option<Vec<Score>>, EngineError> {
        let (batch, len) = (rows.len(), rows[0].len());
        let (sequences, positions) = chunk(batch, len, self.chunk_rows());
        let mut scores = Vec::with_capacity(batch);
        for first in (0..batch).step_by(sequences) {
            let chosen = &rows[first..(first + sequences).min(batch)];
            let cache = cache.rows(first, chosen.len())?;
            let mut seen: Vec<Seen> = Vec::new();
            for start in (0..len).step_by(positions) {
                let end = (start + positions).min(len);
                let ids: Vec<u32> = chosen
                    .iter()
                    .flat_map(|row| row[start..end].iter().copied())
                    .collect();
                let made = self.model.states(
                    &self.input(ids, (chosen.len(), end - start))?,
                    Offset::Host(start),
                    &cache,
                    &*self.comm,
                )?;
                if let Some(states) = self.hand_on(Some(made))? {
                    self.see(&states, chosen, start, input, &mut seen)?;
                }
            }
            scores.extend(seen.iter().map(|seen| {
                Score {
                    mean_log_likelihood: seen.log_likelihood / (len - input) as f64,
                    // The means have the directions of the sums.
                    similarity: cosine(&seen.sums[0], &seen.sums[1]),
                }
            }));
        }
        Ok(self.link.stage().is_last().then_some(scores))
    }

    /// Takes in the states `[B, P, E]` of positions from `start` on.
    fn see(
        &self,
        states: &Tensor,
        rows: &[Vec<u32>],
        start: usize,
        input: usize,
        seen: &mut Vec<Seen>,
    ) -> Result<(), EngineError> {
        let (_, positions, hidden) = states.dims3()?;
        let len = rows[0].len();
        if seen.is_empty() {
            seen.extend(rows.iter().map(|_| Seen {
                log_likelihood: 0.0,
                sums: [vec![0.0; hidden], vec![0.0; hidden]],
            }));
        }
        // A position's logits are about the next token; those of the last one are about none.
        let first = start.max(input - 1);
        let last = (start + positions).min(len - 1);
        for (i, (row, seen)) in rows.iter().zip(seen).enumerate() {
            let states = states.get(i)?;
            for (p, state) in states
                .to_dtype(DType::F32)?
                .to_vec2::<f32>()?
                .iter()
                .enumerate()
            {
                let sum = &mut seen.sums[usize::from(start + p >= input)];
                sum.iter_mut()
                    .zip(state)
                    .for_each(|(sum, s)| *sum += f64::from(*s));
            }
            for from in (first..last).step_by(ROWS) {
                let count = ROWS.min(last - from);
                let states = states.narrow(0, from - start, count)?;
                let logits = self.model.logits(&states)?;
                let logits = self.gather(&logits)?;
                for (logits, &id) in logits.iter().zip(&row[from + 1..]) {
                    seen.log_likelihood += log_softmax_at(logits, id);
                }
            }
        }
        Ok(())
    }
}
