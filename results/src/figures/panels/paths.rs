//! Paths: one metric against another as something grows, each point with a label.

use super::{
    super::{
        axis::Axis,
        palette,
        scene::{Anchor, Ink, Scene, text_width},
    },
    SMALL, WIDTH,
    frame::{Frame, axis_title},
};

/// A point of a path.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Spot {
    pub x: f64,
    pub y: f64,
    pub label: String,
    /// Not filled.
    pub hollow: bool,
}

/// Points in an order, with a line through them.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Path {
    /// Which colour, shape and dash.
    pub series: usize,
    pub spots: Vec<Spot>,
}

/// One metric against another, or against a factor, as something grows.
pub(in super::super) struct Paths {
    pub title: String,
    pub subtitle: Option<String>,
    pub x_title: String,
    pub paths: Vec<Path>,
    /// Whether x is a factor's levels; else each point has a label.
    pub along_levels: bool,
}

impl Paths {
    pub(in super::super) fn draw(&self) -> Scene {
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
