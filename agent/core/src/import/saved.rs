//! All tables in output of iptables-save, for evaluating packets as the kernel does.

use super::File;
use super::canonical::Readings;
use super::input;
use super::rule::{ImportedChains, Problems, TableOrigin, chains};
use crate::net::addr::Family;

/// A table of iptables-legacy or iptables-nft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedTable {
    /// Family.
    pub family: Family,
    /// `filter`, `nat`, `mangle`, `raw` or `security`.
    pub name: String,
    /// Chains by name.
    pub chains: ImportedChains,
}

/// Reads the tables in a file; `sets` is output of `ipset save`. Lines that cannot be read are
/// rules with an unknown condition.
pub fn tables(file: &File, sets: Option<&File>) -> Vec<SavedTable> {
    let files: Vec<File> = sets.into_iter().chain([file]).cloned().collect();
    let (saves, content) = input::saves(&files);
    let readings = Readings::default();
    let mut problems = Problems::default();
    let mut found = Vec::new();
    for (index, family, save) in &saves {
        for (at, table) in save.tables.iter().enumerate() {
            let origin = TableOrigin {
                unread: &[],
                family: *family,
                input: *index,
                sets: &content,
                readings: readings.of_table((0, at)),
            };
            found.push(SavedTable {
                family: *family,
                name: table.name.clone(),
                chains: chains(table, &origin, &mut problems),
            });
        }
    }
    found
}
