//! Readings summed up over the timed window: clipped to it, whatever moments they were taken at. Pure; times are in
//! ns since the Unix epoch.

/// A value that holds for a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The period's start.
    pub from_ns: i64,
    /// Its end.
    pub to_ns: i64,
    /// The mean over the period.
    pub value: f64,
}

/// A value at a moment.
pub type TimedValue = (i64, f64);

/// The timed window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedWindow {
    /// Its start.
    pub start: i64,
    /// Its end, not before its start.
    pub end: i64,
}

impl TimedWindow {
    /// The points in the window and the nearest one on each side of it, which stand for its borders. Points are in
    /// ascending order.
    #[must_use]
    pub fn around<T>(self, points: &[(i64, T)]) -> &[(i64, T)] {
        let first = points
            .partition_point(|(at, _)| *at <= self.start)
            .saturating_sub(1);
        let last = points.partition_point(|(at, _)| *at < self.end);
        points.get(first..points.len().min(last + 1)).unwrap_or(&[])
    }

    /// The mean over time of a value that changes steadily from point to point, over the part of the window that lies
    /// between points. `None` where there is no such part.
    #[must_use]
    pub fn mean(self, points: &[TimedValue]) -> Option<f64> {
        let (mut area, mut covered) = (0.0, 0.0);
        for pair in self.around(points).windows(2) {
            let (from, to) = (pair[0].0.max(self.start), pair[1].0.min(self.end));
            if from < to {
                let length = (to - from) as f64;
                area += length * f64::midpoint(between(pair, from), between(pair, to));
                covered += length;
            }
        }
        (covered > 0.0).then(|| area / covered)
    }

    /// By how much a counter rose in the window, steadily from point to point. `None` unless there are points on both
    /// sides of it, or where it did not rise: one of energy always does.
    #[must_use]
    pub fn rise(self, points: &[TimedValue]) -> Option<f64> {
        let at = |moment: i64| {
            let after = points.partition_point(|(at, _)| *at < moment);
            let next = points.get(after)?;
            if next.0 == moment {
                return Some(next.1);
            }
            let pair = points.get(after.checked_sub(1)?..=after)?;
            Some(between(pair, moment))
        };
        Some(at(self.end)? - at(self.start)?).filter(|rise| *rise > 0.0)
    }

    /// The greatest value in the window and at its borders.
    #[must_use]
    pub fn max(self, points: &[TimedValue]) -> Option<f64> {
        let values = self.around(points).iter().map(|(_, value)| *value);
        values.reduce(f64::max)
    }

    /// The mean over time of periods' values, each as far as it lies in the window. `None` where none does.
    #[must_use]
    pub fn mean_of_spans(self, spans: &[Span]) -> Option<f64> {
        let (mut area, mut covered) = (0.0, 0.0);
        for span in spans {
            let length = self.overlap(span) as f64;
            area += length * span.value;
            covered += length;
        }
        (covered > 0.0).then(|| area / covered)
    }

    /// The greatest value of a period that has a part in the window.
    #[must_use]
    pub fn max_of_spans(self, spans: &[Span]) -> Option<f64> {
        spans
            .iter()
            .filter(|span| self.overlap(span) > 0)
            .map(|span| span.value)
            .reduce(f64::max)
    }

    fn overlap(self, span: &Span) -> i64 {
        (span.to_ns.min(self.end) - span.from_ns.max(self.start)).max(0)
    }
}

/// The value on the line through two points.
fn between(pair: &[TimedValue], moment: i64) -> f64 {
    let [(from, a), (to, b)] = [pair[0], pair[1]];
    a + (b - a) * ((moment - from) as f64 / (to - from).max(1) as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: TimedWindow = TimedWindow {
        start: 100,
        end: 200,
    };

    fn close(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() <= 1e-9 * b.abs().max(1.0))
    }

    #[test]
    fn what_lies_outside_does_not_count() {
        // 10 up to 150, 30 from there on; before and after the window all is different.
        let points = [
            (0, 99.0),
            (99, 99.0),
            (100, 10.0),
            (150, 10.0),
            (150, 30.0),
            (200, 30.0),
            (201, 99.0),
        ];
        assert!(close(WINDOW.mean(&points), 20.0));
        let spans =
            [(0, 100, 99.0), (100, 150, 10.0), (150, 250, 30.0)].map(|(from, to, value)| Span {
                from_ns: from,
                to_ns: to,
                value,
            });
        assert!(close(WINDOW.mean_of_spans(&spans), 20.0));
        assert_eq!(WINDOW.max_of_spans(&spans), Some(30.0));
        assert_eq!(WINDOW.max_of_spans(&spans[..1]), None);
        assert_eq!(WINDOW.mean_of_spans(&spans[..1]), None);
    }

    #[test]
    fn borders_are_the_nearest_points() {
        let points = [(50, 1.0), (90, 2.0), (150, 3.0), (210, 4.0), (300, 5.0)];
        assert_eq!(WINDOW.around(&points), &points[1..4]);
        assert_eq!(WINDOW.max(&points), Some(4.0));
        assert_eq!(WINDOW.around(&points[..1]), &points[..1]);
        assert_eq!(WINDOW.around(&points[4..]), &points[4..]);
        assert_eq!(WINDOW.max(&[]), None);
    }

    #[test]
    fn a_counter_needs_points_on_both_sides() {
        let points = [(0, 0.0), (150, 150.0), (300, 600.0)];
        assert!(close(WINDOW.rise(&points), 300.0 - 100.0));
        assert_eq!(WINDOW.rise(&points[..2]), None);
        assert_eq!(WINDOW.rise(&points[1..]), None);
        assert_eq!(WINDOW.rise(&[(0, 7.0), (300, 7.0)]), None);
        assert_eq!(WINDOW.rise(&[]), None);
    }

    proptest! {
        #[test]
        fn a_steady_counter_rises_by_its_rate(
            moments in prop::collection::btree_set(-500_i64..1000, 0..40), rate in 0.1..1e6_f64
        ) {
            let points: Vec<TimedValue> = [-1000].into_iter().chain(moments).chain([2000])
                .map(|at| (at, rate * at as f64)).collect();
            prop_assert!(close(WINDOW.rise(&points), 100.0 * rate));
            // The mean of a line is its value in the middle.
            prop_assert!(close(WINDOW.mean(&points), 150.0 * rate));
        }

        #[test]
        fn means_lie_among_the_values(
            steps in prop::collection::vec((1_i64..80, 0.0..100.0_f64), 1..30)
        ) {
            let mut at = 0;
            let mut spans = Vec::new();
            for (length, value) in steps {
                spans.push(Span { from_ns: at, to_ns: at + length, value });
                at += length;
            }
            let points: Vec<TimedValue> = spans.iter().map(|span| (span.to_ns, span.value)).collect();
            for (mean, max) in [
                (WINDOW.mean_of_spans(&spans), WINDOW.max_of_spans(&spans)),
                (WINDOW.mean(&points), WINDOW.max(&points)),
            ] {
                if let Some(mean) = mean {
                    prop_assert!(mean >= -1e-9 && mean <= max.unwrap() + 1e-9);
                }
            }
        }
    }
}
