//! Points of two metrics, with a line through some of them.

use super::{
    super::{
        axis::Axis,
        scene::{Ink, Mark, Scene, Symbol},
    },
    Spread, Trace,
    frame::{Frame, axis_title},
};

/// Points of two metrics, with a line through some of them.
pub(in super::super) struct Scatter {
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
    pub(in super::super) fn draw(&self) -> Scene {
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
            scene.marks.push(Mark::Point {
                at,
                shape: Symbol::Circle,
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
