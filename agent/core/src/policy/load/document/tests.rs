//! Compares documents with those of the crate `toml`.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::builder::{build, build_by};
use super::{parse, recover};

/// Parts of documents. Some fit together, others do not.
const PARTS: [&str; 56] = [
    "\n",
    "\n\n",
    "\r\n",
    " ",
    "\t",
    "# note\n",
    "version = 1\n",
    "[peers]\n",
    "[[allow]]\n",
    "[ allow ]\n",
    "[[ allow ]] # note\n",
    "[overlay.pods]\n",
    "[overlay.'a b']\n",
    "[overlay]\n",
    "[[overlay.pods]]\n",
    "[[allow.more]]\n",
    "[allow.more]\n",
    "[a.b.c]\n",
    "[a]\n",
    "[[a.b]]\n",
    "a = \"10.0.0.1\"\n",
    "b = ['10.0.0.1', \"10.0.0.2\"]\n",
    "\"c d\" = 'x'\n",
    "é = 1\n",
    "name = \"na\\tme \\u00e9\"\n",
    "name = \"\"\"\none\n\ntwo\"\"\"\n",
    "ports = '''[{'''\n",
    "ports = [\n  \"22/tcp\", # ssh\n\n  \"80/tcp\",\n]\n",
    "from = []\n",
    "a.b = 1\n",
    "denied = { rate = \"1/second\", group = 5 }\n",
    "denied = {\n  a = 1, # one\n}\n",
    "x = {}\n",
    "n = 0x1F\n",
    "n = -1_000\n",
    "n = 99999999999999999999\n",
    "f = 1.5e3\n",
    "f = nan\n",
    "t = true\n",
    "d = 1979-05-27\n",
    "deep = [[[1], { k = [2] }], []]\n",
    "a = [{ b = 1 }]\n",
    "a = { b = { c = 1 }, b = 2 }\n",
    "a = { b.c = 1 }\n",
    "broken = \n",
    "= 1\n",
    "a = [1\n",
    "]\n",
    "a = \"open\n",
    "[unclosed\n",
    "x = 1 y = 2\n",
    "a = 1",
    "[\n",
    "}\n",
    "\u{feff}",
    "\"\"\"",
];

/// Compares a document with that of the crate `toml`, whatever the size of the blocks.
fn compare(text: &str) {
    let (whole, errors) = recover(text);
    let wanted = errors.is_empty().then_some(&whole);
    for count in [1, 7, 1024] {
        if let Some(built) = build_by(text, count) {
            assert_eq!(Some(&built), wanted, "blocks of {count} tokens: {text:?}");
        }
    }
    let (parsed, told) = parse(text);
    assert_eq!(parsed, whole, "{text:?}");
    assert_eq!(told, errors, "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn documents_are_those_of_toml(parts in prop::collection::vec(0..PARTS.len(), 0..12)) {
        let text: String = parts.iter().map(|at| PARTS[*at]).collect();
        compare(&text);
    }

    /// A byte more or less breaks a policy at any place.
    #[test]
    fn broken_documents_are_those_of_toml(
        at in 0..EXAMPLE.len(),
        cut in 0..4usize,
        put in "[\\[\\]{}\"'=.,# \\n\\\\a1]{0,3}",
    ) {
        let end = (at + cut).min(EXAMPLE.len());
        compare(&format!("{}{put}{}", &EXAMPLE[..at], &EXAMPLE[end..]));
    }
}

const EXAMPLE: &str = r#"version = 1 # of the language
include = ["policy.d/*.toml"]

[peers]
node-1 = "192.0.2.1"
"node 2" = ["192.0.2.2", '2001:db8::2'] # both

[overlay.pods]
backend = "vxlan"
subnets = [
    "10.244.0.0/16", # IPv4
    "2001:db8:244::/56",
]

[[allow]]
name = "ssh"
ports = ["22/tcp"]
from = "any"

[[allow]]
name = "web\u002d1"
ports = ["80/tcp", "443/tcp"]
from = ["192.0.2.0/24"]

[log]
denied = { rate = "10/second burst 20", group = 5 }
"#;

/// Returns all TOML files of the repository.
#[expect(clippy::disallowed_methods, reason = "fixtures are files")]
fn files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut folders: Vec<PathBuf> = ["agent", "integration", "contrib", "proto"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "toml") {
                // Some are deliberately not UTF-8.
                found.extend(std::fs::read_to_string(&path).ok().map(|text| (path, text)));
            }
        }
    }
    found
}

#[test]
fn every_file_is_that_of_toml_and_valid_policies_are_built() {
    let files = files();
    let (mut valid, mut built) = (0, 0);
    for (path, text) in &files {
        compare(text);
        let is_policy = path.ends_with("policy.toml");
        if is_policy && recover(text).1.is_empty() {
            valid += 1;
            built += usize::from(build(text).is_some());
        }
    }
    assert!(files.len() > 200, "{} files", files.len());
    assert!(valid > 60, "{valid} valid policies");
    assert_eq!(built, valid, "a policy needs the slow parser");
}

#[test]
fn what_is_rare_is_left_to_toml() {
    for (name, text, is_built) in [
        (
            "keys and tables",
            "a = 1\n[b]\nc = 2\n[[d]]\ne = 3\n[[d]]\n",
            true,
        ),
        (
            "a table in a table",
            "[a]\n[a.b]\n[c.d]\n[[e.f]]\n[e.f.g]\n",
            true,
        ),
        ("a dotted key", "a.b = 1\n", false),
        ("a date", "a = 1979-05-27\n", false),
        ("a table after one in it", "[a.b]\n[a]\n", false),
        ("an extended inline table", "a = { b = 1 }\n[a.c]\n", false),
        ("an extended list", "a = [{ b = 1 }]\n[[a]]\n", false),
        ("a key twice", "a = 1\na = 2\n", false),
        ("an error", "a = \n", false),
    ] {
        assert_eq!(build(text).is_some(), is_built, "{name}");
        compare(text);
    }
}

#[test]
fn large_documents_are_built() {
    let many = 5000;
    let mut text = "version = 1\n[peers]\n".to_owned();
    text.extend((0..many).map(|n| format!("p{n} = \"10.0.{}.{}\"\n", n / 256, n % 256)));
    text.extend((0..many).map(|n| format!("[[allow]]\nname = \"a{n}\"\nfrom = [\n'any'\n]\n")));
    let built = build(&text).unwrap();
    compare(&text);
    let length = |key: &str| {
        let value = built.entry(key).unwrap().1.get_ref();
        let table = value.as_table().map(|table| table.entries().len());
        table.or_else(|| value.as_array().map(<[_]>::len))
    };
    assert_eq!(length("peers"), Some(many));
    assert_eq!(length("allow"), Some(many));
    text.push_str("[more]\np = 1\np = 2\n");
    assert!(build(&text).is_none());
    compare(&text);
}
