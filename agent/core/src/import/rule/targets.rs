//! Targets that let a packet continue, and targets that may do anything with it.

/// Targets that let a packet go on.
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

/// Targets that may do anything with it.
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
