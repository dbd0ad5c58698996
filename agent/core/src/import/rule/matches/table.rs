//! The matches of iptables 1.8.9 with their options. Sources: `extensions/lib*.c`.

use super::super::options::{Opt, flag, one, two};
use super::headers::{
    addrtype, comment, hop_limit, icmp_type, iprange, mark, multiport, pkttype, security,
    transport, unknown, unknown_with_option,
};
use super::rates::{connlimit, hashlimit, limit, quota, recent};
use super::state::{conntrack, state};
use super::{Module, sets};
use crate::net::addr::Family;

const PORTS: &[Opt] = &[
    one("source-port").of("sport").not(),
    one("sport").not(),
    one("destination-port").of("dport").not(),
    one("dport").not(),
];

/// A match that no packet of the model decides, with optional options.
const fn opaque(name: &'static str, options: &'static [Opt]) -> Module {
    Module {
        name,
        family: None,
        options,
        needs: &[],
        meaning: unknown,
    }
}

/// The same, with an option that is required.
const fn opaque_with(name: &'static str, options: &'static [Opt]) -> Module {
    Module {
        meaning: unknown_with_option,
        ..opaque(name, options)
    }
}

const fn v4(module: Module) -> Module {
    Module {
        family: Some(Family::V4),
        ..module
    }
}

const fn v6(module: Module) -> Module {
    Module {
        family: Some(Family::V6),
        ..module
    }
}

const fn needs(protocols: &'static [u8], module: Module) -> Module {
    Module {
        needs: protocols,
        ..module
    }
}

macro_rules! meant {
    ($name:literal, $meaning:path, $options:expr) => {
        Module {
            meaning: $meaning,
            ..opaque($name, $options)
        }
    };
}

/// The matches.
pub(super) const MODULES: &[Module] = &[
    needs(
        &[6],
        meant!(
            "tcp",
            transport,
            &[
                one("source-port").of("sport").not(),
                one("sport").not(),
                one("destination-port").of("dport").not(),
                one("dport").not(),
                flag("syn").not(),
                two("tcp-flags").not(),
                one("tcp-option").not(),
            ]
        ),
    ),
    needs(&[17], meant!("udp", transport, PORTS)),
    needs(
        &[132],
        meant!(
            "sctp",
            transport,
            &[
                one("source-port").of("sport").not(),
                one("sport").not(),
                one("destination-port").of("dport").not(),
                one("dport").not(),
                two("chunk-types").not(),
            ]
        ),
    ),
    needs(
        &[33],
        meant!(
            "dccp",
            transport,
            &[
                one("source-port").of("sport").not(),
                one("sport").not(),
                one("destination-port").of("dport").not(),
                one("dport").not(),
                one("dccp-types").not(),
                one("dccp-option").not(),
            ]
        ),
    ),
    needs(
        &[6, 17, 33, 132, 136],
        meant!(
            "multiport",
            multiport,
            &[
                one("source-ports").of("sports").not(),
                one("sports").not(),
                one("destination-ports").of("dports").not(),
                one("dports").not(),
                one("ports").not(),
            ]
        ),
    ),
    v4(needs(
        &[1],
        meant!("icmp", icmp_type, &[one("icmp-type").not()]),
    )),
    v6(needs(
        &[58],
        meant!("icmp6", icmp_type, &[one("icmpv6-type").not()]),
    )),
    meant!("state", state, &[one("state").not()]),
    meant!(
        "conntrack",
        conntrack,
        &[
            one("ctstate").not(),
            one("ctproto").not(),
            one("ctorigsrc").not(),
            one("ctorigdst").not(),
            one("ctreplsrc").not(),
            one("ctrepldst").not(),
            one("ctorigsrcport").not(),
            one("ctorigdstport").not(),
            one("ctreplsrcport").not(),
            one("ctrepldstport").not(),
            one("ctstatus").not(),
            one("ctexpire").not(),
            one("ctdir"),
        ]
    ),
    meant!(
        "addrtype",
        addrtype,
        &[
            one("src-type").not(),
            one("dst-type").not(),
            flag("limit-iface-in"),
            flag("limit-iface-out"),
        ]
    ),
    meant!("comment", comment, &[one("comment")]),
    v4(meant!(
        "ttl",
        hop_limit,
        &[
            one("ttl").of("ttl-eq").not(),
            one("ttl-eq").not(),
            one("ttl-lt"),
            one("ttl-gt"),
        ]
    )),
    v6(meant!(
        "hl",
        hop_limit,
        &[one("hl-eq").not(), one("hl-lt"), one("hl-gt")]
    )),
    meant!(
        "iprange",
        iprange,
        &[one("src-range").not(), one("dst-range").not()]
    ),
    meant!("pkttype", pkttype, &[one("pkt-type").not()]),
    needs(&[50], meant!("esp", security, &[one("espspi").not()])),
    v4(needs(&[51], meant!("ah", security, &[one("ahspi").not()]))),
    // In IPv6, it looks for a header, whatever the protocol.
    v6(opaque(
        "ah",
        &[one("ahspi").not(), one("ahlen").not(), flag("ahres")],
    )),
    meant!("limit", limit, &[one("limit"), one("limit-burst")]),
    meant!(
        "hashlimit",
        hashlimit,
        &[
            one("hashlimit").of("hashlimit-upto").not(),
            one("hashlimit-upto").not(),
            one("hashlimit-above").not(),
            one("hashlimit-srcmask"),
            one("hashlimit-dstmask"),
            one("hashlimit-burst"),
            one("hashlimit-htable-size"),
            one("hashlimit-htable-max"),
            one("hashlimit-htable-expire"),
            one("hashlimit-htable-gcinterval"),
            one("hashlimit-mode"),
            one("hashlimit-name"),
            flag("hashlimit-rate-match"),
            one("hashlimit-rate-interval"),
        ]
    ),
    meant!(
        "connlimit",
        connlimit,
        &[
            one("connlimit-upto").not(),
            one("connlimit-above").not(),
            one("connlimit-mask"),
            flag("connlimit-saddr"),
            flag("connlimit-daddr"),
        ]
    ),
    meant!(
        "recent",
        recent,
        &[
            flag("set").not(),
            flag("rcheck").not(),
            flag("update").not(),
            flag("remove").not(),
            one("seconds"),
            flag("reap"),
            one("hitcount"),
            flag("rttl"),
            one("name"),
            flag("rsource"),
            flag("rdest"),
            one("mask"),
        ]
    ),
    meant!("quota", quota, &[one("quota").not()]),
    meant!(
        "set",
        sets::set,
        &[
            two("match-set").not(),
            two("set").of("match-set").not(),
            flag("return-nomatch"),
            flag("update-counters").not(),
            flag("update-subcounters").not(),
            one("packets-eq").not(),
            one("packets-lt"),
            one("packets-gt"),
            one("bytes-eq").not(),
            one("bytes-lt"),
            one("bytes-gt"),
        ]
    ),
    opaque_with("bpf", &[one("bytecode"), one("object-pinned")]),
    opaque_with("cgroup", &[one("path").not(), one("cgroup").not()]),
    opaque_with(
        "cluster",
        &[
            one("cluster-total-nodes"),
            one("cluster-local-node").not(),
            one("cluster-local-nodemask").not(),
            one("cluster-hash-seed"),
        ],
    ),
    opaque_with(
        "connbytes",
        &[
            one("connbytes").not(),
            one("connbytes-dir"),
            one("connbytes-mode"),
        ],
    ),
    opaque_with("connlabel", &[one("label").not(), flag("set")]),
    opaque_with("connmark", &[one("mark").not()]),
    opaque_with("cpu", &[one("cpu").not()]),
    opaque_with(
        "devgroup",
        &[one("src-group").not(), one("dst-group").not()],
    ),
    v6(opaque("dst", &[one("dst-len").not(), one("dst-opts")])),
    opaque_with("dscp", &[one("dscp").not(), one("dscp-class").not()]),
    opaque_with(
        "ecn",
        &[
            flag("ecn-tcp-cwr").not(),
            flag("ecn-tcp-ece").not(),
            one("ecn-ip-ect").not(),
        ],
    ),
    v6(opaque("eui64", &[])),
    v6(opaque(
        "frag",
        &[
            one("fragid").not(),
            one("fraglen").not(),
            flag("fragres"),
            flag("fragfirst"),
            flag("fragmore"),
            flag("fraglast"),
        ],
    )),
    v6(opaque("hbh", &[one("hbh-len").not(), one("hbh-opts")])),
    opaque_with("helper", &[one("helper").not()]),
    needs(
        &[108],
        opaque("ipcomp", &[one("ipcompspi").not(), flag("compres")]),
    ),
    v6(opaque_with(
        "ipv6header",
        &[one("header").not(), flag("soft")],
    )),
    opaque_with(
        "ipvs",
        &[
            flag("ipvs").not(),
            one("vproto").not(),
            one("vaddr").not(),
            one("vport").not(),
            one("vdir"),
            one("vmethod").not(),
            one("vportctl").not(),
        ],
    ),
    opaque_with("length", &[one("length").not()]),
    opaque_with("mac", &[one("mac-source").not()]),
    Module {
        meaning: mark,
        ..opaque("mark", &[one("mark").not()])
    },
    v6(needs(&[135], opaque("mh", &[one("mh-type").not()]))),
    opaque_with("nfacct", &[one("nfacct-name")]),
    opaque_with("osf", &[one("genre").not(), one("ttl"), one("log")]),
    opaque_with(
        "owner",
        &[
            one("uid-owner").not(),
            one("gid-owner").not(),
            flag("socket-exists").not(),
            flag("suppl-groups"),
        ],
    ),
    opaque_with(
        "physdev",
        &[
            one("physdev-in").not(),
            one("physdev-out").not(),
            flag("physdev-is-in").not(),
            flag("physdev-is-out").not(),
            flag("physdev-is-bridged").not(),
        ],
    ),
    opaque_with(
        "policy",
        &[
            one("dir"),
            one("pol"),
            flag("strict"),
            one("reqid").not().many(),
            one("spi").not().many(),
            one("tunnel-src").not().many(),
            one("tunnel-dst").not().many(),
            one("proto").not().many(),
            one("mode").not().many(),
            flag("next").many(),
        ],
    ),
    opaque_with(
        "rateest",
        &[
            one("rateest1"),
            one("rateest"),
            one("rateest2"),
            one("rateest-bps1"),
            one("rateest-pps1"),
            one("rateest-bps2"),
            one("rateest-pps2"),
            flag("rateest-delta"),
            flag("rateest-bps"),
            flag("rateest-pps"),
            flag("rateest-lt").not(),
            flag("rateest-gt").not(),
            flag("rateest-eq").not(),
        ],
    ),
    v4(opaque_with("realm", &[one("realm").not()])),
    opaque(
        "rpfilter",
        &[
            flag("loose"),
            flag("validmark"),
            flag("accept-local"),
            flag("invert"),
        ],
    ),
    v6(opaque(
        "rt",
        &[
            one("rt-type").not(),
            one("rt-segsleft").not(),
            one("rt-len").not(),
            flag("rt-0-res"),
            one("rt-0-addrs"),
            flag("rt-0-not-strict"),
        ],
    )),
    opaque(
        "socket",
        &[
            flag("nowildcard"),
            flag("transparent"),
            flag("restore-skmark"),
        ],
    ),
    v6(opaque(
        "srh",
        &[
            one("srh-next-hdr").not(),
            one("srh-hdr-len-eq").not(),
            one("srh-hdr-len-gt").not(),
            one("srh-hdr-len-lt").not(),
            one("srh-segs-left-eq").not(),
            one("srh-segs-left-gt").not(),
            one("srh-segs-left-lt").not(),
            one("srh-last-entry-eq").not(),
            one("srh-last-entry-gt").not(),
            one("srh-last-entry-lt").not(),
            one("srh-tag").not(),
            one("srh-psid").not(),
            one("srh-nsid").not(),
            one("srh-lsid").not(),
        ],
    )),
    opaque_with(
        "statistic",
        &[
            one("mode"),
            one("probability").not(),
            one("every").not(),
            one("packet"),
        ],
    ),
    opaque_with(
        "string",
        &[
            one("from"),
            one("to"),
            one("algo"),
            one("string").not(),
            one("hex-string").not(),
            flag("icase"),
        ],
    ),
    needs(&[6], opaque_with("tcpmss", &[one("mss").not()])),
    opaque(
        "time",
        &[
            one("datestart"),
            one("datestop"),
            one("timestart"),
            one("timestop"),
            one("monthdays").not(),
            one("weekdays").not(),
            flag("localtz"),
            flag("utc"),
            flag("kerneltz"),
            flag("contiguous"),
        ],
    ),
    opaque_with("tos", &[one("tos").not()]),
    opaque_with("u32", &[one("u32").not()]),
    // xtables-addons
    opaque_with("condition", &[one("condition").not()]),
    opaque_with(
        "geoip",
        &[
            one("source-country").not(),
            one("src-cc").not(),
            one("destination-country").not(),
            one("dst-cc").not(),
        ],
    ),
];
