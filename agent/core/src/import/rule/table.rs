//! Parses the chains of a table in iptables-save's format.

use peerwall_proto::iptables;

use super::graph::circles;
use super::words::read;
use super::{At, ImportedChain, ImportedChains, ImportedSets};
use crate::net::addr::Family;

/// An invalid rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::import) struct RuleError {
    pub line: usize,
    pub why: String,
    pub help: &'static str,
}

/// Parses the chains of a table.
pub(in crate::import) fn chains(
    table: &iptables::Table,
    family: Family,
    input: usize,
    sets: &ImportedSets,
) -> Result<ImportedChains, Vec<RuleError>> {
    let mut chains = ImportedChains::new();
    for chain in &table.chains {
        let accepts = chain.policy.as_deref().map(|policy| policy == "ACCEPT");
        let at = At {
            input,
            line: chain.line,
        };
        let chain_of_ours = ImportedChain {
            accepts,
            at: Some(at),
            rules: Vec::new(),
        };
        chains.insert(chain.name.clone(), chain_of_ours);
    }
    let mut errors = Vec::new();
    for rule in &table.rules {
        let at = At {
            input,
            line: rule.line,
        };
        match read(&rule.words, family, at, sets) {
            Err((why, help)) => errors.push(RuleError {
                line: rule.line,
                why,
                help,
            }),
            Ok(read) => {
                let chain = chains.entry(rule.chain.clone()).or_insert(ImportedChain {
                    accepts: Some(true),
                    at: None,
                    rules: Vec::new(),
                });
                let at = match rule.position {
                    iptables::Position::Append => chain.rules.len(),
                    iptables::Position::Insert(at) => at.saturating_sub(1).min(chain.rules.len()),
                };
                chain.rules.insert(at, read);
            }
        }
    }
    errors.extend(unknown_chains(&chains));
    match errors.is_empty() {
        true => Ok(chains),
        false => Err(errors),
    }
}

/// Finds jumps to missing chains, and cycles of jumps.
fn unknown_chains(chains: &ImportedChains) -> Vec<RuleError> {
    let mut errors = Vec::new();
    for chain in chains.values() {
        for rule in &chain.rules {
            if let Some(to) = rule.target.chain()
                && !chains.contains_key(to)
            {
                errors.push(RuleError {
                    line: rule.at.line,
                    why: format!("`{to}` is neither a chain of this table nor a target"),
                    help: "declare a user-defined chain by a line like `:NAME - [0:0]`",
                });
            }
        }
    }
    for name in circles(chains) {
        let at = chains.get(name).and_then(|chain| chain.at);
        errors.push(RuleError {
            line: at.map_or(1, |at| at.line),
            why: format!("the chain {name} jumps back to itself"),
            help: "remove the cycle; iptables-restore rejects it",
        });
    }
    errors
}
