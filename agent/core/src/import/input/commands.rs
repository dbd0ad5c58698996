//! Scripts, and commands of a cloud-config beside its rules files.

use std::collections::BTreeSet;

use peerwall_proto::iptables::{Save, TextError, script};

use super::sets::SetReader;
use super::uses::{NAMES, set_names};
use super::{ParsedFiles, Split};
use crate::import::rule::At;
use crate::import::{File, Lint};
use crate::net::addr::Family;
use crate::words::count;

impl ParsedFiles {
    /// Splits a script into the tables that its commands make.
    pub(super) fn split_script(&mut self, file: File, sets: &mut SetReader) -> Vec<Split> {
        let index = self.files.len();
        let script = script::script(&file.text);
        sets.begin(&[&script.v4, &script.v6]);
        for (line, text) in &script.sets {
            let line = *line;
            sets.line(At { input: index, line }, text);
        }
        // Which sets such a line fills is unknown.
        let fills = |line: &TextError| line.text.contains("ipset");
        if script.lines.iter().any(fills) {
            sets.distrust_all("a line that is not read may change it");
        }
        self.refuse(index, &script.lines);
        let at = |line| At { input: index, line };
        self.ends.extend(script.ends.iter().copied().map(at));
        self.ends_on_error
            .extend(script.ends_on_error.then_some(index));
        let idle = script.idle.iter().map(|(line, what)| (at(*line), *what));
        self.idle.extend(idle);
        if script.unevaluated > 0 {
            self.remarks.push(Lint {
                name: "script-not-run",
                sentence: format!(
                    "{}: not evaluated: {} with variables, loops or conditions",
                    file.name,
                    count(script.unevaluated, "line")
                ),
                answer: "run the script, and import the rules with --live or from iptables-save"
                    .into(),
            });
        }
        self.files.push(file);
        let loads = script.loads.into_iter();
        self.loads
            .extend(loads.map(|(line, lines)| (at(line), lines)));
        let mut families = [(Family::V4, script.v4), (Family::V6, script.v6)];
        for (_, save) in &mut families {
            self.refuse_missing(index, save, sets);
        }
        let splits = families.into_iter().map(|(family, save)| Split {
            index,
            family,
            save,
        });
        splits
            .filter(|split| !split.save.tables.is_empty())
            .collect()
    }

    /// Leaves rules about sets that are not there at their line: iptables refuses them.
    fn refuse_missing(&mut self, input: usize, save: &mut Save, sets: &SetReader) {
        for table in &mut save.tables {
            table.rules.retain(|rule| {
                let missing = |name| sets.lives.why_missing(name, rule.line);
                let why = set_names(rule, &NAMES).find_map(missing);
                if let Some(why) = &why {
                    let line = rule.line;
                    self.problems.insert(At { input, line }, why.clone());
                }
                why.is_none()
            });
        }
    }

    /// Leaves the commands of iptables-restore of which one line is not read: it may load nothing.
    pub(super) fn doubt_loads(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let chains = self
            .rules
            .iter()
            .flat_map(|rules| [&rules.filter, &rules.nat]);
        let others = self.other_tables.iter().map(|(_, chains)| chains);
        let chains = chains.chain(others).flat_map(|chains| chains.values());
        let unknown = chains.flat_map(|chain| &chain.rules);
        let unknown = unknown.filter(|rule| rule.unknown().next().is_some());
        let unknown: BTreeSet<At> = unknown.map(|rule| rule.at).collect();
        for (at, lines) in &self.loads {
            let At { input, .. } = *at;
            let mut lines = lines.clone().map(|line| At { input, line });
            if lines.any(|line| self.problems.contains_key(&line) || unknown.contains(&line)) {
                let why = "a line below cannot be read: if iptables-restore refuses it, it loads \
                           none of them";
                self.problems.insert(*at, why.to_owned());
            }
        }
    }

    /// Leaves the commands that name a tool, except those that load one of the files.
    pub(super) fn commands(&mut self, file: File) {
        let input = self.files.len();
        for (index, text) in file.text.lines().enumerate() {
            let line = index + 1;
            let at = At { input, line };
            if self.is_loaded_by(text) {
                self.idle
                    .insert(at, "loads a rules file of this configuration");
            } else if script::names_a_tool(text) {
                let why =
                    "the commands beside rules files are not converted; write the rule into a file";
                self.problems.insert(at, why.to_owned());
            }
        }
        self.files.push(file);
    }

    /// Reports whether a command only loads a file, like `iptables-restore /etc/rules`.
    fn is_loaded_by(&self, text: &str) -> bool {
        let words: Vec<&str> = text
            .split_whitespace()
            .filter(|word| *word != "<")
            .collect();
        let [program, path] = words.as_slice() else {
            return false;
        };
        let program = program.rsplit('/').next().unwrap_or(program);
        let path = format!(": {}", path.trim_start_matches('<'));
        matches!(program, "iptables-restore" | "ip6tables-restore")
            && self.files.iter().any(|file| file.name.ends_with(&path))
    }
}
