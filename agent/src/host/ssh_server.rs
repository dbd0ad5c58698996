//! Ports and sessions of this host's ssh server, without access to its processes.
//!
//! The agent's unit denies that access: reading `/proc/PID/fd` of another process requires all of
//! its capabilities, or `CAP_SYS_PTRACE` (ptrace(2), "Ptrace access mode checking").

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Configuration file of sshd (sshd_config(5)), and the directory that distributions include from
/// it.
const CONFIG: &str = "/etc/ssh/sshd_config";
const CONFIG_FOLDER: &str = "/etc/ssh/sshd_config.d";
/// Default port (RFC 4251).
const PORT: u16 = 22;
/// Session files of systemd-logind, one for each session (`src/login/logind-session.c`).
const SESSIONS: &str = "/run/systemd/sessions";

/// Returns the configured ports of this host's ssh server, and always port 22.
pub fn ports() -> BTreeSet<u16> {
    let included = fs::read_dir(CONFIG_FOLDER).into_iter().flatten().flatten();
    let files = included
        .map(|entry| entry.path())
        .chain([CONFIG.into()])
        .filter(|path| path.is_file());
    let texts = files.filter_map(|path| fs::read_to_string(path).ok());
    let mut ports: BTreeSet<u16> = texts.flat_map(|text| ports_of(&text)).collect();
    ports.insert(PORT);
    ports
}

/// Ports of a configuration file, from `Port` and from addresses with a port in `ListenAddress`.
fn ports_of(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let (key, value) = (words.next()?, words.next()?);
        match key.to_ascii_lowercase().as_str() {
            "port" => value.parse().ok(),
            "listenaddress" => {
                let (host, port) = value.rsplit_once(':')?;
                // `::1` is an address without a port, `[::1]:22` one with a port.
                let has_port = !host.contains(':') || host.ends_with(']');
                has_port.then(|| port.parse().ok())?
            }
            _ => None,
        }
    };
    text.lines().filter_map(port).collect()
}

/// Returns the addresses of users who are logged in by ssh, according to systemd-logind.
/// Connections that have not logged in yet are not included. `None` if the sessions cannot be read.
pub fn logged_in() -> Option<BTreeSet<IpAddr>> {
    logged_in_by(Path::new(SESSIONS))
}

fn logged_in_by(folder: &Path) -> Option<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).ok()? {
        let Ok(text) = fs::read_to_string(entry.ok()?.path()) else {
            continue; // a pipe that keeps the session alive, or it has just ended
        };
        let value = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        if value("REMOTE") == Some("1") && value("SERVICE") == Some("sshd") {
            // With `UseDNS yes` it may be a name, so the address is unknown.
            let host: IpAddr = value("REMOTE_HOST")?.parse().ok()?;
            found.insert(host.to_canonical());
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_sshd_reads_them() {
        let text = "# Port 1\nPort 2222\n port=2223\nPORT\t2224\nListenAddress \
            0.0.0.0\nListenAddress 192.0.2.1:2225\nListenAddress ::1\nListenAddress \
            [::1]:2226\nListenAddress node:2227\nPortable 9\nPort x\n";
        assert_eq!(ports_of(text), [2222, 2223, 2224, 2225, 2226, 2227]);
    }

    #[test]
    fn sessions_tell_who_is_logged_in_by_ssh() {
        let folder = tempdir("sessions");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        assert_eq!(logged_in_by(&folder), Some(BTreeSet::new()));
        write(
            "1",
            "UID=0\nREMOTE=1\nREMOTE_HOST=198.51.100.2\nSERVICE=sshd\n",
        );
        write("2", "UID=0\nREMOTE=0\nSERVICE=login\n");
        write(
            "3",
            "UID=0\nREMOTE=1\nREMOTE_HOST=203.0.113.9\nSERVICE=cockpit\n",
        );
        let one = BTreeSet::from(["198.51.100.2".parse().unwrap()]);
        assert_eq!(logged_in_by(&folder), Some(one));
        write("4", "REMOTE=1\nREMOTE_HOST=laptop.example\nSERVICE=sshd\n");
        assert_eq!(logged_in_by(&folder), None);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(logged_in_by(&folder), None);
    }

    fn tempdir(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("peerwall-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}
