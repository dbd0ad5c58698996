use super::*;
use crate::policy::load::{NoFiles, load};

/// A kernel that was built without a part.
const WITHOUT_CT: &str = "CONFIG_NF_TABLES=m\n# CONFIG_NFT_CT is not set\n";

fn codes(policy: &str, settings: &Settings) -> Vec<&'static str> {
    let text = format!("version = 1\n{policy}");
    let policy = load("policy.toml", &text, &NoFiles).policy.unwrap();
    let found = findings(&policy, settings);
    found.iter().map(|each| each.code).collect()
}

#[test]
fn each_setting_is_found_where_it_matters() {
    let pods = "[overlay.flannel]\nbackend = \"vxlan\"\nsubnets = [\"10.244.0.0/16\"]\n";
    let guests = "[interfaces]\nguests = [\"docker0\"]\n";
    let good = Settings {
        forwarding: [Some(true), Some(true)],
        bridge_calls: Some(true),
        bridges: vec!["cni0".into()],
        connections: Some((10, 1000)),
        is_loaded: Some(true),
        has_agent: true,
        ..Settings::default()
    };
    let change = |change: fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings
    };
    let flannel: fn(&mut Settings) = |s| {
        s.pod_networks = vec!["10.244.0.0/16".parse().unwrap()];
    };
    let silent: fn(&mut Settings) = |s| {
        s.silent_neighbours = vec![("192.0.2.7".parse().unwrap(), "eth0".into())];
    };
    let sizes: fn(&mut Settings) = |s| {
        let interface = |index, name: &str, kind: Option<&str>, mtu| Interface {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            mtu_bytes: Some(mtu),
            carrier: (index == 3).then_some(2),
            addresses: vec!["192.0.2.1/24".parse().unwrap()],
            ..Interface::default()
        };
        s.interfaces = vec![
            interface(2, "eth0", None, 1500),
            interface(3, "flannel.1", Some("vxlan"), 1450),
            interface(4, "cni0", Some("bridge"), 1450),
        ];
    };
    let with = |more: fn(&mut Settings)| {
        let mut settings = good.clone();
        sizes(&mut settings);
        more(&mut settings);
        settings
    };
    let cases: [(&str, Settings, &[&str]); 26] = [
        (pods, with(|_| {}), &[]),
        (
            pods,
            with(|s| s.interfaces[0].mtu_bytes = Some(1499)),
            &["tunnel-mtu"],
        ),
        (
            pods,
            with(|s| s.interfaces[2].mtu_bytes = Some(1500)),
            &["pods-mtu"],
        ),
        (pods, with(|s| s.interfaces[1].carrier = None), &[]),
        (
            pods,
            change(|s| s.log_trouble = Some(LogTrouble::Left)),
            &["log-not-read"],
        ),
        (
            pods,
            change(|s| s.log_trouble = Some(LogTrouble::Other("ulogd reads it".into()))),
            &["log-not-read"],
        ),
        (
            "[peers]\na = \"192.0.2.7\"\n[interfaces]\nbridged = [\"cni0\"]\n",
            change(silent),
            &["peer-silent"],
        ),
        // An address of a network may be unused.
        (
            "[peers]\na = \"192.0.2.0/24\"\n[interfaces]\nbridged = [\"cni0\"]\n",
            change(silent),
            &[],
        ),
        (
            pods,
            change(|s| s.kernel_config = Some(WITHOUT_CT.into())),
            &["kernel-options"],
        ),
        (
            "[options]\nbackend = \"iptables\"\n[interfaces]\nbridged = [\"cni0\"]\n",
            change(|s| s.kernel_config = Some(WITHOUT_CT.into())),
            &[],
        ),
        (pods, good.clone(), &[]),
        (pods, change(flannel), &[]),
        (
            "",
            change(flannel),
            &["pods-not-in-policy", "bridge-filtered"],
        ),
        (
            "[options]\nmode = \"audit\"\n[interfaces]\nbridged = [\"cni0\"]\n",
            good.clone(),
            &["audit"],
        ),
        ("", good.clone(), &["bridge-filtered"]),
        (
            pods,
            change(|s| s.forwarding = [Some(false); 2]),
            &["not-forwarding"],
        ),
        (
            guests,
            change(|s| s.forwarding = [Some(false); 2]),
            &["not-forwarding", "bridge-filtered"],
        ),
        (pods, change(|s| s.forwarding = [None; 2]), &[]),
        (
            pods,
            change(|s| s.bridge_calls = None),
            &["bridge-not-filtered"],
        ),
        (
            pods,
            change(|s| s.bridge_calls = Some(false)),
            &["bridge-not-filtered"],
        ),
        (
            pods,
            change(|s| s.bridges.push("br0".into())),
            &["bridge-filtered"],
        ),
        (
            pods,
            change(|s| s.strict_reverse_path = vec!["eth0".into()]),
            &[],
        ),
        (
            pods,
            change(|s| s.strict_reverse_path = vec!["flannel.1".into()]),
            &["strict-reverse-path"],
        ),
        (
            pods,
            change(|s| s.connections = Some((800, 1000))),
            &["connection-table-full"],
        ),
        (pods, change(|s| s.has_agent = false), &["no-agent"]),
        (
            pods,
            change(|s| {
                s.is_loaded = Some(false);
                s.has_legacy = true;
            }),
            &["not-loaded", "iptables-legacy"],
        ),
    ];
    for (policy, settings, wanted) in cases {
        assert_eq!(codes(policy, &settings), wanted, "{policy}: {settings:?}");
    }
}
