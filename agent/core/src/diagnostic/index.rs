//! Places of lines and characters in a text.

/// Index of lines and characters, to find a place without scanning the text.
#[derive(Debug, Clone)]
pub(super) struct Index {
    /// First byte of each line.
    pub(super) lines: Vec<usize>,
    /// Number of characters before each block of the text.
    blocks: Vec<usize>,
}

/// Size of a block in bytes.
const BLOCK: usize = 4096;

impl Index {
    pub(super) fn new(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let mut blocks = vec![0];
        for block in text.as_bytes().chunks(BLOCK) {
            let before = blocks.last().copied().unwrap_or(0);
            blocks.push(before + characters(block));
        }
        Self {
            lines: std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
            blocks,
        }
    }

    /// Returns the line of a byte, counted from 0.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).max(1) - 1
    }

    /// Returns the number of characters before a byte.
    pub(super) fn characters(&self, text: &str, at: usize) -> usize {
        let block = at / BLOCK;
        let rest = &text.as_bytes()[block * BLOCK..at];
        self.blocks.get(block).copied().unwrap_or(0) + characters(rest)
    }
}

/// Counts the characters of UTF-8 that start in these bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| (**byte as i8) >= -0x40).count()
}
