//! Tests of a policy on this host's kernel, in network namespaces that exist only for the test.
//!
//! A namespace ends with its last thread and socket, so that nothing is left, however this process
//! ends.

mod counts;
mod lab;
mod wires;

use std::collections::BTreeMap;
use std::io;
use std::thread;

use peerwall_core::backend::BackendError;
use peerwall_core::net::packet::Packet;
use peerwall_core::ruleset::Ruleset;
use peerwall_core::testing::{Case, Fate, sent};

use crate::kernel::netlink::NetlinkError;
use lab::Lab;

/// Why packets could not be tested by the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The system permits no namespaces.
    #[error(
        "this system does not permit namespaces: {0}; run it as root, or permit user namespaces: \
         kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, \
         kernel.apparmor_restrict_unprivileged_userns=0, and no seccomp filter of a container"
    )]
    Namespace(#[source] io::Error),
    /// A setting of the namespace cannot be changed.
    #[error(
        "cannot write {path} in a namespace: {source}; in a container, /proc/sys must be writable"
    )]
    Setting {
        /// The file.
        path: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The kernel refused to create what the test needs.
    #[error("cannot {doing} in a namespace: {source}")]
    Netlink {
        /// What was tried.
        doing: &'static str,
        /// The refusal.
        source: NetlinkError,
    },
    /// A packet could not be sent.
    #[error("cannot send a packet in a namespace: {0}")]
    Send(#[source] io::Error),
    /// The rules could not be loaded.
    #[error("cannot load the rules in a namespace: {0}")]
    Load(BackendError),
    /// What was sent did not arrive.
    #[error("a frame that was sent in a namespace did not arrive; is the machine overloaded?")]
    Lost,
}

/// Sends the packets of tests to a host with these rules. Returns what the kernel did with each, by
/// the position of the packet in its test.
///
/// # Errors
/// [`LabError`] if the kernel cannot be asked.
pub fn run(ruleset: &Ruleset, cases: &[&Case]) -> Result<Vec<BTreeMap<usize, Fate>>, LabError> {
    // Namespaces are of the thread, and end with it.
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let mut lab = Lab::new(ruleset)?;
            cases.iter().map(|case| fates(&mut lab, case)).collect()
        });
        match inside.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn fates(lab: &mut Lab<'_>, case: &Case) -> Result<BTreeMap<usize, Fate>, LabError> {
    let packets = sent(case).into_iter();
    let packets = packets.filter_map(|at| Some((at, case.packets.get(at)?)));
    packets
        .map(|(at, packet): (usize, &Packet)| Ok((at, lab.fate(packet)?)))
        .collect()
}
