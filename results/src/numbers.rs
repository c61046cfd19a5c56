//! Numbers for people: three significant digits, a true minus, thin spaces before units, and `n/a` for what is no
//! number. Nothing here ever prints NaN or an infinity.

use crate::interval::{Estimate, Interval};

/// Stands where a figure could not be computed.
pub const NOT_AVAILABLE: &str = "n/a";

/// Between a number and its unit: a narrow no-break space.
const THIN: char = '\u{202f}';
const MINUS: char = '\u{2212}';

/// Three significant digits: `0.0123`, `1.23`, `12,300`, `1.23×10⁻⁹`; `n/a` for what is not finite.
#[must_use]
pub fn number(value: f64) -> String {
    significant(value, 3)
}

/// A number that may be missing.
#[must_use]
pub fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| NOT_AVAILABLE.into(), number)
}

/// A number with its unit, which may be empty; no unit after `n/a`.
#[must_use]
pub fn with_unit(value: f64, unit: &str) -> String {
    unit_after(number(value), unit)
}

/// `1.94 (1.88–2.00)`, or the value alone where there is no interval.
#[must_use]
pub fn interval(interval: &Interval) -> String {
    bounded(interval.value, interval.low, interval.high)
}

/// `×1.94 (1.88–2.00)`.
#[must_use]
pub fn ratio(value: &Interval) -> String {
    if value.value.is_finite() {
        format!("×{}", interval(value))
    } else {
        NOT_AVAILABLE.into()
    }
}

/// A mean with its interval: `1.94 (1.88–2.00)`.
#[must_use]
pub fn estimate(estimate: &Estimate) -> String {
    bounded(estimate.mean, estimate.low, estimate.high)
}

/// The same with a unit: `1.94 ms (1.88–2.00)`.
#[must_use]
pub fn estimate_with_unit(estimate: &Estimate, unit: &str) -> String {
    let value = with_unit(estimate.mean, unit);
    match bounds(estimate.low, estimate.high) {
        Some(bounds) => format!("{value} ({bounds})"),
        None => value,
    }
}

/// `1.88–2.00`; with `to` where a minus would make a dash hard to read. `None` without both ends.
#[must_use]
pub fn bounds(low: Option<f64>, high: Option<f64>) -> Option<String> {
    let (low, high) = low
        .zip(high)
        .filter(|(a, b)| a.is_finite() && b.is_finite())?;
    let dash = if low < 0.0 || high < 0.0 {
        " to "
    } else {
        "–"
    };
    Some(format!("{}{dash}{}", number(low), number(high)))
}

/// A share or a coefficient: two decimals, `<0.01` for what is there but rounds to nothing.
#[must_use]
pub fn share(value: f64) -> String {
    if !value.is_finite() {
        NOT_AVAILABLE.into()
    } else if value > 0.0 && value < 0.005 {
        "<0.01".into()
    } else {
        signed(format!("{value:.2}"))
    }
}

/// A coefficient from −1 to 1: two decimals.
#[must_use]
pub fn coefficient(value: f64) -> String {
    if value.is_finite() {
        signed(format!("{value:.2}"))
    } else {
        NOT_AVAILABLE.into()
    }
}

/// A share as a percentage: `94%`, `<1%`.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if !percent.is_finite() {
        NOT_AVAILABLE.into()
    } else if percent > 0.0 && percent < 0.5 {
        "<1%".into()
    } else {
        format!("{}%", signed(format!("{percent:.0}")))
    }
}

/// A whole number with commas: `20,160`.
#[must_use]
pub fn count(count: impl Into<u64>) -> String {
    grouped(&count.into().to_string())
}

/// `1 trial`, `2 trials`.
#[must_use]
pub fn counted(number: impl Into<u64>, singular: &str) -> String {
    let number = number.into();
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {singular}{ending}", count(number))
}

/// `a`, `a and b`, `a, b and c`.
#[must_use]
pub fn listed<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().into(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// A tick's label: as short as it can be said, `12k`, `1.5M`, `10⁻⁶`.
#[must_use]
pub fn tick(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        NOT_AVAILABLE.into()
    } else if size == 0.0 {
        "0".into()
    } else if !(1e-4..1e10).contains(&size) {
        scientific(value, 2)
    } else if size >= 1e9 {
        format!("{}G", plain(value / 1e9))
    } else if size >= 1e6 {
        format!("{}M", plain(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", plain(value / 1e3))
    } else {
        plain(value)
    }
}

fn bounded(value: f64, low: Option<f64>, high: Option<f64>) -> String {
    match bounds(low, high).filter(|_| value.is_finite()) {
        Some(bounds) => format!("{} ({bounds})", number(value)),
        None => number(value),
    }
}

fn unit_after(number: String, unit: &str) -> String {
    if unit.is_empty() || number == NOT_AVAILABLE {
        number
    } else {
        format!("{number}{THIN}{unit}")
    }
}

fn significant(value: f64, digits: usize) -> String {
    let size = value.abs();
    if !value.is_finite() {
        NOT_AVAILABLE.into()
    } else if size == 0.0 {
        "0".into()
    } else if !(1e-4..1e9).contains(&size) {
        scientific(value, digits)
    } else {
        // Rounding first, so that 9.999 counts as 10.0.
        let rounded: f64 = format!("{:.*e}", digits - 1, value)
            .parse()
            .unwrap_or(value);
        let whole = rounded.abs().log10().floor() as i32 + 1;
        let decimals = (digits as i32 - whole).max(0) as usize;
        grouped(&signed(format!("{rounded:.decimals$}")))
    }
}

/// `1.23×10⁻⁹`; a round mantissa of 1 is left out where few digits are asked for: `10⁻⁹`.
fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{:.*e}", digits - 1, value);
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return NOT_AVAILABLE.into();
    };
    let power: String = exponent
        .chars()
        .map(|digit| match digit {
            '-' => '⁻',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            '0' => '⁰',
            // ⁴ to ⁹ are neighbours in Unicode.
            digit => {
                char::from_u32(u32::from('⁰') + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit)
            }
        })
        .collect();
    if digits < 3 && mantissa.parse() == Ok(1.0) {
        format!("10{power}")
    } else {
        signed(format!("{mantissa}×10{power}"))
    }
}

/// At most three decimals, without zeros at the end.
fn plain(value: f64) -> String {
    let decimals = if value.abs() < 0.01 {
        5
    } else if value.abs() < 1.0 {
        3
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    grouped(&signed(text.into()))
}

fn signed(text: String) -> String {
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().all(|c| matches!(c, '0' | '.')) => digits.into(),
        Some(digits) => format!("{MINUS}{digits}"),
        None => text,
    }
}

/// Commas between thousands.
fn grouped(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix(MINUS) {
        Some(digits) => ("\u{2212}", digits),
        None => ("", text),
    };
    let (whole, rest) = digits
        .split_once('.')
        .map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let mut out = String::from(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(rest) = rest {
        out.push('.');
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1.00"),
            (9.999, "10.0"),
            (99.96, "100"),
            (999.9, "1,000"),
            (12_345.0, "12,300"),
            (-1_234_567.0, "−1,230,000"),
            (0.001_234, "0.00123"),
            (1e-9, "1.00×10⁻⁹"),
            (-4.56e12, "−4.56×10¹²"),
            (f64::MAX, "1.80×10³⁰⁸"),
            (f64::NAN, "n/a"),
            (f64::NEG_INFINITY, "n/a"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn intervals_and_units() {
        let of = |value, low, high| Interval { value, low, high };
        assert_eq!(
            ratio(&of(1.941, Some(1.88), Some(2.0))),
            "×1.94 (1.88–2.00)"
        );
        assert_eq!(
            interval(&of(-1.0, Some(-2.0), Some(0.5))),
            "−1.00 (−2.00 to 0.500)"
        );
        assert_eq!(interval(&of(2.0, None, Some(3.0))), "2.00");
        assert_eq!(interval(&of(2.0, Some(f64::NAN), Some(3.0))), "2.00");
        assert_eq!(ratio(&of(f64::INFINITY, Some(1.0), Some(3.0))), "n/a");
        assert_eq!(with_unit(12.0, "ms"), "12.0\u{202f}ms");
        assert_eq!(with_unit(f64::NAN, "ms"), "n/a");
    }

    #[test]
    fn shares_counts_and_lists() {
        assert_eq!(share(0.004), "<0.01");
        assert_eq!(share(-0.001), "0.00");
        assert_eq!(share(1.9), "1.90");
        assert_eq!(percent(0.001), "<1%");
        assert_eq!(percent(0.944), "94%");
        assert_eq!(counted(1u32, "trial"), "1 trial");
        assert_eq!(counted(20_160u32, "trial"), "20,160 trials");
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
    }

    #[test]
    fn ticks_are_short() {
        for (value, text) in [
            (0.5, "0.5"),
            (2_000.0, "2,000"),
            (20_000.0, "20k"),
            (1.5e6, "1.5M"),
            (2e9, "2G"),
            (1e-6, "10⁻⁶"),
            (2e12, "2.0×10¹²"),
            (-0.25, "−0.25"),
        ] {
            assert_eq!(tick(value), text);
        }
    }
}
