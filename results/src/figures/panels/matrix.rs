//! Matrices: of coefficients, which diverge from 0, and of quantities, the more the darker.

use super::{
    super::{
        palette,
        scene::{Anchor, Ink, Mark, Scene, fitted, text_width},
    },
    SMALL, TOP, WIDTH, title,
};

/// A matrix of coefficients from −1 to 1.
pub(in super::super) struct Matrix {
    pub title: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// Row by row; `None` where there is no coefficient.
    pub cells: Vec<Vec<Option<f64>>>,
    /// A line before this row and column, which parts factors from metrics.
    pub parted: Option<usize>,
}

impl Matrix {
    pub(in super::super) fn draw(&self) -> Scene {
        let (cell_width, cell_height) = (38.0, 24.0);
        let widest = |labels: &[String]| {
            labels
                .iter()
                .map(|label| text_width(label, SMALL))
                .fold(30.0, f64::max)
                .min(170.0)
        };
        let left = widest(&self.rows) + 8.0;
        let foot = widest(&self.columns) + 10.0;
        let top = TOP;
        let width = left + self.columns.len() as f64 * cell_width + 4.0;
        let bottom = top + self.rows.len() as f64 * cell_height;
        let mut scene = Scene::new(width.max(200.0), bottom + foot);
        title(&self.title, &mut scene);
        for (r, (label, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let y = top + r as f64 * cell_height;
            let at = (left - 6.0, y + cell_height / 2.0 + SMALL * 0.35);
            scene.text(
                at,
                &fitted(label, SMALL, 170.0),
                SMALL,
                Anchor::End,
                Ink::Text,
            );
            for (c, cell) in cells.iter().enumerate() {
                let x = left + c as f64 * cell_width;
                let middle = (x + cell_width / 2.0, y + cell_height / 2.0 + SMALL * 0.35);
                let corner = (x + 0.5, y + 0.5);
                let size = (cell_width - 1.0, cell_height - 1.0);
                match cell.filter(|r| r.is_finite()) {
                    Some(coefficient) => {
                        let step = palette::step(coefficient);
                        scene.rect(corner, size, Ink::Diverging(step), 1.0);
                        let text = crate::numbers::coefficient(coefficient);
                        let ink = Ink::OnDiverging(step);
                        scene.text(middle, &text, 10.5, Anchor::Middle, ink);
                    }
                    None => missing(corner, size, &mut scene),
                }
            }
        }
        for (c, label) in self.columns.iter().enumerate() {
            let x = left + (c as f64 + 0.5) * cell_width + SMALL * 0.35;
            let label = fitted(label, SMALL, 170.0);
            // Reads upwards and ends at the matrix.
            scene.marks.push(Mark::Text {
                at: (x, bottom + 6.0),
                text: label,
                size: SMALL,
                anchor: Anchor::End,
                ink: Ink::Text,
                bold: false,
                upwards: true,
            });
        }
        if let Some(parted) = self.parted {
            let x = left + parted as f64 * cell_width;
            let y = top + parted as f64 * cell_height;
            scene.line(vec![(x, top), (x, bottom)], Ink::Text, 1.2);
            let right = left + self.columns.len() as f64 * cell_width;
            if parted < self.rows.len() {
                scene.line(vec![(left, y), (right, y)], Ink::Text, 1.2);
            }
        }
        scene
    }
}

/// A cell of a matrix of quantities.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct HeatCell {
    /// 0 to 1.
    pub strength: f64,
    pub value: String,
    /// A second line; none where empty.
    pub below: String,
}

/// A matrix of quantities, the more the darker.
pub(in super::super) struct Heat {
    pub title: String,
    pub row_title: String,
    pub column_title: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// Row by row; `None` where nothing was measured.
    pub cells: Vec<Vec<Option<HeatCell>>>,
}

impl Heat {
    pub(in super::super) fn draw(&self) -> Scene {
        const HEAD: f64 = 36.0;
        let cells = || self.cells.iter().flatten().flatten();
        let two_lines = cells().any(|cell| !cell.below.is_empty());
        let height = if two_lines { 40.0 } else { 26.0 };
        let widest = cells()
            .flat_map(|cell| {
                [
                    text_width(&cell.value, SMALL),
                    text_width(&cell.below, 10.0),
                ]
            })
            .chain(self.columns.iter().map(|label| text_width(label, SMALL)))
            .fold(36.0, f64::max);
        let left = self
            .rows
            .iter()
            .chain([&self.row_title])
            .map(|label| text_width(label, SMALL))
            .fold(0.0, f64::max)
            + 10.0;
        // As wide as the panel has room for, and no wider than it looks well.
        let room = (WIDTH - left - 4.0) / self.columns.len().max(1) as f64;
        let width = (widest + 10.0).max(room.min(88.0));
        let top = TOP + HEAD;
        let bottom = top + self.rows.len() as f64 * height;
        let across = left + self.columns.len() as f64 * width;
        let mut scene = Scene::new((across + 4.0).max(WIDTH), bottom + 8.0);
        title(&self.title, &mut scene);
        let middle = f64::midpoint(left, across);
        let heading = (middle, TOP + 12.0);
        scene.text(
            heading,
            &self.column_title,
            SMALL,
            Anchor::Middle,
            Ink::Text,
        );
        let corner = (left - 6.0, top - 8.0);
        scene.text(corner, &self.row_title, SMALL, Anchor::End, Ink::Text);
        for (c, label) in self.columns.iter().enumerate() {
            let at = (left + (c as f64 + 0.5) * width, top - 8.0);
            scene.text(at, label, SMALL, Anchor::Middle, Ink::Muted);
        }
        for (r, (label, cells)) in self.rows.iter().zip(&self.cells).enumerate() {
            let y = top + r as f64 * height;
            let at = (left - 6.0, y + height / 2.0 + SMALL * 0.35);
            scene.text(at, label, SMALL, Anchor::End, Ink::Muted);
            for (c, cell) in cells.iter().enumerate() {
                let x = left + c as f64 * width;
                let (corner, size) = ((x + 0.5, y + 0.5), (width - 1.0, height - 1.0));
                let Some(cell) = cell else {
                    missing(corner, size, &mut scene);
                    continue;
                };
                let opacity = 0.08 + 0.37 * cell.strength.clamp(0.0, 1.0);
                scene.rect(corner, size, Ink::Series(0), opacity);
                let line = if two_lines { 16.0 } else { height / 2.0 + 4.0 };
                let at = (x + width / 2.0, y + line);
                scene.text(at, &cell.value, SMALL, Anchor::Middle, Ink::Text);
                if !cell.below.is_empty() {
                    let at = (x + width / 2.0, y + 31.0);
                    scene.text(at, &cell.below, 10.0, Anchor::Middle, Ink::Text);
                }
            }
        }
        scene
    }
}

/// A cell without a value: hatched, so that it cannot be taken for a zero.
fn missing(corner: (f64, f64), size: (f64, f64), scene: &mut Scene) {
    scene.rect(corner, size, Ink::Missing, 1.0);
    let ((x, y), (width, height)) = (corner, size);
    for at in [0.25, 0.75] {
        let run = height * 0.7;
        let from = (x + width * at - run / 2.0, y + height * 0.85);
        let to = (from.0 + run, y + height * 0.15);
        scene.line(vec![from, to], Ink::Muted, 0.8);
    }
}
