//! The first load: keeps connections that this host opened before peerwall's rules were loaded.
//!
//! If connections were not tracked before, the kernel treats the next packet of a connection as its
//! first. On a connection that this host opened and on which the peer sends next (a watch, a
//! notification, a database session), that packet looks like a new inbound connection, and is
//! dropped or rejected. So the connections that this host opened are added to conntrack. Inbound
//! ones are not: the policy decides about them.

use peerwall_core::words::count;

use crate::connections::Connections;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::sockets::{Initiator, Sockets};

/// Creates the missing conntrack entries of connections that this host opened. Returns their
/// number. Called before the first load, and again after it for connections that were opened
/// meanwhile.
///
/// # Errors
/// [`NetlinkError`] if the kernel refuses one; others may have been created.
pub fn introduce(connections: &mut Connections) -> Result<usize, NetlinkError> {
    let sockets = Sockets::list();
    if let Some(why) = &sockets.trouble {
        log::warn!("connections that this host opened may be cut: {why}");
    }
    let mut created = 0;
    for socket in sockets.open() {
        let is_local = socket.local.ip().is_loopback() || socket.remote.ip().is_loopback();
        if !is_local && sockets.opened(socket) == Initiator::Here && connections.create(socket)? {
            created += 1;
        }
    }
    Ok(created)
}

/// Like [`introduce`], but only logs an error: the rules are loaded even if that ends a connection.
pub fn introduce_or_say(connections: &mut Connections) {
    match introduce(connections) {
        Ok(0) => {}
        Ok(created) => log::info!(
            "made {} of this host known to conntrack",
            count(created, "connection")
        ),
        Err(err) => log::warn!(
            "idle connections that this host opened may be cut, because they cannot be added to \
             conntrack: {err}"
        ),
    }
}
