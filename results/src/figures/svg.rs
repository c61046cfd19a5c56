//! Scenes as SVG: bare, for a page that colours the classes itself, or as a file that carries its own colours, light
//! and dark. No `id` anywhere, so that nothing collides.

use std::fmt::Write as _;

use super::{
    palette::{class, hex, rgb, rules},
    scene::{Anchor, Ink, Mark, Scene, Symbol, printable},
};

/// How the colours get in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    /// By the page's rules.
    Page,
    /// By attributes (light), which the file's own rules replace on dark ground.
    Own,
}

/// The SVG for a page that has [`super::palette::rules`]. `label` is what a screen reader says of it.
#[must_use]
pub fn inline(scene: &Scene, label: &str) -> String {
    let (width, height) = (scene.width, scene.height);
    let mut out = format!(
        "<svg viewBox=\"0 0 {} {}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{}\">",
        Px(width),
        Px(height),
        escaped(label)
    );
    marks(scene, Colours::Page, &mut out);
    out.push_str("</svg>");
    out
}

/// A drawing of decoration only, such as a legend's: screen readers leave it out.
#[must_use]
pub fn decoration(scene: &Scene) -> String {
    let mut out = format!(
        "<svg viewBox=\"0 0 {} {}\" width=\"{0}\" height=\"{1}\" aria-hidden=\"true\">",
        Px(scene.width),
        Px(scene.height),
    );
    marks(scene, Colours::Page, &mut out);
    out.push_str("</svg>");
    out
}

/// An SVG file of its own.
#[must_use]
pub fn file(scene: &Scene, title: &str, description: &str) -> String {
    let (width, height) = (scene.width, scene.height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{0}\" height=\"{1}\" role=\"img\" \
         font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\"><title>{}</title><desc>{}</desc>\
         <style>@media (prefers-color-scheme:dark){{{}}}</style>",
        Px(width),
        Px(height),
        escaped(title),
        escaped(description),
        rules("svg", true)
    );
    let mut ground = Scene::new(width, height);
    ground.rect((0.0, 0.0), (width, height), Ink::Surface, 1.0);
    marks(&ground, Colours::Own, &mut out);
    marks(scene, Colours::Own, &mut out);
    out.push_str("</svg>\n");
    out
}

fn marks(scene: &Scene, colours: Colours, out: &mut String) {
    for mark in &scene.marks {
        match mark {
            Mark::Line {
                points,
                ink,
                width,
                dash,
            } => {
                let _ = write!(
                    out,
                    "<path d=\"{}\" fill=\"none\" stroke-width=\"{}\" stroke-linejoin=\"round\"",
                    Path(points, false),
                    Px(*width)
                );
                if !dash.is_empty() {
                    let dash: Vec<String> =
                        dash.iter().map(|length| Px(*length).to_string()).collect();
                    let _ = write!(out, " stroke-dasharray=\"{}\"", dash.join(" "));
                }
                stroke(*ink, colours, out);
                out.push_str("/>");
            }
            Mark::Area {
                points,
                ink,
                opacity,
            } => {
                let _ = write!(out, "<path d=\"{}\"", Path(points, true));
                if *opacity < 1.0 {
                    let _ = write!(out, " fill-opacity=\"{}\"", Px(*opacity));
                }
                fill(*ink, colours, out);
                out.push_str("/>");
            }
            Mark::Point {
                at: (x, y),
                shape,
                radius,
                ink,
                hollow,
            } => {
                if *shape == Symbol::Circle {
                    let _ = write!(
                        out,
                        "<circle cx=\"{}\" cy=\"{}\" r=\"{}\"",
                        Px(*x),
                        Px(*y),
                        Px(*radius)
                    );
                } else {
                    let corners = corners(*shape, (*x, *y), *radius);
                    let _ = write!(out, "<path d=\"{}\"", Path(&corners, true));
                }
                // A rim in the colour of the ground keeps points apart that lie on each other.
                let (inside, rim, width) = paint(*ink, *hollow);
                let _ = write!(out, " stroke-width=\"{}\"", Px(width));
                let classes = format!("f-{} k-{}", class(inside), class(rim));
                painted(&classes, Some(inside), Some(rim), colours, out);
                out.push_str("/>");
            }
            Mark::Text {
                at: (x, y),
                text,
                size,
                anchor,
                ink,
                bold,
                upwards,
            } => {
                let _ = write!(
                    out,
                    "<text x=\"{}\" y=\"{}\" font-size=\"{}\"",
                    Px(*x),
                    Px(*y),
                    Px(*size)
                );
                match anchor {
                    Anchor::Start => {}
                    Anchor::Middle => out.push_str(" text-anchor=\"middle\""),
                    Anchor::End => out.push_str(" text-anchor=\"end\""),
                }
                if *bold {
                    out.push_str(" font-weight=\"600\"");
                }
                if *upwards {
                    let _ = write!(out, " transform=\"rotate(-90 {} {})\"", Px(*x), Px(*y));
                }
                fill(*ink, colours, out);
                let _ = write!(out, ">{}</text>", escaped(text));
            }
        }
    }
}

fn fill(ink: Ink, colours: Colours, out: &mut String) {
    painted(&format!("f-{}", class(ink)), Some(ink), None, colours, out);
}

fn stroke(ink: Ink, colours: Colours, out: &mut String) {
    painted(&format!("k-{}", class(ink)), None, Some(ink), colours, out);
}

fn painted(
    classes: &str,
    fill: Option<Ink>,
    stroke: Option<Ink>,
    colours: Colours,
    out: &mut String,
) {
    let _ = write!(out, " class=\"{classes}\"");
    if colours == Colours::Own {
        if let Some(ink) = fill {
            let _ = write!(out, " fill=\"{}\"", hex(rgb(ink, false)));
        }
        if let Some(ink) = stroke {
            let _ = write!(out, " stroke=\"{}\"", hex(rgb(ink, false)));
        }
    }
}

/// A point's fill, the colour of its rim, and the rim's width. Grey points have none of another colour, for
/// they lie in clouds.
pub(super) fn paint(ink: Ink, hollow: bool) -> (Ink, Ink, f64) {
    match (hollow, ink) {
        (true, _) => (Ink::Surface, ink, 1.5),
        (false, Ink::Muted) => (ink, ink, 0.0),
        (false, _) => (ink, Ink::Surface, 0.75),
    }
}

/// The corners of a point that is no circle, of about the same area as a circle of this radius.
pub(super) fn corners(shape: Symbol, (x, y): (f64, f64), radius: f64) -> Vec<(f64, f64)> {
    let unit: &[(f64, f64)] = match shape {
        Symbol::Circle | Symbol::Square => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        Symbol::Triangle => &[(0.0, -1.2), (1.15, 0.85), (-1.15, 0.85)],
        Symbol::Inverted => &[(0.0, 1.2), (1.15, -0.85), (-1.15, -0.85)],
        Symbol::Diamond => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
        Symbol::Plus => &[
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ],
    };
    unit.iter()
        .map(|(dx, dy)| (x + dx * radius, y + dy * radius))
        .collect()
}

/// A length, to a hundredth; 0 for what is not finite, which no drawing should hold.
struct Px(f64);

impl std::fmt::Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let length = if self.0.is_finite() { self.0 } else { 0.0 };
        let rounded = (length * 100.0).round() / 100.0;
        write!(f, "{}", rounded + 0.0)
    }
}

struct Path<'a>(&'a [(f64, f64)], bool);

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (x, y)) in self.0.iter().enumerate() {
            let command = if at == 0 { 'M' } else { 'L' };
            write!(f, "{command}{} {}", Px(*x), Px(*y))?;
        }
        if self.1 {
            f.write_str("Z")?;
        }
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in printable(text).chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}
