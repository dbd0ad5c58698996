//! Files: loaded, imported, and those of a folder.

use std::fs;
use std::path::Path;

use peerwall::host::facts;
use peerwall::import::{iptables as reader, nft};
use peerwall_core::import::{File, Import, Options, import_read};
use peerwall_core::net::addr::Family;
use peerwall_integration::wild::rules::Language;
use peerwall_integration::wild::twins::Twin;

/// Imports a file, with what the host knows of itself.
pub(crate) fn imported(
    twin: &Twin,
    language: Language,
    name: &str,
    text: &str,
) -> Result<Import, String> {
    let family = match language {
        Language::Iptables => Some(Family::V4),
        Language::Ip6tables => Some(Family::V6),
        Language::Nft | Language::Shell => None,
    };
    let text = match language {
        Language::Nft => twin.host.run(|| nft::listing(name, text)),
        Language::Iptables | Language::Ip6tables | Language::Shell => Ok(text.to_owned()),
    };
    let files = [File {
        name: name.to_owned(),
        text: text.map_err(|err| err.to_string())?,
        family,
    }];
    let (readings, facts) = twin.host.run(|| (reader::read(&files), facts::gather()));
    let readings = readings.map(|read| read.readings).unwrap_or_default();
    let options = Options {
        assume_accept: true,
    };
    import_read(&files, &facts, options, &readings).map_err(|err| format!("{err:?}"))
}

/// Returns the command that loads a file; a script may fail in some lines.
pub(crate) fn command((language, flavour): (Language, &str), path: &Path) -> String {
    let command = language.command(flavour, path);
    match language {
        Language::Shell => format!("{command}; true"),
        Language::Iptables | Language::Ip6tables | Language::Nft => command,
    }
}

/// The tables that stay beside a policy.
pub(crate) fn others(text: &str) -> String {
    let start = text.find("*filter").unwrap_or(text.len());
    text[..start].to_owned()
}

/// The files of a folder that is given, but those whose rules count or remember packets.
pub(crate) fn given() -> Vec<(String, String, Language)> {
    let Ok(folder) = std::env::var("PEERWALL_STYLES") else {
        return Vec::new();
    };
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let one = |path: &std::path::PathBuf| {
        let language = match path.extension()?.to_str()? {
            "v4" => Language::Iptables,
            "v6" => Language::Ip6tables,
            "nft" => Language::Nft,
            "sh" => Language::Shell,
            _ => return None,
        };
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let remembers = [
            "limit",
            "recent",
            "quota",
            "statistic",
            "numgen",
            "-m time",
            "meta hour",
            "nat hook",
        ];
        let name = path.display().to_string();
        (!remembers.iter().any(|word| text.contains(word))).then_some((name, text, language))
    };
    paths.iter().filter_map(one).collect()
}
