//! Names of targets.

/// Targets after which a packet continues.
pub(super) const CONTINUE: [&str; 27] = [
    "LOG",
    "NFLOG",
    "ULOG",
    "MARK",
    "CONNMARK",
    "TCPMSS",
    "SET",
    "TRACE",
    "CT",
    "NOTRACK",
    "CLASSIFY",
    "AUDIT",
    "DSCP",
    "TOS",
    "TTL",
    "HL",
    "CHECKSUM",
    "SECMARK",
    "CONNSECMARK",
    "TEE",
    "RATEEST",
    "IDLETIMER",
    "LED",
    "ECN",
    "HMARK",
    "TCPOPTSTRIP",
    "NETMAP",
];

/// Targets with an unknown effect.
pub(super) const OTHER: [&str; 10] = [
    "NFQUEUE",
    "QUEUE",
    "TARPIT",
    "SYNPROXY",
    "DELUDE",
    "CHAOS",
    "MIRROR",
    "SNAT",
    "CLUSTERIP",
    "TPROXY",
];
