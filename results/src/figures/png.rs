//! Scenes as PNG, light, at two pixels per unit. kuva's rasterizer and its font draw them: a container without fonts
//! has none to offer.

use kuva::{
    backend::png::PngBackend,
    render::{
        color::Color,
        render::{PathData, Primitive, Scene as Raster, TextAnchor},
    },
};

use super::{
    palette::{hex, rgb},
    scene::{Anchor, Ink, Mark, Scene, Symbol},
    svg::{corners, paint},
};

/// The PNG file; `None` where the drawing has no size.
#[must_use]
pub fn file(scene: &Scene) -> Option<Vec<u8>> {
    let mut raster = Raster::new(scene.width, scene.height);
    for mark in &scene.marks {
        draw(mark, &mut raster.elements);
    }
    PngBackend::new().with_scale(2.0).render_scene(&raster).ok()
}

fn colour(ink: Ink) -> Color {
    let (r, g, b) = rgb(ink, false);
    Color::Rgb(r, g, b)
}

fn draw(mark: &Mark, out: &mut Vec<Primitive>) {
    match mark {
        Mark::Line {
            points,
            ink,
            width,
            dash,
        } => {
            let parts = if dash.is_empty() {
                vec![points.clone()]
            } else {
                dashes(points, dash)
            };
            out.extend(parts.into_iter().map(|points| Primitive::PolyLine {
                points,
                stroke: colour(*ink),
                stroke_width: *width,
                stroke_dasharray: None,
            }));
        }
        Mark::Area {
            points,
            ink,
            opacity,
        } => out.push(polygon(points, Some(*ink), Color::None, 0.0, *opacity)),
        Mark::Point {
            at,
            shape,
            radius,
            ink,
            hollow,
        } => {
            let (inside, rim, width) = paint(*ink, *hollow);
            out.push(if *shape == Symbol::Circle {
                Primitive::Circle {
                    cx: at.0,
                    cy: at.1,
                    r: *radius,
                    fill: colour(inside),
                    fill_opacity: None,
                    stroke: Some(colour(rim)),
                    stroke_width: Some(width),
                }
            } else {
                polygon(
                    &corners(*shape, *at, *radius),
                    Some(inside),
                    colour(rim),
                    width,
                    1.0,
                )
            });
        }
        Mark::Text {
            at,
            text,
            size,
            anchor,
            ink,
            bold,
            upwards,
        } => out.push(Primitive::Text {
            x: at.0,
            y: at.1,
            // A dollar would begin a formula.
            content: text.replace('$', "\\$"),
            size: size.round() as u32,
            anchor: match anchor {
                Anchor::Start => TextAnchor::Start,
                Anchor::Middle => TextAnchor::Middle,
                Anchor::End => TextAnchor::End,
            },
            rotate: upwards.then_some(-90.0),
            bold: *bold,
            color: Some(colour(*ink)),
        }),
    }
}

fn polygon(
    points: &[(f64, f64)],
    fill: Option<Ink>,
    stroke: Color,
    stroke_width: f64,
    opacity: f64,
) -> Primitive {
    let mut d = String::new();
    for (at, (x, y)) in points.iter().enumerate() {
        let command = if at == 0 { 'M' } else { 'L' };
        d.push_str(&format!("{command}{x:.2} {y:.2} "));
    }
    d.push('Z');
    Primitive::Path(Box::new(PathData {
        d,
        fill: fill.map(|ink| Color::from(hex(rgb(ink, false)).as_str())),
        stroke,
        stroke_width,
        opacity: (opacity < 1.0).then_some(opacity),
        stroke_dasharray: None,
    }))
}

/// A line's dashes, each a line of its own: the rasterizer would begin anew at every corner.
fn dashes(points: &[(f64, f64)], pattern: &[f64]) -> Vec<Vec<(f64, f64)>> {
    let total: f64 = pattern.iter().sum();
    if points.len() < 2 || total < 1.0 {
        return vec![points.to_vec()];
    }
    let (mut out, mut current) = (Vec::new(), vec![points[0]]);
    let (mut at, mut left) = (0, pattern[0]);
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if length <= left || !length.is_finite() {
                left -= length;
                if at % 2 == 0 {
                    current.push(to);
                }
                break;
            }
            let share = left / length;
            from = (
                from.0 + (to.0 - from.0) * share,
                from.1 + (to.1 - from.1) * share,
            );
            if at % 2 == 0 {
                current.push(from);
                out.push(std::mem::take(&mut current));
            } else {
                current = vec![from];
            }
            at = (at + 1) % pattern.len();
            left = pattern[at];
        }
    }
    if current.len() > 1 {
        out.push(current);
    }
    out
}
