//! docs/migrate-from-iptables-restore.md, walked to its last line on hosts with a real systemd.
//!
//! The commands are those of the page. A host picks the sections of level three that concern it.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

mod page;
mod removal;

use std::fs;

use peerwall_integration::machine::{Machine, Seed};

use page::{is_output, page};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SOURCES: &str = "/usr/local/src/peerwall";

const V4: &str = "\
*mangle
:PREROUTING ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:machines - [0:0]
:master - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"ssh, everywhere\" -j ACCEPT
-A INPUT -j machines
-A machines -j master
-A master -s 192.0.2.11/32 -j ACCEPT
COMMIT
";
const NAT: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 10.9.0.0/24 -o eth0 -j MASQUERADE
COMMIT
";
const V6: &str = "\
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -s 2001:db8::11/128 -j ACCEPT
COMMIT
";
/// The edit of step 2 that a packet can tell, besides the one that the page shows.
const EDIT: &str = "[[allow]]\nname = \"web\"\nports = [\"443/tcp\"]\nfrom = \"any\"\n";

/// What loads the old rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loader {
    /// Units of this name, written by hand.
    RestoreUnits,
    /// Debian's unit.
    NetfilterPersistent,
}

impl Loader {
    /// The names of files, without the directory's.
    fn files(self) -> [&'static str; 2] {
        match self {
            Self::RestoreUnits => [
                "var/lib/iptables/rules-save",
                "var/lib/ip6tables/rules-save",
            ],
            Self::NetfilterPersistent => ["etc/iptables/rules.v4", "etc/iptables/rules.v6"],
        }
    }

    /// The unit that loads IPv4 rules.
    fn unit(self) -> &'static str {
        match self {
            Self::RestoreUnits => "iptables-restore.service",
            Self::NetfilterPersistent => "netfilter-persistent.service",
        }
    }

    /// Whether a section of level three is for a host with this loader.
    fn picks(self, title: &str, has_nat: bool) -> bool {
        match title {
            _ if title.ends_with("iptables-restore.service") => self == Self::RestoreUnits,
            _ if title.ends_with("netfilter-persistent") => self == Self::NetfilterPersistent,
            _ if title.starts_with("NAT") => has_nat,
            "" | "Other input" | "Other programs" | "The end" => true,
            _ => panic!("for whom is the section {title}?"),
        }
    }
}

/// A host that loads the old rules at boot.
fn host(loader: Loader, variant: &str, has_nat: bool) -> Machine {
    let seed = Seed::with_sources();
    for name in ["iptables", "ip6tables"] {
        for command in ["", "-save", "-restore"] {
            let link = format!("etc/alternatives/{name}{command}");
            seed.link(&link, &format!("/usr/sbin/{name}-{variant}{command}"));
        }
    }
    let v4 = format!("{}{V4}", if has_nat { NAT } else { "" });
    for (name, text) in loader.files().iter().zip([v4.as_str(), V6]) {
        seed.write(name, text);
    }
    let [v4, v6] = loader.files();
    let units = match loader {
        Loader::RestoreUnits => vec![
            ("iptables-restore", format!("/sbin/iptables-restore /{v4}")),
            (
                "ip6tables-restore",
                format!("/sbin/ip6tables-restore /{v6}"),
            ),
        ],
        Loader::NetfilterPersistent => vec![(
            "netfilter-persistent",
            "/bin/sh -c \"for v in 4 6; do [ $v = 4 ] && p= || p=6; [ ! -e /etc/iptables/rules.v$v ] || \
             ip$${p}tables-restore </etc/iptables/rules.v$v; done\""
                .to_owned(),
        )],
    };
    for (name, command) in units {
        seed.write(
            &format!("etc/systemd/system/{name}.service"),
            &format!(
                "[Unit]\nDescription=packet filter\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart={command}\n[Install]\nWantedBy=basic.target\n"
            ),
        );
        seed.link(
            &format!("etc/systemd/system/basic.target.wants/{name}.service"),
            &format!("../{name}.service"),
        );
    }
    seed.write("usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n");
    let machine = seed.boot("chmod +x /usr/local/bin/sudo");
    wire(&machine);
    machine
}

/// A wire to a peer and a stranger.
fn wire(machine: &Machine) {
    machine.sh(
        "ip netns add far && ip link add eth0 type veth peer name eth0 netns far && \
         ip address add 192.0.2.1/24 dev eth0 && ip address add 2001:db8::1/64 dev eth0 nodad && \
         ip link set eth0 up && \
         for a in 192.0.2.11/24 192.0.2.66/24 2001:db8::11/64 2001:db8::66/64; \
         do ip -n far address add $a dev eth0 $(case $a in *:*) echo nodad;; esac); done && \
         ip -n far link set eth0 up",
    );
}

/// Tries to connect: nothing listens, so a refusal shows that the packet was accepted.
const CONNECT: &str = "
import socket, sys, threading
def connect(line):
    source, port = line.split()
    six = ':' in source
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    s.settimeout(1.5)
    s.bind((source, 0))
    try:
        s.connect(('2001:db8::1' if six else '192.0.2.1', int(port)))
    except ConnectionRefusedError:
        got.append(line)
    except OSError:
        pass
got = []
threads = [threading.Thread(target=connect, args=(line,)) for line in sys.argv[1:]]
[t.start() for t in threads]
[t.join() for t in threads]
print(*sorted(got), sep='\\n')
";

/// Checks who gets in: the peer everywhere, strangers to ssh, and to the port of the edit.
fn check_traffic(machine: &Machine, web: bool, at: &str) {
    let mut tried = Vec::new();
    let mut want = Vec::new();
    for (peer, stranger) in [
        ("192.0.2.11", "192.0.2.66"),
        ("2001:db8::11", "2001:db8::66"),
    ] {
        for (source, port, is_open) in [
            (peer, 22, true),
            (peer, 9999, true),
            (peer, 443, true),
            (stranger, 22, true),
            (stranger, 9999, false),
            (stranger, 443, web),
        ] {
            let line = format!("{source} {port}");
            if is_open {
                want.push(line.clone());
            }
            tried.push(format!("'{line}'"));
        }
    }
    want.sort();
    let program = CONNECT.replace('"', "\\\"");
    let got = machine.sh(&format!(
        "ip netns exec far /usr/bin/python3 -c \"{program}\" {}",
        tried.join(" ")
    ));
    assert_eq!(got.lines().collect::<Vec<_>>(), want, "{at}");
}

/// What iptables holds, without what every empty table has.
fn rules(machine: &Machine) -> String {
    let saved = machine.sh("for t in iptables ip6tables; do for v in legacy nft; do \
         $t-$v-save | sed \"s/^/$t-$v /\"; done; done | sed 's/ \\[.*\\]$//'; \
         ipset list -n | sed 's/^/set /'");
    let is_empty = |line: &str| {
        let rest = line.split_once(' ').map_or("", |(_, rest)| rest);
        rest.starts_with(['#', '*'])
            || rest == "COMMIT"
            || rest.ends_with(" ACCEPT") && rest.starts_with(':')
    };
    let lines = saved.lines().filter(|line| !is_empty(line));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Runs the blocks of the steps whose titles `is_step` accepts.
fn walk(
    machine: &Machine,
    loader: Loader,
    has_nat: bool,
    is_step: impl Fn(&str) -> bool,
) -> String {
    let mut said = String::new();
    for block in page() {
        if !is_step(&block.step) || !loader.picks(&block.part, has_nat) || is_output(&block) {
            continue;
        }
        if block.kind == "toml" {
            machine.sh(&format!(
                "cat >>{SOURCES}/imported.toml <<'END'\n{}{EDIT}END",
                block.text
            ));
            continue;
        }
        let install = format!("scripts/install --binary {SOURCES}/peerwall");
        let script = block.text.replace("scripts/install", &install);
        let output = machine.try_sh(&format!("cd {SOURCES}\nset -e\n{script}"));
        let text =
            [&output.stdout, &output.stderr].map(|out| String::from_utf8_lossy(out).into_owned());
        // `plan` exits with 1 if there are changes.
        let code = i32::from(script.contains("peerwall plan"));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{script}\n{}{}",
            text[0],
            text[1]
        );
        said += &text.concat();
    }
    said
}

fn walk_through(loader: Loader, variant: &str, has_nat: bool) {
    let at = |when: &str| format!("{loader:?}, iptables-{variant}: {when}");
    let machine = host(loader, variant, has_nat);
    let old = rules(&machine);
    assert!(
        old.contains("-A master -s 192.0.2.11/32 -j ACCEPT"),
        "{old}"
    );
    check_traffic(&machine, false, &at("before"));

    let said = walk(&machine, loader, has_nat, |step| {
        step.is_empty() || step.starts_with(['1', '2', '3'])
    });
    let unit = match loader {
        Loader::RestoreUnits => "/etc/systemd/system/iptables-restore.service\n",
        Loader::NetfilterPersistent => "netfilter-persistent.service\n",
    };
    for want in [
        unit,
        &format!("warning: {} is enabled", loader.unit()),
        "warning: ip filter INPUT",
        "warning: ip6 filter FORWARD",
    ] {
        assert!(said.contains(want), "{}: {want}\n{said}", at("plan"));
    }
    assert_eq!(
        rules(&machine),
        old,
        "{}",
        at("no rule changes before step 4")
    );

    walk(&machine, loader, has_nat, |step| step.starts_with('4'));
    let status = machine.sh("peerwall status");
    assert!(
        status.contains(&format!("at boot: {} also", loader.unit())),
        "{status}"
    );
    assert!(
        status.contains("but another firewall also drops"),
        "{status}"
    );
    check_traffic(&machine, false, &at("beside the old rules"));

    let said = walk(&machine, loader, has_nat, |step| {
        step.starts_with(['5', '6'])
    });
    assert!(!said.contains("also drops"), "{}: {said}", at("the end"));
    let nat = match has_nat {
        true => format!("iptables-{variant} -A POSTROUTING -s 10.9.0.0/24 -o eth0 -j MASQUERADE\n"),
        false => String::new(),
    };
    let machine = check_end(machine, &nat, &at("the end")).reboot();
    wire(&machine);
    let machine = check_end(machine, &nat, &at("after a reboot"));

    walk(&machine, loader, has_nat, |step| step.starts_with("Undo"));
    let check_undone = |machine: &Machine, when: &str| {
        assert_eq!(rules(machine), old, "{}", at(when));
        let tables = machine.sh("nft list tables");
        assert!(!tables.contains("peerwall"), "{}: {tables}", at(when));
        check_traffic(machine, false, &at(when));
    };
    check_undone(&machine, "undone");
    let machine = machine.reboot();
    wire(&machine);
    check_undone(&machine, "undone, after a reboot");
}

/// Nothing of the old rules is left, and nothing loads them.
fn check_end(machine: Machine, nat: &str, at: &str) -> Machine {
    assert_eq!(rules(&machine), nat, "{at}");
    check_traffic(&machine, true, at);
    let status = machine.sh("peerwall status");
    assert!(
        status.starts_with("in sync") && !status.contains("also"),
        "{at}: {status}"
    );
    let loaders = machine.sh(&format!(
        "cd {SOURCES} && scripts/install --binary {SOURCES}/peerwall 2>&1 | sed -n '/^Other rules/,/^See /p'"
    ));
    match nat {
        "" => assert_eq!(loaders, "", "{at}"),
        _ => assert!(
            loaders.lines().count() == 3 && loaders.contains("nat-rules.service"),
            "{loaders}"
        ),
    }
    machine
}

#[test]
fn units_written_by_hand_are_replaced_with_iptables_legacy() {
    walk_through(Loader::RestoreUnits, "legacy", false);
}

#[test]
fn units_written_by_hand_are_replaced_with_iptables_nft_and_nat_stays() {
    walk_through(Loader::RestoreUnits, "nft", true);
}

#[test]
fn netfilter_persistent_loads_no_rules_after_the_migration() {
    walk_through(Loader::NetfilterPersistent, "nft", false);
}

/// The last block: a cloud-config with the policy, and units that exist.
#[test]
fn the_cloud_config_after_the_migration_has_a_policy_that_is_valid() {
    let blocks = page();
    let after = blocks.last().unwrap();
    assert_eq!(after.kind, "yaml");
    let (_, content) = after
        .text
        .split_once("path: /etc/peerwall/policy.toml\n")
        .unwrap();
    let (_, content) = content.split_once("content: |\n").unwrap();
    let policy: String = content
        .lines()
        .map(|line| format!("{}\n", line.trim_start()))
        .collect();
    let loaded = peerwall_core::policy::load::load(
        "policy.toml",
        &policy,
        &peerwall_core::policy::load::NoFiles,
    );
    let said = loaded.sources.render(&loaded.diagnostics, false);
    assert!(
        loaded.policy.is_some() && loaded.diagnostics.is_empty(),
        "{said}"
    );
    for line in after
        .text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- name: "))
    {
        assert!(
            fs::exists(format!("{REPOSITORY}/agent/systemd/{line}")).unwrap(),
            "{line}"
        );
    }
}
