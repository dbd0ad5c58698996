//! Detects the format of a file by its content.

use peerwall_proto::ipset::{self, SetLine};
use peerwall_proto::iptables::{TABLES, script};

use crate::import::{File, nft};

/// A format of files to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Output of iptables-save, or input of iptables-restore.
    Save,
    /// Output of `iptables -S`.
    Listing,
    /// A script of iptables commands.
    Script,
    /// Commands of a cloud-config.
    Commands,
    /// Output of `ipset save`.
    Sets,
    /// Output of `nft -j list ruleset`.
    Ruleset,
    /// A cloud-config.
    CloudConfig,
    /// Butane or Container Linux Config.
    Storage,
    /// Ignition.
    Ignition,
}

/// Detects a format.
///
/// # Errors
/// What the file seems to be.
pub(super) fn format(text: &str) -> Result<Format, &'static str> {
    let content = || {
        text.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
    };
    if nft::is_listing(text) {
        return Ok(Format::Ruleset);
    }
    if text.trim_start().starts_with('{') {
        return match text.contains("\"ignition\"") {
            true => Ok(Format::Ignition),
            false => Err("it is JSON, but neither an Ignition config nor output of `nft -j`"),
        };
    }
    let has_key = |key: &str| text.lines().any(|line| line.trim_end() == key);
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    if first.starts_with("#cloud-config") || has_key("write_files:") || has_key("write-files:") {
        return Ok(Format::CloudConfig);
    }
    if has_key("storage:") || text.lines().any(|line| line.starts_with("variant:")) {
        return Ok(Format::Storage);
    }
    let is_table = |line: &str| {
        line.strip_prefix('*')
            .is_some_and(|name| TABLES.contains(&name))
    };
    if content().any(is_table) {
        return Ok(match script::has_tables_in_documents(text) {
            true => Format::Script,
            false => Format::Save,
        });
    }
    let creates = |line| matches!(ipset::line(line), SetLine::Create { .. });
    if content()
        .next()
        .is_some_and(|line| ipset::line(line) != SetLine::Other)
        && content().any(creates)
    {
        return Ok(Format::Sets);
    }
    if script::is_listing(text) {
        return Ok(Format::Listing);
    }
    if script::is_script(text) {
        return Ok(Format::Script);
    }
    let is_nft = |line: &str| line.starts_with("table ") || line.starts_with("flush ruleset");
    let calls_nft = |line: &str| line.split_whitespace().any(|word| word == "nft");
    Err(if content().next().is_none() {
        "it has no lines besides comments"
    } else if content().any(calls_nft) {
        "it is a script that calls nft, whose commands in scripts are not read"
    } else if content().any(is_nft) {
        "it is a ruleset of nftables"
    } else {
        "it is not a file of firewall rules"
    })
}

/// Returns the format of a configuration of a machine; `None` for other files.
pub(super) fn configuration(file: &File) -> Option<Format> {
    let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
    let found = format(text).ok()?;
    let is_configuration = matches!(
        found,
        Format::CloudConfig | Format::Storage | Format::Ignition
    );
    is_configuration.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_tells_the_format() {
        for (text, wanted) in [
            ("# c\n*filter\nCOMMIT\n", Ok(Format::Save)),
            ("-P INPUT DROP\n-A INPUT -j DROP\n", Ok(Format::Listing)),
            (
                "#!/bin/sh\nset -e\niptables -A INPUT -j DROP\n",
                Ok(Format::Script),
            ),
            ("IPT=iptables\n$IPT -A INPUT -j DROP\n", Ok(Format::Script)),
            ("create a hash:ip\nadd a 192.0.2.1\n", Ok(Format::Sets)),
            ("flush a\ncreate a hash:ip\n", Ok(Format::Sets)),
            ("#cloud-config\nhostname: a\n", Ok(Format::CloudConfig)),
            ("write_files:\n", Ok(Format::CloudConfig)),
            ("variant: fcos\nversion: 1.4.0\n", Ok(Format::Storage)),
            ("storage:\n  files:\n", Ok(Format::Storage)),
            ("{\"ignition\": {}}", Ok(Format::Ignition)),
            (
                "{}",
                Err("it is JSON, but neither an Ignition config nor output of `nft -j`"),
            ),
            ("table inet a {\n}\n", Err("it is a ruleset of nftables")),
            ("hello", Err("it is not a file of firewall rules")),
            ("# hello", Err("it has no lines besides comments")),
        ] {
            assert_eq!(format(text), wanted, "{text}");
        }
    }
}
