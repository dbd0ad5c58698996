//! The host under test: packets are put on its wires, and what became of each is read from the
//! kernel.
//!
//! Beside our table it has one more, `inet probe`, whose chains come last at both hooks and count
//! what got there. A packet was accepted if that count went up; the reason is in the counter of our
//! own table that went up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use peerwall::converge::{Hold, converge};
use peerwall::iptables::{Iptables, Steps, Wanted};
use peerwall::kernel::Kernel;
use peerwall::netlink::Socket;
use peerwall_core::packet::{CtState, Decision, Dialled, Packet, Transport, Verdict};
use peerwall_core::port::{TCP, UDP};
use peerwall_core::ruleset::{Ruleset, counter_reason};
use peerwall_proto::attr::Attrs;
use peerwall_proto::message::{Message, NLM_F_DUMP};
use peerwall_proto::nf_tables::{Attributes as _, NFPROTO_INET, Object, message_type, msg};

use crate::case::{HOST_V4, HOST_V6};
use crate::net::wire;
use crate::ns::Host;
use crate::raw::{self, Body, Frame, TcpFlags};
use crate::story::Flavour;

/// How long a packet may take through a kernel that has other things to do.
const PATIENCE: Duration = Duration::from_secs(5);
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const WIRE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];
/// What packets that go through go to.
const SINK: &str = "sink0";
/// The command that a packet starts with which needs nothing.
const NOTHING: &str = "true";

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

/// Counters of our table and of the probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts {
    ours: BTreeMap<String, u64>,
    probe: u64,
    /// Packets before any filter.
    came: u64,
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
        target.host.sh("nft -f - <<'END'\n\
             table inet probe {\n\
               counter came { }\n\
               counter seen { }\n\
               chain first-input { type filter hook input priority -300; counter name came; }\n\
               chain first-forward { type filter hook forward priority -300; counter name came; }\n\
               chain input { type filter hook input priority 300; counter name seen; }\n\
               chain forward { type filter hook forward priority 300; counter name seen; }\n\
             }\n\
             END");
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

    /// Takes our table away and loads the same policy into iptables and ip6tables.
    ///
    /// # Panics
    /// If it is refused.
    pub fn load_iptables(&mut self, policy: &Path, flavour: Flavour) {
        self.filter = Filter::Iptables(flavour);
        self.host.peerwall_ok(&["remove"]);
        // The one that holds the host's rules is the one that is taken.
        let suffix = flavour.suffix();
        self.host.sh(&format!(
            "iptables-{suffix} -t nat -A OUTPUT -d 203.0.113.254 -j ACCEPT"
        ));
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
                converge(&mut kernel, Some(ruleset), Hold::No)
                    .map(drop)
                    .unwrap_or_else(|err| panic!("{err}"));
            }
            Filter::Iptables(flavour) => {
                let iptables = Iptables::choose().expect("there is an iptables");
                assert!(
                    iptables.describe().contains(flavour.suffix()),
                    "{}",
                    iptables.describe()
                );
                let ipset_from = if sets == Sets::Ipset { Some(0) } else { None };
                let wanted =
                    Wanted::new(ruleset, ipset_from).unwrap_or_else(|err| panic!("{err:?}"));
                let seen = iptables.observe().expect("it can be read");
                let steps = Steps::new(Some(&wanted), &seen);
                iptables
                    .commit(&steps, &seen)
                    .unwrap_or_else(|err| panic!("{err}"));
                let left = Steps::new(Some(&wanted), &iptables.observe().expect("it can be read"));
                assert!(left.is_empty(), "read back, it differs: {left:?}");
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
            self.host.sh(&format!("iptables-{suffix} -t nat -F OUTPUT"));
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
        // The far end must not answer anything by itself: no addresses, no IPv6.
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

    /// Puts the packet on the wire and says what became of it. What is wanted only says for how
    /// long to wait for it.
    ///
    /// # Panics
    /// If the packet cannot be made, or nothing counted it.
    pub fn judge(&mut self, packet: &Packet, want: &Decision) -> Decision {
        self.add_interface(&packet.interface);
        self.serial = self.serial.wrapping_add(1) % 20_000;
        let setup = Setup::of(packet, self.serial);
        self.prepare(&setup.before);
        let before = self.counts(packet);
        let frame = setup.frame.bytes();
        if packet.interface == "lo" {
            self.host
                .run(|| raw::send("lo", &frame))
                .expect("lo takes frames");
        } else {
            let far = self.interfaces[&packet.interface].clone();
            self.far
                .run(|| raw::send(&far, &frame))
                .expect("the wire takes frames");
        }
        let after = self.wait_for_change(&before, packet, want);
        self.prepare(&setup.after);
        decide(&before, &after, packet)
    }

    /// Puts the packet on the wire and says whether it got through, whoever filters.
    ///
    /// # Panics
    /// If the packet cannot be made, or never came.
    pub fn passes(&mut self, packet: &Packet, wanted: bool) -> bool {
        self.add_interface(&packet.interface);
        self.serial = self.serial.wrapping_add(1) % 20_000;
        let setup = Setup::of(packet, self.serial);
        self.prepare(&setup.before);
        let before = self.nft_counts();
        let frame = setup.frame.bytes();
        let far = self.interfaces[&packet.interface].clone();
        self.far
            .run(|| raw::send(&far, &frame))
            .expect("the wire takes frames");
        let start = Instant::now();
        let mut now = self.nft_counts();
        while now.came == before.came {
            assert!(start.elapsed() < PATIENCE, "{packet:?} never came");
            std::thread::sleep(Duration::from_micros(300));
            now = self.nft_counts();
        }
        let patience = match wanted {
            true => PATIENCE,
            false => Duration::from_millis(3),
        };
        let start = Instant::now();
        while now.probe == before.probe && start.elapsed() < patience {
            std::thread::sleep(Duration::from_micros(300));
            now = self.nft_counts();
        }
        self.prepare(&setup.after);
        now.probe > before.probe
    }

    fn wait_for_change(&self, before: &Counts, packet: &Packet, want: &Decision) -> Counts {
        let start = Instant::now();
        loop {
            let now = self.counts(packet);
            if now.ours != before.ours {
                return self.wait_for_probe(now, before, packet, want);
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{packet:?} never got to our chains"
            );
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Our chain has counted; the same packet may still be on its way to the probe, for as long as
    /// the machine has other things to do.
    fn wait_for_probe(
        &self,
        now: Counts,
        before: &Counts,
        packet: &Packet,
        want: &Decision,
    ) -> Counts {
        let patience = match want.verdict {
            Verdict::Accept => PATIENCE,
            Verdict::Drop | Verdict::Reject => Duration::from_millis(3),
        };
        let start = Instant::now();
        let mut now = now;
        while now.probe == before.probe && start.elapsed() < patience {
            std::thread::sleep(Duration::from_micros(300));
            now = self.counts(packet);
        }
        now
    }

    fn counts(&self, packet: &Packet) -> Counts {
        let mut counts = self.nft_counts();
        if let Filter::Iptables(flavour) = self.filter {
            let tool = match packet.source {
                IpAddr::V4(_) => "iptables",
                IpAddr::V6(_) => "ip6tables",
            };
            let tool = format!("{tool}-{}-save", flavour.suffix());
            let saved = self
                .host
                .run(|| Command::new(&tool).args(["-c", "-t", "filter"]).output());
            let saved = saved.expect("iptables is installed").stdout;
            counts.ours = iptables_counts(&String::from_utf8_lossy(&saved));
        }
        counts
    }

    fn nft_counts(&self) -> Counts {
        self.host.run(|| {
            let mut socket = Socket::open().expect("netfilter has netlink");
            let request =
                Message::request(message_type(msg::NFT_MSG_GETOBJ), NLM_F_DUMP, NFPROTO_INET);
            let mut counts = Counts::default();
            socket
                .dump(
                    &request,
                    &mut counts,
                    |c| *c = Counts::default(),
                    |counts, message| {
                        let object = Object::decode(Attrs::new(&message.attrs))?;
                        let packets = object.counter()?.and_then(|c| c.packets).unwrap_or(0);
                        match object.table.as_deref() {
                            Some("peerwall") => {
                                counts.ours.insert(object.name.unwrap_or_default(), packets);
                            }
                            Some("probe") if object.name.as_deref() == Some("came") => {
                                counts.came = packets;
                            }
                            Some("probe") => counts.probe = packets,
                            _ => {}
                        }
                        Ok(())
                    },
                )
                .expect("counters can be read");
            counts
        })
    }
}

impl Default for Target {
    fn default() -> Self {
        Self::new()
    }
}

/// Packets by the counter that stands in a rule's comment, from `iptables-save -c`.
fn iptables_counts(saved: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in saved.lines().filter(|line| line.contains(" PEERWALL-")) {
        let comment = line.split("--comment ").nth(1).unwrap_or_default();
        let name = comment
            .split(' ')
            .next()
            .unwrap_or_default()
            .trim_matches('"');
        let packets = line
            .trim_start_matches('[')
            .split(':')
            .next()
            .and_then(|n| n.parse::<u64>().ok());
        if counter_reason(name).is_some() {
            *counts.entry(name.to_owned()).or_default() += packets.unwrap_or(0);
        }
    }
    counts
}

fn decide(before: &Counts, after: &Counts, packet: &Packet) -> Decision {
    let changed: Vec<&String> = after
        .ours
        .iter()
        .filter(|(name, count)| before.ours.get(*name) != Some(count))
        // What the host answers to itself comes in by lo too.
        .filter(|(name, _)| packet.interface != "lo" || *name != "input.established")
        .map(|(name, _)| name)
        .collect();
    let [name] = changed[..] else {
        panic!("{packet:?} was counted by {changed:?}, not by one counter");
    };
    let (_, reason) = counter_reason(name).expect("all of our counters have a reason");
    let verdict = match after.probe > before.probe {
        true => Verdict::Accept,
        false => Verdict::Drop,
    };
    Decision { verdict, reason }
}

/// Whether the kernel's answer is the one that is wanted. It does not tell drop from reject here:
/// nobody listens for the answer.
pub fn agrees(want: &Decision, got: &Decision) -> bool {
    let accepted = |d: &Decision| d.verdict == Verdict::Accept;
    accepted(want) == accepted(got) && want.reason == got.reason
}

/// What it takes to have the kernel see a packet as it is described.
struct Setup {
    before: String,
    after: String,
    frame: Frame,
}

impl Setup {
    fn of(packet: &Packet, serial: u16) -> Self {
        let mut before = String::from(NOTHING);
        let mut after = String::from(NOTHING);
        let source = match packet.transport {
            // DHCP servers answer from 67; all others only have to be different.
            Transport::Ports { source: 67, .. } => 67,
            Transport::Ports { .. } => 40_000 + serial,
            Transport::Icmp { .. } | Transport::Other(_) => serial,
        };
        if packet.reverse_path && packet.interface != "lo" {
            let (family, len) = if packet.source.is_ipv4() {
                ("-4", 32)
            } else {
                ("-6", 128)
            };
            let route = format!("{}/{len} dev {}", packet.source, packet.interface);
            before += &format!(" && ip {family} route replace {route}");
            after += &format!(" && ip {family} route del {route}");
        }
        let mut frame = Frame {
            source_mac: WIRE_MAC,
            destination_mac: destination_mac(packet),
            source: packet.source,
            destination: packet.destination,
            hop_limit: packet.hop_limit,
            body: body(packet, source),
        };
        if let Some(dialled) = packet.dialled {
            dnat(packet, dialled, &mut frame, &mut before, &mut after);
        }
        match packet.state {
            CtState::New | CtState::Invalid => {}
            CtState::Untracked => {
                before += " && nft 'table inet raw { chain pre { type filter hook prerouting priority -300; notrack; }; }'";
                after += " && nft delete table inet raw";
            }
            CtState::Established => {
                before += &format!(" && {}", connection(packet, source));
                after += " && conntrack -F >/dev/null 2>&1";
            }
            CtState::Related => {
                related(packet, serial, &mut frame, &mut before);
                after += " && conntrack -F >/dev/null 2>&1";
            }
        }
        Self {
            before,
            after,
            frame,
        }
    }
}

fn destination_mac(packet: &Packet) -> [u8; 6] {
    match packet.destination {
        _ if packet.interface == "lo" => [0; 6],
        IpAddr::V6(a) if a.is_multicast() => {
            let o = a.octets();
            [0x33, 0x33, o[12], o[13], o[14], o[15]]
        }
        IpAddr::V4(a) if a.is_broadcast() => [0xff; 6],
        IpAddr::V4(_) | IpAddr::V6(_) => HOST_MAC,
    }
}

fn body(packet: &Packet, source: u16) -> Body {
    let flags = match packet.state {
        CtState::Invalid => TcpFlags::SynRst,
        CtState::Established => TcpFlags::Ack,
        CtState::New | CtState::Related | CtState::Untracked => TcpFlags::Syn,
    };
    match packet.transport {
        Transport::Ports {
            protocol: TCP,
            destination,
            ..
        } => Body::Tcp {
            source,
            destination,
            flags,
        },
        Transport::Ports {
            protocol: UDP,
            destination,
            ..
        } => Body::Udp {
            source,
            destination,
            payload: b"peerwall".to_vec(),
        },
        Transport::Ports {
            protocol,
            destination,
            ..
        } => Body::Other {
            protocol,
            payload: sctp_init(source, destination),
        },
        Transport::Icmp { kind, code } => {
            let [hi, lo] = peerwall_proto::attr::u16_network(source);
            Body::Icmp {
                kind,
                code,
                rest: [hi, lo, 0, 1],
                // Long enough for what neighbour discovery and error messages must carry.
                payload: vec![0; 48],
            }
        }
        Transport::Other(protocol) => Body::Other {
            protocol,
            payload: vec![0; 16],
        },
    }
}

/// An SCTP INIT (RFC 9260 section 3.3.2) without a checksum; the kernel does not look at it.
fn sctp_init(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(peerwall_proto::attr::u16_network(source));
    bytes.extend(peerwall_proto::attr::u16_network(destination));
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend([0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1]);
    bytes
}

/// The packet is dialled at this host and rewritten to its destination, as a published port is.
fn dnat(
    packet: &Packet,
    dialled: Dialled,
    frame: &mut Frame,
    before: &mut String,
    after: &mut String,
) {
    let Dialled { address, port } = dialled;
    let family = match packet.source {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    let Transport::Ports {
        protocol,
        destination,
        ..
    } = packet.transport
    else {
        panic!("only what has ports can be dialled: {packet:?}");
    };
    let word = if protocol == TCP { "tcp" } else { "udp" };
    let to = match packet.destination {
        IpAddr::V4(a) => a.to_string(),
        IpAddr::V6(a) => format!("[{a}]"),
    };
    *before += &format!(
        " && nft 'table {family} published {{ chain pre {{ type nat hook prerouting priority -100; {family} daddr {address} {word} dport {port} dnat to {to}:{destination}; }}; }}'"
    );
    *after += &format!(" && nft delete table {family} published && conntrack -F >/dev/null 2>&1");
    frame.destination = address;
    match &mut frame.body {
        Body::Tcp { destination, .. } | Body::Udp { destination, .. } => *destination = port,
        Body::Icmp { .. } | Body::Other { .. } => {}
    }
}

/// A command that has conntrack know an answered connection that the packet belongs to.
fn connection(packet: &Packet, source: u16) -> String {
    let Transport::Ports {
        protocol,
        destination,
        ..
    } = packet.transport
    else {
        panic!("only what has ports can be established here: {packet:?}");
    };
    let (protocol, state) = match protocol {
        TCP => ("tcp", "--state ESTABLISHED"),
        _ => ("udp", ""),
    };
    format!(
        "conntrack -I -p {protocol} -s {} -d {} --sport {source} --dport {destination} {state} -u SEEN_REPLY,ASSURED -t 60 >/dev/null 2>&1",
        packet.source, packet.destination
    )
}

/// Makes the frame an ICMP error about a connection that conntrack knows: one that the packet's
/// destination has with somebody beyond its source.
fn related(packet: &Packet, serial: u16, frame: &mut Frame, before: &mut String) {
    let beyond: IpAddr = match packet.source {
        IpAddr::V4(_) => "203.0.113.99",
        IpAddr::V6(_) => "2001:db8:99::99",
    }
    .parse()
    .expect("a constant address");
    let quoted = Frame {
        source: packet.destination,
        destination: beyond,
        hop_limit: 60,
        body: Body::Udp {
            source: 50_000 - serial % 1000,
            destination: 4242,
            payload: b"peerwall".to_vec(),
        },
        ..frame.clone()
    };
    let original = Packet {
        source: packet.destination,
        destination: beyond,
        transport: Transport::Ports {
            protocol: UDP,
            source: 0,
            destination: 4242,
        },
        ..packet.clone()
    };
    *before += &format!(" && {}", connection(&original, 50_000 - serial % 1000));
    let Transport::Icmp { kind, code } = packet.transport else {
        panic!("only an ICMP error is related: {packet:?}");
    };
    frame.body = Body::Icmp {
        kind,
        code,
        rest: [0, 0, 0x05, 0xdc],
        payload: quoted.ip_bytes(),
    };
}

/// nft's listing of our table in this host, without what differs from run to run.
///
/// # Panics
/// If nft fails.
pub fn listing(host: &Host) -> String {
    let text = host.sh("nft list table inet peerwall");
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
