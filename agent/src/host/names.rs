//! Makes names of foreign processes, tables and chains safe to print.

pub use peerwall_core::exposed::printable;

/// Returns a printable process name. The kernel's (`/proc/PID/comm`, `NFTA_GEN_PROC_NAME`) may
/// contain any bytes.
pub fn process(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    printable(String::from_utf8_lossy(name).trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_so_that_a_terminal_takes_no_orders_from_them() {
        for (name, given, want) in [
            ("of a file", &b"nft\n"[..], "nft"),
            ("of a message", b"nft\0\0", "nft"),
            ("none", b"", ""),
            ("not UTF-8", b"ev\xffil", "ev\u{fffd}il"),
            ("clears the screen", b"\x1b[2J", "\\u{1b}[2J"),
            ("a line of its own", b"a\nb\r", "a\\nb\\r"),
            ("C1 control", "a\u{9b}b".as_bytes(), "a\\u{9b}b"),
            ("right to left", "a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            (
                "quotes and letters",
                "it's \"ö\" \\".as_bytes(),
                "it's \"ö\" \\",
            ),
        ] {
            assert_eq!(process(given), want, "{name}");
        }
    }
}
