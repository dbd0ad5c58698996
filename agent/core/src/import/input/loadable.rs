//! Lines that iptables-restore refuses for characters that are easily overlooked.

use crate::import::{File, Lint};

/// Returns a remark on a rules file of which iptables-restore loads nothing. Its lines are read as
/// they are meant.
pub(super) fn remark(file: &File) -> Option<Lint> {
    let mut lines = file.text.split('\n').enumerate();
    let (index, why) = lines.find_map(|(index, line)| Some((index, why_refused(line)?)))?;
    Some(Lint {
        name: "not-loadable",
        sentence: format!(
            "{}: iptables-restore refuses line {} because of {why}, and loads nothing of the file",
            file.name,
            index + 1
        ),
        answer: "the lines are converted as they are meant; --live imports what is in force".into(),
    })
}

/// `iptables/iptables-restore.c` compares the first character, and `COMMIT` with the whole line.
fn why_refused(line: &str) -> Option<&'static str> {
    if line.ends_with('\r') {
        return Some("its carriage return");
    }
    let trimmed = line.trim();
    let is_place = trimmed.is_empty() || trimmed.starts_with(['*', ':', '#', '[']);
    let is_place = is_place || trimmed == "COMMIT";
    match is_place && line.starts_with([' ', '\t']) {
        true => Some("the blanks before it"),
        false => (trimmed == "COMMIT" && line != trimmed).then_some("the blanks behind it"),
    }
}
