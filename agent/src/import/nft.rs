//! Reads files for `nft -f`: nft itself loads them in a private network namespace and lists them.
//!
//! The format has variables, includes, services by name and several spellings of most statements.
//! nft resolves all of them as it does on the host.

use std::io;
use std::process::Output;

use super::{hidden, private};

/// Maximum number of attempts. Each shows the names of further interfaces.
const ATTEMPTS_MAX: usize = 32;
/// Exit code of the script without nft.
const MISSING: i32 = 41;

/// Creates the interfaces in the arguments, loads standard input, and lists the ruleset.
const SCRIPT: &str = r#"
command -v nft >/dev/null || exit 41
ip link set lo up </dev/null 2>/dev/null
for name; do
  ip link add "$name" type dummy </dev/null 2>/dev/null ||
    ip link add "$name" type bridge </dev/null 2>/dev/null
done
nft -f - && nft -j list ruleset </dev/null && echo && nft -a list ruleset </dev/null &&
  printf '\f\n' && nft --debug=netlink list ruleset </dev/null
"#;

/// Error of a file that nft cannot load.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// nft is missing.
    #[error(
        "{0}: nft is not installed, and only nft can read this file; on a host with these rules, \
         run `(nft -j list ruleset; nft -a list ruleset) > rules` and import that file"
    )]
    Missing(String),
    /// nft rejected the file.
    #[error(
        "{file}: nft cannot load this file here:\n{said}\non a host with these rules, run \
         `(nft -j list ruleset; nft -a list ruleset) > rules` and import that file"
    )]
    Rejected {
        /// The file.
        file: String,
        /// Messages of nft.
        said: String,
    },
    /// nft does not list the file's sets as they are.
    #[error(
        "{0}: `\\*` in a set: nft lists such a name like a pattern; write the name with a rule of \
         its own, or without the star"
    )]
    Ambiguous(String),
    /// nft cannot be run in a namespace of its own.
    #[error("{file}: cannot run nft in a private network namespace: {source}")]
    NotRun {
        /// The file.
        file: String,
        /// Cause.
        source: io::Error,
    },
}

/// Loads a file and returns its ruleset: JSON, then the listing with handles.
///
/// # Errors
/// [`NftError`] if nft is missing or rejects the file.
pub fn listing(file: &str, text: &str) -> Result<String, NftError> {
    let mut interfaces = devices(text);
    for _ in 0..ATTEMPTS_MAX {
        let output = private::run(SCRIPT, &interfaces, text);
        let output = output.map_err(|source| NftError::NotRun {
            file: file.to_owned(),
            source,
        })?;
        if output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            if text.contains("\\*") && has_pattern(&said) {
                return Err(NftError::Ambiguous(file.to_owned()));
            }
            return Ok(with_hidden(&String::from_utf8_lossy(&output.stdout)));
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let known = interfaces.len();
        for name in missing_interfaces(&said) {
            if !interfaces.contains(&name) {
                interfaces.push(name);
            }
        }
        if interfaces.len() == known {
            return Err(error(file, &output, &said));
        }
    }
    Err(NftError::Rejected {
        file: file.to_owned(),
        said: "it names too many interfaces".to_owned(),
    })
}

/// Reports whether JSON has a text that ends in a star which is not escaped.
fn has_pattern(json: &str) -> bool {
    let mut ends = json.match_indices("*\"");
    ends.any(|(at, _)| !json.get(..at).unwrap_or_default().ends_with('\\'))
}

/// Returns the JSON and the listing in the output of the script. The JSON also has what nft leaves
/// out.
fn with_hidden(output: &str) -> String {
    let (all, instructions) = output.rsplit_once("\x0c\n").unwrap_or((output, ""));
    let (json, listing) = all.split_once('\n').unwrap_or((all, ""));
    match hidden::complete(json, instructions) {
        Some(json) => format!("{json}\n{listing}"),
        None => all.to_owned(),
    }
}

fn error(file: &str, output: &Output, said: &str) -> NftError {
    if output.status.code() == Some(MISSING) {
        return NftError::Missing(file.to_owned());
    }
    NftError::Rejected {
        file: file.to_owned(),
        said: said.replace("/dev/stdin", file).trim_end().to_owned(),
    }
}

/// Returns the interfaces that nft misses: the marked part of the line after each message.
fn missing_interfaces(said: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        let Some(place) = line.strip_suffix(": Error: Interface does not exist") else {
            continue;
        };
        let columns = place.rsplit(':').next().and_then(|c| c.split_once('-'));
        let Some((Ok(first), Ok(last))) =
            columns.map(|(first, last)| (first.parse::<usize>(), last.parse::<usize>()))
        else {
            continue;
        };
        let marked = lines.next().unwrap_or_default();
        let name = marked.get(first.saturating_sub(1)..last);
        found.extend(name.and_then(interface));
    }
    found
}

/// Returns the devices of flowtables and ingress chains, which must exist.
fn devices(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let spaced = text.replace(['{', '}', ',', ';', '='], " ");
    for line in spaced.lines() {
        let mut words = line.split_whitespace();
        let at = words.find(|word| ["device", "devices"].contains(word));
        let Some(kind) = at else { continue };
        let count = if kind == "device" { 1 } else { usize::MAX };
        for word in words.take(count) {
            let names = match word.strip_prefix('$') {
                Some(variable) => defined(&spaced, variable),
                None => vec![word.to_owned()],
            };
            found.extend(names.iter().filter_map(|name| interface(name)));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Returns the words of a variable.
fn defined(spaced: &str, variable: &str) -> Vec<String> {
    for line in spaced.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("define") && words.next() == Some(variable) {
            return words.map(str::to_owned).collect();
        }
    }
    Vec::new()
}

fn interface(text: &str) -> Option<String> {
    let name = text.trim_matches('"');
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    let is_valid = !name.is_empty() && name.len() <= 15 && name.chars().all(is_name);
    (is_valid && !name.starts_with('-') && name != "lo").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_of_messages_and_devices_are_found() {
        let said = "/dev/stdin:4:7-12: Error: Interface does not exist\n\
                    \t\tiif \"wan0\" accept\n\
                    \t\t    ^^^^^^\n\
                    /dev/stdin:9:1-3: Error: syntax error, unexpected iif\n\
                    \tiif\n\
                    inc.nft:5:9-12: Error: Interface does not exist\n\
                    \t\toif { lan1 } drop\n";
        // The columns count the tabs as one byte each.
        assert_eq!(missing_interfaces(said), ["wan0", "lan1"]);
        for (text, want) in [
            ("hook ingress device eth0 priority 0;", vec!["eth0"]),
            ("devices = { eth1, \"eth0\" };", vec!["eth0", "eth1"]),
            ("define W = { a0, a1 }\ndevices = $W", vec!["a0", "a1"]),
            ("devices = { lo, -x, $(reboot) };", vec![]),
            ("iif eth0 accept", vec![]),
        ] {
            assert_eq!(devices(text), want, "{text}");
        }
    }
}
