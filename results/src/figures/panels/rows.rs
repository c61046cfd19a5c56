//! Rows of names with values beside them: bars, points and whiskers.

use super::{
    super::{
        axis::Axis,
        scene::{Anchor, Ink, Scene, fitted, text_width, wrapped},
    },
    BOTTOM, SMALL, TOP, WIDTH,
    frame::x_ticks,
    title,
};

/// A value in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) struct Value {
    pub series: usize,
    pub value: f64,
    pub ends: Option<(f64, f64)>,
    pub style: Style,
}

/// How a value in a row is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Style {
    /// A bar from zero.
    Bar,
    /// A point.
    Point,
    /// A point that is not filled, over a bar.
    Hollow,
}

/// Names with values beside them.
pub(in super::super) struct Rows {
    pub title: String,
    pub x_title: String,
    pub axis: Axis,
    /// Where a line stands across all rows.
    pub marked: Option<f64>,
    pub rows: Vec<(String, Vec<Value>)>,
    /// Why something is missing.
    pub note: Option<String>,
}

impl Rows {
    pub(in super::super) fn draw(&self) -> Scene {
        let widest = self
            .rows
            .iter()
            .map(|(label, _)| text_width(label, SMALL))
            .fold(30.0, f64::max);
        let left = widest.min(124.0) + 10.0;
        let width = WIDTH - left - 14.0;
        // Points of one row share it in lanes; a hollow one lies on its bar.
        let lanes = |values: &[Value]| {
            let lanes = values.iter().filter(|value| value.style != Style::Hollow);
            lanes.count().max(1)
        };
        let lane = 13.0;
        let heights: Vec<f64> = self
            .rows
            .iter()
            .map(|(_, values)| lanes(values) as f64 * lane + 9.0)
            .collect();
        let note = self.note.as_deref().unwrap_or_default();
        let note = wrapped(note, SMALL, WIDTH - 10.0);
        let bottom = TOP + heights.iter().sum::<f64>();
        let height = bottom + BOTTOM + note.len() as f64 * 15.0;
        let mut scene = Scene::new(WIDTH, height);
        title(&self.title, &mut scene);
        let place = |value: f64| left + self.axis.position(value) * width;
        for (value, _) in &self.axis.ticks {
            let x = place(*value);
            scene.line(vec![(x, TOP - 4.0), (x, bottom)], Ink::Grid, 1.0);
        }
        if let Some(marked) = self.marked {
            let x = place(marked);
            scene.line(vec![(x, TOP - 4.0), (x, bottom)], Ink::Muted, 1.4);
        }
        let mut top = TOP;
        for ((label, values), height) in self.rows.iter().zip(&heights) {
            let middle = top + height / 2.0;
            let label = fitted(label, SMALL, 124.0);
            let at = (left - 8.0, middle + SMALL * 0.35);
            scene.text(at, &label, SMALL, Anchor::End, Ink::Text);
            let first = middle - (lanes(values) as f64 - 1.0) / 2.0 * lane;
            let mut at = 0.0;
            let mut bar = first;
            for value in values {
                let y = if value.style == Style::Hollow {
                    bar
                } else {
                    bar = first + at * lane;
                    at += 1.0;
                    bar
                };
                draw_value(value, y, &place, &mut scene);
            }
            top += height;
        }
        scene.line(
            vec![(left, bottom), (left + width, bottom)],
            Ink::Muted,
            1.0,
        );
        x_ticks(&self.axis, left, width, bottom, &mut scene);
        let x_title = fitted(&self.x_title, SMALL, WIDTH - 10.0);
        let half = text_width(&x_title, SMALL) / 2.0;
        let middle = (left + width / 2.0).min(WIDTH - half).max(half);
        let at = (middle, bottom + BOTTOM - 6.0);
        scene.text(at, &x_title, SMALL, Anchor::Middle, Ink::Text);
        for (line, text) in note.iter().enumerate() {
            let at = (4.0, bottom + BOTTOM + 9.0 + line as f64 * 15.0);
            scene.text(at, text, SMALL, Anchor::Start, Ink::Muted);
        }
        scene
    }
}

fn draw_value(value: &Value, y: f64, place: &impl Fn(f64) -> f64, scene: &mut Scene) {
    let ink = Ink::Series(value.series);
    let x = place(value.value);
    match value.style {
        Style::Bar => {
            let zero = place(0.0);
            scene.rect((zero, y - 5.0), ((x - zero).max(0.0), 10.0), ink, 0.75);
        }
        Style::Point => scene.point((x, y), value.series, 3.8, false),
        Style::Hollow => {}
    }
    if let Some((low, high)) = value.ends {
        let (low, high) = (place(low), place(high));
        let whisker = if value.style == Style::Bar {
            Ink::Text
        } else {
            ink
        };
        scene.line(vec![(low, y), (high, y)], whisker, 1.4);
        for end in [low, high] {
            scene.line(vec![(end, y - 3.0), (end, y + 3.0)], whisker, 1.4);
        }
    }
    match value.style {
        Style::Hollow => scene.point((x, y), value.series, 4.0, true),
        // Over its whiskers.
        Style::Point => scene.point((x, y), value.series, 3.8, false),
        Style::Bar => {}
    }
}
