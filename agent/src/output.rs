//! Printing. Output is an interface: one value, printed for people or as JSON.

use std::io::{self, Write};

use serde::Serialize;

/// Where a command prints.
pub struct Output {
    json: bool,
}

impl Output {
    /// For people, or as JSON.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is wanted.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints text for people.
    pub fn text(&self, text: &str) {
        put(&mut io::stdout().lock(), text);
    }

    /// Prints a value as JSON.
    pub fn json(&self, value: &impl Serialize) {
        let mut text = serde_json::to_string_pretty(value)
            .expect("our own values have text keys only, which is all that JSON asks for");
        text.push('\n');
        put(&mut io::stdout().lock(), &text);
    }
}

/// Prints what is wrong.
pub fn complain(text: &str) {
    put(&mut io::stderr().lock(), text);
}

/// Writes it all; a reader that went away is nobody's error.
fn put(to: &mut impl Write, text: &str) {
    let result = to.write_all(text.as_bytes()).and_then(|()| to.flush());
    if let Err(err) = result
        && err.kind() != io::ErrorKind::BrokenPipe
    {
        log::error!("cannot write output: {err}");
    }
}
