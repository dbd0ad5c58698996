//! Lines that iptables may load in a namespace: without effects outside of it.

use peerwall_core::import::canonical::RuleLine;
use peerwall_proto::iptables::BUILTIN;

/// Maximum length of a line; iptables-restore splits lines of 10,240 bytes.
const LINE_MAX_BYTES: usize = 10_000;
/// Targets with state that all network namespaces share.
const GLOBAL_TARGETS: [&str; 2] = ["IDLETIMER", "LED"];
/// Short options that take the rest of their word.
const JOINED: &str = "sdpiojgmc";
/// Options with the name of a set.
const SET_OPTIONS: [&str; 5] = [
    "--match-set",
    "--set",
    "--add-set",
    "--del-set",
    "--map-set",
];
/// Options with addresses for which iptables asks a name server.
const ADDRESS_OPTIONS: [&str; 4] = ["--source", "--src", "--destination", "--dst"];
/// Beginnings of further ones.
const MORE_ADDRESSES: [&str; 5] = ["--ctorig", "--ctrepl", "--tunnel-", "--gateway", "--to-"];

/// Reports whether a chain can be declared in a table.
pub(super) fn is_chain(table: &str, name: &str) -> bool {
    if BUILTIN.contains(&name) {
        return hooks(table).contains(&name);
    }
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '#');
    !name.is_empty()
        && name.len() <= 28
        && name.chars().all(is_plain)
        && !name.starts_with(['-', '!', '[', ':', '*'])
}

fn hooks(table: &str) -> &'static [&'static str] {
    match table {
        "filter" | "security" => &["INPUT", "FORWARD", "OUTPUT"],
        "nat" => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        "raw" => &["PREROUTING", "OUTPUT"],
        _ => &BUILTIN,
    }
}

/// Reports whether iptables may load a line.
pub(super) fn may_load(table: &str, line: &RuleLine) -> bool {
    let words = &line.words;
    let length: usize = words.iter().map(|word| word.len() + 3).sum();
    // An empty word gets lost, and a line break would begin a line of its own.
    let is_plain = |word: &String| !word.is_empty() && !word.chars().any(char::is_control);
    let is_global = |word: &String| GLOBAL_TARGETS.contains(&word.as_str());
    is_chain(table, &line.chain)
        && length <= LINE_MAX_BYTES
        && words.iter().all(is_plain)
        && !words
            .iter()
            .any(|word| may_name_program(word) || is_global(word))
        && !names_host(words)
}

/// Reports whether a word may be `--modprobe` or its short form: iptables runs the argument.
fn may_name_program(word: &str) -> bool {
    let option = word.split('=').next().unwrap_or_default();
    if option.starts_with("--") {
        return option.len() > 3 && "--modprobe".starts_with(option);
    }
    // Options without a value can be joined with it, like `-vM`.
    let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
    match (letters.next(), letters.next()) {
        (None, _) => false,
        (Some(letter), None) => letter == 'M',
        (Some(letter), Some(_)) => !JOINED.contains(letter),
    }
}

/// Reports whether an address may be the name of a host, which iptables would resolve.
fn names_host(words: &[String]) -> bool {
    let value_after = |at: usize| words[at + 1..].iter().find(|word| *word != "!");
    words.iter().enumerate().any(|(at, word)| {
        if let Some((option, value)) = word.split_once('=') {
            return takes_addresses(option) && is_name(value);
        }
        if word.len() > 2 && (word.starts_with("-s") || word.starts_with("-d")) {
            return is_name(&word[2..]);
        }
        takes_addresses(word) && value_after(at).is_some_and(|value| is_name(value))
    })
}

fn takes_addresses(option: &str) -> bool {
    let is_short = matches!(option, "-s" | "-d");
    let is_abbreviation = |full: &str| option.len() > 2 && full.starts_with(option);
    let is_long =
        option.starts_with("--") && ADDRESS_OPTIONS.iter().any(|full| is_abbreviation(full));
    is_short || is_long || MORE_ADDRESSES.iter().any(|start| option.starts_with(start))
}

/// Reports whether a list has an element that is neither an address nor a number.
fn is_name(list: &str) -> bool {
    let is_numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | '/' | '-' | ' ');
    let mut each = list.split(',');
    each.any(|each| !each.contains(':') && !each.chars().all(is_numeric))
}

/// Returns the names of the sets that lines use.
pub(super) fn sets(lines: &[RuleLine]) -> Vec<String> {
    let mut found = Vec::new();
    for line in lines {
        for pair in line.words.windows(2) {
            if let [option, name] = pair
                && SET_OPTIONS.contains(&option.as_str())
                && is_set(name)
            {
                found.push(name.clone());
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Reports whether a set can have this name.
pub(super) fn is_set(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    !name.starts_with('-') && name.len() <= 31 && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerwall_core::import::File;
    use peerwall_core::import::canonical::tables;

    fn lines(text: &str) -> Vec<RuleLine> {
        let file = File {
            name: "rules".into(),
            text: format!("*filter\n{text}\nCOMMIT\n"),
            family: Some(peerwall_core::net::addr::Family::V4),
        };
        tables(&[file]).remove(0).lines
    }

    #[test]
    fn lines_that_run_programs_ask_servers_or_change_the_host_are_not_loaded() {
        for (line, may) in [
            ("-p tcp --dport ssh -j ACCEPT", true),
            (
                "-m statistic --mode random --probability 0.5 -j ACCEPT",
                true,
            ),
            ("-jMASQUERADE", true),
            ("-s10.0.0.1 ! -d 10.0.0.0/8,192.0.2.1 -j ACCEPT", true),
            ("-m addrtype --dst-type LOCAL -j ACCEPT", true),
            ("-m conntrack --ctorigdst 10.0.0.1 -j ACCEPT", true),
            ("-M /tmp/program -j ACCEPT", false),
            ("-M/tmp/program -j ACCEPT", false),
            ("-vM /tmp/program -j ACCEPT", false),
            ("-fM/tmp/program -j ACCEPT", false),
            ("--modprobe=/tmp/program -j ACCEPT", false),
            ("--mo /tmp/program -j ACCEPT", false),
            ("-s host.example -j ACCEPT", false),
            ("-s ! host.example -j ACCEPT", false),
            ("-shost -j ACCEPT", false),
            ("--sour=host.example -j ACCEPT", false),
            ("--dst 10.0.0.1,host -j ACCEPT", false),
            ("-m conntrack --ctorigdst host.example -j ACCEPT", false),
            ("-j LED --led-trigger-id a", false),
            ("-j IDLETIMER --timeout 5 --label a", false),
            ("-m comment --comment \"\" -j ACCEPT", false),
        ] {
            let all = lines(&format!("-A INPUT {line}"));
            assert_eq!(may_load("filter", &all[0]), may, "{line}");
        }
    }

    #[test]
    fn chains_that_would_break_the_input_are_not_declared() {
        for (table, chain, may) in [
            ("filter", "INPUT", true),
            ("filter", "PREROUTING", false),
            ("nat", "PREROUTING", true),
            ("mangle", "FORWARD", true),
            ("filter", "f2b-sshd", true),
            ("filter", "a\nCOMMIT", false),
            ("filter", "-x", false),
            ("filter", "a-name-of-more-than-28-letters", false),
        ] {
            assert_eq!(is_chain(table, chain), may, "{table} {chain}");
        }
    }

    #[test]
    fn sets_are_found_by_their_options() {
        let all = lines(
            "-A INPUT -m set --match-set b src -j DROP\n-A INPUT -m set ! --match-set a,x src\n\
             -A INPUT -j SET --add-set c src\n-A INPUT -m set --match-set b dst -j DROP",
        );
        assert_eq!(sets(&all), ["b", "c"]);
    }
}
