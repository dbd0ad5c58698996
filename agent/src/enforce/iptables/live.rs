//! Reads all rules of iptables, for import.

use peerwall_core::import::File;
use peerwall_core::iptables::observed;
use peerwall_core::net::addr::Family;

use super::tools::{self, run};
use super::{IptablesError, base, tool};

/// Reads the loaded rules of iptables, ip6tables and ipset.
///
/// # Errors
/// [`IptablesError::Missing`] without iptables; [`IptablesError::Tool`] if both iptables-legacy and
/// iptables-nft have rules.
pub fn live() -> Result<Vec<File>, IptablesError> {
    let mut found: Vec<(&str, Vec<File>)> = Vec::new();
    for suffix in ["-legacy", "-nft", ""] {
        if suffix.is_empty() && !found.is_empty() {
            continue;
        }
        let mut files = Vec::new();
        for family in Family::BOTH {
            let tool = tool(base(family), suffix, "save");
            if let Ok(text) = run(&tool, &[], None) {
                files.push(File {
                    name: tool,
                    text,
                    family: Some(family),
                });
            }
        }
        if !files.is_empty() {
            found.push((suffix, files));
        }
    }
    let has_rules = |files: &[File]| {
        let mut lines = files.iter().flat_map(|file| file.text.lines());
        lines.any(|line| line.starts_with("-A") && !observed::is_ours(line))
    };
    let with_rules = found.iter().filter(|(_, files)| has_rules(files)).count();
    if with_rules > 1 {
        return Err(IptablesError::Tool {
            tool: "iptables-save".into(),
            said: "both iptables-legacy and iptables-nft hold rules; \
                save them to files, and give those"
                .into(),
        });
    }
    let chosen = found
        .iter()
        .position(|(_, files)| has_rules(files))
        .unwrap_or(0);
    if found.is_empty() {
        return Err(IptablesError::Missing);
    }
    let (_, mut files) = found.swap_remove(chosen);
    // An empty table is not printed: that family has nothing to import.
    files.retain(|file| file.text.contains("\n*"));
    if let Ok(text) = run("ipset", &["save"], None)
        && !text.is_empty()
    {
        files.push(File {
            name: "ipset save".into(),
            text,
            family: None,
        });
    }
    Ok(files)
}

/// Reads an existing table of iptables-legacy.
///
/// # Errors
/// [`IptablesError::Tool`] if iptables-legacy is not installed.
pub fn save_legacy(family: Family, table: &str) -> Result<String, IptablesError> {
    let own = tool(base(family), "-legacy", "save");
    match run(&own, &["-t", table], None) {
        // A single iptables has no suffix.
        Err(IptablesError::Tool { said, .. })
            if tools::is_missing(&said)
                && run(base(family), &["--version"], None)
                    .is_ok_and(|version| !version.contains("nf_tables")) =>
        {
            run(&tool(base(family), "", "save"), &["-t", table], None)
        }
        saved => saved,
    }
}
