//! Prints diagnostics of a policy to standard error.

use crate::color::{self, Stream};
use crate::enforce::Enforcer;
use crate::output::{Output, complain};
use crate::policy_file::LoadedPolicy;

/// Prints the warnings about a policy and its differences from this host.
pub(super) fn warnings(ready: &LoadedPolicy) {
    complain(&warning_text(ready, color::is_on(Stream::Stderr)));
}

/// Returns what [`warnings`] prints.
pub(super) fn warning_text(ready: &LoadedPolicy, color: bool) -> String {
    let render = |diagnostics| ready.sources.render(diagnostics, color);
    render(&ready.warnings) + &render(&ready.misfits)
}

/// Prints the differences between a policy and this host.
pub(super) fn misfits(ready: &LoadedPolicy) {
    let color = color::is_on(Stream::Stderr);
    complain(&ready.sources.render(&ready.misfits, color));
}

/// Number of addresses with individual rules above which a warning is printed, because every packet
/// is checked against them.
const MANY_ADDRESSES: usize = 200;

/// Warns that iptables without ipset needs a rule for each address.
pub(super) fn many_rules(enforcer: &Enforcer, ready: &LoadedPolicy, output: &Output) {
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
