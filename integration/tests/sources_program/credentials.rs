//! TLS, tokens, kubeconfigs and service accounts.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use peerwall_integration::api_server::{ApiServer, ServerTls, node};
use peerwall_integration::certificates::{Authority, Key};
use peerwall_integration::ns::{sh, world};
use peerwall_integration::sources::Sources;
use serde_json::{Value, json};

fn server(tls: &ServerTls<'_>) -> ApiServer {
    let server = ApiServer::start("uid-1", Some(tls));
    server.put(node("a", &["10.0.0.1"], 0));
    server
}

fn source(name: &str, server: &ApiServer, ca: &Path) -> Value {
    json!({"name": name, "kind": "kubernetes", "server": [server.url()], "ca": ca})
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn the_servers_certificate_must_be_of_the_cluster() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (ours, other) = (
            Authority::new(folder, "ours"),
            Authority::new(folder, "other"),
        );
        let own = ours.issue("server", "/CN=kube-apiserver", Key::Pkcs1, 30);
        let server = server(&ServerTls {
            own: &own,
            clients: None,
        });
        let ca = folder.join("ca.crt");
        fs::copy(other.certificate(), &ca).unwrap();
        let mut by_name = source("name", &server, &ours.certificate());
        by_name["server"] = json!([server.url().replace("127.0.0.1", "localhost")]);
        let mut system = source("system", &server, &ca);
        system["ca"] = Value::Null;
        let sources = Sources::start(&[
            source("wrong", &server, &ca),
            source("good", &server, &ours.certificate()),
            source("missing", &server, &folder.join("none")),
            by_name,
        ]);
        sources.await_addresses("good", &["10.0.0.1"]);
        sources.await_status("wrong", "failing", "tls");
        let message = sources.status("wrong")["error"]["message"].to_string();
        assert!(message.contains(&ca.display().to_string()), "{message}");
        sources.await_status("missing", "failing", "credential");
        sources.await_status("name", "failing", "tls");
        let message = sources.status("name")["error"]["message"].to_string();
        assert!(message.contains("subjectAltName"), "{message}");
        // The rotated authority is read at once, without a restart.
        write(&ca, fs::read(ours.certificate()).unwrap());
        sources.await_addresses("wrong", &["10.0.0.1"]);
        sources.await_status("wrong", "fresh", "");
        write(&folder.join("none"), fs::read(ours.certificate()).unwrap());
        sources.await_addresses("missing", &["10.0.0.1"]);
    });
}

#[test]
fn a_client_certificate_has_a_key_of_any_format() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (ours, other) = (
            Authority::new(folder, "ours"),
            Authority::new(folder, "other"),
        );
        let own = ours.issue("server", "/CN=kube-apiserver", Key::Sec1, 30);
        let server = server(&ServerTls {
            own: &own,
            clients: Some(&ours),
        });
        let with = |name: &str, authority: &Authority, key: Key, days: i32| {
            let issued = authority.issue(name, "/CN=peerwall", key, days);
            let mut source = source(name, &server, &ours.certificate());
            source["certificate"] = json!(issued.certificate);
            source["key"] = json!(issued.key);
            source
        };
        let mut swapped = with("swapped", &ours, Key::Pkcs8, 30);
        swapped["key"] = json!(own.key);
        let sources = Sources::start(&[
            with("pkcs8", &ours, Key::Pkcs8, 30),
            with("sec1", &ours, Key::Sec1, 5),
            with("pkcs1", &ours, Key::Pkcs1, 30),
            with("foreign", &other, Key::Pkcs8, 30),
            with("expired", &ours, Key::Pkcs8, -1),
            swapped,
            source("none", &server, &ours.certificate()),
        ]);
        for name in ["pkcs8", "sec1", "pkcs1"] {
            sources.await_addresses(name, &["10.0.0.1"]);
        }
        for name in ["foreign", "expired", "none"] {
            sources.await_status(name, "failing", "unauthorized");
        }
        let message = sources.status("expired")["error"]["message"].to_string();
        assert!(
            message.contains("/expired.crt") && message.contains("renew"),
            "{message}"
        );
        sources.await_status("swapped", "failing", "credential");
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let days = |name: &str| {
            (sources.status(name)["credential_end"].as_u64().unwrap() - now).div_ceil(86_400)
        };
        assert_eq!((days("pkcs8"), days("sec1")), (30, 5));
        // Seven days ahead.
        let log = sources.log();
        assert!(
            ["4", "5"]
                .iter()
                .any(|days| log.contains(&format!("sec1: the credential expires in {days} days"))),
            "{log}"
        );
        assert!(!log.contains("pkcs8: the credential"), "{log}");
    });
}

#[test]
fn a_rotated_token_is_read_without_a_restart() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let ours = Authority::new(folder, "ours");
        let own = ours.issue("server", "/CN=kube-apiserver", Key::Pkcs8, 30);
        let server = server(&ServerTls {
            own: &own,
            clients: None,
        });
        server.state().tokens.insert("first".to_owned());
        let token = folder.join("token");
        fs::write(&token, "first\n").unwrap();
        let mut given = source("cluster", &server, &ours.certificate());
        given["token"] = json!("a-token");
        let sources = Sources::start_with(&[given], |command| {
            command.env("CREDENTIALS_DIRECTORY", folder);
        });
        sources.await_status("cluster", "failing", "credential");
        fs::copy(&token, folder.join("a-token")).unwrap();
        sources.await_addresses("cluster", &["10.0.0.1"]);
        let watches = server.state().watches;
        // The old one is not revoked: only the file shows that there is a new one.
        server.state().tokens.insert("second".to_owned());
        write(&folder.join("a-token"), "second");
        sources.until("another watch", || server.state().watches > watches);
        server.state().tokens.remove("first");
        server.put(node("b", &["10.0.0.2"], 0));
        sources.await_addresses("cluster", &["10.0.0.1", "10.0.0.2"]);
        server.state().tokens.clear();
        server.state().tokens.insert("third".to_owned());
        sources.await_status("cluster", "failing", "unauthorized");
        let message = sources.status("cluster")["error"]["message"].to_string();
        assert!(
            message.contains("the token in a-token is not accepted"),
            "{message}"
        );
        assert_eq!(sources.addresses("cluster").unwrap().len(), 2);
        write(&folder.join("a-token"), "third");
        sources.await_status("cluster", "fresh", "");
    });
}

#[test]
fn kubeconfigs_and_service_accounts_are_read() {
    world(|| {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let ours = Authority::new(folder, "ours");
        let own = ours.issue("server", "/CN=kube-apiserver", Key::Pkcs8, 30);
        let server = server(&ServerTls {
            own: &own,
            clients: None,
        });
        server.state().tokens.insert("abc".to_owned());
        fs::write(folder.join("token"), "abc").unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: ours.crt}}}}]\n\
             users: [{{name: u, user: {{tokenFile: token}}}}]\n",
            server.url()
        );
        fs::write(folder.join("good.conf"), &config).unwrap();
        let plugin = config.replace("tokenFile: token", "exec: {command: aws}");
        fs::write(folder.join("plugin.conf"), plugin).unwrap();
        // `/var/run` is a link to `/run`, which is the world's own.
        let account = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(account).unwrap();
        fs::copy(ours.certificate(), account.join("ca.crt")).unwrap();
        fs::copy(folder.join("token"), account.join("token")).unwrap();
        let with = |name: &str| {
            let file = folder.join(format!("{name}.conf"));
            json!({"name": name, "kind": "kubernetes", "kubeconfig": file})
        };
        let pod = json!({"name": "pod", "kind": "kubernetes", "in_cluster": true});
        let given = [with("good"), with("plugin"), pod];
        let sources = Sources::start_with(&given, |command| {
            command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
            command.env("KUBERNETES_SERVICE_PORT", server.port().to_string());
        });
        sources.await_addresses("good", &["10.0.0.1"]);
        sources.await_addresses("pod", &["10.0.0.1"]);
        sources.await_status("plugin", "failing", "credential");
        let message = sources.status("plugin")["error"]["message"].to_string();
        assert!(message.contains("`exec` is not supported"), "{message}");
        assert_eq!(sh("ls /run/secrets").trim(), "kubernetes.io");
    });
}
