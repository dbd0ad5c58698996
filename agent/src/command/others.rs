//! Reports other firewalls that also drop packets, and units that load rules at boot.

use std::fmt::Write as _;

use peerwall_core::nft::foreign::ForeignDrop;

use crate::host::names::printable;
use crate::host::units;
use crate::output::{Output, complain};

/// Returns the end of a headline that says that the rules are in sync.
pub(super) fn but(drops: &[ForeignDrop]) -> String {
    match drops {
        [] => String::new(),
        _ => {
            let names: Vec<String> = drops.iter().map(|each| printable(&each.name())).collect();
            format!(", but another firewall also drops: {}", names.join(", "))
        }
    }
}

/// Returns the lines for `status`.
pub(super) fn lines(drops: &[ForeignDrop]) -> String {
    let mut text = String::new();
    for each in drops {
        let _ = writeln!(
            text,
            "also drops: {}: {}; to end that: {}",
            printable(&each.name()),
            printable(&each.why()),
            printable(&each.clear)
        );
    }
    for unit in units::loaders() {
        let _ = writeln!(
            text,
            "at boot: {unit} also loads rules; to end that: systemctl disable {unit}"
        );
    }
    text
}

/// Prints a warning as text.
pub(super) fn warn(drops: &[ForeignDrop], output: &Output) {
    if output.is_json() {
        return;
    }
    for each in drops {
        complain(&format!(
            "warning: {}\n  = help: if peerwall alone is to decide: {}\n\n",
            printable(&each.to_string()),
            printable(&each.clear)
        ));
    }
    for unit in units::loaders() {
        complain(&format!(
            "warning: {unit} is enabled and loads other rules at boot\n  \
             = help: if peerwall alone is to decide: systemctl disable {unit}\n\n"
        ));
    }
}
