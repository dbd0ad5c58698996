//! The file with the state of a source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// State of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not answered yet since the program started.
    Starting,
    /// The last attempt succeeded.
    Fresh,
    /// No server answers as it should.
    Failing,
}

/// The last error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    kind: Kind,
    message: String,
}

impl LastError {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<&Error> for LastError {
    fn from(err: &Error) -> Self {
        let (kind, message) = (err.kind, err.message.clone());
        Self { kind, message }
    }
}

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    version: u8,
    /// The state.
    pub state: State,
    /// Time of the last proof that the addresses are complete, in seconds since 1970.
    pub fresh: Option<u64>,
    /// Why the state is `failing`, or what is wrong although it is `fresh`.
    pub error: Option<LastError>,
    /// Number of errors by kind since the program started.
    pub errors: BTreeMap<Kind, u64>,
    /// When the first of the credentials expires, in seconds since 1970.
    pub credential_end: Option<u64>,
    /// Number of addresses in the file.
    pub members: usize,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            version: 1,
            state: State::Starting,
            fresh: None,
            error: None,
            errors: BTreeMap::new(),
            credential_end: None,
            members: 0,
        }
    }
}

impl Status {
    /// Returns the text of the file.
    pub fn encode(&self) -> String {
        // Numbers, texts and keys that are texts: this cannot fail.
        let text = serde_json::to_string(self).unwrap_or_default();
        format!("{text}\n")
    }

    /// Whether the other status only differs in the time of the last proof.
    pub fn differs_in_time_only(&self, other: &Self) -> bool {
        let same_time = Self {
            fresh: other.fresh,
            ..self.clone()
        };
        same_time == *other
    }
}

/// Reads the time of the last proof from a status file, for a program that starts again.
pub fn fresh_of(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Fresh {
        fresh: Option<u64>,
    }
    serde_json::from_str::<Fresh>(text).ok()?.fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_documented() {
        let err = Error::new(Kind::Unauthorized, "401 from https://10.0.0.1:6443");
        let status = Status {
            state: State::Failing,
            fresh: Some(1732650000),
            error: Some((&err).into()),
            errors: [(Kind::Unauthorized, 3), (Kind::TooMany, 1)].into(),
            credential_end: Some(1735000000),
            members: 2,
            ..Status::default()
        };
        let text = status.encode();
        assert_eq!(
            text,
            r#"{"version":1,"state":"failing","fresh":1732650000,"error":{"kind":"unauthorized","message":"401 from https://10.0.0.1:6443"},"errors":{"unauthorized":3,"too_many":1},"credential_end":1735000000,"members":2}"#.to_owned() + "\n"
        );
        assert_eq!(fresh_of(&text), Some(1732650000));
        assert_eq!(fresh_of(&Status::default().encode()), None);
        assert_eq!(fresh_of("x"), None);
        let later = Status {
            fresh: Some(1732650001),
            ..status.clone()
        };
        assert!(later.differs_in_time_only(&status));
        assert!(!Status::default().differs_in_time_only(&status));
    }
}
