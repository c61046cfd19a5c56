//! Lines: a metric along a factor.

use super::{
    super::{axis::Axis, scene::Scene},
    Spread, Trace,
    frame::{Frame, axis_title},
};

/// A metric along a factor.
pub(in super::super) struct Lines {
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
    pub(in super::super) fn draw(&self) -> Scene {
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
