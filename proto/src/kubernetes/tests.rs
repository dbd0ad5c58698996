use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

/// A node in the format of the API, with annotations of flannel.
const NODE: &str = include_str!("../../tests/golden/kubernetes-node.json");

fn page(items: &str) -> io::Result<Page> {
    let text = format!(
        r#"{{"kind":"NodeList","apiVersion":"v1","metadata":{{"resourceVersion":"48300"}},"items":{items}}}"#
    );
    list(text.as_bytes())
}

fn node(text: &str) -> Node {
    let page = page(&format!("[{text}]")).unwrap();
    assert_eq!(page.unnamed, 0);
    page.nodes[0].clone()
}

fn addresses(node: &Node) -> Vec<(AddressKind, String)> {
    let pair = |each: &NodeAddress| (each.kind, each.address.to_string());
    node.addresses.iter().map(pair).collect()
}

#[test]
fn a_node_has_the_addresses_of_its_status_and_of_flannel() {
    let node = node(NODE);
    assert_eq!((&*node.name, &*node.revision), ("worker-1", "48213"));
    assert_eq!(node.refused, [""; 0]);
    let want = [
        (AddressKind::InternalIp, "10.0.0.5"),
        (AddressKind::InternalIp, "2001:db8::5"),
        (AddressKind::ExternalIp, "198.51.100.5"),
        (AddressKind::Flannel, "10.0.0.5"),
        (AddressKind::Flannel, "203.0.113.5"),
    ];
    assert_eq!(
        addresses(&node),
        want.map(|(kind, text)| (kind, text.to_owned()))
    );
}

#[test]
fn unusable_entries_are_refused_and_the_rest_goes_on() {
    let garbage = [
        r#"{"metadata":{"name":"a"},"status":{"addresses":[
            {"type":"InternalIP","address":"10.0.0.300"},{"type":"InternalIP","address":"10.0.0.1"}]}}"#,
        r#"{"metadata":{"name":"b"},"status":{"addresses":"none"}}"#,
        r#"{"metadata":{"name":"c"},"status":{"addresses":[{"type":"InternalIP","address":7},null,[1]]}}"#,
        r#"{"metadata":{"name":""}}"#,
        r#"{"metadata":[]}"#,
        "17",
        r#"{"metadata":{"name":"d","annotations":{"flannel.alpha.coreos.com/public-ip":["x"]}}}"#,
    ];
    let page = page(&format!("[{},{NODE}]", garbage.join(","))).unwrap();
    let read: Vec<_> = page
        .nodes
        .iter()
        .map(|node| (&*node.name, node.addresses.len(), node.refused.len()))
        .collect();
    let want = [
        ("a", 1, 1),
        ("b", 0, 0),
        ("c", 0, 1),
        ("d", 0, 1),
        ("worker-1", 5, 0),
    ];
    assert_eq!((read.as_slice(), page.unnamed), (&want[..], 3));
    assert_eq!(
        page.nodes[0].refused,
        [r#"status.addresses: "10.0.0.300" is not an IP address"#]
    );
}

#[test]
fn a_node_with_too_many_addresses_is_refused() {
    let many: Vec<_> = (0..1000)
        .map(|n| {
            format!(
                r#"{{"type":"InternalIP","address":"10.1.{}.{}"}}"#,
                n / 250,
                n % 250
            )
        })
        .collect();
    let node = node(&format!(
        r#"{{"metadata":{{"name":"a"}},"status":{{"addresses":[{}]}}}}"#,
        many.join(",")
    ));
    assert_eq!((node.addresses.len(), node.refused.len()), (0, 1));
    assert!(node.refused[0].contains("1000"), "{:?}", node.refused);
}

#[test]
fn the_placeholder_of_flannel_without_ipv4_is_no_address() {
    let annotated = |v4: &str, v6: &str| {
        let text = format!(
            r#"{{"metadata":{{"name":"a","annotations":{{
            "flannel.alpha.coreos.com/public-ip":"{v4}"{v6}}}}}}}"#
        );
        addresses(&node(&text))
            .into_iter()
            .map(|(_, text)| text)
            .collect::<Vec<_>>()
    };
    let v6 = r#","flannel.alpha.coreos.com/public-ipv6":"2001:db8::1""#;
    assert_eq!(annotated("0.0.0.0", v6), ["2001:db8::1"]);
    assert_eq!(annotated("10.0.0.1", v6), ["10.0.0.1", "2001:db8::1"]);
    // Alone it is no placeholder, and the agent refuses it.
    assert_eq!(annotated("0.0.0.0", ""), ["0.0.0.0"]);
    assert_eq!(annotated("::ffff:10.0.0.1", ""), ["10.0.0.1"]);
}

#[test]
fn pages_say_how_they_go_on() {
    let text = r#"{"metadata":{"resourceVersion":"7","continue":"eyJ2","remainingItemCount":45},"items":[]}"#;
    let page = list(text.as_bytes()).unwrap();
    assert_eq!(page.next.as_deref(), Some("eyJ2"));
    assert_eq!(page.remaining, Some(45));
    let last = list(&br#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#[..]);
    assert_eq!(last.unwrap().next, None);
    for garbage in [
        "",
        "{}",
        r#"{"metadata":{"resourceVersion":"7"}}"#,
        r#"{"metadata":{"resourceVersion":"7"},"items":{}}"#,
        r#"{"metadata":{},"items":[]}"#,
        r#"{"metadata":{"resourceVersion":"7"},"items":[]"#,
        "<html>login</html>",
    ] {
        assert!(list(garbage.as_bytes()).is_err(), "{garbage}");
    }
}

#[test]
fn paths_are_escaped() {
    assert_eq!(
        list_path(Some("role=peer,x!=a b"), 500, Some("a+b/c=")),
        "/api/v1/nodes?limit=500&labelSelector=role%3Dpeer%2Cx%21%3Da%20b&continue=a%2Bb%2Fc%3D"
    );
    assert_eq!(
        watch_path(None, "48300", 60),
        "/api/v1/nodes?watch=1&allowWatchBookmarks=true&resourceVersion=48300&timeoutSeconds=60"
    );
}

#[test]
fn every_kind_of_event_is_read() {
    let event = |kind: &str, object: &str| {
        event(format!(r#"{{"type":"{kind}","object":{object}}}"#).as_bytes())
    };
    let is_ours = |node: &Node| node.name == "worker-1";
    for kind in ["ADDED", "MODIFIED"] {
        assert!(matches!(event(kind, NODE), Ok(Event::Put(node)) if is_ours(&node)));
    }
    assert!(matches!(event("DELETED", NODE), Ok(Event::Deleted(node)) if is_ours(&node)));
    assert!(matches!(event("ADDED", "{}"), Ok(Event::Unnamed)));
    let bookmark = r#"{"kind":"Node","metadata":{"resourceVersion":"48400","annotations":{}}}"#;
    assert!(matches!(event("BOOKMARK", bookmark), Ok(Event::Bookmark(at)) if at == "48400"));
    let gone =
        r#"{"kind":"Status","message":"too old resource version","reason":"Expired","code":410}"#;
    let Ok(Event::Failed(failed)) = event("ERROR", gone) else {
        panic!("not read");
    };
    assert!(failed.is_gone() && failed.message.starts_with("too old"));
    assert!(failure(gone.as_bytes()).is_some_and(|failure| failure.is_gone()));
    for (kind, object) in [("BOOKMARK", "{}"), ("OTHER", NODE)] {
        assert!(event(kind, object).is_err(), "{kind}");
    }
}

#[test]
fn an_identity_is_one_word() {
    let of = |uid: &str| uid_of(&format!(r#"{{"metadata":{{"uid":"{uid}"}}}}"#));
    assert_eq!(of("b2c1-4").unwrap(), "b2c1-4");
    for uid in ["", "a b", "a\\nb", &"x".repeat(200)] {
        assert!(of(uid).is_err(), "{uid}");
    }
}

fn uid_of(text: &str) -> io::Result<String> {
    uid(text.as_bytes())
}

/// Replaces, inserts and removes bytes.
fn mutate(text: &str, edits: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, kind, byte) in edits {
        let at = at.index(bytes.len());
        match kind % 3 {
            0 => bytes[at] = *byte,
            1 => bytes.insert(at, *byte),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = list(&bytes[..]);
        let _ = event(&bytes);
        let _ = failure(&bytes);
        let _ = uid(&bytes[..]);
    }

    /// Whatever the answer says, each address of the result is in the answer, or was an
    /// IPv4-mapped one.
    #[test]
    fn mutated_answers_invent_no_address(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..20)
    ) {
        let text = format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{NODE},{NODE}]}}"#);
        let bytes = mutate(&text, &edits);
        if let Ok(page) = list(&bytes[..]) {
            let text = String::from_utf8_lossy(&bytes).to_lowercase();
            for each in page.nodes.iter().flat_map(|node| &node.addresses) {
                if let IpAddr::V4(address) = each.address {
                    prop_assert!(text.contains(&address.to_string()) || text.contains("ffff:"));
                }
            }
        }
        let _ = event(&bytes);
    }
}
