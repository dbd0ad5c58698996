use std::collections::BTreeMap;

use super::*;

fn all() -> BTreeMap<String, String> {
    pages()
        .expect("pages are written to memory")
        .into_iter()
        .collect()
}

/// Headings of a page.
fn sections(page: &str) -> Vec<&str> {
    page.lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .map(|heading| heading.trim_matches('"'))
        .collect()
}

#[test]
fn every_command_has_a_page_with_examples_exit_status_and_see_also() {
    let pages = all();
    for command in cli::command()
        .get_subcommands()
        .filter(|each| !each.is_hide_set())
    {
        let name = format!("peerwall-{}.8", command.get_name());
        let found = sections(&pages[&name]);
        for wanted in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "EXIT STATUS",
            "SEE ALSO",
        ] {
            assert!(found.contains(&wanted), "{name} lacks {wanted}: {found:?}");
        }
    }
    let found = sections(&pages["peerwall.8"]);
    for wanted in [
        "SUBCOMMANDS",
        "EXAMPLES",
        "FILES",
        "ENVIRONMENT",
        "EXIT STATUS",
        "SEE ALSO",
    ] {
        assert!(
            found.contains(&wanted),
            "peerwall.8 lacks {wanted}: {found:?}"
        );
    }
}

#[test]
fn every_addition_belongs_to_a_page() {
    let pages = all();
    for name in PAGES
        .split("\n# ")
        .skip(1)
        .filter_map(|page| page.lines().next())
    {
        // A build without the feature lacks the command.
        if name == "top" && !cfg!(feature = "top") {
            continue;
        }
        let is_there = ["8", "5"].iter().any(|section| {
            pages.contains_key(&format!("{name}.{section}"))
                || pages.contains_key(&format!("peerwall-{name}.{section}"))
        });
        assert!(is_there, "{name}");
    }
}

#[test]
fn the_policy_page_has_every_heading_and_key_of_the_reference() {
    let page = &all()["peerwall.toml.5"];
    let text = page.replace("\\-", "-");
    for heading in POLICY.lines().filter_map(|line| line.strip_prefix("## ")) {
        let heading = heading.replace('`', "").to_uppercase();
        assert!(sections(page).contains(&heading.as_str()), "{heading}");
    }
    let keys = POLICY
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut tried = 0;
    for (key, _) in keys {
        assert!(text.contains(&format!("\\fB{key}")), "{key}");
        tried += 1;
    }
    assert!(tried > 30, "{tried} keys");
}

#[test]
fn see_also_names_pages_that_exist() {
    let pages = all();
    for (name, page) in &pages {
        for word in page.replace("\\-", "-").split("\\fBpeerwall").skip(1) {
            let Some((rest, section)) = word.split_once("\\fR(") else {
                continue;
            };
            if rest.contains(char::is_whitespace) {
                continue;
            }
            let file = format!("peerwall{rest}.{}", &section[..1]);
            assert!(pages.contains_key(&file), "{name} refers to {file}");
        }
    }
}

#[test]
fn text_that_looks_like_a_request_stays_text() {
    let page = markdown::roff("a\n\n.SH b 'c' -d \\e\n", markdown::Start::Heading).to_roff();
    assert_eq!(page, "a\n.PP\n\\&.SH b 'c' \\-d \\\\e\n");
    let mut wrapped = String::new();
    wrap(&format!("{} .so x", "w".repeat(LINE_MAX)), &mut wrapped);
    assert!(
        wrapped.lines().all(|line| !line.starts_with('.')),
        "{wrapped}"
    );
}

#[test]
fn a_table_becomes_terms_with_labels() {
    let text = "\
| key | meaning | default |
|---|---|---|
| `port` | of the *tunnel* | 8472 |
| `ping` | sources | |
| `name` | a name | required |
";
    let roff = markdown::roff(text, markdown::Start::Heading).to_roff();
    let terms: Vec<&str> = roff.split(".TP\n").skip(1).collect();
    assert_eq!(
        terms,
        [
            "\\fBport\\fR\nof the \\fItunnel\\fR [default: 8472]\n",
            "\\fBping\\fR\nsources\n",
            "\\fBname\\fR\na name [required]\n",
        ]
    );
}

#[test]
fn pages_are_ascii() {
    assert_eq!(ascii("a \u{2026}"), "a \\[u2026]");
    for (name, page) in all() {
        assert!(page.is_ascii(), "{name}");
    }
}

#[test]
fn text_is_wrapped_at_spaces() {
    let mut wrapped = String::new();
    wrap(&"word ".repeat(50), &mut wrapped);
    assert!(
        wrapped.lines().all(|line| line.len() <= LINE_MAX),
        "{wrapped}"
    );
    assert_eq!(wrapped.split_whitespace().count(), 50);
}
