//! Sends the packet that is to be traced, from this host.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use peerwall_core::net::addr::Family;
use peerwall_core::net::packet::Transport;
use peerwall_core::net::port::{TCP, UDP};
use peerwall_core::nft::tracing::Filter;

/// How long a connection may take; its first packet is enough.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends a packet by an ordinary socket, in a thread.
///
/// # Errors
/// What cannot be sent, in a sentence.
pub(super) fn start(filter: &Filter) -> Result<(), String> {
    let Some(to) = filter.to else {
        return Err("--send needs --to".to_owned());
    };
    let Some(Transport::Ports {
        protocol,
        destination,
        ..
    }) = filter.transport
    else {
        return Err("--send needs --port with tcp or udp, such as 80/tcp".to_owned());
    };
    let target = SocketAddr::new(to, destination);
    match protocol {
        TCP if filter.from.is_none() => {
            // Whether it is answered does not matter: the trace tells what happens.
            thread::spawn(move || drop(TcpStream::connect_timeout(&target, PATIENCE)));
            Ok(())
        }
        TCP => Err("--send with tcp cannot choose its source: leave --from out".to_owned()),
        UDP => udp(target, filter.from),
        _ => Err("--send needs --port with tcp or udp, such as 80/tcp".to_owned()),
    }
}

fn udp(target: SocketAddr, from: Option<IpAddr>) -> Result<(), String> {
    let any = match Family::of(target.ip()) {
        Family::V4 => IpAddr::from([0; 4]),
        Family::V6 => IpAddr::from([0; 16]),
    };
    let source = from.unwrap_or(any);
    let socket = UdpSocket::bind((source, 0))
        .map_err(|err| format!("{source} is no address of this host to send from: {err}"))?;
    let sent = socket.send_to(b"peerwall", target);
    // A refusal by rules of this host is what the trace shows.
    if let Err(err) = sent {
        log::info!("sending to {target}: {err}");
    }
    Ok(())
}
