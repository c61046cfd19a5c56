//! A drawing as a list of marks in pixels: what every figure is made of, and what SVG and PNG are written from.

/// Which colour a mark has; what it looks like on light and on dark ground is the palette's matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Words.
    Text,
    /// Words and lines of less weight.
    Muted,
    /// Lines behind the data.
    Grid,
    /// The ground.
    Surface,
    /// The n-th series; the palette repeats itself after [`super::palette::SERIES`] of them.
    Series(usize),
    /// A cell of a diverging scale, −10 to 10.
    Diverging(i8),
    /// Words on such a cell.
    OnDiverging(i8),
    /// A cell without a value.
    Missing,
}

/// The shape of a point. Series differ in it as well as in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symbol {
    /// A circle.
    Circle,
    /// A square.
    Square,
    /// A triangle on its base.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// A triangle on its tip.
    Inverted,
    /// A plus of some width.
    Plus,
}

impl Symbol {
    /// Those of the series, in order.
    pub const OF_SERIES: [Self; 6] = [
        Self::Circle,
        Self::Square,
        Self::Triangle,
        Self::Diamond,
        Self::Inverted,
        Self::Plus,
    ];

    /// A series' symbol.
    #[must_use]
    pub const fn of(series: usize) -> Self {
        Self::OF_SERIES[series % Self::OF_SERIES.len()]
    }
}

/// Where a text's `x` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its start.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// One mark.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    /// Connected lines.
    Line {
        /// The corners.
        points: Vec<(f64, f64)>,
        /// Colour.
        ink: Ink,
        /// Width.
        width: f64,
        /// Lengths of dash and gap in turn; empty for a solid line.
        dash: &'static [f64],
    },
    /// A filled polygon.
    Area {
        /// The corners.
        points: Vec<(f64, f64)>,
        /// Colour.
        ink: Ink,
        /// 0 to 1.
        opacity: f64,
    },
    /// A point of a series.
    Point {
        /// The centre.
        at: (f64, f64),
        /// Symbol.
        shape: Symbol,
        /// Half its width.
        radius: f64,
        /// Colour.
        ink: Ink,
        /// Filled with the ground instead.
        hollow: bool,
    },
    /// A line of text.
    Text {
        /// Its anchor, on the base line.
        at: (f64, f64),
        /// Its words.
        text: String,
        /// Size of the letters.
        size: f64,
        /// Where `at` is.
        anchor: Anchor,
        /// Colour.
        ink: Ink,
        /// In bold.
        bold: bool,
        /// Turned so that it reads upwards.
        upwards: bool,
    },
}

/// A drawing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scene {
    /// Width in pixels.
    pub width: f64,
    /// Height in pixels.
    pub height: f64,
    /// The marks, from the back to the front.
    pub marks: Vec<Mark>,
}

impl Scene {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            marks: Vec::new(),
        }
    }

    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, ink: Ink, width: f64) {
        self.dashed(points, ink, width, &[]);
    }

    pub(super) fn dashed(
        &mut self,
        points: Vec<(f64, f64)>,
        ink: Ink,
        width: f64,
        dash: &'static [f64],
    ) {
        self.marks.push(Mark::Line {
            points,
            ink,
            width,
            dash,
        });
    }

    pub(super) fn area(&mut self, points: Vec<(f64, f64)>, ink: Ink, opacity: f64) {
        self.marks.push(Mark::Area {
            points,
            ink,
            opacity,
        });
    }

    pub(super) fn rect(&mut self, corner: (f64, f64), size: (f64, f64), ink: Ink, opacity: f64) {
        let ((x, y), (width, height)) = (corner, size);
        let points = vec![
            (x, y),
            (x + width, y),
            (x + width, y + height),
            (x, y + height),
        ];
        self.area(points, ink, opacity);
    }

    pub(super) fn point(&mut self, at: (f64, f64), series: usize, radius: f64, hollow: bool) {
        self.marks.push(Mark::Point {
            at,
            shape: Symbol::of(series),
            radius,
            ink: Ink::Series(series),
            hollow,
        });
    }

    pub(super) fn text(&mut self, at: (f64, f64), text: &str, size: f64, anchor: Anchor, ink: Ink) {
        self.marks.push(Mark::Text {
            at,
            text: text.into(),
            size,
            anchor,
            ink,
            bold: false,
            upwards: false,
        });
    }

    pub(super) fn bold(&mut self, at: (f64, f64), text: &str, size: f64) {
        self.marks.push(Mark::Text {
            at,
            text: text.into(),
            size,
            anchor: Anchor::Start,
            ink: Ink::Text,
            bold: true,
            upwards: false,
        });
    }

    /// Another drawing's marks, moved.
    pub(super) fn place(&mut self, other: &Self, dx: f64, dy: f64) {
        let moved = |&(x, y): &(f64, f64)| (x + dx, y + dy);
        self.marks
            .extend(other.marks.iter().cloned().map(|mut mark| {
                match &mut mark {
                    Mark::Line { points, .. } | Mark::Area { points, .. } => {
                        *points = points.iter().map(moved).collect();
                    }
                    Mark::Point { at, .. } | Mark::Text { at, .. } => *at = moved(at),
                }
                mark
            }));
    }
}

/// About how wide a text is: a little more than in most fonts, so that nothing is cut where there is no way to ask.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().map(em).sum::<f64>() * size
}

fn em(letter: char) -> f64 {
    match letter {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' | '\u{202f}' => 0.33,
        'f' | 't' | 'r' | ' ' | '(' | ')' | '-' | '/' => 0.4,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.92,
        'A'..='Z' => 0.7,
        '⁰'..='⁹' | '¹' | '²' | '³' | '⁻' => 0.42,
        // East Asian scripts and most pictures.
        '\u{1100}'.. if !('\u{2000}'..='\u{2bff}').contains(&letter) => 1.05,
        _ => 0.6,
    }
}

/// The text, cut in its middle to fit a width: names tend to differ at their ends.
pub(super) fn fitted(text: &str, size: f64, width: f64) -> String {
    let text = printable(text);
    if text_width(&text, size) <= width {
        return text;
    }
    let letters: Vec<char> = text.chars().collect();
    let mut kept = letters.len().saturating_sub(1);
    loop {
        let tail = kept / 2;
        let head = kept - tail;
        let cut: String = letters[..head]
            .iter()
            .chain(&['…'])
            .chain(&letters[letters.len() - tail..])
            .collect();
        if kept == 0 || text_width(&cut, size) <= width {
            return cut;
        }
        // In steps of a tenth, so that names of a megabyte do not take long.
        kept -= (kept / 10).max(1);
    }
}

/// The text without control characters, which no XML may hold, and without marks that turn the direction of what
/// follows them.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() => ' ',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
            '\u{fffe}' | '\u{ffff}' => ' ',
            c => c,
        })
        .collect()
}

/// Words in lines that fit a width.
pub(super) fn wrapped(text: &str, size: f64, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), size) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(fitted(word, size, width)),
        }
    }
    lines
}
