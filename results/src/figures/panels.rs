//! The kinds of panel that figures are composed of: lines along a factor, rows with values, points of two metrics, and
//! a matrix. A panel is as wide as a phone, so that its words stay legible there.

use super::{
    axis::Axis,
    palette,
    scene::{Anchor, Ink, Scene, fitted, text_width, wrapped},
};

/// Width of a panel, pixels.
pub(super) const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 232.0;
const TITLE: f64 = 12.5;
const SMALL: f64 = 11.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 40.0;

/// One x and y, with the ends of an interval or a band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dot {
    pub x: f64,
    pub y: f64,
    pub ends: Option<(f64, f64)>,
}

/// Points of one series along x.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trace {
    /// Which colour, shape and dash.
    pub series: usize,
    pub dots: Vec<Dot>,
    /// A curve that was fitted to them.
    pub curve: Vec<(f64, f64)>,
}

/// How the ends of dots are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// A shaded band.
    Band,
    /// Whiskers.
    Whiskers,
}

/// A metric along a factor.
pub(super) struct Lines {
    pub title: String,
    /// Whose metric it is, where panels differ in that.
    pub subtitle: Option<String>,
    pub x_title: String,
    pub traces: Vec<Trace>,
    pub spread: Spread,
    /// Lines between the dots; where there are fitted curves, these lead the eye instead.
    pub connected: bool,
    /// Largest value that is possible, such as 100%.
    pub top: Option<f64>,
}

impl Lines {
    pub(super) fn draw(&self) -> Scene {
        let dots = || self.traces.iter().flat_map(|trace| &trace.dots);
        let x = Axis::of_levels(&dots().map(|dot| dot.x).collect::<Vec<_>>());
        let values = dots().flat_map(|dot| {
            let ends = dot.ends.map_or([dot.y; 2], |(low, high)| [low, high]);
            // A band that reaches to zero would make a logarithmic axis endless.
            [dot.y]
                .into_iter()
                .chain(ends.into_iter().filter(move |end| *end > dot.y * 0.2))
        });
        let y = match self.top {
            Some(top) => Axis::linear(0.0, top),
            None => Axis::of_values(values),
        };
        let x_title = axis_title(&self.x_title, x.log);
        let frame = Frame::new((&self.title, self.subtitle.as_deref()), &x_title, x, y);
        let mut scene = frame.scene();
        for trace in &self.traces {
            frame.trace(trace, self.spread, self.connected, &mut scene);
        }
        scene
    }
}

fn axis_title(title: &str, log: bool) -> String {
    if log {
        format!("{title} (log scale)")
    } else {
        title.into()
    }
}

/// Points of two metrics, with a line through some of them.
pub(super) struct Scatter {
    pub title: String,
    /// Whose metrics they are, where panels differ in that.
    pub subtitle: Option<String>,
    pub x_title: String,
    /// All points.
    pub cloud: Vec<(f64, f64)>,
    /// Those on the line, with the number that the table calls them by.
    pub front: Trace,
    pub numbered: bool,
    /// Where x = y.
    pub diagonal: bool,
    /// Traces without lines, in place of the cloud.
    pub groups: Vec<Trace>,
}

impl Scatter {
    pub(super) fn draw(&self) -> Scene {
        let points = || {
            let dots = self
                .groups
                .iter()
                .chain([&self.front])
                .flat_map(|trace| &trace.dots)
                .map(|dot| (dot.x, dot.y));
            self.cloud.iter().copied().chain(dots)
        };
        let (x, y) = if self.diagonal {
            let both = || points().flat_map(|(x, y)| [x, y]);
            (Axis::of_values(both()), Axis::of_values(both()))
        } else {
            (
                Axis::of_values(points().map(|(x, _)| x)),
                Axis::of_values(points().map(|(_, y)| y)),
            )
        };
        let x_title = axis_title(&self.x_title, x.log);
        let frame = Frame::new((&self.title, self.subtitle.as_deref()), &x_title, x, y);
        let mut scene = frame.scene();
        if self.diagonal {
            let line = vec![
                (frame.left, frame.bottom()),
                (frame.left + frame.width(), frame.top()),
            ];
            scene.dashed(line, Ink::Muted, 1.0, &[4.0, 3.0]);
        }
        for &(x, y) in &self.cloud {
            let at = frame.at(x, y);
            scene.marks.push(super::scene::Mark::Point {
                at,
                shape: super::scene::Symbol::Circle,
                radius: 2.0,
                ink: Ink::Muted,
                hollow: false,
            });
        }
        for group in &self.groups {
            for dot in &group.dots {
                scene.point(frame.at(dot.x, dot.y), group.series, 3.2, false);
            }
        }
        frame.trace(&self.front, Spread::Whiskers, true, &mut scene);
        if self.numbered {
            frame.numbers(&self.front, &mut scene);
        }
        scene
    }
}

/// A point of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spot {
    pub x: f64,
    pub y: f64,
    pub label: String,
    /// Not filled.
    pub hollow: bool,
}

/// Points in an order, with a line through them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    /// Which colour, shape and dash.
    pub series: usize,
    pub spots: Vec<Spot>,
}

/// One metric against another, or against a factor, as something grows.
pub(super) struct Paths {
    pub title: String,
    pub subtitle: Option<String>,
    pub x_title: String,
    pub paths: Vec<Path>,
    /// Whether x is a factor's levels; else each point has a label.
    pub along_levels: bool,
}

impl Paths {
    pub(super) fn draw(&self) -> Scene {
        let spots = || self.paths.iter().flat_map(|path| &path.spots);
        let x = if self.along_levels {
            Axis::of_levels(&spots().map(|spot| spot.x).collect::<Vec<_>>())
        } else {
            Axis::of_values(spots().map(|spot| spot.x))
        };
        let y = Axis::of_values(spots().map(|spot| spot.y));
        let x_title = axis_title(&self.x_title, x.log);
        let frame = Frame::new((&self.title, self.subtitle.as_deref()), &x_title, x, y);
        let mut scene = frame.scene();
        for path in &self.paths {
            let line: Vec<(f64, f64)> = path.spots.iter().map(|s| frame.at(s.x, s.y)).collect();
            if line.len() > 1 {
                let dash = palette::dash(path.series);
                scene.dashed(line, Ink::Series(path.series), 1.8, dash);
            }
        }
        // Labels stay clear of every point and of each other.
        let mut taken: Vec<(f64, f64)> = spots().map(|s| frame.at(s.x, s.y)).collect();
        for path in &self.paths {
            for spot in &path.spots {
                let at = frame.at(spot.x, spot.y);
                scene.point(at, path.series, 3.6, spot.hollow);
                if self.along_levels {
                    continue;
                }
                let half = text_width(&spot.label, SMALL) / 2.0;
                let middle = at.0.min(WIDTH - half).max(frame.left + half);
                let clear = |label: &(f64, f64), taken: &[(f64, f64)]| {
                    let free = |of: &(f64, f64)| {
                        *of == at
                            || (label.0 - of.0).abs() > half + 9.0
                            || (label.1 - 4.0 - of.1).abs() > 9.0
                    };
                    taken.iter().all(free)
                        && label.1 > frame.top() + 6.0
                        && label.1 < frame.bottom()
                };
                let places = [(middle, at.1 - 7.0), (middle, at.1 + 15.0)];
                if let Some(place) = places.into_iter().find(|label| clear(label, &taken)) {
                    scene.text(place, &spot.label, SMALL, Anchor::Middle, Ink::Text);
                    taken.push((place.0, place.1 - 4.0));
                }
            }
        }
        scene
    }
}

/// A title at the head of a panel. Bold letters are wider than others.
fn title(title: &str, scene: &mut Scene) {
    let title = fitted(title, TITLE, (scene.width - 4.0) / 1.12);
    scene.bold((2.0, 14.0), &title, TITLE);
}

/// The frame of a panel with two axes.
struct Frame<'a> {
    title: &'a str,
    subtitle: Option<&'a str>,
    x_title: &'a str,
    x: Axis,
    y: Axis,
    left: f64,
}

impl<'a> Frame<'a> {
    fn new(titles: (&'a str, Option<&'a str>), x_title: &'a str, x: Axis, y: Axis) -> Self {
        let widest = y
            .ticks
            .iter()
            .map(|(_, label)| text_width(label, SMALL))
            .fold(16.0, f64::max);
        Self {
            title: titles.0,
            subtitle: titles.1,
            x_title,
            x,
            y,
            left: widest + 10.0,
        }
    }

    fn width(&self) -> f64 {
        WIDTH - self.left - 10.0
    }

    fn top(&self) -> f64 {
        if self.subtitle.is_some() {
            TOP + 16.0
        } else {
            TOP
        }
    }

    fn bottom(&self) -> f64 {
        self.top() + HEIGHT - TOP - BOTTOM
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.left + self.x.position(x) * self.width(),
            self.bottom() - self.y.position(y) * (self.bottom() - self.top()),
        )
    }

    fn scene(&self) -> Scene {
        let mut scene = Scene::new(WIDTH, self.bottom() + BOTTOM);
        title(self.title, &mut scene);
        if let Some(subtitle) = self.subtitle {
            let text = fitted(subtitle, SMALL, WIDTH - 4.0);
            scene.text((2.0, 30.0), &text, SMALL, Anchor::Start, Ink::Muted);
        }
        let (right, bottom) = (self.left + self.width(), self.bottom());
        for (value, label) in &self.y.ticks {
            let (_, y) = self.at(0.0, *value);
            scene.line(vec![(self.left, y), (right, y)], Ink::Grid, 1.0);
            let at = (self.left - 6.0, y + SMALL * 0.35);
            scene.text(at, label, SMALL, Anchor::End, Ink::Muted);
        }
        scene.line(vec![(self.left, bottom), (right, bottom)], Ink::Muted, 1.0);
        x_ticks(&self.x, self.left, self.width(), bottom, &mut scene);
        let x_title = fitted(self.x_title, SMALL, WIDTH - 10.0);
        let middle = self.left + self.width() / 2.0;
        let half = text_width(&x_title, SMALL) / 2.0;
        let middle = middle.min(WIDTH - half).max(half);
        let at = (middle, self.bottom() + BOTTOM - 6.0);
        scene.text(at, &x_title, SMALL, Anchor::Middle, Ink::Text);
        scene
    }

    fn trace(&self, trace: &Trace, spread: Spread, connected: bool, scene: &mut Scene) {
        let ink = Ink::Series(trace.series);
        let dots = || trace.dots.iter();
        if spread == Spread::Band && dots().all(|dot| dot.ends.is_some()) && trace.dots.len() > 1 {
            let low = dots().filter_map(|dot| Some(self.at(dot.x, dot.ends?.0)));
            let high = dots().filter_map(|dot| Some(self.at(dot.x, dot.ends?.1)));
            scene.area(low.chain(high.rev()).collect(), ink, 0.25);
        } else {
            for dot in dots() {
                if let Some((low, high)) = dot.ends {
                    let line = vec![self.at(dot.x, low), self.at(dot.x, high)];
                    scene.line(line, ink, 1.2);
                }
            }
        }
        if connected && trace.dots.len() > 1 {
            let line = dots().map(|dot| self.at(dot.x, dot.y)).collect();
            scene.dashed(line, ink, 1.8, palette::dash(trace.series));
        }
        if trace.curve.len() > 1 {
            let line = trace.curve.iter().map(|(x, y)| self.at(*x, *y)).collect();
            scene.dashed(line, ink, 1.5, palette::dash(trace.series));
        }
        for dot in dots() {
            scene.point(self.at(dot.x, dot.y), trace.series, 3.6, false);
        }
    }

    /// Numbers to the upper left of a trace's points, where a front has nothing, as many as stand clear of each other.
    fn numbers(&self, trace: &Trace, scene: &mut Scene) {
        let mut taken: Vec<(f64, f64)> = Vec::new();
        for (index, dot) in trace.dots.iter().enumerate() {
            let (x, y) = self.at(dot.x, dot.y);
            let label = (index + 1).to_string();
            let width = text_width(&label, SMALL);
            let at = (
                (x - 5.0).max(self.left + width),
                (y - 4.0).max(self.top() - 2.0),
            );
            if taken
                .iter()
                .all(|(tx, ty)| (at.0 - tx).abs() > 16.0 || (at.1 - ty).abs() > 12.0)
            {
                scene.text(at, &label, SMALL, Anchor::End, Ink::Text);
                taken.push(at);
            }
        }
    }
}

/// Ticks below a line, with as many labels as stand clear of each other.
fn x_ticks(axis: &Axis, left: f64, width: f64, bottom: f64, scene: &mut Scene) {
    let place = |value: f64| left + axis.position(value) * width;
    let half = |label: &str| text_width(label, SMALL) / 2.0 + 3.0;
    let last = axis
        .ticks
        .last()
        .map(|(value, label)| place(*value) - half(label));
    let mut free = f64::NEG_INFINITY;
    for (at, (value, label)) in axis.ticks.iter().enumerate() {
        let x = place(*value);
        scene.line(vec![(x, bottom), (x, bottom + 4.0)], Ink::Muted, 1.0);
        let (start, end) = (x - half(label), x + half(label));
        let is_last = at + 1 == axis.ticks.len();
        if start >= free && (is_last || last.is_none_or(|last| end <= last)) {
            let x = x.min(WIDTH - text_width(label, SMALL) / 2.0);
            let at = (x, bottom + 16.0);
            scene.text(at, label, SMALL, Anchor::Middle, Ink::Muted);
            free = end;
        }
    }
}

/// A value in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Value {
    pub series: usize,
    pub value: f64,
    pub ends: Option<(f64, f64)>,
    pub style: Style,
}

/// How a value in a row is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A bar from zero.
    Bar,
    /// A point.
    Point,
    /// A point that is not filled, over a bar.
    Hollow,
}

/// Names with values beside them.
pub(super) struct Rows {
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
    pub(super) fn draw(&self) -> Scene {
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

/// A matrix of coefficients from −1 to 1.
pub(super) struct Matrix {
    pub title: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// Row by row; `None` where there is no coefficient.
    pub cells: Vec<Vec<Option<f64>>>,
    /// A line before this row and column, which parts factors from metrics.
    pub parted: Option<usize>,
}

impl Matrix {
    pub(super) fn draw(&self) -> Scene {
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
            scene.marks.push(super::scene::Mark::Text {
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
pub(super) struct HeatCell {
    /// 0 to 1.
    pub strength: f64,
    pub value: String,
    /// A second line; none where empty.
    pub below: String,
}

/// A matrix of quantities, the more the darker.
pub(super) struct Heat {
    pub title: String,
    pub row_title: String,
    pub column_title: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// Row by row; `None` where nothing was measured.
    pub cells: Vec<Vec<Option<HeatCell>>>,
}

impl Heat {
    pub(super) fn draw(&self) -> Scene {
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
