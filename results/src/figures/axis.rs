//! Axes: linear ones that begin at zero, logarithmic ones where levels are geometric or values span decades, and ticks
//! that stand apart.

use crate::numbers::tick;

/// Beyond this, sums and differences of two values could overflow; below its inverse, quotients.
const LIMIT: f64 = 1e300;
/// Values that span more than this are drawn on a logarithmic axis.
const DECADES_FROM: f64 = 8.0;

/// How values map to a length from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// Whether it is logarithmic.
    pub log: bool,
    low: f64,
    high: f64,
    /// Where ticks are, with their labels; a label may be empty.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// The axis of a factor's levels, with a tick at each.
    pub(super) fn of_levels(levels: &[f64]) -> Self {
        let mut levels: Vec<f64> = levels.iter().copied().filter(|x| usable(*x)).collect();
        levels.sort_by(f64::total_cmp);
        levels.dedup();
        let log = geometric(&levels);
        let (low, high) = ends(&levels);
        let mut axis = Self {
            log,
            low,
            high,
            ticks: levels.iter().map(|x| (*x, tick(*x))).collect(),
        };
        // Room for the points at both ends.
        axis.widen(0.04);
        axis
    }

    /// The axis of values that are measured.
    pub(super) fn of_values(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.filter(|x| usable(*x)).collect();
        let (low, high) = ends(&values);
        if low > 0.0 && high / low >= DECADES_FROM {
            return Self::logarithmic(low, high);
        }
        if low >= 0.0 {
            return Self::linear(0.0, if high > 0.0 { high * 1.06 } else { 1.0 });
        }
        let room = (high - low).max(low.abs() * 1e-6) * 0.06;
        Self::linear(low - room, high + room)
    }

    /// A logarithmic axis of ratios that holds 1, ½ and 2.
    pub(super) fn of_ratios(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values
            .filter(|x| usable(*x) && *x > 0.0)
            .chain([0.5, 1.0, 2.0])
            .collect();
        let (low, high) = ends(&values);
        Self::logarithmic(low, high)
    }

    /// A linear axis from one value to another.
    pub(super) fn linear(low: f64, high: f64) -> Self {
        let step = nice_step((high - low) / 5.0);
        let first = (low / step - 1e-9).ceil();
        let ticks = (0..12)
            .map(|at| (first + f64::from(at)) * step)
            .take_while(|x| *x <= high + step * 1e-6)
            .map(|x| (x, tick(x)))
            .collect();
        Self {
            log: false,
            low,
            high,
            ticks,
        }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let decades = high.log10() - low.log10();
        let mut axis = Self {
            log: true,
            low,
            high,
            ticks: Vec::new(),
        };
        axis.widen(0.05);
        let (from, to) = (
            axis.low.log10().floor() as i32,
            axis.high.log10().ceil() as i32,
        );
        let every = ((decades / 5.0).ceil() as i32).max(1);
        let mantissas: &[f64] = if decades > 2.5 {
            &[1.0]
        } else if decades > 1.2 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        axis.ticks = (from..=to)
            .filter(|exponent| exponent.rem_euclid(every) == 0)
            .flat_map(|exponent| {
                let decade: f64 = format!("1e{exponent}").parse().unwrap_or(1.0);
                mantissas.iter().map(move |mantissa| mantissa * decade)
            })
            .filter(|x| (axis.low..=axis.high).contains(x))
            .map(|x| (x, tick(x)))
            .collect();
        axis
    }

    /// From 0 to 1 where the value lies between the ends; held to the ends where it does not.
    pub(super) fn position(&self, value: f64) -> f64 {
        let (low, high, value) = if self.log {
            if value <= 0.0 {
                return 0.0;
            }
            (self.low.ln(), self.high.ln(), value.ln())
        } else {
            (self.low, self.high, value)
        };
        let position = (value - low) / (high - low);
        if position.is_finite() {
            position.clamp(0.0, 1.0)
        } else {
            0.5
        }
    }

    fn widen(&mut self, share: f64) {
        if self.log {
            let room = ((self.high.ln() - self.low.ln()) * share).max(0.02).exp();
            self.low = (self.low / room).max(f64::MIN_POSITIVE);
            self.high = (self.high * room).min(f64::MAX);
        } else {
            let room = (self.high - self.low).max(self.high.abs() * 0.01) * share;
            let room = if room > 0.0 { room } else { 0.5 };
            (self.low, self.high) = (self.low - room, self.high + room);
        }
    }
}

fn usable(value: f64) -> bool {
    value == 0.0 || (1.0 / LIMIT..LIMIT).contains(&value.abs())
}

fn ends(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().reduce(f64::min);
    let high = values.iter().copied().reduce(f64::max);
    low.zip(high).unwrap_or((0.0, 1.0))
}

/// Whether sorted levels are closer to a geometric than to an arithmetic series.
fn geometric(levels: &[f64]) -> bool {
    let [first, .., last] = levels else {
        return false;
    };
    if *first <= 0.0 || last / first < 4.0 {
        return false;
    }
    let spread = |gaps: Vec<f64>| {
        let (low, high) = ends(&gaps);
        high / low
    };
    let ratios = levels.windows(2).map(|pair| (pair[1] / pair[0]).ln());
    let differences = levels.windows(2).map(|pair| pair[1] - pair[0]);
    levels.len() == 2 || spread(ratios.collect()) <= spread(differences.collect())
}

/// The next of 1, 2, 5 times a power of ten.
fn nice_step(raw: f64) -> f64 {
    if raw.is_nan() || raw <= 0.0 || raw.is_infinite() {
        return 1.0;
    }
    let decade = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|mantissa| mantissa * decade)
        .find(|step| *step >= raw * 0.999)
        .unwrap_or(raw);
    if step.is_finite() && step > 0.0 {
        step
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn geometric_levels_are_logarithmic() {
        assert!(Axis::of_levels(&[1.0, 2.0, 4.0, 8.0]).log);
        assert!(Axis::of_levels(&[16.0, 512.0]).log);
        assert!(Axis::of_levels(&[8.0, 1.0, 64.0]).log);
        assert!(!Axis::of_levels(&[1.0, 2.0, 3.0, 4.0]).log);
        assert!(!Axis::of_levels(&[100.0, 200.0, 300.0, 400.0, 500.0]).log);
        assert!(!Axis::of_levels(&[0.0, 1.0, 2.0, 4.0]).log);
    }

    #[test]
    fn ticks_fit_their_values() {
        let of = |values: &[f64]| Axis::of_values(values.iter().copied());
        assert_eq!(labels(&of(&[10.0, 40.0])), ["0", "10", "20", "30", "40"]);
        assert_eq!(labels(&of(&[1.0, 1000.0])), ["1", "10", "100", "1,000"]);
        assert_eq!(labels(&of(&[3.0, 30.0])), ["5", "10", "20"]);
        assert_eq!(labels(&of(&[])), ["0", "0.5", "1"]);
        assert_eq!(labels(&of(&[0.0])), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(
            labels(&Axis::linear(0.0, 2.0)),
            ["0", "0.5", "1", "1.5", "2"]
        );
    }

    #[test]
    fn no_value_breaks_an_axis() {
        let wild = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            1e299,
            -1.0,
        ];
        for a in wild {
            for b in wild {
                for axis in [
                    Axis::of_values([a, b].into_iter()),
                    Axis::of_levels(&[a, b]),
                    Axis::of_ratios([a, b].into_iter()),
                ] {
                    for value in wild {
                        let at = axis.position(value);
                        assert!((0.0..=1.0).contains(&at), "{axis:?} {value} {at}");
                    }
                    assert!(axis.ticks.len() < 15, "{axis:?}");
                }
            }
        }
    }
}
