//! What is exposed as one page of HTML that needs no network.

use super::svg::{MARK, escaped, svg};
use super::text::Row;
use super::{Exposure, Reach};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("script.js");
/// SHA-256 of the script: the page's policy lets no other one run.
const SCRIPT_HASH: &str = "sha256-CRY2niEHZCX7yH21roC+Guqfcm0amIq1txTeddDjdMk=";

/// Writes the page.
pub fn html(exposure: &Exposure) -> String {
    let mut text = format!(
        "<!DOCTYPE html>\n{MARK}\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src '{SCRIPT_HASH}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>What others reach on this host</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<h1>What others reach on this host</h1>\n<p>By the policy {}.</p>\n",
        escaped(&exposure.policy)
    );
    text.push_str(&svg(exposure));
    text.push_str("<h2>Every port is open to</h2>\n");
    let every = exposure.every_port.iter().map(|each| each.message.clone());
    text.push_str(&list(every, "nobody"));
    text.push_str(
        "<h2>Programs and published ports</h2>\n\
         <p id=\"find\" hidden><label for=\"search\">Search (press /)</label>\n\
         <input id=\"search\" type=\"search\"> <span id=\"count\" role=\"status\"></span></p>\n\
         <table>\n<thead><tr><th scope=\"col\">Port</th><th scope=\"col\">Program</th>\
         <th scope=\"col\">State</th><th scope=\"col\">Who else reaches it</th></tr></thead>\n\
         <tbody>\n",
    );
    text.extend(exposure.rows().iter().map(row));
    text.push_str("</tbody>\n</table>\n<h2>Open in the policy, nobody listens</h2>\n");
    let unused = exposure.unused.iter();
    let unused = unused.map(|each| format!("{} ([[allow]] {})", each.port, each.allow));
    text.push_str(&list(unused, "none"));
    if !exposure.not_examined.is_empty() {
        text.push_str("<h2>Not examined</h2>\n");
        text.push_str(&list(exposure.not_examined.iter().cloned(), ""));
    }
    text.push_str(&format!("<script>{SCRIPT}</script>\n</body>\n</html>\n"));
    text
}

fn row(row: &Row<'_>) -> String {
    let class = match row.state {
        Reach::Reached => "reached",
        Reach::Dropped => "dropped",
        Reach::Closed => "closed",
    };
    let from = row.from.iter().map(|each| each.message.clone());
    format!(
        "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"{class}\">{}</td><td>{}</td></tr>\n",
        escaped(&row.port),
        escaped(&row.what),
        escaped(&row.words),
        list(from, "nobody"),
    )
}

fn list(items: impl Iterator<Item = String>, none: &str) -> String {
    let items: String = items
        .map(|item| format!("<li>{}</li>", escaped(&item)))
        .collect();
    match items.is_empty() {
        true => format!("<p>{none}</p>\n"),
        false => format!("<ul>{items}</ul>\n"),
    }
}
