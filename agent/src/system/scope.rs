//! Moves this process from the control group of its unit or session into its own systemd scope.
//!
//! systemd kills the remaining processes of a unit when the unit is stopped or its main process
//! ends, and those of a session at logout (`KillUserProcesses=`), even if they are in their own
//! session (setsid(2)). A scope contains an existing process, with its namespaces and limits, in
//! another group.
//!
//! The request goes directly to process 1: `StartTransientUnit` of `org.freedesktop.systemd1(5)`,
//! over the socket that systemctl(1) uses as root, which exists before the message bus. A D-Bus
//! message consists of a header and a body of aligned values:
//! <https://dbus.freedesktop.org/doc/dbus-specification.html>.

#![expect(
    clippy::host_endian_bytes,
    reason = "a message says which order of bytes it has"
)]

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const SOCKET: &str = "/run/systemd/private";
/// Time limit for each response of process 1.
const PATIENCE: Duration = Duration::from_secs(2);
/// Maximum size of a message of systemd; its signals are much shorter.
const MESSAGE_MAX_BYTES: usize = 1024 * 1024;
/// Maximum number of messages before the response.
const MESSAGES_MAX: u32 = 1000;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// Fields of the header.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Moves this process into the scope `NAME-PID.scope`.
///
/// # Errors
/// [`io::Error`] if systemd does not run or refuses; the process stays in its control group.
pub fn enter(name: &str, description: &str) -> io::Result<()> {
    let mut systemd = UnixStream::connect(SOCKET)?;
    systemd.set_read_timeout(Some(PATIENCE))?;
    systemd.set_write_timeout(Some(PATIENCE))?;
    authenticate(&mut systemd)?;
    let unit = format!("{name}-{}.scope", std::process::id());
    systemd.write_all(&start_scope(&unit, description))?;
    await_answer(&mut systemd)
}

/// Authenticates with `AUTH EXTERNAL`: systemd reads the user of this process from the socket.
fn authenticate(systemd: &mut UnixStream) -> io::Result<()> {
    let uid = nix::unistd::geteuid().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    systemd.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        systemd.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > 1024 {
            break;
        }
    }
    if !line.starts_with(b"OK ") {
        let said = String::from_utf8_lossy(&line);
        return Err(io::Error::other(format!("systemd: {}", said.trim_end())));
    }
    systemd.write_all(b"BEGIN\r\n")
}

/// Builds the call `StartTransientUnit(name, mode, properties, auxiliary units)`.
fn start_scope(unit: &str, description: &str) -> Vec<u8> {
    let mut body = Message::default();
    body.string(unit);
    body.string("fail");
    body.array(8, |body| {
        body.property("Description", "s", |body| body.string(description));
        // The scope is removed when its process ends, even if it was killed.
        body.property("CollectMode", "s", |body| body.string("inactive-or-failed"));
        // 0 is the sender, in any PID namespace.
        body.property("PIDs", "au", |body| body.array(4, |body| body.number(0)));
    });
    body.array(8, |_| {});
    call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body)
}

fn call(member: &str, signature: &str, body: &Message) -> Vec<u8> {
    let mut message = Message::default();
    let order = if cfg!(target_endian = "big") {
        b'B'
    } else {
        b'l'
    };
    // The byte order, the type, no flags, the protocol version.
    message.0.extend([order, METHOD_CALL, 0, 1]);
    message.number(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.number(1); // the serial number
    message.array(8, |message| {
        for (field, kind, value) in [
            (PATH, "o", "/org/freedesktop/systemd1"),
            (INTERFACE, "s", "org.freedesktop.systemd1.Manager"),
            (MEMBER, "s", member),
            (DESTINATION, "s", "org.freedesktop.systemd1"),
            (SIGNATURE, "g", signature),
        ] {
            message.align(8);
            message.0.push(field);
            message.signature(kind);
            match kind {
                "g" => message.signature(value),
                _ => message.string(value),
            }
        }
    });
    message.align(8);
    message.0.extend(&body.0);
    message.0
}

/// Reads until the response to the call. All other messages are signals.
fn await_answer(systemd: &mut UnixStream) -> io::Result<()> {
    for _ in 0..MESSAGES_MAX {
        let mut start = [0; 16];
        systemd.read_exact(&mut start)?;
        let number = |at: usize| {
            let bytes = [start[at], start[at + 1], start[at + 2], start[at + 3]];
            usize::try_from(u32::from_ne_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (body, fields) = (number(4), number(12));
        let rest = fields.div_ceil(8).saturating_mul(8).saturating_add(body);
        if rest > MESSAGE_MAX_BYTES {
            break;
        }
        let mut message = vec![0; rest];
        systemd.read_exact(&mut message)?;
        match start[1] {
            METHOD_RETURN => return Ok(()),
            ERROR => {
                let why = String::from_utf8_lossy(&message[rest - body..]).into_owned();
                let why: String = why.chars().filter(|c| !c.is_control()).collect();
                return Err(io::Error::other(format!("systemd: {why}")));
            }
            _ => {}
        }
    }
    Err(io::Error::other("systemd: no answer"))
}

/// D-Bus values, in the byte order of this machine.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_ne_bytes());
    }

    fn string(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.bytes().chain([0]));
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.bytes().chain([0]));
    }

    /// Appends an array. Its length does not include the padding before the first element.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        elements(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Appends a property of a unit: a name and a variant.
    fn property(&mut self, name: &str, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.string(name);
        self.signature(signature);
        value(self);
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead as _;

    use super::*;

    /// The first element of an array of structures is aligned to 8, and the length counts from
    /// there.
    #[test]
    fn values_are_aligned_and_arrays_do_not_count_their_padding() {
        let mut message = Message::default();
        message.signature("s");
        message.string("ab");
        message.array(8, |message| {
            message.property("P", "u", |body| body.number(7))
        });
        let number = |value: u32| value.to_ne_bytes().to_vec();
        let expected = [
            vec![1, b's', 0, 0],
            [number(2), vec![b'a', b'b', 0, 0]].concat(),
            number(16),
            [number(1), vec![b'P', 0, 1, b'u', 0, 0, 0, 0], number(7)].concat(),
        ];
        assert_eq!(message.0, expected.concat());
    }

    /// Behaves like systemd: sends signals before the response, and errors have a text.
    #[test]
    fn signals_are_passed_over_and_an_error_is_told() {
        let message = |kind: u8, text: &str| {
            let mut body = Message::default();
            body.string(text);
            let mut message = call("Any", "s", &body);
            message[1] = kind;
            message
        };
        const SIGNAL: u8 = 4;
        for (answer, expected) in [
            (message(METHOD_RETURN, "/job/1"), Ok(())),
            (message(ERROR, "Unit exists"), Err("systemd: Unit exists")),
        ] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(&message(SIGNAL, "JobNew")).unwrap();
            theirs.write_all(&answer).unwrap();
            let said = await_answer(&mut ours).map_err(|err| err.to_string());
            assert_eq!(said, expected.map_err(str::to_owned));
        }
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(b"REJECTED EXTERNAL\r\n").unwrap();
        assert!(authenticate(&mut ours).is_err());
        let mut line = String::new();
        io::BufReader::new(theirs).read_line(&mut line).unwrap();
        assert!(line.starts_with("\0AUTH EXTERNAL 3"), "{line:?}");
    }
}
