//! The frame of a panel with two axes: its titles, ticks and grid, and the traces inside of it.

use super::{
    super::{
        axis::Axis,
        palette,
        scene::{Anchor, Ink, Scene, fitted, text_width},
    },
    BOTTOM, SMALL, Spread, TOP, Trace, WIDTH, title,
};

const HEIGHT: f64 = 232.0;

/// The frame of a panel with two axes.
pub(super) struct Frame<'a> {
    title: &'a str,
    subtitle: Option<&'a str>,
    x_title: &'a str,
    x: Axis,
    y: Axis,
    pub(super) left: f64,
}

impl<'a> Frame<'a> {
    pub(super) fn new(
        titles: (&'a str, Option<&'a str>),
        x_title: &'a str,
        x: Axis,
        y: Axis,
    ) -> Self {
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

    pub(super) fn width(&self) -> f64 {
        WIDTH - self.left - 10.0
    }

    pub(super) fn top(&self) -> f64 {
        if self.subtitle.is_some() {
            TOP + 16.0
        } else {
            TOP
        }
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top() + HEIGHT - TOP - BOTTOM
    }

    pub(super) fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (
            self.left + self.x.position(x) * self.width(),
            self.bottom() - self.y.position(y) * (self.bottom() - self.top()),
        )
    }

    pub(super) fn scene(&self) -> Scene {
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

    pub(super) fn trace(&self, trace: &Trace, spread: Spread, connected: bool, scene: &mut Scene) {
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
    pub(super) fn numbers(&self, trace: &Trace, scene: &mut Scene) {
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
pub(super) fn x_ticks(axis: &Axis, left: f64, width: f64, bottom: f64, scene: &mut Scene) {
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

pub(super) fn axis_title(title: &str, log: bool) -> String {
    if log {
        format!("{title} (log scale)")
    } else {
        title.into()
    }
}
