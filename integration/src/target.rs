//! The host under test: packets are put on its wires, and the verdict of each is read from the
//! kernel.
//!
//! Beside our table it has one more, `inet probe`, whose chains come last at both hooks and count
//! what got there. A packet was accepted if that count went up; the reason is in the counter of our
//! own table that went up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use peerwall::enforce::converge::converge;
use peerwall::enforce::iptables::{Iptables, IptablesPlan, WantedScripts};
use peerwall::enforce::nft::Kernel;
use peerwall_core::backend::Backend;
use peerwall_core::net::packet::{Decision, Packet, Verdict};
use peerwall_core::ruleset::Ruleset;

use crate::case::{HOST_V4, HOST_V6};
pub use crate::counts::agrees;
use crate::counts::{Counts, PROBE, decide, is_answered};
use crate::net::{bridge, enslave, wire};
use crate::ns::Host;
use crate::raw;
use crate::setup::{HOST_MAC, NOTHING, Setup, WIRE_MAC};
use crate::story::Flavour;

/// How long a packet may take through a kernel that has other things to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for what should not happen.
const A_MOMENT: Duration = Duration::from_millis(3);
/// What packets that go through go to.
const SINK: &str = "sink0";

/// What filters on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Our table.
    Nft,
    /// Our chains in iptables and ip6tables.
    Iptables(Flavour),
}

/// How iptables matches many addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sets {
    /// A rule for each.
    Rules,
    /// ipsets.
    Ipset,
}

/// The host under test, and the far ends of its wires.
pub struct Target {
    filter: Filter,
    host: Host,
    far: Host,
    /// Our end of each wire, and the far end.
    interfaces: BTreeMap<String, String>,
    /// Different for each packet, so that none continues another's connection.
    serial: u16,
}

impl Target {
    /// Makes it, without a policy.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn new() -> Self {
        Self::named("target")
    }

    /// Makes one of this name, where there are several.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn named(name: &str) -> Self {
        let host = Host::new(name);
        let far = Host::new(&format!("{name}-far"));
        far.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        far.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.accept_local", "1"),
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv4.icmp_ratemask", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
            // A packet that leaves on the interface it arrived on must not trigger one.
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            // SCTP packets made by hand have no checksum.
            ("net.netfilter.nf_conntrack_checksum", "0"),
            // A frame put on lo by hand has no route yet; 127.0.0.1 would be refused as martian.
            ("net.ipv4.conf.lo.route_localnet", "1"),
        ] {
            host.sysctl(key, value);
        }
        let mut target = Self {
            filter: Filter::Nft,
            host,
            far,
            interfaces: BTreeMap::new(),
            serial: 0,
        };
        target.add_interface(SINK);
        let v4 = format!("{HOST_V4}/32");
        target.host.sh(&format!(
            "ip address add {v4} dev lo && ip -6 address add {HOST_V6}/128 dev lo && \
             ip route add default dev {SINK} && ip -6 route add default dev {SINK}"
        ));
        target.host.sh(&format!("nft -f - <<'END'\n{PROBE}\nEND"));
        target
    }

    /// The host itself.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Applies a policy.
    ///
    /// # Panics
    /// If it is refused.
    pub fn apply(&self, policy: &Path) {
        self.host
            .peerwall_ok(&["apply", &policy.display().to_string()]);
    }

    /// Gives this iptables a rule: the one that has the host's rules is the one that is chosen. Not
    /// in the NAT table, since with that the kernel drops redirects about connections that are only
    /// written down.
    ///
    /// # Panics
    /// If it is refused.
    pub fn prefer(&self, flavour: Flavour) {
        let rule = "-t mangle -A OUTPUT -d 203.0.113.254 -j ACCEPT";
        let suffix = flavour.suffix();
        self.host.sh(&format!("iptables-{suffix} {rule}"));
    }

    /// Takes our table away and loads the same policy into iptables and ip6tables.
    ///
    /// # Panics
    /// If it is refused.
    pub fn load_iptables(&mut self, policy: &Path, flavour: Flavour) {
        self.filter = Filter::Iptables(flavour);
        self.host.peerwall_ok(&["remove"]);
        self.prefer(flavour);
        let suffix = flavour.suffix();
        let policy = policy.display().to_string();
        let said = self
            .host
            .peerwall_ok(&["apply", "--backend", "iptables", &policy]);
        assert!(said.contains(&format!("iptables-{suffix} ")), "{said}");
        self.host
            .peerwall_ok(&["plan", "--backend", "iptables", &policy]);
    }

    /// Makes the kernel hold a ruleset, by our table or by the iptables that was chosen.
    ///
    /// # Panics
    /// If it is refused.
    pub fn hold(&mut self, ruleset: &Ruleset, filter: Filter, sets: Sets) {
        self.filter = filter;
        self.host.run(|| match filter {
            Filter::Nft => {
                let mut kernel = Kernel::open().expect("netfilter has netlink");
                converge(&mut kernel, Some(ruleset))
                    .map(drop)
                    .unwrap_or_else(|err| panic!("{err}"));
            }
            Filter::Iptables(flavour) => {
                let mut iptables = Iptables::choose().expect("there is an iptables");
                assert!(
                    iptables.describe().contains(flavour.suffix()),
                    "{}",
                    iptables.describe()
                );
                let ipset_from = if sets == Sets::Ipset { Some(0) } else { None };
                let wanted =
                    WantedScripts::new(ruleset, ipset_from).unwrap_or_else(|err| panic!("{err:?}"));
                let seen = iptables.observe().expect("it can be read");
                let change = IptablesPlan::new(Some(wanted), &seen);
                Backend::commit(&mut iptables, &change, &seen)
                    .unwrap_or_else(|err| panic!("{err}"));
            }
        });
    }

    /// Takes our chains away, and sees that nothing of them is left.
    ///
    /// # Panics
    /// If that fails.
    pub fn unload_iptables(&mut self) {
        if let Filter::Iptables(flavour) = self.filter {
            self.host.peerwall_ok(&["remove", "--backend", "iptables"]);
            let suffix = flavour.suffix();
            let left = self
                .host
                .sh(&format!("iptables-{suffix}-save; ip6tables-{suffix}-save"));
            assert!(
                !left.contains("PEERWALL") && !left.contains("peerwall"),
                "{left}"
            );
            self.host
                .sh(&format!("iptables-{suffix} -t mangle -F OUTPUT"));
        }
        self.filter = Filter::Nft;
    }

    /// Gives the host an interface of this name, if it has none.
    ///
    /// # Panics
    /// If that fails.
    pub fn add_interface(&mut self, name: &str) {
        if name == "lo" || self.interfaces.contains_key(name) {
            return;
        }
        // The far end must not answer anything on its own: no addresses, no IPv6.
        let far = format!("f{}", self.interfaces.len());
        self.interfaces.insert(name.to_owned(), far.clone());
        wire(&self.host, name, &[], &self.far, &far, &[]);
        let mac = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
        self.host
            .sh(&format!("ip link set {name} address {}", mac(HOST_MAC)));
        self.far
            .sh(&format!("ip link set {far} address {}", mac(WIRE_MAC)));
        // Nobody answers for neighbours there, so packets out are to a fixed one.
        self.host.sh(&format!("ip link set {name} arp off"));
        self.host.sh(&format!(
            "tc qdisc replace dev {name} root pfifo 2>/dev/null || true"
        ));
    }

    /// Runs what it takes before or behind a packet; mostly nothing, and that is not run.
    fn prepare(&self, command: &str) {
        if command != NOTHING {
            self.host.sh(command);
        }
    }

    /// Runs the commands of a case in the host, before its policy is read. Lines `wire NAME…` give
    /// it interfaces whose far ends packets are put on, and lines `bridge NAME` a bridge with one
    /// port, likewise.
    ///
    /// # Panics
    /// If one fails.
    pub fn furnish(&mut self, script: &str) {
        let mut commands = String::from("set -e\n");
        for line in script.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("wire") => words.for_each(|name| self.add_interface(name)),
                Some("bridge") => words.for_each(|name| self.add_bridge(name)),
                Some(_) | None => commands += &format!("{line}\n"),
            }
        }
        self.host.sh(&commands);
    }

    fn add_bridge(&mut self, name: &str) {
        let port = format!("{name}-port");
        self.add_interface(&port);
        bridge(&self.host, name, &[]);
        enslave(&self.host, &port, name);
        // A bridge has its port's Ethernet address.
        self.host.sh(&format!("ip link set {name} arp off"));
        let far = self.interfaces[&port].clone();
        self.interfaces.insert(name.to_owned(), far);
    }

    /// Puts the packet on the wire and returns its verdict. What is wanted only says for how
    /// long to wait for it.
    ///
    /// # Panics
    /// If the packet cannot be made, or nothing counted it.
    pub fn judge(&mut self, packet: &Packet, want: &Decision) -> Decision {
        let setup = self.set_up(packet);
        let before = self.counts(packet);
        self.send(packet, &setup);
        let after = self.wait_for_change(&before, packet, want);
        self.prepare(&setup.after);
        decide(&before, &after, packet)
    }

    /// Puts the packet on the wire and returns whether it got through, with any filter.
    ///
    /// # Panics
    /// If the packet cannot be made, or never came.
    pub fn passes(&mut self, packet: &Packet, wanted: bool) -> bool {
        let passed = self.passes_within(packet, wanted, PATIENCE);
        passed.unwrap_or_else(|| panic!("{packet:?} never came"))
    }

    /// The same; `None` if something dropped the packet before the hook.
    ///
    /// # Panics
    /// If the packet cannot be made.
    pub fn passes_if_it_comes(&mut self, packet: &Packet, wanted: bool) -> Option<bool> {
        self.passes_within(packet, wanted, PATIENCE / 20)
    }

    fn passes_within(&mut self, packet: &Packet, wanted: bool, coming: Duration) -> Option<bool> {
        let setup = self.set_up(packet);
        let before = Counts::by_nft(&self.host);
        self.send(packet, &setup);
        let read = || Counts::by_nft(&self.host);
        let came = wait(coming, read, |now| now.came != before.came);
        if came.came == before.came {
            self.prepare(&setup.after);
            return None;
        }
        let patience = if wanted { PATIENCE } else { A_MOMENT };
        let now = wait(patience, read, |now| now.seen != before.seen);
        self.prepare(&setup.after);
        Some(now.seen > before.seen)
    }

    /// Puts the packet on the wire and says whether the kernel itself drops it, before all of our
    /// chains.
    ///
    /// # Panics
    /// If the packet cannot be made.
    pub fn is_martian(&mut self, packet: &Packet) -> bool {
        let setup = self.set_up(packet);
        let before = self.counts(packet);
        self.send(packet, &setup);
        let read = || self.counts(packet);
        let now = wait(10 * A_MOMENT, read, |now| *now != before);
        self.prepare(&setup.after);
        now == before
    }

    fn set_up(&mut self, packet: &Packet) -> Setup {
        self.add_interface(&packet.interface);
        if let Some(out) = &packet.out {
            self.add_interface(out);
        }
        self.serial = self.serial.wrapping_add(1) % 20_000;
        let setup = Setup::of(packet, self.serial);
        self.prepare(&setup.before);
        setup
    }

    fn send(&self, packet: &Packet, setup: &Setup) {
        let frame = setup.frame.bytes();
        let (host, interface) = match packet.interface.as_str() {
            "lo" => (&self.host, "lo"),
            name => (&self.far, self.interfaces[name].as_str()),
        };
        host.run(|| raw::send(interface, &frame))
            .expect("the wire takes frames");
    }

    fn wait_for_change(&self, before: &Counts, packet: &Packet, want: &Decision) -> Counts {
        let read = || self.counts(packet);
        let now = wait(PATIENCE, read, |now| now.ours != before.ours);
        assert!(
            now.ours != before.ours,
            "{packet:?} never got to our chains"
        );
        // Our chain has counted; the same packet may still be on its way, for as long as the
        // machine has other things to do.
        match want.verdict {
            Verdict::Accept => wait(PATIENCE, read, |now| now.seen != before.seen),
            Verdict::Reject if is_answered(packet) => {
                wait(PATIENCE, read, |now| now.told != before.told)
            }
            Verdict::Drop | Verdict::Reject => wait(A_MOMENT, read, |now| {
                now.seen != before.seen || now.told != before.told
            }),
        }
    }

    fn counts(&self, packet: &Packet) -> Counts {
        let flavour = match self.filter {
            Filter::Nft => None,
            Filter::Iptables(flavour) => Some(flavour),
        };
        Counts::read(&self.host, packet, flavour)
    }
}

/// Reads until the expected state, or for this time.
fn wait(patience: Duration, read: impl Fn() -> Counts, until: impl Fn(&Counts) -> bool) -> Counts {
    let start = Instant::now();
    loop {
        let now = read();
        if until(&now) || start.elapsed() >= patience {
            return now;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}

impl Default for Target {
    fn default() -> Self {
        Self::new()
    }
}

/// nft's listing of our table in this host, without what differs from run to run.
///
/// # Panics
/// If nft fails.
pub fn listing(host: &Host) -> String {
    without_counts(&host.sh("nft list table inet peerwall"))
}

/// A listing of nft's without what counts, and without flags.
pub fn without_counts(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        // nft before 1.1 knows no `persist`, prints an empty list of flags for it, and then cannot
        // read that itself.
        if matches!(
            line.trim(),
            "flags" | "flags persist" | "flags owner" | "flags owner,persist"
        ) {
            continue;
        }
        let line = line.split(" # progname").next().unwrap_or(line);
        let zero = match line.trim().starts_with("packets ") {
            true => "\t\tpackets 0 bytes 0".to_owned(),
            false => line.to_owned(),
        };
        // The blank line behind the flags goes with them.
        if zero.is_empty() && out.ends_with("{\n") {
            continue;
        }
        out.push_str(&zero);
        out.push('\n');
    }
    out
}
