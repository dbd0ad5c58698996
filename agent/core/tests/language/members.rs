//! Members of sources are peers and groups, within the limits of the policy.

use peerwall_core::policy::MemberSource;
use peerwall_core::policy::load::Member;

use super::*;

/// Source `cluster` with these members, and no files.
struct WithMembers(&'static [(&'static str, &'static str)]);

impl Files for WithMembers {
    fn read(&self, path: &str, _: &str) -> Result<Text, ReadError> {
        Err(ReadError::Absent(path.to_owned()))
    }
    fn glob(&self, _: &str, _: &str) -> Result<Vec<String>, ReadError> {
        Ok(Vec::new())
    }
    fn members(&self, source: &MemberSource) -> Result<Option<Vec<Member>>, ReadError> {
        let members = self.0.iter();
        let members = members.filter_map(|(address, name)| {
            let address = address.parse().ok()?;
            Some((address, (*name).to_owned()))
        });
        Ok((source.name == "cluster").then(|| members.collect()))
    }
}

const POLICY: &str = r#"
    version = 1
    [peers]
    master = "10.0.0.1"
    [peers_from.cluster]
    kind = "kubernetes"
    server = ["https://10.0.0.1:6443"]
    within = ["10.0.0.0/16"]
    max = 3
    [groups_from.lb]
    kind = "dns"
    names = ["lb.example.org"]
    within = ["203.0.113.0/24"]
    [overlay.pods]
    backend = "none"
    subnets = ["10.0.244.0/24"]
    interfaces = ["cni0"]
    [[allow]]
    name = "web"
    ports = ["80/tcp"]
    from = ["lb", "cluster"]
"#;

#[test]
fn members_within_the_limits_are_peers_and_a_group() {
    let files = WithMembers(&[
        ("10.0.0.5", "worker-1"),
        ("10.0.0.6", "worker-1"),
        ("10.0.244.7", "pod"),
        ("192.0.2.1", "outside"),
        ("10.0.0.8", "worker-2"),
        ("10.0.0.9", "too-many"),
    ]);
    let loaded = load("policy.toml", POLICY, &files);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    let policy = loaded.policy.expect(&shown);
    let names: Vec<_> = policy
        .peers
        .iter()
        .filter_map(|peer| peer.name.as_deref())
        .collect();
    assert_eq!(names, ["master", "cluster/worker-1", "cluster/worker-2"]);
    assert_eq!(policy.group("cluster").unwrap().addresses.len(), 3);
    assert_eq!(policy.group("lb").unwrap().addresses.len(), 0);
    assert_eq!(loaded.diagnostics, [], "{shown}");
}

#[test]
fn a_source_without_members_is_valid_and_opens_nothing() {
    let loaded = load("policy.toml", POLICY, &WithMembers(&[]));
    assert_eq!(loaded.diagnostics, []);
    let (ruleset, _) = compile(&loaded.policy.unwrap());
    assert!(!ruleset.sets.keys().any(|name| name.contains("group-")));
    let text = peerwall_core::ruleset::render::script(&ruleset);
    assert!(!text.contains("dport 80"), "{text}");
}
