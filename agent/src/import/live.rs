//! Reads all rules of this host: of both variants of iptables, and of nftables.

use std::collections::BTreeSet;

use peerwall_core::import::File;
use peerwall_core::import::nft::live::native_tables;
use peerwall_core::net::addr::Family;

use super::hidden;
use super::unread::{self, Unread};
use crate::enforce::iptables::{self, IptablesError, tools};
use crate::enforce::nft::answer::is_missing;
use crate::kernel::netlink::NetlinkError;

/// Name of the file with rules of nftables.
const NAME: &str = "nft list ruleset";

/// Error of rules that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Rules of iptables cannot be read, or there is neither iptables nor a table of nftables.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// The kernel does not list its tables, which may drop packets.
    #[error("cannot list the tables of nf_tables: {0}")]
    Netlink(#[from] NetlinkError),
}

/// Reads the loaded rules.
///
/// # Errors
/// [`LiveError`] if some rules cannot be read.
pub fn files() -> Result<Vec<File>, LiveError> {
    let tables = match unread::tables() {
        Err(err) if is_missing(&err) => Vec::new(),
        tables => tables?,
    };
    let mut files = match iptables::live() {
        Err(IptablesError::Missing) if !tables.is_empty() => Vec::new(),
        files => files?,
    };
    if tables.is_empty() {
        return Ok(files);
    }
    let prints = |family: &str, name: &str| {
        let mut of_nft = files.iter().filter(|file| is_of_nft(file, family));
        of_nft.any(|file| {
            file.text
                .lines()
                .any(|line| line.strip_prefix('*') == Some(name))
        })
    };
    let Unread {
        listing,
        of_iptables,
    } = match listing() {
        Some(text) => {
            let native = native_tables(&file(text), prints).map_err(|err| IptablesError::Tool {
                tool: "nft".into(),
                said: err.to_string(),
            })?;
            Unread {
                listing: native.listing,
                of_iptables: native.of_iptables,
            }
        }
        None => unread::unread(&tables, prints),
    };
    for file in &mut files {
        for family in ["ip", "ip6"] {
            if is_of_nft(file, family) {
                file.text = only(&file.text, family, &of_iptables);
            }
        }
    }
    files.retain(|file| file.family.is_none() || file.text.contains("\n*"));
    files.extend(listing.map(file));
    Ok(files)
}

fn file(text: String) -> File {
    File {
        name: NAME.into(),
        text,
        family: None,
    }
}

/// Lists the ruleset with nft; `None` without nft, or if it fails.
fn listing() -> Option<String> {
    let run = |args: &[&str]| {
        let output = tools::run_other("nft", args);
        output.inspect_err(|err| log::debug!("{err}")).ok()
    };
    let json = run(&["-j", "list", "ruleset"])?;
    let text = run(&["-a", "list", "ruleset"])?;
    let instructions = run(&["--debug=netlink", "list", "ruleset"])?;
    let json = hidden::complete(&json, &instructions).unwrap_or(json);
    Some(format!("{}\n{text}", json.trim_end()))
}

/// Reports whether a file is output of iptables-nft for a family.
fn is_of_nft(file: &File, family: &str) -> bool {
    let of = match family {
        "ip" => Some(Family::V4),
        "ip6" => Some(Family::V6),
        _ => None,
    };
    let is_nft = file.name.contains("-nft-") || file.text.contains("(nf_tables) on ");
    of.is_some() && file.family == of && is_nft
}

/// Removes the tables that iptables-save does not print completely.
fn only(text: &str, family: &str, of_iptables: &BTreeSet<(String, String)>) -> String {
    let mut kept = String::new();
    let mut keeps = true;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            keeps = of_iptables.contains(&(family.to_owned(), name.to_owned()));
        }
        if keeps || line.starts_with('#') {
            kept.push_str(line);
            kept.push('\n');
        }
        if line == "COMMIT" {
            keeps = true;
        }
    }
    kept
}
