//! Questions in all forms, and suggestions that must hold.

use super::*;
use crate::policy::load::{NoFiles, load};
use crate::ruleset::compile::compile;

#[test]
fn lines_of_tools_are_understood() {
    let cases = [
        // Logs of the kernel, ulogd and journald.
        (
            "IN=flannel.1 OUT=cni0 MAC=aa:bb:cc:dd:ee:ff:11:22:33:44:55:66:08:00 SRC=10.244.1.7 DST=10.244.0.3 LEN=60 TOS=0x00 PREC=0x00 TTL=63 ID=1 DF PROTO=TCP SPT=40000 DPT=80 WINDOW=64860 RES=0x00 SYN URGP=0",
            "80/tcp from 10.244.1.7 on flannel.1 to 10.244.0.3 by cni0, through this host; first packet of a connection",
        ),
        (
            "Nov 26 12:00:00 node kernel: [12345.678901] peerwall input-default: IN=eth0 OUT= MAC=aa SRC=198.51.100.7 DST=192.0.2.1 LEN=60 TTL=50 PROTO=UDP SPT=53 DPT=5353 LEN=40",
            "5353/udp from 198.51.100.7 on eth0 to 192.0.2.1, this host; first packet of a connection",
        ),
        (
            "[UFW BLOCK] IN=eth0 OUT= SRC=203.0.113.9 DST=192.0.2.1 TTL=1 PROTO=ICMP TYPE=8 CODE=0 ID=1 SEQ=1",
            "ICMP echo-request from 203.0.113.9 on eth0 to 192.0.2.1, this host; first packet of a connection",
        ),
        (
            "IN=eth0 OUT= SRC=2001:0db8:0000:0000:0000:0000:0000:0007 DST=2001:0db8:0000:0000:0000:0000:0000:0001 LEN=64 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=ICMPv6 TYPE=128 CODE=0 ID=1 SEQ=1",
            "ICMP echo-request from 2001:db8::7 on eth0 to 2001:db8::1, this host; first packet of a connection",
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 TTL=64 PROTO=ICMP TYPE=3 CODE=1 [SRC=10.0.0.2 DST=10.9.9.9 LEN=60 PROTO=TCP SPT=1 DPT=2 ]",
            "ICMP destination-unreachable from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "PACKET: 2 a1b2c3d4 IN=eth0 SRC=10.0.0.1 DST=10.0.0.2 LEN=60 TTL=64 PROTO=4",
            "protocol ipip from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0.1 DST=224.0.0.1 TTL=1 PROTO=2",
            "protocol igmp from 10.0.0.1 on eth0 to 224.0.0.1, this host; first packet of a connection",
        ),
        // nft monitor trace
        (
            "trace id a95ea7ef inet peerwall input packet: iif \"eth0\" ether saddr 00:0d:b9:4a:49:3d ether daddr 3c:97:0e:39:aa:20 ip saddr 192.168.2.118 ip daddr 192.168.2.3 ip dscp cs0 ip ecn not-ect ip ttl 115 ip id 0 ip length 60 tcp sport 54962 tcp dport 22 tcp flags == syn tcp window 64240",
            "22/tcp from 192.168.2.118 on eth0 to 192.168.2.3, this host; first packet of a connection",
        ),
        (
            "trace id 1 inet x forward packet: iif \"cni0\" oif \"eth0\" ip6 saddr fd00::1 ip6 daddr 2001:db8::9 ip6 hoplimit 63 udp sport 1 udp dport 53",
            "53/udp from fd00::1 on cni0 to 2001:db8::9 by eth0, through this host; first packet of a connection",
        ),
        (
            "trace id 1 ip x input packet: iif \"eth0\" ip saddr 10.0.0.1 ip daddr 10.0.0.2 ip ttl 64 icmp type echo-request icmp code net-unreachable",
            "ICMP echo-request from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "trace id 1 ip x input packet: iif \"eth0\" ip saddr 10.0.0.1 ip daddr 10.0.0.2 ip protocol 47",
            "protocol gre from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        // tcpdump -n
        (
            "12:00:00.123456 IP 10.0.0.1.40000 > 10.0.0.2.443: Flags [S], seq 1, win 64240, length 0",
            "443/tcp from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "12:00:00.123456 cni0  In  IP 10.244.0.9.40000 > 10.0.0.2.9100: Flags [S], seq 1",
            "9100/tcp from 10.244.0.9 on cni0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "IP6 2001:db8::1.5000 > 2001:db8::2.53: 4711+ A? example.org. (29)",
            "53/udp from 2001:db8::1 on eth0 to 2001:db8::2, this host; first packet of a connection",
        ),
        (
            "IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, length 64",
            "ICMP echo-request from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "IP 10.0.0.1.8472 > 10.0.0.2.8472: VXLAN, flags [I] (0x08), vni 1",
            "8472/udp from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        // conntrack
        (
            "tcp      6 117 SYN_SENT src=198.51.100.7 dst=192.0.2.1 sport=40000 dport=8080 [UNREPLIED] src=172.17.0.2 dst=198.51.100.7 sport=80 dport=40000 mark=0 use=1",
            "80/tcp from 198.51.100.7 on eth0 to 172.17.0.2 (sent to 192.0.2.1 port 8080), this host; first packet of a connection",
        ),
        (
            "    [NEW] udp      17 30 src=10.0.0.1 dst=10.0.0.2 sport=5000 dport=53 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=53 dport=5000",
            "53/udp from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        (
            "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=5000 dport=22 src=10.0.0.2 dst=10.0.0.1 sport=22 dport=5000 [ASSURED] mark=0 use=1",
            "22/tcp from 10.0.0.1 on eth0 to 10.0.0.2, this host; of a known connection",
        ),
        (
            "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1",
            "ICMP echo-request from 10.0.0.1 on eth0 to 10.0.0.2, this host; first packet of a connection",
        ),
        // ss
        (
            "ESTAB 0 0 192.0.2.1:22 198.51.100.7:51000",
            "22/tcp from 198.51.100.7 on eth0 to 192.0.2.1, this host; first packet of a connection",
        ),
        (
            "tcp   SYN-SENT 0      1      [2001:db8::1]:40000   [2001:db8::2]:443  users:((\"curl\",pid=1,fd=5))",
            "443/tcp from 2001:db8::1 on eth0 to 2001:db8::2, this host; first packet of a connection",
        ),
        (
            "tcp SYN-RECV 0 0 192.0.2.1%eth0:80 203.0.113.5:1234",
            "80/tcp from 203.0.113.5 on eth0 to 192.0.2.1, this host; first packet of a connection",
        ),
    ];
    for (line, wanted) in cases {
        let asked = parse(line).unwrap_or_else(|why| panic!("{line}: {why}"));
        let (packet, _) = complete(&asked, &Policy::default(), &mut Unknown).unwrap();
        let found = described(&packet);
        assert_eq!(found, wanted, "{line}: {found}");
    }
}

#[test]
fn other_lines_get_a_clear_error() {
    let cases = [
        ("", "no packet in this line"),
        ("hello world", "no packet in this line"),
        (
            "IN= OUT=eth0 SRC=10.0.0.1 DST=10.0.0.2 PROTO=TCP SPT=1 DPT=2",
            "does not filter what",
        ),
        ("IN=eth0 OUT= SRC=10.0.0.1 PROTO=TCP", "has no DST="),
        ("IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2", "has no PROTO="),
        (
            "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 PROTO=TCP",
            "fragment",
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 PROTO=FOO",
            "no protocol",
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0 DST=10.0.0.2 PROTO=TCP",
            "`10.0.0` is no address",
        ),
        (
            "IP host.example.40000 > 10.0.0.2.http: Flags [S]",
            "print numbers",
        ),
        ("IP 10.0.0.1.1 >", "no address on both sides"),
        ("> ", "no address on both sides"),
        ("LISTEN 0 128 0.0.0.0:22 0.0.0.0:*", "--from"),
        (
            "ESTAB 0 0 192.0.2.1:ssh 198.51.100.7:51000",
            "print numbers",
        ),
        ("tcp 6 117 SYN_SENT src=10.0.0.1 sport=1 dport=2", "no dst="),
        (
            "trace id 1 inet x y packet: iif \"eth0\" ip saddr 10.0.0.1",
            "no `ip daddr`",
        ),
        (
            "trace id 1 inet x y rule tcp dport 22 accept (verdict accept)",
            "no packet in this line",
        ),
    ];
    for (line, wanted) in cases {
        let why = parse(line).expect_err(line);
        assert!(why.contains(wanted), "{line}: {why}");
    }
}

/// Suggestions are true: with the lines in the policy, the packet is accepted.
#[test]
fn suggestions_let_the_packet_in() {
    let base =
        "version = 1\n[overlay.flannel]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n";
    let cases = [
        (
            "IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 TTL=60 PROTO=TCP SPT=1 DPT=80 SYN",
            2,
        ),
        (
            "IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 TTL=60 PROTO=ICMP TYPE=8 CODE=0",
            2,
        ),
        (
            "IN=eth0 OUT= SRC=198.51.100.7 DST=192.0.2.1 TTL=60 PROTO=ICMP TYPE=13 CODE=0",
            2,
        ),
        (
            "IN=eth0 OUT= SRC=2001:db8::7 DST=2001:db8::1 HOPLIMIT=60 PROTO=UDP SPT=1 DPT=53",
            2,
        ),
        (
            "IN=cali0 OUT= SRC=10.99.3.7 DST=10.0.0.2 TTL=60 PROTO=TCP SPT=1 DPT=9100 SYN",
            2,
        ),
        (
            "IN=docker0 OUT=eth0 SRC=172.17.0.2 DST=192.0.2.9 TTL=60 PROTO=TCP SPT=1 DPT=443 SYN",
            3,
        ),
        (
            "IN=eth0 OUT=eth1 SRC=198.51.100.7 DST=192.0.2.9 TTL=60 PROTO=TCP SPT=1 DPT=443 SYN",
            2,
        ),
        (
            "IN=eth0 OUT=cni0 SRC=10.244.1.7 DST=10.244.0.3 TTL=60 PROTO=TCP SPT=1 DPT=80 SYN",
            1,
        ),
        (
            "IN=eth0 OUT= SRC=10.0.0.9 DST=10.0.0.2 TTL=60 PROTO=UDP SPT=1 DPT=8472",
            1,
        ),
        (
            "tcp 6 9 SYN_SENT src=198.51.100.7 dst=192.0.2.1 sport=4 dport=8080 [UNREPLIED] src=172.17.0.2 dst=198.51.100.7 sport=80 dport=4",
            2,
        ),
    ];
    for (line, count) in cases {
        let (policy, ruleset, origins) = compiled(base);
        let (packet, _) = complete(&parse(line).unwrap(), &policy, &mut Unknown).unwrap();
        let denied = explain(&policy, &ruleset, &origins, &packet);
        assert_eq!(denied.fixes.len(), count, "{line}: {denied:#?}");
        for fix in denied.fixes {
            let text = with(base, &fix.toml);
            let (policy, ruleset, origins) = compiled(&text);
            let now = explain(&policy, &ruleset, &origins, &packet);
            assert_eq!(now.verdict, Verdict::Accept, "{line}: {text}: {now:?}");
        }
    }
}

fn compiled(text: &str) -> (Policy, Ruleset, Origins) {
    let loaded = load("policy.toml", text, &NoFiles);
    let policy = loaded.policy.unwrap_or_else(|| {
        panic!(
            "{text}: {}",
            loaded.sources.render(&loaded.diagnostics, false)
        )
    });
    let (ruleset, origins) = compile(&policy);
    (policy, ruleset, origins)
}

/// Adds lines as their comment says.
fn with(base: &str, lines: &str) -> String {
    match lines.split_once('\n') {
        Some(("# under [peers]:", entry)) => format!("{base}[peers]\n{entry}"),
        Some((comment, entry)) if comment.starts_with("# under [overlay.") => {
            match entry.strip_prefix("subnets = [") {
                Some(more) => base.replace(
                    "\"10.244.0.0/16\"]",
                    &format!("\"10.244.0.0/16\", {}", more.trim_end()),
                ),
                None => format!("{base}{entry}"),
            }
        }
        _ => format!("{base}{lines}"),
    }
}
