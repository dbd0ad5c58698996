//! Refuses files that are only a part of a firewall: without the rest, their policy would be open.

use super::ParsedFiles;
use crate::import::ImportError;
use crate::import::rule::{ImportedChain, ImportedRules, Paths, Verb};
use crate::net::addr::Family;

const HELP: &str = "import the complete rules (iptables-save, or --live as root), \
     or add --assume-accept: chains that no file declares then accept";

/// Returns what is missing of each family that the files have rules of.
pub(in crate::import) fn missing(parsed: &ParsedFiles) -> Vec<ImportError> {
    let of_family = |rules: &ImportedRules| {
        let why = lack(rules)?;
        let file = parsed.first_file(rules.family)?;
        let hint = match file.text.contains("is incompatible, use 'nft' tool") {
            true => "; iptables-save could not print it, because nft changed it",
            false => "",
        };
        Some(ImportError::whole(&file.name, format!("{why}{hint}"), HELP))
    };
    parsed.rules.iter().filter_map(of_family).collect()
}

fn lack(rules: &ImportedRules) -> Option<String> {
    let family = rules.family.digit();
    // Rulesets of nftables have base chains of any name.
    if rules.paths != Paths::of_iptables() {
        let is_of_iptables = rules.paths.input.iter().any(|name| name == "INPUT");
        let filters = rules
            .paths
            .input
            .iter()
            .any(|name| rules.filter.contains_key(name));
        return (is_of_iptables && !filters).then(|| missing_input(family));
    }
    match rules.filter.get("INPUT") {
        None => Some(missing_input(family)),
        Some(chain) if (chain.at.is_none() || chain.accepts.is_none()) && !decides(chain) => {
            Some(format!(
                "only a part of a firewall: no line declares the policy of the chain INPUT for IPv{family}"
            ))
        }
        Some(_) => None,
    }
}

fn missing_input(family: char) -> String {
    format!(
        "only a part of a firewall: the table filter with the chain INPUT is missing for IPv{family}"
    )
}

/// Reports whether no packet reaches the end of a chain.
fn decides(chain: &ImportedChain) -> bool {
    let last = chain.rules.last();
    last.is_some_and(|rule| {
        rule.conditions.is_empty()
            && matches!(rule.target, Verb::Accept | Verb::Drop | Verb::Reject)
    })
}

impl ParsedFiles {
    /// Returns the first file with rules of a family.
    fn first_file(&self, family: Family) -> Option<&crate::import::File> {
        let (_, index) = self.families.iter().find(|(of, _)| *of == family)?;
        self.files.get(*index)
    }
}
