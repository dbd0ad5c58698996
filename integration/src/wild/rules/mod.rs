//! Files of rules of a few lines, with matches of all kinds that iptables-restore and nft know for
//! single packets.

mod iptables;
mod nft;
mod shell;

use std::fs;
use std::path::Path;

use crate::ns::Host;
use crate::random::Random;

/// A language of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// iptables-restore.
    Iptables,
    /// ip6tables-restore.
    Ip6tables,
    /// nft.
    Nft,
    /// sh.
    Shell,
}

impl Language {
    /// The end of a file's name.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Iptables => "v4",
            Self::Ip6tables => "v6",
            Self::Nft => "nft",
            Self::Shell => "sh",
        }
    }

    /// Returns the command of sh that loads a file. A script finds one variant of iptables under
    /// its plain names.
    #[must_use]
    pub fn command(self, flavour: &str, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Iptables => format!("iptables-{flavour}-restore <{path}"),
            Self::Ip6tables => format!("ip6tables-{flavour}-restore <{path}"),
            Self::Nft => format!("nft -f {path}"),
            Self::Shell => format!(
                "d=$(mktemp -d); for t in iptables ip6tables; do for s in '' -restore -save; do \
                 ln -s $(command -v $t-{flavour}$s) $d/$t$s; done; done; PATH=$d:$PATH sh {path}"
            ),
        }
    }
}

/// Networks that packets can be near to.
const NETS_V4: [&str; 14] = [
    "10.0.0.0/8",
    "192.168.1.0/24",
    "198.51.100.77",
    "198.51.100.64/26",
    "0.0.0.0",
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255",
    "203.0.113.10",
    "203.0.113.255",
    "10.244.0.0/16",
];
/// The same for IPv6.
const NETS_V6: [&str; 12] = [
    "2001:db8::/32",
    "2001:db8:77::1",
    "2001:db8::10",
    "fc00::/7",
    "fe80::/10",
    "fe80::1",
    "ff00::/8",
    "ff02::1",
    "::",
    "::1",
    "::ffff:0:0/96",
    "fd00:244::/32",
];

/// Writes rules to a file and runs the command that loads it, until no line is refused any more:
/// those are emptied. Returns what is loaded.
///
/// # Errors
/// What the command says, if that is not about a line.
///
/// # Panics
/// If the file cannot be written.
pub fn load(host: &Host, command: &str, path: &Path, text: &str) -> Result<String, String> {
    let mut text = text.to_owned();
    let named = format!("{}:", path.display());
    loop {
        fs::write(path, &text).expect("the file can be written");
        let output = host.try_sh(command);
        if output.status.success() {
            return Ok(text);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        // `FILE:12:3-9: Error: …`, `iptables-restore: line 12 failed`, `Error occurred at line: 12`.
        let places = stderr.split(&named).skip(1);
        let places = places.chain(stderr.split("line ").skip(1));
        let places = places.chain(stderr.split("line: ").skip(1));
        let number = |place: &str| {
            place
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        let wrong: Vec<usize> = places.filter_map(number).collect();
        let is_wrong = |index: usize| wrong.contains(&(index + 1));
        let lines = text.lines().enumerate();
        let kept = lines.map(|(index, line)| {
            // iptables-nft names the end of a table for what it cannot say of a line.
            if is_wrong(index) && line != "COMMIT" {
                "\n".to_owned()
            } else {
                format!("{line}\n")
            }
        });
        let kept: String = kept.collect();
        text = if kept == text {
            let without = without_last_line(&text);
            without.ok_or_else(|| format!("{stderr}\n{text}"))?
        } else {
            kept
        };
    }
}

/// Empties the last rule, since one of them is wrong: the kernel refuses a
/// table of iptables as a whole, and no line is named.
fn without_last_line(text: &str) -> Option<String> {
    let at = text.rfind("\n-A ")? + 1;
    let (before, line) = text.split_at(at);
    let end = line.find('\n')?;
    Some([before, &line[end..]].concat())
}

/// Makes a file.
pub fn file(random: &mut Random, language: Language) -> String {
    match language {
        Language::Iptables => iptables::file(random, false),
        Language::Ip6tables => iptables::file(random, true),
        Language::Nft => nft::file(random),
        Language::Shell => shell::file(random),
    }
}
