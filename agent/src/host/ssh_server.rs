//! What is known of this host's ssh server without looking into its processes.
//!
//! Under its unit, the agent may not: reading `/proc/PID/fd` of another process takes all of that
//! one's capabilities, or `CAP_SYS_PTRACE` (ptrace(2), "Ptrace access mode checking").

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Where sshd is configured (sshd_config(5)), and the directory that distributions include from
/// there.
const CONFIG: &str = "/etc/ssh/sshd_config";
const CONFIG_FOLDER: &str = "/etc/ssh/sshd_config.d";
/// The port without any configuration (RFC 4251).
const PORT: u16 = 22;
/// What systemd-logind knows of sessions, a file each (`src/login/logind-session.c`).
const SESSIONS: &str = "/run/systemd/sessions";

/// Ports that this host's ssh server listens on, as far as its configuration tells; port 22 always.
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

/// Ports of a configuration file: of `Port`, and of addresses of `ListenAddress` that have one.
fn ports_of(text: &str) -> Vec<u16> {
    let port = |line: &str| {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let (key, value) = (words.next()?, words.next()?);
        match key.to_ascii_lowercase().as_str() {
            "port" => value.parse().ok(),
            "listenaddress" => {
                let (host, port) = value.rsplit_once(':')?;
                // `::1` is an address without a port; with one it is `[::1]:22`.
                let has_port = !host.contains(':') || host.ends_with(']');
                has_port.then(|| port.parse().ok())?
            }
            _ => None,
        }
    };
    text.lines().filter_map(port).collect()
}

/// Addresses from which users are logged in by ssh, as systemd-logind has them: without those who
/// have only opened a connection. `None` if that is not known.
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
            // With `UseDNS yes` it may be a name: then the address is not known.
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
        let text = "# Port 1\nPort 2222\n port=2223\nPORT\t2224\nListenAddress 0.0.0.0\nListenAddress 192.0.2.1:2225\nListenAddress ::1\nListenAddress [::1]:2226\nListenAddress node:2227\nPortable 9\nPort x\n";
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
