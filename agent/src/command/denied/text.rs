//! The text of `peerwall denied`.

use std::collections::BTreeSet;

use super::rows::Row;
use super::{DeniedPackets, ReasonCount};
use crate::color::{Meaning, paint};
use crate::command::age::{ago, seconds_since, with_age};
use crate::command::count;
use crate::host::names::printable;

/// Maximum number of suggestions that are printed.
const SUGGESTIONS_MAX: usize = 5;

impl DeniedPackets {
    /// Formats the table with its totals and suggestions.
    pub(super) fn text(&self) -> String {
        let recorded: u64 = self.reasons.iter().map(|each| each.recorded).sum();
        let packets = packets(recorded);
        let mut text = format!("{packets} recorded since {}\n", with_age(&self.since));
        text.push_str(&self.table());
        if self.left_off > 0 {
            let rows = count(self.left_off, "more row");
            text.push_str(&format!("and {rows}; --limit 0 shows all\n"));
        }
        if self.not_kept > 0 {
            let rest = self.not_kept;
            text.push_str(&format!(
                "and {rest} of rare sources that are no longer kept\n"
            ));
        }
        text.push_str(&self.not_recorded());
        text.push_str(&self.suggestions());
        text
    }

    fn table(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut lines = vec![["packets", "last", "reason", "from", "to", ""].map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::painted));
        let width = |column: usize| {
            let cells = lines.iter().map(|cells| cells[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..6).map(width).collect();
        let line = |cells: &[String; 6]| {
            let [packets, rest @ ..] = cells;
            let mut line = format!("{packets:>width$}", width = widths[0]);
            for (cell, width) in rest.iter().zip(&widths[1..]) {
                line.push_str(&format!("  {cell:width$}"));
            }
            format!("{}\n", line.trim_end())
        };
        lines.iter().map(line).collect()
    }

    /// Says what is missing in the record.
    fn not_recorded(&self) -> String {
        let hidden = |each: &&ReasonCount| each.not_recorded.is_some_and(|count| count > 0);
        let hidden: Vec<String> = self
            .reasons
            .iter()
            .filter(hidden)
            .map(|each| format!("{} {}", each.not_recorded.unwrap_or(0), each.reason))
            .collect();
        let mut text = String::new();
        if !hidden.is_empty() {
            text.push_str(&format!(
                "denied and not recorded, because the log is limited: {}\n",
                hidden.join(", ")
            ));
        }
        if self.lost > 0 {
            let lost = packets(self.lost);
            text.push_str(&format!("{lost} logged, but not read in time\n"));
        }
        text
    }

    /// Formats what would let packets in, each change once.
    fn suggestions(&self) -> String {
        let mut said = BTreeSet::new();
        let rows = self.rows.iter().filter_map(Row::suggestion);
        let new = |fix: &&peerwall_core::explain::Fix| {
            // Pods of one network need the same lines.
            let key = if fix.toml.is_empty() {
                &fix.when
            } else {
                &fix.toml
            };
            said.insert(key.clone())
        };
        let fixes: Vec<_> = rows.filter(new).collect();
        let mut text = String::new();
        for fix in fixes.iter().take(SUGGESTIONS_MAX) {
            let (when, toml) = (printable(&fix.when), &fix.toml);
            match toml.is_empty() {
                true => text.push_str(&format!("{when}\n")),
                false => {
                    let lines = toml
                        .lines()
                        .map(|line| format!("    {}\n", printable(line)));
                    let lines: String = lines.collect();
                    text.push_str(&format!("If {when}, add to the policy:\n{lines}"));
                }
            }
        }
        if fixes.len() > SUGGESTIONS_MAX {
            let more = count(fixes.len() - SUGGESTIONS_MAX, "more suggestion");
            text.push_str(&format!("and {more}; --json lists all\n"));
        }
        text
    }

    /// Formats the suggestions as lines of a policy, each once, the one with most packets first.
    pub(super) fn patch(&self) -> String {
        let mut found: Vec<(&str, u64, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            let Some(fix) = row.suggestion().filter(|fix| !fix.toml.is_empty()) else {
                continue;
            };
            match found.iter_mut().find(|(toml, ..)| *toml == fix.toml) {
                Some((_, packets, rows)) => {
                    *packets += row.packets;
                    rows.push(row);
                }
                None => found.push((&fix.toml, row.packets, vec![row])),
            }
        }
        if found.is_empty() {
            return "# No entry is suggested: the denied packets look like those of strangers.\n"
                .into();
        }
        found.sort_by_key(|(_, packets, _)| std::cmp::Reverse(*packets));
        let mut text = String::new();
        for (toml, packets, rows) in found {
            text.push_str(&evidence(packets, &rows));
            let lines = toml.lines().map(|line| format!("{}\n", printable(line)));
            text.extend(lines);
            text.push('\n');
        }
        text
    }

    /// Formats the rows as lines that follow each other.
    pub(super) fn lines(&self) -> String {
        let line = |row: &Row| {
            let [packets, _, reason, from, to, note] = row.painted();
            let note = match note.is_empty() {
                true => String::new(),
                false => format!(" ({note})"),
            };
            let line = format!("{}  {packets}x {reason}  {from} → {to}{note}\n", row.last);
            line
        };
        self.rows.iter().map(line).collect()
    }
}

impl Row {
    /// Packets, time, reason, source, destination, remark.
    pub(in crate::command) fn cells(&self) -> [String; 6] {
        let or_several = |text: Option<String>| text.unwrap_or_else(|| "several".to_owned());
        let packets = match self.is_at_least {
            true => format!("≥{}", self.packets),
            false => self.packets.to_string(),
        };
        let last = seconds_since(&self.last).map_or_else(|| self.last.clone(), ago);
        let reason = or_several(self.reason.as_ref().map(ToString::to_string));
        [packets, last, reason, self.from(), self.to(), self.remark()]
    }

    fn from(&self) -> String {
        let source = match (self.source, self.sources) {
            (Some(source), _) => source.to_string(),
            (None, sources) => count(sources, "source"),
        };
        match &self.interface {
            Some(name) => format!("{source} on {}", printable(name)),
            None => source,
        }
    }

    fn to(&self) -> String {
        let port = self.port.as_deref().unwrap_or("several");
        let place = match (self.dialled, self.destination, &self.out) {
            (Some(dialled), _, _) => format!(" by {dialled}"),
            (None, Some(to), Some(_)) => format!(" of {to}"),
            (None, _, _) => String::new(),
        };
        let out = self.out.as_deref().map(printable);
        let out = out.map_or_else(String::new, |out| format!(" via {out}"));
        format!("{port}{place}{out}")
    }

    fn remark(&self) -> String {
        let process = self.process.as_deref();
        let process = process.map(|name| format!("{} listens", printable(name)));
        let parts: Vec<String> = self.owner().into_iter().chain(process).collect();
        parts.join("; ")
    }

    /// Returns the probable owner of the source.
    fn owner(&self) -> Option<String> {
        let owner = self.resembles.as_ref();
        owner.map(|owner| printable(&owner.text()))
    }

    /// Returns the cells with the owner in colour, if output is coloured.
    fn painted(&self) -> [String; 6] {
        let mut cells = self.cells();
        if let Some(owner) = self.owner() {
            let [.., remark] = &mut cells;
            *remark = remark.replacen(&owner, &paint(Meaning::Attention, &owner), 1);
        }
        cells
    }
}

fn packets(number: u64) -> String {
    count(number, "denied packet")
}

/// Maximum number of rows in the evidence for a suggestion.
const EVIDENCE_MAX: usize = 3;

/// Formats the packets behind a suggestion as comments.
fn evidence(all: u64, rows: &[&Row]) -> String {
    let when = rows.first().and_then(|row| row.suggestion());
    let when = when.map_or_else(String::new, |fix| {
        format!("; right if {}", printable(&fix.when))
    });
    let mut text = format!("# {}{when}:\n", packets(all));
    for row in rows.iter().take(EVIDENCE_MAX) {
        let [packets, last, reason, from, to, _] = row.cells();
        text.push_str(&format!(
            "#   {packets}x {reason}, {from} to {to}, last {last}\n"
        ));
    }
    if rows.len() > EVIDENCE_MAX {
        let more = count(rows.len() - EVIDENCE_MAX, "more kind");
        text.push_str(&format!("#   and {more} of packets\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use peerwall_core::denied::{DeniedHook, Resemblance, ResemblanceKind};
    use peerwall_core::explain::Fix;
    use peerwall_core::policy::reason::Reason;

    use super::*;
    use crate::json::LogReader;
    use crate::store;

    fn row(packets: u64) -> Row {
        Row {
            packets,
            is_at_least: false,
            first: store::time(),
            last: store::time(),
            sources: 1,
            reason: Some(Reason::ForwardDefault),
            hook: Some(DeniedHook::Forward),
            interface: Some("cni0".to_owned()),
            out: Some("eth0".to_owned()),
            source: Some("10.244.3.7".parse().unwrap()),
            resembles: Some(Resemblance {
                kind: ResemblanceKind::UndeclaredPod,
                name: Some("cni0".to_owned()),
            }),
            port: Some("80/tcp".to_owned()),
            destination: Some("198.51.100.9".parse().unwrap()),
            dialled: None,
            process: None,
            fixes: vec![Fix {
                when: format!("packet {packets} is wanted"),
                toml: "[a]\nb = 1\n".to_owned(),
            }],
        }
    }

    fn found(rows: Vec<Row>) -> DeniedPackets {
        DeniedPackets {
            reader: LogReader::Agent,
            since: "yesterday".to_owned(),
            reasons: vec![ReasonCount {
                reason: Reason::ForwardDefault,
                recorded: 12,
                recorded_in_all: 12,
                denied_in_all: Some(20),
                not_recorded: Some(8),
            }],
            rows,
            left_off: 1,
            not_kept: 3,
            lost: 1,
            foreign: 0,
        }
    }

    #[test]
    fn a_table_says_what_it_lacks_and_a_suggestion_once() {
        let several = Row {
            is_at_least: true,
            sources: 2,
            source: None,
            interface: None,
            out: None,
            reason: None,
            port: None,
            resembles: None,
            ..row(10)
        };
        let text = found(vec![several, row(2)]).text();
        let want = "12 denied packets recorded since yesterday
packets  last     reason           from                to
    ≥10  0 s ago  several          2 sources           several
      2  0 s ago  forward-default  10.244.3.7 on cni0  80/tcp of 198.51.100.9 via eth0  \
                    looks like a pod of no declared overlay
and 1 more row; --limit 0 shows all
and 3 of rare sources that are no longer kept
denied and not recorded, because the log is limited: 8 forward-default
1 denied packet logged, but not read in time
If packet 10 is wanted, add to the policy:
    [a]
    b = 1
";
        assert_eq!(text, want);
    }

    #[test]
    fn many_suggestions_are_cut_short() {
        let rows = (0..8).map(|number| {
            let mut row = row(number);
            row.fixes[0].toml = format!("[a{number}]\n");
            row
        });
        let text = found(rows.collect()).text();
        assert!(
            text.ends_with("and 3 more suggestions; --json lists all\n"),
            "{text}"
        );
        assert_eq!(text.matches("add to the policy").count(), SUGGESTIONS_MAX);
        let followed = found(vec![row(2)]).lines();
        let want = "  2x forward-default  10.244.3.7 on cni0 → 80/tcp of 198.51.100.9 via eth0 \
                    (looks like a pod of no declared overlay)\n";
        assert!(followed.ends_with(want), "{followed}");
    }
}
