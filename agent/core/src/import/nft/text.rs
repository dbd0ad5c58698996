//! Text of statements and expressions, for reports. It resembles nft's own; nothing parses it.

use serde_json::Value;

/// Returns the text of a statement.
pub(super) fn statement(value: &Value) -> String {
    let Some((name, body)) = single(value) else {
        // nft writes what it has no JSON for as it lists it, on several lines.
        let words: Vec<&str> = value
            .as_str()
            .into_iter()
            .flat_map(str::split_whitespace)
            .collect();
        return match words.is_empty() {
            true => value.to_string(),
            false => words.join(" "),
        };
    };
    match name {
        "match" => relation(body),
        "limit" | "quota" | "ct count" => format!("{name} {}", rate(name, body)),
        "set" => format!(
            "{} {} {{ {}{} }}",
            plain(&body["op"]),
            plain(&body["set"]),
            expression(&body["elem"]),
            nested(&body["stmt"])
        ),
        "meter" => format!(
            "meter {} {{ {}{} }}",
            plain(&body["name"]),
            expression(&body["key"]),
            nested(&body["stmt"])
        ),
        "mangle" => format!(
            "{} set {}",
            expression(&body["key"]),
            expression(&body["value"])
        ),
        _ if body.is_null() => name.to_owned(),
        _ => format!("{name} {}", expression(body)),
    }
}

fn nested(statements: &Value) -> String {
    let one = |body: &Value| format!(" {}", statement(body));
    match (statements.as_array(), statements.is_null()) {
        (Some(all), _) => all.iter().map(one).collect(),
        (None, true) => String::new(),
        (None, false) => one(statements),
    }
}

fn relation(body: &Value) -> String {
    let (left, right) = (expression(&body["left"]), expression(&body["right"]));
    match plain(&body["op"]).as_str() {
        "==" | "in" => format!("{left} {right}"),
        op => format!("{left} {op} {right}"),
    }
}

fn rate(name: &str, body: &Value) -> String {
    if let Some(object) = body.as_str() {
        return format!("name {object}");
    }
    let over = if body["inv"] == true { "over " } else { "" };
    match name {
        "limit" => {
            let unit = body["rate_unit"].as_str().map(|unit| format!(" {unit}"));
            let unit = unit.unwrap_or_default();
            let (count, per) = (plain(&body["rate"]), plain(&body["per"]));
            format!("rate {over}{count}{unit}/{per}")
        }
        "quota" => format!("{over}{} {}", plain(&body["val"]), plain(&body["val_unit"])),
        _ => format!("{over}{}", plain(&body["val"])),
    }
}

/// Returns the text of an expression.
pub(super) fn expression(value: &Value) -> String {
    let Some((name, body)) = single(value) else {
        let list = value.as_array().map(|all| joined(all, ","));
        return list.unwrap_or_else(|| plain(value));
    };
    let part = |key: &str| plain(&body[key]);
    let list = body.as_array().map_or(&[][..], Vec::as_slice);
    match name {
        "payload" if body["field"].is_string() => format!("{} {}", part("protocol"), part("field")),
        "meta" => format!("meta {}", part("key")),
        "ct" if body["dir"].is_string() => format!("ct {} {}", part("dir"), part("key")),
        "ct" => format!("ct {}", part("key")),
        "fib" => {
            let flags = body["flags"].as_array().map(|all| joined(all, " . "));
            let flags = flags.unwrap_or_else(|| part("flags"));
            format!("fib {flags} {}", part("result"))
        }
        "prefix" => format!("{}/{}", expression(&body["addr"]), part("len")),
        "range" => joined(list, "-"),
        "concat" => joined(list, " . "),
        "set" => format!("{{ {} }}", joined(list, ", ")),
        "&" | "|" | "^" | "<<" | ">>" => joined(list, &format!(" {name} ")),
        "elem" => expression(&body["val"]),
        "map" => format!("{} map", expression(&body["key"])),
        _ => format!("{name} {}", words(body)),
    }
}

fn joined(all: &[Value], separator: &str) -> String {
    let texts: Vec<String> = all.iter().map(expression).collect();
    texts.join(separator)
}

/// Returns the keys and values of an object, in order.
fn words(body: &Value) -> String {
    let Some(fields) = body.as_object() else {
        return expression(body);
    };
    let texts: Vec<String> = fields
        .iter()
        .map(|(key, value)| match value.is_null() {
            true => key.clone(),
            false => format!("{key} {}", expression(value)),
        })
        .collect();
    texts.join(" ")
}

fn plain(value: &Value) -> String {
    if let Some(exists) = value.as_bool() {
        return if exists { "exists" } else { "missing" }.to_owned();
    }
    let text = value.as_str().map(str::to_owned);
    text.unwrap_or_else(|| value.to_string())
}

/// Returns the only key of an object and its value.
pub(super) fn single(value: &Value) -> Option<(&str, &Value)> {
    let fields = value.as_object()?;
    let mut fields = fields.iter();
    match (fields.next(), fields.next()) {
        (Some((key, value)), None) => Some((key, value)),
        _ => None,
    }
}
