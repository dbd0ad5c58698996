//! Sources and services as a picture.

use super::Exposure;
use super::map::{EVERY_PORT, Map};
use super::text::{Row, printable};

/// Comment by which files of this program are recognized.
pub const MARK: &str = "<!-- written by peerwall exposed -->";

const WIDTH: usize = 960;
const MARGIN: usize = 16;
const BOX_HEIGHT: usize = 44;
const STEP: usize = BOX_HEIGHT + 12;
const SOURCE_WIDTH: usize = 280;
const SERVICE_X: usize = 480;
const SERVICE_WIDTH: usize = WIDTH - SERVICE_X - MARGIN;

/// Colors of both schemes.
const STYLE: &str = "\
.map{font:14px system-ui,sans-serif}\
.map rect{fill:#f6f8fa;stroke:#57606a}\
.map text{fill:#1f2328}\
.map .small{font-size:12px;fill:#57606a}\
.map path{fill:none;stroke:#0969da;stroke-width:1.5}\
.map .open rect{stroke:#bc4c00;stroke-width:2}\
.map .closed rect{stroke-dasharray:4 3}\
@media(prefers-color-scheme:dark){\
.map rect{fill:#161b22;stroke:#8b949e}\
.map text{fill:#e6edf3}\
.map .small{fill:#9198a1}\
.map path{stroke:#4493f8}\
.map .open rect{stroke:#f0883e}}\
@media print{.map rect{fill:#fff;stroke:#000}.map text,.map .small{fill:#000}.map path{stroke:#000}}";

/// Writes the map as SVG.
pub fn svg(exposure: &Exposure) -> String {
    let map = Map::new(exposure);
    let services = usize::from(!map.everywhere.is_empty()) + map.reached.len() + map.closed.len();
    let title = if map.closed.is_empty() { 0 } else { STEP / 2 };
    let rows = services.max(map.sources.len());
    let height = MARGIN * 2 + rows * STEP + title;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map\" role=\"img\" \
         viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n{MARK}\n\
         <title>What others reach on this host</title>\n<style>{STYLE}</style>\n"
    );
    let mut y = MARGIN;
    let mut boxes = String::new();
    if !map.everywhere.is_empty() {
        text.push_str(&lines(&map.everywhere, y));
        boxes.push_str(&service(
            y,
            "every",
            EVERY_PORT,
            "also those that are closed below",
        ));
        y += STEP;
    }
    for (row, from) in &map.reached {
        text.push_str(&lines(from, y));
        let is_open = row.from.iter().any(|each| each.is_public);
        let class = if is_open { "open" } else { "named" };
        boxes.push_str(&row_box(y, class, row));
        y += STEP;
    }
    if !map.closed.is_empty() {
        boxes.push_str(&format!(
            "<text x=\"{SERVICE_X}\" y=\"{}\">closed</text>\n",
            y + STEP / 4
        ));
        y += STEP / 2;
    }
    for row in &map.closed {
        boxes.push_str(&row_box(y, "closed", row));
        y += STEP;
    }
    for (index, name) in map.sources.iter().enumerate() {
        let y = MARGIN + index * STEP;
        boxes.push_str(&source(y, name));
    }
    text.push_str(&boxes);
    text.push_str("</svg>\n");
    text
}

fn lines(from: &[usize], y: usize) -> String {
    let (start, end) = (MARGIN + SOURCE_WIDTH, SERVICE_X);
    let middle = (start + end) / 2;
    let to = y + BOX_HEIGHT / 2;
    let line = |index: &usize| {
        let from = MARGIN + index * STEP + BOX_HEIGHT / 2;
        format!("<path d=\"M{start} {from}C{middle} {from} {middle} {to} {end} {to}\"/>\n")
    };
    from.iter().map(line).collect()
}

fn source(y: usize, name: &str) -> String {
    format!(
        "<g><title>{}</title><rect x=\"{MARGIN}\" y=\"{y}\" width=\"{SOURCE_WIDTH}\" \
         height=\"{BOX_HEIGHT}\" rx=\"4\"/><text x=\"{}\" y=\"{}\">{}</text></g>\n",
        escaped(name),
        MARGIN + 10,
        y + 27,
        escaped(&shortened(name, 36)),
    )
}

fn row_box(y: usize, class: &str, row: &Row<'_>) -> String {
    service(y, class, &format!("{} {}", row.port, row.what), &row.words)
}

fn service(y: usize, class: &str, name: &str, words: &str) -> String {
    let x = SERVICE_X + 10;
    format!(
        "<g class=\"{class}\"><title>{}: {}</title><rect x=\"{SERVICE_X}\" y=\"{y}\" \
         width=\"{SERVICE_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"4\"/>\
         <text x=\"{x}\" y=\"{}\">{}</text>\
         <text class=\"small\" x=\"{x}\" y=\"{}\">{}</text></g>\n",
        escaped(name),
        escaped(words),
        y + 19,
        escaped(&shortened(name, 58)),
        y + 36,
        escaped(&shortened(words, 66)),
    )
}

/// Shortens text to a number of characters.
fn shortened(text: &str, most: usize) -> String {
    let text = printable(text);
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text,
    }
}

/// Escapes text for XML and HTML, in elements and in quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut found = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => found.push_str("&amp;"),
            '<' => found.push_str("&lt;"),
            '>' => found.push_str("&gt;"),
            '"' => found.push_str("&quot;"),
            '\'' => found.push_str("&#39;"),
            _ => found.push(c),
        }
    }
    found
}
