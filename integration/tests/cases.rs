//! Every case, in every way: the policy's words, the ruleset, and real packets through nf_tables,
//! iptables-legacy and iptables-nft.
//!
//! `PEERWALL_BLESS=1` rewrites the goldens; read the difference before you keep it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails should say so, and one that passes what it did"
)]

use std::collections::BTreeSet;
use std::path::Path;

use peerwall::policy_file::files::FileSystem;
use peerwall::secure_file;
use peerwall_core::policy::Policy;
use peerwall_core::policy::load::load;
use peerwall_core::ruleset::compile::compile;
use peerwall_integration::case::{self, Case};
use peerwall_integration::ns::{self, Host, world};
use peerwall_integration::story::Flavour;
use peerwall_integration::target::{Target, agrees, listing};

/// A host as the case has it, before its policy is read.
fn target(case: &Case) -> Target {
    let mut target = Target::new();
    target.furnish(&case.host);
    target
}

/// The policy as it is read on that host.
fn policy(case: &Case, target: &Target) -> Policy {
    let path = case.folder.join("policy.toml");
    let text = secure_file::text(&path).unwrap().text;
    let read = || load(&path.display().to_string(), &text, &FileSystem::default());
    let loaded = target.host().run(read);
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
    let nft = format!("nft -f {}", path.display());
    let rendered = format!("{} render {policy} 2>/dev/null | nft -f -", bin());
    let json = format!(
        "{} render --format json {policy} 2>/dev/null | nft -j -f -",
        bin()
    );
    for load in [nft, rendered, json] {
        if load.contains("-j") && want.contains("flags dynamic") && !json_has_dynamic(host) {
            continue;
        }
        let load = format!("nft delete table inet peerwall && {load}");
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

/// Whether this nft reads sets with rates from JSON. nft 1.0.6 prints them and then refuses them.
fn json_has_dynamic(host: &Host) -> bool {
    let set = r#"{"nftables": [{"add": {"table": {"family": "inet", "name": "t"}}}, {"add": {"set":
        {"family": "inet", "table": "t", "name": "s", "type": "ipv4_addr", "flags": ["dynamic"]}}}]}"#;
    let output = host.try_sh(&format!("echo '{set}' | nft -c -j -f -"));
    output.status.success()
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

/// What the policy's words and its ruleset say otherwise than the case.
fn check_words(case: &Case, policy: &Policy) -> Vec<String> {
    let (ruleset, _) = compile(policy);
    let mut wrong = Vec::new();
    for line in &case.packets {
        let at = format!("packets.txt:{}: {}", line.number, line.text);
        let verdict = policy.verdict(&line.packet);
        if verdict != line.want {
            wrong.push(format!("{at}: the policy says {verdict}"));
        }
        let walk = ruleset.eval(&line.packet);
        if walk.decision().as_ref() != Some(&line.want) {
            wrong.push(format!("{at}: the ruleset says {walk:?}"));
        }
    }
    wrong
}

/// What a kernel says otherwise than the case.
fn check_packets(case: &Case, target: &mut Target, by: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in &case.packets {
        let at = format!("packets.txt:{}: {}", line.number, line.text);
        if line.martian {
            if !target.is_martian(&line.packet) {
                wrong.push(format!("{at}: {by} lets it come to our chains"));
            }
            continue;
        }
        let got = target.judge(&line.packet, &line.want);
        if !agrees(&line.packet, &line.want, &got) {
            wrong.push(format!("{at}: {by} says {got}"));
        }
    }
    wrong
}

fn check(case: &Case) -> usize {
    let host = target(case);
    let mut wrong = check_words(case, &policy(case, &host));
    // The first packet must not find an interface that is not there when the rules are loaded; but
    // some cases want just that, so interfaces come when the first packet for them does.
    let mut nft = host;
    nft.apply(&case.folder.join("policy.toml"));
    check_golden(case, &nft);
    let has_fallback = check_restore_golden(case, &nft);
    wrong.extend(check_packets(case, &mut nft, "the kernel"));
    if has_fallback {
        for flavour in [Flavour::Legacy, Flavour::Nft] {
            ns::sh("ip -all netns delete");
            // As it was when the policy was first read: interfaces that came since would tell more.
            let mut target = target(case);
            target.load_iptables(&case.folder.join("policy.toml"), flavour);
            let by = format!("{flavour:?} iptables");
            wrong.extend(check_packets(case, &mut target, &by));
            target.unload_iptables();
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", case.name, wrong.join("\n"));
    case.packets.len()
}

#[test]
fn every_case_is_judged_alike_by_policy_ruleset_and_kernels() {
    world(|| {
        let only = std::env::var("PEERWALL_CASE").unwrap_or_default();
        let mut failures = Vec::new();
        for case in case::all().iter().filter(|case| case.name.contains(&only)) {
            // A thread for each, so that one failing case does not hide the others.
            let result = std::thread::scope(|scope| scope.spawn(|| check(case)).join());
            match result {
                Ok(packets) => println!("{}: {packets} packets", case.name),
                Err(_) => failures.push(case.name.clone()),
            }
            ns::sh("ip -all netns delete");
        }
        assert!(failures.is_empty(), "cases that failed: {failures:?}");
    });
}

#[test]
fn the_cases_cover_every_reason_at_every_hook() {
    use peerwall_core::net::packet::Hook;
    let mut met: BTreeSet<(Hook, String)> = BTreeSet::new();
    for case in case::all() {
        for line in &case.packets {
            let reason = line.want.reason.to_string();
            let kind = reason.split('.').next().unwrap_or_default().to_owned();
            met.insert((line.packet.hook, kind));
        }
    }
    let both = [
        "established",
        "trusted",
        "loopback-spoof",
        "icmp-redirect",
        "router-advert",
        "peer-spoof",
        "overlay-spoof",
        "overlay-inject",
        "peers",
        "overlay",
        "icmp",
        "guests",
        "invalid",
        "service-address",
        "allow",
    ];
    let input = ["loopback", "dhcp", "ping", "input-default"];
    let forward = ["bridged", "guest-blocked", "forward-default"];
    for (hook, own) in [
        (Hook::Input, input.as_slice()),
        (Hook::Forward, forward.as_slice()),
    ] {
        for reason in both.iter().chain(own) {
            assert!(
                met.contains(&(hook, (*reason).to_owned())),
                "no packet meets {reason} at {hook}"
            );
        }
    }
}
