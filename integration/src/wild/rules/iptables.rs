//! Files for iptables-restore and ip6tables-restore.

use super::{NETS_V4, NETS_V6};
use crate::random::Random;

const PROTOCOLS: [&str; 10] = [
    "tcp", "udp", "udplite", "sctp", "dccp", "esp", "ah", "47", "2", "112",
];
const PORTS: [&str; 10] = [
    "22",
    "53",
    "67",
    "68",
    "80",
    "443",
    "0",
    "1024:65535",
    "0:1023",
    "8000:8080",
];
const FLAGS: [&str; 7] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ALL"];
const STATES: [&str; 7] = [
    "NEW",
    "ESTABLISHED",
    "RELATED",
    "INVALID",
    "NEW,ESTABLISHED",
    "ESTABLISHED,RELATED",
    "UNTRACKED",
];
const TYPES: [&str; 6] = [
    "LOCAL",
    "UNICAST",
    "BROADCAST",
    "MULTICAST",
    "ANYCAST",
    "UNSPEC",
];
const INTERFACES: [&str; 6] = ["eth0", "eth1", "cni0", "flannel.1", "eth+", "tun0"];

fn flags(random: &mut Random) -> String {
    let some = |random: &mut Random| {
        let count = 1 + random.below(3);
        let all: Vec<&str> = (0..count).map(|_| random.of(&FLAGS[..6])).collect();
        all.join(",")
    };
    let mask = if random.chance(40) {
        "ALL".to_owned()
    } else {
        some(random)
    };
    let set = if random.chance(20) {
        "NONE".to_owned()
    } else {
        some(random)
    };
    format!("{mask} {set}")
}

/// Matches of one line.
fn iptables_matches(random: &mut Random, is_v6: bool, is_input: bool) -> String {
    let nets: &[&str] = if is_v6 { &NETS_V6 } else { &NETS_V4 };
    let mut out = String::new();
    let protocol = random.chance(60).then(|| match random.below(10) {
        0..4 => "tcp",
        4..6 => "udp",
        6 if is_v6 => "ipv6-icmp",
        6 => "icmp",
        _ => random.of(&PROTOCOLS),
    });
    if let Some(protocol) = protocol {
        let is_negated = random.chance(8);
        let bang = if is_negated { "! " } else { "" };
        out += &format!(" {bang}-p {protocol}");
        let has_ports = ["tcp", "udp", "udplite", "sctp", "dccp"].contains(&protocol);
        if has_ports && !is_negated {
            let side = random.of(&["d", "d", "d", "s"]);
            let port = random.of(&PORTS);
            let bang = not(random);
            match random.below(7) {
                0..3 if protocol != "udplite" => {
                    out += &format!(" {bang}--{side}port {port}");
                    if random.chance(10) {
                        out += &format!(" {}--sport {}", not(random), random.of(&PORTS));
                    }
                }
                3 => out += &format!(" -m multiport {bang}--{side}ports 22,{port},9000"),
                4 => out += &format!(" -m multiport {bang}--ports {port},53"),
                _ => {}
            }
        }
        if protocol == "tcp" && !is_negated && random.chance(30) {
            let bang = not(random);
            match random.below(4) {
                0 => out += &format!(" {bang}--syn"),
                1 => out += &format!(" {bang}--tcp-option {}", 2 + random.below(3)),
                _ => out += &format!(" {bang}--tcp-flags {}", flags(random)),
            }
        }
        let of_protocol: &[&str] = match protocol {
            "tcp" => &["-m tcpmss --mss 500:1500", "-m osf --genre Linux --ttl 2"],
            "esp" => &["-m esp --espspi 1:500", "-m esp ! --espspi 0"],
            "ah" => &["-m ah --ahspi 1:500", "-m ah ! --ahspi 0"],
            "sctp" => &[
                "-m sctp --chunk-types any INIT",
                "-m sctp --chunk-types only DATA",
            ],
            "dccp" => &["-m dccp --dccp-types REQUEST", "-m dccp ! --dccp-option 2"],
            _ => &[],
        };
        if !of_protocol.is_empty() && !is_negated && random.chance(10) {
            out += &format!(" {}", random.of(of_protocol));
        }
        if protocol == "icmp" && !is_negated && random.chance(70) {
            let kind = random.of(&["8", "3", "3/4", "0", "13", "any", "255/255", "8/0", "5"]);
            out += &format!(" {}--icmp-type {kind}", not(random));
        }
        if protocol == "ipv6-icmp" && !is_negated && random.chance(70) {
            let kind = random.of(&["128", "1", "2", "133", "135", "136", "3/0", "143", "130"]);
            out += &format!(" {}--icmpv6-type {kind}", not(random));
        }
    }
    for _ in 0..random.below(3) {
        let bang = not(random);
        let net = random.of(nets);
        let one = match random.below(22) {
            0..3 => format!(" {bang}-s {net}"),
            3..6 => format!(" {bang}-d {net}"),
            6..8 => format!(" {bang}-i {}", random.of(&INTERFACES)),
            8 if !is_input => format!(" {bang}-o {}", random.of(&INTERFACES)),
            9 | 10 => format!(" -m conntrack {bang}--ctstate {}", random.of(&STATES)),
            11 => format!(
                " -m addrtype {bang}--{}-type {}",
                random.of(&["src", "dst", "dst"]),
                random.of(&TYPES)
            ),
            12 => format!(
                " -m pkttype {bang}--pkt-type {}",
                random.of(&["unicast", "broadcast", "multicast"])
            ),
            13 => {
                let word = if is_v6 { "hl --hl-" } else { "ttl --ttl-" };
                format!(
                    " -m {word}{} {}",
                    random.of(&["eq", "lt", "gt"]),
                    random.of(&["1", "64", "255", "2"])
                )
            }
            14 => format!(
                " -m length {bang}--length {}",
                random.of(&["40", "0:60", "61:", "48"])
            ),
            15 => format!(
                " -m dscp {bang}--dscp {}",
                random.of(&["0", "46", "10", "4"])
            ),
            16 => format!(" -m ecn {bang}--ecn-ip-ect {}", random.below(4)),
            17 => format!(
                " -m tos {bang}--tos {}",
                random.of(&["0x10", "0x00/0xff", "0xb8"])
            ),
            18 if !is_v6 => format!(" {bang}-f"),
            18 => random
                .of(&[
                    " -m ipv6header --header frag --soft",
                    " -m ipv6header --header dst --soft",
                    " -m ipv6header --header none",
                    " -m frag --fragmore",
                    " -m frag --fragfirst",
                    " -m hbh --hbh-len 8",
                    " -m rt --rt-type 0",
                    " -m ipv6header --header hop-by-hop",
                ])
                .to_owned(),
            19 => format!(
                " -m mac {bang}--mac-source {}",
                random.of(&["02:00:00:00:00:fe", "02:00:00:00:00:01"])
            ),
            20 if is_v6 => format!(" -m iprange {bang}--src-range fd00::1-fd00::9"),
            20 => format!(
                " -m iprange {bang}--src-range {}",
                random.of(&["10.1.2.0-10.1.2.9", "0.0.0.0-9.255.255.255"])
            ),
            _ => random
                .of(&[
                    " -m mark --mark 0",
                    " -m mark --mark 1",
                    " -m conntrack --ctproto 6",
                    " -m conntrack --ctdir ORIGINAL",
                    " -m conntrack --ctdir REPLY",
                    " -m conntrack --ctstatus SEEN_REPLY",
                    " -m conntrack ! --ctstatus CONFIRMED",
                    " -m conntrack --ctorigdstport 22",
                    " -m conntrack --ctstate DNAT",
                    " -m socket",
                    " -m rpfilter",
                    " -m rpfilter --invert",
                    " -m connmark --mark 0",
                    " -m physdev --physdev-is-bridged",
                    " -m state --state NEW",
                    " -m conntrack --ctorigdst 203.0.113.10",
                    " -m conntrack --ctreplsrc 203.0.113.0/24",
                    " -m conntrack ! --ctorigsrc 10.0.0.0/8",
                    " -m conntrack --ctexpire 0:600",
                    " -m conntrack ! --ctstate NEW,INVALID",
                    " -m conntrack --ctreplsrcport 22",
                    " -m addrtype --dst-type LOCAL --limit-iface-in",
                    " -m addrtype --src-type UNICAST --dst-type LOCAL",
                    " -m rpfilter --loose",
                    " -m rpfilter --accept-local --validmark",
                    " -m socket --nowildcard",
                    " -m physdev --physdev-in eth0",
                ])
                .to_owned(),
        };
        out += &one;
    }
    out
}

/// Conditions that a policy cannot express, or that these packets always meet or never.
const BEYOND: [&str; 33] = [
    "-m limit --limit 10000/sec --limit-burst 10000",
    "-m hashlimit --hashlimit-above 10000/sec --hashlimit-mode srcip --hashlimit-name a",
    "-m hashlimit --hashlimit-upto 10000/sec --hashlimit-burst 10000 --hashlimit-name b",
    "-m connlimit --connlimit-above 1000",
    "-m connlimit --connlimit-upto 1000",
    "-m recent --rcheck --name bad",
    "-m recent ! --rcheck --name bad",
    "-m recent --set --name seen",
    "-m recent --update --seconds 60 --hitcount 5 --name seen",
    "-m statistic --mode nth --every 1",
    "-m statistic --mode random --probability 0.5",
    "-m string --algo bm --string UUUU",
    "-m string ! --string UUUU --algo kmp",
    "-m comment --comment \"! -j ACCEPT\"",
    "-m cpu --cpu 0",
    "-m time --weekdays Mon,Tue",
    "-m quota --quota 100000000",
    "-m connbytes --connbytes 0: --connbytes-dir both --connbytes-mode packets",
    "-m helper --helper ftp",
    "-m policy --dir in --pol none",
    "-m u32 --u32 0=0:0xffffffff",
    "-m devgroup --src-group 0",
    "-m devgroup ! --src-group 0",
    "-m realm --realm 0",
    "-m cgroup --cgroup 0",
    "-m cgroup ! --path nowhere",
    "-m cluster --cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 7",
    "-m bpf --bytecode \"1,6 0 0 65535\"",
    "-m bpf --bytecode \"1,6 0 0 0\"",
    "-m ipvs --ipvs",
    "-m connlabel --label 1",
    "-m l2tp --tid 1",
    "-m policy --dir in --pol ipsec",
];
/// Targets after which the next rule follows.
const CONTINUING: [&str; 14] = [
    "",
    "-j LOG --log-prefix \"x: \"",
    "-j NFLOG --nflog-group 5",
    "-j MARK --set-xmark 1/1",
    "-j CONNMARK --save-mark",
    "-j CONNSECMARK --save",
    "-j AUDIT --type drop",
    "-j user2",
    "-j TRACE",
    "-j TEE --gateway 10.1.2.3",
    "-j CLASSIFY --set-class 1:1",
    "-j IDLETIMER --timeout 60 --label x",
    "-j HMARK --hmark-tuple src --hmark-mod 1 --hmark-rnd 7",
    "-j SECMARK --selctx system_u:object_r:a_t:s0",
];
/// Targets that give a packet to a program, or end in another way than a verdict.
const ENDING: [&str; 7] = [
    "-j NFQUEUE --queue-num 9",
    "-j NFQUEUE --queue-num 9 --queue-bypass",
    "-j NFQUEUE --queue-balance 9:10 --queue-bypass",
    "-p tcp -j REJECT --reject-with tcp-reset",
    "-p udp -j REJECT --reject-with icmp-admin-prohibited",
    "-p tcp -j SYNPROXY --mss 1460",
    "-j SYNPROXY -p tcp --sack-perm",
];

/// A table that changes packets, and may drop some.
fn mangle(random: &mut Random, is_v6: bool) -> String {
    let mut out = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n"
        .to_owned();
    for _ in 0..1 + random.below(2) {
        let chain = random.of(&["PREROUTING", "PREROUTING", "INPUT", "FORWARD"]);
        let line = iptables_matches(random, is_v6, chain != "FORWARD");
        let target = random.of(&[
            "MARK --set-xmark 1/0xffffffff",
            "MARK --or-mark 2",
            "DROP",
            "RETURN",
            "ACCEPT",
            "DSCP --set-dscp 10",
            "CONNMARK --set-mark 1",
            "TTL --ttl-set 64",
            "TTL --ttl-inc 1",
            "HL --hl-set 1",
            "TOS --set-tos 0x10",
            "ECN --ecn-tcp-remove -p tcp",
            "TCPMSS --set-mss 1200 -p tcp --tcp-flags SYN,RST SYN",
            "TCPOPTSTRIP --strip-options 2,3 -p tcp",
            "TPROXY --on-port 22 -p tcp",
            "CHECKSUM --checksum-fill",
        ]);
        out += &format!("-A {chain}{line} -j {target}\n");
    }
    out + "COMMIT\n"
}

/// A line that translates destinations.
fn translation(random: &mut Random, is_v6: bool) -> String {
    let destinations: &[&str] = match is_v6 {
        false => &[
            "203.0.113.10",
            "10.96.0.1",
            "10.96.0.10",
            "192.168.1.1",
            "198.51.100.9",
            "10.0.0.0/8",
        ],
        true => &[
            "2001:db8::10",
            "fd00:96::1",
            "fd00:1::1",
            "2001:db8:9::9",
            "fc00::/7",
        ],
    };
    let mut out = format!("-A PREROUTING -p {}", random.of(&["tcp", "tcp", "udp"]));
    if random.chance(70) {
        out += &format!(" {}--dport {}", not(random), random.of(&PORTS));
    }
    if random.chance(60) {
        out += &format!(" {}-d {}", not(random), random.of(destinations));
    }
    if random.chance(30) {
        out += &format!(" {}-i {}", not(random), random.of(&INTERFACES));
    }
    if random.chance(20) {
        let nets: &[&str] = if is_v6 { &NETS_V6 } else { &NETS_V4 };
        out += &format!(" {}-s {}", not(random), random.of(nets));
    }
    if random.chance(15) {
        out += &format!(" -m addrtype {}--dst-type LOCAL", not(random));
    }
    let targets: &[&str] = match is_v6 {
        false => &[
            "REDIRECT --to-ports 8080",
            "REDIRECT",
            "DNAT --to-destination 10.244.0.7:80",
            "DNAT --to-destination 10.244.1.7",
            "DNAT --to-destination 192.168.1.50:22",
            "DNAT --to-destination 203.0.113.10:22",
            "DNAT --to-destination 127.0.0.1:80",
            "DNAT --to-destination 10.244.0.7-10.244.0.8:80-81",
            "DNAT --to-destination :22",
            "DNAT --to-destination 10.244.0.7 --random --persistent",
            "NETMAP --to 10.244.0.0/24",
            "REDIRECT --to-ports 22-53",
            "ACCEPT",
            "RETURN",
        ],
        true => &[
            "REDIRECT --to-ports 8080",
            "REDIRECT",
            "DNAT --to-destination [fd00:244::7]:80",
            "DNAT --to-destination fd00:244:1::7",
            "DNAT --to-destination [2001:db8::10]:22",
            "ACCEPT",
            "RETURN",
        ],
    };
    out + &format!(" -j {}\n", random.of(targets))
}

/// Makes a file.
pub(super) fn file(random: &mut Random, is_v6: bool) -> String {
    let policy = |random: &mut Random| if random.chance(75) { "DROP" } else { "ACCEPT" };
    let mut out = String::new();
    if random.chance(8) {
        let line = iptables_matches(random, is_v6, true);
        let target = random.of(&[
            "DROP",
            "ACCEPT",
            "CT --notrack",
            "RETURN",
            "CT --zone 1",
            "CT --helper ftp -p tcp",
            "CT --timeout none",
            "TRACE",
        ]);
        out += &format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING{line} -j {target}\nCOMMIT\n"
        );
    }
    if random.chance(25) {
        out += "*nat\n:PREROUTING ACCEPT [0:0]\n";
        for _ in 0..1 + random.below(3) {
            out += &translation(random, is_v6);
        }
        out += "COMMIT\n";
    }
    if random.chance(12) {
        out += &mangle(random, is_v6);
    }
    out += &format!(
        "*filter\n:INPUT {} [0:0]\n:FORWARD {} [0:0]\n:OUTPUT ACCEPT [0:0]\n:user - [0:0]\n:user2 - [0:0]\n",
        policy(random),
        policy(random)
    );
    if random.chance(50) {
        out += "-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    }
    for _ in 0..1 + random.below(6) {
        let chain = random.of(&[
            "INPUT", "INPUT", "INPUT", "FORWARD", "FORWARD", "user", "user",
        ]);
        let mut matches = iptables_matches(random, is_v6, chain != "FORWARD");
        if random.chance(12) {
            matches += &format!(" {}", random.of(&BEYOND));
        }
        let target = match random.below(24) {
            22 => random.of(&ENDING),
            20 if chain != "user" || random.chance(50) => random.of(&CONTINUING),
            0..10 => "-j ACCEPT",
            10..14 => "-j DROP",
            14 => "-j REJECT",
            15..17 => "-j RETURN",
            _ if chain == "user" => "-j ACCEPT",
            17 => "-g user",
            _ => "-j user",
        };
        out += &format!("-A {chain}{matches} {target}\n");
    }
    let last = iptables_matches(random, is_v6, true);
    out += &format!(
        "-A user2{last} -j {}\n",
        random.of(&["ACCEPT", "DROP", "RETURN"])
    );
    // What the lines above drop shows most where much is accepted behind them.
    for chain in ["INPUT", "FORWARD"] {
        if random.chance(35) {
            let some = random.of(&["", " -p udp", " -p udp --dport 53", " -i eth0", " ! -p tcp"]);
            out += &format!("-A {chain}{some} -j ACCEPT\n");
        }
    }
    out + "COMMIT\n"
}

/// Maybe a negation.
fn not(random: &mut Random) -> &'static str {
    if random.chance(20) { "! " } else { "" }
}
