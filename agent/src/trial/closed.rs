//! The closed ruleset, which accepts only the safe core and ssh.

use std::path::Path;

use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::compile::compile;

use crate::store::{self, Kept};

/// Policy of the closed ruleset, which is loaded if no confirmed ruleset can be loaded and the
/// policy has errors.
const CLOSED: &str =
    "version = 1\n\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n";

/// Compiles the closed ruleset.
pub fn closed() -> Option<Kept> {
    let policy = load("closed", CLOSED, &NoFiles).policy?;
    // It ends no open connections: an administrator may need one for the repair.
    let entry = store::entry(Path::new("closed"), "closed", false, false);
    Some(Kept {
        entry,
        ruleset: compile(&policy).0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_closes_a_host_is_a_policy() {
        assert!(closed().is_some());
    }
}
