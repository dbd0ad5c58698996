//! Prints a buffer as lines, in colour if standard output is coloured.

use ratatui_core::buffer::{Buffer, Cell};
use ratatui_core::style::{Color, Modifier};
use ratatui_core::text::Span;

use crate::color::{self, Stream};

/// Returns the lines of a buffer, without spaces at their ends.
pub(super) fn paint(buffer: &Buffer) -> String {
    lines(buffer, color::is_on(Stream::Stdout))
}

fn lines(buffer: &Buffer, is_colored: bool) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content().chunks(width);
    let lines = rows.map(|cells| line(cells, is_colored));
    let mut text: String = lines.collect();
    // Lines without anything at the end are erased anyway.
    text.truncate(text.trim_end_matches('\n').len());
    text.push('\n');
    text
}

fn line(cells: &[Cell], is_colored: bool) -> String {
    let mut text = String::new();
    let mut style = "";
    let mut covered = 0;
    let end = cells.iter().rposition(|cell| is_visible(cell, is_colored));
    for cell in &cells[..end.map_or(0, |end| end + 1)] {
        // The cells under the rest of a wide character are not printed.
        if covered > 0 {
            covered -= 1;
            continue;
        }
        covered = Span::raw(cell.symbol()).width().saturating_sub(1);
        let wanted = if is_colored { sequence(cell) } else { "" };
        if wanted != style {
            text.push_str("\x1b[0m");
            text.push_str(wanted);
            style = wanted;
        }
        text.push_str(cell.symbol());
    }
    if !style.is_empty() {
        text.push_str("\x1b[0m");
    }
    text.push('\n');
    text
}

fn is_visible(cell: &Cell, is_colored: bool) -> bool {
    cell.symbol() != " " || (is_colored && !sequence(cell).is_empty())
}

/// Returns the control sequence of a cell (ECMA-48: SGR); empty for plain text.
fn sequence(cell: &Cell) -> &'static str {
    let colors = [
        (Color::Green, "\x1b[32m"),
        (Color::Red, "\x1b[31m"),
        (Color::Yellow, "\x1b[33m"),
    ];
    let modifiers = [(Modifier::REVERSED, "\x1b[7m"), (Modifier::BOLD, "\x1b[1m")];
    let color = colors.iter().find(|(color, _)| cell.fg == *color);
    let modifier = modifiers
        .iter()
        .find(|(modifier, _)| cell.modifier.contains(*modifier));
    let color = color.map(|(_, sequence)| *sequence);
    let modifier = modifier.map(|(_, sequence)| *sequence);
    color.or(modifier).unwrap_or_default()
}
