//! Warnings, and the help that errors give.

use super::*;

/// The help of a warning, taken at its word, leaves no warning.
#[test]
fn help_that_says_what_to_write_is_right() {
    const DIRECT: &str =
        r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}"#;
    const UDP: &str = "{\"Network\": \"10.244.0.0/16\", \"Backend\": {\"Type\": \"udp\"}}";
    let host = node(
        &[("direct.json", DIRECT), ("udp.json", UDP)],
        vec![vxlan("flannel.1", 8472), vxlan("flannel.7", 4789)],
    );
    for (rest, direct) in [
        ("backend = \"host-gw\"\ndiscover = \"direct.json\"\n", true),
        ("backend = \"vxlan\"\ndiscover = \"udp.json\"\n", false),
        (
            "backend = \"host-gw\"\ninterfaces = [\"flannel.1\"]\nsubnets = \"10.244.0.0/16\"\n",
            true,
        ),
        (
            "backend = \"udp\"\ninterfaces = [\"flannel.1\"]\nsubnets = \"10.244.0.0/16\"\n",
            false,
        ),
        (
            "backend = \"vxlan\"\ninterfaces = [\"flannel.7\"]\nsubnets = \"10.244.0.0/16\"\n",
            false,
        ),
    ] {
        let text = format!(
            r#"
                version = 1
                [peers]
                p = "192.0.2.1"
                [overlay.f]
                {rest}
            "#
        );
        let (_, told) = on(&host, &text);
        let help = told[0].help.clone().unwrap_or_default();
        let mut text: String = text
            .lines()
            .filter(|line| {
                !(line.trim_start().starts_with("backend") && help.contains("backend = "))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        for key in ["backend = ", "direct = ", "port = "] {
            if let Some((_, value)) = help.split_once(key) {
                let end = value.find([' ', ',', ';']).unwrap_or(value.len());
                text += &format!("{key}{}\n", &value[..end]);
            }
        }
        let (overlay, told) = on(&host, &text);
        assert!(told.is_empty(), "{rest}{help}: {told:?}");
        assert_eq!(overlay.direct, direct, "{rest}{help}");
    }
}

#[test]
fn what_is_suspicious_is_a_warning_and_no_error() {
    for (text, want) in [
        ("version = 1\n", "accepts connections from no other host"),
        (
            r#"
                version = 1
                [peers]
                a = ["192.0.2.1", "192.0.2.1"]
            "#,
            "`192.0.2.1` is listed twice",
        ),
        (
            r#"
                version = 1
                [peers]
                a = "192.0.2.1"
                [[allow]]
                name = "w"
                ports = ["80/tcp"]
                from = "a"
            "#,
            "peer `a` is already accepted on every port",
        ),
        (
            r#"
                version = 1
                [[allow]]
                name = "w"
                from = "any"
            "#,
            "opens every port to every source",
        ),
        (
            r#"
                version = 1
                [[allow]]
                name = "v"
                ports = ["80-90/tcp"]
                from = "any"
                [[allow]]
                name = "w"
                ports = ["81/tcp"]
                from = "192.0.2.1"
            "#,
            "allow `w` can never match",
        ),
        (
            r#"
                version = 1
                [overlay.f]
                backend = "none"
                subnets = "10.244.0.0/16"
                [[allow]]
                name = "w"
                ports = ["80/tcp"]
                from = "10.244.1.0/24"
            "#,
            "part of overlay `f`",
        ),
        (
            r"
                version = 1
                [icmp]
                core = false
            ",
            "safe core of ICMP is off",
        ),
        (
            r"
                version = 1
                [options]
                hook_priority = 0
            ",
            "many programs use priority 0",
        ),
    ] {
        let got = warnings(text);
        assert!(got.iter().any(|w| w.contains(want)), "{text}: {got:?}");
    }
    assert_eq!(
        warnings(include_str!("../../../../policy.toml")),
        [""; 0],
        "the example has none"
    );
}
