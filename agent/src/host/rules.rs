//! Reads all rules that this host has loaded, of any program: nf_tables by netlink, and tables of
//! iptables as its own tools print them.

use std::sync::Arc;

use peerwall_core::explain::live::{Printed, Rules};
use peerwall_core::import::{File, saved};
use peerwall_core::net::addr::Family;
use peerwall_core::nft::foreign::Engine;
use peerwall_core::nft::foreign::printed::is_table_printed;
use peerwall_core::nft::machine::KernelTables;
use peerwall_proto::nf_tables::{NFPROTO_IPV4, NFPROTO_IPV6};

use crate::enforce::iptables::{self, IptablesError};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::tables;

/// Error of rules that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The kernel does not list its tables.
    #[error("cannot read the tables of nf_tables: {0}")]
    Netlink(#[from] NetlinkError),
    /// iptables does not list its tables.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
}

/// Reads all rules. Tables that iptables-nft does not print completely are instructions of
/// nf_tables.
///
/// # Errors
/// [`RulesError`] if some rules cannot be read.
pub fn read() -> Result<Rules, RulesError> {
    with_printed(tables::read()?)
}

/// Reads all rules, and the tables of nf_tables also where iptables-nft prints them.
///
/// # Errors
/// [`RulesError`] if some rules cannot be read.
pub fn read_with_printed() -> Result<(KernelTables, Rules), RulesError> {
    let all = tables::read()?;
    let rules = with_printed(all.clone())?;
    Ok((all, rules))
}

/// Replaces tables by those that iptables prints.
fn with_printed(tables: KernelTables) -> Result<Rules, RulesError> {
    let mut rules = Rules {
        tables,
        printed: Vec::new(),
    };
    let (files, sets) = iptables::saved()?;
    for file in &files {
        let engine = match is_legacy(file) {
            true => Engine::IptablesLegacy,
            false => Engine::IptablesNft,
        };
        let lines: Arc<[String]> = file.text.lines().map(str::to_owned).collect();
        for table in saved::tables(file, sets.as_ref()) {
            let (family, name) = match table.family {
                Family::V4 => (NFPROTO_IPV4, "ip"),
                Family::V6 => (NFPROTO_IPV6, "ip6"),
            };
            if engine == Engine::IptablesNft {
                let native = rules.tables.find(family, &table.name);
                if native.is_some_and(|native| !is_table_printed(name, native)) {
                    continue;
                }
                rules.tables.remove(family, &table.name);
            }
            rules.printed.push(Printed {
                engine,
                table,
                lines: Arc::clone(&lines),
            });
        }
    }
    Ok(rules)
}

/// Reports whether a file is output of iptables-legacy, by its tool's name or its head.
fn is_legacy(file: &File) -> bool {
    let is_nft = file.name.contains("-nft-") || file.text.contains("(nf_tables)");
    file.name.contains("legacy") || !is_nft
}
