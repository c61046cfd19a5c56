//! The inks' colours on light and on dark ground. Series after Okabe and Ito, darkened or lightened so that each
//! has a contrast of at least 3 to its ground; the diverging scale runs from blue over neutral to red.

use super::scene::{Ink, Symbol};

/// Series that differ from each other in colour, shape and dash.
pub const SERIES: usize = Symbol::OF_SERIES.len();

/// Red, green and blue.
pub type Rgb = (u8, u8, u8);

const DASHES: [&[f64]; SERIES] = [
    &[],
    &[7.0, 3.0],
    &[2.0, 2.5],
    &[9.0, 3.0, 2.0, 3.0],
    &[4.0, 4.0],
    &[12.0, 3.0],
];

const LIGHT: [Rgb; SERIES] = [
    (0x00, 0x66, 0xa8),
    (0xc8, 0x50, 0x00),
    (0x00, 0x80, 0x5e),
    (0xa6, 0x42, 0x86),
    (0x8a, 0x69, 0x00),
    (0x4a, 0x4f, 0x57),
];

const DARK: [Rgb; SERIES] = [
    (0x5a, 0xb8, 0xf0),
    (0xff, 0x96, 0x4f),
    (0x2f, 0xc7, 0x9d),
    (0xe7, 0x9a, 0xc9),
    (0xe5, 0xbf, 0x3a),
    (0xb9, 0xc0, 0xca),
];

/// A series' dash.
#[must_use]
pub fn dash(series: usize) -> &'static [f64] {
    DASHES[series % SERIES]
}

/// The step of the diverging scale for a coefficient, −1 to 1.
#[must_use]
pub fn step(coefficient: f64) -> i8 {
    (coefficient.clamp(-1.0, 1.0) * 10.0).round() as i8
}

/// An ink's colour.
#[must_use]
pub fn rgb(ink: Ink, dark: bool) -> Rgb {
    match (ink, dark) {
        (Ink::Text, false) => (0x1b, 0x1f, 0x24),
        (Ink::Text, true) => (0xe8, 0xea, 0xed),
        (Ink::Muted, false) => (0x57, 0x5e, 0x68),
        (Ink::Muted, true) => (0xa9, 0xb1, 0xbc),
        (Ink::Grid, false) => (0xdf, 0xe3, 0xe8),
        (Ink::Grid, true) => (0x33, 0x3a, 0x44),
        (Ink::Surface, false) => (0xff, 0xff, 0xff),
        (Ink::Surface, true) => (0x16, 0x1a, 0x1f),
        (Ink::Series(series), false) => LIGHT[series % SERIES],
        (Ink::Series(series), true) => DARK[series % SERIES],
        (Ink::Missing, false) => (0xee, 0xf0, 0xf2),
        (Ink::Missing, true) => (0x24, 0x29, 0x30),
        (Ink::Diverging(step), dark) => diverging(step, dark),
        (Ink::OnDiverging(step), dark) => {
            let ground = diverging(step, dark);
            // One of black and white has a contrast of at least 4.58 to any colour.
            let (ink, paper) = ((0, 0, 0), (0xff, 0xff, 0xff));
            if contrast(ground, ink) >= contrast(ground, paper) {
                ink
            } else {
                paper
            }
        }
    }
}

/// The class that stands for an ink: `s0`, `d-3`, …
#[must_use]
pub fn class(ink: Ink) -> String {
    match ink {
        Ink::Text => "t".into(),
        Ink::Muted => "m".into(),
        Ink::Grid => "g".into(),
        Ink::Surface => "b".into(),
        Ink::Missing => "x".into(),
        Ink::Series(series) => format!("s{}", series % SERIES),
        Ink::Diverging(step) => format!("d{}", step.clamp(-10, 10) + 10),
        Ink::OnDiverging(step) => format!("o{}", step.clamp(-10, 10) + 10),
    }
}

/// Every ink.
pub fn inks() -> impl Iterator<Item = Ink> {
    [Ink::Text, Ink::Muted, Ink::Grid, Ink::Surface, Ink::Missing]
        .into_iter()
        .chain((0..SERIES).map(Ink::Series))
        .chain((-10..=10).map(Ink::Diverging))
        .chain((-10..=10).map(Ink::OnDiverging))
}

/// Rules that give fills (`f-…`) and strokes (`k-…`) of every class their colour, all behind one selector such as
/// `svg`.
#[must_use]
pub fn rules(selector: &str, dark: bool) -> String {
    use std::fmt::Write as _;
    let mut rules = String::new();
    for ink in inks() {
        let (class, hex) = (class(ink), hex(rgb(ink, dark)));
        let _ = write!(rules, "{selector} .f-{class}{{fill:{hex}}}");
        if !matches!(ink, Ink::OnDiverging(_) | Ink::Diverging(_)) {
            let _ = write!(rules, "{selector} .k-{class}{{stroke:{hex}}}");
        }
    }
    rules
}

/// `#rrggbb`.
#[must_use]
pub fn hex((r, g, b): Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn diverging(step: i8, dark: bool) -> Rgb {
    let (negative, neutral, positive) = if dark {
        ((0x4f, 0xa3, 0xe8), (0x2a, 0x30, 0x38), (0xff, 0x83, 0x5c))
    } else {
        ((0x1f, 0x5f, 0xa8), (0xf5, 0xf5, 0xf4), (0xb0, 0x23, 0x2e))
    };
    let end = if step < 0 { negative } else { positive };
    let share = f64::from(step.clamp(-10, 10).unsigned_abs()) / 10.0;
    let mix = |from: u8, to: u8| {
        (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8
    };
    (
        mix(neutral.0, end.0),
        mix(neutral.1, end.1),
        mix(neutral.2, end.2),
    )
}

/// The contrast of two colours after WCAG 2: 1 to 21.
#[must_use]
pub fn contrast(a: Rgb, b: Rgb) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn luminance((r, g, b): Rgb) -> f64 {
    let linear = |channel: u8| {
        let c = f64::from(channel) / 255.0;
        if c <= 0.040_45 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_told_from_its_ground() {
        for dark in [false, true] {
            let ground = rgb(Ink::Surface, dark);
            for ink in [Ink::Text, Ink::Muted] {
                assert!(contrast(rgb(ink, dark), ground) >= 4.5, "{ink:?}");
            }
            for series in 0..SERIES {
                let ink = Ink::Series(series);
                assert!(contrast(rgb(ink, dark), ground) >= 3.0, "{ink:?}");
            }
            for step in -10..=10 {
                let (cell, text) = (Ink::Diverging(step), Ink::OnDiverging(step));
                let contrast = contrast(rgb(cell, dark), rgb(text, dark));
                assert!(contrast >= 4.5, "{step} {dark}: {contrast}");
            }
            assert!(contrast(rgb(Ink::Muted, dark), rgb(Ink::Missing, dark)) >= 4.5);
        }
    }

    #[test]
    fn series_differ_in_more_than_colour() {
        for a in 0..SERIES {
            for b in 0..a {
                assert!(Symbol::of(a) != Symbol::of(b) && dash(a) != dash(b));
            }
        }
    }
}
