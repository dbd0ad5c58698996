//! Sources and services as a graph, for Graphviz and Mermaid.

use super::text::{Row, printable};
use super::{Exposure, Reach};
use crate::import::meaning::Admitted;
use crate::policy::reason::Reason;

/// A graph of sources and what they reach.
pub(super) struct Map<'e> {
    /// Sources, each once.
    pub sources: Vec<String>,
    /// The sources of every port.
    pub everywhere: Vec<usize>,
    /// Services that somebody reaches by an entry of the policy, with their sources.
    pub reached: Vec<(Row<'e>, Vec<usize>)>,
    /// Other services.
    pub closed: Vec<Row<'e>>,
}

/// Name of the node for every port.
pub(super) const EVERY_PORT: &str = "every port";

impl<'e> Map<'e> {
    pub(super) fn new(exposure: &'e Exposure) -> Self {
        let mut map = Self {
            sources: Vec::new(),
            everywhere: Vec::new(),
            reached: Vec::new(),
            closed: Vec::new(),
        };
        map.everywhere = map.numbers(&exposure.every_port);
        for row in exposure.rows() {
            if row.state == Reach::Closed {
                map.closed.push(row);
                continue;
            }
            let numbers = map.numbers(row.from);
            map.reached.push((row, numbers));
        }
        map
    }

    fn numbers(&mut self, list: &[Admitted]) -> Vec<usize> {
        let mut numbers: Vec<usize> = list.iter().map(|each| self.number(source(each))).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn number(&mut self, name: String) -> usize {
        let known = self.sources.iter().position(|each| *each == name);
        known.unwrap_or_else(|| {
            self.sources.push(name);
            self.sources.len() - 1
        })
    }
}

/// Names sources in a map.
fn source(each: &Admitted) -> String {
    let interfaces = printable(&each.interfaces);
    if each.reason == Reason::Peers {
        return format!("peers{interfaces}");
    }
    if let Reason::Overlay(name) = &each.reason {
        return format!("pods of {}", printable(name));
    }
    match each.is_public {
        true => format!("anybody{interfaces}"),
        false => format!("{}{interfaces}", printable(&each.sources)),
    }
}

/// Writes the map in the language of Graphviz.
pub fn dot(exposure: &Exposure) -> String {
    let map = Map::new(exposure);
    let mut text = String::from("digraph exposed {\n  rankdir=LR;\n  node [shape=box];\n");
    for (index, source) in map.sources.iter().enumerate() {
        text.push_str(&format!("  source{index} [label={}];\n", in_dot(source)));
    }
    if !map.everywhere.is_empty() {
        text.push_str(&format!("  every [label={}];\n", in_dot(EVERY_PORT)));
    }
    for from in &map.everywhere {
        text.push_str(&format!("  source{from} -> every;\n"));
    }
    for (index, (row, from)) in map.reached.iter().enumerate() {
        let label = format!("{} {}: {}", row.port, row.what, row.words);
        text.push_str(&format!("  service{index} [label={}];\n", in_dot(&label)));
        for from in from {
            text.push_str(&format!("  source{from} -> service{index};\n"));
        }
    }
    if !map.closed.is_empty() {
        text.push_str("  subgraph cluster_closed {\n    label=\"closed\";\n");
        for (index, row) in map.closed.iter().enumerate() {
            let label = format!("{} {}", row.port, row.what);
            let label = in_dot(&label);
            text.push_str(&format!(
                "    closed{index} [label={label}, style=dashed];\n"
            ));
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// Quotes a string for Graphviz.
fn in_dot(text: &str) -> String {
    let text = printable(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// Writes the map in the language of Mermaid.
pub fn mermaid(exposure: &Exposure) -> String {
    let map = Map::new(exposure);
    let mut text = String::from("flowchart LR\n");
    for (index, source) in map.sources.iter().enumerate() {
        text.push_str(&format!("  source{index}[\"{}\"]\n", in_mermaid(source)));
    }
    if !map.everywhere.is_empty() {
        text.push_str(&format!("  every[\"{}\"]\n", in_mermaid(EVERY_PORT)));
    }
    for from in &map.everywhere {
        text.push_str(&format!("  source{from} --> every\n"));
    }
    for (index, (row, from)) in map.reached.iter().enumerate() {
        let label = in_mermaid(&format!("{} {}: {}", row.port, row.what, row.words));
        text.push_str(&format!("  service{index}[\"{label}\"]\n"));
        for from in from {
            text.push_str(&format!("  source{from} --> service{index}\n"));
        }
    }
    if !map.closed.is_empty() {
        text.push_str("  subgraph closed\n");
        for (index, row) in map.closed.iter().enumerate() {
            let label = in_mermaid(&format!("{} {}", row.port, row.what));
            text.push_str(&format!("    closed{index}[\"{label}\"]\n"));
        }
        text.push_str("  end\n");
    }
    text
}

/// Escapes text for Mermaid: every character that could be syntax is its number.
fn in_mermaid(text: &str) -> String {
    let mut escaped = String::new();
    for c in printable(text).chars() {
        match c.is_alphanumeric() || " .,:/()_-".contains(c) {
            true => escaped.push(c),
            false => escaped.push_str(&format!("#{};", u32::from(c))),
        }
    }
    escaped
}
