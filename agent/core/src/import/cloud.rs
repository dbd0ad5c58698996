//! Rules files in a cloud-config: entries of `write_files` (`write-files` in CoreOS).

use yaml_rust2::{Yaml, YamlLoader};

use super::{File, ImportError};
use crate::net::addr::Family;

/// Finds the rules files in a cloud-config.
pub(super) fn files(file: &File) -> Result<Vec<File>, ImportError> {
    let wrong = |why: String, help: &str| ImportError::whole(&file.name, why, help);
    let documents = YamlLoader::load_from_str(&file.text)
        .map_err(|err| wrong(format!("not valid YAML: {err}"), "check the indentation"))?;
    let root = documents.first().unwrap_or(&Yaml::BadValue);
    let entries = ["write_files", "write-files"]
        .iter()
        .find_map(|key| root[*key].as_vec())
        .ok_or_else(|| {
            wrong(
                "the cloud-config has no list `write_files`".into(),
                "import the rules files themselves",
            )
        })?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry["path"].as_str().unwrap_or_default();
        let content = entry["content"].as_str().unwrap_or_default();
        let encoding = ["encoding", "Encoding"]
            .iter()
            .find_map(|key| entry[*key].as_str());
        if is_encoded(encoding) && path.contains("tables") {
            return Err(wrong(
                format!(
                    "the content of {path} is encoded as {}",
                    encoding.unwrap_or_default()
                ),
                "decode it, and import it as a file",
            ));
        }
        if has_table(content) {
            found.push(File {
                name: format!("{}: {path}", file.name),
                text: content.to_owned(),
                family: family(path),
            });
        }
    }
    match found.is_empty() {
        true => Err(wrong(
            "the cloud-config writes no iptables rules files".into(),
            "import the rules files themselves",
        )),
        false => Ok(found),
    }
}

fn is_encoded(encoding: Option<&str>) -> bool {
    encoding.is_some_and(|name| !matches!(name, "" | "text/plain"))
}

fn has_table(content: &str) -> bool {
    content.lines().any(|line| {
        matches!(
            line.trim(),
            "*filter" | "*nat" | "*mangle" | "*raw" | "*security"
        )
    })
}

/// Guesses the family from a path like `/var/lib/ip6tables/rules-save` or `/etc/iptables/rules.v6`.
fn family(path: &str) -> Option<Family> {
    if path.contains("ip6tables") || path.ends_with("v6") {
        return Some(Family::V6);
    }
    (path.contains("iptables") || path.ends_with("v4")).then_some(Family::V4)
}
