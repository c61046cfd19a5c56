//! The parts that pages are made of: tables that scroll in their own frame, and figures with the table behind them.

use maud::{Markup, PreEscaped, html};

use crate::{
    figures::{Figure, Question, Table},
    validity::MARK,
};

/// Longer cells are cut: a reason or a name of a megabyte helps nobody.
const LONGEST_CELL: usize = 400;

/// A table under its caption, in a frame that scrolls where the page is narrow; nothing where it has no rows.
pub(super) fn table(caption: &str, table: &Table, whole: &str) -> Markup {
    let classes = classes(table);
    html! {
        @if !table.rows.is_empty() {
            div.frame role="region" tabindex="0" aria-label=(caption) {
                table {
                    caption { (caption) }
                    thead {
                        tr {
                            @for (at, heading) in table.header.iter().enumerate() {
                                th scope="col" class=[classes.get(at).copied().flatten()] { (heading) }
                            }
                        }
                    }
                    tbody {
                        @for row in &table.rows {
                            tr {
                                @for (at, cell) in row.iter().enumerate() {
                                    @if at == 0 {
                                        th scope="row" class=[classes.first().copied().flatten()] { (cut(cell)) }
                                    } @else if cell.ends_with(MARK) {
                                        td class=(format!("{} doubt", classes.get(at).copied().flatten().unwrap_or_default())) { (cut(cell)) }
                                    } @else {
                                        td class=[classes.get(at).copied().flatten()] { (cut(cell)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if table.left_out > 0 {
                p.more {
                    (crate::numbers::counted(table.left_out as u64, "more row")) " in "
                    a href=(whole) { (whole) } "."
                }
            }
        }
    }
}

/// Marks a value as that of invalid trials.
pub(super) fn mark(cell: &mut String) {
    if cell != crate::numbers::NOT_AVAILABLE {
        cell.push_str(MARK);
    }
}

/// A sentence about the mark, where a table has it; begins with a space.
pub(super) fn marked(table: &Table) -> Markup {
    let marked = table.rows.iter().flatten().any(|cell| cell.ends_with(MARK));
    html! {
        @if marked { " " (MARK) " is the mean of trials that cannot be vouched for, where a combination has no others." }
    }
}

/// Whether any of these figures is drawn.
pub(super) fn drawn(figures: &[Figure], names: &[&str]) -> bool {
    let drawn = figures.iter().filter(|figure| figure.drawing.is_some());
    drawn
        .map(|figure| figure.name)
        .any(|name| names.contains(&name))
}

/// The figures of a question, by name; those that are not drawn are not there.
pub(super) fn figures(figures: &[Figure], question: Question, names: &[&str]) -> Markup {
    html! {
        @for name in names {
            @for found in figures.iter().filter(|figure| figure.question == question && figure.name == *name && figure.drawing.is_some()) {
                (figure(found))
            }
        }
    }
}

fn figure(figure: &Figure) -> Markup {
    let beside = figure
        .study
        .map(|number| format!("Beside figure {number} of the study"));
    html! {
        section.figure id=(figure.name) {
            h3 { (figure.title) }
            @if let Some(drawing) = &figure.drawing {
                @let broad = drawing.panels.iter().any(|panel| panel.scene.width > 400.0);
                figure class=[(drawing.panels.len() <= 6).then_some("whole")] {
                    @if !drawing.legend.is_empty() {
                        ul.legend {
                            @for key in &drawing.legend {
                                li { (PreEscaped(key.svg())) span { (cut(&key.label)) } }
                            }
                        }
                    }
                    div class=(if broad { "panels broad" } else { "panels" }) style=(format!("--columns:{}", drawing.columns)) {
                        @for panel in &drawing.panels {
                            @if panel.scene.width > 400.0 {
                                div.wide role="region" tabindex="0" aria-label=(cut(&panel.alt)) {
                                    (PreEscaped(panel.svg()))
                                }
                            } @else {
                                div.panel { (PreEscaped(panel.svg())) }
                            }
                        }
                    }
                    figcaption {
                        (figure.caption)
                        @if let Some(beside) = &beside { " " span.study { (beside) "." } }
                    }
                }
                details.numbers {
                    summary { "The numbers behind it" }
                    (table(&figure.title, &figure.table, "analysis.json"))
                }
            }
        }
    }
}

/// Numbers stand to the right and do not break; long texts have room.
fn classes(table: &Table) -> Vec<Option<&'static str>> {
    let column = |at: usize| {
        let cells = || table.rows.iter().filter_map(move |row| row.get(at));
        if at > 0 && cells().all(|cell| is_number(cell)) {
            Some("n")
        } else if cells().any(|cell| cell.chars().count() > 28) {
            Some("w")
        } else {
            None
        }
    };
    (0..table.header.len()).map(column).collect()
}

/// A number with at most a unit or a formula around it, and no sentence that begins with one.
fn is_number(cell: &str) -> bool {
    let begins = cell
        .trim_start_matches(['×', '−', '<', '+'])
        .starts_with(|c: char| c.is_ascii_digit());
    cell == crate::numbers::NOT_AVAILABLE
        || begins && cell.chars().filter(|c| c.is_alphabetic()).count() <= 8
}

/// The text, cut where it is very long.
pub(super) fn cut(text: &str) -> String {
    if text.len() <= LONGEST_CELL {
        return text.into();
    }
    let mut kept: String = text.chars().take(LONGEST_CELL).collect();
    kept.push('…');
    kept
}
