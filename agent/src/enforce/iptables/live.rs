//! Reads all rules of iptables, for import.

use peerwall_core::import::File;
use peerwall_core::iptables::observed;
use peerwall_core::net::addr::Family;

use super::tools::{self, run};
use super::{IptablesError, base, tool};

/// Reads the loaded rules of iptables, ip6tables and ipset. iptables-legacy and iptables-nft have
/// tables of their own, and packets pass both.
///
/// # Errors
/// [`IptablesError::Missing`] without iptables; [`IptablesError::Tool`] if rules exist that cannot
/// be read.
pub fn live() -> Result<Vec<File>, IptablesError> {
    let mut found: Vec<File> = Vec::new();
    let mut is_installed = false;
    for suffix in ["-legacy", "-nft", ""] {
        if suffix.is_empty() && is_installed {
            continue;
        }
        let of_suffix = variant(suffix)?;
        is_installed |= !of_suffix.is_empty();
        found.extend(of_suffix);
    }
    if !is_installed {
        return Err(IptablesError::Missing);
    }
    // An empty table is not printed: that family has nothing to import.
    found.retain(|file| file.text.contains("\n*"));
    if found.iter().any(decides) {
        found.retain(decides);
    } else {
        let first = found.first().map(|file| variant_of(&file.name).to_owned());
        found.retain(|file| Some(variant_of(&file.name)) == first.as_deref());
    }
    found.extend(sets());
    Ok(found)
}

/// Reads everything that iptables has loaded: the tables of both variants, and sets.
///
/// # Errors
/// [`IptablesError::Tool`] if rules exist that cannot be read.
pub fn saved() -> Result<(Vec<File>, Option<File>), IptablesError> {
    let mut found = variant("-legacy")?;
    found.extend(variant("-nft")?);
    if found.is_empty() {
        found = variant("")?;
    }
    found.retain(|file| file.text.contains("\n*"));
    Ok((found, sets()))
}

/// Runs `ipset save`; `None` without sets.
fn sets() -> Option<File> {
    let text = run("ipset", &["save"], None).ok()?;
    (!text.is_empty()).then(|| File {
        name: "ipset save".into(),
        text,
        family: None,
    })
}

/// Reads the tables of one variant; none if it is not installed or the kernel lacks it.
fn variant(suffix: &str) -> Result<Vec<File>, IptablesError> {
    let mut files = Vec::new();
    for family in Family::BOTH {
        let name = tool(base(family), suffix, "save");
        match run(&name, &[], None) {
            Ok(text) => files.push(File {
                name,
                text,
                family: Some(family),
            }),
            Err(err) if suffix == "-legacy" && has_legacy_tables(family) && !is_absent(&err) => {
                return Err(err);
            }
            Err(err) => log::debug!("{err}"),
        }
    }
    Ok(files)
}

fn is_absent(err: &IptablesError) -> bool {
    matches!(err, IptablesError::Tool { said, .. } if tools::is_missing(said))
}

/// Reports whether the kernel has tables of iptables-legacy.
fn has_legacy_tables(family: Family) -> bool {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(names).is_ok_and(|names| !names.trim().is_empty())
}

/// Returns `legacy-save`, `nft-save` or `save`.
fn variant_of(tool: &str) -> &str {
    tool.split_once('-').map_or("", |(_, variant)| variant)
}

/// Reports whether a file has more than empty chains that accept.
fn decides(file: &File) -> bool {
    let mut lines = file.text.lines();
    lines.any(|line| match line.strip_prefix(':') {
        Some(chain) => chain.split(' ').nth(1) == Some("DROP"),
        None => line.starts_with("-A") && !observed::is_ours(line),
    })
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
