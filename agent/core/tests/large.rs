//! Very long policies, right and wrong, are read, checked and compiled in about the time it takes
//! to read them.
//!
//! Comparing every line with every other makes the whole run fail.
//! `PEERWALL_LINES=100000` sets how long they are.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails should say so, and who runs it says how long the policies are"
)]

use peerwall_core::import::{Facts, File, import};
use peerwall_core::nft::observed::Observed;
use peerwall_core::nft::plan::plan;
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::ruleset::compile::compile;

fn lines() -> usize {
    std::env::var("PEERWALL_LINES").map_or(25_000, |lines| lines.parse().unwrap())
}

/// A line for each number.
fn each(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

fn net(number: usize) -> String {
    format!(
        "10.{}.{}.{}",
        number >> 16 & 255,
        number >> 8 & 255,
        number & 255
    )
}

/// A list of texts.
fn list(count: usize, text: impl Fn(usize) -> String) -> String {
    each(count, |number| format!("\"{}\", ", text(number)))
}

fn stories(n: usize) -> Vec<(&'static str, bool, String)> {
    let allow = |number: usize, from: &str| {
        let port = 1 + number % 60_000;
        format!(
            r#"
                [[allow]]
                name = "a{number}"
                ports = ["{port}/tcp"]
                from = "{from}"
            "#
        )
    };
    let groups = each(n, |number| format!("g{number} = \"{}\"\n", net(number)));
    let groups = format!("[groups]\n{groups}");
    let overlay = "[overlay.f]\nbackend = \"vxlan\"\nsubnets = [";
    let peers = each(n, |number| {
        format!("p{number} = \"11{}\"\n", &net(number)[2..])
    });
    vec![
        (
            "allows",
            true,
            each(n, |number| allow(number, &net(number))),
        ),
        (
            "allows for anybody",
            true,
            each(n, |number| allow(number, "any")),
        ),
        (
            "allows for nobody",
            false,
            each(n, |number| allow(number, &format!("g{number}"))),
        ),
        (
            "groups, each used",
            true,
            groups.clone() + &each(n, |number| allow(number, &format!("g{number}"))),
        ),
        (
            "groups in one from",
            true,
            format!(
                r#"
                    {groups}
                    [[allow]]
                    name = "a"
                    ports = ["22"]
                    from = [{}]
                "#,
                list(n, |number| format!("g{number}"))
            ),
        ),
        (
            "names that are not there",
            false,
            format!(
                r#"
                    {groups}
                    [[allow]]
                    name = "a"
                    ports = ["22"]
                    from = [{}]
                "#,
                list(n, |number| format!("h{number}"))
            ),
        ),
        (
            "wrong peers",
            false,
            format!(
                "[peers]\n{}",
                each(n, |number| format!("p{number} = \"{}/x\"\n", net(number)))
            ),
        ),
        (
            "wrong lines",
            false,
            format!(
                "[peers]\n{}",
                each(n, |number| format!("p{number} 10.0.0.1\n"))
            ),
        ),
        (
            "unknown keys",
            false,
            format!(
                "[options]\n{}",
                each(n, |number| format!("k{number} = 1\n"))
            ),
        ),
        (
            "the same key",
            false,
            format!("[peers]\n{}", each(n, |_| "p = \"10.0.0.1\"\n".into())),
        ),
        (
            "ports",
            true,
            format!(
                r#"
                    [[allow]]
                    name = "a"
                    from = "any"
                    ports = [{}]
                "#,
                list(n.min(65_535), |number| format!("{}/tcp", number + 1))
            ),
        ),
        (
            "subnets and peers",
            true,
            format!(
                "[peers]\n{peers}{overlay}{}]\n",
                list(n.min(65_536), |number| format!(
                    "10.{}.{}.0/24",
                    number >> 8 & 255,
                    number & 255
                ))
            ),
        ),
        (
            "overlapping overlays",
            false,
            each(n, |number| {
                format!(
                    r#"
                        [overlay.f{number}]
                        backend = "none"
                        subnets = ["10.0.0.0/8"]
                        interfaces = ["c{number}"]
                    "#
                )
            }),
        ),
        (
            "guests",
            true,
            format!(
                r#"
                    [peers]
                    a = "192.0.2.1"
                    [interfaces]
                    guests = [{}]
                "#,
                list(n / 10, |number| format!("v{number}"))
            ),
        ),
        (
            "nesting",
            false,
            format!("a = {}{}\n", "[".repeat(n), "]".repeat(n)),
        ),
        ("garbage", false, "\u{1}= [ {{\n".repeat(n)),
    ]
}

#[test]
fn long_policies_take_no_longer_than_they_are_long() {
    for (name, is_right, text) in stories(lines()) {
        let text = format!("version = 1\n{text}");
        let loaded = load("policy.toml", &text, &NoFiles);
        let said = loaded.sources.render(&loaded.diagnostics, false);
        for diagnostic in &loaded.diagnostics {
            loaded.sources.json(diagnostic);
        }
        assert_eq!(loaded.policy.is_some(), is_right, "{name}: {said}");
        assert!(said.len() < 200_000, "{name}: {} bytes", said.len());
        if let Some(policy) = loaded.policy {
            let (ruleset, _) = compile(&policy);
            assert!(!plan(&ruleset, &Observed::default()).is_empty());
        }
    }
}

/// Each `-N` used to look through all rules above it.
#[test]
fn a_long_script_of_chains_takes_no_longer_than_it_is_long() {
    let chains = each(lines(), |number| {
        format!("iptables -N c{number}\niptables -A c{number} -j RETURN\n")
    });
    let text = format!("#!/bin/sh\niptables -P INPUT DROP\n{chains}");
    let family = None;
    let name = "firewall.sh".to_owned();
    let file = File { name, text, family };
    let imported = import(&[file], &Facts::default()).unwrap();
    assert_eq!(imported.lines.len(), 2 * lines() + 2);
}
