//! `import --live` reads every rule that decides: of nftables, of both variants of iptables, and
//! of all of them together. The policy accepts no connection that they refuse.

#![expect(clippy::unwrap_used, reason = "a test that fails should say so")]

mod words {
    pub(crate) mod lines;
}

use std::fs;
use std::process::Output;
use std::thread;

use peerwall_core::import::File;
use peerwall_core::import::nft::live::native_tables;
use peerwall_core::net::addr::Family;
use peerwall_integration::net::wire;
use peerwall_integration::ns::{Host, peerwall_bin, sh, world};
use peerwall_integration::probe::{IMPATIENCE, tcp, tcp_server};

/// A line to try: family, table and rule.
type Line = (Family, &'static str, String);

const PORTS: [u16; 4] = [22, 80, 443, 8080];

/// A host, and clients with an address each.
struct Live {
    host: Host,
    clients: Vec<Host>,
}

impl Live {
    fn new() -> Self {
        let (host, wires) = (Host::new("host"), Host::new("wires"));
        wires.sh("ip link add br0 type bridge && ip link set br0 up");
        wire(
            &host,
            "eth0",
            &["192.0.2.1/24", "2001:db8::1/64"],
            &wires,
            "p1",
            &[],
        );
        wires.sh("ip link set p1 master br0");
        let clients = [2, 3].map(|number| {
            let client = Host::new(&format!("client{number}"));
            let addresses = [
                format!("192.0.2.{number}/24"),
                format!("2001:db8::{number}/64"),
            ];
            let addresses = [addresses[0].as_str(), addresses[1].as_str()];
            let port = format!("p{number}");
            wire(&client, "eth0", &addresses, &wires, &port, &[]);
            wires.sh(&format!("ip link set {port} master br0"));
            client
        });
        for port in PORTS {
            tcp_server(&host, &format!("192.0.2.1:{port}"));
            tcp_server(&host, &format!("[2001:db8::1]:{port}"));
        }
        Self {
            host,
            clients: clients.into(),
        }
    }

    /// Tries every connection: `4:22 from 2`, if it is accepted.
    fn accepted(&self) -> Vec<String> {
        let mut found = Vec::new();
        thread::scope(|scope| {
            let mut tries = Vec::new();
            for (client, name) in self.clients.iter().zip(["2", "3"]) {
                for port in PORTS {
                    for (family, to) in [("4", "192.0.2.1"), ("6", "[2001:db8::1]")] {
                        let flow = format!("{family}:{port} from {name}");
                        let to = format!("{to}:{port}");
                        let connect = move || tcp(client, &to, IMPATIENCE).is_some();
                        tries.push((flow, scope.spawn(connect)));
                    }
                }
            }
            for (flow, connection) in tries {
                if connection.join().unwrap() {
                    found.push(flow);
                }
            }
        });
        found.sort();
        found
    }

    fn import(&self, arguments: &[&str]) -> (Output, String) {
        let arguments = [&["import", "--live"], arguments].concat();
        let output = self.host.peerwall(&arguments);
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, report)
    }

    /// Replaces the rules by the policy, and returns what it accepts.
    fn under(&self, policy: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        fs::write(&path, policy).unwrap();
        self.host.sh(CLEAR);
        self.host.peerwall_ok(&["apply", path.to_str().unwrap()]);
        let accepted = self.accepted();
        self.host.sh("nft flush ruleset");
        accepted
    }
}

const CLEAR: &str = "nft flush ruleset; for t in iptables-legacy ip6tables-legacy; do \
     $t -P INPUT ACCEPT; $t -F; $t -X; done";

/// A ban list, as other programs add them beside a firewall.
const BAN: &str = "nft -f - <<'END'
table inet bans {
	set banned { type ipv4_addr; elements = { 192.0.2.3 } }
	chain in { type filter hook input priority -10; policy accept; ip saddr @banned drop; }
}
END
";

const NATIVE: &str = "nft -f - <<'END'
table inet own {
	chain in {
		type filter hook input priority 0; policy drop;
		ct state established,related accept
		meta l4proto ipv6-icmp accept
		ip saddr 192.0.2.2 tcp dport 22 accept
		tcp dport { 80, 443 } accept
	}
}
END
";

/// Looks like a table of iptables-nft, but has a lookup that iptables-save omits.
const DISGUISED: &str = "nft -f - <<'END'
table ip filter {
	set s { type ipv4_addr; elements = { 192.0.2.2 } }
	chain INPUT {
		type filter hook input priority 0; policy drop;
		ip saddr @s tcp dport 22 accept
	}
}
END
iptables-nft -t nat -A POSTROUTING -s 10.1.0.0/16 -j MASQUERADE
";

fn iptables(variant: &str, ports: &str) -> String {
    let all = ["iptables", "ip6tables"].map(|tool| {
        format!(
            "{tool}-{variant} -P INPUT DROP; \
             {tool}-{variant} -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT; \
             {tool}-{variant} -N own; {tool}-{variant} -A INPUT -j own; \
             {tool}-{variant} -A own -p tcp -m multiport --dports {ports} -j ACCEPT; "
        )
    });
    all.concat() + &format!("ip6tables-{variant} -A INPUT -p icmpv6 -j ACCEPT; ")
}

/// Hides nft in the world's mount namespace.
fn hide_nft() {
    sh("touch /run/nothing && mount --bind /run/nothing $(readlink -f $(command -v nft))");
}

/// Returns the rules of a host, without counters.
fn loaded(host: &Host) -> Vec<String> {
    let text = host.sh("nft list ruleset; iptables-legacy-save; ip6tables-legacy-save");
    let lines = text.lines().filter(|line| !line.starts_with(['#', ':']));
    let without = |line: &str| match line.split_once("counter packets") {
        Some((before, _)) => before.to_owned(),
        None => line.to_owned(),
    };
    lines.map(without).collect()
}

#[test]
fn every_rule_that_decides_is_read() {
    world(|| {
        let live = Live::new();
        for (name, setup, files) in [
            ("only nftables", NATIVE.to_owned(), vec!["nft list ruleset"]),
            (
                "a table like one of iptables-nft",
                DISGUISED.to_owned(),
                vec!["iptables-nft-save", "nft list ruleset"],
            ),
            (
                "only iptables-nft",
                iptables("nft", "22,80"),
                vec!["iptables-nft-save"],
            ),
            (
                "nftables beside iptables-nft",
                iptables("nft", "22,80") + BAN,
                vec!["iptables-nft-save", "nft list ruleset"],
            ),
            (
                "nftables beside iptables-legacy",
                iptables("legacy", "80,8080") + NATIVE,
                vec!["iptables-legacy-save", "nft list ruleset"],
            ),
            (
                "both variants of iptables",
                iptables("legacy", "22,80") + &iptables("nft", "80,443"),
                vec!["iptables-legacy-save", "iptables-nft-save"],
            ),
            (
                "everything at once",
                iptables("legacy", "22,80") + &iptables("nft", "80,443") + BAN,
                vec![
                    "iptables-legacy-save",
                    "iptables-nft-save",
                    "nft list ruleset",
                ],
            ),
        ] {
            live.host.sh(&setup);
            let before = loaded(&live.host);
            let mut by_rules = live.accepted();
            assert!(!by_rules.is_empty(), "{name}");
            let (output, report) = live.import(&[]);
            assert!(output.status.success(), "{name}: {report}");
            assert_eq!(before, loaded(&live.host), "{name}");
            let heads = report.lines().filter_map(|line| line.strip_suffix(':'));
            let is_file = |line: &&str| line.starts_with("iptables-") || line.starts_with("nft ");
            assert_eq!(
                heads.filter(is_file).collect::<Vec<_>>(),
                files,
                "{name}: {report}"
            );
            let by_policy = live.under(&output.stdout);
            // A family without rules is open, and closed by the policy.
            if name == "a table like one of iptables-nft" {
                by_rules.retain(|flow| flow.starts_with('4'));
            }
            assert_eq!(by_policy, by_rules, "{name}: {report}");
        }
    });
}

#[test]
fn without_nft_its_chains_accept_nothing_and_are_named() {
    world(|| {
        let live = Live::new();
        for (chain, setup) in [
            ("chain in of table inet own", NATIVE.to_owned()),
            ("chain INPUT of table ip filter", DISGUISED.to_owned()),
            (
                "chain in of table inet bans",
                iptables("nft", "22,80") + BAN,
            ),
        ] {
            live.host.sh(&setup);
            let by_rules = live.accepted();
            let nft = sh("readlink -f $(command -v nft)");
            sh(&format!(
                "touch /run/nothing && mount --bind /run/nothing {nft}"
            ));
            let (strict, _) = live.import(&["--strict"]);
            let (output, report) = live.import(&[]);
            sh(&format!("umount {nft}"));
            assert_eq!(strict.status.code(), Some(1), "{chain}: {report}");
            assert!(output.status.success(), "{chain}: {report}");
            let mut lines = report.lines().skip_while(|line| !line.contains(chain));
            let line = lines.next().unwrap_or_else(|| panic!("{chain}\n{report}"));
            assert!(
                line.contains("install nft") && line.contains("# handle "),
                "{report}"
            );
            assert!(lines.next().unwrap().contains("not converted"), "{report}");
            let by_policy = live.under(&output.stdout);
            let wider = by_policy.iter().filter(|flow| !by_rules.contains(flow));
            assert_eq!(wider.count(), 0, "{chain}: {by_policy:?}\n{report}");
        }
    });
}

/// Tables that cannot be listed may hold rules that drop: they do not count as none.
#[test]
fn an_error_of_the_kernel_is_no_empty_list() {
    world(|| {
        let host = Host::new("host");
        host.sh(&iptables("nft", "22"));
        let bin = peerwall_bin();
        let trace = format!(
            "strace -o /dev/null -e inject=sendto:error=EACCES:when=1 {} import --live",
            bin.display()
        );
        let said = host.sh(&format!("{trace} 2>&1 || echo rc $?"));
        assert!(
            said.contains("cannot list the tables of nf_tables"),
            "{said}"
        );
        assert!(said.ends_with("rc 2\n"), "{said}");
    });
}

/// What iptables-nft writes is left to iptables-save, in all lines that it can load.
#[test]
fn tables_of_iptables_nft_are_recognized() {
    world(|| {
        let host = Host::new("host");
        host.sh("ipset create known hash:ip");
        let (mut wrong, mut loaded) = (Vec::new(), Vec::new());
        let mut count = 0;
        let lines: Vec<Line> = words::lines::all();
        let more = words::lines::UNDERSTOOD.iter();
        let more = more.map(|rule| (Family::V4, "filter", (*rule).to_owned()));
        for (family, table, rule) in lines.into_iter().chain(more) {
            let tool = match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rules");
            fs::write(&path, format!("*{table}\n:own - [0:0]\n{rule}\nCOMMIT\n")).unwrap();
            let load = format!("{tool}-nft-restore <{}", path.display());
            if host.try_sh(&load).status.success() {
                let file = File {
                    name: "listing".to_owned(),
                    text: host.sh("nft -j list ruleset && nft -a list ruleset"),
                    family: None,
                };
                let native = native_tables(&file, |_, _| true).unwrap();
                count += 1;
                loaded.push((tool, table, rule.clone()));
                if native.listing.is_some() || native.of_iptables.is_empty() {
                    wrong.push(rule);
                }
            }
            host.sh("nft flush ruleset");
        }
        assert_eq!(wrong, [""; 0]);
        assert!(count > 200, "{count}");
        // The same without nft.
        for (tool, table) in [
            ("iptables", "filter"),
            ("iptables", "nat"),
            ("ip6tables", "filter"),
        ] {
            let lines = loaded
                .iter()
                .filter(|line| (line.0, line.1) == (tool, table));
            let lines: String = lines.map(|(.., rule)| format!("{rule}\n")).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rules");
            fs::write(&path, format!("*{table}\n:own - [0:0]\n{lines}COMMIT\n")).unwrap();
            host.sh(&format!("{tool}-nft-restore <{}", path.display()));
        }
        hide_nft();
        let output = host.peerwall(&["import", "--live", "--assume-accept"]);
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{report}");
        assert!(!report.contains("install nft"), "{report}");
    });
}

#[test]
fn drops_of_broadcasts_of_this_hosts_networks_are_told() {
    world(|| {
        let live = Live::new();
        live.host.sh(
            "iptables-legacy -P INPUT DROP && iptables-legacy -P FORWARD DROP && \
             iptables-legacy -A INPUT -i lo -j ACCEPT && \
             iptables-legacy -A INPUT -p udp -d 192.0.2.255 -j DROP && \
             iptables-legacy -A INPUT -p udp --dport 137 -j ACCEPT",
        );
        let (output, report) = live.import(&["--strict"]);
        let policy = String::from_utf8_lossy(&output.stdout);
        let is_said = policy.contains("to ") || policy.contains("to=");
        assert!(is_said || !output.status.success(), "{policy}{report}");
        assert!(!report.contains("never reached"), "{report}");
    });
}
