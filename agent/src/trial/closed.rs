//! The ruleset that closes a host.

use std::path::Path;

use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::compile::compile;

use crate::store::{self, Kept};

/// What is loaded if nothing that was confirmed can be loaded and the policy is wrong.
const CLOSED: &str =
    "version = 1\n\n[[allow]]\nname = \"ssh\"\nports = [\"22/tcp\"]\nfrom = \"any\"\n";

/// The ruleset that closes a host, except for the safe core and ssh.
pub fn closed() -> Option<Kept> {
    let policy = load("closed", CLOSED, &NoFiles).policy?;
    // An open connection may be the way in of the administrator who repairs this.
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
