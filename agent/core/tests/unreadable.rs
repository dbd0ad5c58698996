//! Files that cannot be read at the moment, and files that others could have written.

use peerwall_core::net::host::Host;
use peerwall_core::net::link::Link;
use peerwall_core::policy::load::{Files, Loaded, ReadError, Text, load};

const INCLUDES: &str = r#"
    version = 1
    include = ["more.toml"]
    [peers]
    a = "192.0.2.1"
"#;
const LISTS: &str = "version = 1\npeers_files = [\"list\"]\n";
const DISCOVERS: &str = r#"
    version = 1
    [peers]
    a = "192.0.2.1"
    [overlay.f]
    backend = "vxlan"
    discover = "subnet.env"
"#;
const PLAIN: &str = r#"
    version = 1
    [peers]
    a = "192.0.2.1"
"#;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fails {
    Read,
    Glob,
    LastGood,
    Link,
    Host,
}

/// A host on which one thing fails.
struct Failing {
    what: Fails,
    passes: bool,
}

impl Failing {
    fn fail<T>(&self, what: Fails, otherwise: T) -> Result<T, ReadError> {
        let why = || "too many open files".to_owned();
        match (self.what == what, self.passes) {
            (false, _) => Ok(otherwise),
            (true, true) => Err(ReadError::Passing(why())),
            (true, false) => Err(ReadError::Wrong(why())),
        }
    }
}

impl Files for Failing {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        let text = match path {
            "more.toml" => "[peers]\nb = \"192.0.2.2\"\n",
            "list" => "192.0.2.3\n",
            // It is not there, so that what was good last is asked for.
            _ if self.what == Fails::LastGood => return Err(ReadError::Wrong("gone".into())),
            _ => "FLANNEL_NETWORK=10.244.0.0/16\n",
        };
        let read = Text {
            name: path.to_owned(),
            text: text.to_owned(),
            doubts: vec![format!("{path} belongs to user 1000")],
        };
        self.fail(Fails::Read, read)
    }
    fn glob(&self, pattern: &str, _: &str) -> Result<Vec<String>, ReadError> {
        self.fail(Fails::Glob, vec![pattern.to_owned()])
    }
    fn last_good(&self, _: &str, _: &str) -> Result<Option<Text>, ReadError> {
        self.fail(Fails::LastGood, None)
    }
    fn waits(&self) -> bool {
        true
    }
    fn link(&self, _: &str) -> Result<Option<Link>, ReadError> {
        self.fail(Fails::Link, None)
    }
    fn host(&self) -> Result<Option<Host>, ReadError> {
        self.fail(Fails::Host, None)
    }
}

fn with(text: &str, what: Fails, passes: bool) -> Loaded {
    load("policy.toml", text, &Failing { what, passes })
}

#[test]
fn what_cannot_be_read_at_the_moment_makes_no_policy_whatever_it_is() {
    for (what, text) in [
        (Fails::Read, INCLUDES),
        (Fails::Read, LISTS),
        (Fails::Read, DISCOVERS),
        (Fails::Glob, INCLUDES),
        (Fails::LastGood, DISCOVERS),
        (Fails::Link, DISCOVERS),
        (Fails::Host, PLAIN),
    ] {
        let loaded = with(text, what, true);
        let passing = loaded.passing.unwrap_or_default();
        assert!(loaded.policy.is_none(), "{what:?}: {text}");
        assert!(passing.contains("too many open files"), "{what:?}: {text}");
    }
}

#[test]
fn what_stays_unreadable_is_about_the_policy() {
    for (what, text) in [
        (Fails::Read, INCLUDES),
        (Fails::Read, LISTS),
        (Fails::Glob, INCLUDES),
    ] {
        let loaded = with(text, what, false);
        assert_eq!(loaded.passing, None, "{what:?}: {text}");
        assert!(loaded.has_errors(), "{what:?}: {text}");
    }
    // Missing discovery is not an error.
    let loaded = with(DISCOVERS, Fails::Read, false);
    assert!(loaded.policy.unwrap().overlays[0].subnets.is_empty());
}

#[test]
fn doubts_of_every_file_are_told() {
    for (text, file) in [
        (INCLUDES, "more.toml"),
        (LISTS, "list"),
        (DISCOVERS, "subnet.env"),
    ] {
        // Read fails nowhere.
        let loaded = with(text, Fails::Host, false);
        assert_eq!(
            loaded.doubts,
            [format!("{file} belongs to user 1000")],
            "{text}"
        );
    }
}
