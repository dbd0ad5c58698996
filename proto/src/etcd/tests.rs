use proptest::prelude::*;

use super::*;

/// Answers of etcd 3.4.23 to `curl http://127.0.0.1:2379/v3/…` with the bodies of this module.
const LISTED: &str = include_str!("../../tests/golden/etcd-range.json");
const CHANGED: &str = include_str!("../../tests/golden/etcd-watch.json");

fn keys() -> LeaseKeys {
    LeaseKeys::new("/coreos.com/network/")
}

fn lease(name: &str, addresses: &[&str]) -> Lease {
    Lease {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        refused: Vec::new(),
    }
}

/// An answer with one entry.
fn listed(key: &str, value: &str) -> Range {
    let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
    let text = format!(
        r#"{{"header":{{"cluster_id":"1","revision":"9"}},"count":"1",
        "kvs":[{{"key":"{key}","value":"{value}"}}]}}"#
    );
    range(text.as_bytes(), &keys()).unwrap()
}

#[test]
fn a_page_of_leases_is_read() {
    let read = range(LISTED.as_bytes(), &keys()).unwrap();
    let want = [
        lease("10.5.1.0-24", &["10.0.0.1"]),
        lease("10.5.2.0-24", &["10.0.0.2"]),
    ];
    assert_eq!(read.leases, want);
    assert_eq!(
        (read.cluster, read.revision, read.count),
        (14841639068965178418, 4, 3)
    );
    let last = read.next.unwrap();
    assert_eq!(last, b"/coreos.com/network/subnets/10.5.2.0-24");
    let part = Part {
        after: Some((&last, 4)),
        limit: 2,
        ..Part::default()
    };
    let body: Value = serde_json::from_str(&range_body(&keys(), &part)).unwrap();
    let key = STANDARD.decode(body["key"].as_str().unwrap()).unwrap();
    assert_eq!(key, b"/coreos.com/network/subnets/10.5.2.0-24\0");
    assert_eq!(
        (&body["revision"], &body["limit"]),
        (&"4".into(), &"2".into())
    );
}

#[test]
fn values_of_both_families_and_garbage_are_read() {
    let prefix = "/coreos.com/network/subnets/";
    for (name, value, want, refused) in [
        (
            "dual",
            r#"{"PublicIP":"10.0.0.1","PublicIPv6":"2001:db8::1","BackendData":{"VNI":1}}"#,
            &["10.0.0.1", "2001:db8::1"][..],
            0,
        ),
        (
            "only IPv6",
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1"}"#,
            &["2001:db8::1"],
            0,
        ),
        (
            "only the placeholder",
            r#"{"PublicIP":"0.0.0.0"}"#,
            &["0.0.0.0"],
            0,
        ),
        (
            "null",
            r#"{"PublicIP":"10.0.0.1","PublicIPv6":null}"#,
            &["10.0.0.1"],
            0,
        ),
        (
            "no address",
            r#"{"PublicIP":"db1","PublicIPv6":"2001:db8::1"}"#,
            &["2001:db8::1"],
            1,
        ),
        ("a number", r#"{"PublicIP":7}"#, &[], 1),
        ("no JSON", "10.0.0.1", &[], 1),
        ("half", r#"{"PublicIP":"10.0.0.1""#, &[], 1),
    ] {
        let read = listed(&format!("{prefix}10.5.1.0-24&fd00:5:1::-64"), value);
        let lease = &read.leases[0];
        assert_eq!(lease.name, "10.5.1.0-24&fd00:5:1::-64", "{name}");
        let addresses: Vec<_> = lease.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            (addresses.as_slice(), lease.refused.len()),
            (
                &want
                    .iter()
                    .map(|each| (*each).to_owned())
                    .collect::<Vec<_>>()[..],
                refused
            ),
            "{name}"
        );
    }
    for key in ["/coreos.com/network/config", prefix, "\u{0}"] {
        assert_eq!(listed(key, "{}").unnamed, 1, "{key}");
    }
}

#[test]
fn an_answer_that_is_no_list_is_an_error() {
    for text in [
        "",
        "{}",
        r#"{"header":{"cluster_id":"1"}}"#,
        r#"{"header":{"cluster_id":"1","revision":"2"},"kvs":7}"#,
        r#"{"header":{"cluster_id":"1","revision":"2"},"more":true}"#,
        &LISTED[..LISTED.len() - 2],
    ] {
        assert!(range(text.as_bytes(), &keys()).is_err(), "{text}");
    }
    let empty = r#"{"header":{"cluster_id":"1","revision":"2"}}"#;
    let read = range(empty.as_bytes(), &keys()).unwrap();
    assert_eq!((read.leases.len(), read.count), (0, 0));
}

#[test]
fn every_message_of_a_watch_is_read() {
    let read = |text: &str| message(text.as_bytes(), &keys()).unwrap();
    let changes = vec![
        Change::Put(lease("10.5.2.0-24", &["10.0.0.2"])),
        Change::Deleted("10.5.1.0-24".to_owned()),
    ];
    assert_eq!(
        read(CHANGED),
        Message::Changes {
            revision: 5,
            changes
        }
    );
    let header = r#""header":{"cluster_id":"1","revision":"5"}"#;
    for (rest, want) in [
        (r#","created":true"#, Message::Created),
        ("", Message::Progress(5)),
        (
            r#","canceled":true,"compact_revision":"5""#,
            Message::Canceled {
                compacted: Some(5),
                reason: String::new(),
            },
        ),
        (
            r#","canceled":true,"created":true,"cancel_reason":"permission denied""#,
            Message::Canceled {
                compacted: None,
                reason: "permission denied".to_owned(),
            },
        ),
    ] {
        assert_eq!(read(&format!(r#"{{"result":{{{header}{rest}}}}}"#)), want);
    }
    let lost = r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#;
    assert!(
        matches!(read(lost), Message::Failed(failure) if failure.message.contains("no leader"))
    );
    for text in ["{}", r#"{"result":{}}"#, r#"{"result":7}"#, "[]"] {
        assert!(message(text.as_bytes(), &keys()).is_err(), "{text}");
    }
}

#[test]
fn failures_are_read_with_their_trailers() {
    let compacted = "{\"error\":\"required revision has been compacted\",\"code\":11}\
         Grpc-Trailer-Content-Type: application/grpc\r\n";
    assert!(failure(compacted.as_bytes()).unwrap().is_compacted());
    let token = r#"{"error":"etcdserver: invalid auth token","code":16}"#;
    assert!(failure(token.as_bytes()).unwrap().is_token_invalid());
    assert_eq!(failure(b"404 page not found\n"), None);
    assert_eq!(
        token_of(r#"{"header":{},"token":"abc.17"}"#).unwrap(),
        "abc.17"
    );
    assert!(
        token_of(r#"{"token":"a\r\nX: y"}"#).is_err(),
        "no header in a token"
    );
}

fn token_of(text: &str) -> io::Result<String> {
    token(text.as_bytes())
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = range(&bytes[..], &keys());
        let _ = message(&bytes, &keys());
        let _ = failure(&bytes);
        let _ = token(&bytes[..]);
    }

    #[test]
    fn mutated_answers_are_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)
    ) {
        for text in [LISTED, CHANGED] {
            let mut bytes = text.as_bytes().to_vec();
            for (at, byte) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let _ = message(&bytes, &keys());
            if let Ok(read) = range(&bytes[..], &keys()) {
                prop_assert!(read.leases.len() + read.unnamed <= 2);
            }
        }
    }
}
