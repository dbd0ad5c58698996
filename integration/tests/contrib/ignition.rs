//! The Butane configuration, and the Ignition configuration that Butane makes of it.

use std::env;
use std::fs;

use serde_json::{Value, json};
use yaml_rust2::Yaml;

use peerwall_integration::machine::Seed;

use super::{CONTRIB, check_policy, check_protected, read, yaml};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/systemd");
const CONFIG: &str = "ignition/peerwall.ign";

/// The contents of a file, in Butane.
enum Contents {
    Download { url: String, hash: String },
    Text(String),
}

struct File {
    path: String,
    /// As written: octal.
    mode: i64,
    contents: Contents,
}

fn text(yaml: &Yaml) -> String {
    yaml.as_str().expect("it is text").to_owned()
}

fn file(file: &Yaml) -> File {
    let contents = &file["contents"];
    let contents = match (&contents["inline"], &contents["local"], &contents["source"]) {
        (inline, Yaml::BadValue, Yaml::BadValue) => Contents::Text(text(inline)),
        (Yaml::BadValue, local, Yaml::BadValue) => {
            let path = format!("{UNITS}/{}", text(local));
            Contents::Text(fs::read_to_string(path).expect("it is a unit"))
        }
        (Yaml::BadValue, Yaml::BadValue, source) => Contents::Download {
            url: text(source),
            hash: text(&contents["verification"]["hash"]),
        },
        _ => panic!("{contents:?}"),
    };
    File {
        path: text(&file["path"]),
        // YAML 1.2 reads 0755 as a decimal number, and Butane as an octal one.
        mode: file["mode"].as_i64().expect("a number"),
        contents,
    }
}

fn butane() -> (Vec<File>, Vec<String>) {
    let config = yaml(&read("ignition/peerwall.bu"));
    assert_eq!(config["variant"].as_str(), Some("fcos"));
    assert_eq!(config["version"].as_str(), Some("1.4.0"));
    let files = config["storage"]["files"].as_vec().expect("files");
    let units = config["systemd"]["units"].as_vec().expect("units");
    let enabled = |unit: &Yaml| {
        assert_eq!(unit["enabled"].as_bool(), Some(true));
        text(&unit["name"])
    };
    (
        files.iter().map(file).collect(),
        units.iter().map(enabled).collect(),
    )
}

/// A `data:` URL (RFC 2397).
fn data_url(text: &str) -> String {
    let mut url = "data:,".to_owned();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                url.push(char::from(byte));
            }
            _ => url += &format!("%{byte:02X}"),
        }
    }
    url
}

fn ignition(files: &[File], units: &[String]) -> Value {
    let file = |file: &File| {
        let contents = match &file.contents {
            Contents::Text(text) => json!({ "compression": "", "source": data_url(text) }),
            Contents::Download { url, hash } => {
                json!({ "source": url, "verification": { "hash": hash } })
            }
        };
        let mode = i64::from_str_radix(&file.mode.to_string(), 8).expect("octal digits");
        json!({ "path": file.path, "contents": contents, "mode": mode })
    };
    let unit = |name: &String| json!({ "enabled": true, "name": name });
    json!({
        // Version 1.4.0 of Butane's `fcos` is version 3.3.0 of Ignition.
        "ignition": { "version": "3.3.0" },
        "storage": { "files": files.iter().map(file).collect::<Vec<_>>() },
        "systemd": { "units": units.iter().map(unit).collect::<Vec<_>>() },
    })
}

#[test]
fn the_ignition_config_is_the_translation_of_the_butane_config() {
    let (files, units) = butane();
    let want = ignition(&files, &units);
    if env::var_os("PEERWALL_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&want).expect("it is JSON") + "\n";
        fs::write(format!("{CONTRIB}/{CONFIG}"), text).expect("it can be written");
    }
    let have: Value = serde_json::from_str(&read(CONFIG)).expect("it is JSON");
    // Not assert_eq!, which would print both units as URLs.
    assert!(
        have == want,
        "contrib/{CONFIG} differs from its Butane file or agent/systemd: PEERWALL_BLESS=1 writes it"
    );
}

#[test]
fn the_ignition_config_protects_a_host_from_its_first_boot() {
    let (files, units) = butane();
    let seed = Seed::with_sources();
    let mut first = "set -e\n".to_owned();
    for file in &files {
        match &file.contents {
            Contents::Text(text) => {
                if file.path.ends_with(".toml") {
                    check_policy(&file.path, text);
                }
                seed.write(file.path.trim_start_matches('/'), text);
                first += &format!("chmod {:04} {}\n", file.mode, file.path);
            }
            // The machine has no network: the program is that of the sources.
            Contents::Download { .. } => {
                first += &format!(
                    "install -D -m {:04} /usr/local/src/peerwall/peerwall {}\n",
                    file.mode, file.path
                );
            }
        }
    }
    for unit in &units {
        first += &format!("SYSTEMD_OFFLINE=1 systemctl enable {unit}\n");
    }
    let machine = seed.boot(&first);
    check_protected(&machine, "129.21.49.49");
    machine.sh("systemctl is-active peerwall-boot");
}
