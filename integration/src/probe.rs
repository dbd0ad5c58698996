//! Servers and clients: does it get through?

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ns::Host;

/// How long to wait for what should come. Noisy machines need it; nothing waits it out that works.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for what should not come.
pub const IMPATIENCE: Duration = Duration::from_millis(350);

/// Answers every TCP connection to this address with the host's name, until the world ends.
///
/// # Panics
/// If the address cannot be listened on.
pub fn tcp_server(host: &Host, address: &str) {
    let address = address.to_owned();
    let name = host.name.clone();
    let listener = host.run(|| {
        TcpListener::bind(&address)
            .unwrap_or_else(|err| panic!("{name}: listen on {address}: {err}"))
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

/// Counts and echoes datagrams to this address, until the world ends.
///
/// # Panics
/// If the address cannot be bound.
pub fn udp_server(host: &Host, address: &str) -> Arc<AtomicU64> {
    let name = &host.name;
    let socket = host.run(|| {
        UdpSocket::bind(address).unwrap_or_else(|err| panic!("{name}: bind {address}: {err}"))
    });
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    count
}

/// Connects by TCP and returns the name of who answered; `None` if nobody did within `wait`.
pub fn tcp(from: &Host, to: &str, wait: Duration) -> Option<String> {
    let to: SocketAddr = to.parse().ok()?;
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, wait).ok()?;
        stream.set_read_timeout(Some(wait)).ok()?;
        let mut name = String::new();
        stream.read_to_string(&mut name).ok()?;
        Some(name)
    })
}

/// Sends a datagram and waits for its echo.
pub fn udp(from: &Host, to: &str, wait: Duration) -> bool {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    from.run(|| {
        let Ok(socket) = UdpSocket::bind(any) else {
            return false;
        };
        let mut buffer = [0; 16];
        socket.set_read_timeout(Some(wait)).is_ok()
            && socket.send_to(b"ping", to).is_ok()
            && socket.recv_from(&mut buffer).is_ok()
    })
}

/// Pings once.
pub fn ping(from: &Host, to: &str, wait: Duration) -> bool {
    let seconds = wait.as_secs_f64().max(0.2);
    from.try_sh(&format!("ping -c 1 -W {seconds} {to}"))
        .status
        .success()
}
