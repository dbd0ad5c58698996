//! Messages of iptables-restore about lines that it does not load.

/// A failed run of iptables-restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Indices of the lines in the message, if it names any.
    pub lines: Vec<usize>,
    /// Whether iptables stopped at a line, before it loaded anything.
    pub is_syntax: bool,
    /// Whether the words are wrong for every kernel.
    pub is_usage: bool,
    /// The message.
    pub said: String,
}

/// Parts of messages about what this host lacks: a kernel module, an extension of iptables, a set,
/// or the address of a name.
const LACKS: [&str; 13] = [
    "ouldn't load",
    "kernel",
    "Kernel",
    "doesn't exist",
    "does not exist",
    "host/network",
    "No such file",
    "ermission",
    "not permitted",
    "socket",
    "protocol family",
    "not supported",
    "Memory",
];

impl Refusal {
    /// Reads a message. The lines of rules begin at line `first` of the input.
    pub(super) fn new(said: &str, first: usize, count: usize) -> Self {
        let index = |number: &str| {
            let number: usize = number.parse().ok()?;
            number.checked_sub(first).filter(|index| *index < count)
        };
        let syntax = |line: &str| index(line.strip_prefix("Error occurred at line: ")?.trim());
        let kernel = |line: &str| {
            let (number, rest) = line.strip_prefix("line ")?.split_once(": ")?;
            index(number).filter(|_| rest.contains("failed"))
        };
        let at: Vec<usize> = said.lines().filter_map(syntax).collect();
        let is_syntax = !at.is_empty();
        let lines = match is_syntax {
            true => at,
            false => said.lines().filter_map(kernel).collect(),
        };
        Self {
            lines,
            is_syntax,
            is_usage: is_syntax && !LACKS.iter().any(|part| said.contains(part)),
            said: message(said),
        }
    }
}

/// Returns the line with the reason, without the name of the program.
fn message(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let named = lines().find(|line| line.starts_with("ip") && line.contains("tables"));
    let line = named.or_else(|| lines().next()).unwrap_or_default();
    let is_program = |name: &str| name.contains("tables") && !name.contains('`');
    let reason = line.split_once(": ").filter(|(name, _)| is_program(name));
    reason.map_or(line, |(_, reason)| reason).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_lines_and_say_whether_the_words_are_wrong() {
        let help = "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n";
        for (said, lines, is_usage, message) in [
            (
                "iptables-restore v1.8.9 (nf_tables): unknown option \"--foo\"\n\
                 Error occurred at line: 6\n",
                vec![2],
                true,
                "unknown option \"--foo\"",
            ),
            (
                "iptables-restore v1.8.9 (nf_tables): Couldn't load match `a':No such file or \
                 directory\n\nError occurred at line: 4\n",
                vec![0],
                false,
                "Couldn't load match `a':No such file or directory",
            ),
            (
                "Warning: Extension CT revision 0 not supported, missing kernel module?\n\
                 iptables-restore v1.8.9 (nf_tables): \n\
                 line 5: RULE_APPEND failed (Invalid argument): rule in chain INPUT\n\
                 line 9: RULE_APPEND failed (Invalid argument): rule in chain INPUT\n",
                vec![1, 5],
                false,
                "iptables-restore v1.8.9 (nf_tables):",
            ),
            // The line of COMMIT, and that of a chain.
            (
                "iptables-restore: line 10 failed\n",
                vec![],
                false,
                "line 10 failed",
            ),
            (
                "iptables-restore v1.8.9 (legacy): Chain 'a' is wrong\nError occurred at line: 2\n",
                vec![],
                false,
                "Chain 'a' is wrong",
            ),
            (
                "Bad argument `x'\nError occurred at line: 5\n",
                vec![1],
                true,
                "Bad argument `x'",
            ),
        ] {
            let got = Refusal::new(&format!("{said}{help}"), 4, 6);
            assert_eq!((got.lines, got.is_usage), (lines, is_usage), "{said}");
            assert_eq!(got.said, message, "{said}");
        }
    }
}
