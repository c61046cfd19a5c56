//! How good what a model writes is, judged by the model itself, outside of the timed window.

use inferbench_engine::quality::{Score, repetition_rate};
use inferbench_results::record::Quality;

use super::{engine::Ready, subject::Subject};
use crate::{
    backend::{BackendError, Batch},
    models::WeightsAt,
};

/// How good what the model writes is, or why that cannot be said: whatever goes wrong here, the trial is measured.
/// `number` is that of the prompts.
pub(super) fn judge(
    engine: &mut Ready,
    subject: &Subject<'_>,
    number: u64,
) -> Result<Quality, String> {
    if matches!(subject.weights, WeightsAt::Random { .. }) {
        return Err("random weights: what they write has no meaning".into());
    }
    let Some(tokenizer) = &engine.tokenizer else {
        return Err("no tokenizer: the prompts are ids at random, no text".into());
    };
    let name = engine.backend.description().engine.clone();
    let output = subject.schedule.output;
    let mut scored = || -> Result<_, BackendError> {
        let prompts = subject.prompts(Some(tokenizer), number)?;
        let served = engine.backend.serve(&Batch {
            prompts: &prompts,
            output,
        })?;
        let Some((written, inspect)) = served.ids.zip(engine.backend.inspect()) else {
            let why = format!("{name} does not show its ids and scores");
            return Err(BackendError::Unsupported(why));
        };
        let scores = inspect.score(&prompts, &written)?;
        Ok((scores, written))
    };
    let (scores, written) = scored().map_err(|error| error.to_string())?;
    of_scores(&scores, &written)
}

/// Means over a batch whose rows are equally long.
fn of_scores(scores: &[Score], written: &[Vec<u32>]) -> Result<Quality, String> {
    let count = scores.len() as f64;
    let mean = |of: fn(&Score) -> f64| scores.iter().map(of).sum::<f64>() / count;
    let (likelihood, similarity) = (
        mean(|score| score.mean_log_likelihood),
        mean(|score| score.similarity),
    );
    let perplexity = (-likelihood).exp();
    if ![likelihood, similarity, perplexity]
        .iter()
        .all(|x| x.is_finite())
    {
        return Err(format!(
            "log-likelihood {likelihood}, similarity {similarity}: not all are finite numbers"
        ));
    }
    let repeated: Option<f64> = written.iter().map(|ids| repetition_rate(ids)).sum();
    Ok(Quality {
        // Rounding may carry what is all but certain, or all but parallel, past its bound.
        mean_log_likelihood: likelihood.min(0.0),
        perplexity: perplexity.max(1.0),
        repetition_rate: repeated.map(|sum| sum / count),
        prompt_similarity: similarity.clamp(-1.0, 1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_is_the_mean_over_the_batch() {
        let score = |mean_log_likelihood, similarity| Score {
            mean_log_likelihood,
            similarity,
        };
        let scores = [score(-1.0, 0.5), score(-3.0, 0.1)];
        // Of five 4-grams each, three had been there before, and none.
        let written = [vec![1, 2, 1, 2, 1, 2, 1, 2], (1..=8).collect()];
        let quality = of_scores(&scores, &written).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        close(quality.mean_log_likelihood, -2.0);
        close(quality.perplexity, 2f64.exp());
        close(quality.repetition_rate.unwrap(), 0.3);
        close(quality.prompt_similarity, 0.3);
        let short = of_scores(&scores, &[vec![1, 2], vec![3, 4]]).unwrap();
        assert_eq!(short.repetition_rate, None);
        for broken in [
            score(-1.0, f64::NAN),
            score(f64::NAN, 0.5),
            score(-1e9, 0.5),
        ] {
            assert!(of_scores(&[broken], &[vec![1]]).is_err());
        }
    }
}
