//! The first load: connections that are open before there are rules of ours.
//!
//! Where nothing tracked connections before, the kernel takes the next packet of a connection for its first. On a
//! connection that this host opened and on which the other side speaks next (a watch, a notification, a database
//! session), that packet comes from a stranger, and is dropped or rejected. So conntrack is told of the
//! connections that this host has opened. Those that others opened are not: the policy judges them.

use crate::connections::Connections;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::sockets::{Opened, Sockets};

/// Creates the conntrack entries of connections that this host opened and that have none; how many. To be
/// called before rules are loaded where there are none, and again afterwards, for those opened meanwhile.
///
/// # Errors
/// If the kernel refuses one; others may have been created.
pub fn introduce(connections: &mut Connections) -> Result<usize, NetlinkError> {
    let sockets = Sockets::list();
    if let Some(why) = &sockets.trouble {
        log::warn!("connections that this host opened may be cut: {why}");
    }
    let mut created = 0;
    for socket in sockets.open() {
        let is_local = socket.local.ip().is_loopback() || socket.remote.ip().is_loopback();
        if !is_local && sockets.opened(socket) == Opened::Here && connections.create(socket)? {
            created += 1;
        }
    }
    Ok(created)
}

/// The same without an error: a firewall is loaded even if it cuts a connection.
pub fn introduce_or_say(connections: &mut Connections) {
    match introduce(connections) {
        Ok(0) => {}
        Ok(created) => log::info!("made {created} connections of this host known to conntrack"),
        Err(err) => log::warn!(
            "idle connections that this host opened may be cut, because conntrack cannot be told of them: {err}"
        ),
    }
}
