//! The code blocks of the page.

use std::fs;

use super::REPOSITORY;

/// A block of the page.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Title of level two.
    pub(crate) step: String,
    /// Title of level three.
    pub(crate) part: String,
    /// `yaml`, `toml`, or nothing for commands.
    pub(crate) kind: String,
    pub(crate) text: String,
}

pub(crate) fn page() -> Vec<Block> {
    let path = format!("{REPOSITORY}/docs/migrate-from-iptables-restore.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut step, mut part) = (String::new(), String::new());
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        match (is_inside, line.strip_prefix("```")) {
            (false, Some(kind)) => blocks.push(Block {
                step: step.clone(),
                part: part.clone(),
                kind: kind.into(),
                text: String::new(),
            }),
            (true, None) => blocks.last_mut().unwrap().text += &format!("{line}\n"),
            (false, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    (step, part) = (title.into(), String::new());
                } else if let Some(title) = line.strip_prefix("### ") {
                    part = title.into();
                }
            }
            (true, Some(_)) => {}
        }
        is_inside ^= line.starts_with("```");
    }
    blocks
}

/// Whether a block shows output of the program, not input.
pub(crate) fn is_output(block: &Block) -> bool {
    block.kind.is_empty() && block.text.starts_with(' ') || block.text.starts_with("problems")
}
