//! A series of samples that stays bounded however long a trial lasts.

/// Keeps at most `capacity` samples, evenly spread: when it is full, every other one is dropped, and from then on every
/// other one is not taken up.
#[derive(Clone, Debug)]
pub struct Series<T> {
    kept: Vec<T>,
    capacity: usize,
    stride: usize,
    skip: usize,
}

impl<T> Series<T> {
    /// An empty series of at most `capacity` (at least 2) samples.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            kept: Vec::new(),
            capacity: capacity.max(2),
            stride: 1,
            skip: 0,
        }
    }

    /// Takes up a sample, or not.
    pub fn push(&mut self, sample: T) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.insist(sample);
        self.skip = self.stride - 1;
    }

    /// Takes up a sample whose turn it may not be; the last one that is insisted on is never dropped.
    pub fn insist(&mut self, sample: T) {
        if self.kept.len() == self.capacity {
            let mut even = false;
            self.kept.retain(|_| {
                even = !even;
                even
            });
            self.stride *= 2;
        }
        self.kept.push(sample);
    }

    /// The samples kept, in the order that they came in.
    #[must_use]
    pub fn into_kept(self) -> Vec<T> {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bounded_in_order_and_evenly_spread(capacity in 2_usize..40, count in 0_usize..2000) {
            let mut series = Series::new(capacity);
            (0..count).for_each(|i| series.push(i));
            let stride = series.stride;
            let kept = series.into_kept();
            prop_assert!(kept.len() <= capacity);
            prop_assert_eq!(kept.first().copied(), (count > 0).then_some(0));
            prop_assert!(kept.windows(2).all(|pair| pair[1] > pair[0] && pair[1] - pair[0] <= 2 * stride));
            // Never fewer than half of what there is room for.
            prop_assert!(kept.len() >= count.min(capacity / 2));
        }

        #[test]
        fn what_is_insisted_on_last_is_there(capacity in 2_usize..40, count in 0_usize..2000) {
            let mut series = Series::new(capacity);
            (0..count).for_each(|i| series.push(i));
            series.insist(count);
            let kept = series.into_kept();
            prop_assert!(kept.len() <= capacity);
            prop_assert_eq!(kept.last(), Some(&count));
        }
    }
}
