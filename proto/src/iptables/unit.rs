//! The commands that a unit of systemd runs when it starts.
//!
//! Syntax: systemd.unit(5), systemd.syntax(7) and "COMMAND LINES" in systemd.service(5).

use std::collections::BTreeMap;

use super::shell::{self, Command};

/// Keys whose commands run when the unit starts, in their order.
const STARTS: [&str; 3] = ["ExecStartPre", "ExecStart", "ExecStartPost"];

/// A unit.
#[derive(Debug, Default)]
pub(super) struct Unit {
    /// Commands in the order in which they run.
    pub commands: Vec<Command>,
    /// What the other lines are.
    pub idle: BTreeMap<usize, &'static str>,
    /// Whether the start ends at the first command that fails.
    pub ends_on_error: bool,
}

/// A setting, with the numbers of its first and last line.
struct Setting {
    /// The line `[Service]` or the like above it.
    section: String,
    key: String,
    value: String,
    first: usize,
    last: usize,
}

/// Reports whether a text is a unit.
pub(super) fn is_unit(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    let is_section = |line: &str| line.starts_with('[') && line.ends_with(']');
    first.is_some_and(|line| is_section(line) && !line.contains(' '))
        && text.lines().any(|line| line.trim() == "[Service]")
}

/// Reads a unit.
pub(super) fn unit(text: &str) -> Unit {
    let mut unit = Unit::default();
    let mut starts: [Vec<Setting>; 3] = Default::default();
    for setting in settings(text) {
        let is_of_service = setting.section == "[Service]";
        let key = STARTS.iter().position(|key| *key == setting.key);
        let key = key.filter(|_| is_of_service);
        let Some(list) = key.and_then(|at| starts.get_mut(at)) else {
            unit.note(&setting, why_idle(&setting.key));
            continue;
        };
        if setting.value.trim().is_empty() {
            for earlier in list.drain(..) {
                unit.note(&earlier, "an empty setting below removes this command");
            }
            unit.note(&setting, "removes the commands above");
            continue;
        }
        list.push(setting);
    }
    for setting in starts.iter().flatten() {
        unit.ends_on_error |= !may_fail(&setting.value);
        unit.commands.extend(commands(setting));
    }
    unit
}

impl Unit {
    fn note(&mut self, setting: &Setting, why: &'static str) {
        let lines = setting.first..=setting.last;
        self.idle.extend(lines.map(|line| (line, why)));
    }
}

fn why_idle(key: &str) -> &'static str {
    match key {
        "ExecStop" | "ExecStopPost" => "runs when the unit stops",
        "ExecReload" => "runs when the unit is reloaded",
        "ExecCondition" => "only tells whether the unit starts",
        _ => "not a command of the unit",
    }
}

/// Splits a unit into settings. A line that ends with `\` continues on the next; comments between
/// such lines are skipped.
fn settings(text: &str) -> Vec<Setting> {
    let mut found: Vec<Setting> = Vec::new();
    let mut continues = false;
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let trimmed = line.trim();
        let is_comment = trimmed.starts_with(['#', ';']);
        if is_comment || (trimmed.is_empty() && !continues) {
            if let Some(setting) = found.last_mut().filter(|_| continues) {
                setting.value.push_str("\\\n");
            }
            continue;
        }
        if let Some(setting) = found.last_mut().filter(|_| continues) {
            setting.value.push_str(trimmed.trim_end_matches('\\'));
            setting.last = number;
        } else {
            if trimmed.starts_with('[') {
                trimmed.clone_into(&mut section);
            }
            let (key, value) = trimmed.split_once('=').unwrap_or((trimmed, ""));
            found.push(Setting {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().trim_end_matches('\\').to_owned(),
                first: number,
                last: number,
            });
        }
        continues = trimmed.ends_with('\\');
        if let Some(setting) = found.last_mut().filter(|_| continues) {
            setting.value.push_str("\\\n");
        }
    }
    found
}

/// Reports whether a command has the prefix `-`.
fn may_fail(value: &str) -> bool {
    let mut prefixes = value.chars().take_while(|c| "-@+!:".contains(*c));
    prefixes.any(|c| c == '-')
}

/// Returns the commands of a setting. What systemd and a shell read differently is not evaluated.
fn commands(setting: &Setting) -> Vec<Command> {
    let text = setting.value.trim_start_matches(['-', '@', '+', '!', ':']);
    let is_special = text.contains(['|', '&', '<', '>', '%', '#', '$', '`', '*', '?']);
    let prefix = setting.value.strip_suffix(text).unwrap_or_default();
    // The word after the program is its name, not an argument.
    let is_renamed = prefix.contains('@');
    let mut found = shell::commands(text);
    for command in &mut found {
        command.line = (setting.first + command.line).saturating_sub(1);
        command.is_shell |= is_special || is_renamed;
        command.may_fail = may_fail(&setting.value);
    }
    found
}
