//! The best of several ways to do the same, told apart by their medians.

use std::time::{Duration, Instant};

/// The median of at least one number.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

/// Gives every candidate one turn after the other, so that a change in the machine's speed touches
/// all alike, and returns the one of the highest median with that median and its number of turns.
///
/// First two turns each, then only the best three, twice and until `budget` is spent; `rate` measures once.
pub(super) fn best_of<T: Copy>(
    candidates: &[T],
    budget: Duration,
    mut rate: impl FnMut(T) -> f64,
) -> (T, f64, usize) {
    let start = Instant::now();
    let mut rated: Vec<(T, Vec<f64>)> = candidates.iter().map(|c| (*c, Vec::new())).collect();
    for turn in 0..2 {
        for (candidate, rates) in &mut rated {
            // The slowest candidates may be too slow for a second turn.
            if turn == 0 || start.elapsed() < budget / 2 {
                rates.push(rate(*candidate));
            }
        }
    }
    rated.sort_by(|(_, a), (_, b)| median(&mut b.clone()).total_cmp(&median(&mut a.clone())));
    rated.truncate(3);
    // At least twice: a median of fewer than three is at the mercy of one lucky turn.
    let mut turn = 0;
    while turn < 2 || start.elapsed() < budget {
        for (candidate, rates) in &mut rated {
            rates.push(rate(*candidate));
        }
        turn += 1;
    }
    rated
        .into_iter()
        .map(|(candidate, mut rates)| (candidate, median(&mut rates), rates.len()))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .expect("at least one candidate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn the_best_by_median_wins_not_the_luckiest() {
        // Candidate 1 is lucky once, candidate 2 is better on the whole.
        let mut turns = [0usize; 3];
        let (best, rate, repeats) = best_of(&[0, 1, 2], Duration::from_millis(5), |c: usize| {
            turns[c] += 1;
            std::thread::sleep(Duration::from_micros(50));
            [1.0, if turns[1] == 1 { 100.0 } else { 2.0 }, 3.0][c]
        });
        assert_eq!((best, rate), (2, 3.0));
        assert!(repeats >= 3);
    }
}
