//! Options of iptables, its matches and its targets, and how `getopt_long` finds them.
//!
//! Sources: `original_opts` in `iptables/iptables.c`, `xtables_merge_options()` in
//! `libxtables/xtables.c`, and `getopt_long(3)` for abbreviations.

/// An option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opt {
    /// Name without dashes.
    pub name: &'static str,
    /// The option that this name stands for: itself, unless it is an alias.
    pub key: &'static str,
    /// Number of values.
    pub values: usize,
    /// Whether `!` may precede it.
    pub inverts: bool,
    /// Whether it may be repeated.
    pub repeats: bool,
}

/// An option without a value.
pub(super) const fn flag(name: &'static str) -> Opt {
    Opt {
        name,
        key: name,
        values: 0,
        inverts: false,
        repeats: false,
    }
}

/// An option with one value.
pub(super) const fn one(name: &'static str) -> Opt {
    Opt {
        values: 1,
        ..flag(name)
    }
}

/// An option with two values.
pub(super) const fn two(name: &'static str) -> Opt {
    Opt {
        values: 2,
        ..flag(name)
    }
}

impl Opt {
    /// Allows `!`.
    pub(super) const fn not(self) -> Self {
        Self {
            inverts: true,
            ..self
        }
    }

    /// Makes this name an alias of another option.
    pub(super) const fn of(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    /// Allows repetition.
    pub(super) const fn many(self) -> Self {
        Self {
            repeats: true,
            ..self
        }
    }
}

/// Options of iptables itself. The key is the short option.
pub(super) const CORE: &[Opt] = &[
    one("source").of("s").not(),
    one("src").of("s").not(),
    one("destination").of("d").not(),
    one("dst").of("d").not(),
    one("protocol").of("p").not(),
    one("in-interface").of("i").not(),
    one("out-interface").of("o").not(),
    flag("fragments").of("f").not(),
    one("match").of("m").many(),
    one("jump").of("j"),
    one("goto").of("g"),
    two("set-counters").of("c"),
    flag("ipv4").of("4").many(),
    flag("ipv6").of("6").many(),
    flag("verbose").of("v").many(),
    // These cannot be part of a rule, but they make abbreviations ambiguous.
    one("append").of("A"),
    one("check").of("C"),
    one("delete").of("D"),
    one("replace").of("R"),
    one("insert").of("I"),
    flag("list").of("L"),
    flag("list-rules").of("S"),
    flag("flush").of("F"),
    flag("zero").of("Z"),
    one("new-chain").of("N"),
    flag("delete-chain").of("X"),
    one("rename-chain").of("E"),
    one("policy").of("P"),
    one("table").of("t"),
    flag("numeric").of("n"),
    flag("wait").of("w"),
    one("wait-interval").of("W"),
    flag("exact").of("x"),
    flag("version").of("V"),
    flag("help").of("h"),
    flag("line-numbers").of("0"),
    one("modprobe").of("M"),
];

/// Finds an option of iptables by its letter.
pub(super) fn by_letter(letter: &str) -> Option<&'static Opt> {
    CORE.iter().find(|opt| opt.key == letter)
}

/// Result of a search for a long option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search<S> {
    /// The option, and where it was found.
    Found(&'static Opt, S),
    /// The prefix of several options.
    Ambiguous,
    /// No option.
    Unknown,
}

/// Finds a long option by its name or a unique prefix of it. Earlier scopes come first.
pub(super) fn search<S: Copy + PartialEq>(
    name: &str,
    scopes: impl Iterator<Item = (S, &'static [Opt])> + Clone,
) -> Search<S> {
    let all = || {
        scopes
            .clone()
            .flat_map(|(scope, opts)| opts.iter().map(move |opt| (opt, scope)))
    };
    if let Some((opt, scope)) = all().find(|(opt, _)| opt.name == name) {
        return Search::Found(opt, scope);
    }
    let mut found: Option<(&'static Opt, S)> = None;
    for (opt, scope) in all().filter(|(opt, _)| opt.name.starts_with(name)) {
        match found {
            None => found = Some((opt, scope)),
            // Two names of one option are no ambiguity.
            Some((first, at)) if at == scope && first.key == opt.key => {}
            Some(_) => return Search::Ambiguous,
        }
    }
    found.map_or(Search::Unknown, |(opt, scope)| Search::Found(opt, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &[Opt] = &[
        one("dport"),
        one("destination-port").of("dport"),
        flag("syn"),
    ];

    #[test]
    fn a_unique_prefix_finds_an_option() {
        for (name, with_tcp, wanted) in [
            ("dport", false, Err(false)),
            ("dport", true, Ok("dport")),
            ("dpo", true, Ok("dport")),
            ("destination", true, Ok("d")),
            ("dest", false, Ok("d")),
            // `--destination-port` has this prefix too.
            ("dest", true, Err(true)),
            // `--source` and `--src` are one option; `--set-counters` and `--syn` are others.
            ("so", true, Ok("s")),
            ("s", false, Err(true)),
            ("proto", true, Ok("p")),
            ("frobnicate", true, Err(false)),
        ] {
            let scopes = [(0, CORE), (1, TCP)];
            let used = scopes.iter().copied().take(1 + usize::from(with_tcp));
            let got = match search(name, used) {
                Search::Found(opt, _) => Ok(opt.key),
                Search::Ambiguous => Err(true),
                Search::Unknown => Err(false),
            };
            assert_eq!(got, wanted, "{name} {with_tcp}");
        }
    }
}
