//! A page of `docs/quickstart`: its policy, and its table of ports.

use std::path::{Path, PathBuf};

/// A page.
pub(crate) struct Page {
    /// The page's only policy.
    pub(crate) policy: String,
    /// Ports in the table under `## Ports`: the text of the first column, and whether the table
    /// says that anyone may use them.
    pub(crate) ports: Vec<(String, bool)>,
}

/// Directory of the pages.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quickstart")
}

impl Page {
    pub(crate) fn read(name: &str) -> Self {
        let path = directory().join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|err| panic!("{}: {err}", path.display()));
        let policies: Vec<&str> = text
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .filter(|block| block.starts_with("version = 1\n"))
            .collect();
        assert_eq!(policies.len(), 1, "{name} has one policy");
        Self {
            policy: policies[0].to_owned(),
            ports: ports(&text),
        }
    }
}

/// Returns the rows of the table under `## Ports`.
fn ports(text: &str) -> Vec<(String, bool)> {
    let section = text.split("\n## Ports\n").nth(1).expect("`## Ports`");
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells = cells(row);
        assert_eq!(cells.len(), 4, "port, on, from, purpose: {row}");
        (cells[0].clone(), cells[2] == "anyone")
    })
    .collect()
}
