//! Lists of peers, included files, and options.

use super::*;

#[test]
fn a_list_of_peers_has_lines_comments_and_places() {
    let text = "version = 1\npeers_files = [\"peers.txt\"]\n";
    let loaded = read(
        text,
        &[(
            "peers.txt",
            "# ours\n192.0.2.1\r\n  192.0.2.0/28  # a network\n\n2001:db8::1",
        )],
    );
    assert_eq!(loaded.policy.unwrap().peer_count(), 3);
    let loaded = read(text, &[("peers.txt", "192.0.2.1\n  10.0.0.1/8 # x\n")]);
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    assert!(shown.contains("peers.txt:2:3"), "{shown}");
    let loaded = read(text, &[("peers.txt", "# nobody\n")]);
    assert!(loaded.has_errors(), "a list without addresses is an error");
}

#[test]
fn included_files_are_merged_and_cannot_set_twice_what_is_there_once() {
    let main = r#"
        version = 1
        include = ["d/*.toml"]
        [options]
        denied = "reject"
    "#;
    let loaded = read(
        main,
        &[
            ("d/a.toml", "[peers]\na = \"192.0.2.1\"\n"),
            ("d/b.toml", "[options]\ndenied = \"drop\"\n"),
        ],
    );
    let shown = loaded.sources.render(&loaded.diagnostics, false);
    assert!(
        shown.contains("`options` is set twice") && shown.contains("d/b.toml:1:2"),
        "{shown}"
    );
    let loaded = read(main, &[("d/a.toml", "[peers]\na = \"192.0.2.1\"\n")]);
    assert_eq!(loaded.policy.unwrap().peers.len(), 1);
    let loaded = read(main, &[("d/a.toml", "include = [\"x\"]\n")]);
    assert!(loaded.has_errors());
}

#[test]
fn the_backend_can_be_chosen_by_the_policy() {
    use peerwall_core::policy::BackendChoice;
    for (text, wanted) in [
        ("", BackendChoice::Auto),
        ("[options]\nbackend = \"auto\"\n", BackendChoice::Auto),
        ("[options]\nbackend = \"nft\"\n", BackendChoice::Nft),
        (
            "[options]\nbackend = \"iptables\"\n",
            BackendChoice::Iptables,
        ),
    ] {
        let policy = read(&format!("version = 1\n{text}"), &[]).policy.unwrap();
        assert_eq!(policy.options.backend, wanted, "{text}");
    }
    assert!(read("version = 1\n[options]\nbackend = \"ebtables\"\n", &[]).has_errors());
}
