//! The schema of the policy says what the loader does, as far as keys, types and choices go.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "policies are in files, and a test that fails should say so; what is tested is pure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use peerwall_core::diagnostic::{Code, JsonDiagnostic, Severity};
use peerwall_core::policy::load::{NoFiles, load};
use peerwall_core::policy::schema::schema;
use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

/// What an editor underlines as well as the loader.
const SEEN_BY_EDITORS: [Code; 6] = [
    Code::InvalidChoice,
    Code::MissingKey,
    Code::OutOfRange,
    Code::UnknownKey,
    Code::UnknownVersion,
    Code::WrongType,
];

fn validator() -> Validator {
    jsonschema::validator_for(schema().as_value()).unwrap()
}

fn errors(text: &str) -> Vec<JsonDiagnostic> {
    let loaded = load("policy.toml", text, &NoFiles);
    let errors = loaded.diagnostics.iter();
    let errors = errors.filter(|found| found.severity == Severity::Error);
    errors.map(|found| loaded.sources.json(found)).collect()
}

/// TOML as JSON; `None` if it is not TOML.
fn from_toml(text: &str) -> Option<Value> {
    let table = DeTable::parse(text).ok()?;
    Some(table_value(table.get_ref()))
}

fn table_value(table: &DeTable<'_>) -> Value {
    let entries = table.iter();
    let entries = entries.map(|(key, item)| (key.get_ref().to_string(), value(item.get_ref())));
    Value::Object(entries.collect::<Map<String, Value>>())
}

fn value(of: &DeValue<'_>) -> Value {
    match of {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            number.map_or(json!(1e300), |number| json!(number))
        }
        DeValue::Float(number) => json!(number.as_str().parse::<f64>().unwrap_or(0.5)),
        DeValue::Boolean(on) => json!(on),
        DeValue::Datetime(_) => json!({"a date": 1}),
        DeValue::Array(list) => list.iter().map(|item| value(item.get_ref())).collect(),
        DeValue::Table(table) => table_value(table),
    }
}

/// JSON as TOML, each entry of the top in a line.
fn to_toml(policy: &Value) -> String {
    let entries = policy.as_object().unwrap().iter();
    entries
        .map(|(key, value)| format!("{} = {}\n", json!(key), inline(value)))
        .collect()
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            let entries = table.iter();
            let entries = entries.map(|(key, value)| format!("{} = {}", json!(key), inline(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every policy of the repository that is meant to be valid.
fn valid_policies() -> Vec<(String, String)> {
    let mut paths = vec![root().join("policy.toml")];
    for folder in ["integration/cases", "integration/fixtures/import"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let policies = entries.map(|entry| entry.unwrap().path().join("policy.toml"));
        paths.extend(policies.filter(|path| path.exists()));
    }
    let read = |path: PathBuf| {
        (
            path.display().to_string(),
            fs::read_to_string(&path).unwrap(),
        )
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_valid_policy_is_valid_by_the_schema() {
    let validator = validator();
    let policies = valid_policies();
    assert!(policies.len() > 40, "{}", policies.len());
    for (name, text) in policies {
        let policy = from_toml(&text).unwrap();
        let wrong: Vec<String> = validator
            .iter_errors(&policy)
            .map(|err| format!("{}: {err}", err.instance_path()))
            .collect();
        assert_eq!(wrong, Vec::<String>::new(), "{name}");
    }
}

/// Sections with a key that none has, and where the schema has their keys.
const SECTIONS: [(&str, &str); 11] = [
    ("zzzzzzzzzzzzzzzz = 1", "/properties"),
    (
        "overlay.x = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/OverlayTable/properties",
    ),
    (
        "allow = [{name = 'x', zzzzzzzzzzzzzzzz = 1}]",
        "/definitions/AllowTable/properties",
    ),
    (
        "interfaces = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/Interfaces/properties",
    ),
    (
        "icmp = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/IcmpTable/properties",
    ),
    (
        "options = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/OptionsTable/properties",
    ),
    (
        "log = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/LogTable/properties",
    ),
    (
        "log.denied = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/DeniedTable/properties",
    ),
    (
        "expect = [{zzzzzzzzzzzzzzzz = 1}]",
        "/definitions/ExpectTable/properties",
    ),
    (
        "peers_from.x = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/SourceTable/properties",
    ),
    (
        "groups.x = {zzzzzzzzzzzzzzzz = 1}",
        "/definitions/GroupTable/properties",
    ),
];

#[test]
fn the_schema_has_the_keys_of_the_loader_and_no_others() {
    let schema = schema().to_value();
    let mut described = BTreeSet::new();
    for (text, pointer) in SECTIONS {
        let found = errors(&format!("version = 1\n{text}\n"));
        let known = found.iter().find(|found| found.code == Code::UnknownKey);
        let help = known.and_then(|found| found.help.clone()).unwrap();
        let (_, listed) = help.split_once(": ").unwrap();
        let listed: BTreeSet<&str> = listed.split(", ").collect();
        let keys = schema.pointer(pointer).and_then(Value::as_object).unwrap();
        let keys: BTreeSet<&str> = keys.keys().map(String::as_str).collect();
        assert_eq!(keys, listed, "{text}");
        described.insert(pointer);
    }
    // No table is left out.
    let definitions = schema["definitions"].as_object().unwrap();
    let tables = definitions
        .iter()
        .filter(|(_, each)| each["properties"].is_object());
    let tables: Vec<String> = tables
        .map(|(name, _)| format!("/definitions/{name}/properties"))
        .collect();
    assert!(
        tables.iter().all(|each| described.contains(each.as_str())),
        "{tables:?}"
    );
}

#[test]
fn the_schema_has_the_choices_of_the_loader() {
    let schema = schema().to_value();
    for (text, pointer) in [
        (
            "overlay.x = {subnets = '10.0.0.0/8', backend = 'zzzzzzzzzzz'}",
            "OverlayTable/properties/backend",
        ),
        (
            "options.backend = 'zzzzzzzzzzz'",
            "OptionsTable/properties/backend",
        ),
        (
            "options.denied = 'zzzzzzzzzzz'",
            "OptionsTable/properties/denied",
        ),
        (
            "options.invalid = 'zzzzzzzzzzz'",
            "OptionsTable/properties/invalid",
        ),
        (
            "options.revoke = 'zzzzzzzzzzz'",
            "OptionsTable/properties/revoke",
        ),
        (
            "expect = [{from = '192.0.2.1', verdict = 'drop', hook = 'zzzzzzzzzzz'}]",
            "ExpectTable/properties/hook",
        ),
        (
            "expect = [{from = '192.0.2.1', verdict = 'zzzzzzzzzzz'}]",
            "ExpectTable/properties/verdict",
        ),
    ] {
        let found = errors(&format!("version = 1\n{text}\n"));
        let choice = found.iter().find(|found| found.code == Code::InvalidChoice);
        let help = choice.and_then(|found| found.help.clone()).unwrap();
        let listed: Vec<&str> = help.split('"').skip(1).step_by(2).collect();
        let choices = schema.pointer(&format!("/definitions/{pointer}/enum"));
        assert_eq!(choices, Some(&json!(listed)), "{text}");
    }
}

/// Both agree about a text: what only the loader can judge, it alone refuses.
fn compare(validator: &Validator, name: &str, text: &str) -> bool {
    let Some(policy) = from_toml(text) else {
        return false;
    };
    let errors = errors(text);
    let is_valid = validator.is_valid(&policy);
    assert!(
        is_valid || !errors.is_empty(),
        "{name}: only the schema refuses it:\n{text}"
    );
    let seen = errors
        .iter()
        .find(|err| SEEN_BY_EDITORS.contains(&err.code));
    if let Some(err) = seen {
        assert!(!is_valid, "{name}: the schema accepts it: {err}\n{text}");
    }
    seen.is_some()
}

#[test]
fn malformed_policies_are_refused_by_the_schema_where_keys_and_types_are_wrong() {
    let validator = validator();
    let mut refused = 0;
    for entry in fs::read_dir(root().join("agent/core/tests/malformed")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ext| ext == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            refused += usize::from(compare(&validator, &path.display().to_string(), &text));
        }
    }
    assert!(refused > 30, "{refused}");
}

/// Pointers to every value.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, format!("{at}/{key}"), found);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                places(value, format!("{at}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found.push(at);
}

#[test]
fn policies_with_a_wrong_type_or_key_anywhere_are_refused_by_both_or_by_none() {
    let validator = validator();
    let (mut tried, mut refused) = (0, 0);
    // Imported policies have the same few keys over and over.
    let policies = valid_policies();
    let various = policies
        .iter()
        .filter(|(name, _)| !name.contains("/import/"));
    for (name, text) in various {
        let policy = from_toml(text).unwrap();
        let mut all = Vec::new();
        places(&policy, String::new(), &mut all);
        // Long lists are the same thing many times.
        all.retain(|place| {
            place
                .rsplit('/')
                .next()
                .is_none_or(|last| last.len() != 1 || last < "3")
        });
        for place in all {
            for other in [
                json!(70_000),
                json!(1.5),
                json!(true),
                json!([]),
                json!({}),
                json!([1]),
                json!("zz"),
            ] {
                let mut changed = policy.clone();
                let Some(value) = changed.pointer_mut(&place).filter(|_| !place.is_empty()) else {
                    continue;
                };
                *value = other;
                tried += 1;
                refused += usize::from(compare(&validator, name, &to_toml(&changed)));
            }
            let mut changed = policy.clone();
            if let Some(Value::Object(table)) = changed.pointer_mut(&place) {
                table.insert("zz".to_owned(), json!(1));
                tried += 1;
                refused += usize::from(compare(&validator, name, &to_toml(&changed)));
            }
        }
    }
    assert!(tried > 1000 && refused > tried / 3, "{refused} of {tried}");
}
