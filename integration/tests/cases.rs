//! Every case, in every way: the policy's words, the ruleset, and real packets through nf_tables,
//! iptables-legacy and iptables-nft.
//!
//! `PEERWALL_BLESS=1` writes the goldens anew; read the difference before you keep it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

use std::collections::BTreeSet;
use std::path::Path;

use peerwall::files::FileSystem;
use peerwall_core::compile::compile;
use peerwall_core::policy::Policy;
use peerwall_core::policy::load::load;
use peerwall_integration::case::{self, Case};
use peerwall_integration::netns_test;
use peerwall_integration::story::Flavour;
use peerwall_integration::target::{Target, agrees, listing};

fn policy(case: &Case) -> Policy {
    let path = case.folder.join("policy.toml");
    let text = FileSystem::text(&path).unwrap();
    let loaded = load(&path.display().to_string(), &text, &FileSystem::default());
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    loaded.policy.unwrap_or_else(|| panic!("{shown}"))
}

/// The listing must be the golden, and must load again to the very same table.
fn check_golden(case: &Case, target: &Target) {
    let path = case.folder.join("ruleset.nft");
    let got = listing(target.host());
    if std::env::var_os("PEERWALL_BLESS").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        got == want,
        "{}: `nft list table inet peerwall` is not {}:\n{got}",
        case.name,
        path.display()
    );
    let policy = case.folder.join("policy.toml").display().to_string();
    let host = target.host();
    for load in [
        format!(
            "nft delete table inet peerwall && nft -f {}",
            path.display()
        ),
        format!(
            "nft delete table inet peerwall && {} render {policy} 2>/dev/null | nft -f -",
            bin()
        ),
        format!(
            "nft delete table inet peerwall && {} render --format json {policy} 2>/dev/null | nft -j -f -",
            bin()
        ),
    ] {
        host.sh(&load);
        let plan = host.peerwall(&["plan", &policy]);
        assert_eq!(
            plan.status.code(),
            Some(0),
            "{}: after `{load}` the table differs:\n{}",
            case.name,
            String::from_utf8_lossy(&plan.stdout)
        );
        assert_eq!(listing(host), want, "{}: after `{load}`", case.name);
    }
    host.sh("nft delete table inet peerwall");
    target.apply(Path::new(&policy));
}

fn bin() -> String {
    peerwall_integration::ns::peerwall_bin()
        .display()
        .to_string()
}

/// Restore texts of a case: `restore.v4`, `restore.v6`, or what iptables cannot say.
fn check_restore_golden(case: &Case, target: &Target) -> bool {
    let policy = case.folder.join("policy.toml").display().to_string();
    let mut can = true;
    for (format, name) in [("iptables", "restore.v4"), ("ip6tables", "restore.v6")] {
        let output = target
            .host()
            .peerwall(&["render", "--format", format, &policy]);
        can &= output.status.success();
        let said = String::from_utf8(match output.status.success() {
            true => output.stdout,
            false => output.stderr,
        });
        let got = said
            .unwrap()
            .replace(&format!("{}/", case.folder.display()), "");
        let path = case.folder.join(name);
        if std::env::var_os("PEERWALL_BLESS").is_some() {
            std::fs::write(&path, &got).unwrap();
        }
        let want = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            got == want,
            "{}: `render --format {format}` is not {name}:\n{got}",
            case.name
        );
    }
    can
}

fn check(case: &Case) -> usize {
    let policy = policy(case);
    let (ruleset, _) = compile(&policy);
    let mut wrong = Vec::new();
    for line in &case.packets {
        let verdict = policy.verdict(&line.packet);
        if verdict != line.want {
            wrong.push(format!(
                "packets.txt:{}: {}: the policy says {verdict}",
                line.number, line.text
            ));
        }
        let walk = ruleset.eval(&line.packet);
        if walk.decision().as_ref() != Some(&line.want) {
            wrong.push(format!(
                "packets.txt:{}: {}: the ruleset says {walk:?}",
                line.number, line.text
            ));
        }
    }
    let mut target = Target::new();
    // The first packet must not find an interface that is not there when the rules are loaded; but
    // some cases want just that, so interfaces come when the first packet for them does.
    target.apply(&case.folder.join("policy.toml"));
    check_golden(case, &target);
    for line in &case.packets {
        let got = target.judge(&line.packet, &line.want);
        if !agrees(&line.want, &got) {
            wrong.push(format!(
                "packets.txt:{}: {}: the kernel says {got}",
                line.number, line.text
            ));
        }
    }
    if check_restore_golden(case, &target) {
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            target.load_iptables(&case.folder.join("policy.toml"), flavour);
            for line in &case.packets {
                let got = target.judge(&line.packet, &line.want);
                if !agrees(&line.want, &got) {
                    wrong.push(format!(
                        "packets.txt:{}: {}: {flavour:?} iptables says {got}",
                        line.number, line.text
                    ));
                }
            }
            target.unload_iptables();
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", case.name, wrong.join("\n"));
    case.packets.len()
}

netns_test! {
    fn every_case_is_judged_alike_by_policy_ruleset_and_kernels() {
        let only = std::env::var("PEERWALL_CASE").unwrap_or_default();
        let mut failures = Vec::new();
        for case in case::all().iter().filter(|case| case.name.contains(&only)) {
            // A thread for each, so that one failing case does not hide the others.
            let result = std::thread::scope(|scope| scope.spawn(|| check(case)).join());
            match result {
                Ok(packets) => println!("{}: {packets} packets", case.name),
                Err(_) => failures.push(case.name.clone()),
            }
            peerwall_integration::ns::sh("ip -all netns delete");
        }
        assert!(failures.is_empty(), "cases that failed: {failures:?}");
    }
}

#[test]
fn the_cases_cover_every_reason_at_every_hook() {
    use peerwall_core::packet::Hook;
    let mut met: BTreeSet<(Hook, String)> = BTreeSet::new();
    for case in case::all() {
        for line in &case.packets {
            let reason = line.want.reason.to_string();
            let kind = reason.split('.').next().unwrap_or_default().to_owned();
            met.insert((line.packet.hook, kind));
        }
    }
    for (hook, reasons) in [
        (
            Hook::Input,
            vec![
                "established",
                "loopback",
                "trusted",
                "overlay-spoof",
                "peers",
                "overlay-inject",
                "overlay",
                "icmp",
                "dhcp",
                "ping",
                "invalid",
                "allow",
                "input-default",
            ],
        ),
        (
            Hook::Forward,
            vec![
                "established",
                "trusted",
                "overlay-spoof",
                "peers",
                "overlay",
                "icmp",
                "invalid",
                "allow",
                "forward-default",
            ],
        ),
    ] {
        for reason in reasons {
            assert!(
                met.contains(&(hook, reason.to_owned())),
                "no packet meets {reason} at {hook}"
            );
        }
    }
}
