//! contrib: the Ansible role, the cloud-config and the Ignition configuration, each on a machine.

mod ignition;

use std::fs;
use std::path::Path;
use std::process::Output;

use peerwall_core::policy::load::{NoFiles, load};
use peerwall_integration::machine::{Machine, Seed, USR_IS_WRITABLE};
use yaml_rust2::{Yaml, YamlLoader};

const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib");
const PACKAGE: &str = "/usr/local/packages/1/peerwall_*.deb";

pub(crate) fn read(name: &str) -> String {
    let path = format!("{CONTRIB}/{name}");
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"))
}

pub(crate) fn yaml(text: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(text).expect("it is YAML");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn said(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams
        .map(|out| String::from_utf8_lossy(out).into_owned())
        .concat()
}

fn check_policy(name: &str, text: &str) {
    let loaded = load(name, text, &NoFiles);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    assert!(
        loaded.policy.is_some() && loaded.diagnostics.is_empty(),
        "{name}: {shown}"
    );
}

fn check_protected(machine: &Machine, peer: &str) {
    let peers = machine.sh("nft list set inet peerwall peers4");
    assert!(peers.contains(peer), "{peers}");
    machine.sh("systemctl is-enabled peerwall-boot peerwall && systemctl is-active peerwall");
    machine.sh("peerwall status >/dev/null");
}

/// Writes the files of a cloud-config as cloud-init does, and returns the paths.
fn write_files(machine: &Machine, config: &Yaml) -> Vec<String> {
    let files = config["write_files"]
        .as_vec()
        .expect("the cloud-config has files");
    let write = |file: &Yaml| {
        let field = |name: &str| file[name].as_str().expect(name);
        let (path, mode, text) = (field("path"), field("permissions"), field("content"));
        check_policy(path, text);
        machine.sh(&format!(
            "install -D -m {mode} /dev/stdin {path} <<'END'\n{text}END"
        ));
        path.to_owned()
    };
    files.iter().map(write).collect()
}

#[test]
fn the_cloud_config_protects_a_host() {
    let machine = Seed::with_packages(&["deb"], &["1"]).boot(USR_IS_WRITABLE);
    let config = yaml(&read("cloud-init/user-data.yaml"));
    assert_eq!(
        write_files(&machine, &config),
        ["/etc/peerwall/policy.toml"]
    );
    let commands = config["runcmd"].as_vec().expect("the config has commands");
    let sum = machine.sh(&format!("sha256sum {PACKAGE}"));
    let sum = sum.split(' ').next().expect("a checksum");
    for command in commands {
        let command = command.as_str().expect("a line for the shell");
        // The machine has no network: the package is downloaded from its disk.
        let command = match command.strip_prefix("curl ") {
            Some(download) => {
                let words = download.split(' ').collect::<Vec<_>>();
                let [options, "-o", to, url] = words[..] else {
                    panic!("{command}")
                };
                assert_eq!(options, "-fsSL");
                assert!(url.starts_with("https://downloads.example.com/peerwall_"));
                format!("cp {PACKAGE} {to}")
            }
            None => command.replace(&"0".repeat(64), sum),
        };
        machine.sh(&command);
    }
    check_protected(&machine, "129.21.49.49");
}

/// Puts the role and its playbook into a machine with packages.
fn seed_with_role() -> Seed {
    let seed = Seed::with_packages(&["deb"], &["1"]);
    let mut folders = vec![Path::new(CONTRIB).join("ansible")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let name = path.strip_prefix(CONTRIB).expect("it is below contrib");
            let text = fs::read_to_string(&path).expect("it is text");
            seed.write(&format!("usr/local/src/contrib/{}", name.display()), &text);
        }
    }
    seed
}

/// Runs the playbook on the machine itself.
fn play(machine: &Machine, more: &str) -> Output {
    machine.try_sh(&format!(
        "cd /usr/local/src/contrib/ansible && export HOME=/root LC_ALL=C.UTF-8 && \
         ansible-playbook -i master, -c local site.yml -e node_ip=192.0.2.1 \
         -e ansible_python_interpreter=/usr/bin/python3 \
         -e peerwall_package=$(echo {PACKAGE}) {more} 2>&1"
    ))
}

#[test]
fn the_ansible_role_installs_applies_and_changes_nothing_the_second_time() {
    let machine = seed_with_role().boot(USR_IS_WRITABLE);
    let first = play(&machine, "");
    assert!(first.status.success(), "{}", said(&first));
    check_protected(&machine, "192.0.2.1");
    let status = machine.sh("peerwall status --json");
    assert!(status.contains("\"trial\": null"), "{status}");
    let kept = "test -e /etc/peerwall/policy.toml && ! test -e /etc/peerwall/policy.new.toml";
    machine.sh(kept);

    let second = play(&machine, "");
    assert!(
        second.status.success() && said(&second).contains("changed=0"),
        "{}",
        said(&second)
    );

    // A change while the agent runs.
    let third = play(&machine, "-e node_ip=192.0.2.2");
    assert!(third.status.success(), "{}", said(&third));
    check_protected(&machine, "192.0.2.2");
    machine.sh(kept);
}

#[test]
fn the_ansible_role_leaves_the_policy_as_it_is_if_the_new_one_has_errors() {
    let machine = seed_with_role().boot(USR_IS_WRITABLE);
    assert!(play(&machine, "").status.success());
    let before = machine.sh("cat /etc/peerwall/policy.toml");
    let played = play(&machine, "-e node_ip=192.0.2.0.1");
    assert!(!played.status.success());
    assert!(said(&played).contains("192.0.2.0.1"), "{}", said(&played));
    assert_eq!(machine.sh("cat /etc/peerwall/policy.toml"), before);
    check_protected(&machine, "192.0.2.1");
}

#[test]
fn the_daemon_set_has_a_valid_policy_and_no_more_rights_than_it_needs() {
    let documents = YamlLoader::load_from_str(&read("kubernetes/peerwall.yaml")).expect("YAML");
    let of_kind = |kind: &str| {
        let mut found = documents
            .iter()
            .filter(|each| each["kind"].as_str() == Some(kind));
        found.next().unwrap_or_else(|| panic!("no {kind}"))
    };
    let policy = of_kind("ConfigMap")["data"]["policy.toml"].as_str();
    check_policy("policy.toml", policy.expect("a policy"));
    let words = |list: &Yaml| -> Vec<String> {
        let list = list.as_vec().into_iter().flatten();
        list.filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    for rule in of_kind("ClusterRole")["rules"].as_vec().expect("rules") {
        let verbs = words(&rule["verbs"]);
        assert!(
            verbs
                .iter()
                .all(|verb| ["get", "list", "watch"].contains(&verb.as_str()))
        );
    }
    let pod = &of_kind("DaemonSet")["spec"]["template"]["spec"];
    let containers = pod["containers"].as_vec().expect("containers");
    let rights = containers.iter().map(|container| {
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"].as_bool(), Some(true));
        assert_eq!(context["allowPrivilegeEscalation"].as_bool(), Some(false));
        assert_eq!(words(&context["capabilities"]["drop"]), ["ALL"]);
        (
            context["runAsUser"].as_i64(),
            words(&context["capabilities"]["add"]),
        )
    });
    let rights: Vec<_> = rights.collect();
    let agent = (Some(0), vec!["NET_ADMIN".to_owned()]);
    assert_eq!(rights, [agent, (Some(65534), Vec::new())]);
    // Every mounted volume exists, and every volume is mounted.
    let names = |list: &Yaml| -> Vec<String> {
        let list = list.as_vec().into_iter().flatten();
        list.filter_map(|each| each["name"].as_str().map(str::to_owned))
            .collect()
    };
    let mut mounted: Vec<String> = containers
        .iter()
        .flat_map(|container| names(&container["volumeMounts"]))
        .collect();
    let mut volumes = names(&pod["volumes"]);
    mounted.sort();
    mounted.dedup();
    volumes.sort();
    assert_eq!(mounted, volumes);
}
