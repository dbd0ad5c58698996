//! The targets of iptables 1.8.9 with their options. Sources: `extensions/lib*.c`.

use super::super::options::{Opt, flag, one, two};
use super::{Effect, Target};

const fn target(name: &'static str, effect: Effect, options: &'static [Opt]) -> Target {
    Target {
        name,
        options,
        effect,
    }
}

const MARKS: &[Opt] = &[
    one("set-xmark"),
    one("set-mark"),
    one("and-mark"),
    one("or-mark"),
    one("xor-mark"),
];

/// The targets.
pub(super) const TARGETS: &[Target] = &[
    target("ACCEPT", Effect::Accept, &[]),
    target("DROP", Effect::Drop, &[]),
    target("RETURN", Effect::Return, &[]),
    target("REJECT", Effect::Reject, &[one("reject-with")]),
    target(
        "DNAT",
        Effect::Destination,
        &[one("to-destination"), flag("random"), flag("persistent")],
    ),
    target(
        "REDIRECT",
        Effect::Redirect,
        &[one("to-ports"), flag("random")],
    ),
    target(
        "MASQUERADE",
        Effect::Source,
        &[one("to-ports"), flag("random"), flag("random-fully")],
    ),
    target("AUDIT", Effect::Continue, &[one("type")]),
    target("CHECKSUM", Effect::Continue, &[flag("checksum-fill")]),
    target("CLASSIFY", Effect::Continue, &[one("set-class")]),
    target(
        "CONNMARK",
        Effect::Continue,
        &[
            one("set-xmark"),
            one("set-mark"),
            one("and-mark"),
            one("or-mark"),
            one("xor-mark"),
            flag("save-mark"),
            flag("restore-mark"),
            one("left-shift-mark"),
            one("right-shift-mark"),
            one("ctmask"),
            one("nfmask"),
            one("mask"),
        ],
    ),
    target(
        "CONNSECMARK",
        Effect::Continue,
        &[flag("save"), flag("restore")],
    ),
    target(
        "CT",
        Effect::Continue,
        &[
            flag("notrack"),
            one("helper"),
            one("timeout"),
            one("ctevents"),
            one("expevents"),
            one("zone"),
            one("zone-orig"),
            one("zone-reply"),
        ],
    ),
    target(
        "DSCP",
        Effect::Continue,
        &[one("set-dscp"), one("set-dscp-class")],
    ),
    target(
        "ECN",
        Effect::Continue,
        &[
            flag("ecn-tcp-remove"),
            one("ecn-tcp-cwr"),
            one("ecn-tcp-ece"),
            one("ecn-ip-ect"),
        ],
    ),
    target(
        "HL",
        Effect::Continue,
        &[one("hl-set"), one("hl-dec"), one("hl-inc")],
    ),
    target(
        "HMARK",
        Effect::Continue,
        &[
            one("hmark-tuple"),
            one("hmark-mod"),
            one("hmark-offset"),
            one("hmark-src-prefix"),
            one("hmark-dst-prefix"),
            one("hmark-sport-mask"),
            one("hmark-dport-mask"),
            one("hmark-spi-mask"),
            one("hmark-sport"),
            one("hmark-dport"),
            one("hmark-spi"),
            one("hmark-proto-mask"),
            one("hmark-rnd"),
        ],
    ),
    target(
        "IDLETIMER",
        Effect::Continue,
        &[one("timeout"), one("label"), flag("alarm")],
    ),
    target(
        "LED",
        Effect::Continue,
        &[
            one("led-trigger-id"),
            one("led-delay"),
            flag("led-always-blink"),
        ],
    ),
    target(
        "LOG",
        Effect::Continue,
        &[
            one("log-level"),
            one("log-prefix"),
            flag("log-tcp-sequence"),
            flag("log-tcp-options"),
            flag("log-ip-options"),
            flag("log-uid"),
            flag("log-macdecode"),
        ],
    ),
    target("MARK", Effect::Continue, MARKS),
    target(
        "NFLOG",
        Effect::Continue,
        &[
            one("nflog-group"),
            one("nflog-prefix"),
            one("nflog-range"),
            one("nflog-size"),
            one("nflog-threshold"),
        ],
    ),
    target("NOTRACK", Effect::Continue, &[]),
    target(
        "RATEEST",
        Effect::Continue,
        &[
            one("rateest-name"),
            one("rateest-interval"),
            one("rateest-ewmalog"),
        ],
    ),
    target("SECMARK", Effect::Continue, &[one("selctx")]),
    target(
        "SET",
        Effect::Continue,
        &[
            two("add-set"),
            two("del-set"),
            one("timeout"),
            flag("exist"),
            two("map-set"),
            flag("map-mark"),
            flag("map-prio"),
            flag("map-queue"),
        ],
    ),
    target(
        "TCPMSS",
        Effect::Continue,
        &[one("set-mss"), flag("clamp-mss-to-pmtu")],
    ),
    target("TCPOPTSTRIP", Effect::Continue, &[one("strip-options")]),
    target("TEE", Effect::Continue, &[one("gateway"), one("oif")]),
    target(
        "TOS",
        Effect::Continue,
        &[
            one("set-tos"),
            one("and-tos"),
            one("or-tos"),
            one("xor-tos"),
        ],
    ),
    target("TRACE", Effect::Continue, &[]),
    target(
        "TTL",
        Effect::Continue,
        &[one("ttl-set"), one("ttl-dec"), one("ttl-inc")],
    ),
    target(
        "ULOG",
        Effect::Continue,
        &[
            one("ulog-nlgroup"),
            one("ulog-prefix"),
            one("ulog-cprange"),
            one("ulog-qthreshold"),
        ],
    ),
    target("CHAOS", Effect::Other, &[flag("delude"), flag("tarpit")]),
    target(
        "CLUSTERIP",
        Effect::Other,
        &[
            flag("new"),
            one("hashmode"),
            one("clustermac"),
            one("total-nodes"),
            one("local-node"),
            one("hash-init"),
        ],
    ),
    target("DELUDE", Effect::Other, &[]),
    target("DNPT", Effect::Other, &[one("src-pfx"), one("dst-pfx")]),
    target("MIRROR", Effect::Other, &[]),
    target("NETMAP", Effect::Map, &[one("to")]),
    target(
        "NFQUEUE",
        Effect::Other,
        &[
            one("queue-num"),
            one("queue-balance"),
            flag("queue-bypass"),
            flag("queue-cpu-fanout"),
        ],
    ),
    target("QUEUE", Effect::Other, &[]),
    target(
        "SNAT",
        Effect::Other,
        &[
            one("to-source"),
            flag("random"),
            flag("random-fully"),
            flag("persistent"),
        ],
    ),
    target("SNPT", Effect::Other, &[one("src-pfx"), one("dst-pfx")]),
    target(
        "SYNPROXY",
        Effect::Other,
        &[
            flag("sack-perm"),
            flag("timestamp"),
            one("wscale"),
            one("mss"),
            flag("ecn"),
        ],
    ),
    target(
        "TARPIT",
        Effect::Other,
        &[flag("tarpit"), flag("honeypot"), flag("reset")],
    ),
    target(
        "TPROXY",
        Effect::Other,
        &[one("on-port"), one("on-ip"), one("tproxy-mark")],
    ),
];
