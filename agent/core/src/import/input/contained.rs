//! Rules files in the configuration of a machine: cloud-config, Container Linux Config, Butane and
//! Ignition.

use std::collections::BTreeSet;

use peerwall_proto::iptables::script;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::decode::{decoded, from_url};
use super::format::{Format, configuration, format};
use crate::import::{File, ImportError, nft};
use crate::net::addr::Family;

/// A file that a configuration writes.
struct Entry {
    path: String,
    /// Content, or the reason why it cannot be read.
    content: Result<String, String>,
}

/// Finds the rules files in a configuration.
pub(super) fn files(file: &File, kind: Format) -> Result<Vec<File>, ImportError> {
    let found = contained(file, kind)?;
    match found.is_empty() {
        true => Err(ImportError::whole(
            &file.name,
            "the configuration writes no rules files",
            "import the rules files themselves",
        )),
        false => Ok(found),
    }
}

/// Finds the files of a configuration that has files for `nft -f`: those of iptables first, then
/// those for nft, with the files of the configuration that they include. `None` for other files.
///
/// # Errors
/// [`ImportError`] if the configuration cannot be read.
pub fn with_nft(file: &File) -> Result<Option<Vec<File>>, ImportError> {
    let Some(kind) = configuration(file) else {
        return Ok(None);
    };
    let entries = entries(file, kind)?;
    let readable = entries
        .iter()
        .filter_map(|entry| Some((entry.path.as_str(), entry.content.as_deref().ok()?)));
    let scripts: Vec<(&str, &str)> = readable.filter(|(path, text)| is_nft(path, text)).collect();
    if scripts.is_empty() {
        return Ok(None);
    }
    let mut included = BTreeSet::new();
    let whole = |(path, text): &(&str, &str)| {
        let text = include(text, &entries, &mut included, 0);
        (format!("{}: {path}", file.name), text)
    };
    let whole: Vec<(String, String)> = scripts.iter().map(whole).collect();
    let mut found = contained(file, kind)?;
    for ((path, _), (name, text)) in scripts.iter().zip(whole) {
        if !included.contains(*path) {
            let family = None;
            found.push(File { name, text, family });
        }
    }
    Ok(Some(found))
}

/// Maximum depth of includes.
const INCLUDES_MAX: usize = 16;

/// Replaces the lines that include files of the configuration.
fn include(text: &str, entries: &[Entry], included: &mut BTreeSet<String>, depth: usize) -> String {
    let mut whole = String::new();
    for line in text.lines() {
        let named = line.trim().strip_prefix("include ").map(str::trim);
        let pattern = named.map(|name| name.trim_end_matches(';').trim_matches('"'));
        let fits = |entry: &&Entry| pattern.is_some_and(|pattern| is_named(pattern, &entry.path));
        let mut found: Vec<&Entry> = entries.iter().filter(fits).collect();
        found.sort_by_key(|entry| &entry.path);
        if found.is_empty() || depth >= INCLUDES_MAX {
            whole.push_str(line);
            whole.push('\n');
        }
        for entry in found.into_iter().filter(|_| depth < INCLUDES_MAX) {
            included.insert(entry.path.clone());
            let text = entry.content.as_deref().unwrap_or_default();
            whole.push_str(&include(text, entries, included, depth + 1));
        }
    }
    whole
}

/// Reports whether a path fits the name in an include, which may have `*`.
fn is_named(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, end)) => {
            let middle = path
                .strip_prefix(start)
                .and_then(|rest| rest.strip_suffix(end));
            middle.is_some_and(|middle| !middle.contains('/'))
        }
    }
}

/// Reports whether a file is one for `nft -f`.
fn is_nft(path: &str, text: &str) -> bool {
    nft::is_script(text) && (path.contains("nft") || text.starts_with("#!"))
}

fn entries(file: &File, kind: Format) -> Result<Vec<Entry>, ImportError> {
    let entries = match kind {
        Format::Ignition => ignition(&file.text),
        Format::CloudConfig | Format::Storage => yaml(&file.text),
        Format::Save
        | Format::Listing
        | Format::Script
        | Format::Commands
        | Format::Sets
        | Format::Ruleset => Ok(Vec::new()),
    };
    entries.map_err(|why| ImportError::whole(&file.name, why, "import the rules files themselves"))
}

fn contained(file: &File, kind: Format) -> Result<Vec<File>, ImportError> {
    let wrong = |why: String, help: &str| ImportError::whole(&file.name, why, help);
    let entries = entries(file, kind)?;
    let mut found = Vec::new();
    for Entry { path, content } in entries {
        let text = match content {
            Ok(text) => text,
            Err(why) if path.contains("tables") || path.contains("ipset") => {
                let why = format!("the content of {path} {why}");
                return Err(wrong(why, "decode it, and import it as a file"));
            }
            Err(_) => continue,
        };
        if is_rules(&text) {
            let family = file.family.or_else(|| family(&path));
            let name = format!("{}: {path}", file.name);
            found.push(File { name, text, family });
        }
    }
    if kind == Format::CloudConfig {
        found.extend(commands(file));
    }
    Ok(found)
}

/// End of the name of a file with the commands of a cloud-config.
const COMMANDS: &str = ": commands";

/// Reports whether a file has the commands of a cloud-config.
pub(super) fn is_commands(file: &File) -> bool {
    file.name.ends_with(COMMANDS)
}

/// Returns the commands of a cloud-config as a file, if one of them names a tool.
fn commands(file: &File) -> Option<File> {
    let documents = YamlLoader::load_from_str(&file.text).ok()?;
    let root = documents.first()?;
    let lists = ["bootcmd", "runcmd"].into_iter();
    // Each list is a script of its own: what ends one does not end the other.
    let of_list = |key: &str| {
        let all = root[key].as_vec().into_iter().flatten().filter_map(command);
        all.take_while(|text| text.split_whitespace().next() != Some("exit"))
            .collect::<Vec<String>>()
    };
    let text: Vec<String> = lists.flat_map(of_list).collect();
    let text = text.join("\n");
    let is_about_rules = text.lines().any(script::names_a_tool);
    is_about_rules.then(|| File {
        name: format!("{}{COMMANDS}", file.name),
        text,
        family: None,
    })
}

/// Returns a command as the shell reads it. The words of a list are not evaluated.
fn command(command: &Yaml) -> Option<String> {
    let Some(words) = command.as_vec() else {
        return command.as_str().map(str::to_owned);
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    let quoted = |word: &Yaml| {
        let number = word.as_i64().map(|number| number.to_string());
        let word = word.as_str().map(str::to_owned).or(number)?;
        Some(match !word.is_empty() && word.chars().all(is_plain) {
            true => word,
            false => format!("'{}'", word.replace('\'', "'\\''")),
        })
    };
    let words: Vec<String> = words.iter().filter_map(quoted).collect();
    Some(words.join(" "))
}

fn is_rules(text: &str) -> bool {
    matches!(
        format(text),
        Ok(Format::Save | Format::Listing | Format::Script | Format::Sets)
    )
}

fn yaml(text: &str) -> Result<Vec<Entry>, String> {
    let documents = YamlLoader::load_from_str(text)
        .map_err(|err| format!("not valid YAML: {err}; check the indentation"))?;
    let root = documents.first().unwrap_or(&Yaml::BadValue);
    let written = ["write_files", "write-files"]
        .iter()
        .find_map(|key| root[*key].as_vec());
    let storage = root["storage"]["files"].as_vec();
    let has_commands = ["runcmd", "bootcmd"]
        .iter()
        .any(|key| root[*key].as_vec().is_some());
    if written.is_none() && storage.is_none() && !has_commands {
        return Err("the configuration has no list `write_files` or `storage.files`".into());
    }
    let written = written.into_iter().flatten().map(cloud_entry);
    Ok(written
        .chain(storage.into_iter().flatten().map(storage_entry))
        .collect())
}

/// An entry of `write_files`.
fn cloud_entry(entry: &Yaml) -> Entry {
    let encoding = ["encoding", "Encoding"]
        .iter()
        .find_map(|key| entry[*key].as_str());
    let content = entry["content"].as_str().unwrap_or_default();
    Entry {
        path: entry["path"].as_str().unwrap_or_default().to_owned(),
        content: decoded(content.trim(), encoding.unwrap_or_default(), content),
    }
}

/// An entry of `storage.files` in Butane or Container Linux Config.
fn storage_entry(entry: &Yaml) -> Entry {
    let contents = &entry["contents"];
    let inline = contents["inline"].as_str().map(|text| Ok(text.to_owned()));
    let source = ["source", "remote"].iter().find_map(|key| {
        let source = &contents[*key];
        source.as_str().or_else(|| source["url"].as_str())
    });
    let compression = contents["compression"].as_str().unwrap_or_default();
    let content = inline.or_else(|| source.map(|url| from_url(url, compression)));
    Entry {
        path: entry["path"].as_str().unwrap_or_default().to_owned(),
        content: content.unwrap_or_else(|| Ok(String::new())),
    }
}

fn ignition(text: &str) -> Result<Vec<Entry>, String> {
    let root: Value = serde_json::from_str(text).map_err(|err| format!("not valid JSON: {err}"))?;
    let files = root["storage"]["files"].as_array();
    let files = files.ok_or("the configuration has no list `storage.files`")?;
    let entry = |entry: &Value| {
        let contents = &entry["contents"];
        let url = contents["source"].as_str().unwrap_or("data:,");
        let compression = contents["compression"].as_str().unwrap_or_default();
        Entry {
            path: entry["path"].as_str().unwrap_or_default().to_owned(),
            content: from_url(url, compression),
        }
    };
    Ok(files.iter().map(entry).collect())
}

/// Guesses the family from a path like `/var/lib/ip6tables/rules-save` or `/etc/iptables/rules.v6`.
fn family(path: &str) -> Option<Family> {
    if path.contains("ip6tables") || path.ends_with("v6") {
        return Some(Family::V6);
    }
    (path.contains("iptables") || path.ends_with("v4")).then_some(Family::V4)
}
