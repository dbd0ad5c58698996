//! flannel's leases in a real etcd: one member, and three with TLS and RBAC.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use peerwall_integration::certificates::{Authority, Issued, Key};
use peerwall_integration::ns::{sh, world};
use peerwall_integration::sources::Sources;
use peerwall_sources::connection::{Endpoint, Times};
use peerwall_sources::credentials::Vigil;
use peerwall_sources::http::{Client, Request};
use peerwall_sources::tls::{self, Pem};
use peerwall_sources::url::Url;
use serde_json::{Value, json};

const PREFIX: &str = "/coreos.com/network";

/// A running member; killed when it goes out of scope.
struct Member {
    child: Child,
    url: String,
    args: Vec<String>,
    folder: std::path::PathBuf,
}

/// TLS of all members, and of this client.
#[derive(Clone)]
struct Certificates {
    ca: std::path::PathBuf,
    server: Issued,
    client: Issued,
}

impl Member {
    /// Starts member `number` of `count`; its clients' port is `2379 + 10 * number`.
    fn start(folder: &Path, number: usize, count: usize, tls: Option<&Certificates>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = |number: usize| format!("{scheme}://127.0.0.1:{}", 2379 + 10 * number);
        let peer = |number: usize| format!("http://127.0.0.1:{}", 2380 + 10 * number);
        let members: Vec<_> = (0..count)
            .map(|each| format!("m{each}={}", peer(each)))
            .collect();
        let mut args: Vec<String> = [
            ("name", format!("m{number}")),
            (
                "data-dir",
                folder.join(format!("m{number}")).display().to_string(),
            ),
            ("listen-client-urls", url(number)),
            ("advertise-client-urls", url(number)),
            ("listen-peer-urls", peer(number)),
            ("initial-advertise-peer-urls", peer(number)),
            ("initial-cluster", members.join(",")),
            // A busy computer must not cause elections.
            ("heartbeat-interval", "100".to_owned()),
            ("election-timeout", "1000".to_owned()),
        ]
        .map(|(key, value)| format!("--{key}={value}"))
        .into();
        if let Some(tls) = tls {
            args.push("--client-cert-auth".to_owned());
            for (key, file) in [
                ("trusted-ca-file", &tls.ca),
                ("cert-file", &tls.server.certificate),
                ("key-file", &tls.server.key),
            ] {
                args.push(format!("--{key}={}", file.display()));
            }
        }
        let folder = folder.to_owned();
        Self {
            child: spawn(&folder, &args),
            url: url(number),
            args,
            folder,
        }
    }

    fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} {}", self.child.id()));
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.folder, &self.args);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, args: &[String]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("etcd.log"))
        .unwrap();
    let mut command = Command::new("etcd");
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().expect("etcd is installed: scripts/deps")
}

/// A client of the gateway.
struct Gateway<'g> {
    url: String,
    tls: Option<&'g Certificates>,
    token: Option<String>,
}

impl Gateway<'_> {
    /// Sends a request. Returns the status and the answer.
    fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let url = Url::parse(&self.url).unwrap();
        let pem = |path: &Path| {
            let (place, text) = (path.display().to_string(), fs::read(path).unwrap());
            Some(Pem { place, text })
        };
        let credentials = self.tls.map(|tls| tls::Credentials {
            ca: pem(&tls.ca),
            certificate: pem(&tls.client.certificate),
            key: pem(&tls.client.key),
        });
        let tls = credentials.map(|credentials| tls::Client::new(&credentials).unwrap());
        let (answer, watch) = (Duration::from_secs(5), Duration::from_secs(5));
        let vigil = Vigil::new(&Arc::new(AtomicBool::new(false)));
        let endpoint = Endpoint {
            url: &url,
            tls: tls.as_ref(),
            server_name: None,
            times: Times { answer, watch },
            vigil: &vigil,
        };
        let mut client = Client::open(&endpoint).ok()?;
        let headers = self
            .token
            .iter()
            .map(|token| ("Authorization", token.as_str()));
        let body = body.to_string();
        let request = Request {
            path,
            body: Some(&body),
            headers: headers.collect(),
        };
        let response = client.exchange(&request).ok()?;
        let (status, text) = (response.status, response.body.beginning().ok()?);
        let text = String::from_utf8_lossy(&text).into_owned();
        let end = text.rfind('}').map_or(text.len(), |end| end + 1);
        Some((
            status,
            serde_json::from_str(&text[..end]).unwrap_or_default(),
        ))
    }

    /// Sends a request until it succeeds: an election may take its time.
    fn post(&self, path: &str, body: &Value) -> Value {
        let start = Instant::now();
        loop {
            match self.try_post(path, body) {
                Some((200, answer)) => return answer,
                other => assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "{path}: {other:?}"
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn put(&self, subnet: &str, value: &str) {
        let body =
            json!({"key": encode(&format!("{PREFIX}/subnets/{subnet}")), "value": encode(value)});
        self.post("/v3/kv/put", &body);
    }

    fn lease(&self, number: u32) {
        let (high, low) = (number / 250, number % 250);
        let value = format!(r#"{{"PublicIP":"10.1.{high}.{low}","BackendType":"vxlan"}}"#);
        self.put(&format!("10.5.{number}.0-24"), &value);
    }

    fn delete(&self, subnet: &str) {
        let body = json!({"key": encode(&format!("{PREFIX}/subnets/{subnet}"))});
        self.post("/v3/kv/deleterange", &body);
    }
}

fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    // base64 by hand, so that the program's own is judged.
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for part in text.as_bytes().chunks(3) {
        let byte = |index: usize| u32::from(*part.get(index).unwrap_or(&0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            match index <= part.len() {
                true => {
                    let letter = LETTERS[(bits >> (18 - 6 * index) & 63) as usize];
                    write!(encoded, "{}", char::from(letter)).unwrap();
                }
                false => encoded.push('='),
            }
        }
    }
    encoded
}

#[test]
fn leases_are_followed_through_everything_that_one_member_does() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut member = Member::start(folder.path(), 0, 1, None);
        let gateway = Gateway {
            url: member.url.clone(),
            tls: None,
            token: None,
        };
        gateway.lease(1);
        gateway.put(
            "10.5.2.0-24&fd00:5:2::-64",
            r#"{"PublicIP":"10.1.0.2","PublicIPv6":"2001:db8::2","BackendType":"vxlan"}"#,
        );
        gateway.put(
            "10.5.3.0-24",
            r#"{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::3"}"#,
        );
        gateway.put("10.5.4.0-24", "not JSON");
        let source = |name: &str, prefix: &str| {
            let server = [&member.url];
            json!({"name": name, "kind": "flannel-etcd", "server": server, "prefix": prefix})
        };
        let sources = Sources::start(&[source("leases", PREFIX), source("wrong", "/other")]);
        let first = ["10.1.0.1", "10.1.0.2", "2001:db8::2", "2001:db8::3"];
        sources.await_addresses("leases", &first);
        let text = sources.file("leases").unwrap();
        assert!(
            text.contains("\n2001:db8::2 10.5.2.0-24&fd00:5:2::-64\n"),
            "{text}"
        );
        assert!(
            sources
                .log()
                .contains(r#"lease "10.5.4.0-24" refused: the value is not JSON"#)
        );
        // A wrong prefix is an empty answer; the agent decides what that means.
        sources.await_addresses("wrong", &[]);

        // Joins, renewals, leaves, and more leases than a page has.
        let mut longest = Duration::ZERO;
        for number in 5..25 {
            let start = Instant::now();
            gateway.lease(number);
            sources.until("the lease", || {
                let wanted = format!("10.1.0.{number}");
                sources
                    .addresses("leases")
                    .is_some_and(|found| found.contains(&wanted))
            });
            longest = longest.max(start.elapsed());
        }
        println!("from the request of a lease to the file, at most: {longest:?}");
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        use std::os::unix::fs::MetadataExt as _;
        let inode = || fs::metadata(sources.path("leases")).unwrap().ino();
        let before = inode();
        gateway.lease(24);
        gateway.delete("10.5.4.0-24");
        // A second proof by a majority since then.
        let fresh = || sources.status("leases")["fresh"].as_u64().unwrap_or(0);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(inode(), before, "a renewal");
        for number in 5..25 {
            gateway.delete(&format!("10.5.{number}.0-24"));
        }
        sources.await_addresses("leases", &first);

        // Frozen: noticed by the silence, and changes are not missed.
        member.signal("STOP");
        sources.await_status("leases", "failing", "timeout");
        assert_eq!(sources.addresses("leases").unwrap(), first);
        let old = fresh();
        member.signal("CONT");
        sources.await_status("leases", "fresh", "");
        assert!(fresh() > old);

        // Away, changed behind the program's back, and compacted.
        member.signal("STOP");
        sources.await_status("leases", "failing", "timeout");
        member.signal("CONT");
        member.kill();
        sources.await_status("leases", "failing", "unreachable");
        member.restart();
        for number in 1000..1600 {
            gateway.lease(number);
        }
        gateway.delete("10.5.1.0-24");
        let revision =
            gateway.post("/v3/kv/range", &json!({"key": "AA=="}))["header"]["revision"].clone();
        gateway.post("/v3/kv/compaction", &json!({"revision": revision}));
        sources.until("600 more leases", || {
            sources
                .addresses("leases")
                .is_some_and(|found| found.len() == 603)
        });
        sources.await_status("leases", "fresh", "");

        // Another, empty cluster at the same place: written, with its own identity.
        let identity = |text: &str| {
            text.split("identity=")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        let before = identity(&sources.file("leases").unwrap());
        member.kill();
        fs::remove_dir_all(folder.path().join("m0")).unwrap();
        member
            .args
            .push("--initial-cluster-token=rebuilt".to_owned());
        member.restart();
        sources.await_addresses("leases", &[]);
        assert_ne!(identity(&sources.file("leases").unwrap()), before);
    });
}

#[test]
fn three_members_with_tls_and_rbac() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let ours = Authority::new(folder, "ours");
        let tls = Certificates {
            ca: ours.certificate(),
            server: ours.issue("server", "/O=etcd", Key::Pkcs8, 30),
            client: ours.issue("client", "/O=peerwall", Key::Sec1, 30),
        };
        let named = ours.issue("named", "/CN=peerwall", Key::Pkcs8, 30);
        let mut members: Vec<_> = (0..3)
            .map(|number| Member::start(folder, number, 3, Some(&tls)))
            .collect();
        let mut root = Gateway {
            url: members[0].url.clone(),
            tls: Some(&tls),
            token: None,
        };
        root.lease(1);
        let range = |key: &str| {
            (
                encode(&format!("{key}/subnets/")),
                encode(&format!("{key}/subnets0")),
            )
        };
        let (key, end) = range(PREFIX);
        for (path, body) in [
            ("user/add", json!({"name": "root", "password": "r"})),
            ("user/grant", json!({"user": "root", "role": "root"})),
            ("role/add", json!({"name": "reader"})),
            (
                "role/grant",
                json!({"name": "reader", "perm": {"permType": "READ", "key": key, "range_end": end}}),
            ),
            ("user/add", json!({"name": "peerwall", "password": "p w"})),
            ("user/grant", json!({"user": "peerwall", "role": "reader"})),
            ("user/add", json!({"name": "nobody", "password": "n"})),
            ("enable", json!({})),
        ] {
            root.post(&format!("/v3/auth/{path}"), &body);
        }
        let authenticated = root.post(
            "/v3/auth/authenticate",
            &json!({"name": "root", "password": "r"}),
        );
        root.token = Some(authenticated["token"].as_str().unwrap().to_owned());
        fs::write(folder.join("password"), "p w\n").unwrap();
        fs::write(folder.join("n"), "n").unwrap();
        let urls: Vec<_> = members.iter().map(|member| member.url.clone()).collect();
        let source = |name: &str, user: &str, password: &str, issued: &Issued| {
            json!({"name": name, "kind": "flannel-etcd", "server": urls, "user": user,
                "password": folder.join(password), "ca": tls.ca,
                "certificate": issued.certificate, "key": issued.key})
        };
        let mut anonymous = source("anonymous", "x", "n", &tls.client);
        anonymous["user"] = Value::Null;
        anonymous["password"] = Value::Null;
        let sources = Sources::start(&[
            source("leases", "peerwall", "password", &tls.client),
            source("denied", "nobody", "n", &tls.client),
            source("refused", "peerwall", "n", &tls.client),
            source("named", "peerwall", "password", &named),
            anonymous,
        ]);
        sources.await_addresses("leases", &["10.1.0.1"]);
        for (name, kind, part) in [
            ("denied", "forbidden", "grant-permission"),
            ("refused", "unauthorized", "/n is not accepted"),
            ("named", "unauthorized", "certificate without a CN"),
            ("anonymous", "unauthorized", "set `user` and `password`"),
        ] {
            sources.await_status(name, "failing", kind);
            let message = sources.status(name)["error"]["message"].to_string();
            assert!(message.contains(part), "{name}: {message}");
            assert_eq!(sources.file(name), None, "{name}");
        }
        sources.configure(&[source("leases", "peerwall", "password", &tls.client)]);

        // The member that is asked dies: the next one goes on.
        members[0].kill();
        root.url = urls[1].clone();
        let authenticated = root.post(
            "/v3/auth/authenticate",
            &json!({"name": "root", "password": "r"}),
        );
        root.token = Some(authenticated["token"].as_str().unwrap().to_owned());
        root.lease(2);
        sources.await_addresses("leases", &["10.1.0.1", "10.1.0.2"]);
        sources.await_status("leases", "fresh", "");
        // No quorum.
        members[1].signal("STOP");
        sources.until("failing", || sources.status("leases")["state"] == "failing");
        assert_eq!(
            sources.addresses("leases").unwrap(),
            ["10.1.0.1", "10.1.0.2"]
        );
        members[1].signal("CONT");
        // The tokens of a member that started again are gone.
        members[0].restart();
        root.lease(3);
        sources.await_addresses("leases", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
        sources.await_status("leases", "fresh", "");
    });
}
