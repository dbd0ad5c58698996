//! Draws a view as a frame of text.

use std::collections::VecDeque;

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::{Constraint, Layout, Rect};
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::symbols::bar;
use ratatui_core::text::Span;

use super::paint::paint;
use super::view::{Counter, View};
use crate::color::Meaning;

/// Space between two columns.
const GAP: u16 = 2;
/// Width of a trend, and of the narrowest frame with one.
const TREND_COLUMNS: u16 = 20;
const TREND_FROM: u16 = 76;
/// Maximum number of lines of a sentence about this host.
const FACT_ROWS: u16 = 3;

/// Draws a view, as wide as `columns` and with `rows` lines; with all that it has if `rows` is
/// `None`.
pub(super) fn text(view: &View, columns: usize, rows: Option<usize>) -> String {
    let width = u16::try_from(columns).unwrap_or(u16::MAX);
    let sections = sections(view, width);
    let facts = facts(view, width);
    let all = 1
        + facts.len()
        + sections
            .iter()
            .map(|each| usize::from(each.wanted()))
            .sum::<usize>();
    let height = u16::try_from(rows.unwrap_or(all)).unwrap_or(u16::MAX);
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    title(view, rows.is_some(), &mut buffer);
    let mut top = 1;
    // At least the counters are readable below long sentences.
    let most = usize::from(height / 3).max(2);
    for (text, style) in facts.iter().take(most) {
        write(&mut buffer, Rect::new(0, top, width, 1), text, *style);
        top += 1;
    }
    let wanted: Vec<u16> = sections.iter().map(Section::wanted).collect();
    for (section, rows) in sections
        .iter()
        .zip(share(height.saturating_sub(top), &wanted))
    {
        section.draw(&mut buffer, Rect::new(0, top, width, rows));
        top += rows;
    }
    paint(&buffer)
}

/// Draws the first line: what rates are of, how to end a screen, and the time.
fn title(view: &View, is_screen: bool, buffer: &mut Buffer) {
    let area = Rect {
        height: 1,
        ..buffer.area
    };
    let rates = match view.elapsed {
        Some(elapsed) => format!("rates over {:.2} s", elapsed.as_secs_f64()),
        None => "rates with the next reading".to_owned(),
    };
    let quit = if is_screen { "  q quits" } else { "" };
    let text = format!("peerwall top  {rates}{quit}  {}", view.time);
    write(
        buffer,
        area,
        &text,
        Style::new().add_modifier(Modifier::BOLD),
    );
}

/// Returns the lines about this host.
fn facts(view: &View, width: u16) -> Vec<(String, Style)> {
    let error = view
        .error
        .as_ref()
        .map(|text| (text.as_str(), Some(Meaning::Bad)));
    let facts = view
        .facts
        .iter()
        .map(|fact| (fact.text.as_str(), fact.meaning));
    let lines = error.into_iter().chain(facts).flat_map(|(text, meaning)| {
        let style = meaning.map_or_else(Style::new, |meaning| Style::new().fg(color(meaning)));
        wrapped(text, width)
            .into_iter()
            .map(move |line| (line, style))
    });
    lines.collect()
}

fn color(meaning: Meaning) -> Color {
    match meaning {
        Meaning::Good => Color::Green,
        Meaning::Bad => Color::Red,
        Meaning::Attention => Color::Yellow,
    }
}

/// Splits a sentence into lines at spaces. The last one is longer than `width` if the sentence does
/// not fit.
fn wrapped(text: &str, width: u16) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let is_last = lines.len() == usize::from(FACT_ROWS);
        let fits = |line: &String| {
            let columns = Span::raw(line).width() + 1 + Span::raw(word).width();
            is_last || columns <= usize::from(width)
        };
        match lines.last_mut().filter(|line| fits(line)) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A part of the frame: a heading, and a row for each of something.
struct Section<'v> {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    trend: Option<&'v VecDeque<f64>>,
    /// A line below the heading.
    note: Option<&'v str>,
}

/// A column of a section.
struct Column {
    title: &'static str,
    width: Constraint,
    is_number: bool,
    /// Width of the narrowest frame with this column.
    from: u16,
}

impl Column {
    fn number(title: &'static str, width: u16, from: u16) -> Self {
        Self {
            title,
            width: Constraint::Length(width),
            is_number: true,
            from,
        }
    }

    fn text(title: &'static str, width: Constraint, from: u16) -> Self {
        Self {
            title,
            width,
            is_number: false,
            from,
        }
    }
}

/// Returns the sections, the most important first: in a low frame, the last ones are left out.
fn sections(view: &View, width: u16) -> Vec<Section<'_>> {
    let all = [
        rates("denied, by reason", &view.denied, &view.trends.denied),
        packets(view),
        rates("accepted, by rule", &view.accepted, &view.trends.accepted),
        events(view),
    ];
    all.into_iter()
        .map(|section| section.fitting(width))
        .collect()
}

fn rates<'v>(title: &'static str, counters: &[Counter], trend: &'v VecDeque<f64>) -> Section<'v> {
    let row = |counter: &Counter| {
        vec![
            short(counter.rate.packets),
            short(counter.rate.bytes),
            counter.packets.to_string(),
            counter.what.clone(),
        ]
    };
    Section {
        columns: vec![
            Column::number("packets/s", 9, 0),
            Column::number("bytes/s", 9, 60),
            Column::number("packets", 12, 45),
            Column::text(title, Constraint::Fill(1), 0),
        ],
        rows: counters.iter().map(row).collect(),
        trend: Some(trend),
        note: counters.is_empty().then_some("none"),
    }
}

fn packets(view: &View) -> Section<'_> {
    let rows = view.packets.iter().map(|row| {
        vec![
            row.last.clone(),
            row.packets.clone(),
            row.from.clone(),
            row.to.clone(),
            row.reason.clone(),
            row.remark.clone(),
        ]
    });
    let none = view.packets.is_empty().then_some("none recorded");
    Section {
        columns: vec![
            Column::text("last", Constraint::Length(11), 70),
            Column::number("packets", 7, 0),
            Column::text("denied packets from", Constraint::Fill(3), 0),
            Column::text("to", Constraint::Fill(2), 0),
            Column::text("reason", Constraint::Length(15), 60),
            Column::text("", Constraint::Fill(2), 110),
        ],
        rows: rows.collect(),
        trend: None,
        note: view.packets_trouble.as_deref().or(none),
    }
}

fn events(view: &View) -> Section<'_> {
    let rows = view.events.iter().map(|event| {
        vec![
            event.age.clone(),
            event.happened.clone(),
            event.policy.clone(),
            event.by.clone(),
        ]
    });
    Section {
        columns: vec![
            Column::text("when", Constraint::Length(11), 0),
            Column::text("event", Constraint::Length(18), 0),
            Column::text("policy", Constraint::Fill(2), 50),
            Column::text("by", Constraint::Fill(1), 70),
        ],
        rows: rows.collect(),
        trend: None,
        note: view.events.is_empty().then_some("none"),
    }
}

impl Section<'_> {
    /// Leaves out the columns for which a frame is too narrow.
    fn fitting(mut self, width: u16) -> Self {
        let fits: Vec<bool> = self
            .columns
            .iter()
            .map(|column| column.from <= width)
            .collect();
        let kept = |cells: Vec<String>| {
            let cells = cells.into_iter().zip(&fits);
            cells
                .filter(|(_, fits)| **fits)
                .map(|(cell, _)| cell)
                .collect()
        };
        self.rows = self.rows.into_iter().map(kept).collect();
        self.columns.retain(|column| column.from <= width);
        self
    }

    /// Returns the number of lines for everything.
    fn wanted(&self) -> u16 {
        let note = usize::from(self.note.is_some());
        u16::try_from(1 + note + self.rows.len()).unwrap_or(u16::MAX)
    }

    fn draw(&self, buffer: &mut Buffer, area: Rect) {
        let [heading, below] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let style = Style::new().add_modifier(Modifier::REVERSED);
        buffer.set_style(heading, style);
        let titles: Vec<&str> = self.columns.iter().map(|column| column.title).collect();
        self.line(buffer, heading, &titles, style);
        if let Some(trend) = self.trend.filter(|_| area.width >= TREND_FROM) {
            let place = Rect {
                x: area.width - TREND_COLUMNS,
                width: TREND_COLUMNS,
                ..heading
            };
            write(buffer, place, &bars(trend), style);
        }
        let notes = self.note.iter().map(|note| vec![*note]);
        let rows = self
            .rows
            .iter()
            .map(|row| row.iter().map(String::as_str).collect());
        for (row, place) in notes.chain(rows).zip(below.rows()) {
            match row.as_slice() {
                [note] if self.columns.len() > 1 => write(buffer, place, note, Style::new()),
                cells => self.line(buffer, place, cells, Style::new()),
            }
        }
    }

    /// Writes cells in their columns.
    fn line(&self, buffer: &mut Buffer, area: Rect, cells: &[&str], style: Style) {
        let widths = self.columns.iter().map(|column| column.width);
        let places = Layout::horizontal(widths).spacing(GAP).split(area);
        for ((cell, column), place) in cells.iter().zip(&self.columns).zip(places.iter()) {
            let pad = match column.is_number {
                true => usize::from(place.width).saturating_sub(Span::raw(*cell).width()),
                false => 0,
            };
            let cell = format!("{:pad$}{cell}", "");
            write(buffer, *place, &cell, style);
        }
    }
}

/// Writes a text; `…` marks one that was cut off, so that no address looks like another.
fn write(buffer: &mut Buffer, area: Rect, text: &str, style: Style) {
    let area = area.intersection(buffer.area);
    if area.is_empty() {
        return;
    }
    let width = usize::from(area.width);
    if Span::raw(text).width() <= width {
        buffer.set_stringn(area.x, area.y, text, width, style);
        return;
    }
    let (x, y) = buffer.set_stringn(area.x, area.y, text, width - 1, style);
    buffer.set_stringn(x, y, "…", 1, style);
}

/// Divides lines among sections: a heading and a line for each of them, in order, as far as there
/// are lines; then one more for each that wants it, until none are left.
fn share(rows: u16, wanted: &[u16]) -> Vec<u16> {
    let mut given = vec![0; wanted.len()];
    let mut left = rows;
    for (given, wanted) in given.iter_mut().zip(wanted) {
        let least = 2.min(*wanted);
        if left < least {
            break;
        }
        *given = least;
        left -= least;
    }
    while left > 0 {
        let before = left;
        for (given, wanted) in given.iter_mut().zip(wanted) {
            if *given > 0 && *given < *wanted && left > 0 {
                *given += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    given
}

/// Formats a number with its unit in few characters: `12.5`, `1234.0`, `12.3k`, `4.57M`.
fn short(number: f64) -> String {
    match number {
        0.0..1e4 => format!("{number:.1}"),
        1e4..1e6 => format!("{:.1}k", number / 1e3),
        1e6..1e9 => format!("{:.2}M", number / 1e6),
        _ => format!("{:.2}G", number / 1e9),
    }
}

/// Draws numbers as bars, the newest at the right, the highest as a full one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the level is between 0 and 8"
)]
fn bars(trend: &VecDeque<f64>) -> String {
    const LEVELS: [&str; 9] = [
        " ",
        bar::ONE_EIGHTH,
        bar::ONE_QUARTER,
        bar::THREE_EIGHTHS,
        bar::HALF,
        bar::FIVE_EIGHTHS,
        bar::THREE_QUARTERS,
        bar::SEVEN_EIGHTHS,
        bar::FULL,
    ];
    let width = usize::from(TREND_COLUMNS);
    let shown = trend.iter().skip(trend.len().saturating_sub(width));
    let highest = shown.clone().copied().fold(0.0, f64::max);
    let level = |number: &f64| match highest > 0.0 {
        // Something is never drawn as nothing.
        true => LEVELS[(number / highest * 8.0).ceil() as usize],
        false => LEVELS[0],
    };
    let bars: String = shown.map(level).collect();
    let pad = width.saturating_sub(trend.len());
    format!("{:pad$}{bars}", "")
}

#[cfg(test)]
mod tests;
