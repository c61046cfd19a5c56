//! Figures: the published study's, in its arrangement, and ours. Each is a set of panels with a table behind it and a
//! sentence, computed from the data, that says what it shows; or the reason why it could not be made.
//!
//! Drawn by ourselves, because panels of a phone's width that a page arranges and colours (light, dark, print) need
//! neither scripts nor two versions of each picture. kuva only turns drawings into pixels.

mod axis;
mod batch_and_gpus;
mod behaviour;
mod cost;
mod decisions;
mod lengths;
pub(crate) mod lookup;
pub(crate) mod matters;
pub mod palette;
mod panels;
mod png;
pub mod scene;
mod servers;
mod svg;

use self::{
    lookup::Context,
    scene::{Anchor, Ink, Scene, fitted, text_width},
};
use crate::{analysis::Analysis, summary::Summary};

/// A figure, or the reason why there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The stem of its files' names.
    pub name: &'static str,
    /// Its heading.
    pub title: String,
    /// The published study's figure that it stands beside.
    pub study: Option<&'static str>,
    /// The question that it belongs to.
    pub question: Question,
    /// A sentence about what it shows, or why it could not be made.
    pub caption: String,
    /// The drawing.
    pub drawing: Option<Drawing>,
    /// The numbers behind it.
    pub table: Table,
}

/// A reader's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// "What to run?"
    Decide,
    /// "What matters?"
    Matters,
    /// How does it behave?
    Behaves,
}

/// Panels in rows, under a legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// Panels in a row, where there is room.
    pub columns: usize,
    /// The meaning of colours and symbols.
    pub legend: Vec<Key>,
}

/// One panel.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// A description for those who do not see it.
    pub alt: String,
    /// The drawing.
    pub scene: Scene,
}

/// An entry of a legend.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its meaning.
    pub label: String,
    /// The series.
    pub series: usize,
    /// How it is drawn.
    pub kind: KeyKind,
}

/// How a legend's entry is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A line with a point.
    Line,
    /// The same before a shade.
    Band,
    /// A point.
    Point,
    /// A bar.
    Bar,
    /// A point that is not filled.
    Hollow,
    /// A grey dot.
    Cloud,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The columns' headings.
    pub header: Vec<String>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
    /// Rows that are left out.
    pub left_out: usize,
}

impl Table {
    /// Rows that a table in a report has at most.
    pub const MOST_ROWS: usize = 300;

    pub(crate) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self {
            header: header.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        if self.rows.len() < Self::MOST_ROWS {
            self.rows.push(row);
        } else {
            self.left_out += 1;
        }
    }
}

/// Every figure, in the order of a report; those that cannot be made say why.
#[must_use]
pub fn all(summary: &Summary, analysis: &Analysis) -> Vec<Figure> {
    let context = Context::new(summary, analysis);
    let mut figures = vec![decisions::fronts(&context), lengths::best(&context)];
    figures.extend(servers::all(&context));
    figures.extend([matters::effects(&context), matters::importances(&context)]);
    figures.extend(matters::correlations(&context));
    figures.extend([
        behaviour::factors(&context),
        behaviour::utilization_by_batch_size(&context),
        behaviour::utilization_by_gpus(&context),
        batch_and_gpus::by_batch_size_and_gpus(&context),
        lengths::metrics(&context),
        behaviour::replicates(&context),
        behaviour::curves(&context),
        cost::cost_models(&context),
    ]);
    figures
}

impl Figure {
    /// All panels as one SVG file that suits light and dark ground; `None` where there is no drawing.
    #[must_use]
    pub fn svg(&self) -> Option<String> {
        let scene = self.drawing.as_ref()?.arranged(&self.title);
        Some(svg::file(&scene, &self.title, &self.caption))
    }

    /// All panels as one PNG file for light ground; `None` where there is no drawing.
    #[must_use]
    pub fn png(&self) -> Option<Vec<u8>> {
        png::file(&self.drawing.as_ref()?.arranged(&self.title))
    }
}

impl Panel {
    /// The panel for a page that has [`palette::rules`].
    #[must_use]
    pub fn svg(&self) -> String {
        svg::inline(&self.scene, &self.alt)
    }
}

impl Key {
    /// The entry's sign for a page that has [`palette::rules`].
    #[must_use]
    pub fn svg(&self) -> String {
        svg::decoration(&self.sign())
    }

    fn sign(&self) -> Scene {
        let mut scene = Scene::new(30.0, 14.0);
        let (middle, ink) = ((15.0, 7.0), Ink::Series(self.series));
        if self.kind == KeyKind::Band {
            scene.rect((0.0, 1.0), (30.0, 12.0), ink, 0.25);
        }
        match self.kind {
            KeyKind::Line | KeyKind::Band => {
                let dash = palette::dash(self.series);
                scene.dashed(vec![(0.0, 7.0), (30.0, 7.0)], ink, 1.8, dash);
                scene.point(middle, self.series, 3.6, false);
            }
            KeyKind::Point => scene.point(middle, self.series, 3.8, false),
            KeyKind::Bar => scene.rect((2.0, 2.0), (26.0, 10.0), ink, 0.75),
            KeyKind::Hollow => scene.point(middle, self.series, 4.0, true),
            KeyKind::Cloud => scene.marks.push(scene::Mark::Point {
                at: middle,
                shape: scene::Symbol::Circle,
                radius: 2.0,
                ink: Ink::Muted,
                hollow: false,
            }),
        }
        scene
    }
}

impl Drawing {
    /// The panels in their columns below title and legend.
    fn arranged(&self, title: &str) -> Scene {
        const GAP: f64 = 18.0;
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let widest = |column: usize| {
            self.panels
                .iter()
                .skip(column)
                .step_by(columns)
                .map(|panel| panel.scene.width)
                .fold(0.0, f64::max)
        };
        let widths: Vec<f64> = (0..columns).map(widest).collect();
        let width = widths.iter().map(|width| width + GAP).sum::<f64>() + GAP;
        let mut scene = Scene::new(width, 0.0);
        let title = fitted(title, 15.0, (width - 2.0 * GAP) / 1.12);
        scene.bold((GAP, 26.0), &title, 15.0);
        let mut y = 42.0;
        let mut x = GAP;
        for key in &self.legend {
            let label = fitted(&key.label, 12.0, (width - 2.0 * GAP - 40.0).min(320.0));
            let needed = 36.0 + text_width(&label, 12.0) + 18.0;
            if x > GAP && x + needed > width {
                (x, y) = (GAP, y + 20.0);
            }
            scene.place(&key.sign(), x, y);
            let at = (x + 36.0, y + 11.0);
            scene.text(at, &label, 12.0, Anchor::Start, Ink::Text);
            x += needed;
        }
        if !self.legend.is_empty() {
            y += 28.0;
        }
        for row in self.panels.chunks(columns) {
            let mut x = GAP;
            for (panel, width) in row.iter().zip(&widths) {
                scene.place(&panel.scene, x, y);
                x += width + GAP;
            }
            let height = row
                .iter()
                .map(|panel| panel.scene.height)
                .fold(0.0, f64::max);
            y += height + GAP;
        }
        scene.height = y;
        scene
    }
}
