//! Diagnostics of a policy on standard error.

use std::io::IsTerminal as _;

use crate::output::complain;
use crate::policy_file::Ready;

/// Prints the warnings about a policy.
pub(super) fn warnings(ready: &Ready) {
    let color = std::io::stderr().is_terminal();
    complain(&ready.sources.render(&ready.warnings, color));
    misfits(ready);
}

/// Prints where a policy does not fit this host.
pub(super) fn misfits(ready: &Ready) {
    let color = std::io::stderr().is_terminal();
    complain(&ready.sources.render(&ready.misfits, color));
}
