//! Diagnostics of a policy on standard error.

use crate::color::{self, Stream};
use crate::enforce::Enforcer;
use crate::output::{Output, complain};
use crate::policy_file::Ready;

/// Prints the warnings about a policy.
pub(super) fn warnings(ready: &Ready) {
    let color = color::is_on(Stream::Stderr);
    complain(&ready.sources.render(&ready.warnings, color));
    misfits(ready);
}

/// Prints where a policy does not fit this host.
pub(super) fn misfits(ready: &Ready) {
    let color = color::is_on(Stream::Stderr);
    complain(&ready.sources.render(&ready.misfits, color));
}

/// How many addresses as rules of their own cost every packet so much that it is worth a warning.
const MANY_ADDRESSES: usize = 200;

/// Warns that iptables without ipset makes a rule of each address.
pub(super) fn many_rules(enforcer: &Enforcer, ready: &Ready, output: &Output) {
    let Enforcer::Iptables(iptables) = enforcer else {
        return;
    };
    let addresses = ready.ruleset.element_count();
    if iptables.ipset_from().is_none() && addresses > MANY_ADDRESSES && !output.is_json() {
        complain(&format!(
            "warning: ipset is not available: {addresses} \
             addresses and ports become individual rules, and every non-matching packet is checked \
             against all of them\n"
        ));
    }
}
