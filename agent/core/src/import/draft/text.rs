//! Formats the policy as TOML.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::{DraftAllow, EntryLines, From, PolicyDraft};
use crate::net::addr::{self, Family};
use crate::policy::icmp;

/// Maximum length of a list on one line. Longer lists become groups where possible.
pub(super) const LIST_MAX: usize = 8;

impl PolicyDraft {
    /// Returns the lines of each allow, and of `ping`.
    pub(in crate::import) fn entry_lines(&self) -> EntryLines {
        let allows = self.allows.iter();
        EntryLines {
            allows: allows.map(|allow| allow.lines.as_slice().into()).collect(),
            ping: self.ping_lines.clone(),
        }
    }

    /// Formats the policy.
    pub(in crate::import) fn text(&self, head: &str) -> String {
        let mut out = format!("{head}version = 1\n");
        if !self.peers.is_empty() {
            out.push_str(
                "\n\
                 # Machines that may reach this host, and go through it, on every port.\n\
                 [peers]\n",
            );
            let width = self
                .peers
                .iter()
                .filter_map(|p| p.name.as_ref())
                .map(|n| key(n).len())
                .max();
            for peer in &self.peers {
                let name = key(peer.name.as_deref().unwrap_or_default());
                let _ = writeln!(
                    out,
                    "{name:<width$} = {}",
                    list(&peer.addresses),
                    width = width.unwrap_or(0)
                );
            }
        }
        if !self.groups.is_empty() {
            out.push_str(
                "\n# Address lists for `from`. They are not trusted on their own.\n[groups]\n",
            );
            for (name, nets) in &self.groups {
                let _ = writeln!(out, "{} = {}", key(name), list(nets));
            }
        }
        for overlay in &self.overlays {
            let names: Vec<String> = overlay
                .interfaces
                .iter()
                .map(|i| text(&i.to_string()))
                .collect();
            let subnets: Vec<String> = overlay
                .subnets
                .iter()
                .map(|net| text(&net.to_string()))
                .collect();
            let _ = write!(
                out,
                "\n[overlay.{}]\nbackend    = \"{}\"\nsubnets    = [{}]\ninterfaces = [{}]\n",
                key(&overlay.name),
                overlay.backend,
                subnets.join(", "),
                names.join(", ")
            );
        }
        for allow in &self.allows {
            self.allow_text(allow, &mut out);
        }
        if !self.trusted.is_empty() || !self.guests.is_empty() {
            out.push_str("\n[interfaces]\n");
        }
        for (key, patterns) in [("trusted", &self.trusted), ("guests", &self.guests)] {
            let names: Vec<String> = patterns.iter().map(|i| text(&i.to_string())).collect();
            if !names.is_empty() {
                let _ = writeln!(out, "{key} = [{}]", names.join(", "));
            }
        }
        self.icmp_text(&mut out);
        if self.reject {
            out.push_str("\n[options]\ndenied = \"reject\"\n");
        }
        out
    }

    fn allow_text(&self, allow: &DraftAllow, out: &mut String) {
        let _ = write!(out, "\n[[allow]]\nname  = {}\n", text(&allow.name));
        if let Some(ports) = &allow.ports {
            let ports: Vec<String> = ports.iter().map(|port| text(port)).collect();
            let _ = writeln!(out, "ports = [{}]", ports.join(", "));
        }
        let _ = writeln!(out, "from  = {}", self.who_text(&allow.from));
        if let Some(ports) = &allow.from_ports {
            let ports: Vec<String> = ports.iter().map(|port| text(port)).collect();
            let _ = writeln!(out, "from_ports = [{}]", ports.join(", "));
        }
        if !allow.to.is_empty() {
            let _ = writeln!(out, "to    = {}", list(&allow.to));
        }
        if !allow.interfaces.is_empty() {
            let names: Vec<String> = allow
                .interfaces
                .iter()
                .map(|i| text(&i.to_string()))
                .collect();
            let _ = writeln!(out, "interfaces = [{}]", names.join(", "));
        }
    }

    fn who_text(&self, from: &From) -> String {
        let nets = match from {
            From::Any => return text("any"),
            From::Nets(nets) => nets,
        };
        let group = self.groups.iter().find(|(_, of)| of == nets);
        group.map_or_else(|| list(nets), |(name, _)| text(name))
    }

    fn icmp_text(&self, out: &mut String) {
        let mut lines = Vec::new();
        for (key, family, types) in [
            ("v4", Family::V4, &self.icmp[0]),
            ("v6", Family::V6, &self.icmp[1]),
        ] {
            if types.all {
                lines.push(format!("{key} = \"all\""));
            } else if !types.some.is_empty() {
                let names: Vec<String> = types
                    .some
                    .iter()
                    .map(|kind| icmp::name(family, *kind).map_or_else(|| kind.to_string(), text))
                    .collect();
                lines.push(format!("{key} = [{}]", names.join(", ")));
            }
        }
        lines.extend(
            self.ping
                .as_ref()
                .map(|from| format!("ping = {}", self.who_text(from))),
        );
        if !lines.is_empty() {
            let _ = write!(out, "\n[icmp]\n{}\n", lines.join("\n"));
        }
    }
}

fn list(nets: &[IpNet]) -> String {
    let words: Vec<String> = nets.iter().map(|net| text(&addr::short(*net))).collect();
    match &words[..] {
        [one] => one.clone(),
        _ if words.len() > LIST_MAX => format!("[\n    {},\n]", words.join(",\n    ")),
        _ => format!("[{}]", words.join(", ")),
    }
}

fn text(text: &str) -> String {
    format!("\"{text}\"")
}

/// Formats a key, without quotes if possible.
fn key(name: &str) -> String {
    match name.contains('.') {
        true => text(name),
        false => name.to_owned(),
    }
}
